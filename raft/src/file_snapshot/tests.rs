//! Damage, crashes, full disks and other stores: what is noticed, when, and in which words.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    FileSnapshotStore,
    directory::Disk,
    meta::{self, Description, Unreadable},
    name::Name,
};
use crate::{
    configuration::{ClusterId, Configuration, IndexedConfiguration, Server},
    position::{LogId, LogIndex},
    snapshot::{SnapshotId, SnapshotMeta, SnapshotSink, SnapshotStore},
    store_error::StoreError,
};

/// Of no cluster, in format 1, and of one.
const FIXTURE: &str = include_str!("meta-1.txt");
const OF_A_CLUSTER: &str = include_str!("meta-2.txt");
const CLUSTER: ClusterId = ClusterId(0x1817_1615_1413_1211);

const ADVICE: &str = "leave it there; the server starts from an older snapshot if its log reaches \
                      back that far, and has to be set up anew from its peers if not";

fn configuration() -> IndexedConfiguration {
    let known =
        Server { incarnation: 0x0807_0605_0403_0201, ..Server::voter("a", "127.0.0.1:7001") };
    let configuration = Configuration::new([known, Server::nonvoter("b", "127.0.0.1:7002")]);
    IndexedConfiguration { index: LogIndex(3), configuration }
}

fn open(dir: &TempDir) -> FileSnapshotStore {
    FileSnapshotStore::open(dir, 2).unwrap()
}

async fn create(store: &FileSnapshotStore, last: LogId) -> Box<dyn SnapshotSink> {
    store.create(last, configuration()).await.unwrap()
}

async fn finished(store: &FileSnapshotStore, last: LogId, data: &[u8]) -> SnapshotMeta {
    let mut sink = create(store, last).await;
    sink.write_all(data).await.unwrap();
    sink.finish().await.unwrap()
}

/// Two snapshots in a closed store; the newest is `1-9-2`.
async fn two() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    finished(&store, LogId::new(1, 5), b"the older one").await;
    finished(&store, LogId::new(1, 9), b"the newer one").await;
    dir
}

async fn listed(store: &FileSnapshotStore) -> Vec<String> {
    store.list().await.unwrap().iter().map(|meta| meta.id.to_string()).collect()
}

async fn read(store: &FileSnapshotStore, id: &str) -> Result<String, StoreError> {
    let (_, mut reader) = store.open(&SnapshotId::new(id)).await?;
    let mut text = String::new();
    reader.read_to_string(&mut text).await.unwrap();
    Ok(text)
}

/// What the directory holds beside the lock, sorted.
fn files(dir: &TempDir) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|item| item.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name != "LOCK");
    names.sort();
    names
}

