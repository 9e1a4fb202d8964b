//! Lengths of time as people read them.

use std::time::Duration;

use serde::Serializer;

/// Serialises a length of time as seconds.
pub(crate) fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}
