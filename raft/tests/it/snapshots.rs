//! Snapshots that a server takes of its own state, and what the log forgets for them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use raft::{
    Config, Configuration, Entry, Fsm, FsmError, FsmSnapshot, LogId, LogStore, Observation, Raft,
    Server, SnapshotError, SnapshotStore,
    inmem::{InmemLogStore, InmemNetwork, InmemSnapshotStore, InmemStableStore},
    testing::{Cluster, Journal},
};
use tokio::{io::AsyncReadExt, time::sleep};

const ABC: [&str; 3] = ["a", "b", "c"];

async fn apply_many(leader: &Raft<Journal>, count: usize, bytes: usize) {
    let commands = (0..count).map(|number| format!("{number:0bytes$}").into()).collect();
    leader.apply_batch(commands).await.unwrap();
}

async fn bounds(cluster: &Cluster, id: &str) -> Option<(u64, u64)> {
    let reader = cluster.stores(id).0.reader();
    reader.bounds().await.unwrap().map(|(first, last)| (first.0, last.0))
}

#[tokio::test(start_paused = true)]
async fn the_log_is_compacted_to_its_trailing_entries() {
    let mut cluster =
        Cluster::with_config(ABC, |config| config.with(|it| it.trailing_logs = 10)).await;
    let leader = cluster.leader().await;
    apply_many(&leader, 100, 8).await;
    let last = cluster.converge().await;
    for raft in cluster.rafts() {
        let snapshot = raft.snapshot().await.unwrap();
        assert_eq!(snapshot.meta.last.index, last);
        let status = raft.status().await.unwrap();
        assert_eq!(status.snapshot, snapshot.meta.last);
        assert_eq!(status.marks.first.0, last.0 - 9, "ten entries are kept");
    }
    let end = cluster.converge().await;
    for id in ABC {
        assert_eq!(bounds(&cluster, id).await, Some((last.0 - 9, end.0)));
    }
    let commands = cluster.journal("a").commands();
    for id in ABC {
        cluster.restart(id).await;
    }
    cluster.converge().await;
    assert_eq!(cluster.journal("a").commands(), commands);
}

#[tokio::test(start_paused = true)]
async fn without_trailing_entries_the_log_may_become_empty() {
    let mut cluster =
        Cluster::with_config(["a"], |config| config.with(|it| it.trailing_logs = 0)).await;
    let leader = cluster.leader().await;
    apply_many(&leader, 100, 8).await;
    leader.snapshot().await.unwrap();
    let raft = cluster.restart("a").await;
    assert_eq!(raft.applied_index(), leader.applied_index());
    let leader = cluster.leader().await;
    assert_eq!(leader.apply("x").await.unwrap().response, 101);
    let raft = cluster.restart("a").await;
    raft.leader_changes().wait_for(Option::is_some).await.unwrap();
    assert_eq!(raft.apply("y").await.unwrap().response, 102);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_can_be_read_where_it_was_asked_for() {
    let cluster = Cluster::new(["a"]).await;
    let leader = cluster.leader().await;
    leader.apply("x").await.unwrap();
    let snapshot = leader.snapshot().await.unwrap();
    let mut bytes = Vec::new();
    snapshot.open().await.unwrap().read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes.len() as u64, snapshot.meta.size_bytes);
    let mut journal = Journal::default();
    journal.restore(Box::new(std::io::Cursor::new(bytes))).await.unwrap();
    assert_eq!(journal.commands(), ["x"]);
}

#[tokio::test(start_paused = true)]
async fn a_new_configuration_alone_is_something_new() {
    let cluster = Cluster::new(["a"]).await;
    let leader = cluster.leader().await;
    leader.snapshot().await.unwrap();
    assert!(matches!(leader.snapshot().await, Err(SnapshotError::NothingNew)));
    let index = leader.add_nonvoter("b", "b", None).await.unwrap();
    let snapshot = leader.snapshot().await.unwrap();
    assert_eq!((snapshot.meta.last.index, snapshot.meta.configuration.index), (index, index));
    assert!(matches!(leader.snapshot().await, Err(SnapshotError::NothingNew)));
}

async fn taken(raft: &Raft<Journal>) -> Vec<LogId> {
    let mut observer = raft.observe(1000, |seen| matches!(seen, Observation::SnapshotTaken { .. }));
    sleep(Duration::from_secs(25)).await;
    let mut taken = Vec::new();
    while let Some(Observation::SnapshotTaken { meta }) = observer.try_recv() {
        taken.push(meta.last);
    }
    taken
}

