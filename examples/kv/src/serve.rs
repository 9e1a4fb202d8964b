//! `kv serve`: puts a server together, runs it, and takes it down in order.

use std::{collections::BTreeMap, future, io, sync::Arc, time::Duration};

use metrics_exporter_prometheus::PrometheusHandle;
use raft::{
    Config, Configuration, DataDir, DataDirError, Fatal, FileSnapshotStore, Server as Member,
    SnapshotStore,
    autopilot::{Autopilot, AutopilotConfig, Promotion},
};
use raft_tcp::{BindError, TcpOptions, TcpTransport};
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout},
};

use crate::{
    Node,
    accept::Door,
    advice::{Patient, has_peers},
    announce, cli,
    cli::Serve,
    failure::Failure,
    farewell,
    farewell::Farewells,
    figures,
    fsm::{Contact, KvFsm, Shared},
    http,
    log::tell,
    membership,
    places::{self, Places},
    resp,
    route::{Patience, Router},
    server::{Counters, Limits, Server},
    signals::Signals,
    stores::{Stores, has_log},
};

/// A command is a little longer in the log than its strings.
const COMMAND_OVERHEAD_BYTES: u64 = 1024;
const METRICS_UPKEEP: Duration = Duration::from_secs(5);
/// How long a start under way may go on when the server has been told to stop.
const FINISH_START: Duration = Duration::from_secs(5);
/// How often to look whether the node has an end that does not come to one, and how long that may take.
const LOOK_FOR_END: Duration = Duration::from_secs(1);
const FINISH_END: Duration = Duration::from_secs(10);

/// Runs a server until it is told to stop.
///
/// # Errors
/// When it cannot start, or its node ends by itself.
pub(crate) async fn run(options: Serve) -> Result<(), Failure> {
    let mut signals = Signals::take()?;
    let stop_with_stdin = options.stop_with_stdin;
    // In a task of its own: whatever a start hangs at, it can be told to stop.
    let mut starting = tokio::spawn(start(options));
    let started = tokio::select! {
        biased;
        started = &mut starting => started,
        () = signals.stop() => {
            stopped_early(starting).await;
            return Ok(());
        }
    };
    let mut running = started.map_err(Failure::new)??;
    let end = running.until_the_end(&mut signals, stop_with_stdin).await;
    running.take_down(&end).await;
    end
}

/// Lets a start under way come to its end, so that everything is closed in order; but not for long.
async fn stopped_early(starting: JoinHandle<Result<Running, Failure>>) {
    match timeout(FINISH_START, starting).await {
        Ok(Ok(Ok(running))) => running.take_down(&Ok(())).await,
        Ok(Ok(Err(failure))) => tracing::warn!(%failure, "stopped before it had started"),
        Ok(Err(failure)) => tracing::warn!(%failure, "stopped before it had started"),
        Err(_) => tracing::warn!("stopped before it had started, which takes long"),
    }
}

/// A server, its tasks beside the node, and its hold on the data directory.
struct Running {
    server: Arc<Server>,
    tasks: JoinSet<()>,
    data: DataDir,
}

