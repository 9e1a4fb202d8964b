//! `kv demo` succeeds, says what it must, and leaves nobody behind.

use std::process::Command;

#[test]
fn the_demo_does_what_it_promises() {
    let directory = tempfile::tempdir().expect("a directory");
    let output = Command::new(env!("CARGO_BIN_EXE_kv"))
        .args(["demo", "--writes", "5000"])
        .env("TMPDIR", directory.path())
        .output()
        .expect("kv runs");
    let told = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{complaint}");
    let expected = [
        "a leader that dies in the middle",
        "312 rows of the tz database",
        "with SIGKILL, after",
        "5,000 writes acknowledged",
        "the longest silence after the kill",
        "all 5,312 acknowledged writes are on",
        "all 5,312 acknowledged writes are on a, b, c\n",
        "all 5,312 acknowledged writes are on a, b, c, d\n",
        "restarted",
        " begins at ",
        "d, a fourth server, by a snapshot and what followed",
        "removed",
        "tz:Europe/Berlin is \"DE,",
        "everything as it must be",
    ];
    for part in expected {
        assert!(told.contains(part), "{part:?} is not in:\n{told}");
    }
    assert_eq!(told.matches("leads in term").count(), 2, "{told}");
    assert_eq!(told.matches("5,312 keys at entry").count(), 6, "{told}");
    assert_eq!(complaint, "");
    let left = std::fs::read_dir(directory.path()).expect("readable").count();
    assert_eq!(left, 0, "the demo cleans up");
}

/// As behind `head`, which has seen enough.
#[test]
fn nobody_has_to_read_to_the_end() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_kv"))
        .args(["demo", "--writes", "100"])
        .stdout(writer)
        .output()
        .expect("kv runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*told), (Some(0), ""));
}
