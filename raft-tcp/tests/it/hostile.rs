//! Strangers and damage: each costs one connection, and the peers talk on.

use std::time::Duration;

use raft::{ClusterId, Message, Transport as _};
use raft_tcp::TcpOptions;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::common::*;

fn short() -> TcpOptions {
    options().with(|it| {
        it.handshake_timeout = Duration::from_millis(300);
        it.idle_timeout = Duration::from_millis(300);
    })
}

/// Two nodes that talk before and after `attack` on the second one.
async fn survives(attack: impl AsyncFnOnce(&Node)) {
    let (mut a, mut b) = (node_with("a", short()).await, node_with("b", short()).await);
    talk(&a, &mut b).await;
    attack(&b).await;
    talk(&a, &mut b).await;
    talk(&b, &mut a).await;
}

async fn refused(change: impl Fn(&mut RawHello), code: u8, text: &str) {
    survives(async |b: &Node| {
        let mut hello = hello("x", "b");
        change(&mut hello);
        let mut stream = raw_dial(&b.server, &hello.bytes()).await;
        let answer = raw_answer(&mut stream).await;
        assert_eq!((answer.0, answer.1.as_str()), (code, text));
        raw_closed(&mut stream).await;
    })
    .await;
}

#[tokio::test]
async fn another_protocol_is_refused() {
    let text = "this is a raft-tcp server, and the bytes are not a raft-tcp hello";
    refused(|hello| hello.magic = *b"GET / HT", 1, text).await;
}

#[tokio::test]
async fn another_version_is_refused() {
    let text = "the dialler speaks protocol versions 2 to 3, this server 1 to 1";
    refused(|hello| (hello.oldest, hello.newest) = (2, 3), 2, text).await;
}

#[tokio::test]
async fn another_cluster_is_refused() {
    let text = "the dialler is of cluster \"prod\", this server of \"test\"";
    refused(|hello| hello.cluster = "prod".to_owned(), 3, text).await;
}

#[tokio::test]
async fn an_empty_or_too_long_id_is_refused() {
    let text = "a server id has 1 to 255 bytes, the dialler's 0";
    refused(|hello| hello.from = String::new(), 4, text).await;
    let text = "a server id has 1 to 255 bytes, the dialler's 300";
    refused(|hello| hello.from = "x".repeat(300), 4, text).await;
}

#[tokio::test]
async fn the_acceptors_own_id_is_refused() {
    let text = "the dialler claims to be \"b\", and so does this server";
    refused(|hello| hello.from = "b".to_owned(), 5, text).await;
}

#[tokio::test]
async fn a_dialler_that_means_another_server_is_refused() {
    let text = "the dialler means server \"c\", but this is \"b\"";
    refused(|hello| hello.to = "c".to_owned(), 6, text).await;
}

#[tokio::test]
async fn an_unknown_lane_and_a_too_long_hello_are_refused() {
    refused(|hello| hello.lane = 3, 1, "the hello names no lane").await;
    refused(|hello| hello.to = "x".repeat(5000), 1, "the hello is too long").await;
    refused(|hello| hello.cut = 1, 1, "the hello ends before its incarnation, life or cluster")
        .await;
}

#[tokio::test]
async fn a_hello_that_does_not_end_is_cut_off() {
    survives(async |b: &Node| {
        let bytes = hello("x", "b").bytes();
        let mut stream = raw_dial(&b.server, &bytes[..bytes.len() - 1]).await;
        raw_closed(&mut stream).await;
    })
    .await;
}

