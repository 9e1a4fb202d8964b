//! Three processes, a log on disk, TCP: what a real deployment on one machine reaches, beside etcd and
//! beside what its disk alone would allow.

use std::time::Duration;

use serde::Serialize;

use crate::{
    Options, bare, etcd,
    floor::{self, BesideFloor, Floor, Samples},
    load::{Load, LoadResult},
    machine::{self, Neighbours},
    outcome::{Outcome, Promise},
    processes::{Heard, Processes},
    report::{Spread, Table, count, factor, nanoseconds, plain, show},
    server::{Event, Order, Store},
};

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "&'static str")]
pub(crate) enum Side {
    Ours(Store),
    Etcd,
}

impl Side {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours(store) => store.name(),
            Self::Etcd => "etcd",
        }
    }
}

impl From<Side> for &'static str {
    fn from(side: Side) -> Self {
        side.name()
    }
}

/// One line of the raw results.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    run: usize,
    store: Side,
    clients: usize,
    result: Result<Measured, String>,
}

#[derive(Debug, Serialize)]
struct Measured {
    load: LoadResult,
    /// User and system time of the three processes per million applies.
    cpu_seconds_per_million: Option<f64>,
    /// How often per second three files can each take `clients` commands and a sync.
    syncs_per_second: f64,
    /// With one client.
    floor: Option<Floor>,
}

impl Run {
    fn is(&self, side: Side, clients: usize) -> Option<&Measured> {
        self.result.as_ref().ok().filter(|_| (self.store, self.clients) == (side, clients))
    }

    /// With one client: what the machine takes, and the median of what its applies took.
    pub(crate) fn beside_floor(&self, side: Side) -> Option<BesideFloor> {
        let measured = self.is(side, 1)?;
        Some(BesideFloor {
            floor: measured.floor?,
            shared_sync_ns: 1e9 / measured.syncs_per_second,
            p50_ns: measured.load.p50_ns as f64,
        })
    }
}

/// The whole section.
pub(crate) async fn section(options: &Options) -> Outcome<Vec<Run>> {
    let neighbours = Neighbours::watch();
    let mut outcome = Outcome::<Vec<Run>>::default();
    let etcd = etcd::version().await;
    let ours = Store::ALL.iter().map(|store| Side::Ours(*store));
    let sides: Vec<Side> = ours.chain(etcd.is_ok().then_some(Side::Etcd)).collect();
    for run in 1..=options.runs {
        for &clients in &options.durable_clients {
            for &side in &sides {
                let name = side.name();
                eprintln!("durable: run {run} of {}, {clients} clients, {name}", options.runs);
                let result = measure(options, side, clients).await;
                let failure = match &result {
                    Ok(measured) => measured.load.first_failure.clone(),
                    Err(error) => Some(error.clone()),
                };
                outcome.failures.extend(failure.map(|failure| {
                    format!("durable, run {run}, {clients} clients, {name}: {failure}")
                }));
                outcome.raw.push(Run { run, store: side, clients, result });
            }
        }
    }
    let mut table = table(options, &outcome.raw, &sides);
    for note in notes(options, &outcome.raw, etcd) {
        table.note(note);
    }
    table.note(neighbours.describe());
    println!("{}", table.render());
    if options.durable_clients.contains(&1) {
        let of = |side: Side| {
            (side.name(), outcome.raw.iter().filter_map(|run| run.beside_floor(side)).collect())
        };
        let runs: Vec<_> = sides.iter().copied().map(of).collect();
        let (table, promise) = floor::table(options, &runs);
        println!("{}", table.render());
        outcome.broken.extend(Promise::broken(&promise));
    }
    outcome
}

async fn measure(options: &Options, side: Side, clients: usize) -> Result<Measured, String> {
    let load = options.load(clients);
    let mut samples = Samples::default();
    if clients == 1 {
        samples.take(options).await?;
    }
    let (load, cpu) = match side {
        Side::Ours(store) => ours(options, store, load).await?,
        Side::Etcd => etcd::measure(options, load).await?,
    };
    if clients == 1 {
        samples.take(options).await?;
    }
    let batch_bytes = clients * options.payload;
    let seconds = options.seconds.min(0.5);
    let syncs_per_second = bare::syncs_per_second(&options.data, batch_bytes, seconds).await?;
    Ok(Measured {
        cpu_seconds_per_million: cpu.map(|cpu| cpu / load.applies_in_all as f64 * 1e6),
        load,
        syncs_per_second,
        floor: samples.floor(),
    })
}

