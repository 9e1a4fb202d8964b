//! Peers that go, come back, or never were there.

use std::time::Duration;

use raft::{Server, Transport as _, TransportError};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpListener,
    time::{Instant, timeout},
};

use crate::common::*;

#[tokio::test]
async fn a_restarted_peer_is_reached_again_on_the_same_port() {
    let (a, mut b) = (node("a").await, node("b").await);
    for _ in 0..3 {
        talk(&a, &mut b).await;
        let bind = b.server.address.to_string();
        soon("close", b.transport.close()).await;
        until_unreachable(&a, &b.server).await;
        b = node_with("b", options().with(|it| it.bind = bind)).await;
    }
    talk(&a, &mut b).await;
    assert_eq!(a.transport.trouble(&b.server.id), None);
    talk(&b, &mut node_with("a2", options()).await).await;
}

#[tokio::test]
async fn an_unreachable_peer_is_named_and_nothing_waits_for_it() {
    let a = node("a").await;
    // Bound, so that nobody else gets the port, but not listening.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let b = Server::voter("b", socket.local_addr().unwrap().to_string());
    let reason = until_unreachable(&a, &b).await;
    assert!(reason.contains("cannot be dialled"), "{reason}");
    for _ in 0..10 {
        let sent = a.transport.send_entries(&b, append(1, 1000));
        let error = soon("send_entries ends", sent).await.unwrap_err();
        assert!(matches!(error, TransportError::Unreachable { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_refused_dialler_learns_why() {
    let (a, b) = (node("a").await, node("b").await);
    let wrong = Server::voter("c", b.server.address.clone());
    let reason = until_unreachable(&a, &wrong).await;
    assert_eq!(reason, "refused: the dialler means server \"c\", but this is \"b\"");
    let foreign = options().with(|it| it.cluster_id = "prod".to_owned());
    let foreign = node_with("x", foreign).await;
    let reason = until_unreachable(&foreign, &b.server).await;
    assert!(reason.starts_with("refused: the dialler is of cluster \"prod\""), "{reason}");
    assert_eq!(foreign.transport.trouble(&b.server.id).as_deref(), Some(reason.as_str()));
    assert_eq!(foreign.transport.trouble(&"nobody".into()), None);
}

/// A peer that accepts connections but says nothing: stopped, or its network swallows everything.
#[tokio::test]
async fn a_peer_that_falls_silent_is_unreachable() {
    let idle_timeout = Duration::from_millis(200);
    let handshake_timeout = Duration::from_millis(200);
    let a = node_with(
        "a",
        options().with(|it| {
            it.idle_timeout = idle_timeout;
            it.handshake_timeout = handshake_timeout;
        }),
    )
    .await;
    let b = RawServer::listen("b").await;
    let _ = a.transport.send(&b.server, heartbeat(1));
    let _connections = b.accept_both().await;
    until("the peer is unreachable", || a.transport.send(&b.server, heartbeat(1)).is_err()).await;
    // From here on not even the handshake is answered.
    until("the handshake times out", || match a.transport.send(&b.server, heartbeat(1)) {
        Err(TransportError::Unreachable { reason, .. }) => reason.contains("handshake within"),
        _ => false,
    })
    .await;
}

/// After an outage, what was sent before it is not delivered.
#[tokio::test]
async fn old_messages_are_dropped() {
    let a = node("a").await;
    let b = RawServer::listen("b").await;
    a.transport.send(&b.server, heartbeat(1)).unwrap();
    let connections = b.accept_both().await;
    drop(connections);
    until_unreachable(&a, &b.server).await;
    let (mut urgent, _entries) = b.accept_both().await;
    until("the peer is reached", || a.transport.send(&b.server, heartbeat(77)).is_ok()).await;
    let (kind, payload) = raw_read_message(&mut urgent).await;
    assert_eq!((kind, payload), (1, vec![2, 1, 77, 0, 0]));
}

#[tokio::test]
async fn a_moved_peer_is_dialled_at_its_new_address_and_let_go_at_the_old() {
    let (a, old) = (node("a").await, RawServer::listen("b").await);
    a.transport.send(&old.server, heartbeat(1)).unwrap();
    let (mut urgent, mut entries) = old.accept_both().await;
    let mut new = node("b").await;
    talk(&a, &mut new).await;
    raw_closed(&mut urgent).await;
    raw_closed(&mut entries).await;
}

#[tokio::test]
async fn a_forgotten_peer_is_let_go() {
    let (a, b) = (node("a").await, RawServer::listen("b").await);
    a.transport.send(&b.server, heartbeat(1)).unwrap();
    let (mut urgent, mut entries) = b.accept_both().await;
    a.transport.forget(&b.server.id);
    raw_closed(&mut urgent).await;
    raw_closed(&mut entries).await;
    let again = timeout(Duration::from_millis(300), b.listener.accept()).await;
    assert!(again.is_err(), "nobody dials again");
}

/// A peer that hangs up on everybody, so that the waits between attempts grow.
struct Deaf {
    listener: TcpListener,
    server: Server,
}

impl Deaf {
    /// Waits for `n` attempts on the urgent lane.
    async fn attempts(&self, n: usize) {
        for _ in 0..2 * n {
            soon("an attempt", self.listener.accept()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn any_sign_of_life_ends_the_wait_and_starts_it_afresh() {
    let hour = Duration::from_secs(3600);
    let options = options().with(|it| {
        it.backoff_max = hour;
        it.idle_timeout = hour;
    });
    let a = node_with("a", options).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::voter("b", listener.local_addr().unwrap().to_string());
    let b = Deaf { listener, server };
    let _ = a.transport.send(&b.server, heartbeat(1));
    let mut connection = None;
    // First the connection is the sign of life, then a message over it.
    for attempts in [7, 3] {
        // Waits of 20, 40, … 640 ms have passed since the last reset, the next one is 1280 ms.
        b.attempts(attempts).await;
        until_unreachable(&a, &b.server).await;
        let since = Instant::now();
        match &mut connection {
            None => connection = Some(raw_peer("b", &a.server).await),
            Some(stream) => stream.write_all(&raw_frame(1, &[6, 1])).await.unwrap(),
        }
        // Four more attempts; the waits between them are 20, 40 and 80 ms.
        b.attempts(4).await;
        let took = since.elapsed();
        assert!(took < Duration::from_millis(1000), "{took:?}");
    }
}

/// A peer that talks without end but cannot be reached must not be dialled without end.
#[tokio::test]
async fn many_signs_of_life_do_not_make_many_attempts() {
    let a = node("a").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let b = Server::voter("b", listener.local_addr().unwrap().to_string());
    let _ = a.transport.send(&b, heartbeat(1));
    let mut stream = raw_peer("b", &a.server).await;
    let mut attempts = 0;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(500) {
        stream.write_all(&raw_frame(0, &[])).await.unwrap();
        if timeout(Duration::from_millis(1), listener.accept()).await.is_ok() {
            attempts += 1;
        }
    }
    // Two lanes, one attempt each at most every 20 ms, and the first.
    assert!((4..=52).contains(&attempts), "{attempts} attempts");
}
