//! The promises of [`StableStore`].

use super::kept;
use crate::{
    configuration::{Configuration, ServerId},
    position::Term,
    stable::{DiskIdentity, HardState, StableStore},
};

/// Checks every promise of a [`StableStore`]. `fresh` makes a store that was never written; it is
/// called once per check.
///
/// - A fresh store has no record, which differs from a record of term zero without a vote.
/// - What was saved last is read, however often, with every part unchanged: no vote, a vote, an id
///   of any text, the largest term.
/// - A save replaces the whole record: an old vote never shows beside a new term.
/// - A fresh store has no identity of its disk. What was saved last is read from then on, with every part
///   unchanged, and no save of a hard state disturbs it, nor it a hard state; or the store keeps none,
///   which is allowed.
///
/// # Panics
/// On the first broken promise, naming it.
pub async fn stable_store_suite<S: StableStore, Fut: Future<Output = S>>(
    mut fresh: impl FnMut() -> Fut,
) {
    fresh_store(fresh().await).await;
    for hard_state in hard_states() {
        let mut store = fresh().await;
        saved(&mut store, &hard_state).await;
        saved(&mut store, &hard_state).await;
    }
    replaced(fresh().await).await;
    many_terms(fresh().await).await;
    identity(fresh().await).await;
}

fn hard_state(term: u64, voted_for: Option<&str>) -> HardState {
    HardState { current_term: Term(term), voted_for: voted_for.map(ServerId::from) }
}

fn hard_states() -> Vec<HardState> {
    let long = "n".repeat(10_000);
    vec![
        HardState::default(),
        hard_state(0, Some("a")),
        hard_state(1, None),
        hard_state(1, Some("a")),
        hard_state(255, Some("node-255")),
        hard_state(256, None),
        hard_state(u64::MAX, Some("b")),
        hard_state(u64::MAX, None),
        hard_state(7, Some("")),
        hard_state(7, Some("Žofie Přibyslavská 🦀 \u{0}\n\"'/\\")),
        hard_state(7, Some(&long)),
    ]
}

async fn saved<S: StableStore>(store: &mut S, hard_state: &HardState) {
    kept(store.save_hard_state(hard_state).await, "term and vote can be saved");
    for _ in 0..2 {
        let read = kept(store.hard_state().await, "what was saved can be read");
        assert_eq!(
            read.as_ref(),
            Some(hard_state),
            "broken promise: what was saved last is read, unchanged"
        );
    }
}

async fn fresh_store<S: StableStore>(mut store: S) {
    for _ in 0..2 {
        let read = kept(store.hard_state().await, "a fresh store can be read");
        assert_eq!(read, None, "broken promise: a fresh store has no record");
    }
    saved(&mut store, &HardState::default()).await;
}

async fn replaced<S: StableStore>(mut store: S) {
    for one in hard_states() {
        for other in hard_states() {
            saved(&mut store, &one).await;
            saved(&mut store, &other).await;
        }
    }
}

async fn many_terms<S: StableStore>(mut store: S) {
    for term in 1..=100 {
        saved(&mut store, &hard_state(term, None)).await;
        saved(&mut store, &hard_state(term, Some(&format!("server-{term}")))).await;
    }
}

async fn identity<S: StableStore>(mut store: S) {
    let read = kept(store.disk_identity().await, "a fresh store can be read");
    assert_eq!(read, None, "broken promise: a fresh store has no identity of its disk");
    saved(&mut store, &hard_state(3, Some("a"))).await;
    let longest = "\u{e9}".repeat(Configuration::MAX_ID_BYTES / 2);
    let first = DiskIdentity {
        server: longest.into(),
        incarnation: u64::MAX - 1,
        starts: u32::MAX - 1,
        was_rolled_back: true,
    };
    kept(store.save_disk_identity(&first).await, "an identity can be saved");
    let known = kept(store.disk_identity().await, "an identity can be read");
    assert!(
        known.as_ref().is_none_or(|known| *known == first),
        "broken promise: an identity is read as it was saved, or none is kept"
    );
    let read = kept(store.hard_state().await, "what was saved can be read");
    assert_eq!(
        read,
        Some(hard_state(3, Some("a"))),
        "broken promise: an identity disturbs no term and no vote"
    );
    saved(&mut store, &hard_state(4, None)).await;
    let read = kept(store.disk_identity().await, "an identity can be read");
    assert_eq!(read, known, "broken promise: a term and a vote disturb no identity");
    let other =
        DiskIdentity { server: "b".into(), incarnation: 7, starts: 1, was_rolled_back: false };
    kept(store.save_disk_identity(&other).await, "another identity can be saved");
    let read = kept(store.disk_identity().await, "an identity can be read");
    assert_eq!(read, known.map(|_| other), "broken promise: the identity saved last is read");
}
