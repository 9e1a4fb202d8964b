//! A new cluster out of what is left of an old one, written while the server does not run.
//!
//! A cluster that has lost a majority of its voters for good can neither commit nor change its
//! members. [`recover_cluster`] makes the stores of a survivor the beginning of a new cluster whose
//! members somebody has decided on. It gives up what Raft promises: what was acknowledged and had
//! not reached the survivor is lost. All it can do is to say what it knows and to leave the rest
//! undecided until somebody decides it.
//!
//! # The steps
//!
//! 1. A **snapshot** of the state at the new end of the log, with the new configuration, durable
//!    before anything else is touched.
//! 2. The **term**, raised if the server has voted in it or holds entries of it.
//! 3. The whole **log**, dropped in one write.
//!
//! A crash between two of them is mended by the same call: it finds the snapshot of step 1 to be the
//! one it would write, the term of step 2 to be without vote and entries, and does what is left.
//!
//! Departs from the model, whose recovery silently makes every entry committed and puts the
//! configuration at index 1, behind the one it replaces.

use crate::{
    configuration::{Configuration, IndexedConfiguration, ServerId},
    error::{RecoverError, StartError, UncommittedEntries},
    fsm::Fsm,
    log::{Entries, EntryPayload, LogReader, LogStore},
    machine::{Offline, Watched},
    position::{LogId, LogIndex, Term},
    snapshot::{SnapshotMeta, SnapshotStore},
    stable::{HardState, StableStore},
    store_error::StoreError,
    stored::{LogScan, contradicts, gap, id_at, is_replaced},
};

/// What becomes of entries that are in the log but not known to be committed.
///
/// A server learns of a commit after the fact and makes a note of it with its next write, so that
/// **the newest commands that were acknowledged lie beyond what it knows**, as a rule: nobody can
/// tell them from those that were not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Uncommitted {
    /// There must be none: if there are, nothing is changed and
    /// [`RecoverError::Undecided`] says which.
    #[default]
    Refuse,
    /// They become committed. No acknowledged command that has reached this server is lost; commands
    /// that were never acknowledged, or whose caller was told that their fate is unknown, may take
    /// effect now. Usually the right choice: whoever got no answer has to expect either.
    Keep,
    /// They are lost. Nothing takes effect that was not committed; commands that **were
    /// acknowledged** may be undone. For when a command that takes effect late does more harm than
    /// one that is forgotten.
    Discard,
}

/// How [`recover_cluster`] is to recover a server: start from [`RecoverOptions::new`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoverOptions {
    /// Whose stores they are. Has to be a member of the configuration.
    pub local_id: ServerId,
    /// What becomes of entries that are not known to be committed. Default
    /// [`Refuse`](Uncommitted::Refuse).
    pub uncommitted: Uncommitted,
    /// Where the server's state has to end, or nothing is changed. Give the
    /// [`end`](Recovered::end) of the server that was recovered first when recovering a second one.
    /// Default `None`.
    pub must_end_at: Option<LogId>,
}

impl RecoverOptions {
    /// These options after `change`, for use within an expression.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The options that decide nothing, for the stores of this server.
    #[must_use]
    pub fn new(local_id: impl Into<ServerId>) -> Self {
        Self { local_id: local_id.into(), uncommitted: Uncommitted::Refuse, must_end_at: None }
    }
}

/// What [`recover_cluster`] has made of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// The snapshot that the server will start from: its [`last`](SnapshotMeta::last) is where the
    /// old cluster ends, its configuration is in force.
    pub snapshot: SnapshotMeta,
    /// The server's term. It has not voted in it, and holds no entry of it.
    pub term: Term,
    /// The last entry of the older snapshot it began with; [`LogId::ZERO`] if there was none.
    pub restored: LogId,
    /// How many commands of the log were applied on top of that, those kept among them.
    pub applied: u64,
    /// What became committed because it was to be [kept](Uncommitted::Keep).
    pub kept: Option<UncommittedEntries>,
    /// What was lost because it was to be [discarded](Uncommitted::Discard).
    pub discarded: Option<UncommittedEntries>,
}

impl Recovered {
    /// The last entry whose effect is in the server's state.
    #[must_use]
    pub fn end(&self) -> LogId {
        self.snapshot.last
    }
}

