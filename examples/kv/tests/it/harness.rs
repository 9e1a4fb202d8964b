//! Servers as child processes, and ways to talk to them. Nothing sleeps and hopes: whatever takes
//! time is polled with a deadline.

use std::{
    collections::BTreeSet,
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::Mutex,
    time::Duration,
};

use redis::{FromRedisValue, RedisResult, aio::MultiplexedConnection};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

/// How long anything may take. Generous: the machine may be busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

pub(crate) fn kv() -> Command {
    Command::new(env!("CARGO_BIN_EXE_kv"))
}

/// Runs `kv` to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    kv().args(args).output().expect("kv runs")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Calls `look` until it finds something.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        sleep(POLL).await;
    }
}

/// Ports that nobody uses right now, and that no other test of this program is given.
pub(crate) fn free_addresses<const N: usize>() -> [String; N] {
    static GIVEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().expect("no test panics in here");
    [(); N].map(|()| {
        loop {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let address = listener.local_addr().expect("an address").to_string();
            if given.insert(address.clone()) {
                return address;
            }
        }
    })
}

/// One server.
pub(crate) struct Server {
    pub(crate) id: String,
    pub(crate) raft: String,
    pub(crate) resp: String,
    pub(crate) http: String,
    directory: PathBuf,
    child: Option<Child>,
}

impl Server {
    pub(crate) fn new(directory: &Path, id: &str) -> Self {
        let [raft, resp, http] = free_addresses();
        let directory = directory.to_owned();
        Self { id: id.to_owned(), raft, resp, http, directory, child: None }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.join(&self.id)
    }

    pub(crate) fn command(&self, flags: &[&str]) -> Command {
        let mut command = kv();
        command.args(["serve", "--id", &self.id, "--stop-with-stdin"]);
        command.args(["--raft", &self.raft, "--resp", &self.resp, "--http", &self.http]);
        command.arg("--data-dir").arg(self.data()).args(flags);
        command
    }

    pub(crate) fn start(&mut self, flags: &[&str]) {
        self.start_command(self.command(flags));
    }

    /// Starts it where `ulimit` was called with these words.
    pub(crate) fn start_with_limit(&mut self, limit: &str, flags: &[&str]) {
        self.start_command(self.command_with_limit(limit, flags));
    }

    /// Starts it where that must fail, and returns what it said.
    pub(crate) fn fails_with_limit(&self, limit: &str, flags: &[&str]) -> String {
        self.must_end_with(1, self.command_with_limit(limit, flags))
    }

    fn command_with_limit(&self, limit: &str, flags: &[&str]) -> Command {
        let limited = self.command(flags);
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\"")]);
        command.arg(limited.get_program()).args(limited.get_args());
        command
    }

    /// Starts it where no file can become larger than this, as on a disk that is nearly full.
    pub(crate) fn start_limited(&mut self, flags: &[&str], mib: u32) {
        let command = self.command(flags);
        let mut limited = Command::new("bash");
        limited.args([
            "-c",
            &format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", mib * 1024),
            "bash",
        ]);
        limited.arg(command.get_program()).args(command.get_args());
        self.start_command(limited);
    }

    pub(crate) fn start_command(&mut self, mut command: Command) {
        let log = self.directory.join(format!("{}.log", self.id));
        let log = File::options().create(true).append(true).open(log).expect("a log file");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("kv starts"));
    }

    /// Starts it where that must fail, and returns what it said.
    pub(crate) fn fails(&self, flags: &[&str]) -> String {
        self.ends_with(1, flags)
    }

    /// Starts it with flags that are a mistake, and returns what it said.
    pub(crate) fn refuses(&self, flags: &[&str]) -> String {
        let said = self.ends_with(2, flags);
        assert!(said.trim_end().ends_with("(see `kv serve --help`)"), "{said}");
        said
    }

    fn ends_with(&self, code: i32, flags: &[&str]) -> String {
        self.must_end_with(code, self.command(flags))
    }

    fn must_end_with(&self, code: i32, mut command: Command) -> String {
        let output = command.output().expect("kv runs");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
        assert_eq!(said.lines().count(), 1, "not one line: {said}");
        assert!(said.starts_with("kv: ") && !said.contains("panicked"), "{said}");
        said
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// SIGKILL: no goodbye.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killed");
            child.wait().expect("gone");
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("running").id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(sent.expect("kill").success());
    }

    /// The most memory it has had, in bytes.
    pub(crate) fn memory_peak(&self) -> u64 {
        let pid = self.child.as_ref().expect("running").id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
        kilobytes << 10
    }

    /// SIGTERM: stops in order.
    pub(crate) async fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        let mut child = self.child.take().expect("running");
        until("the server ends", async || child.try_wait().expect("a status")).await
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        until("the server ends", async || self.has_ended()).await
    }

    /// Whether it has ended by itself, and how.
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().expect("a status")?;
        self.child = None;
        Some(status)
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        let log = self.directory.join(format!("{}.log", self.id));
        std::fs::read_to_string(log).unwrap_or_default()
    }

    pub(crate) async fn connect(&self) -> MultiplexedConnection {
        self.connect_with("").await
    }

    pub(crate) async fn connect_with(&self, query: &str) -> MultiplexedConnection {
        let client = redis::Client::open(format!("redis://{}/{query}", self.resp)).expect("a url");
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        until("a connection", async || {
            client.get_multiplexed_async_connection_with_config(&config).await.ok()
        })
        .await
    }

    /// One command on a connection of its own.
    pub(crate) async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        let mut connection = self.connect().await;
        cmd(words).query_async(&mut connection).await
    }

    /// Raw bytes in, raw bytes out, until the server closes or has answered `expected` bytes.
    pub(crate) async fn raw(&self, bytes: &[u8], expected: usize) -> Vec<u8> {
        exchange(&self.resp, bytes, expected).await
    }

    pub(crate) fn http(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let url = format!("http://{}{path}", self.http);
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(PATIENCE));
        let agent = ureq::Agent::from(config.build());
        let response = match method {
            "GET" => agent.get(&url).call(),
            "DELETE" => agent.delete(&url).call(),
            "POST" => agent.post(&url).send(body),
            other => panic!("{other}"),
        };
        let Ok(mut response) = response else { return (0, Value::Null) };
        let text = response.body_mut().read_to_string().unwrap_or_default();
        let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        (response.status().as_u16(), value)
    }

    /// `kv ctl`, with its exit code and what it printed.
    pub(crate) fn ctl(&self, args: &[&str]) -> (bool, String) {
        let output = run(&[&["ctl", "--http", &self.http], args].concat());
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    }

    pub(crate) fn ctl_in_the_background(&self, args: &[&str]) -> Child {
        let mut command = kv();
        command.args(["ctl", "--http", &self.http]).args(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kv starts")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(30).collect();
            eprintln!("the end of {}'s log:", self.id);
            tail.iter().rev().for_each(|line| eprintln!("  {line}"));
        }
    }
}

