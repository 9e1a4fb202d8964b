//! The leader: proposals, replication, commit, verification, lease.
//!
//! Source: thesis §3.5, §3.6.2 (commit), §6.4 (reads), §10.2.1 (the leader's disk runs beside
//! replication), §4 (membership); the write-stall rule is ours (the model's #503).

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{
    Consensus,
    action::{Action, AppendOrder, Verification},
    progress::Progress,
    quorum::reached_by_majority,
    refusal::{ChangeRefusal, NotLeader, ProposeRefusal},
    role::{Leader, MAX_REMEMBERED_ROUNDS, Replaced, RoleState},
    time::Time,
};
use crate::{
    configuration::{ConfigurationChange, ServerId},
    log::{Entries, EntryPayload},
    observer::Observation,
    position::{LogId, LogIndex},
    rpc::{
        AppendEntriesReply, AppendEntriesRequest, AppendOutcome, HeartbeatReply, HeartbeatRequest,
        Message, RemovedNotice,
    },
    status::ProgressState,
};

impl Consensus {
    /// Proposes entries: assigns consecutive indices, and returns the first.
    ///
    /// # Errors
    /// [`ProposeRefusal`]. Nothing was changed.
    pub fn propose(
        &mut self,
        now: Time,
        payloads: Vec<EntryPayload>,
    ) -> Result<LogIndex, ProposeRefusal> {
        self.check_leader()?;
        self.check_proposals()?;
        if payloads.is_empty() {
            return Ok(self.log.last().index.next());
        }
        let first = self.append(now, payloads);
        self.replicate_all(now);
        self.finish(now);
        Ok(first)
    }

    /// Changes the configuration by one server. With `prev_index`, only if that is where the
    /// latest configuration stands.
    ///
    /// # Errors
    /// [`ChangeRefusal`] says which rule of thesis §4.1 (and its 2015 correction: a leader must have
    /// committed in its own term first) is in the way. Nothing was changed.
    pub fn change_configuration(
        &mut self,
        now: Time,
        change: &ConfigurationChange,
        prev_index: Option<LogIndex>,
    ) -> Result<LogIndex, ChangeRefusal> {
        let term_start = self.check_leader()?;
        self.check_proposals()?;
        let latest = self.membership.latest();
        if let Some(given) = prev_index.filter(|given| !self.membership.is_latest(*given)) {
            return Err(ChangeRefusal::StaleIndex { given, latest: latest.index });
        }
        if self.membership.is_changing() {
            return Err(ChangeRefusal::ChangeInProgress { index: latest.index });
        }
        if self.commit.index < term_start {
            return Err(ChangeRefusal::NotReady);
        }
        let next = latest.configuration.changed(change).map_err(ChangeRefusal::Invalid)?;
        // What changes nothing may follow a record as little as another record.
        if self.membership.is_unsettled() && next.has_members_of(&latest.configuration) {
            return Err(ChangeRefusal::ChangeInProgress { index: latest.index });
        }
        let next = self.with_known_incarnations(&next);
        self.check_new_voters(&next)?;
        let index = self.append(now, vec![EntryPayload::Configuration(next)]);
        self.replicate_all(now);
        self.advance_commit(now);
        self.finish(now);
        Ok(index)
    }

    /// Asks a majority whether this server still leads, in a new round.
    ///
    /// # Errors
    /// [`NotLeader`].
    pub fn verify_leader(&mut self, now: Time) -> Result<Verification, NotLeader> {
        let term_start = self.check_leader()?;
        let read_index = self.commit.index.max(term_start);
        // Wanted before it begins: a server that is its own majority confirms it at once.
        let round = self.role.leader_mut().map_or(0, |leader| {
            leader.wanted_round = leader.round + 1;
            leader.wanted_round
        });
        self.begin_round(now);
        self.finish(now);
        Ok(Verification { round, read_index })
    }

    pub(super) fn check_leader(&self) -> Result<LogIndex, NotLeader> {
        match self.role.leader() {
            Some(leader) => Ok(leader.term_start),
            None => Err(NotLeader { leader: self.leader() }),
        }
    }

    pub(super) fn become_leader(&mut self, now: Time) {
        assert_eq!(
            self.hard_state.voted_for.as_ref(),
            Some(&self.rules.id),
            "I4: a leader has voted for itself"
        );
        let term_start = self.log.last().index.next();
        let me = self.rules.id.clone();
        self.set_role(RoleState::Leader(Box::new(Leader {
            term: self.term(),
            term_start,
            peers: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            round: 0,
            rounds: VecDeque::new(),
            confirmed_round: 0,
            wanted_round: 0,
            transfers: 0,
            restore: None,
            replaced: None,
            next_heartbeat: now,
            majority_contact: now,
            served_at: now,
        })));
        self.reset_progress(now);
        self.set_leader(Some(&me));
        self.append(now, vec![EntryPayload::Noop]);
        self.begin_round(now);
        self.replicate_all(now);
    }

