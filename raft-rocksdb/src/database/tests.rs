use raft::{EntryPayload, Term};
use rocksdb::{
    perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats},
    statistics::{StatsLevel, Ticker},
};

use super::*;

fn commands(indices: RangeInclusive<u64>) -> Entries {
    let entry = |index| Entry {
        term: Term(1),
        index: LogIndex(index),
        payload: EntryPayload::Command(vec![7; 100].into()),
    };
    indices.map(entry).collect::<Vec<_>>().into()
}

/// Killing a process does not show that a write is synced; RocksDB's own count does.
#[test]
fn every_write_is_exactly_one_sync() {
    let dir = tempfile::tempdir().unwrap();
    let mut statistics = None;
    let database = Database::open_with(dir.path(), &RocksOptions::default(), |settings| {
        settings.enable_statistics();
        settings.set_statistics_level(StatsLevel::ExceptDetailedTimers);
        statistics = Some(settings.clone());
    })
    .unwrap();
    let statistics = statistics.unwrap();
    let syncs = || statistics.get_ticker_count(Ticker::WalFileSynced);
    let writes = || statistics.get_ticker_count(Ticker::WriteWithWal);
    let mut before = (syncs(), writes());
    let mut once = |what: &str, write: &dyn Fn() -> Result<(), StoreError>| {
        write().unwrap();
        let now = (syncs(), writes());
        assert_eq!((now.0 - before.0, now.1 - before.1), (1, 1), "{what}: syncs, writes");
        before = now;
    };
    once("append", &|| {
        database.append(&[commands(1..=10), commands(11..=11), commands(12..=500)], None)
    });
    once("append and note", &|| database.append(&[commands(501..=501)], Some(LogIndex(300))));
    once("truncate suffix", &|| database.truncate_suffix(LogIndex(400)));
    once("truncate prefix", &|| database.truncate_prefix(LogIndex(300)));
    once("vote", &|| {
        database.save_hard_state(&HardState { current_term: Term(1), voted_for: Some("a".into()) })
    });
    once("remove everything", &|| database.truncate_prefix(LogIndex(u64::MAX)));
    assert_eq!((database.bounds(), database.noted_commit()), (None, Some(LogIndex(300))));
}

/// See [`Database::write`].
#[test]
fn every_batch_ends_with_a_record_of_the_default_family() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::open(dir.path(), &RocksOptions::default()).unwrap();
    let last_batch = || {
        let (_, batch) = database.db.get_updates_since(0).unwrap().last().unwrap().unwrap();
        batch.data().to_vec()
    };
    // As RocksDB writes it: the kind of record, and two short byte strings with their lengths.
    let record = |key: &[u8]| {
        let value = database.db.get(key).unwrap().unwrap();
        assert!(key.len().max(value.len()) < 128, "a length takes one byte");
        [&[1, key.len() as u8], key, &[value.len() as u8], &value].concat()
    };
    let ends_with = |key: &[u8]| assert!(last_batch().ends_with(&record(key)), "{key:?}");
    ends_with(&keys::bounds());
    database.append(&[commands(1..=10)], None).unwrap();
    ends_with(&keys::bounds());
    database.append(&[commands(11..=12)], Some(LogIndex(5))).unwrap();
    ends_with(&keys::noted_commit());
    database.truncate_suffix(LogIndex(10)).unwrap();
    ends_with(&keys::bounds());
    database.truncate_prefix(LogIndex(7)).unwrap();
    ends_with(&keys::bounds());
    database.save_hard_state(&HardState { current_term: Term(1), voted_for: None }).unwrap();
    ends_with(&keys::hard_state());
    let (server, incarnation) = ("a".into(), 7);
    let identity = DiskIdentity { server, incarnation, starts: 1, was_rolled_back: false };
    database.save_disk_identity(&identity).unwrap();
    ends_with(&keys::disk());
}

/// Range deletions must not pile up in memory, where every read after another one sorts them all.
#[test]
fn many_small_compactions_are_written_out() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::open(dir.path(), &RocksOptions::default()).unwrap();
    let in_memory = || {
        let (log, what) = (database.log().unwrap(), "rocksdb.num-entries-active-mem-table");
        database.db.property_int_value_cf(log, what).unwrap().unwrap()
    };
    let rounds = 3 * u64::from(MAX_REMOVALS);
    let mut most = 0;
    for round in 0..rounds {
        database.append(&[commands(round * 2 + 1..=round * 2 + 2)], None).unwrap();
        database.truncate_prefix(LogIndex(round * 2 + 1)).unwrap();
        most = most.max(in_memory());
    }
    assert_eq!(database.bounds(), Some((LogIndex(2 * rounds), LogIndex(2 * rounds))));
    let last = database.read(LogIndex(2 * rounds)..=LogIndex(2 * rounds), 1).unwrap();
    assert_eq!(last, commands(2 * rounds..=2 * rounds));
    // Two entries and their removal each round; RocksDB may count a removal apart.
    let bound = u64::from(3 * MAX_REMOVALS);
    assert!(most <= bound, "{most} entries and removals in memory, the bound is {bound}");
}

