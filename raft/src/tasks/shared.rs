//! What the tasks and the handle share beside channels: the settings, the end of the node, how far the
//! log has come, signals to `run`, and the published state.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, watch};

use super::{published::Published, signals::Signals, void_snapshots::VoidSnapshots};
use crate::{
    clock::Clock,
    config::Config,
    configuration::ServerId,
    end::End,
    error::Fatal,
    log_tail::LogTail,
    metrics::Busy,
    observer::Observers,
    panics::contained,
    position::{LogIndex, Term},
};

/// Shared by the handle and all tasks of one node.
pub(crate) struct Shared {
    pub(crate) id: ServerId,
    /// The settings in force. Only `run` changes them, everybody else reads them at each use; only
    /// `run_snapshots` waits for changes.
    pub(crate) config: watch::Sender<Arc<Config>>,
    hot: HotSettings,
    pub(crate) clock: Clock,
    pub(crate) end: Arc<End>,
    /// The end of the log, and how far each stage of it has come.
    pub(crate) tail: LogTail,
    pub(crate) observers: Observers,
    pub(crate) published: Published,
    pub(super) signals: Signals,
    pub(super) void_snapshots: VoidSnapshots,
    /// How long `run`, `run_fsm` and `run_log` have been at work.
    pub(super) run_busy: Busy,
    pub(super) fsm_busy: Busy,
    pub(super) log_busy: Busy,
    applied_waiters: AppliedWaiters,
}

/// The settings that are read for each command, message or batch: a lock would cost more than what
/// they are read for.
#[derive(Default)]
struct HotSettings {
    max_command_bytes: AtomicU64,
    enqueue_timeout_nanos: AtomicU64,
    max_append_bytes: AtomicU64,
    max_apply_batch: AtomicUsize,
    max_apply_time_nanos: AtomicU64,
}

/// Those who wait until something is applied.
#[derive(Default)]
struct AppliedWaiters {
    count: AtomicUsize,
    notify: Notify,
}

impl Shared {
    pub(super) fn new(config: Arc<Config>, clock: Clock, tail: LogTail, term: Term) -> Self {
        let shared = Self {
            id: config.local_id.clone(),
            config: watch::Sender::new(Arc::clone(&config)),
            hot: HotSettings::default(),
            clock,
            end: Arc::new(End::new()),
            tail,
            observers: Observers::default(),
            published: Published::new(term),
            signals: Signals::default(),
            void_snapshots: VoidSnapshots::default(),
            run_busy: Busy::new(),
            fsm_busy: Busy::new(),
            log_busy: Busy::new(),
            applied_waiters: AppliedWaiters::default(),
        };
        shared.set_config(config);
        shared
    }

    /// Puts other settings in force, for everybody but the core.
    pub(super) fn set_config(&self, config: Arc<Config>) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let hot = &self.hot;
        hot.max_command_bytes.store(config.max_command_bytes, Ordering::Relaxed);
        hot.enqueue_timeout_nanos.store(nanos(config.enqueue_timeout), Ordering::Relaxed);
        hot.max_append_bytes.store(config.max_append_bytes, Ordering::Relaxed);
        hot.max_apply_batch.store(config.max_apply_batch, Ordering::Relaxed);
        hot.max_apply_time_nanos.store(nanos(config.max_apply_time), Ordering::Relaxed);
        self.tail.set_max_bytes(config.log_cache_bytes);
        self.config.send_replace(config);
    }

    pub(crate) fn max_command_bytes(&self) -> u64 {
        self.hot.max_command_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn max_append_bytes(&self) -> u64 {
        self.hot.max_append_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn max_apply_batch(&self) -> usize {
        self.hot.max_apply_batch.load(Ordering::Relaxed)
    }

    pub(super) fn max_apply_time(&self) -> Duration {
        Duration::from_nanos(self.hot.max_apply_time_nanos.load(Ordering::Relaxed))
    }

    pub(crate) fn enqueue_timeout(&self) -> Duration {
        Duration::from_nanos(self.hot.enqueue_timeout_nanos.load(Ordering::Relaxed))
    }

    /// Ends the node, for this reason unless there is one already. Never panics: it is what a task that
    /// has panicked still does.
    pub(crate) fn stop(&self, fatal: Fatal) {
        let is_first = self.end.begin(fatal.clone());
        self.signals.wake();
        if is_first {
            contained(|| match &fatal {
                Fatal::Shutdown => tracing::info!(server = %self.id, "shutting down"),
                // As somebody wanted.
                Fatal::Removed => tracing::warn!(server = %self.id, %fatal, "the node ends"),
                fatal => tracing::error!(server = %self.id, %fatal, "the node ends"),
            });
        }
    }

    /// Everything up to `index` is applied. Wakes `run` only if it waits for that, and the handle's
    /// waiters only if there are any.
    ///
    /// Both sides first say what they know and then look at what the other said, in one total order
    /// of all such operations, so that at least one of them sees the other: no wake-up is lost.
    pub(super) fn applied(&self, index: LogIndex) {
        self.tail.applied(index);
        self.signals.applied();
        if self.applied_waiters.count.load(Ordering::SeqCst) != 0 {
            self.applied_waiters.notify.notify_waiters();
        }
    }

    pub(crate) fn last_applied(&self) -> LogIndex {
        self.tail.applied_index()
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

    /// How long ago this server heard from its leader: zero on a leader, `None` if it never did.
    pub(crate) fn last_contact(&self) -> Option<Duration> {
        self.published.last_contact(self.clock.now())
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
