//! What reads segments, fed with any bytes. libFuzzer (`raft/fuzz`) and the test that replays its corpus both
//! call [`run`].
//!
//! The first byte of the input says what the others are:
//!
//! | | the others are | what must hold, beside no panic |
//! |---|---|---|
//! | [`program`] | writes, restarts and torn writes, and damage at last | nothing is read that was not written; what is lost was damaged and at the end; a torn last write does not keep the log from opening |
//! | [`frames`] | frames of any kind and content, with the right checksums | what says something says the same after it was encoded anew |
//! | [`frames`] | a file of the directory, or what follows the header of a segment | |
//!
//! In each of them a log that has opened opens again as the same, takes a write, and has it at the next start. A
//! start reads what is there a few times at most, and a scan through a small window finds what one
//! through a large one does.

mod disk;
mod frames;
mod program;

use std::{collections::BTreeMap, path::Path};

#[cfg(not(test))]
use self::disk::MemoryDisk;
#[cfg(test)]
pub(super) use self::{
    disk::MemoryDisk,
    program::{Batch, run as run_program},
};
use super::{
    disk::Disk,
    errors, identity,
    open::Opening,
    segment::{Segment, State},
    writer::{Change, Writer},
};
use crate::{
    log::{Entry, EntryPayload},
    position::{LogIndex, Term},
    stable::HardState,
    store_error::StoreError,
};

const DIR: &str = "/memory";
const STORE: u64 = 7;
/// Far less than what users may choose, so that segments change all the time.
const SEGMENT_BYTES: u64 = 12 << 10;
/// Smaller than nearly every batch.
const SMALL_WINDOW_BYTES: u64 = 64;
/// How often a start may read all there is: header and footer, the scan, the last batch, and one to spare.
const READS: u64 = 4;

/// How often something was met, by its name: a corpus that does not meet it all has lost something.
pub(crate) type Met = BTreeMap<&'static str, u64>;

/// Does what the input says, and checks.
///
/// # Errors
/// What does not hold.
pub(crate) fn run(data: &[u8]) -> Result<Met, String> {
    let mut met = Met::new();
    let mut input = Input(data);
    match input.byte() % 4 {
        0 => frames::run(&mut input, &mut met)?,
        1 => frames::run_raw(&mut input, &mut met)?,
        _ => program::run(&mut input, &|_, _| (), &mut met)?,
    }
    Ok(met)
}

fn count(met: &mut Met, what: &'static str) {
    *met.entry(what).or_default() += 1;
}

/// Bytes that are still to be used. Zeros follow the last one.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    fn short(&mut self) -> u64 {
        u64::from(u16::from_le_bytes([self.byte(), self.byte()]))
    }

    /// A small number in one byte, or any number.
    fn number(&mut self) -> u64 {
        match self.byte() {
            0xff => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
            small => u64::from(small),
        }
    }

    /// So many bytes, or what is left.
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// What a log shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Shown {
    state: State,
    bounds: Option<(u64, u64)>,
    /// Every entry, or that it cannot be read.
    entries: BTreeMap<u64, Option<Entry>>,
}

impl Shown {
    /// Reads all of the log, one entry at a time.
    fn by(writer: &Writer) -> Result<Self, String> {
        let (state, bounds) = (writer.shared.state.read().clone(), writer.shared.bounds());
        let mut shown = Self { state, bounds, entries: BTreeMap::new() };
        let Some((first, last)) = bounds else { return Ok(shown) };
        for index in first..=last {
            let entry = match writer.shared.read(LogIndex(index)..=LogIndex(index), 1) {
                Ok(entries) if entries.len() == 1 && entries[0].index.0 == index => {
                    entries.first().cloned()
                }
                Err(StoreError::Corrupt { .. }) => None,
                other => return Err(format!("entry {index} is read as {other:?}")),
            };
            shown.entries.insert(index, entry);
        }
        // And all at once.
        let all: Vec<Entry> = shown.entries.values().flatten().cloned().collect();
        match writer.shared.read(LogIndex(first)..=LogIndex(last), u64::MAX) {
            Ok(entries) if entries[..] == all[..] && all.len() == shown.entries.len() => Ok(shown),
            Err(StoreError::Corrupt { .. }) => Ok(shown),
            other => Err(format!("all entries are read as {other:?}, one by one as {all:?}")),
        }
    }
}

