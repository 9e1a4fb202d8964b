use proptest::prelude::*;

use super::*;
use crate::{log::EntryPayload, position::LogIndex};

/// An entry with this term and payload length.
fn entry(term: u64, index: u64, len: usize) -> Entry {
    let payload = EntryPayload::Command(vec![b'x'; len].into());
    Entry { term: Term(term), index: LogIndex(index), payload }
}

/// The whole log since the beginning, each entry with its term and cost. Knows nothing of bounds.
#[derive(Clone, Debug)]
struct Naive {
    /// The index before the first entry that is kept.
    base: u64,
    /// Its term, if anything tells.
    base_term: Option<u64>,
    snapshot: (u64, u64),
    entries: Vec<(u64, u64)>,
    stable: u64,
}

impl Naive {
    fn last(&self) -> (u64, u64) {
        match self.entries.last() {
            Some((term, _)) => (*term, self.base + self.entries.len() as u64),
            None => self.snapshot,
        }
    }

    fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.snapshot.1 {
            return Some(self.snapshot.0);
        }
        if index == self.base {
            return self.base_term;
        }
        let at = index.checked_sub(self.base + 1)?;
        self.entries.get(at as usize).map(|(term, _)| *term)
    }

    /// The newest position whose index and term are at most those given, by going back one by one.
    /// At the start of what is kept the search ends, whatever was there.
    fn newest_at_most(&self, term: u64, index: u64) -> u64 {
        let mut at = index.min(self.last().1);
        while self.base < at && self.term_at(at).is_none_or(|known| term < known) {
            at -= 1;
        }
        at
    }

    fn cost(&self, from: u64, to: u64) -> u64 {
        let costs = self.entries.iter().zip(self.base + 1..);
        costs.filter(|(_, index)| from < *index && *index <= to).map(|((_, cost), _)| cost).sum()
    }

    fn fitting(&self, from: u64, max_entries: u64, max_bytes: u64) -> u64 {
        let mut to = from;
        while to < self.last().1 && to < from + max_entries {
            if from < to && max_bytes < self.cost(from, to + 1) {
                break;
            }
            to += 1;
        }
        to
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push {
        term: u64,
        len: usize,
    },
    Truncate {
        back: u64,
    },
    Stable {
        up_to: u64,
    },
    /// A snapshot of its own.
    Snapshot {
        ahead: u64,
    },
    Compact {
        ahead: u64,
    },
    /// A snapshot of the leader's, beyond the log or not.
    Reset {
        term: u64,
        ahead: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u64..3, 0_usize..40).prop_map(|(term, len)| Step::Push { term, len }),
        2 => (1_u64..6).prop_map(|back| Step::Truncate { back }),
        2 => (0_u64..8).prop_map(|up_to| Step::Stable { up_to }),
        2 => (1_u64..6).prop_map(|ahead| Step::Snapshot { ahead }),
        2 => (1_u64..6).prop_map(|ahead| Step::Compact { ahead }),
        1 => (0_u64..2, 1_u64..9).prop_map(|(term, ahead)| Step::Reset { term, ahead }),
    ]
}

fn compare(view: &LogView, naive: &Naive) {
    view.assert_invariants();
    let (last_term, last) = naive.last();
    assert_eq!(view.last(), LogId::new(last_term, last));
    assert_eq!(view.first_index().0, naive.base + 1);
    assert_eq!(view.stable().0, naive.stable);
    assert_eq!(view.snapshot(), LogId::new(naive.snapshot.0, naive.snapshot.1));
    for index in 0..=last + 2 {
        let term = naive.term_at(index);
        assert_eq!(view.term_at(LogIndex(index)), term.map(Term), "term at {index}");
        for term in 0..=last_term + 1 {
            let id = LogId::new(term, index);
            assert_eq!(view.has(id), naive.term_at(index) == Some(term));
            let is_served = naive.base < index && naive.term_at(index - 1).is_some();
            assert_eq!(view.serves(LogIndex(index)), is_served, "from {index} on");
            let meet = view.newest_at_most(id);
            assert_eq!(meet.index.0, naive.newest_at_most(term, index), "meeting {id}");
            assert_eq!(meet.term.0, naive.term_at(meet.index.0).unwrap_or(0));
        }
    }
    for from in naive.base..=last {
        assert_eq!(view.known_cost_bytes(LogIndex(from)), naive.cost(from, last));
        for to in from..=last {
            let cost = view.cost_bytes(LogIndex(from), LogIndex(to));
            assert_eq!(cost, Some(naive.cost(from, to)));
        }
        for (entries, bytes) in [(1, 1000), (3, 1000), (99, 0), (99, 64), (99, 100), (2, 70)] {
            let to = view.fitting(LogIndex(from), entries, bytes);
            let expected = naive.fitting(from, entries as u64, bytes);
            assert_eq!(to.0, expected, "{entries} entries or {bytes} bytes after {from}");
        }
    }
}

