//! What the tests of the model's catalogue share: impostors, load, and the checks that end a run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use raft::{
    Applied, ApplyError, Entry, EntryPayload, Identity, Inbox, LogIndex, LogStore, Message,
    Outcome, Raft, Role, Server, ServerAddress, ServerId, Term, Transport as _,
    inmem::InmemTransport,
    testing::{Cluster, Journal},
};
use tokio::{sync::watch, task::JoinSet, time::sleep};

pub(crate) const ABC: [&str; 3] = ["a", "b", "c"];
pub(crate) const FIVE: [&str; 5] = ["a", "b", "c", "d", "e"];
pub(crate) const SEVEN: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];

/// The default election timeout.
pub(crate) const ELECTION: Duration = Duration::from_secs(1);

/// The ids of these servers.
pub(crate) fn ids(rafts: &[Raft<Journal>]) -> Vec<String> {
    rafts.iter().map(|raft| raft.id().to_string()).collect()
}

/// Every running server but these.
pub(crate) fn all_but(cluster: &Cluster, ids: &[&str]) -> Vec<Raft<Journal>> {
    let is_left = |raft: &Raft<Journal>| !ids.contains(&raft.id().as_str());
    cluster.rafts().into_iter().filter(is_left).collect()
}

/// The members, as this server knows them.
pub(crate) fn members(raft: &Raft<Journal>) -> String {
    raft.configuration().configuration.to_string()
}

/// Those of a cluster who lead, as far as they know.
pub(crate) fn leaders(cluster: &Cluster) -> Vec<Raft<Journal>> {
    cluster.rafts().into_iter().filter(|raft| raft.role() == Role::Leader).collect()
}

/// Every entry of a server's log.
pub(crate) async fn log(cluster: &Cluster, id: &str) -> Vec<Entry> {
    let reader = cluster.stores(id).0.reader();
    let Some((first, last)) = reader.bounds().await.unwrap() else { return Vec::new() };
    let mut entries = Vec::new();
    let mut next = first;
    while next <= last {
        entries.extend(reader.read(next..=last, u64::MAX).await.unwrap().to_vec());
        next = entries.last().unwrap().index.next();
    }
    entries
}

/// Somebody who speaks in the name of a server: messages it never sent, or sent long ago.
pub(crate) struct Impostor {
    transport: Arc<InmemTransport>,
    _inbox: raft::transport::Received,
}

impl Impostor {
    pub(crate) async fn of(cluster: &Cluster, id: &str) -> Self {
        let transport = cluster.network().transport(format!("impostor of {id}"));
        let (inbox, received) = Inbox::new(16);
        let known =
            cluster.rafts().iter().map(|it| it.configuration().configuration.cluster()).max();
        let identity = Identity { cluster: known.unwrap_or_default(), ..Identity::new(id) };
        transport.start(identity, inbox).await.unwrap();
        Self { transport, _inbox: received }
    }

    pub(crate) fn tell(&self, to: &str, message: Message) {
        // As on any network, it may be lost.
        let _ = self.transport.send(&Server::voter(to, to), message);
    }
}

/// Lets every task do what it can do now. The clock is paused: it moves only when all of them wait.
pub(crate) async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

/// Who led which term, as the messages on the wire show it.
#[derive(Clone, Default)]
pub(crate) struct Wire {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    leaders: BTreeMap<Term, BTreeSet<ServerAddress>>,
    messages: u64,
}

impl Wire {
    /// Looks at every message of the network from now on.
    pub(crate) fn tap(cluster: &Cluster) -> Self {
        let wire = Self::default();
        let seen = Arc::clone(&wire.seen);
        cluster.network().set_tap(move |from, _, message| {
            let mut seen = seen.lock();
            seen.messages += 1;
            // What only a leader says.
            if let Message::AppendEntries(_)
            | Message::Heartbeat(_)
            | Message::TimeoutNow(_)
            | Message::InstallSnapshot(_) = message
            {
                seen.leaders.entry(message.term()).or_default().insert(from.clone());
            }
        });
        wire
    }

    /// How many terms had a leader.
    pub(crate) fn terms(&self) -> usize {
        self.seen.lock().leaders.len()
    }

    /// As if this server had spoken as the leader of that term.
    pub(crate) fn accuse(&self, term: Term, leader: &ServerId) {
        self.seen.lock().leaders.entry(term).or_default().insert(address(leader));
    }

    fn check(&self) {
        let seen = self.seen.lock();
        assert!(0 < seen.messages && !seen.leaders.is_empty(), "the tap saw nothing");
        for (term, leaders) in &seen.leaders {
            assert_eq!(leaders.len(), 1, "law 1: leaders of term {term}: {leaders:?}");
        }
    }
}

/// Callers who apply commands, each another one, wherever a leader is.
pub(crate) struct Load {
    rafts: Arc<Mutex<Vec<Raft<Journal>>>>,
    stop: watch::Sender<bool>,
    callers: JoinSet<Vec<Acknowledged>>,
}

/// A command, and what its caller was told.
#[derive(Clone)]
pub(crate) struct Acknowledged {
    pub(crate) command: Bytes,
    pub(crate) applied: Applied<u64>,
}

impl fmt::Debug for Acknowledged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {}", self.command, self.applied.index)
    }
}

