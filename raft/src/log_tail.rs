//! The end of the log in memory: what is accepted but not durable, and the recent durable part.
//!
//! `run` puts entries in when the core accepts them, before they are on disk; `replicate` and
//! `run_fsm` take them out, so that neither followers nor the state machine wait for, or read, the
//! disk. What is not durable stays, whatever its size (the core bounds it). What is durable stays
//! as long as the byte bound allows, the newest longest; whether it was applied does not matter,
//! because the store can serve it.
//!
//! The entries are kept in the batches they came in, and handed out as slices of these: nothing is
//! copied unless a message would otherwise be made of crumbs.
//!
//! A compaction moves the mark where the log begins, before the store is told, so that a reader who
//! finds nothing in the store can tell from the mark that there is nothing to be found. When a
//! snapshot of another server takes the place of the log (a reset), everything here is dropped and
//! the marks start anew behind the snapshot.
//!
//! **Generations.** Every truncation, and every reset, begins a new generation. An order to replicate names the
//! generation in which it was given, and gets nothing from another one, so that an order given by
//! an old leader never sends what a newer leader has written in the same places. A write names its
//! generation too ([`Stamp`]), so that the completion of a write whose end was truncated meanwhile
//! is not taken for more than it is (the ABA rule).
//!
//! One of the two structures the tasks share (the other is the list of observers): one short lock,
//! never held across an await, and nothing is freed or copied under it.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use crate::{
    consensus::Write,
    log::{Entries, fitting},
    pop_if::PopIf as _,
    position::LogIndex,
    status::LogMarks,
};

/// A slice of at least this many entries is sent as it is; a smaller one is copied together with
/// what follows, up to this many, because a message costs about as much as copying some dozens of
/// entries.
const CRUMB_ENTRIES: usize = 64;

/// The shared end of the log.
pub(crate) struct LogTail {
    inner: Mutex<Inner>,
    marks: Arc<Marks>,
}

/// How far each stage has come. Written here and nowhere else, under the lock of the tail, so that all
/// of them can be read at one moment; each alone is read without it.
struct Marks {
    first: Mark,
    last: Mark,
    in_progress: Mark,
    stable: Mark,
    committed: Mark,
    applying: Mark,
    applied: Mark,
}

/// One of them. All operations are in one total order, which whoever waits for a mark relies on.
struct Mark(AtomicU64);

impl Mark {
    fn new(index: LogIndex) -> Self {
        Self(AtomicU64::new(index.0))
    }

    fn get(&self) -> LogIndex {
        LogIndex(self.0.load(Ordering::SeqCst))
    }

    fn set(&self, index: LogIndex) {
        self.0.store(index.0, Ordering::SeqCst);
    }

    fn raise(&self, index: LogIndex) {
        if self.get() < index {
            self.set(index);
        }
    }

    fn lower(&self, index: LogIndex) {
        if index < self.get() {
            self.set(index);
        }
    }
}

struct Inner {
    /// None is empty, and each begins where the one before it ends; the last ends at `marks.last`.
    batches: VecDeque<Batch>,
    /// The sum of the batches' costs.
    cost_bytes: u64,
    /// How much of what is durable may be kept.
    max_bytes: u64,
    /// Grows with every truncation and every reset.
    generation: u64,
    /// Truncations that an unfinished write may not know of: (the generation each began, from
    /// where). A reset is one from the start.
    truncations: VecDeque<(u64, LogIndex)>,
    marks: Arc<Marks>,
}

struct Batch {
    entries: Entries,
    cost_bytes: u64,
}

impl Batch {
    fn first_index(&self) -> LogIndex {
        self.entries.first().map_or(LogIndex::ZERO, |entry| entry.index)
    }

    fn last_index(&self) -> LogIndex {
        self.entries.last().map_or(LogIndex::ZERO, |entry| entry.index)
    }
}

/// What a write amounts to once it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    generation: u64,
    last: LogIndex,
}

impl Stamp {
    /// The generation the log is in since this write was accepted.
    pub(crate) fn generation(self) -> u64 {
        self.generation
    }
}

