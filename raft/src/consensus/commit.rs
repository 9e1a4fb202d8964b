//! How far the log is committed, handed out and applied on this server.
//!
//! Source: paper Figure 2 (commitIndex, lastApplied), thesis §3.6.2.

use super::{
    Consensus,
    action::{Action, WriteId},
    due::Due,
    time::Time,
};
use crate::position::{LogId, LogIndex};

/// Always `applied` ≤ `applying` ≤ `index` (I1). None of the three falls (law 6).
#[derive(Clone, Debug)]
pub(super) struct CommitState {
    /// The highest index known to be committed.
    pub(super) index: LogIndex,
    /// The highest index handed out by `Action::Commit`.
    pub(super) applying: LogIndex,
    /// The highest index reported as applied.
    pub(super) applied: LogIndex,
    /// The highest index up to which the log is known to equal that of the current term's leader;
    /// zero in a new term (law 11).
    pub(super) matched: LogIndex,
    /// A snapshot that has been adopted, and the write that resets the log for it: the state
    /// machine follows when that is durable.
    restoring: Option<(WriteId, LogId)>,
    /// What the state machine must have applied by now, so that this server could serve.
    pub(super) due: Due,
}

impl CommitState {
    pub(super) fn new(index: LogIndex, applied: LogIndex, now: Time) -> Self {
        Self {
            index,
            applying: applied,
            applied,
            matched: LogIndex::ZERO,
            restoring: None,
            due: Due::new(index, now),
        }
    }

    /// A durable snapshot, up to which all is committed, takes the place of the log; the state machine
    /// follows when the write that resets the log is durable.
    pub(super) fn adopt(&mut self, now: Time, snapshot: LogId, reset: WriteId) {
        self.due = Due::new(snapshot.index, now);
        self.restoring = Some((reset, snapshot));
    }
}

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
