//! Bugs that other implementations have had, each as the test that would have found it. Their
//! issue or pull request is named; the rule that each imposed is the name of the test.

use std::{collections::BTreeSet, time::Duration};

use super::{
    cluster::{
        Cluster, Filter, Packet, Snapshot, command, configuration, log_of, n, piece, rules,
        snapshot,
    },
    messages::{
        append, append_entries, applied_reply, conflict, entry, heartbeat, heartbeat_reply,
        install_reply, installed, matched, pre_vote, pre_vote_reply, removed, stale_term,
        timeout_now, transfer_vote, vote, vote_reply,
    },
};
use crate::{
    configuration::{
        Configuration, ConfigurationChange, IndexedConfiguration, Server as Member, ServerId,
        Suffrage,
    },
    consensus::{
        Action, ChangeRefusal, Consensus, ProposeRefusal, Saved, Time, TransferFailure,
        TransferRefusal, Verification, WriteId,
    },
    log::EntryPayload,
    position::{LogId, LogIndex, Term},
    rpc::{InstallOutcome, Message},
    stable::HardState,
    status::{ProgressState, Role},
};

const HEARTBEAT: Duration = Duration::from_millis(100);
const ELECTION: Duration = Duration::from_secs(1);

/// A cluster whose n1 leads term 2, with everything delivered and committed everywhere.
fn led(voters: usize, nonvoters: usize) -> Cluster {
    let mut cluster = Cluster::with(voters, nonvoters, |_| {});
    cluster.elect(&n(1));
    cluster.run(HEARTBEAT);
    cluster.pool.clear();
    cluster.take_trace();
    cluster
}

/// A cluster of three whose n1 follows with this log, all durable.
fn follower(term: u64, terms: &[u64]) -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.set_disk(&n(1), term, None, log_of(&configuration(3, 0), terms));
    cluster.take_trace();
    cluster
}

fn remove(number: usize) -> ConfigurationChange {
    ConfigurationChange::RemoveServer { id: n(number) }
}

fn add(number: usize) -> ConfigurationChange {
    ConfigurationChange::AddVoter { id: n(number), address: format!("{}:1", n(number)).into() }
}

fn change(
    cluster: &mut Cluster,
    id: &ServerId,
    change: &ConfigurationChange,
) -> Result<LogIndex, ChangeRefusal> {
    cluster.act(id, |core, now| core.change_configuration(now, change, None))
}

fn verify(cluster: &mut Cluster, id: &ServerId) -> Verification {
    cluster.act(id, |core, now| core.verify_leader(now)).expect("n1 leads")
}

fn has_happened(cluster: &mut Cluster, line: &str) -> bool {
    cluster.take_trace().iter().any(|known| known == line)
}

fn match_index(cluster: &Cluster, leader: &ServerId, peer: &ServerId) -> u64 {
    let core = cluster.core(leader);
    let peers = core.peers(cluster.server(leader).now);
    peers.iter().find(|status| status.id == *peer).map_or(0, |status| status.match_index.0)
}

fn progress_of(cluster: &Cluster, leader: &ServerId, peer: &ServerId) -> ProgressState {
    let peers = cluster.core(leader).peers(cluster.server(leader).now);
    peers.into_iter().find(|status| status.id == *peer).expect("a peer").progress
}

mod membership {
    use super::*;

    /// Ongaro 2015, raft-dev: two leaders of different terms each append a change of the same
    /// configuration, and two majorities do not overlap.
    #[test]
    fn change_needs_a_committed_entry_of_the_own_term() {
        let mut cluster = led(4, 0);
        // n1 adds n5, and only n1 knows.
        cluster.partition(&[n(1)]);
        cluster.add(&n(5));
        change(&mut cluster, &n(1), &add(5)).expect("accepted");
        cluster.written_all(&n(1));
        cluster.pool.clear();
        // n2 leads the next term and wants to remove n1, based on the same configuration.
        cluster.win(&n(2));
        assert_eq!(change(&mut cluster, &n(2), &remove(1)), Err(ChangeRefusal::NotReady));
        // Once its own entry is committed, n1's change can never be: no two majorities.
        cluster.stabilize();
        change(&mut cluster, &n(2), &remove(1)).expect("ready");
        cluster.stabilize();
        cluster.heal();
        cluster.tell(&n(1), &n(2), vote(9, (2, 3)));
        cluster.run(HEARTBEAT);
        assert_eq!(cluster.leaders(), [n(2)]);
        let latest = cluster.core(&n(2)).committed_configuration();
        assert_eq!(latest.configuration.to_string(), "n2 n3 n4");
    }

    /// etcd #7280, #7625: a server campaigns with the configuration that is in its log, committed
    /// or not, and not with an older one.
    #[test]
    fn campaign_uses_the_appended_configuration() {
        let mut log = log_of(&configuration(3, 0), &[1, 1]);
        log[1].payload = EntryPayload::Configuration(configuration(5, 0));
        let mut cluster = Cluster::new(3);
        cluster.set_disk(&n(1), 1, None, log);
        cluster.campaign(&n(1));
        let asked: Vec<ServerId> =
            cluster.take_from(&n(1)).into_iter().map(|packet| packet.to).collect();
        assert_eq!(asked, [n(2), n(3), n(4), n(5)]);
        // Two of five are not enough, two of three would be.
        cluster.tell(&n(2), &n(1), pre_vote_reply(1, 2, true));
        assert_eq!(cluster.core(&n(1)).role(), Role::PreCandidate);
        cluster.tell(&n(4), &n(1), pre_vote_reply(1, 2, true));
        assert_eq!(cluster.core(&n(1)).role(), Role::Candidate);
    }

    /// etcd pull request #10998: a learner that is a voter elsewhere has to answer.
    #[test]
    fn votes_are_given_whatever_the_own_configuration_says() {
        let mut cluster = Cluster::with(2, 1, |_| {});
        cluster.tell(&n(1), &n(3), vote(2, (1, 1)));
        cluster.written_all(&n(3));
        assert_eq!(cluster.take_messages(&n(3), &n(1)), [vote_reply(2, 2, true)]);
        // A server without any configuration as well, and for a candidate it never heard of.
        cluster.add(&n(4));
        cluster.tell(&n(9), &n(4), vote(2, (1, 1)));
        cluster.written_all(&n(4));
        assert_eq!(cluster.take_messages(&n(4), &n(9)), [vote_reply(2, 2, true)]);
    }

    /// etcd #21694: an update of a member forgot its learner flag.
    #[test]
    fn updates_of_a_member_carry_every_field() {
        let mut cluster = led(3, 1);
        let moved = |number: usize| (n(number), format!("elsewhere{number}:1"));
        let (id, address) = moved(4);
        let update = ConfigurationChange::AddNonvoter { id, address: address.into() };
        change(&mut cluster, &n(1), &update).expect("accepted");
        cluster.stabilize();
        let (id, address) = moved(2);
        let update = ConfigurationChange::AddNonvoter { id, address: address.into() };
        change(&mut cluster, &n(1), &update).expect("accepted");
        cluster.stabilize();
        let latest = cluster.core(&n(3)).latest_configuration().configuration.clone();
        let shown = |number: usize| {
            let server = latest.server(&n(number)).expect("a member");
            (server.suffrage, server.address.to_string())
        };
        assert_eq!(shown(4), (Suffrage::Nonvoter, "elsewhere4:1".to_owned()));
        assert_eq!(shown(2), (Suffrage::Voter, "elsewhere2:1".to_owned()));
    }

    /// openraft, inherited from async-raft: commits were counted against the wrong set.
    #[test]
    fn commit_counts_the_voters_in_force_only() {
        let mut cluster = led(3, 2);
        cluster.propose(&n(1), "a");
        cluster.written_all(&n(1));
        for nonvoter in [4, 5, 9] {
            cluster.tell(&n(nonvoter), &n(1), matched(2, 1, 3));
        }
        assert_eq!(cluster.core(&n(1)).commit_index(), LogIndex(2));
        cluster.tell(&n(3), &n(1), matched(2, 1, 3));
        assert_eq!(cluster.core(&n(1)).commit_index(), LogIndex(3));
    }

    /// etcd-io/raft: a leader that has removed itself does not count itself, and goes quiet.
    #[test]
    fn removed_leader_does_not_count_itself() {
        let mut cluster = led(4, 0);
        change(&mut cluster, &n(1), &remove(1)).expect("accepted");
        cluster.written_all(&n(1));
        cluster.tell(&n(2), &n(1), matched(2, 1, 3));
        // n1 and n2 would be two of four, and two of three, if n1 counted.
        assert_eq!(cluster.core(&n(1)).commit_index(), LogIndex(2));
        cluster.tell(&n(3), &n(1), matched(2, 1, 3));
        assert_eq!(cluster.core(&n(1)).commit_index(), LogIndex(3));
        assert_eq!(cluster.core(&n(1)).role(), Role::Follower);
        assert_eq!(cluster.core(&n(1)).next_timeout(), None);
    }

    /// The same for a leader that demotes itself.
    #[test]
    fn demoted_leader_does_not_count_itself() {
        let mut cluster = led(3, 0);
        let demotion = ConfigurationChange::DemoteVoter { id: n(1) };
        change(&mut cluster, &n(1), &demotion).expect("accepted");
        cluster.written_all(&n(1));
        cluster.tell(&n(2), &n(1), matched(2, 1, 3));
        assert_eq!(cluster.core(&n(1)).commit_index(), LogIndex(2));
        cluster.tell(&n(3), &n(1), matched(2, 1, 3));
        assert_eq!(cluster.core(&n(1)).commit_index(), LogIndex(3));
        assert_eq!(cluster.core(&n(1)).role(), Role::Follower);
        cluster.run(5 * ELECTION);
        assert_ne!(cluster.leaders(), [n(1)]);
        assert_eq!(cluster.core(&n(1)).commit_index(), LogIndex(4));
    }

    /// Two become one: the dead one is removed by the other's vote alone, when its disk has it.
    #[test]
    fn second_of_two_is_removed_without_it() {
        let mut cluster = led(2, 0);
        cluster.crash(&n(2));
        change(&mut cluster, &n(1), &remove(2)).expect("accepted");
        assert_eq!(cluster.core(&n(1)).commit_index(), LogIndex(2));
        cluster.written_all(&n(1));
        assert_eq!(cluster.core(&n(1)).commit_index(), LogIndex(3));
        cluster.run(5 * ELECTION);
        assert_eq!(cluster.leaders(), [n(1)]);
    }

    /// etcd-io/raft #83: a removed server keeps campaigning.
    #[test]
    fn removed_follower_goes_quiet() {
        let mut cluster = led(3, 0);
        change(&mut cluster, &n(1), &remove(3)).expect("accepted");
        cluster.stabilize();
        cluster.crash(&n(1));
        cluster.crash(&n(2));
        cluster.run(10 * ELECTION);
        assert_eq!(cluster.core(&n(3)).role(), Role::Follower);
        assert_eq!(cluster.core(&n(3)).term(), Term(2));
        assert!(cluster.pool.is_empty());
    }

