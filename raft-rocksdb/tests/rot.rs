//! Every kind of file in a store's directory, damaged byte by byte: is it refused, harmless, or missed?
//!
//! Refused: the store does not open, or the call that meets the damage fails. Harmless: all that was
//! acknowledged is there. Missed: it opens, and something else is there.
#![allow(clippy::unwrap_used, reason = "a failed test says where")]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use common::{ADVICE, MARK, command, commands, copy_files, refusal};
use raft::{DiskIdentity, Entries, HardState, LogIndex, LogStore, StableStore, StoreError, Term};
use raft_rocksdb::{RocksOptions, RocksStore};
use rocksdb::{DB, Options};
use tokio::time::{sleep, timeout};

const KIB: usize = 1 << 10;

/// Of RocksDB's log format.
const BLOCK: usize = 32 * KIB;
const HEADER: usize = 7;

/// Small buffers, so that little is needed to have files of every kind.
fn options() -> RocksOptions {
    RocksOptions::default().with(|it| {
        it.write_buffer_bytes = 64 * KIB;
        it.block_cache_bytes = 64 * KIB;
    })
}

fn open(dir: &Path) -> RocksStore {
    RocksStore::open(dir, options()).unwrap_or_else(|error| panic!("{error}"))
}

/// All that a store remembers.
#[derive(Clone, Debug, PartialEq)]
struct Memory {
    entries: Entries,
    noted: Option<LogIndex>,
    hard_state: Option<HardState>,
    disk: Option<DiskIdentity>,
}

async fn memory(store: &RocksStore) -> Result<Memory, StoreError> {
    let reader = store.log_store().reader();
    let entries = match reader.bounds().await? {
        None => Entries::default(),
        Some((first, last)) => reader.read(first..=last, u64::MAX).await?,
    };
    let mut stable = store.stable_store();
    Ok(Memory {
        entries,
        noted: reader.noted_commit().await?,
        hard_state: stable.hard_state().await?,
        disk: stable.disk_identity().await?,
    })
}

fn vote(term: u64) -> HardState {
    HardState { current_term: Term(term), voted_for: Some("a".into()) }
}

fn disk(starts: u32) -> DiskIdentity {
    DiskIdentity { server: "a".into(), incarnation: 7, starts, was_rolled_back: false }
}

/// One entry a write, as many as there are indices.
async fn append_each(store: &RocksStore, term: u64, indices: std::ops::RangeInclusive<u64>) {
    let mut log = store.log_store();
    for index in indices {
        log.append(&[commands(term, index..=index)]).await.unwrap();
    }
}

