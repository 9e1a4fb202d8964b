//! The published state: what the getters of the handle show.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    configuration::IndexedConfiguration,
    consensus::{Consensus, Time},
    error::Leader,
    position::{LogId, Term},
    status::{Role, SnapshotProgress},
};

const NEVER: u64 = u64::MAX;

/// The newest snapshot that counts here.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KnownSnapshot {
    /// The last entry covered by it.
    pub(super) last: LogId,
    /// When it became durable, if it was while this server ran.
    pub(super) since: Option<Time>,
    pub(super) size_bytes: Option<u64>,
    /// A snapshot that may be the next, and its size.
    coming: Option<(LogId, u64)>,
}

/// What the getters of the handle show beside the marks of the log. Written by `run` only, when it
/// changes, except where it says otherwise.
pub(crate) struct Published {
    role: AtomicU8,
    term: AtomicU64,
    /// When this server last heard from its leader, in microseconds of the node's clock.
    contact: AtomicU64,
    leader: watch::Sender<Option<Leader>>,
    configuration: Mutex<Arc<IndexedConfiguration>>,
    snapshot: Mutex<KnownSnapshot>,
    /// How long the last restore of the state machine took, in microseconds.
    last_restore: AtomicU64,
    /// What [`Consensus::appended_bytes`] says.
    appended_bytes: AtomicU64,
    /// Written by `run_snapshots` and by `receive_snapshot`, each its own.
    pub(super) persisting: Mutex<Option<SnapshotProgress>>,
    pub(super) receiving: Mutex<Option<SnapshotProgress>>,
}

impl Published {
    pub(super) fn new(term: Term) -> Self {
        Self {
            role: AtomicU8::new(0),
            term: AtomicU64::new(term.0),
            contact: AtomicU64::new(NEVER),
            leader: watch::Sender::new(None),
            configuration: Mutex::new(Arc::default()),
            snapshot: Mutex::default(),
            last_restore: AtomicU64::new(NEVER),
            appended_bytes: AtomicU64::new(0),
            persisting: Mutex::default(),
            receiving: Mutex::default(),
        }
    }

    /// Shows the state a server starts in.
    pub(super) fn publish_start(&self, core: &Consensus, now: Time) {
        self.publish_configuration(core.latest_configuration());
        self.publish_snapshot(core.snapshot(), None);
        self.publish(core, now);
    }

    /// Shows what the core says now: a handful of plain stores.
    pub(super) fn publish(&self, core: &Consensus, now: Time) {
        self.role.store(code(core.role()), Ordering::Release);
        self.term.store(core.term().0, Ordering::Release);
        self.appended_bytes.store(core.appended_bytes(), Ordering::Relaxed);
        let contact = core.last_contact(now).map_or(NEVER, |ago| {
            now.0.saturating_sub(u64::try_from(ago.as_micros()).unwrap_or(u64::MAX))
        });
        self.contact.store(contact, Ordering::Relaxed);
        self.publish_snapshot(core.snapshot(), Some(now));
    }

    /// Shows that this server leads nobody and follows nobody any more: whoever acts on its
    /// leadership must learn that it is over, also when it ended with a panic.
    pub(super) fn publish_end(&self) {
        self.role.store(code(Role::Follower), Ordering::Release);
        self.publish_leader(None);
    }

    pub(super) fn publish_leader(&self, leader: Option<Leader>) {
        self.leader.send_if_modified(|known| {
            let is_changed = *known != leader;
            *known = leader;
            is_changed
        });
    }

    pub(super) fn publish_configuration(&self, configuration: &IndexedConfiguration) {
        *self.configuration.lock() = Arc::new(configuration.clone());
    }

    /// `since` is when it became durable, if this process has seen it.
    fn publish_snapshot(&self, last: LogId, since: Option<Time>) {
        let mut known = self.snapshot.lock();
        if known.last != last {
            let size_bytes = known.coming.filter(|(coming, _)| *coming == last).map(|it| it.1);
            *known = KnownSnapshot { last, since, size_bytes, coming: None };
        }
    }

    /// Shows how large the snapshot that ends with `last` is, also before it is the newest.
    pub(super) fn publish_snapshot_size(&self, last: LogId, size_bytes: u64) {
        let mut known = self.snapshot.lock();
        if known.last == last {
            known.size_bytes = Some(size_bytes);
        } else {
            known.coming = Some((last, size_bytes));
        }
    }

    pub(super) fn publish_restore(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX - 1);
        self.last_restore.store(micros, Ordering::Relaxed);
    }

    pub(super) fn last_restore(&self) -> Option<Duration> {
        let micros = self.last_restore.load(Ordering::Relaxed);
        (micros != NEVER).then(|| Duration::from_micros(micros))
    }

    pub(crate) fn role(&self) -> Role {
        match self.role.load(Ordering::Acquire) {
            1 => Role::PreCandidate,
            2 => Role::Candidate,
            3 => Role::Leader,
            _ => Role::Follower,
        }
    }

    pub(crate) fn term(&self) -> Term {
        Term(self.term.load(Ordering::Acquire))
    }

    /// How long ago this server heard from its leader: zero on a leader, `None` if it never did.
    pub(super) fn last_contact(&self, now: Time) -> Option<Duration> {
        if self.role() == Role::Leader {
            return Some(Duration::ZERO);
        }
        let contact = self.contact.load(Ordering::Relaxed);
        (contact != NEVER).then(|| now.since(Time(contact)))
    }

    pub(crate) fn leader(&self) -> Option<Leader> {
        self.leader.borrow().clone()
    }

    pub(crate) fn leader_changes(&self) -> watch::Receiver<Option<Leader>> {
        self.leader.subscribe()
    }

    pub(crate) fn configuration(&self) -> Arc<IndexedConfiguration> {
        Arc::clone(&self.configuration.lock())
    }

    /// The last entry covered by the newest snapshot that counts here, taken or installed.
    pub(crate) fn snapshot(&self) -> LogId {
        self.snapshot.lock().last
    }

    /// The same, with what else is known of it.
    pub(super) fn known_snapshot(&self) -> KnownSnapshot {
        *self.snapshot.lock()
    }

    pub(super) fn appended_bytes(&self) -> u64 {
        self.appended_bytes.load(Ordering::Relaxed)
    }
}

fn code(role: Role) -> u8 {
    match role {
        Role::Follower => 0,
        Role::PreCandidate => 1,
        Role::Candidate => 2,
        Role::Leader => 3,
    }
}
