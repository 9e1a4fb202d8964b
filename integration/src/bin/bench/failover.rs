//! Kill the leader of three processes; how long until the next one has committed a command?

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::{
    Options,
    machine::Neighbours,
    outcome::{Limit, Outcome, Promise},
    processes::{Heard, Processes},
    report::{Table, nanoseconds, quantile},
    server::{Event, Store},
};

/// What is promised with default settings.
const PROMISED_MEDIAN: Duration = Duration::from_millis(1400);

/// One line of the raw results.
#[derive(Debug, Serialize)]
pub(crate) struct Trial {
    /// From SIGKILL to the new leader's election.
    elected_seconds: f64,
    /// From SIGKILL to the first command committed by the new leader.
    first_commit_seconds: f64,
}

/// The whole section.
pub(crate) async fn section(options: &Options) -> Outcome<Vec<Trial>> {
    let neighbours = Neighbours::watch();
    let mut outcome = Outcome::<Vec<Trial>>::default();
    if let Err(error) = trials(options, &mut outcome.raw).await {
        let number = outcome.raw.len() + 1;
        outcome.failures.push(format!("failover, trial {number}: {error}"));
    }
    let (table, promise) = table(options, &outcome.raw, &neighbours);
    println!("{}", table.render());
    outcome.broken.extend(promise.broken());
    outcome
}

async fn trials(options: &Options, trials: &mut Vec<Trial>) -> Result<(), String> {
    let mut processes = Processes::start(&options.data, Store::File, options.workers).await?;
    for number in 0..options.trials {
        eprintln!("failover: trial {} of {}", number + 1, options.trials);
        let leader = processes.settle().await?;
        // Spread the kills over the interval between two heartbeats.
        sleep(Duration::from_millis((number as u64 * 37) % 100)).await;
        let killed = Instant::now();
        processes.kill(leader).await?;
        let mut elected = None;
        let first_commit = |heard: &Heard| {
            if heard.server == leader || heard.at < killed {
                return None;
            }
            match heard.event {
                Event::Leading { .. } => {
                    elected = Some(heard.at);
                    None
                }
                Event::FirstCommit { .. } => Some(heard.at),
                Event::Ready | Event::Status { .. } | Event::Load(_) => None,
            }
        };
        let committed = processes.expect("a commit of a new leader", first_commit).await?;
        trials.push(Trial {
            elected_seconds: (elected.unwrap_or(committed) - killed).as_secs_f64(),
            first_commit_seconds: (committed - killed).as_secs_f64(),
        });
        processes.restart(leader).await?;
    }
    processes.stop().await;
    Ok(())
}

fn table(options: &Options, trials: &[Trial], neighbours: &Neighbours) -> (Table, Promise) {
    let mut table = Table::new(
        "Failover: SIGKILL to the leader of three processes, default settings",
        1,
        &["from the kill to", "min", "median", "p90", "max", "trials"],
    );
    let sorted = |figure: fn(&Trial) -> f64| {
        let mut values: Vec<f64> = trials.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let first_commits = sorted(|trial| trial.first_commit_seconds);
    let rows = [
        ("a new leader", sorted(|trial| trial.elected_seconds)),
        ("its first commit", first_commits.clone()),
    ];
    for (name, values) in rows {
        let mut cells = vec![name.to_owned()];
        cells.extend([0.0, 0.5, 0.9, 1.0].map(|q| {
            quantile(&values, q).map_or_else(|| "–".to_owned(), |s| nanoseconds(s * 1e9))
        }));
        cells.push(values.len().to_string());
        table.row(cells);
    }
    let promise = Promise {
        section: "failover",
        what: format!("a median of at most {PROMISED_MEDIAN:?} to the first commit"),
        limit: Limit::AtMost(PROMISED_MEDIAN.as_nanos() as f64),
        measured: quantile(&first_commits, 0.5).map(|seconds| seconds * 1e9),
        unit: nanoseconds,
    };
    table.note(promise.note(options.quick));
    table.note(
        "Three processes with the log in files and TCP, no load, election timeout 1 s (each server adds a \
         random part of another), heartbeats every 100 ms, kills spread over the interval between \
         two heartbeats. The new leader proposes a command at once; the time ends when its report \
         of the commit has reached the parent process. The killed server is restarted from its disk \
         and has caught up before the next trial.",
    );
    table.note(neighbours.describe());
    (table, promise)
}
