//! Bytes that change, files that go away, disks that are full or fail.

use std::{path::Path, sync::Arc};

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::{
    forgetful::Forgetful,
    model::{DIR, Model, SEGMENT_BYTES, entry, start},
};
use crate::{
    file_log::{
        disk::Disk,
        format::{self, Encoder, HEADER_BYTES},
        identity,
        open::Opening,
        segment::Segment,
        store::FileLogReader,
        writer::{Change, Next, Writer},
    },
    log::{Entries, LogReader},
    position::{LogIndex, Term},
    stable::HardState,
    store_error::StoreError,
};

fn append(first: u64, last: u64, length: usize) -> Change {
    let entries = (first..=last).map(|index| entry(1, index, length)).collect::<Vec<_>>();
    Change { entries: vec![Entries::new(entries)], ..Change::default() }
}

fn vote(term: u64) -> Change {
    let hard_state = HardState { current_term: Term(term), voted_for: Some("b".into()) };
    Change { hard_state: Some(hard_state), ..Change::default() }
}

/// A log of several segments, and what it holds.
fn grown(disk: &Forgetful, batches: u64, length: usize) -> (Writer, Model) {
    let mut writer = start(disk).unwrap();
    let mut model = Model::default();
    for batch in 0..batches {
        let change = if batch % 7 == 3 {
            vote(batch)
        } else {
            let next = if model.entries.is_empty() { 1 } else { model.last() + 1 };
            append(next, next + batch % 4, length)
        };
        writer.write(change.clone()).unwrap();
        model = model.after(&change);
    }
    (writer, model)
}

/// What a start on this disk makes of it.
fn found(disk: &Forgetful) -> Result<Model, StoreError> {
    Model::of(&start(disk)?)
}

fn flip(disk: &Forgetful, name: &str, at: u64, bits: u8) {
    disk.with_file(name, |bytes| bytes[at as usize] ^= bits);
}

/// Every byte of the last two batches: the last one may be cut, the one before is refused.
#[test]
fn a_flipped_byte_of_the_last_two_batches_is_cut_or_refused() {
    for (length, last) in [(40, 21), (3, 20), (40, 18)] {
        let disk = Forgetful::default();
        let (mut writer, before) = grown(&disk, last, length);
        let name = Segment::name(writer.tail.segment.id);
        let starts = writer.tail.contents.end;
        let next = before.last() + 1;
        let change = append(next, next + 2, length);
        writer.write(change.clone()).unwrap();
        let (middle, model) = (writer.tail.contents.end, before.after(&change));
        let change = Change { note: Some(next + 1), ..append(next + 3, next + 4, length) };
        writer.write(change.clone()).unwrap();
        let (end, after) = (writer.tail.contents.end, model.after(&change));
        drop(writer);
        assert_eq!(found(&disk).unwrap(), after);
        for (at, bits) in (starts..end).flat_map(|at| [(at, 1), (at, 0x80), (at, 0xff)]) {
            flip(&disk, &name, at, bits);
            let result = found(&disk);
            if at < middle {
                let error = result.expect_err("it is refused");
                assert!(matches!(error, StoreError::Corrupt { .. }), "at {at}: {error}");
                let text = error.to_string();
                assert!(text.contains(&name) && text.contains("rejoin"), "{text}");
            } else {
                assert_eq!(result.unwrap(), model, "at {at}");
            }
            flip(&disk, &name, at, bits);
        }
    }
}

/// Anywhere in a large log: refused at the start, refused by the read that meets it, cut at the very end, or
/// in a place that counts for nothing.
#[test]
fn a_flipped_byte_anywhere_is_never_wrong_data() {
    let disk = Forgetful::default();
    let (writer, model) = grown(&disk, 400, 200);
    let names: Vec<String> = writer.segments.iter().map(|it| Segment::name(it.id)).collect();
    assert!(10 < names.len(), "{names:?}");
    drop(writer);
    let mut rng = Pcg64::seed_from_u64(5);
    let (mut refused, mut harmless, mut cut) = (0, 0, 0);
    for _ in 0..1000 {
        let name = &names[rng.random_range(0..names.len())];
        let at = rng.random_range(0..disk.with_file(name, |bytes| bytes.len())) as u64;
        let bits = rng.random_range(1..=255);
        flip(&disk, name, at, bits);
        match found(&disk) {
            Ok(found) if found == model => harmless += 1,
            Ok(found) => {
                assert!(
                    model.entries.starts_with(&found.entries) && name == names.last().unwrap(),
                    "{name} at {at}: {found:?}"
                );
                cut += 1;
            }
            Err(StoreError::Corrupt { .. }) => refused += 1,
            Err(error) => panic!("{name} at {at}: {error}"),
        }
        flip(&disk, name, at, bits);
    }
    println!("{refused} refused, {harmless} harmless, {cut} cut");
    assert!(500 < refused && 0 < harmless, "{refused} refused, {harmless} harmless");
}

