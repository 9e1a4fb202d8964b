//! Damaged, foreign and unreachable directories: what is noticed, when, and in which words.
#![allow(clippy::unwrap_used, reason = "a failed test says where")]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use common::{
    ADVICE, BOUNDS_KEY, DISK_KEY, FORMAT_KEY, HARD_STATE_KEY, MARK, NOTED_COMMIT_KEY, all, bounds,
    command, commands, copy_files, entry_key, noted, open, raw, refusal,
};
use raft::{DiskIdentity, HardState, LogIndex, LogStore, StableStore, StoreError, Term};
use rocksdb::DB;

/// A closed store with ten entries, of which eight are noted as committed, and a vote.
async fn filled() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let saved = HardState { current_term: Term(1), voted_for: Some("a".into()) };
    store.stable_store().save_hard_state(&saved).await.unwrap();
    let disk =
        DiskIdentity { server: "a".into(), incarnation: 7, starts: 1, was_rolled_back: false };
    store.stable_store().save_disk_identity(&disk).await.unwrap();
    let mut log = store.log_store();
    log.note_commit(LogIndex(8));
    log.append(&[commands(1, 1..=10)]).await.unwrap();
    dir
}

fn flip(db: &DB, cf: &str, key: &[u8]) {
    let cf = db.cf_handle(cf).unwrap();
    let mut value = db.get_cf(cf, key).unwrap().unwrap();
    *value.last_mut().unwrap() ^= 1;
    db.put_cf(cf, key, value).unwrap();
}

