//! What real clients ask of a connection and of a server beside their data, in the forms they expect.

use std::collections::{BTreeMap, BTreeSet};

use redis::{Value, aio::MultiplexedConnection};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::harness::{Cluster, PATIENCE, cmd, text, until};

async fn ask(connection: &mut MultiplexedConnection, line: &str) -> Value {
    let words: Vec<_> = line.split(' ').collect();
    cmd(&words).query_async(connection).await.unwrap_or_else(|error| panic!("{line}: {error}"))
}

async fn refused(connection: &mut MultiplexedConnection, line: &str) -> String {
    let words: Vec<_> = line.split(' ').collect();
    let error = cmd(&words).query_async::<Value>(connection).await.expect_err(line);
    format!("{} {}", error.code().unwrap_or_default(), error.detail().unwrap_or_default())
}

fn lines(value: Value) -> Vec<String> {
    let Value::BulkString(bytes) = value else { panic!("no text: {value:?}") };
    text(&bytes).lines().map(str::to_owned).collect()
}

/// `name=value name=value …`
fn fields(line: &str) -> BTreeMap<&str, &str> {
    line.split(' ').map(|field| field.split_once('=').unwrap_or((field, ""))).collect()
}

#[tokio::test]
async fn after_a_refused_multi_nothing_is_carried_out_until_the_transaction_is_over() {
    let cluster = Cluster::single(&[]).await;
    let server = &cluster.servers[0];
    let not_now = "-ERR not carried out: MULTI was refused, and so is everything until EXEC, DISCARD \
                   or RESET\r\n";
    let multi = "-ERR unknown command 'MULTI': there are no transactions; nothing is carried out until \
                 EXEC, DISCARD or RESET\r\n";
    let abort = "-EXECABORT Transaction discarded because of previous errors.\r\n";
    let bytes =
        b"SET x 1\r\nMULTI\r\nSET x 2\r\nINCR y\r\nGET x\r\nPING\r\nNOPE\r\nEXEC\r\nGET x\r\n\
        GET y\r\nEXEC\r\nDISCARD\r\nMULTI\r\nMULTI\r\nDEL x\r\nDISCARD\r\nGET x\r\nMULTI\r\n\
        FLUSHALL\r\nRESET\r\nGET x\r\nMULTI now\r\nGET x\r\nMULTI\r\nSET x 3\r\nQUIT\r\n";
    let one = "$1\r\n1\r\n";
    let expected = [
        "+OK\r\n",
        multi,
        &not_now.repeat(5),
        abort,
        one,
        "$-1\r\n",
        "-ERR EXEC without MULTI\r\n",
        "-ERR DISCARD without MULTI\r\n",
        multi,
        multi,
        not_now,
        "+OK\r\n",
        one,
        multi,
        not_now,
        "+RESET\r\n",
        one,
        "-ERR wrong number of arguments for 'multi' command\r\n",
        one,
        multi,
        not_now,
        "+OK\r\n",
    ];
    assert_eq!(text(&server.raw(bytes, usize::MAX).await), expected.concat());
}

#[tokio::test]
async fn a_refused_command_that_decides_what_follows_means_lets_nothing_follow() {
    let cluster = Cluster::single(&[]).await;
    let server = &cluster.servers[0];
    // Another database: what is meant for it must not happen to this one.
    let not_here = "-ERR not carried out: SELECT was refused, and so is everything about keys until \
                    SELECT 0 or RESET\r\n";
    let bytes = b"SET x 1\r\nSELECT 5\r\nFLUSHDB\r\nGET x\r\nPING\r\nMULTI\r\nEXEC\r\nDBSIZE\r\nSELECT 0\r\n\
        DBSIZE\r\nSELECT x\r\nDEL x\r\nRESET\r\nGET x\r\nQUIT\r\n";
    let out_of_range = "-ERR DB index is out of range\r\n";
    let got = text(&server.raw(bytes, usize::MAX).await);
    let got: Vec<_> = got.split_inclusive("\r\n").collect();
    assert_eq!(got[..5], ["+OK\r\n", out_of_range, not_here, not_here, "+PONG\r\n"]);
    assert_eq!(got[7..10], [not_here, "+OK\r\n", ":1\r\n"]);
    assert_eq!(got[11..], [not_here, "+RESET\r\n", "$1\r\n", "1\r\n", "+OK\r\n"]);

    // Without its answers a client would take each of ours for another one's.
    for switch in ["OFF", "SKIP"] {
        let bytes = format!("CLIENT REPLY ON\r\nCLIENT REPLY {switch}\r\nSET x 2\r\nGET x\r\n");
        let got = text(&server.raw(bytes.as_bytes(), usize::MAX).await);
        let expected = "+OK\r\n-ERR CLIENT REPLY OFF and SKIP are not supported: every request is answered\r\n";
        assert_eq!(got, expected, "and the connection ends");
    }
    // Whoever takes this server for another one.
    let got = server.raw(b"RAFT.FORWARDED zed\r\nSET x 2\r\n", usize::MAX).await;
    assert_eq!(text(&got), "-ERR this is server a\r\n");
    assert_eq!(server.ask::<i64>(&["GET", "x"]).await.unwrap(), 1);
}

