//! The servers of the demo: processes of this very program, on free ports of this machine.
//!
//! They end with the demo, however it ends: they are killed when their handles are dropped, and they
//! stop by themselves when their standard input does, which the operating system sees to even if the
//! demo is killed.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use crate::{
    cli::Demo,
    failure::Failure,
    operator::{Ask, Operator},
};

/// How long anything in the demo may take before it counts as failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// How long one answer may take; changes of members wait for a leader meanwhile.
const ASK_TIMEOUT: Duration = Duration::from_secs(15);

/// How a server comes into the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start<'a> {
    /// As one of these first members.
    First(&'a [&'a str]),
    /// By asking this member.
    Joining(&'a str),
    /// With what it kept on its disk.
    Again,
}

/// One server.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) raft: String,
    pub(super) resp: String,
    pub(super) http: String,
    child: Option<Child>,
}

/// All servers.
#[derive(Debug)]
pub(super) struct Cluster {
    directory: PathBuf,
    log: String,
    /// What keeps the logs.
    store: String,
    /// When a snapshot is due, and what stays in the log behind it, in entries.
    snapshots: (u32, u32),
    processes: BTreeMap<String, Process>,
}

impl Cluster {
    /// A cluster whose servers keep everything under `directory`. None is started yet.
    pub(super) fn new(directory: &Path, options: &Demo, ids: &[&str]) -> Result<Self, Failure> {
        let no_port = |error| Failure::new(format!("cannot find free ports: {error}"));
        // All at once, so that no port is given twice.
        let listeners: Vec<_> = (0..3 * ids.len())
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<Result<_, _>>()
            .map_err(no_port)?;
        let addresses = listeners.iter().map(|listener| Ok(listener.local_addr()?.to_string()));
        let addresses = addresses.collect::<Result<Vec<_>, _>>().map_err(no_port)?;
        let process = |(id, addresses): (&&str, &[String; 3])| {
            let [raft, resp, http] = addresses.clone();
            (id.to_string(), Process { raft, resp, http, child: None })
        };
        let processes = ids.iter().zip(addresses.as_chunks().0).map(process).collect();
        let (directory, log) = (directory.to_owned(), options.log.clone());
        // So often that the demo sees it, however little is written.
        let snapshots = (options.writes / 4, options.writes / 50);
        let store = options.store.to_string();
        Ok(Self { directory, log, store, snapshots, processes })
    }

    pub(super) fn process(&self, id: &str) -> &Process {
        &self.processes[id]
    }

    /// The servers that run, in the order of their names.
    pub(super) fn running(&self) -> Vec<String> {
        let running = self.processes.iter().filter(|(_, process)| process.child.is_some());
        running.map(|(id, _)| id.clone()).collect()
    }

    /// Starts a server.
    pub(super) fn start(&mut self, id: &str, start: Start<'_>) -> Result<(), Failure> {
        let child = self.command(id, start)?.spawn();
        let child = child.map_err(|error| Failure::new(format!("cannot start {id}: {error}")))?;
        if let Some(process) = self.processes.get_mut(id) {
            process.child = Some(child);
        }
        Ok(())
    }

    /// Waits until a server answers.
    pub(super) async fn ready(&mut self, id: &str) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Err(failure) = self.ask(id, "/status", Ask::Get).await else { return Ok(()) };
            let child = self.processes.get_mut(id).and_then(|process| process.child.as_mut());
            if let Some(Ok(Some(status))) = child.map(Child::try_wait) {
                return Err(self.ended(id, status));
            }
            if deadline < Instant::now() {
                return Err(Failure::new(format!("{id} does not answer: {failure}")));
            }
            sleep(POLL).await;
        }
    }

    fn ended(&self, id: &str, status: ExitStatus) -> Failure {
        let log = fs::read_to_string(self.log_file(id)).unwrap_or_default();
        let last_words = log.lines().last().unwrap_or("it said nothing").to_owned();
        Failure::new(format!("{id} has ended ({status}): {last_words}"))
    }

    fn log_file(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.log"))
    }

    fn command(&self, id: &str, start: Start<'_>) -> Result<Command, Failure> {
        let cannot = |error| Failure::new(format!("cannot start {id}: {error}"));
        let process = self.process(id);
        let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
        command.args(["serve", "--stop-with-stdin", "--id", id, "--log", &self.log]);
        command.args(["--raft", &process.raft, "--resp", &process.resp, "--http", &process.http]);
        command.args(["--store", &self.store]);
        command.arg("--data-dir").arg(self.directory.join(id));
        let (threshold, trailing) = self.snapshots;
        command.args(["--snapshot-interval", "1s", "--snapshot-threshold", &threshold.to_string()]);
        command.args(["--trailing-logs", &trailing.to_string()]);
        match start {
            Start::First(members) => {
                command.arg("--bootstrap");
                for member in members {
                    command.arg("--peer").arg(format!("{member}={}", self.process(member).raft));
                }
            }
            Start::Joining(member) => {
                command.args(["--join", &self.process(member).http]);
            }
            Start::Again => {}
        }
        let log = File::options().create(true).append(true).open(self.log_file(id));
        let log = log.map_err(cannot)?;
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        // The demo's environment may hold settings for a server of its user's own.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KV_") {
                command.env_remove(name);
            }
        }
        Ok(command)
    }

    /// Ends a server without warning, with SIGKILL, and waits until it is gone.
    pub(super) async fn kill(&mut self, id: &str) -> Result<(), Failure> {
        let Some(process) = self.processes.get_mut(id) else { return Ok(()) };
        let Some(mut child) = process.child.take() else { return Ok(()) };
        let killed = child.kill().await;
        killed.map_err(|error| Failure::new(format!("cannot kill {id}: {error}")))
    }

    /// Ends all servers.
    pub(super) async fn stop(&mut self) {
        for id in self.running() {
            // Whatever goes wrong here, dropping the handle kills it too.
            let _ = self.kill(&id).await;
        }
    }

    /// Asks a server.
    pub(super) async fn ask(&self, id: &str, path: &str, ask: Ask) -> Result<Value, Failure> {
        let operator = Operator::new(&self.process(id).http, ASK_TIMEOUT);
        let path = path.to_owned();
        let asked = tokio::task::spawn_blocking(move || operator.ask(&path, &ask)).await;
        Ok(asked.map_err(Failure::new)??)
    }

    /// The whole state of a server, in bytes.
    pub(super) async fn dump(&self, id: &str) -> Result<Vec<u8>, Failure> {
        let operator = Operator::new(&self.process(id).http, PATIENCE);
        let dumped = tokio::task::spawn_blocking(move || operator.dump()).await;
        dumped.map_err(Failure::new)?
    }

    /// Waits until all running servers name the same leader, other than `old`; its name and term.
    pub(super) async fn leader(&self, old: Option<&str>) -> Result<(String, u64), Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some((leader, term)) = self.agreed_leader().await
                && Some(leader.as_str()) != old
            {
                return Ok((leader, term));
            }
            if deadline < Instant::now() {
                return Err(Failure::new(format!("no leader was elected within {PATIENCE:?}")));
            }
            sleep(POLL).await;
        }
    }

    async fn agreed_leader(&self) -> Option<(String, u64)> {
        let mut agreed = None;
        for id in self.running() {
            let status = self.ask(&id, "/status", Ask::Get).await.ok()?;
            let leader = &status["raft"]["leader"];
            let said = (leader["id"].as_str()?.to_owned(), leader["term"].as_u64()?);
            if agreed.get_or_insert_with(|| said.clone()) != &said {
                return None;
            }
        }
        agreed
    }
}
