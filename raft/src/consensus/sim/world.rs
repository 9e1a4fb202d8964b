//! The world of one seed: the queue of events, and what each of them does.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    fmt,
};

use super::{
    bug::Bug,
    checks::{
        Check, Checks, DiskId, configurations,
        window::{self, Limits},
    },
    dice::Dice,
    disk::Image,
    machine::Machine,
    network::Network,
    plan::{ELECTION_TIMEOUT, Plan},
    server::{Alive, Server},
    stats::Stats,
    trace::Trace,
};
use crate::{
    configuration::{self, Configuration, ServerId},
    consensus::{AppendOrder, Consensus, SnapshotReceipt, Time, WriteId},
    log::EntryPayload,
    position::{LogId, LogIndex, Term},
    rpc::{Envelope, InstallSnapshotRequest},
    status::ProgressState,
};

/// More than any seed needs.
const MAX_EVENTS: u64 = 1_000_000;

/// Something that is going to happen.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Deliver {
        to: usize,
        envelope: Envelope,
    },
    Timer {
        server: usize,
        life: u64,
    },
    Synced {
        server: usize,
        life: u64,
    },
    Written {
        server: usize,
        life: u64,
        id: WriteId,
    },
    Order {
        server: usize,
        life: u64,
        generation: u64,
        order: AppendOrder,
        /// The settings it was given under.
        limits: Limits,
    },
    Unreachable {
        server: usize,
        life: u64,
        peer: usize,
    },
    Apply {
        server: usize,
        life: u64,
    },
    /// A server takes a snapshot of its state machine.
    Snapshot {
        server: usize,
        life: u64,
    },
    /// That is durable.
    SnapshotKept {
        server: usize,
        life: u64,
        snapshot: Machine,
    },
    /// That is reported.
    SnapshotTaken {
        server: usize,
        life: u64,
        last: LogId,
    },
    /// A sender looks whether it has waited long enough.
    Ship {
        server: usize,
        life: u64,
        peer: usize,
        transfer: u64,
    },
    /// The snapshot that a sender was to send is not to be had.
    NothingToShip {
        server: usize,
        life: u64,
        peer: usize,
        transfer: u64,
    },
    /// A receiver takes a piece.
    Keep {
        server: usize,
        life: u64,
        from: usize,
        piece: InstallSnapshotRequest,
    },
    /// A receiver has the last piece, and the snapshot becomes durable.
    Finish {
        server: usize,
        life: u64,
    },
    /// A receiver says what became of a piece.
    Receipt {
        server: usize,
        life: u64,
        receipt: SnapshotReceipt,
    },
    /// The data of a user's restore is durable.
    RestoreKept {
        server: usize,
        life: u64,
        snapshot: Machine,
    },
    /// The core learns whether it is.
    RestoreCopied {
        server: usize,
        life: u64,
        last: LogId,
        is_kept: bool,
    },
    /// It is not wanted any more.
    RestoreWithdrawn {
        server: usize,
        life: u64,
        last: LogId,
    },
    Crash {
        server: usize,
    },
    Restart {
        server: usize,
    },
    Heal {
        partition: u64,
    },
    Fault,
    Client,
    /// Somebody looks after servers that are to have a new disk.
    Operator,
    /// Some server is given other settings.
    Reload,
    /// Some state machine stands still.
    Hang,
    /// The cluster is cut in two around one server.
    Drill,
    /// That server crashes, and is back at once.
    Relapse {
        server: usize,
    },
    /// A server is given other settings.
    Hasten {
        server: usize,
    },
}

#[derive(Debug)]
struct Scheduled {
    at: u64,
    order: u64,
    event: Event,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) dice: Dice,
    /// True time, in microseconds.
    pub(super) now: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    pub(super) servers: Vec<Server>,
    /// The disks that were lost, as they were then.
    pub(super) lost_disks: BTreeMap<DiskId, Vec<Image>>,
    pub(super) network: Network,
    pub(super) checks: Checks,
    pub(super) stats: Stats,
    pub(super) trace: Trace,
    /// A bug planted outside the core, to prove that it is found.
    pub(super) bug: Option<Bug>,
    /// When each trigger struck last.
    pub(super) struck_at: Vec<u64>,
    /// How many partitions there were.
    pub(super) partitions: u64,
    pub(super) commands: u64,
    /// Whether the faults are over.
    pub(super) is_calm: bool,
    /// The server that is on both sides, in a drill.
    pub(super) bridge: Option<usize>,
}

