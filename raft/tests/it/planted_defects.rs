//! A suite is worth what it finds: each of these implementations breaks one promise, and the suite
//! must name it.

use std::{ops::RangeInclusive, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;
use raft::{
    ClusterId, DiskIdentity, Entries, HardState, Identity, Inbox, IndexedConfiguration, LogId,
    LogIndex, LogReader, LogStore, Message, Server, ServerAddress, SnapshotId, SnapshotMeta,
    SnapshotReader, SnapshotSink, SnapshotStore, StableStore, StoreError, Transport,
    TransportError,
    inmem::{InmemLogStore, InmemNetwork, InmemSnapshotStore, InmemStableStore, InmemTransport},
    testing::{
        log_store_reopen_suite, log_store_suite, snapshot_store_suite, stable_store_suite,
        transport_suite,
    },
};

/// Runs a suite to its panic, and checks what it says.
async fn assert_finds(suite: impl Future<Output = ()> + Send + 'static, promise: &str) {
    let Err(error) = tokio::spawn(suite).await else {
        panic!("the suite did not notice that {promise:?} is broken")
    };
    let panic = error.into_panic();
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let said = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or_default();
    assert!(said.contains("broken promise"), "{said:?} does not name a promise");
    assert!(said.contains(promise), "{said:?} does not say {promise:?}");
}

#[derive(Clone, Copy, Debug)]
enum LogDefect {
    AcceptsGaps,
    AppendsFirstBatchOnly,
    CutsSuffixTooShort,
    CutsPrefixTooFar,
    RefusesToBeginAnywhere,
    ReadsBeyondTheEnd,
    IgnoresTheLimit,
    ReadsNothingWhenTooLarge,
    RemembersOldBounds,
    AnswersEmptyForUnknown,
    ShowsNotesAtOnce,
}

struct DefectiveLog {
    inner: InmemLogStore,
    defect: LogDefect,
    noted: Arc<Mutex<Option<LogIndex>>>,
}

struct DefectiveReader {
    inner: Arc<dyn LogReader>,
    defect: LogDefect,
    bounds: Mutex<Option<(LogIndex, LogIndex)>>,
    noted: Arc<Mutex<Option<LogIndex>>>,
}

#[async_trait]
impl LogStore for DefectiveLog {
    fn reader(&self) -> Arc<dyn LogReader> {
        let (inner, defect) = (self.inner.reader(), self.defect);
        let (bounds, noted) = (Mutex::default(), Arc::clone(&self.noted));
        Arc::new(DefectiveReader { inner, defect, bounds, noted })
    }

    async fn append(&mut self, batches: &[Entries]) -> Result<(), StoreError> {
        let batches = match (self.defect, batches) {
            (LogDefect::AppendsFirstBatchOnly, [first, ..]) => std::slice::from_ref(first),
            _ => batches,
        };
        let first = batches.iter().find_map(|batch| batch.first());
        if matches!(self.defect, LogDefect::RefusesToBeginAnywhere)
            && self.inner.reader().bounds().await?.is_none()
            && first.is_some_and(|entry| entry.index != LogIndex(1))
        {
            return Err(StoreError::Refused { reason: "begins at 1".to_owned() });
        }
        match (self.defect, self.inner.append(batches).await) {
            (LogDefect::AcceptsGaps, Err(StoreError::Refused { .. })) => Ok(()),
            (_, result) => result,
        }
    }

    async fn truncate_suffix(&mut self, from: LogIndex) -> Result<(), StoreError> {
        let more = u64::from(matches!(self.defect, LogDefect::CutsSuffixTooShort));
        self.inner.truncate_suffix(LogIndex(from.0.saturating_add(more))).await
    }

    async fn truncate_prefix(&mut self, through: LogIndex) -> Result<(), StoreError> {
        let more = u64::from(matches!(self.defect, LogDefect::CutsPrefixTooFar));
        self.inner.truncate_prefix(LogIndex(through.0.saturating_add(more))).await
    }

    fn note_commit(&mut self, index: LogIndex) {
        if matches!(self.defect, LogDefect::ShowsNotesAtOnce) {
            *self.noted.lock() = Some(index);
        }
    }
}

#[async_trait]
impl LogReader for DefectiveReader {
    async fn noted_commit(&self) -> Result<Option<LogIndex>, StoreError> {
        Ok(*self.noted.lock())
    }

    async fn bounds(&self) -> Result<Option<(LogIndex, LogIndex)>, StoreError> {
        let now = self.inner.bounds().await?;
        let mut bounds = self.bounds.lock();
        if !matches!(self.defect, LogDefect::RemembersOldBounds) || bounds.is_none() {
            *bounds = now;
        }
        Ok(*bounds)
    }

    async fn read(
        &self,
        range: RangeInclusive<LogIndex>,
        max_bytes: u64,
    ) -> Result<Entries, StoreError> {
        let (start, end) = range.into_inner();
        match self.defect {
            LogDefect::ReadsBeyondTheEnd => {
                self.inner.read(start..=LogIndex(end.0.saturating_add(1)), max_bytes).await
            }
            LogDefect::IgnoresTheLimit => self.inner.read(start..=end, u64::MAX).await,
            LogDefect::ReadsNothingWhenTooLarge => {
                let read = self.inner.read(start..=end, max_bytes).await?;
                Ok(if max_bytes < read.cost_bytes() { Entries::default() } else { read })
            }
            LogDefect::AnswersEmptyForUnknown => {
                Ok(self.inner.read(start..=end, max_bytes).await.unwrap_or_default())
            }
            _ => self.inner.read(start..=end, max_bytes).await,
        }
    }
}

#[tokio::test]
async fn defects_of_a_log_store_are_found() {
    for (defect, promise) in [
        (LogDefect::AcceptsGaps, "an append is refused when one entry is missing"),
        (LogDefect::AppendsFirstBatchOnly, "its second batch leaves a gap"),
        (LogDefect::CutsSuffixTooShort, "was removed"),
        (LogDefect::CutsPrefixTooFar, "was removed"),
        (LogDefect::RefusesToBeginAnywhere, "an append that leaves no gap succeeds"),
        (LogDefect::ReadsBeyondTheEnd, "a read ends within"),
        (LogDefect::IgnoresTheLimit, "a read of several entries has at most"),
        (LogDefect::ReadsNothingWhenTooLarge, "a read returns at least one entry"),
        (LogDefect::RemembersOldBounds, "bounds are the first and last index"),
        (LogDefect::AnswersEmptyForUnknown, "is NotFound"),
        (LogDefect::ShowsNotesAtOnce, "shows with the next append, not before"),
    ] {
        let fresh = move || async move {
            DefectiveLog { inner: InmemLogStore::new(), defect, noted: Arc::default() }
        };
        assert_finds(log_store_suite(fresh), promise).await;
    }
}

#[tokio::test]
async fn a_log_store_that_forgets_or_remembers_too_much_is_found() {
    // It forgets everything; it remembers notes that no append came after.
    let forgets = log_store_reopen_suite(|| async { InmemLogStore::new() });
    assert_finds(forgets, "when it was opened after everything through 7").await;
    let (inner, noted) = (InmemLogStore::new(), Arc::default());
    let open = move || {
        let (inner, noted) = (inner.clone(), Arc::clone(&noted));
        async move { DefectiveLog { inner, defect: LogDefect::ShowsNotesAtOnce, noted } }
    };
    assert_finds(log_store_reopen_suite(open), "a note that no append came after").await;
}

/// Two records where one is promised: a save without a vote leaves the old vote.
struct TwoRecords(InmemStableStore);

#[async_trait]
impl StableStore for TwoRecords {
    async fn hard_state(&mut self) -> Result<Option<HardState>, StoreError> {
        self.0.hard_state().await
    }

    async fn save_hard_state(&mut self, hard_state: &HardState) -> Result<(), StoreError> {
        let old_vote = self.0.hard_state().await?.and_then(|old| old.voted_for);
        let voted_for = hard_state.voted_for.clone().or(old_vote);
        self.0.save_hard_state(&HardState { voted_for, ..hard_state.clone() }).await
    }
}

#[tokio::test]
async fn an_old_vote_beside_a_new_term_is_found() {
    let fresh = || async { TwoRecords(InmemStableStore::new()) };
    assert_finds(stable_store_suite(fresh), "what was saved last is read").await;
}

/// A hard state that is saved takes the identity of the disk with it.
struct ForgetfulStore(InmemStableStore, Option<DiskIdentity>);

#[async_trait]
impl StableStore for ForgetfulStore {
    async fn hard_state(&mut self) -> Result<Option<HardState>, StoreError> {
        self.0.hard_state().await
    }

    async fn save_hard_state(&mut self, hard_state: &HardState) -> Result<(), StoreError> {
        self.1 = None;
        self.0.save_hard_state(hard_state).await
    }

    async fn disk_identity(&mut self) -> Result<Option<DiskIdentity>, StoreError> {
        Ok(self.1.clone())
    }

    async fn save_disk_identity(&mut self, identity: &DiskIdentity) -> Result<(), StoreError> {
        self.1 = Some(identity.clone());
        Ok(())
    }
}

#[tokio::test]
async fn an_identity_that_is_lost_with_a_vote_is_found() {
    let fresh = || async { ForgetfulStore(InmemStableStore::new(), None) };
    assert_finds(stable_store_suite(fresh), "a term and a vote disturb no identity").await;
}

#[derive(Clone, Copy, Debug)]
enum SnapshotDefect {
    OrdersByIndex,
    VisibleAtOnce,
    OpensAnything,
    IgnoresTheOffset,
    ReadsNothingBeyondTheEnd,
    RemovesNothing,
}

struct DefectiveSnapshots {
    inner: InmemSnapshotStore,
    defect: SnapshotDefect,
}

#[async_trait]
impl SnapshotStore for DefectiveSnapshots {
    async fn create(
        &self,
        last: LogId,
        configuration: IndexedConfiguration,
    ) -> Result<Box<dyn SnapshotSink>, StoreError> {
        if matches!(self.defect, SnapshotDefect::VisibleAtOnce) {
            self.inner.create(last, configuration.clone()).await?.finish().await?;
        }
        self.inner.create(last, configuration).await
    }

    async fn list(&self) -> Result<Vec<SnapshotMeta>, StoreError> {
        let mut listed = self.inner.list().await?;
        if matches!(self.defect, SnapshotDefect::OrdersByIndex) {
            listed.sort_by_key(|meta| std::cmp::Reverse(meta.last.index));
        }
        Ok(listed)
    }

    async fn remove(&self, id: &SnapshotId) -> Result<(), StoreError> {
        if matches!(self.defect, SnapshotDefect::RemovesNothing) {
            return Ok(());
        }
        self.inner.remove(id).await
    }

    async fn open(&self, id: &SnapshotId) -> Result<(SnapshotMeta, SnapshotReader), StoreError> {
        match (self.defect, self.inner.open(id).await) {
            (SnapshotDefect::OpensAnything, Err(_)) => {
                let (last, configuration) = (LogId::ZERO, IndexedConfiguration::default());
                let meta = SnapshotMeta { id: id.clone(), last, configuration, size_bytes: 0 };
                Ok((meta, Box::new(tokio::io::empty())))
            }
            (_, opened) => opened,
        }
    }

    async fn open_at(
        &self,
        id: &SnapshotId,
        offset: u64,
    ) -> Result<(SnapshotMeta, SnapshotReader), StoreError> {
        let (meta, all) = self.open(id).await?;
        match self.defect {
            SnapshotDefect::IgnoresTheOffset => Ok((meta, all)),
            SnapshotDefect::ReadsNothingBeyondTheEnd if meta.size_bytes < offset => {
                Ok((meta, Box::new(tokio::io::empty())))
            }
            _ => self.inner.open_at(id, offset).await,
        }
    }
}

#[tokio::test]
async fn defects_of_a_snapshot_store_are_found() {
    for (defect, promise) in [
        (SnapshotDefect::OrdersByIndex, "newest first, term before index"),
        (SnapshotDefect::VisibleAtOnce, "a snapshot is invisible until it is finished (begun)"),
        (SnapshotDefect::OpensAnything, "opening an unknown snapshot is NotFound"),
        (SnapshotDefect::IgnoresTheOffset, "from an offset on, the bytes are those written"),
        (SnapshotDefect::ReadsNothingBeyondTheEnd, "an offset beyond the end is Refused"),
        (SnapshotDefect::RemovesNothing, "a removed snapshot is not listed"),
    ] {
        let fresh =
            move || async move { DefectiveSnapshots { inner: InmemSnapshotStore::new(), defect } };
        assert_finds(snapshot_store_suite(fresh), promise).await;
    }
}

#[derive(Clone, Copy, Debug)]
enum TransportDefect {
    StartsTwice,
    Swaps,
    Loses,
    CutsPieces,
    ExpectsNothing,
    ForgetsItsIncarnation,
    ForgetsItsLife,
    ForgetsItsCluster,
    KeepsItsCluster,
    SendsWhenClosed,
    SpeaksOfThePeer,
}

struct DefectiveTransport {
    inner: Arc<InmemTransport>,
    defect: TransportDefect,
    held: Mutex<Option<Message>>,
    sent: Mutex<u64>,
}

#[async_trait]
impl Transport for DefectiveTransport {
    fn local_address(&self) -> ServerAddress {
        self.inner.local_address()
    }

    async fn start(&self, mut identity: Identity, inbox: Inbox) -> Result<(), TransportError> {
        match self.defect {
            TransportDefect::ForgetsItsIncarnation => identity.incarnation = 0,
            TransportDefect::ForgetsItsLife => identity.life = 0,
            TransportDefect::ForgetsItsCluster => identity.cluster = ClusterId::NONE,
            _ => {}
        }
        match (self.defect, self.inner.start(identity, inbox).await) {
            (TransportDefect::StartsTwice, Err(TransportError::Refused { .. })) => Ok(()),
            (_, started) => started,
        }
    }

    fn set_cluster(&self, cluster: ClusterId) {
        if !matches!(self.defect, TransportDefect::KeepsItsCluster) {
            self.inner.set_cluster(cluster);
        }
    }

    fn send(&self, to: &Server, message: Message) -> Result<(), TransportError> {
        let to = match self.defect {
            TransportDefect::ExpectsNothing => &to.clone().with(|it| it.incarnation = 0),
            _ => to,
        };
        match (self.defect, self.inner.send(to, message)) {
            (TransportDefect::SendsWhenClosed, Err(TransportError::Closed)) => Ok(()),
            (TransportDefect::SpeaksOfThePeer, Err(TransportError::Unreachable { .. })) => {
                Err(TransportError::Closed)
            }
            (_, sent) => sent,
        }
    }

    async fn send_entries(&self, to: &Server, mut message: Message) -> Result<(), TransportError> {
        if let (TransportDefect::CutsPieces, Message::InstallSnapshot(piece)) =
            (self.defect, &mut message)
        {
            piece.data.truncate(1 << 19);
        }
        let number = {
            let mut sent = self.sent.lock();
            *sent += 1;
            *sent
        };
        match self.defect {
            TransportDefect::Loses if number == 300 => Ok(()),
            TransportDefect::Swaps if number == 300 => {
                *self.held.lock() = Some(message);
                Ok(())
            }
            _ => {
                self.inner.send_entries(to, message).await?;
                let held = self.held.lock().take();
                match held {
                    Some(held) => self.inner.send_entries(to, held).await,
                    None => Ok(()),
                }
            }
        }
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn defects_of_a_transport_are_found() {
    for (defect, promise) in [
        (TransportDefect::StartsTwice, "a second start is refused"),
        (TransportDefect::Swaps, "the entries lane keeps its order"),
        (TransportDefect::Loses, "the entries lane keeps its order"),
        (TransportDefect::CutsPieces, "a large message arrives unchanged"),
        (TransportDefect::ExpectsNothing, "the incarnation of the server it was sent to"),
        (TransportDefect::ForgetsItsIncarnation, "a message carries its sender's incarnation"),
        (TransportDefect::ForgetsItsLife, "a message carries its sender's life"),
        (TransportDefect::ForgetsItsCluster, "a message carries its sender's cluster"),
        (TransportDefect::KeepsItsCluster, "a message sent after `set_cluster` is of that cluster"),
        (TransportDefect::SendsWhenClosed, "sending over a closed transport is Closed"),
        (TransportDefect::SpeaksOfThePeer, "a peer that is not there is Unreachable"),
    ] {
        let cluster = move |n| async move {
            let network = InmemNetwork::new();
            let one = |number: usize| {
                let address = format!("address {number}");
                let inner = network.transport(address.as_str());
                let (held, sent) = (Mutex::default(), Mutex::default());
                let transport = Arc::new(DefectiveTransport { inner, defect, held, sent });
                (Server::voter(format!("{number}"), address), transport as Arc<dyn Transport>)
            };
            (0..n).map(one).collect()
        };
        assert_finds(transport_suite(cluster), promise).await;
    }
}
