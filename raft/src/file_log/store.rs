//! The log as the library sees it.

use std::{
    fmt,
    hash::BuildHasher,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    disk::{Disk, RealDisk},
    errors, identity,
    index::Shared,
    open::{self, Opening},
    options::FileLogOptions,
    segment::{Contents, Segment},
    thread::WriterThread,
    writer::{Change, Writer},
};
use crate::{
    blocking::blocking,
    log::{Entries, LogReader, LogStore, LogWrite},
    position::LogIndex,
    stable::{DiskIdentity, HardState, Medium, StableStore},
    store_error::StoreError,
};

/// The log, the term and the vote of one server, on plain files in one directory: a [`LogStore`] and a
/// [`StableStore`] in one. Give [`Raft::new`](crate::Raft::new) a clone for each.
///
/// - Every write is one batch that is durable as a whole or not at all, with one sync of the disk; a
///   [`LogStore::write`] also when it carries term and vote.
/// - After the first write that failed every later one is refused; reading stays possible.
/// - Every frame has a checksum. Damage is never read as data: it is refused at the start, or by the read that
///   meets it, with the file, the offset and the entry. A batch at the very end of the log that is not whole
///   is taken for a write that the power failed in, and removed. *Rot in exactly that place looks the same*,
///   and what it takes was acknowledged; the other servers then tell this one that it has promised more
///   ([`Fatal::RolledBack`](crate::Fatal::RolledBack)), and it is rejoined.
/// - The index takes four bytes of memory for each entry of the log.
/// - Older segments are opened for each read; one that finds too many files open waits up to ten seconds for a
///   free descriptor.
///
/// The directory is locked until the last clone is dropped, which waits for a write that is under way.
///
/// # Cancel safety
/// A write that was begun is finished even if its future is dropped; the next one comes after it.
///
/// # Examples
/// ```
/// # async fn run(fsm: impl raft::Fsm, transport: std::sync::Arc<dyn raft::Transport>) -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use raft::{Config, FileLogOptions, FileLogStore, FileSnapshotStore, Raft};
///
/// let log = FileLogStore::open("data/log", FileLogOptions::default())?;
/// let snapshots = Arc::new(FileSnapshotStore::open("data/snapshots", 2)?);
/// let raft = Raft::new(Config::new("a"), fsm, log.clone(), log, snapshots, transport).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct FileLogStore {
    shared: Arc<Shared>,
    /// `None`: it was opened for reading.
    writer: Option<Arc<WriterThread>>,
    /// The newest note of the commit index, durable or not.
    noted: Arc<Mutex<Option<LogIndex>>>,
    medium: Medium,
}

/// What [`FileLogStore::verify`] has looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// Segment files with at least one batch.
    pub segments: u64,
    /// Entries of the log, each read and checked.
    pub entries: u64,
    /// Bytes of the files up to the end of the last batch.
    pub bytes: u64,
}

impl FileLogStore {
    /// Opens the log in `dir`, or makes one if the directory is missing or empty.
    ///
    /// Checks whose directory it is, its format, that no segment is missing, and every batch of the newest
    /// segment; the older ones are checked when they are read. A batch that is not whole is removed if it is
    /// the last one; see the limits of the [type](Self).
    ///
    /// Blocks: about 50 ms for each 64 MiB of the newest segment. Call it before the runtime is busy, or from
    /// `spawn_blocking`.
    ///
    /// # Errors
    /// Every error is one line, names the directory, and leaves everything as it is.
    /// [`StoreError::Refused`]: an option is out of its range, the path is a file, the directory holds something
    /// else, a format that this release does not know, or is in use (by which process is said).
    /// [`StoreError::Corrupt`]: bytes are not what was written, or a file is missing.
    /// [`StoreError::Io`]: the operating system refused.
    pub fn open(dir: impl AsRef<Path>, options: FileLogOptions) -> Result<Self, StoreError> {
        options.validate()?;
        identity::make(dir.as_ref())?;
        Self::open_in(dir.as_ref(), options, true)
    }

