//! Elections: timeouts, pre-vote, vote, and the way from one role to another.
//!
//! Source: paper Figure 2, thesis §3.4, §9.6 (pre-vote), §4.2.3 (servers that insist on their
//! leader, here only within the *minimum* election timeout, so that the faster of two followers
//! decides the election).

use std::{collections::BTreeSet, time::Duration};

use rand::RngExt;

use super::{
    Consensus,
    action::{Action, WriteId},
    quorum::reached_by_majority,
    role::{Campaign, RoleState},
    time::Time,
};
use crate::{
    configuration::ServerId,
    observer::Observation,
    position::{LogIndex, Term},
    rpc::{Message, RequestVoteReply, RequestVoteRequest},
    stable::HardState,
};

impl Consensus {
    /// A message of a newer term has come, or a campaign is given up: follow nobody for now.
    pub(super) fn become_follower(&mut self, now: Time, term: Term) {
        let was_follower = matches!(self.role, RoleState::Follower);
        self.note_promises();
        if self.hard_state.current_term < term {
            self.advance_term(term);
        }
        self.set_leader(None);
        // Leadership ends only here.
        if self.role.leader().is_some() {
            // Others may have committed what this disk has not taken yet.
            let is_stuck = self.is_disk_stalled(now);
            let committed = if is_stuck { self.commit.applying } else { self.commit.index };
            self.actions.push_back(Action::SteppedDown { committed });
        }
        self.set_role(RoleState::Follower);
        if !was_follower {
            self.reset_election_deadline(now);
        }
    }

    /// A leader of the current term has spoken.
    pub(super) fn follow(&mut self, now: Time, leader: &ServerId) {
        assert!(
            self.role.leader().is_none(),
            "law 1: {leader} and this server both lead term {}",
            self.hard_state.current_term
        );
        assert!(
            self.leader.as_ref().is_none_or(|known| known == leader),
            "law 1: {leader} and {:?} both lead term {}",
            self.leader,
            self.hard_state.current_term
        );
        self.set_role(RoleState::Follower);
        self.set_leader(Some(leader));
        self.election.leader_contact = Some(now);
        self.reset_election_deadline(now);
    }

    pub(super) fn advance_term(&mut self, term: Term) {
        assert!(self.hard_state.current_term < term, "law 6: the term falls to {term}");
        self.hard_state = HardState { current_term: term, voted_for: None };
        self.writes.is_hard_state_dirty = true;
        self.commit.matched = LogIndex::ZERO;
        self.writes.outbox.forget_before(term);
    }

    pub(super) fn set_leader(&mut self, leader: Option<&ServerId>) {
        if self.leader.as_ref() == leader {
            return;
        }
        self.leader = leader.cloned();
        self.election.has_let_others_go_first &= leader.is_none();
        let leader = self.leader();
        self.settle_transfer(leader.as_ref());
        self.observe(Observation::LeaderChanged { leader });
    }

    pub(super) fn set_role(&mut self, role: RoleState) {
        let before = std::mem::replace(&mut self.role, role).role();
        let role = self.role.role();
        if before != role {
            self.observe(Observation::RoleChanged { role, term: self.term() });
        }
    }

    /// One to two election timeouts after `since`: fixed at the moment of contact, with fresh
    /// randomness each time, so that servers do not drift into step.
    pub(super) fn reset_election_deadline(&mut self, since: Time) {
        let timeout = self.rules.election_timeout;
        let extra = self.rng.random_range(Duration::ZERO..timeout);
        self.election.waiting_since = since;
        self.election.deadline = since + timeout + extra;
    }

    /// The election timeout has changed: waits on from the same moment as before.
    pub(super) fn election_timeout_changed(&mut self) {
        self.reset_election_deadline(self.election.waiting_since);
    }

