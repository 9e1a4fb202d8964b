//! Bytes on their way into a snapshot.
//!
//! While one buffer is filled, another one is being written by a thread that may block. Memory is
//! bounded by the two, whatever the size of the snapshot.

use std::{
    fs::File,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use tokio::io::{AsyncWrite, AsyncWriteExt, BufWriter};

use super::{directory::cannot, draft::Draft};
use crate::{
    blocking::blocking,
    snapshot::{SnapshotMeta, SnapshotSink},
    store_error::StoreError,
};

pub(super) struct Sink {
    // Before the draft, so that it is closed when the draft is dropped and removes it.
    data: BufWriter<tokio::fs::File>,
    hasher: crc32fast::Hasher,
    size_bytes: u64,
    /// The first failure. What follows it could only hide it, so everything fails from then on.
    failed: Option<StoreError>,
    draft: Draft,
}

impl Sink {
    pub(super) fn new(draft: Draft, data: File) -> Self {
        let data = BufWriter::with_capacity(BUFFER_BYTES, buffered_file(data));
        Self { data, hasher: crc32fast::Hasher::new(), size_bytes: 0, failed: None, draft }
    }

    fn check(&self) -> io::Result<()> {
        self.failed.clone().map_or(Ok(()), |failed| Err(wrapped(failed, io::ErrorKind::Other)))
    }

    /// Names the file in the error, and remembers it.
    fn noting<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            let kind = error.kind();
            let failed = cannot("write", &self.draft.data(), error);
            self.failed = Some(failed.clone());
            wrapped(failed, kind)
        })
    }
}

fn wrapped(error: StoreError, kind: io::ErrorKind) -> io::Error {
    io::Error::new(kind, error)
}

impl AsyncWrite for Sink {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check()?;
        let result = ready!(Pin::new(&mut this.data).poll_write(cx, bytes));
        let written = this.noting(result)?;
        this.hasher.update(&bytes[..written]);
        this.size_bytes += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check()?;
        let result = ready!(Pin::new(&mut this.data).poll_flush(cx));
        Poll::Ready(this.noting(result))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A file has no writing half to close: finishing or dropping the sink closes it.
        self.poll_flush(cx)
    }
}

#[async_trait]
impl SnapshotSink for Sink {
    async fn finish(mut self: Box<Self>) -> Result<SnapshotMeta, StoreError> {
        // The failure of a flush is noted, and told below in its own words.
        let _ = self.flush().await;
        if let Some(failed) = self.failed.take() {
            self.cancel().await;
            return Err(failed);
        }
        let Self { data, hasher, size_bytes, draft, .. } = *self;
        let data = data.into_inner().into_std().await;
        blocking(move || draft.finish(data, size_bytes, hasher.finalize())).await
    }

    async fn cancel(self: Box<Self>) {
        let Self { data, draft, .. } = *self;
        drop(data);
        // Freeing a large file takes a while. A failure is reported by the draft.
        let _ = blocking(move || {
            drop(draft);
            Ok(())
        })
        .await;
    }
}

/// What a sink and a reader buffer, in bytes, twice each: for the caller and for the thread that
/// blocks.
pub(super) const BUFFER_BYTES: usize = 256 << 10;

/// A file for async code, with a small buffer: tokio's own is up to two mebibytes.
pub(super) fn buffered_file(file: File) -> tokio::fs::File {
    let mut file = tokio::fs::File::from_std(file);
    file.set_max_buf_size(BUFFER_BYTES);
    file
}
