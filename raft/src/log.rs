//! The replicated log: positions, entries, and the contract of the store that keeps them.
//!
//! *Log* is always the whole sequence, never one record; one record is an [`Entry`]. Entries move
//! through the library in [`Entries`], an immutable run that is cheap to clone, so that the leader's
//! cache, its disk, every follower's message and the state machine share one allocation per batch.
//!
//! Source: paper Figure 2; hashicorp/raft `LogStore`.

use std::{
    fmt,
    ops::{Deref, RangeInclusive},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    configuration::Configuration,
    position::{LogId, LogIndex, Term},
    stable::{HardState, Medium},
    store_error::StoreError,
};

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a store or a transport keeps all of it: it has to learn of a new field, not to lose it"
)]
pub enum EntryPayload {
    /// A command of the user, opaque bytes, handed to [`Fsm::apply`](crate::Fsm::apply).
    Command(Bytes),
    /// Nothing: a new leader's first entry, which lets it commit everything before it
    /// (thesis §3.6.2, §6.4).
    Noop,
    /// Nothing: resolves a [`Raft::barrier`](crate::Raft::barrier) when applied.
    Barrier,
    /// A new cluster configuration, in force from the moment it is appended (thesis §4.1).
    Configuration(Configuration),
}

impl EntryPayload {
    /// What every entry counts beside its payload.
    pub(crate) const OVERHEAD_BYTES: u64 = 32;

    /// Payload bytes that count against size limits, plus a fixed overhead of 32 bytes per entry.
    #[must_use]
    pub fn cost_bytes(&self) -> u64 {
        Self::OVERHEAD_BYTES
            + match self {
                Self::Command(data) => data.len() as u64,
                Self::Noop | Self::Barrier => 0,
                Self::Configuration(configuration) => configuration.cost_bytes(),
            }
    }
}

/// One record of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store or a transport keeps all of it: it has to learn of a new field, not to lose it"
)]
pub struct Entry {
    /// The term of the leader that created the entry.
    pub term: Term,
    /// The entry's position; entries of a log are contiguous.
    pub index: LogIndex,
    /// What it carries.
    pub payload: EntryPayload,
}

impl Entry {
    /// Term and index together.
    #[must_use]
    pub fn id(&self) -> LogId {
        LogId { term: self.term, index: self.index }
    }

    /// The command's bytes; empty for every other kind of entry.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        match &self.payload {
            EntryPayload::Command(data) => data,
            EntryPayload::Noop | EntryPayload::Barrier | EntryPayload::Configuration(_) => &[],
        }
    }

    /// Bytes that count against size limits: see [`EntryPayload::cost_bytes`].
    #[must_use]
    pub fn cost_bytes(&self) -> u64 {
        self.payload.cost_bytes()
    }
}

/// An immutable run of contiguous entries. Cloning and slicing share one allocation.
///
/// Dereferences to `[Entry]`. The indices are consecutive and the terms never fall (laws 2, 3);
/// [`Entries::new`] asserts it, and decoding refuses bytes that break it.
#[derive(Clone, Default)]
pub struct Entries {
    batch: Option<Arc<[Entry]>>,
    start: usize,
    end: usize,
}

impl Entries {
    /// Takes over `entries`.
    ///
    /// # Panics
    /// If the indices are not consecutive or a term falls.
    #[must_use]
    pub fn new(entries: Vec<Entry>) -> Self {
        assert!(are_contiguous(&entries), "entries are not contiguous");
        let end = entries.len();
        Self { batch: (0 < end).then(|| entries.into()), start: 0, end }
    }

    /// The last entry's id, or `None` when empty.
    #[must_use]
    pub fn last_id(&self) -> Option<LogId> {
        self.last().map(Entry::id)
    }

    /// The same run without its first `n` entries (all of them if there are fewer).
    #[must_use]
    pub fn skip(&self, n: usize) -> Self {
        let mut rest = self.clone();
        rest.start += n.min(rest.len());
        rest
    }

