//! How far the database was durable, noted outside of RocksDB's own files.
//!
//! RocksDB takes a damaged length at the end of its write-ahead log, or of its manifest, for a write that
//! was cut short, and opens without what lay behind. A second, synced place is needed to tell the two
//! apart: the file [`MARK`] says which write was durable, and how long the manifest was. A database
//! that has less has lost what was acknowledged.
//!
//! The number is RocksDB's sequence number: it counts every operation, on whatever record, and never
//! goes back, so that a mark that is behind is still true. A thread writes it, so that neither a
//! write waits for it nor the last write before a quiet time goes without.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use raft::StoreError;

use crate::framing;

/// The name of the file.
pub(crate) const MARK: &str = "RAFT-DURABLE";
const NEW: &str = "RAFT-DURABLE.new";

/// How long after a write the mark may be behind it.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The last operation that was durable.
    pub(crate) sequence: u64,
    pub(crate) manifest: Manifest,
    /// The lowest number of a write-ahead log that was there; zero if none was. A log of a lower number is
    /// not of this database: it is what a copy was written over, and RocksDB does not read it.
    oldest_log: u64,
}

/// RocksDB's list of its files, which it adds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Part of its name: a new one begins with each opening.
    number: u64,
    /// Where the last record ends that was durable.
    end: u64,
}

impl Mark {
    /// The mark in `dir`; `None` in a store that never had one.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = dir.join(MARK);
        match fs::read(&path) {
            Ok(bytes) => match Self::decode(&bytes) {
                Some(mark) => Ok(Some(mark)),
                None => Err(StoreError::corrupt(
                    format!("the file {MARK} in {}", dir.display()),
                    "whether the database still has all that was acknowledged cannot be told: if \
                     others of its cluster are well, let this server rejoin them with an empty \
                     directory; if it is the only one, remove that file, and what is there is \
                     opened as it is",
                )),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io(format!("cannot read {}", path.display()), error)),
        }
    }

    fn encode(self) -> String {
        let Self { sequence, manifest: Manifest { number, end }, oldest_log } = self;
        let mut text = format!(
            "durable through {sequence}\nMANIFEST-{number:06} through {end}\nlogs from \
             {oldest_log:06}\n"
        );
        let checksum = crc32fast::hash(text.as_bytes());
        // Writing to text does not fail.
        let _ = writeln!(text, "checksum {checksum:08x}");
        text
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.lines();
        let sequence = lines.next()?.strip_prefix("durable through ")?.parse().ok()?;
        let (number, end) = lines.next()?.strip_prefix("MANIFEST-")?.split_once(" through ")?;
        let manifest = Manifest { number: number.parse().ok()?, end: end.parse().ok()? };
        let oldest_log = lines.next()?.strip_prefix("logs from ")?.parse().ok()?;
        let mark = Self { sequence, manifest, oldest_log };
        // There is one way to write it.
        (mark.encode() == text).then_some(mark)
    }

    /// Makes it what the file says: the old text or this one, whatever happens.
    fn write(self, dir: &Path) -> io::Result<()> {
        let new = dir.join(NEW);
        let mut file = File::create(&new)?;
        file.write_all(self.encode().as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, dir.join(MARK))?;
        File::open(dir)?.sync_all()
    }
}

/// Takes the mark away from a directory that holds nothing acknowledged.
pub(crate) fn remove(dir: &Path) -> Result<(), StoreError> {
    match fs::remove_file(dir.join(MARK)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io(format!("cannot remove {MARK} in {}", dir.display()), error))
        }
        _ => Ok(()),
    }
}

fn manifest_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("MANIFEST-{number:06}"))
}

/// Looks into the manifest that RocksDB goes by; `None` if it cannot be told, which RocksDB will say.
fn in_manifest<T>(
    dir: &Path,
    mut look: impl FnMut(u64, &Path) -> io::Result<T>,
) -> io::Result<Option<T>> {
    let mut may_be_replaced = true;
    loop {
        let Some(number) = current_manifest(dir)? else { return Ok(None) };
        match look(number, &manifest_path(dir, number)) {
            // A database that is open begins a new one, and removes the old one.
            Err(error) if error.kind() == io::ErrorKind::NotFound && may_be_replaced => {
                may_be_replaced = false;
            }
            looked => return looked.map(Some),
        }
    }
}

