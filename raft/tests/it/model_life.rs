//! Rows of the model's catalogue about the life of a server: starting, being told who leads,
//! failing, starting again.

use std::time::Duration;

use raft::{
    Config, Configuration, Fatal, LogIndex, Message, Role, Server, SnapshotError, Suffrage, Term,
    has_existing_state, inmem::InmemStableStore, rpc::HeartbeatRequest, testing::Cluster,
};
use tokio::time::{Instant, sleep, timeout};

use crate::model_support::*;

/// R07: a fresh server has no state, one that a leader has brought in has.
#[tokio::test(start_paused = true)]
async fn a_server_that_joined_a_cluster_has_state() {
    let mut cluster = Cluster::new(["a"]).await;
    let leader = cluster.leader().await;
    cluster.start("b").await;
    let has_state = async |cluster: &Cluster| {
        let (log, mut stable, snapshots): (_, InmemStableStore, _) = cluster.stores("b");
        has_existing_state(&log, &mut stable, &snapshots).await.unwrap()
    };
    assert!(!has_state(&cluster).await);
    leader.add_voter("b", "b", None).await.unwrap();
    cluster.converge().await;
    assert!(has_state(&cluster).await);
}

/// R09: there is one leader, and it stays.
#[tokio::test(start_paused = true)]
async fn a_healthy_cluster_keeps_its_only_leader() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let term = leader.term();
    for _ in 0..60 {
        sleep(ELECTION).await;
        assert_eq!(ids(&leaders(&cluster)), [leader.id().as_str()]);
    }
    leader.apply("x").await.unwrap();
    cluster.converge().await;
    for id in ABC {
        assert_eq!(cluster.raft(id).term(), term);
        assert_eq!(cluster.journal(id).commands(), ["x"]);
    }
}

/// R14: a server is told that it leads now, and that it does not any more.
#[tokio::test(start_paused = true)]
async fn a_server_is_told_that_it_leads_and_that_it_leads_no_more() {
    let mut cluster = Cluster::new([]).await;
    let raft = cluster.start("a").await;
    let mut changes = raft.leader_changes();
    assert_eq!(*changes.borrow_and_update(), None);
    let voters = Configuration::new([Server::voter("a", "a"), Server::voter("b", "b")]);
    cluster.start("b").await;
    raft.bootstrap_cluster(voters).await.unwrap();
    let gained = changes.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert_eq!((gained.id.as_str(), gained.term), ("a", raft.term()));
    assert_eq!(raft.role(), Role::Leader);
    cluster.network().disconnect("a");
    changes.wait_for(Option::is_none).await.unwrap();
    assert_eq!(raft.role(), Role::Follower);
}

/// R15: every server knows the leader's id and address.
#[tokio::test(start_paused = true)]
async fn every_server_knows_the_leader_and_its_address() {
    let cluster = Cluster::new(FIVE).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    for raft in cluster.rafts() {
        let known = raft.leader().unwrap();
        assert_eq!((&known.id, known.term), (leader.id(), leader.term()));
        assert_eq!(known.address.unwrap(), address(leader.id()));
    }
}

/// A follower whose disk fails the write of an entry, and the leader that sent it.
async fn failed_follower(cluster: &Cluster) -> (raft::Raft<raft::testing::Journal>, String) {
    let leader = cluster.leader().await;
    cluster.converge().await;
    let id = cluster.followers()[0].id().to_string();
    cluster.disk(&id).fail_writes_after(0);
    leader.apply("x").await.unwrap();
    sleep(ELECTION).await;
    let fatal = cluster.raft(&id).fatal();
    assert!(matches!(fatal, Some(Fatal::Store(_))), "{fatal:?}");
    (leader, id)
}

/// R27: what a follower could not write it has nowhere, not even in memory: it starts again on what
/// its disk has, and catches up.
#[tokio::test(start_paused = true)]
async fn a_follower_whose_store_failed_starts_again_and_catches_up() {
    let mut cluster = Cluster::new(ABC).await;
    let (leader, id) = failed_follower(&cluster).await;
    cluster.disk(&id).heal();
    let raft = cluster.restart(&id).await;
    assert_eq!(raft.last_index(), LogIndex(leader.last_index().0 - 1));
    leader.apply("y").await.unwrap();
    cluster.converge().await;
    assert_eq!(cluster.journal(&id).commands(), ["x", "y"]);
    assert_eq!(log(&cluster, &id).await, log(&cluster, leader.id().as_str()).await);
}

