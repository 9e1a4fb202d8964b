//! Every command, with its edges, on one server.

use redis::{AsyncTypedCommands, Value, aio::MultiplexedConnection};

use crate::harness::{Cluster, cmd, text};

async fn ask(connection: &mut MultiplexedConnection, line: &str) -> Value {
    let words: Vec<_> = line.split(' ').collect();
    cmd(&words).query_async(connection).await.unwrap_or_else(|error| panic!("{line}: {error}"))
}

async fn refused(connection: &mut MultiplexedConnection, line: &str) -> String {
    let words: Vec<_> = line.split(' ').collect();
    let error = cmd(&words).query_async::<Value>(connection).await.expect_err(line);
    format!("{} {}", error.code().unwrap_or_default(), error.detail().unwrap_or_default())
}

fn bulk(text: &str) -> Value {
    Value::BulkString(text.as_bytes().to_vec())
}

#[tokio::test]
async fn strings_and_counters() {
    let cluster = Cluster::single(&[]).await;
    let c = &mut cluster.servers[0].connect().await;

    let cases = [
        ("get k", Value::Nil),
        ("set k v", Value::Okay),
        ("get k", bulk("v")),
        ("GET k", bulk("v")),
        ("set k w xx", Value::Okay),
        ("set absent w xx", Value::Nil),
        ("set k x nx", Value::Nil),
        ("set k x get", bulk("w")),
        ("set k y nx get", bulk("x")),
        ("set fresh y nx get", Value::Nil),
        ("get fresh", bulk("y")),
        ("setnx k z", Value::Int(0)),
        ("setnx new z", Value::Int(1)),
        ("getset k a", bulk("x")),
        ("getset other a", Value::Nil),
        ("append k bc", Value::Int(3)),
        ("append grown abc", Value::Int(3)),
        ("strlen k", Value::Int(3)),
        ("strlen absent", Value::Int(0)),
        ("mset m1 1 m2 2 m1 3", Value::Okay),
        ("mget m1 absent m2", Value::Array(vec![bulk("3"), Value::Nil, bulk("2")])),
        ("exists m1 m1 absent", Value::Int(2)),
        ("del m1 m2 absent", Value::Int(2)),
        ("unlink other", Value::Int(1)),
        ("type k", Value::SimpleString("string".to_owned())),
        ("type absent", Value::SimpleString("none".to_owned())),
        ("ttl k", Value::Int(-1)),
        ("incr n", Value::Int(1)),
        ("incrby n 41", Value::Int(42)),
        ("decr n", Value::Int(41)),
        ("decrby n 51", Value::Int(-10)),
        ("incrby n -9223372036854775798", Value::Int(i64::MIN)),
        ("get n", bulk("-9223372036854775808")),
        ("dbsize", Value::Int(5)),
        ("flushdb", Value::Okay),
        ("dbsize", Value::Int(0)),
        ("set k v", Value::Okay),
        ("flushall async", Value::Okay),
        ("exists k", Value::Int(0)),
    ];
    for (line, expected) in cases {
        assert_eq!(ask(c, line).await, expected, "{line}");
    }

    ask(c, "mset text ten min -9223372036854775808 max 9223372036854775807").await;
    let errors = [
        ("incr text", "ERR value is not an integer or out of range"),
        ("incrby max x", "ERR value is not an integer or out of range"),
        ("incr max", "ERR increment or decrement would overflow"),
        ("decr min", "ERR increment or decrement would overflow"),
        ("decrby max -9223372036854775808", "ERR decrement would overflow"),
        ("get", "ERR wrong number of arguments for 'get' command"),
        ("get a b", "ERR wrong number of arguments for 'get' command"),
        ("mset a", "ERR wrong number of arguments for 'mset' command"),
        ("mset a 1 b", "ERR wrong number of arguments for 'mset' command"),
        ("set k v ex 10", "ERR option EX is not supported: keys do not expire here"),
        ("set k v nx xx", "ERR syntax error"),
        ("set k v fast", "ERR syntax error"),
        ("lpush l x", "ERR unknown command 'lpush', with args beginning with: 'l' 'x' "),
        ("scan soon", "ERR invalid cursor"),
        ("select 1", "ERR DB index is out of range"),
        ("hello 4", "NOPROTO unsupported protocol version"),
        ("config set save x", "ERR settings are flags of `kv serve` and cannot be changed here"),
        ("raft.forwarded zed", "ERR this is server a"),
    ];
    for (line, expected) in errors {
        assert_eq!(refused(c, line).await, expected, "{line}");
    }
    // A server that was taken for another one has hung up.
    let c = &mut cluster.servers[0].connect().await;
    assert_eq!(ask(c, "get max").await, bulk("9223372036854775807"), "a refusal changes nothing");
}