    /// No leader was heard from for too long, or the campaign has failed.
    pub(super) fn handle_election_timeout(&mut self, now: Time) {
        let may_campaign = self.may_campaign();
        if may_campaign || self.leader.is_some() {
            self.timeouts.election += 1;
        }
        self.set_leader(None);
        if may_campaign && !self.is_disk_stalled(now) && !self.disk.awaits_answers(now) {
            if !self.lets_others_go_first(now) {
                self.campaign(now, false);
            }
        } else {
            self.set_role(RoleState::Follower);
            self.reset_election_deadline(now);
        }
    }

    /// Asks those again that have not granted their vote.
    pub(super) fn retry_votes(&mut self, now: Time) {
        let ask_again_at = now + self.rules.heartbeat_interval;
        if let Some(campaign) = self.role.campaign_mut() {
            campaign.ask_again_at = ask_again_at;
        }
        self.ask_for_votes(now);
    }

    /// Starts an election: with a pre-vote, unless it is off or the last leader has asked for it.
    pub(super) fn campaign(&mut self, now: Time, is_leadership_transfer: bool) {
        self.set_leader(None);
        self.reset_election_deadline(now);
        let campaign = Campaign {
            granted: BTreeSet::from([self.rules.id.clone()]),
            own_vote: WriteId(0),
            ask_again_at: now + self.rules.heartbeat_interval,
            is_leadership_transfer,
        };
        if self.rules.pre_vote && !is_leadership_transfer {
            self.set_role(RoleState::PreCandidate(campaign));
            self.ask_for_votes(now);
            self.count_votes(now);
        } else {
            self.become_candidate(now, campaign);
        }
    }

    /// Raises the term and votes for itself; asks for votes when that is durable.
    fn become_candidate(&mut self, now: Time, mut campaign: Campaign) {
        self.advance_term(self.term().next());
        self.hard_state.voted_for = Some(self.rules.id.clone());
        self.reset_election_deadline(now);
        campaign.granted.clear();
        campaign.own_vote = self.writes.next;
        self.set_role(RoleState::Candidate(campaign));
        self.write_hard_state(now);
        self.ask_for_votes(now);
    }

    /// Whether this server may campaign: not when its configuration knows it by another disk. Either
    /// this one belongs to another server, or the log has not come to where this one was rejoined.
    pub(super) fn may_campaign(&self) -> bool {
        self.membership.may_campaign(&self.rules.id) && !self.is_stranger()
    }

    fn ask_for_votes(&mut self, now: Time) {
        let (RoleState::PreCandidate(campaign) | RoleState::Candidate(campaign)) = &self.role
        else {
            return;
        };
        let is_pre_vote = matches!(self.role, RoleState::PreCandidate(_));
        let term = if is_pre_vote { self.term().next() } else { self.term() };
        let request = RequestVoteRequest {
            term,
            last: self.log.last(),
            is_pre_vote,
            is_leadership_transfer: campaign.is_leadership_transfer,
            promised: None,
            configuration_index: self.membership.latest().index,
            life: 0,
        };
        let voters = self.membership.voters().voters().map(|server| &server.id);
        let silent: Vec<ServerId> = voters
            .filter(|id| **id != self.rules.id && !campaign.granted.contains(*id))
            .cloned()
            .collect();
        for voter in silent {
            let message = Message::RequestVote(request.clone());
            if is_pre_vote {
                self.send(&voter, message);
            } else {
                self.send_when_durable(now, &voter, message, None);
            }
        }
    }

    pub(super) fn handle_request_vote(
        &mut self,
        now: Time,
        from: &ServerId,
        request: &RequestVoteRequest,
    ) {
        let insists = self.abstains(now, request.term)
            || self.has_removed(from, request)
            || !request.is_leadership_transfer && self.insists_on_leader(now, from);
        if !insists && !request.is_pre_vote && self.term() < request.term {
            self.become_follower(now, request.term);
        }
        let is_granted = !insists && self.would_vote_for(from, request);
        if is_granted && !request.is_pre_vote {
            self.writes.is_hard_state_dirty |= self.hard_state.voted_for.is_none();
            self.hard_state.voted_for = Some(from.clone());
            self.set_role(RoleState::Follower);
            self.reset_election_deadline(now);
        }
        self.observe(Observation::VoteRequested {
            candidate: from.clone(),
            term: request.term,
            is_pre_vote: request.is_pre_vote,
            is_granted,
        });
        let reply = RequestVoteReply {
            term: self.term(),
            requested_term: request.term,
            is_pre_vote: request.is_pre_vote,
            is_granted,
            promised: None,
            life: request.life,
        };
        self.send_when_durable(now, from, Message::RequestVoteReply(reply), None);
        // It may have missed the news.
        let is_member = self.membership.latest().configuration.server(from).is_some();
        if self.role.leader().is_some() && !self.membership.is_changing() && !is_member {
            self.send_removed(from);
        }
    }

