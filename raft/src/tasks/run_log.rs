//! `run_log`: the only task that writes to a disk.
//!
//! It takes everything that waits in its queue, boils it down to at most one hard state, one reset,
//! one truncation and one append, carries these out in this order, and reports **one** completion:
//! that of the newest write, which stands for all before it. While a sync is under way the next
//! batch gathers by itself, which is all the group commit there is. A compaction comes last, after
//! the completion was reported, because nobody waits for it; a reset that has overtaken it has
//! removed the same entries and more.
//!
//! A write that fails ends the node (law 7): what is on disk is unknown then, and trying again
//! could only hide it.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::shared::Shared;
use crate::{
    consensus::{Write, WriteId},
    error::Fatal,
    log::{Entries, LogStore, LogWrite},
    log_tail::Stamp,
    metrics::Metrics,
    position::LogIndex,
    stable::{DiskIdentity, HardState, StableStore},
    store_error::StoreError,
};

/// Requests taken from the queue at once at most.
const REQUESTS_MAX: usize = 256;

/// What `run_log` is asked to do, in order.
pub(super) enum LogRequest {
    /// Make this durable and report it.
    Write(Queued),
    /// Remove every entry up to here.
    Compact { through: LogIndex },
    /// The disk is an older copy, and the node ends: make it another one than the one it was.
    ChangeIncarnation(u64),
}

/// A write of the core, and what it amounts to for the log's tail.
pub(super) struct Queued {
    pub(super) write: Write,
    pub(super) stamp: Stamp,
}

pub(super) struct RunLog {
    pub(super) log_store: Box<dyn LogStore>,
    pub(super) stable_store: Box<dyn StableStore>,
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Arc<Metrics>,
}

impl RunLog {
    /// Makes the disk that of a stranger.
    async fn change_incarnation(&mut self, incarnation: u64) -> Result<(), StoreError> {
        match self.stable_store.disk_identity().await? {
            Some(known) => {
                let identity = DiskIdentity { incarnation, was_rolled_back: true, ..known };
                self.stable_store.save_disk_identity(&identity).await
            }
            None => Ok(()),
        }
    }

    /// Runs until `run` is gone. What is queued by then is still written: it costs one write more,
    /// and saves the next start from asking its peers for it.
    pub(super) async fn run(
        mut self,
        mut queue: mpsc::UnboundedReceiver<LogRequest>,
    ) -> Result<(), Fatal> {
        let mut taken = Vec::new();
        let mut batch = Batch::default();
        while queue.recv_many(&mut taken, REQUESTS_MAX).await != 0 {
            let mut newest = None;
            let mut compacted = None;
            for request in taken.drain(..) {
                match request {
                    LogRequest::Write(Queued { write, stamp }) => {
                        newest = Some((write.id, stamp));
                        batch.add(write);
                    }
                    LogRequest::Compact { through } => compacted = compacted.max(Some(through)),
                    LogRequest::ChangeIncarnation(incarnation) => {
                        if let Err(error) = self.change_incarnation(incarnation).await {
                            let server = &self.shared.id;
                            tracing::error!(
                                %server, %error,
                                "the disk stays that of the member it was: do not start from it again"
                            );
                        }
                        // What is written from now on is of no use to anybody.
                        return Ok(());
                    }
                }
            }
            if let Some((id, stamp)) = newest {
                self.shared.tail.in_progress(stamp);
                self.shared.log_busy.begin(|| self.shared.clock.now());
                self.write(&mut batch).await.map_err(Fatal::Store)?;
                self.metrics.log_written(self.shared.log_busy.end(|| self.shared.clock.now()));
                self.written(id, stamp);
            }
            if let Some(through) = compacted {
                self.shared.log_busy.begin_timed(self.shared.clock.now());
                self.log_store.truncate_prefix(through).await.map_err(Fatal::Store)?;
                let took = self.shared.log_busy.end(|| self.shared.clock.now());
                self.metrics.log_compacted(took.unwrap_or_default());
            }
        }
        Ok(())
    }

    async fn write(&mut self, batch: &mut Batch) -> Result<(), StoreError> {
        let mut hard_state = batch.hard_state.take();
        let medium = self.stable_store.medium();
        if medium.is_none() || medium != self.log_store.medium() {
            // The term first: a log may hold entries of no later one.
            if let Some(hard_state) = hard_state.take() {
                self.stable_store.save_hard_state(&hard_state).await?;
            }
        }
        let (is_reset, truncate_from) =
            (std::mem::take(&mut batch.is_reset), batch.truncate_from.take());
        self.log_store.note_commit(batch.commit_index);
        if !batch.entries.is_empty() {
            self.metrics.log_append(&batch.entries);
        }
        let (hard_state, entries) = (hard_state.as_ref(), &batch.entries);
        self.log_store.write(LogWrite { hard_state, is_reset, truncate_from, entries }).await?;
        batch.entries.clear();
        Ok(())
    }

    fn written(&self, id: WriteId, stamp: Stamp) {
        self.shared.tail.written(stamp);
        self.shared.signals.written(id);
    }
}

/// Several writes as one.
#[derive(Debug, Default, PartialEq, Eq)]
struct Batch {
    /// The newest. An older one of the same batch was never promised to anybody.
    hard_state: Option<HardState>,
    /// Whether what the store holds is to be removed, all of it.
    is_reset: bool,
    /// The lowest: what lies behind it and was not appended by this batch.
    truncate_from: Option<LogIndex>,
    /// What is appended after the truncation.
    entries: Vec<Entries>,
    /// The newest. Kept from batch to batch: it never falls.
    commit_index: LogIndex,
}

