//! How busy a task is.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::consensus::Time;

/// A stint below this is short: to time it would cost a part of it that counts.
const SHORT: Duration = Duration::from_micros(50);

/// One in so many short stints is timed.
const EVERY: u64 = 8;

const NOT_TIMED: u64 = u64::MAX;

/// How long a task has been at work. Written by that task only.
pub(crate) struct Busy {
    /// In microseconds, of the stints that are over.
    total: AtomicU64,
    /// When the one under way began, if it is timed.
    since: AtomicU64,
    /// Stints that the last one stands for, and that are not timed.
    skipped: AtomicU64,
}

impl Busy {
    pub(crate) fn new() -> Self {
        let [total, since, skipped] = [0, NOT_TIMED, 0].map(AtomicU64::new);
        Self { total, since, skipped }
    }

    /// A stint begins. `now` is only asked for if it is to be timed.
    pub(crate) fn begin(&self, now: impl FnOnce() -> Time) {
        match self.skipped.load(Ordering::Relaxed) {
            0 => self.begin_timed(now()),
            skipped => self.skipped.store(skipped - 1, Ordering::Relaxed),
        }
    }

    /// A stint begins that is timed however short the last one was.
    pub(crate) fn begin_timed(&self, now: Time) {
        self.since.store(now.0, Ordering::Relaxed);
    }

    /// The stint is over. Returns how long it took if it was timed.
    pub(crate) fn end(&self, now: impl FnOnce() -> Time) -> Option<Duration> {
        let since = self.since.load(Ordering::Relaxed);
        if since == NOT_TIMED {
            return None;
        }
        let took = now().since(Time(since));
        let is_short = took < SHORT;
        let (stands_for, skipped) = if is_short { (EVERY, EVERY - 1) } else { (1, 0) };
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let total = self.total.load(Ordering::Relaxed);
        self.total.store(total.saturating_add(stands_for * micros), Ordering::Relaxed);
        self.since.store(NOT_TIMED, Ordering::Relaxed);
        self.skipped.store(skipped, Ordering::Relaxed);
        Some(took)
    }

    /// How long it has been at work so far, the stint under way included.
    pub(crate) fn total(&self, now: Time) -> Duration {
        let since = self.since.load(Ordering::Relaxed);
        let under_way = if since == NOT_TIMED { 0 } else { now.0.saturating_sub(since) };
        Duration::from_micros(self.total.load(Ordering::Relaxed).saturating_add(under_way))
    }
}
