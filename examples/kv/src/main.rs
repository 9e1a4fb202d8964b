//! `kv`: a replicated key-value server that speaks the protocol of Redis.
//!
//! `kv serve` runs one server, `kv ctl` asks and changes a cluster, `kv backup` and `kv restore` copy
//! its state to and from a file, `kv inspect` and `kv recover` work on the directory of a server that
//! does not run, and `kv demo` shows all of it on one machine. The code, in the order in which it is
//! best read:
//!
//! - What is replicated: [`command`], its bytes in the log ([`encoding`]), the [`map`] it changes,
//!   the state machine around it ([`fsm`]) and its [`snapshot`].
//! - Connections: [`places`] says how many there may be and of whom, [`accept`] takes them in.
//! - Requests: [`resp`] reads and answers them, [`route`] takes them to the leader, [`reads`] keeps
//!   answers from being stale, [`announce`] tells everybody where everybody is.
//! - Around it: [`serve`] puts a [`server`] together, which takes [`signals`], [`membership`] is how that comes into its cluster,
//!   [`stores`] are what is in its directory, [`inspect`] shows it and
//!   [`recover`] makes a new cluster of it, [`http`] is for operators, [`figures`] are what it counts,
//!   [`advice`] and [`farewell`] are what it says when it cannot go on,
//!   [`ctl`] is a terminal for it, [`output`] what such tools print, [`log`] what is said beside that,
//!   [`backup`] the state in a file, and [`demo`] the proof.

#![deny(clippy::print_stderr, clippy::print_stdout)] // They panic when nobody reads: see `log` and `output`.

mod accept;
mod advice;
mod announce;
mod backup;
mod cli;
mod command;
mod ctl;
mod demo;
mod encoding;
mod failure;
mod farewell;
mod figures;
mod fsm;
mod http;
mod inspect;
mod log;
mod map;
mod membership;
mod operator;
mod output;
mod places;
mod reads;
mod recover;
mod resp;
mod route;
mod serve;
mod server;
mod signals;
mod snapshot;
mod stores;

use std::process::ExitCode;

use crate::{cli::Command, failure::Failure, log::tell};

/// The library's handle, with our state machine behind it.
type Node = raft::Raft<fsm::KvFsm>;

fn main() -> ExitCode {
    let command = match cli::parse() {
        Ok(command) => command,
        Err(code) => return code,
    };
    let code = match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_usage() => cli::refuse(&failure.to_string()),
        Err(failure) => {
            tell!("kv: {failure}");
            ExitCode::FAILURE
        }
    };
    log::end();
    code
}

fn run(command: Command) -> Result<(), Failure> {
    let filter = match &command {
        Command::Serve(options) => options.log.as_str(),
        Command::Inspect(_) | Command::Recover(_) => "warn",
        Command::Ctl(_) | Command::Backup(_) | Command::Restore(_) | Command::Demo(_) => "error",
    };
    log::begin(filter);
    if matches!(command, Command::Serve(_)) {
        log::in_the_background().map_err(Failure::new)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start threads: {error}")))?;
    let end = match command {
        Command::Serve(options) => runtime.block_on(serve::run(*options)),
        Command::Ctl(options) => ctl::run(&options),
        Command::Backup(options) => runtime.block_on(backup::take::run(options)),
        Command::Restore(options) => runtime.block_on(backup::restore::run(options)),
        Command::Inspect(options) => runtime.block_on(inspect::run(options)),
        Command::Recover(options) => runtime.block_on(recover::run(options)),
        Command::Demo(options) => runtime.block_on(demo::run(options)),
    };
    // What is still going on (a read of standard input, a client that is being sent away) need not
    // be waited for: everything that must be durable is.
    runtime.shutdown_background();
    end
}
