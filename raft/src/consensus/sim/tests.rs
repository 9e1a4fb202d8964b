use super::{
    planted::Bug,
    runner::{hunt, run, run_many},
    trace::Trace,
};

const SEEDS: u64 = 1000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text:?}")))
}

fn command(seed: u64) -> String {
    format!(
        "RAFT_SIM_SEED={seed} cargo test --release -p raft --lib consensus::sim::tests::seeds -- \
         --nocapture"
    )
}

#[test]
fn seeds_keep_every_law_and_make_progress() {
    if let Some(seed) = number("RAFT_SIM_SEED") {
        let result = run(seed, Trace::Print, None);
        let failure = result.err().map(|failure| failure.violation);
        assert_eq!(failure, None, "seed {seed}: {}", command(seed));
        return;
    }
    let first = number("RAFT_SIM_FIRST").unwrap_or(1);
    let count = number("RAFT_SIM_SEEDS").unwrap_or(SEEDS);
    let (stats, failures) = run_many(first, count);
    println!("{count} seeds: {stats}");
    for failure in &failures {
        println!(
            "seed {} {}\n  replay: {}",
            failure.seed,
            failure.violation,
            command(failure.seed)
        );
    }
    assert!(failures.is_empty(), "{} seeds failed, see above", failures.len());
}

#[test]
fn same_seed_same_trace() {
    for seed in [1, 2, 3, 17] {
        let trace = || match run(seed, Trace::Hash(0xcbf2_9ce4_8422_2325), None) {
            Ok((_, Trace::Hash(hash))) => hash,
            other => panic!("{other:?}"),
        };
        assert_eq!(trace(), trace(), "seed {seed}");
    }
}

#[test]
fn planted_bugs_are_found() {
    for bug in Bug::ALL {
        let failure = hunt(bug, 300);
        println!("{bug:?}: {failure:?}");
        assert!(failure.is_some(), "{bug:?} is not found");
    }
}
