//! What the handle asks of `run`, and what is remembered of it until it is answered.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    config::Config,
    configuration::{Configuration, ConfigurationChange, ServerId},
    consensus::{ProposeRefusal, Time},
    error::{
        ApplyError, BootstrapError, ConfigurationError, Fatal, ReloadError, RestoreError,
        SnapshotError, TransferError, VerifyError,
    },
    future::{Applied, Responder},
    log::EntryPayload,
    metrics::Call,
    position::LogIndex,
    snapshot::{Snapshot, SnapshotReader},
    status::Status,
};

/// One call of the handle. All kinds come through one queue, so their order is kept; but what brings
/// entries waits there while the leader has no room, and the rest does not.
pub(crate) enum Request<R> {
    Propose(Proposal<R>),
    Verify { responder: Responder<LogIndex, VerifyError> },
    Change(Box<Change>),
    Bootstrap { configuration: Configuration, responder: Responder<(), BootstrapError> },
    Transfer { to: Option<ServerId>, responder: Responder<(), TransferError> },
    Snapshot { responder: Responder<Snapshot, SnapshotError> },
    Restore { data: RestoreData, responder: Responder<LogIndex, RestoreError> },
    Reload { config: Box<Config>, responder: Responder<(), ReloadError> },
    Status { responder: Responder<Box<Status>, Fatal> },
}

impl<R> Request<R> {
    /// As which call it is counted.
    pub(super) fn call(&self) -> Call {
        match self {
            Self::Propose(proposal) => match proposal.what {
                Proposed::Apply { .. } => Call::Apply,
                Proposed::Batch { .. } => Call::ApplyBatch,
                Proposed::Barrier { .. } => Call::Barrier,
            },
            Self::Verify { .. } => Call::VerifyLeader,
            Self::Change(_) => Call::ChangeConfiguration,
            Self::Bootstrap { .. } => Call::Bootstrap,
            Self::Transfer { .. } => Call::LeadershipTransfer,
            Self::Snapshot { .. } => Call::Snapshot,
            Self::Restore { .. } => Call::Restore,
            Self::Reload { .. } => Call::ReloadConfig,
            Self::Status { .. } => Call::Status,
        }
    }
}

/// What a cluster is to be restored from.
pub(crate) struct RestoreData {
    /// The index that the restored state must lie beyond.
    pub(crate) at_least: LogIndex,
    pub(crate) size_bytes: u64,
    pub(crate) reader: SnapshotReader,
}

/// Entries that a caller wants in the log.
pub(crate) struct Proposal<R> {
    pub(crate) what: Proposed<R>,
    /// How long it may wait until it is taken up, and since when it waits: unless that is known,
    /// since `run` has found that there is no room.
    pub(crate) timeout: Duration,
    pub(crate) since: Option<Time>,
}

pub(crate) enum Proposed<R> {
    Apply { command: Bytes, responder: Responder<Applied<R>, ApplyError> },
    Batch { commands: Vec<Bytes>, responder: Responder<Vec<Applied<R>>, ApplyError> },
    Barrier { responder: Responder<LogIndex, ApplyError> },
}

impl<R> Proposal<R> {
    /// The bytes of its entries.
    pub(super) fn cost_bytes(&self) -> u64 {
        let cost = |command: &Bytes| EntryPayload::OVERHEAD_BYTES + command.len() as u64;
        match &self.what {
            Proposed::Apply { command, .. } => cost(command),
            Proposed::Batch { commands, .. } => commands.iter().map(cost).sum(),
            Proposed::Barrier { .. } => EntryPayload::OVERHEAD_BYTES,
        }
    }

    /// Answers that it was not taken up in time.
    pub(super) fn time_out(self) {
        let error = ApplyError::EnqueueTimeout { timeout: self.timeout };
        match self.what {
            Proposed::Apply { responder, .. } => responder.answer(Err(error)),
            Proposed::Batch { responder, .. } => responder.answer(Err(error)),
            Proposed::Barrier { responder } => responder.answer(Err(error)),
        }
    }
}

/// A membership change that is asked for.
pub(crate) struct Change {
    pub(crate) change: ConfigurationChange,
    pub(crate) prev_index: Option<LogIndex>,
    pub(crate) responder: Responder<LogIndex, ConfigurationError>,
}

/// A caller who waits until an entry, or the last of several, is applied.
pub(crate) struct Waiter<R> {
    /// The last entry it waits for.
    pub(crate) index: LogIndex,
    pub(crate) answer: Pending<R>,
}

