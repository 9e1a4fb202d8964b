//! Every public error. Each answers the only question a caller has: **did my command happen?**
//!
//! Three kinds are never mixed: the refusal or failure of one operation (an enum per operation),
//! the end of the node ([`Fatal`], sticky, reaches every future), and a broken invariant (an
//! assertion, which ends the node as [`Fatal::Panicked`]).

use std::{fmt, io, sync::Arc, time::Duration};

pub use crate::config::ConfigError;
use crate::{
    configuration::{InvalidConfiguration, ServerAddress, ServerId},
    position::{LogId, LogIndex, Term},
    rpc::Promised,
    store_error::StoreError,
};

/// What is known about a command whose future ended with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a command has happened or not, or nobody knows")]
pub enum Outcome {
    /// It was not and will never be applied. Safe to send again, here or elsewhere.
    NotApplied,
    /// It may or may not be applied, now or later. Send it again only if it is idempotent.
    Unknown,
}

/// Who leads, as far as the answering server knows.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Leader {
    /// Its id.
    pub id: ServerId,
    /// Where to dial it, if the configuration known here says so.
    pub address: Option<ServerAddress>,
    /// The term it leads.
    pub term: Term,
}

/// The end of a node. Sticky: once a node has ended, every call and every waiting future gets the
/// same value.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fatal {
    /// [`Raft::shutdown`](crate::Raft::shutdown) was called, or the last handle was dropped.
    #[error("the node was shut down")]
    Shutdown,
    /// A store failed. A failed write is never retried, because a later success would prove
    /// nothing about the lost one. Mend the disk, then start the node again from what is on it.
    #[error("the node stopped because its storage failed: {0}")]
    Store(#[source] StoreError),
    /// The state machine did not take a snapshot that the leader has sent, and its state is lost with
    /// that. (If the snapshot store could not read it, it is [`Store`](Self::Store).) Mend the state machine, then start the node again: it restores the newest
    /// snapshot it can.
    #[error(
        "the node stopped because the snapshot that ends with {last} was not restored: {reason}"
    )]
    Restore {
        /// The last entry covered by the snapshot.
        last: LogId,
        /// Which snapshot it was and what was wrong.
        reason: Arc<str>,
    },
    /// The cluster has gone on without the state this server has: its newest snapshot was made by a
    /// [restore](crate::Raft::restore) that no majority took over before the leadership changed. (Or a
    /// server has lost, against its contract, what its stores had acknowledged.) Starting it again
    /// does not help: remove its data and let it [rejoin](crate::Raft::rejoin_server). If its
    /// [`StableStore`](crate::StableStore) keeps no incarnation, nobody could tell the empty server from
    /// the one that has voted: then remove it from the cluster and add it under another id.
    #[error(
        "the node stopped because the cluster has gone on without its state: it has a snapshot that ends \
         with {snapshot}, and the leader has {entry}; remove this server's data and let it rejoin the cluster"
    )]
    Diverged {
        /// The last entry covered by the snapshot of this server.
        snapshot: LogId,
        /// What the leader has there or before.
        entry: LogId,
    },
    /// A majority of the cluster has lost what was committed, as when older copies of its disks were put
    /// back, or emptied servers were bootstrapped anew: the leader has another entry where this server
    /// knows one to be committed. It is not this server that is at fault, and it may be the last that
    /// has what is lost: **do not empty it, and do not let it rejoin**. What the others have acknowledged
    /// since then is not here, so somebody has to choose. To make this server the source, stop all the others
    /// and recover it ([`recover_cluster`](crate::recover_cluster)); the others then begin with empty
    /// directories.
    #[error(
        "the node stopped because a majority of the cluster has lost what was committed: the leader, \
         {leader}, has entry {entry}, and {committed} is committed on this server; do not empty this \
         server, it may be the last that has it; to make it the source, stop the others and recover the \
         cluster from it (recover_cluster)"
    )]
    LostByMajority {
        /// Who leads.
        leader: ServerId,
        /// What it has.
        entry: LogId,
        /// What is committed here, and the leader lacks.
        committed: LogId,
    },
    /// The server's stores are an older copy of what they were, as when a backup of its data or an image
    /// of its machine is put back; or they have lost, against their contract, what they had
    /// acknowledged. Another server remembers more. With what is forgotten, a promise may be: so the
    /// disk gets another incarnation before the node has ended, by which nobody takes it for the member
    /// it was. Start the server
    /// again and let it [rejoin](crate::Raft::rejoin_server); its data may stay.
    #[error(
        "the node stopped because its disk is an older copy of what it was: it has told {told} that it had \
         {promised}, which it has no more; start it again and let it rejoin the cluster"
    )]
    RolledBack {
        /// Who remembers.
        told: ServerId,
        /// What it was told.
        promised: Promised,
    },
    /// The server learned that it was removed from its cluster
    /// ([`Config::shutdown_on_remove`](crate::Config::shutdown_on_remove)). To use it again, remove
    /// its data and add it as a new server.
    #[error("the node stopped because it was removed from its cluster")]
    Removed,
    /// The transport has given up every [`Inbox`](crate::Inbox) it was started with, so that nobody could
    /// reach the server any more: it was closed from outside, or a task of it has panicked.
    #[error("the node stopped because its transport was closed, or has failed")]
    TransportClosed,
    /// A task panicked: the user's state machine, or a broken invariant of the library.
    #[error("the node stopped because its {task} task panicked: {message}")]
    Panicked {
        /// Which task.
        task: &'static str,
        /// What the panic said.
        message: Arc<str>,
    },
}

