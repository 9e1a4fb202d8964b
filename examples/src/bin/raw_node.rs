//! Drives the pure consensus core by hand, as people do with etcd's raft library and raft-rs.
//!
//! Three servers, each a thread with one channel for everything that happens to it. The loop is the
//! whole idea: wait a jittered tick for input, step it, let timers fire, then drain what is ready
//! in order: persist it, send it, apply it, and report back. No async, no disk, no library tasks.
//!
//! The core lies outside the stability promise (feature `unstable-core`). Programs that are not
//! out to learn use [`raft::Raft`], which does all of this with batching, back-pressure and a disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use raft::{
    Configuration, Entries, Entry, EntryPayload, HardState, IndexedConfiguration, LogId, LogIndex,
    Message, Server, ServerId,
    consensus::{Action, Consensus, Rules, Saved, Time},
    rpc::AppendEntriesRequest,
};
use raft_examples::say;

/// Three servers that elect a leader and agree on ten proposals, with the pure consensus core driven by
/// hand: a thread and a channel for each, no async, no disk. Prints who has applied what.
#[derive(Parser)]
#[command(name = "raw_node")]
struct Args {}

/// Everything that can happen to a server.
enum Input {
    Message(ServerId, Message),
    Propose(String),
    Stop,
}

struct Node {
    core: Consensus,
    inbox: Receiver<Input>,
    peers: BTreeMap<ServerId, Sender<Input>>,
    /// The "disk": entry `i` of the log is at position `i - 1`.
    log: Vec<Entry>,
    hard_state: HardState,
    /// The "state machine", and where it tells of each applied command.
    applied: Sender<(ServerId, LogIndex, String)>,
}

impl Node {
    #[expect(clippy::disallowed_methods, reason = "this loop is the shell: it owns the clock")]
    fn run(mut self) -> (Vec<Entry>, HardState) {
        let start = Instant::now();
        let mut jitter = 0;
        loop {
            jitter = (jitter * 5 + 3) % 8;
            let first = self.inbox.recv_timeout(Duration::from_millis(4 + jitter)).ok();
            let now = Time(start.elapsed().as_micros() as u64);
            // What has arrived comes before the time: it may be why no timer should fire.
            for input in first.into_iter().chain(self.inbox.try_iter().take(1000)) {
                match input {
                    Input::Message(from, message) => self.core.handle_message(now, &from, message),
                    Input::Propose(text) => {
                        // Only the leader accepts; the others are asked in vain.
                        let _ = self.core.propose(now, vec![EntryPayload::Command(text.into())]);
                    }
                    Input::Stop => return (self.log, self.hard_state),
                }
            }
            if self.core.next_timeout().is_some_and(|due| due <= now) {
                self.core.handle_timeout(now);
            }
            while let Some(action) = self.core.poll_action() {
                self.carry_out(now, action);
            }
        }
    }

    fn carry_out(&mut self, now: Time, action: Action) {
        match action {
            Action::Write(write) => {
                if let Some(hard_state) = write.hard_state {
                    self.hard_state = hard_state;
                }
                if let Some(from) = write.truncate_from {
                    self.log.truncate(from.prev().0 as usize);
                }
                self.log.extend(write.entries.iter().cloned());
                self.core.handle_written(now, write.id);
            }
            Action::Replicate(order) => {
                let range = order.prev.index.0 as usize..order.last.0 as usize;
                let request = AppendEntriesRequest {
                    term: order.term,
                    round: order.round,
                    prev: order.prev,
                    entries: Entries::new(self.log[range].to_vec()),
                    commit_index: order.commit_index,
                };
                self.send(&order.to, Message::AppendEntries(request));
            }
            Action::Send { to, message } => self.send(&to, message),
            Action::Commit { up_to } => {
                let from = self.core.last_applied().0 as usize;
                for entry in &self.log[from..up_to.0 as usize] {
                    if let EntryPayload::Command(data) = &entry.payload {
                        let text = String::from_utf8_lossy(data).into_owned();
                        let _ = self.applied.send((self.core.id().clone(), entry.index, text));
                    }
                }
                self.core.handle_applied(now, up_to);
            }
            // Nobody takes or restores snapshots here, so the core never compacts the log, which is
            // all there is: nobody can need a snapshot either.
            Action::Compact { .. }
            | Action::Diverged { .. }
            | Action::LostByMajority { .. }
            | Action::RolledBack { .. }
            | Action::Restore { .. }
            | Action::Restored
            | Action::SendSnapshot(_)
            | Action::SnapshotAnswered { .. }
            | Action::ReceiveSnapshot { .. } => {}
            // What the library's shell needs and this loop does not: connections, waiting
            // callers, observers.
            Action::SetPeers(_)
            | Action::Verified { .. }
            | Action::TransferDone(_)
            | Action::SteppedDown { .. }
            | Action::Observe(_) => {}
        }
    }

