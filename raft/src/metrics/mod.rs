//! What is counted, under the names `raft.*`, through the `metrics` facade.
//!
//! The handles are made once: at start, and those of a peer when this server first leads it. A
//! recorder installed later than the node counts nothing of it. Without a recorder each of them is a
//! branch. What is told here once for a batch or a message is told at once; marks, lags and queues
//! are looked at once a second, see `sample`.
//!
//! A gauge keeps its last value in the recorder for as long as the process lives, and the node may end
//! long before. So a figure that is not known, and every figure of a node that has ended or of a peer
//! that is not led any more, is *absent*: [`UNKNOWN`] where any number would be a statement, 0 where that
//! is what there is of it.
//!
//! The table is on [`Raft`](crate::Raft) and in `docs/metrics.md`, and a test compares.

mod busy;
mod described;

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

pub(crate) use self::busy::Busy;

use crate::{
    configuration::ServerId,
    log::Entries,
    rpc::{Message, RequestVoteReply, RequestVoteRequest},
    status::{LogMarks, PeerStatus, Role, Timeouts},
};

/// A call of the handle.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call {
    Apply,
    ApplyBatch,
    Barrier,
    VerifyLeader,
    ChangeConfiguration,
    Bootstrap,
    LeadershipTransfer,
    Snapshot,
    Restore,
    ReloadConfig,
    Status,
}

/// The names of the calls, in the order of [`Call`].
const CALLS: [&str; 11] = [
    "apply",
    "apply_batch",
    "barrier",
    "verify_leader",
    "change_configuration",
    "bootstrap",
    "leadership_transfer",
    "snapshot",
    "restore",
    "reload_config",
    "status",
];

/// The kinds of messages, in the order of [`kind`].
const KINDS: [&str; 12] = [
    "append_entries",
    "append_entries_reply",
    "heartbeat",
    "heartbeat_reply",
    "request_vote",
    "request_vote_reply",
    "request_pre_vote",
    "request_pre_vote_reply",
    "timeout_now",
    "install_snapshot",
    "install_snapshot_reply",
    "removed",
];

fn kind(message: &Message) -> usize {
    match message {
        Message::AppendEntries(_) => 0,
        Message::AppendEntriesReply(_) => 1,
        Message::Heartbeat(_) => 2,
        Message::HeartbeatReply(_) => 3,
        Message::RequestVote(RequestVoteRequest { is_pre_vote: false, .. }) => 4,
        Message::RequestVoteReply(RequestVoteReply { is_pre_vote: false, .. }) => 5,
        Message::RequestVote(_) => 6,
        Message::RequestVoteReply(_) => 7,
        Message::TimeoutNow(_) => 8,
        Message::InstallSnapshot(_) => 9,
        Message::InstallSnapshotReply(_) => 10,
        Message::Removed(_) => 11,
    }
}

const ROLES: [&str; 4] = ["follower", "pre-candidate", "candidate", "leader"];

/// The queues of a node, in the order of [`Load::queues`].
const QUEUES: [&str; 5] = ["requests", "inbox_urgent", "inbox_entries", "writes", "unapplied"];

/// The value of a gauge of which nothing is known: no index, no term, no length of time.
const UNKNOWN: f64 = f64::NAN;

fn seconds_or_unknown(time: Option<Duration>) -> f64 {
    time.map_or(UNKNOWN, |time| time.as_secs_f64())
}

/// Gauges, and what each shows while its figure is absent.
#[derive(Default)]
struct Gauges(Vec<(Gauge, f64)>);

impl Gauges {
    /// Takes note of a gauge, which is absent from now on until it is set.
    fn add(&mut self, gauge: Gauge, absent: f64) -> Gauge {
        gauge.set(absent);
        self.0.push((gauge.clone(), absent));
        gauge
    }

    fn clear(&self) {
        for (gauge, absent) in &self.0 {
            gauge.set(*absent);
        }
    }
}

/// What a look at the node has found, beside marks and peers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Requests; messages without entries; messages with them; writes not durable; entries committed
    /// and not applied.
    pub(crate) queues: [u64; QUEUES.len()],
    /// The share of time in which `run`, `run_fsm` and `run_log` were at work.
    pub(crate) saturation: [f64; 3],
    pub(crate) oldest_age: Option<Duration>,
}

