//! The log, the term and the vote of a Raft server, in RocksDB: a directory, nothing to start.
//!
//! # What it survives, and what it does not
//!
//! | event | what is there afterwards |
//! |---|---|
//! | the process is killed, at any point | everything acknowledged; of a write under way all or nothing |
//! | the power fails | the same, **if** the disk keeps what it said it had written (`fdatasync`) |
//! | a write or sync fails | everything acknowledged; the store refuses every later write until it is opened again, because a repeated sync proves nothing about the failed one |
//! | the disk is full | as above, with the operating system's words in the error |
//! | bytes rot in an entry, the vote, or a file of RocksDB | nothing wrong is returned: the call that meets them, or the opening, fails with `StoreError::Corrupt` |
//! | bytes rot where RocksDB takes it for the end of a file | the same; **undetected** only in what was written in the last second before a kill or a power cut (see below) |
//! | the directory is lost, or another server's is in its place | noticed by the others, by the disk's incarnation: the server has forgotten what it promised, and takes part again when it is rejoined (`Raft::rejoin_server`) |
//! | the directory is replaced by an older copy of itself | **undetected** at start: the server has forgotten what it promised since. Never put a backup in its place; start it empty and rejoin it |
//! | the file system reorders a write before an earlier sync | out of scope: no local file system that is meant for data does |
//!
//! There is no repair: a damaged server rejoins its cluster with an empty directory
//! (`Raft::rejoin_server`), and gets its state from the others. If it is the only one of its cluster, its
//! newest snapshot is what is left ([`raft::recover_cluster`], with a new, empty store for the log). The
//! errors say so.
//!
//! **Torn tail or rot?** A power cut may leave part of the last, unacknowledged write behind.
//! Of RocksDB's recovery modes, `PointInTime` (its default) forgives that and also any damage in the
//! middle, silently dropping the acknowledged writes behind it: the amnesia Raft cannot survive.
//! `AbsoluteConsistency` forgives nothing, so that a power cut makes a healthy server refuse to
//! start. This crate uses `TolerateCorruptedTailRecords`: a record that is *incomplete* where the
//! file ends is dropped, a *complete* one with a wrong checksum stops the opening. Log files are not
//! recycled, so that nothing old lies behind the tail (this gives up the somewhat faster syncs of a
//! file that does not grow). What RocksDB itself cannot see is damage to a length in the last
//! 32 KiB of a file: it looks like the end. So there is more:
//!
//! - *The mark*, the file `RAFT-DURABLE`, says how far the database was durable: RocksDB's sequence number,
//!   which counts every operation on every record, and the length of its manifest. A thread of its own
//!   writes it at each opening, then within a second of a change, and at the end. A database that has
//!   less than its mark is refused before anything is changed, and so is a mark with a wrong checksum.
//! - *What is in the write-ahead logs has to be without a gap.* That is looked at before RocksDB opens
//!   them: it goes on behind zeros in the middle of a file, and with the next file behind one that
//!   seems to end early, and one flipped bit in the kind of a record keeps it busy for ever.
//! - The manifest records how long each finished, synced log file has to be.
//!
//! What is left is the window of the mark: after a kill or a power cut, and only then, damage to a length
//! among the writes since the last mark (a second, and the moment it takes to write it) looks like
//! a write that was cut short. A mark that cannot be written, on a full disk, ends nothing: it is said
//! in the log, tried again a second later, and the window is longer meanwhile. A store of before the mark, or
//! one whose file was removed, opens as it did, and gets one.
//!
//! Limits: one process per directory (it is locked); one writer (calls take turns); Unix; entries
//! below 4 GiB, though `raft::Config::max_command_bytes` ends far below.
//!
//! # Guarantees
//!
//! - `append` is **one** synced write for all the batches it is given; so is each truncation, by a
//!   range deletion, whatever it removes; so are term and vote together, one record.
//! - Every entry carries a checksum over its index, term, kind and command; also the vote and the
//!   bounds of the log. An entry that is missing between its neighbours is damage, never an end.
//! - The bounds of the log are written in the same batch as the entries they describe, and kept in
//!   memory: opening does not search, so truncated tails and prefixes do not slow it down. So is the
//!   noted commit index; a log that ends before it is damage.
//! - Removing the whole log is atomic too, and afterwards it may begin anywhere.
//! - Reads stay as fast as they are however often the log is compacted (`cargo run --release -p
//!   raft-rocksdb --example compaction` measures it).
//! - A reader sees one consistent state of the log, also while the writer truncates.
//! - A directory that holds anything else, or a newer format, is refused before RocksDB is let near
//!   it. The format is in `FORMAT.md`, with the bytes pinned by tests.
//!
//! # Blocking
//!
//! RocksDB blocks. On a multi-threaded tokio runtime the calls use
//! [`block_in_place`](tokio::task::block_in_place), elsewhere
//! [`spawn_blocking`](tokio::task::spawn_blocking). A synced append of 256 bytes took as long as a
//! plain blocking call the first way and 1.2 times as long the second; `cargo run --release -p
//! raft-rocksdb --example handoff` measures it here and now. Both need a runtime: outside of one, and
//! inside a [`LocalSet`](tokio::task::LocalSet) of a multi-threaded one, the calls panic.
//!
//! # Example
//!
//! ```
//! use raft::{Entries, Entry, EntryPayload, HardState, LogIndex, LogStore, StableStore, Term};
//! use raft_rocksdb::{RocksOptions, RocksStore};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let temporary = tempfile::tempdir()?;
//! # let dir = temporary.path();
//! let store = RocksStore::open(dir, RocksOptions::default())?;
//! let (mut log, mut stable) = (store.log_store(), store.stable_store());
//!
//! stable.save_hard_state(&HardState { current_term: Term(1), voted_for: None }).await?;
//! let entry = Entry { term: Term(1), index: LogIndex(1), payload: EntryPayload::Noop };
//! log.append(&[Entries::new(vec![entry])]).await?;
//!
//! let reader = log.reader();
//! assert_eq!(reader.bounds().await?, Some((LogIndex(1), LogIndex(1))));
//! assert_eq!(reader.read(LogIndex(1)..=LogIndex(9), 1 << 20).await?.len(), 1);
//! # Ok(())
//! # }
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]
// What is public can get fields and variants in any release; where a type is complete, it says why.
#![warn(clippy::exhaustive_structs, clippy::exhaustive_enums)]

mod blocking;
mod codec;
mod database;
mod framing;
mod identity;
mod keys;
mod log_store;
mod mark;
mod options;
mod stable_store;
mod store;

/// The program of the README is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use self::{
    log_store::RocksLogStore, options::RocksOptions, stable_store::RocksStableStore,
    store::RocksStore,
};
