//! What the shell would do: carrying out the core's decisions, and reporting what came of them.

use super::{
    bug::Bug,
    checks::{
        Check, DiskId, acknowledged,
        committed::Committer,
        completeness, configurations, handovers, promises, removals,
        window::{self, Limits},
    },
    machine::Job,
    plan::{ELECTION_TIMEOUT, Moment},
    world::{Event, World, address_of, id_of, server_of},
};
use crate::{
    configuration::ClusterId,
    consensus::{Action, AppendOrder, Consensus, Write, WriteId},
    log::{Entries, Entry, EntryPayload},
    observer::Observation,
    position::{LogId, LogIndex, Term},
    rpc::{
        AppendEntriesRequest, AppendOutcome, Envelope, InstallOutcome, Message, TimeoutNowRequest,
    },
    status::Role,
};

/// Messages waiting at a server whose window of writes is full; more are lost.
const MAX_INBOX: usize = 256;

impl World {
    pub(super) fn perform(&mut self, server: usize, action: Action) -> Check {
        self.say(server, format_args!("{action}"));
        match action {
            Action::Write(write) => self.write(server, write),
            Action::Replicate(order) => {
                let it = &self.servers[server];
                let (life, Some(alive)) = (it.life, &it.alive) else { return Ok(()) };
                let generation = alive.generation;
                // One lane per peer keeps its order; more than one, or a slow disk, does not.
                let keeps_order = self.network.weather.keeps_order;
                let delay = if keeps_order { 0 } else { self.dice.pick(&[0, 0, 20, 300]) };
                let at = self.now + delay;
                let limits = Limits::from(&it.rules);
                self.schedule(at, Event::Order { server, life, generation, order, limits });
                Ok(())
            }
            Action::Send { to, message } => self.send(server, server_of(&to), message),
            Action::Commit { up_to } => self.hand_out(server, up_to),
            Action::Restored => {
                if let Some(alive) = &mut self.servers[server].alive {
                    self.stats.replaced += alive.requests.stepped_down(alive.apply_up_to);
                }
                Ok(())
            }
            Action::Diverged { snapshot, entry } => self.diverged(server, snapshot, entry),
            Action::LostByMajority { leader, entry, committed } => Err(format!(
                "law 4: {committed} is committed here, but the leader {leader} has {entry}"
            )),
            Action::RolledBack { told, promised, .. } => self.rolled_back(server, &told, promised),
            Action::Compact { through } => self.compact(server, through),
            Action::Restore { snapshot } => self.restore(server, snapshot),
            Action::SendSnapshot(order) => self.send_snapshot(server, &order),
            Action::SnapshotAnswered { from, transfer, outcome } => {
                self.snapshot_answered(server, server_of(&from), transfer, &outcome)
            }
            Action::ReceiveSnapshot { from, .. } => {
                let alive = self.servers[server].alive.as_mut();
                if let Some(chunk) = alive.and_then(|alive| alive.chunk.take()) {
                    self.receive_snapshot(server, server_of(&from), chunk);
                }
                Ok(())
            }
            Action::SetPeers(peers) => {
                if let Some(alive) = &mut self.servers[server].alive {
                    let is_peer = |it: usize| peers.iter().any(|peer| server_of(&peer.id) == it);
                    alive.sending.retain(|peer, _| is_peer(*peer));
                    alive.ordered.retain(|peer, _| is_peer(*peer));
                    alive.contact.peers(|id| is_peer(server_of(id)));
                    alive.known.values_mut().for_each(|disk| *disk = 0);
                    alive.known.extend(peers.into_iter().map(|it| (it.id, it.incarnation)));
                }
                Ok(())
            }
            Action::Verified { round } => {
                let me = self.disk_of(server);
                if let Some(core) = self.servers[server].core() {
                    let voters = core.latest_configuration().configuration.voters();
                    let voters: Vec<DiskId> = voters.map(|it| self.disk_meant(it)).collect();
                    self.checks.answers.confirmed(me, core.term(), round, &voters)?;
                }
                if let Some(alive) = &mut self.servers[server].alive {
                    self.stats.verified += alive.reads.verified(round)?;
                }
                Ok(())
            }
            Action::TransferDone(result) => {
                self.stats.handovers += u64::from(result.is_ok());
                match &mut self.servers[server].alive {
                    Some(alive) => alive.requests.transfer_done(&result, &self.checks.election),
                    None => Ok(()),
                }
            }
            Action::SteppedDown { committed } => {
                if let Some(alive) = &mut self.servers[server].alive {
                    self.stats.lost += alive.requests.stepped_down(committed);
                    self.stats.unverified += alive.reads.end();
                    alive.sending.clear();
                    alive.ordered.clear();
                }
                Ok(())
            }
            Action::Observe(observation) => self.observe(server, &observation),
        }
    }

