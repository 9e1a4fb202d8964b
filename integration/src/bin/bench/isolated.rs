//! Runs in processes of their own, so that no run inherits another's memory, threads or failures.

use std::{process::Stdio, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use tokio::{process::Command, time::timeout};

use crate::machine;

/// Runs this program again with `arguments` and reads the one JSON line it prints.
pub(crate) async fn run<T: DeserializeOwned>(
    arguments: &[String],
    limit: Duration,
) -> Result<T, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output();
    let output = timeout(limit, output)
        .await
        .map_err(|_| format!("`bench {}` did not end within {limit:?}", arguments.join(" ")))?
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("`bench {}` ended with {}", arguments.join(" "), output.status));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
}

/// Prints what [`run`] reads.
pub(crate) fn report(result: &impl Serialize) -> Result<(), String> {
    let line = serde_json::to_string(result).map_err(|error| error.to_string())?;
    println!("{line}");
    Ok(())
}

/// The runtime that carries servers and clients of one process: the same for every side.
pub(crate) fn runtime(workers: Option<usize>) -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers.unwrap_or_else(machine::cores))
        .enable_all()
        .build()
        .map_err(|error| error.to_string())
}

/// The runtime that measures, beside the one that is measured.
pub(crate) fn stopwatch() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())
}
