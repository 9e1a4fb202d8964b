//! What other rules do to what is under way.

use std::time::Duration;

use super::*;
use crate::{
    configuration::{Configuration, IndexedConfiguration, Server},
    consensus::{Action, Consensus, Saved, Time},
    log::{Entries, Entry, EntryPayload},
    position::{LogId, LogIndex, Term},
    rpc::{
        AppendEntriesReply, AppendOutcome, HeartbeatReply, HeartbeatRequest, Message,
        RequestVoteReply,
    },
    stable::HardState,
    status::Role,
};

const MS: Duration = Duration::from_millis(1);

fn at(ms: u64) -> Time {
    Time(ms * 1000)
}

fn rules() -> Rules {
    Rules::from(&Config::new("a"))
}

/// Ten times as fast as the default.
fn fast() -> Rules {
    Rules {
        election_timeout: 100 * MS,
        heartbeat_interval: 10 * MS,
        leader_lease_timeout: 50 * MS,
        ..rules()
    }
}

/// Server a of three, at time zero.
fn follower() -> Consensus {
    let configuration = Configuration::new(["a", "b", "c"].map(|id| Server::voter(id, id)));
    let hard_state = HardState { current_term: Term(1), voted_for: None };
    let mut saved = Saved::new(hard_state, LogId::ZERO, IndexedConfiguration::default());
    let payload = EntryPayload::Configuration(configuration);
    saved.push(&Entries::new(vec![Entry { term: Term(1), index: LogIndex(1), payload }]));
    Consensus::new(rules(), saved, 7, at(0))
}

fn take(core: &mut Consensus) -> Vec<Action> {
    std::iter::from_fn(|| core.poll_action()).collect()
}

/// Takes the decisions, as if every write was durable at once.
fn settle(core: &mut Consensus, now: Time) -> Vec<Action> {
    let mut all = Vec::new();
    loop {
        let actions = take(core);
        let written = actions.iter().rev().find_map(|action| match action {
            Action::Write(write) => Some(write.id),
            _ => None,
        });
        all.extend(actions);
        match written {
            Some(id) => core.handle_written(now, id),
            None => return all,
        }
    }
}

/// The same server as the leader of term 2, elected when its timeout comes; and that moment.
fn leader() -> (Consensus, Time) {
    let mut core = follower();
    let now = core.next_timeout().expect("it waits");
    core.handle_timeout(now);
    for is_pre_vote in [true, false] {
        let reply = Message::RequestVoteReply(RequestVoteReply {
            term: if is_pre_vote { Term(1) } else { Term(2) },
            requested_term: Term(2),
            is_pre_vote,
            is_granted: true,
            promised: None,
            life: 0,
        });
        settle(&mut core, now);
        core.handle_message(now, &"b".into(), reply);
    }
    settle(&mut core, now);
    assert_eq!(core.role(), Role::Leader);
    (core, now)
}

fn round(actions: &[Action]) -> Option<u64> {
    actions.iter().rev().find_map(|action| match action {
        Action::Send { message: Message::Heartbeat(request), .. } => Some(request.round),
        _ => None,
    })
}

fn appends(actions: &[Action], peer: &str) -> usize {
    let is_append =
        |action: &&Action| matches!(action, Action::Replicate(order) if order.to.as_str() == peer);
    actions.iter().filter(is_append).count()
}

fn heartbeat_reply(round: u64, index: LogIndex) -> Message {
    let (accepted_index, match_index) = (index, index);
    let (term, applied_index) = (Term(2), LogIndex::ZERO);
    let reply = HeartbeatReply { term, round, accepted_index, match_index, applied_index };
    Message::HeartbeatReply(reply)
}

#[test]
fn a_waiting_server_goes_on_waiting_from_the_same_moment() {
    let mut core = follower();
    let word =
        HeartbeatRequest { term: Term(2), round: 1, commit_index: LogIndex::ZERO, promised: None };
    core.handle_message(at(500), &"b".into(), Message::Heartbeat(word));
    let before = core.next_timeout().unwrap();
    assert!(at(1500) <= before && before < at(2500));

    core.set_rules(at(550), fast());
    let shorter = core.next_timeout().unwrap();
    assert!(at(600) <= shorter && shorter < at(700), "{shorter}");
    core.set_rules(at(560), Rules { election_timeout: 2000 * MS, ..rules() });
    let longer = core.next_timeout().unwrap();
    assert!(at(2500) <= longer && longer < at(4500), "{longer}");

    // A wait that is over already.
    core.set_rules(at(900), fast());
    assert!(core.next_timeout().unwrap() <= at(900));
    assert_eq!(core.role(), Role::Follower, "nothing happens before the timeout is handled");
    core.handle_timeout(at(900));
    assert_eq!(core.role(), Role::PreCandidate);
}

