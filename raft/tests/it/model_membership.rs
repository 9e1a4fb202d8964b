//! Rows of the model's catalogue about members that come, go, and come back.

use raft::{
    Config, ConfigurationError, LogId, Message, Role, Term, rpc::RequestVoteRequest,
    testing::Cluster,
};
use tokio::time::sleep;

use crate::model_support::*;

/// Servers that go on running when they are removed.
async fn cluster(voters: &[&str]) -> Cluster {
    let stay = |config: Config| config.with(|it| it.shutdown_on_remove = false);
    Cluster::with_config(voters.iter().copied(), stay).await
}

/// R30: the state machine of every server is told of each configuration, in order.
#[tokio::test(start_paused = true)]
async fn every_state_machine_is_told_of_every_configuration() {
    let at_once = |config: Config| config.with(|it| it.add_voters_at_once = true);
    let mut cluster = Cluster::with_config(["a"], at_once).await;
    let leader = cluster.leader().await;
    for id in ["b", "c"] {
        cluster.start(id).await;
        leader.add_voter(id, id, None).await.unwrap();
    }
    cluster.converge().await;
    for id in ABC {
        let told = cluster.journal(id).configurations();
        let sizes: Vec<_> = told.iter().map(|it| it.configuration.servers().len()).collect();
        // Each newcomer is a nonvoter first.
        assert_eq!(sizes, [1, 2, 2, 3, 3], "{id}");
        assert!(told.is_sorted_by(|a, b| a.index < b.index));
        assert_eq!(told.last().unwrap().configuration.to_string(), "a b c");
    }
}

