//! One test for each normative sentence of the thesis (Ongaro 2014, "Consensus: Bridging Theory and
//! Practice"; the paper's numbers where it has the same text), named *situation, expectation*.

use std::{collections::BTreeSet, time::Duration};

use super::{
    cluster::{Cluster, Packet, command, configuration, log_of, n, piece, rules, snapshot},
    messages::{
        append, conflict, heartbeat, heartbeat_reply, matched, pre_vote, pre_vote_reply,
        stale_term, timeout_now, transfer_vote, vote, vote_reply,
    },
};
use crate::{
    Config,
    configuration::{ConfigurationChange, IndexedConfiguration, ServerId},
    consensus::{ChangeRefusal, Consensus, ProposeRefusal, Rules, Saved, Time},
    log::{Entry, EntryPayload},
    position::{LogId, LogIndex, Term},
    rpc::Message,
    stable::HardState,
    status::Role,
};

const HEARTBEAT: Duration = Duration::from_millis(100);
const ELECTION: Duration = Duration::from_secs(1);

fn without_pre_vote(rules: &mut Rules) {
    rules.pre_vote = false;
}

/// A cluster whose n1 leads term 2, everything delivered and committed.
fn led(voters: usize) -> Cluster {
    let mut cluster = Cluster::with(voters, 0, without_pre_vote);
    cluster.elect(&n(1));
    cluster.run(HEARTBEAT);
    cluster.take_trace();
    cluster
}

/// A cluster of `voters` whose n1 asks for votes in term 2, and has its own.
fn candidate(voters: usize) -> Cluster {
    let mut cluster = Cluster::with(voters, 0, without_pre_vote);
    cluster.campaign(&n(1));
    cluster.written_all(&n(1));
    cluster
}

/// Three servers of which n1 has this term and log.
fn follower(term: u64, terms: &[u64]) -> Cluster {
    let mut cluster = Cluster::with(3, 0, without_pre_vote);
    cluster.set_disk(&n(1), term, None, log_of(&configuration(3, 0), terms));
    cluster
}

fn role(cluster: &Cluster, number: usize) -> (Role, u64) {
    let core = cluster.core(&n(number));
    (core.role(), core.term().0)
}

fn commit(cluster: &Cluster, number: usize) -> u64 {
    cluster.core(&n(number)).commit_index().0
}

fn appends(packets: &[Packet]) -> Vec<(ServerId, u64, usize)> {
    let append = |packet: &Packet| match &packet.message {
        Message::AppendEntries(request) => {
            Some((packet.to.clone(), request.prev.index.0, request.entries.len()))
        }
        _ => None,
    };
    packets.iter().filter_map(append).collect()
}

fn next_index(cluster: &Cluster, peer: usize) -> u64 {
    let peers = cluster.core(&n(1)).peers(cluster.server(&n(1)).now);
    peers.iter().find(|status| status.id == n(peer)).expect("a peer").next_index.0
}

fn change(cluster: &mut Cluster, change: &ConfigurationChange) -> Result<LogIndex, ChangeRefusal> {
    cluster.act(&n(1), |core, now| core.change_configuration(now, change, None))
}

fn add_voter(number: usize) -> ConfigurationChange {
    ConfigurationChange::AddVoter { id: n(number), address: format!("{}:1", n(number)).into() }
}

fn remove(number: usize) -> ConfigurationChange {
    ConfigurationChange::RemoveServer { id: n(number) }
}

/// §3.3: "If one server's current term is smaller than the other's, then it updates its current
/// term to the larger value. If a candidate or leader discovers that its term is out of date, it
/// immediately reverts to follower state."
#[test]
fn server_sees_newer_term_adopts_it_and_follows() {
    let newer: [fn() -> Message; 7] = [
        || append(7, (1, 1), &[], 0),
        || heartbeat(7, 1, 0),
        || matched(7, 1, 1),
        || stale_term(7, 1),
        || heartbeat_reply(7, 1, 0, 0),
        || vote_reply(7, 2, false),
        || timeout_now(7),
    ];
    for message in newer {
        for mut cluster in [follower(2, &[1]), candidate(3), led(3)] {
            cluster.tell(&n(3), &n(1), message());
            assert_eq!(role(&cluster, 1), (Role::Follower, 7));
        }
    }
    // A vote request changes the term of whoever does not insist on a leader.
    for mut cluster in [follower(2, &[1]), candidate(3)] {
        cluster.tell(&n(3), &n(1), vote(7, (0, 0)));
        assert_eq!(role(&cluster, 1), (Role::Follower, 7));
    }
}

/// §3.3: "If a server receives a request with a stale term number, it rejects the request."
#[test]
fn server_receives_request_of_old_term_rejects_it() {
    let mut cluster = follower(5, &[1]);
    let before = cluster.status(&n(1));
    cluster.tell(&n(2), &n(1), append(4, (1, 1), &[4], 1));
    cluster.tell(&n(2), &n(1), heartbeat(4, 3, 1));
    cluster.tell(&n(2), &n(1), vote(4, (9, 9)));
    assert_eq!(cluster.status(&n(1)), before);
    let answers = cluster.take_messages(&n(1), &n(2));
    assert_eq!(answers, [stale_term(5, 1), stale_term(5, 3), vote_reply(5, 4, false)]);
}

/// §3.4: "When servers start up, they begin as followers."
#[test]
fn server_starts_follows() {
    for terms in [&[][..], &[1], &[1, 2, 2]] {
        let cluster = follower(2, terms);
        assert_eq!(role(&cluster, 1), (Role::Follower, 2));
        assert_eq!(cluster.core(&n(1)).leader(), None);
    }
}

/// §3.4: "A server remains in follower state as long as it receives valid RPCs from a leader or
/// candidate."
#[test]
fn follower_hears_from_its_leader_remains_follower() {
    let mut cluster = follower(2, &[1]);
    for round in 1..100 {
        cluster.advance(ELECTION - Duration::from_millis(1), Some(&n(1)));
        cluster.tell(&n(2), &n(1), heartbeat(2, round, 0));
        assert_eq!(role(&cluster, 1), (Role::Follower, 2));
    }
}

/// §3.4: "Leaders send periodic heartbeats to all followers in order to maintain their authority."
#[test]
fn leader_is_idle_sends_heartbeats_to_all() {
    let mut cluster = led(5);
    for _ in 0..10 {
        cluster.pool.clear();
        cluster.advance(HEARTBEAT, Some(&n(1)));
        let told: Vec<ServerId> = cluster.pool.iter().map(|packet| packet.to.clone()).collect();
        assert_eq!(told, [n(2), n(3), n(4), n(5)]);
        assert!(cluster.pool.iter().all(|packet| packet.message.kind() == "Heartbeat"));
        cluster.stabilize();
    }
}

/// §3.4: "If a follower receives no communication over a period of time called the election
/// timeout, then it assumes there is no viable leader and begins an election."
#[test]
fn follower_hears_nothing_begins_an_election() {
    for pre_vote in [false, true] {
        let mut cluster = Cluster::with(3, 0, |rules| rules.pre_vote = pre_vote);
        cluster.advance(ELECTION - Duration::from_millis(1), Some(&n(1)));
        assert_eq!(role(&cluster, 1), (Role::Follower, 1));
        cluster.advance(ELECTION, Some(&n(1)));
        let expected = if pre_vote { (Role::PreCandidate, 1) } else { (Role::Candidate, 2) };
        assert_eq!(role(&cluster, 1), expected);
    }
}

