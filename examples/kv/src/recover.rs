//! `kv recover`: a new cluster out of one survivor. The library does it; here is who asks for it.

use std::{
    fmt::Write,
    io::{self, BufRead},
};

use raft::{
    Configuration, DataDir, LogId, LogIndex, LogStore, RecoverError, RecoverOptions, Recoverable,
    Recovered, Uncommitted, UncommittedEntries, check_recovery, recover_cluster,
};

use crate::{
    cli::{self, Recover},
    failure::Failure,
    fsm::{KvFsm, Shared},
    inspect,
    log::tell,
    output::print,
    stores::Stores,
};

/// Doubtful entries that are listed at most.
const LISTED: u64 = 20;

/// What is read of the log at once.
const READ_BYTES: u64 = 1 << 20;

/// Recovers the server and prints what came of it.
///
/// # Errors
/// When the directory is in use or holds no server, the file is wrong, the user did not agree, or
/// the library refuses; the failure says which, and whether anything was changed.
pub(crate) async fn run(options: Recover) -> Result<(), Failure> {
    let data = DataDir::open(&options.data_dir).map_err(|error| Failure::of_dir(&error))?;
    let id = data.owner().id().clone();
    let configuration = configuration(&options)?;
    let mut stores = Stores::open_existing(&options.data_dir).await?;
    let uncommitted = match (options.keep_uncommitted, options.discard_uncommitted) {
        (true, _) => Uncommitted::Keep,
        (false, true) => Uncommitted::Discard,
        (false, false) => Uncommitted::Refuse,
    };
    let must_end_at = options.must_end_at;
    let how = RecoverOptions::new(id.clone()).with(|it| {
        it.uncommitted = uncommitted;
        it.must_end_at = must_end_at;
    });

    let end = check(&options, &mut stores, &configuration, &how).await?;
    explain(id.as_str(), &options, &configuration, end);
    if !options.yes {
        confirm()?;
    }
    let Stores { log, stable, snapshots } = &mut stores;
    let fsm = KvFsm::new(Shared::new());
    let recovered = recover_cluster(fsm, log, stable, &*snapshots, configuration, &how).await;
    drop((stores, data));
    print(&report(id.as_str(), &recovered.map_err(failure)?))
}

/// Checks everything, and lists the entries that are not known to be committed. Returns where the
/// state will end.
async fn check(
    options: &Recover,
    stores: &mut Stores,
    configuration: &Configuration,
    how: &RecoverOptions,
) -> Result<LogId, Failure> {
    let Stores { log, stable, snapshots } = &mut *stores;
    let fsm = KvFsm::new(Shared::new());
    let checked = check_recovery(fsm, log, stable, &*snapshots, configuration, how).await;
    let doubtful = match &checked {
        Ok(Recoverable { uncommitted, .. }) => *uncommitted,
        Err(RecoverError::Undecided { uncommitted, .. }) => Some(*uncommitted),
        Err(_) => None,
    };
    if let Some(doubtful) = doubtful {
        list_doubtful(options, stores, &doubtful).await?;
    }
    Ok(checked.map_err(failure)?.end)
}

async fn list_doubtful(
    options: &Recover,
    stores: &Stores,
    doubtful: &UncommittedEntries,
) -> Result<(), Failure> {
    let UncommittedEntries { first, last, .. } = *doubtful;
    tell!("Not known to be committed are {doubtful}:");
    let listed = last.index.min(first.plus(LISTED as usize).prev());
    let (reader, mut next) = (stores.log.reader(), first);
    while next <= listed {
        let entries = reader.read(next..=listed, READ_BYTES).await.map_err(Failure::new)?;
        for entry in entries.iter() {
            tell!("  {}  {}", entry.id(), inspect::describe(entry));
        }
        next = next.plus(entries.len().max(1));
    }
    if listed < last.index {
        let (more, from) = (last.index.since(listed), listed.next());
        let dir = options.data_dir.display();
        tell!("  and {more} more: kv inspect --data-dir {dir} --entries {from}..{}", last.index);
    }
    Ok(())
}

/// The members from the file, which have to be such as this program can serve.
fn configuration(options: &Recover) -> Result<Configuration, Failure> {
    let configuration = raft::read_peers_json(&options.peers).map_err(Failure::new)?;
    let file = options.peers.display();
    for server in configuration.servers() {
        // An id of ours has no colon.
        if server.id.as_str() == server.address.as_str() && server.id.as_str().contains(':') {
            return Err(Failure::new(format!(
                "{file}: this is a list of addresses, without the ids of the servers; write each as \
                 {{\"id\": \"ID\", \"address\": \"{}\"}}, with the --id that it is started with",
                server.address
            )));
        }
        let checked = cli::parse_id(server.id.as_str())
            .and_then(|_| cli::parse_place(server.address.as_str()));
        checked.map_err(|rule| {
            Failure::new(format!("{file}: server {:?} at {:?}: {rule}", server.id, server.address))
        })?;
    }
    Ok(configuration)
}

fn explain(id: &str, options: &Recover, configuration: &Configuration, end: LogId) {
    match (options.keep_uncommitted, options.discard_uncommitted) {
        (true, _) => tell!("Entries that are not known to be committed are kept."),
        (_, true) => tell!("Entries that are not known to be committed are discarded."),
        _ => {}
    }
    tell!(
        "Server {id} in {} will be the beginning, with all up to entry {end}, of a new cluster of:",
        options.data_dir.display()
    );
    for member in list(configuration).lines() {
        tell!("{member}");
    }
    tell!("Servers of the old cluster must never come back with their data.");
}

fn confirm() -> Result<(), Failure> {
    tell!("This cannot be undone. Type yes to go on:");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(Failure::new)?;
    if answer.trim() == "yes" {
        return Ok(());
    }
    Err(Failure::new("nothing was changed, as the answer was not yes (--yes does not ask)"))
}

fn list(configuration: &Configuration) -> String {
    let mut text = String::new();
    for server in configuration.servers() {
        let suffrage = if server.is_voter() { "voter" } else { "nonvoter" };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {} at {}, {suffrage}", server.id, server.address);
    }
    text
}

fn failure(error: RecoverError) -> Failure {
    match error {
        RecoverError::Undecided { .. } => Failure::new(format!(
            "{error}, with --keep-uncommitted or --discard-uncommitted (see `kv recover --help`)"
        )),
        error => Failure::new(error),
    }
}

fn report(id: &str, recovered: &Recovered) -> String {
    let Recovered { snapshot, term, restored, applied, kept, discarded, .. } = recovered;
    let end = snapshot.last;
    let mut text = format!("recovered server {id}; its state ends with entry {end}\n");
    let mut line = |sentence: String| text.push_str(&format!("  {sentence}\n"));
    if restored.index != LogIndex::ZERO {
        line(format!("restored the snapshot that ends with entry {restored}"));
    }
    line(format!("applied {applied} commands of the log"));
    if let Some(kept) = kept {
        line(format!("kept {kept}, which were not known to be committed"));
    }
    if let Some(discarded) = discarded {
        line(format!("discarded {discarded}, which were not known to be committed"));
    }
    line(format!("the term is {term}, in which the server has not voted"));
    line(format!("members since entry {}:", snapshot.configuration.index));
    for member in list(&snapshot.configuration.configuration).lines() {
        line(member.to_owned());
    }
    text.push_str(&format!(
        "Start it as before, without --join, and the others with empty directories and --join.\n\
         Another survivor may keep its data only if it is recovered with --must-end-at {end}.\n"
    ));
    text
}
