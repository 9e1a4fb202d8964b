//! Bugs that the simulator has found here, each as the shortest schedule that shows it.

use std::time::Duration;

use super::{
    cluster::{Cluster, Filter, Snapshot, configuration, log_of, n, piece, rules, snapshot},
    messages::{
        append, conflict, entry, heartbeat, heartbeat_reply, install_reply, installed, matched,
    },
};
use crate::{
    configuration::ConfigurationChange,
    consensus::{Action, BootstrapRefusal, ChangeRefusal, Consensus, RestoreRefusal, Saved, Time},
    position::{LogId, LogIndex, Term},
    rpc::InstallOutcome,
    stable::HardState,
    status::{ProgressState, Role},
};

const ELECTION: Duration = Duration::from_secs(1);

/// Thesis §4.2.2: n1 demotes itself, nobody else has that entry, and n1 falls. n2 needs the vote of
/// n1, whose log is longer; so n1 must campaign, although its own log says that it is no voter.
#[test]
fn a_leader_that_was_demoting_itself_campaigns() {
    for change in [
        ConfigurationChange::DemoteVoter { id: n(1) },
        ConfigurationChange::RemoveServer { id: n(1) },
    ] {
        let mut cluster = Cluster::new(2);
        cluster.elect(&n(1));
        cluster.act(&n(1), |core, now| core.change_configuration(now, &change, None)).expect("ok");
        cluster.written_all(&n(1));
        cluster.pool.clear();
        cluster.crash(&n(1));
        cluster.restart(&n(1));
        cluster.run(10 * ELECTION);
        assert_eq!(cluster.leaders(), [n(2)], "{change:?}");
        let latest = cluster.core(&n(2)).committed_configuration();
        assert_eq!(latest.configuration.voters().count(), 1, "{change:?}");
        // It knows now that it is out.
        let term = cluster.core(&n(1)).term();
        cluster.crash(&n(2));
        cluster.run(10 * ELECTION);
        assert_eq!(cluster.core(&n(1)).term(), term, "{change:?}");
    }
}

/// The write of a bootstrap has two parts, the term and the entry. Cut short between them, the
/// server has a term and nothing else, and was refused ever after.
#[test]
fn a_bootstrap_that_was_cut_short_is_repeated() {
    let start = |term| {
        let hard_state = HardState { current_term: Term(term), voted_for: None };
        let saved = Saved::new(hard_state, LogId::ZERO, <_>::default());
        Consensus::new(rules(&n(1)), saved, 1, Time(0))
    };
    for term in [0, 1] {
        let mut core = start(term);
        assert_eq!(core.bootstrap(Time(0), configuration(3, 0)), Ok(()), "term {term}");
        assert_eq!((core.last(), core.term()), (LogId::new(1, 1), Term(1)), "term {term}");
    }
    // It has heard of a cluster.
    let result = start(2).bootstrap(Time(0), configuration(3, 0));
    assert_eq!(result, Err(BootstrapRefusal::AlreadyBootstrapped));
}

/// A server is removed, set up with an empty disk and added again, all in one term. A late heartbeat
/// of its first membership speaks of entries that it had then: it ended the server.
#[test]
fn a_late_heartbeat_of_an_earlier_membership_ends_nobody() {
    let mut cluster = Cluster::new(3);
    cluster.elect(&n(1));
    cluster.run(Duration::from_millis(200));
    cluster.propose(&n(1), "x");
    cluster.run(Duration::from_millis(200));
    // To an empty server, and to one that has taken other entries meanwhile.
    let late = || heartbeat(2, 1, 3);
    let remove = ConfigurationChange::RemoveServer { id: n(3) };
    cluster.act(&n(1), |core, now| core.change_configuration(now, &remove, None)).expect("ok");
    cluster.run(Duration::from_millis(200));
    for other in [&[][..], &[1, 1, 1, 1]] {
        let log = other.iter().zip(1..).map(|(term, index)| entry(*term, index)).collect();
        cluster.set_disk(&n(3), 1, None, log);
        cluster.tell(&n(1), &n(3), late());
        assert_eq!(cluster.core(&n(3)).commit_index(), LogIndex::ZERO, "nobody vouches for it");
    }
    cluster.set_disk(&n(3), 0, None, Vec::new());
    cluster.tell(&n(1), &n(3), late());
    let add = ConfigurationChange::AddVoter { id: n(3), address: "n3:1".into() };
    cluster.act(&n(1), |core, now| core.change_configuration(now, &add, None)).expect("ok");
    cluster.tell(&n(1), &n(3), late());
    cluster.run(Duration::from_millis(500));
    assert_eq!(cluster.core(&n(3)).last(), cluster.core(&n(1)).last());
    assert_eq!(cluster.core(&n(3)).commit_index(), cluster.core(&n(1)).commit_index());
    assert_eq!(cluster.core(&n(1)).term(), Term(2));
    let trace = cluster.take_trace();
    assert!(!trace.iter().any(|line| line.contains("PeerLostEntries")), "{trace:#?}");
}

