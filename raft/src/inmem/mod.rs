//! Stores and a network in memory: for tests, for examples, and for state that may die with the
//! process.
//!
//! Each store is a handle onto shared state, so that a test can stop a node and start it again
//! "from what is on its disk" by keeping a clone. What can go wrong with the disk is set on the
//! [`InmemDisk`] beneath a store; what can go wrong with the network is set on the
//! [`InmemNetwork`] that all transports of a cluster share. Everything is deterministic: there is
//! no thread, no randomness and no clock but tokio's, and delays only exist when asked for.
//!
//! Deliberately absent: anything that survives the process, and damage to bytes (there are none).

mod disk;
mod log_store;
mod snapshot_store;
mod stable_store;
mod transport;

#[cfg(test)]
mod tests;

pub use self::{
    disk::InmemDisk,
    log_store::InmemLogStore,
    snapshot_store::InmemSnapshotStore,
    stable_store::InmemStableStore,
    transport::{InmemNetwork, InmemTransport},
};