/// A view of a log that begins at 1, or after a snapshot, or before one.
fn start(shape: u8) -> (LogView, Naive) {
    let (snapshot, entries) = match shape {
        0 => ((0, 0), Vec::new()),
        1 => ((2, 5), Vec::new()),
        2 => ((2, 5), vec![entry(1, 4, 3), entry(2, 5, 5), entry(2, 6, 7)]),
        _ => ((2, 5), vec![entry(2, 6, 1), entry(3, 7, 2)]),
    };
    let mut view = LogView::new(LogId::new(snapshot.0, snapshot.1));
    view.restore(&entries);
    view.restored();
    let base = entries.first().map_or(snapshot.1, |first| first.index.0 - 1);
    let costs = entries.iter().map(|entry| (entry.term.0, entry.cost_bytes()));
    let stable = entries.last().map_or(snapshot.1, |last| last.index.0);
    let base_term = match base {
        0 => Some(0),
        base => (base == snapshot.1).then_some(snapshot.0),
    };
    let naive = Naive { base, base_term, snapshot, entries: costs.collect(), stable };
    (view, naive)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn agrees_with_a_vector(shape in 0_u8..4, steps in prop::collection::vec(step(), 1..24)) {
        let (mut view, mut naive) = start(shape);
        compare(&view, &naive);
        for step in steps {
            let (last_term, last) = naive.last();
            match step {
                Step::Push { term, len } => {
                    let entry = entry(last_term + term, last + 1, len);
                    view.push(&entry);
                    naive.entries.push((entry.term.0, entry.cost_bytes()));
                }
                Step::Truncate { back } => {
                    // Nothing covered by the snapshot is ever truncated (law 10).
                    let from = (last + 1).saturating_sub(back).max(naive.snapshot.1 + 1);
                    if last < from {
                        continue;
                    }
                    view.truncate(LogIndex(from));
                    naive.entries.truncate((from - 1 - naive.base) as usize);
                    naive.stable = naive.stable.min(from - 1);
                }
                Step::Stable { up_to } => {
                    let stable = (naive.stable + up_to).min(last);
                    view.set_stable(LogIndex(stable));
                    naive.stable = naive.stable.max(stable);
                }
                Step::Snapshot { ahead } => {
                    let index = naive.snapshot.1 + ahead;
                    let Some(term) = naive.term_at(index) else { continue };
                    view.set_snapshot(LogId::new(term, index));
                    naive.snapshot = (term, index);
                }
                Step::Compact { ahead } => {
                    let through = (naive.base + ahead).min(naive.snapshot.1);
                    if through <= naive.base {
                        continue;
                    }
                    view.compact(LogIndex(through));
                    naive.base_term = naive.term_at(through);
                    naive.entries.drain(..(through - naive.base) as usize);
                    naive.base = through;
                }
                Step::Reset { term, ahead } => {
                    let (term, index) = (last_term + term, naive.snapshot.1 + ahead);
                    view.reset(LogId::new(term, index));
                    let snapshot = (term, index);
                    let base_term = Some(term);
                    naive =
                        Naive { base: index, base_term, snapshot, entries: vec![], stable: index };
                }
            }
            compare(&view, &naive);
        }
        compare(&view, &naive);
    }
}

#[test]
fn stable_never_falls_by_a_late_mark() {
    let (mut view, _) = start(0);
    (1..=3).for_each(|index| view.push(&entry(1, index, 0)));
    view.set_stable(LogIndex(3));
    view.set_stable(LogIndex(1));
    assert_eq!(view.stable(), LogIndex(3));
    view.truncate(LogIndex(2));
    assert_eq!(view.stable(), LogIndex(1));
}

#[test]
#[should_panic(expected = "gap")]
fn gap_is_a_broken_law() {
    start(0).0.push(&entry(1, 2, 0));
}

#[test]
#[should_panic(expected = "law 3")]
fn falling_term_is_a_broken_law() {
    start(3).0.push(&entry(2, 8, 0));
}

/// A log whose disk ends before the snapshot begins after it.
#[test]
fn log_that_ends_before_the_snapshot_is_covered_by_it() {
    let mut view = LogView::new(LogId::new(3, 9));
    view.restore(&[entry(1, 4, 0), entry(2, 5, 0)]);
    view.restored();
    assert_eq!((view.first_index(), view.last()), (LogIndex(10), LogId::new(3, 9)));
    view.push(&entry(3, 10, 0));
    assert_eq!(view.term_at(LogIndex(5)), None);
    assert_eq!(view.term_at(LogIndex(9)), Some(Term(3)));
}

