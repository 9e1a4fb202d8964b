//! Snapshots in files: one directory each, plain data beside a checksummed description.
//!
//! Nothing to start and nothing to install: this is the store for programs in production, whatever
//! keeps their log. `SNAPSHOT_FORMAT.md` describes the bytes.
//!
//! | file | what |
//! |---|---|
//! | `store.rs` | [`FileSnapshotStore`]: the contract, and how async code calls files, which block |
//! | `sink.rs` | bytes on their way into a snapshot |
//! | `directory.rs` | which snapshots there are: looking at them, keeping the newest, the lock |
//! | `draft.rs` | one snapshot from its beginning until it is durable and visible, or gone |
//! | `name.rs` | what a snapshot is called |
//! | `meta.rs` | the description to bytes and back |

mod directory;
mod draft;
mod meta;
mod name;
mod sink;
mod store;

pub use self::store::FileSnapshotStore;

#[cfg(target_os = "linux")]
#[cfg(test)]
mod power_cut;
#[cfg(test)]
mod tests;
