//! Whose directory is it? Answered from one small text file before RocksDB touches anything.
//!
//! RocksDB would gladly open any RocksDB database, replay its log, rewrite its manifest and compact
//! it; and one written by a newer release it may only understand halfway. So the directory carries a
//! text file that says what it is. It is named [`CREATING`] while the database is being made and
//! [`IDENTITY`] from then on, which also tells a database whose files were lost from one that
//! never was.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use raft::StoreError;

use crate::codec::FORMAT_VERSION;

const IDENTITY: &str = "RAFT-ROCKSDB";
const CREATING: &str = "RAFT-ROCKSDB.creating";

const FIRST_WORDS: &str = "raft-rocksdb format ";

/// What stands in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing yet, or a database whose creation was cut short: nothing was ever acknowledged.
    Creating,
    /// A database that was complete once.
    Complete,
}

/// Makes the directory if it is missing and finds out what it holds.
pub(crate) fn inspect(dir: &Path) -> Result<Stage, StoreError> {
    match fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => {
            return refuse(format!(
                "{} is a file; the store needs a directory of its own",
                dir.display()
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(dir).map_err(|error| cannot("create", dir, error))?;
        }
        Err(error) => return Err(cannot("open", dir, error)),
    }
    if let Some(text) = read(&dir.join(IDENTITY))? {
        check_version(dir, &text)?;
        return Ok(Stage::Complete);
    }
    if let Some(stranger) = stranger(dir)? {
        return refuse(stranger);
    }
    write_durably(dir, CREATING).map_err(|error| cannot("write to", dir, error))?;
    Ok(Stage::Creating)
}

/// Finds out whether the directory holds a complete store of a known format, and changes nothing.
pub(crate) fn require(dir: &Path) -> Result<(), StoreError> {
    match read(&dir.join(IDENTITY))? {
        Some(text) => check_version(dir, &text),
        None => refuse(format!("{} holds no Raft store: it has no file {IDENTITY}", dir.display())),
    }
}

/// From now on the directory holds a database.
pub(crate) fn complete(dir: &Path) -> Result<(), StoreError> {
    let finish = || {
        fs::rename(dir.join(CREATING), dir.join(IDENTITY))?;
        sync(dir)?;
        // The directory itself may be new too.
        dir.parent().filter(|parent| *parent != Path::new("")).map_or(Ok(()), sync)
    };
    finish().map_err(|error| cannot("write to", dir, error))
}

/// The error for a database written by a release after this one.
pub(crate) fn too_new(dir: &Path, source: &str, version: u32) -> StoreError {
    StoreError::Refused {
        reason: format!(
            "the store in {} is in format {version} (says its {source}), this release knows \
             format {FORMAT_VERSION}; start the release that wrote it, or a newer one",
            dir.display()
        ),
    }
}

fn check_version(dir: &Path, text: &str) -> Result<(), StoreError> {
    let words = text.lines().next().unwrap_or_default();
    match words.strip_prefix(FIRST_WORDS).and_then(|version| version.parse().ok()) {
        Some(FORMAT_VERSION) => Ok(()),
        Some(newer) => Err(too_new(dir, &format!("file {IDENTITY}"), newer)),
        None => Err(StoreError::corrupt(
            format!("the file {IDENTITY} in {}", dir.display()),
            format!(
                "its first line is {words:?}; if the rest of the directory is intact, write \
                 \"{FIRST_WORDS}{FORMAT_VERSION}\" there"
            ),
        )),
    }
}

/// Says what in the directory is not ours, unless it is empty or a creation that was cut short.
fn stranger(dir: &Path) -> Result<Option<String>, StoreError> {
    if read(&dir.join(CREATING))?.is_some() {
        return Ok(None);
    }
    let mut found = None;
    for item in fs::read_dir(dir).map_err(|error| cannot("list", dir, error))? {
        let name = item.map_err(|error| cannot("list", dir, error))?.file_name();
        if name == "CURRENT" {
            return Ok(Some(format!(
                "{} holds a RocksDB database, but not one of raft-rocksdb: it has no file \
                 {IDENTITY}; give the store a directory of its own, or, if this is a restored \
                 backup of one, copy that file too",
                dir.display()
            )));
        }
        // The root of a freshly made file system.
        if name != "lost+found" {
            found = Some(name);
        }
    }
    Ok(found.map(|name| {
        format!(
            "{} is not empty and holds no Raft store (it has {:?}, but no file {IDENTITY}); give \
             the store a directory of its own",
            dir.display(),
            name
        )
    }))
}

fn read(path: &Path) -> Result<Option<String>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot("read", path, error)),
    }
}

fn write_durably(dir: &Path, name: &str) -> io::Result<()> {
    let mut file = File::create(dir.join(name))?;
    writeln!(file, "{FIRST_WORDS}{FORMAT_VERSION}")?;
    writeln!(file, "The log, term and vote of a Raft server, in RocksDB. Do not edit or remove.")?;
    file.sync_all()?;
    sync(dir)
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn cannot(what: &str, path: &Path, error: io::Error) -> StoreError {
    StoreError::io(format!("cannot {what} {}", path.display()), error)
}

fn refuse<T>(reason: String) -> Result<T, StoreError> {
    Err(StoreError::Refused { reason })
}