    /// Opens the log in `dir` as [`open`](Self::open) does, but makes none: for tools that work on what is
    /// there.
    ///
    /// # Errors
    /// Those of [`open`](Self::open); [`StoreError::Refused`] also when the directory is missing or holds no
    /// log. Nothing is made then.
    pub fn open_existing(
        dir: impl AsRef<Path>,
        options: FileLogOptions,
    ) -> Result<Self, StoreError> {
        options.validate()?;
        Self::open_in(dir.as_ref(), options, false)
    }

    fn open_in(dir: &Path, options: FileLogOptions, may_create: bool) -> Result<Self, StoreError> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(dir));
        // Before the lock: a directory of something else gets no file of ours.
        if !identity::exists(dir)? || identity::inspect(dir, &*disk)?.is_none() && !may_create {
            return identity::none(dir);
        }
        let lock = identity::lock(dir)?;
        let store = match identity::inspect(dir, &*disk)? {
            Some(store) => store,
            None => {
                identity::settle(dir)?;
                let store = std::hash::RandomState::new().hash_one(dir);
                open::create(&disk, dir, store, options.segment_bytes)?;
                store
            }
        };
        let segment_bytes = options.segment_bytes;
        let opening =
            Opening { disk, dir, store, segment_bytes, in_background: true, is_read_only: false };
        let writer = opening.run()?;
        let shared = Arc::clone(&writer.shared);
        let writer = Some(Arc::new(WriterThread::start(writer, lock)?));
        Ok(Self { shared, writer, noted: Arc::default(), medium: Medium::new() })
    }

    /// Opens the log in `dir` for reading: no file is made, changed or locked, and every write is refused. It
    /// shows what was there when it was opened.
    ///
    /// As nothing is locked, it is the caller who has to see to it that no server writes to the directory
    /// meanwhile.
    ///
    /// # Errors
    /// As for [`open_existing`](Self::open_existing).
    pub fn open_read_only(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        let shared = Arc::clone(&read(dir.as_ref())?.shared);
        Ok(Self { shared, writer: None, noted: Arc::default(), medium: Medium::new() })
    }

    /// Reads all of the log in `dir`: every batch of every segment, and every entry. Blocks for as long as that
    /// takes. Nothing is changed.
    ///
    /// # Errors
    /// As for [`open_read_only`](Self::open_read_only); [`StoreError::Corrupt`] at the first damage.
    pub fn verify(dir: impl AsRef<Path>) -> Result<Verified, StoreError> {
        let writer = read(dir.as_ref())?;
        let (shared, mut verified) = (&writer.shared, Verified::default());
        let mut before: Option<Contents> = None;
        for segment in &writer.segments {
            let unusable = |it| errors::unusable(&shared.dir, segment.id, it);
            let contents = segment.scan().map_err(unusable)?;
            if before.is_some_and(|it| it.last_batch.checked_add(1) != Some(contents.first_batch)) {
                let what = format!("the end of the segment before {}", Segment::name(segment.id));
                return Err(errors::corrupt(&shared.dir, &what, "batches are missing"));
            }
            verified.segments += u64::from(contents.first_batch != 0);
            verified.bytes += contents.end;
            before = Some(contents);
        }
        let Some((mut next, last)) = shared.bounds() else { return Ok(verified) };
        while next <= last {
            let entries = shared.read(LogIndex(next)..=LogIndex(last), VERIFY_BYTES)?;
            verified.entries += entries.len() as u64;
            next += entries.len() as u64;
        }
        Ok(verified)
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.shared.dir.clone()
    }

    async fn change(&self, change: Change) -> Result<(), StoreError> {
        match &self.writer {
            Some(writer) => writer.run(move |writer| writer.write(change)).await,
            None => errors::refuse(format!(
                "the log in {} was opened for reading",
                self.shared.dir.display()
            )),
        }
    }
}

/// What is in the directory, to be looked at.
fn read(dir: &Path) -> Result<Writer, StoreError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(dir));
    if !identity::exists(dir)? {
        return identity::none(dir);
    }
    let Some(store) = identity::inspect(dir, &*disk)? else { return identity::none(dir) };
    let segment_bytes = FileLogOptions::default().segment_bytes;
    Opening { disk, dir, store, segment_bytes, in_background: false, is_read_only: true }.run()
}

