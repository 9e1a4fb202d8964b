//! What a [`LogStore`] promises across a restart.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::{
    entries,
    log_store_suite::{Log, all},
};
use crate::{
    log::{Entry, LogStore},
    position::LogIndex,
};

/// Checks what a [`LogStore`] that is closed and opened again still has. `open` opens one and the
/// same store every time: the first time it is empty, later it holds what was left there. The store
/// opened before, and its readers, are dropped before the next one is opened.
///
/// - Every append and every removal shows after opening, whole and in every edge: the bounds move
///   up when the front is removed, what lies before them is [`StoreError::NotFound`](crate::StoreError::NotFound), and what
///   follows is unchanged.
/// - A log that was removed whole stays so, and goes on wherever the next append begins; behind the
///   new beginning a gap is refused as ever.
/// - The commit index that was noted with an append is there, unless the store keeps no notes; one
///   that no append came after is not. It is never beyond what was appended, and never goes back.
/// - A long random sequence of all this, opened again after every write, leaves what a plain list
///   would hold.
///
/// A clean end is all this sees: killing the process, cutting the power and damaging the bytes is up
/// to the implementer's own tests.
///
/// # Panics
/// On the first broken promise, naming it.
pub async fn log_store_reopen_suite<S: LogStore, Fut: Future<Output = S>>(
    mut open: impl FnMut() -> Fut,
) {
    Log::new(open().await).assert_holds(&[], "when it was opened for the first time").await;
    compacted(&mut open).await;
    reset(&mut open).await;
    noted(&mut open).await;
    random_walk(&mut open).await;
}

/// Removes the whole log and leaves it closed, so that the next check begins with an empty store.
async fn clear<S: LogStore>(mut log: Log<S>) {
    log.truncate_prefix(u64::MAX).await;
    log.assert_holds(&[], "after all of it was removed").await;
}

async fn compacted<S: LogStore, Fut: Future<Output = S>>(open: &mut impl FnMut() -> Fut) {
    let mut log = Log::new(open().await);
    let mut expected = all(&[entries(1, 1, 40), entries(2, 41, 60)]);
    log.append(&[entries(1, 1, 40), entries(2, 41, 60)]).await;
    // Inside a batch, to its end, one more, and all but one.
    for through in [7, 7, 40, 41, 59] {
        drop(log);
        log = Log::new(open().await);
        log.truncate_prefix(through).await;
        expected.retain(|entry| LogIndex(through) < entry.index);
        drop(log);
        log = Log::new(open().await);
        let when = format!("when it was opened after everything through {through} was removed");
        log.assert_holds(&expected, &when).await;
    }
    log.append(&[entries(3, 61, 63)]).await;
    log.truncate_suffix(62).await;
    expected.extend_from_slice(&entries(3, 61, 61));
    drop(log);
    let log = Log::new(open().await);
    log.assert_holds(&expected, "when it was opened after its end was removed").await;
    clear(log).await;
}

async fn reset<S: LogStore, Fut: Future<Output = S>>(open: &mut impl FnMut() -> Fut) {
    for first in [1000, 2000, 2010] {
        let mut log = Log::new(open().await);
        log.assert_holds(&[], "when it was opened after all of it was removed").await;
        log.append(&[entries(first, first, first + 4)]).await;
        drop(log);
        let mut log = Log::new(open().await);
        let gap = log.store.append(&[entries(first, first + 6, first + 6)]).await;
        assert!(gap.is_err(), "broken promise: a gap is refused after a new beginning");
        log.assert_holds(&entries(first, first, first + 4), "when it began anew").await;
        clear(log).await;
    }
}

async fn noted<S: LogStore, Fut: Future<Output = S>>(open: &mut impl FnMut() -> Fut) {
    let mut log = Log::new(open().await);
    log.append(&[entries(1, 3000, 3005)]).await;
    log.store.note_commit(LogIndex(3003));
    drop(log);
    let mut log = Log::new(open().await);
    let before = log.noted_commit().await;
    assert_ne!(
        before,
        Some(LogIndex(3003)),
        "broken promise: a note that no append came after is not kept"
    );
    log.store.note_commit(LogIndex(3004));
    log.append(&[entries(1, 3006, 3006)]).await;
    let keeps_notes = log.noted_commit().await.is_some();
    let expected = keeps_notes.then_some(LogIndex(3004));
    for removal in 0..3 {
        drop(log);
        log = Log::new(open().await);
        assert_eq!(
            log.noted_commit().await,
            expected,
            "broken promise: the commit index noted with an append stays"
        );
        match removal {
            0 => log.truncate_prefix(3002).await,
            1 => log.truncate_suffix(3006).await,
            _ => {}
        }
    }
    clear(log).await;
}

/// Random writes on the store and on a plain list, compared after each in a store opened anew.
async fn random_walk<S: LogStore, Fut: Future<Output = S>>(open: &mut impl FnMut() -> Fut) {
    let mut rng = Pcg64::seed_from_u64(3);
    let mut model: Vec<Entry> = Vec::new();
    let (mut next, mut noted) = (10_000, LogIndex(9_999));
    for step in 0..100_u64 {
        let mut log = Log::new(open().await);
        match rng.random_range(0..8) {
            0 => {
                // What is committed is never removed from the end.
                let from = rng.random_range(noted.0 + 1..=next.max(noted.0 + 1));
                log.truncate_suffix(from).await;
                model.retain(|entry| entry.index.0 < from);
                next = next.min(from);
            }
            1 | 2 => {
                let through = next - rng.random_range(1..20);
                log.truncate_prefix(through).await;
                model.retain(|entry| through < entry.index.0);
            }
            3 => {
                log.truncate_prefix(u64::MAX).await;
                model.clear();
                next += rng.random_range(1..100);
            }
            _ => {
                let last = next + rng.random_range(0..20);
                let note = LogIndex(rng.random_range(noted.0..=last));
                log.store.note_commit(note);
                log.append(&[entries(1 + step, next, last)]).await;
                model.extend_from_slice(&entries(1 + step, next, last));
                (next, noted) = (last + 1, note);
            }
        }
        drop(log);
        let log = Log::new(open().await);
        log.assert_holds(&model, &format!("when it was opened after {step} random writes")).await;
        if let Some(found) = log.noted_commit().await.filter(|found| LogIndex(9_999) < *found) {
            assert_eq!(found, noted, "broken promise: the newest noted commit index is there");
        }
    }
}
