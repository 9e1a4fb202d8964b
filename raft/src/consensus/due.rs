//! What a state machine must have applied by now.

use std::time::Duration;

use super::time::Time;
use crate::position::LogIndex;

/// What a state machine must have applied by now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    pub(super) index: LogIndex,
    /// What takes its place when it is old enough, and since when it is known.
    next: (LogIndex, Time),
}

impl Due {
    pub(super) fn new(index: LogIndex, now: Time) -> Self {
        Self { index, next: (index, now) }
    }

    /// So much is committed. What was so before for `patience` is due.
    pub(super) fn committed(&mut self, now: Time, index: LogIndex, patience: Duration) {
        let (next, since) = self.next;
        if since + patience <= now {
            *self = Self { index: next, next: (index, now) };
        }
    }
}
