use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, timeout},
};

use super::*;
use crate::{
    configuration::{ClusterId, IndexedConfiguration, Server, ServerAddress},
    error::TransportError,
    log::{Entries, Entry, EntryPayload, LogStore},
    position::{LogId, LogIndex, Term},
    rpc::{Envelope, HeartbeatRequest, Message},
    snapshot::SnapshotStore,
    stable::{HardState, StableStore},
    store_error::StoreError,
    transport::{Identity, Inbox, Transport},
};

const SECOND: Duration = Duration::from_secs(1);

fn entries(term: u64, first: u64, last: u64) -> Entries {
    let entry = |index| Entry {
        term: Term(term),
        index: LogIndex(index),
        payload: EntryPayload::Command(vec![index as u8; 3].into()),
    };
    Entries::new((first..=last).map(entry).collect())
}

async fn bounds(log: &InmemLogStore) -> Option<(u64, u64)> {
    log.reader().bounds().await.unwrap().map(|(first, last)| (first.0, last.0))
}

#[tokio::test]
async fn reads_within_a_batch_share_its_allocation() {
    let mut log = InmemLogStore::new();
    let batch = entries(1, 1, 100);
    log.append(&[batch.clone(), entries(1, 101, 101)]).await.unwrap();
    let read = log.reader().read(LogIndex(11)..=LogIndex(20), u64::MAX).await.unwrap();
    assert_eq!(read.as_ptr(), batch[10..].as_ptr());
    assert_eq!(read.len(), 10);
}

#[tokio::test]
async fn reads_gather_small_batches() {
    let mut log = InmemLogStore::new();
    for index in 1..=1000 {
        log.append(&[entries(1, index, index)]).await.unwrap();
    }
    let read = log.reader().read(LogIndex(5)..=LogIndex(1000), u64::MAX).await.unwrap();
    assert_eq!(read, entries(1, 5, 260));
    let read = log.reader().read(LogIndex(5)..=LogIndex(1000), 350).await.unwrap();
    assert_eq!(read, entries(1, 5, 14));
}

#[tokio::test]
async fn a_falling_term_is_refused() {
    let mut log = InmemLogStore::new();
    log.append(&[entries(2, 1, 2)]).await.unwrap();
    let refused = log.append(&[entries(1, 3, 3)]).await.unwrap_err();
    assert_eq!(refused.to_string(), "refused: entry 3@1 does not follow entry 2@2");
    assert_eq!(bounds(&log).await, Some((1, 2)));
}

#[tokio::test]
async fn clones_are_the_same_store() {
    let (mut log, mut stable, snapshots) =
        (InmemLogStore::new(), InmemStableStore::new(), InmemSnapshotStore::new());
    let (log_again, mut stable_again, snapshots_again) =
        (log.clone(), stable.clone(), snapshots.clone());
    let hard_state = HardState { current_term: Term(3), voted_for: Some("a".into()) };
    log.append(&[entries(1, 1, 3)]).await.unwrap();
    stable.save_hard_state(&hard_state).await.unwrap();
    let sink = snapshots.create(LogId::new(1, 2), IndexedConfiguration::default()).await.unwrap();
    let meta = sink.finish().await.unwrap();
    drop((log, stable, snapshots));

    assert_eq!(bounds(&log_again).await, Some((1, 3)));
    assert_eq!(stable_again.hard_state().await.unwrap(), Some(hard_state));
    assert_eq!(snapshots_again.list().await.unwrap(), [meta]);
}

