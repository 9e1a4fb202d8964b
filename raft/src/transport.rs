//! How messages reach other servers.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use tokio::sync::{
    TryAcquireError,
    mpsc::{self, error::TrySendError},
};

use crate::{
    budget::Budget,
    configuration::{ClusterId, Server, ServerAddress, ServerId},
    error::TransportError,
    log::EntryPayload,
    rpc::{Envelope, Message},
};

/// Who a server is: what every message that it sends says of its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store or a transport keeps all of it: it has to learn of a new field, not to lose it"
)]
pub struct Identity {
    /// Its name.
    pub id: ServerId,
    /// Which cluster it belongs to; [`ClusterId::NONE`] if it does not know one yet.
    pub cluster: ClusterId,
    /// Which disk it runs on; 0 if its store keeps no incarnation.
    pub incarnation: u64,
    /// Which start from that disk this is: the number of starts in the upper half, so that a later life
    /// is a larger number, and a random number in the lower one, so that two lives that begin with the
    /// same copy of a disk differ. 0 if its store keeps no incarnation.
    pub life: u64,
}

impl Identity {
    /// A server that belongs to no cluster yet and keeps no incarnation.
    #[must_use]
    pub fn new(id: impl Into<ServerId>) -> Self {
        Self { id: id.into(), cluster: ClusterId::NONE, incarnation: 0, life: 0 }
    }
}

/// Carries [`Message`]s between servers.
///
/// Delivery is best effort: a message may be lost, delayed, duplicated or overtaken, and `Ok` only
/// means "on its way". The core repeats what matters. Two lanes keep the small and urgent from
/// waiting behind the large: [`send`](Self::send) for everything but bulk data,
/// [`send_entries`](Self::send_entries) for `AppendEntries` and `InstallSnapshot`. Within the entries lane to one peer
/// the order is kept as long as the connection lives.
///
/// That a peer cannot be reached, and that it can again, is for the implementation to log: nobody else
/// knows what became of a message that was taken.
///
/// Test an implementation with `raft::testing::transport_suite` (feature `testing`).
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// The address other servers dial to reach this one.
    fn local_address(&self) -> ServerAddress;

    /// Starts delivering received messages to `inbox`. Whatever is sent carries this identity from now
    /// on, and the incarnation that the [`Server`] has to which it is sent: see [`Envelope`]. Called
    /// once, by [`Raft::new`](crate::Raft::new).
    ///
    /// An implementation that can go on no more drops the inbox and all clones of it, which ends the server
    /// with [`Fatal::TransportClosed`](crate::Fatal::TransportClosed).
    ///
    /// # Errors
    /// [`TransportError`] when the transport cannot start (a port in use) or was started before.
    async fn start(&self, identity: Identity, inbox: Inbox) -> Result<(), TransportError>;

    /// The server belongs to this cluster from now on: it was bootstrapped, or a leader has taken it in.
    /// Messages that are sent after this call say so.
    fn set_cluster(&self, cluster: ClusterId);

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
    entries: mpsc::Sender<Weighed>,
    /// Of the entries lane: nothing in the other is large.
    budget: Arc<Budget>,
}

impl Inbox {
    /// An inbox with room for `capacity` messages (at least one) in each lane and 4 GiB of entries,
    /// and the end it is read from.
    #[must_use]
    pub fn new(capacity: usize) -> (Self, Received) {
        Self::with_bytes(capacity, u64::MAX)
    }

    /// The same with room for so many bytes of entries (at most 4 GiB), where each message counts 32
    /// bytes beside its [`cost_bytes`](crate::Entries::cost_bytes) or its piece of a snapshot. A larger message enters alone.
    #[must_use]
    pub fn with_bytes(capacity: usize, bytes: u64) -> (Self, Received) {
        let (urgent, urgent_end) = mpsc::channel(capacity.max(1));
        let (entries, entries_end) = mpsc::channel(capacity.max(1));
        let budget = Arc::new(Budget::new(bytes));
        let received = Received {
            urgent: urgent_end,
            entries: entries_end,
            weighed: Vec::new(),
            budget: Arc::clone(&budget),
        };
        (Self { urgent, entries, budget }, received)
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
        let Some(part) = part(&self.budget, &envelope.message) else {
            return self.urgent.send(envelope).await.map_err(|_| TransportError::Closed);
        };
        let taken = self.budget.take(part).await.map_err(|_| TransportError::Closed)?;
        let weighed = Weighed { envelope, part };
        self.entries.send(weighed).await.map_err(|_| TransportError::Closed)?;
        taken.forget();
        Ok(())
    }

