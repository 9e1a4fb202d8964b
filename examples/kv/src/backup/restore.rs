//! `kv restore`: the state of a cluster out of a file.

use std::{
    fs::File,
    io::{self, BufRead},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use raft::LogIndex;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{About, progress::Progress, take::blocking};
use crate::{
    cli::Restore,
    failure::Failure,
    log::tell,
    operator::{Ask, AskError, Operator},
    output::print,
    snapshot::Summary,
};

/// How long to wait for a leader: somewhat longer than an election takes.
const LEADER_WAIT: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// Restores the cluster and says what came of it.
///
/// # Errors
/// When the file is not a whole backup, nobody leads, the user did not agree, or the leader could not
/// do it; the failure says which, and whether anything was changed.
pub(crate) async fn run(options: Restore) -> Result<(), Failure> {
    let Restore { http, input, yes } = options;
    let shown = input.display().to_string();
    let cannot_read = |error| Failure::new(format!("{shown} cannot be read: {error}"));
    let file = tokio::fs::File::open(&input).await.map_err(cannot_read)?;
    let (about, summary) = super::check(tokio::io::BufReader::new(file))
        .await
        .map_err(|bad| Failure::new(format!("{shown} {bad}; nothing was changed")))?;

    let leader = leader(&http).await?;
    let operator = Operator::new(leader.as_str(), ASK_TIMEOUT);
    let there = blocking(move || Ok(operator.ask("/status", &Ask::Get)?)).await?;
    explain(&input, &about, &summary, &leader, &there);
    if !yes {
        confirm()?;
    }
    let answer = blocking(move || send(&leader, &input)).await?;
    print(&format!(
        "restored: a majority of the servers has the {} keys, as of entry {} of its own log\n",
        answer["keys"], answer["index"]
    ))
}

/// The HTTP address of the leader.
async fn leader(http: &str) -> Result<String, Failure> {
    let deadline = Instant::now() + LEADER_WAIT;
    loop {
        let operator = Operator::new(http, ASK_TIMEOUT);
        let members = blocking(move || Ok(operator.ask("/members", &Ask::Get)?)).await?;
        let list = members["members"].as_array().map_or(&[][..], Vec::as_slice);
        let leader = list.iter().find(|member| member["leader"] == true);
        if let Some(http) = leader.and_then(|leader| leader["http"].as_str()) {
            return Ok(http.to_owned());
        }
        if deadline < Instant::now() {
            return Err(Failure::new(format!(
                "{http} knows no leader, after {LEADER_WAIT:?}; nothing was changed"
            )));
        }
        sleep(LOOK_AGAIN).await;
    }
}

fn explain(input: &Path, about: &About, summary: &Summary, leader: &str, there: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    tell!(
        "{} holds {} keys, as of entry {} of cluster {}, taken on server {} by kv {}.",
        input.display(),
        summary.keys,
        about.snapshot.last,
        about.cluster,
        about.server,
        about.release
    );
    tell!(
        "It replaces everything in cluster {}, whose leader {} at {leader} has {} keys at entry {}.",
        text(&there["cluster"]),
        text(&there["id"]),
        there["kv"]["keys"],
        there["raft"]["marks"]["applied"]
    );
    if about.cluster != text(&there["cluster"]) {
        tell!("Mind that the backup is of another cluster.");
    }
    // After a restore indices go on from the larger one, so these can be compared.
    let applied = there["raft"]["marks"]["applied"].as_u64().map(LogIndex);
    if applied.is_some_and(|applied| about.snapshot.last.index < applied) {
        tell!("What was written since the backup will be gone.");
    }
}

fn confirm() -> Result<(), Failure> {
    tell!("This cannot be undone. Type yes to go on:");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(Failure::new)?;
    if answer.trim() == "yes" {
        return Ok(());
    }
    Err(Failure::new("nothing was changed, as the answer was not yes (--yes does not ask)"))
}

fn send(leader: &str, input: &Path) -> Result<Value, Failure> {
    let cannot_read = |error| Failure::new(format!("{} cannot be read: {error}", input.display()));
    let file = File::open(input).map_err(cannot_read)?;
    let length = file.metadata().map_err(cannot_read)?.len();
    let sent = Arc::<AtomicU64>::default();
    let mut body = Progress::new(file, "sent", Some(length), Arc::clone(&sent));
    let answer = Operator::unhurried(leader).upload("/restore", &mut body, length);
    answer.map_err(|error| match error {
        AskError::Refused { why, .. } => why,
        // The leader does nothing before it has everything.
        AskError::Unanswered(failure) if sent.load(Ordering::Relaxed) < length => {
            Failure::new(format!("{failure}; nothing was changed"))
        }
        AskError::Unanswered(failure) => Failure::new(format!(
            "{failure}; the cluster may or may not have been restored: look, and restore again"
        )),
    })
}
