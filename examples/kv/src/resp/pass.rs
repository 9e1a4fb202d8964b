//! Replies of the leader on their way through a follower.
//!
//! They are passed on as they come in, in pieces, because one of them may be as large as all of memory.
//! All that has to be known is where each one ends, and that a refusal is not for the client.

use std::io;

use bytes::{Bytes, BytesMut};

use super::Protocol;
use crate::command::parse_integer;

/// Errors and status words of our own servers are far shorter.
const MAX_LINE_BYTES: usize = 64 << 10;

/// How far the reply has come that is being passed on.
#[derive(Debug, Default)]
pub(crate) struct Passing {
    /// Bytes of a string that are still to come, with the line break behind it.
    string: usize,
    /// Elements that are still to come.
    elements: u64,
}

impl Passing {
    /// Whether the next byte begins a reply.
    pub(crate) fn is_between(&self) -> bool {
        self.string == 0 && self.elements == 0
    }

    /// Takes the next piece, a part of one reply, out of `received`, in the words of `protocol`; `None`
    /// when more has to be received.
    ///
    /// # Errors
    /// When the bytes are no replies of our servers.
    pub(crate) fn next(
        &mut self,
        received: &mut BytesMut,
        protocol: Protocol,
    ) -> io::Result<Option<Bytes>> {
        if 0 < self.string {
            let len = self.string.min(received.len());
            self.string -= len;
            return Ok((0 < len).then(|| received.split_to(len).freeze()));
        }
        let Some(end) = received.windows(2).position(|pair| pair == b"\r\n") else {
            let is_line = received.len() <= MAX_LINE_BYTES;
            return if is_line { Ok(None) } else { Err(io::Error::other("an endless line")) };
        };
        let line = received.split_to(end + 2).freeze();
        let wrong = || io::Error::other(format!("no reply: {}", line.escape_ascii()));
        let number = || parse_integer(&line[1..end]).ok_or_else(wrong);
        self.elements = self.elements.max(1) - 1;
        let mut resp2 = None;
        match line[0] {
            b'+' | b'-' | b':' => {}
            b'_' => resp2 = Some(Bytes::from_static(b"$-1\r\n")),
            b'$' => {
                self.string =
                    usize::try_from(number()?).ok().map_or(0, |len| len.saturating_add(2));
            }
            b'*' => self.elements += u64::try_from(number()?).unwrap_or(0),
            b'%' => {
                let pairs = u64::try_from(number()?).unwrap_or(0);
                self.elements += 2 * pairs;
                resp2 = Some(Bytes::from(format!("*{}\r\n", 2 * pairs)));
            }
            _ => return Err(wrong()),
        }
        Ok(Some(resp2.filter(|_| protocol == Protocol::Resp2).unwrap_or(line)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::Reply;

    fn encoded(replies: &[Reply], protocol: Protocol) -> BytesMut {
        let mut bytes = BytesMut::new();
        replies.iter().for_each(|reply| reply.encode(protocol, &mut bytes));
        bytes
    }

    #[test]
    fn replies_come_out_in_the_clients_protocol_and_are_counted() {
        let replies = [
            Reply::OK,
            Reply::error("ERR no"),
            Reply::Int(-17),
            Reply::Bulk(Bytes::new()),
            Reply::bulk("\r\n*3\r\n"),
            Reply::Nil,
            Reply::Array(vec![]),
            Reply::Array(vec![
                Reply::Nil,
                Reply::Array(vec![Reply::Int(1), Reply::Nil]),
                Reply::Map(vec![(Reply::bulk("k"), Reply::Array(vec![Reply::bulk("v")]))]),
                Reply::bulk("x"),
            ]),
        ];
        let sent = encoded(&replies, Protocol::Resp3);
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            for piece in [1, 2, 3, 7, sent.len()] {
                let (mut passing, mut received) = (Passing::default(), BytesMut::new());
                let (mut passed, mut count) = (BytesMut::new(), 0);
                for bytes in sent.chunks(piece) {
                    received.extend_from_slice(bytes);
                    while let Some(piece) = passing.next(&mut received, protocol).unwrap() {
                        passed.extend_from_slice(&piece);
                        count += usize::from(passing.is_between());
                    }
                }
                assert_eq!(passed, encoded(&replies, protocol), "in pieces of {piece}");
                assert_eq!(count, replies.len());
            }
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for bytes in [&b"HTTP/1.1 400\r\n"[..], b"$x\r\n", b"*\r\n", &[b'+'; MAX_LINE_BYTES + 1]] {
            let mut received = BytesMut::from(bytes);
            assert!(Passing::default().next(&mut received, Protocol::Resp3).is_err());
        }
    }
}
