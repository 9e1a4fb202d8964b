//! A new cluster out of a survivor of an old one.

use std::{ops::RangeInclusive, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;
use raft::{
    Configuration, Entries, Entry, EntryPayload, Fsm, FsmError, HardState, IndexedConfiguration,
    InvalidConfiguration, LogId, LogIndex, LogReader, LogStore, RecoverError, RecoverOptions,
    Recoverable, Recovered, Server, SnapshotId, SnapshotMeta, SnapshotReader, SnapshotSink,
    SnapshotStore, StableStore, StoreError, Term, Uncommitted, UncommittedEntries, check_recovery,
    inmem::{InmemLogStore, InmemSnapshotStore, InmemStableStore},
    recover_cluster,
    testing::{Cluster, Journal},
};
use tokio::io::AsyncReadExt;

fn voters(ids: &[&str]) -> Configuration {
    Configuration::new(ids.iter().map(|id| Server::voter(*id, *id)))
}

fn command(term: u64, index: u64) -> Entry {
    let payload = EntryPayload::Command(format!("c{index}").into());
    Entry { term: Term(term), index: LogIndex(index), payload }
}

fn members(index: u64, ids: &[&str]) -> Entry {
    let payload = EntryPayload::Configuration(voters(ids));
    Entry { term: Term(1), index: LogIndex(index), payload }
}

/// What happens to the stores' calls: the n-th fails, before or after it has done its work, as do all
/// later ones. What a killed process leaves.
#[derive(Clone, Default)]
struct Fate(Arc<Mutex<Option<Cut>>>);

#[derive(Clone, Copy)]
struct Cut {
    calls_left: u64,
    /// Whether the last call that counts does its work before it fails.
    is_after: bool,
}

impl Fate {
    async fn call<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let cut = {
            let mut cut = self.0.lock();
            let before = *cut;
            if let Some(cut) = cut.as_mut() {
                cut.calls_left = cut.calls_left.saturating_sub(1);
            }
            before
        };
        let killed = || StoreError::Refused { reason: "killed".to_owned() };
        match cut {
            Some(Cut { calls_left: 0, .. }) => Err(killed()),
            Some(Cut { calls_left: 1, is_after: true }) => {
                work.await?;
                Err(killed())
            }
            _ => work.await,
        }
    }
}

/// The stores of one server. Clones are handles onto the same ones.
#[derive(Clone)]
struct Disk {
    log: InmemLogStore,
    stable: InmemStableStore,
    snapshots: InmemSnapshotStore,
    noted: Option<LogIndex>,
    fate: Fate,
}

#[async_trait]
impl LogStore for Disk {
    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(self.clone())
    }

    async fn append(&mut self, batches: &[Entries]) -> Result<(), StoreError> {
        self.fate.clone().call(self.log.append(batches)).await
    }

    async fn truncate_suffix(&mut self, from: LogIndex) -> Result<(), StoreError> {
        self.fate.clone().call(self.log.truncate_suffix(from)).await
    }

    async fn truncate_prefix(&mut self, through: LogIndex) -> Result<(), StoreError> {
        self.fate.clone().call(self.log.truncate_prefix(through)).await
    }
}

#[async_trait]
impl LogReader for Disk {
    async fn bounds(&self) -> Result<Option<(LogIndex, LogIndex)>, StoreError> {
        self.fate.call(self.log.reader().bounds()).await
    }

    async fn noted_commit(&self) -> Result<Option<LogIndex>, StoreError> {
        self.fate.call(async { Ok(self.noted) }).await
    }

    async fn read(
        &self,
        range: RangeInclusive<LogIndex>,
        bytes: u64,
    ) -> Result<Entries, StoreError> {
        self.fate.call(self.log.reader().read(range, bytes)).await
    }
}

#[async_trait]
impl StableStore for Disk {
    async fn hard_state(&mut self) -> Result<Option<HardState>, StoreError> {
        self.fate.clone().call(self.stable.hard_state()).await
    }

    async fn save_hard_state(&mut self, hard_state: &HardState) -> Result<(), StoreError> {
        self.fate.clone().call(self.stable.save_hard_state(hard_state)).await
    }
}

