//! `replicate`: sends one peer the entries it is to get, in order. One task per peer.
//!
//! It decides nothing: the core gives the orders and bounds how many are under way; this task loads
//! what they name, from the log's tail or from the store, and waits for room in the transport's
//! ordered lane, which is the back-pressure of replication. It only reads.
//!
//! Most orders need no waiting: what they name is in memory and the lane has room. As long as this
//! task has nothing to do, `run` tries these itself ([`Sources::send_now`]), which saves a change of
//! tasks on the way of every write; what would have to wait comes here.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use tokio::sync::mpsc;

use super::shared::Shared;
use crate::{
    configuration::Server,
    consensus::AppendOrder,
    error::Fatal,
    log::{Entries, LogReader},
    log_tail::Load,
    metrics::Metrics,
    observer::Observation,
    position::{LogId, LogIndex},
    rpc::{AppendEntriesRequest, Message},
    snapshot::SnapshotStore,
    transport::Transport,
};

/// Orders taken from the queue at once at most.
const ORDERS_MAX: usize = 64;

/// A message with more bytes of entries is left to this task: a transport may have to encode it.
const SEND_NOW_BYTES: u64 = 64 << 10;

/// An order, the generation of the log in which it was given, and the disk that the configuration
/// then knew the peer by, which may become known while its task runs.
pub(super) struct Order {
    pub(super) order: AppendOrder,
    pub(super) generation: u64,
    pub(super) incarnation: u64,
}

/// What all tasks that send to peers share.
pub(super) struct Sources {
    pub(super) shared: Arc<Shared>,
    pub(super) reader: Arc<dyn LogReader>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) snapshots: Arc<dyn SnapshotStore>,
    pub(super) metrics: Arc<Metrics>,
}

impl Sources {
    /// The next message that carries out an order, with entries of at most so many bytes but at least
    /// one; `from` is the entry before them.
    fn next_message(
        &self,
        Order { order, generation, .. }: &Order,
        from: LogId,
        max_bytes: u64,
    ) -> Next {
        let (first, last) = (from.index.next(), order.last);
        let entries = if last < first {
            Entries::default()
        } else {
            match self.shared.tail.load(*generation, (first, last), max_bytes) {
                Load::Entries(entries) => entries,
                Load::OnDisk { up_to } => return Next::OnDisk { up_to },
                Load::Stale => return Next::Void,
                Load::Compacted => return Next::Compacted,
            }
        };
        Next::Message(message(order, from, entries))
    }

    /// Carries out an order at once, if nothing about it has to wait. Returns whether that is done,
    /// well or badly.
    pub(super) fn send_now(&self, peer: &Server, order: &Order) -> bool {
        let max_bytes = SEND_NOW_BYTES.min(self.shared.max_append_bytes());
        let request = match self.next_message(order, order.order.prev, max_bytes) {
            Next::Message(request) if end_of(&request).index == order.order.last => request,
            _ => return false,
        };
        let mut sending = pin!(self.send(peer, request));
        // One look, by nobody in particular. If the lane has no room the message is given up here,
        // and sent by the task; should it have gone out after all, the receiver copes.
        match sending.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(true) => true,
            Poll::Ready(false) => {
                self.shared.signals.unreachable(&peer.id);
                true
            }
            Poll::Pending => false,
        }
    }

    /// Sends a message as soon as there is room for it. Returns whether the transport took it.
    async fn send(&self, peer: &Server, request: AppendEntriesRequest) -> bool {
        let message = Message::AppendEntries(request);
        self.observe(peer, &message);
        let is_sent = self.transport.send_entries(peer, message).await.is_ok();
        if !is_sent {
            self.metrics.send_failed();
        }
        is_sent
    }

    /// Tells of a message that is about to be sent.
    pub(super) fn observe(&self, peer: &Server, message: &Message) {
        self.metrics.sent(message);
        tracing::trace!(server = %self.shared.id, to = %peer.id, %message, "sending");
        let sent = || Observation::Sent { to: peer.id.clone(), message: message.clone() };
        self.shared.observers.notify(sent);
    }
}

/// What is to be sent next.
enum Next {
    /// This.
    Message(AppendEntriesRequest),
    /// At least up to here it has to be read from the store.
    OnDisk { up_to: LogIndex },
    /// The log was truncated since: the order is void.
    Void,
    /// The log does not have it any more: the peer needs a snapshot.
    Compacted,
}