#[tokio::test]
async fn a_disk_fails_all_its_stores_after_n_writes() {
    let disk = InmemDisk::new();
    let (mut log, mut stable) = (InmemLogStore::on(&disk), InmemStableStore::on(&disk));
    let snapshots = InmemSnapshotStore::on(&disk);
    let sink = snapshots.create(LogId::new(1, 2), IndexedConfiguration::default()).await.unwrap();
    disk.fail_writes_after(2);
    log.append(&[entries(1, 1, 3)]).await.unwrap();
    stable.save_hard_state(&HardState::default()).await.unwrap();

    let failed = log.append(&[entries(1, 4, 4)]).await.unwrap_err();
    assert_eq!(failed.to_string(), "writing the log: this in-memory disk was told to fail");
    assert!(log.truncate_suffix(LogIndex(1)).await.is_err());
    assert!(log.truncate_prefix(LogIndex(3)).await.is_err());
    let hard_state = HardState { current_term: Term(9), voted_for: None };
    assert!(stable.save_hard_state(&hard_state).await.is_err());
    assert!(matches!(sink.finish().await, Err(StoreError::Io { .. })));

    assert_eq!(bounds(&log).await, Some((1, 3)), "a failed write changes nothing");
    assert_eq!(stable.hard_state().await.unwrap(), Some(HardState::default()));
    assert_eq!(snapshots.list().await.unwrap(), []);
    assert_eq!(disk.writes(), 2);

    disk.heal();
    log.append(&[entries(1, 4, 4)]).await.unwrap();
    assert_eq!(bounds(&log).await, Some((1, 4)));
    assert_eq!(disk.writes(), 3);
}

#[tokio::test]
async fn a_disk_fails_reads_of_all_its_stores() {
    let disk = InmemDisk::new();
    let (mut log, mut stable) = (InmemLogStore::on(&disk), InmemStableStore::on(&disk));
    let snapshots = InmemSnapshotStore::on(&disk);
    log.append(&[entries(1, 1, 3)]).await.unwrap();
    disk.fail_reads();
    assert!(log.reader().bounds().await.is_err());
    assert!(log.reader().read(LogIndex(1)..=LogIndex(3), 100).await.is_err());
    assert!(stable.hard_state().await.is_err());
    assert!(snapshots.list().await.is_err());
    disk.heal();
    assert_eq!(bounds(&log).await, Some((1, 3)));
}

