//! The promises of [`Fsm`] and [`FsmSnapshot`], which a user's state machine makes to the library.

use std::{fmt::Debug, io::Cursor};

use bytes::Bytes;
use tokio::io::AsyncReadExt;

use super::kept;
use crate::{
    fsm::{Fsm, FsmSnapshot},
    log::{Entry, EntryPayload},
    position::{LogIndex, Term},
};

/// Checks every promise that an [`Fsm`] with snapshots makes, with these commands. `fresh` makes
/// one in its first state; `state` gives whatever tells two states apart. Commands should be many
/// enough to matter (some dozens) and should change the state.
///
/// - It is deterministic: the same commands give the same responses and the same state.
/// - A batch gives what its parts give one by one, one response per command, however commands are
///   cut into batches; an empty batch gives none.
/// - A snapshot restores to the state it was taken in: of the first state, of any later one, and
///   after a restore. The restored machine answers later commands as the original does.
/// - Restoring replaces the whole state, whatever was there.
/// - A snapshot is a frozen view: commands that are applied before or while it is written do not
///   show in it; and writing it does not change the machine.
///
/// Runs on tokio, of any flavour.
///
/// # Panics
/// On the first broken promise, naming it.
pub async fn fsm_suite<F, T>(
    fresh: impl Fn() -> F,
    commands: impl IntoIterator<Item = Bytes>,
    state: impl Fn(&F) -> T,
) where
    F: Fsm<Response: PartialEq + Debug>,
    T: PartialEq + Debug,
{
    let entries: Vec<Entry> = commands.into_iter().zip(1..).map(entry).collect();
    assert!(1 < entries.len(), "the suite needs at least two commands");

    deterministic(&fresh, &entries, &state);
    for size in [1, 2, 3, 7, entries.len()] {
        batches(&fresh, &entries, &state, size);
    }
    for taken in [0, 1, entries.len() / 2, entries.len()] {
        let (before, after) = entries.split_at(taken);
        restored(&fresh, before, after, &state).await;
        replaced(&fresh, before, &entries, &state).await;
        frozen(&fresh, before, after, &state).await;
        frozen_while_written(&fresh, before, after, &state).await;
    }
}

/// Indices have holes where the log holds other entries.
fn entry((data, number): (Bytes, u64)) -> Entry {
    let payload = EntryPayload::Command(data);
    Entry { term: Term(1 + number / 10), index: LogIndex(2 * number + number / 5), payload }
}

fn apply_all<F: Fsm>(fsm: &mut F, entries: &[Entry]) -> Vec<F::Response> {
    entries.iter().map(|entry| fsm.apply(entry)).collect()
}

fn deterministic<F, T>(fresh: impl Fn() -> F, entries: &[Entry], state: impl Fn(&F) -> T)
where
    F: Fsm<Response: PartialEq + Debug>,
    T: PartialEq + Debug,
{
    let (mut one, mut other) = (fresh(), fresh());
    assert_eq!(state(&one), state(&other), "broken promise: every machine begins in one state");
    assert_eq!(
        apply_all(&mut one, entries),
        apply_all(&mut other, entries),
        "broken promise: the same commands give the same responses"
    );
    assert_eq!(state(&one), state(&other), "broken promise: the same commands give the same state");
}

fn batches<F, T>(fresh: impl Fn() -> F, entries: &[Entry], state: impl Fn(&F) -> T, size: usize)
where
    F: Fsm<Response: PartialEq + Debug>,
    T: PartialEq + Debug,
{
    let (mut single, mut batched) = (fresh(), fresh());
    let mut none = Vec::new();
    batched.apply_batch(&[], &mut none);
    assert!(none.is_empty(), "broken promise: an empty batch gives no response");
    for chunk in entries.chunks(size) {
        let expected = apply_all(&mut single, chunk);
        let mut responses = Vec::new();
        batched.apply_batch(&chunk.iter().collect::<Vec<_>>(), &mut responses);
        assert_eq!(
            responses, expected,
            "broken promise: a batch of {size} gives one response per command, as one by one"
        );
        assert_eq!(
            state(&batched),
            state(&single),
            "broken promise: a batch of {size} leaves the state that one by one leaves"
        );
    }
}

fn snapshot<F: Fsm>(fsm: &mut F) -> Box<dyn FsmSnapshot> {
    kept(fsm.snapshot(), "a snapshot can be taken")
}

