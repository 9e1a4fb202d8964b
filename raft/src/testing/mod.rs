//! Conformance suites: every promise of the library's traits, as code that checks it. And a
//! [`Cluster`] in one process, for tests of what is built on the library.
//!
//! An implementer calls one function per trait from a test of their own and gives it a way to make
//! fresh, empty instances. A suite runs its checks one after the other and panics on the first
//! broken promise, naming it. The implementations that come with the library pass the same suites.
//!
//! ```
//! # async fn test() {
//! use raft::{inmem::InmemLogStore, testing::log_store_suite};
//!
//! log_store_suite(|| async { InmemLogStore::new() }).await;
//! # }
//! ```
//!
//! Deliberately absent: damage. What changed bytes do to a store is up to the implementer's own tests.

mod cluster;
mod fsm_suite;
#[doc(hidden)]
pub mod fuzz;
mod journal;
mod kill_suite;
mod log_store_reopen_suite;
mod log_store_suite;
mod snapshot_store_suite;
mod stable_store_suite;
mod transport_suite;

use std::fmt;

use bytes::Bytes;

pub use self::{
    cluster::Cluster,
    fsm_suite::fsm_suite,
    journal::Journal,
    kill_suite::{kill_suite, power_cut_suite},
    log_store_reopen_suite::log_store_reopen_suite,
    log_store_suite::log_store_suite,
    snapshot_store_suite::snapshot_store_suite,
    stable_store_suite::stable_store_suite,
    transport_suite::transport_suite,
};
use crate::{
    log::{Entries, Entry, EntryPayload},
    position::{LogIndex, Term},
};

/// The value that a kept promise gives.
#[track_caller]
fn kept<T, E: fmt::Display>(result: Result<T, E>, promise: &str) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("broken promise: {promise}: {error}"),
    }
}

/// A command whose bytes tell where it belongs.
fn entry(term: u64, index: u64) -> Entry {
    let data = Bytes::from(format!("command {index} of term {term}"));
    Entry { term: Term(term), index: LogIndex(index), payload: EntryPayload::Command(data) }
}

/// Entries `first..=last` of one term.
fn entries(term: u64, first: u64, last: u64) -> Entries {
    Entries::new((first..=last).map(|index| entry(term, index)).collect())
}
