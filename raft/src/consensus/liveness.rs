//! When a peer was last heard from, and whether it makes headway.

use std::time::Duration;

use super::time::Time;

/// Signs of life of one peer.
#[derive(Clone, Debug)]
pub(super) struct Liveness {
    /// The newest round it has answered.
    pub(super) acked_round: u64,
    /// When that round began: contact is measured from send time.
    pub(super) contact: Time,
    /// Whether it has been reported as lost.
    pub(super) is_lost: bool,
    /// When its match index last moved, or it needed nothing, or it was lost.
    pub(super) moved_at: Time,
    /// Whether it has been reported as stalled since.
    pub(super) is_stalled: bool,
    /// How long its newest response to a heartbeat took.
    pub(super) round_trip: Option<Duration>,
    /// The newest round in which something could not be sent to it.
    pub(super) failed_round: u64,
}

impl Liveness {
    pub(super) fn new(now: Time) -> Self {
        Self {
            acked_round: 0,
            contact: now,
            is_lost: false,
            moved_at: now,
            is_stalled: false,
            round_trip: None,
            failed_round: 0,
        }
    }

    /// Whether something could not be sent to it, and it has answered nothing that was asked later.
    pub(super) fn is_unreachable(&self) -> bool {
        0 < self.failed_round && self.acked_round <= self.failed_round
    }
}