    /// Gives leadership up without a newer term.
    pub(super) fn step_down(&mut self, now: Time) {
        let term = self.term();
        self.become_follower(now, term);
    }

    /// Keeps one progress per peer: those that stay keep theirs, new ones begin at the end.
    pub(super) fn reset_progress(&mut self, now: Time) {
        let peers = self.membership.peers(&self.rules.id);
        let next_index = self.log.last().index.next();
        let Some(leader) = self.role.leader_mut() else { return };
        let first_round = leader.round + 1;
        let mut before = std::mem::take(&mut leader.peers);
        let mut is_new = false;
        for peer in peers {
            let progress = before.remove(&peer.id).unwrap_or_else(|| {
                is_new = true;
                Progress::new(next_index, first_round, now)
            });
            leader.peers.insert(peer.id, progress);
        }
        if is_new && 0 < leader.round {
            self.begin_round(now);
        }
    }

    /// Begins a round: everybody is told that this server leads, and asked to answer.
    pub(super) fn begin_round(&mut self, now: Time) {
        let commit_index = self.commit.index;
        let interval = self.rules.heartbeat_interval;
        let (term, apart) = (self.term(), self.rounds_apart());
        let Some(leader) = self.role.leader_mut() else { return };
        leader.next_round(now, apart);
        leader.next_heartbeat = now + interval;
        let (round, replaced) = (leader.round, leader.replaced);
        // The restored snapshot commits nothing of the log that it has replaced.
        let committed_at = |claim| match replaced {
            Some(Replaced { by, committed }) if claim < by => committed,
            _ => commit_index,
        };
        let heartbeats: Vec<_> = leader
            .peers
            .iter_mut()
            .map(|(peer, progress)| {
                let claim = progress.claim(round);
                (peer.clone(), claim.min(committed_at(claim)))
            })
            .collect();
        for (peer, commit_index) in heartbeats {
            let request = HeartbeatRequest { term, round, commit_index, promised: None };
            self.send(&peer, Message::Heartbeat(request));
        }
        self.confirm_rounds();
    }

    /// How far apart the rounds lie whose start is remembered.
    fn rounds_apart(&self) -> Duration {
        2 * self.rules.leader_lease_timeout / MAX_REMEMBERED_ROUNDS
    }

    pub(super) fn replicate_all(&mut self, now: Time) {
        let Some(leader) = self.role.leader() else { return };
        let peers: Vec<ServerId> = leader.peers.keys().cloned().collect();
        for peer in peers {
            self.replicate(now, &peer);
        }
    }

    /// Orders as much for this peer as its window admits.
    pub(super) fn replicate(&mut self, now: Time, peer: &ServerId) {
        let (term, commit_index) = (self.term(), self.commit.index);
        let Some(leader) = self.role.leader_mut() else { return };
        let round = leader.round;
        let Some(progress) = leader.peers.get_mut(peer) else { return };
        let before = progress.state;
        while let Some(range) = progress.next_range(&self.log, &self.rules, now) {
            self.actions.push_back(Action::Replicate(AppendOrder {
                to: peer.clone(),
                term,
                round,
                prev: range.prev,
                last: range.last,
                commit_index,
            }));
        }
        if before != ProgressState::Snapshot && progress.state == ProgressState::Snapshot {
            self.send_snapshot(peer);
        }
    }

    pub(super) fn handle_append_entries_reply(
        &mut self,
        now: Time,
        from: &ServerId,
        reply: &AppendEntriesReply,
    ) {
        // A refusal answers a question of an earlier term, whose rounds are not of this leadership.
        if reply.outcome == AppendOutcome::StaleTerm || !self.heard_from(from, reply.round) {
            return;
        }
        match &reply.outcome {
            AppendOutcome::Matched { match_index } => self.matched(now, from, *match_index),
            AppendOutcome::Conflict { prev_index, hint } => {
                self.notice_loss(from, reply.round, *prev_index);
                let (meet, apart) = (self.meeting_point(*hint), self.rounds_apart());
                if let Some(leader) = self.role.leader_mut()
                    && let Some(progress) = leader.peers.get_mut(from)
                {
                    let had_window = progress.state == ProgressState::Replicate;
                    if progress.conflict(reply.round, leader.round, *prev_index, meet) && had_window
                    {
                        // So that answers to what is sent from now on can be told from answers to
                        // what was under way.
                        leader.next_round(now, apart);
                    }
                }
            }
            AppendOutcome::StaleTerm => {}
        }
        self.replicate(now, from);
    }

