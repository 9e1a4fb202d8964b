//! One simulated server: the real core, and around it what the shell would be: the log in memory, the
//! disk, the state machine, the requests that wait for an answer, and a clock that runs too fast or
//! too slow.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    checks::{
        contact::Contact, handovers::Handovers, monotonic::Monotonic, reads::Reads,
        requests::Requests, window::Draining,
    },
    dice::Dice,
    disk::{Disk, Image},
    log::Log,
    machine::{Jobs, Machine},
};
use crate::{
    configuration::{IndexedConfiguration, ServerId, Suffrage},
    consensus::{Consensus, Rules, Time, WriteId},
    position::{LogId, LogIndex, Term},
    rpc::{Envelope, InstallSnapshotRequest},
    status::{PeerStatus, ProgressState},
};

#[derive(Debug)]
pub(super) struct Server {
    pub(super) id: ServerId,
    pub(super) rules: Rules,
    pub(super) clock: Clock,
    pub(super) disk: Disk,
    pub(super) monotonic: Monotonic,
    /// How often it was started. What was meant for an earlier life is dropped.
    pub(super) life: u64,
    /// Everything that a crash loses; `None` while it is down.
    pub(super) alive: Option<Alive>,
    /// Whether it never comes back.
    pub(super) is_dead: bool,
    /// Frozen until then: nothing happens but what the disk has been told to do.
    pub(super) frozen_until: u64,
    /// No sync ends before.
    pub(super) disk_stalled_until: u64,
    pub(super) has_lost_disks: bool,
    /// Whether it has ended because the cluster has gone on without its state.
    pub(super) is_diverged: bool,
    /// An earlier state of its disk.
    pub(super) backup: Option<Image>,
    /// An earlier state of its disk that may take its place under the same incarnation.
    pub(super) copy: Option<Copy>,
    /// Earlier states of its disk, oldest first, in a drill.
    pub(super) copies: Vec<Copy>,
    /// What its disk had, if an older copy has taken its place: until it is known that this one has kept
    /// everything that it has promised, or has not.
    pub(super) rolled_back: Option<Copy>,
    /// When it was started last.
    pub(super) booted_at: u64,
    /// What it was before it was removed, because it has lost its disk, and is to be again.
    pub(super) rejoins_as: Option<Suffrage>,
    /// Its state machine applies nothing before.
    pub(super) machine_hangs_until: u64,
}

/// What was on a disk at some moment.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    pub(super) image: Image,
    pub(super) at: u64,
}

#[derive(Debug)]
pub(super) struct Alive {
    pub(super) core: Consensus,
    /// What it says of itself which start from its disk it is.
    pub(super) life: u64,
    /// Whether it was started from an older copy of its disk.
    pub(super) is_older_copy: bool,
    /// Until when it waits for answers to the question of its start, if it has one.
    pub(super) patient_until: Time,
    pub(super) log: Log,
    /// How many truncations there were: an order of before one is void.
    pub(super) generation: u64,
    pub(super) last_write: WriteId,
    /// The term it leads, as its actions tell.
    pub(super) leading: Option<Term>,
    /// Whom it may talk to, and by which disk it knows each; 0 if it does not.
    pub(super) known: BTreeMap<ServerId, u64>,
    /// Who has been told that this server knows another disk than the one it runs on.
    pub(super) corrected: BTreeSet<ServerId>,
    /// When the last completed write is reported.
    pub(super) reported: u64,
    /// Messages that wait for the window of writes.
    pub(super) inbox: VecDeque<Envelope>,
    /// When the next timer event is due.
    pub(super) timer: Option<u64>,
    /// What may be applied, what waits for that, and what is.
    pub(super) apply_up_to: LogIndex,
    pub(super) jobs: Jobs,
    pub(super) machine: Machine,
    pub(super) is_applying: bool,
    pub(super) commit_index: LogIndex,
    /// Where a user's restore will end whose data is being copied.
    pub(super) copying: Option<LogId>,
    /// Whether a snapshot of its own is being taken.
    pub(super) is_taking_a_snapshot: bool,
    /// The snapshots it sends, by the server they are for.
    pub(super) sending: BTreeMap<usize, Sending>,
    /// The newest order to send one, of this leadership.
    pub(super) ordered: BTreeMap<usize, Ordered>,
    /// The snapshot it is being sent.
    pub(super) receiving: Option<Receiving>,
    /// Snapshots that do not count: whole only when their leader had been deposed, or of a restore that
    /// came to nothing.
    pub(super) unwanted: Vec<LogId>,
    /// The chunk of a snapshot that has arrived last, until the core has decided what to do with it.
    pub(super) chunk: Option<InstallSnapshotRequest>,
    /// Until when the receiver is busy with pieces that have arrived.
    pub(super) receiver_busy_until: u64,
    /// Snapshots it has adopted, and whose state its state machine has not got yet.
    pub(super) adopted: Vec<Machine>,
    pub(super) draining: Draining,
    pub(super) requests: Requests,
    pub(super) reads: Reads,
    pub(super) contact: Contact,
    pub(super) handovers: Handovers,
    /// How often it has begun to hand leadership over by itself, and whether it lets others go first.
    pub(super) handed_over: u64,
    pub(super) lets_others_go_first: bool,
}

/// Local time: a start of its own in every life, and a rate of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// Local microseconds in a thousand true ones.
    pub(super) rate: u64,
    pub(super) start: u64,
    pub(super) booted: u64,
}

