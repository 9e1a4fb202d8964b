//! The log in memory: a queue of batches, kept as they came.
//!
//! An append stores the [`Entries`] it is given, so the store shares its allocation with the
//! leader's messages and the state machine. A read that lies within one batch is a slice of it;
//! only reads that span small batches copy entries (and then share their commands' bytes). The
//! lock is held for a search and a few reference counts, never while entries are copied, counted
//! or freed.

use std::{collections::VecDeque, fmt, ops::RangeInclusive, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::InmemDisk;
use crate::{
    log::{Entries, Entry, LogReader, LogStore},
    position::LogIndex,
    store_error::StoreError,
};

/// A read copies at most this many entries out of several batches; a batch that has as many left
/// is shared instead, because another read costs less than the copy.
const MERGED_ENTRIES_MAX: usize = 256;

/// A [`LogStore`] in memory. Cheap to clone; clones are handles onto the same log, as if a second
/// process opened the same disk, so a node can be "restarted" on a clone.
///
/// Writes are as durable as the process; a commit index that is noted becomes so with the next
/// append. Refuses, changing nothing, what would leave a gap, overlap
/// or let a term fall. A truncated batch keeps its memory until the last of its entries is gone.
#[derive(Clone, Default)]
pub struct InmemLogStore {
    shared: Arc<Shared>,
    /// Noted through this handle, and not durable.
    noted: Option<LogIndex>,
}

#[derive(Default)]
struct Shared {
    /// None is empty; each begins where the one before it ends.
    batches: Mutex<VecDeque<Entries>>,
    /// The commit index that became durable last. Changed with `batches` locked.
    noted: Mutex<Option<LogIndex>>,
    disk: InmemDisk,
}

impl InmemLogStore {
    /// An empty log on a disk of its own.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty log on this disk.
    #[must_use]
    pub fn on(disk: &InmemDisk) -> Self {
        let shared = Shared { disk: disk.clone(), ..Shared::default() };
        Self { shared: Arc::new(shared), noted: None }
    }

    /// The disk beneath, where faults are set.
    #[must_use]
    pub fn disk(&self) -> &InmemDisk {
        &self.shared.disk
    }
}

impl fmt::Debug for InmemLogStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InmemLogStore")
            .field("bounds", &bounds(&self.shared.batches.lock()))
            .field("disk", &self.shared.disk)
            .finish()
    }
}

#[async_trait]
impl LogStore for InmemLogStore {
    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::<Shared>::clone(&self.shared)
    }

    async fn append(&mut self, batches: &[Entries]) -> Result<(), StoreError> {
        self.shared.disk.write("the log").await?;
        let mut log = self.shared.batches.lock();
        let mut previous = log.back().and_then(|batch| batch.last());
        for batch in batches {
            if let (Some(previous), Some(first)) = (previous, batch.first()) {
                follows(previous, first)?;
            }
            previous = batch.last().or(previous);
        }
        log.extend(batches.iter().filter(|batch| !batch.is_empty()).cloned());
        if let Some(noted) = self.noted.take() {
            *self.shared.noted.lock() = Some(noted);
        }
        Ok(())
    }

    async fn truncate_suffix(&mut self, from: LogIndex) -> Result<(), StoreError> {
        self.shared.disk.write("the log").await?;
        let mut log = self.shared.batches.lock();
        let kept = log.partition_point(|batch| first_index(batch) < from);
        let removed = log.split_off(kept);
        if let Some(last) = log.back_mut() {
            *last = last.within(LogIndex::ZERO..=from.prev());
        }
        drop(log);
        drop(removed);
        Ok(())
    }

    async fn truncate_prefix(&mut self, through: LogIndex) -> Result<(), StoreError> {
        self.shared.disk.write("the log").await?;
        let mut log = self.shared.batches.lock();
        let gone = log.partition_point(|batch| last_index(batch) <= through);
        let removed: Vec<_> = log.drain(..gone).collect();
        if let Some(first) = log.front_mut() {
            let surplus = through.next().since(first_index(first));
            *first = first.skip(surplus as usize);
        }
        drop(log);
        drop(removed);
        Ok(())
    }

    fn note_commit(&mut self, index: LogIndex) {
        self.noted = Some(index);
    }
}

#[async_trait]
impl LogReader for Shared {
    fn trouble(&self) -> Option<String> {
        self.disk.trouble()
    }

    async fn noted_commit(&self) -> Result<Option<LogIndex>, StoreError> {
        self.disk.read("the log")?;
        Ok(*self.noted.lock())
    }

    async fn bounds(&self) -> Result<Option<(LogIndex, LogIndex)>, StoreError> {
        self.disk.read("the log")?;
        Ok(bounds(&self.batches.lock()))
    }

    async fn read(
        &self,
        range: RangeInclusive<LogIndex>,
        max_bytes: u64,
    ) -> Result<Entries, StoreError> {
        self.disk.read("the log")?;
        let start = *range.start();
        let parts = parts(&self.batches.lock(), range)
            .ok_or_else(|| StoreError::NotFound { what: format!("entry {start}") })?;
        let entries = match <[Entries; 1]>::try_from(parts) {
            Ok([part]) => part,
            Err(parts) => merged(&parts),
        };
        Ok(entries.trimmed(max_bytes))
    }
}

fn first_index(batch: &Entries) -> LogIndex {
    batch.first().map_or(LogIndex::ZERO, |entry| entry.index)
}

fn last_index(batch: &Entries) -> LogIndex {
    batch.last().map_or(LogIndex::ZERO, |entry| entry.index)
}

fn bounds(log: &VecDeque<Entries>) -> Option<(LogIndex, LogIndex)> {
    Some((first_index(log.front()?), last_index(log.back()?)))
}

fn follows(previous: &Entry, next: &Entry) -> Result<(), StoreError> {
    let (previous, next) = (previous.id(), next.id());
    if previous.index.next() == next.index && previous.term <= next.term {
        return Ok(());
    }
    Err(StoreError::Refused { reason: format!("entry {next} does not follow entry {previous}") })
}

/// The parts of the batches that lie in `range`, as far as one read goes; `None` when the log does
/// not hold its first entry.
fn parts(log: &VecDeque<Entries>, range: RangeInclusive<LogIndex>) -> Option<Vec<Entries>> {
    let (start, end) = range.into_inner();
    let (first, last) = bounds(log)?;
    if start < first || last < start {
        return None;
    }
    let position = log.partition_point(|batch| last_index(batch) < start);
    let mut parts = vec![log.get(position)?.within(start..=end)];
    let mut len = parts.iter().map(|part| part.len()).sum::<usize>();
    for batch in log.range(position + 1..) {
        if MERGED_ENTRIES_MAX <= len || end < first_index(batch) {
            break;
        }
        let room = (MERGED_ENTRIES_MAX - len) as u64;
        let part_end = first_index(batch).plus(room as usize).prev();
        let part = batch.within(start..=end.min(part_end));
        len += part.len();
        parts.push(part);
    }
    Some(parts)
}

fn merged(parts: &[Entries]) -> Entries {
    let mut entries = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    for part in parts {
        entries.extend_from_slice(part);
    }
    Entries::new(entries)
}
