//! The autopilot beside real servers.

use std::time::Duration;

use raft::{
    Fatal, Suffrage,
    autopilot::{Autopilot, AutopilotConfig, AutopilotState, Promotion},
    testing::Cluster,
};

use crate::{logs::NobodyReads, model_support::settle};

fn config() -> AutopilotConfig {
    AutopilotConfig::default().with(|it| {
        it.interval = Duration::from_millis(500);
        it.promotion = Promotion::All;
        it.dead_after = Some(Duration::from_secs(20));
    })
}

#[tokio::test(start_paused = true)]
async fn a_nonvoter_is_promoted_and_a_dead_server_is_removed() {
    let mut cluster = Cluster::new(["a", "b", "c"]).await;
    let leader = cluster.leader().await;
    let pilots: Vec<Autopilot> =
        cluster.rafts().into_iter().map(|raft| Autopilot::start(raft, config()).unwrap()).collect();
    cluster.start("d").await;
    leader.add_nonvoter("d", "d", None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let suffrage = |id: &str| {
        leader.configuration().configuration.server(&id.into()).map(|server| server.suffrage)
    };
    assert_eq!(suffrage("d"), Some(Suffrage::Nonvoter), "promoted before it was stable");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(suffrage("d"), Some(Suffrage::Voter));

    let leading = pilots.iter().map(Autopilot::state).filter(|state| state.is_leader);
    let states: Vec<_> = leading.collect();
    assert_eq!(states.len(), 1, "only the leader's autopilot knows the cluster");
    assert!(states[0].is_healthy);
    assert_eq!(states[0].failure_tolerance, 1);

    cluster.stop("d").await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(suffrage("d"), Some(Suffrage::Voter), "removed before it was dead for long enough");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(suffrage("d"), None);

    // Three voters are the minimum: the next dead one stays.
    let follower = cluster.followers()[0].id().to_string();
    cluster.stop(&follower).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(suffrage(&follower), Some(Suffrage::Voter));
    leader.apply("still serving").await.unwrap();

    for pilot in pilots {
        pilot.stop().await;
    }
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_autopilot_ends_with_its_server() {
    let mut cluster = Cluster::new(["a"]).await;
    let leader = cluster.leader().await;
    let pilot = Autopilot::start(leader, config()).unwrap();
    tokio::time::sleep(config().interval / 2).await;
    assert!(pilot.state().is_leader);
    cluster.shutdown().await;
    settle().await;
    assert_eq!(pilot.state(), AutopilotState::default(), "long before its next look");
    pilot.stop().await;
}

/// A server would go on without what it was told to do.
#[tokio::test(start_paused = true)]
async fn a_panic_of_an_autopilot_ends_its_server() {
    let (nobody_reads, _guard) = NobodyReads::install();
    let cluster = Cluster::new(["a", "b", "c"]).await;
    let leader = cluster.leader().await;
    // No member, and nobody there: the autopilot cannot promote it, and says so.
    leader.add_nonvoter("d", "d", None).await.unwrap();
    let config = config().with(|it| it.dead_after = Some(Duration::from_secs(20)));
    let _pilot = Autopilot::start(leader.clone(), config).unwrap();
    tokio::time::sleep(Duration::from_secs(15)).await;
    nobody_reads.begin_for("raft::autopilot");
    let ended = tokio::time::timeout(Duration::from_secs(60), leader.ended()).await;
    let ended = ended.expect("the end is told");
    assert!(matches!(ended, Fatal::Panicked { task: "autopilot", .. }), "{ended}");
    nobody_reads.end();
}
