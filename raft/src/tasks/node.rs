//! The way into a node: how requests of the handle get into the queue of `run`.
//!
//! There is one queue for all kinds, so `run` sees them in the order of the calls. It is bounded where
//! requests enter, by two budgets: one for proposals, which are commands, batches and barriers, and one
//! for the rest. When `run` has no room for more entries, proposals are set aside here until it has,
//! each for as long as its caller is willing to wait, and all that follow go behind them. The rest
//! passes: what is asked of a saturated server is answered, and what could help it happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::sync::{
    TryAcquireError,
    mpsc::{self, error::TrySendError},
};

use super::{
    request::{Proposal, Proposed, Request},
    shared::Shared,
};
use crate::{
    budget::Budget,
    clock::{self, Clock},
    consensus::Time,
    error::{ApplyError, Fatal, Outcome},
    future::{Call, Ended, EnqueueError, EnqueueTimeout, Receiver, Responder},
};

/// A running node, held by its handle. Dropping it ends the node.
pub(crate) struct Node<R> {
    pub(crate) shared: Arc<Shared>,
    pub(super) entrance: Entrance<R>,
}

/// The end of the queue at which requests enter.
pub(super) struct Entrance<R> {
    queue: mpsc::UnboundedSender<Queued<R>>,
    room: Arc<Room>,
}

/// The end of the queue at which `run` takes the requests out.
pub(super) struct Requests<R> {
    queue: mpsc::UnboundedReceiver<Queued<R>>,
    room: Arc<Room>,
    aside: Aside<R>,
    /// Only for what is being taken; kept for its memory.
    received: Vec<Queued<R>>,
}

/// A request in the queue, and what it has taken of the room.
struct Queued<R> {
    request: Request<R>,
    part: u32,
}

/// How much may be in the queue. What brings entries can fill its own room only, so that there is
/// always room for the rest.
struct Room {
    proposals: Budget,
    /// What a proposal takes at least, so that one budget bounds both bytes and number.
    place: u32,
    /// The rest, which `run` takes up at once, in number.
    others: Budget,
}

/// Proposals that were taken out of the queue while there was no room for their entries, in the order
/// in which they came. They keep their room in the queue.
struct Aside<R> {
    waiting: BTreeMap<u64, SetAside<R>>,
    /// When which of them has waited long enough.
    deadlines: BTreeSet<(Time, u64)>,
    next: u64,
}

struct SetAside<R> {
    proposal: Proposal<R>,
    part: u32,
    deadline: Time,
}

/// A queue with room for so many requests that bring entries and so many bytes of these, and for as
/// many other requests.
pub(super) fn queue<R>(places: usize, bytes: u64) -> (Entrance<R>, Requests<R>) {
    let (entrance, queue) = mpsc::unbounded_channel();
    let room = Arc::new(Room::new(places as u64, bytes));
    let aside = Aside { waiting: BTreeMap::new(), deadlines: BTreeSet::new(), next: 0 };
    let requests = Requests { queue, room: Arc::clone(&room), aside, received: Vec::new() };
    (Entrance { queue: entrance, room }, requests)
}

impl<R> Drop for Node<R> {
    fn drop(&mut self) {
        self.shared.stop(Fatal::Shutdown);
    }
}

/// A request on its way into a full queue; fails when the node ends first.
type Sending = Pin<Box<dyn Future<Output = Result<(), Closed>> + Send>>;

/// The queue has closed: the node has ended.
struct Closed;

impl<R: Send + 'static> Node<R> {
    /// Puts entries into the queue, now if there is room, else as soon as there is. They are refused
    /// if they are not taken up within the limit.
    pub(crate) fn propose<T: Send + 'static>(
        &self,
        timeout: Duration,
        what: impl FnOnce(Responder<T, ApplyError>) -> Proposed<R>,
    ) -> Call<T, ApplyError> {
        self.call(timeout, |responder| {
            Request::Propose(Proposal { what: what(responder), timeout, since: None })
        })
    }

    /// Puts a request into the queue, now if there is room, else as soon as there is, within a
    /// limit.
    pub(crate) fn call<T, E>(
        &self,
        timeout: Duration,
        request: impl FnOnce(Responder<T, E>) -> Request<R>,
    ) -> Call<T, E>
    where
        T: Send + 'static,
        E: Ended + EnqueueTimeout + Send + 'static,
    {
        let (responder, receiver) = Responder::new();
        self.enqueue(request(responder), receiver, |sending| async move {
            match clock::within(timeout, sending).await {
                Some(sent) => sent.map_err(|Closed| EnqueueError::Closed),
                None => Err(EnqueueError::Timeout(E::enqueue_timeout(timeout))),
            }
        })
    }

    /// The same without a limit, for requests that have no error for it.
    pub(crate) fn ask<T, E>(
        &self,
        request: impl FnOnce(Responder<T, E>) -> Request<R>,
    ) -> Call<T, E>
    where
        T: Send + 'static,
        E: Ended + Send + 'static,
    {
        let (responder, receiver) = Responder::new();
        self.enqueue(request(responder), receiver, |sending| async move {
            sending.await.map_err(|Closed| EnqueueError::Closed)
        })
    }

    fn enqueue<T, E, W>(
        &self,
        request: Request<R>,
        receiver: Receiver<T, E>,
        wait: impl FnOnce(Sending) -> W,
    ) -> Call<T, E>
    where
        T: Send + 'static,
        E: Ended + Send + 'static,
        W: Future<Output = Result<(), EnqueueError<E>>> + Send + 'static,
    {
        let end = Arc::clone(&self.shared.end);
        match self.entrance.try_send(request) {
            Ok(()) => Call::waiting(end, receiver),
            Err(TrySendError::Closed(_)) => Call::stopped(end, Outcome::NotApplied),
            Err(TrySendError::Full(request)) => {
                let sending = self.entrance.clone().send(request, self.shared.clock);
                Call::enqueueing(end, wait(Box::pin(sending)), receiver)
            }
        }
    }
}