/// The text without the checksums.
fn text(error: &StoreError) -> String {
    let text = error.to_string();
    match text.split_once("checksum ") {
        None => text,
        Some((before, after)) => {
            let stored = &after[..8];
            let (_, after) = after.split_once("have ").unwrap();
            assert_ne!(stored, &after[..8]);
            format!("{before}checksum{}", &after[8..])
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_in_the_middle_is_found_by_the_read_that_meets_it() {
    let dir = filled().await;
    flip(&raw(dir.path()), "log", &entry_key(5));
    let reader = open(dir.path()).log_store().reader();
    assert_eq!(reader.read(LogIndex(1)..=LogIndex(4), u64::MAX).await.unwrap().len(), 4);
    assert_eq!(reader.read(LogIndex(6)..=LogIndex(10), u64::MAX).await.unwrap().len(), 5);
    for start in [1, 5] {
        let error = reader.read(LogIndex(start)..=LogIndex(10), u64::MAX).await.unwrap_err();
        let dir = dir.path().display();
        assert_eq!(text(&error), format!("log entry 5 in {dir} is damaged: checksum; {ADVICE}"));
    }
}

#[tokio::test]
async fn a_flipped_bit_at_either_end_or_beside_the_log_is_found_by_opening() {
    for (cf, key, what) in [
        ("log", entry_key(1), "log entry 1"),
        ("log", entry_key(10), "log entry 10"),
        ("default", HARD_STATE_KEY.to_vec(), "the term and vote"),
        ("default", BOUNDS_KEY.to_vec(), "the bounds record"),
        ("default", NOTED_COMMIT_KEY.to_vec(), "the noted commit index"),
        ("default", DISK_KEY.to_vec(), "the identity of the disk"),
        ("default", FORMAT_KEY.to_vec(), "the format record"),
    ] {
        let dir = filled().await;
        flip(&raw(dir.path()), cf, &key);
        let error = refusal(dir.path());
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
        let dir = dir.path().display();
        assert_eq!(text(&error), format!("{what} in {dir} is damaged: checksum; {ADVICE}"));
    }
}

#[tokio::test]
async fn what_is_missing_is_damage_and_not_an_end() {
    for (cf, key, what) in [
        ("log", entry_key(1), "log entry 1"),
        ("log", entry_key(10), "log entry 10"),
        ("default", BOUNDS_KEY.to_vec(), "the bounds record"),
        ("default", FORMAT_KEY.to_vec(), "the format record (key \"\\0format\")"),
    ] {
        let dir = filled().await;
        let db = raw(dir.path());
        db.delete_cf(db.cf_handle(cf).unwrap(), key).unwrap();
        drop(db);
        let error = refusal(dir.path());
        let dir = dir.path().display();
        assert_eq!(text(&error), format!("{what} in {dir} is damaged: it is missing; {ADVICE}"));
    }

    let dir = filled().await;
    let db = raw(dir.path());
    db.delete_cf(db.cf_handle("log").unwrap(), entry_key(7)).unwrap();
    drop(db);
    let reader = open(dir.path()).log_store().reader();
    for range in [LogIndex(1)..=LogIndex(10), LogIndex(7)..=LogIndex(7)] {
        let error = reader.read(range, u64::MAX).await.unwrap_err();
        let dir = dir.path().display();
        assert_eq!(
            text(&error),
            format!("log entry 7 in {dir} is damaged: it is missing; {ADVICE}")
        );
    }
}

/// A log without what it had noted as committed would be amnesia.
#[tokio::test]
async fn a_log_that_ends_before_its_noted_commit_index_is_damage() {
    let (dir, longer) = (filled().await, filled().await);
    let mut log = open(longer.path()).log_store();
    log.note_commit(LogIndex(11));
    log.append(&[commands(1, 11..=11)]).await.unwrap();
    drop(log);
    let note = raw(longer.path()).get(NOTED_COMMIT_KEY).unwrap().unwrap();
    raw(dir.path()).put(NOTED_COMMIT_KEY, note).unwrap();
    assert_eq!(
        refusal(dir.path()).to_string(),
        format!(
            "the noted commit index in {} is damaged: it is 11, but the log ends at entry 10; {ADVICE}",
            dir.path().display()
        )
    );
}

#[tokio::test]
async fn a_store_without_a_note_has_noted_nothing() {
    let dir = filled().await;
    raw(dir.path()).delete(NOTED_COMMIT_KEY).unwrap();
    let mut log = open(dir.path()).log_store();
    assert_eq!(noted(&log).await, None);
    log.append(&[commands(1, 11..=11)]).await.unwrap();
    assert_eq!(noted(&log).await, None);
}

#[tokio::test]
async fn an_entry_in_another_entrys_place_is_found() {
    let dir = filled().await;
    let db = raw(dir.path());
    let log = db.cf_handle("log").unwrap();
    let other = db.get_cf(log, entry_key(6)).unwrap().unwrap();
    db.put_cf(log, entry_key(5), other).unwrap();
    drop(db);
    let log = open(dir.path()).log_store();
    let error = log.reader().read(LogIndex(5)..=LogIndex(5), 1).await.unwrap_err();
    assert!(error.to_string().starts_with("log entry 5 in "), "{error}");
}

#[tokio::test]
async fn a_term_that_falls_is_damage() {
    let dir = filled().await;
    let mut log = open(dir.path()).log_store();
    log.append(&[commands(9, 11..=11)]).await.unwrap();
    log.append(&[vec![command(8, 12, "x")].into()]).await.unwrap();
    log.append(&[commands(9, 13..=13)]).await.unwrap();
    let error = log.reader().read(LogIndex(1)..=LogIndex(13), u64::MAX).await.unwrap_err();
    let expected = format!(
        "log entry 12 in {} is damaged: its term is 8, after an entry of term 9; {ADVICE}",
        dir.path().display()
    );
    assert_eq!(error.to_string(), expected);
}

/// The newest file of RocksDB with this extension.
fn newest(dir: &Path, extension: &str) -> PathBuf {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|name| name == extension));
    files.max().unwrap_or_else(|| panic!("no {extension} file"))
}

fn flip_file(path: &Path, position: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[position] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_flipped_bit_in_a_flushed_file_is_found() {
    let dir = filled().await;
    let db = raw(dir.path());
    db.flush_cf(db.cf_handle("log").unwrap()).unwrap();
    drop(db);
    let file = newest(dir.path(), "sst");
    let found = fs::read(&file).unwrap();
    let needle = b"command 5";
    let at = found.windows(needle.len()).position(|bytes| bytes == needle).unwrap();
    flip_file(&file, at);
    let error = match raft_rocksdb::RocksStore::open(dir.path(), Default::default()) {
        Err(error) => error,
        Ok(store) => {
            let reader = store.log_store().reader();
            reader.read(LogIndex(1)..=LogIndex(10), u64::MAX).await.unwrap_err()
        }
    };
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
    assert!(error.to_string().ends_with(ADVICE), "{error}");
}

/// A store that was not closed, as after a power cut, with one write-ahead log of three appends.
/// Gives the length of the log after each. The mark is of before them all.
async fn torn() -> (tempfile::TempDir, PathBuf, Vec<u64>) {
    let (original, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut log = open(original.path()).log_store();
    let mark = fs::read(original.path().join(MARK)).unwrap();
    let wal = newest(original.path(), "log");
    let mut lengths = Vec::new();
    for number in 0..3 {
        log.append(&[commands(1, number * 10 + 1..=number * 10 + 10)]).await.unwrap();
        lengths.push(fs::metadata(&wal).unwrap().len());
    }
    copy_files(original.path(), copy.path());
    fs::write(copy.path().join(MARK), mark).unwrap();
    let wal = copy.path().join(wal.file_name().unwrap());
    (copy, wal, lengths)
}

#[tokio::test]
async fn a_write_that_was_cut_short_is_dropped_whole() {
    let (dir, wal, lengths) = torn().await;
    let whole = fs::read(&wal).unwrap();
    let last = lengths[1]..lengths[2];
    for length in last.clone().step_by(29).chain([last.end - 1]) {
        let untouched = tempfile::tempdir().unwrap();
        copy_files(dir.path(), untouched.path());
        let wal = untouched.path().join(wal.file_name().unwrap());
        fs::write(&wal, &whole[..length as usize]).unwrap();
        let mut log = open(untouched.path()).log_store();
        assert_eq!(all(&log).await, commands(1, 1..=20), "cut at {length}");
        log.append(&[commands(2, 21..=22)]).await.unwrap();
        drop(log);
        assert_eq!(bounds(&open(untouched.path()).log_store()).await, Some((1, 22)));
    }
}

/// Wherever the power is cut, a reset leaves the whole log, with its note, or none of it.
#[tokio::test]
async fn a_reset_that_was_cut_short_has_not_happened() {
    let original = tempfile::tempdir().unwrap();
    let mut log = open(original.path()).log_store();
    let mark = fs::read(original.path().join(MARK)).unwrap();
    log.note_commit(LogIndex(15));
    log.append(&[commands(1, 1..=20)]).await.unwrap();
    let wal = newest(original.path(), "log");
    let before = fs::metadata(&wal).unwrap().len();
    log.truncate_prefix(LogIndex(u64::MAX)).await.unwrap();
    let whole = fs::read(&wal).unwrap();
    assert!((before as usize) < whole.len(), "a reset is a record of the log");
    for length in before as usize..=whole.len() {
        let copy = tempfile::tempdir().unwrap();
        copy_files(original.path(), copy.path());
        fs::write(copy.path().join(MARK), &mark).unwrap();
        fs::write(copy.path().join(wal.file_name().unwrap()), &whole[..length]).unwrap();
        let mut log = open(copy.path()).log_store();
        let expected = if length < whole.len() { Some((1, 20)) } else { None };
        assert_eq!(bounds(&log).await, expected, "cut at {length}");
        assert_eq!(noted(&log).await, Some(15), "cut at {length}");
        let next = if expected.is_some() { 21 } else { 1000 };
        log.append(&[commands(2, next..=next)]).await.unwrap();
    }
}

#[tokio::test]
async fn zeros_behind_the_last_write_are_no_damage() {
    let (dir, wal, lengths) = torn().await;
    let mut bytes = fs::read(&wal).unwrap();
    bytes.truncate(lengths[2] as usize);
    bytes.resize(bytes.len() + 100_000, 0);
    fs::write(&wal, bytes).unwrap();
    assert_eq!(bounds(&open(dir.path()).log_store()).await, Some((1, 30)));
}

#[tokio::test]
async fn damage_to_an_acknowledged_write_stops_the_opening() {
    // In the payload of the first, the middle and the last append.
    for nth in 0..3 {
        let (dir, wal, lengths) = torn().await;
        flip_file(&wal, lengths[nth] as usize - 20);
        let error = refusal(dir.path());
        let expected = format!("the database in {} is damaged: Corruption: ", dir.path().display());
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert!(error.to_string().ends_with(ADVICE), "{error}");
    }
}

/// Whatever of RocksDB's own files rots or is lost, it is called damage, unless nothing of the log is
/// lost by it; also by who only looks.
#[tokio::test]
async fn damage_to_the_files_that_rocksdb_keeps_is_called_damage() {
    let dir = filled().await;
    let db = raw(dir.path());
    db.flush_cf(db.cf_handle("log").unwrap()).unwrap();
    drop(db);
    let names = fs::read_dir(dir.path()).unwrap();
    let names: Vec<_> =
        names.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    let is_ours = |name: &&String| {
        name.starts_with("MANIFEST") || *name == "CURRENT" || name.ends_with(".sst")
    };
    let (mut tried, mut told) = (0, 0);
    for name in names.iter().filter(is_ours) {
        let whole = fs::read(dir.path().join(name)).unwrap();
        let flipped = (0..whole.len()).step_by(11).map(|position| {
            let mut bytes = whole.clone();
            bytes[position] ^= 1 << (position % 8);
            (format!("a bit of byte {position} of {name}"), Some(bytes))
        });
        let cut = [0, 1, whole.len() / 2, whole.len() - 1]
            .map(|length| (format!("{name} cut to {length}"), Some(whole[..length].to_vec())));
        let lost = (format!("{name} lost"), None);
        for (what, bytes) in flipped.chain(cut).chain([lost]) {
            let copy = tempfile::tempdir().unwrap();
            copy_files(dir.path(), copy.path());
            match bytes {
                Some(bytes) => fs::write(copy.path().join(name), bytes).unwrap(),
                None => fs::remove_file(copy.path().join(name)).unwrap(),
            }
            tried += 1;
            let looked = raft_rocksdb::RocksStore::open_read_only(copy.path(), Default::default());
            if let Err(error) = looked {
                assert!(matches!(error, StoreError::Corrupt { .. }), "{what}: {error}");
            }
            let error = match raft_rocksdb::RocksStore::open(copy.path(), Default::default()) {
                Err(error) => error,
                Ok(store) => {
                    let reader = store.log_store().reader();
                    match reader.read(LogIndex(1)..=LogIndex(10), u64::MAX).await {
                        Err(error) => error,
                        Ok(entries) => {
                            assert_eq!(entries, commands(1, 1..=10), "{what}");
                            continue;
                        }
                    }
                }
            };
            told += 1;
            assert!(matches!(error, StoreError::Corrupt { .. }), "{what}: {error}");
        }
    }
    assert!(100 < told && tried < 2 * told, "{told} of {tried}");
}

#[tokio::test]
async fn lost_files_are_noticed() {
    let says =
        [("RAFT-ROCKSDB", "RocksDB's files are gone"), (MARK, "a file of RocksDB's is gone: ")];
    let dir = filled().await;
    for (kept, says) in says.into_iter().rev() {
        for name in fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name()) {
            if name != "RAFT-ROCKSDB" && name != kept {
                fs::remove_file(dir.path().join(name)).unwrap();
            }
        }
        let error = refusal(dir.path()).to_string();
        let expected = format!("the database in {} is damaged: {says}", dir.path().display());
        assert!(error.starts_with(&expected), "{error}");
        assert!(error.ends_with(ADVICE), "{error}");
    }
}

#[tokio::test]
async fn a_creation_that_was_cut_short_is_done_again() {
    let identity = |dir: &Path| dir.join("RAFT-ROCKSDB");
    let creating = |dir: &Path| dir.join("RAFT-ROCKSDB.creating");
    // Only the text file; also a database without column family and records; also all but the last
    // step.
    for stage in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        match stage {
            0 => {}
            1 => drop(DB::open_default(dir.path()).unwrap()),
            _ => {
                drop(open(dir.path()));
                fs::remove_file(identity(dir.path())).unwrap();
            }
        }
        fs::write(creating(dir.path()), "raft-rocksdb fo").unwrap();
        let mut log = open(dir.path()).log_store();
        log.append(&[commands(1, 1..=1)]).await.unwrap();
        assert!(identity(dir.path()).exists() && !creating(dir.path()).exists());
        drop(log);
        assert_eq!(bounds(&open(dir.path()).log_store()).await, Some((1, 1)));
    }
}

/// Names, lengths and times of the files in a directory.
fn listing(dir: &Path) -> Vec<(PathBuf, u64, std::time::SystemTime)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|file| {
            let metadata = file.as_ref().unwrap().metadata().unwrap();
            (file.unwrap().path(), metadata.len(), metadata.modified().unwrap())
        })
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn a_foreign_database_is_refused_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    DB::open_default(dir.path()).unwrap().put("a", "b").unwrap();
    let before = listing(dir.path());
    assert_eq!(
        refusal(dir.path()).to_string(),
        format!(
            "refused: {} holds a RocksDB database, but not one of raft-rocksdb: it has no file \
             RAFT-ROCKSDB; give the store a directory of its own, or, if this is a restored backup \
             of one, copy that file too",
            dir.path().display()
        )
    );
    assert_eq!(listing(dir.path()), before);
    // Not even with our file beside it.
    fs::write(dir.path().join("RAFT-ROCKSDB"), "raft-rocksdb format 1\n").unwrap();
    refusal(dir.path());
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let dir = filled().await;
    let path = dir.path().display().to_string();
    let says = |source| {
        format!(
            "refused: the store in {path} is in format 7 (says its {source}), this release knows \
             format 1; start the release that wrote it, or a newer one"
        )
    };
    let db = raw(dir.path());
    let mut value = db.get(FORMAT_KEY).unwrap().unwrap();
    value.truncate(12);
    value.extend_from_slice(&7_u32.to_be_bytes());
    value.extend_from_slice(&crc32fast::hash(&value).to_be_bytes());
    db.put(FORMAT_KEY, value).unwrap();
    drop(db);
    assert_eq!(refusal(dir.path()).to_string(), says("key \"\\0format\""));

    let before = listing(dir.path());
    fs::write(dir.path().join("RAFT-ROCKSDB"), "raft-rocksdb format 7\nmore\n").unwrap();
    assert_eq!(refusal(dir.path()).to_string(), says("file RAFT-ROCKSDB"));
    assert_eq!(listing(dir.path()).len(), before.len(), "the database was touched");
}

