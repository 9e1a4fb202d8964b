//! A cluster of cores driven by hand: one clock and one disk for each server, one pool of messages.
//! Nothing moves unless a test says so, and everything that moves is written to the trace.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;

use crate::{
    Config,
    configuration::{Configuration, IndexedConfiguration, Server as Member, ServerId},
    consensus::{Action, AppendOrder, Consensus, Rules, Saved, Time, Write},
    log::{Entries, Entry, EntryPayload, LogId, LogIndex, Term},
    observer::Role,
    rpc::{AppendEntriesRequest, Message},
    stable::HardState,
};

/// Names a server by its number: 1 is n1.
pub(super) fn n(number: usize) -> ServerId {
    ServerId::new(format!("n{number}"))
}

/// A configuration of n1 to n`voters`, and after them `nonvoters` more.
pub(super) fn configuration(voters: usize, nonvoters: usize) -> Configuration {
    Configuration::new((1..=voters + nonvoters).map(|number| {
        let address = format!("{}:1", n(number));
        if number <= voters {
            Member::voter(n(number), address)
        } else {
            Member::nonvoter(n(number), address)
        }
    }))
}

pub(super) fn rules(id: &ServerId) -> Rules {
    Rules::from(&Config::new(id.clone()))
}

pub(super) fn command(text: &str) -> EntryPayload {
    EntryPayload::Command(Bytes::copy_from_slice(text.as_bytes()))
}

/// A log with these terms, whose first entry is `configuration`. Entries of equal index and term
/// are equal in every log made by this function.
pub(super) fn log_of(configuration: &Configuration, terms: &[u64]) -> Vec<Entry> {
    let entry = |(at, term): (usize, &u64)| Entry {
        term: Term(*term),
        index: LogIndex(at as u64 + 1),
        payload: if at == 0 {
            EntryPayload::Configuration(configuration.clone())
        } else {
            command(&format!("c{}", at + 1))
        },
    };
    terms.iter().enumerate().map(entry).collect()
}

/// A message under way.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Packet {
    pub(super) from: ServerId,
    pub(super) to: ServerId,
    pub(super) message: Message,
}

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) hard_state: HardState,
    pub(super) log: Vec<Entry>,
}

impl Disk {
    fn carry_out(&mut self, write: &Write) {
        if let Some(hard_state) = &write.hard_state {
            self.hard_state = hard_state.clone();
        }
        apply_to_log(&mut self.log, write);
    }
}

fn apply_to_log(log: &mut Vec<Entry>, write: &Write) {
    if let Some(from) = write.truncate_from {
        log.truncate(from.prev().0 as usize);
    }
    for entry in write.entries.iter() {
        assert_eq!(entry.index.0, log.len() as u64 + 1, "a write leaves a gap");
        log.push(entry.clone());
    }
}

/// One server: its core while it is up, and what is around it.
pub(super) struct Server {
    rules: Rules,
    seed: u64,
    core: Option<Consensus>,
    pub(super) now: Time,
    pub(super) disk: Disk,
    /// Everything the core has accepted, durable or not.
    pub(super) log: Vec<Entry>,
    /// Writes that are not on the disk yet, oldest first.
    pub(super) pending: VecDeque<Write>,
    pub(super) applied: LogIndex,
    /// A stalled disk completes no write by itself.
    pub(super) is_stalled: bool,
    peers: Vec<ServerId>,
}

/// Which messages a step is about; `None` means any.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub(super) from: Option<ServerId>,
    pub(super) to: Option<ServerId>,
    pub(super) kind: Option<String>,
}

impl Filter {
    pub(super) fn admits(&self, packet: &Packet) -> bool {
        self.from.as_ref().is_none_or(|from| *from == packet.from)
            && self.to.as_ref().is_none_or(|to| *to == packet.to)
            && self.kind.as_ref().is_none_or(|kind| kind == packet.message.kind())
    }
}

#[derive(Default)]
pub(super) struct Cluster {
    pub(super) servers: BTreeMap<ServerId, Server>,
    /// Sent and not delivered, oldest first.
    pub(super) pool: Vec<Packet>,
    /// One side of a partition.
    side: BTreeSet<ServerId>,
    trace: Vec<String>,
    /// What has been applied anywhere, at each index (law 5).
    committed: BTreeMap<LogIndex, Entry>,
    /// Who has led each term (law 1).
    leaders: BTreeMap<Term, ServerId>,
}