/// Makes the stores of a server that is not running the beginning of a cluster with this
/// configuration, after a majority of the old one was lost for good.
///
/// The newest usable snapshot is restored into `fsm`, which must be empty and is thrown away
/// afterwards; the log is applied to it up to what is known to be committed (the newest
/// [note](LogStore::note_commit), or the newest snapshot if that is later); beyond that,
/// [`RecoverOptions::uncommitted`] decides. A snapshot of the result, with the configuration,
/// replaces the log. Started normally, the server then campaigns, on its own if it is the only voter.
///
/// The configuration stands at the index where the state ends, as if that entry had carried it: so
/// it is newer than every configuration it replaces, and the same on every server that is recovered
/// to the same end. The next change of members names that index, or none.
///
/// # Before you call it
///
/// - **The lost servers should stay lost.** The new cluster has an identity of its own, and takes nothing
///   from a server of the old one that comes back with its data; but a majority of the old one that came
///   back would go on as the old cluster, for clients that still know its addresses. Destroy its data.
/// - **One survivor is enough, and the safest.** Take the one whose log ends last (term first, then
///   index). The other survivors begin with empty stores, like all members added later; they are no
///   members yet, because a server with an empty store helps nobody to be elected.
/// - **Incarnations and the cluster** of the configuration are not looked at
///   ([`Server::incarnation`](crate::Server::incarnation), [`ClusterId`](crate::ClusterId)): they are made, and learned,
///   anew.
/// - **Several survivors** can be recovered with the same configuration only if all end with the same
///   entry, which [`RecoverOptions::must_end_at`] checks: what is committed on one must not be missing
///   on another that could be elected.
/// - Until the call has succeeded, do not start the server.
///
/// # Errors
/// [`RecoverError`]. Unless a store failed, nothing was changed. If one did, mend it and repeat the
/// call; it goes on where it was cut short.
///
/// # Panics
/// If the state machine does.
///
/// # Cancel safety
/// A future dropped before it ends leaves what a crash would leave: repeat the call.
pub async fn recover_cluster<F: Fsm>(
    fsm: F,
    log_store: &mut dyn LogStore,
    stable_store: &mut dyn StableStore,
    snapshot_store: &dyn SnapshotStore,
    configuration: Configuration,
    options: &RecoverOptions,
) -> Result<Recovered, RecoverError> {
    let reader = log_store.reader();
    let checked =
        check(fsm, &*reader, stable_store, snapshot_store, &configuration, options).await?;
    let Checked { mut machine, hard_state, bounds, found, end } = checked;

    machine.remove_void(snapshot_store).await?;
    let restored = machine.snapshot();
    let applied = apply(&*reader, &mut machine, end.index).await?;
    let configuration = configuration.refounding(end);
    let configuration = IndexedConfiguration { index: end.index, configuration };
    let snapshot = match machine.restored.take() {
        Some(meta) if meta.last == end && meta.configuration == configuration => meta,
        _ => write_snapshot(&mut machine, snapshot_store, end, configuration).await?,
    };
    let term = raise_term(stable_store, hard_state, found.last.term).await?;
    if let Some((_, last)) = bounds {
        log_store.truncate_prefix(last.max(end.index)).await?;
    }
    let is_kept = end == found.last;
    let kept = found.uncommitted.filter(|_| is_kept);
    let discarded = found.uncommitted.filter(|_| !is_kept);
    Ok(Recovered { snapshot, term, restored, applied, kept, discarded })
}

/// Where [`recover_cluster`] would have a server's state end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recoverable {
    /// The last entry whose effect would be in the state.
    pub end: LogId,
    /// The entries that are not known to be committed, which
    /// [`RecoverOptions::uncommitted`] decides about.
    pub uncommitted: Option<UncommittedEntries>,
}

