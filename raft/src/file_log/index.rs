//! Where each entry lies, and how entries are read: shared by the writer and the readers.
//!
//! The index holds four bytes for each entry of the log. A reader takes what it needs of it under the lock
//! and reads the file without; the file stays what it is for as long as the reader holds the segment, which
//! is never reused before it is let go.

use std::{collections::VecDeque, ops::RangeInclusive, path::PathBuf, sync::Arc};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::{
    errors,
    format::{self, ALIGNMENT, Frame, Malformed, PLAUSIBLE_BYTES},
    segment::{Segment, State},
};
use crate::{
    log::{Entries, Entry, are_contiguous},
    pop_if::PopIf as _,
    position::LogIndex,
    store_error::StoreError,
};

/// What the writer and the readers share.
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    pub(super) index: RwLock<Index>,
    pub(super) state: RwLock<State>,
    /// What keeps the next segment from being prepared.
    pub(super) trouble: Mutex<Option<String>>,
}

/// The entries of the log, oldest first.
#[derive(Default)]
pub(super) struct Index {
    /// The first entry; 0 if there is none.
    pub(super) first: u64,
    pub(super) runs: VecDeque<Run>,
}

/// Entries that follow each other in one segment.
pub(super) struct Run {
    pub(super) segment: Arc<Segment>,
    pub(super) first: u64,
    /// Where each lies, divided by the alignment.
    pub(super) offsets: Vec<u32>,
}

impl Run {
    /// The index after its last entry.
    pub(super) fn end(&self) -> u64 {
        self.first + self.offsets.len() as u64
    }
}

impl Index {
    pub(super) fn bounds(&self) -> Option<(u64, u64)> {
        let last = self.runs.back()?.end() - 1;
        Some((self.first, last))
    }

    /// The entries that lie in this segment, which is the newest one.
    pub(super) fn newest_run_in(&self, segment: &Segment) -> Option<&Run> {
        self.runs.back().filter(|run| run.segment.id == segment.id)
    }

    /// Adds entries that lie in this segment. They follow what is there, or are the first.
    pub(super) fn append(&mut self, segment: &Arc<Segment>, first: u64, offsets: &[u32]) {
        if offsets.is_empty() {
            return;
        }
        if self.runs.is_empty() {
            self.first = first;
        }
        match self.runs.back_mut().filter(|run| run.segment.id == segment.id) {
            Some(run) => run.offsets.extend_from_slice(offsets),
            None => {
                let (segment, offsets) = (Arc::clone(segment), offsets.to_vec());
                self.runs.push_back(Run { segment, first, offsets });
            }
        }
    }

    /// Removes the entries from this index on.
    pub(super) fn cut(&mut self, from: u64) {
        while self.runs.take_back_if(|run| from <= run.first).is_some() {}
        if let Some(run) = self.runs.back_mut() {
            run.offsets.truncate(usize::try_from(from - run.first).unwrap_or(usize::MAX));
        }
        if self.runs.is_empty() || from <= self.first {
            self.runs.clear();
            self.first = 0;
        }
    }

    /// Removes the entries before this index, of which there is one.
    pub(super) fn begin_at(&mut self, first: u64) {
        self.first = first;
        while self.runs.take_front_if(|run| run.end() <= first).is_some() {}
    }
}

/// Entries to be read from one segment.
struct Part {
    segment: Arc<Segment>,
    first: u64,
    offsets: Vec<u32>,
}

impl Shared {
    pub(super) fn bounds(&self) -> Option<(u64, u64)> {
        self.index.read().bounds()
    }

    /// The entries of this range, at most so many bytes of them, but at least one.
    pub(super) fn read(
        &self,
        range: RangeInclusive<LogIndex>,
        max_bytes: u64,
    ) -> Result<Entries, StoreError> {
        let (first, last) = (range.start().0, range.end().0);
        let mut parts = Vec::new();
        {
            let index = self.index.read();
            let bounds = index.bounds().filter(|(low, high)| *low <= first && first <= *high);
            let Some((_, high)) = bounds.filter(|_| first <= last) else {
                return Err(StoreError::NotFound { what: format!("log entry {first}") });
            };
            self.plan(&index, (first, last.min(high)), max_bytes, &mut parts);
        }
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for part in parts {
            for entry in self.read_part(&part).map_err(|error| self.unless_removed(first, error))? {
                bytes += entry.cost_bytes();
                if max_bytes < bytes && !entries.is_empty() {
                    return self.contiguous(entries);
                }
                entries.push(entry);
            }
        }
        self.contiguous(entries)
    }

