//! The only file that reads a clock: tokio's, so that tests can pause it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use crate::consensus::Time;

/// Turns tokio's clock into the core's [`Time`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that begins now.
    pub(crate) fn new() -> Self {
        Self { origin: Instant::now() }
    }

    /// The time now.
    pub(crate) fn now(&self) -> Time {
        let micros = self.origin.elapsed().as_micros();
        Time(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    fn instant(&self, time: Time) -> Instant {
        self.origin + Duration::from_micros(time.0)
    }
}

/// A timer that rings at the core's next timeout or earlier, never later.
///
/// The core moves its deadlines with every message, nearly always further away; moving a timer
/// costs a lock. So the timer is moved only when the deadline comes nearer, and when it rings early
/// its owner sees that nothing is due and arms it again.
pub(crate) struct Alarm {
    clock: Clock,
    sleep: Pin<Box<Sleep>>,
    rings_at: Option<Time>,
}

impl Alarm {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, sleep: Box::pin(tokio::time::sleep_until(clock.origin)), rings_at: None }
    }

    /// Makes sure that the alarm rings at `deadline` at the latest.
    pub(crate) fn arm(&mut self, deadline: Option<Time>) {
        let Some(deadline) = deadline else { return };
        if self.rings_at.is_none_or(|rings_at| deadline < rings_at) {
            self.sleep.as_mut().reset(self.clock.instant(deadline));
            self.rings_at = Some(deadline);
        }
    }

    /// Ready when it rings. Never rings unless it is armed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.rings_at.is_none() {
            return Poll::Pending;
        }
        let rung = self.sleep.as_mut().poll(cx);
        if rung.is_ready() {
            self.rings_at = None;
        }
        rung
    }
}

/// Rings after each of a row of lengths of time.
pub(crate) struct Ticker {
    /// When the length of time under way began.
    began: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Ticker {
    /// One that rings after `first`.
    pub(crate) fn new(first: Duration) -> Self {
        Self { began: Instant::now(), sleep: Box::pin(tokio::time::sleep(first)) }
    }

    /// Rings again this long from now.
    pub(crate) fn restart(&mut self, after: Duration) {
        self.began = Instant::now();
        self.change(after);
    }

    /// Gives the length of time under way another length: it may be over already.
    pub(crate) fn change(&mut self, length: Duration) {
        self.sleep.as_mut().reset(self.began + length);
    }

    /// Waits until it rings. Once it has, it must be restarted.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn rings(&mut self) {
        self.sleep.as_mut().await;
    }
}

/// How long a wait for the pace goes on before it looks whether that has changed.
const LOOK_AT_PACE: Duration = Duration::from_secs(1);

/// Spreads bytes over time.
pub(crate) struct Pace {
    /// Bytes that have passed and not had their time yet at `since`.
    owed: u64,
    since: Instant,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { owed: 0, since: Instant::now() }
    }

    /// Waits until the bytes passed so far have had their time. `bytes_per_second` may change
    /// meanwhile; zero is as fast as it goes.
    pub(crate) async fn wait(&mut self, bytes_per_second: impl Fn() -> u64) {
        loop {
            let rate = bytes_per_second();
            let now = Instant::now();
            let micros = now.duration_since(self.since).as_micros() * u128::from(rate);
            let had = u64::try_from(micros / 1_000_000).unwrap_or(u64::MAX);
            self.since = now;
            self.owed = if rate == 0 { 0 } else { self.owed.saturating_sub(had) };
            if self.owed == 0 {
                return;
            }
            let micros = u128::from(self.owed) * 1_000_000 / u128::from(rate.max(1));
            let takes = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
            // A moment more, so that nothing is left over when it is.
            tokio::time::sleep((takes + Duration::from_micros(1)).min(LOOK_AT_PACE)).await;
        }
    }

    /// So many bytes have passed.
    pub(crate) fn passed(&mut self, bytes: u64) {
        if self.owed == 0 {
            self.since = Instant::now();
        }
        self.owed = self.owed.saturating_add(bytes);
    }
}

/// The future's output, or `None` when it takes longer than `limit`.
pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(limit, future).await.ok()
}
