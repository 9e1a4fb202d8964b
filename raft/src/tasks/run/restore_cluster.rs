//! `restore_cluster`: copies the data of a user's restore into the snapshot store. A task that exists
//! only as long as the copying does; the leader leads on meanwhile.

use std::sync::Arc;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
};

use crate::{
    configuration::IndexedConfiguration,
    error::{Fatal, RestoreError},
    future::Responder,
    position::{LogId, LogIndex},
    snapshot::{SnapshotId, SnapshotStore},
    tasks::{request::RestoreData, shared::Shared, supervise::AbortOnDrop},
};

/// Bytes copied at once.
const BUFFER_BYTES: usize = 256 << 10;

/// A restore under way, as `run` sees it. Dropping it ends the copying.
pub(super) struct Restoring {
    /// Where the snapshot will end.
    pub(super) last: LogId,
    /// Gone when the caller has been told of the end of the leadership.
    responder: Option<Responder<LogIndex, RestoreError>>,
    give_up: Option<oneshot::Sender<()>>,
    _task: AbortOnDrop,
}

impl Restoring {
    pub(super) fn new(
        last: LogId,
        responder: Responder<LogIndex, RestoreError>,
        give_up: oneshot::Sender<()>,
        task: AbortOnDrop,
    ) -> Self {
        Self { last, responder: Some(responder), give_up: Some(give_up), _task: task }
    }

    /// The leadership it belongs to is over: the caller is told at once, however long the data takes.
    /// The copying ends by itself, so that a snapshot that is complete by now is not forgotten.
    pub(super) fn stepped_down(&mut self) {
        self.give_up = None;
        if let Some(responder) = self.responder.take() {
            responder.answer(Err(RestoreError::LeadershipLost));
        }
    }

    /// Whom to answer, unless that is done.
    pub(super) fn into_responder(self) -> Option<Responder<LogIndex, RestoreError>> {
        self.responder
    }
}

pub(super) struct RestoreCluster {
    pub(super) store: Arc<dyn SnapshotStore>,
    pub(super) shared: Arc<Shared>,
    /// Where the snapshot has to end.
    pub(super) last: LogId,
    pub(super) configuration: IndexedConfiguration,
    pub(super) data: RestoreData,
    /// Resolves when the data is not wanted any more.
    pub(super) given_up: oneshot::Receiver<()>,
}

impl RestoreCluster {
    /// Runs until all data is durable, or cannot be had, and tells `run`.
    pub(super) async fn run(self) -> Result<(), Fatal> {
        let Self { store, shared, last, configuration, data, given_up } = self;
        let copied = copy(&*store, &shared, last, configuration, data, given_up).await;
        if let Err(error) = &copied {
            tracing::warn!(server = %shared.id, %error, "the cluster is not restored");
        }
        shared.signals.restore_copied(last, copied);
        Ok(())
    }
}

/// Removes the snapshot of a restore that came to nothing: it must not be taken for a state of this
/// cluster.
pub(super) async fn withdraw(
    store: Arc<dyn SnapshotStore>,
    shared: Arc<Shared>,
    id: SnapshotId,
) -> Result<(), Fatal> {
    shared.void_snapshots.note(&id, false);
    if let Err(error) = shared.void_snapshots.remove(&*store).await {
        tracing::error!(
            server = %shared.id, %id, %error,
            "cannot remove a snapshot that does not count; it is tried again before the next one is kept"
        );
    }
    Ok(())
}

async fn copy(
    store: &dyn SnapshotStore,
    shared: &Shared,
    last: LogId,
    configuration: IndexedConfiguration,
    RestoreData { mut reader, size_bytes, .. }: RestoreData,
    mut given_up: oneshot::Receiver<()>,
) -> Result<SnapshotId, RestoreError> {
    shared.void_snapshots.remove(store).await?;
    let mut sink = store.create(last, configuration).await?;
    let written = async {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut total = 0;
        loop {
            let count = tokio::select! {
                biased;
                _ = &mut given_up => return Err(RestoreError::LeadershipLost),
                count = read(&mut reader, &mut buffer) => count?,
            };
            if count == 0 {
                break;
            }
            total += count as u64;
            let data = buffer.get(..count).unwrap_or_default();
            sink.write_all(data).await.map_err(|error| RestoreError::store("write", error))?;
        }
        sink.flush().await.map_err(|error| RestoreError::store("write", error))?;
        if size_bytes != total {
            return Err(RestoreError::Size { expected_bytes: size_bytes, bytes: total });
        }
        Ok(())
    };
    match written.await {
        Ok(()) => {
            shared.void_snapshots.remove(store).await?;
            Ok(sink.finish().await?.id)
        }
        Err(error) => {
            sink.cancel().await;
            Err(error)
        }
    }
}

async fn read(
    reader: &mut (impl AsyncRead + Unpin),
    buffer: &mut [u8],
) -> Result<usize, RestoreError> {
    reader.read(buffer).await.map_err(|error| RestoreError::Read { reason: error.to_string() })
}
