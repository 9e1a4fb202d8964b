//! What the integration tests share: nodes, deadlines, and a second implementation of the wire
//! format, written from `WIRE.md` alone.

use std::{sync::Arc, time::Duration};

use raft::{
    Configuration, Entry, EntryPayload, Inbox, IndexedConfiguration, LogId, LogIndex, Message,
    Server, Term, Transport as _, TransportError,
    rpc::{AppendEntriesRequest, HeartbeatRequest, InstallSnapshotRequest},
};
use raft_tcp::{TcpOptions, TcpTransport};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

pub(crate) const CLUSTER: &str = "test";

/// Longer than anything takes; reached only by a failing test.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) async fn soon<F: Future>(what: &str, work: F) -> F::Output {
    timeout(DEADLINE, work).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    soon(what, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

pub(crate) fn options() -> TcpOptions {
    TcpOptions::new("127.0.0.1:0", CLUSTER).with(|it| it.backoff_max = Duration::from_millis(100))
}

pub(crate) struct Node {
    pub(crate) server: Server,
    pub(crate) transport: Arc<TcpTransport>,
    pub(crate) inbox: raft::Received,
}

pub(crate) async fn node_with(id: &str, options: TcpOptions) -> Node {
    let transport = TcpTransport::bind(options).await.unwrap();
    let (inbox, receiver) = Inbox::new(1024);
    transport.start(raft::Identity::new(id), inbox).await.unwrap();
    let server = Server::voter(id, transport.local_address());
    Node { server, transport, inbox: receiver }
}

pub(crate) async fn node(id: &str) -> Node {
    node_with(id, options()).await
}

pub(crate) fn heartbeat(round: u64) -> Message {
    Message::Heartbeat(HeartbeatRequest {
        term: Term(1),
        round,
        commit_index: LogIndex(0),
        promised: None,
    })
}

pub(crate) fn append(round: u64, bytes: usize) -> Message {
    let payload = EntryPayload::Command(vec![7; bytes].into());
    let entry = Entry { term: Term(1), index: LogIndex(1), payload };
    Message::AppendEntries(AppendEntriesRequest {
        term: Term(1),
        round,
        prev: LogId::ZERO,
        entries: vec![entry].into(),
        commit_index: LogIndex(0),
    })
}

/// A piece of a snapshot; its place tells it from others.
pub(crate) fn piece(number: u64, bytes: usize) -> Message {
    let configuration = Configuration::new([Server::voter("a", "h:1")]);
    Message::InstallSnapshot(InstallSnapshotRequest {
        term: Term(1),
        transfer: 1,
        last: LogId::new(1, 9),
        configuration: IndexedConfiguration { index: LogIndex(1), configuration },
        size_bytes: u64::MAX,
        offset: number,
        checksum: 0,
        data: vec![7; bytes].into(),
    })
}

/// The number by which the tests tell messages apart.
pub(crate) fn round(message: &Message) -> u64 {
    match message {
        Message::Heartbeat(m) => m.round,
        Message::AppendEntries(m) => m.round,
        Message::InstallSnapshot(m) => m.offset,
        other => panic!("unexpected {other}"),
    }
}

/// Sends until something new arrives on both lanes.
pub(crate) async fn talk(from: &Node, to: &mut Node) {
    while to.inbox.try_recv().is_ok() {}
    let base = tokio::time::Instant::now().elapsed().as_nanos() as u64;
    soon("both lanes deliver", async {
        let (mut urgent, mut entries) = (false, false);
        for round in base.. {
            let _ = from.transport.send(&to.server, heartbeat(round));
            let _ = from.transport.send_entries(&to.server, append(round, 100)).await;
            while let Ok(Some(envelope)) = timeout(Duration::from_millis(5), to.inbox.recv()).await
            {
                assert_eq!(envelope.from, from.server.id);
                assert_eq!(envelope.address, from.server.address);
                match envelope.message {
                    Message::Heartbeat(_) => urgent = true,
                    Message::AppendEntries(_) => entries = true,
                    other => panic!("unexpected {other}"),
                }
            }
            if urgent && entries {
                return;
            }
        }
    })
    .await;
}

pub(crate) async fn until_unreachable(from: &Node, to: &Server) -> String {
    let mut text = String::new();
    until("the peer is unreachable", || match from.transport.send(to, heartbeat(0)) {
        Err(TransportError::Unreachable { reason, .. }) => {
            text = reason;
            true
        }
        _ => false,
    })
    .await;
    text
}

/// The hello of `WIRE.md`.
pub(crate) struct RawHello {
    pub(crate) magic: [u8; 8],
    pub(crate) oldest: u16,
    pub(crate) newest: u16,
    pub(crate) lane: u8,
    pub(crate) cluster: String,
    pub(crate) from: String,
    pub(crate) address: String,
    pub(crate) to: String,
    pub(crate) incarnation: u64,
    pub(crate) life: u64,
    pub(crate) number: u64,
    /// How many bytes are missing at the end of the body.
    pub(crate) cut: usize,
}

pub(crate) fn hello(from: &str, to: &str) -> RawHello {
    RawHello {
        magic: *b"raft-tcp",
        oldest: 1,
        newest: 1,
        lane: 1,
        cluster: CLUSTER.to_owned(),
        from: from.to_owned(),
        address: "127.0.0.1:9".to_owned(),
        to: to.to_owned(),
        incarnation: 1,
        life: 2,
        number: 0,
        cut: 0,
    }
}

impl RawHello {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut body = vec![self.lane];
        for text in [&self.cluster, &self.from, &self.address, &self.to] {
            body.extend((text.len() as u16).to_le_bytes());
            body.extend(text.as_bytes());
        }
        for number in [self.incarnation, self.life, self.number] {
            body.extend(number.to_le_bytes());
        }
        body.truncate(body.len() - self.cut);
        let mut rest = Vec::new();
        rest.extend(self.oldest.to_le_bytes());
        rest.extend(self.newest.to_le_bytes());
        rest.extend((body.len() as u16).to_le_bytes());
        rest.extend(body);
        [&self.magic[..], &rest, &crc32fast::hash(&rest).to_le_bytes()].concat()
    }
}

