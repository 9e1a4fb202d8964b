//! Does memory grow by more than the log itself and the configured bounds?
//!
//! Two processes of their own: one appends the same commands to three bare in-memory log stores,
//! which is what the log costs as stored; the other lets three servers apply them.

use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use raft::{Config, Entries, Entry, EntryPayload, LogIndex, LogStore, Term, inmem::InmemLogStore};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::{
    Options, isolated,
    load::Proposer,
    machine::{self, Neighbours},
    ours,
    outcome::{Limit, Outcome, Promise},
    report::{Table, bytes},
};

/// Concurrent clients, and entries per batch of the bare stores.
const CLIENTS: usize = 64;

/// What a process is to fill its memory with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Subject {
    Log,
    Servers,
}

/// One run, as a process of its own.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    #[arg(long)]
    subject: Subject,
    #[arg(long)]
    applies: usize,
    #[arg(long)]
    payload: usize,
    #[arg(long)]
    workers: Option<usize>,
}

/// Resident memory of a process before the first command, after half and after all of them.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Resident {
    before: u64,
    half: u64,
    after: u64,
}

impl Resident {
    fn growth(self) -> f64 {
        self.after as f64 - self.before as f64
    }

    fn growth_of_second_half(self) -> f64 {
        self.after as f64 - self.half as f64
    }
}

/// The raw results.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Raw {
    applies: usize,
    log: Resident,
    servers: Resident,
}

/// The whole section.
pub(crate) async fn section(options: &Options) -> Outcome<Option<Raw>> {
    let neighbours = Neighbours::watch();
    let mut outcome = Outcome::default();
    match measure(options).await {
        Ok(raw) => {
            let (table, promise) = table(options, raw, &neighbours);
            println!("{}", table.render());
            outcome.raw = Some(raw);
            outcome.broken.extend(promise.broken());
        }
        Err(error) => outcome.failures.push(format!("memory: {error}")),
    }
    outcome
}

async fn measure(options: &Options) -> Result<Raw, String> {
    let applies = options.applies;
    eprintln!("memory: {applies} entries in three bare logs");
    let log = isolated_run(options, "log").await?;
    eprintln!("memory: {applies} applies through three servers");
    let servers = isolated_run(options, "servers").await?;
    Ok(Raw { applies, log, servers })
}

async fn isolated_run(options: &Options, subject: &str) -> Result<Resident, String> {
    let mut arguments = vec!["memory-run".to_owned(), "--subject".to_owned(), subject.to_owned()];
    let mut push = |name: &str, value: usize| {
        arguments.extend([name.to_owned(), value.to_string()]);
    };
    push("--applies", options.applies);
    push("--payload", options.payload);
    if let Some(workers) = options.workers {
        push("--workers", workers);
    }
    isolated::run(&arguments, Duration::from_secs(300)).await
}

/// The process of one run.
pub(crate) fn run(args: &RunArgs) -> Result<(), String> {
    let runtime = isolated::runtime(args.workers)?;
    let resident = match args.subject {
        Subject::Log => runtime.block_on(fill_log(args))?,
        Subject::Servers => runtime.block_on(fill_servers(args))?,
    };
    isolated::report(&resident)
}

fn resident() -> Result<u64, String> {
    machine::resident_bytes().ok_or_else(|| "this system does not tell resident memory".to_owned())
}

/// Three stores hold entries of their own that share each command's bytes, as the servers' do.
async fn fill_log(args: &RunArgs) -> Result<Resident, String> {
    let mut stores = [InmemLogStore::new(), InmemLogStore::new(), InmemLogStore::new()];
    let mut index = LogIndex::ZERO;
    let mut filled = [resident()?, 0, 0];
    for (half, resident_after) in filled.iter_mut().enumerate().skip(1) {
        while index.0 < (args.applies * half / 2) as u64 {
            let entries = (0..CLIENTS).map(|_| {
                index = index.next();
                let command = Bytes::from(vec![0x5a; args.payload]);
                Entry { term: Term(1), index, payload: EntryPayload::Command(command) }
            });
            let entries: Vec<Entry> = entries.collect();
            for store in &mut stores {
                let appended = store.append(&[Entries::new(entries.clone())]).await;
                appended.map_err(|error| error.to_string())?;
            }
        }
        *resident_after = resident()?;
    }
    let [before, half, after] = filled;
    Ok(Resident { before, half, after })
}

async fn fill_servers(args: &RunArgs) -> Result<Resident, String> {
    let cluster = ours::Cluster::start(true).await?;
    let mut filled = [resident()?, 0, 0];
    for resident_after in filled.iter_mut().skip(1) {
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let proposer = cluster.proposer();
            let payload = args.payload;
            let applies =
                args.applies / 2 / CLIENTS + usize::from(client < args.applies / 2 % CLIENTS);
            clients.spawn(async move {
                for _ in 0..applies {
                    proposer.propose(vec![0x5a; payload]).await?;
                }
                Ok::<(), String>(())
            });
        }
        while let Some(client) = clients.join_next().await {
            client.map_err(|error| error.to_string())??;
        }
        cluster.settle().await?;
        *resident_after = resident()?;
    }
    cluster.shutdown().await;
    let [before, half, after] = filled;
    Ok(Resident { before, half, after })
}

fn table(options: &Options, raw: Raw, neighbours: &Neighbours) -> (Table, Promise) {
    let applies = raw.applies as f64;
    let config = Config::new("a");
    let bounds = 3.0 * config.log_cache_bytes as f64;
    let (growth, log) = (raw.servers.growth(), raw.log.growth());
    let left_over = growth - log;
    let mut table = Table::new(
        format!("Memory: {} applies of {} bytes", raw.applies, options.payload),
        1,
        &["resident memory of", "bytes", "per apply"],
    );
    let mut row = |name: &str, value: f64| {
        table.row(vec![name.to_owned(), bytes(value), format!("{:.0} B", value / applies)]);
    };
    row("three servers, before", raw.servers.before as f64);
    row("three servers, after", raw.servers.after as f64);
    row("growth", growth);
    row("  of which payload, shared by the three", (raw.applies * options.payload) as f64);
    row("  of which the log as stored: the same commands in three bare stores", log);
    row("left over", left_over);
    row("configured bounds: log_cache_bytes of three servers", bounds);
    row("growth in the second half, twice", 2.0 * raw.servers.growth_of_second_half());

    let promise = Promise {
        section: "memory",
        what: format!("growth is at most the log as stored and {} more", bytes(bounds)),
        limit: Limit::AtMost(bounds),
        measured: Some(left_over),
        unit: bytes,
    };
    table.note(promise.note(options.quick));
    table.note(format!(
        "Three servers in one process, default settings, in-memory stores, {CLIENTS} clients, \
         nothing compacted; measured when every server has applied everything. Servers and bare \
         stores run in processes of their own. In both, the three logs share the bytes of each \
         command, and each has entries of its own."
    ));
    table.note(neighbours.describe());
    (table, promise)
}
