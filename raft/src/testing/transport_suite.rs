//! The promises of [`Transport`].

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::{entries, entry, kept};
use crate::{
    configuration::{ClusterId, Configuration, IndexedConfiguration, Server, ServerId},
    error::TransportError,
    log::{Entries, Entry, EntryPayload},
    position::{LogId, LogIndex, Term},
    rpc::{
        AppendEntriesReply, AppendEntriesRequest, AppendOutcome, Envelope, HeartbeatReply,
        HeartbeatRequest, InstallOutcome, InstallSnapshotReply, InstallSnapshotRequest, Message,
        Promised, RemovedNotice, RequestVoteReply, RequestVoteRequest, TimeoutNowRequest,
    },
    transport::{Identity, Inbox, Transport},
};

/// What must happen happens within this, on a loaded machine too.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long to wait for what may never come: a lost message, room in a lane.
const PATIENCE: Duration = Duration::from_millis(200);
/// The cluster of everybody at first.
const CLUSTER: ClusterId = ClusterId(1 << 63 | 5);
/// The term of the messages that only find out whether there is a connection.
const WARM_UP: Term = Term(u64::MAX);

/// Checks every promise of a [`Transport`]. `cluster(n)` makes `n` transports that are not started
/// and can reach each other, with the servers they belong to; it is called once per check.
///
/// The network between them must be sound. Checks wait until messages pass before they begin, so a
/// transport may lose what is sent while it connects; from then on nothing may be lost in a lane
/// that has room.
///
/// - The local address is the server's. A second start is refused and does not disturb the first.
/// - Every kind of message arrives unchanged over both lanes, with its sender's id, address and
///   incarnation, and the incarnation of the server it was sent to, also when that changes; so do messages with entries of 1 MiB, with a thousand entries, and pieces of a snapshot of
///   1 MiB.
/// - The entries lane keeps its order, of entries and pieces of snapshots together, and waits for a
///   slow receiver without losing anything; many tasks may send at once.
/// - A peer that does not read holds up neither `send` to it nor anything to others; what is sent
///   to it in the urgent lane does not queue up behind its entries or pieces of snapshots.
/// - Sending to a peer that was never there, was closed, or has stopped reading for good, is an
///   error or a loss, never a panic, and never waits for ever.
/// - A peer that was forgotten can be reached again.
/// - Closing is idempotent, wakes a sender that waits, and ends with everything closed: later
///   sends are [`TransportError::Closed`].
///
/// Runs on tokio, of any flavour; a paused clock suits only transports without real I/O.
///
/// # Panics
/// On the first broken promise, naming it.
pub async fn transport_suite<Fut: Future<Output = Vec<(Server, Arc<dyn Transport>)>>>(
    mut cluster: impl FnMut(usize) -> Fut,
) {
    second_start(cluster(2).await).await;
    every_message(connected(cluster(3).await, 64).await).await;
    expectations(connected(cluster(2).await, 64).await).await;
    clusters(connected(cluster(2).await, 64).await).await;
    large_messages(connected(cluster(2).await, 64).await).await;
    order(connected(cluster(2).await, 4).await).await;
    many_senders(connected(cluster(3).await, 16).await).await;
    for bulk in [append_bulk as Bulk, piece] {
        receiver_that_does_not_read(connected(cluster(3).await, 1).await, bulk).await;
    }
    unknown_peers(connected(cluster(3).await, 16).await).await;
    stopped_receiver(connected(cluster(3).await, 16).await).await;
    forgotten(connected(cluster(3).await, 16).await).await;
    closed(connected(cluster(3).await, 16).await).await;
    closed_while_waiting(connected(cluster(2).await, 1).await).await;
    closed_before_start(cluster(1).await).await;
}

/// A started transport, and what arrives there.
struct Peer {
    server: Server,
    transport: Arc<dyn Transport>,
    inbox: crate::transport::Received,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Urgent,
    Entries,
}

const LANES: [Lane; 2] = [Lane::Urgent, Lane::Entries];