fn every_ten_seconds(config: Config) -> Config {
    config.with(|it| {
        it.snapshot_interval = Duration::from_secs(10);
        it.snapshot_threshold = 50;
    })
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_taken_when_many_entries_were_applied() {
    let cluster = Cluster::with_config(ABC, every_ten_seconds).await;
    let leader = cluster.leader().await;
    apply_many(&leader, 40, 8).await;
    assert_eq!(taken(&leader).await, [], "not many enough");
    apply_many(&leader, 20, 8).await;
    let last = leader.last_index();
    let snapshots = taken(&leader).await;
    assert_eq!(snapshots.iter().map(|last| last.index).collect::<Vec<_>>(), [last]);
    for raft in cluster.rafts() {
        assert_eq!(raft.status().await.unwrap().snapshot.index, last);
    }
    assert_eq!(taken(&leader).await, [], "nothing new");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_taken_when_the_log_has_grown_by_many_bytes() {
    let cluster = Cluster::with_config(["a"], |config| {
        config.with(|it| {
            it.snapshot_interval = Duration::from_secs(100_000);
            it.snapshot_threshold_bytes = 100 << 10;
        })
    })
    .await;
    let leader = cluster.leader().await;
    apply_many(&leader, 90, 1000).await;
    assert_eq!(taken(&leader).await, [], "less than 100 KiB");
    apply_many(&leader, 40, 1000).await;
    let before = leader.last_index();
    // Looked at every second.
    sleep(Duration::from_millis(1100)).await;
    assert_eq!(leader.status().await.unwrap().snapshot.index, before, "more than 125 KiB");
    apply_many(&leader, 90, 1000).await;
    assert_eq!(taken(&leader).await, [], "less than 100 KiB since the last one");
}

/// What a restart counts as growth is what came after the snapshot, not the whole log.
#[tokio::test(start_paused = true)]
async fn a_restart_does_not_make_a_snapshot_due() {
    let mut cluster = Cluster::with_config(["a"], |config| {
        config.with(|it| {
            it.snapshot_interval = Duration::from_secs(100_000);
            it.snapshot_threshold_bytes = 100 << 10;
        })
    })
    .await;
    let leader = cluster.leader().await;
    apply_many(&leader, 200, 1000).await;
    let last = leader.snapshot().await.unwrap().meta.last;
    let raft = cluster.restart("a").await;
    cluster.leader().await.apply("x").await.unwrap();
    assert_eq!(taken(&raft).await, []);
    assert_eq!(raft.status().await.unwrap().snapshot, last);
}

async fn single<F: Fsm>(fsm: F, configure: fn(Config) -> Config) -> Raft<F> {
    let network = InmemNetwork::new();
    let raft = Raft::new(
        configure(Config::new("a").with_seed(1)),
        fsm,
        InmemLogStore::new(),
        InmemStableStore::new(),
        Arc::new(InmemSnapshotStore::new()),
        network.transport("a"),
    )
    .await
    .unwrap();
    raft.bootstrap_cluster(Configuration::new([Server::voter("a", "a")])).await.unwrap();
    raft.leader_changes().wait_for(Option::is_some).await.unwrap();
    raft
}

/// Counts how often it is asked for a snapshot, and has none.
struct Without(Arc<AtomicUsize>);

impl Fsm for Without {
    type Response = ();

    fn apply(&mut self, _: &Entry) {}

    fn snapshot(&mut self) -> Result<Box<dyn FsmSnapshot>, FsmError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        // What the default does.
        Plain.snapshot()
    }
}

struct Plain;

impl Fsm for Plain {
    type Response = ();

    fn apply(&mut self, _: &Entry) {}
}

#[tokio::test(start_paused = true)]
async fn a_state_machine_without_snapshots_is_asked_once() {
    let asked = Arc::new(AtomicUsize::new(0));
    let raft = single(Without(Arc::clone(&asked)), every_ten_seconds).await;
    for _ in 0..100 {
        raft.apply("x").await.unwrap();
    }
    sleep(Duration::from_secs(1000)).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert!(matches!(raft.snapshot().await, Err(SnapshotError::Unsupported)));
    assert_eq!(raft.marks().first.0, 1);
    raft.shutdown().await;
}

/// Fails to take a view a few times.
struct Flaky(usize, Journal);

impl Fsm for Flaky {
    type Response = u64;

    fn apply(&mut self, entry: &Entry) -> u64 {
        self.1.apply(entry)
    }

    fn snapshot(&mut self) -> Result<Box<dyn FsmSnapshot>, FsmError> {
        self.0 = self.0.saturating_sub(1);
        if self.0 == 0 { self.1.snapshot() } else { Err("not now".into()) }
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_failed_is_tried_again_when_the_interval_is_over() {
    let raft = single(Flaky(4, Journal::default()), every_ten_seconds).await;
    for _ in 0..60 {
        raft.apply("x").await.unwrap();
    }
    sleep(Duration::from_secs(19)).await;
    assert_eq!(raft.status().await.unwrap().snapshot, LogId::ZERO);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(raft.status().await.unwrap().snapshot.index, raft.last_index());
    raft.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_full_costs_the_snapshot_only() {
    let cluster = Cluster::new(["a"]).await;
    let leader = cluster.leader().await;
    leader.apply("x").await.unwrap();
    cluster.disk("a").fail_writes_after(0);
    assert!(matches!(leader.snapshot().await, Err(SnapshotError::Store(_))));
    cluster.disk("a").heal();
    leader.apply("y").await.unwrap();
    leader.snapshot().await.unwrap();
    assert_eq!(cluster.stores("a").2.list().await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn status_shows_a_snapshot_that_is_being_written() {
    let cluster = Cluster::new(["a"]).await;
    let leader = cluster.leader().await;
    apply_many(&leader, 10, 100).await;
    cluster.disk("a").pause_writes();
    let taking = tokio::spawn({
        let leader = leader.clone();
        async move { leader.snapshot().await }
    });
    sleep(Duration::from_millis(10)).await;
    let progress = leader.status().await.unwrap().persisting.unwrap();
    assert_eq!((progress.last.index, progress.size_bytes), (leader.last_index(), None));
    assert!(1000 < progress.bytes, "{progress:?}");
    cluster.disk("a").resume_writes();
    let snapshot = taking.await.unwrap().unwrap();
    assert_eq!(snapshot.meta.size_bytes, progress.bytes);
    assert_eq!(leader.status().await.unwrap().persisting, None);
}