#[tokio::test]
async fn client_list_and_info_have_what_clients_look_for() {
    let cluster = Cluster::single(&[]).await;
    let server = &cluster.servers[0];
    let c = &mut server.connect().await;
    ask(c, "client setname me").await;
    ask(c, "client setinfo LIB-NAME test(x)").await;
    ask(c, "client setinfo lib-ver 1.2.3").await;
    ask(c, "get k").await;
    let info = lines(ask(c, "client info").await);
    let [line] = &info[..] else { panic!("not one line: {info:?}") };
    let own = fields(line);
    // Those that valkey-py and redis-py turn into numbers, without asking whether they are there.
    let numbers = "id age idle db sub psub ssub multi watch qbuf qbuf-free argv-mem multi-mem rbs rbp \
                   obl oll omem tot-mem fd redir resp";
    for name in numbers.split(' ') {
        assert!(own.get(name).is_some_and(|value| value.parse::<i64>().is_ok()), "{name}: {line}");
    }
    let texts = [("name", "me"), ("lib-name", "test(x)"), ("lib-ver", "1.2.3"), ("flags", "N")];
    let texts = texts.into_iter().chain([("cmd", "client"), ("user", "default"), ("events", "r")]);
    for (name, value) in texts.chain([("laddr", &server.resp[..])]) {
        assert_eq!(own.get(name), Some(&value), "{line}");
    }

    let mut other = TcpStream::connect(&server.resp).await.unwrap();
    other.write_all(b"HELLO 3\r\n").await.unwrap();
    other.read_exact(&mut [0; 4]).await.unwrap();
    let address = other.local_addr().unwrap().to_string();
    let listed = lines(ask(c, "client list").await);
    let found = listed.iter().map(|line| fields(line)).find(|f| f["addr"] == address);
    let found = found.unwrap_or_else(|| panic!("{address} is not in {listed:?}"));
    assert_eq!((found["resp"], found["cmd"], found["name"]), ("3", "hello", ""));
    let (mine, id) = (own["id"], found["id"].to_owned());
    let both = lines(ask(c, &format!("client list id {id} {mine} 999999")).await);
    assert_eq!(both.len(), 2, "{both:?}");
    assert_eq!(lines(ask(c, "client list type normal").await).len(), listed.len());
    assert_eq!(lines(ask(c, "client list type pubsub").await).len(), 0);
    drop(other);
    until("it is off the list", async || {
        lines(ask(c, &format!("client list id {id}")).await).is_empty().then_some(())
    })
    .await;

    let errors = [
        ("client setinfo lib-nam x", "ERR Unrecognized option 'lib-nam'"),
        (
            "client setinfo lib-ver \u{e9}",
            "ERR lib-ver cannot contain spaces, newlines or special characters.",
        ),
        ("client setinfo lib-ver", "ERR wrong number of arguments for 'client|setinfo' command"),
        ("client no-evict maybe", "ERR syntax error"),
        ("client list type odd", "ERR Unknown client type 'odd'"),
        ("client list id x", "ERR Invalid client ID"),
        ("client list ids 1", "ERR syntax error"),
        ("client nope", "ERR unknown subcommand 'nope'. Try CLIENT HELP."),
    ];
    for (line, expected) in errors {
        assert_eq!(refused(c, line).await, expected, "{line}");
    }
}

/// `redis-cli --stat` and monitoring read these, and print nonsense for those that are not there.
#[tokio::test]
async fn info_has_the_numbers_that_tools_show() {
    let cluster = Cluster::single(&["--max-connections", "77"]).await;
    let c = &mut cluster.servers[0].connect().await;
    ask(c, "set k v").await;
    let info = lines(ask(c, "info").await);
    let number = |name: &str| {
        let line = info.iter().find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.and_then(|value| value.parse::<u64>().ok())
            .unwrap_or_else(|| panic!("{name}: {info:?}"))
    };
    assert!(1 << 20 < number("used_memory") && number("used_memory") <= number("used_memory_peak"));
    assert_eq!((number("maxclients"), number("blocked_clients"), number("loading")), (77, 0, 0));
    assert!(0 < number("connected_clients") && 0 < number("total_connections_received"));
    assert!(0 < number("total_commands_processed"));
    for name in ["rdb_bgsave_in_progress", "aof_rewrite_in_progress", "rejected_connections"] {
        assert_eq!(number(name), 0, "{name}");
    }
    assert!(info.contains(&"db0:keys=1,expires=0,avg_ttl=0".to_owned()), "{info:?}");
}

