//! Why a call of the core was refused. Each call has a type of its own, with the reasons that it can meet
//! and no others; a refused call has changed nothing.
//!
//! Whoever asked through the handle gets the error beside each type, which names the same reason.

use std::time::Duration;

use crate::{
    configuration::{InvalidConfiguration, ServerId},
    error::{
        ApplyError, BootstrapError, ConfigurationError, Leader, RestoreError, TransferError,
        VerifyError,
    },
    position::LogIndex,
};

/// This server does not lead. All that [`verify_leader`](super::Consensus::verify_leader) and
/// [`finish_restore`](super::Consensus::finish_restore) can be refused for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotLeader {
    /// The leader, if known.
    pub leader: Option<Leader>,
}

/// Why [`propose`](super::Consensus::propose) was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProposeRefusal {
    /// This server does not lead.
    NotLeader {
        /// The leader, if known.
        leader: Option<Leader>,
    },
    /// Leadership is being transferred.
    TransferInProgress,
    /// A user's restore is in progress.
    RestoreInProgress,
}

/// Why [`change_configuration`](super::Consensus::change_configuration) was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeRefusal {
    /// This server does not lead.
    NotLeader {
        /// The leader, if known.
        leader: Option<Leader>,
    },
    /// Leadership is being transferred.
    TransferInProgress,
    /// A user's restore is in progress.
    RestoreInProgress,
    /// The previous configuration is not committed.
    ChangeInProgress {
        /// The index of that configuration.
        index: LogIndex,
    },
    /// The leader has not committed an entry of its own term.
    NotReady,
    /// The compare-and-set index is not the latest configuration's.
    StaleIndex {
        /// What was given.
        given: LogIndex,
        /// What it should have been.
        latest: LogIndex,
    },
    /// The configuration would break a rule.
    Invalid(InvalidConfiguration),
    /// The server that is to become a voter was not heard from: nobody knows its disk.
    Unheard {
        /// That server.
        id: ServerId,
    },
}

/// Why [`transfer_leadership`](super::Consensus::transfer_leadership) was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransferRefusal {
    /// This server does not lead.
    NotLeader {
        /// The leader, if known.
        leader: Option<Leader>,
    },
    /// Leadership is being transferred.
    TransferInProgress,
    /// A user's restore is in progress.
    RestoreInProgress,
    /// The target cannot lead.
    InvalidTarget {
        /// Why.
        reason: String,
    },
    /// No other voter could serve if it led.
    NoneReady {
        /// The voter that is nearest to it.
        voter: ServerId,
        /// How far its state machine has come, as it said last.
        applied: LogIndex,
        /// How far the log is committed.
        committed: LogIndex,
        /// How long ago it was sent the last message it has answered.
        last_contact: Duration,
    },
}

/// Why [`begin_restore`](super::Consensus::begin_restore) was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreRefusal {
    /// This server does not lead.
    NotLeader {
        /// The leader, if known.
        leader: Option<Leader>,
    },
    /// Leadership is being transferred.
    TransferInProgress,
    /// A user's restore is in progress.
    RestoreInProgress,
    /// The previous configuration is not committed.
    ChangeInProgress {
        /// The index of that configuration.
        index: LogIndex,
    },
    /// The leader has not committed an entry of its own term.
    NotReady,
}

/// Why [`bootstrap`](super::Consensus::bootstrap) was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootstrapRefusal {
    /// The configuration would break a rule.
    Invalid(InvalidConfiguration),
    /// The server has state.
    AlreadyBootstrapped,
    /// The server is not a voter of the configuration.
    NotVoter,
}

/// `?` turns the narrower refusal into the wider one, and into the error of its caller.
macro_rules! from_not_leader {
    ($($wider:ident),*) => {$(
        impl From<NotLeader> for $wider {
            fn from(NotLeader { leader }: NotLeader) -> Self {
                Self::NotLeader { leader }
            }
        }
    )*};
}

macro_rules! from_propose_refusal {
    ($($wider:ident),*) => {$(
        impl From<ProposeRefusal> for $wider {
            fn from(refusal: ProposeRefusal) -> Self {
                match refusal {
                    ProposeRefusal::NotLeader { leader } => Self::NotLeader { leader },
                    ProposeRefusal::TransferInProgress => Self::TransferInProgress,
                    ProposeRefusal::RestoreInProgress => Self::RestoreInProgress,
                }
            }
        }
    )*};
}

from_not_leader!(ProposeRefusal, ChangeRefusal, TransferRefusal, RestoreRefusal, VerifyError);
from_propose_refusal!(ChangeRefusal, TransferRefusal, RestoreRefusal);
from_propose_refusal!(ApplyError, ConfigurationError, RestoreError);

impl From<ChangeRefusal> for ConfigurationError {
    fn from(refusal: ChangeRefusal) -> Self {
        match refusal {
            ChangeRefusal::NotLeader { leader } => Self::NotLeader { leader },
            ChangeRefusal::TransferInProgress => Self::TransferInProgress,
            ChangeRefusal::RestoreInProgress => Self::RestoreInProgress,
            ChangeRefusal::ChangeInProgress { index } => Self::ChangeInProgress { index },
            ChangeRefusal::NotReady => Self::NotReady,
            ChangeRefusal::StaleIndex { given, latest } => Self::StaleIndex { given, latest },
            ChangeRefusal::Invalid(invalid) => Self::Invalid(invalid),
            ChangeRefusal::Unheard { id } => Self::Unheard { id },
        }
    }
}

impl From<TransferRefusal> for TransferError {
    fn from(refusal: TransferRefusal) -> Self {
        match refusal {
            TransferRefusal::NotLeader { leader } => Self::NotLeader { leader },
            TransferRefusal::TransferInProgress => Self::TransferInProgress,
            TransferRefusal::RestoreInProgress => Self::RestoreInProgress,
            TransferRefusal::InvalidTarget { reason } => Self::InvalidTarget { reason },
            TransferRefusal::NoneReady { voter, applied, committed, last_contact } => {
                Self::NoneReady { voter, applied, committed, last_contact }
            }
        }
    }
}

impl From<RestoreRefusal> for RestoreError {
    fn from(refusal: RestoreRefusal) -> Self {
        match refusal {
            RestoreRefusal::NotLeader { leader } => Self::NotLeader { leader },
            RestoreRefusal::TransferInProgress => Self::TransferInProgress,
            RestoreRefusal::RestoreInProgress => Self::RestoreInProgress,
            RestoreRefusal::ChangeInProgress { index } => Self::ChangeInProgress { index },
            RestoreRefusal::NotReady => Self::NotReady,
        }
    }
}

impl BootstrapRefusal {
    /// What the caller gets who asked the server `id`.
    pub(crate) fn into_error(self, id: &ServerId) -> BootstrapError {
        match self {
            Self::Invalid(invalid) => BootstrapError::InvalidConfiguration(invalid),
            Self::AlreadyBootstrapped => BootstrapError::AlreadyBootstrapped,
            Self::NotVoter => BootstrapError::NotVoter { id: id.clone() },
        }
    }
}
