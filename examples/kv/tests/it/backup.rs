//! Backups, and restoring them: into the cluster they are of and into others, over faults.

use std::{
    fs,
    io::Write,
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Output, Stdio},
};

use redis::AsyncTypedCommands;
use serde_json::Value;
use tokio::time::Instant;

use crate::harness::{CALM, Cluster, PATIENCE, Server, kv, run, text, until};

/// So slow that there is a middle in which something can happen.
const SLOW: [&str; 2] = ["--snapshot-rate", "300K"];

async fn fill(server: &Server, keys: usize, bytes: usize) {
    let mut connection = server.connect().await;
    let value = "v".repeat(bytes);
    for first in (0..keys).step_by(100) {
        let mut pipeline = redis::pipe();
        for n in first..keys.min(first + 100) {
            pipeline.cmd("SET").arg(format!("k{n}")).arg(&value);
        }
        pipeline.exec_async(&mut connection).await.expect("written");
    }
}

fn file(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.directory.path().join(name)
}

fn backup(server: &Server, out: &PathBuf, flags: &[&str]) -> Output {
    let mut command = kv();
    command.args(["backup", "--http", &server.http, "--out"]).arg(out).args(flags);
    command.output().expect("kv runs")
}

fn restore(server: &Server, input: &PathBuf) -> Output {
    let mut command = kv();
    command.args(["restore", "--yes", "--http", &server.http, "--in"]).arg(input);
    command.output().expect("kv runs")
}

/// What a tool said that must succeed.
fn done(output: &Output) -> String {
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    text(&output.stdout)
}

/// What a tool said that must fail: one line, after whatever it explained.
fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    let said = text(&output.stderr);
    let line = said.lines().last().unwrap_or_default().to_owned();
    assert!(line.starts_with("kv: ") && !said.contains("panicked"), "{said}");
    line
}