/// §3.4: "To begin an election, a follower increments its current term and transitions to candidate
/// state. It then votes for itself and issues RequestVote RPCs in parallel to each of the other
/// servers in the cluster."
#[test]
fn election_begins_candidate_votes_for_itself_and_asks_all_others() {
    let cluster = candidate(5);
    assert_eq!(role(&cluster, 1), (Role::Candidate, 2));
    let vote_of_1 = HardState { current_term: Term(2), voted_for: Some(n(1)) };
    assert_eq!(cluster.server(&n(1)).disk.hard_state, vote_of_1);
    let asked: Vec<Packet> =
        (2..=5).map(|to| Packet { from: n(1), to: n(to), message: vote(2, (1, 1)) }).collect();
    assert_eq!(cluster.pool, asked);
}

/// §3.4: "A candidate wins an election if it receives votes from a majority of the servers in the
/// full cluster for the same term."
#[test]
fn candidate_has_votes_of_a_majority_wins() {
    for (voters, granted, refused, expected) in [
        (1, 0, 0, Role::Leader),
        (2, 0, 1, Role::Candidate),
        (2, 1, 0, Role::Leader),
        (3, 1, 0, Role::Leader),
        (3, 0, 2, Role::Candidate),
        (4, 1, 2, Role::Candidate),
        (4, 2, 1, Role::Leader),
        (5, 1, 3, Role::Candidate),
        (5, 2, 2, Role::Leader),
        (5, 4, 0, Role::Leader),
    ] {
        let mut cluster = candidate(voters);
        for voter in 0..granted + refused {
            let message = vote_reply(2, 2, voter < granted);
            cluster.tell(&n(voter + 2), &n(1), message);
        }
        assert_eq!(role(&cluster, 1), (expected, 2), "{granted} of {voters}");
    }
}

/// §3.4: "Each server will vote for at most one candidate in a given term, on a
/// first-come-first-served basis."
#[test]
fn two_candidates_ask_first_gets_the_vote() {
    let mut cluster = follower(1, &[1]);
    for (candidate, is_granted) in [(2, true), (3, false), (2, true)] {
        cluster.tell(&n(candidate), &n(1), vote(2, (1, 1)));
        cluster.written_all(&n(1));
        let answer = cluster.take_messages(&n(1), &n(candidate));
        assert_eq!(answer, [vote_reply(2, 2, is_granted)]);
    }
    // The next term is another vote.
    cluster.tell(&n(3), &n(1), vote(3, (1, 1)));
    cluster.written_all(&n(1));
    assert_eq!(cluster.take_messages(&n(1), &n(3)), [vote_reply(3, 3, true)]);
}

/// §3.4: "Once a candidate wins an election, it becomes leader. It then sends heartbeat messages to
/// all of the other servers to establish its authority and prevent new elections."
#[test]
fn candidate_wins_tells_everybody_at_once() {
    let mut cluster = candidate(3);
    cluster.pool.clear();
    cluster.tell(&n(2), &n(1), vote_reply(2, 2, true));
    for peer in [2, 3] {
        assert_eq!(cluster.take_messages(&n(1), &n(peer))[0], heartbeat(2, 1, 0));
    }
}

/// §3.4: "While waiting for votes, a candidate may receive an AppendEntries RPC from another server
/// claiming to be leader. If the leader's term is at least as large as the candidate's current
/// term, then the candidate recognizes the leader as legitimate and returns to follower state."
#[test]
fn candidate_hears_a_leader_of_its_term_follows_it() {
    for term in [2, 3] {
        for message in [append(term, (1, 1), &[], 0), heartbeat(term, 1, 0)] {
            let mut cluster = candidate(3);
            cluster.tell(&n(3), &n(1), message);
            assert_eq!(role(&cluster, 1), (Role::Follower, term));
            assert_eq!(cluster.core(&n(1)).leader().map(|leader| leader.id), Some(n(3)));
        }
    }
}

/// §3.4: "If the term in the RPC is smaller than the candidate's current term, then the candidate
/// rejects the RPC and continues in candidate state."
#[test]
fn candidate_hears_a_leader_of_an_old_term_continues() {
    let mut cluster = candidate(3);
    cluster.pool.clear();
    cluster.tell(&n(3), &n(1), append(1, (1, 1), &[1], 0));
    assert_eq!(role(&cluster, 1), (Role::Candidate, 2));
    assert_eq!(cluster.take_messages(&n(1), &n(3)), [stale_term(2, 1)]);
}

/// §3.4: "When this happens [nobody wins], each candidate will time out and start a new election by
/// incrementing its term and initiating another round of RequestVote RPCs."
#[test]
fn votes_are_split_candidate_tries_the_next_term() {
    let mut cluster = candidate(3);
    for term in 3..10 {
        cluster.pool.clear();
        cluster.campaign(&n(1));
        cluster.written_all(&n(1));
        assert_eq!(role(&cluster, 1), (Role::Candidate, term));
        assert_eq!(cluster.take_messages(&n(1), &n(2)), [vote(term, (1, 1))]);
    }
}

/// §3.4: "Raft uses randomized election timeouts [...] chosen randomly from a fixed interval."
#[test]
fn election_timeouts_spread_over_the_interval() {
    let mut waits = BTreeSet::new();
    for seed in 0..100 {
        let log = log_of(&configuration(3, 0), &[1]);
        let hard_state = HardState { current_term: Term(1), voted_for: None };
        let mut saved = Saved::new(hard_state, LogId::ZERO, IndexedConfiguration::default());
        saved.push(&log);
        let core = Consensus::new(rules(&n(1)), saved, seed, Time(0));
        waits.insert(core.next_timeout().expect("a deadline").since(Time(0)));
    }
    let (first, last) = (waits.first().expect("some"), waits.last().expect("some"));
    assert!(ELECTION <= *first && *last < 2 * ELECTION);
    assert!(90 < waits.len() && Duration::from_millis(900) < *last - *first);
}

/// §3.4: "each candidate restarts its randomized election timeout at the start of an election."
#[test]
fn election_begins_timeout_is_drawn_again() {
    let mut cluster = candidate(3);
    let now = cluster.server(&n(1)).now;
    let wait = cluster.core(&n(1)).election.deadline.since(now);
    assert!((ELECTION..2 * ELECTION).contains(&wait));
    cluster.campaign(&n(1));
    let now = cluster.server(&n(1)).now;
    assert_ne!(cluster.core(&n(1)).election.deadline.since(now), wait);
}

