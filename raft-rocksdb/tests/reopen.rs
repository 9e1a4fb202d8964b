//! What was acknowledged is there after the store was closed and opened again.
#![allow(clippy::unwrap_used, reason = "a failed test says where")]

mod common;

use std::path::Path;

use common::{all, bounds, command, commands, noted, open};
use raft::{
    Configuration, Entries, Entry, EntryPayload, HardState, LogIndex, LogStore, Server,
    StableStore, StoreError, Term,
};
use raft_rocksdb::{RocksOptions, RocksStore};

#[tokio::test]
async fn every_kind_of_entry_survives() {
    let dir = tempfile::tempdir().unwrap();
    let configuration =
        Configuration::new([Server::voter("a", "a:1"), Server::nonvoter("b", "b:1")]);
    let payloads = [
        EntryPayload::Noop,
        EntryPayload::Configuration(configuration),
        EntryPayload::Command("set x 1".into()),
        EntryPayload::Barrier,
        EntryPayload::Command(vec![7; 3 << 20].into()),
    ];
    let entries: Entries = payloads
        .into_iter()
        .zip(41..)
        .map(|(payload, index)| Entry { term: Term(index / 2), index: LogIndex(index), payload })
        .collect::<Vec<_>>()
        .into();
    open(dir.path()).log_store().append(std::slice::from_ref(&entries)).await.unwrap();
    let log = open(dir.path()).log_store();
    assert_eq!(bounds(&log).await, Some((41, 45)));
    assert_eq!(all(&log).await, entries);
}

#[tokio::test]
async fn truncations_survive() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).log_store();
    log.append(&[commands(1, 1..=10), commands(1, 11..=20)]).await.unwrap();
    log.truncate_prefix(LogIndex(4)).await.unwrap();
    log.truncate_suffix(LogIndex(12)).await.unwrap();
    log.append(&[commands(3, 12..=13)]).await.unwrap();
    let before = all(&log).await;
    drop(log);

    let mut log = open(dir.path()).log_store();
    assert_eq!(bounds(&log).await, Some((5, 13)));
    assert_eq!(all(&log).await, before);
    assert_eq!(before.last_id().unwrap().term, Term(3));
    let reader = log.reader();
    for gone in [4, 14] {
        let error = reader.read(LogIndex(gone)..=LogIndex(20), 1).await.unwrap_err();
        assert_eq!(error.to_string(), format!("log entry {gone} is not in the store"));
    }

    log.truncate_prefix(LogIndex(u64::MAX)).await.unwrap();
    drop((log, reader));
    let mut log = open(dir.path()).log_store();
    assert_eq!(bounds(&log).await, None);
    log.append(&[commands(9, 1000..=1000)]).await.unwrap();
    drop(log);
    assert_eq!(bounds(&open(dir.path()).log_store()).await, Some((1000, 1000)));
}

#[tokio::test]
async fn a_noted_commit_index_survives_with_the_append_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let reopen = |log| {
        drop(log);
        open(dir.path()).log_store()
    };
    let mut log = open(dir.path()).log_store();
    log.append(&[commands(1, 1..=5)]).await.unwrap();
    log.note_commit(LogIndex(4));
    let mut log = reopen(log);
    assert_eq!(noted(&log).await, None, "no append came after it");
    log.note_commit(LogIndex(4));
    log.append(&[]).await.unwrap();
    assert_eq!(noted(&log).await, None, "an append of nothing writes nothing");
    log.append(&[commands(1, 6..=7)]).await.unwrap();
    let mut log = reopen(log);
    assert_eq!(noted(&log).await, Some(4));

    // Never beyond the last entry, and never back.
    log.note_commit(LogIndex(100));
    log.append(&[commands(1, 8..=10)]).await.unwrap();
    assert_eq!(noted(&log).await, Some(10));
    log.append(&[commands(1, 11..=12)]).await.unwrap();
    assert_eq!(noted(&log).await, Some(12), "the rest of the note");
    let mut log = reopen(log);
    log.note_commit(LogIndex(3));
    log.append(&[commands(1, 13..=20)]).await.unwrap();
    assert_eq!(noted(&log).await, Some(12));

    // Compacting and resetting leave it; removing what it is about takes it back.
    log.truncate_prefix(LogIndex(15)).await.unwrap();
    assert_eq!(noted(&log).await, Some(12));
    log.truncate_prefix(LogIndex(u64::MAX)).await.unwrap();
    let mut log = reopen(log);
    assert_eq!((bounds(&log).await, noted(&log).await), (None, Some(12)));
    log.note_commit(LogIndex(32));
    log.append(&[commands(2, 31..=35)]).await.unwrap();
    log.note_commit(LogIndex(34));
    log.truncate_suffix(LogIndex(32)).await.unwrap();
    let mut log = reopen(log);
    assert_eq!((bounds(&log).await, noted(&log).await), (Some((31, 31)), Some(31)));
    log.append(&[commands(3, 32..=35)]).await.unwrap();
    assert_eq!(noted(&log).await, Some(31), "what was noted before the truncation is void");
}

#[tokio::test]
async fn the_vote_survives_and_is_replaced_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut stable = open(dir.path()).stable_store();
    assert_eq!(stable.hard_state().await.unwrap(), None);
    for (term, vote) in [(1, Some("a")), (2, None), (3, Some("b"))] {
        let saved = HardState { current_term: Term(term), voted_for: vote.map(Into::into) };
        stable.save_hard_state(&saved).await.unwrap();
        drop(stable);
        stable = open(dir.path()).stable_store();
        assert_eq!(stable.hard_state().await.unwrap(), Some(saved));
    }
}

