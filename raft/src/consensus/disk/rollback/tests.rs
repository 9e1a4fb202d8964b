use super::{super::identity::Known, *};
use crate::{
    config::Config,
    configuration::{ClusterId, Configuration, IndexedConfiguration, Server},
    consensus::{Mismatch, Rules, Saved, Time, WriteId},
    log::{Entry, EntryPayload},
    position::LogIndex,
    rpc::{
        AppendEntriesReply, AppendOutcome, Envelope, HeartbeatRequest, RequestVoteReply,
        RequestVoteRequest, TimeoutNowRequest,
    },
    stable::HardState,
    status::Role,
};

const TERM: Term = Term(4);
/// How n1, n2 and n3 are known.
const DISKS: [u64; 3] = [11, 22, 33];
/// An earlier life of n1's disk, its present one, and that of the others.
const BEFORE: u64 = 6;
const LIFE: u64 = 7;
const OTHERS: u64 = 5;

fn n(number: usize) -> ServerId {
    format!("n{number}").into()
}

/// n1 in term 4, on the disk it is known by. Its log ends with entry 5 of term 3 and begins after a snapshot of
/// index 2.
fn server() -> Consensus {
    let mut core = started();
    settle(&mut core, Time(0));
    core
}

fn started() -> Consensus {
    Consensus::new(Rules::from(&Config::new("n1")), saved(DISKS), 1, Time(0))
}

/// What n1 finds on its disk if the configuration knows the members by these.
fn saved(disks: [u64; 3]) -> Saved {
    let members = Configuration::new(disks.into_iter().zip(1..).map(|(incarnation, number)| {
        Server { incarnation, ..Server::voter(n(number), n(number).as_str()) }
    }));
    let members = IndexedConfiguration { index: LogIndex(1), configuration: members };
    let hard_state = HardState { current_term: TERM, voted_for: None };
    let mut saved = Saved::new(hard_state, LogId::new(1, 2), members);
    let entries = [(1, 3), (3, 4), (3, 5)].map(|(term, index)| Entry {
        term: Term(term),
        index: LogIndex(index),
        payload: EntryPayload::Noop,
    });
    saved.push(&entries);
    saved.disk(DISKS[0], LIFE);
    saved
}

/// What n1 has promised in an earlier life.
fn promise(incarnation: u64, term: u64, matched: (u64, u64)) -> Promised {
    let (term, matched) = (Term(term), LogId::new(matched.0, matched.1));
    Promised { incarnation, life: BEFORE, term, matched }
}

/// What n1 remembers of another server.
fn noted(incarnation: u64, term: u64, matched: (u64, u64)) -> Promised {
    Promised { life: OTHERS, ..promise(incarnation, term, matched) }
}

fn heartbeat(term: u64, promised: Option<Promised>) -> Message {
    let (term, commit_index) = (Term(term), LogIndex(0));
    Message::Heartbeat(HeartbeatRequest { term, round: 1, commit_index, promised })
}

fn request(term: u64, promised: Option<Promised>) -> Message {
    let (is_pre_vote, is_leadership_transfer) = (false, false);
    Message::RequestVote(RequestVoteRequest {
        term: Term(term),
        last: LogId::new(9, 9),
        is_pre_vote,
        is_leadership_transfer,
        promised,
        configuration_index: LogIndex(1),
        life: OTHERS,
    })
}

fn reply(term: u64, promised: Option<Promised>) -> Message {
    Message::RequestVoteReply(RequestVoteReply {
        term: Term(term),
        requested_term: Term(term),
        is_pre_vote: false,
        is_granted: true,
        promised,
        life: LIFE,
    })
}

fn envelope(from: usize, life: u64, message: Message) -> Envelope {
    let (from, incarnation, expects) = (n(from), DISKS[from - 1], DISKS[0]);
    let (address, cluster) = ("x".into(), ClusterId::NONE);
    Envelope { from, address, cluster, incarnation, life, expects, message }
}

/// A message of that member arrives, from the disk that is known.
fn receive(core: &mut Consensus, now: Time, from: usize, message: Message) {
    let envelope = envelope(from, OTHERS, message);
    core.admit(&envelope).expect("it is admitted");
    core.receive(now, envelope).expect("it is admitted");
}

