//! Observing a node: what happened, told to whoever asked, without ever holding consensus up.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::{
    configuration::{IndexedConfiguration, ServerId},
    error::Leader,
    log::{LogId, LogIndex, Term},
    rpc::Message,
    snapshot::SnapshotMeta,
};

/// The part a server currently plays (paper Figure 4; pre-candidate: thesis §9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it would be elected, without raising its term yet.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre-candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        })
    }
}

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
    /// The next observation, or `None` when the node has ended.
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

type Filter = Box<dyn Fn(&Observation) -> bool + Send>;

struct Registered {
    filter: Filter,
    sender: mpsc::Sender<Observation>,
    dropped: Arc<AtomicU64>,
}

/// The observers of one node. Shared by the handle (registers) and the `run` task (notifies).
#[derive(Default)]
pub(crate) struct Observers {
    registered: Mutex<Vec<Registered>>,
    /// How many are registered, readable without the lock: the usual answer is none.
    count: AtomicU64,
}

impl Observers {
    pub(crate) fn register(&self, capacity: usize, filter: Filter) -> Observer {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        let dropped = Arc::new(AtomicU64::new(0));
        let mut registered = self.registered.lock();
        registered.push(Registered { filter, sender, dropped: Arc::clone(&dropped) });
        self.count.store(registered.len() as u64, Ordering::Release);
        Observer { receiver, dropped }
    }

    /// Whether anybody observes at all, so that nothing is built for nobody.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Ends every observation: receivers see `None` once they have read what is queued.
    pub(crate) fn close(&self) {
        self.registered.lock().clear();
        self.count.store(0, Ordering::Release);
    }

    pub(crate) fn notify(&self, observation: &Observation) {
        let mut registered = self.registered.lock();
        registered.retain(|observer| {
            if !(observer.filter)(observation) {
                return !observer.sender.is_closed();
            }
            match observer.sender.try_send(observation.clone()) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    observer.dropped.fetch_add(1, Ordering::Relaxed);
                    true
                }
                Err(mpsc::error::TrySendError::Closed(_)) => false,
            }
        });
        self.count.store(registered.len() as u64, Ordering::Release);
    }
}
