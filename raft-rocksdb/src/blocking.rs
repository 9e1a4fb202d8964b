//! How async code calls a database that blocks.
//!
//! On a multi-threaded runtime the call is made in place, after the thread's other tasks were moved
//! to another thread: no hand-over lies on the way of a write, which takes as long as a plain
//! blocking call. Everywhere else the call goes to the blocking pool and takes about 1.2 times as
//! long; a thread of our own lies between the two (`examples/handoff.rs` measures all of them). That
//! order holds on an idle machine and under load of the same process. Where other programs take every
//! processor, the scheduler decides, and differently each time.

use std::{panic, sync::Arc};

use raft::StoreError;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task,
};

use crate::database::Database;

/// Runs `work` where blocking is allowed. It runs to its end even when the future is dropped.
pub(crate) async fn run<T: Send + 'static>(
    database: &Arc<Database>,
    work: impl FnOnce(&Database) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    if Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread {
        return task::block_in_place(|| work(database));
    }
    let database = Arc::clone(database);
    match task::spawn_blocking(move || work(&database)).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(payload) => panic::resume_unwind(payload),
            Err(error) => Err(StoreError::io("the runtime is shutting down", error)),
        },
    }
}
