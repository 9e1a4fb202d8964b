//! The consensus core: a deterministic state machine that makes every protocol decision.
//!
//! *Facts go in as methods, decisions come out as [`Action`]s.* Time is a parameter and randomness
//! a seed; there is no async, no clock, no I/O and no thread here, and the entries of the log pass
//! through without being kept. The owner (the `run` task, a simulator, or a program that drives the
//! core by hand) calls a method, then drains [`Consensus::poll_action`], then waits for the next
//! fact or for [`Consensus::next_timeout`].
//!
//! **Flow of a write.** `propose` assigns indices and emits `Write` and `Replicate` together;
//! followers answer when their own `Write` is durable; `handle_message` and `handle_written` move
//! match indices; a majority of them moves the commit index; `Commit` follows.
//!
//! **Laws** asserted here, by their numbers in ARCHITECTURE.md: 1 and 2 (roles), 3 and 10
//! (truncation), 6 (monotonic), 8 (outbox), 9 and 13 (commit and quorum), 11 (follower commit), 12
//! (replies), 15 (transfer). A broken law is a panic, which ends the node.
//!
//! **Deliberately absent:** reply channels, storage, logging, type parameters. Payloads are never looked into.
//!
//! | file | one idea |
//! |---|---|
//! | `action`, `time`, `rules`, `saved` | what goes in and out |
//! | `election` | timeouts, pre-vote, vote, role changes (thesis §3.4, §9.6, §4.2.3) |
//! | `append` | the follower's side of replication (thesis §3.5) |
//! | `leader` | proposals, replication, commit, verification, lease (thesis §3.6, §6.4, §10.2) |
//! | `transfer` | leadership transfer (thesis §3.10) |
//! | `membership` | configurations in force (thesis §4) |
//! | `incarnation` | whose disk is whose: which messages are believed |
//! | `promised` | older copies of a disk: what others remember of it |
//! | `known` | what is remembered of the members' disks |
//! | `readiness`, `due` | how far state machines have come: who could serve |
//! | `restore` | a user's restore of the whole cluster |
//! | `snapshot` | compaction, and snapshots sent and received (thesis §5) |
//! | `progress` | one follower seen from the leader |
//! | `log_view`, `quorum`, `outbox`, `invariants` | terms; majorities; promises; laws |

mod action;
mod append;
mod due;
mod election;
mod incarnation;
mod invariants;
mod known;
mod leader;
mod log_view;
mod membership;
mod outbox;
mod progress;
mod promised;
mod quorum;
mod readiness;
mod restore;
mod role;
mod rules;
mod saved;
#[cfg(test)]
mod sim;
mod snapshot;
mod time;
mod transfer;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use rand::RngExt;
use rand_pcg::Pcg64Mcg;

pub use self::{
    action::{
        Action, AppendOrder, ReceiptStep, Refusal, SnapshotOrder, SnapshotReceipt, TransferFailure,
        Verification, Write, WriteId,
    },
    incarnation::Mismatch,
    rules::Rules,
    saved::Saved,
    time::Time,
};
use self::{
    due::Due,
    known::{Known, Question},
    log_view::LogView,
    membership::Membership,
    outbox::Outbox,
    progress::Progress,
    role::{LeadershipTransfer, RoleState},
};
use crate::{
    configuration::{ClusterId, Configuration, IndexedConfiguration, ServerId},
    error::Leader as LeaderInfo,
    log::{Entries, Entry, EntryPayload},
    observer::Observation,
    position::{LogId, LogIndex, Term},
    rpc::{Envelope, Message},
    stable::HardState,
    status::{PeerStatus, Role, Timeouts},
};

