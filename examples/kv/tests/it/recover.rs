//! A majority lost for good: looking at what is left, and beginning anew with it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use raft::{FileLogOptions, FileLogStore};
use redis::AsyncTypedCommands;
use serde_json::Value;

use crate::harness::{CALM, Cluster, Server, kv, run, text, until};

/// A tool on a directory that must fail: what it said.
fn refused(args: &[&str]) -> String {
    let output = run(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    let said = text(&output.stderr);
    assert_eq!(said.lines().count(), 1, "not one line: {said}");
    assert!(said.starts_with("kv: ") && !said.contains("panicked"), "{said}");
    said
}

fn inspect(data: &Path) -> Value {
    let output = run(&["inspect", "--json", "--entries", "..", "--data-dir", path(data)]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// Every file beneath, with its contents.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for item in fs::read_dir(dir).expect("a directory").map(|item| item.expect("an item")) {
        if item.file_type().expect("its type").is_dir() {
            found.extend(files(&item.path()));
        } else {
            found.push((item.path(), fs::read(item.path()).expect("a file")));
        }
    }
    found.sort();
    found
}

fn peers_file(cluster: &Cluster, text: &str) -> String {
    let file = cluster.directory.path().join("peers.json");
    fs::write(&file, text).expect("room for a file");
    path(&file).to_owned()
}

/// Three servers with a hundred keys on all of them, stopped; and their checksum.
async fn stopped() -> (Cluster, String) {
    let mut cluster = Cluster::three(&CALM).await;
    let mut connection = cluster.servers[0].connect().await;
    for n in 0..100 {
        connection.set(format!("k{n}"), n).await.expect("a write");
    }
    let checksum = cluster.checksum().await;
    cluster.servers.iter_mut().for_each(Server::kill);
    (cluster, checksum)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_survivor_of_three_becomes_a_cluster_again() {
    let (mut cluster, checksum) = stopped().await;
    for lost in ["b", "c"] {
        fs::remove_dir_all(cluster.server(lost).data()).unwrap();
    }
    let survivor = cluster.server("a");
    let data = survivor.data();
    let peers = format!(r#"[{{ "id": "a", "address": "{}" }}]"#, survivor.raft);
    let peers = peers_file(&cluster, &peers);
    let recover = ["recover", "--data-dir", path(&data), "--peers", &peers, "--yes"];

    let before = inspect(&data);
    let end = format!("{}@{}", before["end"]["index"], before["end"]["term"]);
    let output = run(&[&recover[..], &["--keep-uncommitted"]].concat());
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    assert!(said.starts_with(&format!("recovered server a; its state ends with entry {end}\n")));
    assert!(said.contains(&format!("a at {}, voter", survivor.raft)), "{said}");
    let again = run(&[&recover[..], &["--must-end-at", &end]].concat());
    assert!(again.status.success(), "{}", text(&again.stderr));
    let said = refused(&[&recover[..], &["--must-end-at", "1@1"]].concat());
    assert!(said.contains(&format!("would end with entry {end}, not 1@1")), "{said}");

    let after = inspect(&data);
    assert_eq!(after["log"], Value::Null);
    assert_eq!(after["end"], before["end"]);
    assert_eq!(after["committed"], before["end"]["index"]);
    assert_eq!(after["voted_for"], Value::Null);
    assert!(before["term"].as_u64() < after["term"].as_u64());
    assert_eq!(after["configuration"]["index"], before["end"]["index"]);
    assert_eq!(after["configuration"]["members"].as_array().map(Vec::len), Some(1));

    // The flags of its first start may stay: it is not bootstrapped again.
    let peer = format!("{0}={1},b=127.0.0.1:1", "a", survivor.raft);
    let survivor = cluster.server_mut("a");
    assert!(survivor.fails(&["--bootstrap", "--peer", &peer]).contains("cannot bootstrap"));
    survivor.start(&CALM);
    let survivor = cluster.server("a");
    until("it serves", async || survivor.ask::<String>(&["GET", "k99"]).await.ok()).await;
    assert_eq!(cluster.checksum().await, checksum, "everything is there");
    let survivor = cluster.server("a");
    survivor.ask::<()>(&["SET", "after", "x"]).await.unwrap();
    assert_eq!(survivor.ask::<i64>(&["DBSIZE"]).await.unwrap(), 101);

    // Two new servers make three again. There is no log to begin with, so they get the snapshot.
    let member = survivor.http.clone();
    for id in ["d", "e"] {
        let mut server = Server::new(cluster.directory.path(), id);
        server.start(&[&["--join", &member][..], &CALM].concat());
        cluster.servers.push(server);
        until("it is a voter", async || {
            let (_, members) = cluster.server("a").http("GET", "/members", "");
            members["members"].as_array()?.iter().find(|m| m["id"] == id && m["voter"] == true)?;
            Some(())
        })
        .await;
    }
    cluster.checksum().await;
    cluster.server_mut("a").kill();
    let next = cluster.leader_other_than("a").await;
    assert_eq!(cluster.server(&next).ask::<i64>(&["DBSIZE"]).await.unwrap(), 101);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_asked_for_and_carried_out() {
    let (cluster, _) = stopped().await;
    let survivor = cluster.server("b");
    let data = survivor.data();
    let peers = peers_file(&cluster, &format!(r#"[{{"id":"b","address":"{}"}}]"#, survivor.raft));
    let before = files(&data);
    let recover = ["recover", "--data-dir", path(&data), "--peers", &peers];

    // Everything is looked at before anybody is asked: what is doubtful is listed, and has to be
    // decided about.
    let ask = |flags: &[&str]| {
        let mut command = kv();
        // Nobody there to say yes.
        let output = command.args(recover).args(flags).stdin(Stdio::null()).output().unwrap();
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""));
        text(&output.stderr)
    };
    let found = inspect(&data);
    let end = format!("{}@{}", found["end"]["index"], found["end"]["term"]);
    let last = found["entries"].as_array().unwrap().last().unwrap()["what"].clone();
    let listed = format!("\n  {end}  {}\n", last.as_str().unwrap());
    for flags in [&[][..], &["--yes"]] {
        let said = ask(flags);
        assert!(said.starts_with("Not known to be committed are entries "), "{said}");
        assert!(said.contains(&format!(" to {end} (")) && said.contains(&listed), "{said}");
        let line = said.lines().last().unwrap();
        assert!(line.starts_with("kv: cannot recover without a decision"), "{said}");
        assert!(line.contains("with --keep-uncommitted or --discard-uncommitted"), "{said}");
        assert!(!said.contains("Type yes"), "{said}");
    }
    let said = ask(&["--keep-uncommitted", "--must-end-at", "1@1"]);
    assert!(said.contains("not 1@1") && !said.contains("Type yes"), "{said}");
    let said = ask(&["--keep-uncommitted"]);
    assert!(said.contains(&listed), "{said}");
    let asked =
        format!("will be the beginning, with all up to entry {end}, of a new cluster of:\n  b at ");
    assert!(said.contains(&asked) && said.contains("Type yes to go on:\n"), "{said}");
    assert!(
        said.ends_with("kv: nothing was changed, as the answer was not yes (--yes does not ask)\n")
    );
    let logs = |files: &[(PathBuf, Vec<u8>)]| -> Vec<_> {
        // Whoever opens it notes in its lock that it has it.
        files.iter().filter(|(file, _)| !file.starts_with(data.join("log"))).cloned().collect()
    };
    assert_eq!(logs(&files(&data)), logs(&before));

    let mistakes = [
        (r#"[{"id": "a", "address": "h:1"}]"#, "server \"b\" is not in the configuration"),
        (r#"[{"id": "b", "address": "h"}]"#, "an address is HOST:PORT"),
        (r#"[{"id": "b b", "address": "h:1"}]"#, "an id is up to 64"),
        (r#"[{"id": "b", "address": "h:1", "nonvoter": true}]"#, "unknown field `nonvoter`"),
        (r#"[{"id": "b", "address": "h:1", "non_voter": true}]"#, "at least one voter"),
        ("[\n{\"id\": \"b\"", "line 2, column 10"),
        (
            r#"[{"id": "b", "address": "0.0.0.0:1"}]"#,
            "0.0.0.0 is every address of whoever dials it",
        ),
        (r#"["h:1", "h:2"]"#, "a list of addresses, without the ids of the servers; write each as"),
    ];
    for (peers, expected) in mistakes {
        let peers = peers_file(&cluster, peers);
        let args = ["recover", "--data-dir", path(&data), "--peers", &peers, "--yes"];
        let said = refused(&args);
        assert!(said.contains(expected), "{said}");
    }
    let absent = cluster.directory.path().join("absent.json");
    let said = refused(&["recover", "--data-dir", path(&data), "--peers", path(&absent), "--yes"]);
    assert!(said.contains("cannot read") && said.contains("absent.json"), "{said}");

    // With a byte-order mark, as some editors write one.
    let peers = format!("\u{feff}[{{\"id\":\"b\",\"address\":\"{}\"}}]", survivor.raft);
    let peers = peers_file(&cluster, &peers);
    let noted = inspect(&data)["noted_commit"].as_u64().expect("noted with the last write");
    let args = ["recover", "--data-dir", path(&data), "--peers", &peers, "--yes"];
    let output = run(&[&args[..], &["--discard-uncommitted"]].concat());
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    assert!(said.contains(&format!("  discarded entries {} to ", noted + 1)), "{said}");
    assert_eq!(inspect(&data)["end"]["index"], noted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_looked_at_without_being_touched() {
    let mut cluster = Cluster::single(&[]).await;
    let server = &cluster.servers[0];
    server.ask::<()>(&["SET", "greeting", "hello"]).await.unwrap();
    let (data, peers) = (server.data(), cluster.directory.path().join("peers.json"));
    fs::write(&peers, format!(r#"["{}"]"#, server.raft)).unwrap();

    // Not while a server runs, and not where none ever did.
    let absent = cluster.directory.path().join("absent");
    for (data, expected) in [
        (&data, "is in use by a running server or tool; stop that one first"),
        (&absent, "is not a data directory: it has no server.json"),
    ] {
        let said = refused(&["inspect", "--data-dir", path(data)]);
        assert!(said.contains(expected), "{said}");
        let args = ["recover", "--data-dir", path(data), "--peers", path(&peers), "--yes"];
        let said = refused(&args);
        assert!(said.contains(expected), "{said}");
    }
    assert!(!absent.exists());

    cluster.servers[0].kill();
    let before = files(&data);
    let output = run(&["inspect", "--data-dir", path(&data), "--entries", ".."]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    for expected in
        ["server      a\n", "cluster     kv\n", "vote        a\n", "SET \"greeting\" \"hello\"\n"]
    {
        assert!(said.contains(expected), "{expected:?} is not in:\n{said}");
    }
    let json = inspect(&data);
    assert_eq!(json["id"], "a");
    let disk = json["incarnation"].as_str().expect("text");
    assert!(disk.len() == 16 && u64::from_str_radix(disk, 16).is_ok(), "{disk}");
    assert_eq!(json["log"]["first"], 1);
    assert_eq!(json["configuration"]["members"][0]["address"], cluster.servers[0].raft);
    let entries = json["entries"].as_array().unwrap();
    assert_eq!(entries[0]["what"], format!("members a={}", cluster.servers[0].raft));
    assert!(entries.iter().any(|entry| entry["what"] == "SET \"greeting\" \"hello\""));
    let output = run(&["inspect", "--data-dir", path(&data), "--entries", "2..3"]);
    let lines: Vec<_> = text(&output.stdout).lines().map(str::to_owned).collect();
    let shown = lines.iter().filter(|line| line.starts_with("2@") || line.starts_with("3@"));
    assert_eq!((shown.count(), lines.iter().any(|line| line.starts_with("1@"))), (2, false));
    assert_eq!(files(&data), before, "nothing was touched");
}

/// The survivor to go on with is chosen by what `inspect` says.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_named() {
    let mut cluster = Cluster::single(&CALM).await;
    let server = &cluster.servers[0];
    server.ask::<()>(&["SET", "k", "v"]).await.unwrap();
    let (ok, said) = server.ctl(&["snapshot"]);
    assert!(ok, "{said}");
    cluster.servers[0].kill();
    let data = cluster.servers[0].data();
    assert_eq!(inspect(&data)["faults"], Value::Array(Vec::new()));
    let snapshots = fs::read_dir(data.join("snapshots")).unwrap();
    let mut snapshots = snapshots.map(|item| item.unwrap().path().join("data"));
    let file = snapshots.find(|file| file.is_file()).expect("a snapshot");
    let mut bytes = fs::read(&file).unwrap();
    bytes[0] ^= 1;
    fs::write(&file, bytes).unwrap();
    let found = inspect(&data);
    let fault = found["faults"][0].as_str().unwrap();
    assert!(fault.contains(path(&file)) && fault.contains("damaged"), "{fault}");
    let said = text(&run(&["inspect", "--data-dir", path(&data)]).stdout);
    assert!(said.contains(&format!("\nfault       {fault}\n")), "{said}");
    let output = run(&["inspect", "--verify", "--data-dir", path(&data)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("not all of it is whole: "), "{}", text(&output.stderr));
    assert!(!text(&output.stdout).contains("verified"), "{}", text(&output.stdout));
}

/// Flips a bit of the first batch of the newest segment, which others follow.
fn damage_log(data: &Path) {
    const FIRST_BATCH: usize = 4096;
    let files = fs::read_dir(data.join("log"))
        .expect("the directory is ours")
        .map(|item| item.expect("the directory is ours").path());
    let segment = files.filter(|path| path.to_string_lossy().contains("/log-")).max();
    let segment = segment.expect("a segment");
    let mut bytes = fs::read(&segment).expect("the directory is ours");
    bytes[FIRST_BATCH + 20] ^= 1;
    fs::write(&segment, bytes).expect("the directory is ours");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_told_with_the_command_that_helps() {
    let mut cluster = Cluster::three(&CALM).await;
    cluster.servers[0].ask::<()>(&["SET", "k", "v"]).await.expect("the directory is ours");
    let (leader, id) = (cluster.leader().await, cluster.follower().await.id.clone());
    cluster.server_mut(&id).kill();
    let data = cluster.server(&id).data();
    damage_log(&data);
    let said = cluster.server(&id).fails(&CALM);
    assert!(said.contains("is damaged: "), "{said}");
    let command = format!("kv ctl --http ANOTHER-MEMBER rejoin {id}\n");
    assert!(said.ends_with(&command) && !said.contains("rejoin_server"), "{said}");
    // As it says.
    fs::rename(&data, data.with_extension("damaged")).unwrap();
    cluster.server_mut(&id).start(&CALM);
    let (done, said) = cluster.server(&leader).ctl(&["rejoin", &id]);
    assert!(done, "{said}");
    cluster.checksum().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_copy_is_not_given_up_and_its_snapshot_is_a_beginning() {
    let mut cluster = Cluster::single(&CALM).await;
    let server = &cluster.servers[0];
    server.ask::<()>(&["SET", "k", "v"]).await.unwrap();
    let (ok, said) = server.ctl(&["snapshot"]);
    assert!(ok, "{said}");
    let checksum = cluster.checksum().await;
    cluster.servers[0].kill();
    let server = &cluster.servers[0];
    let data = server.data();
    damage_log(&data);
    let said = server.fails(&["--bootstrap"]);
    assert!(said.contains("is damaged: ") && said.contains("Delete nothing: if a is"), "{said}");
    assert!(said.contains(&format!("copy {0} first", data.display())), "{said}");
    assert!(
        said.contains(&format!("moving {0}/log away and `kv recover`", data.display())),
        "{said}"
    );
    // As it says.
    fs::rename(data.join("log"), data.with_extension("log-damaged")).unwrap();
    let peers = peers_file(&cluster, &format!(r#"[{{"id":"a","address":"{}"}}]"#, server.raft));
    let output = run(&["recover", "--data-dir", path(&data), "--peers", &peers, "--yes"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    cluster.servers[0].start(&CALM);
    let server = &cluster.servers[0];
    until("it serves", async || server.ask::<String>(&["GET", "k"]).await.ok()).await;
    assert_eq!(cluster.checksum().await, checksum);
}

/// It is not taken for a new server, which would begin an empty cluster where one was.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_gone_is_not_begun_anew() {
    let mut cluster = Cluster::single(&CALM).await;
    cluster.servers[0].ask::<()>(&["SET", "k", "v"]).await.unwrap();
    cluster.servers[0].kill();
    let server = &cluster.servers[0];
    let (log, away) = (server.data().join("log"), server.data().with_extension("log-away"));
    fs::rename(&log, &away).unwrap();
    for flags in [&["--bootstrap"][..], &[]] {
        let said = server.fails(flags);
        assert!(
            said.contains(&format!("the log of server a, {}, is gone", log.display())),
            "{said}"
        );
        assert!(said.contains("move it back") && said.contains("rejoin a"), "{said}");
        assert!(!log.exists(), "nothing is made");
    }
    // Another file system, and another log.
    fs::create_dir_all(log.join("lost+found")).unwrap();
    assert!(server.fails(&["--bootstrap"]).contains(" is gone"));
    drop(FileLogStore::open(&log, FileLogOptions::default()).unwrap());
    assert!(server.fails(&["--bootstrap"]).contains(" is gone"));
    fs::remove_dir_all(&log).unwrap();
    fs::rename(&away, &log).unwrap();
    cluster.servers[0].start(&["--bootstrap"]);
    let server = &cluster.servers[0];
    let found = until("it serves", async || server.ask::<String>(&["GET", "k"]).await.ok()).await;
    assert_eq!(found, "v");
}
