//! What the core knows of the log: where each term starts, where it ends, and how much of it is
//! durable. Never the entries themselves; log matching, vote comparison and conflict hints need
//! terms only (thesis §3.5, §3.6.1).

use std::collections::VecDeque;

use crate::{
    log::Entry,
    position::{LogId, LogIndex, Term},
};

/// How many of the newest entries have their size remembered, for byte limits. Older ranges count
/// as full messages.
const MAX_KNOWN_SIZES: usize = 1 << 17;

/// Term boundaries and marks of the log.
#[derive(Clone, Debug)]
pub(super) struct LogView {
    /// The index before the first entry that is still in the log.
    base: LogIndex,
    /// The term of the entry at `base`, if it is known: a log that was compacted by an earlier
    /// process does not tell.
    base_term: Option<Term>,
    /// The last entry covered by the newest snapshot.
    snapshot: LogId,
    /// The first entry of each term in the log; indices and terms strictly grow (I9).
    terms: VecDeque<LogId>,
    last: LogId,
    /// Everything up to here is durable on this server.
    stable: LogIndex,
    /// The bytes of all entries that were ever added, never less.
    appended_bytes: u64,
    /// Running total of entry sizes, one for each of the newest entries; the back belongs to `last`.
    sizes: VecDeque<u64>,
}

impl LogView {
    pub(super) fn new(snapshot: LogId) -> Self {
        Self {
            base: snapshot.index,
            base_term: Some(snapshot.term),
            snapshot,
            terms: VecDeque::new(),
            last: snapshot,
            stable: snapshot.index,
            appended_bytes: 0,
            sizes: VecDeque::from([0]),
        }
    }

    /// Takes in entries found on disk at start, in order. Those covered by the snapshot count too:
    /// they can still be sent to followers.
    pub(super) fn restore(&mut self, entries: &[Entry]) {
        for entry in entries {
            if self.terms.is_empty() && entry.index <= self.snapshot.index {
                self.base = entry.index.prev();
                self.base_term = (self.base == LogIndex::ZERO).then_some(Term(0));
                self.last = LogId { term: Term(0), index: self.base };
            }
            assert!(
                entry.index != self.snapshot.index || entry.term == self.snapshot.term,
                "law 3: the log has {} where the snapshot ends with {}",
                entry.id(),
                self.snapshot
            );
            self.push(entry);
        }
        self.stable = self.last.index;
    }

    /// Ends [`restore`](Self::restore): a log that ends before the snapshot is all covered by it.
    pub(super) fn restored(&mut self) {
        if self.last.index < self.snapshot.index {
            *self = Self::new(self.snapshot);
        }
    }

    pub(super) fn last(&self) -> LogId {
        self.last
    }

    pub(super) fn snapshot(&self) -> LogId {
        self.snapshot
    }

    pub(super) fn first_index(&self) -> LogIndex {
        self.base.next()
    }

    pub(super) fn stable(&self) -> LogIndex {
        self.stable
    }

    pub(super) fn set_stable(&mut self, stable: LogIndex) {
        assert!(stable <= self.last.index, "stable {stable} beyond last {}", self.last);
        self.stable = self.stable.max(stable);
    }

