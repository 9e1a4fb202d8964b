//! Leader append-only (law 2): a leader never overwrites or deletes its own entries, and nobody else
//! creates entries of its term. Keeps the log of each leadership, which other checks compare with.

use std::collections::BTreeMap;

use super::Check;
use crate::{
    log::Entry,
    position::{LogId, LogIndex, Term},
};

#[derive(Clone, Debug, Default)]
pub(crate) struct LeaderLogs {
    /// By term of the leadership, the term of each of its entries; and once more after each restore.
    logs: BTreeMap<Term, Vec<Vec<Term>>>,
}

impl LeaderLogs {
    pub(crate) fn elected(&mut self, term: Term, log: Vec<Term>) {
        self.logs.insert(term, vec![log]);
    }

    /// A user's restore gives the leader of `term` another log. What it had is still on its way.
    pub(crate) fn restored(&mut self, term: Term, log: Vec<Term>) {
        self.logs.entry(term).or_default().push(log);
    }

    /// The leader of `term` writes.
    pub(crate) fn wrote(
        &mut self,
        term: Term,
        truncate_from: Option<LogIndex>,
        entries: &[Entry],
    ) -> Check {
        ensure!(truncate_from.is_none(), "law 2: the leader of term {term} truncates its log");
        let Some(log) = self.logs.get_mut(&term).and_then(|logs| logs.last_mut()) else {
            return Err(format!("law 2: term {term} has no leader"));
        };
        for entry in entries {
            ensure!(entry.term == term, "law 2: the leader of term {term} appends {}", entry.id());
            ensure!(
                entry.index.0 == log.len() as u64 + 1,
                "law 2: the leader of term {term} appends {} at the end of {} entries",
                entry.id(),
                log.len()
            );
            log.push(term);
        }
        Ok(())
    }

    /// Whether the log of the leader of `term` has this entry.
    pub(crate) fn has(&self, term: Term, id: LogId) -> bool {
        id == LogId::ZERO
            || self.logs.get(&term).into_iter().flatten().any(|log| {
                id.index.0.checked_sub(1).and_then(|at| log.get(at as usize)) == Some(&id.term)
            })
    }

    /// The term of an entry of the leader of `term`.
    pub(crate) fn term_at(&self, term: Term, index: LogIndex) -> Option<Term> {
        self.logs.get(&term)?.last()?.get(index.0.checked_sub(1)? as usize).copied()
    }

    /// The terms after `term` that have had a leader.
    pub(crate) fn after(&self, term: Term) -> impl Iterator<Item = Term> {
        self.logs.range(term.next()..).map(|(term, _)| *term)
    }

    /// Entries leave a server in the name of the leader of `term`.
    pub(crate) fn sent(&self, term: Term, prev: LogId, entries: &[Entry]) -> Check {
        for id in std::iter::once(prev).chain(entries.iter().map(Entry::id)) {
            ensure!(self.has(term, id), "law 2: {id} is sent, but the leader of {term} lacks it");
        }
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

    fn leader_of_term_2() -> LeaderLogs {
        let mut check = LeaderLogs::default();
        check.elected(Term(2), vec![Term(1)]);
        check.wrote(Term(2), None, &[entry(2, 2), entry(2, 3)]).unwrap();
        check
    }

    #[test]
    fn fires_on_a_leader_that_truncates() {
        leader_of_term_2().wrote(Term(2), Some(LogIndex(3)), &[entry(2, 3)]).unwrap_err();
    }

    #[test]
    fn fires_on_a_leader_that_overwrites_or_writes_in_another_term() {
        leader_of_term_2().wrote(Term(2), None, &[entry(2, 3)]).unwrap_err();
        leader_of_term_2().wrote(Term(2), None, &[entry(3, 4)]).unwrap_err();
        leader_of_term_2().wrote(Term(3), None, &[entry(3, 4)]).unwrap_err();
    }

    #[test]
    fn fires_on_entries_sent_that_are_not_the_leaders() {
        leader_of_term_2().sent(Term(2), LogId::new(1, 1), &[entry(2, 2)]).unwrap();
        leader_of_term_2().sent(Term(2), LogId::new(1, 1), &[entry(1, 2)]).unwrap_err();
        leader_of_term_2().sent(Term(2), LogId::new(1, 2), &[]).unwrap_err();
    }
}
