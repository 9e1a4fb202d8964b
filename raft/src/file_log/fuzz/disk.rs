//! A disk in memory: what is written is there. It counts what is read, and knows the last write.

use std::{collections::BTreeMap, io, sync::Arc};

use parking_lot::Mutex;

use crate::file_log::disk::{Disk, DiskFile};

type Bytes = Arc<Mutex<Vec<u8>>>;

#[derive(Default)]
struct Files {
    names: BTreeMap<String, Bytes>,
    read: u64,
    /// Where the last call that changed anything has written, and what was there before; `None` if it was another one.
    last_write: Option<(Bytes, usize, Vec<u8>)>,
}

#[derive(Clone, Default)]
pub(in super::super) struct MemoryDisk(Arc<Mutex<Files>>);

impl MemoryDisk {
    /// The same disk.
    pub(in super::super) fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// Another disk with the same files.
    pub(in super::super) fn copy(&self) -> Self {
        let copy = Self::default();
        for (name, bytes) in &self.0.lock().names {
            copy.put(name, bytes.lock().clone());
        }
        copy
    }

    pub(in super::super) fn put(&self, name: &str, bytes: Vec<u8>) {
        self.0.lock().names.insert(name.to_owned(), Arc::new(Mutex::new(bytes)));
    }

    /// The bytes of a file; none if there is no such file.
    pub(in super::super) fn file(&self, name: &str) -> Vec<u8> {
        let bytes = self.0.lock().names.get(name).cloned();
        bytes.map(|bytes| bytes.lock().clone()).unwrap_or_default()
    }

    pub(in super::super) fn names_now(&self) -> Vec<String> {
        self.0.lock().names.keys().cloned().collect()
    }

    pub(in super::super) fn bytes(&self) -> u64 {
        self.0.lock().names.values().map(|bytes| bytes.lock().len() as u64).sum()
    }

    pub(in super::super) fn bytes_read(&self) -> u64 {
        self.0.lock().read
    }

    /// Undoes the parts of the last write whose bits are set; the last bit stands for all that follow. Returns
    /// whether bytes have changed by that; `None` if the last change was not a write of this place.
    pub(in super::super) fn tear(
        &self,
        name: &str,
        at: u64,
        part: usize,
        mask: u32,
    ) -> Option<bool> {
        let mut files = self.0.lock();
        let (bytes, begin, before) = files.last_write.take()?;
        if at != begin as u64 || !files.names.get(name).is_some_and(|it| Arc::ptr_eq(it, &bytes)) {
            return None;
        }
        let mut bytes = bytes.lock();
        let mut has_changed = false;
        for (nth, old) in before.chunks(part).enumerate() {
            let from = begin + nth * part;
            let new = bytes.get_mut(from..from + old.len())?;
            if mask >> nth.min(31) & 1 == 1 {
                has_changed |= *new != *old;
                new.copy_from_slice(old);
            }
        }
        Some(has_changed)
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for MemoryDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.names_now())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let bytes = self.0.lock().names.get(name).cloned().ok_or_else(missing)?;
        Ok(Arc::new(Handle { disk: self.clone(), bytes }))
    }

    fn open_to_write(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open(name)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        if self.0.lock().names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.put(name, Vec::new());
        self.0.lock().last_write = None;
        self.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.0.lock();
        files.last_write = None;
        let bytes = files.names.remove(from).ok_or_else(missing)?;
        files.names.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut files = self.0.lock();
        files.last_write = None;
        files.names.remove(name).map(|_| ()).ok_or_else(missing)
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }
}

struct Handle {
    disk: MemoryDisk,
    bytes: Bytes,
}

impl DiskFile for Handle {
    fn size(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.0.lock().read += buffer.len() as u64;
        let bytes = self.bytes.lock();
        let from = bytes.get(offset as usize..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, new: &[u8], offset: u64) -> io::Result<()> {
        let (mut bytes, begin) = (self.bytes.lock(), offset as usize);
        let end = begin + new.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        let place = bytes.get_mut(begin..end).unwrap_or_default();
        let before = place.to_vec();
        place.copy_from_slice(new);
        self.disk.0.lock().last_write = Some((Arc::clone(&self.bytes), begin, before));
        Ok(())
    }

    fn fill(&self, from: u64, to: u64) -> io::Result<()> {
        self.write_at(&vec![0; (to - from) as usize], from)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
