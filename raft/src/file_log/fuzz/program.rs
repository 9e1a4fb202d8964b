//! What a writer has written, with restarts and writes that the power failed in, and then damage.

use std::{collections::BTreeMap, ops::Range, path::Path};

use super::{DIR, Input, MemoryDisk, Met, SEGMENT_BYTES, STORE, Shown, count, open, start};
use crate::{
    configuration::{ClusterId, Configuration, Server},
    file_log::{
        format::{COMMIT_BYTES, HEADER_BYTES},
        open as opening,
        segment::{Segment, State},
        writer::{Change, Writer},
    },
    log::{Entry, EntryPayload},
    position::{LogIndex, Term},
    stable::{DiskIdentity, HardState},
};

const MAX_STEPS: u8 = 48;
const MAX_DAMAGES: usize = 8;
/// Commands are a few bytes again and again; the longest ones need a segment of their own.
const MAX_COMMAND_BYTES: u64 = SEGMENT_BYTES + SEGMENT_BYTES / 4;
/// The bytes of a command that the input chooses.
const PATTERN_BYTES: usize = 8;
/// The largest index that a log begins with here: some entries can follow.
const LAST_FIRST: u64 = u64::MAX - 1000;
/// Padding of a header's block follows here.
const HEADER_USED_BYTES: u64 = 44;
/// What of a write reaches the disk or not as a whole. Real disks write more at once, and these writes are small.
const SECTOR_BYTES: usize = 32;

/// One batch, and what the log holds after it.
pub(in super::super) struct Batch {
    pub(in super::super) segment: u64,
    pub(in super::super) range: Range<u64>,
    entries: Range<u64>,
    /// Whether it removes entries, and segments with them.
    removes: bool,
    after: Held,
}

/// What the log should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Held {
    state: State,
    entries: BTreeMap<u64, Entry>,
}

impl Held {
    fn carry_out(&mut self, change: &Change) {
        if let Some(from) = change.cut {
            self.entries.split_off(&from);
        }
        if let Some(through) = change.through {
            self.entries.retain(|index, _| through < *index);
        }
        let entries = change.entries.iter().flat_map(|entries| entries.iter());
        self.entries.extend(entries.map(|entry| (entry.index.0, entry.clone())));
        let State { hard_state, disk, .. } = &mut self.state;
        *hard_state = change.hard_state.clone().or(hard_state.take());
        *disk = change.disk.clone().or(disk.take());
    }

    fn bounds(&self) -> Option<(u64, u64)> {
        Some((*self.entries.first_key_value()?.0, *self.entries.last_key_value()?.0))
    }

    fn next(&self) -> u64 {
        self.bounds().map_or(1, |(_, last)| last + 1)
    }

    /// What is wrong with this, beside entries that cannot be read.
    fn check(&self, shown: &Shown) -> Result<(), String> {
        if (&shown.state, shown.bounds) != (&self.state, self.bounds()) {
            return Err(format!(
                "{:?} and {:?} are there, and should be {:?} and {:?}",
                shown.state,
                shown.bounds,
                self.state,
                self.bounds()
            ));
        }
        for (index, entry) in &shown.entries {
            if entry.is_some() && entry.as_ref() != self.entries.get(index) {
                let written = self.entries.get(index);
                return Err(format!("{entry:?} is read, and {written:?} was written"));
            }
        }
        Ok(())
    }
}

/// Carries out a program. What is `planted` changes the disk before the damage, and is not known to be damage.
pub(in super::super) fn run(
    input: &mut Input<'_>,
    planted: &dyn Fn(&MemoryDisk, &[Batch]),
    met: &mut Met,
) -> Result<(), String> {
    let disk = MemoryDisk::default();
    let created = opening::create(&disk.shared(), Path::new(DIR), STORE, SEGMENT_BYTES);
    created.map_err(|error| error.to_string())?;
    let writer = open(&disk).map_err(|error| error.to_string())?;
    let (batches, torn, held) = (Vec::new(), Vec::new(), Held::default());
    let mut program = Program { disk, writer, batches, torn, held, term: 1 };
    for _ in 0..input.byte() % MAX_STEPS {
        program.step(input, met)?;
    }
    let Program { disk, batches, torn, .. } = program;
    planted(&disk, &batches);
    let damaged = disk.copy();
    for _ in 0..MAX_DAMAGES {
        if input.is_empty() {
            break;
        }
        damage(&damaged, &batches, input);
    }
    Judge { whole: &disk, damaged: &damaged, batches: &batches, torn: &torn }.judge(met)
}

