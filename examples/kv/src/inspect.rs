//! `kv inspect`: what is in the data directory of a server that does not run.
//!
//! Everything is opened for reading. Entries are shown as the commands they are, one a line, so that
//! `grep` and `diff` work on them.

use std::{
    collections::BTreeMap,
    io::{self, BufWriter, Write},
    ops::RangeInclusive,
};

use raft::{
    Configuration, DataDir, Entry, EntryPayload, HardState, IndexedConfiguration, LogId, LogIndex,
    LogReader, LogStore, Owner, SnapshotMeta, SnapshotStore, StableStore, Verified,
};
use serde_json::{Value, json};

use crate::{
    cli::Inspect,
    command::{Answer, Command, Condition},
    encoding,
    failure::Failure,
    output,
    stores::{self, Kind, ReadOnlyStores},
};

/// What is read of the log at once.
const READ_BYTES: u64 = 1 << 20;
/// Longer keys and values are shown by their beginning.
const SHOWN_BYTES: usize = 64;

/// Prints what there is.
///
/// # Errors
/// When the directory is in use, holds no server, or cannot be read.
pub(crate) async fn run(options: Inspect) -> Result<(), Failure> {
    let data =
        DataDir::open_read_only(&options.data_dir).map_err(|error| Failure::of_dir(&error))?;
    let stores = ReadOnlyStores::open(&options.data_dir).await?;
    let reader = stores.log.reader();
    let mut found = Found::look(data.owner().clone(), &*reader, stores).await?;
    if options.verify {
        // All entries and snapshots were read by now.
        found.verified = Some(stores::verify(&options.data_dir).await?.unwrap_or_default());
    }
    let entries = options.entries.and_then(|wanted| found.within(wanted));
    let mut out = BufWriter::new(io::stdout().lock());
    let printed = if options.json {
        found.print_json(&mut out, &*reader, entries).await
    } else {
        found.print(&mut out, &*reader, entries).await
    };
    drop(data);
    match printed {
        Ok(()) => {
            output::ended(out.flush())?;
            found.verdict()
        }
        Err(Stop::Output(error)) => output::ended(Err(error)),
        Err(Stop::Store(failure)) => Err(failure),
    }
}

/// Why printing ends early.
enum Stop {
    Output(io::Error),
    Store(Failure),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<raft::StoreError> for Stop {
    fn from(error: raft::StoreError) -> Self {
        Self::Store(Failure::new(error))
    }
}

struct Found {
    owner: Owner,
    /// What keeps the log.
    kind: Kind,
    /// What was verified, if that was asked for.
    verified: Option<Verified>,
    /// How many entries there are.
    entries: u64,
    hard_state: HardState,
    /// Which disk this is; 0 before its first start.
    incarnation: u64,
    /// The first index and the last entry of the log.
    log: Option<(LogIndex, LogId)>,
    noted_commit: Option<LogIndex>,
    snapshots: Vec<SnapshotMeta>,
    /// What is wrong with those that cannot be used, and with the log.
    faults: Vec<String>,
    /// The newest one, committed or not.
    configuration: IndexedConfiguration,
}

impl Found {
    async fn look(
        owner: Owner,
        reader: &dyn LogReader,
        stores: ReadOnlyStores,
    ) -> Result<Self, Failure> {
        let ReadOnlyStores { kind, mut stable, snapshots, .. } = stores;
        let hard_state = stable.hard_state().await.map_err(Failure::new)?.unwrap_or_default();
        let disk = stable.disk_identity().await.map_err(Failure::new)?;
        let incarnation = disk.map_or(0, |disk| disk.incarnation);
        let mut faults = Vec::new();
        let snapshots = match snapshots {
            Some(store) => {
                let snapshots = store.list().await.map_err(Failure::new)?;
                for meta in &snapshots {
                    // Reads all of it, and compares the checksums.
                    if let Err(error) = store.open(&meta.id).await {
                        faults.push(error.to_string());
                    }
                }
                snapshots
            }
            None => Vec::new(),
        };
        let noted_commit = reader.noted_commit().await.map_err(Failure::new)?;
        let mut configuration =
            snapshots.first().map(|meta| meta.configuration.clone()).unwrap_or_default();
        let (mut log, mut count) = (None, 0);
        let bounds = reader.bounds().await.map_err(Failure::new)?;
        if let Some((first, last)) = bounds {
            let mut next = first;
            while next <= last {
                let entries = reader.read(next..=last, READ_BYTES).await.map_err(Failure::new)?;
                for entry in entries.iter() {
                    log = Some((first, entry.id()));
                    configuration = newer(configuration, entry);
                }
                next = next.plus(entries.len());
                count += entries.len() as u64;
            }
        }
        let covered = snapshots.first().map(|meta| meta.last.index).unwrap_or_default();
        if let Some((first, _)) = log.filter(|(first, _)| covered.next() < *first) {
            faults.push(format!(
                "the log begins with entry {first}, and no snapshot reaches up to there"
            ));
        }
        Ok(Self {
            owner,
            kind,
            verified: None,
            entries: count,
            hard_state,
            incarnation,
            log,
            noted_commit,
            snapshots,
            faults,
            configuration,
        })
    }

