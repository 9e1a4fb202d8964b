//! The promises of [`LogStore`] and [`LogReader`].

use std::{ops::RangeInclusive, sync::Arc};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use tokio::sync::mpsc;

use super::{entries, entry, kept};
use crate::{
    configuration::{Configuration, Server},
    log::{Entries, Entry, EntryPayload, LogReader, LogStore, are_contiguous},
    position::LogIndex,
    store_error::StoreError,
};

/// Checks every promise of a [`LogStore`] and its [`LogReader`]. `fresh` makes an empty store; it
/// is called once per check, and earlier stores are dropped before the next one is made.
///
/// - An empty store has no bounds, and whatever is read is [`StoreError::NotFound`]. Removing from
///   it is not an error.
/// - What is appended is read back unchanged: every kind of payload, empty and large commands,
///   indices and terms of every magnitude.
/// - The first append to an empty store may begin anywhere, also after everything was removed.
/// - A gap, an overlap, or a gap between the batches of one append is refused and changes nothing.
/// - Several batches are appended in order; no batch, or one without entries, appends nothing.
/// - A read begins at the start of its range, never goes beyond its end or its limit of bytes, and
///   returns at least one entry. The part of a range beyond the last entry is not an error; a
///   range that begins outside of the log is [`StoreError::NotFound`].
/// - Removing a suffix or a prefix removes exactly that: inside a batch, at its edges, before the
///   first entry and after the last one.
/// - A store that was emptied goes on wherever the next append begins.
/// - A commit index that is noted shows with the next append and not before, the newest one if
///   several were noted; or never, in a store that keeps no notes. Removing entries leaves it.
/// - Readers, however many and however old, show the newest completed write.
/// - Reading while another task writes shows entries that were written, in order, and bounds that
///   never go back while the log only grows.
/// - A long random sequence of all this leaves what a plain list would hold.
///
/// Runs on tokio, of any flavour.
///
/// # Panics
/// On the first broken promise, naming it.
pub async fn log_store_suite<S: LogStore, Fut: Future<Output = S>>(mut fresh: impl FnMut() -> Fut) {
    empty_store(Log::new(fresh().await)).await;
    first_append(Log::new(fresh().await)).await;
    first_index_of_an_empty_store(Log::new(fresh().await)).await;
    for (what, batches) in gaps() {
        gap(Log::new(fresh().await), what, &batches).await;
    }
    several_batches(Log::new(fresh().await)).await;
    limit_of_bytes(Log::new(fresh().await)).await;
    ranges(Log::new(fresh().await)).await;
    for from in [0, 1, 9, 10, 11, 12, 13, 14, 15, 16, 18, 19, 20, 21, 1000, u64::MAX] {
        truncated_suffix(Log::new(fresh().await), from).await;
    }
    for through in [0, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 19, 20, 1000, u64::MAX] {
        truncated_prefix(Log::new(fresh().await), through).await;
    }
    truncated_on_both_sides(Log::new(fresh().await)).await;
    emptied(Log::new(fresh().await)).await;
    reset(Log::new(fresh().await)).await;
    noted_commit(Log::new(fresh().await)).await;
    rewritten_tail(Log::new(fresh().await)).await;
    old_and_new_readers(Log::new(fresh().await)).await;
    reading_while_writing(Log::new(fresh().await)).await;
    every_payload(Log::new(fresh().await)).await;
    every_magnitude(Log::new(fresh().await)).await;
    big_entries(Log::new(fresh().await)).await;
    thousands_of_entries(Log::new(fresh().await)).await;
    random_walk(Log::new(fresh().await)).await;
}

/// A store under test and one of its readers.
pub(super) struct Log<S> {
    pub(super) store: S,
    reader: Arc<dyn LogReader>,
}

impl<S: LogStore> Log<S> {
    pub(super) fn new(store: S) -> Self {
        let reader = store.reader();
        Self { store, reader }
    }