/// One server's consensus state. See the [module](self) for how to drive it.
#[derive(Clone, Debug)]
pub struct Consensus {
    rules: Rules,
    /// Which disk it runs on, and which start from that this is; 0 if that is not kept.
    incarnation: u64,
    life: u64,
    /// The term, and the end of the log, that this life began with.
    began_with: (Term, LogId),
    rng: Pcg64Mcg,
    /// Term and vote. Saved before anything that depends on them leaves (law 8).
    hard_state: HardState,
    /// Whether `hard_state` has changed since the last write.
    is_hard_state_dirty: bool,
    log: LogView,
    membership: Membership,
    /// The last index known to be committed. Never falls (law 6).
    commit_index: LogIndex,
    /// The last index handed out by `Action::Commit`.
    applying: LogIndex,
    /// The last index reported as applied. Never falls (law 6).
    last_applied: LogIndex,
    role: RoleState,
    /// Who leads the current term, if known.
    leader: Option<ServerId>,
    /// The last word from a leader of the current term, or of the term before on the way to a vote.
    leader_contact: Option<Time>,
    /// The last index a leader of the current term has vouched for; zero in a new term.
    vouched: LogIndex,
    /// Of a server that belongs to no cluster: that of the leader it follows.
    courted: ClusterId,
    /// What is known of the members' disks.
    known: BTreeMap<ServerId, Known>,
    /// What it has asked everybody at its start, as long as it waits for that.
    question: Option<Question>,
    /// Whether all have answered, for the simulator, which has to know that it was found out or not.
    #[cfg(test)]
    has_asked_all: bool,
    /// It has been in this term before all had answered, and votes in it, and before it, for nobody.
    no_vote_through: Term,
    /// Whether it has found its disk to be an older copy: nothing leaves it any more.
    is_rolled_back: bool,
    /// Whether an earlier life of its disk has.
    was_rolled_back: bool,
    /// Since when a server that does not lead is waiting, and when it gives up.
    waiting_since: Time,
    election_deadline: Time,
    transfer: Option<LeadershipTransfer>,
    /// How often it has waited in vain.
    timeouts: Timeouts,
    /// Writes that are not durable yet, oldest first.
    writes: VecDeque<PendingWrite>,
    /// The newest write that is durable.
    written: WriteId,
    next_write: WriteId,
    /// A snapshot that has been adopted, and the write that resets the log for it: the state
    /// machine follows when that is durable.
    restoring: Option<(WriteId, LogId)>,
    outbox: Outbox,
    actions: VecDeque<Action>,
    /// What a state machine must have applied by now, so that its server could serve.
    due: Due,
    /// Whether it has waited longer than others for a leader since it knew of one.
    has_let_others_go_first: bool,
}

/// A write that is not durable yet.
#[derive(Clone, Debug)]
struct PendingWrite {
    id: WriteId,
    /// The last index that is durable, and still in the log, once this write is. Lowered when a
    /// later truncation makes part of the write void: that is the ABA rule.
    last: LogIndex,
    has_hard_state: bool,
    /// Whether it resets the log: no promise may leave before that is durable.
    is_reset: bool,
    issued_at: Time,
}

impl Consensus {
    /// A server in the state it was found in on disk, as a follower. What is known to be committed
    /// is handed out at once, without waiting for a leader. `seed` decides its election
    /// timeouts; equal seeds and equal calls give equal actions.
    ///
    /// # Panics
    /// If the state machine says that it has applied more than the log has.
    #[must_use]
    pub fn new(rules: Rules, saved: Saved, seed: u64, now: Time) -> Self {
        let Saved { hard_state, incarnation, life, mut log, mut membership, .. } = saved;
        let (commit_index, last_applied) = (saved.commit_index, saved.last_applied);
        log.restored();
        let last_applied = last_applied.max(log.snapshot().index);
        assert!(last_applied <= log.last().index, "the state machine is ahead of the log");
        let commit_index = commit_index.min(log.last().index).max(last_applied);
        membership.commit(commit_index);
        let mut consensus = Self {
            rules,
            incarnation,
            life,
            began_with: (hard_state.current_term, log.last()),
            rng: Pcg64Mcg::new(u128::from(seed) << 64 | 0x5eed),
            hard_state,
            is_hard_state_dirty: false,
            log,
            membership,
            commit_index,
            applying: last_applied,
            last_applied,
            role: RoleState::Follower,
            leader: None,
            leader_contact: None,
            vouched: LogIndex::ZERO,
            courted: ClusterId::NONE,
            known: BTreeMap::new(),
            question: None,
            #[cfg(test)]
            has_asked_all: false,
            no_vote_through: Term(0),
            is_rolled_back: false,
            was_rolled_back: saved.was_rolled_back,
            waiting_since: now,
            election_deadline: now,
            transfer: None,
            timeouts: Timeouts::default(),
            writes: VecDeque::new(),
            written: WriteId(0),
            next_write: WriteId(1),
            restoring: None,
            outbox: Outbox::default(),
            actions: VecDeque::new(),
            due: Due::new(commit_index, now),
            has_let_others_go_first: false,
        };
        consensus.reset_election_deadline(now);
        consensus.emit_peers();
        consensus.emit_commit();
        consensus.begin_to_ask(now);
        consensus.assert_invariants();
        consensus
    }

