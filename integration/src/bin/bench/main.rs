//! `bench`: measures this library beside a peer, and itself against what it promises.
//!
//! Every figure printed is measured in this very invocation. See `bench --help`.

mod appends;
mod bare;
mod compaction;
mod durable;
mod etcd;
mod etcd_client;
mod failover;
mod floor;
mod in_memory;
mod isolated;
mod load;
mod log;
mod machine;
mod memory;
mod opening;
mod ours;
mod outcome;
mod peer_openraft;
mod processes;
mod protobuf;
mod report;
mod server;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::{in_memory::Side, load::Load, machine::Machine, outcome::Outcome};

/// Measures this Raft library side by side with openraft, and against what it promises.
///
/// Seven sections, all run by default:
///
///   in-memory   three servers in one process, beside openraft 0.9: what consensus itself costs
///   durable     three processes, a log on disk, TCP: the log in files beside RocksDB and etcd, and
///               one client beside what a sync and a round trip take
///   failover    SIGKILL the leader, 20 times: how long until the next one has committed a command
///   memory      a million applies: does memory grow by more than the log and the configured bounds?
///   appends     the log in files alone, beside a bare loop of writes and syncs
///   opening     how long a log of a million entries takes to open
///   compaction  ten million entries through one log: does it stay as small and as fast?
///
/// RocksDB is measured if it was compiled in (`--features rocksdb`), etcd if the program `etcd` is on
/// PATH (Debian: apt-get install etcd-server).
///
/// Figures are medians (min–max) of several runs where there are several. Close other programs
/// first: each table says what share of the machine they took meanwhile. On a shared machine,
/// `chrt -r 1 bench` (as root) keeps others off the cores, though not out of the caches nor off the
/// disk, and lets threads wake each other more slowly. A full run takes about thirteen minutes.
///
/// Exit code: 0 if every apply succeeded and every promise was kept; 1 if an apply or a whole run
/// failed; 2 if a promise was broken (not judged with --quick).
#[derive(Debug, Parser)]
#[command(name = "bench", version, verbatim_doc_comment)]
struct Cli {
    /// A few seconds for everything: one short run each, few trials, no verdicts. Says whether the
    /// harness works, not how fast the library is.
    #[arg(long)]
    quick: bool,
    /// Which sections to run.
    #[arg(long, value_delimiter = ',', default_values_t = Section::value_variants().iter().copied())]
    sections: Vec<Section>,
    /// Runs per figure [default: 5; quick: 1].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    runs: Option<u64>,
    /// Measured seconds per run [default: 3; quick: 0.2].
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
    /// Seconds under load before measuring [default: 0.5; quick: 0.1].
    #[arg(long, value_parser = seconds)]
    warm_up: Option<f64>,
    /// Bytes per command.
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// Concurrent clients [default: 1,64,256,1024,4096 in memory; 1,64,256,1024 durable
    /// (quick: not the last one)].
    #[arg(long, value_delimiter = ',')]
    clients: Option<Vec<usize>>,
    /// Whom to measure in memory, in this order.
    #[arg(long, value_delimiter = ',', default_value = "raft,openraft")]
    sides: Vec<Side>,
    /// Let every library keep its whole log in memory, instead of cutting it every 5000 entries or so.
    #[arg(long)]
    keep_log: bool,
    /// Worker threads of the runtime that carries servers and clients [default: one per core].
    #[arg(long)]
    workers: Option<usize>,
    /// Where the durable sections put their data: a directory on the disk to be measured.
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    data: PathBuf,
    /// Leaders to kill [default: 20; quick: 2].
    #[arg(long)]
    trials: Option<usize>,
    /// Commands of the memory section [default: 1000000; quick: 20000].
    #[arg(long)]
    applies: Option<usize>,
    /// Entries of the compaction section; opening takes a tenth [default: 10000000; quick: 200000].
    #[arg(long, value_parser = clap::value_parser!(u64).range(10_000..))]
    entries: Option<u64>,
    /// Write every raw run to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(subcommand)]
    process: Option<Process>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Section {
    InMemory,
    Durable,
    Failover,
    Memory,
    Appends,
    Opening,
    Compaction,
}

impl std::fmt::Display for Section {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}

/// What this program runs of itself.
#[derive(Debug, Subcommand)]
enum Process {
    #[command(hide = true)]
    InMemoryRun(in_memory::RunArgs),
    #[command(hide = true)]
    MemoryRun(memory::RunArgs),
    #[command(hide = true)]
    EtcdLoad(etcd_client::LoadArgs),
    #[command(hide = true)]
    Server(server::ServerArgs),
}

/// What the sections work from: the command line with every default filled in.
#[derive(Debug, Serialize)]
struct Options {
    quick: bool,
    runs: usize,
    seconds: f64,
    warm_up: f64,
    payload: usize,
    clients: Vec<usize>,
    durable_clients: Vec<usize>,
    trials: usize,
    applies: usize,
    entries: u64,
    #[serde(skip)]
    data: PathBuf,
    sides: Vec<Side>,
    keep_log: bool,
    workers: Option<usize>,
}

impl Options {
    /// The work of one run with so many clients.
    fn load(&self, clients: usize) -> Load {
        Load {
            clients,
            payload_bytes: self.payload,
            warm_up: Duration::from_secs_f64(self.warm_up),
            window: Duration::from_secs_f64(self.seconds),
        }
    }

