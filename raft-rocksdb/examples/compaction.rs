//! Does a log that is compacted again and again stay fast?
//!
//! `cargo run --release -p raft-rocksdb --example compaction -- [rounds] [entries] [directory]`
//!
//! Every round appends entries of 100 bytes, in one write, and compacts all but the last round's.
//! After each it looks at the bounds, reads the first and the last entry, and reads a run from the
//! start. Prints the median and the maximum of each tenth of the rounds, the size of the directory
//! at its end, and how long the store takes to open at last.

use std::{env, error::Error, fs, path::Path};

use raft::{Entries, Entry, EntryPayload, LogIndex, LogReader, LogStore, Term};
use raft_rocksdb::{RocksOptions, RocksStore};
use tokio::time::{Duration, Instant};

const PAYLOAD_BYTES: usize = 100;
const TENTHS: u64 = 10;
const WHAT: [&str; 6] = ["append", "compact", "bounds", "first", "last", "run of 1000"];

fn entries(first: u64, count: u64) -> Entries {
    let entry = |index| Entry {
        term: Term(1),
        index: LogIndex(index),
        payload: EntryPayload::Command(vec![index as u8; PAYLOAD_BYTES].into()),
    };
    (first..first + count).map(entry).collect::<Vec<_>>().into()
}

/// One round, and what each part of it took.
async fn round(
    log: &mut impl LogStore,
    reader: &dyn LogReader,
    round: u64,
    count: u64,
) -> Result<[Duration; WHAT.len()], Box<dyn Error>> {
    let batch = entries(round * count + 1, count);
    let mut took = [Duration::ZERO; WHAT.len()];
    let mut start = Instant::now();
    let mut lap = |part: usize| {
        took[part] = start.elapsed();
        start = Instant::now();
    };
    log.append(&[batch]).await?;
    lap(0);
    log.truncate_prefix(LogIndex(round * count)).await?;
    lap(1);
    let Some((first, last)) = reader.bounds().await? else { return Err("the log is empty".into()) };
    lap(2);
    assert_eq!(first, LogIndex(round * count + 1));
    reader.read(first..=first, u64::MAX).await?;
    lap(3);
    reader.read(last..=last, u64::MAX).await?;
    lap(4);
    let run = reader.read(first..=first.plus(999), u64::MAX).await?;
    lap(5);
    assert_eq!(run.len() as u64, count.min(1000));
    Ok(took)
}

fn print(took: &mut [[Duration; WHAT.len()]], dir: &Path) -> Result<(), Box<dyn Error>> {
    for (part, what) in WHAT.iter().enumerate() {
        took.sort_unstable_by_key(|took| took[part]);
        let (median, max) = (took[took.len() / 2][part], took[took.len() - 1][part]);
        print!("  {what} {median:.1?} (max {max:.1?})");
    }
    let (mut files, mut bytes) = (0, 0);
    for file in fs::read_dir(dir)? {
        // RocksDB removes some while we look.
        let Ok(metadata) = file?.metadata() else { continue };
        (files, bytes) = (files + 1, bytes + metadata.len());
    }
    println!("  {files} files, {} MiB", bytes >> 20);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let rounds = arguments.next().map_or(Ok(1000), |rounds| rounds.parse())?;
    let count = arguments.next().map_or(Ok(10_000), |count| count.parse())?;
    let parent = arguments.next().map_or_else(env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(parent)?;
    let open = || RocksStore::open(dir.path(), RocksOptions::default());
    println!("{rounds} rounds of {count} entries:");
    let mut log = open()?.log_store();
    let reader = log.reader();
    let mut took = Vec::new();
    for number in 0..rounds {
        took.push(round(&mut log, &*reader, number, count).await?);
        if (number + 1) * TENTHS / rounds != number * TENTHS / rounds {
            print!("{:>6}:", number + 1);
            print(&mut took, dir.path())?;
            took.clear();
        }
    }
    drop((log, reader));
    let start = Instant::now();
    drop(open()?);
    println!("opened in {:.1?}", start.elapsed());
    Ok(())
}
