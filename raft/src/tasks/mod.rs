//! The async shell: the tasks of one node, the channels between them, and how they end together.
//!
//! ```text
//!  handle ──requests──▶ run ◀──inbox── transport            run owns Consensus, waits in one place
//!                        │ ▲
//!        writes          │ └── signals (latest value wins): written, applied, unreachable, end,
//!   run_log ◀────────────┤         snapshots taken, received, failed
//!        up_to, waiters  ├───────▶ run_fsm ──answers──▶ callers
//!                        ├───────▶ run_snapshots ──view──▶ run_fsm
//!        pieces          ├───────▶ receive_snapshot
//!        orders          └───────▶ replicate, one per peer ──▶ transport
//!        one snapshot               send_snapshot, one per transfer ──▶ transport
//! ```
//!
//! Nobody waits on a send: the two queues into `run` are bounded and wait at the callers' and the
//! peers' end; the queues out of `run` are bounded by the core's windows (commits nobody waits for
//! become one request, snapshots are refused as busy beyond a limit); the way back is a handful of
//! marks that only grow. So there is no circle of waiting tasks.
//!
//! **The end.** It has one reason, the first: a shutdown, a store error, a panic. [`End`] makes it
//! known; `run` leaves its loop; dropping it drops every queue and every responder, which answers
//! every caller; the other tasks find their queues closed. Panics are caught at the top of each
//! task and end the node, never the process. Only this file and [`supervise`] spawn. What is the user's and runs or
//! is dropped at the end (the subscriber of `tracing`, filters of observers) may panic once more:
//! whoever waits for the end is told of it all the same, by [`Completion`].
//!
//! **Deliberately absent:** protocol decisions. A timer or a protocol `if` in here is a mistake.

mod node;
mod peers;
mod pending;
mod published;
mod receive_snapshot;
mod replicate;
mod request;
mod run;
mod run_fsm;
mod run_log;
mod run_snapshots;
mod sample;
mod send_snapshot;
mod shared;
mod signals;
mod start;
mod supervise;
mod void_snapshots;

use std::{hash::BuildHasher, sync::Arc};

use tokio::{sync::mpsc, task::AbortHandle};

pub(crate) use self::{
    node::Node,
    request::{Change, Proposed, Request, RestoreData},
    shared::Shared,
};
use self::{
    peers::Peers,
    receive_snapshot::{PIECES_MAX, ReceiveSnapshot},
    replicate::Sources,
    run::{Mail, Queues, Run},
    run_fsm::RunFsm,
    run_log::RunLog,
    run_snapshots::{Policy, RunSnapshots, SNAPSHOTS_MAX},
    start::Restored,
    supervise::Tasks,
};
use crate::{
    clock::Clock,
    config::Config,
    consensus::{Consensus, Rules},
    error::{Fatal, StartError},
    fsm::Fsm,
    log::LogStore,
    log_tail::LogTail,
    metrics::Metrics,
    panics::{contained, guarded},
    snapshot::SnapshotStore,
    stable::StableStore,
    transport::{Identity, Inbox, Transport},
};

/// Reads back what is saved, starts the transport, and starts the tasks. Nothing is left running
/// when it fails.
pub(crate) async fn start<F: Fsm>(
    config: Config,
    fsm: F,
    mut log_store: impl LogStore,
    mut stable_store: impl StableStore,
    snapshot_store: Arc<dyn SnapshotStore>,
    transport: Arc<dyn Transport>,
) -> Result<Node<F::Response>, StartError> {
    config.validate()?;
    config.validate_for(transport.max_entries_bytes())?;
    let seed = config.seed.unwrap_or_else(|| seed(&config));
    let id = config.local_id.clone();
    // Before anything is read that might be another server's, and durable before anything is sent.
    let (disk, life) = start::identity(&mut stable_store, &id, seed).await?;
    let mut restored = start::restore(
        fsm,
        config.restore_on_start,
        &mut log_store,
        &mut stable_store,
        &*snapshot_store,
    )
    .await?;
    let incarnation = disk.incarnation;
    restored.saved.disk(incarnation, life);
    if disk.was_rolled_back {
        restored.saved.rolled_back();
    }
    let identity = Identity { id, cluster: restored.saved.cluster(), incarnation, life };
    let (inbox, received) = Inbox::with_bytes(config.rpc_queue, config.rpc_queue_bytes);
    transport.start(identity, inbox).await?;
    let stores = Stores {
        log: Box::new(log_store),
        stable: Box::new(stable_store),
        snapshots: snapshot_store,
    };
    let (entrance, requests) = node::queue(config.apply_queue, config.apply_queue_bytes);
    let mail = Mail { requests, inbox: received };
    let shared = spawn_all(Arc::new(config), seed, restored, stores, transport, mail);
    Ok(Node { shared, entrance })
}

struct Stores {
    log: Box<dyn LogStore>,
    stable: Box<dyn StableStore>,
    snapshots: Arc<dyn SnapshotStore>,
}

