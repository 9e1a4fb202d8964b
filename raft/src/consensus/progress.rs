//! How far one follower has come, and what it may be sent next (thesis §10.2.2).

use std::time::Duration;

use super::{Rules, inflights::Inflights, liveness::Liveness, log_view::LogView, time::Time};
use crate::{
    position::{LogId, LogIndex},
    status::ProgressState,
};

/// With this many messages under way, further ones wait until they are full or an answer comes:
/// a busy leader sends few large messages instead of many small ones.
const EAGER_INFLIGHT: usize = 2;

/// What awaits its answer when nothing could be delivered: any sign of life ends the wait.
const UNREACHABLE: Probe = Probe { last: LogIndex(u64::MAX), sent_at: Time(0) };

/// A message sent to find where the logs meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Probe {
    last: LogIndex,
    sent_at: Time,
}

/// One follower, seen from the leader. Belongs to one leadership term.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub(super) state: ProgressState,
    /// The last index known to be durable there and equal to ours. Moves only by positive answers
    /// of this term and session. Always `match_index < next_index` (I5).
    pub(super) match_index: LogIndex,
    /// The next index to send.
    pub(super) next_index: LogIndex,
    /// While probing: the probe that awaits its answer.
    probe: Option<Probe>,
    pub(super) inflights: Inflights,
    /// The first round of this session: answers to earlier rounds belong to an earlier membership
    /// of the same server and are dropped.
    first_round: u64,
    /// The round of a heartbeat, and what was known to be durable there when it was sent: of the
    /// newest one, but kept until an answer of that round or a later one has come.
    claimed: (u64, LogIndex),
    /// Whether it is known to lack entries it acknowledged in this session: it is sent nothing and
    /// counts for nothing, because nobody knows what else it has lost.
    pub(super) has_lost_entries: bool,
    pub(super) liveness: Liveness,
    /// The newest snapshot it was sent in this session.
    transfer: Option<Transfer>,
    /// After a snapshot could not be sent or kept: no other one before.
    retry_at: Time,
    /// How far its state machine has come, as it has said in the answer to the heartbeat of this
    /// round, the newest.
    pub(super) applied_index: LogIndex,
    applied_round: u64,
}

/// A snapshot sent to a follower.
#[derive(Clone, Copy, Debug)]
struct Transfer {
    number: u64,
    /// The last index of the newest snapshot when it was ordered.
    snapshot: LogIndex,
    /// How many bytes of it are known to have arrived.
    received_bytes: u64,
    /// Whether the entries after it are kept, see [`Progress::held`].
    is_holding: bool,
}

/// What to send next: the entry before, and the last index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) prev: LogId,
    pub(super) last: LogIndex,
}

impl Progress {
    pub(super) fn new(next_index: LogIndex, first_round: u64, now: Time) -> Self {
        Self {
            state: ProgressState::Probe,
            match_index: LogIndex::ZERO,
            next_index,
            probe: None,
            inflights: Inflights::default(),
            first_round,
            claimed: (0, LogIndex::ZERO),
            has_lost_entries: false,
            liveness: Liveness::new(now),
            transfer: None,
            retry_at: now,
            applied_index: LogIndex::ZERO,
            applied_round: 0,
        }
    }

    /// Whether an answer of this round belongs to this session.
    pub(super) fn is_current(&self, round: u64) -> bool {
        self.first_round <= round
    }

    /// What counts as durable there.
    pub(super) fn durable_index(&self) -> LogIndex {
        if self.has_lost_entries { LogIndex::ZERO } else { self.match_index }
    }

    /// Notes how far its state machine has come. It falls when the server is restarted.
    pub(super) fn applied(&mut self, round: u64, index: LogIndex) {
        if self.applied_round <= round {
            (self.applied_round, self.applied_index) = (round, index);
        }
    }

    /// Notes that a heartbeat of this round is sent; returns what it may claim to be durable there.
    pub(super) fn claim(&mut self, round: u64) -> LogIndex {
        let (claimed_in, _) = self.claimed;
        if claimed_in <= self.liveness.acked_round {
            self.claimed = (round, self.match_index);
        }
        self.match_index
    }

    /// Whether the answer to a heartbeat of `round` accepts less than was acknowledged before that was
    /// sent: the server has been restarted since, or has lost its log. Returns where to ask,
    /// unless something is under way, which asks too.
    pub(super) fn has_forgotten(&self, round: u64, accepted: LogIndex) -> Option<LogIndex> {
        let (claimed_in, index) = self.claimed;
        let is_quiet = self.probe.is_none() && self.inflights.is_empty() && !self.has_lost_entries;
        (is_quiet && claimed_in <= round && accepted < index).then_some(index)
    }

