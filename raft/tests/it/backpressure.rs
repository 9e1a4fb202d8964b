//! Every queue is bounded: a node that cannot go on makes its callers wait, and keeps its memory.

use std::time::Duration;

use bytes::Bytes;
use raft::{
    ApplyError, Config, Outcome, Raft,
    testing::{Cluster, Journal},
};
use tokio::{task::JoinSet, time::sleep};

const ABC: [&str; 3] = ["a", "b", "c"];

/// Calls `apply` until the node takes no more, and returns how many it took.
async fn fill(leader: &Raft<Journal>, size: usize) -> u64 {
    let before = leader.last_index();
    let mut callers = JoinSet::new();
    for _ in 0..10_000 {
        let call = leader.apply_with_timeout(vec![0; size], Duration::from_millis(50));
        callers.spawn(async move {
            let result = tokio::time::timeout(Duration::from_millis(60), call).await;
            matches!(result, Ok(Err(ApplyError::EnqueueTimeout { .. })))
        });
    }
    let refused = callers.join_all().await.into_iter().filter(|refused| *refused).count();
    assert!(0 < refused, "the node took everything");
    leader.last_index().since(before)
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_a_majority_accepts_a_bounded_number_of_entries() {
    let configure = |config| Config { max_unapplied_entries: 100, apply_queue: 10, ..config };
    let cluster = Cluster::with_config(ABC, configure).await;
    let leader = cluster.leader().await;
    for follower in cluster.followers() {
        cluster.disk(follower.id().as_str()).pause_writes();
    }
    let accepted = fill(&leader, 1).await;
    // One turn may overshoot by what it takes from the queue.
    assert!((100..=110).contains(&accepted), "{accepted}");
    for follower in cluster.followers() {
        cluster.disk(follower.id().as_str()).resume_writes();
    }
    leader.apply("afterwards").await.unwrap();
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_a_majority_accepts_a_bounded_number_of_bytes() {
    let configure = |config| Config { max_unapplied_bytes: 100_000, apply_queue: 10, ..config };
    let cluster = Cluster::with_config(ABC, configure).await;
    let leader = cluster.leader().await;
    for follower in cluster.followers() {
        cluster.disk(follower.id().as_str()).pause_writes();
    }
    let accepted = fill(&leader, 1000).await;
    assert!((90..=120).contains(&accepted), "{accepted}");
}

/// A leader that takes no requests, whose queue has room for two commands of 4,000 bytes.
async fn saturated() -> (Cluster, Raft<Journal>) {
    let configure = |config| Config {
        max_command_bytes: 5_000,
        apply_queue_bytes: 10_000,
        max_unapplied_entries: 1,
        ..config
    };
    let cluster = Cluster::with_config(ABC, configure).await;
    let leader = cluster.leader().await;
    for follower in cluster.followers() {
        cluster.disk(follower.id().as_str()).pause_writes();
    }
    tokio::spawn(leader.apply("taken"));
    sleep(Duration::from_millis(1)).await;
    (cluster, leader)
}

fn resume(cluster: &Cluster) {
    for id in ABC {
        cluster.disk(id).resume_writes();
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_are_bounded_in_bytes() {
    let (cluster, leader) = saturated().await;
    let mut callers = JoinSet::new();
    for _ in 0..10 {
        let call = leader.apply_with_timeout(vec![0; 4000], Duration::from_millis(50));
        callers.spawn(async move {
            let result = tokio::time::timeout(Duration::from_millis(60), call).await;
            matches!(result, Ok(Err(ApplyError::EnqueueTimeout { .. })))
        });
    }
    let refused = callers.join_all().await.into_iter().filter(|refused| *refused).count();
    assert_eq!(refused, 8, "two fit into the queue");
    resume(&cluster);
    leader.apply("afterwards").await.unwrap();
    assert_eq!(cluster.journal(leader.id().as_str()).commands().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_small_request_does_not_overtake_a_large_one_that_waits_for_bytes() {
    let (cluster, leader) = saturated().await;
    let mut calls = JoinSet::new();
    for command in [vec![1; 4000], vec![2; 4000], vec![3; 4000], vec![4; 1]] {
        calls.spawn(leader.apply(command));
        tokio::task::yield_now().await;
    }
    resume(&cluster);
    for result in calls.join_all().await {
        result.unwrap();
    }
    let commands = cluster.journal(leader.id().as_str()).commands();
    let order: Vec<u8> = commands.iter().skip(1).map(|command| command[0]).collect();
    assert_eq!(order, [1, 2, 3, 4]);
}

/// No bound of the queue says how large a batch may be, only that it enters alone.
#[tokio::test(start_paused = true)]
async fn a_batch_larger_than_the_queue_waits_until_it_is_empty() {
    let (cluster, leader) = saturated().await;
    let batch = || vec![Bytes::from(vec![0; 4000]); 10];
    let first = leader.apply_batch(batch());
    let second = tokio::spawn(leader.apply_batch(batch()));
    sleep(Duration::from_secs(1)).await;
    resume(&cluster);
    assert_eq!(first.await.unwrap().len(), 10);
    assert_eq!(second.await.unwrap().unwrap().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_bytes_is_told_that_the_node_ends() {
    let (_cluster, leader) = saturated().await;
    let mut calls = JoinSet::new();
    for _ in 0..3 {
        calls.spawn(leader.apply(vec![0; 4000]));
    }
    sleep(Duration::from_millis(1)).await;
    leader.shutdown().await;
    for result in calls.join_all().await {
        assert_eq!(result.unwrap_err().outcome(), Outcome::NotApplied);
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_with_a_stuck_disk_is_sent_a_bounded_number_of_bytes() {
    let configure = |config| Config {
        max_inflight_bytes: 20_000,
        max_append_bytes: 5_000,
        log_cache_bytes: 10_000,
        ..config
    };
    let cluster = Cluster::with_config(ABC, configure).await;
    let leader = cluster.leader().await;
    let follower = cluster.followers()[0].clone();
    cluster.disk(follower.id().as_str()).pause_writes();
    let before = follower.last_index();
    for _ in 0..1000 {
        leader.apply(vec![0; 1000]).await.unwrap();
    }
    let sent = follower.last_index().since(before);
    assert!(sent <= 30, "{sent} entries of 1,032 bytes are under way");
    cluster.disk(follower.id().as_str()).resume_writes();
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn writes_under_way_are_bounded_while_the_disk_is_stuck() {
    let configure = |config| Config { max_pending_writes: 16, apply_queue: 4, ..config };
    let cluster = Cluster::with_config(["a"], configure).await;
    let leader = cluster.leader().await;
    cluster.disk("a").pause_writes();
    let mut waiting = Vec::new();
    for _ in 0..100 {
        waiting.push(leader.apply("x"));
        // Each in a turn of its own, so that each is a write of its own.
        sleep(Duration::from_millis(1)).await;
    }
    let marks = leader.marks();
    let pending = marks.last.since(marks.stable);
    assert!((1..=17).contains(&pending), "{pending} writes are pending");
    cluster.disk("a").resume_writes();
    for future in waiting {
        future.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn applies_are_answered_in_order_under_load() {
    let configure = |config| Config {
        max_unapplied_entries: 8,
        max_apply_batch: 3,
        apply_queue: 4,
        max_append_entries: 5,
        max_inflight_appends: 2,
        ..config
    };
    let cluster = Cluster::with_config(ABC, configure).await;
    let leader = cluster.leader().await;
    let mut callers = JoinSet::new();
    for number in 0..1000 {
        let leader = leader.clone();
        callers.spawn(async move { leader.apply(format!("{number}")).await.unwrap().response });
    }
    let mut responses = callers.join_all().await;
    responses.sort_unstable();
    assert_eq!(responses, (1..=1000).collect::<Vec<u64>>());
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_larger_than_every_window_goes_through() {
    let configure = |config| Config {
        max_unapplied_entries: 8,
        max_append_bytes: 1024,
        max_inflight_bytes: 2048,
        ..config
    };
    let cluster = Cluster::with_config(ABC, configure).await;
    let leader = cluster.leader().await;
    let commands = vec![Bytes::from(vec![0; 500]); 1000];
    assert_eq!(leader.apply_batch(commands).await.unwrap().len(), 1000);
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn the_marks_are_ordered_at_every_moment() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    for id in ABC {
        cluster.disk(id).set_write_delay(Duration::from_millis(3));
    }
    let mut callers = JoinSet::new();
    for number in 0..300_u64 {
        let leader = leader.clone();
        callers.spawn(async move {
            sleep(Duration::from_millis(number % 50)).await;
            leader.apply("x").await.unwrap();
        });
    }
    while !callers.is_empty() {
        for raft in cluster.rafts() {
            let marks = raft.marks();
            assert!(marks.applied <= marks.applying, "{marks:?}");
            assert!(marks.applying <= marks.committed.min(marks.stable), "{marks:?}");
            assert!(marks.stable <= marks.in_progress, "{marks:?}");
            assert!(marks.in_progress <= marks.last, "{marks:?}");
            assert_eq!(marks.offset, marks.stable.next());
            assert!(marks.first <= marks.last);
        }
        tokio::task::yield_now().await;
        while callers.try_join_next().is_some() {}
        sleep(Duration::from_micros(500)).await;
    }
}

/// Nothing of a log is applied after a start until a leader says how far it is committed, and there
/// may be no leader for long.
#[tokio::test(start_paused = true)]
async fn a_server_with_a_long_log_and_no_leader_answers() {
    let configure = |config| Config { max_unapplied_entries: 8, ..config };
    let mut cluster = Cluster::with_config(["a", "b", "c"], configure).await;
    let leader = cluster.leader().await;
    for _ in 0..10 {
        leader.apply("x").await.unwrap();
    }
    cluster.converge().await;
    let follower = cluster.followers()[0].id().to_string();
    cluster.network().disconnect(follower.as_str());
    let raft = cluster.restart(&follower).await;
    let status = tokio::time::timeout(Duration::from_secs(60), raft.status()).await;
    assert!(status.expect("an answer").unwrap().marks.applied < raft.last_index());
    let error = raft.apply("y").await.unwrap_err();
    assert!(matches!(error, ApplyError::NotLeader { .. }), "{error}");
}
