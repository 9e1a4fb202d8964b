//! The map the server replicates: byte strings to byte strings, ordered by a hash of the key.
//!
//! Three needs shape it. A *snapshot* must be taken while nothing is applied, so it has to cost
//! next to nothing however large the map is: the map is cut into shards behind `Arc`s, a clone
//! copies only the `Arc`s, and a later write copies the one shard it touches, once. `SCAN` needs a
//! *cursor* that is a plain number, is kept nowhere, and never misses a key that was there all the
//! time: the place of a key is a 64-bit number that depends on nothing but the key, and the cursor
//! is the place to go on from. And servers must be *comparable* at any moment: every pair
//! contributes a number to a running sum, which is therefore the same on every server that holds
//! the same pairs, and is kept up to date at the cost of one checksum per write. What is written counts
//! for that cost, never what is there already: each value stands beside its checksum, which goes on where
//! it ended when the value grows.

use std::{collections::BTreeMap, sync::Arc};

use bytes::{Bytes, BytesMut};
use crc32fast::Hasher;

/// A power of two: the top bits of a key's place name its shard.
const SHARDS: usize = 1024;
const SHARD_SHIFT: u32 = u64::BITS - SHARDS.trailing_zeros();

/// Where a key stands: first by place, then (two keys may share one) by its bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    place: u64,
    name: Bytes,
}

impl Key {
    fn new(name: Bytes) -> Self {
        Self { place: place(&name), name }
    }
}

/// A value, and its checksum.
#[derive(Clone, Debug)]
struct Value {
    bytes: Bytes,
    sum: u32,
}

impl Value {
    fn new(bytes: Bytes) -> Self {
        let sum = crc32fast::hash(&bytes);
        Self { bytes, sum }
    }

    /// Appends in place, if nobody else (a snapshot, a reply) holds the bytes; else to a copy of them.
    /// The room grows with the value, as that of a vector does.
    fn append(&mut self, tail: &[u8]) {
        let mut sum = Hasher::new_with_initial_len(self.sum, self.bytes.len() as u64);
        sum.update(tail);
        self.sum = sum.finalize();
        let mut bytes = std::mem::take(&mut self.bytes).try_into_mut().unwrap_or_else(|shared| {
            let mut copy = BytesMut::with_capacity(shared.len() + tail.len());
            copy.extend_from_slice(&shared);
            copy
        });
        bytes.extend_from_slice(tail);
        self.bytes = bytes.freeze();
    }
}

type Shard = BTreeMap<Key, Value>;

/// The map. Cloning it is cheap and gives an independent view.
#[derive(Clone, Debug)]
pub(crate) struct Map {
    shards: Vec<Arc<Shard>>,
    len: usize,
    digest: u64,
}

impl Default for Map {
    fn default() -> Self {
        let empty = Arc::<Shard>::default();
        Self { shards: vec![empty; SHARDS], len: 0, digest: 0 }
    }
}

