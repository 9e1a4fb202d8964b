//! Snapshots as the core sees them: what a snapshot lets the log forget, whom it has to be sent to,
//! and what it replaces when one arrives.
//!
//! The shell takes snapshots, sends them in chunks and receives them. The bytes of a chunk never come
//! here: the shell takes them out of the message, and is told whether to keep them. The core says to
//! whom and of which term a snapshot is sent, and what one that has arrived means for the log.
//! A snapshot's last index never falls (law 6). A snapshot that arrives counts only if it is beyond
//! what is committed here; a log that does not contain its last entry is dropped in one write, and
//! the snapshot's configuration is in force (law 14).
//!
//! Source: thesis §5.1 to §5.3. Departs from the model, whose late local snapshot moves the pointer
//! back (its #248) and whose log survives a snapshot that contradicts it (its #697).

use std::cmp::Ordering;

use super::{
    Consensus,
    action::{Action, ReceiptStep, SnapshotOrder, SnapshotReceipt},
    progress::Progress,
    time::Time,
};
use crate::{
    configuration::{IndexedConfiguration, ServerId},
    observer::Observation,
    position::{LogId, LogIndex},
    rpc::{InstallOutcome, InstallSnapshotReply, InstallSnapshotRequest, Message},
};

impl Consensus {
    /// Whether a log with this entry, the leader's, is another one than the newest snapshot stands for:
    /// it has another entry where the snapshot ends, or a later term before that, because terms grow
    /// along a log. As long as nothing after the snapshot is committed here, a restore may have made it
    /// in vain; there is no way back from it, so that ends the node. After that a majority has lost what was committed.
    pub(super) fn is_diverged(&mut self, from: &ServerId, entry: LogId) -> bool {
        let snapshot = self.log.snapshot();
        let is_another = match entry.index.cmp(&snapshot.index) {
            Ordering::Less => snapshot.term < entry.term,
            Ordering::Equal => snapshot != entry,
            Ordering::Greater => false,
        };
        if is_another {
            if self.commit.index == snapshot.index {
                self.actions.push_back(Action::Diverged { snapshot, entry });
            } else {
                self.lost_by_majority(from, entry, snapshot.index);
            }
        }
        is_another
    }

    /// A snapshot of this server's own state machine is durable; it ends with `last`. What came
    /// too late to be the newest is ignored (law 6).
    ///
    /// # Panics
    /// If that was not applied here.
    pub fn handle_snapshot_taken(&mut self, now: Time, last: LogId) {
        if self.log.snapshot().index < last.index && self.log.has(last) {
            assert!(last.index <= self.commit.applied, "law 14: snapshot {last} is not applied");
            self.log.set_snapshot(last);
            self.compact();
        }
        self.finish(now);
    }

    /// Lets the log forget what the newest snapshot stands for, except for the trailing entries
    /// that spare slow followers a snapshot, and for what a snapshot under way will be followed by.
    pub(super) fn compact(&mut self) {
        let last = self.log.last().index;
        let kept = LogIndex(last.0.saturating_sub(self.rules.trailing_logs));
        let mut through = self.log.snapshot().index.min(kept);
        if let Some(held) = self.held_for_snapshots() {
            through = through.min(held);
        }
        if self.log.first_index() <= through {
            self.log.compact(through);
            self.actions.push_back(Action::Compact { through });
        }
    }

    /// What is kept for followers that are sent a snapshot, or have just installed one. Too much of
    /// it is not kept.
    fn held_for_snapshots(&self) -> Option<LogIndex> {
        let patience = self.rules.max_held_entries;
        let last = self.log.last().index;
        let leader = self.role.leader()?;
        let held = leader.peers.values().filter_map(Progress::held);
        held.filter(|index| last.since(*index) <= patience).min()
    }

    /// Orders a snapshot for this peer, which has just been found to need one.
    pub(super) fn send_snapshot(&mut self, peer: &ServerId) {
        let (term, snapshot) = (self.term(), self.log.snapshot());
        let Some(leader) = self.role.leader_mut() else { return };
        leader.transfers += 1;
        let transfer = leader.transfers;
        let Some(progress) = leader.peers.get_mut(peer) else { return };
        progress.begin_snapshot(transfer, snapshot.index);
        let order = SnapshotOrder { to: peer.clone(), term, transfer, snapshot };
        self.actions.push_back(Action::SendSnapshot(order));
        self.observe(Observation::PeerNeedsSnapshot { peer: peer.clone() });
    }

    /// The shell could not send a snapshot: none is to be had, or the store failed. It is tried
    /// again a little later.
    pub fn handle_snapshot_failed(&mut self, now: Time, peer: &ServerId, transfer: u64) {
        let retry_at = now + self.rules.election_timeout;
        if let Some(leader) = self.role.leader_mut()
            && let Some(progress) = leader.peers.get_mut(peer)
            && progress.is_sending(transfer)
        {
            progress.snapshot_failed(retry_at);
        }
        self.finish(now);
    }