/// R31: a follower that is removed is in no configuration any more, stays a follower, and is sent
/// nothing.
#[tokio::test(start_paused = true)]
async fn a_removed_follower_stays_a_follower() {
    let cluster = cluster(&ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let removed = cluster.followers()[1].clone();
    leader.remove_server(removed.id().clone(), None).await.unwrap();
    let left = all_but(&cluster, &[removed.id().as_str()]);
    sleep(20 * ELECTION).await;
    leader.apply("x").await.unwrap();
    for raft in left {
        raft.wait_applied(leader.last_index()).await.unwrap();
        assert_eq!(raft.configuration().configuration.servers().len(), 2);
        assert_eq!(raft.configuration().configuration.server(removed.id()), None);
    }
    assert_eq!((removed.role(), removed.term()), (Role::Follower, leader.term()));
    assert!(cluster.journal(removed.id().as_str()).commands().is_empty());
}

/// R33: a leader that removes itself and goes on running follows, and refuses commands; another one
/// leads the rest, who agree.
#[tokio::test(start_paused = true)]
async fn a_leader_that_removed_itself_refuses_commands() {
    let cluster = cluster(&ABC).await;
    let old = cluster.leader().await;
    old.apply("x").await.unwrap();
    old.remove_server(old.id().clone(), None).await.unwrap();
    old.leader_changes().wait_for(Option::is_none).await.unwrap();
    let left = all_but(&cluster, &[old.id().as_str()]);
    let new = cluster.leader_among(&left).await;
    sleep(20 * ELECTION).await;
    assert_eq!(old.role(), Role::Follower);
    let error = old.apply("y").await.unwrap_err();
    assert_eq!(error.outcome(), raft::Outcome::NotApplied);
    new.apply("z").await.unwrap();
    for raft in left {
        raft.wait_applied(new.last_index()).await.unwrap();
        assert_eq!(cluster.journal(raft.id().as_str()).commands(), ["x", "z"]);
        assert_eq!(raft.configuration().configuration.servers().len(), 2);
    }
    assert_eq!(cluster.journal(old.id().as_str()).commands(), ["x"]);
}

/// R34: a change cannot be made without a majority. The members stay who they were.
#[tokio::test(start_paused = true)]
async fn a_change_without_a_majority_fails() {
    let cluster = cluster(&ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let others = cluster.followers();
    cluster.network().disconnect(leader.id().as_str());
    let error = leader.remove_server(others[0].id().clone(), None).await.unwrap_err();
    assert!(matches!(error, ConfigurationError::LeadershipLost), "{error}");
    cluster.leader_among(&others).await;
    cluster.network().heal_all();
    cluster.converge().await;
    for raft in cluster.rafts() {
        assert_eq!(members(&raft), "a b c");
    }
}

/// R35: adding a member that is one already, at its address, changes nothing.
#[tokio::test(start_paused = true)]
async fn adding_a_known_voter_changes_nothing() {
    let cluster = cluster(&ABC).await;
    let leader = cluster.leader().await;
    let before = leader.configuration();
    let id = cluster.followers()[0].id().clone();
    let index = leader.add_voter(id.clone(), id.as_str(), None).await.unwrap();
    assert!(before.index < index);
    cluster.converge().await;
    for raft in cluster.rafts() {
        assert_eq!(raft.configuration().configuration, before.configuration);
    }
}

/// R37: a server that was removed, and has perhaps campaigned since, comes back as a follower; the
/// cluster has one leader throughout.
#[tokio::test(start_paused = true)]
async fn a_removed_server_comes_back_as_a_follower() {
    let mut cluster = cluster(&ABC).await;
    let leader = cluster.leader().await;
    leader.apply("x").await.unwrap();
    cluster.converge().await;
    let id = cluster.followers()[0].id().to_string();
    // It never hears of its removal, and loses patience.
    cluster.network().disconnect(id.as_str());
    leader.remove_server(id.as_str(), None).await.unwrap();
    sleep(20 * ELECTION).await;
    cluster.network().heal_all();
    leader.add_voter(id.as_str(), id.as_str(), None).await.unwrap();
    cluster.converge().await;
    sleep(5 * ELECTION).await;
    assert_eq!(ids(&leaders(&cluster)), [leader.id().as_str()]);
    assert_eq!(cluster.raft(&id).role(), Role::Follower);
    for raft in cluster.rafts() {
        assert_eq!(members(&raft), "a b c");
    }
    // The same with a restart in between.
    leader.remove_server(id.as_str(), None).await.unwrap();
    cluster.restart(&id).await;
    sleep(20 * ELECTION).await;
    leader.add_voter(id.as_str(), id.as_str(), None).await.unwrap();
    cluster.converge().await;
    assert_eq!(ids(&leaders(&cluster)), [leader.id().as_str()]);
}

/// R39: a server that was removed without hearing of it is elected by nobody, although a vote does
/// not ask who is a member: those who hear from a leader do not listen, and its log is old. The same
/// if it asks for no promises first, and raises its term all the time.
#[tokio::test(start_paused = true)]
async fn a_removed_server_is_never_elected() {
    for pre_vote in [|it| it, |it: Config| it.with(|it| it.pre_vote = false)] {
        let mut cluster = Cluster::with_config(FIVE, pre_vote).await;
        let leader = cluster.leader().await;
        cluster.converge().await;
        let removed = cluster.followers()[0].clone();
        let id = removed.id().as_str();
        cluster.network().disconnect(id);
        leader.remove_server(id, None).await.unwrap();
        let term = leader.term();
        // It is not told: what its old leader sends it is lost.
        let (from, to) = (address(leader.id()), address(removed.id()));
        cluster.network().set_drop(move |sender, receiver, _| (sender, receiver) == (&from, &to));
        cluster.network().connect(id);
        sleep(20 * ELECTION).await;
        assert_eq!((leader.role(), leader.term()), (Role::Leader, term));
        // Also when nobody leads any more.
        cluster.stop(leader.id().as_str()).await;
        let next = cluster.leader_among(&all_but(&cluster, &[id])).await;
        sleep(20 * ELECTION).await;
        assert_eq!((next.role(), removed.role() == Role::Leader), (Role::Leader, false));
        next.apply("x").await.unwrap();
    }
}

/// R40: a nonvoter joins that has seen a higher term. The cluster takes the term over and is stable
/// again; the nonvoter is not elected, and can be made a voter without another leader.
#[tokio::test(start_paused = true)]
async fn a_nonvoter_of_a_higher_term_joins() {
    let mut cluster = cluster(&ABC).await;
    let leader = cluster.leader().await;
    cluster.start("d").await;
    let stranger = Impostor::of(&cluster, "x").await;
    let term = Term(leader.term().0 + 10);
    let request = RequestVoteRequest {
        term,
        last: LogId::ZERO,
        is_pre_vote: false,
        is_leadership_transfer: false,
        promised: None,
        configuration_index: raft::LogIndex(1),
        life: 0,
    };
    stranger.tell("d", Message::RequestVote(request));
    settle().await;
    assert_eq!(cluster.raft("d").term(), term);
    // Its first answer deposes the leader, who then does not know whether the newcomer is a member.
    let added = leader.add_nonvoter("d", "d", None).await;
    assert!(matches!(added, Ok(_) | Err(ConfigurationError::LeadershipLost)), "{added:?}");
    sleep(10 * ELECTION).await;
    let next = cluster.leader_among(&all_but(&cluster, &["d"])).await;
    assert!(term <= next.term());
    next.add_nonvoter("d", "d", None).await.unwrap();
    cluster.converge().await;
    assert_eq!(cluster.raft("d").role(), Role::Follower);
    let term = next.term();
    next.add_voter("d", "d", None).await.unwrap();
    cluster.converge().await;
    sleep(5 * ELECTION).await;
    assert_eq!((next.role(), next.term()), (Role::Leader, term));
}

/// R41: when it hears nothing, only a voter of the configuration campaigns.
#[tokio::test(start_paused = true)]
async fn only_a_configured_voter_campaigns() {
    let mut cluster = cluster(&ABC).await;
    let leader = cluster.leader().await;
    for id in ["d", "e"] {
        cluster.start(id).await;
    }
    leader.add_nonvoter("d", "d", None).await.unwrap();
    let followers = ids(&all_but(&cluster, &[leader.id().as_str(), "d", "e"]));
    let [voter, removed] = &followers[..] else { panic!("{followers:?}") };
    leader.remove_server(removed.as_str(), None).await.unwrap();
    sleep(ELECTION).await;
    assert_eq!(cluster.raft("d").configuration(), leader.configuration());
    assert_eq!(cluster.raft(removed).configuration(), leader.configuration());
    // From here on nobody hears anything.
    let observed: Vec<_> = ["d", "e", voter, removed]
        .into_iter()
        .map(|id| {
            cluster.network().disconnect(id);
            let campaigns = |observation: &raft::Observation| {
                matches!(observation, raft::Observation::RoleChanged { .. })
            };
            (id.to_owned(), cluster.raft(id).observe(100, campaigns))
        })
        .collect();
    sleep(20 * ELECTION).await;
    for (id, mut observer) in observed {
        assert_eq!(observer.try_recv().is_some(), id == *voter, "{id}");
    }
}
