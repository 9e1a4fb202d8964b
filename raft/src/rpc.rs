//! The messages servers send each other.
//!
//! Messages are one-way: an answer is a message of its own, matched to its question by term and by
//! the numbers it echoes (law 12). The transport may lose, delay, duplicate or reorder any of them;
//! the core copes. A message is complete in its fields, so that a transport with a layout of its own
//! does not compile before it sends a new one. Wire bytes belong to the transport (`raft-tcp`).
//!
//! Source: paper Figure 2, thesis §3.10, §9.6; departs from the model, whose RPCs are calls.

#![allow(
    clippy::exhaustive_structs,
    clippy::exhaustive_enums,
    reason = "a transport sends all of it: it has to learn of a new field or message, not to lose it"
)]

use std::{fmt, mem};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    configuration::{ClusterId, IndexedConfiguration, ServerAddress, ServerId},
    log::Entries,
    position::{LogId, LogIndex, Term},
};

/// A message and who sent it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The sender. A transport that authenticates peers vouches for it.
    pub from: ServerId,
    /// Where the sender can be dialled: a new server learns from it where to answer a leader that
    /// is in no configuration it knows. A transport fills it in (TCP: from the handshake, the
    /// peer's advertised address).
    pub address: ServerAddress,
    /// Which cluster the sender belongs to. A transport is told its own at
    /// [`Transport::start`](crate::Transport::start), and when it changes.
    pub cluster: ClusterId,
    /// Which disk the sender runs on; 0 if its store keeps no incarnation.
    pub incarnation: u64,
    /// Which start of the sender this is, see [`Identity`](crate::Identity); 0 if its store keeps no
    /// incarnation.
    pub life: u64,
    /// Which disk the sender's configuration knows the receiver by, 0 if that is not known: the
    /// [`incarnation`](crate::Server::incarnation) of the server the message was sent to.
    pub expects: u64,
    /// What it says.
    pub message: Message,
}

/// Every kind of message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Leader to everyone: entries to append.
    AppendEntries(AppendEntriesRequest),
    /// Answer to [`AppendEntries`](Self::AppendEntries).
    AppendEntriesReply(AppendEntriesReply),
    /// Leader to everyone: "I still lead". Carries no entries and never waits behind them.
    Heartbeat(HeartbeatRequest),
    /// Answer to [`Heartbeat`](Self::Heartbeat).
    HeartbeatReply(HeartbeatReply),
    /// Candidate (or pre-candidate) to voters.
    RequestVote(RequestVoteRequest),
    /// Answer to [`RequestVote`](Self::RequestVote).
    RequestVoteReply(RequestVoteReply),
    /// Leader to the target of a leadership transfer: "campaign now".
    TimeoutNow(TimeoutNowRequest),
    /// Leader to a follower that needs what is only in a snapshot: one piece of it.
    InstallSnapshot(InstallSnapshotRequest),
    /// Answer to [`InstallSnapshot`](Self::InstallSnapshot).
    InstallSnapshotReply(InstallSnapshotReply),
    /// Leader to a server that was removed: "you are no longer a member".
    Removed(RemovedNotice),
}

impl Message {
    /// The sender's term. For a pre-vote request, the term it would campaign in.
    #[must_use]
    pub fn term(&self) -> Term {
        match self {
            Self::AppendEntries(m) => m.term,
            Self::AppendEntriesReply(m) => m.term,
            Self::Heartbeat(m) => m.term,
            Self::HeartbeatReply(m) => m.term,
            Self::RequestVote(m) => m.term,
            Self::RequestVoteReply(m) => m.term,
            Self::TimeoutNow(m) => m.term,
            Self::InstallSnapshot(m) => m.term,
            Self::InstallSnapshotReply(m) => m.term,
            Self::Removed(m) => m.term,
        }
    }

