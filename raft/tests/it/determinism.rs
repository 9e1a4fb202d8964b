//! Equal seeds and equal calls give equal runs, of the whole library: that is what makes a failure
//! repeatable. The clock is paused, the runtime has one thread, everything else is ours.

use std::sync::Arc;

use parking_lot::Mutex;
use raft::{Config, testing::Cluster};
use tokio::time::Instant;

const ABC: [&str; 3] = ["a", "b", "c"];

/// A busy life, and every message of it with the time it was sent at.
async fn transcript() -> Vec<String> {
    let configure = |config: Config| {
        config.with(|it| {
            it.max_append_entries = 7;
            it.max_inflight_appends = 3;
        })
    };
    let mut cluster = Cluster::with_config(ABC, configure).await;
    let lines = Arc::new(Mutex::new(Vec::new()));
    let (told, started) = (Arc::clone(&lines), Instant::now());
    cluster.network().set_tap(move |from, to, message| {
        let micros = started.elapsed().as_micros();
        told.lock().push(format!("{micros} {from} -> {to} {message}"));
    });
    let leader = cluster.leader().await;
    let calls: Vec<_> = (0..100).map(|number| leader.apply(format!("{number}"))).collect();
    for call in calls {
        call.await.unwrap();
    }
    cluster.start("d").await;
    leader.add_voter("d", "d", None).await.unwrap();
    cluster.converge().await;
    leader.leadership_transfer().await.unwrap();
    let leader = cluster.leader().await;
    cluster.stop(leader.id().as_str()).await;
    let next = cluster.leader().await;
    next.apply("x").await.unwrap();
    next.verify_leader().await.unwrap();
    cluster.start(leader.id().as_str()).await;
    cluster.converge().await;
    cluster.network().partition(&[&["a", "b"], &["c", "d"]]);
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    cluster.network().heal_all();
    cluster.leader().await.apply("y").await.unwrap();
    cluster.converge().await;
    cluster.shutdown().await;
    let lines = lines.lock();
    lines.clone()
}

#[tokio::test(start_paused = true)]
async fn equal_seeds_give_equal_runs() {
    let (first, second) = (transcript().await, transcript().await);
    assert!(1000 < first.len());
    let difference = first.iter().zip(&second).position(|(first, second)| first != second);
    if let Some(line) = difference {
        panic!("line {line}: {} and {}", first[line], second[line]);
    }
    assert_eq!(first.len(), second.len());
}