#[tokio::test]
async fn a_damaged_identity_file_is_refused() {
    let dir = filled().await;
    fs::write(dir.path().join("RAFT-ROCKSDB"), "\nwhat?").unwrap();
    assert_eq!(
        refusal(dir.path()).to_string(),
        format!(
            "the file RAFT-ROCKSDB in {} is damaged: its first line is \"\"; if the rest of the \
             directory is intact, write \"raft-rocksdb format 1\" there",
            dir.path().display()
        )
    );
}

#[tokio::test]
async fn a_directory_of_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    fs::write(dir.path().join("thesis.txt"), "mine").unwrap();
    assert_eq!(
        refusal(dir.path()).to_string(),
        format!(
            "refused: {} is not empty and holds no Raft store (it has \"thesis.txt\", but no file \
             RAFT-ROCKSDB); give the store a directory of its own",
            dir.path().display()
        )
    );
    fs::remove_file(dir.path().join("thesis.txt")).unwrap();
    open(dir.path());
}

#[tokio::test]
async fn a_file_and_a_path_below_one_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    assert_eq!(
        refusal(&file).to_string(),
        format!("refused: {} is a file; the store needs a directory of its own", file.display())
    );
    let below = file.join("below");
    assert_eq!(
        refusal(&below).to_string(),
        format!("cannot open {}: Not a directory (os error 20)", below.display())
    );
}

