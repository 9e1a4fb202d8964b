//! The real program `kv`, as processes on this machine, driven by a real Redis client, by HTTP, by
//! `kv ctl`, and by bytes that are neither.

mod cluster;
mod commands;
mod garbage;
mod harness;
mod recover;
mod start;
