//! Which configuration is in force: the latest one in the log, committed or not (thesis §4.1).

use crate::{
    configuration::{Configuration, IndexedConfiguration, Server, ServerId},
    log::{Entry, EntryPayload, LogIndex},
};

/// The two configurations a server can need.
#[derive(Clone, Debug, Default)]
pub(super) struct Membership {
    /// The configuration before `latest`, or equal to it. A leader only appends a configuration
    /// when the one before is committed, so this one always is, and truncation can remove
    /// `latest` but never this one.
    committed: IndexedConfiguration,
    /// The newest configuration in the log: the one in force.
    latest: IndexedConfiguration,
}

impl Membership {
    pub(super) fn new(snapshot: IndexedConfiguration) -> Self {
        Self { committed: snapshot.clone(), latest: snapshot }
    }

    /// Takes over the configuration of a snapshot that replaces the log.
    pub(super) fn install(&mut self, snapshot: IndexedConfiguration) {
        *self = Self::new(snapshot);
    }

    pub(super) fn latest(&self) -> &IndexedConfiguration {
        &self.latest
    }

    pub(super) fn committed(&self) -> &IndexedConfiguration {
        &self.committed
    }

    pub(super) fn voters(&self) -> &Configuration {
        &self.latest.configuration
    }

    pub(super) fn is_voter(&self, id: &ServerId) -> bool {
        self.latest.configuration.is_voter(id)
    }

    /// Whether the server may campaign: it votes in the configuration in force, or in the one
    /// before while that is not known to be replaced for good. A leader that was removing itself may
    /// be the only one whose log is long enough to win (thesis §4.2.2).
    pub(super) fn may_campaign(&self, id: &ServerId) -> bool {
        self.is_voter(id) || self.committed.configuration.is_voter(id)
    }

    /// Whether `latest` is not known to be committed.
    pub(super) fn is_changing(&self) -> bool {
        self.committed.index < self.latest.index
    }

    /// Takes in an appended entry; returns whether it changed the configuration.
    pub(super) fn append(&mut self, entry: &Entry) -> bool {
        let EntryPayload::Configuration(configuration) = &entry.payload else { return false };
        let next =
            IndexedConfiguration { index: entry.index, configuration: configuration.clone() };
        if next.index <= self.latest.index {
            return false;
        }
        self.committed = std::mem::replace(&mut self.latest, next);
        true
    }

    /// Falls back when the entry of `latest` is truncated; returns whether it was.
    pub(super) fn truncate(&mut self, from: LogIndex) -> bool {
        if self.latest.index < from {
            return false;
        }
        assert!(self.committed.index < from, "I8: truncation of a committed configuration");
        self.latest = self.committed.clone();
        true
    }

    /// Takes in the commit index; returns whether it committed `latest`.
    pub(super) fn commit(&mut self, commit_index: LogIndex) -> bool {
        if !self.is_changing() || commit_index < self.latest.index {
            return false;
        }
        self.committed = self.latest.clone();
        true
    }

    /// Every server that still matters, without `me`: the members in force, and those being
    /// removed until their removal is committed, so that they learn of it.
    pub(super) fn peers(&self, me: &ServerId) -> Vec<Server> {
        let latest = &self.latest.configuration;
        let leaving = self
            .committed
            .configuration
            .servers()
            .iter()
            .filter(|server| self.is_changing() && latest.server(&server.id).is_none());
        latest.servers().iter().chain(leaving).filter(|server| server.id != *me).cloned().collect()
    }
}

#[cfg(test)]
mod tests;
