use super::*;

/// A change of one field that breaks its rule, or just keeps it.
type Change = fn(&mut Config);

fn changed(change: Change) -> Config {
    let mut config = Config::new("a");
    change(&mut config);
    config
}

#[test]
fn the_defaults_are_valid() {
    let config = Config::new("a");
    assert_eq!(config.validate(), Ok(()));
    assert_eq!(config.local_id, ServerId::from("a"));
}

#[test]
fn every_rule_names_its_field_and_itself() {
    const MS: Duration = Duration::from_millis(1);
    const NS: Duration = Duration::from_nanos(1);
    const HOUR: Duration = Duration::from_secs(3600);
    let table: &[(&str, &str, Change)] = &[
        ("local_id", "must not be empty", |c| c.local_id = ServerId::from("")),
        ("heartbeat_interval", "1ms to 3600s", |c| c.heartbeat_interval = Duration::ZERO),
        ("heartbeat_interval", "1ms to 3600s", |c| c.heartbeat_interval = MS - NS),
        ("heartbeat_interval", "1ms to 3600s", |c| c.heartbeat_interval = HOUR + NS),
        ("election_timeout", "10ms to 3600s", |c| {
            (c.election_timeout, c.heartbeat_interval) = (10 * MS - NS, MS);
        }),
        ("election_timeout", "10ms to 3600s", |c| c.election_timeout = HOUR + NS),
        ("election_timeout", "300ms to 3600s", |c| c.election_timeout = 300 * MS - NS),
        ("leader_lease_timeout", "200ms to 1s", |c| c.leader_lease_timeout = 200 * MS - NS),
        ("leader_lease_timeout", "200ms to 1s", |c| c.leader_lease_timeout = 1000 * MS + NS),
        ("write_stall_timeout", "1s to 86400s", |c| c.write_stall_timeout = 1000 * MS - NS),
        ("write_stall_timeout", "1s to 86400s", |c| c.write_stall_timeout = 24 * HOUR + NS),
        ("apply_stall_timeout", "1s to 86400s", |c| c.apply_stall_timeout = 1000 * MS - NS),
        ("apply_stall_timeout", "1s to 86400s", |c| c.apply_stall_timeout = 24 * HOUR + NS),
        ("max_append_entries", "1 to 65536", |c| c.max_append_entries = 0),
        ("max_append_entries", "1 to 65536", |c| c.max_append_entries = 65_537),
        ("max_append_bytes", "1024 to 1073741824", |c| c.max_append_bytes = 1023),
        ("max_append_bytes", "1024 to 1073741824", |c| c.max_append_bytes = (1 << 30) + 1),
        ("max_inflight_appends", "1 to 1024", |c| c.max_inflight_appends = 0),
        ("max_inflight_appends", "1 to 1024", |c| c.max_inflight_appends = 1025),
        ("max_inflight_bytes", "1048576 to 17179869184", |c| c.max_inflight_bytes = (1 << 20) - 1),
        ("max_inflight_bytes", "1048576 to 17179869184", |c| c.max_inflight_bytes = (1 << 34) + 1),
        ("max_command_bytes", "1 to 67108864", |c| c.max_command_bytes = 0),
        ("max_command_bytes", "1 to 67108864", |c| c.max_command_bytes = (64 << 20) + 1),
        ("apply_queue", "1 to 1048576", |c| c.apply_queue = 0),
        ("apply_queue", "1 to 1048576", |c| c.apply_queue = (1 << 20) + 1),
        ("apply_queue_bytes", "5000 to 2147483648", |c| {
            (c.max_command_bytes, c.apply_queue_bytes) = (5000, 4999);
        }),
        ("apply_queue_bytes", "to 2147483648", |c| c.apply_queue_bytes = (1 << 31) + 1),
        ("rpc_queue", "16 to 1048576", |c| c.rpc_queue = 15),
        ("rpc_queue", "16 to 1048576", |c| c.rpc_queue = (1 << 20) + 1),
        ("rpc_queue_bytes", "1048576 to 2147483648", |c| c.rpc_queue_bytes = (1 << 20) - 1),
        ("rpc_queue_bytes", "2097152 to 2147483648", |c| {
            (c.max_command_bytes, c.rpc_queue_bytes) = (2 << 20, (2 << 20) - 1);
        }),
        ("rpc_queue_bytes", "to 2147483648", |c| c.rpc_queue_bytes = (1 << 31) + 1),
        ("enqueue_timeout", "1ms to 86400s", |c| c.enqueue_timeout = MS - NS),
        ("enqueue_timeout", "1ms to 86400s", |c| c.enqueue_timeout = 24 * HOUR + NS),
        ("max_unapplied_entries", "1 to 1073741824", |c| c.max_unapplied_entries = 0),
        ("max_unapplied_entries", "1 to 1073741824", |c| c.max_unapplied_entries = (1 << 30) + 1),
        ("max_unapplied_bytes", "1024 to 1099511627776", |c| c.max_unapplied_bytes = 1023),
        ("max_unapplied_bytes", "1024 to 1099511627776", |c| c.max_unapplied_bytes = (1 << 40) + 1),
        ("max_pending_writes", "16 to 1048576", |c| c.max_pending_writes = 15),
        ("max_pending_writes", "16 to 1048576", |c| c.max_pending_writes = (1 << 20) + 1),
        ("log_cache_bytes", "0 to 1099511627776", |c| c.log_cache_bytes = (1 << 40) + 1),
        ("max_apply_batch", "1 to 1048576", |c| c.max_apply_batch = 0),
        ("max_apply_batch", "1 to 1048576", |c| c.max_apply_batch = (1 << 20) + 1),
        ("max_apply_time", "1ms to 3600s", |c| c.max_apply_time = MS - NS),
        ("max_apply_time", "1ms to 3600s", |c| c.max_apply_time = HOUR + NS),
    ];
    for (field, rule, change) in table {
        let error = changed(*change).validate().unwrap_err();
        assert_eq!(error.field, *field, "{error}");
        assert!(error.rule.contains(rule), "{error} does not say {rule:?}");
        assert!(error.to_string().contains(field), "{error} does not name {field}");
    }
}