fn current_manifest(dir: &Path) -> io::Result<Option<u64>> {
    let name = match fs::read(dir.join("CURRENT")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let name = String::from_utf8_lossy(&name);
    let number = name.trim_end().strip_prefix("MANIFEST-").and_then(|it| it.parse().ok());
    Ok(number.filter(|number| manifest_path(dir, *number).exists()))
}

/// Reads RocksDB's files in `dir` the way it will, and gives the sequence number that its write-ahead
/// logs reach. A manifest shorter than it was at `mark`, and what RocksDB would pass over,
/// is an error of kind `InvalidData`.
pub(crate) fn survey(dir: &Path, mark: Option<Mark>) -> io::Result<u64> {
    in_manifest(dir, |number, path| {
        let end = framing::manifest_end(path, 0)?;
        // There may be a newer one, begun after the mark; it has all that the old one had.
        let marked = mark.map(|mark| mark.manifest).filter(|marked| marked.number == number);
        if let Some(marked) = marked.filter(|marked| end < marked.end) {
            let (file, marked) = (path.display(), marked.end);
            let reason = format!(
                "{file} can be read up to byte {end}, but was durable up to byte {marked} (says its \
                 file {MARK})"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(())
    })?;
    framing::last_sequence(dir, mark.map_or(0, |mark| mark.oldest_log))
}

/// Keeps the mark of an open database, at most an [`INTERVAL`] behind, and up to date when it is
/// dropped.
#[derive(Debug)]
pub(crate) struct Marker {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    durable: AtomicU64,
    is_stopping: Mutex<bool>,
    stop: Condvar,
}

impl Marker {
    /// Marks that the database in `dir` is durable up to `sequence`, and goes on from there.
    pub(crate) fn start(dir: &Path, sequence: u64, interval: Duration) -> Result<Self, StoreError> {
        let shared = Arc::new(Shared {
            durable: AtomicU64::new(sequence),
            is_stopping: Mutex::new(false),
            stop: Condvar::new(),
        });
        let mut keeper = Keeper::new(dir);
        keeper.keep(sequence);
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("raft-rocksdb-mark".to_owned())
            .spawn(move || theirs.run(&mut keeper, interval))
            .map_err(|error| {
                StoreError::io(format!("cannot open the store in {}", dir.display()), error)
            })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Everything up to `sequence` is durable. Costs a store to memory.
    pub(crate) fn is_durable(&self, sequence: u64) {
        self.shared.durable.store(sequence, Ordering::Release);
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        *self.shared.is_stopping.lock() = true;
        self.shared.stop.notify_one();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that marks what is durable has panicked");
        }
    }
}

impl Shared {
    /// Also looks when nothing was written: RocksDB goes on writing its files out, and adds to its
    /// manifest, after the last write.
    fn run(&self, keeper: &mut Keeper, interval: Duration) {
        let mut is_stopping = self.is_stopping.lock();
        loop {
            if !*is_stopping {
                self.stop.wait_for(&mut is_stopping, interval);
            }
            keeper.keep(self.durable.load(Ordering::Acquire));
            if *is_stopping {
                return;
            }
        }
    }
}

/// Who writes the mark.
struct Keeper {
    dir: PathBuf,
    written: Option<Mark>,
    is_failing: bool,
    /// A manifest could not be synced. The kernel says so once, and what is durable is not known any more.
    is_unsure: bool,
}

impl Keeper {
    fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), written: None, is_failing: false, is_unsure: false }
    }

    /// The store does not end when its mark cannot be written: the one before is still true, and the next
    /// attempt comes soon. If it is the disk's fault, the next write of the store says so.
    fn keep(&mut self, sequence: u64) {
        match self.try_to_keep(sequence) {
            Ok(()) => self.is_failing = false,
            Err(error) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    let dir = self.dir.display();
                    tracing::warn!(
                        %dir,
                        %error,
                        "how far the store is durable cannot be marked (file {MARK}): meanwhile, damage \
                         to the newest writes could go unnoticed"
                    );
                }
            }
        }
    }

    fn try_to_keep(&mut self, sequence: u64) -> io::Result<()> {
        if self.is_unsure {
            return Err(io::Error::other("a manifest could not be synced"));
        }
        let mut is_unsure = false;
        let known = self.written.map(|mark| mark.manifest);
        let manifest = in_manifest(&self.dir, |number, path| {
            let known = known.filter(|known| known.number == number).map_or(0, |known| known.end);
            let mut end = known;
            if fs::metadata(path)?.len() != known {
                end = framing::manifest_end(path, known)?;
            }
            if end != known {
                // RocksDB may be about to do it.
                File::open(path)?.sync_data().inspect_err(|_| is_unsure = true)?;
            }
            Ok(Manifest { number, end })
        });
        self.is_unsure = is_unsure;
        let Some(manifest) = manifest? else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the manifest cannot be found"));
        };
        let oldest_log = framing::oldest_log(&self.dir)?;
        let mark = Mark { sequence, manifest, oldest_log };
        if self.written != Some(mark) {
            mark.write(&self.dir)?;
            self.written = Some(mark);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
