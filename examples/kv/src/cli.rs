//! The command line.

use std::{
    env,
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{
    Arg, ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand,
    builder::{BoolishValueParser, Resettable, TypedValueParser},
    error::ErrorKind,
};
use raft::LogId;
use tracing_subscriber::EnvFilter;

use crate::{log::tell, stores::Kind};

const AFTER_SERVE_HELP: &str = "\
Signals: SIGTERM and Ctrl-C stop the server in order; a leader first hands leadership over. SIGHUP changes
nothing, SIGUSR1 and SIGUSR2 neither.
Exit codes: 0 when it was told to stop, or was removed from its cluster; 1 when it cannot start or
fails, with one line on standard error that says why; 2 for a mistake on the command line.

A variable that is empty counts as not set. KV_BOOTSTRAP takes 1 and 0, true and false, yes and no.

Example, a cluster of three on one machine:
  kv serve --id a --data-dir /tmp/a --bootstrap \\
           --raft 127.0.0.1:7001 --resp 127.0.0.1:6381 --http 127.0.0.1:8081
  kv serve --id b --data-dir /tmp/b --join 127.0.0.1:8081 \\
           --raft 127.0.0.1:7002 --resp 127.0.0.1:6382 --http 127.0.0.1:8082
  kv serve --id c --data-dir /tmp/c --join 127.0.0.1:8081 \\
           --raft 127.0.0.1:7003 --resp 127.0.0.1:6383 --http 127.0.0.1:8083
  redis-cli -p 6382 set greeting hello     # any server takes any request
  kv ctl --http 127.0.0.1:8081 status

Redis commands, each as in Redis 7:
  strings      GET SET SETNX GETSET MGET MSET APPEND STRLEN INCR INCRBY DECR DECRBY
  keys         DEL UNLINK EXISTS TYPE SCAN DBSIZE TTL PTTL FLUSHALL FLUSHDB
  connection   PING ECHO HELLO AUTH SELECT RESET QUIT CLIENT
  server       INFO COMMAND CONFIG
Absent: keys do not expire (SET takes NX, XX and GET only; TTL and PTTL answer -1), no KEYS (SCAN), one
database (SELECT 0), strings only, no transactions, scripts or channels, no passwords. After a refused MULTI
nothing is carried out until EXEC, DISCARD or RESET, after a refused SELECT nothing that is about keys.";

const AFTER_ADD_HELP: &str = "\
Run it against any member: it finds the leader. The new server is one that was started with its own --id
and --raft, the --cluster of the others, an empty --data-dir and neither --bootstrap nor --join (with
--join it does all of this by itself). First it becomes a nonvoter, which is told at once on standard
error; when it has caught up it gets its vote. Until then the cluster does not depend on it.

For a member that has what is asked for already, nothing is written. --move gives a member another
address: start it there, with its data, before or while this waits.

Exit codes: 0 when the server is what was asked for; 1 when it is not, or not in time, with one line
that says what it is now and what to do.";

const AFTER_REJOIN_HELP: &str = "\
Run it against any member but the server itself: it finds the leader. Before, start the server with the
--id, --raft and --cluster it had, without --bootstrap (--join does no harm): on an empty data directory if
its data is lost or another server's; on the one it has if it ended because that is an older copy. The leader removes the member and adds it again, with the address and the vote it had. It catches
up as a nonvoter first, so for that time the cluster has one voter less.

Exit codes: 0 when the server is what it was; 1 when it is not, with one line that says why.";

const AFTER_LEAVE_HELP: &str = "\
Refused when the voters that remain would have no majority that the leader has heard from within an
election timeout: they could commit nothing any more, not even a member's return. --force does it all
the same.";

const TIMES: &str = "Times, such as 500ms, 5s, 2m or 24h";
const SNAPSHOTS: &str = "Snapshots";
const AUTOPILOT: &str = "Autopilot (off unless asked for)";

const AFTER_RECOVER_HELP: &str = "\
When a majority of the voters is lost for good, the rest can neither write nor change its members.
Then, and only then:
  1. Make sure that the lost servers never come back with their data.
  2. Stop the survivors. Ask each with `kv inspect` where its log ends, and go on with the one that
     ends last: with the greatest term, and of equal ones the greatest index.
  3. Write the new members into a file:
       [{\"id\": \"a\", \"address\": \"10.0.0.1:7000\"}]
     With \"non_voter\": true a member has no vote.
  4. kv recover --data-dir DIR --peers FILE
  5. Start the server as before, without --join. Start all others with empty directories and --join.

The newest writes that clients saw acknowledged are, as a rule, among the entries of which the server
does not know whether they are committed. Keep them, unless a write that takes effect late does more
harm than one that is forgotten.

Several survivors can be recovered with the same file only if all end with the same entry, which
--must-end-at checks.";

const AFTER_BACKUP_HELP: &str = "\
The file holds the whole state as of one entry of the log, and says which. On a server that does not
lead that may be a little less than what was acknowledged; --leader makes it all of it. Commands go on
meanwhile. The file is checked before it gets its name. The same bytes: curl HOST:PORT/backup

Exit codes: 0 when FILE is whole and durable; 1 when it is not there, with one line that says why.";

const AFTER_RESTORE_HELP: &str = "\
The whole file is checked before anything is sent. The leader keeps what arrives beside its data,
checks it again, and only then puts it in the place of the state, on all servers. Commands are refused
for the moment in which it does; what was written since the backup is gone. Members stay as they are,
so the backup of one cluster can be restored into another. A restore that breaks off before the leader
has the whole file has changed nothing.

Exit codes: 0 when a majority of the servers has the restored state; 1 otherwise, with one line that
says why, and whether it may still take effect.";

/// A replicated key-value server that speaks the protocol of Redis.
#[derive(Debug, Parser)]
#[command(name = "kv", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs one server of a cluster.
    #[command(after_help = AFTER_SERVE_HELP, next_line_help = true)]
    Serve(Box<Serve>),
    /// Asks and changes a running cluster.
    Ctl(Ctl),
    /// Writes the state of a running cluster into a file.
    #[command(after_help = AFTER_BACKUP_HELP)]
    Backup(Backup),
    /// Replaces the state of a running cluster by that in a file.
    #[command(after_help = AFTER_RESTORE_HELP)]
    Restore(Restore),
    /// Shows what is in the data directory of a server that does not run. Changes nothing.
    Inspect(Inspect),
    /// Makes a server that does not run the beginning of a new cluster, after a majority of the old
    /// one was lost for good.
    #[command(after_help = AFTER_RECOVER_HELP)]
    Recover(Recover),
    /// Shows a cluster of three losing its leader, on this machine, in a minute.
    Demo(Demo),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Serve {
    /// The server's name in the cluster. Never changes for a data directory.
    #[arg(long, env = "KV_ID", value_parser = parse_id)]
    pub(crate) id: String,
    /// Where the server keeps everything. Made if it is missing.
    #[arg(long, env = "KV_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// What keeps the log. A data directory stays with the one it was made with.
    #[arg(long, env = "KV_STORE", value_enum, default_value_t = Kind::File)]
    pub(crate) store: Kind,
    /// Where to listen for other servers.
    #[arg(long, env = "KV_RAFT", value_name = "HOST:PORT", default_value = "127.0.0.1:7000",
          value_parser = parse_address)]
    pub(crate) raft: String,
    /// Where to listen for Redis clients.
    #[arg(long, env = "KV_RESP", value_name = "HOST:PORT", default_value = "127.0.0.1:6379",
          value_parser = parse_address)]
    pub(crate) resp: String,
    /// Where to listen for operators (HTTP: /status, /members, /metrics, /health, …).
    #[arg(long, env = "KV_HTTP", value_name = "HOST:PORT", default_value = "127.0.0.1:8080",
          value_parser = parse_address)]
    pub(crate) http: String,
    /// The cluster's name: servers of another cluster are refused. The same on all its servers.
    #[arg(long, env = "KV_CLUSTER", value_name = "NAME", default_value = "kv",
          value_parser = parse_id)]
    pub(crate) cluster: String,
    /// The host under which others reach this server, if it is not the one it listens on. Needed
    /// when listening on every address (0.0.0.0).
    #[arg(long, env = "KV_ADVERTISE", value_name = "HOST", value_parser = parse_host)]
    pub(crate) advertise: Option<String>,

    /// First start of a new cluster: this server is a member, with every --peer. Later starts may
    /// keep the flag.
    #[arg(long, env = "KV_BOOTSTRAP", conflicts_with = "join", help_heading = "First start",
          value_parser = BoolishValueParser::new())]
    pub(crate) bootstrap: bool,
    /// Another first member, by its Raft address; may be repeated. Every first member is started
    /// with --bootstrap and the same list (which may name the server itself).
    #[arg(long = "peer", env = "KV_PEERS", value_name = "ID=HOST:PORT", requires = "bootstrap",
          value_delimiter = ',', value_parser = parse_peer, help_heading = "First start")]
    pub(crate) peers: Vec<(String, String)>,
    /// First start as a new member of a running cluster: ask the member with this HTTP address.
    #[arg(long, env = "KV_JOIN", value_name = "HOST:PORT", value_parser = parse_address,
          help_heading = "First start")]
    pub(crate) join: Option<String>,
    /// Join without a vote: a copy for reading, or until `kv ctl add` makes it a voter.
    #[arg(long, requires = "join", help_heading = "First start")]
    pub(crate) nonvoter: bool,

    /// How long a follower waits for its leader before it stands for election (up to twice that).
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration,
          help_heading = TIMES)]
    pub(crate) election_timeout: Duration,
    /// How often a leader says that it leads.
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = parse_duration,
          help_heading = TIMES)]
    pub(crate) heartbeat: Duration,
    /// How long a request waits for a leader before it is answered with CLUSTERDOWN.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration,
          help_heading = TIMES)]
    pub(crate) no_leader_wait: Duration,
    /// How long a request that was passed on waits for the leader's answer before it is answered
    /// with UNKNOWN.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration,
          help_heading = TIMES)]
    pub(crate) forward_timeout: Duration,
    /// How long a client may be silent before it is disconnected; 0s: for ever.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration,
          help_heading = TIMES)]
    pub(crate) idle_timeout: Duration,
    /// How long a client or an operator may be silent before the operating system asks whether it is still
    /// there; one that does not answer is disconnected, after as long again. 0s: never.
    #[arg(long, value_name = "TIME", default_value = "300s", value_parser = parse_duration,
          help_heading = TIMES)]
    pub(crate) tcp_keepalive: Duration,

    /// How often to look whether a snapshot is due (a random amount up to that is added).
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = parse_duration,
          help_heading = SNAPSHOTS)]
    pub(crate) snapshot_interval: Duration,
    /// A snapshot is due when this many entries have come since the last one.
    #[arg(long, value_name = "N", default_value_t = 8192, help_heading = SNAPSHOTS,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) snapshot_threshold: u64,
    /// Entries that stay in the log behind the newest snapshot, so that a server that was away for a
    /// moment need not be sent the snapshot.
    #[arg(long, value_name = "N", default_value_t = 10_240, help_heading = SNAPSHOTS)]
    pub(crate) trailing_logs: u64,
    /// Bytes of a snapshot sent to one server in a second at most, such as 500K, 20M or 1G; 0: no
    /// limit.
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = parse_bytes,
          help_heading = SNAPSHOTS)]
    pub(crate) snapshot_rate: u64,

    /// Watch the health of all servers while this one leads (`kv ctl status`). The same on all
    /// servers. Removes and promotes nobody without the flags below.
    #[arg(long, help_heading = AUTOPILOT)]
    pub(crate) autopilot: bool,
    /// Remove a server that the leader has not heard from for this long. Implies --autopilot.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = AUTOPILOT)]
    pub(crate) autopilot_dead_after: Option<Duration>,
    /// Removals leave at least this many voters.
    #[arg(long, value_name = "N", default_value_t = 3, help_heading = AUTOPILOT,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) autopilot_min_quorum: u16,
    /// Make a nonvoter a voter when it has been healthy for long enough. Implies --autopilot.
    #[arg(long, help_heading = AUTOPILOT)]
    pub(crate) autopilot_promote: bool,
    /// How long is long enough.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration,
          help_heading = AUTOPILOT)]
    pub(crate) autopilot_stabilization: Duration,

    /// Connections of Redis clients at most. Each takes three descriptors of the limit of open files, which
    /// the server raises as far as it may; with fewer there are fewer connections, and a warning.
    #[arg(long, value_name = "N", default_value_t = 10_000, help_heading = "Limits",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_connections: u32,
    /// The largest request, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, help_heading = "Limits",
          value_parser = clap::value_parser!(u32).range(1024..=8 << 20))]
    pub(crate) max_request_bytes: u32,
    /// Requests of one connection that are carried out together at most.
    #[arg(long, value_name = "N", default_value_t = 1024, help_heading = "Limits",
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) max_pipeline: u32,
    /// /health answers 503 when more commands than this are committed but not applied here.
    #[arg(long, value_name = "N", default_value_t = 10_000, help_heading = "Limits")]
    pub(crate) health_max_lag: u64,

    /// What to log to standard error: error, warn, info, debug, trace, or a filter such as
    /// `info,raft=debug`.
    #[arg(long, env = "RUST_LOG", value_name = "FILTER", default_value = "info",
          value_parser = parse_filter)]
    pub(crate) log: String,
    /// Stop when standard input ends: a child that must not outlive its parent, however that ends.
    #[arg(long, hide = true)]
    pub(crate) stop_with_stdin: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Ctl {
    /// The HTTP address of any member.
    #[arg(long, env = "KV_HTTP", value_name = "HOST:PORT", default_value = "127.0.0.1:8080",
          value_parser = parse_address, global = true)]
    pub(crate) http: String,
    #[command(subcommand)]
    pub(crate) action: Action,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Shows how the asked server and every member are, and snapshots under way.
    Status {
        /// Print what the asked server says of itself, as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Lists the members.
    Members,
    /// Makes a server a member, or a nonvoter a voter, and waits until it has caught up. Start the server
    /// before, or while this waits.
    #[command(after_help = AFTER_ADD_HELP)]
    Add(Add),
    /// Takes a member's vote away. It goes on receiving everything.
    #[command(after_help = AFTER_LEAVE_HELP)]
    Demote {
        /// Its name.
        #[arg(value_parser = parse_id)]
        id: String,
        /// Also if the voters that remain have no majority that the leader hears from.
        #[arg(long)]
        force: bool,
    },
    /// Removes a member. Its server ends by itself, as soon as it learns of it.
    #[command(after_help = AFTER_LEAVE_HELP)]
    Remove {
        /// Its name.
        #[arg(value_parser = parse_id)]
        id: String,
        /// Also if the voters that remain have no majority that the leader hears from.
        #[arg(long)]
        force: bool,
    },
    /// Takes a member back that runs on another disk than the cluster knows, and waits until it has caught
    /// up: on an empty directory after its data was lost, or on the older copy on which it ended.
    #[command(after_help = AFTER_REJOIN_HELP)]
    Rejoin {
        /// Its name.
        #[arg(value_parser = parse_id)]
        id: String,
        /// Also if the voters that remain meanwhile have no majority that the leader hears from, or if
        /// it does not answer, or answers from the disk that the cluster knows.
        #[arg(long)]
        force: bool,
        /// How long to wait until it has caught up.
        #[arg(long, value_name = "TIME", default_value = "2m", value_parser = parse_duration)]
        timeout: Duration,
    },
    /// Lets the asked server take a snapshot now, and its log forget what the snapshot stands for.
    Snapshot,
    /// Hands leadership to another voter.
    Transfer {
        /// To whom; the one that is furthest if nobody is named.
        #[arg(value_parser = parse_id)]
        to: Option<String>,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Add {
    /// Its name: what it was started with as --id.
    #[arg(value_parser = parse_id)]
    pub(crate) id: String,
    /// Its Raft address: what it was started with as --raft, or --advertise and that port.
    #[arg(value_name = "HOST:PORT", value_parser = parse_place)]
    pub(crate) address: String,
    /// Without a vote. Does not wait.
    #[arg(long)]
    pub(crate) nonvoter: bool,
    /// It is a member with another address, and this is its new one.
    #[arg(long = "move")]
    pub(crate) moves: bool,
    /// Move it at once, also if nobody listens at the new address.
    #[arg(long, requires = "moves")]
    pub(crate) force: bool,
    /// How long to wait until it has caught up. It goes on catching up afterwards: the same command
    /// waits again.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Backup {
    /// The HTTP address of any member.
    #[arg(long, env = "KV_HTTP", value_name = "HOST:PORT", default_value = "127.0.0.1:8080",
          value_parser = parse_address)]
    pub(crate) http: String,
    /// Where to write to. While it is being written it has another name.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Have the leader do it, with everything that was acknowledged before.
    #[arg(long)]
    pub(crate) leader: bool,
    /// Replace FILE if it exists.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Restore {
    /// The HTTP address of any member.
    #[arg(long, env = "KV_HTTP", value_name = "HOST:PORT", default_value = "127.0.0.1:8080",
          value_parser = parse_address)]
    pub(crate) http: String,
    /// What `kv backup` has written.
    #[arg(long = "in", value_name = "FILE")]
    pub(crate) input: PathBuf,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Inspect {
    /// The server's data directory.
    #[arg(long, env = "KV_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Show these entries of the log too, one a line. Either number may be left out.
    #[arg(long, value_name = "FROM..TO", value_parser = parse_entries)]
    pub(crate) entries: Option<(u64, u64)>,
    /// Read all of it, and say that it is whole, or where it is damaged (exit code 1).
    #[arg(long)]
    pub(crate) verify: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Recover {
    /// The server's data directory.
    #[arg(long, env = "KV_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// A JSON file with the members of the new cluster. This server has to be one.
    #[arg(long, value_name = "FILE")]
    pub(crate) peers: PathBuf,
    /// Entries that are not known to be committed become so. No acknowledged write that has reached
    /// this server is lost; writes that were never acknowledged may take effect.
    #[arg(long, conflicts_with = "discard_uncommitted")]
    pub(crate) keep_uncommitted: bool,
    /// Entries that are not known to be committed are lost, also those that were acknowledged.
    #[arg(long)]
    pub(crate) discard_uncommitted: bool,
    /// Do nothing unless the server's state ends with this entry: what recovering another server
    /// with the same file has said.
    #[arg(long, value_name = "INDEX@TERM", value_parser = parse_log_id)]
    pub(crate) must_end_at: Option<LogId>,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Demo {
    /// How many generated writes follow the data set.
    #[arg(long, value_name = "N", default_value_t = 100_000,
          value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    pub(crate) writes: u32,
    /// Leave the cluster running until Ctrl-C.
    #[arg(long)]
    pub(crate) keep: bool,
    /// What keeps the logs.
    #[arg(long, env = "KV_STORE", value_enum, default_value_t = Kind::File)]
    pub(crate) store: Kind,
    /// What the servers log, each into a file beside its data.
    #[arg(long, value_name = "FILTER", default_value = "info", value_parser = parse_filter)]
    pub(crate) log: String,
}

/// Reads the command line. Help goes to standard output; a mistake is one line on standard error.
pub(crate) fn parse() -> Result<Command, ExitCode> {
    let command = without_empty_variables(Cli::command());
    let read = command.try_get_matches().and_then(|found| Cli::from_arg_matches(&found));
    let error = match read {
        Ok(cli) => return Ok(cli.command),
        Err(error) => error,
    };
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        // A closed pipe is not worth a word.
        let _ = error.print();
        return Err(if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS });
    }
    Err(refuse(&one_line(&error.to_string())))
}

