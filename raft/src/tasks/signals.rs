//! Signals: what the other tasks tell `run`.
//!
//! All of it is "latest value wins": a mark that grows, a fact that is set once, the newest news of each
//! transfer. That is why no queue is needed, nothing can be full, and nobody ever waits to tell `run`
//! something.

use std::{
    mem,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{
    configuration::ServerId,
    consensus::{SnapshotReceipt, WriteId},
    error::RestoreError,
    position::LogId,
    snapshot::SnapshotId,
};

/// What other tasks tell `run`.
#[derive(Default)]
pub(super) struct Signals {
    wake: Wake,
    written: AtomicU64,
    /// Whether `run` wants to be woken when more is applied: only when it is short of room.
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

impl Signals {
    /// Ready, once, when another task has something to tell `run`; may be ready for nothing.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.wake.poll(cx)
    }

    /// Wakes `run`.
    pub(super) fn wake(&self) {
        self.wake.wake();
    }

    /// Every write up to this one is durable.
    pub(super) fn written(&self, id: WriteId) {
        self.written.store(id.0, Ordering::Release);
        self.wake.wake();
    }

    pub(super) fn last_written(&self) -> WriteId {
        WriteId(self.written.load(Ordering::Acquire))
    }

    /// More is applied. Wakes `run` only if it waits for that.
    pub(super) fn applied(&self) {
        if self.awaits_applied.load(Ordering::SeqCst) {
            self.wake.wake();
        }
    }

    /// Says whether `run` is to be woken when more is applied. It must look at what is applied once
    /// more after saying yes.
    pub(super) fn await_applied(&self, awaits: bool) {
        self.awaits_applied.store(awaits, Ordering::SeqCst);
    }

    /// The transport could not send entries to `peer`.
    pub(super) fn unreachable(&self, peer: &ServerId) {
        let mut unreachable = self.unreachable.lock();
        if !unreachable.contains(peer) {
            unreachable.push(peer.clone());
        }
        drop(unreachable);
        self.has_unreachable.store(true, Ordering::Release);
        self.wake.wake();
    }

    pub(super) fn take_unreachable(&self) -> Vec<ServerId> {
        if !self.has_unreachable.load(Ordering::Acquire) {
            return Vec::new();
        }
        self.has_unreachable.store(false, Ordering::Release);
        mem::take(&mut *self.unreachable.lock())
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
        tell(&mut self.snapshots.lock());
        self.has_snapshots.store(true, Ordering::Release);
        self.wake.wake();
    }

    pub(super) fn take_snapshots(&self) -> SnapshotNews {
        if !self.has_snapshots.load(Ordering::Acquire) {
            return SnapshotNews::default();
        }
        self.has_snapshots.store(false, Ordering::Release);
        mem::take(&mut *self.snapshots.lock())
    }
}