#[async_trait]
impl SnapshotStore for Disk {
    async fn create(
        &self,
        last: LogId,
        configuration: IndexedConfiguration,
    ) -> Result<Box<dyn SnapshotSink>, StoreError> {
        let sink = self.fate.call(self.snapshots.create(last, configuration)).await?;
        Ok(Box::new(Sink { sink, fate: self.fate.clone() }))
    }

    async fn list(&self) -> Result<Vec<SnapshotMeta>, StoreError> {
        self.fate.call(self.snapshots.list()).await
    }

    async fn remove(&self, id: &SnapshotId) -> Result<(), StoreError> {
        self.fate.call(self.snapshots.remove(id)).await
    }

    async fn open(&self, id: &SnapshotId) -> Result<(SnapshotMeta, SnapshotReader), StoreError> {
        self.fate.call(self.snapshots.open(id)).await
    }
}

struct Sink {
    sink: Box<dyn SnapshotSink>,
    fate: Fate,
}

impl tokio::io::AsyncWrite for Sink {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.sink).poll_write(cx, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.sink).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.sink).poll_shutdown(cx)
    }
}

#[async_trait]
impl SnapshotSink for Sink {
    async fn finish(self: Box<Self>) -> Result<SnapshotMeta, StoreError> {
        self.fate.call(self.sink.finish()).await
    }

    async fn cancel(self: Box<Self>) {
        self.sink.cancel().await;
    }
}

/// Everything that can be read from the stores, apart from the names of snapshots.
#[derive(Debug, PartialEq)]
struct Contents {
    hard_state: Option<HardState>,
    log: Vec<Entry>,
    snapshots: Vec<(LogId, IndexedConfiguration, Vec<u8>)>,
}

impl Disk {
    /// A server that has seen this.
    async fn new(hard_state: HardState, entries: Vec<Entry>, noted: Option<u64>) -> Self {
        let mut disk = Self {
            log: InmemLogStore::new(),
            stable: InmemStableStore::new(),
            snapshots: InmemSnapshotStore::new(),
            noted: noted.map(LogIndex),
            fate: Fate::default(),
        };
        disk.stable.save_hard_state(&hard_state).await.unwrap();
        disk.log.append(&[Entries::new(entries)]).await.unwrap();
        disk
    }

    async fn add_snapshot(&self, last: LogId, commands: impl IntoIterator<Item = Entry>) {
        let mut journal = Journal::default();
        commands.into_iter().for_each(|entry| _ = journal.apply(&entry));
        let configuration =
            IndexedConfiguration { index: LogIndex(1), configuration: voters(&["a", "b", "c"]) };
        let mut sink = self.snapshots.create(last, configuration).await.unwrap();
        journal.snapshot().unwrap().persist(&mut sink).await.unwrap();
        sink.finish().await.unwrap();
    }

    async fn recover(
        &self,
        configuration: Configuration,
        options: &RecoverOptions,
    ) -> Result<Recovered, RecoverError> {
        let (log, mut stable) = (self.clone(), self.clone());
        let before = self.contents().await;
        let fsm = Journal::default();
        let checked = check_recovery(fsm, &log, &mut stable, self, &configuration, options).await;
        assert_eq!(self.contents().await, before, "a check changes nothing");
        let recovered = self.recover_into(Journal::default(), configuration, options).await;
        match (&checked, &recovered) {
            (Ok(Recoverable { end, uncommitted, .. }), Ok(recovered)) => {
                assert_eq!(*end, recovered.end());
                assert_eq!(*uncommitted, recovered.kept.or(recovered.discarded));
            }
            // What only shows when it is done.
            (_, Err(RecoverError::Store(_))) => {}
            (Err(check), Err(error)) => assert_eq!(check.to_string(), error.to_string()),
            _ => panic!("{checked:?}, but {recovered:?}"),
        }
        recovered
    }

