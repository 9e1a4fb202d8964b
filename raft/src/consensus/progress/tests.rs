use proptest::prelude::*;

use super::*;
use crate::{
    Config,
    log::{Entry, EntryPayload},
    position::Term,
};

const PATIENCE: Duration = Duration::from_millis(100);

fn at(ms: u64) -> Time {
    Time(ms * 1000)
}

/// A log of entries of 32 bytes each, one term per ten.
fn log(len: u64) -> LogView {
    let mut log = LogView::new(LogId::ZERO);
    (1..=len).for_each(|index| push(&mut log, index));
    log
}

fn push(log: &mut LogView, index: u64) {
    let term = Term(index / 10 + 1);
    log.push(&Entry { term, index: LogIndex(index), payload: EntryPayload::Noop });
}

fn rules(max_append_entries: usize, max_inflight_appends: usize) -> Rules {
    Rules { max_append_entries, max_inflight_appends, ..Rules::from(&Config::new("n1")) }
}

/// The range sent now: the index before it and the last one.
fn send(progress: &mut Progress, log: &LogView, rules: &Rules, now: Time) -> Option<(u64, u64)> {
    let range = progress.next_range(log, rules, now)?;
    assert_eq!(Some(range.prev.term), log.term_at(range.prev.index));
    progress.assert_invariants(log.last().index, rules);
    Some((range.prev.index.0, range.last.0))
}

/// A follower that has everything up to `matched`.
fn replicating(matched: u64) -> Progress {
    let mut progress = Progress::new(LogIndex(matched + 1), 1, at(0));
    progress.matched(LogIndex(matched), &log(matched));
    progress
}

#[test]
fn probe_is_one_message_until_it_is_answered() {
    let (log, rules) = (log(5), rules(1024, 32));
    let mut progress = Progress::new(LogIndex(4), 1, at(0));
    assert_eq!(send(&mut progress, &log, &rules, at(0)), Some((3, 5)));
    assert_eq!(send(&mut progress, &log, &rules, at(9)), None);
    progress.matched(LogIndex(5), &log);
    assert_eq!((progress.state, progress.next_index), (ProgressState::Replicate, LogIndex(6)));
    assert_eq!(send(&mut progress, &log, &rules, at(9)), None, "there is nothing more");
}

#[test]
fn conflict_leads_to_the_meeting_point_and_never_below_the_match() {
    let (log, rules) = (log(9), rules(1024, 32));
    let mut progress = Progress::new(LogIndex(10), 1, at(0));
    assert_eq!(send(&mut progress, &log, &rules, at(0)), Some((9, 9)));
    assert!(progress.conflict(1, 1, LogIndex(9), LogIndex(4)));
    assert_eq!(send(&mut progress, &log, &rules, at(0)), Some((4, 9)));
    // Answers to another question than the one that is open.
    assert!(!progress.conflict(1, 1, LogIndex(9), LogIndex(2)));
    // A meeting point at or beyond the question still goes back by one.
    assert!(progress.conflict(1, 1, LogIndex(4), LogIndex(8)));
    assert_eq!(send(&mut progress, &log, &rules, at(0)), Some((3, 9)));
    progress.matched(LogIndex(6), &log);
    assert!(!progress.conflict(1, 1, LogIndex(6), LogIndex(0)), "what has matched cannot conflict");
    assert!(progress.conflict(1, 1, LogIndex(8), LogIndex(0)));
    assert_eq!(progress.next_index, LogIndex(7));
}

#[test]
fn window_counts_messages() {
    let (log, rules) = (log(9), rules(2, 3));
    let mut progress = replicating(0);
    let sent: Vec<_> = std::iter::from_fn(|| send(&mut progress, &log, &rules, at(0))).collect();
    assert_eq!(sent, [(0, 2), (2, 4), (4, 6)]);
    progress.matched(LogIndex(2), &log);
    assert_eq!(send(&mut progress, &log, &rules, at(0)), Some((6, 8)));
    // One answer may acknowledge several messages.
    progress.matched(LogIndex(8), &log);
    assert_eq!(progress.inflights.len(), 0);
    assert_eq!(send(&mut progress, &log, &rules, at(0)), Some((8, 9)));
}

/// A network that reorders has nearly all of a window refused. If the next one were as large, each
/// entry would be sent as often as the window has messages.
#[test]
fn refused_window_shrinks_and_grows_with_answers() {
    let (log, rules) = (log(60), rules(1, 8));
    let mut progress = replicating(0);
    let mut windows = Vec::new();
    for round in 1..6 {
        let sent = std::iter::from_fn(|| send(&mut progress, &log, &rules, at(0))).count();
        windows.push(sent);
        assert!(progress.conflict(round, round, progress.next_index.prev(), LogIndex(0)));
        assert_eq!(send(&mut progress, &log, &rules, at(0)), Some((round - 1, round)), "a probe");
        progress.matched(LogIndex(round), &log);
    }
    assert_eq!(windows, [8, 4, 2, 1, 1]);
    windows.clear();
    for _ in 0..5 {
        while send(&mut progress, &log, &rules, at(0)).is_some() {}
        windows.push(progress.inflights.len());
        progress.matched(progress.next_index.prev(), &log);
    }
    assert_eq!(windows, [1, 2, 4, 8, 8], "twice as many in each round trip");
}