/// A sealed segment whose footer is gone is read batch by batch.
#[test]
fn a_footer_that_is_damaged_is_not_missed() {
    let disk = Forgetful::default();
    let (writer, model) = grown(&disk, 100, 200);
    for segment in writer.segments.iter().take(writer.segments.len() - 1) {
        let name = Segment::name(segment.id);
        let end = segment.read_footer().unwrap().expect("it is sealed").end;
        disk.with_file(&name, |bytes| bytes[end as usize..].fill(0x55));
        assert_eq!(found(&disk).unwrap(), model, "{name}");
    }
}

/// Its batches are whole, and their numbers and offsets would go on: but they were written under another number.
#[test]
fn what_a_recycled_segment_held_before_is_not_there() {
    let disk = Forgetful::default();
    let (mut writer, mut model) = grown(&disk, 200, 200);
    let old = Segment::name(writer.segments[1].id);
    let content = disk.with_file(&old, |bytes| bytes.clone());
    while !matches!(writer.next, Next::Ready(_)) {
        let change = append(model.last() + 1, model.last() + 1, 200);
        writer.write(change.clone()).unwrap();
        model = model.after(&change);
    }
    let prepared = Segment::name(writer.tail.segment.id + 1);
    drop(writer);
    disk.with_file(&prepared, |bytes| {
        bytes[HEADER_BYTES as usize..].copy_from_slice(&content[HEADER_BYTES as usize..]);
    });
    assert_eq!(found(&disk).unwrap(), model);
}

#[test]
fn a_cut_across_segments_and_then_a_prefix_up_to_it() {
    let disk = Forgetful::default();
    let (mut writer, mut model) = grown(&disk, 100, 200);
    let (border, third) = {
        let index = writer.shared.index.read();
        (index.runs[2].first, index.runs[2].segment.id)
    };
    for change in [
        Change { cut: Some(border - 2), ..append(border - 2, border + 5, 30) },
        Change { through: Some(border - 3), ..Change::default() },
        append(border + 6, border + 6, 30),
    ] {
        writer.write(change.clone()).unwrap();
        model = model.after(&change);
        assert_eq!(Model::of(&writer).unwrap(), model);
        assert_eq!(found(&disk).unwrap(), model);
    }
    assert!(third < writer.segments[0].id, "the segments before it are dropped");
}

#[test]
fn a_full_disk_is_told_before_it_hurts_and_loses_nothing() {
    let disk = Forgetful::default();
    let (mut writer, mut model) = grown(&disk, 60, 200);
    disk.set_capacity(Some(disk.bytes()));
    let mut told = None;
    let error = loop {
        let change = append(model.last() + 1, model.last() + 1, 200);
        match writer.write(change.clone()) {
            Ok(()) => model = model.after(&change),
            Err(error) => break error,
        }
        if told.is_none()
            && let Some(trouble) = writer.shared.trouble.lock().clone()
        {
            told = Some((model.last(), trouble));
        }
    };
    let (at, trouble) = told.expect("it is told");
    assert!(at + 10 < model.last(), "told at {at}, and it hurt at {}", model.last());
    assert!(trouble.contains(DIR) && trouble.contains("bytes more"), "{trouble}");
    assert!(error.to_string().contains("cannot prepare"), "{error}");
    // Nothing more is written, reading goes on, and with room it starts again.
    let again = writer.write(vote(9)).unwrap_err();
    assert!(matches!(again, StoreError::Refused { .. }), "{again}");
    assert_eq!(Model::of(&writer).unwrap(), model);
    drop(writer);
    assert_eq!(found(&disk).unwrap(), model);
    disk.set_capacity(None);
    let mut writer = start(&disk).unwrap();
    let change = append(model.last() + 1, model.last() + 100, 200);
    writer.write(change.clone()).unwrap();
    assert_eq!(Model::of(&writer).unwrap(), model.after(&change));
    assert_eq!(*writer.shared.trouble.lock(), None);
}

