//! What a run contained. A run that does nothing proves nothing, so the sums are asserted.

use std::fmt;

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(super) struct Stats {
            $($(#[$doc])* pub(super) $name: u64,)*
        }

        impl Stats {
            pub(super) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }
        }

        impl fmt::Display for Stats {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(write!(f, "{}={} ", stringify!($name), self.$name)?;)*
                Ok(())
            }
        }
    };
}

stats! {
    /// Events carried out.
    events,
    /// Simulated milliseconds.
    simulated_ms,
    elections,
    /// Entries that became committed.
    commits,
    /// Proposals acknowledged to a client.
    acknowledged,
    /// Proposals that ended with "leadership lost".
    lost,
    /// Writes that truncated.
    truncations,
    crashes,
    /// Crashes that lost something that was not synced.
    torn,
    restarts,
    /// Configurations that became committed.
    configurations,
    /// Leaders that removed or demoted themselves.
    abdications,
    transfers,
    /// Transfers that succeeded.
    handovers,
    /// Verifications that succeeded.
    verified,
    /// Verifications that ended with the leadership.
    unverified,
    messages,
    lost_messages,
    duplicates,
    partitions,
    stalls,
    pauses,
    /// Faults struck at a chosen moment.
    strikes,
    /// Orders to replicate that were dropped because their range was truncated.
    void_orders,
}