/// How many orders to replicate n1 has given since this was last asked.
fn orders(cluster: &mut Cluster) -> usize {
    cluster.take_trace().iter().filter(|line| line.starts_with("n1 replicate")).count()
}

/// The round that n1 is in.
fn round(cluster: &mut Cluster) -> u64 {
    cluster.act(&n(1), |core, now| core.verify_leader(now)).expect("n1 leads").round
}

/// In a network that reorders, one message that is late makes all after it conflict. Each of those
/// answers had the whole window sent anew, and the messages multiplied for ever.
#[test]
fn the_answers_to_one_window_have_it_sent_anew_once() {
    let mut cluster = Cluster::with(2, 0, |rules| {
        rules.max_append_entries = 1;
        rules.max_inflight_appends = 16;
    });
    cluster.elect(&n(1));
    let round = round(&mut cluster);
    for _ in 0..20 {
        cluster.propose(&n(1), "x");
    }
    orders(&mut cluster);
    for prev in 5..15 {
        cluster.tell(&n(2), &n(1), conflict(2, round, prev, (2, 2)));
        cluster.tell(&n(2), &n(1), matched(2, round, 3));
    }
    assert_eq!(orders(&mut cluster), 1 + 8, "one probe, half a window");
    // An answer to what was sent since is news.
    cluster.tell(&n(2), &n(1), conflict(2, round + 1, 10, (2, 3)));
    assert_eq!(orders(&mut cluster), 1);
}

/// A peer that could not be reached is waited for. An old answer that comes in late is no reason to
/// send it the whole window, which cannot be delivered either.
#[test]
fn an_old_answer_does_not_end_the_wait_for_an_unreachable_peer() {
    let mut cluster = Cluster::new(2);
    cluster.elect(&n(1));
    cluster.propose(&n(1), "x");
    cluster.propose(&n(1), "y");
    let round = round(&mut cluster);
    cluster.act(&n(1), |core, now| core.handle_unreachable(now, &n(2)));
    cluster.propose(&n(1), "z");
    orders(&mut cluster);
    cluster.tell(&n(2), &n(1), matched(2, round, 3));
    assert_eq!(orders(&mut cluster), 0);
    cluster.tell(&n(2), &n(1), heartbeat_reply(2, round, 3, 3));
    assert_eq!(orders(&mut cluster), 1);
    cluster.tell(&n(2), &n(1), matched(2, round, 5));
    assert_eq!(orders(&mut cluster), 0);
}

/// A cluster of two whose n1 leads term 2 and has forgotten the entries up to 5; n2 is known to have
/// those up to 2, and is sent a snapshot.
fn sending() -> Cluster {
    let mut cluster = Cluster::with(3, 0, |rules| rules.trailing_logs = 0);
    cluster.elect(&n(1));
    cluster.run(Duration::from_millis(100));
    cluster.partition(&[n(2)]);
    cluster.propose_many(&n(1), 3);
    cluster.stabilize();
    cluster.snapshot(&n(1));
    let round = round(&mut cluster);
    cluster.heal();
    cluster.tell(&n(2), &n(1), heartbeat_reply(2, round, 2, 2));
    cluster.act(&n(1), |core, now| core.handle_unreachable(now, &n(2)));
    cluster.tell(&n(2), &n(1), heartbeat_reply(2, round, 2, 2));
    assert_eq!(second(&cluster), (ProgressState::Snapshot, 2));
    cluster.pool.clear();
    cluster.take_trace();
    cluster
}

