//! Bugs planted around the core, to prove that the checkers find them: a disk, a messenger or a state
//! machine that breaks its contract. Bugs inside the core are patches, in `known_bugs`.

use super::{
    checks::Check,
    world::{Event, World, id_of},
};
use crate::{
    consensus::WriteId,
    log::Term,
    observer::Role,
    rpc::{Envelope, Message},
    stable::HardState,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// The disk reports a write as durable when it takes it.
    AcknowledgesBeforeSync,
    /// A crash loses the newest entry that was synced.
    LosesSyncedEntry,
    /// A restarted server does not remember its vote.
    ForgetsVote,
    /// A restarted server does not remember its term.
    ForgetsTerm,
    /// Answers from another leadership are passed off as answers to the present one.
    MixesSessions,
    /// An answer is sometimes delivered as if another server had given it.
    MixesPeers,
    /// A pre-vote's answer is passed off as a vote.
    MixesVotes,
    /// An order to replicate is carried out although its range was truncated.
    OrdersOutliveTruncation,
    /// The state machine sometimes gets a batch back to front.
    AppliesOutOfOrder,
    /// A snapshot is taken with the newest configuration of the log, committed or not.
    SnapshotsTheNewestConfiguration,
    /// The log on disk forgets one entry more than it was told to.
    CompactsOneMore,
    /// The state machine does not take on the state of a snapshot.
    IgnoresRestore,
    /// Pieces of one snapshot are taken for those of another.
    MixesTransfers,
    /// A snapshot that has arrived is reported, but not kept.
    LosesFinishedSnapshot,
    /// The newest snapshot in the store is sent, whether the core knows it or not.
    SendsWhatIsNotAdopted,
    /// Nobody asks which disk a message comes from, or is meant for.
    AdmitsEverybody,
    /// A disk that is exchanged for another one keeps the number of the old one.
    KeepsIncarnation,
}

impl Bug {
    /// Every bug, and the number of seeds within which it is found.
    pub(super) const ALL: [(Self, u64); 17] = [
        (Self::AcknowledgesBeforeSync, 10),
        (Self::LosesSyncedEntry, 10),
        (Self::ForgetsVote, 1000),
        (Self::ForgetsTerm, 20),
        (Self::MixesSessions, 1000),
        (Self::MixesPeers, 20),
        (Self::MixesVotes, 50),
        (Self::OrdersOutliveTruncation, 1000),
        (Self::AppliesOutOfOrder, 20),
        (Self::SnapshotsTheNewestConfiguration, 100),
        (Self::CompactsOneMore, 100),
        (Self::IgnoresRestore, 100),
        (Self::MixesTransfers, 1000),
        (Self::LosesFinishedSnapshot, 100),
        (Self::SendsWhatIsNotAdopted, 2000),
        (Self::AdmitsEverybody, 1000),
        (Self::KeepsIncarnation, 1000),
    ];

    /// The bug of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().map(|(bug, _)| *bug).find(|bug| format!("{bug:?}") == name)
    }
}

impl World {
    /// What a bad disk does to what it holds when the power goes.
    pub(super) fn spoil_disk(&mut self, server: usize) {
        let image = &mut self.servers[server].disk.image;
        match self.bug {
            Some(Bug::ForgetsVote) => image.hard_state.voted_for = None,
            Some(Bug::ForgetsTerm) => {
                let current_term = image.log.last().term;
                image.hard_state = HardState { current_term, voted_for: None };
            }
            Some(Bug::LosesSyncedEntry) => {
                let last = image.log.last().index;
                if 1 < last.0 && image.log.base().index < last {
                    image.log.truncate(last);
                }
            }
            _ => {}
        }
    }

    /// What a bad disk says when it is given a write.
    pub(super) fn lie_about_the_disk(&mut self, server: usize) -> Check {
        let it = &self.servers[server];
        if self.bug == Some(Bug::AcknowledgesBeforeSync)
            && let Some(alive) = &it.alive
        {
            let (life, WriteId(id)) = (it.life, alive.last_write);
            self.schedule(self.now, Event::Written { server, life, id: WriteId(id) });
        }
        Ok(())
    }

    /// A bad messenger keeps a copy of each answer and delivers it much later.
    pub(super) fn replay_to_another_session(&mut self, to: usize, envelope: &Envelope) {
        let is_answer = is_answer_of_a_follower(&envelope.message);
        if self.bug == Some(Bug::MixesSessions) && is_answer && self.dice.chance(100) {
            let at = self.now + self.dice.within(0..=1_000_000);
            self.schedule(at, Event::Deliver { to, envelope: envelope.clone() });
        }
    }

    /// A bad messenger confuses who sent a message, or changes what it says.
    pub(super) fn forge(&mut self, to: usize, mut envelope: Envelope) -> Envelope {
        let is_answer = is_answer_of_a_follower(&envelope.message);
        if self.bug == Some(Bug::MixesPeers) && is_answer && self.dice.chance(20) {
            let other = self.dice.below(self.servers.len());
            envelope.from = id_of(other);
            envelope.incarnation = self.servers[other].disk.image.incarnation;
            envelope.life = self.servers[other].alive.as_ref().map_or(0, |alive| alive.life);
        }
        let core = self.servers[to].core();
        let term = core.map_or(Term(0), |core| core.term());
        let is_pre_candidate = core.is_some_and(|core| core.role() == Role::PreCandidate);
        match (self.bug, &mut envelope.message) {
            (Some(Bug::MixesSessions), Message::AppendEntriesReply(reply)) => reply.term = term,
            (Some(Bug::MixesSessions), Message::HeartbeatReply(reply)) => reply.term = term,
            (Some(Bug::MixesVotes), Message::RequestVoteReply(reply)) if reply.is_granted => {
                reply.is_pre_vote = is_pre_candidate;
            }
            _ => {}
        }
        envelope
    }
}

fn is_answer_of_a_follower(message: &Message) -> bool {
    matches!(message, Message::AppendEntriesReply(_) | Message::HeartbeatReply(_))
}
