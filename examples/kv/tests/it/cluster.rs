//! Several servers: requests through any of them, leaders that die, members that come and go.

use redis::AsyncTypedCommands;
use serde_json::json;

use crate::harness::{CALM, Cluster, Server, cmd, until};

#[tokio::test(flavor = "multi_thread")]
async fn any_server_takes_any_request() {
    let cluster = Cluster::three(&CALM).await;
    for writer in &cluster.servers {
        for n in 0..20 {
            let key = format!("{}:{n}", writer.id);
            writer.ask::<()>(&["SET", &key, "x"]).await.unwrap();
            // Acknowledged through one, at once visible through every other.
            for reader in &cluster.servers {
                let got: Option<String> = reader.ask(&["GET", &key]).await.unwrap();
                assert_eq!(got.as_deref(), Some("x"), "{key} through {}", reader.id);
            }
        }
    }

    // Many at once through all: no increment is lost or done twice.
    let mut clients = tokio::task::JoinSet::new();
    for turn in 0..12 {
        let mut connection = cluster.servers[turn % 3].connect().await;
        clients.spawn(async move {
            for _ in 0..20 {
                let mut pipeline = redis::pipe();
                for _ in 0..10 {
                    pipeline.cmd("INCR").arg("count");
                }
                pipeline.exec_async(&mut connection).await.unwrap();
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    let follower = cluster.follower().await;
    assert_eq!(follower.ask::<i64>(&["GET", "count"]).await.unwrap(), 2400);

    // A mixed pipeline through a follower: in order, reads after writes.
    let mut pipeline = redis::pipe();
    for n in 0..200 {
        pipeline.cmd("SET").arg("p").arg(n).cmd("GET").arg("p").cmd("PING");
    }
    let mut connection = follower.connect_with("?protocol=resp3").await;
    let replies: Vec<String> = pipeline.query_async(&mut connection).await.unwrap();
    for (n, replies) in replies.chunks(3).enumerate() {
        assert_eq!(replies, ["OK".to_owned(), n.to_string(), "PONG".to_owned()]);
    }
    cluster.checksum().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_the_leader_and_then_everybody() {
    let mut cluster = Cluster::three(&CALM).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await.id.clone();
    let mut connection = cluster.server(&follower).connect().await;
    for n in 0..300 {
        connection.set(format!("k{n}"), n).await.unwrap();
    }
    cluster.server_mut(&leader).kill();

    // The same connection goes on: the follower finds the next leader and passes requests there.
    let mut unknown = 0;
    for n in 300..400 {
        let set = cmd(&["SET", &format!("k{n}"), &n.to_string()]);
        until("a write is accepted", async || match set.query_async::<()>(&mut connection).await {
            Ok(()) => Some(()),
            Err(error) => {
                let code = error.code().map(str::to_owned);
                assert!(matches!(code.as_deref(), Some("UNKNOWN" | "CLUSTERDOWN")), "{error}");
                unknown += 1;
                None
            }
        })
        .await;
    }
    assert!(unknown <= 2, "{unknown} errors: at most what was in flight, and one long wait");
    let count: i64 = cmd(&["DBSIZE"]).query_async(&mut connection).await.unwrap();
    assert_eq!(count, 400);
    let next = cluster.leader_other_than(&leader).await;
    assert_ne!(next, leader);

    // It comes back, with its own flags, and catches up.
    cluster.server_mut(&leader).start(&CALM);
    cluster.leader().await;
    let before = cluster.checksum().await;

    // The lights go out.
    for server in &mut cluster.servers {
        server.kill();
    }
    for server in &mut cluster.servers {
        server.start(&CALM);
    }
    cluster.leader().await;
    assert_eq!(cluster.checksum().await, before);
    let got: Vec<String> = cluster.servers[0].ask(&["MGET", "k0", "k399"]).await.unwrap();
    assert_eq!(got, ["0", "399"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_the_answer_is_a_clear_error_in_time() {
    let flags = ["--no-leader-wait", "1s"];
    let mut cluster = Cluster::three(&flags).await;
    let leader = cluster.leader().await;
    let survivor = cluster.follower().await.id.clone();
    for server in &mut cluster.servers {
        if server.id != survivor {
            server.kill();
        }
    }
    let survivor = cluster.server(&survivor);
    for words in [&["SET", "k", "v"][..], &["GET", "k"]] {
        let error = until("the server knows", async || {
            let error = survivor.ask::<redis::Value>(words).await.expect_err("no majority");
            // At first there is one, who does not answer.
            let said = "no leader was found within 1s; nothing was done";
            (error.detail() == Some(said)).then_some(error)
        })
        .await;
        assert_eq!(error.code(), Some("CLUSTERDOWN"));
    }
    // What needs no leader goes on.
    assert_eq!(survivor.ask::<String>(&["PING"]).await.unwrap(), "PONG");
    let (code, body) = survivor.http("GET", "/health", "");
    assert_eq!((code, body["error"].as_str()), (503, Some("no leader is known")));
    let (code, _) = survivor.http("POST", "/transfer", "");
    assert_eq!(code, 503);

    cluster.server_mut(&leader).start(&flags);
    let leader = cluster.leader().await;
    assert_eq!(cluster.server(&leader).http("GET", "/health", "").0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go() {
    let mut cluster = Cluster::single(&CALM).await;
    for (id, flags) in [("b", &[][..]), ("c", &["--nonvoter"])] {
        let mut server = Server::new(cluster.directory.path(), id);
        let member = cluster.servers.last().unwrap().http.clone();
        // Asks whoever came last: it need not be the leader.
        server.start(&[&["--join", &member][..], flags, &CALM].concat());
        cluster.servers.push(server);
        until("the new member knows itself", async || {
            let (_, members) = cluster.server(id).http("GET", "/members", "");
            members["members"]
                .as_array()?
                .iter()
                .find(|m| m["id"] == id && m["resp"].is_string())?;
            Some(())
        })
        .await;
    }
    cluster.leader().await;
    let suffrages = |cluster: &Cluster| {
        let (_, members) = cluster.servers[0].http("GET", "/members", "");
        let list = members["members"].as_array().cloned().unwrap_or_default();
        list.iter().map(|m| (m["id"].clone(), m["voter"].clone())).collect::<Vec<_>>()
    };
    let expected = |list: &[(&str, bool)]| -> Vec<_> {
        list.iter().map(|(id, voter)| (json!(id), json!(voter))).collect()
    };
    assert_eq!(suffrages(&cluster), expected(&[("a", true), ("b", true), ("c", false)]));

    // Through a follower, which names the leader.
    let b = cluster.server("b");
    let body = json!({ "id": "c", "address": cluster.server("c").raft }).to_string();
    let (code, answer) = b.http("POST", "/members", &body);
    assert_eq!((code, answer["error"].as_str()), (307, Some("not the leader; the leader is a")));
    // `kv ctl` goes there by itself.
    let (done, said) = b.ctl(&["add", "c", &cluster.server("c").raft]);
    assert!(done && said.contains("is a voter since entry"), "{said}");
    assert_eq!(suffrages(&cluster), expected(&[("a", true), ("b", true), ("c", true)]));

    let (done, said) = b.ctl(&["demote", "c"]);
    assert!(done && said.contains("c is a nonvoter since entry"), "{said}");
    let (done, said) = b.ctl(&["transfer", "c"]);
    assert!(!done && said.contains("not a voter"), "{said}");
    let (done, said) = b.ctl(&["transfer", "b"]);
    assert!(done && said == "b leads now\n", "{said}");
    assert_eq!(cluster.leader().await, "b");

    cluster.servers[0].ask::<()>(&["SET", "k", "v"]).await.unwrap();
    let checksum = cluster.checksum().await;
    let (done, status) = cluster.server("c").ctl(&["status"]);
    assert!(done && status.starts_with("server     c of cluster kv, "), "{status}");
    assert_eq!(status.matches(&checksum).count(), 4, "{status}");
    assert!(status.lines().any(|line| line.starts_with("b  ") && line.contains("leader")));
    let (done, json) = cluster.server("c").ctl(&["status", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(done && json["id"] == "c" && json["raft"]["term"].is_u64());

    let (done, said) = cluster.server("b").ctl(&["remove", "a"]);
    assert!(done && said.contains("a is no member since entry"), "{said}");
    let (done, said) = cluster.server("b").ctl(&["remove", "a"]);
    assert!(!done && said.contains("\"a\" is not in the configuration"), "{said}");
    cluster.server_mut("a").kill();
    let (done, said) = cluster.server("b").ctl(&["members"]);
    assert!(done && said.lines().count() == 3 && !said.contains("\na "), "{said}");
    let got: String = cluster.server("c").ask(&["GET", "k"]).await.unwrap();
    assert_eq!(got, "v");
}