    fn observe(&mut self, server: usize, observation: &Observation) -> Check {
        if let Observation::PeerLostEntries { peer } = observation {
            let it = &self.servers[server_of(peer)];
            ensure!(
                it.rolled_back.is_some() || it.has_lost_disks,
                "law 7: a disk has lost what was acknowledged: {observation:?}"
            );
        }
        let it = &mut self.servers[server];
        let now = it.clock.local(self.now);
        let Some(alive) = &mut it.alive else { return Ok(()) };
        if let Observation::Removed { configuration_index } = observation {
            self.stats.removals += 1;
            let committed = self.checks.committed.configuration_at(*configuration_index);
            let own = alive.log.configuration();
            return removals::believed(&it.id, *configuration_index, &committed, &own);
        }
        let Observation::RoleChanged { role, term } = observation else { return Ok(()) };
        if *role != Role::Leader {
            alive.leading = None;
            return Ok(());
        }
        alive.leading = Some(*term);
        alive.contact.elected(*term, now);
        self.stats.elections += 1;
        self.checks.election.elected(*term, server)?;
        // What it has no more is committed.
        let base = alive.log.base();
        ensure!(
            self.checks.committed.is_state(base),
            "law 14: the log of {server} begins after {base}"
        );
        let before = self.checks.committed.terms(base);
        self.checks.leaders.elected(*term, before.chain(alive.log.terms()).collect());
        completeness::elected(*term, self.checks.committed.newest_first(), &self.checks.leaders)?;
        self.at_moment(server, Moment::Won);
        Ok(())
    }

    fn write(&mut self, server: usize, write: Write) -> Check {
        let Some(alive) = &mut self.servers[server].alive else { return Ok(()) };
        ensure!(write.id.0 == alive.last_write.0 + 1, "{} follows {}", write.id, alive.last_write);
        alive.last_write = write.id;
        let leading = alive.leading;
        if let Some(term) = leading
            && (write.truncate_from.is_some() || !write.entries.is_empty())
        {
            ensure!(write.reset_to.is_none(), "law 2: the log of a leader is reset");
            self.checks.leaders.wrote(term, write.truncate_from, &write.entries)?;
        }
        let adopted = match write.reset_to {
            None => None,
            Some(index) => Some(self.reset(server, index)?),
        };
        if let (Some(snapshot), Some(term)) = (&adopted, leading) {
            let last = snapshot.applied;
            ensure!(
                last.term == term && self.checks.committed.is_open_restore(last),
                "law 2: the log of the leader of {term} is reset to {last}"
            );
            self.checks.leaders.restored(term, self.checks.committed.terms(last).collect());
        }
        let Some(alive) = &mut self.servers[server].alive else { return Ok(()) };
        if let Some(from) = write.truncate_from {
            self.stats.truncations += 1;
            let term = alive.core.term();
            let removed = alive.log.range(from.prev(), alive.log.last().index).unwrap_or_default();
            removed
                .iter()
                .try_for_each(|entry| self.checks.committed.truncated(entry.id(), term))?;
            alive.generation += 1;
            alive.log.truncate(from);
        }
        let mut is_reconfigured = false;
        for entry in write.entries.iter() {
            if let EntryPayload::Configuration(next) = &entry.payload {
                is_reconfigured = true;
                let before = alive.log.configuration();
                let committed = &self.checks.committed;
                let settled = alive.log.settled_before(next).index;
                let before_id = alive.log.id(settled).or(committed.id(settled));
                let before_id = before_id.unwrap_or_default();
                configurations::appended(entry.id(), next, &before, before_id, committed)?;
                if let Some(term) = alive.leading {
                    let commit = alive.log.id(alive.core.commit_index()).unwrap_or_default();
                    configurations::created(term, commit)?;
                }
            }
            let is_new = self.checks.log_matching.appended(alive.log.last(), entry)?;
            ensure!(
                !is_new || alive.leading == Some(entry.term) || entry.id() == LogId::new(1, 1),
                "law 2: {} is created by a server that does not lead its term",
                entry.id()
            );
            alive.log.push(entry.clone());
        }
        let has_truncated = write.truncate_from.is_some();
        let has_reset = adopted.is_some();
        self.servers[server].disk.write(write, adopted);
        self.lie_about_the_disk(server)?;
        self.sync(server);
        self.at_moment(server, Moment::Wrote);
        if has_truncated {
            self.at_moment(server, Moment::Truncated);
        }
        if is_reconfigured {
            self.at_moment(server, Moment::Reconfigured);
        }
        if has_reset {
            self.at_moment(server, Moment::Reset);
        }
        Ok(())
    }

