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

mod health;
mod rules;

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::{sync::Notify, task::JoinHandle, time::Instant};

pub use self::health::{AutopilotConfig, AutopilotState, Promotion, ServerHealth};
use self::rules::{Decision, Memory};
use crate::{
    api::Raft,
    error::{ConfigError, ConfigurationError},
    fsm::Fsm,
    panics::guarded,
    position::LogIndex,
};

/// A running autopilot. Dropping it stops it.
///
/// Start one beside every server of the cluster: only that of the leader acts.
///
/// ```no_run
/// # async fn example<F: raft::Fsm>(raft: raft::Raft<F>) -> Result<(), raft::ConfigError> {
/// use std::time::Duration;
/// use raft::autopilot::{Autopilot, AutopilotConfig, Promotion};
///
/// let config = AutopilotConfig::default().with(|it| {
///     it.promotion = Promotion::All;
///     it.dead_after = Some(Duration::from_secs(3600));
/// });
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
