//! The log, the term and the vote of a Raft server, in RocksDB.

mod blocking;
mod codec;
mod database;
mod identity;
mod keys;
mod log_store;
mod options;
mod stable_store;
mod store;

pub use self::{
    log_store::RocksLogStore, options::RocksOptions, stable_store::RocksStableStore,
    store::RocksStore,
};