/// One server's handles. The fields have the names of the metrics.
pub(crate) struct Metrics {
    server: String,
    gauges: Gauges,
    requests: [Counter; CALLS.len()],
    apply_entries: Counter,
    apply_batch_entries: Histogram,
    apply_batch_seconds: Histogram,
    propose_batch_entries: Histogram,
    commit_latency_seconds: Histogram,
    role_changes: [Counter; ROLES.len()],
    is_leader: Gauge,
    term: Gauge,
    peers: Gauge,
    last_contact_seconds: Gauge,
    election_timeouts: Counter,
    election_seconds: Histogram,
    wrong_disks: Gauge,
    leader_lease_timeouts: Counter,
    leader_write_stalls: Counter,
    leader_apply_stalls: Counter,
    log_append_batches: Histogram,
    log_append_entries: Counter,
    log_write_seconds: Histogram,
    log_compact_seconds: Histogram,
    log_first_index: Gauge,
    log_last_index: Gauge,
    log_commit_index: Gauge,
    log_applied_index: Gauge,
    log_oldest_age_seconds: Gauge,
    log_trouble: Gauge,
    fsm_restore_seconds: Histogram,
    fsm_last_restore_seconds: Gauge,
    fsm_view_seconds: Histogram,
    fsm_saturation: Gauge,
    run_saturation: Gauge,
    log_saturation: Gauge,
    queue_length: [Gauge; QUEUES.len()],
    snapshot_take_seconds: Histogram,
    snapshot_persist_seconds: Histogram,
    snapshot_persist_bytes: Counter,
    snapshot_send_seconds: Histogram,
    snapshot_sent_bytes: Counter,
    snapshot_receive_seconds: Histogram,
    snapshot_received_bytes: Counter,
    snapshot_install: Counter,
    snapshot_failures: Counter,
    messages_sent: [Counter; KINDS.len()],
    messages_received: [Counter; KINDS.len()],
    transport_send_errors: Counter,
    observer_dropped: Counter,
}