    /// Makes this server the first of a new cluster: appends `configuration` at index 1, term 1.
    ///
    /// Term 1 alone is no state: it is what a bootstrap leaves whose write was cut short between
    /// the term and the entry. Who has heard of a bootstrapped cluster has at least term 2.
    ///
    /// # Errors
    /// [`Refusal`] when the server has state, or is not a voter of a valid configuration.
    pub fn bootstrap(&mut self, now: Time, configuration: Configuration) -> Result<(), Refusal> {
        configuration.validate().map_err(Refusal::Invalid)?;
        if Term(1) < self.term() || self.log.last() != LogId::ZERO {
            return Err(Refusal::AlreadyBootstrapped);
        }
        if !configuration.is_voter(&self.rules.id) {
            return Err(Refusal::NotVoter);
        }
        if self.term() < Term(1) {
            self.advance_term(Term(1));
        }
        // The same again if the first write is lost; else drawn from a copy, so that it changes nothing else.
        let is_known = self.incarnation != 0;
        let salt = if is_known { self.incarnation } else { self.rng.clone().random() };
        let configuration = configuration.founding(salt);
        self.append(now, vec![EntryPayload::Configuration(configuration)]);
        // The only voter of a cluster has nobody to wait for.
        if self.membership.voters().voters().count() == 1 {
            self.campaign(now, false);
        }
        self.finish(now);
        Ok(())
    }

    /// Puts other rules in force, at once: nothing that was promised under the old ones is broken,
    /// and what they allowed and the new ones do not is let run out.
    ///
    /// - A server that waits for a leader goes on waiting from the same moment as before, for as
    ///   long as the new rules say; that may be over already.
    /// - A leader begins a round at once, so that the new lease and patience are measured by answers
    ///   of now and not by those to heartbeats that were further apart. A shorter lease never ends
    ///   later than the one it replaces.
    /// - A window that is larger than the new maximum drains; what is held back in the log beyond
    ///   what the new rules keep is let go.
    /// - A transfer under way keeps its deadline, and a campaign the kind it has.
    ///
    /// # Panics
    /// If the rules are another server's.
    pub fn set_rules(&mut self, now: Time, rules: Rules) {
        assert!(self.rules.id == rules.id, "the rules of {} given to {}", rules.id, self.rules.id);
        let before = std::mem::replace(&mut self.rules, rules);
        if before.election_timeout != self.rules.election_timeout {
            self.reset_election_deadline(self.waiting_since);
        }
        let ask_again_at = now + self.rules.heartbeat_interval;
        if let Some(campaign) = self.role.campaign_mut() {
            campaign.ask_again_at = campaign.ask_again_at.min(ask_again_at);
        }
        let shortened = before.leader_lease_timeout.saturating_sub(self.rules.leader_lease_timeout);
        if let Some(leader) = self.role.leader_mut() {
            leader.majority_contact = now.min(leader.majority_contact + shortened);
            leader.peers.values_mut().for_each(Progress::let_drain);
            self.begin_round(now);
        }
        self.compact();
        self.finish(now);
    }

