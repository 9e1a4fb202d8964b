//! Cutting a stream of bytes into requests.
//!
//! Requests are the smallest part of RESP: an array of bulk strings, or a plain line (which is what
//! `redis-benchmark -t ping_inline` and people with `telnet` send). They are read here rather than
//! by a general decoder because they come from anybody: this one remembers how far it has come, so
//! that a request that trickles in costs its length and not its square; it never recurses, so that
//! nesting cannot exhaust the stack; and it refuses a length before it waits for it, let alone
//! reserves memory for it. Replies, which come from our own servers, are read with `redis-protocol`.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::Args;
use crate::command::parse_integer;

/// As in Redis.
const MAX_INLINE_BYTES: usize = 64 << 10;
const MAX_ARGS: usize = 1 << 20;
/// The longest line that only says how long something is.
const MAX_HEADER_BYTES: usize = 32;

/// Why the stream cannot be understood; it ends here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProtocolError(pub(crate) String);

/// A request that is being received.
#[derive(Debug)]
pub(crate) struct Parser {
    max_bytes: usize,
    /// How far into the buffer the current request has been read.
    position: usize,
    /// How many strings are still to come; `None` before the request's first line is read.
    missing: Option<usize>,
    /// Where in the buffer the strings are that have come.
    found: Vec<Range<usize>>,
}

impl Parser {
    /// A parser of requests of up to `max_bytes`.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, position: 0, missing: None, found: Vec::new() }
    }

    /// Takes the next request out of `buffer`; `None` when it has not arrived in full.
    ///
    /// Between calls bytes may only be added to the end of the buffer.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Args>, ProtocolError> {
        loop {
            if self.missing.is_none() {
                match buffer.first() {
                    None => return Ok(None),
                    Some(b'*') => {
                        let Some(count) = self.header(buffer, b'*', "multibulk")? else {
                            return Ok(None);
                        };
                        if MAX_ARGS < count {
                            return refuse("invalid multibulk length");
                        }
                        if count == 0 {
                            self.take(buffer);
                            continue;
                        }
                        self.missing = Some(count);
                    }
                    Some(_) => match inline(buffer)? {
                        Some(args) if args.is_empty() => continue,
                        other => return Ok(other),
                    },
                }
            }
            while let Some(missing @ 1..) = self.missing {
                if !self.bulk(buffer)? {
                    return Ok(None);
                }
                self.missing = Some(missing - 1);
            }
            return Ok(Some(self.take(buffer)));
        }
    }

    /// Reads one string; `false` when it has not arrived in full.
    fn bulk(&mut self, buffer: &BytesMut) -> Result<bool, ProtocolError> {
        let start = self.position;
        let Some(len) = self.header(buffer, b'$', "bulk")? else { return Ok(false) };
        if self.max_bytes < self.position.saturating_add(len) {
            let max = self.max_bytes;
            return refuse(format!("too big request: the limit is {max} bytes"));
        }
        let string = self.position..self.position + len;
        let Some(end) = buffer.get(string.end..string.end + 2) else {
            self.position = start;
            return Ok(false);
        };
        if end != b"\r\n" {
            return refuse("expected a line break after a string");
        }
        self.position = string.end + 2;
        self.found.push(string);
        Ok(true)
    }

    /// Reads a line such as `$5`; `None` when it has not arrived in full.
    fn header(
        &mut self,
        buffer: &BytesMut,
        kind: u8,
        name: &str,
    ) -> Result<Option<usize>, ProtocolError> {
        let rest = &buffer[self.position..];
        match rest.first() {
            None => return Ok(None),
            Some(byte) if *byte == kind => {}
            Some(byte) => {
                let (kind, got) = (char::from(kind), byte.escape_ascii());
                return refuse(format!("expected '{kind}', got '{got}'"));
            }
        }
        let window = &rest[..rest.len().min(MAX_HEADER_BYTES)];
        let Some(len) = window.windows(2).position(|pair| pair == b"\r\n") else {
            if rest.len() < MAX_HEADER_BYTES {
                return Ok(None);
            }
            return refuse(format!("invalid {name} length"));
        };
        let number = parse_integer(&window[1..len]);
        // Redis reads an array of a negative length as one of none.
        let number = if kind == b'*' { number.map(|n| n.max(0)) } else { number };
        let Some(number) = number.and_then(|number| usize::try_from(number).ok()) else {
            return refuse(format!("invalid {name} length"));
        };
        self.position += len + 2;
        Ok(Some(number))
    }

    /// Cuts the finished request out of the buffer.
    fn take(&mut self, buffer: &mut BytesMut) -> Args {
        let bytes = buffer.split_to(self.position).freeze();
        self.position = 0;
        self.missing = None;
        self.found.drain(..).map(|range| bytes.slice(range)).collect()
    }
}

