//! One server of a replicated counter, on disk and over TCP: all that a program of your own needs, in
//! one file. `kv` is the long form.
//!
//! In three terminals, with `--id a`, `--id b` and `--id c`:
//!
//! ```sh
//! cargo run --release --bin counter -- --id a --data-dir /tmp/counter/a \
//!     --members a=127.0.0.1:7101,b=127.0.0.1:7102,c=127.0.0.1:7103
//! ```

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use async_trait::async_trait;
use clap::Parser;
use raft::{
    Config, Configuration, Entry, FileLogOptions, FileLogStore, FileSnapshotStore, Fsm, FsmError,
    FsmSnapshot, Raft, Server, SnapshotReader,
};
use raft_tcp::{TcpOptions, TcpTransport};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, stdin};
use tracing_subscriber::EnvFilter;

/// One server of a replicated counter. It takes commands from standard input: `add N`, `get`,
/// `snapshot`, `rejoin ID` and `status`, on the leader (`status` anywhere); the
/// end of the input stops it.
#[derive(Parser)]
#[command(name = "counter")]
struct Args {
    /// Which of the members this server is.
    #[arg(long)]
    id: String,
    /// Where it keeps its data; made if it is not there.
    #[arg(long)]
    data_dir: PathBuf,
    /// All members of a new cluster and where they listen: ID=HOST:PORT,...
    #[arg(long, value_delimiter = ',', value_parser = member)]
    members: Vec<Server>,
}

fn member(text: &str) -> Result<Server, String> {
    let (id, address) = text.split_once('=').ok_or("a member is ID=HOST:PORT")?;
    Ok(Server::voter(id, address))
}

/// The state machine. `main` looks at the number, so it is shared.
struct Counter(Arc<AtomicI64>);

impl Fsm for Counter {
    /// What `apply` answers: the sum; or what was wrong with the command, the same on every server.
    type Response = Result<i64, &'static str>;

    fn apply(&mut self, entry: &Entry) -> Self::Response {
        let number = <[u8; 8]>::try_from(entry.data()).map_err(|_| "a command has 8 bytes")?;
        let number = i64::from_be_bytes(number);
        let sum = self.0.load(Ordering::Acquire).checked_add(number).ok_or("that is too much")?;
        self.0.store(sum, Ordering::Release);
        Ok(sum)
    }

    /// Quick: it only takes hold of the state. Commands go on while that is written.
    fn snapshot(&mut self) -> Result<Box<dyn FsmSnapshot>, FsmError> {
        Ok(Box::new(Snapshot(self.0.load(Ordering::Acquire))))
    }

    async fn restore(&mut self, mut reader: SnapshotReader) -> Result<(), FsmError> {
        self.0.store(reader.read_i64().await?, Ordering::Release);
        Ok(())
    }
}

/// The state at one moment.
struct Snapshot(i64);

#[async_trait]
impl FsmSnapshot for Snapshot {
    async fn persist(
        self: Box<Self>,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), FsmError> {
        sink.write_i64(self.0).await?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Args { id, data_dir, members } = Args::parse();
    // The library says what it does through `tracing`; with RUST_LOG=raft=debug this shows more of it.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let me = members.iter().find(|member| member.id.as_str() == id);
    let address = me.ok_or("the id is not among the members")?.address.to_string();

    let mut log = FileLogStore::open(data_dir.join("log"), FileLogOptions::default())?;
    let mut stable = log.clone();
    let snapshots = FileSnapshotStore::open(data_dir.join("snapshots"), 2)?;
    let transport = TcpTransport::bind(TcpOptions::new(address, "counter")).await?;
    // The first start of a cluster: all members begin with the same configuration.
    if !raft::has_existing_state(&log, &mut stable, &snapshots).await? {
        let members = Configuration::new(members);
        raft::bootstrap_cluster(&mut log, &mut stable, &snapshots, members).await?;
    }
    let sum = Arc::new(AtomicI64::new(0));
    let counter = Counter(Arc::clone(&sum));
    let raft =
        Raft::new(Config::new(id), counter, log, stable, Arc::new(snapshots), transport).await?;

    let mut leaders = raft.leader_changes();
    let mut lines = BufReader::new(stdin()).lines();
    loop {
        tokio::select! {
            line = lines.next_line() => match line? {
                None => break,
                Some(line) => match carry_out(&raft, &sum, line.trim()).await {
                    Ok(answer) => println!("{answer}"),
                    Err(error) => println!("error: {error}"),
                },
            },
            Ok(()) = leaders.changed() => if let Some(leader) = raft.leader() {
                println!("the leader is {}", leader.id);
            },
            // Whatever the reason: a disk that fails, or that is another one than the cluster knows.
            end = raft.ended() => return Err(end.into()),
        }
    }
    raft.shutdown_gracefully().await;
    Ok(())
}

async fn carry_out(
    raft: &Raft<Counter>,
    sum: &AtomicI64,
    line: &str,
) -> Result<String, Box<dyn std::error::Error>> {
    match line.split_once(' ').unwrap_or((line, "")) {
        ("add", number) => {
            let command = number.parse::<i64>()?.to_be_bytes();
            // When this returns, the command is on the disks of a majority, and applied here.
            Ok(raft.apply(command.to_vec()).await?.response?.to_string())
        }
        ("get", "") => {
            // A read that is never stale: this server leads now, and has applied what was committed.
            let index = raft.verify_leader().await?;
            raft.wait_applied(index).await?;
            Ok(sum.load(Ordering::Acquire).to_string())
        }
        // For a server whose disk was wiped, or was an older copy; it has to run.
        ("rejoin", id) => Ok(format!("rejoined at {}", raft.rejoin_server(id).await?)),
        ("snapshot", "") => Ok(format!("snapshot {}", raft.snapshot().await?.meta.last)),
        ("status", "") => Ok(serde_json::to_string(&raft.status().await?)?),
        _ => Err("commands are: add N, get, snapshot, rejoin ID, status".into()),
    }
}
