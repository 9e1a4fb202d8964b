//! Where each record lives in RocksDB's ordered key space. Described for humans in `FORMAT.md`.
//!
//! Numbers are big-endian, so that RocksDB's byte order is the order of the log. Every key of a
//! server carries a group number, today always zero, so that one store can later hold the logs of
//! many groups without a new format.

use raft::LogIndex;

/// The store's own record: what this database is and which format it is in.
pub(crate) const FORMAT: &[u8] = b"\0format";

/// A key that belongs to one group: `[1] [group u64] [kind u8] [index u64]`.
pub(crate) type Key = [u8; 18];

const IN_GROUP: u8 = 1;
const GROUP: u64 = 0;

const HARD_STATE: u8 = 0x10;
const BOUNDS: u8 = 0x20;
const ENTRY: u8 = 0x30;

/// The key of the term and the vote.
pub(crate) fn hard_state() -> Key {
    key(HARD_STATE, LogIndex::ZERO)
}

/// The key of the record that says where the log begins and ends.
pub(crate) fn bounds() -> Key {
    key(BOUNDS, LogIndex::ZERO)
}

/// The key of the entry at `index`.
pub(crate) fn entry(index: LogIndex) -> Key {
    key(ENTRY, index)
}

fn key(kind: u8, index: LogIndex) -> Key {
    let mut key = [0; 18];
    key[0] = IN_GROUP;
    key[1..9].copy_from_slice(&GROUP.to_be_bytes());
    key[9] = kind;
    key[10..].copy_from_slice(&index.0.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_the_log_does() {
        let sorted = [
            FORMAT.to_vec(),
            hard_state().to_vec(),
            bounds().to_vec(),
            entry(LogIndex(1)).to_vec(),
            entry(LogIndex(255)).to_vec(),
            entry(LogIndex(256)).to_vec(),
            entry(LogIndex(u64::MAX)).to_vec(),
        ];
        assert!(sorted.is_sorted());
    }
}
