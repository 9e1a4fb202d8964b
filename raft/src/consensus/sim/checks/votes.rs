//! One vote per disk and term, judged by the messages that left (law 8).

use std::collections::BTreeMap;

use super::{Check, DiskId};
use crate::position::Term;

#[derive(Clone, Debug, Default)]
pub(crate) struct Votes {
    cast: BTreeMap<(DiskId, Term), usize>,
}

impl Votes {
    /// A message has left that says: in `term`, the server on this disk votes for
    /// `candidate`.
    pub(crate) fn cast(&mut self, voter: DiskId, term: Term, candidate: usize) -> Check {
        let known = *self.cast.entry((voter, term)).or_insert(candidate);
        ensure!(
            known == candidate,
            "law 8: {voter:?} votes for {known} and for {candidate} in term {term}"
        );
        Ok(())
    }
}

#[test]
fn fires_on_a_second_vote() {
    let mut check = Votes::default();
    check.cast((0, 7), Term(2), 1).unwrap();
    check.cast((0, 7), Term(2), 1).unwrap();
    check.cast((0, 7), Term(3), 2).unwrap();
    check.cast((0, 8), Term(2), 2).unwrap();
    check.cast((0, 7), Term(2), 2).unwrap_err();
}
