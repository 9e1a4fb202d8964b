//! The bytes, pinned. A fixture is a whole directory of format 1; `LOG_FORMAT.md` describes what is in it.

use super::{
    forgetful::Forgetful,
    model::{SEGMENT_BYTES, start},
};
use crate::{
    configuration::{ClusterId, Configuration, Server},
    file_log::{disk::Disk, format::HEADER_BYTES, segment::Segment, writer::Change},
    log::{Entries, Entry, EntryPayload},
    position::{LogIndex, Term},
    stable::{DiskIdentity, HardState},
};

const FIXTURE: &str = include_str!("format-1.txt");

fn entries() -> Entries {
    let members = Configuration::new([
        Server { incarnation: 0x1122_3344_5566_7788, ..Server::voter("a", "a:1") },
        Server::nonvoter("b", "b:2"),
    ]);
    let payloads = [
        EntryPayload::Configuration(members.with_cluster(ClusterId(0x99))),
        EntryPayload::Noop,
        EntryPayload::Barrier,
        EntryPayload::Command("command".into()),
        EntryPayload::Command("".into()),
    ];
    let entry = |(payload, index)| Entry { term: Term(2), index: LogIndex(index), payload };
    payloads.into_iter().zip(0x0102_0304..).map(entry).collect::<Vec<_>>().into()
}

fn changes() -> Vec<Change> {
    let hard_state = HardState { current_term: Term(2), voted_for: Some("b".into()) };
    let disk = DiskIdentity {
        server: "a".into(),
        incarnation: 0x0807_0605_0403_0201,
        starts: 3,
        was_rolled_back: false,
    };
    vec![
        Change { disk: Some(disk), ..Change::default() },
        Change {
            hard_state: Some(hard_state),
            entries: vec![entries()],
            note: Some(0x0102_0305),
            ..Change::default()
        },
        Change { through: Some(0x0102_0304), ..Change::default() },
        Change { cut: Some(0x0102_0308), ..Change::default() },
    ]
}

/// The batches of the only segment, eight bytes in a line.
fn dump(disk: &Forgetful) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let name = Segment::name(1);
    let mut text = String::from_utf8(disk.with_file("RAFT-LOG", |bytes| bytes.clone())).unwrap();
    disk.with_file(&name, |bytes| {
        text += &format!("header {}\n", hex(&bytes[..44]));
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let batches = &bytes[HEADER_BYTES as usize..end.next_multiple_of(8)];
        batches.chunks(8).for_each(|chunk| text += &format!("{}\n", hex(chunk)));
    });
    text
}

#[test]
fn this_release_writes_format_1() {
    let disk = Forgetful::default();
    let mut writer = start(&disk).unwrap();
    changes().into_iter().for_each(|change| writer.write(change).unwrap());
    let dump = dump(&disk);
    assert_eq!(dump, FIXTURE, "\n{dump}");
}

#[test]
fn format_1_is_read() {
    let bytes = |digits: &str| -> Vec<u8> {
        let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        (0..digits.len()).step_by(2).map(byte).collect()
    };
    let (identity, segment) = FIXTURE.split_once("header ").unwrap();
    let (header, batches) = segment.split_once('\n').unwrap();
    let mut file = bytes(header);
    file.resize(HEADER_BYTES as usize, 0);
    batches.lines().for_each(|line| file.extend(bytes(line)));
    file.resize(SEGMENT_BYTES as usize, 0);
    let disk = Forgetful::default();
    disk.create("RAFT-LOG").unwrap().write_at(identity.as_bytes(), 0).unwrap();
    disk.create(&Segment::name(1)).unwrap().write_at(&file, 0).unwrap();

    let writer = start(&disk).unwrap();
    let (first, last) = (LogIndex(0x0102_0305), LogIndex(0x0102_0307));
    assert_eq!(writer.shared.bounds(), Some((first.0, last.0)));
    let read = writer.shared.read(first..=last, u64::MAX).unwrap();
    assert_eq!(read, entries().within(first..=last));
    let state = writer.shared.state.read().clone();
    let [disk, write, ..] = &changes()[..] else { unreachable!() };
    assert_eq!((state.disk, state.hard_state), (disk.disk.clone(), write.hard_state.clone()));
    assert_eq!(state.noted, 0x0102_0305);
}

#[test]
fn a_newer_format_is_refused_politely() {
    let disk = Forgetful::default();
    drop(start(&disk).unwrap());
    disk.with_file("RAFT-LOG", |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        *bytes = text.replace("format 1", "format 2").into_bytes();
    });
    let error = start(&disk).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("format 2") && error.contains("knows format 1"), "{error}");
}