#[test]
fn rules_that_leave_the_election_timeout_alone_leave_the_deadline_alone() {
    let mut core = follower();
    let before = core.next_timeout();
    core.set_rules(at(100), Rules { max_append_entries: 7, ..rules() });
    assert_eq!(core.next_timeout(), before);
}

#[test]
fn a_leader_is_heard_at_once_and_keeps_its_lease_until_it_can_be_answered() {
    let (mut core, start) = leader();
    // Nobody was asked for longer than the new lease lasts, and nobody had to be.
    let now = start + 90 * MS;
    core.set_rules(now, fast());
    assert!(round(&take(&mut core)).is_some(), "a round begins");
    assert!(core.next_timeout().unwrap() <= now + 10 * MS);
    core.handle_timeout(now);
    assert_eq!(core.role(), Role::Leader);
    core.handle_timeout(now + 49 * MS);
    assert_eq!(core.role(), Role::Leader);
    // Answered, it leads on; the answer counts from when it was asked for.
    let asked = round(&take(&mut core)).expect("a round begins");
    core.handle_message(now + 49 * MS, &"b".into(), heartbeat_reply(asked, LogIndex(1)));
    core.handle_timeout(now + 98 * MS);
    assert_eq!(core.role(), Role::Leader);
    core.handle_timeout(now + 100 * MS);
    assert_eq!(core.role(), Role::Follower);
}

#[test]
fn a_shorter_lease_never_ends_later_than_the_one_it_replaces() {
    let (mut core, start) = leader();
    let now = start + 480 * MS;
    core.set_rules(now, fast());
    core.handle_timeout(start + 499 * MS);
    assert_eq!(core.role(), Role::Leader);
    core.handle_timeout(start + 500 * MS);
    assert_eq!(core.role(), Role::Follower);
}

#[test]
fn a_window_that_is_too_large_now_drains() {
    let (mut core, now) = leader();
    let asked = round(&take(&mut core)).unwrap_or(1);
    core.handle_message(now, &"b".into(), heartbeat_reply(asked, LogIndex(2)));
    settle(&mut core, now);
    let fill = |core: &mut Consensus| {
        let payloads = vec![EntryPayload::Barrier; 1024];
        core.propose(now, payloads).unwrap();
        appends(&settle(core, now), "b")
    };
    let sent: usize = (0..8).map(|_| fill(&mut core)).sum();
    assert_eq!(sent, 8);
    core.set_rules(now, Rules { max_inflight_appends: 3, ..rules() });
    assert_eq!(core.peers(now)[0].inflight, 8, "what is under way stays");
    assert_eq!(fill(&mut core), 0);
    // The entries of the first eight messages are acknowledged one after the other.
    for message in 1..=8 {
        let outcome = AppendOutcome::Matched { match_index: LogIndex(2 + 1024 * message) };
        let reply = AppendEntriesReply { term: Term(2), round: asked, outcome };
        core.handle_message(now, &"b".into(), Message::AppendEntriesReply(reply));
        settle(&mut core, now);
        let left = usize::try_from(8 - message).unwrap();
        let inflight = core.peers(now)[0].inflight;
        assert!(inflight <= left.max(3), "{inflight} after {message} answers");
    }
}

#[test]
fn what_is_kept_in_the_log_is_let_go_at_once() {
    let (mut core, now) = leader();
    core.propose(now, vec![EntryPayload::Barrier; 100]).unwrap();
    settle(&mut core, now);
    let last = core.last();
    let asked = AppendOutcome::Matched { match_index: last.index };
    let reply = AppendEntriesReply { term: Term(2), round: 1, outcome: asked };
    core.handle_message(now, &"b".into(), Message::AppendEntriesReply(reply));
    settle(&mut core, now);
    core.handle_applied(now, last.index);
    core.handle_snapshot_taken(now, last);
    assert_eq!(core.first_index(), LogIndex(1));
    core.set_rules(now, Rules { trailing_logs: 10, ..rules() });
    assert_eq!(core.first_index(), LogIndex(last.index.0 - 9));
}

#[test]
#[should_panic(expected = "the rules of b given to a")]
fn the_rules_of_another_server_are_a_mistake_of_the_caller() {
    follower().set_rules(at(0), Rules::from(&Config::new("b")));
}