    pub(super) async fn append(&mut self, batches: &[Entries]) {
        kept(self.store.append(batches).await, "an append that leaves no gap succeeds");
    }

    pub(super) async fn truncate_suffix(&mut self, from: u64) {
        let done = self.store.truncate_suffix(LogIndex(from)).await;
        kept(done, "removing a suffix succeeds, also when there is nothing to remove");
    }

    pub(super) async fn truncate_prefix(&mut self, through: u64) {
        let done = self.store.truncate_prefix(LogIndex(through)).await;
        kept(done, "removing a prefix succeeds, also when there is nothing to remove");
    }

    pub(super) async fn noted_commit(&self) -> Option<LogIndex> {
        kept(self.reader.noted_commit().await, "the noted commit index can be read")
    }

    /// The store holds exactly this: in its bounds, in its entries, and at its edges.
    pub(super) async fn assert_holds(&self, expected: &[Entry], when: &str) {
        let bounds = kept(self.reader.bounds().await, "the bounds can be read");
        let ends = expected.first().zip(expected.last());
        let expected_bounds = ends.map(|(first, last)| (first.index, last.index));
        assert_eq!(
            bounds, expected_bounds,
            "broken promise: bounds are the first and last index, {when}"
        );
        let Some((first, last)) = bounds else {
            return assert_not_found(&*self.reader, 1..=1, "an empty store").await;
        };
        let all = read_all(&*self.reader, first..=last, u64::MAX).await;
        assert!(all == expected, "broken promise: the log holds what was written, {when}");
        assert_not_found(&*self.reader, first.0 - 1..=last.0, "a start before the first").await;
        assert_not_found(&*self.reader, last.0 + 1..=last.0 + 9, "a start after the last").await;
    }
}

fn indices(range: RangeInclusive<u64>) -> RangeInclusive<LogIndex> {
    LogIndex(*range.start())..=LogIndex(*range.end())
}

async fn assert_not_found(reader: &dyn LogReader, range: RangeInclusive<u64>, what: &str) {
    match reader.read(indices(range.clone()), u64::MAX).await {
        Err(StoreError::NotFound { .. }) => {}
        other => {
            panic!("broken promise: reading {range:?} ({what}) is NotFound, but got {other:?}")
        }
    }
}

/// One read, with everything that is promised of any read.
async fn read(
    reader: &dyn LogReader,
    range: RangeInclusive<LogIndex>,
    max_bytes: u64,
) -> Result<Entries, StoreError> {
    let part = reader.read(range.clone(), max_bytes).await?;
    let Some((first, last)) = part.first().zip(part.last()) else {
        panic!("broken promise: a read returns at least one entry (of {range:?})");
    };
    assert_eq!(
        first.index,
        *range.start(),
        "broken promise: a read begins at the start of its range"
    );
    assert!(
        last.index <= *range.end(),
        "broken promise: a read ends within {range:?}, not at {}",
        last.index
    );
    assert!(are_contiguous(&part), "broken promise: a read leaves nothing out");
    assert!(
        part.len() == 1 || part.cost_bytes() <= max_bytes,
        "broken promise: a read of several entries has at most {max_bytes} bytes, not {}",
        part.cost_bytes()
    );
    Ok(part)
}

/// Reads on until the end of the range.
async fn read_all(
    reader: &dyn LogReader,
    range: RangeInclusive<LogIndex>,
    max_bytes: u64,
) -> Vec<Entry> {
    let (mut next, end) = range.into_inner();
    let mut all = Vec::new();
    while next <= end {
        let part = kept(read(reader, next..=end, max_bytes).await, "what is in bounds can be read");
        next = next.plus(part.len());
        all.extend_from_slice(&part);
    }
    all
}

pub(super) fn all(batches: &[Entries]) -> Vec<Entry> {
    batches.iter().flat_map(|batch| batch.iter().cloned()).collect()
}

