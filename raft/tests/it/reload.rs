//! Changing the settings of a running server.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use raft::{
    ApplyError, Config, Fatal, Message, Observation, Raft, ReloadError, Role,
    testing::{Cluster, Journal},
};
use tokio::time::{Instant, sleep};

use crate::model_support::{ABC, ELECTION, all_but, settle};

const MS: Duration = Duration::from_millis(1);

/// Puts the settings in force as `change` leaves them.
async fn reload(raft: &Raft<Journal>, change: impl FnOnce(&mut Config)) -> Result<(), ReloadError> {
    let mut config = Config::clone(&raft.config());
    change(&mut config);
    raft.reload_config(config).await
}

/// Ten times as fast as the default.
fn faster(config: &mut Config) {
    config.heartbeat_interval = 10 * MS;
    config.leader_lease_timeout = 50 * MS;
    config.election_timeout = 100 * MS;
}

/// Counts the heartbeats that are sent from now on.
fn heartbeats(cluster: &Cluster) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    cluster.network().set_tap(move |_, _, message| {
        if matches!(message, Message::Heartbeat(_)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    count
}

/// R11: every setting that can change takes its new value, all together.
#[tokio::test(start_paused = true)]
async fn every_setting_that_can_change_does() {
    let cluster = Cluster::new(["a"]).await;
    let raft = cluster.leader().await;
    let before = raft.config();
    let config = Config::clone(&before).with(|it| {
        it.election_timeout = 2 * ELECTION;
        it.heartbeat_interval = 200 * MS;
        it.leader_lease_timeout = ELECTION;
        it.write_stall_timeout = 5 * ELECTION;
        it.pre_vote = false;
        it.max_append_entries = 7;
        it.max_append_bytes = 2 << 10;
        it.max_inflight_appends = 3;
        it.max_inflight_bytes = 4 << 10;
        it.max_command_bytes = 1 << 10;
        it.enqueue_timeout = ELECTION;
        it.max_unapplied_entries = 100;
        it.max_unapplied_bytes = 1 << 20;
        it.max_pending_writes = 16;
        it.log_cache_bytes = 0;
        it.max_apply_batch = 1;
        it.max_apply_time = MS;
        it.trailing_logs = 5;
        it.max_held_entries = 6;
        it.snapshot_interval = ELECTION;
        it.snapshot_threshold = 9;
        it.snapshot_threshold_bytes = 1 << 20;
        it.snapshot_chunk_bytes = 1 << 10;
        it.snapshot_bytes_per_second = 1 << 20;
        it.add_voters_at_once = true;
        it.catch_up_lag = 3;
        it.catch_up_timeout = ELECTION;
        it.shutdown_on_remove = false;
    });
    raft.reload_config(config.clone()).await.unwrap();
    assert_eq!(*raft.config(), config);
    assert_ne!(raft.config(), before);
    for number in 0..50 {
        raft.apply(format!("{number}")).await.unwrap();
    }
    cluster.converge().await;
    // And back.
    raft.reload_config(Config::clone(&before)).await.unwrap();
    assert_eq!(raft.config(), before);
    raft.apply("x").await.unwrap();
}

/// R12: one setting that breaks its rule rejects them all, by name.
#[tokio::test(start_paused = true)]
async fn one_bad_setting_rejects_them_all() {
    let cluster = Cluster::new(["a"]).await;
    let raft = cluster.leader().await;
    let before = raft.config();
    type Change = fn(&mut Config);
    let bad: [(&str, Change); 11] = [
        ("election_timeout", |c| c.election_timeout = 200 * MS),
        ("leader_lease_timeout", |c| c.leader_lease_timeout = 2 * ELECTION),
        ("snapshot_threshold", |c| c.snapshot_threshold = 0),
        // Fits no message that could wait in the queue.
        ("rpc_queue_bytes", |c| {
            (c.max_append_bytes, c.max_inflight_bytes) = (128 << 20, 256 << 20);
        }),
        ("local_id", |c| c.local_id = "b".into()),
        ("apply_queue", |c| c.apply_queue += 1),
        ("apply_queue_bytes", |c| c.apply_queue_bytes += 1),
        ("rpc_queue", |c| c.rpc_queue += 1),
        ("rpc_queue_bytes", |c| c.rpc_queue_bytes += 1),
        ("restore_on_start", |c| c.restore_on_start = false),
        ("seed", |c| *c = c.clone().with_seed(u64::MAX)),
    ];
    for (field, change) in bad {
        let result = reload(&raft, |config| {
            config.trailing_logs = 1;
            change(config);
        });
        match result.await {
            Err(ReloadError::Config(error)) => assert_eq!(error.field, field, "{error}"),
            other => panic!("{field}: {other:?}"),
        }
        assert_eq!(raft.config(), before, "{field}");
    }
}

/// R13: a follower that waits for its leader acts on a shorter timeout at once.
#[tokio::test(start_paused = true)]
async fn a_shorter_election_timeout_acts_on_a_waiting_follower() {
    let cluster = Cluster::with_config(ABC, |config| {
        config.with(|it| {
            it.election_timeout = 600 * ELECTION;
            it.write_stall_timeout = 600 * ELECTION;
            it.apply_stall_timeout = 600 * ELECTION;
        })
    });
    let cluster = cluster.await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let follower = cluster.followers()[0].clone();
    cluster.network().disconnect(leader.id().as_str());
    sleep(60 * ELECTION).await;
    assert_eq!(follower.role(), Role::Follower);

    let started = Instant::now();
    // Both: one alone would find the other insisting on the leader that it waits ten minutes for.
    let survivors = all_but(&cluster, &[leader.id().as_str()]);
    for raft in &survivors {
        reload(raft, |config| config.election_timeout = ELECTION).await.unwrap();
    }
    let next = cluster.leader_among(&survivors).await;
    assert!(started.elapsed() < 2 * ELECTION, "{:?}", started.elapsed());
    next.apply("x").await.unwrap();
}

/// I02: a restarted server with a long timeout disturbs nobody, and a shorter one that it is given
/// causes no election.
#[tokio::test(start_paused = true)]
async fn a_shorter_election_timeout_deposes_no_leader_that_is_heard() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let term = leader.term();
    // Heartbeats first, on every server that may lead.
    for raft in cluster.rafts() {
        reload(&raft, |config| config.heartbeat_interval = 10 * MS).await.unwrap();
    }
    for raft in cluster.rafts() {
        reload(&raft, faster).await.unwrap();
        sleep(30 * MS).await;
    }
    sleep(10 * ELECTION).await;
    assert_eq!((leader.role(), leader.term()), (Role::Leader, term));
    leader.apply("x").await.unwrap();
    // Now a failure is found out ten times as fast.
    cluster.network().disconnect(leader.id().as_str());
    let started = Instant::now();
    cluster.leader_among(&all_but(&cluster, &[leader.id().as_str()])).await;
    assert!(started.elapsed() < ELECTION, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_shorter_heartbeat_interval_acts_on_a_leader() {
    let cluster = Cluster::with_config(ABC, |config| {
        config.with(|it| {
            it.election_timeout = 600 * ELECTION;
            it.leader_lease_timeout = 600 * ELECTION;
            it.heartbeat_interval = 60 * ELECTION;
            it.write_stall_timeout = 600 * ELECTION;
            it.apply_stall_timeout = 600 * ELECTION;
        })
    });
    let cluster = cluster.await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let count = heartbeats(&cluster);
    sleep(10 * ELECTION).await;
    let before = count.load(Ordering::Relaxed);
    assert!(before <= 2, "one round at most");
    reload(&leader, |config| config.heartbeat_interval = ELECTION).await.unwrap();
    settle().await;
    assert_eq!(count.load(Ordering::Relaxed), before + 2, "at once");
    sleep(10 * ELECTION).await;
    assert_eq!(count.load(Ordering::Relaxed), before + 22, "and then every second");
    assert_eq!(leader.role(), Role::Leader);
}

#[tokio::test(start_paused = true)]
async fn a_shorter_lease_ends_a_leadership_that_nobody_confirms() {
    let cluster = Cluster::with_config(ABC, |config| {
        config.with(|it| {
            it.election_timeout = 600 * ELECTION;
            it.leader_lease_timeout = 600 * ELECTION;
            it.write_stall_timeout = 600 * ELECTION;
            it.apply_stall_timeout = 600 * ELECTION;
        })
    });
    let cluster = cluster.await;
    let leader = cluster.leader().await;
    cluster.network().disconnect(leader.id().as_str());
    sleep(60 * ELECTION).await;
    assert_eq!(leader.role(), Role::Leader);
    reload(&leader, |config| config.leader_lease_timeout = ELECTION).await.unwrap();
    assert_eq!(leader.role(), Role::Leader, "it has yet to be asked");
    sleep(ELECTION).await;
    settle().await;
    assert_eq!(leader.role(), Role::Follower);
}

#[tokio::test(start_paused = true)]
async fn a_shorter_snapshot_interval_and_threshold_act_on_a_waiting_server() {
    let cluster = Cluster::new(["a"]).await;
    let raft = cluster.leader().await;
    for _ in 0..20 {
        raft.apply("x").await.unwrap();
    }
    let mut taken = raft.observe(10, |it| matches!(it, Observation::SnapshotTaken { .. }));
    let started = Instant::now();
    sleep(30 * ELECTION).await;
    assert_eq!(taken.try_recv(), None);
    reload(&raft, |config| {
        config.snapshot_threshold = 10;
        config.snapshot_interval = 20 * ELECTION;
    })
    .await
    .unwrap();
    taken.recv().await.unwrap();
    // Counted from when the wait began: at most twenty and twenty seconds.
    assert!(started.elapsed() <= 41 * ELECTION, "{:?}", started.elapsed());

    reload(&raft, |config| config.snapshot_threshold_bytes = 1 << 10).await.unwrap();
    for _ in 0..20 {
        raft.apply("y".repeat(100)).await.unwrap();
    }
    let started = Instant::now();
    taken.recv().await.unwrap();
    assert!(started.elapsed() <= ELECTION, "the growth is looked at every second");
}

#[tokio::test(start_paused = true)]
async fn fewer_trailing_entries_are_let_go_at_once() {
    let cluster = Cluster::new(["a"]).await;
    let raft = cluster.leader().await;
    for _ in 0..100 {
        raft.apply("x").await.unwrap();
    }
    raft.snapshot().await.unwrap();
    assert_eq!(raft.marks().first.0, 1);
    reload(&raft, |config| config.trailing_logs = 10).await.unwrap();
    settle().await;
    assert_eq!(raft.marks().first.0, raft.last_index().0 - 9);
}

#[tokio::test(start_paused = true)]
async fn limits_of_calls_count_from_the_next_call_on() {
    let cluster = Cluster::with_config(["a"], |it| it.with(|it| it.apply_queue = 10)).await;
    let raft = cluster.leader().await;
    reload(&raft, |config| config.max_command_bytes = 3).await.unwrap();
    raft.apply("abc").await.unwrap();
    let refused = raft.apply("abcd").await.unwrap_err();
    assert!(matches!(refused, ApplyError::TooLarge { bytes: 4, limit: 3 }), "{refused:?}");
    // A full queue is waited for as long as the settings say now.
    reload(&raft, |config| {
        config.enqueue_timeout = 70 * MS;
        config.max_unapplied_entries = 1;
    })
    .await
    .unwrap();
    cluster.disk("a").pause_writes();
    drop(raft.apply("x"));
    settle().await;
    let waiting: Vec<_> = (0..10).map(|_| raft.apply("x")).collect();
    let started = Instant::now();
    let refused = raft.apply("x").await.unwrap_err();
    assert!(matches!(refused, ApplyError::EnqueueTimeout { .. }), "{refused:?}");
    assert_eq!(started.elapsed(), 70 * MS);
    drop(waiting);
    cluster.disk("a").resume_writes();
}

#[tokio::test(start_paused = true)]
async fn whether_a_removed_server_ends_is_decided_when_it_learns_of_it() {
    let mut cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let [first, second] = [0, 1].map(|at| cluster.followers()[at].clone());
    reload(&first, |config| config.shutdown_on_remove = false).await.unwrap();
    leader.remove_server(first.id().clone(), None).await.unwrap();
    leader.remove_server(second.id().clone(), None).await.unwrap();
    sleep(10 * ELECTION).await;
    assert!(first.fatal().is_none());
    assert!(matches!(second.fatal(), Some(Fatal::Removed)), "{:?}", second.fatal());
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_has_ended_says_so() {
    let cluster = Cluster::new(["a"]).await;
    let raft = cluster.leader().await;
    raft.shutdown().await;
    let refused = reload(&raft, |config| config.trailing_logs = 1).await.unwrap_err();
    assert!(matches!(refused, ReloadError::Stopped(Fatal::Shutdown)), "{refused:?}");
    assert_ne!(raft.config().trailing_logs, 1);
}
