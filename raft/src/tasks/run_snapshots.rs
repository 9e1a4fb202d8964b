//! `run_snapshots`: takes snapshots of the state machine, when they are due or somebody asks.
//!
//! It asks `run_fsm` for a view, which takes a moment, and writes the view into the snapshot store
//! while commands go on; nothing waits for that. Callers who ask while a snapshot is being written
//! share the next one. When a snapshot is durable, `run` is told, which lets the log forget what it
//! stands for.
//!
//! A snapshot is due when many entries were applied since the last one, which is looked at every
//! [`Config::snapshot_interval`](crate::Config::snapshot_interval) or a little later, so that the
//! servers of a cluster do not all write at once; and when the log has grown by many bytes, which
//! is looked at every second. After a failure the next attempt waits for the longer of the two.
//!
//! A snapshot from the leader that arrives meanwhile covers more than any view taken before it: such
//! a view is thrown away rather than finished.

use std::{sync::Arc, time::Duration};

use rand::RngExt;
use rand_pcg::Pcg64Mcg;
use tokio::sync::{mpsc, oneshot};

use super::{
    run_fsm::{FsmRequest, View},
    shared::Shared,
};
use crate::{
    clock::Ticker,
    config::Config,
    error::{Fatal, SnapshotError},
    fsm::FsmError,
    future::Responder,
    machine::{Counted, Watched},
    metrics::Metrics,
    observer::Observation,
    position::LogId,
    snapshot::{Snapshot, SnapshotMeta, SnapshotStore},
    status::SnapshotProgress,
};

/// Callers that wait for the next snapshot at most.
pub(super) const SNAPSHOTS_MAX: usize = 64;

/// How often the growth of the log is looked at.
const LOOK_AT_BYTES: Duration = Duration::from_secs(1);

/// Somebody who wants a snapshot taken.
pub(super) struct SnapshotRequest {
    pub(super) responder: Responder<Snapshot, SnapshotError>,
}

/// When a snapshot is due.
pub(super) struct Policy {
    /// The settings in force, as far as this task knows.
    config: Arc<Config>,
    rng: Pcg64Mcg,
    /// The newest snapshot this knows of, what the log had grown to by then, and how much it may
    /// grow until the next.
    last: LogId,
    base_bytes: u64,
    growth_bytes: u64,
    /// Whether the last attempt failed: until the interval is over, growth does not count.
    is_failing: bool,
    /// Whether the state machine has said that it has no snapshots.
    is_unsupported: bool,
}

impl Policy {
    /// `last` is the newest snapshot, and `base_bytes` what the log holds of what it covers.
    pub(super) fn new(config: Arc<Config>, seed: u64, last: LogId, base_bytes: u64) -> Self {
        let mut policy = Self {
            config,
            rng: Pcg64Mcg::new(u128::from(seed) << 64 | 0x5a95),
            last,
            base_bytes,
            growth_bytes: 0,
            is_failing: false,
            is_unsupported: false,
        };
        policy.renew(last, base_bytes);
        policy
    }

    /// Until the number of entries is looked at again.
    fn wait(&mut self) -> Duration {
        let interval = self.config.snapshot_interval;
        interval + self.rng.random_range(Duration::ZERO..=interval)
    }

    /// How much the log may grow from one snapshot to the next.
    fn growth(&mut self) -> u64 {
        let threshold = self.config.snapshot_threshold_bytes;
        threshold.saturating_add(self.rng.random_range(0..=threshold / 4))
    }

    /// Goes by other settings from now on. Returns how long the wait under way is to last now, from
    /// its beginning, if that has changed.
    fn reload(&mut self, config: Arc<Config>) -> Option<Duration> {
        let before = std::mem::replace(&mut self.config, config);
        if before.snapshot_threshold_bytes != self.config.snapshot_threshold_bytes {
            self.growth_bytes = self.growth();
        }
        let is_changed = before.snapshot_interval != self.config.snapshot_interval;
        is_changed.then(|| self.wait())
    }

    /// There is a newer snapshot; the log had grown to this when it was taken.
    fn renew(&mut self, last: LogId, base_bytes: u64) {
        self.last = last;
        self.base_bytes = base_bytes;
        self.growth_bytes = self.growth();
        self.is_failing = false;
    }
}

/// What made the task look whether a snapshot is due.
enum Look {
    /// Somebody asks for one, which is always due.
    Asked,
    Entries,
    Bytes,
    /// Other settings are in force: there is nothing to do but to go by them.
    Reloaded,
    /// `run` is gone.
    End,
}

pub(super) struct RunSnapshots<R> {
    pub(super) store: Arc<dyn SnapshotStore>,
    pub(super) fsm: mpsc::UnboundedSender<FsmRequest<R>>,
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) policy: Policy,
}