async fn empty_store<S: LogStore>(mut log: Log<S>) {
    log.assert_holds(&[], "when nothing was written").await;
    assert_not_found(&*log.reader, 0..=0, "an empty store").await;
    assert_not_found(&*log.reader, 1..=u64::MAX, "an empty store").await;
    log.truncate_suffix(0).await;
    log.truncate_suffix(5).await;
    log.truncate_prefix(0).await;
    log.truncate_prefix(5).await;
    log.append(&[]).await;
    log.append(&[Entries::default(), Entries::default()]).await;
    log.assert_holds(&[], "when only nothing was removed and appended").await;
    log.append(&[entries(1, 1, 2)]).await;
    log.assert_holds(&entries(1, 1, 2), "after the first append to such a store").await;
}

async fn first_append<S: LogStore>(mut log: Log<S>) {
    log.append(&[entries(1, 1, 1)]).await;
    log.assert_holds(&entries(1, 1, 1), "after one entry").await;
    log.append(&[entries(1, 2, 3)]).await;
    log.append(&[entries(2, 4, 4)]).await;
    let expected = all(&[entries(1, 1, 3), entries(2, 4, 4)]);
    log.assert_holds(&expected, "after appends in two terms").await;
}

async fn first_index_of_an_empty_store<S: LogStore>(mut log: Log<S>) {
    log.append(&[entries(7, 1000, 1002)]).await;
    log.assert_holds(&entries(7, 1000, 1002), "when it began beyond a snapshot").await;
    assert_not_found(&*log.reader, 1..=1001, "before the first").await;
    log.append(&[entries(7, 1003, 1003)]).await;
    log.assert_holds(&entries(7, 1000, 1003), "when it began beyond a snapshot and grew").await;
}

fn gaps() -> Vec<(&'static str, Vec<Entries>)> {
    vec![
        ("one entry is missing before it", vec![entries(1, 7, 8)]),
        ("many entries are missing before it", vec![entries(1, 500, 501)]),
        ("it begins at the last entry", vec![entries(1, 5, 6)]),
        ("it begins inside of the log", vec![entries(1, 4, 4)]),
        ("it begins before the log", vec![entries(1, 1, 5)]),
        ("its second batch leaves a gap", vec![entries(1, 6, 7), entries(1, 9, 9)]),
        ("its second batch overlaps", vec![entries(1, 6, 7), entries(1, 7, 8)]),
        (
            "a batch after an empty one leaves a gap",
            vec![entries(1, 6, 6), Entries::default(), entries(1, 8, 8)],
        ),
    ]
}

async fn gap<S: LogStore>(mut log: Log<S>, what: &str, batches: &[Entries]) {
    log.append(&[entries(1, 3, 5)]).await;
    let result = log.store.append(batches).await;
    assert!(result.is_err(), "broken promise: an append is refused when {what}");
    log.assert_holds(&entries(1, 3, 5), &format!("after an append was refused because {what}"))
        .await;
}

async fn several_batches<S: LogStore>(mut log: Log<S>) {
    let batches = [
        entries(1, 1, 1),
        entries(1, 2, 6),
        Entries::default(),
        entries(3, 7, 7),
        entries(4, 8, 9),
    ];
    log.append(&batches).await;
    log.assert_holds(&all(&batches), "after one append of several batches").await;
    let more = [entries(4, 10, 12).skip(1), entries(4, 13, 13)];
    log.append(&[entries(4, 10, 10)]).await;
    log.append(&more).await;
    let expected = [all(&batches), all(&[entries(4, 10, 13)])].concat();
    log.assert_holds(&expected, "after batches that are parts of longer runs").await;
}

