//! etcd as a peer: three of its servers as processes on the loopback, with data on the same disk.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use crate::{
    Options,
    etcd_client::{self, Connection},
    isolated,
    load::{Load, LoadResult},
    machine,
    processes::{PATIENCE, free_addresses},
    report::{Spread, plain, show},
};

const SERVERS: usize = 3;

/// The version of the etcd that is installed, or why it is not measured.
pub(crate) async fn version() -> Result<String, String> {
    let output = Command::new("etcd").arg("--version").output().await;
    let output = output.map_err(|_| {
        "etcd was not measured: there is no program `etcd` on PATH. On Debian: apt-get install \
         etcd-server"
            .to_owned()
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.lines().next().and_then(|line| line.split_once(": "));
    version
        .map(|(_, version)| version.to_owned())
        .ok_or_else(|| "etcd was not measured: `etcd --version` says no version".to_owned())
}

/// The note under the table.
pub(crate) fn describe(version: &str, cpu_of_clients: Option<Spread>) -> String {
    format!(
        "etcd {version}: default settings, puts of as many bytes to as many keys as there are clients, by gRPC over the \
         loopback to the leader, from a process of their own with one connection for every {} \
         clients. These clients share the cores, and their own time is not in the table: {} CPU s per \
         million. Ours have no connection to their server, and their time is in the table. etcd applies \
         to its database on disk, ours counts.",
        etcd_client::CLIENTS_PER_CONNECTION,
        show(cpu_of_clients, plain),
    )
}

/// The load on three fresh servers, and the processor seconds that they used meanwhile.
pub(crate) async fn measure(
    options: &Options,
    load: Load,
) -> Result<(LoadResult, Option<f64>), String> {
    let cluster = Cluster::start(options)?;
    let leader = cluster.leader().await?;
    let before = cluster.cpu_seconds();
    let arguments = etcd_client::arguments(&leader, load, options.workers);
    let limit = load.warm_up + load.window + Duration::from_secs(60);
    let result: LoadResult = isolated::run(&arguments, limit).await?;
    let cpu = cluster.cpu_seconds().zip(before).map(|(after, before)| after - before);
    cluster.stop().await?;
    Ok((result, cpu))
}

/// Three running servers. Dropping it kills them and removes their data.
struct Cluster {
    servers: Vec<Child>,
    /// Where each of them takes clients.
    addresses: Vec<String>,
    directory: TempDir,
}

impl Cluster {
    fn start(options: &Options) -> Result<Self, String> {
        let directory = tempfile::Builder::new()
            .prefix("raft-bench-etcd-")
            .tempdir_in(&options.data)
            .map_err(|error| format!("{}: {error}", options.data.display()))?;
        let addresses = free_addresses(2 * SERVERS)?;
        let (addresses, peers) = addresses.split_at(SERVERS);
        let members: Vec<_> =
            peers.iter().enumerate().map(|(n, peer)| format!("s{n}=http://{peer}")).collect();
        let mut cluster = Self { servers: Vec::new(), addresses: addresses.to_vec(), directory };
        for (n, (address, peer)) in addresses.iter().zip(peers).enumerate() {
            let (address, peer) = (format!("http://{address}"), format!("http://{peer}"));
            let told = File::create(cluster.log(n)).map_err(|error| error.to_string())?;
            let server = Command::new("etcd")
                .args(["--name", &format!("s{n}"), "--initial-cluster-state", "new"])
                .arg("--data-dir")
                .arg(cluster.directory.path().join(format!("s{n}")))
                .args(["--listen-client-urls", &address, "--advertise-client-urls", &address])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &members.join(","), "--logger", "zap"])
                .args(["--log-level", "error"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(told)
                .kill_on_drop(true)
                .spawn();
            cluster.servers.push(server.map_err(|error| format!("etcd: {error}"))?);
        }
        Ok(cluster)
    }

    /// Where a server writes what it has to say.
    fn log(&self, server: usize) -> PathBuf {
        self.directory.path().join(format!("s{server}.log"))
    }

    /// Waits until all servers know the same leader, and returns where it takes clients.
    async fn leader(&self) -> Result<String, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let last = match self.common_leader().await {
                Ok(leader) => return Ok(leader),
                Err(error) => error,
            };
            if deadline < Instant::now() {
                let told = (0..SERVERS).filter_map(|n| fs::read_to_string(self.log(n)).ok());
                let told = told.filter_map(|text| text.lines().last().map(str::to_owned));
                let told: Vec<String> = told.collect();
                return Err(format!(
                    "etcd did not start within {PATIENCE:?}: {last}; {}",
                    told.join("; ")
                ));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn common_leader(&self) -> Result<String, String> {
        let mut leads = None;
        let mut leaders = Vec::new();
        for address in &self.addresses {
            let status = Connection::open(address).await?.status().await?;
            if status.member == status.leader {
                leads = Some(address.clone());
            }
            leaders.push(status.leader);
        }
        leads
            .filter(|_| leaders.windows(2).all(|pair| pair.first() == pair.last()))
            .ok_or_else(|| "there is no leader".to_owned())
    }

    /// Processor seconds the three servers have used so far.
    fn cpu_seconds(&self) -> Option<f64> {
        self.servers.iter().map(|server| machine::cpu_seconds(Some(server.id()?))).sum()
    }

    /// Kills the servers and waits for them, so that their time is known as ours.
    async fn stop(mut self) -> Result<(), String> {
        for server in &mut self.servers {
            server.kill().await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}
