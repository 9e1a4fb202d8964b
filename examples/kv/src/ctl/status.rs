//! `kv ctl status`: the asked server in words, every member in a line, and snapshots under way.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    thread,
    time::Duration,
};

use serde_json::Value;

use super::{
    list, suffrage,
    table::{table, text_of},
};
use crate::{
    failure::Failure,
    operator::{Ask, Operator},
};

/// For asking each member how it is: one that hangs must not hide the others.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks the server, then every member it knows, and says how they are.
///
/// # Errors
/// When the server itself does not answer. Others that do not are named in the text.
pub(super) fn show(operator: &Operator) -> Result<String, Failure> {
    let members = operator.ask("/members", &Ask::Get)?;
    let asked = operator.ask("/status", &Ask::Get)?;
    // A server that is behind knows the members, perhaps, but not yet where they are.
    let leader = list(&members).iter().find(|member| member["leader"] == true);
    let leader = leader.and_then(|leader| leader["http"].as_str());
    let better =
        leader.and_then(|http| Operator::new(http, TIMEOUT).ask("/members", &Ask::Get).ok());
    let known = better.as_ref().map_or(&[][..], list);
    let members = thread::scope(|scope| {
        let asking = list(&members).iter().map(|member| {
            let same = known.iter().find(|other| other["id"] == member["id"]);
            let http = member["http"].as_str().or_else(|| same?["http"].as_str());
            let is_asked = asked["id"] == member["id"];
            let ask = move || ask(&member["id"], http);
            (member, (!is_asked).then(|| scope.spawn(ask)))
        });
        let asking: Vec<_> = asking.collect();
        let answers = asking.into_iter().map(|(member, asking)| Member {
            id: text_of(&member["id"]),
            suffrage: suffrage(member),
            http: member["http"].as_str().map(str::to_owned),
            said: match asking {
                None => Ok(asked.clone()),
                Some(asking) => {
                    asking.join().unwrap_or_else(|_| Err("could not be asked".to_owned()))
                }
            },
        });
        answers.collect::<Vec<_>>()
    });
    Ok(page(&asked, &members))
}

/// What a member says of itself, or why it does not.
struct Member {
    id: String,
    suffrage: String,
    /// Where to ask it, if that is known.
    http: Option<String>,
    said: Result<Value, String>,
}

fn ask(id: &Value, http: Option<&str>) -> Result<Value, String> {
    let http = http.ok_or("has not told its address yet")?;
    let said = Operator::new(http, TIMEOUT)
        .ask("/status", &Ask::Get)
        .map_err(|_| format!("does not answer at {http}"))?;
    if said["id"] == *id {
        return Ok(said);
    }
    Err(format!("its address is {}'s now", text_of(&said["id"])))
}

fn page(asked: &Value, members: &[Member]) -> String {
    let mut text = itself(asked);
    // The leader alone knows how far the others are. Of two that say they lead, the newer does.
    let statuses = members.iter().filter_map(|member| member.said.as_ref().ok());
    let leader = statuses
        .filter(|said| said["raft"]["role"] == "Leader")
        .max_by_key(|said| said["raft"]["term"].as_u64());
    let wrong = wrong_disks(leader, asked, members);
    if !members.is_empty() {
        text.push('\n');
        text += &table_of_members(members, leader, &wrong);
    }
    for wrong in &wrong {
        let http = who_takes_back(wrong, asked, members);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{wrong} runs on another disk than the cluster knows; nobody listens to it until: \
             kv ctl --http {http} rejoin {wrong}"
        );
    }
    for (id, trouble) in log_troubles(asked, members) {
        let _ = writeln!(text, "{id}: {trouble}");
    }
    for (id, address) in wrong_addresses(asked, members) {
        let (actual, listed) = (text_of(&address["actual"]), text_of(&address["listed"]));
        let http = text_of(&asked["addresses"]["http"]);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{id} listens at {actual}, but the members' list has it at {listed}; if it has moved: \
             kv ctl --http {http} add --move {id} {actual}"
        );
    }
    for (id, said) in asked["farewells"].as_object().into_iter().flatten() {
        let ago = rough(Duration::from_secs(said["seconds_ago"].as_u64().unwrap_or_default()));
        let _ = writeln!(text, "{id} has ended {ago} ago: {}", text_of(&said["why"]));
    }
    let transfers = transfers(asked, members);
    if !transfers.is_empty() {
        text.push('\n');
        let head = ["SNAPSHOT", "UP TO ENTRY", "BYTES", "OF", "DONE"].map(str::to_owned);
        text += &table([head].into_iter().chain(transfers));
    }
    text
}

