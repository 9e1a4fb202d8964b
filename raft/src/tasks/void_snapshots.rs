//! Finished snapshots that do not count: of a restore that came to nothing, or whole only when its leader
//! had been deposed.

use parking_lot::Mutex;

use crate::{
    snapshot::{SnapshotId, SnapshotStore},
    store_error::StoreError,
};

/// Those that are still in the store.
#[derive(Default)]
pub(super) struct VoidSnapshots(Mutex<Vec<SnapshotId>>);

impl VoidSnapshots {
    /// Notes whether a finished snapshot counts.
    pub(super) fn note(&self, id: &SnapshotId, counts: bool) {
        let mut void = self.0.lock();
        void.retain(|it| it != id);
        if !counts {
            void.push(id.clone());
        }
    }

    pub(super) fn contains(&self, id: &SnapshotId) -> bool {
        self.0.lock().contains(id)
    }

    /// Removes them from the store. Comes before a snapshot is finished that others know of: two of these
    /// could push the one out of the store that the log begins with.
    pub(super) async fn remove(&self, store: &dyn SnapshotStore) -> Result<(), StoreError> {
        let void = self.0.lock().clone();
        for id in void {
            store.remove(&id).await?;
            self.note(&id, true);
        }
        Ok(())
    }
}
