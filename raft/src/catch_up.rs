//! When a new voter has caught up.

use std::time::Duration;

use crate::{config::Config, configuration::ServerId, position::LogIndex, status::Status};

/// How a new voter is added: see the fields of [`Config`] of the same names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CatchUp {
    pub(crate) at_once: bool,
    max_lag: u64,
    pub(crate) timeout: Duration,
    /// How often it is looked how far the newcomer has come.
    interval: Duration,
    /// Without a sign of life for this long it does not count as caught up.
    patience: Duration,
}

impl CatchUp {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            at_once: config.add_voters_at_once,
            max_lag: config.catch_up_lag,
            timeout: config.catch_up_timeout,
            interval: config.heartbeat_interval,
            patience: config.election_timeout,
        }
    }

    /// How often it is looked whether something has changed.
    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }

    /// How long another change may be in the way.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Whether a peer has caught up: it was heard from lately, its log lacks little, and its state machine
    /// could serve. And how many entries it has not applied yet.
    pub(crate) fn look(&self, status: &Status, id: &ServerId) -> (bool, u64) {
        let last = status.last.index;
        let peer = status.peers.iter().find(|peer| peer.id == *id);
        peer.map_or((false, last.0), |peer| {
            let has_log =
                LogIndex::ZERO < peer.match_index && last.since(peer.match_index) <= self.max_lag;
            let is_reachable = peer.last_contact < self.patience;
            let applied = peer.match_index.min(peer.applied_index);
            (has_log && is_reachable && peer.can_serve, last.since(applied))
        })
    }
}
