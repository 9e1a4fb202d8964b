//! `send_snapshot`: sends one peer one snapshot, piece by piece. One task per transfer; it exists
//! only as long as the transfer does.
//!
//! The core orders the transfer and hears its end; this task reads the newest snapshot of the store
//! and keeps a few pieces under way ([`Window`]). The receiver answers each piece with the offset it
//! wants next, which is all there is of flow control: this task goes on from there. It holds one
//! piece in memory, whatever the size of the snapshot. Pieces share the ordered lane with entries,
//! but no entries are sent to a peer that needs a snapshot.
//!
//! `run` drops the task when the peer has answered that it is done, when the core orders another
//! transfer to the same peer, when the peer or the leadership is gone, and at the end of the node.

mod window;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use tokio::{io::AsyncReadExt, sync::mpsc};

use self::window::Window;
use super::{replicate::Sources, signals::FailedTransfer};
use crate::{
    clock::{Pace, within},
    configuration::Server,
    consensus::SnapshotOrder,
    error::Fatal,
    observer::Observation,
    position::LogId,
    rpc::{InstallSnapshotRequest, Message},
    snapshot::{SnapshotMeta, SnapshotReader, SnapshotStore},
    store_error::StoreError,
};

/// Answers that wait to be read at most. With more the newest are lost, as on a network.
pub(super) const ANSWERS_MAX: usize = 64;

pub(super) struct SendSnapshot {
    pub(super) peer: Server,
    pub(super) sources: Arc<Sources>,
    pub(super) order: SnapshotOrder,
    /// The offsets the peer wants to be sent on from.
    pub(super) answers: mpsc::Receiver<u64>,
    pub(super) size: Arc<Size>,
}

/// The size of the snapshot, for those who show it.
#[derive(Debug, Default)]
pub(super) struct Size(AtomicU64);

impl Size {
    /// In bytes; `None` as long as the snapshot is not open.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.0.load(Ordering::Relaxed).checked_sub(1)
    }

    fn set(&self, bytes: u64) {
        self.0.store(bytes.saturating_add(1), Ordering::Relaxed);
    }
}

impl SendSnapshot {
    /// Runs until `run` drops it, or the snapshot cannot be read.
    pub(super) async fn run(mut self) -> Result<(), Fatal> {
        if let Err(error) = self.send().await {
            self.sources.shared.signals.snapshot_failed(FailedTransfer {
                peer: self.peer.id.clone(),
                transfer: self.order.transfer,
                reason: error.to_string(),
            });
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), StoreError> {
        let sources = Arc::clone(&self.sources);
        let known = [sources.shared.published.snapshot(), self.order.snapshot];
        let mut source = Source::newest(&*sources.snapshots, known).await?;
        self.size.set(source.meta.size_bytes);
        let piece_bytes = sources.shared.config.borrow().snapshot_chunk_bytes;
        let mut window = Window::new(source.meta.size_bytes, piece_bytes);
        let mut pace = Pace::new();
        let bytes_per_second = || sources.shared.config.borrow().snapshot_bytes_per_second;
        loop {
            while let Ok(next_offset) = self.answers.try_recv() {
                window.answered(next_offset);
            }
            let Some((offset, len)) = window.next() else {
                self.listen(&mut window).await;
                continue;
            };
            let data = source.read(&*sources.snapshots, offset, len).await?;
            pace.wait(bytes_per_second).await;
            if self.send_piece(&source.meta, offset, data).await {
                pace.passed(len);
                window.sent(len);
                sources.metrics.snapshot_sent(len);
                self.observe(offset + len, source.meta.size_bytes);
            } else {
                sources.metrics.send_failed();
                // Not before there is a sign of life, or a little time has passed.
                window.lost();
                self.listen(&mut window).await;
            }
        }
    }

    /// Waits for an answer; without one in time, what is under way counts as lost.
    async fn listen(&mut self, window: &mut Window) {
        let patience = self.sources.shared.config.borrow().election_timeout;
        match within(patience, self.answers.recv()).await {
            Some(Some(next_offset)) => window.answered(next_offset),
            // `run` has let go of this transfer and is about to drop the task.
            Some(None) => std::future::pending().await,
            None => window.lost(),
        }
    }

    /// Returns whether the transport took it.
    async fn send_piece(&self, meta: &SnapshotMeta, offset: u64, data: Bytes) -> bool {
        let message = Message::InstallSnapshot(InstallSnapshotRequest {
            term: self.order.term,
            transfer: self.order.transfer,
            last: meta.last,
            configuration: meta.configuration.clone(),
            size_bytes: meta.size_bytes,
            offset,
            checksum: crc32fast::hash(&data),
            data,
        });
        self.sources.observe(&self.peer, &message);
        self.sources.transport.send_entries(&self.peer, message).await.is_ok()
    }

    fn observe(&self, sent_bytes: u64, size_bytes: u64) {
        let peer = &self.peer.id;
        let sent = || Observation::SnapshotSent { peer: peer.clone(), sent_bytes, size_bytes };
        self.sources.shared.observers.notify(sent);
    }
}

/// A snapshot being read, nearly always from its start to its end.
struct Source {
    meta: SnapshotMeta,
    reader: SnapshotReader,
    /// Where the reader stands.
    at: u64,
    /// The piece read last, and where it begins: it may have to be sent again, many times if the
    /// peer is away.
    piece: (u64, Bytes),
}

impl Source {
    /// The snapshot that the core knows to be its newest by now, or did when it gave the order. What
    /// else is in the store may never come to stand for anything: a restore that was cut short.
    async fn newest(store: &dyn SnapshotStore, known: [LogId; 2]) -> Result<Self, StoreError> {
        let mut failure = None;
        let listed = store.list().await?;
        for meta in listed.into_iter().filter(|meta| known.contains(&meta.last)) {
            match store.open(&meta.id).await {
                Ok((meta, reader)) => {
                    return Ok(Self { meta, reader, at: 0, piece: (0, Bytes::new()) });
                }
                Err(error) => _ = failure.get_or_insert(error),
            }
        }
        let what = || format!("the snapshot that ends with {}", known[0]);
        Err(failure.unwrap_or_else(|| StoreError::NotFound { what: what() }))
    }

    async fn read(
        &mut self,
        store: &dyn SnapshotStore,
        offset: u64,
        len: u64,
    ) -> Result<Bytes, StoreError> {
        let (begins, piece) = &self.piece;
        if (*begins, piece.len() as u64) == (offset, len) {
            return Ok(piece.clone());
        }
        let context = || format!("reading snapshot {} at byte {offset}", self.meta.id);
        if self.at != offset {
            self.reader = store.open_at(&self.meta.id, offset).await?.1;
        }
        let mut data = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let read = self.reader.read_exact(&mut data).await;
        read.map_err(|error| StoreError::io(context(), error))?;
        self.at = offset + len;
        self.piece = (offset, data.into());
        Ok(self.piece.1.clone())
    }
}
