//! `run_fsm`: the only task that holds the state machine.
//!
//! It is told how far the log is committed, takes the entries from the log's tail (or the store,
//! for what is no longer in memory), and applies them in batches. What queued up during a batch
//! becomes part of the next. Whoever proposed a command on this server is answered from here.
//!
//! Whatever else is asked of the state machine comes between two batches, however much there is to
//! apply, and a batch is bounded in time (`ApplyLimit`): a view for a snapshot and the end of the node
//! are never far away.
//!
//! When a snapshot of another server has taken the place of the log, the entries on the way to it
//! are gone: applying stops where it is, and goes on behind the snapshot once that is restored.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use super::{
    request::{Pending, Waiter},
    shared::Shared,
};
use crate::{
    configuration::IndexedConfiguration,
    error::{Fatal, SnapshotError},
    fsm::{Fsm, FsmSnapshot, NoSnapshots},
    future::Applied,
    log::{Entries, EntryPayload, LogReader},
    log_tail::Take,
    machine::{ApplyLimit, Batch, Host, UntilEnd, Watched},
    metrics::Metrics,
    pop_if::PopIf as _,
    position::{LogId, LogIndex},
    snapshot::{SnapshotMeta, SnapshotReader, SnapshotStore},
    store_error::StoreError,
};

/// Requests taken from the queue at once at most.
const REQUESTS_MAX: usize = 64;

/// A batch of this many entries is always timed.
const TIMED_ENTRIES: usize = 16;

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
    /// Replace the state by the snapshot that ends here.
    Restore {
        snapshot: LogId,
        /// Those who wait for entries that the snapshot stands for: what became of these is unknown.
        waiters: Vec<Waiter<R>>,
    },
    /// Take a view for a snapshot, now, if anything was applied since `newer_than`.
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
    host: Host<F>,
    reader: Arc<dyn LogReader>,
    snapshots: Arc<dyn SnapshotStore>,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    /// The last entry applied.
    last: LogId,
    /// The newest configuration applied.
    configuration: IndexedConfiguration,
    /// Those who wait for entries that are not applied yet.
    waiters: VecDeque<Waiter<F::Response>>,
    limit: ApplyLimit,
}

impl<F: Fsm> RunFsm<F> {
    /// A state machine that has applied everything up to `last`, with the configuration at that entry.
    pub(super) fn new(
        host: Host<F>,
        (reader, snapshots): (Arc<dyn LogReader>, Arc<dyn SnapshotStore>),
        (shared, metrics): (Arc<Shared>, Arc<Metrics>),
        (last, configuration): (LogId, IndexedConfiguration),
    ) -> Self {
        let (waiters, limit) = (VecDeque::new(), ApplyLimit::new());
        Self { host, reader, snapshots, shared, metrics, last, configuration, waiters, limit }
    }

