//! `run_fsm`: the only task that holds the state machine.
//!
//! It is told how far the log is committed, takes the entries from the log's tail (or the store,
//! for what is no longer in memory), and applies them in batches. What queued up during a batch
//! becomes part of the next. Whoever proposed a command on this server is answered from here.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::{mpsc, oneshot};

use super::{
    Panic,
    metrics::Metrics,
    request::{Pending, Waiter},
    shared::Shared,
};
use crate::{
    configuration::IndexedConfiguration,
    error::{Fatal, SnapshotError},
    fsm::{Fsm, FsmSnapshot},
    future::Applied,
    log::{Entries, Entry, EntryPayload, LogId, LogIndex, LogReader},
};

/// Requests taken from the queue at once at most.
const REQUESTS_MAX: usize = 64;

/// What is read from the store at once, when entries are no longer in memory.
const READ_BYTES: u64 = 1 << 20;

/// What `run_fsm` is asked to do. One queue, because the order matters.
pub(super) enum FsmRequest<R> {
    /// Apply everything up to here, which is committed and durable.
    Apply {
        up_to: LogIndex,
        /// Those who wait for these entries, in the order of the log.
        waiters: Vec<Waiter<R>>,
    },
    /// Apply everything up to here; nobody on this server waits for it.
    Advance(Arc<Advance>),
    /// Take a view for a snapshot, if anything was applied since `newer_than`.
    View { newer_than: LogId, reply: oneshot::Sender<Result<View, SnapshotError>> },
}

/// How far to apply, in a request that can still be raised while it waits in the queue: however far
/// a slow state machine is behind, one such request stands for all.
pub(super) struct Advance(AtomicU64);

impl Advance {
    pub(super) fn new(up_to: LogIndex) -> Self {
        Self(AtomicU64::new(up_to.0))
    }

    /// Raises the mark, unless it was taken from the queue already.
    pub(super) fn raise(&self, up_to: LogIndex) -> bool {
        let raised = |mark| (mark != 0).then_some(up_to.0);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, raised).is_ok()
    }

    fn take(&self) -> LogIndex {
        LogIndex(self.0.swap(0, Ordering::AcqRel))
    }
}

/// The state at one moment.
pub(super) struct View {
    /// The last entry whose effect is in it.
    pub(super) last: LogId,
    /// The newest configuration at or before `last`.
    pub(super) configuration: IndexedConfiguration,
    pub(super) snapshot: Box<dyn FsmSnapshot>,
}

pub(super) struct RunFsm<F: Fsm> {
    pub(super) host: Host<F>,
    pub(super) reader: Arc<dyn LogReader>,
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Metrics,
    pub(super) max_batch: usize,
    /// The last entry applied.
    pub(super) last: LogId,
    /// The newest configuration applied.
    pub(super) configuration: IndexedConfiguration,
    /// Those who wait for entries that are not applied yet.
    pub(super) waiters: VecDeque<Waiter<F::Response>>,
}

impl<F: Fsm> RunFsm<F> {
    /// Runs until `run` is gone, or the node ends.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::UnboundedReceiver<FsmRequest<F::Response>>,
    ) -> Result<(), Fatal> {
        let mut taken = Vec::new();
        let mut batch = Batch::default();
        while requests.recv_many(&mut taken, REQUESTS_MAX).await != 0 {
            let mut target = self.last.index;
            for request in taken.drain(..) {
                match request {
                    FsmRequest::Apply { up_to, waiters } => {
                        target = target.max(up_to);
                        self.waiters.extend(waiters);
                    }
                    FsmRequest::Advance(advance) => target = target.max(advance.take()),
                    FsmRequest::View { newer_than, reply } => {
                        self.apply(target, &mut batch).await?;
                        let _ = reply.send(self.view(newer_than).await?);
                    }
                }
            }
            self.apply(target, &mut batch).await?;
        }
        Ok(())
    }

    /// Applies everything up to `target`, batch by batch; stops early when the node ends.
    async fn apply(
        &mut self,
        target: LogIndex,
        batch: &mut Batch<F::Response>,
    ) -> Result<(), Fatal> {
        while self.last.index < target && !self.shared.end.has_begun() {
            self.load(target, &mut batch.parts).await?;
            self.host.apply(batch, &mut self.configuration).await?;
            if let Some(last) = batch.parts.last().and_then(Entries::last_id) {
                self.last = last;
            }
            self.metrics.applied(&batch.parts);
            self.shared.applied(self.last.index);
            self.answer(batch);
        }
        Ok(())
    }

    /// Collects the next entries into `parts`: at least one, at most a batch.
    async fn load(&mut self, target: LogIndex, parts: &mut Vec<Entries>) -> Result<(), Fatal> {
        parts.clear();
        let first = self.last.index.next();
        if let Some(up_to) = self.shared.tail.apply((first, target), self.max_batch, parts) {
            let read = self.reader.read(first..=up_to, READ_BYTES).await.map_err(Fatal::Store)?;
            parts.push(read);
        }
        let start = parts.first().and_then(|part| part.first()).map(|entry| entry.index);
        assert!(start == Some(first), "law 5: applying {start:?} after {}", self.last);
        Ok(())
    }

    /// Answers those who waited for the entries of the batch.
    fn answer(&mut self, batch: &mut Batch<F::Response>) {
        let mut responses = batch.responses.drain(..);
        for entry in batch.parts.iter().flat_map(|part| part.iter()) {
            let is_command = matches!(entry.payload, EntryPayload::Command(_));
            let response = if is_command { responses.next() } else { None };
            // On a follower nobody ever waits; on a leader nobody waits for a predecessor's entries.
            let Some(front) = self.waiters.front_mut() else { break };
            let index = entry.index;
            let mut response = response;
            let part = match &mut front.answer {
                Pending::Batch(batch) => Some(&mut batch.part),
                Pending::Part(part) => Some(&mut **part),
                Pending::Apply(_) | Pending::Barrier(_) | Pending::Change(_) => None,
            };
            if let Some(part) = part.filter(|part| part.first <= index) {
                let response = response.take();
                part.applied.extend(response.map(|response| Applied { index, response }));
            }
            if let Some(waiter) = self.waiters.pop_front_if(|waiter| waiter.index == index) {
                answer(waiter.answer, index, response);
            }
        }
    }

    async fn view(&mut self, newer_than: LogId) -> Result<Result<View, SnapshotError>, Fatal> {
        if self.last.index <= newer_than.index {
            return Ok(Err(SnapshotError::NothingNew));
        }
        let snapshot = match self.host.call(F::snapshot).await? {
            Ok(snapshot) => snapshot,
            Err(error) => return Ok(Err(SnapshotError::Fsm { reason: error.to_string() })),
        };
        Ok(Ok(View { last: self.last, configuration: self.configuration.clone(), snapshot }))
    }
}

