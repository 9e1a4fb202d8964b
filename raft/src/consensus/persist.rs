//! Writes on their way to the disk, and what happens when they are durable (law 8).
//!
//! Source: thesis §3.8, §10.2.1.

use super::{
    Consensus,
    action::{Action, Write, WriteId},
    time::Time,
    writes::PendingWrite,
};
use crate::{configuration::ServerId, log::Entries, position::LogIndex, rpc::Message};

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
        mut message: Message,
        index: Option<LogIndex>,
    ) {
        self.stamp(to, &mut message);
        self.write_hard_state(now);
        let index = index.filter(|index| self.log.stable() < *index);
        match self.writes.gate(index) {
            Some(until) => self.writes.outbox.hold(until, to.clone(), message),
            None => self.actions.push_back(Action::Send { to: to.clone(), message }),
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
