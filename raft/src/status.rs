//! What a node says of itself.

use std::{sync::Arc, time::Duration};

use serde::{Serialize, Serializer};

use crate::{
    config::Config,
    configuration::{IndexedConfiguration, ServerAddress, ServerId, Suffrage},
    error::Leader,
    position::{LogId, LogIndex, Term},
    seconds,
};

/// The part a server currently plays (paper Figure 4; pre-candidate: thesis §9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it would be elected, without raising its term yet.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre-candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        })
    }
}

/// The marks of a server's log: how far each stage has come. Always
/// `applied ≤ applying ≤ min(committed, stable)` and `stable ≤ in_progress ≤ last`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LogMarks {
    /// The first index still in the log; a snapshot stands for everything before it. One on a log
    /// that was never compacted. The store may hold a little more for a moment.
    pub first: LogIndex,
    /// The last index accepted, durable or not.
    pub last: LogIndex,
    /// The first index of the unstable tail: one more than `stable`.
    pub offset: LogIndex,
    /// The last index handed to the store.
    pub in_progress: LogIndex,
    /// The last index known to be durable on this server.
    pub stable: LogIndex,
    /// The last index this server knows to be committed.
    pub committed: LogIndex,
    /// The last index handed to the state machine.
    pub applying: LogIndex,
    /// The last index the state machine has really applied.
    pub applied: LogIndex,
}

/// Everything a node says of itself, at one moment.
///
/// Serialised, lengths of time are numbers of seconds with a fraction, and their fields say so:
/// `last_contact` becomes `last_contact_seconds`. Terms and indices are numbers, ids are text.
/// Incarnations are text of 16 hexadecimal digits, because many readers of JSON keep only 53 bits of a
/// number; of a disk that is not known, zeros.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// This server.
    pub id: ServerId,
    /// The part it plays.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Who leads, as far as it knows.
    pub leader: Option<Leader>,
    /// Its last entry.
    pub last: LogId,
    /// How far each stage of its log has come.
    pub marks: LogMarks,
    /// The last entry covered by its newest snapshot.
    pub snapshot: LogId,
    /// How many bytes that snapshot has, if that is known.
    pub snapshot_size_bytes: Option<u64>,
    /// How long ago it became durable here; `None` if that was before this server started.
    #[serde(rename = "snapshot_age_seconds", serialize_with = "seconds::optional::serialize")]
    pub snapshot_age: Option<Duration>,
    /// The snapshot of its own state that it is writing, if it is.
    pub persisting: Option<SnapshotProgress>,
    /// The snapshot that it is receiving from the leader, if it is. It stays here while the
    /// transfer is interrupted.
    pub receiving: Option<SnapshotProgress>,
    /// The newest configuration that is known to be committed.
    #[serde(serialize_with = "members")]
    pub committed_configuration: IndexedConfiguration,
    /// The configuration in force, committed or not.
    #[serde(serialize_with = "members")]
    pub latest_configuration: IndexedConfiguration,
    /// How long ago it heard from its leader; zero on a leader, `None` if it never did.
    #[serde(rename = "last_contact_seconds", serialize_with = "seconds::optional::serialize")]
    pub last_contact: Option<Duration>,
    /// How long it has been running.
    #[serde(rename = "uptime_seconds", serialize_with = "seconds::serialize")]
    pub uptime: Duration,
    /// For how long its oldest entry has been in the log, at least; what was there when it started
    /// counts from then. `None` if the log is empty. Looked at once a second.
    ///
    /// Compare it with `last_restore`: a log that goes back less far than a restore takes cannot
    /// bring a follower up to date that was sent a snapshot.
    #[serde(rename = "oldest_entry_age_seconds", serialize_with = "seconds::optional::serialize")]
    pub oldest_entry_age: Option<Duration>,
    /// How long the last restore of its state machine took, at its start or later; `None` if there
    /// was none.
    #[serde(rename = "last_restore_seconds", serialize_with = "seconds::optional::serialize")]
    pub last_restore: Option<Duration>,
    /// For how much of the last second the task that owns consensus was at work, in percent.
    pub run_busy_percent: u8,
    /// For how much of the last second the state machine was at work, in percent.
    pub fsm_busy_percent: u8,
    /// For how much of the last second the log was being written, in percent.
    pub log_busy_percent: u8,
    /// How often it has waited in vain since it started.
    pub timeouts: Timeouts,
    /// The settings in force.
    pub config: Arc<Config>,
    /// On a leader, how far each other server has come; empty on others.
    pub peers: Vec<PeerStatus>,
    /// Set when this server listens elsewhere than the members' list says: it has moved, and the
    /// list does not know yet. Its questions are answered, but nobody calls it by itself.
    pub wrong_address: Option<WrongAddress>,
    /// Set when this server's disk is not the one that its cluster knows it by: it was wiped,
    /// exchanged, or belongs to another server. Nobody listens to it until it is
    /// [rejoined](crate::Raft::rejoin_server).
    pub wrong_disk: Option<WrongDisk>,
    /// The servers that this one does not listen to, for the same reason, as far as it has heard from
    /// them in the last minutes.
    pub wrong_disks: Vec<WrongDisk>,
    /// Whether its state machine has applied what was known to be committed an election timeout ago. If
    /// not, it is loading a snapshot, has much to apply, or stands still; `marks` say how far it is.
    pub can_serve: bool,
    /// What will keep the log from being written before long, if the store knows of something: see
    /// [`LogReader::trouble`](crate::LogReader::trouble).
    pub log_trouble: Option<String>,
}