/// §3.5: "The leader appends the command to its log as a new entry, then issues AppendEntries RPCs
/// in parallel to each of the other servers to replicate the entry."
#[test]
fn leader_takes_a_command_appends_and_replicates_it() {
    let mut cluster = led(3);
    let index = cluster.propose(&n(1), "a");
    assert_eq!(index, LogIndex(3));
    assert_eq!(cluster.server(&n(1)).log[2].payload, command("a"));
    assert_eq!(appends(&cluster.pool), [(n(2), 2, 1), (n(3), 2, 1)]);
    let refused = cluster.act(&n(2), |core, now| core.propose(now, vec![command("b")]));
    let Err(ProposeRefusal::NotLeader { leader: Some(leader) }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(leader.id, n(1));
}

/// §3.5: "A log entry is committed once the leader that created the entry has replicated it on a
/// majority of the servers."
#[test]
fn entry_is_on_a_majority_is_committed() {
    for (voters, acknowledged) in [(2, 1), (3, 1), (4, 2), (5, 2)] {
        let mut cluster = led(voters);
        cluster.propose(&n(1), "a");
        cluster.written_all(&n(1));
        for peer in 0..acknowledged {
            assert_eq!(commit(&cluster, 1), 2, "{peer} of {voters}");
            cluster.tell(&n(peer + 2), &n(1), matched(2, 1, 3));
        }
        assert_eq!(commit(&cluster, 1), 3);
        assert_eq!(cluster.server(&n(1)).applied, LogIndex(3));
    }
}

/// §3.5: "This also commits all preceding entries in the leader's log, including entries created by
/// previous leaders."
#[test]
fn entry_is_committed_commits_everything_before_it() {
    let mut cluster = follower(4, &[1, 2, 3, 3]);
    cluster.win(&n(1));
    cluster.written_all(&n(1));
    assert_eq!(commit(&cluster, 1), 0);
    cluster.tell(&n(2), &n(1), matched(5, 1, 5));
    assert_eq!(commit(&cluster, 1), 5);
    assert_eq!(cluster.server(&n(1)).applied, LogIndex(5));
}

/// §3.5: "The leader keeps track of the highest index it knows to be committed, and it includes
/// that index in future AppendEntries RPCs (including heartbeats) so that the other servers
/// eventually find out. Once a follower learns that a log entry is committed, it applies the entry
/// to its local state machine (in log order)."
#[test]
fn entry_is_committed_followers_find_out_and_apply_in_order() {
    let mut cluster = led(3);
    cluster.propose_many(&n(1), 5);
    cluster.stabilize();
    let next = cluster.propose(&n(1), "next");
    let requests = cluster.take_messages(&n(1), &n(2));
    let carried = requests.iter().any(|message| {
        matches!(message, Message::AppendEntries(request) if request.commit_index == next.prev())
    });
    assert!(carried, "{requests:?}");
    cluster.run(2 * HEARTBEAT);
    for number in 1..=3 {
        let server = cluster.server(&n(number));
        assert_eq!(server.applied, LogIndex(server.disk.log.len() as u64));
    }
    let commits: Vec<String> = cluster
        .take_trace()
        .into_iter()
        .filter_map(|line| line.strip_prefix("n2 commit ").map(str::to_owned))
        .collect();
    let numbers: Vec<u64> = commits.iter().map(|text| text.parse().expect("a number")).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
}

/// §3.5: "If followers crash or run slowly, or if network packets are lost, the leader retries
/// AppendEntries RPCs indefinitely (even after it has responded to the client) until all followers
/// eventually store all log entries."
#[test]
fn follower_is_down_for_long_gets_everything_when_it_returns() {
    let mut cluster = led(3);
    cluster.crash(&n(3));
    for at in 0..20 {
        cluster.propose(&n(1), &format!("c{at}"));
        cluster.run(ELECTION);
    }
    cluster.restart(&n(3));
    cluster.run(3 * HEARTBEAT);
    assert_eq!(cluster.server(&n(3)).disk.log, cluster.server(&n(1)).disk.log);
    assert_eq!(cluster.server(&n(3)).applied, cluster.server(&n(1)).applied);
}

/// §3.5: "If the follower does not find an entry in its log with the same index and term, then it
/// refuses the new entries."
#[test]
fn predecessor_is_missing_follower_refuses() {
    for (prev, hint) in [((2, 3), (1, 2)), ((3, 2), (1, 2)), ((2, 9), (1, 2)), ((1, 9), (1, 2))] {
        let mut cluster = follower(3, &[1, 1]);
        cluster.tell(&n(2), &n(1), append(3, prev, &[3], 0));
        assert_eq!(cluster.terms(&n(1)), [1, 1]);
        let answers = cluster.take_messages(&n(1), &n(2));
        let expected =
            if prev == (3, 2) { conflict(3, 1, 2, hint) } else { conflict(3, 1, prev.1, hint) };
        assert_eq!(answers, [expected]);
    }
}

/// §3.5: "conflicting entries in follower logs will be overwritten with entries from the leader's
/// log", the rows of the paper's figure 7.
#[test]
fn follower_log_conflicts_is_overwritten_from_there() {
    for (log, expected) in [
        (&[1, 1, 1, 4, 4, 5, 5, 6, 6][..], &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8][..]),
        (&[1, 1, 1, 4], &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8]),
        (&[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6], &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8]),
        (&[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7], &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8]),
        (&[1, 1, 1, 4, 4, 4, 4], &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8]),
        (&[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3], &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8]),
    ] {
        let mut cluster = Cluster::with(3, 0, without_pre_vote);
        let leader = log_of(&configuration(3, 0), &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6]);
        cluster.set_disk(&n(1), 7, None, leader);
        cluster.set_disk(&n(2), 7, None, log_of(&configuration(3, 0), log));
        cluster.elect(&n(1));
        assert_eq!(cluster.terms(&n(2)), expected);
        assert_eq!(cluster.server(&n(2)).disk.log, cluster.server(&n(1)).disk.log);
    }
}

/// §3.5: "When a leader first comes to power, it initializes all nextIndex values to the index just
/// after the last one in its log."
#[test]
fn leader_comes_to_power_probes_at_its_end() {
    let mut cluster = follower(3, &[1, 2, 2, 3]);
    cluster.win(&n(1));
    assert_eq!(appends(&cluster.take_from(&n(1))), [(n(2), 4, 1), (n(3), 4, 1)]);
}

/// §3.5: "After a rejection, the leader decrements nextIndex and retries the AppendEntries RPC.
/// Eventually nextIndex will reach a point where the leader and follower logs match."
#[test]
fn follower_rejects_leader_goes_back_until_the_logs_match() {
    let mut cluster = follower(5, &[1, 2, 2, 4, 5]);
    cluster.win(&n(1));
    cluster.pool.clear();
    let mut last = 5;
    for hint in [(3, 4), (2, 2), (1, 1)] {
        cluster.tell(&n(2), &n(1), conflict(6, 1, last, hint));
        let probes = appends(&cluster.take_from(&n(1)));
        assert_eq!(probes.len(), 1);
        assert!(probes[0].1 < last);
        last = probes[0].1;
        assert_eq!(next_index(&cluster, 2), last + 1);
    }
    assert_eq!(last, 1);
    cluster.tell(&n(2), &n(1), matched(6, 1, 6));
    assert_eq!(next_index(&cluster, 2), 7);
}

