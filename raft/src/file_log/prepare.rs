//! The next segment, made ready before it is needed.
//!
//! A segment is overwritten where zeros were written and synced before: that syncs in less time than a file
//! that grows, and a full disk is met here, where nobody waits. A segment that was dropped is used again
//! as it is; its old content counts for nothing under the new number.

use std::{io, sync::Arc};

use super::{
    disk::{Disk, DiskFile},
    format::{FORMAT_VERSION, HEADER_BYTES, Header},
    segment::Segment,
};

/// A segment to be made.
pub(super) struct Job {
    pub(super) store: u64,
    pub(super) id: u64,
    pub(super) size: u64,
    /// The number of a dropped segment of that size, whose file is free.
    pub(super) spare: Option<u64>,
}

impl Job {
    /// Makes it, durably. What is left of it after a crash is no segment; after a failure nothing is left.
    pub(super) fn run(&self, disk: &Arc<dyn Disk>) -> io::Result<Arc<Segment>> {
        let spare = Segment::spare_name(self.spare.unwrap_or(self.id));
        self.make(disk, &spare).inspect_err(|_| {
            // What it takes is better free.
            let _ = disk.remove(&spare);
        })
    }

    fn make(&self, disk: &Arc<dyn Disk>, spare: &str) -> io::Result<Arc<Segment>> {
        // What was removed or renamed before must not come back under the name of this one, nor this one under
        // the name that it had.
        disk.sync_names()?;
        let file = match self.spare {
            Some(_) => disk.open_to_write(spare)?,
            None => self.zeros(&**disk, spare)?,
        };
        let header = Header {
            version: FORMAT_VERSION,
            store: self.store,
            segment: self.id,
            size: self.size,
        };
        file.write_at(&header.encode(), 0)?;
        file.sync()?;
        disk.rename(spare, &Segment::name(self.id))?;
        disk.sync_names()?;
        Ok(Arc::new(Segment::new(disk, (self.store, self.id), self.size, Some(file))))
    }

    fn zeros(&self, disk: &dyn Disk, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = disk.create(name)?;
        file.fill(HEADER_BYTES, self.size)?;
        Ok(file)
    }
}
