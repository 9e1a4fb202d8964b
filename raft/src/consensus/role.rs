//! The part a server plays, and what belongs to that part only.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::{action::WriteId, progress::Progress, time::Time};
use crate::{
    configuration::ServerId,
    position::{LogId, LogIndex, Term},
    status::Role,
};

/// Rounds whose start is remembered at most. They lie so far apart that half of them span a lease;
/// an answer to a round in between counts from the remembered one before it.
pub(super) const MAX_REMEMBERED_ROUNDS: u32 = 1024;

/// The part, with its data: nothing of an earlier part can leak into the next.
#[derive(Clone, Debug)]
pub(super) enum RoleState {
    Follower,
    PreCandidate(Campaign),
    Candidate(Campaign),
    Leader(Box<Leader>),
}

/// A campaign for votes, or for promises of votes.
#[derive(Clone, Debug)]
pub(super) struct Campaign {
    /// Who has granted; this server itself once its own vote is durable.
    pub(super) granted: BTreeSet<ServerId>,
    /// The write that makes the own vote durable.
    pub(super) own_vote: WriteId,
    /// When those who have not granted are asked again: the request may have been lost, or their
    /// patience with the old leader may have run out.
    pub(super) ask_again_at: Time,
    /// Whether the last leader asked for this campaign.
    pub(super) is_leadership_transfer: bool,
}

/// A leadership: belongs to one term (law 15).
#[derive(Clone, Debug)]
pub(super) struct Leader {
    pub(super) term: Term,
    /// The index of this term's first entry, the no-op. Nothing before it commits by counting.
    pub(super) term_start: LogIndex,
    /// Every other server that matters.
    pub(super) peers: BTreeMap<ServerId, Progress>,
    /// Which disks members run on that the configuration does not know yet: what each has said first.
    pub(super) incarnations: BTreeMap<ServerId, u64>,
    /// The current round. Each heartbeat, each verification and each window that has to be sent
    /// anew begins a new one.
    pub(super) round: u64,
    /// When rounds began, oldest first; not all of them are remembered.
    pub(super) rounds: VecDeque<(u64, Time)>,
    /// The newest round a majority has answered.
    pub(super) confirmed_round: u64,
    /// The newest round somebody waits for.
    pub(super) wanted_round: u64,
    /// How many snapshots have been ordered: the number of the newest transfer.
    pub(super) transfers: u64,
    /// Where a user's restore that is under way will end.
    pub(super) restore: Option<LogId>,
    /// What the restores of this leadership have replaced, if there were any.
    pub(super) replaced: Option<Replaced>,
    pub(super) next_heartbeat: Time,
    /// The start of the newest round a majority has answered, or of the leadership; later by as much
    /// as the lease was shortened since.
    pub(super) majority_contact: Time,
    /// When its own state machine had last come far enough, or the leadership began, or it began to be
    /// handed over for that.
    pub(super) served_at: Time,
}

/// The log that a user's restore has replaced. What followers have acknowledged may be of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replaced {
    /// Where the newest restored snapshot ends: a follower with less has entries of the old log.
    pub(super) by: LogIndex,
    /// How far the old log was committed when it was replaced first.
    pub(super) committed: LogIndex,
}

impl RoleState {
    pub(super) fn role(&self) -> Role {
        match self {
            Self::Follower => Role::Follower,
            Self::PreCandidate(_) => Role::PreCandidate,
            Self::Candidate(_) => Role::Candidate,
            Self::Leader(_) => Role::Leader,
        }
    }

    pub(super) fn leader(&self) -> Option<&Leader> {
        match self {
            Self::Leader(leader) => Some(leader),
            Self::Follower | Self::PreCandidate(_) | Self::Candidate(_) => None,
        }
    }

    pub(super) fn leader_mut(&mut self) -> Option<&mut Leader> {
        match self {
            Self::Leader(leader) => Some(leader),
            Self::Follower | Self::PreCandidate(_) | Self::Candidate(_) => None,
        }
    }

    pub(super) fn campaign(&self) -> Option<&Campaign> {
        match self {
            Self::PreCandidate(campaign) | Self::Candidate(campaign) => Some(campaign),
            Self::Follower | Self::Leader(_) => None,
        }
    }

    pub(super) fn campaign_mut(&mut self) -> Option<&mut Campaign> {
        match self {
            Self::PreCandidate(campaign) | Self::Candidate(campaign) => Some(campaign),
            Self::Follower | Self::Leader(_) => None,
        }
    }
}

impl Leader {
    /// Begins a round: what is asked from now on carries its number. Its start is remembered if the
    /// last one remembered lies `apart` or longer back.
    pub(super) fn next_round(&mut self, now: Time, apart: Duration) {
        self.round += 1;
        if self.rounds.back().is_none_or(|(_, began)| *began + apart <= now) {
            self.rounds.push_back((self.round, now));
        }
        while MAX_REMEMBERED_ROUNDS as usize <= self.rounds.len() {
            self.rounds.pop_front();
        }
    }

    /// A moment at which `round` had not begun earlier than: when it began, or, if that is forgotten,
    /// when the newest remembered one before it did.
    pub(super) fn began(&self, round: u64) -> Option<Time> {
        let after = self.rounds.partition_point(|(known, _)| *known <= round);
        self.rounds.get(after.checked_sub(1)?).map(|(_, began)| *began)
    }
}

/// A transfer whose result is awaited.
#[derive(Clone, Debug)]
pub(super) struct LeadershipTransfer {
    pub(super) target: ServerId,
    /// The leadership it belongs to.
    pub(super) term: Term,
    pub(super) deadline: Time,
    /// Whether anybody waits for the result: not if this leader hands over by itself.
    pub(super) is_awaited: bool,
}