/// Checks everything that [`recover_cluster`] checks with the same arguments, and changes nothing: for
/// a program that asks before it recovers. `fsm` must be empty, is given the newest usable snapshot, and
/// is thrown away.
///
/// # Errors
/// Those of [`recover_cluster`]. [`RecoverError::Undecided`] names the entries that are to be decided
/// about.
///
/// # Panics
/// If the state machine does.
///
/// # Cancel safety
/// Dropping the future has no effect.
pub fn check_recovery<F: Fsm>(
    fsm: F,
    log_store: &dyn LogStore,
    stable_store: &mut dyn StableStore,
    snapshot_store: &dyn SnapshotStore,
    configuration: &Configuration,
    options: &RecoverOptions,
) -> impl Future<Output = Result<Recoverable, RecoverError>> + Send {
    // Taken before the future begins: a `&dyn LogStore` could not be kept across an await, because
    // a store need not be `Sync`.
    let reader = log_store.reader();
    async move {
        let checked = check(fsm, &*reader, stable_store, snapshot_store, configuration, options);
        let Checked { end, found, .. } = checked.await?;
        Ok(Recoverable { end, uncommitted: found.uncommitted })
    }
}

/// What was found to be as it should.
struct Checked<F: Fsm> {
    machine: Offline<F>,
    hard_state: HardState,
    bounds: Option<(LogIndex, LogIndex)>,
    found: Found,
    end: LogId,
}

async fn check<F: Fsm>(
    fsm: F,
    reader: &dyn LogReader,
    stable_store: &mut dyn StableStore,
    snapshot_store: &dyn SnapshotStore,
    configuration: &Configuration,
    options: &RecoverOptions,
) -> Result<Checked<F>, RecoverError> {
    configuration.validate()?;
    if configuration.server(&options.local_id).is_none() {
        return Err(RecoverError::NotMember { id: options.local_id.clone() });
    }
    let bounds = reader.bounds().await?;
    if bounds.is_none() && snapshot_store.list().await?.is_empty() {
        return Err(RecoverError::NoState);
    }
    if let Some(disk) = stable_store.disk_identity().await?
        && !disk.server.as_str().is_empty()
        && disk.server != options.local_id
    {
        let (owner, given) = (disk.server, options.local_id.clone());
        return Err(RecoverError::WrongServer { owner, given });
    }
    let hard_state = stable_store.hard_state().await?.unwrap_or_default();
    let machine = Offline::restore(fsm, reader, snapshot_store).await?;
    let found = Found::look(reader, bounds, (machine.snapshot(), machine.newest())).await?;
    found.check_term(&hard_state, machine.snapshot())?;
    let end = found.end(options)?;
    Ok(Checked { machine, hard_state, bounds, found, end })
}

/// What the stores of a server know.
struct Found {
    /// The last entry known to be committed.
    committed: LogId,
    /// The last entry of all.
    last: LogId,
    /// What lies between the two.
    uncommitted: Option<UncommittedEntries>,
}

impl Found {
    /// Looks at the log, given where the snapshot ends that could be restored, and the newest of all.
    async fn look(
        reader: &dyn LogReader,
        bounds: Option<(LogIndex, LogIndex)>,
        (snapshot, newest): (LogId, LogId),
    ) -> Result<Self, StoreError> {
        let mut last = snapshot;
        if let Some((first, end)) = bounds {
            if snapshot.index.next() < first {
                return Err(gap(snapshot, newest));
            }
            if !contradicts(reader, (first, end), snapshot).await? {
                last = id_at(reader, end).await?.unwrap_or(snapshot);
            }
        }
        if last.index < newest.index || is_replaced(snapshot, newest) {
            return Err(gap(snapshot, newest));
        }
        let noted = reader.noted_commit().await?.unwrap_or_default();
        let known = noted.max(newest.index);
        if last.index < known {
            let reason = format!(
                "it is noted that the log is committed up to {known}, but log and snapshots end with \
                 {last}: entries are missing; use the stores of another server"
            );
            return Err(StoreError::corrupt("the log", reason));
        }
        let committed = if known == snapshot.index {
            snapshot
        } else {
            id_at(reader, known).await?.unwrap_or(snapshot)
        };
        let mut uncommitted = None;
        if known < last.index {
            let commands = count_commands(reader, known.next(), last.index).await?;
            uncommitted = Some(UncommittedEntries { first: known.next(), last, commands });
        }
        Ok(Self { committed, last, uncommitted })
    }

