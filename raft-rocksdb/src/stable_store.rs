//! Term, vote, and the identity of the disk.

use std::sync::Arc;

use async_trait::async_trait;
use raft::{DiskIdentity, HardState, StableStore, StoreError};

use crate::{blocking, database::Database};

/// The term, the vote and the identity of the disk of a [`RocksStore`](crate::RocksStore); hand it to
/// `Raft::new`.
///
/// Both are one record and one synced write: a crash never pairs a new term with an old vote.
/// After a write has failed, here or in the log, every later one is refused.
///
/// # Cancel safety
/// A write that was begun is finished even if its future is dropped; the next call waits for it.
///
/// # Panics
/// Calls panic outside of a tokio runtime, and inside a `LocalSet` of a multi-threaded one.
#[derive(Debug)]
pub struct RocksStableStore {
    database: Arc<Database>,
}

impl RocksStableStore {
    pub(crate) fn new(database: Arc<Database>) -> Self {
        Self { database }
    }
}

#[async_trait]
impl StableStore for RocksStableStore {
    async fn hard_state(&mut self) -> Result<Option<HardState>, StoreError> {
        blocking::run(&self.database, Database::hard_state).await
    }

    async fn save_hard_state(&mut self, hard_state: &HardState) -> Result<(), StoreError> {
        let hard_state = hard_state.clone();
        blocking::run(&self.database, move |database| database.save_hard_state(&hard_state)).await
    }

    async fn disk_identity(&mut self) -> Result<Option<DiskIdentity>, StoreError> {
        blocking::run(&self.database, Database::disk_identity).await
    }

    async fn save_disk_identity(&mut self, identity: &DiskIdentity) -> Result<(), StoreError> {
        let identity = identity.clone();
        blocking::run(&self.database, move |database| database.save_disk_identity(&identity)).await
    }
}
