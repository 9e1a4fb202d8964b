//! [`FileSnapshotStore`]: the contract, and how async code calls files, which block.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use tokio::io::BufReader;

use super::{
    directory::{Directory, Disk, Opened, RealDisk},
    draft::Draft,
    sink::{BUFFER_BYTES, Sink, buffered_file},
};
use crate::{
    blocking::blocking,
    configuration::IndexedConfiguration,
    position::LogId,
    snapshot::{SnapshotId, SnapshotMeta, SnapshotReader, SnapshotSink, SnapshotStore},
    store_error::StoreError,
};

/// A [`SnapshotStore`] in a directory of the file system. Cheap to clone; clones are handles onto
/// the same open directory.
///
/// # What it survives, and what it does not
///
/// | event | what is there afterwards |
/// |---|---|
/// | the process is killed, at any point | every finished snapshot; of the one under way all or nothing |
/// | the power fails | the same, **if** the disk keeps what it said it had written |
/// | a write or sync fails, the disk is full | the earlier snapshots, untouched; the one under way is removed, the error has the operating system's words |
/// | bytes rot in the data | [`open`](SnapshotStore::open) fails with [`StoreError::Corrupt`] before a byte is handed out |
/// | bytes rot in the description | the same; the snapshot stays in the list by what its name says, so that a server never starts as if it had not been there |
/// | bytes rot between `open` and the reading of them | **undetected** by the store |
/// | a snapshot's directory is removed by hand | **undetected** by the store; a server whose log does not reach back to an older one refuses to start |
///
/// # Guarantees
///
/// - A snapshot that is finished is durable: its data, its description and their names are synced
///   before it becomes visible, by one rename, and that is synced before `finish` returns.
/// - The newest `retain` snapshots that can be used are kept. Older ones are removed when a newer
///   one is finished, never before. One that is damaged counts for none of them.
/// - Memory is bounded, whatever the size of a snapshot: less than a mebibyte for each sink and reader.
/// - Files are read and written where blocking is allowed, not on the threads that run tasks. The
///   exception is a sink that is dropped instead of cancelled: its file is removed on the spot.
/// - A reader goes on reading a snapshot that is removed meanwhile.
/// - A `finish` whose future is dropped leaves the whole snapshot or nothing.
///
/// Limits: one store per directory (it is locked); Unix.
///
/// # Example
///
/// ```
/// use raft::{FileSnapshotStore, IndexedConfiguration, LogId, SnapshotStore};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let temporary = tempfile::tempdir()?;
/// # let dir = temporary.path();
/// let store = FileSnapshotStore::open(dir, 2)?;
/// let mut sink = store.create(LogId::new(1, 7), IndexedConfiguration::default()).await?;
/// sink.write_all(b"the state").await?;
/// sink.finish().await?;
///
/// let newest = &store.list().await?[0];
/// let (meta, mut reader) = store.open(&newest.id).await?;
/// let mut state = String::new();
/// reader.read_to_string(&mut state).await?;
/// assert_eq!((meta.last, state.as_str()), (LogId::new(1, 7), "the state"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct FileSnapshotStore {
    directory: Arc<Directory>,
}

impl FileSnapshotStore {
    /// Opens the snapshots in `dir`, or makes the directory if it is missing, and keeps the `retain`
    /// newest from then on: at least two, which is a good number. The second is what a server starts
    /// from when the first is damaged, or comes to nothing: a crash came before it was installed, or
    /// its restore was given up.
    ///
    /// What a crash left unfinished is removed. Files that are not the store's are left alone.
    ///
    /// The directory stays locked until every clone of the store and every sink are dropped and no
    /// call is under way. Blocks, for a moment. Call it before the runtime is busy, or from
    /// `spawn_blocking`.
    ///
    /// # Errors
    /// Every error is one line and names the directory.
    /// [`StoreError::Refused`]: `retain` is less than two, the path is a file, or another store is open in
    /// the directory; change the call, or close that store.
    /// [`StoreError::Io`]: the operating system refused; its words tell what to mend.
    pub fn open(dir: impl AsRef<Path>, retain: usize) -> Result<Self, StoreError> {
        Self::open_on(RealDisk, dir.as_ref(), retain)
    }

    /// Opens the snapshots in a directory that is there for reading, as a tool may want to. No file
    /// is made, changed, removed or locked, and making a snapshot fails. It is the caller who has to
    /// see to it that no other store changes the directory meanwhile. Blocks, for a moment.
    ///
    /// # Errors
    /// [`StoreError::Io`]: the directory cannot be read, or is not there; the operating system's
    /// words tell what to mend.
    pub fn open_read_only(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        Ok(Self { directory: Arc::new(Directory::open_read_only(dir.as_ref())?) })
    }

    pub(super) fn open_on(disk: impl Disk, dir: &Path, retain: usize) -> Result<Self, StoreError> {
        Ok(Self { directory: Arc::new(Directory::open(dir, retain, Box::new(disk))?) })
    }

    /// Runs `work` where blocking is allowed. It runs to its end even when the future is dropped.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Directory>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let directory = Arc::clone(&self.directory);
        blocking(move || work(&directory)).await
    }
}

#[async_trait]
impl SnapshotStore for FileSnapshotStore {
    async fn create(
        &self,
        last: LogId,
        configuration: IndexedConfiguration,
    ) -> Result<Box<dyn SnapshotSink>, StoreError> {
        let (draft, data) =
            self.run(move |directory| Draft::create(directory, last, configuration)).await?;
        Ok(Box::new(Sink::new(draft, data)))
    }

    async fn list(&self) -> Result<Vec<SnapshotMeta>, StoreError> {
        self.run(|directory| directory.list()).await
    }

    async fn remove(&self, id: &SnapshotId) -> Result<(), StoreError> {
        let id = id.clone();
        self.run(move |directory| directory.withdraw(&id)).await
    }

    async fn open(&self, id: &SnapshotId) -> Result<(SnapshotMeta, SnapshotReader), StoreError> {
        let id = id.clone();
        let opened = self.run(move |directory| directory.open_snapshot(&id)?.verified()).await?;
        Ok(reader(opened))
    }

    async fn open_at(
        &self,
        id: &SnapshotId,
        offset: u64,
    ) -> Result<(SnapshotMeta, SnapshotReader), StoreError> {
        let id = id.clone();
        let opened = self.run(move |directory| directory.open_snapshot(&id)?.at(offset)).await?;
        Ok(reader(opened))
    }
}

fn reader(opened: Opened) -> (SnapshotMeta, SnapshotReader) {
    let (meta, data) = opened.into_parts();
    (meta, Box::new(BufReader::with_capacity(BUFFER_BYTES, buffered_file(data))))
}
