//! The follower's side of replication.
//!
//! Source: paper Figure 2 (AppendEntries), thesis §3.5.

use super::{Consensus, action::Action, time::Time};
use crate::{
    configuration::ServerId,
    log::Entry,
    observer::Observation,
    position::{LogId, LogIndex},
    rpc::{
        AppendEntriesReply, AppendEntriesRequest, AppendOutcome, HeartbeatReply, HeartbeatRequest,
        Message, RemovedNotice,
    },
};

impl Consensus {
    /// Entries from the leader of the current term.
    pub(super) fn handle_append_entries(
        &mut self,
        now: Time,
        from: &ServerId,
        request: AppendEntriesRequest,
    ) {
        let last = LogIndex(request.prev.index.0.saturating_add(request.entries.len() as u64));
        let first = request.entries.first();
        assert!(
            first.is_none_or(|first| {
                first.index == request.prev.index.next() && request.prev.term <= first.term
            }),
            "law 3: {from} sends entries that do not follow {}",
            request.prev
        );
        if let Some(entry) = request.id_at(last.min(self.log.snapshot().index))
            && self.is_diverged(from, entry)
        {
            return;
        }
        let ids = std::iter::once(request.prev).chain(request.entries.iter().map(Entry::id));
        let here = ids.take_while(|id| id.index <= self.commit.index);
        if let Some(entry) = here.into_iter().find(|id| self.contradicts_committed(*id)) {
            self.lost_by_majority(from, entry, entry.index);
            return;
        }
        // Everything up to the commit index is the same on every server, so a request that begins
        // before it (late, or answering a question of before a compaction) is only about the rest.
        if !self.is_committed(request.prev) && !self.log.has(request.prev) {
            let hint = self.log.newest_at_most(request.prev);
            let outcome = AppendOutcome::Conflict { prev_index: request.prev.index, hint };
            self.answer_append(now, from, request.round, outcome, None);
            return;
        }
        let known = request
            .entries
            .iter()
            .take_while(|entry| self.is_committed(entry.id()) || self.log.has(entry.id()))
            .count();
        let news = request.entries.skip(known);
        if let Some(first) = news.first() {
            // Only a conflict truncates, and then everything from there on (law 10).
            let truncate_from = (first.index <= self.log.last().index).then_some(first.index);
            self.append_entries(now, truncate_from, news);
        }
        self.commit.matched = self.commit.matched.max(last);
        // Only what this message vouches for: an older tail may still differ (law 11).
        self.commit_to(now, request.commit_index.min(last));
        let outcome = AppendOutcome::Matched { match_index: last };
        self.answer_append(now, from, request.round, outcome, Some(last));
    }

    /// Whether this entry of the leader's is committed here, and so the same on both (law 4).
    fn is_committed(&self, id: LogId) -> bool {
        id.index <= self.commit.index
    }

    /// Whether another entry than this one of the leader's is committed here.
    pub(super) fn contradicts_committed(&self, id: LogId) -> bool {
        self.is_committed(id) && self.log.term_at(id.index).is_some_and(|term| term != id.term)
    }

    /// The leader has this entry, which shows that it lacks the one that is committed here at `index`
    /// (law 4). No fault of this server: a majority has lost it. It may be the last that has it, so it
    /// must neither follow nor go on, and that is for people to mend.
    pub(super) fn lost_by_majority(&mut self, leader: &ServerId, entry: LogId, index: LogIndex) {
        let term = self.log.term_at(index).unwrap_or_default();
        let (leader, committed) = (leader.clone(), LogId { term, index });
        self.actions.push_back(Action::LostByMajority { leader, entry, committed });
    }

    pub(super) fn handle_heartbeat(
        &mut self,
        now: Time,
        from: &ServerId,
        request: &HeartbeatRequest,
    ) {
        self.note_committed(now);
        // Only what this leader has vouched for since this server started (law 11). The leader claims
        // no more than what it knows to be durable here, but a late heartbeat may speak of an earlier
        // membership, before the disk was wiped. If there is a gap, the leader hears of it and asks.
        self.commit_to(now, request.commit_index.min(self.commit.matched));
        let reply = HeartbeatReply {
            term: self.term(),
            round: request.round,
            accepted_index: self.commit.matched,
            match_index: self.commit.matched.min(self.log.stable()),
            applied_index: self.commit.applied,
        };
        self.send_when_durable(now, from, Message::HeartbeatReply(reply), None);
    }

    /// The leader says that this server was removed. A notice that is older than a configuration
    /// with this server in it is about an earlier membership.
    pub(super) fn handle_removed(&mut self, notice: &RemovedNotice) {
        let latest = self.membership.latest();
        let is_member = latest.configuration.server(&self.rules.id).is_some();
        if !(is_member && notice.configuration_index < latest.index) {
            let configuration_index = notice.configuration_index;
            self.observe(Observation::Removed { configuration_index });
        }
    }

    /// Tells the sender of an old term that there is a newer one.
    pub(super) fn refuse_stale(&mut self, now: Time, from: &ServerId, round: u64) {
        self.answer_append(now, from, round, AppendOutcome::StaleTerm, None);
    }

    fn answer_append(
        &mut self,
        now: Time,
        to: &ServerId,
        round: u64,
        outcome: AppendOutcome,
        durable: Option<LogIndex>,
    ) {
        let reply = AppendEntriesReply { term: self.term(), round, outcome };
        self.send_when_durable(now, to, Message::AppendEntriesReply(reply), durable);
    }

    /// The newest entry of this log that could equal one of a log that has `hint`.
    pub(super) fn meeting_point(&self, hint: LogId) -> LogIndex {
        self.log.newest_at_most(hint).index
    }
}
