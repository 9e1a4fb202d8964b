//! Taking back a server whose disk was wiped or exchanged: out of the configuration with the old
//! disk, and in again with whatever disk it has now.
//!
//! Two or three ordinary membership changes, made by the caller's own future. The server is a new
//! one in between, so nothing that it promised on the old disk is counted on.

use tokio::time::{Instant, sleep};

use crate::{
    api::Raft,
    catch_up::CatchUp,
    configuration::{
        ConfigurationChange, IndexedConfiguration, InvalidConfiguration, Server, ServerId, Suffrage,
    },
    error::ConfigurationError,
    fsm::Fsm,
    position::LogIndex,
    status::Role,
};

impl<F: Fsm> Raft<F> {
    pub(crate) async fn rejoin(
        &self,
        id: ServerId,
        catch_up: CatchUp,
    ) -> Result<LogIndex, ConfigurationError> {
        if id == *self.id() {
            return Err(match self.role() {
                Role::Leader => ConfigurationError::LeadsItself { id },
                _ => ConfigurationError::NotLeader { leader: self.leader() },
            });
        }
        let Server { id, address, suffrage, .. } = self.take_out(id, catch_up).await?;
        let deadline = Instant::now() + catch_up.patience();
        loop {
            let (id, address) = (id.clone(), address.clone());
            let added = match suffrage {
                Suffrage::Voter => self.add_voter_slowly(id, address, None, catch_up).await,
                Suffrage::Nonvoter => self.add_nonvoter_slowly(id, address, catch_up).await,
            };
            match added {
                Err(ConfigurationError::ChangeInProgress { .. }) if Instant::now() < deadline => {
                    sleep(catch_up.interval()).await;
                }
                result => return result,
            }
        }
    }

    /// Removes a member; returns what it was.
    async fn take_out(
        &self,
        id: ServerId,
        catch_up: CatchUp,
    ) -> Result<Server, ConfigurationError> {
        let deadline = Instant::now() + catch_up.patience();
        loop {
            let IndexedConfiguration { index, configuration } = self.configuration();
            let change = ConfigurationChange::RemoveServer { id: id.clone() };
            match self.change(change, Some(index)).await {
                Ok(_) => {
                    let unknown = InvalidConfiguration::UnknownServer { id: id.clone() };
                    return configuration.server(&id).cloned().ok_or_else(|| unknown.into());
                }
                // Most likely the leader is recording what it has learned of its members.
                Err(
                    ConfigurationError::StaleIndex { .. }
                    | ConfigurationError::ChangeInProgress { .. }
                    | ConfigurationError::NotReady,
                ) if Instant::now() < deadline => sleep(catch_up.interval()).await,
                Err(error) => return Err(error),
            }
        }
    }
}