    /// NuRaft #651: one gate for every kind of configuration change.
    #[test]
    fn no_change_of_any_kind_passes_another() {
        let mut cluster = led(3, 1);
        change(&mut cluster, &n(1), &remove(3)).expect("accepted");
        let demotion = ConfigurationChange::DemoteVoter { id: n(2) };
        let nonvoter = ConfigurationChange::AddNonvoter { id: n(7), address: "n7:1".into() };
        let refusal = Err(ChangeRefusal::ChangeInProgress { index: LogIndex(3) });
        for second in [add(7), nonvoter, demotion, remove(2), remove(4), add(4)] {
            assert_eq!(change(&mut cluster, &n(1), &second), refusal);
        }
        assert_eq!(cluster.core(&n(1)).last(), LogId::new(2, 3));
    }

    /// raft-rs #462, #465: an answer arrives after the peer was removed.
    #[test]
    fn answers_of_removed_servers_are_dropped() {
        let mut cluster = led(3, 0);
        change(&mut cluster, &n(1), &remove(3)).expect("accepted");
        cluster.stabilize();
        let before = cluster.status(&n(1));
        cluster.tell(&n(3), &n(1), matched(2, 1, 3));
        cluster.tell(&n(3), &n(1), heartbeat_reply(2, 1, 3, 3));
        cluster.tell(&n(3), &n(1), conflict(2, 1, 2, (1, 1)));
        assert_eq!(cluster.status(&n(1)), before);
    }

    /// openraft cecb5de8, #559, #561: answers of an earlier session of the same server, before it
    /// was removed and added again with an empty disk, advance nothing.
    #[test]
    fn answers_of_an_earlier_session_are_dropped() {
        let mut cluster = led(3, 0);
        let round = verify(&mut cluster, &n(1)).round;
        cluster.stabilize();
        change(&mut cluster, &n(1), &remove(3)).expect("accepted");
        cluster.stabilize();
        change(&mut cluster, &n(1), &add(3)).expect("accepted");
        cluster.tell(&n(3), &n(1), matched(2, round, 3));
        cluster.tell(&n(3), &n(1), heartbeat_reply(2, round, 3, 3));
        assert_eq!(match_index(&cluster, &n(1), &n(3)), 0);
        cluster.tell(&n(3), &n(1), matched(2, round + 2, 3));
        assert_eq!(match_index(&cluster, &n(1), &n(3)), 3);
    }

    /// braft and jraft: a voter that is added with nothing freezes the group. Here the way in is to
    /// be a nonvoter first; a voter is told from one that has caught up by its match index.
    #[test]
    fn nonvoter_catches_up_without_counting() {
        let mut cluster = led(2, 0);
        cluster.propose_many(&n(1), 5);
        cluster.stabilize();
        cluster.add(&n(3));
        let nonvoter = ConfigurationChange::AddNonvoter { id: n(3), address: "n3:1".into() };
        change(&mut cluster, &n(1), &nonvoter).expect("accepted");
        cluster.stabilize();
        let last = cluster.core(&n(1)).last().index;
        assert_eq!(match_index(&cluster, &n(1), &n(3)), last.0);
        assert_eq!(cluster.core(&n(1)).commit_index(), last);
    }
}

mod elections {
    use super::*;

    /// sofa-jraft #1245, nebula #3415: votes were asked for before the own vote was durable.
    #[test]
    fn votes_are_asked_for_when_the_own_is_durable() {
        let mut cluster = Cluster::with(3, 0, |rules| rules.pre_vote = false);
        cluster.campaign(&n(1));
        assert!(cluster.pool.is_empty());
        cluster.written_all(&n(1));
        assert_eq!(cluster.pool.len(), 2);
        assert_eq!(cluster.server(&n(1)).disk.hard_state.voted_for, Some(n(1)));
    }

    /// hashicorp/raft #661: the vote as two records. A crash in between paired the new term with
    /// the old vote, and the "duplicate" of that vote was granted without a log check.
    #[test]
    fn term_and_vote_are_one_record() {
        let mut cluster = follower(3, &[1, 3, 3]);
        cluster.tell(&n(2), &n(1), vote(4, (3, 3)));
        // Every prefix of its writes is a state it may wake up in.
        assert_eq!(cluster.server(&n(1)).pending.len(), 1);
        let write = cluster.server(&n(1)).pending[0].clone();
        let vote_of_2 = HardState { current_term: Term(4), voted_for: Some(n(2)) };
        assert_eq!(write.hard_state, Some(vote_of_2));
        cluster.crash(&n(1));
        cluster.restart(&n(1));
        assert_eq!(cluster.core(&n(1)).term(), Term(3));
        assert_eq!(cluster.core(&n(1)).hard_state().voted_for, None);
    }

    /// The same report: a repeated request is granted again, but its log is checked again.
    #[test]
    fn repeated_votes_are_checked_again() {
        let mut cluster = follower(3, &[1, 3, 3]);
        cluster.tell(&n(2), &n(1), vote(4, (3, 3)));
        cluster.tell(&n(2), &n(1), vote(4, (3, 3)));
        cluster.tell(&n(2), &n(1), vote(4, (1, 1)));
        cluster.written_all(&n(1));
        let answers = cluster.take_messages(&n(1), &n(2));
        assert_eq!(answers, [true, true, false].map(|granted| vote_reply(4, 4, granted)));
    }

    /// CCF #8094: the vote was forgotten when a candidate stepped down within its term.
    #[test]
    fn the_vote_is_kept_for_the_whole_term() {
        let mut cluster = Cluster::with(3, 0, |rules| rules.pre_vote = false);
        cluster.campaign(&n(1));
        cluster.tell(&n(2), &n(1), heartbeat(2, 1, 0));
        assert_eq!(cluster.core(&n(1)).role(), Role::Follower);
        cluster.written_all(&n(1));
        cluster.pool.clear();
        cluster.tell(&n(3), &n(1), vote(2, (1, 1)));
        assert_eq!(cluster.take_messages(&n(1), &n(3)), [vote_reply(2, 2, false)]);
        assert_eq!(cluster.core(&n(1)).hard_state().voted_for, Some(n(1)));
        // A leader that steps down for want of a majority keeps it too.
        let mut cluster = led(3, 0);
        cluster.partition(&[n(1)]);
        cluster.advance(ELECTION, Some(&n(1)));
        assert_eq!(cluster.core(&n(1)).role(), Role::Follower);
        assert_eq!(cluster.core(&n(1)).hard_state().voted_for, Some(n(1)));
    }

    /// hashicorp/raft: votes were remembered by address, so that two ids at one address both got
    /// one. Here a vote belongs to an id.
    #[test]
    fn votes_belong_to_ids() {
        let twins = Configuration::new([
            Member::voter("n1", "a:1"),
            Member::voter("n2", "b:1"),
            Member::voter("n3", "b:1"),
        ]);
        let mut cluster = Cluster::new(3);
        cluster.set_disk(&n(1), 1, None, log_of(&twins, &[1]));
        cluster.tell(&n(2), &n(1), vote(2, (1, 1)));
        cluster.tell(&n(3), &n(1), vote(2, (1, 1)));
        cluster.written_all(&n(1));
        assert_eq!(cluster.take_messages(&n(1), &n(2)), [vote_reply(2, 2, true)]);
        assert_eq!(cluster.take_messages(&n(1), &n(3)), [vote_reply(2, 2, false)]);
    }

    /// NuRaft, ClickHouse pull request 121252: a pre-vote without log check leads to endless
    /// elections that cannot be won.
    #[test]
    fn pre_vote_and_vote_check_the_log_alike() {
        for last in [(0, 0), (1, 1), (1, 2), (1, 9), (2, 1), (2, 2), (2, 3), (3, 1)] {
            let grants = |request: fn(u64, (u64, u64)) -> Message| {
                let mut cluster = follower(3, &[1, 2]);
                cluster.tell(&n(2), &n(1), request(4, last));
                cluster.written_all(&n(1));
                let answers = cluster.take_messages(&n(1), &n(2));
                assert_eq!(answers.len(), 1);
                matches!(&answers[0], Message::RequestVoteReply(reply) if reply.is_granted)
            };
            let is_up_to_date = (2, 2) <= last;
            assert_eq!((grants(pre_vote), grants(vote)), (is_up_to_date, is_up_to_date));
        }
    }

    /// openraft #1796: the higher term in a refusal of a pre-vote is adopted.
    #[test]
    fn pre_vote_refusal_teaches_the_term() {
        let mut cluster = Cluster::new(3);
        cluster.campaign(&n(1));
        cluster.tell(&n(2), &n(1), pre_vote_reply(7, 2, false));
        assert_eq!(cluster.core(&n(1)).term(), Term(7));
        assert_eq!(cluster.core(&n(1)).role(), Role::Follower);
    }

    /// openraft 511f33c7: answers that come late do not start, or win, another campaign.
    #[test]
    fn late_pre_vote_answers_count_for_nothing() {
        let mut cluster = Cluster::new(5);
        cluster.campaign(&n(1));
        cluster.tell(&n(2), &n(1), pre_vote_reply(1, 2, true));
        cluster.tell(&n(3), &n(1), pre_vote_reply(1, 2, true));
        assert_eq!(cluster.core(&n(1)).role(), Role::Candidate);
        cluster.written_all(&n(1));
        // Promises are not votes.
        cluster.tell(&n(4), &n(1), pre_vote_reply(1, 2, true));
        cluster.tell(&n(5), &n(1), pre_vote_reply(1, 2, true));
        assert_eq!(cluster.core(&n(1)).role(), Role::Candidate);
        assert_eq!(cluster.core(&n(1)).term(), Term(2));
        // And those of the last campaign are not of the next.
        cluster.campaign(&n(1));
        cluster.tell(&n(4), &n(1), pre_vote_reply(1, 2, true));
        cluster.tell(&n(5), &n(1), pre_vote_reply(1, 2, true));
        assert_eq!(cluster.core(&n(1)).role(), Role::PreCandidate);
    }

    /// openraft, the same change: silence and refusals are not grants, and one server counts once.
    #[test]
    fn only_explicit_grants_count_and_each_once() {
        let mut cluster = Cluster::with(5, 0, |rules| rules.pre_vote = false);
        cluster.campaign(&n(1));
        cluster.written_all(&n(1));
        for _ in 0..3 {
            cluster.tell(&n(2), &n(1), vote_reply(2, 2, true));
            cluster.tell(&n(3), &n(1), vote_reply(2, 2, false));
            cluster.tell(&n(4), &n(1), vote_reply(1, 2, false));
            cluster.tell(&n(9), &n(1), vote_reply(2, 2, true));
            cluster.act(&n(1), |core, now| core.handle_unreachable(now, &n(5)));
        }
        assert_eq!(cluster.core(&n(1)).role(), Role::Candidate);
        cluster.tell(&n(5), &n(1), vote_reply(2, 2, true));
        assert_eq!(cluster.core(&n(1)).role(), Role::Leader);
    }

    /// raft-rs #42, #83, #84: servers with and without pre-vote in one cluster get stuck.
    #[test]
    fn pre_vote_may_be_switched_on_one_by_one() {
        let mut cluster = Cluster::with(3, 0, |rules| rules.pre_vote = rules.id == n(1));
        for leader in [n(1), n(2), n(3), n(1)] {
            cluster.elect(&leader);
            assert_eq!(cluster.leaders().last(), Some(&leader));
            cluster.run(2 * HEARTBEAT);
            assert_eq!(cluster.leaders(), [leader]);
        }
    }

