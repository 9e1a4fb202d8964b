use std::{fs, path::Path};

use super::{
    bug::Bug,
    runner::{Failure, hunt, run, run_many},
    stats::Stats,
    trace::Trace,
};

const SEEDS: u64 = 2000;

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
        let bug = std::env::var("RAFT_SIM_BUG").ok();
        let bug = bug.map(|name| Bug::named(&name).expect("RAFT_SIM_BUG names a planted bug"));
        let result = run(seed, Trace::Print, bug);
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
    if SEEDS <= count {
        assert_enough(&stats, count);
    }
}

/// Seeds that do nothing prove nothing: what they contain is counted, and the least of it asserted.
fn assert_enough(stats: &Stats, seeds: u64) {
    for (what, sum, least_in_a_thousand) in [
        ("elections", stats.elections, 4_000),
        ("commits", stats.commits, 100_000),
        ("acknowledged", stats.acknowledged, 80_000),
        ("lost", stats.lost, 20_000),
        ("truncations", stats.truncations, 800),
        ("restarts", stats.restarts, 4_000),
        ("torn", stats.torn, 500),
        ("configurations", stats.configurations, 1_500),
        ("abdications", stats.abdications, 50),
        ("transfers", stats.transfers, 800),
        ("handovers", stats.handovers, 350),
        ("words of false leaders", stats.false_handovers, 4_000),
        ("servers that learn of their removal", stats.removals, 400),
        ("verified", stats.verified, 8_000),
        ("unverified", stats.unverified, 1_000),
        ("lost messages", stats.lost_messages, 100_000),
        ("duplicates", stats.duplicates, 30_000),
        ("partitions", stats.partitions, 3_000),
        ("stalls", stats.stalls, 1_000),
        ("pauses", stats.pauses, 700),
        ("strikes", stats.strikes, 2_500),
        ("void orders", stats.void_orders, 15),
        ("snapshots", stats.snapshots, 15_000),
        ("late snapshots", stats.late_snapshots, 20),
        ("compactions", stats.compactions, 10_000),
        ("held compactions", stats.held, 50),
        ("compacted orders", stats.compacted_orders, 5),
        ("shipments", stats.shipments, 1_500),
        ("resumed shipments", stats.resumed, 1_000),
        ("arrived snapshots", stats.arrived, 1_200),
        ("refused snapshots", stats.refused, 100),
        ("installs", stats.installs, 1_000),
        ("installs over a conflict", stats.conflicts, 10),
        ("snapshots without news", stats.matching, 80),
        ("restores", stats.restores, 1_000),
        ("crashes before a reset", stats.cut_before_reset, 10),
        ("crashes before a restore", stats.cut_before_restore, 7),
        ("lost compactions", stats.lost_compactions, 50),
        ("installs ended at a start", stats.ended_at_start, 5),
        ("replays of noted commits", stats.replays, 900),
        ("user restores", stats.user_restores, 500),
        ("finished user restores", stats.user_restores_finished, 400),
        ("committed user restores", stats.user_restores_committed, 400),
        ("cancelled user restores", stats.cancelled, 50),
        ("withdrawn user restores", stats.withdrawn, 7),
        ("replaced proposals", stats.replaced, 3_000),
        ("crashes before a user restore is adopted", stats.cut_before_adoption, 8),
        ("crashes before the reset of a user restore", stats.cut_before_own_reset, 4),
        ("crashes before the majority of a user restore", stats.cut_before_majority, 60),
        ("user restores adopted at a start", stats.restored_at_start, 8),
        ("diverged servers", stats.diverged, 20),
        ("reloads", stats.reloads, 10_000),
        ("reloads to narrower windows", stats.narrowed, 200),
        ("recorded disks", stats.recorded, 500),
        ("wiped disks", stats.wiped, 40),
        ("disks exchanged for an earlier state", stats.rolled_back, 1),
        ("drills", stats.drills, 500),
        ("older copies of disks", stats.older_copies, 300),
        ("older copies that are found out", stats.found_out, 200),
        ("older copies that have kept their promises", stats.harmless_copies, 15),
        ("messages of an earlier life", stats.over, 100),
        ("messages of another cluster", stats.foreign, 1_000),
        ("servers taken back", stats.rejoined, 60),
        ("messages from a wrong disk", stats.wrong_senders, 60),
        ("messages for a wrong disk", stats.wrong_receivers, 1_000),
        ("messages to an empty disk", stats.empty_voters, 1_000),
        ("state machines that hang", stats.hangs, 4_000),
        ("handovers of stuck leaders", stats.handed_over, 100),
        ("servers that let others go first", stats.let_others, 800),
        ("leaders that hang for good, replaced", stats.replaced_leaders, 30),
    ] {
        let least = least_in_a_thousand * (seeds / 1_000);
        assert!(
            least <= sum,
            "too little happens: {sum} {what}, expected {least} in {seeds} seeds"
        );
    }
    // They end without a proof of anything.
    assert!(stats.unheard <= 2 + seeds / 200, "{} clusters are stuck, of {seeds}", stats.unheard);
    assert!(stats.stranded <= seeds / 300, "{} clusters are lost, of {seeds}", stats.stranded);
}

/// One or two entries in a message, 32 messages in a window, and a network that reorders nearly all of
/// them: each refusal had the window sent anew, and the seed came to more than a million events.
#[test]
fn a_network_that_reorders_calms_down() {
    match run(313, Trace::Off, None) {
        Ok((stats, _)) => {
            assert!(stats.events < 50_000, "seed 313 comes to {} events", stats.events);
        }
        Err(Failure { seed, violation }) => panic!("seed {seed} {violation}"),
    }
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

/// What a disk, a messenger and a state machine must do is what the laws need: each bug around the
/// core is found.
#[test]
fn planted_bugs_are_found() {
    for (bug, seeds) in Bug::ALL {
        let failure = hunt(bug, seeds);
        println!("{bug:?}: {failure:?}");
        assert!(failure.is_some(), "{bug:?} is not found in {seeds} seeds");
    }
}

/// The bugs inside the core are kept as patches; `known_bugs/check.sh` applies each to a copy and
/// demands that it is found. Here only: that each still fits the sources.
#[test]
fn known_bugs_still_apply() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for file in fs::read_dir(root.join("src/consensus/sim/known_bugs")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "patch") {
            continue;
        }
        count += 1;
        let patch = fs::read_to_string(&path).unwrap();
        for file in patch.split("--- a/raft/").skip(1) {
            let target = file.lines().next().unwrap();
            let source = fs::read_to_string(root.join(target)).unwrap();
            for hunk in file.split("\n@@ ").skip(1) {
                let old = |line: &str| line.strip_prefix([' ', '-']).map(str::to_owned);
                let before: Vec<String> = hunk.lines().skip(1).filter_map(old).collect();
                let before = before.join("\n");
                assert!(source.contains(&before), "{path:?} does not fit {target}:\n{before}");
            }
        }
    }
    assert!(80 <= count, "only {count} known bugs");
}