/// What n1 believes of n2.
fn second(cluster: &Cluster) -> (ProgressState, u64) {
    let peers = cluster.core(&n(1)).peers(cluster.server(&n(1)).now);
    let peer = peers.iter().find(|peer| peer.id == n(2)).expect("a peer");
    (peer.progress, peer.match_index.0)
}

/// How many snapshots n1 has begun to send since this was last asked.
fn transfers(cluster: &mut Cluster) -> usize {
    cluster.take_trace().iter().filter(|line| line.starts_with("n1 snapshot ->")).count()
}

/// The transfers of each leadership are numbered from one. The refusal of a piece of an earlier one
/// ended the transfer of the same number, and nothing was sent to that follower ever after.
#[test]
fn the_refusal_of_an_old_piece_ends_no_transfer() {
    let mut cluster = sending();
    cluster.tell(&n(2), &n(1), install_reply(2, 1, InstallOutcome::StaleTerm));
    assert_eq!(cluster.take_trace().len(), 1, "only its arrival");
    assert_eq!(second(&cluster), (ProgressState::Snapshot, 2));
}

/// A follower that could not keep a snapshot said with each heartbeat what it had, and each of those
/// answers began another transfer.
#[test]
fn signs_of_life_do_not_repeat_a_refused_transfer() {
    let mut cluster = sending();
    let round = round(&mut cluster);
    cluster.tell(&n(2), &n(1), install_reply(2, 1, InstallOutcome::Refused));
    for _ in 0..5 {
        cluster.tell(&n(2), &n(1), heartbeat_reply(2, round, 2, 2));
    }
    assert_eq!(transfers(&mut cluster), 0);
    let later = cluster.server(&n(1)).now + ELECTION;
    cluster.server_mut(&n(1)).now = later;
    cluster.tell(&n(2), &n(1), heartbeat_reply(2, round, 2, 2));
    assert_eq!(transfers(&mut cluster), 1);
}

/// The log had gone on beyond the snapshot when it was installed. The follower was taken to be sent a
/// snapshot still, but nobody sent one.
#[test]
fn an_installed_snapshot_that_is_not_enough_is_followed_by_another() {
    let mut cluster = Cluster::with(3, 0, |rules| {
        (rules.trailing_logs, rules.max_held_entries) = (0, 0);
    });
    cluster.elect(&n(1));
    cluster.run(Duration::from_millis(100));
    cluster.partition(&[n(2)]);
    cluster.propose_many(&n(1), 3);
    cluster.stabilize();
    cluster.snapshot(&n(1));
    let round = round(&mut cluster);
    cluster.act(&n(1), |core, now| core.handle_unreachable(now, &n(2)));
    cluster.heal();
    cluster.tell(&n(2), &n(1), heartbeat_reply(2, round, 2, 2));
    assert_eq!(transfers(&mut cluster), 1);
    cluster.partition(&[n(2)]);
    cluster.propose_many(&n(1), 3);
    cluster.stabilize();
    cluster.snapshot(&n(1));
    cluster.heal();
    cluster.tell(&n(2), &n(1), installed(2, 1, 5));
    assert_eq!(transfers(&mut cluster), 1);
    cluster.stabilize();
    cluster.run(ELECTION);
    assert_eq!(second(&cluster), (ProgressState::Replicate, 8));
}

