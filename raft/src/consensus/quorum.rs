//! The one quorum function (law 13): votes, commit, leadership checks and leases all ask it.

use crate::configuration::{Configuration, ServerId};

/// The largest value that a majority of the voters have reached, or `None` without voters.
///
/// For match indices it is the commit index, for rounds the last confirmed round, for contact times
/// the start of the lease, for votes whether the election is won.
pub(super) fn reached_by_majority<T: Ord + Copy>(
    configuration: &Configuration,
    value_of: impl FnMut(&ServerId) -> T,
) -> Option<T> {
    let mut values: Vec<T> =
        configuration.voters().map(|server| &server.id).map(value_of).collect();
    values.sort_unstable_by(|a, b| b.cmp(a));
    // Of n voters, n / 2 + 1 are a majority: the value at position n / 2 is reached by as many.
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests;