/// W13: a write that failed is never acknowledged, and never tried again.
#[tokio::test(start_paused = true)]
async fn what_could_not_be_written_is_not_acknowledged() {
    let cluster = Cluster::new(ABC).await;
    let wire = Wire::tap(&cluster);
    let (leader, id) = failed_follower(&cluster).await;
    let writes = cluster.disk(&id).writes();
    cluster.disk(&id).heal();
    for _ in 0..10 {
        leader.apply("y").await.unwrap();
        sleep(ELECTION).await;
    }
    let status = leader.status().await.unwrap();
    let peer = status.peers.iter().find(|peer| peer.id.as_str() == id).unwrap();
    assert_eq!(peer.match_index, LogIndex(leader.last_index().0 - 11));
    assert_eq!(cluster.disk(&id).writes(), writes);
    assert_eq!(wire.terms(), 1);
}

/// R38: a follower that stops and starts again causes no election, however short its absence.
#[tokio::test(start_paused = true)]
async fn a_follower_that_restarts_causes_no_election() {
    let mut cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let term = leader.term();
    cluster.converge().await;
    let id = cluster.followers()[0].id().to_string();
    for absence in [0, 90, 1500, 30_000] {
        cluster.stop(&id).await;
        sleep(Duration::from_millis(absence)).await;
        cluster.start(&id).await;
        sleep(5 * ELECTION).await;
        assert_eq!((leader.role(), leader.term()), (Role::Leader, term), "after {absence} ms");
        assert_eq!(cluster.raft(&id).term(), term);
    }
}

/// R51: there is nothing to snapshot before anything was applied; afterwards there is.
#[tokio::test(start_paused = true)]
async fn a_snapshot_of_nothing_is_refused() {
    let mut cluster = Cluster::new([]).await;
    let raft = cluster.start("a").await;
    let error = raft.snapshot().await.unwrap_err();
    assert!(matches!(error, SnapshotError::NothingNew), "{error}");
    raft.bootstrap_cluster(Configuration::new([Server::voter("a", "a")])).await.unwrap();
    cluster.leader().await.apply("x").await.unwrap();
    raft.snapshot().await.unwrap();
}

/// D08: a long log, with changes of the configuration in it and no snapshot before it, is replayed
/// at a start: all of it, changes included, by a server that has nobody to wait for.
#[tokio::test(start_paused = true)]
async fn a_long_log_with_changes_in_it_is_replayed_at_a_start() {
    let configure = |config: Config| config.with(|it| it.max_apply_batch = 10);
    let mut cluster = Cluster::with_config(["a"], configure).await;
    let leader = cluster.leader().await;
    let commands = vec![bytes::Bytes::from_static(b"x"); 5000];
    leader.apply_batch(commands.clone()).await.unwrap();
    leader.add_nonvoter("n", "n", None).await.unwrap();
    leader.apply_batch(commands.clone()).await.unwrap();
    let raft = cluster.restart("a").await;
    assert_eq!(members(&raft), "a n(nonvoter)");
    cluster.leader().await;
    assert_eq!(cluster.journal("a").commands().len(), 10_000);
    let told = cluster.journal("a").configurations();
    let told: Vec<_> = told.iter().map(|it| it.configuration.to_string()).collect();
    assert_eq!(told, ["a", "a n(nonvoter)"]);
    assert_eq!(
        raft.configuration().configuration.server(&"n".into()).unwrap().suffrage,
        Suffrage::Nonvoter
    );
}

/// B08: a log that is shorter than its trail is kept whole, and a second snapshot of it too.
#[tokio::test(start_paused = true)]
async fn a_log_that_is_shorter_than_its_trail_is_kept_whole() {
    for trailing in [4, 100, u64::MAX] {
        let mut cluster = Cluster::new([]).await;
        cluster.reconfigure(match trailing {
            4 => |config| config.with(|it| it.trailing_logs = 4),
            100 => |config| config.with(|it| it.trailing_logs = 100),
            _ => |config| config.with(|it| it.trailing_logs = u64::MAX),
        });
        let raft = cluster.start("a").await;
        raft.bootstrap_cluster(Configuration::new([Server::voter("a", "a")])).await.unwrap();
        cluster.leader().await;
        for _ in 0..3 {
            raft.apply("x").await.unwrap();
            raft.snapshot().await.unwrap();
            raft.barrier().await.unwrap();
        }
        let kept = log(&cluster, "a").await;
        let last = raft.status().await.unwrap().snapshot.index.0;
        let first = last.saturating_sub(trailing) + 1;
        assert_eq!(kept.first().unwrap().index, LogIndex(first), "{trailing}");
        assert_eq!(kept.last().unwrap().index, raft.last_index());
        cluster.restart("a").await;
        cluster.leader().await;
        assert_eq!(cluster.journal("a").commands().len(), 3);
    }
}

