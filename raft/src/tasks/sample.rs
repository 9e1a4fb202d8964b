//! What is looked at once a second rather than told: marks, lags, queues, how busy the tasks are, and
//! how old the log is. `run` looks, between two turns, at what is there anyway.
//!
//! **Busy** is a task between the moment it finds something to do and the moment it waits again
//! ([`Busy`](crate::metrics::Busy)). A look at the clock costs as much as a command or two, so of stints that are short only
//! one in eight is timed, and stands for eight. What takes long is always timed, unless it comes as a
//! surprise after a short one.
//!
//! **Age.** Entries carry no time. Once a second the end of the log is noted together with the time;
//! the age of an entry is that of the first note that covers it, so it is never overstated, and
//! understated by a second, or by one part in 256 of the time the log goes back: there is room for so
//! many notes only, and when it is used up every second one goes. What was in the log at the start counts from the start.

use std::{collections::VecDeque, time::Duration};

use super::{node::Requests, shared::Shared};
use crate::{
    configuration::ServerId,
    consensus::{Consensus, Time},
    metrics::{Load, Metrics, PeerMetrics},
    pop_if::PopIf as _,
    position::LogIndex,
    status::Timeouts,
    transport::Received,
};

/// How often it is looked.
const INTERVAL: Duration = Duration::from_secs(1);

/// Notes of the end of the log that are kept at most.
const NOTES_MAX: usize = 512;

/// The share of the last interval in which a task was at work.
#[derive(Default)]
struct Saturation {
    busy: Duration,
    share: f64,
}

impl Saturation {
    fn look(&mut self, busy: Duration, interval: Duration) {
        let worked = busy.saturating_sub(self.busy);
        self.busy = self.busy.max(busy);
        if !interval.is_zero() {
            self.share = (worked.as_secs_f64() / interval.as_secs_f64()).min(1.0);
        }
    }
}

/// When the log ended where.
struct Ages {
    /// Oldest first; the times grow with the indices.
    notes: VecDeque<(LogIndex, Time)>,
    /// How far apart they are to be: there is room for so many only.
    apart: Duration,
}

impl Ages {
    fn new() -> Self {
        Self { notes: VecDeque::new(), apart: INTERVAL }
    }

    fn note(&mut self, (first, last): (LogIndex, LogIndex), now: Time) {
        let Self { notes, apart } = self;
        while notes.take_back_if(|(index, _)| last < *index).is_some() {}
        while notes.take_front_if(|(index, _)| *index < first).is_some() {}
        if first <= last && notes.back().is_none_or(|(index, _)| *index < last) {
            let before = notes.len().checked_sub(2).and_then(|at| notes.get(at));
            if before.is_some_and(|(_, noted)| now.since(*noted) < *apart) {
                notes.pop_back();
            }
            notes.push_back((last, now));
        }
        if NOTES_MAX < notes.len() {
            let mut is_kept = false;
            // The newest stays: it covers the end of the log.
            notes.retain(|(index, _)| {
                is_kept = !is_kept;
                is_kept || *index == last
            });
            *apart *= 2;
        } else if notes.len() < NOTES_MAX / 8 {
            *apart = INTERVAL;
        }
    }

    fn oldest(&self, now: Time) -> Option<Duration> {
        self.notes.front().map(|(_, noted)| now.since(*noted))
    }
}

/// What the looks remember from one to the next.
pub(super) struct Sampler {
    looked_at: Time,
    due_at: Time,
    run: Saturation,
    fsm: Saturation,
    log: Saturation,
    ages: Ages,
    /// What was counted already.
    timeouts: Timeouts,
    observer_drops: u64,
    peers: Vec<(ServerId, PeerMetrics)>,
}

impl Sampler {
    /// The log has these bounds at the start.
    pub(super) fn new(bounds: (LogIndex, LogIndex), now: Time) -> Self {
        let mut ages = Ages::new();
        ages.note(bounds, now);
        let [run, fsm, log] = [(); 3].map(|()| Saturation::default());
        Self {
            looked_at: now,
            // At once: until the first look nothing is known.
            due_at: now,
            run,
            fsm,
            log,
            ages,
            timeouts: Timeouts::default(),
            observer_drops: 0,
            peers: Vec::new(),
        }
    }

    /// When to look next.
    pub(super) fn due_at(&self) -> Time {
        self.due_at
    }

    /// The share of time in which `run`, `run_fsm` and `run_log` were at work.
    pub(super) fn saturation(&self) -> [f64; 3] {
        [self.run.share, self.fsm.share, self.log.share]
    }

    /// For how long the oldest entry has been in the log at least.
    pub(super) fn oldest_age(&self, now: Time) -> Option<Duration> {
        self.ages.oldest(now)
    }

    pub(super) fn look<R>(
        &mut self,
        now: Time,
        (core, shared): (&Consensus, &Shared),
        (requests, inbox): (&Requests<R>, &Received),
        metrics: &Metrics,
    ) {
        let interval = now.since(self.looked_at);
        (self.looked_at, self.due_at) = (now, now + INTERVAL);
        self.run.look(shared.run_busy.total(now), interval);
        self.fsm.look(shared.fsm_busy.total(now), interval);
        self.log.look(shared.log_busy.total(now), interval);
        let marks = shared.tail.marks();
        self.ages.note((marks.first, marks.last), now);
        let peers = core.peers(now);
        let members = core.latest_configuration().configuration.servers();
        let others = members.iter().filter(|server| server.id != shared.id).count();
        metrics.part(core.term().0, others, core.last_contact(now));
        metrics.marks(&marks);
        self.count_lost(core, shared, metrics);
        let (urgent, entries) = inbox.lengths();
        let unapplied = marks.committed.since(marks.applied);
        let queues = [requests.len(), urgent, entries, core.pending_writes()].map(|it| it as u64);
        let [requests, urgent, entries, writes] = queues;
        metrics.load(&Load {
            queues: [requests, urgent, entries, writes, unapplied],
            saturation: self.saturation(),
            oldest_age: self.ages.oldest(now),
        });
        self.peers.retain(|(id, _)| peers.iter().any(|peer| peer.id == *id));
        for peer in &peers {
            if !self.peers.iter().any(|(id, _)| *id == peer.id) {
                self.peers.push((peer.id.clone(), metrics.peer(&peer.id)));
            }
        }
        for (id, metrics) in &self.peers {
            if let Some(peer) = peers.iter().find(|peer| peer.id == *id) {
                metrics.show(peer);
            }
        }
    }

