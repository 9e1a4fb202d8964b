//! The log.

use std::{ops::RangeInclusive, sync::Arc};

use async_trait::async_trait;
use raft::{Entries, LogIndex, LogReader, LogStore, StoreError};

use crate::{blocking, database::Database};

/// The log of a [`RocksStore`](crate::RocksStore); hand it to `Raft::new`.
///
/// An append is one synced write, however many batches and entries it takes; so is a truncation,
/// however many entries it removes, also of the whole log. A call that would leave a gap is refused
/// and changes nothing. After a write has failed, every later one is refused.
///
/// A noted commit index is part of the next append that brings entries. It never goes back, and
/// never beyond the last entry: the part of a note that does comes with later appends.
///
/// # Cancel safety
/// A write that was begun is finished even if its future is dropped; the next call waits for it.
///
/// # Panics
/// Calls panic outside of a tokio runtime, and inside a `LocalSet` of a multi-threaded one.
#[derive(Debug)]
pub struct RocksLogStore {
    database: Arc<Database>,
    /// The newest note, durable or not.
    noted_commit: Option<LogIndex>,
}

impl RocksLogStore {
    pub(crate) fn new(database: Arc<Database>) -> Self {
        Self { database, noted_commit: None }
    }
}

#[async_trait]
impl LogStore for RocksLogStore {
    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(RocksLogReader { database: Arc::clone(&self.database) })
    }

    async fn append(&mut self, batches: &[Entries]) -> Result<(), StoreError> {
        let (batches, noted) = (batches.to_vec(), self.noted_commit);
        blocking::run(&self.database, move |database| database.append(&batches, noted)).await
    }

    async fn truncate_suffix(&mut self, from: LogIndex) -> Result<(), StoreError> {
        self.noted_commit = self.noted_commit.map(|noted| noted.min(from.prev()));
        blocking::run(&self.database, move |database| database.truncate_suffix(from)).await
    }

    async fn truncate_prefix(&mut self, through: LogIndex) -> Result<(), StoreError> {
        blocking::run(&self.database, move |database| database.truncate_prefix(through)).await
    }

    fn note_commit(&mut self, index: LogIndex) {
        self.noted_commit = Some(index);
    }
}

/// Reads one consistent state of the log at a time, while the writer writes. The bounds and the
/// noted commit index come from memory.
#[derive(Debug)]
struct RocksLogReader {
    database: Arc<Database>,
}

#[async_trait]
impl LogReader for RocksLogReader {
    async fn bounds(&self) -> Result<Option<(LogIndex, LogIndex)>, StoreError> {
        Ok(self.database.bounds())
    }

    async fn noted_commit(&self) -> Result<Option<LogIndex>, StoreError> {
        Ok(self.database.noted_commit())
    }

    async fn read(
        &self,
        range: RangeInclusive<LogIndex>,
        max_bytes: u64,
    ) -> Result<Entries, StoreError> {
        blocking::run(&self.database, move |database| database.read(range, max_bytes)).await
    }
}
