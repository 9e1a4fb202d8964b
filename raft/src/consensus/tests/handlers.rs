//! Every handler over **all** small states: logs of up to four entries and three terms, every role,
//! vote, commit index and durable mark, and every message of that size. What must come out is said
//! twice: by a model that follows Figure 2 of the paper line by line and knows nothing of the core,
//! and by conditions that hold after every step.
//!
//! Each test asserts how many cases it has seen, so that a filter that skips too much is noticed.

use std::{collections::BTreeSet, time::Duration};

use super::{
    cluster::{configuration, n, piece, rules, snapshot},
    messages::{
        append, applied_reply, conflict, entry, heartbeat, heartbeat_reply, install_reply,
        installed, matched, removed, stale_term, timeout_now,
    },
};
use crate::{
    configuration::{Configuration, IndexedConfiguration, ServerId},
    consensus::{
        Action, AppendOrder, Consensus, ReceiptStep, Rules, Saved, SnapshotReceipt, Time, Write,
        WriteId,
        log_view::LogView,
        membership::Membership,
        progress::Progress,
        role::{Campaign, Leader, RoleState},
        writes::PendingWrite,
    },
    log::{Entries, EntryPayload},
    observer::Observation,
    position::{LogId, LogIndex, Term},
    rpc::{AppendOutcome, InstallOutcome, Message, RequestVoteReply, RequestVoteRequest},
    stable::HardState,
    status::{ProgressState, Role},
};

const MAX_TERM: u64 = 3;
const MAX_LEN: usize = 4;
/// When the message arrives. Leaders have just been heard, or long ago.
const NOW: Time = Time(60_000_000);

/// All logs, as the terms of their entries.
fn all_logs() -> Vec<Vec<u64>> {
    let mut logs = vec![Vec::new()];
    let mut from = 0;
    for _ in 0..MAX_LEN {
        let until = logs.len();
        for at in from..until {
            let log: Vec<u64> = logs[at].clone();
            for term in log.last().copied().unwrap_or(1)..=MAX_TERM {
                logs.push([&log[..], &[term]].concat());
            }
        }
        from = until;
    }
    logs
}

fn last_term(log: &[u64]) -> u64 {
    log.last().copied().unwrap_or(0)
}

fn last_id(log: &[u64]) -> (u64, u64) {
    (last_term(log), log.len() as u64)
}

/// The term at an index, of a log given by its terms.
fn term_at(log: &[u64], index: u64) -> Option<u64> {
    match index {
        0 => Some(0),
        _ => log.get(index as usize - 1).copied(),
    }
}

