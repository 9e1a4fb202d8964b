//! A process that stood still (stopped, swapped out, on a machine that was moved) wakes up with its
//! timers due, and with what has happened meanwhile in its queues.

use std::time::Duration;

use raft::{
    LogIndex, Message, Raft, Role, Term,
    rpc::{HeartbeatReply, HeartbeatRequest},
    testing::{Cluster, Journal},
};
use tokio::task::yield_now;

use crate::model_support::{ABC, Impostor};

/// Longer than any timeout.
const LONG: Duration = Duration::from_secs(5);

/// A cluster whose servers campaign without asking first, its leader, and a follower that nobody but
/// the impostor of the leader reaches.
async fn cut_off() -> (Cluster, Raft<Journal>, Raft<Journal>, Impostor) {
    let cluster = Cluster::with_config(ABC, |it| it.with(|it| it.pre_vote = false)).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let follower = cluster.followers()[0].clone();
    for raft in cluster.rafts() {
        cluster.network().cut(raft.id().as_str(), follower.id().as_str());
    }
    let impostor = Impostor::of(&cluster, leader.id().as_str()).await;
    (cluster, leader, follower, impostor)
}

fn heartbeat(term: Term) -> Message {
    let (round, commit_index) = (1 << 20, LogIndex::ZERO);
    Message::Heartbeat(HeartbeatRequest { term, round, commit_index, promised: None })
}

/// Says nothing to anybody.
fn noise() -> Message {
    let (term, round, index) = (Term(0), 1, LogIndex::ZERO);
    Message::HeartbeatReply(HeartbeatReply {
        term,
        round,
        match_index: index,
        accepted_index: index,
        applied_index: LogIndex::ZERO,
    })
}

/// Lets every task do what it can do now, without moving the clock.
async fn turns() {
    for _ in 0..100 {
        yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_does_not_campaign_while_its_leaders_heartbeats_wait() {
    // Alone; behind what one turn takes; behind all that the inbox holds.
    for before in [0, 64, 65, 1023] {
        let (_cluster, leader, follower, impostor) = cut_off().await;
        let term = leader.term();
        for _ in 0..before {
            impostor.tell(follower.id().as_str(), noise());
        }
        impostor.tell(follower.id().as_str(), heartbeat(term));
        tokio::time::advance(LONG).await;
        turns().await;
        assert_eq!((follower.role(), follower.term()), (Role::Follower, term), "{before}");
        assert_eq!(follower.last_contact(), Some(Duration::ZERO), "{before}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_whose_inbox_holds_nothing_of_its_leader_campaigns() {
    let (_cluster, leader, follower, impostor) = cut_off().await;
    let term = leader.term();
    impostor.tell(follower.id().as_str(), noise());
    tokio::time::advance(LONG).await;
    turns().await;
    assert_eq!((follower.role(), follower.term()), (Role::Candidate, term.next()));
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_messages_holds_up_neither_an_election_nor_the_end_of_a_lease() {
    for leads in [false, true] {
        let (cluster, leader, follower, impostor) = cut_off().await;
        let raft = if leads { leader } else { follower };
        for other in cluster.rafts() {
            cluster.network().cut(other.id().as_str(), raft.id().as_str());
        }
        let (role, mut turns) = (raft.role(), 0);
        // More than a turn takes, all the time.
        let flood = |count| (0..count).for_each(|_| impostor.tell(raft.id().as_str(), noise()));
        flood(1000);
        tokio::time::advance(LONG).await;
        while raft.role() == role {
            flood(100);
            yield_now().await;
            turns += 1;
            assert!(turns < 1000, "leads: {leads}");
        }
    }
}
