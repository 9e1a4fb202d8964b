//! What is logged, and how often.

use std::{
    fmt::{Debug, Write as _},
    sync::{Arc, Mutex},
    time::Duration,
};

use raft::{Server, Transport as _};
use tokio::io::AsyncWriteExt as _;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

use crate::common::*;

/// Keeps every event of level `INFO` or more severe that this crate logs.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn containing(&self, text: &str) -> Vec<String> {
        let lines = self.0.lock().unwrap();
        lines.iter().filter(|line| line.contains(text)).cloned().collect()
    }
}

struct Line(String);

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        write!(self.0, " {}={value}", field.name()).unwrap();
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO && metadata.target().starts_with("raft_tcp")
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn an_outage_is_one_warning_and_its_end_one_line() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let (a, mut b) = (node("a").await, node("b").await);
    talk(&a, &mut b).await;
    let bind = b.server.address.to_string();
    soon("close", b.transport.close()).await;
    until_unreachable(&a, &b.server).await;
    // Time for many attempts.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let warnings = lines.containing("WARN message=no connection to a peer peer=b");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("connection lost: the other side closed it"), "{warnings:?}");
    b = node_with("b", options().with(|it| it.bind = bind)).await;
    talk(&a, &mut b).await;
    let back = || lines.containing("INFO message=a peer is connected again peer=b").len();
    until("the peer is back", || back() == 1).await;
    assert_eq!(lines.0.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_refusal_is_one_warning_on_both_sides() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let (a, b) = (node("a").await, node("b").await);
    let wrong = Server::voter("c", b.server.address.clone());
    until_unreachable(&a, &wrong).await;
    // Time for many attempts.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let reason = "the dialler means server \"c\", but this is \"b\"";
    let of_dialler = lines.containing("WARN message=no connection to a peer peer=c");
    assert_eq!(of_dialler.len(), 1, "{of_dialler:?}");
    assert!(of_dialler[0].contains(reason), "{of_dialler:?}");
    let of_acceptor = lines.containing("WARN message=closed a connection from a peer");
    assert_eq!(of_acceptor.len(), 1, "{of_acceptor:?}");
    assert!(of_acceptor[0].contains(reason), "{of_acceptor:?}");
    assert!(of_acceptor[0].contains("\"a\" at 127.0.0.1"), "{of_acceptor:?}");
}

#[tokio::test]
async fn damage_is_one_warning_with_its_reason_however_often_it_comes() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let b = node("b").await;
    for _ in 0..5 {
        let mut stream = raw_peer("x", &b.server).await;
        let mut frame = raw_frame(1, &[6, 1]);
        frame[0] ^= 1;
        stream.write_all(&frame).await.unwrap();
        raw_closed(&mut stream).await;
    }
    let found = lines.containing("WARN message=closed a connection from a peer");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("fails its checksum"), "{found:?}");
}

/// Every sign of life gives hope, and every attempt takes it away.
#[tokio::test]
async fn an_address_that_refuses_is_one_warning_however_much_its_server_talks() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let a = node("a").await;
    // Bound, so that nobody else gets the port, but not listening.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let b = Server::voter("b", socket.local_addr().unwrap().to_string());
    let mut stream = raw_peer("b", &a.server).await;
    for _ in 0..20 {
        // An attempt that was under way may have taken the hope away before anybody saw it.
        soon("there is hope", async {
            while a.transport.send(&b, heartbeat(1)).is_err() {
                stream.write_all(&raw_frame(0, &[])).await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
        until_unreachable(&a, &b).await;
    }
    let found = lines.0.lock().unwrap().clone();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("WARN message=no connection to a peer peer=b"), "{found:?}");
}

#[tokio::test]
async fn a_peer_that_has_moved_or_is_forgotten_is_not_told_of_as_lost() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let (a, old) = (node("a").await, RawServer::listen("b").await);
    a.transport.send(&old.server, heartbeat(1)).unwrap();
    let (mut urgent, mut entries) = old.accept_both().await;
    let mut new = node("b").await;
    talk(&a, &mut new).await;
    raw_closed(&mut urgent).await;
    raw_closed(&mut entries).await;
    let gone = RawServer::listen("c").await;
    a.transport.send(&gone.server, heartbeat(1)).unwrap();
    let (mut urgent, mut entries) = gone.accept_both().await;
    a.transport.forget(&gone.server.id);
    raw_closed(&mut urgent).await;
    raw_closed(&mut entries).await;
    let found = lines.0.lock().unwrap().clone();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("INFO message=a peer has moved peer=b"), "{found:?}");
}

/// A log that panics at the first warning.
struct Panics;

impl Subscriber for Panics {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN && metadata.target().starts_with("raft_tcp")
    }

    fn event(&self, _: &Event<'_>) {
        panic!("nobody reads the log");
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// A server must not go on without anybody who dials its peers, or lets them in.
#[tokio::test]
async fn a_panic_of_a_task_gives_the_inbox_up() {
    let _guard = tracing::subscriber::set_default(Panics);
    let mut dials = node("a").await;
    dials.transport.send(&Server::voter("b", "127.0.0.1:1"), heartbeat(1)).unwrap();
    assert!(soon("the inbox is given up", dials.inbox.recv()).await.is_none());

    let mut accepts = node_with("c", options().with(|it| it.max_inbound = 2)).await;
    let address = accepts.transport.bound_address();
    let mut strangers = Vec::new();
    for _ in 0..3 {
        strangers.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    assert!(soon("the inbox is given up", accepts.inbox.recv()).await.is_none());
}