/// Sizes of old entries are forgotten; ranges that need them count as full messages.
#[test]
fn old_sizes_are_forgotten() {
    let (mut view, _) = start(0);
    let count = MAX_KNOWN_SIZES as u64 + 10;
    (1..=count).for_each(|index| view.push(&entry(1, index, 0)));
    assert_eq!(view.cost_bytes(LogIndex(0), LogIndex(5)), None);
    assert_eq!(view.cost_bytes(LogIndex(count - 2), LogIndex(count)), Some(64));
    assert_eq!(view.fitting(LogIndex(0), 7, 1), LogIndex(7));
    assert_eq!(view.fitting(LogIndex(count - 5), 7, 96), LogIndex(count - 2));
    assert_eq!(view.known_cost_bytes(LogIndex(0)), 32 * MAX_KNOWN_SIZES as u64);
    // A truncation beyond everything that is known starts afresh.
    view.truncate(LogIndex(3));
    view.push(&entry(2, 3, 8));
    assert_eq!(view.cost_bytes(LogIndex(2), LogIndex(3)), Some(40));
    assert_eq!(view.cost_bytes(LogIndex(1), LogIndex(3)), None);
}

/// A log that was compacted by an earlier process does not tell the term of the entry before it, until
/// it is compacted again.
#[test]
fn the_term_before_the_log_is_known_if_it_was_compacted_here() {
    let (mut view, _) = start(2);
    assert_eq!((view.first_index(), view.term_at(LogIndex(3))), (LogIndex(4), None));
    assert!(!view.serves(LogIndex(4)) && view.serves(LogIndex(5)));
    view.compact(LogIndex(4));
    assert_eq!((view.first_index(), view.term_at(LogIndex(4))), (LogIndex(5), Some(Term(1))));
    assert!(!view.serves(LogIndex(4)) && view.serves(LogIndex(5)));
    view.compact(LogIndex(5));
    assert!(!view.serves(LogIndex(5)) && view.serves(LogIndex(6)));
}

/// The search for the common prefix ends at the start of the log: what is before it is committed.
#[test]
fn hints_end_at_the_start_of_the_log() {
    let (mut view, _) = start(0);
    for (term, index) in [(1, 1), (1, 2), (3, 3), (3, 4), (5, 5)] {
        view.push(&entry(term, index, 0));
    }
    view.set_stable(LogIndex(5));
    view.set_snapshot(LogId::new(3, 4));
    view.compact(LogIndex(3));
    for (hint, meet) in [
        ((9, 9), (5, 5)),
        ((4, 9), (3, 4)),
        ((3, 4), (3, 4)),
        // A term that ended before: nothing that is still here can match.
        ((2, 9), (3, 3)),
        ((3, 3), (3, 3)),
        ((1, 2), (0, 2)),
    ] {
        let found = view.newest_at_most(LogId::new(hint.0, hint.1));
        assert_eq!((found.term.0, found.index.0), meet, "{hint:?}");
    }
}

#[test]
fn truncation_may_leave_nothing_but_the_snapshot() {
    let (mut view, _) = start(0);
    (1..=5).for_each(|index| view.push(&entry(2, index, 0)));
    view.set_stable(LogIndex(5));
    view.set_snapshot(LogId::new(2, 3));
    view.compact(LogIndex(3));
    view.truncate(LogIndex(4));
    assert_eq!((view.last(), view.stable()), (LogId::new(2, 3), LogIndex(3)));
    view.push(&entry(4, 4, 0));
    assert_eq!(view.term_at(LogIndex(4)), Some(Term(4)));
    assert_eq!(view.newest_at_most(LogId::new(3, 9)), LogId::new(2, 3));
    view.assert_invariants();
}

#[test]
#[should_panic(expected = "below the log's start")]
fn truncation_of_what_is_compacted_is_a_broken_law() {
    start(1).0.truncate(LogIndex(5));
}

#[test]
#[should_panic(expected = "beyond the snapshot")]
fn compaction_beyond_the_snapshot_is_a_broken_law() {
    start(2).0.compact(LogIndex(6));
}

#[test]
#[should_panic(expected = "law 6")]
fn snapshot_that_falls_is_a_broken_law() {
    start(2).0.reset(LogId::new(2, 5));
}

/// The entries before it may be another leader's, but whoever starts must have chosen a snapshot that
/// the log goes with.
#[test]
#[should_panic(expected = "law 3")]
fn log_that_contradicts_the_snapshot_is_a_broken_law() {
    LogView::new(LogId::new(3, 5)).restore(&[entry(2, 4, 0), entry(2, 5, 0)]);
}
