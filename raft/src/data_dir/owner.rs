//! The file that names the owner of a directory. It has a checksum: what is damaged must not be taken for
//! another server's.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{DRAFT, DataDirError, OWNER, make_file};
use crate::configuration::{Configuration, ServerAddress, ServerId};

/// Which server a directory belongs to, and how that server came to its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    id: ServerId,
    #[serde(default)]
    cluster: Option<String>,
    first_members: Option<BTreeMap<ServerId, ServerAddress>>,
    /// Of the rest. Only in the file; one that was written by hand has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
}

impl Owner {
    pub(super) fn new(id: &ServerId, cluster: &str, members: Option<&Configuration>) -> Self {
        let (id, cluster) = (id.clone(), Some(cluster.to_owned()));
        let owner = Self { id, cluster, first_members: None, checksum: None };
        match members {
            Some(members) => owner.with_first_members(members),
            None => owner,
        }
    }

    pub(super) fn with_first_members(&self, members: &Configuration) -> Self {
        let members = members.servers().iter();
        let members = members.map(|server| (server.id.clone(), server.address.clone()));
        Self { first_members: Some(members.collect()), ..self.clone() }
    }

    /// The server.
    #[must_use]
    pub fn id(&self) -> &ServerId {
        &self.id
    }

    /// The name of its cluster; `None` if the file was written by hand and does not say it.
    #[must_use]
    pub fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }

    /// The members that its cluster began with, if this server was one of them; `None` if it has joined.
    #[must_use]
    pub fn first_members(&self) -> Option<&BTreeMap<ServerId, ServerAddress>> {
        self.first_members.as_ref()
    }

    /// The CRC-32 of all but the checksum, as JSON without spaces.
    fn sum(&self) -> serde_json::Result<String> {
        let bytes = serde_json::to_vec(&Self { checksum: None, ..self.clone() })?;
        Ok(format!("{:08x}", crc32fast::hash(&bytes)))
    }

    pub(super) fn read(dir: &Path) -> Result<Option<Self>, DataDirError> {
        let file = dir.join(OWNER);
        let damaged = |reason: String| DataDirError::Damaged { file: file.clone(), reason };
        match fs::read_to_string(&file) {
            Ok(text) => Self::parse(&text).map(Some).map_err(damaged),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(damaged(error.to_string()))
            }
            Err(error) => Err(DataDirError::io("read", &file)(error)),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let found: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let sum = found.sum().map_err(|error| error.to_string())?;
        match &found.checksum {
            Some(noted) if *noted != sum => {
                Err(format!("its checksum is {noted}, but what it says has {sum}"))
            }
            _ => Ok(Self { checksum: None, ..found }),
        }
    }

    /// The new file is locked before it has its name.
    pub(super) fn write(&self, dir: &Path) -> Result<File, DataDirError> {
        let (path, draft) = (dir.join(OWNER), dir.join(DRAFT));
        let write = || {
            let checksum = Some(self.sum()?);
            let text = serde_json::to_string_pretty(&Self { checksum, ..self.clone() })?;
            let file = make_file(&draft, &text)?;
            file.try_lock()?;
            fs::rename(&draft, &path)?;
            File::open(dir)?.sync_all()?;
            Ok(file)
        };
        write().map_err(DataDirError::io("write", &path))
    }
}
