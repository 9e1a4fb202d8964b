//! Runs the scripts in `testdata`: scenarios as text, with reviewed output.
//!
//! Each line of output is one thing that happened, in order: `n2 <- n1 …` is a message that arrives
//! at n2, `n1 written w3` a write that is durable, and everything else is an action of the named
//! server in the notation of [`Action`](crate::consensus::Action). After a change of behaviour,
//! `UPDATE_GOLDENFILES=1` rewrites the outputs, to be reviewed as a diff.

use std::{error::Error, path::Path, str::FromStr, time::Duration};

use super::cluster::{Cluster, Disk, Filter, Packet, Snapshot, command, log_of, piece};
use crate::{
    configuration::{
        Configuration, ConfigurationChange, IndexedConfiguration, Server as Member, ServerId,
    },
    log::{Entry, EntryPayload},
    position::{LogId, LogIndex, Term},
    rpc::{Message, RemovedNotice, TimeoutNowRequest},
    stable::HardState,
    status::Role,
};

/// A server's id as an argument.
#[derive(Clone, Debug)]
struct Id(ServerId);

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(ServerId::new(text)))
    }
}

/// A length of time as an argument: `150ms` or `2s`.
#[derive(Clone, Debug)]
struct Length(Duration);

impl FromStr for Length {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |digits: &str| digits.parse::<u64>().map_err(|error| error.to_string());
        if let Some(digits) = text.strip_suffix("ms") {
            return Ok(Self(Duration::from_millis(number(digits)?)));
        }
        let digits = text.strip_suffix('s').ok_or("a length of time ends with ms or s")?;
        Ok(Self(Duration::from_secs(number(digits)?)))
    }
}