async fn limit_of_bytes<S: LogStore>(mut log: Log<S>) {
    let sized = |index: u64| {
        let data = Bytes::from(vec![index as u8; 10 * index as usize]);
        Entry { payload: EntryPayload::Command(data), ..entry(1, index) }
    };
    let expected: Vec<Entry> = (1..=20).map(sized).collect();
    for chunk in expected.chunks(6) {
        log.append(&[Entries::new(chunk.to_vec())]).await;
    }
    let range = LogIndex(1)..=LogIndex(20);
    let costs = expected.iter().scan(0, |sum, entry| {
        *sum += entry.cost_bytes();
        Some(*sum)
    });
    for cost in costs.chain([0, 1, u64::MAX]) {
        for limit in [cost.saturating_sub(1), cost, cost.saturating_add(1)] {
            let read = read_all(&*log.reader, range.clone(), limit).await;
            assert!(
                read == expected,
                "broken promise: reading on, at most {limit} bytes at a time, gives every entry"
            );
        }
    }
    let one = kept(read(&*log.reader, range, 0).await, "a limit of zero bytes is no error");
    assert_eq!(one.len(), 1, "broken promise: a limit of zero bytes gives exactly one entry");
}

async fn ranges<S: LogStore>(mut log: Log<S>) {
    log.append(&[entries(1, 5, 6)]).await;
    log.append(&[entries(1, 7, 9), entries(2, 10, 10)]).await;
    let expected = all(&[entries(1, 5, 9), entries(2, 10, 10)]);
    for start in 5..=10 {
        for end in start..=10 {
            let read = read_all(&*log.reader, indices(start..=end), u64::MAX).await;
            let (from, to) = (start as usize - 5, end as usize - 5);
            assert!(
                Some(&read[..]) == expected.get(from..=to),
                "broken promise: reading {start}..={end} gives these entries"
            );
        }
        for end in [11, 1000, u64::MAX] {
            let part = read(&*log.reader, indices(start..=end), u64::MAX).await;
            let part = kept(part, "a range may end beyond the last entry");
            assert!(
                expected.get(start as usize - 5..).is_some_and(|rest| rest.starts_with(&part)),
                "broken promise: a range beyond the end gives what is there"
            );
        }
    }
    for range in [0..=0, 0..=7, 1..=7, 4..=4, 4..=10, 11..=11, 11..=u64::MAX, 1000..=1001] {
        assert_not_found(&*log.reader, range, "it begins outside of the log").await;
    }
    assert_not_found(&*log.reader, u64::MAX..=u64::MAX, "it begins outside of the log").await;
}

/// Three batches: 10..=12, 13..=15, 16..=19.
async fn three_batches<S: LogStore>(log: &mut Log<S>) -> Vec<Entry> {
    let batches = [entries(2, 10, 12), entries(2, 13, 15), entries(3, 16, 19)];
    log.append(&batches[..1]).await;
    log.append(&batches[1..]).await;
    all(&batches)
}

async fn truncated_suffix<S: LogStore>(mut log: Log<S>, from: u64) {
    let mut expected = three_batches(&mut log).await;
    log.truncate_suffix(from).await;
    expected.retain(|entry| entry.index < LogIndex(from));
    log.assert_holds(&expected, &format!("after everything from {from} was removed")).await;
    let next = expected.last().map_or(10, |entry| entry.index.0 + 1);
    log.append(&[entries(9, next, next + 1)]).await;
    expected.extend(entries(9, next, next + 1).iter().cloned());
    log.assert_holds(&expected, &format!("after {from} and more was removed and written anew"))
        .await;
}

async fn truncated_prefix<S: LogStore>(mut log: Log<S>, through: u64) {
    let mut expected = three_batches(&mut log).await;
    log.truncate_prefix(through).await;
    expected.retain(|entry| LogIndex(through) < entry.index);
    log.assert_holds(&expected, &format!("after everything through {through} was removed")).await;
    log.append(&[entries(9, 20, 21)]).await;
    expected.extend(entries(9, 20, 21).iter().cloned());
    log.assert_holds(&expected, &format!("after {through} and less was removed and the log grew"))
        .await;
}

