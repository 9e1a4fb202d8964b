use super::*;
use crate::{
    consensus::WriteId,
    log::{Entry, EntryPayload},
    position::LogId,
};

/// What an entry without payload costs.
const COST: u64 = 32;

fn entries(ids: &[(u64, u64)]) -> Entries {
    let entry = |&(term, index): &(u64, u64)| {
        let LogId { term, index } = LogId::new(term, index);
        Entry { term, index, payload: EntryPayload::Noop }
    };
    ids.iter().map(entry).collect::<Vec<_>>().into()
}

fn run(term: u64, first: u64, last: u64) -> Entries {
    entries(&(first..=last).map(|index| (term, index)).collect::<Vec<_>>())
}

fn write(truncate_from: Option<u64>, entries: Entries) -> Write {
    let truncate_from = truncate_from.map(LogIndex);
    Write {
        id: WriteId(0),
        hard_state: None,
        reset_to: None,
        truncate_from,
        entries,
        commit_index: LogIndex::ZERO,
    }
}

fn tail(max_bytes: u64) -> LogTail {
    LogTail::new((LogIndex(1), LogIndex(0)), LogIndex(0), max_bytes)
}

fn append(tail: &LogTail, entries: Entries) -> Stamp {
    tail.accept(&write(None, entries))
}

fn range(first: u64, last: u64) -> (LogIndex, LogIndex) {
    (LogIndex(first), LogIndex(last))
}

fn load(tail: &LogTail, first: u64, last: u64) -> Load {
    tail.load(tail.generation(), range(first, last), u64::MAX)
}

fn indices(parts: &[Entries]) -> Vec<u64> {
    parts.iter().flat_map(|part| part.iter()).map(|entry| entry.index.0).collect()
}

fn address(entries: &Entries, index: u64) -> *const Entry {
    entries.iter().find(|entry| entry.index.0 == index).unwrap()
}

#[test]
fn a_range_within_one_batch_is_a_slice_of_it() {
    let tail = tail(u64::MAX);
    let batch = run(1, 1, 100);
    append(&tail, batch.clone());
    let Load::Entries(part) = load(&tail, 3, 5) else { panic!("not in memory") };
    assert_eq!(part, run(1, 3, 5));
    assert_eq!(address(&part, 3), address(&batch, 3));
}

#[test]
fn crumbs_are_sent_together() {
    let tail = tail(u64::MAX);
    for index in 1..=10 {
        append(&tail, run(1, index, index));
    }
    assert_eq!(load(&tail, 2, 9), Load::Entries(run(1, 2, 9)));
    assert_eq!(load(&tail, 2, 3), Load::Entries(run(1, 2, 3)));
}

#[test]
fn a_large_batch_is_not_copied_for_the_sake_of_the_next() {
    let tail = tail(u64::MAX);
    let batch = run(1, 1, CRUMB_ENTRIES as u64);
    append(&tail, batch.clone());
    append(&tail, run(1, 65, 70));
    let Load::Entries(part) = load(&tail, 1, 70) else { panic!("not in memory") };
    assert_eq!(address(&part, 1), address(&batch, 1));
    assert_eq!(part, batch);
}

#[test]
fn crumbs_are_copied_only_up_to_a_bound() {
    let tail = tail(u64::MAX);
    append(&tail, run(1, 1, 1));
    append(&tail, run(1, 2, 1000));
    assert_eq!(load(&tail, 1, 1000), Load::Entries(run(1, 1, CRUMB_ENTRIES as u64)));
}

#[test]
fn a_message_has_at_most_so_many_bytes_but_at_least_one_entry() {
    let tail = tail(u64::MAX);
    append(&tail, run(1, 1, 2));
    append(&tail, run(1, 3, 4));
    let load = |first, last, bytes| tail.load(0, range(first, last), bytes);
    assert_eq!(load(1, 2, 2 * COST), Load::Entries(run(1, 1, 2)));
    assert_eq!(load(1, 2, 2 * COST - 1), Load::Entries(run(1, 1, 1)));
    assert_eq!(load(1, 4, 3 * COST), Load::Entries(run(1, 1, 3)));
    assert_eq!(load(2, 4, 1), Load::Entries(run(1, 2, 2)));
}

#[test]
fn eviction_takes_only_what_is_durable_and_beyond_the_bound() {
    let tail = tail(2 * COST);
    let first = append(&tail, run(1, 1, 2));
    append(&tail, run(1, 3, 4));
    assert_eq!(load(&tail, 1, 4), Load::Entries(run(1, 1, 4)), "not durable: kept");
    tail.written(first);
    assert_eq!(load(&tail, 1, 4), Load::OnDisk { up_to: LogIndex(2) }, "durable: gone");
    assert_eq!(load(&tail, 3, 4), Load::Entries(run(1, 3, 4)));
}

