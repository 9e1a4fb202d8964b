//! Slow receivers: what waits, what does not, and how waiting ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use raft::{Configuration, Inbox, Message, Server, Transport as _, TransportError};
use raft_tcp::{TcpOptions, TcpTransport};
use tokio::{
    net::TcpStream,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::common::*;

/// Never gives up on a silent peer.
fn patient() -> TcpOptions {
    let idle_timeout = Duration::from_secs(3600);
    options().with(|it| {
        it.idle_timeout = idle_timeout;
        it.queue_bytes = 1 << 20;
    })
}

/// More than the queue and all buffers of the system hold.
const STUFFING: usize = 200;
const MIB: usize = 1 << 20;

struct Stuffed {
    a: Node,
    b: RawServer,
    urgent: TcpStream,
    entries: TcpStream,
    sender: JoinHandle<Result<(), TransportError>>,
}

/// A node with a peer that does not read its entries, and a sender that waits for room.
async fn stuffed() -> Stuffed {
    let (a, b) = (node_with("a", patient()).await, RawServer::listen("b").await);
    let done = Arc::new(AtomicUsize::new(0));
    let (transport, to, counter) = (Arc::clone(&a.transport), b.server.clone(), Arc::clone(&done));
    let sender = tokio::spawn(async move {
        for round in 0..STUFFING {
            transport.send_entries(&to, append(round as u64, MIB)).await?;
            counter.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    });
    let (urgent, entries) = b.accept_both().await;
    soon("the lane is stuffed", async {
        let mut last = usize::MAX;
        while last != done.load(Ordering::Relaxed) {
            last = done.load(Ordering::Relaxed);
            sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    assert!(!sender.is_finished(), "the sender waits");
    Stuffed { a, b, urgent, entries, sender }
}

#[tokio::test]
async fn urgent_messages_do_not_wait_behind_stuffed_entries() {
    let mut s = stuffed().await;
    for round in 1..100 {
        s.a.transport.send(&s.b.server, heartbeat(round)).unwrap();
        let (_, payload) = raw_read_message(&mut s.urgent).await;
        assert_eq!(payload, [2, 1, round as u8, 0, 0]);
    }
    assert!(!s.sender.is_finished());
    // Reading frees the sender.
    for _ in 0..STUFFING {
        let (kind, payload) = raw_read_message(&mut s.entries).await;
        assert_eq!((kind, payload.len()), (2, 52 + 13 + MIB));
    }
    soon("the sender is done", s.sender).await.unwrap().unwrap();
}

#[tokio::test]
async fn close_ends_waiting_sends() {
    let s = stuffed().await;
    soon("close", s.a.transport.close()).await;
    let error = soon("the sender ends", s.sender).await.unwrap().unwrap_err();
    assert!(matches!(error, TransportError::Closed), "{error}");
}

#[tokio::test]
async fn forget_ends_waiting_sends() {
    let s = stuffed().await;
    s.a.transport.forget(&s.b.server.id);
    let error = soon("the sender ends", s.sender).await.unwrap().unwrap_err();
    assert!(matches!(error, TransportError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn losing_the_peer_ends_waiting_sends() {
    let s = stuffed().await;
    drop((s.entries, s.urgent, s.b));
    let error = soon("the sender ends", s.sender).await.unwrap().unwrap_err();
    assert!(matches!(error, TransportError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_new_address_ends_waiting_sends_to_the_old() {
    let s = stuffed().await;
    let mut new = node("b").await;
    talk(&s.a, &mut new).await;
    let error = soon("the sender ends", s.sender).await.unwrap().unwrap_err();
    assert!(matches!(error, TransportError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_dropped_send_leaves_nothing_behind() {
    let mut s = stuffed().await;
    let cancelled = s.a.transport.send_entries(&s.b.server, append(1_000_000, MIB));
    assert!(timeout(Duration::from_millis(20), cancelled).await.is_err());
    for expected in 0..STUFFING as u64 {
        let (_, payload) = raw_read_message(&mut s.entries).await;
        assert_eq!(payload[8..16], expected.to_le_bytes());
    }
    s.a.transport.send_entries(&s.b.server, append(7, 1)).await.unwrap();
    let (_, payload) = raw_read_message(&mut s.entries).await;
    assert_eq!(payload[8..16], 7u64.to_le_bytes());
}

#[tokio::test]
async fn a_full_urgent_lane_says_so_and_does_not_wait() {
    let a = node_with("a", patient().with(|it| it.urgent_queue = 3)).await;
    let b = RawServer::listen("b").await;
    // Nothing leaves before the handshake is answered.
    for round in 0..3 {
        a.transport.send(&b.server, heartbeat(round)).unwrap();
    }
    let error = a.transport.send(&b.server, heartbeat(3)).unwrap_err();
    assert!(matches!(error, TransportError::Full), "{error}");
    let (mut urgent, _entries) = b.accept_both().await;
    for round in 0..3 {
        assert_eq!(raw_read_message(&mut urgent).await.1, [2, 1, round, 0, 0]);
    }
}

/// A server that writes a snapshot to a slow disk reads one piece at a time; its leader must stay
/// its leader meanwhile. The bound is far below any election timeout, and far below what the pieces
/// take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_do_not_wait_behind_pieces_of_a_snapshot() {
    const PIECES: u64 = 60;
    const PER_PIECE: Duration = Duration::from_millis(50);
    const LIMIT: Duration = Duration::from_millis(500);
    let a = node_with("a", options()).await;
    let transport = TcpTransport::bind(options()).await.unwrap();
    let (inbox, mut received) = Inbox::new(16);
    transport.start(raft::Identity::new("b"), inbox).await.unwrap();
    let b = Server::voter("b", transport.local_address());

    let (sending, to) = (Arc::clone(&a.transport), b.clone());
    let pieces = tokio::spawn(async move {
        for number in 0..PIECES {
            sending.send_entries(&to, piece(number, MIB)).await.unwrap();
        }
    });
    let began = Instant::now();
    let (beating, to) = (Arc::clone(&a.transport), b.clone());
    let beats = tokio::spawn(async move {
        loop {
            // A heartbeat says when it was sent.
            beating.send(&to, heartbeat(began.elapsed().as_micros() as u64)).unwrap();
            sleep(Duration::from_millis(10)).await;
        }
    });
    let (mut next, mut heard) = (0, Vec::new());
    while next < PIECES {
        let envelope = soon("a message", received.recv()).await.unwrap();
        let number = round(&envelope.message);
        match envelope.message {
            Message::Heartbeat(_) => heard.push(began.elapsed() - Duration::from_micros(number)),
            Message::InstallSnapshot(request) => {
                assert_eq!((number, request.data.len()), (next, MIB), "in order, and whole");
                next += 1;
                sleep(PER_PIECE).await;
            }
            other => panic!("unexpected {other}"),
        }
    }
    beats.abort();
    pieces.await.unwrap();
    let all = began.elapsed();
    assert!(PER_PIECE * PIECES as u32 <= all);
    // The first ones wait for the connection.
    let late = heard[1..].iter().max().unwrap();
    println!(
        "{} heartbeats beside {PIECES} MiB in {all:?}, the latest after {late:?}",
        heard.len()
    );
    assert!(10 < heard.len() && *late < LIMIT, "a heartbeat was {late:?} late");
}

/// The largest piece that the settings let pass, with a configuration far larger than usual.
#[tokio::test]
async fn the_largest_piece_passes_beside_any_configuration() {
    let small = || options().with(|it| it.max_frame_bytes = 64 << 10);
    let (a, mut b) = (node_with("a", small()).await, node_with("b", small()).await);
    let most = a.transport.max_entries_bytes() as usize;
    let servers = (0..4000).map(|i| Server::voter(format!("server-{i}"), format!("{i:0>200}:1")));
    let mut message = piece(1, most);
    let Message::InstallSnapshot(request) = &mut message else { panic!("{message}") };
    request.configuration.configuration = Configuration::new(servers);
    a.transport.send_entries(&b.server, message.clone()).await.unwrap();
    a.transport.send_entries(&b.server, piece(2, most)).await.unwrap();
    for expected in [message, piece(2, most)] {
        let envelope = soon("the piece", b.inbox.recv()).await.unwrap();
        assert!(envelope.message == expected, "{}", envelope.message);
    }
    let error = a.transport.send_entries(&b.server, piece(3, most + 1)).await.unwrap_err();
    assert!(matches!(error, TransportError::Refused { .. }), "{error}");
}

/// A server that takes no messages pushes back, and is not taken for dead.
#[tokio::test]
async fn a_saturated_receiver_pushes_back_and_stays_connected() {
    let idle_timeout = Duration::from_secs(1);
    let quick = || patient().with(|it| it.idle_timeout = idle_timeout);
    let a = node_with("a", patient().with(|it| it.idle_timeout = idle_timeout)).await;
    let b = TcpTransport::bind(quick()).await.unwrap();
    let (inbox, mut receiver) = Inbox::new(1);
    b.start(raft::Identity::new("b"), inbox).await.unwrap();
    let to = Server::voter("b", b.local_address());
    let transport = Arc::clone(&a.transport);
    let sender = tokio::spawn(async move {
        for round in 0..STUFFING {
            transport.send_entries(&to, append(round as u64, MIB)).await?;
        }
        Ok::<_, TransportError>(())
    });
    // Time itself is what is tested: twice the limit.
    sleep(2 * idle_timeout).await;
    assert!(!sender.is_finished());
    for expected in 0..STUFFING as u64 {
        let envelope = soon("a message", receiver.recv()).await.unwrap();
        assert_eq!(round(&envelope.message), expected);
    }
    soon("the sender is done", sender).await.unwrap().unwrap();
}