#[derive(Debug, goldenscript::Command)]
enum Command {
    /// A cluster of voters n1 …, then nonvoters, with the configuration at index 1 of term 1.
    Cluster {
        voters: usize,
        #[arg(key, optional)]
        nonvoters: usize,
        #[arg(key)]
        pre_vote: Option<bool>,
        #[arg(key)]
        max_append_entries: Option<usize>,
        #[arg(key)]
        max_inflight_appends: Option<usize>,
        /// How many entries a compaction leaves. None, unless it is given.
        #[arg(key, optional)]
        trailing: u64,
        #[arg(key)]
        max_held: Option<u64>,
        /// Whether a start hands out what was noted to be committed.
        #[arg(key, optional)]
        notes: bool,
    },
    /// A new server with an empty disk.
    Add(Id),
    /// Restarts a server with another disk: its log's terms, its term and vote. With `after`, the log
    /// begins after that entry, and a snapshot covers it at least.
    Disk {
        id: Id,
        #[arg(key)]
        terms: Option<String>,
        #[arg(key, optional)]
        after: u64,
        /// As `index@term`.
        #[arg(key)]
        snapshot: Option<String>,
        /// How far it is noted to be committed.
        #[arg(key, optional)]
        commit: u64,
        #[arg(key)]
        term: u64,
        #[arg(key)]
        vote: Option<Id>,
    },
    /// Bootstraps a server with these voters.
    Bootstrap(Id, Vec<Id>),
    /// Time passes for a server until it campaigns.
    Campaign(Id),
    /// Elects a server, with everything delivered.
    Elect(Id),
    /// Elects a server, with only that delivered which belongs to the election.
    Win(Id),
    /// Time passes, for everybody or for one; no message is delivered, no write completes.
    Advance(Length, Option<Id>),
    /// Time passes, with everything delivered at once.
    Run(Length),
    /// Delivers messages, oldest first.
    Deliver {
        #[arg(key)]
        from: Option<Id>,
        #[arg(key)]
        to: Option<Id>,
        #[arg(key)]
        kind: Option<String>,
        #[arg(key)]
        n: Option<usize>,
    },
    /// Loses messages.
    Drop {
        #[arg(key)]
        from: Option<Id>,
        #[arg(key)]
        to: Option<Id>,
        #[arg(key)]
        kind: Option<String>,
        #[arg(key)]
        n: Option<usize>,
    },
    /// Sends messages a second time, after all others.
    Duplicate {
        #[arg(key)]
        from: Option<Id>,
        #[arg(key)]
        to: Option<Id>,
        #[arg(key)]
        kind: Option<String>,
        #[arg(key)]
        n: Option<usize>,
    },
    /// Turns the order of the messages under way around.
    Reverse,
    /// Shows the messages under way.
    Messages,
    /// Delivers every message and completes every write until nothing moves.
    Stabilize,
    /// Completes the oldest writes of a server: one, or `n`.
    Written(Id, Option<usize>),
    /// A disk that completes no write by itself.
    Stall(Vec<Id>),
    /// The opposite.
    Unstall(Vec<Id>),
    /// A state machine that applies and restores nothing.
    Hang(Vec<Id>),
    /// The opposite.
    Unhang(Vec<Id>),
    /// Proposes commands, in one batch.
    Propose(Id, Vec<String>),
    /// Proposes a configuration change.
    Change {
        id: Id,
        change: String,
        target: Id,
        #[arg(key)]
        prev: Option<u64>,
    },
    /// Asks for a leadership transfer.
    Transfer(Id, Option<Id>),
    /// Sends a `TimeoutNow` that nobody asked for.
    TimeoutNow {
        from: Id,
        to: Id,
        #[arg(key)]
        term: u64,
    },
    /// Sends a notice of removal that nobody asked for.
    Removed {
        from: Id,
        to: Id,
        #[arg(key)]
        term: u64,
        #[arg(key)]
        configuration: u64,
    },
    /// Sends a piece of a snapshot that nobody asked for; it begins at `offset`.
    Piece {
        from: Id,
        to: Id,
        #[arg(key)]
        term: u64,
        #[arg(key)]
        transfer: u64,
        /// As `index@term`.
        #[arg(key)]
        last: String,
        #[arg(key, optional)]
        offset: u64,
    },
    /// Takes a snapshot of what a server has applied.
    Snapshot(Id),
    /// The same in two steps.
    BeginSnapshot(Id),
    EndSnapshot(Id),
    /// Sends a peer once more what has not been acknowledged of a snapshot.
    Resend(Id, Id),
    /// The snapshot that is being sent to a peer cannot be read.
    Unreadable(Id, Id),
    /// A server that can keep no snapshot.
    Refuse(Id),
    /// The opposite.
    Accept(Id),
    /// Asks a leader to verify that it leads.
    Verify(Id),
    /// The transport reports a peer as unreachable.
    Unreachable(Id, Id),
    /// A power cut: unfinished writes are lost.
    Crash(Vec<Id>),
    /// Starts crashed servers again.
    Restart(Vec<Id>),
    /// Cuts these servers off from the others.
    Partition(Vec<Id>),
    /// Ends the partition.
    Heal,
    /// Shows the state of servers.
    Status(#[arg(optional)] Vec<Id>),
    /// Shows the logs of servers.
    Log(#[arg(optional)] Vec<Id>),
    /// Shows what servers have applied.
    Applied(#[arg(optional)] Vec<Id>),
}

#[derive(Default)]
struct Script {
    cluster: Cluster,
    /// What the first entry of a log given by its terms carries.
    configuration: Configuration,
}

impl goldenscript::Runner for Script {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        self.run_command(command)?;
        let mut output = self.cluster.take_trace().join("\n");
        if !output.is_empty() {
            output.push('\n');
        }
        Ok(output)
    }
}

impl Script {
    fn run_command(&mut self, command: &Command) -> Result<(), Box<dyn Error>> {
        match command {
            Command::Cluster { .. } => self.start(command),
            Command::Add(Id(id)) => self.cluster.add(id),
            Command::Disk { .. } => self.set_disk(command)?,
            Command::Bootstrap(..)
            | Command::Propose(..)
            | Command::Change { .. }
            | Command::Transfer(..)
            | Command::Verify(..) => self.request(command)?,
            Command::Campaign(Id(id)) => self.cluster.campaign(id),
            Command::Elect(Id(id)) => self.cluster.elect(id),
            Command::Win(Id(id)) => self.cluster.win(id),
            Command::Advance(Length(by), only) => {
                self.cluster.advance(*by, only.as_ref().map(|Id(id)| id));
            }
            Command::Run(Length(by)) => self.cluster.run(*by),
            Command::Deliver { .. }
            | Command::Drop { .. }
            | Command::Duplicate { .. }
            | Command::Reverse
            | Command::Messages
            | Command::Piece { .. }
            | Command::Removed { .. }
            | Command::TimeoutNow { .. } => self.network(command)?,
            Command::Stabilize => self.cluster.stabilize(),
            Command::Written(Id(id), count) => {
                (0..count.unwrap_or(1)).for_each(|_| self.cluster.written(id));
            }
            Command::Stall(ids) => self.stall(ids, true),
            Command::Unstall(ids) => self.stall(ids, false),
            Command::Hang(ids) => ids.iter().for_each(|Id(id)| self.cluster.hang(id)),
            Command::Unhang(ids) => ids.iter().for_each(|Id(id)| self.cluster.unhang(id)),
            Command::Unreachable(Id(id), Id(peer)) => {
                self.cluster.act(id, |core, now| core.handle_unreachable(now, peer));
            }
            Command::Snapshot(Id(id)) => self.cluster.snapshot(id),
            Command::BeginSnapshot(Id(id)) => self.cluster.begin_snapshot(id),
            Command::EndSnapshot(Id(id)) => self.cluster.end_snapshot(id),
            Command::Resend(Id(id), Id(peer)) => self.cluster.send_pieces(id, peer),
            Command::Unreadable(Id(id), Id(peer)) => self.cluster.unreadable(id, peer),
            Command::Refuse(Id(id)) => self.cluster.server_mut(id).is_refusing = true,
            Command::Accept(Id(id)) => self.cluster.server_mut(id).is_refusing = false,
            Command::Crash(ids) => ids.iter().for_each(|Id(id)| self.cluster.crash(id)),
            Command::Restart(ids) => ids.iter().for_each(|Id(id)| self.cluster.restart(id)),
            Command::Partition(ids) => {
                let ids: Vec<ServerId> = ids.iter().map(|Id(id)| id.clone()).collect();
                self.cluster.partition(&ids);
            }
            Command::Heal => self.cluster.heal(),
            Command::Status(ids) => self.show(ids, |cluster, id| cluster.status(id)),
            Command::Log(ids) => self
                .show(ids, |cluster, id| vec![format!("{id}{}", entries(&cluster.server(id).log))]),
            Command::Applied(ids) => self.show(ids, |cluster, id| {
                let server = cluster.server(id);
                let applied = &server.disk.log[..server.applied.since(server.disk.base) as usize];
                vec![format!("{id}{}", entries(applied))]
            }),
        }
        Ok(())
    }

    fn start(&mut self, command: &Command) {
        let Command::Cluster {
            voters,
            nonvoters,
            pre_vote,
            max_append_entries,
            max_inflight_appends,
            trailing,
            max_held,
            notes,
        } = command
        else {
            return;
        };
        self.configuration = super::cluster::configuration(*voters, *nonvoters);
        self.cluster = Cluster::with(*voters, *nonvoters, |rules| {
            rules.pre_vote = pre_vote.unwrap_or(rules.pre_vote);
            rules.max_append_entries = max_append_entries.unwrap_or(rules.max_append_entries);
            rules.max_inflight_appends = max_inflight_appends.unwrap_or(rules.max_inflight_appends);
            rules.trailing_logs = *trailing;
            rules.max_held_entries = max_held.unwrap_or(rules.max_held_entries);
        });
        self.cluster.has_notes = *notes;
    }

    fn set_disk(&mut self, command: &Command) -> Result<(), Box<dyn Error>> {
        let Command::Disk { id, terms, after, snapshot, commit, term, vote } = command else {
            return Ok(());
        };
        let terms = terms.as_deref().unwrap_or("").split_whitespace();
        let mut terms: Vec<u64> = terms.map(str::parse).collect::<Result<_, _>>()?;
        terms.splice(..0, vec![0; *after as usize]);
        let mut log = log_of(&self.configuration, &terms);
        log.drain(..*after as usize);
        let snapshot = snapshot.as_ref().map(|text| self.snapshot_of(text)).transpose()?;
        let snapshots = snapshot.into_iter().collect();
        let voted_for = vote.as_ref().map(|Id(id)| id.clone());
        let hard_state = HardState { current_term: Term(*term), voted_for };
        let (base, commit_index) = (LogIndex(*after), LogIndex(*commit));
        self.cluster.replace_disk(&id.0, Disk { hard_state, base, log, snapshots, commit_index });
        Ok(())
    }

    /// A snapshot that ends at `index@term`, with the configuration at index 1.
    fn snapshot_of(&self, text: &str) -> Result<Snapshot, Box<dyn Error>> {
        let (index, term) = text.split_once('@').ok_or("not index@term")?;
        let last = LogId::new(term.parse()?, index.parse()?);
        let configuration =
            IndexedConfiguration { index: LogIndex(1), configuration: self.configuration.clone() };
        Ok(Snapshot { last, configuration })
    }

    /// A request to a server, and its answer.
    fn request(&mut self, request: &Command) -> Result<(), Box<dyn Error>> {
        let (id, answer) = match request {
            Command::Bootstrap(Id(id), voters) => {
                let voters =
                    voters.iter().map(|Id(id)| Member::voter(id.clone(), format!("{id}:1")));
                self.configuration = Configuration::new(voters);
                let configuration = self.configuration.clone();
                let result = self.cluster.act(id, |core, now| core.bootstrap(now, configuration));
                (id, answered(result, |()| "bootstrapped".to_owned()))
            }
            Command::Propose(Id(id), commands) => {
                let payloads = commands.iter().map(|text| command(text)).collect();
                let result = self.cluster.act(id, |core, now| core.propose(now, payloads));
                (id, answered(result, |index| format!("proposed at {index}")))
            }
            Command::Change { id: Id(id), change, target, prev } => {
                let change = parse_change(change, &target.0)?;
                let prev = prev.map(LogIndex);
                let result =
                    self.cluster.act(id, |core, now| core.change_configuration(now, &change, prev));
                (id, answered(result, |index| format!("changes at {index}")))
            }
            Command::Transfer(Id(id), to) => {
                let to = to.as_ref().map(|Id(to)| to);
                let result = self.cluster.act(id, |core, now| core.transfer_leadership(now, to));
                (id, answered(result, |()| "transfers".to_owned()))
            }
            Command::Verify(Id(id)) => {
                let result = self.cluster.act(id, |core, now| core.verify_leader(now));
                let shown = |it: crate::consensus::Verification| {
                    format!("verifies round={} read_index={}", it.round, it.read_index)
                };
                (id, answered(result, shown))
            }
            _ => return Err("not a request".into()),
        };
        self.cluster.note(format!("{id} {answer}"));
        Ok(())
    }

    fn network(&mut self, command: &Command) -> Result<(), Box<dyn Error>> {
        let filter = |from: &Option<Id>, to: &Option<Id>, kind: &Option<String>| Filter {
            from: from.as_ref().map(|Id(id)| id.clone()),
            to: to.as_ref().map(|Id(id)| id.clone()),
            kind: kind.clone(),
        };
        let done = match command {
            Command::Deliver { from, to, kind, n } => {
                self.cluster.deliver(&filter(from, to, kind), n.unwrap_or(usize::MAX))
            }
            Command::Drop { from, to, kind, n } => {
                self.cluster.take(&filter(from, to, kind), n.unwrap_or(usize::MAX)).len()
            }
            Command::Duplicate { from, to, kind, n } => {
                let filter = filter(from, to, kind);
                let pool = self.cluster.pool.clone();
                let copies = pool.into_iter().filter(|packet| filter.admits(packet));
                let copies: Vec<Packet> = copies.take(n.unwrap_or(usize::MAX)).collect();
                let count = copies.len();
                self.cluster.pool.extend(copies);
                count
            }
            Command::Reverse => {
                self.cluster.pool.reverse();
                self.cluster.pool.len()
            }
            Command::Messages => {
                for Packet { from, to, message } in self.cluster.pool.clone() {
                    self.cluster.note(format!("{from} -> {to} {message}"));
                }
                return Ok(());
            }
            Command::TimeoutNow { from, to, term } => {
                let message = Message::TimeoutNow(TimeoutNowRequest { term: Term(*term) });
                self.cluster.send(&from.0, &to.0, message);
                1
            }
            Command::Piece { from, to, term, transfer, last, offset } => {
                let snapshot = self.snapshot_of(last)?;
                self.cluster.send(&from.0, &to.0, piece(*term, *transfer, &snapshot, *offset));
                1
            }
            Command::Removed { from, to, term, configuration } => {
                let configuration_index = LogIndex(*configuration);
                let notice = RemovedNotice { term: Term(*term), configuration_index };
                self.cluster.send(&from.0, &to.0, Message::Removed(notice));
                1
            }
            _ => return Err("not about the network".into()),
        };
        if done == 0 {
            return Err("no such message is under way".into());
        }
        Ok(())
    }

    fn stall(&mut self, ids: &[Id], is_stalled: bool) {
        for Id(id) in ids {
            self.cluster.server_mut(id).is_stalled = is_stalled;
        }
    }

    fn show(&mut self, ids: &[Id], line: impl Fn(&Cluster, &ServerId) -> Vec<String>) {
        let mut ids: Vec<ServerId> = ids.iter().map(|Id(id)| id.clone()).collect();
        if ids.is_empty() {
            ids = self.cluster.servers.keys().cloned().collect();
        }
        for id in ids {
            for line in line(&self.cluster, &id) {
                self.cluster.note(line);
            }
        }
    }
}

/// What a server says to a request.
fn answered<T, E: std::fmt::Debug>(
    result: Result<T, E>,
    accepted: impl FnOnce(T) -> String,
) -> String {
    result.map_or_else(|refusal| format!("refuses: {refusal:?}"), accepted)
}

fn parse_change(change: &str, id: &ServerId) -> Result<ConfigurationChange, Box<dyn Error>> {
    let (id, address) = (id.clone(), format!("{id}:1").into());
    Ok(match change {
        "add-voter" => ConfigurationChange::AddVoter { id, address },
        "add-nonvoter" => ConfigurationChange::AddNonvoter { id, address },
        "demote" => ConfigurationChange::DemoteVoter { id },
        "remove" => ConfigurationChange::RemoveServer { id },
        _ => return Err(format!("unknown change {change}").into()),
    })
}

/// A log on one line: `index@term:what`.
fn entries(log: &[Entry]) -> String {
    let what = |entry: &Entry| match &entry.payload {
        EntryPayload::Command(data) => String::from_utf8_lossy(data).into_owned(),
        EntryPayload::Noop => "noop".to_owned(),
        EntryPayload::Barrier => "barrier".to_owned(),
        EntryPayload::Configuration(configuration) => format!("[{configuration}]"),
    };
    log.iter().map(|entry| format!(" {}:{}", entry.id(), what(entry))).collect()
}

fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/consensus/testdata").join(name);
    let mut script = Script::default();
    if let Err(error) = goldenscript::run(&mut script, &path) {
        panic!("{}: {error}", path.display());
    }
    // Whatever happened, no term may have had two leaders; the harness asserts the rest.
    let leaders = script.cluster.leaders();
    let terms = leaders.iter().map(|id| script.cluster.core(id).term());
    assert_eq!(terms.collect::<std::collections::BTreeSet<_>>().len(), leaders.len());
    assert!(leaders.iter().all(|id| script.cluster.core(id).role() == Role::Leader));
}

macro_rules! scripts {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                check(concat!(stringify!($name), ".txt"));
            }
        )*

        /// No script is forgotten.
        #[test]
        fn every_script_is_run() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/consensus/testdata");
            let found: std::collections::BTreeSet<String> = std::fs::read_dir(folder)
                .expect("the scripts")
                .map(|file| file.expect("a script").file_name().to_string_lossy().into_owned())
                .collect();
            let run = [$(concat!(stringify!($name), ".txt")),*].map(str::to_owned).into();
            assert_eq!(found, run);
        }
    };
}