    /// hashicorp/raft #605, #606: the pre-vote of the follower's own leader was refused, so that
    /// two servers of three could not elect.
    #[test]
    fn a_follower_does_not_insist_against_its_own_leader() {
        let mut cluster = led(3, 0);
        let last = (2, 2);
        cluster.tell(&n(1), &n(2), pre_vote(3, last));
        assert_eq!(cluster.take_messages(&n(2), &n(1)), [pre_vote_reply(2, 3, true)]);
        cluster.tell(&n(3), &n(2), pre_vote(3, last));
        assert_eq!(cluster.take_messages(&n(2), &n(3)), [pre_vote_reply(2, 3, false)]);
    }

    /// hashicorp/raft #609: granting a pre-vote counted as contact, and could block elections.
    #[test]
    fn granting_a_pre_vote_changes_nothing() {
        let mut cluster = follower(1, &[1]);
        let before = (cluster.core(&n(1)).next_timeout(), cluster.status(&n(1)));
        cluster.advance(Duration::from_millis(500), Some(&n(1)));
        cluster.tell(&n(2), &n(1), pre_vote(2, (1, 1)));
        assert_eq!(cluster.take_messages(&n(1), &n(2)), [pre_vote_reply(1, 2, true)]);
        assert_eq!((cluster.core(&n(1)).next_timeout(), cluster.status(&n(1))), before);
        let now = cluster.server(&n(1)).now;
        assert_eq!(cluster.core(&n(1)).last_contact(now), None);
    }

    /// NuRaft #531: two leaders of one term were seen and ignored.
    #[test]
    #[should_panic(expected = "law 1")]
    fn a_second_leader_of_the_term_ends_the_node() {
        let mut cluster = follower(2, &[1]);
        cluster.tell(&n(2), &n(1), heartbeat(2, 1, 0));
        cluster.tell(&n(3), &n(1), heartbeat(2, 1, 0));
    }

    /// The same, on the leader itself.
    #[test]
    #[should_panic(expected = "law 1")]
    fn another_leader_of_the_own_term_ends_the_leader() {
        let mut cluster = led(3, 0);
        cluster.tell(&n(2), &n(1), append(2, (2, 2), &[], 0));
    }

    /// openraft 5e15946d, hashicorp U26: deadlines are one to two timeouts from the last contact,
    /// with fresh randomness each time, so that servers do not drift into step.
    #[test]
    fn election_deadlines_are_drawn_afresh() {
        let mut cluster = follower(2, &[1]);
        let mut seen = BTreeSet::new();
        for round in 1..=200 {
            cluster.advance(Duration::from_millis(10), Some(&n(1)));
            cluster.tell(&n(2), &n(1), heartbeat(2, round, 0));
            let now = cluster.server(&n(1)).now;
            let wait = cluster.core(&n(1)).next_timeout().expect("a deadline").since(now);
            assert!((ELECTION..2 * ELECTION).contains(&wait), "{wait:?}");
            seen.insert(wait);
        }
        assert!(190 < seen.len(), "only {} different deadlines", seen.len());
    }

    /// openraft #1511: leadership does not survive a restart.
    #[test]
    fn a_restarted_leader_follows() {
        let mut cluster = led(3, 0);
        cluster.crash(&n(1));
        cluster.restart(&n(1));
        assert_eq!(cluster.core(&n(1)).role(), Role::Follower);
        assert_eq!(cluster.core(&n(1)).leader(), None);
        assert_eq!(cluster.core(&n(1)).hard_state().voted_for, Some(n(1)));
    }

    /// hashicorp/raft #695: a heartbeat of a newer term arrives while a candidate is becoming
    /// leader. The votes of the old term then count for nothing, and nothing is written for it.
    #[test]
    fn a_newer_heartbeat_ends_the_candidacy_for_good() {
        let mut cluster = Cluster::with(3, 0, |rules| rules.pre_vote = false);
        cluster.campaign(&n(1));
        cluster.written_all(&n(1));
        cluster.tell(&n(2), &n(1), heartbeat(3, 1, 0));
        cluster.tell(&n(3), &n(1), vote_reply(2, 2, true));
        cluster.written_all(&n(1));
        assert_eq!(cluster.core(&n(1)).role(), Role::Follower);
        assert_eq!(cluster.core(&n(1)).term(), Term(3));
        assert_eq!(cluster.terms(&n(1)), [1]);
    }

    /// etcd-io/raft has four such tests: the own vote becomes durable after the election was lost,
    /// or after the term has changed.
    #[test]
    fn the_own_vote_counts_only_in_its_campaign() {
        let mut cluster = Cluster::with(1, 0, |rules| rules.pre_vote = false);
        cluster.campaign(&n(1));
        cluster.tell(&n(2), &n(1), heartbeat(2, 1, 0));
        cluster.written_all(&n(1));
        assert_eq!(cluster.core(&n(1)).role(), Role::Follower);
        let mut cluster = Cluster::with(1, 0, |rules| rules.pre_vote = false);
        cluster.campaign(&n(1));
        cluster.campaign(&n(1));
        assert_eq!(cluster.core(&n(1)).term(), Term(3));
        cluster.written(&n(1));
        assert_eq!(cluster.core(&n(1)).role(), Role::Candidate);
        cluster.written(&n(1));
        assert_eq!(cluster.core(&n(1)).role(), Role::Leader);
    }

    /// sofa-jraft #969, hashicorp #503: heartbeats wait for no disk, and a stuck disk ends the
    /// leadership instead of letting it go on for ever.
    #[test]
    fn a_stuck_disk_holds_no_heartbeat_up_and_ends_the_leadership() {
        let mut cluster = led(3, 0);
        let stall = Duration::from_secs(3);
        cluster.server_mut(&n(1)).is_stalled = true;
        cluster.propose(&n(1), "a");
        cluster.run(stall - HEARTBEAT);
        assert_eq!(cluster.core(&n(1)).role(), Role::Leader);
        let contact = cluster.core(&n(2)).last_contact(cluster.server(&n(2)).now);
        assert!(contact.is_some_and(|contact| contact <= HEARTBEAT));
        cluster.run(2 * HEARTBEAT);
        assert_eq!(cluster.core(&n(1)).role(), Role::Follower);
        cluster.partition(&[n(1)]);
        cluster.run(10 * ELECTION);
        assert_eq!(cluster.core(&n(1)).role(), Role::Follower);
        cluster.tell(&n(2), &n(1), timeout_now(cluster.core(&n(1)).term().0));
        assert_eq!(cluster.core(&n(1)).role(), Role::Follower);
    }
}

mod reads_and_leases {
    use super::*;

    /// etcd #7331: a read was answered before the first commit of the term.
    #[test]
    fn the_read_index_is_at_least_the_first_entry_of_the_term() {
        let mut cluster = Cluster::new(3);
        cluster.win(&n(1));
        assert_eq!(cluster.core(&n(1)).commit_index(), LogIndex(0));
        assert_eq!(verify(&mut cluster, &n(1)).read_index, LogIndex(2));
    }

    /// etcd #20418, hashicorp/raft: a read was confirmed by answers to an earlier round.
    #[test]
    fn verification_needs_answers_to_its_own_round() {
        let mut cluster = led(3, 0);
        let earlier = verify(&mut cluster, &n(1)).round;
        let asked = verify(&mut cluster, &n(1)).round;
        assert!(earlier < asked);
        cluster.tell(&n(2), &n(1), heartbeat_reply(2, earlier, 2, 2));
        cluster.tell(&n(3), &n(1), heartbeat_reply(2, earlier, 2, 2));
        assert!(!has_happened(&mut cluster, &format!("n1 verified round={asked}")));
        cluster.tell(&n(2), &n(1), heartbeat_reply(2, asked, 2, 2));
        assert!(has_happened(&mut cluster, &format!("n1 verified round={asked}")));
    }

    /// Found here: the only voter never confirmed itself, since the round was already over when it
    /// was noted that somebody waits for it.
    #[test]
    fn verification_of_a_single_voter_is_confirmed_at_once() {
        let mut cluster = led(1, 1);
        let asked = verify(&mut cluster, &n(1)).round;
        assert!(has_happened(&mut cluster, &format!("n1 verified round={asked}")));
    }

    /// hashicorp/raft: verification counted nonvoters.
    #[test]
    fn verification_and_lease_count_voters_only() {
        let mut cluster = led(3, 2);
        let asked = verify(&mut cluster, &n(1)).round;
        for nonvoter in [4, 5] {
            cluster.tell(&n(nonvoter), &n(1), heartbeat_reply(2, asked, 2, 2));
        }
        assert!(!has_happened(&mut cluster, &format!("n1 verified round={asked}")));
        cluster.crash(&n(2));
        cluster.crash(&n(3));
        cluster.run(Duration::from_millis(600));
        assert_eq!(cluster.core(&n(1)).role(), Role::Follower);
    }

    /// hashicorp/raft: refusing answers counted as contact. Here the refusal of a message of an
    /// earlier term arrives in the next one, where round numbers begin again.
    #[test]
    fn refusals_of_an_earlier_term_confirm_nothing() {
        let mut cluster = led(3, 0);
        let asked = verify(&mut cluster, &n(1)).round;
        cluster.tell(&n(2), &n(1), stale_term(2, asked));
        cluster.tell(&n(3), &n(1), stale_term(2, asked));
        assert!(!has_happened(&mut cluster, &format!("n1 verified round={asked}")));
        // Nor do they renew the lease.
        for _ in 0..7 {
            cluster.advance(HEARTBEAT, Some(&n(1)));
            for round in asked..asked + 10 {
                cluster.tell(&n(2), &n(1), stale_term(2, round));
            }
        }
        assert_eq!(cluster.core(&n(1)).role(), Role::Follower);
    }

    /// The model's lease again: a positive answer of another term, or to a round that never was,
    /// renews nothing either.
    #[test]
    fn answers_of_other_terms_and_rounds_confirm_nothing() {
        let mut cluster = led(3, 0);
        let asked = verify(&mut cluster, &n(1)).round;
        cluster.tell(&n(2), &n(1), heartbeat_reply(1, asked, 2, 2));
        cluster.tell(&n(3), &n(1), heartbeat_reply(2, asked + 1, 2, 2));
        assert!(!has_happened(&mut cluster, &format!("n1 verified round={asked}")));
        cluster.tell(&n(2), &n(1), stale_term(3, asked));
        assert_eq!(cluster.core(&n(1)).role(), Role::Follower);
    }

    /// The lease counts from when the answered message was *sent*: an answer that took long renews
    /// it only so far.
    #[test]
    fn the_lease_counts_from_send_time() {
        let mut cluster = led(3, 0);
        let asked = verify(&mut cluster, &n(1)).round;
        cluster.pool.clear();
        cluster.advance(Duration::from_millis(450), Some(&n(1)));
        assert_eq!(cluster.core(&n(1)).role(), Role::Leader);
        cluster.tell(&n(2), &n(1), heartbeat_reply(2, asked, 2, 2));
        cluster.advance(Duration::from_millis(50), Some(&n(1)));
        assert_eq!(cluster.core(&n(1)).role(), Role::Follower);
    }

    /// Found here: with more verifications under way than rounds were remembered, no answer renewed
    /// the lease, and a leader that everybody answered stepped down.
    #[test]
    fn many_verifications_under_way_do_not_cost_the_lease() {
        let mut cluster = led(3, 0);
        cluster.advance(Duration::from_millis(400), Some(&n(1)));
        let asked = verify(&mut cluster, &n(1)).round;
        for _ in 0..5000 {
            verify(&mut cluster, &n(1));
            cluster.pool.clear();
        }
        cluster.tell(&n(2), &n(1), heartbeat_reply(2, asked, 2, 2));
        cluster.advance(Duration::from_millis(450), Some(&n(1)));
        assert_eq!(cluster.core(&n(1)).role(), Role::Leader);
        cluster.advance(Duration::from_millis(100), Some(&n(1)));
        assert_eq!(cluster.core(&n(1)).role(), Role::Follower);
    }

