//! What a server says of itself, and how that looks when it is serialised.

use std::time::Duration;

use raft::{Role, testing::Cluster};
use serde_json::Value;
use tokio::time::sleep;

use crate::model_support::{ABC, ELECTION};

#[tokio::test(start_paused = true)]
async fn the_status_of_a_leader_is_pleasant_json() {
    let cluster = Cluster::with_config(ABC, |config| config.with(|it| it.trailing_logs = 3)).await;
    let leader = cluster.leader().await;
    for _ in 0..10 {
        leader.apply("x").await.unwrap();
    }
    cluster.converge().await;
    leader.snapshot().await.unwrap();
    sleep(3 * ELECTION / 2).await;
    let status = leader.status().await.unwrap();
    let json = serde_json::to_value(&status).unwrap();
    let text = serde_json::to_string_pretty(&status).unwrap();
    assert!(!text.contains("nanos"), "no length of time is a pair of numbers: {text}");
    let is_number = |value: &Value| value.is_f64();
    assert_eq!(json["role"], "Leader");
    assert_eq!(json["term"], leader.term().0);
    assert_eq!(json["last_contact_seconds"], 0.0);
    assert!(is_number(&json["uptime_seconds"]));
    assert!(is_number(&json["oldest_entry_age_seconds"]), "{text}");
    assert_eq!(json["last_restore_seconds"], Value::Null);
    assert_eq!(json["snapshot_age_seconds"], 1.5);
    assert_eq!(json["snapshot_size_bytes"], status.snapshot_size_bytes.unwrap());
    assert_eq!(json["config"]["election_timeout_seconds"], 1.0);
    assert_eq!(json["config"]["heartbeat_interval_seconds"], 0.1);
    assert_eq!(json["config"]["trailing_logs"], 3);
    assert_eq!(json["marks"]["first"], status.marks.first.0);
    assert!(json["run_busy_percent"].is_u64() && json["fsm_busy_percent"].is_u64());
    assert_eq!(json["timeouts"]["lease"], 0);
    let peer = &json["peers"][0];
    assert_eq!((&peer["lag_entries"], &peer["is_lost"]), (&0.into(), &false.into()));
    assert!(is_number(&peer["round_trip_seconds"]) && is_number(&peer["last_contact_seconds"]));
}

#[tokio::test(start_paused = true)]
async fn what_is_known_of_a_snapshot_from_before_the_start_is_its_size() {
    let mut cluster = Cluster::new(["a"]).await;
    let raft = cluster.leader().await;
    raft.apply("x").await.unwrap();
    let taken = raft.snapshot().await.unwrap();
    let raft = cluster.restart("a").await;
    let status = raft.status().await.unwrap();
    assert_eq!(status.snapshot, taken.meta.last);
    assert_eq!(status.snapshot_size_bytes, Some(taken.meta.size_bytes));
    assert_eq!(status.snapshot_age, None);
    assert!(status.last_restore.is_some());
}

#[tokio::test(start_paused = true)]
async fn waits_in_vain_are_counted() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let before = leader.status().await.unwrap().timeouts;
    assert_eq!((before.lease, before.write_stall), (0, 0));
    cluster.network().disconnect(leader.id().as_str());
    sleep(10 * ELECTION).await;
    let status = leader.status().await.unwrap();
    assert_ne!(status.role, Role::Leader);
    assert_eq!(status.timeouts.lease, 1);
    assert!(before.election < status.timeouts.election);
    assert!(Duration::from_secs(10) <= status.uptime);
}
