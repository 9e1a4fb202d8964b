//! What a server knows of its own disk, and remembers of the disks of others.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{saved::Saved, time::Time};
use crate::{
    configuration::{ClusterId, Configuration, ServerId},
    position::{LogId, Term},
    rpc::{Envelope, Message, Promised},
};

/// The disk of a server, and what it remembers of the others'.
#[derive(Clone, Debug)]
pub(crate) struct DiskIdentity {
    /// Which disk it runs on, and which start from that disk this is; 0 if its store keeps no
    /// incarnation.
    pub(super) incarnation: u64,
    pub(super) life: u64,
    /// The term, and the end of the log, that this life began with.
    began_with: (Term, LogId),
    /// Of a server that belongs to no cluster: the cluster of the leader it follows.
    pub(super) courted: ClusterId,
    /// What is remembered of the other members' disks.
    pub(super) known: BTreeMap<ServerId, Known>,
    /// What it has asked everybody at its start, as long as it waits for that.
    pub(super) question: Option<Question>,
    /// Whether everybody has answered; the simulator has to know which copies could be found out.
    #[cfg(test)]
    has_asked_all: bool,
    /// An earlier life may have voted in these terms: it votes in none of them.
    no_vote_through: Term,
    /// Whether it has found its disk to be an older copy: nothing leaves it any more.
    pub(super) is_rolled_back: bool,
    /// Whether an earlier life of its disk has.
    pub(super) was_rolled_back: bool,
}

/// What is remembered of a member's disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    /// Its newest life that was heard from: earlier ones are over.
    pub(super) life: u64,
    /// The furthest it has promised, in whichever life.
    pub(super) promised: Promised,
}

/// The question that a server asks everybody when it starts.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// The servers that have not answered.
    pub(super) unanswered: BTreeSet<ServerId>,
    /// Until when it waits for them.
    pub(super) due: Time,
    pub(super) ask_again_at: Time,
}

impl DiskIdentity {
    pub(crate) fn new(saved: &Saved) -> Self {
        Self {
            incarnation: saved.incarnation,
            life: saved.life,
            began_with: (saved.hard_state.current_term, saved.log.last()),
            courted: ClusterId::NONE,
            known: BTreeMap::new(),
            question: None,
            #[cfg(test)]
            has_asked_all: false,
            no_vote_through: Term(0),
            is_rolled_back: false,
            was_rolled_back: saved.was_rolled_back,
        }
    }

    /// Whether nothing is to be decided any more, because the disk is an older copy.
    pub(crate) fn is_rolled_back(&self) -> bool {
        self.is_rolled_back
    }

    /// Whether the sender's life is over: a later one of its disk has been heard from. A start's question is
    /// answered all the same, because the disk may have been rolled back to before that life.
    pub(super) fn is_over(&self, envelope: &Envelope) -> bool {
        let Envelope { from, incarnation, life, message, .. } = envelope;
        let is_question = matches!(message, Message::RequestVote(request) if request.is_pre_vote);
        !is_question
            && self.known.get(from).is_some_and(|known| {
                known.promised.incarnation == *incarnation && *life < known.life
            })
    }

    /// Notes that a disk is in use, in this life; returns whether that is news.
    pub(super) fn meet(&mut self, id: &ServerId, incarnation: u64, life: u64) {
        let promised = Promised { incarnation, life, term: Term(0), matched: LogId::ZERO };
        let new = Known { life, promised };
        let known = self.known.entry(id.clone()).or_insert(new);
        if known.promised.incarnation == incarnation {
            known.life = known.life.max(life);
        } else {
            *known = new;
        }
    }

    /// Whether this life of this disk has been met.
    pub(super) fn has_met(&self, id: &ServerId, incarnation: u64, life: u64) -> bool {
        let known = self.known.get(id);
        known.is_some_and(|it| (it.promised.incarnation, it.life) == (incarnation, life))
    }

    /// A member has promised this: it is in the term, and has the log up to `matched`.
    pub(super) fn note(&mut self, id: &ServerId, term: Term, matched: LogId) {
        if let Some(known) = self.known.get_mut(id) {
            known.note(term, matched);
        }
    }

    /// Forgets the disks that the configuration does not use.
    pub(super) fn forget_unused(&mut self, configuration: &Configuration) {
        self.known.retain(|id, known| {
            let disk = known.promised.incarnation;
            configuration.server(id).is_some_and(|it| [0, disk].contains(&it.incarnation))
        });
    }

    /// What this server has been promised by that one.
    pub(super) fn promised(&self, by: &ServerId) -> Option<Promised> {
        self.known.get(by).map(|known| known.promised)
    }

    /// The same for one that asks from this life: it has to learn of a later one, too.
    pub(super) fn promised_before(&self, by: &ServerId, life: u64) -> Option<Promised> {
        let Known { life: newest, promised } = *self.known.get(by)?;
        let later = Promised { life: newest, term: Term(0), matched: LogId::ZERO, ..promised };
        Some(if life < newest { later } else { promised })
    }

    /// Whether what an earlier life has promised is more than this one began with. In one term a follower's
    /// log only grows towards its leader's, so its end tells whether it has what was matched.
    pub(super) fn falls_short_of(&self, promised: &Promised) -> bool {
        let Promised { incarnation, life, term, matched } = *promised;
        let (began_in, last) = self.began_with;
        incarnation != 0
            && incarnation == self.incarnation
            && life != self.life
            // A life that this disk does not know of.
            && (self.life < life || (began_in, last) < (term, matched))
    }

    /// A server has answered the question of this life.
    pub(super) fn answered(&mut self, by: &ServerId, term: Term) {
        let Some(question) = &mut self.question else { return };
        let was_last = question.unanswered.remove(by) && question.unanswered.is_empty();
        if was_last {
            #[cfg(test)]
            {
                self.has_asked_all = true;
            }
            self.settle(term);
        }
    }

    /// The servers that have not answered by now cannot be reached.
    pub(super) fn give_up_question(&mut self, now: Time, term: Term) {
        if self.question.as_ref().is_some_and(|question| question.due <= now) {
            self.settle(term);
        }
    }

    /// It takes part in elections from now on, but in no term that it was in before.
    fn settle(&mut self, term: Term) {
        self.question = None;
        self.no_vote_through = term;
    }

    /// When the question is asked again, or given up.
    pub(crate) fn question_deadline(&self) -> Option<Time> {
        self.question.as_ref().map(|question| question.ask_again_at.min(question.due))
    }

    /// Whether somebody may still remember more of this disk than it has. Servers that cannot be reached
    /// are not waited for longer than for a leader.
    pub(crate) fn awaits_answers(&self, now: Time) -> bool {
        self.question.as_ref().is_some_and(|question| now < question.due)
    }

    /// Whether an earlier life may have voted in this term.
    pub(super) fn may_have_voted_in(&self, term: Term) -> bool {
        term <= self.no_vote_through
    }

    /// Whether everybody has answered what it has asked at its start; `None` while it waits for that.
    #[cfg(test)]
    pub(crate) fn has_all_answers(&self, now: Time) -> Option<bool> {
        if self.awaits_answers(now) { None } else { Some(self.has_asked_all) }
    }
}

impl Known {
    /// Keeps the promise of its newest life, unless the disk has promised as much before.
    fn note(&mut self, term: Term, matched: LogId) {
        let before = &mut self.promised;
        if (before.term, before.matched.index) < (term, matched.index) {
            *before = Promised { life: self.life, term, matched, ..*before };
        }
    }
}