    /// A segment may have been dropped after it was looked up, and is opened in vain then.
    fn unless_removed(&self, first: u64, error: StoreError) -> StoreError {
        match self.bounds() {
            Some((low, _)) if low <= first => error,
            _ => StoreError::NotFound { what: format!("log entry {first}") },
        }
    }

    fn contiguous(&self, entries: Vec<Entry>) -> Result<Entries, StoreError> {
        if are_contiguous(&entries) {
            return Ok(Entries::new(entries));
        }
        let first = entries.first().map(Entry::id).unwrap_or_default();
        let what = format!("the log behind entry {first}");
        Err(errors::corrupt(&self.dir, &what, "a term falls"))
    }

    /// Which stretches to read. A frame has no fewer bytes than its entry is counted with, so that this ends
    /// at the limit or, with a few frames of another kind between, before it.
    fn plan(
        &self,
        index: &Index,
        (first, last): (u64, u64),
        max_bytes: u64,
        parts: &mut Vec<Part>,
    ) {
        let mut bytes = 0;
        let mut next = first;
        for run in index.runs.iter().skip_while(|run| run.end() <= first) {
            let begin = (next - run.first) as usize;
            let offsets = run.offsets.get(begin..).unwrap_or_default();
            let mut part =
                Part { segment: Arc::clone(&run.segment), first: next, offsets: Vec::new() };
            for (at, offset) in offsets.iter().enumerate() {
                if last < next || max_bytes < bytes {
                    break;
                }
                let end = offsets.get(at + 1).unwrap_or(offset);
                bytes += u64::from(end - offset) * ALIGNMENT;
                part.offsets.push(*offset);
                next += 1;
            }
            if !part.offsets.is_empty() {
                parts.push(part);
            }
            if last < next || max_bytes < bytes {
                return;
            }
        }
    }

    fn read_part(&self, part: &Part) -> Result<Vec<Entry>, StoreError> {
        let Part { segment, first, offsets } = part;
        let (Some(begin), Some(last)) = (offsets.first(), offsets.last()) else {
            return Ok(Vec::new());
        };
        let (begin, last) = (u64::from(*begin) * ALIGNMENT, u64::from(*last) * ALIGNMENT);
        let cannot = |error| errors::cannot("read", &self.dir, segment.id, error);
        let damaged = |index: u64, offset: u64, reason: String| {
            errors::damaged_entry(&self.dir, segment.id, index, offset, &reason)
        };
        // How long the last one is its header says; what lies behind it may have been cut, and be long.
        let mut header = [0; PLAUSIBLE_BYTES as usize];
        let file = segment.file().map_err(cannot)?;
        file.read_at(&mut header, last).map_err(cannot)?;
        let length = format::plausible(&header).filter(|length| last + length <= segment.size);
        let Some(length) = length else {
            let index = first + offsets.len() as u64 - 1;
            return Err(damaged(index, last, "its header is no header".to_owned()));
        };
        let end = last + length;
        let mut bytes = vec![0; (end - begin) as usize];
        file.read_at(&mut bytes, begin).map_err(cannot)?;
        let bytes = Bytes::from(bytes);
        let mut entries = Vec::with_capacity(offsets.len());
        for (offset, index) in offsets.iter().zip(*first..) {
            let offset = u64::from(*offset) * ALIGNMENT;
            let rest = bytes.get((offset - begin) as usize..).unwrap_or_default();
            let length = format::plausible(rest).unwrap_or(u64::MAX);
            let frame = usize::try_from(length).ok().and_then(|length| rest.get(..length));
            let frame = frame.and_then(|frame| Frame::decode(segment.seed, offset, frame));
            let Some(frame) = frame.filter(|frame| frame.kind == format::ENTRY) else {
                let reason = "the bytes there are not what was written".to_owned();
                return Err(damaged(index, offset, reason));
            };
            let entry =
                frame.entry(&bytes).map_err(|Malformed(reason)| damaged(index, offset, reason))?;
            if entry.index != LogIndex(index) {
                return Err(damaged(index, offset, format!("entry {} stands there", entry.index)));
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}