#[test]
fn eviction_does_not_ask_whether_an_entry_was_applied() {
    let tail = tail(0);
    let stamp = append(&tail, run(1, 1, 2));
    tail.written(stamp);
    assert_eq!(tail.marks().applied, LogIndex(0));
    assert_eq!(load(&tail, 1, 2), Load::OnDisk { up_to: LogIndex(2) });
}

#[test]
fn what_was_there_before_the_start_is_on_disk() {
    let tail = LogTail::new((LogIndex(3), LogIndex(9)), LogIndex(2), u64::MAX);
    assert_eq!(load(&tail, 4, 9), Load::OnDisk { up_to: LogIndex(9) });
    append(&tail, run(2, 10, 11));
    assert_eq!(load(&tail, 4, 11), Load::OnDisk { up_to: LogIndex(9) });
    assert_eq!(load(&tail, 10, 11), Load::Entries(run(2, 10, 11)));
}

#[test]
fn an_order_of_another_generation_gets_nothing() {
    let tail = tail(u64::MAX);
    append(&tail, run(1, 1, 4));
    let generation = tail.generation();
    tail.accept(&write(Some(3), run(2, 3, 4)));
    assert_eq!(tail.load(generation, range(1, 4), u64::MAX), Load::Stale);
    assert_eq!(load(&tail, 1, 4), Load::Entries(entries(&[(1, 1), (1, 2), (2, 3), (2, 4)])));
}

#[test]
fn truncation_cuts_within_a_batch_and_drops_later_ones() {
    let tail = tail(u64::MAX);
    append(&tail, run(1, 1, 4));
    append(&tail, run(1, 5, 6));
    tail.accept(&write(Some(3), Entries::default()));
    assert_eq!(tail.marks().last, LogIndex(2));
    assert_eq!(load(&tail, 1, 2), Load::Entries(run(1, 1, 2)));
}

#[test]
#[should_panic(expected = "law 10")]
fn what_is_committed_is_never_truncated() {
    let tail = tail(u64::MAX);
    append(&tail, run(1, 1, 4));
    tail.committed(LogIndex(3));
    tail.accept(&write(Some(3), Entries::default()));
}

#[test]
fn a_late_completion_stands_only_for_what_was_not_truncated() {
    let tail = tail(u64::MAX);
    let old = append(&tail, run(1, 1, 4));
    let new = tail.accept(&write(Some(3), run(2, 3, 5)));
    tail.written(old);
    assert_eq!(tail.marks().stable, LogIndex(2));
    tail.written(new);
    assert_eq!(tail.marks().stable, LogIndex(5));
}

#[test]
fn a_truncation_takes_back_what_was_durable() {
    let tail = tail(u64::MAX);
    let stamp = append(&tail, run(1, 1, 4));
    tail.written(stamp);
    tail.accept(&write(Some(3), run(2, 3, 3)));
    let LogMarks { last, offset, in_progress, stable, .. } = tail.marks();
    assert_eq!((last, stable), (LogIndex(3), LogIndex(2)));
    assert_eq!((offset, in_progress), (LogIndex(3), LogIndex(2)));
}

#[test]
fn the_marks_follow_a_write_through_its_stages() {
    let tail = tail(u64::MAX);
    let stamp = append(&tail, run(1, 1, 3));
    assert_eq!(tail.marks(), LogMarks { first: LogIndex(1), ..marks([3, 1, 0, 0, 0, 0, 0]) });
    tail.in_progress(stamp);
    assert_eq!(tail.marks(), marks([3, 1, 3, 0, 0, 0, 0]));
    tail.written(stamp);
    assert_eq!(tail.marks(), marks([3, 4, 3, 3, 0, 0, 0]));
    tail.committed(LogIndex(2));
    assert_eq!(tail.marks(), marks([3, 4, 3, 3, 2, 0, 0]));
    tail.apply(range(1, 2), 10, &mut Vec::new());
    assert_eq!(tail.marks(), marks([3, 4, 3, 3, 2, 2, 0]));
    tail.applied(LogIndex(2));
    assert_eq!(tail.marks(), marks([3, 4, 3, 3, 2, 2, 2]));
}

fn marks([last, offset, in_progress, stable, committed, applying, applied]: [u64; 7]) -> LogMarks {
    LogMarks {
        first: LogIndex(1),
        last: LogIndex(last),
        offset: LogIndex(offset),
        in_progress: LogIndex(in_progress),
        stable: LogIndex(stable),
        committed: LogIndex(committed),
        applying: LogIndex(applying),
        applied: LogIndex(applied),
    }
}

