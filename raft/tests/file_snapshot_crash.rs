//! Kills a process that writes snapshots, again and again, and checks what it had finished.
//!
//! The child is this program, started again. It says on its standard output which snapshot it is
//! about to finish and when that is done; the parent kills it (SIGKILL) at a random moment and opens
//! the directory: every snapshot in it is whole, and of those that were finished only the ones are
//! gone that newer ones have pushed out.
//!
//! A killed process loses nothing that the kernel already has, so that this shows atomicity,
//! order, retention and recovery, not that everything is synced.
#![allow(clippy::unwrap_used, reason = "a failed test says where")]

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
};

use raft::{
    Configuration, FileSnapshotStore, IndexedConfiguration, LogId, LogIndex, Server, SnapshotId,
    SnapshotSink, SnapshotStore,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ROUNDS: u64 = 60;
const RETAIN: usize = 3;
const CHILD_DIR: &str = "RAFT_FILE_SNAPSHOT_CRASH_DIR";
const CHILD_SEED: &str = "RAFT_FILE_SNAPSHOT_CRASH_SEED";

/// A small generator (splitmix64): the rounds are the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// What a snapshot should hold: its bytes and its configuration follow from these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Content {
    last: LogId,
    seed: u64,
    size_bytes: u64,
}

impl Content {
    fn line(self) -> String {
        let Self { last, seed, size_bytes } = self;
        format!("{} {} {seed} {size_bytes}", last.term, last.index)
    }

    fn parse(line: &str) -> Self {
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        let [term, index, seed, size_bytes] = numbers[..] else { panic!("what is {line:?}?") };
        Self { last: LogId::new(term, index), seed, size_bytes }
    }

    fn bytes(self) -> Vec<u8> {
        let mut random = Random(self.seed);
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < self.size_bytes {
            bytes.extend(random.next().to_be_bytes());
        }
        bytes.truncate(self.size_bytes as usize);
        bytes
    }

    fn configuration(self) -> IndexedConfiguration {
        let server = Server::voter(format!("server-{}", self.seed), "address");
        IndexedConfiguration {
            index: LogIndex(self.seed % 100),
            configuration: Configuration::new([server]),
        }
    }
}

/// Term, index and counter: the order of snapshots, from the id's text.
fn place(id: &SnapshotId) -> (u64, u64, u64) {
    let numbers: Vec<u64> = id.as_str().split('-').map(|number| number.parse().unwrap()).collect();
    (numbers[0], numbers[1], numbers[2])
}

async fn begin(store: &FileSnapshotStore, content: Content) -> Box<dyn SnapshotSink> {
    store.create(content.last, content.configuration()).await.unwrap()
}

/// Not a test: what the child does. Does nothing in an ordinary run.
#[tokio::test]
async fn child() {
    let (Ok(dir), Ok(seed)) = (env::var(CHILD_DIR), env::var(CHILD_SEED)) else { return };
    let mut random = Random(seed.parse().unwrap());
    let store = FileSnapshotStore::open(dir, RETAIN).unwrap();
    let mut last = store.list().await.unwrap().first().map_or(LogId::new(1, 0), |meta| meta.last);
    let say = |line: String| std::io::stdout().write_all(format!("\n{line}\n").as_bytes()).unwrap();
    let mut sinks: Vec<(Content, Box<dyn SnapshotSink>)> = Vec::new();
    loop {
        while sinks.len() < 2 {
            last.index.0 += 1 + random.below(10);
            last.term.0 += u64::from(random.below(5) == 0);
            // One in eight is an old one that is finished late.
            let back = if random.below(8) == 0 { random.below(30) } else { 0 };
            let index = LogIndex(last.index.0.saturating_sub(back).max(1));
            let size_bytes = match random.below(4) {
                0 => random.below(20),
                1 => random.below(3 << 20),
                _ => random.below(200_000),
            };
            let content =
                Content { last: LogId { index, ..last }, seed: random.next(), size_bytes };
            sinks.push((content, begin(&store, content).await));
        }
        let (content, mut sink) = sinks.remove(random.below(2) as usize);
        let bytes = content.bytes();
        let cut = random.below(content.size_bytes + 1) as usize;
        sink.write_all(&bytes[..cut]).await.unwrap();
        match random.below(10) {
            0 => sink.cancel().await,
            1 => drop(sink),
            _ => {
                sink.write_all(&bytes[cut..]).await.unwrap();
                say(format!("finish {}", content.line()));
                let meta = sink.finish().await.unwrap();
                say(format!("done {} {}", meta.id, content.line()));
            }
        }
    }
}

