//! The settings the core sees.

use std::time::Duration;

use super::{Consensus, progress::Progress, time::Time};
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

impl Consensus {
    /// Puts other rules in force, at once: nothing that was promised under the old ones is broken,
    /// and what they allowed and the new ones do not is let run out.
    ///
    /// - A server that waits for a leader goes on waiting from the same moment as before, for as
    ///   long as the new rules say; that may be over already.
    /// - A leader begins a round at once, so that the new lease and patience are measured by answers
    ///   of now and not by those to heartbeats that were further apart. A shorter lease never ends
    ///   later than the one it replaces.
    /// - A window that is larger than the new maximum drains; what is held back in the log beyond
    ///   what the new rules keep is let go.
    /// - A transfer under way keeps its deadline, and a campaign the kind it has.
    ///
    /// # Panics
    /// If the rules are another server's.
    pub fn set_rules(&mut self, now: Time, rules: Rules) {
        assert!(self.rules.id == rules.id, "the rules of {} given to {}", rules.id, self.rules.id);
        let before = std::mem::replace(&mut self.rules, rules);
        if before.election_timeout != self.rules.election_timeout {
            self.reset_election_deadline(self.waiting_since);
        }
        let ask_again_at = now + self.rules.heartbeat_interval;
        if let Some(campaign) = self.role.campaign_mut() {
            campaign.ask_again_at = campaign.ask_again_at.min(ask_again_at);
        }
        let shortened = before.leader_lease_timeout.saturating_sub(self.rules.leader_lease_timeout);
        if let Some(leader) = self.role.leader_mut() {
            leader.majority_contact = now.min(leader.majority_contact + shortened);
            leader.peers.values_mut().for_each(Progress::let_drain);
            self.begin_round(now);
        }
        self.compact();
        self.finish(now);
    }
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