/// §3.5: "the follower can include the term of the conflicting entry and the first index it stores
/// for that term [...]; one AppendEntries RPC will be required for each term with conflicting
/// entries, rather than one RPC per entry."
#[test]
fn tail_of_other_terms_is_skipped_term_by_term() {
    let mut cluster = Cluster::with(3, 0, without_pre_vote);
    let long = |term: u64| [vec![1], vec![term; 50]].concat();
    cluster.set_disk(&n(1), 5, None, log_of(&configuration(3, 0), &long(4)));
    cluster.set_disk(&n(2), 5, None, log_of(&configuration(3, 0), &long(2)));
    cluster.win(&n(1));
    cluster.take_trace();
    cluster.stabilize();
    let trace = cluster.take_trace();
    let conflicts =
        trace.iter().filter(|line| line.starts_with("n1 <- n2") && line.contains("conflict"));
    assert_eq!(conflicts.count(), 1);
    assert_eq!(cluster.terms(&n(2)), cluster.terms(&n(1)));
}

/// §3.5: "A leader never overwrites or deletes entries in its own log (the Leader Append-Only
/// Property)."
#[test]
fn leader_hears_of_longer_logs_keeps_its_own() {
    let mut cluster = follower(3, &[1, 2, 3]);
    cluster.set_disk(&n(2), 3, None, log_of(&configuration(3, 0), &[1, 2, 2, 2, 2, 2]));
    cluster.win(&n(1));
    let before = cluster.server(&n(1)).log.clone();
    cluster.run(ELECTION);
    assert!(cluster.server(&n(1)).log.starts_with(&before));
    assert_eq!(cluster.leaders(), [n(1)]);
}

/// §3.5, Log Matching: "If two entries in different logs have the same index and term, then they
/// store the same command", "and the logs are identical in all preceding entries."
#[test]
fn logs_share_an_entry_share_all_before_it() {
    let mut cluster = Cluster::new(3);
    for round in 0..12 {
        let leader = n(round % 3 + 1);
        cluster.elect(&leader);
        cluster.propose(&leader, &format!("c{round}"));
        // One of the others misses it, each time another one.
        let missing = n((round + 2) % 3 + 1);
        cluster.take_messages(&leader, &missing);
        cluster.stabilize();
        let logs: Vec<Vec<Entry>> =
            cluster.servers.values().map(|server| server.log.clone()).collect();
        for (a, b) in [(0, 1), (1, 2), (0, 2)] {
            let same = logs[a].iter().zip(&logs[b]).rposition(|(a, b)| a.id() == b.id());
            let shared = same.map_or(0, |at| at + 1);
            assert_eq!(logs[a][..shared], logs[b][..shared]);
        }
    }
}

/// §3.6.1: "the voter denies its vote if its own log is more up-to-date than that of the candidate.
/// [...] If the logs have last entries with different terms, then the log with the later term is
/// more up-to-date. If the logs end with the same term, then whichever log is longer."
#[test]
fn candidate_log_is_older_voter_denies() {
    let voter = [1, 2, 2];
    for (last, is_granted) in [
        ((0, 0), false),
        ((1, 1), false),
        ((1, 99), false),
        ((2, 2), false),
        ((2, 3), true),
        ((2, 4), true),
        ((3, 1), true),
    ] {
        let mut cluster = follower(3, &voter);
        cluster.tell(&n(2), &n(1), vote(4, last));
        cluster.written_all(&n(1));
        assert_eq!(cluster.take_messages(&n(1), &n(2)), [vote_reply(4, 4, is_granted)], "{last:?}");
    }
}

/// §3.6.2: "Raft never commits log entries from previous terms by counting replicas. Only log
/// entries from the leader's current term are committed by counting replicas."
#[test]
fn old_entry_is_on_every_server_waits_for_one_of_the_term() {
    let mut cluster = follower(2, &[1, 2]);
    cluster.win(&n(1));
    cluster.written_all(&n(1));
    for peer in [2, 3] {
        cluster.tell(&n(peer), &n(1), matched(3, 1, 2));
        assert_eq!(commit(&cluster, 1), 0);
    }
    cluster.tell(&n(3), &n(1), matched(3, 1, 3));
    assert_eq!(commit(&cluster, 1), 3);
}

/// §3.6.2 and §6.4: "each leader commit[s] a blank no-op entry into the log at the start of its
/// term."
#[test]
fn leader_is_elected_appends_a_noop() {
    let mut cluster = Cluster::new(3);
    for (number, term) in [(1, 2), (2, 3), (3, 4)] {
        cluster.elect(&n(number));
        let last = cluster.server(&n(number)).log.last().expect("an entry").clone();
        assert_eq!((last.term, last.payload), (Term(term), EntryPayload::Noop));
        assert_eq!(cluster.core(&n(number)).commit_index(), last.index);
    }
}

/// §3.7: "Raft RPCs have the same effect if repeated, so this causes no harm."
#[test]
fn messages_are_repeated_nothing_changes() {
    let mut cluster = follower(2, &[1]);
    for message in [append(2, (1, 1), &[2, 2], 2), heartbeat(2, 4, 1), vote(2, (2, 3))] {
        cluster.tell(&n(2), &n(1), message.clone());
        cluster.written_all(&n(1));
        let first = (cluster.take_messages(&n(1), &n(2)), cluster.status(&n(1)));
        for _ in 0..3 {
            cluster.tell(&n(2), &n(1), message.clone());
            assert!(cluster.server(&n(1)).pending.is_empty());
            let again = (cluster.take_messages(&n(1), &n(2)), cluster.status(&n(1)));
            assert_eq!(again, first);
        }
    }
}

/// §3.8: "Each server must persist its current term and vote before responding to RPCs. [...]
/// Each server also persists new log entries before they are counted towards the entries'
/// commitment."
#[test]
fn answer_promises_something_waits_for_the_disk() {
    for message in [
        vote(3, (2, 2)),
        append(3, (1, 1), &[], 0),
        append(2, (1, 1), &[2], 0),
        append(3, (9, 9), &[], 0),
        heartbeat(3, 1, 0),
    ] {
        let mut cluster = follower(2, &[1]);
        cluster.tell(&n(2), &n(1), message);
        assert!(cluster.pool.is_empty(), "an answer before the write");
        assert_eq!(cluster.server(&n(1)).pending.len(), 1);
        cluster.written(&n(1));
        assert_eq!(cluster.pool.len(), 1);
    }
    // What is on the disk already is answered for at once.
    let mut cluster = follower(2, &[1, 2]);
    cluster.tell(&n(2), &n(1), append(2, (1, 1), &[2], 0));
    assert_eq!(cluster.take_messages(&n(1), &n(2)), [matched(2, 1, 2)]);
}

/// §3.8: "[...] prevent the server from voting twice or replacing log entries from a newer leader
/// with those from a deposed leader", across a restart.
#[test]
fn server_restarts_remembers_term_vote_and_log() {
    let mut cluster = follower(1, &[1]);
    cluster.tell(&n(2), &n(1), vote(5, (1, 1)));
    cluster.tell(&n(2), &n(1), append(5, (1, 1), &[5], 0));
    cluster.written_all(&n(1));
    cluster.pool.clear();
    cluster.crash(&n(1));
    cluster.restart(&n(1));
    assert_eq!(role(&cluster, 1), (Role::Follower, 5));
    assert_eq!(cluster.terms(&n(1)), [1, 5]);
    cluster.tell(&n(3), &n(1), vote(5, (9, 9)));
    cluster.tell(&n(3), &n(1), append(4, (1, 1), &[4], 2));
    let answers = cluster.take_messages(&n(1), &n(3));
    assert_eq!(answers, [vote_reply(5, 5, false), stale_term(5, 1)]);
    assert_eq!(cluster.terms(&n(1)), [1, 5]);
}

