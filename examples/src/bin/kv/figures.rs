//! The numbers for Prometheus: what each one means, and where they are gathered. The library counts
//! under the names `raft.*`, this program under `kv_*`.

use metrics::Unit;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::failure::Failure;

enum Kind {
    Counter,
    Gauge,
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};

/// All there are, the library's in the order of its table.
const FIGURES: [(&str, Kind, Unit, &str); 22] = [
    ("raft.apply.requests", Counter, Unit::Count, "Requests taken up."),
    ("raft.apply.entries", Counter, Unit::Count, "Entries applied."),
    (
        "raft.apply.batch_entries",
        Histogram,
        Unit::Count,
        "Entries in one batch of the state machine.",
    ),
    ("raft.propose.batch_entries", Histogram, Unit::Count, "Entries proposed together."),
    (
        "raft.commit.latency_seconds",
        Histogram,
        Unit::Seconds,
        "From proposing to committing, once per batch.",
    ),
    (
        "raft.log.append_batches",
        Histogram,
        Unit::Count,
        "Batches that one write of the log merges.",
    ),
    ("raft.log.append_entries", Counter, Unit::Count, "Entries written to the log."),
    ("raft.role_changes", Counter, Unit::Count, "Changes of role."),
    ("raft.transport.send_errors", Counter, Unit::Count, "Messages the transport refused."),
    (
        "raft.snapshot.take_seconds",
        Histogram,
        Unit::Seconds,
        "From asking for a view of the state to a durable snapshot.",
    ),
    (
        "raft.snapshot.persist_bytes",
        Counter,
        Unit::Bytes,
        "Bytes of the own state written to snapshots.",
    ),
    (
        "raft.snapshot.sent_bytes",
        Counter,
        Unit::Bytes,
        "Bytes of snapshots sent to followers, repeats included.",
    ),
    ("raft.snapshot.received_bytes", Counter, Unit::Bytes, "Bytes of snapshots received and kept."),
    (
        "raft.snapshot.install",
        Counter,
        Unit::Count,
        "Snapshots of others that took the place of the state.",
    ),
    ("kv_requests_total", Counter, Unit::Count, "Requests of Redis clients."),
    ("kv_forwarded_total", Counter, Unit::Count, "Requests passed on to the leader."),
    ("kv_connections", Gauge, Unit::Count, "Redis clients connected."),
    ("kv_keys", Gauge, Unit::Count, "Keys in the map."),
    ("kv_applied_command_index", Gauge, Unit::Count, "Index of the last command applied."),
    ("kv_is_leader", Gauge, Unit::Count, "1 on the leader, else 0."),
    ("kv_commit_index", Gauge, Unit::Count, "The last index known to be committed."),
    ("kv_last_index", Gauge, Unit::Count, "The last index in the log."),
];

/// Begins to gather. To be called before anything is counted.
///
/// # Errors
/// When it was called before.
pub(crate) fn gather() -> Result<PrometheusHandle, Failure> {
    let handle = PrometheusBuilder::new()
        .with_recommended_naming(true)
        .install_recorder()
        .map_err(|error| Failure::new(format!("cannot collect metrics: {error}")))?;
    for (name, kind, unit, help) in FIGURES {
        match kind {
            Counter => metrics::describe_counter!(name, unit, help),
            Gauge => metrics::describe_gauge!(name, unit, help),
            Histogram => metrics::describe_histogram!(name, unit, help),
        }
    }
    Ok(handle)
}
