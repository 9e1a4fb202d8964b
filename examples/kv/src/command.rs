//! What can be written: the commands of the log, and what each does to the map.
//!
//! A [`Command`] borrows its strings, from a client's request on the way into the log and from an
//! entry on the way out of it. What is kept is copied, so that a small value never holds a whole
//! network buffer or log batch in memory.

use bytes::Bytes;

use crate::{map::Map, resp::Reply};

/// The longest value `APPEND` may grow, as in Redis. It must be the same on every server, so it is
/// not a setting.
const MAX_VALUE_BYTES: usize = 512 << 20;

/// Of an integer, with its sign.
const MAX_DIGITS: usize = 20;

/// A write, as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command<'a> {
    /// Sets a key.
    Set { key: &'a [u8], value: &'a [u8], condition: Condition, answer: Answer },
    /// Removes keys; answers how many there were.
    Del { keys: Vec<&'a [u8]> },
    /// Adds to a decimal number; answers the sum.
    IncrBy { key: &'a [u8], by: i64 },
    /// Appends to a value; answers its new length.
    Append { key: &'a [u8], tail: &'a [u8] },
    /// Sets all pairs at once.
    Mset { pairs: Vec<(&'a [u8], &'a [u8])> },
    /// Removes everything.
    FlushAll,
    /// Tells where clients and operators reach a server. Not about the map: see `KvFsm`.
    Announce { id: &'a str, resp: &'a str, http: &'a str },
}

/// When a `Set` takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Always,
    /// Only if the key is absent (`NX`).
    Absent,
    /// Only if the key is there (`XX`).
    Present,
}

/// What a `Set` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// `OK`, or nil when the condition did not hold.
    Status,
    /// The value before, or nil.
    Previous,
    /// 1 if it took effect, else 0.
    Flag,
}

impl Command<'_> {
    /// Carries the command out. Nothing but the map and the command decides the result.
    pub(crate) fn apply(&self, map: &mut Map) -> Reply {
        match self {
            Self::Set { key, value, condition, answer } => {
                set(map, key, value, *condition, *answer)
            }
            Self::Del { keys } => {
                let removed = keys.iter().filter(|key| map.remove(&copy(key)).is_some()).count();
                Reply::count(removed)
            }
            Self::IncrBy { key, by } => incr_by(map, key, *by),
            Self::Append { key, tail } => append(map, key, tail),
            Self::Mset { pairs } => {
                for (key, value) in pairs {
                    map.insert(copy(key), copy(value));
                }
                Reply::OK
            }
            Self::FlushAll => {
                map.clear();
                Reply::OK
            }
            Self::Announce { .. } => Reply::OK,
        }
    }
}

fn set(map: &mut Map, key: &[u8], value: &[u8], condition: Condition, answer: Answer) -> Reply {
    let key = copy(key);
    let holds = match condition {
        Condition::Always => true,
        Condition::Absent => !map.contains(&key),
        Condition::Present => map.contains(&key),
    };
    let previous = if holds { map.insert(key, copy(value)) } else { map.get(&key).cloned() };
    match answer {
        Answer::Status if holds => Reply::OK,
        Answer::Status => Reply::Nil,
        Answer::Previous => previous.map_or(Reply::Nil, Reply::Bulk),
        Answer::Flag => Reply::Int(i64::from(holds)),
    }
}

fn incr_by(map: &mut Map, key: &[u8], by: i64) -> Reply {
    let key = copy(key);
    let Some(number) = map.get(&key).map_or(Some(0), |value| parse_integer(value)) else {
        return Reply::error("ERR value is not an integer or out of range");
    };
    let Some(sum) = number.checked_add(by) else {
        return Reply::error("ERR increment or decrement would overflow");
    };
    map.insert(key, Bytes::from(sum.to_string()));
    Reply::Int(sum)
}

fn append(map: &mut Map, key: &[u8], tail: &[u8]) -> Reply {
    let key = copy(key);
    if MAX_VALUE_BYTES < map.get(&key).map_or(0, Bytes::len) + tail.len() {
        return Reply::error("ERR string exceeds maximum allowed size (512 MiB)");
    }
    Reply::count(map.append(key, tail))
}

