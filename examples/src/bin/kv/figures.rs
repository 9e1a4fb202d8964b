//! The numbers for Prometheus: what each one means, and where they are gathered. The library counts
//! under the names `raft.*`, this program under `kv_*`.

use metrics::Unit;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::failure::Failure;

enum Kind {
    Counter,
    Gauge,
}

use Kind::{Counter, Gauge};

/// All of this program; the library describes its own (`docs/metrics.md`).
const FIGURES: [(&str, Kind, Unit, &str); 8] = [
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
        }
    }
    Ok(handle)
}