/// Starts from what is there, and makes nothing.
fn open(disk: &MemoryDisk) -> Result<Writer, StoreError> {
    let dir = Path::new(DIR);
    let Some(store) = identity::inspect(dir, disk)? else { return identity::none(dir) };
    let opening = Opening {
        disk: disk.shared(),
        dir,
        store,
        segment_bytes: SEGMENT_BYTES,
        in_background: false,
        is_read_only: false,
    };
    opening.run()
}

/// What a start on a copy of this disk shows, and the number of the last batch; or why it is refused. Checks all
/// that holds whatever is there; but what was written is not looked for where a footer was made up (`is_footer_true`): a
/// start reads the batches of the newest segment, and takes the word of the footer when there is a newer one.
fn start(disk: &MemoryDisk, is_footer_true: bool) -> Result<Result<(Shown, u64), String>, String> {
    check_windows(disk)?;
    let disk = disk.copy();
    let (bytes, read) = (disk.bytes(), disk.bytes_read());
    let opened = open(&disk);
    let read = disk.bytes_read() - read;
    if READS * bytes < read {
        return Err(format!("a start reads {read} bytes, and {bytes} are there"));
    }
    let writer = match opened {
        Ok(writer) => writer,
        Err(StoreError::Io { context, source }) => {
            return Err(format!("damage is said to be an error of the disk: {context}: {source}"));
        }
        Err(refused) => return Ok(Err(refused.to_string())),
    };
    let (shown, last_batch) = (Shown::by(&writer)?, writer.tail.contents.last_batch);
    let again = |disk: &MemoryDisk, when: &str| {
        let writer = open(disk).map_err(|error| format!("{when} it is refused: {error}"))?;
        Shown::by(&writer).map(|shown| (writer, shown))
    };
    drop(writer);
    let (mut writer, second) = again(&disk, "at the second start")?;
    if second != shown {
        return Err(format!("the first start shows {shown:?}, the second {second:?}"));
    }

    let index = shown.bounds.map_or(1, |(_, last)| last.saturating_add(1));
    let payload = EntryPayload::Command("after".into());
    let entry = Entry { term: Term(u64::MAX), index: LogIndex(index), payload };
    let hard_state = HardState { current_term: Term(u64::MAX), voted_for: Some("after".into()) };
    let entries = vec![vec![entry.clone()].into()];
    let change = Change { hard_state: Some(hard_state.clone()), entries, ..Change::default() };
    if index == u64::MAX {
        // No entry can follow.
        return Ok(Ok((shown, last_batch)));
    }
    writer.write(change).map_err(|error| format!("after the start no write succeeds: {error}"))?;
    let mut expected = shown.clone();
    expected.state.hard_state = Some(hard_state);
    expected.state.first = shown.bounds.map_or(index, |_| shown.state.first);
    expected.state.noted = shown.state.noted.min(index);
    expected.bounds = Some((shown.bounds.map_or(index, |(first, _)| first), index));
    expected.entries.insert(index, Some(entry));
    drop(writer);
    let third = again(&disk, "after a write").map(|(_, third)| third);
    if is_footer_true && third.as_ref() != Ok(&expected) {
        return Err(format!("after a write there is {third:?}, and should be {expected:?}"));
    }
    Ok(Ok((shown, last_batch)))
}

/// Whether every segment is the same through a small window.
fn check_windows(disk: &MemoryDisk) -> Result<(), String> {
    let dir = Path::new(DIR);
    for id in disk.names().unwrap_or_default().iter().filter_map(|it| Segment::parse(it, "log-")) {
        let Ok(segment) = Segment::open(&disk.shared(), STORE, id) else { continue };
        let scan = |window| {
            let scanned = segment.scan_through(window);
            scanned.map_err(|unusable| errors::unusable(dir, id, unusable).to_string())
        };
        let (large, small) = (scan(SEGMENT_BYTES), scan(SMALL_WINDOW_BYTES));
        if large != small {
            return Err(format!("segment {id} is {large:?}, through a small window {small:?}"));
        }
    }
    Ok(())
}
