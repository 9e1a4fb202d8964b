use super::*;

fn options() -> TcpOptions {
    TcpOptions::new("127.0.0.1:7000", "c")
}

#[test]
fn the_defaults_are_valid() {
    options().validate().unwrap();
}

#[test]
fn every_number_has_a_range_and_the_error_names_the_field() {
    let ms = Duration::from_millis;
    let changed = |change: &dyn Fn(&mut TcpOptions)| {
        let mut options = options();
        change(&mut options);
        options.validate().unwrap_err().field
    };
    assert_eq!(changed(&|o| o.cluster_id = String::new()), "cluster_id");
    assert_eq!(changed(&|o| o.cluster_id = "x".repeat(256)), "cluster_id");
    assert_eq!(changed(&|o| o.connect_timeout = ms(9)), "connect_timeout");
    assert_eq!(changed(&|o| o.handshake_timeout = ms(60_001)), "handshake_timeout");
    assert_eq!(changed(&|o| o.idle_timeout = ms(39)), "idle_timeout");
    assert_eq!(changed(&|o| o.backoff_min = ms(0)), "backoff_min");
    assert_eq!(changed(&|o| o.backoff_max = ms(19)), "backoff_max");
    assert_eq!(changed(&|o| o.urgent_queue = 0), "urgent_queue");
    assert_eq!(changed(&|o| o.entries_queue = 65_537), "entries_queue");
    assert_eq!(changed(&|o| o.queue_bytes = 1023), "queue_bytes");
    assert_eq!(changed(&|o| o.max_frame_bytes = (1 << 30) + 1), "max_frame_bytes");
    assert_eq!(changed(&|o| o.max_inbound = 1), "max_inbound");
    assert_eq!(changed(&|o| o.bind = "7000".to_owned()), "bind");
    assert_eq!(changed(&|o| o.bind = ":7000".to_owned()), "bind");
    assert_eq!(changed(&|o| o.bind = "::1:7000".to_owned()), "bind");
    assert_eq!(changed(&|o| o.bind = "h:70000".to_owned()), "bind");
}

#[test]
fn an_error_says_the_rule_and_the_value() {
    let error = options().with(|it| it.urgent_queue = 0).validate().unwrap_err();
    let expected = "invalid setting `urgent_queue`: must be 1 to 65536 messages, but is 0";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn an_address_nobody_can_dial_is_refused() {
    let cases = [
        ("0.0.0.0:7000", "is an unspecified address"),
        ("[::]:7000", "is an unspecified address"),
        ("[::ffff:0.0.0.0]:7000", "is an unspecified address"),
        ("host:0", "has port 0"),
        (":7000", "has no host"),
        ("host", "has no port"),
        ("host:http", "has the port \"http\""),
        ("fe80::1:7000", "is not an IPv6 address in brackets"),
    ];
    for (address, why) in cases {
        let advertise = Some(address.to_owned());
        let error = options().with(|it| it.advertise = advertise).validate().unwrap_err();
        assert_eq!(error.field, "advertise");
        let expected = format!("but {address:?} {why}; give the host:port by which");
        assert!(error.rule.contains(&expected), "{error}");
    }
    for address in ["host:1", "10.0.0.1:7000", "[::1]:7000"] {
        options().with(|it| it.advertise = Some(address.to_owned())).validate().unwrap();
    }
}

#[test]
fn what_is_advertised_follows_from_what_is_bound() {
    let advertised = |bind: &str, bound: &str| {
        let advertised = TcpOptions::new(bind, "c").advertised(bound.parse().unwrap());
        advertised.map(|address| address.to_string())
    };
    assert_eq!(advertised("127.0.0.1:0", "127.0.0.1:4321").unwrap(), "127.0.0.1:4321");
    assert_eq!(advertised("[::1]:0", "[::1]:4321").unwrap(), "[::1]:4321");
    assert_eq!(advertised("localhost:0", "127.0.0.1:4321").unwrap(), "localhost:4321");
    assert_eq!(advertised("0.0.0.0:7000", "0.0.0.0:7000").unwrap_err().field, "advertise");
}

#[test]
fn options_are_read_from_what_they_are_written_to() {
    let ms = Duration::from_millis;
    let options = options().with(|it| {
        it.advertise = Some("host:1".to_owned());
        it.connect_timeout = ms(11);
        it.handshake_timeout = ms(12);
        it.idle_timeout = ms(1300);
        it.backoff_min = ms(14);
        it.backoff_max = ms(1500);
        it.urgent_queue = 16;
        it.entries_queue = 17;
        it.queue_bytes = 18;
        it.max_frame_bytes = 19;
        it.max_inbound = 20;
    });
    let text = serde_json::to_string(&options).unwrap();
    assert_eq!(serde_json::from_str::<TcpOptions>(&text).unwrap(), options, "{text}");

    let text = r#"{ "bind": "127.0.0.1:7000", "cluster_id": "c", "idle_timeout_seconds": 1.3 }"#;
    let read: TcpOptions = serde_json::from_str(text).unwrap();
    assert_eq!(read, TcpOptions::new("127.0.0.1:7000", "c").with(|it| it.idle_timeout = ms(1300)));
    let nameless: TcpOptions = serde_json::from_str("{}").unwrap();
    assert_eq!(nameless.validate().unwrap_err().field, "bind");
    let unknown = serde_json::from_str::<TcpOptions>(r#"{ "port": 1 }"#).unwrap_err();
    assert!(unknown.to_string().starts_with("unknown field `port`"), "{unknown}");
}
