//! Whose directory is it? Answered from one small text file before a segment is touched, and by a lock.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use super::{
    disk::{DIR_MODE, Disk, FILE_MODE},
    errors::{self, refuse},
    format::{FORMAT_VERSION, IDENTITY},
    segment::Segment,
};
use crate::store_error::StoreError;

const CREATING: &str = "RAFT-LOG.creating";
const LOCK: &str = "LOCK";

const FIRST_WORDS: &str = "raft log format ";
const STORE_WORDS: &str = "store ";

/// Makes the directory if it is missing, with those above it.
pub(super) fn make(dir: &Path) -> Result<(), StoreError> {
    if exists(dir)? {
        return Ok(());
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(DIR_MODE);
    builder.create(dir).map_err(|error| cannot("create", dir, error))
}

/// Makes the name of the directory durable, and those of all above it: whoever made them may not have.
pub(super) fn settle(dir: &Path) -> Result<(), StoreError> {
    let dir = dir.canonicalize().map_err(|error| cannot("open", dir, error))?;
    for above in dir.ancestors().skip(1) {
        match File::open(above).and_then(|above| above.sync_all()) {
            // Not ours, and so not made by us.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            synced => synced.map_err(|error| cannot("sync", above, error))?,
        }
    }
    Ok(())
}

/// Whether there is such a directory.
pub(super) fn exists(dir: &Path) -> Result<bool, StoreError> {
    match fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => Ok(true),
        Ok(_) => {
            refuse(format!("{} is a file; the log needs a directory of its own", dir.display()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(cannot("open", dir, error)),
    }
}

/// Locks the directory for as long as the file is open, and notes which process has it.
pub(super) fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(LOCK);
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
    let mut file = options.open(&path).map_err(|error| cannot("open", &path, error))?;
    match file.try_lock() {
        Ok(()) => {
            // Only for whoever comes second: on a full disk it is better not said.
            let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            let _ = file.rewind().and_then(|()| file.read_to_string(&mut owner));
            let owner = match owner.trim() {
                "" => "another process".to_owned(),
                id if id == std::process::id().to_string() => "this process".to_owned(),
                id => format!("process {id}"),
            };
            refuse(format!("the log in {} is in use by {owner}; stop that first", dir.display()))
        }
        Err(TryLockError::Error(error)) => Err(cannot("lock", &path, error)),
    }
}

/// The number of the store in this directory; `None` if there is none and one can be made. What a creation
/// that was cut short has left is removed: nothing was acknowledged in it.
pub(super) fn inspect(dir: &Path, disk: &dyn Disk) -> Result<Option<u64>, StoreError> {
    let names = disk.names().map_err(|error| cannot("list", dir, error))?;
    if names.iter().any(|name| name == IDENTITY) {
        return read(dir, disk).map(Some);
    }
    let is_cut_short = names.iter().any(|name| name == CREATING);
    let is_ours = |name: &str| {
        // The root of a freshly made file system, and what an unfinished creation leaves.
        [LOCK, CREATING, "lost+found"].contains(&name)
            // It makes the first segment and no other one.
            || is_cut_short
                && ["log-", "spare-"].iter().any(|it| Segment::parse(name, it) == Some(1))
    };
    let Some(stranger) = names.iter().find(|name| !is_ours(name)) else { return Ok(None) };
    let what = if names.iter().any(|name| name == "RAFT-ROCKSDB") {
        "holds a log of raft-rocksdb; open it with that, or give this log a directory of its own"
            .to_owned()
    } else if names.iter().any(|name| name == "CURRENT") {
        "holds a RocksDB database; give the log a directory of its own".to_owned()
    } else if Segment::parse(stranger, "log-").is_some() {
        format!(
            "has segments of a log, but no file {IDENTITY}; if this is a copy, copy that file too"
        )
    } else {
        format!(
            "is not empty and holds no Raft log (it has {stranger:?}, but no file {IDENTITY}); give the log a \
             directory of its own"
        )
    };
    refuse(format!("{} {what}", dir.display()))
}

/// The error for a directory in which there should be a log.
pub(super) fn none<T>(dir: &Path) -> Result<T, StoreError> {
    refuse(format!("{} holds no Raft log: it has no file {IDENTITY}", dir.display()))
}

/// Notes durably that a store is being made here, after removing what an earlier try has left.
pub(super) fn begin(dir: &Path, disk: &dyn Disk, store: u64) -> Result<(), StoreError> {
    let text = format!(
        "{FIRST_WORDS}{FORMAT_VERSION}\n{STORE_WORDS}{store:016x}\n\
         The log, term and vote of a Raft server. Do not edit or remove.\n"
    );
    let write = || {
        let names = disk.names()?;
        let is_left =
            |name: &str| ["log-", "spare-"].iter().any(|it| Segment::parse(name, it).is_some());
        names.iter().filter(|name| is_left(name)).try_for_each(|name| disk.remove(name))?;
        // Never without it: it says that what else is there counts for nothing.
        let is_there = names.iter().any(|name| name == CREATING);
        let file = if is_there { disk.open_to_write(CREATING)? } else { disk.create(CREATING)? };
        file.write_at(text.as_bytes(), 0)?;
        file.sync()?;
        disk.sync_names()
    };
    write().map_err(|error| cannot("write to", dir, error))
}

/// From now on the directory holds a store.
pub(super) fn complete(dir: &Path, disk: &dyn Disk) -> Result<(), StoreError> {
    let finish = || {
        disk.rename(CREATING, IDENTITY)?;
        disk.sync_names()
    };
    finish().map_err(|error| cannot("write to", dir, error))
}

fn read(dir: &Path, disk: &dyn Disk) -> Result<u64, StoreError> {
    let read = || {
        let file = disk.open(IDENTITY)?;
        // A longer one is none of ours.
        let mut bytes = vec![0; file.size()?.min(4096) as usize];
        file.read_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| cannot("open", &dir.join(IDENTITY), error))?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut lines = text.lines();
    let words = lines.next().unwrap_or_default();
    match words.strip_prefix(FIRST_WORDS).and_then(|version| version.parse().ok()) {
        Some(FORMAT_VERSION) => {}
        Some(newer) => return Err(errors::too_new(dir, IDENTITY, newer)),
        None => return Err(damaged(dir, "first", words)),
    }
    let words = lines.next().unwrap_or_default();
    let digits = words.strip_prefix(STORE_WORDS).filter(|digits| digits.len() == 16);
    match digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
        Some(store) => Ok(store),
        None => Err(damaged(dir, "second", words)),
    }
}

fn damaged(dir: &Path, line: &str, words: &str) -> StoreError {
    StoreError::corrupt(
        format!("the file {IDENTITY} in {}", dir.display()),
        format!(
            "its {line} line is {words:?}; it should be \"{FIRST_WORDS}{FORMAT_VERSION}\" and then \
             \"{STORE_WORDS}\" with the 16 digits that are in bytes 16 to 23 of each segment, last byte first"
        ),
    )
}

fn cannot(what: &str, path: &Path, error: io::Error) -> StoreError {
    let path = path.display();
    if [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem].contains(&error.kind())
    {
        let needs = "this process has to be allowed to read and write there";
        return StoreError::io(format!("cannot {what} {path} ({needs})"), error);
    }
    StoreError::io(format!("cannot {what} {path}"), error)
}
