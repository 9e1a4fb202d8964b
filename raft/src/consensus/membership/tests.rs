use super::*;
use crate::position::Term;

fn configuration(ids: &[&str]) -> Configuration {
    Configuration::new(ids.iter().map(|id| Server::voter(*id, format!("{id}:1"))))
}

fn entry(index: u64, ids: &[&str]) -> Entry {
    let payload = EntryPayload::Configuration(configuration(ids));
    Entry { term: Term(1), index: LogIndex(index), payload }
}

fn noop(index: u64) -> Entry {
    Entry { term: Term(1), index: LogIndex(index), payload: EntryPayload::Noop }
}

/// The latest and the committed configuration.
fn shown(membership: &Membership) -> [String; 2] {
    [membership.latest(), membership.committed()]
        .map(|it| format!("{}: {}", it.index, it.configuration))
}

fn started() -> Membership {
    let mut membership = Membership::default();
    assert!(membership.append(&entry(1, &["a", "b"])));
    assert!(membership.commit(LogIndex(1)));
    membership
}

#[test]
fn configuration_is_in_force_when_it_is_appended() {
    let mut membership = started();
    assert!(!membership.is_changing());
    assert!(membership.append(&entry(4, &["a", "b", "c"])));
    assert_eq!(shown(&membership), ["4: a b c", "1: a b"]);
    assert!(membership.is_changing() && membership.is_voter(&"c".into()));
    assert_eq!(membership.voters().voters().count(), 3);
}

#[test]
fn other_entries_change_nothing() {
    let mut membership = started();
    assert!(!membership.append(&noop(2)));
    assert!(!membership.append(&entry(1, &["x"])), "covered already");
    assert_eq!(shown(&membership), ["1: a b", "1: a b"]);
}

#[test]
fn commit_settles_the_latest_once_it_is_reached() {
    let mut membership = started();
    membership.append(&entry(4, &["a"]));
    assert!(!membership.commit(LogIndex(3)));
    assert!(membership.commit(LogIndex(7)));
    assert_eq!(shown(&membership), ["4: a", "4: a"]);
    assert!(!membership.commit(LogIndex(8)), "settled once");
}

#[test]
fn truncation_falls_back() {
    let mut membership = started();
    membership.append(&entry(4, &["a"]));
    assert!(!membership.truncate(LogIndex(5)));
    assert!(membership.truncate(LogIndex(4)));
    assert_eq!(shown(&membership), ["1: a b", "1: a b"]);
    assert!(!membership.is_changing());
    assert!(!membership.truncate(LogIndex(2)));
}

#[test]
#[should_panic(expected = "I6")]
fn truncation_of_a_committed_configuration_is_a_broken_law() {
    let mut membership = started();
    membership.append(&entry(4, &["a"]));
    membership.truncate(LogIndex(1));
}

#[test]
fn snapshot_configuration_counts_as_committed() {
    let index = LogIndex(7);
    let snapshot = IndexedConfiguration { index, configuration: configuration(&["a", "b"]) };
    let mut membership = Membership::new(snapshot);
    assert!(!membership.is_changing());
    assert!(!membership.append(&entry(5, &["old"])), "older than the snapshot");
    assert!(membership.append(&entry(9, &["b"])));
    assert_eq!(shown(&membership), ["9: b", "7: a b"]);
}

#[test]
fn those_who_leave_are_peers_until_that_is_committed() {
    let peers = |membership: &Membership| -> Vec<String> {
        membership.peers(&"a".into()).iter().map(|server| server.id.to_string()).collect()
    };
    let mut membership = started();
    assert_eq!(peers(&membership), ["b"]);
    membership.append(&entry(2, &["a", "c"]));
    assert_eq!(peers(&membership), ["c", "b"]);
    membership.commit(LogIndex(2));
    assert_eq!(peers(&membership), ["c"]);
    // One that leaves itself has the others as peers.
    membership.append(&entry(3, &["c"]));
    assert_eq!(peers(&membership), ["c"]);
}

/// A snapshot's configuration replaces both: nothing of the log that it took the place of is left.
#[test]
fn installed_snapshot_brings_its_configuration() {
    let mut membership = started();
    membership.append(&entry(4, &["a", "b", "c"]));
    let of_snapshot =
        IndexedConfiguration { index: LogIndex(3), configuration: configuration(&["b", "d"]) };
    membership.install(of_snapshot);
    assert_eq!(shown(&membership), ["3: b d", "3: b d"]);
    assert!(!membership.is_changing() && !membership.is_voter(&"a".into()));
    assert!(membership.append(&entry(9, &["b"])));
    assert_eq!(shown(&membership), ["9: b", "3: b d"]);
    assert!(membership.truncate(LogIndex(9)));
    assert_eq!(shown(&membership), ["3: b d", "3: b d"]);
}