    /// Found here: while a new term waited for a stuck disk, the answer to every heartbeat was kept.
    #[test]
    fn a_stuck_disk_keeps_one_sign_of_life() {
        let mut cluster = Cluster::new(3);
        cluster.server_mut(&n(2)).is_stalled = true;
        for round in 1..=50 {
            cluster.tell(&n(1), &n(2), heartbeat(2, round, 0));
        }
        cluster.pool.clear();
        cluster.server_mut(&n(2)).is_stalled = false;
        cluster.written_all(&n(2));
        assert_eq!(cluster.take_messages(&n(2), &n(1)), [heartbeat_reply(2, 50, 0, 0)]);
    }

    /// etcd #741, Redis-Raft 2020: a leader that was deposed without noticing confirms no read.
    #[test]
    fn a_stale_leader_confirms_no_read() {
        let mut cluster = led(3, 0);
        cluster.partition(&[n(1)]);
        cluster.elect(&n(2));
        cluster.propose(&n(2), "a");
        cluster.stabilize();
        let asked = verify(&mut cluster, &n(1));
        cluster.heal();
        cluster.stabilize();
        let trace = cluster.take_trace();
        assert!(!trace.contains(&format!("n1 verified round={}", asked.round)));
        assert!(trace.contains(&"n1 stepped down".to_owned()));
    }
}

mod transfers {
    use super::*;

    fn transfer(cluster: &mut Cluster, to: usize) -> Result<(), TransferRefusal> {
        cluster.act(&n(1), |core, now| core.transfer_leadership(now, Some(&n(to))))
    }

    /// hashicorp/raft #696: a transfer that was blocked on catch-up survived the step-down; the
    /// server later led and refused every write.
    #[test]
    fn a_transfer_does_not_block_a_later_leadership() {
        let mut cluster = led(3, 0);
        cluster.partition(&[n(2)]);
        cluster.propose(&n(1), "a");
        transfer(&mut cluster, 2).expect("accepted");
        // A newer term ends the leadership, and n1 is elected again before the transfer's deadline.
        cluster.tell(&n(3), &n(1), heartbeat_reply(3, 1, 0, 0));
        cluster.tell(&n(3), &n(1), heartbeat(3, 1, 0));
        let lost = "n1 transfer failed: LeadershipLost { leader: Some(Leader { id: \"n3\", \
                    address: Some(\"n3:1\"), term: Term(3) }) }";
        assert!(has_happened(&mut cluster, lost));
        cluster.tell(&n(3), &n(1), timeout_now(3));
        cluster.written_all(&n(1));
        cluster.tell(&n(3), &n(1), vote_reply(4, 4, true));
        assert_eq!(cluster.core(&n(1)).role(), Role::Leader);
        cluster.propose(&n(1), "b");
        transfer(&mut cluster, 3).expect("accepted");
    }

    /// The same, when nothing is heard of another leader before the server leads again.
    #[test]
    fn leading_again_settles_the_transfer() {
        let mut cluster = led(3, 0);
        transfer(&mut cluster, 2).expect("accepted");
        cluster.tell(&n(3), &n(1), vote_reply(5, 5, false));
        assert_eq!(cluster.core(&n(1)).role(), Role::Follower);
        cluster.tell(&n(3), &n(1), heartbeat(5, 1, 0));
        cluster.tell(&n(3), &n(1), timeout_now(5));
        cluster.written_all(&n(1));
        cluster.tell(&n(3), &n(1), vote_reply(6, 6, true));
        assert_eq!(cluster.core(&n(1)).role(), Role::Leader);
        let trace = cluster.take_trace();
        let ends = trace.iter().filter(|line| line.starts_with("n1 transfer")).count();
        assert_eq!(ends, 1, "{trace:?}");
        cluster.propose(&n(1), "b");
    }

    /// hashicorp/raft: TimeoutNow was obeyed from anybody and at any time.
    #[test]
    fn timeout_now_is_obeyed_from_the_current_leader_only() {
        let mut cluster = led(3, 1);
        let ignored = [(3, 2, 2), (1, 2, 1), (4, 2, 2), (1, 4, 2), (2, 1, 2), (1, 2, 0)];
        for (from, to, term) in ignored {
            cluster.tell(&n(from), &n(to), timeout_now(term));
        }
        assert_eq!(cluster.leaders(), [n(1)]);
        for id in [n(2), n(3), n(4)] {
            assert_eq!(cluster.core(&id).role(), Role::Follower);
            assert_eq!(cluster.core(&id).term(), Term(2));
        }
        cluster.tell(&n(1), &n(2), timeout_now(2));
        assert_eq!(cluster.core(&n(2)).role(), Role::Candidate);
    }

    /// hashicorp/raft #398: a nonvoter as target, chosen or by itself, costs an election.
    #[test]
    fn nonvoters_are_no_targets() {
        let mut cluster = led(2, 1);
        assert!(matches!(transfer(&mut cluster, 3), Err(TransferRefusal::InvalidTarget { .. })));
        // The nonvoter has more than the voter; the voter is chosen.
        cluster.crash(&n(2));
        cluster.propose(&n(1), "a");
        cluster.stabilize();
        cluster.act(&n(1), |core, now| core.transfer_leadership(now, None)).expect("accepted");
        cluster.run(HEARTBEAT);
        assert!(!cluster.take_trace().iter().any(|line| line.contains("TimeoutNow")));
    }

    /// Three voters that are equally far, n1 leads; and a heartbeat is answered by all.
    fn equal() -> Cluster {
        let mut cluster = led(3, 0);
        cluster.run(3 * ELECTION);
        cluster
    }

    /// Whom n1 hands over to.
    fn target(cluster: &mut Cluster) -> ServerId {
        cluster.act(&n(1), |core, now| core.transfer_leadership(now, None)).expect("accepted");
        let told = |packet: &&Packet| matches!(packet.message, Message::TimeoutNow(_));
        cluster.pool.iter().find(told).expect("it has everything").to.clone()
    }

    /// Our own: a follower was killed, the leader was told to stop a moment later, and ties went to the
    /// lowest id.
    #[test]
    fn who_cannot_be_reached_is_the_last_to_be_handed_leadership() {
        for (dead, other) in [(2, 3), (3, 2)] {
            // The transport does not take a heartbeat, or entries.
            let mut cluster = equal();
            cluster.act(&n(1), |core, _| core.handle_heartbeat_failed(&n(dead)));
            assert_eq!(target(&mut cluster), n(other));
            let mut cluster = equal();
            cluster.act(&n(1), |core, now| core.handle_unreachable(now, &n(dead)));
            assert_eq!(target(&mut cluster), n(other));
            // It says nothing when others answer.
            let mut cluster = equal();
            cluster.partition(&[n(dead)]);
            cluster.run(2 * HEARTBEAT);
            assert_eq!(target(&mut cluster), n(other));
            // Until it answers again.
            let mut cluster = equal();
            cluster.act(&n(1), |core, _| core.handle_heartbeat_failed(&n(dead)));
            cluster.run(2 * HEARTBEAT);
            cluster.act(&n(1), |core, _| core.handle_heartbeat_failed(&n(other)));
            assert_eq!(target(&mut cluster), n(dead));
            // Better than nobody.
            cluster = equal();
            cluster.act(&n(1), |core, _| core.handle_heartbeat_failed(&n(2)));
            cluster.act(&n(1), |core, _| core.handle_heartbeat_failed(&n(3)));
            assert_eq!(target(&mut cluster), n(2));
        }
    }

    #[test]
    fn among_equals_the_nearest_is_handed_leadership() {
        for (near, far) in [(2, 3), (3, 2)] {
            let mut cluster = equal();
            let between = |from, to| Filter { from: Some(n(from)), to: Some(n(to)), kind: None };
            cluster.advance(HEARTBEAT, None);
            for it in [near, far] {
                cluster.deliver(&between(1, it), 9);
                cluster.deliver(&between(it, 1), 9);
                cluster.advance(Duration::from_millis(20), None);
            }
            assert_eq!(target(&mut cluster), n(near));
        }
    }

    /// openraft #1805: the target was demoted meanwhile.
    #[test]
    fn a_demoted_target_does_not_campaign() {
        let mut cluster = led(3, 0);
        let demotion = ConfigurationChange::DemoteVoter { id: n(2) };
        change(&mut cluster, &n(1), &demotion).expect("accepted");
        cluster.stabilize();
        cluster.tell(&n(1), &n(2), timeout_now(2));
        assert_eq!(cluster.core(&n(2)).role(), Role::Follower);
        assert!(matches!(transfer(&mut cluster, 2), Err(TransferRefusal::InvalidTarget { .. })));
    }

    /// openraft d000ee20: a target that lags gets nothing to obey until it has everything; a
    /// transfer has a time limit.
    #[test]
    fn a_lagging_target_is_told_when_it_has_everything() {
        let mut cluster = led(3, 0);
        cluster.propose(&n(1), "a");
        cluster.pool.clear();
        transfer(&mut cluster, 2).expect("accepted");
        assert!(cluster.take_messages(&n(1), &n(2)).is_empty());
        cluster.tell(&n(3), &n(1), matched(2, 1, 3));
        assert!(cluster.take_messages(&n(1), &n(2)).is_empty());
        cluster.tell(&n(2), &n(1), matched(2, 1, 3));
        assert!(cluster.take_messages(&n(1), &n(2)).contains(&timeout_now(2)));
        let limit = cluster.core(&n(1)).next_timeout().expect("a deadline");
        assert!(limit <= cluster.server(&n(1)).now + ELECTION);
    }

    /// hashicorp/raft #487, #493: writes slipped in while leadership was handed over.
    #[test]
    fn nothing_is_accepted_while_leadership_is_handed_over() {
        let mut cluster = led(3, 0);
        transfer(&mut cluster, 2).expect("accepted");
        let propose = cluster.act(&n(1), |core, now| core.propose(now, vec![command("a")]));
        let refusal = ProposeRefusal::TransferInProgress;
        assert_eq!(propose, Err(refusal.clone()));
        let change = change(&mut cluster, &n(1), &remove(3));
        assert_eq!(change, Err(refusal.clone().into()));
        assert_eq!(transfer(&mut cluster, 3), Err(refusal.into()));
        assert_eq!(cluster.core(&n(1)).last(), LogId::new(2, 2));
    }

    /// hashicorp/raft: success meant that the message was sent. Here it means that the target
    /// leads.
    #[test]
    fn a_transfer_succeeds_when_the_target_leads() {
        let mut cluster = led(3, 0);
        transfer(&mut cluster, 2).expect("accepted");
        assert!(!has_happened(&mut cluster, "n1 transfer done"));
        cluster.stabilize();
        assert!(has_happened(&mut cluster, "n1 transfer done"));
        assert_eq!(cluster.leaders(), [n(2)]);
        let failure = TransferFailure::TimedOut;
        assert_ne!(format!("n1 {}", Action::TransferDone(Err(failure))), "n1 transfer done");
    }

