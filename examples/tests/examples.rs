//! Runs every example as a user would, and every command the README names but those of `kv`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    io::{BufRead, BufReader, Lines, Write},
    net::TcpListener,
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
    time::Duration,
};

use tokio::time::sleep;

/// Where cargo put a program of this package.
fn program(name: &str) -> Command {
    let path = match name {
        "counter" => env!("CARGO_BIN_EXE_counter"),
        "election" => env!("CARGO_BIN_EXE_election"),
        "five_mem_node" => env!("CARGO_BIN_EXE_five_mem_node"),
        "log_marks" => env!("CARGO_BIN_EXE_log_marks"),
        "raw_node" => env!("CARGO_BIN_EXE_raw_node"),
        other => panic!("there is no program {other}"),
    };
    Command::new(path)
}

fn run(name: &str, args: &[&str]) -> (Output, String) {
    let output = program(name).args(args).output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {args:?} failed:\n{text}\n{errors}");
    (output, text)
}

#[test]
fn election_shows_every_message_and_ends_with_one_leader() {
    let (_, text) = run("election", &["--seed", "7"]);
    let header = text.lines().next().unwrap();
    for server in ["s1", "s2", "s3"] {
        assert!(header.contains(server), "no column for {server}: {header}");
    }
    for kind in
        ["RequestPreVote ", "RequestVote ", "RequestVoteReply ", "Heartbeat ", "AppendEntries "]
    {
        assert!(text.contains(kind), "no {kind} in\n{text}");
    }
    assert!(text.contains("== leader term="), "nobody became leader:\n{text}");
    assert!(text.lines().last().unwrap().starts_with("all 3 servers follow s"), "{text}");
}

#[test]
fn election_takes_the_number_of_servers_and_refuses_nonsense() {
    let (_, text) = run("election", &["--servers", "5"]);
    assert!(text.lines().last().unwrap().starts_with("all 5 servers follow s"), "{text}");
    let refused = program("election").args(["--servers", "0"]).output().unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("0 is not in 1..=9"));
}

#[test]
fn five_mem_node_ends_with_five_equal_maps() {
    let (_, text) = run("five_mem_node", &[]);
    for line in [
        "server 1 bootstrapped alone and leads",
        "server 5 added at index 11: the members are 1 2 3 4 5",
        "100 proposals applied, the last at index 111",
        "server 5 holds 100 pairs",
        "all five maps are equal",
    ] {
        assert!(text.contains(line), "no line {line:?} in\n{text}");
    }
}

#[test]
fn log_marks_move_in_order_on_every_server() {
    let (_, text) = run("log_marks", &[]);
    let rows: Vec<Vec<u64>> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            words.next()?.parse::<f64>().ok()?;
            words.next()?;
            let marks: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
            (marks.len() == 6).then_some(marks)
        })
        .collect();
    assert!(9 <= rows.len(), "too few rows:\n{text}");
    for row in &rows {
        let [last, offset, stable, committed, applying, applied] = row[..] else {
            panic!("{row:?}")
        };
        assert_eq!(offset, stable + 1, "{row:?}");
        assert!(stable <= last && applied <= applying && applying <= committed, "{row:?}");
    }
    assert!(rows.iter().any(|row| row[2] < row[0]), "the unstable tail was never seen:\n{text}");
    assert!(rows.iter().any(|row| row[5] < row[4]), "applying was never seen:\n{text}");
    assert!(text.contains("are applied everywhere"), "{text}");
}

#[test]
fn raw_node_applies_all_proposals_on_all_servers() {
    let (_, text) = run("raw_node", &[]);
    assert!(text.contains("all 10 proposals were applied by all 3 servers"), "{text}");
    for server in ["a", "b", "c"] {
        let line = text.lines().find(|line| line.starts_with(&format!("server {server}: ")));
        let line = line.unwrap_or_else(|| panic!("nothing of the log of {server}:\n{text}"));
        assert!(line.contains("its log ends with entry ") && !line.contains("LogId"), "{line}");
    }
}

/// A server of `counter`.
struct Counter {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Counter {
    fn start(root: &Path, id: &str, members: &str) -> Self {
        let data = root.join(id);
        let mut process = program("counter")
            .args(["--id", id, "--members", members, "--data-dir"])
            .arg(data)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("it says something").unwrap()
    }