    /// Whether this server has heard from a leader so recently that it takes part in no election
    /// against it, not even by adopting the term (thesis §4.2.3).
    fn insists_on_leader(&self, now: Time, candidate: &ServerId) -> bool {
        self.role.leader().is_some()
            || (self.leader.as_ref() != Some(candidate)
                && self
                    .election
                    .leader_contact
                    .is_some_and(|contact| now < contact + self.rules.election_timeout))
    }

    /// Whether the candidate lacks the configuration, committed here, that removed it. No leader can lack that
    /// one (law 4), so its campaigns lead to nothing but higher terms: without pre-vote a server that
    /// nobody told would raise them for ever, by way of servers that have no leader yet.
    fn has_removed(&self, candidate: &ServerId, request: &RequestVoteRequest) -> bool {
        let committed = self.membership.committed();
        request.configuration_index < committed.index
            && committed.configuration.server(candidate).is_none()
    }

    /// The rule of votes and pre-votes: the same log check in both, repeated for a repeated request.
    /// Not asked: whether the candidate is a member or this server a voter. Either may learn of the
    /// newest configuration later than the other (thesis §4.2.2); see [`Self::has_removed`] for the case
    /// in which the candidate cannot be right.
    fn would_vote_for(&self, candidate: &ServerId, request: &RequestVoteRequest) -> bool {
        let is_free = if request.is_pre_vote {
            self.term() < request.term
        } else {
            self.term() == request.term
                && self.leader.is_none()
                && self.hard_state.voted_for.as_ref().is_none_or(|id| id == candidate)
        };
        is_free && self.log.last() <= request.last
    }

    pub(super) fn handle_request_vote_reply(
        &mut self,
        now: Time,
        from: &ServerId,
        reply: &RequestVoteReply,
    ) {
        if self.term() < reply.term {
            self.become_follower(now, reply.term);
            return;
        }
        let asked = match &self.role {
            RoleState::PreCandidate(_) => (true, self.term().next()),
            RoleState::Candidate(_) => (false, self.term()),
            RoleState::Follower | RoleState::Leader(_) => return,
        };
        if !reply.is_granted || (reply.is_pre_vote, reply.requested_term) != asked {
            return;
        }
        if let Some(campaign) = self.role.campaign_mut() {
            campaign.granted.insert(from.clone());
        }
        self.count_votes(now);
    }

    /// Counts this server's own vote once it is durable.
    pub(super) fn count_own_vote(&mut self, now: Time) {
        let written = self.writes.written;
        let me = &self.rules.id;
        if let RoleState::Candidate(campaign) = &mut self.role
            && campaign.own_vote <= written
            && campaign.granted.insert(me.clone())
        {
            self.count_votes(now);
        }
    }

    fn count_votes(&mut self, now: Time) {
        let (RoleState::PreCandidate(campaign) | RoleState::Candidate(campaign)) = &self.role
        else {
            return;
        };
        let has_won = |id: &ServerId| campaign.granted.contains(id);
        if reached_by_majority(self.membership.voters(), has_won) != Some(true) {
            return;
        }
        match &self.role {
            RoleState::PreCandidate(campaign) => {
                let campaign = campaign.clone();
                self.become_candidate(now, campaign);
            }
            _ => self.become_leader(now),
        }
    }
}
