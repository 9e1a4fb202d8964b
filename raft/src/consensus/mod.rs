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
//! **Deliberately absent:** reply channels, storage, logging, type parameters, the bytes of snapshots.
//! Payloads are never looked into.
//!
//! | file | one idea |
//! |---|---|
//! | `action`, `refusal`, `time`, `rules`, `saved` | what goes in and out |
//! | `election` | timeouts, pre-vote, vote, role changes (thesis §3.4, §9.6, §4.2.3) |
//! | `append` | the follower's side of replication (thesis §3.5) |
//! | `leader` | proposals, replication, commit, verification, lease (thesis §3.6, §6.4, §10.2) |
//! | `transfer` | leadership transfer (thesis §3.10) |
//! | `membership` | configurations in force (thesis §4) |
//! | `disk` | which disk a server runs on: which messages count |
//! | `readiness`, `due` | how far state machines have come: who could serve |
//! | `restore` | a user's restore of the whole cluster |
//! | `snapshot` | compaction, and snapshots sent and received (thesis §5) |
//! | `progress`, `inflights`, `liveness` | one follower seen from the leader |
//! | `commit`, `commit_state` | what is committed, handed out and applied |
//! | `persist`, `writes`, `outbox` | what is on its way to the disk, and what waits for that (law 8) |
//! | `timers`, `election_timer` | everything that happens because time has passed |
//! | `log_view`, `quorum`, `invariants` | terms; majorities; laws |

mod action;
mod append;
mod commit;
mod commit_state;
mod disk;
mod due;
mod election;
mod election_timer;
mod inflights;
mod invariants;
mod leader;
mod liveness;
mod log_view;
mod membership;
mod outbox;
mod persist;
mod progress;
mod quorum;
mod readiness;
mod refusal;
mod restore;
mod role;
mod rules;
mod saved;
#[cfg(test)]
mod sim;
mod snapshot;
mod time;
mod timers;
mod transfer;
mod writes;

use std::{collections::VecDeque, time::Duration};

use rand::RngExt;
use rand_pcg::Pcg64Mcg;

pub use self::{
    action::{
        Action, AppendOrder, ReceiptStep, SnapshotOrder, SnapshotReceipt, TransferFailure,
        Verification, Write, WriteId,
    },
    disk::{Mismatch, Rejected},
    refusal::{
        BootstrapRefusal, ChangeRefusal, NotLeader, ProposeRefusal, RestoreRefusal, TransferRefusal,
    },
    rules::Rules,
    saved::Saved,
    time::Time,
};
use self::{
    commit_state::CommitState,
    disk::DiskIdentity,
    election_timer::ElectionTimer,
    log_view::LogView,
    membership::Membership,
    progress::Progress,
    role::{LeadershipTransfer, RoleState},
    writes::WritePipeline,
};
use crate::{
    configuration::{Configuration, IndexedConfiguration, ServerId},
    error::Leader as LeaderInfo,
    log::{Entries, Entry, EntryPayload},
    observer::Observation,
    position::{LogId, LogIndex, Term},
    rpc::Message,
    stable::HardState,
    status::{PeerStatus, Role, Timeouts},
};

/// One server's consensus state. See the [module](self) for how to drive it.
#[derive(Clone, Debug)]
pub struct Consensus {
    rules: Rules,
    rng: Pcg64Mcg,
    /// Term and vote. Saved before anything that depends on them leaves (law 8).
    hard_state: HardState,
    log: LogView,
    membership: Membership,
    commit: CommitState,
    role: RoleState,
    /// Who leads the current term, if known.
    leader: Option<ServerId>,
    /// Which disk it runs on, and what it remembers of the others'.
    disk: DiskIdentity,
    election: ElectionTimer,
    transfer: Option<LeadershipTransfer>,
    /// How often it has waited in vain.
    timeouts: Timeouts,
    writes: WritePipeline,
    /// Decisions that the owner has not taken yet.
    actions: VecDeque<Action>,
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
        let mut saved = saved;
        saved.log.restored();
        let disk = DiskIdentity::new(&saved);
        let Saved { hard_state, log, mut membership, commit_index, last_applied, .. } = saved;
        let last_applied = last_applied.max(log.snapshot().index);
        assert!(last_applied <= log.last().index, "the state machine is ahead of the log");
        let commit_index = commit_index.min(log.last().index).max(last_applied);
        membership.commit(commit_index);
        let mut consensus = Self {
            rules,
            rng: Pcg64Mcg::new(u128::from(seed) << 64 | 0x5eed),
            hard_state,
            log,
            membership,
            commit: CommitState::new(commit_index, last_applied, now),
            role: RoleState::Follower,
            leader: None,
            disk,
            election: ElectionTimer::new(now),
            transfer: None,
            timeouts: Timeouts::default(),
            writes: WritePipeline::default(),
            actions: VecDeque::new(),
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
    /// [`BootstrapRefusal`] when the server has state, or is not a voter of a valid configuration.
    pub fn bootstrap(
        &mut self,
        now: Time,
        configuration: Configuration,
    ) -> Result<(), BootstrapRefusal> {
        configuration.validate().map_err(BootstrapRefusal::Invalid)?;
        if Term(1) < self.term() || self.log.last() != LogId::ZERO {
            return Err(BootstrapRefusal::AlreadyBootstrapped);
        }
        if !configuration.is_voter(&self.rules.id) {
            return Err(BootstrapRefusal::NotVoter);
        }
        if self.term() < Term(1) {
            self.advance_term(Term(1));
        }
        // The same again if the first write is lost; else drawn from a copy, so that it changes nothing else.
        let is_known = self.incarnation() != 0;
        let salt = if is_known { self.incarnation() } else { self.rng.clone().random() };
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
            self.election_timeout_changed();
        }
        let ask_again_at = now + self.rules.heartbeat_interval;
        if let Some(campaign) = self.role.campaign_mut() {
            campaign.ask_again_at = campaign.ask_again_at.min(ask_again_at);
        }
        let shortened = before.leader_lease_timeout.saturating_sub(self.rules.leader_lease_timeout);
        if let Some(leader) = self.role.leader_mut() {
            leader.majority_contact = now.min(leader.majority_contact + shortened);
            leader.peers.values_mut().for_each(|progress| progress.inflights.let_drain());
            self.begin_round(now);
        }
        self.compact();
        self.finish(now);
    }

