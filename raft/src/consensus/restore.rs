//! A user's restore: the leader replaces the state of the whole cluster by data from outside.
//!
//! A disaster measure, and the one exception to laws 2 and 4: the leader drops its log for a snapshot
//! that nobody else has, one index beyond everything it and the data know of. Every follower then
//! finds that its log does not reach there, and is sent the snapshot; the no-op after it commits when
//! a majority has installed it. Until then this leader is ahead of its majority, so if it dies first
//! the restore may be lost, or come back with it.
//!
//! Between [`begin_restore`](Consensus::begin_restore), which fixes the index, and
//! [`finish_restore`](Consensus::finish_restore), when the data is durable, the leader accepts no
//! proposals; it leads on. The restore belongs to one leadership and dies with it.
//!
//! Source: the model's `Restore`. It differs in that nothing waits in the main task for the data.

use super::{
    Consensus,
    action::Action,
    refusal::{NotLeader, ProposeRefusal, RestoreRefusal},
    role::Replaced,
    time::Time,
};
use crate::{
    configuration::IndexedConfiguration,
    log::EntryPayload,
    position::{LogId, LogIndex},
};

impl Consensus {
    /// Begins a restore: returns where the restored snapshot has to end, which is beyond this log
    /// and beyond `at_least`, and the configuration it has to carry.
    ///
    /// # Errors
    /// [`RestoreRefusal`] when this server does not lead or has not committed in its term, or while
    /// leadership or membership is changing or another restore runs.
    pub fn begin_restore(
        &mut self,
        now: Time,
        at_least: LogIndex,
    ) -> Result<(LogId, IndexedConfiguration), RestoreRefusal> {
        let term_start = self.check_leader()?;
        self.check_proposals()?;
        // The restored state takes the latest configuration with it, so that has to be committed.
        if self.membership.is_unsettled() {
            let index = self.membership.latest().index;
            return Err(RestoreRefusal::ChangeInProgress { index });
        }
        if self.commit.index < term_start {
            return Err(RestoreRefusal::NotReady);
        }
        let index = self.log.last().index.max(at_least).next();
        let last = LogId { term: self.term(), index };
        if let Some(leader) = self.role.leader_mut() {
            leader.restore = Some(last);
        }
        self.finish(now);
        Ok((last, self.membership.latest().clone()))
    }

    /// The snapshot of the restore is durable: it takes the place of the log. What was proposed and
    /// is not committed ends with [`Action::Restored`]. Returns the entry whose commit proves that a
    /// majority has the restored state.
    ///
    /// # Errors
    /// [`NotLeader`] when the leadership in which the restore began is over. Nothing was
    /// changed, and the snapshot stands for nothing.
    pub fn finish_restore(&mut self, now: Time, last: LogId) -> Result<LogIndex, NotLeader> {
        self.check_leader()?;
        let configuration = self.membership.latest().clone();
        let Some(leader) = self.role.leader_mut().filter(|leader| leader.restore == Some(last))
        else {
            return Err(NotLeader { leader: self.leader() });
        };
        leader.restore = None;
        for progress in leader.peers.values_mut() {
            progress.restart_at(last.index.next());
        }
        let earlier = leader.replaced.map_or(self.commit.index, |replaced| replaced.committed);
        leader.replaced = Some(Replaced { by: last.index, committed: earlier });
        // The restore is committed when the no-op after it is: until then nothing may be read that is
        // to stay, and membership does not change.
        leader.term_start = last.index.next();
        self.actions.push_back(Action::Restored);
        self.adopt(now, last, configuration);
        let index = self.append(now, vec![EntryPayload::Noop]);
        self.replicate_all(now);
        self.finish(now);
        Ok(index)
    }

    /// The data of the restore could not be had.
    pub fn cancel_restore(&mut self, now: Time, last: LogId) {
        if let Some(leader) = self.role.leader_mut()
            && leader.restore == Some(last)
        {
            leader.restore = None;
        }
        self.finish(now);
    }

    /// Whether this leader may take proposals.
    pub(super) fn check_proposals(&self) -> Result<(), ProposeRefusal> {
        self.check_no_transfer()?;
        match self.role.leader() {
            Some(leader) if leader.restore.is_some() => Err(ProposeRefusal::RestoreInProgress),
            _ => Ok(()),
        }
    }
}