fn names(dir: &Path) -> Vec<String> {
    let files = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// RocksDB's write-ahead logs, from the oldest to the newest: their names are of one length.
fn logs(dir: &Path) -> Vec<PathBuf> {
    let logs = names(dir).into_iter().filter(|name| name.ends_with(".log"));
    logs.map(|name| dir.join(name)).collect()
}

/// Appends large entries until it is enough; and saves votes, of which the last lies in the second block of
/// `log`, the newest one at first. Gives the last index.
async fn write_until(
    store: &RocksStore,
    first: u64,
    log: &Path,
    is_enough: impl Fn() -> bool,
) -> u64 {
    let (mut entries, mut stable) = (store.log_store(), store.stable_store());
    for index in first.. {
        if fs::metadata(log).is_ok_and(|log| log.len() < (BLOCK + 8 * KIB) as u64) {
            stable.save_hard_state(&vote(index)).await.unwrap();
        }
        let entry = command(3, index, vec![index as u8; KIB]);
        entries.append(&[vec![entry].into()]).await.unwrap();
        if is_enough() {
            return index;
        }
    }
    unreachable!("there are many indices")
}

async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let waited = timeout(Duration::from_secs(30), async {
        while !is_so() {
            sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "not in time: {what}");
}

/// A store with a past: opened three times, with removals at both ends, a note, and sorted files of both
/// column families; then a finished write-ahead log that is still needed, with the last vote near
/// its end; and 50 writes in the newest one.
async fn used(dir: &Path) -> RocksStore {
    for life in 1..=2 {
        let store = open(dir);
        let (mut log, mut stable) = (store.log_store(), store.stable_store());
        stable.save_disk_identity(&disk(life)).await.unwrap();
        if life == 1 {
            log.note_commit(LogIndex(10));
            log.append(&[commands(1, 1..=20)]).await.unwrap();
        } else {
            log.truncate_prefix(LogIndex(3)).await.unwrap();
            log.truncate_suffix(LogIndex(15)).await.unwrap();
            log.append(&[commands(2, 15..=30)]).await.unwrap();
        }
    }
    let store = open(dir);
    store.stable_store().save_disk_identity(&disk(3)).await.unwrap();
    let first_log = logs(dir).pop().unwrap();
    let is_full = || logs(dir).last() != Some(&first_log);
    let last = write_until(&store, 31, &first_log, is_full).await;
    append_each(&store, 3, last + 1..=last + 45).await;
    let mut log = store.log_store();
    log.note_commit(LogIndex(last + 40));
    log.append(&[commands(3, last + 46..=last + 50)]).await.unwrap();
    log.truncate_suffix(LogIndex(last + 48)).await.unwrap();
    append_each(&store, 4, last + 48..=last + 50).await;
    wait_until("older logs are removed", || logs(dir).len() <= 2).await;
    let logs = logs(dir);
    assert_eq!(logs[0], first_log, "the one with the vote is still there");
    assert!(fs::metadata(&logs[1]).unwrap().len() < BLOCK as u64, "all of it is in the last block");
    store
}

/// Waits until the mark has caught up with what was written to the open store in `dir`.
async fn wait_for_mark(dir: &Path) {
    let mut options = Options::default();
    // A database that has this on is only ever opened with it.
    options.set_track_and_verify_wals_in_manifest(true);
    let families = ["default", "log"];
    let db = DB::open_cf_for_read_only(&options, dir, families, false).unwrap();
    let says = format!("durable through {}\n", db.latest_sequence_number());
    wait_until(&says, || {
        fs::read_to_string(dir.join(MARK)).is_ok_and(|text| text.starts_with(&says))
    })
    .await;
}

const WAL: &str = "write-ahead log";
const MANIFEST: &str = "MANIFEST";

fn kind(name: &str) -> &'static str {
    match name {
        "CURRENT" => "CURRENT",
        "IDENTITY" => "IDENTITY",
        "LOCK" => "LOCK",
        "RAFT-ROCKSDB" => "RAFT-ROCKSDB",
        MARK => MARK,
        _ if name.ends_with(".log") => WAL,
        _ if name.ends_with(".sst") => "sorted file",
        _ if name.starts_with("MANIFEST-") => MANIFEST,
        _ if name.starts_with("OPTIONS-") => "OPTIONS",
        _ if name.starts_with("LOG") => "LOG",
        _ => panic!("{name} is of no known kind"),
    }
}

/// Where the headers of the records lie in a write-ahead log or a manifest: checksum, length, kind.
fn headers(bytes: &[u8]) -> Vec<usize> {
    let (mut headers, mut at) = (Vec::new(), 0);
    while at + HEADER <= bytes.len() {
        if BLOCK - at % BLOCK < HEADER {
            at = at.next_multiple_of(BLOCK);
            continue;
        }
        headers.push(at);
        at += HEADER + usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
    }
    headers
}

/// What is done to a file: a byte is combined with a mask by exclusive or.
#[derive(Clone, Debug)]
struct Flip {
    name: String,
    at: usize,
    mask: u8,
}

/// Every bit of the lengths and kinds of RocksDB's records; and all of the bits of every byte that recovery goes by: all
/// bytes of small files, both ends and a sample of large ones. Of files that nothing reads, a smaller sample.
fn flips(dir: &Path) -> Vec<Flip> {
    let mut flips = Vec::new();
    for name in names(dir) {
        let bytes = fs::read(dir.join(&name)).unwrap();
        let (end, step) = match kind(&name) {
            "OPTIONS" | "LOG" => (16, 499),
            "sorted file" => (KIB / 8, 31),
            _ if bytes.len() < BLOCK => (BLOCK, 1),
            _ => (KIB / 8, 31),
        };
        // The lock is empty: a byte is put there.
        let length = bytes.len().max(1);
        let is_tried = |at: &usize| *at < end || length - *at <= end || at.is_multiple_of(step);
        let flip = |at, mask| Flip { name: name.clone(), at, mask };
        flips.extend((0..length).filter(is_tried).map(|at| flip(at, 0xff)));
        if matches!(kind(&name), WAL | MANIFEST) {
            let bits = |at| (0..u8::BITS).map(move |bit| (at, 1 << bit));
            let bits =
                headers(&bytes).into_iter().flat_map(|at| at + 4..at + HEADER).flat_map(bits);
            flips.extend(bits.map(|(at, mask)| flip(at, mask)));
        }
    }
    flips
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Refused,
    Harmless,
    Missed(Memory),
}

#[derive(Clone, Copy, PartialEq)]
enum Opened {
    ToRead,
    ToWrite,
}

/// What becomes of the store in `dir`, which is changed by it.
async fn outcome(dir: &Path, acknowledged: &Memory, opened: Opened) -> Outcome {
    let store = match opened {
        Opened::ToRead => RocksStore::open_read_only(dir, options()),
        Opened::ToWrite => RocksStore::open(dir, options()),
    };
    let found = match store {
        Ok(store) => memory(&store).await,
        Err(error) => Err(error),
    };
    match found {
        Ok(found) if found == *acknowledged => Outcome::Harmless,
        Ok(found) => Outcome::Missed(found),
        Err(error) => {
            assert_eq!(error.to_string().lines().count(), 1, "{error}");
            Outcome::Refused
        }
    }
}

/// A copy of `dir`, as long as no file is written to: RocksDB replaces files, and changes none that it has
/// closed.
fn linked(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in names(dir) {
        fs::hard_link(dir.join(&name), copy.path().join(&name)).unwrap();
    }
    copy
}

/// Opens a copy of the store in `dir` with each of the flips.
fn damage(
    dir: &Path,
    flips: &[Flip],
    acknowledged: &Memory,
    opened: Opened,
) -> Vec<(Flip, Outcome)> {
    let threads = thread::available_parallelism().unwrap().get();
    let work = |worker: usize| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut copy = linked(dir);
        let mut outcomes = Vec::new();
        for flip in flips.iter().skip(worker).step_by(threads) {
            if opened == Opened::ToWrite {
                copy = linked(dir);
            }
            let (whole, damaged) = (dir.join(&flip.name), copy.path().join(&flip.name));
            let mut bytes = fs::read(&whole).unwrap();
            bytes.resize(bytes.len().max(flip.at + 1), 0);
            bytes[flip.at] ^= flip.mask;
            fs::remove_file(&damaged).unwrap();
            fs::write(&damaged, bytes).unwrap();
            let outcome = runtime.block_on(outcome(copy.path(), acknowledged, opened));
            outcomes.push((flip.clone(), outcome));
            if opened == Opened::ToRead {
                fs::remove_file(&damaged).unwrap();
                fs::hard_link(whole, damaged).unwrap();
            }
        }
        outcomes
    };
    thread::scope(|scope| {
        let start = |worker| scope.spawn(move || work(worker));
        let workers: Vec<_> = (0..threads).map(start).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

#[derive(Debug, Default)]
struct Count {
    flips: usize,
    refused: usize,
    harmless: usize,
    missed: usize,
}

/// What became of them, by the kind of file; also said.
fn table(title: &str, outcomes: &[(Flip, Outcome)]) -> BTreeMap<&'static str, Count> {
    let mut counts = BTreeMap::<_, Count>::new();
    for (flip, outcome) in outcomes {
        let count = counts.entry(kind(&flip.name)).or_default();
        count.flips += 1;
        match outcome {
            Outcome::Refused => count.refused += 1,
            Outcome::Harmless => count.harmless += 1,
            Outcome::Missed(_) => count.missed += 1,
        }
    }
    println!("{title:28} {:>7} {:>8} {:>9} {:>7}", "flips", "refused", "harmless", "missed");
    for (kind, Count { flips, refused, harmless, missed }) in &counts {
        println!("  {kind:26} {flips:7} {refused:8} {harmless:9} {missed:7}");
    }
    counts
}

fn missed(outcomes: &[(Flip, Outcome)]) -> Vec<&Flip> {
    let is_missed = |it: &&(Flip, Outcome)| matches!(it.1, Outcome::Missed(_));
    outcomes.iter().filter(is_missed).map(|(flip, _)| flip).collect()
}

/// Those in the headers of RocksDB's records.
fn in_headers(flips: &[Flip]) -> Vec<Flip> {
    flips.iter().filter(|flip| flip.mask != 0xff).cloned().collect()
}

#[tokio::test]
async fn no_flipped_byte_in_any_file_is_missed() {
    let (stopped, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = used(stopped.path()).await;
    let acknowledged = memory(&store).await.unwrap();
    wait_for_mark(stopped.path()).await;
    copy_files(stopped.path(), killed.path());
    drop(store);

    let all = flips(stopped.path());
    let some: Vec<_> = all.iter().step_by(23).cloned().collect();
    for (title, dir, flips, opened) in [
        ("stopped, opened to read", &stopped, &all, Opened::ToRead),
        ("stopped, opened to write", &stopped, &some, Opened::ToWrite),
        ("killed, opened to read", &killed, &in_headers(&flips(killed.path())), Opened::ToRead),
    ] {
        let outcomes = damage(dir.path(), flips, &acknowledged, opened);
        let counts = table(title, &outcomes);
        assert_eq!(missed(&outcomes).len(), 0, "{:?}", missed(&outcomes));
        // What recovery goes by is refused wherever it is damaged, and what it does not is not.
        for (kind, count) in counts {
            match kind {
                "IDENTITY" | "OPTIONS" | "LOG" | "LOCK" => assert_eq!(count.refused, 0, "{kind}"),
                "RAFT-ROCKSDB" => {}
                _ => assert_eq!(count.harmless, 0, "{kind}"),
            }
        }
    }
}

/// RocksDB does not miss a write-ahead log that is needed, if its manifest seems to end before the log was
/// finished; nor the sorted files that took its place.
#[tokio::test]
async fn a_manifest_that_seems_to_end_early_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    append_each(&open(dir.path()), 3, 1..=10).await;
    let store = open(dir.path());
    let log = logs(dir.path()).pop().unwrap();
    let last = write_until(&store, 11, &log, || !log.exists()).await;
    // Now its votes are in sorted files, and nobody needs its entries.
    store.log_store().truncate_prefix(LogIndex(last - 1)).await.unwrap();
    append_each(&store, 3, last + 1..=last + 10).await;
    let acknowledged = memory(&store).await.unwrap();
    drop(store);
    let mut flips = in_headers(&flips(dir.path()));
    flips.retain(|flip| kind(&flip.name) == MANIFEST);
    let outcomes = damage(dir.path(), &flips, &acknowledged, Opened::ToRead);
    table("manifest", &outcomes);
    assert_eq!(missed(&outcomes).len(), 0, "{:?}", missed(&outcomes));
}

/// The documented window: the writes between the last mark and a kill.
#[tokio::test]
async fn only_what_was_written_after_the_mark_can_be_missed_after_a_kill() {
    let (original, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = used(original.path()).await;
    wait_for_mark(original.path()).await;
    let mark = fs::read(original.path().join(MARK)).unwrap();
    let before = memory(&store).await.unwrap();
    let last = before.entries.last_id().unwrap().index.0;
    append_each(&store, 4, last + 1..=last + 10).await;
    let acknowledged = memory(&store).await.unwrap();
    copy_files(original.path(), killed.path());
    fs::write(killed.path().join(MARK), mark).unwrap();
    let outcomes =
        damage(killed.path(), &in_headers(&flips(killed.path())), &acknowledged, Opened::ToRead);
    let counts = table("killed after the mark", &outcomes);
    assert_ne!(counts[WAL].missed, 0, "there is a window, or there is no test");
    for (flip, outcome) in outcomes {
        let Outcome::Missed(found) = outcome else { continue };
        assert_eq!(killed.path().join(&flip.name), logs(killed.path())[1], "{flip:?}");
        let (kept, of) = (found.entries.len(), before.entries.len()..acknowledged.entries.len());
        assert!(of.contains(&kept), "{flip:?}: {kept} of {of:?}");
        assert!(acknowledged.entries.starts_with(&found.entries), "{flip:?}");
        assert_eq!(Memory { entries: before.entries.clone(), ..found }, before, "{flip:?}");
    }
}

/// Forty writes, of which thirty lie behind a length that leads beyond the end of the file.
#[tokio::test]
async fn a_flipped_length_in_the_last_block_is_refused_after_a_stop_and_after_a_kill() {
    for is_killed in [false, true] {
        let (original, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = open(original.path());
        append_each(&store, 1, 1..=40).await;
        if is_killed {
            wait_for_mark(original.path()).await;
            copy_files(original.path(), dir.path());
            drop(store);
        } else {
            drop(store);
            copy_files(original.path(), dir.path());
        }
        let wal = logs(dir.path()).pop().unwrap();
        let mut bytes = fs::read(&wal).unwrap();
        let nth = headers(&bytes);
        bytes[nth[nth.len() - 30] + 5] = 0x80;
        fs::write(&wal, bytes).unwrap();
        let error = refusal(dir.path());
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
        let error = error.to_string();
        let starts = format!("the database in {} is damaged: it ends at ", dir.path().display());
        assert!(error.starts_with(&starts), "{error}");
        assert!(error.contains("was durable (says its file RAFT-DURABLE)"), "{error}");
        assert!(error.ends_with(ADVICE), "{error}");
    }
}

/// A power cut may take the end of a write that was not acknowledged, but nothing before the mark.
#[tokio::test]
async fn a_log_that_is_cut_behind_the_mark_opens_and_one_that_is_cut_before_it_does_not() {
    let original = tempfile::tempdir().unwrap();
    let store = open(original.path());
    append_each(&store, 1, 1..=20).await;
    wait_for_mark(original.path()).await;
    let mark = fs::read(original.path().join(MARK)).unwrap();
    let wal = logs(original.path()).pop().unwrap();
    let marked = fs::metadata(&wal).unwrap().len();
    append_each(&store, 1, 21..=22).await;
    let whole = fs::read(&wal).unwrap();
    let end = whole.len() as u64;
    for length in [marked - 1, marked].into_iter().chain((marked..end).step_by(17)).chain([end]) {
        let dir = tempfile::tempdir().unwrap();
        copy_files(original.path(), dir.path());
        fs::write(dir.path().join(MARK), &mark).unwrap();
        let wal = dir.path().join(wal.file_name().unwrap());
        fs::write(wal, &whole[..length as usize]).unwrap();
        if length < marked {
            refusal(dir.path());
            continue;
        }
        let store = open(dir.path());
        let kept = memory(&store).await.unwrap().entries.len() as u64;
        assert!((20..=22).contains(&kept), "cut at {length}: {kept}");
        append_each(&store, 2, kept + 1..=kept + 1).await;
        drop(store);
        assert_eq!(memory(&open(dir.path())).await.unwrap().entries.len() as u64, kept + 1);
    }
}

/// The files of an older copy, under the mark of what came after it.
#[tokio::test]
async fn a_mark_ahead_of_the_database_is_refused_and_nothing_changed() {
    let (dir, older) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let fill = async |indices| {
        let store = open(dir.path());
        append_each(&store, 1, indices).await;
    };
    fill(1..=10).await;
    copy_files(dir.path(), older.path());
    fill(11..=20).await;
    fs::copy(dir.path().join(MARK), older.path().join(MARK)).unwrap();
    let files = || {
        let read = |name: String| (fs::read(older.path().join(&name)).unwrap(), name);
        names(older.path()).into_iter().map(read).collect::<Vec<_>>()
    };
    let before = files();
    let refusals = [
        RocksStore::open(older.path(), options()).unwrap_err(),
        RocksStore::open_existing(older.path(), options()).unwrap_err(),
        RocksStore::open_read_only(older.path(), options()).unwrap_err(),
    ];
    for refusal in refusals {
        assert!(matches!(refusal, StoreError::Corrupt { .. }), "{refusal:?}");
        let says = format!("the database in {} is damaged: it ends at", older.path().display());
        assert!(refusal.to_string().starts_with(&says), "{refusal}");
        assert!(files() == before, "files were changed");
    }
    // The whole of an older copy is at one with itself: that is for the others to notice.
    let whole = tempfile::tempdir().unwrap();
    copy_files(dir.path(), whole.path());
    fill(21..=30).await;
    assert_eq!(memory(&open(whole.path())).await.unwrap().entries, commands(1, 1..=20));
}

#[tokio::test]
async fn a_store_without_a_mark_opens_and_gets_one() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join(MARK);
    append_each(&open(dir.path()), 1, 1..=10).await;
    fs::remove_file(&mark).unwrap();
    let store = RocksStore::open_read_only(dir.path(), options()).unwrap();
    assert_eq!(memory(&store).await.unwrap().entries, commands(1, 1..=10));
    drop(store);
    assert!(!mark.exists(), "who only reads writes nothing");
    let store = open(dir.path());
    assert_eq!(memory(&store).await.unwrap().entries, commands(1, 1..=10));
    assert!(mark.exists());
}

/// A copy without `--delete`: the older one's write-ahead log stays, whose last write was cut short. RocksDB
/// does not read it.
#[tokio::test]
async fn a_copy_that_was_made_over_an_older_one_opens() {
    let (original, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(original.path());
    append_each(&store, 1, 1..=10).await;
    copy_files(original.path(), copy.path());
    let torn = logs(copy.path()).pop().unwrap();
    let bytes = fs::read(&torn).unwrap();
    fs::write(&torn, &bytes[..bytes.len() - 1]).unwrap();
    append_each(&store, 1, 11..=20).await;
    drop(store);
    // Writes the log out, and begins another.
    append_each(&open(original.path()), 1, 21..=30).await;
    assert!(!original.path().join(torn.file_name().unwrap()).exists());
    copy_files(original.path(), copy.path());
    assert!(torn.exists());
    let store = RocksStore::open_read_only(copy.path(), options()).unwrap();
    assert_eq!(memory(&store).await.unwrap().entries, commands(1, 1..=30));
    drop(store);
    let store = open(copy.path());
    assert_eq!(memory(&store).await.unwrap().entries, commands(1, 1..=30));
}

#[tokio::test]
async fn a_damaged_mark_is_refused_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    append_each(&open(dir.path()), 1, 1..=10).await;
    let mark = dir.path().join(MARK);
    let whole = fs::read(&mark).unwrap();
    for damaged in [&b""[..], &whole[..whole.len() - 1], b"what?\n"] {
        fs::write(&mark, damaged).unwrap();
        assert_eq!(
            refusal(dir.path()).to_string(),
            format!(
                "the file RAFT-DURABLE in {} is damaged: whether the database still has all that was \
                 acknowledged cannot be told: if others of its cluster are well, let this server \
                 rejoin them with an empty directory; if it is the only one, remove that file, and \
                 what is there is opened as it is",
                dir.path().display()
            )
        );
    }
    fs::remove_file(&mark).unwrap();
    assert_eq!(memory(&open(dir.path())).await.unwrap().entries, commands(1, 1..=10));
}
