//! A state machine brought to a state without a node: what `recover_cluster` needs of the tasks.
//!
//! It is fed as `run_fsm` feeds it, in the same batches and on the same threads, so that a state
//! machine cannot tell the difference. Nothing is spawned that outlives a call.

use super::{
    run_fsm::{Batch, Host},
    start::{gap, restore_snapshot},
};
use crate::{
    configuration::IndexedConfiguration,
    error::{Fatal, StartError, StoreError},
    fsm::{Fsm, FsmError, FsmSnapshot},
    log::{Entries, LogId},
    snapshot::{SnapshotMeta, SnapshotStore},
};

/// A state machine, and the newest snapshot that could be restored into it.
pub(crate) struct Offline<F: Fsm> {
    host: Host<F>,
    /// The snapshot it was restored from.
    pub(crate) restored: Option<SnapshotMeta>,
    /// What the newest snapshot of all covers, usable or not.
    newest: LogId,
    /// The newest configuration it was told of, or that of the snapshot.
    configuration: IndexedConfiguration,
}

impl<F: Fsm> Offline<F> {
    pub(crate) async fn restore(fsm: F, store: &dyn SnapshotStore) -> Result<Self, StartError> {
        let (fsm, restored, newest) = restore_snapshot(fsm, store).await?;
        let configuration =
            restored.as_ref().map(|meta| meta.configuration.clone()).unwrap_or_default();
        Ok(Self { host: Host::new(fsm), restored, newest, configuration })
    }

    /// The last entry the restored snapshot covers.
    pub(crate) fn snapshot(&self) -> LogId {
        self.restored.as_ref().map(|meta| meta.last).unwrap_or_default()
    }

    /// What the newest snapshot of all covers: whatever became of its bytes, that much is committed.
    pub(crate) fn newest(&self) -> LogId {
        self.newest
    }

    /// The error of a log that does not go on from the restored snapshot.
    pub(crate) fn gap(&self) -> StoreError {
        gap(self.snapshot(), self.newest)
    }

    /// Applies the commands, and tells of configurations in between.
    pub(crate) async fn apply(&mut self, entries: Entries) {
        let mut batch = Batch::default();
        batch.parts.push(entries);
        told(self.host.apply(&mut batch, &mut self.configuration).await);
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
fn told<T>(result: Result<T, Fatal>) -> T {
    match result {
        Ok(value) => value,
        Err(fatal) => panic!("{fatal}"),
    }
}
