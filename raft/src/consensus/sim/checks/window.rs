//! Every queue is bounded: what is under way to a follower, what one message holds, what waits for
//! the disk.

use super::Check;
use crate::{
    consensus::Rules,
    log::{Entries, LogIndex},
    status::PeerStatus,
};

/// Beyond the window of writes, timers may add a few.
const WRITES_BY_TIMERS: usize = 64;

/// How far a leader believes its peers to be.
pub(crate) fn peers(peers: &[PeerStatus], last: LogIndex, rules: &Rules) -> Check {
    for peer in peers {
        ensure!(peer.match_index < peer.next_index, "I7: match reaches next: {peer:?}");
        ensure!(peer.next_index <= last.next(), "I7: next is beyond the log: {peer:?}");
        ensure!(peer.inflight <= rules.max_inflight_appends, "I7: window overrun: {peer:?}");
    }
    Ok(())
}

/// The entries of one order to replicate.
pub(crate) fn message(entries: &Entries, rules: &Rules) -> Check {
    ensure!(
        entries.len() <= rules.max_append_entries
            && (entries.len() <= 1 || entries.cost_bytes() <= rules.max_append_bytes),
        "a message of {} entries, {} bytes, is over the limit",
        entries.len(),
        entries.cost_bytes()
    );
    Ok(())
}

/// The writes that wait for the disk.
pub(crate) fn writes(pending: usize, rules: &Rules) -> Check {
    ensure!(
        pending <= rules.max_pending_writes + WRITES_BY_TIMERS,
        "{pending} writes are pending, {} are allowed",
        rules.max_pending_writes
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        config::Config,
        log::{Entry, EntryPayload, Term},
        status::ProgressState,
    };

    fn rules() -> Rules {
        let config = Config {
            max_inflight_appends: 2,
            max_append_entries: 2,
            max_append_bytes: 32,
            max_pending_writes: 1,
            ..Config::new("a")
        };
        Rules::from(&config)
    }

    #[test]
    fn fires_on_a_window_overrun() {
        let peer = |match_index, next_index, inflight| PeerStatus {
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
        };
        let check = |peer| peers(&[peer], LogIndex(5), &rules());
        check(peer(3, 6, 2)).unwrap();
        check(peer(3, 6, 3)).unwrap_err();
        check(peer(3, 3, 0)).unwrap_err();
        check(peer(3, 7, 0)).unwrap_err();
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
        message(&noops(1), &rules()).unwrap();
        message(&noops(2), &rules()).unwrap_err();
        message(&noops(3), &Rules { max_append_bytes: 1 << 20, ..rules() }).unwrap_err();
        writes(1, &rules()).unwrap();
        writes(66, &rules()).unwrap_err();
    }
}
