//! Who leads must be able to serve: state machines that load a snapshot for a long time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use raft::{
    Config, Configuration, ConfigurationError, Entry, Fsm, FsmError, FsmSnapshot, LogIndex,
    Message, PeerStatus, Raft, Role, Server, SnapshotReader, TransferError,
    autopilot::{Autopilot, AutopilotConfig, Promotion},
    inmem::{InmemLogStore, InmemNetwork, InmemSnapshotStore, InmemStableStore},
    testing::{Cluster, Journal},
};
use tokio::time::{Instant, sleep, timeout};

const ABC: [&str; 3] = ["a", "b", "c"];
const SECOND: Duration = Duration::from_secs(1);
/// The default.
const ELECTION: Duration = SECOND;

/// A journal that loads a snapshot only when it may.
#[derive(Clone, Default)]
struct Loading {
    journal: Journal,
    waits: Arc<AtomicBool>,
}

impl Fsm for Loading {
    type Response = u64;

    fn apply(&mut self, entry: &Entry) -> u64 {
        self.journal.apply(entry)
    }

    fn snapshot(&mut self) -> Result<Box<dyn FsmSnapshot>, FsmError> {
        self.journal.snapshot()
    }

    async fn restore(&mut self, reader: SnapshotReader) -> Result<(), FsmError> {
        while self.waits.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(10)).await;
        }
        self.journal.restore(reader).await
    }
}

async fn start(network: &InmemNetwork, id: &str, seed: u64, fsm: &Loading) -> Raft<Loading> {
    let config = Config::new(id).with_seed(seed).with(|it| {
        it.trailing_logs = 10;
        it.snapshot_threshold = 20;
        it.snapshot_interval = SECOND / 2;
        it.catch_up_timeout = 20 * SECOND;
    });
    let (log, stable) = (InmemLogStore::new(), InmemStableStore::new());
    let snapshots = Arc::new(InmemSnapshotStore::new());
    Raft::new(config, fsm.clone(), log, stable, snapshots, network.transport(id)).await.unwrap()
}

/// Three voters, of which one that follows is loading a snapshot and will be until it is let go.
struct Three {
    network: InmemNetwork,
    leader: Raft<Loading>,
    slow: Raft<Loading>,
    other: Raft<Loading>,
    waits: Arc<AtomicBool>,
}

async fn three(seed: u64) -> Three {
    let network = InmemNetwork::new();
    network.set_delay(Duration::from_millis(1));
    let fsms: Vec<Loading> = ABC.iter().map(|_| Loading::default()).collect();
    let mut rafts = Vec::new();
    for (at, (id, fsm)) in ABC.into_iter().zip(&fsms).enumerate() {
        rafts.push(start(&network, id, 3 * seed + at as u64, fsm).await);
    }
    let members = Configuration::new(ABC.map(|id| Server::voter(id, id)));
    rafts[0].bootstrap_cluster(members).await.unwrap();
    let at = loop {
        match rafts.iter().position(|raft| raft.role() == Role::Leader) {
            Some(at) => break at,
            None => sleep(SECOND / 10).await,
        }
    };
    let slow = (at + 1) % 3;
    rafts[at].apply("x").await.unwrap();
    network.disconnect(ABC[slow]);
    for _ in 0..100 {
        rafts[at].apply("x").await.unwrap();
    }
    sleep(2 * SECOND).await;
    fsms[slow].waits.store(true, Ordering::SeqCst);
    network.connect(ABC[slow]);
    sleep(5 * SECOND).await;
    let three = Three {
        network,
        leader: rafts[at].clone(),
        slow: rafts[slow].clone(),
        other: rafts[(at + 2) % 3].clone(),
        waits: Arc::clone(&fsms[slow].waits),
    };
    let peer = peer(&three.leader, &three.slow).await;
    assert_eq!(peer.match_index, three.leader.last_index(), "it has the whole log");
    assert!(peer.applied_index < LogIndex(10) && !peer.can_serve, "{peer:?}");
    three
}