impl Map {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A number that is equal for equal contents and, but for accidents of one in 2^64, different
    /// for different ones. It guards against mistakes, not against forgers.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    pub(crate) fn get(&self, name: &Bytes) -> Option<&Bytes> {
        let key = Key::new(name.clone());
        self.shard(&key).get(&key).map(|value| &value.bytes)
    }

    pub(crate) fn contains(&self, name: &Bytes) -> bool {
        self.get(name).is_some()
    }

    pub(crate) fn insert(&mut self, name: Bytes, value: Bytes) -> Option<Bytes> {
        let key = Key::new(name);
        let (place, value) = (key.place, Value::new(value));
        self.digest = self.digest.wrapping_add(pair_digest(place, &value));
        let old = self.shard_mut(&key).insert(key, value);
        match &old {
            Some(old) => self.digest = self.digest.wrapping_sub(pair_digest(place, old)),
            None => self.len += 1,
        }
        old.map(|old| old.bytes)
    }

    /// Appends to a value, or makes it, and returns its length. Costs what is appended, and not what is
    /// there, once the value stands by itself.
    pub(crate) fn append(&mut self, name: Bytes, tail: &[u8]) -> usize {
        let key = Key::new(name);
        let place = key.place;
        let Some(value) = self.shard_mut(&key).get_mut(&key) else {
            self.insert(key.name, Bytes::copy_from_slice(tail));
            return tail.len();
        };
        let before = pair_digest(place, value);
        value.append(tail);
        let (after, len) = (pair_digest(place, value), value.bytes.len());
        self.digest = self.digest.wrapping_sub(before).wrapping_add(after);
        len
    }

    pub(crate) fn remove(&mut self, name: &Bytes) -> Option<Bytes> {
        let key = Key::new(name.clone());
        // Looked up first: a miss must not copy a shard that a snapshot still holds.
        if !self.shard(&key).contains_key(&key) {
            return None;
        }
        let old = self.shard_mut(&key).remove(&key)?;
        self.len -= 1;
        self.digest = self.digest.wrapping_sub(pair_digest(key.place, &old));
        Some(old.bytes)
    }

    /// What was there is freed by a thread of its own: a million keys take half a second, and nothing is
    /// applied meanwhile. Without a thread it is done here.
    pub(crate) fn clear(&mut self) {
        let old = std::mem::take(self);
        let _ = std::thread::Builder::new().spawn(move || drop(old));
    }

    /// All pairs, in the order of their places.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.shards
            .iter()
            .flat_map(|shard| shard.iter())
            .map(|(key, value)| (&key.name, &value.bytes))
    }

    /// Up to `count` keys from the place `cursor` on (a few more when keys share the last place),
    /// and the cursor to go on from; zero when there is nothing more.
    pub(crate) fn scan(&self, cursor: u64, count: usize) -> (Vec<Bytes>, u64) {
        let from = Key { place: cursor, name: Bytes::new() };
        let first = self.shards.iter().skip(shard_number(cursor));
        let keys = first.flat_map(|shard| shard.range(from.clone()..).map(|(key, _)| key));
        let mut names = Vec::new();
        let mut last = 0;
        for key in keys {
            if count <= names.len() && key.place != last {
                return (names, key.place);
            }
            last = key.place;
            names.push(key.name.clone());
        }
        (names, 0)
    }

    fn shard(&self, key: &Key) -> &Shard {
        &self.shards[shard_number(key.place)]
    }

    fn shard_mut(&mut self, key: &Key) -> &mut Shard {
        Arc::make_mut(&mut self.shards[shard_number(key.place)])
    }
}

fn shard_number(place: u64) -> usize {
    usize::try_from(place >> SHARD_SHIFT).unwrap_or(0)
}

/// The place of a key: FNV-1a, stirred so that the top bits depend on every byte. Never zero, which
/// as a cursor means "from the start". Part of the protocol only as far as cursors under way go:
/// snapshots and the log hold no places.
fn place(name: &[u8]) -> u64 {
    let hash = name.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    stir(hash).max(1)
}

/// The running sum of pairs with one more.
pub(crate) fn digest_with(digest: u64, name: &[u8], value: &Bytes) -> u64 {
    digest.wrapping_add(pair_digest(place(name), &Value::new(value.clone())))
}

fn pair_digest(place: u64, value: &Value) -> u64 {
    stir(place ^ stir(u64::from(value.sum) | (value.bytes.len() as u64) << 32))
}

