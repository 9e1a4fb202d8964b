//! What ends the program early: one line for a person.

use std::fmt;

use raft::{DataDirError, StoreError};

/// A sentence that says what could not be done, and why. Always one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    sentence: String,
    is_usage: bool,
    is_damage: bool,
}

impl Failure {
    pub(crate) fn new(sentence: impl fmt::Display) -> Self {
        let sentence = sentence.to_string();
        let sentence = sentence.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        Self { sentence, is_usage: false, is_damage: false }
    }

    /// A mistake on the command line that shows only when its flags are looked at together.
    pub(crate) fn usage(sentence: impl fmt::Display) -> Self {
        Self { is_usage: true, ..Self::new(sentence) }
    }

    /// What a store of this server has said.
    pub(crate) fn of_store(error: &StoreError) -> Self {
        Self { is_damage: matches!(error, StoreError::Corrupt { .. }), ..Self::new(error) }
    }

    /// Why the data directory cannot be used, and with which flags it could.
    pub(crate) fn of_dir(error: &DataDirError) -> Self {
        match error {
            DataDirError::OtherMembers { .. } => Self::new(format!(
                "{error}, start without --bootstrap and change members with `kv ctl`"
            )),
            DataDirError::HasJoined { .. } => {
                Self::new(format!("{error}; start it without --bootstrap"))
            }
            DataDirError::Damaged { .. } => Self::new(format!(
                "{error}: the id is what --id gave, the cluster what --cluster gave, and without first \
                 members means without --bootstrap"
            )),
            DataDirError::Store(error) => Self::of_store(error),
            error => Self::new(error),
        }
    }

    /// Whether it is that data is damaged, which is for somebody to explain who knows whose it is.
    pub(crate) fn is_damage(&self) -> bool {
        self.is_damage
    }

    pub(crate) fn is_usage(&self) -> bool {
        self.is_usage
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Failure {}