/// How many records RocksDB steps over on this thread while `work` runs.
fn steps<T>(work: impl FnOnce() -> T) -> (T, u64) {
    set_perf_stats(PerfStatsLevel::EnableCount);
    let mut context = PerfContext::default();
    context.reset();
    let result = work();
    (result, context.metric(PerfMetric::NextOnMemtableCount))
}

/// Opening and reading must not wade through what was removed.
#[test]
fn what_was_removed_slows_nothing_down() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Database::open(dir.path(), &RocksOptions::default()).unwrap();
    let database = open();
    database.append(&[commands(1..=20_000)], None).unwrap();
    database.truncate_prefix(LogIndex(9_990)).unwrap();
    database.truncate_suffix(LogIndex(10_001)).unwrap();
    database.append(&[commands(10_001..=10_010)], None).unwrap();
    let all = LogIndex(9_991)..=LogIndex(u64::MAX);
    let (read, steps_taken) = steps(|| database.read(all.clone(), u64::MAX).unwrap());
    assert_eq!(read.len(), 20);
    assert!(steps_taken < 100, "reading took {steps_taken} steps");
    // The count counts: looking for the end by seeking does wade.
    let (_, steps_taken) = steps(|| {
        let mut records = database.db.raw_iterator_cf(database.log().unwrap());
        records.seek(keys::entry(LogIndex(10_011)));
        assert!(!records.valid());
    });
    assert!(9_000 < steps_taken, "seeking took {steps_taken} steps");
    drop(database);

    // Replaying RocksDB's log takes its time; looking at what is there does not.
    let database = open();
    assert_eq!(database.bounds(), Some((LogIndex(9_991), LogIndex(10_010))));
    let (checked, steps_taken) = steps(|| database.check());
    checked.unwrap();
    assert!(steps_taken < 100, "checking took {steps_taken} steps");
}

/// Whether RocksDB is writing files out or merging them, or about to.
fn is_busy(database: &Database) -> bool {
    let families = [database.log().unwrap(), database.db.cf_handle(keys::META).unwrap()];
    let works = ["num-running-flushes", "mem-table-flush-pending"];
    let works = works.into_iter().chain(["num-running-compactions", "compaction-pending"]);
    works.flat_map(|work| families.map(|family| (work, family))).any(|(work, family)| {
        let work = format!("rocksdb.{work}");
        database.db.property_int_value_cf(family, &work).unwrap() != Some(0)
    })
}

/// The mark rests on this: whatever RocksDB does with its files, it goes on counting where it was.
#[test]
fn the_sequence_number_is_the_same_after_any_end() {
    let dir = tempfile::tempdir().unwrap();
    let small = RocksOptions::default().with(|it| it.write_buffer_bytes = 64 << 10);
    let open = |dir: &Path| Database::open(dir, &small).unwrap();
    let (mut database, mut last) = (open(dir.path()), 0);
    for round in 0..12 {
        let before = database.db.latest_sequence_number();
        if round % 6 != 5 {
            database.append(&[commands(last + 1..=last + 300)], None).unwrap();
            database.truncate_suffix(LogIndex(last + 290)).unwrap();
            database.truncate_prefix(LogIndex(last + 200)).unwrap();
            last += 289;
            assert!(before < database.db.latest_sequence_number());
        }
        match round % 4 {
            0 => database.db.flush_cf(database.log().unwrap()).unwrap(),
            1 => {
                let everything = None::<&[u8]>;
                database.db.compact_range_cf(database.log().unwrap(), everything, everything);
            }
            2 => database.db.flush().unwrap(),
            _ => {}
        }
        let sequence = database.db.latest_sequence_number();
        if round % 2 == 0 {
            // As after a kill, if files do not change while they are copied.
            while is_busy(&database) {
                std::thread::yield_now();
            }
            database.marker = None;
            let killed = tempfile::tempdir().unwrap();
            for file in std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap) {
                std::fs::copy(file.path(), killed.path().join(file.file_name())).unwrap();
            }
            assert_eq!(open(killed.path()).db.latest_sequence_number(), sequence, "round {round}");
        }
        drop(database);
        database = open(dir.path());
        assert_eq!(database.db.latest_sequence_number(), sequence, "round {round}");
        assert_eq!(database.bounds().map(|(_, last)| last.0), Some(last));
    }
}
