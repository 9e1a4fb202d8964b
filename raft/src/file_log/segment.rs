//! One segment: a file of fixed size, a header block, then batch after batch, and when it is sealed a
//! footer at its end.
//!
//! [`Segment::scan`] is where a torn tail is told from damage. A batch that is not whole is the one under way
//! when the power failed, and was not acknowledged, unless a *later* batch of this segment is there: then bytes
//! have changed that were durable. To see that, the scan goes on behind a bad frame at every aligned
//! offset, because the length of a bad frame says nothing.

use std::{io, sync::Arc};

use parking_lot::Mutex;

use super::{
    disk::{Disk, DiskFile},
    format::{
        self, ALIGNMENT, COMMIT, COMMIT_BYTES, Commit, Footer, Frame, HEADER_BYTES, Header,
        Malformed, PLAUSIBLE_BYTES, TRAILER_BYTES,
    },
};
use crate::stable::{DiskIdentity, HardState};

/// Bytes read at once where all of a segment is looked at.
const WINDOW_BYTES: u64 = 1 << 20;

/// No truncation reaches out of the segment.
pub(super) const NO_CUT: u64 = u64::MAX;

/// A segment's file. It stays open as long as it is written to; afterwards it is opened for each read, so that
/// a long log does not need a descriptor for each of its segments.
pub(super) struct Segment {
    pub(super) id: u64,
    pub(super) seed: u32,
    pub(super) size: u64,
    disk: Arc<dyn Disk>,
    open: Mutex<Option<Arc<dyn DiskFile>>>,
}

/// The newest of each: repeated at the head of every segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) hard_state: Option<HardState>,
    pub(super) disk: Option<DiskIdentity>,
    /// How far the log was noted to be committed; 0 if it was not.
    pub(super) noted: u64,
    /// The first index of the log; 0 while it is empty.
    pub(super) first: u64,
}

/// What the batches of a segment amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contents {
    /// The number of the first batch; 0 if there is none.
    pub(super) first_batch: u64,
    pub(super) last_batch: u64,
    /// Where the last one begins and ends.
    pub(super) last_start: u64,
    pub(super) end: u64,
    /// From which index on the segments before it count no more.
    pub(super) cut: u64,
    pub(super) first_index: u64,
    /// Where the entries lie, divided by the alignment.
    pub(super) offsets: Vec<u32>,
    pub(super) state: State,
    /// Whether a batch follows that is not whole.
    pub(super) is_torn: bool,
}

/// Why a segment cannot be used.
#[derive(Debug)]
pub(super) enum Unusable {
    Io(io::Error),
    Damaged {
        offset: u64,
        /// The entry after which it shows, if one came before.
        after: Option<u64>,
        reason: String,
    },
    UnknownFormat(u32),
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Contents {
    /// Those of a segment without a batch.
    pub(super) fn empty() -> Self {
        Self {
            first_batch: 0,
            last_batch: 0,
            last_start: HEADER_BYTES,
            end: HEADER_BYTES,
            cut: NO_CUT,
            first_index: 0,
            offsets: Vec::new(),
            state: State::default(),
            is_torn: false,
        }
    }

    /// Carries out a frame of a batch that is whole.
    fn apply(&mut self, offset: u64, frame: &Frame<'_>) -> Result<(), Malformed> {
        match frame.kind {
            format::ENTRY => {
                let index = frame.entry_index()?;
                if self.offsets.is_empty() {
                    self.first_index = index;
                }
                let expected = self.first_index.checked_add(self.offsets.len() as u64);
                if Some(index) != expected || index == 0 || index == u64::MAX {
                    let reason = format!("entry {index} does not follow the one before it");
                    return Err(Malformed(reason));
                }
                self.offsets.push(unit(offset));
            }
            format::HARD_STATE => self.state.hard_state = Some(frame.hard_state()?),
            format::DISK => self.state.disk = Some(frame.disk()?),
            format::NOTE => self.state.noted = frame.number()?,
            format::FIRST => self.state.first = frame.number()?,
            format::CUT => self.cut(frame.number()?),
            other => return Err(Malformed(format!("a frame of the kind {other} in a batch"))),
        }
        Ok(())
    }

    /// Removes the entries from this index on; all of the log, if it is zero.
    pub(super) fn cut(&mut self, from: u64) {
        if from == 0 {
            self.state.first = 0;
        }
        if self.offsets.is_empty() || from <= self.first_index {
            self.offsets.clear();
            self.cut = self.cut.min(from);
        } else {
            self.offsets.truncate((from - self.first_index) as usize);
        }
    }

    fn last_index(&self) -> Option<u64> {
        let count = self.offsets.len() as u64;
        self.first_index.saturating_add(count).checked_sub(1).filter(|it| *it != 0)
    }

    /// The footer of a segment in which these entries count.
    pub(super) fn footer(&self, first_index: u64, offsets: Vec<u32>) -> Footer {
        let Self { first_batch, last_batch, end, cut, .. } = *self;
        Footer { first_batch, last_batch, end, cut, first_index, offsets }
    }
}

/// An offset as the index keeps it.
pub(super) fn unit(offset: u64) -> u32 {
    // The largest segment has so many units: see `MAX_SEGMENT_BYTES`.
    u32::try_from(offset / ALIGNMENT).unwrap_or(u32::MAX)
}

impl Segment {
    pub(super) fn new(
        disk: &Arc<dyn Disk>,
        (store, id): (u64, u64),
        size: u64,
        open: Option<Arc<dyn DiskFile>>,
    ) -> Self {
        let (disk, open) = (Arc::clone(disk), Mutex::new(open));
        Self { id, seed: format::seed(store, id), size, disk, open }
    }

