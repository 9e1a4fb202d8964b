//! What goes back to a client: gathered, and sent whenever it is enough.
//!
//! Nothing is held of what has been sent, and a large string is sent from where it lies. So a client
//! that asks for much and does not read costs what it asked for, not what it asked about.

use std::io;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{Protocol, Reply, reply};

/// How many bytes are gathered before they are sent. Strings of that size are sent without a copy.
const ENOUGH: usize = 256 << 10;

/// The way to a client.
#[derive(Debug)]
pub(crate) struct Out<W> {
    writer: W,
    gathered: BytesMut,
    /// What the client reads.
    pub(crate) protocol: Protocol,
}

impl<W: AsyncWrite + Unpin> Out<W> {
    pub(crate) fn new(writer: W, protocol: Protocol) -> Self {
        Self { writer, gathered: BytesMut::new(), protocol }
    }

    /// Takes a reply. An array is taken one by one: it may name the same large string many times.
    ///
    /// # Errors
    /// When the client cannot be written to.
    pub(crate) async fn reply(&mut self, reply: &Reply) -> io::Result<()> {
        let Reply::Array(replies) = reply else { return self.simple(reply).await };
        reply::header(&mut self.gathered, b'*', Reply::number_of(replies.len()));
        let mut open = vec![replies.iter()];
        while let Some(level) = open.last_mut() {
            match level.next() {
                None => drop(open.pop()),
                Some(Reply::Array(replies)) => {
                    reply::header(&mut self.gathered, b'*', Reply::number_of(replies.len()));
                    open.push(replies.iter());
                }
                Some(reply) => self.simple(reply).await?,
            }
        }
        Ok(())
    }

    async fn simple(&mut self, reply: &Reply) -> io::Result<()> {
        match reply {
            Reply::Bulk(bytes) if ENOUGH <= bytes.len() => {
                reply::header(&mut self.gathered, b'$', Reply::number_of(bytes.len()));
                self.bytes(bytes).await?;
                self.gathered.put_slice(b"\r\n");
                Ok(())
            }
            reply => {
                reply.encode(self.protocol, &mut self.gathered);
                self.send_if_enough().await
            }
        }
    }

    /// The same reply, to `times` requests.
    ///
    /// # Errors
    /// When the client cannot be written to.
    pub(crate) async fn replies(&mut self, reply: &Reply, times: usize) -> io::Result<()> {
        for _ in 0..times {
            self.reply(reply).await?;
        }
        Ok(())
    }

    /// Takes bytes that are (part of) a reply already.
    ///
    /// # Errors
    /// When the client cannot be written to.
    pub(crate) async fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() < ENOUGH {
            self.gathered.put_slice(bytes);
            return self.send_if_enough().await;
        }
        self.send().await?;
        self.writer.write_all(bytes).await
    }

    /// Sends what is left.
    ///
    /// # Errors
    /// When the client cannot be written to.
    pub(crate) async fn send(&mut self) -> io::Result<()> {
        self.writer.write_all(&self.gathered).await?;
        self.gathered.clear();
        Ok(())
    }

    async fn send_if_enough(&mut self) -> io::Result<()> {
        if self.gathered.len() < ENOUGH { Ok(()) } else { self.send().await }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::AsyncReadExt;

    use super::*;

    /// The bytes are those of `Reply::encode`, however large and nested the reply is.
    #[tokio::test]
    async fn sends_what_the_reply_is() {
        let large = Reply::Bulk(Bytes::from(vec![b'x'; 2 * ENOUGH]));
        let nested = Reply::Array(vec![
            Reply::Array(vec![]),
            large.clone(),
            Reply::Array(vec![Reply::Array(vec![Reply::Nil, Reply::Int(3)]), large.clone()]),
            Reply::Map(vec![(Reply::bulk("k"), Reply::Nil)]),
            Reply::OK,
        ]);
        for reply in [large, nested, Reply::Array(vec![]), Reply::error("ERR no"), Reply::Nil] {
            for protocol in [Protocol::Resp2, Protocol::Resp3] {
                let mut expected = BytesMut::new();
                reply.encode(protocol, &mut expected);
                let mut out = Out::new(Vec::new(), protocol);
                out.reply(&reply).await.unwrap();
                out.send().await.unwrap();
                assert_eq!(out.writer, expected);
            }
        }
    }

    /// A hundred thousand times the same megabyte: sent as it is read, and never held.
    #[tokio::test]
    async fn an_array_of_large_strings_is_never_in_memory() {
        let value = Reply::Bulk(Bytes::from(vec![b'x'; 1 << 20]));
        let reply = Reply::Array(vec![value; 100_000]);
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let mut out = Out::new(near, Protocol::Resp2);
        let mut read = vec![0; 8 << 20];
        tokio::select! {
            biased;
            sent = out.reply(&reply) => panic!("sent before it was read: {sent:?}"),
            read = far.read_exact(&mut read) => assert_eq!(read.unwrap(), 8 << 20),
        }
        assert!(out.gathered.capacity() <= 2 * ENOUGH, "{}", out.gathered.capacity());
    }
}
