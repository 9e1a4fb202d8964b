//! How messages reach other servers.

use std::fmt;

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
/// waiting behind the large: [`send`](Self::send) for everything but entries,
/// [`send_entries`](Self::send_entries) for `AppendEntries`. Within the entries lane to one peer
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

    /// Forgets a peer that is no longer part of any configuration: connections to it are closed.
    fn forget(&self, _peer: &ServerId) {}

    /// Stops listening, closes every connection. Idempotent; returns when all is closed.
    async fn close(&self);
}

/// The receiving end of a server, handed to its transport by [`Transport::start`]. Cheap to clone.
#[derive(Clone)]
pub struct Inbox {
    sender: mpsc::Sender<Envelope>,
}

impl Inbox {
    /// An inbox that holds up to `capacity` messages (at least one), and the end it is read from.
    #[must_use]
    pub fn new(capacity: usize) -> (Self, mpsc::Receiver<Envelope>) {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        (Self { sender }, receiver)
    }

    /// Delivers a message, waiting for room: a saturated server pushes back on its peers.
    ///
    /// # Errors
    /// [`TransportError::Closed`] when the server has stopped.
    ///
    /// # Cancel safety
    /// Dropping the future before it ends does not deliver the message.
    pub async fn deliver(&self, envelope: Envelope) -> Result<(), TransportError> {
        self.sender.send(envelope).await.map_err(|_| TransportError::Closed)
    }

    /// Delivers a message if there is room.
    ///
    /// # Errors
    /// [`TransportError::Full`] when there is none, [`TransportError::Closed`] when the server has
    /// stopped.
    pub fn try_deliver(&self, envelope: Envelope) -> Result<(), TransportError> {
        self.sender.try_send(envelope).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => TransportError::Full,
            mpsc::error::TrySendError::Closed(_) => TransportError::Closed,
        })
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("room", &self.sender.capacity()).finish()
    }
}
