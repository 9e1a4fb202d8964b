use std::time::Duration;

use super::*;
use crate::{
    log::{Entries, Entry},
    position::{LogId, LogIndex, Term},
    rpc::{AppendEntriesRequest, HeartbeatRequest},
};

const TERM: Term = Term(1);

fn envelope(message: Message) -> Envelope {
    let (incarnation, life, expects) = (0, 0, 0);
    let (from, address) = ("a".into(), "a".into());
    Envelope { from, address, cluster: ClusterId::NONE, incarnation, life, expects, message }
}

/// A message whose entries count this many bytes, and itself another 32.
fn entries(cost_bytes: usize) -> Envelope {
    let payload = EntryPayload::Command(vec![0; cost_bytes - 32].into());
    let entries = Entries::new(vec![Entry { term: TERM, index: LogIndex(1), payload }]);
    let (prev, commit_index) = (LogId::ZERO, LogIndex::ZERO);
    envelope(Message::AppendEntries(AppendEntriesRequest {
        term: TERM,
        round: 1,
        prev,
        entries,
        commit_index,
    }))
}

fn heartbeat() -> Envelope {
    let commit_index = LogIndex::ZERO;
    envelope(Message::Heartbeat(HeartbeatRequest {
        term: TERM,
        round: 1,
        commit_index,
        promised: None,
    }))
}

#[tokio::test(start_paused = true)]
async fn entries_in_an_inbox_are_bounded_in_bytes() {
    let (inbox, mut received) = Inbox::with_bytes(100, 1000);
    inbox.try_deliver(entries(468)).unwrap();
    inbox.deliver(entries(468)).await.unwrap();
    let full = inbox.try_deliver(entries(32)).unwrap_err();
    assert!(matches!(full, TransportError::Full), "{full}");
    let waiting = tokio::spawn({
        let inbox = inbox.clone();
        async move { inbox.deliver(entries(468)).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    inbox.try_deliver(heartbeat()).unwrap();
    for expected in [heartbeat(), entries(468), entries(468)] {
        assert_eq!(received.recv().await, Some(expected));
    }
    waiting.await.unwrap().unwrap();
    assert_eq!(received.try_recv(), Ok(entries(468)));
    assert_eq!(inbox.budget.part(u64::MAX), 1000);
    assert!(inbox.budget.try_take(1000).is_ok(), "everything was given back");
}

/// The sender of a message decides how large it is, and may have other settings.
#[tokio::test(start_paused = true)]
async fn a_message_larger_than_the_bound_enters_alone() {
    let (inbox, mut received) = Inbox::with_bytes(100, 1000);
    inbox.try_deliver(entries(5000)).unwrap();
    inbox.try_deliver(entries(32)).unwrap_err();
    assert_eq!(received.recv().await, Some(entries(5000)));
    inbox.try_deliver(entries(32)).unwrap();
    inbox.try_deliver(entries(5000)).unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_bytes_is_told_of_the_end() {
    for is_dropped in [true, false] {
        let (inbox, mut received) = Inbox::with_bytes(100, 100);
        inbox.try_deliver(entries(68)).unwrap();
        let waiting = tokio::spawn(async move { inbox.deliver(entries(68)).await });
        tokio::task::yield_now().await;
        if is_dropped {
            drop(received);
        } else {
            received.close();
        }
        let error = waiting.await.unwrap().unwrap_err();
        assert!(matches!(error, TransportError::Closed), "{error}");
    }
}
