//! A user's restore of the whole cluster.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use raft::{
    ApplyError, Config, Configuration, LogId, LogIndex, Outcome, Raft, RestoreError, Server,
    Snapshot, SnapshotMeta,
    inmem::{InmemLogStore, InmemNetwork, InmemSnapshotStore, InmemStableStore},
    testing::{Cluster, Journal},
};
use tokio::io::AsyncReadExt;

const ABC: [&str; 3] = ["a", "b", "c"];

/// The bytes of a snapshot.
async fn bytes(snapshot: &Snapshot) -> Vec<u8> {
    let mut bytes = Vec::new();
    snapshot.open().await.unwrap().read_to_end(&mut bytes).await.unwrap();
    bytes
}

/// A cluster that has a snapshot with the commands a and b, and has gone on to c.
async fn gone_on() -> (Cluster, Raft<Journal>, SnapshotMeta, Vec<u8>) {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    leader.apply("a").await.unwrap();
    leader.apply("b").await.unwrap();
    let snapshot = leader.snapshot().await.unwrap();
    leader.apply("c").await.unwrap();
    let data = bytes(&snapshot).await;
    (cluster, leader, snapshot.meta, data)
}

fn assert_everywhere(cluster: &Cluster, commands: &[&str]) {
    for id in ABC {
        assert_eq!(cluster.journal(id).commands(), commands, "on {id}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restore_replaces_the_state_of_every_server() {
    let (mut cluster, leader, meta, data) = gone_on().await;
    let members = leader.configuration().configuration;
    let last = leader.last_index();
    let index = leader.restore(&meta, std::io::Cursor::new(data)).await.unwrap();
    assert_eq!(
        index,
        LogIndex(last.0 + 2),
        "the snapshot stands beyond the log, the proof after it"
    );
    cluster.converge().await;
    assert_everywhere(&cluster, &["a", "b"]);
    let applied = leader.apply("d").await.unwrap();
    assert_eq!(applied.response, 3);
    cluster.converge().await;
    assert_everywhere(&cluster, &["a", "b", "d"]);
    assert_eq!(leader.configuration().configuration, members);

    // It survives a restart of everybody, and membership can be changed as before.
    for id in ABC {
        cluster.restart(id).await;
    }
    let leader = cluster.leader().await;
    leader.apply("e").await.unwrap();
    leader.add_nonvoter("n", "n", None).await.unwrap();
    leader.remove_server("n", None).await.unwrap();
    cluster.converge().await;
    assert_everywhere(&cluster, &["a", "b", "d", "e"]);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_of_any_index_and_of_another_cluster_can_be_restored() {
    for ahead in [0, 1, 2, 100, 1000, 10_000] {
        let (_, _, meta, data) = gone_on().await;
        let cluster = Cluster::new(ABC).await;
        let leader = cluster.leader().await;
        leader.apply("x").await.unwrap();
        let last = leader.last_index();
        let meta = SnapshotMeta { last: LogId::new(77, last.0 + ahead), ..meta };
        let index = leader.restore(&meta, std::io::Cursor::new(data)).await.unwrap();
        assert_eq!(index.0, last.0 + ahead + 2);
        cluster.converge().await;
        assert_everywhere(&cluster, &["a", "b"]);
        leader.apply("y").await.unwrap();
        cluster.converge().await;
        assert_everywhere(&cluster, &["a", "b", "y"]);
    }
}

#[tokio::test(start_paused = true)]
async fn data_of_another_length_is_refused_and_nothing_is_changed() {
    let (cluster, leader, meta, data) = gone_on().await;
    for (size_bytes, data) in
        [(meta.size_bytes + 1, data.clone()), (meta.size_bytes, [&data[..], b"x"].concat())]
    {
        let meta = SnapshotMeta { size_bytes, ..meta.clone() };
        let error = leader.restore(&meta, std::io::Cursor::new(data)).await.unwrap_err();
        assert!(matches!(error, RestoreError::Size { .. }), "{error}");
    }
    leader.apply("d").await.unwrap();
    cluster.converge().await;
    assert_everywhere(&cluster, &["a", "b", "c", "d"]);
    let (_, _, snapshots) = cluster.stores(leader.id().as_str());
    assert_eq!(raft::SnapshotStore::list(&snapshots).await.unwrap().len(), 1);
}

/// The question was asked before the restore and answered after it: what is read then is of the
/// restored state, which is not committed before the entry that proves it.
#[tokio::test(start_paused = true)]
async fn a_read_that_a_restore_overtakes_waits_for_it() {
    let (cluster, leader, meta, data) = gone_on().await;
    cluster.network().set_delay(Duration::from_millis(50));
    let verified = leader.verify_leader();
    let restored = leader.restore(&meta, std::io::Cursor::new(data));
    let (verified, restored) = tokio::join!(verified, restored);
    assert_eq!(verified.unwrap(), restored.unwrap());
}

/// It ended the leader, and every next one that was asked.
#[tokio::test(start_paused = true)]
async fn an_index_that_leaves_no_room_for_others_is_refused() {
    let (cluster, leader, meta, data) = gone_on().await;
    for index in [1 << 63, u64::MAX] {
        let meta = SnapshotMeta { last: LogId::new(1, index), ..meta.clone() };
        let error = leader.restore(&meta, std::io::Cursor::new(data.clone())).await.unwrap_err();
        assert!(error.to_string().contains("not below 2^63"), "{error}");
    }
    leader.apply("d").await.unwrap();
    cluster.converge().await;
    assert_everywhere(&cluster, &["a", "b", "c", "d"]);
}

#[tokio::test(start_paused = true)]
async fn commands_are_refused_while_the_data_comes_in_and_the_leader_leads_on() {
    let (cluster, leader, meta, data) = gone_on().await;
    let (mut writer, reader) = tokio::io::duplex(16);
    let restoring = tokio::spawn({
        let (leader, meta) = (leader.clone(), meta.clone());
        async move { leader.restore(&meta, reader).await }
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    let error = leader.apply("d").await.unwrap_err();
    assert!(matches!(error, ApplyError::RestoreInProgress), "{error}");
    assert_eq!(error.outcome(), Outcome::NotApplied);
    let error = leader.restore(&meta, std::io::Cursor::new(data.clone())).await.unwrap_err();
    assert!(matches!(error, RestoreError::RestoreInProgress), "{error}");
    leader.add_nonvoter("n", "n", None).await.unwrap_err();
    leader.leadership_transfer().await.unwrap_err();
    leader.verify_leader().await.unwrap();
    let follower = cluster.followers()[0].clone();
    let error = follower.restore(&meta, std::io::Cursor::new(data.clone())).await.unwrap_err();
    assert!(matches!(error, RestoreError::NotLeader { .. }), "{error}");

    tokio::io::AsyncWriteExt::write_all(&mut writer, &data).await.unwrap();
    drop(writer);
    restoring.await.unwrap().unwrap();
    cluster.converge().await;
    assert_everywhere(&cluster, &["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn data_that_breaks_off_leaves_the_cluster_as_it_was() {
    let (cluster, leader, meta, data) = gone_on().await;
    let (mut writer, reader) = tokio::io::duplex(16);
    let restoring = tokio::spawn({
        let leader = leader.clone();
        async move { leader.restore(&meta, reader).await }
    });
    tokio::io::AsyncWriteExt::write_all(&mut writer, &data[..10]).await.unwrap();
    drop(writer);
    let error = restoring.await.unwrap().unwrap_err();
    assert!(matches!(error, RestoreError::Size { bytes: 10, .. }), "{error}");
    leader.apply("d").await.unwrap();
    cluster.converge().await;
    assert_everywhere(&cluster, &["a", "b", "c", "d"]);
}

#[tokio::test(start_paused = true)]
async fn a_restore_dies_with_the_leadership_it_began_in() {
    let (cluster, leader, meta, data) = gone_on().await;
    let (mut writer, reader) = tokio::io::duplex(16);
    let restoring = tokio::spawn({
        let leader = leader.clone();
        async move { leader.restore(&meta, reader).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let id = leader.id().to_string();
    let others: Vec<_> =
        cluster.rafts().into_iter().filter(|raft| raft.id().as_str() != id).collect();
    cluster.network().disconnect(id.as_str());
    let next = cluster.leader_among(&others).await;
    next.apply("d").await.unwrap();
    // The caller has been told, although the data has not come.
    assert!(restoring.is_finished());
    let error = restoring.await.unwrap().unwrap_err();
    assert!(matches!(error, RestoreError::LeadershipLost), "{error}");
    cluster.network().connect(id.as_str());
    // Nobody reads it any more.
    tokio::io::AsyncWriteExt::write_all(&mut writer, &data).await.unwrap_err();
    let (_, _, snapshots) = cluster.stores(&id);
    assert_eq!(raft::SnapshotStore::list(&snapshots).await.unwrap().len(), 1);
    // What was copied for nothing must not be found by the next start.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (_, _, snapshots) = cluster.stores(&id);
    assert_eq!(raft::SnapshotStore::list(&snapshots).await.unwrap().len(), 1);
    next.apply("e").await.unwrap();
    cluster.converge().await;
    assert_everywhere(&cluster, &["a", "b", "c", "d", "e"]);
}

#[tokio::test(start_paused = true)]
async fn commands_in_flight_end_with_an_outcome_of_their_own() {
    let (cluster, leader, meta, data) = gone_on().await;
    let id = leader.id().to_string();
    cluster.network().disconnect(id.as_str());
    let applying = leader.apply("lost");
    let batch = leader.apply_batch(vec![Bytes::from("lost too")]);
    let barrier = leader.barrier();
    let restoring = tokio::spawn({
        let leader = leader.clone();
        async move { leader.restore(&meta, std::io::Cursor::new(data)).await }
    });
    let error = applying.await.unwrap_err();
    assert!(matches!(error, ApplyError::ReplacedBySnapshot), "{error}");
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert!(matches!(batch.await, Err(ApplyError::ReplacedBySnapshot)));
    assert!(matches!(barrier.await, Err(ApplyError::ReplacedBySnapshot)));
    // Nobody else has it: the restore itself is only done when a majority has.
    let error = restoring.await.unwrap().unwrap_err();
    assert!(matches!(error, RestoreError::LeadershipLost), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_ends_answers_a_restore() {
    let (_cluster, leader, meta, _) = gone_on().await;
    let (_writer, reader) = tokio::io::duplex(16);
    let restoring = tokio::spawn({
        let leader = leader.clone();
        async move { leader.restore(&meta, reader).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    leader.shutdown().await;
    let error = restoring.await.unwrap().unwrap_err();
    assert!(matches!(error, RestoreError::Stopped(_)), "{error}");
}

/// Two of them could push the snapshot out of the store that the log begins with.
#[tokio::test(start_paused = true)]
async fn the_snapshot_of_a_restore_in_vain_is_removed_before_the_next_one_is_kept() {
    let network = InmemNetwork::new();
    let mut nodes = Vec::new();
    for id in ABC {
        // On a disk of their own, so that the term and the log can be written all the time.
        let snapshots = InmemSnapshotStore::new();
        let raft = Raft::new(
            Config::new(id),
            Journal::default(),
            InmemLogStore::new(),
            InmemStableStore::new(),
            Arc::new(snapshots.clone()),
            network.transport(id),
        );
        nodes.push((raft.await.unwrap(), snapshots));
    }
    let (leader, snapshots) = &nodes[0];
    let voters = ABC.map(|id| Server::voter(id, id));
    leader.bootstrap_cluster(Configuration::new(voters)).await.unwrap();
    let led_by = async |raft: &Raft<Journal>| {
        while raft.barrier().await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let others = nodes.iter().map(|(other, _)| other);
            for other in others.filter(|other| other.role() == raft::Role::Leader) {
                let _ = other.leadership_transfer_to_server(raft.id().clone()).await;
            }
        }
    };
    led_by(leader).await;
    leader.apply("a").await.unwrap();
    let snapshot = leader.snapshot().await.unwrap();
    let (meta, data) = (snapshot.meta.clone(), bytes(&snapshot).await);
    leader.apply("b").await.unwrap();
    let restore = async || leader.restore(&meta, std::io::Cursor::new(data.clone())).await;
    let kept = async || {
        let kept = raft::SnapshotStore::list(snapshots).await.unwrap();
        kept.iter().map(|meta| meta.last.index).collect::<Vec<_>>()
    };

    // The copy is complete only after the leadership, and cannot be removed.
    snapshots.disk().fail_writes_after(1);
    snapshots.disk().pause_writes();
    network.disconnect(ABC[0]);
    let error = restore().await.unwrap_err();
    assert!(matches!(error, RestoreError::LeadershipLost), "{error}");
    snapshots.disk().resume_writes();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(kept().await.len(), 2);
    network.connect(ABC[0]);
    led_by(leader).await;
    let error = restore().await.unwrap_err();
    assert!(error.to_string().contains("told to fail"), "{error}");
    assert_eq!(kept().await.len(), 2);
    snapshots.disk().heal();
    let index = restore().await.unwrap();
    assert_eq!(kept().await, [index.prev(), meta.last.index]);
    for (raft, _) in &nodes {
        raft.wait_applied(index).await.unwrap();
    }
}
