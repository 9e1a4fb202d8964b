//! `run_snapshots`: writes snapshots of the state machine into the snapshot store.
//!
//! It asks `run_fsm` for a view, which takes a moment, and writes the view out while commands go
//! on. Callers who ask while a snapshot is being written share the next one.
//!
//! **Not here yet:** telling `run` of a finished snapshot, so that the log can be compacted
//! ([`finished`](RunSnapshots::finished) is the place), and installing a snapshot that a leader
//! sends (it would enter by the same queue, as another kind of request).

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{
    run_fsm::{FsmRequest, View},
    shared::Shared,
};
use crate::{
    error::{Fatal, SnapshotError},
    future::Responder,
    log::LogId,
    snapshot::{SnapshotMeta, SnapshotStore},
};

/// Callers that wait for the next snapshot at most.
pub(super) const SNAPSHOTS_MAX: usize = 64;

/// Somebody who wants a snapshot taken.
pub(super) struct SnapshotRequest {
    pub(super) responder: Responder<SnapshotMeta, SnapshotError>,
}

pub(super) struct RunSnapshots<R> {
    pub(super) store: Arc<dyn SnapshotStore>,
    pub(super) fsm: mpsc::UnboundedSender<FsmRequest<R>>,
    pub(super) shared: Arc<Shared>,
    /// The last entry covered by the newest snapshot.
    pub(super) last: LogId,
}

impl<R: Send + 'static> RunSnapshots<R> {
    /// Runs until `run` is gone; then whatever is being written is given up.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::Receiver<SnapshotRequest>,
    ) -> Result<(), Fatal> {
        let mut waiting = Vec::new();
        while requests.recv_many(&mut waiting, SNAPSHOTS_MAX).await != 0 {
            let Some(result) = self.take().await else { continue };
            for SnapshotRequest { responder } in waiting.drain(..) {
                responder.answer(result.clone());
            }
        }
        Ok(())
    }

    /// Takes one snapshot. `None` when the node has ended meanwhile.
    async fn take(&mut self) -> Option<Result<SnapshotMeta, SnapshotError>> {
        let (reply, view) = oneshot::channel();
        self.fsm.send(FsmRequest::View { newer_than: self.last, reply }).ok()?;
        let result = match view.await.ok()? {
            Ok(view) => self.persist(view).await,
            Err(error) => Err(error),
        };
        match &result {
            Ok(meta) => self.finished(meta),
            Err(SnapshotError::NothingNew) => {}
            Err(error) => {
                tracing::warn!(server = %self.shared.id, %error, "no snapshot was taken");
            }
        }
        Some(result)
    }

    async fn persist(&self, view: View) -> Result<SnapshotMeta, SnapshotError> {
        let View { last, configuration, snapshot } = view;
        let mut sink = self.store.create(last, configuration).await?;
        match snapshot.persist(&mut sink).await {
            Ok(()) => Ok(sink.finish().await?),
            Err(error) => {
                sink.cancel().await;
                Err(SnapshotError::Fsm { reason: error.to_string() })
            }
        }
    }

    fn finished(&mut self, meta: &SnapshotMeta) {
        let (last, size_bytes) = (meta.last, meta.size_bytes);
        tracing::info!(server = %self.shared.id, %last, size_bytes, "snapshot taken");
        self.last = last;
        self.shared.published.publish_snapshot(last);
    }
}