/// An error of a transport.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// There is no connection to the peer right now.
    #[error("peer {peer} is unreachable: {reason}")]
    Unreachable {
        /// Who.
        peer: ServerId,
        /// Why.
        reason: String,
    },
    /// The lane to the peer has no room.
    #[error("the queue to the peer is full")]
    Full,
    /// The transport, or the server behind it, has stopped.
    #[error("the transport is closed")]
    Closed,
    /// The transport could not start.
    #[error("{context}: {source}")]
    Start {
        /// What was being done, naming the address.
        context: String,
        /// Why it failed.
        #[source]
        source: Arc<io::Error>,
    },
    /// The call breaks the transport's contract.
    #[error("refused: {reason}")]
    Refused {
        /// Which rule.
        reason: String,
    },
}

/// Why the settings of a running server were not changed. All of them are as they were, unless it
/// is [`Stopped`](Self::Stopped).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// A setting breaks a rule, or cannot change while the server runs.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The queue was full for the whole enqueue timeout.
    #[error("the settings were not accepted within {timeout:?}")]
    EnqueueTimeout {
        /// How long they waited.
        timeout: Duration,
    },
    /// The node has ended.
    #[error(transparent)]
    Stopped(#[from] Fatal),
}

/// Why [`Raft::new`](crate::Raft::new) failed. Nothing was started.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting breaks a rule; change it.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A store could not be read; the message names what and where.
    #[error("cannot start: {0}")]
    Store(#[from] StoreError),
    /// The transport could not start; the message names the address.
    #[error("cannot start: {0}")]
    Transport(#[from] TransportError),
    /// The stores belong to another server. Nothing was changed: give each server its own directory, or
    /// this one the id that it was started with before.
    #[error(
        "cannot start: the stores are those of server {owner:?}, not of {given:?}; a data directory belongs \
         to one server for ever"
    )]
    WrongServer {
        /// Whose they are.
        owner: ServerId,
        /// Who was to start, see [`Config::local_id`](crate::Config::local_id).
        given: ServerId,
    },
    /// The state machine says that it has applied more than log and snapshots hold: they do not
    /// belong together, or the log has lost what was acknowledged. Use the stores this server ran
    /// with, or set it up anew from its peers.
    #[error(
        "cannot start: the state machine has applied entry {applied}, but the log ends at {last}"
    )]
    AheadOfLog {
        /// What [`Fsm::last_applied`](crate::Fsm::last_applied) returned.
        applied: LogIndex,
        /// The last index of the log, or of the newest snapshot.
        last: LogIndex,
    },
    /// No snapshot in the store could be restored into the state machine.
    #[error(
        "cannot start: none of the {tried} snapshots could be restored, the newest because {reason}"
    )]
    Snapshot {
        /// How many were tried.
        tried: usize,
        /// Why the newest one failed: what is to be mended.
        reason: RestoreFailure,
    },
}

