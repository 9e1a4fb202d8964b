//! A follower that is sent a snapshot: the test plays the leader, message by message.

use std::{
    io::Cursor,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use raft::{
    Config, Configuration, Entries, Entry, EntryPayload, Fatal, Fsm, FsmError, FsmSnapshot,
    Identity, Inbox, IndexedConfiguration, LogId, LogIndex, LogStore, Message, Observation, Raft,
    Received, Role, Server, SnapshotError, SnapshotReader, SnapshotStore, Term, Transport,
    inmem::{InmemLogStore, InmemNetwork, InmemSnapshotStore, InmemStableStore, InmemTransport},
    rpc::{AppendEntriesRequest, HeartbeatRequest, InstallOutcome, InstallSnapshotRequest},
    testing::Journal,
};
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    sync::Notify,
    time::{sleep, timeout},
};

/// The follower `b` on its stores; the disk of its snapshots is its own.
struct Follower {
    network: InmemNetwork,
    log: InmemLogStore,
    stable: InmemStableStore,
    snapshots: InmemSnapshotStore,
}

impl Follower {
    fn new() -> Self {
        Self {
            network: InmemNetwork::new(),
            log: InmemLogStore::new(),
            stable: InmemStableStore::new(),
            snapshots: InmemSnapshotStore::new(),
        }
    }

    async fn try_start<F: Fsm>(
        &self,
        fsm: F,
        configure: fn(Config) -> Config,
    ) -> Result<Raft<F>, raft::StartError> {
        Raft::new(
            configure(Config::new("b").with_seed(1)),
            fsm,
            self.log.clone(),
            self.stable.clone(),
            Arc::new(self.snapshots.clone()),
            self.network.transport("b"),
        )
        .await
    }

    async fn start<F: Fsm>(&self, fsm: F) -> Raft<F> {
        self.try_start(fsm, |config| config).await.unwrap()
    }

    async fn bounds(&self) -> Option<(u64, u64)> {
        let bounds = self.log.reader().bounds().await.unwrap();
        bounds.map(|(first, last)| (first.0, last.0))
    }

    /// Leaves a snapshot in the store that was never adopted.
    async fn finish_snapshot(&self, state: &State) {
        let mut sink = self.snapshots.create(state.last, configuration()).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut sink, &state.bytes).await.unwrap();
        sink.finish().await.unwrap();
    }

    async fn snapshots(&self) -> Vec<LogId> {
        self.snapshots.list().await.unwrap().into_iter().map(|meta| meta.last).collect()
    }
}

/// The leader that the test plays.
struct Leader {
    transport: Arc<InmemTransport>,
    received: Received,
    term: u64,
    transfer: u64,
}

impl Leader {
    async fn new(follower: &Follower, term: u64) -> Self {
        Self::named(follower, "a", term).await
    }

    async fn named(follower: &Follower, id: &str, term: u64) -> Self {
        let transport = follower.network.transport(id);
        let (inbox, received) = Inbox::new(64);
        transport.start(Identity::new(id), inbox).await.unwrap();
        Self { transport, received, term, transfer: 1 }
    }

    async fn send(&self, message: Message) {
        self.transport.send_entries(&Server::voter("b", "b"), message).await.unwrap();
    }

    /// Appends entries `first ..= last` of this term after `prev` and commits up to `commit`.
    async fn append(&mut self, prev: LogId, last: u64, commit: u64) {
        let entry = |index| Entry {
            term: Term(self.term),
            index: LogIndex(index),
            payload: EntryPayload::Command(format!("{index}").into()),
        };
        let entries: Vec<_> = (prev.index.0 + 1..=last).map(entry).collect();
        self.send(Message::AppendEntries(AppendEntriesRequest {
            term: Term(self.term),
            round: 1,
            prev,
            entries: Entries::new(entries),
            commit_index: LogIndex(commit),
        }))
        .await;
    }

    fn piece(&self, state: &State, offset: usize, end: usize) -> InstallSnapshotRequest {
        let data = state.bytes[offset..end].to_vec();
        InstallSnapshotRequest {
            term: Term(self.term),
            transfer: self.transfer,
            last: state.last,
            configuration: configuration(),
            size_bytes: state.bytes.len() as u64,
            offset: offset as u64,
            checksum: crc32fast::hash(&data),
            data: data.into(),
        }
    }

    /// Sends a piece and waits for the answer to it.
    async fn ask(&mut self, piece: InstallSnapshotRequest) -> InstallOutcome {
        self.send(Message::InstallSnapshot(piece)).await;
        loop {
            let answer = timeout(Duration::from_secs(60), self.received.recv()).await;
            let envelope = answer.expect("the follower does not answer").unwrap();
            if let Message::InstallSnapshotReply(reply) = envelope.message {
                assert_eq!(reply.transfer, self.transfer);
                return reply.outcome;
            }
        }
    }

    async fn ask_part(&mut self, state: &State, offset: usize, end: usize) -> InstallOutcome {
        self.ask(self.piece(state, offset, end)).await
    }

    /// Sends all of it.
    async fn install(&mut self, state: &State) -> InstallOutcome {
        let size = state.bytes.len();
        let half = size / 2;
        if 0 < half {
            assert_eq!(self.ask_part(state, 0, half).await, received(half));
        }
        self.ask_part(state, half, size).await
    }
}

fn received(next_offset: usize) -> InstallOutcome {
    InstallOutcome::Received { next_offset: next_offset as u64 }
}

