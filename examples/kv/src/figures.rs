//! The numbers for Prometheus: what each one means, and where they are gathered. The library counts
//! under the names `raft.*`, this program under `kv_*`.

use metrics::Unit;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::failure::Failure;

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

use Kind::{Counter, Gauge};

/// All of this program, as in `docs/metrics.md`, and a test compares. The library describes its own.
const FIGURES: [(&str, Kind, Unit, &str); 8] = [
    (
        "kv_requests_total",
        Counter,
        Unit::Count,
        "requests of Redis clients that read or write keys",
    ),
    ("kv_forwarded_total", Counter, Unit::Count, "requests passed on to the leader"),
    ("kv_connections", Gauge, Unit::Count, "Redis clients connected"),
    ("kv_keys", Gauge, Unit::Count, "keys in the map"),
    ("kv_applied_command_index", Gauge, Unit::Count, "the last command applied"),
    ("kv_is_leader", Gauge, Unit::Count, "whether this server leads"),
    ("kv_commit_index", Gauge, Unit::Count, "the last entry known to be committed"),
    ("kv_last_index", Gauge, Unit::Count, "the last entry in the log, durable or not"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_book_says_the_same() {
        let page = include_str!("../../../docs/metrics.md");
        let rows = page.lines().filter(|line| line.starts_with("| `kv_"));
        let documented: Vec<_> = rows
            .map(|row| {
                let cells: Vec<_> = row
                    .trim_matches('|')
                    .split('|')
                    .map(|cell| cell.trim().trim_matches('`'))
                    .collect();
                let kind = if cells[1] == "counter" { Counter } else { Gauge };
                assert!(kind == Counter || cells[1] == "gauge", "{row}");
                (cells[0], kind, cells[4])
            })
            .collect();
        let told: Vec<_> =
            FIGURES.into_iter().map(|(name, kind, _, help)| (name, kind, help)).collect();
        assert_eq!(documented, told);
    }
}