    /// Begins a sync of some of what is pending, if none is under way.
    pub(super) fn sync(&mut self, server: usize) {
        let speed = self.plan.disk;
        let it = &mut self.servers[server];
        if it.disk.syncing != 0 || it.disk.pending() == 0 || it.alive.is_none() {
            return;
        }
        let pending = it.disk.pending();
        it.disk.syncing = if self.dice.coin() { pending } else { 1 + self.dice.below(pending) };
        let at = self.now + self.dice.within(speed.min_sync..=speed.max_sync.max(speed.min_sync));
        if !self.is_calm && self.dice.chance(speed.stall_per_mille) {
            self.stats.stalls += 1;
            let stall = self.dice.within(0..=10 * ELECTION_TIMEOUT);
            it.disk_stalled_until = it.disk_stalled_until.max(self.now + stall);
        }
        let life = it.life;
        self.schedule(at, Event::Synced { server, life });
    }

    /// A sync has ended: what it covers is durable, and reported a little later.
    pub(super) fn synced(&mut self, server: usize) -> Check {
        let it = &mut self.servers[server];
        let life = it.life;
        if self.now < it.disk_stalled_until {
            let at = it.disk_stalled_until;
            self.schedule(at, Event::Synced { server, life });
            return Ok(());
        }
        let covered = std::mem::take(&mut it.disk.syncing);
        let was_reset = !it.disk.has_pending_reset();
        let mut done = it.disk.complete(covered);
        let is_adopted = !was_reset && !it.disk.has_pending_reset();
        let mut at = it.alive.as_ref().map_or(0, |alive| alive.reported);
        if self.dice.coin() {
            // One report stands for all of them.
            done.drain(..done.len().saturating_sub(1));
        }
        for id in done {
            at = at.max(self.now + self.dice.within(0..=self.plan.disk.report_delay));
            self.schedule(at, Event::Written { server, life, id });
        }
        if let Some(alive) = &mut self.servers[server].alive {
            alive.reported = at;
        }
        self.sync(server);
        self.maybe_back_up(server);
        self.keep_copy(server);
        self.at_moment(server, Moment::Synced);
        if is_adopted {
            self.at_moment(server, Moment::Adopted);
        }
        Ok(())
    }

    pub(super) fn written(&mut self, server: usize, id: WriteId) -> Check {
        self.say(server, format_args!("<- written {id}"));
        self.call(server, |core, now| core.handle_written(now, id))?;
        self.read_inbox(server)
    }

