//! What a server remembers when it is started again on the same stores.

use std::sync::Arc;

use raft::{
    Config, Entry, Fsm, LogIndex, Raft, RestoreFailure, SnapshotError, SnapshotReader,
    SnapshotStore, StartError,
    inmem::{InmemNetwork, InmemSnapshotStore},
    testing::{Cluster, Journal},
};

const ABC: [&str; 3] = ["a", "b", "c"];

#[tokio::test(start_paused = true)]
async fn data_and_term_survive_the_restart_of_every_server() {
    let mut cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    for number in 0..100 {
        leader.apply(format!("{number}")).await.unwrap();
    }
    cluster.converge().await;
    let term = leader.term();
    let commands = cluster.journal("a").commands();
    cluster.shutdown().await;
    for id in ABC {
        let raft = cluster.start(id).await;
        assert_eq!(raft.term(), term, "law 6");
        assert_eq!(raft.last_index(), leader.last_index());
    }
    let leader = cluster.leader().await;
    assert!(term < leader.term());
    cluster.converge().await;
    assert_eq!(cluster.journal("a").commands(), commands);
}

#[tokio::test(start_paused = true)]
async fn a_single_server_recovers_by_itself() {
    let mut cluster = Cluster::new(["a"]).await;
    cluster.leader().await.apply("x").await.unwrap();
    cluster.restart("a").await;
    assert_eq!(cluster.leader().await.apply("y").await.unwrap().response, 2);
}