impl Cluster {
    /// Voters n1 … that all start with the configuration at index 1 of term 1.
    pub(super) fn new(voters: usize) -> Self {
        Self::with(voters, 0, |_| {})
    }

    /// The same with nonvoters after them, and other rules.
    pub(super) fn with(voters: usize, nonvoters: usize, adjust: impl Fn(&mut Rules)) -> Self {
        let configuration = configuration(voters, nonvoters);
        let mut cluster = Self::default();
        for member in configuration.servers() {
            cluster.add_with(&member.id, &adjust);
            cluster.set_disk(&member.id, 1, None, log_of(&configuration, &[1]));
        }
        cluster.trace.clear();
        cluster
    }

    /// A new server with an empty disk.
    pub(super) fn add(&mut self, id: &ServerId) {
        self.add_with(id, |_| {});
    }

    fn add_with(&mut self, id: &ServerId, adjust: impl Fn(&mut Rules)) {
        let mut rules = rules(id);
        adjust(&mut rules);
        let server = Server {
            rules,
            seed: self.servers.len() as u64 + 1,
            core: None,
            now: Time(0),
            disk: Disk::default(),
            log: Vec::new(),
            pending: VecDeque::new(),
            applied: LogIndex::ZERO,
            is_stalled: false,
            peers: Vec::new(),
        };
        self.servers.insert(id.clone(), server);
        self.restart(id);
    }

    /// Gives a server another disk, and restarts it with that.
    pub(super) fn set_disk(
        &mut self,
        id: &ServerId,
        term: u64,
        voted_for: Option<ServerId>,
        log: Vec<Entry>,
    ) {
        self.crash(id);
        let hard_state = HardState { current_term: Term(term), voted_for };
        self.server_mut(id).disk = Disk { hard_state, log };
        self.restart(id);
    }

    pub(super) fn server(&self, id: &ServerId) -> &Server {
        self.servers.get(id).unwrap_or_else(|| panic!("no server {id}"))
    }

    pub(super) fn server_mut(&mut self, id: &ServerId) -> &mut Server {
        self.servers.get_mut(id).unwrap_or_else(|| panic!("no server {id}"))
    }

    pub(super) fn core(&self, id: &ServerId) -> &Consensus {
        self.server(id).core.as_ref().unwrap_or_else(|| panic!("{id} is down"))
    }

    fn is_up(&self, id: &ServerId) -> bool {
        self.servers.get(id).is_some_and(|server| server.core.is_some())
    }

    /// What happened since it was last asked.
    pub(super) fn take_trace(&mut self) -> Vec<String> {
        std::mem::take(&mut self.trace)
    }

    pub(super) fn note(&mut self, line: impl Into<String>) {
        self.trace.push(line.into());
    }

    /// Calls the core of `id` and carries out what it decides.
    pub(super) fn act<R>(
        &mut self,
        id: &ServerId,
        call: impl FnOnce(&mut Consensus, Time) -> R,
    ) -> R {
        let server = self.server_mut(id);
        let now = server.now;
        let core = server.core.as_mut().unwrap_or_else(|| panic!("{id} is down"));
        let before = (core.term(), core.commit_index());
        let result = call(core, now);
        let after = (core.term(), core.commit_index());
        assert!(before.0 <= after.0 && before.1 <= after.1, "law 6: {before:?} to {after:?}");
        if core.role() == Role::Leader {
            let term = core.term();
            let known = self.leaders.entry(term).or_insert_with(|| id.clone());
            assert_eq!(known, id, "law 1: two leaders of term {term}");
        }
        while let Some(action) = self.server_mut(id).core.as_mut().and_then(Consensus::poll_action)
        {
            self.carry_out(id, action);
        }
        result
    }