fn message(order: &AppendOrder, prev: LogId, entries: Entries) -> AppendEntriesRequest {
    let AppendOrder { term, round, commit_index, .. } = *order;
    AppendEntriesRequest { term, round, prev, entries, commit_index }
}

/// The last entry in a message, or the one before it if it has none.
fn end_of(request: &AppendEntriesRequest) -> LogId {
    request.entries.last_id().unwrap_or(request.prev)
}

pub(super) struct Replicate {
    pub(super) peer: Server,
    pub(super) sources: Arc<Sources>,
    /// How many orders are in the queue or being carried out.
    pub(super) backlog: Arc<AtomicUsize>,
}

impl Replicate {
    /// Runs until `run` drops its end of the queue.
    pub(super) async fn run(
        mut self,
        mut orders: mpsc::UnboundedReceiver<Order>,
    ) -> Result<(), Fatal> {
        let mut taken = Vec::new();
        while orders.recv_many(&mut taken, ORDERS_MAX).await != 0 {
            let count = taken.len();
            let lost = taken_for_lost(&taken);
            for order in taken.drain(..).skip(lost) {
                if !self.carry_out(order).await? {
                    // What was ordered after this would arrive with a gap before it.
                    self.sources.shared.signals.unreachable(&self.peer.id);
                    break;
                }
            }
            self.backlog.fetch_sub(count, Ordering::Release);
        }
        Ok(())
    }

    /// Sends one order in one message or several. Returns whether all of it went out: the transport
    /// may not have taken it, or the log may not have it any more. Either way the core finds out
    /// anew what the peer needs.
    async fn carry_out(&mut self, order: Order) -> Result<bool, Fatal> {
        self.peer.incarnation = order.incarnation;
        let mut prev = order.order.prev;
        loop {
            let max_bytes = self.sources.shared.max_append_bytes();
            let mut next = self.sources.next_message(&order, prev, max_bytes);
            if let Next::OnDisk { up_to } = next {
                next = self.read(&order, prev, up_to, max_bytes).await?;
            }
            let request = match next {
                Next::Message(request) => request,
                Next::Void | Next::OnDisk { .. } => return Ok(true),
                Next::Compacted => return Ok(false),
            };
            prev = end_of(&request);
            if !self.sources.send(&self.peer, request).await {
                return Ok(false);
            }
            if order.order.last <= prev.index {
                return Ok(true);
            }
        }
    }

    /// The same message out of the store.
    async fn read(
        &self,
        Order { order, generation, .. }: &Order,
        prev: LogId,
        up_to: LogIndex,
        max_bytes: u64,
    ) -> Result<Next, Fatal> {
        let Sources { shared, reader, .. } = &*self.sources;
        let first = prev.index.next();
        let read = reader.read(first..=up_to, max_bytes).await;
        // Looked at after reading: what was read belongs to the order only if nothing was truncated
        // until then. An error may only mean that it was, or was compacted.
        if shared.tail.generation() != *generation {
            return Ok(Next::Void);
        }
        match read {
            Ok(entries) => Ok(Next::Message(message(order, prev, entries))),
            Err(_) if shared.tail.is_compacted(first) => Ok(Next::Compacted),
            Err(error) => Err(Fatal::Store(error)),
        }
    }
}

/// How many of the first orders the core has given up: a step back says that what was ordered
/// before it counts as lost. A lane that was stuck must not send it all once more.
fn taken_for_lost(orders: &[Order]) -> usize {
    let follows = |pair: &[Order]| match pair {
        [before, after] => after.order.prev.index == before.order.last,
        _ => true,
    };
    orders.windows(2).rposition(|pair| !follows(pair)).map_or(0, |before| before + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Term;

    #[test]
    fn a_lane_that_was_stuck_does_not_repeat_what_was_given_up() {
        let order = |&(prev, last): &(u64, u64)| Order {
            order: AppendOrder {
                to: "b".into(),
                term: Term(1),
                round: 1,
                prev: LogId::new(1, prev),
                last: LogIndex(last),
                commit_index: LogIndex(0),
            },
            generation: 0,
            incarnation: 0,
        };
        let lost =
            |ranges: &[(u64, u64)]| taken_for_lost(&ranges.iter().map(order).collect::<Vec<_>>());
        assert_eq!(lost(&[]), 0);
        assert_eq!(lost(&[(0, 5), (5, 9), (9, 9)]), 0);
        assert_eq!(lost(&[(0, 5), (5, 9), (0, 5)]), 2);
        assert_eq!(lost(&[(0, 5), (0, 5), (0, 5), (5, 7)]), 2);
    }
}