    /// The term of the entry at `index`, or `None` if the log does not reach there.
    pub(super) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.last.index {
            return Some(self.last.term);
        }
        if index == self.snapshot.index {
            return Some(self.snapshot.term);
        }
        if index == self.base {
            return self.base_term;
        }
        if index <= self.base || self.last.index < index {
            return None;
        }
        let after = self.terms.partition_point(|first| first.index <= index);
        after.checked_sub(1).and_then(|at| self.terms.get(at)).map(|first| first.term)
    }

    /// Whether entries from `next` on can be sent: they and the term of the entry before are known.
    pub(super) fn serves(&self, next: LogIndex) -> bool {
        self.base < next && self.term_at(next.prev()).is_some()
    }

    pub(super) fn has(&self, id: LogId) -> bool {
        self.term_at(id.index) == Some(id.term)
    }

    /// The newest entry whose index and term are both at most those of `id`. Nothing between it
    /// and `id` can match, so a search for the common prefix goes on there: one step per term.
    pub(super) fn newest_at_most(&self, id: LogId) -> LogId {
        let index = id.index.min(self.last.index);
        if index <= self.base {
            let term = self.term_at(index).unwrap_or(Term(0));
            return LogId { term, index };
        }
        let after = self.terms.partition_point(|first| first.term <= id.term);
        let end = self.terms.get(after).map_or(self.last.index, |first| first.index.prev());
        let index = index.min(end);
        if index <= self.base {
            // Compacted, so committed: whoever asks has it too, in a term of at most `id.term`.
            return LogId { term: self.base_term.unwrap_or(id.term), index: self.base };
        }
        LogId { term: self.term_at(index).unwrap_or(Term(0)), index }
    }

    /// Adds the next entry.
    pub(super) fn push(&mut self, entry: &Entry) {
        assert_eq!(entry.index, self.last.index.next(), "entries leave a gap");
        assert!(self.last.term <= entry.term, "law 3: the term falls at {}", entry.id());
        if self.terms.back().is_none_or(|first| first.term < entry.term) {
            self.terms.push_back(entry.id());
        }
        self.last = entry.id();
        let cost_bytes = entry.cost_bytes();
        self.appended_bytes += cost_bytes;
        let total = self.sizes.back().copied().unwrap_or(0) + cost_bytes;
        if self.sizes.len() > MAX_KNOWN_SIZES {
            self.sizes.pop_front();
        }
        self.sizes.push_back(total);
    }

    /// The bytes of all entries that were ever added, those found at start included. Never falls.
    pub(super) fn appended_bytes(&self) -> u64 {
        self.appended_bytes
    }

    /// A newer snapshot stands for everything up to `last`, an entry of the log.
    pub(super) fn set_snapshot(&mut self, last: LogId) {
        assert!(self.snapshot.index < last.index, "law 6: the snapshot falls to {last}");
        self.snapshot = last;
    }

    /// Forgets every entry up to `through`, for which the snapshot stands.
    pub(super) fn compact(&mut self, through: LogIndex) {
        assert!(
            self.base < through && through <= self.snapshot.index,
            "I2: compaction to {through}, beyond the snapshot {}",
            self.snapshot
        );
        self.base_term = self.term_at(through);
        self.base = through;
        let is_before = |next: &LogId| next.index <= through.next();
        while self.terms.get(1).is_some_and(is_before) {
            self.terms.pop_front();
        }
    }

    /// Forgets every entry: a snapshot that ends with `last` takes their place.
    pub(super) fn reset(&mut self, last: LogId) {
        assert!(self.snapshot.index < last.index, "law 6: the snapshot falls to {last}");
        *self = Self { appended_bytes: self.appended_bytes, ..Self::new(last) };
    }

    /// Removes every entry from `from` on.
    pub(super) fn truncate(&mut self, from: LogIndex) {
        assert!(self.base < from, "truncation at {from} below the log's start");
        let last = from.prev();
        let term = self.term_at(last).unwrap_or(Term(0));
        let removed = self.last.index.since(last) as usize;
        self.last = LogId { term, index: last };
        while self.terms.back().is_some_and(|first| from <= first.index) {
            self.terms.pop_back();
        }
        let kept = self.sizes.len().saturating_sub(removed);
        self.sizes.truncate(kept);
        if self.sizes.is_empty() {
            self.sizes.push_back(0);
        }
        self.stable = self.stable.min(last);
    }

    /// Bytes of the entries after `from`, up to `to`; `None` when they are too old to be known.
    pub(super) fn cost_bytes(&self, from: LogIndex, to: LogIndex) -> Option<u64> {
        Some(self.total(to)? - self.total(from)?)
    }

    /// Bytes of the entries after `from`, counting only those whose size is known.
    pub(super) fn known_cost_bytes(&self, from: LogIndex) -> u64 {
        let end = self.sizes.back().copied().unwrap_or(0);
        let start = self.sizes.front().copied().unwrap_or(0);
        end - self.total(from).unwrap_or(start)
    }

    /// The last index such that the entries after `from` up to it are at most `max_entries` and
    /// `max_bytes`, but at least one entry. Sizes that are not known do not limit it.
    pub(super) fn fitting(&self, from: LogIndex, max_entries: usize, max_bytes: u64) -> LogIndex {
        let to = self.last.index.min(from.plus(max_entries));
        let Some(start) = self.total(from) else { return to };
        match self.total(to) {
            Some(end) if end - start <= max_bytes => to,
            _ => {
                let oldest = self.last.index.0 + 1 - self.sizes.len() as u64;
                let fits =
                    self.sizes.partition_point(|total| total - start.min(*total) <= max_bytes);
                LogIndex(oldest + fits as u64 - 1).max(from.next()).min(to)
            }
        }
    }

    fn total(&self, index: LogIndex) -> Option<u64> {
        let back = self.last.index.0.checked_sub(index.0)?;
        let at = (self.sizes.len() as u64).checked_sub(1 + back)?;
        self.sizes.get(at as usize).copied()
    }

    pub(super) fn assert_invariants(&self) {
        assert!(self.snapshot.index <= self.last.index, "I2: the snapshot is beyond the log");
        assert!(self.base <= self.snapshot.index, "I2: gap between snapshot and log");
        assert!(self.stable <= self.last.index, "stable is beyond the log");
        debug_assert!(
            self.terms
                .iter()
                .zip(self.terms.iter().skip(1))
                .all(|(a, b)| { a.index < b.index && a.term < b.term }),
            "I9: term boundaries do not grow"
        );
    }
}

#[cfg(test)]
mod tests;
