//! Kills a process that writes, again and again, and checks what it had acknowledged.
//!
//! That every write is synced is shown in `database/tests.rs`.
#![allow(clippy::unwrap_used, reason = "a failed test says where")]

use raft::testing::kill_suite;
use raft_rocksdb::{RocksOptions, RocksStore};

/// Small buffers, so that files are flushed, merged and dropped while we kill.
#[tokio::test]
async fn what_was_acknowledged_survives_any_kill() {
    let dir = tempfile::tempdir().unwrap();
    kill_suite("what_was_acknowledged_survives_any_kill", dir.path(), |dir| {
        let options = RocksOptions::default().with(|it| it.write_buffer_bytes = 64 << 10);
        let store = RocksStore::open(dir, options)?;
        Ok((store.log_store(), store.stable_store()))
    })
    .await;
}