fn spawn_all<F: Fsm>(
    config: Arc<Config>,
    seed: u64,
    restored: Restored<F>,
    stores: Stores,
    transport: Arc<dyn Transport>,
    mail: Mail<F::Response>,
) -> Arc<Shared> {
    let Restored { host, hard_state, saved, snapshot, applied, .. } = restored;
    let metrics = Arc::new(Metrics::new(&config.local_id));
    let clock = Clock::new();
    let tail = LogTail::new(restored.bounds, applied.index, config.log_cache_bytes);
    let shared = Arc::new(Shared::new(Arc::clone(&config), clock, tail, hard_state.current_term));
    let core = Consensus::new(Rules::from(&*config), saved, seed, clock.now());
    shared.published.publish_start(&core, clock.now());
    if let Some(size_bytes) = restored.snapshot_bytes {
        shared.published.publish_snapshot_size(snapshot, size_bytes);
    }
    if let Some(took) = restored.took {
        metrics.restored(took);
        shared.published.publish_restore(took);
    }
    let reader = stores.log.reader();
    let mut tasks = Tasks::new(&shared);

    let (run_log, queue) = mpsc::unbounded_channel();
    let task = RunLog {
        log_store: stores.log,
        stable_store: stores.stable,
        shared: Arc::clone(&shared),
        metrics: Arc::clone(&metrics),
    };
    tasks.spawn("run_log", task.run(queue));

    let (run_fsm, queue) = mpsc::unbounded_channel();
    let task = RunFsm::new(
        host,
        (Arc::clone(&reader), Arc::clone(&stores.snapshots)),
        (Arc::clone(&shared), Arc::clone(&metrics)),
        (applied, restored.configuration),
    );
    tasks.spawn("run_fsm", task.run(queue));

    let (run_snapshots, queue) = mpsc::channel(SNAPSHOTS_MAX);
    let task = RunSnapshots {
        store: Arc::clone(&stores.snapshots),
        fsm: run_fsm.clone(),
        shared: Arc::clone(&shared),
        metrics: Arc::clone(&metrics),
        policy: Policy::new(config, seed, snapshot, restored.covered_bytes),
    };
    let taking = tasks.spawn("run_snapshots", task.run(queue));

    let (receive_snapshot, queue) = mpsc::channel(PIECES_MAX);
    let task = ReceiveSnapshot::new(
        Arc::clone(&stores.snapshots),
        Arc::clone(&shared),
        Arc::clone(&metrics),
    );
    let receiving = tasks.spawn("receive_snapshot", task.run(queue));

    let sources = Sources {
        shared: Arc::clone(&shared),
        reader,
        transport: Arc::clone(&transport),
        snapshots: stores.snapshots,
        metrics: Arc::clone(&metrics),
    };
    let queues = Queues { run_log, run_fsm, run_snapshots, receive_snapshot };
    let peers = Peers::new(sources);
    // Made here and not by the task: a runtime may drop a task that it has never run.
    let completion = Completion(Arc::clone(&shared), Arc::clone(&metrics));
    let run = Run::new(core, &shared, (peers, tasks), metrics, queues, restored.bounds);
    tokio::spawn(node(run, mail, transport, [taking, receiving], completion));
    shared
}

/// `run` and, when it has ended for whatever reason, the orderly end of everything else.
async fn node<R: Send + 'static>(
    mut run: Run<R>,
    mut mail: Mail<R>,
    transport: Arc<dyn Transport>,
    snapshot_tasks: [AbortHandle; 2],
    completion: Completion,
) {
    let (shared, metrics) = (Arc::clone(&completion.0), Arc::clone(&completion.1));
    let ended = guarded("run", async {
        run.run(&mut mail).await;
        Ok(())
    });
    let fatal = ended.await.err().unwrap_or(Fatal::Shutdown);
    shared.stop(fatal);
    shared.published.publish_end();
    contained(|| metrics.clear());

    // Callers first: what was never taken up did not happen, of the rest nobody knows.
    let mut tasks = run.end();
    let Mail { mut requests, inbox } = mail;
    requests.close();
    drop(inbox);
    // What they write is given up: it leaves no trace, and may wait for a disk that is stuck.
    snapshot_tasks.iter().for_each(AbortHandle::abort);
    tasks.join().await;
    let closed = guarded("transport", async {
        transport.close().await;
        Ok(())
    });
    if let Err(error) = closed.await {
        contained(|| tracing::error!(server = %shared.id, %error, "the transport did not close"));
    }
    drop(completion);
    requests.drain().await;
}

/// Tells everybody that the end is complete, also when the runtime itself drops the node, or what the
/// user's is among the things that go with it panics.
struct Completion(Arc<Shared>, Arc<Metrics>);

impl Drop for Completion {
    fn drop(&mut self) {
        self.0.stop(Fatal::Shutdown);
        self.0.published.publish_end();
        contained(|| self.0.observers.close());
        // Once more: tasks that have gone on for a while may have had something to tell.
        contained(|| self.1.clear());
        self.0.end.complete();
    }
}

/// A seed from the server's id and the system's randomness, which the standard library gives to
/// hashers.
fn seed(config: &Config) -> u64 {
    std::hash::RandomState::new().hash_one(config.local_id.as_str())
}
