//! The same promises with tasks that really run at the same time: no wake-up is lost, no answer is
//! missing. The clock is real here, so nothing is said of how long anything takes.

use std::time::Duration;

use raft::{
    ApplyError, Config, Observation, Outcome, Raft, SnapshotError,
    testing::{Cluster, Journal},
};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

const ABC: [&str; 3] = ["a", "b", "c"];
const CALLERS: u64 = 16;
const CALLS: u64 = 300;

/// Long enough for any machine; only a lost wake-up takes longer.
const FOR_EVER: Duration = Duration::from_secs(120);

async fn apply(leader: &Raft<Journal>, command: String) {
    match leader.apply(command).await {
        Ok(applied) => leader.wait_applied(applied.index).await.unwrap(),
        // A busy machine may elect another leader in the middle of it.
        Err(ApplyError::LeadershipLost | ApplyError::NotLeader { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_callers_readers_and_snapshots_get_their_answers() {
    let mut cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let mut tasks = JoinSet::new();
    for caller in 0..CALLERS {
        let leader = leader.clone();
        tasks.spawn(async move {
            for call in 0..CALLS {
                apply(&leader, format!("{caller}/{call}")).await;
                if call % 16 == 0
                    && let Ok(read_index) = leader.verify_leader().await
                {
                    leader.wait_applied(read_index).await.unwrap();
                    assert!(read_index <= leader.applied_index());
                }
            }
        });
    }
    let mut waiting = JoinSet::new();
    for raft in cluster.rafts() {
        waiting.spawn(async move {
            for _ in 0..50 {
                let next = raft.applied_index().next();
                raft.wait_applied(next).await.unwrap();
                let _ = raft.snapshot().await;
                raft.status().await.unwrap();
            }
        });
    }
    timeout(FOR_EVER, tasks.join_all()).await.expect("somebody was never answered");
    // If another leader was elected, the callers were refused, and those who wait want more entries.
    let more = async {
        loop {
            let _ = cluster.leader().await.barrier().await;
            sleep(Duration::from_millis(10)).await;
        }
    };
    let end = timeout(FOR_EVER, async {
        tokio::select! {
            all = waiting.join_all() => all,
            () = more => unreachable!("it goes on until nobody waits"),
        }
    });
    end.await.expect("somebody was never told");
    timeout(FOR_EVER, cluster.converge()).await.expect("somebody was never told");
    timeout(FOR_EVER, cluster.shutdown()).await.expect("a task never ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_under_load_answers_everybody() {
    for round in 0..20 {
        let cluster = Cluster::new(["a"]).await;
        let leader = cluster.leader().await;
        let mut tasks = JoinSet::new();
        for _ in 0..CALLERS {
            let leader = leader.clone();
            tasks.spawn(async move {
                let mut applied = 0_u64;
                loop {
                    match leader.apply("x").await {
                        Ok(_) => applied += 1,
                        Err(error) => return (applied, error.outcome()),
                    }
                }
            });
        }
        leader.wait_applied(raft::LogIndex(100 * (round + 1))).await.unwrap();
        timeout(FOR_EVER, leader.shutdown()).await.expect("a task never ended");
        let answers = timeout(FOR_EVER, tasks.join_all()).await.expect("a caller was forgotten");
        let applied: u64 = answers.iter().map(|(applied, _)| applied).sum();
        let unknown = answers.iter().filter(|(_, outcome)| *outcome == Outcome::Unknown).count();
        let happened = cluster.journal("a").commands().len() as u64;
        // What was answered did happen, and what happened was answered or is unknown.
        assert!((applied..=applied + unknown as u64).contains(&happened));
    }
}

/// Snapshots are taken, sent and installed while the log is compacted to nothing under everybody's
/// feet, and servers are cut off and come back all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_and_compaction_disturb_nobody() {
    let configure = |config: Config| {
        config.with(|it| {
            it.trailing_logs = 0;
            it.log_cache_bytes = 0;
            it.max_append_bytes = 1 << 10;
            it.snapshot_chunk_bytes = 1 << 10;
            it.election_timeout = Duration::from_secs(2);
        })
    };
    let cluster = Cluster::with_config(ABC, configure).await;
    let installed = |seen: &Observation| matches!(seen, Observation::SnapshotInstalled { .. });
    let observers: Vec<_> =
        cluster.rafts().iter().map(|raft| raft.observe(1000, installed)).collect();
    let mut dice = Pcg64Mcg::seed_from_u64(7);
    for round in 0..60 {
        let leader = timeout(FOR_EVER, cluster.leader()).await.expect("nobody leads");
        let away = ABC[dice.random_range(0..3)];
        if away != leader.id().as_str() {
            cluster.network().disconnect(away);
        }
        let commands = (0..50).map(|number| format!("{round}/{number:050}").into()).collect();
        match leader.apply_batch(commands).await {
            Ok(_) | Err(ApplyError::LeadershipLost | ApplyError::NotLeader { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        let mut tasks = JoinSet::new();
        for raft in cluster.rafts() {
            tasks.spawn(async move { raft.snapshot().await.map(drop) });
        }
        if dice.random_range(0..2) == 0 {
            sleep(Duration::from_millis(dice.random_range(0..20))).await;
        }
        cluster.network().connect(away);
        for result in timeout(FOR_EVER, tasks.join_all()).await.expect("a snapshot hangs") {
            match result {
                Ok(()) | Err(SnapshotError::NothingNew | SnapshotError::Overtaken { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
    timeout(FOR_EVER, cluster.converge()).await.expect("somebody was left behind");
    for raft in cluster.rafts() {
        assert!(raft.fatal().is_none(), "{:?}", raft.fatal());
    }
    let mut installs = 0;
    for mut observer in observers {
        installs += std::iter::from_fn(|| observer.try_recv()).count();
    }
    assert!(10 < installs, "only {installs} snapshots were installed");
}
