//! State machine safety (law 5): the state machine of every server, in every life, goes through the
//! same entries in the same order.

use super::Check;
use crate::log::{Entry, LogIndex};

#[derive(Clone, Debug, Default)]
pub(crate) struct StateMachine {
    applied: Vec<Entry>,
}

impl StateMachine {
    /// A state machine that is at `before` applies an entry.
    pub(crate) fn applied(&mut self, before: LogIndex, entry: &Entry) -> Check {
        ensure!(
            before.next() == entry.index,
            "law 5: {} is applied after index {before}",
            entry.id()
        );
        match self.applied.get(before.0 as usize) {
            Some(known) => {
                ensure!(known == entry, "law 5: {} was applied, now {} is", known.id(), entry.id());
            }
            None => self.applied.push(entry.clone()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{EntryPayload, Term};

    #[test]
    fn fires_on_another_entry_and_on_a_gap() {
        let entry = |term, index| Entry {
            term: Term(term),
            index: LogIndex(index),
            payload: EntryPayload::Noop,
        };
        let mut check = StateMachine::default();
        check.applied(LogIndex(0), &entry(1, 1)).unwrap();
        check.applied(LogIndex(0), &entry(1, 1)).unwrap();
        check.applied(LogIndex(0), &entry(2, 1)).unwrap_err();
        check.applied(LogIndex(1), &entry(1, 3)).unwrap_err();
    }
}