/// Dials `to` and says `bytes`.
pub(crate) async fn raw_dial(to: &Server, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(to.address.as_str()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// The acceptor's answer: code and text.
pub(crate) async fn raw_answer(stream: &mut TcpStream) -> (u8, String) {
    let mut head = [0; 13];
    soon("an answer", stream.read_exact(&mut head)).await.unwrap();
    assert_eq!(&head[..8], b"RAFT-TCP");
    let version = u16::from_le_bytes([head[8], head[9]]);
    let code = head[10];
    assert_eq!(version, u16::from(code == 0));
    let length = usize::from(u16::from_le_bytes([head[11], head[12]]));
    let mut rest = vec![0; length + 4];
    soon("the answer's text", stream.read_exact(&mut rest)).await.unwrap();
    let (text, crc) = rest.split_at(length);
    assert_eq!(crc32fast::hash(&[&head[8..], text].concat()).to_le_bytes(), crc);
    (code, String::from_utf8(text.to_vec()).unwrap())
}

/// Dials as an acceptable peer.
pub(crate) async fn raw_peer(from: &str, to: &Server) -> TcpStream {
    let mut stream = raw_dial(to, &hello(from, to.id.as_str()).bytes()).await;
    assert_eq!(raw_answer(&mut stream).await, (0, String::new()));
    stream
}

/// Waits until the other side has closed; what it still says is ignored.
pub(crate) async fn raw_closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is a close too.
    let _ = soon("the connection is closed", stream.read_to_end(&mut rest)).await;
}

pub(crate) fn raw_frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut rest = Vec::new();
    rest.extend((payload.len() as u32).to_le_bytes());
    rest.extend([1, kind]);
    rest.extend(payload);
    [&crc32fast::hash(&rest).to_le_bytes()[..], &rest].concat()
}

/// The payload of a piece of a snapshot, whatever its configuration is.
pub(crate) fn raw_snapshot(size: u64, offset: u64, configuration: &[u8], data: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    for number in [1, 1, 1, 9, 1, size, offset] {
        payload.extend(u64::to_le_bytes(number));
    }
    payload.extend([0; 4]);
    payload.extend((configuration.len() as u32).to_le_bytes());
    payload.extend(configuration);
    payload.extend(data);
    payload
}

/// A server that says yes to everybody, and what they said: for looking at a dialler.
pub(crate) struct RawServer {
    pub(crate) server: Server,
    pub(crate) listener: TcpListener,
}

impl RawServer {
    pub(crate) async fn listen(id: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Self { server: Server::voter(id, address), listener }
    }

    /// Accepts one connection: its lane, and the stream after the handshake. Those that the
    /// dialler has given up already are passed over.
    pub(crate) async fn accept(&self) -> (u8, TcpStream) {
        loop {
            let (mut stream, _) = soon("a connection", self.listener.accept()).await.unwrap();
            let mut head = [0; 14];
            soon("a hello", stream.read_exact(&mut head)).await.unwrap();
            assert_eq!(&head[..8], b"raft-tcp");
            let mut body = vec![0; usize::from(u16::from_le_bytes([head[12], head[13]])) + 4];
            soon("the hello's body", stream.read_exact(&mut body)).await.unwrap();
            let _ = stream.write_all(&raw_yes()).await;
            // A dialler that is there shows it at once.
            if soon("a first frame", stream.peek(&mut [0])).await.is_ok_and(|bytes| bytes > 0) {
                return (body[0], stream);
            }
        }
    }

    /// Accepts both lanes of one dialler: urgent, entries.
    pub(crate) async fn accept_both(&self) -> (TcpStream, TcpStream) {
        let (lane, first) = self.accept().await;
        let (other, second) = self.accept().await;
        match (lane, other) {
            (1, 2) => (first, second),
            (2, 1) => (second, first),
            lanes => panic!("lanes {lanes:?}"),
        }
    }
}

pub(crate) fn raw_yes() -> Vec<u8> {
    let rest = [1, 0, 0, 0, 0];
    [&b"RAFT-TCP"[..], &rest, &crc32fast::hash(&rest).to_le_bytes()].concat()
}

/// Reads one frame: kind and payload.
pub(crate) async fn raw_read_frame(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut header = [0; 10];
    soon("a frame", stream.read_exact(&mut header)).await.unwrap();
    let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    let mut payload = vec![0; length as usize];
    soon("a payload", stream.read_exact(&mut payload)).await.unwrap();
    assert_eq!(raw_frame(header[9], &payload)[..10], header);
    (header[9], payload)
}

/// Reads frames until one carries a message.
pub(crate) async fn raw_read_message(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    loop {
        let (kind, payload) = raw_read_frame(stream).await;
        if kind != 0 {
            return (kind, payload);
        }
    }
}
