//! The peer: three openraft servers in one process, with what its own benchmark uses underneath.
//!
//! The log is a `BTreeMap` behind a mutex whose writes are "flushed" at once, the network is a call
//! of the other server's method, the state machine counts. Settings are openraft's defaults (300
//! entries per request, a snapshot every 5000 entries, 1000 entries kept after it), except for the
//! timers: heartbeats every 200 ms and elections after 1 to 2 s, so that a loaded machine does not
//! depose the leader.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io::{self, Cursor},
    ops::RangeBounds,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use openraft::{
    BasicNode, Config, Entry, EntryPayload, LogId, LogState, OptionalSend, RaftLogReader,
    RaftNetwork, RaftNetworkFactory, RaftSnapshotBuilder, Snapshot, SnapshotMeta, SnapshotPolicy,
    StorageError, StorageIOError, StoredMembership, TokioRuntime, Vote,
    error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest,
        InstallSnapshotResponse, VoteRequest, VoteResponse,
    },
    storage::{LogFlushed, RaftLogStorage, RaftStateMachine},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::load::Proposer;

type NodeId = u64;
type Raft = openraft::Raft<Types>;
type Result<T, E = StorageError<NodeId>> = std::result::Result<T, E>;

openraft::declare_raft_types!(
    /// 256 bytes go in, a count comes out.
    pub(crate) Types:
        D = Command,
        R = u64,
        NodeId = NodeId,
        Node = BasicNode,
        Entry = Entry<Types>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = TokioRuntime,
);

/// openraft clones an entry for every follower and for the state machine: with a `Vec` each clone
/// copies the bytes, with `Bytes` they are shared. The application chooses.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    Copied(Vec<u8>),
    Shared(Bytes),
}

impl Command {
    fn len(&self) -> usize {
        match self {
            Self::Copied(bytes) => bytes.len(),
            Self::Shared(bytes) => bytes.len(),
        }
    }
}

/// The version that was built in, from the lock file.
pub(crate) fn version() -> &'static str {
    let lock = include_str!("../../../../Cargo.lock");
    lock.split_once("name = \"openraft\"\nversion = \"")
        .and_then(|(_, rest)| rest.split('"').next())
        .unwrap_or("unknown")
}

/// Three running servers; the first leads.
pub(crate) struct Cluster {
    servers: BTreeMap<NodeId, Raft>,
    is_shared: bool,
}

impl Cluster {
    pub(crate) async fn start(
        is_shared: bool,
        keeps_log: bool,
    ) -> std::result::Result<Self, String> {
        let mut config = Config {
            cluster_name: "bench".to_owned(),
            heartbeat_interval: 200,
            election_timeout_min: 1000,
            election_timeout_max: 2000,
            ..Config::default()
        };
        if keeps_log {
            config.snapshot_policy = SnapshotPolicy::Never;
        }
        let config = Arc::new(config.validate().map_err(|error| error.to_string())?);
        let network = Network::default();
        for id in 1..=3 {
            let raft = Raft::new(
                id,
                Arc::clone(&config),
                network.clone(),
                LogStore::default(),
                StateMachine::default(),
            )
            .await
            .map_err(|error| error.to_string())?;
            network.servers.lock().insert(id, raft);
        }
        let servers = network.servers.lock().clone();
        let cluster = Self { servers, is_shared };
        let members: BTreeMap<_, _> = (1..=3).map(|id| (id, BasicNode::default())).collect();
        let first = cluster.first()?;
        first.initialize(members).await.map_err(|error| error.to_string())?;
        first
            .wait(Some(Duration::from_secs(10)))
            .current_leader(1, "the first server leads")
            .await
            .map_err(|error| error.to_string())?;
        Ok(cluster)
    }

    fn first(&self) -> std::result::Result<&Raft, String> {
        self.servers.get(&1).ok_or_else(|| "there is no first server".to_owned())
    }

    pub(crate) fn proposer(&self) -> std::result::Result<Leader, String> {
        Ok(Leader { raft: self.first()?.clone(), is_shared: self.is_shared })
    }

    pub(crate) async fn shutdown(self) {
        for server in self.servers.values() {
            let _ = server.shutdown().await;
        }
    }
}

#[derive(Clone)]
pub(crate) struct Leader {
    raft: Raft,
    is_shared: bool,
}