/// §3.8: "it is safe to reinitialize the commit index to zero on a restart. Even if every server
/// restarts at the same time, the commit index will only temporarily lag behind its true value."
#[test]
fn every_server_restarts_commit_index_recovers() {
    let mut cluster = led(3);
    cluster.propose(&n(1), "a");
    cluster.run(HEARTBEAT);
    for number in 1..=3 {
        cluster.crash(&n(number));
        cluster.restart(&n(number));
        assert_eq!(commit(&cluster, number), 0);
    }
    cluster.elect(&n(2));
    cluster.run(HEARTBEAT);
    for number in 1..=3 {
        assert_eq!(commit(&cluster, number), 4);
    }
}

/// §3.9: "broadcastTime ≪ electionTimeout": the settings keep the order that the timers need.
#[test]
fn timing_is_out_of_order_settings_are_refused() {
    let with = |election: u64, heartbeat: u64, lease: u64| {
        Config::new("n1").with(|it| {
            it.election_timeout = Duration::from_millis(election);
            it.heartbeat_interval = Duration::from_millis(heartbeat);
            it.leader_lease_timeout = Duration::from_millis(lease);
        })
    };
    assert!(with(1000, 100, 500).validate().is_ok());
    assert!(with(1000, 400, 900).validate().is_err(), "fewer than three heartbeats");
    assert!(with(1000, 100, 1001).validate().is_err(), "a lease beyond the patience of others");
    assert!(with(1000, 100, 150).validate().is_err(), "a lease of one heartbeat");
}

/// §3.10, step 1: "The prior leader stops accepting new client requests."
#[test]
fn transfer_begins_leader_accepts_nothing() {
    let mut cluster = led(3);
    cluster.act(&n(1), |core, now| core.transfer_leadership(now, Some(&n(2)))).expect("accepted");
    let refused = cluster.act(&n(1), |core, now| core.propose(now, vec![command("a")]));
    assert_eq!(refused, Err(ProposeRefusal::TransferInProgress));
}

/// §3.10, step 2: "The prior leader fully updates the target server's log to match its own log,
/// using the normal log replication mechanism."
#[test]
fn transfer_target_is_behind_is_updated_first() {
    let mut cluster = led(3);
    cluster.partition(&[n(2)]);
    cluster.propose_many(&n(1), 3);
    cluster.stabilize();
    cluster.heal();
    cluster.act(&n(1), |core, now| core.transfer_leadership(now, Some(&n(2)))).expect("accepted");
    cluster.run(3 * HEARTBEAT);
    assert_eq!(cluster.leaders(), [n(2)]);
    assert_eq!(cluster.terms(&n(2)), [1, 2, 2, 2, 2, 3]);
}

/// §3.10, step 3: "The prior leader sends a TimeoutNow request to the target server. This request
/// has the same effect as the target server's election timer firing: the target server starts a
/// new election", which §4.2.3 lets everybody answer.
#[test]
fn transfer_target_is_told_starts_an_election_at_once() {
    let mut cluster = led(3);
    cluster.tell(&n(1), &n(2), timeout_now(2));
    assert_eq!(role(&cluster, 2), (Role::Candidate, 3));
    cluster.written_all(&n(2));
    assert_eq!(cluster.take_messages(&n(2), &n(1)), [transfer_vote(3, (2, 2))]);
}

/// §3.10: "If leadership transfer does not complete after about an election timeout, the prior
/// leader aborts the transfer and resumes accepting client requests."
#[test]
fn transfer_takes_too_long_leader_resumes() {
    let mut cluster = led(3);
    cluster.crash(&n(2));
    cluster.act(&n(1), |core, now| core.transfer_leadership(now, Some(&n(2)))).expect("accepted");
    cluster.run(ELECTION - HEARTBEAT);
    let refused = cluster.act(&n(1), |core, now| core.propose(now, vec![command("a")]));
    assert_eq!(refused, Err(ProposeRefusal::TransferInProgress));
    cluster.run(HEARTBEAT);
    assert!(cluster.take_trace().contains(&"n1 transfer failed: TimedOut".to_owned()));
    assert_eq!(cluster.propose(&n(1), "b"), LogIndex(3));
}

/// §4.1: "The new configuration takes effect on each server as soon as it is added to that server's
/// log."
#[test]
fn configuration_is_appended_takes_effect() {
    let mut cluster = led(3);
    change(&mut cluster, &remove(3)).expect("accepted");
    assert_eq!(cluster.core(&n(1)).latest_configuration().configuration.to_string(), "n1 n2");
    assert_eq!(cluster.core(&n(2)).latest_configuration().configuration.to_string(), "n1 n2 n3");
    // Two of two are needed now, and n3 is none of them.
    cluster.written_all(&n(1));
    cluster.tell(&n(3), &n(1), matched(2, 1, 3));
    assert_eq!(commit(&cluster, 1), 2);
    cluster.tell(&n(2), &n(1), matched(2, 1, 3));
    assert_eq!(commit(&cluster, 1), 3);
}

/// §4.1: "the new configuration [...] is committed once a majority of the servers in the new
/// configuration have it", which for an added server are more than before.
#[test]
fn voter_is_added_counts_for_its_own_addition() {
    let mut cluster = led(3);
    change(&mut cluster, &add_voter(4)).expect("accepted");
    cluster.written_all(&n(1));
    cluster.tell(&n(2), &n(1), matched(2, 1, 3));
    assert_eq!(commit(&cluster, 1), 2, "two of four");
    let round = cluster.core(&n(1)).role.leader().map_or(0, |leader| leader.round);
    cluster.tell(&n(4), &n(1), matched(2, round, 3));
    assert_eq!(commit(&cluster, 1), 3);
}

/// §4.1: "a server must be prepared to fall back to a previous configuration in its log."
#[test]
fn configuration_is_truncated_falls_back() {
    let mut cluster = led(3);
    change(&mut cluster, &remove(3)).expect("accepted");
    cluster.written_all(&n(1));
    cluster.tell(&n(2), &n(1), append(3, (2, 2), &[3], 2));
    let latest = cluster.core(&n(1)).latest_configuration();
    assert_eq!((latest.index, latest.configuration.to_string()), (LogIndex(1), "n1 n2 n3".into()));
    assert_eq!(role(&cluster, 1), (Role::Follower, 3));
}

/// §4.1: "no further configuration changes can be started until the previous one has completed", and
/// the correction of 2015: nor before an entry of the leader's term is committed.
#[test]
fn change_is_under_way_next_one_is_refused() {
    let mut cluster = Cluster::new(3);
    cluster.win(&n(1));
    let in_progress = |index| Err(ChangeRefusal::ChangeInProgress { index: LogIndex(index) });
    // The first configuration itself is not known to be committed.
    assert_eq!(change(&mut cluster, &remove(3)), in_progress(1));
    cluster.stabilize();
    change(&mut cluster, &remove(3)).expect("accepted");
    assert_eq!(change(&mut cluster, &remove(2)), in_progress(3));
    cluster.stabilize();
    change(&mut cluster, &add_voter(3)).expect("accepted");
    cluster.stabilize();
    cluster.win(&n(2));
    let changed = cluster.act(&n(2), |core, now| core.change_configuration(now, &remove(1), None));
    assert_eq!(changed, Err(ChangeRefusal::NotReady));
}

