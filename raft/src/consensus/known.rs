//! What is remembered of the members' disks.

use std::collections::BTreeSet;

use super::time::Time;
use crate::{
    configuration::ServerId,
    position::{LogId, Term},
    rpc::Promised,
};

/// What is known of a member's disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// Its newest life that was heard from: earlier ones are over.
    pub(super) life: u64,
    /// The furthest it has promised, in whichever life.
    pub(super) promised: Promised,
}

/// The question that a server asks everybody when it starts.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// Who has not answered.
    pub(super) unanswered: BTreeSet<ServerId>,
    /// Until when it waits for them.
    pub(super) due: Time,
    pub(super) ask_again_at: Time,
}

impl Known {
    /// Keeps the promise of its newest life, unless the disk has promised as much before.
    pub(super) fn note(&mut self, term: Term, matched: LogId) {
        let before = &mut self.promised;
        if (before.term, before.matched.index) < (term, matched.index) {
            *before = Promised { life: self.life, term, matched, ..*before };
        }
    }
}
