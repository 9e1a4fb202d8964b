//! The imaginary disk beneath the stores: what a test can make go wrong.
//!
//! A write passes its disk before it changes anything: the disk may let it wait, let it fail, or
//! (almost always) let it pass at the price of one atomic load. A write that failed or was dropped
//! while it waited has changed nothing.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::store_error::StoreError;

/// The disk that in-memory stores pretend to write to. Cheap to clone; clones are the same disk.
///
/// A store makes one of its own, or shares one with other stores of the same server, so that they
/// stall and fail together.
///
/// ```
/// use raft::inmem::{InmemDisk, InmemLogStore, InmemStableStore};
///
/// let disk = InmemDisk::new();
/// let (log, stable) = (InmemLogStore::on(&disk), InmemStableStore::on(&disk));
/// disk.fail_writes_after(10); // ten more writes, of either store, then none
/// # drop((log, stable));
/// ```
#[derive(Clone, Default)]
pub struct InmemDisk {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// False as long as nothing ever was set: the usual case, decided by one load.
    has_faults: AtomicBool,
    faults: Mutex<Faults>,
    resumed: Notify,
    writes: AtomicU64,
}

#[derive(Debug, Default)]
struct Faults {
    writes_left: Option<u64>,
    write_delay: Duration,
    is_paused: bool,
    fails_reads: bool,
    trouble: Option<String>,
}

impl InmemDisk {
    /// A disk without faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `n` more writes succeed and every later one fail, until [`heal`](Self::heal).
    pub fn fail_writes_after(&self, n: u64) {
        self.set(|faults| faults.writes_left = Some(n));
    }

    /// Makes every later write take this long, on tokio's clock. Zero: no time at all.
    pub fn set_write_delay(&self, delay: Duration) {
        self.set(|faults| faults.write_delay = delay);
    }

    /// Stalls the disk: no write ends until [`resume_writes`](Self::resume_writes), also none that
    /// is in its delay now.
    pub fn pause_writes(&self) {
        self.set(|faults| faults.is_paused = true);
    }

    /// Ends a stall. Waiting writes go on in the order in which they came.
    pub fn resume_writes(&self) {
        self.set(|faults| faults.is_paused = false);
    }

    /// Makes every read fail until [`heal`](Self::heal).
    pub fn fail_reads(&self) {
        self.set(|faults| faults.fails_reads = true);
    }

    /// Has the log tell of trouble ahead, as [`LogReader::trouble`](crate::LogReader::trouble) does, until
    /// [`heal`](Self::heal). Nothing else changes.
    pub fn set_trouble(&self, trouble: impl Into<String>) {
        self.set(|faults| faults.trouble = Some(trouble.into()));
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.shared.faults.lock().trouble.clone()
    }

    /// Takes every fault away: nothing fails, waits or stalls any more.
    pub fn heal(&self) {
        self.set(|faults| *faults = Faults::default());
    }

    /// How many writes have passed the disk so far, of all its stores. A log write counts once,
    /// however many entries it carries.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.shared.writes.load(Ordering::Relaxed)
    }

    fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.shared.faults.lock());
        self.shared.has_faults.store(true, Ordering::Release);
        self.shared.resumed.notify_waiters();
    }

    /// Waits until a write may change the store; `what` names the store in the error.
    ///
    /// # Cancel safety
    /// Dropping the future before it ends has let nothing pass.
    pub(super) async fn write(&self, what: &str) -> Result<(), StoreError> {
        if self.shared.has_faults.load(Ordering::Acquire) {
            self.faulty_write(what).await?;
        }
        self.shared.writes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn faulty_write(&self, what: &str) -> Result<(), StoreError> {
        let delay = self.shared.faults.lock().write_delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        loop {
            // Made before the question, so that a resume in between is not missed.
            let resumed = self.shared.resumed.notified();
            if !self.shared.faults.lock().is_paused {
                break;
            }
            resumed.await;
        }
        match &mut self.shared.faults.lock().writes_left {
            None => Ok(()),
            Some(0) => Err(failure(format!("writing {what}"))),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    pub(super) fn read(&self, what: &str) -> Result<(), StoreError> {
        let fails =
            self.shared.has_faults.load(Ordering::Acquire) && self.shared.faults.lock().fails_reads;
        if fails { Err(failure(format!("reading {what}"))) } else { Ok(()) }
    }
}

fn failure(context: String) -> StoreError {
    StoreError::io(context, io::Error::other("this in-memory disk was told to fail"))
}

impl fmt::Debug for InmemDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InmemDisk")
            .field("writes", &self.writes())
            .field("faults", &*self.shared.faults.lock())
            .finish()
    }
}
