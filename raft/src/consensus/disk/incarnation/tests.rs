use std::time::Duration;

use super::*;
use crate::{
    config::Config,
    configuration::{ConfigurationChange, IndexedConfiguration, Server},
    consensus::{Action, ChangeRefusal, Mismatch, Rules, Saved},
    log::Entry,
    position::{LogId, LogIndex, Term},
    rpc::{
        AppendEntriesReply, AppendOutcome, HeartbeatReply, HeartbeatRequest, RequestVoteReply,
        RequestVoteRequest, TimeoutNowRequest,
    },
    stable::HardState,
    status::Role,
};

const TERM: Term = Term(2);
/// How n1, n2 and n3 are known.
const DISKS: [u64; 3] = [11, 22, 33];

fn n(number: usize) -> ServerId {
    format!("n{number}").into()
}

/// Voters n1, n2 and n3 with these incarnations.
fn configuration(incarnations: [u64; 3]) -> Configuration {
    Configuration::new(incarnations.into_iter().zip(1..).map(|(incarnation, number)| Server {
        incarnation,
        ..Server::voter(n(number), n(number).as_str())
    }))
}

/// Server n1 on this disk, whose log has five entries of term 1, the configuration first.
fn server(disk: u64, incarnations: [u64; 3]) -> Consensus {
    let mut saved = blank_disk(disk);
    let first = EntryPayload::Configuration(configuration(incarnations));
    let payloads = std::iter::once(first).chain(std::iter::repeat_n(EntryPayload::Noop, 4));
    let entries: Vec<Entry> = (1..)
        .map(LogIndex)
        .zip(payloads)
        .map(|(index, payload)| Entry { term: Term(1), index, payload })
        .collect();
    saved.push(&entries);
    Consensus::new(Rules::from(&Config::new("n1")), saved, 1, Time(0))
}

fn blank_disk(disk: u64) -> Saved {
    let hard_state = HardState { current_term: TERM, voted_for: None };
    let mut saved = Saved::new(hard_state, LogId::ZERO, IndexedConfiguration::default());
    saved.disk(disk, 7);
    saved
}

fn blank(disk: u64) -> Consensus {
    Consensus::new(Rules::from(&Config::new("n1")), blank_disk(disk), 1, Time(0))
}

fn heartbeat(term: Term) -> Message {
    Message::Heartbeat(HeartbeatRequest {
        term,
        round: 1,
        commit_index: LogIndex(0),
        promised: None,
    })
}

fn reply(round: u64, term: Term) -> HeartbeatReply {
    let (accepted_index, match_index) = (LogIndex(0), LogIndex(0));
    HeartbeatReply { term, round, accepted_index, match_index, applied_index: LogIndex(0) }
}

fn vote(term: Term, last: LogId) -> Message {
    let (is_pre_vote, is_leadership_transfer) = (false, false);
    Message::RequestVote(RequestVoteRequest {
        term,
        last,
        is_pre_vote,
        is_leadership_transfer,
        promised: None,
        configuration_index: last.index,
        life: 1,
    })
}

fn granted(term: Term) -> Message {
    let (requested_term, is_pre_vote, is_granted) = (term, false, true);
    Message::RequestVoteReply(RequestVoteReply {
        term,
        requested_term,
        is_pre_vote,
        is_granted,
        promised: None,
        life: 7,
    })
}

fn from_n2(incarnation: u64, expects: u64, message: Message) -> Envelope {
    let (from, address, cluster) = (n(2), "n2".into(), ClusterId::NONE);
    Envelope { from, address, cluster, incarnation, life: 1, expects, message }
}

const LAST: LogId = LogId { term: Term(1), index: LogIndex(5) };
const LONGER: LogId = LogId { term: Term(1), index: LogIndex(6) };

#[test]
fn an_answer_counts_only_from_the_disk_that_is_recorded() {
    let core = server(11, DISKS);
    let wrong = Err(Mismatch::Sender { recorded: 22 });
    for answer in [granted(TERM), Message::HeartbeatReply(reply(1, TERM))] {
        assert_eq!(core.admit(&from_n2(22, 11, answer.clone())), Ok(()));
        for disk in [0, 21, 33] {
            assert_eq!(core.admit(&from_n2(disk, 11, answer.clone())), wrong);
        }
        // Who answers may not have heard that this server was rejoined.
        assert_eq!(core.admit(&from_n2(22, 10, answer.clone())), Ok(()));
        let stranger = Envelope { from: "x".into(), ..from_n2(1, 11, answer.clone()) };
        assert_eq!(core.admit(&stranger), Ok(()), "for the core to say");
        let unrecorded = server(11, [11, 0, 33]);
        assert_eq!(unrecorded.admit(&from_n2(1, 11, answer)), Ok(()));
    }
}

