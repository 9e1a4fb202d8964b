//! The way into a node: how requests of the handle get into the queue of `run`.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::sync::{
    TryAcquireError,
    mpsc::{self, error::TrySendError},
};

use super::{clock, request::Request, shared::Shared};
use crate::{
    budget::Budget,
    error::{Fatal, Outcome},
    future::{Call, Ended, EnqueueError, EnqueueTimeout, Receiver, Responder},
};

/// A running node, held by its handle. Dropping it ends the node.
pub(crate) struct Node<R> {
    pub(crate) shared: Arc<Shared>,
    pub(super) entrance: Entrance<R>,
}

/// The end of the queue at which requests enter.
pub(super) struct Entrance<R> {
    queue: mpsc::Sender<Request<R>>,
    budget: Arc<Budget>,
}

/// The end of the queue at which `run` takes the requests out.
pub(super) struct Requests<R> {
    queue: mpsc::Receiver<Request<R>>,
    budget: Arc<Budget>,
}

/// A queue with room for so many requests and so many bytes of commands.
pub(super) fn queue<R>(capacity: usize, bytes: u64) -> (Entrance<R>, Requests<R>) {
    let (entrance, queue) = mpsc::channel(capacity);
    let budget = Arc::new(Budget::new(bytes));
    (Entrance { queue: entrance, budget: Arc::clone(&budget) }, Requests { queue, budget })
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
                let sending = Box::pin(self.entrance.clone().send(request));
                Call::enqueueing(end, wait(sending), receiver)
            }
        }
    }
}

impl<R> Entrance<R> {
    /// Puts a request into the queue if there is room for it.
    fn try_send(&self, request: Request<R>) -> Result<(), TrySendError<Request<R>>> {
        match self.budget.try_take(self.budget.part(request.cost_bytes())) {
            Ok(part) => {
                self.queue.try_send(request)?;
                part.forget();
                Ok(())
            }
            Err(TryAcquireError::NoPermits) => Err(TrySendError::Full(request)),
            Err(TryAcquireError::Closed) => Err(TrySendError::Closed(request)),
        }
    }

    /// Puts a request into the queue as soon as there is room for it. One after the other gets its
    /// bytes and then its place, so they stay in the order in which they began to wait.
    async fn send(self, request: Request<R>) -> Result<(), Closed> {
        let part = self.budget.part(request.cost_bytes());
        let part = self.budget.take(part).await.map_err(|_| Closed)?;
        self.queue.send(request).await.map_err(|_| Closed)?;
        part.forget();
        Ok(())
    }
}

impl<R> Clone for Entrance<R> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), budget: Arc::clone(&self.budget) }
    }
}

impl<R> Requests<R> {
    /// Takes up to `limit` requests, as many as it says. None: the queue has ended.
    pub(super) fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        taken: &mut Vec<Request<R>>,
        limit: usize,
    ) -> Poll<usize> {
        let count = ready!(self.queue.poll_recv_many(cx, taken, limit));
        let costs = taken.iter().rev().take(count).map(Request::cost_bytes);
        self.budget.give_back(costs.map(|bytes| self.budget.part(bytes)));
        Poll::Ready(count)
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Lets nothing in any more and drops what is in the queue, which answers it.
    pub(super) fn close(&mut self) {
        self.budget.close();
        self.queue.close();
        while self.queue.try_recv().is_ok() {}
    }

    /// Drops what comes from callers who had got a place just before the queue was closed.
    pub(super) async fn drain(&mut self) {
        while self.queue.recv().await.is_some() {}
    }
}

impl<R> Drop for Requests<R> {
    fn drop(&mut self) {
        // As the channel does: whoever waits for bytes must not wait for ever.
        self.budget.close();
    }
}