/// A variable that is empty, or says no to a flag, counts as not set: to clap it would be given, and
/// contradict others that are.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let says_nothing = |arg: &Arg| {
        let Some(value) = arg.get_env().and_then(env::var_os) else { return false };
        let no = || BoolishValueParser::new().parse_ref(&clap::Command::new(""), None, &value);
        value.is_empty()
            || matches!(arg.get_action(), ArgAction::SetTrue) && matches!(no(), Ok(false))
    };
    let command = command.mut_args(|arg| match says_nothing(&arg) {
        true => arg.env(Resettable::Reset),
        false => arg,
    });
    command.mut_subcommands(without_empty_variables)
}

/// Says what is wrong with the command line, and where its help is.
pub(crate) fn refuse(mistake: &str) -> ExitCode {
    let words: Vec<_> = env::args_os().skip(1).map(|word| word.to_string_lossy().into()).collect();
    tell!("kv: {mistake} (see `{} --help`)", asked_for(&words));
    ExitCode::from(2)
}

/// The command whose help says more, as far as the words name one.
fn asked_for(words: &[String]) -> String {
    let mut command = &Cli::command();
    let mut name = command.get_name().to_owned();
    for word in words {
        if let Some(subcommand) = command.find_subcommand(word) {
            name = format!("{name} {word}");
            command = subcommand;
        }
    }
    name
}

