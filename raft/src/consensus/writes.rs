//! What is on its way to the disk, and the messages that wait for it (law 8).

use std::{collections::VecDeque, time::Duration};

use super::{
    Consensus,
    action::{Action, Write, WriteId},
    outbox::Outbox,
    time::Time,
};
use crate::{configuration::ServerId, log::Entries, position::LogIndex, rpc::Message};

/// The writes of one server, in order.
#[derive(Clone, Debug)]
pub(super) struct WritePipeline {
    /// Whether term and vote have changed since the last write.
    pub(super) is_hard_state_dirty: bool,
    /// Writes that are not durable yet, oldest first.
    pub(super) pending: VecDeque<PendingWrite>,
    /// The newest write that is durable.
    pub(super) written: WriteId,
    /// The next write.
    pub(super) next: WriteId,
    pub(super) outbox: Outbox,
}

/// A write that is not durable yet.
#[derive(Clone, Debug)]
pub(super) struct PendingWrite {
    pub(super) id: WriteId,
    /// The last index that is durable, and still in the log, once this write is. Lowered when a
    /// later truncation makes part of the write void: that is the ABA rule.
    pub(super) last: LogIndex,
    pub(super) has_hard_state: bool,
    /// Whether it resets the log: no promise may leave before that is durable.
    pub(super) is_reset: bool,
    pub(super) issued_at: Time,
}

impl Default for WritePipeline {
    fn default() -> Self {
        Self {
            is_hard_state_dirty: false,
            pending: VecDeque::new(),
            written: WriteId(0),
            next: WriteId(1),
            outbox: Outbox::default(),
        }
    }
}

impl WritePipeline {
    /// The log was cut after `last`: what pending writes hold beyond it will not count.
    pub(super) fn truncate(&mut self, last: LogIndex) {
        for write in &mut self.pending {
            write.last = write.last.min(last);
        }
    }

    /// The write that a promise of the current term has to wait for, and of everything up to `index` if given
    /// and not durable yet.
    fn gate(&self, index: Option<LogIndex>) -> Option<WriteId> {
        let promises_term = |write: &&PendingWrite| write.has_hard_state || write.is_reset;
        let term = self.pending.iter().rev().find(promises_term);
        let log = index.and_then(|index| self.pending.iter().find(|write| index <= write.last));
        term.into_iter().chain(log).map(|write| write.id).max()
    }

    /// When the oldest write will have been in flight for too long.
    pub(super) fn stall_deadline(&self, patience: Duration) -> Option<Time> {
        self.pending.front().map(|write| write.issued_at + patience)
    }
}

impl Consensus {
    /// Writes entries together with whatever of the hard state is not written yet.
    pub(super) fn write(
        &mut self,
        now: Time,
        reset_to: Option<LogIndex>,
        truncate_from: Option<LogIndex>,
        entries: Entries,
    ) -> WriteId {
        let writes = &mut self.writes;
        let is_dirty = std::mem::take(&mut writes.is_hard_state_dirty);
        let hard_state = is_dirty.then(|| self.hard_state.clone());
        let id = writes.next;
        writes.next = WriteId(id.0 + 1);
        writes.pending.push_back(PendingWrite {
            id,
            last: self.log.last().index,
            has_hard_state: hard_state.is_some(),
            is_reset: reset_to.is_some(),
            issued_at: now,
        });
        let commit_index = self.commit.index;
        let write = Write { id, hard_state, reset_to, truncate_from, entries, commit_index };
        self.actions.push_back(Action::Write(write));
        id
    }

    pub(super) fn write_hard_state(&mut self, now: Time) {
        if self.writes.is_hard_state_dirty {
            self.write(now, None, None, Entries::default());
        }
    }

    /// A write, and every write before it, is durable.
    ///
    /// # Panics
    /// If the id was never issued.
    pub fn handle_written(&mut self, now: Time, id: WriteId) {
        let writes = &mut self.writes;
        assert!(id < writes.next, "I8: {id} was never issued");
        while writes.pending.front().is_some_and(|write| write.id <= id) {
            let Some(write) = writes.pending.pop_front() else { break };
            self.log.set_stable(write.last);
        }
        writes.written = writes.written.max(id);
        writes.outbox.release(writes.written, &mut self.actions);
        self.count_own_vote(now);
        self.advance_commit(now);
        self.emit_restore();
        self.emit_commit();
        self.finish(now);
    }

    /// Sends a message that promises the current term, and everything up to `index` if given: when
    /// that is durable (law 8).
    pub(super) fn send_when_durable(
        &mut self,
        now: Time,
        to: &ServerId,
        message: Message,
        index: Option<LogIndex>,
    ) {
        self.write_hard_state(now);
        let index = index.filter(|index| self.log.stable() < *index);
        match self.writes.gate(index) {
            Some(until) => self.writes.outbox.hold(until, to.clone(), message),
            None => self.send(to, message),
        }
    }

    /// Whether so many writes are pending that no more entries should be taken,
    /// neither requests nor messages that carry them.
    #[must_use]
    pub fn is_write_window_full(&self) -> bool {
        self.rules.max_pending_writes <= self.writes.pending.len()
    }

    /// Whether twice as many are pending: then no message at all should be taken. Only a stuck disk
    /// and many changes of term lead here.
    #[must_use]
    pub fn is_write_window_overrun(&self) -> bool {
        2 * self.rules.max_pending_writes <= self.writes.pending.len()
    }

    /// How many writes are not durable yet.
    #[must_use]
    pub fn pending_writes(&self) -> usize {
        self.writes.pending.len()
    }

    /// Whether the oldest write has been in flight for too long: the disk is stuck.
    pub(super) fn is_disk_stalled(&self, now: Time) -> bool {
        let deadline = self.writes.stall_deadline(self.rules.write_stall_timeout);
        deadline.is_some_and(|deadline| deadline <= now)
    }
}
