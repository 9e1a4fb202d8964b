//! The writes that are not durable yet, and the messages that wait for them (law 8).

use std::{collections::VecDeque, time::Duration};

use super::{action::WriteId, outbox::Outbox, time::Time};
use crate::position::LogIndex;

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
    pub(super) fn gate(&self, index: Option<LogIndex>) -> Option<WriteId> {
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
