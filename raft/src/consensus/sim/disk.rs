//! A disk that loses in a crash what was not synced.
//!
//! A write has up to four steps, carried out in order: hard state, reset, truncation, append; the
//! commit index is noted in one step with the last of them. Compactions are steps of their own in
//! the same queue. A sync makes a prefix of the queue durable. A crash keeps what is durable and a
//! prefix of the steps after it: bytes may have reached the disk without anybody having been told.
//!
//! Snapshots are kept beside the log, in a store of their own: a finished one is durable at once,
//! whatever the log still waits for.

use std::collections::VecDeque;

use super::{log::Log, machine::Machine};
use crate::{
    consensus::{Saved, Write, WriteId},
    position::{LogId, LogIndex},
    stable::HardState,
};

/// What is durable.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    /// Which disk this is; 0 if that is not kept.
    pub(super) incarnation: u64,
    /// How often it was started from.
    pub(super) starts: u64,
    pub(super) hard_state: HardState,
    pub(super) log: Log,
    /// How far the log was noted to be committed.
    pub(super) commit_index: LogIndex,
    /// The finished snapshots, oldest first.
    pub(super) snapshots: Vec<Machine>,
    /// What the state machine keeps by itself.
    pub(super) kept: Option<Machine>,
}

/// What a start makes of what it finds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice<'a> {
    pub(super) snapshot: Option<&'a Machine>,
    /// Whether the log goes with that snapshot. Otherwise the crash came in the middle of an
    /// installation, which is ended now.
    pub(super) keeps_log: bool,
}

#[derive(Clone, Debug)]
enum Change {
    /// A write; with the snapshot that takes the place of the log, if it resets it.
    Write(Write, Option<Machine>),
    Compact(LogIndex),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) image: Image,
    /// Not durable yet, oldest first.
    pending: VecDeque<Change>,
    /// How many of them the sync under way covers.
    pub(super) syncing: usize,
}

impl Image {
    /// Carries out the first `steps` steps of a change; returns how many it has.
    fn carry_out(&mut self, change: Change, steps: usize) -> usize {
        let count = change.steps();
        let mut left = steps;
        let mut is_next = || {
            let is_next = 0 < left;
            left = left.saturating_sub(1);
            is_next
        };
        match change {
            Change::Compact(through) => {
                if is_next() {
                    self.log.compact(through);
                }
            }
            Change::Write(write, snapshot) => {
                if let Some(hard_state) = write.hard_state
                    && is_next()
                {
                    self.hard_state = hard_state;
                }
                if let Some(snapshot) = snapshot
                    && is_next()
                {
                    self.log.reset(snapshot.applied, snapshot.configuration);
                    self.commit_index = self.commit_index.max(write.commit_index);
                }
                if let Some(from) = write.truncate_from
                    && is_next()
                {
                    self.log.truncate(from);
                }
                if !write.entries.is_empty() && is_next() {
                    write.entries.iter().for_each(|entry| self.log.push(entry.clone()));
                    self.commit_index = self.commit_index.max(write.commit_index);
                }
            }
        }
        count
    }

    /// Keeps a finished snapshot, and of all of them the `retained` newest; never drops `pinned`.
    pub(super) fn keep_snapshot(&mut self, snapshot: Machine, retained: usize, pinned: &[LogId]) {
        self.snapshots.retain(|other| other.applied != snapshot.applied);
        self.snapshots.push(snapshot);
        self.snapshots.sort_by_key(|snapshot| snapshot.applied);
        let surplus = self.snapshots.len().saturating_sub(retained);
        let mut at = 0;
        self.snapshots.retain(|snapshot| {
            at += 1;
            surplus < at || pinned.contains(&snapshot.applied)
        });
    }

    pub(super) fn newest_snapshot(&self) -> Option<&Machine> {
        self.snapshots.last()
    }

