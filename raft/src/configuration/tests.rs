use super::*;

/// Voters a, b, c and the nonvoter n.
fn cluster() -> Configuration {
    Configuration::new([
        Server::nonvoter("n", "host-n"),
        Server::voter("c", "host-c"),
        Server::voter("a", "host-a"),
        Server::voter("b", "host-b"),
    ])
}

fn add_voter(id: &str, address: &str) -> ConfigurationChange {
    ConfigurationChange::AddVoter { id: id.into(), address: address.into() }
}

fn add_nonvoter(id: &str, address: &str) -> ConfigurationChange {
    ConfigurationChange::AddNonvoter { id: id.into(), address: address.into() }
}

fn demote(id: &str) -> ConfigurationChange {
    ConfigurationChange::DemoteVoter { id: id.into() }
}

fn remove(id: &str) -> ConfigurationChange {
    ConfigurationChange::RemoveServer { id: id.into() }
}

fn unknown(id: &str) -> InvalidConfiguration {
    InvalidConfiguration::UnknownServer { id: id.into() }
}

fn duplicate_address(address: &str, first: &str, second: &str) -> InvalidConfiguration {
    InvalidConfiguration::DuplicateAddress {
        address: address.into(),
        first: first.into(),
        second: second.into(),
    }
}

#[test]
fn servers_are_ordered_and_found_by_id() {
    let cluster = cluster();
    let ids: Vec<_> = cluster.servers().iter().map(|server| server.id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "c", "n"]);
    let voters: Vec<_> = cluster.voters().map(|server| server.id.as_str()).collect();
    assert_eq!(voters, ["a", "b", "c"]);
    assert_eq!(cluster.server(&"n".into()), Some(&Server::nonvoter("n", "host-n")));
    assert_eq!(cluster.server(&"x".into()), None);
    assert!(cluster.is_voter(&"a".into()));
    assert!(!cluster.is_voter(&"n".into()));
    assert!(!cluster.is_voter(&"x".into()));
    assert!(!cluster.is_empty());
    assert!(Configuration::default().is_empty());
    assert_eq!(cluster.to_string(), "a b c n(nonvoter)");
    assert_eq!(cluster.cost_bytes(), 4 * (16 + 1 + 6));
}

#[test]
fn validate_accepts_what_can_elect() {
    for servers in [
        vec![Server::voter("a", "1")],
        vec![Server::voter("a", "1"), Server::nonvoter("b", "2")],
        vec![Server::voter("a", "b"), Server::voter("b", "a")],
        vec![Server::voter("ž 🦀", "[::1]:1"), Server::voter(" ", " ")],
    ] {
        assert_eq!(Configuration::new(servers.clone()).validate(), Ok(()), "{servers:?}");
    }
    assert_eq!(cluster().validate(), Ok(()));
}

#[test]
fn validate_names_the_broken_rule() {
    use InvalidConfiguration::{DuplicateId, EmptyAddress, EmptyId, NoVoter};
    let table = [
        (vec![], NoVoter, "a configuration needs at least one voter"),
        (
            vec![Server::nonvoter("a", "1"), Server::nonvoter("b", "2")],
            NoVoter,
            "a configuration needs at least one voter",
        ),
        (
            vec![Server::voter("a", "1"), Server::voter("", "2")],
            EmptyId { address: "2".into() },
            "the server at address \"2\" has an empty id",
        ),
        (
            vec![Server::voter("a", "1"), Server::nonvoter("b", "")],
            EmptyAddress { id: "b".into() },
            "server \"b\" has an empty address",
        ),
        (
            vec![Server::voter("a", "1"), Server::voter("b", "2"), Server::nonvoter("a", "3")],
            DuplicateId { id: "a".into() },
            "server id \"a\" appears twice",
        ),
        (
            vec![Server::voter("a", "1"), Server::voter("b", "2"), Server::nonvoter("c", "1")],
            duplicate_address("1", "a", "c"),
            "servers \"a\" and \"c\" share the address \"1\"",
        ),
    ];
    for (servers, expected, text) in table {
        let error = Configuration::new(servers).validate().unwrap_err();
        assert_eq!(error, expected);
        assert_eq!(error.to_string(), text);
    }
}

