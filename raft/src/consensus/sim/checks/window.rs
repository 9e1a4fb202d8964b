//! Every queue is bounded: what is under way to a follower, what one message holds, what waits for
//! the disk. Whoever is given narrower settings lets run out what the old ones allowed.

use std::collections::BTreeMap;

use super::Check;
use crate::{
    configuration::ServerId, consensus::Rules, log::Entries, position::LogIndex, status::PeerStatus,
};

/// Beyond the window of writes, timers may add a few.
const WRITES_BY_TIMERS: usize = 64;

/// How far a leader believes its peers to be.
pub(crate) fn peers(peers: &[PeerStatus], last: LogIndex) -> Check {
    for peer in peers {
        ensure!(peer.match_index < peer.next_index, "I5: match reaches next: {peer:?}");
        ensure!(peer.next_index <= last.next(), "I5: next is beyond the log: {peer:?}");
    }
    Ok(())
}

/// The limits of one message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    entries: usize,
    bytes: u64,
}

impl From<&Rules> for Limits {
    fn from(rules: &Rules) -> Self {
        Self { entries: rules.max_append_entries, bytes: rules.max_append_bytes }
    }
}

/// The entries of one order to replicate, which was given under these limits.
pub(crate) fn message(entries: &Entries, limits: Limits) -> Check {
    ensure!(
        entries.len() <= limits.entries
            && (entries.len() <= 1 || entries.cost_bytes() <= limits.bytes),
        "a message of {} entries, {} bytes, is over the limit",
        entries.len(),
        entries.cost_bytes()
    );
    Ok(())
}

/// What was under way when a server was given its settings, and is still.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draining {
    writes: usize,
    inflight: BTreeMap<ServerId, usize>,
}

impl Draining {
    /// The settings change. Returns whether there is more under way than the new ones allow.
    pub(crate) fn begin(&mut self, peers: &[PeerStatus], writes: usize, rules: &Rules) -> bool {
        self.writes = writes;
        self.inflight = peers.iter().map(|peer| (peer.id.clone(), peer.inflight)).collect();
        rules.max_pending_writes < writes
            || self.inflight.values().any(|inflight| rules.max_inflight_appends < *inflight)
    }

    /// The server does not lead.
    pub(crate) fn no_peers(&mut self) {
        self.inflight.clear();
    }

    /// What is under way to the peers of a leader.
    pub(crate) fn peers(&mut self, peers: &[PeerStatus], rules: &Rules) -> Check {
        self.inflight.retain(|id, _| peers.iter().any(|peer| peer.id == *id));
        for peer in peers {
            let mut allowed = rules.max_inflight_appends;
            if let Some(left) = self.inflight.get_mut(&peer.id) {
                allowed = allowed.max(*left);
                *left = peer.inflight.min(*left);
            }
            ensure!(peer.inflight <= allowed, "I5: window overrun: {peer:?}");
        }
        Ok(())
    }

    /// The writes that wait for the disk.
    pub(crate) fn writes(&mut self, pending: usize, rules: &Rules) -> Check {
        let allowed = rules.max_pending_writes.max(self.writes);
        self.writes = pending.min(self.writes);
        ensure!(
            pending <= allowed + WRITES_BY_TIMERS,
            "{pending} writes are pending, {allowed} are allowed"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        config::Config,
        log::{Entry, EntryPayload},
        position::Term,
        status::ProgressState,
    };

    fn rules() -> Rules {
        let config = Config::new("a").with(|it| {
            it.max_inflight_appends = 2;
            it.max_append_entries = 2;
            it.max_append_bytes = 32;
            it.max_pending_writes = 1;
        });
        Rules::from(&config)
    }

    fn peer(match_index: u64, next_index: u64, inflight: usize) -> PeerStatus {
        PeerStatus {
            id: "b".into(),
            progress: ProgressState::Replicate,
            match_index: LogIndex(match_index),
            next_index: LogIndex(next_index),
            lag_entries: 0,
            last_contact: Duration::ZERO,
            round_trip: None,
            is_lost: false,
            is_stalled: false,
            inflight,
            snapshot_received_bytes: None,
            snapshot_size_bytes: None,
            applied_index: LogIndex(match_index),
            can_serve: true,
        }
    }

    #[test]
    fn fires_on_a_window_overrun() {
        let check = |peer: PeerStatus| peers(&[peer], LogIndex(5));
        check(peer(3, 6, 0)).unwrap();
        check(peer(3, 3, 0)).unwrap_err();
        check(peer(3, 7, 0)).unwrap_err();
        let check = |inflight| Draining::default().peers(&[peer(3, 6, inflight)], &rules());
        check(2).unwrap();
        check(3).unwrap_err();
    }

    #[test]
    fn fires_on_a_window_that_does_not_drain() {
        let mut draining = Draining::default();
        let wider = Rules { max_inflight_appends: 9, ..rules() };
        draining.peers(&[peer(3, 6, 5)], &wider).unwrap();
        assert!(draining.begin(&[peer(3, 6, 5)], 70, &rules()));
        draining.peers(&[peer(3, 6, 5)], &rules()).unwrap();
        draining.peers(&[peer(3, 6, 3)], &rules()).unwrap();
        draining.clone().peers(&[peer(3, 6, 4)], &rules()).unwrap_err();
        draining.writes(134, &rules()).unwrap();
        draining.writes(66, &rules()).unwrap();
        draining.clone().writes(131, &rules()).unwrap_err();
        draining.no_peers();
        draining.peers(&[peer(3, 6, 3)], &rules()).unwrap_err();
        assert!(!draining.begin(&[peer(3, 6, 2)], 1, &rules()));
    }

    #[test]
    fn fires_on_too_large_a_message_and_too_many_writes() {
        let noops = |n: u64| {
            let noop = |index| Entry {
                term: Term(1),
                index: LogIndex(index),
                payload: EntryPayload::Noop,
            };
            Entries::new((1..=n).map(noop).collect())
        };
        let limits = Limits { entries: 2, bytes: 32 };
        message(&noops(1), limits).unwrap();
        message(&noops(2), limits).unwrap_err();
        message(&noops(3), Limits { bytes: 1 << 20, ..limits }).unwrap_err();
        Draining::default().writes(1, &rules()).unwrap();
        Draining::default().writes(66, &rules()).unwrap_err();
    }
}
