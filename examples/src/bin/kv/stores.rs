//! What is in a server's data directory: the log, the term and the vote in `log`, snapshots in
//! `snapshots`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use raft::{FileSnapshotStore, StoreError};
use raft_rocksdb::{RocksLogStore, RocksOptions, RocksStableStore, RocksStore};

use crate::{failure::Failure, identity::make_private};

/// The newest is what the server starts from; the others are for when it is damaged.
const SNAPSHOTS: usize = 3;

/// Everything a server keeps.
pub(crate) struct Stores {
    pub(crate) log: RocksLogStore,
    pub(crate) stable: RocksStableStore,
    pub(crate) snapshots: FileSnapshotStore,
}

impl Stores {
    /// Opens the stores, and makes those that are missing.
    ///
    /// # Errors
    /// When one cannot be opened; the failure names it.
    pub(crate) async fn open(data: &Path) -> Result<Self, Failure> {
        let (log, snapshots) = places(data);
        for place in [log, snapshots] {
            // The stores would make them readable for all.
            make_private(&place).map_err(|error| {
                Failure::new(format!("cannot make {}: {error}", place.display()))
            })?;
        }
        Self::open_by(data, |log| RocksStore::open(log, RocksOptions::default())).await
    }

    /// Opens the stores of a server that has run before. If its log was taken away because it is damaged,
    /// and there are snapshots, a new one is made.
    ///
    /// # Errors
    /// When there are none or one cannot be opened; the failure names it.
    pub(crate) async fn open_existing(data: &Path) -> Result<Self, Failure> {
        let (log, snapshots) = places(data);
        let has_snapshots = || fs::read_dir(&snapshots).is_ok_and(|items| 0 < items.count());
        if !log.exists() && has_snapshots() {
            return Self::open(data).await;
        }
        Self::open_by(data, |log| RocksStore::open_existing(log, RocksOptions::default())).await
    }

    async fn open_by(
        data: &Path,
        open_log: fn(PathBuf) -> Result<RocksStore, StoreError>,
    ) -> Result<Self, Failure> {
        let (log, snapshots) = places(data);
        let open = move || Ok((open_log(log)?, FileSnapshotStore::open(snapshots, SNAPSHOTS)?));
        let (log, snapshots) = blocking(open).await?;
        Ok(Self { log: log.log_store(), stable: log.stable_store(), snapshots })
    }
}

/// The stores of a server that does not run, to be looked at. Snapshots may be missing.
pub(crate) struct ReadOnlyStores {
    pub(crate) log: RocksLogStore,
    pub(crate) stable: RocksStableStore,
    pub(crate) snapshots: Option<FileSnapshotStore>,
}

impl ReadOnlyStores {
    /// Opens the stores and changes nothing.
    ///
    /// # Errors
    /// When there are none or one cannot be read; the failure names it.
    pub(crate) async fn open(data: &Path) -> Result<Self, Failure> {
        let (log, snapshots) = places(data);
        let open = move || {
            let log = RocksStore::open_read_only(log, RocksOptions::default())?;
            let snapshots =
                snapshots.exists().then(|| FileSnapshotStore::open_read_only(snapshots));
            Ok((log, snapshots.transpose()?))
        };
        let (log, snapshots) = blocking(open).await?;
        Ok(Self { log: log.log_store(), stable: log.stable_store(), snapshots })
    }
}

fn places(data: &Path) -> (PathBuf, PathBuf) {
    (data.join("log"), data.join("snapshots"))
}

async fn blocking<T: Send + 'static>(
    open: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(open)
        .await
        .map_err(Failure::new)?
        .map_err(|error| Failure::of_store(&error))
}