#[test]
fn applying_shares_batches_and_stops_at_the_bound() {
    let tail = tail(u64::MAX);
    append(&tail, run(1, 1, 3));
    append(&tail, run(1, 4, 6));
    let mut parts = Vec::new();
    assert_eq!(tail.apply(range(2, 6), 4, &mut parts), Take::Entries);
    assert_eq!(indices(&parts), [2, 3, 4, 5]);
    assert_eq!(parts.len(), 2);
}

#[test]
fn applying_what_is_not_in_memory_says_what_to_read() {
    let tail = tail(0);
    let stamp = append(&tail, run(1, 1, 3));
    append(&tail, run(1, 4, 6));
    tail.written(stamp);
    let mut parts = Vec::new();
    assert_eq!(tail.apply(range(2, 6), 10, &mut parts), Take::OnDisk { up_to: LogIndex(3) });
    assert_eq!(indices(&parts), [0; 0]);
    assert_eq!(tail.apply(range(4, 6), 10, &mut parts), Take::Entries);
    assert_eq!(indices(&parts), [4, 5, 6]);
}

#[test]
fn compaction_moves_the_start_and_lets_whole_batches_go() {
    let tail = tail(u64::MAX);
    append(&tail, run(1, 1, 3));
    let stamp = append(&tail, run(1, 4, 6));
    tail.written(stamp);
    tail.committed(LogIndex(6));
    tail.applied(LogIndex(6));
    tail.compact(LogIndex(4));
    assert_eq!(tail.marks().first, LogIndex(5));
    assert!(tail.is_compacted(LogIndex(4)) && !tail.is_compacted(LogIndex(5)));
    assert_eq!(load(&tail, 4, 6), Load::Compacted);
    assert_eq!(load(&tail, 5, 6), Load::Entries(run(1, 5, 6)));
    tail.compact(LogIndex(3));
    assert_eq!(tail.marks().first, LogIndex(5), "it never goes back");
    tail.compact(LogIndex(6));
    append(&tail, run(2, 7, 7));
    assert_eq!(load(&tail, 7, 7), Load::Entries(run(2, 7, 7)));
}

fn reset(index: u64) -> Write {
    Write { reset_to: Some(LogIndex(index)), ..write(None, Entries::default()) }
}

#[test]
fn a_reset_drops_everything_and_begins_anew_behind_the_snapshot() {
    let tail = tail(u64::MAX);
    append(&tail, run(1, 1, 20));
    tail.committed(LogIndex(3));
    let generation = tail.generation();
    let stamp = tail.accept(&reset(9));
    let after = LogMarks { first: LogIndex(10), ..marks([9, 10, 9, 9, 9, 0, 0]) };
    assert_eq!(tail.marks(), after);
    assert_eq!(tail.load(generation, range(1, 4), u64::MAX), Load::Stale);
    assert_eq!(load(&tail, 1, 4), Load::Compacted);
    assert_eq!(tail.apply(range(1, 3), 10, &mut Vec::new()), Take::Replaced);
    tail.written(stamp);
    append(&tail, run(2, 10, 12));
    assert_eq!(load(&tail, 10, 12), Load::Entries(run(2, 10, 12)));
}

#[test]
fn a_completion_of_before_a_reset_is_void() {
    let tail = tail(u64::MAX);
    let old = append(&tail, run(1, 1, 20));
    tail.accept(&reset(9));
    let new = append(&tail, run(2, 10, 30));
    tail.in_progress(old);
    tail.written(old);
    let LogMarks { in_progress, stable, .. } = tail.marks();
    assert_eq!((in_progress, stable), (LogIndex(9), LogIndex(9)));
    tail.written(new);
    assert_eq!(tail.marks().stable, LogIndex(30));
}

#[test]
#[should_panic(expected = "law 14")]
fn a_reset_never_loses_what_is_committed() {
    let tail = tail(u64::MAX);
    append(&tail, run(1, 1, 4));
    tail.committed(LogIndex(3));
    tail.accept(&reset(2));
}

#[test]
fn many_batches_are_found_wherever_they_are() {
    let tail = tail(u64::MAX);
    for index in 1..=1000 {
        append(&tail, run(1, index, index));
    }
    for index in [1, 2, 500, 995, 996, 997, 998, 999, 1000] {
        assert_eq!(load(&tail, index, index), Load::Entries(run(1, index, index)));
    }
}
