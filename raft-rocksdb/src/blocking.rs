//! How async code calls a database that blocks.

use std::{panic, sync::Arc};

use raft::StoreError;

use crate::database::Database;

/// Runs `work` where blocking is allowed. It runs to its end even when the future is dropped.
pub(crate) async fn run<T: Send + 'static>(
    database: &Arc<Database>,
    work: impl FnOnce(&Database) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let database = Arc::clone(database);
    match tokio::task::spawn_blocking(move || work(&database)).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(payload) => panic::resume_unwind(payload),
            Err(error) => Err(StoreError::io("the runtime is shutting down", error)),
        },
    }
}
