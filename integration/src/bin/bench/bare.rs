//! What the disk gives without a log: a file that is overwritten in place, with a sync after each write.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use tokio::{task::spawn_blocking, time::Instant};

const FILE_BYTES: usize = 16 << 20;

/// A file of zeros, overwritten from its beginning to its end and then again.
pub(crate) struct BareFile {
    file: File,
    size: u64,
    at: u64,
    bytes: Vec<u8>,
}

impl BareFile {
    /// A new file whose zeros are durable, to be written so many bytes at a time.
    pub(crate) fn create(path: &Path, write_bytes: usize) -> io::Result<Self> {
        let size = FILE_BYTES.max(write_bytes);
        let file = File::options().write(true).create_new(true).open(path)?;
        file.write_all_at(&vec![0; size], 0)?;
        file.sync_all()?;
        Ok(Self { file, size: size as u64, at: 0, bytes: vec![0x5a; write_bytes] })
    }

    /// One write and its sync.
    pub(crate) fn write(&mut self) -> io::Result<()> {
        let length = self.bytes.len() as u64;
        if self.size < self.at + length {
            self.at = 0;
        }
        self.file.write_all_at(&self.bytes, self.at)?;
        self.at += length;
        self.file.sync_data()
    }
}

/// How long each write with its sync took in one such file, in nanoseconds.
pub(crate) fn sync_times(base: &Path, write_bytes: usize, seconds: f64) -> io::Result<Vec<f64>> {
    let directory = tempfile::tempdir_in(base)?;
    let mut file = BareFile::create(&directory.path().join("bare"), write_bytes)?;
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < seconds {
        let before = Instant::now();
        file.write()?;
        times.push(before.elapsed().as_nanos() as f64);
    }
    Ok(times)
}

/// What the disk alone gives three servers: each of three threads writes a batch to a file of its own
/// and syncs it, over and over. Syncs per second and file.
pub(crate) async fn syncs_per_second(
    base: &Path,
    batch_bytes: usize,
    seconds: f64,
) -> Result<f64, String> {
    let directory = tempfile::tempdir_in(base).map_err(|error| error.to_string())?;
    // All are filled before the first is measured.
    let files =
        ["1", "2", "3"].map(|name| BareFile::create(&directory.path().join(name), batch_bytes));
    let threads = files.map(|file| {
        spawn_blocking(move || {
            let mut file = file?;
            let start = Instant::now();
            let mut syncs = 0.0;
            while start.elapsed().as_secs_f64() < seconds {
                file.write()?;
                syncs += 1.0;
            }
            Ok::<f64, io::Error>(syncs / start.elapsed().as_secs_f64())
        })
    });
    let (mut sum, count) = (0.0, threads.len() as f64);
    for thread in threads {
        let rate = thread.await.map_err(|error| error.to_string())?;
        sum += rate.map_err(|error| error.to_string())?;
    }
    Ok(sum / count)
}