/// A request that is a line of words; empty when the line is.
fn inline(buffer: &mut BytesMut) -> Result<Option<Args>, ProtocolError> {
    let window = &buffer[..buffer.len().min(MAX_INLINE_BYTES)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        if window.len() < MAX_INLINE_BYTES {
            // Said at once: whoever sends this will not send a line break soon.
            return check_text(window).map(|()| None);
        }
        return refuse("too big inline request");
    };
    check_text(&window[..end])?;
    let line = buffer.split_to(end + 1).freeze();
    let Some(args) = words(&line.slice(..end)) else {
        return refuse("unbalanced quotes in request");
    };
    let first = args.first().map_or(&[][..], |word| word);
    if first.eq_ignore_ascii_case(b"POST") || first.ends_with(b":") {
        return refuse("this is not HTTP: the HTTP interface has a port of its own");
    }
    Ok(Some(args))
}

/// The words of a line. In double quotes backslashes mean what they do in C, with `\x` and two digits for any
/// byte; in single quotes only the quote itself can be escaped. `None` when a quote is not closed, or is not
/// at the end of its word. As in Redis.
fn words(line: &Bytes) -> Option<Args> {
    let (mut words, mut rest) = (Args::new(), &line[..]);
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Some(words);
        }
        let len = rest.iter().position(|b| matches!(b, b'"' | b'\'') || b.is_ascii_whitespace());
        let len = len.unwrap_or(rest.len());
        let is_quoted = rest.get(len).is_some_and(|byte| !byte.is_ascii_whitespace());
        if !is_quoted {
            words.push(line.slice_ref(&rest[..len]));
            rest = &rest[len..];
            continue;
        }
        let mut word = rest[..len].to_vec();
        rest = unquote(&rest[len..], &mut word)?;
        if !rest.first().is_none_or(u8::is_ascii_whitespace) {
            return None;
        }
        words.push(word.into());
    }
}

/// Reads what is in quotes, and returns what is behind them.
fn unquote<'a>(text: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    let (quote, mut rest) = text.split_first()?;
    loop {
        let (byte, used) = match (quote, rest) {
            (_, [byte, after @ ..]) if byte == quote => return Some(after),
            (b'\'', [b'\\', b'\'', ..]) => (b'\'', 2),
            (b'"', [b'\\', b'x', high, low, ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                let digit =
                    |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
                (digit(*high)? << 4 | digit(*low)?, 4)
            }
            (b'"', [b'\\', byte, ..]) => {
                let byte = match byte {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                };
                (byte, 2)
            }
            (_, [byte, ..]) => (*byte, 1),
            (_, []) => return None,
        };
        word.push(byte);
        rest = &rest[used..];
    }
}

fn check_text(line: &[u8]) -> Result<(), ProtocolError> {
    let odd = |byte: &&u8| byte.is_ascii_control() && !byte.is_ascii_whitespace();
    match line.iter().find(odd) {
        Some(byte) => refuse(format!("expected '*', got '{}'", byte.escape_ascii())),
        None => Ok(()),
    }
}

