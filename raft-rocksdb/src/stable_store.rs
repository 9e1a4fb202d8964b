//! Term, vote and incarnation.

use std::sync::Arc;

use async_trait::async_trait;
use raft::{HardState, StableStore, StoreError};

use crate::{blocking, database::Database};

/// The term, the vote and the incarnation of a [`RocksStore`](crate::RocksStore); hand it to
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

    async fn incarnation(&mut self) -> Result<Option<u64>, StoreError> {
        blocking::run(&self.database, Database::incarnation).await
    }

    async fn save_incarnation(&mut self, incarnation: u64) -> Result<(), StoreError> {
        blocking::run(&self.database, move |database| database.save_incarnation(incarnation)).await
    }
}
