//! Snapshots on their way from a leader to followers that are too far behind for its log.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use raft::{
    Config, Configuration, Entry, Fatal, Fsm, FsmError, FsmSnapshot, IndexedConfiguration, LogId,
    LogIndex, Message, Observation, Observer, ProgressState, Raft, Role, Server, SnapshotId,
    SnapshotMeta, SnapshotReader, SnapshotSink, SnapshotStore, StoreError,
    inmem::{InmemLogStore, InmemNetwork, InmemStableStore},
    rpc::InstallOutcome,
    testing::{Cluster, Journal},
};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, sleep},
};

const ABC: [&str; 3] = ["a", "b", "c"];
const CHUNK: u64 = 1 << 10;

fn small_pieces(config: Config) -> Config {
    config.with(|it| {
        it.trailing_logs = 10;
        it.snapshot_chunk_bytes = CHUNK;
    })
}

/// A cluster one of whose followers was away for `count` commands, and the snapshot that stands for
/// these on the leader.
async fn one_is_behind(
    configure: fn(Config) -> Config,
    count: usize,
    bytes: usize,
) -> (Cluster, Raft<Journal>, String, SnapshotMeta) {
    let mut cluster = Cluster::with_config(ABC, configure).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let away = cluster.followers()[0].id().to_string();
    cluster.stop(&away).await;
    for first in (0..count).step_by(500) {
        let commands = (first..count.min(first + 500)).map(|n| format!("{n:0bytes$}").into());
        leader.apply_batch(commands.collect()).await.unwrap();
    }
    let meta = leader.snapshot().await.unwrap().meta;
    (cluster, leader, away, meta)
}

/// Counts the bytes of snapshots that are sent.
fn counted(cluster: &Cluster) -> Arc<AtomicU64> {
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    cluster.network().set_tap(move |_, _, message| {
        if let Message::InstallSnapshot(piece) = message {
            count.fetch_add(piece.data.len() as u64, Ordering::Relaxed);
        }
    });
    sent
}

fn needs(leader: &Raft<Journal>) -> Observer {
    leader.observe(1000, |seen| matches!(seen, Observation::PeerNeedsSnapshot { .. }))
}

