//! The transport over real sockets.

mod common;
mod talk;
