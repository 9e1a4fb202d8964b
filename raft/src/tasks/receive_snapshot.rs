//! `receive_snapshot`: writes the snapshot that a leader sends into the snapshot store, piece by
//! piece, and tells `run` how far it has come.
//!
//! One transfer at a time, known by its sender, the last entry it covers, its configuration and its
//! size. Pieces are kept in order only; whatever else comes (a duplicate, a piece after a gap, one
//! that is damaged) is answered with the offset that is wanted next. What has arrived stays when the
//! connection breaks, so the same leader goes on where it was; it is given up when another transfer
//! begins, or when nothing has come for [`PATIENCE`].
//!
//! Nothing here ends the node. A store that fails (a full disk) and a sender that contradicts itself
//! are refused, with one warning; the leader tries again later. The state machine and the log are
//! not touched before all of the snapshot is durable.

use std::{sync::Arc, time::Duration};

use tokio::{io::AsyncWriteExt, sync::mpsc};

use super::shared::Shared;
use crate::{
    clock::within,
    configuration::{IndexedConfiguration, ServerId},
    consensus::{ReceiptStep, SnapshotReceipt, Time},
    error::Fatal,
    metrics::Metrics,
    observer::Observation,
    position::{LogId, Term},
    rpc::{Envelope, InstallSnapshotRequest, Message},
    snapshot::{SnapshotMeta, SnapshotSink, SnapshotStore},
    status::SnapshotProgress,
    store_error::StoreError,
};

/// Pieces that wait to be written at most. What comes beyond that is dropped, and sent again.
pub(super) const PIECES_MAX: usize = 16;

/// How long a transfer may stand still before what has arrived of it is given up.
const PATIENCE: Duration = Duration::from_secs(600);

/// A piece, and who sent it.
pub(super) struct Piece {
    pub(super) from: ServerId,
    pub(super) piece: InstallSnapshotRequest,
}

impl Piece {
    /// Takes the piece out of a message that brings one: its bytes do not go through the core.
    pub(super) fn of(envelope: &mut Envelope) -> Option<Self> {
        let Message::InstallSnapshot(request) = &mut envelope.message else { return None };
        Some(Self { from: envelope.from.clone(), piece: request.take() })
    }

    /// Which one it is: the term of its leader, the transfer, and where it begins.
    pub(super) fn chunk(&self) -> (Term, u64, u64) {
        (self.piece.term, self.piece.transfer, self.piece.offset)
    }
}

pub(super) struct ReceiveSnapshot {
    pub(super) store: Arc<dyn SnapshotStore>,
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Arc<Metrics>,
    transfer: Option<Transfer>,
    /// The snapshot received last: its leader may not have heard of it. One that did not count is kept
    /// until another one comes: the next leader may send the same.
    complete: Option<SnapshotMeta>,
    /// Whether its leader did not lead any more when it was reported.
    was_void: bool,
    /// Whether it was said already that snapshots cannot be received.
    has_warned: bool,
}

/// A snapshot of which some has arrived.
struct Transfer {
    from: ServerId,
    last: LogId,
    configuration: IndexedConfiguration,
    size_bytes: u64,
    /// Under which numbers the leader sent it last.
    term: Term,
    number: u64,
    sink: Box<dyn SnapshotSink>,
    received: u64,
    begun: Time,
}

impl Transfer {
    fn is_of(&self, from: &ServerId, piece: &InstallSnapshotRequest) -> bool {
        self.from == *from
            && self.last == piece.last
            && self.size_bytes == piece.size_bytes
            && self.configuration == piece.configuration
    }
}

/// What there is of a snapshot now.
enum Kept {
    Piece { next_offset: u64 },
    All(SnapshotMeta),
}

