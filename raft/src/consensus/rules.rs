//! The settings the core sees.

use std::time::Duration;

use crate::{config::Config, configuration::ServerId};

/// The part of [`Config`] that concerns the core. Each field has the meaning, unit and range of the
/// field of the same name there.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "documented on the fields of `Config` of the same names")]
pub struct Rules {
    pub id: ServerId,
    pub election_timeout: Duration,
    pub heartbeat_interval: Duration,
    pub leader_lease_timeout: Duration,
    pub write_stall_timeout: Duration,
    pub pre_vote: bool,
    pub max_append_entries: usize,
    pub max_append_bytes: u64,
    pub max_inflight_appends: usize,
    pub max_inflight_bytes: u64,
    pub max_unapplied_entries: u64,
    pub max_unapplied_bytes: u64,
    pub max_pending_writes: usize,
    pub trailing_logs: u64,
    pub max_held_entries: u64,
    pub apply_stall_timeout: Duration,
}

impl From<&Config> for Rules {
    fn from(config: &Config) -> Self {
        Self {
            id: config.local_id.clone(),
            election_timeout: config.election_timeout,
            heartbeat_interval: config.heartbeat_interval,
            leader_lease_timeout: config.leader_lease_timeout,
            write_stall_timeout: config.write_stall_timeout,
            pre_vote: config.pre_vote,
            max_append_entries: config.max_append_entries,
            max_append_bytes: config.max_append_bytes,
            max_inflight_appends: config.max_inflight_appends,
            max_inflight_bytes: config.max_inflight_bytes,
            max_unapplied_entries: config.max_unapplied_entries,
            max_unapplied_bytes: config.max_unapplied_bytes,
            max_pending_writes: config.max_pending_writes,
            trailing_logs: config.trailing_logs,
            max_held_entries: config.max_held_entries,
            apply_stall_timeout: config.apply_stall_timeout,
        }
    }
}

#[cfg(test)]
mod tests;
