//! Each accepted proposal gets exactly one answer (law 16): it is applied where it was accepted, as
//! it was accepted, or leadership ends before it is committed there. The same for transfers.

use std::collections::BTreeMap;

use super::{Check, election::Election};
use crate::{
    consensus::TransferFailure,
    log::{Entry, EntryPayload},
    position::{LogIndex, Term},
};

/// The requests one server has accepted and not answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests {
    proposals: BTreeMap<LogIndex, (Term, EntryPayload)>,
    transfer: Option<Transfer>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    pub(crate) term: Term,
    /// The server asked for, if one was.
    pub(crate) to: Option<usize>,
}

impl Requests {
    pub(crate) fn accepted(&mut self, index: LogIndex, term: Term, payload: EntryPayload) -> Check {
        ensure!(
            self.transfer.is_none_or(|transfer| transfer.term != term),
            "law 15: {index} is accepted while leadership of term {term} is handed over"
        );
        let before = self.proposals.insert(index, (term, payload));
        ensure!(before.is_none(), "law 16: two proposals are accepted at index {index}");
        Ok(())
    }

    /// Returns whether a client was waiting for this entry.
    pub(crate) fn applied(&mut self, entry: &Entry) -> Result<bool, String> {
        let Some((term, payload)) = self.proposals.remove(&entry.index) else { return Ok(false) };
        ensure!(
            term == entry.term && payload == entry.payload,
            "law 16: {payload:?} was accepted at {} in term {term}, but {entry:?} is applied",
            entry.index
        );
        Ok(true)
    }

    /// A snapshot takes the place of what was to be applied up to `index`: those who wait for that
    /// learn that it was committed, and no more. Returns how many they are.
    pub(crate) fn superseded(&mut self, index: LogIndex) -> u64 {
        let later = self.proposals.split_off(&index.next());
        std::mem::replace(&mut self.proposals, later).len() as u64
    }

    /// Leadership ends: whatever is not committed here is given up. Returns how many that are.
    pub(crate) fn stepped_down(&mut self, commit_index: LogIndex) -> u64 {
        self.proposals.split_off(&commit_index.next()).len() as u64
    }

    /// Checked whenever the server does not lead.
    pub(crate) fn not_leading(&self, commit_index: LogIndex) -> Check {
        ensure!(
            self.proposals.keys().next_back().is_none_or(|last| *last <= commit_index),
            "law 16: a server that does not lead has an open proposal beyond {commit_index}"
        );
        Ok(())
    }

    pub(crate) fn transfer_accepted(&mut self, transfer: Transfer) -> Check {
        ensure!(self.transfer.is_none(), "law 15: two transfers are accepted at once");
        self.transfer = Some(transfer);
        Ok(())
    }

    pub(crate) fn transfer_done(
        &mut self,
        result: &Result<(), TransferFailure>,
        election: &Election,
    ) -> Check {
        let Some(Transfer { term, to }) = self.transfer.take() else {
            return Err("law 16: a transfer ends that was not asked for".to_owned());
        };
        ensure!(
            result.is_err() || to.is_none_or(|to| election.has_led_after(term, to)),
            "law 15: a transfer to {to:?} succeeds, which has led no term after {term}"
        );
        Ok(())
    }

    /// How many are open.
    pub(crate) fn open(&self) -> usize {
        self.proposals.len() + usize::from(self.transfer.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted() -> Requests {
        let mut check = Requests::default();
        check.accepted(LogIndex(3), Term(2), EntryPayload::Noop).unwrap();
        check
    }

    fn entry(term: u64, payload: EntryPayload) -> Entry {
        Entry { term: Term(term), index: LogIndex(3), payload }
    }

    #[test]
    fn fires_on_another_entry_applied_in_its_place() {
        assert_eq!(accepted().applied(&entry(2, EntryPayload::Noop)), Ok(true));
        accepted().applied(&entry(3, EntryPayload::Noop)).unwrap_err();
        accepted().applied(&entry(2, EntryPayload::Barrier)).unwrap_err();
    }

    #[test]
    fn fires_on_a_proposal_that_is_left_open() {
        accepted().not_leading(LogIndex(3)).unwrap();
        accepted().not_leading(LogIndex(2)).unwrap_err();
        let mut check = accepted();
        assert_eq!(check.stepped_down(LogIndex(2)), 1);
        check.not_leading(LogIndex(2)).unwrap();
        accepted().accepted(LogIndex(3), Term(2), EntryPayload::Noop).unwrap_err();
    }

    #[test]
    fn fires_on_a_transfer_that_ends_twice_or_succeeds_without_the_target() {
        let mut election = Election::default();
        let mut check = Requests::default();
        let transfer = Transfer { term: Term(2), to: Some(1) };
        check.transfer_accepted(transfer).unwrap();
        check.clone().transfer_accepted(transfer).unwrap_err();
        check.clone().accepted(LogIndex(1), Term(2), EntryPayload::Noop).unwrap_err();
        check.clone().accepted(LogIndex(1), Term(4), EntryPayload::Noop).unwrap();
        check.clone().transfer_done(&Ok(()), &election).unwrap_err();
        election.elected(Term(3), 1).unwrap();
        check.transfer_done(&Ok(()), &election).unwrap();
        check.transfer_done(&Ok(()), &election).unwrap_err();
    }
}