/// The first part of what an order asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// The log was truncated since the order was given: it is void.
    Stale,
    /// The log does not begin before the first entry any more: a snapshot stands for it.
    Compacted,
    /// At least up to here it is durable and not in memory any more.
    OnDisk {
        /// The last such index.
        up_to: LogIndex,
    },
    /// The entries from the start of the range, at least one.
    Entries(Entries),
}

/// What is to be applied next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// It has been collected.
    Entries,
    /// At least up to here it is durable and not in memory any more.
    OnDisk {
        /// The last such index.
        up_to: LogIndex,
    },
    /// A snapshot has taken the place of the log that held it, and follows.
    Replaced,
}

impl LogTail {
    /// The tail of a log that is durable from `first` to `last` and applied up to `applied`.
    pub(crate) fn new(
        (first, last): (LogIndex, LogIndex),
        applied: LogIndex,
        max_bytes: u64,
    ) -> Self {
        let marks = Arc::new(Marks {
            first: Mark::new(first),
            last: Mark::new(last),
            in_progress: Mark::new(last),
            stable: Mark::new(last),
            committed: Mark::new(applied),
            applying: Mark::new(applied),
            applied: Mark::new(applied),
        });
        let inner = Inner {
            batches: VecDeque::new(),
            cost_bytes: 0,
            max_bytes,
            generation: 0,
            truncations: VecDeque::new(),
            marks: Arc::clone(&marks),
        };
        Self { inner: Mutex::new(inner), marks }
    }

    /// How far each stage has come, all at one moment.
    pub(crate) fn marks(&self) -> LogMarks {
        let inner = self.inner.lock();
        let Marks { first, last, in_progress, stable, committed, applying, applied } =
            &*inner.marks;
        LogMarks {
            first: first.get(),
            last: last.get(),
            offset: stable.get().next(),
            in_progress: in_progress.get(),
            stable: stable.get(),
            committed: committed.get(),
            applying: applying.get(),
            applied: applied.get(),
        }
    }

    /// The last index of the log, durable or not.
    pub(crate) fn last_index(&self) -> LogIndex {
        self.marks.last.get()
    }

    /// The last index known to be committed.
    pub(crate) fn commit_index(&self) -> LogIndex {
        self.marks.committed.get()
    }

    /// The last index applied.
    pub(crate) fn applied_index(&self) -> LogIndex {
        self.marks.applied.get()
    }

    /// The current generation, for an order given now.
    pub(crate) fn generation(&self) -> u64 {
        self.inner.lock().generation
    }

    /// Changes how much of what is durable may be kept.
    pub(crate) fn set_max_bytes(&self, max_bytes: u64) {
        let mut removed = Vec::new();
        let mut inner = self.inner.lock();
        inner.max_bytes = max_bytes;
        inner.evict(&mut removed);
        drop(inner);
        drop(removed);
    }

    /// Whether a snapshot stands for the entry at `index`, so that the store need not have it.
    pub(crate) fn is_compacted(&self, index: LogIndex) -> bool {
        index < self.marks.first.get()
    }

    /// Takes in what the core wants written: drops or cuts the tail, then adds the entries.
    ///
    /// # Panics
    /// If that would cut what is committed (law 10) or leave a gap.
    pub(crate) fn accept(&self, write: &Write) -> Stamp {
        let cost_bytes = write.entries.cost_bytes();
        let mut removed = Vec::new();
        let mut inner = self.inner.lock();
        if let Some(index) = write.reset_to {
            inner.reset(index, &mut removed);
        }
        if let Some(from) = write.truncate_from {
            inner.truncate(from, &mut removed);
        }
        if let Some(last) = write.entries.last_id() {
            inner.push(Batch { entries: write.entries.clone(), cost_bytes }, last.index);
        }
        Stamp { generation: inner.generation, last: inner.marks.last.get() }
    }

    /// A write is being carried out.
    pub(crate) fn in_progress(&self, stamp: Stamp) {
        let inner = self.inner.lock();
        inner.marks.in_progress.raise(inner.still_valid(stamp));
    }

