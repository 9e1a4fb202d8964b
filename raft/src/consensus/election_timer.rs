//! How long a server that does not lead has been waiting for a leader.

use super::time::Time;

/// How long a server that does not lead has been waiting.
#[derive(Clone, Debug)]
pub(super) struct ElectionTimer {
    /// The last word from a leader of the current term, or of the term before on the way to a vote.
    pub(super) leader_contact: Option<Time>,
    /// What `deadline` was counted from.
    pub(super) waiting_since: Time,
    /// When the server gives up waiting.
    pub(super) deadline: Time,
    /// Whether it has waited longer than others for a leader since it knew of one.
    pub(super) has_let_others_go_first: bool,
}

impl ElectionTimer {
    pub(super) fn new(now: Time) -> Self {
        Self {
            leader_contact: None,
            waiting_since: now,
            deadline: now,
            has_let_others_go_first: false,
        }
    }
}
