//! Term, commit index, last applied and last snapshot never go back (law 6): the term not even across
//! a restart, as far as anybody was told of it. That a start finds a snapshot for everything its log
//! has forgotten is checked where it reads its disk.

use super::Check;
use crate::position::{LogIndex, Term};

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Monotonic {
    term: Term,
    commit_index: LogIndex,
    last_applied: LogIndex,
    snapshot: LogIndex,
    /// The newest term that a message promised.
    promised: Term,
}

impl Monotonic {
    pub(crate) fn seen(&mut self, term: Term, commit: LogIndex, applied: LogIndex) -> Check {
        ensure!(self.term <= term, "law 6: the term falls from {} to {term}", self.term);
        ensure!(
            self.commit_index <= commit,
            "law 6: the commit index falls from {} to {commit}",
            self.commit_index
        );
        ensure!(
            self.last_applied <= applied && applied <= commit,
            "law 6: last applied goes from {} to {applied}, commit is {commit}",
            self.last_applied
        );
        (self.term, self.commit_index, self.last_applied) = (term, commit, applied);
        Ok(())
    }

    pub(crate) fn snapshot(&mut self, snapshot: LogIndex) -> Check {
        ensure!(
            self.snapshot <= snapshot,
            "law 6: the last snapshot falls from {} to {snapshot}",
            self.snapshot
        );
        self.snapshot = snapshot;
        Ok(())
    }

    pub(crate) fn promised(&mut self, term: Term) {
        self.promised = self.promised.max(term);
    }

    /// What was only in memory is forgotten; what was promised is not.
    pub(crate) fn restarted(&mut self, term: Term) -> Check {
        ensure!(
            self.promised <= term,
            "law 6: the term falls from {} to {term} in a restart",
            self.promised
        );
        *self = Self { term, promised: self.promised, ..Self::default() };
        Ok(())
    }
}

#[test]
fn fires_on_whatever_goes_back() {
    let (term, index) = (Term, LogIndex);
    let mut check = Monotonic::default();
    check.seen(term(2), index(5), index(4)).unwrap();
    check.clone().seen(term(1), index(5), index(4)).unwrap_err();
    check.clone().seen(term(2), index(4), index(4)).unwrap_err();
    check.clone().seen(term(2), index(5), index(3)).unwrap_err();
    check.clone().seen(term(2), index(5), index(6)).unwrap_err();
    check.promised(term(2));
    check.snapshot(index(5)).unwrap();
    check.clone().snapshot(index(4)).unwrap_err();
    check.clone().restarted(term(1)).unwrap_err();
    check.restarted(term(2)).unwrap();
    check.seen(term(2), index(0), index(0)).unwrap();
    check.snapshot(index(3)).unwrap();
}
