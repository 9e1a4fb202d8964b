//! Random writes on a disk that forgets, power cuts and kills at every call, and a model that knows what was acknowledged.

use std::collections::BTreeSet;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::{
    forgetful::{Flaw, Forgetful},
    model::{Model, SEGMENT_BYTES, start},
};
use crate::{file_log::writer::Change, store_error::StoreError};

/// What a run has met.
#[derive(Default)]
struct Met {
    cuts: u64,
    kills: u64,
    kept: u64,
    rotations: u64,
    recycled: u64,
    oversized: u64,
}

/// One run: writes, and power cuts that fall on any call, of the start too. Returns what is wrong.
fn run(seed: u64, flaw: Option<Flaw>, drops_too_early: bool, met: &mut Met) -> Result<(), String> {
    let mut rng = Pcg64::seed_from_u64(seed);
    let mut disk = Forgetful::with_flaw(flaw);
    let mut model = Model::default();
    // The write that was under way when the power failed.
    let mut under_way: Option<Change> = None;
    for life in 0..rng.random_range(2..6) {
        let off_at = disk.calls() + [3, 10, 40, 200][rng.random_range(0..4)];
        disk.fail_from(Some(off_at + rng.random_range(0..20)));
        if let Ok(mut writer) = start(&disk) {
            writer.drops_too_early = drops_too_early;
            let found = Model::of(&writer).map_err(|error| format!("life {life}: {error}"))?;
            if found != model {
                let next = under_way.take().map(|change| model.after(&change));
                if next.as_ref() != Some(&found) {
                    return Err(format!(
                        "life {life}: found {found:?}, acknowledged {model:?}, or {next:?}"
                    ));
                }
                met.kept += 1;
                model = found;
            }
            loop {
                let change = model.change(&mut rng);
                let before = writer.tail.segment.id;
                if let Err(error) = writer.write(change.clone()) {
                    if matches!(error, StoreError::Refused { .. }) {
                        return Err(format!("life {life}: {error}"));
                    }
                    under_way = Some(change);
                    break;
                }
                model = model.after(&change);
                met.rotations += u64::from(writer.tail.segment.id != before);
                met.recycled += u64::from(writer.spare.is_some());
                let is_new = writer.tail.segment.id != before;
                met.oversized += u64::from(is_new && SEGMENT_BYTES < writer.tail.segment.size);
                let now = Model::of(&writer).map_err(|error| format!("life {life}: {error}"))?;
                if now != model {
                    return Err(format!("life {life}: now {now:?}, acknowledged {model:?}"));
                }
            }
        }
        if disk.growing_writes() != 0 {
            return Err("a segment grows while it is in use".to_owned());
        }
        // A process that was killed leaves what the kernel has, durable or not.
        if rng.random_range(0..3) == 0 {
            met.kills += 1;
        } else {
            met.cuts += 1;
            disk = disk.cut(rng.random());
        }
    }
    disk.fail_from(None);
    drop(start(&disk));
    disk = disk.cut(rng.random());
    let writer = start(&disk).map_err(|error| format!("at last: {error}"))?;
    let found = Model::of(&writer).map_err(|error| format!("at last: {error}"))?;
    let next = under_way.map(|change| model.after(&change));
    if found == model || next == Some(found.clone()) {
        return Ok(());
    }
    Err(format!("at last: found {found:?}, acknowledged {model:?}"))
}

fn seeds() -> u64 {
    std::env::var("RAFT_FILE_LOG_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000)
}

#[test]
fn nothing_acknowledged_is_lost_in_any_power_cut() {
    let mut met = Met::default();
    let one = std::env::var("RAFT_FILE_LOG_SEED").ok().and_then(|text| text.parse().ok());
    for seed in one.map_or(0..seeds(), |seed| seed..seed + 1) {
        if let Err(wrong) = run(seed, None, false, &mut met) {
            panic!("RAFT_FILE_LOG_SEED={seed}: {wrong}");
        }
    }
    let Met { cuts, kills, kept, rotations, recycled, oversized } = met;
    println!(
        "{cuts} cuts, {kills} kills, {kept} writes kept, {rotations} rotations, {recycled} with a spare, {oversized} oversized"
    );
    let enough = |count: u64| one.is_some() || seeds() <= 20 * count;
    assert!(
        [cuts, kills, kept, rotations, recycled, oversized].into_iter().all(enough),
        "too little happened"
    );
}

/// Leaving out any sync that matters is found, and dropping segments before it is durable where the log begins.
#[test]
fn a_sync_that_is_left_out_is_found() {
    let planted = [Flaw::Batches, Flaw::Zeros, Flaw::Names].map(|flaw| (Some(flaw), false));
    for (flaw, early) in planted.into_iter().chain([(None, true)]) {
        let found = (0..3000).find(|seed| run(*seed, flaw, early, &mut Met::default()).is_err());
        assert!(found.is_some(), "{flaw:?} was not found, or segments dropped too early: {early}");
    }
}

/// The same writes with the power off at each call of the disk in turn.
#[test]
fn every_call_at_which_a_cut_can_fall_is_visited() {
    let mut visited = BTreeSet::new();
    for seed in 0..40 {
        let mut call = 1;
        loop {
            let mut rng = Pcg64::seed_from_u64(seed);
            let disk = Forgetful::default();
            disk.fail_from(Some(call));
            let (mut model, mut under_way, mut is_done) = (Model::default(), None, false);
            if let Ok(mut writer) = start(&disk) {
                is_done = true;
                for _ in 0..25 {
                    let change = model.change(&mut rng);
                    if writer.write(change.clone()).is_err() {
                        (under_way, is_done) = (Some(change), false);
                        break;
                    }
                    model = model.after(&change);
                }
            }
            if is_done {
                break;
            }
            visited.insert((seed, call));
            for cut in 0..8 {
                let writer = start(&disk.cut(cut)).unwrap_or_else(|error| {
                    panic!("seed {seed}, off at call {call}, cut {cut}: {error}")
                });
                let found = Model::of(&writer).unwrap();
                let next = under_way.as_ref().map(|change| model.after(change));
                assert!(
                    found == model || Some(&found) == next.as_ref(),
                    "seed {seed}, off at call {call}, cut {cut}: {found:?}, not {model:?}"
                );
            }
            call += 1;
        }
    }
    assert!(1000 < visited.len(), "only {} calls", visited.len());
}
