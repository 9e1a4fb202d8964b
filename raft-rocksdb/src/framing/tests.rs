use super::*;

const ZERO: u8 = 0;
const RECYCLED_FULL: u8 = 5;

/// A record of one fragment. Nothing here looks at its checksum.
fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_le_bytes();
    [&[0xcc; 4], &length[..], &[kind], payload].concat()
}

fn payload(sequence: u64, operations: u32, length: usize) -> Vec<u8> {
    let mut payload = [&sequence.to_le_bytes()[..], &operations.to_le_bytes()].concat();
    payload.resize(length, 0xdd);
    payload
}

/// Two operations from `sequence` on.
fn write(sequence: u64) -> Vec<u8> {
    record(FULL, &payload(sequence, 2, 50))
}

/// The same, with a length that leads beyond the end.
fn endless(sequence: u64) -> Vec<u8> {
    let mut write = write(sequence);
    write[5] = 0x80;
    write
}

/// What is found in write-ahead logs of these bytes, the oldest first.
fn found<B: AsRef<[u8]>>(logs: &[B]) -> Result<u64, String> {
    let dir = tempfile::tempdir().unwrap();
    // Numbers of six digits become numbers of seven.
    for (number, bytes) in (999_999..).zip(logs) {
        fs::write(dir.path().join(format!("{number:06}.log")), bytes).unwrap();
    }
    fs::write(dir.path().join("LOG"), "no log").unwrap();
    last_sequence(dir.path(), 0).map_err(|error| {
        assert!(is_damage(&error), "{error}");
        error.to_string().replace(&format!("{}/", dir.path().display()), "")
    })
}

#[test]
fn the_last_write_is_found_and_the_end_is_where_a_write_was_cut_short() {
    let whole = [write(1), write(3), write(5)].concat();
    assert_eq!(found::<Vec<u8>>(&[]), Ok(0));
    assert_eq!(found(&[Vec::new()]), Ok(0));
    assert_eq!(found(&[&whole]), Ok(6));
    for length in write(1).len() * 2..whole.len() {
        assert_eq!(found(&[whole[..length].to_vec()]), Ok(4), "cut at {length}");
    }
    assert_eq!(found(&[[whole.clone(), vec![ZERO; BLOCK_BYTES * 2]].concat()]), Ok(6));
    assert_eq!(found(&[whole, Vec::new(), write(7)]), Ok(8));
}

#[test]
fn a_write_is_put_together_from_its_fragments() {
    // So that the head of a write is cut in two by the end of the block.
    let filler = BLOCK_BYTES - 2 * HEADER_BYTES - 3;
    let whole = payload(3, 2, 50);
    let (first, rest) = whole.split_at(3);
    let log = [
        record(FULL, &payload(1, 2, filler)),
        record(FIRST, first),
        record(MIDDLE, &rest[..20]),
        record(LAST, &rest[20..]),
        write(5),
    ]
    .concat();
    assert_eq!(found(&[&log]), Ok(6));
    // The rest of a block that is too short for a header is skipped.
    let padded = [record(FULL, &payload(1, 2, filler + HEADER_BYTES)), vec![ZERO; 3], write(3)];
    assert_eq!(padded[0].len() + 3, BLOCK_BYTES);
    assert_eq!(found(&[padded.concat()]), Ok(4));
    // Where every record ends is found from the end of any.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("MANIFEST-000001");
    let third = log.len() - write(5).len();
    for (length, end) in [(log.len(), log.len()), (log.len() - 1, third), (third, third)] {
        fs::write(&path, &log[..length]).unwrap();
        for from in [0, BLOCK_BYTES - HEADER_BYTES - 3, third] {
            assert_eq!(manifest_end(&path, from as u64).unwrap(), end as u64, "from {from}");
        }
    }
}

#[test]
fn a_hole_in_a_file_is_damage() {
    let says = Err("in 999999.log write 5 stands in the place of 3".to_owned());
    assert_eq!(found(&[[write(1), write(5)].concat()]), says);
    // RocksDB goes on behind a block whose rest is zero.
    let mut log = [write(1), write(3)].concat();
    log[write(1).len()..].fill(ZERO);
    log.resize(BLOCK_BYTES, ZERO);
    assert_eq!(found(&[[log.clone(), write(3)].concat()]), Ok(4));
    assert_eq!(found(&[[log, write(5)].concat()]), says);
}

#[test]
fn a_file_that_ends_early_is_followed_by_what_took_the_place() {
    let whole = [write(1), write(3)].concat();
    let cut = whole[..whole.len() - 1].to_vec();
    let damaged = [write(1), endless(3), write(5)].concat();
    let says = Err("in 1000000.log write 7 stands in the place of 3".to_owned());
    for early in [&cut, &damaged] {
        assert_eq!(found(&[early.clone(), write(3)]), Ok(4));
        assert_eq!(found(&[early.clone(), Vec::new(), write(3)]), Ok(4));
        assert_eq!(found(&[early.clone(), write(7)]), says);
    }
    let says = Err("in 1000001.log write 7 stands in the place of 3".to_owned());
    assert_eq!(found(&[damaged, Vec::new(), write(7)]), says);
    // Also if it is the first write of the first file.
    let says = Err("in 1000000.log write 7 stands in the place of 1".to_owned());
    assert_eq!(found(&[endless(1), write(7)]), says);
    assert_eq!(found(&[endless(7), write(7)]), Ok(8));
    // Of which so little may be left that nothing can be told.
    assert_eq!(found(&[write(1)[..10].to_vec(), write(7)]), Ok(8));
    // Between whole files may have been others.
    assert_eq!(found(&[whole, write(9)]), Ok(10));
}

#[test]
fn a_record_of_a_recycled_file_is_damage() {
    let says = |file| Err(format!("{file} has a record of kind 5 at byte 57"));
    let log = [write(1), record(RECYCLED_FULL, &payload(3, 2, 50))].concat();
    assert_eq!(found(&[&log]), says("999999.log"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("MANIFEST-000001");
    fs::write(&path, log).unwrap();
    assert!(is_damage(&manifest_end(&path, 0).unwrap_err()));
}
