//! The transport over real sockets.

mod back_pressure;
mod common;
mod hostile;
mod lifecycle;
mod log;
mod outage;
mod talk;