/// Whichever call of the disk fails, the write fails with it, and no other one succeeds after it.
#[test]
fn after_any_call_that_fails_nothing_more_is_written() {
    let mut failed = 0;
    for nth in 1..300 {
        let disk = Forgetful::default();
        let (mut writer, mut model) = grown(&disk, 10, 200);
        disk.fail_at(Some(disk.calls() + nth));
        let mut under_way = None;
        for batch in 0..60 {
            let next = model.last() + 1;
            let change = match batch % 6 {
                5 => Change { through: Some(next - 5), ..Change::default() },
                _ => append(next, next + 1, 300),
            };
            match writer.write(change.clone()) {
                Ok(()) if under_way.is_some() => panic!("call {nth} failed, and a write succeeds"),
                Ok(()) => model = model.after(&change),
                Err(_) => under_way = under_way.or(Some(change)),
            }
        }
        let Some(change) = under_way else { continue };
        failed += 1;
        // It may have been dropped from the index; what is there is what was written.
        let last = model.last();
        assert_eq!(writer.shared.read(LogIndex(last)..=LogIndex(last), 1).unwrap().len(), 1);
        drop(writer);
        let found = found(&disk).unwrap();
        assert!(found == model || found == model.after(&change), "call {nth}: {found:?}");
    }
    assert!(100 < failed, "only {failed} failed");
}

/// Files that are gone, or there twice.
#[test]
fn a_segment_that_is_missing_or_there_twice_is_refused_by_name() {
    let disk = Forgetful::default();
    let (writer, model) = grown(&disk, 100, 200);
    let names: Vec<String> = writer.segments.iter().map(|it| Segment::name(it.id)).collect();
    drop(writer);
    let hidden = "elsewhere";
    for name in &names[..names.len() - 1] {
        disk.rename(name, hidden).unwrap();
        let error = found(&disk).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{name}: {error}");
        assert!(error.to_string().contains("missing"), "{name}: {error}");
        disk.rename(hidden, name).unwrap();
    }
    for pair in names.windows(2) {
        let content = disk.with_file(&pair[0], |bytes| bytes.clone());
        let real = disk.with_file(&pair[1], |bytes| std::mem::replace(bytes, content));
        let error = found(&disk).unwrap_err();
        assert!(error.to_string().contains("its header says"), "{error}");
        disk.with_file(&pair[1], |bytes| *bytes = real);
    }
    assert_eq!(found(&disk).unwrap(), model);
}

#[test]
fn a_segment_of_another_store_or_of_a_newer_format_is_refused() {
    let disk = Forgetful::default();
    let (writer, _) = grown(&disk, 20, 200);
    let name = Segment::name(writer.tail.segment.id);
    drop(writer);
    let real = disk.with_file(&name, |bytes| bytes.clone());
    let of = |store, version| {
        let header = format::Header {
            version,
            store,
            segment: Segment::parse(&name, "log-").unwrap(),
            size: real.len() as u64,
        };
        disk.with_file(&name, |bytes| {
            bytes[..HEADER_BYTES as usize].copy_from_slice(&header.encode());
        });
        found(&disk).unwrap_err()
    };
    let error = of(8, 1);
    assert!(error.to_string().contains("belongs to store 0000000000000008"), "{error}");
    let error = of(7, 2);
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("is in format 2"), "{error}");
}

/// What was prepared behind it is no new log.
#[test]
fn a_prepared_segment_alone_is_refused() {
    let disk = Forgetful::default();
    let (mut writer, mut model) = grown(&disk, 20, 200);
    while !matches!(writer.next, Next::Ready(_)) {
        let change = append(model.last() + 1, model.last() + 1, 200);
        writer.write(change.clone()).unwrap();
        model = model.after(&change);
    }
    let names: Vec<String> = writer.segments.iter().map(|it| Segment::name(it.id)).collect();
    drop(writer);
    names.iter().for_each(|name| disk.remove(name).unwrap());
    let error = found(&disk).unwrap_err().to_string();
    assert!(error.contains("every segment that had a batch is missing"), "{error}");
}

/// A footer comes after the last batch was acknowledged.
#[test]
fn a_sealed_segment_whose_last_batch_is_damaged_is_refused() {
    let disk = Forgetful::default();
    let (mut writer, _) = grown(&disk, 20, 200);
    let segment = Arc::clone(&writer.tail.segment);
    let end = writer.tail.contents.end;
    let id = segment.id;
    while writer.tail.segment.id == id {
        let next = writer.shared.bounds().unwrap().1 + 1;
        writer.write(append(next, next, 200)).unwrap();
    }
    let last = segment.read_footer().unwrap().unwrap().end;
    assert!(end < last);
    let newest = Segment::name(writer.tail.segment.id);
    drop((writer, segment));
    // As if the batch in the next segment had not come to be.
    disk.with_file(&newest, |bytes| bytes[HEADER_BYTES as usize..].fill(0));
    assert!(found(&disk).is_ok());
    flip(&disk, &Segment::name(id), last - 10, 1);
    let error = found(&disk).unwrap_err().to_string();
    assert!(error.contains("its footer says that a batch was there"), "{error}");
}