async fn persist(snapshot: Box<dyn FsmSnapshot>) -> Vec<u8> {
    let mut bytes = Vec::new();
    kept(snapshot.persist(&mut bytes).await, "a snapshot can be written");
    bytes
}

async fn restore<F: Fsm>(fsm: &mut F, bytes: Vec<u8>) {
    kept(fsm.restore(Box::new(Cursor::new(bytes))).await, "a snapshot can be restored");
}

async fn restored<F, T>(
    fresh: impl Fn() -> F,
    before: &[Entry],
    after: &[Entry],
    state: impl Fn(&F) -> T,
) where
    F: Fsm<Response: PartialEq + Debug>,
    T: PartialEq + Debug,
{
    let mut original = fresh();
    apply_all(&mut original, before);
    let untouched = state(&original);
    let bytes = persist(snapshot(&mut original)).await;
    assert_eq!(
        state(&original),
        untouched,
        "broken promise: taking and writing a snapshot does not change the machine"
    );

    let mut copy = fresh();
    restore(&mut copy, bytes).await;
    assert_eq!(
        state(&copy),
        untouched,
        "broken promise: a snapshot restores to the state it was taken in"
    );
    let again = persist(snapshot(&mut copy)).await;
    assert_eq!(
        apply_all(&mut copy, after),
        apply_all(&mut original, after),
        "broken promise: a restored machine answers as the original does"
    );
    assert_eq!(
        state(&copy),
        state(&original),
        "broken promise: a restored machine goes on as the original does"
    );
    let mut second = fresh();
    restore(&mut second, again).await;
    assert_eq!(
        state(&second),
        untouched,
        "broken promise: a snapshot of a restored machine is as good as the first"
    );
}

async fn replaced<F, T>(
    fresh: impl Fn() -> F,
    before: &[Entry],
    entries: &[Entry],
    state: impl Fn(&F) -> T,
) where
    F: Fsm<Response: PartialEq + Debug>,
    T: PartialEq + Debug,
{
    let mut original = fresh();
    apply_all(&mut original, before);
    let bytes = persist(snapshot(&mut original)).await;
    let mut other = fresh();
    apply_all(&mut other, entries);
    restore(&mut other, bytes).await;
    assert_eq!(
        state(&other),
        state(&original),
        "broken promise: restoring replaces the whole state; nothing earlier is left"
    );
}

async fn frozen<F, T>(
    fresh: impl Fn() -> F,
    before: &[Entry],
    after: &[Entry],
    state: impl Fn(&F) -> T,
) where
    F: Fsm<Response: PartialEq + Debug>,
    T: PartialEq + Debug,
{
    let mut fsm = fresh();
    apply_all(&mut fsm, before);
    let expected = state(&fsm);
    let view = snapshot(&mut fsm);
    apply_all(&mut fsm, after);
    let mut copy = fresh();
    restore(&mut copy, persist(view).await).await;
    assert_eq!(
        state(&copy),
        expected,
        "broken promise: commands after a snapshot was taken do not show in it"
    );
}

async fn frozen_while_written<F, T>(
    fresh: impl Fn() -> F,
    before: &[Entry],
    after: &[Entry],
    state: impl Fn(&F) -> T,
) where
    F: Fsm<Response: PartialEq + Debug>,
    T: PartialEq + Debug,
{
    let mut fsm = fresh();
    apply_all(&mut fsm, before);
    let expected = state(&fsm);
    let view = snapshot(&mut fsm);
    // A pipe so narrow that the writer stands still between commands.
    let (mut sink, mut source) = tokio::io::duplex(16);
    let writing = tokio::spawn(async move { view.persist(&mut sink).await });
    let mut bytes = Vec::new();
    for entry in after {
        fsm.apply(entry);
        let mut piece = [0; 16];
        let read = kept(source.read(&mut piece).await, "a snapshot can be written piece by piece");
        bytes.extend_from_slice(&piece[..read]);
    }
    kept(source.read_to_end(&mut bytes).await, "a snapshot can be written to its end");
    let written = kept(writing.await, "a snapshot can be written by another task");
    kept(written, "a snapshot can be written while commands are applied");
    let mut copy = fresh();
    restore(&mut copy, bytes).await;
    assert_eq!(
        state(&copy),
        expected,
        "broken promise: commands applied while a snapshot is written do not show in it"
    );
}
