//! State machine safety (law 5): the state machine of every server, in every life, goes through the
//! same entries in the same order; and whatever it restores is the state after exactly those.

use std::collections::BTreeMap;

use super::{
    super::machine::{Machine, hash_after},
    Check,
};
use crate::{
    log::Entry,
    position::{LogId, LogIndex},
};

#[derive(Clone, Debug, Default)]
pub(crate) struct StateMachine {
    /// What was applied at each index, and the state after it.
    applied: BTreeMap<LogIndex, (Entry, u64)>,
    /// The states that users have restored.
    restored: BTreeMap<LogId, u64>,
}

impl StateMachine {
    pub(crate) fn restore_is_durable(&mut self, snapshot: &Machine) {
        self.restored.insert(snapshot.applied, snapshot.hash);
    }

    /// A state machine applies an entry.
    pub(crate) fn applied(&mut self, before: &Machine, entry: &Entry) -> Check {
        ensure!(
            before.applied.index.next() == entry.index,
            "law 5: {} is applied after {}",
            entry.id(),
            before.applied
        );
        let hash = hash_after(before.hash, entry);
        let known = self.applied.entry(entry.index).or_insert_with(|| (entry.clone(), hash));
        let (known, state) = (&known.0, known.1);
        ensure!(known == entry, "law 5: {} was applied, now {} is", known.id(), entry.id());
        ensure!(state == hash, "law 5: the states after {} differ", entry.id());
        Ok(())
    }

    /// A state machine takes on this state, or a snapshot holds it.
    pub(crate) fn is_state(&self, machine: &Machine) -> Check {
        let last = machine.applied;
        let applied = self.applied.get(&last.index).filter(|(entry, _)| entry.id() == last);
        let known = self.restored.get(&last).or(applied.map(|(_, state)| state));
        ensure!(
            known == Some(&machine.hash) || *machine == Machine::default(),
            "law 5: no state machine was ever in the state of {last}"
        );
        Ok(())
    }

    /// The state after the entry at `index`.
    #[cfg(test)]
    pub(crate) fn state_at(&self, index: LogIndex) -> Option<u64> {
        self.applied.get(&index).map(|(_, state)| *state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{log::EntryPayload, position::Term};

    #[test]
    fn fires_on_another_entry_and_on_a_gap() {
        let entry = |term, index| Entry {
            term: Term(term),
            index: LogIndex(index),
            payload: EntryPayload::Noop,
        };
        let mut check = StateMachine::default();
        let mut machine = Machine::default();
        check.applied(&machine, &entry(1, 1)).unwrap();
        check.applied(&machine, &entry(1, 1)).unwrap();
        check.applied(&machine, &entry(2, 1)).unwrap_err();
        check.is_state(&machine).unwrap();
        machine.apply(&entry(1, 1));
        check.applied(&machine, &entry(1, 3)).unwrap_err();
        check.applied(&machine, &entry(1, 2)).unwrap();
    }

    #[test]
    fn fires_on_a_state_that_nobody_was_in() {
        let noop =
            |index| Entry { term: Term(1), index: LogIndex(index), payload: EntryPayload::Noop };
        let (mut check, mut machine) = (StateMachine::default(), Machine::default());
        check.applied(&machine, &noop(1)).unwrap();
        machine.apply(&noop(1));
        check.is_state(&machine).unwrap();
        assert_eq!(check.state_at(LogIndex(1)), Some(machine.hash));
        let other = Machine { hash: machine.hash ^ 1, ..machine.clone() };
        check.is_state(&other).unwrap_err();
        check.applied(&other, &noop(2)).unwrap();
        check.applied(&machine, &noop(2)).unwrap_err();
        machine.apply(&noop(3));
        check.is_state(&machine).unwrap_err();
    }
}