impl Peer {
    /// The next message that is not a warm-up.
    async fn recv(&mut self, promise: &str) -> Envelope {
        let received = timeout(DEADLINE, async {
            loop {
                match self.inbox.recv().await {
                    Some(envelope) if envelope.message.term() == WARM_UP => {}
                    Some(envelope) => return envelope,
                    None => panic!("broken promise: a started transport keeps its inbox"),
                }
            }
        });
        kept(received.await, promise)
    }

    /// A message that arrived in time, if any; warm-ups do not count.
    async fn recv_in_time(&mut self) -> Option<Envelope> {
        loop {
            let envelope = timeout(PATIENCE, self.inbox.recv()).await.ok()??;
            if envelope.message.term() != WARM_UP {
                return Some(envelope);
            }
        }
    }
}

async fn send(
    transport: &dyn Transport,
    lane: Lane,
    to: &Server,
    message: Message,
) -> Result<(), TransportError> {
    match lane {
        Lane::Urgent => transport.send(to, message),
        Lane::Entries => {
            let sent = timeout(DEADLINE, transport.send_entries(to, message)).await;
            kept(sent, "a send to a peer that reads, or is gone, ends")
        }
    }
}

/// Sends a message that must arrive, as far as the sender can tell.
async fn must_send(transport: &dyn Transport, lane: Lane, to: &Server, message: Message) {
    let given_up = Instant::now() + DEADLINE;
    loop {
        match send(transport, lane, to, message.clone()).await {
            Ok(()) => return,
            Err(TransportError::Full) if lane == Lane::Urgent && Instant::now() < given_up => {
                tokio::task::yield_now().await;
            }
            Err(error) => panic!("broken promise: a reachable peer can be sent to: {error}"),
        }
    }
}

async fn started(cluster: Vec<(Server, Arc<dyn Transport>)>, capacity: usize) -> Vec<Peer> {
    let mut peers = Vec::new();
    for (mut server, transport) in cluster {
        // One that uses every byte, and differs from the others.
        server.incarnation = u64::MAX - peers.len() as u64;
        assert_eq!(
            transport.local_address(),
            server.address,
            "broken promise: the local address is where others reach the server"
        );
        let (sender, inbox) = Inbox::new(capacity);
        let started = transport.start(identity(&server), sender).await;
        kept(started, "a transport starts");
        peers.push(Peer { server, transport, inbox });
    }
    peers
}

async fn connected(cluster: Vec<(Server, Arc<dyn Transport>)>, capacity: usize) -> Vec<Peer> {
    let mut peers = started(cluster, capacity).await;
    for from in 0..peers.len() {
        for to in (0..peers.len()).filter(|to| *to != from) {
            let (id, transport) = (peers[from].server.id.clone(), peers[from].transport.clone());
            connect(&id, &*transport, &mut peers[to]).await;
        }
    }
    peers
}

/// Sends until a message gets through, in both lanes.
async fn connect(from: &ServerId, transport: &dyn Transport, to: &mut Peer) {
    let given_up = Instant::now() + DEADLINE;
    for (lane, message) in [(Lane::Urgent, heartbeat(0)), (Lane::Entries, append(0, &[]))] {
        let warm_up = with_term(message, WARM_UP);
        loop {
            assert!(
                Instant::now() < given_up,
                "broken promise: transports of a sound network reach each other ({lane:?} lane)"
            );
            // Losses are expected until there is a connection.
            _ = send(transport, lane, &to.server, warm_up.clone()).await;
            let received = timeout(PATIENCE, to.inbox.recv()).await;
            if received.is_ok_and(|envelope| {
                envelope.is_some_and(|e| e.from == *from && e.message == warm_up)
            }) {
                break;
            }
        }
    }
}