#[tokio::test]
async fn bytes_of_any_kind_and_size() {
    let cluster = Cluster::single(&[]).await;
    let mut c = cluster.servers[0].connect().await;
    let all: Vec<u8> = (0..=255).collect();
    let large = vec![b'x'; 1_000_000];
    for (key, value) in [(&all[..], &b""[..]), (b"", &all), (b"\r\n", &large)] {
        c.set(key, value).await.unwrap();
        let got: Option<Vec<u8>> = redis::cmd("GET").arg(key).query_async(&mut c).await.unwrap();
        assert_eq!(got.as_deref(), Some(value));
    }
    let too_large = c.set("k", vec![0; 1 << 20]).await.unwrap_err();
    assert!(too_large.to_string().contains("too big request"), "{too_large}");
    // Only that connection is gone.
    let mut c = cluster.servers[0].connect().await;
    assert_eq!(c.get_int("absent").await.unwrap(), None);
}

#[tokio::test]
async fn a_pipeline_is_answered_in_order_and_its_reads_see_its_writes() {
    let cluster = Cluster::single(&[]).await;
    let mut c = cluster.servers[0].connect().await;
    let mut pipeline = redis::pipe();
    for n in 0..3000_i64 {
        pipeline.cmd("SET").arg(format!("k{}", n % 7)).arg(n);
        pipeline.cmd("INCR").arg("count");
        pipeline.cmd("GET").arg(format!("k{}", n % 7));
        pipeline.cmd("ECHO").arg(n);
    }
    let replies: Vec<Value> = pipeline.query_async(&mut c).await.unwrap();
    assert_eq!(replies.len(), 12_000);
    for (n, replies) in (0..3000_i64).zip(replies.chunks(4)) {
        let number = bulk(&n.to_string());
        let expected = [Value::Okay, Value::Int(n + 1), number.clone(), number];
        assert_eq!(replies, expected);
    }

    // An error in the middle is the error of its own request only.
    let bytes = b"SET e 1\r\nGET\r\nINCR e\r\nNOPE\r\nGET e\r\nSET e x\r\nINCR e\r\nPING\r\n";
    let expected = "+OK\r\n-ERR wrong number of arguments for 'get' command\r\n:2\r\n\
        -ERR unknown command 'NOPE', with args beginning with: \r\n$1\r\n2\r\n+OK\r\n\
        -ERR value is not an integer or out of range\r\n+PONG\r\n";
    let got = cluster.servers[0].raw(bytes, expected.len()).await;
    assert_eq!(text(&got), expected);
}

#[tokio::test]
async fn a_walk_meets_every_key() {
    let cluster = Cluster::single(&[]).await;
    let mut c = cluster.servers[0].connect().await;
    let mut pipeline = redis::pipe();
    for n in 0..1000 {
        pipeline.cmd("SET").arg(format!("user:{n}")).arg(n);
        pipeline.cmd("SET").arg(format!("other:{n}")).arg(n);
    }
    pipeline.exec_async(&mut c).await.unwrap();

    let (mut cursor, mut keys, mut calls) = (0_u64, Vec::<String>::new(), 0);
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg("user:*").arg("COUNT").arg(100);
        let (next, page): (u64, Vec<String>) = scan.query_async(&mut c).await.unwrap();
        keys.extend(page);
        calls += 1;
        cursor = next;
        if cursor == 0 {
            break;
        }
        // What comes and goes meanwhile does not hide what stays.
        c.set(format!("other:new:{calls}"), calls).await.unwrap();
        c.del(format!("other:{calls}")).await.unwrap();
    }
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 1000);
    assert!((15..40).contains(&calls), "{calls} calls");

    let mut iter = c.scan_match::<_, String>("user:99?").await.unwrap();
    let mut found = Vec::new();
    while let Some(key) = iter.next_item().await {
        found.push(key.unwrap());
    }
    assert_eq!(found.len(), 10);
}