    /// Whether it is whole, if that was asked.
    fn verdict(&self) -> Result<(), Failure> {
        match self.faults.first().filter(|_| self.verified.is_some()) {
            Some(fault) => Err(Failure::new(format!("not all of it is whole: {fault}"))),
            None => Ok(()),
        }
    }

    /// The entries that are wanted and there.
    fn within(&self, (from, to): (u64, u64)) -> Option<RangeInclusive<LogIndex>> {
        let (first, last) = self.log?;
        let (from, to) = (first.max(LogIndex(from)), last.index.min(LogIndex(to)));
        (from <= to).then_some(from..=to)
    }

    /// Where the server's state would end if it kept everything.
    fn end(&self) -> LogId {
        let log = self.log.map(|(_, last)| last).unwrap_or_default();
        let snapshot = self.snapshots.first().map(|meta| meta.last).unwrap_or_default();
        log.max(snapshot)
    }

    /// Up to where the log is known to be committed: by its note, or because a snapshot says so.
    fn committed(&self) -> LogIndex {
        let snapshot = self.snapshots.first().map(|meta| meta.last.index).unwrap_or_default();
        self.noted_commit.unwrap_or_default().max(snapshot)
    }

    async fn print(
        &self,
        out: &mut impl Write,
        reader: &dyn LogReader,
        entries: Option<RangeInclusive<LogIndex>>,
    ) -> Result<(), Stop> {
        let Self {
            owner,
            kind,
            verified,
            hard_state,
            incarnation,
            log,
            snapshots,
            faults,
            configuration,
            ..
        } = self;
        writeln!(out, "server      {}", owner.id())?;
        writeln!(out, "cluster     {}", owner.cluster().unwrap_or("not noted"))?;
        writeln!(out, "store       {kind}")?;
        writeln!(out, "term        {}", hard_state.current_term)?;
        match &hard_state.voted_for {
            Some(candidate) => writeln!(out, "vote        {candidate}")?,
            None => writeln!(out, "vote        none in this term")?,
        }
        writeln!(out, "incarnation {}", hex(*incarnation))?;
        match log {
            Some((first, last)) => writeln!(out, "log         entries {first} to {last}")?,
            None => writeln!(out, "log         empty")?,
        }
        writeln!(out, "end         {}", self.end())?;
        match self.committed() {
            LogIndex::ZERO => writeln!(out, "committed   nothing is known to be")?,
            index => writeln!(out, "committed   at least up to entry {index}")?,
        }
        for SnapshotMeta { id, last, size_bytes, configuration } in snapshots {
            writeln!(
                out,
                "snapshot    {id}: up to entry {last}, {size_bytes} bytes, members since entry {}",
                configuration.index
            )?;
        }
        for fault in faults {
            writeln!(out, "fault       {fault}")?;
        }
        if let Some(Verified { segments, bytes, .. }) =
            verified.as_ref().filter(|_| faults.is_empty())
        {
            write!(out, "verified    {} entries and {} snapshots", self.entries, snapshots.len())?;
            match kind {
                Kind::File => writeln!(out, ", {bytes} bytes in {segments} segments")?,
                Kind::Rocksdb => writeln!(out)?,
            }
        }
        if configuration.configuration.is_empty() {
            writeln!(out, "members     none")?;
        }
        for server in configuration.configuration.servers() {
            let suffrage = if server.is_voter() { "voter" } else { "nonvoter" };
            writeln!(
                out,
                "member      {} at {}, {suffrage}, since entry {}",
                server.id, server.address, configuration.index
            )?;
        }
        let Some((mut next, last)) = entries.map(RangeInclusive::into_inner) else { return Ok(()) };
        while next <= last {
            let entries = reader.read(next..=last, READ_BYTES).await?;
            for entry in entries.iter() {
                writeln!(out, "{}  {}", entry.id(), describe(entry))?;
            }
            next = next.plus(entries.len());
        }
        Ok(())
    }