    /// Whether it answers another message.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        match self {
            Self::AppendEntriesReply(_)
            | Self::HeartbeatReply(_)
            | Self::RequestVoteReply(_)
            | Self::InstallSnapshotReply(_) => true,
            Self::AppendEntries(_)
            | Self::Heartbeat(_)
            | Self::RequestVote(_)
            | Self::TimeoutNow(_)
            | Self::InstallSnapshot(_)
            | Self::Removed(_) => false,
        }
    }

    /// The bytes of the entries it carries, as [`Entries::cost_bytes`] counts them, or of its chunk of a
    /// snapshot: what a queue that is bounded in bytes has to count. `None` for all other messages, which
    /// are small and must not wait behind these.
    #[must_use]
    pub fn bulk_bytes(&self) -> Option<u64> {
        match self {
            Self::AppendEntries(request) => Some(request.entries.cost_bytes()),
            Self::InstallSnapshot(request) => Some(request.data.len() as u64),
            Self::AppendEntriesReply(_)
            | Self::Heartbeat(_)
            | Self::HeartbeatReply(_)
            | Self::RequestVote(_)
            | Self::RequestVoteReply(_)
            | Self::TimeoutNow(_)
            | Self::InstallSnapshotReply(_)
            | Self::Removed(_) => None,
        }
    }

    /// The kind, as one word for traces and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::AppendEntries(_) => "AppendEntries",
            Self::AppendEntriesReply(_) => "AppendEntriesReply",
            Self::Heartbeat(_) => "Heartbeat",
            Self::HeartbeatReply(_) => "HeartbeatReply",
            Self::RequestVote(m) if m.is_pre_vote => "RequestPreVote",
            Self::RequestVote(_) => "RequestVote",
            Self::RequestVoteReply(m) if m.is_pre_vote => "RequestPreVoteReply",
            Self::RequestVoteReply(_) => "RequestVoteReply",
            Self::TimeoutNow(_) => "TimeoutNow",
            Self::InstallSnapshot(_) => "InstallSnapshot",
            Self::InstallSnapshotReply(_) => "InstallSnapshotReply",
            Self::Removed(_) => "Removed",
        }
    }
}

/// Entries from the leader (paper Figure 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendEntriesRequest {
    /// The leader's term.
    pub term: Term,
    /// The leader's current round, echoed by the reply; rounds only grow within a term. The
    /// leader knows when each began, so that contact counts from *send* time.
    pub round: u64,
    /// The entry before the first one sent.
    pub prev: LogId,
    /// What to append; may be empty (a probe).
    pub entries: Entries,
    /// The leader's commit index.
    pub commit_index: LogIndex,
}

impl AppendEntriesRequest {
    /// What the sender has at this index, if the request tells.
    pub(crate) fn id_at(&self, index: LogIndex) -> Option<LogId> {
        match index.0.checked_sub(self.prev.index.0)? {
            0 => Some(self.prev),
            after => self.entries.get(usize::try_from(after).ok()? - 1).map(|entry| entry.id()),
        }
    }
}

/// What became of an [`AppendEntriesRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendEntriesReply {
    /// The follower's term.
    pub term: Term,
    /// The round of the request.
    pub round: u64,
    /// Whether the logs met.
    pub outcome: AppendOutcome,
}

/// Whether the follower's log met the leader's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppendOutcome {
    /// The follower's log equals the leader's up to `match_index`, **durably** (law 8).
    Matched {
        /// The last index this request vouched for.
        match_index: LogIndex,
    },
    /// The follower has no entry `prev`, or has another one there.
    Conflict {
        /// The index of the request's `prev`: which question this answers.
        prev_index: LogIndex,
        /// The follower's newest entry whose index and term are both at most those of `prev`:
        /// nothing between it and `prev` can match, so whole terms are skipped.
        hint: LogId,
    },
    /// The request came from an old term; `term` says what the newer one is.
    StaleTerm,
}

