//! The callers `run` has promised an answer to.

use std::{collections::VecDeque, time::Duration};

use super::request::{Pending, Waiter};
use crate::{
    consensus::{Time, TransferFailure, Verification, WriteId},
    error::{BootstrapError, TransferError, VerifyError},
    future::Responder,
    pop_if::PopIf as _,
    position::LogIndex,
};

/// Those who wait for something of this node to happen. Whatever is left when this is dropped is
/// answered by the responders themselves: "the node has ended".
pub(super) struct Waiters<R> {
    /// Proposals that are not handed out to the state machine, in the order of the log.
    proposals: VecDeque<Proposals<R>>,
    /// Verifications by round; rounds only grow within a term, and no verification outlives one.
    verifications: VecDeque<(Verification, Vec<Responder<LogIndex, VerifyError>>)>,
    /// Of these, those whose round is confirmed and whose read index is not committed yet: until it is,
    /// nobody can promise that it will be applied.
    reads: VecDeque<(LogIndex, Vec<Responder<LogIndex, VerifyError>>)>,
    /// And how long it was given.
    transfer: Option<(Responder<(), TransferError>, Duration)>,
    bootstrap: Option<(WriteId, Responder<(), BootstrapError>)>,
}

/// What was proposed in one turn.
struct Proposals<R> {
    waiters: Vec<Waiter<R>>,
    since: Time,
}

impl<R> Waiters<R> {
    pub(super) fn new() -> Self {
        Self {
            proposals: VecDeque::new(),
            verifications: VecDeque::new(),
            reads: VecDeque::new(),
            transfer: None,
            bootstrap: None,
        }
    }

    /// Files those who proposed at `since`, in the order of the log.
    pub(super) fn proposed(&mut self, since: Time, waiters: Vec<Waiter<R>>) {
        if !waiters.is_empty() {
            self.proposals.push_back(Proposals { waiters, since });
        }
    }

    /// Those who wait for entries up to `up_to`, and when the first of them proposed. A turn's
    /// proposals are usually committed together, so the list of one turn is passed on as it is.
    pub(super) fn committed(&mut self, up_to: LogIndex) -> Option<(Vec<Waiter<R>>, Time)> {
        let since = self.proposals.front()?.since;
        let front = self.proposals.take_front_if(|front| is_covered(front, up_to));
        let mut waiters = front.map_or_else(Vec::new, |front| front.waiters);
        while let Some(next) = self.proposals.take_front_if(|next| is_covered(next, up_to)) {
            waiters.extend(next.waiters);
        }
        if let Some(next) = self.proposals.front_mut() {
            next.take(up_to, &mut waiters);
        }
        (!waiters.is_empty()).then_some((waiters, since))
    }

    /// Files those who want leadership verified.
    pub(super) fn verifying(
        &mut self,
        verification: Verification,
        responders: Vec<Responder<LogIndex, VerifyError>>,
    ) {
        self.verifications.push_back((verification, responders));
    }

    /// A majority has confirmed leadership in `round`.
    pub(super) fn verified(&mut self, round: u64) {
        while let Some((verification, responders)) =
            self.verifications.take_front_if(|(verification, _)| verification.round <= round)
        {
            self.reads.push_back((verification.read_index, responders));
        }
    }

    /// Everything up to `committed` is committed, and so will be applied: who reads that and has been
    /// confirmed can be answered.
    pub(super) fn readable(&mut self, committed: LogIndex) {
        while let Some((index, responders)) =
            self.reads.take_front_if(|(index, _)| *index <= committed)
        {
            for responder in responders {
                responder.answer(Ok(index));
            }
        }
    }

    /// Nothing that was asked of the leader can be promised any more, but what is committed: that
    /// still goes to the state machine, at the latest when this server's disk has it.
    pub(super) fn stepped_down(&mut self, committed: LogIndex) {
        for Proposals { waiters, .. } in &mut self.proposals {
            let kept = waiters.partition_point(|waiter| waiter.index <= committed);
            waiters.drain(kept..).for_each(|waiter| waiter.answer.lose_leadership());
        }
        self.proposals.retain(|proposals| !proposals.waiters.is_empty());
        let verifying = self.verifications.drain(..).map(|(_, responders)| responders);
        let reading = self.reads.drain(..).map(|(_, responders)| responders);
        for responder in verifying.chain(reading).flatten() {
            responder.answer(Err(VerifyError::LeadershipLost));
        }
    }

    /// A restored snapshot has taken the place of the log and of whatever was proposed. What is read from
    /// now on is of the restored state, which stays only if the entry at `proof` is committed.
    pub(super) fn replaced(&mut self, proof: LogIndex) {
        for (verification, _) in &mut self.verifications {
            verification.read_index = verification.read_index.max(proof);
        }
        for (index, _) in &mut self.reads {
            *index = proof.max(*index);
        }
        for Proposals { waiters, .. } in self.proposals.drain(..) {
            waiters.into_iter().for_each(|waiter| waiter.answer.replace());
        }
    }

    /// Files the one who wants leadership transferred within `timeout`.
    pub(super) fn transferring(
        &mut self,
        responder: Responder<(), TransferError>,
        timeout: Duration,
    ) {
        self.transfer = Some((responder, timeout));
    }

    pub(super) fn transferred(&mut self, result: Result<(), TransferFailure>) {
        let Some((responder, timeout)) = self.transfer.take() else { return };
        responder.answer(result.map_err(|failure| match failure {
            TransferFailure::TimedOut => TransferError::TimedOut { timeout },
            TransferFailure::LeadershipLost { leader } => TransferError::LeadershipLost { leader },
        }));
    }

    /// Files the one who bootstraps, until `write` is durable.
    pub(super) fn bootstrapping(
        &mut self,
        write: WriteId,
        responder: Responder<(), BootstrapError>,
    ) {
        self.bootstrap = Some((write, responder));
    }

    /// Every write up to `id` is durable.
    pub(super) fn written(&mut self, id: WriteId) {
        if let Some((_, responder)) = self.bootstrap.take_if(|(write, _)| *write <= id) {
            responder.answer(Ok(()));
        }
    }
}

impl<R> Proposals<R> {
    /// Moves those who wait for entries up to `up_to` into `waiters`.
    fn take(&mut self, up_to: LogIndex, waiters: &mut Vec<Waiter<R>>) {
        let count = self.waiters.partition_point(|waiter| waiter.index <= up_to);
        waiters.extend(self.waiters.drain(..count));
        if let Some(Waiter { answer: Pending::Batch(batch), .. }) = self.waiters.first_mut()
            && batch.part.first <= up_to
        {
            let answer = Pending::Part(Box::new(batch.split(up_to)));
            waiters.push(Waiter { index: up_to, answer });
        }
    }
}

fn is_covered<R>(proposals: &Proposals<R>, up_to: LogIndex) -> bool {
    proposals.waiters.last().is_some_and(|waiter| waiter.index <= up_to)
}
