//! The closed loop: so many clients, each with exactly one command outstanding.

use std::{future::Future, sync::Arc, time::Duration};

use clap::Args;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::{
    runtime::Handle,
    task::JoinSet,
    time::{Instant, sleep_until, timeout_at},
};

use crate::machine;

/// How long clients may take to get their last answer after the window has closed.
const LAST_ANSWER: Duration = Duration::from_secs(20);

/// Latencies are kept in this unit while the load runs: four bytes each reach 42 seconds.
const TICK_NS: u128 = 10;

/// Something that takes commands and answers when they are applied.
pub(crate) trait Proposer: Clone + Send + Sync + 'static {
    /// Resolves with the state machine's response: how many commands it has applied, this one
    /// included.
    fn propose(&self, command: Vec<u8>) -> impl Future<Output = Result<u64, String>> + Send;
}

/// The work of one run.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) clients: usize,
    pub(crate) payload_bytes: usize,
    /// The load runs this long before anything counts.
    pub(crate) warm_up: Duration,
    /// What ends in this window counts.
    pub(crate) window: Duration,
}

/// A load on the command line of a process of its own.
#[derive(Args, Debug)]
pub(crate) struct LoadArgs {
    #[arg(long)]
    clients: usize,
    #[arg(long)]
    payload: usize,
    #[arg(long)]
    seconds: f64,
    #[arg(long)]
    warm_up: f64,
    #[arg(long)]
    pub(crate) workers: Option<usize>,
}

impl LoadArgs {
    pub(crate) fn load(&self) -> Load {
        Load {
            clients: self.clients,
            payload_bytes: self.payload,
            warm_up: Duration::from_secs_f64(self.warm_up),
            window: Duration::from_secs_f64(self.seconds),
        }
    }
}

impl Load {
    /// This as [`LoadArgs`].
    pub(crate) fn arguments(self, workers: Option<usize>) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut push = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        push("--clients", self.clients.to_string());
        push("--payload", self.payload_bytes.to_string());
        push("--seconds", self.window.as_secs_f64().to_string());
        push("--warm-up", self.warm_up.as_secs_f64().to_string());
        if let Some(workers) = workers {
            push("--workers", workers.to_string());
        }
        arguments
    }
}

/// What one run gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LoadResult {
    pub(crate) clients: usize,
    /// Commands answered within the window.
    pub(crate) applies: u64,
    /// Commands answered at all, in the warm-up too.
    pub(crate) applies_in_all: u64,
    pub(crate) seconds: f64,
    pub(crate) applies_per_second: f64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p999_ns: u64,
    pub(crate) max_ns: u64,
    /// User and system time of the whole process (clients and servers) per million applies.
    pub(crate) cpu_seconds_per_million: Option<f64>,
    /// Commands that did not succeed. A client stops at its first.
    pub(crate) failures: u64,
    pub(crate) first_failure: Option<String>,
}

/// Runs `load` against `proposer`. The clients run on `runtime`; the caller should be elsewhere
/// (another runtime), so that the measuring does not queue behind what is measured.
pub(crate) async fn run<P: Proposer>(runtime: &Handle, proposer: &P, load: Load) -> LoadResult {
    let begin = Instant::now() + load.warm_up;
    let end = begin + load.window;
    let plan = Arc::new(Plan { begin, end, payload_bytes: load.payload_bytes });
    let mut clients = JoinSet::new();
    for _ in 0..load.clients {
        let (proposer, plan) = (proposer.clone(), Arc::clone(&plan));
        clients.spawn_on(async move { client(proposer, &plan).await }, runtime);
    }

    let cpu_at_begin = sample_cpu_at(begin).await;
    let cpu_at_end = sample_cpu_at(end).await;

    let mut answers = Answers::default();
    let deadline = end + LAST_ANSWER;
    while let Ok(Some(joined)) = timeout_at(deadline, clients.join_next()).await {
        match joined {
            Ok(client) => answers.add(client),
            Err(error) => answers.fail(format!("a client ended: {error}")),
        }
    }
    for _ in 0..clients.len() {
        answers.fail(format!("an apply was not answered within {LAST_ANSWER:?}"));
    }

    let cpu = (|| {
        let ((from, at_begin), (to, at_end)) = (cpu_at_begin?, cpu_at_end?);
        Some((at_end - at_begin) / (to - from).as_secs_f64())
    })();
    answers.finish(load, cpu)
}

