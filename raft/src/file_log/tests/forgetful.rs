//! A disk in memory that forgets what was not synced, is full, or fails at the n-th call.
//!
//! Beside what is there it keeps what is durable: of each file the bytes of its last sync, of the directory the
//! names of its last sync. A cut keeps that, and of everything after it whatever the dice say: each sector of
//! each write by itself (of 512 bytes or 4 KiB), each change of a name by itself.

use std::{collections::BTreeMap, io, sync::Arc};

use parking_lot::Mutex;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use crate::file_log::{
    disk::{Disk, DiskFile},
    errors::EMFILE,
};

/// What a planted defect does not sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// A file before it is used: neither its zeros nor its header.
    Zeros,
    Batches,
    Names,
}

/// What is done to a name.
#[derive(Clone, Debug)]
enum Naming {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

#[derive(Clone, Default)]
struct File {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Since the last sync: where, and what.
    writes: Vec<(usize, Vec<u8>)>,
    /// Whether it was synced once: what is written before is zeros and a header.
    is_ready: bool,
}

#[derive(Clone, Default)]
struct Files {
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    changes: Vec<Naming>,
    /// How many calls changed something so far.
    calls: u64,
    /// From this call on everything fails.
    fails_from: Option<u64>,
    /// This call alone fails.
    fails_at: Option<u64>,
    /// The most bytes that all files may have together.
    capacity: Option<u64>,
    flaw: Option<Flaw>,
    /// So many times a file cannot be opened, as too many are.
    refused_opens: u32,
    is_read_only: bool,
    /// Writes beyond what was durable in a file that is in use, which would not be fast.
    growing_writes: u64,
}

#[derive(Clone, Default)]
pub(super) struct Forgetful(Arc<Mutex<Files>>);

impl Forgetful {
    pub(super) fn with_flaw(flaw: Option<Flaw>) -> Self {
        let disk = Self::default();
        disk.0.lock().flaw = flaw;
        disk
    }

    pub(super) fn calls(&self) -> u64 {
        self.0.lock().calls
    }

    /// Makes every call from this one on fail: the power is off.
    pub(super) fn fail_from(&self, call: Option<u64>) {
        self.0.lock().fails_from = call;
    }

    pub(super) fn fail_at(&self, call: Option<u64>) {
        self.0.lock().fails_at = call;
    }

    pub(super) fn set_capacity(&self, bytes: Option<u64>) {
        self.0.lock().capacity = bytes;
    }

    pub(super) fn refuse_opens(&self, times: u32) {
        self.0.lock().refused_opens = times;
    }

    /// As after a remount: what is open for writing stays so, and cannot be written to.
    pub(super) fn become_read_only(&self) {
        self.0.lock().is_read_only = true;
    }

    pub(super) fn growing_writes(&self) -> u64 {
        self.0.lock().growing_writes
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.lock().used()
    }

    pub(super) fn names_now(&self) -> Vec<String> {
        self.0.lock().names.keys().cloned().collect()
    }

    /// The bytes of a file, to be changed.
    pub(super) fn with_file<T>(&self, name: &str, change: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut files = self.0.lock();
        let at = files.names[name];
        change(&mut files.files[at].now)
    }