#[tokio::test]
async fn command_says_which_words_are_keys_and_lists_what_is_asked_for() {
    let cluster = Cluster::single(&[]).await;
    let c = &mut cluster.servers[0].connect().await;
    // As Redis 7 answers.
    let cases = [
        ("get", [1, 1, 1], "readonly fast", "@read @string @fast"),
        ("mget", [1, -1, 1], "readonly fast", "@read @string @fast"),
        ("mset", [1, -1, 2], "write denyoom", "@write @string @slow"),
        ("del", [1, -1, 1], "write", "@keyspace @write @slow"),
        ("scan", [0, 0, 0], "readonly", "@keyspace @read @slow"),
        ("ping", [0, 0, 0], "fast", "@fast @connection"),
    ];
    for (name, keys, flags, categories) in cases {
        let Value::Array(found) = ask(c, &format!("command info {name}")).await else { panic!() };
        let [Value::Array(entry)] = &found[..] else { panic!("{found:?}") };
        assert_eq!(entry[3..6], keys.map(Value::Int), "{name}");
        let expected = |words: &str| -> BTreeSet<_> {
            words.split(' ').map(|word| format!("{:?}", Value::SimpleString(word.into()))).collect()
        };
        let words = |value: &Value| -> BTreeSet<_> {
            let Value::Array(words) = value else { panic!("{value:?}") };
            words.iter().map(|word| format!("{word:?}")).collect()
        };
        assert_eq!((words(&entry[2]), words(&entry[6])), (expected(flags), expected(categories)));
    }
    let lists = [
        ("command list filterby pattern *Get*", vec!["get", "getset", "mget"]),
        ("command list filterby aclcat dangerous", vec!["flushall", "flushdb", "info"]),
        ("command list filterby module json", vec![]),
        ("command list filterby pattern multi", vec![]),
    ];
    for (line, names) in lists {
        let names = names.into_iter().map(|name| Value::BulkString(name.into())).collect();
        assert_eq!(ask(c, line).await, Value::Array(names), "{line}");
    }
    for line in ["command list filterby pattern", "command list filterby color x"] {
        assert_eq!(refused(c, line).await, "ERR syntax error", "{line}");
    }
}

/// Without passwords, the one user there is may give any.
#[tokio::test]
async fn a_client_that_has_a_password_is_let_in() {
    let cluster = Cluster::single(&[]).await;
    let server = &cluster.servers[0];
    let hello =
        text(&server.raw(b"HELLO 3 AUTH default any SETNAME me\r\nQUIT\r\n", usize::MAX).await);
    assert!(hello.starts_with("%7\r\n$6\r\nserver\r\n") && hello.ends_with("+OK\r\n"), "{hello}");
    let wrong = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
    let bytes = b"AUTH default any\r\nAUTH me any\r\nHELLO 3 AUTH me any\r\nGET absent\r\nAUTH any\r\nQUIT\r\n";
    let got = text(&server.raw(bytes, usize::MAX).await);
    let rest = got.strip_prefix(&["+OK\r\n", wrong, wrong, "$-1\r\n"].concat());
    let rest = rest.unwrap_or_else(|| panic!("{got}"));
    assert!(rest.starts_with("-ERR AUTH <password> called without any password"), "{rest}");
}

#[tokio::test]
async fn people_may_quote_what_they_type() {
    let cluster = Cluster::single(&[]).await;
    let server = &cluster.servers[0];
    let bytes = b"SET \"a key\" 'it\\'s \"x\"'\r\nGET 'a key'\r\nSET k \"\\x00\\n\"\r\nSTRLEN k\r\nGET 'a\r\n";
    let expected = "+OK\r\n$8\r\nit's \"x\"\r\n+OK\r\n:2\r\n-ERR Protocol error: unbalanced quotes in request\r\n";
    assert_eq!(text(&server.raw(bytes, usize::MAX).await), expected);
}

/// All the replies are as much as the client asked for, and nobody holds them for it.
#[tokio::test(flavor = "multi_thread")]
async fn replies_are_held_neither_where_they_are_made_nor_where_they_are_passed_on() {
    const TIMES: usize = 400;
    const VALUE: usize = 1_000_000;
    const LIMIT: u64 = 150 << 20;
    let cluster = Cluster::three(&crate::harness::CALM).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let leader = cluster.server(&leader);
    let mut c = leader.connect().await;
    redis::cmd("SET").arg("k").arg(vec![b'x'; VALUE]).exec_async(&mut c).await.unwrap();
    let pipeline = "GET k\r\n".repeat(TIMES);
    let array = format!("MGET{}\r\n", " k".repeat(TIMES));
    for server in [leader, follower] {
        for request in [&pipeline, &array] {
            let mut stream = TcpStream::connect(&server.resp).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let (mut left, mut piece) = (TIMES * VALUE, vec![0; 1 << 20]);
            while 0 < left {
                let len = timeout(PATIENCE, stream.read(&mut piece)).await.unwrap().unwrap();
                assert_ne!(len, 0, "{left} are missing");
                left = left.saturating_sub(len);
            }
        }
        let peak = server.memory_peak();
        assert!(peak < LIMIT, "{} held {} MiB", server.id, peak >> 20);
    }
}
