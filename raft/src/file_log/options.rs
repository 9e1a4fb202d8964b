//! What can be set.

use super::errors;
use crate::store_error::StoreError;

/// Settings of a [`FileLogStore`](super::FileLogStore). They may change from one start to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLogOptions {
    /// The size of a segment file in bytes, 1 MiB to 1 GiB (default 64 MiB). What is removed from the front of
    /// the log is given back in whole segments, and the directory takes up to three of them beside the log. Larger
    /// ones are changed less often, which takes about a millisecond. A new log begins with smaller ones.
    pub segment_bytes: u64,
}

impl Default for FileLogOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20 }
    }
}

impl FileLogOptions {
    const MIN_SEGMENT_BYTES: u64 = 1 << 20;
    const MAX_SEGMENT_BYTES: u64 = 1 << 30;

    pub(super) fn validate(self) -> Result<(), StoreError> {
        let Self { segment_bytes } = self;
        if (Self::MIN_SEGMENT_BYTES..=Self::MAX_SEGMENT_BYTES).contains(&segment_bytes)
            && segment_bytes.is_multiple_of(4096)
        {
            return Ok(());
        }
        errors::refuse(format!(
            "`segment_bytes` is {segment_bytes}; give a multiple of 4096 from {} to {}",
            Self::MIN_SEGMENT_BYTES,
            Self::MAX_SEGMENT_BYTES
        ))
    }
}
