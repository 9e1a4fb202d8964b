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
    consensus::{
        Action, AppendOrder, Consensus, ReceiptStep, Rules, Saved, SnapshotOrder, SnapshotReceipt,
        Time, Write,
    },
    log::{Entries, Entry, EntryPayload},
    observer::Observation,
    position::{LogId, LogIndex, Term},
    rpc::{AppendEntriesRequest, InstallOutcome, InstallSnapshotRequest, Message},
    stable::HardState,
    status::Role,
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

/// The bytes of every snapshot, and of one piece of it.
pub(super) const SNAPSHOT_BYTES: u64 = 30;
const PIECE_BYTES: u64 = 10;

/// A snapshot; what is in it does not matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) last: LogId,
    pub(super) configuration: IndexedConfiguration,
}

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) hard_state: HardState,
    /// The index before the first entry of the log.
    pub(super) base: LogIndex,
    pub(super) log: Vec<Entry>,
    /// Finished snapshots, oldest first.
    pub(super) snapshots: Vec<Snapshot>,
    /// How far the log is noted to be committed.
    pub(super) commit_index: LogIndex,
}

impl Disk {
    fn carry_out(&mut self, write: &Write) {
        if let Some(hard_state) = &write.hard_state {
            self.hard_state = hard_state.clone();
        }
        apply_to_log(&mut self.base, &mut self.log, write);
        self.commit_index = write.commit_index;
    }

    /// Whether the log has this entry, or begins after it.
    fn goes_with(&self, snapshot: &Snapshot) -> bool {
        let at = snapshot.last.index.0.checked_sub(self.base.0 + 1);
        snapshot.last.index == self.base
            || at.and_then(|at| self.log.get(at as usize)).map(Entry::id) == Some(snapshot.last)
    }

    /// The newest snapshot that the log goes with, or else the newest of all, if the log cannot do
    /// without: an installation that was cut short is ended then.
    fn start(&mut self) -> Snapshot {
        if let Some(fitting) = self.snapshots.iter().rfind(|it| self.goes_with(it)) {
            return fitting.clone();
        }
        let newest = self.snapshots.last().cloned().unwrap_or_default();
        if !self.log.is_empty() && self.base == LogIndex::ZERO {
            return Snapshot::default();
        }
        (self.base, self.log) = (newest.last.index, Vec::new());
        newest
    }

    pub(super) fn keep(&mut self, snapshot: Snapshot) {
        self.snapshots.retain(|other| other.last != snapshot.last);
        self.snapshots.push(snapshot);
        self.snapshots.sort_by_key(|snapshot| snapshot.last);
    }
}

fn apply_to_log(base: &mut LogIndex, log: &mut Vec<Entry>, write: &Write) {
    if let Some(index) = write.reset_to {
        *base = index;
        log.clear();
    }
    if let Some(from) = write.truncate_from {
        assert!(*base < from, "a truncation below the log");
        log.truncate(from.prev().since(*base) as usize);
    }
    for entry in write.entries.iter() {
        assert_eq!(entry.index.0, base.0 + log.len() as u64 + 1, "a write leaves a gap");
        log.push(entry.clone());
    }
}

fn compact(base: &mut LogIndex, log: &mut Vec<Entry>, through: LogIndex) {
    assert!(*base < through, "compacted twice");
    log.drain(..through.since(*base) as usize);
    *base = through;
}

/// A snapshot on its way to a peer.
#[derive(Clone, Debug)]
struct Sending {
    order: SnapshotOrder,
    snapshot: Snapshot,
    /// Every byte before this one has arrived.
    acknowledged: u64,
}

/// A snapshot on its way from a leader.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Receiving {
    from: ServerId,
    term: Term,
    transfer: u64,
    bytes: u64,
}

