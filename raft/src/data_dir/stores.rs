//! The log and the snapshots inside a directory.

use std::{fs, io, sync::Arc};

use super::{DataDir, DataDirError, make_private};
use crate::{
    bootstrap::{bootstrap_cluster, has_existing_state},
    configuration::Configuration,
    error::BootstrapError,
    file_log::{FileLogOptions, FileLogStore},
    file_snapshot::FileSnapshotStore,
    log::LogStore,
    snapshot::SnapshotStore,
    stable::StableStore,
    store_error::StoreError,
};

/// The stores of one server, in files.
#[derive(Debug)]
#[non_exhaustive]
pub struct FileStores {
    /// The log, and the term and vote: give [`Raft::new`](crate::Raft::new) a clone as the stable store.
    pub log: FileLogStore,
    /// The snapshots.
    pub snapshots: Arc<FileSnapshotStore>,
}

impl DataDir {
    /// Opens the stores in this directory, `log` and `snapshots`, and makes those that are missing.
    /// `retained` is how many snapshots are kept, at least 1.
    ///
    /// # Errors
    /// [`DataDirError::LogMissing`] if the server has begun and there is no log; nothing was made.
    /// [`DataDirError::Store`] or [`DataDirError::Io`] if a store cannot be opened.
    ///
    /// # Cancel safety
    /// A dropped future may leave empty stores behind.
    pub async fn open_stores(
        &self,
        options: FileLogOptions,
        retained: usize,
    ) -> Result<FileStores, DataDirError> {
        if self.has_begun() && !self.has_log() {
            return Err(self.log_missing());
        }
        let (log, snapshots) = (self.path().join("log"), self.path().join("snapshots"));
        let open = move || {
            for dir in [&log, &snapshots] {
                // The stores would make them readable for all.
                make_private(dir).map_err(DataDirError::io("make", dir))?;
            }
            let log = FileLogStore::open(&log, options)?;
            let snapshots = Arc::new(FileSnapshotStore::open(&snapshots, retained)?);
            Ok(FileStores { log, snapshots })
        };
        match tokio::task::spawn_blocking(open).await {
            Ok(opened) => opened,
            Err(error) => Err(StoreError::io("cannot open the stores", error).into()),
        }
    }

    /// Makes the stores ready for a start. If they hold nothing, and the server is one of `first_members`, it is
    /// bootstrapped; a server that is to join is left as it is. Repeated calls change nothing.
    ///
    /// # Errors
    /// [`DataDirError::LogMissing`] if the server has begun and its stores hold nothing;
    /// [`DataDirError::HasJoined`] if it holds the data of a cluster that it was not bootstrapped in;
    /// [`DataDirError::Store`] and [`DataDirError::Bootstrap`].
    ///
    /// # Cancel safety
    /// A dropped future leaves what a crash would leave: call it again.
    pub async fn prepare(
        &mut self,
        log: &mut dyn LogStore,
        stable: &mut dyn StableStore,
        snapshots: &dyn SnapshotStore,
        first_members: Option<&Configuration>,
    ) -> Result<(), DataDirError> {
        let has_state = has_existing_state(log, stable, snapshots).await?;
        if self.has_begun() && !has_state {
            return Err(self.log_missing());
        }
        match first_members {
            Some(_) if has_state && self.owner().first_members().is_none() => {
                return Err(self.has_joined());
            }
            Some(members) if !has_state => {
                // Noted first: a start that is cut short here would else be one of a server that joins.
                self.note_first_members(members)?;
                bootstrap_cluster(log, stable, snapshots, members.clone()).await?;
            }
            // It begins when it has joined.
            None if !has_state => return Ok(()),
            _ => {}
        }
        if let Err(error) = self.note_begun() {
            tracing::warn!(%error, "it cannot be noted that this server has begun");
        }
        Ok(())
    }

    /// Whether anything of a log is there, whole or not; or nobody knows, and opening it will tell.
    fn has_log(&self) -> bool {
        let is_something = |name: io::Result<fs::DirEntry>| {
            name.map_or(true, |it| it.file_name() != "LOCK" && it.file_name() != "lost+found")
        };
        match fs::read_dir(self.path().join("log")) {
            Ok(mut names) => names.any(is_something),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    fn log_missing(&self) -> DataDirError {
        DataDirError::LogMissing { dir: self.path().to_owned(), id: self.owner().id().clone() }
    }
}

impl From<BootstrapError> for DataDirError {
    fn from(error: BootstrapError) -> Self {
        match error {
            BootstrapError::Store(error) => Self::Store(error),
            error => Self::Bootstrap(error),
        }
    }
}