/// The part of clap's message that says what is wrong.
fn one_line(message: &str) -> String {
    let words = message.strip_prefix("error: ").unwrap_or(message);
    let lines = words.lines().map(str::trim);
    let telling = lines.take_while(|line| {
        !line.starts_with("Usage:") && !line.starts_with("For more information")
    });
    let telling: Vec<_> = telling.filter(|line| !line.is_empty()).collect();
    telling.join(" ")
}

pub(crate) fn parse_id(text: &str) -> Result<String, String> {
    const MAX_BYTES: usize = 64;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() {
        return Err("an id must not be empty".to_owned());
    }
    if MAX_BYTES < text.len() || !text.chars().all(is_plain) {
        return Err("an id is up to 64 letters, digits, '-', '_' and '.'".to_owned());
    }
    Ok(text.to_owned())
}

pub(crate) fn parse_address(text: &str) -> Result<String, String> {
    let is_right = text.rsplit_once(':').is_some_and(|(host, port)| {
        parse_host(host).is_ok() && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if is_right {
        return Ok(text.to_owned());
    }
    Err("an address is HOST:PORT, with a port from 1 to 65535".to_owned())
}

/// Whether a host is every address of whoever asks, and so no place where anybody else could be.
pub(crate) fn is_everywhere(host: &str) -> bool {
    let name = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match name.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_unspecified(),
        // What is left of an address, as in `0` and `0.0`, is read as one.
        Err(_) => name.chars().all(|c| matches!(c, '0' | '.')),
    }
}

/// An address at which others reach a server.
pub(crate) fn parse_place(text: &str) -> Result<String, String> {
    let address = parse_address(text)?;
    let host = address.rsplit_once(':').map_or("", |(host, _)| host);
    if is_everywhere(host) {
        return Err(format!(
            "{host} is every address of whoever dials it: give one at which the others reach the server"
        ));
    }
    Ok(address)
}

fn parse_host(text: &str) -> Result<String, String> {
    let name = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let is_right = match name {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => {
            !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || "/:[]".contains(c))
        }
    };
    if is_right {
        return Ok(text.to_owned());
    }
    Err("a host is a name, an IPv4 address, or an IPv6 address in brackets".to_owned())
}