/// The processor time used so far, read as close after `instant` as the scheduler allows, and when.
async fn sample_cpu_at(instant: Instant) -> Option<(Instant, f64)> {
    sleep_until(instant).await;
    Some((Instant::now(), machine::cpu_seconds(None)?))
}

struct Plan {
    begin: Instant,
    end: Instant,
    payload_bytes: usize,
}

#[derive(Default)]
struct Client {
    /// In units of [`TICK_NS`]; only what ended within the window.
    latencies: Vec<u32>,
    answers: u64,
    failure: Option<String>,
}

async fn client<P: Proposer>(proposer: P, plan: &Plan) -> Client {
    let mut client = Client::default();
    let mut started = Instant::now();
    let mut last_response = 0;
    while started < plan.end {
        match proposer.propose(vec![0x5a; plan.payload_bytes]).await {
            // The state machine counts what it has applied, so its responses to one client grow.
            Ok(response) if response > last_response => last_response = response,
            Ok(response) => {
                client.failure =
                    Some(format!("response {response} after response {last_response}"));
                break;
            }
            Err(error) => {
                client.failure = Some(error);
                break;
            }
        }
        let answered = Instant::now();
        client.answers += 1;
        if plan.begin <= answered && answered < plan.end {
            let ticks = (answered - started).as_nanos() / TICK_NS;
            client.latencies.push(u32::try_from(ticks).unwrap_or(u32::MAX));
        }
        started = answered;
    }
    client
}

#[derive(Default)]
struct Answers {
    latencies: Vec<Vec<u32>>,
    in_all: u64,
    failures: u64,
    first_failure: Option<String>,
}

impl Answers {
    fn add(&mut self, client: Client) {
        self.in_all += client.answers;
        self.latencies.push(client.latencies);
        if let Some(failure) = client.failure {
            self.fail(failure);
        }
    }

    fn fail(&mut self, failure: String) {
        self.failures += 1;
        self.first_failure.get_or_insert(failure);
    }

    fn finish(mut self, load: Load, cpu_per_second: Option<f64>) -> LoadResult {
        let applies = self.latencies.iter().map(|latencies| latencies.len() as u64).sum::<u64>();
        if applies == 0 {
            self.fail("nothing was applied within the window".to_owned());
        }
        let mut histogram = Histogram::<u64>::new_with_bounds(1, u64::from(u32::MAX), 3).ok();
        for &ticks in self.latencies.iter().flatten() {
            if let Some(histogram) = &mut histogram {
                histogram.saturating_record(u64::from(ticks));
            }
        }
        let at = |q| histogram.as_ref().map_or(0, |h| h.value_at_quantile(q) * TICK_NS as u64);
        let seconds = load.window.as_secs_f64();
        LoadResult {
            clients: load.clients,
            applies,
            applies_in_all: self.in_all,
            seconds,
            applies_per_second: applies as f64 / seconds,
            p50_ns: at(0.5),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            max_ns: at(1.0),
            cpu_seconds_per_million: cpu_per_second
                .filter(|_| applies > 0)
                .map(|cpu| cpu * seconds / applies as f64 * 1e6),
            failures: self.failures,
            first_failure: self.first_failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_all_clients_and_in_nanoseconds() {
        let mut answers = Answers::default();
        for latencies in [(1..=500).collect(), (501..=1000).collect::<Vec<u32>>()] {
            answers.add(Client { answers: 600, latencies, failure: None });
        }
        let second = Duration::from_secs(1);
        let load = Load { clients: 2, payload_bytes: 1, warm_up: second, window: 2 * second };
        let result = answers.finish(load, Some(0.5));
        assert_eq!((result.applies, result.applies_in_all, result.failures), (1000, 1200, 0));
        assert_eq!([result.p50_ns, result.p99_ns], [5_000, 9_900]);
        assert_eq!([result.p999_ns, result.max_ns], [9_990, 10_000]);
        assert_eq!(result.applies_per_second, 500.0);
        assert_eq!(result.cpu_seconds_per_million, Some(1000.0));
    }
}
