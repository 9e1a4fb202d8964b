//! Rows of the model's catalogue about leaders that are cut off, and followers that are behind.

use std::time::Duration;

use raft::{
    ApplyError, LogId, Message, Role, Term, VerifyError, rpc::RequestVoteRequest, testing::Cluster,
};
use tokio::time::{Instant, sleep};

use crate::model_support::*;

/// R22, D02: a follower has moved to a newer term. Its answer ends the leadership, confirms nothing,
/// and the leader is forgotten.
#[tokio::test(start_paused = true)]
async fn a_leader_is_not_verified_by_a_follower_of_a_newer_term() {
    let cluster = Cluster::new(["a", "b"]).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let follower = cluster.followers()[0].clone();
    // Moves the follower on without electing anybody: its log is empty.
    let stranger = Impostor::of(&cluster, "x").await;
    let request = RequestVoteRequest {
        term: Term(leader.term().0 + 1),
        last: LogId::ZERO,
        is_pre_vote: false,
        is_leadership_transfer: true,
        promised: None,
        configuration_index: raft::LogIndex(1),
        life: 0,
    };
    stranger.tell(follower.id().as_str(), Message::RequestVote(request));
    settle().await;
    assert_eq!(follower.term(), Term(leader.term().0 + 1));
    assert_eq!(leader.role(), Role::Leader);
    let started = Instant::now();
    let error = leader.verify_leader().await.unwrap_err();
    assert!(matches!(error, VerifyError::LeadershipLost), "{error}");
    assert_eq!(started.elapsed(), Duration::ZERO, "the first answer says it");
    assert_eq!((leader.role(), leader.leader()), (Role::Follower, None));
}

/// R24: the callers of a leader that is cut off are told; another one of a higher term takes over;
/// afterwards all logs are equal.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_fails_its_callers_and_is_replaced() {
    let cluster = Cluster::new(ABC).await;
    let old = cluster.leader().await;
    let term = old.term();
    old.apply("before").await.unwrap();
    let others = cluster.followers();
    cluster.network().disconnect(old.id().as_str());
    let error = old.apply("lost").await.unwrap_err();
    assert!(matches!(error, ApplyError::LeadershipLost), "{error}");
    let new = cluster.leader_among(&others).await;
    assert!(term < new.term());
    new.apply("after").await.unwrap();
    cluster.network().heal_all();
    cluster.converge().await;
    let expected = log(&cluster, new.id().as_str()).await;
    for id in ABC {
        assert_eq!(log(&cluster, id).await, expected, "{id}");
        assert_eq!(cluster.journal(id).commands(), ["before", "after"]);
    }
}

/// R25: a follower that is connected again gets what it has missed from the log, and the leader
/// leads on.
#[tokio::test(start_paused = true)]
async fn a_follower_that_was_cut_off_catches_up_from_the_log() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let term = leader.term();
    let behind = cluster.followers()[0].clone();
    cluster.network().disconnect(behind.id().as_str());
    for number in 0..100 {
        leader.apply(format!("{number}")).await.unwrap();
    }
    assert!(cluster.journal(behind.id().as_str()).commands().is_empty());
    sleep(10 * ELECTION).await;
    cluster.network().heal_all();
    let started = Instant::now();
    behind.wait_applied(leader.last_index()).await.unwrap();
    assert!(started.elapsed() <= Duration::from_millis(200), "{:?}", started.elapsed());
    cluster.converge().await;
    assert_eq!(cluster.journal(behind.id().as_str()).commands().len(), 100);
    assert_eq!((leader.role(), leader.term()), (Role::Leader, term));
}

/// R26: the leader of two steps down without the other within its lease, and then nobody knows a
/// leader.
#[tokio::test(start_paused = true)]
async fn a_leader_of_two_steps_down_without_the_other() {
    let cluster = Cluster::new(["a", "b"]).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let follower = cluster.followers()[0].clone();
    cluster.network().disconnect(follower.id().as_str());
    let started = Instant::now();
    leader.leader_changes().wait_for(Option::is_none).await.unwrap();
    assert!(started.elapsed() <= Duration::from_millis(500), "{:?}", started.elapsed());
    assert_eq!(leader.role(), Role::Follower);
    follower.leader_changes().wait_for(Option::is_none).await.unwrap();
    assert!(started.elapsed() <= 2 * ELECTION);
    assert_eq!(leaders(&cluster).len(), 0);
}

/// D03: one refused append, or one failed write, stops replication for no longer than it takes to
/// notice; also with one message under way at most.
#[tokio::test(start_paused = true)]
async fn replication_goes_on_after_lost_and_refused_appends() {
    for inflight in [|it: raft::Config| it.with(|it| it.max_inflight_appends = 1), |it| it] {
        let cluster = Cluster::with_config(ABC, inflight).await;
        let leader = cluster.leader().await;
        let follower = cluster.followers()[0].clone();
        for round in 0..30 {
            // A lost append makes those after it conflict.
            cluster.network().drop_next(leader.id().as_str(), follower.id().as_str(), 1);
            let calls: Vec<_> =
                (0..10).map(|call| leader.apply(format!("{round}/{call}"))).collect();
            for call in calls {
                call.await.unwrap();
            }
            let started = Instant::now();
            follower.wait_applied(leader.commit_index()).await.unwrap();
            assert!(started.elapsed() <= Duration::from_millis(300), "{:?}", started.elapsed());
        }
        cluster.converge().await;
    }
}

/// D14, B18: a peer that was away for long is served within a heartbeat of its return, before it can
/// lose patience with the leader.
#[tokio::test(start_paused = true)]
async fn a_peer_that_returns_after_long_is_served_at_once() {
    let mut cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let term = leader.term();
    let id = cluster.followers()[0].id().to_string();
    for absence in [1, 10, 100, 1000] {
        cluster.stop(&id).await;
        leader.apply("x").await.unwrap();
        sleep(Duration::from_secs(absence)).await;
        let raft = cluster.start(&id).await;
        let started = Instant::now();
        raft.wait_applied(leader.last_index()).await.unwrap();
        assert!(started.elapsed() <= Duration::from_millis(200), "{:?}", started.elapsed());
        assert_eq!((leader.role(), leader.term()), (Role::Leader, term));
    }
}