fn installed(index: u64) -> InstallOutcome {
    InstallOutcome::Installed { match_index: LogIndex(index) }
}

fn configuration() -> IndexedConfiguration {
    let members = ["a", "b", "c"].map(|id| Server::voter(id, id));
    IndexedConfiguration { index: LogIndex(2), configuration: Configuration::new(members) }
}

/// What a snapshot holds.
struct State {
    last: LogId,
    bytes: Vec<u8>,
}

/// A journal of so many commands, up to `last`.
async fn state(last: LogId, commands: u64) -> State {
    let mut journal = Journal::default();
    for number in 1..=commands {
        let payload = EntryPayload::Command(format!("s{number}").into());
        journal.apply(&Entry { term: Term(1), index: LogIndex(number), payload });
    }
    let mut bytes = Vec::new();
    journal.snapshot().unwrap().persist(&mut bytes).await.unwrap();
    State { last, bytes }
}

async fn settle() {
    sleep(Duration::from_millis(20)).await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_arrives_piece_by_piece_and_takes_the_place_of_everything() {
    let follower = Follower::new();
    let journal = Journal::default();
    let raft = follower.start(journal.clone()).await;
    let mut observer = raft.observe(100, |seen| !seen.is_message());
    let mut leader = Leader::new(&follower, 3).await;
    let state = state(LogId::new(2, 50), 40).await;
    let size = state.bytes.len();
    assert_eq!(leader.ask_part(&state, 0, 10).await, received(10));
    let progress = raft.status().await.unwrap().receiving.unwrap();
    assert_eq!((progress.last, progress.bytes), (state.last, 10));
    assert_eq!(progress.size_bytes, Some(size as u64));
    assert_eq!(leader.ask_part(&state, 10, 100).await, received(100));
    assert_eq!(follower.snapshots().await, []);
    assert_eq!(leader.ask_part(&state, 100, size).await, installed(50));
    raft.wait_applied(LogIndex(50)).await.unwrap();
    assert_eq!(journal.commands().len(), 40);
    assert_eq!(journal.configurations(), [configuration()]);
    assert_eq!(raft.configuration(), configuration());
    let status = raft.status().await.unwrap();
    assert_eq!((status.snapshot, status.last), (state.last, state.last));
    assert_eq!((status.marks.first, status.marks.applied), (LogIndex(51), LogIndex(50)));
    assert_eq!(status.receiving, None);
    let mut seen = Vec::new();
    while let Some(observation) = observer.try_recv() {
        seen.push(observation);
    }
    let is_progress = |seen: &&Observation| matches!(seen, Observation::SnapshotReceiving { .. });
    assert_eq!(seen.iter().filter(is_progress).count(), 3);
    assert!(seen.contains(&Observation::SnapshotInstalled { last: state.last }));

    // The log goes on behind it, and all of it survives a restart.
    leader.append(state.last, 55, 53).await;
    raft.wait_applied(LogIndex(53)).await.unwrap();
    raft.shutdown().await;
    let again = Journal::default();
    let raft = follower.start(again.clone()).await;
    assert!(LogIndex(50) <= raft.applied_index());
    assert_eq!(raft.last_index(), LogIndex(55));
    leader.append(LogId::new(3, 55), 56, 56).await;
    raft.wait_applied(LogIndex(56)).await.unwrap();
    assert_eq!(again.commands().len(), 46);
    raft.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_damaged_missing_or_double_is_asked_for_again() {
    let follower = Follower::new();
    let raft = follower.start(Journal::default()).await;
    let mut leader = Leader::new(&follower, 3).await;
    let state = state(LogId::new(2, 50), 40).await;
    let size = state.bytes.len();
    assert_eq!(leader.ask_part(&state, 20, 40).await, received(0), "nothing is known of it");
    assert_eq!(leader.ask_part(&state, 0, 20).await, received(20));
    let mut damaged = leader.piece(&state, 20, 40);
    damaged.checksum ^= 1;
    assert_eq!(leader.ask(damaged).await, received(20));
    assert_eq!(leader.ask_part(&state, 40, 60).await, received(20), "a gap");
    assert_eq!(leader.ask_part(&state, 0, 20).await, received(20), "a duplicate");
    assert_eq!(leader.ask_part(&state, 20, 40).await, received(40));
    assert_eq!(leader.ask_part(&state, 40, size).await, installed(50));
    assert_eq!(leader.ask_part(&state, 40, size).await, installed(50), "the answer was lost");
    raft.wait_applied(LogIndex(50)).await.unwrap();
    raft.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_snapshot_is_one_empty_piece() {
    let follower = Follower::new();
    let raft = follower.start(Blank).await;
    let mut leader = Leader::new(&follower, 3).await;
    let state = State { last: LogId::new(2, 50), bytes: Vec::new() };
    assert_eq!(leader.install(&state).await, installed(50));
    raft.wait_applied(LogIndex(50)).await.unwrap();
    raft.shutdown().await;
}

/// Has no state, so that any snapshot will do.
struct Blank;

impl Fsm for Blank {
    type Response = ();

    fn apply(&mut self, _: &Entry) {}

    async fn restore(&mut self, _: SnapshotReader) -> Result<(), FsmError> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_contradicts_itself_is_refused() {
    let follower = Follower::new();
    let raft = follower.start(Journal::default()).await;
    let mut leader = Leader::new(&follower, 3).await;
    let state = state(LogId::new(2, 50), 40).await;
    let lies: [fn(&mut InstallSnapshotRequest); 4] = [
        |piece| piece.size_bytes = 30,
        |piece| piece.last = LogId::new(2, 51),
        |piece| piece.size_bytes += 1,
        |piece| piece.configuration.index = LogIndex(3),
    ];
    for lie in lies {
        assert_eq!(leader.ask_part(&state, 0, 20).await, received(20));
        let mut piece = leader.piece(&state, 20, 40);
        lie(&mut piece);
        assert_eq!(leader.ask(piece).await, InstallOutcome::Refused);
        assert_eq!(raft.status().await.unwrap().receiving, None);
        assert_eq!(leader.ask_part(&state, 20, 40).await, received(0), "all of it is given up");
        leader.transfer += 1;
    }
    let mut overlong = leader.piece(&state, 0, 40);
    overlong.size_bytes = 30;
    assert_eq!(leader.ask(overlong).await, InstallOutcome::Refused);
    assert_eq!(follower.snapshots().await, []);
    assert_eq!(leader.install(&state).await, installed(50));
    raft.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_the_snapshot_and_the_node_lives() {
    let follower = Follower::new();
    let journal = Journal::default();
    let raft = follower.start(journal.clone()).await;
    let mut leader = Leader::new(&follower, 3).await;
    leader.append(LogId::ZERO, 5, 5).await;
    raft.wait_applied(LogIndex(5)).await.unwrap();
    follower.snapshots.disk().fail_writes_after(0);
    let state = state(LogId::new(3, 50), 40).await;
    assert_eq!(leader.install(&state).await, InstallOutcome::Refused);
    assert_eq!((raft.last_index(), journal.commands().len()), (LogIndex(5), 5));
    assert!(raft.fatal().is_none());
    leader.append(LogId::new(3, 5), 6, 6).await;
    raft.wait_applied(LogIndex(6)).await.unwrap();
    follower.snapshots.disk().heal();
    leader.transfer = 2;
    assert_eq!(leader.install(&state).await, installed(50));
    raft.wait_applied(LogIndex(50)).await.unwrap();
    assert_eq!(journal.commands().len(), 40);
    raft.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_transfer_goes_on_under_another_number_and_a_newer_one_replaces_it() {
    let follower = Follower::new();
    let raft = follower.start(Journal::default()).await;
    let mut leader = Leader::new(&follower, 3).await;
    let (older, newer) = (state(LogId::new(2, 50), 40).await, state(LogId::new(2, 60), 50).await);
    assert_eq!(leader.ask_part(&older, 0, 20).await, received(20));
    leader.transfer = 2;
    assert_eq!(leader.ask_part(&older, 0, 20).await, received(20), "it is here already");
    assert_eq!(leader.ask_part(&older, 20, 40).await, received(40));
    leader.transfer = 3;
    assert_eq!(leader.ask_part(&newer, 0, 10).await, received(10));
    // A late piece of the older one is not even answered.
    leader
        .send(Message::InstallSnapshot(InstallSnapshotRequest {
            transfer: 2,
            ..leader.piece(&older, 40, 60)
        }))
        .await;
    assert_eq!(leader.ask_part(&newer, 10, newer.bytes.len()).await, installed(60));
    assert_eq!(follower.snapshots().await, [newer.last]);
    raft.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_begins_anew_and_the_old_one_is_told_of_the_term() {
    let follower = Follower::new();
    let raft = follower.start(Journal::default()).await;
    let mut old = Leader::new(&follower, 3).await;
    let state = state(LogId::new(2, 50), 40).await;
    assert_eq!(old.ask_part(&state, 0, 20).await, received(20));
    let mut new = Leader::named(&follower, "c", 4).await;
    assert_eq!(new.ask_part(&state, 20, 40).await, received(0));
    assert_eq!(old.ask_part(&state, 20, 40).await, InstallOutcome::StaleTerm);
    assert_eq!(new.install(&state).await, installed(50));
    raft.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn what_has_arrived_is_given_up_after_a_while_only() {
    let follower = Follower::new();
    let raft = follower.start(Journal::default()).await;
    let mut leader = Leader::new(&follower, 3).await;
    let state = state(LogId::new(2, 50), 40).await;
    assert_eq!(leader.ask_part(&state, 0, 20).await, received(20));
    sleep(Duration::from_secs(500)).await;
    assert_eq!(leader.ask_part(&state, 20, 40).await, received(40));
    sleep(Duration::from_secs(700)).await;
    assert_eq!(raft.status().await.unwrap().receiving, None);
    assert_eq!(leader.ask_part(&state, 40, 60).await, received(0));
    raft.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_contradicts_the_snapshot_is_dropped() {
    let follower = Follower::new();
    let journal = Journal::default();
    let raft = follower.start(journal.clone()).await;
    let mut old = Leader::new(&follower, 3).await;
    old.append(LogId::ZERO, 100, 10).await;
    raft.wait_applied(LogIndex(10)).await.unwrap();
    let mut new = Leader::named(&follower, "c", 5).await;
    let state = state(LogId::new(4, 50), 40).await;
    assert_eq!(new.install(&state).await, installed(50));
    raft.wait_applied(LogIndex(50)).await.unwrap();
    assert_eq!(raft.last_index(), LogIndex(50));
    assert_eq!(follower.bounds().await, None);
    assert_eq!(journal.commands().len(), 40);
    new.append(state.last, 60, 60).await;
    raft.wait_applied(LogIndex(60)).await.unwrap();
    assert_eq!(follower.bounds().await, Some((51, 60)));
    raft.shutdown().await;
}

/// The model installs it, and its state machine goes back.
#[tokio::test(start_paused = true)]
async fn a_snapshot_of_what_is_applied_already_changes_nothing() {
    let follower = Follower::new();
    let journal = Journal::default();
    let raft = follower.start(journal.clone()).await;
    let mut leader = Leader::new(&follower, 3).await;
    leader.append(LogId::ZERO, 22, 22).await;
    raft.wait_applied(LogIndex(22)).await.unwrap();
    for last in [5, 21, 22] {
        let state = state(LogId::new(3, last), last).await;
        assert_eq!(leader.ask_part(&state, 0, 10).await, installed(last), "it is not needed");
        leader.transfer += 1;
        settle().await;
        assert_eq!((raft.applied_index(), journal.commands().len()), (LogIndex(22), 22));
        assert_eq!(follower.bounds().await, Some((1, 22)));
        assert_eq!(follower.snapshots().await, []);
    }
    leader.append(LogId::new(3, 22), 23, 23).await;
    raft.wait_applied(LogIndex(23)).await.unwrap();
    raft.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_contains_the_snapshot_is_kept() {
    let follower = Follower::new();
    let raft = follower.start(Journal::default()).await;
    let mut leader = Leader::new(&follower, 3).await;
    leader.append(LogId::ZERO, 100, 10).await;
    raft.wait_applied(LogIndex(10)).await.unwrap();
    let state = state(LogId::new(3, 50), 50).await;
    assert_eq!(leader.install(&state).await, installed(50));
    raft.wait_applied(LogIndex(50)).await.unwrap();
    assert_eq!(raft.last_index(), LogIndex(100));
    assert_eq!(follower.bounds().await, Some((1, 100)));
    raft.shutdown().await;
}

/// A journal whose every batch waits for a word on a thread of its own.
struct Slow {
    journal: Journal,
    go: mpsc::Receiver<()>,
}

impl Fsm for Slow {
    type Response = u64;

    fn apply(&mut self, entry: &Entry) -> u64 {
        let _ = self.go.recv();
        self.journal.apply(entry)
    }

    fn is_blocking(&self) -> bool {
        true
    }

    async fn restore(&mut self, reader: SnapshotReader) -> Result<(), FsmError> {
        self.journal.restore(reader).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_comes_while_entries_are_applied_takes_their_place() {
    for log_cache_bytes in [0, 16 << 20] {
        let follower = Follower::new();
        let journal = Journal::default();
        let (go, wait) = mpsc::channel();
        let configure: fn(Config) -> Config = if log_cache_bytes == 0 {
            |config| {
                config.with(|it| {
                    it.max_apply_batch = 1;
                    it.log_cache_bytes = 0;
                })
            }
        } else {
            |config| config.with(|it| it.max_apply_batch = 1)
        };
        let slow = Slow { journal: journal.clone(), go: wait };
        let raft = follower.try_start(slow, configure).await.unwrap();
        let mut leader = Leader::new(&follower, 3).await;
        leader.append(LogId::ZERO, 20, 20).await;
        go.send(()).unwrap();
        raft.wait_applied(LogIndex(1)).await.unwrap();
        let mut new = Leader::named(&follower, "c", 5).await;
        let state = state(LogId::new(4, 50), 40).await;
        assert_eq!(new.install(&state).await, installed(50));
        new.append(state.last, 53, 53).await;
        for _ in 0..4 {
            go.send(()).unwrap();
        }
        raft.wait_applied(LogIndex(53)).await.unwrap();
        assert_eq!(journal.commands().len(), 43, "nothing is applied on the way to the snapshot");
        raft.shutdown().await;
    }
}

/// Refuses every snapshot.
struct Picky;

impl Fsm for Picky {
    type Response = ();

    fn apply(&mut self, _: &Entry) {}

    async fn restore(&mut self, mut reader: SnapshotReader) -> Result<(), FsmError> {
        let first = reader.read_u8().await?;
        Err(format!("it begins with {first}").into())
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_cannot_be_restored_ends_the_node_and_says_which() {
    let follower = Follower::new();
    let raft = follower.start(Picky).await;
    let mut leader = Leader::new(&follower, 3).await;
    let state = State { last: LogId::new(2, 50), bytes: vec![7; 10] };
    assert_eq!(leader.ask_part(&state, 0, 5).await, received(5));
    leader.send(Message::InstallSnapshot(leader.piece(&state, 5, 10))).await;
    let wait = raft.wait_applied(LogIndex(50)).await;
    let Err(Fatal::Restore { last, reason }) = wait else { panic!("{wait:?}") };
    assert_eq!(last, state.last);
    assert!(reason.contains("2-50-1") && reason.contains("it begins with 7"), "{reason}");
    assert!(matches!(raft.shutdown().await, Fatal::Restore { .. }));
    // The snapshot is there all the same, for a state machine that can restore it.
    let raft = follower.start(Blank).await;
    assert_eq!(raft.applied_index(), LogIndex(50));
    raft.shutdown().await;
}

/// Never comes to an end with a snapshot.
struct Endless;

impl Fsm for Endless {
    type Response = ();

    fn apply(&mut self, _: &Entry) {}

    async fn restore(&mut self, _: SnapshotReader) -> Result<(), FsmError> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_a_restore() {
    let follower = Follower::new();
    let raft = follower.start(Endless).await;
    let mut leader = Leader::new(&follower, 3).await;
    let state = State { last: LogId::new(2, 50), bytes: vec![7; 10] };
    assert_eq!(leader.install(&state).await, installed(50), "it is durable");
    settle().await;
    assert_eq!(raft.applied_index(), LogIndex::ZERO);
    let ended = timeout(Duration::from_secs(60), raft.shutdown()).await;
    assert!(matches!(ended, Ok(Fatal::Shutdown)), "{ended:?}");
    let raft = follower.start(Blank).await;
    assert_eq!(raft.applied_index(), LogIndex(50));
    raft.shutdown().await;
}

/// Restores on another thread, a byte for each time that it is told to go on.
struct Thorough {
    go: mpsc::Receiver<()>,
    bytes_read: Arc<AtomicUsize>,
}

impl Fsm for Thorough {
    type Response = ();

    fn apply(&mut self, _: &Entry) {}

    fn is_blocking(&self) -> bool {
        true
    }

    async fn restore(&mut self, mut reader: SnapshotReader) -> Result<(), FsmError> {
        while self.go.recv().is_ok() {
            reader.read_u8().await?;
            self.bytes_read.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_restore_on_another_thread_ends_when_it_reads_on() {
    let follower = Follower::new();
    let (go, wait) = mpsc::channel();
    let bytes_read = Arc::new(AtomicUsize::new(0));
    let raft = follower.start(Thorough { go: wait, bytes_read: Arc::clone(&bytes_read) }).await;
    let mut leader = Leader::new(&follower, 3).await;
    let state = State { last: LogId::new(2, 50), bytes: vec![7; 10] };
    assert_eq!(leader.install(&state).await, installed(50));
    go.send(()).unwrap();
    while bytes_read.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let mut ending = std::pin::pin!(raft.shutdown());
    assert!(timeout(Duration::ZERO, &mut ending).await.is_err());
    for _ in 0..9 {
        // The state machine may be gone.
        let _ = go.send(());
    }
    let ended = ending.await;
    assert!(matches!(ended, Fatal::Shutdown), "{ended:?}");
    assert_eq!(bytes_read.load(Ordering::SeqCst), 1);
}

/// A journal whose snapshots are written when they are told to.
struct Hanging {
    journal: Journal,
    go: Arc<Notify>,
}

impl Fsm for Hanging {
    type Response = u64;

    fn apply(&mut self, entry: &Entry) -> u64 {
        self.journal.apply(entry)
    }

    fn snapshot(&mut self) -> Result<Box<dyn FsmSnapshot>, FsmError> {
        Ok(Box::new(HangingView { view: self.journal.snapshot()?, go: Arc::clone(&self.go) }))
    }

    async fn restore(&mut self, reader: SnapshotReader) -> Result<(), FsmError> {
        self.journal.restore(reader).await
    }
}

struct HangingView {
    view: Box<dyn FsmSnapshot>,
    go: Arc<Notify>,
}

#[async_trait]
impl FsmSnapshot for HangingView {
    async fn persist(
        self: Box<Self>,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), FsmError> {
        self.go.notified().await;
        self.view.persist(sink).await
    }
}

#[tokio::test(start_paused = true)]
async fn an_own_snapshot_that_is_late_is_thrown_away() {
    let follower = Follower::new();
    let (journal, go) = (Journal::default(), Arc::new(Notify::new()));
    let raft = follower.start(Hanging { journal: journal.clone(), go: Arc::clone(&go) }).await;
    let mut leader = Leader::new(&follower, 3).await;
    leader.append(LogId::ZERO, 5, 5).await;
    raft.wait_applied(LogIndex(5)).await.unwrap();
    let taking = tokio::spawn({
        let raft = raft.clone();
        async move { raft.snapshot().await }
    });
    settle().await;
    let state = state(LogId::new(3, 50), 40).await;
    assert_eq!(leader.install(&state).await, installed(50), "one does not wait for the other");
    raft.wait_applied(LogIndex(50)).await.unwrap();
    go.notify_one();
    let error = taking.await.unwrap().unwrap_err();
    assert!(matches!(error, SnapshotError::Overtaken { last } if last == state.last), "{error}");
    assert_eq!(follower.snapshots().await, [state.last]);
    assert_eq!(raft.status().await.unwrap().snapshot, state.last);
    assert!(matches!(raft.snapshot().await, Err(SnapshotError::NothingNew)));
    raft.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_hangs_holds_up_neither_heartbeats_nor_commands() {
    let follower = Follower::new();
    let (journal, go) = (Journal::default(), Arc::new(Notify::new()));
    let raft = follower.start(Hanging { journal: journal.clone(), go }).await;
    let mut leader = Leader::new(&follower, 3).await;
    leader.append(LogId::ZERO, 5, 5).await;
    raft.wait_applied(LogIndex(5)).await.unwrap();
    let taking = tokio::spawn({
        let raft = raft.clone();
        async move { raft.snapshot().await }
    });
    for number in 6..100 {
        leader.append(LogId::new(3, number - 1), number, number).await;
        let heartbeat = HeartbeatRequest {
            term: Term(3),
            round: number,
            commit_index: LogIndex(0),
            promised: None,
        };
        leader.send(Message::Heartbeat(heartbeat)).await;
        loop {
            let envelope = leader.received.recv().await.unwrap();
            if matches!(envelope.message, Message::HeartbeatReply(reply) if reply.round == number) {
                break;
            }
        }
        raft.wait_applied(LogIndex(number)).await.unwrap();
    }
    assert_eq!((raft.role(), journal.commands().len()), (Role::Follower, 99));
    raft.shutdown().await;
    assert!(matches!(taking.await.unwrap(), Err(SnapshotError::Stopped(Fatal::Shutdown))));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_at_any_point_of_a_transfer_answers_everybody() {
    let state = state(LogId::new(3, 50), 40).await;
    let size = state.bytes.len();
    for (stuck, pieces) in
        [false, true].into_iter().flat_map(|stuck| (0..5).map(move |n| (stuck, n)))
    {
        let follower = Follower::new();
        let go = Arc::new(Notify::new());
        let raft = follower.start(Hanging { journal: Journal::default(), go }).await;
        let mut leader = Leader::new(&follower, 3).await;
        leader.append(LogId::ZERO, 5, 5).await;
        raft.wait_applied(LogIndex(5)).await.unwrap();
        if stuck {
            follower.snapshots.disk().pause_writes();
        }
        let calls = (0..3).map(|_| {
            let raft = raft.clone();
            tokio::spawn(async move { raft.snapshot().await })
        });
        let calls: Vec<_> = calls.collect();
        for number in 0..pieces {
            let (from, to) = (size * number / 4, size * (number + 1) / 4);
            leader.send(Message::InstallSnapshot(leader.piece(&state, from, to))).await;
        }
        if pieces % 2 == 0 {
            settle().await;
        }
        let ended = timeout(Duration::from_secs(60), raft.shutdown()).await;
        assert!(matches!(ended, Ok(Fatal::Shutdown)), "{stuck} {pieces}: {ended:?}");
        for call in calls {
            call.await.unwrap().unwrap_err();
        }
        follower.snapshots.disk().resume_writes();
        let raft = follower.start(Journal::default()).await;
        assert!(LogIndex(5) <= raft.last_index());
        raft.shutdown().await;
    }
}

/// A snapshot is durable before the log is reset for it, and a crash may come between.
#[tokio::test(start_paused = true)]
async fn a_crash_between_the_snapshot_and_the_reset_is_made_up_for() {
    for last in [LogId::new(4, 50), LogId::new(4, 500)] {
        let follower = Follower::new();
        let raft = follower.start(Journal::default()).await;
        let mut leader = Leader::new(&follower, 3).await;
        leader.append(LogId::ZERO, 100, 10).await;
        raft.wait_applied(LogIndex(10)).await.unwrap();
        raft.shutdown().await;
        follower.finish_snapshot(&state(last, 40).await).await;

        let journal = Journal::default();
        let raft = follower.start(journal.clone()).await;
        assert_eq!((raft.applied_index(), raft.last_index()), (last.index, last.index));
        assert_eq!(raft.term(), Term(4), "a vote in an older term would be one too many");
        assert_eq!(follower.bounds().await, None);
        assert_eq!(journal.commands().len(), 40);
        let mut leader = Leader::named(&follower, "c", 5).await;
        leader.append(last, last.index.0 + 3, last.index.0 + 3).await;
        raft.wait_applied(last.index.plus(3)).await.unwrap();
        raft.shutdown().await;
    }
}

/// A restore finished its snapshot, and before the leader adopted it the leadership was lost, and
/// then the process. The next leader went on, and what it committed must not give way to a state that
/// this cluster never had.
#[tokio::test(start_paused = true)]
async fn a_snapshot_that_was_never_adopted_is_void_once_a_later_leader_has_gone_on() {
    for last in [LogId::new(4, 11), LogId::new(4, 500)] {
        let follower = Follower::new();
        let raft = follower.start(Journal::default()).await;
        let mut leader = Leader::new(&follower, 3).await;
        leader.append(LogId::ZERO, 10, 10).await;
        let mut next = Leader::named(&follower, "c", 5).await;
        next.append(LogId::new(3, 10), 12, 12).await;
        raft.wait_applied(LogIndex(12)).await.unwrap();
        raft.shutdown().await;
        follower.finish_snapshot(&state(last, 40).await).await;

        let journal = Journal::default();
        let raft = follower.start(journal.clone()).await;
        assert_eq!((raft.last_index(), raft.term()), (LogIndex(12), Term(5)));
        assert_eq!(follower.snapshots().await, []);
        next.append(LogId::new(5, 12), 13, 13).await;
        raft.wait_applied(LogIndex(13)).await.unwrap();
        assert_eq!(follower.bounds().await, Some((1, 13)));
        assert_eq!(journal.commands().len(), 13);
        raft.shutdown().await;
    }
}

/// A snapshot of a later term than the one saved takes the log's place at a start that is cut short. The
/// next start must still see that the term is to be raised.
#[tokio::test(start_paused = true)]
async fn a_start_that_is_cut_short_while_a_snapshot_takes_the_place_of_the_log_is_finished_by_the_next()
 {
    for is_log_cut in [false, true] {
        let follower = Follower::new();
        let raft = follower.start(Journal::default()).await;
        let mut leader = Leader::new(&follower, 3).await;
        leader.append(LogId::ZERO, 10, 10).await;
        raft.wait_applied(LogIndex(10)).await.unwrap();
        raft.shutdown().await;
        follower.finish_snapshot(&state(LogId::new(5, 50), 40).await).await;

        let disk = if is_log_cut { follower.log.disk() } else { follower.stable.disk() };
        disk.fail_writes_after(0);
        let cut = follower.try_start(Journal::default(), |config| config).await;
        assert!(cut.is_err(), "a write was cut");
        disk.heal();
        let raft = follower.start(Journal::default()).await;
        assert_eq!((raft.last_index(), raft.term()), (LogIndex(50), Term(5)));
        assert_eq!(follower.bounds().await, None);
        raft.shutdown().await;
    }
}

/// The same restore, adopted: the leader had dropped its log for it when the others went on without.
#[tokio::test(start_paused = true)]
async fn a_server_that_the_cluster_has_gone_on_without_says_what_to_do() {
    let follower = Follower::new();
    let raft = follower.start(Journal::default()).await;
    let mut leader = Leader::new(&follower, 3).await;
    let state = state(LogId::new(3, 50), 40).await;
    assert_eq!(leader.install(&state).await, installed(50));
    raft.wait_applied(LogIndex(50)).await.unwrap();
    let mut next = Leader::named(&follower, "c", 5).await;
    next.append(LogId::new(2, 49), 51, 51).await;
    let fatal = raft.wait_applied(LogIndex(51)).await.unwrap_err();
    let Fatal::Diverged { snapshot, entry } = fatal else { panic!("{fatal:?}") };
    assert_eq!((snapshot, entry), (LogId::new(3, 50), LogId::new(5, 50)));
    let text = raft.shutdown().await.to_string();
    assert!(text.contains("remove this server's data and let it rejoin"), "{text}");
}

/// Two of three disks are older copies: what their leader has contradicts what is committed here.
#[tokio::test(start_paused = true)]
async fn a_server_that_alone_has_what_is_committed_says_so_and_keeps_it() {
    let follower = Follower::new();
    let raft = follower.start(Journal::default()).await;
    let mut leader = Leader::new(&follower, 3).await;
    leader.append(LogId::ZERO, 10, 10).await;
    raft.wait_applied(LogIndex(10)).await.unwrap();
    let mut next = Leader::named(&follower, "c", 5).await;
    next.append(LogId::new(3, 4), 6, 6).await;
    let fatal = raft.ended().await;
    let Fatal::LostByMajority { leader, entry, committed } = &fatal else { panic!("{fatal:?}") };
    assert_eq!(leader.as_str(), "c");
    assert_eq!((*entry, *committed), (LogId::new(5, 5), LogId::new(3, 5)));
    let text = fatal.to_string();
    for part in
        ["c, has entry 5@5", "5@3 is committed", "do not empty this server", "recover_cluster"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(follower.bounds().await, Some((1, 10)));
}

/// A snapshot is whole only after its leader was deposed. It counts for nothing, and is removed when
/// another one comes: in a store that keeps few it would take the place of one that counts.
#[tokio::test(start_paused = true)]
async fn a_snapshot_that_is_whole_too_late_is_removed() {
    let follower = Follower::new();
    let raft = follower.start(Journal::default()).await;
    let mut leader = Leader::new(&follower, 3).await;
    leader.append(LogId::ZERO, 10, 10).await;
    let state = state(LogId::new(3, 50), 40).await;
    let size = state.bytes.len();
    assert_eq!(leader.ask_part(&state, 0, size / 2).await, received(size / 2));
    follower.snapshots.disk().pause_writes();
    leader.send(Message::InstallSnapshot(leader.piece(&state, size / 2, size))).await;
    settle().await;
    let mut next = Leader::named(&follower, "c", 5).await;
    next.append(LogId::new(3, 10), 12, 12).await;
    raft.wait_applied(LogIndex(12)).await.unwrap();
    follower.snapshots.disk().resume_writes();
    settle().await;
    assert_eq!(follower.snapshots().await.len(), 1);
    assert_eq!(
        (raft.last_index(), raft.status().await.unwrap().snapshot),
        (LogIndex(12), LogId::ZERO)
    );
    // The next leader has one of its own.
    let state = crate::install::state(LogId::new(5, 50), 40).await;
    assert_eq!(next.install(&state).await, installed(50));
    raft.wait_applied(LogIndex(50)).await.unwrap();
    assert_eq!(follower.snapshots().await, [state.last]);
    raft.shutdown().await;
}

/// Remembers on its own what it has applied, as one with a disk of its own does.
#[derive(Clone, Default)]
struct Keeper(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    applied: Vec<LogIndex>,
    restores: usize,
    configurations: Vec<LogIndex>,
    last: LogIndex,
}

impl Fsm for Keeper {
    type Response = ();

    fn apply(&mut self, entry: &Entry) {
        let mut kept = self.0.lock();
        assert!(kept.last < entry.index, "law 5: {} came again", entry.index);
        kept.last = entry.index;
        kept.applied.push(entry.index);
    }

    fn configuration_changed(&mut self, configuration: &IndexedConfiguration) {
        self.0.lock().configurations.push(configuration.index);
    }

    fn last_applied(&self) -> LogIndex {
        self.0.lock().last
    }

    fn snapshot(&mut self) -> Result<Box<dyn FsmSnapshot>, FsmError> {
        Ok(Box::new(KeptView(self.0.lock().last)))
    }

    async fn restore(&mut self, mut reader: SnapshotReader) -> Result<(), FsmError> {
        let last = LogIndex(reader.read_u64_le().await?);
        let mut kept = self.0.lock();
        kept.restores += 1;
        kept.last = last;
        kept.applied.clear();
        Ok(())
    }
}

struct KeptView(LogIndex);

#[async_trait]
impl FsmSnapshot for KeptView {
    async fn persist(
        self: Box<Self>,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), FsmError> {
        Ok(tokio::io::AsyncWriteExt::write_u64_le(sink, self.0.0).await?)
    }
}

fn keeps(config: Config) -> Config {
    config.with(|it| {
        it.restore_on_start = false;
        it.trailing_logs = 100;
    })
}

#[tokio::test(start_paused = true)]
async fn a_state_machine_that_keeps_itself_is_handed_nothing_twice() {
    let follower = Follower::new();
    let keeper = Keeper::default();
    let raft = follower.try_start(keeper.clone(), keeps).await.unwrap();
    let mut leader = Leader::new(&follower, 3).await;
    let mut prev = LogId::ZERO;
    for end in (1000..=20_000).step_by(1000) {
        leader.append(prev, end, end).await;
        prev = LogId::new(3, end);
        raft.wait_applied(prev.index).await.unwrap();
        if end == 5000 {
            raft.snapshot().await.unwrap();
        }
    }
    raft.shutdown().await;
    let raft = follower.try_start(keeper.clone(), keeps).await.unwrap();
    assert_eq!(raft.applied_index(), LogIndex(20_000));
    assert_eq!(raft.status().await.unwrap().snapshot, LogId::new(3, 5000));
    leader.append(prev, 20_010, 20_010).await;
    raft.wait_applied(LogIndex(20_010)).await.unwrap();
    raft.shutdown().await;
    let kept = keeper.0.lock();
    assert_eq!((kept.restores, kept.applied.len()), (0, 20_010));
}

#[tokio::test(start_paused = true)]
async fn a_state_machine_that_is_behind_the_snapshot_has_it_restored_after_all() {
    let follower = Follower::new();
    let keeper = Keeper::default();
    let raft = follower.try_start(keeper.clone(), keeps).await.unwrap();
    let mut leader = Leader::new(&follower, 3).await;
    leader.append(LogId::ZERO, 500, 500).await;
    raft.wait_applied(LogIndex(500)).await.unwrap();
    raft.snapshot().await.unwrap();
    leader.append(LogId::new(3, 500), 510, 510).await;
    raft.wait_applied(LogIndex(510)).await.unwrap();
    raft.shutdown().await;
    keeper.0.lock().last = LogIndex(450);
    let raft = follower.try_start(keeper.clone(), keeps).await.unwrap();
    assert_eq!(keeper.0.lock().restores, 1);
    leader.append(LogId::new(3, 510), 511, 511).await;
    raft.wait_applied(LogIndex(511)).await.unwrap();
    raft.shutdown().await;
    assert_eq!(keeper.0.lock().applied.first(), Some(&LogIndex(501)));
}

#[tokio::test(start_paused = true)]
async fn a_state_machine_that_is_ahead_of_the_log_is_refused() {
    let follower = Follower::new();
    let keeper = Keeper::default();
    let raft = follower.try_start(keeper.clone(), keeps).await.unwrap();
    let mut leader = Leader::new(&follower, 3).await;
    leader.append(LogId::ZERO, 5, 5).await;
    raft.wait_applied(LogIndex(5)).await.unwrap();
    raft.shutdown().await;
    keeper.0.lock().last = LogIndex(6);
    let error = follower.try_start(keeper.clone(), keeps).await.unwrap_err();
    let raft::StartError::AheadOfLog { applied, last } = &error else { panic!("{error}") };
    assert_eq!((*applied, *last), (LogIndex(6), LogIndex(5)));
}

#[tokio::test(start_paused = true)]
async fn configurations_that_a_state_machine_has_kept_count() {
    let follower = Follower::new();
    let keeper = Keeper::default();
    let raft = follower.try_start(keeper.clone(), keeps).await.unwrap();
    let mut leader = Leader::new(&follower, 3).await;
    let members = configuration();
    let entry = |index, payload| Entry { term: Term(3), index: LogIndex(index), payload };
    let entries = vec![
        entry(1, EntryPayload::Noop),
        entry(2, EntryPayload::Configuration(members.configuration.clone())),
        entry(3, EntryPayload::Command("x".into())),
    ];
    leader
        .send(Message::AppendEntries(AppendEntriesRequest {
            term: Term(3),
            round: 1,
            prev: LogId::ZERO,
            entries: Entries::new(entries),
            commit_index: LogIndex(3),
        }))
        .await;
    raft.wait_applied(LogIndex(3)).await.unwrap();
    raft.shutdown().await;
    let raft = follower.try_start(keeper.clone(), keeps).await.unwrap();
    assert_eq!(raft.configuration(), members);
    let snapshot = raft.snapshot().await.unwrap();
    assert_eq!(snapshot.meta.configuration, members);
    assert_eq!(keeper.0.lock().configurations, [LogIndex(2)], "told once");
    leader.append(LogId::new(3, 3), 4, 4).await;
    raft.wait_applied(LogIndex(4)).await.unwrap();
    raft.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn bytes_that_end_too_soon_are_an_error_of_the_restore() {
    let mut journal = Journal::default();
    let state = state(LogId::new(1, 5), 5).await;
    let cut = Cursor::new(state.bytes[..state.bytes.len() - 1].to_vec());
    journal.restore(Box::new(cut)).await.unwrap_err();
}