    async fn recover_into(
        &self,
        fsm: impl Fsm,
        configuration: Configuration,
        options: &RecoverOptions,
    ) -> Result<Recovered, RecoverError> {
        let (mut log, mut stable) = (self.clone(), self.clone());
        recover_cluster(fsm, &mut log, &mut stable, self, configuration, options).await
    }

    async fn contents(&self) -> Contents {
        let reader = self.log.reader();
        let log = match reader.bounds().await.unwrap() {
            Some((first, last)) => reader.read(first..=last, u64::MAX).await.unwrap().to_vec(),
            None => Vec::new(),
        };
        let mut snapshots = Vec::new();
        for meta in self.snapshots.list().await.unwrap() {
            let (_, mut reader) = self.snapshots.open(&meta.id).await.unwrap();
            let mut data = Vec::new();
            reader.read_to_end(&mut data).await.unwrap();
            snapshots.push((meta.last, meta.configuration, data));
        }
        Contents { hard_state: self.stable.clone().hard_state().await.unwrap(), log, snapshots }
    }

    /// The commands in the newest snapshot.
    async fn commands(&self) -> Vec<String> {
        let newest = &self.snapshots.list().await.unwrap()[0];
        let mut journal = Journal::default();
        journal.restore(self.snapshots.open(&newest.id).await.unwrap().1).await.unwrap();
        let commands = journal.commands();
        commands.iter().map(|c| String::from_utf8_lossy(c).into_owned()).collect()
    }
}

fn hard_state(term: u64, vote: Option<&str>) -> HardState {
    HardState { current_term: Term(term), voted_for: vote.map(Into::into) }
}

/// A follower of the voters a, b and c that has voted in term 2, and knows entry 4 of 6 to be
/// committed.
async fn survivor() -> Disk {
    let noop = Entry { term: Term(2), index: LogIndex(2), payload: EntryPayload::Noop };
    let entries = [members(1, &["a", "b", "c"]), noop].into_iter();
    let entries = entries.chain((3..=6).map(|index| command(2, index))).collect();
    Disk::new(hard_state(2, Some("b")), entries, Some(4)).await
}

/// The same after it has compacted its log: a snapshot at 3, the entries 3 to 6.
async fn survivor_with_snapshot() -> Disk {
    let mut disk = survivor().await;
    disk.add_snapshot(LogId::new(2, 3), [command(2, 3)]).await;
    disk.truncate_prefix(LogIndex(2)).await.unwrap();
    disk
}

fn keep() -> RecoverOptions {
    RecoverOptions::new("a").with(|it| it.uncommitted = Uncommitted::Keep)
}

fn discard() -> RecoverOptions {
    RecoverOptions::new("a").with(|it| it.uncommitted = Uncommitted::Discard)
}

/// The first, the last, and how many commands.
const FIVE_AND_SIX: (LogIndex, LogId, u64) =
    (LogIndex(5), LogId { term: Term(2), index: LogIndex(6) }, 2);

fn parts(entries: UncommittedEntries) -> (LogIndex, LogId, u64) {
    (entries.first, entries.last, entries.commands)
}

#[tokio::test]
async fn what_is_not_known_to_be_committed_needs_a_decision() {
    for disk in [survivor().await, survivor_with_snapshot().await] {
        let before = disk.contents().await;
        let error = disk.recover(voters(&["a"]), &RecoverOptions::new("a")).await.unwrap_err();
        let RecoverError::Undecided { committed, uncommitted } = &error else { panic!("{error}") };
        assert_eq!((*committed, parts(*uncommitted)), (LogIndex(4), FIVE_AND_SIX));
        assert_eq!(
            error.to_string(),
            "cannot recover without a decision: up to entry 4 the log is known to be committed; \
             entries 5 to 6@2 (2 commands) may or may not be, and may have been acknowledged: keep \
             or discard them"
        );
        assert_eq!(disk.contents().await, before, "nothing was changed");
    }
}

