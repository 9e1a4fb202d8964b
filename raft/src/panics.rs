//! What becomes of a panic: a value, or nothing.

use std::{
    any::Any,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
};

use tokio::task::JoinError;

use crate::error::Fatal;

/// Does what must not keep anything else from happening, such as telling the log.
pub(crate) fn contained(work: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
        // Only text is sure to be dropped in peace.
        std::mem::forget(panic);
    }
}

/// Runs a task and turns a panic of it into a value.
pub(crate) async fn guarded(
    task: &'static str,
    future: impl Future<Output = Result<(), Fatal>>,
) -> Result<(), Fatal> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        // What the task has broken is dropped with it; what others share of it is marks that only
        // grow and locks that do not poison.
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        polled.unwrap_or_else(|panic| Poll::Ready(Err(Panic(panic).into_fatal(task))))
    })
    .await
}

/// What a panic left behind.
pub(crate) struct Panic(pub(crate) Box<dyn Any + Send>);

impl From<JoinError> for Panic {
    fn from(error: JoinError) -> Self {
        Self(error.try_into_panic().unwrap_or_else(|error| Box::new(error.to_string())))
    }
}

impl Panic {
    pub(crate) fn into_fatal(self, task: &'static str) -> Fatal {
        let text = match self.0.downcast::<String>() {
            Ok(text) => *text,
            Err(other) => {
                let text = other.downcast_ref::<&str>().unwrap_or(&"no message").to_string();
                // The user's, who knows what dropping it does.
                std::mem::forget(other);
                text
            }
        };
        Fatal::Panicked { task, message: text.into() }
    }
}
