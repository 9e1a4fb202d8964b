//! Older copies of a disk find out that they are.
//!
//! Such a copy has the right incarnation, so it is admitted. But others remember what the disk has promised:
//! in which term it was and, if it followed, what of the log it had. Each start from a disk is a *life* of it,
//! with a number that grows. What is durable only grows, so a promise of an earlier life shows in what the disk
//! had when this life began, however much later it is told; if it does not, the disk is an older one, or has
//! lost what it acknowledged.
//!
//! A server that starts asks everybody, because only the leader would speak by itself. An answer says
//! what is remembered of earlier lives, and ends them for the server that gives it: what still comes of them is
//! dropped at the door. So when all have answered, every promise of earlier lives is known, and the server takes
//! part in elections. Until then, or for an election timeout, it does not; and it never votes in a term
//! that it was in before, unless the vote is on its disk.
//!
//! A server that finds its disk to be an older copy ends, and the disk gets another incarnation first:
//! from then on it is the disk of a stranger, for those too that were told nothing. Where no disk is
//! recorded yet it could pass for the member, so it notes what it is, and takes part in no election before
//! it is recorded. Promises are remembered in memory only: when every server that was told has been restarted,
//! or cannot be reached at the start and for an election timeout after it, nobody notices.

use rand::RngExt;

use super::{
    super::{Consensus, action::Action, role::RoleState, time::Time},
    identity::Question,
};
use crate::{
    configuration::ServerId,
    position::{LogId, Term},
    rpc::{Message, Promised, RequestVoteRequest},
};

impl Consensus {
    /// A leader notes how far a follower has come in its term.
    pub(super) fn note_promise(&mut self, peer: &ServerId) {
        let Some(leader) = self.role.leader() else { return };
        let Some(progress) = leader.peers.get(peer).filter(|it| it.liveness.acked_round != 0)
        else {
            return;
        };
        let index = progress.match_index;
        let matched = self.log.term_at(index).map(|term| LogId { term, index });
        self.disk.note(peer, leader.term, matched.unwrap_or_default());
    }

    /// A leadership ends: what its followers have promised is not forgotten with it.
    pub(in crate::consensus) fn note_promises(&mut self) {
        let leader = self.role.leader();
        let peers: Vec<ServerId> =
            leader.map_or_else(Vec::new, |leader| leader.peers.keys().cloned().collect());
        for peer in peers {
            self.note_promise(&peer);
        }
    }

    /// Other members are in force: forgets the disks that are in use no more.
    pub(in crate::consensus) fn forget_disks(&mut self) {
        let latest = &self.membership.latest().configuration;
        self.disk.forget_unused(latest);
        let Some(leader) = self.role.leader_mut() else { return };
        // Removed members may come back on another disk.
        leader
            .incarnations
            .retain(|id, _| latest.server(id).is_some_and(|server| server.incarnation == 0));
    }

    /// Begins to ask everybody. A server that was in a term and knows nobody, like one whose first
    /// snapshot was on its way, can only wait for a leader to speak.
    pub(in crate::consensus) fn begin_to_ask(&mut self, now: Time) {
        let peers = self.membership.peers(&self.rules.id);
        let is_alone = !self.is_empty() && peers.is_empty();
        if self.disk.incarnation == 0 || self.term() == Term(0) || is_alone {
            return;
        }
        self.disk.question = Some(Question {
            unanswered: peers.into_iter().map(|peer| peer.id).collect(),
            due: now + self.rules.election_timeout,
            ask_again_at: now,
        });
        self.ask_again(now);
    }

    /// The question is that for a pre-vote, which changes nothing. A leader that knows that this server
    /// was removed answers with that. Asked again and again: the first may find no connection yet.
    pub(in crate::consensus) fn ask_again(&mut self, now: Time) {
        self.disk.give_up_question(now, self.term());
        let again_at = now + self.rules.heartbeat_interval;
        let Some(question) = &mut self.disk.question else { return };
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
                life: 0,
            };
            self.send(&peer, Message::RequestVote(request));
        }
    }

    /// Whether this server takes no part in an election of this term, not even by adopting the term: its disk
    /// may be an older copy, or an earlier life of it may have voted.
    pub(in crate::consensus) fn abstains(&self, now: Time, term: Term) -> bool {
        let may_have_voted =
            self.hard_state.voted_for.is_none() && self.disk.may_have_voted_in(term);
        self.is_barred() || self.disk.awaits_answers(now) || may_have_voted
    }

    /// The disk of this server is an older copy. It is that of a stranger from now on, which believes nobody
    /// and campaigns no more, and the node ends.
    pub(super) fn roll_back(&mut self, from: &ServerId, promised: Promised) {
        let mut incarnation = self.disk.incarnation;
        while incarnation == self.disk.incarnation {
            incarnation = self.rng.random_range(1..=u64::MAX);
        }
        self.disk.incarnation = incarnation;
        // What was decided before is not to leave either.
        self.set_leader(None);
        self.set_role(RoleState::Follower);
        self.actions.clear();
        self.disk.is_rolled_back = true;
        self.actions.push_back(Action::RolledBack { told: from.clone(), promised, incarnation });
    }
}

#[cfg(test)]
mod tests;
