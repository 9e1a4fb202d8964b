//! A server on snapshots in files: what it starts from, and when it refuses to.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use raft::{
    Config, Configuration, FileSnapshotStore, LogId, LogIndex, LogStore, Message, Raft,
    RestoreFailure, Server, SnapshotMeta, SnapshotStore, StartError, StoreError,
    inmem::{InmemLogStore, InmemNetwork, InmemStableStore},
    testing::Journal,
};
use tempfile::TempDir;
use tokio::time::sleep;

/// What a server leaves behind.
struct Stores {
    log: InmemLogStore,
    stable: InmemStableStore,
    snapshots: TempDir,
}

impl Stores {
    async fn start(&self) -> Result<(Raft<Journal>, Journal), StartError> {
        let journal = Journal::default();
        let snapshots = FileSnapshotStore::open(&self.snapshots, 2)?;
        let raft = Raft::new(
            Config::new("a"),
            journal.clone(),
            self.log.clone(),
            self.stable.clone(),
            Arc::new(snapshots),
            InmemNetwork::new().transport("a"),
        )
        .await?;
        Ok((raft, journal))
    }

    fn damage(&self, meta: &SnapshotMeta, file: &str) {
        let path = self.snapshots.path().join(meta.id.as_str()).join(file);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path, bytes).unwrap();
    }
}

/// A stopped server with the commands x, y and z, and a snapshot after each of the first two.
async fn two_snapshots() -> (Stores, [SnapshotMeta; 2]) {
    let stores = Stores {
        log: InmemLogStore::new(),
        stable: InmemStableStore::new(),
        snapshots: tempfile::tempdir().unwrap(),
    };
    let (raft, _) = stores.start().await.unwrap();
    raft.bootstrap_cluster(Configuration::new([Server::voter("a", "a")])).await.unwrap();
    raft.leader_changes().wait_for(Option::is_some).await.unwrap();
    raft.apply("x").await.unwrap();
    let first = raft.snapshot().await.unwrap().meta;
    raft.apply("y").await.unwrap();
    let second = raft.snapshot().await.unwrap().meta;
    raft.apply("z").await.unwrap();
    raft.shutdown().await;
    drop(raft);
    (stores, [first, second])
}

async fn assert_recovers(stores: &Stores, from: &SnapshotMeta) {
    let (raft, journal) = stores.start().await.unwrap();
    assert_eq!(raft.applied_index(), from.last.index);
    raft.leader_changes().wait_for(Option::is_some).await.unwrap();
    raft.barrier().await.unwrap();
    assert_eq!(journal.commands(), ["x", "y", "z"]);
    raft.shutdown().await;
}