pub(crate) async fn exchange(address: &str, bytes: &[u8], expected: usize) -> Vec<u8> {
    let mut answer = Vec::new();
    let talk = async {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(bytes).await.expect("written");
        while answer.len() < expected {
            if stream.read_buf(&mut answer).await.unwrap_or(0) == 0 {
                break;
            }
        }
    };
    let ended = timeout(PATIENCE, talk).await;
    assert!(ended.is_ok(), "no end, but: {}", answer.escape_ascii());
    answer
}

pub(crate) fn cmd(words: &[&str]) -> redis::Cmd {
    let mut command = redis::Cmd::new();
    for word in words {
        command.arg(word);
    }
    command
}

/// A cluster of servers, each with a directory of its own.
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
    pub(crate) directory: TempDir,
}

/// Slow to suspect a leader: the machine may be busy.
pub(crate) const CALM: [&str; 4] = ["--election-timeout", "3s", "--no-leader-wait", "30s"];

impl Cluster {
    /// One server, up and leading.
    pub(crate) async fn single(flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut server = Server::new(directory.path(), "a");
        server.start(&[&["--bootstrap"], flags].concat());
        let cluster = Self { servers: vec![server], directory };
        cluster.leader().await;
        cluster
    }

    /// Three servers that were bootstrapped together, with a leader.
    pub(crate) async fn three(flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let servers = ["a", "b", "c"].map(|id| Server::new(directory.path(), id));
        let mut cluster = Self { servers: servers.into(), directory };
        let peers: Vec<_> =
            cluster.servers.iter().map(|s| format!("{}={}", s.id, s.raft)).collect();
        let peers = peers.join(",");
        for server in &mut cluster.servers {
            server.start(&[&["--bootstrap", "--peer", &peers], flags].concat());
        }
        cluster.leader().await;
        cluster
    }

    pub(crate) fn server(&self, id: &str) -> &Server {
        self.servers.iter().find(|server| server.id == id).expect("a server")
    }

    pub(crate) fn server_mut(&mut self, id: &str) -> &mut Server {
        self.servers.iter_mut().find(|server| server.id == id).expect("a server")
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().filter(|server| server.is_running())
    }

    /// Waits until all running servers name the same leader and know its contact.
    pub(crate) async fn leader(&self) -> String {
        self.leader_other_than("").await
    }

    pub(crate) async fn leader_other_than(&self, old: &str) -> String {
        until("a leader that all agree on", async || {
            let mut leaders: Vec<_> = self
                .running()
                .map(|server| {
                    let (_, members) = server.http("GET", "/members", "");
                    let list = members["members"].as_array().cloned().unwrap_or_default();
                    let leads = list.into_iter().find(|m| m["leader"] == true)?;
                    leads["http"].as_str().and(leads["id"].as_str().map(str::to_owned))
                })
                .collect();
            leaders.dedup();
            match &leaders[..] {
                [Some(leader)] if leader != old => Some(leader.clone()),
                _ => None,
            }
        })
        .await
    }

    pub(crate) async fn follower(&self) -> &Server {
        let leader = self.leader().await;
        self.running().find(|server| server.id != leader).expect("a follower")
    }

    /// Waits until all running servers have the same entries, and returns their checksum.
    pub(crate) async fn checksum(&self) -> String {
        // A read that is never stale: a leader that was just elected may not have applied everything.
        until("the leader has everything", async || {
            self.running().next()?.ask::<i64>(&["DBSIZE"]).await.ok()
        })
        .await;
        until("equal checksums", async || {
            let sums = self.running().map(|server| server.http("GET", "/checksum", "").1);
            let mut sums: Vec<_> = sums.collect();
            sums.dedup();
            match &sums[..] {
                [sum] => sum["checksum"].as_str().map(str::to_owned),
                _ => None,
            }
        })
        .await
    }
}