fn with_term(mut message: Message, to: Term) -> Message {
    match &mut message {
        Message::AppendEntries(m) => m.term = to,
        Message::AppendEntriesReply(m) => m.term = to,
        Message::Heartbeat(m) => m.term = to,
        Message::HeartbeatReply(m) => m.term = to,
        Message::RequestVote(m) => m.term = to,
        Message::RequestVoteReply(m) => m.term = to,
        Message::TimeoutNow(m) => m.term = to,
        Message::InstallSnapshot(m) => m.term = to,
        Message::InstallSnapshotReply(m) => m.term = to,
        Message::Removed(m) => m.term = to,
    }
    message
}

fn heartbeat(round: u64) -> Message {
    Message::Heartbeat(HeartbeatRequest {
        term: Term(1),
        round,
        commit_index: LogIndex(5),
        promised: None,
    })
}

fn append(round: u64, entries: &[Entry]) -> Message {
    Message::AppendEntries(AppendEntriesRequest {
        term: Term(1),
        round,
        prev: LogId::new(1, 6),
        entries: Entries::new(entries.to_vec()),
        commit_index: LogIndex(5),
    })
}

/// A piece of a snapshot.
fn piece(transfer: u64, data: Bytes) -> Message {
    let configuration =
        Configuration::new([Server::voter("a", "h:1"), Server::nonvoter("Žofie 🦀", "[::1]:2")]);
    Message::InstallSnapshot(InstallSnapshotRequest {
        term: Term(1),
        transfer,
        last: LogId::new(1, 6),
        configuration: IndexedConfiguration { index: LogIndex(4), configuration },
        size_bytes: 1 << 40,
        offset: 1 << 33,
        checksum: 0x0102_0304,
        data,
    })
}

/// The round of an append or the transfer of a piece, by which these checks tell them apart.
fn bulk_number(envelope: &Envelope) -> Option<u64> {
    match &envelope.message {
        Message::AppendEntries(request) => Some(request.round),
        Message::InstallSnapshot(request) => Some(request.transfer),
        _ => None,
    }
}

/// Every kind of message, with every kind of content.
fn messages() -> Vec<Message> {
    let (term, round) = (Term(7), 1 << 40);
    let configuration =
        Configuration::new([Server::voter("a", "h:1"), Server::nonvoter("Žofie 🦀", "[::1]:2")]);
    let payloads = [
        EntryPayload::Noop,
        EntryPayload::Barrier,
        EntryPayload::Configuration(configuration),
        EntryPayload::Command(Bytes::new()),
        EntryPayload::Command((0..=255).collect()),
    ];
    let mixed: Vec<Entry> = payloads
        .into_iter()
        .zip(1..)
        .map(|(payload, i)| Entry { payload, ..entry(2, i) })
        .collect();
    let installing = |outcome| {
        let transfer = round;
        Message::InstallSnapshotReply(InstallSnapshotReply { term, transfer, outcome })
    };
    let strange_piece = InstallSnapshotRequest {
        term,
        transfer: u64::MAX,
        last: LogId::new(u64::MAX, u64::MAX),
        configuration: IndexedConfiguration::default(),
        size_bytes: 0,
        offset: u64::MAX,
        checksum: u32::MAX,
        data: Bytes::new(),
    };
    let reply = |outcome| Message::AppendEntriesReply(AppendEntriesReply { term, round, outcome });
    let mut messages = vec![
        append(1, &[]),
        append(2, &entries(1, 7, 9)),
        append(u64::MAX, &mixed),
        reply(AppendOutcome::Matched { match_index: LogIndex(u64::MAX) }),
        reply(AppendOutcome::Conflict { prev_index: LogIndex(9), hint: LogId::new(3, 4) }),
        reply(AppendOutcome::StaleTerm),
        heartbeat(3),
        Message::HeartbeatReply(HeartbeatReply {
            term,
            round,
            accepted_index: LogIndex(8),
            match_index: LogIndex(7),
            applied_index: LogIndex(6),
        }),
        Message::TimeoutNow(TimeoutNowRequest { term }),
        piece(4, (0..=255).collect()),
        piece(5, vec![7; 100_000].into()),
        Message::InstallSnapshot(strange_piece),
        installing(InstallOutcome::Received { next_offset: 1 << 50 }),
        installing(InstallOutcome::Installed { match_index: LogIndex(9) }),
        installing(InstallOutcome::Refused),
        installing(InstallOutcome::StaleTerm),
        Message::Removed(RemovedNotice { term, configuration_index: LogIndex(3) }),
    ];
    let (incarnation, life, matched) = (u64::MAX, u64::MAX - 1, LogId::new(3, 1 << 40));
    let promised = Promised { incarnation, life, term, matched };
    for (yes, no) in [(true, false), (false, true), (false, false)] {
        messages.push(Message::RequestVote(RequestVoteRequest {
            term,
            last: LogId::new(5, 6),
            is_pre_vote: yes,
            is_leadership_transfer: no,
            promised: Some(promised),
            configuration_index: LogIndex(1 << 41),
            life: u64::MAX,
        }));
        messages.push(Message::RequestVoteReply(RequestVoteReply {
            term,
            requested_term: Term(8),
            is_pre_vote: yes,
            is_granted: no,
            promised: Some(promised),
            life: u64::MAX - 2,
        }));
    }
    messages
}

