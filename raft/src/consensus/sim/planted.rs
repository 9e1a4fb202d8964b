//! Bugs planted around the core, to prove that the checkers find them: a disk, a messenger or a state
//! machine that breaks its contract. Bugs inside the core are patches, in `known_bugs`.

use super::{
    bug::Bug,
    checks::Check,
    world::{Event, World, id_of},
};
use crate::{
    consensus::WriteId,
    position::Term,
    rpc::{Envelope, Message},
    stable::HardState,
    status::Role,
};

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