    /// A write, and every write before it, is durable: the oldest durable entries beyond the byte
    /// bound go.
    pub(crate) fn written(&self, stamp: Stamp) {
        let mut removed = Vec::new();
        let mut inner = self.inner.lock();
        let last = inner.still_valid(stamp);
        inner.truncations.retain(|(generation, _)| stamp.generation < *generation);
        inner.marks.in_progress.raise(last);
        inner.marks.stable.raise(last);
        inner.evict(&mut removed);
        drop(inner);
        drop(removed);
    }

    /// A snapshot stands for everything up to `through`, all of which is applied: the log begins
    /// after it from now on.
    pub(crate) fn compact(&self, through: LogIndex) {
        let mut removed = Vec::new();
        let mut inner = self.inner.lock();
        inner.marks.first.raise(through.next());
        let is_gone = |batch: &Batch| batch.last_index() <= through;
        while let Some(batch) = inner.batches.take_front_if(is_gone) {
            inner.cost_bytes -= batch.cost_bytes;
            removed.push(batch);
        }
        drop(inner);
        drop(removed);
    }

    /// Everything up to `index` is known to be committed.
    pub(crate) fn committed(&self, index: LogIndex) {
        if self.commit_index() < index {
            self.inner.lock().marks.committed.raise(index);
        }
    }

    /// Everything up to `index` is applied.
    pub(crate) fn applied(&self, index: LogIndex) {
        let inner = self.inner.lock();
        inner.marks.applying.raise(index);
        inner.marks.applied.raise(index);
    }

    /// Collects the entries `first ..= last`, at most `max_entries` of them, into `parts` (which is
    /// empty), and notes that they are being applied. Nothing is collected when the first one is
    /// not in memory.
    pub(crate) fn apply(
        &self,
        (first, last): (LogIndex, LogIndex),
        max_entries: usize,
        parts: &mut Vec<Entries>,
    ) -> Take {
        let inner = self.inner.lock();
        if first < inner.marks.first.get() {
            return Take::Replaced;
        }
        let last = last.min(first.plus(max_entries).prev());
        let Some(mut position) = inner.position(first) else {
            let up_to = inner.evicted_up_to(last);
            inner.marks.applying.raise(up_to);
            return Take::OnDisk { up_to };
        };
        while let Some(batch) = inner.batches.get(position)
            && batch.first_index() <= last
        {
            parts.push(batch.entries.within(first..=last));
            position += 1;
        }
        inner.marks.applying.raise(last);
        Take::Entries
    }

    /// The entries from `first`, at most to `last` and at most `max_bytes` of them but at least
    /// one, for an order given in `generation`.
    pub(crate) fn load(
        &self,
        generation: u64,
        (first, last): (LogIndex, LogIndex),
        max_bytes: u64,
    ) -> Load {
        let inner = self.inner.lock();
        if inner.generation != generation {
            return Load::Stale;
        }
        if first < inner.marks.first.get() {
            return Load::Compacted;
        }
        let Some(position) = inner.position(first) else {
            return Load::OnDisk { up_to: inner.evicted_up_to(last) };
        };
        let mut batches = inner.batches.range(position..);
        let Some(batch) = batches.next() else { return Load::Stale };
        let part = batch.entries.within(first..=last);
        if part.len() == batch.entries.len() && max_bytes < batch.cost_bytes {
            drop(inner);
            return Load::Entries(part.trimmed(max_bytes));
        }
        if CRUMB_ENTRIES <= part.len() || last <= batch.last_index() {
            let is_whole = part.len() == batch.entries.len();
            drop(inner);
            return Load::Entries(if is_whole { part } else { part.trimmed(max_bytes) });
        }
        let mut count = part.len();
        let mut parts = vec![part];
        for batch in batches {
            if CRUMB_ENTRIES <= count || last < batch.first_index() {
                break;
            }
            let end = last.min(batch.first_index().plus(CRUMB_ENTRIES - count).prev());
            let part = batch.entries.within(batch.first_index()..=end);
            count += part.len();
            parts.push(part);
        }
        drop(inner);
        Load::Entries(merged(&parts, count, max_bytes))
    }
}