    /// The part of this run that lies in `range`; empty when they do not overlap.
    #[must_use]
    pub fn within(&self, range: RangeInclusive<LogIndex>) -> Self {
        let Some(first) = self.first().map(|entry| entry.index) else { return Self::default() };
        let lo = range.start().since(first).min(self.len() as u64) as usize;
        let hi =
            LogIndex(range.end().0.saturating_add(1)).since(first).min(self.len() as u64) as usize;
        let mut part = self.clone();
        part.end = part.start + hi.max(lo);
        part.start += lo;
        part
    }

    /// The sum of [`Entry::cost_bytes`].
    #[must_use]
    pub fn cost_bytes(&self) -> u64 {
        self.iter().map(Entry::cost_bytes).sum()
    }

    /// The first entries whose cost is at most `max_bytes` together, but at least one.
    pub(crate) fn trimmed(self, max_bytes: u64) -> Self {
        let fit = fitting(self.iter(), max_bytes);
        let Some(first) = self.first().map(|entry| entry.index) else { return self };
        if fit == self.len() { self } else { self.within(first..=first.plus(fit).prev()) }
    }
}

/// How many of the first entries cost at most `max_bytes` together, but at least one.
pub(crate) fn fitting<'a>(entries: impl Iterator<Item = &'a Entry>, max_bytes: u64) -> usize {
    let mut cost_bytes: u64 = 0;
    let fits = |entry: &&Entry| {
        cost_bytes = cost_bytes.saturating_add(entry.cost_bytes());
        cost_bytes <= max_bytes
    };
    entries.take_while(fits).count().max(1)
}

/// Whether each entry follows its predecessor: index plus one, term not smaller.
#[must_use]
pub fn are_contiguous(entries: &[Entry]) -> bool {
    entries.windows(2).all(|pair| {
        let [a, b] = pair else { return false };
        a.index.next() == b.index && a.term <= b.term
    })
}

impl Deref for Entries {
    type Target = [Entry];

    fn deref(&self) -> &[Entry] {
        self.batch.as_ref().and_then(|batch| batch.get(self.start..self.end)).unwrap_or(&[])
    }
}

impl From<Vec<Entry>> for Entries {
    fn from(entries: Vec<Entry>) -> Self {
        Self::new(entries)
    }
}

impl PartialEq for Entries {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl Eq for Entries {}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Serialize for Entries {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entries = Vec::<Entry>::deserialize(deserializer)?;
        if !are_contiguous(&entries) {
            return Err(serde::de::Error::custom("entries are not contiguous"));
        }
        Ok(Self::new(entries))
    }
}

/// All that one write of the library does to a log, in the order of the fields.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store or a transport keeps all of it: it has to learn of a new field, not to lose it"
)]
pub struct LogWrite<'a> {
    /// The term and the vote; only for a store that has a [medium](LogStore::medium) in common with the
    /// node's [`StableStore`](crate::StableStore).
    pub hard_state: Option<&'a HardState>,
    /// Whether all of the log is removed: a snapshot takes its place.
    pub is_reset: bool,
    /// Every entry with this index or more is removed.
    pub truncate_from: Option<LogIndex>,
    /// What is appended then, as by [`LogStore::append`].
    pub entries: &'a [Entries],
}

