//! Whose error it is: what the snapshot store says while a state machine writes into it or reads from it
//! is the store's, however the state machine passes it on.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use raft::{
    Config, Configuration, Entry, Fatal, Fsm, FsmError, FsmSnapshot, IndexedConfiguration, LogId,
    Raft, RecoverError, RecoverOptions, RestoreFailure, Server, SnapshotError, SnapshotId,
    SnapshotMeta, SnapshotReader, SnapshotSink, SnapshotStore, StartError, StoreError, Uncommitted,
    inmem::{InmemLogStore, InmemNetwork, InmemSnapshotStore, InmemStableStore},
    recover_cluster,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// What the operating system says of a full disk.
const ENOSPC: i32 = 28;

/// A store whose streams fail after one byte.
#[derive(Clone)]
struct Failing {
    store: InmemSnapshotStore,
    what: What,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Nothing,
    Writes,
    Reads,
    Opens,
}

impl Failing {
    fn new(what: What) -> Self {
        Self { store: InmemSnapshotStore::new(), what }
    }

    /// The same snapshots, and something else fails.
    fn but(&self, what: What) -> Self {
        Self { what, ..self.clone() }
    }
}

#[async_trait]
impl SnapshotStore for Failing {
    async fn create(
        &self,
        last: LogId,
        configuration: IndexedConfiguration,
    ) -> Result<Box<dyn SnapshotSink>, StoreError> {
        let sink = self.store.create(last, configuration).await?;
        Ok(if self.what == What::Writes {
            Box::new(OneByte { inner: sink, left: 1 })
        } else {
            sink
        })
    }

    async fn list(&self) -> Result<Vec<SnapshotMeta>, StoreError> {
        self.store.list().await
    }

    async fn remove(&self, id: &SnapshotId) -> Result<(), StoreError> {
        self.store.remove(id).await
    }

    async fn open(&self, id: &SnapshotId) -> Result<(SnapshotMeta, SnapshotReader), StoreError> {
        if self.what == What::Opens {
            return Err(StoreError::io("opening", io::Error::from_raw_os_error(ENOSPC)));
        }
        let (meta, reader) = self.store.open(id).await?;
        if self.what != What::Reads {
            return Ok((meta, reader));
        }
        Ok((meta, Box::new(OneByte { inner: reader, left: 1 })))
    }
}

/// Lets one byte through.
struct OneByte<S> {
    inner: S,
    left: usize,
}

impl<S> OneByte<S> {
    fn spend(&mut self) -> io::Result<()> {
        self.left = self.left.checked_sub(1).ok_or_else(|| io::Error::from_raw_os_error(ENOSPC))?;
        Ok(())
    }
}

impl AsyncRead for OneByte<SnapshotReader> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.spend()?;
        let mut byte = [0];
        let mut one = ReadBuf::new(&mut byte);
        let read = Pin::new(&mut self.inner).poll_read(cx, &mut one);
        buffer.put_slice(one.filled());
        read
    }
}

impl AsyncWrite for OneByte<Box<dyn SnapshotSink>> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.spend()?;
        Pin::new(&mut self.inner).poll_write(cx, &bytes[..1])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[async_trait]
impl SnapshotSink for OneByte<Box<dyn SnapshotSink>> {
    async fn finish(self: Box<Self>) -> Result<SnapshotMeta, StoreError> {
        self.inner.finish().await
    }

    async fn cancel(self: Box<Self>) {
        self.inner.cancel().await;
    }
}

/// A state machine without state, and what it makes of an error of the store.
#[derive(Clone, Copy, Debug)]
enum Machine {
    /// Passes it on as it is.
    Honest,
    /// Says something else in its place.
    Vague,
    /// Says that all is well.
    Silent,
    /// Has an error of its own.
    Broken,
}

impl Machine {
    fn make_of(self, result: io::Result<()>) -> Result<(), FsmError> {
        match (self, result) {
            (Self::Broken, _) => Err("my own fault".into()),
            (_, Ok(())) | (Self::Silent, Err(_)) => Ok(()),
            (Self::Vague, Err(_)) => Err("something went wrong".into()),
            (Self::Honest, Err(error)) => Err(error.into()),
        }
    }
}

impl Fsm for Machine {
    type Response = ();

    fn apply(&mut self, _: &Entry) {}

    fn snapshot(&mut self) -> Result<Box<dyn FsmSnapshot>, FsmError> {
        Ok(Box::new(*self))
    }

    async fn restore(&mut self, mut reader: SnapshotReader) -> Result<(), FsmError> {
        let read = reader.read_to_end(&mut Vec::new()).await;
        self.make_of(read.map(drop))
    }
}

#[async_trait]
impl FsmSnapshot for Machine {
    async fn persist(
        self: Box<Self>,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), FsmError> {
        self.make_of(sink.write_all(b"all of it").await)
    }
}

/// The stores of one server, but for its snapshots.
#[derive(Clone, Default)]
struct Disk {
    log: InmemLogStore,
    stable: InmemStableStore,
}

impl Disk {
    async fn start(
        &self,
        id: &str,
        fsm: Machine,
        snapshots: &Failing,
        network: &InmemNetwork,
    ) -> Result<Raft<Machine>, StartError> {
        let config = Config::new(id).with_seed(1).with(|it| it.trailing_logs = 0);
        let snapshots = Arc::new(snapshots.clone());
        let (log, stable) = (self.log.clone(), self.stable.clone());
        Raft::new(config, fsm, log, stable, snapshots, network.transport(id)).await
    }
}

