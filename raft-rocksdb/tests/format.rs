//! The bytes on disk, pinned: what this release writes, and that it reads what any release wrote.
//!
//! `tests/format-1.txt` holds one record a line, `column family`, `key`, `value`, in hexadecimal;
//! `tests/format-1-noted.txt` is the same with what comes later in the life of a store: a noted commit
//! index, and an incarnation. They are never edited; a new format gets a file of its own, and these stay readable.
#![allow(clippy::unwrap_used, reason = "a failed test says where")]

mod common;

use std::path::Path;

use common::{all, bounds, open};
use raft::{
    Configuration, Entries, Entry, EntryPayload, HardState, LogIndex, LogStore, Server,
    StableStore, Term,
};
use rocksdb::{DB, IteratorMode, Options};

const FIXTURE: &str = include_str!("format-1.txt");
const NOTED: &str = include_str!("format-1-noted.txt");

const INCARNATION: u64 = 0x0807_0605_0403_0201;

const FAMILIES: [&str; 2] = ["default", "log"];

fn entries() -> Entries {
    let known = Server { incarnation: INCARNATION, ..Server::voter("a", "127.0.0.1:7001") };
    let configuration = Configuration::new([known, Server::nonvoter("b", "127.0.0.1:7002")]);
    let payloads = [
        (2, EntryPayload::Noop),
        (2, EntryPayload::Configuration(configuration)),
        (2, EntryPayload::Command("set x 1".into())),
        (3, EntryPayload::Command("".into())),
        (259, EntryPayload::Barrier),
    ];
    let entries = payloads.into_iter().zip(254..);
    entries
        .map(|((term, payload), index)| Entry { term: Term(term), index: LogIndex(index), payload })
        .collect::<Vec<_>>()
        .into()
}

fn hard_state() -> HardState {
    HardState { current_term: Term(259), voted_for: Some("a".into()) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// Every record in the directory, as the fixture has it.
fn dump(dir: &Path) -> String {
    let db = common::raw(dir);
    let mut lines = String::new();
    for family in FAMILIES {
        for record in db.iterator_cf(db.cf_handle(family).unwrap(), IteratorMode::Start) {
            let (key, value) = record.unwrap();
            lines += &format!("{family} {} {}\n", hex(&key), hex(&value));
        }
    }
    lines
}

#[tokio::test]
async fn this_release_writes_format_1() {
    for (noted, fixture) in [(None, FIXTURE), (Some(LogIndex(256)), NOTED)] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let mut log = store.log_store();
        if let Some(index) = noted {
            log.note_commit(index);
            store.stable_store().save_incarnation(INCARNATION).await.unwrap();
        }
        log.append(&[entries()]).await.unwrap();
        store.stable_store().save_hard_state(&hard_state()).await.unwrap();
        drop((log, store));
        let dump = dump(dir.path());
        assert_eq!(dump, fixture, "\n{dump}");
        let identity = std::fs::read_to_string(dir.path().join("RAFT-ROCKSDB")).unwrap();
        assert!(identity.starts_with("raft-rocksdb format 1\n"), "{identity}");
    }
}

#[tokio::test]
async fn format_1_is_read() {
    is_read(FIXTURE, None).await;
    is_read(NOTED, Some(LogIndex(256))).await;
}

async fn is_read(fixture: &str, noted: Option<LogIndex>) {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let db = DB::open_cf(&options, dir.path(), FAMILIES).unwrap();
    for line in fixture.lines() {
        let [family, key, value] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        db.put_cf(db.cf_handle(family).unwrap(), unhex(key), unhex(value)).unwrap();
    }
    drop(db);
    std::fs::write(dir.path().join("RAFT-ROCKSDB"), "raft-rocksdb format 1\n").unwrap();

    let store = open(dir.path());
    let log = store.log_store();
    assert_eq!(bounds(&log).await, Some((254, 258)));
    assert_eq!(all(&log).await, entries());
    assert_eq!(log.reader().noted_commit().await.unwrap(), noted);
    assert_eq!(store.stable_store().hard_state().await.unwrap(), Some(hard_state()));
    let incarnation = store.stable_store().incarnation().await.unwrap();
    assert_eq!(incarnation, noted.map(|_| INCARNATION));
}
