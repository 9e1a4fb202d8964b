//! Messages that promise something wait here until the promise is on disk (law 8).

use std::collections::VecDeque;

use super::action::{Action, WriteId};
use crate::{
    configuration::ServerId,
    position::Term,
    rpc::{AppendEntriesReply, AppendOutcome, InstallOutcome, InstallSnapshotReply, Message},
};

/// A message and the write it waits for.
#[derive(Clone, Debug)]
struct Waiting {
    until: WriteId,
    to: ServerId,
    message: Message,
}

/// Messages waiting for writes, in the order of their writes (I7).
#[derive(Clone, Debug, Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Waiting>,
}

impl Outbox {
    /// Holds a message until `until` is durable. Of signs of life and of repeated requests only the
    /// newest is kept: a stuck disk must not make them pile up.
    pub(super) fn hold(&mut self, until: WriteId, to: ServerId, message: Message) {
        let mut at = self.waiting.partition_point(|waiting| waiting.until <= until);
        let mut alike = self.waiting.range(..at).rev().take_while(|waiting| waiting.until == until);
        let is_repeated =
            |waiting: &Waiting| waiting.to == to && repeats(&message, &waiting.message);
        if let Some(back) = alike.position(is_repeated) {
            at -= 1;
            self.waiting.remove(at - back);
        }
        self.waiting.insert(at, Waiting { until, to, message });
    }

    /// Releases what waited for `written` or an earlier write, in order. Acknowledgements are
    /// cumulative: of consecutive ones to the same leader only the last is sent.
    pub(super) fn release(&mut self, written: WriteId, actions: &mut VecDeque<Action>) {
        while self.waiting.front().is_some_and(|waiting| waiting.until <= written) {
            let Some(Waiting { to, message, .. }) = self.waiting.pop_front() else { return };
            let is_covered = self.waiting.front().is_some_and(|next| {
                next.until <= written && next.to == to && covers(&next.message, &message)
            });
            if !is_covered {
                actions.push_back(Action::Send { to, message });
            }
        }
    }

    /// Drops promises of terms before `current`: whoever waits for them has been deposed.
    pub(super) fn forget_before(&mut self, current: Term) {
        self.waiting.retain(|waiting| current <= waiting.message.term());
    }

    pub(super) fn assert_invariants(&self, written: WriteId) {
        assert!(
            self.waiting.front().is_none_or(|waiting| written < waiting.until),
            "I7: a message waits for a finished write"
        );
    }
}

/// Whether `newer` is the same sign of life or request as `older`, sent once more.
fn repeats(newer: &Message, older: &Message) -> bool {
    match (newer, older) {
        (Message::HeartbeatReply(newer), Message::HeartbeatReply(older)) => {
            newer.term == older.term && older.round <= newer.round
        }
        (Message::RequestVote(newer), Message::RequestVote(older)) => newer == older,
        (Message::InstallSnapshotReply(newer), Message::InstallSnapshotReply(older)) => {
            let is_installed =
                |it: &InstallSnapshotReply| matches!(it.outcome, InstallOutcome::Installed { .. });
            (newer.term, newer.transfer) == (older.term, older.transfer)
                && is_installed(newer) == is_installed(older)
        }
        _ => false,
    }
}

/// Whether `newer` says all that `older` says.
fn covers(newer: &Message, older: &Message) -> bool {
    let matched = |message: &Message| match message {
        Message::AppendEntriesReply(AppendEntriesReply {
            term,
            round,
            outcome: AppendOutcome::Matched { match_index },
        }) => Some((*term, *round, *match_index)),
        _ => None,
    };
    match (matched(newer), matched(older)) {
        (Some((newer_term, newer_round, newer_index)), Some((term, round, index))) => {
            newer_term == term && round <= newer_round && index <= newer_index
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
