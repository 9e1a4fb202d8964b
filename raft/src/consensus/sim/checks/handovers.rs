//! Leadership is handed over by whoever leads, to a server that has everything (law 15): only then may the
//! target campaign without asking first, against servers that insist on their leader.

use std::collections::BTreeSet;

use super::{Check, election::Election};
use crate::{
    configuration::ServerId,
    position::{LogId, Term},
};

/// The terms whose leaders have told one server to take over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handovers {
    told_in: BTreeSet<Term>,
}

impl Handovers {
    /// Somebody tells the server to take over.
    pub(crate) fn told(&mut self, term: Term, by: usize, election: &Election) {
        if election.has_led(term, by) {
            self.told_in.insert(term);
        }
    }

    /// The server asks for votes in `term` because it was told to take over.
    pub(crate) fn campaigns(&self, me: &ServerId, term: Term) -> Check {
        ensure!(
            self.told_in.iter().any(|told| told.next() == term),
            "law 15: {me} takes over in term {term}, but no leader of the term before has told it to"
        );
        Ok(())
    }
}

/// The leader of `term`, whose log ends with `last`, tells `target` to take over: it is in `target_term`
/// at least, and whether it has that entry, is known.
pub(crate) fn handed_over(
    target: &ServerId,
    (term, last): (Term, LogId),
    target_term: Term,
    has_all: bool,
) -> Check {
    ensure!(
        has_all || term < target_term,
        "law 15: the leader of term {term} hands over to {target}, which does not have {last}"
    );
    Ok(())
}

#[test]
fn fires_on_a_campaign_that_nobody_who_led_has_asked_for() {
    let mut election = Election::default();
    election.elected(Term(2), 0).unwrap();
    let mut check = Handovers::default();
    let campaigns = |check: &Handovers, term| check.campaigns(&"b".into(), Term(term));
    check.told(Term(2), 2, &election);
    campaigns(&check, 3).unwrap_err();
    check.told(Term(2), 0, &election);
    campaigns(&check, 3).unwrap();
    campaigns(&check, 4).unwrap_err();
}

#[test]
fn fires_on_a_target_that_lags_behind() {
    let handed_over = |target_term, has_all| {
        handed_over(&"b".into(), (Term(2), LogId::new(2, 5)), Term(target_term), has_all)
    };
    handed_over(2, true).unwrap();
    handed_over(2, false).unwrap_err();
    handed_over(3, false).unwrap();
}
