//! Observing a node: what happened, told to whoever asked, without ever holding consensus up.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::{
    configuration::{ClusterId, IndexedConfiguration, ServerId},
    error::Leader,
    position::{LogId, LogIndex, Term},
    rpc::Message,
    snapshot::SnapshotMeta,
    status::{Role, WrongDisk},
};

/// Something that happened on this server.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Observation {
    /// This server plays another part now.
    RoleChanged {
        /// The part.
        role: Role,
        /// The server's term.
        term: Term,
    },
    /// Another leader is known now, or none.
    LeaderChanged {
        /// Who leads.
        leader: Option<Leader>,
    },
    /// Another configuration is in force (appended, not necessarily committed).
    ConfigurationChanged {
        /// The configuration.
        configuration: IndexedConfiguration,
    },
    /// On a leader: a peer has not answered for an election timeout.
    PeerLost {
        /// Who.
        peer: ServerId,
    },
    /// On a leader: a lost peer has answered again.
    PeerRegained {
        /// Who.
        peer: ServerId,
    },
    /// On a leader: a peer answers heartbeats, but for two election timeouts it has taken nothing of
    /// what it lacks, neither entries nor a piece of a snapshot. Its disk may be stuck.
    PeerStalled {
        /// Who.
        peer: ServerId,
        /// The last index known to be durable there.
        match_index: LogIndex,
    },
    /// On a leader: a stalled peer has come further, or lacks nothing any more.
    PeerResumed {
        /// Who.
        peer: ServerId,
    },
    /// A server has asked for this server's vote, or whether it would get it. It asks the latter also when
    /// it starts, without campaigning, to hear what it has promised.
    VoteRequested {
        /// Who asks.
        candidate: ServerId,
        /// The term it asks for.
        term: Term,
        /// Whether it only asks whether it would get the vote (pre-vote).
        is_pre_vote: bool,
        /// Whether it is granted. The answer leaves when the promise is durable.
        is_granted: bool,
    },
    /// On a leader: a peer lacks entries that it acknowledged, so its disk has lost them. Until the
    /// next election it is sent nothing and counts for no commit. Stop it, empty its disk, start it
    /// and [rejoin](crate::Raft::rejoin_server) it.
    PeerLostEntries {
        /// Who.
        peer: ServerId,
    },
    /// A message was dropped because a server, this one or its sender, runs on another disk than the
    /// one its cluster knows it by. Told of once a minute for each sender, also in the log, with the
    /// target `raft::wrong_disk`; see [`Raft::rejoin_server`](crate::Raft::rejoin_server).
    WrongIncarnation {
        /// Who sent the message.
        peer: ServerId,
        /// Whose disk it is, and which ones.
        disk: WrongDisk,
    },
    /// A message was dropped because its sender belongs to another cluster. Told of once a minute for each
    /// sender, also in the log, with the target `raft::wrong_cluster`.
    WrongCluster {
        /// Who sent the message.
        peer: ServerId,
        /// This server's cluster.
        own: ClusterId,
        /// The sender's.
        other: ClusterId,
    },
    /// On a leader: a peer needs entries that are only in a snapshot.
    PeerNeedsSnapshot {
        /// Who.
        peer: ServerId,
    },
    /// A snapshot of this server's state machine is durable.
    SnapshotTaken {
        /// What it stands for.
        meta: SnapshotMeta,
    },
    /// On a leader: a piece of a snapshot was sent.
    SnapshotSent {
        /// To whom.
        peer: ServerId,
        /// How far the transfer has come, in bytes from the start of the snapshot. Falls when the
        /// peer asks for something again.
        sent_bytes: u64,
        /// How many bytes the snapshot has.
        size_bytes: u64,
    },
    /// A piece of a snapshot has arrived from the leader and was kept.
    SnapshotReceiving {
        /// The leader.
        from: ServerId,
        /// The last entry covered by the snapshot.
        last: LogId,
        /// How many bytes of it are here.
        received_bytes: u64,
        /// How many bytes it has.
        size_bytes: u64,
    },
    /// A snapshot of another server has replaced this one's log; its state machine follows.
    SnapshotInstalled {
        /// The last entry covered by the snapshot.
        last: LogId,
    },
    /// This server is no longer a member of its cluster.
    Removed {
        /// Where the committed configuration stands that it is not in.
        configuration_index: LogIndex,
    },
    /// A message was sent. Only for observers that ask for messages.
    Sent {
        /// To whom.
        to: ServerId,
        /// What.
        message: Message,
    },
    /// A message arrived. Only for observers that ask for messages.
    Received {
        /// From whom.
        from: ServerId,
        /// What.
        message: Message,
    },
}

