//! Frames over a stream, in one direction: reading with a limit on silence, writing many at once.

use std::{
    convert::Infallible,
    io, mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use raft::Message;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    task::yield_now,
    time::timeout,
};
use tokio_util::codec::Decoder;

use crate::{
    codec::{self, DecodeError, EncodeError},
    frame::{self, Frame, FrameDecoder, FrameError},
    options::TcpOptions,
};

/// How many bytes are read or written at once, unless a single frame has more.
const CHUNK_BYTES: usize = 64 * 1024;
/// How many bytes are read or written before others have their turn.
const TURN_BYTES: usize = 256 * 1024;
/// A buffer that a long frame has blown up beyond this is not kept.
const MAX_KEPT_BYTES: usize = 1 << 20;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("the other side closed it")]
    Closed,
    #[error("nothing was heard for {0:?}")]
    Silent(Duration),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(FrameError),
    #[error(transparent)]
    Payload(#[from] DecodeError),
    #[error("a message came over a connection that carries them the other way")]
    WrongWay,
    #[error("this side has no more use for it")]
    Stopped,
}

impl From<FrameError> for Ended {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Io(error) => Self::Io(error),
            other => Self::Frame(other),
        }
    }
}

/// Runs work that only the end of the connection ends.
pub(crate) async fn ended(work: impl Future<Output = Result<Infallible, Ended>>) -> Ended {
    let Err(ended) = work.await;
    ended
}

/// Reads frames.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
    decoder: FrameDecoder,
    idle_timeout: Duration,
    /// Bytes read since others had their turn.
    turn_bytes: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(stream: R, options: &TcpOptions) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            decoder: FrameDecoder::new(options.max_frame_bytes()),
            idle_timeout: options.idle_timeout,
            turn_bytes: 0,
        }
    }

    /// The next frame, if it has arrived already.
    pub(crate) fn arrived(&mut self) -> Result<Option<Frame>, Ended> {
        Ok(self.decoder.decode(&mut self.buffer)?)
    }

    /// Waits for bytes.
    ///
    /// On a busy connection there are always some. The runtime looks at its timers and sockets only
    /// after so many turns of tasks, whatever they take, so that every turn has to be short.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn fill(&mut self) -> Result<(), Ended> {
        if self.turn_bytes >= TURN_BYTES {
            self.turn_bytes = 0;
            yield_now().await;
        }
        if self.buffer.capacity() - self.buffer.len() < CHUNK_BYTES / 8 {
            self.buffer.reserve(CHUNK_BYTES);
        }
        match timeout(self.idle_timeout, self.stream.read_buf(&mut self.buffer)).await {
            Err(_) => Err(Ended::Silent(self.idle_timeout)),
            Ok(Ok(0)) => match self.decoder.decode_eof(&mut self.buffer) {
                Err(error) => Err(error.into()),
                Ok(_) => Err(Ended::Closed),
            },
            Ok(Ok(bytes)) => {
                self.turn_bytes += bytes;
                Ok(())
            }
            Ok(Err(error)) => Err(error.into()),
        }
    }
}

/// Gathers frames, and writes them at once.
#[derive(Debug)]
pub(crate) struct FrameWriter<W> {
    stream: W,
    buffer: BytesMut,
    /// What goes behind the buffer, too large to be copied there.
    rest: Bytes,
    /// What the other side was last told to be expected to run on, and which cluster this one belongs to.
    expects: u64,
    cluster: u64,
    /// Which one it belongs to by now.
    belongs_to: Arc<AtomicU64>,
    max_frame_bytes: usize,
    /// Bytes written since others had their turn.
    turn_bytes: usize,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    pub(crate) fn new(stream: W, options: &TcpOptions, belongs_to: &Arc<AtomicU64>) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            rest: Bytes::new(),
            expects: 0,
            cluster: 0,
            belongs_to: Arc::clone(belongs_to),
            max_frame_bytes: options.max_frame_bytes(),
            turn_bytes: 0,
        }
    }

    /// Gathers a message for a server that is expected to run on the disk `expects`, and says so
    /// first if it is another one than for the message before; and so with the cluster.
    pub(crate) fn feed(&mut self, expects: u64, message: &Message) -> Result<(), EncodeError> {
        self.gather_rest();
        let cluster = self.belongs_to.load(Ordering::Acquire);
        if self.cluster != cluster {
            self.cluster = cluster;
            frame::append_cluster(&mut self.buffer, cluster);
        }
        if self.expects != expects {
            self.expects = expects;
            frame::append_expects(&mut self.buffer, expects);
        }
        self.rest = frame::append(&mut self.buffer, self.max_frame_bytes, |out| {
            codec::encode(message, out)
        })?;
        Ok(())
    }

    /// Gathers a sign of life.
    pub(crate) fn feed_alive(&mut self) {
        self.gather_rest();
        frame::append_alive(&mut self.buffer);
    }

    /// Keeps the order when more comes before the rest is written. Whoever heeds
    /// [`has_much`](Self::has_much) never pays for it.
    fn gather_rest(&mut self) {
        self.buffer.extend_from_slice(&mem::take(&mut self.rest));
    }

    /// Whether it is time to [`flush`](Self::flush).
    pub(crate) fn has_much(&self) -> bool {
        !self.rest.is_empty() || self.buffer.len() >= CHUNK_BYTES
    }

    /// Writes what was gathered, and lets others have a turn after much. Dropping the future leaves
    /// the stream unusable.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        let mut bytes = Buf::chain(&self.buffer[..], &self.rest[..]);
        self.turn_bytes += bytes.remaining();
        self.stream.write_all_buf(&mut bytes).await?;
        self.stream.flush().await?;
        self.buffer.clear();
        self.rest = Bytes::new();
        if self.buffer.capacity() > MAX_KEPT_BYTES {
            self.buffer = BytesMut::new();
        }
        if self.turn_bytes >= TURN_BYTES {
            self.turn_bytes = 0;
            yield_now().await;
        }
        Ok(())
    }
}