async fn start(options: Serve) -> Result<Running, Failure> {
    let config = config(&options);
    config.validate().map_err(Failure::usage)?;
    let autopilot = autopilot(&options);
    if let Some(autopilot) = &autopilot {
        autopilot.validate().map_err(Failure::usage)?;
    }
    let addresses = Addresses::new(&options)?;
    let places = Places::new(options.max_connections)?;

    let first_members = first_members(&options, &addresses)?;

    // The ports first: a first start that fails because of one must leave nothing behind that the
    // next one, with another port, would trip over.
    let resp_listener = listen(&options.resp, "Redis clients").await?;
    let http_listener = listen(&options.http, "operators").await?;
    let transport = transport(&options, &addresses, config.max_command_bytes).await?;

    let mut data = claim(&options, first_members.as_ref())?;
    let metrics = figures::gather()?;

    let shared = Shared::new();
    let patient = Patient {
        id: &options.id,
        data: &options.data_dir,
        // One that was not bootstrapped has joined others.
        has_peers: data.owner().first_members().is_none_or(|members| 1 < members.len()),
    };
    if data.has_begun() && !has_log(&options.data_dir) {
        return Err(patient.has_no_log());
    }
    let opened = Stores::open(&options.data_dir, options.store).await;
    let mut stores = opened.map_err(|failure| patient.cannot_open(failure))?;
    let Stores { log, stable, snapshots } = &mut stores;
    data.prepare(log, stable, &*snapshots, first_members.as_ref()).await.map_err(|error| {
        match error {
            DataDirError::LogMissing { .. } => patient.has_no_log(),
            error => Failure::of_dir(&error),
        }
    })?;
    let Stores { log, stable, snapshots } = stores;
    let snapshots = Arc::new(snapshots);
    let fsm = KvFsm::new(Arc::clone(&shared));
    let (election_timeout, no_leader_wait) = (options.election_timeout, options.no_leader_wait);
    let store: Arc<dyn SnapshotStore> = Arc::<FileSnapshotStore>::clone(&snapshots);
    let link = Arc::<TcpTransport>::clone(&transport);
    let node = Node::new(config, fsm, log, stable, store, link).await;
    let node = node.map_err(|error| patient.cannot_start(&error))?;
    let autopilot = autopilot.map(|config| Autopilot::start(node.clone(), config));

    let patience = Patience { no_leader: no_leader_wait, forward: options.forward_timeout };
    let server = Arc::new(Server {
        router: Router::new(node.clone(), Arc::clone(&shared), patience),
        node,
        shared,
        snapshots,
        autopilot: autopilot.transpose().map_err(Failure::new)?,
        cluster: options.cluster.clone(),
        data: options.data_dir.clone(),
        restoring: tokio::sync::Mutex::new(()),
        transport,
        address: addresses.raft.as_str().into(),
        contact: addresses.contact,
        limits: limits(&options),
        places,
        clients: Arc::default(),
        election_timeout,
        no_leader_wait,
        started: Instant::now(),
        counters: Counters::default(),
        farewells: Farewells::default(),
    });
    tracing::info!(
        id = options.id, resp = options.resp, http = options.http, raft = options.raft,
        data = %options.data_dir.display(), "serving"
    );
    server.places.explain();

    let mut tasks = JoinSet::new();
    let keep_alive = Some(options.tcp_keepalive).filter(|time| !time.is_zero());
    let resp_door = Door::new(resp_listener, "Redis clients", keep_alive);
    tasks.spawn(resp::listen::serve(resp_door, Arc::clone(&server)));
    let http_door = Door::new(http_listener, "operators", keep_alive);
    tasks.spawn(http::serve(http_door, Arc::clone(&server), metrics.clone()));
    tasks.spawn(announce::run(Arc::clone(&server)));
    tasks.spawn(keep_metrics_small(metrics));
    if !data.has_begun() {
        tasks.spawn(membership::watch_for_a_beginning(Arc::clone(&server), data.mark()));
    }
    tasks.spawn(membership::explain_disks(Arc::clone(&server), options.join.clone()));
    match options.join {
        Some(member) => {
            tasks.spawn(membership::join(Arc::clone(&server), member, !options.nonvoter));
        }
        None => membership::explain_solitude(&server),
    }
    Ok(Running { server, tasks, data })
}

fn config(options: &Serve) -> Config {
    Config::new(options.id.as_str()).with(|it| {
        it.election_timeout = options.election_timeout;
        it.heartbeat_interval = options.heartbeat;
        it.leader_lease_timeout = options.election_timeout / 2;
        it.write_stall_timeout = it.write_stall_timeout.max(options.election_timeout);
        it.apply_stall_timeout = it.apply_stall_timeout.max(options.election_timeout);
        it.max_command_bytes = u64::from(options.max_request_bytes) + COMMAND_OVERHEAD_BYTES;
        it.trailing_logs = options.trailing_logs;
        it.snapshot_interval = options.snapshot_interval;
        it.snapshot_threshold = options.snapshot_threshold;
        it.snapshot_bytes_per_second = options.snapshot_rate;
    })
}

/// The autopilot's settings, if there is to be one.
fn autopilot(options: &Serve) -> Option<AutopilotConfig> {
    let dead_after = options.autopilot_dead_after;
    if !options.autopilot && !options.autopilot_promote && dead_after.is_none() {
        return None;
    }
    Some(AutopilotConfig::default().with(|it| {
        // A server that has been silent for that long may be campaigning by now.
        it.last_contact_threshold = options.election_timeout;
        it.stabilization_time = options.autopilot_stabilization;
        it.promotion = if options.autopilot_promote { Promotion::All } else { Promotion::Never };
        it.dead_after = dead_after;
        it.min_quorum = usize::from(options.autopilot_min_quorum);
    }))
}

fn limits(options: &Serve) -> Limits {
    Limits {
        request_bytes: options.max_request_bytes as usize,
        pipeline: options.max_pipeline as usize,
        idle: Some(options.idle_timeout).filter(|limit| !limit.is_zero()),
        health_lag: options.health_max_lag,
    }
}

/// Where others reach this server.
struct Addresses {
    raft: String,
    contact: Contact,
}

impl Addresses {
    fn new(options: &Serve) -> Result<Self, Failure> {
        let advertised = |address: &str| {
            let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
            let host = options.advertise.as_deref().unwrap_or(host);
            if cli::is_everywhere(host) {
                return Err(Failure::usage(format!(
                    "listening on {address} says nothing about where others reach this server: \
                     give --advertise HOST"
                )));
            }
            Ok(format!("{host}:{port}"))
        };
        let (resp, http) = (advertised(&options.resp)?, advertised(&options.http)?);
        Ok(Self { raft: advertised(&options.raft)?, contact: Contact { resp, http } })
    }
}

