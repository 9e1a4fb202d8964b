//! What the core decides: the only way anything leaves it.

use std::fmt;

use crate::{
    configuration::{IndexedConfiguration, Server, ServerId},
    error::Leader,
    log::Entries,
    observer::Observation,
    position::{LogId, LogIndex, Term},
    rpc::{InstallOutcome, Message, Promised},
    stable::HardState,
};

/// Names one log write of this process. Ids grow by one; writes are carried out and reported in
/// that order. A completion names the id, so that a late one can never be taken for a newer write
/// of the same indices (the ABA rule).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteId(pub u64);

/// One decision for the shell to carry out. Actions are to be carried out in order; none waits for
/// another unless it says so.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make this durable, then report [`handle_written`](super::Consensus::handle_written).
    Write(Write),
    /// Load the entries and send them as `AppendEntries`.
    Replicate(AppendOrder),
    /// Send this message.
    Send {
        /// To whom: a member of the last [`SetPeers`](Self::SetPeers), or whoever asked.
        to: ServerId,
        /// What.
        message: Message,
    },
    /// Hand everything up to here to the state machine: committed **and** durable on this server.
    Commit {
        /// The last index to apply.
        up_to: LogIndex,
    },
    /// Remove every entry up to here from the log: snapshots stand for them. To be carried out after
    /// the writes before it; nobody waits for it.
    Compact {
        /// The last index to remove.
        through: LogIndex,
    },
    /// Replace the state machine's state by the snapshot that ends here, which is in the snapshot
    /// store, then report it as [`handle_applied`](super::Consensus::handle_applied). Comes before
    /// any [`Commit`](Self::Commit) beyond it.
    Restore {
        /// The last entry covered by the snapshot.
        snapshot: LogId,
    },
    /// Begin to send this peer a snapshot, in place of whatever snapshot is being sent to it.
    SendSnapshot(SnapshotOrder),
    /// The peer has answered a piece of the snapshot being sent to it; pass it on to the sender,
    /// which ends unless the outcome is [`InstallOutcome::Received`].
    SnapshotAnswered {
        /// The peer.
        from: ServerId,
        /// Which transfer.
        transfer: u64,
        /// What it said.
        outcome: InstallOutcome,
    },
    /// The chunk of a snapshot that has just arrived is from the leader: keep it, then report
    /// [`handle_snapshot_receipt`](super::Consensus::handle_snapshot_receipt). It may also be
    /// dropped: the leader sends it again.
    ReceiveSnapshot {
        /// The leader.
        from: ServerId,
        /// Its term.
        term: Term,
        /// Which transfer.
        transfer: u64,
        /// Where in the snapshot the chunk begins, in bytes.
        offset: u64,
    },
    /// These are the other servers now; talk to nobody else.
    SetPeers(Vec<Server>),
    /// A majority has confirmed leadership in this round: every verification of this round or an
    /// earlier one succeeds.
    Verified {
        /// The round.
        round: u64,
    },
    /// The leadership transfer asked for has ended.
    TransferDone(Result<(), TransferFailure>),
    /// A user's restore has taken the place of the log: what was proposed before it and is not
    /// committed will never be.
    Restored,
    /// This server no longer leads: every verification, and every request beyond `committed`, ends
    /// with "leadership lost".
    SteppedDown {
        /// Requests up to here are committed, and a [`Commit`](Self::Commit) hands them out as soon
        /// as they are durable here, if it has not yet. A leader whose disk is stuck keeps none
        /// waiting that it has not handed out: it cannot say when that will be.
        committed: LogIndex,
    },
    /// The leader's log is another one than this server's newest snapshot stands for, and nothing shows
    /// that the snapshot was ever committed: a user's restore made it, which the rest of the cluster has
    /// gone on without; or a server has lost what it acknowledged. This server is of no use any more
    /// and must end.
    Diverged {
        /// The last entry covered by the snapshot.
        snapshot: LogId,
        /// The leader's entry there or before, which shows it.
        entry: LogId,
    },
    /// The leader's log is another one than what is committed here: a majority has lost that, as on older
    /// copies of its disks. This server may be the last that has it, and must end with its data.
    LostByMajority {
        /// Who leads.
        leader: ServerId,
        /// The leader's entry that shows it.
        entry: LogId,
        /// What is committed here and the leader lacks.
        committed: LogId,
    },
    /// The disk of this server is an older copy, or has lost what it had acknowledged: another server
    /// remembers more of it. This server must end, and its disk be known by another number from then on.
    RolledBack {
        /// Who remembers.
        told: ServerId,
        /// What it was told.
        promised: Promised,
        /// The [incarnation](crate::StableStore::save_disk_identity) that the disk should get.
        incarnation: u64,
    },
    /// Something observers may want to know.
    Observe(Observation),
}

/// A change of what is on disk, to be carried out in this order: hard state, reset, truncation,
/// append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Its identity.
    pub id: WriteId,
    /// Term and vote to save, if they changed.
    pub hard_state: Option<HardState>,
    /// Remove the whole log, in one step: a durable snapshot stands for everything up to here, and
    /// the next entry is the one after it.
    pub reset_to: Option<LogIndex>,
    /// Remove every entry from here on, first.
    pub truncate_from: Option<LogIndex>,
    /// Entries to append; may be empty.
    pub entries: Entries,
    /// How far the log is known to be committed: worth noting beside the entries, not worth a write
    /// of its own.
    pub commit_index: LogIndex,
}

