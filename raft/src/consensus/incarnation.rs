//! The door: whose message counts. A message has to be of this cluster, from the disk that the
//! configuration knows, and of the newest life of that disk; [`Consensus::admit`] asks all three before
//! the rest of the core sees it.
//!
//! **The cluster** is a number in every configuration, made at the bootstrap, see
//! [`ClusterId`]. What comes from another one is dropped, whatever it says. A server that has no
//! configuration belongs to none yet: it joins the cluster whose leader is the first to add it, hears no other
//! as long as it follows that one, and all it has to say before are answers.
//!
//! **The disk.** A server whose disk was wiped, or exchanged for another one's, has forgotten its vote and
//! what it acknowledged; under its old name it could help to elect a leader that lacks what is committed
//! (laws 1, 4, 7). So a member is a name *and* an incarnation, the random number of its disk, as soon
//! as the leader has recorded that in the configuration.
//!
//! | message | must the sender be whom this server knows? | must this server be whom the sender knows? |
//! |---|---|---|
//! | an answer: it is counted here, in the majorities of the configuration here | yes | no: the sender may not know yet that this server was rejoined |
//! | a leader's | no: it was elected by majorities that were checked, and this server may be behind | yes |
//! | a request for a vote | yes, unless its log is longer: then this server may be behind | yes |
//!
//! Servers are added with the incarnation 0. The leader notes what its peers say of themselves in answers
//! to heartbeats, and at a heartbeat appends a configuration that differs in nothing else: a record. It
//! changes no majority, so a change of the members need not wait for it, nor does whoever compares the
//! index of the configuration notice it. Nobody becomes a voter by a change before that much is known.
//!
//! Only the voters of a first configuration are unknown at first, and until then a disk that is empty
//! cannot be told from one that was wiped. A server with such a disk votes only for candidates that know it
//! (and then it has a term: it has answered a leader), or that have no newer configuration than the first.
//!
//! **The life** is what [`promised`](super::promised) is about.

use super::{Consensus, refusal::ChangeRefusal, time::Time};
use crate::{
    configuration::{ClusterId, Configuration, ServerId},
    log::EntryPayload,
    position::{LogIndex, Term},
    rpc::{Envelope, Message},
};

/// Why a message is not to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// Its sender belongs to another cluster.
    Cluster {
        /// Which one; [`ClusterId::NONE`] if to none, which has nothing to say but answers.
        sender: ClusterId,
    },
    /// It is of an earlier life of its sender: a late message, or the sender runs on an older copy of its
    /// disk and has not heard yet that it does.
    Over,
    /// Its sender runs on another disk than the one that is recorded here for it.
    Sender {
        /// The incarnation that is recorded.
        recorded: u64,
    },
    /// This server runs on another disk than the one the sender knows it by.
    Receiver {
        /// The incarnation that the sender knows.
        recorded: u64,
        /// Whether the sender is one that has not learned of the newest membership: then nothing is
        /// wrong here.
        is_outdated: bool,
    },
    /// This server has an empty disk that the candidate does not know, or knows from before, and the
    /// candidate's cluster is not new.
    Empty,
}

