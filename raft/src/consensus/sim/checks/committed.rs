//! What is committed is committed once and for ever (laws 4, 5, 9).
//!
//! Only the leader of a term commits first, only by an entry of that term, only when a majority of
//! its voters has on disk both the entry and the promise to follow no leader of an earlier term. From
//! then on every server that commits the index commits the same entry, and nobody who has the entry
//! truncates it, except on the word of a leader of before: such a server may be far behind, and its
//! copy never counted.
//!
//! A user's restore ends with an index beyond everything and stands for what its leader had committed.
//! It is committed with the first entry after it, if nothing else was meanwhile. Nothing is ever
//! committed then at the indices that it has left out.

use std::collections::BTreeMap;

use super::{Check, DiskId, append_only::LeaderLogs, completeness, is_majority};
use crate::{
    configuration::IndexedConfiguration,
    log::{Entry, EntryPayload},
    position::{LogId, LogIndex, Term},
};

#[derive(Clone, Debug)]
pub(crate) struct Fact {
    pub(crate) entry: Entry,
    /// The term in which it was committed, which may be later than the entry's own.
    pub(crate) committed_in: Term,
    /// The disks that made it so.
    pub(crate) holders: Vec<DiskId>,
}

/// A leader, at the moment when it commits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Committer<'a> {
    pub(crate) term: Term,
    pub(crate) is_leader: bool,
    /// The voters of its configuration, by their disks, and whether each has the last of the entries
    /// and a term that is not earlier.
    pub(crate) voters: &'a [(DiskId, bool)],
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Committed {
    facts: Vec<Fact>,
    /// Where the configurations are.
    configurations: Vec<LogIndex>,
    /// Where users' restores end, committed or not, and the configuration of each.
    restores: BTreeMap<LogId, IndexedConfiguration>,
}

impl Committed {
    pub(crate) fn last(&self) -> LogIndex {
        LogIndex(self.facts.len() as u64)
    }

    pub(crate) fn get(&self, index: LogIndex) -> Option<&Fact> {
        index.0.checked_sub(1).and_then(|at| self.facts.get(at as usize))
    }

