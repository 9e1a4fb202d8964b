//! The log in files beside a bare loop of writes and syncs: what the log itself costs.

use std::{path::Path, time::Duration};

use serde::Serialize;
use tokio::{runtime::Handle, time::Instant};

use crate::{
    Options,
    bare::BareFile,
    log::{self, BATCH, Log},
    machine::{self, Neighbours},
    outcome::{Limit, Outcome, Promise},
    report::{Spread, Table, bytes_per_second, count, percent, show},
};

/// What is appended in one write, and the share of the bare loop's rate that is promised for it.
const SHAPES: [(usize, f64); 2] = [(1, 0.85), (BATCH, 0.75)];

/// How long one side writes before it is the other's turn.
const TURN: Duration = Duration::from_millis(500);

/// One line of the raw results.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    run: usize,
    entries: usize,
    log: Rate,
    growing: Rate,
    bare: Rate,
}

/// Writes, each with its sync, and the time they took.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Rate {
    writes: u64,
    seconds: f64,
}

impl Rate {
    fn per_second(self) -> f64 {
        self.writes as f64 / self.seconds
    }

    /// Counts what is written in one turn.
    fn turn(&mut self, mut write: impl FnMut() -> Result<(), String>) -> Result<(), String> {
        let start = Instant::now();
        while start.elapsed() < TURN {
            write()?;
            self.writes += 1;
        }
        self.seconds += start.elapsed().as_secs_f64();
        Ok(())
    }
}

/// The whole section.
pub(crate) async fn section(options: &Options) -> Outcome<Vec<Run>> {
    let neighbours = Neighbours::watch();
    let mut outcome = Outcome::<Vec<Run>>::default();
    for run in 1..=options.runs {
        for (entries, _) in SHAPES {
            eprintln!("appends: run {run} of {}, {entries} entries per write", options.runs);
            let (base, payload) = (options.data.clone(), options.payload);
            let seconds = options.seconds;
            let measured =
                log::blocking(move |runtime| measure(&base, entries, payload, seconds, runtime));
            match measured.await {
                Ok([log, growing, bare]) => {
                    outcome.raw.push(Run { run, entries, log, growing, bare });
                }
                Err(error) => {
                    let failure = format!("appends, run {run}, {entries} entries: {error}");
                    outcome.failures.push(failure);
                }
            }
        }
    }
    let promises = SHAPES.map(|(entries, share)| promise(&outcome.raw, entries, share));
    println!("{}", table(options, &outcome.raw, &promises, &neighbours).render());
    outcome.broken.extend(promises.iter().filter_map(Promise::broken));
    outcome
}

/// The logs and the bare loop in turns, so that what disturbs the disk meets all of them.
fn measure(
    base: &Path,
    entries: usize,
    payload: usize,
    seconds: f64,
    runtime: Handle,
) -> Result<[Rate; 3], String> {
    let directory = tempfile::tempdir_in(base).map_err(|error| error.to_string())?;
    let open = |name: &str| Log::open(&directory.path().join(name), payload, runtime.clone());
    let (mut log, mut growing) = (open("log")?, open("growing")?);
    log.use_segments_again()?;
    let mut bare = BareFile::create(&directory.path().join("bare"), entries * payload)
        .map_err(|error| error.to_string())?;
    let mut rates = [Rate::default(); 3];
    let [logged, grown, written] = &mut rates;
    while written.seconds < seconds {
        logged.turn(|| {
            log.append(entries)?;
            log.compact_like_a_server().map(drop)
        })?;
        grown.turn(|| growing.append(entries))?;
        growing.settle()?;
        written.turn(|| bare.write().map_err(|error| error.to_string()))?;
    }
    Ok(rates)
}

type Figure = fn(&Run) -> Rate;

fn ratios(runs: &[Run], entries: usize, of: Figure) -> Option<Spread> {
    let runs = runs.iter().filter(|run| run.entries == entries);
    Spread::of(runs.map(|run| of(run).per_second() / run.bare.per_second()))
}

fn promise(runs: &[Run], entries: usize, share: f64) -> Promise {
    let what = format!("with {entries} per write at least {} of the bare loop", percent(share));
    Promise {
        section: "appends",
        what,
        limit: Limit::AtLeast(share),
        measured: ratios(runs, entries, |run| run.log).map(|ratio| ratio.median),
        unit: percent,
    }
}

fn table(options: &Options, runs: &[Run], promises: &[Promise], neighbours: &Neighbours) -> Table {
    let header = ["entries per write", "by", "syncs/s", "payload/s", "log ÷ bare loop"];
    let mut table = Table::new("The log in files beside a bare loop", 2, &header);
    for (entries, _) in SHAPES {
        let of_shape = || runs.iter().filter(|run| run.entries == entries);
        let mut row = |name: &str, rates: Vec<f64>, share: String| {
            let bytes = rates.iter().map(|rate| rate * (entries * options.payload) as f64);
            let bytes = show(Spread::of(bytes), bytes_per_second);
            let syncs = show(Spread::of(rates), count);
            table.row(vec![entries.to_string(), name.to_owned(), syncs, bytes, share]);
        };
        let logs: [(&str, Figure); 2] =
            [("log", |run| run.log), ("growing log", |run| run.growing)];
        for (name, of) in logs {
            let share = show(ratios(runs, entries, of), percent);
            row(name, of_shape().map(|run| of(run).per_second()).collect(), share);
        }
        row("bare loop", of_shape().map(|run| run.bare.per_second()).collect(), String::new());
    }
    for promise in promises {
        table.note(promise.note(options.quick));
    }
    table.note(format!(
        "Log: entries of {} bytes, one write after another, each durable before the next; default \
         settings, compacted as a server does it, so that segments are used again. Growing log: never \
         compacted, so that each segment is written with zeros meanwhile. Bare loop: as many bytes of \
         payload, without any frame, written over zeros in a file that does not grow, then fdatasync. Same file system ({}).",
        options.payload,
        machine::filesystem(&options.data).unwrap_or_else(|| "unknown".to_owned()),
    ));
    table.note(format!(
        "In turns of {TURN:?} until each has had {:.1} s. Median (min–max) of {} runs; the share is \
         taken run by run. The loop's turn begins when the log prepares no segment any more.",
        options.seconds, options.runs,
    ));
    table.note(neighbours.describe());
    table
}