    /// Whether a conflict at `prev_index`, in answer to a question of `round`, proves that entries
    /// are lost: they had been acknowledged in this session when the question was asked.
    pub(super) fn proves_loss(&self, round: u64, prev_index: LogIndex) -> bool {
        let (claimed_in, index) = self.claimed;
        claimed_in <= round && prev_index <= index && LogIndex::ZERO < prev_index
    }

    /// The next range to send now, if any; counts it as sent.
    pub(super) fn next_range(&mut self, log: &LogView, rules: &Rules, now: Time) -> Option<Range> {
        let is_due = match self.state {
            ProgressState::Probe => self.probe.is_none(),
            ProgressState::Replicate => self.may_send(log, rules),
            ProgressState::Snapshot => false,
        };
        if !is_due || self.has_lost_entries {
            return None;
        }
        let prev_index = self.next_index.prev();
        let last = log.fitting(prev_index, rules.max_append_entries, rules.max_append_bytes);
        let Some(prev_term) = log.term_at(prev_index).filter(|_| log.serves(self.next_index))
        else {
            if self.retry_at <= now {
                self.state = ProgressState::Snapshot;
                self.inflights.clear();
            }
            return None;
        };
        match self.state {
            ProgressState::Probe => self.probe = Some(Probe { last, sent_at: now }),
            ProgressState::Replicate => {
                let cost_bytes = log.cost_bytes(prev_index, last).unwrap_or(rules.max_append_bytes);
                self.inflights.push(last, cost_bytes, now);
                self.next_index = last.next();
            }
            ProgressState::Snapshot => {}
        }
        Some(Range { prev: LogId { term: prev_term, index: prev_index }, last })
    }

    fn may_send(&self, log: &LogView, rules: &Rules) -> bool {
        let waiting = log.last().index.next().since(self.next_index);
        if waiting == 0
            || self.inflights.is_full(rules.max_inflight_appends, rules.max_inflight_bytes)
        {
            return false;
        }
        if self.inflights.len() < EAGER_INFLIGHT {
            return true;
        }
        rules.max_append_entries as u64 <= waiting
            || log
                .cost_bytes(self.next_index.prev(), log.last().index)
                .is_none_or(|bytes| rules.max_append_bytes <= bytes)
    }

    /// A positive answer: everything up to `index` is durable there. What `log` cannot go on from
    /// still needs a snapshot.
    pub(super) fn matched(&mut self, index: LogIndex, log: &LogView) {
        self.match_index = self.match_index.max(index);
        let is_served = log.serves(self.match_index.next());
        self.inflights.acknowledge(self.match_index);
        match self.state {
            // Still unreachable: the answer is an old one. Only a sign of life ends the wait.
            ProgressState::Probe if self.probe == Some(UNREACHABLE) => {
                self.next_index = self.next_index.max(self.match_index.next());
            }
            ProgressState::Snapshot if !is_served => {
                self.next_index = self.next_index.max(self.match_index.next());
            }
            ProgressState::Probe | ProgressState::Snapshot => {
                self.state = ProgressState::Replicate;
                self.probe = None;
                self.inflights.clear();
                self.next_index = self.match_index.next();
            }
            ProgressState::Replicate => {
                self.next_index = self.next_index.max(self.match_index.next());
            }
        }
        if self.state != ProgressState::Snapshot && log.snapshot().index <= self.match_index {
            self.let_go();
        }
    }

    /// A negative answer to the question of `round` whether `prev_index` matches; `meet` is the
    /// newest entry of ours that can match, `newest_round` the leader's. Returns whether the answer
    /// was news.
    pub(super) fn conflict(
        &mut self,
        round: u64,
        newest_round: u64,
        prev_index: LogIndex,
        meet: LogIndex,
    ) -> bool {
        match self.state {
            ProgressState::Snapshot => return false,
            // What has matched durably cannot conflict: the answer is late, or the follower has
            // lost its disk (see `proves_loss`). Either way nothing is to be sent at once.
            _ if prev_index <= self.match_index && LogIndex::ZERO < self.match_index => {
                return false;
            }
            ProgressState::Probe if prev_index != self.next_index.prev() => return false,
            ProgressState::Replicate if self.inflights.is_known_conflict(round) => return false,
            ProgressState::Probe | ProgressState::Replicate => {}
        }
        if self.state == ProgressState::Replicate {
            self.inflights.conflict(newest_round);
        }
        self.state = ProgressState::Probe;
        self.probe = None;
        self.inflights.clear();
        self.next_index = meet.next().min(prev_index).max(self.match_index.next());
        true
    }

