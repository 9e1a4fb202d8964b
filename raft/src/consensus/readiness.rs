//! How far state machines have come: who could serve if it led.
//!
//! A voter with the whole log may be loading a snapshot, have a long way to apply, or have a state machine
//! that hangs. If it led, every command would wait for that. So followers say in answers to heartbeats how
//! far they have applied; and since entries say nothing about time (a thousand of them may be a
//! millisecond or an hour), a state machine is measured by the clock: it can serve if it has applied
//! what was known to be committed an election timeout ago, or two at most.
//!
//! | who | what |
//! |---|---|
//! | a leader that is to hand over to anybody | chooses among those that can serve |
//! | a leader that could not serve for long | hands over to one of them by itself |
//! | a server that could campaign | lets others go first once if its own state machine is behind |
//! | `add_voter`, the autopilot | wait for it before they give a vote |
//!
//! None of it is a condition of leading: if only a server that is behind can be elected, it is.

use std::{cmp::Reverse, time::Duration};

use super::{
    Consensus,
    progress::Progress,
    refusal::{NotLeader, TransferRefusal},
    time::Time,
};
use crate::configuration::ServerId;

impl Consensus {
    /// Whether the state machine of this server has applied what was known to be committed an election
    /// timeout ago, so that the server could answer soon if it led.
    #[must_use]
    pub fn can_serve(&self) -> bool {
        self.commit.due.index <= self.commit.applied
    }

    /// The same of a peer, as far as this leader knows.
    pub(super) fn peer_can_serve(&self, progress: &Progress) -> bool {
        !progress.liveness.is_lost && self.commit.due.index <= progress.applied_index
    }

    /// Looked at with each heartbeat, as a leader and as a follower.
    pub(super) fn note_committed(&mut self, now: Time) {
        self.commit.due.committed(now, self.commit.index, self.rules.election_timeout);
    }

    /// The voter to hand leadership to: one that can serve. One that the transport does not reach
    /// or that has not answered what others have answered comes last.
    ///
    /// # Errors
    /// [`TransferRefusal::NoneReady`], with the voter that is nearest to it.
    pub(super) fn best_target(&self, now: Time) -> Result<ServerId, TransferRefusal> {
        let Some(leader) = self.role.leader() else {
            return Err(NotLeader { leader: self.leader() }.into());
        };
        let voters = || leader.peers.iter().filter(|(id, _)| self.membership.is_voter(id));
        let patience = self.rules.heartbeat_interval;
        let newest = voters().map(|(_, progress)| progress.liveness.contact).max().unwrap_or(now);
        let ready = voters().filter(|(_, progress)| self.peer_can_serve(progress));
        let best = ready.max_by_key(|(id, progress)| {
            let is_silent = progress.liveness.contact + patience <= newest;
            let round_trip = progress.liveness.round_trip.unwrap_or(Duration::MAX);
            let reach = (!progress.liveness.is_unreachable(), !is_silent);
            let state = (progress.match_index, progress.applied_index);
            (reach, state, progress.liveness.contact, Reverse((round_trip, *id)))
        });
        if let Some((id, _)) = best {
            return Ok(id.clone());
        }
        let nearest = voters().max_by_key(|(id, progress)| {
            (!progress.liveness.is_lost, progress.applied_index, Reverse(*id))
        });
        let Some((voter, progress)) = nearest else {
            let reason = "there is no other voter".to_owned();
            return Err(TransferRefusal::InvalidTarget { reason });
        };
        Err(TransferRefusal::NoneReady {
            voter: voter.clone(),
            applied: progress.applied_index,
            committed: self.commit.index,
            last_contact: now.since(progress.liveness.contact),
        })
    }

    /// A leader that could not serve for `apply_stall_timeout` hands over to a voter that could, if there is
    /// one. Tried again when it could not for as long once more. Looked at with each heartbeat.
    pub(super) fn hand_over_if_behind(&mut self, now: Time) {
        let (can_serve, patience) = (self.can_serve(), self.rules.apply_stall_timeout);
        let Some(leader) = self.role.leader_mut() else { return };
        if can_serve {
            leader.served_at = now;
        }
        if now < leader.served_at + patience
            || self.transfer.is_some()
            || self.check_proposals().is_err()
        {
            return;
        }
        let Ok(target) = self.best_target(now) else { return };
        if let Some(leader) = self.role.leader_mut() {
            leader.served_at = now;
        }
        self.timeouts.apply_stall += 1;
        self.begin_transfer(now, target, false);
    }

    /// Whether this server, whose election timeout is over, waits once more before it campaigns,
    /// because its state machine is behind: longer than all the others wait for the first time.
    ///
    /// It has known of nothing new since the leader fell silent, so a state machine that is well has
    /// applied all that is committed. A server that was just started may not know what is; what counts
    /// then is whether it could take requests.
    pub(super) fn lets_others_go_first(&mut self, now: Time) -> bool {
        let is_new = self.election.leader_contact.is_none();
        let is_behind =
            self.commit.applied < self.commit.index || is_new && self.has_much_to_apply();
        if !is_behind || self.election.has_let_others_go_first {
            return false;
        }
        self.election.has_let_others_go_first = true;
        self.reset_election_deadline(now + self.rules.election_timeout);
        true
    }
}
