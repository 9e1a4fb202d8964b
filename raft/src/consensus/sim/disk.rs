//! A disk that loses in a crash what was not synced.
//!
//! A write has up to three steps, carried out in order: hard state, truncation, append. A sync makes
//! a prefix of the writes durable. A crash keeps what is durable and a prefix of the steps after it:
//! bytes may have reached the disk without anybody having been told.

use std::collections::VecDeque;

use super::log::Log;
use crate::{
    consensus::{Saved, Write, WriteId},
    log::LogId,
    stable::HardState,
};

/// What is durable.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) hard_state: HardState,
    pub(super) log: Log,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) image: Image,
    /// Not durable yet, oldest first.
    pending: VecDeque<Write>,
    /// How many of them the sync under way covers.
    pub(super) syncing: usize,
}

impl Image {
    /// Carries out the first `steps` steps of a write; returns how many it has.
    fn carry_out(&mut self, write: Write, steps: usize) -> usize {
        let mut count = 0;
        if let Some(hard_state) = write.hard_state {
            count += 1;
            if count <= steps {
                self.hard_state = hard_state;
            }
        }
        if let Some(from) = write.truncate_from {
            count += 1;
            if count <= steps {
                self.log.truncate(from);
            }
        }
        if !write.entries.is_empty() {
            count += 1;
            if count <= steps {
                write.entries.iter().for_each(|entry| self.log.push(entry.clone()));
            }
        }
        count
    }

    /// What a restarted server reads back.
    pub(super) fn saved(&self) -> Saved {
        let mut saved = Saved::new(self.hard_state.clone(), LogId::ZERO, <_>::default());
        saved.push(self.log.entries());
        saved
    }
}

impl Disk {
    pub(super) fn write(&mut self, write: Write) {
        self.pending.push_back(write);
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Makes the first `count` pending writes durable; returns the identity of each.
    pub(super) fn complete(&mut self, count: usize) -> Vec<WriteId> {
        let mut done = Vec::new();
        for write in self.pending.drain(..count) {
            done.push(write.id);
            self.image.carry_out(write, usize::MAX);
        }
        done
    }

    /// How many steps are pending.
    pub(super) fn steps(&self) -> usize {
        self.pending.iter().map(steps).sum()
    }

    /// How many steps there are up to the point between the last pending truncation and the
    /// append after it.
    pub(super) fn steps_to_truncation(&self) -> Option<usize> {
        let at = self.pending.iter().rposition(|write| write.truncate_from.is_some())?;
        let before: usize = self.pending.iter().take(at).map(steps).sum();
        Some(before + steps(&self.pending[at]) - 1)
    }

    /// Loses everything that is pending, except for the first `kept` steps.
    pub(super) fn crash(&mut self, mut kept: usize) {
        for write in std::mem::take(&mut self.pending) {
            let done = self.image.carry_out(write, kept);
            kept = kept.saturating_sub(done);
            if kept == 0 {
                break;
            }
        }
        self.syncing = 0;
    }
}

fn steps(write: &Write) -> usize {
    usize::from(write.hard_state.is_some())
        + usize::from(write.truncate_from.is_some())
        + usize::from(!write.entries.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Entries, Entry, EntryPayload, LogIndex, Term};

    fn entry(term: u64, index: u64) -> Entry {
        Entry { term: Term(term), index: LogIndex(index), payload: EntryPayload::Noop }
    }

    fn write(id: u64, truncate_from: Option<u64>, entries: Vec<Entry>) -> Write {
        Write {
            id: WriteId(id),
            hard_state: Some(HardState { current_term: Term(id), voted_for: None }),
            reset_to: None,
            truncate_from: truncate_from.map(LogIndex),
            entries: Entries::new(entries),
            commit_index: LogIndex(0),
        }
    }

    #[test]
    fn a_crash_keeps_a_prefix_of_the_steps() {
        for (kept, term, last) in [(0, 0, 0), (1, 1, 0), (2, 1, 2), (3, 2, 2), (4, 2, 1), (5, 2, 2)]
        {
            let mut disk = Disk::default();
            disk.write(write(1, None, vec![entry(1, 1), entry(1, 2)]));
            disk.write(write(2, Some(2), vec![entry(2, 2)]));
            assert_eq!(disk.steps(), 5);
            assert_eq!(disk.steps_to_truncation(), Some(4));
            disk.crash(kept);
            assert_eq!(disk.image.hard_state.current_term, Term(term), "kept {kept}");
            assert_eq!(disk.image.log.last().index, LogIndex(last), "kept {kept}");
            assert_eq!(disk.pending(), 0);
        }
    }

    #[test]
    fn a_sync_makes_a_prefix_of_the_writes_durable() {
        let mut disk = Disk::default();
        disk.write(write(1, None, vec![entry(1, 1)]));
        disk.write(write(2, None, vec![entry(2, 2)]));
        assert_eq!(disk.complete(1), [WriteId(1)]);
        disk.crash(0);
        assert_eq!(disk.image.log.last(), LogId::new(1, 1));
        assert_eq!(disk.image.hard_state.current_term, Term(1));
    }
}
