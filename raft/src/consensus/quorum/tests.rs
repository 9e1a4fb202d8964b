use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::configuration::Server;

fn server(number: usize, is_voter: bool) -> Server {
    let (id, address) = (format!("n{number}"), format!("n{number}:1"));
    if is_voter { Server::voter(id, address) } else { Server::nonvoter(id, address) }
}

/// The largest value `v` such that more than half of the voters have `v` or more, by trying all.
fn naive(voters: &[u64]) -> Option<u64> {
    let has_majority =
        |v: &&u64| voters.len() < 2 * voters.iter().filter(|value| **value >= **v).count();
    voters.iter().filter(has_majority).max().copied()
}

fn check(values: &[u64], is_voter: &[bool]) {
    let servers = is_voter.iter().enumerate().map(|(number, voter)| server(number, *voter));
    let configuration = Configuration::new(servers);
    let by_id: BTreeMap<ServerId, u64> = values
        .iter()
        .enumerate()
        .map(|(number, value)| (format!("n{number}").into(), *value))
        .collect();
    let voters: Vec<u64> = values
        .iter()
        .zip(is_voter)
        .filter(|(_, is_voter)| **is_voter)
        .map(|(value, _)| *value)
        .collect();
    let reached = reached_by_majority(&configuration, |id| by_id[id]);
    assert_eq!(reached, naive(&voters), "{values:?} {is_voter:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn agrees_with_the_naive_one(
        servers in prop::collection::vec((0_u64..6, prop::bool::weighted(0.7)), 0..10),
    ) {
        let (values, is_voter): (Vec<u64>, Vec<bool>) = servers.into_iter().unzip();
        check(&values, &is_voter);
    }
}

/// All values up to two of up to five servers, voting or not.
#[test]
fn agrees_with_the_naive_one_on_all_small_clusters() {
    let mut cases = 0;
    for len in 0..=5_u32 {
        for values in 0..3_usize.pow(len) {
            for voters in 0..2_usize.pow(len) {
                let value = |at| (values / 3_usize.pow(at) % 3) as u64;
                let values: Vec<u64> = (0..len).map(value).collect();
                let is_voter: Vec<bool> = (0..len).map(|at| voters >> at & 1 == 1).collect();
                check(&values, &is_voter);
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 9331);
}

/// The model's table: the quorum of five, three and four voters.
#[test]
fn commit_index_of_five_three_and_four() {
    for (values, expected) in [
        (&[0, 0, 0, 0, 0][..], 0),
        (&[9, 0, 0, 0, 0], 0),
        (&[9, 9, 0, 0, 0], 0),
        (&[30, 20, 10, 0, 0], 10),
        (&[10, 20, 30, 40, 50], 30),
        (&[10, 20, 30], 20),
        (&[10, 20, 30, 40], 20),
        (&[40, 40, 10, 10], 10),
        (&[7], 7),
        (&[7, 3], 3),
    ] {
        check(values, &vec![true; values.len()]);
        let servers = (0..values.len()).map(|number| server(number, true));
        let number = |id: &ServerId| id.as_str()[1..].parse::<usize>().expect("a number");
        let reached = reached_by_majority(&Configuration::new(servers), |id| values[number(id)]);
        assert_eq!(reached, Some(expected), "{values:?}");
    }
}

/// Nobody votes: nothing is ever reached.
#[test]
fn no_voter_reaches_nothing() {
    assert_eq!(reached_by_majority(&Configuration::default(), |_| 9), None);
    let nonvoters = Configuration::new([server(1, false), server(2, false)]);
    assert_eq!(reached_by_majority(&nonvoters, |_| 9), None);
}

/// Votes are the same function of another type: won when the majority says yes.
#[test]
fn votes_are_counted_by_the_same_function() {
    let five = Configuration::new((0..5).map(|number| server(number, true)));
    for granted in 0..=5 {
        let has_granted = |id: &ServerId| id.as_str() < format!("n{granted}").as_str();
        assert_eq!(reached_by_majority(&five, has_granted), Some(3 <= granted));
    }
}