    /// Thesis §4.2.3, and the model's two followers: a campaign that the leader asked for is not
    /// held up by those who hear from it.
    #[test]
    fn transfer_votes_pass_the_loyalty_to_the_leader() {
        let mut cluster = led(3, 0);
        cluster.tell(&n(3), &n(2), vote(3, (2, 2)));
        assert_eq!(cluster.take_messages(&n(2), &n(3)), [vote_reply(2, 3, false)]);
        cluster.tell(&n(3), &n(2), transfer_vote(3, (2, 2)));
        cluster.written_all(&n(2));
        assert_eq!(cluster.take_messages(&n(2), &n(3)), [vote_reply(3, 3, true)]);
    }
}

mod replication {
    use super::*;

    /// hashicorp/raft pull request #113, akka-entity-replication #151: a duplicate or reordered
    /// append cut off entries that had been acknowledged.
    #[test]
    fn duplicates_truncate_nothing() {
        let mut cluster = follower(2, &[1, 2, 2, 2]);
        let before = cluster.terms(&n(1));
        for (prev, terms) in [((1, 1), &[2][..]), ((1, 1), &[]), ((2, 2), &[2]), ((0, 0), &[1])] {
            cluster.tell(&n(2), &n(1), append(2, prev, terms, 0));
            assert_eq!(cluster.terms(&n(1)), before);
            assert!(cluster.server(&n(1)).pending.is_empty(), "nothing is written");
        }
    }

    /// mofa #1150: the conflicting entry was replaced in place, and a stale tail kept.
    #[test]
    fn a_conflict_cuts_everything_after_it() {
        let mut cluster = follower(3, &[1, 2, 2, 2]);
        cluster.tell(&n(2), &n(1), append(3, (1, 1), &[3], 0));
        assert_eq!(cluster.terms(&n(1)), [1, 3]);
        cluster.written_all(&n(1));
        assert_eq!(cluster.server(&n(1)).disk.log.len(), 2);
    }

    /// atomix/copycat #265: the leader's commit index was taken for a tail that the message had
    /// not vouched for.
    #[test]
    fn commit_goes_no_further_than_the_message_vouches() {
        let mut cluster = follower(3, &[1, 2, 2, 2]);
        cluster.tell(&n(2), &n(1), append(3, (1, 1), &[], 4));
        assert_eq!(cluster.core(&n(1)).commit_index(), LogIndex(1));
        cluster.tell(&n(2), &n(1), append(3, (1, 1), &[2], 4));
        assert_eq!(cluster.core(&n(1)).commit_index(), LogIndex(2));
    }

    /// CCF #5325: a hint was taken for a match, and an entry committed without a majority.
    #[test]
    fn a_hint_is_no_match() {
        let mut cluster = Cluster::new(3);
        cluster.set_disk(&n(1), 2, None, log_of(&configuration(3, 0), &[1, 2, 2]));
        cluster.win(&n(1));
        for hint in [(2, 3), (2, 2), (1, 1)] {
            cluster.tell(&n(2), &n(1), conflict(3, 1, 3, hint));
            assert_eq!(match_index(&cluster, &n(1), &n(2)), 0);
        }
        // The leader's disk is one; with a "match" of n2 its entry would be committed.
        cluster.written_all(&n(1));
        assert_eq!(cluster.core(&n(1)).commit_index(), LogIndex(0));
    }

    /// openraft #1795: a read error looked like the end of the log, and the next message had no
    /// predecessor.
    #[test]
    #[should_panic(expected = "law 3")]
    fn entries_follow_their_predecessor() {
        let mut cluster = follower(2, &[1, 2, 2]);
        cluster.tell(&n(2), &n(1), append_entries(2, (1, 1), vec![entry(2, 4)], 0));
    }

    /// NuRaft #185: committed entries were rolled back. A leader that has something else where an
    /// entry is committed ends the node, and the log stays.
    #[test]
    fn a_conflict_with_a_committed_entry_ends_the_node() {
        for (request, entry, committed) in [
            (append(3, (1, 1), &[3], 3), "2@3", "2@2"),
            (append(3, (1, 1), &[2, 3], 3), "3@3", "3@2"),
            (append(3, (1, 2), &[3], 3), "2@1", "2@2"),
            (append(3, (1, 3), &[], 3), "3@1", "3@2"),
        ] {
            let mut cluster = follower(3, &[1, 2, 2]);
            cluster.tell(&n(2), &n(1), append(3, (2, 3), &[], 3));
            assert_eq!(cluster.core(&n(1)).commit_index(), LogIndex(3));
            cluster.pool.clear();
            cluster.take_trace();
            cluster.tell(&n(2), &n(1), request);
            let said = format!("n1 lost by a majority: n2 has {entry}, committed is {committed}");
            assert!(cluster.take_trace().contains(&said), "{said}");
            assert!(cluster.pool.is_empty(), "the leader is answered: {:?}", cluster.pool);
            let kept: Vec<LogId> =
                cluster.server(&n(1)).disk.log.iter().map(|entry| entry.id()).collect();
            assert_eq!(kept, [(1, 1), (2, 2), (2, 3)].map(|(term, at)| LogId::new(term, at)));
        }
    }

    /// CCF #5674: a leader that became a follower forgot what was committed.
    #[test]
    fn the_commit_index_survives_a_step_down() {
        let mut cluster = led(3, 0);
        assert_eq!(cluster.core(&n(1)).commit_index(), LogIndex(2));
        cluster.tell(&n(2), &n(1), heartbeat(5, 1, 0));
        assert_eq!(cluster.core(&n(1)).commit_index(), LogIndex(2));
        cluster.tell(&n(2), &n(1), append(5, (1, 1), &[2], 1));
        assert_eq!(cluster.core(&n(1)).commit_index(), LogIndex(2));
    }

    /// etcd #14370, #10508: a group of one committed before its disk had the entry.
    #[test]
    fn a_single_server_commits_when_its_disk_has_it() {
        let mut cluster = led(1, 0);
        let index = cluster.propose(&n(1), "a");
        assert!(cluster.core(&n(1)).commit_index() < index);
        assert!(cluster.server(&n(1)).applied < index);
        cluster.written_all(&n(1));
        assert_eq!(cluster.core(&n(1)).commit_index(), index);
        assert_eq!(cluster.server(&n(1)).applied, index);
    }

    /// openraft #1960: completions that come out of order, twice or together lose nothing and add
    /// nothing.
    #[test]
    fn completions_may_be_repeated_and_skipped() {
        let mut cluster = led(1, 0);
        cluster.propose_many(&n(1), 3);
        let server = cluster.server_mut(&n(1));
        let ids: Vec<WriteId> = server.pending.iter().map(|write| write.id).collect();
        for write in std::mem::take(&mut server.pending) {
            server.disk.log.extend(write.entries.iter().cloned());
        }
        let written = |cluster: &mut Cluster, id| {
            cluster.act(&n(1), |core, now| core.handle_written(now, id));
            cluster.core(&n(1)).stable_index().0
        };
        assert_eq!(written(&mut cluster, ids[1]), 4);
        assert_eq!(written(&mut cluster, ids[0]), 4);
        assert_eq!(written(&mut cluster, ids[1]), 4);
        assert_eq!(written(&mut cluster, ids[2]), 5);
    }

    /// A completion of a write that was never asked for is a fault of the driver.
    #[test]
    #[should_panic(expected = "never issued")]
    fn a_completion_from_nowhere_ends_the_node() {
        let mut cluster = led(1, 0);
        cluster.act(&n(1), |core, now| core.handle_written(now, WriteId(99)));
    }

    /// etcd #10166, TiKV #7353: a server that has lost durable data went on. The leader knows what
    /// it had; the first heartbeat shows the loss, and it counts for no commit any more.
    #[test]
    fn lost_data_is_detected_at_first_contact() {
        let mut cluster = led(3, 0);
        let log = log_of(&configuration(3, 0), &[1]);
        cluster.set_disk(&n(2), 2, None, log);
        cluster.run(2 * HEARTBEAT);
        let lost = "n1 observe PeerLostEntries { peer: \"n2\" }";
        let trace = cluster.take_trace();
        assert_eq!(trace.iter().filter(|line| *line == lost).count(), 1, "{trace:#?}");
        cluster.crash(&n(3));
        let index = cluster.propose(&n(1), "x");
        cluster.run(2 * HEARTBEAT);
        assert!(cluster.core(&n(1)).commit_index() < index);
        assert_eq!(cluster.core(&n(2)).last(), LogId::new(1, 1), "it is sent nothing");
        assert_eq!(cluster.core(&n(2)).commit_index(), LogIndex::ZERO);
    }

    /// What it has acknowledged before is taken back, too: nobody knows what else it has lost.
    #[test]
    fn what_a_server_acknowledged_before_it_lost_entries_commits_nothing() {
        let mut cluster = led(5, 0);
        let index = cluster.propose(&n(1), "x");
        cluster.written_all(&n(1));
        cluster.tell(&n(2), &n(1), matched(2, 1, index.0));
        assert_eq!(match_index(&cluster, &n(1), &n(2)), index.0);
        let round = verify(&mut cluster, &n(1)).round;
        cluster.tell(&n(2), &n(1), conflict(2, round, index.0, (1, 1)));
        let lost = "n1 observe PeerLostEntries { peer: \"n2\" }";
        assert!(has_happened(&mut cluster, lost));
        cluster.tell(&n(3), &n(1), matched(2, round, index.0));
        assert!(cluster.core(&n(1)).commit_index() < index, "n1 and n3 are two of five");
        cluster.tell(&n(4), &n(1), matched(2, round, index.0));
        assert_eq!(cluster.core(&n(1)).commit_index(), index);
    }

    /// A restart alone loses nothing, and is not taken for a loss: the leader vouches again for what
    /// the server had, which then learns what is committed, without a new entry.
    #[test]
    fn a_restart_is_not_taken_for_a_loss() {
        let mut cluster = led(3, 0);
        cluster.crash(&n(2));
        cluster.restart(&n(2));
        cluster.run(2 * HEARTBEAT);
        assert_eq!(cluster.core(&n(2)).commit_index(), LogIndex(2));
        let trace = cluster.take_trace();
        assert!(!trace.iter().any(|line| line.contains("PeerLostEntries")), "{trace:#?}");
    }

    /// The same while questions are asked faster than they are answered.
    #[test]
    fn a_restarted_server_learns_what_is_committed_also_from_late_answers() {
        let mut cluster = led(3, 0);
        cluster.crash(&n(2));
        cluster.restart(&n(2));
        for _ in 0..20 {
            verify(&mut cluster, &n(1));
            verify(&mut cluster, &n(1));
            cluster.deliver(&Filter::default(), 3);
        }
        assert_eq!(cluster.core(&n(2)).commit_index(), LogIndex(2));
    }

    /// The leader's side of it: a conflict below what has matched moves nothing.
    #[test]
    fn a_conflict_below_the_match_moves_nothing() {
        let mut cluster = led(3, 0);
        let before = cluster.status(&n(1));
        for (prev, hint) in [(2, (1, 1)), (1, (0, 0)), (2, (0, 0)), (0, (0, 0))] {
            cluster.tell(&n(2), &n(1), conflict(2, 1, prev, hint));
        }
        assert_eq!(cluster.status(&n(1)), before);
        assert!(cluster.pool.is_empty());
    }

