//! Adding a voter without weakening the cluster: a new server first catches up as a nonvoter, and is
//! promoted when its log lacks little (thesis §4.2.1) and its state machine could serve.
//!
//! Two ordinary membership changes and a wait between them, made by the caller's own future: the
//! core knows nothing of it, so a newcomer that vanishes or is too slow holds up nobody but whoever
//! waits for it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    api::Raft,
    config::Config,
    configuration::{
        ConfigurationChange, IndexedConfiguration, Server, ServerAddress, ServerId, Suffrage,
    },
    error::ConfigurationError,
    fsm::Fsm,
    log::LogIndex,
    observer::Role,
    status::Status,
};

/// How a new voter is added: see the fields of [`Config`] of the same names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CatchUp {
    at_once: bool,
    max_lag: u64,
    timeout: Duration,
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
}

impl<F: Fsm> Raft<F> {
    pub(crate) async fn add_voter_slowly(
        &self,
        id: ServerId,
        address: ServerAddress,
        prev_index: Option<LogIndex>,
        catch_up: CatchUp,
    ) -> Result<LogIndex, ConfigurationError> {
        let IndexedConfiguration { index: latest, configuration } = self.configuration();
        let known = configuration.server(&id);
        let change = |id, address| ConfigurationChange::AddVoter { id, address };
        if known.is_some_and(Server::is_voter) {
            return self.change(change(id, address), prev_index).await;
        }
        // Whoever asks again, to go on waiting, finds the nonvoter that it was made.
        let is_there = self.role() == Role::Leader
            && known.is_some_and(|known| known.address == address)
            && prev_index.is_none_or(|given| given == latest);
        let mut index = match is_there {
            true => latest,
            false => {
                let (id, address) = (id.clone(), address.clone());
                self.change(ConfigurationChange::AddNonvoter { id, address }, prev_index).await?
            }
        };
        let deadline = Instant::now() + catch_up.timeout;
        loop {
            index = self.caught_up(&id, index, deadline, catch_up).await?;
            match self.change(change(id.clone(), address.clone()), Some(index)).await {
                // Somebody else has changed something: look again whether the server is still there.
                Err(
                    ConfigurationError::StaleIndex { .. }
                    | ConfigurationError::ChangeInProgress { .. },
                ) if Instant::now() < deadline => sleep(catch_up.interval).await,
                result => return result,
            }
        }
    }

    /// Adds a nonvoter and waits until it has caught up.
    pub(crate) async fn add_nonvoter_slowly(
        &self,
        id: ServerId,
        address: ServerAddress,
        catch_up: CatchUp,
    ) -> Result<LogIndex, ConfigurationError> {
        let change = ConfigurationChange::AddNonvoter { id: id.clone(), address };
        let index = self.change(change, None).await?;
        self.caught_up(&id, index, Instant::now() + catch_up.timeout, catch_up).await
    }

    /// Waits until a nonvoter has caught up; returns the index of the configuration it is in.
    async fn caught_up(
        &self,
        id: &ServerId,
        mut index: LogIndex,
        deadline: Instant,
        catch_up: CatchUp,
    ) -> Result<LogIndex, ConfigurationError> {
        loop {
            let status = self.status().await?;
            if status.role != Role::Leader {
                return Err(ConfigurationError::LeadershipLost);
            }
            let latest = &status.latest_configuration;
            if index < latest.index {
                index = latest.index;
                let member = latest.configuration.server(id);
                if member.is_none_or(|member| member.suffrage != Suffrage::Nonvoter) {
                    return Err(ConfigurationError::Superseded { id: id.clone(), index });
                }
            }
            let (has_caught_up, lag) = look(&status, id, catch_up);
            let has_answered =
                || status.peers.iter().any(|peer| peer.id == *id && peer.round_trip.is_some());
            if has_caught_up || catch_up.at_once && has_answered() {
                return Ok(index);
            }
            if deadline <= Instant::now() {
                let (id, timeout) = (id.clone(), catch_up.timeout);
                return Err(ConfigurationError::TooSlow { id, lag, timeout });
            }
            sleep(catch_up.interval).await;
        }
    }
}

/// Whether a peer has caught up: it was heard from lately, its log lacks little, and its state machine
/// could serve. And how many entries it has not applied yet.
fn look(status: &Status, id: &ServerId, catch_up: CatchUp) -> (bool, u64) {
    let last = status.last.index;
    let peer = status.peers.iter().find(|peer| peer.id == *id);
    peer.map_or((false, last.0), |peer| {
        let has_log =
            LogIndex::ZERO < peer.match_index && last.since(peer.match_index) <= catch_up.max_lag;
        let is_reachable = peer.last_contact < catch_up.patience;
        let applied = peer.match_index.min(peer.applied_index);
        (has_log && is_reachable && peer.can_serve, last.since(applied))
    })
}