/// B09: asking for the configuration, or for any mark, waits for nothing, however busy the node.
#[tokio::test(start_paused = true)]
async fn a_stuck_node_says_at_once_what_it_knows() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    for id in ABC {
        cluster.disk(id).pause_writes();
    }
    let _waits = leader.add_nonvoter("d", "d", None);
    let waits: Vec<_> = (0..2000).map(|_| leader.apply("x")).collect();
    settle().await;
    let started = Instant::now();
    let configuration = leader.configuration();
    assert_eq!(configuration.configuration.to_string(), "a b c");
    assert_eq!(configuration.index, LogIndex(1));
    leader.status().await.unwrap();
    assert!(leader.commit_index() < leader.last_index());
    assert_eq!(started.elapsed(), Duration::ZERO);
    drop(waits);
}

/// B10: of several changes of leader the newest is told, to whoever looks late.
#[tokio::test(start_paused = true)]
async fn the_newest_leader_is_never_missed() {
    let cluster = Cluster::new(ABC).await;
    let first = cluster.leader().await;
    cluster.converge().await;
    let watcher = first.clone();
    let mut changes = watcher.leader_changes();
    changes.borrow_and_update();
    for _ in 0..4 {
        let leader = cluster.leader().await;
        leader.leadership_transfer().await.unwrap();
    }
    let leader = cluster.leader().await;
    cluster.converge().await;
    assert!(changes.has_changed().unwrap());
    let newest = changes.borrow_and_update().clone().unwrap();
    assert_eq!((&newest.id, newest.term), (leader.id(), leader.term()));
    assert!(!changes.has_changed().unwrap());
}

/// B21: who watches the leader is told of a shutdown too.
#[tokio::test(start_paused = true)]
async fn a_shutdown_is_told_to_who_watches_the_leader() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let mut changes = leader.leader_changes();
    assert!(changes.borrow_and_update().is_some());
    leader.shutdown().await;
    let told = timeout(Duration::from_secs(60), changes.wait_for(Option::is_none)).await;
    told.expect("told in time").unwrap();
    assert_eq!(leader.role(), Role::Follower);
}

/// B04: an idle follower learns what is committed by the next heartbeat.
#[tokio::test(start_paused = true)]
async fn an_idle_follower_has_applied_everything_within_a_heartbeat() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let applied = leader.apply("x").await.unwrap();
    let started = Instant::now();
    for follower in cluster.followers() {
        follower.wait_applied(applied.index).await.unwrap();
    }
    assert!(started.elapsed() <= Duration::from_millis(100), "{:?}", started.elapsed());
}

/// D01: a heartbeat of a newer term that comes while a leader is being given commands ends the
/// leadership before anything is written in a term that it does not lead.
#[tokio::test(start_paused = true)]
async fn nothing_is_written_in_a_term_that_somebody_else_leads() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    // Nobody will lead this term: the others do not know of it.
    let term = Term(leader.term().0 + 10);
    let liar = Impostor::of(&cluster, cluster.followers()[0].id().as_str()).await;
    let before: Vec<_> = (0..50).map(|_| leader.apply("x")).collect();
    let heartbeat = HeartbeatRequest { term, round: 1, commit_index: LogIndex(0), promised: None };
    liar.tell(leader.id().as_str(), Message::Heartbeat(heartbeat));
    let after: Vec<_> = (0..50).map(|_| leader.apply("y")).collect();
    let mut refused = 0;
    for future in before.into_iter().chain(after) {
        refused += usize::from(future.await.is_err());
    }
    assert!(0 < refused);
    assert!(term < cluster.leader().await.term());
    cluster.converge().await;
    for entry in log(&cluster, leader.id().as_str()).await {
        assert!(entry.term != term, "{entry:?}");
    }
}
