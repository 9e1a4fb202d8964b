//! Every queue is bounded: a node that cannot go on makes its callers wait, and keeps its memory.

use std::{future::Future, task::Poll, time::Duration};

use bytes::Bytes;
use raft::{
    ApplyError, BootstrapError, Config, Configuration, Fatal, Outcome, Raft, TransferError,
    testing::{Cluster, Journal},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::model_support::settle;

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
    let configure = |config: Config| {
        config.with(|it| {
            it.max_unapplied_entries = 100;
            it.apply_queue = 10;
        })
    };
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
    let configure = |config: Config| {
        config.with(|it| {
            it.max_unapplied_bytes = 100_000;
            it.apply_queue = 10;
        })
    };
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
    let configure = |config: Config| {
        config.with(|it| {
            it.max_command_bytes = 5_000;
            it.apply_queue_bytes = 10_000;
            it.max_unapplied_entries = 1;
        })
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
    let in_the_queue = [0, 1].map(|_| leader.apply(vec![0; 4000]));
    // Never polled, so what does not enter at once never does.
    let outside = [0; 8].map(|_| leader.apply(vec![0; 4000]));
    resume(&cluster);
    for call in in_the_queue {
        call.await.unwrap();
    }
    drop(outside);
    leader.apply("afterwards").await.unwrap();
    assert_eq!(cluster.journal(leader.id().as_str()).commands().len(), 4, "two fit in");
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
    let configure = |config: Config| {
        config.with(|it| {
            it.max_inflight_bytes = 20_000;
            it.max_append_bytes = 5_000;
            it.log_cache_bytes = 10_000;
        })
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
    let configure = |config: Config| {
        config.with(|it| {
            it.max_pending_writes = 16;
            it.apply_queue = 4;
        })
    };
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
    let configure = |config: Config| {
        config.with(|it| {
            it.max_unapplied_entries = 8;
            it.max_apply_batch = 3;
            it.apply_queue = 4;
            it.max_append_entries = 5;
            it.max_inflight_appends = 2;
        })
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
    let configure = |config: Config| {
        config.with(|it| {
            it.max_unapplied_entries = 8;
            it.max_append_bytes = 1024;
            it.max_inflight_bytes = 2048;
        })
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
    let configure = |config: Config| config.with(|it| it.max_unapplied_entries = 8);
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

/// A leader with as much as it may have accepted, until its followers' disks are resumed.
async fn without_room() -> (Cluster, Raft<Journal>) {
    let configure = |config: Config| config.with(|it| it.max_unapplied_entries = 8);
    let cluster = Cluster::with_config(ABC, configure).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    for follower in cluster.followers() {
        cluster.disk(follower.id().as_str()).pause_writes();
    }
    drop(leader.apply_batch(vec!["first".into(); 8]));
    settle().await;
    (cluster, leader)
}

/// What a call is answered, which must not take for ever.
async fn soon<T>(call: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), call).await.expect("an answer")
}

/// It is when a server has too much to do that somebody looks at it, takes its leadership from it or
/// gives it other settings.
#[tokio::test(start_paused = true)]
async fn a_saturated_leader_answers_everything_that_brings_no_entries() {
    let (cluster, leader) = without_room().await;
    let calls: Vec<_> = (0..10).map(|_| leader.apply("x")).collect();
    settle().await;
    let started = Instant::now();
    let status = soon(leader.status()).await.unwrap();
    assert_eq!(status.marks.last.since(status.marks.applied), 8, "it is saturated");
    soon(leader.verify_leader()).await.unwrap();
    soon(leader.snapshot()).await.unwrap();
    let refused = soon(leader.bootstrap_cluster(Configuration::default())).await.unwrap_err();
    assert!(matches!(refused, BootstrapError::InvalidConfiguration(_)), "{refused}");
    let target = cluster.followers()[0].id().clone();
    let unknown = soon(leader.leadership_transfer_to_server("z")).await.unwrap_err();
    assert!(matches!(unknown, TransferError::InvalidTarget { .. }), "{unknown}");
    let removal = tokio::spawn({
        let leader = leader.clone();
        async move { leader.remove_server(target, None).await }
    });
    settle().await;
    assert_eq!(leader.configuration().configuration.servers().len(), 2, "it is in the log");
    assert!(started.elapsed() < Duration::from_millis(10), "{:?}", started.elapsed());

    // What could help is possible too.
    assert_eq!(soon(leader.status()).await.unwrap().marks.last.since(status.marks.last), 1);
    let config = Config::clone(&leader.config()).with(|it| it.max_unapplied_entries = 100);
    soon(leader.reload_config(config)).await.unwrap();
    settle().await;
    assert_eq!(leader.last_index().since(status.marks.last), 11, "there is room for the commands");
    resume(&cluster);
    removal.await.unwrap().unwrap();
    for call in calls {
        call.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_saturated_leader_hands_over_and_ends() {
    let (cluster, leader) = without_room().await;
    let waiting = leader.apply("x");
    settle().await;
    let started = Instant::now();
    let ending = leader.shutdown_gracefully();
    let end = soon(ending).await;
    assert!(matches!(end, Fatal::Shutdown), "{end}");
    // The transfer is given up after an election timeout.
    assert!(started.elapsed() <= Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(waiting.await.unwrap_err().outcome(), Outcome::NotApplied);
    resume(&cluster);
}

#[tokio::test(start_paused = true)]
async fn what_waits_in_the_queue_of_a_saturated_leader_has_a_limit_too() {
    const MS: Duration = Duration::from_millis(1);
    let (cluster, leader) = without_room().await;
    let (one, other) = (leader.clone(), leader.clone());
    let later = tokio::spawn(async move { one.apply_with_timeout("later", 300 * MS).await });
    let batch = tokio::spawn(leader.apply_batch(vec!["batch".into(); 3]));
    let barrier = tokio::spawn(leader.barrier());
    let sooner = tokio::spawn(async move { other.apply_with_timeout("sooner", 70 * MS).await });
    let started = Instant::now();
    for (call, timeout) in [(sooner, 70 * MS), (later, 300 * MS)] {
        let error = soon(call).await.unwrap().unwrap_err();
        assert!(matches!(error, ApplyError::EnqueueTimeout { timeout: t } if t == timeout));
        assert_eq!(started.elapsed(), timeout);
    }
    resume(&cluster);
    assert_eq!(batch.await.unwrap().unwrap().len(), 3);
    barrier.await.unwrap().unwrap();
    let commands = cluster.journal(leader.id().as_str()).commands();
    assert_eq!(commands.len(), 11, "what was refused was not applied: {commands:?}");
    leader.apply("afterwards").await.unwrap();
}

/// The time in front of the queue counts: together it is no more than the caller has allowed.
#[tokio::test(start_paused = true)]
async fn the_wait_for_the_queue_and_the_wait_in_it_have_one_limit() {
    let (_cluster, leader) = saturated().await;
    let _first = leader.apply_with_timeout(vec![0; 9000], Duration::from_secs(3));
    let started = Instant::now();
    let second = leader.apply_with_timeout(vec![0; 4000], Duration::from_secs(5));
    let error = soon(second).await.unwrap_err();
    assert!(matches!(error, ApplyError::EnqueueTimeout { .. }), "{error}");
    assert_eq!(started.elapsed(), Duration::from_secs(5));
}

/// Commands keep the order of the calls among themselves, whether they had to wait or not, and
/// nothing passes them while there is room.
#[tokio::test(start_paused = true)]
async fn the_order_of_calls_is_kept() {
    let (cluster, leader) = without_room().await;
    let mut calls: Vec<_> = (0..20).map(|number| leader.apply(format!("{number}"))).collect();
    let barrier = leader.barrier();
    settle().await;
    resume(&cluster);
    calls.extend((20..40).map(|number| leader.apply(format!("{number}"))));
    let barrier = barrier.await.unwrap();
    let mut indices = Vec::new();
    for call in calls {
        indices.push(call.await.unwrap().index);
    }
    assert!(indices.is_sorted());
    assert!(indices[19] < barrier && barrier < indices[20]);
    // With room, a change comes behind the commands that were called before it, and before later ones.
    let before: Vec<_> = (0..100).map(|_| leader.apply("before")).collect();
    let handle = leader.clone();
    let mut change = Box::pin(async move { handle.add_nonvoter("d", "d", None).await });
    let is_ready = std::future::poll_fn(|cx| Poll::Ready(change.as_mut().poll(cx).is_ready()));
    assert!(!is_ready.await);
    let after = leader.apply("after");
    let change = change.await.unwrap();
    for call in before {
        assert!(call.await.unwrap().index < change);
    }
    assert!(change < after.await.unwrap().index);
}
