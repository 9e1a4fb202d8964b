//! A user's restore, from the request to the snapshot that takes the place of the log.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{
    Run,
    restore_cluster::{RestoreCluster, Restoring, withdraw},
};
use crate::{
    consensus::Time,
    error::RestoreError,
    future::Responder,
    position::{LogId, LogIndex},
    snapshot::SnapshotId,
    tasks::{
        request::{Pending, RestoreData, Waiter},
        supervise::AbortOnDrop,
    },
};

impl<R: Send + 'static> Run<R> {
    pub(super) fn begin_restore(
        &mut self,
        now: Time,
        data: RestoreData,
        responder: Responder<LogIndex, RestoreError>,
    ) {
        // One of an earlier leadership may still be finishing its snapshot, which is then withdrawn: cut
        // off there, it would stay in the store as a state that this cluster never had.
        if self.restoring.is_some() {
            responder.answer(Err(RestoreError::RestoreInProgress));
            return;
        }
        match self.core.begin_restore(now, data.at_least) {
            Ok((last, configuration)) => {
                let shared = Arc::clone(&self.shared);
                let store = self.peers.snapshots();
                let (give_up, given_up) = oneshot::channel();
                let copying = RestoreCluster { store, shared, last, configuration, data, given_up };
                let task = AbortOnDrop(self.tasks.spawn("restore_cluster", copying.run()));
                self.restoring = Some(Restoring::new(last, responder.taken(), give_up, task));
            }
            Err(refusal) => responder.answer(Err(refusal.into())),
        }
    }

    pub(super) fn restore_copied(
        &mut self,
        now: Time,
        last: LogId,
        result: Result<SnapshotId, RestoreError>,
    ) {
        let restoring = self.restoring.take_if(|restoring| restoring.last == last);
        let (id, restoring) = match (result, restoring) {
            (Ok(id), Some(restoring)) => (id, restoring),
            (Ok(id), None) => return self.withdraw(id),
            (Err(error), restoring) => {
                self.core.cancel_restore(now, last);
                if let Some(responder) = restoring.and_then(Restoring::into_responder) {
                    responder.answer(Err(error));
                }
                return;
            }
        };
        match self.core.finish_restore(now, last) {
            Ok(index) => {
                // Those who wait for what was replaced come first.
                self.show_and_act(now);
                if let Some(responder) = restoring.into_responder() {
                    let answer = Pending::Restore(responder);
                    self.waiters.proposed(now, vec![Waiter { index, answer }]);
                }
            }
            Err(_) => {
                if let Some(responder) = restoring.into_responder() {
                    responder.answer(Err(RestoreError::LeadershipLost));
                }
                self.withdraw(id);
            }
        }
    }

    fn withdraw(&mut self, id: SnapshotId) {
        let (store, shared) = (self.peers.snapshots(), Arc::clone(&self.shared));
        self.tasks.spawn("restore_cluster", withdraw(store, shared, id));
    }
}
