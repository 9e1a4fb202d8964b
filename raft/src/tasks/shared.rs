//! What the tasks and the handle share beside channels: the end of the node, signals to `run`, and
//! the published state.
//!
//! All of it is "latest value wins": a mark that grows, a fact that is set once. That is why no
//! queue is needed, nothing can be full, and nobody ever waits to tell `run` something.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};

use super::{busy::Busy, clock::Clock, panics::contained};
use crate::{
    config::Config,
    configuration::{IndexedConfiguration, ServerId},
    consensus::{Consensus, SnapshotReceipt, Time, WriteId},
    end::End,
    error::{Fatal, Leader, RestoreError},
    log_tail::LogTail,
    observer::Observers,
    position::{LogId, LogIndex, Term},
    snapshot::{SnapshotId, SnapshotStore},
    stable::HardState,
    status::{Role, SnapshotProgress},
    store_error::StoreError,
};

/// Shared by the handle and all tasks of one node.
pub(crate) struct Shared {
    pub(crate) id: ServerId,
    /// The settings in force. Only `run` changes them, everybody else reads them at each use; only
    /// `run_snapshots` waits for changes.
    pub(crate) config: watch::Sender<Arc<Config>>,
    /// Those of them that are read for each command, message or batch: a lock would cost more than
    /// what it is read for.
    max_command_bytes: AtomicU64,
    enqueue_timeout_nanos: AtomicU64,
    max_append_bytes: AtomicU64,
    max_apply_batch: AtomicUsize,
    max_apply_time_nanos: AtomicU64,
    pub(crate) clock: Clock,
    pub(crate) end: Arc<End>,
    pub(crate) tail: LogTail,
    pub(crate) observers: Observers,
    pub(crate) published: Published,
    /// How long `run`, `run_fsm` and `run_log` have been at work.
    pub(super) run_busy: Busy,
    pub(super) fsm_busy: Busy,
    pub(super) log_busy: Busy,
    /// Finished snapshots that do not count: of a restore that came to nothing, or whole only when its
    /// leader had been deposed.
    void_snapshots: Mutex<Vec<SnapshotId>>,
    signals: Signals,
    applied_waiters: AppliedWaiters,
}

/// What other tasks tell `run`.
struct Signals {
    wake: Wake,
    written: AtomicU64,
    /// Grows; also what the handle's `applied_index` shows.
    applied: AtomicU64,
    /// Whether `run` wants to be woken by a growing `applied`: only when it is short of room.
    awaits_applied: AtomicBool,
    unreachable: Mutex<Vec<ServerId>>,
    has_unreachable: AtomicBool,
    snapshots: Mutex<SnapshotNews>,
    has_snapshots: AtomicBool,
}

/// What the tasks that deal with snapshots tell `run`. Of each kind, and of each transfer, only the
/// newest counts.
#[derive(Default)]
pub(super) struct SnapshotNews {
    /// The newest snapshot of the own state machine, and who waits until `run` knows of it.
    pub(super) taken: Option<(LogId, oneshot::Sender<()>)>,
    /// What became of pieces that have arrived.
    pub(super) receipts: Vec<SnapshotReceipt>,
    /// All of a snapshot has arrived, and who waits to learn whether it counts.
    pub(super) complete: Option<(SnapshotReceipt, oneshot::Sender<bool>)>,
    /// Transfers that have failed on this side.
    pub(super) failed: Vec<FailedTransfer>,
    /// The data of a user's restore is durable, or could not be had.
    pub(super) copied: Option<(LogId, Result<SnapshotId, RestoreError>)>,
}

/// A snapshot could not be sent.
pub(super) struct FailedTransfer {
    pub(super) peer: ServerId,
    pub(super) transfer: u64,
    pub(super) reason: String,
}