impl<R: Send + 'static> RunSnapshots<R> {
    /// Runs until `run` is gone; then whatever is being written is given up.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::Receiver<SnapshotRequest>,
    ) -> Result<(), Fatal> {
        let mut waiting = Vec::new();
        let mut entries = Ticker::new(self.policy.wait());
        let mut bytes = Ticker::new(LOOK_AT_BYTES);
        let mut reloads = self.shared.config.subscribe();
        loop {
            let look = tokio::select! {
                biased;
                count = requests.recv_many(&mut waiting, SNAPSHOTS_MAX) => {
                    if count == 0 { Look::End } else { Look::Asked }
                }
                // Its other end is in `self`.
                _ = reloads.changed() => {
                    let config = Arc::clone(&reloads.borrow_and_update());
                    if let Some(length) = self.policy.reload(config) {
                        entries.change(length);
                    }
                    Look::Reloaded
                }
                () = entries.rings() => {
                    entries.restart(self.policy.wait());
                    Look::Entries
                }
                () = bytes.rings() => {
                    bytes.restart(LOOK_AT_BYTES);
                    Look::Bytes
                }
            };
            if matches!(look, Look::End) {
                return Ok(());
            }
            if !self.is_due(&look) {
                continue;
            }
            let Some(result) = self.take().await else { continue };
            self.note(&look, &result);
            for SnapshotRequest { responder } in waiting.drain(..) {
                let snapshot = |meta| Snapshot { meta, store: Arc::clone(&self.store) };
                responder.answer(result.clone().map(snapshot));
            }
        }
    }

    fn is_due(&mut self, look: &Look) -> bool {
        let newest = self.shared.published.snapshot();
        let appended = self.shared.published.appended_bytes();
        let policy = &mut self.policy;
        if policy.last != newest {
            // One from the leader.
            policy.renew(newest, appended);
        }
        let applied = self.shared.last_applied().since(newest.index);
        match look {
            Look::Asked => true,
            Look::Reloaded | Look::End => false,
            Look::Entries | Look::Bytes if policy.is_unsupported || applied == 0 => false,
            Look::Entries => policy.is_failing || policy.config.snapshot_threshold <= applied,
            Look::Bytes => {
                let growth = appended.saturating_sub(policy.base_bytes);
                !policy.is_failing && policy.growth_bytes <= growth
            }
        }
    }

    /// Takes one snapshot. `None` when the node has ended meanwhile.
    async fn take(&mut self) -> Option<Result<SnapshotMeta, SnapshotError>> {
        let newer_than = self.shared.published.snapshot();
        let appended = self.shared.published.appended_bytes();
        let begun = self.shared.clock.now();
        let (reply, view) = oneshot::channel();
        self.fsm.send(FsmRequest::View { newer_than, reply }).ok()?;
        let result = match view.await.ok()? {
            Ok(view) => self.persist(view).await,
            Err(error) => Err(error),
        };
        *self.shared.published.persisting.lock() = None;
        if let Ok(meta) = &result {
            self.metrics.snapshot_taken(self.shared.clock.now().since(begun));
            self.shared.published.publish_snapshot_size(meta.last, meta.size_bytes);
            self.policy.renew(meta.last, appended);
            let (server, last, size_bytes) = (&self.shared.id, meta.last, meta.size_bytes);
            tracing::info!(%server, %last, size_bytes, "snapshot taken");
            if !self.shared.signals.snapshot_taken(meta.last).await {
                return None;
            }
            self.shared.observers.notify(|| Observation::SnapshotTaken { meta: meta.clone() });
        }
        Some(result)
    }

    async fn persist(&self, view: View) -> Result<SnapshotMeta, SnapshotError> {
        let View { last, configuration, snapshot } = view;
        let begun = self.shared.clock.now();
        let sink = self.store.create(last, configuration).await?;
        let (sink, failure) = Watched::new(sink);
        let mut sink = Counted::new(sink, |bytes| {
            let progress = SnapshotProgress { last, bytes, size_bytes: None };
            *self.shared.published.persisting.lock() = Some(progress);
        });
        let persisted = snapshot.persist(&mut sink).await;
        self.metrics.persisted(sink.bytes(), self.shared.clock.now().since(begun));
        let sink = sink.into_inner().into_inner();
        let written = failure.check(|| format!("cannot write the snapshot that ends with {last}"));
        let failed = |error: FsmError| SnapshotError::Fsm { reason: error.to_string() };
        if let Err(error) = written.map_err(Into::into).and(persisted.map_err(failed)) {
            sink.cancel().await;
            return Err(error);
        }
        let newest = self.shared.published.snapshot();
        if last.index <= newest.index {
            sink.cancel().await;
            return Err(SnapshotError::Overtaken { last: newest });
        }
        Ok(sink.finish().await?)
    }

    /// Remembers how it went. Says so if it went wrong, but not each time anew that a snapshot is
    /// not taken because there are none.
    fn note(&mut self, look: &Look, result: &Result<SnapshotMeta, SnapshotError>) {
        let server = &self.shared.id;
        match result {
            Ok(_) | Err(SnapshotError::NothingNew) => {}
            Err(SnapshotError::Unsupported) => {
                let is_known = std::mem::replace(&mut self.policy.is_unsupported, true);
                if !is_known && !matches!(look, Look::Asked) {
                    tracing::warn!(%server, "the state machine has no snapshots: its log will grow");
                }
            }
            Err(error @ SnapshotError::Overtaken { .. }) => {
                tracing::info!(%server, %error, "no snapshot was taken");
            }
            Err(error) => {
                self.metrics.snapshot_failed();
                self.policy.is_failing = true;
                tracing::warn!(%server, %error, "no snapshot was taken");
            }
        }
    }
}
