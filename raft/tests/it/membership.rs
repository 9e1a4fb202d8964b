//! Membership changes through the handle.

use std::time::Duration;

use raft::{
    Config, ConfigurationError, Fatal, InvalidConfiguration, LogIndex, Message, Observation, Raft,
    Role, Server, ServerId, Suffrage,
    testing::{Cluster, Journal},
};
use tokio::time::{sleep, timeout};

const ABC: [&str; 3] = ["a", "b", "c"];

fn members(raft: &Raft<Journal>) -> String {
    raft.configuration().configuration.to_string()
}

fn suffrage(raft: &Raft<Journal>, id: &str) -> Option<Suffrage> {
    raft.configuration().configuration.server(&ServerId::new(id)).map(|server| server.suffrage)
}

#[tokio::test(start_paused = true)]
async fn a_server_is_added_catches_up_and_is_promoted() {
    let mut cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    leader.apply("before").await.unwrap();
    cluster.start("d").await;
    let index = leader.add_nonvoter("d", "d", None).await.unwrap();
    assert_eq!(leader.configuration().index, index);
    assert!(index <= leader.applied_index());
    assert_eq!(suffrage(&leader, "d"), Some(Suffrage::Nonvoter));
    cluster.converge().await;
    assert_eq!(cluster.journal("d").commands(), ["before"]);
    assert_eq!(members(&cluster.raft("d")), "a b c d(nonvoter)");

    leader.add_voter("d", "d", None).await.unwrap();
    cluster.converge().await;
    for raft in cluster.rafts() {
        assert_eq!(members(&raft), "a b c d");
    }
    let told = cluster.journal("d").configurations();
    assert_eq!(told.last().unwrap().configuration.to_string(), "a b c d");
}

