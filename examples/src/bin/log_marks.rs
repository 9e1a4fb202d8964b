//! The marks of the log, watched while two entries pass from proposal to applied.
//!
//! The disks and the state machines are slow on purpose, so that each stage can be seen: an entry
//! is first only in the unstable tail (`last` is ahead of `stable`), then durable, then committed
//! (which takes a majority of disks), then handed to the state machine (`applying`), then applied.
//! Always `applied ≤ applying ≤ committed` and `offset = stable + 1`.

use std::{sync::Arc, time::Duration};

use clap::Parser;
use raft::{
    Config, Configuration, Entry, Fsm, LogMarks, Raft, Server,
    inmem::{InmemDisk, InmemLogStore, InmemNetwork, InmemSnapshotStore, InmemStableStore},
};
use raft_examples::say;
use tokio::time::Instant;

/// Watch two entries pass through the logs of three servers with slow disks, a line for each change.
///
/// last: accepted. stable: durable here; offset is one more. committed: known to be on a majority of
/// disks. applying: handed to the state machine. applied: its effect is there.
#[derive(Parser)]
#[command(name = "log_marks")]
struct Args {}

/// A state machine that takes its time.
struct Slow;

impl Fsm for Slow {
    type Response = ();

    #[expect(clippy::disallowed_methods, reason = "the slow state machine is what is shown")]
    fn apply(&mut self, _entry: &Entry) {
        std::thread::sleep(Duration::from_millis(20));
    }

    /// So that it holds up nobody else.
    fn is_blocking(&self) -> bool {
        true
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Args {} = Args::parse();
    let ids = ["a", "b", "c"];
    let network = InmemNetwork::new();
    let configuration = Configuration::new(ids.map(|id| Server::voter(id, id)));
    let mut disks = Vec::new();
    let mut servers = Vec::new();
    for id in ids {
        let disk = InmemDisk::new();
        let raft = Raft::new(
            Config::new(id).with(|it| it.election_timeout = Duration::from_millis(500)),
            Slow,
            InmemLogStore::on(&disk),
            InmemStableStore::on(&disk),
            Arc::new(InmemSnapshotStore::new()),
            network.transport(id),
        )
        .await?;
        raft.bootstrap_cluster(configuration.clone()).await?;
        disks.push(disk);
        servers.push(raft);
    }
    let Some(watched) = servers.first() else { return Err("no server".into()) };
    watched.leader_changes().wait_for(Option::is_some).await?;
    let leads = |raft: &&Raft<Slow>| watched.leader().is_some_and(|leader| leader.id == *raft.id());
    let Some(leader) = servers.iter().find(leads) else { return Err("the leader is gone".into()) };
    let index = leader.barrier().await?;
    for raft in &servers {
        raft.wait_applied(index).await?;
    }
    for (n, disk) in disks.iter().enumerate() {
        disk.set_write_delay(Duration::from_millis(10 + 15 * n as u64));
    }

    say!("server {} leads; two entries are proposed", leader.id());
    say!(
        "{:>8} {:>6} {:>5} {:>7} {:>7} {:>10} {:>9} {:>8}",
        "ms",
        "server",
        "last",
        "offset",
        "stable",
        "committed",
        "applying",
        "applied"
    );
    let start = Instant::now();
    let (first, second) = (leader.apply("first"), leader.apply("second"));
    let last = index.plus(2);
    let mut shown: Vec<Option<LogMarks>> = vec![None; servers.len()];
    while servers.iter().any(|raft| raft.applied_index() < last) {
        for (raft, shown) in servers.iter().zip(&mut shown) {
            let marks = raft.marks();
            if shown.replace(marks) != Some(marks) {
                print(start, raft, marks);
            }
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
        if Duration::from_secs(20) < start.elapsed() {
            return Err("the entries were not applied everywhere within 20 s".into());
        }
    }
    for raft in &servers {
        print(start, raft, raft.marks());
    }
    let (first, second) = (first.await?, second.await?);
    say!("the two entries at {} and {} are applied everywhere", first.index, second.index);
    for raft in &servers {
        raft.shutdown().await;
    }
    Ok(())
}

fn print(start: Instant, raft: &Raft<Slow>, marks: LogMarks) {
    let ms = start.elapsed().as_secs_f64() * 1000.0;
    say!(
        "{ms:>8.1} {:>6} {:>5} {:>7} {:>7} {:>10} {:>9} {:>8}",
        raft.id(),
        marks.last,
        marks.offset,
        marks.stable,
        marks.committed,
        marks.applying,
        marks.applied
    );
}
