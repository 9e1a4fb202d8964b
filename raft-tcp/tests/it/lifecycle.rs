//! Binding, starting, closing.

use std::sync::Arc;

use raft::{Inbox, Server, Transport as _, TransportError};
use raft_tcp::{BindError, TcpOptions, TcpTransport};
use tokio::net::TcpStream;

use crate::common::*;

#[tokio::test]
async fn a_port_in_use_is_named_at_once() {
    let a = node("a").await;
    let bind = a.server.address.to_string();
    let error = TcpTransport::bind(options().with(|it| it.bind = bind.clone())).await.unwrap_err();
    assert!(matches!(error, BindError::Listen { .. }));
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("cannot listen on {bind}: Address already in use")),
        "{text}"
    );
}

#[tokio::test]
async fn an_address_nobody_can_dial_is_refused_at_once() {
    let error = TcpTransport::bind(TcpOptions::new("0.0.0.0:0", CLUSTER)).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("invalid setting `advertise`: must be an address the other"),
        "{text}"
    );
    assert!(text.contains("is an unspecified address; give the host:port by which"), "{text}");
    let advertise = Some("node:7000".to_owned());
    let options = TcpOptions::new("0.0.0.0:0", CLUSTER).with(|it| it.advertise = advertise);
    let transport = TcpTransport::bind(options).await.unwrap();
    assert_eq!(transport.local_address().as_str(), "node:7000");
    assert_ne!(transport.bound_address().port(), 0);
}

#[tokio::test]
async fn an_invalid_setting_is_named() {
    let error = TcpTransport::bind(options().with(|it| it.max_inbound = 0)).await.unwrap_err();
    let text = error.to_string();
    assert_eq!(text, "invalid setting `max_inbound`: must be 2 to 65536 connections, but is 0");
}

#[tokio::test]
async fn starting_is_done_once_and_by_somebody() {
    let transport = TcpTransport::bind(options()).await.unwrap();
    let (inbox, _receiver) = Inbox::new(1);
    let to = Server::voter("b", "127.0.0.1:1");
    let error = transport.send(&to, heartbeat(1)).unwrap_err();
    assert_eq!(error.to_string(), "refused: the transport is not started");
    for id in ["", &"x".repeat(256)] {
        let error = transport.start(raft::Identity::new(id), inbox.clone()).await.unwrap_err();
        assert!(matches!(error, TransportError::Refused { .. }), "{error}");
    }
    transport.start(raft::Identity::new("a"), inbox.clone()).await.unwrap();
    let error = transport.start(raft::Identity::new("a"), inbox).await.unwrap_err();
    assert_eq!(error.to_string(), "refused: the transport was started before");
}

#[tokio::test]
async fn messages_to_oneself_or_nobody_are_refused() {
    let a = node("a").await;
    let error = a.transport.send(&a.server, heartbeat(1)).unwrap_err();
    assert_eq!(error.to_string(), "refused: server a sends to itself");
    for id in ["", &"x".repeat(256)] {
        let error = a.transport.send(&Server::voter(id, "h:1"), heartbeat(1)).unwrap_err();
        assert!(matches!(error, TransportError::Refused { .. }), "{error}");
    }
}

#[tokio::test]
async fn close_ends_everything_and_can_be_called_again() {
    let (a, mut b) = (node("a").await, node("b").await);
    talk(&a, &mut b).await;
    let mut inbound = raw_peer("x", &a.server).await;
    soon("close", async { tokio::join!(a.transport.close(), a.transport.close()) }).await;
    soon("close again", a.transport.close()).await;
    raw_closed(&mut inbound).await;
    assert!(TcpStream::connect(a.server.address.as_str()).await.is_err(), "nobody listens");
    assert!(matches!(a.transport.send(&b.server, heartbeat(1)), Err(TransportError::Closed)));
    let sent = a.transport.send_entries(&b.server, append(1, 1)).await;
    assert!(matches!(sent, Err(TransportError::Closed)));
    // The inbox is let go: whoever reads it sees the end.
    let mut inbox = a.inbox;
    soon("the end of the inbox", async { while inbox.recv().await.is_some() {} }).await;
}

#[tokio::test]
async fn close_before_start_frees_the_port_for_good() {
    let transport = TcpTransport::bind(options()).await.unwrap();
    let bind = transport.local_address().to_string();
    transport.close().await;
    let (inbox, _receiver) = Inbox::new(1);
    let error = transport.start(raft::Identity::new("a"), inbox).await.unwrap_err();
    assert!(matches!(error, TransportError::Closed), "{error}");
    TcpTransport::bind(options().with(|it| it.bind = bind)).await.unwrap();
}

#[tokio::test]
async fn dropping_closes_too() {
    let (a, mut b) = (node("a").await, node("b").await);
    talk(&a, &mut b).await;
    let mut inbound = raw_peer("x", &a.server).await;
    let weak = Arc::downgrade(&a.transport);
    drop(a.transport);
    assert!(weak.upgrade().is_none(), "no task holds the transport");
    raw_closed(&mut inbound).await;
    let mut inbox = a.inbox;
    soon("the end of the inbox", async { while inbox.recv().await.is_some() {} }).await;
}

/// Behind the transport of a server that has stopped nobody is to be found.
#[tokio::test]
async fn a_dropped_inbox_ends_the_accepting_side() {
    let (a, b) = (node("a").await, node("b").await);
    drop(b.inbox);
    until("nobody listens", || match a.transport.send(&b.server, heartbeat(1)) {
        Err(TransportError::Unreachable { reason, .. }) => reason.contains("cannot be dialled"),
        _ => false,
    })
    .await;
}
