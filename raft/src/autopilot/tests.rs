//! The rules, on statuses made up for them.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::rules::{Decision, Memory};
use crate::{
    autopilot::health::{AutopilotConfig, Promotion},
    configuration::{Configuration, IndexedConfiguration, Server, ServerId},
    position::{LogId, LogIndex, Term},
    status::{LogMarks, PeerStatus, ProgressState, Role, Status, Timeouts},
};

const SECOND: Duration = Duration::from_secs(1);

/// A member: its id, whether it votes, the seconds since it was heard from, and its lag.
type Member = (&'static str, bool, u64, u64);

/// What leader `a` says of a cluster of itself and these members.
fn status(members: &[Member]) -> Status {
    let last = LogId::new(1, 10_000);
    let server = |&(id, is_voter, _, _): &Member| {
        if is_voter { Server::voter(id, id) } else { Server::nonvoter(id, id) }
    };
    let servers = members.iter().map(server).chain([Server::voter("a", "a")]);
    let configuration =
        IndexedConfiguration { index: LogIndex(7), configuration: Configuration::new(servers) };
    let peer = |&(id, _, seconds, lag): &Member| PeerStatus {
        id: id.into(),
        progress: ProgressState::Replicate,
        match_index: LogIndex(last.index.0 - lag),
        next_index: last.index.next(),
        lag_entries: lag,
        last_contact: seconds as u32 * SECOND,
        round_trip: None,
        is_lost: false,
        is_stalled: false,
        inflight: 0,
        snapshot_received_bytes: None,
        snapshot_size_bytes: None,
        applied_index: LogIndex(last.index.0 - lag),
        can_serve: true,
    };
    Status {
        id: "a".into(),
        role: Role::Leader,
        term: Term(1),
        leader: None,
        last,
        marks: LogMarks::default(),
        snapshot: LogId::ZERO,
        snapshot_size_bytes: None,
        snapshot_age: None,
        persisting: None,
        receiving: None,
        committed_configuration: configuration.clone(),
        latest_configuration: configuration,
        last_contact: Some(Duration::ZERO),
        uptime: Duration::ZERO,
        oldest_entry_age: None,
        last_restore: None,
        run_busy_percent: 0,
        fsm_busy_percent: 0,
        log_busy_percent: 0,
        timeouts: Timeouts::default(),
        config: Arc::new(crate::Config::new("a")),
        peers: members.iter().map(peer).collect(),
        wrong_address: None,
        wrong_disk: None,
        wrong_disks: Vec::new(),
        can_serve: true,
        log_trouble: None,
    }
}

fn config() -> AutopilotConfig {
    AutopilotConfig::default().with(|it| {
        it.promotion = Promotion::All;
        it.dead_after = Some(60 * SECOND);
    })
}

fn remove(id: &str) -> Option<Decision> {
    Some(Decision::Remove { id: id.into() })
}

fn promote(id: &str) -> Option<Decision> {
    Some(Decision::Promote { id: id.into(), address: id.into() })
}

/// Looks at these statuses one after another, so many seconds apart, and decides on the last one.
fn decide(config: &AutopilotConfig, apart: u32, statuses: &[Status]) -> Option<Decision> {
    let mut memory = Memory::default();
    let start = Instant::now();
    let mut decision = None;
    for (at, status) in statuses.iter().enumerate() {
        let state = memory.look(start + at as u32 * apart * SECOND, config, status);
        decision = memory.decide(config, status, &state);
    }
    decision
}

#[test]
fn health_is_contact_and_lag() {
    let mut memory = Memory::default();
    let members = [("b", true, 0, 0), ("c", true, 2, 0), ("d", true, 0, 1001), ("e", false, 1, 9)];
    let state = memory.look(Instant::now(), &config(), &status(&members));
    let healthy: Vec<(&str, bool)> =
        state.servers.iter().map(|server| (server.id.as_str(), server.is_healthy)).collect();
    assert_eq!(healthy, [("a", true), ("b", true), ("c", false), ("d", false), ("e", true)]);
    assert!(!state.is_healthy);
    // Of four voters two are healthy, which is no majority.
    assert_eq!(state.failure_tolerance, 0);
    let state =
        memory.look(Instant::now(), &config(), &status(&[("b", true, 0, 0), ("c", true, 0, 0)]));
    assert!(state.is_healthy);
    assert_eq!(state.failure_tolerance, 1);
}

#[test]
fn a_nonvoter_is_promoted_when_it_has_been_healthy_for_long_enough_without_a_break() {
    let healthy = status(&[("b", true, 0, 0), ("n", false, 0, 0)]);
    let behind = status(&[("b", true, 0, 0), ("n", false, 0, 5000)]);
    let looks = |of: &[&Status]| of.iter().map(|status| (*status).clone()).collect::<Vec<_>>();
    let three = looks(&[&healthy, &healthy, &healthy]);
    assert_eq!(decide(&config(), 5, &three), promote("n"));
    assert_eq!(decide(&config(), 4, &three), None);
    assert_eq!(decide(&config(), 5, &looks(&[&healthy, &behind, &healthy])), None);
    assert_eq!(
        decide(&config(), 5, &looks(&[&behind, &healthy, &healthy, &healthy])),
        promote("n")
    );
}

#[test]
fn only_those_that_are_meant_are_promoted() {
    let statuses = vec![status(&[("b", true, 0, 0), ("m", false, 0, 0), ("n", false, 0, 0)]); 3];
    let only = |ids: &[&str]| Promotion::Only(ids.iter().map(|id| ServerId::new(*id)).collect());
    let with = |promotion| config().with(|it| it.promotion = promotion);
    assert_eq!(decide(&with(Promotion::Never), 10, &statuses), None);
    assert_eq!(decide(&with(only(&["n"])), 10, &statuses), promote("n"));
    assert_eq!(decide(&with(only(&[])), 10, &statuses), None);
}

#[test]
fn another_leadership_begins_to_count_anew() {
    let first = status(&[("b", true, 0, 0), ("n", false, 0, 0)]);
    let next = Status { term: Term(2), ..first.clone() };
    let follower = Status { role: Role::Follower, ..first.clone() };
    assert_eq!(decide(&config(), 10, &[first.clone(), next]), None);
    assert_eq!(decide(&config(), 10, &[first.clone(), follower.clone(), first.clone()]), None);
    assert_eq!(decide(&config(), 10, &[first, follower]), None);
}

#[test]
fn the_dead_are_removed_nonvoters_first() {
    let four = [("b", true, 0, 0), ("c", true, 0, 0), ("d", true, 60, 0)];
    assert_eq!(decide(&config(), 1, &[status(&four)]), remove("d"));
    let with_nonvoter = [&four[..], &[("n", false, 61, 0)]].concat();
    assert_eq!(decide(&config(), 1, &[status(&with_nonvoter)]), remove("n"));
    let still_alive = [("b", true, 0, 0), ("c", true, 0, 0), ("d", true, 59, 0)];
    assert_eq!(decide(&config(), 1, &[status(&still_alive)]), None);
    let off = config().with(|it| it.dead_after = None);
    assert_eq!(decide(&off, 1, &[status(&four)]), None);
}

#[test]
fn removals_leave_the_minimum_and_a_healthy_majority() {
    let three = [("b", true, 0, 0), ("c", true, 99, 0)];
    assert_eq!(decide(&config(), 1, &[status(&three)]), None);
    let two_are_enough = config().with(|it| it.min_quorum = 2);
    assert_eq!(decide(&two_are_enough, 1, &[status(&three)]), remove("c"));
    // Of five two are dead and one is ill: after a removal two of four would be healthy.
    let five = [("b", true, 0, 0), ("c", true, 30, 0), ("d", true, 99, 0), ("e", true, 99, 0)];
    assert_eq!(decide(&config(), 1, &[status(&five)]), None);
    let better = [("b", true, 0, 0), ("c", true, 0, 0), ("d", true, 99, 0), ("e", true, 99, 0)];
    assert_eq!(decide(&config(), 1, &[status(&better)]), remove("d"));
}

#[test]
fn nothing_is_changed_while_a_change_is_under_way() {
    let mut changing = status(&[("b", true, 0, 0), ("c", true, 0, 0), ("d", true, 99, 0)]);
    changing.committed_configuration.index = LogIndex(6);
    assert_eq!(decide(&config(), 1, &[changing]), None);
}

#[test]
fn invalid_settings_name_the_field() {
    let field = |config: AutopilotConfig| config.validate().map_err(|error| error.field);
    let default = AutopilotConfig::default;
    assert_eq!(field(default()), Ok(()));
    assert_eq!(field(default().with(|it| it.interval = Duration::ZERO)), Err("interval"));
    let contact = default().with(|it| it.last_contact_threshold = Duration::ZERO);
    assert_eq!(field(contact), Err("last_contact_threshold"));
    let dead = default().with(|it| it.dead_after = Some(SECOND / 2));
    assert_eq!(field(dead), Err("dead_after"));
    assert_eq!(field(default().with(|it| it.min_quorum = 0)), Err("min_quorum"));
}

#[test]
fn settings_are_read_from_what_they_are_written_to() {
    let only = ["n".into(), "o".into()].into();
    for config in [
        AutopilotConfig::default(),
        AutopilotConfig::default().with(|it| {
            it.interval = SECOND / 4;
            it.last_contact_threshold = SECOND / 2;
            it.max_trailing_logs = 7;
            it.stabilization_time = 3 * SECOND;
            it.promotion = Promotion::Only(only);
            it.dead_after = Some(90 * SECOND);
            it.min_quorum = 5;
        }),
        AutopilotConfig::default().with(|it| it.promotion = Promotion::All),
    ] {
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<AutopilotConfig>(&text).unwrap(), config, "{text}");
    }
    let config: AutopilotConfig = serde_json::from_str(r#"{ "dead_after_seconds": 1.5 }"#).unwrap();
    assert_eq!(config.dead_after, Some(SECOND * 3 / 2));
    let error = serde_json::from_str::<AutopilotConfig>(r#"{ "dead_after": 1 }"#).unwrap_err();
    assert!(error.to_string().starts_with("unknown field `dead_after`"), "{error}");
}
