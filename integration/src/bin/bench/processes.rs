//! Three servers as processes of their own, with the log on a real disk and TCP between them.

use std::{net::TcpListener, path::Path, process::Stdio, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    machine,
    server::{Event, Order, Store},
};

const SERVERS: usize = 3;

/// How long anything that should happen soon may take before the run counts as failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A running cluster. Dropping it kills the servers and removes their data.
pub(crate) struct Processes {
    servers: Vec<Server>,
    addresses: Vec<String>,
    store: Store,
    workers: Option<usize>,
    heard: mpsc::Receiver<Heard>,
    hearing: mpsc::Sender<Heard>,
    directory: TempDir,
}

struct Server {
    child: Child,
    orders: ChildStdin,
}

/// An event, who told it, and when it arrived here.
pub(crate) struct Heard {
    pub(crate) server: usize,
    pub(crate) at: Instant,
    pub(crate) event: Event,
}

impl Processes {
    /// Starts three servers with fresh data below `base`. The first one founds the cluster.
    pub(crate) async fn start(
        base: &Path,
        store: Store,
        workers: Option<usize>,
    ) -> Result<Self, String> {
        let directory = tempfile::Builder::new()
            .prefix("raft-bench-")
            .tempdir_in(base)
            .map_err(|error| format!("{}: {error}", base.display()))?;
        let (hearing, heard) = mpsc::channel(1024);
        let addresses = free_addresses(SERVERS)?;
        let mut processes =
            Self { servers: Vec::new(), addresses, store, workers, heard, hearing, directory };
        // The founder comes last, so that it finds the others.
        for server in (0..SERVERS).rev() {
            let started = processes.spawn(server, server == 0)?;
            processes.servers.insert(0, started);
            processes.expect("a start", |heard| is_ready(heard, server)).await?;
        }
        Ok(processes)
    }

    /// Starts a server that was killed again, from what is on its disk.
    pub(crate) async fn restart(&mut self, server: usize) -> Result<(), String> {
        let started = self.spawn(server, false)?;
        let slot = self.servers.get_mut(server).ok_or("there is no such server")?;
        *slot = started;
        self.expect("a restart", |heard| is_ready(heard, server)).await
    }

    fn spawn(&self, server: usize, bootstrap: bool) -> Result<Server, String> {
        let id = |server: usize| format!("s{}", server + 1);
        let peers: Vec<String> = self
            .addresses
            .iter()
            .enumerate()
            .map(|(server, address)| format!("{}={address}", id(server)))
            .collect();
        let address = self.addresses.get(server).ok_or("there is no such server")?;
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command
            .args(["server", "--store", self.store.name()])
            .args(["--id", &id(server), "--listen", address, "--peers"])
            .arg(peers.join(","))
            .arg("--data")
            .arg(self.directory.path().join(id(server)))
            .args(bootstrap.then_some("--bootstrap"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if let Some(workers) = self.workers {
            command.arg("--workers").arg(workers.to_string());
        }
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let orders = child.stdin.take().ok_or("a server has no standard input")?;
        let events = child.stdout.take().ok_or("a server has no standard output")?;
        let hearing = self.hearing.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(events).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let at = Instant::now();
                let Ok(event) = serde_json::from_str(&line) else { continue };
                if hearing.send(Heard { server, at, event }).await.is_err() {
                    break;
                }
            }
        });
        Ok(Server { child, orders })
    }

    /// Ends the servers: the end of their standard input tells them.
    pub(crate) async fn stop(mut self) {
        let deadline = Instant::now() + PATIENCE;
        for Server { mut child, orders } in self.servers.drain(..) {
            drop(orders);
            // One that does not end is killed when it is dropped.
            let _ = timeout_at(deadline, child.wait()).await;
        }
    }

    /// SIGKILL. Returns when the kernel has taken the process away.
    pub(crate) async fn kill(&mut self, server: usize) -> Result<(), String> {
        let server = self.servers.get_mut(server).ok_or("there is no such server")?;
        server.child.kill().await.map_err(|error| error.to_string())
    }

    /// Waits for an event for which `pick` has an answer; other events are dropped.
    pub(crate) async fn expect<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(&Heard) -> Option<T>,
    ) -> Result<T, String> {
        self.expect_within(what, PATIENCE, &mut pick).await
    }

    pub(crate) async fn expect_within<T>(
        &mut self,
        what: &str,
        limit: Duration,
        pick: &mut impl FnMut(&Heard) -> Option<T>,
    ) -> Result<T, String> {
        let deadline = Instant::now() + limit;
        loop {
            let heard = timeout_at(deadline, self.heard.recv())
                .await
                .map_err(|_| format!("waited {limit:?} for {what}"))?
                .ok_or("no server is left")?;
            if let Some(answer) = pick(&heard) {
                return Ok(answer);
            }
        }
    }

    pub(crate) async fn order(&mut self, server: usize, order: &Order) -> Result<(), String> {
        let server = self.servers.get_mut(server).ok_or("there is no such server")?;
        let mut line = serde_json::to_string(order).map_err(|error| error.to_string())?;
        line.push('\n');
        server.orders.write_all(line.as_bytes()).await.map_err(|error| error.to_string())
    }

    /// Waits until one server leads and all have applied the same, and returns the leader.
    pub(crate) async fn settle(&mut self) -> Result<usize, String> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let mut leaders = Vec::new();
            let mut positions = Vec::new();
            for server in 0..SERVERS {
                self.order(server, &Order::Status).await?;
                let status = |heard: &Heard| match heard.event {
                    Event::Status { term, is_leader, last_index, applied_index }
                        if heard.server == server =>
                    {
                        Some((term, is_leader, last_index, applied_index))
                    }
                    _ => None,
                };
                let (term, is_leader, last, applied) = self.expect("a status", status).await?;
                leaders.extend(is_leader.then_some(server));
                positions.push((term, last, applied));
            }
            let first = positions.first().copied().unwrap_or_default();
            let (_, last, applied) = first;
            if let [leader] = leaders[..]
                && 0 < applied
                && last == applied
                && positions.iter().all(|&position| position == first)
            {
                return Ok(leader);
            }
            sleep(Duration::from_millis(20)).await;
        }
        Err(format!("the servers did not agree within {PATIENCE:?}"))
    }

    /// Processor seconds the three servers have used so far.
    pub(crate) fn cpu_seconds(&self) -> Option<f64> {
        self.servers.iter().map(|server| machine::cpu_seconds(Some(server.child.id()?))).sum()
    }
}

fn is_ready(heard: &Heard, server: usize) -> Option<()> {
    (heard.server == server && matches!(heard.event, Event::Ready)).then_some(())
}

/// Ports nobody listens on, below the range from which the kernel takes those of outgoing
/// connections: there a server that dials a dead peer could meet itself.
pub(crate) fn free_addresses(count: usize) -> Result<Vec<String>, String> {
    let start = 20_000 + (std::process::id() % 1000) as u16 * 8;
    let free: Vec<_> = (start..30_000)
        .chain(20_000..start)
        .filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok().map(|socket| (port, socket)))
        .take(count)
        .collect();
    if free.len() < count {
        return Err("too few ports between 20000 and 30000 are free".to_owned());
    }
    Ok(free.iter().map(|(port, _)| format!("127.0.0.1:{port}")).collect())
}
