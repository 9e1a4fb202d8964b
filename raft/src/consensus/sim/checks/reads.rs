//! Linearizable reads (law 12): when a verification succeeds, everything that was committed anywhere
//! when the question was asked, and so every write acknowledged by then, is at or before its read
//! index. And it succeeds only when a majority of the voters has answered, in this term, a question
//! of its round or a later one.

use std::collections::BTreeMap;

use super::{Check, DiskId, is_majority};
use crate::{
    consensus::Verification,
    position::{LogIndex, Term},
};

/// What every server, on each of its disks, has answered to leaders.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers {
    newest: BTreeMap<(DiskId, Term), u64>,
}

impl Answers {
    /// A server says that it follows the leader of `term`, in answer to a question of `round`.
    pub(crate) fn given(&mut self, server: DiskId, term: Term, round: u64) {
        let newest = self.newest.entry((server, term)).or_default();
        *newest = round.max(*newest);
    }

    /// The leader of `term` takes its leadership for confirmed.
    pub(crate) fn confirmed(
        &self,
        leader: DiskId,
        term: Term,
        round: u64,
        voters: &[DiskId],
    ) -> Check {
        let has_answered = |server: &DiskId| {
            *server == leader
                || self.newest.get(&(*server, term)).is_some_and(|newest| round <= *newest)
        };
        ensure!(
            is_majority(voters, has_answered),
            "law 12: {leader:?} is confirmed in term {term} for round {round}, without a majority"
        );
        Ok(())
    }
}

/// A question that has not been answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) verification: Verification,
    /// What was committed when it was asked.
    pub(crate) committed: LogIndex,
}

/// The questions a server has accepted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reads {
    open: Vec<Question>,
}

impl Reads {
    pub(crate) fn asked(&mut self, verification: Verification, committed: LogIndex) {
        self.open.push(Question { verification, committed });
    }

    /// Leadership is confirmed for this round. Returns how many questions that answers.
    pub(crate) fn verified(&mut self, round: u64) -> Result<u64, String> {
        let mut count = 0;
        for question in self.open.extract_if(.., |it| it.verification.round <= round) {
            let Question { verification, committed } = question;
            ensure!(
                committed <= verification.read_index,
                "law 12: stale read at {}, but {committed} was committed when it was asked",
                verification.read_index
            );
            count += 1;
        }
        Ok(count)
    }

    /// Leadership, or the server, is gone: every question ends.
    pub(crate) fn end(&mut self) -> u64 {
        self.open.drain(..).count() as u64
    }

    pub(crate) fn open(&self) -> usize {
        self.open.len()
    }
}

#[test]
fn fires_on_a_read_index_before_what_was_committed() {
    let read = |round, index| Verification { round, read_index: LogIndex(index) };
    let mut check = Reads::default();
    check.asked(read(1, 5), LogIndex(5));
    check.asked(read(2, 5), LogIndex(6));
    assert_eq!(check.verified(1), Ok(1));
    check.verified(2).unwrap_err();
}

#[test]
fn fires_on_a_confirmation_without_a_majority_of_answers_of_the_term() {
    let mut check = Answers::default();
    check.given((1, 7), Term(2), 5);
    let confirmed = |check: &Answers, term, round| {
        check.confirmed((0, 7), Term(term), round, &[(0, 7), (1, 7), (2, 7)])
    };
    confirmed(&check, 2, 5).unwrap();
    confirmed(&check, 2, 6).unwrap_err();
    confirmed(&check, 3, 1).unwrap_err();
    check.given((1, 7), Term(2), 4);
    confirmed(&check, 2, 5).unwrap();
    check.given((1, 8), Term(2), 6);
    confirmed(&check, 2, 6).unwrap_err();
}