/// Carries everything out at once; returns what was sent, and who accused this server.
fn settle(core: &mut Consensus, now: Time) -> (Vec<(ServerId, Message)>, Option<ServerId>) {
    let (mut sent, mut accuser) = (Vec::new(), None);
    while let Some(action) = core.poll_action() {
        match action {
            Action::Write(write) => core.handle_written(now, write.id),
            Action::Send { to, message } => sent.push((to, message)),
            Action::RolledBack { told, .. } => accuser = Some(told),
            _ => {}
        }
    }
    (sent, accuser)
}

/// What the newest message to that server says it has promised.
fn said_to(sent: &[(ServerId, Message)], to: &ServerId) -> Option<Promised> {
    sent.iter().rfind(|(id, message)| id == to && message.is_about_promises())?.1.promised()
}

fn has_granted(sent: &[(ServerId, Message)]) -> bool {
    sent.iter().any(|it| matches!(&it.1, Message::RequestVoteReply(reply) if reply.is_granted))
}

impl Message {
    fn is_about_promises(&self) -> bool {
        matches!(self, Self::Heartbeat(_) | Self::RequestVote(_) | Self::RequestVoteReply(_))
    }
}

#[test]
fn only_a_disk_that_falls_short_of_its_own_promise_is_an_older_copy() {
    for (promised, is_older) in [
        (promise(11, 5, (0, 0)), true),
        (promise(11, 4, (3, 6)), true),
        (promise(11, 4, (4, 5)), true),
        (promise(11, 4, (3, 5)), false),
        (promise(11, 4, (3, 4)), false),
        (promise(11, 4, (0, 0)), false),
        (promise(11, 4, (1, 2)), false),
        // Of this life: what it has since lost, it has not.
        (Promised { life: LIFE, ..promise(11, 9, (9, 9)) }, false),
        // Of a life that this disk knows nothing of.
        (Promised { life: LIFE + 1, ..promise(11, 1, (0, 0)) }, true),
        // A later leader may have truncated it.
        (promise(11, 3, (3, 9)), false),
        // Another disk's.
        (promise(12, 9, (9, 9)), false),
    ] {
        for message in [heartbeat, request, reply] {
            let mut core = server();
            core.disk.question = None;
            core.handle_message(Time(1), &n(2), message(7, Some(promised)));
            let accuser = settle(&mut core, Time(1)).1;
            assert_eq!(accuser, is_older.then(|| n(2)), "{promised:?} {}", message(7, None));
            assert_eq!(core.term(), Term(if is_older { 4 } else { 7 }));
        }
    }
}

/// Whoever leads may know nothing of a server that starts; so that asks everybody.
#[test]
fn a_server_that_starts_asks_everybody_what_it_has_promised() {
    let mut core = started();
    let (sent, accuser) = settle(&mut core, Time(0));
    let question = |it: &(ServerId, Message)| match &it.1 {
        Message::RequestVote(request) if request.is_pre_vote => Some((it.0.clone(), request.term)),
        _ => None,
    };
    let questions: Vec<_> = sent.iter().filter_map(question).collect();
    assert_eq!(questions, [(n(2), Term(5)), (n(3), Term(5))]);
    assert_eq!((accuser, core.role(), core.term()), (None, Role::Follower, TERM));
    // An answer that promises the vote changes nothing.
    for id in [n(2), n(3)] {
        let reply = RequestVoteReply {
            term: TERM,
            requested_term: Term(5),
            is_pre_vote: true,
            is_granted: true,
            promised: None,
            life: LIFE,
        };
        core.handle_message(Time(1), &id, Message::RequestVoteReply(reply));
    }
    assert_eq!((core.role(), core.term()), (Role::Follower, TERM));
}

/// Whoever remembers may be slower than a candidate. Those who do not answer are not waited for longer
/// than for a leader.
#[test]
fn a_server_that_starts_votes_when_all_have_answered_or_have_had_the_time() {
    let answer = |core: &mut Consensus, id: ServerId| {
        core.handle_message(Time(1), &id, reply(4, None));
    };
    let ask = |core: &mut Consensus, now: Time| {
        core.handle_message(now, &n(2), request(5, None));
        has_granted(&settle(core, now).0)
    };
    let mut core = started();
    assert!(!ask(&mut core, Time(1)));
    answer(&mut core, n(2));
    assert!(!ask(&mut core, Time(1)));
    answer(&mut core, n(3));
    assert!(ask(&mut core, Time(1)));

    let mut core = started();
    let due = Time(0) + core.rules.election_timeout;
    assert!(!ask(&mut core, Time(due.0 - 1)));
    assert!(ask(&mut core, due));
}

