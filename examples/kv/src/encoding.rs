//! The bytes of a command in the log.
//!
//! One byte of version, one of operation, then the fields: strings and lists carry their length as
//! four bytes, little endian, and numbers are eight bytes, little endian. Logs outlive programs, so
//! the bytes are pinned by tests below and may only be added to: a changed operation gets a new
//! number, a changed frame a new version.

use crate::command::{Answer, Command, Condition};

const VERSION: u8 = 1;

mod op {
    pub(super) const SET: u8 = 1;
    pub(super) const DEL: u8 = 2;
    pub(super) const INCR_BY: u8 = 3;
    pub(super) const APPEND: u8 = 4;
    pub(super) const MSET: u8 = 5;
    pub(super) const FLUSH_ALL: u8 = 6;
    pub(super) const ANNOUNCE: u8 = 7;
}

/// The command as bytes.
pub(crate) fn encode(command: &Command<'_>) -> Vec<u8> {
    let mut out = vec![VERSION];
    match command {
        Command::Set { key, value, condition, answer } => {
            out.extend([op::SET, condition_byte(*condition), answer_byte(*answer)]);
            put(&mut out, key);
            put(&mut out, value);
        }
        Command::Del { keys } => {
            out.push(op::DEL);
            put_len(&mut out, keys.len());
            keys.iter().for_each(|key| put(&mut out, key));
        }
        Command::IncrBy { key, by } => {
            out.push(op::INCR_BY);
            out.extend(by.to_le_bytes());
            put(&mut out, key);
        }
        Command::Append { key, tail } => {
            out.push(op::APPEND);
            put(&mut out, key);
            put(&mut out, tail);
        }
        Command::Mset { pairs } => {
            out.push(op::MSET);
            put_len(&mut out, pairs.len());
            for (key, value) in pairs {
                put(&mut out, key);
                put(&mut out, value);
            }
        }
        Command::FlushAll => out.push(op::FLUSH_ALL),
        Command::Announce { id, resp, http } => {
            out.push(op::ANNOUNCE);
            [id, resp, http].into_iter().for_each(|text| put(&mut out, text.as_bytes()));
        }
    }
    out
}

/// The command these bytes stand for; `None` when they are not a command of this version. Bytes
/// come out of a log whose entries are checksummed, so that means: written by a newer program.
pub(crate) fn decode(bytes: &[u8]) -> Option<Command<'_>> {
    let mut rest = bytes;
    let rest = &mut rest;
    if take_byte(rest)? != VERSION {
        return None;
    }
    let command = match take_byte(rest)? {
        op::SET => {
            let condition = condition_of(take_byte(rest)?)?;
            let answer = answer_of(take_byte(rest)?)?;
            Command::Set { key: take(rest)?, value: take(rest)?, condition, answer }
        }
        op::DEL => {
            let len = take_len(rest)?;
            Command::Del { keys: (0..len).map(|_| take(rest)).collect::<Option<_>>()? }
        }
        op::INCR_BY => {
            let (by, tail) = rest.split_first_chunk()?;
            *rest = tail;
            Command::IncrBy { by: i64::from_le_bytes(*by), key: take(rest)? }
        }
        op::APPEND => Command::Append { key: take(rest)?, tail: take(rest)? },
        op::MSET => {
            let len = take_len(rest)?;
            let pairs = (0..len).map(|_| Some((take(rest)?, take(rest)?)));
            Command::Mset { pairs: pairs.collect::<Option<_>>()? }
        }
        op::FLUSH_ALL => Command::FlushAll,
        op::ANNOUNCE => Command::Announce { id: text(rest)?, resp: text(rest)?, http: text(rest)? },
        _ => return None,
    };
    rest.is_empty().then_some(command)
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("requests are limited to far less than 4 GiB");
    out.extend(len.to_le_bytes());
}

fn take_byte(rest: &mut &[u8]) -> Option<u8> {
    let (byte, tail) = rest.split_first()?;
    *rest = tail;
    Some(*byte)
}

