//! What `run` tells the outside: observations into the log, the metrics and to the observers; figures
//! once a second; and the status.

use std::sync::Arc;

use super::{Run, turn::Mail};
use crate::{
    consensus::Time,
    observer::Observation,
    status::{Status, WrongDisk},
};

impl<R: Send + 'static> Run<R> {
    /// Looks at what is looked at once a second, if that is due.
    pub(super) fn look(&mut self, now: Time, mail: &Mail<R>) {
        if now < self.monitor.sampler.due_at() {
            return;
        }
        let (node, mail) = ((&self.core, &*self.shared), (&mail.requests, &mail.inbox));
        self.monitor.sampler.look(now, node, mail, &self.metrics);
        let own = usize::from(self.inbound.refusals.own().is_some());
        self.metrics.wrong_disks(self.wrong_disks(now).len() + own);
        self.metrics.log_trouble(self.peers.log_trouble().is_some());
    }

    /// Something has happened that the core has told of.
    pub(super) fn observe(&mut self, now: Time, observation: Observation) {
        let mut is_news = true;
        match &observation {
            Observation::RoleChanged { role, .. } => {
                self.metrics.role_changed(*role);
                if let Some(took) = self.monitor.role_changed(now, *role) {
                    self.metrics.elected(took);
                }
            }
            Observation::LeaderChanged { leader } => {
                if leader.is_some() {
                    self.monitor.has_leader();
                }
                self.shared.published.publish_leader(leader.clone());
            }
            Observation::ConfigurationChanged { configuration } => {
                self.peers.set_cluster(self.core.cluster());
                self.shared.published.publish_configuration(configuration);
                self.peers.check_own_address(&configuration.configuration);
                // The leader may have an address now, or another one.
                self.shared.published.publish_leader(self.core.leader());
            }
            // One that cannot be sent is needed again and again.
            Observation::PeerNeedsSnapshot { peer } => is_news = self.peers.needs_snapshot(peer),
            Observation::Removed { .. } if self.shared.config.borrow().shutdown_on_remove => {
                self.turn.ends_at.get_or_insert(self.core.commit_index());
            }
            _ => {}
        }
        if is_news {
            self.log(&observation);
        }
        self.shared.observers.notify(|| observation);
    }

    fn log(&self, observation: &Observation) {
        let (server, term) = (&self.shared.id, self.core.term());
        match observation {
            Observation::RoleChanged { role, term } => {
                tracing::info!(%server, %term, %role, "role changed");
            }
            Observation::LeaderChanged { leader } => {
                let leader = leader.as_ref().map(|leader| &leader.id);
                tracing::info!(%server, %term, ?leader, "leader changed");
            }
            Observation::ConfigurationChanged { configuration } => {
                let (index, members) = (configuration.index, &configuration.configuration);
                tracing::info!(%server, %term, %index, %members, "configuration changed");
            }
            Observation::PeerLost { peer } => tracing::warn!(%server, %term, %peer, "peer lost"),
            Observation::PeerRegained { peer } => {
                tracing::info!(%server, %term, %peer, "peer regained");
            }
            Observation::PeerStalled { peer, match_index } => {
                tracing::warn!(%server, %term, %peer, index = %match_index, "peer stalled");
            }
            Observation::PeerResumed { peer } => {
                tracing::info!(%server, %term, %peer, "peer resumed");
            }
            Observation::VoteRequested { candidate, term, is_pre_vote, is_granted } => {
                tracing::debug!(%server, %term, %candidate, is_pre_vote, is_granted, "vote requested");
            }
            Observation::PeerLostEntries { peer } => {
                tracing::error!(%server, %term, %peer, "peer has lost entries it acknowledged");
            }
            Observation::PeerNeedsSnapshot { peer } => {
                tracing::info!(%server, %term, %peer, "peer needs a snapshot");
            }
            Observation::SnapshotInstalled { last } => {
                tracing::info!(%server, %term, %last, "snapshot installed");
            }
            Observation::Removed { configuration_index } => {
                tracing::warn!(%server, %term, %configuration_index, "removed from the cluster");
            }
            Observation::WrongIncarnation { .. }
            | Observation::WrongCluster { .. }
            | Observation::SnapshotTaken { .. }
            | Observation::SnapshotSent { .. }
            | Observation::SnapshotReceiving { .. }
            | Observation::Sent { .. }
            | Observation::Received { .. } => {}
        }
    }

    fn wrong_disks(&self, now: Time) -> Vec<WrongDisk> {
        self.inbound.refusals.others(now, &self.core.latest_configuration().configuration)
    }

    /// Everything that a node says of itself, at one moment.
    pub(super) fn status(&self, now: Time) -> Status {
        let Self { core, shared, peers: sent, monitor, .. } = self;
        let mut peers = core.peers(now);
        for peer in &mut peers {
            peer.snapshot_size_bytes = sent.snapshot_size_bytes(&peer.id);
        }
        let percent = |share: f64| (share * 100.0).round() as u8;
        let [run, fsm, log] = monitor.sampler.saturation().map(percent);
        let snapshot = shared.published.known_snapshot();
        Status {
            id: shared.id.clone(),
            role: core.role(),
            term: core.term(),
            leader: core.leader(),
            last: core.last(),
            marks: shared.tail.marks(),
            snapshot: snapshot.last,
            snapshot_size_bytes: snapshot.size_bytes,
            snapshot_age: snapshot.since.map(|since| now.since(since)),
            persisting: *shared.published.persisting.lock(),
            receiving: *shared.published.receiving.lock(),
            committed_configuration: core.committed_configuration().clone(),
            latest_configuration: core.latest_configuration().clone(),
            last_contact: core.last_contact(now),
            uptime: now.since(Time(0)),
            oldest_entry_age: monitor.sampler.oldest_age(now),
            last_restore: shared.published.last_restore(),
            run_busy_percent: run,
            fsm_busy_percent: fsm,
            log_busy_percent: log,
            timeouts: core.timeouts(),
            config: Arc::clone(&shared.config.borrow()),
            peers,
            wrong_address: sent.wrong_address().cloned(),
            wrong_disk: self.inbound.refusals.own().cloned(),
            wrong_disks: self.wrong_disks(now),
            can_serve: core.can_serve(),
            log_trouble: sent.log_trouble(),
        }
    }
}
