//! What the tests of this crate share.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{fs, path::Path};

use bytes::Bytes;
use raft::{Entries, Entry, EntryPayload, LogIndex, LogStore, StoreError, Term};
use raft_rocksdb::{RocksOptions, RocksStore};
use rocksdb::{DB, Options};

/// The key of the entry at `index`, as `FORMAT.md` has it.
pub(crate) fn entry_key(index: u64) -> Vec<u8> {
    [0_u64.to_be_bytes(), index.to_be_bytes()].concat()
}

pub(crate) const HARD_STATE_KEY: [u8; 9] = [0x10, 0, 0, 0, 0, 0, 0, 0, 0];
pub(crate) const BOUNDS_KEY: [u8; 9] = [0x20, 0, 0, 0, 0, 0, 0, 0, 0];
pub(crate) const NOTED_COMMIT_KEY: [u8; 9] = [0x30, 0, 0, 0, 0, 0, 0, 0, 0];
pub(crate) const DISK_KEY: [u8; 9] = [0x50, 0, 0, 0, 0, 0, 0, 0, 0];
pub(crate) const FORMAT_KEY: [u8; 7] = *b"\0format";

/// The file that says how far the database was durable.
pub(crate) const MARK: &str = "RAFT-DURABLE";

/// How the message of damage ends.
pub(crate) const ADVICE: &str = "this server may have promised what it no longer knows, and must not go on with \
                      this: if others of its cluster are well, let it rejoin them with an empty \
                      directory; if it is the only one, keep what is there";

pub(crate) fn open(dir: &Path) -> RocksStore {
    RocksStore::open(dir, RocksOptions::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// Why the store does not open: one line.
pub(crate) fn refusal(dir: &Path) -> StoreError {
    let error = RocksStore::open(dir, RocksOptions::default()).expect_err("it opened");
    assert_eq!(error.to_string().lines().count(), 1, "{error}");
    error
}

pub(crate) fn command(term: u64, index: u64, data: impl Into<Bytes>) -> Entry {
    Entry { term: Term(term), index: LogIndex(index), payload: EntryPayload::Command(data.into()) }
}

/// Commands of one term, each naming its index.
pub(crate) fn commands(term: u64, indices: std::ops::RangeInclusive<u64>) -> Entries {
    indices.map(|index| command(term, index, format!("command {index}"))).collect::<Vec<_>>().into()
}

pub(crate) async fn bounds(log: &impl LogStore) -> Option<(u64, u64)> {
    let bounds = log.reader().bounds().await.expect("bounds");
    bounds.map(|(first, last)| (first.0, last.0))
}

pub(crate) async fn noted(log: &impl LogStore) -> Option<u64> {
    log.reader().noted_commit().await.expect("noted commit index").map(|index| index.0)
}

/// The whole log.
pub(crate) async fn all(log: &impl LogStore) -> Entries {
    let reader = log.reader();
    match reader.bounds().await.expect("bounds") {
        None => Entries::default(),
        Some((first, last)) => reader.read(first..=last, u64::MAX).await.expect("read"),
    }
}

/// The database behind the store, which has to be closed.
pub(crate) fn raw(dir: &Path) -> DB {
    DB::open_cf(&Options::default(), dir, ["default", "log"]).expect("opens")
}

/// As they are now: of a store that is open and idle, what a kill would leave. But not a mark that is being
/// written, which may get its name meanwhile.
pub(crate) fn copy_files(from: &Path, to: &Path) {
    for file in fs::read_dir(from).unwrap() {
        let name = file.unwrap().file_name();
        if name != "RAFT-DURABLE.new" {
            fs::copy(from.join(&name), to.join(&name)).unwrap();
        }
    }
}
