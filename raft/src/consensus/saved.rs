//! What a server finds on its disk when it starts.

use super::{log_view::LogView, membership::Membership};
use crate::{
    configuration::{ClusterId, IndexedConfiguration},
    log::Entry,
    position::{LogId, LogIndex},
    stable::HardState,
};

/// The durable state of a server, read back at start: made from its hard state and newest snapshot,
/// then fed every entry of its log.
#[derive(Clone, Debug)]
pub struct Saved {
    pub(super) hard_state: HardState,
    pub(super) incarnation: u64,
    pub(super) life: u64,
    pub(super) was_rolled_back: bool,
    pub(super) log: LogView,
    pub(super) membership: Membership,
    pub(super) commit_index: LogIndex,
    pub(super) last_applied: LogIndex,
}

impl Saved {
    /// Begins with the hard state (default on a fresh server), the last entry covered by the newest
    /// snapshot ([`LogId::ZERO`] without one) and that snapshot's configuration.
    #[must_use]
    pub fn new(
        hard_state: HardState,
        snapshot: LogId,
        configuration: IndexedConfiguration,
    ) -> Self {
        Self {
            hard_state,
            incarnation: 0,
            life: 0,
            was_rolled_back: false,
            log: LogView::new(snapshot),
            membership: Membership::new(configuration),
            commit_index: snapshot.index,
            last_applied: snapshot.index,
        }
    }

    /// Notes which disk this is, and which start from it: see [`Identity`](crate::Identity).
    pub fn disk(&mut self, incarnation: u64, life: u64) {
        self.incarnation = incarnation;
        self.life = life;
    }

    /// Notes that the disk is known to be an older copy: the server takes part in elections when the
    /// configuration knows it by its incarnation, and not before.
    pub fn rolled_back(&mut self) {
        self.was_rolled_back = true;
    }

    /// Which cluster it is of; [`ClusterId::NONE`] if it has no configuration.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.membership.latest().configuration.cluster()
    }

    /// Notes that the log is known to be committed up to `index`; the part of it that the log has
    /// is handed out without waiting for a leader.
    pub fn committed(&mut self, index: LogIndex) {
        self.commit_index = self.commit_index.max(index);
    }

    /// Notes that the state machine has kept by itself what was applied up to `index`: it is not
    /// handed out again.
    pub fn applied(&mut self, index: LogIndex) {
        self.last_applied = self.last_applied.max(index);
    }

    /// The last entry so far.
    #[must_use]
    pub fn last(&self) -> LogId {
        self.log.last()
    }

    /// Takes in the next entries of the log, in order. The first one of all has at most the index
    /// after the snapshot.
    ///
    /// # Panics
    /// If the entries leave a gap.
    pub fn push(&mut self, entries: &[Entry]) {
        self.log.restore(entries);
        // Up to where it ends, the snapshot knows better than a log that may contradict it.
        let snapshot = self.log.snapshot().index;
        for entry in entries.iter().filter(|entry| snapshot < entry.index) {
            self.membership.append(entry);
        }
    }
}