    /// The snapshot to start with: the newest one that is not void. If it is beyond the log, or
    /// contradicts it, it was about to be installed, which is ended now.
    pub(super) fn choice(&self) -> Choice<'_> {
        let snapshot = self.snapshots.iter().rfind(|snapshot| !self.is_void(snapshot.applied));
        let keeps_log = snapshot.is_none_or(|snapshot| self.log.has(snapshot.applied));
        Choice { snapshot, keeps_log }
    }

    /// Whether a snapshot was never adopted, and the log has gone on without it.
    fn is_void(&self, last: LogId) -> bool {
        let log = &self.log;
        last.term < log.last().term && log.base().index <= last.index && !log.has(last)
    }

    /// Whether a server that starts with this has the entry, or a snapshot that stands for it.
    pub(super) fn covers(&self, id: LogId, stands_for: impl FnOnce(LogId) -> bool) -> bool {
        let Choice { snapshot, keeps_log } = self.choice();
        (keeps_log && self.log.has(id))
            || snapshot.is_some_and(|snapshot| {
                id.index <= snapshot.applied.index && stands_for(snapshot.applied)
            })
    }

    /// What a restarted server reads back, after it has ended an installation that was cut short;
    /// and the state of its state machine.
    pub(super) fn start(&mut self) -> (Saved, Machine) {
        let mut snapshots = std::mem::take(&mut self.snapshots);
        snapshots.retain(|snapshot| !self.is_void(snapshot.applied));
        self.snapshots = snapshots;
        let Choice { snapshot, keeps_log } = self.choice();
        let snapshot = snapshot.cloned().unwrap_or_default();
        if !keeps_log {
            self.log.reset(snapshot.applied, snapshot.configuration.clone());
        }
        self.log.learn_configuration(&snapshot.configuration);
        let configuration = snapshot.configuration.clone();
        let mut saved = Saved::new(self.hard_state.clone(), snapshot.applied, configuration);
        saved.push(self.log.entries());
        saved.committed(self.commit_index);
        match &self.kept {
            Some(kept) if snapshot.applied.index < kept.applied.index => {
                saved.applied(kept.applied.index);
                (saved, kept.clone())
            }
            _ => (saved, snapshot),
        }
    }
}

impl Disk {
    /// Takes a write; with the snapshot that takes the place of the log, if it resets it.
    pub(super) fn write(&mut self, write: Write, snapshot: Option<Machine>) {
        self.pending.push_back(Change::Write(write, snapshot));
    }

    pub(super) fn compact(&mut self, through: LogIndex) {
        self.pending.push_back(Change::Compact(through));
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn pending_writes(&self) -> usize {
        self.pending.iter().filter(|change| matches!(change, Change::Write(..))).count()
    }

    /// Whether the log has not been reset yet.
    pub(super) fn has_pending_reset(&self) -> bool {
        self.pending.iter().any(Change::is_reset)
    }

    /// Makes the first `count` pending changes durable; returns the identity of each write.
    pub(super) fn complete(&mut self, count: usize) -> Vec<WriteId> {
        let mut done = Vec::new();
        for change in self.pending.drain(..count) {
            if let Change::Write(write, _) = &change {
                done.push(write.id);
            }
            self.image.carry_out(change, usize::MAX);
        }
        done
    }

    /// How many steps are pending.
    pub(super) fn steps(&self) -> usize {
        self.pending.iter().map(Change::steps).sum()
    }

    /// How many steps there are up to the point between the last pending truncation and the
    /// append after it.
    pub(super) fn steps_to_truncation(&self) -> Option<usize> {
        let is_truncation =
            |change: &Change| matches!(change, Change::Write(it, _) if it.truncate_from.is_some());
        let at = self.pending.iter().rposition(is_truncation)?;
        let before: usize = self.pending.iter().take(at).map(Change::steps).sum();
        Some(before + self.pending[at].steps() - 1)
    }

    /// How many steps there are up to the last pending reset, with it.
    pub(super) fn steps_to_reset(&self) -> Option<usize> {
        let at = self.pending.iter().rposition(Change::is_reset)?;
        Some(self.pending.iter().take(at + 1).map(Change::steps).sum())
    }

    /// Loses everything that is pending, except for the first `kept` steps.
    pub(super) fn crash(&mut self, mut kept: usize) {
        for change in std::mem::take(&mut self.pending) {
            if kept == 0 {
                break;
            }
            let done = self.image.carry_out(change, kept);
            kept = kept.saturating_sub(done);
        }
        self.syncing = 0;
    }
}

impl Change {
    fn steps(&self) -> usize {
        match self {
            Self::Compact(_) => 1,
            Self::Write(write, snapshot) => {
                usize::from(write.hard_state.is_some())
                    + usize::from(snapshot.is_some())
                    + usize::from(write.truncate_from.is_some())
                    + usize::from(!write.entries.is_empty())
            }
        }
    }