    fn send(&self, to: &ServerId, message: Message) {
        if let Some(peer) = self.peers.get(to) {
            let _ = peer.send(Input::Message(self.core.id().clone(), message));
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const PROPOSALS: usize = 10;
    let Args {} = Args::parse();
    let ids = ["a", "b", "c"].map(ServerId::from);
    let configuration =
        Configuration::new(ids.iter().map(|id| Server::voter(id.clone(), id.as_str())));
    let (applied, applications) = channel();
    let (senders, inboxes): (Vec<_>, Vec<_>) = ids.iter().map(|_| channel()).unzip();
    let peers: BTreeMap<_, _> = ids.iter().cloned().zip(senders.iter().cloned()).collect();

    let mut threads = Vec::new();
    for (seed, (id, inbox)) in ids.iter().zip(inboxes).enumerate() {
        let rules = Rules::from(&raft::Config::new(id.clone()).with(|it| {
            it.election_timeout = Duration::from_millis(150);
            it.heartbeat_interval = Duration::from_millis(30);
            it.leader_lease_timeout = Duration::from_millis(150);
        }));
        let saved = Saved::new(HardState::default(), LogId::ZERO, IndexedConfiguration::default());
        let mut core = Consensus::new(rules, saved, seed as u64, Time(0));
        core.bootstrap(Time(0), configuration.clone()).map_err(|refusal| format!("{refusal:?}"))?;
        let (log, hard_state) = (Vec::new(), HardState::default());
        let node =
            Node { core, inbox, peers: peers.clone(), log, hard_state, applied: applied.clone() };
        threads.push(thread::spawn(move || node.run()));
    }

    // Nobody knows who leads, so everybody is asked, again if nothing comes of it.
    let mut seen = Seen { applications, texts: BTreeMap::new() };
    for n in 0..PROPOSALS {
        let text = format!("proposal {n}");
        while seen.by(&text) == 0 {
            for sender in &senders {
                sender.send(Input::Propose(text.clone()))?;
            }
            while seen.by(&text) == 0 && seen.wait(Duration::from_millis(200)) {}
        }
        while seen.by(&text) < ids.len() {
            if !seen.wait(Duration::from_secs(10)) {
                return Err(format!("{text} was not applied everywhere").into());
            }
        }
    }
    for sender in &senders {
        sender.send(Input::Stop)?;
    }
    let ends: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
    for (id, end) in ids.iter().zip(ends) {
        let (log, hard_state) = end.map_err(|_| format!("server {id} panicked"))?;
        let last = log.last().map(Entry::id).unwrap_or_default();
        say!(
            "server {id}: its log ends with entry {} of term {}; it is in term {}",
            last.index,
            last.term,
            hard_state.current_term
        );
    }
    say!("all {PROPOSALS} proposals were applied by all {} servers", ids.len());
    Ok(())
}

/// What has been applied by whom.
struct Seen {
    applications: Receiver<(ServerId, LogIndex, String)>,
    texts: BTreeMap<String, BTreeSet<ServerId>>,
}

impl Seen {
    /// How many servers have applied this text.
    fn by(&self, text: &str) -> usize {
        self.texts.get(text).map_or(0, BTreeSet::len)
    }

    /// Waits for the next application; false if none came in time.
    fn wait(&mut self, patience: Duration) -> bool {
        let Ok((id, index, text)) = self.applications.recv_timeout(patience) else { return false };
        say!("server {id} applied entry {index}: {text}");
        self.texts.entry(text).or_default().insert(id);
        true
    }
}
