//! What does it cost to hand a synced write to a thread that may block?
//!
//! `cargo run --release -p raft-rocksdb --example handoff -- [writes] [directory]`
//!
//! Writes one record of 256 bytes at a time, synced, in four ways, round after round so that all of
//! them see the same disk, and prints the median and 99th percentile of each way relative to a
//! plain blocking call.

use std::{env, error::Error, path::PathBuf, sync::Arc, sync::mpsc};

use rocksdb::{DB, DBRecoveryMode, Options, WriteBatch, WriteOptions};
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    task,
    time::{Duration, Instant},
};

const PAYLOAD_BYTES: usize = 256;
const ROUNDS: usize = 10;

type Reply = Result<(), rocksdb::Error>;

struct Disk {
    db: DB,
    synced: WriteOptions,
}

impl Disk {
    fn open(dir: &PathBuf) -> Result<Self, rocksdb::Error> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        options.set_allow_concurrent_memtable_write(false);
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        Ok(Self { db: DB::open(&options, dir)?, synced })
    }

    fn write(&self, number: u64) -> Reply {
        let mut batch = WriteBatch::default();
        batch.put(number.to_be_bytes(), [7; PAYLOAD_BYTES]);
        self.db.write_opt(batch, &self.synced)
    }
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Plain,
    SpawnBlocking,
    WriterThread,
    BlockInPlace,
}

struct Bench {
    disk: Arc<Disk>,
    writer: mpsc::Sender<(u64, oneshot::Sender<Reply>)>,
    next: u64,
}

impl Bench {
    fn new(dir: &PathBuf) -> Result<Self, rocksdb::Error> {
        let disk = Arc::new(Disk::open(dir)?);
        let (writer, requests) = mpsc::channel::<(u64, oneshot::Sender<Reply>)>();
        let owned = Arc::clone(&disk);
        std::thread::spawn(move || {
            for (number, reply) in requests {
                // A caller that went away wants no answer.
                let _ = reply.send(owned.write(number));
            }
        });
        Ok(Self { disk, writer, next: 0 })
    }

    async fn write(&mut self, way: Way) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.next += 1;
        let number = self.next;
        let disk = Arc::clone(&self.disk);
        match way {
            Way::Plain => disk.write(number)?,
            Way::SpawnBlocking => task::spawn_blocking(move || disk.write(number)).await??,
            Way::BlockInPlace => task::block_in_place(|| disk.write(number))?,
            Way::WriterThread => {
                let (reply, written) = oneshot::channel();
                self.writer.send((number, reply))?;
                written.await??;
            }
        }
        Ok(())
    }

    async fn measure(
        mut self,
        ways: &[Way],
        writes: usize,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let mut took = vec![Vec::new(); ways.len()];
        for _ in 0..ROUNDS {
            for (way, took) in ways.iter().zip(&mut took) {
                for _ in 0..writes / ROUNDS {
                    let start = Instant::now();
                    self.write(*way).await?;
                    took.push(start.elapsed());
                }
            }
        }
        let mut plain = None;
        for (way, took) in ways.iter().zip(&mut took) {
            took.sort_unstable();
            let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize];
            let (median, tail) = (at(0.5), at(0.99));
            let plain = plain.get_or_insert(median);
            let ratio = |time: Duration| time.as_secs_f64() / plain.as_secs_f64();
            println!(
                "  {:14} median {:>9.1?} = {:.2} x, 99 % {:>9.1?} = {:.2} x",
                format!("{way:?}"),
                median,
                ratio(median),
                tail,
                ratio(tail)
            );
        }
        Ok(())
    }
}

fn run(
    runtime: &Runtime,
    dir: &PathBuf,
    ways: &'static [Way],
    writes: usize,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let bench = Bench::new(dir)?;
    runtime.block_on(async move { task::spawn(bench.measure(ways, writes)).await? })
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut arguments = env::args().skip(1);
    let writes = arguments.next().map_or(Ok(10_000), |writes| writes.parse())?;
    let parent = arguments.next().map_or_else(env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(parent)?;
    println!("one thread runs the tasks:");
    run(
        &Builder::new_current_thread().enable_all().build()?,
        &dir.path().join("one"),
        &[Way::Plain, Way::SpawnBlocking, Way::WriterThread],
        writes,
    )?;
    println!("several threads run the tasks:");
    run(
        &Builder::new_multi_thread().enable_all().build()?,
        &dir.path().join("several"),
        &[Way::Plain, Way::SpawnBlocking, Way::WriterThread, Way::BlockInPlace],
        writes,
    )
}