impl Inner {
    /// Which batch holds `index`, or `None` when it is not in memory (any more).
    fn position(&self, index: LogIndex) -> Option<usize> {
        let front = self.batches.front()?;
        if index < front.first_index() || self.marks.last.get() < index {
            return None;
        }
        // What is asked for is nearly always at the end.
        let from_back = self.batches.iter().rev().take(4).position(|b| b.first_index() <= index);
        if let Some(from_back) = from_back {
            return Some(self.batches.len() - 1 - from_back);
        }
        Some(self.batches.partition_point(|batch| batch.last_index() < index))
    }

    /// The part of `..= last` that is only in the store.
    fn evicted_up_to(&self, last: LogIndex) -> LogIndex {
        self.batches.front().map_or(last, |front| last.min(front.first_index().prev()))
    }

    fn push(&mut self, batch: Batch, last: LogIndex) {
        let end = self.marks.last.get();
        assert!(batch.first_index() == end.next(), "accepted entries leave a gap");
        self.cost_bytes += batch.cost_bytes;
        self.batches.push_back(batch);
        self.marks.last.set(last);
    }

    /// Drops everything: a durable snapshot that ends at `index` takes its place. Completions of
    /// earlier writes are void.
    fn reset(&mut self, index: LogIndex, removed: &mut Vec<Batch>) {
        let committed = self.marks.committed.get();
        assert!(committed <= index, "law 14: a reset to {index} loses what is committed");
        removed.extend(self.batches.drain(..));
        self.cost_bytes = 0;
        self.generation += 1;
        self.truncations.push_back((self.generation, LogIndex::ZERO));
        let Marks { first, last, in_progress, stable, committed, .. } = &*self.marks;
        first.set(index.next());
        for mark in [last, in_progress, stable, committed] {
            mark.set(index);
        }
    }

    fn truncate(&mut self, from: LogIndex, removed: &mut Vec<Batch>) {
        let committed = self.marks.committed.get();
        assert!(committed < from, "law 10: truncation of committed index {from}");
        while let Some(batch) = self.batches.take_back_if(|batch| from <= batch.first_index()) {
            self.cost_bytes -= batch.cost_bytes;
            removed.push(batch);
        }
        if let Some(batch) = self.batches.back_mut()
            && from <= batch.last_index()
        {
            let kept = batch.entries.within(LogIndex::ZERO..=from.prev());
            self.cost_bytes -= batch.cost_bytes;
            *batch = Batch { cost_bytes: kept.cost_bytes(), entries: kept };
            self.cost_bytes += batch.cost_bytes;
        }
        self.generation += 1;
        self.truncations.push_back((self.generation, from));
        for mark in [&self.marks.last, &self.marks.in_progress, &self.marks.stable] {
            mark.lower(from.prev());
        }
    }

    /// The last index a write still stands for, after the truncations it did not know of.
    fn still_valid(&self, stamp: Stamp) -> LogIndex {
        let later = self.truncations.iter().filter(|(began, _)| stamp.generation < *began);
        later.map(|(_, from)| from.prev()).chain([stamp.last]).min().unwrap_or_default()
    }

    fn evict(&mut self, removed: &mut Vec<Batch>) {
        let stable = self.marks.stable.get();
        while self.max_bytes < self.cost_bytes
            && let Some(batch) = self.batches.take_front_if(|batch| batch.last_index() <= stable)
        {
            self.cost_bytes -= batch.cost_bytes;
            removed.push(batch);
        }
    }
}

fn merged(parts: &[Entries], count: usize, max_bytes: u64) -> Entries {
    let fit = fitting(parts.iter().flat_map(|part| part.iter()), max_bytes);
    let mut entries = Vec::with_capacity(count.min(fit));
    entries.extend(parts.iter().flat_map(|part| part.iter()).take(fit).cloned());
    Entries::new(entries)
}

#[cfg(test)]
mod tests;