    /// Delivers a message if there is room in its lane.
    ///
    /// # Errors
    /// [`TransportError::Full`] when there is none, [`TransportError::Closed`] when the server has
    /// stopped.
    pub fn try_deliver(&self, envelope: Envelope) -> Result<(), TransportError> {
        let Some(part) = part(&self.budget, &envelope.message) else {
            return self.urgent.try_send(envelope).map_err(refused);
        };
        let taken = self.budget.try_take(part).map_err(|error| match error {
            TryAcquireError::NoPermits => TransportError::Full,
            TryAcquireError::Closed => TransportError::Closed,
        })?;
        self.entries.try_send(Weighed { envelope, part }).map_err(refused)?;
        taken.forget();
        Ok(())
    }
}

/// A message in the entries lane, and what it has taken of the budget: to count its entries once is
/// cheaper than to count them again when it is taken out.
#[derive(Debug)]
struct Weighed {
    envelope: Envelope,
    part: u32,
}

fn refused<T>(error: TrySendError<T>) -> TransportError {
    match error {
        TrySendError::Full(_) => TransportError::Full,
        TrySendError::Closed(_) => TransportError::Closed,
    }
}

/// What a message takes of the entries lane's budget; `None` if it belongs in the other lane.
fn part(budget: &Budget, message: &Message) -> Option<u32> {
    message.bulk_bytes().map(|bytes| budget.part(EntryPayload::OVERHEAD_BYTES + bytes))
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox")
            .field("urgent_room", &self.urgent.capacity())
            .field("entries_room", &self.entries.capacity())
            .field("entries_bytes", &self.budget)
            .finish()
    }
}

/// Where what was delivered to an [`Inbox`] is read: the urgent lane first.
#[derive(Debug)]
pub struct Received {
    urgent: mpsc::Receiver<Envelope>,
    entries: mpsc::Receiver<Weighed>,
    /// Only for what is being taken; kept for its memory.
    weighed: Vec<Weighed>,
    budget: Arc<Budget>,
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
            Some(Weighed { envelope, part }) = self.entries.recv() => {
                self.budget.give_back(part);
                Some(envelope)
            }
            else => None,
        }
    }

    /// The next message if one is waiting.
    ///
    /// # Errors
    /// [`mpsc::error::TryRecvError`] when none is.
    pub fn try_recv(&mut self) -> Result<Envelope, mpsc::error::TryRecvError> {
        self.urgent.try_recv().or_else(|_| {
            let Weighed { envelope, part } = self.entries.try_recv()?;
            self.budget.give_back(part);
            Ok(envelope)
        })
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
            self.entries.poll_recv_many(cx, &mut self.weighed, limit)
        } else {
            Poll::Pending
        };
        if !self.weighed.is_empty() {
            self.budget.give_back(self.weighed.iter().map(|weighed| weighed.part).sum());
            taken.extend(self.weighed.drain(..).map(|weighed| weighed.envelope));
        }
        match (urgent, entries) {
            (Poll::Pending, Poll::Pending) => Poll::Pending,
            (Poll::Ready(0), Poll::Ready(0) | Poll::Pending) => Poll::Ready(false),
            _ => Poll::Ready(true),
        }
    }

    /// How many messages wait in the urgent lane, and in that of the entries.
    pub(crate) fn lengths(&self) -> (usize, usize) {
        (self.urgent.len(), self.entries.len())
    }

    /// Refuses further messages; what is queued can still be read.
    pub fn close(&mut self) {
        self.budget.close();
        self.urgent.close();
        self.entries.close();
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        // As the channels do: whoever waits for bytes must not wait for ever.
        self.budget.close();
    }
}

#[cfg(test)]
mod tests;