fn is_there(path: &Path) -> bool {
    path.try_exists().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_server_starts_from_the_newest_snapshot() {
    let (stores, [_, second]) = two_snapshots().await;
    assert_recovers(&stores, &second).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_starts_from_an_older_snapshot_and_the_log_when_the_newest_is_damaged() {
    for file in ["data", "meta"] {
        let (stores, [first, second]) = two_snapshots().await;
        stores.damage(&second, file);
        assert_recovers(&stores, &first).await;
    }
}

/// Law 7: the damaged snapshot alone stands for what the log has lost.
#[tokio::test(start_paused = true)]
async fn a_server_whose_log_needs_the_damaged_snapshot_does_not_start_without_it() {
    for file in ["data", "meta"] {
        let (mut stores, [first, second]) = two_snapshots().await;
        stores.damage(&second, file);
        // The log ends before what the damaged snapshot covers, and has no gap by itself.
        stores.log.truncate_suffix(first.last.index.next()).await.unwrap();
        let error = stores.start().await.err().unwrap();
        assert!(matches!(error, StartError::Store(_)), "{error}");
        let text = error.to_string();
        assert!(text.contains("only a newer snapshot stands for"), "{text}");
        assert!(is_there(&stores.snapshots.path().join(second.id.as_str())), "it is kept");
    }
}

/// What is left of a restore that came to nothing reaches further than the damaged snapshot, and is
/// older all the same.
#[tokio::test(start_paused = true)]
async fn a_snapshot_that_never_counted_does_not_stand_in_for_a_damaged_one() {
    let (mut stores, [_, second]) = two_snapshots().await;
    let junk = LogId::new(second.last.term.0 - 1, second.last.index.0 + 100);
    let snapshots = FileSnapshotStore::open(&stores.snapshots, 2).unwrap();
    let sink = snapshots.create(junk, second.configuration.clone()).await.unwrap();
    sink.finish().await.unwrap();
    drop(snapshots);
    stores.damage(&second, "data");
    stores.log.truncate_prefix(LogIndex(u64::MAX)).await.unwrap();
    let error = stores.start().await.err().unwrap();
    assert!(error.to_string().contains("only a newer snapshot stands for"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_server_without_any_usable_snapshot_does_not_start() {
    let (stores, [first, second]) = two_snapshots().await;
    stores.damage(&first, "meta");
    stores.damage(&second, "meta");
    let error = stores.start().await.err().unwrap();
    let StartError::Snapshot { tried: 2, reason } = &error else { panic!("{error}") };
    let RestoreFailure::Store(reason @ StoreError::Corrupt { .. }) = reason else {
        panic!("{reason}")
    };
    assert!(reason.to_string().contains(second.id.as_str()), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn stores_with_only_a_damaged_snapshot_are_not_bootstrapped_again() {
    let (stores, [first, second]) = two_snapshots().await;
    stores.damage(&first, "meta");
    stores.damage(&second, "meta");
    let snapshots = FileSnapshotStore::open(&stores.snapshots, 2).unwrap();
    let (log, mut stable) = (InmemLogStore::new(), InmemStableStore::new());
    assert!(raft::has_existing_state(&log, &mut stable, &snapshots).await.unwrap());
}

/// Every snapshot that is tried is let go of again.
#[tokio::test(start_paused = true)]
async fn a_start_leaves_no_snapshot_open() {
    let (stores, [_, second]) = two_snapshots().await;
    stores.damage(&second, "data");
    let (raft, _) = stores.start().await.unwrap();
    let directory = fs::canonicalize(&stores.snapshots).unwrap();
    let open = fs::read_dir("/proc/self/fd").unwrap().filter_map(|file| {
        let path = fs::read_link(file.unwrap().path()).ok()?;
        (path.starts_with(&directory) && path.ends_with("data")).then_some(path)
    });
    assert_eq!(open.collect::<Vec<_>>(), Vec::<std::path::PathBuf>::new());
    raft.shutdown().await;
}

/// From one directory to another, with a broken connection in the middle, and a restart on what
/// arrived.
#[tokio::test(start_paused = true)]
async fn a_snapshot_travels_from_files_to_files() {
    let network = InmemNetwork::new();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let logs = [InmemLogStore::new(), InmemLogStore::new()];
    let stables = [InmemStableStore::new(), InmemStableStore::new()];
    let start = async |server: usize, id: &str| {
        let journal = Journal::default();
        let raft = Raft::new(
            Config::new(id).with_seed(1).with(|it| {
                it.trailing_logs = 0;
                it.snapshot_chunk_bytes = 16 << 10;
            }),
            journal.clone(),
            logs[server].clone(),
            stables[server].clone(),
            Arc::new(FileSnapshotStore::open(&dirs[server], 2).unwrap()),
            network.transport(id),
        );
        (raft.await.unwrap(), journal)
    };
    let (leader, original) = start(0, "a").await;
    leader.bootstrap_cluster(Configuration::new([Server::voter("a", "a")])).await.unwrap();
    leader.leader_changes().wait_for(Option::is_some).await.unwrap();
    let commands = (0..1000).map(|number| format!("{number:01000}").into()).collect();
    leader.apply_batch(commands).await.unwrap();
    let meta = leader.snapshot().await.unwrap().meta;
    let pieces = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&pieces);
    network.set_tap(move |_, _, message| {
        let is_piece = matches!(message, Message::InstallSnapshot(_));
        count.fetch_add(u64::from(is_piece), Ordering::Relaxed);
    });
    network.set_delay(Duration::from_millis(10));
    let (follower, _) = start(1, "b").await;
    leader.add_nonvoter("b", "b", None).await.unwrap();
    while pieces.load(Ordering::Relaxed) < 30 {
        sleep(Duration::from_millis(1)).await;
    }
    network.disconnect("b");
    sleep(Duration::from_secs(5)).await;
    network.connect("b");
    let index = leader.barrier().await.unwrap();
    follower.wait_applied(index).await.unwrap();
    let whole = meta.size_bytes.div_ceil(16 << 10);
    let sent = pieces.load(Ordering::Relaxed);
    assert!(sent < whole + 20, "{sent} pieces of {whole}");
    follower.shutdown().await;
    drop(follower);
    let (follower, copy) = start(1, "b").await;
    follower.wait_applied(index).await.unwrap();
    assert!(copy.commands() == original.commands());
    follower.shutdown().await;
    leader.shutdown().await;
}
