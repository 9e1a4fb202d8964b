//! A directory that belongs to one server of one cluster.
//!
//! A small file says which server the directory belongs to and how that server came to its cluster,
//! so that a mixed-up setting is refused before anything is touched. A second file appears as soon as the
//! server has something to lose: from then on a log that is missing is an error, not a new beginning. While
//! the directory is in use the first file is locked.
//!
//! Absent: what is in the stores. They have formats, locks and checks of their own.
//!
//! | file | one idea |
//! |---|---|
//! | `owner` | the file that names the owner |
//! | `stores` | the log and the snapshots inside |

mod owner;
mod stores;

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

pub use self::{owner::Owner, stores::FileStores};
use crate::{
    configuration::{Configuration, ServerId},
    error::BootstrapError,
    store_error::StoreError,
};

const OWNER: &str = "server.json";
const DRAFT: &str = "server.json.draft";
/// Beside it as soon as the server has something to lose.
const BEGUN: &str = "server.begun";

/// A directory in use by this process, until this is dropped.
///
/// ```
/// use raft::{Configuration, DataDir, Server};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let temporary = tempfile::tempdir()?;
/// # let path = temporary.path();
/// let members = Configuration::new([Server::voter("a", "host-a:7000")]);
/// let dir = DataDir::claim(path, "a", "orders", Some(&members))?;
/// let another = DataDir::claim(path, "b", "orders", None);
/// assert!(another.unwrap_err().to_string().contains("belongs to server a"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    owner: Owner,
    /// Every version of the owner's file that somebody may have opened: all stay locked.
    locks: Vec<File>,
}

/// Why a directory cannot be used. Nothing was changed unless it says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataDirError {
    /// It belongs to another server: give this one a directory of its own.
    #[error("the data directory {} belongs to server {owner}, not to {wanted}", dir.display())]
    WrongServer {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        owner: ServerId,
        /// Who asked for it.
        wanted: ServerId,
    },
    /// It belongs to a server of another cluster.
    #[error("the data directory {} belongs to cluster {cluster}, not to {wanted}", dir.display())]
    WrongCluster {
        /// The directory.
        dir: PathBuf,
        /// The cluster it belongs to.
        cluster: String,
        /// The cluster that was asked for.
        wanted: String,
    },
    /// Its cluster was bootstrapped with other members. A cluster is bootstrapped once: start without
    /// first members, and change them by membership calls.
    #[error(
        "cannot bootstrap: the cluster in {} was bootstrapped with {members}; a cluster is bootstrapped once",
        dir.display()
    )]
    OtherMembers {
        /// The directory.
        dir: PathBuf,
        /// The first members, as `id=address` with blanks between.
        members: String,
    },
    /// Its server has joined a cluster: start it without first members.
    #[error("cannot bootstrap: server {id} in {} has joined a cluster", dir.display())]
    HasJoined {
        /// The directory.
        dir: PathBuf,
        /// Its server.
        id: ServerId,
    },
    /// A running server or tool uses it: stop that one first.
    #[error(
        "the data directory {} is in use by a running server or tool; stop that one first",
        dir.display()
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// It was not made by [`DataDir::claim`].
    #[error("{} is not a data directory: it has no {OWNER}", dir.display())]
    Missing {
        /// The directory.
        dir: PathBuf,
    },
    /// It holds files of somebody else: give an empty directory.
    #[error("{} is not a data directory: it holds {name} but no {OWNER}", dir.display())]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// One of the files.
        name: String,
    },
    /// The file that names its owner is damaged. It is no part of what the server has promised and can be
    /// written by hand, as the message says.
    #[error(
        "{} is damaged: {reason}. The log and the snapshots beside it may be well: if you know whose \
         directory it is, write {{\"id\": \"ID\", \"cluster\": \"NAME\", \"first_members\": null}} there, \
         with the id and the cluster of the server, and start it without first members",
        file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// How it shows.
        reason: String,
    },
    /// Its server has begun, and its log is gone, and with that what the server has promised. Put it back;
    /// or start on an empty directory and let the cluster take this server back with
    /// [`Raft::rejoin_server`](crate::Raft::rejoin_server).
    #[error(
        "the log of server {id} in {} is gone, and with it what the server has promised",
        dir.display()
    )]
    LogMissing {
        /// The directory.
        dir: PathBuf,
        /// Its server.
        id: ServerId,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The first members are no valid configuration, or the stores were bootstrapped meanwhile.
    #[error(transparent)]
    Bootstrap(BootstrapError),
    /// A store in it cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DataDirError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

impl DataDir {
    /// Takes the directory for this server, and makes it, for this user only, if it is missing. A directory
    /// that belongs to nobody must be empty. `first_members` are those that a new cluster begins with, `None`
    /// if the server is to join one, or runs already.
    ///
    /// # Errors
    /// [`DataDirError`]; nothing was changed, but an empty directory may have been made.
    pub fn claim(
        path: impl Into<PathBuf>,
        id: impl Into<ServerId>,
        cluster: &str,
        first_members: Option<&Configuration>,
    ) -> Result<Self, DataDirError> {
        let path = path.into();
        make_private(&path).map_err(DataDirError::io("make the data directory", &path))?;
        let wanted = Owner::new(&id.into(), cluster, first_members);
        if let Some(found) = Owner::read(&path)? {
            // Checked first: it says more than that another server is running in it.
            let mut dir = Self { path, owner: found, locks: Vec::new() };
            dir.check(&wanted)?;
            dir.locks.push(lock(&dir.path, File::try_lock)?);
            return Ok(dir);
        }
        refuse_foreign(&path)?;
        let locks = vec![wanted.write(&path)?];
        Ok(Self { path, owner: wanted, locks })
    }

    /// Takes a directory in which no server runs, for a tool that changes what is there. Nothing is made.
    ///
    /// # Errors
    /// [`Missing`](DataDirError::Missing), [`InUse`](DataDirError::InUse), [`Damaged`](DataDirError::Damaged)
    /// or [`Io`](DataDirError::Io).
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, DataDirError> {
        Self::existing(path.into(), File::try_lock)
    }

    /// The same for a tool that only reads; several may at the same time.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_read_only(path: impl Into<PathBuf>) -> Result<Self, DataDirError> {
        Self::existing(path.into(), File::try_lock_shared)
    }

    fn existing(
        path: PathBuf,
        take: fn(&File) -> Result<(), TryLockError>,
    ) -> Result<Self, DataDirError> {
        let Some(owner) = Owner::read(&path)? else {
            return Err(DataDirError::Missing { dir: path });
        };
        let locks = vec![lock(&path, take)?];
        Ok(Self { path, owner, locks })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Whether its server has had something to lose: then its log cannot be missing.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.path.join(BEGUN).exists()
    }

    /// Notes durably that its server has something to lose. To be called once something of the server is
    /// durable: after a bootstrap, or when the first entry is applied. Repeated calls cost nothing.
    ///
    /// # Errors
    /// [`DataDirError::Io`]: the server can go on, but a log that goes missing would not be noticed.
    pub fn note_begun(&self) -> Result<(), DataDirError> {
        self.mark().note()
    }

    /// Notes the same from elsewhere, for example from a task that waits until a server has joined.
    #[must_use]
    pub fn mark(&self) -> BegunMark {
        BegunMark { path: self.path.clone() }
    }

    /// Checks what was found against what is wanted.
    fn check(&self, wanted: &Owner) -> Result<(), DataDirError> {
        let (dir, owner) = (|| self.path.clone(), &self.owner);
        if owner.id() != wanted.id() {
            let (owner, wanted) = (owner.id().clone(), wanted.id().clone());
            return Err(DataDirError::WrongServer { dir: dir(), owner, wanted });
        }
        if let (Some(wanted), Some(cluster)) = (wanted.cluster(), owner.cluster())
            && wanted != cluster
        {
            let (cluster, wanted) = (cluster.to_owned(), wanted.to_owned());
            return Err(DataDirError::WrongCluster { dir: dir(), cluster, wanted });
        }
        match (wanted.first_members(), owner.first_members()) {
            (Some(_), None) if self.has_begun() => Err(self.has_joined()),
            (Some(wanted), Some(found)) if wanted != found => {
                let members: Vec<String> =
                    found.iter().map(|(id, address)| format!("{id}={address}")).collect();
                Err(DataDirError::OtherMembers { dir: dir(), members: members.join(" ") })
            }
            _ => Ok(()),
        }
    }

    fn has_joined(&self) -> DataDirError {
        DataDirError::HasJoined { dir: self.path.clone(), id: self.owner.id().clone() }
    }

    /// Notes the first members before the stores are bootstrapped: a start that is cut short in between
    /// would else be one of a server that joins. The directory stays locked.
    fn note_first_members(&mut self, members: &Configuration) -> Result<(), DataDirError> {
        let owner = self.owner.with_first_members(members);
        if owner != self.owner {
            self.locks.push(owner.write(&self.path)?);
            self.owner = owner;
        }
        Ok(())
    }
}

