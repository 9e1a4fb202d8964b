//! The fuzzer's function on what the fuzzer has kept, and on defects that it must find.

use crate::file_log::{
    format::{COMMIT, COMMIT_BYTES, ENTRY, Encoder, seed},
    fuzz::{self, Batch, Input, MemoryDisk, Met},
    segment::Segment,
};

/// All that the corpus must meet.
#[cfg(feature = "testing")]
const ALL: [&str; 14] = [
    "any bytes, opened",
    "any bytes, refused",
    "damaged, cut",
    "damaged, refused",
    "damaged, unreadable",
    "frame decoded",
    "frame malformed",
    "made up, opened",
    "made up, refused",
    "made up, without a batch",
    "restart",
    "segment sealed",
    "torn write",
    "whole",
];
const STORE: u64 = 7;

#[cfg(feature = "testing")]
#[test]
fn what_the_fuzzer_has_kept_holds_and_meets_all_there_is() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut met = Met::new();
    crate::testing::fuzz::replay(&dir, "log_segment", |data| {
        let here = fuzz::run(data).unwrap();
        here.into_iter().for_each(|(what, count)| *met.entry(what).or_default() += count);
    });
    println!("{met:?}");
    let met: Vec<_> = met.into_keys().collect();
    assert_eq!(met, ALL, "the corpus has lost something, or there is more to meet");
}

/// Three writes into one segment.
fn program(planted: &dyn Fn(&MemoryDisk, &[Batch])) -> Result<Met, String> {
    let append = [11, 0, 3, b'a', b'b', b'c'];
    let bytes = [&[3][..], &append, &append, &append].concat();
    let mut met = Met::new();
    fuzz::run_program(&mut Input(&bytes), planted, &mut met).map(|()| met)
}

/// Writes the last batch anew with the last byte of its entries changed.
fn forge(disk: &MemoryDisk, batches: &[Batch]) {
    let (Batch { segment, range, .. }, number) = (batches.last().unwrap(), batches.len() as u64);
    let name = Segment::name(*segment);
    let mut file = disk.file(&name);
    let mut buffer = Vec::new();
    let mut encoder = Encoder::new(&mut buffer, seed(STORE, *segment), range.start);
    let mut at = range.start as usize;
    while file[at + 8] != COMMIT {
        let length = u32::from_le_bytes(file[at + 4..at + 8].try_into().unwrap()) as usize;
        let mut body = file[at + 16..at + 16 + length].to_vec();
        if file[at + 8] == ENTRY {
            *body.last_mut().unwrap() ^= 1;
        }
        encoder.frame(file[at + 8], file[at + 9], |to| to.extend(body));
        at += (16 + length).next_multiple_of(8);
    }
    encoder.commit(number);
    file[range.start as usize..range.end as usize].copy_from_slice(&buffer);
    disk.put(&name, file);
}

#[test]
fn what_is_wrong_is_found() {
    let met = program(&|_, _| {}).unwrap();
    assert_eq!(met, Met::from([("whole", 1)]));
    // Checksums that do not keep a changed byte from being read.
    let wrong = program(&forge).unwrap_err();
    assert!(wrong.contains("is read, and") && wrong.contains("was written"), "{wrong}");
    // A start that loses the last batch, and one that refuses what is whole.
    let zeros = |nth: usize| {
        move |disk: &MemoryDisk, batches: &[Batch]| {
            let Batch { segment, range, .. } = &batches[nth];
            let mut file = disk.file(&Segment::name(*segment));
            file[(range.end - COMMIT_BYTES) as usize..range.end as usize].fill(0);
            disk.put(&Segment::name(*segment), file);
        }
    };
    let wrong = program(&zeros(2)).unwrap_err();
    assert!(wrong.contains("is lost"), "{wrong}");
    let wrong = program(&zeros(1)).unwrap_err();
    assert!(wrong.contains("at most the last write is not whole"), "{wrong}");
}