/// Why a snapshot could not be restored into the state machine.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreFailure {
    /// The snapshot store could not open it, or not read all of it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state machine did not take what was read.
    #[error("the state machine did not take it: {reason}")]
    Fsm {
        /// What it said.
        reason: String,
    },
}

/// Why a bootstrap was refused. Nothing was changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// The server already has a term, a log or a snapshot. A cluster is bootstrapped once; other
    /// servers are added by configuration changes.
    #[error("the server already has state: a cluster is bootstrapped only once")]
    AlreadyBootstrapped,
    /// The configuration breaks a rule.
    #[error("cannot bootstrap: {0}")]
    InvalidConfiguration(#[from] InvalidConfiguration),
    /// Live only: the server asked is not a voter of the configuration, so it could never lead.
    #[error("cannot bootstrap: server {id:?} is not a voter of the configuration")]
    NotVoter {
        /// The server asked.
        id: ServerId,
    },
    /// Offline only: a store failed.
    #[error("cannot bootstrap: {0}")]
    Store(#[from] StoreError),
    /// Live only: the node has ended.
    #[error(transparent)]
    Stopped(#[from] Fatal),
}

/// A run of entries that are not known to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UncommittedEntries {
    /// The index of the first.
    pub first: LogIndex,
    /// The last one, which is the last of the log.
    pub last: LogId,
    /// How many of them are commands.
    pub commands: u64,
}

impl fmt::Display for UncommittedEntries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last, commands } = self;
        let noun = if *commands == 1 { "command" } else { "commands" };
        write!(f, "entries {first} to {last} ({commands} {noun})")
    }
}

/// Why [`recover_cluster`](crate::recover_cluster) did not recover a server. Unless a store failed,
/// nothing was changed; if one did, the call can be repeated once it is mended.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// The configuration breaks a rule; correct it.
    #[error("cannot recover: {0}")]
    InvalidConfiguration(#[from] InvalidConfiguration),
    /// The server is not in the configuration, so that it would serve nobody. Correct the id, or add
    /// the server.
    #[error("cannot recover: server {id:?} is not in the configuration")]
    NotMember {
        /// The server.
        id: ServerId,
    },
    /// The stores belong to another server than [`RecoverOptions::local_id`](crate::RecoverOptions).
    /// Correct the id, or use the stores of this server.
    #[error("cannot recover: the stores are those of server {owner:?}, not of {given:?}")]
    WrongServer {
        /// Whose they are.
        owner: ServerId,
        /// Whose they were said to be.
        given: ServerId,
    },
    /// There is neither an entry nor a snapshot. Use the stores of another server, or bootstrap a
    /// new cluster.
    #[error("cannot recover: there is neither a log nor a snapshot")]
    NoState,
    /// The log goes on beyond what is known to be committed, and what becomes of that was left
    /// open. Choose: [`Uncommitted`](crate::Uncommitted) says how.
    #[error(
        "cannot recover without a decision: up to entry {committed} the log is known to be \
         committed; {uncommitted} may or may not be, and may have been acknowledged: keep or discard \
         them"
    )]
    Undecided {
        /// Up to where the log is known to be committed; zero if nothing is known.
        committed: LogIndex,
        /// What comes after it.
        uncommitted: UncommittedEntries,
    },
    /// Nothing is known to be committed, so that nothing at all would be left. Keep the entries, or
    /// bootstrap a new cluster on empty stores.
    #[error(
        "cannot recover: nothing is known to be committed; without {uncommitted} nothing is left"
    )]
    NothingCommitted {
        /// What would be discarded.
        uncommitted: UncommittedEntries,
    },
    /// The state of this server would end elsewhere than that of a server recovered before. The two
    /// must not be in one cluster: keep the one whose last entry is the greater (term first), and
    /// let the other begin with an empty directory.
    #[error("cannot recover: the server's state would end with entry {found}, not {expected}")]
    EndsElsewhere {
        /// Where it was to end.
        expected: LogId,
        /// Where it would end.
        found: LogId,
    },
    /// No snapshot in the store could be restored into the state machine. Mend one of them, or use
    /// the stores of another server.
    #[error(
        "cannot recover: none of the {tried} snapshots could be restored, the newest because {reason}"
    )]
    Snapshot {
        /// How many were tried.
        tried: usize,
        /// Why the newest one failed: what is to be mended.
        reason: RestoreFailure,
    },
    /// The state machine could not take or write a view of its state.
    #[error("cannot recover: the state machine could not be snapshot: {reason}")]
    Fsm {
        /// What it said.
        reason: String,
    },
    /// A store failed, or what the stores hold does not belong together.
    #[error("cannot recover: {0}")]
    Store(#[from] StoreError),
}

