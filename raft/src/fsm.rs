//! The user's state machine.

use async_trait::async_trait;
use tokio::io::AsyncWrite;

use crate::{
    configuration::IndexedConfiguration, log::Entry, position::LogIndex, snapshot::SnapshotReader,
};

/// An error of the state machine's own snapshot or restore code.
pub type FsmError = Box<dyn std::error::Error + Send + Sync>;

/// What the default methods say: this state machine has no snapshots.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("this state machine does not implement snapshots")]
pub(crate) struct NoSnapshots;

/// A replicated state machine: the one trait a user must implement.
///
/// Only [`apply`](Self::apply) has to be written; the rest has defaults. The library calls every
/// method from one task, `run_fsm`, one at a time.
///
/// **Failure policy.** A command that cannot be carried out (unknown key, bad bytes) fails the same
/// way on every server: that failure is a *response*. A failure that could differ between servers
/// (a disk, memory) must not be turned into a response, or servers would disagree: panic. The panic
/// stops this node, never the process; every waiting future is told
/// [`Fatal::Panicked`](crate::Fatal::Panicked), and nothing more is applied.
///
/// ```
/// use raft::{Entry, Fsm};
///
/// /// Counts the bytes it has seen.
/// struct Counter(u64);
///
/// impl Fsm for Counter {
///     type Response = u64;
///
///     fn apply(&mut self, entry: &Entry) -> u64 {
///         self.0 += entry.data().len() as u64;
///         self.0
///     }
/// }
/// ```
///
/// Source: hashicorp/raft `FSM`, `BatchingFSM`, `ConfigurationStore`.
pub trait Fsm: Send + 'static {
    /// What [`apply`](Self::apply) returns to the caller of [`Raft::apply`](crate::Raft::apply).
    type Response: Send + 'static;

    /// Carries out one committed command and returns its response.
    ///
    /// Called exactly once per command in the order of the log, with strictly growing
    /// [`Entry::index`], on every server. Must be deterministic: the same entries give the same
    /// state and the same responses everywhere. No clock, no randomness, no map iteration order.
    ///
    /// Only entries with a [`Command`](crate::EntryPayload::Command) are handed over;
    /// [`Entry::data`] is what the caller passed to `apply`.
    fn apply(&mut self, entry: &Entry) -> Self::Response;

    /// Carries out several commands. Override it when a batch is cheaper than its parts, for
    /// example with one database transaction.
    ///
    /// `entries` are commands only, in the order of the log; indices may skip where the log holds
    /// other entries. Must push exactly one response per entry, in order, onto `responses`, which
    /// is empty.
    fn apply_batch(&mut self, entries: &[&Entry], responses: &mut Vec<Self::Response>) {
        responses.extend(entries.iter().map(|entry| self.apply(entry)));
    }

    /// Tells of a committed configuration, in order with the commands around it; and of the
    /// configuration of a snapshot, when that was restored. It may differ from the one before only in
    /// the [incarnations](crate::Server::incarnation) of its members.
    fn configuration_changed(&mut self, _configuration: &IndexedConfiguration) {}

    /// Whether the methods may block (disk, locks held for long). If so they run on tokio's
    /// blocking pool, which costs some tens of microseconds per batch; if not (the default) they
    /// run on the task itself and must be quick.
    fn is_blocking(&self) -> bool {
        false
    }

    /// How far the state machine has come by itself, for one that keeps its state on its own disk
    /// and runs with [`Config::restore_on_start`](crate::Config::restore_on_start) off: it is never
    /// handed this entry or an earlier one again. Asked once, at start. The default, zero, is that
    /// of a state machine in memory.
    fn last_applied(&self) -> LogIndex {
        LogIndex::ZERO
    }

    /// Takes a consistent view of the whole state. Must be quick (share or copy references): no
    /// command is applied meanwhile. The view is written out later, while commands go on.
    ///
    /// # Errors
    /// Whatever kept the view from being taken; no snapshot is made and the node goes on. The
    /// default says that this state machine has no snapshots: it is not asked again, and its log is
    /// never compacted.
    fn snapshot(&mut self) -> Result<Box<dyn FsmSnapshot>, FsmError> {
        Err(NoSnapshots.into())
    }

    /// Replaces the **whole** state by what [`FsmSnapshot::persist`] wrote. Earlier state is gone.
    ///
    /// The bytes come from this or another server; the reader gives them once, in order, and
    /// ends after the last one. Read it with [`tokio::io::AsyncReadExt`].
    ///
    /// Called at start, and whenever the leader has sent a snapshot because this server was too far
    /// behind for its log.
    ///
    /// # Errors
    /// Whatever kept the state from being restored. At start an older snapshot is tried; later the
    /// node ends with [`Fatal::Restore`](crate::Fatal::Restore), because the state is lost. An error of the
    /// reader is known to be the snapshot store's, in whatever wrapping it is returned: then the node ends
    /// with [`Fatal::Store`](crate::Fatal::Store).
    fn restore(
        &mut self,
        _reader: SnapshotReader,
    ) -> impl Future<Output = Result<(), FsmError>> + Send {
        async { Err(NoSnapshots.into()) }
    }
}

/// A view of the state at one moment, to be written out while the state machine goes on.
#[async_trait]
pub trait FsmSnapshot: Send + 'static {
    /// Writes the view. It may take as long as it likes, and nothing waits for it but the next
    /// snapshot; but it runs on a task and must not block its thread for long: let each write end
    /// before the next piece is prepared.
    ///
    /// # Errors
    /// Whatever kept it from being written: the snapshot is given up and the node goes on. An error of
    /// the sink is known to be the snapshot store's, in whatever wrapping it is returned.
    async fn persist(
        self: Box<Self>,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), FsmError>;
}