#[test]
fn a_store_without_incarnation_is_never_accused() {
    let mut core = server();
    core.disk.incarnation = 0;
    core.handle_message(Time(1), &n(2), heartbeat(7, Some(promise(0, 9, (9, 9)))));
    assert_eq!(settle(&mut core, Time(1)).1, None);
}

/// From the accusation on it helps nobody, whatever else arrives, and campaigns no more.
#[test]
fn an_older_copy_votes_for_nobody_and_does_not_campaign() {
    let mut core = server();
    core.handle_message(Time(1), &n(2), heartbeat(4, Some(promise(11, 4, (3, 6)))));
    let (sent, accuser) = settle(&mut core, Time(1));
    assert_eq!((sent.len(), accuser), (0, Some(n(2))));
    for message in [request(8, None), heartbeat(8, None)] {
        let refused = core.admit(&envelope(2, OTHERS, message));
        assert!(matches!(refused, Err(Mismatch::Receiver { recorded: 11, .. })), "{refused:?}");
    }
    let end = Time(60_000_000);
    while let Some(now) = core.next_timeout().filter(|now| *now < end) {
        core.handle_timeout(now);
        assert_eq!(settle(&mut core, now).0, [], "at {now:?}");
    }
    assert_eq!(core.term(), TERM);
}

/// A server that has led remembers what its followers had, and tells whoever asks it, and whomever it
/// asks, also when it leads no more.
#[test]
fn what_a_leader_was_told_is_said_back_also_when_it_leads_no_more() {
    let mut core = server();
    core.disk.question = None;
    let now = core.next_timeout().expect("it campaigns");
    core.campaign(now, true);
    let sent = settle(&mut core, now).0;
    assert_eq!(said_to(&sent, &n(2)), None, "nothing is known of it yet");
    receive(&mut core, now, 2, reply(5, None));
    assert_eq!(core.role(), Role::Leader);
    let sent = settle(&mut core, now).0;
    assert_eq!(said_to(&sent, &n(2)), Some(noted(22, 5, (0, 0))), "it has voted in this term");
    assert_eq!(said_to(&sent, &n(3)), None);

    let outcome = AppendOutcome::Matched { match_index: LogIndex(6) };
    let matched = AppendEntriesReply { term: Term(5), round: 1, outcome };
    receive(&mut core, now, 2, Message::AppendEntriesReply(matched));
    settle(&mut core, now);
    let now = core.next_timeout().expect("a heartbeat");
    core.handle_timeout(now);
    let sent = settle(&mut core, now).0;
    assert_eq!(said_to(&sent, &n(2)), Some(noted(22, 5, (5, 6))));

    // What came after the last heartbeat is not lost with the leadership.
    let index = core.propose(now, vec![EntryPayload::Noop]).expect("it leads");
    settle(&mut core, now);
    let outcome = AppendOutcome::Matched { match_index: index };
    let matched = AppendEntriesReply { term: Term(5), round: 2, outcome };
    receive(&mut core, now, 2, Message::AppendEntriesReply(matched));
    receive(&mut core, now, 3, heartbeat(6, None));
    settle(&mut core, now);
    let known = noted(22, 5, (5, 7));
    core.handle_message(now, &n(2), request(6, None));
    assert_eq!(
        said_to(&settle(&mut core, now).0, &n(2)),
        Some(known),
        "in the answer to a request"
    );
    let now = core.next_timeout().expect("it campaigns");
    core.campaign(now, true);
    assert_eq!(said_to(&settle(&mut core, now).0, &n(2)), Some(known), "in a request");
}