    /// etcd-io/raft #149, raft-rs #557: match caught up with next. Asserted in the core; here a
    /// storm of answers, right and wrong, tries to break it.
    #[test]
    fn next_stays_beyond_match() {
        let mut cluster = led(3, 0);
        cluster.propose_many(&n(1), 5);
        for index in 0..9 {
            for prev in 0..9 {
                cluster.tell(&n(2), &n(1), matched(2, 1, index));
                cluster.tell(&n(2), &n(1), conflict(2, 1, prev, (2, index)));
                cluster.tell(&n(2), &n(1), heartbeat_reply(2, 1, prev, index));
                cluster.act(&n(1), |core, now| core.handle_unreachable(now, &n(2)));
                let peers = cluster.core(&n(1)).peers(Time(0));
                assert!(peers.iter().all(|peer| peer.match_index < peer.next_index));
            }
        }
        assert_eq!(match_index(&cluster, &n(1), &n(2)), 7);
    }

    /// openraft #1500: a heartbeat was taken for a log check.
    #[test]
    fn heartbeats_check_no_log() {
        let mut cluster = follower(3, &[1, 2, 2]);
        cluster.tell(&n(2), &n(1), heartbeat(3, 4, 0));
        cluster.written_all(&n(1));
        assert_eq!(cluster.take_messages(&n(1), &n(2)), [heartbeat_reply(3, 4, 0, 0)]);
        assert_eq!(cluster.terms(&n(1)), [1, 2, 2]);
    }

    /// etcd #14633: the window is full and everything in it is lost.
    #[test]
    fn a_lost_window_is_noticed() {
        let mut cluster = Cluster::with(2, 0, |rules| {
            rules.max_inflight_appends = 2;
            rules.max_append_entries = 1;
        });
        cluster.elect(&n(1));
        cluster.propose_many(&n(1), 4);
        cluster.pool.clear();
        cluster.propose(&n(1), "paused");
        assert!(cluster.pool.is_empty(), "the window is full");
        cluster.run(3 * HEARTBEAT);
        assert_eq!(match_index(&cluster, &n(1), &n(2)), cluster.core(&n(1)).last().index.0);
    }

    /// etcd #10308, etcd-io/raft #31: a follower that has everything stays in the probe state.
    #[test]
    fn a_caught_up_follower_leaves_the_probe_state() {
        let mut cluster = led(2, 0);
        cluster.act(&n(1), |core, now| core.handle_unreachable(now, &n(2)));
        assert_eq!(progress_of(&cluster, &n(1), &n(2)), ProgressState::Probe);
        cluster.run(2 * HEARTBEAT);
        assert_eq!(progress_of(&cluster, &n(1), &n(2)), ProgressState::Replicate);
    }

    /// etcd's probe: one message, then silence until an answer.
    #[test]
    fn a_probing_leader_sends_one_message() {
        let mut cluster = Cluster::new(2);
        cluster.win(&n(1));
        cluster.pool.clear();
        cluster.propose_many(&n(1), 5);
        assert!(cluster.pool.is_empty());
    }

    /// Found here: the first heartbeat and the first probe of a leader leave together, and the
    /// answer to the one was taken for the loss of the other, so that everything was sent twice.
    #[test]
    fn a_probe_is_not_missed_by_the_answer_to_an_older_question() {
        let mut cluster = Cluster::new(3);
        cluster.elect(&n(1));
        let lines = cluster.take_trace();
        let sent = lines.iter().filter(|line| line.starts_with("n1 replicate -> n2")).count();
        assert_eq!(sent, 1, "{lines:#?}");
    }

    /// hashicorp/raft: after one refused append the sender wedged, and replication never resumed.
    #[test]
    fn replication_resumes_after_a_refusal() {
        let mut cluster = led(2, 0);
        cluster.propose(&n(1), "a");
        cluster.pool.clear();
        cluster.propose(&n(1), "b");
        cluster.deliver(&Filter::default(), usize::MAX);
        cluster.run(2 * HEARTBEAT);
        assert_eq!(match_index(&cluster, &n(1), &n(2)), 4);
    }

    /// hashicorp/raft: back-off up to ten seconds after the peer is there again. Any sign of life
    /// ends the pause here, within one heartbeat.
    #[test]
    fn a_returning_peer_is_served_within_a_heartbeat() {
        let mut cluster = led(3, 0);
        cluster.crash(&n(2));
        cluster.propose(&n(1), "a");
        cluster.act(&n(1), |core, now| core.handle_unreachable(now, &n(2)));
        cluster.run(20 * ELECTION);
        cluster.restart(&n(2));
        cluster.run(HEARTBEAT);
        assert_eq!(match_index(&cluster, &n(1), &n(2)), 3);
    }

    /// hashicorp/raft #282: the commit index did not reach idle followers.
    #[test]
    fn idle_followers_learn_the_commit_index() {
        let mut cluster = led(3, 0);
        cluster.propose(&n(1), "a");
        cluster.stabilize();
        cluster.run(HEARTBEAT);
        for id in [n(2), n(3)] {
            assert_eq!(cluster.core(&id).commit_index(), LogIndex(3));
            assert_eq!(cluster.server(&id).applied, LogIndex(3));
        }
    }

    /// LogCabin #44 and figure 8: entries of earlier terms committed by counting.
    #[test]
    fn entries_of_earlier_terms_do_not_commit_by_counting() {
        let mut cluster = Cluster::new(3);
        let log = log_of(&configuration(3, 0), &[1, 2]);
        cluster.set_disk(&n(1), 2, None, log);
        cluster.win(&n(1));
        cluster.written_all(&n(1));
        cluster.tell(&n(2), &n(1), matched(3, 1, 2));
        cluster.tell(&n(3), &n(1), matched(3, 1, 2));
        assert_eq!(cluster.core(&n(1)).commit_index(), LogIndex(0));
        cluster.tell(&n(2), &n(1), matched(3, 1, 3));
        assert_eq!(cluster.core(&n(1)).commit_index(), LogIndex(3));
    }

    /// raft-rs #462, #465, openraft fbbf37b1: an answer of an earlier term moves nothing.
    #[test]
    fn answers_of_an_earlier_term_move_nothing() {
        let mut cluster = led(3, 0);
        cluster.propose(&n(1), "a");
        let before = cluster.status(&n(1));
        cluster.tell(&n(2), &n(1), matched(1, 1, 3));
        cluster.tell(&n(2), &n(1), conflict(1, 1, 2, (0, 0)));
        cluster.tell(&n(2), &n(1), heartbeat_reply(1, 1, 3, 3));
        assert_eq!(cluster.status(&n(1)), before);
    }

    /// A match beyond the leader's log is nonsense, and is ignored.
    #[test]
    fn a_match_beyond_the_log_is_ignored() {
        let mut cluster = led(3, 0);
        cluster.tell(&n(2), &n(1), matched(2, 1, 99));
        assert_eq!(match_index(&cluster, &n(1), &n(2)), 2);
    }
}

/// What the model's authors wanted to test and never did (their own list), and RedisLabs/raft #49:
/// the borders of a log that begins after a snapshot.
mod appends {
    use super::*;

    const SNAPSHOT: LogId = LogId { term: Term(2), index: LogIndex(5) };

    /// A follower in term 4 whose snapshot ends at 5@2 and whose log goes on with 6@2 7@3.
    fn compacted() -> Consensus {
        let hard_state = HardState { current_term: Term(4), voted_for: None };
        let members =
            IndexedConfiguration { index: LogIndex(1), configuration: configuration(3, 0) };
        let mut saved = Saved::new(hard_state, SNAPSHOT, members);
        saved.push(&[entry(2, 6), entry(3, 7)]);
        let mut core = Consensus::new(rules(&n(1)), saved, 1, Time(0));
        while core.poll_action().is_some() {}
        core
    }

    /// The answer to an append, and the terms of the log after it.
    fn answer(core: &mut Consensus, message: Message) -> (String, Vec<u64>) {
        core.handle_message(Time(1), &n(2), message);
        let mut said = String::new();
        while let Some(action) = core.poll_action() {
            if let Action::Write(write) = &action {
                core.handle_written(Time(1), write.id);
            }
            match action {
                Action::Send { message, .. } => said = message.to_string(),
                Action::Diverged { .. } => said = action.to_string(),
                _ => {}
            }
        }
        let terms = (6..=core.last().index.0)
            .filter_map(|index| core.log.term_at(LogIndex(index)))
            .map(|term| term.0);
        (said.replace("AppendEntriesReply term=4 ", ""), terms.collect())
    }

    fn check(prev: (u64, u64), terms: &[u64], said: &str, log: &[u64]) {
        let mut core = compacted();
        let commit = core.commit_index();
        let (answer, after) = answer(&mut core, append(4, prev, terms, 0));
        assert_eq!((answer.as_str(), &after[..]), (said, log), "prev {prev:?} terms {terms:?}");
        assert_eq!(core.commit_index(), commit);
        assert_eq!(core.snapshot(), SNAPSHOT);
    }

    /// W01: a request of an old term is refused and changes nothing.
    #[test]
    fn old_term_is_refused() {
        let mut core = compacted();
        let (said, log) = answer(&mut core, append(3, (3, 7), &[3], 7));
        assert_eq!((said.as_str(), &log[..]), ("stale term", &[2, 3][..]));
        assert_eq!(core.leader(), None);
    }

    /// W02: a newer term is adopted, and the request carried out.
    #[test]
    fn newer_term_is_adopted_and_obeyed() {
        let mut core = compacted();
        let (said, log) = answer(&mut core, append(9, (3, 7), &[9], 7));
        assert_eq!(
            (said.as_str(), &log[..]),
            ("AppendEntriesReply term=9 matched=8", &[2, 3, 9][..])
        );
        assert_eq!(core.term(), Term(9));
    }

    /// W03: a candidate follows the leader of its own term, and the request is carried out.
    #[test]
    fn candidate_follows_and_obeys() {
        let mut core = compacted();
        core.rules.pre_vote = false;
        core.handle_timeout(core.election.deadline);
        assert_eq!((core.role(), core.term()), (Role::Candidate, Term(5)));
        let (said, log) = answer(&mut core, append(5, (3, 7), &[5], 7));
        assert_eq!(
            (said.as_str(), &log[..]),
            ("AppendEntriesReply term=5 matched=8", &[2, 3, 5][..])
        );
        assert_eq!(core.role(), Role::Follower);
    }

    /// W04: the previous entry lies inside the snapshot; what is committed is the same everywhere.
    #[test]
    fn predecessor_inside_the_snapshot_is_accepted() {
        check((0, 0), &[], "matched=0", &[2, 3]);
        check((1, 3), &[], "matched=3", &[2, 3]);
        check((1, 3), &[2, 2], "matched=5", &[2, 3]);
        check((1, 3), &[2, 2, 2, 3, 4], "matched=8", &[2, 3, 4]);
        check((1, 4), &[2, 2, 4], "matched=7", &[2, 4]);
    }

    /// W05: exactly at the snapshot, whose term is known.
    #[test]
    fn predecessor_at_the_snapshot_is_compared() {
        check((2, 5), &[], "matched=5", &[2, 3]);
        check((2, 5), &[2], "matched=6", &[2, 3]);
        check((2, 5), &[4], "matched=6", &[4]);
    }

