//! Term, vote and the identity of the disk, in memory.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::InmemDisk;
use crate::{
    stable::{DiskIdentity, HardState, StableStore},
    store_error::StoreError,
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
    keeps_incarnation: AtomicBool,
    identity: Mutex<Option<DiskIdentity>>,
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

    /// The same store, which keeps an incarnation from now on. Without this it does not: a cluster
    /// then has one entry less in its log, and a server that comes back with a new store is not
    /// noticed.
    #[must_use]
    pub fn keeping_incarnation(self) -> Self {
        self.shared.keeps_incarnation.store(true, Ordering::Release);
        self
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
            .field("identity", &*self.shared.identity.lock())
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

    async fn disk_identity(&mut self) -> Result<Option<DiskIdentity>, StoreError> {
        self.shared.disk.read("the identity of the disk")?;
        Ok(self.shared.identity.lock().clone())
    }

    async fn save_disk_identity(&mut self, identity: &DiskIdentity) -> Result<(), StoreError> {
        if self.shared.keeps_incarnation.load(Ordering::Acquire) {
            self.shared.disk.write("the identity of the disk").await?;
            *self.shared.identity.lock() = Some(identity.clone());
        }
        Ok(())
    }
}