impl Proposer for Leader {
    async fn propose(&self, command: Vec<u8>) -> std::result::Result<u64, String> {
        let command =
            if self.is_shared { Command::Shared(command.into()) } else { Command::Copied(command) };
        match self.raft.client_write(command).await {
            Ok(response) => Ok(response.data),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[derive(Clone, Default)]
struct LogStore {
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    entries: BTreeMap<u64, Entry<Types>>,
    last_purged: Option<LogId<NodeId>>,
    vote: Option<Vote<NodeId>>,
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<Types>>> {
        Ok(self.log.lock().entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>> {
        let log = self.log.lock();
        let last_log_id = log.entries.last_key_value().map(|(_, entry)| entry.log_id);
        Ok(LogState {
            last_purged_log_id: log.last_purged,
            last_log_id: last_log_id.or(log.last_purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<NodeId>) -> Result<()> {
        self.log.lock().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<NodeId>>> {
        Ok(self.log.lock().vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<()>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(|entry| (entry.log_id.index, entry));
        self.log.lock().entries.extend(entries);
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId<NodeId>) -> Result<()> {
        self.log.lock().entries.split_off(&log_id.index);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId<NodeId>) -> Result<()> {
        let mut log = self.log.lock();
        log.last_purged = Some(log_id);
        while log.entries.first_key_value().is_some_and(|(&index, _)| index <= log_id.index) {
            log.entries.pop_first();
        }
        Ok(())
    }
}

/// Counts entries and bytes, as ours does.
#[derive(Clone, Default)]
struct StateMachine {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Default)]
struct State {
    last_applied: Option<LogId<NodeId>>,
    membership: StoredMembership<NodeId, BasicNode>,
    entries: u64,
    bytes: u64,
}

impl State {
    fn to_snapshot(&self) -> Snapshot<Types> {
        let data = [self.entries.to_le_bytes(), self.bytes.to_le_bytes()].concat();
        Snapshot {
            meta: SnapshotMeta {
                last_log_id: self.last_applied,
                last_membership: self.membership.clone(),
                snapshot_id: format!("{:?}", self.last_applied),
            },
            snapshot: Box::new(Cursor::new(data)),
        }
    }
}

impl RaftSnapshotBuilder<Types> for StateMachine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>> {
        Ok(self.state.lock().to_snapshot())
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<NodeId>>, StoredMembership<NodeId, BasicNode>)> {
        let state = self.state.lock();
        Ok((state.last_applied, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut state = self.state.lock();
        let state = &mut *state;
        let apply = |entry: Entry<Types>| {
            state.last_applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(command) => {
                    state.entries += 1;
                    state.bytes += command.len() as u64;
                }
                EntryPayload::Membership(membership) => {
                    state.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
            }
            state.entries
        };
        Ok(entries.into_iter().map(apply).collect())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<NodeId, BasicNode>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<()> {
        let data = snapshot.into_inner();
        let number = |at: usize| {
            let bytes = data.get(at..at + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let (Some(entries), Some(bytes)) = (number(0), number(8)) else {
            let error = io::Error::other("a snapshot has 16 bytes");
            return Err(StorageIOError::read_snapshot(Some(meta.signature()), &error).into());
        };
        *self.state.lock() = State {
            last_applied: meta.last_log_id,
            membership: meta.last_membership.clone(),
            entries,
            bytes,
        };
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>> {
        let state = self.state.lock();
        Ok(state.last_applied.is_some().then(|| state.to_snapshot()))
    }
}

/// Finds the other servers of the process.
#[derive(Clone, Default)]
struct Network {
    servers: Arc<Mutex<BTreeMap<NodeId, Raft>>>,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: NodeId, _node: &BasicNode) -> Connection {
        Connection { network: self.clone(), target, raft: None }
    }
}

/// A call of the target's method: no bytes, no copies beyond openraft's own.
struct Connection {
    network: Network,
    target: NodeId,
    raft: Option<Raft>,
}

type CallError<E> = RPCError<NodeId, BasicNode, RaftError<NodeId, E>>;

impl Connection {
    fn raft(&mut self) -> std::result::Result<&Raft, NetworkError> {
        if self.raft.is_none() {
            self.raft = self.network.servers.lock().get(&self.target).cloned();
        }
        let not_there = || NetworkError::new(&io::Error::other("the target has not started"));
        self.raft.as_ref().ok_or_else(not_there)
    }
}

impl RaftNetwork<Types> for Connection {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> std::result::Result<AppendEntriesResponse<NodeId>, CallError<openraft::error::Infallible>>
    {
        let target = self.target;
        let answer = self.raft()?.append_entries(request).await;
        answer.map_err(|error| RemoteError::new(target, error).into())
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<Types>,
        _option: RPCOption,
    ) -> std::result::Result<InstallSnapshotResponse<NodeId>, CallError<InstallSnapshotError>> {
        let target = self.target;
        let answer = self.raft()?.install_snapshot(request).await;
        answer.map_err(|error| RemoteError::new(target, error).into())
    }

    async fn vote(
        &mut self,
        request: VoteRequest<NodeId>,
        _option: RPCOption,
    ) -> std::result::Result<VoteResponse<NodeId>, CallError<openraft::error::Infallible>> {
        let target = self.target;
        let answer = self.raft()?.vote(request).await;
        answer.map_err(|error| RemoteError::new(target, error).into())
    }
}
