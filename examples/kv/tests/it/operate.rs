//! What operators live with: orderly stops, removals, servers that come back empty, the autopilot,
//! and numbers.

use std::{collections::BTreeSet, fs, process::Stdio, time::Duration};

use tokio::time::Instant;

use crate::harness::{CALM, Cluster, Server, cmd, kv, text, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_told_to_stop_hands_over_first() {
    const ELECTION_TIMEOUT: Duration = Duration::from_secs(10);
    let flags = ["--election-timeout", "10s", "--no-leader-wait", "30s"];
    let mut cluster = Cluster::three(&flags).await;
    let leader = cluster.leader().await;
    let mut connection = cluster.follower().await.connect().await;
    let writing = tokio::spawn(async move {
        let (mut last, mut longest, mut after) = (Instant::now(), Duration::ZERO, 0);
        while after < 200 {
            let set = cmd(&["INCR", "n"]);
            if set.query_async::<i64>(&mut connection).await.is_ok() {
                longest = longest.max(last.elapsed());
                last = Instant::now();
                after += 1;
            }
        }
        longest
    });
    let status = cluster.server_mut(&leader).terminate().await;
    assert_eq!(status.code(), Some(0));
    let longest = writing.await.unwrap();
    assert!(longest < ELECTION_TIMEOUT / 2, "no write for {longest:?}");
    cluster.leader_other_than(&leader).await;

    // A follower has nothing to hand over.
    let follower = cluster.follower().await.id.clone();
    assert_eq!(cluster.server_mut(&follower).terminate().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_server_says_so_and_ends_well() {
    let mut cluster = Cluster::three(&CALM).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await.id.clone());
    cluster.servers[0].ask::<()>(&["SET", "k", "v"]).await.unwrap();
    // A follower, and then the leader itself.
    for gone in [follower, leader] {
        let (ok, said) = cluster.server(&gone).ctl(&["remove", &gone]);
        assert!(ok, "{said}");
        let status = cluster.server_mut(&gone).ended().await;
        assert_eq!(status.code(), Some(0), "{gone}");
        let log = cluster.server(&gone).log();
        let last = log.lines().rfind(|line| line.starts_with("kv: ")).unwrap_or_default();
        let expected = format!("kv: server {gone} was removed from cluster kv and has stopped;");
        assert!(last.starts_with(&expected) && last.ends_with("start it with --join"), "{log}");
    }
    let left = cluster.leader().await;
    assert_eq!(cluster.server(&left).ask::<String>(&["GET", "k"]).await.unwrap(), "v");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_empty_is_rejoined_in_one_command() {
    let mut cluster = Cluster::three(&CALM).await;
    for n in 0..200 {
        cluster.servers[0].ask::<()>(&["SET", &format!("k{n}"), "x"]).await.unwrap();
    }
    let (leader, lost) = (cluster.leader().await, cluster.follower().await.id.clone());
    let (ok, said) = cluster.server(&leader).ctl(&["rejoin", &leader]);
    assert!(!ok && said.starts_with(&format!("kv: server {leader} leads; ")), "{said}");
    let (ok, said) = cluster.server(&leader).ctl(&["rejoin", "nobody"]);
    assert!(!ok && said.contains("\"nobody\" is not in the configuration"), "{said}");

    cluster.server_mut(&lost).kill();
    fs::remove_dir_all(cluster.server(&lost).data()).unwrap();
    cluster.server_mut(&lost).start(&CALM);
    let asked = cluster.servers.iter().find(|s| s.id != lost && s.id != leader).unwrap();
    until("it is noticed", async || {
        let (_, said) = asked.ctl(&["status"]);
        said.contains(&format!("rejoin {lost}")).then_some(())
    })
    .await;
    let (ok, said) = asked.ctl(&["rejoin", &lost]);
    assert!(ok && said.contains("has caught up and is what it was, since entry"), "{said}");
    let (_, members) = asked.http("GET", "/members", "");
    let list = members["members"].as_array().unwrap();
    assert!(list.len() == 3 && list.iter().all(|member| member["voter"] == true), "{members}");
    cluster.leader().await;
    cluster.checksum().await;
    assert_eq!(cluster.server(&lost).http("GET", "/checksum", "").1["keys"], 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_autopilot_promotes_and_removes() {
    const PILOT: [&str; 7] = [
        "--autopilot-promote",
        "--autopilot-stabilization",
        "500ms",
        "--autopilot-dead-after",
        "4s",
        "--autopilot-min-quorum",
        "2",
    ];
    let flags = [&CALM[..], &PILOT].concat();
    let mut cluster = Cluster::three(&flags).await;
    let mut fourth = Server::new(cluster.directory.path(), "d");
    fourth.start(&[&["--join", &cluster.servers[0].http, "--nonvoter"], &flags[..]].concat());
    cluster.servers.push(fourth);
    let voters = |cluster: &Cluster, by: &str| {
        let (_, members) = cluster.server(by).http("GET", "/members", "");
        let list = members["members"].as_array().cloned().unwrap_or_default();
        list.iter().filter(|member| member["voter"] == true).count()
    };
    let leader = cluster.leader().await;
    until("the fourth has a vote", async || (voters(&cluster, &leader) == 4).then_some(())).await;
    let server = cluster.server(&leader);
    until("all are healthy", async || {
        let (_, state) = server.http("GET", "/autopilot", "");
        (state["is_healthy"] == true && state["failure_tolerance"] == 1).then_some(())
    })
    .await;
    let (_, said) = server.ctl(&["status"]);
    assert!(said.contains("autopilot  on; all are healthy, 1 voter may fail"), "{said}");

    let dead = cluster.servers.iter().find(|s| s.id != leader).unwrap().id.clone();
    cluster.server_mut(&dead).kill();
    let server = cluster.server(&leader);
    until("it is noticed", async || {
        let (_, said) = server.ctl(&["status"]);
        said.contains(&format!("autopilot  on; not healthy: {dead}; ")).then_some(())
    })
    .await;
    until("it is removed", async || (voters(&cluster, &leader) == 3).then_some(())).await;
    let (_, members) = server.http("GET", "/members", "");
    assert!(!members.to_string().contains(&format!("\"id\":\"{dead}\"")), "{members}");

    let other = Cluster::single(&[]).await;
    let (code, said) = other.servers[0].http("GET", "/autopilot", "");
    assert_eq!(
        (code, said["error"].as_str()),
        (404, Some("this server was started without --autopilot"))
    );
    assert!(other.servers[0].ctl(&["status"]).1.contains("autopilot  off"));
}

/// Names as Prometheus wants them, each with its help, and every one that the library promises.
#[tokio::test(flavor = "multi_thread")]
async fn every_number_has_a_good_name_and_a_help_text() {
    let cluster = Cluster::three(&CALM).await;
    let follower = cluster.follower().await;
    follower.ask::<()>(&["SET", "k", "v"]).await.unwrap();
    follower.ask::<()>(&["GET", "k"]).await.unwrap();
    let leader = cluster.leader().await;
    cluster.server(&leader).ctl(&["snapshot"]);
    let expected = [
        "raft_requests_total",
        "raft_apply_entries_total",
        "raft_apply_batch_entries",
        "raft_propose_batch_entries",
        "raft_commit_latency_seconds",
        "raft_log_append_batches",
        "raft_log_append_entries_total",
        "raft_role_changes_total",
        "raft_transport_send_errors_total",
        "raft_snapshot_take_seconds",
        "raft_snapshot_persist_bytes_total",
        "raft_snapshot_sent_bytes_total",
        "raft_snapshot_received_bytes_total",
        "raft_snapshot_install_total",
    ];
    let page = cluster.server(&leader).http("GET", "/metrics", "").1;
    let page = page.as_str().unwrap();
    for name in expected {
        assert!(page.contains(&format!("# HELP {name} ")), "{name} has no help:\n{page}");
        assert!(page.contains(&format!("# TYPE {name} ")), "{name} has no type:\n{page}");
    }
    // Those of this program are all in the book, and all of the book are there.
    let documented: BTreeSet<_> = include_str!("../../../../docs/metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `kv_")?.split('`').next())
        .collect();
    let forwarded = follower.http("GET", "/metrics", "").1;
    let emitted: BTreeSet<_> = [page, forwarded.as_str().unwrap()]
        .into_iter()
        .flat_map(str::lines)
        .filter_map(|line| line.strip_prefix("kv_")?.split(['{', ' ']).next())
        .collect();
    assert_eq!(emitted, documented);
    for line in page.lines().filter(|line| !line.is_empty()) {
        let (name, kind) = match line.strip_prefix("# TYPE ") {
            Some(rest) => rest.split_once(' ').unwrap(),
            None => continue,
        };
        let is_valid = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(name.chars().all(is_valid), "{name}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        assert!(page.contains(&format!("# HELP {name} ")), "{name} has no help");
    }
}

/// As behind `head`, which has seen enough; but a full disk is no reader that has gone.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_has_to_read_what_a_tool_prints() {
    let mut cluster = Cluster::single(&[]).await;
    let print = |args: &[&str], out: Stdio| {
        let output = kv().args(args).stdout(out).output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    let gone = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    let data = cluster.servers[0].data();
    let out = cluster.directory.path().join("x");
    let (data, out) = (data.to_str().unwrap().to_owned(), out.to_str().unwrap().to_owned());
    let http = cluster.servers[0].http.clone();
    let running: [&[&str]; 3] = [
        &["ctl", "--http", &http, "status"],
        &["ctl", "--http", &http, "members"],
        &["backup", "--http", &http, "--out", &out],
    ];
    for args in running {
        assert_eq!(print(args, gone()), (Some(0), String::new()), "{args:?}");
    }
    let (code, said) = print(running[0], fs::File::create("/dev/full").unwrap().into());
    assert!(code == Some(1) && said.starts_with("kv: cannot print: "), "{said}");
    cluster.servers[0].kill();
    for more in [&[][..], &["--json"]] {
        let args = [&["inspect", "--data-dir", &data, "--entries", "1.."], more].concat();
        assert_eq!(print(&args, gone()), (Some(0), String::new()), "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_that_make_no_sense_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::new(directory.path(), "f");
    let cases: [(&[&str], &str); 5] = [
        (&["--autopilot-dead-after", "100ms"], "invalid setting `dead_after`"),
        (&["--autopilot-min-quorum", "0"], "0 is not in 1..=65535"),
        (&["--snapshot-threshold", "0"], "0 is not in 1.."),
        (&["--snapshot-rate", "5"], "invalid setting `snapshot_bytes_per_second`"),
        (&["--snapshot-rate", "fast"], "bytes are a number"),
    ];
    for (flags, expected) in cases {
        let said = server.refuses(&[&["--bootstrap"], flags].concat());
        assert!(said.contains(expected), "{flags:?}: {said}");
    }
    assert!(!directory.path().join("f").exists(), "nothing was made");
}