    pub(super) fn send(&mut self, server: usize, to: usize, message: Message) -> Check {
        if let Message::TimeoutNow(_) = message {
            self.handed_over(server, to)?;
        }
        let me = self.disk_of(server);
        let it = &mut self.servers[server];
        let now = it.clock.local(self.now);
        let Some(alive) = &mut it.alive else { return Ok(()) };
        let to_id = id_of(to);
        let Some(expects) = alive.known.get(&to_id).copied() else {
            return Err(format!("{message} goes to {to_id}, whom nobody told it of"));
        };
        promises::sent(&it.id, &to_id, &message, &it.disk.image, &self.checks)?;
        let moment = match &message {
            Message::RequestVote(request) if !request.is_pre_vote => {
                it.monotonic.promised(request.term);
                if request.is_leadership_transfer {
                    alive.handovers.campaigns(&it.id, request.term)?;
                }
                self.checks.votes.cast(me, request.term, server)?;
                None
            }
            Message::RequestVoteReply(reply) if reply.is_granted && !reply.is_pre_vote => {
                it.monotonic.promised(reply.term);
                self.checks.votes.cast(me, reply.term, to)?;
                Some(Moment::Voted)
            }
            Message::RequestVote(_) => None,
            Message::TimeoutNow(_) => Some(Moment::HandedOver),
            Message::AppendEntriesReply(reply) => {
                it.monotonic.promised(reply.term);
                if reply.outcome != AppendOutcome::StaleTerm {
                    self.checks.answers.given(me, reply.term, reply.round);
                }
                Some(Moment::Acknowledged)
            }
            Message::HeartbeatReply(reply) => {
                it.monotonic.promised(reply.term);
                self.checks.answers.given(me, reply.term, reply.round);
                None
            }
            Message::InstallSnapshotReply(reply) => {
                it.monotonic.promised(reply.term);
                let is_promise = matches!(reply.outcome, InstallOutcome::Installed { .. });
                is_promise.then_some(Moment::Acknowledged)
            }
            Message::InstallSnapshot(_) => Some(Moment::Shipped),
            _ => {
                it.monotonic.promised(message.term());
                None
            }
        };
        alive.contact.sent(&to_id, &message, now);
        let envelope = Envelope {
            from: id_of(server),
            address: address_of(server),
            cluster: alive.core.cluster(),
            incarnation: it.disk.image.incarnation,
            life: alive.life,
            expects,
            message,
        };
        self.post(to, &envelope);
        if let Some(moment) = moment {
            self.at_moment(server, moment);
        }
        Ok(())
    }

    /// A leader tells that server to take over.
    fn handed_over(&self, server: usize, to: usize) -> Check {
        let Some(alive) = &self.servers[server].alive else { return Ok(()) };
        let (term, last, to) = (alive.core.term(), alive.log.last(), id_of(to));
        ensure!(
            alive.leading == Some(term),
            "law 15: {to} is told to take over by a server that follows"
        );
        let configuration = &alive.core.latest_configuration().configuration;
        let Some(target) = configuration.server(&to).map(|it| self.disk_meant(it)) else {
            return Err(format!("law 15: {to} is told to take over, and is no member"));
        };
        let stands_for = |snapshot: LogId| {
            self.checks.committed.stands_for(snapshot, last)
                || self.checks.committed.is_open_restore(snapshot) && snapshot.term == term
        };
        let has_all = self.images_of(target).any(|image| image.covers(last, stands_for));
        let target_term = self.images_of(target).map(|image| image.hard_state.current_term).max();
        handovers::handed_over(&to, (term, last), target_term.unwrap_or_default(), has_all)
    }

    fn post(&mut self, to: usize, envelope: &Envelope) {
        let from = server_of(&envelope.from);
        self.stats.messages += 1;
        let arrivals = self.network.arrivals(self.now, from, to, &mut self.dice);
        match arrivals.len() {
            0 => {
                self.stats.lost_messages += 1;
                if let Message::AppendEntries(_) = envelope.message {
                    self.report_unreachable(from, to);
                }
            }
            copies => self.stats.duplicates += copies as u64 - 1,
        }
        for at in arrivals {
            self.schedule(at, Event::Deliver { to, envelope: envelope.clone() });
        }
        self.replay_to_another_session(to, envelope);
        if self.dice.chance(self.network.weather.foreign_per_mille) {
            self.send_foreign(envelope.clone());
            self.send_false_handover(envelope.clone());
        }
    }

