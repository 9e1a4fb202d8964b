//! Whole clusters of real parts: log and snapshot files on disk, TCP on the loopback. In one
//! process, because here the library is the subject, as a program that embeds it sees it; the tests
//! of `kv` have the processes.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use raft::{
    Config, Configuration, Fatal, FileLogOptions, FileLogStore, FileSnapshotStore, LogIndex, Raft,
    Role, Server, Term, testing::Journal,
};
use raft_tcp::{TcpOptions, TcpTransport};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(60);

/// A running server and what is known of it.
struct Node {
    id: &'static str,
    address: String,
    raft: Raft<Journal>,
    journal: Journal,
}

struct Cluster {
    root: TempDir,
    nodes: Vec<Node>,
}

impl Cluster {
    /// Three servers that one of them has bootstrapped.
    async fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory for the data");
        let mut cluster = Self { root, nodes: Vec::new() };
        for id in ["a", "b", "c"] {
            cluster.start(id, "127.0.0.1:0").await;
        }
        let members = cluster.nodes.iter().map(|node| Server::voter(node.id, &*node.address));
        let members = Configuration::new(members);
        cluster.nodes[0].raft.bootstrap_cluster(members).await.expect("nobody has any state");
        cluster
    }

    fn dir(&self, id: &str) -> PathBuf {
        self.root.path().join(id)
    }

    async fn start(&mut self, id: &'static str, bind: &str) {
        let dir = self.dir(id);
        let log = FileLogStore::open(dir.join("log"), FileLogOptions::default());
        let log = log.expect("it opens");
        let snapshots = FileSnapshotStore::open(dir.join("snapshots"), 2).expect("it opens");
        let transport = TcpTransport::bind(TcpOptions::new(bind, "integration"))
            .await
            .expect("the port is free");
        let address = transport.bound_address().to_string();
        let config = Config::new(id).with(|it| {
            it.election_timeout = Duration::from_millis(300);
            it.heartbeat_interval = Duration::from_millis(30);
            it.leader_lease_timeout = Duration::from_millis(300);
            it.trailing_logs = 10;
        });
        let journal = Journal::default();
        let stable = log.clone();
        let raft = Raft::new(config, journal.clone(), log, stable, Arc::new(snapshots), transport);
        let raft = raft.await.expect("it starts");
        self.nodes.push(Node { id, address, raft, journal });
    }

    fn node(&self, id: &str) -> &Node {
        self.nodes.iter().find(|node| node.id == id).expect("it runs")
    }

    /// Stops a server; its data stays.
    async fn stop(&mut self, id: &str) -> String {
        let at = self.nodes.iter().position(|node| node.id == id).expect("it runs");
        let node = self.nodes.remove(at);
        node.raft.shutdown().await;
        node.address
    }

    async fn restart(&mut self, id: &'static str) {
        let address = self.stop(id).await;
        self.start(id, &address).await;
    }

    /// Whoever leads and has proved it.
    async fn leader(&self) -> &Node {
        let found = timeout(PATIENCE, async {
            loop {
                for node in &self.nodes {
                    if node.raft.role() == Role::Leader && node.raft.barrier().await.is_ok() {
                        return node;
                    }
                }
                sleep(Duration::from_millis(10)).await;
            }
        });
        found.await.expect("somebody leads")
    }

    async fn a_follower(&self) -> &'static str {
        let leader = self.leader().await.id;
        self.nodes.iter().map(|node| node.id).find(|id| *id != leader).expect("three servers")
    }

    async fn propose(&self, name: &str, count: u64) {
        let commands = (0..count).map(|number| format!("{name} {number}").into()).collect();
        self.leader().await.raft.apply_batch(commands).await.expect("a majority runs");
    }

    /// Waits until every server has applied everything; then all have the same, which is returned.
    async fn converge(&self) -> Vec<Bytes> {
        let index = self.leader().await.raft.barrier().await.expect("it leads");
        for node in &self.nodes {
            let applied = timeout(PATIENCE, node.raft.wait_applied(index)).await;
            applied.expect("it catches up").expect("it runs");
        }
        let commands = self.nodes[0].journal.commands();
        for node in &self.nodes {
            assert!(node.journal.commands() == commands, "{} has other commands", node.id);
        }
        commands
    }

    async fn knows_that_it_is_on_another_disk(&self, id: &str) {
        let found_out = timeout(PATIENCE, async {
            while self.node(id).raft.status().await.expect("it runs").wrong_disk.is_none() {
                sleep(Duration::from_millis(10)).await;
            }
        });
        found_out.await.expect("it is told");
    }

    async fn shutdown(self) {
        for node in &self.nodes {
            node.raft.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_away_is_sent_a_snapshot_and_a_restart_of_all_loses_nothing() {
    let mut cluster = Cluster::new().await;
    cluster.propose("first", 500).await;
    let away = cluster.a_follower().await;
    let address = cluster.stop(away).await;
    cluster.propose("second", 500).await;
    let leader = cluster.leader().await;
    leader.raft.snapshot().await.expect("there is news");
    assert!(LogIndex(900) < leader.raft.marks().first, "the log is compacted");
    cluster.start(away, &address).await;
    assert_eq!(cluster.converge().await.len(), 1000);
    assert!(
        LogIndex(900) < cluster.node(away).raft.marks().first,
        "a snapshot took its log's place"
    );

    let leader = cluster.leader().await.id;
    cluster.restart(leader).await;
    cluster.propose("third", 100).await;
    for id in ["a", "b", "c"] {
        cluster.restart(id).await;
    }
    assert_eq!(cluster.converge().await.len(), 1100);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_and_a_wiped_one_is_found_out_and_rejoins() {
    let mut cluster = Cluster::new().await;
    cluster.propose("first", 100).await;
    cluster.start("d", "127.0.0.1:0").await;
    let address = cluster.node("d").address.clone();
    cluster.leader().await.raft.add_voter("d", address, None).await.expect("it catches up");
    let leaving = cluster.a_follower().await;
    cluster.leader().await.raft.remove_server(leaving, None).await.expect("four are left");
    let ended = timeout(PATIENCE, cluster.node(leaving).raft.ended()).await;
    assert!(matches!(ended, Ok(Fatal::Removed)), "{ended:?}");
    cluster.stop(leaving).await;
    cluster.propose("second", 100).await;

    let wiped = cluster.a_follower().await;
    let address = cluster.stop(wiped).await;
    std::fs::remove_dir_all(cluster.dir(wiped)).expect("it is there");
    cluster.start(wiped, &address).await;
    cluster.knows_that_it_is_on_another_disk(wiped).await;
    cluster.leader().await.raft.rejoin_server(wiped).await.expect("it catches up");
    assert_eq!(cluster.converge().await.len(), 200);
    assert_eq!(cluster.node(wiped).raft.status().await.expect("it runs").wrong_disk, None);
    cluster.shutdown().await;
}

/// An older copy of a server's own disk has the right incarnation, but the leader remembers what that
/// disk had. The server ends before it helps anybody, is a stranger on that disk also when all who
/// remembered have been restarted, and comes back like a wiped one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_a_disk_is_found_out_and_rejoins() {
    let mut cluster = Cluster::new().await;
    cluster.propose("first", 100).await;
    cluster.converge().await;
    let server = cluster.a_follower().await;
    let address = cluster.stop(server).await;
    let (disk, copy) = (cluster.dir(server), cluster.dir("copy"));
    copy_dir(&disk, &copy);
    cluster.start(server, &address).await;
    cluster.propose("second", 100).await;
    cluster.converge().await;
    cluster.stop(server).await;
    std::fs::remove_dir_all(&disk).expect("it is there");
    copy_dir(&copy, &disk);

    cluster.start(server, &address).await;
    let ended = timeout(PATIENCE, cluster.node(server).raft.ended()).await;
    let Ok(Fatal::RolledBack { told, promised }) = &ended else { panic!("{ended:?}") };
    assert_ne!(told.as_str(), server);
    // Whoever answers first remembers what it had, or only that it was started once more since.
    assert!(LogIndex(200) < promised.matched.index || promised.term == Term(0), "{promised}");
    cluster.stop(server).await;
    for id in ["a", "b", "c"].into_iter().filter(|id| *id != server) {
        cluster.restart(id).await;
    }
    cluster.start(server, &address).await;
    cluster.knows_that_it_is_on_another_disk(server).await;
    cluster.leader().await.raft.rejoin_server(server).await.expect("it catches up");
    assert_eq!(cluster.converge().await.len(), 200);
    cluster.shutdown().await;
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("it can be made");
    for entry in std::fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("it can be read");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_dir(&from, &to);
        } else {
            std::fs::copy(from, to).expect("there is room");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_replaces_the_state_of_every_server_also_of_one_that_was_away() {
    let mut cluster = Cluster::new().await;
    cluster.propose("kept", 300).await;
    let backup = cluster.leader().await.raft.snapshot().await.expect("there is news");
    cluster.propose("gone", 300).await;
    let away = cluster.a_follower().await;
    let address = cluster.stop(away).await;
    let data = backup.open().await.expect("the store has it");
    let restored = cluster.leader().await.raft.restore(&backup.meta, data).await;
    restored.expect("a majority runs");
    cluster.propose("after", 50).await;
    cluster.start(away, &address).await;
    let commands = cluster.converge().await;
    assert_eq!(commands.len(), 350);
    assert!(commands[..300].iter().all(|command| command.starts_with(b"kept")));
    assert!(commands[300..].iter().all(|command| command.starts_with(b"after")));
    cluster.shutdown().await;
}