/// A preparation that fails in the middle leaves nothing behind, and the next one succeeds.
#[test]
fn a_preparation_that_fails_is_tried_again_and_leaves_nothing() {
    for nth in 1..40 {
        let disk = Forgetful::default();
        let (mut writer, mut model) = grown(&disk, 1, 200);
        while writer.tail.contents.end + 800 < writer.tail.segment.size / 2 {
            let change = append(model.last() + 1, model.last() + 1, 200);
            writer.write(change.clone()).unwrap();
            model = model.after(&change);
        }
        disk.fail_at(Some(disk.calls() + nth));
        for _ in 0..60 {
            let change = append(model.last() + 1, model.last() + 1, 200);
            if writer.write(change.clone()).is_err() {
                break;
            }
            model = model.after(&change);
        }
        let is_spare = |name: &String| name.starts_with("spare-");
        assert!(!disk.names_now().iter().any(is_spare), "call {nth}: {:?}", disk.names_now());
        drop(writer);
        assert!(found(&disk).is_ok());
    }
}

/// Something of it is there: that is told.
#[test]
fn a_batch_that_is_not_whole_is_known_to_have_been_there() {
    let disk = Forgetful::default();
    let (writer, _) = grown(&disk, 10, 200);
    assert!(!start(&disk).unwrap().tail.contents.is_torn);
    let (name, end) = (Segment::name(writer.tail.segment.id), writer.tail.contents.end);
    drop(writer);
    flip(&disk, &name, end - 10, 1);
    assert!(start(&disk).unwrap().tail.contents.is_torn);
}

/// An entry that others were cut behind is read without them.
#[test]
fn what_was_cut_behind_an_entry_is_not_read_with_it() {
    let disk = Forgetful::default();
    let mut writer = start(&disk).unwrap();
    writer.write(append(1, 20, 300)).unwrap();
    writer.write(Change { cut: Some(3), ..append(3, 3, 10) }).unwrap();
    let read = writer.shared.read(LogIndex(2)..=LogIndex(3), u64::MAX).unwrap();
    assert_eq!(read[..], [entry(1, 2, 300), entry(1, 3, 10)]);
}

#[test]
fn a_note_does_not_outlive_what_it_is_about() {
    let disk = Forgetful::default();
    let mut writer = start(&disk).unwrap();
    writer.write(Change { note: Some(10), ..append(5, 20, 1) }).unwrap();
    writer.write(Change { cut: Some(3), ..Change::default() }).unwrap();
    assert_eq!((writer.shared.bounds(), writer.shared.state.read().noted), (None, 2));
}

/// The footers are enough for all but the tail.
#[test]
fn a_start_reads_the_footers_and_scans_the_tail() {
    let disk = Forgetful::default();
    let (writer, model) = grown(&disk, 300, 200);
    let sealed: Vec<u64> = writer.segments.iter().rev().skip(1).map(|it| it.id).collect();
    drop(writer);
    // Damage that only a scan would meet.
    for id in &sealed {
        flip(&disk, &Segment::name(*id), HEADER_BYTES + 20, 1);
    }
    let shared: Arc<dyn Disk> = Arc::new(disk);
    let opening = Opening {
        disk: shared,
        dir: Path::new(DIR),
        store: 7,
        segment_bytes: SEGMENT_BYTES,
        in_background: false,
        is_read_only: false,
    };
    let writer = opening.run().unwrap();
    assert_eq!(writer.shared.bounds(), Some((1, model.last())));
}

/// One that is missing at the end too: the segment before it is only sealed when it is there.
#[test]
fn a_missing_segment_is_missed_wherever_it_was() {
    let disk = Forgetful::default();
    let (writer, _) = grown(&disk, 300, 200);
    let ids: Vec<u64> = writer.segments.iter().map(|segment| segment.id).collect();
    assert!(5 <= ids.len(), "{ids:?}");
    let (newest, has_next) = (ids[ids.len() - 1], matches!(writer.next, Next::Ready(_)));
    drop(writer);
    if has_next {
        disk.remove(&Segment::name(newest + 1)).unwrap();
    }
    for (missing, says) in [
        (
            ids[0],
            format!("file {} is missing, and perhaps others before it", Segment::name(ids[0])),
        ),
        (ids[2], format!("file {} is missing", Segment::name(ids[2]))),
        (newest, format!("file {} is missing", Segment::name(newest))),
    ] {
        let disk = disk.cut(0);
        let names = disk.names_now();
        disk.remove(&Segment::name(missing)).unwrap();
        let error = found(&disk).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
        assert!(error.to_string().contains(&says), "{error}");
        assert_eq!(disk.names_now().len(), names.len() - 1, "nothing else is changed");
    }
}