    pub(super) fn handle_heartbeat_reply(
        &mut self,
        now: Time,
        from: &ServerId,
        reply: &HeartbeatReply,
    ) {
        if !self.heard_from(from, reply.round) {
            return;
        }
        if LogIndex::ZERO < reply.match_index {
            self.matched(now, from, reply.match_index);
        }
        let patience = self.rules.heartbeat_interval;
        if let Some(leader) = self.role.leader_mut()
            && let Some(asked_at) = leader.began(reply.round)
            && let Some(progress) = leader.peers.get_mut(from)
        {
            progress.heard(reply.accepted_index, asked_at, patience);
            progress.applied(reply.round, reply.applied_index);
            progress.liveness.round_trip = Some(now.since(asked_at));
        }
        self.replicate(now, from);
        self.vouch_again(from, reply);
        self.continue_transfer(from);
    }

    /// A server that was restarted knows of nothing that this leader has vouched for, so its commit
    /// index does not move: it is asked anew. One that has lost its log is found out by its answer.
    fn vouch_again(&mut self, peer: &ServerId, reply: &HeartbeatReply) {
        let Some(leader) = self.role.leader() else { return };
        let Some(progress) = leader.peers.get(peer) else { return };
        let Some(index) = progress.has_forgotten(reply.round, reply.accepted_index) else { return };
        let Some(term) = self.log.term_at(index) else { return };
        let request = AppendEntriesRequest {
            term: self.term(),
            round: leader.round,
            prev: LogId { term, index },
            entries: Entries::default(),
            commit_index: self.commit.index,
        };
        self.send(peer, Message::AppendEntries(request));
    }

    /// Counts on a server no longer that lacks what it acknowledged.
    fn notice_loss(&mut self, peer: &ServerId, round: u64, prev_index: LogIndex) {
        let Some(leader) = self.role.leader_mut() else { return };
        let Some(progress) = leader.peers.get_mut(peer) else { return };
        if progress.proves_loss(round, prev_index) && !progress.has_lost_entries {
            progress.has_lost_entries = true;
            self.observe(Observation::PeerLostEntries { peer: peer.clone() });
        }
    }

    /// A positive answer of the current term: counts as contact from when it was *asked* (law 12).
    /// Returns whether it belongs to a peer of this session.
    fn heard_from(&mut self, from: &ServerId, round: u64) -> bool {
        let Some(leader) = self.role.leader_mut() else { return false };
        let began = leader.began(round);
        let Some(progress) = leader.peers.get_mut(from) else { return false };
        if !progress.is_current(round) || leader.round < round {
            return false;
        }
        let was_lost = std::mem::replace(&mut progress.liveness.is_lost, false);
        if progress.liveness.acked_round < round {
            progress.liveness.acked_round = round;
            progress.liveness.contact =
                began.unwrap_or(progress.liveness.contact).max(progress.liveness.contact);
            self.confirm_rounds();
        }
        if was_lost {
            self.observe(Observation::PeerRegained { peer: from.clone() });
        }
        true
    }

    /// A peer has come further.
    pub(super) fn has_moved(&mut self, now: Time, peer: &ServerId) {
        let Some(leader) = self.role.leader_mut() else { return };
        let Some(progress) = leader.peers.get_mut(peer) else { return };
        progress.liveness.moved_at = now;
        if std::mem::replace(&mut progress.liveness.is_stalled, false) {
            self.observe(Observation::PeerResumed { peer: peer.clone() });
        }
    }

    /// A peer has everything up to `index`, durably.
    pub(super) fn matched(&mut self, now: Time, from: &ServerId, index: LogIndex) {
        if self.log.last().index < index {
            return;
        }
        let Some(leader) = self.role.leader_mut() else { return };
        let Some(progress) = leader.peers.get_mut(from) else { return };
        let (before, was_held) = (progress.match_index, progress.held().is_some());
        progress.matched(index, &self.log);
        let (after, is_held) = (progress.match_index, progress.held().is_some());
        if was_held && !is_held {
            self.compact();
        }
        if before < after {
            self.has_moved(now, from);
            self.advance_commit(now);
            self.continue_transfer(from);
        }
    }

    /// Moves the commit index to what a majority of the voters has durably, if that is of this
    /// term (laws 9, 13). The leader counts itself only as far as its own disk has come.
    pub(super) fn advance_commit(&mut self, now: Time) {
        let Some(leader) = self.role.leader() else { return };
        let stable = self.log.stable();
        let durable = |id: &ServerId| {
            if *id == self.rules.id {
                stable
            } else {
                leader.peers.get(id).map_or(LogIndex::ZERO, Progress::durable_index)
            }
        };
        let Some(index) = reached_by_majority(self.membership.voters(), durable) else { return };
        if self.commit.index < index && self.log.term_at(index) == Some(self.term()) {
            self.commit_to(now, index);
        }
    }