fn flip(path: &Path, position: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[position] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// The error's text, with the checksums taken out.
fn without_checksums(error: &StoreError) -> String {
    let text = error.to_string();
    let hex = |word: &str| word.len() == 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words = text.split(' ').map(|word| match word.strip_suffix(';') {
        Some(word) if hex(word) => "#;",
        None if hex(word) => "#",
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The newest snapshot is listed by its place and cannot be opened; the older one can.
async fn assert_newest_is_unusable(dir: &TempDir, file: &str, reason: &str) {
    let store = open(dir);
    let list = store.list().await.unwrap();
    assert_eq!(list[0].id.as_str(), "1-9-2");
    assert_eq!(list[0].last, LogId::new(1, 9), "law 7: it is not forgotten");
    assert_eq!(list.len(), 2);
    let error = read(&store, "1-9-2").await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    let path = dir.path().join("1-9-2").join(file);
    assert_eq!(
        without_checksums(&error),
        format!("the snapshot file {} is damaged: {reason}; {ADVICE}", path.display())
    );
    assert_eq!(read(&store, "1-5-1").await.unwrap(), "the older one");
}

#[test]
fn a_name_has_one_spelling_and_sorts_by_number() {
    for text in ["0-0-0", "1-5-2", "18446744073709551615-18446744073709551615-7"] {
        assert_eq!(Name::parse(text).unwrap().to_string(), text);
        assert_eq!(Name::parse_draft(&format!("{text}.tmp")).unwrap().to_string(), text);
    }
    for text in [
        "",
        "1",
        "1-2",
        "1-2-",
        "1-2-3-4",
        "01-2-3",
        "+1-2-3",
        "1-2-3 ",
        "-1-2-3",
        "1-2-3.tmp",
        "18446744073709551616-1-1",
        "1/2-3",
        "..",
        "1-2-3/..",
    ] {
        assert_eq!(Name::parse(text), None, "{text:?}");
    }
    let ordered = ["1-99-9", "2-1-1", "2-9-1", "2-10-1", "2-10-9", "2-10-10", "10-1-1"];
    assert!(ordered.map(|text| Name::parse(text).unwrap()).is_sorted());
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    let byte = |i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

#[tokio::test]
async fn this_release_writes_and_reads_both_formats() {
    for (fixture, cluster) in [(FIXTURE, ClusterId::NONE), (OF_A_CLUSTER, CLUSTER)] {
        let dir = tempfile::tempdir().unwrap();
        let last = LogId::new(259, 70_000);
        let IndexedConfiguration { index, configuration } = configuration();
        let configuration = configuration.with_cluster(cluster);
        let known = IndexedConfiguration { index, configuration };
        let mut sink = open(&dir).create(last, known).await.unwrap();
        sink.write_all(b"123456789").await.unwrap();
        let meta = sink.finish().await.unwrap();
        let file = dir.path().join("259-70000-1/meta");
        let written: String =
            fs::read(&file).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(unhex(fixture), unhex(&written), "\n{written}");
        assert_eq!(fs::read(dir.path().join("259-70000-1/data")).unwrap(), b"123456789");

        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("259-70000-1")).unwrap();
        fs::write(dir.path().join("259-70000-1/meta"), unhex(fixture)).unwrap();
        fs::write(dir.path().join("259-70000-1/data"), b"123456789").unwrap();
        let store = open(&dir);
        assert_eq!(store.list().await.unwrap(), [meta]);
        assert_eq!(read(&store, "259-70000-1").await.unwrap(), "123456789");
    }
}

#[test]
fn every_flipped_bit_and_every_cut_of_a_description_is_found() {
    let name = Name::parse("259-70000-1").unwrap();
    for bytes in [FIXTURE, OF_A_CLUSTER].map(unhex) {
        assert!(meta::decode(name, &bytes).is_ok());
        for position in 0..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[position] ^= 1 << bit;
                let found = meta::decode(name, &bytes);
                let is_damage = matches!(found, Err(Unreadable::Damaged(_)));
                assert!(is_damage, "{position} {bit}: {found:?}");
            }
            let found = meta::decode(name, &bytes[..position]);
            assert!(matches!(found, Err(Unreadable::Damaged(_))), "cut at {position}: {found:?}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(matches!(meta::decode(name, &longer), Err(Unreadable::Damaged(_))));
    }
}

#[test]
fn a_description_in_another_place_is_found() {
    let other = Name::parse("259-70000-2").unwrap();
    let found = meta::decode(other, &unhex(FIXTURE));
    assert!(matches!(found, Err(Unreadable::Damaged(_))), "{found:?}");
    let (last, configuration) = (LogId::new(1, 1), configuration());
    let meta = SnapshotMeta { id: other.id(), last, configuration, size_bytes: 0 };
    let bytes = meta::encode(other, &Description { meta, data_crc: 0 }).unwrap();
    assert_eq!(
        meta::decode(other, &bytes),
        Err(Unreadable::Damaged("it is called 259-70000-2 but says that it covers 1@1".into()))
    );
}

#[tokio::test]
async fn a_flipped_bit_in_the_data_is_found_by_opening() {
    let dir = two().await;
    flip(&dir.path().join("1-9-2/data"), 4);
    let reason = "checksum # is stored, but the bytes have #";
    assert_newest_is_unusable(&dir, "data", reason).await;
}

#[tokio::test]
async fn data_that_was_cut_or_has_grown_is_found_by_opening() {
    for (length, reason) in [
        (12, "13 bytes were written, 12 are there"),
        (0, "13 bytes were written, 0 are there"),
        (14, "13 bytes were written, 14 are there"),
    ] {
        let dir = two().await;
        let data = dir.path().join("1-9-2/data");
        File::options().write(true).open(data).unwrap().set_len(length).unwrap();
        assert_newest_is_unusable(&dir, "data", reason).await;
        let error = open(&dir).open_at(&SnapshotId::new("1-9-2"), 1).await.err().unwrap();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_damaged_description_is_found_by_opening_and_is_not_forgotten() {
    let dir = two().await;
    flip(&dir.path().join("1-9-2/meta"), 30);
    let reason = "checksum # is stored, but the bytes have #";
    assert_newest_is_unusable(&dir, "meta", reason).await;
    fs::write(dir.path().join("1-9-2/meta"), "").unwrap();
    let reason = "it does not begin with \"raft-snapshot\"";
    assert_newest_is_unusable(&dir, "meta", reason).await;
}

#[tokio::test]
async fn a_missing_file_is_found_by_opening() {
    for file in ["meta", "data"] {
        let dir = two().await;
        fs::remove_file(dir.path().join("1-9-2").join(file)).unwrap();
        assert_newest_is_unusable(&dir, file, "it is missing").await;
    }
}

#[tokio::test]
async fn a_newer_format_is_refused_by_name_and_not_forgotten() {
    let dir = two().await;
    let place = dir.path().join("1-9-2");
    let newer = meta::seal(Name::parse("1-9-2").unwrap(), 3, b"who knows");
    fs::write(place.join("meta"), newer).unwrap();
    let store = open(&dir);
    assert_eq!(store.list().await.unwrap()[0].last, LogId::new(1, 9));
    let error = read(&store, "1-9-2").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "refused: the snapshot in {} is in format 3, this release knows format 2; start the \
             release that wrote it, or a newer one",
            place.display()
        )
    );
}

#[tokio::test]
async fn what_a_crash_left_is_removed_and_nothing_else() {
    let dir = two().await;
    let path = |name: &str| dir.path().join(name);
    for draft in ["1-12-3.tmp", "7-7-7.tmp"] {
        fs::create_dir(path(draft)).unwrap();
        fs::write(path(draft).join("data"), "half").unwrap();
    }
    fs::create_dir(path("mine.tmp")).unwrap();
    fs::write(path("notes"), "of an operator").unwrap();
    let store = open(&dir);
    assert_eq!(files(&dir), ["1-5-1", "1-9-2", "mine.tmp", "notes"]);
    assert_eq!(listed(&store).await, ["1-9-2", "1-5-1"]);
    for strange in ["mine", "mine.tmp", "notes", "LOCK", "7-7-7"] {
        let error = read(&store, strange).await.unwrap_err();
        assert!(matches!(error, StoreError::NotFound { .. }), "{strange}: {error}");
    }
}

#[tokio::test]
async fn reopening_finds_the_same_and_goes_on_counting() {
    let dir = two().await;
    let before = open(&dir).list().await.unwrap();
    assert_eq!(before[1].configuration, configuration());
    let store = open(&dir);
    assert_eq!(store.list().await.unwrap(), before);
    let meta = finished(&store, LogId::new(1, 9), b"again").await;
    assert_eq!(meta.id.as_str(), "1-9-3");
    assert_eq!(listed(&store).await, ["1-9-3", "1-9-2"]);
}

#[tokio::test]
async fn the_newest_few_are_kept_in_whatever_order_they_are_finished() {
    for retain in 2..=4 {
        let dir = tempfile::tempdir().unwrap();
        let store = FileSnapshotStore::open(&dir, retain).unwrap();
        let mut all = Vec::new();
        for number in 0..40 {
            // Every third one is older than what is there.
            let index = if number % 3 == 2 { number } else { 100 + number * 7 % 40 };
            let last = LogId::new(1 + number / 10, index);
            all.push(finished(&store, last, b"x").await);
            all.sort_by_key(|meta| std::cmp::Reverse(meta.last));
            all.truncate(retain);
            assert_eq!(store.list().await.unwrap(), all);
            assert_eq!(files(&dir).len(), all.len());
        }
    }
}

#[tokio::test]
async fn a_damaged_snapshot_takes_no_place_and_goes_when_newer_ones_stand_for_it() {
    let dir = two().await;
    flip(&dir.path().join("1-9-2/meta"), 30);
    let store = open(&dir);
    // Finished late: it is older than the damaged one.
    finished(&store, LogId::new(1, 7), b"x").await;
    assert_eq!(listed(&store).await, ["1-9-2", "1-7-3", "1-5-1"]);
    finished(&store, LogId::new(1, 11), b"x").await;
    assert_eq!(listed(&store).await, ["1-11-4", "1-9-2", "1-7-3"]);
    finished(&store, LogId::new(1, 12), b"x").await;
    assert_eq!(listed(&store).await, ["1-12-5", "1-11-4"]);
    assert_eq!(files(&dir), ["1-11-4", "1-12-5"]);
}

#[tokio::test]
async fn a_reader_outlives_the_snapshot_and_the_store() {
    let dir = two().await;
    let store = open(&dir);
    let (_, mut reader) = store.open(&SnapshotId::new("1-5-1")).await.unwrap();
    finished(&store, LogId::new(1, 10), b"x").await;
    drop(store);
    assert_eq!(files(&dir), ["1-10-3", "1-9-2"]);
    let mut text = String::new();
    reader.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "the older one");
    open(&dir);
}

#[tokio::test]
async fn a_sink_that_is_given_up_leaves_no_file() {
    let dir = two().await;
    let store = open(&dir);
    let before = files(&dir);
    for cancel in [true, false] {
        let mut sink = create(&store, LogId::new(2, 1)).await;
        sink.write_all(&[7; 3 << 20]).await.unwrap();
        assert_eq!(files(&dir).len(), before.len() + 1);
        if cancel {
            sink.cancel().await;
        } else {
            drop(sink);
        }
        assert_eq!(files(&dir), before);
    }
}

#[tokio::test]
async fn a_finish_that_fails_leaves_nothing() {
    let dir = two().await;
    let store = open(&dir);
    let sink = create(&store, LogId::new(2, 1)).await;
    let draft = dir.path().join("2-1-3.tmp");
    fs::remove_dir_all(&draft).unwrap();
    let error = sink.finish().await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot write {}/meta: ", draft.display())), "{error}");
    // Its name is taken.
    let sink = create(&store, LogId::new(2, 1)).await;
    fs::create_dir_all(dir.path().join("2-1-4/x")).unwrap();
    let error = sink.finish().await.unwrap_err().to_string();
    assert!(error.starts_with("cannot rename "), "{error}");
    assert_eq!(files(&dir), ["1-5-1", "1-9-2", "2-1-4"]);
}

#[tokio::test]
async fn a_second_store_in_the_directory_is_refused_while_the_first_lives() {
    let dir = two().await;
    let store = open(&dir);
    let refused = || FileSnapshotStore::open(&dir, 2).unwrap_err();
    let expected = format!(
        "refused: the snapshots in {} are in use by another store, in this process or another; \
         close that one first",
        dir.path().display()
    );
    assert_eq!(refused().to_string(), expected);
    let clone = store.clone();
    drop(store);
    refused();
    let sink = create(&clone, LogId::new(2, 1)).await;
    drop(clone);
    refused();
    drop(sink);
    open(&dir);
}

#[test]
fn a_store_that_keeps_less_than_two_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for retain in [0, 1] {
        let error = FileSnapshotStore::open(dir.path().join("new"), retain).unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }));
        assert_eq!(
            error.to_string(),
            format!(
                "refused: `retain` is {retain} for the snapshots in {}/new: the two newest are \
                 always kept, for the case that the newest comes to nothing; give 2 or more",
                dir.path().display()
            )
        );
        assert!(files(&dir).is_empty());
    }
}