/// Who runs on another disk than the one the cluster knows it by: the leader says so of others, and
/// everybody of itself. What others say may be out of date.
fn wrong_disks(leader: Option<&Value>, asked: &Value, members: &[Member]) -> BTreeSet<String> {
    let by_leader = leader.and_then(|leader| leader["raft"]["wrong_disks"].as_array());
    let of_others = by_leader.into_iter().flatten();
    let statuses = members.iter().filter_map(|member| member.said.as_ref().ok());
    let of_itself = statuses.chain([asked]).map(|said| &said["raft"]["wrong_disk"]);
    let wrong = of_others.chain(of_itself.filter(|disk| !disk.is_null()));
    wrong.map(|disk| text_of(&disk["server"])).collect()
}

/// Who says that it listens elsewhere than the members' list has it.
/// What will keep a server's log from being written before long.
fn log_troubles(asked: &Value, members: &[Member]) -> BTreeMap<String, String> {
    let statuses = members.iter().filter_map(|member| member.said.as_ref().ok());
    let troubled = statuses.chain([asked]).filter_map(|said| {
        let trouble = said["raft"]["log_trouble"].as_str()?;
        Some((text_of(&said["id"]), trouble.to_owned()))
    });
    troubled.collect()
}

fn wrong_addresses<'a>(asked: &'a Value, members: &'a [Member]) -> BTreeMap<String, &'a Value> {
    let statuses = members.iter().filter_map(|member| member.said.as_ref().ok());
    let moved = statuses.chain([asked]).filter(|said| !said["raft"]["wrong_address"].is_null());
    moved.map(|said| (text_of(&said["id"]), &said["raft"]["wrong_address"])).collect()
}

/// The HTTP address of a server that can be asked to take `wrong` back.
fn who_takes_back(wrong: &str, asked: &Value, members: &[Member]) -> String {
    if asked["id"] != wrong {
        return text_of(&asked["addresses"]["http"]);
    }
    let mut others = members.iter().filter(|member| member.id != wrong);
    others.find_map(|member| member.http.clone()).unwrap_or("ANOTHER-MEMBER".to_owned())
}

/// The asked server in words.
fn itself(asked: &Value) -> String {
    let (raft, kv) = (&asked["raft"], &asked["kv"]);
    let (marks, snapshot) = (&raft["marks"], &raft["snapshot"]);
    let mut text = String::new();
    let mut line = |what: &str, words: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{what:<11}{words}");
    };
    let uptime = Duration::from_secs(asked["uptime_seconds"].as_u64().unwrap_or_default());
    line(
        "server",
        format!(
            "{} of cluster {}, kv {}, up for {}",
            text_of(&asked["id"]),
            text_of(&asked["cluster"]),
            text_of(&asked["version"]),
            rough(uptime)
        ),
    );
    line("role", role(raft));
    if !raft["wrong_disk"].is_null() {
        line(
            "disk",
            "not the one its cluster knows it by: its data is lost, or another's".to_owned(),
        );
    }
    let entries = match marks["last"].as_u64() < marks["first"].as_u64() {
        true => "empty".to_owned(),
        false => format!("entries {} to {}", marks["first"], marks["last"]),
    };
    line(
        "log",
        format!(
            "{entries}; durable to {}, committed to {}, applied to {}",
            marks["stable"], marks["committed"], marks["applied"]
        ),
    );
    line(
        "snapshot",
        match snapshot["index"].as_u64() {
            None | Some(0) => "none".to_owned(),
            Some(index) => format!("up to entry {index} of term {}", snapshot["term"]),
        },
    );
    line("content", format!("{} keys, checksum {}", kv["keys"], text_of(&kv["checksum"])));
    let latest = raft["latest_configuration"]["index"].as_u64();
    let change = if marks["committed"].as_u64() < latest { ", not committed yet" } else { "" };
    line(
        "members",
        match latest {
            None | Some(0) => "none".to_owned(),
            Some(index) => format!("as of entry {index}{change}"),
        },
    );
    line("autopilot", autopilot(&asked["autopilot"], raft["role"] == "Leader"));
    text
}