#[tokio::test(start_paused = true)]
async fn a_voter_is_demoted_and_removed() {
    let mut cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let follower = cluster.followers()[0].id().to_string();
    leader.demote_voter(follower.as_str(), None).await.unwrap();
    assert_eq!(suffrage(&leader, &follower), Some(Suffrage::Nonvoter));
    leader.apply("x").await.unwrap();
    cluster.converge().await;
    leader.remove_server(follower.as_str(), None).await.unwrap();
    assert_eq!(suffrage(&leader, &follower), None);
    cluster.stop(&follower).await;
    leader.apply("y").await.unwrap();
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn adding_a_voter_again_changes_its_address() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let follower = cluster.followers()[0].id().clone();
    leader.add_voter(follower.clone(), "elsewhere", None).await.unwrap();
    let configuration = leader.configuration().configuration;
    assert_eq!(
        configuration.server(&follower),
        Some(&Server::voter(follower.clone(), "elsewhere"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_change_with_the_index_of_an_older_configuration_is_refused() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let old = leader.configuration().index;
    let new = leader.add_nonvoter("d", "d", Some(old)).await.unwrap();
    let error = leader.add_nonvoter("e", "e", Some(old)).await.unwrap_err();
    assert!(
        matches!(error, ConfigurationError::StaleIndex { given, latest } if given == old && latest == new),
        "{error}"
    );
    leader.add_nonvoter("e", "e", Some(new)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn changes_that_break_a_rule_are_refused() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let index = leader.configuration().index;
    let invalid = |result: Result<LogIndex, ConfigurationError>| match result {
        Err(ConfigurationError::Invalid(invalid)) => invalid,
        other => panic!("{other:?}"),
    };
    let unknown = InvalidConfiguration::UnknownServer { id: "x".into() };
    assert_eq!(invalid(leader.remove_server("x", None).await), unknown);
    assert_eq!(invalid(leader.demote_voter("x", None).await), unknown);
    let duplicate = invalid(leader.add_voter("x", "a", None).await);
    assert!(matches!(duplicate, InvalidConfiguration::DuplicateAddress { .. }));
    let empty = invalid(leader.add_voter("", "x", None).await);
    assert!(matches!(empty, InvalidConfiguration::EmptyId { .. }));
    let empty = invalid(leader.add_voter("x", "", None).await);
    assert!(matches!(empty, InvalidConfiguration::EmptyAddress { .. }));
    assert_eq!(leader.configuration().index, index);
}

#[tokio::test(start_paused = true)]
async fn the_last_voter_cannot_be_removed() {
    let cluster = Cluster::new(["a"]).await;
    let leader = cluster.leader().await;
    for result in [leader.remove_server("a", None).await, leader.demote_voter("a", None).await] {
        assert!(
            matches!(result, Err(ConfigurationError::Invalid(InvalidConfiguration::NoVoter))),
            "{result:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_refuses_and_names_the_leader() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let error = cluster.followers()[0].add_voter("d", "d", None).await.unwrap_err();
    let ConfigurationError::NotLeader { leader: Some(named) } = error else { panic!("{error}") };
    assert_eq!(named.id, *leader.id());
}

#[tokio::test(start_paused = true)]
async fn one_change_at_a_time() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    cluster.network().set_drop(|_, _, message| {
        matches!(message, Message::AppendEntriesReply(_) | Message::HeartbeatReply(_))
    });
    let first = tokio::spawn({
        let leader = leader.clone();
        async move { leader.add_nonvoter("d", "d", None).await }
    });
    tokio::task::yield_now().await;
    let error = leader.add_nonvoter("e", "e", None).await.unwrap_err();
    let ConfigurationError::ChangeInProgress { index } = error else { panic!("{error}") };
    cluster.network().heal_all();
    assert_eq!(first.await.unwrap().unwrap(), index);
    leader.add_nonvoter("e", "e", None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_leader_removes_itself_and_the_others_go_on() {
    let mut cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    leader.apply("x").await.unwrap();
    let removed = leader.id().to_string();
    leader.remove_server(removed.as_str(), None).await.unwrap();
    leader.leader_changes().wait_for(Option::is_none).await.unwrap();
    assert_ne!(leader.role(), Role::Leader);
    let others = cluster.rafts().into_iter().filter(|raft| raft.id().as_str() != removed);
    let next = cluster.leader_among(&others.collect::<Vec<_>>()).await;
    cluster.stop(&removed).await;
    next.apply("y").await.unwrap();
    cluster.converge().await;
    assert_eq!(suffrage(&next, &removed), None);
    assert_eq!(cluster.journal(next.id().as_str()).commands(), ["x", "y"]);
}

/// The others need not wait for the disk of a leader that does not count itself any more: what they
/// have committed is answered as soon as this disk has it, though it leads no longer by then.
#[tokio::test(start_paused = true)]
async fn a_leader_that_takes_its_own_vote_is_told_that_it_is_committed() {
    for (servers, is_removal) in [(2, true), (2, false), (3, true), (3, false)] {
        let cluster = Cluster::new(ABC.into_iter().take(servers)).await;
        let leader = cluster.leader().await;
        cluster.converge().await;
        let id = leader.id().as_str();
        cluster.disk(id).set_write_delay(Duration::from_millis(100));
        let commands = leader.apply_batch(vec!["x".into(), "y".into()]);
        let barrier = leader.barrier();
        let change = async {
            if is_removal {
                leader.remove_server(id, None).await
            } else {
                leader.demote_voter(id, None).await
            }
        };
        let (commands, barrier, change) = tokio::join!(commands, barrier, change);
        assert_eq!(commands.unwrap().len(), 2, "{servers} servers");
        assert_eq!(change.unwrap(), barrier.unwrap().next(), "{servers} servers");
        assert_ne!(leader.role(), Role::Leader);
        assert_eq!(cluster.journal(id).commands(), ["x", "y"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_configuration_survives_a_restart() {
    let mut cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    leader.add_nonvoter("d", "d", None).await.unwrap();
    cluster.converge().await;
    for id in ABC {
        let raft = cluster.restart(id).await;
        assert_eq!(members(&raft), "a b c d(nonvoter)");
    }
}

/// A new server hears of its leader before it hears of the configuration that has the address.
#[tokio::test(start_paused = true)]
async fn the_address_of_the_leader_follows_the_configuration() {
    let mut cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let added = cluster.start("d").await;
    leader.add_voter("d", "d", None).await.unwrap();
    cluster.converge().await;
    assert_eq!(added.leader().unwrap().address, Some(leader.id().as_str().into()));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_removed_ends() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let removed = cluster.followers()[0].clone();
    let mut observer = removed.observe(10, |seen| matches!(seen, Observation::Removed { .. }));
    let index = leader.remove_server(removed.id().clone(), None).await.unwrap();
    assert!(matches!(removed.wait_applied(LogIndex(u64::MAX)).await, Err(Fatal::Removed)));
    assert!(matches!(removed.shutdown().await, Fatal::Removed));
    let seen = observer.recv().await;
    assert_eq!(seen, Some(Observation::Removed { configuration_index: index }));
    assert!(index <= removed.applied_index(), "it knows what it was removed by");
    leader.apply("x").await.unwrap();
    assert!(leader.fatal().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_removes_itself_answers_everybody_and_ends() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let before = leader.apply("before");
    let removing = leader.remove_server(leader.id().clone(), None);
    let after = {
        let leader = leader.clone();
        tokio::spawn(async move { leader.apply("after").await })
    };
    before.await.unwrap();
    removing.await.unwrap();
    let _ = after.await.unwrap();
    assert!(matches!(leader.shutdown().await, Fatal::Removed));
    let rest =
        cluster.rafts().into_iter().filter(|raft| raft.fatal().is_none()).collect::<Vec<_>>();
    assert_eq!(rest.len(), 2);
    cluster.leader_among(&rest).await.apply("x").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_removed_goes_on_if_it_is_told_to() {
    let configure = |config: Config| config.with(|it| it.shutdown_on_remove = false);
    let cluster = Cluster::with_config(ABC, configure).await;
    let leader = cluster.leader().await;
    let removed = cluster.followers()[0].clone();
    leader.remove_server(removed.id().clone(), None).await.unwrap();
    leader.remove_server(leader.id().clone(), None).await.unwrap();
    sleep(Duration::from_secs(20)).await;
    assert!(removed.fatal().is_none() && leader.fatal().is_none());
    assert_eq!((removed.role(), leader.role()), (Role::Follower, Role::Follower));
}

/// It campaigns no more than any nonvoter, so it would never have asked anybody for a vote.
#[tokio::test(start_paused = true)]
async fn a_nonvoter_that_was_away_learns_at_its_start_that_it_was_removed() {
    let mut cluster = Cluster::with_incarnations(ABC, |config| config).await;
    cluster.start("d").await;
    let leader = cluster.leader().await;
    leader.add_nonvoter("d", "d", None).await.unwrap();
    cluster.converge().await;
    cluster.stop("d").await;
    leader.remove_server("d", None).await.unwrap();
    let back = cluster.start("d").await;
    let ended = timeout(Duration::from_secs(20), back.ended()).await;
    assert!(matches!(ended, Ok(Fatal::Removed)), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_demotion_ends_nobody() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let demoted = cluster.followers()[0].clone();
    leader.demote_voter(demoted.id().clone(), None).await.unwrap();
    leader.demote_voter(leader.id().clone(), None).await.unwrap();
    sleep(Duration::from_secs(20)).await;
    cluster.converge().await;
    assert!(demoted.fatal().is_none() && leader.fatal().is_none());
}
