//! Snapshots of the state machine: their description and the contract of the store that keeps them.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use crate::{configuration::IndexedConfiguration, position::LogId, store_error::StoreError};

/// Names one snapshot within its store. Text, made by the store.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnapshotId(Arc<str>);

impl SnapshotId {
    /// Wraps the text.
    #[must_use]
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(Arc::from(text.as_ref()))
    }

    /// The text itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// What a snapshot stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store or a transport keeps all of it: it has to learn of a new field, not to lose it"
)]
pub struct SnapshotMeta {
    /// Its name in the store.
    pub id: SnapshotId,
    /// The last entry whose effect is in the snapshot.
    pub last: LogId,
    /// The newest configuration at or before `last`.
    pub configuration: IndexedConfiguration,
    /// The length of the data in bytes.
    pub size_bytes: u64,
}

impl SnapshotMeta {
    /// Whether the data can be read from byte `offset` on.
    pub(crate) fn check_offset(&self, offset: u64) -> Result<(), StoreError> {
        if offset <= self.size_bytes {
            return Ok(());
        }
        let Self { id, size_bytes, .. } = self;
        let reason = format!("snapshot {id} has {size_bytes} bytes and no byte {offset}");
        Err(StoreError::Refused { reason })
    }
}

/// The data of a snapshot, read from its start or from where it was asked for.
pub type SnapshotReader = Box<dyn AsyncRead + Send + Unpin>;

/// A snapshot that was taken, and where to read it. Made by [`Raft::snapshot`](crate::Raft::snapshot).
#[derive(Clone)]
pub struct Snapshot {
    /// What it stands for.
    pub meta: SnapshotMeta,
    pub(crate) store: Arc<dyn SnapshotStore>,
}

impl Snapshot {
    /// Opens it, for a copy to be kept elsewhere. Its bytes are those that
    /// [`FsmSnapshot::persist`](crate::FsmSnapshot::persist) wrote.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the store has given it up for newer ones; otherwise as
    /// [`SnapshotStore::open`].
    ///
    /// # Cancel safety
    /// Dropping the future has no effect.
    pub async fn open(&self) -> Result<SnapshotReader, StoreError> {
        Ok(self.store.open(&self.meta.id).await?.1)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("meta", &self.meta).finish_non_exhaustive()
    }
}

/// Where snapshots are kept: at least the two newest. The newest may come to nothing after all, when
/// a crash cuts its installation short or a restore is given up; then the one before it counts.
///
/// Test an implementation with `raft::testing::snapshot_store_suite` (feature `testing`).
#[async_trait]
pub trait SnapshotStore: Send + Sync + 'static {
    /// Begins a snapshot. It is invisible until [`SnapshotSink::finish`].
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot take a snapshot.
    async fn create(
        &self,
        last: LogId,
        configuration: IndexedConfiguration,
    ) -> Result<Box<dyn SnapshotSink>, StoreError>;

    /// Finished snapshots, newest (largest `last`, term first) first.
    ///
    /// A snapshot that turns out to be damaged stays in the list until a newer one stands for what
    /// it stood for. Only its `id` and `last` are certain then, and opening it fails.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn list(&self) -> Result<Vec<SnapshotMeta>, StoreError>;

    /// Removes a finished snapshot: it stands for nothing. Nothing to remove is not an error.
    /// **Durable when it returns `Ok`.**
    ///
    /// # Errors
    /// [`StoreError`] when it could not be removed.
    async fn remove(&self, id: &SnapshotId) -> Result<(), StoreError>;

    /// Opens a finished snapshot.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such snapshot (any more);
    /// [`StoreError::Corrupt`] when it fails its checksum.
    async fn open(&self, id: &SnapshotId) -> Result<(SnapshotMeta, SnapshotReader), StoreError>;

    /// Opens a finished snapshot at byte `offset` of its data, to go on with a transfer that was cut
    /// short. At the end of the data there is nothing to read, which is no error.
    ///
    /// As given here it opens the snapshot and throws the bytes before `offset` away. A store that
    /// can seek should do that, and may leave the data unchecked: `open` has checked it when the
    /// transfer began.
    ///
    /// # Errors
    /// Those of [`open`](Self::open); [`StoreError::Refused`] when `offset` lies beyond the end.
    async fn open_at(
        &self,
        id: &SnapshotId,
        offset: u64,
    ) -> Result<(SnapshotMeta, SnapshotReader), StoreError> {
        let (meta, mut reader) = self.open(id).await?;
        meta.check_offset(offset)?;
        let mut before = (&mut reader).take(offset);
        let skipped = tokio::io::copy(&mut before, &mut tokio::io::sink())
            .await
            .map_err(|error| StoreError::io(format!("cannot read snapshot {id}"), error))?;
        if skipped < offset {
            let reason = format!("it ends after {skipped} of {} bytes", meta.size_bytes);
            return Err(StoreError::corrupt(format!("snapshot {id}"), reason));
        }
        Ok((meta, reader))
    }
}

/// A snapshot being written: bytes go in through [`AsyncWrite`], then [`finish`](Self::finish)
/// makes it durable and visible. Dropping the sink, or [`cancel`](Self::cancel), leaves no trace.
#[async_trait]
pub trait SnapshotSink: AsyncWrite + Send + Unpin {
    /// Makes the snapshot durable and visible, and returns its description.
    ///
    /// # Errors
    /// [`StoreError`] when it could not be made durable; nothing is visible then.
    async fn finish(self: Box<Self>) -> Result<SnapshotMeta, StoreError>;

    /// Gives the snapshot up.
    async fn cancel(self: Box<Self>);
}
