//! Log matching (law 3): same index and term, same entry and same prefix. Shown by induction: every
//! entry that any server ever appends has one predecessor and one payload.

use std::collections::BTreeMap;

use crate::{log::Entry, position::LogId};

#[derive(Clone, Debug, Default)]
pub(crate) struct LogMatching {
    known: BTreeMap<LogId, (LogId, Entry)>,
}

impl LogMatching {
    /// A server appends `entry` after `prev`. Returns whether the entry is new to the cluster.
    pub(crate) fn appended(&mut self, prev: LogId, entry: &Entry) -> Result<bool, String> {
        let id = entry.id();
        ensure!(prev.index.next() == id.index, "law 3: {id} is appended after {prev}");
        ensure!(prev.term <= id.term, "law 3: the term falls from {prev} to {id}");
        let Some((known_prev, known)) = self.known.get(&id) else {
            self.known.insert(id, (prev, entry.clone()));
            return Ok(true);
        };
        ensure!(*known_prev == prev, "law 3: {id} is appended after {known_prev} and after {prev}");
        ensure!(known == entry, "law 3: {id} is {known:?} and {entry:?}");
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        log::EntryPayload,
        position::{LogIndex, Term},
    };

    fn entry(term: u64, index: u64, payload: EntryPayload) -> Entry {
        Entry { term: Term(term), index: LogIndex(index), payload }
    }

    #[test]
    fn fires_on_another_entry_or_another_prefix() {
        let mut check = LogMatching::default();
        let noop = |term, index| entry(term, index, EntryPayload::Noop);
        assert!(check.appended(LogId::ZERO, &noop(1, 1)).unwrap());
        assert!(check.appended(LogId::new(1, 1), &noop(2, 2)).unwrap());
        assert!(!check.appended(LogId::new(1, 1), &noop(2, 2)).unwrap());
        assert!(check.appended(LogId::new(2, 2), &noop(3, 3)).unwrap());
        check.appended(LogId::new(1, 2), &noop(3, 3)).unwrap_err();
        check.appended(LogId::new(1, 1), &entry(2, 2, EntryPayload::Barrier)).unwrap_err();
        check.appended(LogId::new(1, 1), &noop(3, 3)).unwrap_err();
        check.appended(LogId::new(3, 3), &noop(2, 4)).unwrap_err();
    }
}