    /// The same, where the terms differ: as long as nothing after the snapshot is committed, a restore
    /// may have made it in vain. After that, a majority has lost what was committed.
    #[test]
    fn predecessor_at_the_snapshot_of_another_term_ends_the_node() {
        check((1, 5), &[], "diverged 5@2 5@1", &[2, 3]);
        check((1, 4), &[1, 3], "diverged 5@2 5@1", &[2, 3]);
    }

    #[test]
    fn predecessor_at_the_snapshot_below_the_commit_index_is_a_loss() {
        let mut core = compacted();
        core.handle_message(Time(1), &n(2), append(4, (2, 5), &[2], 6));
        while core.poll_action().is_some() {}
        core.handle_message(Time(1), &n(2), append(4, (1, 5), &[], 5));
        let said: Vec<String> =
            std::iter::from_fn(|| core.poll_action()).map(|action| action.to_string()).collect();
        assert_eq!(said, ["lost by a majority: n2 has 5@1, committed is 5@2"]);
    }

    /// W06: in the log, terms are compared. One after the snapshot, and at the end.
    #[test]
    fn predecessor_in_the_log_is_compared() {
        check((2, 6), &[], "matched=6", &[2, 3]);
        check((3, 6), &[], "conflict=6 hint=6@2", &[2, 3]);
        check((1, 6), &[], "conflict=6 hint=5@2", &[2, 3]);
        check((3, 7), &[4], "matched=8", &[2, 3, 4]);
        check((2, 7), &[4], "conflict=7 hint=6@2", &[2, 3]);
    }

    /// W07: past the end.
    #[test]
    fn predecessor_past_the_end_is_refused() {
        check((3, 8), &[], "conflict=8 hint=7@3", &[2, 3]);
        check((4, 9), &[4], "conflict=9 hint=7@3", &[2, 3]);
    }

    /// W08: all entries are new.
    #[test]
    fn new_entries_are_appended() {
        check((3, 7), &[3, 4, 4], "matched=10", &[2, 3, 3, 4, 4]);
    }

    /// W09: all are duplicates; nothing is removed.
    #[test]
    fn duplicates_are_left_alone() {
        check((2, 5), &[2, 3], "matched=7", &[2, 3]);
        check((2, 5), &[2], "matched=6", &[2, 3]);
    }

    /// W10: duplicates, then new ones; no duplicate is removed.
    #[test]
    fn what_follows_duplicates_is_appended() {
        check((2, 5), &[2, 3, 4], "matched=8", &[2, 3, 4]);
    }

    /// W11: all conflict, and are replaced.
    #[test]
    fn conflicts_are_replaced() {
        check((2, 5), &[3, 3, 3], "matched=8", &[3, 3, 3]);
        check((2, 5), &[3], "matched=6", &[3]);
    }

    /// W12: duplicates, then a conflict; only the conflict is replaced.
    #[test]
    fn only_the_conflict_is_replaced() {
        let mut core = compacted();
        core.handle_message(Time(1), &n(2), append(4, (2, 5), &[2, 4], 0));
        let mut writes = Vec::new();
        while let Some(action) = core.poll_action() {
            writes.extend(matches!(action, Action::Write(_)).then(|| action.to_string()));
        }
        assert_eq!(writes, ["write w1 truncate=7 7@4"]);
    }

    /// W14: the commit index is the smaller of the leader's and what was vouched for; never falls.
    #[test]
    fn commit_index_moves_as_far_as_it_may() {
        for (prev, terms, commit, expected) in [
            ((3, 7), &[4, 4][..], 0, 5),
            ((3, 7), &[4, 4], 8, 8),
            ((3, 7), &[4, 4], 99, 9),
            ((2, 6), &[], 99, 6),
            ((1, 3), &[], 99, 5),
            ((3, 8), &[4], 99, 5),
        ] {
            let mut core = compacted();
            answer(&mut core, append(4, prev, terms, commit));
            assert_eq!(core.commit_index(), LogIndex(expected), "{prev:?} {terms:?} {commit}");
        }
    }
}

mod snapshots {
    use super::*;

    /// A cluster of three whose n1 leads term 2 and keeps no trailing entries; everything up to 5 is
    /// committed, and n1 has a snapshot of it. Nothing is under way.
    fn snapshotted() -> Cluster {
        let mut cluster = Cluster::with(3, 0, |rules| rules.trailing_logs = 0);
        cluster.elect(&n(1));
        cluster.propose_many(&n(1), 3);
        cluster.stabilize();
        cluster.run(HEARTBEAT);
        cluster.snapshot(&n(1));
        cluster.take_trace();
        cluster
    }

    /// The same, but n3 was away and lacks what the log of n1 has forgotten.
    fn left_behind() -> Cluster {
        let mut cluster = Cluster::with(3, 0, |rules| rules.trailing_logs = 0);
        cluster.elect(&n(1));
        cluster.run(HEARTBEAT);
        cluster.partition(&[n(3)]);
        cluster.propose_many(&n(1), 3);
        cluster.stabilize();
        cluster.snapshot(&n(1));
        cluster.heal();
        cluster.take_trace();
        cluster
    }

    /// Where the snapshot, the log's first entry and its last are.
    fn marks(cluster: &Cluster, number: usize) -> (u64, u64, u64) {
        let core = cluster.core(&n(number));
        (core.snapshot().index.0, core.first_index().0, core.last().index.0)
    }

    /// hashicorp #248: a local snapshot that ended after a newer one was installed moved the last
    /// snapshot back; the server then voted for candidates that lacked what it had acknowledged.
    #[test]
    fn a_late_local_snapshot_is_ignored() {
        let mut cluster = snapshotted();
        cluster.begin_snapshot(&n(2));
        cluster.receive_whole(&n(2), &n(1), 2, &snapshot(2, 9, 3));
        cluster.written_all(&n(2));
        assert_eq!(marks(&cluster, 2), (9, 10, 9));
        cluster.end_snapshot(&n(2));
        assert_eq!(marks(&cluster, 2), (9, 10, 9));
        cluster.pool.clear();
        cluster.server_mut(&n(2)).now = cluster.server(&n(2)).now + 2 * ELECTION;
        cluster.tell(&n(3), &n(2), vote(3, (2, 8)));
        cluster.written_all(&n(2));
        assert!(cluster.take_messages(&n(2), &n(3)).contains(&vote_reply(3, 3, false)));
    }

    /// hashicorp, present today: an older snapshot from the current leader was installed without
    /// question, and the state machine lost data.
    #[test]
    fn an_older_snapshot_is_not_installed() {
        for index in [2, 4, 5] {
            let mut cluster = snapshotted();
            let before = cluster.core(&n(2)).last_applied();
            cluster.tell(&n(1), &n(2), piece(2, 7, &snapshot(2, index, 3), 0));
            assert_eq!(cluster.take_messages(&n(2), &n(1)), [installed(2, 7, index)]);
            // Even if the receiver had it whole.
            cluster.receive_whole(&n(2), &n(1), 2, &snapshot(2, index, 3));
            assert_eq!(marks(&cluster, 2), (0, 1, 5));
            assert_eq!(cluster.core(&n(2)).last_applied(), before);
        }
    }

    /// hashicorp #697, #704: entries that contradict the snapshot survived it, and it was installed
    /// again and again.
    #[test]
    fn a_log_that_contradicts_the_snapshot_is_dropped() {
        let mut cluster = follower(3, &[1, 2, 2, 2, 2]);
        cluster.receive_whole(&n(1), &n(2), 3, &snapshot(3, 4, 3));
        assert_eq!(marks(&cluster, 1), (4, 5, 4));
        cluster.written_all(&n(1));
        assert_eq!((cluster.terms(&n(1)), cluster.server(&n(1)).disk.log.len()), (vec![], 0));
        // It goes on from there, and what was dropped does not come back with a restart.
        cluster.tell(&n(2), &n(1), append(3, (3, 4), &[3], 5));
        cluster.written_all(&n(1));
        cluster.crash(&n(1));
        cluster.restart(&n(1));
        assert_eq!((cluster.terms(&n(1)), marks(&cluster, 1)), (vec![3], (4, 5, 5)));
    }

    /// hashicorp #358, #362: a log shorter than the trailing entries was compacted over a negative
    /// range.
    #[test]
    fn a_log_shorter_than_the_trailing_entries_is_left_alone() {
        for (trailing, first) in [(0, 6), (1, 5), (4, 2), (5, 1), (6, 1), (u64::MAX, 1)] {
            let mut cluster = Cluster::with(1, 0, |rules| rules.trailing_logs = trailing);
            cluster.elect(&n(1));
            cluster.propose_many(&n(1), 3);
            cluster.stabilize();
            cluster.snapshot(&n(1));
            assert_eq!(marks(&cluster, 1), (5, first, 5), "{trailing} trailing entries");
        }
    }

    /// hashicorp #212: a failed installation ended in an endless loop. Here it is tried again after a
    /// while, as often as need be, and the leader waits for nobody.
    #[test]
    fn a_refused_installation_is_tried_again_in_peace() {
        let mut cluster = left_behind();
        cluster.server_mut(&n(3)).is_refusing = true;
        let mut begun = 0;
        for _ in 0..5 {
            cluster.run(ELECTION);
            let trace = cluster.take_trace();
            begun += trace.iter().filter(|line| line.starts_with("n1 snapshot -> n3")).count();
        }
        assert!((3..=6).contains(&begun), "{begun} transfers");
        let index = cluster.propose(&n(1), "x");
        cluster.stabilize();
        assert_eq!(cluster.core(&n(1)).commit_index(), index);
        cluster.server_mut(&n(3)).is_refusing = false;
        cluster.run(2 * ELECTION);
        assert_eq!(cluster.core(&n(3)).commit_index(), index);
    }

    /// hashicorp #465: the members of an install request were malformed, and the receiver panicked.
    /// Here a snapshot may be of a configuration that this server is not in, or of none.
    #[test]
    fn a_snapshot_without_this_server_is_installed() {
        let others = Configuration::new([Member::voter(n(2), "n2:1")]);
        for configuration in [others, Configuration::default()] {
            let mut cluster = follower(3, &[1]);
            let configuration = IndexedConfiguration { index: LogIndex(1), configuration };
            let snapshot = Snapshot { last: LogId::new(3, 4), configuration };
            cluster.receive_whole(&n(1), &n(2), 3, &snapshot);
            cluster.written_all(&n(1));
            [2, 3].into_iter().for_each(|other| cluster.crash(&n(other)));
            cluster.run(5 * ELECTION);
            let core = cluster.core(&n(1));
            assert_eq!(
                (core.role(), core.term(), core.last_applied().0),
                (Role::Follower, Term(3), 4)
            );
        }
    }

    /// etcd #10864: a snapshot that demotes its receiver was refused.
    #[test]
    fn a_snapshot_may_demote_its_receiver() {
        let mut cluster = follower(3, &[1]);
        let configuration =
            Configuration::new([Member::nonvoter(n(1), "n1:1"), Member::voter(n(2), "n2:1")]);
        let configuration = IndexedConfiguration { index: LogIndex(3), configuration };
        cluster.receive_whole(&n(1), &n(2), 3, &Snapshot { last: LogId::new(3, 4), configuration });
        cluster.written_all(&n(1));
        let latest = &cluster.core(&n(1)).latest_configuration().configuration;
        assert!(!latest.is_voter(&n(1)));
        [2, 3].into_iter().for_each(|other| cluster.crash(&n(other)));
        cluster.run(5 * ELECTION);
        assert_eq!(cluster.core(&n(1)).term(), Term(3), "it does not campaign");
    }