/// A server alone that leads and has applied something.
async fn alone(
    disk: &Disk,
    fsm: Machine,
    snapshots: &Failing,
    network: &InmemNetwork,
) -> Raft<Machine> {
    let raft = disk.start("a", fsm, snapshots, network).await.unwrap();
    raft.bootstrap_cluster(Configuration::new([Server::voter("a", "a")])).await.unwrap();
    raft.leader_changes().wait_for(Option::is_some).await.unwrap();
    raft.apply("x").await.unwrap();
    raft
}

fn is_full(error: &StoreError, begins: &str) -> bool {
    let StoreError::Io { context, source } = error else { return false };
    let source = source.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    context.starts_with(begins) && source == Some(ENOSPC)
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_could_not_be_written_is_the_stores_error() {
    for fsm in [Machine::Honest, Machine::Vague, Machine::Silent] {
        let (disk, snapshots) = (Disk::default(), Failing::new(What::Writes));
        let raft = alone(&disk, fsm, &snapshots, &InmemNetwork::new()).await;
        let error = raft.snapshot().await.unwrap_err();
        let SnapshotError::Store(error) = &error else { panic!("{fsm:?}: {error}") };
        assert!(is_full(error, "cannot write the snapshot that ends with"), "{fsm:?}: {error}");
        assert!(snapshots.list().await.unwrap().is_empty(), "{fsm:?}: half of one is kept");
        raft.apply("the node goes on").await.unwrap();
        raft.shutdown().await;
    }
    let (disk, snapshots) = (Disk::default(), Failing::new(What::Nothing));
    let raft = alone(&disk, Machine::Broken, &snapshots, &InmemNetwork::new()).await;
    let error = raft.snapshot().await.unwrap_err();
    assert!(matches!(&error, SnapshotError::Fsm { reason } if reason == "my own fault"), "{error}");
    raft.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_start_says_whether_the_store_or_the_state_machine_is_to_be_mended() {
    let (disk, snapshots) = (Disk::default(), Failing::new(What::Nothing));
    let network = InmemNetwork::new();
    let raft = alone(&disk, Machine::Honest, &snapshots, &network).await;
    raft.snapshot().await.unwrap();
    raft.shutdown().await;
    let reason = async |fsm, what| {
        let error = disk.start("a", fsm, &snapshots.but(what), &network).await.unwrap_err();
        let StartError::Snapshot { tried: 1, reason } = error else { panic!("{error}") };
        reason
    };
    for fsm in [Machine::Honest, Machine::Vague, Machine::Silent] {
        let reason = reason(fsm, What::Reads).await;
        let RestoreFailure::Store(error) = &reason else { panic!("{fsm:?}: {reason}") };
        assert!(is_full(error, "cannot read snapshot"), "{fsm:?}: {error}");
    }
    let of_open = reason(Machine::Honest, What::Opens).await;
    assert!(matches!(&of_open, RestoreFailure::Store(error) if is_full(error, "opening")));
    let own = reason(Machine::Broken, What::Nothing).await;
    assert!(matches!(&own, RestoreFailure::Fsm { reason } if reason == "my own fault"), "{own}");
    disk.start("a", Machine::Honest, &snapshots, &network).await.unwrap().shutdown().await;
}

/// A follower that is sent a snapshot.
#[tokio::test(start_paused = true)]
async fn a_received_snapshot_that_cannot_be_read_ends_the_node_as_a_failed_store() {
    let network = InmemNetwork::new();
    let leader =
        alone(&Disk::default(), Machine::Honest, &Failing::new(What::Nothing), &network).await;
    leader.snapshot().await.unwrap();
    let end = async |id, fsm, what| {
        let follower = Disk::default().start(id, fsm, &Failing::new(what), &network).await.unwrap();
        leader.add_nonvoter(id, id, None).await.unwrap();
        follower.ended().await
    };
    for (id, fsm) in [("b", Machine::Honest), ("c", Machine::Vague), ("d", Machine::Silent)] {
        let fatal = end(id, fsm, What::Reads).await;
        let Fatal::Store(error) = &fatal else { panic!("{fsm:?}: {fatal}") };
        assert!(is_full(error, "cannot read snapshot"), "{fsm:?}: {error}");
    }
    let fatal = end("e", Machine::Honest, What::Opens).await;
    assert!(matches!(&fatal, Fatal::Store(error) if is_full(error, "opening")), "{fatal}");
    let fatal = end("f", Machine::Broken, What::Nothing).await;
    assert!(matches!(&fatal, Fatal::Restore { reason, .. } if reason.ends_with("my own fault")));
}

#[tokio::test(start_paused = true)]
async fn a_recovery_says_whether_the_store_or_the_state_machine_is_to_be_mended() {
    let (mut disk, snapshots) = (Disk::default(), Failing::new(What::Nothing));
    let raft = alone(&disk, Machine::Honest, &snapshots, &InmemNetwork::new()).await;
    raft.shutdown().await;
    let members = || Configuration::new([Server::voter("a", "a")]);
    let options = RecoverOptions::new("a").with(|it| it.uncommitted = Uncommitted::Keep);
    for (fsm, what) in [
        (Machine::Honest, What::Writes),
        (Machine::Vague, What::Writes),
        (Machine::Silent, What::Writes),
        (Machine::Broken, What::Nothing),
    ] {
        let (Disk { log, stable }, snapshots) = (&mut disk, snapshots.but(what));
        let recovered = recover_cluster(fsm, log, stable, &snapshots, members(), &options).await;
        match (fsm, recovered.unwrap_err()) {
            (Machine::Broken, RecoverError::Fsm { reason }) => assert_eq!(reason, "my own fault"),
            (_, RecoverError::Store(error)) if is_full(&error, "cannot write the snapshot") => {}
            (fsm, error) => panic!("{fsm:?}: {error}"),
        }
    }
}
