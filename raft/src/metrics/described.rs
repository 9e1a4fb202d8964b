//! What a recorder is told of each metric beforehand: its type, its unit, its meaning. The texts are
//! those of `docs/metrics.md`, and a test compares.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

use self::Kind::{Counter, Gauge, Histogram};

enum Kind {
    Counter,
    Gauge,
    Histogram,
}

const TABLE: [(&str, Kind, Unit, &str); 54] = [
    ("raft.requests", Counter, Unit::Count, "calls that `run` has taken up, by kind"),
    (
        "raft.apply.entries",
        Counter,
        Unit::Count,
        "entries applied, barriers and configurations included",
    ),
    (
        "raft.apply.batch_entries",
        Histogram,
        Unit::Count,
        "entries in one batch of the state machine",
    ),
    (
        "raft.apply.batch_seconds",
        Histogram,
        Unit::Seconds,
        "how long the state machine took for one batch",
    ),
    (
        "raft.propose.batch_entries",
        Histogram,
        Unit::Count,
        "entries proposed together, once per turn",
    ),
    (
        "raft.commit.latency_seconds",
        Histogram,
        Unit::Seconds,
        "from proposing to committing, once per batch",
    ),
    ("raft.role_changes", Counter, Unit::Count, "how often this server began to play a part"),
    ("raft.is_leader", Gauge, Unit::Count, "whether this server leads"),
    ("raft.term", Gauge, Unit::Count, "the server's term"),
    ("raft.peers", Gauge, Unit::Count, "other members of the configuration in force"),
    (
        "raft.last_contact_seconds",
        Gauge,
        Unit::Seconds,
        "how long ago a follower heard from its leader; 0 on a leader, absent before the first time",
    ),
    (
        "raft.election.timeouts",
        Counter,
        Unit::Count,
        "how often it gave up waiting for a leader or for votes",
    ),
    (
        "raft.election.seconds",
        Histogram,
        Unit::Seconds,
        "from the first question for votes to leadership, by the winner",
    ),
    (
        "raft.leader.lease_timeouts",
        Counter,
        Unit::Count,
        "how often it gave up leading because no majority answered",
    ),
    (
        "raft.leader.write_stalls",
        Counter,
        Unit::Count,
        "how often it gave up leading because its disk was stuck",
    ),
    (
        "raft.leader.apply_stalls",
        Counter,
        Unit::Count,
        "how often it began to hand leadership over because its state machine was behind",
    ),
    (
        "raft.wrong_disks",
        Gauge,
        Unit::Count,
        "servers, this one among them, that run on another disk than the one they are known by",
    ),
    ("raft.log.append_batches", Histogram, Unit::Count, "batches that one write of the log merges"),
    ("raft.log.append_entries", Counter, Unit::Count, "entries written to the log"),
    ("raft.log.write_seconds", Histogram, Unit::Seconds, "one write of log, term and vote, synced"),
    (
        "raft.log.compact_seconds",
        Histogram,
        Unit::Seconds,
        "removing what a snapshot stands for from the log",
    ),
    ("raft.log.first_index", Gauge, Unit::Count, "the first entry still in the log"),
    ("raft.log.last_index", Gauge, Unit::Count, "the last entry in the log, durable or not"),
    ("raft.log.commit_index", Gauge, Unit::Count, "the last entry known to be committed"),
    ("raft.log.applied_index", Gauge, Unit::Count, "the last entry applied"),
    (
        "raft.log.oldest_age_seconds",
        Gauge,
        Unit::Seconds,
        "for how long the oldest entry has been in the log, at least; absent for an empty log",
    ),
    (
        "raft.log.trouble",
        Gauge,
        Unit::Count,
        "whether the log will not be writable before long, as its store says",
    ),
    (
        "raft.fsm.restore_seconds",
        Histogram,
        Unit::Seconds,
        "replacing the state by a snapshot, at the start or later",
    ),
    (
        "raft.fsm.last_restore_seconds",
        Gauge,
        Unit::Seconds,
        "how long the newest of these took; absent before the first",
    ),
    (
        "raft.fsm.view_seconds",
        Histogram,
        Unit::Seconds,
        "taking a view for a snapshot, during which nothing is applied",
    ),
    (
        "raft.fsm.saturation",
        Gauge,
        Unit::Count,
        "share of the last second in which the state machine was at work",
    ),
    (
        "raft.run.saturation",
        Gauge,
        Unit::Count,
        "share of the last second in which the task that owns consensus was at work",
    ),
    (
        "raft.log.saturation",
        Gauge,
        Unit::Count,
        "share of the last second in which the log was being written",
    ),
    (
        "raft.queue.length",
        Gauge,
        Unit::Count,
        "what waits: `requests`, `inbox_urgent` and `inbox_entries` (messages), `writes` not durable, `unapplied` entries committed",
    ),
    (
        "raft.snapshot.take_seconds",
        Histogram,
        Unit::Seconds,
        "from asking for a view to a durable snapshot",
    ),
    ("raft.snapshot.persist_seconds", Histogram, Unit::Seconds, "of that, writing the view"),
    (
        "raft.snapshot.persist_bytes",
        Counter,
        Unit::Bytes,
        "bytes of the own state written to snapshots",
    ),
    (
        "raft.snapshot.send_seconds",
        Histogram,
        Unit::Seconds,
        "from the first piece sent to a follower to its word that all is installed",
    ),
    (
        "raft.snapshot.sent_bytes",
        Counter,
        Unit::Bytes,
        "bytes of snapshots sent to followers, repeats included",
    ),
    (
        "raft.snapshot.receive_seconds",
        Histogram,
        Unit::Seconds,
        "from the first piece received to a durable snapshot",
    ),
    ("raft.snapshot.received_bytes", Counter, Unit::Bytes, "bytes of snapshots received and kept"),
    (
        "raft.snapshot.install",
        Counter,
        Unit::Count,
        "snapshots from a leader restored into the state machine",
    ),
    (
        "raft.snapshot.failures",
        Counter,
        Unit::Count,
        "snapshots that could not be taken, sent or kept",
    ),
    ("raft.messages.sent", Counter, Unit::Count, "messages given to the transport, taken or not"),
    ("raft.messages.received", Counter, Unit::Count, "messages taken from the inbox"),
    ("raft.transport.send_errors", Counter, Unit::Count, "messages the transport refused"),
    (
        "raft.observer.dropped",
        Counter,
        Unit::Count,
        "observations lost because an observer did not keep up",
    ),
    (
        "raft.peer.lag_entries",
        Gauge,
        Unit::Count,
        "entries of the leader's log the peer is not known to have",
    ),
    ("raft.peer.inflight", Gauge, Unit::Count, "messages with entries under way to the peer"),
    (
        "raft.peer.last_contact_seconds",
        Gauge,
        Unit::Seconds,
        "how long ago the peer was sent the last message it has answered",
    ),
    (
        "raft.peer.round_trip_seconds",
        Gauge,
        Unit::Seconds,
        "how long its newest answer to a heartbeat took; absent before the first",
    ),
    (
        "raft.peer.is_stalled",
        Gauge,
        Unit::Count,
        "whether the peer answers but takes nothing of what it lacks",
    ),
    (
        "raft.peer.applied_index",
        Gauge,
        Unit::Count,
        "how far the state machine of the peer has come",
    ),
    ("raft.peer.can_serve", Gauge, Unit::Count, "whether the peer could answer soon if it led"),
];

/// Describes every metric. Doing it again changes nothing.
pub(super) fn describe() {
    for (name, kind, unit, meaning) in TABLE {
        match kind {
            Counter => describe_counter!(name, unit, meaning),
            Gauge => describe_gauge!(name, unit, meaning),
            Histogram => describe_histogram!(name, unit, meaning),
        }
    }
}