    /// Every entry with the term in which it was committed, the newest first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = (LogId, Term)> {
        self.facts.iter().rev().map(|fact| (fact.entry.id(), fact.committed_in))
    }

    pub(crate) fn has(&self, id: LogId) -> bool {
        id == LogId::ZERO || self.get(id.index).is_some_and(|fact| fact.entry.id() == id)
    }

    /// The identity of the entry at `index`.
    pub(crate) fn id(&self, index: LogIndex) -> Option<LogId> {
        self.get(index).map(|fact| fact.entry.id())
    }

    pub(crate) fn restore_is_durable(&mut self, last: LogId, configuration: &IndexedConfiguration) {
        self.restores.insert(last, configuration.clone());
    }

    /// Whether a restore ends there that is not committed.
    pub(crate) fn is_open_restore(&self, last: LogId) -> bool {
        self.restores.contains_key(&last) && !self.has(last)
    }

    /// Whether a snapshot may end there.
    pub(crate) fn is_state(&self, last: LogId) -> bool {
        self.has(last) || self.restores.contains_key(&last)
    }

    /// Whether a snapshot that ends with `last` stands for this entry. One of a restore that is not
    /// committed stands for what was until its term.
    pub(crate) fn stands_for(&self, last: LogId, id: LogId) -> bool {
        let is_known = |fact: &Fact| self.has(last) || fact.committed_in <= last.term;
        self.is_state(last)
            && self.get(id.index).is_some_and(|fact| fact.entry.id() == id && is_known(fact))
    }

    /// The terms of the entries up to `last`, where a snapshot ends; zero for those that a restore
    /// has left out.
    pub(crate) fn terms(&self, last: LogId) -> impl Iterator<Item = Term> {
        let known = move |index| self.id(LogIndex(index)).filter(|id| self.stands_for(last, *id));
        (1..=last.index.0).map(move |index| {
            if index == last.index.0 { last.term } else { known(index).unwrap_or_default().term }
        })
    }

    /// A restore that ends with `last` is being committed, by the entry after it.
    pub(crate) fn restored(&mut self, last: LogId, by: Committer<'_>) -> Check {
        let newest = self.facts.last().map_or(Term(0), |fact| fact.committed_in);
        ensure!(
            self.last() < last.index && newest <= last.term,
            "law 4: the restore of {last} is committed, but {} is, since term {newest}",
            self.last()
        );
        while self.last() < last.index {
            let index = self.last().next();
            let term = if index == last.index { last.term } else { Term(0) };
            let entry = Entry { term, index, payload: EntryPayload::Noop };
            self.facts.push(Fact { entry, committed_in: by.term, holders: Vec::new() });
        }
        Ok(())
    }

    /// The newest configuration up to `index`.
    pub(crate) fn configuration_at(&self, index: LogIndex) -> IndexedConfiguration {
        let newest = self.configurations.iter().rfind(|it| **it <= index);
        match newest.and_then(|newest| self.get(*newest)).map(|fact| &fact.entry.payload) {
            Some(EntryPayload::Configuration(configuration)) => IndexedConfiguration {
                index: newest.copied().unwrap_or_default(),
                configuration: configuration.clone(),
            },
            _ => IndexedConfiguration::default(),
        }
    }

    /// A snapshot stands for everything up to `last`, with this configuration.
    pub(crate) fn snapshot(&self, last: LogId, configuration: &IndexedConfiguration) -> Check {
        ensure!(self.is_state(last), "law 14: a snapshot ends with {last}, which is not committed");
        let of_restore = self.restores.get(&last).cloned();
        let expected = of_restore.unwrap_or_else(|| self.configuration_at(last.index));
        ensure!(
            expected == *configuration,
            "law 14: the snapshot of {last} has the configuration of {}, not that of {}",
            configuration.index,
            expected.index
        );
        Ok(())
    }

    /// A server moves its commit index over `entries`. Returns how many are new to the cluster.
    pub(crate) fn commit(
        &mut self,
        entries: &[Entry],
        by: Committer<'_>,
        leaders: &LeaderLogs,
    ) -> Result<u64, String> {
        let mut news = 0;
        for entry in entries {
            if let Some(fact) = self.get(entry.index) {
                ensure!(
                    fact.entry == *entry,
                    "law 5: {} was committed, now {} is",
                    fact.entry.id(),
                    entry.id()
                );
                continue;
            }
            ensure!(
                entry.index == self.last().next(),
                "a commit leaves a gap: {} after {}",
                entry.id(),
                self.last()
            );
            if matches!(entry.payload, EntryPayload::Configuration(_)) {
                self.configurations.push(entry.index);
            }
            let holders = by.voters.iter().filter(|(_, has)| *has).map(|(id, _)| *id).collect();
            self.facts.push(Fact { entry: entry.clone(), committed_in: by.term, holders });
            completeness::committed(entry.id(), by.term, leaders)?;
            news += 1;
        }
        if let Some(last) = entries.last()
            && 0 < news
        {
            let (id, term) = (last.id(), by.term);
            ensure!(by.is_leader, "law 9: {id} is committed first by a server that does not lead");
            ensure!(id.term == term, "law 9: {id} is committed by counting in term {term}");
            ensure!(
                is_majority(by.voters, |(_, has)| *has),
                "law 7: {id} is committed, but on the disks of too few: {:?}",
                by.voters
            );
        }
        Ok(news)
    }

    /// A server in `term` is about to remove this entry.
    pub(crate) fn truncated(&self, id: LogId, term: Term) -> Check {
        let fact = self.get(id.index).filter(|fact| fact.entry.id() == id);
        ensure!(
            fact.is_none_or(|fact| term < fact.committed_in),
            "law 10: committed entry {id} is truncated in term {term}"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::EntryPayload;

    fn entry(term: u64, index: u64) -> Entry {
        Entry { term: Term(term), index: LogIndex(index), payload: EntryPayload::Noop }
    }

    const ON_TWO_OF_THREE: &[(DiskId, bool)] = &[((0, 7), true), ((1, 7), true), ((2, 7), false)];

    fn by(term: u64, is_leader: bool, voters: &[(DiskId, bool)]) -> Committer<'_> {
        Committer { term: Term(term), is_leader, voters }
    }

    fn after_a_commit() -> Committed {
        let mut check = Committed::default();
        let by = by(2, true, ON_TWO_OF_THREE);
        check.commit(&[entry(1, 1), entry(2, 2)], by, &LeaderLogs::default()).unwrap();
        check
    }

    fn commit(entry: Entry, by: Committer<'_>) -> Result<u64, String> {
        after_a_commit().commit(&[entry], by, &LeaderLogs::default())
    }

    #[test]
    fn fires_on_another_entry_at_a_committed_index() {
        assert_eq!(commit(entry(2, 2), by(3, false, &[])), Ok(0));
        commit(entry(1, 2), by(3, false, &[])).unwrap_err();
    }

    #[test]
    fn fires_on_a_commit_by_counting_an_old_term() {
        assert_eq!(commit(entry(3, 3), by(3, true, ON_TWO_OF_THREE)), Ok(1));
        commit(entry(2, 3), by(3, true, ON_TWO_OF_THREE)).unwrap_err();
    }

    #[test]
    fn fires_on_a_commit_without_a_majority_of_disks_or_by_a_follower() {
        commit(entry(3, 3), by(3, true, &[((0, 7), true), ((1, 7), false)])).unwrap_err();
        commit(entry(3, 3), by(3, true, &[])).unwrap_err();
        commit(entry(3, 3), by(3, false, ON_TWO_OF_THREE)).unwrap_err();
    }

    #[test]
    fn fires_on_a_snapshot_of_what_is_not_committed_or_with_another_configuration() {
        let mut check = after_a_commit();
        let payload = EntryPayload::Configuration(<_>::default());
        let entry = Entry { term: Term(2), index: LogIndex(3), payload };
        check.commit(&[entry], by(2, true, ON_TWO_OF_THREE), &LeaderLogs::default()).unwrap();
        let at = |index| IndexedConfiguration { index: LogIndex(index), ..<_>::default() };
        check.snapshot(LogId::new(2, 2), &at(0)).unwrap();
        check.snapshot(LogId::new(2, 3), &at(3)).unwrap();
        check.snapshot(LogId::new(2, 3), &at(0)).unwrap_err();
        check.snapshot(LogId::new(2, 4), &at(3)).unwrap_err();
        check.snapshot(LogId::new(1, 2), &at(0)).unwrap_err();
    }

    #[test]
    fn a_restore_is_committed_only_if_nothing_else_was() {
        let last = LogId::new(3, 6);
        let begun = |ends: LogId| {
            let mut check = after_a_commit();
            check.restore_is_durable(ends, &IndexedConfiguration::default());
            check
        };
        let mut check = begun(last);
        assert!(check.is_open_restore(last) && check.is_state(last) && !check.has(last));
        assert!(check.stands_for(last, LogId::new(2, 2)));
        let terms: Vec<u64> = check.terms(last).map(|term| term.0).collect();
        assert_eq!(terms, [1, 2, 0, 0, 0, 3]);
        check.restored(last, by(3, true, ON_TWO_OF_THREE)).unwrap();
        assert!(check.has(last) && !check.is_open_restore(last));
        let by_3 = by(3, true, ON_TWO_OF_THREE);
        assert_eq!(check.commit(&[entry(3, 7)], by_3, &LeaderLogs::default()), Ok(1));
        // At an index that was left out.
        check.commit(&[entry(2, 4)], by(2, false, &[]), &LeaderLogs::default()).unwrap_err();
        // Committed after the restore, or without it.
        let older = LogId::new(1, 6);
        assert!(!begun(older).stands_for(older, LogId::new(2, 2)));
        begun(older).restored(older, by(3, true, ON_TWO_OF_THREE)).unwrap_err();
        let within = LogId::new(3, 2);
        begun(within).restored(within, by(3, true, ON_TWO_OF_THREE)).unwrap_err();
    }

    #[test]
    fn fires_on_truncation_of_a_committed_entry() {
        after_a_commit().truncated(LogId::new(1, 2), Term(3)).unwrap();
        after_a_commit().truncated(LogId::new(2, 2), Term(2)).unwrap_err();
        // Committed in term 2: who is still in term 1 does not know.
        after_a_commit().truncated(LogId::new(1, 1), Term(1)).unwrap();
        after_a_commit().truncated(LogId::new(1, 1), Term(2)).unwrap_err();
    }
}