/// What one disk has said does not hold for the one that takes its place.
#[test]
fn promises_of_a_disk_that_is_no_member_any_more_are_forgotten() {
    let mut core = server();
    receive(&mut core, Time(1), 2, reply(9, None));
    receive(&mut core, Time(1), 3, reply(9, None));
    settle(&mut core, Time(1));
    assert_eq!(core.disk.promised(&n(2)), Some(noted(22, 9, (0, 0))));
    let members = [(n(1), 11), (n(2), 23), (n(3), 33)]
        .map(|(id, incarnation)| Server { incarnation, ..Server::voter(id.clone(), id.as_str()) });
    let entry = Entry {
        term: Term(4),
        index: LogIndex(6),
        payload: EntryPayload::Configuration(Configuration::new(members)),
    };
    core.append_entries(Time(1), None, vec![entry].into());
    core.note_promises();
    assert_eq!(core.disk.promised(&n(2)), None);
    assert_eq!(core.disk.promised(&n(3)), Some(noted(33, 9, (0, 0))));
    // Nor is anything noted of a disk that is not known.
    core.hear(&envelope(2, OTHERS, reply(9, None)));
    core.hear(&Envelope { from: "n4".into(), ..envelope(2, OTHERS, reply(9, None)) });
    assert_eq!((core.disk.promised(&"n4".into()), core.disk.promised(&n(2))), (None, None));
}

/// A late message of an earlier life says nothing any more: what it promises may be forgotten, and
/// nobody would be told of it. That is so as soon as the disk was heard from in a later life.
#[test]
fn what_comes_of_an_earlier_life_is_dropped() {
    let mut core = server();
    let late = || envelope(2, OTHERS - 1, reply(4, None));
    assert_eq!(core.admit(&late()), Ok(()));
    receive(&mut core, Time(1), 2, heartbeat(4, None));
    assert_eq!(core.admit(&late()), Err(Mismatch::Over));
    assert_eq!(core.admit(&envelope(2, OTHERS - 1, heartbeat(9, None))), Err(Mismatch::Over));
    assert_eq!(core.admit(&envelope(2, OTHERS + 1, heartbeat(4, None))), Ok(()));
    // Another disk of that server is none of its business.
    let other = Envelope { incarnation: 99, ..envelope(2, 1, heartbeat(9, None)) };
    assert_eq!(core.admit(&other), Ok(()));
}

/// It is started from a copy that was made before its last start, and has to learn of that.
#[test]
fn the_question_of_an_earlier_life_is_answered_with_the_later_one() {
    let mut core = server();
    receive(&mut core, Time(1), 2, heartbeat(4, None));
    let Message::RequestVote(asked) = request(5, None) else { unreachable!() };
    let question = RequestVoteRequest { is_pre_vote: true, life: OTHERS - 1, ..asked };
    let question = envelope(2, OTHERS - 1, Message::RequestVote(question));
    core.admit(&question).expect("a question is admitted");
    core.receive(Time(1), question).expect("it is admitted");
    let (sent, _) = settle(&mut core, Time(1));
    assert_eq!(said_to(&sent, &n(2)).map(|it| it.life), Some(OTHERS));
    let answers = |it: &(ServerId, Message)| match &it.1 {
        Message::RequestVoteReply(reply) => Some(reply.life),
        _ => None,
    };
    assert_eq!(sent.iter().find_map(answers), Some(OTHERS - 1), "which life it answers");
}

/// What is remembered of an earlier life is not hidden by the next one saying the same.
#[test]
fn a_promise_stays_that_of_the_first_life_that_has_made_it() {
    let mut core = server();
    receive(&mut core, Time(1), 2, reply(4, None));
    core.receive(Time(1), envelope(2, OTHERS + 1, reply(4, None))).expect("it is admitted");
    assert_eq!(core.disk.promised(&n(2)), Some(noted(22, 4, (0, 0))));
    core.receive(Time(1), envelope(2, OTHERS + 1, reply(5, None))).expect("it is admitted");
    let later = Promised { life: OTHERS + 1, ..noted(22, 5, (0, 0)) };
    assert_eq!(core.disk.promised(&n(2)), Some(later));
}

