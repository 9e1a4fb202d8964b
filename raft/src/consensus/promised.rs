//! An older copy of a disk: whose server it is, and how it comes to know what it has forgotten.
//!
//! Such a copy has the right incarnation, so [`incarnation`](super::incarnation) admits it. But others
//! remember what the server has said: in which term it was, and what of the log it had. A leader
//! remembers it of each follower, also when it leads no more; whoever hears from a leader, a candidate or a
//! voter remembers its term. They say it back, in heartbeats and with everything about votes; so a server
//! that starts asks everybody whether it would get a vote. What it finds there is true of its disk, however
//! late it comes, because what is durable only grows within a term; so if its own state falls short of it,
//! the disk is an older one, or has lost what it had acknowledged.
//!
//! Such a server ends, and its disk gets another incarnation first: from then on it is the disk of a
//! stranger, for those too who were told nothing. It is remembered in memory only: when everybody who
//! was told has been restarted, or cannot be reached at the start and for an election timeout after it,
//! nobody notices.

use std::{cmp::Ordering, collections::BTreeMap};

use rand::RngExt;

use super::{Consensus, action::Action, role::RoleState, time::Time};
use crate::{
    configuration::ServerId,
    log::{LogId, Term},
    rpc::{Message, Promised, RequestVoteRequest},
};

/// Terms of this life that are remembered at most. Who comes back after more than that is late.
const MAX_REMEMBERED_TERMS: usize = 64;

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
        self.promised.get(by).copied()
    }

    /// A leader notes how far its followers have come in its term, and forgets the disks that are in use
    /// no more.
    pub(super) fn note_promises(&mut self) {
        let configuration = &self.membership.latest().configuration;
        let recorded = |id: &ServerId| configuration.server(id).map_or(0, |it| it.incarnation);
        self.promised.retain(|id, promised| promised.incarnation == recorded(id));
        let Some(leader) = self.role.leader() else { return };
        for (id, progress) in &leader.peers {
            let incarnation = recorded(id);
            if incarnation == 0 || progress.acked_round == 0 {
                continue;
            }
            let index = progress.match_index;
            let matched = self.log.term_at(index).map(|term| LogId { term, index });
            let promised =
                Promised { incarnation, term: leader.term, matched: matched.unwrap_or_default() };
            note(&mut self.promised, id, promised);
        }
    }

    /// A leader, a candidate or a voter on this disk has said that it is in this term.
    pub(super) fn note_term(&mut self, from: &ServerId, incarnation: u64, term: Term) {
        if incarnation != 0 && incarnation == self.recorded(from) {
            let promised = Promised { incarnation, term, matched: LogId::ZERO };
            note(&mut self.promised, from, promised);
        }
    }

    /// The term is about to grow.
    pub(super) fn note_term_left(&mut self) {
        if MAX_REMEMBERED_TERMS <= self.terms_left.len() {
            self.terms_left.pop_first();
        }
        self.terms_left.insert(self.term(), self.log.last().index);
    }

    /// Asks everybody, because only the leader would speak by itself, and that may be a new one, who
    /// knows nothing. Until they have answered, or an election timeout has passed, this server takes no
    /// part in elections: it may have voted already, or have lost what the candidate lacks too.
    pub(super) fn begin_to_ask(&mut self, now: Time) {
        if self.incarnation != 0 {
            let peers = self.membership.peers(&self.rules.id);
            self.unanswered = peers.into_iter().map(|peer| peer.id).collect();
            self.answers_due = now + self.rules.election_timeout;
            self.ask_again(now);
        }
    }

    /// The question is that for a pre-vote, which changes nothing. A leader that knows that this server
    /// was removed answers with that. Asked again and again: the first may find no connection yet.
    pub(super) fn ask_again(&mut self, now: Time) {
        if now < self.ask_again_at {
            return;
        }
        if !self.awaits_answers(now) {
            self.unanswered.clear();
            return;
        }
        self.ask_again_at = now + self.rules.heartbeat_interval;
        let (term, last) = (self.term().next(), self.log.last());
        for peer in self.unanswered.clone() {
            let request = RequestVoteRequest {
                term,
                last,
                is_pre_vote: true,
                is_leadership_transfer: false,
                promised: None,
            };
            self.send(&peer, Message::RequestVote(request));
        }
    }

    /// Whether somebody may still remember more of this disk than it has. Those who cannot be reached
    /// are not waited for longer than for a leader.
    pub(super) fn awaits_answers(&self, now: Time) -> bool {
        !self.unanswered.is_empty() && now < self.answers_due
    }

    /// Whether the message shows that the disk of this server is an older copy. Then it is that of a
    /// stranger from now on, who believes nobody and campaigns no more, and the node ends.
    pub(super) fn has_forgotten(&mut self, from: &ServerId, message: &Message) -> bool {
        if self.is_rolled_back {
            return true;
        }
        let promised = message.promised().filter(|promised| self.falls_short(from, promised));
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

    /// Compares what was promised with what this server has in that term, or had when it left it. It may
    /// have left it after it started and before this was heard.
    fn falls_short(&self, of: &ServerId, promised: &Promised) -> bool {
        let Promised { incarnation, term, matched } = *promised;
        if incarnation == 0 || incarnation != self.incarnation {
            return false;
        }
        let lacks_entry = match term.cmp(&self.term()) {
            Ordering::Greater => return true,
            Ordering::Equal => self.log.snapshot().index < matched.index && !self.log.has(matched),
            Ordering::Less => match self.terms_left.get(&term) {
                Some(end) => *end < matched.index,
                // A term that it has passed over since it started.
                None => return self.terms_left.keys().next().is_some_and(|first| *first < term),
            },
        };
        // Whoever led that term is a member here, unless this server is the survivor of a cluster that
        // was recovered, with a log that somebody has decided to cut.
        let members = &self.membership.latest().configuration;
        lacks_entry && (members.is_empty() || members.server(of).is_some())
    }
}

/// Keeps the promise, unless the same disk has promised more.
fn note(known: &mut BTreeMap<ServerId, Promised>, by: &ServerId, promised: Promised) {
    let reach = |it: &Promised| (it.term, it.matched.index);
    match known.get_mut(by) {
        Some(it) if it.incarnation == promised.incarnation && reach(&promised) < reach(it) => {}
        Some(it) => *it = promised,
        None => drop(known.insert(by.clone(), promised)),
    }
}

#[cfg(test)]
mod tests;
