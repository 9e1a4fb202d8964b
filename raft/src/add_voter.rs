//! Adding a voter without weakening the cluster: a new server first catches up as a nonvoter, and is
//! promoted when its log lacks little (thesis §4.2.1) and its state machine could serve.
//!
//! Two ordinary membership changes and a wait between them, made by the caller's own future: the
//! core knows nothing of it, so a newcomer that vanishes or is too slow holds up nobody but whoever
//! waits for it.

use tokio::time::{Instant, sleep};

use crate::{
    api::Raft,
    catch_up::CatchUp,
    configuration::{
        ConfigurationChange, IndexedConfiguration, Server, ServerAddress, ServerId, Suffrage,
    },
    error::ConfigurationError,
    fsm::Fsm,
    position::LogIndex,
    status::Role,
};

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
                ) if Instant::now() < deadline => sleep(catch_up.interval()).await,
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
            let (has_caught_up, lag) = catch_up.look(&status, id);
            let has_answered =
                || status.peers.iter().any(|peer| peer.id == *id && peer.round_trip.is_some());
            if has_caught_up || catch_up.at_once && has_answered() {
                return Ok(index);
            }
            if deadline <= Instant::now() {
                let (id, timeout) = (id.clone(), catch_up.timeout);
                return Err(ConfigurationError::TooSlow { id, lag, timeout });
            }
            sleep(catch_up.interval()).await;
        }
    }
}