/// §4.1, footnote and §4.2.2: "a server accepts AppendEntries requests from a leader that is not
/// part of the server's latest configuration", and grants votes to such a candidate.
#[test]
fn stranger_asks_is_answered() {
    let mut cluster = follower(2, &[1]);
    cluster.tell(&n(9), &n(1), append(3, (1, 1), &[3], 2));
    cluster.written_all(&n(1));
    assert_eq!(cluster.take_messages(&n(1), &n(9)), [matched(3, 1, 2)]);
    assert_eq!(commit(&cluster, 1), 2);
    let mut cluster = follower(2, &[1]);
    cluster.tell(&n(9), &n(1), vote(3, (1, 1)));
    cluster.written_all(&n(1));
    assert_eq!(cluster.take_messages(&n(1), &n(9)), [vote_reply(3, 3, true)]);
}

/// §4.2.1: "The leader replicates log entries to [a new server], but it is not yet counted towards
/// majorities for voting or commitment purposes."
#[test]
fn nonvoter_has_everything_counts_for_nothing() {
    let mut cluster = Cluster::with(2, 1, without_pre_vote);
    cluster.elect(&n(1));
    cluster.crash(&n(2));
    cluster.propose(&n(1), "a");
    cluster.stabilize();
    assert_eq!(cluster.terms(&n(3)), [1, 2, 2]);
    assert_eq!(commit(&cluster, 1), 2);
    let mut cluster = Cluster::with(2, 1, without_pre_vote);
    cluster.campaign(&n(1));
    cluster.written_all(&n(1));
    cluster.tell(&n(3), &n(1), vote_reply(2, 2, true));
    assert_eq!(role(&cluster, 1), (Role::Candidate, 2));
    cluster.run(5 * ELECTION);
    assert_eq!(cluster.core(&n(3)).role(), Role::Follower);
}

/// §4.2.2: "a leader that is removed from the configuration steps down once the C_new entry is
/// committed", "[it] replicates log entries but does not count itself in majorities."
#[test]
fn leader_removes_itself_steps_down_at_the_commit() {
    let mut cluster = led(3);
    change(&mut cluster, &remove(1)).expect("accepted");
    cluster.written_all(&n(1));
    assert_eq!(appends(&cluster.pool), [(n(2), 2, 1), (n(3), 2, 1)]);
    cluster.tell(&n(2), &n(1), matched(2, 1, 3));
    assert_eq!(role(&cluster, 1), (Role::Leader, 2));
    cluster.tell(&n(3), &n(1), matched(2, 1, 3));
    assert_eq!(role(&cluster, 1), (Role::Follower, 2));
    assert_eq!(commit(&cluster, 1), 3);
}

/// §4.2.3: "if a server receives a RequestVote request within the minimum election timeout of
/// hearing from a current leader, it does not update its term or grant its vote."
#[test]
fn vote_is_asked_for_soon_after_a_heartbeat_is_ignored() {
    for (waited, is_granted) in [(0, false), (500, false), (999, false), (1000, true)] {
        let mut cluster = follower(2, &[1]);
        cluster.tell(&n(2), &n(1), heartbeat(2, 1, 0));
        cluster.pool.clear();
        let server = cluster.server_mut(&n(1));
        server.now = server.now + Duration::from_millis(waited);
        cluster.tell(&n(3), &n(1), vote(3, (1, 1)));
        cluster.written_all(&n(1));
        assert_eq!(cluster.core(&n(1)).term(), Term(if is_granted { 3 } else { 2 }));
        let term = if is_granted { 3 } else { 2 };
        assert_eq!(cluster.take_messages(&n(1), &n(3)), [vote_reply(term, 3, is_granted)]);
    }
    // A leader hears from itself all the time.
    let mut cluster = led(3);
    cluster.tell(&n(3), &n(1), vote(9, (9, 9)));
    assert_eq!(role(&cluster, 1), (Role::Leader, 2));
}

/// §4.2.3: "it does not interfere with the leadership transfer mechanism [...]; those RequestVote
/// messages should be processed by other servers even when they believe a current cluster leader
/// exists."
#[test]
fn vote_is_asked_for_in_a_transfer_is_given() {
    let mut cluster = led(3);
    for voter in [1, 3] {
        cluster.tell(&n(2), &n(voter), transfer_vote(3, (2, 2)));
        cluster.written_all(&n(voter));
        assert_eq!(cluster.take_messages(&n(voter), &n(2)), [vote_reply(3, 3, true)]);
    }
    assert_eq!(role(&cluster, 1), (Role::Follower, 3));
}

/// §6.2: "A leader in Raft steps down if an election timeout elapses without a successful round of
/// heartbeats to a majority of its cluster" (here the lease timeout, which is shorter).
#[test]
fn majority_is_silent_leader_steps_down() {
    for (voters, silent, expected) in
        [(3, 1, Role::Leader), (3, 2, Role::Follower), (5, 2, Role::Leader), (5, 3, Role::Follower)]
    {
        let mut cluster = led(voters);
        (0..silent).for_each(|at| cluster.crash(&n(voters - at)));
        cluster.run(Duration::from_millis(510));
        assert_eq!(cluster.core(&n(1)).role(), expected, "{silent} of {voters}");
    }
    let mut alone = led(1);
    alone.run(10 * ELECTION);
    assert_eq!(role(&alone, 1), (Role::Leader, 2));
}

/// §6.4, step 1: "If the leader has not yet marked an entry from its current term committed, it
/// waits until it has done so."
#[test]
fn read_is_asked_before_the_first_commit_waits_for_it() {
    let mut cluster = follower(2, &[1, 2, 2]);
    cluster.win(&n(1));
    let verification = cluster.act(&n(1), |core, now| core.verify_leader(now)).expect("leads");
    assert_eq!(verification.read_index, LogIndex(4));
    assert_eq!(commit(&cluster, 1), 0);
}

/// §6.4, steps 2 and 3: "The leader saves its current commit index in a local variable readIndex.
/// [...] The leader issues a new round of heartbeats and waits for their acknowledgments from a
/// majority of the cluster."
#[test]
fn read_is_asked_is_confirmed_by_a_new_round() {
    let mut cluster = led(5);
    let verification = cluster.act(&n(1), |core, now| core.verify_leader(now)).expect("leads");
    assert_eq!(verification.read_index, LogIndex(2));
    let verified = format!("n1 verified round={}", verification.round);
    cluster.propose(&n(1), "later");
    for peer in [2, 3] {
        assert!(!cluster.take_trace().contains(&verified));
        cluster.tell(&n(peer), &n(1), heartbeat_reply(2, verification.round, 2, 2));
    }
    assert!(cluster.take_trace().contains(&verified));
}