/// Entries read at once to verify them.
const VERIFY_BYTES: u64 = 4 << 20;

#[async_trait]
impl LogStore for FileLogStore {
    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(FileLogReader { shared: Arc::clone(&self.shared) })
    }

    fn medium(&self) -> Option<Medium> {
        Some(self.medium)
    }

    async fn write(&mut self, write: LogWrite<'_>) -> Result<(), StoreError> {
        let cut = if write.is_reset { Some(0) } else { write.truncate_from.map(|from| from.0) };
        if let Some(from) = write.truncate_from {
            let mut noted = self.noted.lock();
            *noted = noted.map(|noted| noted.min(from.prev()));
        }
        let note = self.noted.lock().map(|noted| noted.0);
        let hard_state = write.hard_state.cloned();
        let entries = write.entries.to_vec();
        self.change(Change { hard_state, cut, entries, note, ..Change::default() }).await
    }

    async fn append(&mut self, batches: &[Entries]) -> Result<(), StoreError> {
        self.write(LogWrite { entries: batches, ..LogWrite::default() }).await
    }

    async fn truncate_suffix(&mut self, from: LogIndex) -> Result<(), StoreError> {
        self.write(LogWrite { truncate_from: Some(from), ..LogWrite::default() }).await
    }

    async fn truncate_prefix(&mut self, through: LogIndex) -> Result<(), StoreError> {
        self.change(Change { through: Some(through.0), ..Change::default() }).await
    }

    fn note_commit(&mut self, index: LogIndex) {
        *self.noted.lock() = Some(index);
    }
}

#[async_trait]
impl StableStore for FileLogStore {
    async fn hard_state(&mut self) -> Result<Option<HardState>, StoreError> {
        Ok(self.shared.state.read().hard_state.clone())
    }

    async fn save_hard_state(&mut self, hard_state: &HardState) -> Result<(), StoreError> {
        self.change(Change { hard_state: Some(hard_state.clone()), ..Change::default() }).await
    }

    fn medium(&self) -> Option<Medium> {
        Some(self.medium)
    }

    async fn disk_identity(&mut self) -> Result<Option<DiskIdentity>, StoreError> {
        Ok(self.shared.state.read().disk.clone())
    }

    async fn save_disk_identity(&mut self, identity: &DiskIdentity) -> Result<(), StoreError> {
        self.change(Change { disk: Some(identity.clone()), ..Change::default() }).await
    }
}

impl fmt::Debug for FileLogStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bounds = self.shared.bounds();
        f.debug_struct("FileLogStore")
            .field("dir", &self.shared.dir)
            .field("bounds", &bounds)
            .finish_non_exhaustive()
    }
}

/// Reads while the writer writes.
pub(super) struct FileLogReader {
    pub(super) shared: Arc<Shared>,
}

/// How long a read waits, and how often it looks, if too many files are open for one more.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(500);

#[async_trait]
impl LogReader for FileLogReader {
    async fn bounds(&self) -> Result<Option<(LogIndex, LogIndex)>, StoreError> {
        Ok(self.shared.bounds().map(|(first, last)| (LogIndex(first), LogIndex(last))))
    }

    async fn noted_commit(&self) -> Result<Option<LogIndex>, StoreError> {
        let noted = self.shared.state.read().noted;
        Ok((noted != 0).then_some(LogIndex(noted)))
    }

    async fn read(
        &self,
        range: RangeInclusive<LogIndex>,
        max_bytes: u64,
    ) -> Result<Entries, StoreError> {
        let begun_at = Instant::now();
        loop {
            let (shared, range) = (Arc::clone(&self.shared), range.clone());
            let read = blocking(move || shared.read(range, max_bytes)).await;
            // Connections come and go: a server must not end because there were too many for a moment.
            let may_wait = begun_at.elapsed() < PATIENCE;
            let Some(error) =
                read.as_ref().err().filter(|it| may_wait && errors::lacks_descriptors(it))
            else {
                return read;
            };
            tracing::warn!(%error, "a read of the log waits for other files to be closed");
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn trouble(&self) -> Option<String> {
        self.shared.trouble.lock().clone()
    }
}