/// What followed a snapshot was forgotten in the moment in which the snapshot was installed: on a busy
/// cluster one snapshot was sent after the other for ever.
#[test]
fn a_slow_installation_on_a_busy_cluster_ends() {
    let mut cluster = sending();
    // Meanwhile a newer snapshot is taken.
    cluster.propose_many(&n(1), 3);
    cluster.written_all(&n(1));
    for (from, to) in [(1, 3), (3, 1), (1, 3), (3, 1)] {
        for message in cluster.take_messages(&n(from), &n(to)) {
            cluster.tell(&n(from), &n(to), message);
        }
        cluster.written_all(&n(to));
    }
    cluster.snapshot(&n(1));
    assert_eq!(cluster.core(&n(1)).snapshot().index, LogIndex(8));
    cluster.take_trace();
    cluster.tell(&n(2), &n(1), installed(2, 1, 5));
    let trace = cluster.take_trace();
    let order = "n1 replicate -> n2 prev=5@2 last=8 commit=8".to_owned();
    assert!(trace.contains(&order), "{trace:?}");
    assert_eq!(cluster.core(&n(1)).first_index(), LogIndex(6));
    // It has come as far as the newest snapshot: now the log may forget.
    let round = round(&mut cluster);
    cluster.tell(&n(2), &n(1), matched(2, round, 8));
    assert_eq!(cluster.core(&n(1)).first_index(), LogIndex(9));
}

/// A snapshot that is whole when its leader is deposed stands for nothing if a restore made it: the
/// leader may have lost the leadership before anybody else had it. To adopt it could drop entries
/// that the next leader has committed.
#[test]
fn a_snapshot_of_a_deposed_leader_is_not_adopted() {
    let mut cluster = Cluster::with(3, 0, |rules| rules.pre_vote = false);
    cluster.set_disk(&n(1), 3, None, log_of(&configuration(3, 0), &[1, 2, 2, 2]));
    cluster.campaign(&n(1));
    cluster.written_all(&n(1));
    assert_eq!(cluster.core(&n(1)).role(), Role::Candidate);
    cluster.receive_whole(&n(1), &n(2), 3, &snapshot(3, 9, 3));
    assert_eq!(cluster.core(&n(1)).role(), Role::Candidate);
    assert_eq!(cluster.core(&n(1)).last(), LogId::new(2, 4));
    // Nor by a follower of the next leader.
    cluster.tell(&n(3), &n(1), append(4, (2, 4), &[4], 5));
    cluster.receive_whole(&n(1), &n(2), 3, &snapshot(3, 9, 3));
    assert_eq!(cluster.core(&n(1)).last(), LogId::new(4, 5));
    assert_eq!(cluster.core(&n(1)).commit_index(), LogIndex(5));
    // The next leader may have the same.
    cluster.receive_whole(&n(1), &n(3), 4, &snapshot(3, 9, 3));
    assert_eq!(cluster.core(&n(1)).last(), LogId::new(3, 9));
}

/// A cluster in which n1 leads and has adopted a restore that nobody else has, and where that ends.
fn restored(voters: usize, at_least: u64) -> (Cluster, LogId) {
    let mut cluster = Cluster::new(voters);
    cluster.elect(&n(1));
    cluster.stabilize();
    let last = restore(&mut cluster, at_least);
    (cluster, last)
}

/// Has n1 restore from data that ends there at least.
fn restore(cluster: &mut Cluster, at_least: u64) -> LogId {
    let begun = cluster.act(&n(1), |core, now| core.begin_restore(now, LogIndex(at_least)));
    let (last, configuration) = begun.expect("n1 leads");
    cluster.server_mut(&n(1)).disk.keep(Snapshot { last, configuration });
    let finished = cluster.act(&n(1), |core, now| core.finish_restore(now, last));
    assert_eq!(finished, Ok(last.index.next()));
    cluster.written_all(&n(1));
    cluster.pool.clear();
    last
}

/// A leader that had adopted a restore, and lost the leadership before anybody else had it, panicked
/// when the next leader had another entry there. It is of no use, but it says so.
#[test]
fn a_server_whose_restore_the_cluster_went_on_without_says_so() {
    for (message, entry) in [
        (append(3, (2, 2), &[3, 3], 4), (3, 3)),
        (append(3, (3, 3), &[], 3), (3, 3)),
        (append(3, (3, 2), &[], 2), (3, 2)),
        (piece(3, 1, &snapshot(3, 3, 3), 0), (3, 3)),
    ] {
        let (cluster, snapshot) = restored(3, 0);
        assert_eq!(snapshot, LogId::new(2, 3));
        let mut core = cluster.core(&n(1)).clone();
        core.handle_message(Time(0), &n(2), message);
        let diverged = std::iter::from_fn(|| core.poll_action())
            .find(|action| matches!(action, Action::Diverged { .. }));
        let entry = LogId::new(entry.0, entry.1);
        assert_eq!(diverged, Some(Action::Diverged { snapshot, entry }));
    }
}

