//! What can be set.

use serde::{Deserialize, Serialize};

use super::errors;
use crate::store_error::StoreError;

/// Settings of a [`FileLogStore`](super::FileLogStore). They may change from one start to the next.
/// Start from the defaults and change what differs; they can be read from a file, as [`Config`](crate::Config)
/// can.
///
/// ```
/// let options = raft::FileLogOptions::default().with(|it| it.segment_bytes = 16 << 20);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
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

    /// These settings after `change`, for use within an expression.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_from_what_they_are_written_to() {
        let options = FileLogOptions::default().with(|it| it.segment_bytes = 1 << 20);
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<FileLogOptions>(&text).unwrap(), options, "{text}");
        let empty: FileLogOptions = serde_json::from_str("{}").unwrap();
        assert_eq!(empty, FileLogOptions::default());
        let unknown = serde_json::from_str::<FileLogOptions>(r#"{ "segment": 1 }"#).unwrap_err();
        assert!(unknown.to_string().starts_with("unknown field `segment`"), "{unknown}");
    }
}
