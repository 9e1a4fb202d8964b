//! A [`Transport`](raft::Transport) over TCP for the `raft` crate.
//!
//! Give every server a [`TcpTransport`], bound with its [`TcpOptions`], and hand it to
//! `Raft::new`. The transport dials the addresses that stand in the cluster's configuration,
//! reconnects by itself, and refuses whoever is not of this cluster.
//!
//! ```no_run
//! use raft::Transport as _;
//! use raft_tcp::{TcpOptions, TcpTransport};
//!
//! # async fn example() -> Result<(), raft_tcp::BindError> {
//! let mut options = TcpOptions::new("0.0.0.0:7000", "orders");
//! options.advertise = Some("node-1.example:7000".to_owned());
//! let transport = TcpTransport::bind(options).await?;
//! println!("put {} into the configuration", transport.local_address());
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//!
//! - **Two connections to every peer**, one for entries and pieces of snapshots, one for everything
//!   else, so that votes, heartbeats and answers never wait behind a batch or a piece. Each carries
//!   messages one way: from the server that dialled it.
//! - **Nothing is queued without limit.** `send` answers at once; `send_entries` waits for room as
//!   long as the peer is there. A receiver that is saturated stops reading, and TCP passes that on.
//! - **A name is dialled whole**: every address it has gets its turn within
//!   [`TcpOptions::connect_timeout`], so that one that is dead does not hide those after it.
//! - **A server that has moved is reached where it calls from**, as long as it does and its address does not
//!   work: the cluster can elect a leader, and be told of the new address. A server whose address works is
//!   never called elsewhere.
//! - **A lost peer costs nothing.** Its queues are emptied, sends are refused as unreachable, and it
//!   is dialled again after waits that double up to [`TcpOptions::backoff_max`]. Any sign of life
//!   from it ends the wait. The first messages to a new peer wait for the connection to it.
//! - **A dead connection is noticed** after [`TcpOptions::idle_timeout`], also when the network
//!   swallows everything; one that is merely slow is left alone.
//! - **Strangers are refused by name**: another cluster, another protocol, a wrong address, a second
//!   server with the same id. This guards against mistakes, not against attackers: whoever can
//!   reach the port and knows the cluster's name is let in. Keep the port inside a trusted network.
//! - **Damage stays where it is.** Bytes that are not a valid frame close the connection they came
//!   over, and nothing else. Every frame carries a checksum.
//! - **The log tells changes, not attempts**: one warning when a peer is lost or refused, one line
//!   when it is back; the rest is `debug`.
//! - **No task is left behind**: [`close`](raft::Transport::close) returns when all have ended.
//!
//! A received command or piece of 8 KiB or more may share the allocation of the message it came in,
//! which is at most a small multiple of it; smaller ones are copied. A piece of that size goes from
//! its sender to the operating system without a copy. The bytes on the wire are described in
//! `WIRE.md`.

#![cfg_attr(docsrs, feature(doc_cfg))]
// What is public can get fields and variants in any release; where a type is complete, it says why.
#![warn(clippy::exhaustive_structs, clippy::exhaustive_enums)]

mod backoff;
mod codec;
mod connect;
mod connection;
mod frame;
mod handshake;
mod options;
mod peer;
mod queue;
mod server;
mod transport;

/// The program of the README is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use self::{
    connect::connect,
    options::{MAX_ID_BYTES, TcpOptions},
    transport::{BindError, TcpTransport},
};
