//! A log that begins after a base: what a server has in memory, and what its disk has.

use crate::{
    configuration::{Configuration, IndexedConfiguration},
    log::{Entry, EntryPayload},
    position::{LogId, LogIndex, Term},
};

#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    /// The entry before the first one. A real store does not know its term; the checks do.
    base: LogId,
    /// The newest configuration up to the base.
    before: IndexedConfiguration,
    entries: Vec<Entry>,
    /// Where the configurations are, in order.
    configurations: Vec<LogIndex>,
}

impl Log {
    pub(super) fn base(&self) -> LogId {
        self.base
    }

    pub(super) fn last(&self) -> LogId {
        self.entries.last().map_or(self.base, Entry::id)
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entries after `from`, up to `to`; `None` if the log does not have all of them.
    pub(super) fn range(&self, from: LogIndex, to: LogIndex) -> Option<&[Entry]> {
        let base = self.base.index.0;
        let start = from.0.checked_sub(base)? as usize;
        self.entries.get(start..to.0.checked_sub(base)? as usize)
    }

    pub(super) fn get(&self, index: LogIndex) -> Option<&Entry> {
        let at = index.0.checked_sub(self.base.index.0 + 1)?;
        self.entries.get(at as usize)
    }

    pub(super) fn id(&self, index: LogIndex) -> Option<LogId> {
        if index == self.base.index { Some(self.base) } else { self.get(index).map(Entry::id) }
    }

    pub(super) fn has(&self, id: LogId) -> bool {
        self.id(id.index) == Some(id)
    }

    /// The terms of its entries.
    pub(super) fn terms(&self) -> impl Iterator<Item = Term> {
        self.entries.iter().map(|entry| entry.term)
    }

    /// Adds an entry, which must be the next one.
    pub(super) fn push(&mut self, entry: Entry) {
        assert_eq!(entry.index, self.last().index.next(), "a write leaves a gap");
        if matches!(entry.payload, EntryPayload::Configuration(_)) {
            self.configurations.push(entry.index);
        }
        self.entries.push(entry);
    }

    pub(super) fn truncate(&mut self, from: LogIndex) {
        assert!(self.base.index < from, "a truncation at {from} reaches below the log");
        self.entries.truncate(from.prev().since(self.base.index) as usize);
        self.configurations.retain(|index| *index < from);
    }

    /// Removes every entry up to `through`; what is gone already stays gone.
    pub(super) fn compact(&mut self, through: LogIndex) {
        if through <= self.base.index {
            return;
        }
        let Some(base) = self.id(through) else {
            panic!("compaction to {through}, but the log ends with {}", self.last());
        };
        self.before = self.configuration_at(through);
        self.entries.drain(..through.since(self.base.index) as usize);
        self.configurations.retain(|index| through < *index);
        self.base = base;
    }

    /// Removes every entry: what a snapshot that ends with `base` stands for has taken their place.
    pub(super) fn reset(&mut self, base: LogId, configuration: IndexedConfiguration) {
        *self = Self { base, before: configuration, ..Self::default() };
    }

    /// What a real store does not keep: the newest configuration up to the base, read back from a
    /// snapshot.
    pub(super) fn learn_configuration(&mut self, of_snapshot: &IndexedConfiguration) {
        let is_before = of_snapshot.index <= self.base.index;
        self.before = if is_before { of_snapshot.clone() } else { <_>::default() };
    }

    /// The newest configuration.
    pub(super) fn configuration(&self) -> IndexedConfiguration {
        self.configuration_at(self.last().index)
    }

    pub(super) fn configuration_at(&self, index: LogIndex) -> IndexedConfiguration {
        let newest = self.configurations.iter().rfind(|it| **it <= index);
        match newest.and_then(|index| self.get(*index)).map(|entry| (entry.index, &entry.payload)) {
            Some((index, EntryPayload::Configuration(configuration))) => {
                IndexedConfiguration { index, configuration: configuration.clone() }
            }
            _ => self.before.clone(),
        }
    }

    /// The configuration that a new one must find committed: the newest one, or, if the new one changes the
    /// members, the one since which they are what they are.
    pub(super) fn settled_before(&self, next: &Configuration) -> IndexedConfiguration {
        let mut settled = self.configuration();
        while !next.has_members_of(&settled.configuration) {
            let earlier = self.configuration_at(settled.index.prev());
            if earlier.index == settled.index
                || !settled.configuration.has_members_of(&earlier.configuration)
            {
                break;
            }
            settled = earlier;
        }
        settled
    }

    /// Whether both logs end alike and agree on what both of them have.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        let start = self.base.index.max(other.base.index);
        let (ours, theirs) = (self.last(), other.last());
        ours == theirs && self.range(start, ours.index) == other.range(start, theirs.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::{Configuration, Server};

    fn configuration(id: &str) -> Configuration {
        Configuration::new([Server::voter(id, format!("{id}:1"))])
    }

    /// Seven entries, with configurations at 1 and 5.
    fn log() -> Log {
        let mut log = Log::default();
        for index in 1..=7 {
            let payload = match index {
                1 => EntryPayload::Configuration(configuration("a")),
                5 => EntryPayload::Configuration(configuration("b")),
                _ => EntryPayload::Noop,
            };
            log.push(Entry { term: Term(index / 4 + 1), index: LogIndex(index), payload });
        }
        log
    }

    #[test]
    fn a_compacted_log_knows_its_base_and_its_configuration() {
        let mut log = log();
        log.compact(LogIndex(4));
        log.compact(LogIndex(3));
        assert_eq!((log.base(), log.last()), (LogId::new(2, 4), LogId::new(2, 7)));
        assert!(log.has(LogId::new(2, 4)) && !log.has(LogId::new(1, 3)));
        assert_eq!(log.configuration().index, LogIndex(5));
        log.truncate(LogIndex(5));
        assert_eq!(log.configuration().index, LogIndex(1));
        assert_eq!(log.last(), LogId::new(2, 4));
        assert_eq!(log.range(LogIndex(3), LogIndex(4)), None);
        assert_eq!(log.range(LogIndex(4), LogIndex(4)), Some(&[][..]));
    }

    #[test]
    fn logs_agree_on_what_both_have() {
        let (whole, mut part) = (log(), log());
        part.compact(LogIndex(6));
        assert!(whole.agrees_with(&part) && part.agrees_with(&whole));
        part.truncate(LogIndex(7));
        assert!(!whole.agrees_with(&part));
        part.reset(LogId::new(3, 7), <_>::default());
        assert!(!whole.agrees_with(&part));
    }
}
