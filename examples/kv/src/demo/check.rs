//! Whether the servers hold what they acknowledged: the whole of it, and nothing else.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::{
    cluster::{Cluster, PATIENCE},
    dataset::Pair,
};
use crate::{failure::Failure, operator::Ask, snapshot};

const POLL: std::time::Duration = std::time::Duration::from_millis(50);

/// What all servers agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Agreement {
    pub(super) index: u64,
    pub(super) keys: u64,
    pub(super) checksum: String,
}

/// Waits until all running servers have applied the same entries, and compares their checksums.
///
/// # Errors
/// When they do not come together in time, or when they do and differ.
pub(super) async fn agreement(cluster: &Cluster) -> Result<Agreement, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut all = BTreeMap::new();
        for id in cluster.running() {
            let said = cluster.ask(&id, "/checksum", Ask::Get).await?;
            let agreement = Agreement {
                index: said["index"].as_u64().unwrap_or_default(),
                keys: said["keys"].as_u64().unwrap_or_default(),
                checksum: said["checksum"].as_str().unwrap_or_default().to_owned(),
            };
            all.insert(id, agreement);
        }
        let Some(first) = all.values().next().cloned() else {
            return Err(Failure::new("no server is running"));
        };
        if all.values().all(|other| other.index == first.index) {
            if all.values().all(|other| *other == first) {
                return Ok(first);
            }
            return Err(Failure::new(format!("the servers differ: {all:?}")));
        }
        if deadline < Instant::now() {
            return Err(Failure::new(format!("the servers do not come together: {all:?}")));
        }
        sleep(POLL).await;
    }
}

/// Compares a server's whole state with what was acknowledged.
///
/// # Errors
/// Says how many keys are lost, wrong or invented, and names one of each.
pub(super) async fn holds(cluster: &Cluster, id: &str, expected: &[Pair]) -> Result<(), Failure> {
    let dump = cluster.dump(id).await?;
    let state = snapshot::read(&dump[..])
        .await
        .map_err(|error| Failure::new(format!("the dump of {id} cannot be read: {error}")))?;
    let found = state.map.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let expected = expected.iter().cloned().collect();
    match difference(&expected, &found) {
        None => Ok(()),
        Some(difference) => Err(Failure::new(format!("{id} is wrong: {difference}"))),
    }
}

fn difference(expected: &BTreeMap<Bytes, Bytes>, found: &BTreeMap<Bytes, Bytes>) -> Option<String> {
    let lost: Vec<_> = expected.keys().filter(|key| !found.contains_key(*key)).collect();
    let wrong: Vec<_> = expected
        .iter()
        .filter(|(key, value)| found.get(*key).is_some_and(|other| other != *value))
        .map(|(key, _)| key)
        .collect();
    let invented: Vec<_> = found.keys().filter(|key| !expected.contains_key(*key)).collect();
    let kinds = [
        ("acknowledged but lost", lost),
        ("with another value than acknowledged", wrong),
        ("that nobody wrote", invented),
    ];
    let parts = kinds.iter().filter_map(|(kind, keys)| {
        let first = keys.first()?;
        Some(format!("{} keys {kind} (such as {first:?})", keys.len()))
    });
    let parts: Vec<_> = parts.collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_difference_is_seen() {
        let map = |pairs: &[(&'static str, &'static str)]| {
            pairs.iter().map(|(k, v)| (Bytes::from(*k), Bytes::from(*v))).collect()
        };
        let expected = map(&[("a", "1"), ("b", "2"), ("c", "3")]);
        assert_eq!(difference(&expected, &expected), None);
        let found = map(&[("a", "1"), ("b", "x"), ("d", "4")]);
        let difference = difference(&expected, &found).unwrap();
        assert!(
            difference.contains("1 keys acknowledged but lost (such as b\"c\")"),
            "{difference}"
        );
        assert!(difference.contains("another value than acknowledged (such as b\"b\")"));
        assert!(difference.contains("that nobody wrote (such as b\"d\")"));
    }
}
