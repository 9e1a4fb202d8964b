//! How many entries go to the state machine in one batch, so that the batch is over in time: whatever
//! else wants the state machine, a view for a snapshot or the end of the node, waits for it.
//!
//! Learned from the batches before, so that no command costs a look at the clock. A batch takes what
//! every batch takes (a transaction, a sync), however small, and something for each entry. Only the second
//! part is bounded: smaller batches would make the first one worse. It begins with one entry and doubles
//! as long as that fits.

use std::time::Duration;

/// The limit for the next batch.
pub(crate) struct ApplyLimit {
    entries: usize,
    /// The most that a batch can be taking for itself: no batch has taken less, unless it was before
    /// the last one of a single entry.
    fixed: Duration,
}

impl ApplyLimit {
    pub(crate) fn new() -> Self {
        Self { entries: 1, fixed: Duration::ZERO }
    }

    /// How many entries the next batch may have.
    pub(crate) fn entries(&self) -> usize {
        self.entries
    }

    /// A batch of so many entries has taken so long, of `bound` in which it is to be over.
    pub(crate) fn took(&mut self, entries: usize, took: Duration, bound: Duration) {
        self.fixed = if entries <= 1 { took } else { self.fixed.min(took) };
        let nanos = (took - self.fixed).as_nanos();
        let fits = (entries as u128 * bound.as_nanos()).checked_div(nanos);
        let fits = fits.and_then(|fits| usize::try_from(fits).ok()).unwrap_or(usize::MAX).max(1);
        if fits < self.entries {
            self.entries = fits;
        } else if self.entries <= entries {
            self.entries = fits.min(entries.saturating_mul(2));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const BOUND: Duration = Duration::from_millis(100);

    /// Carries out a backlog of so many entries, and returns the longest batch and the last one.
    fn carry_out(
        limit: &mut ApplyLimit,
        backlog: usize,
        takes: impl Fn(usize) -> Duration,
    ) -> (Duration, usize) {
        let (mut left, mut longest, mut last) = (backlog, Duration::ZERO, 0);
        while 0 < left {
            last = limit.entries().min(left).min(1024);
            longest = longest.max(takes(last));
            limit.took(last, takes(last), BOUND);
            left -= last;
        }
        (longest, last)
    }

    #[test]
    fn slow_commands_come_in_small_batches_from_the_first_on() {
        let mut limit = ApplyLimit::new();
        let (longest, _) = carry_out(&mut limit, 10_000, |entries| 10 * MS * entries as u32);
        assert!(longest <= BOUND + 20 * MS, "{longest:?}");
        assert!(8 <= limit.entries(), "{}", limit.entries());
        // So slow that each is beyond the bound.
        let (longest, _) = carry_out(&mut ApplyLimit::new(), 100, |n| 1000 * MS * n as u32);
        assert!(longest <= 2000 * MS, "{longest:?}");
    }

    #[test]
    fn fast_commands_come_in_large_batches() {
        let mut limit = ApplyLimit::new();
        carry_out(&mut limit, 1 << 20, |entries| Duration::from_micros(entries as u64));
        assert!(1024 <= limit.entries(), "{}", limit.entries());
    }

    #[test]
    fn what_a_batch_takes_for_itself_makes_batches_no_smaller() {
        for fixed in [60 * MS, 99 * MS, 101 * MS, 5000 * MS] {
            let mut limit = ApplyLimit::new();
            let takes = |n: usize| fixed + Duration::from_micros(n as u64);
            carry_out(&mut limit, 100_000, takes);
            assert!(1024 <= limit.entries(), "{fixed:?}: {}", limit.entries());
        }
    }

    #[test]
    fn it_follows_a_state_machine_that_changes() {
        let mut limit = ApplyLimit::new();
        carry_out(&mut limit, 100_000, |n| Duration::from_micros(n as u64));
        // The first batch finds out.
        let slow = |n: usize| 10 * MS * n as u32;
        limit.took(1024, slow(1024), BOUND);
        let (longest, _) = carry_out(&mut limit, 1000, slow);
        assert!(longest <= BOUND + 20 * MS, "{longest:?}");
        // A disk that syncs ten times as slowly from now on is no reason for small batches for ever.
        let mut limit = ApplyLimit::new();
        carry_out(&mut limit, 100_000, |_| 20 * MS);
        carry_out(&mut limit, 100_000, |_| 200 * MS);
        assert!(1024 <= limit.entries(), "{}", limit.entries());
        carry_out(&mut limit, 100_000, |n| Duration::from_micros(n as u64));
        assert!(1024 <= limit.entries(), "{}", limit.entries());
    }

    #[test]
    fn a_batch_that_was_not_full_proves_nothing() {
        let mut limit = ApplyLimit::new();
        for _ in 0..100 {
            limit.took(1, MS, BOUND);
        }
        assert_eq!(limit.entries(), 2);
    }
}
