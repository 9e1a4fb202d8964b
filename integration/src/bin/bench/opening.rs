//! How long a start waits for a log that is there already.

use std::{fs::File, io, path::Path};

use rustix::fs::{Advice, fadvise};
use serde::Serialize;
use tokio::{runtime::Handle, time::Instant};

use crate::{
    Options,
    log::{self, BATCH, Log},
    machine::{self, Neighbours},
    outcome::{Limit, Outcome, Promise},
    report::{Spread, Table, bytes, nanoseconds, show},
};

/// Well under a second is promised.
const PROMISED_SECONDS: f64 = 0.5;

/// The raw results.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Raw {
    entries: u64,
    bytes: u64,
    /// With all files in the memory of the kernel.
    warm_seconds: Vec<f64>,
    /// With none of them there.
    cold_seconds: Vec<f64>,
}

/// The whole section.
pub(crate) async fn section(options: &Options) -> Outcome<Option<Raw>> {
    let neighbours = Neighbours::watch();
    let mut outcome = Outcome::default();
    let (base, payload) = (options.data.clone(), options.payload);
    let (entries, runs) = (options.entries / 10, options.runs);
    eprintln!("opening: {entries} entries");
    match log::blocking(move |runtime| measure(&base, payload, entries, runs, &runtime)).await {
        Ok(raw) => {
            let promise = promise(&raw);
            println!("{}", table(options, &raw, &promise, &neighbours).render());
            outcome.broken.extend(promise.broken());
            outcome.raw = Some(raw);
        }
        Err(error) => outcome.failures.push(format!("opening: {error}")),
    }
    outcome
}

fn measure(
    base: &Path,
    payload: usize,
    entries: u64,
    runs: usize,
    runtime: &Handle,
) -> Result<Raw, String> {
    let directory = tempfile::tempdir_in(base).map_err(|error| error.to_string())?;
    let dir = directory.path();
    let mut log = Log::open(dir, payload, runtime.clone())?;
    while log.len() < entries {
        log.append(BATCH)?;
    }
    let filled = log.len();
    drop(log);
    let mut raw = Raw { entries: filled, ..Raw::default() };
    raw.bytes = log::directory_bytes(dir).map_err(|error| error.to_string())?;
    for _ in 0..runs {
        forget(dir).map_err(|error| error.to_string())?;
        for times in [&mut raw.cold_seconds, &mut raw.warm_seconds] {
            let start = Instant::now();
            let log = Log::open(dir, payload, runtime.clone())?;
            times.push(start.elapsed().as_secs_f64());
            if log.len() != filled {
                return Err(format!("{} of {filled} entries are there", log.len()));
            }
        }
    }
    Ok(raw)
}

/// Has the kernel drop what it keeps of the files in memory.
fn forget(dir: &Path) -> io::Result<()> {
    for file in std::fs::read_dir(dir)? {
        let file = File::open(file?.path())?;
        // Only what is on the disk can be dropped.
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

fn promise(raw: &Raw) -> Promise {
    Promise {
        section: "opening",
        what: format!("a median of at most {PROMISED_SECONDS} s from the disk"),
        limit: Limit::AtMost(PROMISED_SECONDS * 1e9),
        measured: Spread::of(raw.cold_seconds.iter().map(|s| s * 1e9)).map(|it| it.median),
        unit: nanoseconds,
    }
}

fn table(options: &Options, raw: &Raw, promise: &Promise, neighbours: &Neighbours) -> Table {
    let mut table = Table::new(
        format!("Opening a log of {} entries of {} bytes", raw.entries, options.payload),
        1,
        &["its files are", "time to open", "bytes of its files"],
    );
    let warm = ("in the memory of the kernel", &raw.warm_seconds);
    for (name, seconds) in [("on the disk", &raw.cold_seconds), warm] {
        let spread = Spread::of(seconds.iter().map(|s| s * 1e9));
        table.row(vec![name.to_owned(), show(spread, nanoseconds), bytes(raw.bytes as f64)]);
    }
    table.note(promise.note(options.quick));
    table.note(format!(
        "`FileLogStore::open` until the first and the last entry are known. Nothing was compacted. \
         File system: {}. Median (min–max) of {} runs.",
        machine::filesystem(&options.data).unwrap_or_else(|| "unknown".to_owned()),
        options.runs,
    ));
    table.note(neighbours.describe());
    table
}