/// One server: its core while it is up, and what is around it.
pub(super) struct Server {
    rules: Rules,
    seed: u64,
    core: Option<Consensus>,
    pub(super) now: Time,
    pub(super) disk: Disk,
    /// Everything the core has accepted, durable or not, and the index before that.
    pub(super) log: Vec<Entry>,
    pub(super) base: LogIndex,
    /// Writes that are not on the disk yet, oldest first.
    pub(super) pending: VecDeque<Write>,
    pub(super) applied: LogIndex,
    /// A snapshot of its own that is being written.
    taking: Option<Snapshot>,
    sending: BTreeMap<ServerId, Sending>,
    receiving: Option<Receiving>,
    /// Whether it can keep no snapshot.
    pub(super) is_refusing: bool,
    /// A stalled disk completes no write by itself.
    pub(super) is_stalled: bool,
    /// A state machine that hangs, and what it is to do afterwards: a snapshot to restore, entries to apply.
    is_hung: bool,
    to_restore: Option<LogId>,
    to_apply: Option<LogIndex>,
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
    /// The chunk of a snapshot delivered last.
    chunk: Option<InstallSnapshotRequest>,
    /// One side of a partition.
    side: BTreeSet<ServerId>,
    trace: Vec<String>,
    /// What has been applied anywhere, at each index (law 5).
    committed: BTreeMap<LogIndex, Entry>,
    /// Who has led each term (law 1).
    leaders: BTreeMap<Term, ServerId>,
    /// Whether a start hands out what is noted to be committed.
    pub(super) has_notes: bool,
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
            base: LogIndex::ZERO,
            pending: VecDeque::new(),
            applied: LogIndex::ZERO,
            taking: None,
            sending: BTreeMap::new(),
            receiving: None,
            is_refusing: false,
            is_stalled: false,
            is_hung: false,
            to_restore: None,
            to_apply: None,
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
        let hard_state = HardState { current_term: Term(term), voted_for };
        self.replace_disk(id, Disk { hard_state, log, ..Disk::default() });
    }

    pub(super) fn replace_disk(&mut self, id: &ServerId, disk: Disk) {
        self.crash(id);
        self.server_mut(id).disk = disk;
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
        // Every question for a vote is in the trace already, and so is every answer.
        if !matches!(action, Action::Observe(Observation::VoteRequested { .. })) {
            let bytes = match (&action, &self.chunk) {
                (Action::ReceiveSnapshot { .. }, Some(chunk)) => {
                    format!(" bytes={}..{}/{}", chunk.offset, chunk.end(), chunk.size_bytes)
                }
                _ => String::new(),
            };
            self.note(format!("{id} {action}{bytes}"));
        }
        match action {
            Action::Write(write) => {
                let server = self.server_mut(id);
                apply_to_log(&mut server.base, &mut server.log, &write);
                server.pending.push_back(write);
            }
            Action::Send { to, message } => self.send(id, &to, message),
            Action::Replicate(order) => self.replicate(id, order),
            Action::Commit { up_to } => self.apply(id, up_to),
            Action::Compact { through } => {
                let server = self.server_mut(id);
                assert!(through <= server.applied, "{id} forgets what it has not applied");
                compact(&mut server.base, &mut server.log, through);
                compact(&mut server.disk.base, &mut server.disk.log, through);
            }
            Action::Restore { snapshot } => self.restore(id, snapshot),
            Action::SendSnapshot(order) => self.send_snapshot(id, order),
            Action::SnapshotAnswered { from, transfer, outcome } => {
                self.snapshot_answered(id, &from, transfer, &outcome);
            }
            Action::ReceiveSnapshot { from, .. } => {
                let chunk = self.chunk.take().expect("it was just delivered");
                self.receive_snapshot(id, &from, &chunk);
            }
            Action::SteppedDown { .. } => self.server_mut(id).sending.clear(),
            Action::Diverged { .. } | Action::LostByMajority { .. } | Action::RolledBack { .. } => {
                self.crash(id);
            }
            Action::Restored
            | Action::SetPeers(_)
            | Action::Verified { .. }
            | Action::TransferDone(_)
            | Action::Observe(_) => {}
        }
    }

    pub(super) fn send(&mut self, from: &ServerId, to: &ServerId, message: Message) {
        self.pool.push(Packet { from: from.clone(), to: to.clone(), message });
    }

    fn replicate(&mut self, id: &ServerId, order: AppendOrder) {
        let server = self.server(id);
        let (base, log) = (server.base, &server.log);
        assert!(base <= order.prev.index, "an ordered range is not in the log any more");
        let prev = order.prev.index.since(base) as usize;
        let has_prev = prev.checked_sub(1).is_none_or(|at| log[at].id() == order.prev);
        assert!(has_prev, "the predecessor of an ordered range is not in the log");
        let entries = Entries::new(log[prev..order.last.since(base) as usize].to_vec());
        let request = AppendEntriesRequest {
            term: order.term,
            round: order.round,
            prev: order.prev,
            entries,
            commit_index: order.commit_index,
        };
        self.send(id, &order.to, Message::AppendEntries(request));
    }

    /// The state machine of a server applies and restores nothing from now on.
    pub(super) fn hang(&mut self, id: &ServerId) {
        self.server_mut(id).is_hung = true;
    }

    /// It goes on.
    pub(super) fn unhang(&mut self, id: &ServerId) {
        let server = self.server_mut(id);
        server.is_hung = false;
        let (snapshot, up_to) = (server.to_restore.take(), server.to_apply.take());
        if let Some(snapshot) = snapshot {
            self.restore(id, snapshot);
        }
        if let Some(up_to) = up_to {
            self.apply(id, up_to);
        }
    }

    /// Law 5, and half of law 7: only what is on the disk is applied, the same everywhere.
    fn apply(&mut self, id: &ServerId, up_to: LogIndex) {
        let server = self.servers.get_mut(id).unwrap_or_else(|| panic!("no server {id}"));
        if server.is_hung {
            server.to_apply = Some(up_to);
            return;
        }
        let base = server.disk.base;
        let on_disk = base.0 + server.disk.log.len() as u64;
        assert!(up_to.0 <= on_disk, "{id} applies what is not durable");
        let (start, end) = (server.applied.since(base) as usize, up_to.since(base) as usize);
        for entry in &server.disk.log[start..end] {
            let known = self.committed.entry(entry.index).or_insert_with(|| entry.clone());
            assert_eq!(known, entry, "law 5: {id} applies another entry");
        }
        server.applied = up_to;
        let now = server.now;
        if let Some(core) = server.core.as_mut() {
            core.handle_applied(now, up_to);
        }
    }

    /// The newest configuration that `id` knows up to `index`.
    fn configuration_at(&self, id: &ServerId, index: LogIndex) -> IndexedConfiguration {
        let server = self.server(id);
        let of_snapshots = server.disk.snapshots.iter().map(|it| it.configuration.clone());
        let in_log = server.log.iter().filter_map(|entry| match &entry.payload {
            EntryPayload::Configuration(configuration) => Some(IndexedConfiguration {
                index: entry.index,
                configuration: configuration.clone(),
            }),
            _ => None,
        });
        let known = of_snapshots.chain(in_log).filter(|it| it.index <= index);
        known.max_by_key(|it| it.index).unwrap_or_default()
    }

    /// Tells `id` that it has received all of a snapshot, which `from` sent in this term. If it is
    /// the current one, `id` follows `from` by then: it has had the pieces.
    pub(super) fn receive_whole(
        &mut self,
        id: &ServerId,
        from: &ServerId,
        term: u64,
        snapshot: &Snapshot,
    ) {
        let Snapshot { last, configuration } = snapshot.clone();
        self.server_mut(id).disk.keep(snapshot.clone());
        let step = ReceiptStep::Complete { last, configuration };
        let receipt = SnapshotReceipt { from: from.clone(), term: Term(term), transfer: 1, step };
        self.act(id, |core, now| {
            if core.term() == receipt.term {
                core.follow(now, from);
            }
            core.handle_snapshot_receipt(now, receipt);
        });
    }

    /// Begins a snapshot of what `id` has applied.
    pub(super) fn begin_snapshot(&mut self, id: &ServerId) {
        let index = self.server(id).applied;
        let configuration = self.configuration_at(id, index);
        let server = self.server_mut(id);
        let at = index.0.checked_sub(server.base.0 + 1);
        let entry = at.and_then(|at| server.log.get(at as usize));
        let last = entry.map(Entry::id).unwrap_or_else(|| panic!("{id} has no news to snapshot"));
        server.taking = Some(Snapshot { last, configuration });
    }

    /// The snapshot that was begun is durable.
    pub(super) fn end_snapshot(&mut self, id: &ServerId) {
        let server = self.server_mut(id);
        let snapshot = server.taking.take().unwrap_or_else(|| panic!("{id} takes no snapshot"));
        let last = snapshot.last;
        server.disk.keep(snapshot);
        self.note(format!("{id} has taken snapshot {last}"));
        self.act(id, |core, now| core.handle_snapshot_taken(now, last));
    }

    pub(super) fn snapshot(&mut self, id: &ServerId) {
        self.begin_snapshot(id);
        self.end_snapshot(id);
    }

    fn restore(&mut self, id: &ServerId, last: LogId) {
        let server = self.server_mut(id);
        if server.is_hung {
            server.to_restore = Some(last);
            return;
        }
        let is_reset = server.pending.iter().all(|write| write.reset_to.is_none());
        assert!(is_reset, "{id} restores before its log is reset on disk");
        assert!(server.disk.snapshots.iter().any(|it| it.last == last), "{id} lacks {last}");
        assert!(server.applied < last.index, "{id} goes back to {last}");
        server.applied = last.index;
        let now = server.now;
        if let Some(core) = server.core.as_mut() {
            core.handle_applied(now, last.index);
        }
    }

    fn send_snapshot(&mut self, id: &ServerId, order: SnapshotOrder) {
        let server = self.server_mut(id);
        let newest = server.disk.snapshots.last();
        let snapshot = newest.cloned().unwrap_or_else(|| panic!("{id} has no snapshot"));
        assert!(order.snapshot.index <= snapshot.last.index, "{id} has only {snapshot:?}");
        let peer = order.to.clone();
        server.sending.insert(peer.clone(), Sending { order, snapshot, acknowledged: 0 });
        self.send_pieces(id, &peer);
    }

    /// Sends every piece that has not been acknowledged.
    pub(super) fn send_pieces(&mut self, id: &ServerId, peer: &ServerId) {
        let sending = self.server(id).sending.get(peer);
        let sending = sending.cloned().unwrap_or_else(|| panic!("{id} sends {peer} no snapshot"));
        let end = SNAPSHOT_BYTES - PIECE_BYTES;
        let mut offset = sending.acknowledged.min(end);
        while offset <= end {
            let piece =
                piece(sending.order.term.0, sending.order.transfer, &sending.snapshot, offset);
            self.send(id, peer, piece);
            offset += PIECE_BYTES;
        }
    }

    /// The snapshot that is being sent to `peer` cannot be read.
    pub(super) fn unreadable(&mut self, id: &ServerId, peer: &ServerId) {
        let sending = self.server_mut(id).sending.remove(peer);
        let sending = sending.unwrap_or_else(|| panic!("{id} sends {peer} no snapshot"));
        let transfer = sending.order.transfer;
        self.act(id, |core, now| core.handle_snapshot_failed(now, peer, transfer));
    }

    fn snapshot_answered(
        &mut self,
        id: &ServerId,
        peer: &ServerId,
        transfer: u64,
        outcome: &InstallOutcome,
    ) {
        let server = self.server_mut(id);
        let sending = server.sending.get_mut(peer).filter(|it| it.order.transfer == transfer);
        match (sending, outcome) {
            (Some(sending), InstallOutcome::Received { next_offset }) => {
                sending.acknowledged = *next_offset;
            }
            (Some(_), _) => {
                server.sending.remove(peer);
            }
            (None, _) => {}
        }
    }

    fn receive_snapshot(&mut self, id: &ServerId, from: &ServerId, piece: &InstallSnapshotRequest) {
        let server = self.server_mut(id);
        let new =
            Receiving { from: from.clone(), term: piece.term, transfer: piece.transfer, bytes: 0 };
        let mut receiving = match server.receiving.take() {
            Some(receiving) if (Receiving { bytes: 0, ..receiving.clone() }) == new => receiving,
            _ => new,
        };
        if piece.offset == receiving.bytes {
            receiving.bytes = piece.end();
        }
        let step = if server.is_refusing {
            ReceiptStep::Refused
        } else if receiving.bytes < piece.size_bytes {
            let next_offset = receiving.bytes;
            server.receiving = Some(receiving);
            ReceiptStep::Received { next_offset }
        } else {
            let (last, configuration) = (piece.last, piece.configuration.clone());
            server.disk.keep(Snapshot { last, configuration: configuration.clone() });
            ReceiptStep::Complete { last, configuration }
        };
        let (term, transfer, now) = (piece.term, piece.transfer, server.now);
        let receipt = SnapshotReceipt { from: from.clone(), term, transfer, step };
        if let Some(core) = server.core.as_mut() {
            core.handle_snapshot_receipt(now, receipt);
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
        let Packet { from, to, mut message } = packet;
        self.note(format!("{to} <- {from} {message}"));
        if let Message::InstallSnapshot(chunk) = &mut message {
            self.chunk = Some(chunk.take());
        }
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
        let deadline = core.election.deadline;
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
        server.sending.clear();
        (server.taking, server.receiving) = (None, None);
        (server.to_restore, server.to_apply) = (None, None);
    }

    pub(super) fn restart(&mut self, id: &ServerId) {
        let has_notes = self.has_notes;
        let server = self.server_mut(id);
        let snapshot = server.disk.start();
        let hard_state = server.disk.hard_state.clone();
        let mut saved = Saved::new(hard_state, snapshot.last, snapshot.configuration);
        saved.push(&server.disk.log);
        if has_notes {
            saved.committed(server.disk.commit_index);
        }
        (server.base, server.log) = (server.disk.base, server.disk.log.clone());
        server.applied = snapshot.last.index;
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
        if core.snapshot() != LogId::ZERO {
            lines[0] += &format!(" first={} snapshot={}", core.first_index(), core.snapshot());
        }
        lines.extend(core.peers(server.now).iter().map(|peer| {
            let mut line = format!(
                "  {} {} match={} next={} inflight={}",
                peer.id, peer.progress, peer.match_index, peer.next_index, peer.inflight
            );
            if let Some(bytes) = peer.snapshot_received_bytes {
                line += &format!(" received={bytes}");
            }
            line
        }));
        lines
    }
}

/// A snapshot that ends there, with a configuration of `voters` that stood at index 1.
pub(super) fn snapshot(term: u64, index: u64, voters: usize) -> Snapshot {
    let configuration =
        IndexedConfiguration { index: LogIndex(1), configuration: configuration(voters, 0) };
    Snapshot { last: LogId::new(term, index), configuration }
}

/// A piece of a snapshot.
pub(super) fn piece(term: u64, transfer: u64, snapshot: &Snapshot, offset: u64) -> Message {
    Message::InstallSnapshot(InstallSnapshotRequest {
        term: Term(term),
        transfer,
        last: snapshot.last,
        configuration: snapshot.configuration.clone(),
        size_bytes: SNAPSHOT_BYTES,
        offset,
        checksum: 0,
        data: Bytes::from(vec![0; PIECE_BYTES as usize]),
    })
}
