//! How far the log is committed, handed out and applied.

use super::{action::WriteId, due::Due, time::Time};
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
    pub(super) restoring: Option<(WriteId, LogId)>,
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