/// Wakes one task. Like tokio's `Notify` with one waiter, but what is polled is not a future that
/// enters a list each time, and a second wake before the task has run costs one exchange.
#[derive(Default)]
struct Wake {
    is_set: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Wake {
    fn wake(&self) {
        if self.is_set.swap(true, Ordering::AcqRel) {
            // Whoever set it wakes the task, or the task has not looked at it yet.
            return;
        }
        if let Some(waker) = &*self.waker.lock() {
            waker.wake_by_ref();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut waker = self.waker.lock();
        if waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        drop(waker);
        // Looked at after the waker is in place: a wake before that is seen here.
        if self.is_set.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
    }
}

struct AppliedWaiters {
    count: AtomicUsize,
    notify: Notify,
}

impl Shared {
    pub(super) fn new(
        config: Arc<Config>,
        clock: Clock,
        tail: LogTail,
        hard_state: &HardState,
    ) -> Self {
        let applied = tail.marks().applied;
        let shared = Self {
            id: config.local_id.clone(),
            config: watch::Sender::new(Arc::clone(&config)),
            max_command_bytes: AtomicU64::new(0),
            enqueue_timeout_nanos: AtomicU64::new(0),
            max_append_bytes: AtomicU64::new(0),
            max_apply_batch: AtomicUsize::new(0),
            max_apply_time_nanos: AtomicU64::new(0),
            clock,
            end: Arc::new(End::new()),
            observers: Observers::default(),
            published: Published::new(hard_state, applied),
            tail,
            run_busy: Busy::new(),
            fsm_busy: Busy::new(),
            log_busy: Busy::new(),
            signals: Signals {
                wake: Wake::default(),
                written: AtomicU64::new(0),
                applied: AtomicU64::new(applied.0),
                awaits_applied: AtomicBool::new(false),
                unreachable: Mutex::new(Vec::new()),
                has_unreachable: AtomicBool::new(false),
                snapshots: Mutex::default(),
                has_snapshots: AtomicBool::new(false),
            },
            void_snapshots: Mutex::default(),
            applied_waiters: AppliedWaiters { count: AtomicUsize::new(0), notify: Notify::new() },
        };
        shared.set_config(config);
        shared
    }

    /// Puts other settings in force, for everybody but the core.
    pub(super) fn set_config(&self, config: Arc<Config>) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.max_command_bytes.store(config.max_command_bytes, Ordering::Relaxed);
        self.enqueue_timeout_nanos.store(nanos(config.enqueue_timeout), Ordering::Relaxed);
        self.max_append_bytes.store(config.max_append_bytes, Ordering::Relaxed);
        self.max_apply_batch.store(config.max_apply_batch, Ordering::Relaxed);
        self.max_apply_time_nanos.store(nanos(config.max_apply_time), Ordering::Relaxed);
        self.tail.set_max_bytes(config.log_cache_bytes);
        self.config.send_replace(config);
    }

    pub(crate) fn max_command_bytes(&self) -> u64 {
        self.max_command_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn max_append_bytes(&self) -> u64 {
        self.max_append_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn max_apply_batch(&self) -> usize {
        self.max_apply_batch.load(Ordering::Relaxed)
    }

    pub(super) fn max_apply_time(&self) -> Duration {
        Duration::from_nanos(self.max_apply_time_nanos.load(Ordering::Relaxed))
    }

    pub(crate) fn enqueue_timeout(&self) -> Duration {
        Duration::from_nanos(self.enqueue_timeout_nanos.load(Ordering::Relaxed))
    }

    /// Ends the node, for this reason unless there is one already. Never panics: it is what a task that
    /// has panicked still does.
    pub(crate) fn stop(&self, fatal: Fatal) {
        let is_first = self.end.begin(fatal.clone());
        self.signals.wake.wake();
        if is_first {
            contained(|| match &fatal {
                Fatal::Shutdown => tracing::info!(server = %self.id, "shutting down"),
                // As somebody wanted.
                Fatal::Removed => tracing::warn!(server = %self.id, %fatal, "the node ends"),
                fatal => tracing::error!(server = %self.id, %fatal, "the node ends"),
            });
        }
    }

    /// Ready, once, when another task has something to tell `run`; may be ready for nothing.
    pub(super) fn poll_signals(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.signals.wake.poll(cx)
    }

    /// Every write up to this one is durable.
    pub(super) fn written(&self, id: WriteId) {
        self.signals.written.store(id.0, Ordering::Release);
        self.signals.wake.wake();
    }

    pub(super) fn last_written(&self) -> WriteId {
        WriteId(self.signals.written.load(Ordering::Acquire))
    }

    /// Everything up to `index` is applied. Wakes `run` only if it waits for that, and the handle's
    /// waiters only if there are any.
    ///
    /// Both sides first say what they know and then look at what the other said, in one total order
    /// of all such operations, so that at least one of them sees the other: no wake-up is lost.
    pub(super) fn applied(&self, index: LogIndex) {
        self.tail.applied(index);
        self.signals.applied.store(index.0, Ordering::SeqCst);
        if self.signals.awaits_applied.load(Ordering::SeqCst) {
            self.signals.wake.wake();
        }
        if self.applied_waiters.count.load(Ordering::SeqCst) != 0 {
            self.applied_waiters.notify.notify_waiters();
        }
    }

    pub(crate) fn last_applied(&self) -> LogIndex {
        LogIndex(self.signals.applied.load(Ordering::SeqCst))
    }

    /// Says whether `run` is to be woken when more is applied. It must look at
    /// [`last_applied`](Self::last_applied) once more after saying yes.
    pub(super) fn await_applied(&self, awaits: bool) {
        self.signals.awaits_applied.store(awaits, Ordering::SeqCst);
    }

    /// Waits until `index` is applied, or the node ends.
    pub(crate) async fn wait_applied(&self, index: LogIndex) -> Result<(), Fatal> {
        if index <= self.last_applied() {
            return Ok(());
        }
        let _waiting = Waiting::new(&self.applied_waiters.count);
        loop {
            let mut grown = std::pin::pin!(self.applied_waiters.notify.notified());
            // Registered before the mark is read, so that growth in between is noticed.
            grown.as_mut().enable();
            if index <= self.last_applied() {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = grown => {}
                fatal = self.end.reason() => return Err(fatal),
            }
        }
    }

    /// The transport could not send entries to `peer`.
    pub(super) fn unreachable(&self, peer: &ServerId) {
        let mut unreachable = self.signals.unreachable.lock();
        if !unreachable.contains(peer) {
            unreachable.push(peer.clone());
        }
        drop(unreachable);
        self.signals.has_unreachable.store(true, Ordering::Release);
        self.signals.wake.wake();
    }

    pub(super) fn take_unreachable(&self) -> Vec<ServerId> {
        if !self.signals.has_unreachable.load(Ordering::Acquire) {
            return Vec::new();
        }
        self.signals.has_unreachable.store(false, Ordering::Release);
        std::mem::take(&mut *self.signals.unreachable.lock())
    }

    /// A snapshot of the own state machine is durable. Waits until `run` knows of it and has shown
    /// what follows; returns whether it does.
    pub(super) async fn snapshot_taken(&self, last: LogId) -> bool {
        let (told, known) = oneshot::channel();
        self.tell(|news| news.taken = Some((last, told)));
        known.await.is_ok()
    }

    /// A piece of a snapshot was kept, or could not be.
    pub(super) fn snapshot_receipt(&self, receipt: SnapshotReceipt) {
        self.tell(|news| {
            let of_another = |earlier: &SnapshotReceipt| {
                let transfer = (receipt.term, receipt.transfer);
                earlier.from != receipt.from || (earlier.term, earlier.transfer) != transfer
            };
            news.receipts.retain(of_another);
            news.receipts.push(receipt);
        });
    }

    /// All of a snapshot from another server is durable. Waits until `run` knows of it; returns whether
    /// the snapshot counts.
    pub(super) async fn snapshot_complete(&self, receipt: SnapshotReceipt) -> bool {
        let (told, known) = oneshot::channel();
        self.tell(|news| news.complete = Some((receipt, told)));
        // At the end of the node nobody knows; the next start looks.
        known.await.unwrap_or(true)
    }

    /// Notes whether a finished snapshot counts.
    pub(super) fn snapshot_counts(&self, id: &SnapshotId, counts: bool) {
        let mut void = self.void_snapshots.lock();
        void.retain(|it| it != id);
        if !counts {
            void.push(id.clone());
        }
    }

    pub(super) fn is_void(&self, id: &SnapshotId) -> bool {
        self.void_snapshots.lock().contains(id)
    }

    /// Removes the snapshots that do not count. Comes before a snapshot is finished that others know of:
    /// two of these could push the one out of the store that the log begins with.
    pub(super) async fn remove_void(&self, store: &dyn SnapshotStore) -> Result<(), StoreError> {
        let void = self.void_snapshots.lock().clone();
        for id in void {
            store.remove(&id).await?;
            self.snapshot_counts(&id, true);
        }
        Ok(())
    }

    /// A snapshot could not be sent.
    pub(super) fn snapshot_failed(&self, failed: FailedTransfer) {
        self.tell(|news| {
            news.failed.retain(|earlier| earlier.peer != failed.peer);
            news.failed.push(failed);
        });
    }

    /// The data of a user's restore is durable, or could not be had.
    pub(super) fn restore_copied(&self, last: LogId, result: Result<SnapshotId, RestoreError>) {
        self.tell(|news| news.copied = Some((last, result)));
    }

    fn tell(&self, tell: impl FnOnce(&mut SnapshotNews)) {
        tell(&mut self.signals.snapshots.lock());
        self.signals.has_snapshots.store(true, Ordering::Release);
        self.signals.wake.wake();
    }

    pub(super) fn take_snapshots(&self) -> SnapshotNews {
        if !self.signals.has_snapshots.load(Ordering::Acquire) {
            return SnapshotNews::default();
        }
        self.signals.has_snapshots.store(false, Ordering::Release);
        std::mem::take(&mut *self.signals.snapshots.lock())
    }

    /// How long ago this server heard from its leader: zero on a leader, `None` if it never did.
    pub(crate) fn last_contact(&self) -> Option<Duration> {
        if self.published.role() == Role::Leader {
            return Some(Duration::ZERO);
        }
        let contact = self.published.contact.load(Ordering::Relaxed);
        (contact != NEVER).then(|| self.clock.now().since(Time(contact)))
    }
}

/// Counts one waiter as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

const NEVER: u64 = u64::MAX;

/// The newest snapshot that counts here.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KnownSnapshot {
    /// The last entry covered by it.
    pub(super) last: LogId,
    /// When it became durable, if it was while this server ran.
    pub(super) since: Option<Time>,
    pub(super) size_bytes: Option<u64>,
    /// A snapshot that may be the next, and its size.
    coming: Option<(LogId, u64)>,
}

/// What the getters of the handle show. Written by `run` only, when it changes, except where it says
/// otherwise.
pub(crate) struct Published {
    role: AtomicU8,
    term: AtomicU64,
    last: AtomicU64,
    commit: AtomicU64,
    /// When this server last heard from its leader, in microseconds of the node's clock.
    contact: AtomicU64,
    leader: watch::Sender<Option<Leader>>,
    configuration: Mutex<Arc<IndexedConfiguration>>,
    snapshot: Mutex<KnownSnapshot>,
    /// How long the last restore of the state machine took, in microseconds.
    last_restore: AtomicU64,
    /// What [`Consensus::appended_bytes`] says.
    appended_bytes: AtomicU64,
    /// Written by `run_snapshots` and by `receive_snapshot`, each its own.
    pub(super) persisting: Mutex<Option<SnapshotProgress>>,
    pub(super) receiving: Mutex<Option<SnapshotProgress>>,
}

impl Published {
    fn new(hard_state: &HardState, applied: LogIndex) -> Self {
        Self {
            role: AtomicU8::new(0),
            term: AtomicU64::new(hard_state.current_term.0),
            last: AtomicU64::new(applied.0),
            commit: AtomicU64::new(applied.0),
            contact: AtomicU64::new(NEVER),
            leader: watch::Sender::new(None),
            configuration: Mutex::new(Arc::default()),
            snapshot: Mutex::default(),
            last_restore: AtomicU64::new(NEVER),
            appended_bytes: AtomicU64::new(0),
            persisting: Mutex::default(),
            receiving: Mutex::default(),
        }
    }

    /// Shows the state a server starts in.
    pub(super) fn publish_start(&self, core: &Consensus, now: Time) {
        self.publish(core, now);
        self.publish_configuration(core.latest_configuration());
        self.publish_snapshot(core.snapshot(), None);
    }

    /// Shows what the core says now: a handful of plain stores.
    pub(super) fn publish(&self, core: &Consensus, now: Time) {
        self.role.store(code(core.role()), Ordering::Release);
        self.term.store(core.term().0, Ordering::Release);
        self.last.store(core.last().index.0, Ordering::Release);
        self.commit.store(core.commit_index().0, Ordering::Release);
        self.appended_bytes.store(core.appended_bytes(), Ordering::Relaxed);
        let contact = core.last_contact(now).map_or(NEVER, |ago| {
            now.0.saturating_sub(u64::try_from(ago.as_micros()).unwrap_or(u64::MAX))
        });
        self.contact.store(contact, Ordering::Relaxed);
    }

    /// Shows that this server leads nobody and follows nobody any more: whoever acts on its
    /// leadership must learn that it is over, also when it ended with a panic.
    pub(super) fn publish_end(&self) {
        self.role.store(code(Role::Follower), Ordering::Release);
        self.publish_leader(None);
    }

    pub(super) fn publish_leader(&self, leader: Option<Leader>) {
        self.leader.send_if_modified(|known| {
            let is_changed = *known != leader;
            *known = leader;
            is_changed
        });
    }

    pub(super) fn publish_configuration(&self, configuration: &IndexedConfiguration) {
        *self.configuration.lock() = Arc::new(configuration.clone());
    }

    /// `since` is when it became durable, if this process has seen it.
    pub(super) fn publish_snapshot(&self, last: LogId, since: Option<Time>) {
        let mut known = self.snapshot.lock();
        if known.last != last {
            let size_bytes = known.coming.filter(|(coming, _)| *coming == last).map(|it| it.1);
            *known = KnownSnapshot { last, since, size_bytes, coming: None };
        }
    }

    /// Shows how large the snapshot that ends with `last` is, also before it is the newest.
    pub(super) fn publish_snapshot_size(&self, last: LogId, size_bytes: u64) {
        let mut known = self.snapshot.lock();
        if known.last == last {
            known.size_bytes = Some(size_bytes);
        } else {
            known.coming = Some((last, size_bytes));
        }
    }

    pub(super) fn publish_restore(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX - 1);
        self.last_restore.store(micros, Ordering::Relaxed);
    }

    pub(super) fn last_restore(&self) -> Option<Duration> {
        let micros = self.last_restore.load(Ordering::Relaxed);
        (micros != NEVER).then(|| Duration::from_micros(micros))
    }

    pub(crate) fn role(&self) -> Role {
        match self.role.load(Ordering::Acquire) {
            1 => Role::PreCandidate,
            2 => Role::Candidate,
            3 => Role::Leader,
            _ => Role::Follower,
        }
    }

    pub(crate) fn term(&self) -> Term {
        Term(self.term.load(Ordering::Acquire))
    }

    pub(crate) fn last_index(&self) -> LogIndex {
        LogIndex(self.last.load(Ordering::Acquire))
    }

    pub(crate) fn commit_index(&self) -> LogIndex {
        LogIndex(self.commit.load(Ordering::Acquire))
    }

    pub(crate) fn leader(&self) -> Option<Leader> {
        self.leader.borrow().clone()
    }

    pub(crate) fn leader_changes(&self) -> watch::Receiver<Option<Leader>> {
        self.leader.subscribe()
    }

    pub(crate) fn configuration(&self) -> Arc<IndexedConfiguration> {
        Arc::clone(&self.configuration.lock())
    }

    /// The last entry covered by the newest snapshot that counts here, taken or installed.
    pub(crate) fn snapshot(&self) -> LogId {
        self.snapshot.lock().last
    }

    /// The same, with what else is known of it.
    pub(super) fn known_snapshot(&self) -> KnownSnapshot {
        *self.snapshot.lock()
    }

    pub(super) fn appended_bytes(&self) -> u64 {
        self.appended_bytes.load(Ordering::Relaxed)
    }
}

fn code(role: Role) -> u8 {
    match role {
        Role::Follower => 0,
        Role::PreCandidate => 1,
        Role::Candidate => 2,
        Role::Leader => 3,
    }
}
