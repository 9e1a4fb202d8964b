//! The writer: one write is one batch of frames, at one place, with one sync.
//!
//! It blocks, and runs on a thread of its own ([`thread`](super::thread)). After the first write, sync or
//! change of names that failed it writes nothing more: what is on the disk is unknown then.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    thread,
};

use super::{
    disk::{Disk, DiskFile},
    errors,
    format::{self, Encoder, Footer, HEADER_BYTES},
    index::Shared,
    prepare::Job,
    segment::{Contents, Segment, State, unit},
};
use crate::{
    log::{Entries, Entry, EntryPayload},
    pop_if::PopIf as _,
    position::LogIndex,
    stable::{DiskIdentity, HardState},
    store_error::StoreError,
};

/// A new log begins with a small segment, so that a program starts at once.
pub(super) const FIRST_SEGMENT_BYTES: u64 = 4 << 20;

/// And each that is made new has at most so many times the size of the one before: the next one is to be ready
/// before the tail is full, also where a new log is written to at full speed.
const MAX_GROWTH: u64 = 4;

/// A buffer that had to grow beyond this for one huge write is given back.
const BUFFER_KEPT_BYTES: usize = 1 << 20;

/// What one write does, in this order.
#[derive(Clone, Debug, Default)]
pub(super) struct Change {
    pub(super) hard_state: Option<HardState>,
    pub(super) disk: Option<DiskIdentity>,
    /// Removes the entries from here on; all of them, if it is zero.
    pub(super) cut: Option<u64>,
    pub(super) entries: Vec<Entries>,
    /// Removes the entries up to here. Not together with a cut or entries.
    pub(super) through: Option<u64>,
    /// How far the log is known to be committed.
    pub(super) note: Option<u64>,
}

impl Change {
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().flat_map(|entries| entries.iter())
    }
}

impl State {
    /// What it is after this change.
    fn after(&self, change: &Change) -> Self {
        let mut after = self.clone();
        if change.hard_state.is_some() {
            after.hard_state.clone_from(&change.hard_state);
        }
        if change.disk.is_some() {
            after.disk.clone_from(&change.disk);
        }
        if change.cut == Some(0) {
            after.first = 0;
        }
        if let (0, Some(first)) = (after.first, change.entries().next()) {
            after.first = first.index.0;
        }
        if let Some(through) = change.through {
            after.first = through + 1;
        }
        after.noted = change.note.unwrap_or(after.noted);
        after
    }
}

/// The segment that is written to.
pub(super) struct Tail {
    pub(super) segment: Arc<Segment>,
    /// What it holds, but for the offsets, which are in the index.
    pub(super) contents: Contents,
    /// Whether its footer is written, or nothing fits any more for another reason.
    pub(super) is_full: bool,
}

pub(super) struct Writer {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) store: u64,
    pub(super) segment_bytes: u64,
    pub(super) shared: Arc<Shared>,
    /// All segments with batches, oldest first; the last one is the tail's.
    pub(super) segments: VecDeque<Arc<Segment>>,
    pub(super) tail: Tail,
    pub(super) next: Next,
    /// The number of a dropped segment whose file is free.
    pub(super) spare: Option<u64>,
    pub(super) buffer: Vec<u8>,
    /// What the first failed write said.
    pub(super) failure: Option<String>,
    /// Whether segments are prepared by a thread of their own.
    pub(super) in_background: bool,
    /// A planted defect.
    #[cfg(test)]
    pub(super) drops_too_early: bool,
}

/// The segment after the tail.
pub(super) enum Next {
    /// Not begun: the tail has room, or the last try failed when it was filled so far.
    None {
        tried_at: u64,
    },
    UnderWay(Receiver<io::Result<Arc<Segment>>>),
    Ready(Arc<Segment>),
}

impl Writer {
    /// Carries out one write. It is durable when this returns.
    pub(super) fn write(&mut self, change: Change) -> Result<(), StoreError> {
        if let Some(failure) = &self.failure {
            let reason = format!("after a failed write ({failure}) nothing more is written");
            return Err(StoreError::Refused { reason });
        }
        let Some(change) = self.checked(change)? else { return Ok(()) };
        self.carry_out(&change).inspect_err(|error| self.failure = Some(error.to_string()))
    }

