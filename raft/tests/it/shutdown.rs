//! How a node ends.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use raft::{
    Config, Configuration, Entries, Entry, Fatal, Fsm, LogIndex, LogReader, LogStore, Raft, Role,
    Server, StoreError, Transport,
    inmem::{InmemLogStore, InmemNetwork, InmemSnapshotStore, InmemStableStore},
    testing::{Cluster, Journal},
};
use tokio::time::timeout;

use crate::logs::NobodyReads;

const ABC: [&str; 3] = ["a", "b", "c"];

async fn single<F: Fsm>(fsm: F, log: impl LogStore) -> (Raft<F>, InmemNetwork) {
    let network = InmemNetwork::new();
    let raft = Raft::new(
        Config::new("a"),
        fsm,
        log,
        InmemStableStore::new(),
        Arc::new(InmemSnapshotStore::new()),
        network.transport("a"),
    )
    .await
    .unwrap();
    (raft, network)
}

fn alone() -> Configuration {
    Configuration::new([Server::voter("a", "a")])
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_every_task_and_says_the_same_every_time() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    leader.apply("x").await.unwrap();
    let (first, second) = tokio::join!(leader.shutdown(), leader.shutdown());
    for fatal in [first, second, leader.shutdown().await, leader.fatal().unwrap()] {
        assert!(matches!(fatal, Fatal::Shutdown));
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_the_end_is_told_why_and_ends_nothing() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let waiting = tokio::spawn({
        let leader = leader.clone();
        async move { leader.ended().await }
    });
    leader.apply("x").await.unwrap();
    assert!(timeout(Duration::from_secs(3600), leader.ended()).await.is_err());
    leader.apply("panic").await.unwrap_err();
    let ended = waiting.await.unwrap();
    assert!(matches!(ended, Fatal::Panicked { task: "run_fsm", .. }), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_ends_leads_no_more() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let mut changes = leader.leader_changes();
    leader.apply("panic").await.unwrap_err();
    changes.wait_for(Option::is_none).await.unwrap();
    assert_eq!((leader.role(), leader.leader()), (Role::Follower, None));
}

#[tokio::test(start_paused = true)]
async fn a_stopped_server_leaves_its_address_free() {
    let mut cluster = Cluster::new(["a"]).await;
    for _ in 0..3 {
        cluster.leader().await.apply("x").await.unwrap();
        cluster.restart("a").await;
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_stops_the_server() {
    let (raft, network) = single(Journal::default(), InmemLogStore::new()).await;
    raft.bootstrap_cluster(alone()).await.unwrap();
    let clone = raft.clone();
    let mut leader = raft.leader_changes();
    leader.wait_for(Option::is_some).await.unwrap();
    drop(raft);
    clone.apply("x").await.unwrap();
    let future = clone.apply("y");
    drop(clone);
    // It was taken up or it was not; either way it is answered.
    let _ = future.await;
    // The watch ends with everything that could write to it.
    while leader.changed().await.is_ok() {}
    let _free = network.transport("a");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_joined_a_cluster_stops_too() {
    let (raft, _network) = single(Journal::default(), InmemLogStore::new()).await;
    assert!(matches!(raft.shutdown().await, Fatal::Shutdown));
}

#[tokio::test(start_paused = true)]
async fn shutdown_finishes_the_write_under_way() {
    let cluster = Cluster::new(["a"]).await;
    let leader = cluster.leader().await;
    cluster.disk("a").pause_writes();
    let future = leader.apply("x");
    tokio::time::sleep(Duration::from_millis(1)).await;
    let stopping = tokio::spawn({
        let leader = leader.clone();
        async move { leader.shutdown().await }
    });
    // The caller is told at once; the disk is not pulled away.
    future.await.unwrap_err();
    assert!(timeout(Duration::from_secs(60), leader.shutdown()).await.is_err());
    cluster.disk("a").resume_writes();
    assert!(matches!(stopping.await.unwrap(), Fatal::Shutdown));
    let (log, _, _) = cluster.stores("a");
    assert_eq!(log.reader().bounds().await.unwrap().unwrap().1, leader.last_index());
}

#[tokio::test(start_paused = true)]
async fn a_panicking_state_machine_ends_its_server_only() {
    let mut cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let error = leader.apply("panic").await.unwrap_err();
    assert!(error.to_string().contains("told to panic"), "{error}");
    assert!(matches!(leader.shutdown().await, Fatal::Panicked { task: "run_fsm", .. }));
    // The command is poison for the next leader as well, which leaves no majority; but the process
    // and the server that is left live on.
    let mut ended = 1;
    for id in ABC.into_iter().filter(|id| *id != leader.id().as_str()) {
        let raft = cluster.raft(id);
        let wait = timeout(Duration::from_secs(60), raft.wait_applied(LogIndex(u64::MAX)));
        ended += usize::from(wait.await.is_ok());
    }
    assert_eq!(ended, 2);
    cluster.shutdown().await;
}

/// Panics on a thread of the blocking pool.
struct BlockingPanic;

impl Fsm for BlockingPanic {
    type Response = ();

    fn apply(&mut self, _: &Entry) {
        panic!("on another thread");
    }

    fn is_blocking(&self) -> bool {
        true
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_on_another_thread_is_told_too() {
    let (raft, _network) = single(BlockingPanic, InmemLogStore::new()).await;
    raft.bootstrap_cluster(alone()).await.unwrap();
    raft.leader_changes().wait_for(Option::is_some).await.unwrap();
    raft.apply("x").await.unwrap_err();
    let fatal = raft.shutdown().await;
    let Fatal::Panicked { task: "run_fsm", message } = fatal else { panic!("{fatal}") };
    assert_eq!(&*message, "on another thread");
}

/// Gives one response too few.
struct Stingy;

impl Fsm for Stingy {
    type Response = ();

    fn apply(&mut self, _: &Entry) {}

    fn apply_batch(&mut self, _: &[&Entry], _: &mut Vec<()>) {}
}

#[tokio::test(start_paused = true)]
async fn a_state_machine_that_owes_responses_ends_the_node() {
    let (raft, _network) = single(Stingy, InmemLogStore::new()).await;
    raft.bootstrap_cluster(alone()).await.unwrap();
    raft.leader_changes().wait_for(Option::is_some).await.unwrap();
    raft.apply("x").await.unwrap_err();
    let fatal = raft.shutdown().await;
    assert!(fatal.to_string().contains("gave 0 responses to 1 commands"), "{fatal}");
}

/// Panics when it is written to, or read from, as it is told.
struct PanickingLog {
    log: InmemLogStore,
    on_append: bool,
}

#[async_trait::async_trait]
impl LogStore for PanickingLog {
    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(PanickingReader(self.log.reader()))
    }

    async fn append(&mut self, batches: &[Entries]) -> Result<(), StoreError> {
        let last = batches.last().and_then(Entries::last_id);
        let is_first = last.is_none_or(|last| last.index <= LogIndex(3));
        assert!(!self.on_append || is_first, "the store panicked");
        self.log.append(batches).await
    }

    async fn truncate_suffix(&mut self, from: LogIndex) -> Result<(), StoreError> {
        self.log.truncate_suffix(from).await
    }

    async fn truncate_prefix(&mut self, through: LogIndex) -> Result<(), StoreError> {
        self.log.truncate_prefix(through).await
    }
}

struct PanickingReader(Arc<dyn LogReader>);

#[async_trait::async_trait]
impl LogReader for PanickingReader {
    async fn bounds(&self) -> Result<Option<(LogIndex, LogIndex)>, StoreError> {
        self.0.bounds().await
    }

    async fn read(&self, _: RangeInclusive<LogIndex>, _: u64) -> Result<Entries, StoreError> {
        panic!("the reader panicked")
    }
}

#[tokio::test(start_paused = true)]
async fn a_panicking_store_ends_the_node_and_does_not_hang_it() {
    let log = PanickingLog { log: InmemLogStore::new(), on_append: true };
    let (raft, _network) = single(Journal::default(), log).await;
    raft.bootstrap_cluster(alone()).await.unwrap();
    raft.leader_changes().wait_for(Option::is_some).await.unwrap();
    let futures: Vec<_> = (0..10).map(|_| raft.apply("x")).collect();
    for future in futures {
        future.await.unwrap_err();
    }
    let fatal = raft.shutdown().await;
    let Fatal::Panicked { task: "run_log", message } = fatal else { panic!("{fatal}") };
    assert_eq!(&*message, "the store panicked");
}

#[tokio::test(start_paused = true)]
async fn a_panicking_reader_ends_the_node() {
    let network = InmemNetwork::new();
    let log = PanickingLog { log: InmemLogStore::new(), on_append: false };
    let raft = Raft::new(
        Config::new("a").with(|it| it.log_cache_bytes = 0),
        Journal::default(),
        log,
        InmemStableStore::new(),
        Arc::new(InmemSnapshotStore::new()),
        network.transport("a"),
    )
    .await
    .unwrap();
    raft.bootstrap_cluster(alone()).await.unwrap();
    raft.apply("x").await.unwrap_err();
    let fatal = raft.shutdown().await;
    assert!(matches!(fatal, Fatal::Panicked { task: "run_fsm", .. }), "{fatal}");
}

#[test]
fn a_runtime_that_ends_answers_everybody() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (raft, future) = runtime.block_on(async {
        let (raft, _network) = single(Journal::default(), InmemLogStore::new()).await;
        // Nobody leads: the request may be refused before the runtime ends, or be lost with it.
        let future = raft.apply("x");
        (raft, future)
    });
    drop(runtime);
    let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    other.block_on(async {
        future.await.unwrap_err();
        raft.apply("y").await.unwrap_err();
        assert!(matches!(raft.shutdown().await, Fatal::Shutdown));
    });
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_gracefully_leaves_a_leader_behind() {
    let cluster = Cluster::new(["a", "b", "c"]).await;
    let leader = cluster.leader().await;
    leader.apply("x").await.unwrap();
    let others = cluster.followers();
    let start = tokio::time::Instant::now();
    assert!(matches!(leader.shutdown_gracefully().await, Fatal::Shutdown));
    let next = cluster.leader_among(&others).await;
    // No election timeout had to pass.
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    next.apply("y").await.unwrap();

    // Without anybody to hand over to, and on a follower, it just stops.
    for raft in others {
        assert!(matches!(raft.shutdown_gracefully().await, Fatal::Shutdown));
    }
}

/// Waits for the end of a node, and for what an observer of it is told.
async fn told(raft: &Raft<Journal>, observer: &mut raft::Observer) -> Fatal {
    let ended = timeout(Duration::from_secs(60), raft.ended()).await.expect("the end is told");
    let observed = timeout(Duration::from_secs(60), observer.recv()).await;
    assert_eq!(observed, Ok(None), "observations end with the node");
    ended
}

/// The report of a panic panics too: whoever waits is told of the end all the same.
#[tokio::test(start_paused = true)]
async fn the_end_is_told_when_nobody_reads_the_log() {
    let (nobody_reads, _guard) = NobodyReads::install();
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    leader.apply("x").await.unwrap();
    let mut observer = leader.observe(1, |_| false);
    nobody_reads.begin();
    // Gives its main task something to say.
    leader.leadership_transfer().await.unwrap_err();
    let ended = told(&leader, &mut observer).await;
    let Fatal::Panicked { task: "run", message } = ended else { panic!("{ended}") };
    assert_eq!(&*message, NobodyReads::SAYS);
    assert_eq!((leader.role(), leader.leader()), (Role::Follower, None));
    nobody_reads.end();
}

/// Something of the user's that cannot even be dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_is_told_when_what_goes_with_it_panics() {
    let (raft, _network) = single(Journal::default(), InmemLogStore::new()).await;
    let bomb = Bomb;
    let mut first = raft.observe(1, |_| false);
    let mut observer = raft.observe(1, move |_| {
        let _held = &bomb;
        false
    });
    raft.bootstrap_cluster(alone()).await.unwrap();
    let ended = timeout(Duration::from_secs(60), raft.shutdown()).await.expect("the end is told");
    assert!(matches!(ended, Fatal::Shutdown), "{ended}");
    assert!(matches!(told(&raft, &mut observer).await, Fatal::Shutdown));
    assert_eq!(first.recv().await, None);
}

/// A panic whose payload panics when it is dropped.
struct Explosive;

impl Fsm for Explosive {
    type Response = ();

    fn apply(&mut self, _: &Entry) {
        std::panic::panic_any(Bomb);
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_is_told_whatever_a_panic_carries() {
    let (raft, _network) = single(Explosive, InmemLogStore::new()).await;
    raft.bootstrap_cluster(alone()).await.unwrap();
    raft.leader_changes().wait_for(Option::is_some).await.unwrap();
    raft.apply("x").await.unwrap_err();
    let ended = timeout(Duration::from_secs(60), raft.ended()).await.expect("the end is told");
    let Fatal::Panicked { task: "run_fsm", message } = ended else { panic!("{ended}") };
    assert_eq!(&*message, "no message");
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_gives_its_inbox_up_ends_the_server() {
    let network = InmemNetwork::new();
    let transport = network.transport("a");
    let raft = Raft::new(
        Config::new("a"),
        Journal::default(),
        InmemLogStore::new(),
        InmemStableStore::new(),
        Arc::new(InmemSnapshotStore::new()),
        Arc::<raft::inmem::InmemTransport>::clone(&transport),
    )
    .await
    .unwrap();
    raft.bootstrap_cluster(alone()).await.unwrap();
    transport.close().await;
    let ended = timeout(Duration::from_secs(60), raft.ended()).await.expect("the end is told");
    assert!(matches!(ended, Fatal::TransportClosed), "{ended}");
}
