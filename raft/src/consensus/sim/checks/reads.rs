//! Linearizable reads (law 12): when a verification succeeds, everything that was committed anywhere
//! when the question was asked, and so every write acknowledged by then, is at or before its read
//! index.

use crate::{consensus::Verification, log::LogIndex};

/// A question that has not been answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) verification: Verification,
    /// What was committed when it was asked.
    pub(crate) committed: LogIndex,
}

/// The questions a server has accepted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reads {
    open: Vec<Question>,
}

impl Reads {
    pub(crate) fn asked(&mut self, verification: Verification, committed: LogIndex) {
        self.open.push(Question { verification, committed });
    }

    /// Leadership is confirmed for this round. Returns how many questions that answers.
    pub(crate) fn verified(&mut self, round: u64) -> Result<u64, String> {
        let mut count = 0;
        for question in self.open.extract_if(.., |it| it.verification.round <= round) {
            let Question { verification, committed } = question;
            ensure!(
                committed <= verification.read_index,
                "law 12: stale read at {}, but {committed} was committed when it was asked",
                verification.read_index
            );
            count += 1;
        }
        Ok(count)
    }

    /// Leadership, or the server, is gone: every question ends.
    pub(crate) fn end(&mut self) -> u64 {
        self.open.drain(..).count() as u64
    }

    pub(crate) fn open(&self) -> usize {
        self.open.len()
    }
}

#[test]
fn fires_on_a_read_index_before_what_was_committed() {
    let read = |round, index| Verification { round, read_index: LogIndex(index) };
    let mut check = Reads::default();
    check.asked(read(1, 5), LogIndex(5));
    check.asked(read(2, 5), LogIndex(6));
    assert_eq!(check.verified(1), Ok(1));
    check.verified(2).unwrap_err();
}