struct Program {
    disk: MemoryDisk,
    writer: Writer,
    batches: Vec<Batch>,
    /// The segments and the beginnings of writes that the power failed in.
    torn: Vec<(u64, u64)>,
    held: Held,
    term: u64,
}

impl Program {
    fn step(&mut self, input: &mut Input<'_>, met: &mut Met) -> Result<(), String> {
        let mut change = Change::default();
        match input.byte() % 16 {
            0 => return self.restart(met),
            1 => {
                let mask = u32::from_le_bytes(std::array::from_fn(|_| input.byte()));
                return self.tear(mask, met);
            }
            2 => {
                let server = text(input).as_str().into();
                let (incarnation, starts) = (input.number().max(1), input.short() as u32);
                let was_rolled_back = input.byte() % 2 == 1;
                change.disk = Some(DiskIdentity { server, incarnation, starts, was_rolled_back });
            }
            3 => change.hard_state = Some(self.hard_state(input)),
            4 | 5 => {
                let first = self.held.bounds().map_or(0, |(first, _)| first);
                change.through = Some(first.saturating_add(input.number()));
            }
            6 => {
                // A snapshot takes the place of the log.
                change.cut = Some(0);
                let next = input.number().clamp(1, LAST_FIRST);
                change.entries = vec![self.entries(next, input).into()];
            }
            7 | 8 => {
                let from = self.held.next().saturating_sub(u64::from(input.byte() % 16)).max(1);
                change.cut = Some(from);
                let is_kept = |(first, _)| first < from;
                let next = if self.held.bounds().is_some_and(is_kept) { from } else { 1 };
                if !input.byte().is_multiple_of(4) {
                    change.hard_state = Some(self.hard_state(input));
                    change.entries = vec![self.entries(next, input).into()];
                }
            }
            kind => {
                if kind == 9 {
                    change.hard_state = Some(self.hard_state(input));
                }
                change.entries = vec![self.entries(self.held.next(), input).into()];
                if kind == 10 {
                    change.note = Some(self.held.next().saturating_sub(input.number()));
                }
            }
        }
        self.write(&change)
    }

    fn hard_state(&mut self, input: &mut Input<'_>) -> HardState {
        self.term += u64::from(input.byte() % 4);
        let voted_for = (input.byte() % 2 == 1).then(|| text(input).as_str().into());
        HardState { current_term: Term(self.term), voted_for }
    }

    fn entries(&self, first: u64, input: &mut Input<'_>) -> Vec<Entry> {
        let count = u64::from(input.byte() % 4);
        let entry = |index| {
            let payload = payload(input);
            Entry { term: Term(self.term), index: LogIndex(index), payload }
        };
        (first..=first + count).map(entry).collect()
    }

    fn write(&mut self, change: &Change) -> Result<(), String> {
        let written = self.writer.write(change.clone());
        written.map_err(|error| format!("{change:?} is refused: {error}"))?;
        self.held.carry_out(change);
        // How these change is the writer's word: whether a start finds them is the question here.
        let state = self.writer.shared.state.read().clone();
        (self.held.state.noted, self.held.state.first) = (state.noted, state.first);
        let tail = &self.writer.tail;
        if self.batches.len() as u64 != tail.contents.last_batch {
            let mut indexes = change.entries.iter().flat_map(|it| it.iter()).map(|it| it.index.0);
            let first = indexes.next().unwrap_or_default();
            self.batches.push(Batch {
                segment: tail.segment.id,
                range: tail.contents.last_start..tail.contents.end,
                entries: first..indexes.last().unwrap_or(first) + u64::from(first != 0),
                removes: change.cut.is_some() || change.through.is_some(),
                after: self.held.clone(),
            });
        }
        Ok(())
    }