    /// A sign of life: messages lost on the way are noticed. `accepted` is what the follower has
    /// taken from this leader, durable or not, so that a slow disk is not mistaken for a loss;
    /// `asked_at` is when the question it answers was sent, and `patience` how much earlier a
    /// message must have been sent to count as lost.
    pub(super) fn heard(&mut self, accepted: LogIndex, asked_at: Time, patience: Duration) {
        let is_old = |sent_at: Time| sent_at + patience <= asked_at;
        // A probe that is younger than the question is not missed by the answer.
        if self.probe.is_some_and(|probe| accepted < probe.last && is_old(probe.sent_at)) {
            self.probe = None;
        }
        if self.inflights.has_lost_message(accepted, is_old) {
            self.become_probe();
        }
    }

    /// The transport could not deliver: wait for a sign of life, then find out what arrived.
    pub(super) fn unreachable(&mut self) {
        if self.state == ProgressState::Replicate {
            self.become_probe();
        }
        if self.state == ProgressState::Probe {
            self.probe = Some(UNREACHABLE);
        }
    }

    /// A snapshot has been ordered for it.
    pub(super) fn begin_snapshot(&mut self, number: u64, snapshot: LogIndex) {
        self.transfer = Some(Transfer { number, snapshot, received_bytes: 0, is_holding: true });
    }

    /// Whether this is the newest snapshot that was ordered.
    pub(super) fn is_transfer(&self, number: u64) -> bool {
        self.transfer.is_some_and(|transfer| transfer.number == number)
    }

    /// Whether this snapshot is still being sent.
    pub(super) fn is_sending(&self, number: u64) -> bool {
        self.state == ProgressState::Snapshot && self.is_transfer(number)
    }

    /// The entries after this one are kept for it. What follows a snapshot is needed when it is
    /// installed, and from then on until the follower has come as far as the newest snapshot: if it
    /// were forgotten earlier, a busy leader would send one snapshot after the other for ever.
    pub(super) fn held(&self) -> Option<LogIndex> {
        let transfer = self.transfer.filter(|transfer| transfer.is_holding);
        transfer.map(|transfer| transfer.snapshot.max(self.match_index))
    }

    fn let_go(&mut self) {
        if let Some(transfer) = &mut self.transfer {
            transfer.is_holding = false;
        }
    }

    /// How much has arrived of the snapshot that is being sent, in bytes.
    pub(super) fn received_bytes(&self) -> Option<u64> {
        let transfer = self.transfer.filter(|_| self.state == ProgressState::Snapshot);
        transfer.map(|transfer| transfer.received_bytes)
    }

    /// The follower has this much of the snapshot: less than before if it had to begin anew. Returns
    /// whether it is more.
    pub(super) fn snapshot_received(&mut self, bytes: u64) -> bool {
        let Some(transfer) = &mut self.transfer else { return false };
        let before = std::mem::replace(&mut transfer.received_bytes, bytes);
        before < bytes
    }

    /// The snapshot has arrived. If it is not enough any more, find out what is needed now.
    pub(super) fn snapshot_installed(&mut self) {
        if self.state == ProgressState::Snapshot {
            self.become_probe();
        }
    }

    /// The snapshot could not be sent or kept: no other one before `retry_at`.
    pub(super) fn snapshot_failed(&mut self, retry_at: Time) {
        self.become_probe();
        self.let_go();
        self.retry_at = retry_at;
    }

    /// The leader's log begins anew with `next_index`, far from what the follower has.
    pub(super) fn restart_at(&mut self, next_index: LogIndex) {
        self.become_probe();
        self.next_index = next_index;
    }

    fn become_probe(&mut self) {
        self.state = ProgressState::Probe;
        self.probe = None;
        self.inflights.clear();
        self.next_index = self.match_index.next();
    }

    pub(super) fn assert_invariants(&self, last: LogIndex, rules: &Rules) {
        assert!(self.match_index < self.next_index, "I5: match index reaches next index");
        assert!(self.next_index <= last.next(), "I5: next index beyond the log");
        self.inflights.assert_invariants(rules.max_inflight_appends);
    }
}

#[cfg(test)]
mod tests;