#[tokio::test]
async fn entries_that_are_kept_become_committed() {
    for (disk, restored, applied) in
        [(survivor().await, LogId::ZERO, 4), (survivor_with_snapshot().await, LogId::new(2, 3), 3)]
    {
        let recovered = disk.recover(voters(&["a"]), &keep()).await.unwrap();
        assert_eq!(recovered.end(), LogId::new(2, 6));
        assert_eq!((recovered.kept.map(parts), recovered.discarded), (Some(FIVE_AND_SIX), None));
        assert_eq!((recovered.restored, recovered.applied), (restored, applied));
        let configuration = &recovered.snapshot.configuration;
        assert_eq!(
            (configuration.index, configuration.configuration.servers()),
            (LogIndex(6), voters(&["a"]).servers())
        );
        assert_eq!(disk.commands().await, ["c3", "c4", "c5", "c6"]);
        assert_eq!(disk.contents().await.log, []);
    }
}

#[tokio::test]
async fn entries_that_are_discarded_leave_no_trace() {
    for disk in [survivor().await, survivor_with_snapshot().await] {
        let recovered = disk.recover(voters(&["a"]), &discard()).await.unwrap();
        assert_eq!(recovered.end(), LogId::new(2, 4));
        assert_eq!((recovered.kept, recovered.discarded.map(parts)), (None, Some(FIVE_AND_SIX)));
        assert_eq!(recovered.snapshot.configuration.index, LogIndex(4));
        assert_eq!(disk.commands().await, ["c3", "c4"]);
        assert_eq!(disk.contents().await.log, []);
    }
}

#[tokio::test]
async fn a_log_that_is_known_to_be_committed_needs_no_decision() {
    let mut disk = survivor().await;
    disk.noted = Some(LogIndex(6));
    let recovered = disk.recover(voters(&["a"]), &RecoverOptions::new("a")).await.unwrap();
    assert_eq!(
        (recovered.end(), recovered.kept, recovered.discarded),
        (LogId::new(2, 6), None, None)
    );

    // Nothing but a snapshot.
    let disk = Disk::new(hard_state(2, None), Vec::new(), None).await;
    disk.add_snapshot(LogId::new(2, 3), [command(2, 3)]).await;
    let recovered = disk.recover(voters(&["a"]), &RecoverOptions::new("a")).await.unwrap();
    assert_eq!((recovered.end(), recovered.applied), (LogId::new(2, 3), 0));
    assert_eq!(disk.commands().await, ["c3"]);
}

#[tokio::test]
async fn the_snapshot_counts_as_committed_when_the_note_is_older() {
    let mut disk = survivor_with_snapshot().await;
    disk.noted = Some(LogIndex(1));
    let recovered = disk.recover(voters(&["a"]), &discard()).await.unwrap();
    assert_eq!(recovered.end(), LogId::new(2, 3));
}

#[tokio::test]
async fn a_term_with_a_vote_or_entries_is_left_behind() {
    let entries = || (1..=3).map(|index| command(2, index)).collect::<Vec<_>>();
    for (state, expected) in [
        (hard_state(2, Some("b")), Term(3)),
        // Somebody led in term 2, and may have won it with votes that are lost.
        (hard_state(2, None), Term(3)),
        (hard_state(5, Some("a")), Term(6)),
        (hard_state(5, None), Term(5)),
    ] {
        let disk = Disk::new(state, entries(), None).await;
        let recovered = disk.recover(voters(&["a"]), &keep()).await.unwrap();
        assert_eq!(recovered.term, expected);
        let saved = HardState { current_term: expected, voted_for: None };
        assert_eq!(disk.contents().await.hard_state, Some(saved));
    }
}

#[tokio::test]
async fn a_recovery_that_was_cut_short_anywhere_is_finished_by_the_next() {
    for options in [keep(), discard()] {
        let uncut = survivor_with_snapshot().await;
        uncut.recover_into(Journal::default(), voters(&["a"]), &options).await.unwrap();
        let expected = uncut.contents().await;
        for is_after in [false, true] {
            let mut calls_left = u64::from(is_after);
            loop {
                let disk = survivor_with_snapshot().await;
                *disk.fate.0.lock() = Some(Cut { calls_left, is_after });
                let cut = disk.recover_into(Journal::default(), voters(&["a"]), &options).await;
                if cut.is_ok() {
                    assert!(10 < calls_left, "the calls were cut one by one");
                    break;
                }
                *disk.fate.0.lock() = None;
                let again = disk.recover_into(Journal::default(), voters(&["a"]), &options).await;
                assert!(again.is_ok(), "cut at call {calls_left}, then {again:?}");
                assert_eq!(disk.contents().await, expected, "cut at call {calls_left}");
                calls_left += 1;
            }
        }
    }
}