    /// What of the change there is to do. Refuses what the contract of the log forbids.
    fn checked(&self, mut change: Change) -> Result<Option<Change>, StoreError> {
        let bounds = self.shared.bounds();
        // Whether it is a cut of the end; a reset is said by zero.
        let end = change.cut.filter(|from| *from != 0);
        if let Some(from) = change.cut {
            change.cut = match bounds {
                Some((first, last)) if from <= last => Some(if from <= first { 0 } else { from }),
                _ => None,
            };
        }
        if let Some(through) = change.through {
            change.through = None;
            match bounds {
                Some((_, last)) if last <= through => change.cut = Some(0),
                Some((first, _)) if first <= through => change.through = Some(through),
                _ => {}
            }
        }
        let before = match change.cut {
            Some(0) => None,
            Some(from) => Some(from - 1),
            None => bounds.map(|(_, last)| last),
        };
        let last = contiguous(&change, before)?;
        change.entries().try_for_each(check_size)?;
        if change.disk.as_ref().is_some_and(|disk| disk.incarnation == 0) {
            return errors::refuse("an incarnation is not zero".to_owned());
        }
        // A note comes with entries only, never goes back, and never lies beyond the log. What is committed is
        // never cut; whoever does it anyway is not to find a note about what is gone.
        let noted = self.shared.state.read().noted;
        let is_appended = change.entries().next().is_some();
        let kept = match (last, end.filter(|_| change.cut.is_some())) {
            (Some(last), _) => last,
            (None, Some(from)) => from - 1,
            (None, None) => u64::MAX,
        };
        let new = change.note.filter(|_| is_appended).unwrap_or(0);
        let note = noted.max(new).min(kept);
        change.note = (note != noted).then_some(note);
        let Change { hard_state, disk, cut, through, note, .. } = &change;
        let is_nothing = hard_state.is_none()
            && disk.is_none()
            && cut.is_none()
            && through.is_none()
            && note.is_none()
            && !is_appended;
        Ok((!is_nothing).then_some(change))
    }

    fn carry_out(&mut self, change: &Change) -> Result<(), StoreError> {
        #[cfg(test)]
        if let Some(through) = change.through.filter(|_| self.drops_too_early) {
            self.shared.index.write().begin_at(through + 1);
            self.drop_segments()?;
        }
        let before = self.shared.state.read().clone();
        let state = before.after(change);
        let count = change.entries().count();
        let bytes = change.entries().map(format::entry_bytes).sum::<u64>() + batch_overhead(&state);
        let is_new = !self.has_room(bytes, count);
        if is_new {
            self.rotate(bytes, count)?;
        }
        let Tail { segment, contents, .. } = &mut self.tail;
        let mut buffer = std::mem::take(&mut self.buffer);
        let encoder = Encoder::new(&mut buffer, segment.seed, contents.end);
        let number = contents.last_batch + 1;
        // The newest of each at the head of a segment, so that dropping the others loses nothing.
        let old = if is_new { State::default() } else { before };
        let offsets = encode(encoder, change, (&old, &state), number);
        let at = contents.end;
        let write = |file: Arc<dyn DiskFile>| file.write_at(&buffer, at).and_then(|()| file.sync());
        segment
            .file()
            .and_then(write)
            .map_err(|error| errors::cannot("write to", &self.shared.dir, segment.id, error))?;

        contents.last_start = contents.end;
        contents.end += buffer.len() as u64;
        contents.last_batch = number;
        if contents.first_batch == 0 {
            contents.first_batch = number;
        }
        buffer.shrink_to(BUFFER_KEPT_BYTES);
        self.buffer = buffer;
        self.show(change, state, &offsets);
        if change.cut.is_some() || change.through.is_some() {
            self.drop_segments()?;
        }
        self.look_after_next();
        Ok(())
    }

    /// Shows the readers what is durable now.
    fn show(&mut self, change: &Change, state: State, offsets: &[u32]) {
        let Tail { segment, contents, .. } = &mut self.tail;
        let mut index = self.shared.index.write();
        if let Some(from) = change.cut {
            if index.newest_run_in(segment).is_none_or(|run| from <= run.first) {
                contents.cut = contents.cut.min(from);
            }
            index.cut(from);
        }
        if let Some(through) = change.through {
            index.begin_at(through + 1);
        }
        if let Some(first) = change.entries().next() {
            index.append(segment, first.index.0, offsets);
        }
        *self.shared.state.write() = state;
    }

    /// Whether a batch fits into the tail and leaves room for the footer.
    fn has_room(&self, bytes: u64, entries: usize) -> bool {
        let Tail { segment, contents, is_full } = &self.tail;
        let index = self.shared.index.read();
        let held = index.newest_run_in(segment).map_or(0, |run| run.offsets.len());
        !is_full && contents.end + bytes + Footer::bytes(held + entries) <= segment.size
    }

