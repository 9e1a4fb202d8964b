//! What is in a server's data directory: the log, the term and the vote in `log`, snapshots in
//! `snapshots`. The log is kept in files or, if the program was built with it, by RocksDB.

use std::{
    fmt,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use raft::{
    FileLogOptions, FileLogStore, FileSnapshotStore, LogStore, StableStore, StoreError, Verified,
};
#[cfg(feature = "rocksdb")]
use raft_rocksdb::{RocksOptions, RocksStore};

use crate::failure::Failure;

/// The newest is what the server starts from; the others are for when it is damaged.
const SNAPSHOTS: usize = 3;

/// What keeps the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Plain files.
    File,
    /// RocksDB.
    Rocksdb,
}

impl Kind {
    /// What keeps the log in this directory; `None` if there is none.
    fn of(log: &Path) -> Option<Self> {
        let is_there = |name: &str| log.join(name).exists();
        if is_there("RAFT-LOG") || is_there("RAFT-LOG.creating") {
            Some(Self::File)
        } else if is_there("RAFT-ROCKSDB") || is_there("RAFT-ROCKSDB.creating") {
            Some(Self::Rocksdb)
        } else {
            None
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Rocksdb => "rocksdb",
        })
    }
}

/// How a log is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    /// Made if it is missing.
    Any,
    Existing,
    ReadOnly,
}

/// A log with the term and the vote.
struct Log(Box<dyn LogStore>, Box<dyn StableStore>);

impl Log {
    fn open(kind: Kind, dir: &Path, how: Open) -> Result<Self, StoreError> {
        match kind {
            Kind::File => {
                let options = FileLogOptions::default();
                let log = match how {
                    Open::Any => FileLogStore::open(dir, options),
                    Open::Existing => FileLogStore::open_existing(dir, options),
                    Open::ReadOnly => FileLogStore::open_read_only(dir),
                }?;
                Ok(Self(Box::new(log.clone()), Box::new(log)))
            }
            #[cfg(feature = "rocksdb")]
            Kind::Rocksdb => {
                let options = RocksOptions::default();
                let store = match how {
                    Open::Any => RocksStore::open(dir, options),
                    Open::Existing => RocksStore::open_existing(dir, options),
                    Open::ReadOnly => RocksStore::open_read_only(dir, options),
                }?;
                Ok(Self(Box::new(store.log_store()), Box::new(store.stable_store())))
            }
            #[cfg(not(feature = "rocksdb"))]
            Kind::Rocksdb => Err(StoreError::Refused {
                reason: format!(
                    "the log in {} is one of RocksDB, and this program was built without it; build it with \
                     `--features rocksdb`",
                    dir.display()
                ),
            }),
        }
    }
}

/// Everything a server keeps.
pub(crate) struct Stores {
    pub(crate) log: Box<dyn LogStore>,
    pub(crate) stable: Box<dyn StableStore>,
    pub(crate) snapshots: FileSnapshotStore,
}

/// Whether anything of a log is there, well or not; or nobody knows, and opening it will tell.
pub(crate) fn has_log(data: &Path) -> bool {
    let is_something = |name: io::Result<fs::DirEntry>| {
        name.map_or(true, |it| it.file_name() != "LOCK" && it.file_name() != "lost+found")
    };
    match fs::read_dir(places(data).0) {
        Ok(mut names) => names.any(is_something),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

impl Stores {
    /// Opens the stores, and makes those that are missing.
    ///
    /// # Errors
    /// When one cannot be opened, or the log is of another kind; the failure names it.
    pub(crate) async fn open(data: &Path, kind: Kind) -> Result<Self, Failure> {
        let (log, snapshots) = places(data);
        if let Some(found) = Kind::of(&log).filter(|found| *found != kind) {
            return Err(Failure::new(format!(
                "the log in {} was made with `--store {found}` and cannot be opened with `--store {kind}`; give \
                 the one it was made with",
                log.display()
            )));
        }
        for place in [log, snapshots] {
            // The stores would make them readable for all.
            DirBuilder::new().recursive(true).mode(0o700).create(&place).map_err(|error| {
                Failure::new(format!("cannot make {}: {error}", place.display()))
            })?;
        }
        Self::open_by(data, kind, Open::Any).await
    }

    /// Opens the stores of a server that has run before, whatever kind of log it has. If its log was taken away
    /// because it is damaged, and there are snapshots, a new one is made, in files.
    ///
    /// # Errors
    /// When there are none or one cannot be opened; the failure names it.
    pub(crate) async fn open_existing(data: &Path) -> Result<Self, Failure> {
        let (log, snapshots) = places(data);
        let has_snapshots = || fs::read_dir(&snapshots).is_ok_and(|items| 0 < items.count());
        if !has_log(data) && has_snapshots() {
            return Self::open(data, Kind::File).await;
        }
        Self::open_by(data, Kind::of(&log).unwrap_or(Kind::File), Open::Existing).await
    }

    async fn open_by(data: &Path, kind: Kind, how: Open) -> Result<Self, Failure> {
        let (log, snapshots) = places(data);
        let open = move || {
            Ok((Log::open(kind, &log, how)?, FileSnapshotStore::open(snapshots, SNAPSHOTS)?))
        };
        let (Log(log, stable), snapshots) = blocking(open).await?;
        Ok(Self { log, stable, snapshots })
    }
}

/// The stores of a server that does not run, to be looked at. Snapshots may be missing.
pub(crate) struct ReadOnlyStores {
    pub(crate) kind: Kind,
    pub(crate) log: Box<dyn LogStore>,
    pub(crate) stable: Box<dyn StableStore>,
    pub(crate) snapshots: Option<FileSnapshotStore>,
}

impl ReadOnlyStores {
    /// Opens the stores and changes nothing.
    ///
    /// # Errors
    /// When there are none or one cannot be read; the failure names it.
    pub(crate) async fn open(data: &Path) -> Result<Self, Failure> {
        let (log, snapshots) = places(data);
        let kind = Kind::of(&log).unwrap_or(Kind::File);
        let open = move || {
            let log = Log::open(kind, &log, Open::ReadOnly)?;
            let snapshots =
                snapshots.exists().then(|| FileSnapshotStore::open_read_only(snapshots));
            Ok((log, snapshots.transpose()?))
        };
        let (Log(log, stable), snapshots) = blocking(open).await?;
        Ok(Self { kind, log, stable, snapshots })
    }
}

/// Reads every byte of the log that has a checksum of its own beside its entries, if it is one in files. The
/// entries of either kind are read by whoever looks at them.
///
/// # Errors
/// At the first damage.
pub(crate) async fn verify(data: &Path) -> Result<Option<Verified>, Failure> {
    let (log, _) = places(data);
    if Kind::of(&log) != Some(Kind::File) {
        return Ok(None);
    }
    blocking(move || FileLogStore::verify(log).map(Some)).await
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
