//! A Raft library in the shape that Consul made familiar.
#![cfg_attr(not(test), warn(missing_docs))]

mod api;
mod bootstrap;
mod future;

pub mod config;
pub mod configuration;
pub mod error;
pub mod fsm;
pub mod log;
pub mod observer;
pub mod rpc;
pub mod snapshot;
pub mod stable;
pub mod status;
pub mod transport;

#[cfg(feature = "unstable-core")]
pub mod consensus;
#[cfg(not(feature = "unstable-core"))]
pub(crate) mod consensus;

mod log_tail;
mod tasks;

pub mod inmem;

#[cfg(feature = "testing")]
pub mod testing;

pub use self::{
    api::Raft,
    bootstrap::{bootstrap_cluster, has_existing_state},
    config::Config,
    configuration::{
        Configuration, ConfigurationChange, IndexedConfiguration, InvalidConfiguration, Server,
        ServerAddress, ServerId, Suffrage,
    },
    error::{
        ApplyError, BootstrapError, ConfigError, ConfigurationError, Fatal, Leader, Outcome,
        SnapshotError, StartError, StoreError, TransferError, TransportError, VerifyError,
    },
    fsm::{Fsm, FsmError, FsmSnapshot},
    future::{Applied, ApplyBatchFuture, ApplyFuture, BarrierFuture, VerifyFuture},
    log::{Entries, Entry, EntryPayload, LogId, LogIndex, LogReader, LogStore, Term},
    observer::{Observation, Observer, Role},
    rpc::{Envelope, Message},
    snapshot::{SnapshotId, SnapshotMeta, SnapshotReader, SnapshotSink, SnapshotStore},
    stable::{HardState, StableStore},
    status::{LogMarks, PeerStatus, ProgressState, Status},
    transport::{Inbox, Received, Transport},
};
