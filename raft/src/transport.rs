//! How messages reach other servers.

use std::{
    fmt,
    task::{Context, Poll},
};

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::{
    configuration::{Server, ServerAddress, ServerId},
    error::TransportError,
    rpc::{Envelope, Message},
};

/// Carries [`Message`]s between servers.
///
/// Delivery is best effort: a message may be lost, delayed, duplicated or overtaken, and `Ok` only
/// means "on its way". The core repeats what matters. Two lanes keep the small and urgent from
/// waiting behind the large: [`send`](Self::send) for everything but bulk data,
/// [`send_entries`](Self::send_entries) for `AppendEntries` and `InstallSnapshot`. Within the entries lane to one peer
/// the order is kept as long as the connection lives.
///
/// Test an implementation with `raft::testing::transport_suite` (feature `testing`).
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// The address other servers dial to reach this one.
    fn local_address(&self) -> ServerAddress;

    /// Starts delivering received messages to `inbox`, in the name of server `id`. Called once, by
    /// [`Raft::new`](crate::Raft::new).
    ///
    /// # Errors
    /// [`TransportError`] when the transport cannot start (a port in use) or was started before.
    async fn start(&self, id: ServerId, inbox: Inbox) -> Result<(), TransportError>;

    /// Sends a message at once or not at all. Never waits: called by the task that owns consensus.
    ///
    /// # Errors
    /// [`TransportError::Full`] when the lane to this peer has no room,
    /// [`TransportError::Unreachable`] or [`TransportError::Closed`]. The message is lost.
    fn send(&self, to: &Server, message: Message) -> Result<(), TransportError>;

    /// Sends an `AppendEntries` (any other message is allowed too) over the ordered lane, waiting
    /// for room in it. This is the back-pressure of replication.
    ///
    /// # Errors
    /// [`TransportError::Unreachable`] or [`TransportError::Closed`]. The message is lost.
    ///
    /// # Cancel safety
    /// Dropping the future before it ends leaves the message sent or not sent, never half.
    async fn send_entries(&self, to: &Server, message: Message) -> Result<(), TransportError>;

    /// The largest message this transport carries, in bytes of entries as counted by
    /// [`Entries::cost_bytes`](crate::Entries::cost_bytes), and the longest piece of a snapshot,
    /// whatever its configuration. [`Raft::new`](crate::Raft::new) refuses settings that allow
    /// larger ones: what cannot be carried would stop replication for good. The default has no
    /// limit.
    fn max_entries_bytes(&self) -> u64 {
        u64::MAX
    }

    /// Forgets a peer that is no longer part of any configuration: connections to it are closed.
    fn forget(&self, _peer: &ServerId) {}

    /// Stops listening, closes every connection. Idempotent; returns when all is closed.
    async fn close(&self);
}

/// The receiving end of a server, handed to its transport by [`Transport::start`]. Cheap to clone.
///
/// It has two lanes, as a transport does: a heartbeat or a vote never waits for room behind
/// entries, however many a saturated server has left unread.
#[derive(Clone)]
pub struct Inbox {
    urgent: mpsc::Sender<Envelope>,
    entries: mpsc::Sender<Envelope>,
}

impl Inbox {
    /// An inbox with room for `capacity` messages (at least one) in each lane, and the end it is
    /// read from.
    #[must_use]
    pub fn new(capacity: usize) -> (Self, Received) {
        let (urgent, urgent_end) = mpsc::channel(capacity.max(1));
        let (entries, entries_end) = mpsc::channel(capacity.max(1));
        (Self { urgent, entries }, Received { urgent: urgent_end, entries: entries_end })
    }

    fn lane(&self, message: &Message) -> &mpsc::Sender<Envelope> {
        match message {
            Message::AppendEntries(_) | Message::InstallSnapshot(_) => &self.entries,
            Message::AppendEntriesReply(_)
            | Message::Heartbeat(_)
            | Message::HeartbeatReply(_)
            | Message::RequestVote(_)
            | Message::RequestVoteReply(_)
            | Message::TimeoutNow(_)
            | Message::InstallSnapshotReply(_)
            | Message::Removed(_) => &self.urgent,
        }
    }

    /// Delivers a message, waiting for room in its lane: a saturated server pushes back on its
    /// peers.
    ///
    /// # Errors
    /// [`TransportError::Closed`] when the server has stopped.
    ///
    /// # Cancel safety
    /// Dropping the future before it ends does not deliver the message.
    pub async fn deliver(&self, envelope: Envelope) -> Result<(), TransportError> {
        let lane = self.lane(&envelope.message);
        lane.send(envelope).await.map_err(|_| TransportError::Closed)
    }

    /// Delivers a message if there is room in its lane.
    ///
    /// # Errors
    /// [`TransportError::Full`] when there is none, [`TransportError::Closed`] when the server has
    /// stopped.
    pub fn try_deliver(&self, envelope: Envelope) -> Result<(), TransportError> {
        self.lane(&envelope.message).try_send(envelope).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => TransportError::Full,
            mpsc::error::TrySendError::Closed(_) => TransportError::Closed,
        })
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox")
            .field("urgent_room", &self.urgent.capacity())
            .field("entries_room", &self.entries.capacity())
            .finish()
    }
}

/// Where what was delivered to an [`Inbox`] is read: the urgent lane first.
#[derive(Debug)]
pub struct Received {
    urgent: mpsc::Receiver<Envelope>,
    entries: mpsc::Receiver<Envelope>,
}

impl Received {
    /// The next message, or `None` when every [`Inbox`] is gone and all is read.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Option<Envelope> {
        tokio::select! {
            biased;
            Some(envelope) = self.urgent.recv() => Some(envelope),
            Some(envelope) = self.entries.recv() => Some(envelope),
            else => None,
        }
    }

    /// The next message if one is waiting.
    ///
    /// # Errors
    /// [`mpsc::error::TryRecvError`] when none is.
    pub fn try_recv(&mut self) -> Result<Envelope, mpsc::error::TryRecvError> {
        self.urgent.try_recv().or_else(|_| self.entries.try_recv())
    }

    /// Takes up to `limit` messages of each lane that is asked for, the urgent lane first. Ready
    /// with `false` when every [`Inbox`] is gone and nothing is left.
    pub(crate) fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        taken: &mut Vec<Envelope>,
        limit: usize,
        takes_entries: bool,
    ) -> Poll<bool> {
        let urgent = self.urgent.poll_recv_many(cx, taken, limit);
        let entries = if takes_entries {
            self.entries.poll_recv_many(cx, taken, limit)
        } else {
            Poll::Pending
        };
        match (urgent, entries) {
            (Poll::Pending, Poll::Pending) => Poll::Pending,
            (Poll::Ready(0), Poll::Ready(0) | Poll::Pending) => Poll::Ready(false),
            _ => Poll::Ready(true),
        }
    }

    /// Refuses further messages; what is queued can still be read.
    pub fn close(&mut self) {
        self.urgent.close();
        self.entries.close();
    }
}
