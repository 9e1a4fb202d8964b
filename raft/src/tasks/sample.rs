//! What is looked at once a second rather than told: marks, lags, queues, how busy the tasks are, and
//! how old the log is. `run` looks, between two turns, at what is there anyway.
//!
//! **Busy** is a task that does not wait for something to do. It notes when it begins to wait and
//! when that ends ([`Idle`]), which costs a look at the clock only where it would do nothing.
//!
//! **Age.** Entries carry no time. Once a second the end of the log is noted together with the time;
//! the age of an entry is that of the first note that covers it, so it is never overstated, and
//! understated by a second, or by one part in 256 of the time the log goes back: there is room for so
//! many notes only, and when it is used up every second one goes. What was in the log at the start counts from the start.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    task::Poll,
    time::Duration,
};

use super::{
    clock::Clock,
    metrics::{Load, Metrics, PeerMetrics},
    node::Requests,
    shared::Shared,
};
use crate::{
    configuration::ServerId,
    consensus::{Consensus, Time},
    log::LogIndex,
    observer::Role,
    transport::Received,
};

/// How often it is looked.
const INTERVAL: Duration = Duration::from_secs(1);

/// Notes of the end of the log that are kept at most.
const NOTES_MAX: usize = 512;

const BUSY: u64 = u64::MAX;

/// How long a task has waited for something to do. Written by that task only.
pub(super) struct Idle {
    /// Of the waits that are over, in microseconds.
    total: AtomicU64,
    /// When the one under way began.
    since: AtomicU64,
}

impl Idle {
    pub(super) fn new() -> Self {
        Self { total: AtomicU64::new(0), since: AtomicU64::new(BUSY) }
    }

    /// The task has nothing to do.
    pub(super) fn begin(&self, clock: &Clock) {
        if self.since.load(Ordering::Relaxed) == BUSY {
            self.since.store(clock.now().0, Ordering::Relaxed);
        }
    }

    /// It has something to do again, if it had not; `now` is only asked for then.
    pub(super) fn end(&self, now: impl FnOnce() -> Time) {
        let since = self.since.swap(BUSY, Ordering::Relaxed);
        if since != BUSY {
            self.total.fetch_add(now().0.saturating_sub(since), Ordering::Relaxed);
        }
    }

    /// Waits for something to do.
    pub(super) async fn wait<F: Future>(&self, clock: &Clock, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            let polled = future.as_mut().poll(cx);
            match &polled {
                Poll::Pending => self.begin(clock),
                Poll::Ready(_) => self.end(|| clock.now()),
            }
            polled
        })
        .await
    }

    /// How long it has waited so far, the wait under way included.
    fn total(&self, now: Time) -> Duration {
        let since = self.since.load(Ordering::Relaxed);
        let under_way = if since == BUSY { 0 } else { now.0.saturating_sub(since) };
        Duration::from_micros(self.total.load(Ordering::Relaxed).saturating_add(under_way))
    }
}

/// The share of the last interval in which a task did not wait.
#[derive(Default)]
struct Saturation {
    idle: Duration,
    share: f64,
}

impl Saturation {
    fn look(&mut self, idle: Duration, interval: Duration) {
        let waited = idle.saturating_sub(std::mem::replace(&mut self.idle, idle));
        if !interval.is_zero() {
            self.share = (1.0 - waited.as_secs_f64() / interval.as_secs_f64()).clamp(0.0, 1.0);
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
        while notes.pop_back_if(|(index, _)| last < *index).is_some() {}
        while notes.pop_front_if(|(index, _)| *index < first).is_some() {}
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
    ages: Ages,
    peers: Vec<(ServerId, PeerMetrics)>,
}

impl Sampler {
    /// The log has these bounds at the start.
    pub(super) fn new(bounds: (LogIndex, LogIndex), now: Time) -> Self {
        let mut ages = Ages::new();
        ages.note(bounds, now);
        let (run, fsm) = (Saturation::default(), Saturation::default());
        Self { looked_at: now, due_at: now + INTERVAL, run, fsm, ages, peers: Vec::new() }
    }

    /// When to look next.
    pub(super) fn due_at(&self) -> Time {
        self.due_at
    }

    /// The share of time in which `run`, and `run_fsm`, had something to do.
    pub(super) fn saturation(&self) -> (f64, f64) {
        (self.run.share, self.fsm.share)
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
        self.run.look(shared.run_idle.total(now), interval);
        self.fsm.look(shared.fsm_idle.total(now), interval);
        let marks = shared.tail.marks();
        self.ages.note((marks.first, marks.last), now);
        let is_leader = core.role() == Role::Leader;
        let peers = core.peers(now);
        let members = core.latest_configuration().configuration.servers();
        let others = members.iter().filter(|server| server.id != shared.id).count();
        let silence = core.last_contact(now).unwrap_or_default();
        metrics.part(is_leader, core.term().0, others, silence);
        metrics.marks(&marks);
        metrics.timeouts(core.timeouts());
        let (urgent, entries) = inbox.lengths();
        let unapplied = marks.committed.since(marks.applied);
        let queues = [requests.len(), urgent, entries, core.pending_writes()].map(|it| it as u64);
        let [requests, urgent, entries, writes] = queues;
        metrics.load(&Load {
            queues: [requests, urgent, entries, writes, unapplied],
            run_saturation: self.run.share,
            fsm_saturation: self.fsm.share,
            oldest_age: self.ages.oldest(now),
            observer_drops: shared.observers.dropped(),
        });
        self.peers.retain(|(id, metrics)| {
            let is_led = peers.iter().any(|peer| peer.id == *id);
            if !is_led {
                metrics.clear();
            }
            is_led
        });
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
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// U20: the share of an interval in which a task was busy.
    #[tokio::test(start_paused = true)]
    async fn a_task_is_as_busy_as_it_does_not_wait() {
        let clock = Clock::new();
        let idle = Idle::new();
        let mut saturation = Saturation::default();
        let mut share = async |busy: u64, waiting: u64| {
            let start = clock.now();
            tokio::time::sleep(Duration::from_millis(busy)).await;
            idle.wait(&clock, tokio::time::sleep(Duration::from_millis(waiting))).await;
            let now = clock.now();
            saturation.look(idle.total(now), now.since(start));
            (saturation.share * 100.0).round()
        };
        assert_eq!(share(300, 700).await, 30.0);
        assert_eq!(share(1000, 0).await, 100.0);
        assert_eq!(share(0, 1000).await, 0.0);
    }

    /// U21: a wait that is begun or ended twice counts once, and one under way counts too.
    #[tokio::test(start_paused = true)]
    async fn a_wait_counts_once() {
        let clock = Clock::new();
        let idle = Idle::new();
        let pass = async || tokio::time::sleep(Duration::from_secs(1)).await;
        idle.end(|| clock.now());
        idle.begin(&clock);
        pass().await;
        idle.begin(&clock);
        assert_eq!(idle.total(clock.now()), Duration::from_secs(1));
        pass().await;
        idle.end(|| clock.now());
        pass().await;
        idle.end(|| clock.now());
        assert_eq!(idle.total(clock.now()), Duration::from_secs(2));
    }
}