/// A server that listens elsewhere than the members' list says. Its text says so, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WrongAddress {
    /// Where the configuration in force here has it.
    pub listed: ServerAddress,
    /// Where it can be dialled, as its transport says.
    pub actual: ServerAddress,
}

impl std::fmt::Display for WrongAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { listed, actual } = self;
        write!(
            f,
            "this server listens at {actual}, but the members' list has it at {listed}, where the others \
             call it: if it has moved, add it again at its new address (Raft::add_voter or add_nonvoter)"
        )
    }
}

/// A server that runs on another disk than the one its cluster knows it by. Its text says so, and
/// what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WrongDisk {
    /// Who runs on it.
    pub server: ServerId,
    /// The incarnation that is recorded in the configuration.
    #[serde(serialize_with = "incarnation")]
    pub recorded: u64,
    /// The incarnation of the disk; 0 if its store keeps none.
    #[serde(serialize_with = "incarnation")]
    pub actual: u64,
}

impl std::fmt::Display for WrongDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { server, recorded, actual } = self;
        write!(
            f,
            "server {server} runs on a disk (incarnation {actual:016x}) that is not the one its \
             cluster knows it by ({recorded:016x}): it was wiped, is an older copy, or is that of another \
             server; let it rejoin (Raft::rejoin_server), or give it its own disk back"
        )
    }
}

/// How often a server has waited in vain since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Timeouts {
    /// For a leader, or for votes.
    pub election: u64,
    /// For the answers of a majority: each time it stopped leading.
    pub lease: u64,
    /// For its disk, as a leader: each time it stopped leading.
    pub write_stall: u64,
    /// For its state machine, as a leader: each time it began to hand leadership over.
    pub apply_stall: u64,
}

/// How far a snapshot has been written or received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SnapshotProgress {
    /// The last entry covered by it.
    pub last: LogId,
    /// How many bytes have been written or received.
    pub bytes: u64,
    /// How many bytes it has, if that is known: while the own state is being written it is not.
    pub size_bytes: Option<u64>,
}