/// Each change against a server that is absent, a voter, a nonvoter.
#[test]
fn every_change_of_every_kind_of_server() {
    use Suffrage::{Nonvoter, Voter};
    let table = [
        (add_voter("x", "host-x"), Ok(("x", "host-x", Some(Voter)))),
        (add_voter("a", "host-a"), Ok(("a", "host-a", Some(Voter)))),
        (add_voter("a", "moved"), Ok(("a", "moved", Some(Voter)))),
        (add_voter("n", "host-n"), Ok(("n", "host-n", Some(Voter)))),
        (add_voter("n", "moved"), Ok(("n", "moved", Some(Voter)))),
        (add_nonvoter("x", "host-x"), Ok(("x", "host-x", Some(Nonvoter)))),
        (add_nonvoter("a", "host-a"), Ok(("a", "host-a", Some(Voter)))),
        (add_nonvoter("a", "moved"), Ok(("a", "moved", Some(Voter)))),
        (add_nonvoter("n", "moved"), Ok(("n", "moved", Some(Nonvoter)))),
        (demote("x"), Err(unknown("x"))),
        (demote("a"), Ok(("a", "host-a", Some(Nonvoter)))),
        (demote("n"), Ok(("n", "host-n", Some(Nonvoter)))),
        (remove("x"), Err(unknown("x"))),
        (remove("a"), Ok(("a", "", None))),
        (remove("n"), Ok(("n", "", None))),
    ];
    for (change, expected) in table {
        let before = cluster();
        match (before.changed(&change), expected) {
            (Ok(after), Ok((id, address, suffrage))) => {
                let id = ServerId::from(id);
                let incarnation = before.server(&id).map_or(0, |server| server.incarnation);
                let target = suffrage.map(|suffrage| Server {
                    id: id.clone(),
                    address: address.into(),
                    suffrage,
                    incarnation,
                });
                assert_eq!(after.server(&id), target.as_ref(), "{change:?}");
                let others = |configuration: &Configuration| {
                    let servers = configuration.servers().iter();
                    servers.filter(|server| server.id != id).cloned().collect::<Vec<_>>()
                };
                assert_eq!(others(&after), others(&before), "{change:?} touches nobody else");
                assert!(after.servers().is_sorted_by_key(|server| &server.id), "{change:?}");
            }
            (after, expected) => assert_eq!(after.err(), expected.err(), "{change:?}"),
        }
        assert_eq!(before, cluster(), "{change:?} is pure");
    }
}

#[test]
fn a_change_must_lead_to_a_valid_configuration() {
    use InvalidConfiguration::{EmptyAddress, EmptyId, NoVoter};
    let alone = Configuration::new([Server::voter("a", "host-a"), Server::nonvoter("n", "host-n")]);
    let table = [
        (remove("a"), NoVoter),
        (demote("a"), NoVoter),
        (add_voter("x", "host-a"), duplicate_address("host-a", "a", "x")),
        (add_nonvoter("x", "host-n"), duplicate_address("host-n", "n", "x")),
        (add_nonvoter("a", "host-n"), duplicate_address("host-n", "a", "n")),
        (add_voter("", "host-x"), EmptyId { address: "host-x".into() }),
        (add_nonvoter("x", ""), EmptyAddress { id: "x".into() }),
        (remove(""), unknown("")),
    ];
    for (change, expected) in table {
        assert_eq!(alone.changed(&change), Err(expected), "{change:?}");
    }
}

#[test]
fn the_first_voter_can_be_added_to_nobody() {
    let first = Configuration::default().changed(&add_voter("a", "1"));
    assert_eq!(first, Ok(Configuration::new([Server::voter("a", "1")])));
    let nobody = Configuration::default().changed(&add_nonvoter("a", "1"));
    assert_eq!(nobody, Err(InvalidConfiguration::NoVoter));
}

/// What makes one change at a time safe (thesis §4.1).
#[test]
fn neighbouring_configurations_share_a_majority() {
    let changes = ["a", "b", "c", "n", "x"]
        .into_iter()
        .flat_map(|id| [add_voter(id, "moved"), add_nonvoter(id, "moved"), demote(id), remove(id)]);
    for change in changes {
        let before = cluster();
        let Ok(after) = before.changed(&change) else { continue };
        let (old, new) = (before.voters().count(), after.voters().count());
        let shared = before.voters().filter(|server| after.is_voter(&server.id)).count();
        let all = old + new - shared;
        assert!(all < (old / 2 + 1) + (new / 2 + 1), "{change:?}: {old} and {new} voters");
    }
}

#[test]
fn text_is_shown_as_it_is() {
    assert_eq!(ServerId::from("ž 🦀").to_string(), "ž 🦀");
    assert_eq!(format!("{:?}", ServerAddress::from("h:1".to_owned())), "\"h:1\"");
    assert_eq!(format!("{:>4}|", ServerId::new("ab")), "  ab|");
    assert_eq!(serde_json::to_string(&ServerId::new("a")).unwrap(), "\"a\"");
}

/// A configuration that no message can carry would stop replication for good.
#[test]
fn ids_and_addresses_have_a_length_that_every_message_can_carry() {
    let validate = |id, address| {
        Configuration::new([Server::voter("a".repeat(id), "h".repeat(address))]).validate()
    };
    assert_eq!(validate(255, 512), Ok(()));
    let too_long = |beginning: &str, max| {
        Err(InvalidConfiguration::TooLong { beginning: beginning.repeat(32), max })
    };
    assert_eq!(validate(256, 1), too_long("a", 255));
    assert_eq!(validate(1, 513), too_long("h", 512));
}