impl Load {
    /// So many callers, each of whom applies so many commands, one after the other.
    pub(crate) fn of(cluster: &Cluster, callers: usize, commands: usize) -> Self {
        Self::start(cluster, callers, commands, Duration::ZERO)
    }

    /// A hundred commands in a second, until it is stopped.
    pub(crate) fn steady(cluster: &Cluster) -> Self {
        Self::start(cluster, 8, usize::MAX, Duration::from_millis(80))
    }

    fn start(cluster: &Cluster, callers: usize, commands: usize, pause: Duration) -> Self {
        let rafts = Arc::new(Mutex::new(cluster.rafts()));
        let (stop, _) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for caller in 0..callers {
            let (rafts, stop) = (Arc::clone(&rafts), stop.subscribe());
            tasks.spawn(async move {
                let mut acknowledged = Vec::new();
                for number in 0..commands {
                    let command = Bytes::from(format!("{caller}/{number}"));
                    acknowledged.extend(call(&command, &rafts, &stop).await);
                    if *stop.borrow() {
                        break;
                    }
                    sleep(pause).await;
                }
                acknowledged
            });
        }
        Self { rafts, stop, callers: tasks }
    }

    /// From now on the callers look for the leader among the servers that run now.
    pub(crate) fn follow(&self, cluster: &Cluster) {
        *self.rafts.lock() = cluster.rafts();
    }

    /// Waits until every caller has applied all its commands.
    pub(crate) async fn finish(self) -> Vec<Acknowledged> {
        self.callers.join_all().await.into_iter().flatten().collect()
    }

    /// Lets every caller finish what it is about, and no more.
    pub(crate) async fn stop(self) -> Vec<Acknowledged> {
        self.stop.send_replace(true);
        self.finish().await
    }
}

/// Applies a command once, as soon as anybody takes it.
async fn call(
    command: &Bytes,
    rafts: &Mutex<Vec<Raft<Journal>>>,
    stop: &watch::Receiver<bool>,
) -> Option<Acknowledged> {
    while !*stop.borrow() {
        let newest = |rafts: &[Raft<Journal>]| {
            let leading = rafts.iter().filter(|raft| raft.role() == Role::Leader);
            leading.max_by_key(|raft| raft.term()).cloned()
        };
        let leader = newest(&rafts.lock());
        if let Some(leader) = leader {
            match leader.apply(command.clone()).await {
                Ok(applied) => return Some(Acknowledged { command: command.clone(), applied }),
                Err(ApplyError::NotLeader { .. } | ApplyError::TransferInProgress) => {}
                // It may have happened: not to be sent again.
                Err(error) if error.outcome() == Outcome::Unknown => return None,
                Err(error) => panic!("{error}"),
            }
        }
        // So that time passes while nobody leads.
        sleep(Duration::from_millis(20)).await;
    }
    None
}

/// What the model's fuzzy tests check at the end of each: logs are equal, every acknowledged
/// command is there once, in its place and in order, every state machine has seen the same, and the
/// wire knows one leader per term.
pub(crate) async fn check_everything(
    cluster: &Cluster,
    wire: &Wire,
    acknowledged: &[Acknowledged],
) {
    cluster.network().heal_all();
    let last = cluster.converge().await;
    let rafts = cluster.rafts();
    assert!(2 <= rafts.len());
    let first = log(cluster, rafts[0].id().as_str()).await;
    assert_eq!(first.last().map(|entry| entry.index), Some(last));
    // What a snapshot stands for is gone from the log, not everywhere equally much.
    let mut expected = first.clone();
    for raft in &rafts[1..] {
        let entries = log(cluster, raft.id().as_str()).await;
        let (longer, shorter) =
            if first.len() < entries.len() { (&entries, &first) } else { (&first, &entries) };
        assert!(longer.ends_with(shorter), "law 3: the log of {} is another", raft.id());
        assert!(!shorter.is_empty(), "nothing left to compare");
        if expected.len() < entries.len() {
            expected = entries;
        }
    }
    // `converge` has compared the state machines; this compares them with the log.
    let commands = cluster.journal(rafts[0].id().as_str()).commands();
    let is_command = |entry: &&Entry| matches!(entry.payload, EntryPayload::Command(_));
    let logged: Vec<_> = expected.iter().filter(is_command).map(Entry::data).collect();
    let applied = commands.iter().skip(commands.len() - logged.len());
    assert!(applied.eq(logged), "a state machine has seen something else than the log");
    let distinct: BTreeSet<_> = commands.iter().collect();
    assert_eq!(distinct.len(), commands.len(), "a command was applied twice");

    assert!(!acknowledged.is_empty(), "nothing was acknowledged");
    let mut by_place: BTreeMap<LogIndex, u64> = BTreeMap::new();
    for Acknowledged { command, applied } in acknowledged {
        if let Ok(at) = expected.binary_search_by_key(&applied.index, |entry| entry.index) {
            assert_eq!(expected[at].data(), &command[..], "law 7: at {}", applied.index);
        }
        let answered = commands.get(applied.response as usize - 1);
        assert_eq!(answered, Some(command), "law 7: acknowledged at {}", applied.index);
        assert_eq!(by_place.insert(applied.index, applied.response), None);
    }
    assert!(by_place.values().is_sorted(), "responses are out of order");
    wire.check();
}

/// The id of a server as the network's address.
pub(crate) fn address(id: &ServerId) -> ServerAddress {
    id.as_str().into()
}