fn assert_from(envelope: &Envelope, sender: &Server, message: &Message) {
    assert_eq!(envelope.message, *message, "broken promise: a message arrives unchanged");
    assert_eq!(envelope.from, sender.id, "broken promise: a message carries its sender's id");
    assert_eq!(
        envelope.address, sender.address,
        "broken promise: a message carries where its sender can be dialled"
    );
    assert_eq!(
        envelope.incarnation, sender.incarnation,
        "broken promise: a message carries its sender's incarnation"
    );
    let Identity { life, cluster, .. } = identity(sender);
    assert_eq!(envelope.life, life, "broken promise: a message carries its sender's life");
    assert_eq!(envelope.cluster, cluster, "broken promise: a message carries its sender's cluster");
}

/// Who a server says it is.
fn identity(server: &Server) -> Identity {
    let (id, incarnation) = (server.id.clone(), server.incarnation);
    Identity { id, cluster: CLUSTER, incarnation, life: incarnation ^ 1 << 40 }
}

/// Which cluster the sender says it belongs to changes while there are connections from it.
async fn clusters(mut peers: Vec<Peer>) {
    let (to, transport) = (peers[1].server.clone(), peers[0].transport.clone());
    for lane in LANES {
        for cluster in [CLUSTER, ClusterId(7), ClusterId(7), ClusterId(u64::MAX), CLUSTER] {
            transport.set_cluster(cluster);
            must_send(&*transport, lane, &to, heartbeat(1)).await;
            let envelope = peers[1].recv("a message of another cluster arrives").await;
            assert_eq!(
                envelope.cluster, cluster,
                "broken promise: a message sent after `set_cluster` is of that cluster"
            );
        }
    }
}

/// What is expected of a receiver changes while there are connections to it.
async fn expectations(mut peers: Vec<Peer>) {
    let (sender, transport) = (peers[0].server.clone(), peers[0].transport.clone());
    for lane in LANES {
        for (round, incarnation) in (1..).zip([0, 0, 7, u64::MAX, 7, 7, 0, 1]) {
            let to = Server { incarnation, ..peers[1].server.clone() };
            must_send(&*transport, lane, &to, heartbeat(round)).await;
        }
        for (round, incarnation) in (1..).zip([0, 0, 7, u64::MAX, 7, 7, 0, 1]) {
            let envelope = peers[1].recv("a message with an expectation arrives").await;
            assert_from(&envelope, &sender, &heartbeat(round));
            assert_eq!(
                envelope.expects, incarnation,
                "broken promise: a message carries the incarnation of the server it was sent to"
            );
        }
    }
}