async fn truncated_on_both_sides<S: LogStore>(mut log: Log<S>) {
    let mut expected = three_batches(&mut log).await;
    for (from, through) in [(19, 10), (18, 11), (16, 12), (16, 12), (15, 13)] {
        log.truncate_suffix(from).await;
        log.truncate_prefix(through).await;
        expected.retain(|e| e.index < LogIndex(from) && LogIndex(through) < e.index);
        log.assert_holds(&expected, &format!("after {from} and {through} were cut off")).await;
    }
    log.truncate_prefix(14).await;
    log.assert_holds(&[], "after its last entry was removed from the front").await;
}

async fn emptied<S: LogStore>(mut log: Log<S>) {
    for (round, first) in [1, 100, 50, 1, 1_000_000, 7].into_iter().enumerate() {
        log.append(&[entries(1, first, first + 1), entries(1, first + 2, first + 4)]).await;
        log.assert_holds(&entries(1, first, first + 4), "after it began anew").await;
        match round % 3 {
            0 => log.truncate_suffix(first).await,
            1 => log.truncate_prefix(first + 4).await,
            _ => log.truncate_suffix(0).await,
        }
        log.assert_holds(&[], "after everything was removed").await;
    }
}

async fn reset<S: LogStore>(mut log: Log<S>) {
    for first in [1, 500, 20] {
        log.append(&[entries(first, first, first + 9)]).await;
        log.append(&[entries(first, first + 10, first + 14)]).await;
        log.truncate_prefix(first + 3).await;
        let expected = all(&[entries(first, first + 4, first + 14)]);
        log.assert_holds(&expected, "after a compaction").await;
        log.truncate_prefix(u64::MAX).await;
        log.assert_holds(&[], "after all of it was removed in one step").await;
    }
}

async fn noted_commit<S: LogStore>(mut log: Log<S>) {
    const PROMISE: &str = "broken promise: a noted commit index shows with the next append";
    assert_eq!(log.noted_commit().await, None, "broken promise: a fresh store has noted nothing");
    log.append(&[entries(1, 1, 5)]).await;
    log.store.note_commit(LogIndex(2));
    log.store.note_commit(LogIndex(3));
    assert_eq!(log.noted_commit().await, None, "{PROMISE}, not before");
    log.append(&[entries(1, 6, 6)]).await;
    let keeps_notes = log.noted_commit().await.is_some();
    let shown = |index| keeps_notes.then_some(LogIndex(index));
    assert_eq!(log.noted_commit().await, shown(3), "{PROMISE}, the newest");
    log.append(&[entries(1, 7, 9)]).await;
    log.truncate_suffix(8).await;
    log.truncate_prefix(2).await;
    assert_eq!(log.noted_commit().await, shown(3), "broken promise: a noted commit index stays");
    log.truncate_prefix(u64::MAX).await;
    log.store.note_commit(LogIndex(20));
    log.append(&[entries(2, 21, 22)]).await;
    assert_eq!(log.noted_commit().await, shown(20), "{PROMISE}, also after all was removed");
    log.assert_holds(&all(&[entries(2, 21, 22)]), "after a commit index was noted").await;
}

async fn rewritten_tail<S: LogStore>(mut log: Log<S>) {
    log.append(&[entries(1, 1, 10)]).await;
    for term in 2..=6 {
        log.truncate_suffix(13 - term).await;
        log.append(&[entries(term, 13 - term, 12)]).await;
        let expected = all(&[entries(1, 1, 12 - term), entries(term, 13 - term, 12)]);
        log.assert_holds(&expected, "after its tail was replaced by a newer term's").await;
    }
}

async fn old_and_new_readers<S: LogStore>(mut log: Log<S>) {
    let old = log.store.reader();
    log.append(&[entries(1, 1, 5)]).await;
    let young = log.store.reader();
    log.append(&[entries(2, 6, 8)]).await;
    log.truncate_prefix(2).await;
    log.truncate_suffix(8).await;
    let expected = all(&[entries(1, 3, 5), entries(2, 6, 7)]);
    for reader in [Arc::clone(&old), young, Arc::clone(&log.reader), log.store.reader()] {
        let bounds = kept(reader.bounds().await, "every reader knows the bounds");
        assert_eq!(
            bounds,
            Some((LogIndex(3), LogIndex(7))),
            "broken promise: every reader shows the newest completed write"
        );
        let read = read_all(&*reader, indices(3..=7), u64::MAX).await;
        assert!(read == expected, "broken promise: every reader shows the newest completed write");
    }
    let held = kept(read(&*old, indices(3..=3), u64::MAX).await, "entries can be held");
    log.truncate_suffix(0).await;
    assert_eq!(
        held[..],
        entries(1, 3, 3)[..],
        "broken promise: entries once read do not change when they are removed"
    );
}