fn start(dir: &Path, seed: u64) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture"])
        .env(CHILD_DIR, dir)
        .env(CHILD_SEED, seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// What the child has said.
#[derive(Default)]
struct Said {
    /// Finished, by name, in this round or still there from earlier ones.
    finished: BTreeMap<(u64, u64, u64), Content>,
    under_way: Option<Content>,
    done: u64,
}

impl Said {
    /// Takes a line; whether it counts as a moment to kill at.
    fn take(&mut self, line: &str) -> bool {
        if let Some(content) = line.strip_prefix("finish ") {
            self.under_way = Some(Content::parse(content));
        } else if let Some((id, content)) =
            line.strip_prefix("done ").and_then(|said| said.split_once(' '))
        {
            let content = Content::parse(content);
            assert_eq!(self.under_way.take(), Some(content));
            self.finished.insert(place(&SnapshotId::new(id)), content);
            self.done += 1;
        } else {
            return false;
        }
        true
    }
}

#[tokio::test]
async fn finished_snapshots_survive_any_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(20_140_522);
    let mut said = Said::default();
    let (mut cut_short, mut complete, mut leftovers, mut verified) = (0, 0, 0, 0);
    for round in 0..ROUNDS {
        let mut child = start(dir.path(), random.next());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut until = random.below(20);
        while 0 < until {
            let line = lines.next().expect("the child ended by itself");
            until -= u64::from(said.take(&line));
        }
        // Up to a few writes' time, without a clock.
        for _ in 0..random.below(3_000_000) {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it still said; a line is one write to the pipe, whole or not there.
        for line in lines {
            said.take(&line);
        }
        let names = || {
            let names = fs::read_dir(dir.path()).unwrap().map(|item| item.unwrap().file_name());
            names.map(|name| name.into_string().unwrap()).filter(|name| name.ends_with(".tmp"))
        };
        leftovers += names().count();

        let store = FileSnapshotStore::open(&dir, RETAIN).unwrap();
        assert_eq!(names().count(), 0, "round {round}");
        let under_way = said.under_way.take();
        cut_short += u64::from(under_way.is_some());
        let mut listed = Vec::new();
        for meta in store.list().await.unwrap() {
            let place = place(&meta.id);
            let content = *said.finished.entry(place).or_insert_with(|| {
                complete += 1;
                under_way.unwrap_or_else(|| panic!("round {round}: nobody finished {}", meta.id))
            });
            let (opened, mut reader) = store.open(&meta.id).await.unwrap();
            assert_eq!(opened, meta);
            assert_eq!(meta.last, content.last);
            assert_eq!(meta.configuration, content.configuration());
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).await.unwrap();
            assert!(bytes == content.bytes(), "round {round}: {} has other bytes", meta.id);
            verified += 1;
            listed.push(place);
        }
        assert!(listed.is_sorted_by(|a, b| b < a), "round {round}: {listed:?}");
        // The newest are there, and whatever is not has been pushed out by newer ones.
        let newest: Vec<_> = said.finished.keys().rev().take(RETAIN).copied().collect();
        assert!(listed.starts_with(&newest), "round {round}: {listed:?} is not {newest:?}");
        // A name may come again once its snapshot is gone.
        said.finished.retain(|place, _| listed.contains(place));
    }
    println!(
        "{} finished, {cut_short} cut short while finishing, {complete} of them complete; \
         {leftovers} unfinished removed, {verified} verified",
        said.done
    );
    assert!(ROUNDS < said.done && 0 < cut_short && 0 < leftovers, "nothing was tested");
}
