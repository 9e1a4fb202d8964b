//! Term and vote in memory.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::InmemDisk;
use crate::{
    error::StoreError,
    stable::{HardState, StableStore},
};

/// A [`StableStore`] in memory. Cheap to clone; clones are handles onto the same record, so a node
/// can be "restarted" on a clone. Writes are as durable as the process.
#[derive(Clone, Default)]
pub struct InmemStableStore {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    record: Mutex<Option<HardState>>,
    disk: InmemDisk,
}

impl InmemStableStore {
    /// A store that was never written, on a disk of its own.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A store that was never written, on this disk.
    #[must_use]
    pub fn on(disk: &InmemDisk) -> Self {
        let shared = Shared { disk: disk.clone(), ..Shared::default() };
        Self { shared: Arc::new(shared) }
    }

    /// The disk beneath, where faults are set.
    #[must_use]
    pub fn disk(&self) -> &InmemDisk {
        &self.shared.disk
    }
}

impl fmt::Debug for InmemStableStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InmemStableStore")
            .field("record", &*self.shared.record.lock())
            .field("disk", &self.shared.disk)
            .finish()
    }
}

#[async_trait]
impl StableStore for InmemStableStore {
    async fn hard_state(&mut self) -> Result<Option<HardState>, StoreError> {
        self.shared.disk.read("term and vote")?;
        Ok(self.shared.record.lock().clone())
    }

    async fn save_hard_state(&mut self, hard_state: &HardState) -> Result<(), StoreError> {
        self.shared.disk.write("term and vote").await?;
        *self.shared.record.lock() = Some(hard_state.clone());
        Ok(())
    }
}