impl Consensus {
    /// Which disk this server runs on; 0 if its store keeps no incarnation.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Which cluster this server belongs to; [`ClusterId::NONE`] as long as it knows of none.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.membership.latest().configuration.cluster()
    }

    /// Whether a message may be believed. Changes nothing.
    ///
    /// # Errors
    /// [`Mismatch`]: the message must be dropped.
    pub fn admit(&self, envelope: &Envelope) -> Result<(), Mismatch> {
        let Envelope { from, cluster, incarnation, expects, message, .. } = envelope;
        let is_newcomer = !cluster.is_some() && message.is_answer();
        if self.cluster().is_some() && *cluster != self.cluster() && !is_newcomer {
            return Err(Mismatch::Cluster { sender: *cluster });
        }
        // Who belongs to none yet, but follows a leader, is about to join that one's.
        let is_courted = !self.cluster().is_some() && self.leader.is_some();
        if is_courted && self.courted.is_some() && *cluster != self.courted {
            return Err(Mismatch::Cluster { sender: *cluster });
        }
        if self.is_over(envelope) {
            return Err(Mismatch::Over);
        }
        if !message.is_answer() && *expects != 0 && *expects != self.incarnation {
            let is_outdated = message.term() < self.term()
                || matches!(message, Message::RequestVote(_)) && self.is_recorded();
            return Err(Mismatch::Receiver { recorded: *expects, is_outdated });
        }
        let is_sender_checked = match message {
            Message::RequestVote(request) => {
                if (*expects == 0 || self.term() == Term(0))
                    && self.is_empty()
                    && LogIndex(1) < request.configuration_index
                {
                    return Err(Mismatch::Empty);
                }
                request.last <= self.log.last()
            }
            message => message.is_answer(),
        };
        match self.recorded(from) {
            recorded if is_sender_checked && recorded != 0 && recorded != *incarnation => {
                Err(Mismatch::Sender { recorded })
            }
            _ => Ok(()),
        }
    }

    /// A leader that did not know the sender's disk records it: with the next change of the
    /// configuration, or at a heartbeat.
    ///
    /// Only the answer to a question asked since the sender is a member counts: a late one may be of
    /// an earlier membership, and of another disk.
    pub(super) fn learn_incarnation(&mut self, envelope: &Envelope) {
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
    pub(super) fn check_new_voters(&self, next: &Configuration) -> Result<(), ChangeRefusal> {
        let Some(leader) = self.role.leader().filter(|_| self.incarnation != 0) else {
            return Ok(());
        };
        let was_heard = |id: &ServerId| {
            leader.peers.get(id).is_some_and(|progress| progress.round_trip.is_some())
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
    pub(super) fn record_incarnations(&mut self, now: Time) {
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
    pub(super) fn with_known_incarnations(&self, configuration: &Configuration) -> Configuration {
        configuration.with_incarnations(|id| self.known_incarnation(id))
    }

    fn known_incarnation(&self, id: &ServerId) -> Option<u64> {
        if *id == self.rules.id {
            return Some(self.incarnation).filter(|incarnation| *incarnation != 0);
        }
        self.role.leader()?.incarnations.get(id).copied()
    }

    /// Forgets what is recorded by now, and what was heard of those that are no members any more:
    /// they may come back on another disk.
    pub(super) fn forget_incarnations(&mut self) {
        let latest = &self.membership.latest().configuration;
        let Some(leader) = self.role.leader_mut() else { return };
        leader
            .incarnations
            .retain(|id, _| latest.server(id).is_some_and(|server| server.incarnation == 0));
    }

    /// Whether this server may campaign: not when its configuration knows it by another disk. Either
    /// this one belongs to another server, or the log has not come to where this one was rejoined.
    pub(super) fn may_campaign(&self) -> bool {
        self.membership.may_campaign(&self.rules.id) && !self.is_stranger()
    }

    /// Whether this disk cannot stand for the member.
    pub(super) fn is_stranger(&self) -> bool {
        self.is_recorded_otherwise() || self.is_barred()
    }

    /// Whether this disk was an older copy of the member that a configuration of before disks were
    /// recorded still takes it for.
    pub(super) fn is_barred(&self) -> bool {
        self.was_rolled_back && !self.is_recorded()
    }

    pub(super) fn is_recorded_otherwise(&self) -> bool {
        let recorded = self.recorded(&self.rules.id);
        recorded != 0 && recorded != self.incarnation
    }

    /// Whether the configuration knows this server by its disk.
    fn is_recorded(&self) -> bool {
        self.incarnation != 0 && self.recorded(&self.rules.id) == self.incarnation
    }

    /// Whether this server keeps an incarnation and knows of no cluster: it has nothing else, but perhaps a
    /// term and a vote.
    pub(super) fn is_empty(&self) -> bool {
        self.incarnation != 0 && self.membership.latest().configuration.is_empty()
    }

    /// The incarnation that the configuration in force has for a server; 0 if it has none.
    pub(super) fn recorded(&self, id: &ServerId) -> u64 {
        self.membership.latest().configuration.server(id).map_or(0, |server| server.incarnation)
    }
}

#[cfg(test)]
mod tests;