#[test]
fn window_counts_bytes() {
    let log = log(9);
    let rules = Rules { max_inflight_bytes: 100, max_append_bytes: 64, ..rules(1024, 32) };
    let mut progress = replicating(0);
    let sent: Vec<_> = std::iter::from_fn(|| send(&mut progress, &log, &rules, at(0))).collect();
    assert_eq!(sent, [(0, 2), (2, 4)], "64 bytes each, and no third one over 100");
    progress.matched(LogIndex(2), &log);
    assert_eq!(send(&mut progress, &log, &rules, at(0)), Some((4, 6)));
}

#[test]
fn busy_window_waits_for_full_messages() {
    let (mut log, rules) = (log(1), rules(3, 32));
    let mut progress = replicating(0);
    assert_eq!(send(&mut progress, &log, &rules, at(0)), Some((0, 1)));
    push(&mut log, 2);
    assert_eq!(send(&mut progress, &log, &rules, at(0)), Some((1, 2)));
    // Two are under way: single entries wait, a full message goes.
    push(&mut log, 3);
    push(&mut log, 4);
    assert_eq!(send(&mut progress, &log, &rules, at(0)), None);
    push(&mut log, 5);
    assert_eq!(send(&mut progress, &log, &rules, at(0)), Some((2, 5)));
    push(&mut log, 6);
    assert_eq!(send(&mut progress, &log, &rules, at(0)), None);
    progress.matched(LogIndex(2), &log);
    assert_eq!(send(&mut progress, &log, &rules, at(0)), Some((5, 6)));
}

#[test]
fn accepted_entries_are_not_lost() {
    let (log, rules) = (log(4), rules(2, 32));
    let mut progress = replicating(0);
    while send(&mut progress, &log, &rules, at(0)).is_some() {}
    for ms in [0, 100, 500] {
        progress.heard(LogIndex(4), at(ms), PATIENCE);
        assert_eq!((progress.state, progress.inflights.len()), (ProgressState::Replicate, 2));
    }
}

#[test]
fn lost_messages_are_noticed_after_the_patience() {
    let (log, rules) = (log(4), rules(2, 32));
    let mut progress = replicating(0);
    while send(&mut progress, &log, &rules, at(50)).is_some() {}
    progress.heard(LogIndex(0), at(149), PATIENCE);
    assert_eq!(progress.state, ProgressState::Replicate);
    progress.heard(LogIndex(0), at(150), PATIENCE);
    assert_eq!((progress.state, progress.next_index), (ProgressState::Probe, LogIndex(1)));
    assert_eq!(send(&mut progress, &log, &rules, at(150)), Some((0, 2)));
}

#[test]
fn lost_probe_is_noticed_by_a_younger_question_only() {
    let (log, rules) = (log(4), rules(1024, 32));
    let mut progress = Progress::new(LogIndex(3), 1, at(0));
    assert_eq!(send(&mut progress, &log, &rules, at(50)), Some((2, 4)));
    progress.heard(LogIndex(0), at(50), PATIENCE);
    assert_eq!(send(&mut progress, &log, &rules, at(50)), None);
    progress.heard(LogIndex(4), at(150), PATIENCE);
    assert_eq!(send(&mut progress, &log, &rules, at(150)), None, "it was accepted");
    progress.heard(LogIndex(3), at(150), PATIENCE);
    assert_eq!(send(&mut progress, &log, &rules, at(150)), Some((2, 4)));
}

#[test]
fn unreachable_peer_is_left_alone_until_it_is_heard() {
    let (log, rules) = (log(4), rules(1, 32));
    let mut progress = replicating(1);
    assert_eq!(send(&mut progress, &log, &rules, at(0)), Some((1, 2)));
    progress.unreachable();
    assert_eq!((progress.state, progress.next_index), (ProgressState::Probe, LogIndex(2)));
    assert_eq!(progress.inflights.len(), 0);
    assert_eq!(send(&mut progress, &log, &rules, at(9000)), None);
    progress.heard(LogIndex(0), at(9000), PATIENCE);
    assert_eq!(send(&mut progress, &log, &rules, at(9000)), Some((1, 2)));
}

