//! The messages with entries that one follower has not answered yet, and how many there may be (I5).

use std::collections::VecDeque;

use super::time::Time;
use crate::position::LogIndex;

/// The window of messages in flight to one follower, oldest first.
#[derive(Clone, Debug)]
pub(super) struct Inflights {
    messages: VecDeque<Inflight>,
    bytes: u64,
    /// How many messages may be in flight even if the rules allow fewer, because older rules allowed
    /// them. Never more than there are, so it falls as they drain.
    draining: usize,
    /// How many messages may be in flight, if the rules do not allow fewer. A conflict that empties
    /// the window halves it, and each message that is acknowledged adds one: in a network that
    /// reorders nearly all of a large window is refused, and would be sent anew for every entry.
    window: usize,
    /// The newest round when a conflict last emptied the window. The rest of that window conflicts
    /// too, so responses to requests of up to that round are not news. If each of them had the next
    /// window sent anew, a network that reorders would never calm down.
    conflict_round: u64,
}

/// A message with entries that has not been answered.
#[derive(Clone, Debug)]
struct Inflight {
    last: LogIndex,
    cost_bytes: u64,
    sent_at: Time,
}

impl Default for Inflights {
    fn default() -> Self {
        Self {
            messages: VecDeque::new(),
            bytes: 0,
            draining: 0,
            window: usize::MAX,
            conflict_round: 0,
        }
    }
}

impl Inflights {
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether no further message may be sent.
    pub(super) fn is_full(&self, max_messages: usize, max_bytes: u64) -> bool {
        max_messages.min(self.window) <= self.messages.len() || max_bytes <= self.bytes
    }

    pub(super) fn push(&mut self, last: LogIndex, cost_bytes: u64, sent_at: Time) {
        self.messages.push_back(Inflight { last, cost_bytes, sent_at });
        self.bytes += cost_bytes;
    }

    /// Everything up to `index` has arrived.
    pub(super) fn acknowledge(&mut self, index: LogIndex) {
        while self.messages.front().is_some_and(|sent| sent.last <= index) {
            if let Some(sent) = self.messages.pop_front() {
                self.bytes -= sent.cost_bytes;
                self.window = self.window.saturating_add(1);
            }
        }
        self.draining = self.draining.min(self.messages.len());
    }

    /// Whether a response to a request of `round` tells of the conflict that last emptied the window.
    pub(super) fn is_known_conflict(&self, round: u64) -> bool {
        round <= self.conflict_round
    }

    /// A conflict empties the window.
    pub(super) fn conflict(&mut self, newest_round: u64) {
        self.conflict_round = newest_round;
        self.window = (self.messages.len() / 2).max(1);
        self.clear();
    }

    /// Whether the oldest message was sent before `asked_before` and the follower, which has accepted
    /// everything up to `accepted`, has not got it.
    pub(super) fn has_lost_message(
        &self,
        accepted: LogIndex,
        asked_before: impl Fn(Time) -> bool,
    ) -> bool {
        self.messages.front().is_some_and(|sent| accepted < sent.last && asked_before(sent.sent_at))
    }

    /// The rules have changed: more may be in flight than they allow now.
    pub(super) fn let_drain(&mut self) {
        self.draining = self.messages.len();
    }

    pub(super) fn clear(&mut self) {
        self.messages.clear();
        self.bytes = 0;
        self.draining = 0;
    }

    pub(super) fn assert_invariants(&self, max_messages: usize) {
        let most = max_messages.max(self.draining);
        assert!(self.messages.len() <= most, "I5: window overrun");
    }
}