    /// Seals the tail and goes on in the next segment.
    ///
    /// The footer comes last: it says that a next segment has been there, so that one that is gone is missed.
    fn rotate(&mut self, bytes: u64, entries: usize) -> Result<(), StoreError> {
        let needed = HEADER_BYTES + bytes + Footer::bytes(entries);
        let mut ready = match std::mem::replace(&mut self.next, Next::None { tried_at: 0 }) {
            Next::Ready(segment) => Some(segment),
            Next::UnderWay(receiver) => receiver.recv().ok().and_then(Result::ok),
            Next::None { .. } => None,
        };
        // A write that is larger than any segment gets one of its own, which takes the place of one without
        // a batch.
        ready.take_if(|segment| segment.size < needed);
        let is_empty = self.tail.contents.first_batch == 0;
        let id = self.tail.segment.id + u64::from(!is_empty);
        let cannot = |error| errors::cannot("prepare", &self.shared.dir, id, error);
        if is_empty {
            self.segments.pop_back();
        }
        let segment = match ready {
            Some(segment) => segment,
            None => {
                let size = self.next_size().max(needed.next_multiple_of(4096));
                let spare = self.spare.take_if(|_| size == self.segment_bytes);
                Job { store: self.store, id, size, spare }.run(&self.disk).map_err(cannot)?
            }
        };
        *self.shared.trouble.lock() = None;
        self.seal()?;
        let last_batch = self.tail.contents.last_batch;
        let mut contents = Contents::empty();
        contents.last_batch = last_batch;
        self.tail.segment.close();
        self.segments.push_back(Arc::clone(&segment));
        self.tail = Tail { segment, contents, is_full: false };
        Ok(())
    }

    /// Writes the footer, from which the next start learns what the segment holds. It is not synced: what it
    /// says can be read from the batches.
    fn seal(&mut self) -> Result<(), StoreError> {
        let Tail { segment, contents, is_full } = &mut self.tail;
        if *is_full || contents.first_batch == 0 {
            return Ok(());
        }
        let footer = {
            let index = self.shared.index.read();
            let run = index.newest_run_in(segment);
            let (first, offsets) =
                run.map(|run| (run.first, run.offsets.clone())).unwrap_or_default();
            contents.footer(first, offsets)
        };
        let at = segment.size - Footer::bytes(footer.offsets.len());
        let mut buffer = std::mem::take(&mut self.buffer);
        Encoder::new(&mut buffer, segment.seed, at).footer(&footer);
        let written = segment.file().and_then(|file| file.write_at(&buffer, at));
        self.buffer = buffer;
        *is_full = true;
        written.map_err(|error| errors::cannot("write to", &self.shared.dir, segment.id, error))
    }

    /// Drops the oldest segments that hold no entry any more. That the log begins later is durable by now.
    pub(super) fn drop_segments(&mut self) -> Result<(), StoreError> {
        let oldest = self.shared.index.read().runs.front().map(|run| run.segment.id);
        let needed = oldest.unwrap_or(self.tail.segment.id);
        let mut has_dropped = false;
        while let Some(segment) = self.segments.take_front_if(|segment| segment.id < needed) {
            let name = Segment::name(segment.id);
            let (id, size) = (segment.id, segment.size);
            let cannot = |error| errors::cannot("remove", &self.shared.dir, id, error);
            // Who still reads it keeps it as it is.
            let is_free = Arc::into_inner(segment).is_some();
            let is_wanted = matches!(self.next, Next::None { .. }) && self.spare.is_none();
            if is_free && is_wanted && size == self.segment_bytes {
                self.disk.rename(&name, &Segment::spare_name(id)).map_err(cannot)?;
                self.spare = Some(id);
            } else {
                self.disk.remove(&name).map_err(cannot)?;
            }
            has_dropped = true;
        }
        if has_dropped {
            let cannot =
                |error| StoreError::io(format!("cannot sync {}", self.shared.dir.display()), error);
            self.disk.sync_names().map_err(cannot)?;
        }
        Ok(())
    }

    /// The size of the next segment: that of the spare one, if there is one.
    fn next_size(&self) -> u64 {
        match self.spare {
            Some(_) => self.segment_bytes,
            None => self.segment_bytes.min(self.tail.segment.size.saturating_mul(MAX_GROWTH)),
        }
    }

