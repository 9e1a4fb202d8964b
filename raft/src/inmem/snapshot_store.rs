//! Snapshots in memory: the newest few, each one run of bytes.
//!
//! A sink fills a buffer that nobody else knows of; finishing it moves the buffer into the store
//! and drops what is older than the newest few. Readers share the bytes, so that a snapshot that
//! is dropped from the store can still be read by those who have opened it.

use std::{
    fmt,
    io::{self, Cursor},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;

use super::InmemDisk;
use crate::{
    configuration::IndexedConfiguration,
    position::LogId,
    snapshot::{SnapshotId, SnapshotMeta, SnapshotReader, SnapshotSink, SnapshotStore},
    store_error::StoreError,
};

const RETAINED: usize = 2;

/// A [`SnapshotStore`] in memory. Cheap to clone; clones are handles onto the same snapshots, so a
/// node can be "restarted" on a clone.
///
/// Keeps the newest finished snapshots (two, or as many as [`retaining`](Self::retaining) says).
/// Finishing a snapshot counts as one write of the [`InmemDisk`].
#[derive(Clone)]
pub struct InmemSnapshotStore {
    shared: Arc<Shared>,
}

struct Shared {
    /// Newest first; at most `retained`.
    finished: Mutex<Vec<Finished>>,
    retained: usize,
    begun: AtomicU64,
    disk: InmemDisk,
}

#[derive(Clone)]
struct Finished {
    meta: SnapshotMeta,
    data: Bytes,
}

impl InmemSnapshotStore {
    /// An empty store that keeps two snapshots, on a disk of its own.
    #[must_use]
    pub fn new() -> Self {
        Self::on(&InmemDisk::new())
    }

    /// An empty store that keeps two snapshots, on this disk.
    #[must_use]
    pub fn on(disk: &InmemDisk) -> Self {
        Self::with(disk.clone(), RETAINED)
    }

    /// An empty store that keeps the `retained` newest snapshots, on a disk of its own.
    ///
    /// # Panics
    /// If that is less than two: the newest may yet come to nothing.
    #[must_use]
    pub fn retaining(retained: usize) -> Self {
        assert!(RETAINED <= retained, "a store keeps two snapshots at least, not {retained}");
        Self::with(InmemDisk::new(), retained)
    }

    fn with(disk: InmemDisk, retained: usize) -> Self {
        let finished = Mutex::default();
        let begun = AtomicU64::new(0);
        Self { shared: Arc::new(Shared { finished, retained, begun, disk }) }
    }

    /// The disk beneath, where faults are set.
    #[must_use]
    pub fn disk(&self) -> &InmemDisk {
        &self.shared.disk
    }
}

impl Default for InmemSnapshotStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for InmemSnapshotStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let finished: Vec<_> =
            self.shared.finished.lock().iter().map(|snapshot| snapshot.meta.id.clone()).collect();
        f.debug_struct("InmemSnapshotStore")
            .field("finished", &finished)
            .field("disk", &self.shared.disk)
            .finish()
    }
}

#[async_trait]
impl SnapshotStore for InmemSnapshotStore {
    async fn create(
        &self,
        last: LogId,
        configuration: IndexedConfiguration,
    ) -> Result<Box<dyn SnapshotSink>, StoreError> {
        let number = self.shared.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let id = SnapshotId::new(format!("{}-{}-{number}", last.term, last.index));
        let meta = SnapshotMeta { id, last, configuration, size_bytes: 0 };
        Ok(Box::new(Sink { store: self.clone(), meta, data: Vec::new() }))
    }

    async fn list(&self) -> Result<Vec<SnapshotMeta>, StoreError> {
        self.shared.disk.read("the snapshots")?;
        Ok(self.shared.finished.lock().iter().map(|snapshot| snapshot.meta.clone()).collect())
    }

    async fn remove(&self, id: &SnapshotId) -> Result<(), StoreError> {
        self.shared.disk.write("a snapshot").await?;
        self.shared.finished.lock().retain(|snapshot| snapshot.meta.id != *id);
        Ok(())
    }

    async fn open(&self, id: &SnapshotId) -> Result<(SnapshotMeta, SnapshotReader), StoreError> {
        self.shared.disk.read("the snapshots")?;
        let finished = self.shared.finished.lock();
        let Some(Finished { meta, data }) = finished.iter().find(|s| s.meta.id == *id).cloned()
        else {
            return Err(StoreError::NotFound { what: format!("snapshot {id}") });
        };
        Ok((meta, Box::new(Cursor::new(data))))
    }
}

struct Sink {
    store: InmemSnapshotStore,
    meta: SnapshotMeta,
    data: Vec<u8>,
}

impl AsyncWrite for Sink {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.data.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[async_trait]
impl SnapshotSink for Sink {
    async fn finish(self: Box<Self>) -> Result<SnapshotMeta, StoreError> {
        let Self { store, mut meta, data } = *self;
        store.shared.disk.write("a snapshot").await?;
        meta.size_bytes = data.len() as u64;
        let mut finished = store.shared.finished.lock();
        // Before those with the same `last`: of two, the one finished later is the newer.
        let position = finished.partition_point(|newer| meta.last < newer.meta.last);
        finished.insert(position, Finished { meta: meta.clone(), data: data.into() });
        finished.truncate(store.shared.retained);
        Ok(meta)
    }

    async fn cancel(self: Box<Self>) {}
}