fn take_len(rest: &mut &[u8]) -> Option<usize> {
    let (len, tail) = rest.split_first_chunk()?;
    *rest = tail;
    usize::try_from(u32::from_le_bytes(*len)).ok()
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = take_len(rest)?;
    let (bytes, tail) = rest.split_at_checked(len)?;
    *rest = tail;
    Some(bytes)
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(take(rest)?).ok()
}

fn condition_byte(condition: Condition) -> u8 {
    match condition {
        Condition::Always => 0,
        Condition::Absent => 1,
        Condition::Present => 2,
    }
}

fn condition_of(byte: u8) -> Option<Condition> {
    [Condition::Always, Condition::Absent, Condition::Present].get(usize::from(byte)).copied()
}

fn answer_byte(answer: Answer) -> u8 {
    match answer {
        Answer::Status => 0,
        Answer::Previous => 1,
        Answer::Flag => 2,
    }
}

fn answer_of(byte: u8) -> Option<Answer> {
    [Answer::Status, Answer::Previous, Answer::Flag].get(usize::from(byte)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every operation with the bytes it had when it was first released.
    fn fixtures() -> Vec<(Command<'static>, &'static [u8])> {
        let set = |condition, answer| Command::Set { key: b"k", value: b"vw", condition, answer };
        vec![
            (
                set(Condition::Always, Answer::Status),
                b"\x01\x01\x00\x00\x01\x00\x00\x00k\x02\x00\x00\x00vw",
            ),
            (
                set(Condition::Absent, Answer::Previous),
                b"\x01\x01\x01\x01\x01\x00\x00\x00k\x02\x00\x00\x00vw",
            ),
            (
                set(Condition::Present, Answer::Flag),
                b"\x01\x01\x02\x02\x01\x00\x00\x00k\x02\x00\x00\x00vw",
            ),
            (
                Command::Del { keys: vec![b"a", b""] },
                b"\x01\x02\x02\x00\x00\x00\x01\x00\x00\x00a\x00\x00\x00\x00",
            ),
            (
                Command::IncrBy { key: b"n", by: -2 },
                b"\x01\x03\xfe\xff\xff\xff\xff\xff\xff\xff\x01\x00\x00\x00n",
            ),
            (
                Command::Append { key: b"k", tail: b"t" },
                b"\x01\x04\x01\x00\x00\x00k\x01\x00\x00\x00t",
            ),
            (
                Command::Mset { pairs: vec![(b"k", b"v")] },
                b"\x01\x05\x01\x00\x00\x00\x01\x00\x00\x00k\x01\x00\x00\x00v",
            ),
            (Command::FlushAll, b"\x01\x06"),
            (
                Command::Announce { id: "a", resp: "r", http: "h" },
                b"\x01\x07\x01\x00\x00\x00a\x01\x00\x00\x00r\x01\x00\x00\x00h",
            ),
        ]
    }

    #[test]
    fn the_bytes_of_every_operation_are_pinned() {
        for (command, bytes) in fixtures() {
            assert_eq!(encode(&command), bytes, "{command:?}");
            assert_eq!(decode(bytes), Some(command));
        }
    }

    #[test]
    fn bytes_that_are_cut_short_or_too_long_are_not_commands() {
        for (_, bytes) in fixtures() {
            for len in 0..bytes.len() {
                assert_eq!(decode(&bytes[..len]), None);
            }
            assert_eq!(decode(&[bytes, b"x"].concat()), None);
        }
    }

    #[test]
    fn newer_versions_and_operations_are_not_understood() {
        assert_eq!(decode(b"\x02\x06"), None);
        assert_eq!(decode(b"\x01\x63"), None);
        assert_eq!(decode(b"\x01\x01\x03\x00\x01\x00\x00\x00k\x00\x00\x00\x00"), None);
        // A list that claims to be huge costs nothing.
        assert_eq!(decode(b"\x01\x02\xff\xff\xff\xff"), None);
    }
}