#[tokio::test]
async fn a_finished_recovery_can_be_repeated_and_corrected() {
    let disk = survivor().await;
    let first = disk.recover(voters(&["a", "x"]), &keep()).await.unwrap();
    let before = disk.contents().await;
    let again = disk.recover(voters(&["a", "x"]), &RecoverOptions::new("a")).await.unwrap();
    assert_eq!((&again.snapshot, again.term), (&first.snapshot, first.term));
    assert_eq!(disk.contents().await, before, "nothing was written");

    let corrected = disk.recover(voters(&["a"]), &RecoverOptions::new("a")).await.unwrap();
    assert_eq!(corrected.end(), first.end());
    let known = disk.snapshots.list().await.unwrap()[0].configuration.configuration.clone();
    assert_eq!(known.servers(), voters(&["a"]).servers());
    assert_eq!(disk.commands().await, ["c3", "c4", "c5", "c6"]);
}

#[tokio::test]
async fn what_cannot_be_recovered_is_refused_and_left_alone() {
    let disk = survivor().await;
    let before = disk.contents().await;
    let nobody = Configuration::new([Server::nonvoter("a", "a")]);
    let error = disk.recover(nobody, &keep()).await.unwrap_err();
    let no_voter = InvalidConfiguration::NoVoter;
    assert!(matches!(&error, RecoverError::InvalidConfiguration(e) if *e == no_voter), "{error}");
    let error = disk.recover(voters(&["b", "c"]), &keep()).await.unwrap_err();
    assert!(matches!(&error, RecoverError::NotMember { id } if id.as_str() == "a"), "{error}");
    let options = keep().with(|it| it.must_end_at = Some(LogId::new(2, 5)));
    let error = disk.recover(voters(&["a"]), &options).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot recover: the server's state would end with entry 6@2, not 5@2"
    );
    assert_eq!(disk.contents().await, before);

    let mut disk = survivor().await;
    disk.noted = None;
    let error = disk.recover(voters(&["a"]), &discard()).await.unwrap_err();
    assert!(matches!(error, RecoverError::NothingCommitted { .. }), "{error}");
    assert_eq!(disk.contents().await, before);

    // A vote alone is nothing to begin a cluster with.
    let empty = Disk::new(hard_state(7, Some("b")), Vec::new(), None).await;
    let error = empty.recover(voters(&["a"]), &keep()).await.unwrap_err();
    assert!(matches!(error, RecoverError::NoState), "{error}");
}

