//! RESP, the protocol of Redis: reading requests, writing replies, and what happens in between.
//!
//! [`listen`] accepts connections; a [`session`] serves one of them: it reads what has arrived
//! ([`parse`]), finds out what each request means ([`request`]), lets the router of the server
//! carry it out, and writes the [`Reply`] ([`out`]) in the version of the protocol the client asked for.
//! [`clients`] is the list of them; [`client`] is the other end, used by servers that pass requests on ([`pass`]) and by the demo.

pub(crate) mod client;
pub(crate) mod clients;
pub(crate) mod glob;
pub(crate) mod listen;
pub(crate) mod local;
pub(crate) mod out;
pub(crate) mod parse;
pub(crate) mod pass;
pub(crate) mod read;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod session;

pub(crate) use self::reply::{Protocol, Reply};

/// A request: the name of the command and its arguments, as the client sent them.
pub(crate) type Args = Vec<bytes::Bytes>;