fn count(observer: &mut Observer) -> usize {
    std::iter::from_fn(|| observer.try_recv()).count()
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_was_away_is_sent_a_snapshot_while_the_leader_serves() {
    let (mut cluster, leader, away, meta) = one_is_behind(small_pieces, 5000, 16).await;
    cluster.network().set_delay(Duration::from_millis(5));
    let sent = counted(&cluster);
    let mut needed = needs(&leader);
    let raft = cluster.start(&away).await;
    let mut installed =
        raft.observe(10, |seen| matches!(seen, Observation::SnapshotInstalled { .. }));
    for number in 0..100 {
        let started = Instant::now();
        leader.apply(format!("{number}")).await.unwrap();
        assert!(started.elapsed() < Duration::from_millis(50), "{:?}", started.elapsed());
    }
    cluster.converge().await;
    assert_eq!(installed.recv().await, Some(Observation::SnapshotInstalled { last: meta.last }));
    assert_eq!(count(&mut needed), 1);
    assert_eq!(sent.load(Ordering::Relaxed), meta.size_bytes, "nothing is sent twice");
    assert_eq!(cluster.journal(&away).commands().len(), 5100);
    assert_eq!(raft.marks().first, meta.last.index.next());
    assert_eq!(leader.role(), Role::Leader);
    let commands = cluster.journal(&away).commands();
    cluster.restart(&away).await;
    cluster.converge().await;
    assert_eq!(cluster.journal(&away).commands(), commands);
}

#[tokio::test(start_paused = true)]
async fn status_and_observers_show_how_far_a_transfer_is() {
    let (mut cluster, leader, away, meta) = one_is_behind(small_pieces, 500, 200).await;
    cluster.network().set_delay(Duration::from_millis(10));
    let mut observer =
        leader.observe(1000, |seen| matches!(seen, Observation::SnapshotSent { .. }));
    cluster.start(&away).await;
    let mut shown = 0;
    while leader.status().await.unwrap().peers.iter().any(|peer| {
        if let Some(received) = peer.snapshot_received_bytes {
            assert_eq!(peer.progress, ProgressState::Snapshot);
            assert!(shown <= received, "{shown} {received}");
            shown = received;
            if 0 < received {
                assert_eq!(peer.snapshot_size_bytes, Some(meta.size_bytes));
            }
        }
        peer.match_index < meta.last.index
    }) {
        sleep(Duration::from_millis(1)).await;
    }
    assert!(meta.size_bytes / 2 < shown, "{shown}");
    let mut last = 0;
    while let Some(seen) = observer.try_recv() {
        let Observation::SnapshotSent { peer, sent_bytes, size_bytes } = seen else { panic!() };
        assert_eq!((peer.as_str(), size_bytes), (away.as_str(), meta.size_bytes));
        assert!(last < sent_bytes);
        last = sent_bytes;
    }
    assert_eq!(last, meta.size_bytes);
}

#[tokio::test(start_paused = true)]
async fn a_transfer_goes_on_where_it_was_when_the_connection_broke() {
    let (mut cluster, leader, away, meta) = one_is_behind(small_pieces, 1000, 200).await;
    cluster.network().set_delay(Duration::from_millis(10));
    let sent = counted(&cluster);
    let mut needed = needs(&leader);
    cluster.start(&away).await;
    while sent.load(Ordering::Relaxed) < meta.size_bytes / 2 {
        sleep(Duration::from_millis(5)).await;
    }
    cluster.network().disconnect(away.as_str());
    sleep(Duration::from_secs(20)).await;
    leader.apply("meanwhile").await.unwrap();
    let before = sent.load(Ordering::Relaxed);
    assert!(before < meta.size_bytes / 2 + 50 * CHUNK, "not much is sent to nobody: {before}");
    cluster.network().connect(away.as_str());
    cluster.converge().await;
    let again = sent.load(Ordering::Relaxed) - before;
    assert!(again < meta.size_bytes / 2 + 10 * CHUNK, "{again} of {} again", meta.size_bytes);
    assert_eq!(count(&mut needed), 1, "it is one transfer");
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_restarts_in_the_middle_is_sent_all_of_it() {
    let (mut cluster, _, away, meta) = one_is_behind(small_pieces, 1000, 200).await;
    cluster.network().set_delay(Duration::from_millis(10));
    let sent = counted(&cluster);
    cluster.start(&away).await;
    while sent.load(Ordering::Relaxed) < meta.size_bytes / 2 {
        sleep(Duration::from_millis(5)).await;
    }
    cluster.restart(&away).await;
    cluster.converge().await;
    assert_eq!(cluster.stores(&away).2.list().await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn pieces_and_answers_that_are_lost_are_made_up_for() {
    let (mut cluster, _, away, meta) = one_is_behind(small_pieces, 1000, 200).await;
    cluster.network().set_delay(Duration::from_millis(5));
    let sent = counted(&cluster);
    let number = AtomicUsize::new(0);
    cluster.network().set_drop(move |_, _, message| {
        let is_of_snapshot =
            matches!(message, Message::InstallSnapshot(_) | Message::InstallSnapshotReply(_));
        is_of_snapshot && number.fetch_add(1, Ordering::Relaxed) % 17 == 16
    });
    cluster.start(&away).await;
    cluster.converge().await;
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent < 2 * meta.size_bytes, "{sent} for {}", meta.size_bytes);
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_sends_its_own_snapshot() {
    let (mut cluster, leader, away, meta) = one_is_behind(small_pieces, 1000, 200).await;
    for raft in cluster.rafts() {
        // The others have what it takes as well.
        raft.wait_applied(meta.last.index).await.unwrap();
        if raft.id() != leader.id() {
            raft.snapshot().await.unwrap();
        }
    }
    cluster.network().set_delay(Duration::from_millis(10));
    let sent = counted(&cluster);
    cluster.start(&away).await;
    while sent.load(Ordering::Relaxed) < meta.size_bytes / 2 {
        sleep(Duration::from_millis(5)).await;
    }
    leader.leadership_transfer().await.unwrap();
    let next = cluster.leader().await;
    assert_ne!(next.id(), leader.id());
    cluster.converge().await;
    assert_eq!(cluster.journal(&away).commands().len(), 1000);
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_bytes_per_second_is_kept() {
    let slowly =
        |config: Config| small_pieces(config).with(|it| it.snapshot_bytes_per_second = 10 << 10);
    let (mut cluster, leader, away, meta) = one_is_behind(slowly, 500, 200).await;
    let started = Instant::now();
    cluster.start(&away).await;
    cluster.converge().await;
    let took = started.elapsed();
    let expected = Duration::from_secs(meta.size_bytes / (10 << 10));
    assert!(expected <= took && took < expected + Duration::from_secs(5), "{took:?} {expected:?}");
    assert_eq!(leader.role(), Role::Leader);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_cannot_be_read_is_tried_again_without_haste() {
    let (mut cluster, leader, away, _) = one_is_behind(small_pieces, 500, 200).await;
    cluster.disk(leader.id().as_str()).fail_reads();
    let mut needed = needs(&leader);
    cluster.start(&away).await;
    sleep(Duration::from_secs(10)).await;
    let tries = count(&mut needed);
    assert!((2..=11).contains(&tries), "{tries} tries in ten seconds");
    leader.apply("goes on").await.unwrap();
    cluster.disk(leader.id().as_str()).heal();
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_of_the_receiver_is_waited_for() {
    let (mut cluster, leader, away, _) = one_is_behind(small_pieces, 500, 200).await;
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    let (from, disk) = (away.clone(), cluster.disk(&away));
    cluster.network().set_tap(move |sender, _, message| match message {
        // The last piece is on its way: the next write is the snapshot's.
        Message::InstallSnapshot(piece)
            if piece.end() == piece.size_bytes && count.load(Ordering::Relaxed) < 3 =>
        {
            disk.fail_writes_after(0);
        }
        Message::InstallSnapshotReply(reply)
            if sender.as_str() == from && reply.outcome == InstallOutcome::Refused =>
        {
            count.fetch_add(1, Ordering::Relaxed);
            disk.heal();
        }
        _ => {}
    });
    let raft = cluster.start(&away).await;
    cluster.converge().await;
    assert_eq!(refused.load(Ordering::Relaxed), 3);
    assert!(raft.fatal().is_none());
    assert_eq!(leader.role(), Role::Leader);
}

/// An order that waits for room while the log is compacted finds nothing to send any more.
#[tokio::test(start_paused = true)]
async fn a_lane_that_was_stuck_over_a_compaction_ends_in_a_snapshot() {
    let configure = |config: Config| {
        config.with(|it| {
            it.trailing_logs = 0;
            it.log_cache_bytes = 0;
            it.max_append_bytes = 1024;
            it.max_append_entries = 4096;
            it.max_inflight_bytes = 1 << 20;
            it.rpc_queue = 16;
            it.max_pending_writes = 16;
        })
    };
    let cluster = Cluster::with_config(ABC, configure).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let slow = cluster.followers()[0].clone();
    cluster.disk(slow.id().as_str()).pause_writes();
    let mut needed = needs(&leader);
    for round in 0..20 {
        let commands = (0..100).map(|number| format!("{round:03}{number:097}").into());
        leader.apply_batch(commands.collect()).await.unwrap();
    }
    leader.snapshot().await.unwrap();
    leader.apply("x").await.unwrap();
    cluster.disk(slow.id().as_str()).resume_writes();
    cluster.converge().await;
    assert_eq!(count(&mut needed), 1);
    assert!(slow.fatal().is_none() && leader.fatal().is_none());
}

/// What a snapshot is followed by may be gone when it has arrived: then the next one is sent.
#[tokio::test(start_paused = true)]
async fn a_follower_that_is_overtaken_is_sent_the_next_snapshot() {
    let configure = |config: Config| {
        small_pieces(config).with(|it| {
            it.trailing_logs = 0;
            it.max_held_entries = 0;
        })
    };
    let (mut cluster, leader, away, meta) = one_is_behind(configure, 500, 200).await;
    cluster.network().set_delay(Duration::from_millis(10));
    let sent = counted(&cluster);
    let mut needed = needs(&leader);
    cluster.start(&away).await;
    while sent.load(Ordering::Relaxed) < meta.size_bytes / 2 {
        sleep(Duration::from_millis(5)).await;
    }
    leader.apply_batch((0..20).map(|number| format!("{number}").into()).collect()).await.unwrap();
    leader.snapshot().await.unwrap();
    cluster.converge().await;
    assert_eq!(count(&mut needed), 2);
}

#[tokio::test(start_paused = true)]
async fn what_follows_a_snapshot_is_kept_while_it_is_sent() {
    let configure = |config: Config| small_pieces(config).with(|it| it.trailing_logs = 0);
    let (mut cluster, leader, away, meta) = one_is_behind(configure, 500, 200).await;
    cluster.network().set_delay(Duration::from_millis(10));
    let sent = counted(&cluster);
    let mut needed = needs(&leader);
    cluster.start(&away).await;
    while sent.load(Ordering::Relaxed) < meta.size_bytes / 2 {
        sleep(Duration::from_millis(5)).await;
    }
    leader.apply_batch((0..20).map(|number| format!("{number}").into()).collect()).await.unwrap();
    let newer = leader.snapshot().await.unwrap().meta.last;
    assert_eq!(leader.marks().first, meta.last.index.next());
    cluster.converge().await;
    assert_eq!(count(&mut needed), 1);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(leader.marks().first, newer.index.next(), "and goes as soon as it is not needed");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_removed_or_moves_is_sent_no_more() {
    let (mut cluster, leader, away, meta) = one_is_behind(small_pieces, 1000, 200).await;
    cluster.network().set_delay(Duration::from_millis(10));
    let sent = counted(&cluster);
    cluster.start(&away).await;
    while sent.load(Ordering::Relaxed) < meta.size_bytes / 4 {
        sleep(Duration::from_millis(5)).await;
    }
    // Nobody is there; the transfer is ordered anew and waits.
    leader.add_voter(away.as_str(), "elsewhere", None).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    let before = sent.load(Ordering::Relaxed);
    assert!(before < meta.size_bytes / 2, "{before}");
    leader.add_voter(away.as_str(), away.as_str(), None).await.unwrap();
    while sent.load(Ordering::Relaxed) < before + meta.size_bytes / 4 {
        sleep(Duration::from_millis(5)).await;
    }
    leader.remove_server(away.as_str(), None).await.unwrap();
    let before = sent.load(Ordering::Relaxed);
    sleep(Duration::from_secs(20)).await;
    assert_eq!(sent.load(Ordering::Relaxed), before);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_while_a_snapshot_is_sent_ends_at_once() {
    for share in [10, 4, 2] {
        let (mut cluster, leader, away, meta) = one_is_behind(small_pieces, 500, 200).await;
        cluster.network().set_delay(Duration::from_millis(10));
        let sent = counted(&cluster);
        let follower = cluster.start(&away).await;
        while sent.load(Ordering::Relaxed) < meta.size_bytes / share {
            sleep(Duration::from_millis(5)).await;
        }
        let started = Instant::now();
        let (one, other) = (leader.shutdown().await, follower.shutdown().await);
        assert!(matches!((one, other), (Fatal::Shutdown, Fatal::Shutdown)));
        assert!(started.elapsed() < Duration::from_secs(1));
        assert!(cluster.stores(&away).2.list().await.unwrap().is_empty());
    }
}

const HUGE: u64 = 100 << 20;

/// A state machine whose state is as many bytes as it is asked for, without holding any.
struct Huge;

impl Fsm for Huge {
    type Response = ();

    fn apply(&mut self, _: &Entry) {}

    fn snapshot(&mut self) -> Result<Box<dyn FsmSnapshot>, FsmError> {
        Ok(Box::new(Huge))
    }

    async fn restore(&mut self, mut reader: SnapshotReader) -> Result<(), FsmError> {
        let read = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await?;
        if read == HUGE { Ok(()) } else { Err(format!("{read} bytes").into()) }
    }
}

#[async_trait]
impl FsmSnapshot for Huge {
    async fn persist(
        self: Box<Self>,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), FsmError> {
        let piece = vec![7; 1 << 20];
        for _ in 0..HUGE >> 20 {
            sink.write_all(&piece).await?;
        }
        Ok(())
    }
}

/// Keeps the descriptions of snapshots, of whose bytes each is a seven.
#[derive(Clone, Default)]
struct Sevens(Arc<Mutex<Vec<SnapshotMeta>>>);

struct SevensSink {
    store: Sevens,
    meta: SnapshotMeta,
}

#[async_trait]
impl SnapshotStore for Sevens {
    async fn create(
        &self,
        last: LogId,
        configuration: IndexedConfiguration,
    ) -> Result<Box<dyn SnapshotSink>, StoreError> {
        let id = SnapshotId::new(last.to_string());
        let meta = SnapshotMeta { id, last, configuration, size_bytes: 0 };
        Ok(Box::new(SevensSink { store: self.clone(), meta }))
    }

    async fn list(&self) -> Result<Vec<SnapshotMeta>, StoreError> {
        Ok(self.0.lock().clone())
    }

    async fn remove(&self, id: &SnapshotId) -> Result<(), StoreError> {
        self.0.lock().retain(|meta| meta.id != *id);
        Ok(())
    }

    async fn open(&self, id: &SnapshotId) -> Result<(SnapshotMeta, SnapshotReader), StoreError> {
        let metas = self.0.lock();
        let meta = metas.iter().find(|meta| meta.id == *id).cloned();
        let meta = meta.ok_or_else(|| StoreError::NotFound { what: id.to_string() })?;
        let reader = tokio::io::repeat(7).take(meta.size_bytes);
        Ok((meta, Box::new(reader)))
    }
}

impl AsyncWrite for SevensSink {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        assert!(bytes.iter().all(|byte| *byte == 7));
        self.meta.size_bytes += bytes.len() as u64;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[async_trait]
impl SnapshotSink for SevensSink {
    async fn finish(self: Box<Self>) -> Result<SnapshotMeta, StoreError> {
        self.store.0.lock().insert(0, self.meta.clone());
        Ok(self.meta)
    }

    async fn cancel(self: Box<Self>) {}
}

/// Neither side holds more of a snapshot than a few pieces, whatever its size.
#[tokio::test(start_paused = true)]
async fn a_huge_snapshot_takes_a_few_pieces_of_memory() {
    let network = InmemNetwork::new();
    let start = async |id: &str| {
        Raft::new(
            Config::new(id).with_seed(1).with(|it| {
                it.trailing_logs = 0;
                it.snapshot_chunk_bytes = 64 << 10;
            }),
            Huge,
            InmemLogStore::new(),
            InmemStableStore::new(),
            Arc::new(Sevens::default()),
            network.transport(id),
        )
        .await
        .unwrap()
    };
    let leader = start("a").await;
    leader.bootstrap_cluster(Configuration::new([Server::voter("a", "a")])).await.unwrap();
    leader.leader_changes().wait_for(Option::is_some).await.unwrap();
    leader.barrier().await.unwrap();
    let snapshot = leader.snapshot().await.unwrap();
    assert_eq!(snapshot.meta.size_bytes, HUGE);
    let most = Arc::new(AtomicU64::new(0));
    let (seen, acked) = (Arc::clone(&most), AtomicU64::new(0));
    network.set_tap(move |_, _, message| match message {
        Message::InstallSnapshot(piece) => {
            let under_way = piece.end().saturating_sub(acked.load(Ordering::Relaxed));
            seen.fetch_max(under_way, Ordering::Relaxed);
        }
        Message::InstallSnapshotReply(reply) => {
            if let InstallOutcome::Received { next_offset } = reply.outcome {
                acked.store(next_offset, Ordering::Relaxed);
            }
        }
        _ => {}
    });
    let follower = start("b").await;
    let index = leader.add_nonvoter("b", "b", None).await.unwrap();
    follower.wait_applied(index).await.unwrap();
    let most = most.load(Ordering::Relaxed);
    assert!(most <= 4 * (64 << 10), "{most} bytes under way");
    assert!(LogIndex(1) < follower.marks().first);
    leader.shutdown().await;
    follower.shutdown().await;
}

/// A store that keeps no more than it must is enough.
#[tokio::test(start_paused = true)]
async fn two_snapshots_in_the_store_are_enough() {
    let network = InmemNetwork::new();
    let start = async |id: &str| {
        Raft::new(
            Config::new(id).with_seed(1).with(|it| it.trailing_logs = 0),
            Journal::default(),
            InmemLogStore::new(),
            InmemStableStore::new(),
            Arc::new(raft::inmem::InmemSnapshotStore::retaining(2)),
            network.transport(id),
        )
        .await
        .unwrap()
    };
    let leader = start("a").await;
    leader.bootstrap_cluster(Configuration::new([Server::voter("a", "a")])).await.unwrap();
    leader.leader_changes().wait_for(Option::is_some).await.unwrap();
    let follower = start("b").await;
    leader.add_nonvoter("b", "b", None).await.unwrap();
    for round in 0..10 {
        network.disconnect("b");
        leader.apply(format!("{round}")).await.unwrap();
        leader.snapshot().await.unwrap();
        network.connect("b");
        let index = leader.apply("x").await.unwrap().index;
        follower.wait_applied(index).await.unwrap();
    }
    leader.shutdown().await;
    follower.shutdown().await;
}
