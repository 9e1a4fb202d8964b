//! Which snapshots there are: looking at them, keeping the newest, and the lock on all of it.
//! Blocks.
//!
//! A snapshot is there from the moment its directory has a name without `.tmp`. One that is damaged
//! is still there, and cannot be opened: a server that forgot it could start without entries that
//! only it stands for (law 7).

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File, TryLockError},
    io::{self, Read, Seek},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

use super::{
    meta::{self, Description, FORMAT_VERSION, Unreadable},
    name::Name,
};
use crate::{
    configuration::IndexedConfiguration,
    position::LogId,
    snapshot::{SnapshotId, SnapshotMeta},
    store_error::StoreError,
};

/// The file with the bytes of a snapshot, in its directory.
pub(super) const DATA: &str = "data";
/// The file that describes a snapshot, in its directory.
pub(super) const META: &str = "meta";
/// Empty; locked while a store is open.
const LOCK: &str = "LOCK";

/// What is read at once to verify the data.
const VERIFY_BYTES: usize = 256 << 10;

const ADVICE: &str = "leave it there; the server starts from an older snapshot if its log reaches \
                      back that far, and has to be set up anew from its peers if not";

/// What changes files. Tests put a full disk here, or one that forgets what was not synced.
pub(super) trait Disk: Send + Sync + 'static {
    fn create(&self, path: &Path) -> io::Result<File> {
        File::create_new(path)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

/// The disk of the operating system.
pub(super) struct RealDisk;

impl Disk for RealDisk {}

/// An open directory of snapshots.
pub(super) struct Directory {
    path: PathBuf,
    retain: usize,
    /// `None`: it was opened for reading.
    lock: Option<File>,
    next_counter: AtomicU64,
    pub(super) disk: Box<dyn Disk>,
    /// Held to change which snapshots there are, and to look at them without their changing.
    changing: Mutex<()>,
    /// Damaged snapshots that were reported.
    reported: Mutex<BTreeSet<Name>>,
}

impl Directory {
    /// Opens and locks the directory, makes it if it is missing, and removes what a crash left.
    pub(super) fn open(
        path: &Path,
        retain: usize,
        disk: Box<dyn Disk>,
    ) -> Result<Self, StoreError> {
        if retain < 2 {
            let reason = format!(
                "`retain` is {retain} for the snapshots in {}: the two newest are always kept, for \
                 the case that the newest comes to nothing; give 2 or more",
                path.display()
            );
            return Err(StoreError::Refused { reason });
        }
        make(path, &*disk)?;
        let directory = Self::new(path, retain, Some(lock(path)?), disk);
        directory.clean_up()?;
        Ok(directory)
    }

    /// Opens a directory that is there, to look at it. Nothing is made, locked or removed.
    pub(super) fn open_read_only(path: &Path) -> Result<Self, StoreError> {
        let directory = Self::new(path, usize::MAX, None, Box::new(RealDisk));
        directory.names()?;
        Ok(directory)
    }

    fn new(path: &Path, retain: usize, lock: Option<File>, disk: Box<dyn Disk>) -> Self {
        Self {
            path: path.to_owned(),
            retain,
            lock,
            next_counter: AtomicU64::new(0),
            disk,
            changing: Mutex::default(),
            reported: Mutex::default(),
        }
    }

    /// Removes the drafts of a process that crashed, and begins to count after every snapshot.
    fn clean_up(&self) -> Result<(), StoreError> {
        let mut newest = 0;
        for text in self.file_names()? {
            if let Some(draft) = Name::parse_draft(&text) {
                let path = self.draft_path(draft);
                fs::remove_dir_all(&path).map_err(|error| cannot("remove", &path, error))?;
                tracing::info!(path = %path.display(), "removed an unfinished snapshot");
            } else if let Some(name) = Name::parse(&text) {
                newest = newest.max(name.counter);
            } else if text != LOCK && text != "lost+found" {
                let path = self.path.join(text);
                tracing::warn!(path = %path.display(), "not a snapshot; left alone");
            }
        }
        self.next_counter.store(newest.saturating_add(1), Ordering::Relaxed);
        Ok(())
    }

    /// A name that no snapshot here has had since the directory was opened.
    pub(super) fn new_name(&self, last: LogId) -> Result<Name, StoreError> {
        if self.lock.is_none() {
            let reason = format!(
                "the snapshots in {} were opened for reading only; open them for writing",
                self.path.display()
            );
            return Err(StoreError::Refused { reason });
        }
        Ok(Name { last, counter: self.next_counter.fetch_add(1, Ordering::Relaxed) })
    }

    /// Makes the names in a directory durable.
    pub(super) fn sync(&self, dir: &Path) -> Result<(), StoreError> {
        self.disk.sync_dir(dir).map_err(|error| cannot("sync", dir, error))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        self.disk.rename(from, to).map_err(|error| cannot("rename", from, error))
    }

    pub(super) fn draft_path(&self, name: Name) -> PathBuf {
        self.path.join(name.draft())
    }

    fn snapshot_path(&self, name: Name) -> PathBuf {
        self.path.join(name.to_string())
    }

    /// Every snapshot, newest first. One whose description cannot be read is described by its name
    /// alone, and reported the first time.
    pub(super) fn list(&self) -> Result<Vec<SnapshotMeta>, StoreError> {
        let _unchanged = self.changing.lock();
        let describe = |name| match self.description(name) {
            Ok(description) => description.meta,
            Err(error) => {
                if self.reported.lock().insert(name) {
                    tracing::warn!(id = %name, last = %name.last, %error, "a snapshot is unusable");
                }
                let configuration = IndexedConfiguration::default();
                SnapshotMeta { id: name.id(), last: name.last, configuration, size_bytes: 0 }
            }
        };
        Ok(self.names()?.into_iter().map(describe).collect())
    }

    /// A snapshot with its data, of which only the length has been checked.
    pub(super) fn open_snapshot(&self, id: &SnapshotId) -> Result<Opened, StoreError> {
        let not_found = || StoreError::NotFound {
            what: format!("snapshot {:?} in {}", id.as_str(), self.path.display()),
        };
        let name = Name::parse(id.as_str()).ok_or_else(not_found)?;
        let path = self.snapshot_path(name);
        let _unchanged = self.changing.lock();
        if !path.try_exists().map_err(|error| cannot("look for", &path, error))? {
            return Err(not_found());
        }
        self.opened(name)
    }

    /// Gives a complete, durable draft its name, durably, then removes what is too old.
    pub(super) fn publish(&self, name: Name) -> Result<(), StoreError> {
        let (draft, snapshot) = (self.draft_path(name), self.snapshot_path(name));
        let changing = self.changing.lock();
        self.rename(&draft, &snapshot)?;
        if let Err(error) = self.sync(&self.path) {
            // What may be gone after a power cut must not be visible now.
            let _ = self.rename(&snapshot, &draft);
            return Err(error);
        }
        let retired = self.retire();
        drop(changing);
        for name in retired {
            remove(&self.draft_path(name));
        }
        Ok(())
    }

    /// Takes the name of a snapshot away, durably, then removes what is left of it.
    pub(super) fn withdraw(&self, id: &SnapshotId) -> Result<(), StoreError> {
        let Some(name) = Name::parse(id.as_str()) else { return Ok(()) };
        let (draft, snapshot) = (self.draft_path(name), self.snapshot_path(name));
        let changing = self.changing.lock();
        match self.disk.rename(&snapshot, &draft) {
            Ok(()) => self.sync(&self.path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(cannot("rename", &snapshot, error)),
        }
        drop(changing);
        remove(&draft);
        Ok(())
    }

    /// Makes drafts of what is older than the newest usable snapshots, and returns them. A failure
    /// is only reported: the new snapshot is safe all the same, and the next one tries again.
    ///
    /// A damaged one never takes the place of a usable one. It is kept until it is older than those,
    /// because until then entries may be missing that only it stands for.
    fn retire(&self) -> Vec<Name> {
        let mut usable = 0;
        let mut retired = Vec::new();
        let mut retire = || -> Result<(), StoreError> {
            for name in self.names()? {
                if usable == self.retain {
                    self.rename(&self.snapshot_path(name), &self.draft_path(name))?;
                    retired.push(name);
                } else if self.opened(name).is_ok() {
                    usable += 1;
                }
            }
            // Or a power cut could bring one back under its name with files missing.
            if retired.is_empty() { Ok(()) } else { self.sync(&self.path) }
        };
        match retire() {
            Ok(()) => retired,
            Err(error) => {
                tracing::warn!(%error, "old snapshots were not removed");
                Vec::new()
            }
        }
    }

    fn opened(&self, name: Name) -> Result<Opened, StoreError> {
        let description = self.description(name)?;
        let path = self.snapshot_path(name).join(DATA);
        let data = match File::open(&path) {
            Ok(data) => data,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(corrupt(&path, "it is missing"));
            }
            Err(error) => return Err(cannot("open", &path, error)),
        };
        let found = data.metadata().map_err(|error| cannot("open", &path, error))?.len();
        let written = description.meta.size_bytes;
        if found != written {
            return Err(corrupt(&path, format!("{written} bytes were written, {found} are there")));
        }
        Ok(Opened { description, path, data })
    }

    fn description(&self, name: Name) -> Result<Description, StoreError> {
        let path = self.snapshot_path(name).join(META);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(corrupt(&path, "it is missing"));
            }
            Err(error) => return Err(cannot("read", &path, error)),
        };
        meta::decode(name, &bytes).map_err(|unreadable| match unreadable {
            Unreadable::Damaged(reason) => corrupt(&path, reason),
            Unreadable::UnknownFormat(version) => StoreError::Refused {
                reason: format!(
                    "the snapshot in {} is in format {version}, this release knows format \
                     {FORMAT_VERSION}; start the release that wrote it, or a newer one",
                    self.snapshot_path(name).display()
                ),
            },
        })
    }

    /// Newest first.
    fn names(&self) -> Result<Vec<Name>, StoreError> {
        let texts = self.file_names()?;
        let mut names: Vec<_> = texts.iter().filter_map(|text| Name::parse(text)).collect();
        names.sort_by(|a, b| b.cmp(a));
        Ok(names)
    }

    /// What is in the directory, as far as it is text: our names are.
    fn file_names(&self) -> Result<Vec<String>, StoreError> {
        let list = || -> io::Result<Vec<String>> {
            let names = fs::read_dir(&self.path)?.map(|item| Ok(item?.file_name().into_string()));
            names.filter_map(|name| name.map(Result::ok).transpose()).collect()
        };
        list().map_err(|error| cannot("list", &self.path, error))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Closing the file is not enough: a child process that is just being started holds a copy
        // of it until its program begins.
        let _ = self.lock.as_ref().map(File::unlock);
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory")
            .field("path", &self.path)
            .field("retain", &self.retain)
            .finish_non_exhaustive()
    }
}

