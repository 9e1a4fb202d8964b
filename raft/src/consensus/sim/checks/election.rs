//! Election safety (law 1): at most one leader per term.

use std::collections::BTreeMap;

use super::Check;
use crate::position::Term;

#[derive(Clone, Debug, Default)]
pub(crate) struct Election {
    leaders: BTreeMap<Term, usize>,
}

impl Election {
    pub(crate) fn elected(&mut self, term: Term, server: usize) -> Check {
        let known = *self.leaders.entry(term).or_insert(server);
        ensure!(known == server, "law 1: servers {known} and {server} both lead term {term}");
        Ok(())
    }

    /// Whether the server was elected in this term.
    pub(crate) fn has_led(&self, term: Term, server: usize) -> bool {
        self.leaders.get(&term) == Some(&server)
    }

    /// Whether the server was elected in a term after this one.
    pub(crate) fn has_led_after(&self, term: Term, server: usize) -> bool {
        self.leaders.range(term.next()..).any(|(_, leader)| *leader == server)
    }
}

#[test]
fn fires_on_a_second_leader_of_a_term() {
    let mut check = Election::default();
    check.elected(Term(2), 0).unwrap();
    check.elected(Term(2), 0).unwrap();
    check.elected(Term(3), 1).unwrap();
    check.elected(Term(2), 1).unwrap_err();
    assert!(check.has_led_after(Term(2), 1) && !check.has_led_after(Term(2), 0));
}
