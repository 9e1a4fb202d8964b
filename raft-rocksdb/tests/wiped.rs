//! Whole servers on RocksDB: one whose directory was emptied is noticed, and can be rejoined.
#![allow(clippy::unwrap_used, reason = "a failed test says where")]

mod common;

use std::{path::Path, sync::Arc, time::Duration};

use common::open;
use raft::{
    Config, Configuration, LogIndex, Raft, Role, Server, StableStore,
    inmem::{InmemNetwork, InmemSnapshotStore},
    testing::Journal,
};
use tokio::time::{sleep, timeout};

const IDS: [&str; 3] = ["a", "b", "c"];

async fn start(id: &str, dir: &Path, network: &InmemNetwork) -> Raft<Journal> {
    let config = Config::new(id).with(|it| {
        it.election_timeout = Duration::from_millis(500);
        it.leader_lease_timeout = Duration::from_millis(250);
        it.heartbeat_interval = Duration::from_millis(50);
    });
    let store = open(dir);
    let snapshots = Arc::new(InmemSnapshotStore::new());
    let (log, stable, journal) = (store.log_store(), store.stable_store(), Journal::default());
    Raft::new(config, journal, log, stable, snapshots, network.transport(id)).await.unwrap()
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waited = timeout(Duration::from_secs(30), async {
        while !is_so().await {
            sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "not in time: {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_directory_was_emptied_is_noticed_and_rejoined() {
    let parent = tempfile::tempdir().unwrap();
    let network = InmemNetwork::new();
    let dir = |id: &str| parent.path().join(id);
    let mut servers = Vec::new();
    for id in IDS {
        servers.push(start(id, &dir(id), &network).await);
    }
    let members = Configuration::new(IDS.map(|id| Server::voter(id, id)));
    servers[0].bootstrap_cluster(members).await.unwrap();
    let is_recorded = |raft: &Raft<Journal>| {
        let configuration = raft.configuration().configuration;
        configuration.servers().len() == IDS.len()
            && configuration.servers().iter().all(|server| server.incarnation != 0)
    };
    until("every disk is recorded", async || servers.iter().all(is_recorded)).await;
    let leader = servers.iter().find(|raft| raft.role() == Role::Leader).unwrap().clone();
    leader.apply("x").await.unwrap();

    // A restart on the same directory changes nothing.
    let wiped = servers.iter().position(|raft| raft.id() != leader.id()).unwrap();
    servers[wiped].shutdown().await;
    let recorded = leader.configuration().configuration.servers()[wiped].incarnation;
    let known = open(&dir(IDS[wiped])).stable_store().disk_identity().await.unwrap();
    assert_eq!(known.map(|it| (it.server, it.incarnation)), Some((IDS[wiped].into(), recorded)));
    servers[wiped] = start(IDS[wiped], &dir(IDS[wiped]), &network).await;
    let last = leader.apply("y").await.unwrap().index;
    servers[wiped].wait_applied(last).await.unwrap();
    assert_eq!(servers[wiped].status().await.unwrap().wrong_disk, None);

    servers[wiped].shutdown().await;
    std::fs::remove_dir_all(dir(IDS[wiped])).unwrap();
    servers[wiped] = start(IDS[wiped], &dir(IDS[wiped]), &network).await;
    let raft = &servers[wiped];
    until("it is told", async || raft.status().await.unwrap().wrong_disk.is_some()).await;
    let wrong = raft.status().await.unwrap().wrong_disk.unwrap();
    assert_eq!((&wrong.server, wrong.recorded), (raft.id(), recorded));
    leader.apply("z").await.unwrap();
    assert_eq!(raft.last_index(), LogIndex(0));

    leader.rejoin_server(IDS[wiped]).await.unwrap();
    let last = leader.apply("!").await.unwrap().index;
    raft.wait_applied(last).await.unwrap();
    until("its disk is recorded", async || is_recorded(&leader)).await;
    assert_ne!(leader.configuration().configuration.servers()[wiped].incarnation, recorded);
    for raft in servers {
        raft.shutdown().await;
    }
}