    /// A server that does not lead says that it hands over. None does that; nobody is to believe it.
    fn send_false_handover(&mut self, mut envelope: Envelope) {
        let from = server_of(&envelope.from);
        let to = (from + self.stats.messages as usize) % self.servers.len();
        let it = &self.servers[to];
        let Some(core) = it.core() else { return };
        if to == from || self.checks.election.has_led(core.term(), from) {
            return;
        }
        self.stats.false_handovers += 1;
        envelope.expects = it.disk.image.incarnation;
        envelope.message = Message::TimeoutNow(TimeoutNowRequest { term: core.term() });
        self.schedule(self.now, Event::Deliver { to, envelope });
    }

    /// Somebody of another cluster speaks: of any term, in the name of anybody, with entries of its own.
    fn send_foreign(&mut self, mut envelope: Envelope) {
        envelope.cluster = ClusterId(envelope.cluster.0 ^ 1 << 62);
        let term = |term: &mut Term| term.0 += [0, 0, 1, 40][(envelope.life % 4) as usize];
        match &mut envelope.message {
            Message::AppendEntries(request) => {
                term(&mut request.term);
                let claim = EntryPayload::Barrier;
                let (entry_term, index) = (request.term, request.prev.index.next());
                let entry = Entry { term: entry_term, index, payload: claim };
                request.entries = vec![entry].into();
                request.commit_index = index;
            }
            Message::Heartbeat(request) => term(&mut request.term),
            Message::RequestVote(request) => {
                term(&mut request.term);
                request.last.term.0 += 1;
            }
            Message::TimeoutNow(request) => term(&mut request.term),
            Message::InstallSnapshot(piece) => term(&mut piece.term),
            Message::RequestVoteReply(reply) => term(&mut reply.term),
            Message::AppendEntriesReply(_)
            | Message::HeartbeatReply(_)
            | Message::InstallSnapshotReply(_)
            | Message::Removed(_) => {}
        }
        let to = self.dice.below(self.servers.len());
        let at = self.now + self.dice.within(0..=ELECTION_TIMEOUT);
        self.schedule(at, Event::Deliver { to, envelope });
    }

    fn report_unreachable(&mut self, server: usize, peer: usize) {
        if self.network.weather.reports_unreachable && self.dice.coin() {
            let life = self.servers[server].life;
            let at = self.now + self.dice.within(0..=20_000);
            self.schedule(at, Event::Unreachable { server, life, peer });
        }
    }

    pub(super) fn deliver(&mut self, to: usize, envelope: Envelope) -> Check {
        let from = server_of(&envelope.from);
        if self.servers[to].alive.is_none() || self.network.is_cut(from, to) {
            self.stats.lost_messages += 1;
            if let Message::AppendEntries(_) = envelope.message
                && self.servers[from].alive.is_some()
            {
                self.report_unreachable(from, to);
            }
            return Ok(());
        }
        self.say(to, format_args!("<- {} {}", envelope.from, envelope.message));
        let envelope = self.forge(to, envelope);
        let own = self.first_configuration().cluster();
        let Some(alive) = &mut self.servers[to].alive else { return Ok(()) };
        if envelope.cluster.is_some() && envelope.cluster != own && !alive.core.cluster().is_some()
        {
            // Whoever belongs to no cluster joins the one that asks first, which may be the wrong one.
            return Ok(());
        }
        alive.known.entry(envelope.from.clone()).or_default();
        if alive.inbox.len() < MAX_INBOX {
            alive.inbox.push_back(envelope);
        }
        self.read_inbox(to)
    }