    /// Runs until `run` is gone, or the node ends. Looks at the queue between two batches.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::UnboundedReceiver<FsmRequest<F::Response>>,
    ) -> Result<(), Fatal> {
        let mut taken = Vec::new();
        let mut batch = Batch::default();
        let mut target = self.last.index;
        // A snapshot stands for what comes next: there is nothing to apply until it is restored.
        let mut is_replaced = false;
        let mut busy = Duration::ZERO;
        loop {
            let is_idle = is_replaced || target <= self.last.index || self.shared.end.has_begun();
            if is_idle {
                busy = Duration::ZERO;
                if requests.recv_many(&mut taken, REQUESTS_MAX).await == 0 {
                    return Ok(());
                }
            } else {
                while taken.len() < REQUESTS_MAX
                    && let Ok(request) = requests.try_recv()
                {
                    taken.push(request);
                }
            }
            is_replaced &= taken.is_empty();
            for request in taken.drain(..) {
                match request {
                    FsmRequest::Apply { up_to, waiters } => {
                        target = target.max(up_to);
                        self.waiters.extend(waiters);
                    }
                    FsmRequest::Advance(advance) => target = target.max(advance.take()),
                    FsmRequest::Restore { snapshot, waiters } => {
                        self.waiters.extend(waiters);
                        self.restore(snapshot).await?;
                    }
                    FsmRequest::View { newer_than, reply } => {
                        let _ = reply.send(self.view(newer_than).await?);
                    }
                }
            }
            if target <= self.last.index || self.shared.end.has_begun() {
                continue;
            }
            is_replaced = !self.load(target, &mut batch.parts).await?;
            if !is_replaced {
                let bound = self.shared.max_apply_time();
                busy += self.apply(&mut batch, bound).await?;
                if bound <= busy {
                    // Others may share the thread, and have something to say about the next batch.
                    tokio::task::yield_now().await;
                    busy = Duration::ZERO;
                }
            }
        }
    }

    /// Applies a batch. Returns how long that took, or zero if it was not worth a look at the clock.
    async fn apply(
        &mut self,
        batch: &mut Batch<F::Response>,
        bound: Duration,
    ) -> Result<Duration, Fatal> {
        let count = batch.parts.iter().map(|part| part.len()).sum();
        // One look for many entries costs little; and for few a missed one is made up for by the next.
        if TIMED_ENTRIES <= count || self.limit.entries() <= count {
            self.shared.fsm_busy.begin_timed(self.shared.clock.now());
        } else {
            self.shared.fsm_busy.begin(|| self.shared.clock.now());
        }
        self.carry_out(batch).await?;
        let took = self.shared.fsm_busy.end(|| self.shared.clock.now());
        if let Some(took) = took {
            self.limit.took(count, took, bound);
        }
        if let Some(last) = batch.parts.last().and_then(Entries::last_id) {
            self.last = last;
        }
        self.metrics.applied(&batch.parts, took);
        self.shared.applied(self.last.index);
        self.answer(batch);
        Ok(took.unwrap_or_default())
    }

    /// Collects the next entries into `parts`: at least one, at most a batch. Returns whether there
    /// are any: a snapshot may have taken their place.
    async fn load(&mut self, target: LogIndex, parts: &mut Vec<Entries>) -> Result<bool, Fatal> {
        parts.clear();
        let first = self.last.index.next();
        let max_batch = self.shared.max_apply_batch().min(self.limit.entries());
        match self.shared.tail.apply((first, target), max_batch, parts) {
            Take::Entries => {}
            Take::OnDisk { up_to } => match self.reader.read(first..=up_to, READ_BYTES).await {
                Ok(read) => parts.push(read),
                // Removed between the two looks.
                Err(_) if self.shared.tail.is_compacted(first) => return Ok(false),
                Err(error) => return Err(Fatal::Store(error)),
            },
            Take::Replaced => return Ok(false),
        }
        let start = parts.first().and_then(|part| part.first()).map(|entry| entry.index);
        assert!(start == Some(first), "law 5: applying {start:?} after {}", self.last);
        Ok(true)
    }

    async fn carry_out(&mut self, batch: &mut Batch<F::Response>) -> Result<(), Fatal> {
        if let Some(fsm) = self.host.here() {
            batch.apply(fsm, &mut self.configuration);
            return Ok(());
        }
        let mut moved = (std::mem::take(batch), std::mem::take(&mut self.configuration));
        let moved = self.host.call(move |fsm| {
            moved.0.apply(fsm, &mut moved.1);
            moved
        });
        let moved = moved.await;
        (*batch, self.configuration) = moved.map_err(|panic| panic.into_fatal("run_fsm"))?;
        Ok(())
    }

    /// Puts the snapshot that ends with `snapshot` in the place of the state (law 14).
    async fn restore(&mut self, snapshot: LogId) -> Result<(), Fatal> {
        if self.shared.end.has_begun() {
            return Ok(());
        }
        assert!(self.last.index < snapshot.index, "law 14: {snapshot} after {}", self.last);
        let (meta, reader) = match open(&*self.snapshots, snapshot).await {
            Ok(opened) => opened,
            // A newer one has come meanwhile, for which the store gave this one up. It follows.
            Err(_) if snapshot.index < self.shared.published.snapshot().index => return Ok(()),
            Err(error) => return Err(Fatal::Store(error)),
        };
        let (reader, failure) = Watched::new(reader);
        self.shared.fsm_busy.begin_timed(self.shared.clock.now());
        let is_blocking = self.host.is_blocking();
        let reader: SnapshotReader = Box::new(reader);
        let reader = Box::new(UntilEnd::new(reader, &self.shared.end));
        let restored = tokio::select! {
            biased;
            restored = self.host.restore(reader) => restored,
            // Given up in the middle: nobody will look at this state any more. On another thread it
            // ends when it reads on.
            _ = self.shared.end.reason(), if !is_blocking => return Ok(()),
        };
        let restored = restored.map_err(|panic| panic.into_fatal("run_fsm"))?;
        failure.check(|| format!("cannot read snapshot {}", meta.id)).map_err(Fatal::Store)?;
        if let Err(error) = restored {
            let reason = format!("{}: {error}", meta.id).into();
            return Err(Fatal::Restore { last: snapshot, reason });
        }
        self.configuration = meta.configuration.clone();
        let told = self.host.call(move |fsm| fsm.configuration_changed(&meta.configuration));
        told.await.map_err(|panic| panic.into_fatal("run_fsm"))?;
        self.last = snapshot;
        let took = self.shared.fsm_busy.end(|| self.shared.clock.now()).unwrap_or_default();
        self.metrics.installed();
        self.metrics.restored(took);
        self.shared.published.publish_restore(took);
        self.shared.applied(snapshot.index);
        let covered = |waiter: &Waiter<F::Response>| waiter.index <= snapshot.index;
        while let Some(waiter) = self.waiters.take_front_if(covered) {
            waiter.answer.replace();
        }
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
                Pending::Apply(_)
                | Pending::Barrier(_)
                | Pending::Change(_)
                | Pending::Restore(_) => None,
            };
            if let Some(part) = part.filter(|part| part.first <= index) {
                let response = response.take();
                part.applied.extend(response.map(|response| Applied { index, response }));
            }
            if let Some(waiter) = self.waiters.take_front_if(|waiter| waiter.index == index) {
                answer(waiter.answer, index, response);
            }
        }
    }

    async fn view(&mut self, newer_than: LogId) -> Result<Result<View, SnapshotError>, Fatal> {
        if self.last.index <= newer_than.index {
            return Ok(Err(SnapshotError::NothingNew));
        }
        self.shared.fsm_busy.begin_timed(self.shared.clock.now());
        let taken = self.host.call(F::snapshot).await;
        let took = self.shared.fsm_busy.end(|| self.shared.clock.now()).unwrap_or_default();
        self.metrics.view_taken(took);
        let snapshot = match taken.map_err(|panic| panic.into_fatal("run_fsm"))? {
            Ok(snapshot) => snapshot,
            Err(error) if error.is::<NoSnapshots>() => return Ok(Err(SnapshotError::Unsupported)),
            Err(error) => return Ok(Err(SnapshotError::Fsm { reason: error.to_string() })),
        };
        Ok(Ok(View { last: self.last, configuration: self.configuration.clone(), snapshot }))
    }
}

/// Opens the snapshot that ends with `last`.
async fn open(
    store: &dyn SnapshotStore,
    last: LogId,
) -> Result<(SnapshotMeta, SnapshotReader), StoreError> {
    let listed = store.list().await?;
    let Some(meta) = listed.into_iter().find(|meta| meta.last == last) else {
        return Err(StoreError::NotFound { what: format!("the snapshot that ends with {last}") });
    };
    store.open(&meta.id).await
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
        Pending::Restore(responder) => responder.answer(Ok(index)),
    }
}