    /// A message has arrived, and was [admitted](Self::admit).
    ///
    /// # Panics
    /// If the message proves that a law is broken, for example a second leader of one term.
    pub fn receive(&mut self, now: Time, envelope: Envelope) {
        self.learn_incarnation(&envelope);
        self.hear(&envelope);
        let Envelope { from, cluster, message, .. } = envelope;
        self.handle_message(now, &from, message);
        if self.leader.as_ref() == Some(&from) && !self.cluster().is_some() {
            self.courted = cluster;
        }
    }

    /// What a message says, whoever has sent it: all of [`receive`](Self::receive) where servers keep no
    /// incarnations.
    ///
    /// # Panics
    /// If the message proves that a law is broken, for example a second leader of one term.
    pub fn handle_message(&mut self, now: Time, from: &ServerId, message: Message) {
        self.give_up_question(now);
        if self.has_forgotten(from, &message) {
            return;
        }
        match message {
            Message::RequestVote(request) => self.handle_request_vote(now, from, &request),
            Message::RequestVoteReply(reply) => self.handle_request_vote_reply(now, from, &reply),
            message => self.handle_in_term(now, from, message),
        }
        self.finish(now);
    }

    /// The one term check (law 12): a newer term is adopted, an older one is refused or ignored.
    fn handle_in_term(&mut self, now: Time, from: &ServerId, message: Message) {
        let term = message.term();
        if self.hard_state.current_term < term {
            self.become_follower(now, term);
        }
        let is_current = term == self.hard_state.current_term;
        match message {
            Message::AppendEntries(request) if is_current => {
                self.follow(now, from);
                self.handle_append_entries(now, from, request);
            }
            Message::Heartbeat(request) if is_current => {
                self.follow(now, from);
                self.handle_heartbeat(now, from, &request);
            }
            Message::AppendEntries(request) => self.refuse_stale(now, from, request.round),
            Message::Heartbeat(request) => self.refuse_stale(now, from, request.round),
            Message::AppendEntriesReply(reply) if is_current => {
                self.handle_append_entries_reply(now, from, &reply);
            }
            Message::HeartbeatReply(reply) if is_current => {
                self.handle_heartbeat_reply(now, from, &reply);
            }
            Message::TimeoutNow(_) if is_current => self.handle_timeout_now(now, from),
            Message::InstallSnapshot(piece) if is_current => {
                self.follow(now, from);
                self.handle_install_snapshot(now, from, piece);
            }
            Message::InstallSnapshot(piece) => {
                self.refuse_stale_snapshot(now, from, piece.transfer);
            }
            Message::InstallSnapshotReply(reply) if is_current => {
                self.handle_install_snapshot_reply(now, from, reply);
            }
            Message::Removed(notice) if is_current => {
                self.follow(now, from);
                self.handle_removed(&notice);
            }
            Message::AppendEntriesReply(_)
            | Message::HeartbeatReply(_)
            | Message::TimeoutNow(_)
            | Message::InstallSnapshotReply(_)
            | Message::Removed(_)
            | Message::RequestVote(_)
            | Message::RequestVoteReply(_) => {}
        }
    }

    /// A write, and every write before it, is durable.
    ///
    /// # Panics
    /// If the id was never issued.
    pub fn handle_written(&mut self, now: Time, id: WriteId) {
        assert!(id < self.next_write, "I8: {id} was never issued");
        while self.writes.front().is_some_and(|write| write.id <= id) {
            let Some(write) = self.writes.pop_front() else { break };
            self.log.set_stable(write.last);
        }
        self.written = self.written.max(id);
        self.outbox.release(self.written, &mut self.actions);
        self.count_own_vote(now);
        self.advance_commit(now);
        self.emit_restore();
        self.emit_commit();
        self.finish(now);
    }