impl World {
    pub(super) fn new(seed: u64, trace: Trace, bug: Option<Bug>) -> Self {
        let mut dice = Dice::new(seed);
        let plan = Plan::of_seed(seed, &mut dice);
        let count = plan.servers();
        let servers = (0..count).map(|server| {
            let id = id_of(server);
            let rules = super::Rules { id: id.clone(), ..plan.rules.clone() };
            let rate = if plan.has_clock_skew { dice.within(800..=1200) } else { 1000 };
            let mut server = Server::new(id, rules, rate);
            server.disk.image.incarnation = plan.disks.new_incarnation(&mut dice);
            server
        });
        let servers = servers.collect();
        Self {
            dice,
            now: 0,
            queue: BinaryHeap::new(),
            scheduled: 0,
            servers,
            lost_disks: BTreeMap::new(),
            network: Network::new(count, plan.network),
            checks: Checks::default(),
            stats: Stats::default(),
            trace,
            bug,
            struck_at: vec![0; plan.triggers.len()],
            partitions: 0,
            commands: 0,
            is_calm: false,
            bridge: None,
            plan,
        }
    }

    /// Runs the seed to its end.
    pub(super) fn run(&mut self) -> Check {
        if self.trace.is_on() {
            let plan = format!("{:?}", self.plan);
            self.trace.line(0, "", format_args!("{plan}"));
        }
        for server in 0..self.servers.len() {
            self.schedule(0, Event::Restart { server });
        }
        self.schedule(1_000, Event::Client);
        if 0 < self.plan.reload_pause {
            self.schedule(self.plan.reload_pause, Event::Reload);
        }
        let disks = &self.plan.disks;
        let lost = disks.loss_per_mille + disks.older_copy_per_mille;
        if 0 < lost + self.plan.restores.per_mille || self.plan.is_drill {
            self.schedule(self.plan.disks.rejoin_pause, Event::Operator);
        }
        if 0 < self.plan.faults.pause {
            let at = self.dice.around(self.plan.faults.pause);
            self.schedule(at, Event::Fault);
        }
        if 0 < self.plan.machines.pause {
            self.schedule(self.plan.machines.pause, Event::Hang);
        }
        if self.plan.is_drill {
            self.schedule(5 * ELECTION_TIMEOUT, Event::Drill);
        }
        self.run_until(self.plan.horizon)?;
        self.demand_progress()?;
        self.stats.simulated_ms = self.now / 1000;
        Ok(())
    }

