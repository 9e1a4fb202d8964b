//! Messages as tests write them.

use super::cluster::command;
use crate::{
    log::{Entries, Entry},
    position::{LogId, LogIndex, Term},
    rpc::{
        AppendEntriesReply, AppendEntriesRequest, AppendOutcome, HeartbeatReply, HeartbeatRequest,
        InstallOutcome, InstallSnapshotReply, Message, RemovedNotice, RequestVoteReply,
        RequestVoteRequest, TimeoutNowRequest,
    },
};

/// An entry as [`log_of`](super::cluster::log_of) makes it.
pub(super) fn entry(term: u64, index: u64) -> Entry {
    let payload = command(&format!("c{index}"));
    Entry { term: Term(term), index: LogIndex(index), payload }
}

/// Entries with these terms after `prev`, given as (term, index).
pub(super) fn append(term: u64, prev: (u64, u64), terms: &[u64], commit: u64) -> Message {
    let number = |(at, term): (usize, &u64)| entry(*term, prev.1 + at as u64 + 1);
    append_entries(term, prev, terms.iter().enumerate().map(number).collect(), commit)
}

pub(super) fn append_entries(
    term: u64,
    prev: (u64, u64),
    entries: Vec<Entry>,
    commit: u64,
) -> Message {
    Message::AppendEntries(AppendEntriesRequest {
        term: Term(term),
        round: 1,
        prev: LogId::new(prev.0, prev.1),
        entries: Entries::new(entries),
        commit_index: LogIndex(commit),
    })
}

fn append_reply(term: u64, round: u64, outcome: AppendOutcome) -> Message {
    Message::AppendEntriesReply(AppendEntriesReply { term: Term(term), round, outcome })
}

pub(super) fn matched(term: u64, round: u64, index: u64) -> Message {
    append_reply(term, round, AppendOutcome::Matched { match_index: LogIndex(index) })
}

pub(super) fn conflict(term: u64, round: u64, prev: u64, hint: (u64, u64)) -> Message {
    let hint = LogId::new(hint.0, hint.1);
    append_reply(term, round, AppendOutcome::Conflict { prev_index: LogIndex(prev), hint })
}

pub(super) fn stale_term(term: u64, round: u64) -> Message {
    append_reply(term, round, AppendOutcome::StaleTerm)
}

pub(super) fn heartbeat(term: u64, round: u64, commit: u64) -> Message {
    let commit_index = LogIndex(commit);
    Message::Heartbeat(HeartbeatRequest { term: Term(term), round, commit_index, promised: None })
}

/// Of a follower that has applied all that is durable there.
pub(super) fn heartbeat_reply(term: u64, round: u64, accepted: u64, matched: u64) -> Message {
    applied_reply(term, round, (accepted, matched), matched)
}

/// Of a follower that has accepted so much, has so much durably, and has applied so much.
pub(super) fn applied_reply(term: u64, round: u64, log: (u64, u64), applied: u64) -> Message {
    Message::HeartbeatReply(HeartbeatReply {
        term: Term(term),
        round,
        accepted_index: LogIndex(log.0),
        match_index: LogIndex(log.1),
        applied_index: LogIndex(applied),
    })
}

fn request_vote(term: u64, last: (u64, u64)) -> RequestVoteRequest {
    RequestVoteRequest {
        term: Term(term),
        last: LogId::new(last.0, last.1),
        is_pre_vote: false,
        is_leadership_transfer: false,
        promised: None,
        configuration_index: LogIndex(1),
        life: 0,
    }
}

pub(super) fn vote(term: u64, last: (u64, u64)) -> Message {
    Message::RequestVote(request_vote(term, last))
}

pub(super) fn pre_vote(term: u64, last: (u64, u64)) -> Message {
    Message::RequestVote(RequestVoteRequest { is_pre_vote: true, ..request_vote(term, last) })
}

pub(super) fn transfer_vote(term: u64, last: (u64, u64)) -> Message {
    let request = request_vote(term, last);
    Message::RequestVote(RequestVoteRequest { is_leadership_transfer: true, ..request })
}

/// An answer to a request for a vote in `requested`, from a server in `term`.
pub(super) fn vote_reply(term: u64, requested: u64, is_granted: bool) -> Message {
    Message::RequestVoteReply(RequestVoteReply {
        term: Term(term),
        requested_term: Term(requested),
        is_pre_vote: false,
        is_granted,
        promised: None,
        life: 0,
    })
}

pub(super) fn pre_vote_reply(term: u64, requested: u64, is_granted: bool) -> Message {
    Message::RequestVoteReply(RequestVoteReply {
        term: Term(term),
        requested_term: Term(requested),
        is_pre_vote: true,
        is_granted,
        promised: None,
        life: 0,
    })
}

pub(super) fn timeout_now(term: u64) -> Message {
    Message::TimeoutNow(TimeoutNowRequest { term: Term(term) })
}

pub(super) fn install_reply(term: u64, transfer: u64, outcome: InstallOutcome) -> Message {
    Message::InstallSnapshotReply(InstallSnapshotReply { term: Term(term), transfer, outcome })
}

pub(super) fn installed(term: u64, transfer: u64, index: u64) -> Message {
    let match_index = LogIndex(index);
    install_reply(term, transfer, InstallOutcome::Installed { match_index })
}

pub(super) fn removed(term: u64, configuration: u64) -> Message {
    let configuration_index = LogIndex(configuration);
    Message::Removed(RemovedNotice { term: Term(term), configuration_index })
}
