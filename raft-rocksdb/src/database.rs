//! One open RocksDB database: what it promises about every read and write of this crate.
//!
//! Writes are synced, taken one at a time, and end for good with the first that fails. Everything
//! here blocks; [`blocking`](crate::blocking) is how async code calls it.

use std::{
    fmt, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use parking_lot::{Mutex, RwLock};
use raft::{DiskIdentity, Entries, Entry, HardState, LogIndex, StoreError};
use rocksdb::{
    ColumnFamily, DB, DBRawIterator, ErrorKind, FlushOptions, InfoLogger, LogLevel, Options,
    ReadOptions, WriteBatch, WriteOptions,
};

use crate::{
    codec::{self, Bounds, Damage},
    framing,
    identity::{self, Stage},
    keys,
    mark::{self, MARK, Mark, Marker},
    options::RocksOptions,
};

pub(crate) struct Database {
    /// `None` in a database that is opened for reading. Comes first, to be done while the directory is
    /// still locked.
    marker: Option<Marker>,
    db: DB,
    dir: PathBuf,
    synced: WriteOptions,
    /// What the log holds as of the last completed write.
    extent: RwLock<Extent>,
    /// Held for the whole of a write.
    writer: Mutex<Writer>,
}

/// The records that describe the log, in memory.
#[derive(Clone, Copy, Debug, Default)]
struct Extent {
    bounds: Bounds,
    noted_commit: Option<LogIndex>,
}

#[derive(Default)]
struct Writer {
    /// What the first failed write said. Nothing is written after it.
    failure: Option<String>,
    /// Where values are laid out before RocksDB copies them.
    scratch: Vec<u8>,
    /// Removals since the entries were last written out for their sake.
    removals: u32,
}

/// After this many removals the entries in memory are written out. RocksDB sorts all range deletions
/// of a write buffer anew for the first read after another one is added, and of small entries or
/// compactions very many fit into a buffer.
const MAX_REMOVALS: u32 = 256;

impl Database {
    pub(crate) fn open(dir: &Path, options: &RocksOptions) -> Result<Self, StoreError> {
        Self::open_with(dir, options, |_| {})
    }

    /// As [`Self::open`], after `adjust` has seen RocksDB's options.
    fn open_with(
        dir: &Path,
        options: &RocksOptions,
        adjust: impl FnOnce(&mut Options),
    ) -> Result<Self, StoreError> {
        options.validate()?;
        let stage = identity::inspect(dir)?;
        let mark = match stage {
            Stage::Creating => {
                mark::remove(dir)?;
                None
            }
            Stage::Complete => Self::survey(dir, options)?,
        };
        let mut settings = options.database(stage == Stage::Creating);
        adjust(&mut settings);
        let db = DB::open_cf_descriptors(&settings, dir, options.column_families())
            .map_err(|error| cannot_open(dir, error))?;
        let mut database = Self::new(db, dir);
        if stage == Stage::Creating {
            database.create()?;
            identity::complete(dir)?;
        }
        database.reaches(mark)?;
        database.check()?;
        let sequence = database.db.latest_sequence_number();
        database.marker = Some(Marker::start(dir, sequence, mark::INTERVAL)?);
        Ok(database)
    }

    /// Looks whether everything is there that was durable, and changes nothing. Opening for writing would
    /// remove the log that was replayed, damaged or not.
    ///
    /// A log that reaches the mark has it all. One that does not may have less because the rest was
    /// written out to other files: that, RocksDB has to be asked.
    fn survey(dir: &Path, options: &RocksOptions) -> Result<Option<Mark>, StoreError> {
        let survey = || {
            let mark = Mark::read(dir)?;
            let reached = mark::survey(dir, mark).map_err(|error| cannot_survey(dir, error))?;
            if mark.is_some_and(|mark| reached < mark.sequence) {
                Self::open_files_read_only(dir, options)?.reaches(mark)?;
            }
            Ok(mark)
        };
        // A server that is at work changes files while they are looked at.
        survey().map_err(|error| in_use(dir).unwrap_or(error))
    }

    /// Whether the database has everything that was durable at `mark`.
    fn reaches(&self, mark: Option<Mark>) -> Result<(), StoreError> {
        let last = self.db.latest_sequence_number();
        match mark.filter(|mark| last < mark.sequence) {
            None => Ok(()),
            Some(Mark { sequence, .. }) => {
                let reason = format!(
                    "it ends at write {last}, but write {sequence} was durable (says its file {MARK})"
                );
                Err(corrupt(&self.dir, "the database", &reason))
            }
        }
    }

    /// As [`Self::open`], where there has to be a store. Nothing is made.
    pub(crate) fn open_existing(dir: &Path, options: &RocksOptions) -> Result<Self, StoreError> {
        identity::require(dir)?;
        Self::open(dir, options)
    }

    /// For reading. RocksDB replays its write-ahead log into memory and touches no file.
    pub(crate) fn open_read_only(dir: &Path, options: &RocksOptions) -> Result<Self, StoreError> {
        options.validate()?;
        identity::require(dir)?;
        let mark = Mark::read(dir)?;
        mark::survey(dir, mark).map_err(|error| cannot_survey(dir, error))?;
        let database = Self::open_files_read_only(dir, options)?;
        database.reaches(mark)?;
        database.check()?;
        Ok(database)
    }

    fn open_files_read_only(dir: &Path, options: &RocksOptions) -> Result<Self, StoreError> {
        let (settings, families) = (options.database(false), options.column_families());
        DB::open_cf_descriptors_read_only(&settings, dir, families, false)
            .map(|db| Self::new(db, dir))
            .map_err(|error| cannot_open(dir, error))
    }

    fn new(db: DB, dir: &Path) -> Self {
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        let (extent, writer) = (RwLock::default(), Mutex::new(Writer::default()));
        Self { marker: None, db, dir: dir.to_owned(), synced, extent, writer }
    }

    /// Writes the records every database has.
    fn create(&self) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.put(keys::FORMAT, codec::encode_format(codec::FORMAT_VERSION));
        put_bounds(&mut batch, None);
        self.write(&mut self.writer.lock(), "create the store", batch)
    }

    /// What can be checked without reading the whole log: the format, the vote, both ends, and
    /// whether the log still reaches as far as it was noted to be committed.
    fn check(&self) -> Result<(), StoreError> {
        match self.get(keys::FORMAT, "the format record", codec::decode_format)? {
            Some(codec::FORMAT_VERSION) => {}
            Some(newer) => return Err(identity::too_new(&self.dir, "key \"\\0format\"", newer)),
            None => return Err(self.missing("the format record (key \"\\0format\")")),
        }
        self.hard_state()?;
        self.disk_identity()?;
        let key = keys::bounds();
        let bounds = self
            .get(&key, "the bounds record", |value| codec::decode_bounds(&key, value))?
            .ok_or_else(|| self.missing("the bounds record"))?;
        let key = keys::noted_commit();
        let noted_commit =
            self.get(&key, NOTED_COMMIT, |value| codec::decode_noted_commit(&key, value))?;
        if let Some((first, last)) = bounds {
            if let Some(noted) = noted_commit.filter(|noted| last < *noted) {
                let reason = format!("it is {noted}, but the log ends at entry {last}");
                return Err(self.corrupt(NOTED_COMMIT, &Damage(reason)));
            }
            let first = self.entry(first)?;
            let last = self.entry(last)?;
            if last.term < first.term {
                let reason = format!(
                    "its term is {}, but that of entry {} before it is {}",
                    last.term, first.index, first.term
                );
                return Err(self.corrupt_entry(last.index, &Damage(reason)));
            }
        }
        *self.extent.write() = Extent { bounds, noted_commit };
        Ok(())
    }

    pub(crate) fn bounds(&self) -> Bounds {
        self.extent.read().bounds
    }

    pub(crate) fn noted_commit(&self) -> Option<LogIndex> {
        self.extent.read().noted_commit
    }

    pub(crate) fn hard_state(&self) -> Result<Option<HardState>, StoreError> {
        let key = keys::hard_state();
        self.get(&key, "the term and vote", |value| codec::decode_hard_state(&key, value))
    }

    pub(crate) fn save_hard_state(&self, hard_state: &HardState) -> Result<(), StoreError> {
        let key = keys::hard_state();
        let mut batch = WriteBatch::default();
        batch.put(key, codec::encode_hard_state(&key, hard_state));
        self.write(&mut self.writer.lock(), "save the term and vote", batch)
    }

    /// Of an early store, the server is not known.
    pub(crate) fn disk_identity(&self) -> Result<Option<DiskIdentity>, StoreError> {
        let key = keys::disk();
        let known = self.get(&key, DISK, |value| codec::decode_disk(&key, value))?;
        if known.is_some() {
            return Ok(known);
        }
        let key = keys::incarnation();
        let early = self.get(&key, DISK, |value| codec::decode_incarnation(&key, value))?;
        let of_nobody = |incarnation| DiskIdentity {
            server: "".into(),
            incarnation,
            starts: 0,
            was_rolled_back: false,
        };
        Ok(early.map(of_nobody))
    }

    pub(crate) fn save_disk_identity(&self, identity: &DiskIdentity) -> Result<(), StoreError> {
        if identity.incarnation == 0 {
            return Err(StoreError::Refused { reason: "an incarnation is not zero".to_owned() });
        }
        let key = keys::disk();
        let mut batch = WriteBatch::default();
        batch.put(key, codec::encode_disk(&key, identity));
        self.write(&mut self.writer.lock(), "save the identity of the disk", batch)
    }

    /// The column family of the entries.
    fn log(&self) -> Result<&ColumnFamily, StoreError> {
        self.db.cf_handle(keys::LOG).ok_or_else(|| self.missing("the column family \"log\""))
    }

    /// Appends the batches, and notes beside them that the log is committed up to `noted`. What lies
    /// behind the last entry is not noted, and a note never goes back.
    pub(crate) fn append(
        &self,
        batches: &[Entries],
        noted: Option<LogIndex>,
    ) -> Result<(), StoreError> {
        let log = self.log()?;
        let mut writer = self.writer.lock();
        let before = *self.extent.read();
        let Some((first, last)) = contiguous(batches, before.bounds)? else { return Ok(()) };
        let first = before.bounds.map_or(first, |(first, _)| first);
        let after = Extent {
            bounds: Some((first, last)),
            noted_commit: before.noted_commit.max(noted).map(|noted| noted.min(last)),
        };
        let mut batch = WriteBatch::with_capacity_bytes(size_hint(batches));
        for entry in batches.iter().flat_map(|entries| entries.iter()) {
            let key = keys::entry(entry.index);
            codec::encode_entry(&key, entry, &mut writer.scratch)
                .map_err(|Damage(reason)| StoreError::Refused { reason })?;
            batch.put_cf(log, key, &writer.scratch);
        }
        writer.scratch.shrink_to(SCRATCH_KEPT_BYTES);
        put_extent(&mut batch, before, after);
        self.write(&mut writer, &format!("append up to entry {last}"), batch)?;
        *self.extent.write() = after;
        Ok(())
    }

    pub(crate) fn truncate_suffix(&self, from: LogIndex) -> Result<(), StoreError> {
        let mut writer = self.writer.lock();
        let Extent { bounds, noted_commit } = *self.extent.read();
        let Some((first, last)) = bounds else { return Ok(()) };
        if last < from {
            return Ok(());
        }
        let from = from.max(first);
        let left = Extent {
            bounds: (first < from).then(|| (first, from.prev())),
            // What is committed is never truncated; a caller that does it anyway is not to find a
            // note about entries that are gone.
            noted_commit: noted_commit.map(|noted| noted.min(from.prev())),
        };
        self.remove(&mut writer, from..=last, left)
    }

    pub(crate) fn truncate_prefix(&self, through: LogIndex) -> Result<(), StoreError> {
        let mut writer = self.writer.lock();
        let Extent { bounds, noted_commit } = *self.extent.read();
        let Some((first, last)) = bounds else { return Ok(()) };
        if through < first {
            return Ok(());
        }
        let through = through.min(last);
        let bounds = (through < last).then(|| (through.next(), last));
        let left = Extent { bounds, noted_commit };
        // Beginning at `first`, where the removal before it ended: range deletions that cover each
        // other cost RocksDB the square of their number.
        self.remove(&mut writer, first..=through, left)?;
        // Drops whole files at once; the end is inclusive. The entries are gone already, so that
        // a failure costs space, not truth. If it is the disk's, the next write will say so.
        let (begin, end) = (keys::entry(LogIndex::ZERO), keys::entry(through));
        if let Err(error) = self.db.delete_file_in_range_cf(self.log()?, begin, end) {
            tracing::warn!(dir = %self.dir.display(), %error, "space was not reclaimed");
        }
        Ok(())
    }

    /// Removes the entries in `gone`, which leaves `left`.
    ///
    /// Readers lose sight of them *before* they go: see [`Self::read`].
    fn remove(
        &self,
        writer: &mut Writer,
        gone: RangeInclusive<LogIndex>,
        left: Extent,
    ) -> Result<(), StoreError> {
        let (from, through) = gone.into_inner();
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(self.log()?, &keys::entry(from)[..], &keys::after(through)[..]);
        let before = std::mem::replace(&mut *self.extent.write(), left);
        put_extent(&mut batch, before, left);
        let written =
            self.write(writer, &format!("remove entries {from} through {through}"), batch);
        if written.is_err() {
            *self.extent.write() = before;
            return written;
        }
        self.bound_removals(writer)
    }

    /// See [`MAX_REMOVALS`].
    fn bound_removals(&self, writer: &mut Writer) -> Result<(), StoreError> {
        writer.removals += 1;
        if writer.removals < MAX_REMOVALS {
            return Ok(());
        }
        writer.removals = 0;
        let mut options = FlushOptions::default();
        options.set_wait(false);
        // Nothing hangs on it but speed. If it fails because of the disk, the next write will say so.
        if let Err(error) = self.db.flush_cf_opt(self.log()?, &options) {
            tracing::warn!(dir = %self.dir.display(), %error, "entries were not written out");
        }
        Ok(())
    }

    /// The only place that writes. Every batch ends with a record of the default family: batches of another
    /// shape are not what `tests/rot.rs` has shown the mark to work with.
    fn write(
        &self,
        writer: &mut Writer,
        context: &str,
        batch: WriteBatch,
    ) -> Result<(), StoreError> {
        if let Some(failure) = &writer.failure {
            let reason = format!(
                "the store in {} writes no more since a write failed ({failure}); what reached \
                 the disk is unknown: mend the disk, then start again from what is on it",
                self.dir.display()
            );
            return Err(StoreError::Refused { reason });
        }
        self.db.write_opt(batch, &self.synced).map_err(|error| {
            writer.failure = Some(error.to_string());
            StoreError::io(format!("cannot {context} in {}", self.dir.display()), error)
        })?;
        if let Some(marker) = &self.marker {
            marker.is_durable(self.db.latest_sequence_number());
        }
        Ok(())
    }

    pub(crate) fn read(
        &self,
        range: RangeInclusive<LogIndex>,
        max_bytes: u64,
    ) -> Result<Entries, StoreError> {
        let (start, end) = range.into_inner();
        if end < start {
            return Ok(Entries::default());
        }
        // The iterator goes on seeing what was there when it was made, and it is made while the
        // bounds cannot change. An append is written before it moves them, a removal after, so that
        // what lies within them is there.
        let extent = self.extent.read();
        let Some((_, last)) =
            extent.bounds.filter(|(first, last)| *first <= start && start <= *last)
        else {
            return Err(StoreError::NotFound { what: log_entry(start) });
        };
        let last = last.min(end);
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(keys::after(last));
        let mut records = self.db.raw_iterator_cf_opt(self.log()?, options);
        drop(extent);
        records.seek(keys::entry(start));
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        for index in (start.0..=last.0).map(LogIndex) {
            let entry = self.entry_under(&records, index)?;
            bytes += entry.cost_bytes();
            if !entries.is_empty() && max_bytes < bytes {
                break;
            }
            if let Some(before) = entries.last().filter(|before| entry.term < before.term) {
                let reason =
                    format!("its term is {}, after an entry of term {}", entry.term, before.term);
                return Err(self.corrupt_entry(index, &Damage(reason)));
            }
            entries.push(entry);
            // Behind the last entry may lie thousands that were removed, and a step there would
            // pass them all, whatever the upper bound.
            if index < last {
                records.next();
            }
        }
        Ok(Entries::new(entries))
    }

    /// The record the iterator stands on, which has to be the entry at `index`.
    fn entry_under(
        &self,
        records: &DBRawIterator<'_>,
        index: LogIndex,
    ) -> Result<Entry, StoreError> {
        let key = keys::entry(index);
        match records.item() {
            Some((found, value)) if found == key => codec::decode_entry(&key, index, value)
                .map_err(|damage| self.corrupt_entry(index, &damage)),
            _ => {
                records.status().map_err(|error| self.cannot_read(&log_entry(index), error))?;
                Err(self.missing(&log_entry(index)))
            }
        }
    }

    fn entry(&self, index: LogIndex) -> Result<Entry, StoreError> {
        let (key, what) = (keys::entry(index), log_entry(index));
        let value = self
            .db
            .get_pinned_cf(self.log()?, key)
            .map_err(|error| self.cannot_read(&what, error))?
            .ok_or_else(|| self.missing(&what))?;
        codec::decode_entry(&key, index, &value).map_err(|damage| self.corrupt(&what, &damage))
    }

    /// A record beside the log.
    fn get<T>(
        &self,
        key: &[u8],
        what: &str,
        decode: impl FnOnce(&[u8]) -> Result<T, Damage>,
    ) -> Result<Option<T>, StoreError> {
        let value = self.db.get_pinned(key).map_err(|error| self.cannot_read(what, error))?;
        value.map(|v| decode(&v)).transpose().map_err(|damage| self.corrupt(what, &damage))
    }

    fn cannot_read(&self, what: &str, error: rocksdb::Error) -> StoreError {
        if error.kind() == ErrorKind::Corruption {
            return self.corrupt(what, &Damage(error.to_string()));
        }
        StoreError::io(format!("cannot read {what} in {}", self.dir.display()), error)
    }

    fn corrupt_entry(&self, index: LogIndex, damage: &Damage) -> StoreError {
        self.corrupt(&log_entry(index), damage)
    }

    fn missing(&self, what: &str) -> StoreError {
        self.corrupt(what, &Damage("it is missing".to_owned()))
    }

    fn corrupt(&self, what: &str, Damage(reason): &Damage) -> StoreError {
        corrupt(&self.dir, what, reason)
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extent = *self.extent.read();
        f.debug_struct("Database").field("dir", &self.dir).field("extent", &extent).finish()
    }
}