#[tokio::test]
async fn a_hello_that_drips_is_cut_off_by_the_clock() {
    survives(async |b: &Node| {
        let start = Instant::now();
        let mut stream = TcpStream::connect(b.server.address.as_str()).await.unwrap();
        soon("the drip is cut off", async {
            for byte in hello("x", "b").bytes().iter().cycle() {
                if stream.write_all(&[*byte]).await.is_err() {
                    return;
                }
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        assert!(start.elapsed() < Duration::from_secs(10));
    })
    .await;
}

#[tokio::test]
async fn silence_before_the_handshake_is_cut_off() {
    survives(async |b: &Node| raw_closed(&mut raw_dial(&b.server, b"").await).await).await;
}

/// After a good handshake.
async fn bad_bytes(bytes: &[u8]) {
    survives(async |b: &Node| {
        let mut stream = raw_peer("x", &b.server).await;
        stream.write_all(bytes).await.unwrap();
        raw_closed(&mut stream).await;
    })
    .await;
}

#[tokio::test]
async fn garbage_closes_its_connection() {
    bad_bytes(&[0xa5; 4096]).await;
}

#[tokio::test]
async fn an_oversized_length_closes_its_connection() {
    const MIB: u32 = 1 << 20;
    for (kind, length) in [(1, 16 * MIB + 1), (2, 16 * MIB + 1), (3, 17 * MIB + 65), (3, u32::MAX)]
    {
        let mut frame = raw_frame(kind, &[]);
        frame[4..8].copy_from_slice(&length.to_le_bytes());
        bad_bytes(&frame).await;
    }
}

#[tokio::test]
async fn a_bad_checksum_closes_its_connection() {
    let mut frame = raw_frame(1, &[6, 1]);
    frame[0] ^= 1;
    bad_bytes(&frame).await;
}

#[tokio::test]
async fn an_undecodable_payload_closes_its_connection() {
    bad_bytes(&raw_frame(1, &[99])).await;
    bad_bytes(&raw_frame(2, &[0; 51])).await;
    bad_bytes(&raw_frame(0, &[1])).await;
    for bytes in [0, 7, 9, 1000] {
        bad_bytes(&raw_frame(4, &vec![1; bytes])).await;
    }
}

/// Whatever is expected of the receiver comes with the messages after it, on that connection only.
#[tokio::test]
async fn expectations_are_passed_on_with_what_follows_them() {
    let mut b = node("b").await;
    let mut first = raw_peer("x", &b.server).await;
    let heartbeat = raw_frame(1, &[2, 1, 1, 0, 0]);
    let expects = |incarnation: u64| raw_frame(4, &incarnation.to_le_bytes());
    let bytes = [
        heartbeat.clone(),
        expects(5),
        expects(u64::MAX),
        heartbeat.clone(),
        raw_frame(0, &[]),
        heartbeat.clone(),
        expects(0),
        heartbeat.clone(),
    ];
    first.write_all(&bytes.concat()).await.unwrap();
    for expected in [0, u64::MAX, u64::MAX, 0] {
        let envelope = soon("a message", b.inbox.recv()).await.unwrap();
        assert_eq!((envelope.incarnation, envelope.expects), (1, expected));
    }
    first.write_all(&expects(9)).await.unwrap();
    let mut second =
        raw_dial(&b.server, &RawHello { incarnation: 2, ..hello("x", "b") }.bytes()).await;
    assert_eq!(raw_answer(&mut second).await, (0, String::new()));
    second.write_all(&heartbeat).await.unwrap();
    let envelope = soon("a message", b.inbox.recv()).await.unwrap();
    assert_eq!((envelope.incarnation, envelope.expects), (2, 0));
}

/// Only the dialler speaks of expectations.
#[tokio::test]
async fn an_expectation_the_wrong_way_closes_its_connection() {
    let a = node_with("a", short()).await;
    let raw = RawServer::listen("b").await;
    let _ = a.transport.send(&raw.server, heartbeat(1));
    let (_, mut stream) = raw.accept().await;
    stream.write_all(&raw_frame(4, &[1; 8])).await.unwrap();
    raw_closed(&mut stream).await;
}

#[tokio::test]
async fn a_snapshot_with_a_garbled_configuration_closes_its_connection() {
    // Not a configuration; more servers than bytes; an id longer than the frame; cut short.
    let many = [253, 255, 255, 255, 255, 255, 255, 255, 255];
    let long = [1, 252, 255, 255, 255, 255];
    for configuration in [&[0xa5; 100][..], &many, &long, &[2, 1, b'a']] {
        bad_bytes(&raw_frame(3, &raw_snapshot(10, 0, configuration, b"data"))).await;
    }
    let mut payload = raw_snapshot(10, 0, &[0], b"");
    payload[60..64].copy_from_slice(&u32::MAX.to_le_bytes());
    bad_bytes(&raw_frame(3, &payload)).await;
    bad_bytes(&raw_frame(3, &payload[..63])).await;
    // In the form of small messages, in both ways to write their number.
    bad_bytes(&raw_frame(1, &[7, 1, 1, 1, 9, 1, 0, 1, 0, 0, 0])).await;
    bad_bytes(&raw_frame(1, &[251, 7, 0, 1, 1, 1, 9, 1, 0, 1, 0, 0, 0])).await;
}

/// Where a piece belongs is not the transport's business, so that it must carry any claim.
#[tokio::test]
async fn a_snapshot_with_impossible_numbers_is_passed_on() {
    let mut b = node("b").await;
    let mut stream = raw_peer("x", &b.server).await;
    let claims = [(0, u64::MAX), (u64::MAX, u64::MAX), (u64::MAX, 0), (10, 11)];
    for (size, offset) in claims {
        let payload = raw_snapshot(size, offset, &[0, 0], &[7; 20_000]);
        stream.write_all(&raw_frame(3, &payload)).await.unwrap();
        let envelope = soon("a piece", b.inbox.recv()).await.unwrap();
        let Message::InstallSnapshot(piece) = envelope.message else { panic!("{envelope:?}") };
        assert_eq!((piece.size_bytes, piece.offset), (size, offset));
        assert_eq!(piece.data, vec![7; 20_000]);
        assert!(piece.configuration.configuration.is_empty());
    }
}

#[tokio::test]
async fn an_unknown_kind_or_version_of_a_frame_closes_its_connection() {
    bad_bytes(&raw_frame(9, &[])).await;
    let mut frame = raw_frame(0, &[]);
    frame[8] = 2;
    bad_bytes(&frame).await;
}

#[tokio::test]
async fn half_a_frame_and_silence_closes_its_connection() {
    bad_bytes(&raw_frame(1, &[6, 1])[..7]).await;
}

#[tokio::test]
async fn what_was_valid_before_the_damage_is_delivered() {
    let mut b = node("b").await;
    let mut stream = raw_peer("x", &b.server).await;
    stream.write_all(&raw_frame(1, &[6, 1])).await.unwrap();
    stream.write_all(&[0; 100]).await.unwrap();
    let envelope = soon("a message", b.inbox.recv()).await.unwrap();
    assert_eq!((envelope.from.as_str(), envelope.address.as_str()), ("x", "127.0.0.1:9"));
    assert_eq!(envelope.message.kind(), "TimeoutNow");
    raw_closed(&mut stream).await;
}

#[tokio::test]
async fn connections_over_the_limit_are_refused_until_there_is_room() {
    let b = node_with("b", options().with(|it| it.max_inbound = 2)).await;
    let first = raw_peer("x", &b.server).await;
    let _second = raw_peer("y", &b.server).await;
    let mut third = raw_dial(&b.server, b"").await;
    let answer = raw_answer(&mut third).await;
    assert_eq!(answer, (7, "the server already has 2 connections, its `max_inbound`".to_owned()));
    drop(first);
    soon("room again", async {
        loop {
            let mut stream = raw_dial(&b.server, &hello("z", "b").bytes()).await;
            // The answer of a full server may be lost.
            if tokio::spawn(async move { raw_answer(&mut stream).await.0 == 0 })
                .await
                .is_ok_and(|is_in| is_in)
            {
                return;
            }
        }
    })
    .await;
}

/// A half-open connection must not hold its place until the clock finds it.
#[tokio::test]
async fn a_newer_connection_of_a_lane_replaces_the_older() {
    let b = node_with("b", options().with(|it| it.idle_timeout = Duration::from_secs(3600))).await;
    let mut old = raw_peer("x", &b.server).await;
    let mut other = hello("x", "b");
    other.lane = 2;
    let mut other = raw_dial(&b.server, &other.bytes()).await;
    assert_eq!(raw_answer(&mut other).await.0, 0);
    let _new = raw_peer("x", &b.server).await;
    raw_closed(&mut old).await;
    assert_eq!(raw_read_frame(&mut other).await, (0, vec![]), "the other lane lives");
}

/// Two servers that were given one id by mistake: the first stays, and the second learns why.
#[tokio::test]
async fn a_second_server_with_the_same_id_is_refused_until_the_first_is_gone() {
    let b = node("b").await;
    let first = raw_peer("x", &b.server).await;
    for lane in [1, 2] {
        let mut hello = hello("x", "b");
        hello.address = "127.0.0.1:10".to_owned();
        hello.lane = lane;
        let mut second = raw_dial(&b.server, &hello.bytes()).await;
        let text = "a server with the id \"x\" is connected already, the one at 127.0.0.1:9";
        assert_eq!(raw_answer(&mut second).await, (8, text.to_owned()));
    }
    drop(first);
    soon("the second is let in", async {
        let mut hello = hello("x", "b");
        hello.address = "127.0.0.1:10".to_owned();
        while raw_answer(&mut raw_dial(&b.server, &hello.bytes()).await).await.0 != 0 {}
    })
    .await;
}

/// A server without a cluster lets anybody in; when it has one, a foreign server is not to keep the place of the
/// member of the same name.
#[tokio::test]
async fn a_foreign_server_does_not_keep_the_place_of_a_member() {
    let b = node("b").await;
    let dial = async |cluster: u64, address: &str| {
        let mut hello = hello("x", "b");
        (hello.number, hello.address) = (cluster, address.to_owned());
        let mut stream = raw_dial(&b.server, &hello.bytes()).await;
        (raw_answer(&mut stream).await.0, stream)
    };
    let (answer, _foreign) = dial(7, "127.0.0.1:9").await;
    assert_eq!(answer, 0);
    b.transport.set_cluster(ClusterId(5));
    let (answer, _member) = dial(5, "127.0.0.1:10").await;
    assert_eq!(answer, 0, "the member is let in");
    let (answer, _) = dial(5, "127.0.0.1:11").await;
    assert_eq!(answer, 8, "a second one of this cluster is not");
}
