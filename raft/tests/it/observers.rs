//! What observers are told, and that they hold nothing up.

use std::{
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

use raft::{Message, Observation, Role, testing::Cluster};

const ABC: [&str; 3] = ["a", "b", "c"];

#[tokio::test(start_paused = true)]
async fn an_election_is_observed() {
    let mut cluster = Cluster::new([]).await;
    let raft = cluster.start("a").await;
    let mut observer = raft.observe(100, |observation| !observation.is_message());
    let voters = raft::Configuration::new([raft::Server::voter("a", "a")]);
    raft.bootstrap_cluster(voters).await.unwrap();
    cluster.leader().await;
    let mut roles = Vec::new();
    let mut leaders = Vec::new();
    let mut configurations = Vec::new();
    while let Some(observation) = observer.try_recv() {
        match observation {
            Observation::RoleChanged { role, .. } => roles.push(role),
            Observation::LeaderChanged { leader } => leaders.push(leader),
            Observation::ConfigurationChanged { configuration } => {
                configurations.push(configuration.configuration.to_string());
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(roles.last(), Some(&Role::Leader));
    assert_eq!(leaders.last().unwrap().as_ref().unwrap().id, *raft.id());
    assert_eq!(configurations, ["a"]);
    assert_eq!(observer.dropped(), 0);
}

#[tokio::test(start_paused = true)]
async fn messages_are_observed_by_those_who_ask_for_them() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let mut observer = leader.observe(1000, Observation::is_message);
    leader.apply("x").await.unwrap();
    cluster.converge().await;
    let (mut sent, mut received) = (0, 0);
    while let Some(observation) = observer.try_recv() {
        match observation {
            Observation::Sent { message: Message::AppendEntries(request), .. } => {
                sent += request.entries.iter().filter(|entry| entry.data() == b"x").count();
            }
            Observation::Received { message: Message::AppendEntriesReply(_), .. } => received += 1,
            _ => {}
        }
    }
    assert_eq!(sent, 2, "once to each follower");
    assert!(2 <= received);
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_does_not_keep_up_loses_and_counts_and_holds_nothing_up() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let mut observer = leader.observe(1, |_| true);
    for _ in 0..100 {
        leader.apply("x").await.unwrap();
    }
    assert!(100 < observer.dropped());
    assert!(observer.try_recv().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_lost_peer_is_reported_once_and_its_return_too() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let peer = cluster.followers()[0].id().clone();
    let mut observer = leader.observe(100, |observation| {
        matches!(observation, Observation::PeerLost { .. } | Observation::PeerRegained { .. })
    });
    cluster.network().disconnect(peer.as_str());
    assert_eq!(observer.recv().await, Some(Observation::PeerLost { peer: peer.clone() }));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(observer.try_recv(), None);
    cluster.network().connect(peer.as_str());
    assert_eq!(observer.recv().await, Some(Observation::PeerRegained { peer }));
}

/// Replication to one follower that stops while heartbeats look healthy.
#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_but_takes_nothing_is_reported_once_and_its_progress_too() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let peer = cluster.followers()[0].id().clone();
    let mut observer = leader.observe(100, |observation| {
        matches!(observation, Observation::PeerStalled { .. } | Observation::PeerResumed { .. })
    });
    let index = leader.last_index();
    tokio::time::sleep(Duration::from_secs(10)).await;
    cluster.disk(peer.as_str()).pause_writes();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(observer.try_recv(), None, "it lacks nothing");
    let started = tokio::time::Instant::now();
    leader.apply("x").await.unwrap();
    let stalled = Observation::PeerStalled { peer: peer.clone(), match_index: index };
    assert_eq!(observer.recv().await, Some(stalled));
    let waited = started.elapsed();
    assert!(Duration::from_millis(1900) <= waited && waited <= Duration::from_millis(2200));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(observer.try_recv(), None);
    cluster.disk(peer.as_str()).resume_writes();
    assert_eq!(observer.recv().await, Some(Observation::PeerResumed { peer }));
    // One that is away is lost, not stalled.
    cluster.network().disconnect(cluster.followers()[0].id().as_str());
    leader.apply("y").await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(observer.try_recv(), None);
}

#[tokio::test(start_paused = true)]
async fn questions_for_votes_are_observed_with_their_answer() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let [first, second] = [0, 1].map(|at| cluster.followers()[at].clone());
    let votes = |seen: &Observation| matches!(seen, Observation::VoteRequested { .. });
    let mut observers = [first.observe(100, votes), second.observe(100, votes)];
    cluster.network().disconnect(leader.id().as_str());
    let next = cluster.leader_among(&[first.clone(), second.clone()]).await;
    let voter = usize::from(next.id() == first.id());
    let mut seen = Vec::new();
    while let Some(observation) = observers[voter].try_recv() {
        let Observation::VoteRequested { candidate, term, is_pre_vote, is_granted } = observation
        else {
            panic!("{observation:?}");
        };
        if candidate == *next.id() && term == next.term() {
            seen.push((is_pre_vote, is_granted));
        }
    }
    assert!(seen.contains(&(true, true)), "{seen:?}");
    assert_eq!(seen.last(), Some(&(false, true)), "{seen:?}");
}

/// A filter runs on the task that owns consensus. It called back into the list of observers, whose
/// lock that task held.
#[test]
fn a_filter_may_begin_and_end_observations() {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let cluster = Cluster::new(["a"]).await;
            let leader = cluster.leader().await;
            let kept = Mutex::new(vec![leader.observe(1, |_| true)]);
            let handle = leader.clone();
            let mut observer = leader.observe(100, move |_| {
                let begun = handle.observe(1, |_| true);
                let ended = std::mem::replace(&mut *kept.lock().unwrap(), vec![begun]);
                drop(ended);
                true
            });
            leader.add_nonvoter("b", "b", None).await.unwrap();
            leader.remove_server("b", None).await.unwrap();
            assert!(observer.try_recv().is_some());
            assert_eq!(observer.dropped(), 0);
            leader.shutdown().await;
        });
        done.send(()).unwrap();
    });
    is_done.recv_timeout(Duration::from_secs(30)).expect("a filter waits for ever, or failed");
}

