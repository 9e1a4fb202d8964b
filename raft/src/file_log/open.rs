//! From files to a log: what a start finds, and what a power cut may have left.
//!
//! The newest segments whose numbers follow each other are the log; the tail is the newest of them with a
//! batch, and a newer one was only prepared. The tail is scanned, of the others the footer is enough. Batches
//! are numbered through all segments, and where the log begins is a record, so that nothing can be missing
//! without a gap in one or the other.

use std::{collections::VecDeque, io, path::Path, sync::Arc};

use super::{
    disk::Disk,
    errors,
    format::Footer,
    identity,
    index::{Index, Run, Shared},
    prepare::Job,
    segment::{Contents, Segment},
    writer::{FIRST_SEGMENT_BYTES, Next, Tail, Writer},
};
use crate::store_error::StoreError;

/// What is to be opened.
pub(super) struct Opening<'a> {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: &'a Path,
    pub(super) store: u64,
    pub(super) segment_bytes: u64,
    pub(super) in_background: bool,
    /// Nothing is made, renamed or removed.
    pub(super) is_read_only: bool,
}

/// Makes a log without an entry in an empty directory.
pub(super) fn create(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    store: u64,
    segment_bytes: u64,
) -> Result<(), StoreError> {
    identity::begin(dir, &**disk, store)?;
    let size = segment_bytes.min(FIRST_SEGMENT_BYTES);
    let made = Job { store, id: 1, size, spare: None }.run(disk);
    made.map_err(|error| errors::cannot("make", dir, 1, error))?;
    identity::complete(dir, &**disk)
}

/// A segment that was opened, and what is in it.
struct Found {
    segment: Arc<Segment>,
    contents: Contents,
    is_sealed: bool,
}