/// A late question of an earlier life comes before the disk is recorded: what the present life has
/// acknowledged was credited to that one, and the server was accused although its disk was right.
#[test]
fn what_is_acknowledged_before_the_disk_is_recorded_is_of_the_life_that_says_it() {
    let mut core = server();
    core.disk.question = None;
    let members = DISKS.into_iter().zip(1..).map(|(incarnation, number)| {
        let incarnation = if number == 2 { 0 } else { incarnation };
        Server { incarnation, ..Server::voter(n(number), n(number).as_str()) }
    });
    let index = LogIndex(1);
    let configuration = Configuration::new(members);
    core.membership.install(IndexedConfiguration { index, configuration });
    let now = core.next_timeout().expect("it campaigns");
    core.campaign(now, true);
    settle(&mut core, now);
    receive(&mut core, now, 2, reply(5, None));
    assert_eq!(core.role(), Role::Leader);
    settle(&mut core, now);
    let outcome = AppendOutcome::Matched { match_index: LogIndex(6) };
    let matched = AppendEntriesReply { term: Term(5), round: 1, outcome };
    receive(&mut core, now, 2, Message::AppendEntriesReply(matched));
    let Message::RequestVote(asked) = request(6, None) else { unreachable!() };
    let question = RequestVoteRequest { is_pre_vote: true, life: OTHERS - 1, ..asked };
    core.receive(now, envelope(2, OTHERS - 1, Message::RequestVote(question)))
        .expect("it is admitted");
    receive(&mut core, now, 2, heartbeat(4, None));
    core.note_promises();
    assert_eq!(core.disk.promised(&n(2)), Some(noted(22, 5, (5, 6))));
    // Another disk, before any is recorded, has promised nothing.
    core.hear(&Envelope { incarnation: 23, ..envelope(2, 1, reply(4, None)) });
    assert_eq!(core.disk.promised(&n(2)).map(|it| (it.incarnation, it.life)), Some((23, 1)));
}

/// The vote that it has given there may be one that its disk has forgotten.
#[test]
fn a_server_votes_in_no_term_in_which_it_was_before_all_had_answered() {
    // The term that it begins with; and one that an answer has raised while it waited.
    for (raised, term) in [(4, 4), (6, 6), (6, 5)] {
        let mut core = started();
        receive(&mut core, Time(1), 2, reply(raised, None));
        receive(&mut core, Time(1), 3, reply(4, None));
        receive(&mut core, Time(1), 3, request(term, None));
        assert!(!has_granted(&settle(&mut core, Time(1)).0), "{raised} {term}");
        receive(&mut core, Time(1), 3, request(raised + 1, None));
        assert!(has_granted(&settle(&mut core, Time(1)).0), "{raised} {term}");
    }
    // A vote on the disk is given again.
    let mut core = started();
    core.hard_state.voted_for = Some(n(3));
    for id in [2, 3] {
        receive(&mut core, Time(1), id, reply(4, None));
    }
    receive(&mut core, Time(1), 3, request(4, None));
    assert!(has_granted(&settle(&mut core, Time(1)).0));
}

/// Its answer comes late, over a connection to the server as it was before.
#[test]
fn an_answer_to_an_earlier_life_is_none() {
    let mut core = started();
    let Message::RequestVoteReply(late) = reply(4, None) else { unreachable!() };
    let late = |from| {
        let reply = RequestVoteReply { life: BEFORE, ..late.clone() };
        envelope(from, OTHERS, Message::RequestVoteReply(reply))
    };
    core.receive(Time(1), late(2)).expect("it is admitted");
    core.receive(Time(1), late(3)).expect("it is admitted");
    assert!(core.disk.awaits_answers(Time(1)));
    receive(&mut core, Time(1), 2, reply(4, None));
    receive(&mut core, Time(1), 3, reply(4, None));
    assert!(!core.disk.awaits_answers(Time(1)));
}

/// Other settings may bring the end of its patience forward, but not that of the wait.
#[test]
fn a_server_that_awaits_answers_does_not_campaign() {
    let mut core = started();
    settle(&mut core, Time(0));
    let mut rules = core.rules.clone();
    rules.election_timeout /= 10;
    rules.heartbeat_interval /= 10;
    rules.pre_vote = false;
    core.set_rules(Time(1), rules);
    let due = core.disk.question.as_ref().expect("it waits").due;
    while let Some(now) = core.next_timeout().filter(|now| *now < due) {
        core.handle_timeout(now);
        settle(&mut core, now);
        assert_eq!((core.role(), core.term()), (Role::Follower, TERM), "at {now}");
    }
    let end = due + core.rules.election_timeout * 2;
    while let Some(now) = core.next_timeout().filter(|now| *now <= end) {
        core.handle_timeout(now);
        settle(&mut core, now);
    }
    assert_eq!(core.role(), Role::Candidate);
}