/// Notes that a server has begun.
#[derive(Clone, Debug)]
pub struct BegunMark {
    path: PathBuf,
}

impl BegunMark {
    /// As [`DataDir::note_begun`].
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn note(&self) -> Result<(), DataDirError> {
        let file = self.path.join(BEGUN);
        if file.exists() {
            return Ok(());
        }
        let text = "This server has begun: what its log holds cannot be missing. Do not remove.\n";
        let note = || {
            make_file(&file, text)?;
            File::open(&self.path)?.sync_all()
        };
        note().map_err(DataDirError::io("write", &file))
    }
}

/// A directory without our file must be empty, or somebody's files would be buried.
fn refuse_foreign(dir: &Path) -> Result<(), DataDirError> {
    let entries = fs::read_dir(dir).map_err(DataDirError::io("read", dir))?;
    let mut names =
        entries.filter_map(Result::ok).map(|it| it.file_name().to_string_lossy().into_owned());
    // What a crash in between leaves, and what a fresh file system has.
    match names.find(|name| name != DRAFT && name != "lost+found") {
        None => Ok(()),
        Some(name) => Err(DataDirError::Foreign { dir: dir.to_owned(), name }),
    }
}

fn lock(dir: &Path, take: fn(&File) -> Result<(), TryLockError>) -> Result<File, DataDirError> {
    let path = dir.join(OWNER);
    let file = File::open(&path).map_err(DataDirError::io("lock", &path))?;
    match take(&file) {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DataDirError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(DataDirError::io("lock", &path)(error)),
    }
}

/// Makes a directory that only this user can enter. One that is there stays as it is.
fn make_private(dir: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

/// A file with this text that only this user can read, synced; its name is not.
fn make_file(path: &Path, text: &str) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())?;
    file.sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests;
