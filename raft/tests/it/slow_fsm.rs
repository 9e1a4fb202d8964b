//! A state machine that takes its time: whatever else is asked of it does not wait until everything is
//! applied.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use raft::{
    Config, Configuration, Entry, Fatal, Fsm, FsmError, FsmSnapshot, Raft, Server,
    inmem::{InmemLogStore, InmemNetwork, InmemSnapshotStore, InmemStableStore},
};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    time::{Instant, advance, sleep},
};

const MS: Duration = Duration::from_millis(1);

/// Takes ten milliseconds of the paused clock for each command, once it is told to be slow.
#[derive(Clone, Default)]
struct Slow {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    takes: Duration,
    applied: u64,
}

impl Fsm for Slow {
    type Response = u64;

    fn apply(&mut self, _: &Entry) -> u64 {
        let mut state = self.state.lock();
        state.applied += 1;
        if !state.takes.is_zero() {
            // The clock moves when this is polled first.
            let moved = pin!(advance(state.takes));
            assert!(moved.poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        state.applied
    }

    fn snapshot(&mut self) -> Result<Box<dyn FsmSnapshot>, FsmError> {
        Ok(Box::new(View(self.state.lock().applied)))
    }
}

struct View(u64);

#[async_trait]
impl FsmSnapshot for View {
    async fn persist(
        self: Box<Self>,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), FsmError> {
        Ok(sink.write_u64(self.0).await?)
    }
}

/// A server alone, with a thousand commands to apply that take ten milliseconds each.
async fn busy() -> (Raft<Slow>, Slow, InmemNetwork) {
    let (network, fsm) = (InmemNetwork::new(), Slow::default());
    let raft = Raft::new(
        Config::new("a").with(|it| it.max_apply_time = 50 * MS),
        fsm.clone(),
        InmemLogStore::new(),
        InmemStableStore::new(),
        Arc::new(InmemSnapshotStore::new()),
        network.transport("a"),
    )
    .await
    .unwrap();
    raft.bootstrap_cluster(Configuration::new([Server::voter("a", "a")])).await.unwrap();
    raft.leader_changes().wait_for(Option::is_some).await.unwrap();
    raft.apply("x").await.unwrap();
    fsm.state.lock().takes = 10 * MS;
    drop(raft.apply_batch(vec!["x".into(); 1000]));
    (raft, fsm, network)
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_a_short_batch_only() {
    let (raft, fsm, _network) = busy().await;
    let started = Instant::now();
    sleep(1000 * MS).await;
    assert!(matches!(raft.shutdown().await, Fatal::Shutdown));
    assert!(started.elapsed() <= 1200 * MS, "{:?}", started.elapsed());
    let applied = fsm.state.lock().applied;
    assert!((50..=150).contains(&applied), "{applied}");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_and_a_status_do_not_wait_until_everything_is_applied() {
    let (raft, fsm, _network) = busy().await;
    sleep(1000 * MS).await;
    let started = Instant::now();
    let snapshot = raft.snapshot().await.unwrap();
    assert!(started.elapsed() <= 200 * MS, "{:?}", started.elapsed());
    let status = raft.status().await.unwrap();
    assert!(started.elapsed() <= 300 * MS, "{:?}", started.elapsed());
    assert!(snapshot.meta.last.index <= status.marks.applied);
    assert!(status.marks.applied < status.marks.committed);
    raft.barrier().await.unwrap();
    assert_eq!(fsm.state.lock().applied, 1001);
}

/// The setting acts on a server that is already busy.
#[tokio::test(start_paused = true)]
async fn another_limit_acts_on_the_next_batch() {
    let (raft, _fsm, _network) = busy().await;
    sleep(1000 * MS).await;
    let config = Config::clone(&raft.config()).with(|it| it.max_apply_time = 1000 * MS);
    raft.reload_config(config).await.unwrap();
    sleep(4000 * MS).await;
    let started = Instant::now();
    raft.snapshot().await.unwrap();
    let waited = started.elapsed();
    assert!((100 * MS..=2000 * MS).contains(&waited), "{waited:?}");
}
