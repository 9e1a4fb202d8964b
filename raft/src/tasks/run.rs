//! `run`: the task that owns consensus.
//!
//! One turn: wait until anything is ready, take **everything** that is ready (a bounded batch from
//! each source, in a fixed order: signals of the other tasks, messages, the time, requests), tell the
//! core, show the new state, carry out what the core decided. It waits in one place only, never blocks,
//! and touches neither disk nor state machine, so a heartbeat never waits for either.
//!
//! When the core is saturated no commands are taken up, and when its window of writes is full no
//! messages with entries either: they stay in their bounded queues, and whoever fills these waits.
//! Heartbeats and votes have a lane of their own and go on, and so do all requests that bring no
//! entries.
//!
//! **The time comes last.** A process that stood still finds its timers due and the reason why they
//! should not be in its queues: so whatever had arrived is told first, to its end, see
//! [`Run::take_time`]. No timer suffers from that. An election only comes later. A lease that is over is
//! not renewed by it, because contact counts from when the question was sent.

use std::{future::poll_fn, sync::Arc, task::Poll};

use tokio::sync::{mpsc, oneshot};

use super::{
    clock::Alarm,
    metrics::Metrics,
    node::Requests,
    peers::Peers,
    pending::Waiters,
    receive_snapshot::Piece,
    refusals::Refusals,
    request::{Change, Pending, PendingBatch, Proposal, Proposed, Request, RestoreData, Waiter},
    restore_cluster::{self, RestoreCluster, Restoring},
    run_fsm::{Advance, FsmRequest},
    run_log::{LogRequest, Queued},
    run_snapshots::SnapshotRequest,
    sample::Sampler,
    shared::{Shared, SnapshotNews},
    supervise::{AbortOnDrop, Tasks},
    vain::Vain,
};
use crate::{
    config::Config,
    configuration::ClusterId,
    consensus::{Action, Consensus, Mismatch, Rules, Time, Write, WriteId},
    error::{
        BootstrapError, ConfigError, Fatal, Leader, ReloadError, RestoreError, SnapshotError,
        VerifyError,
    },
    future::Responder,
    log::EntryPayload,
    observer::Observation,
    position::{LogId, LogIndex, Term},
    rpc::{AppendEntriesReply, AppendOutcome, Envelope, Message},
    snapshot::SnapshotId,
    status::{Role, Status, WrongDisk},
    transport::Received,
};

/// Messages taken in one turn at most. Each can cause a write, so a turn can overshoot the core's
/// window by this many.
const MESSAGES_MAX: usize = 64;

/// Requests taken in one turn at most.
const REQUESTS_MAX: usize = 1024;

/// What arrives from outside. It outlives the loop that reads it, also when that panics, so that
/// what is still queued can be answered.
pub(super) struct Mail<R> {
    pub(super) requests: Requests<R>,
    pub(super) inbox: Received,
}

pub(super) struct Run<R> {
    pub(super) core: Consensus,
    pub(super) shared: Arc<Shared>,
    pub(super) waiters: Waiters<R>,
    pub(super) peers: Peers,
    pub(super) refusals: Refusals,
    pub(super) tasks: Tasks,
    pub(super) metrics: Arc<Metrics>,
    pub(super) alarm: Alarm,
    pub(super) run_log: mpsc::UnboundedSender<LogRequest>,
    pub(super) run_fsm: mpsc::UnboundedSender<FsmRequest<R>>,
    pub(super) run_snapshots: mpsc::Sender<SnapshotRequest>,
    pub(super) receive_snapshot: mpsc::Sender<Piece>,
    pub(super) turn: Turn<R>,
    pub(super) sampler: Sampler,
    pub(super) vain: Vain,
    /// Since when this server campaigns.
    pub(super) campaigning_since: Option<Time>,
}