/// Like one whose first snapshot was on its way: it has answered a leader, and perhaps acknowledged.
#[test]
fn a_server_with_a_term_and_an_empty_log_waits_for_a_leader_to_speak() {
    let hard_state = HardState { current_term: TERM, voted_for: None };
    let mut saved = Saved::new(hard_state, LogId::ZERO, IndexedConfiguration::default());
    saved.disk(DISKS[0], LIFE);
    let mut core = Consensus::new(Rules::from(&Config::new("n1")), saved, 1, Time(0));
    core.handle_message(Time(1), &n(2), request(5, None));
    assert!(!has_granted(&settle(&mut core, Time(1)).0));
    let due = Time(0) + core.rules.election_timeout;
    core.handle_message(due, &n(2), request(5, None));
    assert!(has_granted(&settle(&mut core, due).0));
}

/// A leader that knows nothing is quicker than the one that remembers: by then the server is in a term
/// in which it has promised nothing. What it began with tells all the same.
#[test]
fn what_was_promised_is_compared_with_what_this_life_began_with() {
    for (promised, is_older) in [
        (promise(11, 4, (3, 6)), true),
        (promise(11, 4, (3, 5)), false),
        (promise(11, 5, (0, 0)), true),
        (promise(11, 6, (0, 0)), true),
        (promise(11, 7, (0, 0)), true),
        (promise(11, 3, (3, 9)), false),
        (Promised { life: LIFE, ..promise(11, 7, (0, 0)) }, false),
    ] {
        let mut core = server();
        core.handle_message(Time(1), &n(2), heartbeat(6, None));
        core.handle_message(Time(1), &n(2), heartbeat(7, None));
        core.handle_message(Time(2), &n(3), request(7, Some(promised)));
        assert_eq!(settle(&mut core, Time(2)).1, is_older.then(|| n(3)), "{promised:?}");
    }
}

/// A log that is lost takes the members with it.
#[test]
fn a_server_that_knows_no_member_is_told_by_anybody() {
    let hard_state = HardState { current_term: TERM, voted_for: None };
    let mut saved = Saved::new(hard_state, LogId::ZERO, IndexedConfiguration::default());
    saved.disk(DISKS[0], LIFE);
    let mut core = Consensus::new(Rules::from(&Config::new("n1")), saved, 1, Time(0));
    core.handle_message(Time(1), &n(2), heartbeat(4, Some(promise(11, 4, (3, 5)))));
    assert_eq!(settle(&mut core, Time(1)).1, Some(n(2)));
}

/// A server whose vote is being written.
fn voting() -> (Consensus, WriteId) {
    let mut core = server();
    receive(&mut core, Time(1), 3, reply(4, None));
    receive(&mut core, Time(1), 2, reply(4, None));
    core.handle_message(Time(1), &n(3), request(5, None));
    let write = std::iter::from_fn(|| core.poll_action()).find_map(|action| match action {
        Action::Write(write) => Some(write.id),
        _ => None,
    });
    (core, write.expect("the vote is written"))
}

/// What was decided before the accusation does not leave after it.
#[test]
fn a_vote_that_waits_for_the_disk_does_not_leave_after_the_accusation() {
    let (mut core, write) = voting();
    core.handle_written(Time(2), write);
    core.handle_message(Time(2), &n(2), heartbeat(5, Some(promise(11, 5, (5, 6)))));
    let (sent, accuser) = settle(&mut core, Time(2));
    assert_eq!((sent, accuser), (Vec::new(), Some(n(2))));
}

#[test]
fn a_candidate_that_is_accused_leads_nobody() {
    let mut core = server();
    let now = core.next_timeout().expect("it campaigns");
    core.campaign(now, true);
    settle(&mut core, now);
    assert_eq!((core.role(), core.term()), (Role::Candidate, Term(5)));
    receive(&mut core, now, 2, reply(5, Some(promise(11, 5, (5, 6)))));
    receive(&mut core, now, 3, reply(5, None));
    assert_eq!(core.role(), Role::Follower);
    let (sent, accuser) = settle(&mut core, now);
    assert_eq!((sent, accuser), (Vec::new(), Some(n(2))));
}

