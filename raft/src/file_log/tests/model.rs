//! What a log should hold, and random writes.

use std::{path::Path, sync::Arc};

use rand::RngExt;
use rand_pcg::Pcg64;

use super::forgetful::Forgetful;
use crate::{
    file_log::{
        disk::Disk,
        identity,
        open::{self, Opening},
        writer::{Change, Writer},
    },
    log::{Entries, Entry, EntryPayload},
    position::{LogIndex, Term},
    stable::{DiskIdentity, HardState},
    store_error::StoreError,
};

pub(super) const DIR: &str = "/forgetful";
/// Far less than what users may choose, so that segments change all the time.
pub(super) const SEGMENT_BYTES: u64 = 16 << 10;

/// What the log should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) first: u64,
    /// Term and length of each entry.
    pub(super) entries: Vec<(u64, usize)>,
    pub(super) hard_state: Option<HardState>,
    pub(super) disk: Option<DiskIdentity>,
    pub(super) noted: u64,
}

pub(super) fn entry(term: u64, index: u64, length: usize) -> Entry {
    let byte = (term ^ index) as u8;
    let payload = match length {
        0 => EntryPayload::Noop,
        length => EntryPayload::Command(vec![byte; length].into()),
    };
    Entry { term: Term(term), index: LogIndex(index), payload }
}

impl Model {
    pub(super) fn last(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }

    pub(super) fn after(&self, change: &Change) -> Self {
        let mut next = self.clone();
        next.hard_state = change.hard_state.clone().or(next.hard_state);
        next.disk = change.disk.clone().or(next.disk);
        let is_held = |next: &Self| !next.entries.is_empty();
        if let Some(from) = change.cut.filter(|from| is_held(&next) && *from <= next.last()) {
            next.entries.truncate(from.saturating_sub(next.first) as usize);
            if 0 < from {
                next.noted = next.noted.min(from - 1);
            }
        }
        if let Some(through) = change.through.filter(|it| is_held(&next) && next.first <= *it) {
            let gone = (through - next.first).saturating_add(1).min(next.entries.len() as u64);
            next.entries.drain(..gone as usize);
            next.first += gone;
        }
        for entry in change.entries.iter().flat_map(|entries| entries.iter()) {
            if next.entries.is_empty() {
                next.first = entry.index.0;
            }
            next.entries.push((entry.term.0, entry.data().len()));
        }
        if !change.entries.is_empty() {
            let note = change.note.map_or(next.noted, |note| note.max(next.noted));
            next.noted = note.min(next.last());
        }
        if next.entries.is_empty() {
            next.first = 0;
        }
        next
    }

    pub(super) fn of(writer: &Writer) -> Result<Self, StoreError> {
        let state = writer.shared.state.read().clone();
        let mut model = Self {
            hard_state: state.hard_state,
            disk: state.disk,
            noted: state.noted,
            ..Self::default()
        };
        if let Some((first, last)) = writer.shared.bounds() {
            model.first = first;
            let mut next = first;
            while next <= last {
                for found in writer.shared.read(LogIndex(next)..=LogIndex(last), 10_000)?.iter() {
                    let (term, length) = (found.term.0, found.data().len());
                    assert_eq!(*found, entry(term, next, length), "wrong data");
                    model.entries.push((term, length));
                    next += 1;
                }
            }
        }
        Ok(model)
    }

    /// A write that the library could ask for.
    pub(super) fn change(&self, rng: &mut Pcg64) -> Change {
        let mut change = Change::default();
        let term = self.hard_state.as_ref().map_or(1, |it| it.current_term.0);
        match rng.random_range(0..20) {
            0 | 1 => {
                let current_term = Term(term + 1);
                let voted_for = rng.random::<bool>().then(|| "somebody".into());
                change.hard_state = Some(HardState { current_term, voted_for });
                if rng.random() {
                    return change;
                }
            }
            2 => {
                let (incarnation, starts) = (rng.random_range(1..=u64::MAX), rng.random());
                let was_rolled_back = rng.random();
                let server = "a".into();
                let disk = DiskIdentity { server, incarnation, starts, was_rolled_back };
                change.disk = Some(disk);
                return change;
            }
            3..=5 if !self.entries.is_empty() => {
                let through = rng.random_range(self.first..=self.last());
                change.through = Some(if rng.random_range(0..4) == 0 { u64::MAX } else { through });
                return change;
            }
            6 | 7 if !self.entries.is_empty() => {
                let least = (self.last().saturating_sub(30)).max(self.noted + 1);
                change.cut = Some(rng.random_range(least..=self.last() + 1));
            }
            8 => change.cut = Some(0),
            _ => {}
        }
        let held = self.after(&change);
        let next = match held.entries.is_empty() {
            true if self.noted == 0 && rng.random() => 1,
            true => self.noted + rng.random_range(1..50),
            false => held.last() + 1,
        };
        let count = [1, 1, 2, 5, 20][rng.random_range(0..5)];
        let longest = [0, 20, 300, 3000, 30_000][rng.random_range(0..5)];
        let batch = (next..next + count).map(|index| {
            let length =
                if longest == 30_000 && index != next { 1 } else { rng.random_range(0..=longest) };
            entry(term, index, length)
        });
        change.entries = vec![Entries::new(batch.collect())];
        change.note = rng.random::<bool>().then(|| self.noted + rng.random_range(0..30));
        change
    }
}

pub(super) fn start(disk: &Forgetful) -> Result<Writer, StoreError> {
    let (dir, disk): (_, Arc<dyn Disk>) = (Path::new(DIR), Arc::new(disk.clone()));
    let store = match identity::inspect(dir, &*disk)? {
        Some(store) => store,
        None => {
            open::create(&disk, dir, 7, SEGMENT_BYTES)?;
            7
        }
    };
    let segment_bytes = SEGMENT_BYTES;
    Opening { disk, dir, store, segment_bytes, in_background: false, is_read_only: false }.run()
}