#[cfg(unix)]
#[tokio::test]
async fn a_directory_that_cannot_be_written_is_refused() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let fixed = dir.path().join("fixed");
    fs::create_dir(&fixed).unwrap();
    fs::set_permissions(&fixed, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(fixed.join("probe"), "").is_ok() {
        println!("skipped: permissions do not bind this user");
        return;
    }
    assert_eq!(
        refusal(&fixed).to_string(),
        format!("cannot write to {}: Permission denied (os error 13)", fixed.display())
    );
    let below = fixed.join("below");
    assert_eq!(
        refusal(&below).to_string(),
        format!("cannot create {}: Permission denied (os error 13)", below.display())
    );
}

const LOCK_DIR: &str = "RAFT_ROCKSDB_LOCK_DIR";

/// Not a test: another process, holding the directory until its input ends.
#[test]
fn child() {
    let Ok(dir) = std::env::var(LOCK_DIR) else { return };
    let _store = open(Path::new(&dir));
    println!("\nlocked");
    std::io::stdin().lines().for_each(drop);
}

#[tokio::test]
async fn a_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let says = format!(
        "the store in {} is in use, by this process or another; stop that one first: IO error: ",
        dir.path().display()
    );
    let store = open(dir.path());
    let reader = store.log_store().reader();
    drop(store);
    assert!(refusal(dir.path()).to_string().starts_with(&says));
    drop(reader);

    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture"])
        .env(LOCK_DIR, dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(other.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "locked"));
    let error = refusal(dir.path());
    assert!(error.to_string().starts_with(&says), "{error}");
    other.kill().unwrap();
    other.wait().unwrap();
    open(dir.path());
}