fn put_bounds(batch: &mut WriteBatch, bounds: Bounds) {
    let key = keys::bounds();
    batch.put(key, codec::encode_bounds(&key, bounds));
}

/// The bounds fit the entries in the same batch; the note is written only when it has changed.
fn put_extent(batch: &mut WriteBatch, before: Extent, after: Extent) {
    put_bounds(batch, after.bounds);
    if let Some(noted) = after.noted_commit.filter(|_| after.noted_commit != before.noted_commit) {
        let key = keys::noted_commit();
        batch.put(key, codec::encode_noted_commit(&key, noted));
    }
}

const DISK: &str = "the identity of the disk";
const NOTED_COMMIT: &str = "the noted commit index";

/// Room for an envelope, a key and RocksDB's own framing.
const RECORD_OVERHEAD_BYTES: u64 = 64;

/// A scratch buffer that had to grow beyond this for one huge entry is given back.
const SCRATCH_KEPT_BYTES: usize = 64 << 10;

fn size_hint(batches: &[Entries]) -> usize {
    let bytes = |entries: &Entries| {
        entries.cost_bytes() + RECORD_OVERHEAD_BYTES * (entries.len() as u64 + 1)
    };
    usize::try_from(batches.iter().map(bytes).sum::<u64>()).unwrap_or(0)
}