/// How many entries two logs have in common at their start.
fn common(a: &[u64], b: &[u64]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Law 3: equal index and term means equal up to there.
fn do_match(a: &[u64], b: &[u64]) -> bool {
    let agree = common(a, b);
    a.iter().zip(b).skip(agree).all(|(a, b)| a != b)
}

/// The state of one server, as small numbers.
#[derive(Clone, Debug, PartialEq)]
struct State {
    term: u64,
    /// 0 is nobody.
    vote: usize,
    log: Vec<u64>,
    stable: u64,
    commit: u64,
    role: Role,
    /// 0 is unknown.
    leader: usize,
    /// Whether a leader was heard within the minimum election timeout.
    is_contact_recent: bool,
    /// The last index that the leader of this term has vouched for.
    vouched: u64,
}

impl State {
    fn follower(term: u64, log: &[u64]) -> Self {
        Self {
            term,
            vote: 0,
            log: log.to_vec(),
            stable: log.len() as u64,
            commit: 0,
            role: Role::Follower,
            leader: 0,
            is_contact_recent: false,
            vouched: 0,
        }
    }

    /// The roles that a server with this term and log can play, with vote and leader to match.
    fn in_every_role(&self) -> Vec<Self> {
        let state = |role, vote, leader| Self { role, vote, leader, ..self.clone() };
        let mut states = vec![
            state(Role::Follower, 0, 0),
            state(Role::Follower, 2, 2),
            state(Role::Follower, 3, 2),
            state(Role::PreCandidate, 2, 0),
        ];
        if 0 < self.term {
            states.push(state(Role::Candidate, 1, 0));
        }
        if last_term(&self.log) == self.term && 0 < self.term {
            states.push(state(Role::Leader, 1, 1));
        }
        states
    }
}

/// What cores are made with.
struct World {
    rules: Rules,
    configuration: Configuration,
    ids: Vec<ServerId>,
}

impl World {
    fn new(voters: usize) -> Self {
        let ids = (0..=8).map(n).collect();
        Self { rules: rules(&n(1)), configuration: configuration(voters, 0), ids }
    }

    fn id(&self, number: usize) -> Option<ServerId> {
        (0 < number).then(|| self.ids[number].clone())
    }

    fn number(&self, id: Option<&ServerId>) -> usize {
        id.map_or(0, |id| self.ids.iter().position(|known| known == id).expect("a known server"))
    }

    /// n1 in this state.
    fn core(&self, state: &State) -> Consensus {
        let members = IndexedConfiguration {
            index: LogIndex::ZERO,
            configuration: self.configuration.clone(),
        };
        let mut log = LogView::new(LogId::ZERO);
        let entries: Vec<_> =
            state.log.iter().zip(1..).map(|(term, index)| entry(*term, index)).collect();
        log.restore(&entries[..state.stable as usize]);
        let hard_state =
            HardState { current_term: Term(state.term), voted_for: self.id(state.vote) };
        let saved = Saved {
            hard_state,
            incarnation: 0,
            life: 0,
            was_rolled_back: false,
            log,
            membership: Membership::new(members),
            commit_index: LogIndex::ZERO,
            last_applied: LogIndex::ZERO,
        };
        let mut core = Consensus::new(self.rules.clone(), saved, 1, NOW);
        core.actions.clear();
        if state.stable < state.log.len() as u64 {
            entries[state.stable as usize..].iter().for_each(|entry| core.log.push(entry));
            core.writes.pending.push_back(PendingWrite {
                id: WriteId(1),
                last: core.log.last().index,
                has_hard_state: false,
                is_reset: false,
                issued_at: NOW,
            });
            core.writes.next = WriteId(2);
        }
        core.commit.index = LogIndex(state.commit);
        core.commit.applying = LogIndex(state.commit.min(state.stable));
        core.commit.applied = core.commit.applying;
        core.leader = self.id(state.leader);
        core.election.leader_contact = Some(if state.is_contact_recent {
            Time(NOW.0 - 999_999)
        } else {
            Time(NOW.0 - 1_000_000)
        });
        core.commit.matched = LogIndex(state.vouched);
        core.role = match state.role {
            Role::Follower => RoleState::Follower,
            Role::PreCandidate => RoleState::PreCandidate(self.campaign(&[1])),
            Role::Candidate => RoleState::Candidate(self.campaign(&[1])),
            Role::Leader => RoleState::Leader(Box::new(self.leader(state))),
        };
        core
    }

    fn campaign(&self, granted: &[usize]) -> Campaign {
        Campaign {
            granted: granted.iter().map(|number| self.ids[*number].clone()).collect(),
            own_vote: WriteId(0),
            ask_again_at: NOW + Duration::from_millis(100),
            is_leadership_transfer: false,
        }
    }

    fn leader(&self, state: &State) -> Leader {
        let first = state.log.iter().position(|term| *term == state.term).unwrap_or(0);
        let next = LogIndex(state.log.len() as u64 + 1);
        let peers = self.configuration.voters().filter(|server| server.id != self.rules.id);
        Leader {
            term: Term(state.term),
            term_start: LogIndex(first as u64 + 1),
            peers: peers.map(|peer| (peer.id.clone(), Progress::new(next, 1, NOW))).collect(),
            incarnations: std::collections::BTreeMap::new(),
            round: 2,
            rounds: [(1, Time(NOW.0 - 100_000)), (2, NOW)].into(),
            confirmed_round: 0,
            wanted_round: 0,
            transfers: 0,
            restore: None,
            replaced: None,
            next_heartbeat: NOW + Duration::from_millis(100),
            majority_contact: NOW,
            served_at: NOW,
        }
    }

    /// The state that a core is in.
    fn state(&self, core: &Consensus) -> State {
        let last = core.last().index.0;
        let terms = (1..=last).map(|index| core.log.term_at(LogIndex(index)).expect("a term").0);
        State {
            term: core.term().0,
            vote: self.number(core.hard_state().voted_for.as_ref()),
            log: terms.collect(),
            stable: core.stable_index().0,
            commit: core.commit_index().0,
            role: core.role(),
            leader: self.number(core.leader.as_ref()),
            is_contact_recent: core
                .election
                .leader_contact
                .is_some_and(|at| NOW.0 - 1_000_000 < at.0),
            vouched: core.commit.matched.0,
        }
    }
}

/// What a core has decided.
#[derive(Debug, Default)]
struct Decided {
    writes: Vec<Write>,
    sent: Vec<(ServerId, Message)>,
    orders: Vec<AppendOrder>,
    applied: Option<LogIndex>,
}

fn decided(core: &mut Consensus) -> Decided {
    let mut decided = Decided::default();
    while let Some(action) = core.poll_action() {
        match action {
            Action::Write(write) => decided.writes.push(write),
            Action::Send { to, message } => decided.sent.push((to, message)),
            Action::Replicate(order) => decided.orders.push(order),
            Action::Commit { up_to } => decided.applied = decided.applied.max(Some(up_to)),
            _ => {}
        }
    }
    decided
}

/// What holds after every step of every handler.
fn check_laws(before: &State, after: &State) {
    assert!(before.term <= after.term, "law 6: the term falls");
    assert!(before.commit <= after.commit, "law 6: the commit index falls");
    let committed = before.commit as usize;
    assert_eq!(before.log[..committed], after.log[..committed], "law 10: a commit is lost");
    assert!(after.commit <= after.log.len() as u64);
    assert!(after.stable <= after.log.len() as u64);
    let is_vote_kept = before.term < after.term || before.vote == 0 || before.vote == after.vote;
    assert!(is_vote_kept, "two votes in one term");
    if before.role == Role::Leader && after.role == Role::Leader {
        assert!(after.log.starts_with(&before.log), "law 2: a leader removes its own entries");
    }
}

/// Completes every write, and returns what was released by that.
fn complete(core: &mut Consensus) -> Decided {
    let last = WriteId(core.writes.next.0 - 1);
    core.handle_written(NOW, last);
    decided(core)
}

mod append_entries {
    use super::*;

    struct Request {
        term: u64,
        prev: (u64, u64),
        entries: Vec<u64>,
        commit: u64,
    }

    /// Figure 2, "AppendEntries RPC", and what the follower answers.
    fn model(state: &State, request: &Request) -> (State, AppendOutcome) {
        let mut after = state.clone();
        // 1. Reply false if term < currentTerm.
        if request.term < state.term {
            return (after, AppendOutcome::StaleTerm);
        }
        if state.term < request.term {
            (after.term, after.vote, after.vouched) = (request.term, 0, 0);
        }
        (after.role, after.leader, after.is_contact_recent) = (Role::Follower, 2, true);
        // 2. Reply false if the log has no entry at prevLogIndex whose term matches prevLogTerm.
        let (prev_term, prev) = request.prev;
        if term_at(&state.log, prev) != Some(prev_term) {
            let can_match =
                |index: &u64| term_at(&state.log, *index).is_some_and(|t| t <= prev_term);
            let index = (0..=prev).rev().find(can_match).expect("zero always can");
            let hint = LogId::new(term_at(&state.log, index).expect("a term"), index);
            return (after, AppendOutcome::Conflict { prev_index: LogIndex(prev), hint });
        }
        // 3. If an existing entry conflicts with a new one, delete it and all that follow it.
        // 4. Append any new entries not already in the log.
        for (entry, index) in request.entries.iter().zip(prev + 1..) {
            match term_at(&after.log, index) {
                Some(term) if term == *entry => {}
                known => {
                    if known.is_some() {
                        after.log.truncate(index as usize - 1);
                        after.stable = after.stable.min(index - 1);
                    }
                    after.log.push(*entry);
                }
            }
        }
        // 5. If leaderCommit > commitIndex, set commitIndex = min(leaderCommit, last new entry).
        let last_new = prev + request.entries.len() as u64;
        after.commit = state.commit.max(request.commit.min(last_new));
        after.vouched = after.vouched.max(last_new);
        (after, AppendOutcome::Matched { match_index: LogIndex(last_new) })
    }

    fn check(world: &World, core: &Consensus, state: &State, request: &Request) {
        let mut core = core.clone();
        let message = append(request.term, request.prev, &request.entries, request.commit);
        core.handle_message(NOW, &world.ids[2], message);
        let (expected, outcome) = model(state, request);
        let after = world.state(&core);
        assert_eq!(after, expected);
        check_laws(state, &after);

        let has_new_term = state.term < expected.term;
        let promise = match &outcome {
            AppendOutcome::Matched { match_index } => match_index.0,
            AppendOutcome::Conflict { .. } | AppendOutcome::StaleTerm => 0,
        };
        let at_once = decided(&mut core);
        let is_durable = !has_new_term && promise <= after.stable;
        assert_eq!(at_once.sent.len(), usize::from(is_durable), "law 8");
        check_writes(state, &expected, has_new_term, &at_once.writes);
        // What is applied is committed and durable.
        let handed_out = after.commit.min(after.stable);
        let is_new = state.commit.min(state.stable) < handed_out;
        assert_eq!(at_once.applied, is_new.then_some(LogIndex(handed_out)));

        let later = complete(&mut core);
        let answers: Vec<_> = at_once.sent.iter().chain(&later.sent).collect();
        assert_eq!(answers.len(), 1, "one answer to one question");
        assert_eq!(answers[0].0, world.ids[2]);
        let Message::AppendEntriesReply(reply) = &answers[0].1 else { panic!("not an answer") };
        assert_eq!((reply.term.0, reply.round, &reply.outcome), (expected.term, 1, &outcome));
        assert_eq!(core.stable_index(), core.last().index);
    }

    /// One write at most, of exactly what has changed.
    fn check_writes(state: &State, expected: &State, has_new_term: bool, writes: &[Write]) {
        let kept = common(&state.log, &expected.log);
        let is_cut = kept < state.log.len();
        let added: Vec<u64> = expected.log[kept..].to_vec();
        assert_eq!(writes.len(), usize::from(has_new_term || is_cut || !added.is_empty()));
        for write in writes {
            let hard_state = HardState { current_term: Term(expected.term), voted_for: None };
            assert_eq!(write.hard_state, has_new_term.then_some(hard_state));
            assert_eq!(write.truncate_from, is_cut.then_some(LogIndex(kept as u64 + 1)));
            let written: Vec<u64> = write.entries.iter().map(|entry| entry.term.0).collect();
            assert_eq!(written, added);
        }
    }

    /// Every follower against every part of every leader's log that it may be sent.
    #[test]
    fn follows_figure_2() {
        let world = World::new(3);
        let logs = all_logs();
        let mut cases = 0;
        for log in &logs {
            for term in last_term(log).max(1)..=MAX_TERM {
                for marks in 0..(log.len() + 1) * (log.len() + 1) {
                    let base = State {
                        stable: (marks % (log.len() + 1)) as u64,
                        commit: (marks / (log.len() + 1)) as u64,
                        ..State::follower(term, log)
                    };
                    for state in base.in_every_role() {
                        cases += check_state(&world, &logs, &state);
                    }
                }
            }
        }
        assert_eq!(cases, 2_036_355);
    }

    fn check_state(world: &World, logs: &[Vec<u64>], state: &State) -> usize {
        let core = world.core(state);
        let mut cases = 0;
        // The part of the leader's log that the message shows or implies; the leader has every
        // committed entry (law 4) and its log matches (law 3).
        let committed = &state.log[..state.commit as usize];
        let may_lead = |log: &&Vec<u64>| {
            let shorter = committed.len().min(log.len());
            log[..shorter] == committed[..shorter] && do_match(log, &state.log)
        };
        for leader in logs.iter().filter(may_lead) {
            for term in last_term(leader).max(1)..=MAX_TERM {
                if state.role == Role::Leader && term == state.term {
                    continue;
                }
                for prev in 0..=leader.len() {
                    for commit in 0..=MAX_LEN as u64 {
                        let request = Request {
                            term,
                            prev: (term_at(leader, prev as u64).expect("a term"), prev as u64),
                            entries: leader[prev..].to_vec(),
                            commit,
                        };
                        check(world, &core, state, &request);
                        cases += 1;
                    }
                }
            }
        }
        cases
    }

    /// The search for the common prefix, by the leader's and the follower's own code: at most one
    /// step for each term of the two logs, and it ends exactly where they part.
    #[test]
    fn search_takes_one_step_for_each_term() {
        let world = World::new(3);
        let logs = all_logs();
        let mut pairs = 0;
        for ours in logs.iter().filter(|log| !log.is_empty()) {
            for theirs in logs.iter().filter(|log| do_match(log, ours)) {
                pairs += 1;
                let leader =
                    State { role: Role::Leader, leader: 1, vote: 1, ..State::follower(3, ours) };
                let leader = world.core(&leader);
                let mut follower = world.core(&State::follower(3, theirs));
                let mut progress = Progress::new(leader.last().index.next(), 1, NOW);
                let terms: BTreeSet<u64> = ours.iter().chain(theirs).copied().collect();
                for step in 0.. {
                    assert!(step <= terms.len(), "{ours:?} and {theirs:?}");
                    let range =
                        progress.next_range(&leader.log, &world.rules, NOW).expect("a probe");
                    assert_eq!(range.last.max(range.prev.index), leader.last().index);
                    let prev = range.prev.index.0;
                    let message = append(3, (range.prev.term.0, prev), &ours[prev as usize..], 0);
                    follower.handle_message(NOW, &world.ids[2], message);
                    let mut sent = decided(&mut follower).sent;
                    sent.extend(complete(&mut follower).sent);
                    let Some((_, Message::AppendEntriesReply(reply))) = sent.pop() else {
                        panic!("no answer");
                    };
                    match reply.outcome {
                        AppendOutcome::Matched { match_index } => {
                            assert!(prev as usize <= common(ours, theirs));
                            assert_eq!(match_index, leader.last().index);
                            break;
                        }
                        AppendOutcome::Conflict { prev_index, hint } => {
                            let meet = leader.meeting_point(hint);
                            assert!(common(ours, theirs) as u64 <= meet.0, "a step too far");
                            assert!(progress.conflict(1, 1, prev_index, meet), "not news");
                        }
                        AppendOutcome::StaleTerm => panic!("a stale term"),
                    }
                }
                let found = world.state(&follower).log;
                let is_longer = theirs.starts_with(ours);
                assert_eq!(found, *if is_longer { theirs } else { ours });
            }
        }
        assert_eq!(pairs, 884);
    }
}

mod heartbeats {
    use super::*;

    /// A heartbeat follows the leader, moves the commit index as far as the leader has vouched for
    /// the log, whatever it claims, and is answered with what the
    /// follower has accepted in this term and how much of that is durable.
    #[test]
    fn handle_heartbeat() {
        let world = World::new(3);
        let mut cases = 0;
        for log in all_logs() {
            for term in last_term(&log).max(1)..=MAX_TERM {
                let len = log.len() as u64;
                for marks in 0..(len + 1).pow(3) {
                    let base = State {
                        stable: marks % (len + 1),
                        commit: marks / (len + 1) % (len + 1),
                        vouched: marks / (len + 1) / (len + 1),
                        ..State::follower(term, &log)
                    };
                    for state in base.in_every_role() {
                        for leader_term in 0..=MAX_TERM + 1 {
                            if state.role == Role::Leader && leader_term == term {
                                continue;
                            }
                            for commit in 0..=len + 1 {
                                check(&world, &state, leader_term, commit);
                                cases += 1;
                            }
                        }
                    }
                }
            }
        }
        assert_eq!(cases, 605_180);
    }

    fn check(world: &World, state: &State, term: u64, commit: u64) {
        let mut core = world.core(state);
        let applied = core.last_applied().0;
        core.handle_message(NOW, &world.ids[2], heartbeat(term, 7, commit));
        let mut expected = state.clone();
        if state.term <= term {
            if state.term < term {
                (expected.term, expected.vote, expected.vouched) = (term, 0, 0);
            }
            (expected.role, expected.leader) = (Role::Follower, 2);
            expected.is_contact_recent = true;
            expected.commit = state.commit.max(commit.min(expected.vouched));
        }
        let after = world.state(&core);
        assert_eq!(after, expected);
        check_laws(state, &after);
        let answer = if term < state.term {
            stale_term(state.term, 7)
        } else {
            let durable = expected.vouched.min(expected.stable);
            applied_reply(term, 7, (expected.vouched, durable), applied)
        };
        let at_once = decided(&mut core);
        assert_eq!(at_once.sent.is_empty(), state.term < term, "law 8");
        let later = complete(&mut core);
        let sent: Vec<_> = at_once.sent.into_iter().chain(later.sent).collect();
        assert_eq!(sent, [(world.ids[2].clone(), answer)]);
    }
}

mod votes {
    use super::*;

    /// Both kinds of request, of every term and log, to a server in every state.
    #[test]
    fn handle_request_vote() {
        let world = World::new(3);
        let lasts: BTreeSet<(u64, u64)> = all_logs().iter().map(|log| last_id(log)).collect();
        let mut cases = 0;
        for log in all_logs() {
            for term in last_term(&log)..=MAX_TERM {
                for state in states(term, &log) {
                    let core = world.core(&state);
                    for requested in 1..=MAX_TERM + 1 {
                        for last in lasts.iter().filter(|last| last.0 <= requested) {
                            for flags in 0..4 {
                                let request = RequestVoteRequest {
                                    term: Term(requested),
                                    last: LogId::new(last.0, last.1),
                                    is_pre_vote: flags & 1 != 0,
                                    is_leadership_transfer: flags & 2 != 0,
                                    promised: None,
                                    configuration_index: LogIndex(1),
                                    life: 0,
                                };
                                check(&world, &core, &state, &request);
                                cases += 1;
                            }
                        }
                    }
                }
            }
        }
        assert_eq!(cases, 225_600);
    }

    /// Every role, vote and leader, each heard recently or long ago.
    fn states(term: u64, log: &[u64]) -> Vec<State> {
        let mut states = State::follower(term, log).in_every_role();
        for (vote, leader) in [(2, 0), (3, 0), (1, 0), (0, 2), (0, 3), (1, 3), (3, 3)] {
            states.push(State { vote, leader, ..State::follower(term, log) });
        }
        let recent = |state: &State| State { is_contact_recent: true, ..state.clone() };
        let recent: Vec<State> = states.iter().map(recent).collect();
        states.extend(recent);
        states
    }

    /// Figure 2 "RequestVote RPC", thesis §9.6 and §4.2.3.
    fn model(state: &State, request: &RequestVoteRequest) -> (State, bool) {
        let mut after = state.clone();
        let is_loyal = match (state.role, state.leader) {
            (Role::Leader, _) => true,
            (_, 2) => false, // the candidate is its own leader
            _ => state.is_contact_recent,
        };
        if is_loyal && !request.is_leadership_transfer {
            return (after, false);
        }
        let (requested, last) = (request.term.0, (request.last.term.0, request.last.index.0));
        let is_up_to_date = last_id(&state.log) <= last;
        if request.is_pre_vote {
            return (after, state.term < requested && is_up_to_date);
        }
        if state.term < requested {
            (after.term, after.vote, after.vouched) = (requested, 0, 0);
            (after.role, after.leader) = (Role::Follower, 0);
        }
        let is_free = after.term == requested && after.leader == 0 && [0, 2].contains(&after.vote);
        if is_free && is_up_to_date {
            (after.vote, after.role) = (2, Role::Follower);
            return (after, true);
        }
        (after, false)
    }

    fn check(world: &World, core: &Consensus, state: &State, request: &RequestVoteRequest) {
        let mut core = core.clone();
        let deadline = core.election.deadline;
        core.handle_message(NOW, &world.ids[2], Message::RequestVote(request.clone()));
        let (expected, is_granted) = model(state, request);
        let after = world.state(&core);
        assert_eq!(after, expected, "{state:?} {request:?}");
        check_laws(state, &after);
        // Only a vote, or giving up a campaign or leadership, gives the others more time.
        let is_vote = is_granted && !request.is_pre_vote;
        let has_given_up = state.role != Role::Follower && after.role == Role::Follower;
        assert_eq!(core.election.deadline != deadline, is_vote || has_given_up);

        let answer = Message::RequestVoteReply(RequestVoteReply {
            term: Term(expected.term),
            requested_term: request.term,
            is_pre_vote: request.is_pre_vote,
            is_granted,
            promised: None,
            life: 0,
        });
        let is_changed = (state.term, state.vote) != (expected.term, expected.vote);
        let at_once = decided(&mut core);
        assert_eq!(at_once.writes.len(), usize::from(is_changed));
        assert_eq!(at_once.sent.is_empty(), is_changed, "law 8");
        for write in &at_once.writes {
            let hard_state =
                HardState { current_term: Term(expected.term), voted_for: world.id(expected.vote) };
            assert_eq!(write.hard_state, Some(hard_state), "term and vote are one record");
        }
        let later = complete(&mut core);
        let sent: Vec<_> = at_once.sent.into_iter().chain(later.sent).collect();
        assert_eq!(sent, [(world.ids[2].clone(), answer)]);
    }

    /// Every set of grants in clusters of one to five, and every further answer.
    #[test]
    fn handle_request_vote_reply() {
        let mut cases = 0;
        for voters in 1..=5 {
            let world = World::new(voters);
            for role in [Role::PreCandidate, Role::Candidate] {
                for grants in 0..1_usize << voters {
                    let granted: Vec<usize> =
                        (1..=voters).filter(|number| grants >> (number - 1) & 1 == 1).collect();
                    // What has won already is not in these roles any more; a pre-candidate counts
                    // itself from the start.
                    let is_own = granted.contains(&1);
                    if voters < 2 * granted.len() || (role == Role::PreCandidate && !is_own) {
                        continue;
                    }
                    for bits in 0..6 * 3 * 3 * 2 * 2 {
                        check_reply(&world, role, &granted, bits);
                        cases += 1;
                    }
                }
            }
        }
        assert_eq!(cases, 9_936);
    }

    fn check_reply(world: &World, role: Role, granted: &[usize], bits: usize) {
        let term = 2;
        let reply = RequestVoteReply {
            is_granted: bits & 1 == 1,
            is_pre_vote: bits >> 1 & 1 == 1,
            term: Term(bits as u64 / 4 % 3 + 1),
            requested_term: Term(bits as u64 / 12 % 3 + 1),
            promised: None,
            life: 0,
        };
        let from = bits / 36 + 2;
        let state = State { role, vote: 1, ..State::follower(term, &[1]) };
        let mut core = world.core(&state);
        let campaign = world.campaign(granted);
        let is_pre = role == Role::PreCandidate;
        core.role =
            if is_pre { RoleState::PreCandidate(campaign) } else { RoleState::Candidate(campaign) };
        core.handle_message(NOW, &world.ids[from], Message::RequestVoteReply(reply.clone()));

        let asked = if is_pre { term + 1 } else { term };
        let counts =
            reply.is_granted && (reply.is_pre_vote, reply.requested_term.0) == (is_pre, asked);
        let voters = world.configuration.voters().count();
        let mut votes: BTreeSet<usize> = granted.iter().copied().collect();
        votes.extend((counts && from <= voters).then_some(from));
        let has_won = voters < 2 * votes.len();
        let mut expected = state.clone();
        if term < reply.term.0 {
            (expected.term, expected.vote, expected.role) = (reply.term.0, 0, Role::Follower);
        } else if counts && has_won && is_pre {
            (expected.term, expected.role) = (term + 1, Role::Candidate);
        } else if counts && has_won {
            (expected.role, expected.leader) = (Role::Leader, 1);
            expected.log.push(term);
        }
        let after = world.state(&core);
        assert_eq!(after, expected, "{granted:?} {reply:?} from {from}");
        check_laws(&state, &after);
        assert_eq!(after.stable, 1, "nothing is durable by an answer");
    }

    /// Followers and leaders have asked nothing; only a newer term means something to them.
    #[test]
    fn answers_that_nobody_asked_for() {
        let world = World::new(3);
        let mut cases = 0;
        for role in [Role::Follower, Role::Leader] {
            for bits in 0..4 * 4 * 4 {
                let (term, requested) = (bits as u64 / 4 % 4 + 1, bits as u64 / 16 + 1);
                let reply = RequestVoteReply {
                    is_granted: bits & 1 == 1,
                    is_pre_vote: bits & 2 == 2,
                    term: Term(term),
                    requested_term: Term(requested),
                    promised: None,
                    life: 0,
                };
                let leader = usize::from(role == Role::Leader);
                let state = State { role, leader, vote: 1, ..State::follower(2, &[1, 2]) };
                let mut core = world.core(&state);
                core.handle_message(NOW, &world.ids[3], Message::RequestVoteReply(reply));
                let mut expected = state.clone();
                if 2 < term {
                    (expected.term, expected.vote, expected.leader) = (term, 0, 0);
                    expected.role = Role::Follower;
                }
                assert_eq!(world.state(&core), expected);
                cases += 1;
            }
        }
        assert_eq!(cases, 128);
    }
}

mod leader {
    use super::*;

    /// A leader with what it knows of n2 and n3.
    struct Leading {
        state: State,
        peers: [(ProgressState, u64, u64); 2],
    }

    impl Leading {
        fn core(&self, world: &World) -> Consensus {
            let mut core = world.core(&self.state);
            for (number, (state, matched, next)) in [2, 3].into_iter().zip(self.peers) {
                let peers = core.role.leader_mut().map(|leader| &mut leader.peers);
                let progress =
                    peers.and_then(|peers| peers.get_mut(&world.ids[number])).expect("a peer");
                progress.next_index = LogIndex(next);
                // Its probe is under way: nothing more is sent until it is answered.
                let sent = progress.next_range(&core.log, &world.rules, NOW);
                assert!(sent.is_some());
                if state == ProgressState::Replicate {
                    progress.matched(LogIndex(matched), &core.log);
                    progress.next_index = LogIndex(next);
                } else {
                    progress.match_index = LogIndex(matched);
                }
            }
            core
        }

        /// Figure 2, "Leaders": the largest N of the own term that a majority has.
        fn commit(&self, second: u64) -> u64 {
            let log = &self.state.log;
            let marks = [self.state.stable, second, self.peers[1].1];
            (self.state.commit + 1..=log.len() as u64)
                .filter(|index| term_at(log, *index) == Some(self.state.term))
                .rfind(|index| 2 <= marks.iter().filter(|mark| index <= mark).count())
                .unwrap_or(self.state.commit)
        }
    }

    /// Leaders of term 3 with every log and disk, all that they can know of their followers, and
    /// every commit index that they can have brought from the terms before.
    fn each_leader(mut check: impl FnMut(&Leading)) {
        for log in all_logs().into_iter().filter(|log| last_term(log) == MAX_TERM) {
            let len = log.len() as u64;
            let before = log.iter().filter(|term| **term < MAX_TERM).count() as u64;
            for bits in 0..(before + 1) * (len + 1).pow(4) * 2 {
                let digit = |at: u32| bits / 2 / (len + 1).pow(at) % (len + 1);
                let (stable, second, third, next) = (digit(0), digit(1), digit(2), digit(3) + 1);
                if next <= second {
                    continue;
                }
                let is_probe = bits % 2 == 0;
                let kind = if is_probe { ProgressState::Probe } else { ProgressState::Replicate };
                let mut leading = Leading {
                    state: State {
                        role: Role::Leader,
                        leader: 1,
                        vote: 1,
                        stable,
                        commit: bits / 2 / (len + 1).pow(4),
                        ..State::follower(MAX_TERM, &log)
                    },
                    peers: [(kind, second, next), (ProgressState::Replicate, third, len + 1)],
                };
                leading.state.commit = leading.commit(second);
                check(&leading);
            }
        }
    }

    /// The progress of n2: kind, match, next.
    fn second(world: &World, core: &Consensus) -> (ProgressState, u64, u64) {
        let peers = core.peers(NOW);
        let peer = peers.iter().find(|peer| peer.id == world.ids[2]).expect("a peer");
        (peer.progress, peer.match_index.0, peer.next_index.0)
    }

    fn acked_round(world: &World, core: &Consensus) -> u64 {
        core.role.leader().map_or(0, |leader| leader.peers[&world.ids[2]].liveness.acked_round)
    }

    fn step_down(state: &State, term: u64) -> State {
        State { term, vote: 0, role: Role::Follower, leader: 0, ..state.clone() }
    }

    /// Every answer that a follower could give, and some that none could.
    #[test]
    fn handle_append_entries_reply() {
        let world = World::new(3);
        let mut cases = 0;
        each_leader(|leading| {
            let core = leading.core(&world);
            let len = leading.state.log.len() as u64;
            for index in 0..=len + 1 {
                for round in [0, 2, 3] {
                    check_matched(&world, leading, &core, index, round);
                    cases += 1;
                }
            }
            for prev in 0..=len {
                for hint in (0..=prev).flat_map(|index| (0..=2).map(move |term| (term, index))) {
                    check_conflict(&world, leading, &core, prev, hint);
                    cases += 1;
                }
            }
            for (term, from) in [(2, 2), (3, 2), (4, 2), (3, 4), (4, 4)] {
                check_others(&world, leading, &core, term, from);
                cases += 1;
            }
        });
        assert_eq!(cases, 1_773_452);
    }

    fn check_matched(world: &World, leading: &Leading, core: &Consensus, index: u64, round: u64) {
        let mut core = core.clone();
        core.handle_message(NOW, &world.ids[2], matched(MAX_TERM, round, index));
        let (kind, known, next) = leading.peers[0];
        let len = leading.state.log.len() as u64;
        let is_heard = round == 2;
        let is_news = is_heard && index <= len;
        let now_matched = if is_news { known.max(index) } else { known };
        let (now_kind, now_next) = match kind {
            _ if !is_heard => (kind, next),
            // Found: everything is sent from there on, ahead of the answers.
            ProgressState::Probe if is_news => (ProgressState::Replicate, len + 1),
            ProgressState::Replicate => (kind, len + 1),
            _ => (kind, next),
        };
        assert_eq!(second(world, &core), (now_kind, now_matched, now_next));
        let commit = if is_news { leading.commit(now_matched) } else { leading.state.commit };
        let after = world.state(&core);
        assert_eq!(after, State { commit, ..leading.state.clone() });
        check_laws(&leading.state, &after);
        assert_eq!(acked_round(world, &core), if is_heard { 2 } else { 0 });
        // What is sent begins after what is known or assumed to be there.
        let begins =
            if kind == ProgressState::Probe { now_matched } else { next.max(now_matched + 1) - 1 };
        let is_sent = is_heard && (is_news || kind == ProgressState::Replicate) && begins < len;
        let orders = decided(&mut core).orders;
        let to_second: Vec<_> = orders.iter().filter(|order| order.to == world.ids[2]).collect();
        assert_eq!(to_second.len(), usize::from(is_sent));
        for order in to_second {
            assert_eq!((order.prev.index.0, order.last.0), (begins, len));
            assert_eq!(Some(order.prev.term.0), term_at(&leading.state.log, begins));
            assert_eq!((order.term.0, order.round), (MAX_TERM, 2));
        }
    }

    fn check_conflict(
        world: &World,
        leading: &Leading,
        core: &Consensus,
        prev: u64,
        hint: (u64, u64),
    ) {
        let mut core = core.clone();
        core.handle_message(NOW, &world.ids[2], conflict(MAX_TERM, 2, prev, hint));
        let (kind, known, next) = leading.peers[0];
        let log = &leading.state.log;
        let len = log.len() as u64;
        // Ours can match no later than the newest entry of at most the hint's index and term.
        let can_match = |index: &u64| term_at(log, *index).is_some_and(|term| term <= hint.0);
        let meet = (0..=hint.1.min(len)).rev().find(can_match).unwrap_or(0);
        let contradicts = prev <= known && 0 < known;
        let is_asked = kind == ProgressState::Replicate || prev + 1 == next;
        let expected = if !contradicts && is_asked {
            (ProgressState::Probe, known, (meet + 1).min(prev).max(known + 1))
        } else if kind == ProgressState::Replicate {
            (kind, known, len + 1)
        } else {
            (kind, known, next)
        };
        assert_eq!(second(world, &core), expected, "{prev} {hint:?}");
        assert_eq!(world.state(&core), leading.state, "a refusal commits nothing");
        assert_eq!(acked_round(world, &core), 2);
        let orders = decided(&mut core).orders;
        if !contradicts && is_asked {
            assert_eq!(orders.len(), 1, "one probe");
            assert_eq!((orders[0].prev.index.0, orders[0].last.0), (expected.2 - 1, len));
            assert!(orders[0].prev.index.0 < prev.max(1), "the search goes on backwards");
        }
    }

    /// Other terms, refusals of an old one, and servers that are not members.
    fn check_others(world: &World, leading: &Leading, core: &Consensus, term: u64, from: usize) {
        for message in [
            stale_term(term, 2),
            if term == MAX_TERM && from == 2 {
                stale_term(term, 1)
            } else {
                matched(term, 2, leading.state.log.len() as u64)
            },
        ] {
            let mut core = core.clone();
            core.handle_message(NOW, &world.ids[from], message);
            if MAX_TERM < term {
                assert_eq!(world.state(&core), step_down(&leading.state, term));
                continue;
            }
            assert_eq!(world.state(&core), leading.state);
            assert_eq!(second(world, &core), leading.peers[0]);
            assert_eq!(acked_round(world, &core), 0, "no contact");
            assert!(decided(&mut core).orders.is_empty());
        }
    }

    /// Every answer to a heartbeat of every round, of every term.
    #[test]
    fn handle_heartbeat_reply() {
        let world = World::new(3);
        let mut cases = 0;
        each_leader(|leading| {
            let core = leading.core(&world);
            let len = leading.state.log.len() as u64;
            for (accepted, matched) in (0..=len).flat_map(|a| (0..=a).map(move |m| (a, m))) {
                for round in 0..=3 {
                    check_heard(&world, leading, &core, (accepted, matched), round);
                    cases += 1;
                }
            }
            for term in [2, 4] {
                let mut core = core.clone();
                core.handle_message(NOW, &world.ids[2], heartbeat_reply(term, 2, len, len));
                let expected =
                    if term == 4 { step_down(&leading.state, 4) } else { leading.state.clone() };
                assert_eq!(world.state(&core), expected);
                cases += 1;
            }
        });
        assert_eq!(cases, 1_597_536);
    }

    fn check_heard(
        world: &World,
        leading: &Leading,
        core: &Consensus,
        (accepted, durable): (u64, u64),
        round: u64,
    ) {
        let mut core = core.clone();
        core.handle_message(
            NOW,
            &world.ids[2],
            heartbeat_reply(MAX_TERM, round, accepted, durable),
        );
        let (kind, known, next) = leading.peers[0];
        let len = leading.state.log.len() as u64;
        let is_heard = round == 1 || round == 2;
        let now_matched = if is_heard { known.max(durable) } else { known };
        let after = world.state(&core);
        let commit = leading.commit(now_matched).max(leading.state.commit);
        assert_eq!(after, State { commit, ..leading.state.clone() });
        check_laws(&leading.state, &after);
        assert_eq!(acked_round(world, &core), if is_heard { round } else { 0 });
        let (now_kind, seen, now_next) = second(world, &core);
        assert_eq!(seen, now_matched);
        assert!(seen < now_next && now_next <= len + 1);
        if !is_heard {
            assert_eq!((now_kind, now_next), (kind, next));
        } else if kind == ProgressState::Replicate || 0 < durable {
            // Everything is under way: sent before, or now.
            assert_eq!((now_kind, now_next), (ProgressState::Replicate, len + 1));
        } else {
            // The probe left with the question or after it: the answer does not miss it.
            assert_eq!((now_kind, now_next), (ProgressState::Probe, next));
            assert!(decided(&mut core).orders.is_empty());
        }
    }
}

/// `TimeoutNow` in every role, from everybody, of every term.
#[test]
fn handle_timeout_now() {
    let world = World::new(3);
    let mut cases = 0;
    for log in all_logs() {
        for term in last_term(&log).max(1)..=MAX_TERM {
            for state in State::follower(term, &log).in_every_role() {
                for given in 0..=MAX_TERM + 1 {
                    for from in 2..=4 {
                        for is_stalled in [false, true] {
                            let mut core = world.core(&state);
                            if is_stalled {
                                core.writes.pending.push_back(PendingWrite {
                                    id: core.writes.next,
                                    last: core.log.last().index,
                                    has_hard_state: false,
                                    is_reset: false,
                                    issued_at: Time(NOW.0 - 3_000_000),
                                });
                                core.writes.next = WriteId(core.writes.next.0 + 1);
                            }
                            core.handle_message(NOW, &world.ids[from], timeout_now(given));
                            let mut expected = state.clone();
                            let is_obeyed = given == term
                                && state.leader == from
                                && state.role == Role::Follower;
                            if term < given {
                                (expected.term, expected.vote, expected.leader) = (given, 0, 0);
                                expected.role = Role::Follower;
                            } else if is_obeyed && !is_stalled {
                                (expected.term, expected.vote, expected.leader) = (term + 1, 1, 0);
                                expected.role = Role::Candidate;
                            }
                            let after = world.state(&core);
                            assert_eq!(after, expected, "{state:?} from {from} in {given}");
                            check_laws(&state, &after);
                            cases += 1;
                        }
                    }
                }
            }
        }
    }
    assert_eq!(cases, 9_270);
}

mod written {
    use super::*;

    /// The disk, and the writes on their way to it.
    #[derive(Clone, Default)]
    struct Disk {
        log: Vec<u64>,
        pending: Vec<Write>,
    }

    fn apply(log: &mut Vec<u64>, write: &Write) {
        if let Some(from) = write.truncate_from {
            log.truncate(from.0 as usize - 1);
        }
        log.extend(write.entries.iter().map(|entry| entry.term.0));
    }

    impl Disk {
        /// How much of `log` is there whenever the power is cut from now on: before, between and
        /// after the writes under way.
        fn durable(&self, log: &[u64]) -> usize {
            let mut state = self.log.clone();
            let mut durable = common(&state, log);
            for write in &self.pending {
                apply(&mut state, write);
                durable = durable.min(common(&state, log));
            }
            durable
        }
    }

    /// Every sequence of appends, truncations with another entry, and completions: the durable mark
    /// is exactly what no power cut can take away. This is the ABA rule in all its forms, entries
    /// that come back with the same index and term among them.
    #[test]
    fn durable_mark_survives_every_power_cut() {
        let world = World::new(3);
        let core = world.core(&State::follower(MAX_TERM, &[]));
        let mut cases = 0;
        explore(&core, &[], &Disk::default(), 8, &mut cases);
        assert_eq!(cases, 1_899_096);
    }

    fn explore(core: &Consensus, log: &[u64], disk: &Disk, depth: usize, cases: &mut usize) {
        *cases += 1;
        assert_eq!(core.stable_index().0 as usize, disk.durable(log), "{log:?} {:?}", disk.log);
        if depth == 0 {
            return;
        }
        // A write becomes durable.
        for count in 1..=disk.pending.len() {
            let mut next = disk.clone();
            let mut core = core.clone();
            for write in next.pending.drain(..count) {
                apply(&mut next.log, &write);
                core.writes.written = write.id;
            }
            let id = core.writes.written;
            core.handle_written(NOW, id);
            explore(&core, log, &next, depth - 1, cases);
        }
        // An entry is added, here or in place of another.
        for at in 0..=log.len().min(2) {
            for term in last_term(&log[..at]).max(1)..=MAX_TERM {
                if log.get(at) == Some(&term) {
                    continue;
                }
                let mut core = core.clone();
                let from = LogIndex(at as u64 + 1);
                let is_cut = at < log.len();
                let entries = Entries::new(vec![entry(term, from.0)]);
                core.append_entries(NOW, is_cut.then_some(from), entries);
                core.finish(NOW);
                let mut disk = disk.clone();
                disk.pending.extend(decided(&mut core).writes);
                let log = [&log[..at], &[term]].concat();
                explore(&core, &log, &disk, depth - 1, cases);
            }
        }
    }

    /// The leader's own disk counts like a follower's: every leader, every completion.
    #[test]
    fn completion_commits_what_a_majority_has() {
        let world = World::new(3);
        let mut cases = 0;
        for log in all_logs().into_iter().filter(|log| last_term(log) == MAX_TERM) {
            let len = log.len() as u64;
            for (stable, second) in (0..=len).flat_map(|s| (0..=len).map(move |m| (s, m))) {
                let state = State {
                    role: Role::Leader,
                    leader: 1,
                    vote: 1,
                    stable,
                    ..State::follower(MAX_TERM, &log)
                };
                let mut core = world.core(&state);
                if let Some(progress) =
                    core.role.leader_mut().and_then(|leader| leader.peers.get_mut(&world.ids[2]))
                {
                    progress.matched(LogIndex(second), &core.log);
                }
                core.handle_written(NOW, WriteId(core.writes.next.0 - 1));
                let is_own = term_at(&log, second) == Some(MAX_TERM);
                let commit = if is_own { second } else { 0 };
                assert_eq!(world.state(&core), State { commit, stable: len, ..state });
                let applied = decided(&mut core).applied;
                assert_eq!(applied, (0 < commit).then_some(LogIndex(commit)));
                cases += 1;
            }
        }
        assert_eq!(cases, 377);
    }

    /// A single voter: its vote and its entries count when they are durable, and not before.
    #[test]
    fn completion_counts_the_own_vote() {
        let mut world = World::new(1);
        world.rules.pre_vote = false;
        let mut core = world.core(&State::follower(1, &[1]));
        core.handle_timeout(core.election.deadline);
        assert_eq!(core.role(), Role::Candidate);
        let write = decided(&mut core).writes.remove(0);
        core.handle_written(NOW, write.id);
        assert_eq!(core.role(), Role::Leader);
        let writes = decided(&mut core).writes;
        assert_eq!(writes.len(), 1);
        assert_eq!(writes[0].entries[0].payload, EntryPayload::Noop);
        assert_eq!(core.commit_index(), LogIndex::ZERO);
        core.handle_written(NOW, writes[0].id);
        assert_eq!(core.commit_index(), LogIndex(2));
    }
}

/// The same with logs that begin after a base of up to two entries.
mod snapshots {
    use super::*;

    /// What is in the way of all of these tests: n1 in term 3 with a compacted log, everything
    /// durable, everything that is committed applied.
    struct Case {
        state: State,
        base: u64,
    }

    impl Case {
        fn core(&self, world: &World) -> Consensus {
            let mut core = world.core(&self.state);
            if 0 < self.base {
                core.log.set_snapshot(self.id(self.base).expect("an entry"));
                core.log.compact(LogIndex(self.base));
            }
            core
        }

        fn id(&self, index: u64) -> Option<LogId> {
            term_at(&self.state.log, index).map(|term| LogId::new(term, index))
        }

        /// First and last index, commit index and snapshot.
        fn marks(&self) -> (u64, LogId, u64, LogId) {
            let (term, last) = last_id(&self.state.log);
            let snapshot = self.id(self.base).expect("an entry");
            (self.base + 1, LogId::new(term, last), self.state.commit, snapshot)
        }
    }

    fn marks(core: &Consensus) -> (u64, LogId, u64, LogId) {
        (core.first_index().0, core.last(), core.commit_index().0, core.snapshot())
    }

    /// Every log, base, commit index and role.
    fn each_case(mut check: impl FnMut(&Case)) {
        for log in all_logs() {
            let len = log.len() as u64;
            for commit in 0..=len {
                for base in 0..=commit.min(2) {
                    let state = State { commit, ..State::follower(MAX_TERM, &log) };
                    for state in state.in_every_role() {
                        check(&Case { state, base });
                    }
                }
            }
        }
    }

    /// Every last entry that a snapshot can have.
    fn each_last() -> impl Iterator<Item = LogId> {
        (1..=MAX_TERM).flat_map(|term| (1..=6).map(move |index| LogId::new(term, index)))
    }

    fn actions(core: &mut Consensus) -> Vec<Action> {
        std::iter::from_fn(|| core.poll_action()).collect()
    }

    fn sent(actions: &[Action]) -> Vec<(ServerId, Message)> {
        let message = |action: &Action| match action {
            Action::Send { to, message } => Some((to.clone(), message.clone())),
            _ => None,
        };
        actions.iter().filter_map(message).collect()
    }

    /// A snapshot is whole: it is adopted exactly if it comes from the present leader and is beyond
    /// what is committed, in one write if the log lacks its last entry; and the leader is told, when
    /// that is durable.
    #[test]
    fn receipt_of_a_whole_snapshot() {
        let world = World::new(3);
        let mut cases = 0;
        each_case(|case| {
            for (last, term, from) in
                each_last().flat_map(|last| [(last, 3, 2), (last, 3, 3), (last, 2, 2)])
            {
                let mut core = case.core(&world);
                let of_snapshot = snapshot(last.term.0, last.index.0, 2).configuration;
                let step = ReceiptStep::Complete { last, configuration: of_snapshot.clone() };
                let from = world.ids[from].clone();
                let receipt =
                    SnapshotReceipt { from: from.clone(), term: Term(term), transfer: 7, step };
                core.handle_snapshot_receipt(NOW, receipt);
                let did = actions(&mut core);
                let before = case.marks();
                let is_awaited = term == 3 && case.state.leader == 2 && from == world.ids[2];
                let answer = vec![(from, installed(3, 7, last.index.0))];
                cases += 1;
                if !is_awaited {
                    assert_eq!((marks(&core), did.len()), (before, 0), "nobody awaits it");
                    assert_eq!(core.role(), case.state.role);
                } else if last.index.0 <= case.state.commit {
                    assert_eq!((marks(&core), sent(&did)), (before, answer), "it is no news");
                    assert_eq!(core.role(), case.state.role);
                } else if case.id(last.index.0) == Some(last) {
                    let expected = (before.0, before.1, last.index.0, before.3);
                    assert_eq!((marks(&core), sent(&did)), (expected, answer), "a prefix");
                    assert!(did.contains(&Action::Commit { up_to: last.index }));
                    assert_eq!(core.role(), case.state.role);
                } else {
                    let index = last.index.0;
                    assert_eq!(marks(&core), (index + 1, last, index, last), "it is adopted");
                    assert_eq!(*core.latest_configuration(), of_snapshot);
                    assert_eq!(*core.committed_configuration(), of_snapshot);
                    assert_eq!(core.role(), Role::Follower);
                    assert_eq!(sent(&did), [], "nothing is said before it is durable");
                    let is_write = |action: &&Action| matches!(action, Action::Write(_));
                    let writes: Vec<&Action> = did.iter().filter(is_write).collect();
                    let [Action::Write(write)] = writes[..] else { panic!("{writes:?}") };
                    assert_eq!(write.reset_to, Some(last.index));
                    assert!(write.entries.is_empty() && write.truncate_from.is_none());
                    assert_eq!(write.commit_index, last.index);
                    let is_restore = |action: &Action| matches!(action, Action::Restore { .. });
                    assert!(!did.iter().any(is_restore));
                    core.handle_written(NOW, write.id);
                    let did = actions(&mut core);
                    assert_eq!(sent(&did), answer);
                    assert!(did.contains(&Action::Restore { snapshot: last }));
                    core.handle_applied(NOW, last.index);
                }
            }
        });
        assert_eq!(cases, 95_850);
    }

    /// A piece: refused if it is of an old term, answered for all if it is no news, kept otherwise. One whose
    /// snapshot cannot have what is committed here ends the server.
    #[test]
    fn install_snapshot() {
        let world = World::new(3);
        let mut cases = 0;
        each_case(|case| {
            for (last, term) in each_last().flat_map(|last| (2..=4).map(move |term| (last, term))) {
                let is_legal = last.term.0 <= term
                    // Law 1: no other server leads this term.
                    && (term != 3 || case.state.role != Role::Leader);
                if !is_legal {
                    continue;
                }
                let mut core = case.core(&world);
                let message = piece(term, 7, &snapshot(last.term.0, last.index.0, 3), 0);
                core.handle_message(NOW, &world.ids[2], message);
                let did = actions(&mut core);
                let later = sent(&did).into_iter().chain(complete(&mut core).sent);
                let said: Vec<Message> = later.map(|(_, message)| message).collect();
                let keep = |action: &Action| matches!(action, Action::ReceiveSnapshot { .. });
                let is_kept = did.iter().any(keep);
                assert_eq!(marks(&core), case.marks(), "a piece changes no log");
                let commit = case.id(case.state.commit).unwrap_or_default();
                let base = case.marks().3;
                let is_lost = if commit.index < last.index {
                    last.term < commit.term
                } else if last.index < base.index {
                    base.term < last.term
                } else {
                    case.id(last.index.0) != Some(last)
                };
                let is_end = |action: &Action| {
                    matches!(action, Action::LostByMajority { .. } | Action::Diverged { .. })
                };
                assert_eq!(did.iter().any(is_end), 3 <= term && is_lost);
                if 3 <= term && is_lost {
                    assert_eq!((said, is_kept), (vec![], false));
                } else if term < 3 {
                    let refusal = install_reply(3, 7, InstallOutcome::StaleTerm);
                    assert_eq!((said, is_kept), (vec![refusal], false));
                    assert_eq!(core.role(), case.state.role);
                } else {
                    let is_news = case.state.commit < last.index.0;
                    let answer = installed(term, 7, last.index.0);
                    let expected = if is_news { vec![] } else { vec![answer] };
                    assert_eq!((said, is_kept), (expected, is_news));
                    assert_eq!((core.role(), core.term()), (Role::Follower, Term(term)));
                    assert_eq!(core.leader.as_ref(), Some(&world.ids[2]));
                }
                cases += 1;
            }
        });
        assert_eq!(cases, 81_690);
    }

    /// A snapshot of its own: what is news moves the snapshot on, and the log forgets what it may.
    #[test]
    fn snapshot_taken() {
        let mut cases = 0;
        for trailing in [0, 1, 2, 9] {
            let mut world = World::new(3);
            world.rules.trailing_logs = trailing;
            each_case(|case| {
                // Everything that could have been applied here at any time.
                for index in 1..=case.state.commit {
                    let mut core = case.core(&world);
                    let last = case.id(index).expect("an entry");
                    core.handle_snapshot_taken(NOW, last);
                    let did = actions(&mut core);
                    let (_, end, commit, _) = case.marks();
                    let kept = end.index.0.saturating_sub(trailing);
                    let is_news = case.base < index;
                    let base = if is_news { case.base.max(index.min(kept)) } else { case.base };
                    let newest = if is_news { last } else { case.marks().3 };
                    assert_eq!(marks(&core), (base + 1, end, commit, newest));
                    let compact = Action::Compact { through: LogIndex(base) };
                    let expected = if case.base < base { vec![compact] } else { vec![] };
                    assert_eq!(did, expected);
                    cases += 1;
                }
            });
        }
        assert_eq!(cases, 14_852);
    }

    /// Answers to a snapshot that is being sent: only those to the newest transfer count, only what
    /// is installed moves the match index, and a refusal is followed by a pause.
    #[test]
    fn install_snapshot_reply() {
        let mut world = World::new(3);
        world.rules.trailing_logs = 0;
        let log = [1, 3, 3, 3];
        let leading = State {
            role: Role::Leader,
            leader: 1,
            vote: 1,
            commit: 3,
            ..State::follower(MAX_TERM, &log)
        };
        let mut cases = 0;
        for (known, transfer, round) in
            (0..2).flat_map(|m| (0..3).flat_map(move |t| (0..8).map(move |r| (m, t, r))))
        {
            let mut core = Case { state: leading.clone(), base: 2 }.core(&world);
            let peer = world.ids[2].clone();
            let leader = core.role.leader_mut().expect("it leads");
            let progress = leader.peers.get_mut(&peer).expect("a peer");
            (progress.match_index, progress.next_index) = (LogIndex(known), LogIndex(known + 1));
            core.replicate(NOW, &peer);
            let began = actions(&mut core);
            assert!(matches!(began[0], Action::SendSnapshot(_)), "{began:?}");
            let outcome = match round {
                0 => InstallOutcome::Received { next_offset: 9 },
                1 => InstallOutcome::Refused,
                2 => InstallOutcome::StaleTerm,
                index => InstallOutcome::Installed { match_index: LogIndex(index - 2) },
            };
            core.handle_message(NOW, &peer, install_reply(3, transfer, outcome.clone()));
            let did = actions(&mut core);
            let peers = core.peers(NOW);
            let after = (peers[0].progress, peers[0].match_index.0);
            let is_passed_on =
                did.iter().any(|action| matches!(action, Action::SnapshotAnswered { .. }));
            let begins_anew = did.iter().any(|action| matches!(action, Action::SendSnapshot(_)));
            let counts = transfer == 1 && outcome != InstallOutcome::StaleTerm;
            assert_eq!(is_passed_on, counts);
            let expected = match outcome {
                _ if !counts => (ProgressState::Snapshot, known),
                InstallOutcome::Refused => (ProgressState::Probe, known),
                InstallOutcome::Installed { match_index } if match_index.0 <= 4 => {
                    let matched = known.max(match_index.0);
                    let is_served = 2 <= matched;
                    let state =
                        if is_served { ProgressState::Replicate } else { ProgressState::Snapshot };
                    assert_eq!(
                        begins_anew, !is_served,
                        "what is not enough is followed by another"
                    );
                    (state, matched)
                }
                // More than the leader has: nothing is known by that, and it is sent anew.
                InstallOutcome::Installed { .. } => {
                    assert!(begins_anew);
                    (ProgressState::Snapshot, known)
                }
                _ => (ProgressState::Snapshot, known),
            };
            assert_eq!(after, expected, "{outcome:?} of transfer {transfer}");
            cases += 1;
        }
        assert_eq!(cases, 48);
    }

    /// A notice of removal is believed from the leader of this term or a newer one, unless it is older
    /// than a configuration with this server in it.
    #[test]
    fn removed_notice() {
        let mut cases = 0;
        for voters in [0, 3] {
            let world = World::new(voters);
            for (latest, notice, term) in
                (0..3).flat_map(|l| (0..4).flat_map(move |n| (2..=4).map(move |term| (l, n, term))))
            {
                let mut core = world.core(&State::follower(MAX_TERM, &[1, 2]));
                let members = IndexedConfiguration {
                    index: LogIndex(latest),
                    configuration: world.configuration.clone(),
                };
                core.membership = Membership::new(members);
                core.handle_message(NOW, &world.ids[2], removed(term, notice));
                let is_told = actions(&mut core).iter().any(|action| {
                    let index = LogIndex(notice);
                    let removed = Observation::Removed { configuration_index: index };
                    *action == Action::Observe(removed)
                });
                assert_eq!(is_told, 3 <= term && (voters == 0 || latest <= notice));
                assert_eq!(core.term(), Term(term.max(3)));
                cases += 1;
            }
        }
        assert_eq!(cases, 72);
    }
}
