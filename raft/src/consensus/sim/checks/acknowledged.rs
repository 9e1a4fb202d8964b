//! Acknowledged is durable (law 7): what a client was told is committed, and still on the disk of
//! every disk that made it so, or was when that disk was lost.

use super::{Check, DiskId, committed::Committed};
use crate::position::LogId;

/// A client is told that the entry was applied; `is_on_disk` looks at the disks at this moment.
pub(crate) fn acknowledged(
    id: LogId,
    committed: &Committed,
    is_on_disk: impl Fn(DiskId, LogId) -> bool,
) -> Check {
    let fact = committed.get(id.index).filter(|fact| fact.entry.id() == id);
    let Some(fact) = fact else {
        return Err(format!("law 7: {id} is acknowledged, but not committed"));
    };
    for holder in &fact.holders {
        ensure!(
            is_on_disk(*holder, id),
            "law 7: {id} is acknowledged, but {holder:?} no longer has it on disk"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{append_only::LeaderLogs, committed::Committer},
        *,
    };
    use crate::{
        log::{Entry, EntryPayload},
        position::{LogIndex, Term},
    };

    #[test]
    fn fires_on_what_is_not_committed_and_on_what_a_disk_has_lost() {
        let mut committed = Committed::default();
        let entry = Entry { term: Term(1), index: LogIndex(1), payload: EntryPayload::Noop };
        let by =
            Committer { term: Term(1), is_leader: true, voters: &[((0, 7), true), ((1, 7), true)] };
        committed.commit(std::slice::from_ref(&entry), by, &LeaderLogs::default()).unwrap();
        acknowledged(entry.id(), &committed, |_, _| true).unwrap();
        acknowledged(entry.id(), &committed, |(server, _), _| server == 0).unwrap_err();
        acknowledged(LogId::new(1, 2), &committed, |_, _| true).unwrap_err();
        acknowledged(LogId::new(2, 1), &committed, |_, _| true).unwrap_err();
    }
}