fn answer<R>(waiter: Pending<R>, index: LogIndex, response: Option<R>) {
    match waiter {
        Pending::Apply(responder) => {
            // Dropped unanswered, which answers too, only if the entry is not a command.
            if let Some(response) = response {
                responder.answer(Ok(Applied { index, response }));
            }
        }
        Pending::Batch(batch) => batch.answer(),
        Pending::Part(part) => part.leave(),
        Pending::Barrier(responder) => responder.answer(Ok(index)),
        Pending::Change(responder) => responder.answer(Ok(index)),
    }
}

/// Entries to be applied together, and the responses of the commands among them, in order.
pub(super) struct Batch<R> {
    pub(super) parts: Vec<Entries>,
    responses: Vec<R>,
}

impl<R> Default for Batch<R> {
    fn default() -> Self {
        Self { parts: Vec::new(), responses: Vec::new() }
    }
}

impl<R> Batch<R> {
    /// Applies the commands, and tells of configurations in between.
    fn apply<F: Fsm<Response = R>>(
        &mut self,
        fsm: &mut F,
        configuration: &mut IndexedConfiguration,
    ) {
        self.responses.clear();
        let count = self.parts.iter().map(|part| part.len()).sum();
        let mut commands = Vec::with_capacity(count);
        for entry in self.parts.iter().flat_map(|part| part.iter()) {
            match &entry.payload {
                EntryPayload::Command(_) => commands.push(entry),
                EntryPayload::Configuration(members) => {
                    apply_commands(fsm, &mut commands, &mut self.responses);
                    let (index, members) = (entry.index, members.clone());
                    *configuration = IndexedConfiguration { index, configuration: members };
                    fsm.configuration_changed(configuration);
                }
                EntryPayload::Noop | EntryPayload::Barrier => {}
            }
        }
        apply_commands(fsm, &mut commands, &mut self.responses);
    }
}

fn apply_commands<F: Fsm>(
    fsm: &mut F,
    commands: &mut Vec<&Entry>,
    responses: &mut Vec<F::Response>,
) {
    if commands.is_empty() {
        return;
    }
    // The contract gives the state machine an empty vector, and it nearly always is: configurations,
    // which split a batch, are rare.
    let earlier = if responses.is_empty() { Vec::new() } else { std::mem::take(responses) };
    fsm.apply_batch(commands, responses);
    let (got, wanted) = (responses.len(), commands.len());
    assert!(got == wanted, "Fsm::apply_batch gave {got} responses to {wanted} commands");
    if !earlier.is_empty() {
        responses.splice(..0, earlier);
    }
    commands.clear();
}

/// The state machine, and where its methods run.
pub(super) struct Host<F> {
    /// Absent only while a method runs on another thread, and for ever after it has panicked there.
    fsm: Option<Box<F>>,
    is_blocking: bool,
}

impl<F: Fsm> Host<F> {
    pub(super) fn new(fsm: F) -> Self {
        let is_blocking = fsm.is_blocking();
        Self { fsm: Some(Box::new(fsm)), is_blocking }
    }

    pub(super) async fn apply(
        &mut self,
        batch: &mut Batch<F::Response>,
        configuration: &mut IndexedConfiguration,
    ) -> Result<(), Fatal> {
        if !self.is_blocking
            && let Some(fsm) = &mut self.fsm
        {
            batch.apply(&mut **fsm, configuration);
            return Ok(());
        }
        let mut moved = (std::mem::take(batch), std::mem::take(configuration));
        let moved = self.call(move |fsm| {
            moved.0.apply(fsm, &mut moved.1);
            moved
        });
        (*batch, *configuration) = moved.await?;
        Ok(())
    }

    /// Calls a method of the state machine where it may block, if it wants to.
    pub(super) async fn call<T: Send + 'static>(
        &mut self,
        method: impl FnOnce(&mut F) -> T + Send + 'static,
    ) -> Result<T, Fatal> {
        let Some(mut fsm) = self.fsm.take() else {
            return Err(Fatal::Panicked { task: "run_fsm", message: "state machine lost".into() });
        };
        if !self.is_blocking {
            let result = method(&mut fsm);
            self.fsm = Some(fsm);
            return Ok(result);
        }
        let blocking = tokio::task::spawn_blocking(move || {
            let result = method(&mut fsm);
            (fsm, result)
        });
        match blocking.await {
            Ok((fsm, result)) => {
                self.fsm = Some(fsm);
                Ok(result)
            }
            Err(error) => Err(Panic::from(error).into_fatal("run_fsm")),
        }
    }
}
