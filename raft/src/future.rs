//! The futures a caller waits on, and the responders that resolve them.
//!
//! A call makes a pair: the future goes to the caller, the [`Responder`] travels with the request
//! through the tasks. A responder answers exactly once (law 16): with a result, or, when it is
//! dropped without one, with the end of the node. Dropping is what happens to every responder when
//! a task panics, when a queue is torn down, when the node is shut down; so there is no path, not
//! even a forgotten one, on which a caller waits for ever.
//!
//! **Deliberately absent:** cancellation. Dropping a future forgets the answer, never the request.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::sync::oneshot;

use crate::{
    end::End,
    error::{
        ApplyError, BootstrapError, ConfigurationError, Fatal, Outcome, ReloadError, RestoreError,
        SnapshotError, TransferError, VerifyError,
    },
    position::LogIndex,
};

/// A command that was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Applied<R> {
    /// Where it stands in the log.
    pub index: LogIndex,
    /// What [`Fsm::apply`](crate::Fsm::apply) returned for it on this server.
    pub response: R,
}

/// How an operation says that the node, or the wait for its queue, has ended.
pub(crate) trait Ended {
    /// The node has ended.
    fn stopped(fatal: Fatal, outcome: Outcome) -> Self;
}

impl Ended for ApplyError {
    fn stopped(fatal: Fatal, outcome: Outcome) -> Self {
        Self::Stopped { fatal, outcome }
    }
}

macro_rules! ended {
    ($($error:ty),*) => {$(
        impl Ended for $error {
            fn stopped(fatal: Fatal, _: Outcome) -> Self {
                fatal.into()
            }
        }
    )*};
}

ended!(
    BootstrapError,
    ConfigurationError,
    VerifyError,
    TransferError,
    SnapshotError,
    RestoreError,
    ReloadError,
    Fatal
);

/// What a responder sends: the result, or how much is known about a request that was lost when the
/// node ended. The reason of the end is added by the future, because it may not be known yet when a
/// responder is lost (the panic that lost it is still unwinding).
type Answer<T, E> = Result<Result<T, E>, Outcome>;

/// The task's end of a call. Dropping it unanswered answers "the node has ended".
pub(crate) struct Responder<T, E> {
    sender: Option<oneshot::Sender<Answer<T, E>>>,
    /// What dropping this would mean for the request.
    outcome: Outcome,
}

impl<T, E> Responder<T, E> {
    /// A responder and the receiver of its answer. Until [`taken`](Self::taken) the request is
    /// known not to have happened.
    pub(crate) fn new() -> (Self, Receiver<T, E>) {
        let (sender, receiver) = oneshot::channel();
        (Self { sender: Some(sender), outcome: Outcome::NotApplied }, Receiver { receiver })
    }

    /// From here on the request may take effect.
    pub(crate) fn taken(mut self) -> Self {
        self.outcome = Outcome::Unknown;
        self
    }

    /// Answers. A caller that has gone away is no concern of ours.
    pub(crate) fn answer(mut self, result: Result<T, E>) {
        if let Some(sender) = self.sender.take() {
            let _ = sender.send(Ok(result));
        }
    }
}

impl<T, E> Drop for Responder<T, E> {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take() {
            let _ = sender.send(Err(self.outcome));
        }
    }
}

impl<T, E> fmt::Debug for Responder<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").field("outcome", &self.outcome).finish_non_exhaustive()
    }
}

/// The caller's end of a call, before it is joined with the node's [`End`].
pub(crate) struct Receiver<T, E> {
    receiver: oneshot::Receiver<Answer<T, E>>,
}

impl<T, E> Receiver<T, E> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Answer<T, E>> {
        let answer = ready!(Pin::new(&mut self.receiver).poll(cx));
        // A responder always sends; a closed channel is the runtime tearing tasks down.
        Poll::Ready(answer.unwrap_or(Err(Outcome::Unknown)))
    }
}

/// Every call of the handle, on its way to its result.
pub(crate) struct Call<T, E> {
    end: Arc<End>,
    state: State<T, E>,
}

enum State<T, E> {
    /// The answer comes through this channel: the usual way.
    Waiting(Receiver<T, E>),
    /// Something else has to be waited for: room in the queue, or the reason why the node ended.
    Slow(Pin<Box<dyn Future<Output = Result<T, E>> + Send>>),
    /// Known at once.
    Ready(Result<T, E>),
    Done,
}

// Nothing in here is ever pinned in place: what must be is in a box.
impl<T, E> Unpin for Call<T, E> {}

