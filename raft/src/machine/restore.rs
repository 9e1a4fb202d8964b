//! How a state machine gets the state of a snapshot before its node runs.

use super::{Host, Watched};
use crate::{
    error::{RestoreFailure, StartError},
    fsm::Fsm,
    position::LogIndex,
    snapshot::{SnapshotMeta, SnapshotReader, SnapshotStore},
};

/// Restores the newest of these snapshots that can be restored. A state machine that has kept by
/// itself what was applied up to `kept` is spared what it has; a restore takes that from it.
pub(crate) async fn restore_snapshot<F: Fsm>(
    host: &mut Host<F>,
    kept: &mut Option<LogIndex>,
    store: &dyn SnapshotStore,
    snapshots: Vec<SnapshotMeta>,
) -> Result<Option<SnapshotMeta>, StartError> {
    let mut newest_failed = None;
    let mut tried = 0;
    for meta in snapshots {
        let failure = match store.open(&meta.id).await {
            Ok((meta, _)) if kept.is_some_and(|kept| meta.last.index <= kept) => {
                return Ok(Some(meta));
            }
            Ok((meta, reader)) => {
                *kept = None;
                match restore_from(host, &meta, reader).await {
                    Ok(()) => return Ok(Some(meta)),
                    Err(failure) => failure,
                }
            }
            Err(error) => error.into(),
        };
        tracing::warn!(id = %meta.id, last = %meta.last, %failure, "cannot restore a snapshot");
        newest_failed.get_or_insert(failure);
        tried += 1;
    }
    match newest_failed {
        Some(reason) => Err(StartError::Snapshot { tried, reason }),
        None => Ok(None),
    }
}

async fn restore_from<F: Fsm>(
    host: &mut Host<F>,
    meta: &SnapshotMeta,
    reader: SnapshotReader,
) -> Result<(), RestoreFailure> {
    let (reader, failure) = Watched::new(reader);
    let restored = match host.restore(Box::new(reader)).await {
        Ok(restored) => restored,
        // Nothing runs yet that could be told of it: the caller of `Raft::new` is.
        Err(panic) => std::panic::resume_unwind(panic.0),
    };
    failure.check(|| format!("cannot read snapshot {}", meta.id))?;
    restored.map_err(|error| RestoreFailure::Fsm { reason: error.to_string() })?;
    let configuration = meta.configuration.clone();
    match host.call(move |fsm| fsm.configuration_changed(&configuration)).await {
        Ok(()) => Ok(()),
        Err(panic) => std::panic::resume_unwind(panic.0),
    }
}