/// Where the log is kept. One task, `run_log`, owns the store and is its only writer; everybody
/// else reads through the [`LogReader`] it hands out.
///
/// Every write method is **durable when it returns `Ok`** and atomic: after a crash either all of
/// it is there or none of it. A store that returns an error from a write is never written again by
/// this process: the node stops (a failed fsync must not be retried).
///
/// Test an implementation with `raft::testing::log_store_suite` and `log_store_reopen_suite` (feature
/// `testing`).
///
/// # Cancel safety
/// The library never drops a write's future before it ends, except when the whole runtime stops.
#[async_trait]
pub trait LogStore: Send + 'static {
    /// A handle for reading, valid as long as it is held and always showing the newest completed
    /// write.
    fn reader(&self) -> Arc<dyn LogReader>;

    /// Carries out all of this. The default makes a write of each part; a store that can makes one, which
    /// is durable as a whole or not at all and costs one sync.
    ///
    /// # Errors
    /// Those of the parts.
    async fn write(&mut self, write: LogWrite<'_>) -> Result<(), StoreError> {
        let LogWrite { hard_state, is_reset, truncate_from, entries } = write;
        if hard_state.is_some() {
            let reason = "this log keeps no term and no vote".to_owned();
            return Err(StoreError::Refused { reason });
        }
        if is_reset {
            self.truncate_prefix(LogIndex(u64::MAX)).await?;
        }
        if let Some(from) = truncate_from {
            self.truncate_suffix(from).await?;
        }
        if !entries.is_empty() {
            self.append(entries).await?;
        }
        Ok(())
    }

    /// What this store shares with the [`StableStore`](crate::StableStore) whose term and vote it can write too.
    /// When that one returns the same, the library gives both to [`write`](Self::write), and reads the
    /// term and the vote from the stable store at the next start. `None` (default): it writes a log only.
    fn medium(&self) -> Option<Medium> {
        None
    }

    /// Appends the batches, in order, in **one** durable write.
    ///
    /// The batches are contiguous with each other; the first entry's index is the last index of
    /// the store plus one. On an empty store any first index is accepted (what precedes it is in a
    /// snapshot).
    ///
    /// # Errors
    /// [`StoreError`] when the write failed or would leave a gap.
    async fn append(&mut self, batches: &[Entries]) -> Result<(), StoreError>;

    /// Removes every entry with an index of `from` or more. Nothing to remove is not an error.
    ///
    /// # Errors
    /// [`StoreError`] when the write failed.
    async fn truncate_suffix(&mut self, from: LogIndex) -> Result<(), StoreError>;

    /// Removes every entry with an index of `through` or less. Nothing to remove is not an error.
    ///
    /// With the largest index of all it removes the whole log in one step: that is how a snapshot
    /// from another server takes the place of a log that contradicts it. A crash must leave either
    /// all of the log or none of it.
    ///
    /// # Errors
    /// [`StoreError`] when the write failed.
    async fn truncate_prefix(&mut self, through: LogIndex) -> Result<(), StoreError>;

    /// Notes that the log is known to be committed up to `index`: to be made durable together with
    /// the next [`append`](Self::append), never by a write of its own. Only the newest note counts.
    /// The default forgets it, and a restarted server then learns it from its leader.
    fn note_commit(&mut self, _index: LogIndex) {}
}

/// A store that is chosen while the program runs.
#[async_trait]
impl LogStore for Box<dyn LogStore> {
    fn reader(&self) -> Arc<dyn LogReader> {
        (**self).reader()
    }

    async fn write(&mut self, write: LogWrite<'_>) -> Result<(), StoreError> {
        (**self).write(write).await
    }

    fn medium(&self) -> Option<Medium> {
        (**self).medium()
    }

    async fn append(&mut self, batches: &[Entries]) -> Result<(), StoreError> {
        (**self).append(batches).await
    }

    async fn truncate_suffix(&mut self, from: LogIndex) -> Result<(), StoreError> {
        (**self).truncate_suffix(from).await
    }

    async fn truncate_prefix(&mut self, through: LogIndex) -> Result<(), StoreError> {
        (**self).truncate_prefix(through).await
    }

    fn note_commit(&mut self, index: LogIndex) {
        (**self).note_commit(index);
    }
}

/// Reading side of a [`LogStore`]: shared by the tasks, used while the writer writes.
#[async_trait]
pub trait LogReader: Send + Sync + 'static {
    /// The indices of the first and last entry, or `None` when the store is empty.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn bounds(&self) -> Result<Option<(LogIndex, LogIndex)>, StoreError>;

    /// The newest durable [note](LogStore::note_commit) of the commit index, or `None` when there is
    /// none.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn noted_commit(&self) -> Result<Option<LogIndex>, StoreError> {
        Ok(None)
    }

    /// What will keep the store from being written before long, like a disk that is nearly full; shown in
    /// [`Status::log_trouble`](crate::Status::log_trouble). The default knows of nothing.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Entries from the start of `range`, at most to its end, and at most `max_bytes` of them
    /// (counted by [`Entry::cost_bytes`]), but always at least one.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the first entry of the range is not in the store;
    /// [`StoreError::Corrupt`] when bytes fail their checksum: nothing that failed is returned.
    async fn read(
        &self,
        range: RangeInclusive<LogIndex>,
        max_bytes: u64,
    ) -> Result<Entries, StoreError>;
}

#[cfg(test)]
mod tests;
