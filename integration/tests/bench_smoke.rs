//! The benchmark harness runs, prints every table and every row, and ends well.
//!
//! No figure is looked at: this is about the harness, not about speed.

use std::process::Command;

fn bench(arguments: &[&str]) -> String {
    let directory = tempfile::tempdir().expect("a directory for the data");
    let json = directory.path().join("raw.json");
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .arg("--quick")
        .args(arguments)
        .arg("--data")
        .arg(directory.path())
        .arg("--json")
        .arg(&json)
        .output()
        .expect("the benchmark starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}\n{errors}", output.status);
    let raw = std::fs::read(&json).expect("the raw runs were written");
    let raw: serde_json::Value = serde_json::from_slice(&raw).expect("they are JSON");
    assert_eq!(raw["failures"].as_array().map(Vec::len), Some(0), "{text}");
    text
}

/// The cells of every row of the table with this title, split at gaps of two spaces.
fn rows<'a>(text: &'a str, title: &str) -> Vec<Vec<&'a str>> {
    text.lines()
        .skip_while(|line| !line.starts_with(title))
        .skip_while(|line| !line.contains('─'))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect()
}

/// A negative one printed an empty table and panicked.
#[test]
fn a_length_of_time_that_is_none_is_refused() {
    for wrong in ["--seconds=-1", "--seconds=NaN", "--warm-up=inf", "--seconds=x"] {
        let output = Command::new(env!("CARGO_BIN_EXE_bench")).args(["--quick", wrong]).output();
        let output = output.expect("it starts");
        assert_eq!(output.status.code(), Some(2), "{wrong}: {}", output.status);
    }
}

#[test]
fn every_number_of_clients_has_a_row_per_library_in_memory() {
    let text = bench(&["--sections", "in-memory"]);
    let rows = rows(&text, "Three servers in one process");
    let expected: Vec<(&str, &str)> = ["1", "64", "256", "1024", "4096"]
        .into_iter()
        .flat_map(|clients| [(clients, "raft"), (clients, "openraft")])
        .collect();
    assert_eq!(rows.len(), expected.len(), "{text}");
    for (row, (clients, library)) in rows.iter().zip(expected) {
        assert_eq!(row[0], clients, "{text}");
        assert!(row[1].starts_with(library), "{text}");
        assert!(!row[2..].contains(&"–"), "a figure is missing: {text}");
    }
}

#[test]
fn every_number_of_clients_has_a_durable_row_per_store() {
    let text = bench(&["--sections", "durable"]);
    let mut stores = vec!["file"];
    if cfg!(feature = "rocksdb") {
        stores.push("rocksdb");
    }
    if Command::new("etcd").arg("--version").output().is_ok() {
        stores.push("etcd");
    } else {
        assert!(text.contains("apt-get install"), "{text}");
    }
    let durable = rows(&text, "Three processes, a log on disk and TCP");
    let found: Vec<_> = durable.iter().map(|row| (row[0], row[1])).collect();
    let expected = ["1", "64", "256"].into_iter();
    let expected: Vec<_> =
        expected.flat_map(|clients| stores.iter().map(move |store| (clients, *store))).collect();
    assert_eq!(found, expected, "{text}");
    for row in &durable {
        // The file log has no ratio to itself.
        assert_eq!(row.len(), if row[1] == "file" { 9 } else { 10 }, "{text}");
        assert!(!row.contains(&"–"), "a figure is missing: {text}");
    }
    let floor = rows(&text, "One client beside");
    assert_eq!(floor.iter().map(|row| row[0]).collect::<Vec<_>>(), stores, "{text}");
    assert!(floor.iter().all(|row| row.len() == 7 && !row.contains(&"–")), "{text}");
}

#[test]
fn the_log_alone_is_measured() {
    let text = bench(&["--sections", "appends,opening,compaction"]);
    let appends = rows(&text, "The log in files beside a bare loop");
    let found: Vec<_> = appends.iter().map(|row| (row[0], row[1])).collect();
    let sides = ["log", "growing log", "bare loop"];
    let expected = ["1", "256"].map(|entries| sides.map(|side| (entries, side))).concat();
    assert_eq!(found, expected, "{text}");
    assert_eq!(rows(&text, "Opening a log").len(), 2, "{text}");
    assert_eq!(rows(&text, "Compaction").len(), 8, "{text}");
    assert_eq!(text.matches("Promised: ").count(), 5, "{text}");
}

#[test]
fn a_killed_leader_is_replaced_twice() {
    let text = bench(&["--sections", "failover"]);
    let rows = rows(&text, "Failover");
    let names: Vec<_> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(names, ["a new leader", "its first commit"], "{text}");
    assert!(rows.iter().all(|row| row.last() == Some(&"2")), "{text}");
}

#[test]
fn memory_is_accounted_for() {
    let text = bench(&["--sections", "memory"]);
    assert_eq!(rows(&text, "Memory").len(), 8, "{text}");
    assert!(text.contains("Promised: "), "{text}");
}
