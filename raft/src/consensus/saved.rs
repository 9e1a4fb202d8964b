//! What a server finds on its disk when it starts.

use super::{log_view::LogView, membership::Membership};
use crate::{
    configuration::IndexedConfiguration,
    log::{Entry, LogId},
    stable::HardState,
};

/// The durable state of a server, read back at start: made from its hard state and newest snapshot,
/// then fed every entry of its log.
#[derive(Clone, Debug)]
pub struct Saved {
    pub(super) hard_state: HardState,
    pub(super) log: LogView,
    pub(super) membership: Membership,
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
        Self { hard_state, log: LogView::new(snapshot), membership: Membership::new(configuration) }
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
        for entry in entries {
            self.membership.append(entry);
        }
    }
}
