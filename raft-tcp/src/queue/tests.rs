use raft::{
    Entry, EntryPayload, IndexedConfiguration, LogId, LogIndex, Term,
    rpc::{AppendEntriesRequest, InstallSnapshotRequest, TimeoutNowRequest},
};
use tokio::{join, task::yield_now};

use super::*;

fn small() -> Message {
    Message::TimeoutNow(TimeoutNowRequest { term: Term(1) })
}

/// Entries that cost `32 + bytes`.
fn large(bytes: usize) -> Message {
    let payload = EntryPayload::Command(vec![0; bytes].into());
    let entries = vec![Entry { term: Term(1), index: LogIndex(1), payload }].into();
    let (term, round, prev, commit_index) = (Term(1), 0, LogId::ZERO, LogIndex(0));
    Message::AppendEntries(AppendEntriesRequest { term, round, prev, entries, commit_index })
}

fn piece(bytes: usize) -> Message {
    Message::InstallSnapshot(InstallSnapshotRequest {
        term: Term(1),
        transfer: 0,
        last: LogId::ZERO,
        configuration: IndexedConfiguration::default(),
        size_bytes: 0,
        offset: 0,
        checksum: 0,
        data: vec![0; bytes].into(),
    })
}

fn shut(reason: &str) -> Result<(), Rejected> {
    Err(Rejected::Shut(reason.into()))
}

#[tokio::test]
async fn bounded_in_messages() {
    let queue = Queue::new(2, 1000);
    assert_eq!(queue.try_push(small(), 0), Ok(()));
    assert_eq!(queue.try_push(small(), 0), Ok(()));
    assert_eq!(queue.try_push(small(), 0), Err(Rejected::Full));
    let mut receiver = queue.connected().unwrap();
    receiver.recv().await.unwrap();
    assert_eq!(queue.try_push(small(), 0), Ok(()));
}

#[tokio::test]
async fn bounded_in_bytes_but_one_message_always_fits() {
    let queue = Queue::new(10, 1000);
    assert_eq!(queue.try_push(large(5000), 0), Ok(()));
    assert_eq!(queue.try_push(large(0), 0), Err(Rejected::Full));
    assert_eq!(queue.try_push(small(), 0), Ok(()), "only entries are counted");
    let mut receiver = queue.connected().unwrap();
    let first = receiver.recv().await.unwrap();
    assert_eq!(queue.try_push(large(0), 0), Err(Rejected::Full), "until it is written");
    drop(first);
    assert_eq!(queue.try_push(large(400), 0), Ok(()));
    assert_eq!(queue.try_push(large(400), 0), Ok(()));
    assert_eq!(queue.try_push(large(400), 0), Err(Rejected::Full));
}

#[tokio::test]
async fn pieces_of_a_snapshot_take_room_as_entries_do() {
    let queue = Queue::new(10, 1000);
    assert_eq!(queue.try_push(piece(600), 0), Ok(()));
    assert_eq!(queue.try_push(piece(600), 0), Err(Rejected::Full));
    assert_eq!(queue.try_push(large(400), 0), Err(Rejected::Full));
    assert_eq!(queue.try_push(piece(400), 0), Ok(()));
}

#[tokio::test]
async fn shutting_drops_what_waits_and_wakes_whoever_waits_for_room() {
    for fill in [large(1000), small()] {
        let queue = Queue::new(1, 1000);
        queue.try_push(fill, 0).unwrap();
        let (pushed, ()) = join!(queue.push(large(10), 0), async {
            yield_now().await;
            queue.shut("gone");
        });
        assert_eq!(pushed, shut("gone"));
        assert_eq!(queue.try_push(small(), 0), shut("gone"));
        assert_eq!(queue.push(small(), 0).await, shut("gone"));
        let mut receiver = queue.connected().unwrap();
        assert!(receiver.try_recv().is_err(), "nothing old is delivered");
        assert_eq!(queue.try_push(small(), 0), Ok(()));
    }
}

#[tokio::test]
async fn a_sign_of_life_opens_a_shut_queue_and_wakes_once() {
    let queue = Queue::new(1, 1000);
    queue.sign_of_life();
    let woken = tokio::time::timeout(std::time::Duration::ZERO, queue.life()).await;
    assert!(woken.is_err(), "an open queue needs none");
    queue.shut("gone");
    queue.sign_of_life();
    assert_eq!(queue.try_push(small(), 0), Ok(()));
    queue.life().await;
}

#[tokio::test]
async fn the_end_is_for_ever() {
    let queue = Queue::new(1, 1000);
    queue.end();
    queue.shut("gone");
    queue.sign_of_life();
    assert_eq!(queue.try_push(small(), 0), Err(Rejected::Ended));
    assert_eq!(queue.push(large(1), 0).await, Err(Rejected::Ended));
    assert!(queue.connected().is_none());
}