/// How far a peer has come, seen from the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PeerStatus {
    /// Who.
    pub id: ServerId,
    /// How entries are being sent to it.
    pub progress: ProgressState,
    /// The last index known to be durable there and equal to the leader's.
    pub match_index: LogIndex,
    /// The next index to be sent.
    pub next_index: LogIndex,
    /// How many entries of the leader's log it is not known to have.
    pub lag_entries: u64,
    /// How long ago it was sent the last message it has answered.
    #[serde(rename = "last_contact_seconds", serialize_with = "seconds::serialize")]
    pub last_contact: Duration,
    /// How long its newest answer to a heartbeat took, too long by 1/500 of the leader lease at
    /// most; `None` before the first.
    #[serde(rename = "round_trip_seconds", serialize_with = "seconds::optional::serialize")]
    pub round_trip: Option<Duration>,
    /// Whether it has not answered for an election timeout.
    pub is_lost: bool,
    /// Whether it answers but takes nothing of what it lacks.
    pub is_stalled: bool,
    /// Messages with entries under way to it.
    pub inflight: usize,
    /// While it is being sent a snapshot: how many bytes of it have arrived.
    pub snapshot_received_bytes: Option<u64>,
    /// How many bytes that snapshot has, once it is open.
    pub snapshot_size_bytes: Option<u64>,
    /// How far its state machine has come, as it said in its newest answer to a heartbeat; zero before
    /// the first. It does not move while the peer loads a snapshot.
    pub applied_index: LogIndex,
    /// Whether it could answer soon if it led: it is not lost, and has applied what was known to be
    /// committed an election timeout ago. Others are not handed leadership unless they are named, and
    /// are not given a vote by [`Raft::add_voter`](crate::Raft::add_voter) or the autopilot.
    pub can_serve: bool,
}

/// How a leader sends entries to a follower (thesis §10.2.2, etcd's words).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum ProgressState {
    /// One message at a time, to find where the logs meet.
    Probe,
    /// Many messages, sent ahead of their answers.
    Replicate,
    /// None: what it needs is only in a snapshot.
    Snapshot,
}

impl std::fmt::Display for ProgressState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Probe => "probe",
            Self::Replicate => "replicate",
            Self::Snapshot => "snapshot",
        })
    }
}

/// Serialises an incarnation, or a cluster, as text.
fn incarnation<S: Serializer>(incarnation: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{incarnation:016x}"))
}

/// Serialises a configuration in its own form, but for the cluster and the incarnations.
fn members<S: Serializer>(
    IndexedConfiguration { index, configuration }: &IndexedConfiguration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Indexed<'a> {
        index: LogIndex,
        configuration: Members<'a>,
    }
    #[derive(Serialize)]
    struct Members<'a> {
        #[serde(serialize_with = "incarnation")]
        cluster: u64,
        servers: Vec<Member<'a>>,
    }
    #[derive(Serialize)]
    struct Member<'a> {
        id: &'a ServerId,
        address: &'a ServerAddress,
        suffrage: Suffrage,
        #[serde(serialize_with = "incarnation")]
        incarnation: u64,
    }
    let members = configuration.servers().iter().map(|server| Member {
        id: &server.id,
        address: &server.address,
        suffrage: server.suffrage,
        incarnation: server.incarnation,
    });
    let cluster = configuration.cluster().0;
    let configuration = Members { servers: members.collect(), cluster };
    Indexed { index: *index, configuration }.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::{ClusterId, Configuration, Server};

    #[test]
    fn no_incarnation_is_rounded_by_readers_of_json() {
        let odd = (1 << 53) + 1;
        let configuration = Configuration::new([
            Server { incarnation: odd, ..Server::voter("a", "h:1") },
            Server::nonvoter("b", "h:2"),
        ])
        .with_cluster(ClusterId(odd + 2));
        let known = IndexedConfiguration { index: LogIndex(7), configuration };
        // Nothing else may differ from the form that is written to disks.
        let mut expected = serde_json::to_value(&known).unwrap();
        expected["configuration"]["servers"][0]["incarnation"] = "0020000000000001".into();
        expected["configuration"]["servers"][1]["incarnation"] = "0000000000000000".into();
        expected["configuration"]["cluster"] = "0020000000000003".into();
        assert_eq!(members(&known, serde_json::value::Serializer).unwrap(), expected);

        let wrong = WrongDisk { server: "a".into(), recorded: odd, actual: u64::MAX };
        let expected = serde_json::json!({
            "server": "a", "recorded": "0020000000000001", "actual": "ffffffffffffffff",
        });
        assert_eq!(serde_json::to_value(wrong).unwrap(), expected);
    }
}