impl Batch {
    fn add(&mut self, write: Write) {
        if write.hard_state.is_some() {
            self.hard_state = write.hard_state;
        }
        self.commit_index = self.commit_index.max(write.commit_index);
        if write.reset_to.is_some() {
            // What this batch did to the log before, it did in vain.
            self.is_reset = true;
            self.truncate_from = None;
            self.entries.clear();
        }
        if let Some(from) = write.truncate_from {
            self.truncate(from);
        }
        if !write.entries.is_empty() {
            self.entries.push(write.entries);
        }
    }

    /// Takes back what this batch would have appended; what is left to cut is in the store.
    fn truncate(&mut self, from: LogIndex) {
        let first_index = |entries: &Entries| entries.first().map(|entry| entry.index);
        while self
            .entries
            .pop_if(|entries| first_index(entries).is_none_or(|i| from <= i))
            .is_some()
        {}
        match self.entries.last_mut() {
            Some(entries) => *entries = entries.within(LogIndex::ZERO..=from.prev()),
            None if self.is_reset => {}
            None => {
                let lowest = self.truncate_from.map_or(from, |lowest| lowest.min(from));
                self.truncate_from = Some(lowest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        log::{Entry, EntryPayload},
        position::{LogId, Term},
    };

    fn entries(ids: &[(u64, u64)]) -> Entries {
        let entry = |&(term, index): &(u64, u64)| {
            let LogId { term, index } = LogId::new(term, index);
            Entry { term, index, payload: EntryPayload::Noop }
        };
        ids.iter().map(entry).collect::<Vec<_>>().into()
    }

    fn write(truncate_from: Option<u64>, ids: &[(u64, u64)]) -> Write {
        Write {
            id: WriteId(0),
            hard_state: None,
            reset_to: None,
            truncate_from: truncate_from.map(LogIndex),
            entries: entries(ids),
            commit_index: LogIndex::ZERO,
        }
    }

    fn batch(writes: impl IntoIterator<Item = Write>) -> Batch {
        let mut batch = Batch::default();
        writes.into_iter().for_each(|write| batch.add(write));
        batch
    }

    #[test]
    fn appends_are_passed_on_as_they_came() {
        let batch = batch([write(None, &[(1, 1), (1, 2)]), write(None, &[(1, 3)])]);
        assert_eq!(batch.entries, [entries(&[(1, 1), (1, 2)]), entries(&[(1, 3)])]);
        assert_eq!(batch.truncate_from, None);
    }

    #[test]
    fn the_newest_hard_state_wins() {
        let hard_state = |term| HardState { current_term: Term(term), voted_for: None };
        let mut older = write(None, &[]);
        older.hard_state = Some(hard_state(1));
        let mut newer = write(None, &[]);
        newer.hard_state = Some(hard_state(2));
        let batch = batch([older, newer, write(None, &[(2, 1)])]);
        assert_eq!(batch.hard_state, Some(hard_state(2)));
    }

    #[test]
    fn a_truncation_of_what_the_batch_appends_touches_no_disk() {
        let batch = batch([write(None, &[(1, 1), (1, 2)]), write(Some(2), &[(2, 2)])]);
        assert_eq!(batch.entries, [entries(&[(1, 1)]), entries(&[(2, 2)])]);
        assert_eq!(batch.truncate_from, None);
    }

    #[test]
    fn the_lowest_truncation_of_the_store_wins() {
        let batch = batch([
            write(Some(8), &[(2, 8)]),
            write(Some(5), &[(3, 5)]),
            write(Some(6), &[(4, 6)]),
        ]);
        assert_eq!(batch.truncate_from, Some(LogIndex(5)));
        assert_eq!(batch.entries, [entries(&[(3, 5)]), entries(&[(4, 6)])]);
    }

    fn reset(index: u64) -> Write {
        Write { reset_to: Some(LogIndex(index)), ..write(None, &[]) }
    }

    #[test]
    fn a_reset_voids_what_the_batch_did_before() {
        let batch = batch([
            write(Some(8), &[(2, 8), (2, 9)]),
            reset(20),
            write(None, &[(3, 21), (3, 22)]),
            write(Some(22), &[(4, 22)]),
        ]);
        assert!(batch.is_reset);
        assert_eq!(batch.truncate_from, None);
        assert_eq!(batch.entries, [entries(&[(3, 21)]), entries(&[(4, 22)])]);
    }

    #[test]
    fn a_truncation_after_a_reset_touches_no_disk() {
        let batch = batch([reset(20), write(None, &[(3, 21)]), write(Some(21), &[(4, 21)])]);
        assert!(batch.is_reset);
        assert_eq!(batch.truncate_from, None);
        assert_eq!(batch.entries, [entries(&[(4, 21)])]);
    }

    #[test]
    fn the_newest_commit_index_wins() {
        let mut newer = write(None, &[(1, 2)]);
        newer.commit_index = LogIndex(1);
        assert_eq!(batch([write(None, &[(1, 1)]), newer]).commit_index, LogIndex(1));
    }

    #[test]
    fn a_truncation_at_the_end_of_the_batch_alone_is_kept() {
        let batch = batch([write(None, &[(1, 4)]), write(Some(3), &[])]);
        assert_eq!(batch.truncate_from, Some(LogIndex(3)));
        assert_eq!(batch.entries, []);
    }
}
