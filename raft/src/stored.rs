//! What the stores of a server hold while it does not run: its log, read in steps, and the snapshots that
//! count beside it.

use crate::{
    log::{Entries, LogReader},
    position::{LogId, LogIndex},
    snapshot::{SnapshotMeta, SnapshotStore},
    store_error::StoreError,
};

/// What is read of the log at once, in bytes.
const STEP_BYTES: u64 = 8 << 20;

/// A log, from one index to another, in steps that fit into memory.
pub(crate) struct LogScan<'a> {
    reader: &'a dyn LogReader,
    next: LogIndex,
    last: LogIndex,
}

impl<'a> LogScan<'a> {
    /// From `first` to `last`; nothing if that is before it.
    pub(crate) fn new(reader: &'a dyn LogReader, first: LogIndex, last: LogIndex) -> Self {
        Self { reader, next: first, last }
    }

    /// The next entries, at least one; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Entries>, StoreError> {
        let (first, last) = (self.next, self.last);
        if last < first {
            return Ok(None);
        }
        let entries = self.reader.read(first..=last, STEP_BYTES).await?;
        if entries.first().is_none_or(|entry| entry.index != first) {
            let reason = "the store did not return the entry it was asked for";
            return Err(StoreError::corrupt(format!("log entry {first}"), reason));
        }
        self.next = first.plus(entries.len());
        Ok(Some(entries))
    }
}

/// The finished snapshots, newest first; and apart from them those that are void. Of a snapshot and a
/// log that contradict each other, one was to take the place of the other. If the log ends in a later
/// term than the snapshot, it is the log that counts: the crash came before it was reset, and it may
/// hold what was committed meanwhile, if a restore made the snapshot and came to nothing.
pub(crate) async fn usable_snapshots(
    reader: &dyn LogReader,
    store: &dyn SnapshotStore,
) -> Result<(Vec<SnapshotMeta>, Vec<SnapshotMeta>), StoreError> {
    let snapshots = store.list().await?;
    let Some((first, last)) = reader.bounds().await? else { return Ok((snapshots, Vec::new())) };
    let end = id_at(reader, last).await?.unwrap_or_default();
    let (mut usable, mut void) = (Vec::new(), Vec::new());
    for meta in snapshots {
        let is_older = meta.last.term < end.term;
        let is_void = is_older && contradicts(reader, (first, last), meta.last).await?;
        if is_void { void.push(meta) } else { usable.push(meta) }
    }
    Ok((usable, void))
}

/// Whether the log is not the one that the snapshot was taken of: it ends before the snapshot does,
/// or has another entry where the snapshot ends.
pub(crate) async fn contradicts(
    reader: &dyn LogReader,
    (first, last): (LogIndex, LogIndex),
    snapshot: LogId,
) -> Result<bool, StoreError> {
    let index = snapshot.index;
    if last < first || index < first {
        return Ok(false);
    }
    if last < index {
        return Ok(true);
    }
    Ok(id_at(reader, index).await? != Some(snapshot))
}

/// The entry at `index`, which is within the log.
pub(crate) async fn id_at(
    reader: &dyn LogReader,
    index: LogIndex,
) -> Result<Option<LogId>, StoreError> {
    let entries = LogScan::new(reader, index, index).next().await?;
    Ok(entries.and_then(|entries| entries.last_id()))
}

/// The entries after the snapshot that was restored are neither all in the log nor in a usable
/// snapshot. To start without them could forget what was acknowledged (law 7).
pub(crate) fn gap(snapshot: LogId, newest: LogId) -> StoreError {
    let what = format!("the log after snapshot {snapshot}");
    let reason = format!(
        "entries are missing that only a newer snapshot stands for (the newest known is {newest}) \
         and none such can be used; mend the snapshot, or set the server up anew from its peers"
    );
    StoreError::corrupt(what, reason)
}

/// Whether a snapshot is of an earlier term than the newest one, which cannot be used, and yet of no
/// earlier index: then it never counted.
pub(crate) fn is_replaced(snapshot: LogId, newest: LogId) -> bool {
    snapshot.term < newest.term && newest.index <= snapshot.index
}