    fn ask(&mut self, command: &str) -> String {
        writeln!(self.process.stdin.as_ref().unwrap(), "{command}").unwrap();
        loop {
            let line = self.line();
            if !line.starts_with("the leader is ") {
                return line;
            }
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn counter_keeps_its_sum_when_all_servers_are_killed() {
    let root = tempfile::tempdir().unwrap();
    let ports = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = ports.map(|port| port.local_addr().unwrap());
    let members = ["a", "b", "c"].iter().zip(addresses).map(|(id, at)| format!("{id}={at}"));
    let members = members.collect::<Vec<_>>().join(",");
    let start = || ["a", "b", "c"].map(|id| Counter::start(root.path(), id, &members));
    let mut servers = start();
    for server in &mut servers {
        let line = server.line();
        assert!(line.starts_with("the leader is "), "{line}");
    }
    for (command, answer) in [
        ("add 5", "5"),
        ("add 7", "12"),
        ("get", "12"),
        ("add 9223372036854775807", "error: that is too much"),
        ("snapshot", "snapshot "),
        ("add x", "error: invalid digit"),
        ("sub 1", "error: commands are: add N"),
        ("status", "{\"id\":"),
    ] {
        let said = ask_leader(&mut servers, command).await;
        assert!(said.starts_with(answer), "{command}: {said}");
    }
    let refusals = servers.each_mut().map(|server| server.ask("add 0"));
    let refusals = refusals.iter().filter(|said| said.starts_with("error: not the leader"));
    assert_eq!(refusals.count(), 2);
    drop(servers);

    let mut servers = start();
    for server in &mut servers {
        server.line();
    }
    assert_eq!(ask_leader(&mut servers, "get").await, "12");
    for server in &mut servers {
        drop(server.process.stdin.take());
        assert!(server.process.wait().unwrap().success(), "the end of the input stops it");
    }
}

/// The answer of whoever leads.
async fn ask_leader(servers: &mut [Counter], command: &str) -> String {
    for _ in 0..600 {
        for server in &mut *servers {
            let said = server.ask(command);
            if !said.contains("not the leader") {
                return said;
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("nobody leads");
}

#[test]
fn every_program_has_a_help_and_refuses_what_it_does_not_know() {
    let shows = [
        ("counter", "One server of a replicated counter"),
        ("election", "every message"),
        ("five_mem_node", "a hundred proposals"),
        ("log_marks", "a line for each change"),
        ("raw_node", "consensus core driven by hand"),
    ];
    for (name, what) in shows {
        let (_, text) = run(name, &["--help"]);
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(what) && text.contains("Usage: "), "{text}");
        for args in [&["--fast"][..], &["more"]] {
            let refused = program(name).args(args).output().unwrap();
            assert_eq!(refused.status.code(), Some(2), "{name} {args:?}");
            let said = String::from_utf8_lossy(&refused.stderr);
            assert!(said.contains(args[0]) && refused.stdout.is_empty(), "{said}");
        }
    }
}

/// As behind `head`, which has seen enough.
#[test]
fn nobody_has_to_read_to_the_end() {
    let cases = [
        ("election", &["--servers", "5"][..]),
        ("five_mem_node", &[]),
        ("log_marks", &[]),
        ("raw_node", &[]),
    ];
    for (name, args) in cases {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = program(name).args(args).stdout(writer).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*said), (Some(0), ""), "{name}");
    }
}

#[test]
fn readme_names_only_commands_that_work() {
    const README: &str = include_str!("../../README.md");
    let mut programs = 0;
    for line in README.lines() {
        let quoted = line.split('`').skip(1).step_by(2);
        for command in quoted.chain([line.trim()]) {
            if let Some(rest) = command.strip_prefix("cargo run --release --bin ") {
                let words: Vec<&str> =
                    rest.split_whitespace().filter(|word| *word != "--").collect();
                // `kv` is a package of its own, which tests its commands.
                if words[0] != "kv" {
                    run(words[0], &words[1..]);
                    programs += 1;
                }
            }
        }
    }
    assert!(5 <= programs, "the README names only {programs} programs");
}

#[test]
fn readme_says_how_to_depend_on_the_library() {
    const README: &str = include_str!("../../README.md");
    let (_, rest) = README.split_once("[dependencies]\n").unwrap();
    let (block, _) = rest.split_once("```").unwrap();
    for name in ["raft =", "raft-tcp =", "tokio ="] {
        assert!(block.lines().any(|line| line.starts_with(name)), "no {name} in\n{block}");
    }
}
