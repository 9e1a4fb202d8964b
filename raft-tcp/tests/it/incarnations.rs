//! Whole servers over real sockets: one that comes back on an empty disk is not listened to.

use std::{sync::Arc, time::Duration};

use raft::{
    Config, Configuration, LogIndex, Raft, Server,
    inmem::{InmemLogStore, InmemSnapshotStore, InmemStableStore},
    testing::Journal,
};
use raft_tcp::TcpTransport;

use crate::common::*;

const IDS: [&str; 3] = ["a", "b", "c"];

/// A server on an empty disk that listens on this address; port 0 is for the system to choose.
async fn server(id: &str, address: &str) -> Raft<Journal> {
    let options = options().with(|it| it.bind = address.to_owned());
    let config = Config::new(id).with(|it| {
        it.election_timeout = Duration::from_millis(500);
        it.leader_lease_timeout = Duration::from_millis(250);
        it.heartbeat_interval = Duration::from_millis(50);
    });
    let stable = InmemStableStore::new().keeping_incarnation();
    let snapshots = Arc::new(InmemSnapshotStore::new());
    let transport = TcpTransport::bind(options).await.unwrap();
    let (log, journal) = (InmemLogStore::new(), Journal::default());
    Raft::new(config, journal, log, stable, snapshots, transport).await.unwrap()
}

fn is_recorded(raft: &Raft<Journal>) -> bool {
    let configuration = raft.configuration().configuration;
    configuration.servers().len() == 3
        && configuration.servers().iter().all(|server| server.incarnation != 0)
}

#[tokio::test]
async fn a_wiped_server_is_noticed_and_rejoined() {
    let mut addresses = Vec::new();
    for _ in IDS {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().unwrap().to_string());
    }
    let mut servers = Vec::new();
    for (id, address) in IDS.iter().zip(&addresses) {
        servers.push(server(id, address).await);
    }
    let members = IDS.iter().zip(&addresses);
    let members = members.map(|(id, address)| Server::voter(*id, address.as_str()));
    servers[0].bootstrap_cluster(Configuration::new(members)).await.unwrap();
    until("every disk is recorded", || servers.iter().all(is_recorded)).await;
    let leader = servers.iter().find(|raft| raft.role() == raft::Role::Leader).unwrap().clone();
    soon("a commit", leader.apply("x")).await.unwrap();

    let wiped = servers.iter().position(|raft| raft.id() != leader.id()).unwrap();
    let before = servers[wiped].configuration().configuration;
    servers[wiped].shutdown().await;
    servers[wiped] = server(IDS[wiped], &addresses[wiped]).await;
    let raft = servers[wiped].clone();
    let wrong = soon("it is told that it has the wrong disk", async {
        loop {
            if let Some(wrong) = raft.status().await.unwrap().wrong_disk {
                return wrong;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(wrong.recorded, before.server(raft.id()).unwrap().incarnation);
    soon("the leader hears of it", async {
        while leader.status().await.unwrap().wrong_disks != [wrong.clone()] {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    soon("a commit without it", leader.apply("y")).await.unwrap();
    assert_eq!(raft.last_index(), LogIndex(0));

    soon("it is rejoined", leader.rejoin_server(IDS[wiped])).await.unwrap();
    let last = soon("a commit", leader.apply("z")).await.unwrap().index;
    soon("it is there", raft.wait_applied(last)).await.unwrap();
    until("its disk is recorded", || servers.iter().all(is_recorded)).await;
    assert_eq!(raft.status().await.unwrap().wrong_disk, None);
    for raft in servers {
        raft.shutdown().await;
    }
}
