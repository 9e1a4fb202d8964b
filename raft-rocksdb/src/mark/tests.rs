use tokio::time::{sleep, timeout};

use super::*;

const NEVER: Duration = Duration::from_secs(1 << 20);
const SOON: Duration = Duration::from_millis(1);

/// A record of a manifest: nothing here reads what it says.
const RECORD: &[u8] = b"crc-\x03\x00\x01abc";

fn mark(sequence: u64, number: u64, end: u64) -> Mark {
    Mark { sequence, manifest: Manifest { number, end }, oldest_log: 0 }
}

/// A directory in which RocksDB's manifest is number `number`, and has so many records.
fn set_manifest(dir: &Path, number: u64, records: usize) -> u64 {
    fs::write(dir.join("CURRENT"), format!("MANIFEST-{number:06}\n")).unwrap();
    fs::write(manifest_path(dir, number), RECORD.repeat(records)).unwrap();
    (RECORD.len() * records) as u64
}

async fn wait_for(dir: &Path, expected: Mark) {
    let waited = timeout(Duration::from_secs(30), async {
        while Mark::read(dir).unwrap() != Some(expected) {
            sleep(SOON).await;
        }
    });
    assert!(waited.await.is_ok(), "not in time: {expected:?}");
}

#[test]
fn a_mark_is_what_was_written_and_every_flipped_bit_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Mark::read(dir.path()).unwrap(), None);
    for written in [mark(0, 0, 0), mark(123, 45, 678), mark(u64::MAX, u64::MAX, u64::MAX)] {
        written.write(dir.path()).unwrap();
        assert_eq!(Mark::read(dir.path()).unwrap(), Some(written));
        let whole = fs::read(dir.path().join(MARK)).unwrap();
        for at in 0..whole.len() {
            for bit in 0..u8::BITS {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                assert_eq!(Mark::decode(&bytes), None, "bit {bit} of byte {at}");
            }
            assert_eq!(Mark::decode(&whole[..at]), None, "cut at {at}");
        }
    }
    remove(dir.path()).unwrap();
    assert_eq!(Mark::read(dir.path()).unwrap(), None);
    remove(dir.path()).unwrap();
}

#[tokio::test]
async fn the_mark_is_written_at_once_then_once_an_interval_and_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let end = set_manifest(dir.path(), 5, 2);
    let marker = Marker::start(dir.path(), 10, NEVER).unwrap();
    assert_eq!(Mark::read(dir.path()).unwrap(), Some(mark(10, 5, end)));
    marker.is_durable(20);
    assert_eq!(Mark::read(dir.path()).unwrap(), Some(mark(10, 5, end)), "it is not due");
    drop(marker);
    assert_eq!(Mark::read(dir.path()).unwrap(), Some(mark(20, 5, end)));

    let marker = Marker::start(dir.path(), 20, SOON).unwrap();
    marker.is_durable(30);
    wait_for(dir.path(), mark(30, 5, end)).await;
    // RocksDB goes on when nothing is written.
    let end = set_manifest(dir.path(), 5, 3);
    wait_for(dir.path(), mark(30, 5, end)).await;
    let end = set_manifest(dir.path(), 7, 1);
    wait_for(dir.path(), mark(30, 7, end)).await;
}

#[tokio::test]
async fn a_mark_that_cannot_be_written_is_tried_again_and_the_one_before_stays() {
    let dir = tempfile::tempdir().unwrap();
    let end = set_manifest(dir.path(), 5, 2);
    let marker = Marker::start(dir.path(), 10, SOON).unwrap();
    let obstacle = dir.path().join(NEW);
    fs::create_dir(&obstacle).unwrap();
    marker.is_durable(20);
    let mut keeper = Keeper::new(dir.path());
    assert!(keeper.try_to_keep(20).is_err());
    assert_eq!(Mark::read(dir.path()).unwrap(), Some(mark(10, 5, end)));
    fs::remove_dir(&obstacle).unwrap();
    wait_for(dir.path(), mark(20, 5, end)).await;
}

/// As `FORMAT.md` shows it.
#[test]
fn the_text_of_a_mark_stays_as_it_is() {
    let text =
        "durable through 1234\nMANIFEST-000005 through 678\nlogs from 000004\nchecksum 9adc4c20\n";
    assert_eq!(Mark { oldest_log: 4, ..mark(1234, 5, 678) }.encode(), text);
}

#[test]
fn a_manifest_shorter_than_its_mark_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let end = set_manifest(dir.path(), 5, 3);
    assert_eq!(survey(dir.path(), None).unwrap(), 0);
    assert_eq!(survey(dir.path(), Some(mark(10, 5, end))).unwrap(), 0);
    // One record less, or one byte.
    for left in [2 * RECORD.len(), 3 * RECORD.len() - 1] {
        fs::write(manifest_path(dir.path(), 5), &RECORD.repeat(3)[..left]).unwrap();
        let error = survey(dir.path(), Some(mark(10, 5, end))).unwrap_err();
        assert!(framing::is_damage(&error), "{error}");
        let says = "MANIFEST-000005 can be read up to byte 20, but was durable up to byte 30 (says its \
                    file RAFT-DURABLE)";
        assert!(error.to_string().ends_with(says), "{error}");
    }
    // A newer one was begun after the mark.
    set_manifest(dir.path(), 7, 1);
    assert_eq!(survey(dir.path(), Some(mark(10, 5, end))).unwrap(), 0);
}