#[test]
fn a_leader_is_followed_from_any_disk_but_only_by_the_server_it_knows() {
    let core = server(11, DISKS);
    for message in [heartbeat(TERM), Message::TimeoutNow(TimeoutNowRequest { term: TERM })] {
        for (incarnation, expects) in [(22, 11), (22, 0), (99, 11), (0, 0)] {
            assert_eq!(core.admit(&from_n2(incarnation, expects, message.clone())), Ok(()));
        }
        let wrong = Err(Mismatch::Receiver { recorded: 10, is_outdated: false });
        assert_eq!(core.admit(&from_n2(22, 10, message)), wrong);
    }
    let deposed = Err(Mismatch::Receiver { recorded: 10, is_outdated: true });
    assert_eq!(core.admit(&from_n2(22, 10, heartbeat(Term(1)))), deposed);
}

#[test]
fn a_vote_needs_both_to_know_each_other() {
    let core = server(11, DISKS);
    let term = TERM.next();
    assert_eq!(core.admit(&from_n2(22, 11, vote(term, LAST))), Ok(()));
    assert_eq!(core.admit(&from_n2(22, 0, vote(term, LAST))), Ok(()));
    let wrong = Err(Mismatch::Sender { recorded: 22 });
    for last in [LogId::ZERO, LogId::new(1, 1), LAST] {
        assert_eq!(core.admit(&from_n2(99, 11, vote(term, last))), wrong);
    }
    // A longer log may have what this server does not know yet: that it was rejoined.
    assert_eq!(core.admit(&from_n2(99, 11, vote(term, LONGER))), Ok(()));
    let behind = Err(Mismatch::Receiver { recorded: 10, is_outdated: true });
    assert_eq!(core.admit(&from_n2(22, 10, vote(term, LONGER))), behind);
    let not_me = Err(Mismatch::Receiver { recorded: 11, is_outdated: false });
    for core in [blank(10), server(10, DISKS), server(0, DISKS), server(10, [0, 0, 0])] {
        assert_eq!(core.admit(&from_n2(22, 11, vote(term, LONGER))), not_me);
    }
}

#[test]
fn an_empty_disk_votes_for_a_new_cluster_or_for_who_knows_it() {
    let term = TERM.next();
    let bootstrapped = LogId::new(1, 1);
    for (core, last, expects, admitted) in [
        (blank(10), bootstrapped, 0, Ok(())),
        (blank(10), LONGER, 0, Err(Mismatch::Empty)),
        (blank(10), LONGER, 10, Ok(())),
        (blank(0), LONGER, 0, Ok(())),
        (server(10, [0; 3]), LONGER, 0, Ok(())),
    ] {
        assert_eq!(core.admit(&from_n2(22, expects, vote(term, last))), admitted);
    }
    assert_eq!(blank(10).admit(&from_n2(22, 0, heartbeat(TERM))), Ok(()));
}

/// The first leader of a cluster that one server was bootstrapped for restarts before anybody has
/// heard from it. Those who made it leader refused it ever since, and nobody could be elected.
#[test]
fn an_empty_disk_votes_again_for_whoever_leads_a_new_cluster() {
    let core = blank(10);
    let ask = |configuration_index| {
        let Message::RequestVote(request) = vote(TERM.next(), LogId::new(2, 9)) else {
            unreachable!()
        };
        let request = RequestVoteRequest { configuration_index, ..request };
        core.admit(&from_n2(22, 0, Message::RequestVote(request)))
    };
    assert_eq!(ask(LogIndex(1)), Ok(()));
    assert_eq!(ask(LogIndex(2)), Err(Mismatch::Empty));
}

