//! Lengths of time as people read them: numbers of seconds. For `#[serde(with = "raft::seconds")]` on a
//! field whose name ends in `_seconds`, as in [`Config`](crate::Config).

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// Serialises a length of time as seconds.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// Reads a length of time from a number of seconds, to the nanosecond.
///
/// # Errors
/// If it is no number, negative, or longer than a [`Duration`] can be.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    Duration::try_from_secs_f64(seconds)
        .map_err(|reason| D::Error::custom(format!("{seconds} seconds: {reason}")))
}

/// The same for a length of time that may be absent.
pub(crate) mod optional {
    use serde::Serialize;

    use super::{Deserialize, Deserializer, Duration, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Seconds(#[serde(with = "super")] Duration);

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(Seconds).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<Seconds>::deserialize(deserializer)?.map(|Seconds(time)| time))
    }
}
