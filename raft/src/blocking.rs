//! How async code calls files, which block.

use std::panic;

use tokio::task;

use crate::store_error::StoreError;

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(payload) => panic::resume_unwind(payload),
            Err(error) => Err(StoreError::io("the runtime is shutting down", error)),
        },
    }
}