impl Metrics {
    pub(crate) fn new(id: &ServerId) -> Self {
        described::describe();
        let server = || id.as_str().to_owned();
        let counter = |name: &'static str| counter!(name, "server" => server());
        let histogram = |name: &'static str| histogram!(name, "server" => server());
        let mut gauges = Gauges::default();
        let mut gauge = |name: &'static str, absent: f64| {
            gauges.add(gauge!(name, "server" => server()), absent)
        };
        Self {
            server: server(),
            requests: CALLS.map(|of| counter!("raft.requests", "server" => server(), "call" => of)),
            apply_entries: counter("raft.apply.entries"),
            apply_batch_entries: histogram("raft.apply.batch_entries"),
            apply_batch_seconds: histogram("raft.apply.batch_seconds"),
            propose_batch_entries: histogram("raft.propose.batch_entries"),
            commit_latency_seconds: histogram("raft.commit.latency_seconds"),
            role_changes: ROLES
                .map(|of| counter!("raft.role_changes", "server" => server(), "role" => of)),
            is_leader: gauge("raft.is_leader", 0.0),
            term: gauge("raft.term", UNKNOWN),
            peers: gauge("raft.peers", UNKNOWN),
            last_contact_seconds: gauge("raft.last_contact_seconds", UNKNOWN),
            election_timeouts: counter("raft.election.timeouts"),
            election_seconds: histogram("raft.election.seconds"),
            wrong_disks: gauge("raft.wrong_disks", 0.0),
            leader_lease_timeouts: counter("raft.leader.lease_timeouts"),
            leader_write_stalls: counter("raft.leader.write_stalls"),
            leader_apply_stalls: counter("raft.leader.apply_stalls"),
            log_append_batches: histogram("raft.log.append_batches"),
            log_append_entries: counter("raft.log.append_entries"),
            log_write_seconds: histogram("raft.log.write_seconds"),
            log_compact_seconds: histogram("raft.log.compact_seconds"),
            log_first_index: gauge("raft.log.first_index", UNKNOWN),
            log_last_index: gauge("raft.log.last_index", UNKNOWN),
            log_commit_index: gauge("raft.log.commit_index", UNKNOWN),
            log_applied_index: gauge("raft.log.applied_index", UNKNOWN),
            log_oldest_age_seconds: gauge("raft.log.oldest_age_seconds", UNKNOWN),
            log_trouble: gauge("raft.log.trouble", 0.0),
            fsm_restore_seconds: histogram("raft.fsm.restore_seconds"),
            fsm_last_restore_seconds: gauge("raft.fsm.last_restore_seconds", UNKNOWN),
            fsm_view_seconds: histogram("raft.fsm.view_seconds"),
            fsm_saturation: gauge("raft.fsm.saturation", 0.0),
            run_saturation: gauge("raft.run.saturation", 0.0),
            log_saturation: gauge("raft.log.saturation", 0.0),
            queue_length: QUEUES.map(|of| {
                let length = gauge!("raft.queue.length", "server" => server(), "queue" => of);
                gauges.add(length, 0.0)
            }),
            snapshot_take_seconds: histogram("raft.snapshot.take_seconds"),
            snapshot_persist_seconds: histogram("raft.snapshot.persist_seconds"),
            snapshot_persist_bytes: counter("raft.snapshot.persist_bytes"),
            snapshot_send_seconds: histogram("raft.snapshot.send_seconds"),
            snapshot_sent_bytes: counter("raft.snapshot.sent_bytes"),
            snapshot_receive_seconds: histogram("raft.snapshot.receive_seconds"),
            snapshot_received_bytes: counter("raft.snapshot.received_bytes"),
            snapshot_install: counter("raft.snapshot.install"),
            snapshot_failures: counter("raft.snapshot.failures"),
            messages_sent: KINDS
                .map(|of| counter!("raft.messages.sent", "server" => server(), "kind" => of)),
            messages_received: KINDS
                .map(|of| counter!("raft.messages.received", "server" => server(), "kind" => of)),
            transport_send_errors: counter("raft.transport.send_errors"),
            observer_dropped: counter("raft.observer.dropped"),
            gauges,
        }
    }

    /// The handles of a peer.
    pub(crate) fn peer(&self, id: &ServerId) -> PeerMetrics {
        let server = || self.server.clone();
        let peer = || id.as_str().to_owned();
        let mut gauges = Gauges::default();
        let mut gauge = |name: &'static str, absent: f64| {
            gauges.add(gauge!(name, "server" => server(), "peer" => peer()), absent)
        };
        PeerMetrics {
            lag_entries: gauge("raft.peer.lag_entries", 0.0),
            inflight: gauge("raft.peer.inflight", 0.0),
            last_contact_seconds: gauge("raft.peer.last_contact_seconds", UNKNOWN),
            round_trip_seconds: gauge("raft.peer.round_trip_seconds", UNKNOWN),
            is_stalled: gauge("raft.peer.is_stalled", 0.0),
            applied_index: gauge("raft.peer.applied_index", UNKNOWN),
            can_serve: gauge("raft.peer.can_serve", 0.0),
            gauges,
        }
    }

    /// The node has ended, or is about to: none of its figures is there any more.
    pub(crate) fn clear(&self) {
        self.gauges.clear();
    }

    /// Counts a turn's requests.
    pub(crate) fn requests(&self, calls: impl Iterator<Item = Call>) {
        let mut counts = [0; CALLS.len()];
        for call in calls {
            if let Some(count) = counts.get_mut(call as usize) {
                *count += 1;
            }
        }
        for (counter, count) in self.requests.iter().zip(counts) {
            if count != 0 {
                counter.increment(count);
            }
        }
    }

    pub(crate) fn proposed(&self, entries: usize) {
        self.propose_batch_entries.record(entries as f64);
    }

    pub(crate) fn committed(&self, latency: Duration) {
        self.commit_latency_seconds.record(latency);
    }

    pub(crate) fn applied(&self, parts: &[Entries], took: Option<Duration>) {
        let entries = parts.iter().map(|part| part.len()).sum::<usize>();
        self.apply_entries.increment(entries as u64);
        self.apply_batch_entries.record(entries as f64);
        if let Some(took) = took {
            self.apply_batch_seconds.record(took);
        }
    }

    pub(crate) fn log_append(&self, batches: &[Entries]) {
        let entries = batches.iter().map(|batch| batch.len()).sum::<usize>();
        self.log_append_batches.record(batches.len() as f64);
        self.log_append_entries.increment(entries as u64);
    }

    pub(crate) fn log_written(&self, took: Option<Duration>) {
        if let Some(took) = took {
            self.log_write_seconds.record(took);
        }
    }

    pub(crate) fn log_compacted(&self, took: Duration) {
        self.log_compact_seconds.record(took);
    }

    pub(crate) fn role_changed(&self, role: Role) {
        // At once: for a second after each election two servers would seem to lead.
        self.is_leader.set(f64::from(u8::from(role == Role::Leader)));
        let [follower, pre_candidate, candidate, leader] = &self.role_changes;
        let counter = match role {
            Role::Follower => follower,
            Role::PreCandidate => pre_candidate,
            Role::Candidate => candidate,
            Role::Leader => leader,
        };
        counter.increment(1);
    }

    pub(crate) fn elected(&self, took: Duration) {
        self.election_seconds.record(took);
    }

    pub(crate) fn sent(&self, message: &Message) {
        if let Some(counter) = self.messages_sent.get(kind(message)) {
            counter.increment(1);
        }
    }

    pub(crate) fn received(&self, message: &Message) {
        if let Some(counter) = self.messages_received.get(kind(message)) {
            counter.increment(1);
        }
    }

    pub(crate) fn send_failed(&self) {
        self.transport_send_errors.increment(1);
    }

    pub(crate) fn view_taken(&self, took: Duration) {
        self.fsm_view_seconds.record(took);
    }

    pub(crate) fn restored(&self, took: Duration) {
        self.fsm_restore_seconds.record(took);
        self.fsm_last_restore_seconds.set(took.as_secs_f64());
    }

    pub(crate) fn installed(&self) {
        self.snapshot_install.increment(1);
    }

    pub(crate) fn snapshot_taken(&self, took: Duration) {
        self.snapshot_take_seconds.record(took);
    }

    pub(crate) fn snapshot_failed(&self) {
        self.snapshot_failures.increment(1);
    }

    pub(crate) fn persisted(&self, bytes: u64, took: Duration) {
        self.snapshot_persist_bytes.increment(bytes);
        self.snapshot_persist_seconds.record(took);
    }

    pub(crate) fn snapshot_sent(&self, bytes: u64) {
        self.snapshot_sent_bytes.increment(bytes);
    }

    pub(crate) fn snapshot_delivered(&self, took: Duration) {
        self.snapshot_send_seconds.record(took);
    }

    pub(crate) fn snapshot_received(&self, bytes: u64) {
        self.snapshot_received_bytes.increment(bytes);
    }

    pub(crate) fn snapshot_complete(&self, took: Duration) {
        self.snapshot_receive_seconds.record(took);
    }

    /// Where the log stands.
    pub(crate) fn marks(&self, marks: &LogMarks) {
        self.log_first_index.set(marks.first.0 as f64);
        self.log_last_index.set(marks.last.0 as f64);
        self.log_commit_index.set(marks.committed.0 as f64);
        self.log_applied_index.set(marks.applied.0 as f64);
    }

    /// In which term this server is, among how many others, and since when it has not heard from its
    /// leader.
    pub(crate) fn part(&self, term: u64, peers: usize, silence: Option<Duration>) {
        self.term.set(term as f64);
        self.peers.set(peers as f64);
        self.last_contact_seconds.set(seconds_or_unknown(silence));
    }

    pub(crate) fn wrong_disks(&self, count: usize) {
        self.wrong_disks.set(count as f64);
    }

    /// What was waited for in vain since the last time, and how many observations were lost.
    pub(crate) fn lost(&self, timeouts: Timeouts, observations: u64) {
        let counters = [
            (&self.election_timeouts, timeouts.election),
            (&self.leader_lease_timeouts, timeouts.lease),
            (&self.leader_write_stalls, timeouts.write_stall),
            (&self.leader_apply_stalls, timeouts.apply_stall),
            (&self.observer_dropped, observations),
        ];
        for (counter, count) in counters.into_iter().filter(|(_, count)| *count != 0) {
            counter.increment(count);
        }
    }

    pub(crate) fn log_trouble(&self, is_in_trouble: bool) {
        self.log_trouble.set(f64::from(u8::from(is_in_trouble)));
    }

    pub(crate) fn load(&self, load: &Load) {
        for (gauge, length) in self.queue_length.iter().zip(load.queues) {
            gauge.set(length as f64);
        }
        let gauges = [&self.run_saturation, &self.fsm_saturation, &self.log_saturation];
        for (gauge, share) in gauges.into_iter().zip(load.saturation) {
            gauge.set(share);
        }
        self.log_oldest_age_seconds.set(seconds_or_unknown(load.oldest_age));
    }
}

/// The handles of one peer of a leader. Dropped when this server leads it no more, which clears them.
pub(crate) struct PeerMetrics {
    gauges: Gauges,
    lag_entries: Gauge,
    inflight: Gauge,
    last_contact_seconds: Gauge,
    round_trip_seconds: Gauge,
    is_stalled: Gauge,
    applied_index: Gauge,
    can_serve: Gauge,
}

impl PeerMetrics {
    pub(crate) fn show(&self, status: &PeerStatus) {
        self.lag_entries.set(status.lag_entries as f64);
        self.inflight.set(status.inflight as f64);
        self.last_contact_seconds.set(status.last_contact.as_secs_f64());
        self.round_trip_seconds.set(seconds_or_unknown(status.round_trip));
        self.is_stalled.set(f64::from(u8::from(status.is_stalled)));
        self.applied_index.set(status.applied_index.0 as f64);
        self.can_serve.set(f64::from(u8::from(status.can_serve)));
    }
}

impl Drop for PeerMetrics {
    fn drop(&mut self) {
        self.gauges.clear();
    }
}