impl Clock {
    pub(super) fn local(&self, now: u64) -> Time {
        Time(self.start + (now - self.booted) * self.rate / 1000)
    }

    /// The first moment at which the local time is this.
    pub(super) fn when(&self, local: Time) -> u64 {
        self.booted + (local.0.saturating_sub(self.start) * 1000).div_ceil(self.rate)
    }
}

impl Server {
    pub(super) fn new(id: ServerId, rules: Rules, rate: u64) -> Self {
        Self {
            id,
            rules,
            clock: Clock { rate, start: 0, booted: 0 },
            disk: Disk::default(),
            monotonic: Monotonic::default(),
            life: 0,
            alive: None,
            is_dead: false,
            frozen_until: 0,
            disk_stalled_until: 0,
            has_lost_disks: false,
            is_diverged: false,
            backup: None,
            copy: None,
            copies: Vec::new(),
            rolled_back: None,
            booted_at: 0,
            rejoins_as: None,
            machine_hangs_until: 0,
        }
    }

    /// Starts it with what is on its disk.
    pub(super) fn boot(&mut self, now: u64, dice: &mut Dice) {
        self.life += 1;
        self.booted_at = now;
        self.clock.start = dice.within(0..=10_000_000);
        self.clock.booted = now;
        let (mut saved, machine) = self.disk.image.start();
        let image = &mut self.disk.image;
        image.starts += u64::from(image.incarnation != 0);
        let life =
            if image.incarnation == 0 { 0 } else { image.starts << 32 | dice.number() >> 32 };
        saved.disk(image.incarnation, life);
        let log = self.disk.image.log.clone();
        let local = self.clock.local(now);
        let core = Consensus::new(self.rules.clone(), saved, dice.number(), local);
        self.alive = Some(Alive {
            core,
            life,
            is_older_copy: self.rolled_back.is_some(),
            patient_until: local + self.rules.election_timeout,
            log,
            generation: 0,
            last_write: WriteId(0),
            leading: None,
            known: BTreeMap::new(),
            corrected: BTreeSet::new(),
            reported: 0,
            inbox: VecDeque::new(),
            timer: None,
            apply_up_to: machine.applied.index,
            jobs: Jobs::new(),
            machine,
            is_applying: false,
            commit_index: LogIndex::ZERO,
            copying: None,
            is_taking_a_snapshot: false,
            sending: BTreeMap::new(),
            ordered: BTreeMap::new(),
            receiving: None,
            unwanted: Vec::new(),
            chunk: None,
            receiver_busy_until: now,
            adopted: Vec::new(),
            draining: Draining::default(),
            requests: Requests::default(),
            reads: Reads::default(),
            contact: Contact::default(),
            handovers: Handovers::default(),
            handed_over: 0,
            lets_others_go_first: false,
        });
    }

    pub(super) fn core(&self) -> Option<&Consensus> {
        self.alive.as_ref().map(|alive| &alive.core)
    }

    pub(super) fn leads(&self) -> Option<Term> {
        self.alive.as_ref().and_then(|alive| alive.leading)
    }
}

#[test]
fn a_clock_reaches_its_own_deadlines() {
    for rate in [800, 999, 1000, 1001, 1200] {
        let clock = Clock { rate, start: 77, booted: 1_000_003 };
        for wait in 0..5_000 {
            let deadline = Time(77 + wait);
            let when = clock.when(deadline);
            assert!(deadline <= clock.local(when));
            assert!(when == clock.booted || clock.local(when - 1) < deadline);
        }
    }
}

/// A snapshot on its way to a follower.
#[derive(Clone, Debug)]
pub(super) struct Sending {
    pub(super) term: Term,
    pub(super) transfer: u64,
    pub(super) snapshot: Machine,
    pub(super) data: Vec<u8>,
    /// Everything before this byte has arrived.
    pub(super) acknowledged: usize,
    /// Everything before this byte has been sent.
    pub(super) sent: usize,
    /// What had arrived when it was looked last.
    pub(super) seen: usize,
}

/// An order to send a snapshot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ordered {
    pub(super) transfer: u64,
    /// What follows this entry is owed to the peer: where the newest snapshot ended when the order
    /// was given, then what the peer is known to have. `None` once it has come as far as the newest
    /// snapshot.
    pub(super) owed: Option<LogIndex>,
    /// Whether the leader still waits for what comes of it.
    pub(super) is_open: bool,
    /// Local time before which no other order may be given: this one has failed.
    pub(super) not_before: Time,
}

impl Ordered {
    /// The leader has looked at what it knows of the peer.
    pub(super) fn heard(&mut self, peer: &PeerStatus, newest: LogIndex) {
        let is_done = peer.progress != ProgressState::Snapshot && newest <= peer.match_index;
        self.owed = self.owed.filter(|_| !is_done).map(|owed| owed.max(peer.match_index));
    }
}

/// A snapshot on its way from a leader.
#[derive(Clone, Debug)]
pub(super) struct Receiving {
    pub(super) from: usize,
    pub(super) term: Term,
    pub(super) transfer: u64,
    pub(super) last: LogId,
    pub(super) configuration: IndexedConfiguration,
    pub(super) size: usize,
    pub(super) data: Vec<u8>,
    /// Whether all of it is here: no other one is received until that is reported.
    pub(super) is_whole: bool,
}