fn role_name(raft: &Value) -> String {
    match raft["role"].as_str() {
        Some("PreCandidate") => "pre-candidate".to_owned(),
        _ => text_of(&raft["role"]).to_lowercase(),
    }
}

fn role(raft: &Value) -> String {
    let (role, term) = (role_name(raft), &raft["term"]);
    if role == "leader" {
        return format!("leader in term {term}");
    }
    match raft["leader"]["id"].as_str() {
        None => format!("{role} in term {term}; no leader is known"),
        Some(leader) => {
            let heard = duration(&raft["last_contact_seconds"])
                .map_or("never".to_owned(), |silence| format!("{} ago", rough(silence)));
            format!("{role} in term {term}; the leader is {leader}, heard {heard}")
        }
    }
}

/// What the autopilot knows, which it does on the leader only.
fn autopilot(state: &Value, leads: bool) -> String {
    if state.is_null() {
        return "off".to_owned();
    }
    if !leads || state["is_leader"] != true {
        return "on; the leader knows more".to_owned();
    }
    let servers = state["servers"].as_array().map_or(&[][..], Vec::as_slice);
    let sick: Vec<_> = servers
        .iter()
        .filter(|server| server["is_healthy"] != true)
        .map(|server| text_of(&server["id"]))
        .collect();
    let tolerance = match state["failure_tolerance"].as_u64() {
        None | Some(0) => "no voter may fail".to_owned(),
        Some(1) => "1 voter may fail".to_owned(),
        Some(count) => format!("{count} voters may fail"),
    };
    match &sick[..] {
        [] => format!("on; all are healthy, {tolerance}"),
        sick => format!("on; not healthy: {}; {tolerance}", sick.join(", ")),
    }
}

fn table_of_members(
    members: &[Member],
    leader: Option<&Value>,
    wrong: &BTreeSet<String>,
) -> String {
    let head = [
        "ID", "SUFFRAGE", "LAG", "CONTACT", "ROLE", "TERM", "LAST", "COMMIT", "APPLIED",
        "SNAPSHOT", "KEYS", "CHECKSUM",
    ];
    let head = head.map(str::to_owned).to_vec();
    let row = |Member { id, suffrage, said, .. }: &Member| {
        let (lag, contact) = seen_from(leader, id);
        let lag = if wrong.contains(id) { "-".to_owned() } else { lag };
        let cells = [id.clone(), suffrage.clone(), lag, contact];
        let rest = match said {
            Err(why) => vec![why.clone()],
            Ok(said) => itself_in_cells(said),
        };
        cells.into_iter().chain(rest).collect::<Vec<_>>()
    };
    table([head].into_iter().chain(members.iter().map(row)))
}

fn itself_in_cells(said: &Value) -> Vec<String> {
    let (raft, kv) = (&said["raft"], &said["kv"]);
    let cells = [
        &raft["role"],
        &raft["term"],
        &raft["marks"]["last"],
        &raft["marks"]["committed"],
        &raft["marks"]["applied"],
        &raft["snapshot"]["index"],
        &kv["keys"],
        &kv["checksum"],
    ];
    cells.into_iter().map(|cell| text_of(cell).to_lowercase()).collect()
}