fn refuse<T>(why: impl Into<String>) -> Result<T, ProtocolError> {
    Err(ProtocolError(why.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1000;

    /// All requests in `bytes`, handed over in pieces of `piece` bytes.
    fn parse(bytes: &[u8], piece: usize) -> Result<Vec<Vec<String>>, String> {
        let (mut parser, mut buffer) = (Parser::new(LIMIT), BytesMut::new());
        let mut requests = Vec::new();
        for piece in bytes.chunks(piece) {
            buffer.extend_from_slice(piece);
            while let Some(args) = parser.next(&mut buffer).map_err(|error| error.0)? {
                let text = |arg: &Bytes| String::from_utf8_lossy(arg).into_owned();
                requests.push(args.iter().map(text).collect());
            }
        }
        Ok(requests)
    }

    #[test]
    fn requests_are_the_same_however_they_arrive() {
        let bytes = b"*1\r\n$4\r\nPING\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\n\r\n\r\n\r\n\
            PING\r\n\r\n  get   k \n*0\r\n*-1\r\n*2\r\n$0\r\n\r\n$1\r\n*\r\n";
        let expected: Vec<Vec<String>> =
            [&["PING"][..], &["SET", "k", "\r\n\r\n"], &["PING"], &["get", "k"], &["", "*"]]
                .iter()
                .map(|words| words.iter().map(ToString::to_string).collect())
                .collect();
        for piece in 1..=bytes.len() {
            assert_eq!(parse(bytes, piece).as_ref(), Ok(&expected), "in pieces of {piece}");
        }
    }

    #[test]
    fn garbage_is_refused_with_a_reason() {
        let cases: [(&[u8], &str); 16] = [
            (b"*x\r\n", "invalid multibulk length"),
            (b"*1048577\r\n", "invalid multibulk length"),
            (b"*99999999999999999999\r\n", "invalid multibulk length"),
            (b"*11111111111111111111111111111111111111", "invalid multibulk length"),
            (b"*1\r\n:1\r\n", "expected '$', got ':'"),
            (b"*1\r\n*1\r\n", "expected '$', got '*'"),
            (b"*1\r\n$-1\r\n", "invalid bulk length"),
            (b"*1\r\n$abc\r\n", "invalid bulk length"),
            (b"*1\r\n$1000\r\n", "too big request: the limit is 1000 bytes"),
            (b"*1\r\n$9223372036854775807\r\n", "too big request: the limit is 1000 bytes"),
            (b"*1\r\n$1\r\nabc\r\n", "expected a line break after a string"),
            (b"\x16\x03\x01\x02", "expected '*', got '\\x16'"),
            (
                b"Host: example.org\r\n",
                "this is not HTTP: the HTTP interface has a port of its own",
            ),
            (b"set k \"v\n", "unbalanced quotes in request"),
            (b"set k 'v\\'\n", "unbalanced quotes in request"),
            (b"set k \"v\"w\n", "unbalanced quotes in request"),
        ];
        for (bytes, reason) in cases {
            for piece in [1, bytes.len()] {
                assert_eq!(parse(bytes, piece), Err(reason.to_owned()), "{}", bytes.escape_ascii());
            }
        }
        assert_eq!(
            parse(&[b'a'; MAX_INLINE_BYTES], 1 << 20),
            Err("too big inline request".to_owned())
        );
    }

    /// The same lines were given to Redis 7.
    #[test]
    fn quotes_in_a_line_are_read_as_redis_reads_them() {
        let cases: [(&str, &[&str]); 7] = [
            (r#"set "a key" 'a value'"#, &["set", "a key", "a value"]),
            (r#"  set k ""  "#, &["set", "k", ""]),
            (r#"echo "\x41\n\r\t\b\a\"\\\q\xzz""#, &["echo", "A\n\r\t\u{8}\u{7}\"\\qxzz"]),
            (r#"echo 'it\'s \n "so"'"#, &["echo", r#"it's \n "so""#]),
            (r#"echo pre"fix ed""#, &["echo", "prefix ed"]),
            (r#"echo "'" '"'"#, &["echo", "'", "\""]),
            (r"echo a\nb", &["echo", r"a\nb"]),
        ];
        for (line, words) in cases {
            let expected = words.iter().map(ToString::to_string).collect();
            assert_eq!(parse(format!("{line}\r\n").as_bytes(), 5), Ok(vec![expected]), "{line}");
        }
    }

    #[test]
    fn deep_nesting_costs_nothing() {
        let bytes = b"*1\r\n".repeat(100_000);
        assert_eq!(parse(&bytes, 4096), Err("expected '$', got '*'".to_owned()));
    }

    #[test]
    fn any_bytes_are_either_understood_or_refused() {
        let mut seed = 1_u64;
        for _ in 0..20_000 {
            let alphabet = b"*$:0123459\r\n\r\nab\xff";
            let bytes: Vec<u8> = (0..24)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    alphabet[usize::try_from(seed >> 33).unwrap() % alphabet.len()]
                })
                .collect();
            let whole = parse(&bytes, bytes.len());
            // The pieces may be refused earlier, but never read differently.
            if let (Ok(whole), Ok(pieces)) = (&whole, parse(&bytes, 1)) {
                assert_eq!(*whole, pieces, "{}", bytes.escape_ascii());
            }
        }
    }
}
