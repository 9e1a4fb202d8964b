//! The bytes on disk, pinned: what this release writes, and that it reads what any release wrote.
//!
//! `tests/format-1.txt` holds one record a line, `column family`, `key`, `value`, in hexadecimal;
//! `tests/format-1-noted.txt` is the same with what comes later in the life of a store: a noted commit
//! index, and an incarnation, as early stores kept it; `tests/format-1-cluster.txt` has the configuration of a
//! cluster and the identity of the disk. They are never edited; a new format gets a file of its own, and these stay
//! readable.
#![allow(clippy::unwrap_used, reason = "a failed test says where")]

mod common;

use std::path::Path;

use common::{all, bounds, open};
use raft::{
    ClusterId, Configuration, DiskIdentity, Entries, Entry, EntryPayload, HardState, LogIndex,
    LogStore, Server, StableStore, Term,
};
use rocksdb::{DB, IteratorMode, Options};

const FIXTURE: &str = include_str!("format-1.txt");
const NOTED: &str = include_str!("format-1-noted.txt");
const OF_A_CLUSTER: &str = include_str!("format-1-cluster.txt");

const CLUSTER: ClusterId = ClusterId(0x1817_1615_1413_1211);

const INCARNATION: u64 = 0x0807_0605_0403_0201;

const FAMILIES: [&str; 2] = ["default", "log"];

fn entries(cluster: ClusterId) -> Entries {
    let known = Server::voter("a", "127.0.0.1:7001").with(|it| it.incarnation = INCARNATION);
    let configuration = Configuration::new([known, Server::nonvoter("b", "127.0.0.1:7002")]);
    let configuration = configuration.with_cluster(cluster);
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

fn disk() -> DiskIdentity {
    DiskIdentity {
        server: "a".into(),
        incarnation: INCARNATION,
        starts: 0x2423_2221,
        was_rolled_back: false,
    }
}

#[tokio::test]
async fn this_release_writes_format_1() {
    for (cluster, fixture) in [(ClusterId::NONE, FIXTURE), (CLUSTER, OF_A_CLUSTER)] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let mut log = store.log_store();
        if cluster.is_some() {
            log.note_commit(LogIndex(256));
            store.stable_store().save_disk_identity(&disk()).await.unwrap();
        }
        log.append(&[entries(cluster)]).await.unwrap();
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
    let noted = Some(LogIndex(256));
    // Whose disk it is was not noted at first.
    let early = DiskIdentity { server: "".into(), starts: 0, ..disk() };
    is_read(FIXTURE, ClusterId::NONE, None, None).await;
    is_read(NOTED, ClusterId::NONE, noted, Some(early)).await;
    is_read(OF_A_CLUSTER, CLUSTER, noted, Some(disk())).await;
}

async fn is_read(
    fixture: &str,
    cluster: ClusterId,
    noted: Option<LogIndex>,
    disk: Option<DiskIdentity>,
) {
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
    assert_eq!(all(&log).await, entries(cluster));
    assert_eq!(log.reader().noted_commit().await.unwrap(), noted);
    assert_eq!(store.stable_store().hard_state().await.unwrap(), Some(hard_state()));
    assert_eq!(store.stable_store().disk_identity().await.unwrap(), disk);
}
