//! How tasks are started and aborted.

use std::{future::Future, sync::Arc};

use tokio::task::{AbortHandle, JoinSet};

use super::shared::Shared;
use crate::{error::Fatal, panics::guarded};

/// The tasks of a node. Whatever ends one of them with an error ends the node.
pub(super) struct Tasks {
    set: JoinSet<()>,
    shared: Arc<Shared>,
}

impl Tasks {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { set: JoinSet::new(), shared: Arc::clone(shared) }
    }

    pub(super) fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), Fatal>> + Send + 'static,
    ) -> AbortHandle {
        // Tasks of peers that are gone have ended meanwhile.
        while self.set.try_join_next().is_some() {}
        let shared = Arc::clone(&self.shared);
        self.set.spawn(async move {
            if let Err(fatal) = guarded(name, task).await {
                shared.stop(fatal);
            }
        })
    }

    pub(super) async fn join(&mut self) {
        while self.set.join_next().await.is_some() {}
    }
}

/// Ends a task that sends together with its queue: it may be waiting for room at a peer that is
/// gone for good.
pub(super) struct AbortOnDrop(pub(super) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
