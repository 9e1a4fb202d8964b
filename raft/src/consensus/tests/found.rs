//! Bugs that the simulator has found here, each as the shortest schedule that shows it.

use super::cluster::{configuration, n, rules};
use crate::{
    consensus::{Consensus, Refusal, Saved, Time},
    log::{LogId, Term},
    stable::HardState,
};

/// The write of a bootstrap has two parts, the term and the entry. Cut short between them, the
/// server has a term and nothing else, and was refused ever after.
#[test]
fn a_bootstrap_that_was_cut_short_is_repeated() {
    let start = |term| {
        let hard_state = HardState { current_term: Term(term), voted_for: None };
        let saved = Saved::new(hard_state, LogId::ZERO, <_>::default());
        Consensus::new(rules(&n(1)), saved, 1, Time(0))
    };
    for term in [0, 1] {
        let mut core = start(term);
        assert_eq!(core.bootstrap(Time(0), configuration(3, 0)), Ok(()), "term {term}");
        assert_eq!((core.last(), core.term()), (LogId::new(1, 1), Term(1)), "term {term}");
    }
    // It has heard of a cluster.
    let result = start(2).bootstrap(Time(0), configuration(3, 0));
    assert_eq!(result, Err(Refusal::AlreadyBootstrapped));
}
