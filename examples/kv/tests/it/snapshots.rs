//! Snapshots under load: logs that stay short, and servers that were away for too long.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use serde_json::Value;
use tokio::task::JoinSet;

use crate::harness::{CALM, Cluster, Server, until};

const THRESHOLD: u64 = 200;
const TRAILING: u64 = 50;
const SMALL: [&str; 6] =
    ["--snapshot-interval", "200ms", "--snapshot-threshold", "200", "--trailing-logs", "50"];

/// Clients that write until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    clients: JoinSet<()>,
}

impl Load {
    /// Two clients through each of these servers, over the same thousands of keys.
    async fn on(servers: &[&Server]) -> Self {
        let (stop, written) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut clients = JoinSet::new();
        for turn in 0..2 * servers.len() {
            let mut connection = servers[turn % servers.len()].connect().await;
            let (stop, written) = (Arc::clone(&stop), Arc::clone(&written));
            clients.spawn(async move {
                let value = "v".repeat(500);
                for n in (0..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    let mut pipeline = redis::pipe();
                    for k in 0..50 {
                        let key = (n * 50 + k) % 1500;
                        pipeline.cmd("SET").arg(format!("{turn}:{key}")).arg(format!("{value}{n}"));
                    }
                    // Whoever loses a leader tries again.
                    if pipeline.exec_async(&mut connection).await.is_ok() {
                        written.fetch_add(50, Ordering::Relaxed);
                    }
                }
            });
        }
        Self { stop, written, clients }
    }

    /// Waits until so many more are written.
    async fn writes(&self, count: u64) {
        let goal = self.written.load(Ordering::Relaxed) + count;
        until("enough is written", async || {
            (goal <= self.written.load(Ordering::Relaxed)).then_some(())
        })
        .await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.join_all().await;
    }
}

fn raft(server: &Server) -> Value {
    server.http("GET", "/status", "").1["raft"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_away_is_caught_up_by_a_snapshot_under_load() {
    let flags = [&CALM[..], &SMALL, &["--snapshot-rate", "1M"]].concat();
    let mut cluster = Cluster::three(&flags).await;
    let leader = cluster.leader().await;
    let away = cluster.follower().await.id.clone();
    let staying: Vec<_> = cluster.servers.iter().filter(|server| server.id != away).collect();
    let load = Load::on(&staying).await;
    load.writes(1000).await;
    cluster.server_mut(&away).kill();
    let gone_at = raft(cluster.server(&leader))["marks"]["last"].as_u64().unwrap();
    load.writes(5000).await;
    until("what it lacks is forgotten", async || {
        let first = raft(cluster.server(&leader))["marks"]["first"].as_u64();
        (Some(gone_at + 100) < first).then_some(())
    })
    .await;

    // It comes back, is sent a snapshot, and dies in the middle of it.
    cluster.server_mut(&away).start(&flags);
    until("half of it is there", async || {
        let receiving = raft(cluster.server(&away))["receiving"].clone();
        let (bytes, size) = (receiving["bytes"].as_u64()?, receiving["size_bytes"].as_u64()?);
        (size / 4 < bytes && bytes < size).then_some(())
    })
    .await;
    let (ok, said) = cluster.server(&leader).ctl(&["status"]);
    assert!(ok && said.contains(&format!("is sent to {away} by {leader}")), "{said}");
    assert!(said.contains(" %"), "{said}");
    cluster.server_mut(&away).kill();

    // The second time it gets there, and the log that it needs next is kept for it.
    cluster.server_mut(&away).start(&flags);
    until("it is received", async || {
        let (_, said) = cluster.server(&leader).ctl(&["status"]);
        said.contains(&format!("is received by {away}")).then_some(())
    })
    .await;
    until("it has caught up", async || {
        let peers = raft(cluster.server(&leader))["peers"].as_array()?.clone();
        let peer = peers.iter().find(|peer| peer["id"] == away.as_str())?.clone();
        (peer["progress"] == "Replicate").then_some(())
    })
    .await;
    load.writes(2000).await;
    load.end().await;

    let checksum = cluster.checksum().await;
    let (_, said) = cluster.server(&away).ctl(&["status"]);
    assert_eq!(said.matches(&checksum).count(), 4, "{said}");
    // It may well be writing one of its own.
    assert!(!said.contains("is sent to") && !said.contains("is received by"), "{said}");
    // Snapshots were taken and logs are short, on all three.
    for server in &cluster.servers {
        until("its log is short", async || {
            let marks = raft(server)["marks"].clone();
            let length = marks["last"].as_u64()? + 1 - marks["first"].as_u64()?;
            (length <= 2 * THRESHOLD + TRAILING).then_some(())
        })
        .await;
        let snapshots = fs::read_dir(server.data().join("snapshots")).unwrap();
        let snapshots = snapshots.filter(|name| name.as_ref().is_ok_and(|n| n.path().is_dir()));
        assert!((1..=3).contains(&snapshots.count()), "{}", server.id);
    }

    // The lights go out; snapshots and short logs bring everything back.
    cluster.servers.iter_mut().for_each(Server::kill);
    cluster.servers.iter_mut().for_each(|server| server.start(&flags));
    cluster.leader().await;
    assert_eq!(cluster.checksum().await, checksum);
}

fn size(directory: &Path) -> u64 {
    let sizes =
        fs::read_dir(directory).expect("readable").flatten().map(|item| match item.metadata() {
            Ok(meta) if meta.is_dir() => size(&item.path()),
            Ok(meta) => meta.len(),
            // The database removes files as it likes.
            Err(_) => 0,
        });
    sizes.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_directory_does_not_grow_with_what_is_written() {
    const WRITES: u64 = 2400;
    const BYTES: u64 = 512 << 10;
    let cluster = Cluster::single(&SMALL).await;
    let server = &cluster.servers[0];
    let mut connection = server.connect().await;
    let value = vec![b'v'; usize::try_from(BYTES).unwrap()];
    let mut largest = 0;
    for n in 0..WRITES {
        let mut set = redis::cmd("SET");
        set.arg(n % 5).arg(&value).exec_async(&mut connection).await.unwrap();
        if n % 50 == 0 {
            largest = largest.max(size(&server.data().join("log")));
        }
    }
    let written = WRITES * BYTES;
    assert!(largest < written / 2, "{largest} bytes of a log of {written}");
    let (ok, said) = server.ctl(&["snapshot"]);
    assert!(ok && said.contains("up to entry"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_taken_when_asked_for() {
    let cluster = Cluster::single(&["--trailing-logs", "3"]).await;
    let server = &cluster.servers[0];
    for n in 0..20 {
        server.ask::<()>(&["SET", &n.to_string(), "x"]).await.unwrap();
    }
    until("the incarnation is recorded, an entry of its own", async || {
        let known = server.http("GET", "/members", "").1["members"][0]["incarnation"].clone();
        (known.as_str()? != "0000000000000000").then_some(())
    })
    .await;
    let (ok, said) = server.ctl(&["snapshot"]);
    assert!(ok && said.starts_with("snapshot "), "{said}");
    let (ok, again) = server.ctl(&["snapshot"]);
    assert!(ok && again == format!("nothing new since {said}"), "{again}");
    until("the log is short", async || {
        let marks = raft(server)["marks"].clone();
        let kept = marks["last"].as_u64()? - marks["first"].as_u64()? + 1;
        (kept == 3).then_some(())
    })
    .await;
    let (_, said) = server.ctl(&["status"]);
    let line = format!("snapshot   up to entry {} of term 2", raft(server)["snapshot"]["index"]);
    assert!(said.contains(&line), "{said}");
}