impl Opening<'_> {
    pub(super) fn run(self) -> Result<Writer, StoreError> {
        let (mut ids, spares) = self.list()?;
        ids.sort_unstable();
        // Segments are dropped oldest first, and after a power cut some that were may be there again.
        let follows =
            |pair: &&[u64]| matches!(pair, [before, id] if before.checked_add(1) == Some(*id));
        let newest = 1 + ids.windows(2).rev().take_while(follows).count();
        let leftover: Vec<u64> = ids.drain(..ids.len().saturating_sub(newest)).collect();
        let mut segments = Vec::new();
        for id in ids {
            let segment = Segment::open(&self.disk, self.store, id);
            segments.push(Arc::new(segment.map_err(|it| errors::unusable(self.dir, id, it))?));
        }
        let (found, prepared) = self.look_into(segments)?;
        let mut index = Index::default();
        let mut last_batch = 0_u64;
        for (at, Found { segment, contents, .. }) in found.iter().enumerate() {
            if 0 < at && last_batch.checked_add(1) != Some(contents.first_batch) {
                let reason = format!(
                    "it begins with batch {}, and the segment before it ends with batch {last_batch}",
                    contents.first_batch
                );
                let what = format!("file {}", Segment::name(segment.id));
                return Err(errors::corrupt(self.dir, &what, &reason));
            }
            last_batch = contents.last_batch;
            index.cut(contents.cut);
            index.append(segment, contents.first_index, &contents.offsets);
        }
        let state = found.back().map(|tail| tail.contents.state.clone()).unwrap_or_default();
        let oldest = found.front().map(|it| it.segment.id);
        self.check_beginning(&mut index, state.first, &leftover, oldest)?;
        let shared = Arc::new(Shared {
            dir: self.dir.to_owned(),
            index: index.into(),
            state: state.into(),
            trouble: None.into(),
        });
        self.writer(found, prepared, leftover, spares, shared)
    }

    /// The numbers of the segments, and of files that are free.
    fn list(&self) -> Result<(Vec<u64>, Vec<u64>), StoreError> {
        let names = self.disk.names().map_err(|error| self.cannot("list", error))?;
        let of = |kind| names.iter().filter_map(move |name| Segment::parse(name, kind));
        Ok((of("log-").collect(), of("spare-").collect()))
    }

    /// What is in each segment, and the newest one if it was only prepared.
    fn look_into(
        &self,
        segments: Vec<Arc<Segment>>,
    ) -> Result<(VecDeque<Found>, Option<Arc<Segment>>), StoreError> {
        let (mut found, mut prepared) = (VecDeque::new(), None);
        for (at, segment) in segments.into_iter().rev().enumerate() {
            let cannot = |error| errors::cannot("read", self.dir, segment.id, error);
            segment.keep_open().map_err(cannot)?;
            let footer = segment.read_footer().map_err(cannot)?;
            let next_batch = found.front().map(|it: &Found| it.contents.first_batch);
            // One that says less than the next segment goes on from was written before the last batches.
            let usable = footer
                .as_ref()
                .filter(|it| next_batch.is_some() && next_batch == it.last_batch.checked_add(1));
            let contents = match usable {
                Some(footer) => Contents::from(footer.clone()),
                None => segment.scan().map_err(|it| errors::unusable(self.dir, segment.id, it))?,
            };
            // Before it is taken for one that was only prepared: its only batch may be what is damaged.
            let promised = footer.map(|footer| footer.last_batch);
            if promised.is_some_and(|promised| contents.last_batch < promised) {
                let what = format!("file {} at offset {}", Segment::name(segment.id), contents.end);
                let reason = "its footer says that a batch was there";
                return Err(errors::corrupt(self.dir, &what, reason));
            }
            if contents.first_batch == 0 && at == 0 {
                prepared = Some(segment);
                continue;
            }
            if contents.first_batch == 0 {
                let what = format!("file {}", Segment::name(segment.id));
                let reason = "it holds no batch, and a newer segment is there";
                return Err(errors::corrupt(self.dir, &what, reason));
            }
            let is_sealed = promised == Some(contents.last_batch);
            // Only the newest one with a batch is written to, and the one that is prepared.
            if !found.is_empty() {
                segment.close();
            }
            found.push_front(Found { segment, contents, is_sealed });
        }
        Ok((found, prepared))
    }

    /// Whether the log begins where it should.
    fn check_beginning(
        &self,
        index: &mut Index,
        first: u64,
        leftover: &[u64],
        oldest: Option<u64>,
    ) -> Result<(), StoreError> {
        let begins = index.runs.front().map_or(0, |run| run.first);
        let end = index.runs.back().map_or(0, Run::end);
        let is_there = (begins..end).contains(&first) || first == 0 && index.runs.is_empty();
        let is_missing = !is_there
            || index.runs.iter().zip(index.runs.iter().skip(1)).any(|(a, b)| a.end() != b.first)
            || oldest.is_none() && !leftover.is_empty();
        if is_missing {
            let before = leftover.iter().max().map(|id| Segment::name(id.saturating_add(1)));
            let last = oldest.map(|id| Segment::name(id.saturating_sub(1)));
            let missing = match (before, last) {
                (Some(only), Some(last)) if only == last => format!("file {only} is missing"),
                (Some(one), Some(last)) => format!("files {one} to {last} are missing"),
                (None, Some(last)) => {
                    format!("file {last} is missing, and perhaps others before it")
                }
                (Some(one), None) => format!("file {one} and those after it are missing"),
                (None, None) => "its files are missing".to_owned(),
            };
            let reason = format!(
                "the log begins with entry {first}, and the first entry from which on all are there is \
                 {begins}: {missing}"
            );
            return Err(errors::corrupt(self.dir, "the log", &reason));
        }
        index.begin_at(first);
        Ok(())
    }

    fn writer(
        &self,
        mut found: VecDeque<Found>,
        prepared: Option<Arc<Segment>>,
        leftover: Vec<u64>,
        spares: Vec<u64>,
        shared: Arc<Shared>,
    ) -> Result<Writer, StoreError> {
        let (tail, next) = match (found.pop_back(), prepared) {
            (Some(Found { segment, is_sealed: true, .. }), None) => {
                let next = Segment::name(segment.id.saturating_add(1));
                let reason = format!(
                    "file {next} is missing: {} was sealed after that one was made",
                    Segment::name(segment.id)
                );
                return Err(errors::corrupt(self.dir, "the log", &reason));
            }
            (Some(Found { segment, mut contents, is_sealed }), prepared) => {
                // They are in the index.
                contents.offsets = Vec::new();
                (Tail { segment, contents, is_full: is_sealed }, prepared)
            }
            // Nothing was ever written: only the first one can be empty and the only one.
            (None, Some(segment)) if segment.id == 1 => {
                (Tail { segment, contents: Contents::empty(), is_full: false }, None)
            }
            (None, _) => {
                let reason =
                    "every segment that had a batch is missing, or its only batch is damaged";
                return Err(errors::corrupt(self.dir, "the log", reason));
            }
        };
        let mut segments: VecDeque<_> = found.into_iter().map(|found| found.segment).collect();
        segments.push_back(Arc::clone(&tail.segment));
        let next = next.map_or(Next::None { tried_at: 0 }, Next::Ready);
        let mut writer = Writer {
            disk: Arc::clone(&self.disk),
            store: self.store,
            segment_bytes: self.segment_bytes,
            shared,
            segments,
            tail,
            next,
            spare: None,
            buffer: Vec::new(),
            failure: None,
            in_background: self.in_background,
            #[cfg(test)]
            drops_too_early: false,
        };
        let Tail { segment, contents, .. } = &writer.tail;
        if contents.is_torn {
            let fate = if self.is_read_only { "does not count" } else { "is removed" };
            tracing::warn!(
                dir = %self.dir.display(), file = Segment::name(segment.id), offset = contents.end,
                "the last write is not whole and {fate}: the power failed in it, or its bytes have changed"
            );
        }
        if !self.is_read_only {
            self.settle(&writer)?;
            leftover.iter().try_for_each(|id| self.remove(&Segment::name(*id)))?;
            spares.iter().try_for_each(|id| self.remove(&Segment::spare_name(*id)))?;
            writer.drop_segments()?;
        }
        Ok(writer)
    }

    /// Makes durable what was found. After a process that was killed, or a write that failed, it may be in the
    /// memory of the kernel only, and the log goes on from it: the names, the tail's last batch, and what
    /// is prepared. The batch is written once more, the same bytes, because a kernel whose write has failed
    /// may take it for written.
    fn settle(&self, writer: &Writer) -> Result<(), StoreError> {
        let Tail { segment, contents, .. } = &writer.tail;
        let cannot = |error| errors::cannot("write to", self.dir, segment.id, error);
        let mut bytes = vec![0; (contents.end - contents.last_start) as usize];
        let file = segment.open_to_write().map_err(cannot)?;
        file.read_at(&mut bytes, contents.last_start).map_err(cannot)?;
        file.write_at(&bytes, contents.last_start).map_err(cannot)?;
        file.sync().map_err(cannot)?;
        if let Next::Ready(next) = &writer.next {
            let synced = next.open_to_write().and_then(|file| file.sync());
            synced.map_err(|error| errors::cannot("sync", self.dir, next.id, error))?;
        }
        self.disk.sync_names().map_err(|error| self.cannot("sync", error))
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        match self.disk.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.cannot("clean up", error))
            }
            _ => Ok(()),
        }
    }

    fn cannot(&self, what: &str, error: io::Error) -> StoreError {
        StoreError::io(format!("cannot {what} {}", self.dir.display()), error)
    }
}

impl From<Footer> for Contents {
    fn from(footer: Footer) -> Self {
        let Footer { first_batch, last_batch, end, cut, first_index, offsets } = footer;
        Self { first_batch, last_batch, end, cut, first_index, offsets, ..Self::empty() }
    }
}
