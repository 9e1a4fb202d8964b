//! What an autopilot does, as a function of what the leader says and of how long it has been so.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::health::{AutopilotConfig, AutopilotState, Promotion, ServerHealth};
use crate::{
    configuration::{Server, ServerAddress, ServerId},
    position::Term,
    status::{Role, Status},
};

/// One membership change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Promote { id: ServerId, address: ServerAddress },
    Remove { id: ServerId },
}

/// What has to be remembered between two looks; forgotten when leadership changes, because another
/// leader knows nothing of what this one has seen.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The term in which the rest was seen.
    term: Term,
    /// Whether each server was healthy, and since when.
    since: BTreeMap<ServerId, (bool, Instant)>,
}

impl Memory {
    /// Takes in the status of now.
    pub(super) fn look(
        &mut self,
        now: Instant,
        config: &AutopilotConfig,
        status: &Status,
    ) -> AutopilotState {
        if status.role != Role::Leader {
            self.since.clear();
            return AutopilotState::default();
        }
        if self.term != status.term {
            self.term = status.term;
            self.since.clear();
        }
        let members = status.latest_configuration.configuration.servers();
        self.since.retain(|id, _| members.iter().any(|member| member.id == *id));
        let servers: Vec<ServerHealth> =
            members.iter().map(|member| self.health(now, config, status, member)).collect();
        let voters = servers.iter().filter(|server| server.suffrage.is_voter());
        let (count, healthy) = voters.fold((0, 0), |(count, healthy), server| {
            (count + 1, healthy + usize::from(server.is_healthy))
        });
        AutopilotState {
            is_leader: true,
            is_healthy: servers.iter().all(|server| server.is_healthy),
            failure_tolerance: healthy.saturating_sub(count / 2 + 1),
            servers,
        }
    }

    fn health(
        &mut self,
        now: Instant,
        config: &AutopilotConfig,
        status: &Status,
        member: &Server,
    ) -> ServerHealth {
        let peer = status.peers.iter().find(|peer| peer.id == member.id);
        // The leader is no peer of its own.
        let own = (Duration::ZERO, 0, status.marks.applied, status.can_serve);
        let (last_contact, trailing_logs, applied_index, can_serve) = peer.map_or(own, |peer| {
            let trailing_logs = status.last.index.since(peer.match_index);
            (peer.last_contact, trailing_logs, peer.applied_index, peer.can_serve)
        });
        let is_healthy = last_contact <= config.last_contact_threshold
            && trailing_logs <= config.max_trailing_logs
            && can_serve;
        let seen = self.since.entry(member.id.clone()).or_insert((is_healthy, now));
        if seen.0 != is_healthy {
            *seen = (is_healthy, now);
        }
        ServerHealth {
            id: member.id.clone(),
            suffrage: member.suffrage,
            is_healthy,
            unchanged_for: now.duration_since(seen.1),
            last_contact,
            trailing_logs,
            applied_index,
            can_serve,
        }
    }

    /// The one change to be made now, if any: promotions first, because they never make the cluster
    /// weaker; then the dead, nonvoters before voters.
    pub(super) fn decide(
        &self,
        config: &AutopilotConfig,
        status: &Status,
        state: &AutopilotState,
    ) -> Option<Decision> {
        let is_changing = status.latest_configuration.index != status.committed_configuration.index;
        if !state.is_leader || is_changing {
            return None;
        }
        let promoted = state.servers.iter().find(|server| is_promoted(config, server));
        if let Some(server) = promoted {
            let member = status.latest_configuration.configuration.server(&server.id)?;
            let (id, address) = (member.id.clone(), member.address.clone());
            return Some(Decision::Promote { id, address });
        }
        let dead = removable(config, state)?;
        Some(Decision::Remove { id: dead.id.clone() })
    }
}

fn is_promoted(config: &AutopilotConfig, server: &ServerHealth) -> bool {
    let is_meant = match &config.promotion {
        Promotion::Never => false,
        Promotion::All => true,
        Promotion::Only(ids) => ids.contains(&server.id),
    };
    is_meant
        && !server.suffrage.is_voter()
        && server.is_healthy
        && config.stabilization_time <= server.unchanged_for
}

/// A dead server whose removal leaves enough voters, of which a majority is healthy: a cluster that
/// hangs by a thread is not made to hang by a thinner one.
fn removable<'a>(config: &AutopilotConfig, state: &'a AutopilotState) -> Option<&'a ServerHealth> {
    let dead_after = config.dead_after?;
    let is_dead = |server: &&ServerHealth| dead_after <= server.last_contact;
    let nonvoter = state.servers.iter().find(|server| is_dead(server) && !is_voter(server));
    if nonvoter.is_some() {
        return nonvoter;
    }
    let voters = state.servers.iter().filter(|server| is_voter(server));
    let healthy = voters.clone().filter(|server| server.is_healthy).count();
    let left = voters.clone().count().saturating_sub(1);
    let is_safe = config.min_quorum <= left && left / 2 < healthy;
    voters.clone().find(is_dead).filter(|_| is_safe)
}

fn is_voter(server: &ServerHealth) -> bool {
    server.suffrage.is_voter()
}