/// Its followers were told its term, if not what it had.
#[test]
fn the_term_of_a_leader_is_remembered_by_its_followers() {
    let mut core = server();
    receive(&mut core, Time(1), 2, heartbeat(5, None));
    settle(&mut core, Time(1));
    receive(&mut core, Time(2), 2, request(5, None));
    assert_eq!(said_to(&settle(&mut core, Time(2)).0, &n(2)), Some(noted(22, 5, (0, 0))));
    // Less is not news, whoever says it and when.
    let known = |promised| Known { life: OTHERS, promised };
    core.disk.known.insert(n(2), known(noted(22, 5, (5, 7))));
    core.hear(&envelope(2, OTHERS, heartbeat(5, None)));
    core.hear(&envelope(2, OTHERS, heartbeat(4, None)));
    assert_eq!(core.disk.promised(&n(2)), Some(noted(22, 5, (5, 7))));
    // What another disk has said is none of this one's.
    core.disk.known.insert(n(2), known(noted(21, 9, (5, 7))));
    core.hear(&envelope(2, OTHERS, heartbeat(5, None)));
    assert_eq!(core.disk.promised(&n(2)), Some(noted(22, 5, (0, 0))));
}

/// A copy from just after the bootstrap is an older one, too.
#[test]
fn a_server_that_was_only_bootstrapped_asks_too() {
    let members = server().latest_configuration().configuration.clone();
    let hard_state = HardState { current_term: Term(1), voted_for: None };
    let mut saved = Saved::new(hard_state, LogId::ZERO, IndexedConfiguration::default());
    saved.push(&[Entry {
        term: Term(1),
        index: LogIndex(1),
        payload: EntryPayload::Configuration(members),
    }]);
    saved.disk(DISKS[0], LIFE);
    let mut core = Consensus::new(Rules::from(&Config::new("n1")), saved, 1, Time(0));
    assert_eq!(settle(&mut core, Time(0)).0.len(), 2);
    receive(&mut core, Time(1), 2, request(9, None));
    assert!(!has_granted(&settle(&mut core, Time(1)).0));
}

/// A disk that is known has answered a leader, and so has a term: without one it is from before that.
#[test]
fn a_blank_copy_of_a_disk_that_is_known_votes_for_nobody_who_has_led() {
    for (term, is_admitted) in [(0, false), (1, true)] {
        let hard_state = HardState { current_term: Term(term), voted_for: None };
        let mut saved = Saved::new(hard_state, LogId::ZERO, IndexedConfiguration::default());
        saved.disk(DISKS[0], LIFE);
        let core = Consensus::new(Rules::from(&Config::new("n1")), saved, 1, Time(0));
        let Message::RequestVote(request) = request(9, None) else { unreachable!() };
        let request = RequestVoteRequest { configuration_index: LogIndex(9), ..request };
        let envelope = envelope(2, OTHERS, Message::RequestVote(request));
        assert_eq!(core.admit(&envelope).is_ok(), is_admitted, "in term {term}");
    }
}

/// The first question may find no connection.
#[test]
fn the_question_is_repeated_until_all_have_answered_or_have_had_the_time() {
    let asked = |core: &mut Consensus| {
        let mut asked = Vec::new();
        while let Some(now) =
            core.next_timeout().filter(|now| *now < Time(0) + core.rules.election_timeout)
        {
            core.handle_timeout(now);
            asked.extend(settle(core, now).0.into_iter().map(|(to, _)| to));
        }
        asked
    };
    // Every 100 ms in the second of the election timeout.
    let mut core = server();
    let silent = asked(&mut core);
    assert_eq!((silent.len(), silent.iter().filter(|id| **id == n(2)).count()), (18, 9));
    core = server();
    receive(&mut core, Time(1), 2, reply(4, None));
    assert_eq!(asked(&mut core), vec![n(3); 9]);
    core = server();
    receive(&mut core, Time(1), 2, reply(4, None));
    receive(&mut core, Time(1), 3, reply(4, None));
    assert_eq!(asked(&mut core), []);
}

