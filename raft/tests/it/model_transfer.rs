//! Rows of the model's catalogue about handing leadership over.

use std::time::Duration;

use bytes::Bytes;
use raft::{
    ApplyError, Config, ConfigurationError, Message, Raft, Role, TransferError,
    testing::{Cluster, Journal},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::model_support::*;

fn transfer(leader: &Raft<Journal>, to: &str) -> JoinHandle<Result<(), TransferError>> {
    let (leader, to) = (leader.clone(), to.to_owned());
    tokio::spawn(async move { leader.leadership_transfer_to_server(to).await })
}

/// R66: while leadership is handed over the leader says so to everybody, and not afterwards.
#[tokio::test(start_paused = true)]
async fn a_transfer_shows_while_it_is_under_way_and_not_afterwards() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    for _ in 0..2 {
        cluster.network().set_drop(|_, _, message| matches!(message, Message::TimeoutNow(_)));
        let transferring = transfer(&leader, cluster.followers()[0].id().as_str());
        settle().await;
        assert!(matches!(leader.apply("x").await, Err(ApplyError::TransferInProgress)));
        transferring.await.unwrap().unwrap_err();
        cluster.network().heal_all();
        leader.apply("y").await.unwrap();
    }
}

/// R69: leadership of seven goes to the chosen one while commands keep coming.
#[tokio::test(start_paused = true)]
async fn the_chosen_one_of_seven_takes_over_under_load() {
    let cluster = Cluster::new(SEVEN).await;
    cluster.network().set_delay(Duration::from_millis(1));
    let wire = Wire::tap(&cluster);
    let leader = cluster.leader().await;
    let load = Load::steady(&cluster);
    sleep(ELECTION).await;
    let target = cluster.followers()[3].clone();
    leader.leadership_transfer_to_server(target.id().clone()).await.unwrap();
    assert_eq!(cluster.leader().await.id(), target.id());
    sleep(ELECTION).await;
    let acknowledged = load.stop().await;
    check_everything(&cluster, &wire, &acknowledged).await;
    assert_eq!(wire.terms(), 2);
}

/// R70: any of seven can be chosen.
#[tokio::test(start_paused = true)]
async fn any_of_seven_can_be_chosen() {
    let cluster = Cluster::new(SEVEN).await;
    for id in SEVEN.into_iter().chain(["c", "a"]) {
        let leader = cluster.leader().await;
        if leader.id().as_str() != id {
            leader.leadership_transfer_to_server(id).await.unwrap();
            assert_eq!(cluster.raft(id).role(), Role::Leader);
            assert_eq!(cluster.leader().await.id().as_str(), id);
        }
    }
    cluster.converge().await;
}

/// R72: the target cannot be reached at its address. The transfer ends with an error, and the
/// leader leads on.
#[tokio::test(start_paused = true)]
async fn a_target_at_a_wrong_address_does_not_take_over() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let target = cluster.followers()[0].id().clone();
    leader.add_voter(target.clone(), "nowhere", None).await.unwrap();
    let started = Instant::now();
    let error = leader.leadership_transfer_to_server(target).await.unwrap_err();
    assert!(matches!(error, TransferError::TimedOut { timeout } if timeout == ELECTION), "{error}");
    assert!(started.elapsed() <= ELECTION);
    leader.apply("x").await.unwrap();
}

/// R73: a target that lacks a thousand entries gets them first, and then leads.
#[tokio::test(start_paused = true)]
async fn a_target_that_is_far_behind_catches_up_first() {
    let small = |config: Config| config.with(|it| it.max_append_entries = 16);
    let cluster = Cluster::with_config(ABC, small).await;
    let leader = cluster.leader().await;
    let target = cluster.followers()[0].clone();
    cluster.network().disconnect(target.id().as_str());
    leader.apply_batch(vec![Bytes::from_static(b"x"); 1000]).await.unwrap();
    let last = leader.last_index();
    cluster.network().heal_all();
    assert!(target.last_index().0 + 1000 <= last.0);
    leader.leadership_transfer_to_server(target.id().clone()).await.unwrap();
    assert_eq!(target.role(), Role::Leader);
    assert!(last < target.last_index());
    cluster.converge().await;
}

/// R75: while leadership is handed over nothing new is accepted, of any kind.
#[tokio::test(start_paused = true)]
async fn nothing_is_accepted_during_a_transfer() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let last = leader.last_index();
    cluster.network().set_drop(|_, _, message| matches!(message, Message::TimeoutNow(_)));
    let target = cluster.followers()[0].id().clone();
    let transferring = transfer(&leader, target.as_str());
    settle().await;
    assert!(matches!(leader.apply("x").await, Err(ApplyError::TransferInProgress)));
    let batch = leader.apply_batch(vec!["x".into(), "y".into()]).await;
    assert!(matches!(batch, Err(ApplyError::TransferInProgress)));
    assert!(matches!(leader.barrier().await, Err(ApplyError::TransferInProgress)));
    for change in [
        leader.add_voter("d", "d", None).await,
        leader.add_nonvoter("d", "d", None).await,
        leader.demote_voter(target.clone(), None).await,
        leader.remove_server(target.clone(), None).await,
    ] {
        assert!(matches!(change, Err(ConfigurationError::TransferInProgress)), "{change:?}");
    }
    for again in [
        leader.leadership_transfer().await,
        leader.leadership_transfer_to_server(target.clone()).await,
    ] {
        assert!(matches!(again, Err(TransferError::TransferInProgress)), "{again:?}");
    }
    transferring.await.unwrap().unwrap_err();
    assert_eq!(leader.last_index(), last);
    assert_eq!(members(&leader), "a b c");
}

/// R76: a target that does not catch up in time is given up.
#[tokio::test(start_paused = true)]
async fn a_target_that_does_not_catch_up_is_given_up() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let target = cluster.followers()[0].id().clone();
    cluster.disk(target.as_str()).pause_writes();
    leader.apply("x").await.unwrap();
    let started = Instant::now();
    let error = leader.leadership_transfer_to_server(target.clone()).await.unwrap_err();
    assert!(matches!(error, TransferError::TimedOut { .. }), "{error}");
    assert_eq!(started.elapsed(), ELECTION);
    assert_eq!(leader.role(), Role::Leader);
    cluster.disk(target.as_str()).resume_writes();
    leader.apply("y").await.unwrap();
    cluster.converge().await;
}