    fn is_reset(&self) -> bool {
        matches!(self, Self::Write(_, Some(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        log::{Entries, Entry, EntryPayload},
        position::Term,
    };

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
            commit_index: LogIndex(id),
        }
    }

    fn snapshot(term: u64, index: u64) -> Machine {
        Machine { applied: LogId::new(term, index), ..Machine::default() }
    }

    #[test]
    fn a_crash_keeps_a_prefix_of_the_steps() {
        for (kept, term, last, commit) in
            [(0, 0, 0, 0), (1, 1, 0, 0), (2, 1, 2, 1), (3, 2, 2, 1), (4, 2, 1, 1), (5, 2, 2, 2)]
        {
            let mut disk = Disk::default();
            disk.write(write(1, None, vec![entry(1, 1), entry(1, 2)]), None);
            disk.write(write(2, Some(2), vec![entry(2, 2)]), None);
            assert_eq!(disk.steps(), 5);
            assert_eq!(disk.steps_to_truncation(), Some(4));
            disk.crash(kept);
            assert_eq!(disk.image.hard_state.current_term, Term(term), "kept {kept}");
            assert_eq!(disk.image.log.last().index, LogIndex(last), "kept {kept}");
            assert_eq!(disk.image.commit_index, LogIndex(commit), "kept {kept}");
            assert_eq!(disk.pending(), 0);
        }
    }

    #[test]
    fn a_sync_makes_a_prefix_of_the_writes_durable() {
        let mut disk = Disk::default();
        disk.write(write(1, None, vec![entry(1, 1)]), None);
        disk.write(write(2, None, vec![entry(2, 2)]), None);
        assert_eq!(disk.complete(1), [WriteId(1)]);
        disk.crash(0);
        assert_eq!(disk.image.log.last(), LogId::new(1, 1));
        assert_eq!(disk.image.hard_state.current_term, Term(1));
    }

    #[test]
    fn a_crash_may_come_before_or_after_a_reset_and_a_compaction() {
        for (kept, base, last) in [(2, 0, 2), (3, 9, 9), (4, 9, 10), (5, 10, 10)] {
            let mut disk = Disk::default();
            disk.write(write(1, None, vec![entry(1, 1), entry(1, 2)]), None);
            let reset = Write { hard_state: None, ..write(2, None, vec![entry(3, 10)]) };
            disk.write(reset, Some(snapshot(3, 9)));
            disk.compact(LogIndex(10));
            assert_eq!((disk.steps(), disk.steps_to_reset()), (5, Some(4)));
            assert!(disk.has_pending_reset());
            assert_eq!((disk.pending(), disk.pending_writes()), (3, 2));
            disk.crash(kept);
            let log = &disk.image.log;
            assert_eq!((log.base().index.0, log.last().index.0), (base, last), "kept {kept}");
        }
    }

    #[test]
    fn the_newest_snapshots_are_kept_and_what_is_pinned() {
        let mut image = Image::default();
        for index in [3, 5, 4, 5, 6] {
            image.keep_snapshot(snapshot(1, index), 2, &[LogId::new(1, 4)]);
        }
        let kept: Vec<u64> = image.snapshots.iter().map(|it| it.applied.index.0).collect();
        assert_eq!(kept, [4, 5, 6]);
    }

    /// A start chooses the newest snapshot, and ends an installation that was cut short, unless the
    /// log has gone on into later terms.
    #[test]
    fn a_start_chooses_a_snapshot() {
        let chosen = |image: &Image| {
            let Choice { snapshot, keeps_log } = image.choice();
            (snapshot.map_or(0, |it| it.applied.index.0), keeps_log)
        };
        let mut image = Image::default();
        assert_eq!(chosen(&image), (0, true));
        // Nothing but a snapshot.
        image.snapshots = vec![snapshot(2, 4)];
        assert_eq!(chosen(&image), (4, false));
        (1..=6).for_each(|index| image.log.push(entry(2, index)));
        assert_eq!(chosen(&image), (4, true));
        // A log that a newer snapshot contradicts.
        image.snapshots.push(snapshot(3, 5));
        assert_eq!(chosen(&image), (5, false));
        assert!(image.covers(LogId::new(1, 1), |_| true));
        assert!(!image.covers(LogId::new(2, 6), |_| true));
        // It has gone on.
        image.log.push(entry(4, 7));
        assert_eq!(chosen(&image), (4, true));
    }
}
