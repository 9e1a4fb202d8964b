//! What is counted, under the names `raft.*`, through the `metrics` facade.
//!
//! The handles are made once, at start: a recorder installed later than the node counts nothing of
//! it. Without a recorder each of them is a branch.
//! The table is on [`Raft`](crate::Raft).

use std::time::Duration;

use metrics::{Counter, Histogram, counter, histogram};

use crate::{configuration::ServerId, log::Entries};

#[derive(Clone)]
pub(super) struct Metrics {
    requests: Counter,
    applied_entries: Counter,
    applied_batch: Histogram,
    proposed_batch: Histogram,
    commit_latency: Histogram,
    append_batches: Histogram,
    append_entries: Counter,
    role_changes: Counter,
    send_errors: Counter,
    snapshot_take: Histogram,
    snapshot_persisted: Counter,
    snapshot_sent: Counter,
    snapshot_received: Counter,
    snapshot_installs: Counter,
}

impl Metrics {
    pub(super) fn new(id: &ServerId) -> Self {
        let server = || id.as_str().to_owned();
        Self {
            requests: counter!("raft.apply.requests", "server" => server()),
            applied_entries: counter!("raft.apply.entries", "server" => server()),
            applied_batch: histogram!("raft.apply.batch_entries", "server" => server()),
            proposed_batch: histogram!("raft.propose.batch_entries", "server" => server()),
            commit_latency: histogram!("raft.commit.latency_seconds", "server" => server()),
            append_batches: histogram!("raft.log.append_batches", "server" => server()),
            append_entries: counter!("raft.log.append_entries", "server" => server()),
            role_changes: counter!("raft.role_changes", "server" => server()),
            send_errors: counter!("raft.transport.send_errors", "server" => server()),
            snapshot_take: histogram!("raft.snapshot.take_seconds", "server" => server()),
            snapshot_persisted: counter!("raft.snapshot.persist_bytes", "server" => server()),
            snapshot_sent: counter!("raft.snapshot.sent_bytes", "server" => server()),
            snapshot_received: counter!("raft.snapshot.received_bytes", "server" => server()),
            snapshot_installs: counter!("raft.snapshot.install", "server" => server()),
        }
    }

    pub(super) fn requests(&self, count: usize) {
        self.requests.increment(count as u64);
    }

    pub(super) fn proposed(&self, entries: usize) {
        self.proposed_batch.record(entries as f64);
    }

    pub(super) fn committed(&self, latency: Duration) {
        self.commit_latency.record(latency);
    }

    pub(super) fn applied(&self, parts: &[Entries]) {
        let entries = parts.iter().map(|part| part.len()).sum::<usize>();
        self.applied_entries.increment(entries as u64);
        self.applied_batch.record(entries as f64);
    }

    pub(super) fn log_append(&self, batches: &[Entries]) {
        let entries = batches.iter().map(|batch| batch.len()).sum::<usize>();
        self.append_batches.record(batches.len() as f64);
        self.append_entries.increment(entries as u64);
    }

    pub(super) fn role_changed(&self) {
        self.role_changes.increment(1);
    }

    pub(super) fn send_failed(&self) {
        self.send_errors.increment(1);
    }

    pub(super) fn snapshot_taken(&self, took: Duration) {
        self.snapshot_take.record(took);
    }

    pub(super) fn persisted(&self, bytes: u64) {
        self.snapshot_persisted.increment(bytes);
    }

    pub(super) fn snapshot_sent(&self, bytes: u64) {
        self.snapshot_sent.increment(bytes);
    }

    pub(super) fn snapshot_received(&self, bytes: u64) {
        self.snapshot_received.increment(bytes);
    }

    pub(super) fn installed(&self) {
        self.snapshot_installs.increment(1);
    }
}
