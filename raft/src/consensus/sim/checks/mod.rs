//! The laws, judged from outside by somebody who sees every server, every disk and every message.
//!
//! Each file holds one law and the test that it fires. A checker returns the violation as text.

pub(crate) mod acknowledged;
pub(crate) mod append_only;
pub(crate) mod committed;
pub(crate) mod completeness;
pub(crate) mod configurations;
pub(crate) mod contact;
pub(crate) mod election;
pub(crate) mod handovers;
pub(crate) mod log_matching;
pub(crate) mod monotonic;
pub(crate) mod promises;
pub(crate) mod reads;
pub(crate) mod removals;
pub(crate) mod requests;
pub(crate) mod state_machine;
pub(crate) mod votes;
pub(crate) mod window;

use super::machine::Machine;

/// One of the disks that a server has had: what one has promised, the next knows nothing of.
pub(crate) type DiskId = (usize, u64);

/// `Err` says which law is broken, and how.
pub(crate) type Check = Result<(), String>;

/// The checkers that look at the whole cluster. Those that look at one server belong to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checks {
    pub(crate) election: election::Election,
    pub(crate) votes: votes::Votes,
    pub(crate) log_matching: log_matching::LogMatching,
    pub(crate) leaders: append_only::LeaderLogs,
    pub(crate) committed: committed::Committed,
    pub(crate) answers: reads::Answers,
    pub(crate) state_machine: state_machine::StateMachine,
}

impl Checks {
    /// The data of a user's restore is durable: this snapshot may come to count.
    pub(crate) fn restore_is_durable(&mut self, snapshot: &Machine) {
        self.committed.restore_is_durable(snapshot.applied, &snapshot.configuration);
        self.state_machine.restore_is_durable(snapshot);
    }
}

/// Whether those of `voters` that satisfy the predicate are a majority of them. Deliberately not
/// the function of the core.
pub(crate) fn is_majority<T>(voters: &[T], is_counted: impl Fn(&T) -> bool) -> bool {
    let counted = voters.iter().filter(|voter| is_counted(voter)).count();
    voters.len() < 2 * counted
}