/// Why an `apply`, `apply_batch` or `barrier` did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// This server does not lead. Send the command to the leader, if one is named.
    #[error("not the leader{}", leader_hint(.leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<Leader>,
    },
    /// Leadership is being transferred. Try again shortly, probably elsewhere.
    #[error("leadership is being transferred")]
    TransferInProgress,
    /// A restore of the cluster is under way. Nothing was changed; try again when it is done.
    #[error("a restore is in progress")]
    RestoreInProgress,
    /// A snapshot took the place of the log before the command was applied here: the cluster was
    /// restored, or this server no longer leads and was sent the snapshot. The command may be part
    /// of it.
    #[error("a snapshot took the command's place; it may or may not have been carried out")]
    ReplacedBySnapshot,
    /// The command is larger than `Config::max_command_bytes`.
    #[error("the command has {bytes} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Its size in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// It was not taken up in the whole enqueue timeout: the leader had no room for more entries. Try
    /// again later.
    #[error("the command was not accepted within {timeout:?}")]
    EnqueueTimeout {
        /// How long it waited.
        timeout: Duration,
    },
    /// Leadership was lost before the command was known to be committed. It may still be.
    #[error("leadership was lost while the command was in flight; it may or may not be applied")]
    LeadershipLost,
    /// The node has ended.
    #[error("{fatal}")]
    Stopped {
        /// Why.
        #[source]
        fatal: Fatal,
        /// Whether the command can still happen.
        outcome: Outcome,
    },
}

impl ApplyError {
    /// Whether the command may have happened.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::NotLeader { .. }
            | Self::TransferInProgress
            | Self::RestoreInProgress
            | Self::TooLarge { .. }
            | Self::EnqueueTimeout { .. } => Outcome::NotApplied,
            Self::LeadershipLost | Self::ReplacedBySnapshot => Outcome::Unknown,
            Self::Stopped { outcome, .. } => *outcome,
        }
    }
}