async fn second_start(cluster: Vec<(Server, Arc<dyn Transport>)>) {
    let mut peers = connected(cluster, 16).await;
    let (sender, mut other) = Inbox::new(16);
    let again = peers[0].transport.start(identity(&peers[0].server), sender).await;
    assert!(again.is_err(), "broken promise: a second start is refused");
    let (server, transport) = (peers[1].server.clone(), peers[1].transport.clone());
    let to = peers[0].server.clone();
    must_send(&*transport, Lane::Entries, &to, heartbeat(1)).await;
    let envelope = peers[0].recv("a second start does not disturb the first").await;
    assert_from(&envelope, &server, &heartbeat(1));
    assert!(other.try_recv().is_err(), "broken promise: a refused start delivers nothing");
}

async fn every_message(mut peers: Vec<Peer>) {
    for from in 0..peers.len() {
        for to in (0..peers.len()).filter(|to| *to != from) {
            let (sender, transport) = (peers[from].server.clone(), peers[from].transport.clone());
            let receiver = peers[to].server.clone();
            for lane in LANES {
                for message in messages() {
                    must_send(&*transport, lane, &receiver, message.clone()).await;
                    let promise = format!("{message} arrives over the {lane:?} lane");
                    assert_from(&peers[to].recv(&promise).await, &sender, &message);
                }
            }
        }
    }
}

async fn large_messages(mut peers: Vec<Peer>) {
    let (sender, transport) = (peers[0].server.clone(), peers[0].transport.clone());
    let to = peers[1].server.clone();
    let data: Bytes = (0..1 << 20).map(|i: u32| (i % 251) as u8).collect();
    let big = Entry { payload: EntryPayload::Command(data.clone()), ..entry(1, 7) };
    for message in [append(1, &[big]), append(2, &entries(1, 7, 1030)), piece(3, data)] {
        must_send(&*transport, Lane::Entries, &to, message.clone()).await;
        let envelope = peers[1].recv("a large message arrives").await;
        assert!(
            envelope.message == message,
            "broken promise: a large message arrives unchanged: {message}"
        );
        assert_eq!(envelope.from, sender.id, "broken promise: a message carries its sender's id");
    }
}

async fn order(mut peers: Vec<Peer>) {
    const LAST: u64 = 1000;
    let (transport, to) = (peers[0].transport.clone(), peers[1].server.clone());
    let sending = tokio::spawn(async move {
        for round in 1..=LAST {
            let message = match round % 3 {
                0 => piece(round, vec![7; 20_000 * (round as usize % 2)].into()),
                _ => append(round, &entries(1, 7, 7 + round % 5)),
            };
            must_send(&*transport, Lane::Entries, &to, message).await;
        }
    });
    let mut newest = 0;
    while newest < LAST {
        let envelope = peers[1].recv("the entries lane loses nothing while it is connected").await;
        let round = bulk_number(&envelope).unwrap_or_default();
        assert!(
            round == newest || round == newest + 1,
            "broken promise: the entries lane keeps its order ({round} came after {newest})"
        );
        newest = round;
    }
    kept(sending.await, "the entries lane takes a thousand messages");
}

async fn many_senders(mut peers: Vec<Peer>) {
    const TASKS: u64 = 4;
    const EACH: u64 = 100;
    let to = peers[2].server.clone();
    let mut expected = BTreeSet::new();
    let mut sending = Vec::new();
    for peer in &peers[..2] {
        for task in 0..TASKS {
            let rounds = task * EACH..(task + 1) * EACH;
            expected.extend(rounds.clone().map(|round| (peer.server.id.clone(), round)));
            let (transport, to) = (peer.transport.clone(), to.clone());
            sending.push(tokio::spawn(async move {
                for round in rounds {
                    let message = append(round, &entries(1, 7, 8));
                    must_send(&*transport, Lane::Entries, &to, message).await;
                }
            }));
        }
    }
    let mut received = BTreeSet::new();
    while received.len() < expected.len() {
        let envelope = peers[2].recv("what many tasks send at once arrives").await;
        let round = bulk_number(&envelope).unwrap_or(u64::MAX);
        assert_eq!(
            envelope.message,
            append(round, &entries(1, 7, 8)),
            "broken promise: messages of several senders do not mix"
        );
        received.insert((envelope.from, round));
    }
    assert_eq!(received, expected, "broken promise: what many tasks send at once arrives");
    for task in sending {
        kept(task.await, "many tasks can send at once");
    }
}

