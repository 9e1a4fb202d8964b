//! The client's end of RESP: how servers pass requests on, and how the demo writes.

use std::{io, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use redis_protocol::resp3::decode::complete::decode_bytes_mut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::Reply;

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
        let open = async {
            let stream = raft_tcp::connect(address, timeout).await?;
            stream.set_nodelay(true)?;
            let mut client = Self { stream, received: BytesMut::new() };
            client.ask(&["HELLO", "3"]).await?;
            Ok(client)
        };
        tokio::time::timeout(timeout, open).await?
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
        let (mut out, mut missing) = (BytesMut::new(), 0);
        for args in requests {
            encode(args, &mut out);
            missing += 1;
        }
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
