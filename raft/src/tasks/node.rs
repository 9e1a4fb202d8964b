//! The way into a node: how requests of the handle get into the queue of `run`.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::sync::mpsc::{self, error::TrySendError};

use super::{clock, request::Request, shared::Shared};
use crate::{
    error::{Fatal, Outcome},
    future::{Call, Ended, EnqueueError, EnqueueTimeout, Receiver, Responder},
};

/// A running node, held by its handle. Dropping it ends the node.
pub(crate) struct Node<R> {
    pub(crate) shared: Arc<Shared>,
    pub(super) requests: mpsc::Sender<Request<R>>,
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
        match self.requests.try_send(request) {
            Ok(()) => Call::waiting(end, receiver),
            Err(TrySendError::Closed(_)) => Call::stopped(end, Outcome::NotApplied),
            Err(TrySendError::Full(request)) => {
                let requests = self.requests.clone();
                let sending =
                    Box::pin(async move { requests.send(request).await.map_err(|_| Closed) });
                Call::enqueueing(end, wait(sending), receiver)
            }
        }
    }
}