/// How many entries of the leader's log a member lacks, if it answers, and when it last did.
fn seen_from(leader: Option<&Value>, id: &str) -> (String, String) {
    let unknown = || ("-".to_owned(), "-".to_owned());
    let Some(leader) = leader else { return unknown() };
    if leader["id"] == id {
        return ("0".to_owned(), "-".to_owned());
    }
    let Some(peer) = peer(leader, id) else { return unknown() };
    if !has_answered(peer) {
        return unknown();
    }
    let contact = duration(&peer["last_contact_seconds"]).map_or("-".to_owned(), rough);
    let lag = if peer["is_lost"] == true { "-".to_owned() } else { text_of(&peer["lag_entries"]) };
    (lag, contact)
}

/// Whether a peer has ever answered this leader: until then contact counts from when the leader began
/// to ask.
pub(super) fn has_answered(peer: &Value) -> bool {
    !peer["round_trip_seconds"].is_null()
}

pub(super) fn peer<'a>(leader: &'a Value, id: &str) -> Option<&'a Value> {
    peers(leader).iter().find(|peer| peer["id"] == id)
}

fn peers(said: &Value) -> &[Value] {
    said["raft"]["peers"].as_array().map_or(&[], Vec::as_slice)
}

/// A row for each snapshot that is being written, sent or received by anybody who answers.
fn transfers(asked: &Value, members: &[Member]) -> Vec<[String; 5]> {
    let mut rows = Vec::new();
    let mut row = |what: String, last: &Value, bytes: &Value, size: &Value| {
        let done = match (bytes.as_u64(), size.as_u64()) {
            (Some(bytes), Some(size)) if 0 < size => format!("{} %", 100 * bytes / size),
            _ => "-".to_owned(),
        };
        rows.push([what, text_of(&last["index"]), text_of(bytes), text_of(size), done]);
    };
    let is_member = members.iter().any(|member| asked["id"] == member.id.as_str());
    let statuses = members.iter().filter_map(|member| member.said.as_ref().ok());
    for said in statuses.chain((!is_member).then_some(asked)) {
        let (id, raft) = (text_of(&said["id"]), &said["raft"]);
        for (what, progress) in
            [("is written by", &raft["persisting"]), ("is received by", &raft["receiving"])]
        {
            if !progress.is_null() {
                let (bytes, size) = (&progress["bytes"], &progress["size_bytes"]);
                row(format!("{what} {id}"), &progress["last"], bytes, size);
            }
        }
        for peer in peers(said).iter().filter(|peer| peer["progress"] == "Snapshot") {
            let what = format!("is sent to {} by {id}", text_of(&peer["id"]));
            let (bytes, size) = (&peer["snapshot_received_bytes"], &peer["snapshot_size_bytes"]);
            row(what, &raft["snapshot"], bytes, size);
        }
    }
    rows
}

fn duration(seconds: &Value) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds.as_f64()?).ok()
}

