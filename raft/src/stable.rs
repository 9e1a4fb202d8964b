//! The few bytes a server must never forget: its term and its vote, and which disk they are on.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{configuration::ServerId, position::Term, store_error::StoreError};

/// Term and vote: one record, saved in one atomic write, so that a crash can never pair a new term
/// with an old vote (paper Figure 2, persistent state; the model keeps two records, its #661).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store or a transport keeps all of it: it has to learn of a new field, not to lose it"
)]
pub struct HardState {
    /// The newest term this server has seen. Never falls (law 6).
    pub current_term: Term,
    /// Who got this server's vote in `current_term`; cleared only when the term grows.
    pub voted_for: Option<ServerId>,
}

/// Whose disk it is, which one, and how often it was started from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store or a transport keeps all of it: it has to learn of a new field, not to lose it"
)]
pub struct DiskIdentity {
    /// The server that it belongs to: another one does not start with it. Empty if that was not noted.
    pub server: ServerId,
    /// A random number, never 0, by which the configuration knows it.
    pub incarnation: u64,
    /// How many starts there were.
    pub starts: u32,
    /// Whether it was found to be an older copy, and has got another incarnation since: it takes part in no
    /// election before the configuration knows it by that one.
    pub was_rolled_back: bool,
}

/// What two stores have in common whose writes go into one stream, see [`LogStore::medium`](crate::LogStore::medium).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Medium(u64);

impl Medium {
    /// One that no other store of this process has.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
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

    /// What this store shares with a [`LogStore`](crate::LogStore) that can write term and vote too, see
    /// [`LogStore::medium`](crate::LogStore::medium). `None` (default): nothing.
    fn medium(&self) -> Option<Medium> {
        None
    }

    /// Whose disk this is and which one, made by [`Raft::new`](crate::Raft::new) at the first start and
    /// gone when the term, the vote and the log are. By it the others notice that a server has come back
    /// on an empty disk, on an older copy of its own, or on that of another server, and has forgotten
    /// what it promised: it then neither votes nor counts until it is
    /// [rejoined](crate::Raft::rejoin_server).
    ///
    /// `None` as long as nothing was saved. The default keeps none, with which the checks are off for
    /// this server: whoever wipes it must remove it from its cluster before it starts again.
    ///
    /// # Errors
    /// As [`hard_state`](Self::hard_state).
    async fn disk_identity(&mut self) -> Result<Option<DiskIdentity>, StoreError> {
        Ok(None)
    }

    /// Keeps this in the place of what [`disk_identity`](Self::disk_identity) returns. **Durable when it returns `Ok`**,
    /// unless the store keeps none. Called once at each start, before anything is sent, and when the
    /// server ends with [`Fatal::RolledBack`](crate::Fatal::RolledBack). It must be kept with the log,
    /// the term and the vote: whatever loses them must lose it too, and a copy of them for another
    /// server must not have it.
    ///
    /// # Errors
    /// As [`save_hard_state`](Self::save_hard_state); the server does not start.
    async fn save_disk_identity(&mut self, _identity: &DiskIdentity) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A store that is chosen while the program runs.
#[async_trait]
impl StableStore for Box<dyn StableStore> {
    async fn hard_state(&mut self) -> Result<Option<HardState>, StoreError> {
        (**self).hard_state().await
    }

    async fn save_hard_state(&mut self, hard_state: &HardState) -> Result<(), StoreError> {
        (**self).save_hard_state(hard_state).await
    }

    fn medium(&self) -> Option<Medium> {
        (**self).medium()
    }

    async fn disk_identity(&mut self) -> Result<Option<DiskIdentity>, StoreError> {
        (**self).disk_identity().await
    }

    async fn save_disk_identity(&mut self, identity: &DiskIdentity) -> Result<(), StoreError> {
        (**self).save_disk_identity(identity).await
    }
}
