//! A running server, as its two interfaces see it.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use raft::{FileSnapshotStore, ServerAddress, autopilot::Autopilot};
use raft_tcp::TcpTransport;
use tokio::time::Instant;

use crate::{
    Node,
    farewell::Farewells,
    fsm::{Contact, Shared},
    places::Places,
    resp::clients::Clients,
    route::Router,
};

/// What clients may ask of a server at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) request_bytes: usize,
    /// Requests of one connection carried out together.
    pub(crate) pipeline: usize,
    /// `None`: a connection may be silent for ever.
    pub(crate) idle: Option<Duration>,
    /// Commands committed but not applied here with which the server still counts as healthy.
    pub(crate) health_lag: u64,
}

/// Everything the interfaces of a server share.
pub(crate) struct Server {
    pub(crate) node: Node,
    pub(crate) shared: Arc<Shared>,
    pub(crate) router: Router,
    /// Where the node keeps its snapshots.
    pub(crate) snapshots: Arc<FileSnapshotStore>,
    /// If it was asked for.
    pub(crate) autopilot: Option<Autopilot>,
    /// The cluster's name.
    pub(crate) cluster: String,
    /// The data directory.
    pub(crate) data: PathBuf,
    /// Held while a restore is being received or carried out.
    pub(crate) restoring: tokio::sync::Mutex<()>,
    /// To ask why a peer cannot be reached.
    pub(crate) transport: Arc<TcpTransport>,
    /// Where other servers reach this one.
    pub(crate) address: ServerAddress,
    /// Where everybody else does.
    pub(crate) contact: Contact,
    pub(crate) limits: Limits,
    /// Who may be connected.
    pub(crate) places: Places,
    /// Who is.
    pub(crate) clients: Arc<Clients>,
    pub(crate) election_timeout: Duration,
    /// How long changes wait for a leader that is ready for them.
    pub(crate) no_leader_wait: Duration,
    pub(crate) started: Instant,
    pub(crate) counters: Counters,
    /// What members have said that have ended.
    pub(crate) farewells: Farewells,
}

/// What a server counts for `INFO`.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Connections at the Redis port.
    pub(crate) accepted: AtomicU64,
    /// Those that had no place.
    pub(crate) rejected: AtomicU64,
    pub(crate) requests: AtomicU64,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("id", self.node.id()).finish_non_exhaustive()
    }
}