impl<R> Entrance<R> {
    /// Puts a request into the queue if there is room for it.
    fn try_send(&self, request: Request<R>) -> Result<(), TrySendError<Request<R>>> {
        let (budget, part) = self.room.of(&request);
        match budget.try_take(part) {
            Ok(taken) => {
                let sent = self.queue.send(Queued { request, part });
                sent.map_err(|refused| TrySendError::Closed(refused.0.request))?;
                taken.forget();
                Ok(())
            }
            Err(TryAcquireError::NoPermits) => Err(TrySendError::Full(request)),
            Err(TryAcquireError::Closed) => Err(TrySendError::Closed(request)),
        }
    }

    /// Puts a request into the queue as soon as there is room for it. One after the other gets its
    /// room, so they stay in the order in which they began to wait.
    async fn send(self, mut request: Request<R>, clock: Clock) -> Result<(), Closed> {
        if let Request::Propose(proposal) = &mut request {
            proposal.since = Some(clock.now());
        }
        let (budget, part) = self.room.of(&request);
        let taken = budget.take(part).await.map_err(|_| Closed)?;
        self.queue.send(Queued { request, part }).map_err(|_| Closed)?;
        taken.forget();
        Ok(())
    }
}

impl<R> Clone for Entrance<R> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), room: Arc::clone(&self.room) }
    }
}

impl Room {
    fn new(places: u64, bytes: u64) -> Self {
        let proposals = Budget::new(bytes);
        let place = proposals.part(bytes / places);
        Self { proposals, place, others: Budget::new(places) }
    }

    /// Which budget a request takes its part of, and how much.
    fn of<R>(&self, request: &Request<R>) -> (&Budget, u32) {
        match request {
            Request::Propose(proposal) => {
                (&self.proposals, self.proposals.part(proposal.cost_bytes()).max(self.place))
            }
            Request::Verify { .. }
            | Request::Change(_)
            | Request::Bootstrap { .. }
            | Request::Transfer { .. }
            | Request::Snapshot { .. }
            | Request::Restore { .. }
            | Request::Reload { .. }
            | Request::Status { .. } => (&self.others, 1),
        }
    }

    fn close(&self) {
        self.proposals.close();
        self.others.close();
    }
}

impl<R> Requests<R> {
    /// Takes requests, about `limit` at most. Without room for more entries what brings some is set
    /// aside, and the rest passes it; otherwise all keep their order.
    pub(super) fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        taken: &mut Vec<Request<R>>,
        limit: usize,
        has_room: bool,
        clock: Clock,
    ) -> Poll<()> {
        let before = taken.len();
        let (mut proposals, mut others) = (0, 0);
        if has_room {
            while taken.len() < before + limit
                && let Some(SetAside { proposal, part, .. }) = self.aside.take_first()
            {
                proposals += part;
                taken.push(Request::Propose(proposal));
            }
        }
        let passes = has_room && self.aside.waiting.is_empty();
        // What was only set aside is nothing that the caller has to do: then the queue is polled until
        // it will wake the caller.
        loop {
            let received = self.queue.poll_recv_many(cx, &mut self.received, limit);
            // The queue ends only after the node does.
            if !matches!(received, Poll::Ready(1..)) {
                break;
            }
            for Queued { request, part } in self.received.drain(..) {
                match request {
                    Request::Propose(proposal) if !passes => {
                        self.aside.put(proposal, part, || clock.now());
                        continue;
                    }
                    Request::Propose(_) => proposals += part,
                    _ => others += part,
                }
                taken.push(request);
            }
            if before < taken.len() {
                break;
            }
        }
        self.room.proposals.give_back(proposals);
        self.room.others.give_back(others);
        if before < taken.len() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// When the first of what was set aside will have waited for too long.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.aside.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Refuses what has waited for too long.
    pub(super) fn time_out(&mut self, now: Time) {
        while self.next_deadline().is_some_and(|deadline| deadline <= now) {
            let Some((_, number)) = self.aside.deadlines.pop_first() else { break };
            if let Some(SetAside { proposal, part, .. }) = self.aside.waiting.remove(&number) {
                proposal.time_out();
                self.room.proposals.give_back(part);
            }
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.queue.len() + self.aside.waiting.len()
    }

    /// Lets nothing in any more and drops what is in the queue, which answers it.
    pub(super) fn close(&mut self) {
        self.room.close();
        self.queue.close();
        self.aside.waiting.clear();
        while self.queue.try_recv().is_ok() {}
    }

    /// Drops what comes from callers who were putting it into the queue when that was closed.
    pub(super) async fn drain(&mut self) {
        while self.queue.recv().await.is_some() {}
    }
}

impl<R> Aside<R> {
    fn put(&mut self, proposal: Proposal<R>, part: u32, now: impl FnOnce() -> Time) {
        let deadline = proposal.since.unwrap_or_else(now) + proposal.timeout;
        self.deadlines.insert((deadline, self.next));
        self.waiting.insert(self.next, SetAside { proposal, part, deadline });
        self.next += 1;
    }

    fn take_first(&mut self) -> Option<SetAside<R>> {
        let (number, first) = self.waiting.pop_first()?;
        self.deadlines.remove(&(first.deadline, number));
        Some(first)
    }
}

impl<R> Drop for Requests<R> {
    fn drop(&mut self) {
        // As the channel does: whoever waits for room must not wait for ever.
        self.room.close();
    }
}
