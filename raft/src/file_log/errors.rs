//! What the log says when it cannot go on: what is wrong, where, and what to do.

use std::{io, path::Path};

use super::segment::{Segment, Unusable};
use crate::store_error::StoreError;

const ADVICE: &str = "this server may have promised what it no longer knows, and must not go on with \
                      this: if others of its cluster are well, let it rejoin them with an empty directory; if \
                      it is the only one, keep what is there";

/// This process, or the system, has too many open files: the same numbers on Linux, macOS and the BSDs.
pub(super) const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

/// Whether a read failed only because a file could not be opened for now.
pub(super) fn lacks_descriptors(error: &StoreError) -> bool {
    let StoreError::Io { source, .. } = error else { return false };
    let code = source.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    matches!(code, Some(EMFILE | ENFILE))
}

pub(super) fn refuse<T>(reason: String) -> Result<T, StoreError> {
    Err(StoreError::Refused { reason })
}

pub(super) fn cannot(what: &str, dir: &Path, segment: u64, error: io::Error) -> StoreError {
    let path = dir.join(Segment::name(segment));
    StoreError::io(format!("cannot {what} {}", path.display()), error)
}

pub(super) fn corrupt(dir: &Path, what: &str, reason: &str) -> StoreError {
    StoreError::corrupt(format!("{what} in {}", dir.display()), format!("{reason}; {ADVICE}"))
}

pub(super) fn damaged_entry(
    dir: &Path,
    segment: u64,
    index: u64,
    offset: u64,
    reason: &str,
) -> StoreError {
    let what = format!("log entry {index} (file {}, offset {offset})", Segment::name(segment));
    corrupt(dir, &what, reason)
}

pub(super) fn unusable(dir: &Path, segment: u64, unusable: Unusable) -> StoreError {
    let name = Segment::name(segment);
    match unusable {
        Unusable::Io(error) => cannot("read", dir, segment, error),
        Unusable::Damaged { offset, after, reason } => {
            let place = after.map(|index| format!(", after entry {index}")).unwrap_or_default();
            corrupt(dir, &format!("file {name} at offset {offset}{place}"), &reason)
        }
        Unusable::UnknownFormat(version) => too_new(dir, &name, version),
    }
}

/// The error for a log written by a release after this one.
pub(super) fn too_new(dir: &Path, source: &str, version: u32) -> StoreError {
    StoreError::Refused {
        reason: format!(
            "the log in {} is in format {version} (says its file {source}), this release knows format {}; \
             start the release that wrote it, or a newer one",
            dir.display(),
            super::format::FORMAT_VERSION
        ),
    }
}