fn copy(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// A decimal integer in the one way Redis accepts it: no plus sign, no spaces, no leading zeros.
pub(crate) fn parse_integer(text: &[u8]) -> Option<i64> {
    // Said before it is read: a value may have any length, and nothing is applied meanwhile.
    if MAX_DIGITS < text.len() {
        return None;
    }
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = match digits {
        [b'0'] => number == 0 && digits.len() == text.len(),
        [b'1'..=b'9', ..] => true,
        _ => false,
    };
    canonical.then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain_set<'a>(key: &'a str, value: &'a str) -> Command<'a> {
        conditional(key, value, Condition::Always, Answer::Status)
    }

    fn conditional<'a>(
        key: &'a str,
        value: &'a str,
        condition: Condition,
        answer: Answer,
    ) -> Command<'a> {
        Command::Set { key: key.as_bytes(), value: value.as_bytes(), condition, answer }
    }

    fn bulk(text: &str) -> Reply {
        Reply::Bulk(Bytes::from(text.to_owned()))
    }

    #[test]
    fn set_honours_its_condition_and_answers_as_asked() {
        let mut map = Map::default();
        let mut run = |condition, answer| conditional("k", "v", condition, answer).apply(&mut map);
        assert_eq!(run(Condition::Present, Answer::Status), Reply::Nil);
        assert_eq!(run(Condition::Absent, Answer::Previous), Reply::Nil);
        assert_eq!(run(Condition::Absent, Answer::Previous), bulk("v"));
        assert_eq!(run(Condition::Absent, Answer::Status), Reply::Nil);
        assert_eq!(run(Condition::Absent, Answer::Flag), Reply::Int(0));
        assert_eq!(run(Condition::Present, Answer::Status), Reply::OK);
        assert_eq!(run(Condition::Always, Answer::Flag), Reply::Int(1));
    }

    #[test]
    fn numbers_count_refuse_text_and_do_not_overflow() {
        let mut map = Map::default();
        let incr = |key: &'static str, by| Command::IncrBy { key: key.as_bytes(), by };
        assert_eq!(incr("n", 5).apply(&mut map), Reply::Int(5));
        assert_eq!(incr("n", -7).apply(&mut map), Reply::Int(-2));
        plain_set("text", "ten").apply(&mut map);
        let refused = Reply::error("ERR value is not an integer or out of range");
        assert_eq!(incr("text", 1).apply(&mut map), refused);
        plain_set("max", &i64::MAX.to_string()).apply(&mut map);
        let overflow = Reply::error("ERR increment or decrement would overflow");
        assert_eq!(incr("max", 1).apply(&mut map), overflow);
        assert_eq!(map.get(&Bytes::from("max")), Some(&Bytes::from(i64::MAX.to_string())));
    }

    #[test]
    fn append_makes_the_key_and_grows_it() {
        let mut map = Map::default();
        let append = |tail: &'static str| Command::Append { key: b"k", tail: tail.as_bytes() };
        assert_eq!(append("ab").apply(&mut map), Reply::Int(2));
        assert_eq!(append("").apply(&mut map), Reply::Int(2));
        assert_eq!(append("cde").apply(&mut map), Reply::Int(5));
        assert_eq!(map.get(&Bytes::from("k")), Some(&Bytes::from("abcde")));
    }

    #[test]
    fn del_counts_a_key_named_twice_once() {
        let mut map = Map::default();
        Command::Mset { pairs: vec![(b"a", b"1"), (b"b", b"2"), (b"a", b"3")] }.apply(&mut map);
        assert_eq!(map.len(), 2);
        assert_eq!(map.get(&Bytes::from("a")), Some(&Bytes::from("3")));
        let del = Command::Del { keys: vec![b"a", b"a", b"c"] };
        assert_eq!(del.apply(&mut map), Reply::Int(1));
    }

    #[test]
    fn integers_are_read_as_redis_reads_them() {
        let cases = [("0", Some(0)), ("-1", Some(-1)), ("42", Some(42))];
        for (text, number) in cases {
            assert_eq!(parse_integer(text.as_bytes()), number, "{text}");
        }
        assert_eq!(parse_integer(i64::MIN.to_string().as_bytes()), Some(i64::MIN));
        for text in ["", "-", "-0", "+1", "01", " 1", "1 ", "1.0", "9223372036854775808", "x"] {
            assert_eq!(parse_integer(text.as_bytes()), None, "{text:?}");
        }
    }
}
