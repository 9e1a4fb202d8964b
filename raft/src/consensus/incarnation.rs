//! Which disk a server runs on: whom to believe, and how the configuration comes to know it.
//!
//! A server whose disk was wiped, or exchanged for another one's, has forgotten its vote and what it
//! acknowledged; under its old name it could help to elect a leader that lacks what is committed
//! (laws 1, 4, 7). So a member is a name *and* an incarnation, the random number of its disk, as soon
//! as the leader has recorded that in the configuration.
//!
//! **Whom to believe** is asked once, where messages enter, before the rest of the core sees them:
//! [`Consensus::admit`].
//!
//! | message | must the sender be whom this server knows? | must this server be whom the sender knows? |
//! |---|---|---|
//! | an answer: it is counted here, in the majorities of the configuration here | yes | no: the sender may not know yet that this server was rejoined |
//! | a leader's | no: it was elected by majorities that were checked, and this server may be behind | yes |
//! | a request for a vote | yes, unless its log is longer: then this server may be behind | yes |
//!
//! **How it is known.** Servers are added with the incarnation 0. The leader notes what its peers
//! say of themselves in answers to heartbeats, and at a heartbeat appends a configuration that differs
//! in nothing else. It is an entry like any other change of membership, so it waits for its turn.
//!
//! **Before that** a disk that is empty cannot be told from one that was wiped. A server with such a
//! disk votes only for candidates that know it (and then it has a term: it has answered a leader), or
//! whose log ends with the entry that bootstraps a cluster, and then for the same candidate again as long
//! as that has got nothing but what it has led itself; otherwise a leader has to come first.

use super::{Consensus, time::Time};
use crate::{
    configuration::{Configuration, ServerId},
    log::{EntryPayload, LogId, LogIndex, Term},
    rpc::{Envelope, HeartbeatReply, Message},
};

/// Why a message is not to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
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
    /// candidate's log is not that of a new cluster.
    Empty,
}

impl Consensus {
    /// Which disk this server runs on; 0 if its store keeps no incarnation.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Whether a message may be believed, and so be passed to
    /// [`handle_message`](Self::handle_message). Changes nothing.
    ///
    /// # Errors
    /// [`Mismatch`]: the message must be dropped.
    pub fn admit(&self, envelope: &Envelope) -> Result<(), Mismatch> {
        let Envelope { from, incarnation, expects, message, .. } = envelope;
        if !message.is_answer() && *expects != 0 && *expects != self.incarnation {
            let is_outdated = message.term() < self.term()
                || matches!(message, Message::RequestVote(_)) && self.is_recorded();
            return Err(Mismatch::Receiver { recorded: *expects, is_outdated });
        }
        let is_sender_checked = match message {
            Message::RequestVote(request) => {
                if (*expects == 0 || self.term() == Term(0))
                    && self.is_blank()
                    && LogIndex(1) < request.last.index
                    && !self.has_made_leader(from, request.last)
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

    /// The sender of this message, which was admitted and is about to be
    /// [handled](Self::handle_message), runs on this disk.
    pub fn handle_incarnation(&mut self, from: &ServerId, incarnation: u64, message: &Message) {
        match message {
            Message::HeartbeatReply(reply) => self.learn_incarnation(from, incarnation, reply),
            Message::RequestVote(request) if request.is_pre_vote => {}
            Message::Heartbeat(_) | Message::RequestVote(_) | Message::RequestVoteReply(_) => {
                self.note_term(from, incarnation, message.term());
            }
            _ => {}
        }
    }

    /// A leader that did not know records it: with the next change of the configuration, or at a
    /// heartbeat.
    ///
    /// Only the answer to a question asked since the sender is a member counts: a late one may be of
    /// an earlier membership, and of another disk.
    fn learn_incarnation(&mut self, from: &ServerId, incarnation: u64, reply: &HeartbeatReply) {
        let is_wanted = incarnation != 0
            && reply.term == self.term()
            && self
                .membership
                .latest()
                .configuration
                .server(from)
                .is_some_and(|server| server.incarnation == 0);
        let Some(leader) = self.role.leader_mut().filter(|_| is_wanted) else { return };
        let Some(progress) = leader.peers.get(from) else { return };
        if progress.is_current(reply.round) && reply.round <= leader.round {
            leader.incarnations.entry(from.clone()).or_insert(incarnation);
        }
    }

    /// Records every incarnation that is known by now and not in the configuration, if a change of
    /// membership is possible.
    pub(super) fn record_incarnations(&mut self, now: Time) {
        let Some(leader) = self.role.leader() else { return };
        if self.commit_index < leader.term_start
            || self.membership.is_changing()
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
        self.membership.may_campaign(&self.rules.id) && !self.is_recorded_otherwise()
    }

    pub(super) fn is_recorded_otherwise(&self) -> bool {
        let recorded = self.recorded(&self.rules.id);
        recorded != 0 && recorded != self.incarnation
    }

    /// Whether the configuration knows this server by its disk.
    fn is_recorded(&self) -> bool {
        self.incarnation != 0 && self.recorded(&self.rules.id) == self.incarnation
    }

    /// Whether this server keeps an incarnation and has nothing else: it knows of no cluster.
    fn is_blank(&self) -> bool {
        self.incarnation != 0 && self.membership.latest().configuration.is_empty()
    }

    /// Whether this server, with nothing but that vote, has voted for the candidate, and the candidate has
    /// the log that it had then, or one that ends with what it has led since. Its log was that of a new
    /// cluster at first, so that is all it has: it may have lost the leadership before anybody had heard
    /// from it.
    pub(super) fn has_made_leader(&self, candidate: &ServerId, last: LogId) -> bool {
        self.hard_state.voted_for.as_ref() == Some(candidate)
            && (last.term == self.term() || self.voted_for_log == Some(last))
    }

    /// The incarnation that the configuration in force has for a server; 0 if it has none.
    pub(super) fn recorded(&self, id: &ServerId) -> u64 {
        self.membership.latest().configuration.server(id).map_or(0, |server| server.incarnation)
    }
}

#[cfg(test)]
mod tests;