    /// A term that is behind the log was lost, and with it perhaps a vote. Behind a snapshot it may
    /// be: a crash can come between the two when a leader sends one.
    fn check_term(&self, hard_state: &HardState, snapshot: LogId) -> Result<(), StoreError> {
        let (term, last) = (hard_state.current_term, self.last);
        if last.term <= term || last == snapshot {
            return Ok(());
        }
        let reason = format!(
            "the log ends with {last}: the stores do not belong together, or the term was \
             lost; use the stores this server ran with, or those of another server"
        );
        Err(StoreError::corrupt(format!("the saved term {term}"), reason))
    }

    /// Where the recovered state is to end.
    fn end(&self, options: &RecoverOptions) -> Result<LogId, RecoverError> {
        let end = match (self.uncommitted, options.uncommitted) {
            (None, _) | (Some(_), Uncommitted::Keep) => self.last,
            (Some(uncommitted), Uncommitted::Refuse) => {
                let committed = self.committed.index;
                return Err(RecoverError::Undecided { committed, uncommitted });
            }
            (Some(uncommitted), Uncommitted::Discard) if self.committed == LogId::ZERO => {
                return Err(RecoverError::NothingCommitted { uncommitted });
            }
            (Some(_), Uncommitted::Discard) => self.committed,
        };
        match options.must_end_at {
            Some(expected) if expected != end => {
                Err(RecoverError::EndsElsewhere { expected, found: end })
            }
            _ => Ok(end),
        }
    }
}

async fn count_commands(
    reader: &dyn LogReader,
    first: LogIndex,
    last: LogIndex,
) -> Result<u64, StoreError> {
    let mut count = 0;
    let mut scan = LogScan::new(reader, first, last);
    while let Some(entries) = scan.next().await? {
        count += commands(&entries);
    }
    Ok(count)
}

/// Applies what follows the restored snapshot, and returns how many commands those were.
async fn apply<F: Fsm>(
    reader: &dyn LogReader,
    machine: &mut Offline<F>,
    last: LogIndex,
) -> Result<u64, StoreError> {
    let mut count = 0;
    let mut scan = LogScan::new(reader, machine.snapshot().index.next(), last);
    while let Some(entries) = scan.next().await? {
        count += commands(&entries);
        machine.apply(entries).await;
    }
    Ok(count)
}

fn commands(entries: &Entries) -> u64 {
    let is_command = |payload: &EntryPayload| matches!(payload, EntryPayload::Command(_));
    entries.iter().filter(|entry| is_command(&entry.payload)).count() as u64
}

async fn write_snapshot<F: Fsm>(
    machine: &mut Offline<F>,
    store: &dyn SnapshotStore,
    last: LogId,
    configuration: IndexedConfiguration,
) -> Result<SnapshotMeta, RecoverError> {
    let failed = |error: crate::FsmError| RecoverError::Fsm { reason: error.to_string() };
    let view = machine.view(configuration.clone()).await.map_err(failed)?;
    let (mut sink, failure) = Watched::new(store.create(last, configuration).await?);
    let persisted = view.persist(&mut sink).await;
    let sink = sink.into_inner();
    let written = failure.check(|| format!("cannot write the snapshot that ends with {last}"));
    if let Err(error) = written.map_err(Into::into).and(persisted.map_err(failed)) {
        sink.cancel().await;
        return Err(error);
    }
    Ok(sink.finish().await?)
}

/// Leaves the term the server may have voted in, and those of which it has entries: the new cluster
/// must not lead in a term of the old one, whose entries somebody may still have. A term without
/// both stays, so that a repeated call changes nothing.
async fn raise_term(
    store: &mut dyn StableStore,
    HardState { current_term, voted_for }: HardState,
    newest: Term,
) -> Result<Term, StoreError> {
    if voted_for.is_none() && newest < current_term {
        return Ok(current_term);
    }
    let current_term = current_term.max(newest).next();
    store.save_hard_state(&HardState { current_term, voted_for: None }).await?;
    Ok(current_term)
}

impl From<StartError> for RecoverError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Snapshot { tried, reason } => Self::Snapshot { tried, reason },
            StartError::Store(error) => Self::Store(error),
            // Restoring a snapshot reads no setting, starts no transport and looks at no log.
            error => Self::Store(StoreError::Refused { reason: error.to_string() }),
        }
    }
}
