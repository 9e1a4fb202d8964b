//! The promises of the traits, checked by the suites every implementer can run, on both kinds of
//! runtime: the store blocks differently on each.
#![allow(clippy::unwrap_used, reason = "a failed test says where")]

mod common;

use std::path::Path;

use common::open;
use raft::testing::{log_store_reopen_suite, log_store_suite, stable_store_suite};

/// Opens a new directory below `parent` each time.
fn fresh(parent: &Path) -> impl FnMut() -> raft_rocksdb::RocksStore {
    let mut number = 0;
    move || {
        number += 1;
        open(&parent.join(number.to_string()))
    }
}

async fn log_store() {
    let parent = tempfile::tempdir().unwrap();
    let mut fresh = fresh(parent.path());
    log_store_suite(|| {
        let store = fresh().log_store();
        async { store }
    })
    .await;
}

async fn stable_store() {
    let parent = tempfile::tempdir().unwrap();
    let mut fresh = fresh(parent.path());
    stable_store_suite(|| {
        let store = fresh().stable_store();
        async { store }
    })
    .await;
}

#[tokio::test]
async fn log_store_on_one_thread() {
    log_store().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_store_on_several_threads() {
    log_store().await;
}

#[tokio::test]
async fn log_store_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    log_store_reopen_suite(|| {
        let store = open(dir.path()).log_store();
        async { store }
    })
    .await;
}

#[tokio::test]
async fn stable_store_on_one_thread() {
    stable_store().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stable_store_on_several_threads() {
    stable_store().await;
}