    /// What a disk may hold after the power has failed now.
    pub(super) fn cut(&self, seed: u64) -> Self {
        let mut rng = Pcg64::seed_from_u64(seed);
        let files = self.0.lock();
        let keeps = [0.0, 0.1, 0.5, 0.9, 1.0][rng.random_range(0..5)];
        let sector = if rng.random() { 512 } else { 4096 };
        let mut after = Files { flaw: files.flaw, capacity: files.capacity, ..Files::default() };
        for file in &files.files {
            let mut bytes = file.durable.clone();
            for (at, written) in &file.writes {
                let mut from = 0;
                while from < written.len() {
                    let place = at + from;
                    let end = written.len().min(from + sector - place % sector);
                    if rng.random_bool(keeps) {
                        let (place_end, part) = (at + end, &written[from..end]);
                        if bytes.len() < place_end {
                            bytes.resize(place_end, 0);
                        }
                        bytes[place..place_end].copy_from_slice(part);
                    }
                    from = end;
                }
            }
            let is_ready = file.is_ready;
            after.files.push(File {
                now: bytes.clone(),
                durable: bytes,
                writes: Vec::new(),
                is_ready,
            });
        }
        let mut names = files.durable_names.clone();
        for change in &files.changes {
            if rng.random_bool(keeps) {
                change.apply(&mut names);
            }
        }
        after.names = names.clone();
        after.durable_names = names;
        Self(Arc::new(Mutex::new(after)))
    }
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Create(name, file) => {
                names.insert(name.clone(), *file);
            }
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl Files {
    fn used(&self) -> u64 {
        self.names.values().map(|file| self.files[*file].now.len() as u64).sum()
    }

    /// Counts a call that changes something.
    fn call(&mut self) -> io::Result<()> {
        self.calls += 1;
        let call = self.calls;
        if self.is_read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        if self.fails_from.is_some_and(|from| from <= call) || self.fails_at == Some(call) {
            return Err(io::Error::other("the disk was told to fail"));
        }
        Ok(())
    }

    fn naming(&mut self, change: Naming) -> io::Result<()> {
        self.call()?;
        change.apply(&mut self.names);
        self.changes.push(change);
        Ok(())
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for Forgetful {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.names_now())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut files = self.0.lock();
        if let Some(fewer) = files.refused_opens.checked_sub(1) {
            files.refused_opens = fewer;
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        let file = files.find(name)?;
        Ok(Arc::new(Handle { disk: self.clone(), file, may_write: false }))
    }

    fn open_to_write(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let files = self.0.lock();
        if files.is_read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let file = files.find(name)?;
        Ok(Arc::new(Handle { disk: self.clone(), file, may_write: true }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut files = self.0.lock();
        if files.find(name).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = files.files.len();
        files.naming(Naming::Create(name.to_owned(), file))?;
        files.files.push(File::default());
        Ok(Arc::new(Handle { disk: self.clone(), file, may_write: true }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.0.lock();
        files.find(from)?;
        files.naming(Naming::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut files = self.0.lock();
        files.find(name)?;
        files.naming(Naming::Remove(name.to_owned()))
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut files = self.0.lock();
        files.call()?;
        if files.flaw != Some(Flaw::Names) {
            files.durable_names = files.names.clone();
            files.changes.clear();
        }
        Ok(())
    }
}

struct Handle {
    disk: Forgetful,
    file: usize,
    may_write: bool,
}

impl DiskFile for Handle {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().files[self.file].now.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let files = self.disk.0.lock();
        let from = offset as usize;
        let bytes = files.files[self.file].now.get(from..from + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        assert!(self.may_write, "a file that was opened for reading is written to");
        let mut files = self.disk.0.lock();
        files.call()?;
        let end = offset as usize + bytes.len();
        let grows = end.saturating_sub(files.files[self.file].now.len()) as u64;
        if files.capacity.is_some_and(|capacity| capacity < files.used() + grows) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let is_growing = files.files[self.file].is_ready && 0 < grows;
        files.growing_writes += u64::from(is_growing);
        let file = &mut files.files[self.file];
        if file.now.len() < end {
            file.now.resize(end, 0);
        }
        file.now[offset as usize..end].copy_from_slice(bytes);
        file.writes.push((offset as usize, bytes.to_vec()));
        Ok(())
    }

    fn fill(&self, from: u64, to: u64) -> io::Result<()> {
        self.write_at(&vec![0; (to - from) as usize], from)
    }

    fn sync(&self) -> io::Result<()> {
        let mut files = self.disk.0.lock();
        files.call()?;
        let flaw = files.flaw;
        let file = &mut files.files[self.file];
        let left_out = if file.is_ready { Flaw::Batches } else { Flaw::Zeros };
        file.is_ready = true;
        if flaw != Some(left_out) {
            file.durable = file.now.clone();
            file.writes.clear();
        }
        Ok(())
    }
}