/// "I still lead" (thesis §3.4). Carries no log check, so it can never be mistaken for one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatRequest {
    /// The leader's term.
    pub term: Term,
    /// The round this heartbeat belongs to, echoed by the reply.
    pub round: u64,
    /// The leader's commit index, capped at what it knows to be durable on the receiver. The receiver
    /// follows it only as far as this leader has vouched for its log since it started.
    pub commit_index: LogIndex,
    /// What the leader has been promised by the receiver.
    pub promised: Option<Promised>,
}

/// What a server has said of its own disk, as another server remembers it; said back to it, so that it
/// notices if it runs on an older copy of that disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promised {
    /// Which disk it runs on, as the configuration knows it; not 0.
    pub incarnation: u64,
    /// Which life of that disk has promised it.
    pub life: u64,
    /// It has been in this term; 0 if it is told only that it has lived later.
    pub term: Term,
    /// It had this entry durably, and all before it, as a follower in that term;
    /// [`LogId::ZERO`] if it has said nothing about its log.
    pub matched: LogId,
}

/// "I follow you."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatReply {
    /// The follower's term.
    pub term: Term,
    /// The round of the heartbeat.
    pub round: u64,
    /// The last index the follower has *accepted* from this leader in this term, durable or not.
    /// It tells lost messages from a slow disk.
    pub accepted_index: LogIndex,
    /// The part of that which is durable: acknowledges appends whose own answers were lost.
    pub match_index: LogIndex,
    /// How far the follower's state machine has come. Falls when the follower is restarted.
    pub applied_index: LogIndex,
}

/// A request for a vote, or for the promise of one (thesis §9.6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestVoteRequest {
    /// The candidate's term; for a pre-vote, the term it would campaign in.
    pub term: Term,
    /// The candidate's last entry.
    pub last: LogId,
    /// Whether this only asks what the answer would be.
    pub is_pre_vote: bool,
    /// Whether the current leader asked for this campaign: the receiver then does not insist on
    /// its leader (thesis §4.2.3).
    pub is_leadership_transfer: bool,
    /// What the candidate has been promised by the receiver.
    pub promised: Option<Promised>,
    /// Where the candidate's configuration stands: at 1, the first one of a cluster, it may know nobody's
    /// disk.
    pub configuration_index: LogIndex,
    /// The [life](Envelope::life) of the candidate, echoed by the reply.
    pub life: u64,
}

/// The answer to a [`RequestVoteRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestVoteReply {
    /// The voter's term.
    pub term: Term,
    /// The term of the request.
    pub requested_term: Term,
    /// Which of the two questions this answers.
    pub is_pre_vote: bool,
    /// The answer.
    pub is_granted: bool,
    /// What the voter has been promised by the candidate.
    pub promised: Option<Promised>,
    /// The life of the candidate that has asked.
    pub life: u64,
}

/// "Campaign now": the last step of a leadership transfer (thesis §3.10). Obeyed only from the
/// current leader of the current term, only by voters (law 15).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeoutNowRequest {
    /// The leader's term.
    pub term: Term,
}

/// One piece of a snapshot (thesis §5.3). The pieces of a transfer are sent in order, several at a
/// time; the receiver asks again for what did not arrive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallSnapshotRequest {
    /// The leader's term.
    pub term: Term,
    /// Which transfer this belongs to, echoed by the reply; numbered by the leader within its term.
    pub transfer: u64,
    /// The last entry covered by the snapshot.
    pub last: LogId,
    /// The newest configuration at or before `last`.
    pub configuration: IndexedConfiguration,
    /// The length of the whole snapshot in bytes.
    pub size_bytes: u64,
    /// Where in the snapshot `data` begins, in bytes. The piece that reaches `size_bytes` is the last.
    pub offset: u64,
    /// CRC-32 (IEEE) of `data`.
    pub checksum: u32,
    /// The piece.
    pub data: Bytes,
}

