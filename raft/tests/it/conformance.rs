//! The implementations that come with the library keep every promise of their traits.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use raft::{
    Entry, FileLogOptions, FileLogStore, FileSnapshotStore, Fsm, FsmError, FsmSnapshot, Server,
    SnapshotReader, Transport,
    inmem::{
        InmemDisk, InmemLogStore, InmemNetwork, InmemSnapshotStore, InmemStableStore,
        InmemTransport,
    },
    testing::{
        fsm_suite, log_store_reopen_suite, log_store_suite, snapshot_store_suite,
        stable_store_suite, transport_suite,
    },
};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

#[tokio::test]
async fn inmem_log_store() {
    log_store_suite(|| async { InmemLogStore::new() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inmem_log_store_on_two_threads() {
    log_store_suite(|| async { InmemLogStore::new() }).await;
}

#[tokio::test(start_paused = true)]
async fn inmem_log_store_on_a_slow_disk() {
    let disk = InmemDisk::new();
    disk.set_write_delay(Duration::from_millis(10));
    log_store_suite(|| async { InmemLogStore::on(&disk) }).await;
}

#[tokio::test]
async fn inmem_log_store_opened_again() {
    let store = InmemLogStore::new();
    log_store_reopen_suite(|| {
        let store = store.clone();
        async { store }
    })
    .await;
}

#[tokio::test]
async fn inmem_stable_store() {
    stable_store_suite(|| async { InmemStableStore::new() }).await;
    stable_store_suite(|| async { InmemStableStore::new().keeping_incarnation() }).await;
}

/// A directory of its own for each store of a suite. Small segments, so that they change within it.
async fn check_file_log_store() {
    let root = tempfile::tempdir().unwrap();
    let mut number = 0;
    let mut fresh = || {
        number += 1;
        let dir = root.path().join(number.to_string());
        async move {
            FileLogStore::open(dir, FileLogOptions::default().with(|it| it.segment_bytes = 1 << 20))
                .unwrap()
        }
    };
    log_store_suite(&mut fresh).await;
    stable_store_suite(&mut fresh).await;
}

#[tokio::test]
async fn file_log_store() {
    check_file_log_store().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_log_store_on_two_threads() {
    check_file_log_store().await;
}

#[tokio::test]
async fn file_log_store_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    log_store_reopen_suite(|| async {
        FileLogStore::open(&dir, FileLogOptions::default().with(|it| it.segment_bytes = 1 << 20))
            .unwrap()
    })
    .await;
}

#[tokio::test]
async fn inmem_snapshot_store() {
    snapshot_store_suite(|| async { InmemSnapshotStore::new() }).await;
}

/// A directory of its own for each store of a suite.
async fn check_file_snapshot_store() {
    let root = tempfile::tempdir().unwrap();
    let mut number = 0;
    snapshot_store_suite(|| {
        number += 1;
        let dir = root.path().join(number.to_string());
        async move { FileSnapshotStore::open(dir, 2).unwrap() }
    })
    .await;
}

#[tokio::test]
async fn file_snapshot_store() {
    check_file_snapshot_store().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_snapshot_store_on_two_threads() {
    check_file_snapshot_store().await;
}

fn cluster(network: &InmemNetwork, n: usize) -> Vec<(Server, Arc<dyn Transport>)> {
    (0..n)
        .map(|number| {
            let address = format!("address of {number}");
            let transport: Arc<InmemTransport> = network.transport(address.as_str());
            (Server::voter(format!("server {number}"), address), transport as Arc<dyn Transport>)
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn inmem_transport() {
    transport_suite(|n| async move { cluster(&InmemNetwork::new(), n) }).await;
}

#[tokio::test(start_paused = true)]
async fn inmem_transport_with_delays() {
    transport_suite(|n| async move {
        let network = InmemNetwork::new();
        network.set_delay(Duration::from_millis(5));
        cluster(&network, n)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inmem_transport_on_two_threads() {
    transport_suite(|n| async move { cluster(&InmemNetwork::new(), n) }).await;
}

/// Counts words, and answers how often each was seen.
#[derive(Default)]
struct Words(BTreeMap<Vec<u8>, u64>);

struct View(BTreeMap<Vec<u8>, u64>);

impl Fsm for Words {
    type Response = u64;

    fn apply(&mut self, entry: &Entry) -> u64 {
        let count = self.0.entry(entry.data().to_vec()).or_default();
        *count += 1;
        *count
    }

    fn snapshot(&mut self) -> Result<Box<dyn FsmSnapshot>, FsmError> {
        Ok(Box::new(View(self.0.clone())))
    }

    async fn restore(&mut self, mut reader: SnapshotReader) -> Result<(), FsmError> {
        self.0.clear();
        for _ in 0..reader.read_u64().await? {
            let count = reader.read_u64().await?;
            let mut word = vec![0; reader.read_u64().await? as usize];
            reader.read_exact(&mut word).await?;
            self.0.insert(word, count);
        }
        Ok(())
    }
}

#[async_trait]
impl FsmSnapshot for View {
    async fn persist(
        self: Box<Self>,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), FsmError> {
        sink.write_u64(self.0.len() as u64).await?;
        for (word, count) in self.0 {
            sink.write_u64(count).await?;
            sink.write_u64(word.len() as u64).await?;
            sink.write_all(&word).await?;
        }
        Ok(())
    }
}

fn words() -> impl Iterator<Item = Bytes> {
    (0..60).map(|n: u64| Bytes::from(format!("word {}", n * n % 17)))
}

#[tokio::test]
async fn a_state_machine() {
    fsm_suite(Words::default, words(), |words| words.0.clone()).await;
}

/// Forgets to clear itself before it restores: what a suite is there to find.
#[derive(Default)]
struct Sloppy(Words);

impl Fsm for Sloppy {
    type Response = u64;

    fn apply(&mut self, entry: &Entry) -> u64 {
        self.0.apply(entry)
    }

    fn snapshot(&mut self) -> Result<Box<dyn FsmSnapshot>, FsmError> {
        self.0.snapshot()
    }

    async fn restore(&mut self, reader: SnapshotReader) -> Result<(), FsmError> {
        let mut restored = Words::default();
        restored.restore(reader).await?;
        self.0.0.extend(restored.0);
        Ok(())
    }
}

#[tokio::test]
#[should_panic(expected = "restoring replaces the whole state")]
async fn a_sloppy_state_machine_is_found_out() {
    fsm_suite(Sloppy::default, words(), |sloppy| sloppy.0.0.clone()).await;
}
