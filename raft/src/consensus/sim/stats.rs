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
    /// Times that a cluster was cut in two around one server.
    drills,
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
    /// Words of servers that do not lead, that they hand over.
    false_handovers,
    /// Times that a server learned that it was removed.
    removals,
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
    /// Snapshots that servers took of themselves.
    snapshots,
    /// Those that came when a newer one was known already.
    late_snapshots,
    unwanted,
    compactions,
    /// Compactions that kept entries for a follower that was sent a snapshot.
    held,
    /// Orders to replicate that were dropped because their range was compacted.
    compacted_orders,
    /// Orders to send a snapshot.
    shipments,
    pieces,
    /// Times that a snapshot was sent on from where its pieces had stopped arriving.
    resumed,
    /// Snapshots that arrived whole.
    arrived,
    /// Snapshots that could not be sent, or not be kept.
    refused,
    /// Logs that a snapshot took the place of.
    installs,
    /// Those of them that contradicted it.
    conflicts,
    /// Snapshots that only told that the log was committed.
    matching,
    /// State machines that took over the state of a snapshot.
    restores,
    /// Crashes with a snapshot finished whose place in the log was not durable.
    cut_before_reset,
    /// Crashes with the log reset and the state machine not restored.
    cut_before_restore,
    /// Crashes that lost a compaction.
    lost_compactions,
    /// Installations ended by a start.
    ended_at_start,
    /// Starts that handed out what was noted to be committed.
    replays,
    /// Proposals that a snapshot answered.
    superseded,
    /// Users' restores that began,
    user_restores,
    /// took the place of the leader's log,
    user_restores_finished,
    /// and were committed.
    user_restores_committed,
    /// Those whose data was not to be had, or given up.
    cancelled,
    /// Those whose data was removed because the leadership was over.
    withdrawn,
    /// Proposals that a restore replaced.
    replaced,
    /// Crashes with the data of a restore durable and not adopted,
    cut_before_adoption,
    /// adopted, and the log on disk not reset,
    cut_before_own_reset,
    /// or with that durable, and not committed.
    cut_before_majority,
    /// Starts that adopted a restore.
    restored_at_start,
    /// Starts that removed the data of a restore.
    voided_at_start,
    /// Servers that the cluster had gone on without.
    diverged,
    /// Seeds that ended with too many of them.
    stranded,
    /// Servers that were given other settings.
    reloads,
    /// Those that had more under way than these allow.
    narrowed,
    /// Configurations that became committed and said of a server which disk it runs on.
    recorded,
    /// Disks exchanged for empty ones.
    wiped,
    /// Disks exchanged for ones with an earlier state.
    rolled_back,
    /// Servers that were taken back after that.
    rejoined,
    /// Messages that were not admitted: from another disk than the one that was known,
    wrong_senders,
    /// meant for another one,
    wrong_receivers,
    /// or asking an empty one for a vote.
    empty_voters,
    /// Disks that were exchanged for an older copy of themselves; of these, those that were found out, those
    /// that had promised nothing more, and those that nobody could find out.
    older_copies,
    found_out,
    harmless_copies,
    unnoticed_copies,
    /// Messages of an earlier life of their sender.
    over,
    /// Messages of another cluster.
    foreign,
    /// Seeds that ended with a new cluster that only its first leader has heard of.
    unheard,
    /// State machines that stood still for a while.
    hangs,
    /// Times that a leader whose state machine stood still began to hand over.
    handed_over,
    /// Times that a server let others go first in an election.
    let_others,
    /// State machines that stood still for good, and did not lead after that though another could.
    replaced_leaders,
}
