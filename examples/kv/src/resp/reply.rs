//! Replies, and their bytes in both versions of the protocol.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};
use redis_protocol::resp3::types::{BytesFrame, Resp3Frame};

/// Which version of RESP a client reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Protocol {
    #[default]
    Resp2,
    Resp3,
}

impl Protocol {
    pub(crate) fn number(self) -> i64 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }
}

/// What a request is answered with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    /// A short word such as `OK`.
    Status(Cow<'static, str>),
    /// An error; its first word is the code by which programs know it.
    Error(Cow<'static, str>),
    Int(i64),
    Bulk(Bytes),
    Nil,
    Array(Vec<Reply>),
    /// Pairs; a flat array for clients of RESP2, which has no maps.
    Map(Vec<(Reply, Reply)>),
}

impl Reply {
    pub(crate) const OK: Self = Self::Status(Cow::Borrowed("OK"));

    pub(crate) fn error(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Error(text.into())
    }

    pub(crate) fn bulk(text: impl Into<String>) -> Self {
        Self::Bulk(Bytes::from(text.into()))
    }

    pub(crate) fn count(count: usize) -> Self {
        Self::Int(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// Writes the reply.
    pub(crate) fn encode(&self, protocol: Protocol, out: &mut BytesMut) {
        match self {
            Self::Status(text) => line(out, b'+', text),
            Self::Error(text) => line(out, b'-', text),
            Self::Int(number) => header(out, b':', *number),
            Self::Bulk(bytes) => {
                out.reserve(bytes.len() + 32);
                header(out, b'$', Self::number_of(bytes.len()));
                out.put_slice(bytes);
                out.put_slice(b"\r\n");
            }
            Self::Nil => out.put_slice(match protocol {
                Protocol::Resp2 => b"$-1\r\n",
                Protocol::Resp3 => b"_\r\n",
            }),
            Self::Array(replies) => {
                header(out, b'*', Self::number_of(replies.len()));
                replies.iter().for_each(|reply| reply.encode(protocol, out));
            }
            Self::Map(pairs) => {
                match protocol {
                    Protocol::Resp2 => header(out, b'*', Self::number_of(2 * pairs.len())),
                    Protocol::Resp3 => header(out, b'%', Self::number_of(pairs.len())),
                }
                for (key, value) in pairs {
                    key.encode(protocol, out);
                    value.encode(protocol, out);
                }
            }
        }
    }

    /// As it stands in front of a string or an array.
    pub(crate) fn number_of(len: usize) -> i64 {
        i64::try_from(len).unwrap_or(i64::MAX)
    }

    /// The reply that a decoded frame stands for. Kinds this program never sends become errors.
    pub(crate) fn from_frame(frame: BytesFrame) -> Self {
        match frame {
            BytesFrame::SimpleString { data, .. } => Self::Status(lossy(&data).into()),
            BytesFrame::SimpleError { data, .. } => Self::Error(data.to_string().into()),
            BytesFrame::BlobError { data, .. } => Self::Error(lossy(&data).into()),
            BytesFrame::Number { data, .. } => Self::Int(data),
            BytesFrame::BlobString { data, .. } | BytesFrame::VerbatimString { data, .. } => {
                Self::Bulk(data)
            }
            BytesFrame::Null => Self::Nil,
            BytesFrame::Array { data, .. } => {
                Self::Array(data.into_iter().map(Self::from_frame).collect())
            }
            BytesFrame::Map { data, .. } => {
                let pairs =
                    data.into_iter().map(|(k, v)| (Self::from_frame(k), Self::from_frame(v)));
                Self::Map(pairs.collect())
            }
            other => {
                Self::Error(format!("ERR unexpected kind of reply: {:?}", other.kind()).into())
            }
        }
    }
}

impl From<BytesFrame> for Reply {
    fn from(frame: BytesFrame) -> Self {
        Self::from_frame(frame)
    }
}

/// The first line of a string or an array.
pub(crate) fn header(out: &mut BytesMut, kind: u8, number: i64) {
    out.put_u8(kind);
    put_number(out, number);
    out.put_slice(b"\r\n");
}

fn put_number(out: &mut BytesMut, number: i64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        start -= 1;
        digits[start] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.put_u8(b'-');
    }
    out.put_slice(&digits[start..]);
}

/// A line must stay one: what a client sent may be quoted in it.
fn line(out: &mut BytesMut, kind: u8, text: &str) {
    out.put_u8(kind);
    out.extend(text.bytes().map(|byte| if byte == b'\r' || byte == b'\n' { b' ' } else { byte }));
    out.put_slice(b"\r\n");
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use redis_protocol::{resp2, resp3};

    use super::*;

    fn encoded(reply: &Reply, protocol: Protocol) -> BytesMut {
        let mut out = BytesMut::new();
        reply.encode(protocol, &mut out);
        out
    }

    fn samples() -> Vec<Reply> {
        vec![
            Reply::OK,
            Reply::error("ERR no"),
            Reply::Int(0),
            Reply::Int(-17),
            Reply::Int(i64::MIN),
            Reply::Int(i64::MAX),
            Reply::Bulk(Bytes::new()),
            Reply::Bulk(Bytes::from_static(b"\r\n\x00\xff")),
            Reply::Nil,
            Reply::Array(vec![]),
            Reply::Array(vec![Reply::Nil, Reply::Array(vec![Reply::Int(1)]), Reply::bulk("x")]),
            Reply::Map(vec![(Reply::bulk("k"), Reply::Int(1))]),
        ]
    }

    #[test]
    fn the_crate_reads_what_we_write_in_resp3() {
        for reply in samples() {
            let bytes = encoded(&reply, Protocol::Resp3).freeze();
            let (frame, len) =
                resp3::decode::complete::decode_bytes(&bytes).unwrap().expect("complete");
            assert_eq!(len, bytes.len());
            assert_eq!(Reply::from(frame), reply);
        }
    }

    #[test]
    fn the_crate_reads_what_we_write_in_resp2() {
        for reply in samples() {
            let bytes = encoded(&reply, Protocol::Resp2).freeze();
            let (_, len) = resp2::decode::decode_bytes(&bytes).unwrap().expect("complete");
            assert_eq!(len, bytes.len(), "{reply:?}");
        }
    }

    #[test]
    fn the_two_versions_differ_in_nil_and_map() {
        let map = Reply::Map(vec![(Reply::bulk("k"), Reply::Nil)]);
        assert_eq!(&encoded(&map, Protocol::Resp2)[..], b"*2\r\n$1\r\nk\r\n$-1\r\n");
        assert_eq!(&encoded(&map, Protocol::Resp3)[..], b"%1\r\n$1\r\nk\r\n_\r\n");
    }

    #[test]
    fn an_error_stays_on_its_line() {
        let error = Reply::error("ERR unknown command 'a\r\n+OK'");
        assert_eq!(&encoded(&error, Protocol::Resp2)[..], b"-ERR unknown command 'a  +OK'\r\n");
    }
}