impl InstallSnapshotRequest {
    /// Where in the snapshot `data` ends.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.data.len() as u64)
    }

    /// Takes the chunk out, with all that is needed to keep it. What is left is what the core looks at:
    /// whose chunk it was and where it belongs, without its bytes and its configuration.
    pub(crate) fn take(&mut self) -> Self {
        let (configuration, data) = (mem::take(&mut self.configuration), mem::take(&mut self.data));
        Self { configuration, data, ..self.clone() }
    }
}

/// What became of an [`InstallSnapshotRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallSnapshotReply {
    /// The follower's term.
    pub term: Term,
    /// The transfer of the request.
    pub transfer: u64,
    /// How far the transfer has come.
    pub outcome: InstallOutcome,
}

/// How far the transfer of a snapshot has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InstallOutcome {
    /// The receiver has every byte before this one, and wants to be sent on from here.
    Received {
        /// In bytes from the start of the snapshot.
        next_offset: u64,
    },
    /// The receiver's log equals the leader's up to here, **durably**: the snapshot is installed,
    /// or was not needed.
    Installed {
        /// The last index of the snapshot.
        match_index: LogIndex,
    },
    /// The receiver cannot take this snapshot, or not now.
    Refused,
    /// The request came from an old term; `term` says what the newer one is.
    StaleTerm,
}

/// "You are no longer a member" (the model leaves removed servers to find out by themselves).
/// Believed only from the leader of the receiver's term or of a newer one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedNotice {
    /// The leader's term.
    pub term: Term,
    /// Where the committed configuration stands that the receiver is not in.
    pub configuration_index: LogIndex,
}

impl fmt::Display for Promised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.term == Term(0) {
            return write!(f, "a later life");
        }
        write!(f, "term {}", self.term)?;
        if self.matched == LogId::ZERO { Ok(()) } else { write!(f, " and entry {}", self.matched) }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} term={}", self.kind(), self.term())?;
        match self {
            Self::AppendEntries(m) => {
                write!(f, " prev={} n={} commit={}", m.prev, m.entries.len(), m.commit_index)
            }
            Self::AppendEntriesReply(m) => match &m.outcome {
                AppendOutcome::Matched { match_index } => write!(f, " matched={match_index}"),
                AppendOutcome::Conflict { prev_index, hint } => {
                    write!(f, " conflict={prev_index} hint={hint}")
                }
                AppendOutcome::StaleTerm => write!(f, " stale term"),
            },
            Self::Heartbeat(m) => write!(f, " round={} commit={}", m.round, m.commit_index),
            Self::HeartbeatReply(m) => {
                write!(f, " round={} accepted={}", m.round, m.accepted_index)?;
                write!(f, " matched={}", m.match_index)
            }
            Self::RequestVote(m) => {
                let transfer = if m.is_leadership_transfer { " transfer" } else { "" };
                write!(f, " last={}{transfer}", m.last)
            }
            Self::RequestVoteReply(m) => {
                let answer = if m.is_granted { "granted" } else { "refused" };
                write!(f, " for={} {answer}", m.requested_term)
            }
            Self::TimeoutNow(_) => Ok(()),
            Self::InstallSnapshot(m) => {
                write!(f, " transfer={} last={}", m.transfer, m.last)?;
                write!(f, " bytes={}..{}/{}", m.offset, m.end(), m.size_bytes)
            }
            Self::InstallSnapshotReply(m) => {
                write!(f, " transfer={}", m.transfer)?;
                match &m.outcome {
                    InstallOutcome::Received { next_offset } => write!(f, " next={next_offset}"),
                    InstallOutcome::Installed { match_index } => {
                        write!(f, " installed={match_index}")
                    }
                    InstallOutcome::Refused => write!(f, " refused"),
                    InstallOutcome::StaleTerm => write!(f, " stale term"),
                }
            }
            Self::Removed(m) => write!(f, " configuration={}", m.configuration_index),
        }
    }
}
