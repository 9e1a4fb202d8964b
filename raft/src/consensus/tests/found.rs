//! Bugs that the simulator has found here, each as the shortest schedule that shows it.

use std::time::Duration;

use super::{
    cluster::{Cluster, configuration, n, rules},
    messages::{conflict, entry, heartbeat, heartbeat_reply, matched},
};
use crate::{
    configuration::ConfigurationChange,
    consensus::{Consensus, Refusal, Saved, Time},
    log::{LogId, LogIndex, Term},
    stable::HardState,
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
    assert_eq!(result, Err(Refusal::AlreadyBootstrapped));
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
