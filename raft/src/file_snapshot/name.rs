//! What a snapshot is called: `<term>-<index>-<counter>`, in decimal.
//!
//! The name says what the snapshot covers, so that one whose description is damaged is still known
//! to have been there. The counter tells apart snapshots of one place and grows with every one that
//! is begun; no clock is involved.

use std::fmt;

use crate::{position::LogId, snapshot::SnapshotId};

/// Marks the directory of a snapshot that is not finished, or not there any more.
const DRAFT_SUFFIX: &str = ".tmp";

/// A name. Ordered as snapshots are: term, then index, then counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) last: LogId,
    pub(super) counter: u64,
}

impl Name {
    /// The name that is written so. `None` for anything that this module would not have written:
    /// every name has one spelling, and none leads out of the directory.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.splitn(3, '-').map(|number| number.parse().ok());
        let (term, index, counter) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let name = Self { last: LogId::new(term, index), counter };
        (name.to_string() == text).then_some(name)
    }

    /// The name of the snapshot whose draft is written so.
    pub(super) fn parse_draft(text: &str) -> Option<Self> {
        Self::parse(text.strip_suffix(DRAFT_SUFFIX)?)
    }

    /// How the draft of this snapshot is written.
    pub(super) fn draft(self) -> String {
        format!("{self}{DRAFT_SUFFIX}")
    }

    pub(super) fn id(self) -> SnapshotId {
        SnapshotId::new(self.to_string())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.last.term, self.last.index, self.counter)
    }
}