#[test]
fn compacted_entries_need_a_snapshot() {
    let mut log = LogView::new(LogId::new(2, 9));
    push(&mut log, 10);
    let rules = rules(1024, 32);
    // The entry before the first one is known from the snapshot.
    let mut progress = Progress::new(LogIndex(10), 1, at(0));
    assert_eq!(send(&mut progress, &log, &rules, at(0)), Some((9, 10)));
    assert!(progress.conflict(1, 1, LogIndex(9), LogIndex(3)));
    assert_eq!(send(&mut progress, &log, &rules, at(0)), None);
    assert_eq!(progress.state, ProgressState::Snapshot);
    assert!(!progress.conflict(1, 1, LogIndex(8), LogIndex(0)));
    assert_eq!(send(&mut progress, &log, &rules, at(999)), None);
    // It says by itself that it has it.
    progress.matched(LogIndex(9), &log);
    assert_eq!(send(&mut progress, &log, &rules, at(999)), Some((9, 10)));
}

#[test]
fn answers_of_an_earlier_session_are_told_apart() {
    let progress = Progress::new(LogIndex(1), 7, at(0));
    assert!(!progress.is_current(6));
    assert!(progress.is_current(7) && progress.is_current(8));
}

#[derive(Clone, Debug)]
enum Step {
    Grow,
    Send,
    Matched(u64),
    Conflict(u64, u64),
    Heard(u64, u64),
    Unreachable,
}