/// What one turn works on, and what the turns remember.
pub(super) struct Turn<R> {
    messages: Vec<Envelope>,
    /// Chunks of snapshots, until the core has said whether to keep them.
    pieces: Vec<Piece>,
    requests: Vec<Request<R>>,
    /// What was proposed and not yet passed to the core.
    payloads: Vec<EntryPayload>,
    /// Who waits for it, at first by position in `payloads`.
    proposers: Vec<Waiter<R>>,
    verifiers: Vec<Responder<LogIndex, VerifyError>>,
    bootstrapper: Option<Responder<(), BootstrapError>>,
    restoring: Option<Restoring>,
    /// Waits until what follows from its snapshot is shown.
    snapshot_taker: Option<oneshot::Sender<()>>,
    /// Accepted, and passed on when everything else is: the peers have the longer way.
    writes: Vec<LogRequest>,
    /// The newest write passed on to `run_log`, and the generation of the log since then.
    issued: WriteId,
    generation: u64,
    /// How much of the other tasks' progress the core knows.
    written: WriteId,
    applied: LogIndex,
    /// The newest request to `run_fsm`, while it is one that nobody waits for.
    advance: Option<Arc<Advance>>,
    /// This server was removed, and ends when this much is applied: then those who wait for what is
    /// committed have their answer.
    ends_at: Option<LogIndex>,
    /// Whether `run_fsm` was told to wake this task.
    awaits_applied: bool,
    inbox_is_closed: bool,
    /// How many requests the last turn that took any has taken.
    last_requests: usize,
    /// While a timer of the core is due: the turns until everything is told that had arrived before.
    turns_until_time: Option<usize>,
}

impl<R> Turn<R> {
    pub(super) fn new(applied: LogIndex) -> Self {
        Self {
            messages: Vec::new(),
            pieces: Vec::new(),
            requests: Vec::new(),
            payloads: Vec::new(),
            proposers: Vec::new(),
            verifiers: Vec::new(),
            bootstrapper: None,
            restoring: None,
            snapshot_taker: None,
            writes: Vec::new(),
            issued: WriteId::default(),
            generation: 0,
            written: WriteId::default(),
            applied,
            advance: None,
            ends_at: None,
            awaits_applied: false,
            inbox_is_closed: false,
            last_requests: 0,
            turns_until_time: None,
        }
    }

    /// Whether it is worth letting other tasks run before this turn begins: requests came in
    /// company last time, and this time the company is smaller.
    fn expects_more_requests(&self) -> bool {
        let count = self.requests.len();
        0 < count && count <= self.last_requests && 1 < self.last_requests
    }
}

