//! Three processes, a log on disk, TCP: what a real deployment on one machine reaches, beside what its
//! disk alone would allow.

use std::time::Duration;

use serde::Serialize;

use crate::{
    Options, bare,
    load::{Load, LoadResult},
    machine::{self, Neighbours},
    outcome::Outcome,
    processes::Processes,
    report::{Spread, Table, count, nanoseconds, plain, show},
    server::{Event, Order, Store},
};

/// One line of the raw results.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    run: usize,
    store: Store,
    clients: usize,
    result: Result<Measured, String>,
}

#[derive(Debug, Serialize)]
struct Measured {
    load: LoadResult,
    /// User and system time of the three processes, clients included, per million applies.
    cpu_seconds_per_million: Option<f64>,
    /// How often per second three files can each take `clients` commands and a sync.
    syncs_per_second: f64,
}

/// The whole section.
pub(crate) async fn section(options: &Options) -> Outcome<Vec<Run>> {
    let neighbours = Neighbours::watch();
    let mut outcome = Outcome::<Vec<Run>>::default();
    for run in 1..=options.runs {
        let stores = Store::ALL.iter().copied();
        let pairs = options
            .durable_clients
            .iter()
            .flat_map(|clients| stores.clone().map(move |store| (*clients, store)));
        for (clients, store) in pairs {
            let name = store.name();
            eprintln!("durable: run {run} of {}, {clients} clients, {name}", options.runs);
            let result = measure(options, store, clients).await;
            let failure = match &result {
                Ok(measured) => measured.load.first_failure.clone(),
                Err(error) => Some(error.clone()),
            };
            outcome.failures.extend(failure.map(|failure| {
                format!("durable, run {run}, {clients} clients, {name}: {failure}")
            }));
            outcome.raw.push(Run { run, store, clients, result });
        }
    }
    println!("{}", table(options, &outcome.raw, &neighbours).render());
    outcome
}

async fn measure(options: &Options, store: Store, clients: usize) -> Result<Measured, String> {
    let mut processes = Processes::start(&options.data, store, options.workers).await?;
    let leader = processes.settle().await?;
    let load = Load {
        clients,
        payload_bytes: options.payload,
        warm_up: Duration::from_secs_f64(options.warm_up),
        window: Duration::from_secs_f64(options.seconds),
    };
    let cpu_before = processes.cpu_seconds();
    processes.order(leader, &Order::Load(load)).await?;
    let limit = load.warm_up + load.window + Duration::from_secs(60);
    let mut pick = |heard: &crate::processes::Heard| match &heard.event {
        Event::Load(result) => Some(result.clone()),
        _ => None,
    };
    let load = processes.expect_within("the end of the load", limit, &mut pick).await?;
    let cpu = processes.cpu_seconds().zip(cpu_before).map(|(after, before)| after - before);
    processes.stop().await;
    let batch_bytes = clients * options.payload;
    let seconds = options.seconds.min(0.5);
    let syncs_per_second = bare::syncs_per_second(&options.data, batch_bytes, seconds).await?;
    Ok(Measured {
        cpu_seconds_per_million: cpu.map(|cpu| cpu / load.applies_in_all as f64 * 1e6),
        load,
        syncs_per_second,
    })
}

fn table(options: &Options, runs: &[Run], neighbours: &Neighbours) -> Table {
    let header = [
        "clients",
        "store",
        "applies/s",
        "p50",
        "p99",
        "p99.9",
        "CPU s per million applies",
        "syncs/s of the disk alone",
        "applies per such sync",
    ];
    let mut table = Table::new("Three processes, a log on disk and TCP", 2, &header);
    let clients = options.durable_clients.iter();
    let pairs = clients.flat_map(|clients| Store::ALL.iter().map(move |store| (*clients, *store)));
    for (clients, store) in pairs {
        let measured: Vec<&Measured> = runs
            .iter()
            .filter(|run| (run.clients, run.store) == (clients, store))
            .filter_map(|run| run.result.as_ref().ok())
            .collect();
        let spread = |figure: fn(&Measured) -> f64| Spread::of(measured.iter().map(|m| figure(m)));
        let cpu = measured.iter().filter_map(|m| m.cpu_seconds_per_million);
        table.row(vec![
            clients.to_string(),
            store.name().to_owned(),
            show(spread(|m| m.load.applies_per_second), count),
            show(spread(|m| m.load.p50_ns as f64), nanoseconds),
            show(spread(|m| m.load.p99_ns as f64), nanoseconds),
            show(spread(|m| m.load.p999_ns as f64), nanoseconds),
            show(Spread::of(cpu), plain),
            show(spread(|m| m.syncs_per_second), count),
            show(spread(|m| m.load.applies_per_second / m.syncs_per_second), plain),
        ]);
    }
    let filesystem =
        machine::filesystem(&options.data).unwrap_or_else(|| "file system unknown".to_owned());
    table.note(format!(
        "Per apply: {} bytes; written and synced to the logs of at least two of three servers \
         (default settings of either store) before it is answered, sent over TCP on the loopback, applied \
         by a state machine that counts. All three servers share this machine's {} cores and one \
         disk ({filesystem}).",
        options.payload,
        machine::cores(),
    ));
    if filesystem == "tmpfs" {
        table.note(
            "NOT DURABLE: tmpfs keeps files in memory. Name a directory on a disk: --data DIR.",
        );
    }
    table.note(format!(
        "Closed loop; the clients run inside the leader's process. Each run has fresh processes \
         and fresh data: {:.1} s of warm-up, then {:.1} s measured. Median (min–max) of {} runs.",
        options.warm_up, options.seconds, options.runs,
    ));
    table.note(
        "The disk alone: three threads, each writing all clients' commands over zeros in a file of \
         its own that does not grow, and syncing it, right after each run: syncs per second and file. \
         One client can hardly get more than one apply per sync; many clients share one.",
    );
    table.note(neighbours.describe());
    table
}