/// A snapshot that can be read.
pub(super) struct Opened {
    description: Description,
    path: PathBuf,
    data: File,
}

impl Opened {
    /// Reads all of the data and compares its checksum.
    pub(super) fn verified(mut self) -> Result<Self, StoreError> {
        let failed = |error| cannot("read", &self.path, error);
        let mut hasher = crc32fast::Hasher::new();
        let mut buffer = vec![0; VERIFY_BYTES];
        loop {
            match self.data.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => hasher.update(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let (stored, computed) = (self.description.data_crc, hasher.finalize());
        if stored != computed {
            let reason =
                format!("checksum {stored:08x} is stored, but the bytes have {computed:08x}");
            return Err(corrupt(&self.path, reason));
        }
        self.data.rewind().map_err(failed)?;
        Ok(self)
    }

    /// Goes to the byte at `offset`.
    pub(super) fn at(mut self, offset: u64) -> Result<Self, StoreError> {
        self.description.meta.check_offset(offset)?;
        self.data
            .seek(io::SeekFrom::Start(offset))
            .map_err(|error| cannot("read", &self.path, error))?;
        Ok(self)
    }

    pub(super) fn into_parts(self) -> (SnapshotMeta, File) {
        (self.description.meta, self.data)
    }
}

/// Makes the directory if it is missing, durably.
fn make(dir: &Path, disk: &dyn Disk) -> Result<(), StoreError> {
    match fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => {
            let reason =
                format!("{} is a file; the store needs a directory of its own", dir.display());
            return Err(StoreError::Refused { reason });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(cannot("open", dir, error)),
    }
    let missing: Vec<_> = dir.ancestors().take_while(|path| !path.exists()).collect();
    fs::create_dir_all(dir).map_err(|error| cannot("create", dir, error))?;
    let parents = missing.into_iter().filter_map(Path::parent);
    let mut parents = parents.filter(|parent| *parent != Path::new(""));
    let sync = |dir| disk.sync_dir(dir).map_err(|error| cannot("sync", dir, error));
    parents.try_for_each(sync)
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(LOCK);
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| cannot("open", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Refused {
            reason: format!(
                "the snapshots in {} are in use by another store, in this process or another; \
                 close that one first",
                dir.display()
            ),
        }),
        Err(TryLockError::Error(error)) => Err(cannot("lock", &path, error)),
    }
}

/// Removes the directory of a draft. What cannot be removed now is removed at the next opening.
pub(super) fn remove(draft: &Path) {
    match fs::remove_dir_all(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %draft.display(), %error, "cannot remove an unfinished snapshot");
        }
        _ => {}
    }
}

pub(super) fn cannot(what: &str, path: &Path, error: io::Error) -> StoreError {
    StoreError::io(format!("cannot {what} {}", path.display()), error)
}

fn corrupt(path: &Path, reason: impl fmt::Display) -> StoreError {
    StoreError::corrupt(
        format!("the snapshot file {}", path.display()),
        format!("{reason}; {ADVICE}"),
    )
}
