//! One server of the process cluster: this program, run again with a log on disk and TCP beneath.
//!
//! The parent sends [`Order`]s through standard input and reads [`Event`]s from standard output,
//! one JSON line each. The end of standard input ends the server.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{Args, ValueEnum};
use raft::{
    Configuration, FileLogOptions, FileLogStore, LogStore, Raft, Server, StableStore, StoreError,
    inmem::InmemSnapshotStore,
};
#[cfg(feature = "rocksdb")]
use raft_rocksdb::{RocksOptions, RocksStore};
use raft_tcp::{TcpOptions, TcpTransport};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::{
    isolated,
    load::{self, Load, LoadResult, Proposer},
    ours::{self, Counter, Leader},
};

/// One server, as a process of its own.
#[derive(Args, Debug)]
pub(crate) struct ServerArgs {
    /// Which of the peers this is.
    #[arg(long)]
    pub(crate) id: String,
    #[arg(long)]
    pub(crate) data: PathBuf,
    /// What keeps the log.
    #[arg(long, value_enum)]
    pub(crate) store: Store,
    #[arg(long)]
    pub(crate) listen: String,
    /// All servers, this one included: `id=host:port`.
    #[arg(long, value_delimiter = ',')]
    pub(crate) peers: Vec<String>,
    /// Whether this server is the one that founds the cluster.
    #[arg(long)]
    pub(crate) bootstrap: bool,
    #[arg(long)]
    pub(crate) workers: Option<usize>,
}

/// What keeps the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Store {
    File,
    #[cfg(feature = "rocksdb")]
    Rocksdb,
}

/// A log with the term and the vote.
struct Log {
    log: Box<dyn LogStore>,
    stable: Box<dyn StableStore>,
}

impl Store {
    pub(crate) const ALL: &[Self] = &[
        Self::File,
        #[cfg(feature = "rocksdb")]
        Self::Rocksdb,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => "rocksdb",
        }
    }

    fn open(self, dir: &Path) -> Result<Log, StoreError> {
        match self {
            Self::File => {
                let log = FileLogStore::open(dir, FileLogOptions::default())?;
                Ok(Log { log: Box::new(log.clone()), stable: Box::new(log) })
            }
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => {
                let store = RocksStore::open(dir, RocksOptions::default())?;
                Ok(Log { log: Box::new(store.log_store()), stable: Box::new(store.stable_store()) })
            }
        }
    }
}

/// What the parent asks of a server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Say how far you are.
    Status,
    /// Run this many clients against yourself; you lead.
    Load(Load),
}

/// What a server tells its parent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    /// It has started and takes orders.
    Ready,
    /// It was elected.
    Leading { term: u64 },
    /// A command proposed as soon as it was elected has been committed and applied.
    FirstCommit { term: u64 },
    /// The answer to [`Order::Status`].
    Status { term: u64, is_leader: bool, last_index: u64, applied_index: u64 },
    /// The answer to [`Order::Load`].
    Load(LoadResult),
}

/// The process of one server.
pub(crate) fn run(args: &ServerArgs) -> Result<(), String> {
    let runtime = isolated::runtime(args.workers)?;
    let raft = runtime.block_on(start(args))?;
    isolated::report(&Event::Ready)?;
    runtime.spawn(announce_leadership(raft.clone()));
    obey(runtime.handle(), &raft)?;
    runtime.block_on(raft.shutdown());
    Ok(())
}

async fn start(args: &ServerArgs) -> Result<Raft<Counter>, String> {
    let Log { log, stable } = args.store.open(&args.data).map_err(|error| error.to_string())?;
    let transport = TcpTransport::bind(TcpOptions::new(&args.listen, "bench"))
        .await
        .map_err(|error| error.to_string())?;
    let raft = Raft::new(
        ours::config(args.id.as_str(), true),
        Counter::default(),
        log,
        stable,
        // The benchmark takes no snapshots.
        Arc::new(InmemSnapshotStore::new()),
        transport,
    )
    .await
    .map_err(|error| error.to_string())?;
    if args.bootstrap {
        let configuration = configuration(&args.peers)?;
        raft.bootstrap_cluster(configuration).await.map_err(|error| error.to_string())?;
    }
    Ok(raft)
}

fn configuration(peers: &[String]) -> Result<Configuration, String> {
    let servers = peers.iter().map(|peer| {
        let (id, address) =
            peer.split_once('=').ok_or_else(|| format!("{peer:?} is not id=host:port"))?;
        Ok(Server::voter(id, address))
    });
    Ok(Configuration::new(servers.collect::<Result<Vec<_>, String>>()?))
}

/// Tells of every election won, and proves it with a command.
async fn announce_leadership(raft: Raft<Counter>) -> Result<(), String> {
    let mut leaders = raft.leader_changes();
    loop {
        let leader = leaders.borrow_and_update().clone();
        if let Some(leader) = leader.filter(|leader| leader.id == *raft.id()) {
            let term = leader.term.0;
            isolated::report(&Event::Leading { term })?;
            if (Leader { raft: raft.clone() }).propose(vec![0x5a; 256]).await.is_ok() {
                isolated::report(&Event::FirstCommit { term })?;
            }
        }
        leaders.changed().await.map_err(|error| error.to_string())?;
    }
}

/// Carries out orders until there are no more. Waits on this thread; the servers have their own.
fn obey(servers: &Handle, raft: &Raft<Counter>) -> Result<(), String> {
    let stopwatch = isolated::stopwatch()?;
    for order in std::io::stdin().lines() {
        let order = order.map_err(|error| error.to_string())?;
        let order = serde_json::from_str(&order).map_err(|error| error.to_string())?;
        let event = match order {
            Order::Status => Event::Status {
                term: raft.term().0,
                is_leader: raft.leader().is_some_and(|leader| leader.id == *raft.id()),
                last_index: raft.last_index().0,
                applied_index: raft.applied_index().0,
            },
            Order::Load(load) => {
                let leader = Leader { raft: raft.clone() };
                Event::Load(stopwatch.block_on(load::run(servers, &leader, load)))
            }
        };
        isolated::report(&event)?;
    }
    Ok(())
}