/// What `leader` says of `peer`.
async fn peer(leader: &Raft<Loading>, peer: &Raft<Loading>) -> PeerStatus {
    let status = leader.status().await.unwrap();
    status.peers.iter().find(|it| it.id == *peer.id()).unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn leadership_goes_to_a_voter_that_could_serve() {
    for seed in 0..5 {
        let Three { leader, slow, other, waits, .. } = &three(seed).await;
        leader.leadership_transfer().await.unwrap();
        assert_eq!(other.role(), Role::Leader);
        timeout(SECOND, other.apply("afterwards")).await.unwrap().unwrap();
        // It is shown as it is, and how far it is.
        let status = slow.status().await.unwrap();
        assert!(!status.can_serve && status.marks.applied < LogIndex(10), "{:?}", status.marks);
        assert!(other.status().await.unwrap().can_serve);
        // Nothing is sent to it but heartbeats, and still it says that it has come further.
        waits.store(false, Ordering::SeqCst);
        sleep(SECOND).await;
        let peer = peer(other, slow).await;
        assert_eq!((peer.applied_index, peer.can_serve), (other.last_index(), true));
        assert!(slow.status().await.unwrap().can_serve);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_voter_that_could_serve_leadership_stays() {
    let Three { network, leader, slow, other, .. } = &three(1).await;
    network.disconnect(other.id().as_str());
    sleep(2 * ELECTION).await;
    let error = leader.leadership_transfer().await.unwrap_err();
    let TransferError::NoneReady { voter, applied, committed, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!((voter, *committed), (slow.id(), leader.commit_index()));
    assert_eq!(*applied, slow.applied_index());
    assert!(error.to_string().contains("no other voter is ready to lead"), "{error}");
    timeout(SECOND, leader.apply("it leads on")).await.unwrap().unwrap();
    let begun = Instant::now();
    leader.shutdown_gracefully().await;
    assert!(begun.elapsed() < ELECTION, "it waited for nothing");
}

#[tokio::test(start_paused = true)]
async fn an_election_is_won_by_a_voter_that_could_serve() {
    for seed in 10..30 {
        let Three { leader, other, .. } = &three(seed).await;
        leader.shutdown().await;
        let begun = Instant::now();
        while other.role() != Role::Leader {
            sleep(SECOND / 10).await;
            assert!(begun.elapsed() < 4 * ELECTION, "seed {seed}: {:?}", other.role());
        }
        timeout(SECOND, other.apply("afterwards")).await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn if_only_a_server_that_is_behind_can_lead_it_does() {
    let Three { network, leader, slow, other, waits } = &three(2).await;
    network.disconnect(other.id().as_str());
    leader.apply("the third does not have it").await.unwrap();
    leader.shutdown().await;
    network.connect(other.id().as_str());
    let begun = Instant::now();
    while slow.role() != Role::Leader {
        sleep(SECOND / 10).await;
        assert!(begun.elapsed() < 6 * ELECTION, "{:?}", slow.role());
    }
    assert!(3 * ELECTION < begun.elapsed(), "it did not wait for others");
    waits.store(false, Ordering::SeqCst);
    timeout(SECOND, slow.apply("afterwards")).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_state_machine_stands_still_hands_over() {
    stand_still().await;
}

/// A server leads whose state machine stands still.
pub(crate) async fn stand_still() {
    let Three { leader, slow, waits, .. } = &three(3).await;
    // It may lead if that is said.
    leader.leadership_transfer_to_server(slow.id().clone()).await.unwrap();
    assert_eq!(slow.role(), Role::Leader);
    let waiting = tokio::spawn(slow.apply("taken"));
    let patience = Config::new("a").apply_stall_timeout;
    sleep(patience - 2 * ELECTION).await;
    assert_eq!(slow.role(), Role::Leader, "too early");
    sleep(4 * ELECTION).await;
    assert_eq!(slow.role(), Role::Follower);
    assert_eq!(slow.status().await.unwrap().timeouts.apply_stall, 1);
    let next = slow.leader().expect("somebody leads").id;
    assert_ne!(next, *slow.id());
    // What it has taken is committed, and is answered when it is applied there.
    waits.store(false, Ordering::SeqCst);
    timeout(5 * SECOND, waiting).await.unwrap().unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_gets_a_vote_when_it_could_serve() {
    let network = InmemNetwork::new();
    let (fsm, newcomer) = (Loading::default(), Loading::default());
    let a = start(&network, "a", 1, &fsm).await;
    a.bootstrap_cluster(Configuration::new([Server::voter("a", "a")])).await.unwrap();
    a.leader_changes().wait_for(Option::is_some).await.unwrap();
    for _ in 0..100 {
        a.apply("x").await.unwrap();
    }
    sleep(2 * SECOND).await;
    newcomer.waits.store(true, Ordering::SeqCst);
    let b = start(&network, "b", 2, &newcomer).await;
    let error = a.add_voter("b", "b", None).await.unwrap_err();
    let ConfigurationError::TooSlow { lag, .. } = error else { panic!("{error}") };
    assert!(100 <= lag, "it has the log of {lag} entries and applied nothing");
    assert_eq!(b.last_index(), a.last_index());

    let config = AutopilotConfig::default().with(|it| {
        it.promotion = Promotion::All;
        it.stabilization_time = 2 * SECOND;
    });
    let pilot = Autopilot::start(a.clone(), config).unwrap();
    sleep(60 * SECOND).await;
    let is_voter = || a.configuration().configuration.is_voter(&"b".into());
    assert!(!is_voter());
    let state = pilot.state();
    let health = state.servers.iter().find(|it| it.id.as_str() == "b").unwrap();
    assert!(!health.is_healthy && !health.can_serve && health.trailing_logs == 0, "{health:?}");
    assert_eq!(health.applied_index, LogIndex::ZERO);
    newcomer.waits.store(false, Ordering::SeqCst);
    sleep(10 * SECOND).await;
    assert!(is_voter());
}

/// By the answers of the others, or, where none come, by what the transport says: there is no way to it.
#[tokio::test(start_paused = true)]
async fn leadership_is_not_handed_to_a_voter_that_has_just_been_killed() {
    for dead in 0..2 {
        for (waits, are_deaf) in
            [(10, false), (110, false), (210, false), (500, false), (110, true)]
        {
            let mut cluster = Cluster::new(ABC).await;
            let leader = cluster.leader().await;
            leader.apply("x").await.unwrap();
            sleep(3 * SECOND).await;
            let followers = cluster.followers();
            let ids: Vec<String> = followers.iter().map(|raft| raft.id().to_string()).collect();
            if are_deaf {
                let network = cluster.network();
                network.set_drop(|_, _, message| matches!(message, Message::HeartbeatReply(_)));
            }
            cluster.stop(&ids[dead]).await;
            // Until the next heartbeat nobody can know.
            sleep(Duration::from_millis(100 + waits)).await;
            leader.leadership_transfer().await.unwrap();
            assert_eq!(followers[1 - dead].role(), Role::Leader, "{dead} is dead for {waits} ms");
        }
    }
}