    fn carry_out(&mut self, id: &ServerId, action: Action) {
        if let Action::SetPeers(peers) = &action {
            let peers: Vec<ServerId> = peers.iter().map(|peer| peer.id.clone()).collect();
            if std::mem::replace(&mut self.server_mut(id).peers, peers.clone()) == peers {
                return;
            }
        }
        self.note(format!("{id} {action}"));
        match action {
            Action::Write(write) => {
                let server = self.server_mut(id);
                apply_to_log(&mut server.log, &write);
                server.pending.push_back(write);
            }
            Action::Send { to, message } => self.send(id, &to, message),
            Action::Replicate(order) => self.replicate(id, order),
            Action::Commit { up_to } => self.apply(id, up_to),
            Action::Compact { .. }
            | Action::Restored
            | Action::Restore { .. }
            | Action::SendSnapshot(_)
            | Action::SnapshotAnswered { .. }
            | Action::ReceiveSnapshot { .. } => panic!("nobody took a snapshot"),
            Action::SetPeers(_)
            | Action::Verified { .. }
            | Action::TransferDone(_)
            | Action::SteppedDown { .. }
            | Action::Observe(_) => {}
        }
    }

    pub(super) fn send(&mut self, from: &ServerId, to: &ServerId, message: Message) {
        self.pool.push(Packet { from: from.clone(), to: to.clone(), message });
    }

    fn replicate(&mut self, id: &ServerId, order: AppendOrder) {
        let log = &self.server(id).log;
        let prev = order.prev.index.0 as usize;
        let has_prev = prev.checked_sub(1).is_none_or(|at| log[at].id() == order.prev);
        assert!(has_prev, "the predecessor of an ordered range is not in the log");
        let entries = Entries::new(log[prev..order.last.0 as usize].to_vec());
        let request = AppendEntriesRequest {
            term: order.term,
            round: order.round,
            prev: order.prev,
            entries,
            commit_index: order.commit_index,
        };
        self.send(id, &order.to, Message::AppendEntries(request));
    }

    /// Law 5, and half of law 7: only what is on the disk is applied, the same everywhere.
    fn apply(&mut self, id: &ServerId, up_to: LogIndex) {
        let server = self.servers.get_mut(id).unwrap_or_else(|| panic!("no server {id}"));
        assert!(up_to.0 <= server.disk.log.len() as u64, "{id} applies what is not durable");
        for entry in &server.disk.log[server.applied.0 as usize..up_to.0 as usize] {
            let known = self.committed.entry(entry.index).or_insert_with(|| entry.clone());
            assert_eq!(known, entry, "law 5: {id} applies another entry");
        }
        server.applied = up_to;
        let now = server.now;
        if let Some(core) = server.core.as_mut() {
            core.handle_applied(now, up_to);
        }
    }

    /// Completes the oldest write of `id`.
    pub(super) fn written(&mut self, id: &ServerId) {
        let server = self.server_mut(id);
        let write = server.pending.pop_front().unwrap_or_else(|| panic!("{id} writes nothing"));
        server.disk.carry_out(&write);
        self.note(format!("{id} written {}", write.id));
        self.act(id, |core, now| core.handle_written(now, write.id));
    }

    /// Completes every write of `id`.
    pub(super) fn written_all(&mut self, id: &ServerId) {
        while !self.server(id).pending.is_empty() {
            self.written(id);
        }
    }

    fn is_cut(&self, packet: &Packet) -> bool {
        self.side.contains(&packet.from) != self.side.contains(&packet.to)
    }

    /// Hands a message to its receiver, unless a partition or a crash keeps it away.
    pub(super) fn hand_over(&mut self, packet: Packet) {
        if self.is_cut(&packet) || !self.is_up(&packet.to) {
            return;
        }
        let Packet { from, to, message } = packet;
        self.note(format!("{to} <- {from} {message}"));
        self.act(&to, |core, now| core.handle_message(now, &from, message));
    }

    /// Delivers a message that a test has made up, at once.
    pub(super) fn tell(&mut self, from: &ServerId, to: &ServerId, message: Message) {
        self.hand_over(Packet { from: from.clone(), to: to.clone(), message });
    }

    /// Takes what `from` has sent out of the pool.
    pub(super) fn take_from(&mut self, from: &ServerId) -> Vec<Packet> {
        let filter = Filter { from: Some(from.clone()), ..Filter::default() };
        self.take(&filter, usize::MAX)
    }

