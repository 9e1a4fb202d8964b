//! The user's state machine: where its methods run, and what it is given.
//!
//! They run on the task that holds it, or, if they may block, on a thread of tokio's blocking pool, one
//! at a time either way. `batch` applies entries, `restore` reads a snapshot, `watched` tells the errors
//! of the store from those of the state machine, and `offline` does all that without a node.

mod apply_limit;
mod batch;
mod offline;
mod restore;
mod streams;
mod watched;

pub(crate) use self::{
    apply_limit::ApplyLimit,
    batch::Batch,
    offline::Offline,
    restore::restore_snapshot,
    streams::{Counted, UntilEnd},
    watched::Watched,
};
use crate::{
    fsm::{Fsm, FsmError},
    panics::Panic,
    snapshot::SnapshotReader,
};

/// The state machine, and where its methods run.
pub(crate) struct Host<F> {
    /// Absent only while a method runs on another thread, and for ever after it has panicked there.
    fsm: Option<Box<F>>,
    is_blocking: bool,
}

impl<F: Fsm> Host<F> {
    pub(crate) fn new(fsm: F) -> Self {
        let is_blocking = fsm.is_blocking();
        Self { fsm: Some(Box::new(fsm)), is_blocking }
    }

    /// Whether the methods run on another thread, where they cannot be given up.
    pub(crate) fn is_blocking(&self) -> bool {
        self.is_blocking
    }

    /// The state machine itself, if its methods may run right here.
    pub(crate) fn here(&mut self) -> Option<&mut F> {
        if self.is_blocking { None } else { self.fsm.as_deref_mut() }
    }

    /// Calls a method where it may block, if it wants to.
    pub(crate) async fn call<T: Send + 'static>(
        &mut self,
        method: impl FnOnce(&mut F) -> T + Send + 'static,
    ) -> Result<T, Panic> {
        let mut fsm = self.take()?;
        if !self.is_blocking {
            let result = method(&mut fsm);
            self.fsm = Some(fsm);
            return Ok(result);
        }
        self.on_another_thread(move || {
            let result = method(&mut fsm);
            (fsm, result)
        })
        .await
    }

    /// Replaces the whole state by a snapshot. When that fails, what the state is now is unknown.
    pub(crate) async fn restore(
        &mut self,
        reader: SnapshotReader,
    ) -> Result<Result<(), FsmError>, Panic> {
        let mut fsm = self.take()?;
        if !self.is_blocking {
            let result = fsm.restore(reader).await;
            self.fsm = Some(fsm);
            return Ok(result);
        }
        let runtime = tokio::runtime::Handle::current();
        self.on_another_thread(move || {
            let result = runtime.block_on(fsm.restore(reader));
            (fsm, result)
        })
        .await
    }

    fn take(&mut self) -> Result<Box<F>, Panic> {
        self.fsm.take().ok_or_else(|| Panic(Box::new("the state machine is lost")))
    }

    async fn on_another_thread<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> (Box<F>, T) + Send + 'static,
    ) -> Result<T, Panic> {
        let (fsm, result) = tokio::task::spawn_blocking(work).await?;
        self.fsm = Some(fsm);
        Ok(result)
    }
}