/// The cluster's first members, if this is to be one of them.
fn first_members(options: &Serve, addresses: &Addresses) -> Result<Option<Configuration>, Failure> {
    if !options.bootstrap {
        return Ok(None);
    }
    let mut members = BTreeMap::from([(options.id.clone(), addresses.raft.clone())]);
    for (id, address) in &options.peers {
        let known = members.entry(id.clone()).or_insert_with(|| address.clone());
        if known != address {
            return Err(Failure::usage(format!(
                "cannot bootstrap: server {id} is said to be at {known} and at {address}"
            )));
        }
    }
    let members = members.iter().map(|(id, at)| Member::voter(id.as_str(), at.as_str()));
    Ok(Some(Configuration::new(members)))
}

fn claim(options: &Serve, first_members: Option<&Configuration>) -> Result<DataDir, Failure> {
    let (id, cluster) = (options.id.as_str(), options.cluster.as_str());
    DataDir::claim(&options.data_dir, id, cluster, first_members)
        .map_err(|error| Failure::of_dir(&error))
}

async fn listen(address: &str, whom: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .await
        .map_err(|error| Failure::new(format!("cannot listen on {address} for {whom}: {error}")))
}

async fn transport(
    options: &Serve,
    addresses: &Addresses,
    max_command_bytes: u64,
) -> Result<Arc<TcpTransport>, Failure> {
    let mut options = TcpOptions::new(options.raft.as_str(), options.cluster.as_str());
    options.advertise = Some(addresses.raft.clone());
    options.max_frame_bytes = options.max_frame_bytes.max(2 * max_command_bytes);
    options.max_inbound = places::MAX_INBOUND;
    TcpTransport::bind(options).await.map_err(|error| match error {
        BindError::Options(_) => Failure::usage(error),
        error => Failure::new(error),
    })
}

/// The exporter wants to be reminded to forget old samples.
async fn keep_metrics_small(metrics: PrometheusHandle) {
    loop {
        sleep(METRICS_UPKEEP).await;
        metrics.run_upkeep();
    }
}

impl Running {
    /// Returns when the server is to stop: because it was told to, or because it has ended by itself.
    async fn until_the_end(
        &mut self,
        signals: &mut Signals,
        stop_with_stdin: bool,
    ) -> Result<(), Failure> {
        tokio::select! {
            biased;
            end = node_ended(&self.server.node) => of_end(&self.server, &end),
            failure = one_panicked(&mut self.tasks) => Err(failure),
            () = signals.stop() => Ok(()),
            () = stdin_ended(), if stop_with_stdin => Ok(()),
        }
    }

    async fn take_down(mut self, end: &Result<(), Failure>) {
        let server = &self.server;
        tracing::info!("stopping");
        if let Err(why) = end {
            farewell::say(server, why).await;
            self.tasks.shutdown().await;
            // It may be a disk that hangs which has made it end.
            let _ = timeout(FINISH_END, server.node.shutdown()).await;
            return;
        }
        if server.node.role() == raft::Role::Leader {
            // So that the cluster need not first find out that its leader is gone. It is a courtesy:
            // nothing depends on its success.
            let _ = timeout(server.election_timeout, server.node.leadership_transfer()).await;
        }
        self.tasks.shutdown().await;
        server.node.shutdown().await;
        drop(self.data);
    }
}

/// Waits for the end of the node, but not for long for that of each task of it, which may be a write to
/// a disk that hangs.
async fn node_ended(node: &Node) -> Fatal {
    loop {
        if let Ok(end) = timeout(LOOK_FOR_END, node.ended()).await {
            return end;
        }
        if let Some(end) = node.fatal() {
            return timeout(FINISH_END, node.ended()).await.unwrap_or(end);
        }
    }
}

/// Waits until a task beside the node has panicked: the server would go on as a part of itself.
async fn one_panicked(tasks: &mut JoinSet<()>) -> Failure {
    while let Some(ended) = tasks.join_next().await {
        if let Err(panic) = ended {
            return Failure::new(format!("a task of the server has panicked: {panic}"));
        }
    }
    future::pending().await
}

/// What the end of the node means for the program.
fn of_end(server: &Server, end: &Fatal) -> Result<(), Failure> {
    match end {
        Fatal::Shutdown => Ok(()),
        Fatal::Removed => {
            say_removed(server);
            Ok(())
        }
        end => {
            let id = server.node.id().as_str();
            let members = server.node.configuration().configuration;
            let has_peers = has_peers(id, &members);
            Err(Patient { id, data: &server.data, has_peers }.has_ended(end))
        }
    }
}

/// It is what an operator wanted, so it is no failure; but it should not look like one's own doing.
fn say_removed(server: &Server) {
    tell!(
        "kv: server {} was removed from cluster {} and has stopped; to make it a member again, remove \
         {} and start it with --join",
        server.node.id(),
        server.cluster,
        server.data.display()
    );
}

async fn stdin_ended() {
    let read = || io::copy(&mut io::stdin().lock(), &mut io::sink());
    // However reading ends, nobody is there any more.
    let _ = tokio::task::spawn_blocking(read).await;
}
