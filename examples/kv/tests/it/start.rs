//! Starting, starting again, starting wrongly, and stopping.

use std::{
    fs::{self, File},
    process::{Command, Stdio},
};

use redis::AsyncTypedCommands;
use serde_json::json;

use crate::harness::{Cluster, Server, kv, run, text, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_brings_everything_back() {
    let mut cluster = Cluster::single(&[]).await;
    let mut connection = cluster.servers[0].connect().await;
    for n in 0..100 {
        connection.incr("count", n).await.unwrap();
    }
    let before = cluster.checksum().await;
    let server = &mut cluster.servers[0];
    assert!(server.terminate().await.success(), "SIGTERM is an orderly end");
    // The flags of the first start may stay.
    server.start(&["--bootstrap"]);
    cluster.leader().await;
    assert_eq!(cluster.checksum().await, before);
    let server = &mut cluster.servers[0];
    server.kill();
    server.start(&[]);
    cluster.leader().await;
    assert_eq!(cluster.checksum().await, before);
    assert_eq!(cluster.servers[0].ask::<i64>(&["GET", "count"]).await.unwrap(), 4950);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_cluster_waits_to_be_added() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::new(directory.path(), "lonely");
    server.start(&["--no-leader-wait", "100ms"]);
    let error = server.ask::<()>(&["SET", "k", "v"]).await.unwrap_err();
    assert_eq!(error.code(), Some("CLUSTERDOWN"));
    let (_, members) = server.http("GET", "/members", "");
    assert_eq!(members["members"].as_array().map(Vec::len), Some(0));
    let log = server.log();
    let line = log.lines().find(|line| line.contains("belongs to no cluster yet: "));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    let add = format!("add lonely {}", server.raft);
    let ways = [add.as_str(), "--join MEMBER", "--bootstrap"];
    assert!(line.contains("WARN") && ways.iter().all(|way| line.contains(way)), "{line}");
    let (_, said) = server.ctl(&["status"]);
    assert!(
        said.contains("\nlog        empty; ") && said.contains("\nmembers    none\n"),
        "{said}"
    );

    let cluster = Cluster::single(&[]).await;
    let (done, said) = cluster.servers[0].ctl(&["add", "lonely", &server.raft]);
    assert!(done, "{said}");
    until("it is part of the cluster", async || server.ask::<()>(&["SET", "k", "v"]).await.ok())
        .await;
}

/// As the message of the first start says.
#[tokio::test(flavor = "multi_thread")]
async fn a_flag_that_was_forgotten_at_the_first_start_is_given_at_the_second() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::new(directory.path(), "a");
    server.start(&[]);
    until("it waits", async || server.log().contains("belongs to no cluster yet").then_some(()))
        .await;
    server.kill();
    server.start(&["--bootstrap"]);
    until("it leads", async || server.ask::<()>(&["SET", "k", "v"]).await.ok()).await;
    server.kill();
    server.start(&["--bootstrap"]);
    let found = until("it leads", async || server.ask::<String>(&["GET", "k"]).await.ok()).await;
    assert_eq!(found, "v");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_is_one_line_and_a_failure() {
    let cluster = Cluster::single(&[]).await;
    let running = &cluster.servers[0];
    let directory = tempfile::tempdir().unwrap();

    // A port in use, of each kind.
    for (port, whom) in [(&running.resp, "Redis clients"), (&running.http, "operators")] {
        let mut server = Server::new(directory.path(), "p");
        let target = if whom == "operators" { &mut server.http } else { &mut server.resp };
        target.clone_from(port);
        let said = server.fails(&["--bootstrap"]);
        assert!(said.contains(&format!("cannot listen on {port} for {whom}")), "{said}");
    }
    let mut server = Server::new(directory.path(), "p");
    server.raft.clone_from(&running.raft);
    let said = server.fails(&["--bootstrap"]);
    assert!(said.contains(&format!("cannot listen on {}", running.raft)), "{said}");

    // A directory in use, of somebody else, of something else, or not to be made.
    let thief = Server::new(cluster.directory.path(), "a");
    let said = thief.fails(&["--bootstrap"]);
    assert!(said.contains("a=") || said.contains("in use") || said.contains("lock"), "{said}");
    let said = thief.fails(&[]);
    assert!(said.contains("in use") || said.contains("lock"), "{said}");
    let data = running.data();
    let mut other = Server::new(directory.path(), "other");
    let said = other.refuses(&["--data-dir", data.to_str().unwrap()]);
    assert!(said.contains("used multiple times"), "{said}");
    fs::create_dir(directory.path().join("mine")).unwrap();
    fs::write(directory.path().join("mine/thesis.tex"), "x").unwrap();
    other.id = "mine".to_owned();
    let said = other.fails(&[]);
    assert!(said.contains("holds thesis.tex but no server.json"), "{said}");
    other.id = "mine/thesis.tex".to_owned();
    let said = other.refuses(&[]);
    assert!(said.contains("an id is up to 64"), "{said}");

    // Flags that make no sense.
    let server = Server::new(directory.path(), "f");
    let cases: [(&[&str], &str); 13] = [
        (&["--election-timeout", "5"], "a time is a number with its unit"),
        (&["--election-timeout", "100ms"], "invalid setting `election_timeout`"),
        (&["--heartbeat", "10s"], "invalid setting"),
        (&["--max-pipeline", "0"], "0 is not in 1..=65536"),
        (&["--peer", "b=h:1"], "--bootstrap"),
        (&["--bootstrap", "--peer", "b"], "a peer is ID=HOST:PORT"),
        (&["--bootstrap", "--peer", "b=0.0.0.0:1"], "0.0.0.0 is every address of whoever dials it"),
        (&["--bootstrap", "--peer", "f=h:1"], "server f is said to be at"),
        (&["--bootstrap", "--join", "h:1"], "cannot be used with"),
        (&["--log", "loud=="], "invalid value 'loud==' for '--log <FILTER>'"),
        (&["--advertise", "h:1"], "a host is a name, an IPv4 address, or an IPv6 address in"),
        (&["--advertise", ""], "'--advertise <HOST>'"),
        (&["--join", "two words:1"], "an address is HOST:PORT"),
    ];
    for (flags, expected) in cases {
        let said = server.refuses(flags);
        assert!(said.contains(expected), "{flags:?}: {said}");
    }
    let mut nameless = Server::new(directory.path(), "f");
    nameless.id.clear();
    assert!(nameless.refuses(&[]).contains("an id must not be empty"));
    let mut everywhere = Server::new(directory.path(), "f");
    everywhere.resp = "0.0.0.0:6379".to_owned();
    assert!(everywhere.refuses(&[]).contains("give --advertise HOST"));
    assert!(!directory.path().join("f").exists(), "nothing was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_bootstrapped_once() {
    let mut cluster = Cluster::single(&[]).await;
    let server = &mut cluster.servers[0];
    server.kill();
    let said = server.fails(&["--bootstrap", "--peer", "b=127.0.0.1:1"]);
    assert!(said.contains("cannot bootstrap: the cluster in"), "{said}");
    assert!(said.contains(&format!("was bootstrapped with a={}", server.raft)), "{said}");
    server.start(&["--bootstrap"]);
    cluster.leader().await;

    // Nor by one that has joined.
    let mut second = Server::new(cluster.directory.path(), "b");
    second.start(&["--join", &cluster.servers[0].http]);
    until("it has joined", async || {
        let (_, members) = second.http("GET", "/members", "");
        (members["members"].as_array()?.len() == 2).then_some(())
    })
    .await;
    let begun = second.data().join("server.begun");
    until("it has noted that", async || begun.exists().then_some(())).await;
    second.kill();
    let said = second.fails(&["--bootstrap"]);
    assert!(said.contains("server b") && said.contains("has joined a cluster"), "{said}");
    // Nor if its log is gone.
    fs::remove_dir_all(second.data().join("log")).unwrap();
    let said = second.fails(&["--bootstrap"]);
    assert!(said.contains("has joined a cluster"), "{said}");
    assert!(second.fails(&[]).contains(" is gone"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_ends_with_its_parent() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::new(directory.path(), "a");
    let mut command = server.command(&["--bootstrap", "--log", "error"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    until("it answers", async || (server.http("GET", "/status", "").0 == 200).then_some(())).await;
    drop(child.stdin.take());
    let status = until("it ends", async || child.try_wait().unwrap()).await;
    assert!(status.success());
}

#[test]
fn help_is_help_and_nonsense_is_refused() {
    for args in [
        &["--help"][..],
        &["serve", "--help"],
        &["ctl", "--help"],
        &["backup", "--help"],
        &["restore", "--help"],
        &["inspect", "--help"],
        &["recover", "--help"],
        &["demo", "--help"],
        &["ctl", "add", "--help"],
        &["ctl", "rejoin", "--help"],
    ] {
        let output = run(args);
        assert!(output.status.success());
        assert!(text(&output.stdout).contains("Usage: kv"), "{args:?}");
    }
    let serve = text(&run(&["serve", "--help"]).stdout);
    for part in ["[default: 127.0.0.1:6379]", "[env: KV_DATA_DIR=]", "redis-cli -p 6382"] {
        assert!(serve.contains(part), "{part} is not in the help");
    }
    let output = run(&["fly"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stderr).lines().count(), 1);
    let output = run(&["ctl", "add", "x", "nowhere"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.trim_end().ends_with("(see `kv ctl add --help`)"), "{said}");
    // Before anything is begun.
    let output = run(&["demo", "--log", "loud=="]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), String::new()));
    assert!(text(&output.stderr).trim_end().ends_with("(see `kv demo --help`)"));
    // Nobody there.
    let output = run(&["ctl", "--http", "127.0.0.1:1", "status"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.starts_with("kv: cannot ask http://127.0.0.1:1/members"), "{said}");
    assert_eq!(said.lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_stop_it_in_order_or_not_at_all() {
    let mut cluster = Cluster::single(&[]).await;
    let server = &mut cluster.servers[0];
    for signal in ["HUP", "USR1", "USR2"] {
        server.signal(signal);
    }
    until("SIGHUP is taken", async || server.log().contains("SIGHUP: settings").then_some(()))
        .await;
    server.ask::<()>(&["SET", "k", "v"]).await.unwrap();
    assert_eq!(server.terminate().await.code(), Some(0));

    // One that hangs at its very beginning, before anything is opened.
    let data = server.data();
    fs::remove_file(data.join("server.json")).unwrap();
    let made = Command::new("mkfifo").arg(data.join("server.json")).status().unwrap();
    assert!(made.success());
    server.start(&[]);
    let pipe = data.join("server.json");
    let opened = tokio::task::spawn_blocking(move || File::options().write(true).open(pipe));
    // It reads there now, and there is nothing to read.
    let _pipe = opened.await.unwrap().unwrap();
    assert_eq!(server.terminate().await.code(), Some(0), "{}", server.log());
}

/// However little of its log is read, a server serves, and ends as it is told to.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_is_no_reason_to_stop() {
    let directory = tempfile::tempdir().unwrap();
    let farewell = json!({ "id": "b", "cluster": "kv", "why": "x".repeat(1000) }).to_string();
    for (id, is_gone) in [("gone", true), ("stuck", false)] {
        let server = Server::new(directory.path(), id);
        let peer = "b=127.0.0.1:1";
        let mut command = server.command(&["--bootstrap", "--peer", peer, "--log", "info"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let alive = async || (server.http("GET", "/status", "").0 == 200).then_some(());
        until("it serves", alive).await;
        let log = child.stderr.take().filter(|_| !is_gone);
        // More than a pipe holds.
        for _ in 0..200 {
            let (code, said) = server.http("POST", "/farewell", &farewell);
            assert_eq!(code, 200, "{id}: {said}");
        }
        let (code, status) = server.http("GET", "/status", "");
        assert_eq!((code, status["id"].as_str()), (200, Some(id)));
        let killed = Command::new("kill").arg(child.id().to_string()).status().unwrap();
        assert!(killed.success());
        let ended = until("it ends", async || child.try_wait().unwrap()).await;
        assert_eq!(ended.code(), Some(0), "{id}");
        drop(log);
    }
    // Nor is one that is full.
    let mut server = Server::new(directory.path(), "full");
    let mut command = server.command(&["--bootstrap"]);
    let full = File::options().write(true).open("/dev/full").unwrap();
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(full);
    let mut child = command.spawn().unwrap();
    server.ask::<()>(&["SET", "k", "v"]).await.unwrap();
    drop(child.stdin.take());
    let ended = until("it ends", async || child.try_wait().unwrap()).await;
    assert_eq!(ended.code(), Some(0));
    // And a tool says by its exit code what it cannot say otherwise.
    server.id.clear();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let ended = server.command(&[]).stderr(full).status().unwrap();
    assert_eq!(ended.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_are_read_as_people_write_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::new(directory.path(), "a");
    // As a file for containers has them, with all that is not wanted left empty.
    let mut command = server.command(&[]);
    command.env("KV_BOOTSTRAP", "1").env("KV_JOIN", "").env("KV_ADVERTISE", "");
    command.env("KV_PEERS", format!("a={0}, b=127.0.0.1:1", server.raft));
    server.start_command(command);
    let members = until("it serves", async || {
        let (_, members) = server.http("GET", "/members", "");
        Some(members["members"].as_array()?.len())
    })
    .await;
    assert_eq!(members, 2);

    let mut server = Server::new(directory.path(), "joins");
    let mut command = server.command(&["--join", "127.0.0.1:1"]);
    command.env("KV_BOOTSTRAP", "false");
    server.start_command(command);
    let alive = async || (server.http("GET", "/status", "").0 == 200).then_some(());
    until("a variable that says no is no contradiction", alive).await;

    let output = kv().arg("inspect").env("KV_DATA_DIR", "").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--data-dir"), "{}", text(&output.stderr));
    let server = Server::new(directory.path(), "maybe");
    let output = server.command(&[]).env("KV_BOOTSTRAP", "maybe").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("'maybe'"), "{}", text(&output.stderr));
}