    /// openraft #1808: a configuration that was appended and is covered by the snapshot stayed in
    /// force, and quorums were disjoint.
    #[test]
    fn an_appended_configuration_does_not_survive_the_snapshot_that_covers_it() {
        let mut cluster = follower(3, &[1]);
        let wrong = EntryPayload::Configuration(configuration(5, 0));
        let change = crate::log::Entry { term: Term(3), index: LogIndex(2), payload: wrong };
        cluster.tell(&n(2), &n(1), append_entries(3, (1, 1), vec![change], 1));
        cluster.written_all(&n(1));
        assert_eq!(cluster.core(&n(1)).latest_configuration().index, LogIndex(2));
        cluster.tell(&n(3), &n(1), heartbeat(4, 1, 0));
        cluster.receive_whole(&n(1), &n(3), 4, &snapshot(4, 6, 3));
        for configuration in [
            cluster.core(&n(1)).latest_configuration(),
            cluster.core(&n(1)).committed_configuration(),
        ] {
            assert_eq!(configuration.index, LogIndex(1));
            assert_eq!(configuration.configuration.voters().count(), 3);
        }
    }

    /// openraft (from async-raft, dba24036): the second compaction lost the membership. It travels
    /// from snapshot to snapshot.
    #[test]
    fn the_second_snapshot_has_the_configuration_of_the_first() {
        let mut cluster = snapshotted();
        cluster.propose(&n(1), "x");
        cluster.stabilize();
        cluster.snapshot(&n(1));
        cluster.crash(&n(1));
        cluster.restart(&n(1));
        assert_eq!(marks(&cluster, 1), (6, 7, 6));
        assert_eq!(cluster.core(&n(1)).latest_configuration().configuration, configuration(3, 0));
        cluster.run(5 * ELECTION);
        assert_eq!(cluster.leaders().len(), 1);
    }

    /// openraft #1828: a log of which nothing was left sent nothing to a follower that was behind.
    #[test]
    fn an_empty_log_means_a_snapshot() {
        let mut cluster = left_behind();
        assert_eq!(marks(&cluster, 1), (5, 6, 5));
        cluster.run(ELECTION);
        assert_eq!(cluster.core(&n(3)).snapshot(), cluster.core(&n(1)).snapshot());
    }

    /// willemt/raft #118, RedisLabs/raft #49, and eight further slips: whatever a follower has, from
    /// nothing to everything, beside the start of a compacted log.
    #[test]
    fn followers_around_the_start_of_the_log_catch_up() {
        for len in 1..=5 {
            for trailing in 0..=5 {
                let mut cluster = Cluster::with(3, 0, |rules| rules.trailing_logs = trailing);
                cluster.elect(&n(1));
                cluster.propose_many(&n(1), 3);
                cluster.stabilize();
                cluster.run(HEARTBEAT);
                cluster.snapshot(&n(1));
                // A leadership that does not know what n3 has had.
                cluster.crash(&n(1));
                let log = cluster.server(&n(3)).disk.log[..len].to_vec();
                cluster.set_disk(&n(3), 2, None, log);
                cluster.restart(&n(1));
                cluster.elect(&n(1));
                cluster.run(ELECTION);
                let marks = |number| {
                    let core = cluster.core(&n(number));
                    (core.last(), core.last_applied(), core.commit_index())
                };
                assert_eq!(marks(3), marks(1), "{len} entries, {trailing} trailing");
            }
        }
    }

    /// openraft #1892, ac3e5a89: a snapshot that contradicts what is committed was accepted.
    #[test]
    fn a_snapshot_that_contradicts_what_is_committed_ends_the_node() {
        // In its last entry; and beyond what is committed here, where terms show it: they only grow.
        for (index, term, committed) in [(4, 1, "4@2"), (9, 1, "5@2")] {
            let mut cluster = snapshotted();
            cluster.take_trace();
            cluster.tell(&n(1), &n(2), piece(2, 1, &snapshot(term, index, 3), 0));
            let said =
                format!("n2 lost by a majority: n1 has {index}@{term}, committed is {committed}");
            let trace = cluster.take_trace();
            assert!(trace.contains(&said), "{said} is not in {trace:?}");
        }
    }

    /// raft-rs #410, #417: what a snapshot covers was taken for durable too early. Nothing is said
    /// before the write that resets the log is durable: no acknowledgement, no vote, no sign of life.
    #[test]
    fn nothing_is_promised_before_the_reset_is_durable() {
        let mut cluster = follower(3, &[1, 2, 2]);
        cluster.tell(&n(2), &n(1), heartbeat(3, 1, 0));
        cluster.pool.clear();
        cluster.receive_whole(&n(1), &n(2), 3, &snapshot(3, 6, 3));
        cluster.tell(&n(2), &n(1), append(3, (3, 6), &[3], 7));
        cluster.tell(&n(2), &n(1), heartbeat(3, 2, 6));
        cluster.tell(&n(2), &n(1), piece(3, 1, &snapshot(3, 6, 3), 0));
        assert!(cluster.pool.is_empty(), "{:?}", cluster.pool);
        assert!(cluster.take_trace().iter().all(|line| !line.contains("restore")));
        assert_eq!(cluster.server(&n(1)).applied, LogIndex(0));
        cluster.written(&n(1));
        assert!(cluster.take_trace().iter().any(|line| line == "n1 restore 6@3"));
        let said = cluster.take_messages(&n(1), &n(2));
        assert!(
            said.contains(&installed(3, 1, 6)) && said.contains(&applied_reply(3, 2, (7, 6), 0))
        );
        assert!(!said.contains(&matched(3, 1, 7)));
        cluster.written(&n(1));
        assert_eq!(cluster.take_messages(&n(1), &n(2)), [matched(3, 1, 7)]);
        assert_eq!(cluster.server(&n(1)).applied, LogIndex(7));
    }

    /// TiKV #9349: a second snapshot was begun before the first ended. Answers that belong to
    /// another transfer than the newest change nothing.
    #[test]
    fn answers_of_other_transfers_are_dropped() {
        let mut cluster = left_behind();
        cluster.act(&n(1), |core, now| core.handle_unreachable(now, &n(3)));
        let round = cluster.act(&n(1), Consensus::verify_leader).expect("n1 leads").round;
        cluster.tell(&n(3), &n(1), heartbeat_reply(2, round, 0, 0));
        cluster.pool.clear();
        let peers = |cluster: &Cluster| cluster.core(&n(1)).peers(Time(0))[1].clone();
        let before = peers(&cluster);
        for transfer in [0, 2, 7] {
            for outcome in [
                InstallOutcome::Received { next_offset: 10 },
                InstallOutcome::Installed { match_index: LogIndex(5) },
                InstallOutcome::Refused,
            ] {
                cluster.tell(&n(3), &n(1), install_reply(2, transfer, outcome));
            }
        }
        let is_passed_on = |line: &String| line.starts_with("n1 snapshot answered");
        assert!(!cluster.take_trace().iter().any(is_passed_on));
        assert_eq!(peers(&cluster), before);
    }

    /// openraft 97d92771, etcd: what was known to be committed had to be learnt anew after a restart.
    /// The note beside the entries is believed as far as the log goes, and no further.
    #[test]
    fn noted_commits_are_handed_out_at_the_start() {
        for (noted, expected) in [(0, 0), (2, 2), (3, 3), (9, 3)] {
            let mut saved = Saved::new(HardState::default(), LogId::ZERO, <_>::default());
            saved.hard_state.current_term = Term(2);
            saved.push(&[entry(1, 1), entry(1, 2), entry(2, 3)]);
            saved.committed(LogIndex(noted));
            let mut core = Consensus::new(rules(&n(1)), saved, 1, Time(0));
            assert_eq!(core.commit_index(), LogIndex(expected));
            let mut up_to = 0;
            while let Some(action) = core.poll_action() {
                if let Action::Commit { up_to: index } = action {
                    up_to = index.0;
                }
            }
            assert_eq!(up_to, expected);
        }
    }

    /// etcd #13766: a state machine that keeps its own state is not given again what it has, nor less
    /// than its snapshot.
    #[test]
    fn a_state_machine_is_not_given_again_what_it_has() {
        for (kept, expected) in [(0, 2), (2, 2), (3, 3), (4, 4)] {
            let hard_state = HardState { current_term: Term(2), voted_for: None };
            let mut saved = Saved::new(hard_state, LogId::new(1, 2), <_>::default());
            saved.push(&[entry(1, 2), entry(2, 3), entry(2, 4)]);
            saved.applied(LogIndex(kept));
            let mut core = Consensus::new(rules(&n(1)), saved, 1, Time(0));
            assert_eq!(core.last_applied(), LogIndex(expected));
            assert!(core.commit_index() == core.last_applied());
            let is_commit = |action| matches!(action, Action::Commit { .. });
            assert!(!std::iter::from_fn(|| core.poll_action()).any(is_commit));
        }
    }

    #[test]
    #[should_panic(expected = "the state machine is ahead of the log")]
    fn a_state_machine_ahead_of_the_log_ends_the_node() {
        let mut saved = Saved::new(HardState::default(), LogId::ZERO, <_>::default());
        saved.applied(LogIndex(1));
        let _ = Consensus::new(rules(&n(1)), saved, 1, Time(0));
    }

    /// A server that is removed and added again may have another disk: what it had answered before, even
    /// to the newest question of all, counts for nothing.
    #[test]
    fn an_answer_of_an_earlier_membership_counts_for_nothing() {
        let mut cluster = led(3, 0);
        change(&mut cluster, &n(1), &remove(3)).expect("n1 leads");
        cluster.stabilize();
        let before = verify(&mut cluster, &n(1)).round;
        let index = change(&mut cluster, &n(1), &add(3)).expect("n1 leads");
        cluster.pool.clear();
        cluster.written_all(&n(1));
        for answer in [matched(2, before, index.0), heartbeat_reply(2, before, index.0, index.0)] {
            cluster.tell(&n(3), &n(1), answer);
            assert_eq!(match_index(&cluster, &n(1), &n(3)), 0);
            assert!(cluster.core(&n(1)).commit_index() < index);
        }
        cluster.tell(&n(3), &n(1), matched(2, before + 1, index.0));
        assert_eq!(match_index(&cluster, &n(1), &n(3)), index.0);
        assert_eq!(cluster.core(&n(1)).commit_index(), index);
    }

    /// hashicorp: a removed server is told nothing, and one that was added again must not believe old
    /// news.
    #[test]
    fn a_notice_of_removal_is_believed_unless_it_is_old() {
        let observed = |cluster: &mut Cluster| {
            cluster.take_trace().iter().any(|line| line.contains("Removed {"))
        };
        let mut cluster = led(3, 0);
        change(&mut cluster, &n(1), &remove(3)).expect("n1 leads");
        cluster.stabilize();
        assert!(observed(&mut cluster), "the farewell");
        change(&mut cluster, &n(1), &add(3)).expect("n1 leads");
        cluster.stabilize();
        cluster.take_trace();
        cluster.tell(&n(1), &n(3), removed(2, 3));
        assert!(!observed(&mut cluster), "it is a member again since index 4");
        cluster.tell(&n(1), &n(3), removed(1, 9));
        assert!(!observed(&mut cluster), "an old term");
        cluster.tell(&n(1), &n(3), removed(2, 9));
        assert!(observed(&mut cluster));
    }
}