scripts! {
    ack_waits_for_disk
    add_voter
    apply_stall
    candidate_hears_leader
    change_compare_and_set
    change_refused_before_own_commit
    compaction_held_by_a_transfer
    compaction_keeps_trailing_entries
    configuration_falls_back
    conflict_hints_short_follower
    conflict_hints_skip_terms
    demote_voter
    duplicates_and_reordering
    election
    faster_follower_decides
    figure_7
    figure_8_committed
    figure_8_overwritten
    five_servers
    follower_at_a_start_of_unknown_term
    follower_at_the_start_of_the_log
    full_window_is_lost
    heartbeat_ack_heals_lost_ack
    installation_cut_short
    last_voter_stays
    late_completion_of_a_truncated_tail
    late_local_snapshot
    leader_counts_itself_when_durable
    leader_removes_itself
    lease_step_down
    lets_others_go_first
    lost_append_noticed_by_heartbeat
    lost_by_majority
    nonvoter_promoted
    note_of_the_commit_index
    old_term_commits_with_own
    one_change_at_a_time
    own_vote_after_a_lost_election
    partitioned_server_returns
    pre_vote_keeps_term
    pre_vote_learns_the_term
    probe_paused
    promoted_server_votes
    remove_follower
    removed_notice
    removed_server_campaigns
    removed_server_is_not_heard
    restarted_leader
    single_server
    slow_disk_is_not_a_loss
    snapshot_installed_on_an_empty_server
    snapshot_of_a_lost_leader
    snapshot_pieces_lost
    snapshot_replaces_a_conflicting_log
    snapshot_without_news
    split_vote
    stale_leader
    timeout_now_ignored
    transfer
    transfer_lost_with_leadership
    transfer_none_ready
    transfer_outlives_step_down
    transfer_picks_the_best
    transfer_refused
    transfer_refused_is_retried
    transfer_target_behind
    transfer_times_out
    verify
    verify_ignores_nonvoters
    verify_needs_new_answers
    verify_single_server
    vote_waits_for_disk
    window_full
    write_stall
}