    /// The messages that `from` has sent to `to` and that are under way, taken out of the pool.
    pub(super) fn take_messages(&mut self, from: &ServerId, to: &ServerId) -> Vec<Message> {
        let filter = Filter { from: Some(from.clone()), to: Some(to.clone()), kind: None };
        self.take(&filter, usize::MAX).into_iter().map(|packet| packet.message).collect()
    }

    /// Takes at most `count` matching messages out of the pool, oldest first.
    pub(super) fn take(&mut self, filter: &Filter, count: usize) -> Vec<Packet> {
        let mut taken = Vec::new();
        self.pool.retain(|packet| {
            let is_taken = taken.len() < count && filter.admits(packet);
            if is_taken {
                taken.push(packet.clone());
            }
            !is_taken
        });
        taken
    }

    /// Delivers the matching messages that are in the pool now.
    pub(super) fn deliver(&mut self, filter: &Filter, count: usize) -> usize {
        let packets = self.take(filter, count);
        let delivered = packets.len();
        packets.into_iter().for_each(|packet| self.hand_over(packet));
        delivered
    }

    /// Completes writes and delivers messages until nothing moves. Time stands still.
    pub(super) fn stabilize(&mut self) {
        for _ in 0..100_000 {
            let ready = self.servers.iter().find(|(_, server)| {
                server.core.is_some() && !server.is_stalled && !server.pending.is_empty()
            });
            if let Some(id) = ready.map(|(id, _)| id.clone()) {
                self.written(&id);
            } else if self.pool.is_empty() {
                return;
            } else {
                let packet = self.pool.remove(0);
                self.hand_over(packet);
            }
        }
        panic!("the cluster does not come to rest");
    }

    /// Lets time pass, for everybody or for one, and nothing else: timeouts happen in their order.
    pub(super) fn advance(&mut self, by: Duration, only: Option<&ServerId>) {
        let ids: Vec<ServerId> = self
            .servers
            .keys()
            .filter(|id| only.is_none_or(|only| only == *id) && self.is_up(id))
            .cloned()
            .collect();
        let start: BTreeMap<ServerId, Time> =
            ids.iter().map(|id| (id.clone(), self.server(id).now)).collect();
        loop {
            let due = ids.iter().filter_map(|id| {
                let at = self.core(id).next_timeout()?.max(self.server(id).now);
                let after = at.since(start[id]);
                (after <= by).then_some((after, id, at))
            });
            let Some((_, id, at)) = due.min() else { break };
            self.server_mut(id).now = at;
            self.act(id, |core, now| core.handle_timeout(now));
            assert!(
                self.core(id).next_timeout().is_none_or(|next| at < next),
                "{id}: a handled timeout is due again"
            );
        }
        for id in &ids {
            self.server_mut(id).now = start[id] + by;
        }
        if only.is_none() {
            let down = self.servers.values_mut().filter(|server| server.core.is_none());
            down.for_each(|server| server.now = server.now + by);
        }
    }

    /// Lets time pass in small steps, each followed by everything that it causes.
    pub(super) fn run(&mut self, by: Duration) {
        const STEP: Duration = Duration::from_millis(10);
        let mut left = by;
        while Duration::ZERO < left {
            let step = left.min(STEP);
            self.advance(step, None);
            self.stabilize();
            left -= step;
        }
    }

    /// Lets one server's patience end.
    pub(super) fn campaign(&mut self, id: &ServerId) {
        let core = self.core(id);
        assert_ne!(core.role(), Role::Leader, "{id} leads");
        let deadline = core.election_deadline;
        let server = self.server_mut(id);
        server.now = server.now.max(deadline);
        self.act(id, |core, now| core.handle_timeout(now));
    }

    /// Makes `id` the leader by delivering what belongs to the election only.
    pub(super) fn win(&mut self, id: &ServerId) {
        // Nobody insists on the leader before.
        let patience = self.server(id).rules.election_timeout;
        for server in self.servers.values_mut() {
            if server.core.as_ref().is_some_and(|core| core.role() != Role::Leader) {
                server.now = server.now + patience;
            }
        }
        for _ in 0..5 {
            self.campaign(id);
            while self.election_step(id) {}
            if self.core(id).role() == Role::Leader {
                return;
            }
        }
        panic!("{id} is not elected");
    }