/// Why a membership change did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigurationError {
    /// This server does not lead. Nothing was changed.
    #[error("not the leader{}", leader_hint(.leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<Leader>,
    },
    /// Leadership is being transferred. Nothing was changed.
    #[error("leadership is being transferred")]
    TransferInProgress,
    /// A restore of the cluster is under way. Nothing was changed; try again when it is done.
    #[error("a restore is in progress")]
    RestoreInProgress,
    /// The previous change is not committed yet. Nothing was changed; try again shortly.
    #[error("the configuration of index {index} is not committed yet; one change at a time")]
    ChangeInProgress {
        /// Where the uncommitted configuration stands.
        index: LogIndex,
    },
    /// The leader has not committed an entry of its own term yet, without which a change would be
    /// unsafe. Nothing was changed; try again shortly.
    #[error("the leader has not committed an entry of its term yet")]
    NotReady,
    /// `prev_index` does not name the latest configuration. Nothing was changed; read
    /// [`Raft::configuration`](crate::Raft::configuration) again and decide anew.
    #[error("the latest configuration has index {latest}, not {given}")]
    StaleIndex {
        /// What the caller gave.
        given: LogIndex,
        /// The index of the latest configuration.
        latest: LogIndex,
    },
    /// The resulting configuration would break a rule. Nothing was changed.
    #[error(transparent)]
    Invalid(#[from] InvalidConfiguration),
    /// The server that was to become a voter has not answered this leader yet, and so its disk is not
    /// known. Nothing was changed: add it as a nonvoter first, and start it if it does not run.
    #[error("server {id} has not answered yet; it becomes a voter only when it has")]
    Unheard {
        /// The new server.
        id: ServerId,
    },
    /// The queue was full for the whole enqueue timeout. Nothing was changed.
    #[error("the change was not accepted within {timeout:?}")]
    EnqueueTimeout {
        /// How long it waited.
        timeout: Duration,
    },
    /// The new server was added as a nonvoter and has not caught up in time. It stays a nonvoter:
    /// add it as a voter again to go on waiting, or remove it.
    #[error(
        "server {id} still lacks {lag} entries, or has not applied them, after {timeout:?}; it stays a nonvoter"
    )]
    TooSlow {
        /// The new server.
        id: ServerId,
        /// How many entries it lacks, or has not applied.
        lag: u64,
        /// How long it was given.
        timeout: Duration,
    },
    /// While the new server was catching up somebody else has removed it or made it a voter.
    #[error("server {id} was changed by somebody else, in the configuration of index {index}")]
    Superseded {
        /// The new server.
        id: ServerId,
        /// Where that configuration stands.
        index: LogIndex,
    },
    /// A leader cannot take itself out and in again: transfer leadership first. Nothing was changed.
    #[error("server {id} leads; transfer leadership to another server first")]
    LeadsItself {
        /// This server.
        id: ServerId,
    },
    /// Leadership was lost before the change was known to be committed. It may still be.
    #[error("leadership was lost while the change was in flight; it may or may not take effect")]
    LeadershipLost,
    /// The node has ended; the change may or may not take effect.
    #[error(transparent)]
    Stopped(#[from] Fatal),
}

/// Why leadership could not be confirmed. Reads must not be answered from this server.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// This server does not lead.
    #[error("not the leader{}", leader_hint(.leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<Leader>,
    },
    /// Leadership was lost before a majority confirmed it.
    #[error("leadership was lost before a majority confirmed it")]
    LeadershipLost,
    /// The queue was full for the whole enqueue timeout.
    #[error("the request was not accepted within {timeout:?}")]
    EnqueueTimeout {
        /// How long it waited.
        timeout: Duration,
    },
    /// The node has ended.
    #[error(transparent)]
    Stopped(#[from] Fatal),
}

/// Why leadership was not transferred.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// This server does not lead.
    #[error("not the leader{}", leader_hint(.leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<Leader>,
    },
    /// Another transfer is running.
    #[error("another leadership transfer is in progress")]
    TransferInProgress,
    /// A restore of the cluster is under way. Nothing was changed; try again when it is done.
    #[error("a restore is in progress")]
    RestoreInProgress,
    /// The target cannot lead: it is this server, unknown, or not a voter; or there is no other
    /// voter to choose.
    #[error("cannot transfer leadership: {reason}")]
    InvalidTarget {
        /// Which of those.
        reason: String,
    },
    /// No other voter could serve if it led: each is lost, or its state machine has not applied what was
    /// known to be committed an election timeout ago (it loads a snapshot, has much to apply, or
    /// stands still). Nothing was changed; try again later, or name the voter
    /// ([`Raft::leadership_transfer_to_server`](crate::Raft::leadership_transfer_to_server)) if commands
    /// may wait for it.
    #[error(
        "no other voter is ready to lead: of {committed} committed entries {voter}, which is nearest to it, \
         has applied {applied}, and what it answered last was sent {last_contact:?} ago"
    )]
    NoneReady {
        /// Who is nearest to it.
        voter: ServerId,
        /// How far its state machine has come, as it said last; zero if it has said nothing yet.
        applied: LogIndex,
        /// How far the log is committed.
        committed: LogIndex,
        /// How long ago it was sent the last message it has answered.
        last_contact: Duration,
    },
    /// The target did not take over in time. This server goes on leading if it still can.
    #[error("the target did not take over within {timeout:?}")]
    TimedOut {
        /// How long it was given.
        timeout: Duration,
    },
    /// Somebody else than the target leads now, or nobody.
    #[error("leadership was lost, but not to the target{}", leader_hint(.leader))]
    LeadershipLost {
        /// Who leads instead, if known.
        leader: Option<Leader>,
    },
    /// The queue was full for the whole enqueue timeout.
    #[error("the request was not accepted within {timeout:?}")]
    EnqueueTimeout {
        /// How long it waited.
        timeout: Duration,
    },
    /// The node has ended.
    #[error(transparent)]
    Stopped(#[from] Fatal),
}