async fn reading_while_writing<S: LogStore>(mut log: Log<S>) {
    const LAST: u64 = 2000;
    let expected = |index: LogIndex| entry(1 + index.0 / 100, index.0);
    let reader = Arc::clone(&log.reader);
    // Each write is announced when it begins, and read beside for some rounds: reading in a closed
    // loop would keep a paused clock from moving.
    let (announce, mut announced) = mpsc::unbounded_channel();
    let reading = tokio::spawn(async move {
        let mut newest = LogIndex::ZERO;
        while announced.recv().await.is_some() {
            for _ in 0..4 {
                newest = read_beside(&*reader, newest, expected).await;
                tokio::task::yield_now().await;
            }
        }
        newest
    });
    let mut next = 1;
    for round in 0.. {
        // A reader that has panicked is heard below.
        _ = announce.send(());
        if LAST < next {
            break;
        }
        let last = LAST.min(next + round % 17);
        let batch = (next..=last).map(|index| expected(LogIndex(index))).collect();
        log.append(&[Entries::new(batch)]).await;
        next = last + 1;
        if round % 10 == 9 {
            log.truncate_prefix(last - 20).await;
        }
        tokio::task::yield_now().await;
    }
    drop(announce);
    let newest = kept(reading.await, "reading while writing");
    assert_eq!(newest, LogIndex(LAST), "broken promise: a reader shows the newest write");
}

/// Looks at a log that only grows at its end and shrinks at its start; gives its last index.
async fn read_beside(
    reader: &dyn LogReader,
    newest: LogIndex,
    expected: impl Fn(LogIndex) -> Entry,
) -> LogIndex {
    let bounds = kept(reader.bounds().await, "the bounds can be read while writing");
    let Some((first, last)) = bounds else { return newest };
    assert!(
        newest <= last,
        "broken promise: a completed write stays visible ({newest}, then {last})"
    );
    for start in [first, LogIndex(first.0.midpoint(last.0)), last] {
        match read(reader, start..=last, 4096).await {
            Ok(part) => assert!(
                part.iter().all(|entry| *entry == expected(entry.index)),
                "broken promise: reading while writing shows what was written"
            ),
            Err(error) => {
                let bounds = kept(reader.bounds().await, "the bounds can be read");
                assert!(
                    bounds.is_none_or(|(first, _)| start < first),
                    "broken promise: what is in the log can be read while writing: {error}"
                );
            }
        }
    }
    last
}

async fn every_payload<S: LogStore>(mut log: Log<S>) {
    let configuration = Configuration::new([
        Server::voter("a", "127.0.0.1:7001"),
        Server::voter("Žofie 🦀", "[::1]:7002"),
        Server::nonvoter("c", "host.example:7003"),
    ]);
    let payloads = [
        EntryPayload::Command(Bytes::new()),
        EntryPayload::Command(Bytes::from_static(&[0, 255, 0, 10, 13])),
        EntryPayload::Command((0..=255).collect()),
        EntryPayload::Noop,
        EntryPayload::Barrier,
        EntryPayload::Configuration(configuration),
        EntryPayload::Configuration(Configuration::default()),
    ];
    let expected: Vec<Entry> = payloads
        .into_iter()
        .zip(1..)
        .map(|(payload, i)| Entry { payload, ..entry(1, i) })
        .collect();
    log.append(&[Entries::new(expected.clone())]).await;
    log.assert_holds(&expected, "after every kind of payload was appended").await;
}

