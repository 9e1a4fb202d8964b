//! The end of a node, as the tasks, the handle and the futures share it.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::error::Fatal;

/// The end of the node: sticky, the first reason wins. Futures hold it, so that they can say why.
pub(crate) struct End {
    reason: watch::Sender<Option<Fatal>>,
    /// The same as "there is a reason", for those who ask often.
    has_begun: AtomicBool,
    /// Whether every task has ended.
    is_complete: watch::Sender<bool>,
}

impl End {
    pub(crate) fn new() -> Self {
        Self {
            reason: watch::Sender::new(None),
            has_begun: AtomicBool::new(false),
            is_complete: watch::Sender::new(false),
        }
    }

    /// Begins the end. Returns whether this call did.
    pub(crate) fn begin(&self, fatal: Fatal) -> bool {
        let is_first = self.reason.send_if_modified(|reason| {
            let is_first = reason.is_none();
            reason.get_or_insert(fatal);
            is_first
        });
        self.has_begun.store(true, Ordering::Release);
        is_first
    }

    pub(crate) fn complete(&self) {
        self.is_complete.send_replace(true);
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Acquire)
    }

    pub(crate) fn fatal(&self) -> Option<Fatal> {
        self.reason.borrow().clone()
    }

    /// Why the node ends, as soon as that is known.
    pub(crate) async fn reason(&self) -> Fatal {
        let mut reason = self.reason.subscribe();
        // The sender lives in `self`, so the wait ends with a value.
        let fatal = reason.wait_for(Option::is_some).await.ok().and_then(|fatal| fatal.clone());
        fatal.unwrap_or(Fatal::Shutdown)
    }

    /// Waits until every task has ended.
    pub(crate) async fn completed(&self) -> Fatal {
        let _ = self.is_complete.subscribe().wait_for(|is_complete| *is_complete).await;
        self.reason().await
    }
}