fn keys(server: &Server) -> Value {
    server.http("GET", "/checksum", "").1["keys"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_backed_up_comes_back_everywhere() {
    let cluster = Cluster::three(&CALM).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    fill(&cluster.servers[0], 2000, 100).await;
    let before = cluster.checksum().await;

    // From a follower, and from the leader by way of a follower.
    let (one, two) = (file(&cluster, "one.backup"), file(&cluster, "two.backup"));
    let said = done(&backup(follower, &one, &[]));
    assert!(said.contains("2000 keys as of entry "), "{said}");
    assert!(said.contains(&format!("taken on server {}", follower.id)), "{said}");
    let said = done(&backup(follower, &two, &["--leader"]));
    assert!(said.contains(&format!("taken on server {leader}")), "{said}");

    // Nothing is overwritten unasked, and no draft is left.
    let bytes = fs::read(&one).unwrap();
    assert!(refused(&backup(follower, &one, &[])).contains("exists; --force replaces it"));
    assert_eq!(fs::read(&one).unwrap(), bytes);
    done(&backup(follower, &one, &["--force"]));
    let said = refused(&backup(follower, &file(&cluster, "no/where"), &[]));
    assert!(said.contains("No such file or directory"), "{said}");
    let names = fs::read_dir(cluster.directory.path()).unwrap();
    let drafts = names.filter(|name| {
        name.as_ref().is_ok_and(|name| name.file_name().to_string_lossy().contains("draft"))
    });
    assert_eq!(drafts.count(), 0);

    for (input, count) in [(&one, 1), (&two, 2)] {
        let mut connection = follower.connect().await;
        connection.flushall().await.unwrap();
        connection.set("new", count).await.unwrap();
        assert_ne!(cluster.checksum().await, before);
        let said = done(&restore(follower, input));
        assert!(
            said.starts_with("restored: a majority of the servers has the 2000 keys"),
            "{said}"
        );
        assert_eq!(cluster.checksum().await, before);
        for server in &cluster.servers {
            assert_eq!(server.ask::<Option<String>>(&["GET", "new"]).await.unwrap(), None);
        }
        // It goes on from there.
        for server in &cluster.servers {
            server.ask::<()>(&["SET", "after", &server.id]).await.unwrap();
            server.ask::<()>(&["DEL", "after"]).await.unwrap();
        }
        assert_eq!(cluster.checksum().await, before);
    }

    // Plain HTTP does it too, at the leader.
    let (code, _) = follower.http("POST", "/restore", "x");
    assert_eq!(code, 307);
    let (code, said) = cluster.server(&leader).http("POST", "/restore", "x");
    assert_eq!((code, said["error"].as_str()), (422, Some("what was sent is not a backup")));
    let (code, said) = follower.http("GET", "/backup?leader=perhaps", "");
    assert_eq!(code, 400, "{said}");
    assert_eq!(cluster.checksum().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_another_cluster_brings_its_data_and_nothing_else() {
    let source = Cluster::single(&["--cluster", "production"]).await;
    fill(&source.servers[0], 300, 10).await;
    let out = file(&source, "x");
    done(&backup(&source.servers[0], &out, &["--leader"]));

    // A server of the same name elsewhere: requests must not be passed on to its namesake.
    let target = Cluster::three(&[&CALM[..], &["--cluster", "rehearsal"]].concat()).await;
    let output = restore(&target.servers[1], &out);
    let said = text(&output.stderr);
    done(&output);
    assert!(said.contains("of cluster production, taken on server a"), "{said}");
    assert!(said.contains("replaces everything in cluster rehearsal"), "{said}");
    assert!(said.contains("Mind that the backup is of another cluster."), "{said}");
    for server in &target.servers {
        server.ask::<()>(&["SET", &format!("by {}", server.id), "x"]).await.unwrap();
    }
    target.checksum().await;
    assert_eq!(keys(&target.servers[2]), 303);

    // Up to which entry a state goes is told in entries of this cluster, not of the other one.
    let other = Cluster::single(&[]).await;
    let restored = done(&restore(&other.servers[0], &out));
    let at = restored.rsplit_once("entry ").unwrap().1.split(' ').next().unwrap();
    let at: u64 = at.parse().unwrap();
    until("its index is one of this log", async || {
        let (_, sum) = other.servers[0].http("GET", "/checksum", "");
        let index = sum["index"].as_u64()?;
        assert!(index == 0 || at < index, "{sum} after {restored}");
        (at < index).then_some(())
    })
    .await;
    assert_eq!(keys(&source.servers[0]), 300);
    until("everybody is where they are here", async || {
        let (_, members) = target.servers[2].http("GET", "/members", "");
        let list = members["members"].as_array()?.clone();
        let here = |m: &Value| target.server(m["id"].as_str().unwrap_or_default()).http.clone();
        list.iter().all(|member| member["http"] == *here(member)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_restored_is_named_and_changes_nothing() {
    let cluster = Cluster::three(&CALM).await;
    fill(&cluster.servers[0], 200, 50).await;
    let before = cluster.checksum().await;
    let good = file(&cluster, "good");
    done(&backup(&cluster.servers[0], &good, &["--leader"]));
    let good_bytes = fs::read(&good).unwrap();

    let with = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let (mut bytes, path) = (good_bytes.clone(), file(&cluster, name));
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
        path
    };
    let program = good_bytes.windows(4).position(|w| w == b"\"kv\"").unwrap() + 1;
    let cases = [
        (with("text", &|bytes| *bytes = b"to whom it may concern".into()), "is not a backup"),
        (with("empty", &Vec::clear), "is not a backup"),
        (with("newer", &|bytes| bytes[8] = 2), "is a backup in format 2; this release of kv reads"),
        (
            with("foreign", &|bytes| bytes[program..program + 2].copy_from_slice(b"db")),
            "is a backup of the program \"db\", not of kv",
        ),
        (with("cut", &|bytes| bytes.truncate(bytes.len() / 2)), "is truncated: it has "),
        (
            with("rotten", &|bytes| {
                let position = bytes.len() - 100;
                bytes[position] ^= 1;
            }),
            "is damaged: it fails its checksum",
        ),
        (with("long", &|bytes| bytes.push(0)), "is damaged: it goes on after its end"),
        (file(&cluster, "missing"), "cannot be read: No such file"),
    ];
    for (path, expected) in &cases {
        let said = refused(&restore(&cluster.servers[0], path));
        assert!(said.contains(expected), "{said}");
        // Nor does the server believe it.
        if path.exists() {
            let url = format!("http://{}/restore", cluster.server(&cluster.leader().await).http);
            let agent = ureq::Agent::config_builder().http_status_as_error(false).build();
            let response =
                ureq::Agent::from(agent).post(url).send(&fs::read(path).unwrap()[..]).unwrap();
            assert_eq!(response.status().as_u16(), 422, "{path:?}");
        }
    }

    // Whoever does not say yes changes nothing either.
    let mut command = kv();
    command.args(["restore", "--http", &cluster.servers[0].http, "--in"]).arg(&good);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"maybe\n").unwrap();
    let said = refused(&child.wait_with_output().unwrap());
    assert!(said.contains("nothing was changed, as the answer was not yes"), "{said}");
    assert_eq!(cluster.checksum().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_has_the_leader_for_itself_and_needs_one() {
    let mut cluster = Cluster::three(&CALM).await;
    fill(&cluster.servers[0], 200, 50).await;
    let before = cluster.checksum().await;
    let good = file(&cluster, "good");
    done(&backup(&cluster.servers[0], &good, &["--leader"]));
    let good_bytes = fs::read(&good).unwrap();

    // One at a time: this one has begun and does not go on.
    let leader = cluster.leader().await;
    let mut slow = half_sent(cluster.server(&leader), &good_bytes);
    until("the other one is noticed", async || {
        let output = restore(&cluster.servers[0], &good);
        (!output.status.success()).then(|| {
            assert_eq!(refused(&output), "kv: another restore is in progress");
        })
    })
    .await;
    slow.write_all(&good_bytes[good_bytes.len() / 2..]).unwrap();
    until("it is over", async || {
        restore(&cluster.servers[0], &good).status.success().then_some(())
    })
    .await;

    // A server that dies while it is being sent one has nothing left of it.
    let _slow = half_sent(cluster.server(&leader), &good_bytes);
    let server = cluster.server_mut(&leader);
    server.kill();
    server.start(&CALM);
    cluster.leader().await;
    assert_eq!(cluster.checksum().await, before);
    let names = fs::read_dir(cluster.server(&leader).data()).unwrap();
    let mut names: Vec<_> = names.map(|name| name.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["log", "server.begun", "server.json", "snapshots"]);

    // Without a majority nobody leads.
    let survivor = cluster.servers[0].id.clone();
    for server in &mut cluster.servers {
        if server.id != survivor {
            server.kill();
        }
    }
    until("it is noticed", async || {
        let (_, members) = cluster.servers[0].http("GET", "/members", "");
        members["leader"].is_null().then_some(())
    })
    .await;
    let said = refused(&restore(&cluster.servers[0], &good));
    assert!(said.contains("knows no leader") && said.contains("nothing was changed"), "{said}");
    let said = refused(&backup(&cluster.servers[0], &file(&cluster, "late"), &["--leader"]));
    assert!(said.contains("no leader is known"), "{said}");
    // What it has is still to be had.
    done(&backup(&cluster.servers[0], &file(&cluster, "late"), &[]));
    let said = refused(&run(&["backup", "--http", "127.0.0.1:1", "--out", "/tmp/none"]));
    assert!(said.contains("cannot ask http://127.0.0.1:1/"), "{said}");
}

/// One that hangs before it is asked; of one that hangs later a test beside the code tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_is_given_up_and_nothing_is_left() {
    let cluster = Cluster::single(&[]).await;
    let server = &cluster.servers[0];
    fill(server, 200, 50).await;
    server.signal("STOP");
    let begun = Instant::now();
    let out = file(&cluster, "x");
    let said = refused(&backup(server, &out, &[]));
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
    assert!(said.ends_with("it does not answer in time; is it stuck?"), "{said}");
    server.signal("CONT");
    let names = fs::read_dir(cluster.directory.path()).unwrap();
    let mut names: Vec<_> = names.map(|name| name.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a", "a.log"], "no draft");

    let said = refused(&backup(server, &cluster.directory.path().to_owned(), &["--force"]));
    assert!(said.ends_with("is a directory: name a file in it"), "{said}");
    done(&backup(server, &out, &[]));
    let mode = fs::metadata(&out).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "what is in it is nobody else's affair");
}

/// What is refused is read to its end, so that the sender sees why; but nobody waits for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_restore_that_trickles_in_does_not_hold_up_the_next() {
    let cluster = Cluster::single(&[]).await;
    let server = &cluster.servers[0];
    fill(server, 200, 50).await;
    let good = file(&cluster, "good");
    done(&backup(server, &good, &[]));
    let _trickling = half_sent(server, &vec![b'x'; 64 << 10]);
    // It is refused at its first bytes, which come when they come.
    until("the next one is carried out", async || {
        restore(server, &good).status.success().then_some(())
    })
    .await;
}

/// A restore whose second half does not come.
fn half_sent(server: &Server, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(&server.http).expect("sent");
    let (host, length) = (&server.http, bytes.len());
    let head =
        format!("POST /restore HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("sent");
    stream.write_all(&bytes[..length / 2]).expect("sent");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_dies_in_the_middle_of_a_restore_leaves_one_state_or_the_other() {
    let flags = [&CALM[..], &SLOW].concat();
    let mut cluster = Cluster::three(&flags).await;
    fill(&cluster.servers[0], 2000, 500).await;
    let full = cluster.checksum().await;
    let out = file(&cluster, "x");
    done(&backup(&cluster.servers[0], &out, &["--leader"]));
    cluster.servers[0].connect().await.flushall().await.unwrap();
    let empty = cluster.checksum().await;

    let leader = cluster.leader().await;
    let mut command = kv();
    command.args(["restore", "--yes", "--http", &cluster.server(&leader).http, "--in"]).arg(&out);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("a follower receives it", async || {
        let receives = |server: &Server| {
            let (_, status) = server.http("GET", "/status", "");
            let bytes = status["raft"]["receiving"]["bytes"].as_u64();
            bytes.is_some_and(|bytes| 0 < bytes)
        };
        cluster.servers.iter().any(receives).then_some(())
    })
    .await;
    cluster.server_mut(&leader).kill();
    let said = refused(&child.wait_with_output().unwrap());
    assert!(said.contains("cannot ask http://"), "{said}");
    assert!(said.contains("may or may not have been restored"), "{said}");

    cluster.leader_other_than(&leader).await;
    cluster.server_mut(&leader).start(&flags);
    let is_well = until("it is back, or has noticed that it went too far", async || {
        if let Some(status) = cluster.server_mut(&leader).has_ended() {
            assert_eq!(status.code(), Some(1));
            return Some(false);
        }
        let sums = cluster.servers.iter().map(|server| server.http("GET", "/checksum", "").1);
        let mut sums: Vec<_> = sums.collect();
        sums.dedup();
        (sums.len() == 1 && sums[0]["checksum"].is_string()).then_some(true)
    })
    .await;
    if !is_well {
        // It alone had the restored state, and the others have gone on with theirs.
        fs::remove_dir_all(cluster.server(&leader).data()).unwrap();
        cluster.server_mut(&leader).start(&flags);
        let mut others = cluster.servers.iter().filter(|server| server.id != leader);
        let asked = others.next().unwrap();
        until("it is missed, and taken back", async || {
            asked.ctl(&["rejoin", &leader]).0.then_some(())
        })
        .await;
    }
    cluster.leader().await;
    let after = cluster.checksum().await;
    assert!(after == full || after == empty, "{after}");
    done(&restore(&cluster.servers[0], &out));
    assert_eq!(cluster.checksum().await, full);
    cluster.servers[1].ask::<()>(&["SET", "k0", "x"]).await.unwrap();
}