#[tokio::test]
async fn what_clients_ask_of_a_connection() {
    let cluster = Cluster::single(&[]).await;
    let server = &cluster.servers[0];
    let c = &mut server.connect().await;
    let cases = [
        ("ping", Value::SimpleString("PONG".to_owned())),
        ("ping hi", bulk("hi")),
        ("echo hi", bulk("hi")),
        ("select 0", Value::Okay),
        ("client setname me", Value::Okay),
        ("client getname", bulk("me")),
        ("client setinfo lib-name test", Value::Okay),
        ("config get save", Value::Array(vec![bulk("save"), bulk("")])),
        (
            "config get APPEND*",
            Value::Array(["appendfsync", "always", "appendonly", "yes"].map(bulk).to_vec()),
        ),
        ("command docs", Value::Array(vec![])),
        ("reset", Value::SimpleString("RESET".to_owned())),
        ("client getname", Value::Nil),
    ];
    for (line, expected) in cases {
        assert_eq!(ask(c, line).await, expected, "{line}");
    }
    let Value::Int(count) = ask(c, "command count").await else { panic!("no count") };
    let Value::Array(commands) = ask(c, "command").await else { panic!("no list") };
    assert_eq!(commands.len(), usize::try_from(count).unwrap());
    let Value::BulkString(info) = ask(c, "info").await else { panic!("no info") };
    let info = text(&info);
    for line in ["redis_version:", "raft_role:leader", "raft_leader:a", "connected_clients:"] {
        assert!(info.contains(line), "{line} is not in {info}");
    }
    let Value::BulkString(part) = ask(c, "info clients").await else { panic!("no info") };
    assert!(text(&part).starts_with("# Clients") && !text(&part).contains("# Server"));

    let goodbye = server.raw(b"PING\r\nQUIT\r\nPING\r\n", usize::MAX).await;
    assert_eq!(text(&goodbye), "+PONG\r\n+OK\r\n", "and the connection ends");
}

#[tokio::test]
async fn both_versions_of_the_protocol() {
    let cluster = Cluster::single(&[]).await;
    let server = &cluster.servers[0];
    let mut c = server.connect_with("?protocol=resp3").await;
    c.set("k", "v").await.unwrap();
    assert_eq!(ask(&mut c, "get k").await, bulk("v"));
    assert_eq!(ask(&mut c, "get absent").await, Value::Nil);
    let map = Value::Map(vec![(bulk("save"), bulk(""))]);
    assert_eq!(ask(&mut c, "config get save").await, map);

    let bytes =
        b"GET absent\r\nHELLO 3\r\nGET absent\r\nHELLO 2 SETNAME me\r\nGET absent\r\nQUIT\r\n";
    let got = text(&server.raw(bytes, usize::MAX).await);
    assert!(got.starts_with("$-1\r\n%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n"), "{got}");
    assert!(got.contains("\r\n_\r\n*14\r\n$6\r\nserver\r\n"), "{got}");
    assert!(got.ends_with("\r\n*0\r\n$-1\r\n+OK\r\n"), "{got}");
}

/// What servers say to each other is nobody else's business.
#[tokio::test]
async fn command_tells_of_what_is_for_clients() {
    let cluster = Cluster::single(&[]).await;
    let c = &mut cluster.servers[0].connect().await;
    let Value::Array(listed) = ask(c, "command list").await else { panic!("no list") };
    assert!(listed.contains(&bulk("get")) && 30 <= listed.len(), "{listed:?}");
    assert!(!format!("{listed:?}").contains("raft."), "{listed:?}");
    assert_eq!(ask(c, "command count").await, Value::Int(listed.len() as i64));
    let Value::Array(all) = ask(c, "command").await else { panic!("no table") };
    assert_eq!(all.len(), listed.len());
    assert_eq!(ask(c, "command info raft.announce").await, Value::Array(vec![Value::Nil]));
}
