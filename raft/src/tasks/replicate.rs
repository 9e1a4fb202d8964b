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
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use tokio::sync::mpsc;

use super::{metrics::Metrics, shared::Shared};
use crate::{
    configuration::Server,
    consensus::AppendOrder,
    error::Fatal,
    log::{Entries, LogReader},
    log_tail::Load,
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
    /// Carries out an order at once, if nothing about it has to wait. Returns whether that is done,
    /// well or badly.
    pub(super) fn send_now(&self, peer: &Server, Order { order, generation, .. }: &Order) -> bool {
        let mut entries = Entries::default();
        let (first, last) = (order.prev.index.next(), order.last);
        if first <= last {
            let bytes = SEND_NOW_BYTES.min(self.shared.max_append_bytes());
            match self.shared.tail.load(*generation, (first, last), bytes) {
                Load::Entries(all) if all.last_id().is_some_and(|id| id.index == last) => {
                    entries = all;
                }
                Load::Entries(_) | Load::OnDisk { .. } | Load::Compacted | Load::Stale => {
                    return false;
                }
            }
        }
        let message = message(order, order.prev, entries);
        self.observe(peer, &message);
        let mut sending = self.transport.send_entries(peer, message);
        // One look, by nobody in particular. If the lane has no room the message is given up here,
        // and sent by the task; should it have gone out after all, the receiver copes.
        match sending.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(_)) => {
                self.metrics.send_failed();
                self.shared.unreachable(&peer.id);
                true
            }
            Poll::Pending => false,
        }
    }

    /// Tells of a message that is about to be sent.
    pub(super) fn observe(&self, peer: &Server, message: &Message) {
        self.metrics.sent(message);
        tracing::trace!(server = %self.shared.id, to = %peer.id, %message, "sending");
        let observers = &self.shared.observers;
        if !observers.is_empty() {
            let (to, message) = (peer.id.clone(), message.clone());
            observers.notify(&Observation::Sent { to, message });
        }
    }
}

fn message(order: &AppendOrder, prev: LogId, entries: Entries) -> Message {
    Message::AppendEntries(AppendEntriesRequest {
        term: order.term,
        round: order.round,
        prev,
        entries,
        commit_index: order.commit_index,
    })
}

/// What became of a range to be sent.
enum Loaded {
    /// Its first part.
    Entries(Entries),
    /// The log was truncated since: the order is void.
    Void,
    /// The log does not have it any more: the peer needs a snapshot.
    Compacted,
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
                    self.sources.shared.unreachable(&self.peer.id);
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
    async fn carry_out(
        &mut self,
        Order { order, generation, incarnation }: Order,
    ) -> Result<bool, Fatal> {
        self.peer.incarnation = incarnation;
        let mut prev = order.prev;
        loop {
            let entries = if prev.index < order.last {
                match self.load(generation, (prev.index.next(), order.last)).await? {
                    Loaded::Entries(entries) => entries,
                    Loaded::Void => return Ok(true),
                    Loaded::Compacted => return Ok(false),
                }
            } else {
                Entries::default()
            };
            let end: LogId = entries.last_id().unwrap_or(prev);
            let message = message(&order, prev, entries);
            self.sources.observe(&self.peer, &message);
            if self.sources.transport.send_entries(&self.peer, message).await.is_err() {
                self.sources.metrics.send_failed();
                return Ok(false);
            }
            prev = end;
            if order.last <= prev.index {
                return Ok(true);
            }
        }
    }

    /// The first part of what is asked for.
    async fn load(
        &self,
        generation: u64,
        (first, last): (LogIndex, LogIndex),
    ) -> Result<Loaded, Fatal> {
        let Sources { shared, reader, .. } = &*self.sources;
        let max_append_bytes = shared.max_append_bytes();
        match shared.tail.load(generation, (first, last), max_append_bytes) {
            Load::Stale => Ok(Loaded::Void),
            Load::Compacted => Ok(Loaded::Compacted),
            Load::Entries(entries) => Ok(Loaded::Entries(entries)),
            Load::OnDisk { up_to } => {
                let read = reader.read(first..=up_to, max_append_bytes).await;
                // Looked at after reading: what was read belongs to the order only if nothing was
                // truncated until then. An error may only mean that it was, or was compacted.
                if shared.tail.generation() != generation {
                    return Ok(Loaded::Void);
                }
                match read {
                    Ok(entries) => Ok(Loaded::Entries(entries)),
                    Err(_) if shared.tail.is_compacted(first) => Ok(Loaded::Compacted),
                    Err(error) => Err(Fatal::Store(error)),
                }
            }
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
