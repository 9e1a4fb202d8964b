//! Disks are recorded in the configuration.
//!
//! A member is a name *and* an incarnation, the random number of its disk, as soon as the leader has
//! recorded that in the configuration. Servers are added with the incarnation 0. The leader notes what its
//! peers say of themselves in answers to heartbeats, and at a heartbeat appends a configuration that differs
//! in nothing else: a record. It changes no majority, so a change of the members need not wait for it, nor
//! does a caller that compares the index of the configuration notice it. No server becomes a voter by a change
//! before that much is known.
//!
//! Only the voters of a first configuration are unknown at first, and until then a disk that is empty
//! cannot be told from one that was wiped. A server with such a disk votes only for candidates that know it
//! (and then it has a term: it has answered a leader), or that have no newer configuration than the first.

use super::super::{Consensus, refusal::ChangeRefusal, time::Time};
use crate::{
    configuration::{ClusterId, Configuration, ServerId},
    log::EntryPayload,
    rpc::{Envelope, Message},
};

impl Consensus {
    /// Which disk this server runs on; 0 if its store keeps no incarnation.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.disk.incarnation
    }

    /// Which cluster this server belongs to; [`ClusterId::NONE`] as long as it knows of none.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.membership.latest().configuration.cluster()
    }

    /// A leader that did not know the sender's disk records it: with the next change of the
    /// configuration, or at a heartbeat.
    ///
    /// Only the answer to a question asked since the sender is a member counts: a late one may be of
    /// an earlier membership, and of another disk.
    pub(in crate::consensus) fn learn_incarnation(&mut self, envelope: &Envelope) {
        let Envelope { from, incarnation, message, .. } = envelope;
        let Message::HeartbeatReply(reply) = message else { return };
        let is_unknown = *incarnation != 0
            && reply.term == self.term()
            && self.recorded(from) == 0
            && self.membership.latest().configuration.server(from).is_some();
        let Some(leader) = self.role.leader_mut().filter(|_| is_unknown) else { return };
        let Some(progress) = leader.peers.get(from) else { return };
        if progress.is_current(reply.round) && reply.round <= leader.round {
            leader.incarnations.entry(from.clone()).or_insert(*incarnation);
        }
    }

    /// Nobody becomes a voter who was not heard from: its disk would not be known, and if it is empty it
    /// could not even help to elect this server again.
    pub(in crate::consensus) fn check_new_voters(
        &self,
        next: &Configuration,
    ) -> Result<(), ChangeRefusal> {
        let Some(leader) = self.role.leader().filter(|_| self.disk.incarnation != 0) else {
            return Ok(());
        };
        let was_heard = |id: &ServerId| {
            leader.peers.get(id).is_some_and(|progress| progress.liveness.round_trip.is_some())
        };
        let is_new = |id: &ServerId| !self.membership.is_voter(id) && *id != self.rules.id;
        let mut unheard =
            next.voters().filter(|it| it.incarnation == 0 && is_new(&it.id) && !was_heard(&it.id));
        match unheard.next() {
            Some(server) => Err(ChangeRefusal::Unheard { id: server.id.clone() }),
            None => Ok(()),
        }
    }

    /// Records every incarnation that is known by now and not in the configuration, if a change of
    /// membership is possible.
    pub(in crate::consensus) fn record_incarnations(&mut self, now: Time) {
        let Some(leader) = self.role.leader() else { return };
        if self.commit.index < leader.term_start
            || self.membership.is_unsettled()
            || self.check_proposals().is_err()
        {
            return;
        }
        let latest = &self.membership.latest().configuration;
        let is_news = |id: &ServerId| self.known_incarnation(id).is_some();
        if latest.servers().iter().any(|server| server.incarnation == 0 && is_news(&server.id)) {
            let next = self.with_known_incarnations(latest);
            self.append(now, vec![EntryPayload::Configuration(next)]);
            self.replicate_all(now);
            self.advance_commit(now);
        }
    }

    /// The same configuration with every incarnation that is known by now.
    pub(in crate::consensus) fn with_known_incarnations(
        &self,
        configuration: &Configuration,
    ) -> Configuration {
        configuration.with_incarnations(|id| self.known_incarnation(id))
    }

    fn known_incarnation(&self, id: &ServerId) -> Option<u64> {
        if *id == self.rules.id {
            return Some(self.disk.incarnation).filter(|incarnation| *incarnation != 0);
        }
        self.role.leader()?.incarnations.get(id).copied()
    }

    /// Whether this disk cannot stand for the member.
    pub(in crate::consensus) fn is_stranger(&self) -> bool {
        self.is_recorded_otherwise() || self.is_barred()
    }

    /// Whether this disk was an older copy of the member that a configuration of before disks were
    /// recorded still takes it for.
    pub(in crate::consensus) fn is_barred(&self) -> bool {
        self.disk.was_rolled_back && !self.is_recorded()
    }

    pub(in crate::consensus) fn is_recorded_otherwise(&self) -> bool {
        let recorded = self.recorded(&self.rules.id);
        recorded != 0 && recorded != self.disk.incarnation
    }

    /// Whether the configuration knows this server by its disk.
    pub(super) fn is_recorded(&self) -> bool {
        self.disk.incarnation != 0 && self.recorded(&self.rules.id) == self.disk.incarnation
    }

    /// Whether this server keeps an incarnation and knows of no cluster: it has nothing else, but perhaps a
    /// term and a vote.
    pub(in crate::consensus) fn is_empty(&self) -> bool {
        self.disk.incarnation != 0 && self.membership.latest().configuration.is_empty()
    }

    /// The incarnation that the configuration in force has for a server; 0 if it has none.
    pub(in crate::consensus) fn recorded(&self, id: &ServerId) -> u64 {
        self.membership.latest().configuration.server(id).map_or(0, |server| server.incarnation)
    }
}

#[cfg(test)]
mod tests;