    pub(super) fn schedule(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse(Scheduled { at, order: self.scheduled, event }));
    }

    pub(super) fn run_until(&mut self, end: u64) -> Check {
        while self.queue.peek().is_some_and(|Reverse(next)| next.at <= end) {
            let Some(Reverse(Scheduled { at, event, .. })) = self.queue.pop() else { break };
            self.now = self.now.max(at);
            self.stats.events += 1;
            ensure!(self.stats.events < MAX_EVENTS, "{MAX_EVENTS} events: a livelock");
            self.happen(event)?;
        }
        self.now = end;
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Check {
        if let Some(server) = event.waits_for() {
            let until = self.servers[server].frozen_until;
            if self.now < until {
                self.schedule(until, event);
                return Ok(());
            }
        }
        if let Some((server, life)) = event.life()
            && (self.servers[server].life != life || self.servers[server].alive.is_none())
        {
            return Ok(());
        }
        match event {
            Event::Deliver { to, envelope } => self.deliver(to, envelope),
            Event::Timer { server, .. } => self.timer(server),
            Event::Synced { server, .. } => self.synced(server),
            Event::Written { server, id, .. } => self.written(server, id),
            Event::Order { server, generation, order, limits, .. } => {
                self.carry_out(server, generation, &order, limits)
            }
            Event::Unreachable { server, peer, .. } => {
                let peer = id_of(peer);
                self.call(server, |core, now| core.handle_unreachable(now, &peer))
            }
            Event::Apply { server, .. } => self.apply(server),
            Event::Snapshot { server, .. } => self.take_snapshot(server),
            Event::SnapshotKept { server, snapshot, .. } => self.snapshot_kept(server, snapshot),
            Event::SnapshotTaken { server, last, .. } => self.snapshot_taken(server, last),
            Event::Ship { server, peer, transfer, .. } => self.ship_again(server, peer, transfer),
            Event::NothingToShip { server, peer, transfer, .. } => {
                self.nothing_to_ship(server, peer, transfer)
            }
            Event::Keep { server, from, piece, .. } => self.keep(server, from, piece),
            Event::Finish { server, .. } => self.finish(server),
            Event::Receipt { server, receipt, .. } => self.receipt(server, receipt),
            Event::RestoreKept { server, snapshot, .. } => self.restore_kept(server, snapshot),
            Event::RestoreCopied { server, last, is_kept, .. } => {
                self.restore_copied(server, last, is_kept)
            }
            Event::RestoreWithdrawn { server, last, .. } => {
                self.restore_withdrawn(server, last);
                Ok(())
            }
            Event::Crash { server } => {
                self.crash(server);
                Ok(())
            }
            Event::Restart { server } => self.restart(server),
            Event::Heal { partition } => {
                if partition == self.partitions {
                    self.trace.line(self.now, "", format_args!("!! healed"));
                    self.network.heal();
                }
                Ok(())
            }
            Event::Fault => self.random_fault(),
            Event::Client => self.client(),
            Event::Operator => self.operator(),
            Event::Reload => self.random_reload(),
            Event::Hang => self.random_hang(),
            Event::Drill => self.drill(),
            Event::Relapse { server } => self.relapse(server),
            Event::Hasten { server } => self.reload_at_random(server),
        }
    }

    pub(super) fn restart(&mut self, server: usize) -> Check {
        let it = &self.servers[server];
        if it.alive.is_some() || it.is_dead || it.is_diverged {
            return Ok(());
        }
        self.say(server, format_args!("!! start"));
        let first_life = self.servers[server].life == 0;
        self.stats.restarts += u64::from(!first_life);
        self.look_at_disk(server)?;
        self.servers[server].boot(self.now, &mut self.dice);
        let it = &mut self.servers[server];
        if let Some(alive) = &it.alive {
            it.monotonic.restarted(alive.core.term())?;
        }
        self.plan_snapshot(server);
        self.settle(server)?;
        if self.is_to_be_bootstrapped(server) {
            let configuration = self.first_configuration();
            let result = self.enter(server, |core, now| core.bootstrap(now, configuration));
            let heard_of_a_cluster = self.servers[server].core().map(|core| Term(1) < core.term());
            ensure!(
                result.is_none_or(|it| it.is_ok()) || heard_of_a_cluster == Some(true),
                "bootstrap is refused"
            );
            self.settle(server)?;
        }
        Ok(())
    }

    /// Whether the server has nothing yet, and is one of those that begin the cluster.
    fn is_to_be_bootstrapped(&self, server: usize) -> bool {
        let is_first =
            server == 0 || (self.plan.is_bootstrapped_everywhere && server < self.plan.voters);
        let has_lost_disk = self.servers[server].has_lost_disks;
        is_first
            && !has_lost_disk
            && self.servers[server].core().is_some_and(|core| core.last() == LogId::ZERO)
    }

    pub(super) fn first_configuration(&self) -> Configuration {
        let voters = (0..self.plan.voters).map(|it| (it, true));
        let nonvoters = (0..self.plan.nonvoters).map(|it| (it + self.plan.voters, false));
        let members = voters.chain(nonvoters).map(|(server, is_voter)| {
            let (id, address) = (id_of(server), address_of(server));
            if is_voter {
                configuration::Server::voter(id, address)
            } else {
                configuration::Server::nonvoter(id, address)
            }
        });
        // The same whenever it is made: a first write may be lost, and be repeated.
        Configuration::new(members).founding(1)
    }

    /// Tells the core a fact, and carries out what it decides.
    pub(super) fn call(&mut self, server: usize, fact: impl FnOnce(&mut Consensus, Time)) -> Check {
        if self.servers[server].rolled_back.is_some() {
            // Before it does something that is promised no more.
            self.look_at_older_copies();
        }
        self.enter(server, fact);
        self.settle(server)
    }

    /// Tells the core a fact; `None` if the server is down.
    pub(super) fn enter<R>(
        &mut self,
        server: usize,
        fact: impl FnOnce(&mut Consensus, Time) -> R,
    ) -> Option<R> {
        let it = &mut self.servers[server];
        let now = it.clock.local(self.now);
        it.alive.as_mut().map(|alive| fact(&mut alive.core, now))
    }

    /// Carries out every decision, in order, then looks at the state. A crash on the way leaves the
    /// rest undone.
    pub(super) fn settle(&mut self, server: usize) -> Check {
        let led = self.servers[server].leads().is_some();
        let is_in_log = |alive: &Alive| alive.core.commit_index() <= alive.log.last().index;
        // A restore is beyond the log until that is reset, and commits nothing.
        if led && self.servers[server].alive.as_ref().is_some_and(is_in_log) {
            // Before anybody is told: a crash must not hide it.
            self.notice_commits(server, true)?;
        }
        while let Some(alive) = self.servers[server].alive.as_mut() {
            let Some(action) = alive.core.poll_action() else { break };
            self.perform(server, action)?;
        }
        self.look_at(server, led)?;
        self.look_at_older_copies();
        self.set_timer(server);
        Ok(())
    }

    /// The checks of one server's state.
    fn look_at(&mut self, server: usize, did_lead: bool) -> Check {
        let it = &mut self.servers[server];
        let Some(alive) = it.alive.as_mut() else { return Ok(()) };
        let core = &alive.core;
        let (term, commit_index) = (core.term(), core.commit_index());
        it.monotonic.seen(term, commit_index, core.last_applied())?;
        let is_reset = !it.disk.has_pending_reset();
        it.monotonic.snapshot(core.snapshot().index)?;
        ensure!(
            core.first_index() == alive.log.base().index.next(),
            "the core believes its log to begin with {}, not after {}",
            core.first_index(),
            alive.log.base()
        );
        ensure!(core.last() == alive.log.last(), "the core believes its log ends elsewhere");
        self.stats.handed_over += core.timeouts().apply_stall - alive.handed_over;
        alive.handed_over = core.timeouts().apply_stall;
        let lets_others = core.election.has_let_others_go_first;
        let did_let_others = std::mem::replace(&mut alive.lets_others_go_first, lets_others);
        self.stats.let_others += u64::from(lets_others && !did_let_others);
        let is_leader = core.role() == super::Role::Leader;
        ensure!(is_leader == (alive.leading == Some(term)), "I4: a change of role was not told");
        configurations::in_force(core.latest_configuration(), &alive.log.configuration())?;
        let stable = alive.log.id(core.stable_index());
        // Between an installation and the moment at which it is durable it promises nothing.
        let is_on_disk = |id| it.disk.image.log.has(id) || it.disk.image.covers(id, |_| true);
        ensure!(
            !is_reset || stable.is_some_and(is_on_disk),
            "the core believes {stable:?} to be on disk"
        );
        alive.draining.writes(it.disk.pending_writes(), &it.rules)?;
        if is_leader {
            let now = it.clock.local(self.now);
            let peers = core.peers(now);
            window::peers(&peers, core.last().index)?;
            let voters = &core.latest_configuration().configuration;
            alive.contact.look_for_majority(&it.id, voters, now);
            for (peer, progress) in core.role.leader().iter().flat_map(|leader| &leader.peers) {
                let (round, contact) = (progress.liveness.acked_round, progress.liveness.contact);
                alive.contact.believed(peer, round, contact, progress.match_index)?;
            }
            alive.draining.peers(&peers, &it.rules)?;
            for peer in peers {
                if let Some(ordered) = alive.ordered.get_mut(&server_of(&peer.id)) {
                    ordered.heard(&peer, core.snapshot().index);
                    ordered.is_open &= peer.progress == ProgressState::Snapshot;
                }
            }
        } else {
            alive.draining.no_peers();
            alive.requests.not_leading(commit_index)?;
            ensure!(alive.reads.open() == 0, "law 16: a question is open without leadership");
        }
        self.notice_commits(server, did_lead || is_leader)
    }

    /// Records what a server has committed since it was looked at last.
    fn notice_commits(&mut self, server: usize, is_leader: bool) -> Check {
        let Some(alive) = &mut self.servers[server].alive else { return Ok(()) };
        let before = std::mem::replace(&mut alive.commit_index, alive.core.commit_index());
        if before == alive.commit_index {
            return Ok(());
        }
        self.committed(server, before, is_leader)
    }

    /// Sees to it that the core is called when it wants to be, or a little later.
    fn set_timer(&mut self, server: usize) {
        let it = &mut self.servers[server];
        let Some(alive) = it.alive.as_mut() else { return };
        let Some(wanted) = alive.core.next_timeout() else { return };
        let at = it.clock.when(wanted).max(self.now);
        if alive.timer.is_none_or(|timer| at < timer) {
            let at = at + self.dice.within(0..=self.plan.timer_delay);
            alive.timer = Some(at);
            let life = it.life;
            self.schedule(at, Event::Timer { server, life });
        }
    }

    fn timer(&mut self, server: usize) -> Check {
        let Some(alive) = self.servers[server].alive.as_mut() else { return Ok(()) };
        if alive.timer.is_some_and(|at| at <= self.now) {
            alive.timer = None;
        }
        // Whatever the time is: calling early changes nothing.
        self.call(server, Consensus::handle_timeout)?;
        let it = &self.servers[server];
        let Some(alive) = it.alive.as_ref().filter(|alive| alive.leading.is_some()) else {
            return Ok(());
        };
        let voters = &alive.core.latest_configuration().configuration;
        let (lease, now) = (it.rules.leader_lease_timeout, it.clock.local(self.now));
        alive.contact.goes_on(&it.id, voters, lease, now)
    }

    /// The server that leads the newest term.
    pub(super) fn newest_leader(&self) -> Option<usize> {
        let leaders = self
            .servers
            .iter()
            .enumerate()
            .filter_map(|(server, it)| it.leads().map(|term| (term, server)));
        leaders.max().map(|(_, server)| server)
    }

    pub(super) fn say(&mut self, server: usize, what: fmt::Arguments<'_>) {
        if self.trace.is_on() {
            let id = self.servers[server].id.clone();
            self.trace.line(self.now, id.as_str(), what);
        }
    }

    /// A new command, unlike every other.
    pub(super) fn new_command(&mut self) -> EntryPayload {
        self.commands += 1;
        let size = 8 + self.dice.within(0..=self.plan.clients.max_command) as usize;
        let mut bytes = self.commands.to_be_bytes().to_vec();
        bytes.resize(size, b'.');
        EntryPayload::Command(bytes.into())
    }

    /// The faults end: everything works, and everybody is up but for the dead.
    pub(super) fn heal_everything(&mut self) -> Check {
        self.trace.line(self.now, "", format_args!("!! calm"));
        self.is_calm = true;
        self.network.heal();
        self.network.weather = super::plan::Weather {
            loss_per_mille: 0,
            duplicate_per_mille: 0,
            min_delay: 100,
            max_delay: 1_000,
            late_per_mille: 0,
            keeps_order: true,
            ..self.network.weather
        };
        self.plan.disk = super::plan::DiskSpeed {
            min_sync: 50,
            max_sync: 500,
            stall_per_mille: 0,
            report_delay: 50,
        };
        self.plan.timer_delay = self.plan.timer_delay.min(ELECTION_TIMEOUT / 100);
        self.plan.apply_delay = self.plan.apply_delay.min(1_000);
        self.plan.snapshots.delay = self.plan.snapshots.delay.min(1_000);
        // While only one server knows who belongs to the cluster, it must not die.
        let is_cluster =
            self.plan.is_bootstrapped_everywhere || LogIndex::ZERO < self.checks.committed.last();
        for _ in 0..if is_cluster { self.plan.dead } else { 0 } {
            // A voter at random, or the same again.
            let server = self.dice.below(self.plan.voters);
            self.crash(server);
            self.servers[server].is_dead = true;
        }
        for server in 0..self.servers.len() {
            let it = &mut self.servers[server];
            it.frozen_until = it.frozen_until.min(self.now);
            it.disk_stalled_until = it.disk_stalled_until.min(self.now);
            it.machine_hangs_until = it.machine_hangs_until.min(self.now);
            self.reload(server, self.plan.rules.clone())?;
            // Syncs under way, and what waits for a frozen server, come when they were going to.
            self.restart(server)?;
        }
        Ok(())
    }
}

