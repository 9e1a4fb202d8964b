//! Everything this server does because time has passed.

use super::{Consensus, role::RoleState, time::Time};

/// What is waited for. Deadlines are derived from the state, so none of them can be stale.
#[derive(Clone, Copy, Debug)]
enum Timer {
    /// Asks others again what they remember of this disk, or stops waiting for it.
    DiskQuestion,
    /// No majority has answered this leader for a lease: it steps down (thesis §6.2).
    LeaderLease,
    /// This leader's disk is stuck: it steps down.
    WriteStall,
    /// Begins the next round, and looks at every peer.
    Heartbeat,
    /// No leader was heard from, or the campaign has failed: a new campaign (thesis §3.4).
    Election,
    /// Asks those for their vote again that have not granted it.
    VoteRetry,
    /// Gives up a leadership transfer (thesis §3.10).
    LeadershipTransfer,
}

/// In the order in which they are looked at: a leader that steps down begins no round.
const TIMERS: [Timer; 7] = [
    Timer::DiskQuestion,
    Timer::LeaderLease,
    Timer::WriteStall,
    Timer::Heartbeat,
    Timer::Election,
    Timer::VoteRetry,
    Timer::LeadershipTransfer,
];

impl Consensus {
    /// When [`handle_timeout`](Self::handle_timeout) is next due; `None` if nothing is waited for.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Time> {
        TIMERS.into_iter().filter_map(|timer| self.deadline(timer)).min()
    }

    /// The time of [`next_timeout`](Self::next_timeout) has come. Calling it early changes nothing.
    pub fn handle_timeout(&mut self, now: Time) {
        for timer in TIMERS {
            if self.deadline(timer).is_some_and(|deadline| deadline <= now) {
                self.handle_expired(now, timer);
            }
        }
        self.finish(now);
    }

    fn deadline(&self, timer: Timer) -> Option<Time> {
        if self.disk.is_rolled_back() {
            return None;
        }
        match timer {
            Timer::DiskQuestion => self.disk.question_deadline(),
            Timer::LeaderLease => self.lease_deadline(),
            Timer::WriteStall => {
                self.role.leader()?;
                self.writes.stall_deadline(self.rules.write_stall_timeout)
            }
            Timer::Heartbeat => Some(self.role.leader()?.next_heartbeat),
            Timer::Election => match &self.role {
                RoleState::Leader(_) => None,
                RoleState::PreCandidate(_) | RoleState::Candidate(_) => {
                    Some(self.election.deadline)
                }
                // A server that may not campaign only has a leader to forget.
                RoleState::Follower => {
                    let is_waiting = self.leader.is_some() || self.may_campaign();
                    is_waiting.then_some(self.election.deadline)
                }
            },
            Timer::VoteRetry => self.role.campaign().map(|campaign| campaign.ask_again_at),
            Timer::LeadershipTransfer => self.transfer.as_ref().map(|transfer| transfer.deadline),
        }
    }

    fn handle_expired(&mut self, now: Time, timer: Timer) {
        match timer {
            Timer::DiskQuestion => self.ask_again(now),
            Timer::LeaderLease => {
                self.timeouts.lease += 1;
                self.step_down(now);
            }
            Timer::WriteStall => {
                self.timeouts.write_stall += 1;
                self.step_down(now);
            }
            Timer::Heartbeat => self.handle_heartbeat_timeout(now),
            Timer::Election => self.handle_election_timeout(now),
            Timer::VoteRetry => self.retry_votes(now),
            Timer::LeadershipTransfer => self.handle_transfer_timeout(),
        }
    }
}