/// How to answer a [`Waiter`].
pub(crate) enum Pending<R> {
    Apply(Responder<Applied<R>, ApplyError>),
    Batch(Box<PendingBatch<R>>),
    /// The first part of a batch that is committed in several steps.
    Part(Box<BatchPart<R>>),
    Barrier(Responder<LogIndex, ApplyError>),
    Change(Responder<LogIndex, ConfigurationError>),
    /// Waits for the entry that proves that a majority has the restored state.
    Restore(Responder<LogIndex, RestoreError>),
}

/// A batch of commands, or what is left of it after earlier parts.
pub(crate) struct PendingBatch<R> {
    /// The responses: of the earlier parts in there, of this one to come.
    pub(crate) part: BatchPart<R>,
    pub(crate) responder: Responder<Vec<Applied<R>>, ApplyError>,
}

/// A run of entries of a batch. The responder stays with `run` until the last part is committed,
/// because until then the batch can still be lost; so the responses of earlier parts are kept
/// where both sides reach them.
pub(crate) struct BatchPart<R> {
    /// Its first entry.
    pub(crate) first: LogIndex,
    pub(crate) applied: Vec<Applied<R>>,
    /// What earlier parts have left, if there were any.
    pub(crate) earlier: Option<Arc<Mutex<Vec<Applied<R>>>>>,
}

impl<R> PendingBatch<R> {
    pub(crate) fn new(
        first: LogIndex,
        count: usize,
        responder: Responder<Vec<Applied<R>>, ApplyError>,
    ) -> Self {
        let part = BatchPart { first, applied: Vec::with_capacity(count), earlier: None };
        Self { part, responder }
    }

    /// Splits off what lies at or before `up_to`, which must be within the batch.
    pub(super) fn split(&mut self, up_to: LogIndex) -> BatchPart<R> {
        let first = std::mem::replace(&mut self.part.first, up_to.next());
        let earlier = Arc::clone(self.part.earlier.get_or_insert_default());
        BatchPart { first, applied: Vec::new(), earlier: Some(earlier) }
    }

    /// Answers with the responses of all parts.
    pub(super) fn answer(self) {
        let applied = self.part.into_applied();
        self.responder.answer(Ok(applied));
    }
}

impl<R> BatchPart<R> {
    /// Leaves its responses for the next part.
    pub(super) fn leave(mut self) {
        if let Some(earlier) = &self.earlier {
            earlier.lock().append(&mut self.applied);
        }
    }

    fn into_applied(mut self) -> Vec<Applied<R>> {
        let Some(earlier) = self.earlier else { return self.applied };
        let mut applied = std::mem::take(&mut *earlier.lock());
        applied.append(&mut self.applied);
        applied
    }
}

impl<R> Pending<R> {
    /// Answers that the entry was never written.
    pub(crate) fn refuse(self, refusal: ProposeRefusal) {
        match self {
            Self::Apply(responder) => responder.answer(Err(refusal.into())),
            Self::Batch(batch) => batch.responder.answer(Err(refusal.into())),
            Self::Part(_) => {}
            Self::Barrier(responder) => responder.answer(Err(refusal.into())),
            Self::Change(responder) => responder.answer(Err(refusal.into())),
            Self::Restore(responder) => responder.answer(Err(refusal.into())),
        }
    }

    /// Answers that nobody here knows what will become of the entry.
    pub(crate) fn lose_leadership(self) {
        match self {
            Self::Apply(responder) => responder.answer(Err(ApplyError::LeadershipLost)),
            Self::Batch(batch) => batch.responder.answer(Err(ApplyError::LeadershipLost)),
            Self::Part(_) => {}
            Self::Barrier(responder) => responder.answer(Err(ApplyError::LeadershipLost)),
            Self::Change(responder) => responder.answer(Err(ConfigurationError::LeadershipLost)),
            Self::Restore(responder) => responder.answer(Err(RestoreError::LeadershipLost)),
        }
    }

    /// Answers that a snapshot has taken the entry's place.
    pub(crate) fn replace(self) {
        match self {
            Self::Apply(responder) => responder.answer(Err(ApplyError::ReplacedBySnapshot)),
            Self::Batch(batch) => batch.responder.answer(Err(ApplyError::ReplacedBySnapshot)),
            Self::Barrier(responder) => responder.answer(Err(ApplyError::ReplacedBySnapshot)),
            Self::Part(_) | Self::Change(_) | Self::Restore(_) => self.lose_leadership(),
        }
    }
}