#[tokio::test]
async fn stores_that_contradict_each_other_are_refused() {
    let refused = async |disk: &Disk, expected: &str| {
        let before = disk.contents().await;
        let error = disk.recover(voters(&["a"]), &keep()).await.unwrap_err();
        assert!(matches!(error, RecoverError::Store(StoreError::Corrupt { .. })), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(disk.contents().await, before);
    };
    let mut disk = survivor().await;
    disk.noted = Some(LogIndex(7));
    refused(&disk, "committed up to 7, but log and snapshots end with 6@2").await;

    let mut disk = survivor().await;
    disk.stable.save_hard_state(&hard_state(1, None)).await.unwrap();
    refused(&disk, "the saved term 1").await;

    let mut disk = survivor_with_snapshot().await;
    disk.truncate_prefix(LogIndex(4)).await.unwrap();
    refused(&disk, "entries are missing").await;
}

#[tokio::test]
async fn a_log_that_a_snapshot_has_replaced_is_not_taken_for_its_continuation() {
    // The snapshot came from a leader; the server died before it dropped its log.
    let disk = survivor().await;
    disk.add_snapshot(LogId::new(4, 5), [command(4, 5)]).await;
    let recovered = disk.recover(voters(&["a"]), &RecoverOptions::new("a")).await.unwrap();
    assert_eq!((recovered.end(), recovered.applied), (LogId::new(4, 5), 0));
    assert_eq!(recovered.term, Term(5), "its term was not saved yet");
    assert_eq!(disk.commands().await, ["c5"]);
    assert_eq!(disk.contents().await.log, []);
}

/// A snapshot that a restore had made in vain was void as long as the log showed it; the recovery
/// removed the log.
#[tokio::test(start_paused = true)]
async fn a_void_snapshot_does_not_come_back_when_the_log_is_gone() {
    let noop = Entry { term: Term(2), index: LogIndex(2), payload: EntryPayload::Noop };
    let entries = [members(1, &["a", "b", "c"]), noop].into_iter();
    let entries = entries.chain((3..=6).map(|index| command(2, index)));
    let entries = entries.chain([command(3, 7)]).collect();
    let disk = Disk::new(hard_state(3, None), entries, Some(6)).await;
    disk.add_snapshot(LogId::new(2, 7), [command(9, 9)]).await;
    let recovered = disk.recover(voters(&["a"]), &discard()).await.unwrap();
    assert_eq!(recovered.end(), LogId::new(2, 6));
    assert_eq!(disk.commands().await, ["c3", "c4", "c5", "c6"]);
    let lasts: Vec<LogId> = disk.contents().await.snapshots.iter().map(|it| it.0).collect();
    assert_eq!(lasts, [recovered.end()]);
}

/// Restores only snapshots with a single command.
struct Picky(Journal);

impl Fsm for Picky {
    type Response = u64;

    fn apply(&mut self, entry: &Entry) -> u64 {
        self.0.apply(entry)
    }

    fn is_blocking(&self) -> bool {
        true
    }

    fn snapshot(&mut self) -> Result<Box<dyn raft::FsmSnapshot>, FsmError> {
        self.0.snapshot()
    }

    async fn restore(&mut self, reader: SnapshotReader) -> Result<(), FsmError> {
        self.0.restore(reader).await?;
        let count = self.0.commands().len();
        if count == 1 { Ok(()) } else { Err(format!("{count} commands").into()) }
    }
}

#[tokio::test]
async fn an_older_snapshot_is_used_and_the_newer_still_counts_as_committed() {
    let mut disk = survivor_with_snapshot().await;
    disk.noted = None;
    disk.add_snapshot(LogId::new(2, 5), [3, 4, 5].map(|index| command(2, index))).await;
    let fsm = Picky(Journal::default());
    let recovered = disk.recover_into(fsm, voters(&["a"]), &discard()).await.unwrap();
    assert_eq!((recovered.end(), recovered.restored), (LogId::new(2, 5), LogId::new(2, 3)));
    assert_eq!(disk.commands().await, ["c3", "c4", "c5"]);

    // Without the older one there is nothing to begin with.
    let disk = Disk::new(hard_state(2, None), Vec::new(), None).await;
    disk.add_snapshot(LogId::new(2, 5), [3, 4, 5].map(|index| command(2, index))).await;
    let fsm = Picky(Journal::default());
    let error = disk.recover_into(fsm, voters(&["a"]), &keep()).await.unwrap_err();
    assert!(matches!(error, RecoverError::Snapshot { tried: 1, .. }), "{error}");
}

/// Has no snapshots.
struct Forgetful;

impl Fsm for Forgetful {
    type Response = ();

    fn apply(&mut self, _: &Entry) {}
}

#[tokio::test]
async fn a_state_machine_without_snapshots_is_refused_before_anything_is_changed() {
    let disk = survivor().await;
    let before = disk.contents().await;
    let error = disk.recover_into(Forgetful, voters(&["a"]), &keep()).await.unwrap_err();
    assert!(matches!(error, RecoverError::Fsm { .. }), "{error}");
    assert_eq!(disk.contents().await, before);
}

/// Recovers a stopped server of the cluster.
async fn recover(
    cluster: &Cluster,
    id: &str,
    configuration: &Configuration,
    must_end_at: Option<LogId>,
) -> Result<Recovered, RecoverError> {
    let (mut log, mut stable, snapshots) = cluster.stores(id);
    let uncommitted = Uncommitted::Keep;
    let options = RecoverOptions::new(id).with(|it| {
        it.uncommitted = uncommitted;
        it.must_end_at = must_end_at;
    });
    let fsm = Journal::default();
    recover_cluster(fsm, &mut log, &mut stable, &snapshots, configuration.clone(), &options).await
}

#[tokio::test(start_paused = true)]
async fn one_of_three_goes_on_alone() {
    let mut cluster = Cluster::new(["a", "b", "c"]).await;
    let leader = cluster.leader().await;
    for number in 0..20 {
        leader.apply(format!("{number}")).await.unwrap();
    }
    cluster.converge().await;
    let (commands, term) = (cluster.journal("a").commands(), leader.term());
    let before = leader.configuration().configuration.cluster();
    cluster.shutdown().await;

    // As somebody gives it who has copied it from the old cluster.
    let members = voters(&["a"]).with_cluster(before);
    let recovered = recover(&cluster, "a", &members, None).await.unwrap();
    let raft = cluster.start("a").await;
    let configuration = raft.configuration();
    assert_eq!(configuration.index, recovered.end().index);
    assert_eq!(configuration.configuration.servers(), voters(&["a"]).servers());
    assert_ne!(configuration.configuration.cluster(), before, "a cluster of its own");
    assert_eq!(cluster.journal("a").commands(), commands, "before any election");

    let leader = cluster.leader().await;
    assert!(term < leader.term());
    assert_eq!(leader.apply("x").await.unwrap().response, 21);
    // It is one like any other: a restart, a snapshot, a change of members.
    leader.snapshot().await.unwrap();
    cluster.restart("a").await;
    let leader = cluster.leader().await;
    assert_eq!(leader.configuration().configuration.servers(), voters(&["a"]).servers());
    let index = leader.configuration().index;
    let added = leader.add_nonvoter("d", "d", Some(index)).await.unwrap();
    assert!(index < added);
}

#[tokio::test(start_paused = true)]
async fn survivors_that_end_alike_form_a_cluster() {
    let mut cluster = Cluster::new(["a", "b", "c", "d", "e"]).await;
    let leader = cluster.leader().await;
    for number in 0..20 {
        leader.apply(format!("{number}")).await.unwrap();
    }
    cluster.converge().await;
    let commands = cluster.journal("a").commands();
    cluster.shutdown().await;

    let configuration = voters(&["a", "b"]);
    let first = recover(&cluster, "a", &configuration, None).await.unwrap();
    let second = recover(&cluster, "b", &configuration, Some(first.end())).await.unwrap();
    assert_eq!(first.snapshot.configuration, second.snapshot.configuration);
    cluster.start("a").await;
    cluster.start("b").await;
    let leader = cluster.leader().await;
    assert_eq!(leader.configuration().configuration.servers(), configuration.servers());
    leader.apply("x").await.unwrap();
    cluster.converge().await;
    assert_eq!(cluster.journal("b").commands()[..20], commands);
}

#[tokio::test(start_paused = true)]
async fn a_survivor_that_ends_elsewhere_is_refused() {
    let mut cluster = Cluster::new(["a", "b", "c", "d", "e"]).await;
    let leader = cluster.leader().await;
    leader.apply("x").await.unwrap();
    cluster.converge().await;
    let follower = cluster.followers()[0].id().to_string();
    cluster.stop(&follower).await;
    cluster.leader().await.apply("y").await.unwrap();
    let ahead = cluster.leader().await.id().to_string();
    cluster.shutdown().await;

    let configuration = voters(&[&ahead, &follower]);
    let first = recover(&cluster, &ahead, &configuration, None).await.unwrap();
    let error = recover(&cluster, &follower, &configuration, Some(first.end())).await.unwrap_err();
    assert!(matches!(error, RecoverError::EndsElsewhere { .. }), "{error}");
}