fn parse_filter(text: &str) -> Result<String, String> {
    let explain = |error| format!("{error}; a filter is such as info or info,raft=debug");
    // With a space before it a part would match nothing.
    let text = text.split(',').map(str::trim).collect::<Vec<_>>().join(",");
    EnvFilter::try_new(&text).map(|_| text).map_err(explain)
}

fn parse_peer(text: &str) -> Result<(String, String), String> {
    // There may be spaces around the commas of a list.
    let (id, address) = text.trim().split_once('=').ok_or("a peer is ID=HOST:PORT")?;
    Ok((parse_id(id)?, parse_place(address)?))
}

fn parse_entries(text: &str) -> Result<(u64, u64), String> {
    let explain = || "entries are FROM..TO, both included, such as 10..20 or 10..".to_owned();
    let (from, to) = text.split_once("..").ok_or_else(explain)?;
    let number = |text: &str, absent| match text {
        "" => Ok(absent),
        text => text.parse().map_err(|_| explain()),
    };
    match (number(from, 1)?, number(to, u64::MAX)?) {
        (from, to) if from <= to => Ok((from, to)),
        _ => Err(explain()),
    }
}

fn parse_log_id(text: &str) -> Result<LogId, String> {
    let explain = || "an entry is INDEX@TERM, such as 120@3".to_owned();
    let (index, term) = text.split_once('@').ok_or_else(explain)?;
    let number = |text: &str| text.parse().map_err(|_| explain());
    Ok(LogId::new(number(term)?, number(index)?))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let explain = || "a time is a number with its unit: 500ms, 5s, 2m or 24h".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u32 = number.parse().map_err(|_| explain())?;
    let unit = match unit {
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        "h" => Duration::from_secs(3600),
        _ => return Err(explain()),
    };
    Ok(unit * number)
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let explain = || "bytes are a number, or one with K, M or G behind it: 500K".to_owned();
    let (number, unit) = match text.split_at_checked(text.len().saturating_sub(1)) {
        Some((number, "K")) => (number, 1 << 10),
        Some((number, "M")) => (number, 1 << 20),
        Some((number, "G")) => (number, 1 << 30),
        _ => (text, 1),
    };
    let number: u64 = number.parse().map_err(|_| explain())?;
    number.checked_mul(unit).ok_or_else(explain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn values_are_read_or_refused() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(parse_bytes("0"), Ok(0));
        assert_eq!(parse_bytes("3M"), Ok(3 << 20));
        for text in ["", "K", "-1", "1.5M", "5T", "99999999999999G", "ä"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        for text in ["", "5", "s", "1.5s", "-1s", "5d", "99999999999s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(parse_peer("a=h:1"), Ok(("a".to_owned(), "h:1".to_owned())));
        for text in ["a", "=h:1", "a=h", "a=h:0", "a=h:99999", "a=:1", "a b=h:1", "a=h i:1"] {
            assert!(parse_peer(text).is_err(), "{text}");
        }
        for host in ["h", "10.0.0.1", "[::]", "[2001:db8::1]"] {
            assert_eq!(parse_host(host), Ok(host.to_owned()));
        }
        for text in ["", "h:1", "a b", "::1", "[h]", "[::1", "http://h"] {
            assert!(parse_host(text).is_err(), "{text}");
        }
        assert_eq!(parse_filter("info,raft=debug"), Ok("info,raft=debug".to_owned()));
        assert!(parse_filter("loud==").is_err());
        assert_eq!(parse_entries("3..7"), Ok((3, 7)));
        assert_eq!(parse_entries("3.."), Ok((3, u64::MAX)));
        assert_eq!(parse_entries("..7"), Ok((1, 7)));
        for text in ["", "3", "7..3", "a..b", "-1..3", "1...3"] {
            assert!(parse_entries(text).is_err(), "{text}");
        }
        assert_eq!(parse_log_id("120@3"), Ok(LogId::new(3, 120)));
        for text in ["", "120", "@", "120@", "@3", "3@x"] {
            assert!(parse_log_id(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_address_is_no_place() {
        for host in ["0.0.0.0", "0", "0.0", "[::]", "[0::0]", "[::ffff:0.0.0.0]", ""] {
            assert!(is_everywhere(host), "{host:?}");
        }
        for host in ["10.0.0.1", "127.0.0.1", "h0", "[::1]", "[2001:db8::]", "h.0"] {
            assert!(!is_everywhere(host), "{host:?}");
        }
        assert!(parse_place("0.0.0.0:7000").unwrap_err().contains("every address of whoever"));
        assert_eq!(parse_place("h:7000"), Ok("h:7000".to_owned()));
        assert!(parse_peer("b=[::]:7000").is_err());
    }

    #[test]
    fn spaces_around_commas_do_no_harm() {
        assert_eq!(parse_peer(" b=h:1 "), Ok(("b".to_owned(), "h:1".to_owned())));
        assert_eq!(parse_filter("info, raft=debug"), Ok("info,raft=debug".to_owned()));
    }

    #[test]
    fn a_mistake_is_one_line() {
        let mistakes: [&[&str]; 5] = [
            &["kv", "serve"],
            &["kv", "serve", "--id", "", "--data-dir", "x"],
            &["kv", "serve", "--id", "a", "--data-dir", "x", "--resp", "nowhere"],
            &["kv", "fly"],
            &["kv", "serve", "--id", "a", "--data-dir", "x", "--bootstrap", "--join", "h:1"],
        ];
        for args in mistakes {
            let error = Cli::try_parse_from(args).unwrap_err();
            let line = one_line(&error.to_string());
            assert!(!line.contains('\n') && !line.contains("--help"), "{line}");
            assert!(!line.starts_with("error"), "{line}");
        }
    }

    #[test]
    fn a_mistake_points_to_the_help_of_its_own_command() {
        let cases = [
            ("", "kv"),
            ("fly", "kv"),
            ("serve --id", "kv serve"),
            ("ctl", "kv ctl"),
            ("ctl --http h:1 add x nowhere", "kv ctl add"),
            ("ctl remove --farce add", "kv ctl remove"),
        ];
        for (words, expected) in cases {
            let words: Vec<_> = words.split_whitespace().map(str::to_owned).collect();
            assert_eq!(asked_for(&words), expected, "{words:?}");
        }
    }

    #[test]
    fn the_help_names_every_redis_command() {
        let words: Vec<_> = AFTER_SERVE_HELP.split_whitespace().collect();
        for spec in crate::resp::request::public() {
            let name = spec.name.to_uppercase();
            assert!(words.contains(&name.as_str()), "{name} is not in the help");
        }
    }
}
