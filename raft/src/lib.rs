//! A replicated state machine inside your own program, in the shape that Consul made familiar.
//!
//! You implement one trait, [`Fsm`]. You give a [`Raft`] its stores and its transport, call
//! [`Raft::apply`] and await the future: the command is on the disks of a majority and applied on
//! this server, and every other server applies the same commands in the same order. A cluster is
//! bootstrapped once and grows by membership changes, all from code.
//!
//! The README's program runs as it stands; `ARCHITECTURE.md` in the repository follows one `apply`
//! from call to answer.
//!
//! [Raft in this crate](#raft-in-this-crate) explains the algorithm to those who have not read the paper.
//!
//! # Where to look
//!
//! | you want to | see |
//! |---|---|
//! | propose commands, change members, read state | [`Raft`] |
//! | write your state machine | [`Fsm`] |
//! | choose settings | [`Config`] |
//! | know whether a failed command may have happened | [`ApplyError::outcome`] |
//! | keep log and snapshots in production | [`DataDir`], [`FileLogStore`], [`FileSnapshotStore`] |
//! | try things out without disk or network | [`inmem`] |
//! | bring your own store or transport | [`LogStore`], [`StableStore`], [`SnapshotStore`], [`Transport`] and the suites in `testing` |
//! | start again after a majority was lost for good | [`recover_cluster`] |
//! | have nonvoters promoted and dead servers removed | [`autopilot`] |
//! | watch a node | [`Raft::status`], [`Raft::observe`], [`Raft::leader_changes`] |
//!
//! # Features
//!
//! - `testing`: conformance suites for every trait, and a cluster in one process.
//! - `unstable-core`: the pure consensus core as `raft::consensus`, for programs that drive it by
//!   hand. Outside the stability promise.
//!
//! Neither changes how anything else behaves.
//!
#![doc = include_str!("guide.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
// What is public can get fields and variants in any release; where a type is complete, it says why.
#![warn(clippy::exhaustive_structs, clippy::exhaustive_enums)]

// The ground: what everything else is said in.
mod pop_if;
mod position;
pub mod seconds;
mod store_error;

// What a user calls.
mod add_voter;
mod api;
pub mod autopilot;
mod bootstrap;
mod catch_up;
mod data_dir;
mod future;
mod recover;
mod rejoin;

// Contracts: data.
pub mod config;
pub mod configuration;
pub mod error;
pub mod log;
pub mod observer;
pub mod rpc;
pub mod status;

// Contracts: traits.
pub mod fsm;
pub mod snapshot;
pub mod stable;
pub mod transport;

// The pure core.
#[cfg(feature = "unstable-core")]
#[allow(
    clippy::exhaustive_structs,
    clippy::exhaustive_enums,
    reason = "outside the stability promise: a program that drives the core has to carry out every action"
)]
pub mod consensus;
#[cfg(not(feature = "unstable-core"))]
#[allow(
    unreachable_pub,
    unused_imports,
    reason = "what is public in here is so with the feature; dead code is found without it"
)]
pub(crate) mod consensus;

// The async shell around it.
mod budget;
mod clock;
mod end;
mod log_tail;
mod machine;
mod metrics;
mod panics;
mod stored;
mod tasks;

// Implementations that need nothing installed, and tests for those of others.
mod blocking;
mod file_log;
mod file_snapshot;
pub mod inmem;
#[cfg(feature = "testing")]
pub mod testing;

/// The README's program is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use self::{
    api::Raft,
    bootstrap::{bootstrap_cluster, has_existing_state, read_configuration},
    config::Config,
    configuration::{
        ClusterId, Configuration, ConfigurationChange, IndexedConfiguration, InvalidConfiguration,
        InvalidPeers, PeersFileError, Server, ServerAddress, ServerId, Suffrage, read_peers_json,
    },
    data_dir::{BegunMark, DataDir, DataDirError, FileStores, Owner},
    error::{
        ApplyError, BootstrapError, ConfigError, ConfigurationError, Fatal, Leader, Outcome,
        RecoverError, ReloadError, RestoreError, RestoreFailure, SnapshotError, StartError,
        TransferError, TransportError, VerifyError,
    },
    file_log::{FileLogOptions, FileLogStore, Verified},
    file_snapshot::FileSnapshotStore,
    fsm::{Fsm, FsmError, FsmSnapshot},
    future::{Applied, ApplyBatchFuture, ApplyFuture, BarrierFuture, VerifyFuture},
    log::{Entries, Entry, EntryPayload, LogReader, LogStore, LogWrite},
    observer::{Observation, Observer},
    recover::{
        RecoverOptions, Recoverable, Recovered, Uncommitted, check_recovery, recover_cluster,
    },
    rpc::{Envelope, Message},
    snapshot::{Snapshot, SnapshotId, SnapshotMeta, SnapshotReader, SnapshotSink, SnapshotStore},
    stable::{DiskIdentity, HardState, StableStore},
    status::{
        LogMarks, PeerStatus, ProgressState, SnapshotProgress, Status, Timeouts, WrongAddress,
        WrongDisk,
    },
    transport::{Identity, Inbox, Received, Transport},
};
pub use crate::{
    error::UncommittedEntries,
    position::{LogId, LogIndex, Term},
    stable::Medium,
    status::Role,
    store_error::StoreError,
};