/// Why a piece, and the transfer with it, is refused.
enum Refused {
    /// The sender contradicts itself.
    Lie(&'static str),
    Store(StoreError),
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl ReceiveSnapshot {
    pub(super) fn new(
        store: Arc<dyn SnapshotStore>,
        shared: Arc<Shared>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (transfer, complete) = (None, None);
        Self { store, shared, metrics, transfer, complete, was_void: false, has_warned: false }
    }

    /// Runs until `run` is gone; then whatever has arrived is given up.
    pub(super) async fn run(mut self, mut pieces: mpsc::Receiver<Piece>) -> Result<(), Fatal> {
        loop {
            let next = if self.transfer.is_some() {
                within(PATIENCE, pieces.recv()).await
            } else {
                Some(pieces.recv().await)
            };
            match next {
                Some(Some(Piece { from, piece })) => self.take(from, piece).await,
                Some(None) => return Ok(()),
                None => self.give_up().await,
            }
        }
    }

    /// Keeps a piece if it is the next one, and reports what is wanted then.
    async fn take(&mut self, from: ServerId, piece: InstallSnapshotRequest) {
        let (term, transfer) = (piece.term, piece.transfer);
        if self.transfer.as_ref().is_some_and(|known| {
            known.from == from && (term, transfer) < (known.term, known.number)
        }) {
            // Late: the leader itself has replaced this transfer.
            return;
        }
        let step = match self.keep(&from, piece).await {
            Ok(Kept::Piece { next_offset }) => ReceiptStep::Received { next_offset },
            Ok(Kept::All(meta)) => return self.complete(from, (term, transfer), meta).await,
            Err(refused) => {
                self.give_up().await;
                self.metrics.snapshot_failed();
                self.warn(&from, &refused);
                ReceiptStep::Refused
            }
        };
        self.shared.signals.snapshot_receipt(SnapshotReceipt { from, term, transfer, step });
    }

    /// Reports that all of a snapshot is durable.
    async fn complete(
        &mut self,
        from: ServerId,
        (term, transfer): (Term, u64),
        meta: SnapshotMeta,
    ) {
        let (last, configuration) = (meta.last, meta.configuration.clone());
        let step = ReceiptStep::Complete { last, configuration };
        let receipt = SnapshotReceipt { from, term, transfer, step };
        let counts = self.shared.signals.snapshot_complete(receipt).await;
        self.shared.void_snapshots.note(&meta.id, counts);
        self.complete = Some(meta);
        self.was_void = !counts;
    }

    async fn keep(
        &mut self,
        from: &ServerId,
        piece: InstallSnapshotRequest,
    ) -> Result<Kept, Refused> {
        let is_same = |meta: &SnapshotMeta| {
            meta.last == piece.last
                && meta.configuration == piece.configuration
                && meta.size_bytes == piece.size_bytes
        };
        // One that did not count may have been removed since.
        if let Some(meta) = self.complete.as_ref().filter(|meta| is_same(meta))
            && (!self.was_void || self.shared.void_snapshots.contains(&meta.id))
        {
            return Ok(Kept::All(meta.clone()));
        }
        let is_known = self.transfer.as_ref().is_some_and(|known| known.is_of(from, &piece));
        let same_number = |known: &Transfer| {
            known.from == *from && (known.term, known.number) == (piece.term, piece.transfer)
        };
        if !is_known && self.transfer.as_ref().is_some_and(same_number) {
            return Err(Refused::Lie("the description of the snapshot changes on the way"));
        }
        if piece.size_bytes < piece.end() {
            return Err(Refused::Lie("there are more bytes than the snapshot has"));
        }
        let received =
            self.transfer.as_ref().filter(|_| is_known).map_or(0, |known| known.received);
        let is_intact = crc32fast::hash(&piece.data) == piece.checksum;
        if !is_intact || piece.offset != received {
            return Ok(Kept::Piece { next_offset: received });
        }
        if !is_known {
            self.begin(from, &piece).await?;
        }
        self.write(&piece).await
    }

    /// Begins a transfer, in the place of whatever was being received.
    async fn begin(
        &mut self,
        from: &ServerId,
        piece: &InstallSnapshotRequest,
    ) -> Result<(), StoreError> {
        self.give_up().await;
        self.shared.void_snapshots.remove(&*self.store).await?;
        let sink = self.store.create(piece.last, piece.configuration.clone()).await?;
        let (server, last, size_bytes) = (&self.shared.id, piece.last, piece.size_bytes);
        // While it comes to nothing again and again, the first time says enough.
        if !self.has_warned {
            tracing::info!(%server, %from, %last, size_bytes, "receiving a snapshot");
        }
        self.transfer = Some(Transfer {
            from: from.clone(),
            last,
            configuration: piece.configuration.clone(),
            size_bytes,
            term: piece.term,
            number: piece.transfer,
            sink,
            received: 0,
            begun: self.shared.clock.now(),
        });
        Ok(())
    }

    /// Writes the piece that comes next, and finishes the snapshot if it is the last one.
    async fn write(&mut self, piece: &InstallSnapshotRequest) -> Result<Kept, Refused> {
        let Some(transfer) = &mut self.transfer else {
            return Ok(Kept::Piece { next_offset: 0 });
        };
        (transfer.term, transfer.number) = (piece.term, piece.transfer);
        let written = transfer.sink.write_all(&piece.data).await;
        let context = |error| StoreError::io("writing a received snapshot", error);
        written.map_err(context)?;
        transfer.received = piece.end();
        let (received, is_whole) = (transfer.received, transfer.received == transfer.size_bytes);
        self.metrics.snapshot_received(piece.data.len() as u64);
        self.show();
        if !is_whole {
            return Ok(Kept::Piece { next_offset: received });
        }
        let Some(Transfer { sink, begun, .. }) = self.transfer.take() else {
            return Ok(Kept::Piece { next_offset: 0 });
        };
        self.show();
        self.shared.void_snapshots.remove(&*self.store).await?;
        let meta = sink.finish().await?;
        self.metrics.snapshot_complete(self.shared.clock.now().since(begun));
        self.shared.published.publish_snapshot_size(meta.last, meta.size_bytes);
        self.has_warned = false;
        Ok(Kept::All(meta))
    }

    async fn give_up(&mut self) {
        if let Some(Transfer { sink, .. }) = self.transfer.take() {
            sink.cancel().await;
            self.show();
        }
    }

    /// Shows how far the transfer has come.
    fn show(&self) {
        let Self { shared, transfer, .. } = self;
        *shared.published.receiving.lock() = transfer.as_ref().map(|transfer| SnapshotProgress {
            last: transfer.last,
            bytes: transfer.received,
            size_bytes: Some(transfer.size_bytes),
        });
        if let Some(transfer) = transfer {
            shared.observers.notify(|| Observation::SnapshotReceiving {
                from: transfer.from.clone(),
                last: transfer.last,
                received_bytes: transfer.received,
                size_bytes: transfer.size_bytes,
            });
        }
    }

    fn warn(&mut self, from: &ServerId, refused: &Refused) {
        if std::mem::replace(&mut self.has_warned, true) {
            return;
        }
        let server = &self.shared.id;
        match refused {
            Refused::Lie(reason) => tracing::warn!(%server, %from, reason, "snapshot refused"),
            Refused::Store(error) => tracing::warn!(%server, %from, %error, "snapshot refused"),
        }
    }
}