/// Whatever it says: nothing of it may be believed.
#[test]
fn a_server_takes_nothing_from_another_cluster() {
    let of = |cluster: u64, message: Message| Envelope {
        cluster: ClusterId(cluster),
        ..from_n2(22, 11, message)
    };
    let mut ours = server(11, DISKS);
    ours.membership.install(IndexedConfiguration {
        index: LogIndex(1),
        configuration: configuration(DISKS).with_cluster(ClusterId(8)),
    });
    for message in [heartbeat(TERM), vote(TERM, LONGER), granted(TERM), heartbeat(Term(9))] {
        assert_eq!(ours.admit(&of(8, message.clone())), Ok(()));
        let foreign = Err(Mismatch::Cluster { sender: ClusterId(9) });
        assert_eq!(ours.admit(&of(9, message.clone())), foreign);
        // A newcomer only answers.
        let nobody = Err(Mismatch::Cluster { sender: ClusterId::NONE });
        let expected = if message.is_answer() { Ok(()) } else { nobody };
        assert_eq!(ours.admit(&of(0, message.clone())), expected);
        // Whoever belongs to none yet hears everybody.
        assert_eq!(blank(11).admit(&of(9, message)), Ok(()));
    }
}

/// Two clusters have its address, and both lead in the same term: it ended with a broken law, or passed the
/// terms of one on to the other.
#[test]
fn a_server_without_a_cluster_hears_only_the_one_whose_leader_it_follows() {
    let mut core = blank(10);
    let of = |cluster: u64, from: usize, message: Message| Envelope {
        cluster: ClusterId(cluster),
        from: n(from),
        ..from_n2(22, 0, message)
    };
    core.receive(Time(0), of(8, 2, heartbeat(TERM))).expect("it is admitted");
    settle(&mut core, Time(0));
    for message in [heartbeat(TERM), heartbeat(Term(50)), vote(Term(50), LogId::new(1, 1))] {
        let foreign = Err(Mismatch::Cluster { sender: ClusterId(9) });
        assert_eq!(core.admit(&of(9, 3, message.clone())), foreign);
        assert_eq!(core.admit(&of(8, 3, message)), Ok(()));
    }
    // Its leader falls silent: then it is free again.
    while core.leader().is_some() {
        let now = core.next_timeout().expect("it waits for its leader");
        core.handle_timeout(now);
    }
    assert_eq!(core.admit(&of(9, 3, heartbeat(TERM))), Ok(()));
}

#[test]
fn a_cluster_is_another_one_with_other_members_and_one_server_alone_is_always_another() {
    let founded = |ids: &[&str], salt| {
        Configuration::new(ids.iter().map(|id| Server::voter(*id, *id))).founding(salt).cluster()
    };
    assert_eq!(founded(&["a", "b"], 1), founded(&["b", "a"], 2));
    assert_ne!(founded(&["a", "b"], 1), founded(&["a", "c"], 1));
    assert_ne!(founded(&["a", "b"], 1), founded(&["ab", "b"], 1));
    assert_ne!(founded(&["a"], 1), founded(&["a"], 2));
    assert_eq!(founded(&["a"], 1), founded(&["a"], 1));
    let own = Configuration::new([Server::voter("a", "a")]).with_cluster(ClusterId(7));
    assert_eq!(own.founding(3).cluster(), ClusterId(7));
    let pinned = founded(&["a", "b"], 1);
    assert_eq!(pinned.to_string(), "c87d1b129027c74d", "it must be the same in every release");
}

/// A server whose disk is not known cannot help to elect this one again.
#[test]
fn nobody_becomes_a_voter_before_it_was_heard_from() {
    let mut core = server(11, DISKS);
    let now = campaign(&mut core, true);
    matched(&mut core, now, 2);
    let add = |id: &str| ConfigurationChange::AddVoter { id: id.into(), address: id.into() };
    let unheard = Err(ChangeRefusal::Unheard { id: "n4".into() });
    assert_eq!(core.change_configuration(now, &add("n4"), None), unheard);
    let nonvoter = ConfigurationChange::AddNonvoter { id: "n4".into(), address: "n4".into() };
    core.change_configuration(now, &nonvoter, None).expect("a change");
    settle(&mut core, now);
    matched(&mut core, now, 2);
    assert_eq!(core.change_configuration(now, &add("n4"), None), unheard);
    let round = core.role.leader().expect("it leads").round;
    let reply = Message::HeartbeatReply(reply(round, core.term()));
    core.receive(now, Envelope { from: "n4".into(), ..from_n2(44, 11, reply) })
        .expect("it is admitted");
    core.change_configuration(now, &add("n4"), None).expect("a change");
    let known = core.latest_configuration().configuration.server(&"n4".into()).cloned();
    assert_eq!(known.map(|it| (it.is_voter(), it.incarnation)), Some((true, 44)));
}

