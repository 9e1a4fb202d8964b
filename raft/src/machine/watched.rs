//! The streams of a snapshot that pass through the user's state machine, watched.
//!
//! [`FsmSnapshot::persist`](crate::FsmSnapshot::persist) writes into the snapshot store and
//! [`Fsm::restore`](crate::Fsm::restore) reads from it, and what they return may be the store's error in any
//! wrapping, or none at all. Whose error it is decides what has to be mended, so it is noted where it
//! arises, on the store's side of the trait.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::store_error::StoreError;

/// A stream of the store's.
pub(crate) struct Watched<S> {
    stream: S,
    failure: Failure,
}

/// The first error the stream has returned, if it has.
#[derive(Clone, Default)]
pub(crate) struct Failure(Arc<Mutex<Option<io::Error>>>);

impl<S> Watched<S> {
    pub(crate) fn new(stream: S) -> (Self, Failure) {
        let failure = Failure::default();
        (Self { stream, failure: failure.clone() }, failure)
    }

    pub(crate) fn into_inner(self) -> S {
        self.stream
    }
}

impl Failure {
    /// What went wrong in the store, whatever the state machine says. If anything did, its success
    /// means nothing either.
    pub(crate) fn check(&self, context: impl FnOnce() -> String) -> Result<(), StoreError> {
        match self.0.lock().take() {
            Some(error) => Err(StoreError::io(context(), error)),
            None => Ok(()),
        }
    }

    fn watch<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let Poll::Ready(Err(error)) = polled else { return polled };
        let told = match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(error.kind(), error.to_string()),
        };
        self.0.lock().get_or_insert(error);
        Poll::Ready(Err(told))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.failure.watch(polled)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.failure.watch(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.failure.watch(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.failure.watch(polled)
    }
}