/// The same server acknowledged whatever the next leader sent below its snapshot, and had none of it:
/// acknowledged commands were lost.
#[test]
fn a_server_ahead_by_a_restore_acknowledges_nothing_that_it_lacks() {
    let (mut cluster, _) = restored(3, 10_000);
    cluster.partition(&[n(1)]);
    cluster.run(5 * ELECTION);
    let leader = cluster.leaders().into_iter().find(|id| *id != n(1)).expect("two can elect");
    let other = if leader == n(2) { n(3) } else { n(2) };
    cluster.pool.clear();
    cluster.heal();
    cluster.partition(&[other]);
    cluster.take_trace();
    let index = cluster.propose(&leader, "x");
    cluster.run(ELECTION / 2);
    assert!(cluster.core(&leader).commit_index() < index);
    let has_ended = |line: &String| line.starts_with("n1 diverged 10001@2");
    assert!(cluster.take_trace().iter().any(has_ended));
}

/// A restore raises the commit index of its leader, and the next heartbeat told a follower to commit
/// what it had of the old log, which no majority had.
#[test]
fn a_restore_commits_nothing_of_the_log_that_it_replaces() {
    let mut cluster = Cluster::new(5);
    cluster.elect(&n(1));
    cluster.stabilize();
    let only = |to| Filter { to: Some(n(to)), ..Filter::default() };
    let only_second_has_another = |cluster: &mut Cluster| {
        let index = cluster.propose(&n(1), "x");
        cluster.written_all(&n(1));
        cluster.deliver(&only(2), 100);
        cluster.written_all(&n(2));
        cluster.deliver(&only(1), 100);
        cluster.pool.clear();
        assert_eq!(cluster.core(&n(2)).last().index, index);
        index
    };
    let first = only_second_has_another(&mut cluster);
    let heartbeat = |cluster: &mut Cluster| {
        cluster.act(&n(1), |core, now| core.begin_round(now));
        cluster.deliver(&only(2), 1);
        cluster.deliver(&only(1), 100);
        cluster.act(&n(1), |core, now| core.begin_round(now));
        cluster.deliver(&only(2), 1);
        cluster.core(&n(2)).commit_index()
    };
    restore(&mut cluster, 0);
    assert!(heartbeat(&mut cluster) < first);
    // Nor does a second restore, when the first is committed by the others.
    cluster.pool.clear();
    cluster.partition(&[n(2)]);
    cluster.run(ELECTION);
    assert!(first < cluster.core(&n(3)).commit_index());
    restore(&mut cluster, 0);
    cluster.heal();
    assert!(heartbeat(&mut cluster) < first);
}

/// Until the no-op behind a restored snapshot is committed, the restore may come to nothing: reads
/// wait for it, and neither membership nor another restore builds on it.
#[test]
fn nothing_builds_on_a_restore_that_is_not_committed() {
    let (mut cluster, last) = restored(3, 0);
    let verification = cluster.act(&n(1), |core, now| core.verify_leader(now)).expect("n1 leads");
    assert_eq!(verification.read_index, last.index.next());
    let again = cluster.act(&n(1), |core, now| core.begin_restore(now, LogIndex::ZERO));
    assert_eq!(again, Err(RestoreRefusal::NotReady));
    let demote = ConfigurationChange::DemoteVoter { id: n(3) };
    let change = |core: &mut Consensus, now| core.change_configuration(now, &demote, None);
    assert_eq!(cluster.act(&n(1), change), Err(ChangeRefusal::NotReady));
    cluster.run(ELECTION);
    cluster.act(&n(1), change).expect("the restore is committed");
}