/// A program that adds two servers one after the other is not told to try again because the leader has
/// recorded the disk of the first in between, nor is one that has looked at the members before.
#[test]
fn a_record_is_in_nobodys_way() {
    let mut core = server(11, [11, 22, 0]);
    let mut now = campaign(&mut core, true);
    matched(&mut core, now, 2);
    let seen = core.latest_configuration().index;
    let term = core.term();
    heard(&mut core, 3, 33, 1, term);
    assert_eq!(tick(&mut core, &mut now), [configuration(DISKS)]);
    assert!(seen < core.latest_configuration().index);
    let add = |id: &str| ConfigurationChange::AddNonvoter { id: id.into(), address: id.into() };
    core.change_configuration(now, &add("n4"), Some(seen)).expect("the record is not committed");
    let again = core.change_configuration(now, &add("n5"), None);
    assert!(matches!(again, Err(ChangeRefusal::ChangeInProgress { .. })), "{again:?}");
    settle(&mut core, now);
    matched(&mut core, now, 2);
    let stale = core.change_configuration(now, &add("n5"), Some(seen));
    assert!(matches!(stale, Err(ChangeRefusal::StaleIndex { .. })), "{stale:?}");
    core.change_configuration(now, &add("n5"), None).expect("the change is committed");
}

/// Says that a server runs on a disk, in the answer to a heartbeat.
fn heard(core: &mut Consensus, from: usize, incarnation: u64, round: u64, term: Term) {
    let envelope = from_n2(incarnation, 11, Message::HeartbeatReply(reply(round, term)));
    core.learn_incarnation(&Envelope { from: n(from), ..envelope });
}

/// Carries out every write at once; returns the configurations that were appended.
fn settle(core: &mut Consensus, now: Time) -> Vec<Configuration> {
    let mut appended = Vec::new();
    while let Some(action) = core.poll_action() {
        if let Action::Write(write) = action {
            appended.extend(write.entries.iter().filter_map(|entry| match &entry.payload {
                EntryPayload::Configuration(configuration) => Some(configuration.clone()),
                _ => None,
            }));
            core.handle_written(now, write.id);
        }
    }
    appended
}

/// Lets time pass until a server that hears nothing has stood for election, and leads if `votes`.
fn campaign(core: &mut Consensus, votes: bool) -> Time {
    let now = Time(0) + Duration::from_secs(3);
    core.handle_timeout(now);
    settle(core, now);
    if votes {
        let requested_term = core.term().next();
        for (term, is_pre_vote) in [(core.term(), true), (requested_term, false)] {
            let is_granted = true;
            let reply = RequestVoteReply {
                term,
                requested_term,
                is_pre_vote,
                is_granted,
                promised: None,
                life: 7,
            };
            core.handle_message(now, &n(2), Message::RequestVoteReply(reply));
            settle(core, now);
        }
        assert_eq!(core.role(), Role::Leader);
    }
    now
}

fn matched(core: &mut Consensus, now: Time, from: usize) {
    let outcome = AppendOutcome::Matched { match_index: core.last().index };
    let round = core.role.leader().expect("it leads").round;
    let reply = AppendEntriesReply { term: core.term(), round, outcome };
    core.handle_message(now, &n(from), Message::AppendEntriesReply(reply));
}

fn tick(core: &mut Consensus, now: &mut Time) -> Vec<Configuration> {
    *now = *now + Duration::from_millis(100);
    core.handle_timeout(*now);
    settle(core, *now)
}