    async fn print_json(
        &self,
        out: &mut impl Write,
        reader: &dyn LogReader,
        entries: Option<RangeInclusive<LogIndex>>,
    ) -> Result<(), Stop> {
        let Self {
            owner,
            hard_state,
            incarnation,
            log,
            noted_commit,
            snapshots,
            faults,
            configuration,
            kind,
            verified,
            ..
        } = self;
        let snapshots: Vec<_> = snapshots
            .iter()
            .map(|meta| {
                json!({
                    "id": meta.id, "last": meta.last, "size_bytes": meta.size_bytes,
                    "configuration": members(&meta.configuration),
                })
            })
            .collect();
        let mut shown = Vec::new();
        if let Some((mut next, last)) = entries.map(RangeInclusive::into_inner) {
            while next <= last {
                let entries = reader.read(next..=last, READ_BYTES).await?;
                shown.extend(entries.iter().map(|entry| {
                    json!({ "index": entry.index, "term": entry.term, "what": describe(entry) })
                }));
                next = next.plus(entries.len());
            }
        }
        let value = json!({
            "id": owner.id(),
            "cluster": owner.cluster(),
            "store": kind.to_string(),
            "verified": verified.as_ref().map(|_| faults.is_empty()),
            "first_members": owner.first_members(),
            "term": hard_state.current_term,
            "voted_for": hard_state.voted_for,
            "incarnation": hex(*incarnation),
            "log": log.map(|(first, last)| json!({ "first": first, "last": last })),
            "end": self.end(),
            "committed": self.committed(),
            "noted_commit": noted_commit,
            "snapshots": snapshots,
            "faults": faults,
            "configuration": members(configuration),
            "entries": shown,
        });
        Ok(writeln!(out, "{value:#}")?)
    }
}

fn newer(known: IndexedConfiguration, entry: &Entry) -> IndexedConfiguration {
    match &entry.payload {
        EntryPayload::Configuration(members) if known.index < entry.index => {
            IndexedConfiguration { index: entry.index, configuration: members.clone() }
        }
        _ => known,
    }
}

/// The members in the form of a file for `kv recover`, and beside them the disks they are known by.
fn members(configuration: &IndexedConfiguration) -> Value {
    let servers = configuration.configuration.servers();
    let incarnations: BTreeMap<_, _> =
        servers.iter().map(|server| (&server.id, hex(server.incarnation))).collect();
    let servers: Vec<_> = servers
        .iter()
        .map(|server| {
            json!({
                "id": server.id, "address": server.address, "non_voter": !server.is_voter(),
            })
        })
        .collect();
    let cluster = hex(configuration.configuration.cluster().0);
    json!({
        "index": configuration.index, "members": servers, "incarnations": incarnations,
        "cluster": cluster,
    })
}

/// An incarnation or a cluster as text: many readers of JSON keep only 53 bits of a number.
fn hex(incarnation: u64) -> String {
    format!("{incarnation:016x}")
}

/// The entry in one line of words.
pub(crate) fn describe(entry: &Entry) -> String {
    match &entry.payload {
        EntryPayload::Noop => "noop".to_owned(),
        EntryPayload::Barrier => "barrier".to_owned(),
        EntryPayload::Configuration(configuration) => {
            format!("members {}", addresses(configuration))
        }
        EntryPayload::Command(bytes) => match encoding::decode(bytes) {
            Some(command) => words(&command),
            None => format!("command of a newer release, {} bytes", bytes.len()),
        },
    }
}

fn addresses(configuration: &Configuration) -> String {
    let servers = configuration.servers().iter().map(|server| {
        let mark = if server.is_voter() { "" } else { "(nonvoter)" };
        format!("{}={}{mark}", server.id, server.address)
    });
    servers.collect::<Vec<_>>().join(" ")
}

/// The command as a client would have written it.
fn words(command: &Command<'_>) -> String {
    match command {
        Command::Set { key, value, condition, answer } => {
            let condition = match condition {
                Condition::Always => "",
                Condition::Absent => " NX",
                Condition::Present => " XX",
            };
            let answer = match answer {
                Answer::Status | Answer::Flag => "",
                Answer::Previous => " GET",
            };
            format!("SET {} {}{condition}{answer}", shown(key), shown(value))
        }
        Command::Del { keys } => format!("DEL {}", all_shown(keys)),
        Command::IncrBy { key, by } => format!("INCRBY {} {by}", shown(key)),
        Command::Append { key, tail } => format!("APPEND {} {}", shown(key), shown(tail)),
        Command::Mset { pairs } => {
            let strings: Vec<_> = pairs.iter().flat_map(|(key, value)| [*key, *value]).collect();
            format!("MSET {}", all_shown(&strings))
        }
        Command::FlushAll => "FLUSHALL".to_owned(),
        Command::Announce { id, resp, http } => format!("announce {id} redis={resp} http={http}"),
    }
}

fn all_shown(strings: &[&[u8]]) -> String {
    strings.iter().map(|bytes| shown(bytes)).collect::<Vec<_>>().join(" ")
}

fn shown(bytes: &[u8]) -> String {
    match bytes.get(..SHOWN_BYTES) {
        Some(beginning) if SHOWN_BYTES < bytes.len() => {
            format!("\"{}\"...({} bytes)", beginning.escape_ascii(), bytes.len())
        }
        _ => format!("\"{}\"", bytes.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use raft::{Server, Term};

    use super::*;

    fn entry(payload: EntryPayload) -> Entry {
        Entry { term: Term(1), index: LogIndex(1), payload }
    }

    #[test]
    fn an_entry_is_one_line_whatever_is_in_it() {
        let long = vec![b'x'; 100];
        let cases = [
            (
                Command::Set {
                    key: b"k\n",
                    value: b"\xff\"",
                    condition: Condition::Absent,
                    answer: Answer::Previous,
                },
                r#"SET "k\n" "\xff\"" NX GET"#.to_owned(),
            ),
            (Command::Del { keys: vec![b"a", b""] }, r#"DEL "a" """#.to_owned()),
            (Command::IncrBy { key: b"n", by: -3 }, r#"INCRBY "n" -3"#.to_owned()),
            (
                Command::Append { key: b"k", tail: &long },
                format!(r#"APPEND "k" "{}"...(100 bytes)"#, "x".repeat(64)),
            ),
            (Command::Mset { pairs: vec![(b"a", b"1")] }, r#"MSET "a" "1""#.to_owned()),
            (Command::FlushAll, "FLUSHALL".to_owned()),
            (
                Command::Announce { id: "a", resp: "h:1", http: "h:2" },
                "announce a redis=h:1 http=h:2".to_owned(),
            ),
        ];
        for (command, expected) in cases {
            let payload = EntryPayload::Command(encoding::encode(&command).into());
            assert_eq!(describe(&entry(payload)), expected);
        }
        let configuration =
            Configuration::new([Server::voter("a", "h:1"), Server::nonvoter("b", "h:2")]);
        let payload = EntryPayload::Configuration(configuration);
        assert_eq!(describe(&entry(payload)), "members a=h:1 b=h:2(nonvoter)");
        assert_eq!(describe(&entry(EntryPayload::Noop)), "noop");
        let payload = EntryPayload::Command(bytes::Bytes::from_static(b"\xff"));
        assert_eq!(describe(&entry(payload)), "command of a newer release, 1 bytes");
    }
}