    fn election_step(&mut self, id: &ServerId) -> bool {
        if self.core(id).role() == Role::Leader {
            return false;
        }
        let is_about_votes =
            |packet: &Packet| packet.message.kind().starts_with("Request") && !self.is_cut(packet);
        let ready = self.servers.iter().find(|(_, server)| {
            server.core.is_some() && !server.is_stalled && !server.pending.is_empty()
        });
        if let Some(id) = ready.map(|(id, _)| id.clone()) {
            self.written(&id);
        } else if let Some(at) = self.pool.iter().position(is_about_votes) {
            let packet = self.pool.remove(at);
            self.hand_over(packet);
        } else {
            return false;
        }
        true
    }

    /// Makes `id` the leader, with everything delivered.
    pub(super) fn elect(&mut self, id: &ServerId) {
        self.win(id);
        self.stabilize();
        assert_eq!(self.core(id).role(), Role::Leader, "{id} is deposed");
    }

    /// A power cut: writes that are not on the disk are lost.
    pub(super) fn crash(&mut self, id: &ServerId) {
        let server = self.server_mut(id);
        server.core = None;
        server.pending.clear();
    }

    pub(super) fn restart(&mut self, id: &ServerId) {
        let server = self.server_mut(id);
        let hard_state = server.disk.hard_state.clone();
        let mut saved = Saved::new(hard_state, LogId::ZERO, IndexedConfiguration::default());
        saved.push(&server.disk.log);
        server.log = server.disk.log.clone();
        server.applied = LogIndex::ZERO;
        server.core = Some(Consensus::new(server.rules.clone(), saved, server.seed, server.now));
        self.act(id, |_, _| ());
    }

    /// Cuts these servers off from all others.
    pub(super) fn partition(&mut self, ids: &[ServerId]) {
        self.side = ids.iter().cloned().collect();
    }

    pub(super) fn heal(&mut self) {
        self.side.clear();
    }

    /// Proposes commands on `id`, which must lead; nothing is delivered.
    pub(super) fn propose(&mut self, id: &ServerId, text: &str) -> LogIndex {
        self.act(id, |core, now| core.propose(now, vec![command(text)]))
            .unwrap_or_else(|refusal| panic!("{id} refuses {text}: {refusal:?}"))
    }

    /// Proposes that many commands, one by one.
    pub(super) fn propose_many(&mut self, id: &ServerId, count: usize) {
        for at in 0..count {
            self.propose(id, &format!("c{at}"));
        }
    }

    /// The terms of the log that `id` has accepted.
    pub(super) fn terms(&self, id: &ServerId) -> Vec<u64> {
        self.server(id).log.iter().map(|entry| entry.term.0).collect()
    }

    /// Who leads, of those that are up.
    pub(super) fn leaders(&self) -> Vec<ServerId> {
        let leads =
            |server: &Server| server.core.as_ref().is_some_and(|core| core.role() == Role::Leader);
        let leaders = self.servers.iter().filter(|(_, server)| leads(server));
        leaders.map(|(id, _)| id.clone()).collect()
    }

    /// One line about a server, and one for each peer of a leader.
    pub(super) fn status(&self, id: &ServerId) -> Vec<String> {
        let server = self.server(id);
        let Some(core) = &server.core else { return vec![format!("{id} down")] };
        let vote = core.hard_state().voted_for.as_ref().map_or("-", ServerId::as_str);
        let leader = core.leader();
        let leader = leader.as_ref().map_or("-", |leader| leader.id.as_str());
        let mut lines = vec![format!(
            "{id}@{} {} last={} stable={} commit={} applied={} vote={vote} leader={leader}",
            core.term(),
            core.role(),
            core.last(),
            core.stable_index(),
            core.commit_index(),
            core.last_applied(),
        )];
        lines.extend(core.peers(server.now).iter().map(|peer| {
            format!(
                "  {} {} match={} next={} inflight={}",
                peer.id, peer.progress, peer.match_index, peer.next_index, peer.inflight
            )
        }));
        lines
    }
}