#[test]
fn a_leader_records_all_it_knows_in_one_entry_when_it_may() {
    let mut core = server(11, [0; 3]);
    let mut now = campaign(&mut core, true);
    let term = core.term();
    heard(&mut core, 2, 22, 1, term);
    heard(&mut core, 2, 99, 1, term);
    heard(&mut core, 3, 0, 1, term);
    heard(&mut core, 3, 98, 1, Term(1));
    heard(&mut core, 3, 97, 9, term);
    heard(&mut core, 7, 96, 1, term);
    assert_eq!(tick(&mut core, &mut now), [], "it has not committed in its term");
    matched(&mut core, now, 2);
    assert_eq!(tick(&mut core, &mut now), [configuration([11, 22, 0])]);
    heard(&mut core, 3, 33, 1, term);
    assert_eq!(tick(&mut core, &mut now), [], "the last one is not committed");
    matched(&mut core, now, 2);
    assert_eq!(tick(&mut core, &mut now), [configuration(DISKS)]);
    matched(&mut core, now, 2);
    heard(&mut core, 3, 34, 1, term);
    assert_eq!(tick(&mut core, &mut now), [], "what is recorded stays");
}

#[test]
fn a_change_of_membership_records_what_is_known_and_forgets_who_is_removed() {
    let mut core = server(11, [11, 0, 0]);
    let mut now = campaign(&mut core, true);
    let term = core.term();
    matched(&mut core, now, 2);
    heard(&mut core, 2, 22, 1, term);
    heard(&mut core, 3, 33, 1, term);
    let remove = ConfigurationChange::RemoveServer { id: n(3) };
    core.change_configuration(now, &remove, None).expect("a change");
    let two = [
        Server { incarnation: 11, ..Server::voter("n1", "n1") },
        Server { incarnation: 22, ..Server::voter("n2", "n2") },
    ];
    assert_eq!(settle(&mut core, now), [Configuration::new(two.clone())]);
    heard(&mut core, 3, 33, 1, term);
    matched(&mut core, now, 2);
    let add = ConfigurationChange::AddNonvoter { id: n(3), address: "n3".into() };
    core.change_configuration(now, &add, None).expect("a change");
    let back = |incarnation| {
        let back = Server { incarnation, ..Server::nonvoter("n3", "n3") };
        Configuration::new(two.iter().cloned().chain([back]))
    };
    assert_eq!(settle(&mut core, now), [back(0)]);
    matched(&mut core, now, 2);
    // Late, from before the removal: it may be of the old disk.
    heard(&mut core, 3, 33, 1, term);
    assert_eq!(tick(&mut core, &mut now), []);
    let round = core.role.leader().expect("it leads").round;
    heard(&mut core, 3, 44, round, term);
    assert_eq!(tick(&mut core, &mut now), [back(44)]);
}

#[test]
fn nothing_is_recorded_during_a_transfer_or_a_restore() {
    let mut core = server(11, [0; 3]);
    let mut now = campaign(&mut core, true);
    matched(&mut core, now, 2);
    let (last, _) = core.begin_restore(now, LogIndex(0)).expect("a restore");
    assert_eq!(tick(&mut core, &mut now), []);
    core.cancel_restore(now, last);
    core.transfer_leadership(now, Some(&n(3))).expect("a transfer");
    assert_eq!(tick(&mut core, &mut now), []);
}

#[test]
fn a_server_that_is_known_by_another_disk_does_not_campaign() {
    for (disk, is_itself) in [(11, true), (10, false), (0, false)] {
        let mut core = server(disk, DISKS);
        campaign(&mut core, false);
        assert_eq!(core.role() == Role::PreCandidate, is_itself, "on disk {disk}");
    }
    let mut core = server(10, DISKS);
    let now = Time(1000);
    core.handle_message(now, &n(2), heartbeat(TERM));
    let timeout_now = Message::TimeoutNow(TimeoutNowRequest { term: TERM });
    core.handle_message(now, &n(2), timeout_now);
    assert_eq!((core.role(), core.term()), (Role::Follower, TERM));
}

#[test]
fn a_store_without_incarnation_changes_nothing() {
    let mut core = server(0, [0; 3]);
    let mut now = campaign(&mut core, true);
    matched(&mut core, now, 2);
    for _ in 0..3 {
        let term = core.term();
        heard(&mut core, 2, 0, 1, term);
        assert_eq!(tick(&mut core, &mut now), []);
        matched(&mut core, now, 2);
    }
    let stale = core.change_configuration(
        now,
        &ConfigurationChange::DemoteVoter { id: n(3) },
        Some(LogIndex(2)),
    );
    assert_eq!(stale, Err(ChangeRefusal::StaleIndex { given: LogIndex(2), latest: LogIndex(1) }));
}
