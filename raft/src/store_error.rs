//! How a store says that it failed. Stores know nothing of the node that they are in.

use std::sync::Arc;

/// An error of a log, stable or snapshot store.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system or the database refused.
    #[error("{context}: {source}")]
    Io {
        /// What was being done, naming the file or directory.
        context: String,
        /// Why it failed.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// Bytes are there but not what was written.
    #[error("{what} is damaged: {reason}")]
    Corrupt {
        /// What is damaged, naming directory and key.
        what: String,
        /// How it shows, and what to do.
        reason: String,
    },
    /// What was asked for is not there.
    #[error("{what} is not in the store")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// The call breaks the store's contract.
    #[error("refused: {reason}")]
    Refused {
        /// Which rule.
        reason: String,
    },
}

impl StoreError {
    /// An [`StoreError::Io`] from any error.
    pub fn io(
        context: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Io { context: context.into(), source: Arc::new(source) }
    }

    /// A [`StoreError::Corrupt`].
    pub fn corrupt(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into(), reason: reason.into() }
    }
}
