//! A disk or a state machine that is slow or stuck, and what goes on meanwhile.

use std::{sync::mpsc, time::Duration};

use raft::{
    Config, Configuration, Entry, Fsm, Raft, Role, Server,
    inmem::{InmemLogStore, InmemNetwork, InmemSnapshotStore, InmemStableStore},
    testing::Cluster,
};
use tokio::time::{Instant, advance, sleep};

const ABC: [&str; 3] = ["a", "b", "c"];

#[tokio::test(start_paused = true)]
async fn a_leader_whose_disk_is_stuck_steps_down_and_the_cluster_goes_on() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    cluster.disk(leader.id().as_str()).pause_writes();
    let started = Instant::now();
    // Two of three are durable: it counts, but this server may not apply what it does not have.
    let stuck = leader.apply("x");
    leader
        .leader_changes()
        .wait_for(|now| now.as_ref().is_none_or(|l| l.id != *leader.id()))
        .await
        .unwrap();
    // The write stall timeout is three seconds; the leader looks at every heartbeat.
    assert!(started.elapsed() <= Duration::from_millis(3200), "{:?}", started.elapsed());
    stuck.await.unwrap_err();
    let next = cluster.leader_among(&cluster.followers()).await;
    assert_ne!(next.id(), leader.id());
    next.apply("y").await.unwrap();

    // It does not campaign as long as it is stuck, and follows when it recovers.
    let term = next.term();
    sleep(Duration::from_secs(30)).await;
    assert_eq!(next.term(), term);
    cluster.disk(leader.id().as_str()).resume_writes();
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn heartbeats_flow_while_the_disks_are_slow() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let term = leader.term();
    for id in ABC {
        // Longer than every timeout but that for a stuck disk.
        cluster.disk(id).set_write_delay(Duration::from_millis(2500));
    }
    for _ in 0..10 {
        leader.apply("x").await.unwrap();
    }
    assert_eq!((leader.role(), leader.term()), (Role::Leader, term));
    for follower in cluster.followers() {
        assert!(follower.last_contact().unwrap() <= Duration::from_millis(200));
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_with_a_stuck_disk_holds_nobody_up() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let stuck = cluster.followers()[0].id().to_string();
    cluster.disk(&stuck).pause_writes();
    let started = Instant::now();
    for _ in 0..100 {
        leader.apply("x").await.unwrap();
    }
    assert_eq!(started.elapsed(), Duration::ZERO);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(leader.role(), Role::Leader);
    cluster.disk(&stuck).resume_writes();
    cluster.converge().await;
}

/// Applies a command when it is told to, blocking its thread until then.
struct Slow(mpsc::Receiver<()>);

impl Fsm for Slow {
    type Response = ();

    fn apply(&mut self, _: &Entry) {
        let _ = self.0.recv();
    }

    fn is_blocking(&self) -> bool {
        true
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_state_machine_causes_no_election() {
    let network = InmemNetwork::new();
    let mut servers = Vec::new();
    for (seed, id) in (1..).zip(ABC) {
        let (go, wait) = mpsc::channel();
        let raft = Raft::new(
            Config::new(id).with_seed(seed),
            Slow(wait),
            InmemLogStore::new(),
            InmemStableStore::new(),
            std::sync::Arc::new(InmemSnapshotStore::new()),
            network.transport(id),
        )
        .await
        .unwrap();
        servers.push((raft, go));
    }
    let voters = Configuration::new(ABC.map(|id| Server::voter(id, id)));
    servers[0].0.bootstrap_cluster(voters).await.unwrap();
    servers[0].0.leader_changes().wait_for(Option::is_some).await.unwrap();
    let rafts = servers.iter().map(|(raft, _)| raft);
    let leader = rafts.clone().find(|raft| raft.role() == Role::Leader).unwrap();
    let term = leader.term();
    let slow = leader.apply("x");
    // The clock does not advance by itself while a thread blocks.
    for _ in 0..200 {
        advance(Duration::from_millis(50)).await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!((leader.role(), leader.term()), (Role::Leader, term));
    leader.verify_leader().await.unwrap();
    for (_, go) in &servers {
        go.send(()).unwrap();
    }
    slow.await.unwrap();
    for raft in rafts {
        raft.shutdown().await;
    }
}