async fn every_magnitude<S: LogStore>(mut log: Log<S>) {
    for first in [250, 65_530, (1 << 24) - 5, (1 << 32) - 5, (1 << 48) - 5, 1 << 62] {
        log.truncate_suffix(0).await;
        log.append(&[entries(first, first, first + 4)]).await;
        log.append(&[entries(u64::MAX - 1, first + 5, first + 10)]).await;
        let expected =
            all(&[entries(first, first, first + 4), entries(u64::MAX - 1, first + 5, first + 10)]);
        log.assert_holds(&expected, &format!("about index {first}")).await;
        log.truncate_prefix(first + 2).await;
        log.truncate_suffix(first + 8).await;
        log.assert_holds(&expected[3..8], &format!("about index {first}, cut on both sides")).await;
    }
}

async fn big_entries<S: LogStore>(mut log: Log<S>) {
    const MIB: usize = 1 << 20;
    let big = |index: u64| {
        let data: Bytes = (0..MIB).map(|i| (i as u64 * index % 251) as u8).collect();
        Entry { payload: EntryPayload::Command(data), ..entry(1, index) }
    };
    let expected: Vec<Entry> = (1..=5).map(big).collect();
    log.append(&[Entries::new(expected[..2].to_vec()), Entries::new(expected[2..].to_vec())]).await;
    log.assert_holds(&expected, "after entries of 1 MiB").await;
    let one = kept(read(&*log.reader, indices(2..=5), MIB as u64).await, "big entries can be read");
    assert_eq!(one.len(), 1, "broken promise: an entry larger than the limit comes alone");
}

async fn thousands_of_entries<S: LogStore>(mut log: Log<S>) {
    const LAST: u64 = 10_000;
    let mut next = 1;
    for size in (1..).map(|round| 1 + round * 37 % 400) {
        let last = LAST.min(next + size - 1);
        log.append(&[entries(1, next, last)]).await;
        next = last + 1;
        if LAST < next {
            break;
        }
    }
    log.assert_holds(&entries(1, 1, LAST), "after thousands of entries").await;
    let mut rng = Pcg64::seed_from_u64(1);
    for _ in 0..200 {
        let start = rng.random_range(1..=LAST);
        let end = rng.random_range(start..=LAST + 10);
        let max_bytes = rng.random_range(0..100_000);
        let part = kept(read(&*log.reader, indices(start..=end), max_bytes).await, "a read");
        let last = start + part.len() as u64 - 1;
        assert!(
            part == entries(1, start, last),
            "broken promise: reading {start}..={end} gives its entries"
        );
    }
}

/// Random writes on the store and on a plain list, compared after each.
async fn random_walk<S: LogStore>(mut log: Log<S>) {
    let mut rng = Pcg64::seed_from_u64(2);
    let mut model: Vec<Entry> = Vec::new();
    for step in 0..300_u64 {
        let first = model.first().map_or(1, |entry| entry.index.0);
        let last = model.last().map_or(0, |entry| entry.index.0);
        match rng.random_range(0..10) {
            0 => {
                let from = rng.random_range(first.saturating_sub(1)..=last.max(first) + 1);
                log.truncate_suffix(from).await;
                model.retain(|entry| entry.index.0 < from);
            }
            1 | 2 => {
                let through = first.midpoint(last.max(first)) - rng.random_range(0..=1);
                log.truncate_prefix(through).await;
                model.retain(|entry| through < entry.index.0);
            }
            _ => {
                let mut next = if model.is_empty() { rng.random_range(1..1000) } else { last + 1 };
                let mut batches = Vec::new();
                for _ in 0..rng.random_range(1..4) {
                    let len = rng.random_range(1..20);
                    batches.push(entries(1 + step / 10, next, next + len - 1));
                    next += len;
                }
                log.append(&batches).await;
                model.extend(all(&batches));
            }
        }
        log.assert_holds(&model, &format!("after {step} random writes")).await;
    }
}
