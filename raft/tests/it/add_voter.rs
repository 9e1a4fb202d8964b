//! A new voter catches up first, and holds nobody up but whoever waits for it.

use std::time::Duration;

use raft::{
    Config, ConfigurationError, Message, Raft, ServerId, Suffrage,
    testing::{Cluster, Journal},
};

fn suffrage(raft: &Raft<Journal>, id: &str) -> Option<Suffrage> {
    raft.configuration().configuration.server(&ServerId::new(id)).map(|server| server.suffrage)
}

async fn apply_many(raft: &Raft<Journal>, count: usize) {
    let commands = (0..count).map(|number| format!("c{number}").into()).collect();
    raft.apply_batch(commands).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_new_voter_has_the_log_before_it_votes() {
    let mut cluster = Cluster::new(["a"]).await;
    let leader = cluster.leader().await;
    apply_many(&leader, 5000).await;
    cluster.start("b").await;
    let mut observer = leader.observe(16, |observation| !observation.is_message());
    let index = leader.add_voter("b", "b", None).await.unwrap();
    assert_eq!(suffrage(&leader, "b"), Some(Suffrage::Voter));
    assert_eq!(leader.configuration().index, index);
    assert!(4000 <= cluster.journal("b").commands().len());
    let mut seen = Vec::new();
    while let Some(observation) = observer.try_recv() {
        if let raft::observer::Observation::ConfigurationChanged { configuration } = observation {
            seen.push(configuration.configuration.to_string());
        }
    }
    assert_eq!(seen, ["a b(nonvoter)", "a b"]);
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_that_is_not_there_stalls_nobody() {
    let cluster = Cluster::new(["a"]).await;
    let leader = cluster.leader().await;
    let adding = tokio::spawn({
        let leader = leader.clone();
        async move { leader.add_voter("ghost", "ghost", None).await }
    });
    for number in 0..20 {
        tokio::time::sleep(Duration::from_secs(20)).await;
        leader.apply(format!("c{number}")).await.unwrap();
    }
    assert!(!adding.is_finished());
    let error = adding.await.unwrap().unwrap_err();
    assert!(matches!(error, ConfigurationError::TooSlow { .. }), "{error}");
    assert_eq!(suffrage(&leader, "ghost"), Some(Suffrage::Nonvoter));
    leader.remove_server("ghost", None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_that_somebody_removes_meanwhile_is_not_added_again() {
    let cluster = Cluster::new(["a", "b", "c"]).await;
    let leader = cluster.leader().await;
    let adding = tokio::spawn({
        let leader = leader.clone();
        async move { leader.add_voter("ghost", "ghost", None).await }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(suffrage(&leader, "ghost"), Some(Suffrage::Nonvoter));
    leader.remove_server("ghost", None).await.unwrap();
    let error = adding.await.unwrap().unwrap_err();
    assert!(matches!(error, ConfigurationError::Superseded { .. }), "{error}");
    assert_eq!(suffrage(&leader, "ghost"), None);
}

#[tokio::test(start_paused = true)]
async fn waiting_again_for_a_newcomer_writes_nothing() {
    let mut cluster = Cluster::new(["a"]).await;
    let leader = cluster.leader().await;
    let wait = Duration::from_secs(5);
    assert!(tokio::time::timeout(wait, leader.add_voter("b", "b", None)).await.is_err());
    let before = leader.configuration().index;
    assert_eq!(suffrage(&leader, "b"), Some(Suffrage::Nonvoter));
    for _ in 0..3 {
        assert!(tokio::time::timeout(wait, leader.add_voter("b", "b", None)).await.is_err());
    }
    assert_eq!(leader.configuration().index, before);
    let stale = leader.add_voter("b", "b", Some(before.prev())).await.unwrap_err();
    assert!(matches!(stale, ConfigurationError::StaleIndex { .. }), "{stale}");
    cluster.start("b").await;
    let index = leader.add_voter("b", "b", Some(before)).await.unwrap();
    assert_eq!(index, before.next());
    assert_eq!(suffrage(&leader, "b"), Some(Suffrage::Voter));
}

#[tokio::test(start_paused = true)]
async fn other_changes_meanwhile_do_not_keep_a_newcomer_from_being_promoted() {
    let mut cluster = Cluster::new(["a"]).await;
    let leader = cluster.leader().await;
    let adding = tokio::spawn({
        let leader = leader.clone();
        async move { leader.add_voter("b", "b", None).await }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    leader.add_nonvoter("n", "n", None).await.unwrap();
    cluster.start("b").await;
    adding.await.unwrap().unwrap();
    assert_eq!(suffrage(&leader, "b"), Some(Suffrage::Voter));
    assert_eq!(suffrage(&leader, "n"), Some(Suffrage::Nonvoter));
}

#[tokio::test(start_paused = true)]
async fn with_the_setting_a_server_that_has_answered_is_a_voter_whatever_it_lacks() {
    let at_once = |config: Config| {
        config.with(|it| {
            it.add_voters_at_once = true;
            it.catch_up_lag = 0;
        })
    };
    let mut cluster = Cluster::with_config(["a"], at_once).await;
    let leader = cluster.leader().await;
    // Entries do not get through: it will lack all of them.
    cluster.network().set_drop(|_, _, message| matches!(message, Message::AppendEntries(_)));
    let adding = tokio::spawn({
        let leader = leader.clone();
        async move { leader.add_voter("b", "b", None).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(suffrage(&leader, "b"), Some(Suffrage::Nonvoter), "it does not run yet");
    cluster.start("b").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(suffrage(&leader, "b"), Some(Suffrage::Voter));
    cluster.network().heal_all();
    adding.await.unwrap().unwrap();
}

/// The model's leader gets the new voter's vote again within a second; here it was refused for good, because
/// the new voter had an empty disk that the leader did not know.
#[tokio::test(start_paused = true)]
async fn a_leader_that_restarts_before_its_second_voter_has_an_entry_leads_again() {
    let at_once = |config: Config| config.with(|it| it.add_voters_at_once = true);
    let mut cluster = Cluster::with_incarnations(["a"], at_once).await;
    let leader = cluster.leader().await;
    cluster.start("b").await;
    cluster.network().set_drop(|_, _, message| matches!(message, Message::AppendEntries(_)));
    let adding = tokio::spawn({
        let leader = leader.clone();
        async move { leader.add_voter("b", "b", None).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(suffrage(&leader, "b"), Some(Suffrage::Voter));
    drop(leader);
    cluster.stop("a").await;
    adding.await.unwrap().unwrap_err();
    cluster.network().heal_all();
    cluster.start("a").await;
    let leader = tokio::time::timeout(Duration::from_secs(30), cluster.leader()).await.unwrap();
    leader.apply("x").await.unwrap();
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn adding_ends_when_leadership_is_lost() {
    let cluster = Cluster::new(["a", "b", "c"]).await;
    let leader = cluster.leader().await;
    let adding = tokio::spawn({
        let leader = leader.clone();
        async move { leader.add_voter("ghost", "ghost", None).await }
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    leader.leadership_transfer().await.unwrap();
    let error = adding.await.unwrap().unwrap_err();
    assert!(matches!(error, ConfigurationError::LeadershipLost), "{error}");
}
