//! Autopilot: an optional helper that promotes nonvoters once they are healthy, and removes servers
//! that are dead.
//!
//! It is a user of the public handle like any other program, and runs beside the server it was given:
//! once every [`interval`](AutopilotConfig::interval) it looks at [`Raft::status`], and if that
//! server leads, makes at most one membership change, with a compare-and-set on the configuration it
//! has looked at. What is to be changed is decided by [`rules`], a pure function of the status and
//! of how long each server has been healthy.
//!
//! **Deliberately absent:** elections and transfers (the core's business), and any knowledge of
//! processes or machines: a server is dead when its leader has not heard from it for long enough.
//!
//! Source: HashiCorp's raft-autopilot. It differs in that everything is derived from the leader's
//! own status, so there is no list of servers to be supplied by the application.

mod rules;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::{sync::Notify, task::JoinHandle, time::Instant};

use self::rules::{Decision, Memory};
use crate::{
    api::Raft,
    configuration::{ServerId, Suffrage},
    error::{ConfigError, ConfigurationError},
    fsm::Fsm,
    log::LogIndex,
    tasks::guarded,
};

/// The settings of an [`Autopilot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutopilotConfig {
    /// How often the server's status is looked at. Default 2 s; at least 1 ms.
    pub interval: Duration,
    /// A server is healthy if it has answered the leader within this time ... Default 1 s; at least
    /// 1 ms, and better several heartbeats.
    pub last_contact_threshold: Duration,
    /// ... and lacks at most this many entries of the leader's log. Default 1000; may be 0. Beside that, its
    /// state machine must have come far enough ([`PeerStatus::can_serve`](crate::PeerStatus::can_serve)).
    pub max_trailing_logs: u64,
    /// A nonvoter is promoted when it has been healthy, without a break, for this long. Default 10 s;
    /// may be 0.
    pub stabilization_time: Duration,
    /// Which nonvoters are promoted. Default: none.
    pub promotion: Promotion,
    /// A server that the leader has not heard from for this long is dead and is removed. `None`
    /// (default) removes nobody. At least `last_contact_threshold`.
    pub dead_after: Option<Duration>,
    /// Removals leave at least this many voters. Default 3; at least 1.
    pub min_quorum: usize,
}

/// Which nonvoters are promoted.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// A running autopilot. Dropping it stops it.
///
/// Start one beside every server of the cluster: only that of the leader acts.
///
/// ```no_run
/// # async fn example<F: raft::Fsm>(raft: raft::Raft<F>) -> Result<(), raft::ConfigError> {
/// use std::time::Duration;
/// use raft::autopilot::{Autopilot, AutopilotConfig, Promotion};
///
/// let config = AutopilotConfig {
///     promotion: Promotion::All,
///     dead_after: Some(Duration::from_secs(3600)),
///     ..AutopilotConfig::default()
/// };
/// let autopilot = Autopilot::start(raft.clone(), config)?;
/// println!("{} voters may fail", autopilot.state().failure_tolerance);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Autopilot {
    state: Arc<Mutex<AutopilotState>>,
    stop: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Autopilot {
    /// Starts an autopilot beside this server. It ends with the server, with [`stop`](Self::stop),
    /// or when it is dropped. If it panics, the server ends too, with
    /// [`Fatal::Panicked`](crate::Fatal::Panicked).
    ///
    /// # Errors
    /// [`ConfigError`] when a setting breaks its rule.
    ///
    /// # Panics
    /// When called outside a tokio runtime.
    pub fn start<F: Fsm>(raft: Raft<F>, config: AutopilotConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let state = Arc::new(Mutex::new(AutopilotState::default()));
        let stop = Arc::new(Notify::new());
        let pilot = Pilot {
            raft,
            config,
            memory: Memory::default(),
            state: Arc::clone(&state),
            stop: Arc::clone(&stop),
        };
        Ok(Self { state, stop, task: tokio::spawn(pilot.run_guarded()) })
    }

    /// What it knew when it looked last.
    #[must_use]
    pub fn state(&self) -> AutopilotState {
        self.state.lock().clone()
    }

    /// Stops it, and waits until a change under way has been answered.
    ///
    /// # Cancel safety
    /// Dropping the future stops the autopilot at once; a change under way may still happen.
    pub async fn stop(mut self) {
        self.stop.notify_one();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Autopilot {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Pilot<F: Fsm> {
    raft: Raft<F>,
    config: AutopilotConfig,
    memory: Memory,
    state: Arc<Mutex<AutopilotState>>,
    stop: Arc<Notify>,
}

impl<F: Fsm> Pilot<F> {
    /// A server whose autopilot has panicked ends, as by a panic of any other task: it would go on
    /// without what it was told to do, and nobody would know.
    async fn run_guarded(self) {
        let raft = self.raft.clone();
        let ended = guarded("autopilot", async {
            self.run().await;
            Ok(())
        });
        if let Err(fatal) = ended.await {
            raft.stop(fatal);
        }
    }

    async fn run(mut self) {
        loop {
            let Ok(status) = self.raft.status().await else {
                // The server has ended: nothing of what was known is true any more.
                *self.state.lock() = AutopilotState::default();
                return;
            };
            let now = Instant::now();
            let state = self.memory.look(now, &self.config, &status);
            let decision = self.memory.decide(&self.config, &status, &state);
            *self.state.lock() = state;
            if let Some(decision) = decision {
                self.carry_out(decision, status.latest_configuration.index).await;
            }
            tokio::select! {
                biased;
                () = self.stop.notified() => return,
                _ = self.raft.ended() => {}
                () = tokio::time::sleep(self.config.interval) => {}
            }
        }
    }

    /// Whatever keeps a change from happening, the next look finds out what is to be done then.
    async fn carry_out(&self, decision: Decision, looked_at: LogIndex) {
        let server = self.raft.id();
        let (what, id, result) = match decision {
            Decision::Promote { id, address } => {
                let result = self.raft.add_voter(id.clone(), address, Some(looked_at)).await;
                ("promoted", id, result)
            }
            Decision::Remove { id } => {
                ("removed", id.clone(), self.raft.remove_server(id, Some(looked_at)).await)
            }
        };
        match result {
            Ok(index) => tracing::info!(%server, %id, %index, what, "autopilot"),
            Err(
                ConfigurationError::StaleIndex { .. } | ConfigurationError::ChangeInProgress { .. },
            ) => {}
            Err(error) => tracing::warn!(%server, %id, %error, what, "autopilot failed"),
        }
    }
}

#[cfg(test)]
mod tests;
