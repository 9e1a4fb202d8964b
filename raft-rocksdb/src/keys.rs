//! Where each record lives. Described for humans in `FORMAT.md`.
//!
//! Entries have a column family of their own: alone, they arrive in the order of their keys, so that
//! RocksDB's files do not overlap, are never rewritten, and can be dropped whole. One small record
//! among them would undo all three.
//!
//! Numbers are big-endian, so that RocksDB's byte order is the order of the log. Every key of a
//! server carries a group number, today always zero, so that one store can later hold the logs of
//! many groups without a new format.

use raft::LogIndex;

/// The column family of everything but entries: RocksDB's default one.
pub(crate) const META: &str = "default";

/// The column family of the entries.
pub(crate) const LOG: &str = "log";

/// The store's own record: what this database is and which format it is in.
pub(crate) const FORMAT: &[u8] = b"\0format";

const GROUP: u64 = 0;

const HARD_STATE: u8 = 0x10;
const BOUNDS: u8 = 0x20;
const NOTED_COMMIT: u8 = 0x30;
const INCARNATION: u8 = 0x40;
const DISK: u8 = 0x50;

/// The key of a record of a group in [`META`]: `[kind u8] [group u64]`.
pub(crate) type MetaKey = [u8; 9];

/// The key of an entry in [`LOG`]: `[group u64] [index u64]`.
pub(crate) type EntryKey = [u8; 16];

/// The key of the term and the vote.
pub(crate) fn hard_state() -> MetaKey {
    meta(HARD_STATE)
}

/// The key of the record that says where the log begins and ends.
pub(crate) fn bounds() -> MetaKey {
    meta(BOUNDS)
}

/// The key of the record that says how far the log is known to be committed.
pub(crate) fn noted_commit() -> MetaKey {
    meta(NOTED_COMMIT)
}

/// The key of the record that says which disk this is, and whose.
pub(crate) fn disk() -> MetaKey {
    meta(DISK)
}

/// The key of the record that early stores have in its place, which has the incarnation only.
pub(crate) fn incarnation() -> MetaKey {
    meta(INCARNATION)
}

/// The key of the entry at `index`.
pub(crate) fn entry(index: LogIndex) -> EntryKey {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&GROUP.to_be_bytes());
    key[8..].copy_from_slice(&index.0.to_be_bytes());
    key
}

/// The first key behind the entry at `index`.
pub(crate) fn after(index: LogIndex) -> [u8; 17] {
    let mut key = [0; 17];
    key[..16].copy_from_slice(&entry(index));
    key
}

fn meta(kind: u8) -> MetaKey {
    let mut key = [0; 9];
    key[0] = kind;
    key[1..].copy_from_slice(&GROUP.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_sort_as_the_log_does() {
        let indices = [0, 1, 255, 256, u64::MAX].map(LogIndex);
        let keys: Vec<_> =
            indices.iter().flat_map(|i| [entry(*i).to_vec(), after(*i).to_vec()]).collect();
        assert!(keys.is_sorted());
    }
}