    /// Messages are taken only while the window of writes has room.
    fn read_inbox(&mut self, server: usize) -> Check {
        loop {
            let it = &mut self.servers[server];
            let now = it.clock.local(self.now);
            let Some(alive) = &mut it.alive else { break };
            if alive.core.is_write_window_full() {
                break;
            }
            let Some(mut envelope) = alive.inbox.pop_front() else { break };
            if let Err(mismatch) = alive.core.admit(&envelope)
                && self.bug != Some(Bug::AdmitsEverybody)
            {
                self.refuse(server, &envelope, mismatch)?;
                continue;
            }
            let Envelope { from, message, .. } = &envelope;
            let voters = &alive.core.latest_configuration().configuration;
            alive.contact.received(&it.id, from, message, (voters, now));
            if let Message::TimeoutNow(request) = message {
                alive.handovers.told(request.term, server_of(from), &self.checks.election);
            }
            if let Message::InstallSnapshot(chunk) = &mut envelope.message {
                alive.chunk = Some(chunk.take());
            }
            self.call(server, |core, now| core.receive_admitted(now, envelope))?;
        }
        Ok(())
    }

    /// An order to replicate: the entries are taken from the log as it is now.
    pub(super) fn carry_out(
        &mut self,
        server: usize,
        generation: u64,
        order: &AppendOrder,
        limits: Limits,
    ) -> Check {
        let it = &self.servers[server];
        let Some(alive) = &it.alive else { return Ok(()) };
        if alive.generation != generation && self.bug != Some(Bug::OrdersOutliveTruncation) {
            self.stats.void_orders += 1;
            return Ok(());
        }
        let Some(entries) = alive.log.range(order.prev.index, order.last) else {
            // Compacted since. The core finds out that nothing arrived.
            self.stats.compacted_orders += 1;
            return Ok(());
        };
        let entries = Entries::new(entries.to_vec());
        window::message(&entries, limits)?;
        let is_split = self.network.weather.splits_orders && self.dice.coin();
        let step = if is_split { 1 + self.dice.below(3) } else { entries.len().max(1) };
        let to = server_of(&order.to);
        let mut prev = order.prev;
        for start in (0..entries.len().max(1)).step_by(step) {
            let rest = entries.skip(start);
            let end = LogIndex(order.prev.index.0 + (start + step) as u64);
            let part = rest.within(LogIndex(0)..=end);
            let request = AppendEntriesRequest {
                term: order.term,
                round: order.round,
                prev,
                entries: part.clone(),
                commit_index: order.commit_index,
            };
            self.checks.leaders.sent(order.term, prev, &part)?;
            prev = part.last_id().unwrap_or(prev);
            self.send(server, to, Message::AppendEntries(request))?;
        }
        Ok(())
    }

    fn hand_out(&mut self, server: usize, up_to: LogIndex) -> Check {
        let it = &mut self.servers[server];
        let Some(alive) = &mut it.alive else { return Ok(()) };
        let id = alive.log.id(up_to).unwrap_or_default();
        ensure!(alive.apply_up_to < up_to && id.index == up_to, "I1: {up_to} is handed out");
        promises::handed_out(id, &it.disk.image)?;
        let Some(entries) = alive.log.range(alive.apply_up_to, up_to) else {
            return Err(format!(
                "I1: the entries up to {up_to} are handed out, but not in the log"
            ));
        };
        alive.jobs.extend(entries.iter().cloned().map(Job::Apply));
        alive.apply_up_to = up_to;
        self.begin_to_apply(server);
        Ok(())
    }

    pub(super) fn begin_to_apply(&mut self, server: usize) {
        let it = &mut self.servers[server];
        let (life, Some(alive)) = (it.life, &mut it.alive) else { return };
        if !alive.jobs.is_empty() && !std::mem::replace(&mut alive.is_applying, true) {
            let at = self.now + self.dice.around(self.plan.apply_delay);
            self.schedule(at, Event::Apply { server, life });
        }
    }