#[tokio::test(start_paused = true)]
async fn the_state_comes_from_the_snapshot_and_the_rest_from_the_log() {
    let mut cluster = Cluster::new(["a"]).await;
    let leader = cluster.leader().await;
    let applied = leader.apply("x").await.unwrap();
    let meta = leader.snapshot().await.unwrap().meta;
    assert_eq!((meta.last.index, meta.last.term), (applied.index, leader.term()));
    assert_eq!(meta.configuration.configuration.to_string(), "a");
    leader.apply("y").await.unwrap();
    let raft = cluster.restart("a").await;
    assert_eq!(raft.applied_index(), applied.index, "nothing is committed yet but the snapshot");
    assert_eq!(raft.commit_index(), applied.index);
    assert_eq!(raft.status().await.unwrap().snapshot, meta.last);
    assert_eq!(cluster.journal("a").commands(), ["x"]);
    assert_eq!(cluster.leader().await.apply("z").await.unwrap().response, 3);
    assert_eq!(cluster.journal("a").commands(), ["x", "y", "z"]);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_needs_something_new() {
    let mut cluster = Cluster::new(["a"]).await;
    let leader = cluster.leader().await;
    leader.apply("x").await.unwrap();
    leader.snapshot().await.unwrap();
    assert!(matches!(leader.snapshot().await, Err(SnapshotError::NothingNew)));
    let raft = cluster.restart("a").await;
    assert!(matches!(raft.snapshot().await, Err(SnapshotError::NothingNew)));
    cluster.leader().await;
    raft.snapshot().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn followers_take_snapshots_too() {
    let cluster = Cluster::new(ABC).await;
    cluster.leader().await.apply("x").await.unwrap();
    cluster.converge().await;
    for raft in cluster.rafts() {
        raft.snapshot().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn commands_go_on_while_a_snapshot_is_written() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    leader.apply("x").await.unwrap();
    cluster.converge().await;
    let follower = cluster.followers()[0].clone();
    cluster.disk(follower.id().as_str()).pause_writes();
    let snapshot = tokio::spawn({
        let follower = follower.clone();
        async move { follower.snapshot().await }
    });
    for _ in 0..10 {
        leader.apply("y").await.unwrap();
    }
    cluster.disk(follower.id().as_str()).resume_writes();
    snapshot.await.unwrap().unwrap();
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_down_catches_up() {
    let mut cluster = Cluster::new(ABC).await;
    cluster.leader().await;
    let follower = cluster.followers()[0].id().to_string();
    cluster.stop(&follower).await;
    let leader = cluster.leader().await;
    for number in 0..3000 {
        drop(leader.apply(format!("{number}")));
        if number % 500 == 0 {
            leader.barrier().await.unwrap();
        }
    }
    leader.barrier().await.unwrap();
    cluster.start(&follower).await;
    cluster.converge().await;
    assert_eq!(cluster.journal(&follower).commands().len(), 3000);
}

#[tokio::test(start_paused = true)]
async fn followers_and_state_machine_are_served_from_the_store_when_memory_is_short() {
    let configure = |config: Config| {
        config.with(|it| {
            it.log_cache_bytes = 0;
            it.max_append_bytes = 1024;
        })
    };
    let mut cluster = Cluster::with_config(ABC, configure).await;
    let leader = cluster.leader().await;
    let follower = cluster.followers()[0].id().to_string();
    cluster.stop(&follower).await;
    for number in 0..200 {
        leader.apply(format!("{number}")).await.unwrap();
    }
    cluster.start(&follower).await;
    cluster.converge().await;
    for id in ABC {
        cluster.restart(id).await;
    }
    cluster.converge().await;
    assert_eq!(cluster.journal(&follower).commands().len(), 200);
}

/// Cannot be restored.
struct Forgetful;

impl Fsm for Forgetful {
    type Response = ();

    fn apply(&mut self, _: &Entry) {}
}

/// Restores only snapshots of a single command.
struct Picky(Journal);

impl Fsm for Picky {
    type Response = u64;

    fn apply(&mut self, entry: &Entry) -> u64 {
        self.0.apply(entry)
    }

    async fn restore(&mut self, reader: SnapshotReader) -> Result<(), raft::FsmError> {
        self.0.restore(reader).await?;
        let count = self.0.commands().len();
        if count == 1 { Ok(()) } else { Err(format!("{count} commands").into()) }
    }
}

async fn two_snapshots() -> (Cluster, LogIndex) {
    let mut cluster = Cluster::new(["a"]).await;
    let leader = cluster.leader().await;
    leader.apply("x").await.unwrap();
    let first = leader.snapshot().await.unwrap().meta.last.index;
    leader.apply("y").await.unwrap();
    leader.snapshot().await.unwrap();
    cluster.stop("a").await;
    (cluster, first)
}

async fn start<F: Fsm>(cluster: &Cluster, fsm: F) -> Result<Raft<F>, StartError> {
    let (log, stable, snapshots) = cluster.stores("a");
    let transport = InmemNetwork::new().transport("a");
    Raft::new(Config::new("a"), fsm, log, stable, Arc::new(snapshots), transport).await
}

#[tokio::test(start_paused = true)]
async fn an_older_snapshot_is_used_when_the_newest_cannot_be() {
    let (cluster, first) = two_snapshots().await;
    let journal = Journal::default();
    let raft = start(&cluster, Picky(journal.clone())).await.unwrap();
    assert_eq!(raft.applied_index(), first);
    raft.leader_changes().wait_for(Option::is_some).await.unwrap();
    raft.barrier().await.unwrap();
    assert_eq!(journal.commands(), ["x", "y"]);
}

#[tokio::test(start_paused = true)]
async fn a_start_without_a_usable_snapshot_is_refused() {
    let (cluster, _) = two_snapshots().await;
    let error = start(&cluster, Forgetful).await.unwrap_err();
    let StartError::Snapshot { tried: 2, reason } = &error else { panic!("{error}") };
    let RestoreFailure::Fsm { reason } = reason else { panic!("{reason}") };
    assert!(reason.contains("does not implement snapshots"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_start_on_a_log_that_was_cut_beyond_the_snapshot_is_refused() {
    use raft::LogStore;
    let (cluster, first) = two_snapshots().await;
    let (mut log, _, _) = cluster.stores("a");
    log.truncate_prefix(first.next()).await.unwrap();
    let error = start(&cluster, Picky(Journal::default())).await.unwrap_err();
    assert!(matches!(error, StartError::Store(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_start_with_an_invalid_setting_or_an_unreadable_store_is_refused() {
    let (cluster, _) = two_snapshots().await;
    let (log, stable, _) = cluster.stores("a");
    let config = Config::new("a").with(|it| it.max_apply_batch = 0);
    let snapshots = Arc::new(InmemSnapshotStore::new());
    let transport = InmemNetwork::new().transport("a");
    let error = Raft::new(config, Forgetful, log, stable, snapshots, transport).await.unwrap_err();
    assert!(matches!(error, StartError::Config(_)), "{error}");
    cluster.disk("a").fail_reads();
    let error = start(&cluster, Journal::default()).await.unwrap_err();
    assert!(matches!(error, StartError::Store(_)), "{error}");
    cluster.disk("a").heal();
    let (_, _, snapshots) = cluster.stores("a");
    assert_eq!(snapshots.list().await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_start_on_an_address_in_use_is_refused_and_leaves_nothing_running() {
    let mut cluster = Cluster::new(["a"]).await;
    cluster.leader().await;
    let (log, stable, snapshots) =
        (Default::default(), Default::default(), InmemSnapshotStore::new());
    let log: raft::inmem::InmemLogStore = log;
    let stable: raft::inmem::InmemStableStore = stable;
    let transport = cluster.network().transport("a");
    let second =
        Raft::new(Config::new("b"), Forgetful, log, stable, Arc::new(snapshots), transport).await;
    assert!(matches!(second, Err(StartError::Transport(_))), "{second:?}");
    cluster.restart("a").await;
    cluster.leader().await.apply("x").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_noted_as_committed_is_applied_before_anybody_leads() {
    let mut cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    for number in 0..20 {
        leader.apply(format!("{number}")).await.unwrap();
    }
    cluster.converge().await;
    cluster.shutdown().await;
    for id in ABC {
        let raft = cluster.start(id).await;
        let (log, _, _) = cluster.stores(id);
        let noted = raft::LogStore::reader(&log).noted_commit().await.unwrap().unwrap();
        raft.wait_applied(noted).await.unwrap();
        assert_eq!(raft.leader(), None);
        let commands = cluster.journal(id).commands().len();
        assert!(19 <= commands, "{id} knows of {commands}");
        assert_eq!(raft.commit_index(), noted);
        cluster.stop(id).await;
    }
}
