//! The real program `kv`, as processes on this machine, driven by a real Redis client, by HTTP, by
//! `kv ctl`, and by bytes that are neither.

mod backup;
mod clients;
mod cluster;
mod commands;
mod garbage;
mod harness;
mod membership;
mod operate;
mod places;
mod readme;
mod recover;
mod snapshots;
mod start;
mod stores;