/// The first and last index of `batches`, which must follow each other and the log.
fn contiguous(batches: &[Entries], bounds: Bounds) -> Result<Bounds, StoreError> {
    let mut first = None;
    let mut before = bounds.map(|(_, last)| last);
    for entry in batches.iter().flat_map(|entries| entries.iter()) {
        let index = entry.index;
        let follows = before
            .map_or(LogIndex::ZERO < index, |before| before.0.checked_add(1) == Some(index.0));
        if !follows {
            let reason = match before {
                Some(before) => format!("entry {index} does not follow entry {before}"),
                None => "the first entry of a log has index 1 or more".to_owned(),
            };
            return Err(StoreError::Refused { reason });
        }
        first = first.or(Some(index));
        before = Some(index);
    }
    Ok(first.zip(before))
}

fn log_entry(index: LogIndex) -> String {
    format!("log entry {index}")
}

/// The error if the directory is locked. Changes nothing: RocksDB locks it, and then refuses because
/// there is a database, or none.
fn in_use(dir: &Path) -> Option<StoreError> {
    let mut options = Options::default();
    options.set_error_if_exists(true);
    // Instead of RocksDB's diary, which lies in the directory.
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Fatal, |_, _| {}));
    DB::open(&options, dir).err().filter(is_locked).map(|error| cannot_open(dir, error))
}