impl<R: Send + 'static> Run<R> {
    /// Runs until the node ends.
    pub(super) async fn run(&mut self, mail: &mut Mail<R>) {
        self.peers.check_own_address(&self.core.latest_configuration().configuration);
        self.show_and_act(self.shared.clock.now());
        while !self.shared.end.has_begun() {
            self.wait(mail).await;
            let now = self.shared.clock.now();
            self.shared.run_busy.begin(|| now);
            if self.sampler.due_at() <= now {
                let (node, mail) = ((&self.core, &*self.shared), (&mail.requests, &mail.inbox));
                self.sampler.look(now, node, mail, &self.metrics);
                self.metrics.wrong_disks(
                    self.wrong_disks(now).len() + usize::from(self.refusals.own().is_some()),
                );
                self.metrics.log_trouble(self.peers.log_trouble().is_some());
            }
            // Before the time: how far this server has come decides whether it campaigns.
            self.take_signals(now);
            self.take_messages(now);
            self.take_time(now, &mail.inbox);
            if self.core.is_saturated() {
                mail.requests.time_out(now);
            }
            self.take_requests(now);
            self.show_and_act(now);
            self.end_if_removed();
            if self.turn.inbox_is_closed {
                self.shared.stop(Fatal::TransportClosed);
            }
            self.shared.run_busy.end(|| self.shared.clock.now());
        }
        self.sampler.count_lost(&self.core, &self.shared, &self.metrics);
    }

    /// Answers whoever still waits, with the end of the node, and closes the other tasks' queues.
    pub(super) fn end(self) -> Tasks {
        self.tasks
    }

    /// Waits until something is ready, and takes a batch from every source that is. The sources are
    /// polled in a fixed order; taking from one is never undone, so nothing is lost.
    ///
    /// A task that is woken runs next, before others that are ready, so the first of many callers
    /// would get a turn to itself. If there were several lately, this task goes to the end of the
    /// line once, and then takes what has come until then: a turn costs the same for one request
    /// as for many.
    async fn wait(&mut self, mail: &mut Mail<R>) {
        let takes_messages = !self.core.is_write_window_overrun() && !self.turn.inbox_is_closed;
        let takes_entries = !self.core.is_write_window_full();
        let has_room = !self.core.is_saturated();
        if self.awaits_applied(!has_room || self.turn.ends_at.is_some()) {
            return;
        }
        let look = self.sampler.due_at();
        self.alarm.arm(Some(self.core.next_timeout().map_or(look, |timeout| timeout.min(look))));
        let Self { turn, alarm, shared, .. } = self;
        let mut has_stepped_back = false;
        poll_fn(|cx| {
            let mut is_ready = shared.poll_signals(cx).is_ready();
            if takes_messages
                && let Poll::Ready(is_open) =
                    mail.inbox.poll_take(cx, &mut turn.messages, MESSAGES_MAX, takes_entries)
            {
                turn.inbox_is_closed = !is_open;
                is_ready = true;
            }
            let (requests, taken) = (&mut mail.requests, &mut turn.requests);
            let polled = requests.poll_take(cx, taken, REQUESTS_MAX, has_room, shared.clock);
            is_ready |= polled.is_ready();
            alarm.arm(requests.next_deadline());
            is_ready |= alarm.poll(cx).is_ready();
            if is_ready && !has_stepped_back && turn.expects_more_requests() {
                has_stepped_back = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if is_ready || has_stepped_back { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Makes sure that `run_fsm` wakes this task if, and only if, it waits for room. Returns whether
    /// there is news already.
    fn awaits_applied(&mut self, awaits: bool) -> bool {
        if self.turn.awaits_applied != awaits {
            self.turn.awaits_applied = awaits;
            self.shared.await_applied(awaits);
        }
        awaits && self.shared.last_applied() != self.turn.applied
    }

    fn take_signals(&mut self, now: Time) {
        // Before the others: a snapshot is only of what was applied before it was reported.
        let news = self.shared.take_snapshots();
        let written = self.shared.last_written();
        if self.turn.written < written {
            self.turn.written = written;
            self.core.handle_written(now, written);
            self.waiters.written(written);
        }
        let applied = self.shared.last_applied();
        if self.turn.applied < applied {
            self.turn.applied = applied;
            self.core.handle_applied(now, applied);
        }
        for peer in self.shared.take_unreachable() {
            self.core.handle_unreachable(now, &peer);
        }
        self.take_snapshots(now, news);
    }

    fn take_snapshots(&mut self, now: Time, news: SnapshotNews) {
        let SnapshotNews { taken, receipts, complete, failed, copied } = news;
        if let Some((last, taker)) = taken {
            self.core.handle_snapshot_taken(now, last);
            self.shared.published.publish_snapshot(self.core.snapshot(), Some(now));
            self.turn.snapshot_taker = Some(taker);
        }
        for receipt in receipts {
            self.core.handle_snapshot_receipt(now, receipt);
        }
        if let Some((receipt, receiver)) = complete {
            let _ = receiver.send(self.core.handle_snapshot_receipt(now, receipt));
        }
        for failed in failed {
            self.peers.snapshot_failed(&failed);
            self.core.handle_snapshot_failed(now, &failed.peer, failed.transfer);
        }
        if let Some((last, result)) = copied {
            self.restore_copied(now, last, result);
        }
    }

    fn begin_restore(
        &mut self,
        now: Time,
        data: RestoreData,
        responder: Responder<LogIndex, RestoreError>,
    ) {
        // One of an earlier leadership may still be finishing its snapshot, which is then withdrawn: cut
        // off there, it would stay in the store as a state that this cluster never had.
        if self.turn.restoring.is_some() {
            responder.answer(Err(RestoreError::RestoreInProgress));
            return;
        }
        match self.core.begin_restore(now, data.at_least) {
            Ok((last, configuration)) => {
                let shared = Arc::clone(&self.shared);
                let store = self.peers.snapshots();
                let (give_up, given_up) = oneshot::channel();
                let copying = RestoreCluster { store, shared, last, configuration, data, given_up };
                let task = AbortOnDrop(self.tasks.spawn("restore_cluster", copying.run()));
                self.turn.restoring = Some(Restoring::new(last, responder.taken(), give_up, task));
            }
            Err(refusal) => responder.answer(Err(refusal.into())),
        }
    }

    fn restore_copied(&mut self, now: Time, last: LogId, result: Result<SnapshotId, RestoreError>) {
        let restoring = self.turn.restoring.take_if(|restoring| restoring.last == last);
        let (id, restoring) = match (result, restoring) {
            (Ok(id), Some(restoring)) => (id, restoring),
            (Ok(id), None) => return self.withdraw(id),
            (Err(error), restoring) => {
                self.core.cancel_restore(now, last);
                if let Some(responder) = restoring.and_then(Restoring::into_responder) {
                    responder.answer(Err(error));
                }
                return;
            }
        };
        match self.core.finish_restore(now, last) {
            Ok(index) => {
                self.shared.published.publish_snapshot(self.core.snapshot(), Some(now));
                // Those who wait for what was replaced come first.
                self.show_and_act(now);
                if let Some(responder) = restoring.into_responder() {
                    let answer = Pending::Restore(responder);
                    self.waiters.proposed(now, vec![Waiter { index, answer }]);
                }
            }
            Err(_) => {
                if let Some(responder) = restoring.into_responder() {
                    responder.answer(Err(RestoreError::LeadershipLost));
                }
                self.withdraw(id);
            }
        }
    }

    fn withdraw(&mut self, id: SnapshotId) {
        let (store, shared) = (self.peers.snapshots(), Arc::clone(&self.shared));
        self.tasks.spawn("restore_cluster", restore_cluster::withdraw(store, shared, id));
    }

    /// Ends the node once everybody has the answer that a removed server can give.
    fn end_if_removed(&self) {
        if self.turn.ends_at.is_some_and(|index| index <= self.shared.last_applied()) {
            self.shared.stop(Fatal::Removed);
        }
    }

    fn take_messages(&mut self, now: Time) {
        let mut messages = std::mem::take(&mut self.turn.messages);
        for mut envelope in messages.drain(..) {
            let Envelope { from, address, message, .. } = &envelope;
            if !self.shared.observers.is_empty() {
                let (from, message) = (from.clone(), message.clone());
                self.shared.observers.notify(&Observation::Received { from, message });
            }
            self.metrics.received(message);
            tracing::trace!(server = %self.shared.id, %from, %message, "received");
            self.peers.heard_from(from, address);
            let (from, incarnation) = (from.clone(), envelope.incarnation);
            let piece = Piece::of(&mut envelope);
            if let Err(rejected) = self.core.receive(now, envelope) {
                self.refuse(now, &rejected.envelope, rejected.mismatch);
                continue;
            }
            self.refusals.admitted(&from, incarnation);
            self.turn.pieces.extend(piece);
            if self.refusals.own().is_some() && self.core.leader().is_some() {
                self.refusals.recognised();
            }
        }
        self.turn.messages = messages;
    }

    /// Tells the core the time if one of its timers is due; but first everything that had arrived when
    /// that was noticed, which may take some turns. What comes meanwhile is not waited for, so that no
    /// flood of messages keeps the timers from firing; nor is what the core has no room for.
    fn take_time(&mut self, now: Time, inbox: &Received) {
        if self.core.next_timeout().is_none_or(|timeout| now < timeout) {
            self.turn.turns_until_time = None;
            return;
        }
        let turns = self.turn.turns_until_time.get_or_insert_with(|| {
            let (urgent, entries) = inbox.lengths();
            let entries = if self.core.is_write_window_full() { 0 } else { entries };
            let urgent = if self.core.is_write_window_overrun() { 0 } else { urgent };
            urgent.max(entries).div_ceil(MESSAGES_MAX)
        });
        if let Some(left) = turns.checked_sub(1) {
            *turns = left;
            return;
        }
        self.turn.turns_until_time = None;
        self.core.handle_timeout(now);
        self.vain.look(&self.shared.id, &self.core);
    }

    /// A message was not admitted: it is dropped, and told of if that is news.
    fn refuse(&mut self, now: Time, envelope: &Envelope, mismatch: Mismatch) {
        let Envelope { from, incarnation, message, .. } = envelope;
        let is_news = self.refusals.note(now, from, *incarnation, mismatch);
        let (server, kind) = (&self.shared.id, message.kind());
        let disk = match mismatch {
            Mismatch::Over => {
                tracing::debug!(%server, %from, kind, "of an earlier life of its sender");
                return;
            }
            Mismatch::Cluster { sender } => {
                if is_news {
                    self.tell_of_stranger(envelope, sender);
                }
                return;
            }
            Mismatch::Receiver { is_outdated: true, recorded } => {
                if is_news {
                    tracing::debug!(%server, %from, kind, recorded, "does not know the newest members");
                }
                return;
            }
            Mismatch::Empty => {
                if is_news {
                    tracing::warn!(
                        %server, %from,
                        "no vote for this candidate: the disk here is empty, as if it had been \
                         wiped, and the candidate does not know it; a leader has to come first"
                    );
                }
                return;
            }
            Mismatch::Sender { recorded } => {
                WrongDisk { server: from.clone(), recorded, actual: *incarnation }
            }
            Mismatch::Receiver { recorded, .. } => {
                let actual = self.core.incarnation();
                let disk = WrongDisk { server: server.clone(), recorded, actual };
                self.refusals.own_disk(disk.clone());
                disk
            }
        };
        if !is_news {
            return;
        }
        // A target of its own, for programs that tell of it in their own words.
        tracing::error!(
            target: "raft::wrong_disk", %server, %from, kind, "a message was dropped: {disk}"
        );
        let is_own = disk.server == self.shared.id;
        if !self.shared.observers.is_empty() {
            let observation = Observation::WrongIncarnation { peer: from.clone(), disk };
            self.shared.observers.notify(&observation);
        }
        if is_own {
            // So that the other side hears of it too. It says nothing, and answers nothing: there is
            // no term zero.
            let (term, outcome) = (Term::default(), AppendOutcome::StaleTerm);
            let hint = AppendEntriesReply { term, round: 0, outcome };
            self.peers.send(from, Message::AppendEntriesReply(hint));
        }
    }

    /// A server of another cluster has sent a message.
    fn tell_of_stranger(&mut self, envelope: &Envelope, other: ClusterId) {
        let Envelope { from, address, message, .. } = envelope;
        let (server, own, kind) = (&self.shared.id, self.core.cluster(), message.kind());
        if !other.is_some() {
            tracing::debug!(%server, %from, kind, "its sender belongs to no cluster yet");
            return;
        }
        tracing::error!(
            target: "raft::wrong_cluster", %server, %from, %address, kind, cluster = %own, %other,
            "a message was dropped: its sender belongs to another cluster; one of the two has the other's \
             address among its members, or was bootstrapped with other members"
        );
        if !self.shared.observers.is_empty() {
            let observation = Observation::WrongCluster { peer: from.clone(), own, other };
            self.shared.observers.notify(&observation);
        }
    }

    fn take_requests(&mut self, now: Time) {
        let mut requests = std::mem::take(&mut self.turn.requests);
        if !requests.is_empty() {
            self.metrics.requests(&requests);
            self.turn.last_requests = requests.len();
            self.turn.payloads.reserve(requests.len());
            self.turn.proposers.reserve(requests.len());
        }
        for request in requests.drain(..) {
            self.take_request(now, request);
        }
        self.turn.requests = requests;
        self.propose(now);
        self.verify(now);
    }

    fn take_request(&mut self, now: Time, request: Request<R>) {
        match request {
            Request::Propose(proposal) => self.take_proposal(proposal),
            Request::Verify { responder } => self.turn.verifiers.push(responder),
            // What was proposed before these comes before them in the log.
            Request::Change(change) => {
                self.propose(now);
                self.change_configuration(now, *change);
            }
            Request::Transfer { to, responder } => {
                self.propose(now);
                // An earlier transfer may have ended in this very turn: its caller comes first.
                self.show_and_act(now);
                match self.core.transfer_leadership(now, to.as_ref()) {
                    Ok(()) => {
                        let timeout = self.shared.config.borrow().election_timeout;
                        self.waiters.transferring(responder.taken(), timeout);
                    }
                    Err(refusal) => responder.answer(Err(refusal.into())),
                }
            }
            Request::Bootstrap { configuration, responder } => {
                match self.core.bootstrap(now, configuration) {
                    Ok(()) => self.turn.bootstrapper = Some(responder.taken()),
                    Err(refusal) => responder.answer(Err(refusal.into_error(&self.shared.id))),
                }
            }
            Request::Snapshot { responder } => {
                // It ends before this task only when the node does.
                let asked = self.run_snapshots.try_send(SnapshotRequest { responder });
                if let Err(mpsc::error::TrySendError::Full(refused)) = asked {
                    refused.responder.answer(Err(SnapshotError::Busy));
                }
            }
            Request::Restore { data, responder } => {
                self.propose(now);
                self.begin_restore(now, data, responder);
            }
            Request::Reload { config, responder } => {
                self.propose(now);
                responder.answer(self.reload(now, *config).map_err(ReloadError::Config));
            }
            Request::Status { responder } => responder.answer(Ok(Box::new(self.status(now)))),
        }
    }

    fn take_proposal(&mut self, proposal: Proposal<R>) {
        match proposal.what {
            Proposed::Apply { command, responder } => {
                self.turn.payloads.push(EntryPayload::Command(command));
                self.proposed_by(Pending::Apply(responder.taken()));
            }
            Proposed::Batch { commands, responder } => {
                let first = LogIndex(self.turn.payloads.len() as u64);
                let batch = PendingBatch::new(first, commands.len(), responder.taken());
                self.turn.payloads.extend(commands.into_iter().map(EntryPayload::Command));
                self.proposed_by(Pending::Batch(Box::new(batch)));
            }
            Proposed::Barrier { responder } => {
                self.turn.payloads.push(EntryPayload::Barrier);
                self.proposed_by(Pending::Barrier(responder.taken()));
            }
        }
    }

    /// Puts other settings in force, all of them or none.
    fn reload(&mut self, now: Time, config: Config) -> Result<(), ConfigError> {
        config.validate()?;
        config.validate_for(self.peers.max_entries_bytes())?;
        self.shared.config.borrow().check_reload(&config)?;
        self.core.set_rules(now, Rules::from(&config));
        self.shared.set_config(Arc::new(config));
        tracing::info!(server = %self.shared.id, "other settings are in force");
        Ok(())
    }

    /// Notes who waits for the payload pushed last.
    fn proposed_by(&mut self, answer: Pending<R>) {
        let last = self.turn.payloads.len().saturating_sub(1);
        self.turn.proposers.push(Waiter { index: LogIndex(last as u64), answer });
    }

    /// Passes everything proposed so far to the core, as one run of entries.
    fn propose(&mut self, now: Time) {
        if self.turn.payloads.is_empty() {
            return;
        }
        self.metrics.proposed(self.turn.payloads.len());
        let mut proposers = std::mem::take(&mut self.turn.proposers);
        match self.core.propose(now, std::mem::take(&mut self.turn.payloads)) {
            Ok(first) => {
                for Waiter { index, answer } in &mut proposers {
                    index.0 += first.0;
                    if let Pending::Batch(batch) = answer {
                        batch.part.first.0 += first.0;
                    }
                }
                self.waiters.proposed(now, proposers);
            }
            Err(refusal) => {
                for Waiter { answer, .. } in proposers {
                    answer.refuse(refusal.clone());
                }
            }
        }
    }

    fn change_configuration(&mut self, now: Time, change: Change) {
        let Change { change, prev_index, responder } = change;
        match self.core.change_configuration(now, &change, prev_index) {
            Ok(index) => {
                let answer = Pending::Change(responder.taken());
                self.waiters.proposed(now, vec![Waiter { index, answer }]);
            }
            Err(refusal) => responder.answer(Err(refusal.into())),
        }
    }

    /// One question to the cluster answers everybody who asked in this turn.
    fn verify(&mut self, now: Time) {
        if self.turn.verifiers.is_empty() {
            return;
        }
        let verifiers = std::mem::take(&mut self.turn.verifiers);
        match self.core.verify_leader(now) {
            Ok(verification) => self.waiters.verifying(verification, verifiers),
            Err(refusal) => {
                for responder in verifiers {
                    responder.answer(Err(refusal.clone().into()));
                }
            }
        }
    }

    /// Shows the new state to the getters, then carries out what the core decided: whoever is
    /// answered finds the getters up to date.
    fn show_and_act(&mut self, now: Time) {
        self.shared.published.publish(&self.core, now);
        while let Some(action) = self.core.poll_action() {
            self.carry_out(now, action);
        }
        self.turn.pieces.clear();
        for write in self.turn.writes.drain(..) {
            // `run_log` ends before this task only when the node does.
            let _ = self.run_log.send(write);
        }
        self.shared.tail.committed(self.core.commit_index());
        self.waiters.readable(self.core.commit_index());
        if let Some(responder) = self.turn.bootstrapper.take() {
            self.waiters.bootstrapping(self.turn.issued, responder);
        }
        if let Some(taker) = self.turn.snapshot_taker.take() {
            let _ = taker.send(());
        }
    }

    fn carry_out(&mut self, now: Time, action: Action) {
        match action {
            Action::Write(write) => self.write(write),
            Action::Replicate(order) => {
                self.peers.replicate(order, self.turn.generation);
            }
            Action::Send { to, message } => {
                if !self.shared.observers.is_empty() {
                    let (to, message) = (to.clone(), message.clone());
                    self.shared.observers.notify(&Observation::Sent { to, message });
                }
                self.send(&to, message);
            }
            Action::Commit { up_to } => self.commit(now, up_to),
            Action::Compact { through } => {
                self.shared.tail.compact(through);
                self.turn.writes.push(LogRequest::Compact { through });
            }
            Action::Restore { snapshot } => self.restore(snapshot),
            Action::SendSnapshot(order) => self.peers.send_snapshot(order, &mut self.tasks),
            Action::SnapshotAnswered { from, transfer, outcome } => {
                self.peers.snapshot_answered(&from, transfer, &outcome);
            }
            Action::ReceiveSnapshot { from, term, transfer, offset } => {
                let is_it = |it: &Piece| it.from == from && it.is(term, transfer, offset);
                if let Some(position) = self.turn.pieces.iter().position(is_it) {
                    // What finds no room is lost; the leader sends it again.
                    let _ = self.receive_snapshot.try_send(self.turn.pieces.swap_remove(position));
                }
            }
            Action::SetPeers(servers) => self.peers.set(servers, &mut self.tasks),
            Action::Verified { round } => self.waiters.verified(round),
            Action::TransferDone(result) => self.waiters.transferred(result),
            Action::Restored => self.waiters.replaced(self.core.last().index),
            Action::SteppedDown { committed } => {
                self.peers.end_snapshots();
                self.waiters.stepped_down(committed);
                if let Some(restoring) = &mut self.turn.restoring {
                    restoring.stepped_down();
                }
            }
            Action::Diverged { snapshot, entry } => {
                self.shared.stop(Fatal::Diverged { snapshot, entry });
            }
            Action::LostByMajority { leader, entry, committed } => {
                self.shared.stop(Fatal::LostByMajority { leader, entry, committed });
            }
            Action::RolledBack { told, promised, incarnation } => {
                self.turn.writes.push(LogRequest::ChangeIncarnation(incarnation));
                self.shared.stop(Fatal::RolledBack { told, promised });
            }
            Action::Observe(observation) => self.observe(now, &observation),
        }
    }

    fn write(&mut self, write: Write) {
        let stamp = self.shared.tail.accept(&write);
        self.turn.issued = write.id;
        self.turn.generation = stamp.generation();
        self.turn.writes.push(LogRequest::Write(Queued { write, stamp }));
    }

    fn restore(&mut self, snapshot: LogId) {
        let waiters = self.waiters.committed(snapshot.index).map(|(waiters, _)| waiters);
        // What is raised from now on must come after the snapshot.
        self.turn.advance = None;
        let waiters = waiters.unwrap_or_default();
        // `run_fsm` ends before this task only when the node does.
        let _ = self.run_fsm.send(FsmRequest::Restore { snapshot, waiters });
    }

    fn send(&mut self, to: &crate::ServerId, message: Message) {
        tracing::trace!(server = %self.shared.id, %to, %message, "sending");
        self.metrics.sent(&message);
        let is_heartbeat = matches!(message, Message::Heartbeat(_));
        if !self.peers.send(to, message) {
            self.metrics.send_failed();
            if is_heartbeat {
                self.core.handle_heartbeat_failed(to);
            }
        }
    }

    fn commit(&mut self, now: Time, up_to: LogIndex) {
        self.shared.tail.committed(up_to);
        let waiters = match self.waiters.committed(up_to) {
            Some((waiters, since)) => {
                self.metrics.committed(now.since(since));
                waiters
            }
            None => Vec::new(),
        };
        let request = if waiters.is_empty() {
            // Nobody waits: what is still in the queue can simply be told to go further.
            if self.turn.advance.as_ref().is_some_and(|advance| advance.raise(up_to)) {
                return;
            }
            let advance = Arc::new(Advance::new(up_to));
            self.turn.advance = Some(Arc::clone(&advance));
            FsmRequest::Advance(advance)
        } else {
            self.turn.advance = None;
            FsmRequest::Apply { up_to, waiters }
        };
        // `run_fsm` ends before this task only when the node does.
        let _ = self.run_fsm.send(request);
    }

    fn observe(&mut self, now: Time, observation: &Observation) {
        let (server, term) = (&self.shared.id, self.core.term());
        match observation {
            Observation::RoleChanged { role, term } => {
                tracing::info!(%server, %term, %role, "role changed");
                self.metrics.role_changed(*role);
                self.campaigning_since = match role {
                    Role::PreCandidate | Role::Candidate => self.campaigning_since.or(Some(now)),
                    Role::Follower | Role::Leader => {
                        let since = self.campaigning_since.take();
                        if let Some(since) = since.filter(|_| *role == Role::Leader) {
                            self.metrics.elected(now.since(since));
                        }
                        None
                    }
                };
            }
            Observation::LeaderChanged { leader } => {
                if leader.is_some() {
                    self.vain.has_leader();
                }
                let name = leader.as_ref().map(|leader: &Leader| &leader.id);
                tracing::info!(%server, %term, leader = ?name, "leader changed");
                self.shared.published.publish_leader(leader.clone());
            }
            Observation::ConfigurationChanged { configuration } => {
                let (index, members) = (configuration.index, &configuration.configuration);
                tracing::info!(%server, %term, %index, %members, "configuration changed");
                self.peers.set_cluster(self.core.cluster());
                self.shared.published.publish_configuration(configuration);
                self.peers.check_own_address(members);
                // The leader may have an address now, or another one.
                self.shared.published.publish_leader(self.core.leader());
            }
            Observation::PeerLost { peer } => tracing::warn!(%server, %term, %peer, "peer lost"),
            Observation::PeerRegained { peer } => {
                tracing::info!(%server, %term, %peer, "peer regained");
            }
            Observation::PeerStalled { peer, match_index } => {
                tracing::warn!(%server, %term, %peer, index = %match_index, "peer stalled");
            }
            Observation::PeerResumed { peer } => {
                tracing::info!(%server, %term, %peer, "peer resumed");
            }
            Observation::VoteRequested { candidate, term, is_pre_vote, is_granted } => {
                tracing::debug!(%server, %term, %candidate, is_pre_vote, is_granted, "vote requested");
            }
            Observation::PeerLostEntries { peer } => {
                tracing::error!(%server, %term, %peer, "peer has lost entries it acknowledged");
            }
            Observation::PeerNeedsSnapshot { peer } => {
                if self.peers.needs_snapshot(peer) {
                    tracing::info!(%server, %term, %peer, "peer needs a snapshot");
                }
            }
            Observation::SnapshotInstalled { last } => {
                tracing::info!(%server, %term, %last, "snapshot installed");
                self.shared.published.publish_snapshot(*last, Some(now));
            }
            Observation::Removed { configuration_index } => {
                tracing::warn!(%server, %term, %configuration_index, "removed from the cluster");
                if self.shared.config.borrow().shutdown_on_remove {
                    self.turn.ends_at.get_or_insert(self.core.commit_index());
                }
            }
            Observation::WrongIncarnation { .. }
            | Observation::WrongCluster { .. }
            | Observation::SnapshotTaken { .. }
            | Observation::SnapshotSent { .. }
            | Observation::SnapshotReceiving { .. }
            | Observation::Sent { .. }
            | Observation::Received { .. } => {}
        }
        if !self.shared.observers.is_empty() {
            self.shared.observers.notify(observation);
        }
    }

    fn wrong_disks(&self, now: Time) -> Vec<WrongDisk> {
        self.refusals.others(now, &self.core.latest_configuration().configuration)
    }

    fn status(&self, now: Time) -> Status {
        let core = &self.core;
        let published = &self.shared.published;
        let mut peers = core.peers(now);
        for peer in &mut peers {
            peer.snapshot_size_bytes = self.peers.snapshot_size_bytes(&peer.id);
        }
        let percent = |share: f64| (share * 100.0).round() as u8;
        let [run, fsm, log] = self.sampler.saturation().map(percent);
        let snapshot = published.known_snapshot();
        Status {
            id: self.shared.id.clone(),
            role: core.role(),
            term: core.term(),
            leader: core.leader(),
            last: core.last(),
            marks: self.shared.tail.marks(),
            snapshot: snapshot.last,
            snapshot_size_bytes: snapshot.size_bytes,
            snapshot_age: snapshot.since.map(|since| now.since(since)),
            persisting: *published.persisting.lock(),
            receiving: *published.receiving.lock(),
            committed_configuration: core.committed_configuration().clone(),
            latest_configuration: core.latest_configuration().clone(),
            last_contact: core.last_contact(now),
            uptime: now.since(Time(0)),
            oldest_entry_age: self.sampler.oldest_age(now),
            last_restore: published.last_restore(),
            run_busy_percent: run,
            fsm_busy_percent: fsm,
            log_busy_percent: log,
            timeouts: core.timeouts(),
            config: Arc::clone(&self.shared.config.borrow()),
            peers,
            wrong_address: self.peers.wrong_address().cloned(),
            wrong_disk: self.refusals.own().cloned(),
            wrong_disks: self.wrong_disks(now),
            can_serve: core.can_serve(),
            log_trouble: self.peers.log_trouble(),
        }
    }
}
