//! One snapshot from its beginning until it is durable and visible, or gone. Blocks.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    directory::{DATA, Directory, META, cannot, remove},
    meta::{self, Description},
    name::Name,
};
use crate::{
    configuration::IndexedConfiguration, position::LogId, snapshot::SnapshotMeta,
    store_error::StoreError,
};

/// A snapshot that is not finished: a directory whose name says so. Dropping it removes that.
pub(super) struct Draft {
    directory: Arc<Directory>,
    name: Name,
    configuration: IndexedConfiguration,
}

impl Draft {
    /// Makes the directory and the file for the data.
    pub(super) fn create(
        directory: &Arc<Directory>,
        last: LogId,
        configuration: IndexedConfiguration,
    ) -> Result<(Self, File), StoreError> {
        let name = directory.new_name(last)?;
        let draft = Self { directory: Arc::clone(directory), name, configuration };
        let path = draft.path();
        fs::create_dir(&path).map_err(|error| cannot("create", &path, error))?;
        let path = draft.data();
        let data = directory.disk.create(&path).map_err(|error| cannot("create", &path, error))?;
        Ok((draft, data))
    }

    /// Where the data is being written, for messages.
    pub(super) fn data(&self) -> PathBuf {
        self.path().join(DATA)
    }

    /// Makes everything durable, then visible. After an error nothing is visible.
    pub(super) fn finish(
        self,
        data: File,
        size_bytes: u64,
        data_crc: u32,
    ) -> Result<SnapshotMeta, StoreError> {
        let (name, dir) = (self.name, self.path());
        let disk = &*self.directory.disk;
        disk.sync(&data).map_err(|error| cannot("sync", &self.data(), error))?;
        drop(data);
        let configuration = self.configuration.clone();
        let meta = SnapshotMeta { id: name.id(), last: name.last, configuration, size_bytes };
        let description = Description { meta, data_crc };
        let path = dir.join(META);
        let bytes = meta::encode(name, &description).map_err(|reason| StoreError::Refused {
            reason: format!("the configuration cannot be written to {}: {reason}", path.display()),
        })?;
        self.write_durably(&path, &bytes).map_err(|error| cannot("write", &path, error))?;
        // The rename says that both files are there, so their names have to be durable before it.
        self.directory.sync(&dir)?;
        self.directory.publish(name)?;
        Ok(description.meta)
    }

    fn write_durably(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let disk = &*self.directory.disk;
        let mut file = disk.create(path)?;
        file.write_all(bytes)?;
        disk.sync(&file)
    }

    fn path(&self) -> PathBuf {
        self.directory.draft_path(self.name)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // When it was published there is nothing left under this name.
        remove(&self.path());
    }
}
