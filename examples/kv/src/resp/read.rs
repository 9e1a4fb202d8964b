//! What can be asked of the map.

use bytes::Bytes;

use super::{Reply, glob};
use crate::fsm::State;

/// A question about the map. Answering it changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Get(Bytes),
    Mget(Vec<Bytes>),
    /// How many of the keys are there; one that is named twice counts twice, as in Redis.
    Exists(Vec<Bytes>),
    Strlen(Bytes),
    Type(Bytes),
    /// How long the key still lives: for ever, or it is not there at all.
    Ttl(Bytes),
    DbSize,
    Scan(Scan),
}

/// One page of a walk over all keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Where to begin: zero, or what the page before answered.
    pub(crate) cursor: u64,
    /// How many keys to look at, whether they match or not.
    pub(crate) count: usize,
    pub(crate) pattern: Option<Bytes>,
    /// The walk asks for keys of a type that does not exist here: it meets none.
    pub(crate) nothing: bool,
}

impl Read {
    /// The answer this state gives.
    pub(crate) fn answer(&self, state: &State) -> Reply {
        let map = &state.map;
        let get = |key| map.get(key).cloned().map_or(Reply::Nil, Reply::Bulk);
        match self {
            Self::Get(key) => get(key),
            Self::Mget(keys) => Reply::Array(keys.iter().map(get).collect()),
            Self::Exists(keys) => Reply::count(keys.iter().filter(|key| map.contains(key)).count()),
            Self::Strlen(key) => Reply::count(map.get(key).map_or(0, Bytes::len)),
            Self::Type(key) => {
                Reply::Status(if map.contains(key) { "string" } else { "none" }.into())
            }
            Self::Ttl(key) => Reply::Int(if map.contains(key) { -1 } else { -2 }),
            Self::DbSize => Reply::count(map.len()),
            Self::Scan(scan) => scan.answer(state),
        }
    }
}

impl Scan {
    fn answer(&self, state: &State) -> Reply {
        let (mut keys, next) = state.map.scan(self.cursor, self.count);
        if let Some(pattern) = &self.pattern {
            keys.retain(|key| glob::matches(pattern, key));
        }
        if self.nothing {
            keys.clear();
        }
        let keys = keys.into_iter().map(Reply::Bulk).collect();
        Reply::Array(vec![Reply::bulk(next.to_string()), Reply::Array(keys)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: impl Into<String>) -> Bytes {
        Bytes::from(text.into())
    }

    fn state() -> State {
        let mut state = State::default();
        for n in 0..100 {
            state.map.insert(bytes(format!("key:{n}")), bytes("x".repeat(n)));
        }
        state
    }

    #[test]
    fn questions_about_keys() {
        let state = state();
        let (there, gone) = (bytes("key:3"), bytes("nope"));
        let answer = |read: Read| read.answer(&state);
        assert_eq!(answer(Read::Get(there.clone())), Reply::bulk("xxx"));
        assert_eq!(answer(Read::Get(gone.clone())), Reply::Nil);
        let both = vec![there.clone(), gone.clone(), there.clone()];
        assert_eq!(answer(Read::Exists(both.clone())), Reply::Int(2));
        let values = vec![Reply::bulk("xxx"), Reply::Nil, Reply::bulk("xxx")];
        assert_eq!(answer(Read::Mget(both)), Reply::Array(values));
        assert_eq!(answer(Read::Strlen(there.clone())), Reply::Int(3));
        assert_eq!(answer(Read::Strlen(gone.clone())), Reply::Int(0));
        assert_eq!(answer(Read::Type(there.clone())), Reply::Status("string".into()));
        assert_eq!(answer(Read::Ttl(there)), Reply::Int(-1));
        assert_eq!(answer(Read::Ttl(gone)), Reply::Int(-2));
        assert_eq!(answer(Read::DbSize), Reply::Int(100));
    }

    #[test]
    fn a_walk_with_a_pattern_meets_what_matches_once() {
        let state = state();
        let (mut cursor, mut keys, mut pages) = (0, Vec::new(), 0);
        loop {
            let pattern = Some(bytes("key:?"));
            let scan = Scan { cursor, count: 9, pattern, nothing: false };
            let Reply::Array(parts) = scan.answer(&state) else { panic!("no array") };
            let [Reply::Bulk(next), Reply::Array(page)] = &parts[..] else { panic!("{parts:?}") };
            keys.extend(page.clone());
            pages += 1;
            cursor = std::str::from_utf8(next).unwrap().parse().unwrap();
            if cursor == 0 {
                break;
            }
        }
        assert_eq!((keys.len(), pages), (10, 12));
    }
}