#[tokio::test(start_paused = true)]
async fn a_filter_that_panics_ends_its_own_observation_only() {
    let cluster = Cluster::new(["a"]).await;
    let leader = cluster.leader().await;
    let is_change = |seen: &Observation| matches!(seen, Observation::ConfigurationChanged { .. });
    let mut before = leader.observe(10, is_change);
    let mut panics = leader.observe(10, |_| panic!("planted: a filter panics"));
    let mut after = leader.observe(10, is_change);
    leader.add_nonvoter("b", "b", None).await.unwrap();
    leader.remove_server("b", None).await.unwrap();
    assert_eq!(panics.recv().await, None);
    for observer in [&mut before, &mut after] {
        assert!(observer.try_recv().is_some());
        assert!(observer.try_recv().is_some());
    }
    assert!(leader.fatal().is_none());
}

#[tokio::test(start_paused = true)]
async fn leader_changes_follows_the_leader() {
    let mut cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let follower = cluster.followers()[0].clone();
    let mut changes = follower.leader_changes();
    assert_eq!(changes.borrow_and_update().as_ref().unwrap().id, *leader.id());
    for _ in 0..10 {
        leader.apply("x").await.unwrap();
    }
    assert!(!changes.has_changed().unwrap(), "only a change is a change");
    cluster.stop(leader.id().as_str()).await;
    let next = changes.wait_for(|now| now.as_ref().is_some_and(|l| l.id != *leader.id())).await;
    assert!(leader.term() < next.unwrap().as_ref().unwrap().term);
}

#[tokio::test(start_paused = true)]
async fn observers_end_with_the_node() {
    let cluster = Cluster::new(["a"]).await;
    let leader = cluster.leader().await;
    let mut observer = leader.observe(10, |_| false);
    leader.shutdown().await;
    assert_eq!(observer.recv().await, None);
    assert_eq!(leader.observe(10, |_| true).recv().await, None);
}