#[test]
fn the_edges_of_every_rule_are_valid() {
    const MS: Duration = Duration::from_millis(1);
    const HOUR: Duration = Duration::from_secs(3600);
    let table: &[Change] = &[
        |c| {
            (c.heartbeat_interval, c.election_timeout) = (MS, 10 * MS);
            (c.leader_lease_timeout, c.write_stall_timeout) = (2 * MS, 10 * MS);
            c.apply_stall_timeout = 10 * MS;
        },
        |c| {
            (c.heartbeat_interval, c.election_timeout) = (HOUR / 3, HOUR);
            (c.leader_lease_timeout, c.write_stall_timeout) = (HOUR, 24 * HOUR);
            c.apply_stall_timeout = 24 * HOUR;
        },
        |c| c.election_timeout = 500 * MS,
        |c| c.leader_lease_timeout = 200 * MS,
        |c| c.leader_lease_timeout = c.election_timeout,
        |c| c.write_stall_timeout = c.election_timeout,
        |c| (c.max_append_entries, c.max_append_bytes) = (1, 1 << 10),
        |c| c.max_append_entries = 65_536,
        |c| {
            (c.max_append_bytes, c.max_inflight_bytes) = (1 << 30, 1 << 30);
            c.rpc_queue_bytes = 1 << 30;
        },
        |c| (c.max_inflight_appends, c.max_inflight_bytes) = (1, 1 << 20),
        |c| (c.max_inflight_appends, c.max_inflight_bytes) = (1024, 1 << 34),
        |c| c.max_command_bytes = 1,
        |c| c.max_command_bytes = 64 << 20,
        |c| (c.apply_queue, c.rpc_queue) = (1, 16),
        |c| (c.apply_queue, c.rpc_queue) = (1 << 20, 1 << 20),
        |c| (c.apply_queue_bytes, c.rpc_queue_bytes) = (1 << 20, 1 << 20),
        |c| (c.apply_queue_bytes, c.rpc_queue_bytes) = (1 << 31, 1 << 31),
        |c| c.enqueue_timeout = MS,
        |c| c.enqueue_timeout = 24 * HOUR,
        |c| (c.max_unapplied_entries, c.max_unapplied_bytes) = (1, 1 << 10),
        |c| (c.max_unapplied_entries, c.max_unapplied_bytes) = (1 << 30, 1 << 40),
        |c| (c.max_pending_writes, c.max_apply_batch) = (16, 1),
        |c| (c.max_pending_writes, c.max_apply_batch) = (1 << 20, 1 << 20),
        |c| c.max_apply_time = MS,
        |c| c.max_apply_time = HOUR,
        |c| c.log_cache_bytes = 0,
        |c| c.log_cache_bytes = 1 << 40,
        |c| c.pre_vote = false,
        |c| *c = c.clone().with_seed(u64::MAX),
    ];
    for (number, change) in table.iter().enumerate() {
        assert_eq!(changed(*change).validate(), Ok(()), "line {number} of the table");
    }
}

#[test]
fn an_error_reads_as_one_sentence() {
    let error = changed(|c| c.max_apply_batch = 0).validate().unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid setting `max_apply_batch`: must be 1 to 1048576, but is 0"
    );
}