/// The load on three of our servers, and the processor seconds that they used meanwhile.
async fn ours(
    options: &Options,
    store: Store,
    load: Load,
) -> Result<(LoadResult, Option<f64>), String> {
    let mut processes = Processes::start(&options.data, store, options.workers).await?;
    let leader = processes.settle().await?;
    let cpu_before = processes.cpu_seconds();
    processes.order(leader, &Order::Load(load)).await?;
    let limit = load.warm_up + load.window + Duration::from_secs(60);
    let mut pick = |heard: &Heard| match &heard.event {
        Event::Load(result) => Some(result.clone()),
        _ => None,
    };
    let load = processes.expect_within("the end of the load", limit, &mut pick).await?;
    let cpu = processes.cpu_seconds().zip(cpu_before).map(|(after, before)| after - before);
    processes.stop().await;
    Ok((load, cpu))
}

/// How many times the applies per second of `side` the log in files reached, run by run.
fn ratio(runs: &[Run], side: Side, clients: usize) -> Option<Spread> {
    let of = |side, run| {
        let mut measured = runs.iter().filter(|r| r.run == run).filter_map(|r| r.is(side, clients));
        measured.next().map(|measured| measured.load.applies_per_second)
    };
    let last = runs.iter().map(|run| run.run).max()?;
    let file = Side::Ours(Store::File);
    Spread::of((1..=last).filter_map(|run| Some(of(file, run)? / of(side, run)?)))
}

fn table(options: &Options, runs: &[Run], sides: &[Side]) -> Table {
    let header = [
        "clients",
        "store",
        "applies/s",
        "file ÷ it",
        "p50",
        "p99",
        "p99.9",
        "CPU s per million applies",
        "syncs/s of the disk alone",
        "applies per such sync",
    ];
    let mut table = Table::new("Three processes, a log on disk and TCP", 2, &header);
    for &clients in &options.durable_clients {
        for &side in sides {
            let measured: Vec<_> = runs.iter().filter_map(|run| run.is(side, clients)).collect();
            let spread =
                |figure: fn(&Measured) -> f64| Spread::of(measured.iter().map(|m| figure(m)));
            let cpu = measured.iter().filter_map(|m| m.cpu_seconds_per_million);
            table.row(vec![
                clients.to_string(),
                side.name().to_owned(),
                show(spread(|m| m.load.applies_per_second), count),
                if side == Side::Ours(Store::File) {
                    String::new()
                } else {
                    show(ratio(runs, side, clients), factor)
                },
                show(spread(|m| m.load.p50_ns as f64), nanoseconds),
                show(spread(|m| m.load.p99_ns as f64), nanoseconds),
                show(spread(|m| m.load.p999_ns as f64), nanoseconds),
                show(Spread::of(cpu), plain),
                show(spread(|m| m.syncs_per_second), count),
                show(spread(|m| m.load.applies_per_second / m.syncs_per_second), plain),
            ]);
        }
    }
    table
}

fn notes(options: &Options, runs: &[Run], etcd: Result<String, String>) -> Vec<String> {
    let filesystem =
        machine::filesystem(&options.data).unwrap_or_else(|| "file system unknown".to_owned());
    let mut notes = vec![format!(
        "Per apply: {} bytes; written and synced to the logs of at least two of three servers \
         (default settings of either store) before it is answered, sent over TCP on the loopback, applied \
         by a state machine that counts. All three servers share this machine's {} cores and one \
         disk ({filesystem}).",
        options.payload,
        machine::cores(),
    )];
    if filesystem == "tmpfs" {
        notes.push(
            "NOT DURABLE: tmpfs keeps files in memory. Name a directory on a disk: --data DIR."
                .to_owned(),
        );
    }
    notes.push(format!(
        "Closed loop; the clients run inside the leader's process. Each run has fresh processes \
         and fresh data: {:.1} s of warm-up, then {:.1} s measured. Median (min–max) of {} runs; the \
         ratio is taken run by run.",
        options.warm_up, options.seconds, options.runs,
    ));
    notes.push(match etcd {
        Err(reason) => reason,
        Ok(version) => {
            let etcd = runs.iter().filter(|run| run.store == Side::Etcd);
            let clients =
                etcd.filter_map(|run| run.result.as_ref().ok()?.load.cpu_seconds_per_million);
            etcd::describe(&version, Spread::of(clients))
        }
    });
    notes.push(
        "The disk alone: three threads, each writing all clients' commands over zeros in a file of \
         its own that does not grow, and syncing it, right after each run: syncs per second and file. \
         One client can hardly get more than one apply per sync; many clients share one."
            .to_owned(),
    );
    notes
}
