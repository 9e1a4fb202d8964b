//! The laws of one server, checked after every public call. Those of constant cost are checked in
//! release builds too: a wrong state must stop the node, not go on.

use super::{Consensus, role::RoleState};

impl Consensus {
    pub(super) fn assert_invariants(&self) {
        let last = self.log.last();
        assert!(self.commit.index <= last.index, "I1: commit {} beyond {last}", self.commit.index);
        assert!(
            self.commit.applying <= self.commit.index.min(self.log.stable()),
            "I1: applying {} beyond commit {} or stable {}",
            self.commit.applying,
            self.commit.index,
            self.log.stable()
        );
        assert!(self.commit.applied <= self.commit.applying, "I1: applied beyond applying");
        assert!(last.term <= self.term(), "I3: last entry {last} beyond term {}", self.term());
        assert!(
            self.membership.committed().index <= self.membership.latest().index,
            "I6: the committed configuration is beyond the latest"
        );
        assert!(!self.writes.is_hard_state_dirty, "law 8: the hard state was not written");
        self.log.assert_invariants();
        self.writes.outbox.assert_invariants(self.writes.written);
        match &self.role {
            RoleState::Leader(leader) => {
                assert_eq!(self.leader.as_ref(), Some(&self.rules.id), "I4: a leader knows itself");
                debug_assert!(leader.peers.values().all(|progress| {
                    progress.assert_invariants(last.index, &self.rules);
                    true
                }));
            }
            RoleState::Candidate(_) => {
                assert_eq!(
                    self.hard_state.voted_for.as_ref(),
                    Some(&self.rules.id),
                    "I4: a candidate has voted for itself"
                );
            }
            RoleState::Follower | RoleState::PreCandidate(_) => {}
        }
    }
}