/// A message with many bytes, told apart by its number.
type Bulk = fn(u64, Bytes) -> Message;

fn append_bulk(round: u64, data: Bytes) -> Message {
    append(round, &[Entry { payload: EntryPayload::Command(data), ..entry(1, 7) }])
}

/// Fills the entries lane until it takes no more, or a lot; the number of accepted messages.
async fn stuff(transport: &dyn Transport, to: &Server, bulk: Bulk) -> u64 {
    const ENOUGH: u64 = 1000;
    let data = Bytes::from(vec![7; 1 << 16]);
    for round in 1..=ENOUGH {
        match timeout(PATIENCE, transport.send_entries(to, bulk(round, data.clone()))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => panic!("broken promise: a slow peer is not an error: {error}"),
            Err(_) => return round - 1,
        }
    }
    ENOUGH
}

async fn receiver_that_does_not_read(mut peers: Vec<Peer>, bulk: Bulk) {
    let (sender, transport) = (peers[0].server.clone(), peers[0].transport.clone());
    let (stuck, other) = (peers[1].server.clone(), peers[2].server.clone());
    let accepted = stuff(&*transport, &stuck, bulk).await;

    let urgent = transport.send(&stuck, heartbeat(1));
    assert!(
        matches!(urgent, Ok(()) | Err(TransportError::Full)),
        "broken promise: a full lane is Full, not {urgent:?}"
    );
    for lane in LANES {
        must_send(&*transport, lane, &other, heartbeat(2)).await;
        let envelope = peers[2].recv("a peer that does not read holds up nobody else").await;
        assert_from(&envelope, &sender, &heartbeat(2));
    }

    let (mut newest, mut arrived) = (0, 0);
    let mut before_urgent = None;
    while let Some(envelope) = peers[1].recv_in_time().await {
        let Some(round) = bulk_number(&envelope) else {
            before_urgent.get_or_insert(arrived);
            continue;
        };
        assert!(newest <= round, "broken promise: a waiting lane keeps its order");
        (newest, arrived) = (round, arrived + 1);
    }
    assert!(accepted <= newest, "broken promise: a lane that waited has lost nothing");
    if let Some(before) = before_urgent.filter(|_| 16 < accepted) {
        assert!(
            before < accepted,
            "broken promise: the urgent lane does not wait behind the entries lane"
        );
    }
    for lane in LANES {
        must_send(&*transport, lane, &stuck, heartbeat(3)).await;
        let envelope = peers[1].recv("a peer that reads again is reached again").await;
        assert_from(&envelope, &sender, &heartbeat(3));
    }
}

/// Sends that must end, without a panic, whatever they say; the sender must live on.
async fn send_in_vain(transport: &dyn Transport, to: &Server) {
    for round in 0..20 {
        for lane in LANES {
            match send(transport, lane, to, append(round, &entries(1, 7, 8))).await {
                Ok(()) | Err(TransportError::Full | TransportError::Unreachable { .. }) => {}
                Err(error) => panic!(
                    "broken promise: a peer that is not there is Unreachable; {error} would speak \
                     of the sender"
                ),
            }
        }
    }
}

async fn assert_reaches(peers: &mut [Peer], from: usize, to: usize, promise: &str) {
    let (sender, transport) = (peers[from].server.clone(), peers[from].transport.clone());
    let receiver = peers[to].server.clone();
    for lane in LANES {
        must_send(&*transport, lane, &receiver, heartbeat(9)).await;
        assert_from(&peers[to].recv(promise).await, &sender, &heartbeat(9));
    }
}