/// Why a snapshot was not taken. The node goes on.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Nothing was applied since the last snapshot.
    #[error("nothing was applied since the last snapshot")]
    NothingNew,
    /// The state machine has no snapshots.
    #[error("the state machine does not implement snapshots")]
    Unsupported,
    /// While this snapshot was being written, one from the leader has arrived that covers more.
    #[error("a snapshot from the leader, which ends with {last}, has overtaken it")]
    Overtaken {
        /// The last entry covered by the newer snapshot.
        last: LogId,
    },
    /// The state machine could not take or write its view, and not because the store failed.
    #[error("the state machine could not be snapshot: {reason}")]
    Fsm {
        /// What it said.
        reason: String,
    },
    /// Too many callers are waiting for a snapshot already. Try again when one is finished.
    #[error("too many snapshots are asked for")]
    Busy,
    /// The snapshot store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node has ended.
    #[error(transparent)]
    Stopped(#[from] Fatal),
}

/// Why a cluster was not restored. Nothing was changed, unless it is
/// [`LeadershipLost`](Self::LeadershipLost) or [`Stopped`](Self::Stopped).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// This server does not lead.
    #[error("not the leader{}", leader_hint(.leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<Leader>,
    },
    /// Leadership is being transferred. Try again shortly, probably elsewhere.
    #[error("leadership is being transferred")]
    TransferInProgress,
    /// Another restore is under way.
    #[error("another restore is in progress")]
    RestoreInProgress,
    /// A membership change is not committed yet. Try again shortly.
    #[error("the configuration of index {index} is not committed yet")]
    ChangeInProgress {
        /// Where the uncommitted configuration stands.
        index: LogIndex,
    },
    /// The leader has not committed an entry of its own term yet. Try again shortly.
    #[error("the leader has not committed an entry of its term yet")]
    NotReady,
    /// The description's last index is not below 2^63. No snapshot has one; indices must not run out.
    #[error(
        "the description says that the snapshot ends with index {index}, which is not below 2^63"
    )]
    Index {
        /// The index.
        index: LogIndex,
    },
    /// The data could not be read.
    #[error("the data could not be read: {reason}")]
    Read {
        /// What the reader said.
        reason: String,
    },
    /// The data has not the length that its description says.
    #[error("the data has {bytes} bytes, but its description says {expected_bytes}")]
    Size {
        /// What the description says.
        expected_bytes: u64,
        /// What there was.
        bytes: u64,
    },
    /// The snapshot store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The queue was full for the whole enqueue timeout.
    #[error("the restore was not accepted within {timeout:?}")]
    EnqueueTimeout {
        /// How long it waited.
        timeout: Duration,
    },
    /// Leadership was lost before a majority was known to have the restored state. The cluster may
    /// have it, or not: look at the state, and restore again if need be.
    #[error("leadership was lost during the restore; it may or may not take effect")]
    LeadershipLost,
    /// The node has ended; the restore may or may not take effect.
    #[error(transparent)]
    Stopped(#[from] Fatal),
}

impl RestoreError {
    pub(crate) fn store(what: &str, error: io::Error) -> Self {
        Self::Store(StoreError::io(format!("cannot {what} the snapshot"), error))
    }
}

fn leader_hint(leader: &Option<Leader>) -> String {
    match leader {
        None => "; no leader is known".to_owned(),
        Some(Leader { id, address: None, .. }) => format!("; the leader is {id}"),
        Some(Leader { id, address: Some(address), .. }) => {
            format!("; the leader is {id} at {address}")
        }
    }
}