#[test]
fn a_directory_is_made_with_its_parents() {
    let dir = tempfile::tempdir().unwrap();
    let nested = dir.path().join("a/b/c");
    FileSnapshotStore::open(&nested, 2).unwrap();
    assert!(nested.join("LOCK").exists());
}

#[test]
fn a_path_that_is_a_file_or_lies_in_one_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "text").unwrap();
    let error = FileSnapshotStore::open(&file, 2).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("refused: {} is a file; the store needs a directory of its own", file.display())
    );
    let error = FileSnapshotStore::open(file.join("in it"), 2).unwrap_err();
    let expected = format!("cannot open {}/in it: Not a directory", file.display());
    assert!(error.to_string().starts_with(&expected), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"text");
}

/// The superuser may write anywhere except where the kernel itself refuses: everybody gets an error
/// in one of the two places.
#[cfg(target_os = "linux")]
#[test]
fn a_directory_without_permission_is_refused_by_name() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o555)).unwrap();
    let mut places = vec![PathBuf::from("/sys/kernel")];
    if File::create(dir.path().join("probe")).is_err() {
        places.push(dir.path().to_owned());
    }
    for place in places {
        for path in [place.join("new"), place] {
            let error = FileSnapshotStore::open(&path, 2).unwrap_err();
            assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(&path.display().to_string()), "{text}");
            assert!(text.contains("ermi") || text.contains("Read-only"), "{text}");
        }
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Where the kernel answers every write as a full disk does.
#[cfg(target_os = "linux")]
fn full_disk() -> io::Result<File> {
    File::options().write(true).open("/dev/full")
}

