//! The two doors: which messages count, and what the others are told.
//!
//! A message has to be of this cluster, from the disk that the configuration knows, and of the newest life
//! of that disk. **The cluster** is a number in every configuration, made at the bootstrap, see
//! [`ClusterId`]. A message from another cluster is dropped, whatever it says. A server that has no
//! configuration belongs to no cluster yet: it joins the cluster whose leader is the first to add it, hears no
//! other as long as it follows that leader, and until then sends nothing but answers.
//!
//! | message | must the sender be the one this server knows? | must this server be the one the sender knows? |
//! |---|---|---|
//! | an answer: it is counted here, in the majorities of the configuration here | yes | no: the sender may not know yet that this server was rejoined |
//! | a leader's | no: it was elected by majorities that were checked, and this server may be behind | yes |
//! | a request for a vote | yes, unless its log is longer: then this server may be behind | yes |

use super::super::{Consensus, time::Time};
use crate::{
    configuration::{ClusterId, ServerId},
    position::{LogId, LogIndex, Term},
    rpc::{Envelope, Message, Promised},
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

/// A message that was not admitted. Nothing was changed by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The message.
    pub envelope: Envelope,
    /// Why it does not count.
    pub mismatch: Mismatch,
}

impl Message {
    pub(super) fn promised(&self) -> Option<Promised> {
        match self {
            Self::Heartbeat(request) => request.promised,
            Self::RequestVote(request) => request.promised,
            Self::RequestVoteReply(reply) => reply.promised,
            _ => None,
        }
    }
}

impl Consensus {
    /// A message has arrived.
    ///
    /// # Errors
    /// [`Rejected`] if it is not of this cluster, or not of the disk it should be of. Nothing was changed.
    ///
    /// # Panics
    /// If the message proves that a law is broken, for example a second leader of one term.
    pub fn receive(&mut self, now: Time, envelope: Envelope) -> Result<(), Box<Rejected>> {
        match self.admit(&envelope) {
            Ok(()) => self.receive_admitted(now, envelope),
            Err(mismatch) => return Err(Box::new(Rejected { envelope, mismatch })),
        }
        Ok(())
    }

    pub(in crate::consensus) fn receive_admitted(&mut self, now: Time, envelope: Envelope) {
        self.learn_incarnation(&envelope);
        self.hear(&envelope);
        let Envelope { from, cluster, message, .. } = envelope;
        self.handle_message(now, &from, message);
        if self.leader.as_ref() == Some(&from) && !self.cluster().is_some() {
            self.disk.courted = cluster;
        }
    }

    /// Whether a message may be believed. Changes nothing.
    ///
    /// # Errors
    /// [`Mismatch`]: the message must be dropped.
    pub(in crate::consensus) fn admit(&self, envelope: &Envelope) -> Result<(), Mismatch> {
        let Envelope { from, cluster, incarnation, expects, message, .. } = envelope;
        let is_newcomer = !cluster.is_some() && message.is_answer();
        if self.cluster().is_some() && *cluster != self.cluster() && !is_newcomer {
            return Err(Mismatch::Cluster { sender: *cluster });
        }
        // Who belongs to none yet, but follows a leader, is about to join that one's.
        let is_courted = !self.cluster().is_some() && self.leader.is_some();
        if is_courted && self.disk.courted.is_some() && *cluster != self.disk.courted {
            return Err(Mismatch::Cluster { sender: *cluster });
        }
        if self.disk.is_over(envelope) {
            return Err(Mismatch::Over);
        }
        if !message.is_answer() && *expects != 0 && *expects != self.disk.incarnation {
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

    /// The sender of this message, which was admitted, is alive, and says in which term it is.
    pub(super) fn hear(&mut self, envelope: &Envelope) {
        let Envelope { from, incarnation, life, message, .. } = envelope;
        let (incarnation, life) = (*incarnation, *life);
        // Also of one whose disk is not recorded yet: what it promises until then is of this life.
        let recorded = self.membership.latest().configuration.server(from);
        let recorded = recorded.map(|member| member.incarnation);
        if incarnation == 0 || recorded.is_none_or(|it| it != 0 && it != incarnation) {
            return;
        }
        if !self.disk.has_met(from, incarnation, life) {
            // Of the life that is over now.
            self.note_promise(from);
            self.disk.meet(from, incarnation, life);
        }
        let says_its_term = match message {
            Message::RequestVote(request) => !request.is_pre_vote,
            Message::Heartbeat(_) | Message::RequestVoteReply(_) => true,
            _ => false,
        };
        if says_its_term {
            self.disk.note(from, message.term(), LogId::ZERO);
        }
    }

    /// What a message says of this server's own disk. Returns whether the rest of it counts.
    pub(in crate::consensus) fn heed(
        &mut self,
        now: Time,
        from: &ServerId,
        message: &Message,
    ) -> bool {
        self.disk.give_up_question(now, self.term());
        if self.disk.is_rolled_back {
            return false;
        }
        if let Some(promised) = message.promised().filter(|it| self.disk.falls_short_of(it)) {
            self.roll_back(from, promised);
            return false;
        }
        // An answer to an earlier life says nothing of what came after it (law 12).
        if matches!(message, Message::RequestVoteReply(reply) if reply.life == self.disk.life) {
            self.disk.answered(from, self.term());
        }
        true
    }

    /// What is said of disks in a message that leaves.
    pub(in crate::consensus) fn stamp(&mut self, to: &ServerId, message: &mut Message) {
        match message {
            Message::Heartbeat(request) => {
                self.note_promise(to);
                request.promised = self.disk.promised(to);
            }
            Message::RequestVote(request) => {
                request.promised = self.disk.promised(to);
                request.life = self.disk.life;
            }
            Message::RequestVoteReply(reply) => {
                self.note_promise(to);
                reply.promised = self.disk.promised_before(to, reply.life);
            }
            _ => {}
        }
    }
}
