//! `verify_leader`: leadership confirmed after the question was asked.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use raft::{Message, Role, VerifyError, testing::Cluster};
use tokio::time::Instant;

use crate::model_support::settle;

const ABC: [&str; 3] = ["a", "b", "c"];

#[tokio::test(start_paused = true)]
async fn a_leader_is_verified_and_the_read_index_covers_what_was_applied() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let applied = leader.apply("x").await.unwrap();
    let started = Instant::now();
    let read_index = leader.verify_leader().await.unwrap();
    assert!(applied.index <= read_index);
    leader.wait_applied(read_index).await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO, "it must not wait for the next heartbeat");
}

#[tokio::test(start_paused = true)]
async fn a_single_server_verifies_itself() {
    let cluster = Cluster::new(["a"]).await;
    cluster.leader().await.verify_leader().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn calls_of_one_turn_share_a_round() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let heartbeats = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&heartbeats);
    cluster.network().set_tap(move |_, _, message| {
        if matches!(message, Message::Heartbeat(_)) {
            seen.fetch_add(1, Ordering::Relaxed);
        }
    });
    let futures: Vec<_> = (0..100).map(|_| leader.verify_leader()).collect();
    for future in futures {
        future.await.unwrap();
    }
    assert_eq!(heartbeats.load(Ordering::Relaxed), 2, "one round to two followers");
}

#[tokio::test(start_paused = true)]
async fn a_follower_refuses_and_names_the_leader() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let error = cluster.followers()[0].verify_leader().await.unwrap_err();
    let VerifyError::NotLeader { leader: Some(named) } = error else { panic!("{error}") };
    assert_eq!(named.id, *leader.id());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_cut_off_is_never_verified() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.network().disconnect(leader.id().as_str());
    let started = Instant::now();
    let error = leader.verify_leader().await.unwrap_err();
    assert!(matches!(error, VerifyError::LeadershipLost), "{error}");
    // Its lease is half a second.
    assert!(started.elapsed() <= Duration::from_millis(600), "{:?}", started.elapsed());
}

/// Its read index is that of its first entry, which nobody may ever apply.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_before_its_first_commit_is_not_read_from() {
    let cluster = Cluster::new(ABC).await;
    let first = cluster.leader().await;
    cluster.converge().await;
    cluster.network().disconnect(first.id().as_str());
    // The next leader is heard, but none of its entries is.
    cluster.network().set_drop(|_, _, message| matches!(message, Message::AppendEntries(_)));
    let others = cluster.followers();
    let next = loop {
        if let Some(next) = others.iter().find(|raft| raft.role() == Role::Leader) {
            break next.clone();
        }
        settle().await;
    };
    let reading = tokio::spawn({
        let next = next.clone();
        async move {
            let read_index = next.verify_leader().await?;
            next.wait_applied(read_index).await.map_err(VerifyError::from)
        }
    });
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(next.role(), Role::Leader);
    assert!(!reading.is_finished(), "nothing of this term is committed");
    cluster.network().disconnect(next.id().as_str());
    let read = tokio::time::timeout(Duration::from_secs(1), reading).await;
    let error = read.expect("an answer when the lease is over").unwrap().unwrap_err();
    assert!(matches!(error, VerifyError::LeadershipLost), "{error}");

    // And if the entries come through, so does the read.
    cluster.network().heal_all();
    cluster.network().set_drop(|_, _, message| matches!(message, Message::AppendEntries(_)));
    let next = loop {
        if let Some(next) = cluster.rafts().iter().find(|raft| raft.role() == Role::Leader) {
            break next.clone();
        }
        settle().await;
    };
    let handle = next.clone();
    let reading = tokio::spawn(async move { handle.verify_leader().await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.network().heal_all();
    let read_index = reading.await.unwrap().unwrap();
    assert!(read_index <= next.commit_index());
    next.wait_applied(read_index).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_follower_out_of_two_is_enough() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.network().disconnect(cluster.followers()[0].id().as_str());
    leader.verify_leader().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nonvoters_do_not_count() {
    let mut cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    for id in ["d", "e"] {
        cluster.start(id).await;
        leader.add_nonvoter(id, id, None).await.unwrap();
    }
    cluster.converge().await;
    for follower in cluster.followers() {
        if ABC.contains(&follower.id().as_str()) {
            cluster.network().disconnect(follower.id().as_str());
        }
    }
    let error = leader.verify_leader().await.unwrap_err();
    assert!(matches!(error, VerifyError::LeadershipLost), "{error}");
}