/// The finaliser of SplitMix64: every bit of the input reaches every bit of the output.
fn stir(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn bytes(text: impl ToString) -> Bytes {
        Bytes::from(text.to_string())
    }

    /// The map beside the obvious one, through a few thousand arbitrary steps.
    #[test]
    fn behaves_like_a_plain_map_and_keeps_its_digest() {
        let mut map = Map::default();
        let mut plain = BTreeMap::new();
        let mut seed = 7_u64;
        for step in 0..5000_u64 {
            seed = stir(seed.wrapping_add(step));
            let key = bytes(seed % 300);
            if seed >> 60 < 5 {
                assert_eq!(map.remove(&key), plain.remove(&key));
            } else {
                let value = bytes(seed >> 20);
                assert_eq!(map.insert(key.clone(), value.clone()), plain.insert(key, value));
            }
            assert_eq!(map.len(), plain.len());
        }
        let sorted: BTreeMap<_, _> = map.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        assert_eq!(sorted, plain);

        let mut other_order = Map::default();
        for (key, value) in plain.into_iter().rev() {
            other_order.insert(key, value);
        }
        assert_eq!(map.digest(), other_order.digest());
        map.clear();
        assert_eq!((map.len(), map.digest()), (0, 0));
    }

    #[test]
    fn a_clone_is_a_view_that_later_writes_do_not_reach() {
        let mut map = Map::default();
        map.insert(bytes("a"), bytes(1));
        let view = map.clone();
        map.insert(bytes("a"), bytes(2));
        map.remove(&bytes("b"));
        assert_eq!(view.get(&bytes("a")), Some(&bytes(1)));
        assert_eq!(map.get(&bytes("a")), Some(&bytes(2)));
        assert_ne!(view.digest(), map.digest());
    }

    #[test]
    fn what_was_appended_is_what_was_inserted() {
        let mut map = Map::default();
        let mut plain = Vec::new();
        for n in 0..300_u32 {
            let tail = vec![b'a' + (n % 26) as u8; n as usize % 7];
            plain.extend_from_slice(&tail);
            let view = map.clone();
            assert_eq!(map.append(bytes("log"), &tail), plain.len());
            // Whoever holds the value goes on seeing what it was.
            let before = plain[..plain.len() - tail.len()].to_vec();
            assert!(view.len() == 0 || view.get(&bytes("log")) == Some(&Bytes::from(before)));

            let mut inserted = Map::default();
            inserted.insert(bytes("log"), Bytes::from(plain.clone()));
            assert_eq!((map.len(), map.digest()), (1, inserted.digest()), "after {n}");
            assert_eq!(map.get(&bytes("log")), inserted.get(&bytes("log")));
        }
        assert_eq!(map.remove(&bytes("log")), Some(Bytes::from(plain)));
        assert_eq!(map.digest(), 0);
    }

    #[test]
    fn a_value_that_grows_is_seldom_copied() {
        let mut map = Map::default();
        map.insert(bytes("log"), Bytes::from(vec![b'x'; 1 << 20]));
        let mut places = BTreeSet::new();
        for n in 0..100_000 {
            assert_eq!(map.append(bytes("log"), b"y"), (1 << 20) + n + 1);
            places.insert(map.get(&bytes("log")).unwrap().as_ptr());
            // A snapshot costs one copy, after which the value stands by itself again.
            if n == 50_000 {
                let view = map.clone();
                map.append(bytes("log"), b"");
                assert_ne!(map.get(&bytes("log")).unwrap().as_ptr(), view_ptr(&view));
            }
        }
        assert!(places.len() < 10, "{} places", places.len());
    }

    fn view_ptr(view: &Map) -> *const u8 {
        view.get(&bytes("log")).unwrap().as_ptr()
    }

    #[test]
    fn who_clears_the_map_does_not_free_it() {
        struct Owner(std::sync::mpsc::Sender<std::thread::ThreadId>);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                b"value"
            }
        }
        impl Drop for Owner {
            fn drop(&mut self) {
                self.0.send(std::thread::current().id()).unwrap();
            }
        }
        let (freed, by) = std::sync::mpsc::channel();
        let mut map = Map::default();
        map.insert(bytes("k"), Bytes::from_owner(Owner(freed)));
        map.clear();
        assert_ne!(by.recv(), Ok(std::thread::current().id()));
    }

    #[test]
    fn a_swap_of_two_values_changes_the_digest() {
        let pairs = |one, two| {
            let mut map = Map::default();
            map.insert(bytes("one"), bytes(one));
            map.insert(bytes("two"), bytes(two));
            map.digest()
        };
        assert_ne!(pairs(1, 2), pairs(2, 1));
    }

    #[test]
    fn a_scan_meets_every_key_that_stays_however_the_map_changes() {
        let mut map = Map::default();
        for n in 0..1000 {
            map.insert(bytes(format!("stays:{n}")), bytes(n));
        }
        let (mut seen, mut cursor, mut round) = (BTreeSet::new(), 0, 0);
        loop {
            let (names, next) = map.scan(cursor, 7);
            seen.extend(names);
            map.insert(bytes(format!("comes:{round}")), bytes(round));
            map.remove(&bytes(format!("comes:{}", round / 2)));
            round += 1;
            if next == 0 {
                break;
            }
            assert!(cursor < next, "the cursor goes forward");
            cursor = next;
        }
        assert!((0..1000).all(|n| seen.contains(&bytes(format!("stays:{n}")))));
        assert!(100 < round);
    }

    #[test]
    fn a_scan_of_nothing_ends_at_once() {
        assert_eq!(Map::default().scan(0, 10), (vec![], 0));
        assert_eq!(Map::default().scan(u64::MAX, 10), (vec![], 0));
    }
}