    pub(super) fn file(&self) -> io::Result<Arc<dyn DiskFile>> {
        let open = self.open.lock().clone();
        open.map_or_else(|| self.disk.open(&Self::name(self.id)), Ok)
    }

    /// It is about to be looked through.
    pub(super) fn keep_open(&self) -> io::Result<()> {
        let file = self.file()?;
        *self.open.lock() = Some(file);
        Ok(())
    }

    /// It is about to be written to.
    pub(super) fn open_to_write(&self) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open_to_write(&Self::name(self.id))?;
        *self.open.lock() = Some(Arc::clone(&file));
        Ok(file)
    }

    /// Nothing is written to it any more.
    pub(super) fn close(&self) {
        *self.open.lock() = None;
    }

    pub(super) fn name(id: u64) -> String {
        format!("log-{id:016x}")
    }

    pub(super) fn spare_name(id: u64) -> String {
        format!("spare-{id:016x}")
    }

    /// The number in a name of either kind.
    pub(super) fn parse(name: &str, kind: &str) -> Option<u64> {
        let digits = name.strip_prefix(kind)?;
        if digits.len() != 16 {
            return None;
        }
        let number = u64::from_str_radix(digits, 16).ok()?;
        // One name for each number.
        (format!("{kind}{number:016x}") == name).then_some(number)
    }

    /// Opens a segment that has a name, and so was complete once.
    pub(super) fn open(disk: &Arc<dyn Disk>, store: u64, id: u64) -> Result<Self, Unusable> {
        let file = disk.open(&Self::name(id))?;
        let actual = file.size()?;
        let damaged = |reason| Err(Unusable::Damaged { offset: 0, after: None, reason });
        let mut block = vec![0; HEADER_BYTES as usize];
        if actual < HEADER_BYTES {
            return damaged(format!("it has {actual} bytes, less than its header"));
        }
        file.read_at(&mut block, 0)?;
        let Header { version, store: of, segment, size } = match Header::decode(&block) {
            Ok(header) => header,
            Err(Malformed(reason)) => return damaged(reason),
        };
        if version != format::FORMAT_VERSION {
            return Err(Unusable::UnknownFormat(version));
        }
        if of != store {
            return damaged(format!(
                "it belongs to store {of:016x}, and the file {} says {store:016x}",
                format::IDENTITY
            ));
        }
        if segment != id {
            return damaged(format!("its header says that it is segment {segment:016x}"));
        }
        if actual < size || size < HEADER_BYTES + TRAILER_BYTES {
            return damaged(format!("it has {actual} bytes, and should have {size}"));
        }
        Ok(Self::new(disk, (store, id), size, None))
    }

    /// What its footer says, if it was sealed; `None` too if the footer is not what was written: the batches
    /// say the same.
    pub(super) fn read_footer(&self) -> io::Result<Option<Footer>> {
        let mut trailer = [0; TRAILER_BYTES as usize];
        let file = self.file()?;
        let trailer_at = self.size - TRAILER_BYTES;
        file.read_at(&mut trailer, trailer_at)?;
        let Some(at) = Footer::locate(self.seed, &trailer) else { return Ok(None) };
        if at < HEADER_BYTES || trailer_at < at {
            return Ok(None);
        }
        let mut bytes = vec![0; (trailer_at - at) as usize];
        file.read_at(&mut bytes, at)?;
        let frame = Frame::decode(self.seed, at, &bytes).filter(|it| it.kind == format::FOOTER);
        let footer = frame.and_then(|frame| frame.footer().ok());
        Ok(footer.filter(|footer| footer.is_possible(at)))
    }