impl Observation {
    /// Whether this is one of the message observations, which are many.
    #[must_use]
    pub fn is_message(&self) -> bool {
        matches!(self, Self::Sent { .. } | Self::Received { .. })
    }
}

/// Receives [`Observation`]s. Made by [`Raft::observe`](crate::Raft::observe); dropping it ends the
/// observation. An observer that does not keep up loses observations, which are counted; it can
/// never hold up consensus (the model's blocking observer can).
#[derive(Debug)]
pub struct Observer {
    receiver: mpsc::Receiver<Observation>,
    dropped: Arc<AtomicU64>,
}

impl Observer {
    /// The next observation, or `None` when the node has ended or the filter has panicked.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Option<Observation> {
        self.receiver.recv().await
    }

    /// The next observation if one is waiting.
    pub fn try_recv(&mut self) -> Option<Observation> {
        self.receiver.try_recv().ok()
    }

    /// How many observations this observer has lost because its queue was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Called by several tasks, at the same time if it comes to that.
type Filter = Box<dyn Fn(&Observation) -> bool + Send + Sync>;

struct Registered {
    filter: Filter,
    sender: mpsc::Sender<Observation>,
    dropped: Arc<AtomicU64>,
    /// The same of all observers of the node together.
    all_dropped: Arc<AtomicU64>,
    has_panicked: AtomicBool,
}

impl Registered {
    /// Offers an observation; returns whether the observer takes further ones.
    fn offer(&self, observation: &Observation) -> bool {
        if self.is_over() {
            return false;
        }
        // What the filter has broken is its own, and it is not called again.
        match catch_unwind(AssertUnwindSafe(|| (self.filter)(observation))) {
            Ok(false) => return true,
            Ok(true) => {}
            Err(_) => {
                self.has_panicked.store(true, Ordering::Release);
                tracing::error!("the filter of an observer has panicked: its observation ends");
                return false;
            }
        }
        match self.sender.try_send(observation.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                self.all_dropped.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }

    fn is_over(&self) -> bool {
        self.sender.is_closed() || self.has_panicked.load(Ordering::Acquire)
    }
}

/// The observers of one node. Shared by the handle (registers) and the tasks that see what happens
/// (notify).
///
/// The lock is held only while one list takes the place of another. Filters, and whatever is dropped
/// with them, are the user's: they run with nothing held, so they may observe anew or stop observing.
#[derive(Default)]
pub(crate) struct Observers {
    registered: Mutex<Arc<[Arc<Registered>]>>,
    /// How many are registered, readable without the lock: the usual answer is none.
    count: AtomicU64,
    /// What all of them have lost so far, those that have ended too.
    dropped: Arc<AtomicU64>,
}

impl Observers {
    pub(crate) fn register(&self, capacity: usize, filter: Filter) -> Observer {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dropped);
        let has_panicked = AtomicBool::new(false);
        let all_dropped = Arc::clone(&self.dropped);
        let new =
            Arc::new(Registered { filter, sender, dropped: counter, all_dropped, has_panicked });
        self.replace(|registered| registered.iter().cloned().chain([new]).collect());
        Observer { receiver, dropped }
    }

    /// How many observations were lost because an observer did not keep up.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Ends every observation: receivers see `None` once they have read what is queued.
    pub(crate) fn close(&self) {
        self.replace(|_| Arc::default());
    }

    /// Shows an observation to whoever observes; it is not even made if nobody does.
    pub(crate) fn notify(&self, observation: impl FnOnce() -> Observation) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let observation = &observation();
        let registered = Arc::clone(&self.registered.lock());
        let left = registered.iter().filter(|observer| observer.offer(observation)).count();
        if left < registered.len() {
            let goes_on = |observer: &&Arc<Registered>| !observer.is_over();
            self.replace(|registered| registered.iter().filter(goes_on).cloned().collect());
        }
    }

    fn replace(&self, next: impl FnOnce(&[Arc<Registered>]) -> Arc<[Arc<Registered>]>) {
        let mut registered = self.registered.lock();
        let next = next(&registered);
        self.count.store(next.len() as u64, Ordering::Release);
        let before = std::mem::replace(&mut *registered, next);
        drop(registered);
        // Only now, because filters may go with it.
        drop(before);
    }
}
