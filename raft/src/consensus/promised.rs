//! An older copy of a disk: whose server it is, and how it comes to know what it has forgotten.
//!
//! Such a copy has the right incarnation, so [`incarnation`](super::incarnation) admits it. But others
//! remember what the disk has promised: in which term it was and, if it followed, what of the log it
//! had. Each start from a disk is a *life* of it, with a number that grows. What is durable only grows, so
//! a promise of an earlier life shows in what the disk had when this life began, however much later it
//! is told; if it does not, the disk is an older one, or has lost what it acknowledged.
//!
//! A server that starts asks everybody, because only the leader would speak by itself. An answer says
//! what is remembered of earlier lives, and ends them for whoever gives it: what still comes of them is
//! dropped at the door. So when all have answered, every promise of earlier lives is known, and it takes
//! part in elections. Until then, or for an election timeout, it does not; and it never votes in a term
//! that it was in before, unless the vote is on its disk.
//!
//! A server that finds its disk to be an older one ends, and the disk gets another incarnation first:
//! from then on it is the disk of a stranger, for those too who were told nothing. Where no disk is
//! recorded yet it could pass for the member, so it notes what it is, and takes part in no election before
//! it is recorded. Promises are remembered
//! in memory only: when everybody who was told has been restarted, or cannot be reached at the start and
//! for an election timeout after it, nobody notices.

use rand::RngExt;

use super::{
    Consensus,
    action::Action,
    known::{Known, Question},
    role::RoleState,
    time::Time,
};
use crate::{
    configuration::ServerId,
    position::{LogId, Term},
    rpc::{Envelope, Message, Promised, RequestVoteRequest},
};

impl Message {
    fn promised(&self) -> Option<Promised> {
        match self {
            Self::Heartbeat(request) => request.promised,
            Self::RequestVote(request) => request.promised,
            Self::RequestVoteReply(reply) => reply.promised,
            _ => None,
        }
    }
}

impl Consensus {
    /// What this server has been promised by that one.
    pub(super) fn promised(&self, by: &ServerId) -> Option<Promised> {
        self.known.get(by).map(|known| known.promised)
    }

    /// The same for the one that asks from this life: it has to learn of a later one, too.
    pub(super) fn promised_before(&self, by: &ServerId, life: u64) -> Option<Promised> {
        let Known { life: newest, promised } = *self.known.get(by)?;
        let later = Promised { life: newest, term: Term(0), matched: LogId::ZERO, ..promised };
        Some(if life < newest { later } else { promised })
    }

    /// Whether a life of the sender's disk is over: a later one has been heard from. A start's question is
    /// answered all the same, because the disk may have been rolled back to before that life.
    pub(super) fn is_over(&self, envelope: &Envelope) -> bool {
        let Envelope { from, incarnation, life, message, .. } = envelope;
        let is_question = matches!(message, Message::RequestVote(request) if request.is_pre_vote);
        !is_question
            && self.known.get(from).is_some_and(|known| {
                known.promised.incarnation == *incarnation && *life < known.life
            })
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
        let is_known = |it: &Known| (it.promised.incarnation, it.life) == (incarnation, life);
        if !self.known.get(from).is_some_and(is_known) {
            // Of the life that is over now.
            self.note_promises();
            let promised = Promised { incarnation, life, term: Term(0), matched: LogId::ZERO };
            let new = Known { life, promised };
            let known = self.known.entry(from.clone()).or_insert(new);
            if known.promised.incarnation == incarnation {
                known.life = known.life.max(life);
            } else {
                *known = new;
            }
        }
        let says_its_term = match message {
            Message::RequestVote(request) => !request.is_pre_vote,
            Message::Heartbeat(_) | Message::RequestVoteReply(_) => true,
            _ => false,
        };
        if let Some(known) = self.known.get_mut(from).filter(|_| says_its_term) {
            known.note(message.term(), LogId::ZERO);
        }
    }

    /// A leader notes how far its followers have come in its term, and everybody forgets the disks that
    /// are in use no more.
    pub(super) fn note_promises(&mut self) {
        let configuration = &self.membership.latest().configuration;
        let is_in_use = |id: &ServerId, known: &mut Known| {
            let disk = known.promised.incarnation;
            configuration.server(id).is_some_and(|it| [0, disk].contains(&it.incarnation))
        };
        self.known.retain(is_in_use);
        let Some(leader) = self.role.leader() else { return };
        for (id, progress) in &leader.peers {
            let Some(known) = self.known.get_mut(id).filter(|_| progress.acked_round != 0) else {
                continue;
            };
            let index = progress.match_index;
            let matched = self.log.term_at(index).map(|term| LogId { term, index });
            known.note(leader.term, matched.unwrap_or_default());
        }
    }