    fn restart(&mut self, met: &mut Met) -> Result<(), String> {
        count(met, "restart");
        self.writer = open(&self.disk).map_err(|error| format!("a restart is refused: {error}"))?;
        let shown = Shown::by(&self.writer)?;
        self.held.check(&shown)?;
        match shown.entries.iter().find(|(_, entry)| entry.is_none()) {
            Some((index, _)) => Err(format!("nothing is damaged, and entry {index} is not read")),
            None => Ok(()),
        }
    }

    /// The power fails in the last write, and the log goes on from what is left.
    fn tear(&mut self, mask: u32, met: &mut Met) -> Result<(), String> {
        let Some(last) = self.batches.last() else { return Ok(()) };
        let name = Segment::name(last.segment);
        if self.disk.tear(&name, last.range.start, SECTOR_BYTES, mask) == Some(true) {
            count(met, "torn write");
            self.torn.push((last.segment, last.range.start));
            self.batches.pop();
            self.held = self.batches.last().map(|batch| batch.after.clone()).unwrap_or_default();
        }
        self.restart(met)
    }
}

fn text(input: &mut Input<'_>) -> String {
    let count = usize::from(input.byte() % 16);
    String::from_utf8_lossy(input.take(count)).into_owned()
}

fn payload(input: &mut Input<'_>) -> EntryPayload {
    match input.byte() {
        0xfd => EntryPayload::Noop,
        0xfe => EntryPayload::Barrier,
        0xff => {
            let servers = (0..input.byte() % 4).map(|nth| {
                let (id, address) = (text(input), text(input));
                let server = if nth % 2 == 0 { Server::voter } else { Server::nonvoter };
                Server { incarnation: input.number(), ..server(id, address) }
            });
            let members = Configuration::new(servers.collect::<Vec<_>>());
            EntryPayload::Configuration(members.with_cluster(ClusterId(input.number())))
        }
        length => {
            let is_long = 0xf0 <= length;
            let length = if is_long { input.short() % MAX_COMMAND_BYTES } else { length.into() };
            let pattern = input.take((length as usize).min(PATTERN_BYTES));
            let bytes = pattern.iter().copied().cycle().take(length as usize);
            EntryPayload::Command(bytes.collect::<Vec<_>>().into())
        }
    }
}

/// Changes some bytes, somewhere or in one of the batches, or a whole file. Nothing that the input could choose so
/// that a checksum is right again.
fn damage(disk: &MemoryDisk, batches: &[Batch], input: &mut Input<'_>) {
    let names = disk.names_now();
    let (kind, which) = (input.byte(), usize::from(input.byte()));
    let batch = batches.iter().rev().nth(which / 2);
    let (name, at) = match batch.filter(|_| which % 2 == 0) {
        Some(Batch { segment, range, .. }) => {
            (Segment::name(*segment), range.start + input.short() % (range.end - range.start))
        }
        None => {
            let Some(name) = names.get(which / 2 % names.len().max(1)) else { return };
            (name.clone(), input.short() % (disk.file(name).len() as u64).max(1))
        }
    };
    let at = at as usize;
    let mut bytes = disk.file(&name);
    if bytes.len() <= at {
        return;
    }
    match kind % 8 {
        0..=3 => bytes[at] ^= input.byte().max(1),
        4 => {
            let end = bytes.len().min(at + input.short() as usize);
            bytes[at..end].fill(0);
        }
        5 => bytes.truncate(at),
        6 => {
            // Bytes that were right in another place.
            let from = (at & !7) + usize::from(input.byte()) * 8;
            let (end, to) = (bytes.len().min(from + input.short() as usize), at & !7);
            if from < end {
                bytes.copy_within(from..end, to);
            }
        }
        _ => {
            let Some(other) = names.get(usize::from(input.byte()) % names.len()) else { return };
            bytes = disk.file(other);
        }
    }
    disk.put(&name, bytes);
}

/// What a start may make of a disk that was damaged.
struct Judge<'a> {
    whole: &'a MemoryDisk,
    damaged: &'a MemoryDisk,
    batches: &'a [Batch],
    torn: &'a [(u64, u64)],
}

