//! Many entries through a log that is compacted all the time: does it stay small, and as fast?

use std::path::Path;

use raft::{Config, FileLogOptions};
use serde::Serialize;
use tokio::{runtime::Handle, time::Instant};

use crate::{
    Options,
    log::{self, BATCH, Log},
    machine::Neighbours,
    outcome::{Limit, Outcome, Promise},
    report::{Table, bytes, count, percent},
};

/// How much of its first rate the log has to reach at the end.
const PROMISED_SHARE: f64 = 0.9;

/// What the directory may hold beside the log, in segments.
const PROMISED_SEGMENTS: f64 = 3.0;

/// The rate is taken for each of so many parts.
const PARTS: u64 = 10;

/// The raw results.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Raw {
    entries: u64,
    compactions: u64,
    /// Appends per second in each part, oldest first.
    rates: Vec<f64>,
    largest: Size,
    /// When the directory held most beside the log.
    loosest: Size,
}

/// The directory at one moment.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Size {
    directory: u64,
    log: u64,
}

impl Size {
    fn beside_log(self) -> f64 {
        self.directory as f64 - self.log as f64
    }
}

/// The whole section.
pub(crate) async fn section(options: &Options) -> Outcome<Option<Raw>> {
    let neighbours = Neighbours::watch();
    let mut outcome = Outcome::default();
    let (base, payload, entries) = (options.data.clone(), options.payload, options.entries);
    eprintln!("compaction: {entries} entries");
    match log::blocking(move |runtime| measure(&base, payload, entries, runtime)).await {
        Ok(raw) => {
            let promises = promises(&raw);
            println!("{}", table(options, &raw, &promises, &neighbours).render());
            outcome.broken.extend(promises.iter().filter_map(Promise::broken));
            outcome.raw = Some(raw);
        }
        Err(error) => outcome.failures.push(format!("compaction: {error}")),
    }
    outcome
}

fn measure(base: &Path, payload: usize, entries: u64, runtime: Handle) -> Result<Raw, String> {
    let directory = tempfile::tempdir_in(base).map_err(|error| error.to_string())?;
    let mut log = Log::open(directory.path(), payload, runtime)?;
    let (mut largest, mut loosest) = (Size::default(), Size::default());
    let (mut rates, mut compactions) = (Vec::new(), 0);
    for part in 1..=PARTS {
        let (start, first) = (Instant::now(), log.last());
        while log.last() < entries * part / PARTS {
            log.append(BATCH)?;
            let size = Size {
                directory: log::directory_bytes(directory.path())
                    .map_err(|error| error.to_string())?,
                log: log.bytes(),
            };
            if largest.directory < size.directory {
                largest = size;
            }
            if loosest.beside_log() < size.beside_log() {
                loosest = size;
            }
            compactions += u64::from(log.compact_like_a_server()?);
        }
        rates.push((log.last() - first) as f64 / start.elapsed().as_secs_f64());
    }
    Ok(Raw { entries: log.last(), compactions, rates, largest, loosest })
}

fn promises(raw: &Raw) -> [Promise; 2] {
    let bound = PROMISED_SEGMENTS * segment_bytes();
    let last = raw.rates.first().zip(raw.rates.last()).map(|(first, last)| last / first);
    let promise = |what, limit, measured, unit| Promise {
        section: "compaction",
        what,
        limit,
        measured,
        unit,
    };
    [
        promise(
            format!("the directory takes at most {} beside the log", bytes(bound)),
            Limit::AtMost(bound),
            Some(raw.loosest.beside_log()),
            bytes,
        ),
        promise(
            format!(
                "the last tenth has at least {} of the rate of the first",
                percent(PROMISED_SHARE)
            ),
            Limit::AtLeast(PROMISED_SHARE),
            last,
            percent,
        ),
    ]
}

fn segment_bytes() -> f64 {
    FileLogOptions::default().segment_bytes as f64
}

fn table(options: &Options, raw: &Raw, promises: &[Promise], neighbours: &Neighbours) -> Table {
    let mut table = Table::new(
        format!("Compaction: {} entries of {} bytes through one log", raw.entries, options.payload),
        1,
        &["what", "measured"],
    );
    let mut row = |name: &str, value: String| table.row(vec![name.to_owned(), value]);
    let rate = |rate: Option<f64>| rate.map_or_else(|| "–".to_owned(), count);
    row("entries/s in the first tenth", rate(raw.rates.first().copied()));
    row("entries/s in the slowest tenth", rate(raw.rates.iter().copied().min_by(f64::total_cmp)));
    row("entries/s in the last tenth", rate(raw.rates.last().copied()));
    row("largest directory", bytes(raw.largest.directory as f64));
    row("  the log in it", bytes(raw.largest.log as f64));
    row(
        "  bound: that and three segments",
        bytes(raw.largest.log as f64 + PROMISED_SEGMENTS * segment_bytes()),
    );
    row("most beside the log at any time", bytes(raw.loosest.beside_log()));
    row("compactions", count(raw.compactions as f64));
    for promise in promises {
        table.note(promise.note(options.quick));
    }
    let Config { trailing_logs, snapshot_threshold, .. } = Config::new("bench");
    table.note(format!(
        "Writes of {BATCH} entries, each durable before the next. As a server does it with default \
         settings: every {snapshot_threshold} entries the log is cut to {trailing_logs}. The files are \
         looked at after every write.",
    ));
    table.note(neighbours.describe());
    table
}