    fn new(cli: &Cli) -> Self {
        let or = |quick: f64, full: f64| if cli.quick { quick } else { full };
        Self {
            quick: cli.quick,
            runs: cli.runs.map_or(if cli.quick { 1 } else { 5 }, |runs| runs as usize),
            seconds: cli.seconds.unwrap_or(or(0.2, 3.0)),
            warm_up: cli.warm_up.unwrap_or(or(0.1, 0.5)),
            payload: cli.payload,
            clients: cli.clients.clone().unwrap_or_else(|| vec![1, 64, 256, 1024, 4096]),
            // A fresh log has to prepare a whole segment before it can take so many clients' load, which
            // is longer than a quick run.
            durable_clients: cli.clients.clone().unwrap_or_else(|| {
                if cli.quick { vec![1, 64, 256] } else { vec![1, 64, 256, 1024] }
            }),
            trials: cli.trials.unwrap_or(if cli.quick { 2 } else { 20 }),
            applies: cli.applies.unwrap_or(if cli.quick { 20_000 } else { 1_000_000 }),
            entries: cli.entries.unwrap_or(if cli.quick { 200_000 } else { 10_000_000 }),
            data: cli.data.clone(),
            sides: cli.sides.clone(),
            keep_log: cli.keep_log,
            workers: cli.workers,
        }
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    // A day is more than anybody waits for, and NaN is in no range.
    if (0.001..=86_400.0).contains(&seconds) {
        return Ok(seconds);
    }
    Err("not between 0.001 and 86400 seconds".to_owned())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = match &cli.process {
        Some(Process::InMemoryRun(args)) => in_memory::run(args).map(|()| ExitCode::SUCCESS),
        Some(Process::MemoryRun(args)) => memory::run(args).map(|()| ExitCode::SUCCESS),
        Some(Process::EtcdLoad(args)) => etcd_client::run(args).map(|()| ExitCode::SUCCESS),
        Some(Process::Server(args)) => server::run(args).map(|()| ExitCode::SUCCESS),
        None => isolated::stopwatch().and_then(|runtime| runtime.block_on(all(&cli))),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("bench: {error}");
        ExitCode::FAILURE
    })
}

/// Everything that was measured, for `--json`.
#[derive(Debug, Serialize)]
struct Record {
    machine: Machine,
    options: Options,
    in_memory: Vec<in_memory::Run>,
    durable: Vec<durable::Run>,
    failover: Vec<failover::Trial>,
    memory: Option<memory::Raw>,
    appends: Vec<appends::Run>,
    opening: Option<opening::Raw>,
    compaction: Option<compaction::Raw>,
    /// Applies or whole runs that failed.
    failures: Vec<String>,
    /// Promises that were not kept.
    broken: Vec<String>,
}

async fn all(cli: &Cli) -> Result<ExitCode, String> {
    let mut record = Record {
        machine: Machine::this(),
        options: Options::new(cli),
        in_memory: Vec::new(),
        durable: Vec::new(),
        failover: Vec::new(),
        memory: None,
        appends: Vec::new(),
        opening: None,
        compaction: None,
        failures: Vec::new(),
        broken: Vec::new(),
    };
    println!("{}", record.machine.describe());
    for section in &cli.sections {
        record.measure(*section).await;
    }
    for failure in &record.failures {
        println!("FAILED   {failure}");
    }
    for broken in &record.broken {
        println!("BROKEN   {broken}");
    }
    if let Some(file) = &cli.json {
        let json = serde_json::to_vec_pretty(&record).map_err(|error| error.to_string())?;
        std::fs::write(file, json).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(match (record.failures.is_empty(), record.broken.is_empty()) {
        (false, _) => ExitCode::FAILURE,
        (true, false) => ExitCode::from(2),
        (true, true) => ExitCode::SUCCESS,
    })
}

impl Record {
    async fn measure(&mut self, section: Section) {
        let options = &self.options;
        match section {
            Section::InMemory => self.in_memory = self.take(in_memory::section(options).await),
            Section::Durable => self.durable = self.take(durable::section(options).await),
            Section::Failover => self.failover = self.take(failover::section(options).await),
            Section::Memory => self.memory = self.take(memory::section(options).await),
            Section::Appends => self.appends = self.take(appends::section(options).await),
            Section::Opening => self.opening = self.take(opening::section(options).await),
            Section::Compaction => self.compaction = self.take(compaction::section(options).await),
        }
    }

    /// Keeps what went wrong, and returns what was measured.
    fn take<T>(&mut self, outcome: Outcome<T>) -> T {
        self.failures.extend(outcome.failures);
        self.broken.extend(outcome.broken.into_iter().filter(|_| !self.options.quick));
        outcome.raw
    }
}
