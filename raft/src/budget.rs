//! The bound in bytes of a queue whose channel bounds it in messages.

use std::fmt;

use tokio::sync::{AcquireError, Semaphore, SemaphorePermit, TryAcquireError};

/// Bytes that may wait in one queue. Whatever goes in takes its part first, in the order of asking;
/// whoever takes it out gives the part back. What is larger than the whole budget takes all of it: it
/// goes in alone.
pub(crate) struct Budget {
    left: Semaphore,
    all: u32,
}

impl Budget {
    /// A budget of so many bytes, but at most 4 GiB.
    pub(crate) fn new(bytes: u64) -> Self {
        let most = u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX);
        let all = u32::try_from(bytes).unwrap_or(u32::MAX).min(most);
        Self { left: Semaphore::new(all as usize), all }
    }

    /// The part that something of so many bytes takes.
    pub(crate) fn part(&self, bytes: u64) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.all)
    }

    /// Takes a part if it is left and nobody waits. The permit is to be forgotten when the thing is in
    /// the queue; dropped before, it gives the part back.
    pub(crate) fn try_take(&self, part: u32) -> Result<SemaphorePermit<'_>, TryAcquireError> {
        self.left.try_acquire_many(part)
    }

    /// The same, waiting for it; fails when the budget is closed.
    ///
    /// # Cancel safety
    /// Dropping the future before it ends takes nothing, and gives up the place in the line.
    pub(crate) async fn take(&self, part: u32) -> Result<SemaphorePermit<'_>, AcquireError> {
        self.left.acquire_many(part).await
    }

    /// Gives back the parts of what was taken out of the queue, together.
    pub(crate) fn give_back(&self, parts: u32) {
        if parts != 0 {
            self.left.add_permits(parts as usize);
        }
    }

    /// Nothing goes in any more, and whoever waits is told.
    pub(crate) fn close(&self) {
        self.left.close();
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes left", self.left.available_permits(), self.all)
    }
}
