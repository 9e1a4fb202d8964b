//! The client's end of RESP: how servers pass requests on, and how the demo writes.

use std::{fmt, io, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use redis_protocol::resp3::decode::complete::decode_bytes_mut;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{Reply, out::Out, pass::Passing};

/// How much is read at once of what is passed on.
const READ_BYTES: usize = 64 << 10;

/// Why requests that were passed on were not answered.
#[derive(Debug)]
pub(crate) enum PassError {
    /// Whoever asked has gone, or has half of a reply and can be given nothing else.
    Asker(io::Error),
    /// The other side refused this request and all behind it.
    Refused,
    /// The other side is not there any more.
    Broken(io::Error),
    /// Nothing has come from the other side for this long.
    Silent(Duration),
}

/// A connection to a server, speaking RESP3.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    received: BytesMut,
}

impl Client {
    /// Connects and agrees on RESP3.
    ///
    /// # Errors
    /// When nobody listens there, or not within `timeout`, or it is no server of this protocol.
    pub(crate) async fn connect(address: &str, timeout: Duration) -> io::Result<Self> {
        Self::open(address, timeout, &[&["HELLO", "3"]]).await
    }

    /// Connects as a server that takes the other one for the leader `name`, because another one may have
    /// taken over the address.
    ///
    /// # Errors
    /// As [`Self::connect`], and when the other side is somebody else or has no place.
    pub(crate) async fn pass_on(address: &str, timeout: Duration, name: &str) -> io::Result<Self> {
        // Before anything else: servers have other places than clients.
        Self::open(address, timeout, &[&["RAFT.FORWARDED", name], &["HELLO", "3"]]).await
    }

    async fn open(address: &str, limit: Duration, words: &[&[&str]]) -> io::Result<Self> {
        let open = async {
            let stream = raft_tcp::connect(address, limit).await?;
            stream.set_nodelay(true)?;
            let mut client = Self { stream, received: BytesMut::new() };
            for words in words {
                client.ask(words).await?;
            }
            Ok(client)
        };
        timeout(limit, open).await?
    }

    /// Whether the other side has hung up since the last call.
    pub(crate) fn is_closed(&self) -> bool {
        match self.stream.try_read(&mut [0]) {
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            // The end of the stream, or an answer to nothing: no use in either case.
            Ok(_) => true,
        }
    }

    /// Sends one request and returns its reply.
    ///
    /// # Errors
    /// When the connection broke, or the reply is an error.
    pub(crate) async fn ask(&mut self, words: &[&str]) -> io::Result<Reply> {
        let args: Vec<Bytes> = words.iter().map(|w| Bytes::copy_from_slice(w.as_bytes())).collect();
        let mut replies = Vec::new();
        self.call([&args[..]], &mut replies).await?;
        match replies.pop() {
            Some(Reply::Error(text)) => Err(io::Error::other(text)),
            reply => Ok(reply.unwrap_or(Reply::Nil)),
        }
    }

    /// Sends the requests in one go and appends their replies, in order, to `replies` as they come.
    ///
    /// # Errors
    /// When the connection broke. The replies that came before that are there; what became of the
    /// other requests is unknown, and the connection is of no more use.
    pub(crate) async fn call<'a>(
        &mut self,
        requests: impl IntoIterator<Item = &'a [Bytes]>,
        replies: &mut Vec<Reply>,
    ) -> io::Result<()> {
        let (out, mut missing) = encode_all(requests);
        let (mut reading, mut writing) = self.stream.split();
        // At the same time: a server may answer the first requests before it has read the last.
        let write = async { writing.write_all(&out).await };
        let read = async {
            while 0 < missing {
                match decode_bytes_mut(&mut self.received) {
                    Ok(Some((frame, _, _))) => {
                        replies.push(Reply::from(frame));
                        missing -= 1;
                    }
                    Ok(None) => {
                        if reading.read_buf(&mut self.received).await? == 0 {
                            return Err(io::ErrorKind::UnexpectedEof.into());
                        }
                    }
                    Err(error) => return Err(io::Error::other(error)),
                }
            }
            Ok(())
        };
        tokio::try_join!(write, read).map(|_| ())
    }

    /// Sends the requests in one go and passes their replies on as they come, in pieces, so that no
    /// reply is held here. `answered` counts them. A reply that begins with `refusal` is not passed on.
    ///
    /// # Errors
    /// When not all were answered. What became of the others is unknown unless they were refused, and
    /// the connection is of no more use.
    pub(crate) async fn pass<'a, W: AsyncWrite + Unpin>(
        &mut self,
        requests: impl IntoIterator<Item = &'a [Bytes]>,
        refusal: &[u8],
        silence: Duration,
        out: &mut Out<W>,
        answered: &mut usize,
    ) -> Result<(), PassError> {
        let (sent, all) = encode_all(requests);
        let (received, mut passing) = (&mut self.received, Passing::default());
        let (mut reading, mut writing) = self.stream.split();
        let write = async { writing.write_all(&sent).await.map_err(PassError::Broken) };
        let read = async {
            while *answered < all {
                let is_first = passing.is_between();
                let piece = passing.next(received, out.protocol).map_err(PassError::Broken)?;
                let Some(piece) = piece else {
                    received.reserve(READ_BYTES);
                    let read = timeout(silence, reading.read_buf(received)).await;
                    match read.map_err(|_| PassError::Silent(silence))? {
                        Ok(1..) => continue,
                        Ok(0) => {
                            let end = io::ErrorKind::UnexpectedEof.into();
                            return Err(PassError::Broken(end));
                        }
                        Err(error) => return Err(PassError::Broken(error)),
                    }
                };
                if is_first && piece.starts_with(refusal) {
                    return Err(PassError::Refused);
                }
                out.bytes(&piece).await.map_err(PassError::Asker)?;
                *answered += usize::from(passing.is_between());
            }
            Ok(())
        };
        let end = tokio::try_join!(write, read).map(|_| ());
        match end {
            Err(error @ (PassError::Broken(_) | PassError::Silent(_))) if !passing.is_between() => {
                Err(PassError::Asker(io::Error::other(format!("half of a reply: {error}"))))
            }
            end => end,
        }
    }
}

/// The bytes of all requests, and how many they are.
fn encode_all<'a>(requests: impl IntoIterator<Item = &'a [Bytes]>) -> (BytesMut, usize) {
    let (mut out, mut count) = (BytesMut::new(), 0);
    for args in requests {
        encode(args, &mut out);
        count += 1;
    }
    (out, count)
}

impl fmt::Display for PassError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asker(error) => write!(f, "the client has gone: {error}"),
            Self::Refused => f.write_str("it does not lead any more"),
            Self::Broken(error) => write!(f, "the connection broke: {error}"),
            Self::Silent(limit) => write!(f, "it did not answer within {limit:?}"),
        }
    }
}

fn encode(args: &[Bytes], out: &mut BytesMut) {
    out.reserve(args.iter().map(|arg| arg.len() + 16).sum::<usize>() + 16);
    out.put_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        out.put_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.put_slice(arg);
        out.put_slice(b"\r\n");
    }
}