/// A disk on which files are made like this.
struct Making(fn(&Path) -> io::Result<File>);

impl Disk for Making {
    fn create(&self, path: &Path) -> io::Result<File> {
        self.0(path)
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_disk_that_is_full_for_the_data_costs_only_that_snapshot() {
    let dir = two().await;
    let store = FileSnapshotStore::open_on(Making(|_| full_disk()), dir.path(), 2).unwrap();
    let before = files(&dir);
    let data = dir.path().join("2-1-3.tmp/data");
    let expected = format!("cannot write {}: No space left on device", data.display());

    // More than the buffers hold: a write says it, and so does every call after it.
    let mut sink = create(&store, LogId::new(2, 1)).await;
    let error = sink.write_all(&[7; 4 << 20]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(error.to_string().starts_with(&expected), "{error}");
    assert!(sink.write_all(b"x").await.unwrap_err().to_string().starts_with(&expected));
    assert!(sink.flush().await.unwrap_err().to_string().starts_with(&expected));
    let error = sink.finish().await.unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
    assert!(error.to_string().starts_with(&expected), "{error}");
    assert_eq!(files(&dir), before);

    // Less: finishing says it.
    let mut sink = create(&store, LogId::new(2, 1)).await;
    sink.write_all(b"a few bytes").await.unwrap();
    let error = sink.finish().await.unwrap_err().to_string();
    assert!(error.contains("2-1-4.tmp/data: No space left on device"), "{error}");
    assert_eq!(files(&dir), before);
    assert_eq!(read(&store, "1-9-2").await.unwrap(), "the newer one");
    assert_eq!(read(&store, "1-5-1").await.unwrap(), "the older one");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_disk_that_is_full_for_the_description_costs_only_that_snapshot() {
    let dir = two().await;
    let full_for_meta = |path: &Path| {
        if path.ends_with("meta") { full_disk() } else { File::create_new(path) }
    };
    let store = FileSnapshotStore::open_on(Making(full_for_meta), dir.path(), 2).unwrap();
    let before = files(&dir);
    let mut sink = create(&store, LogId::new(2, 1)).await;
    sink.write_all(b"x").await.unwrap();
    let error = sink.finish().await.unwrap_err().to_string();
    assert!(error.contains("2-1-3.tmp/meta: No space left on device"), "{error}");
    assert_eq!(files(&dir), before);
    assert_eq!(listed(&store).await, ["1-9-2", "1-5-1"]);
}

#[tokio::test]
async fn a_disk_on_which_nothing_can_be_made_refuses_the_snapshot() {
    let dir = two().await;
    let none = |_: &Path| Err(io::ErrorKind::StorageFull.into());
    let store = FileSnapshotStore::open_on(Making(none), dir.path(), 2).unwrap();
    let error = store.create(LogId::new(2, 1), configuration()).await.err().unwrap();
    assert!(error.to_string().starts_with("cannot create "), "{error}");
    assert_eq!(files(&dir), ["1-5-1", "1-9-2"]);
}

#[tokio::test]
async fn opened_for_reading_it_shows_everything_and_touches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent");
    assert!(matches!(FileSnapshotStore::open_read_only(&absent), Err(StoreError::Io { .. })));
    assert!(!absent.exists());

    let store = open(&dir);
    finished(&store, LogId::new(1, 5), b"the state").await;
    drop(store);
    fs::create_dir(dir.path().join("1-7-2.tmp")).unwrap();
    fs::remove_file(dir.path().join("LOCK")).unwrap();

    let store = FileSnapshotStore::open_read_only(&dir).unwrap();
    assert_eq!(listed(&store).await, ["1-5-1"]);
    assert_eq!(read(&store, "1-5-1").await.unwrap(), "the state");
    let refused = store.create(LogId::new(1, 9), configuration()).await;
    assert!(matches!(refused, Err(StoreError::Refused { .. })));
    drop(store);
    assert_eq!(files(&dir), ["1-5-1", "1-7-2.tmp"], "the unfinished one is left too");
    assert!(!dir.path().join("LOCK").exists());
}
