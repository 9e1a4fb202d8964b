//! Peers that behave.

use std::time::Duration;

use raft::{Message, Transport as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use crate::common::*;

#[tokio::test]
async fn both_lanes_deliver_in_both_directions() {
    let (mut a, mut b) = (node("a").await, node("b").await);
    talk(&a, &mut b).await;
    talk(&b, &mut a).await;
}

/// Neither the first vote nor the first batch of a new leader may depend on luck.
#[tokio::test]
async fn the_first_messages_wait_for_the_connection() {
    let (a, mut b) = (node("a").await, node("b").await);
    a.transport.send(&b.server, heartbeat(1)).unwrap();
    a.transport.send_entries(&b.server, append(2, 10)).await.unwrap();
    let mut rounds = Vec::new();
    for _ in 0..2 {
        rounds.push(round(&soon("a message", b.inbox.recv()).await.unwrap().message));
    }
    rounds.sort_unstable();
    assert_eq!(rounds, [1, 2]);
}

#[tokio::test]
async fn the_entries_lane_keeps_the_order_of_large_and_small() {
    let (a, mut b) = (node("a").await, node("b").await);
    let sizes = [0, 10, 100_000, 1, 3 << 20, 8 << 20, 7, 70_000];
    let sender = async {
        for round in 0..400 {
            let message = append(round, sizes[round as usize % sizes.len()]);
            a.transport.send_entries(&b.server, message).await.unwrap();
        }
    };
    let receiver = async {
        for expected in 0..400 {
            let message = b.inbox.recv().await.unwrap().message;
            assert_eq!(message, append(expected, sizes[expected as usize % sizes.len()]));
        }
    };
    soon("all arrive", async { tokio::join!(sender, receiver) }).await;
}

/// Both sides of a quiet connection show that they live.
#[tokio::test]
async fn quiet_connections_live_on() {
    let idle_timeout = Duration::from_secs(1);
    let quick = || options().with(|it| it.idle_timeout = idle_timeout);
    let (a, mut b) = (node_with("a", quick()).await, node_with("b", quick()).await);
    talk(&a, &mut b).await;
    // Time itself is what is tested: twice the limit.
    tokio::time::sleep(2 * idle_timeout).await;
    // Not by a new connection: that one would lie behind an unreachable peer.
    a.transport.send(&b.server, heartbeat(u64::MAX)).unwrap();
    soon("the message", async {
        while b.inbox.recv().await.unwrap().message != heartbeat(u64::MAX) {}
    })
    .await;
}

/// A reader that never has to wait must not forget to show that it lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn busy_connections_live_on() {
    let idle_timeout = Duration::from_millis(400);
    let b = node_with("b", options().with(|it| it.idle_timeout = idle_timeout)).await;
    let (mut read, mut write) = raw_peer("x", &b.server).await.into_split();
    let flood = raw_frame(0, &[]).repeat(100_000);
    let flooding = tokio::spawn(async move { while write.write_all(&flood).await.is_ok() {} });
    for _ in 0..10 {
        let alive = timeout(5 * idle_timeout, read.read_exact(&mut [0; 10])).await;
        alive.expect("a sign of life in time").unwrap();
    }
    flooding.abort();
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_and_harms_nothing() {
    let small = options().with(|it| it.max_frame_bytes = 4096);
    let (a, mut b) = (node_with("a", small).await, node("b").await);
    let error = a.transport.send_entries(&b.server, append(1, 5000)).await.unwrap_err();
    assert!(error.to_string().contains("`max_frame_bytes`, 4096"), "{error}");
    talk(&a, &mut b).await;
}

#[tokio::test]
async fn a_received_message_says_where_its_sender_is_dialled() {
    let advertise = Some("a.example:7000".to_owned());
    let a = node_with("a", options().with(|it| it.advertise = advertise)).await;
    let mut b = node("b").await;
    a.transport.send(&b.server, heartbeat(1)).unwrap();
    let envelope = soon("a message", b.inbox.recv()).await.unwrap();
    assert_eq!((envelope.from.as_str(), envelope.address.as_str()), ("a", "a.example:7000"));
    assert!(matches!(envelope.message, Message::Heartbeat(_)));
}
