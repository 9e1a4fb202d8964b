//! The open directory, from which the two stores are taken.

use std::{path::Path, sync::Arc};

use raft::StoreError;

use crate::{
    database::Database, log_store::RocksLogStore, options::RocksOptions,
    stable_store::RocksStableStore,
};

/// A directory with the log, the term and the vote of one server.
///
/// The directory stays locked until this, both stores and every reader are dropped and no call is
/// under way. The last of them to be dropped marks how far the database is durable, and blocks for
/// that moment.
#[derive(Debug)]
pub struct RocksStore {
    database: Arc<Database>,
}

impl RocksStore {
    /// Opens the store in `dir`, or makes one if the directory is missing or empty.
    ///
    /// Checks whose directory it is, whether the database has all that was durable when it was last
    /// marked, its format, the term and vote, and both ends of the log. The entries between are
    /// checked when they are read.
    ///
    /// Blocks: RocksDB replays its write-ahead log, up to about twice
    /// [`write_buffer_bytes`](RocksOptions::write_buffer_bytes). Call it before the runtime is
    /// busy, or from `spawn_blocking`.
    ///
    /// # Errors
    /// Every error is one line and names the directory.
    /// [`StoreError::Refused`]: an option is out of its range, the path is a file, the directory
    /// holds something else, or a format this release does not know.
    /// [`StoreError::Corrupt`]: a check failed, or RocksDB found damage. What was durable and is missing is
    /// found before anything is changed.
    /// [`StoreError::Io`]: the store is in use, or the operating system refused.
    pub fn open(dir: impl AsRef<Path>, options: RocksOptions) -> Result<Self, StoreError> {
        let database = Arc::new(Database::open(dir.as_ref(), &options)?);
        Ok(Self { database })
    }

    /// Opens the store in `dir` as [`open`](Self::open) does, but makes none: for tools that work on
    /// what is there.
    ///
    /// # Errors
    /// Those of [`open`](Self::open); [`StoreError::Refused`] also when the directory is missing or
    /// holds no store. Nothing is made then.
    pub fn open_existing(dir: impl AsRef<Path>, options: RocksOptions) -> Result<Self, StoreError> {
        let database = Arc::new(Database::open_existing(dir.as_ref(), &options)?);
        Ok(Self { database })
    }

    /// Opens the store in `dir` for reading: no file is made, changed or locked, and every write
    /// fails. It shows what was there when it was opened.
    ///
    /// As nothing is locked, it is the caller who has to see to it that no server writes to the
    /// directory meanwhile: RocksDB may then find files gone that it is about to read.
    ///
    /// # Errors
    /// As for [`open_existing`](Self::open_existing).
    pub fn open_read_only(
        dir: impl AsRef<Path>,
        options: RocksOptions,
    ) -> Result<Self, StoreError> {
        let database = Arc::new(Database::open_read_only(dir.as_ref(), &options)?);
        Ok(Self { database })
    }

    /// The log. Take one: it is meant to have a single owner, though two would only take turns.
    #[must_use]
    pub fn log_store(&self) -> RocksLogStore {
        RocksLogStore::new(Arc::clone(&self.database))
    }

    /// The term and vote. Take one.
    #[must_use]
    pub fn stable_store(&self) -> RocksStableStore {
        RocksStableStore::new(Arc::clone(&self.database))
    }
}