/// An order to campaign is no reason not to wait. The leader repeats it.
#[test]
fn a_server_that_awaits_answers_is_handed_no_leadership() {
    let hand_over = |core: &mut Consensus| {
        receive(core, Time(1), 2, heartbeat(4, None));
        receive(core, Time(1), 2, Message::TimeoutNow(TimeoutNowRequest { term: Term(4) }));
        core.role()
    };
    let mut core = server();
    assert_eq!(hand_over(&mut core), Role::Follower);
    receive(&mut core, Time(1), 2, reply(4, None));
    receive(&mut core, Time(1), 3, reply(4, None));
    assert_eq!(hand_over(&mut core), Role::Candidate);
}

/// Also what was promised since the last heartbeat.
#[test]
fn a_leader_answers_with_the_newest_it_knows() {
    let mut core = server();
    let now = core
        .next_timeout()
        .filter(|now| *now < Time(0) + core.rules.election_timeout)
        .expect("it asks again");
    core.campaign(now, true);
    settle(&mut core, now);
    receive(&mut core, now, 2, reply(5, None));
    settle(&mut core, now);
    let outcome = AppendOutcome::Matched { match_index: LogIndex(6) };
    let matched = AppendEntriesReply { term: Term(5), round: 1, outcome };
    receive(&mut core, now, 2, Message::AppendEntriesReply(matched));
    settle(&mut core, now);
    receive(&mut core, now, 2, request(5, None));
    assert_eq!(said_to(&settle(&mut core, now).0, &n(2)), Some(noted(22, 5, (5, 6))));
}

/// What a write had to be durable for is not released after the accusation either.
#[test]
fn nothing_leaves_that_becomes_durable_after_the_accusation() {
    let (mut core, write) = voting();
    core.handle_message(Time(2), &n(2), heartbeat(5, Some(promise(11, 5, (5, 6)))));
    assert_eq!(settle(&mut core, Time(2)).1, Some(n(2)));
    core.handle_written(Time(2), write);
    assert_eq!(settle(&mut core, Time(2)), (Vec::new(), None));
    assert_eq!((core.next_timeout(), core.leader()), (None, None));
}

/// A leader is told of its own disk too.
#[test]
fn a_leader_that_is_accused_leads_no_more() {
    let mut core = server();
    let now = core.next_timeout().expect("it asks again");
    core.campaign(now, true);
    settle(&mut core, now);
    receive(&mut core, now, 2, reply(5, None));
    assert_eq!(core.role(), Role::Leader);
    receive(&mut core, now, 3, request(5, Some(promise(11, 7, (0, 0)))));
    assert_eq!((core.role(), core.leader()), (Role::Follower, None));
    assert!(core.propose(now, vec![EntryPayload::Noop]).is_err());
}

/// Equal seeds give equal numbers, but never the one that the disk has.
#[test]
fn a_disk_that_is_rolled_back_twice_gets_another_number_each_time() {
    let rolled_back = |disk| {
        let mut core = server();
        core.disk.incarnation = disk;
        core.handle_message(Time(1), &n(2), heartbeat(7, Some(promise(disk, 7, (0, 0)))));
        core.incarnation()
    };
    let second = rolled_back(11);
    assert!(second != 11 && rolled_back(second) != second);
}

/// Where no disk is recorded yet, one that was found out comes back as the member that it was.
#[test]
fn a_disk_that_was_found_out_takes_part_in_no_election_before_it_is_recorded() {
    for (disks, takes_part) in [([0, 0, 0], false), ([99, 22, 33], false), (DISKS, true)] {
        let mut saved = saved(disks);
        saved.rolled_back();
        let mut core = Consensus::new(Rules::from(&Config::new("n1")), saved, 1, Time(0));
        let due = Time(0) + core.rules.election_timeout;
        core.handle_message(due, &n(2), request(9, None));
        assert_eq!(has_granted(&settle(&mut core, due).0), takes_part, "{disks:?}");
        core.handle_message(due, &n(2), heartbeat(9, None));
        core.handle_message(due, &n(2), Message::TimeoutNow(TimeoutNowRequest { term: Term(9) }));
        assert_eq!(core.role() == Role::Candidate, takes_part, "{disks:?}");
        let mut now = due;
        while let Some(next) =
            core.next_timeout().filter(|it| *it < Time(0) + core.rules.election_timeout * 5)
        {
            now = next;
            core.handle_timeout(now);
            settle(&mut core, now);
            assert!(takes_part || core.role() == Role::Follower, "{disks:?} at {now:?}");
        }
        assert!(due < now);
    }
}
