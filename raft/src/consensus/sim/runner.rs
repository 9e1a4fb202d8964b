//! Runs seeds, several at a time.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::{bug::Bug, stats::Stats, trace::Trace, world::World};

/// A seed that broke a law.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) seed: u64,
    pub(super) violation: String,
}

/// Runs one seed; a panic of the core is a violation like any other.
pub(super) fn run(seed: u64, trace: Trace, bug: Option<Bug>) -> Result<(Stats, Trace), Failure> {
    let mut world = World::new(seed, trace, bug);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = match result {
        Ok(Ok(())) => return Ok((world.stats, world.trace)),
        Ok(Err(violation)) => violation,
        Err(panic) => match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
            (Some(text), _) => format!("panic: {text}"),
            (_, Some(text)) => format!("panic: {text}"),
            _ => "panic".to_owned(),
        },
    };
    let violation = format!("at {}.{:03} ms: {violation}", world.now / 1000, world.now % 1000);
    Err(Failure { seed, violation })
}

/// Runs `count` seeds from `first` on, on every processor; stops soon after a few failures.
pub(super) fn run_many(first: u64, count: u64) -> (Stats, Vec<Failure>) {
    let next = AtomicU64::new(first);
    let is_over = AtomicBool::new(false);
    let result = Mutex::new((Stats::default(), Vec::new()));
    let work = || {
        let mut sum = Stats::default();
        while !is_over.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if first + count <= seed {
                break;
            }
            match run(seed, Trace::Off, None) {
                Ok((stats, _)) => sum.add(&stats),
                Err(failure) => {
                    let mut result = result.lock().unwrap();
                    result.1.push(failure);
                    is_over.store(5 <= result.1.len(), Ordering::Relaxed);
                }
            }
        }
        result.lock().unwrap().0.add(&sum);
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let (stats, mut failures) = result.into_inner().unwrap();
    failures.sort_by_key(|failure| failure.seed);
    (stats, failures)
}

/// The first seed, of `count`, that finds the bug.
pub(super) fn hunt(bug: Bug, count: u64) -> Option<Failure> {
    (1..=count).find_map(|seed| run(seed, Trace::Off, Some(bug)).err())
}
