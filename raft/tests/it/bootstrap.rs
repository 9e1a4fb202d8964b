//! How a cluster is born, offline and live.

use raft::{
    BootstrapError, Config, Configuration, HardState, InvalidConfiguration, LogIndex, LogStore,
    Server, StableStore, Term, bootstrap_cluster, has_existing_state,
    inmem::{InmemLogStore, InmemSnapshotStore, InmemStableStore},
    testing::Cluster,
};

fn voters(ids: &[&str]) -> Configuration {
    Configuration::new(ids.iter().map(|id| Server::voter(*id, *id)))
}

fn stores() -> (InmemLogStore, InmemStableStore, InmemSnapshotStore) {
    (InmemLogStore::new(), InmemStableStore::new(), InmemSnapshotStore::new())
}

#[tokio::test(start_paused = true)]
async fn stores_that_were_bootstrapped_offline_start_a_cluster() {
    let mut cluster = Cluster::new([]).await;
    let mut servers = Vec::new();
    for id in ["a", "b", "c"] {
        // Started once, so that the cluster knows the stores; nothing happens without a configuration.
        cluster.start(id).await;
        cluster.stop(id).await;
        let (mut log, mut stable, snapshots) = cluster.stores(id);
        assert!(!has_existing_state(&log, &mut stable, &snapshots).await.unwrap());
        bootstrap_cluster(&mut log, &mut stable, &snapshots, voters(&["a", "b", "c"]))
            .await
            .unwrap();
        assert!(has_existing_state(&log, &mut stable, &snapshots).await.unwrap());
        servers.push(cluster.start(id).await);
    }
    let leader = cluster.leader_among(&servers).await;
    assert_eq!(leader.apply("x").await.unwrap().index, LogIndex(leader.last_index().0));
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn one_bootstrapped_server_brings_the_others_in() {
    let mut cluster = Cluster::new([]).await;
    for id in ["a", "b", "c"] {
        cluster.start(id).await;
    }
    cluster.raft("b").bootstrap_cluster(voters(&["a", "b", "c"])).await.unwrap();
    cluster.leader().await.apply("x").await.unwrap();
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn the_same_bootstrap_on_every_server_is_fine() {
    let mut cluster = Cluster::new([]).await;
    for id in ["a", "b", "c"] {
        cluster.start(id).await;
    }
    for raft in cluster.rafts() {
        raft.bootstrap_cluster(voters(&["a", "b", "c"])).await.unwrap();
    }
    cluster.leader().await.apply("x").await.unwrap();
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn a_live_bootstrap_is_durable_when_it_resolves() {
    let mut cluster = Cluster::new([]).await;
    let raft = cluster.start("a").await;
    raft.bootstrap_cluster(voters(&["a", "b"])).await.unwrap();
    let (log, mut stable, _) = cluster.stores("a");
    assert_eq!(log.reader().bounds().await.unwrap(), Some((LogIndex(1), LogIndex(1))));
    assert!(Term(1) <= stable.hard_state().await.unwrap().unwrap().current_term);
}

#[tokio::test(start_paused = true)]
async fn a_second_bootstrap_is_refused() {
    let mut cluster = Cluster::new(["a"]).await;
    let raft = cluster.leader().await;
    let error = raft.bootstrap_cluster(voters(&["a"])).await.unwrap_err();
    assert!(matches!(error, BootstrapError::AlreadyBootstrapped), "{error}");
    let raft = cluster.restart("a").await;
    let error = raft.bootstrap_cluster(voters(&["a"])).await.unwrap_err();
    assert!(matches!(error, BootstrapError::AlreadyBootstrapped), "{error}");
    cluster.stop("a").await;
    let (mut log, mut stable, snapshots) = cluster.stores("a");
    let error = bootstrap_cluster(&mut log, &mut stable, &snapshots, voters(&["a"])).await;
    assert!(matches!(error, Err(BootstrapError::AlreadyBootstrapped)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_live_bootstrap_without_the_server_itself_is_refused() {
    let mut cluster = Cluster::new([]).await;
    let raft = cluster.start("a").await;
    let error = raft.bootstrap_cluster(voters(&["b"])).await.unwrap_err();
    assert!(matches!(&error, BootstrapError::NotVoter { id } if id.as_str() == "a"), "{error}");
    let nonvoter = Configuration::new([Server::nonvoter("a", "a"), Server::voter("b", "b")]);
    let error = raft.bootstrap_cluster(nonvoter).await.unwrap_err();
    assert!(matches!(error, BootstrapError::NotVoter { .. }), "{error}");
    raft.bootstrap_cluster(voters(&["a"])).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn invalid_configurations_are_refused() {
    let mut cluster = Cluster::new([]).await;
    let raft = cluster.start("a").await;
    let nobody = Configuration::new([Server::nonvoter("a", "a")]);
    let error = raft.bootstrap_cluster(nobody.clone()).await.unwrap_err();
    let no_voter = BootstrapError::InvalidConfiguration(InvalidConfiguration::NoVoter);
    assert_eq!(error.to_string(), no_voter.to_string());
    let (mut log, mut stable, snapshots) = stores();
    let error = bootstrap_cluster(&mut log, &mut stable, &snapshots, nobody).await.unwrap_err();
    assert_eq!(error.to_string(), no_voter.to_string());
}

#[tokio::test(start_paused = true)]
async fn an_offline_bootstrap_that_was_cut_short_can_be_repeated() {
    let (mut log, mut stable, snapshots) = stores();
    log.disk().fail_writes_after(0);
    let error = bootstrap_cluster(&mut log, &mut stable, &snapshots, voters(&["a"])).await;
    assert!(matches!(error, Err(BootstrapError::Store(_))), "{error:?}");
    let term = stable.hard_state().await.unwrap().unwrap().current_term;
    assert_eq!(term, Term(1), "the first of the two writes was made");
    assert!(!has_existing_state(&log, &mut stable, &snapshots).await.unwrap());

    log.disk().heal();
    bootstrap_cluster(&mut log, &mut stable, &snapshots, voters(&["a"])).await.unwrap();
    assert!(has_existing_state(&log, &mut stable, &snapshots).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_vote_or_a_later_term_is_existing_state() {
    for (term, vote) in [(1, Some("a")), (2, None)] {
        let (log, mut stable, snapshots) = stores();
        let hard_state = HardState { current_term: Term(term), voted_for: vote.map(Into::into) };
        stable.save_hard_state(&hard_state).await.unwrap();
        assert!(has_existing_state(&log, &mut stable, &snapshots).await.unwrap());
    }
}

/// R10: what is read from the stores is what the running server had, whether it stands in the log or
/// in a snapshot.
#[tokio::test(start_paused = true)]
async fn the_configuration_of_a_stopped_server_can_be_read() {
    let configure = |config: Config| config.with(|it| it.trailing_logs = 0);
    let mut cluster = Cluster::with_config(["a"], configure).await;
    let read = async |cluster: &Cluster| {
        let (log, _, snapshots) = cluster.stores("a");
        raft::read_configuration(&log, &snapshots).await.unwrap()
    };
    let leader = cluster.leader().await;
    leader.add_nonvoter("b", "b:1", None).await.unwrap();
    for takes_snapshot in [false, true] {
        let running = cluster.leader().await;
        if takes_snapshot {
            running.snapshot().await.unwrap();
        }
        let known = running.configuration();
        cluster.stop("a").await;
        assert_eq!(read(&cluster).await, known);
        cluster.start("a").await;
    }
    // One behind the snapshot.
    let running = cluster.leader().await;
    running.remove_server("b", None).await.unwrap();
    let known = running.configuration();
    cluster.stop("a").await;
    assert_eq!(read(&cluster).await, known);
    assert_eq!(known.configuration.to_string(), "a");

    let empty = (InmemLogStore::new(), InmemSnapshotStore::new());
    let none = raft::read_configuration(&empty.0, &empty.1).await.unwrap();
    assert_eq!(none, raft::IndexedConfiguration::default());
}
