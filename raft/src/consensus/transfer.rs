//! Leadership transfer (thesis §3.10). Its blocking part belongs to one leadership term and dies
//! with it; only the question "does the target lead now?" outlives the step-down, until its own
//! deadline (law 15; the model's #696).

use super::{
    Consensus,
    action::{Action, TransferFailure},
    refusal::{ProposeRefusal, TransferRefusal},
    role::{LeadershipTransfer, RoleState},
    time::Time,
};
use crate::{
    configuration::ServerId,
    error::Leader,
    rpc::{Message, TimeoutNowRequest},
};

impl Consensus {
    /// Hands leadership to `to`, or to a voter that could serve at once. Ends with
    /// [`Action::TransferDone`]; until then this leader accepts no proposals.
    ///
    /// # Errors
    /// [`TransferRefusal`] when this server does not lead, a transfer is running, the target is this server,
    /// unknown or not a voter, or no other voter can serve.
    pub fn transfer_leadership(
        &mut self,
        now: Time,
        to: Option<&ServerId>,
    ) -> Result<(), TransferRefusal> {
        self.check_leader()?;
        if self.transfer.is_some() {
            return Err(ProposeRefusal::TransferInProgress.into());
        }
        self.check_proposals()?;
        let invalid = |reason: String| Err(TransferRefusal::InvalidTarget { reason });
        let target = match to {
            Some(id) if *id == self.rules.id => {
                return invalid(format!("server {id:?} already leads"));
            }
            Some(id) if !self.membership.is_voter(id) => {
                return invalid(format!("server {id:?} is not a voter"));
            }
            Some(id) => id.clone(),
            None => self.best_target(now)?,
        };
        self.begin_transfer(now, target, true);
        self.finish(now);
        Ok(())
    }

    /// Hands leadership to this voter; whether anybody waits for the result, is said.
    pub(super) fn begin_transfer(&mut self, now: Time, target: ServerId, is_awaited: bool) {
        let deadline = now + self.rules.election_timeout;
        let (target_id, term) = (target.clone(), self.term());
        self.transfer = Some(LeadershipTransfer { target, term, deadline, is_awaited });
        self.replicate(now, &target_id);
        self.continue_transfer(&target_id);
    }

    /// Whether this leader is handing over and accepts nothing meanwhile.
    pub(super) fn check_no_transfer(&self) -> Result<(), ProposeRefusal> {
        match &self.transfer {
            Some(transfer) if transfer.term == self.term() => {
                Err(ProposeRefusal::TransferInProgress)
            }
            _ => Ok(()),
        }
    }

    /// Tells the target to campaign once it has everything. Repeated with each sign of life, since
    /// the message may be lost.
    pub(super) fn continue_transfer(&mut self, peer: &ServerId) {
        let term = self.term();
        let Some(transfer) = &self.transfer else { return };
        if transfer.target != *peer || transfer.term != term {
            return;
        }
        let progress = self.role.leader().and_then(|leader| leader.peers.get(peer));
        if progress.is_some_and(|progress| progress.match_index == self.log.last().index) {
            self.send(peer, Message::TimeoutNow(TimeoutNowRequest { term }));
        }
    }

    /// The current leader hands over to this server. Obeyed only from the leader of the current
    /// term and only by a voter (law 15).
    pub(super) fn handle_timeout_now(&mut self, now: Time, from: &ServerId) {
        let is_from_leader = self.leader.as_ref() == Some(from);
        let is_voter = self.membership.is_voter(&self.rules.id) && !self.is_stranger();
        if is_from_leader
            && is_voter
            && matches!(self.role, RoleState::Follower)
            && !self.is_disk_stalled(now)
            && !self.disk.awaits_answers(now)
        {
            self.campaign(now, true);
        }
    }

    /// Another leader is known: whether the transfer has succeeded is decided now.
    pub(super) fn settle_transfer(&mut self, leader: Option<&Leader>) {
        let Some(leader) = leader else { return };
        let Some(transfer) = self.transfer.take_if(|transfer| transfer.term < leader.term) else {
            return;
        };
        let result = if transfer.target == leader.id {
            Ok(())
        } else {
            Err(TransferFailure::LeadershipLost { leader: Some(leader.clone()) })
        };
        if transfer.is_awaited {
            self.actions.push_back(Action::TransferDone(result));
        }
    }

    /// Gives up in time: a leader that still leads accepts proposals again.
    pub(super) fn handle_transfer_timeout(&mut self) {
        if self.transfer.take().is_none_or(|transfer| !transfer.is_awaited) {
            return;
        }
        let failure = if self.role.leader().is_some() {
            TransferFailure::TimedOut
        } else {
            TransferFailure::LeadershipLost { leader: self.leader() }
        };
        self.actions.push_back(Action::TransferDone(Err(failure)));
    }
}
