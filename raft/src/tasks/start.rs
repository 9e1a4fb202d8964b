//! What a server does before it starts: it reads back what it has saved.

use crate::{
    configuration::IndexedConfiguration,
    consensus::Saved,
    error::{StartError, StoreError},
    fsm::{Fsm, FsmError},
    log::{LogId, LogIndex, LogReader, LogStore},
    snapshot::{SnapshotMeta, SnapshotReader, SnapshotStore},
    stable::{HardState, StableStore},
};

/// What is read of the log at once.
const SCAN_BYTES: u64 = 8 << 20;

/// What was found in the stores.
pub(super) struct Restored<F> {
    /// The state machine in the state of the snapshot, or as it was given.
    pub(super) fsm: F,
    pub(super) hard_state: HardState,
    pub(super) saved: Saved,
    /// The last entry the state machine has seen.
    pub(super) snapshot: LogId,
    /// The configuration at that entry.
    pub(super) configuration: IndexedConfiguration,
    /// The first and last index of the log.
    pub(super) bounds: (LogIndex, LogIndex),
}

/// Reads term and vote, the newest usable snapshot, and the log.
pub(super) async fn restore<F: Fsm>(
    fsm: F,
    log_store: &mut impl LogStore,
    stable_store: &mut impl StableStore,
    snapshot_store: &dyn SnapshotStore,
) -> Result<Restored<F>, StartError> {
    let hard_state = stable_store.hard_state().await?.unwrap_or_default();
    let (fsm, meta, newest) = restore_snapshot(fsm, snapshot_store).await?;
    let (snapshot, configuration) =
        meta.map(|meta| (meta.last, meta.configuration)).unwrap_or_default();
    let mut saved = Saved::new(hard_state.clone(), snapshot, configuration.clone());
    let reader = log_store.reader();
    let empty = (snapshot.index.next(), snapshot.index);
    let (mut first, mut last) = reader.bounds().await?.unwrap_or(empty);
    if snapshot.index.next() < first || last.max(snapshot.index) < newest.index {
        return Err(gap(snapshot, newest).into());
    }
    if last < snapshot.index {
        // The snapshot stands for all of it, and what follows the snapshot would leave a gap.
        log_store.truncate_prefix(snapshot.index).await?;
        (first, last) = empty;
    }
    scan(&*reader, (first, last), &mut saved).await?;
    let newest = saved.last();
    if hard_state.current_term < newest.term {
        let reason = format!(
            "the log ends with {newest}: the two stores do not belong together, or the term was \
             lost; use the stores this server ran with, or set it up anew from its peers"
        );
        let what = format!("the saved term {}", hard_state.current_term);
        return Err(StoreError::corrupt(what, reason).into());
    }
    Ok(Restored { fsm, hard_state, saved, snapshot, configuration, bounds: (first, last) })
}

/// The entries after the snapshot that was restored are neither all in the log nor in a usable
/// snapshot. To start without them could forget what was acknowledged (law 7).
pub(super) fn gap(snapshot: LogId, newest: LogId) -> StoreError {
    let what = format!("the log after snapshot {snapshot}");
    let reason = format!(
        "entries are missing that only a newer snapshot stands for (the newest known is {newest}) \
         and none such can be used; mend the snapshot, or set the server up anew from its peers"
    );
    StoreError::corrupt(what, reason)
}

/// Restores the newest snapshot that can be restored, and says what the newest one of all covers.
pub(super) async fn restore_snapshot<F: Fsm>(
    mut fsm: F,
    store: &dyn SnapshotStore,
) -> Result<(F, Option<SnapshotMeta>, LogId), StartError> {
    let mut newest_failed = None;
    let mut tried = 0;
    let snapshots = store.list().await?;
    let newest = snapshots.iter().map(|meta| meta.last).max().unwrap_or_default();
    for meta in snapshots {
        let failure = match store.open(&meta.id).await {
            Ok((meta, reader)) => match restore_from(fsm, reader).await {
                (restored, Ok(())) => return Ok((restored, Some(meta), newest)),
                (restored, Err(error)) => {
                    fsm = restored;
                    error.to_string()
                }
            },
            Err(error) => error.to_string(),
        };
        tracing::warn!(id = %meta.id, last = %meta.last, %failure, "cannot restore a snapshot");
        newest_failed.get_or_insert(failure);
        tried += 1;
    }
    match newest_failed {
        Some(reason) => Err(StartError::Snapshot { tried, reason }),
        None => Ok((fsm, None, newest)),
    }
}

async fn restore_from<F: Fsm>(mut fsm: F, reader: SnapshotReader) -> (F, Result<(), FsmError>) {
    if !fsm.is_blocking() {
        let result = fsm.restore(reader).await;
        return (fsm, result);
    }
    let runtime = tokio::runtime::Handle::current();
    let restoring = tokio::task::spawn_blocking(move || {
        let result = runtime.block_on(fsm.restore(reader));
        (fsm, result)
    });
    match restoring.await {
        Ok(restored) => restored,
        // Nothing runs yet that could be told of it: the caller of `Raft::new` is.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(cancelled) => panic!("the runtime ended during a restore: {cancelled}"),
        },
    }
}

/// Shows the core every entry of the log.
async fn scan(
    reader: &dyn LogReader,
    (first, last): (LogIndex, LogIndex),
    saved: &mut Saved,
) -> Result<(), StartError> {
    let mut next = first;
    while next <= last {
        let entries = reader.read(next..=last, SCAN_BYTES).await?;
        let Some(end) = entries.last_id().filter(|_| entries[0].index == next) else {
            let reason = "the store did not return the entry it was asked for";
            return Err(StoreError::corrupt(format!("log entry {next}"), reason).into());
        };
        saved.push(&entries);
        next = end.index.next();
    }
    Ok(())
}