fn step() -> impl Strategy<Value = Step> {
    let index = || 0_u64..14;
    prop_oneof![
        Just(Step::Grow),
        Just(Step::Send),
        Just(Step::Send),
        index().prop_map(Step::Matched),
        (index(), index()).prop_map(|(prev, meet)| Step::Conflict(prev, meet)),
        (index(), 0_u64..400).prop_map(|(accepted, asked)| Step::Heard(accepted, asked)),
        Just(Step::Unreachable),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    /// Whatever answers come: the match never falls and moves by positive answers only, it stays
    /// before the next index, the window holds, and what is sent begins after the match.
    #[test]
    fn laws_hold_after_any_answers(steps in prop::collection::vec(step(), 1..60)) {
        let (mut log, rules) = (log(3), rules(2, 3));
        let mut progress = Progress::new(LogIndex(4), 1, at(0));
        let mut len = 3;
        for (ms, step) in (0..).step_by(10).zip(steps) {
            let before = progress.match_index;
            match step {
                Step::Grow => {
                    len += 1;
                    push(&mut log, len);
                }
                Step::Send => {
                    if let Some((prev, last)) = send(&mut progress, &log, &rules, at(ms)) {
                        prop_assert!(before.0 <= prev && prev <= last && last <= len);
                        prop_assert!(last - prev <= 2);
                    }
                }
                Step::Matched(index) if index <= len => {
                    progress.matched(LogIndex(index), &log);
                    prop_assert_eq!(progress.match_index, before.max(LogIndex(index)));
                }
                Step::Matched(_) => {}
                Step::Conflict(prev, meet) => {
                    let meet = meet.min(len);
                    let next = progress.next_index;
                    if progress.conflict(1, 1, LogIndex(prev), LogIndex(meet)) {
                        prop_assert_eq!(progress.state, ProgressState::Probe);
                        let is_back = progress.next_index <= LogIndex(prev.max(1));
                        prop_assert!(is_back || progress.next_index == before.next());
                    } else {
                        prop_assert_eq!(progress.next_index, next);
                    }
                }
                Step::Heard(accepted, asked) => {
                    progress.heard(LogIndex(accepted), at(asked), PATIENCE);
                }
                Step::Unreachable => progress.unreachable(),
            }
            prop_assert!(before <= progress.match_index);
            if !matches!(step, Step::Matched(_)) {
                prop_assert_eq!(progress.match_index, before);
            }
            progress.assert_invariants(log.last().index, &rules);
        }
    }
}

/// A log of ten entries that has forgotten the first five.
fn compacted() -> LogView {
    let mut log = log(10);
    log.set_stable(LogIndex(10));
    log.set_snapshot(LogId { term: Term(1), index: LogIndex(7) });
    log.compact(LogIndex(5));
    log
}

/// A follower that is known to have everything up to `matched`, and is sent snapshot 1 of index 7.
fn needing_a_snapshot(matched: u64, log: &LogView, rules: &Rules) -> Progress {
    let mut progress = Progress::new(LogIndex(matched + 1), 1, at(0));
    progress.match_index = LogIndex(matched);
    assert_eq!(send(&mut progress, log, rules, at(0)), None);
    assert_eq!(progress.state, ProgressState::Snapshot);
    progress.begin_snapshot(1, LogIndex(7));
    progress
}

#[test]
fn what_ends_before_the_log_needs_a_snapshot() {
    let (log, rules) = (compacted(), rules(1024, 32));
    for (next, sent) in [(1, None), (5, None), (6, Some((5, 10))), (7, Some((6, 10)))] {
        let mut progress = Progress::new(LogIndex(next), 1, at(0));
        assert_eq!(send(&mut progress, &log, &rules, at(0)), sent, "next {next}");
        assert_eq!(progress.state == ProgressState::Snapshot, sent.is_none(), "next {next}");
        // Nothing more is sent while it lasts.
        assert_eq!(send(&mut progress, &log, &rules, at(9)), None);
    }
}

/// Answers that prove too little change nothing: they would begin a new transfer each.
#[test]
fn snapshot_ends_when_the_log_can_go_on() {
    let (log, rules) = (compacted(), rules(1024, 32));
    for (matched, is_over) in [(2, false), (3, false), (4, false), (5, true), (6, true), (9, true)]
    {
        let mut progress = needing_a_snapshot(3, &log, &rules);
        progress.matched(LogIndex(matched), &log);
        assert_eq!(progress.state == ProgressState::Replicate, is_over, "matched {matched}");
        assert_eq!(progress.is_sending(1), !is_over, "matched {matched}");
        let rest = is_over.then_some((matched, 10));
        assert_eq!(send(&mut progress, &log, &rules, at(0)), rest, "matched {matched}");
    }
}

#[test]
fn nothing_but_an_answer_ends_a_snapshot() {
    let (log, rules) = (compacted(), rules(1024, 32));
    let mut progress = needing_a_snapshot(3, &log, &rules);
    progress.unreachable();
    progress.heard(LogIndex(3), at(900), PATIENCE);
    assert!(!progress.conflict(9, 9, LogIndex(3), LogIndex(2)));
    assert_eq!(send(&mut progress, &log, &rules, at(999)), None);
    assert!(progress.is_sending(1) && !progress.is_sending(2));
    assert_eq!(progress.received_bytes(), Some(0));
    progress.snapshot_received(12);
    assert_eq!(progress.received_bytes(), Some(12));
}

/// Whatever the follower says meanwhile, a snapshot that failed is not sent again at once.
#[test]
fn snapshot_that_failed_waits() {
    let (log, rules) = (compacted(), rules(1024, 32));
    let mut progress = needing_a_snapshot(3, &log, &rules);
    progress.snapshot_failed(at(500));
    for ms in [0, 100, 499] {
        progress.matched(LogIndex(3), &log);
        progress.heard(LogIndex(3), at(ms), PATIENCE);
        assert_eq!(send(&mut progress, &log, &rules, at(ms)), None);
        assert_ne!(progress.state, ProgressState::Snapshot, "at {ms} ms");
    }
    assert_eq!(send(&mut progress, &log, &rules, at(500)), None);
    assert_eq!(progress.state, ProgressState::Snapshot);
    // If the log is enough after all, nothing waits.
    progress.snapshot_failed(at(900));
    progress.matched(LogIndex(6), &log);
    assert_eq!(send(&mut progress, &log, &rules, at(600)), Some((6, 10)));
}

/// The log has gone on without the follower: what it has installed is not enough any more.
#[test]
fn installed_snapshot_that_is_not_enough_is_followed_by_another() {
    let (mut log, rules) = (compacted(), rules(1024, 32));
    let mut progress = needing_a_snapshot(3, &log, &rules);
    log.set_snapshot(LogId { term: Term(1), index: LogIndex(9) });
    log.compact(LogIndex(9));
    progress.matched(LogIndex(7), &log);
    assert!(progress.is_sending(1));
    progress.snapshot_installed();
    assert_eq!(send(&mut progress, &log, &rules, at(0)), None);
    assert_eq!(progress.state, ProgressState::Snapshot);
    progress.begin_snapshot(2, LogIndex(9));
    assert!(progress.is_transfer(2) && !progress.is_transfer(1));
}

/// What follows a snapshot is kept until the follower has come as far as the newest one.
#[test]
fn what_follows_a_snapshot_is_held() {
    let (mut log, rules) = (compacted(), rules(1024, 32));
    let mut progress = needing_a_snapshot(3, &log, &rules);
    assert_eq!(progress.held(), Some(LogIndex(7)));
    log.set_snapshot(LogId { term: Term(1), index: LogIndex(9) });
    progress.matched(LogIndex(7), &log);
    progress.snapshot_installed();
    assert_eq!((progress.state, progress.held()), (ProgressState::Replicate, Some(LogIndex(7))));
    progress.matched(LogIndex(8), &log);
    assert_eq!(progress.held(), Some(LogIndex(8)));
    progress.matched(LogIndex(9), &log);
    assert_eq!(progress.held(), None);
    // Nothing is held for one that failed.
    let mut progress = needing_a_snapshot(3, &log, &rules);
    progress.snapshot_failed(at(500));
    assert_eq!(progress.held(), None);
}
