//! The transport over real sockets.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod back_pressure;
mod common;
mod conformance;
mod elsewhere;
mod hostile;
mod incarnations;
mod lifecycle;
mod log;
mod outage;
mod talk;
