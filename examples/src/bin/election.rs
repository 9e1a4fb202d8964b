//! An election among a few servers in one process, with every message shown.
//!
//! Each server has a column; what it sends and every part it plays appear there. Elections are
//! decided by random time-outs: `--seed` chooses others.

use std::{sync::Arc, time::Duration};

use clap::Parser;
use raft::{
    Config, Configuration, Entry, Fsm, Observation, Raft, Server, ServerId,
    inmem::{InmemLogStore, InmemNetwork, InmemSnapshotStore, InmemStableStore},
};
use raft_examples::say;
use tokio::{sync::mpsc, time::Instant};

/// Watch servers elect a leader: every message (from, to, kind, term) and every change of role.
#[derive(Parser)]
#[command(name = "election")]
struct Args {
    /// How many servers take part.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    servers: u8,
    /// Seed of the random election time-outs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A state machine that has nothing to do: no command is proposed here.
struct Nothing;

impl Fsm for Nothing {
    type Response = ();

    fn apply(&mut self, _entry: &Entry) {}
}

/// One line of the picture.
struct Event {
    at: Instant,
    column: usize,
    text: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    const WATCHED: Duration = Duration::from_secs(2);
    const COLUMN: usize = 32;
    let args = Args::parse();
    let ids: Vec<ServerId> = (1..=args.servers).map(|n| format!("s{n}").into()).collect();
    let start = Instant::now();
    let (events, mut lines) = mpsc::channel::<Event>(10_000);

    let network = InmemNetwork::new();
    network.set_tap({
        let (events, ids) = (events.clone(), ids.clone());
        move |from, to, message| {
            let column = ids.iter().position(|id| id.as_str() == from.as_str()).unwrap_or(0);
            let text = format!("-> {to} {} term={}", message.kind(), message.term());
            let _ = events.try_send(Event { at: Instant::now(), column, text });
        }
    });

    let configuration =
        Configuration::new(ids.iter().map(|id| Server::voter(id.clone(), id.as_str())));
    let mut servers = Vec::new();
    for (column, id) in ids.iter().enumerate() {
        let config = Config::new(id.clone())
            .with_seed(args.seed.wrapping_mul(1_000_003).wrapping_add(column as u64))
            .with(|it| {
                it.election_timeout = Duration::from_millis(300);
                it.heartbeat_interval = Duration::from_millis(100);
                it.leader_lease_timeout = Duration::from_millis(300);
            });
        let raft = Raft::new(
            config,
            Nothing,
            InmemLogStore::new(),
            InmemStableStore::new(),
            Arc::new(InmemSnapshotStore::new()),
            network.transport(id.as_str()),
        )
        .await?;
        let mut roles = raft.observe(100, |seen| matches!(seen, Observation::RoleChanged { .. }));
        let events = events.clone();
        tokio::spawn(async move {
            while let Some(Observation::RoleChanged { role, term }) = roles.recv().await {
                let text = format!("== {role} term={term}");
                let _ = events.try_send(Event { at: Instant::now(), column, text });
            }
        });
        servers.push(raft);
    }
    drop(events);

    let header: String = ids.iter().map(|id| format!("{id:<COLUMN$}")).collect();
    say!("{:>9} {}", "ms", header.trim_end());
    for raft in &servers {
        raft.bootstrap_cluster(configuration.clone()).await?;
    }
    while let Ok(Some(event)) = tokio::time::timeout_at(start + WATCHED, lines.recv()).await {
        let ms = (event.at - start).as_secs_f64() * 1000.0;
        say!("{ms:>9.2} {}{}", " ".repeat(COLUMN * event.column), event.text);
    }

    let leaders: Vec<_> = servers.iter().filter_map(Raft::leader).collect();
    for raft in &servers {
        raft.shutdown().await;
    }
    match leaders.first() {
        Some(leader) if leaders.len() == servers.len() && leaders.iter().all(|l| l == leader) => {
            say!("all {} servers follow {} in term {}", servers.len(), leader.id, leader.term);
            Ok(())
        }
        _ => Err(format!("no leader that all follow after {WATCHED:?}: try another --seed").into()),
    }
}