impl Judge<'_> {
    fn is_changed(&self, segment: u64, range: Range<u64>) -> bool {
        let name = Segment::name(segment);
        let range = range.start as usize..range.end as usize;
        let (before, after) = (self.whole.file(&name), self.damaged.file(&name));
        before.get(range.clone()) != after.get(range)
    }

    /// Whether anything is changed that must be there for a start, outside of the last batch.
    fn is_harmed(&self) -> bool {
        let last = self.batches.last();
        let is_harmed = |name: &String| {
            let (before, after) = (self.whole.file(name), self.damaged.file(name));
            let Some(id) = Segment::parse(name, "log-") else {
                // Spare files count for nothing.
                return Segment::parse(name, "spare-").is_none() && before != after;
            };
            let end = self.batches.iter().filter(|it| it.segment == id).map(|it| it.range.end);
            let mut end = end.max().unwrap_or(HEADER_BYTES);
            if let Some(last) = last.filter(|it| it.segment == id) {
                end = last.range.start;
            }
            before.len() != after.len()
                || self.is_changed(id, 0..HEADER_USED_BYTES)
                || self.is_changed(id, HEADER_BYTES..end)
        };
        self.whole.names_now().iter().any(is_harmed)
    }

    /// Whether the log is there without its last batch, and whether that one is whole.
    fn last_batch(&self) -> (bool, bool) {
        let [before @ .., last] = self.batches else { return (true, true) };
        let is_file = |segment| !self.whole.file(&Segment::name(segment)).is_empty();
        let is_there = match before.last() {
            Some(before) if before.segment == last.segment => true,
            // The next segment is made after the batch is durable, and so shows that it was.
            _ if is_file(last.segment + 1) => false,
            Some(before) => is_file(before.segment),
            None => last.segment == 1,
        };
        // What is left of a write after the batch shows that too, as does the footer before such a write.
        let place = (last.segment, last.range.start);
        let is_followed = self.torn.iter().any(|torn| place < *torn);
        let is_whole = !self.is_changed(last.segment, last.range.clone());
        (is_there && !last.removes && !is_followed, is_whole)
    }

    fn judge(&self, met: &mut Met) -> Result<(), String> {
        let segments: Vec<u64> = self.batches.iter().map(|batch| batch.segment).collect();
        if segments.windows(2).any(|pair| pair[0] != pair[1]) {
            count(met, "segment sealed");
        }
        let (is_there_without, is_last_whole) = self.last_batch();
        let (is_harmed, written) = (self.is_harmed(), self.batches.len());
        let (shown, found) = match start(self.damaged, true)? {
            Ok(found) => found,
            Err(_) if is_harmed || !is_last_whole && !is_there_without => {
                count(met, "damaged, refused");
                return Ok(());
            }
            Err(refused) => {
                return Err(format!("at most the last write is not whole, and it is {refused}"));
            }
        };
        let (kept, lost) = self.batches.split_at(written.min(found as usize));
        count(met, if lost.is_empty() { "whole" } else { "damaged, cut" });
        if written < found as usize {
            return Err(format!("batch {found} is found, and {written} were written"));
        }
        kept.last().map_or(&Held::default(), |last| &last.after).check(&shown)?;
        for (index, _) in shown.entries.iter().filter(|(_, entry)| entry.is_none()) {
            count(met, "damaged, unreadable");
            let batch = kept.iter().rev().find(|batch| batch.entries.contains(index));
            if !batch.is_some_and(|it| self.is_changed(it.segment, it.range.clone())) {
                return Err(format!("entry {index} is not read, and was not damaged"));
            }
        }
        self.check_lost(lost)
    }

    /// A batch is lost only if it was damaged, and all after it: their ends, which show that it was durable. A footer
    /// shows the same.
    fn check_lost(&self, lost: &[Batch]) -> Result<(), String> {
        let mut before = 0;
        for batch in lost {
            let Batch { segment, range, .. } = batch;
            let end = range.end - COMMIT_BYTES..range.end;
            let must_be_damaged = if *segment == before { end } else { range.clone() };
            if !self.is_changed(*segment, must_be_damaged) {
                return Err(format!("a batch of segment {segment} at {range:?} is lost"));
            }
            before = *segment;
            let footer = Segment::open(&self.damaged.shared(), STORE, *segment)
                .ok()
                .and_then(|segment| segment.read_footer().ok().flatten());
            if footer.is_some_and(|footer| range.end <= footer.end) {
                return Err(format!(
                    "a batch of segment {segment} at {range:?} is lost that its footer knows"
                ));
            }
        }
        Ok(())
    }
}
