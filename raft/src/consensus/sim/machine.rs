//! A state machine and its snapshots: the state is a running hash of what was applied, so that two
//! machines are equal exactly if they have gone through the same entries.

use std::collections::VecDeque;

use crate::{
    configuration::IndexedConfiguration,
    log::{Entry, EntryPayload},
    position::LogId,
};

/// A state machine. What the shell keeps beside it, the configuration, belongs to its state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Machine {
    /// The last entry applied.
    pub(super) applied: LogId,
    pub(super) hash: u64,
    /// The newest configuration up to there.
    pub(super) configuration: IndexedConfiguration,
}

/// What a state machine has to do, in order.
#[derive(Clone, Debug)]
pub(super) enum Job {
    Apply(Entry),
    Restore(Machine),
}

pub(super) type Jobs = VecDeque<Job>;

impl Machine {
    pub(super) fn apply(&mut self, entry: &Entry) {
        self.hash = hash_after(self.hash, entry);
        self.applied = entry.id();
        if let EntryPayload::Configuration(configuration) = &entry.payload {
            let configuration = configuration.clone();
            self.configuration = IndexedConfiguration { index: entry.index, configuration };
        }
    }

    /// The bytes of a snapshot of it, every one of which depends on the state and on its place.
    pub(super) fn bytes(&self, size: usize) -> Vec<u8> {
        let hash = self.hash.to_be_bytes();
        (0..size).map(|at| hash[at % 8].wrapping_add((at / 8) as u8)).collect()
    }
}

/// The hash of a state that was `before`, after one more entry (FNV-1a).
pub(super) fn hash_after(before: u64, entry: &Entry) -> u64 {
    let kind = match &entry.payload {
        EntryPayload::Command(_) => 1,
        EntryPayload::Configuration(_) => 2,
        EntryPayload::Noop => 3,
        _ => 4,
    };
    let data: &[u8] = match &entry.payload {
        EntryPayload::Command(data) => data,
        _ => &[],
    };
    let numbers = [entry.term.0.to_be_bytes(), entry.index.0.to_be_bytes(), [kind; 8]];
    let bytes = numbers.iter().flatten().chain(data);
    bytes.fold(before ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