#[tokio::test(start_paused = true)]
async fn a_slow_disk_takes_its_time_and_no_more() {
    let mut log = InmemLogStore::new();
    log.disk().set_write_delay(SECOND);
    let begun = Instant::now();
    log.append(&[entries(1, 1, 3)]).await.unwrap();
    log.truncate_prefix(LogIndex(1)).await.unwrap();
    assert_eq!(begun.elapsed(), 2 * SECOND);
    log.disk().set_write_delay(Duration::ZERO);
    log.append(&[entries(1, 4, 4)]).await.unwrap();
    assert_eq!(begun.elapsed(), 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_disk_holds_a_write_until_it_resumes() {
    let log = InmemLogStore::new();
    let disk = log.disk().clone();
    disk.pause_writes();
    let mut writer = log.clone();
    let mut write = tokio::spawn(async move { writer.append(&[entries(1, 1, 3)]).await });
    assert!(timeout(1000 * SECOND, &mut write).await.is_err(), "it waits however long");
    disk.set_write_delay(SECOND);
    assert!(timeout(1000 * SECOND, &mut write).await.is_err(), "another fault ends no stall");
    assert_eq!(bounds(&log).await, None, "reads show nothing, and do not wait");
    disk.resume_writes();
    write.await.unwrap().unwrap();
    assert_eq!(bounds(&log).await, Some((1, 3)));
}

#[tokio::test(start_paused = true)]
async fn a_write_in_its_delay_stalls_too() {
    let mut log = InmemLogStore::new();
    let disk = log.disk().clone();
    disk.set_write_delay(SECOND);
    let begun = Instant::now();
    let (written, ()) = tokio::join!(log.append(&[]), async {
        disk.pause_writes();
        tokio::time::sleep(5 * SECOND).await;
        disk.resume_writes();
    });
    written.unwrap();
    assert_eq!(begun.elapsed(), 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_was_given_up_changes_nothing() {
    let mut log = InmemLogStore::new();
    log.disk().pause_writes();
    assert!(timeout(SECOND, log.append(&[entries(1, 1, 3)])).await.is_err());
    log.disk().heal();
    assert_eq!(bounds(&log).await, None);
    assert_eq!(log.disk().writes(), 0);
}

#[tokio::test]
async fn snapshots_beyond_the_newest_few_are_dropped() {
    for retained in [2, 3, 5] {
        let store = InmemSnapshotStore::retaining(retained);
        let mut metas = Vec::new();
        for index in 1..=9 {
            let mut sink =
                store.create(LogId::new(1, index), IndexedConfiguration::default()).await.unwrap();
            sink.write_all(b"data").await.unwrap();
            metas.push(sink.finish().await.unwrap());
        }
        metas.reverse();
        assert_eq!(store.list().await.unwrap(), metas[..retained]);
        let gone = store.open(&metas[retained].id).await.err();
        assert!(matches!(gone, Some(StoreError::NotFound { .. })), "{gone:?}");
    }
}

#[tokio::test]
async fn of_two_snapshots_of_one_place_the_later_is_the_newer() {
    let store = InmemSnapshotStore::new();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let sink = store.create(LogId::new(1, 1), IndexedConfiguration::default()).await.unwrap();
        ids.push(sink.finish().await.unwrap().id);
    }
    let listed: Vec<_> = store.list().await.unwrap().into_iter().map(|meta| meta.id).collect();
    assert_eq!(listed, [ids[2].clone(), ids[1].clone()]);
}

/// A server of a network under test.
struct Peer {
    server: Server,
    transport: Arc<InmemTransport>,
    inbox: crate::transport::Received,
}

impl Peer {
    fn send(&self, to: &Peer, round: u64) -> Result<(), TransportError> {
        self.transport.send(&to.server, heartbeat(round))
    }

    async fn send_entries(&self, to: &Peer, round: u64) -> Result<(), TransportError> {
        self.transport.send_entries(&to.server, heartbeat(round)).await
    }

    /// The rounds that have arrived.
    fn arrived(&mut self) -> Vec<u64> {
        let mut rounds = Vec::new();
        while let Ok(envelope) = self.inbox.try_recv() {
            rounds.push(round(&envelope.message));
        }
        rounds
    }
}

fn heartbeat(round: u64) -> Message {
    Message::Heartbeat(HeartbeatRequest {
        term: Term(1),
        round,
        commit_index: LogIndex(1),
        promised: None,
    })
}

fn round(message: &Message) -> u64 {
    let Message::Heartbeat(heartbeat) = message else { panic!("not a heartbeat: {message}") };
    heartbeat.round
}

async fn join(network: &InmemNetwork, name: &str) -> Peer {
    let (sender, inbox) = Inbox::new(100);
    let transport = network.transport(name);
    transport.start(Identity::new(name), sender).await.unwrap();
    Peer { server: Server::voter(name, name), transport, inbox }
}

async fn three() -> (InmemNetwork, Peer, Peer, Peer) {
    let network = InmemNetwork::new();
    let (a, b) = (join(&network, "a").await, join(&network, "b").await);
    let c = join(&network, "c").await;
    (network, a, b, c)
}

#[track_caller]
fn assert_unreachable(sent: Result<(), TransportError>, why: &str) {
    match sent {
        Err(TransportError::Unreachable { reason, .. }) => assert_eq!(reason, why),
        other => panic!("expected Unreachable ({why}), but got {other:?}"),
    }
}

const CUT: &str = "the link is cut";
const NOBODY: &str = "nobody listens at its address";

#[tokio::test]
async fn a_disconnected_server_is_cut_off_from_everybody() {
    let (network, a, mut b, mut c) = three().await;
    network.disconnect("a");
    for peer in [&b, &c] {
        assert_unreachable(a.send(peer, 1), CUT);
        assert_unreachable(a.send_entries(peer, 1).await, CUT);
        assert_unreachable(peer.send(&a, 1), CUT);
        assert_unreachable(peer.send_entries(&a, 1).await, CUT);
    }
    b.send(&c, 2).unwrap();
    network.connect("a");
    a.send(&b, 3).unwrap();
    a.send_entries(&c, 4).await.unwrap();
    assert_eq!((b.arrived(), c.arrived()), (vec![3], vec![2, 4]));
    assert!(!network.has_faults(), "a healed network is fast again");
}

#[tokio::test]
async fn a_cut_is_one_way() {
    let (network, mut a, mut b, _c) = three().await;
    network.cut("a", "b");
    assert_unreachable(a.send(&b, 1), CUT);
    assert_unreachable(a.send_entries(&b, 1).await, CUT);
    b.send(&a, 2).unwrap();
    network.heal("a", "b");
    a.send(&b, 3).unwrap();
    assert_eq!((a.arrived(), b.arrived()), (vec![2], vec![3]));
}

#[tokio::test]
async fn a_partition_separates_its_groups_only() {
    let network = InmemNetwork::new();
    let mut peers = Vec::new();
    for name in ["a", "b", "c", "d", "e", "outside"] {
        peers.push(join(&network, name).await);
    }
    network.partition(&[&["a", "b"][..], &["c", "d"], &["e"]]);
    let group = |name: &str| ["ab", "cd", "e"].into_iter().position(|group| group.contains(name));
    for from in &peers {
        for to in &peers {
            let (one, other) = (group(from.server.id.as_str()), group(to.server.id.as_str()));
            let is_together = one.is_none() || other.is_none() || one == other;
            let sent = from.send(to, 1);
            assert_eq!(sent.is_ok(), is_together, "{} to {}", from.server.id, to.server.id);
        }
    }
    network.heal("a", "c");
    peers[0].send(&peers[2], 2).unwrap();
    network.heal_all();
    for from in &peers {
        for to in &peers {
            from.send(to, 3).unwrap();
        }
    }
}

#[tokio::test]
async fn the_next_few_messages_of_a_link_are_dropped_in_silence() {
    let (network, mut a, mut b, mut c) = three().await;
    network.drop_next("a", "b", 2);
    a.send(&b, 1).unwrap();
    a.send(&c, 1).unwrap();
    b.send(&a, 1).unwrap();
    a.send_entries(&b, 2).await.unwrap();
    a.send(&b, 3).unwrap();
    assert_eq!((a.arrived(), b.arrived(), c.arrived()), (vec![1], vec![3], vec![1]));
    assert!(!network.has_faults(), "what has run out costs nothing");
    network.drop_next("a", "b", 5);
    network.drop_next("a", "b", 0);
    a.send(&b, 4).unwrap();
    assert_eq!(b.arrived(), [4]);
}

#[tokio::test]
async fn a_filter_drops_what_it_says() {
    let (network, mut a, mut b, _c) = three().await;
    network.set_drop(|from, to, message| {
        from.as_str() == "a" && to.as_str() == "b" && round(message).is_multiple_of(2)
    });
    for round in 1..=5 {
        a.send(&b, round).unwrap();
        b.send_entries(&a, round).await.unwrap();
    }
    assert_eq!((a.arrived(), b.arrived()), (vec![1, 2, 3, 4, 5], vec![1, 3, 5]));
    network.heal_all();
    a.send(&b, 6).unwrap();
    assert_eq!(b.arrived(), [6]);
}

#[tokio::test]
async fn a_tap_sees_every_message_whatever_becomes_of_it() {
    let (network, a, mut b, _c) = three().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    network.set_tap({
        let seen = Arc::clone(&seen);
        move |from, to, message| seen.lock().push(format!("{from}>{to}:{}", round(message)))
    });
    a.send(&b, 1).unwrap();
    network.drop_next("a", "b", 1);
    a.send(&b, 2).unwrap();
    network.cut("a", "b");
    a.send(&b, 3).unwrap_err();
    network.heal_all();
    b.send_entries(&a, 4).await.unwrap();
    assert_eq!(*seen.lock(), ["a>b:1", "a>b:2", "a>b:3", "b>a:4"]);
    assert_eq!(b.arrived(), [1]);
}

#[tokio::test]
async fn a_tap_may_break_the_network() {
    let (network, a, mut b, _c) = three().await;
    let breaker = network.clone();
    network.set_tap(move |_, _, message| {
        if round(message) == 2 {
            breaker.disconnect("a");
        }
    });
    a.send(&b, 1).unwrap();
    assert_unreachable(a.send(&b, 2), CUT);
    assert_eq!(b.arrived(), [1]);
}

#[tokio::test(start_paused = true)]
async fn delayed_messages_arrive_when_due_and_in_order() {
    let (network, a, mut b, mut c) = three().await;
    network.set_delay(SECOND);
    network.set_link_delay("a", "c", 3 * SECOND);
    let begun = Instant::now();
    for round in 1..=3 {
        a.send(&b, round).unwrap();
        a.send_entries(&b, 10 + round).await.unwrap();
        a.send(&c, round).unwrap();
    }
    assert_eq!(begun.elapsed(), Duration::ZERO, "sending does not wait");
    for _ in 0..6 {
        assert!(b.inbox.recv().await.is_some());
        assert_eq!(begun.elapsed(), SECOND);
    }
    // A shorter delay does not let a later message overtake an earlier one.
    network.set_link_delay("a", "c", Duration::ZERO);
    a.send(&c, 4).unwrap();
    for expected in 1..=4 {
        assert_eq!(round(&c.inbox.recv().await.unwrap().message), expected);
        assert_eq!(begun.elapsed(), 3 * SECOND);
    }
    a.send(&c, 5).unwrap();
    assert_eq!(round(&c.inbox.recv().await.unwrap().message), 5);
    assert_eq!(begun.elapsed(), 3 * SECOND, "a lane without delay takes no time");
}

#[tokio::test(start_paused = true)]
async fn a_delayed_message_is_lost_when_its_link_is_cut() {
    let (network, a, mut b, mut c) = three().await;
    network.set_delay(SECOND);
    a.send(&b, 1).unwrap();
    a.send_entries(&b, 2).await.unwrap();
    a.send(&c, 3).unwrap();
    network.cut("a", "b");
    assert_eq!(round(&c.inbox.recv().await.unwrap().message), 3);
    network.heal("a", "b");
    a.send(&b, 4).unwrap();
    assert_eq!(round(&b.inbox.recv().await.unwrap().message), 4);
    assert!(b.arrived().is_empty());
}

#[tokio::test(start_paused = true)]
async fn delayed_messages_die_with_their_sender() {
    let (network, a, mut b, c) = three().await;
    network.set_delay(SECOND);
    a.send(&b, 1).unwrap();
    a.send_entries(&b, 2).await.unwrap();
    c.send(&b, 3).unwrap();
    a.transport.close().await;
    drop(c);
    assert!(timeout(10 * SECOND, b.inbox.recv()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_delayed_lane_has_an_end() {
    let (network, a, b, _c) = three().await;
    network.set_delay(SECOND);
    let accepted = (0..).take_while(|round| a.send(&b, *round).is_ok()).count();
    assert_eq!(accepted, 4096);
    assert!(matches!(a.send(&b, 0), Err(TransportError::Full)));
    a.send_entries(&b, 0).await.unwrap();
}

#[tokio::test]
async fn a_message_carries_its_sender() {
    let network = InmemNetwork::new();
    let (sender, mut inbox) = Inbox::new(1);
    let transport = network.transport("address of a");
    transport
        .start(Identity { incarnation: 7, life: 8, ..Identity::new("a") }, sender)
        .await
        .unwrap();
    let to = Server { incarnation: 9, ..Server::voter("a", "address of a") };
    transport.send(&to, heartbeat(1)).unwrap();
    let expected = Envelope {
        from: "a".into(),
        address: ServerAddress::from("address of a"),
        cluster: ClusterId::NONE,
        incarnation: 7,
        life: 8,
        expects: 9,
        message: heartbeat(1),
    };
    assert_eq!(inbox.recv().await, Some(expected));
}

#[tokio::test]
async fn an_address_has_one_live_transport() {
    let (network, a, mut b, _c) = three().await;
    let (sender, _inbox) = Inbox::new(1);
    let again = a.transport.start(Identity::new("a"), sender.clone()).await.unwrap_err();
    assert_eq!(again.to_string(), "refused: the transport was started before");
    let second = network.transport("a");
    let taken = second.start(Identity::new("a"), sender.clone()).await.unwrap_err();
    assert_eq!(taken.to_string(), "refused: the address a is in use");
    let unstarted = second.send(&b.server, heartbeat(1)).unwrap_err();
    assert_eq!(unstarted.to_string(), "refused: the transport is not started");

    a.transport.close().await;
    second.start(Identity::new("a"), sender).await.unwrap();
    second.send(&b.server, heartbeat(2)).unwrap();
    a.transport.close().await;
    drop(a);
    let a = Server::voter("a", "a");
    b.transport.send(&a, heartbeat(3)).unwrap();
    assert_eq!(b.arrived(), [2], "an old transport does not take its successor away");
}

#[tokio::test]
async fn a_dropped_transport_is_gone() {
    let (network, a, b, _c) = three().await;
    let server = b.server.clone();
    drop(b);
    assert_unreachable(a.transport.send(&server, heartbeat(1)), NOBODY);
    assert_unreachable(a.transport.send_entries(&server, heartbeat(1)).await, NOBODY);
    let mut b = join(&network, "b").await;
    a.send(&b, 2).unwrap();
    assert_eq!(b.arrived(), [2]);
}

#[tokio::test]
async fn a_server_that_has_stopped_is_unreachable() {
    let (_network, a, b, _c) = three().await;
    drop(b.inbox);
    let why = "the server has stopped";
    assert_unreachable(a.transport.send(&b.server, heartbeat(1)), why);
    assert_unreachable(a.transport.send_entries(&b.server, heartbeat(1)).await, why);
}

#[tokio::test]
async fn a_full_inbox_refuses_the_urgent_and_holds_entries() {
    let (_network, a, mut b, _c) = three().await;
    for round in 1..=100 {
        a.send(&b, round).unwrap();
    }
    assert!(matches!(a.send(&b, 101), Err(TransportError::Full)));
    let transport = Arc::clone(&a.transport);
    let to = b.server.clone();
    let waiting = tokio::spawn(async move { transport.send_entries(&to, heartbeat(102)).await });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    assert_eq!(b.arrived(), (1..=100).collect::<Vec<_>>());
    waiting.await.unwrap().unwrap();
    assert_eq!(b.arrived(), [102]);
}

#[tokio::test]
async fn debug_output_tells_what_matters() {
    let (network, a, _b, _c) = three().await;
    network.disconnect("c");
    assert_eq!(
        format!("{network:?}"),
        r#"InmemNetwork { nodes: ["a", "b", "c"], disconnected: {"c"}, cut: {}, .. }"#
    );
    assert_eq!(
        format!("{:?}", a.transport),
        r#"InmemTransport { address: "a", id: Some("a"), is_closed: false, .. }"#
    );
    let mut log = InmemLogStore::new();
    log.append(&[entries(1, 4, 6)]).await.unwrap();
    assert!(format!("{log:?}").contains("bounds: Some((LogIndex(4), LogIndex(6)))"), "{log:?}");
}
