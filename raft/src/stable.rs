//! The few bytes a server must never forget: its term and its vote.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{configuration::ServerId, error::StoreError, log::Term};

/// Term and vote: one record, saved in one atomic write, so that a crash can never pair a new term
/// with an old vote (paper Figure 2, persistent state; the model keeps two records, its #661).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    /// The newest term this server has seen. Never falls (law 6).
    pub current_term: Term,
    /// Who got this server's vote in `current_term`; cleared only when the term grows.
    pub voted_for: Option<ServerId>,
}

/// Where the [`HardState`] is kept. Owned by the `run_log` task, which is its only user.
///
/// Test an implementation with `raft::testing::stable_store_suite` (feature `testing`).
#[async_trait]
pub trait StableStore: Send + 'static {
    /// What was saved last; `None` on a fresh store.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read or the record fails its checksum.
    async fn hard_state(&mut self) -> Result<Option<HardState>, StoreError>;

    /// Replaces the record, atomically. **Durable when it returns `Ok`.**
    ///
    /// # Errors
    /// [`StoreError`] when the write failed; the node stops and never retries.
    async fn save_hard_state(&mut self, hard_state: &HardState) -> Result<(), StoreError>;
}
