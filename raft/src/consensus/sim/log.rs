//! A whole log from index 1 on: what a server has in memory, and what its disk has.

use crate::{
    configuration::IndexedConfiguration,
    log::{Entry, EntryPayload, LogId, LogIndex, Term},
};

#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    entries: Vec<Entry>,
    /// Where the configurations are, in order.
    configurations: Vec<LogIndex>,
}

impl Log {
    pub(super) fn last(&self) -> LogId {
        self.entries.last().map_or(LogId::ZERO, Entry::id)
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn get(&self, index: LogIndex) -> Option<&Entry> {
        index.0.checked_sub(1).and_then(|at| self.entries.get(at as usize))
    }

    pub(super) fn id(&self, index: LogIndex) -> Option<LogId> {
        if index == LogIndex::ZERO { Some(LogId::ZERO) } else { self.get(index).map(Entry::id) }
    }

    pub(super) fn has(&self, id: LogId) -> bool {
        self.id(id.index) == Some(id)
    }

    pub(super) fn terms(&self) -> Vec<Term> {
        self.entries.iter().map(|entry| entry.term).collect()
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
        self.entries.truncate(from.prev().0 as usize);
        self.configurations.retain(|index| *index < from);
    }

    /// The newest configuration.
    pub(super) fn configuration(&self) -> IndexedConfiguration {
        let newest = self.configurations.last().and_then(|index| self.get(*index));
        match newest.map(|entry| (entry.index, &entry.payload)) {
            Some((index, EntryPayload::Configuration(configuration))) => {
                IndexedConfiguration { index, configuration: configuration.clone() }
            }
            _ => IndexedConfiguration::default(),
        }
    }
}
