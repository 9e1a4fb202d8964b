//! Leadership transfer through the handle.

use std::time::Duration;

use raft::{ApplyError, Message, Role, TransferError, testing::Cluster};

const ABC: [&str; 3] = ["a", "b", "c"];

#[tokio::test(start_paused = true)]
async fn the_chosen_server_leads_when_the_future_resolves() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    leader.apply("x").await.unwrap();
    let target = cluster.followers()[1].clone();
    leader.leadership_transfer_to_server(target.id().clone()).await.unwrap();
    assert_eq!(leader.leader().unwrap().id, *target.id());
    assert_eq!(leader.role(), Role::Follower);
    let next = cluster.leader().await;
    assert_eq!(next.id(), target.id());
    next.apply("y").await.unwrap();
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_target_another_voter_is_chosen() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    leader.leadership_transfer().await.unwrap();
    assert_ne!(cluster.leader().await.id(), leader.id());
}

#[tokio::test(start_paused = true)]
async fn the_choice_falls_on_a_server_that_can_be_reached() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let cut = cluster.followers()[0].clone();
    cluster.network().disconnect(cut.id().as_str());
    leader.apply("x").await.unwrap();
    leader.leadership_transfer().await.unwrap();
    let next = leader.leader().unwrap().id;
    assert_ne!(next, *cut.id());
    assert_ne!(next, *leader.id());
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_before_a_transfer_is_answered() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let before: Vec<_> = (0..10).map(|_| leader.apply("x")).collect();
    leader.leadership_transfer().await.unwrap();
    for future in before {
        future.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn impossible_targets_are_refused() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    leader.add_nonvoter("d", "d", None).await.unwrap();
    for target in [leader.id().as_str(), "d", "unknown"] {
        let error = leader.leadership_transfer_to_server(target).await.unwrap_err();
        assert!(matches!(error, TransferError::InvalidTarget { .. }), "{target}: {error}");
    }
    let alone = Cluster::new(["a"]).await;
    let error = alone.leader().await.leadership_transfer().await.unwrap_err();
    assert!(matches!(error, TransferError::InvalidTarget { .. }), "{error}");
    let error = cluster.followers()[0].leadership_transfer().await.unwrap_err();
    assert!(matches!(error, TransferError::NotLeader { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_transfer_to_a_server_that_does_not_answer_is_given_up_and_the_leader_leads_on() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let target = cluster.followers()[0].id().clone();
    cluster.network().set_drop(|_, _, message| matches!(message, Message::TimeoutNow(_)));
    let transferring = tokio::spawn({
        let (leader, target) = (leader.clone(), target.clone());
        async move { leader.leadership_transfer_to_server(target).await }
    });
    tokio::task::yield_now().await;
    let error = leader.apply("meanwhile").await.unwrap_err();
    assert!(matches!(error, ApplyError::TransferInProgress), "{error}");
    let error = leader.leadership_transfer().await.unwrap_err();
    assert!(matches!(error, TransferError::TransferInProgress), "{error}");
    let error = transferring.await.unwrap().unwrap_err();
    assert!(matches!(error, TransferError::TimedOut { .. }), "{error}");
    assert_eq!(leader.role(), Role::Leader);
    leader.apply("afterwards").await.unwrap();
}

/// Else the first caller would wait for the end of the node, and the second would be told of the
/// first one's transfer.
#[tokio::test(start_paused = true)]
async fn a_transfer_that_is_asked_for_in_the_turn_that_ends_another_has_its_own_answer() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    cluster.network().set_drop(|_, _, message| matches!(message, Message::TimeoutNow(_)));
    let transfer = || {
        let leader = leader.clone();
        async move { leader.leadership_transfer().await }
    };
    let first = tokio::spawn(transfer());
    // The default election timeout: how long a transfer may take.
    let others = [(0, 1000), (1, 999), (500, 500), (999, 1)].map(|(early, late)| {
        let transfer = transfer();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(early)).await;
            tokio::time::sleep(Duration::from_millis(late)).await;
            transfer.await
        })
    });
    for transferring in [first].into_iter().chain(others) {
        let ended = tokio::time::timeout(Duration::from_secs(10), transferring).await;
        let error = ended.expect("an answer").unwrap().unwrap_err();
        assert!(
            matches!(error, TransferError::TimedOut { .. } | TransferError::TransferInProgress),
            "{error}"
        );
    }
}
