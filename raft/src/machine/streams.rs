//! The streams through which the state machine and a snapshot store exchange a state.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{end::End, snapshot::SnapshotReader};

/// A stream that reports how many bytes have gone into it.
pub(crate) struct Counted<S, F> {
    stream: S,
    bytes: u64,
    report: F,
}

impl<S, F: FnMut(u64)> Counted<S, F> {
    /// Reports zero at once.
    pub(crate) fn new(stream: S, mut report: F) -> Self {
        report(0);
        Self { stream, bytes: 0, report }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncWrite + Unpin, F: FnMut(u64) + Unpin> AsyncWrite for Counted<S, F> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        this.bytes += written as u64;
        (this.report)(this.bytes);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A snapshot that can be read only as long as the node has not begun to end.
pub(crate) struct UntilEnd {
    reader: SnapshotReader,
    end: Arc<End>,
}

impl UntilEnd {
    pub(crate) fn new(reader: SnapshotReader, end: &Arc<End>) -> Self {
        Self { reader, end: Arc::clone(end) }
    }
}

impl AsyncRead for UntilEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.end.has_begun() {
            return Poll::Ready(Err(io::Error::other("the node ends")));
        }
        Pin::new(&mut self.reader).poll_read(cx, buffer)
    }
}
