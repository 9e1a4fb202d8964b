//! The library through its public API, on in-memory parts and a paused clock: one module per
//! promise. One program, because linking thirteen costs more than running them.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod add_voter;
mod apply;
mod autopilot;
mod backpressure;
mod bootstrap;
mod concurrency;
mod conformance;
mod determinism;
mod disk_stall;
mod file_log;
mod file_snapshot;
mod futures;
mod futures_table;
mod incarnations;
mod install;
mod logs;
mod membership;
mod metrics;
mod model_apply;
mod model_catalogue;
mod model_elections;
mod model_faults;
mod model_life;
mod model_membership;
mod model_support;
mod model_transfer;
mod observers;
mod owners;
mod planted_defects;
mod readiness;
mod recover;
mod reload;
mod restart;
mod restore;
mod shutdown;
mod slow_fsm;
mod snapshots;
mod status;
mod stood_still;
mod transfer;
mod transfers;
mod verify;
