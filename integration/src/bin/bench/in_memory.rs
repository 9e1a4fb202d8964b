//! Three servers in one process, everything in memory: what consensus itself costs, beside a peer.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::{
    Options, isolated,
    load::{self, LoadResult},
    machine::{self, Neighbours},
    ours,
    outcome::Outcome,
    peer_openraft,
    report::{Spread, Table, count, factor, nanoseconds, plain, show},
};

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Side {
    /// This library.
    Raft,
    /// openraft 0.9, `Vec` payload: copied whenever openraft clones an entry.
    Openraft,
    /// openraft 0.9, `Bytes` payload: shared.
    OpenraftShared,
}

impl Side {
    fn name(self) -> String {
        match self {
            Self::Raft => "raft (this library)".to_owned(),
            Self::Openraft => format!("openraft {}", peer_openraft::version()),
            Self::OpenraftShared => format!("openraft {}, shared", peer_openraft::version()),
        }
    }

    fn argument(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// One run of one side, as a process of its own.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    #[arg(long)]
    side: Side,
    #[command(flatten)]
    load: load::LoadArgs,
    #[arg(long)]
    keep_log: bool,
}

/// One line of the raw results.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    side: Side,
    run: usize,
    result: Result<LoadResult, String>,
}

impl Run {
    fn is(&self, side: Side, clients: usize) -> Option<&LoadResult> {
        self.result.as_ref().ok().filter(|result| self.side == side && result.clients == clients)
    }
}

/// The whole section: every side at every number of clients, interleaved, `runs` times over.
pub(crate) async fn section(options: &Options) -> Outcome<Vec<Run>> {
    let neighbours = Neighbours::watch();
    let mut outcome = Outcome::<Vec<Run>>::default();
    for run in 1..=options.runs {
        for &clients in &options.clients {
            for &side in &options.sides {
                let name = side.name();
                eprintln!("in memory: run {run} of {}, {clients} clients, {name}", options.runs);
                let result = isolated_run(options, side, clients).await;
                let failure = match &result {
                    Ok(result) => result.first_failure.as_ref().map(|failure| {
                        format!(
                            "{} of {} clients failed, the first with: {failure}",
                            result.failures, result.clients
                        )
                    }),
                    Err(error) => Some(error.clone()),
                };
                outcome.failures.extend(failure.map(|failure| {
                    format!("in memory, run {run}, {clients} clients, {name}: {failure}")
                }));
                outcome.raw.push(Run { side, run, result });
            }
        }
    }
    println!("{}", table(options, &outcome.raw, &neighbours).render());
    outcome
}

async fn isolated_run(options: &Options, side: Side, clients: usize) -> Result<LoadResult, String> {
    let mut arguments = vec!["in-memory-run".to_owned(), "--side".to_owned(), side.argument()];
    arguments.extend(options.load(clients).arguments(options.workers));
    if options.keep_log {
        arguments.push("--keep-log".to_owned());
    }
    isolated::run(&arguments, Duration::from_secs_f64(options.seconds + options.warm_up + 60.0))
        .await
}

/// The process of one run.
pub(crate) fn run(args: &RunArgs) -> Result<(), String> {
    let load = args.load.load();
    let runtime = isolated::runtime(args.load.workers)?;
    let stopwatch = isolated::stopwatch()?;
    let result = match args.side {
        Side::Raft => {
            let cluster = runtime.block_on(ours::Cluster::start(args.keep_log))?;
            let result = stopwatch.block_on(load::run(runtime.handle(), &cluster.proposer(), load));
            runtime.block_on(cluster.shutdown());
            result
        }
        Side::Openraft | Side::OpenraftShared => {
            let is_shared = args.side == Side::OpenraftShared;
            let starting = peer_openraft::Cluster::start(is_shared, args.keep_log);
            let cluster = runtime.block_on(starting)?;
            let proposer = cluster.proposer()?;
            let result = stopwatch.block_on(load::run(runtime.handle(), &proposer, load));
            runtime.block_on(cluster.shutdown());
            result
        }
    };
    isolated::report(&result)
}

fn table(options: &Options, runs: &[Run], neighbours: &Neighbours) -> Table {
    let header =
        ["clients", "library", "applies/s", "raft ÷ it", "p50", "p99", "CPU s per million applies"];
    let mut table = Table::new("Three servers in one process, in memory", 2, &header);
    for &clients in &options.clients {
        for &side in &options.sides {
            let results: Vec<_> = runs.iter().filter_map(|run| run.is(side, clients)).collect();
            let spread = |figure: fn(&LoadResult) -> f64| {
                Spread::of(results.iter().map(|result| figure(result)))
            };
            let cpu = results.iter().filter_map(|result| result.cpu_seconds_per_million);
            table.row(vec![
                clients.to_string(),
                side.name(),
                show(spread(|r| r.applies_per_second), count),
                if side == Side::Raft {
                    String::new()
                } else {
                    show(ratio(runs, side, clients), factor)
                },
                show(spread(|r| r.p50_ns as f64), nanoseconds),
                show(spread(|r| r.p99_ns as f64), nanoseconds),
                show(Spread::of(cpu), plain),
            ]);
        }
    }
    for note in notes(options) {
        table.note(note);
    }
    table.note(neighbours.describe());
    table
}

/// How many times the peer's applies per second this library reached, run by run.
fn ratio(runs: &[Run], peer: Side, clients: usize) -> Option<Spread> {
    let of = |side, run| {
        let mut results = runs.iter().filter(|r| r.run == run).filter_map(|r| r.is(side, clients));
        results.next().map(|result| result.applies_per_second)
    };
    let last = runs.iter().map(|run| run.run).max()?;
    Spread::of((1..=last).filter_map(|run| Some(of(Side::Raft, run)? / of(peer, run)?)))
}

fn notes(options: &Options) -> Vec<String> {
    vec![
        format!(
            "Per apply: {} bytes, allocated by the client; appended on three servers, committed by \
             two, applied by a state machine that counts entries and bytes; answered with the \
             count (8 bytes). Durability: none. Transport: calls within the process.",
            options.payload
        ),
        format!(
            "Closed loop: each client has one command outstanding. Latency is from call to answer. \
             Each run is a process of its own: {:.1} s of warm-up, then {:.1} s measured; clients \
             and servers share one tokio runtime with {} worker threads. Median (min–max) of {} \
             runs, sides in turn; the ratio is taken run by run.",
            options.warm_up,
            options.seconds,
            options.workers.unwrap_or_else(machine::cores),
            options.runs,
        ),
        format!(
            "raft: default settings, but {}. Entries are shared by the three servers, not copied.",
            if options.keep_log {
                "no snapshots: the whole log stays in memory"
            } else {
                "as in openraft a 16-byte snapshot every 5000 entries, and the log cut to 1000 after \
                 it: looked at every 2 to 4 ms"
            },
        ),
        format!(
            "openraft {}: default settings (300 entries per request, {}), heartbeats 200 ms, \
             elections after 1–2 s. Log: a BTreeMap behind a mutex. The payload is a Vec, which \
             openraft copies whenever it clones an entry; “shared” is the same with Bytes.",
            peer_openraft::version(),
            if options.keep_log {
                "but no snapshots: the whole log stays in memory"
            } else {
                "a 16-byte snapshot every 5000 entries, and the log cut to 1000 after it"
            },
        ),
    ]
}