/// Entries to be sent to one follower. The shell loads `prev.index + 1 ..= last` and sends them in
/// one message, or in several consecutive ones if they are more than `max_append_bytes`. An order
/// whose range was truncated since must be dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendOrder {
    /// To whom.
    pub to: ServerId,
    /// The leader's term.
    pub term: Term,
    /// The leader's current round.
    pub round: u64,
    /// The entry before the first one.
    pub prev: LogId,
    /// The last entry; equal to `prev.index` for a probe without entries.
    pub last: LogIndex,
    /// The leader's commit index.
    pub commit_index: LogIndex,
}

/// A snapshot to be sent to one follower: the newest one of the snapshot store. A failure is to be reported as
/// [`handle_snapshot_failed`](super::Consensus::handle_snapshot_failed).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotOrder {
    /// To whom.
    pub to: ServerId,
    /// The leader's term.
    pub term: Term,
    /// Names the transfer; the pieces and their answers carry it.
    pub transfer: u64,
    /// The newest snapshot known. What is sent must not end before it.
    pub snapshot: LogId,
}

/// What became of a piece of a snapshot that this server was told to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotReceipt {
    /// Who sent the piece.
    pub from: ServerId,
    /// The term of the piece.
    pub term: Term,
    /// The transfer it belongs to.
    pub transfer: u64,
    /// How far the transfer has come.
    pub step: ReceiptStep,
}

/// How far a snapshot has been received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceiptStep {
    /// Every byte before this one is here.
    Received {
        /// In bytes from the start of the snapshot.
        next_offset: u64,
    },
    /// All of it is durable in the snapshot store.
    Complete {
        /// The last entry covered by the snapshot.
        last: LogId,
        /// The newest configuration at or before `last`.
        configuration: IndexedConfiguration,
    },
    /// It cannot be kept.
    Refused,
}

/// Why a leadership transfer failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransferFailure {
    /// The target did not take over in time.
    TimedOut,
    /// Another server leads, or none does.
    LeadershipLost {
        /// Who leads, if known.
        leader: Option<Leader>,
    },
}

/// An accepted verification: it succeeds with [`Action::Verified`] of this round or a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verification {
    /// The round, started after the question was asked (law 12).
    pub round: u64,
    /// Everything committed when the question was asked lies at or before this index; a read that
    /// waits until it is applied is linearizable (thesis §6.4).
    pub read_index: LogIndex,
}

impl fmt::Display for WriteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "w{}", self.0)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(write) => {
                write!(f, "write {}", write.id)?;
                if let Some(hard_state) = &write.hard_state {
                    write!(f, " term={}", hard_state.current_term)?;
                    match &hard_state.voted_for {
                        Some(id) => write!(f, " vote={id}")?,
                        None => write!(f, " vote=-")?,
                    }
                }
                if let Some(index) = write.reset_to {
                    write!(f, " reset={index}")?;
                }
                if let Some(from) = write.truncate_from {
                    write!(f, " truncate={from}")?;
                }
                for entry in write.entries.iter() {
                    write!(f, " {}", entry.id())?;
                }
                Ok(())
            }
            Self::Replicate(order) => write!(
                f,
                "replicate -> {} prev={} last={} commit={}",
                order.to, order.prev, order.last, order.commit_index
            ),
            Self::Send { to, message } => write!(f, "send -> {to} {message}"),
            Self::Commit { up_to } => write!(f, "commit {up_to}"),
            Self::Compact { through } => write!(f, "compact {through}"),
            Self::Restore { snapshot } => write!(f, "restore {snapshot}"),
            Self::SendSnapshot(order) => write!(
                f,
                "snapshot -> {} transfer={} last={}",
                order.to, order.transfer, order.snapshot
            ),
            Self::SnapshotAnswered { from, transfer, outcome } => {
                write!(f, "snapshot answered {from} transfer={transfer} {outcome:?}")
            }
            Self::ReceiveSnapshot { from, transfer, .. } => {
                write!(f, "receive from {from} transfer={transfer}")
            }
            Self::SetPeers(peers) => {
                write!(f, "peers")?;
                peers.iter().try_for_each(|peer| write!(f, " {}", peer.id))
            }
            Self::Verified { round } => write!(f, "verified round={round}"),
            Self::TransferDone(Ok(())) => write!(f, "transfer done"),
            Self::TransferDone(Err(failure)) => write!(f, "transfer failed: {failure:?}"),
            Self::Restored => write!(f, "restored"),
            Self::Diverged { snapshot, entry } => write!(f, "diverged {snapshot} {entry}"),
            Self::LostByMajority { leader, entry, committed } => {
                write!(f, "lost by a majority: {leader} has {entry}, committed is {committed}")
            }
            Self::RolledBack { told, promised, .. } => {
                write!(f, "rolled back, {told} has {promised}")
            }
            Self::SteppedDown { .. } => write!(f, "stepped down"),
            Self::Observe(Observation::RoleChanged { role, term }) => {
                write!(f, "role {role} term={term}")
            }
            Self::Observe(Observation::LeaderChanged { leader: Some(leader) }) => {
                write!(f, "leader {} term={}", leader.id, leader.term)
            }
            Self::Observe(Observation::LeaderChanged { leader: None }) => write!(f, "leader none"),
            Self::Observe(Observation::ConfigurationChanged { configuration }) => {
                write!(f, "configuration {} [{}]", configuration.index, configuration.configuration)
            }
            Self::Observe(observation) => write!(f, "observe {observation:?}"),
        }
    }
}