/// §9.6: "in the Pre-Vote algorithm, a candidate only increments its term if it first learns from a
/// majority of the cluster that they would be willing to grant the candidate their votes."
#[test]
fn majority_promises_nothing_term_stays() {
    let mut cluster = Cluster::new(5);
    cluster.campaign(&n(1));
    assert_eq!(cluster.take_messages(&n(1), &n(2)), [pre_vote(2, (1, 1))]);
    assert!(cluster.server(&n(1)).pending.is_empty(), "nothing to save");
    for _ in 0..5 {
        cluster.tell(&n(2), &n(1), pre_vote_reply(1, 2, true));
        cluster.tell(&n(3), &n(1), pre_vote_reply(1, 2, false));
        cluster.advance(ELECTION, Some(&n(1)));
        assert_eq!(role(&cluster, 1), (Role::PreCandidate, 1));
    }
    cluster.tell(&n(2), &n(1), pre_vote_reply(1, 2, true));
    cluster.tell(&n(4), &n(1), pre_vote_reply(1, 2, true));
    assert_eq!(role(&cluster, 1), (Role::Candidate, 2));
}

/// §9.6: "[servers promise] if the candidate's log is sufficiently up-to-date, and the voters have
/// not received heartbeats from a valid leader for at least a baseline election timeout."
#[test]
fn promise_is_asked_for_depends_on_log_and_leader() {
    for (last, waited, is_granted) in [
        ((2, 2), 1000, true),
        ((2, 2), 999, false),
        ((1, 9), 1000, false),
        ((2, 1), 5000, false),
        ((3, 1), 5000, true),
    ] {
        let mut cluster = follower(2, &[1, 2]);
        cluster.tell(&n(2), &n(1), heartbeat(2, 1, 0));
        cluster.pool.clear();
        let server = cluster.server_mut(&n(1));
        server.now = server.now + Duration::from_millis(waited);
        let before = cluster.status(&n(1));
        cluster.tell(&n(3), &n(1), pre_vote(3, last));
        assert_eq!(cluster.take_messages(&n(1), &n(3)), [pre_vote_reply(2, 3, is_granted)]);
        assert_eq!(cluster.status(&n(1)), before, "a promise binds nobody");
    }
}

/// §9.6: "a partitioned server [...] will not be able to increase its term; when it rejoins, it will
/// not have a disruptive term."
#[test]
fn partitioned_server_returns_disturbs_nobody() {
    let mut cluster = Cluster::new(3);
    cluster.elect(&n(1));
    cluster.partition(&[n(3)]);
    cluster.run(20 * ELECTION);
    cluster.heal();
    cluster.run(ELECTION);
    assert_eq!(cluster.leaders(), [n(1)]);
    for number in 1..=3 {
        assert_eq!(cluster.core(&n(number)).term(), Term(2));
    }
}

/// §10.2.1: "The leader can write to its disk in parallel with replicating to the followers and
/// them writing to their disks."
#[test]
fn leader_disk_is_slow_replication_goes_on() {
    let mut cluster = led(3);
    cluster.server_mut(&n(1)).is_stalled = true;
    cluster.propose(&n(1), "a");
    assert_eq!(appends(&cluster.pool).len(), 2);
    assert_eq!(cluster.server(&n(1)).pending.len(), 1);
}

/// §10.2.1: "the leader may even commit an entry before it has been written to its own disk, if a
/// majority of followers have written it to their disks; this is still safe."
#[test]
fn followers_are_a_majority_leader_commits_before_its_disk() {
    let mut cluster = led(3);
    cluster.server_mut(&n(1)).is_stalled = true;
    cluster.propose(&n(1), "a");
    cluster.tell(&n(2), &n(1), matched(2, 1, 3));
    assert_eq!(commit(&cluster, 1), 2, "a leader without a disk is no majority with one follower");
    cluster.tell(&n(3), &n(1), matched(2, 1, 3));
    assert_eq!(commit(&cluster, 1), 3);
    // Ours: it hands out only what its own disk has.
    assert_eq!(cluster.server(&n(1)).applied, LogIndex(2));
}

/// §10.2.2: "The leader [...] can update nextIndex for a follower immediately after sending an
/// entry, rather than waiting for an acknowledgment", and goes back when that turns out wrong.
#[test]
fn entries_are_sent_ahead_of_their_answers() {
    let mut cluster = led(2);
    cluster.propose(&n(1), "a");
    cluster.propose(&n(1), "b");
    assert_eq!(appends(&cluster.pool), [(n(2), 2, 1), (n(2), 3, 1)]);
    assert_eq!(next_index(&cluster, 2), 5);
    // The first is lost: the second is refused, and the leader goes back.
    cluster.pool.remove(0);
    cluster.stabilize();
    assert_eq!(cluster.terms(&n(2)), [1, 2, 2, 2]);
    assert_eq!(commit(&cluster, 1), 4);
    let is_refusal = |line: &String| line.starts_with("n1 <- n2") && line.contains("conflict=3");
    assert!(cluster.take_trace().iter().any(is_refusal));
}

/// A cluster of three whose n1 leads term 2 with entries up to 5, which everybody has applied.
fn applied() -> Cluster {
    let mut cluster = Cluster::with(3, 0, |rules| {
        (rules.pre_vote, rules.trailing_logs) = (false, 0);
    });
    cluster.elect(&n(1));
    cluster.propose_many(&n(1), 3);
    cluster.stabilize();
    cluster.run(HEARTBEAT);
    cluster.take_trace();
    cluster
}

/// The last entry of a server's snapshot, and the first index of its log.
fn snapshot_of(cluster: &Cluster, number: usize) -> (LogId, u64) {
    let core = cluster.core(&n(number));
    (core.snapshot(), core.first_index().0)
}

/// §5.1: "Each server takes snapshots independently, covering just the committed entries in its log."
#[test]
fn server_takes_a_snapshot_others_keep_their_logs() {
    let mut cluster = applied();
    cluster.propose(&n(1), "not committed");
    cluster.snapshot(&n(1));
    assert_eq!(snapshot_of(&cluster, 1), (LogId::new(2, 5), 6));
    assert_eq!(cluster.core(&n(1)).last(), LogId::new(2, 6));
    assert_eq!(snapshot_of(&cluster, 2), (LogId::ZERO, 1));
    cluster.snapshot(&n(2));
    assert_eq!(snapshot_of(&cluster, 2), (LogId::new(2, 5), 6));
}

/// §5.1: "Once a server completes writing a snapshot, it may delete all log entries up through the
/// last included index".
#[test]
fn snapshot_is_complete_log_is_compacted() {
    let mut cluster = applied();
    cluster.begin_snapshot(&n(1));
    cluster.propose(&n(1), "x");
    cluster.stabilize();
    assert_eq!(snapshot_of(&cluster, 1), (LogId::ZERO, 1));
    cluster.end_snapshot(&n(1));
    assert_eq!(cluster.take_trace().last().map(String::as_str), Some("n1 compact 5"));
    assert_eq!(cluster.terms(&n(1)), [2]);
}

