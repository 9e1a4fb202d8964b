//! This library: the counting state machine, and three servers in one process.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use raft::{
    Config, Configuration, Entry, Fsm, FsmError, FsmSnapshot, Raft, Server, SnapshotReader,
    inmem::{InmemLogStore, InmemNetwork, InmemSnapshotStore, InmemStableStore},
};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{sleep, timeout},
};

use crate::load::Proposer;

/// How long three fresh servers may take to agree on a leader.
const ELECTION: Duration = Duration::from_secs(10);

/// Counts entries and bytes, as the peer's does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counter {
    entries: u64,
    bytes: u64,
}

impl Fsm for Counter {
    type Response = u64;

    fn apply(&mut self, entry: &Entry) -> u64 {
        self.entries += 1;
        self.bytes += entry.data().len() as u64;
        self.entries
    }

    fn snapshot(&mut self) -> Result<Box<dyn FsmSnapshot>, FsmError> {
        Ok(Box::new(self.clone()))
    }

    async fn restore(&mut self, mut reader: SnapshotReader) -> Result<(), FsmError> {
        self.entries = reader.read_u64_le().await?;
        self.bytes = reader.read_u64_le().await?;
        Ok(())
    }
}

#[async_trait]
impl FsmSnapshot for Counter {
    async fn persist(
        self: Box<Self>,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), FsmError> {
        sink.write_u64_le(self.entries).await?;
        sink.write_u64_le(self.bytes).await?;
        Ok(())
    }
}

/// The default settings, but either no snapshots at all, or as many as the peer takes, after which the
/// log is cut as the peer's is.
pub(crate) fn config(id: &str, keeps_log: bool) -> Config {
    let defaults = Config::new(id);
    if keeps_log {
        return defaults.with(|it| {
            it.snapshot_threshold = u64::MAX;
            it.snapshot_threshold_bytes = u64::MAX;
        });
    }
    defaults.with(|it| {
        it.snapshot_interval = Duration::from_millis(2);
        it.snapshot_threshold = 5000;
        it.trailing_logs = 1000;
    })
}

/// Three running servers, one of which leads.
pub(crate) struct Cluster {
    servers: Vec<Raft<Counter>>,
    leader: Leader,
}

impl Cluster {
    pub(crate) async fn start(keeps_log: bool) -> Result<Self, String> {
        let network = InmemNetwork::new();
        let names = ["a", "b", "c"];
        let mut servers = Vec::new();
        for name in names {
            let server = Raft::new(
                config(name, keeps_log),
                Counter::default(),
                InmemLogStore::new(),
                InmemStableStore::new(),
                Arc::new(InmemSnapshotStore::new()),
                network.transport(name),
            );
            servers.push(server.await.map_err(|error| error.to_string())?);
        }
        let first = servers.first().ok_or("there is no server")?;
        first
            .bootstrap_cluster(Configuration::new(names.map(|name| Server::voter(name, name))))
            .await
            .map_err(|error| error.to_string())?;
        let leader = leader(&servers).await?;
        Ok(Self { servers, leader })
    }

    pub(crate) fn proposer(&self) -> Leader {
        self.leader.clone()
    }

    /// Waits until every server has applied what the leader has.
    pub(crate) async fn settle(&self) -> Result<(), String> {
        let target = self.leader.raft.last_index();
        for server in &self.servers {
            timeout(Duration::from_secs(60), server.wait_applied(target))
                .await
                .map_err(|_| format!("{} did not apply {target} within 60 s", server.id()))?
                .map_err(|fatal| fatal.to_string())?;
        }
        Ok(())
    }

    pub(crate) async fn shutdown(self) {
        for server in &self.servers {
            server.shutdown().await;
        }
    }
}

/// The server that leads, once it has committed an entry of its term.
async fn leader(servers: &[Raft<Counter>]) -> Result<Leader, String> {
    let search = async {
        loop {
            for raft in servers {
                if raft.barrier().await.is_ok() {
                    return Leader { raft: raft.clone() };
                }
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(ELECTION, search).await.map_err(|_| format!("no leader within {ELECTION:?}"))
}

/// Proposes to one server.
#[derive(Clone)]
pub(crate) struct Leader {
    pub(crate) raft: Raft<Counter>,
}

impl Proposer for Leader {
    async fn propose(&self, command: Vec<u8>) -> Result<u64, String> {
        match self.raft.apply(command).await {
            Ok(applied) => Ok(applied.response),
            Err(error) => Err(error.to_string()),
        }
    }
}
