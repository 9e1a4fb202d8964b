//! Changes of members by an operator: waiting for a new one, and what is refused because it would do
//! harm.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::harness::{CALM, Cluster, PATIENCE, Server, free_addresses, run, text, until};

fn ctl(server: &Server, args: &[&str]) -> Output {
    run(&[&["ctl", "--http", &server.http], args].concat())
}

/// What `kv ctl` said that must succeed.
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// What `kv ctl` said that must fail: one line, after whatever it told before.
fn refused(output: &Output) -> String {
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""), "{said}");
    let line = said.lines().last().unwrap_or_default().to_owned();
    assert!(line.starts_with("kv: ") && !line.contains("refused (4"), "{said}");
    line
}

fn members_index(server: &Server) -> Value {
    server.http("GET", "/members", "").1["index"].clone()
}

fn member(server: &Server, id: &str) -> Value {
    let (_, members) = server.http("GET", "/members", "");
    let list = members["members"].as_array().cloned().unwrap_or_default();
    list.into_iter().find(|member| member["id"] == id).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn adding_a_server_that_does_not_run_says_so_and_ends_in_time() {
    let mut cluster = Cluster::single(&[]).await;
    let late = Server::new(cluster.directory.path(), "late");
    let first = &cluster.servers[0];
    let add = ["add", "late", &late.raft];
    let output = ctl(first, &[&add[..], &["--timeout", "5s"]].concat());
    let told = text(&output.stderr);
    let index = members_index(first);
    let begun =
        format!("late is a nonvoter since entry {index}; start it now, if it does not run; ");
    assert!(told.starts_with(&begun) && told.contains("waiting up to 5 s until"), "{told}");
    assert!(told.contains("\nwaiting: it does not answer the leader"), "{told}");
    let line = refused(&output);
    let end = "late is a nonvoter, and not a voter after 5 s: it does not answer the leader: it \
               cannot be dialled: Connection refused";
    assert!(line.starts_with(&format!("kv: {end}")), "{line}");
    assert!(line.contains("remove late` takes it out"), "{line}");

    // The same again goes on waiting, and writes nothing for that.
    let waiting = first.ctl_in_the_background(&add);
    let mut late = late;
    late.start(&[]);
    let said = done(&waiting.wait_with_output().unwrap());
    let last = members_index(first);
    assert_eq!(said, format!("late at {} is a voter since entry {last}\n", late.raft));
    // Its vote, and its incarnation, which is recorded when it is first heard.
    let written = last.as_u64().unwrap() - index.as_u64().unwrap();
    assert!(written <= 4, "{written} entries");
    cluster.servers.push(late);

    // It is what is asked for.
    until("all incarnations are recorded", async || {
        let zeros = "0".repeat(16);
        ["a", "late"]
            .iter()
            .all(|id| {
                let known = member(&cluster.servers[0], id)["incarnation"].clone();
                known.as_str().is_some_and(|known| known.len() == 16 && known != zeros)
            })
            .then_some(())
    })
    .await;
    let (first, late) = (&cluster.servers[0], &cluster.servers[1]);
    let before = members_index(first);
    let said = done(&ctl(first, &["add", "late", &late.raft]));
    assert_eq!(said, format!("late at {} is a voter already\n", late.raft));
    let line = refused(&ctl(first, &["add", "late", &late.raft, "--nonvoter"]));
    assert_eq!(line, "kv: late is a voter; `kv ctl demote late` takes its vote away");
    assert_eq!(members_index(first), before, "nothing was written");

    done(&ctl(first, &["demote", "late"]));
    assert_eq!(done(&ctl(first, &["demote", "late"])), "late is a nonvoter already\n");
    let said = done(&ctl(first, &["add", "late", &late.raft, "--nonvoter"]));
    assert_eq!(said, format!("late at {} is a nonvoter already\n", late.raft));
}

#[tokio::test(flavor = "multi_thread")]
async fn adding_a_server_of_another_cluster_says_what_it_says() {
    let cluster = Cluster::single(&[]).await;
    let mut foreign = Server::new(cluster.directory.path(), "foreign");
    foreign.start(&["--cluster", "other"]);
    let add = ["add", "foreign", &foreign.raft, "--timeout", "5s"];
    let line = refused(&ctl(&cluster.servers[0], &add));
    let why = "it does not answer the leader: refused: the dialler is of cluster \"kv\", this server \
               of \"other\". ";
    assert!(line.contains(why), "{line}");
}

/// By mistake a new cluster of the same name has the address of one of our servers among its members, and the
/// name of that server. It elects a leader, which calls it again and again.
#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_of_the_same_name_harms_nobody() {
    let cluster = Cluster::three(&[]).await;
    cluster.servers[0].ask::<()>(&["SET", "own", "1"]).await.unwrap();
    let target = cluster.follower().await;
    let directory = cluster.directory.path();
    let mut foreign = ["x", "y"].map(|id| Server::new(directory, id));
    let members: Vec<String> = foreign
        .iter()
        .map(|server| format!("{}={}", server.id, server.raft))
        .chain([format!("{}={}", target.id, target.raft)])
        .collect();
    for server in &mut foreign {
        let own = format!("{}=", server.id);
        let peers = members.iter().filter(|it| !it.starts_with(&own));
        let mut flags = vec!["--bootstrap"];
        flags.extend(peers.flat_map(|peer| ["--peer", peer.as_str()]));
        server.start(&flags);
    }
    until("the other cluster has a leader", async || {
        foreign[0].ask::<()>(&["SET", "foreign", "1"]).await.ok()
    })
    .await;
    // It is told on our side, with both.
    let known = |server: &Server| {
        let index = server.http("GET", "/status", "").1;
        index["raft"]["latest_configuration"]["configuration"]["cluster"]
            .as_str()
            .map(str::to_owned)
    };
    let (ours, theirs) = (known(target).unwrap(), known(&foreign[0]).unwrap());
    assert_ne!(ours, theirs);
    let both = format!("the dialler is of cluster {theirs}, this server of {ours}");
    until("our server says so", async || target.log().contains(&both).then_some(())).await;
    for server in &cluster.servers {
        assert!(server.is_running(), "{}", server.log());
        let foreign: Option<String> = server.ask(&["GET", "foreign"]).await.unwrap();
        assert_eq!(foreign, None);
        server.ask::<()>(&["INCR", "own"]).await.unwrap();
    }
    cluster.checksum().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_members_address_changes_only_if_that_is_said() {
    let mut cluster = Cluster::three(&CALM).await;
    let (leader, moving) = (cluster.leader().await, cluster.follower().await.id.clone());
    let [elsewhere] = free_addresses();
    for id in [&leader, &moving] {
        let asked = cluster.server(&leader);
        let (at, before) = (&cluster.server(id).raft, members_index(asked));
        let line = refused(&ctl(asked, &["add", id, &elsewhere]));
        assert!(line.starts_with(&format!("kv: {id} is a member already, at {at}; ")), "{line}");
        assert!(line.contains("with --move"), "{line}");
        let body = json!({ "id": id, "address": elsewhere }).to_string();
        let (code, said) = asked.http("POST", "/members", &body);
        assert_eq!((code, said["error"].as_str()), (409, line.strip_prefix("kv: ")));
        assert_eq!(members_index(asked), before, "nothing was written");
    }
    let asked = cluster.server(&moving);
    let line = refused(&ctl(asked, &["add", &leader, &elsewhere, "--move"]));
    let expected = format!("kv: {leader} leads and runs at {}: ", cluster.server(&leader).raft);
    assert!(line.starts_with(&expected), "{line}");
    // Where nobody is, who is no member, and one that takes this for another cluster.
    let add = ["add", &moving, &elsewhere, "--move"];
    let line = refused(&ctl(asked, &[&add[..], &["--timeout", "1s"]].concat()));
    let expected = format!("kv: not moved after 1 s: cannot reach {elsewhere}: ");
    assert!(line.starts_with(&expected), "{line}");
    let everywhere = json!({ "id": "x", "address": "0.0.0.0:1" }).to_string();
    let (code, said) = asked.http("POST", "/members", &everywhere);
    let why = said["error"].as_str().unwrap();
    assert!(code == 422 && why.contains("0.0.0.0 is every address of whoever dials it"), "{said}");
    let output = ctl(asked, &["add", "x", "0.0.0.0:1"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("0.0.0.0 is every address of whoever dials it"), "{said}");
    let line = refused(&ctl(asked, &["add", "nobody", &elsewhere, "--move"]));
    assert!(line.starts_with("kv: nobody is no member that could be moved"), "{line}");
    let body = json!({ "id": "x", "address": elsewhere, "cluster": "another" }).to_string();
    let (code, said) = cluster.server(&leader).http("POST", "/members", &body);
    assert_eq!(code, 409, "{said}");
    let error = said["error"].as_str().unwrap();
    assert!(error.ends_with("not \"another\""), "{error}");
    assert_eq!(member(cluster.server(&leader), "x"), Value::Null);

    // One that has really moved, with its data, and is started while it is waited for.
    cluster.server_mut(&moving).kill();
    let mut waiting = cluster.server(&leader).ctl_in_the_background(&add);
    let mut told = String::new();
    BufReader::new(waiting.stderr.take().unwrap()).read_line(&mut told).unwrap();
    let expected = format!("waiting up to 2 min 0 s: cannot reach {elsewhere}: ");
    assert!(told.starts_with(&expected), "{told}");
    let server = cluster.server_mut(&moving);
    server.raft.clone_from(&elsewhere);
    server.start(&CALM);
    let said = done(&waiting.wait_with_output().unwrap());
    assert!(said.contains("is a voter since entry"), "{said}");
    assert_eq!(member(cluster.server(&leader), &moving)["address"], elsewhere);
    cluster.servers[0].ask::<()>(&["SET", "k", "v"]).await.unwrap();
    cluster.leader().await;
    cluster.checksum().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_vote_is_taken_if_the_rest_would_have_no_majority() {
    let mut cluster = Cluster::three(&CALM).await;
    let leader = cluster.leader().await;
    let followers: Vec<_> = cluster.servers.iter().filter(|server| server.id != leader).collect();
    let (well, dead) = (followers[0].id.clone(), followers[1].id.clone());
    cluster.server_mut(&dead).kill();
    let asked = cluster.server(&leader);
    until("it is noticed", async || {
        let (_, status) = asked.http("GET", "/status", "");
        let mut peers = status["raft"]["peers"].as_array()?.iter();
        peers.any(|peer| peer["id"] == *dead && peer["is_lost"] == true).then_some(())
    })
    .await;
    let (_, status) = asked.ctl(&["status"]);
    let row = status.lines().find(|line| line.starts_with(&format!("{dead}  "))).unwrap();
    assert_eq!(row.split_whitespace().nth(2), Some("-"), "no lag is known: {status}");

    let before = members_index(asked);
    for id in [&well, &leader] {
        for change in ["demote", "remove", "rejoin"] {
            if (change, id) == ("rejoin", &leader) {
                continue;
            }
            // Through the other one, which sends it on.
            let line = refused(&ctl(cluster.server(&well), &[change, id]));
            assert!(line.starts_with(&format!("kv: without {id} the voters would be ")), "{line}");
            assert!(line.contains(&format!("does not hear from {dead} (silent for ")), "{line}");
            assert!(line.contains("--force"), "{line}");
        }
    }
    let (code, said) = asked.http("DELETE", &format!("/members/{well}"), "");
    assert!(code == 409 && said["error"].as_str().unwrap().contains("?force=true"), "{said}");
    assert_eq!(members_index(asked), before, "nothing was written");

    // Nobody knows whether the dead one has lost anything. It may be taken out; without it being there
    // it does not come back.
    let line = refused(&ctl(cluster.server(&well), &["rejoin", &dead]));
    assert!(line.starts_with(&format!("kv: {dead} has not answered the leader for ")), "{line}");
    assert_eq!(members_index(cluster.server(&well)), before, "nothing was written");
    let output = ctl(cluster.server(&well), &["rejoin", &dead, "--force", "--timeout", "5s"]);
    let told = text(&output.stderr);
    let begun =
        format!("taking {dead} back; start it on an empty directory now, if it does not run; ");
    assert!(told.starts_with(&begun), "{told}");
    assert!(told.contains("\nwaiting: it does not answer the leader"), "{told}");
    let line = refused(&output);
    let expected = format!(
        "kv: {dead} has not caught up after 5 s: it does not answer the leader: it cannot be "
    );
    assert!(line.starts_with(&expected), "{line}");
    let again = format!("add {dead} {}` waits again", cluster.server(&dead).raft);
    assert!(line.contains(&again), "{line}");
    assert_eq!(member(cluster.server(&leader), &dead)["voter"], false);

    // Whoever insists is obeyed.
    done(&ctl(cluster.server(&well), &["remove", &dead, "--force"]));
    done(&ctl(cluster.server(&well), &["demote", &well]));
    assert_eq!(asked.ask::<String>(&["PING"]).await.unwrap(), "PONG");
    asked.ask::<()>(&["SET", "k", "v"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_server_has_not_joined_until_it_is_rejoined() {
    let mut cluster = Cluster::three(&CALM).await;
    cluster.servers[0].ask::<()>(&["SET", "k", "v"]).await.unwrap();
    let (leader, lost) = (cluster.leader().await, cluster.follower().await.id.clone());
    let http = cluster.server(&leader).http.clone();
    until("its disk is recorded", async || {
        let known = member(cluster.server(&leader), &lost)["incarnation"].clone();
        (known.as_str()? != "0000000000000000").then_some(())
    })
    .await;
    let server = cluster.server_mut(&lost);
    server.kill();
    fs::remove_dir_all(server.data()).unwrap();
    let before = server.log().len();
    server.start(&[&["--join", &http][..], &CALM].concat());
    let cure = format!("kv ctl --http {http} rejoin {lost}");
    let said = |cluster: &Cluster| cluster.server(&lost).log()[before..].to_owned();
    until("it says why it has not joined", async || {
        let log = said(&cluster);
        let is_told =
            |what: &str| log.lines().any(|line| line.contains(what) && line.contains(&cure));
        (is_told("not joined yet") && is_told("ERROR")).then_some(())
    })
    .await;
    assert!(!said(&cluster).contains("joined the cluster"), "{}", said(&cluster));
    for id in [&leader, &lost] {
        let log = cluster.server(id).log();
        assert!(!log.contains("a message was dropped"), "told of once, with the cure: {log}");
    }

    let wrong = format!("{lost} runs on another disk than the cluster knows");
    until("the leader has noticed", async || {
        let (_, status) = cluster.server(&leader).http("GET", "/status", "");
        let disk = status["raft"]["wrong_disks"].get(0)?;
        assert_eq!(disk["server"], *lost);
        let members = &status["raft"]["latest_configuration"]["configuration"]["servers"];
        let known = members.as_array()?.iter().find(|member| member["id"] == *lost)?;
        assert_eq!(disk["recorded"], known["incarnation"], "both are text");
        assert_eq!(disk["recorded"].as_str().map(str::len), Some(16));
        Some(())
    })
    .await;
    for asked in [&leader, &lost] {
        let (_, status) = cluster.server(asked).ctl(&["status"]);
        let line = status.lines().find(|line| line.starts_with(&wrong)).unwrap_or_default();
        assert!(
            line.contains("kv ctl --http ") && line.ends_with(&format!("rejoin {lost}")),
            "{status}"
        );
    }
    let (_, status) = cluster.server(&leader).ctl(&["status"]);
    let row = status.lines().find(|line| line.starts_with(&format!("{lost}  "))).unwrap();
    assert_eq!(row.split_whitespace().nth(2), Some("-"), "no lag is known: {status}");

    let raft = cluster.server(&lost).raft.clone();
    let line = refused(&ctl(cluster.server(&leader), &["add", &lost, &raft]));
    assert!(
        line.contains(&format!(
            "runs on another disk than the cluster knows; `kv ctl rejoin {lost}`"
        )),
        "{line}"
    );
    done(&ctl(cluster.server(&leader), &["rejoin", &lost]));
    // Once is enough.
    let line = refused(&ctl(cluster.server(&leader), &["rejoin", &lost]));
    assert!(line.starts_with(&format!("kv: {lost} answers, from the disk")), "{line}");
    until("it says that it has joined", async || {
        said(&cluster).contains("joined the cluster").then_some(())
    })
    .await;
    let (_, status) = cluster.server(&leader).ctl(&["status"]);
    assert!(!status.contains(&wrong), "{status}");
}

/// An older copy of a data directory, put back: the server ends and says what to do, which helps.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_a_data_directory_is_found_out_and_rejoins() {
    let mut cluster = Cluster::three(&CALM).await;
    cluster.servers[0].ask::<()>(&["SET", "k", "old"]).await.unwrap();
    let (leader, id) = (cluster.leader().await, cluster.follower().await.id.clone());
    cluster.checksum().await;
    until("its disk is recorded", async || {
        let known = member(cluster.server(&leader), &id)["incarnation"].clone();
        (known.as_str()? != "0000000000000000").then_some(())
    })
    .await;
    let copy = cluster.server(&id).data().with_extension("copy");
    let copied = |from: &Path, to: &Path| {
        let done = Command::new("cp").arg("-r").args([from, to]).status().unwrap();
        assert!(done.success());
    };
    let server = cluster.server_mut(&id);
    server.kill();
    copied(&server.data(), &copy);
    server.start(&CALM);
    cluster.server(&leader).ask::<()>(&["SET", "k", "new"]).await.unwrap();
    cluster.checksum().await;

    let server = cluster.server_mut(&id);
    server.kill();
    fs::remove_dir_all(server.data()).unwrap();
    copied(&copy, &server.data());
    let before = server.log().len();
    server.start(&CALM);
    assert_eq!(server.ended().await.code(), Some(1));
    let log = server.log()[before..].to_owned();
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("its disk is an older copy of what it was: it has told"), "{log}");
    assert!(last.ends_with(&format!("kv ctl --http ANOTHER-MEMBER rejoin {id}")), "{log}");

    server.start(&CALM);
    let wrong = format!("{id} runs on another disk than the cluster knows");
    until("the leader has noticed", async || {
        cluster.server(&leader).ctl(&["status"]).1.contains(&wrong).then_some(())
    })
    .await;
    done(&ctl(cluster.server(&leader), &["rejoin", &id]));
    cluster.checksum().await;
    let (_, status) = cluster.server(&leader).ctl(&["status"]);
    assert!(!status.contains(&wrong), "{status}");
}

/// A server that does not run is given an address where nobody listens: every attempt fails, and that is not
/// worth a line each.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_where_nobody_listens_is_told_of_once() {
    let mut cluster = Cluster::three(&CALM).await;
    let (leader, lost) = (cluster.leader().await, cluster.follower().await.id.clone());
    let about = |cluster: &Cluster, what: &str| {
        let log = cluster.server(&leader).log();
        let lines = log.lines().filter(|line| line.contains(what));
        lines.filter(|line| line.contains(&format!("peer={lost}"))).count()
    };
    cluster.server_mut(&lost).kill();
    until("the leader has noticed", async || {
        (about(&cluster, "no connection to a peer") == 1).then_some(())
    })
    .await;
    let [nowhere] = free_addresses();
    let errors = || {
        let page = cluster.server(&leader).http("GET", "/metrics", "").1;
        let name = "raft_transport_send_errors_total";
        let line = page.as_str()?.lines().find(|line| line.starts_with(name))?.to_owned();
        line.rsplit(' ').next()?.parse::<u64>().ok()
    };
    let before = errors().unwrap_or(0);
    done(&ctl(cluster.server(&leader), &["add", &lost, &nowhere, "--move", "--force"]));
    until("it was tried often", async || (before + 20 <= errors()?).then_some(())).await;
    let log = cluster.server(&leader).log();
    assert_eq!(about(&cluster, "no connection to a peer"), 2, "once for each address: {log}");
    assert_eq!(about(&cluster, "connected again"), 0, "{log}");
    assert!(!log.contains("cannot send") && !log.contains("can send again"), "{log}");
}

/// Whoever looks at the server that is left learns from it why the others are not there.
#[tokio::test(flavor = "multi_thread")]
async fn the_survivor_says_what_those_with_full_disks_have_said() {
    let directory = tempfile::tempdir().unwrap();
    let servers = ["a", "b", "c"].map(|id| Server::new(directory.path(), id));
    let mut cluster = Cluster { servers: servers.into(), directory };
    let peers: Vec<_> = cluster.servers.iter().map(|s| format!("{}={}", s.id, s.raft)).collect();
    let peers = peers.join(",");
    let flags = [&["--bootstrap", "--peer", &peers], &CALM[..]].concat();
    cluster.server_mut("a").start(&flags);
    for id in ["b", "c"] {
        cluster.server_mut(id).start_limited(&flags, 4);
    }
    let leader = cluster.leader().await;
    if leader != "a" {
        done(&ctl(cluster.server(&leader), &["transfer", "a"]));
    }
    until("a leads", async || (cluster.leader().await == "a").then_some(())).await;
    // Until there is no room.
    let value = "x".repeat(500_000);
    let writing = async {
        let mut connection = cluster.server("a").connect().await;
        for n in 0..12 {
            let key = format!("k{n}");
            let set = redis::cmd("SET").arg(&key).arg(&value).to_owned();
            if set.query_async::<()>(&mut connection).await.is_err() {
                return;
            }
        }
    };
    let noticed = until("both have said farewell", async || {
        let (_, status) = cluster.server("a").http("GET", "/status", "");
        let said = status["farewells"].as_object()?.clone();
        (said.len() == 2).then_some(said)
    });
    let (_, farewells) = tokio::join!(tokio::time::timeout(PATIENCE, writing), noticed);
    for id in ["b", "c"] {
        let why = farewells[id]["why"].as_str().unwrap();
        assert!(why.contains("File too large") && why.contains("make room on it"), "{why}");
        assert_eq!(cluster.server_mut(id).ended().await.code(), Some(1));
    }
    let (_, status) = cluster.server("a").ctl(&["status"]);
    let line = status.lines().find(|line| line.starts_with("b has ended ")).unwrap();
    assert!(line.contains(" ago: the node stopped because its storage failed: "), "{status}");
    until("/health says it too", async || {
        let (code, said) = cluster.server("a").http("GET", "/health", "");
        let why = said["error"].as_str()?;
        (code == 503 && why.contains("; c has ended ")).then_some(())
    })
    .await;

    // With room they come back, and what they said is forgotten.
    for id in ["b", "c"] {
        cluster.server_mut(id).start(&CALM);
    }
    cluster.leader().await;
    until("nobody is away", async || {
        let (_, status) = cluster.server("a").http("GET", "/status", "");
        status["farewells"].as_object()?.is_empty().then_some(())
    })
    .await;
    // Only members are listened to.
    let stranger = json!({ "id": "x", "cluster": "kv", "why": "" }).to_string();
    assert_eq!(cluster.server("a").http("POST", "/farewell", &stranger).0, 409);
}

/// A machine that boots again with the flags of the first start must not undo a removal.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_server_that_starts_again_with_join_stays_out() {
    let mut cluster = Cluster::single(&CALM).await;
    let http = cluster.servers[0].http.clone();
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::new(directory.path(), "d");
    let flags = [&["--join", http.as_str()][..], &CALM].concat();
    server.start(&flags);
    until("it is a voter", async || {
        (member(&cluster.servers[0], "d")["voter"] == true).then_some(())
    })
    .await;
    let (ok, said) = cluster.servers[0].ctl(&["remove", "d"]);
    assert!(ok, "{said}");
    assert!(server.ended().await.success(), "{}", server.log());
    for _ in 0..3 {
        let before = server.log().len();
        server.start(&flags);
        until("it says that it was removed", async || {
            server.log()[before..].contains("not asking to join").then_some(())
        })
        .await;
        server.kill();
        assert!(!server.log()[before..].contains("joined the cluster"), "{}", server.log());
        let (_, members) = cluster.servers[0].http("GET", "/members", "");
        assert_eq!(members["members"].as_array().map(Vec::len), Some(1), "{members}");
    }
    let server = &mut cluster.servers[0];
    server.ask::<()>(&["SET", "k", "v"]).await.unwrap();
}