    /// Reads every batch, and tells a torn tail, which does not count, from damage.
    pub(super) fn scan(&self) -> Result<Contents, Unusable> {
        self.scan_through(WINDOW_BYTES)
    }

    /// The same, reading so many bytes at once.
    pub(super) fn scan_through(&self, window_bytes: u64) -> Result<Contents, Unusable> {
        let mut window = Window { segment: self, least: window_bytes, start: 0, bytes: Vec::new() };
        let mut contents = Contents::empty();
        let mut frames: Vec<(u64, Vec<u8>)> = Vec::new();
        loop {
            let start = contents.end;
            frames.clear();
            let (mut at, mut chain) = (start, 0);
            let commit = loop {
                let Some(bytes) = window.frame(at)? else { break None };
                let Some(frame) = Frame::decode(self.seed, at, bytes) else { break None };
                if frame.kind == COMMIT {
                    let commit = frame.commit().ok();
                    let count = frames.len() as u32;
                    break commit
                        .filter(|it| (it.start, it.frames, it.chain) == (start, count, chain));
                }
                chain = crc32c::crc32c_append(chain, &frame.crc.to_le_bytes());
                frames.push((at, bytes.to_vec()));
                at += bytes.len() as u64;
            };
            let damaged =
                |offset, after, Malformed(reason)| Unusable::Damaged { offset, after, reason };
            let Some(commit) = commit else {
                if let Some(later) = self.later_batch(&mut window, at, start)? {
                    let reason = format!(
                        "the bytes there are not what was written, and batch {} follows at offset {}",
                        later.number, later.start
                    );
                    return Err(damaged(at, contents.last_index(), Malformed(reason)));
                }
                contents.is_torn = !frames.is_empty();
                return Ok(contents);
            };
            if contents.first_batch == 0 {
                contents.first_batch = commit.number;
            } else if Some(commit.number) != contents.last_batch.checked_add(1) {
                let reason =
                    format!("batch {} follows batch {}", commit.number, contents.last_batch);
                return Err(damaged(at, contents.last_index(), Malformed(reason)));
            }
            for (offset, bytes) in &frames {
                let frame = Frame::decode(self.seed, *offset, bytes);
                let applied = frame.map_or(Ok(()), |frame| contents.apply(*offset, &frame));
                let last = contents.last_index();
                applied.map_err(|malformed| damaged(*offset, last, malformed))?;
            }
            contents.last_batch = commit.number;
            (contents.last_start, contents.end) = (start, at + COMMIT_BYTES);
        }
    }

    /// The commit frame of a batch that was begun after `start`, anywhere from `from` on.
    fn later_batch(
        &self,
        window: &mut Window<'_>,
        from: u64,
        start: u64,
    ) -> io::Result<Option<Commit>> {
        let mut at = from;
        while at + COMMIT_BYTES <= self.size {
            let bytes = window.bytes(at, COMMIT_BYTES)?.unwrap_or_default();
            let commit = Frame::decode(self.seed, at, bytes)
                .filter(|frame| frame.kind == COMMIT)
                .and_then(|frame| frame.commit().ok());
            if let Some(commit) = commit.filter(|commit| start < commit.start) {
                return Ok(Some(commit));
            }
            at += ALIGNMENT;
        }
        Ok(None)
    }
}

/// A stretch of the file in memory.
struct Window<'a> {
    segment: &'a Segment,
    /// Bytes read at once.
    least: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// These bytes; `None` beyond the end.
    fn bytes(&mut self, at: u64, length: u64) -> io::Result<Option<&[u8]>> {
        let size = self.segment.size;
        if size < at.saturating_add(length) {
            return Ok(None);
        }
        if at < self.start || self.start + (self.bytes.len() as u64) < at + length {
            let count = length.max(self.least).min(size - at);
            self.bytes.resize(count as usize, 0);
            self.segment.file()?.read_at(&mut self.bytes, at)?;
            self.start = at;
        }
        let begin = (at - self.start) as usize;
        Ok(self.bytes.get(begin..begin + length as usize))
    }

    /// The bytes that the header at this offset asks for, if it can be one.
    fn frame(&mut self, at: u64) -> io::Result<Option<&[u8]>> {
        let header = self.bytes(at, PLAUSIBLE_BYTES)?;
        match header.and_then(format::plausible) {
            Some(length) => self.bytes(at, length),
            None => Ok(None),
        }
    }
}
