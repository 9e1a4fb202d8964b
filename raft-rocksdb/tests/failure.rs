//! The first write that fails is the last one that is tried.
//!
//! The child is this program, started again under a limit on the size of files: a full disk without
//! a disk to fill.
#![allow(clippy::unwrap_used, reason = "a failed test says where")]

mod common;

use std::{env, path::Path, process::Command};

use common::{all, commands, open};
use raft::{HardState, LogIndex, LogStore, StableStore, Term};

const CHILD_DIR: &str = "RAFT_ROCKSDB_FAILURE_DIR";

/// Not a test: what the child does. Does nothing in an ordinary run.
#[tokio::test]
async fn child() {
    let Ok(dir) = env::var(CHILD_DIR) else { return };
    let store = open(Path::new(&dir));
    let (mut log, mut stable) = (store.log_store(), store.stable_store());
    let mut acknowledged = 0;
    let failure = loop {
        let next = acknowledged + 1..=acknowledged + 100;
        match log.append(&[commands(1, next)]).await {
            Ok(()) => acknowledged += 100,
            Err(error) => break error.to_string(),
        }
    };
    let expected = format!("cannot append up to entry {} in {dir}: IO error: ", acknowledged + 100);
    assert!(failure.starts_with(&expected), "{failure}");
    assert!(failure.contains("File too large"), "{failure}");
    assert_eq!(failure.lines().count(), 1, "{failure}");

    let saved = HardState { current_term: Term(2), voted_for: None };
    let refusals = [
        log.append(&[commands(1, acknowledged + 1..=acknowledged + 1)]).await,
        log.truncate_suffix(LogIndex(3)).await,
        log.truncate_prefix(LogIndex(3)).await,
        stable.save_hard_state(&saved).await,
    ];
    for refusal in refusals {
        let refusal = refusal.unwrap_err().to_string();
        let expected =
            format!("refused: the store in {dir} writes no more since a write failed (IO error: ");
        assert!(refusal.starts_with(&expected), "{refusal}");
        assert!(refusal.ends_with("mend the disk, then start again from what is on it"));
    }
    // What was acknowledged can still be read.
    assert_eq!(all(&log).await, commands(1, 1..=acknowledged));
    assert_eq!(stable.hard_state().await.unwrap(), None);
    println!("\nacknowledged {acknowledged}");
}

#[tokio::test]
async fn a_failed_write_is_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("sh")
        .args(["-c", r#"trap "" XFSZ; ulimit -f 200; exec "$0" "$@""#])
        .arg(env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture"])
        .env(CHILD_DIR, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let acknowledged: u64 = said
        .lines()
        .find_map(|line| line.strip_prefix("acknowledged "))
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("{said}"));
    assert!(100 < acknowledged, "{said}");

    // Part of the failed write may lie in RocksDB's log: a torn tail.
    let store = open(dir.path());
    let mut log = store.log_store();
    assert_eq!(all(&log).await, commands(1, 1..=acknowledged));
    log.append(&[commands(1, acknowledged + 1..=acknowledged + 1)]).await.unwrap();
}