    /// The latest configuration has just been committed.
    pub(super) fn configuration_committed(&mut self, now: Time) {
        if self.role.leader().is_none() {
            return;
        }
        self.begin_round(now);
        self.bid_farewell();
        self.reset_progress(now);
        if !self.membership.is_voter(&self.rules.id) {
            self.step_down(now);
        }
        if self.membership.latest().configuration.server(&self.rules.id).is_none() {
            let configuration_index = self.membership.latest().index;
            self.observe(Observation::Removed { configuration_index });
        }
    }

    /// Tells those that were removed that it is final, before their progress is dropped: until they
    /// know they may campaign. An append tells even those whose acknowledgement is still on its way.
    fn bid_farewell(&mut self) {
        let latest = self.membership.latest();
        let Some(leader) = self.role.leader() else { return };
        let Some(term) = self.log.term_at(latest.index) else { return };
        let request = AppendEntriesRequest {
            term: self.term(),
            round: leader.round,
            prev: LogId { term, index: latest.index },
            entries: Entries::default(),
            commit_index: self.commit.index,
        };
        let is_removed = |id: &&ServerId| latest.configuration.server(id).is_none();
        let removed: Vec<ServerId> = leader.peers.keys().filter(is_removed).cloned().collect();
        for peer in removed {
            self.send(&peer, Message::AppendEntries(request.clone()));
            self.send_removed(&peer);
        }
    }

    /// Tells a server that it is no longer a member.
    pub(super) fn send_removed(&mut self, peer: &ServerId) {
        let configuration_index = self.membership.committed().index;
        let notice = RemovedNotice { term: self.term(), configuration_index };
        self.send(peer, Message::Removed(notice));
    }

    /// Notes the newest round a majority has answered: it confirms leadership and renews the lease.
    fn confirm_rounds(&mut self) {
        let Some(leader) = self.role.leader() else { return };
        let answered = |id: &ServerId| {
            if *id == self.rules.id {
                leader.round
            } else {
                leader.peers.get(id).map_or(0, |progress| progress.liveness.acked_round)
            }
        };
        let Some(round) = reached_by_majority(self.membership.voters(), answered) else { return };
        let Some(leader) = self.role.leader_mut() else { return };
        if round <= leader.confirmed_round {
            return;
        }
        let is_awaited = leader.confirmed_round < leader.wanted_round;
        leader.confirmed_round = round;
        if let Some(began) = leader.began(round) {
            leader.majority_contact = leader.majority_contact.max(began);
        }
        if is_awaited {
            self.actions.push_back(Action::Verified { round });
        }
    }

    pub(super) fn handle_heartbeat_timeout(&mut self, now: Time) {
        self.notice_lost_peers(now);
        self.notice_stalled_peers(now);
        self.begin_round(now);
        self.record_incarnations(now);
        self.note_committed(now);
        self.hand_over_if_behind(now);
    }

    /// When this leader's lease ends, unless it is a majority by itself.
    pub(super) fn lease_deadline(&self) -> Option<Time> {
        let leader = self.role.leader().filter(|_| !self.is_own_majority())?;
        Some(leader.majority_contact + self.rules.leader_lease_timeout)
    }

    fn is_own_majority(&self) -> bool {
        self.membership.voters().voters().all(|voter| voter.id == self.rules.id)
    }

    fn notice_lost_peers(&mut self, now: Time) {
        let patience = self.rules.election_timeout;
        let Some(leader) = self.role.leader_mut() else { return };
        let mut lost = Vec::new();
        for (peer, progress) in &mut leader.peers {
            if !progress.liveness.is_lost && progress.liveness.contact + patience <= now {
                progress.liveness.is_lost = true;
                lost.push(peer.clone());
            }
        }
        for peer in lost {
            self.observe(Observation::PeerLost { peer });
        }
    }

    /// Replication that stands still although the peer answers: its disk may be stuck, or something
    /// keeps the entries from it that lets heartbeats through.
    fn notice_stalled_peers(&mut self, now: Time) {
        let patience = 2 * self.rules.election_timeout;
        let last = self.log.last().index;
        let Some(leader) = self.role.leader_mut() else { return };
        let mut stalled = Vec::new();
        let mut complete = Vec::new();
        for (peer, progress) in &mut leader.peers {
            if progress.liveness.is_lost {
                progress.liveness.moved_at = now;
            } else if progress.match_index == last {
                complete.push(peer.clone());
            } else if !progress.liveness.is_stalled && progress.liveness.moved_at + patience <= now
            {
                progress.liveness.is_stalled = true;
                stalled.push((peer.clone(), progress.match_index));
            }
        }
        for peer in complete {
            self.has_moved(now, &peer);
        }
        for (peer, match_index) in stalled {
            self.observe(Observation::PeerStalled { peer, match_index });
        }
    }
}