/// An entry that no message can carry would be sent, refused and sent again for ever; so would a
/// piece of a snapshot.
#[test]
fn what_is_accepted_must_fit_into_a_message_of_the_transport() {
    let config = Config::new("a").with(|it| {
        it.max_append_bytes = 1 << 10;
        it.max_command_bytes = 4096;
        it.snapshot_chunk_bytes = 1 << 10;
    });
    assert_eq!(config.validate_for(4096 + 32), Ok(()));
    let field = |config: &Config| config.validate_for(4096 + 31).unwrap_err().field;
    assert_eq!(field(&config), "max_command_bytes");
    assert_eq!(field(&config.clone().with(|it| it.max_append_bytes = 8192)), "max_append_bytes");
    assert_eq!(field(&config.with(|it| it.snapshot_chunk_bytes = 8192)), "snapshot_chunk_bytes");
}

/// Each setting by itself has another value, and keeps it.
#[test]
fn settings_are_read_from_what_they_are_written_to() {
    let round_trip = |config: &Config| {
        let text = serde_json::to_string(config).unwrap();
        serde_json::from_str::<Config>(&text).unwrap()
    };
    let defaults = Config::new("a");
    assert_eq!(round_trip(&defaults), defaults);
    let serde_json::Value::Object(written) = serde_json::to_value(&defaults).unwrap() else {
        panic!("settings are an object");
    };
    for (name, value) in &written {
        // Another value of the same kind for one setting at a time.
        let other: serde_json::Value = match value {
            serde_json::Value::Bool(it) => (!it).into(),
            serde_json::Value::String(it) => format!("{it}2").into(),
            serde_json::Value::Number(it) if it.is_f64() => (it.as_f64().unwrap() + 0.25).into(),
            serde_json::Value::Number(it) => (it.as_u64().unwrap() + 1).into(),
            _ => panic!("{name} is {value}"),
        };
        let text = serde_json::json!({ "local_id": "a", name: other }).to_string();
        let changed: Config = serde_json::from_str(&text).unwrap();
        assert_ne!(changed, defaults, "{name} is read");
        assert_eq!(round_trip(&changed), changed, "{name}");
        assert_eq!(serde_json::to_value(&changed).unwrap()[name], other, "{name}");
    }
}

#[test]
fn what_a_file_says_wrong_is_named() {
    let error = |text| serde_json::from_str::<Config>(text).unwrap_err().to_string();
    let unknown = error(r#"{ "election_timeout": 1 }"#);
    assert!(unknown.starts_with("unknown field `election_timeout`, expected one of"), "{unknown}");
    assert!(unknown.contains("`election_timeout_seconds`"), "{unknown}");
    let negative = error(r#"{ "election_timeout_seconds": -1 }"#);
    assert!(negative.starts_with("-1 seconds: "), "{negative}");
    let long = error(r#"{ "election_timeout_seconds": 1e300 }"#);
    assert!(long.contains("seconds: "), "{long}");

    let nameless: Config = serde_json::from_str("{}").unwrap();
    assert_eq!(nameless.validate().unwrap_err().field, "local_id");
    let text = r#"{ "local_id": "a", "heartbeat_interval_seconds": 2 }"#;
    let config: Config = serde_json::from_str(text).unwrap();
    assert_eq!(config.validate().unwrap_err().field, "election_timeout");
}

#[test]
fn a_seed_is_not_written() {
    let text = serde_json::to_string(&Config::new("a").with_seed(7)).unwrap();
    assert!(!text.contains("seed"), "{text}");
}

#[test]
fn timeouts_are_scaled_together() {
    let defaults = Config::new("a");
    for factor in [0.1, 0.5, 1.0, 2.0, 10.0, 1000.0] {
        let config = defaults.clone().scale_timeouts(factor).unwrap();
        let back = Config {
            heartbeat_interval: defaults.heartbeat_interval,
            election_timeout: defaults.election_timeout,
            leader_lease_timeout: defaults.leader_lease_timeout,
            write_stall_timeout: defaults.write_stall_timeout,
            apply_stall_timeout: defaults.apply_stall_timeout,
            ..config.clone()
        };
        assert_eq!(back, defaults, "nothing else has changed");
        for (scaled, timeout) in [
            (config.heartbeat_interval, defaults.heartbeat_interval),
            (config.election_timeout, defaults.election_timeout),
            (config.leader_lease_timeout, defaults.leader_lease_timeout),
            (config.write_stall_timeout, defaults.write_stall_timeout),
            (config.apply_stall_timeout, defaults.apply_stall_timeout),
        ] {
            assert_eq!(scaled, timeout.mul_f64(factor), "{factor}");
        }
    }
    for factor in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(defaults.clone().scale_timeouts(factor).unwrap_err().field, "factor");
    }
    let field = |factor| defaults.clone().scale_timeouts(factor).unwrap_err().field;
    assert_eq!(field(0.001), "heartbeat_interval");
    assert_eq!(field(1e4), "election_timeout");
    assert_eq!(field(1e300), "heartbeat_interval");
}