    pub(super) fn handle_install_snapshot_reply(
        &mut self,
        now: Time,
        from: &ServerId,
        reply: InstallSnapshotReply,
    ) {
        let InstallSnapshotReply { transfer, outcome, .. } = reply;
        // A refusal answers a piece of an earlier term, whose numbers are not of this leadership.
        if outcome == InstallOutcome::StaleTerm {
            return;
        }
        let retry_at = now + self.rules.election_timeout;
        let Some(leader) = self.role.leader_mut() else { return };
        let Some(progress) = leader.peers.get_mut(from) else { return };
        if !progress.is_transfer(transfer) {
            return;
        }
        match &outcome {
            InstallOutcome::Received { next_offset } => {
                if progress.snapshot_received(*next_offset) {
                    self.has_moved(now, from);
                }
            }
            InstallOutcome::Installed { match_index } => {
                self.matched(now, from, *match_index);
                if let Some(leader) = self.role.leader_mut()
                    && let Some(progress) = leader.peers.get_mut(from)
                    && progress.is_sending(transfer)
                {
                    progress.snapshot_installed();
                }
            }
            InstallOutcome::Refused if progress.is_sending(transfer) => {
                progress.snapshot_failed(retry_at);
            }
            InstallOutcome::Refused | InstallOutcome::StaleTerm => {}
        }
        let from = from.clone();
        self.actions.push_back(Action::SnapshotAnswered { from: from.clone(), transfer, outcome });
        self.compact();
        self.replicate(now, &from);
    }

    /// A chunk of a snapshot from the leader of the current term.
    pub(super) fn handle_install_snapshot(
        &mut self,
        now: Time,
        from: &ServerId,
        chunk: &InstallSnapshotRequest,
    ) {
        let InstallSnapshotRequest { term, transfer, last, offset, .. } = *chunk;
        // Terms grow along a log: the leader has none of what is committed here in a later term.
        let committed = self.log.term_at(self.commit.index);
        if self.commit.index < last.index && committed.is_some_and(|term| last.term < term) {
            self.lost_by_majority(from, last, self.commit.index);
            return;
        }
        if last.index <= self.commit.index {
            if self.is_diverged(from, last) {
                return;
            }
            if self.contradicts_committed(last) {
                self.lost_by_majority(from, last, last.index);
                return;
            }
            self.answer_installed(now, from, transfer, last.index);
            return;
        }
        let from = from.clone();
        self.actions.push_back(Action::ReceiveSnapshot { from, term, transfer, offset });
    }

    /// The shell has kept a piece of a snapshot, or all of it, or could not. Returns whether that counts:
    /// a whole snapshot that does not is to be removed before it could take the place of another.
    pub fn handle_snapshot_receipt(&mut self, now: Time, receipt: SnapshotReceipt) -> bool {
        let SnapshotReceipt { from, term, transfer, step } = receipt;
        let adopted = self.log.snapshot();
        let is_adopted = matches!(&step, ReceiptStep::Complete { last, .. } if *last == adopted);
        // Of a deposed leader not even a whole snapshot counts: if a restore made it, its leader may
        // have lost the leadership before anything was committed.
        let is_awaited = term == self.term() && self.leader.as_ref() == Some(&from);
        if is_awaited {
            self.keep_receipt(now, &from, transfer, step);
        }
        self.finish(now);
        is_awaited || is_adopted
    }

    fn keep_receipt(&mut self, now: Time, from: &ServerId, transfer: u64, step: ReceiptStep) {
        match step {
            ReceiptStep::Complete { last, configuration } => {
                if self.commit.index < last.index {
                    self.install(now, last, configuration);
                }
                self.commit.matched = self.commit.matched.max(last.index);
                self.answer_installed(now, from, transfer, last.index);
            }
            ReceiptStep::Received { next_offset } => {
                let outcome = InstallOutcome::Received { next_offset };
                self.answer_install(now, from, transfer, outcome, None);
            }
            ReceiptStep::Refused => {
                self.answer_install(now, from, transfer, InstallOutcome::Refused, None);
            }
        }
    }

    /// Adopts a snapshot that is durable in the snapshot store and ends beyond the commit index.
    fn install(&mut self, now: Time, last: LogId, configuration: IndexedConfiguration) {
        if self.log.has(last) {
            // The log has all of it, and more perhaps: it only was not known to be committed.
            self.commit_to(now, last.index);
            return;
        }
        self.adopt(now, last, configuration);
        self.observe(Observation::SnapshotInstalled { last });
        self.configuration_changed(now);
    }

    /// Puts a durable snapshot in the place of the log.
    pub(super) fn adopt(&mut self, now: Time, last: LogId, configuration: IndexedConfiguration) {
        self.writes.truncate(last.index);
        self.log.reset(last);
        self.membership.install(configuration);
        self.commit.index = last.index;
        let write = self.write_reset(now, last.index);
        self.commit.adopt(now, last, write);
    }

    fn answer_installed(&mut self, now: Time, to: &ServerId, transfer: u64, index: LogIndex) {
        let outcome = InstallOutcome::Installed { match_index: index };
        self.answer_install(now, to, transfer, outcome, Some(index));
    }

    /// Tells the sender of an old term that there is a newer one.
    pub(super) fn refuse_stale_snapshot(&mut self, now: Time, to: &ServerId, transfer: u64) {
        self.answer_install(now, to, transfer, InstallOutcome::StaleTerm, None);
    }

    fn answer_install(
        &mut self,
        now: Time,
        to: &ServerId,
        transfer: u64,
        outcome: InstallOutcome,
        durable: Option<LogIndex>,
    ) {
        let reply = InstallSnapshotReply { term: self.term(), transfer, outcome };
        self.send_when_durable(now, to, Message::InstallSnapshotReply(reply), durable);
    }
}
