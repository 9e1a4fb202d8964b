//! What touches files: a directory of names, and files that are read, written and synced at an offset.
//!
//! The log writes through these few calls and nothing else, so that a test can put a disk here that
//! forgets what was not synced, is full, or fails at the n-th call.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Files are for their owner only: they hold what users have stored.
pub(super) const FILE_MODE: u32 = 0o600;
pub(super) const DIR_MODE: u32 = 0o700;

/// Zeros written at once.
const FILL_BYTES: usize = 512 << 10;

/// The directory of one log.
pub(super) trait Disk: Send + Sync + 'static {
    fn names(&self) -> io::Result<Vec<String>>;
    /// For reading, which a file system that has become read-only still allows.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    fn open_to_write(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// An empty file of a name that is free.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes created, renamed and removed names durable.
    fn sync_names(&self) -> io::Result<()>;
}

/// An open file.
pub(super) trait DiskFile: Send + Sync + 'static {
    fn size(&self) -> io::Result<u64>;
    /// Fills all of `buffer`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Fills the file with zeros from here up to there. Not durable before the next sync.
    fn fill(&self, from: u64, to: u64) -> io::Result<()>;
    /// Makes all that was written durable.
    fn sync(&self) -> io::Result<()>;
}

/// The disk of the operating system.
pub(super) struct RealDisk {
    dir: PathBuf,
}

impl RealDisk {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }
}

impl Disk for RealDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        let name = |item: io::Result<fs::DirEntry>| {
            item.map(|item| item.file_name().to_string_lossy().into_owned())
        };
        fs::read_dir(&self.dir)?.map(name).collect()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(File::open(self.dir.join(name))?))
    }

    fn open_to_write(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = File::options();
        options.read(true).write(true);
        Ok(Arc::new(options.open(self.dir.join(name))?))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = File::options();
        options.read(true).write(true).create_new(true).mode(FILE_MODE);
        Ok(Arc::new(options.open(self.dir.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.dir.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

impl DiskFile for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn fill(&self, from: u64, to: u64) -> io::Result<()> {
        let zeros = vec![0; FILL_BYTES];
        let mut at = from;
        while at < to {
            let count = (to - at).min(FILL_BYTES as u64);
            self.write_all_at(zeros.get(..count as usize).unwrap_or_default(), at)?;
            // Bit by bit: a sync of the log that is written meanwhile waits for what is on its way.
            self.sync_data()?;
            at += count;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
