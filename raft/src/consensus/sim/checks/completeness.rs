//! Leader completeness (law 4): an entry committed in a term is in the log of the leader of every
//! later term. The term that counts is the one in which it was committed, not the entry's own.

use super::{Check, append_only::LeaderLogs};
use crate::position::{LogId, Term};

/// The leader of `term` has just been elected and its log is known to `leaders`. `committed` is every
/// committed entry with the term in which it was committed, the newest first.
pub(crate) fn elected(
    term: Term,
    committed: impl Iterator<Item = (LogId, Term)>,
    leaders: &LeaderLogs,
) -> Check {
    for (id, committed_in) in committed {
        ensure!(
            term <= committed_in || leaders.has(term, id),
            "law 4: {id}, committed in term {committed_in}, is missing in the leader of term {term}"
        );
    }
    Ok(())
}

/// An entry has just been committed in `term`, perhaps while a later leader already leads.
pub(crate) fn committed(id: LogId, term: Term, leaders: &LeaderLogs) -> Check {
    for later in leaders.after(term) {
        ensure!(
            leaders.has(later, id),
            "law 4: {id}, committed in term {term}, is missing in the leader of term {later}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    /// The entry of term 2 at index 1 is committed in term 4, by way of index 2.
    fn committed_in_4() -> impl Iterator<Item = (LogId, Term)> {
        [LogId::new(4, 2), LogId::new(2, 1)].map(|id| (id, Term(4))).into_iter()
    }

    #[test]
    fn fires_on_a_later_leader_without_a_committed_entry() {
        let mut leaders = LeaderLogs::default();
        leaders.elected(Term(3), vec![]);
        leaders.elected(Term(5), vec![Term(2), Term(4)]);
        leaders.elected(Term(6), vec![Term(2), Term(5)]);
        // Term 3 is later than the entry, but not later than its commit.
        elected(Term(3), committed_in_4(), &leaders).unwrap();
        elected(Term(5), committed_in_4(), &leaders).unwrap();
        elected(Term(6), committed_in_4(), &leaders).unwrap_err();
    }

    #[test]
    fn fires_on_a_commit_that_a_later_leader_never_saw() {
        let mut leaders = LeaderLogs::default();
        leaders.elected(Term(3), vec![Term(2)]);
        committed(LogId::new(2, 1), Term(2), &leaders).unwrap();
        committed(LogId::new(2, 2), Term(2), &leaders).unwrap_err();
        committed(LogId::new(2, 2), Term(3), &leaders).unwrap();
    }
}