    /// Counts what is new: a server that is started again in the same process counts on. Also called at
    /// the end, because there is no later look.
    pub(super) fn count_lost(&mut self, core: &Consensus, shared: &Shared, metrics: &Metrics) {
        let (timeouts, observer_drops) = (core.timeouts(), shared.observers.dropped());
        let Timeouts { election, lease, write_stall, apply_stall } = timeouts;
        let before = std::mem::replace(&mut self.timeouts, timeouts);
        let news = Timeouts {
            election: election.saturating_sub(before.election),
            lease: lease.saturating_sub(before.lease),
            write_stall: write_stall.saturating_sub(before.write_stall),
            apply_stall: apply_stall.saturating_sub(before.apply_stall),
        };
        let drops_before = std::mem::replace(&mut self.observer_drops, observer_drops);
        metrics.lost(news, observer_drops.saturating_sub(drops_before));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Busy;

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000)
    }

    fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    fn bounds(first: u64, last: u64) -> (LogIndex, LogIndex) {
        (LogIndex(first), LogIndex(last))
    }

    #[test]
    fn the_age_of_an_entry_is_never_overstated() {
        let mut ages = Ages::new();
        ages.note(bounds(1, 0), at(0));
        assert_eq!(ages.oldest(at(5)), None, "an empty log");
        ages.note(bounds(1, 10), at(10));
        ages.note(bounds(1, 20), at(20));
        ages.note(bounds(1, 20), at(30));
        assert_eq!(ages.oldest(at(40)), seconds(30));
        // The first entry is now one that came between 10 and 20.
        ages.note(bounds(11, 30), at(40));
        assert_eq!(ages.oldest(at(40)), seconds(20));
        // Truncated, and written anew.
        ages.note(bounds(11, 15), at(50));
        assert_eq!(ages.oldest(at(50)), seconds(0));
        ages.note(bounds(16, 15), at(60));
        assert_eq!(ages.oldest(at(60)), None);
    }

    #[test]
    fn a_long_log_is_noted_in_bounded_memory() {
        let mut ages = Ages::new();
        for second in 1..100_000 {
            ages.note(bounds(1, second), at(second));
        }
        assert!(ages.notes.len() <= NOTES_MAX);
        assert_eq!(ages.oldest(at(100_000)), seconds(99_999));
        ages.note(bounds(50_000, 100_000), at(100_000));
        let age = ages.oldest(at(100_000)).expect("it is not empty").as_secs();
        assert!((49_000..=50_000).contains(&age), "{age}");
    }

    fn ms(ms: u64) -> Time {
        Time(ms * 1000)
    }

    /// U20: the share of an interval in which a task was at work.
    #[test]
    fn a_task_is_as_busy_as_it_does_not_wait() {
        let busy = Busy::new();
        let mut saturation = Saturation::default();
        let mut share = |start: u64, at_work: u64| {
            busy.begin(|| ms(start));
            busy.end(|| ms(start + at_work));
            saturation.look(busy.total(ms(start + 1000)), Duration::from_secs(1));
            (saturation.share * 100.0).round()
        };
        assert_eq!(share(0, 300), 30.0);
        assert_eq!(share(1000, 1000), 100.0);
        assert_eq!(share(2000, 0), 0.0);
    }

    /// U21: a stint that is begun or ended twice counts once, and one under way counts too.
    #[test]
    fn a_stint_counts_once() {
        let busy = Busy::new();
        assert_eq!(busy.end(|| ms(1000)), None);
        busy.begin(|| ms(1000));
        assert_eq!(busy.total(ms(1500)), Duration::from_millis(500));
        assert_eq!(busy.end(|| ms(3000)), seconds(2));
        assert_eq!(busy.end(|| ms(4000)), None);
        busy.begin(|| ms(5000));
        busy.begin(|| ms(6000));
        assert_eq!(busy.end(|| ms(7000)), seconds(1));
        assert_eq!(busy.total(ms(9000)), Duration::from_secs(3));
    }

    #[test]
    fn of_short_stints_one_in_eight_stands_for_all() {
        let busy = Busy::new();
        let mut looks = 0;
        for stint in 0..800 {
            let start = Time(stint * 100);
            busy.begin(|| {
                looks += 1;
                start
            });
            busy.end(|| {
                looks += 1;
                start + Duration::from_micros(30)
            });
        }
        assert_eq!(looks, 200);
        assert_eq!(busy.total(at(1)), Duration::from_micros(800 * 30));
        // One that is wanted to be timed is, and what takes long is not multiplied.
        busy.begin_timed(at(2));
        assert_eq!(busy.end(|| at(3)), seconds(1));
        assert_eq!(busy.total(at(9)), Duration::from_micros(1_000_000 + 800 * 30));
    }
}