    /// Has the next segment prepared when the tail is half full, and takes it when it is done. A failure is
    /// told, and tried again from time to time; it hurts only when the tail is full.
    pub(super) fn look_after_next(&mut self) {
        let (id, size) = (self.tail.segment.id, self.tail.segment.size);
        let filled = self.tail.contents.end;
        if let Next::UnderWay(receiver) = &self.next {
            match receiver.try_recv() {
                Ok(result) => self.prepared(result, filled),
                Err(mpsc::TryRecvError::Empty) => return,
                Err(mpsc::TryRecvError::Disconnected) => {
                    self.next = Next::None { tried_at: filled }
                }
            }
        }
        let Next::None { tried_at } = self.next else { return };
        if filled < size / 2 || tried_at != 0 && filled < tried_at + size / 16 {
            return;
        }
        let job =
            Job { store: self.store, id: id + 1, size: self.next_size(), spare: self.spare.take() };
        if !self.in_background {
            let result = job.run(&self.disk);
            return self.prepared(result, filled);
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        let disk = Arc::clone(&self.disk);
        let work = move || {
            let _ = sender.send(job.run(&disk));
        };
        match thread::Builder::new().name("raft-log-prepare".to_owned()).spawn(work) {
            Ok(_) => self.next = Next::UnderWay(receiver),
            Err(error) => self.prepared(Err(error), filled),
        }
    }

    /// Waits for what is under way.
    pub(super) fn end(&mut self) {
        if let Next::UnderWay(receiver) = &self.next {
            let _ = receiver.recv();
        }
    }

    fn prepared(&mut self, result: io::Result<Arc<Segment>>, filled: u64) {
        match result {
            Ok(segment) => {
                *self.shared.trouble.lock() = None;
                self.next = Next::Ready(segment);
            }
            Err(error) => {
                let left = self.tail.segment.size.saturating_sub(filled);
                let trouble = format!(
                    "the next segment of the log in {} cannot be prepared ({error}); the one in use has room \
                     for {left} bytes more, and then the server ends",
                    self.shared.dir.display()
                );
                if self.shared.trouble.lock().replace(trouble.clone()).is_none() {
                    tracing::error!("{trouble}");
                }
                self.next = Next::None { tried_at: filled };
            }
        }
    }
}

/// Lays out a batch: what of the state is not `old`, and the change. Returns where its entries lie.
fn encode(
    mut encoder: Encoder<'_>,
    change: &Change,
    (old, state): (&State, &State),
    number: u64,
) -> Vec<u32> {
    if let Some(hard_state) =
        state.hard_state.as_ref().filter(|it| old.hard_state.as_ref() != Some(it))
    {
        encoder.hard_state(hard_state);
    }
    if let Some(disk) = state.disk.as_ref().filter(|it| old.disk.as_ref() != Some(it)) {
        encoder.disk(disk);
    }
    if let Some(from) = change.cut {
        encoder.number(format::CUT, from);
    }
    // After a cut of all it is not known any more.
    if state.first != 0 && (state.first != old.first || change.cut == Some(0)) {
        encoder.number(format::FIRST, state.first);
    }
    let offsets = change.entries().map(|entry| unit(encoder.entry(entry))).collect();
    if state.noted != old.noted {
        encoder.number(format::NOTE, state.noted);
    }
    encoder.commit(number);
    offsets
}

/// The bytes of the frames of a batch beside its entries, at most.
fn batch_overhead(state: &State) -> u64 {
    let id = |id: Option<&str>| id.map_or(0, str::len);
    let vote = state.hard_state.as_ref().and_then(|it| it.voted_for.as_ref());
    let disk = state.disk.as_ref().map(|disk| disk.server.as_str());
    format::frame_bytes(8 + id(vote.map(|id| id.as_str())))
        + format::frame_bytes(12 + id(disk))
        + 3 * format::frame_bytes(8)
        + format::COMMIT_BYTES
}

/// The index of the last entry to be appended; these must follow each other and entry `before`.
fn contiguous(change: &Change, before: Option<u64>) -> Result<Option<u64>, StoreError> {
    let mut before = before;
    let mut last = None;
    for entry in change.entries() {
        let index = entry.index.0;
        let follows = before.map_or(0 < index, |before| before.checked_add(1) == Some(index));
        if !follows {
            return errors::refuse(match before {
                Some(before) => format!("entry {index} does not follow entry {before}"),
                None => "the first entry of a log has index 1 or more".to_owned(),
            });
        }
        (before, last) = (Some(index), Some(index));
    }
    Ok(last)
}

/// A frame says how long it is in 32 bits.
fn check_size(entry: &Entry) -> Result<(), StoreError> {
    const MAX_BYTES: u64 = 1 << 31;
    if entry.index == LogIndex(u64::MAX) {
        return errors::refuse("the last index of all is not for an entry".to_owned());
    }
    match &entry.payload {
        EntryPayload::Command(data) if MAX_BYTES <= data.len() as u64 => {
            errors::refuse(format!("entry {} has {} bytes, 2 GiB or more", entry.index, data.len()))
        }
        _ => Ok(()),
    }
}