    /// Begins to ask everybody. A server that was in a term and knows nobody, like one whose first
    /// snapshot was on its way, can only wait for a leader to speak.
    pub(super) fn begin_to_ask(&mut self, now: Time) {
        let peers = self.membership.peers(&self.rules.id);
        let is_alone = !self.is_empty() && peers.is_empty();
        if self.incarnation == 0 || self.term() == Term(0) || is_alone {
            return;
        }
        self.no_vote_through = self.term();
        self.question = Some(Question {
            unanswered: peers.into_iter().map(|peer| peer.id).collect(),
            due: now + self.rules.election_timeout,
            ask_again_at: now,
        });
        self.ask_again(now);
    }

    /// The question is that for a pre-vote, which changes nothing. A leader that knows that this server
    /// was removed answers with that. Asked again and again: the first may find no connection yet.
    pub(super) fn ask_again(&mut self, now: Time) {
        self.give_up_question(now);
        let again_at = now + self.rules.heartbeat_interval;
        let Some(question) = self.question.as_mut().filter(|it| it.ask_again_at <= now) else {
            return;
        };
        question.ask_again_at = again_at;
        let unanswered = question.unanswered.clone();
        for peer in unanswered {
            let request = RequestVoteRequest {
                term: self.term().next(),
                last: self.log.last(),
                is_pre_vote: true,
                is_leadership_transfer: false,
                promised: None,
                configuration_index: self.membership.latest().index,
                life: self.life,
            };
            self.send(&peer, Message::RequestVote(request));
        }
    }

    /// Those who have not answered by now cannot be reached.
    pub(super) fn give_up_question(&mut self, now: Time) {
        self.question.take_if(|question| question.due <= now);
    }

    /// Somebody has answered what this life has asked.
    pub(super) fn answered(&mut self, by: &ServerId) {
        let Some(question) = &mut self.question else { return };
        let was_last = question.unanswered.remove(by) && question.unanswered.is_empty();
        if was_last {
            self.question = None;
            #[cfg(test)]
            {
                self.has_asked_all = true;
            }
        }
    }

    /// When the question is asked again, or given up.
    pub(super) fn next_question(&self) -> Option<Time> {
        self.question.as_ref().map(|question| question.ask_again_at.min(question.due))
    }

    /// Whether somebody may still remember more of this disk than it has. Those who cannot be reached
    /// are not waited for longer than for a leader.
    pub(super) fn awaits_answers(&self, now: Time) -> bool {
        self.question.as_ref().is_some_and(|question| now < question.due)
    }

    /// Whether all have answered what it has asked at its start; `None` while it waits for them.
    #[cfg(test)]
    pub(super) fn has_all_answers(&self, now: Time) -> Option<bool> {
        if self.awaits_answers(now) { None } else { Some(self.has_asked_all) }
    }

    /// Whether the message shows that the disk of this server is an older copy. Then it is that of a
    /// stranger from now on, who believes nobody and campaigns no more, and the node ends.
    pub(super) fn has_forgotten(&mut self, from: &ServerId, message: &Message) -> bool {
        if self.is_rolled_back {
            return true;
        }
        let promised = message.promised().filter(|promised| self.falls_short(promised));
        let Some(promised) = promised else { return false };
        let mut incarnation = self.incarnation;
        while incarnation == self.incarnation {
            incarnation = self.rng.random_range(1..=u64::MAX);
        }
        self.incarnation = incarnation;
        // What was decided before is not to leave either.
        self.set_leader(None);
        self.set_role(RoleState::Follower);
        self.actions.clear();
        self.is_rolled_back = true;
        self.actions.push_back(Action::RolledBack { told: from.clone(), promised, incarnation });
        true
    }

    /// Compares what an earlier life has promised with what this one began with. In one term a follower's
    /// log only grows towards its leader's, so its end tells whether it has what was matched.
    fn falls_short(&self, promised: &Promised) -> bool {
        let Promised { incarnation, life, term, matched } = *promised;
        let (began_in, last) = self.began_with;
        incarnation != 0
            && incarnation == self.incarnation
            && life != self.life
            // A life that this disk does not know of.
            && (self.life < life || (began_in, last) < (term, matched))
    }
}

#[cfg(test)]
mod tests;
