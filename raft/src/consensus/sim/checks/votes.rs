//! One vote per server and term, judged by the messages that left (law 8).

use std::collections::BTreeMap;

use super::Check;
use crate::log::Term;

#[derive(Clone, Debug, Default)]
pub(crate) struct Votes {
    cast: BTreeMap<(usize, Term), usize>,
}

impl Votes {
    /// A message has left that says: in `term`, `server` votes for `candidate`.
    pub(crate) fn cast(&mut self, server: usize, term: Term, candidate: usize) -> Check {
        let known = *self.cast.entry((server, term)).or_insert(candidate);
        ensure!(
            known == candidate,
            "law 8: server {server} votes for {known} and for {candidate} in term {term}"
        );
        Ok(())
    }
}

#[test]
fn fires_on_a_second_vote() {
    let mut check = Votes::default();
    check.cast(0, Term(2), 1).unwrap();
    check.cast(0, Term(2), 1).unwrap();
    check.cast(0, Term(3), 2).unwrap();
    check.cast(0, Term(2), 2).unwrap_err();
}