fn is_locked(error: &rocksdb::Error) -> bool {
    let said = error.as_ref();
    error.kind() == ErrorKind::IOError && said.contains("/LOCK") && said.contains(" lock ")
}

fn cannot_survey(dir: &Path, error: io::Error) -> StoreError {
    if framing::is_damage(&error) {
        return corrupt(dir, "the database", &error.to_string());
    }
    StoreError::io(format!("cannot read the files in {}", dir.display()), error)
}

fn cannot_open(dir: &Path, error: rocksdb::Error) -> StoreError {
    let said = error.to_string();
    if is_locked(&error) {
        let context = format!(
            "the store in {} is in use, by this process or another; stop that one first",
            dir.display()
        );
        return StoreError::io(context, error);
    }
    // The identity file says that there was a whole one.
    match error.kind() {
        ErrorKind::Corruption => corrupt(dir, "the database", &said),
        ErrorKind::IOError if said.contains("No such file or directory") => {
            corrupt(dir, "the database", &format!("a file of RocksDB's is gone: {said}"))
        }
        ErrorKind::InvalidArgument if said.contains("does not exist") => {
            corrupt(dir, "the database", "RocksDB's files are gone")
        }
        _ => StoreError::io(format!("cannot open the store in {}", dir.display()), error),
    }
}

fn corrupt(dir: &Path, what: &str, reason: &str) -> StoreError {
    StoreError::corrupt(
        format!("{what} in {}", dir.display()),
        format!(
            "{reason}; this server may have promised what it no longer knows, and must not go on with \
             this: if others of its cluster are well, let it rejoin them with an empty directory; if it is \
             the only one, keep what is there"
        ),
    )
}

#[cfg(test)]
mod tests;
