//! Five servers in memory: the first bootstraps alone, the others start knowing nothing and are
//! added by configuration changes, then a hundred proposals are made one after another.
//!
//! The same small system as the example of the same name of raft-rs, on the whole library instead
//! of its core.

use std::{collections::BTreeMap, sync::Arc};

use clap::Parser;
use parking_lot::Mutex;
use raft::{
    Config, Configuration, Entry, Fsm, Raft, Server,
    inmem::{InmemLogStore, InmemNetwork, InmemSnapshotStore, InmemStableStore},
};
use raft_examples::say;

const PROPOSALS: u64 = 100;

/// Five servers in memory: the first bootstraps alone, adds the four others one by one, and makes a
/// hundred proposals. At the end the five maps are compared.
#[derive(Parser)]
#[command(name = "five_mem_node")]
struct Args {}

type Map = Arc<Mutex<BTreeMap<u64, String>>>;

/// A map from numbers to text, shared with `main` so that it can be looked at.
struct Store(Map);

impl Fsm for Store {
    /// The value that was there before; or what was wrong with the command, the same everywhere.
    type Response = Result<Option<String>, String>;

    fn apply(&mut self, entry: &Entry) -> Self::Response {
        let text = String::from_utf8_lossy(entry.data());
        let (key, value) = parse_put(&text).ok_or_else(|| format!("not a put: {text}"))?;
        Ok(self.0.lock().insert(key, value.to_owned()))
    }
}

/// Parses `put <key> "<value>"`.
fn parse_put(text: &str) -> Option<(u64, &str)> {
    let (key, value) = text.strip_prefix("put ")?.split_once(' ')?;
    Some((key.parse().ok()?, value.strip_prefix('"')?.strip_suffix('"')?))
}

async fn start(
    id: &str,
    network: &InmemNetwork,
    map: Map,
) -> Result<Raft<Store>, raft::StartError> {
    Raft::new(
        Config::new(id),
        Store(map),
        InmemLogStore::new(),
        InmemStableStore::new(),
        Arc::new(InmemSnapshotStore::new()),
        network.transport(id),
    )
    .await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Args {} = Args::parse();
    let ids = ["1", "2", "3", "4", "5"];
    let network = InmemNetwork::new();
    let mut maps = Vec::new();
    let mut servers = Vec::new();
    for id in ids {
        let map = Map::default();
        maps.push(Arc::clone(&map));
        servers.push(start(id, &network, map).await?);
        say!("server {id} started, knowing nobody");
    }
    let (Some(leader), others) = (servers.first(), &ids[1..]) else {
        return Err("no server".into());
    };

    leader.bootstrap_cluster(Configuration::new([Server::voter(ids[0], ids[0])])).await?;
    leader.leader_changes().wait_for(Option::is_some).await?;
    leader.barrier().await?;
    say!("server 1 bootstrapped alone and leads term {}", leader.term());

    for id in others {
        let index = leader.add_voter(*id, *id, None).await?;
        let members = leader.configuration().configuration;
        say!("server {id} added at index {index}: the members are {members}");
    }

    for n in 0..PROPOSALS {
        let applied = leader.apply(format!("put {n} \"hello, world\"")).await?;
        if let Err(reason) = applied.response {
            return Err(reason.into());
        }
        if n % 20 == 19 {
            say!("{} proposals applied, the last at index {}", n + 1, applied.index);
        }
    }

    let index = leader.barrier().await?;
    for raft in &servers {
        raft.wait_applied(index).await?;
    }
    let first = maps[0].lock().clone();
    let expected = (0..PROPOSALS).map(|n| (n, "hello, world".to_owned())).collect();
    for (id, map) in ids.iter().zip(&maps) {
        let map = map.lock();
        say!("server {id} holds {} pairs", map.len());
        if *map != first || *map != expected {
            return Err(format!("the map of server {id} differs").into());
        }
    }
    say!("all five maps are equal");
    for raft in &servers {
        raft.shutdown().await;
    }
    Ok(())
}