    /// The state machine applies a batch, and clients get their answers.
    pub(super) fn apply(&mut self, server: usize) -> Check {
        let it = &mut self.servers[server];
        if self.now < it.machine_hangs_until {
            let at = it.machine_hangs_until.min(self.now + ELECTION_TIMEOUT / 4);
            let life = it.life;
            self.schedule(at, Event::Apply { server, life });
            return Ok(());
        }
        let Some(alive) = &mut it.alive else { return Ok(()) };
        let count = 1 + self.dice.below(alive.jobs.len());
        let mut jobs: Vec<Job> = alive.jobs.drain(..count).collect();
        if self.bug == Some(Bug::AppliesOutOfOrder) && self.dice.chance(50) {
            jobs.reverse();
        }
        let mut acknowledged = Vec::new();
        for job in jobs {
            let entry = match job {
                Job::Apply(entry) => entry,
                Job::Restore(machine) => {
                    self.checks.state_machine.is_state(&machine)?;
                    alive.adopted.retain(|other| machine.applied < other.applied);
                    alive.machine = machine;
                    self.stats.restores += 1;
                    self.stats.superseded += alive.requests.superseded(alive.machine.applied.index);
                    continue;
                }
            };
            self.checks.state_machine.applied(&alive.machine, &entry)?;
            ensure!(
                self.checks.committed.has(entry.id()),
                "law 5: {} is applied, but not committed",
                entry.id()
            );
            if alive.requests.applied(&entry)? {
                acknowledged.push(entry.id());
            }
            alive.machine.apply(&entry);
        }
        alive.is_applying = false;
        let end = alive.machine.applied.index;
        if self.plan.snapshots.machines_keep_state && self.dice.chance(200) {
            it.disk.image.kept = Some(alive.machine.clone());
        }
        self.begin_to_apply(server);
        self.stats.acknowledged += acknowledged.len() as u64;
        for id in acknowledged {
            acknowledged::acknowledged(id, &self.checks.committed, |holder, id| {
                let stands_for = |last| self.checks.committed.stands_for(last, id);
                self.images_of(holder).any(|image| image.covers(id, stands_for))
            })?;
        }
        self.call(server, |core, now| Consensus::handle_applied(core, now, end))
    }

    /// A server's commit index has moved on from `before`.
    pub(super) fn committed(&mut self, server: usize, before: LogIndex, is_leader: bool) -> Check {
        let Some(alive) = &self.servers[server].alive else { return Ok(()) };
        let (base, end) = (alive.log.base(), alive.commit_index);
        ensure!(
            base.index <= before || self.checks.committed.is_state(base),
            "law 14: the log begins after {base}, which is not committed"
        );
        let Some(entries) = alive.log.range(before.max(base.index), end) else {
            return Err(format!("I1: commit index {end} is beyond the log"));
        };
        let last = entries.last().map(|entry| entry.id()).unwrap_or_default();
        let configuration = &alive.core.latest_configuration().configuration;
        let voters = configuration.voters().map(|voter| self.disk_meant(voter));
        let term = alive.core.term();
        let holds = |it: DiskId| {
            // Also a restore in this very term, which stands for what its leader commits.
            let stands_for = |snapshot: LogId| {
                self.checks.committed.stands_for(snapshot, last)
                    || self.checks.committed.is_open_restore(snapshot) && snapshot.term == term
            };
            let has = self.images_of(it).any(|image| {
                image.covers(last, stands_for) && term <= image.hard_state.current_term
            });
            (it, has)
        };
        let voters: Vec<(DiskId, bool)> = voters.map(holds).collect();
        let by = Committer { term, is_leader, voters: &voters };
        if !entries.is_empty() && self.checks.committed.is_open_restore(base) {
            self.checks.committed.restored(base, by)?;
            self.stats.user_restores_committed += 1;
        }
        let news = self.checks.committed.commit(entries, by, &self.checks.leaders)?;
        if news == 0 {
            return Ok(());
        }
        self.stats.commits += news;
        let fresh = entries.iter().rev().take(news as usize);
        let is_configuration = |payload: &_| matches!(payload, EntryPayload::Configuration(_));
        let changes: Vec<LogIndex> =
            fresh.filter(|it| is_configuration(&it.payload)).map(|it| it.index).collect();
        self.stats.configurations += changes.len() as u64;
        self.stats.recorded += changes.iter().filter(|it| self.is_recording(**it)).count() as u64;
        if !changes.is_empty() && !configuration.is_voter(&id_of(server)) {
            self.stats.abdications += 1;
        }
        self.at_moment(server, Moment::Committed);
        Ok(())
    }
}
