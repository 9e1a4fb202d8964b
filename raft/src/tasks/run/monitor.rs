//! What is remembered of a server to report its condition: its timeouts, how long it campaigns, and the
//! figures of the last second.

use std::time::Duration;

use crate::{
    configuration::ServerId,
    consensus::{Consensus, Time},
    position::LogIndex,
    status::{Role, Timeouts},
    tasks::sample::Sampler,
};

/// With this many election timeouts in a row it is not bad luck any more.
const TOO_MANY_ELECTIONS: u64 = 5;

/// See the module.
pub(super) struct Monitor {
    pub(super) sampler: Sampler,
    timeouts: Timeouts,
    elections_in_a_row: u64,
    /// Since when this server campaigns.
    campaigning_since: Option<Time>,
}

impl Monitor {
    /// Of a log that has these bounds at the start.
    pub(super) fn new(bounds: (LogIndex, LogIndex), now: Time) -> Self {
        let (sampler, timeouts) = (Sampler::new(bounds, now), Timeouts::default());
        Self { sampler, timeouts, elections_in_a_row: 0, campaigning_since: None }
    }

    /// A leader is known.
    pub(super) fn has_leader(&mut self) {
        self.elections_in_a_row = 0;
    }

    /// The core has dealt with a timeout: says, once, what was waited for to no avail.
    pub(super) fn note_timeouts(&mut self, server: &ServerId, core: &Consensus) {
        let (term, now) = (core.term(), core.timeouts());
        let before = std::mem::replace(&mut self.timeouts, now);
        if before.lease < now.lease {
            tracing::warn!(%server, %term, "stopped leading: no majority of the voters answers");
        }
        if before.write_stall < now.write_stall {
            tracing::warn!(%server, %term, "stopped leading: the disk has not taken a write for too long");
        }
        if before.apply_stall < now.apply_stall {
            tracing::warn!(
                %server, %term,
                "handing leadership over: the state machine has been behind for too long, and that of another \
                 voter is not"
            );
        }
        if before.election < now.election {
            self.elections_in_a_row += 1;
            if self.elections_in_a_row == TOO_MANY_ELECTIONS {
                let voters = core.latest_configuration().configuration.voters();
                let voters: Vec<&str> = voters.map(|voter| voter.id.as_str()).collect();
                tracing::warn!(
                    %server, %term, voters = voters.join(" "),
                    "no leader for {TOO_MANY_ELECTIONS} election timeouts: a majority of the voters must run \
                     and reach each other"
                );
            }
        }
    }

    /// The role has changed. Returns how long the campaign took, if it was won.
    pub(super) fn role_changed(&mut self, now: Time, role: Role) -> Option<Duration> {
        let since = self.campaigning_since.take();
        match role {
            Role::PreCandidate | Role::Candidate => {
                self.campaigning_since = since.or(Some(now));
                None
            }
            Role::Leader => since.map(|since| now.since(since)),
            Role::Follower => None,
        }
    }
}
