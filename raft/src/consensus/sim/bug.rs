//! The bugs that can be planted around the core.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// The disk reports a write as durable when it takes it.
    AcknowledgesBeforeSync,
    /// A crash loses the newest entry that was synced.
    LosesSyncedEntry,
    /// A restarted server does not remember its vote.
    ForgetsVote,
    /// A restarted server does not remember its term.
    ForgetsTerm,
    /// Answers from another leadership are passed off as answers to the present one.
    MixesSessions,
    /// An answer is sometimes delivered as if another server had given it.
    MixesPeers,
    /// A pre-vote's answer is passed off as a vote.
    MixesVotes,
    /// An order to replicate is carried out although its range was truncated.
    OrdersOutliveTruncation,
    /// The state machine sometimes gets a batch back to front.
    AppliesOutOfOrder,
    /// A snapshot is taken with the newest configuration of the log, committed or not.
    SnapshotsTheNewestConfiguration,
    /// The log on disk forgets one entry more than it was told to.
    CompactsOneMore,
    /// The state machine does not take on the state of a snapshot.
    IgnoresRestore,
    /// Pieces of one snapshot are taken for those of another.
    MixesTransfers,
    /// A snapshot that has arrived is reported, but not kept.
    LosesFinishedSnapshot,
    /// The newest snapshot in the store is sent, whether the core knows it or not.
    SendsWhatIsNotAdopted,
    /// Nobody asks which disk a message comes from, or is meant for.
    AdmitsEverybody,
    /// A disk that is exchanged for another one keeps the number of the old one.
    KeepsIncarnation,
}

impl Bug {
    /// Every bug, and the number of seeds within which it is found.
    pub(super) const ALL: [(Self, u64); 17] = [
        (Self::AcknowledgesBeforeSync, 10),
        (Self::LosesSyncedEntry, 10),
        (Self::ForgetsVote, 1000),
        (Self::ForgetsTerm, 20),
        (Self::MixesSessions, 1000),
        (Self::MixesPeers, 20),
        (Self::MixesVotes, 50),
        (Self::OrdersOutliveTruncation, 1000),
        (Self::AppliesOutOfOrder, 20),
        (Self::SnapshotsTheNewestConfiguration, 100),
        (Self::CompactsOneMore, 100),
        (Self::IgnoresRestore, 100),
        (Self::MixesTransfers, 1000),
        (Self::LosesFinishedSnapshot, 100),
        (Self::SendsWhatIsNotAdopted, 2000),
        (Self::AdmitsEverybody, 1000),
        (Self::KeepsIncarnation, 1000),
    ];

    /// The bug of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().map(|(bug, _)| *bug).find(|bug| format!("{bug:?}") == name)
    }
}
