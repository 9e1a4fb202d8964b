//! Moves the commit index forward, and hands out what the state machine may apply.
//!
//! Source: paper Figure 2 (commitIndex, lastApplied), thesis §3.6.2.

use super::{
    Consensus,
    action::{Action, WriteId},
    commit_state::CommitState,
    time::Time,
};
use crate::position::{LogId, LogIndex};

impl Consensus {
    /// Moves the commit index forward, never back (law 6).
    pub(super) fn commit_to(&mut self, now: Time, index: LogIndex) {
        if index <= self.commit.index {
            return;
        }
        assert!(index <= self.log.last().index, "commit {index} beyond the log");
        self.commit.index = index;
        let is_settled = self.membership.commit(index);
        self.emit_commit();
        if is_settled {
            self.configuration_committed(now);
            self.emit_peers();
        }
    }

    /// Hands out what is committed and durable here (I1).
    pub(super) fn emit_commit(&mut self) {
        let up_to = self.commit.index.min(self.log.stable());
        if self.commit.applying < up_to && self.commit.restoring.is_none() {
            self.commit.applying = up_to;
            self.actions.push_back(Action::Commit { up_to });
        }
    }

    /// The log was reset for the adopted snapshot: the state machine may follow.
    pub(super) fn emit_restore(&mut self) {
        let is_reset = |(reset, _): &mut (WriteId, LogId)| *reset <= self.writes.written;
        if let Some((_, snapshot)) = self.commit.restoring.take_if(is_reset) {
            self.commit.applying = snapshot.index;
            self.actions.push_back(Action::Restore { snapshot });
        }
    }

    /// The state machine has applied everything up to `index`.
    ///
    /// # Panics
    /// If that was never handed out, or `index` falls (law 6).
    pub fn handle_applied(&mut self, _now: Time, index: LogIndex) {
        let CommitState { applying, applied, .. } = &mut self.commit;
        assert!(index <= *applying, "I1: applied {index} beyond {applying}");
        assert!(*applied <= index, "law 6: last applied falls to {index}");
        *applied = index;
    }
}