impl<T, E: Ended> Call<T, E>
where
    T: Send + 'static,
    E: Send + 'static,
{
    /// A call whose request is in the queue.
    pub(crate) fn waiting(end: Arc<End>, receiver: Receiver<T, E>) -> Self {
        Self { end, state: State::Waiting(receiver) }
    }

    /// A call whose result is known.
    pub(crate) fn ready(end: Arc<End>, result: Result<T, E>) -> Self {
        Self { end, state: State::Ready(result) }
    }

    /// A call whose request finds a node that has ended, or is ending.
    pub(crate) fn stopped(end: Arc<End>, outcome: Outcome) -> Self {
        let reason = stopped(Arc::clone(&end), outcome);
        Self { end, state: State::Slow(reason) }
    }

    /// A call that waits for room in the queue first.
    pub(crate) fn enqueueing(
        end: Arc<End>,
        enqueue: impl Future<Output = Result<(), EnqueueError<E>>> + Send + 'static,
        receiver: Receiver<T, E>,
    ) -> Self {
        let node = Arc::clone(&end);
        let call = async move {
            match enqueue.await {
                Ok(()) => Self::waiting(node, receiver).await,
                Err(EnqueueError::Closed) => Self::stopped(node, Outcome::NotApplied).await,
                Err(EnqueueError::Timeout(error)) => Err(error),
            }
        };
        Self { end, state: State::Slow(Box::pin(call)) }
    }
}

/// Why a request did not get into the queue.
pub(crate) enum EnqueueError<E> {
    /// The node has ended.
    Closed,
    /// There was no room in time.
    Timeout(E),
}

fn stopped<T, E: Ended + Send>(
    end: Arc<End>,
    outcome: Outcome,
) -> Pin<Box<dyn Future<Output = Result<T, E>> + Send>> {
    Box::pin(async move { Err(E::stopped(end.reason().await, outcome)) })
}

impl<T, E> Future for Call<T, E>
where
    T: Send + 'static,
    E: Ended + Send + 'static,
{
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let result = match &mut self.state {
                State::Waiting(receiver) => match ready!(receiver.poll(cx)) {
                    Ok(result) => result,
                    Err(outcome) => {
                        self.state = State::Slow(stopped(Arc::clone(&self.end), outcome));
                        continue;
                    }
                },
                State::Slow(slow) => ready!(slow.as_mut().poll(cx)),
                State::Ready(_) => match std::mem::replace(&mut self.state, State::Done) {
                    State::Ready(result) => result,
                    _ => continue,
                },
                State::Done => panic!("a future of the raft library was polled after it ended"),
            };
            self.state = State::Done;
            return Poll::Ready(result);
        }
    }
}

/// What an error says when there was no room in the queue in time.
pub(crate) trait EnqueueTimeout {
    fn enqueue_timeout(timeout: Duration) -> Self;
}

macro_rules! enqueue_timeout {
    ($($error:ty),*) => {$(
        impl EnqueueTimeout for $error {
            fn enqueue_timeout(timeout: Duration) -> Self {
                Self::EnqueueTimeout { timeout }
            }
        }
    )*};
}

enqueue_timeout!(
    ApplyError,
    ConfigurationError,
    VerifyError,
    TransferError,
    RestoreError,
    ReloadError
);

macro_rules! future {
    ($(#[$doc:meta])* $name:ident $(<$r:ident>)?, $output:ty, $error:ty) => {
        $(#[$doc])*
        ///
        /// # Panics
        /// When polled again after it has resolved.
        ///
        /// # Cancel safety
        /// Dropping it forgets the answer and cancels nothing: a request that was accepted goes on.
        /// A request that was still waiting for room in the queue is withdrawn.
        #[must_use = "the request is under way, but its outcome is lost unless the future is awaited"]
        pub struct $name $(<$r>)? {
            call: Call<$output, $error>,
        }

        impl $(<$r>)? $name $(<$r>)? {
            pub(crate) fn new(call: Call<$output, $error>) -> Self {
                Self { call }
            }
        }

        impl $(<$r: Send + 'static>)? Future for $name $(<$r>)? {
            type Output = Result<$output, $error>;

            fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
                Pin::new(&mut self.call).poll(cx)
            }
        }

        impl $(<$r>)? fmt::Debug for $name $(<$r>)? {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    };
}

future! {
    /// Resolves when the command of [`Raft::apply`](crate::Raft::apply) is applied on this server.
    ApplyFuture<R>, Applied<R>, ApplyError
}

future! {
    /// Resolves when all commands of [`Raft::apply_batch`](crate::Raft::apply_batch) are applied on
    /// this server, with one response each, in the order of the commands.
    ApplyBatchFuture<R>, Vec<Applied<R>>, ApplyError
}

future! {
    /// Resolves when everything before the [`Raft::barrier`](crate::Raft::barrier) is applied on
    /// this server, with the barrier's own index.
    BarrierFuture, LogIndex, ApplyError
}

future! {
    /// Resolves when a majority has confirmed, after [`Raft::verify_leader`](crate::Raft::verify_leader)
    /// was called, that this server leads. The index is the read index.
    VerifyFuture, LogIndex, VerifyError
}
