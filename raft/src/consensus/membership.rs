//! Which configuration is in force: the latest one in the log, committed or not (thesis §4.1).

use std::collections::VecDeque;

use crate::{
    configuration::{Configuration, IndexedConfiguration, Server, ServerId},
    log::{Entry, EntryPayload},
    position::LogIndex,
};

/// The configurations a server can need, oldest first: one that is committed, and those after it that
/// are not known to be. There are three at most: the committed one, one that records disks, and one that
/// changes the members.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    in_force: VecDeque<InForce>,
}

#[derive(Clone, Debug, Default)]
struct InForce {
    it: IndexedConfiguration,
    /// Since which configuration the members are these. What was recorded of their disks since changes
    /// nothing for whoever has looked at them: any index from here on names this configuration.
    since: LogIndex,
}

impl Default for Membership {
    fn default() -> Self {
        Self::new(IndexedConfiguration::default())
    }
}

impl Membership {
    pub(super) fn new(snapshot: IndexedConfiguration) -> Self {
        let since = snapshot.index;
        Self { in_force: VecDeque::from([InForce { it: snapshot, since }]) }
    }

    /// Takes over the configuration of a snapshot that replaces the log.
    pub(super) fn install(&mut self, snapshot: IndexedConfiguration) {
        *self = Self::new(snapshot);
    }

    fn newest(&self) -> &InForce {
        // There is always one; an empty queue would be a broken law, which may end the node.
        &self.in_force[self.in_force.len() - 1]
    }

    /// The newest configuration in the log: the one in force.
    pub(super) fn latest(&self) -> &IndexedConfiguration {
        &self.newest().it
    }

    /// The newest one known to be committed: truncation never removes it.
    pub(super) fn committed(&self) -> &IndexedConfiguration {
        &self.in_force[0].it
    }

    pub(super) fn voters(&self) -> &Configuration {
        &self.latest().configuration
    }

    pub(super) fn is_voter(&self, id: &ServerId) -> bool {
        self.voters().is_voter(id)
    }

    /// Whether the server may campaign: it votes in the configuration in force, or in the one
    /// before while that is not known to be replaced for good. A leader that was removing itself may
    /// be the only one whose log is long enough to win (thesis §4.2.2).
    pub(super) fn may_campaign(&self, id: &ServerId) -> bool {
        self.is_voter(id) || self.committed().configuration.is_voter(id)
    }

    /// Whether a change of the members is not known to be committed.
    pub(super) fn is_changing(&self) -> bool {
        self.committed().index < self.newest().since
    }

    /// Whether `latest` is not known to be committed, whatever it changes.
    pub(super) fn is_unsettled(&self) -> bool {
        self.in_force.len() > 1
    }

    /// Whether this is where the latest configuration stands, for somebody who has looked at its members.
    pub(super) fn is_latest(&self, index: LogIndex) -> bool {
        (self.newest().since..=self.latest().index).contains(&index)
    }

    /// Takes in an appended entry; returns whether it changed the configuration.
    pub(super) fn append(&mut self, entry: &Entry) -> bool {
        let EntryPayload::Configuration(configuration) = &entry.payload else { return false };
        if entry.index <= self.latest().index {
            return false;
        }
        let is_record = configuration.has_members_of(&self.latest().configuration);
        // A leader appends a change when the one before is committed, and a record when everything is.
        let committed = if is_record { self.latest().index } else { self.newest().since };
        self.commit(committed);
        let since = if is_record { self.newest().since } else { entry.index };
        let configuration = configuration.clone();
        let it = IndexedConfiguration { index: entry.index, configuration };
        self.in_force.push_back(InForce { it, since });
        true
    }

    /// Falls back when the entry of `latest` is truncated; returns whether it was.
    pub(super) fn truncate(&mut self, from: LogIndex) -> bool {
        assert!(self.committed().index < from, "I6: truncation of a committed configuration");
        let before = self.in_force.len();
        self.in_force.retain(|configuration| configuration.it.index < from);
        self.in_force.len() < before
    }

    /// Takes in the commit index; returns whether it committed `latest`.
    pub(super) fn commit(&mut self, commit_index: LogIndex) -> bool {
        let before = self.in_force.len();
        while self.in_force.get(1).is_some_and(|next| next.it.index <= commit_index) {
            self.in_force.pop_front();
        }
        1 < before && self.in_force.len() == 1
    }

    /// Every server that still matters, without `me`: the members in force, and those being
    /// removed until their removal is committed, so that they learn of it.
    pub(super) fn peers(&self, me: &ServerId) -> Vec<Server> {
        let latest = &self.latest().configuration;
        let before = self.committed().configuration.servers().iter();
        let leaving = before.filter(|server| latest.server(&server.id).is_none());
        latest.servers().iter().chain(leaving).filter(|server| server.id != *me).cloned().collect()
    }
}

#[cfg(test)]
mod tests;