/// It makes one segment. Where there are more, its mark is not what it seems.
#[test]
fn an_unfinished_creation_has_no_second_segment() {
    let disk = Forgetful::default();
    let inspect = || identity::inspect(Path::new(DIR), &disk);
    for name in ["RAFT-LOG.creating", "log-0000000000000001", "spare-0000000000000001"] {
        disk.create(name).unwrap();
        assert_eq!(inspect().unwrap(), None, "{name}");
    }
    disk.create("log-0000000000000002").unwrap();
    let error = inspect().unwrap_err().to_string();
    assert!(error.contains("has segments of a log, but no file RAFT-LOG"), "{error}");
}

/// A server that has too many connections for a moment goes on afterwards.
#[tokio::test(start_paused = true)]
async fn a_read_waits_for_a_free_descriptor() {
    let disk = Forgetful::default();
    let (writer, _) = grown(&disk, 300, 200);
    assert!(1 < writer.segments.len(), "the first segment is sealed");
    let reader = FileLogReader { shared: Arc::clone(&writer.shared) };
    let first = LogIndex(1)..=LogIndex(1);
    disk.refuse_opens(5);
    let read = reader.read(first.clone(), u64::MAX).await.unwrap();
    assert_eq!(read[..], [entry(1, 1, 200)]);
    disk.refuse_opens(u32::MAX);
    let error = reader.read(first, u64::MAX).await.unwrap_err().to_string();
    assert!(
        error.starts_with("cannot read /forgetful/log-") && error.contains("os error 24"),
        "{error}"
    );
}

/// As the kernel does with a disk that has failed: what is there can be read, so that the server can say what
/// it has.
#[test]
fn a_file_system_that_has_become_read_only_can_be_read() {
    let disk = Forgetful::default();
    let (mut writer, model) = grown(&disk, 300, 200);
    disk.become_read_only();
    let next = model.last() + 1;
    writer.write(append(next, next, 10)).unwrap_err();
    assert_eq!(Model::of(&writer).unwrap(), model);
}

/// It is not taken for one that was only prepared, and nothing is lost in silence.
#[test]
fn a_sealed_segment_whose_only_batch_is_damaged_is_refused() {
    let disk = Forgetful::default();
    let (mut writer, model) = grown(&disk, 3, 200);
    let next = model.last() + 1;
    writer.write(append(next, next, 2 * SEGMENT_BYTES as usize - 1000)).unwrap();
    let only = Arc::clone(&writer.tail.segment);
    writer.write(append(next + 1, next + 1, 3000)).unwrap();
    assert_eq!(writer.tail.segment.id, only.id + 1);
    drop(writer);
    // As if the power had failed before the first batch of the next segment was there.
    disk.with_file(&Segment::name(only.id + 1), |bytes| bytes[HEADER_BYTES as usize..].fill(0));
    assert_eq!(found(&disk).unwrap().last(), next);
    flip(&disk, &Segment::name(only.id), HEADER_BYTES + 100, 1);
    let error = found(&disk).unwrap_err().to_string();
    assert!(error.contains("its footer says that a batch was there"), "{error}");
}

/// Right checksums around records that no release writes: after a write the log could not be opened any more.
#[test]
fn records_that_contradict_each_other_are_refused() {
    let made_up = |first: Option<u64>, index: u64, batch: u64| {
        let disk = Forgetful::default();
        drop(start(&disk).unwrap());
        let (mut buffer, name) = (Vec::new(), Segment::name(1));
        let mut encoder = Encoder::new(&mut buffer, format::seed(7, 1), HEADER_BYTES);
        if let Some(first) = first {
            encoder.number(format::FIRST, first);
        }
        encoder.entry(&entry(1, index, 10));
        encoder.commit(batch);
        disk.with_file(&name, |bytes| {
            bytes[HEADER_BYTES as usize..][..buffer.len()].copy_from_slice(&buffer);
        });
        found(&disk)
    };
    assert_eq!(made_up(Some(1), 1, 1).unwrap().last(), 1);
    for (first, index) in [(Some(2), 1), (Some(1), 2), (None, 1), (Some(0), 0), (None, 0)] {
        let error = made_up(first, index, 1).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{first:?} and {index}: {error}");
    }
    for number in [0, u64::MAX] {
        assert_eq!(made_up(Some(1), 1, number).unwrap(), Model::default(), "batch {number}");
    }
}
