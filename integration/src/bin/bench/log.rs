//! The log in files alone, without servers: what the sections that measure it have in common.

use std::{fs::DirEntry, path::Path, time::Duration};

use bytes::Bytes;
use raft::{
    Config, Entries, Entry, EntryPayload, FileLogOptions, FileLogStore, LogIndex, LogStore, Term,
};
use tokio::{runtime::Handle, task::spawn_blocking, time::sleep};

/// Entries per batch where a section measures no single ones.
pub(crate) const BATCH: usize = 256;

/// An open log, which is written to from a thread that may block.
pub(crate) struct Log {
    store: FileLogStore,
    runtime: Handle,
    /// Of a server that would have such a log.
    config: Config,
    payload: Bytes,
    /// The first and the last entry; the last one before the first if there is none.
    first: u64,
    last: u64,
}

impl Log {
    /// Opens or makes a log in `dir`, default settings.
    pub(crate) fn open(dir: &Path, payload_bytes: usize, runtime: Handle) -> Result<Self, String> {
        let store = FileLogStore::open(dir, FileLogOptions::default())
            .map_err(|error| error.to_string())?;
        let bounds =
            runtime.block_on(store.reader().bounds()).map_err(|error| error.to_string())?;
        let (first, last) = bounds.map_or((1, 0), |(first, last)| (first.0, last.0));
        let (config, payload) = (Config::new("bench"), Bytes::from(vec![0x5a; payload_bytes]));
        Ok(Self { store, runtime, config, payload, first, last })
    }

    /// Appends so many entries as one write, and waits until they are durable.
    pub(crate) fn append(&mut self, entries: usize) -> Result<(), String> {
        let entry = |offset| Entry {
            term: Term(1),
            index: LogIndex(self.last + offset),
            payload: EntryPayload::Command(self.payload.clone()),
        };
        let batch = Entries::new((1..=entries as u64).map(entry).collect());
        let appended = self.runtime.block_on(self.store.append(&[batch]));
        self.last += entries as u64;
        appended.map_err(|error| error.to_string())
    }

    /// Removes the oldest entries, but for so many.
    fn compact(&mut self, keep: u64) -> Result<(), String> {
        let through = self.last.saturating_sub(keep);
        self.first = self.first.max(through + 1);
        let compacted = self.runtime.block_on(self.store.truncate_prefix(LogIndex(through)));
        compacted.map_err(|error| error.to_string())
    }

    /// Removes the oldest entries when a server with default settings does it; returns whether it was time.
    pub(crate) fn compact_like_a_server(&mut self) -> Result<bool, String> {
        let Config { trailing_logs, snapshot_threshold, .. } = self.config;
        let is_due = trailing_logs + snapshot_threshold <= self.len();
        if is_due {
            self.compact(trailing_logs)?;
        }
        Ok(is_due)
    }

    /// Appends and compacts until new segments are old ones.
    pub(crate) fn use_segments_again(&mut self) -> Result<(), String> {
        let mut written = 0;
        while written < 4 * FileLogOptions::default().segment_bytes {
            self.append(BATCH)?;
            self.compact_like_a_server()?;
            written += (BATCH * self.payload.len()) as u64;
        }
        Ok(())
    }

    /// Waits until no segment is being prepared, which would slow down what is measured next. For a log
    /// that was never compacted: else a file may be kept to be used again.
    pub(crate) fn settle(&self) -> Result<(), String> {
        let is_prepared = |file: std::io::Result<DirEntry>| {
            file.is_ok_and(|file| file.file_name().to_string_lossy().starts_with("spare-"))
        };
        while self.store.dir().read_dir().map_err(|error| error.to_string())?.any(is_prepared) {
            self.runtime.block_on(sleep(Duration::from_millis(1)));
        }
        Ok(())
    }

    /// How many entries it holds.
    pub(crate) fn len(&self) -> u64 {
        self.last + 1 - self.first
    }

    /// The index of the last entry.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// What its entries count in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        let payload = EntryPayload::Command(self.payload.clone());
        self.len() * payload.cost_bytes()
    }
}

/// Runs what blocks, with the runtime that a [`Log`] needs.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce(Handle) -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let runtime = Handle::current();
    spawn_blocking(move || work(runtime)).await.map_err(|error| error.to_string())?
}

/// The bytes of all files in `dir`. One that is renamed meanwhile may be missed.
pub(crate) fn directory_bytes(dir: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for file in std::fs::read_dir(dir)? {
        // It may be gone by now.
        bytes += file?.metadata().map_or(0, |file| file.len());
    }
    Ok(bytes)
}