/// A time as people say it: one or two units.
pub(super) fn rough(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(id: &str, role: &str, term: u64, peers: Value) -> Value {
        let receiving = match role {
            "Leader" => Value::Null,
            _ => json!({ "last": { "index": 7, "term": 2 }, "bytes": 30, "size_bytes": 120 }),
        };
        json!({
            "id": id, "cluster": "kv", "version": "1.2.3", "uptime_seconds": 125,
            "kv": { "index": 9, "keys": 3, "checksum": "00ff" },
            "autopilot": null,
            "raft": {
                "role": role, "term": term, "leader": { "id": "a" },
                "last_contact_seconds": 0.034,
                "marks": { "first": 5, "last": 10, "stable": 9, "committed": 9, "applied": 8 },
                "snapshot": { "index": 7, "term": 2 },
                "persisting": null, "receiving": receiving,
                "latest_configuration": { "index": 10 },
                "peers": peers,
            },
        })
    }

    fn member(id: &str, said: Result<Value, &str>) -> Member {
        let said = said.map_err(str::to_owned);
        let http = Some(format!("{id}:8080"));
        Member { id: id.to_owned(), suffrage: "voter".to_owned(), http, said }
    }

    #[test]
    fn everything_is_on_the_page_and_aligned() {
        let peer = |id: &str, progress: &str, lag: u64| {
            json!({
                "id": id, "progress": progress, "lag_entries": lag, "is_lost": false,
                "last_contact_seconds": 75.0, "round_trip_seconds": 0.001,
                "snapshot_received_bytes": 30, "snapshot_size_bytes": 120,
            })
        };
        let peers = json!([peer("a-long-name", "Snapshot", 10), peer("c", "Replicate", 2)]);
        let (a, b) =
            (status("a", "Leader", 3, peers), status("a-long-name", "Follower", 3, json!([])));
        let members = [
            member("a", Ok(a)),
            member("a-long-name", Ok(b.clone())),
            member("c", Err("does not answer at h:1")),
        ];
        let expected = "\
server     a-long-name of cluster kv, kv 1.2.3, up for 2 min 5 s
role       follower in term 3; the leader is a, heard 34 ms ago
log        entries 5 to 10; durable to 9, committed to 9, applied to 8
snapshot   up to entry 7 of term 2
content    3 keys, checksum 00ff
members    as of entry 10, not committed yet
autopilot  off

ID           SUFFRAGE  LAG  CONTACT     ROLE      TERM  LAST  COMMIT  APPLIED  SNAPSHOT  KEYS  CHECKSUM
a            voter     0    -           leader    3     10    9       8        7         3     00ff
a-long-name  voter     10   1 min 15 s  follower  3     10    9       8        7         3     00ff
c            voter     2    1 min 15 s  does not answer at h:1

SNAPSHOT                     UP TO ENTRY  BYTES  OF   DONE
is sent to a-long-name by a  7            30     120  25 %
is received by a-long-name   7            30     120  25 %
";
        assert_eq!(page(&b, &members), expected);
    }

    #[test]
    fn an_old_leader_is_not_believed_and_a_server_without_members_is_shown() {
        let old = status("old", "Leader", 2, json!([]));
        let peer = json!([{ "id": "old", "lag_entries": 6, "round_trip_seconds": 0.001 }]);
        let members =
            [member("old", Ok(old.clone())), member("new", Ok(status("new", "Leader", 3, peer)))];
        let text = page(&old, &members);
        assert!(text.contains("old  voter     6 "), "{text}");
        let text = page(&old, &[]);
        assert!(text.starts_with("server     old of") && !text.contains("SUFFRAGE"), "{text}");
    }

    #[test]
    fn who_runs_on_another_disk_is_named_with_the_cure_and_without_a_lag() {
        let peer = |id: &str| json!({ "id": id, "lag_entries": 0, "round_trip_seconds": 0.001 });
        let mut leader = status("a", "Leader", 3, json!([peer("b"), peer("c")]));
        leader["raft"]["wrong_disks"] = json!([{ "server": "b" }]);
        leader["addresses"]["http"] = json!("a:8080");
        let mut wiped = status("c", "Follower", 0, json!([]));
        wiped["raft"]["wrong_disk"] = json!({ "server": "c" });
        let members = [
            member("a", Ok(leader.clone())),
            member("b", Err("does not answer at b:8080")),
            member("c", Ok(wiped.clone())),
        ];
        let text = page(&leader, &members);
        for id in ["b", "c"] {
            let line = format!(
                "{id} runs on another disk than the cluster knows; nobody listens to it until: kv ctl \
                 --http a:8080 rejoin {id}\n"
            );
            assert!(text.contains(&line), "{text}");
            assert!(text.contains(&format!("\n{id}   voter     -    ")), "{text}");
        }

        // Asked itself it names somebody else, if it knows one.
        let text = page(&wiped, &members);
        assert!(text.contains("disk       not the one its cluster knows it by"), "{text}");
        assert!(text.contains("kv ctl --http a:8080 rejoin c\n"), "{text}");
        let text = page(&wiped, &[]);
        assert!(text.contains("kv ctl --http ANOTHER-MEMBER rejoin c\n"), "{text}");
    }

    #[test]
    fn who_listens_elsewhere_is_named_with_the_command_that_tells_the_others() {
        let mut asked = status("a", "Leader", 3, json!([]));
        asked["addresses"]["http"] = json!("a:8080");
        let mut moved = status("b", "Follower", 3, json!([]));
        moved["raft"]["wrong_address"] = json!({ "listed": "b:7000", "actual": "b2:7000" });
        let members = [member("a", Ok(asked.clone())), member("b", Ok(moved.clone()))];
        let line = "b listens at b2:7000, but the members' list has it at b:7000; if it has moved: \
                    kv ctl --http a:8080 add --move b b2:7000\n";
        assert!(page(&asked, &members).contains(line), "{}", page(&asked, &members));
        assert!(!page(&asked, &members[..1]).contains("listens at"));
        assert!(page(&moved, &[]).contains("b listens at b2:7000"), "also of itself");
    }

    #[test]
    fn a_peer_that_does_not_answer_has_no_lag() {
        let mut peer = json!({
            "id": "b", "lag_entries": 3, "last_contact_seconds": 0.2, "is_lost": false,
            "round_trip_seconds": null,
        });
        let seen = |peer: &Value| {
            let leader = status("a", "Leader", 3, json!([peer]));
            let (lag, contact) = seen_from(Some(&leader), "b");
            (lag, contact)
        };
        assert_eq!(seen(&peer), ("-".to_owned(), "-".to_owned()), "not yet");
        peer["round_trip_seconds"] = json!(0.001);
        assert_eq!(seen(&peer), ("3".to_owned(), "200 ms".to_owned()));
        peer["is_lost"] = json!(true);
        peer["last_contact_seconds"] = json!(75);
        assert_eq!(seen(&peer), ("-".to_owned(), "1 min 15 s".to_owned()), "no longer");
    }

    #[test]
    fn a_server_that_knows_nothing_says_so() {
        let mut new = status("new", "Follower", 0, json!([]));
        new["raft"]["marks"] =
            json!({ "first": 1, "last": 0, "stable": 0, "committed": 0, "applied": 0 });
        new["raft"]["latest_configuration"]["index"] = json!(0);
        let text = page(&new, &[]);
        assert!(text.contains("\nlog        empty; durable to 0"), "{text}");
        assert!(text.contains("\nmembers    none\n"), "{text}");
    }

    #[test]
    fn the_autopilot_says_who_is_not_well() {
        let server = |id: &str, healthy: bool| json!({ "id": id, "is_healthy": healthy });
        let state = |servers: Value, tolerance: u64| json!({ "is_leader": true, "failure_tolerance": tolerance, "servers": servers });
        let well = state(json!([server("a", true)]), 0);
        assert_eq!(autopilot(&well, true), "on; all are healthy, no voter may fail");
        let sick = state(json!([server("a", true), server("b", false), server("c", false)]), 1);
        assert_eq!(autopilot(&sick, true), "on; not healthy: b, c; 1 voter may fail");
        assert_eq!(autopilot(&json!({ "is_leader": false }), true), "on; the leader knows more");
        assert_eq!(autopilot(&well, false), "on; the leader knows more", "of when it led");
    }

    #[test]
    fn times_are_rough() {
        let cases = [(0, "0 ms"), (59, "59 s"), (61, "1 min 1 s"), (7260, "2 h 1 min")];
        for (seconds, text) in cases {
            assert_eq!(rough(Duration::from_secs(seconds)), text);
        }
        assert_eq!(rough(Duration::from_secs(90_000)), "1 d 1 h");
    }
}
