//! Rows of the model's test catalogue that are about the core alone.

use std::time::Duration;

use super::{
    cluster::{Cluster, n},
    messages::{matched, transfer_vote, vote, vote_reply},
};
use crate::{configuration::ConfigurationChange, position::LogIndex};

/// A cluster whose n1 leads term 2, with everything delivered and committed everywhere.
fn led(voters: usize) -> Cluster {
    let mut cluster = Cluster::new(voters);
    cluster.elect(&n(1));
    cluster.run(Duration::from_millis(100));
    cluster.pool.clear();
    cluster
}

fn commit(cluster: &Cluster) -> u64 {
    cluster.core(&n(1)).commit_index().0
}

fn match_of(cluster: &Cluster, number: usize) -> u64 {
    let peers = cluster.core(&n(1)).peers(cluster.server(&n(1)).now);
    peers.iter().find(|peer| peer.id == n(number)).expect("a peer").match_index.0
}

/// R61: a follower with a leader gives its vote to that leader, to nobody else, and to whoever
/// campaigns because the leader said so.
#[test]
fn a_vote_is_given_to_the_known_leader_and_in_a_transfer() {
    let mut cluster = led(3);
    cluster.tell(&n(3), &n(2), vote(3, (2, 2)));
    assert_eq!(cluster.take_messages(&n(2), &n(3)), [vote_reply(2, 3, false)]);
    cluster.tell(&n(1), &n(2), vote(3, (2, 2)));
    cluster.written_all(&n(2));
    assert_eq!(cluster.take_messages(&n(2), &n(1)), [vote_reply(3, 3, true)]);
    let mut cluster = led(3);
    cluster.tell(&n(3), &n(2), transfer_vote(3, (2, 2)));
    cluster.written_all(&n(2));
    assert_eq!(cluster.take_messages(&n(2), &n(3)), [vote_reply(3, 3, true)]);
}

/// U01: what the servers that stay have acknowledged is not forgotten in a change of members, and
/// counts for the smaller majority.
#[test]
fn a_change_of_members_keeps_the_matches_of_those_who_stay() {
    let mut cluster = led(4);
    cluster.propose_many(&n(1), 3);
    cluster.written_all(&n(1));
    cluster.tell(&n(2), &n(1), matched(2, 1, 5));
    cluster.tell(&n(3), &n(1), matched(2, 1, 3));
    assert_eq!(commit(&cluster), 3, "three of four have it");
    let removal = ConfigurationChange::RemoveServer { id: n(4) };
    cluster.act(&n(1), |core, now| core.change_configuration(now, &removal, None)).expect("ready");
    assert_eq!((match_of(&cluster, 2), match_of(&cluster, 3)), (5, 3));
    cluster.written_all(&n(1));
    // Two of three, once anything new is heard.
    cluster.tell(&n(2), &n(1), matched(2, 1, 6));
    assert_eq!(commit(&cluster), 6);
    assert_eq!(match_of(&cluster, 3), 3);
}

/// U02: an acknowledgement of less than is known already is ignored.
#[test]
fn a_lower_match_is_ignored() {
    let mut cluster = led(3);
    cluster.propose_many(&n(1), 4);
    cluster.written_all(&n(1));
    cluster.tell(&n(2), &n(1), matched(2, 1, 6));
    assert_eq!((commit(&cluster), match_of(&cluster, 2)), (6, 6));
    for lower in [5, 3, 0] {
        cluster.tell(&n(2), &n(1), matched(2, 1, lower));
        assert_eq!((commit(&cluster), match_of(&cluster, 2)), (6, 6));
    }
    assert_eq!(cluster.core(&n(1)).commit_index(), LogIndex(6));
}
