use raft::Server;

use super::*;
use crate::keys;

fn entries() -> Vec<Entry> {
    let configuration =
        Configuration::new([Server::voter("a", "127.0.0.1:7001"), Server::nonvoter("b", "b:1")]);
    [
        EntryPayload::Command(Bytes::from_static(b"set x 1")),
        EntryPayload::Command(Bytes::new()),
        EntryPayload::Noop,
        EntryPayload::Barrier,
        EntryPayload::Configuration(configuration),
    ]
    .into_iter()
    .zip(7..)
    .map(|(payload, index)| Entry { term: Term(3), index: LogIndex(index), payload })
    .collect()
}

fn encoded(entry: &Entry) -> Vec<u8> {
    let mut value = b"left over".to_vec();
    encode_entry(&keys::entry(entry.index), entry, &mut value).expect("encodes");
    value
}

#[test]
fn entries_come_back() {
    for entry in entries() {
        let value = encoded(&entry);
        let key = keys::entry(entry.index);
        assert_eq!(decode_entry(&key, entry.index, &value), Ok(entry));
    }
}

#[test]
fn hard_states_come_back() {
    let key = keys::hard_state();
    for voted_for in [None, Some(ServerId::new("a")), Some(ServerId::new(""))] {
        let hard_state = HardState { current_term: Term(u64::MAX), voted_for };
        let value = encode_hard_state(&key, &hard_state);
        assert_eq!(decode_hard_state(&key, &value), Ok(hard_state));
    }
}

#[test]
fn bounds_format_note_and_disk_come_back() {
    let key = keys::bounds();
    for bounds in [None, Some((LogIndex(1), LogIndex(1))), Some((LogIndex(5), LogIndex(u64::MAX)))]
    {
        assert_eq!(decode_bounds(&key, &encode_bounds(&key, bounds)), Ok(bounds));
    }
    assert_eq!(decode_format(&encode_format(u32::MAX)), Ok(u32::MAX));
    let key = keys::noted_commit();
    for index in [1, u64::MAX].map(LogIndex) {
        assert_eq!(decode_noted_commit(&key, &encode_noted_commit(&key, index)), Ok(index));
    }
    let key = keys::disk();
    for (server, incarnation, starts, was_rolled_back) in
        [("a", 1, u32::MAX, false), ("\u{e9}", u64::MAX, 0, true), ("", 1, 0, true)]
    {
        let disk = DiskIdentity { server: server.into(), incarnation, starts, was_rolled_back };
        assert_eq!(decode_disk(&key, &encode_disk(&key, &disk)), Ok(disk));
    }
    let none =
        DiskIdentity { server: "a".into(), incarnation: 0, starts: 1, was_rolled_back: false };
    assert!(decode_disk(&key, &encode_disk(&key, &none)).is_err());
}

#[test]
fn any_flipped_bit_and_any_cut_is_noticed() {
    for entry in entries() {
        let key = keys::entry(entry.index);
        let value = encoded(&entry);
        for length in 0..value.len() {
            assert!(decode_entry(&key, entry.index, &value[..length]).is_err(), "cut to {length}");
        }
        for bit in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_entry(&key, entry.index, &flipped).is_err(), "bit {bit} flipped");
        }
    }
    let format = encode_format(1);
    for bit in 0..format.len() * 8 {
        let mut flipped = format.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(decode_format(&flipped).is_err(), "bit {bit} flipped");
    }
}

#[test]
fn a_record_in_another_records_place_is_noticed() {
    for entry in entries() {
        let elsewhere = entry.index.next();
        let value = encoded(&entry);
        assert!(decode_entry(&keys::entry(elsewhere), elsewhere, &value).is_err());
    }
}

#[test]
fn a_record_of_a_later_release_is_named_as_such() {
    let mut value = encoded(&entries()[0]);
    value[0] = 2;
    let index = entries()[0].index;
    assert_eq!(
        decode_entry(&keys::entry(index), index, &value),
        Err(Damage("unknown record version 2".to_owned()))
    );
}

#[test]
fn impossible_bounds_are_noticed() {
    let key = keys::bounds();
    for bounds in [(LogIndex(2), LogIndex(1)), (LogIndex(0), LogIndex(1))] {
        assert!(decode_bounds(&key, &encode_bounds(&key, Some(bounds))).is_err());
    }
}