async fn unknown_peers(mut peers: Vec<Peer>) {
    let transport = peers[0].transport.clone();
    send_in_vain(&*transport, &Server::voter("nobody", "not an address")).await;
    kept(timeout(DEADLINE, peers[2].transport.close()).await, "a close ends");
    let gone = peers[2].server.clone();
    send_in_vain(&*transport, &gone).await;
    send_in_vain(&*transport, &Server::voter("somebody else", gone.address)).await;
    assert_reaches(&mut peers, 0, 1, "unknown peers do not disturb the others").await;
}

async fn stopped_receiver(mut peers: Vec<Peer>) {
    let transport = peers[0].transport.clone();
    peers[2].inbox.close();
    send_in_vain(&*transport, &peers[2].server).await;
    assert_reaches(&mut peers, 0, 1, "a server that has stopped does not disturb the others").await;
}

async fn forgotten(mut peers: Vec<Peer>) {
    let (id, transport) = (peers[0].server.id.clone(), peers[0].transport.clone());
    let to = peers[2].server.id.clone();
    transport.forget(&ServerId::from("nobody"));
    transport.forget(&to);
    transport.forget(&to);
    assert_reaches(&mut peers, 0, 1, "forgetting a peer does not disturb the others").await;
    connect(&id, &*transport, &mut peers[2]).await;
    assert_reaches(&mut peers, 0, 2, "a peer that was forgotten can be reached again").await;
}

async fn assert_closed(transport: &dyn Transport, to: &Server) {
    for lane in LANES {
        let sent = send(transport, lane, to, heartbeat(1)).await;
        assert!(
            matches!(sent, Err(TransportError::Closed)),
            "broken promise: sending over a closed transport is Closed, not {sent:?}"
        );
    }
}

async fn closed(mut peers: Vec<Peer>) {
    let transport = peers[0].transport.clone();
    let both = async { tokio::join!(transport.close(), transport.close()) };
    kept(timeout(DEADLINE, both).await, "a close ends, and so does another beside it");
    kept(timeout(DEADLINE, transport.close()).await, "a third close ends too");
    assert_closed(&*transport, &peers[1].server).await;
    assert_closed(&*transport, &Server::voter("nobody", "not an address")).await;
    let (one, other) = (peers[1].transport.clone(), peers[0].server.clone());
    send_in_vain(&*one, &other).await;
    assert!(
        peers[1].recv_in_time().await.is_none(),
        "broken promise: nothing is sent over a closed transport"
    );
    assert!(
        peers[0].recv_in_time().await.is_none(),
        "broken promise: nothing is received over a closed transport"
    );
    assert_reaches(&mut peers, 1, 2, "the other servers still reach each other").await;
    assert_reaches(&mut peers, 2, 1, "the other servers still reach each other").await;
}

async fn closed_while_waiting(peers: Vec<Peer>) {
    let (transport, to) = (peers[0].transport.clone(), peers[1].server.clone());
    stuff(&*transport, &to, append_bulk).await;
    let waiting = tokio::spawn({
        let (transport, to) = (transport.clone(), to.clone());
        async move { while transport.send_entries(&to, append(1, &[])).await.is_ok() {} }
    });
    tokio::task::yield_now().await;
    kept(timeout(DEADLINE, transport.close()).await, "a close ends though a lane is full");
    kept(
        kept(timeout(DEADLINE, waiting).await, "a close wakes a sender that waits for room"),
        "a sender that waits for room outlives a close",
    );
    assert_closed(&*transport, &to).await;
}

async fn closed_before_start(cluster: Vec<(Server, Arc<dyn Transport>)>) {
    for (server, transport) in cluster {
        kept(timeout(DEADLINE, transport.close()).await, "a transport can be closed unstarted");
        assert_closed(&*transport, &server).await;
        let (sender, _inbox) = Inbox::new(1);
        assert!(
            transport.start(identity(&server), sender).await.is_err(),
            "broken promise: a closed transport does not start"
        );
    }
}
