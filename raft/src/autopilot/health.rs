//! What an autopilot is told, and what it tells.

use crate::{
    configuration::{ServerId, Suffrage},
    error::ConfigError,
    position::LogIndex,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, time::Duration};
/// The settings of an [`Autopilot`](super::Autopilot): start from the defaults and change what differs.
///
/// They can be read from a file, as [`Config`](crate::Config) can: what is absent has its default.
///
/// ```
/// use raft::autopilot::AutopilotConfig;
///
/// let file = r#"{ "promotion": { "only": ["c"] }, "dead_after_seconds": 3600 }"#;
/// let config: AutopilotConfig = serde_json::from_str(file)?;
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct AutopilotConfig {
    /// How often the server's status is looked at. Default 2 s; at least 1 ms.
    #[serde(rename = "interval_seconds", with = "crate::seconds")]
    pub interval: Duration,
    /// A server is healthy if it has answered the leader within this time ... Default 1 s; at least
    /// 1 ms, and better several heartbeats.
    #[serde(rename = "last_contact_threshold_seconds", with = "crate::seconds")]
    pub last_contact_threshold: Duration,
    /// ... and lacks at most this many entries of the leader's log. Default 1000; may be 0. Beside that, its
    /// state machine must have come far enough ([`PeerStatus::can_serve`](crate::PeerStatus::can_serve)).
    pub max_trailing_logs: u64,
    /// A nonvoter is promoted when it has been healthy, without a break, for this long. Default 10 s;
    /// may be 0.
    #[serde(rename = "stabilization_time_seconds", with = "crate::seconds")]
    pub stabilization_time: Duration,
    /// Which nonvoters are promoted. Default: none.
    pub promotion: Promotion,
    /// A server that the leader has not heard from for this long is dead and is removed. `None`
    /// (default) removes nobody. At least `last_contact_threshold`.
    #[serde(rename = "dead_after_seconds", with = "crate::seconds::optional")]
    pub dead_after: Option<Duration>,
    /// Removals leave at least this many voters. Default 3; at least 1.
    pub min_quorum: usize,
}

/// Which nonvoters are promoted. Serialised as `"never"`, `"all"` or `{ "only": [..] }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Promotion {
    /// None: nonvoters stay what they are.
    Never,
    /// Every nonvoter that is healthy for long enough.
    All,
    /// Only these.
    Only(BTreeSet<ServerId>),
}

impl Default for AutopilotConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(2),
            last_contact_threshold: Duration::from_secs(1),
            max_trailing_logs: 1000,
            stabilization_time: Duration::from_secs(10),
            promotion: Promotion::Never,
            dead_after: None,
            min_quorum: 3,
        }
    }
}

impl AutopilotConfig {
    /// These settings after `change`, for use within an expression.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Checks every rule.
    ///
    /// # Errors
    /// [`ConfigError`] names the first field that breaks its rule, and the rule.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let broken = |field, rule: &str| Err(ConfigError { field, rule: rule.to_owned() });
        let tick = Duration::from_millis(1);
        if self.interval < tick {
            return broken("interval", "must be at least 1ms");
        }
        if self.last_contact_threshold < tick {
            return broken("last_contact_threshold", "must be at least 1ms");
        }
        if self.dead_after.is_some_and(|after| after < self.last_contact_threshold) {
            return broken("dead_after", "must be at least last_contact_threshold");
        }
        if self.min_quorum == 0 {
            return broken("min_quorum", "must be at least 1");
        }
        Ok(())
    }
}

/// What an autopilot knows of the cluster. Serialisable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AutopilotState {
    /// Whether the server leads; if not, or if it has ended, nothing below is known.
    pub is_leader: bool,
    /// Whether every server is healthy.
    pub is_healthy: bool,
    /// How many voters may fail now without the cluster losing its majority.
    pub failure_tolerance: usize,
    /// Every member, by id.
    pub servers: Vec<ServerHealth>,
}

/// The health of one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ServerHealth {
    /// Who.
    pub id: ServerId,
    /// Whether it votes.
    pub suffrage: Suffrage,
    /// Whether it has answered lately, and neither its log nor its state machine is far behind.
    pub is_healthy: bool,
    /// How long it has been as it is, healthy or not, as far as this leader can tell.
    pub unchanged_for: Duration,
    /// How long ago it was sent the last message it has answered; zero for the leader.
    pub last_contact: Duration,
    /// How many entries of the leader's log it lacks.
    pub trailing_logs: u64,
    /// How far its state machine has come, as far as the leader knows.
    pub applied_index: LogIndex,
    /// Whether it could answer soon if it led: see
    /// [`PeerStatus::can_serve`](crate::PeerStatus::can_serve).
    pub can_serve: bool,
}