    /// What a message says, whoever has sent it: all of [`receive`](Self::receive) where servers keep no
    /// incarnations.
    ///
    /// # Panics
    /// If the message proves that a law is broken, for example a second leader of one term.
    pub fn handle_message(&mut self, now: Time, from: &ServerId, message: Message) {
        if !self.heed(now, from, &message) {
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
            Message::InstallSnapshot(chunk) if is_current => {
                self.follow(now, from);
                self.handle_install_snapshot(now, from, &chunk);
            }
            Message::InstallSnapshot(chunk) => {
                self.refuse_stale_snapshot(now, from, chunk.transfer);
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
            progress.liveness.failed_round = leader.round;
        }
    }

    /// The next decision to carry out, in order; `None` when all are taken.
    pub fn poll_action(&mut self) -> Option<Action> {
        let is_end = matches!(self.actions.front(), Some(Action::RolledBack { .. }));
        if self.disk.is_rolled_back() && !is_end {
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
        self.rules.max_unapplied_entries <= self.log.last().index.since(self.commit.applied)
            || self.rules.max_unapplied_bytes <= self.log.known_cost_bytes(self.commit.applied)
    }

    /// This server.
    #[cfg(any(test, feature = "unstable-core"))]
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
    #[cfg(any(test, feature = "unstable-core"))]
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
    #[cfg(any(test, feature = "unstable-core"))]
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
    #[cfg(any(test, feature = "unstable-core"))]
    #[must_use]
    pub fn stable_index(&self) -> LogIndex {
        self.log.stable()
    }

    /// The last index it knows to be committed.
    #[must_use]
    pub fn commit_index(&self) -> LogIndex {
        self.commit.index
    }

    /// The last index reported as applied.
    #[must_use]
    pub fn last_applied(&self) -> LogIndex {
        self.commit.applied
    }

    /// How long ago it heard from its leader: zero on a leader, `None` if it never did.
    #[must_use]
    pub fn last_contact(&self, now: Time) -> Option<Duration> {
        if self.role.leader().is_some() {
            return Some(Duration::ZERO);
        }
        self.election.leader_contact.map(|contact| now.since(contact))
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
            last_contact: now.since(progress.liveness.contact),
            round_trip: progress.liveness.round_trip,
            is_lost: progress.liveness.is_lost,
            is_stalled: progress.liveness.is_stalled,
            inflight: progress.inflights.len(),
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
            assert!(self.commit.index < from, "law 10: truncation of committed index {from}");
            self.log.truncate(from);
            is_changed |= self.membership.truncate(from);
            self.writes.truncate(from.prev());
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

    /// Removes the whole log, whose place a snapshot that ends at `index` has taken.
    fn write_reset(&mut self, now: Time, index: LogIndex) -> WriteId {
        self.write(now, Some(index), None, Entries::default())
    }

    /// Sends a message that promises nothing.
    fn send(&mut self, to: &ServerId, mut message: Message) {
        self.stamp(to, &mut message);
        self.actions.push_back(Action::Send { to: to.clone(), message });
    }

    fn observe(&mut self, observation: Observation) {
        self.actions.push_back(Action::Observe(observation));
    }

    fn configuration_changed(&mut self, now: Time) {
        let configuration = self.membership.latest().clone();
        self.observe(Observation::ConfigurationChanged { configuration });
        self.emit_peers();
        self.forget_disks();
        self.reset_progress(now);
    }

    fn emit_peers(&mut self) {
        let peers = self.membership.peers(&self.rules.id);
        self.actions.push_back(Action::SetPeers(peers));
    }

    /// Ends every public call: nothing stays unwritten, every law holds.
    fn finish(&mut self, now: Time) {
        self.write_hard_state(now);
        self.assert_invariants();
    }
}

#[cfg(test)]
mod tests;