    /// The state machine has applied everything up to `index`.
    ///
    /// # Panics
    /// If that was never handed out, or `index` falls (law 6).
    pub fn handle_applied(&mut self, _now: Time, index: LogIndex) {
        assert!(index <= self.applying, "I1: applied {index} beyond {}", self.applying);
        assert!(self.last_applied <= index, "law 6: last applied falls to {index}");
        self.last_applied = index;
    }

    /// The transport could not deliver entries to `peer`.
    pub fn handle_unreachable(&mut self, now: Time, peer: &ServerId) {
        self.handle_heartbeat_failed(peer);
        if let Some(progress) = self.role.leader_mut().and_then(|leader| leader.peers.get_mut(peer))
        {
            progress.unreachable();
        }
        self.finish(now);
    }

    /// The transport did not take a heartbeat for `peer`: there is no way to it, until it answers a
    /// later one.
    pub fn handle_heartbeat_failed(&mut self, peer: &ServerId) {
        if let Some(leader) = self.role.leader_mut()
            && let Some(progress) = leader.peers.get_mut(peer)
        {
            progress.failed_round = leader.round;
        }
    }

    /// The time of [`next_timeout`](Self::next_timeout) has come. Calling it early changes nothing.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.is_rolled_back {
            return;
        }
        self.ask_again(now);
        if self.role.leader().is_some() {
            self.handle_leader_timeout(now);
        } else {
            self.handle_election_timeout(now);
        }
        self.handle_transfer_timeout(now);
        self.finish(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is next due; `None` if nothing is waited for.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Time> {
        if self.is_rolled_back {
            return None;
        }
        let role = if self.role.leader().is_some() {
            self.next_leader_timeout()
        } else {
            self.next_election_timeout()
        };
        let transfer = self.transfer.as_ref().map(|transfer| transfer.deadline);
        role.into_iter().chain(transfer).chain(self.next_question()).min()
    }

    /// The next decision to carry out, in order; `None` when all are taken.
    pub fn poll_action(&mut self) -> Option<Action> {
        let is_end = matches!(self.actions.front(), Some(Action::RolledBack { .. }));
        if self.is_rolled_back && !is_end {
            self.actions.clear();
        }
        self.actions.pop_front()
    }

    /// Whether this leader has accepted so much that is not applied that it should take no more
    /// requests. A server that does not lead refuses them at once, which costs nothing: it must not
    /// keep them waiting because its log is long (after a start nothing of it is applied).
    #[must_use]
    pub fn is_saturated(&self) -> bool {
        if self.role.leader().is_none() {
            return false;
        }
        self.has_much_to_apply() || self.is_write_window_full()
    }

    /// Whether so much of the log is not applied that a leader takes no more requests.
    fn has_much_to_apply(&self) -> bool {
        self.rules.max_unapplied_entries <= self.log.last().index.since(self.last_applied)
            || self.rules.max_unapplied_bytes <= self.log.known_cost_bytes(self.last_applied)
    }

    /// Whether so many writes are waiting for the disk that no more entries should be taken,
    /// neither requests nor messages that carry them.
    #[must_use]
    pub fn is_write_window_full(&self) -> bool {
        self.rules.max_pending_writes <= self.writes.len()
    }

    /// Whether twice as many are waiting: then no message at all should be taken. Only a stuck disk
    /// and many changes of term lead here.
    #[must_use]
    pub fn is_write_window_overrun(&self) -> bool {
        2 * self.rules.max_pending_writes <= self.writes.len()
    }

    /// This server.
    #[must_use]
    pub fn id(&self) -> &ServerId {
        &self.rules.id
    }

    /// The part it plays.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role.role()
    }

    /// Its term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.hard_state.current_term
    }

    /// Its term and vote.
    #[must_use]
    pub fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    /// Who leads its term, as far as it knows.
    #[must_use]
    pub fn leader(&self) -> Option<LeaderInfo> {
        self.leader.as_ref().map(|id| LeaderInfo {
            id: id.clone(),
            address: self
                .latest_configuration()
                .configuration
                .server(id)
                .map(|s| s.address.clone()),
            term: self.term(),
        })
    }

    /// Its last entry, durable or not.
    #[must_use]
    pub fn last(&self) -> LogId {
        self.log.last()
    }

    /// The first index its log still has.
    #[must_use]
    pub fn first_index(&self) -> LogIndex {
        self.log.first_index()
    }

    /// The last entry covered by its newest snapshot.
    #[must_use]
    pub fn snapshot(&self) -> LogId {
        self.log.snapshot()
    }

    /// The bytes of all entries that were ever in its log, counted by
    /// [`Entry::cost_bytes`](crate::Entry::cost_bytes). Never falls: how much the log has grown
    /// between two moments is the difference.
    #[must_use]
    pub fn appended_bytes(&self) -> u64 {
        self.log.appended_bytes()
    }

    /// The last index durable on this server.
    #[must_use]
    pub fn stable_index(&self) -> LogIndex {
        self.log.stable()
    }

    /// The last index it knows to be committed.
    #[must_use]
    pub fn commit_index(&self) -> LogIndex {
        self.commit_index
    }

    /// The last index reported as applied.
    #[must_use]
    pub fn last_applied(&self) -> LogIndex {
        self.last_applied
    }

    /// How long ago it heard from its leader: zero on a leader, `None` if it never did.
    #[must_use]
    pub fn last_contact(&self, now: Time) -> Option<Duration> {
        if self.role.leader().is_some() {
            return Some(Duration::ZERO);
        }
        self.leader_contact.map(|contact| now.since(contact))
    }

    /// The configuration in force.
    #[must_use]
    pub fn latest_configuration(&self) -> &IndexedConfiguration {
        self.membership.latest()
    }

    /// The newest configuration known to be committed.
    #[must_use]
    pub fn committed_configuration(&self) -> &IndexedConfiguration {
        self.membership.committed()
    }

    /// How often it has waited in vain since it started.
    #[must_use]
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// How many writes are not durable yet.
    #[must_use]
    pub fn pending_writes(&self) -> usize {
        self.writes.len()
    }

    /// On a leader, how far each peer has come.
    #[must_use]
    pub fn peers(&self, now: Time) -> Vec<PeerStatus> {
        let Some(leader) = self.role.leader() else { return Vec::new() };
        let status = |(id, progress): (&ServerId, &Progress)| PeerStatus {
            id: id.clone(),
            progress: progress.state,
            match_index: progress.match_index,
            next_index: progress.next_index,
            lag_entries: self.log.last().index.since(progress.match_index),
            last_contact: now.since(progress.contact),
            round_trip: progress.round_trip,
            is_lost: progress.is_lost,
            is_stalled: progress.is_stalled,
            inflight: progress.inflight(),
            snapshot_received_bytes: progress.received_bytes(),
            snapshot_size_bytes: None,
            applied_index: progress.applied_index,
            can_serve: self.peer_can_serve(progress),
        };
        leader.peers.iter().map(status).collect()
    }

    /// Adds entries of the current term after the last one and writes them.
    fn append(&mut self, now: Time, payloads: Vec<EntryPayload>) -> LogIndex {
        let first = self.log.last().index.next();
        let term = self.hard_state.current_term;
        let number = |(offset, payload)| Entry { term, index: first.plus(offset), payload };
        let entries: Vec<Entry> = payloads.into_iter().enumerate().map(number).collect();
        self.append_entries(now, None, Entries::new(entries));
        first
    }

    /// Replaces everything from `truncate_from` on by `entries`, in one write.
    fn append_entries(&mut self, now: Time, truncate_from: Option<LogIndex>, entries: Entries) {
        let mut is_changed = false;
        if let Some(from) = truncate_from {
            assert!(self.commit_index < from, "law 10: truncation of committed index {from}");
            self.log.truncate(from);
            is_changed |= self.membership.truncate(from);
            for write in &mut self.writes {
                write.last = write.last.min(from.prev());
            }
        }
        for entry in entries.iter() {
            self.log.push(entry);
            is_changed |= self.membership.append(entry);
        }
        self.write(now, None, truncate_from, entries);
        if is_changed {
            self.configuration_changed(now);
        }
    }

    /// Writes entries together with whatever of the hard state is not written yet.
    fn write(
        &mut self,
        now: Time,
        reset_to: Option<LogIndex>,
        truncate_from: Option<LogIndex>,
        entries: Entries,
    ) -> WriteId {
        let hard_state = self.is_hard_state_dirty.then(|| self.hard_state.clone());
        self.is_hard_state_dirty = false;
        let id = self.next_write;
        self.next_write = WriteId(id.0 + 1);
        self.writes.push_back(PendingWrite {
            id,
            last: self.log.last().index,
            has_hard_state: hard_state.is_some(),
            is_reset: reset_to.is_some(),
            issued_at: now,
        });
        let commit_index = self.commit_index;
        let write = Write { id, hard_state, reset_to, truncate_from, entries, commit_index };
        self.actions.push_back(Action::Write(write));
        id
    }

    fn write_hard_state(&mut self, now: Time) {
        if self.is_hard_state_dirty {
            self.write(now, None, None, Entries::default());
        }
    }

    /// Removes the whole log, whose place a snapshot that ends at `index` has taken.
    fn write_reset(&mut self, now: Time, index: LogIndex) -> WriteId {
        self.write(now, Some(index), None, Entries::default())
    }

    /// Sends a message that promises the current term, and everything up to `index` if given: when
    /// that is durable (law 8).
    fn send_when_durable(
        &mut self,
        now: Time,
        to: &ServerId,
        message: Message,
        index: Option<LogIndex>,
    ) {
        self.write_hard_state(now);
        let hard_state =
            self.writes.iter().rev().find(|write| write.has_hard_state || write.is_reset);
        let log = index
            .filter(|index| self.log.stable() < *index)
            .and_then(|index| self.writes.iter().find(|write| index <= write.last));
        let gate = hard_state.into_iter().chain(log).map(|write| write.id).max();
        match gate {
            Some(until) => self.outbox.hold(until, to.clone(), message),
            None => self.send(to, message),
        }
    }

    /// Sends a message that promises nothing.
    fn send(&mut self, to: &ServerId, message: Message) {
        self.actions.push_back(Action::Send { to: to.clone(), message });
    }

    fn observe(&mut self, observation: Observation) {
        self.actions.push_back(Action::Observe(observation));
    }

    fn configuration_changed(&mut self, now: Time) {
        let configuration = self.membership.latest().clone();
        self.observe(Observation::ConfigurationChanged { configuration });
        self.emit_peers();
        self.reset_progress(now);
    }

    fn emit_peers(&mut self) {
        let peers = self.membership.peers(&self.rules.id);
        self.actions.push_back(Action::SetPeers(peers));
    }

    /// Hands out what is committed and durable here (I1).
    fn emit_commit(&mut self) {
        let up_to = self.commit_index.min(self.log.stable());
        if self.applying < up_to && self.restoring.is_none() {
            self.applying = up_to;
            self.actions.push_back(Action::Commit { up_to });
        }
    }

    /// Ends every public call: nothing stays unwritten, every law holds.
    fn finish(&mut self, now: Time) {
        self.write_hard_state(now);
        self.assert_invariants();
    }

    /// Whether the oldest write has been under way for too long: the disk is stuck.
    fn is_disk_stalled(&self, now: Time) -> bool {
        self.stall_deadline().is_some_and(|deadline| deadline <= now)
    }

    fn stall_deadline(&self) -> Option<Time> {
        self.writes.front().map(|write| write.issued_at + self.rules.write_stall_timeout)
    }
}

#[cfg(test)]
mod tests;