#[tokio::test]
async fn a_gap_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).log_store();
    let none = log.append(&[Entries::new(vec![command(1, 0, "x")])]).await.unwrap_err();
    assert_eq!(none.to_string(), "refused: the first entry of a log has index 1 or more");
    log.append(&[commands(1, 1..=3)]).await.unwrap();
    for (batches, says) in [
        (vec![commands(1, 5..=6)], "refused: entry 5 does not follow entry 3"),
        (vec![commands(1, 3..=4)], "refused: entry 3 does not follow entry 3"),
        (vec![commands(1, 4..=4), commands(1, 6..=6)], "refused: entry 6 does not follow entry 4"),
    ] {
        assert_eq!(log.append(&batches).await.unwrap_err().to_string(), says);
        assert_eq!(bounds(&log).await, Some((1, 3)));
    }
    drop(log);
    assert_eq!(all(&open(dir.path()).log_store()).await, commands(1, 1..=3));
}

#[tokio::test]
async fn reading_stops_at_max_bytes_but_gives_at_least_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).log_store();
    let entries: Vec<_> = (1..=10).map(|index| command(1, index, vec![0; 68])).collect();
    log.append(&[entries.into()]).await.unwrap();
    let reader = log.reader();
    for (max_bytes, count) in [(0, 1), (99, 1), (100, 1), (199, 1), (200, 2), (u64::MAX, 9)] {
        let read = reader.read(LogIndex(2)..=LogIndex(u64::MAX), max_bytes).await.unwrap();
        assert_eq!(read.len(), count, "{max_bytes} bytes");
        assert_eq!(read.first().unwrap().index, LogIndex(2));
    }
    assert_eq!(reader.read(LogIndex(3)..=LogIndex(4), u64::MAX).await.unwrap().len(), 2);
}

/// Readers must never take a truncation under way for damage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_see_one_state_while_the_writer_truncates() {
    let dir = tempfile::tempdir().unwrap();
    // Small buffers, so that files are made and dropped too.
    let options = RocksOptions::default().with(|it| it.write_buffer_bytes = 64 << 10);
    let mut log = RocksStore::open(dir.path(), options).unwrap().log_store();
    log.append(&[commands(1, 1..=200)]).await.unwrap();
    let reader = log.reader();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let reading = tokio::spawn(async move {
        let mut reads = 0_u64;
        while stopped.is_empty() {
            let Some((first, last)) = reader.bounds().await.unwrap() else { continue };
            match reader.read(first..=last, u64::MAX).await {
                Ok(entries) => reads += u64::from(!entries.is_empty()),
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            tokio::task::yield_now().await;
        }
        reads
    });
    let mut last = 200;
    for term in 2..120 {
        log.truncate_suffix(LogIndex(last - 20)).await.unwrap();
        log.append(&[commands(term, last - 20..=last + 80)]).await.unwrap();
        log.truncate_prefix(LogIndex(last - 100)).await.unwrap();
        last += 80;
    }
    stop.send(()).unwrap();
    assert!(0 < reading.await.unwrap(), "nothing was read");
}

#[tokio::test]
async fn a_truncated_prefix_gives_its_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let options = RocksOptions::default().with(|it| it.write_buffer_bytes = 64 << 10);
    let mut log = RocksStore::open(dir.path(), options).unwrap().log_store();
    for index in 0..200 {
        let entries: Vec<_> = (1..=10).map(|n| command(1, index * 10 + n, vec![0; 4096])).collect();
        log.append(&[entries.into()]).await.unwrap();
    }
    let size = || -> u64 {
        let files = std::fs::read_dir(dir.path()).unwrap();
        files
            .map(|file| file.unwrap())
            .filter(|file| file.path().extension().is_some_and(|name| name == "sst"))
            .filter_map(|file| file.metadata().ok())
            .map(|file| file.len())
            .sum()
    };
    let before = size();
    log.truncate_prefix(LogIndex(1990)).await.unwrap();
    drop(log);
    let log = open(dir.path()).log_store();
    assert_eq!(bounds(&log).await, Some((1991, 2000)));
    let after = size();
    assert!(after < before / 2, "{before} bytes before, {after} after");
}

#[tokio::test]
async fn a_tool_finds_what_is_there_and_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent");
    let existing = |dir: &Path| RocksStore::open_existing(dir, RocksOptions::default());
    let read_only = |dir: &Path| RocksStore::open_read_only(dir, RocksOptions::default());
    for place in [&absent, &dir.path().to_owned()] {
        for opened in [existing(place), read_only(place)] {
            let refused = opened.unwrap_err();
            assert!(matches!(refused, StoreError::Refused { .. }), "{refused}");
            assert!(refused.to_string().contains("holds no Raft store"), "{refused}");
        }
    }
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);

    let mut log = open(dir.path()).log_store();
    log.append(&[commands(1, 1..=10)]).await.unwrap();
    drop(log);
    let files = || {
        let files = std::fs::read_dir(&dir).unwrap().map(Result::unwrap);
        let mut files: Vec<_> = files
            .map(|file| (file.file_name(), std::fs::read(file.path()).unwrap_or_default()))
            .collect();
        files.sort();
        files
    };
    let before = files();
    for is_read_only in [true, false] {
        let opened = if is_read_only { read_only(dir.path()) } else { existing(dir.path()) };
        let mut log = opened.unwrap().log_store();
        assert_eq!(bounds(&log).await, Some((1, 10)));
        if is_read_only {
            assert_eq!(files(), before);
            // Opened for reading: it cannot be written either.
            assert!(log.append(&[commands(1, 11..=11)]).await.is_err());
            assert_eq!(files(), before);
        } else {
            log.append(&[commands(1, 11..=11)]).await.unwrap();
        }
    }
    assert_eq!(bounds(&open(dir.path()).log_store()).await, Some((1, 11)));
}
