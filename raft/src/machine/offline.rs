//! A state machine brought to a state without a node: what `recover_cluster` needs.
//!
//! It is fed as `run_fsm` feeds it, in the same batches and on the same threads, so that a state
//! machine cannot tell the difference. Nothing is spawned that outlives a call.

use super::{Batch, Host, restore_snapshot};
use crate::{
    configuration::IndexedConfiguration,
    error::StartError,
    fsm::{Fsm, FsmError, FsmSnapshot},
    log::{Entries, LogReader},
    panics::Panic,
    position::LogId,
    snapshot::{SnapshotMeta, SnapshotStore},
    store_error::StoreError,
    stored::usable_snapshots,
};

/// A state machine, and the newest snapshot that could be restored into it.
pub(crate) struct Offline<F: Fsm> {
    host: Host<F>,
    /// The snapshot it was restored from.
    pub(crate) restored: Option<SnapshotMeta>,
    /// What the newest snapshot of all covers, usable or not.
    newest: LogId,
    /// Those that count for nothing, see `usable_snapshots`.
    void: Vec<SnapshotMeta>,
    /// The newest configuration it was told of, or that of the snapshot.
    configuration: IndexedConfiguration,
}

impl<F: Fsm> Offline<F> {
    pub(crate) async fn restore(
        fsm: F,
        reader: &dyn LogReader,
        store: &dyn SnapshotStore,
    ) -> Result<Self, StartError> {
        let mut host = Host::new(fsm);
        let (snapshots, void) = usable_snapshots(reader, store).await?;
        let newest = snapshots.iter().map(|meta| meta.last).max().unwrap_or_default();
        // Whatever it has kept by itself, it is to be empty here.
        let restored = restore_snapshot(&mut host, &mut None, store, snapshots).await?;
        let configuration =
            restored.as_ref().map(|meta| meta.configuration.clone()).unwrap_or_default();
        Ok(Self { host, restored, newest, void, configuration })
    }

    /// The last entry the restored snapshot covers.
    pub(crate) fn snapshot(&self) -> LogId {
        self.restored.as_ref().map(|meta| meta.last).unwrap_or_default()
    }

    /// What the newest snapshot of all covers: whatever became of its bytes, that much is committed.
    pub(crate) fn newest(&self) -> LogId {
        self.newest
    }

    /// Removes the snapshots that count for nothing. Without the log that shows it, they would count.
    pub(crate) async fn remove_void(
        &mut self,
        store: &dyn SnapshotStore,
    ) -> Result<(), StoreError> {
        for SnapshotMeta { id, .. } in std::mem::take(&mut self.void) {
            store.remove(&id).await?;
        }
        Ok(())
    }

    /// Applies the commands, and tells of configurations in between.
    pub(crate) async fn apply(&mut self, entries: Entries) {
        let mut configuration = std::mem::take(&mut self.configuration);
        let mut batch = Batch::default();
        batch.parts.push(entries);
        let applied = self.host.call(move |fsm| {
            batch.apply(fsm, &mut configuration);
            configuration
        });
        self.configuration = told(applied.await);
    }

    /// Tells of a configuration that stands in no entry, and takes a view of the state with it.
    pub(crate) async fn view(
        &mut self,
        configuration: IndexedConfiguration,
    ) -> Result<Box<dyn FsmSnapshot>, FsmError> {
        let viewed = self.host.call(move |fsm| {
            fsm.configuration_changed(&configuration);
            fsm.snapshot()
        });
        told(viewed.await)
    }
}

/// A panic of the state machine goes on to the caller, on whichever thread it was: there is no node
/// that it could end.
fn told<T>(result: Result<T, Panic>) -> T {
    match result {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic.0),
    }
}