impl Event {
    /// The server that must not be frozen for this to happen.
    fn waits_for(&self) -> Option<usize> {
        match self {
            Self::Deliver { to: server, .. }
            | Self::Timer { server, .. }
            | Self::Written { server, .. }
            | Self::Order { server, .. }
            | Self::Unreachable { server, .. }
            | Self::Apply { server, .. }
            | Self::Snapshot { server, .. }
            | Self::SnapshotTaken { server, .. }
            | Self::Ship { server, .. }
            | Self::NothingToShip { server, .. }
            | Self::Keep { server, .. }
            | Self::RestoreCopied { server, .. }
            | Self::Receipt { server, .. } => Some(*server),
            Self::Synced { .. }
            | Self::SnapshotKept { .. }
            | Self::Finish { .. }
            | Self::RestoreKept { .. }
            | Self::RestoreWithdrawn { .. }
            | Self::Crash { .. }
            | Self::Restart { .. }
            | Self::Heal { .. }
            | Self::Fault
            | Self::Client
            | Self::Operator
            | Self::Reload
            | Self::Hang
            | Self::Drill
            | Self::Relapse { .. }
            | Self::Hasten { .. } => None,
        }
    }

    /// The server and the life of it to which this belongs.
    fn life(&self) -> Option<(usize, u64)> {
        match self {
            Self::Timer { server, life }
            | Self::Synced { server, life }
            | Self::Written { server, life, .. }
            | Self::Order { server, life, .. }
            | Self::Unreachable { server, life, .. }
            | Self::Apply { server, life }
            | Self::Snapshot { server, life }
            | Self::SnapshotKept { server, life, .. }
            | Self::SnapshotTaken { server, life, .. }
            | Self::Ship { server, life, .. }
            | Self::NothingToShip { server, life, .. }
            | Self::Keep { server, life, .. }
            | Self::Finish { server, life }
            | Self::RestoreKept { server, life, .. }
            | Self::RestoreCopied { server, life, .. }
            | Self::RestoreWithdrawn { server, life, .. }
            | Self::Receipt { server, life, .. } => Some((*server, *life)),
            Self::Deliver { .. }
            | Self::Crash { .. }
            | Self::Restart { .. }
            | Self::Heal { .. }
            | Self::Fault
            | Self::Client
            | Self::Operator
            | Self::Reload
            | Self::Hang
            | Self::Drill
            | Self::Relapse { .. }
            | Self::Hasten { .. } => None,
        }
    }
}

pub(super) fn id_of(server: usize) -> ServerId {
    ServerId::new(char::from(b'a' + server as u8).to_string())
}

pub(super) fn address_of(server: usize) -> configuration::ServerAddress {
    configuration::ServerAddress::new(format!("{}:1", id_of(server)))
}

pub(super) fn server_of(id: &ServerId) -> usize {
    usize::from(id.as_str().as_bytes()[0] - b'a')
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}