/// §5.1: the last included index and term are kept "to support the AppendEntries consistency check
/// for the first log entry following the snapshot".
#[test]
fn first_entry_follows_the_snapshot_is_checked_against_it() {
    let mut cluster = applied();
    cluster.snapshot(&n(2));
    cluster.tell(&n(1), &n(2), append(2, (2, 5), &[2], 5));
    cluster.written_all(&n(2));
    assert_eq!(cluster.take_messages(&n(2), &n(1)), [matched(2, 1, 6)]);
    let mut cluster = Cluster::new(3);
    cluster.set_disk(&n(1), 3, None, log_of(&configuration(3, 0), &[1]));
    cluster.receive_whole(&n(1), &n(2), 3, &snapshot(2, 5, 3));
    cluster.written_all(&n(1));
    cluster.pool.clear();
    cluster.tell(&n(2), &n(1), append(3, (2, 5), &[3], 5));
    cluster.written_all(&n(1));
    assert_eq!(cluster.take_messages(&n(1), &n(2)), [matched(3, 1, 6)]);
    // Votes are compared with it, too.
    cluster.server_mut(&n(1)).now = cluster.server(&n(1)).now + 2 * ELECTION;
    cluster.tell(&n(3), &n(1), vote(4, (2, 9)));
    cluster.written_all(&n(1));
    assert_eq!(cluster.take_messages(&n(1), &n(3)), [vote_reply(4, 4, false)]);
}

/// §5.1 (paper §7): "the snapshot also includes the latest configuration in the log as of last
/// included index".
#[test]
fn configuration_is_compacted_snapshot_keeps_it() {
    let mut cluster = applied();
    cluster.snapshot(&n(2));
    assert!(cluster.server(&n(2)).log.is_empty());
    assert_eq!(cluster.server(&n(2)).disk.snapshots[0].configuration.index, LogIndex(1));
    cluster.crash(&n(2));
    cluster.restart(&n(2));
    let latest = cluster.core(&n(2)).latest_configuration();
    assert_eq!((latest.index, latest.configuration.voters().count()), (LogIndex(1), 3));
}

/// §5.1 (paper §7): "the leader must occasionally send snapshots to followers that lag behind", namely
/// when it has discarded the next entry they need.
#[test]
fn follower_needs_what_is_compacted_is_sent_a_snapshot() {
    let mut cluster = Cluster::with(3, 0, |rules| rules.trailing_logs = 1);
    cluster.elect(&n(1));
    cluster.run(HEARTBEAT);
    cluster.partition(&[n(3)]);
    cluster.propose_many(&n(1), 3);
    cluster.stabilize();
    cluster.snapshot(&n(1));
    cluster.heal();
    cluster.add(&n(4));
    let add = ConfigurationChange::AddVoter { id: n(4), address: "n4:1".into() };
    cluster.act(&n(1), |core, now| core.change_configuration(now, &add, None)).expect("n1 leads");
    cluster.run(ELECTION);
    for number in [3, 4] {
        assert_eq!(snapshot_of(&cluster, number), (LogId::new(2, 5), 6));
        assert_eq!(commit(&cluster, number), 6);
    }
    assert_eq!(snapshot_of(&cluster, 2), (LogId::ZERO, 1));
}

/// §5.1: "Usually the snapshot will contain new information not already in the recipient's log. In
/// this case, the follower discards its entire log".
#[test]
fn snapshot_has_news_whole_log_is_discarded() {
    for log in [&[1][..], &[1, 2, 2, 2], &[1, 2, 2, 2, 2, 2, 2]] {
        let mut cluster = follower(3, log);
        cluster.receive_whole(&n(1), &n(2), 3, &snapshot(3, 5, 3));
        cluster.written_all(&n(1));
        assert_eq!(snapshot_of(&cluster, 1), (LogId::new(3, 5), 6));
        assert_eq!((cluster.terms(&n(1)), commit(&cluster, 1)), (vec![], 5));
        assert_eq!(cluster.server(&n(1)).applied, LogIndex(5));
    }
}

/// §5.1: if "the follower receives a snapshot that describes a prefix of its log", then "entries
/// following the snapshot are still valid and must be retained".
#[test]
fn snapshot_is_a_prefix_of_the_log_rest_is_kept() {
    for index in 1..=5 {
        let mut cluster = follower(2, &[1, 1, 2, 2, 2]);
        let term = if index < 3 { 1 } else { 2 };
        cluster.receive_whole(&n(1), &n(2), 2, &snapshot(term, index, 3));
        assert_eq!(cluster.terms(&n(1)), [1, 1, 2, 2, 2]);
        assert_eq!(commit(&cluster, 1), index);
        assert_eq!(cluster.server(&n(1)).applied, LogIndex(index));
    }
}

/// §5.1: each piece of a snapshot is a sign of life of the leader.
#[test]
fn piece_arrives_election_is_put_off() {
    let mut cluster = follower(2, &[1]);
    let deadline = cluster.core(&n(1)).election.deadline;
    cluster.server_mut(&n(1)).now = deadline;
    cluster.tell(&n(2), &n(1), piece(2, 1, &snapshot(2, 5, 3), 0));
    assert!(deadline < cluster.core(&n(1)).election.deadline);
    assert_eq!(role(&cluster, 1), (Role::Follower, 2));
    // Not if it comes from an old term; that is refused.
    let deadline = cluster.core(&n(1)).election.deadline;
    cluster.server_mut(&n(1)).now = deadline;
    cluster.tell(&n(3), &n(1), piece(1, 1, &snapshot(1, 5, 3), 0));
    assert_eq!(cluster.core(&n(1)).election.deadline, deadline);
}

/// §5.1.1: the state machine is told to load a snapshot, and goes on with the entries after it.
#[test]
fn snapshot_is_adopted_state_machine_follows_in_order() {
    let mut cluster = follower(3, &[1]);
    cluster.tell(&n(2), &n(1), append(3, (1, 1), &[], 1));
    cluster.receive_whole(&n(1), &n(2), 3, &snapshot(3, 5, 3));
    cluster.tell(&n(2), &n(1), append(3, (3, 5), &[3, 3], 7));
    cluster.take_trace();
    cluster.written_all(&n(1));
    let told = |line: &String| line.contains(" restore ") || line.contains(" commit ");
    let trace: Vec<String> = cluster.take_trace().into_iter().filter(told).collect();
    assert_eq!(trace, ["n1 restore 5@3", "n1 commit 7"]);
}

/// §5.2: a state machine that is durable by itself remembers its last applied index, and is given
/// what comes after.
#[test]
fn state_machine_keeps_its_state_goes_on_after_it() {
    let hard_state = HardState { current_term: Term(2), voted_for: None };
    let members = IndexedConfiguration { index: LogIndex(1), configuration: configuration(1, 0) };
    let mut saved = Saved::new(hard_state, LogId::ZERO, members);
    saved.push(&log_of(&configuration(1, 0), &[1, 2, 2, 2]));
    saved.committed(LogIndex(4));
    saved.applied(LogIndex(3));
    let mut core = Consensus::new(rules(&n(1)), saved, 1, Time(0));
    assert_eq!((core.last_applied(), core.commit_index()), (LogIndex(3), LogIndex(4)));
    let actions: Vec<String> =
        std::iter::from_fn(|| core.poll_action()).map(|action| action.to_string()).collect();
    assert!(actions.contains(&"commit 4".to_owned()), "{actions:?}");
}
