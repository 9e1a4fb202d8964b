//! The handle: what a user calls. It checks, makes a request, and returns the future of its answer;
//! everything else happens in the tasks.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{io::AsyncRead, sync::watch};

use crate::{
    catch_up::CatchUp,
    config::Config,
    configuration::{
        Configuration, ConfigurationChange, IndexedConfiguration, ServerAddress, ServerId,
    },
    error::{
        ApplyError, BootstrapError, ConfigurationError, Fatal, Leader, ReloadError, RestoreError,
        SnapshotError, StartError, TransferError,
    },
    fsm::Fsm,
    future::{ApplyBatchFuture, ApplyFuture, BarrierFuture, Call, VerifyFuture},
    log::LogStore,
    observer::{Observation, Observer},
    position::{LogIndex, Term},
    snapshot::{Snapshot, SnapshotMeta, SnapshotStore},
    stable::StableStore,
    status::{LogMarks, Role, Status},
    tasks::{self, Change, Node, Proposed, Request, RestoreData, Shared},
    transport::Transport,
};

/// A running server of a Raft cluster.
///
/// A cheap handle: clone it freely, share it between tasks and threads. The server runs until
/// [`shutdown`](Self::shutdown) is called, the last handle is dropped, its storage fails or a task
/// panics; from then on every call and every waiting future is told why, and
/// [`fatal`](Self::fatal) says it too. Every future resolves, exactly once, whatever happens.
///
/// Commands, batches and barriers of one handle (and of one caller on several clones) take effect in
/// the order of the calls, and so do all other requests. Between the two kinds the order is that of the
/// calls too, unless the leader has no room for more entries ([`Config::max_unapplied_entries`] and the
/// settings beside it): then commands, batches and barriers wait, and everything else is taken up at
/// once. So await a command whose effect must come before a change of the configuration or a transfer.
///
/// ```
/// use std::sync::Arc;
/// use raft::{Config, Configuration, Entry, Fsm, Raft, Server, inmem};
///
/// struct Counter(u64);
///
/// impl Fsm for Counter {
///     type Response = u64;
///
///     fn apply(&mut self, entry: &Entry) -> u64 {
///         self.0 += entry.data().len() as u64;
///         self.0
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let network = inmem::InmemNetwork::new();
/// let raft = Raft::new(
///     Config::new("a"),
///     Counter(0),
///     inmem::InmemLogStore::new(),
///     inmem::InmemStableStore::new(),
///     Arc::new(inmem::InmemSnapshotStore::new()),
///     network.transport("a:1"),
/// )
/// .await?;
/// raft.bootstrap_cluster(Configuration::new([Server::voter("a", "a:1")])).await?;
/// raft.leader_changes().wait_for(Option::is_some).await?;
///
/// let applied = raft.apply("hello").await?;
/// assert_eq!(applied.response, 5);
/// raft.shutdown().await;
/// # Ok(())
/// # }
/// ```
///
/// # Metrics
/// Counted through the `metrics` facade, with the label `server`. A recorder must be installed
/// before the server is started. `docs/metrics.md` in the repository says when to look at which.
///
/// | name | type | unit | labels | meaning |
/// |---|---|---|---|---|
/// | `raft.requests` | counter | requests | `call` | calls that `run` has taken up, by kind |
/// | `raft.apply.entries` | counter | entries |  | entries applied, barriers and configurations included |
/// | `raft.apply.batch_entries` | histogram | entries |  | entries in one batch of the state machine |
/// | `raft.apply.batch_seconds` | histogram | seconds |  | how long the state machine took for one batch |
/// | `raft.propose.batch_entries` | histogram | entries |  | entries proposed together, once per turn |
/// | `raft.commit.latency_seconds` | histogram | seconds |  | from proposing to committing, once per batch |
/// | `raft.role_changes` | counter | changes | `role` | how often this server began to play a part |
/// | `raft.is_leader` | gauge | 0 or 1 |  | whether this server leads |
/// | `raft.term` | gauge | terms |  | the server's term |
/// | `raft.peers` | gauge | servers |  | other members of the configuration in force |
/// | `raft.last_contact_seconds` | gauge | seconds |  | how long ago a follower heard from its leader; 0 on a leader, absent before the first time |
/// | `raft.election.timeouts` | counter | timeouts |  | how often it gave up waiting for a leader or for votes |
/// | `raft.election.seconds` | histogram | seconds |  | from the first question for votes to leadership, by the winner |
/// | `raft.leader.lease_timeouts` | counter | timeouts |  | how often it gave up leading because no majority answered |
/// | `raft.leader.write_stalls` | counter | timeouts |  | how often it gave up leading because its disk was stuck |
/// | `raft.leader.apply_stalls` | counter | timeouts |  | how often it began to hand leadership over because its state machine was behind |
/// | `raft.wrong_disks` | gauge | servers |  | servers, this one among them, that run on another disk than the one they are known by |
/// | `raft.log.append_batches` | histogram | batches |  | batches that one write of the log merges |
/// | `raft.log.append_entries` | counter | entries |  | entries written to the log |
/// | `raft.log.write_seconds` | histogram | seconds |  | one write of log, term and vote, synced |
/// | `raft.log.compact_seconds` | histogram | seconds |  | removing what a snapshot stands for from the log |
/// | `raft.log.first_index` | gauge | index |  | the first entry still in the log |
/// | `raft.log.last_index` | gauge | index |  | the last entry in the log, durable or not |
/// | `raft.log.commit_index` | gauge | index |  | the last entry known to be committed |
/// | `raft.log.applied_index` | gauge | index |  | the last entry applied |
/// | `raft.log.oldest_age_seconds` | gauge | seconds |  | for how long the oldest entry has been in the log, at least; absent for an empty log |
/// | `raft.log.trouble` | gauge | 0 or 1 |  | whether the log will not be writable before long, as its store says |
/// | `raft.fsm.restore_seconds` | histogram | seconds |  | replacing the state by a snapshot, at the start or later |
/// | `raft.fsm.last_restore_seconds` | gauge | seconds |  | how long the newest of these took; absent before the first |
/// | `raft.fsm.view_seconds` | histogram | seconds |  | taking a view for a snapshot, during which nothing is applied |
/// | `raft.fsm.saturation` | gauge | 0 to 1 |  | share of the last second in which the state machine was at work |
/// | `raft.run.saturation` | gauge | 0 to 1 |  | share of the last second in which the task that owns consensus was at work |
/// | `raft.log.saturation` | gauge | 0 to 1 |  | share of the last second in which the log was being written |
/// | `raft.queue.length` | gauge | see meaning | `queue` | what waits: `requests`, `inbox_urgent` and `inbox_entries` (messages), `writes` not durable, `unapplied` entries committed |
/// | `raft.snapshot.take_seconds` | histogram | seconds |  | from asking for a view to a durable snapshot |
/// | `raft.snapshot.persist_seconds` | histogram | seconds |  | of that, writing the view |
/// | `raft.snapshot.persist_bytes` | counter | bytes |  | bytes of the own state written to snapshots |
/// | `raft.snapshot.send_seconds` | histogram | seconds |  | from the first piece sent to a follower to its word that all is installed |
/// | `raft.snapshot.sent_bytes` | counter | bytes |  | bytes of snapshots sent to followers, repeats included |
/// | `raft.snapshot.receive_seconds` | histogram | seconds |  | from the first piece received to a durable snapshot |
/// | `raft.snapshot.received_bytes` | counter | bytes |  | bytes of snapshots received and kept |
/// | `raft.snapshot.install` | counter | snapshots |  | snapshots from a leader restored into the state machine |
/// | `raft.snapshot.failures` | counter | snapshots |  | snapshots that could not be taken, sent or kept |
/// | `raft.messages.sent` | counter | messages | `kind` | messages given to the transport, taken or not |
/// | `raft.messages.received` | counter | messages | `kind` | messages taken from the inbox |
/// | `raft.transport.send_errors` | counter | messages |  | messages the transport refused |
/// | `raft.observer.dropped` | counter | observations |  | observations lost because an observer did not keep up |
/// | `raft.peer.lag_entries` | gauge | entries | `peer` | entries of the leader's log the peer is not known to have |
/// | `raft.peer.inflight` | gauge | messages | `peer` | messages with entries under way to the peer |
/// | `raft.peer.last_contact_seconds` | gauge | seconds | `peer` | how long ago the peer was sent the last message it has answered |
/// | `raft.peer.round_trip_seconds` | gauge | seconds | `peer` | how long its newest answer to a heartbeat took; absent before the first |
/// | `raft.peer.is_stalled` | gauge | 0 or 1 | `peer` | whether the peer answers but takes nothing of what it lacks |
/// | `raft.peer.applied_index` | gauge | index | `peer` | how far the state machine of the peer has come |
/// | `raft.peer.can_serve` | gauge | 0 or 1 | `peer` | whether the peer could answer soon if it led |
///
/// Source: hashicorp/raft `Raft`.
pub struct Raft<F: Fsm> {
    handle: Arc<Handle<F::Response>>,
}

/// What the clones of a handle share.
struct Handle<R> {
    /// Ends with the last clone, and the server with it.
    node: Node<R>,
}

impl<F: Fsm> Raft<F> {
    /// Starts a server on what its stores hold: term and vote, the newest snapshot that can be
    /// restored into `fsm`, and the log. `fsm` must be empty. An empty server waits to be
    /// bootstrapped or to be contacted by a leader.
    ///
    /// Committed entries after the snapshot are applied again: what this server had noted as
    /// committed ([`LogStore::note_commit`]) at once, the rest as soon as a leader has confirmed how
    /// far the log is committed.
    ///
    /// With [`Config::restore_on_start`] off, `fsm` is as it has kept itself, and nothing at or
    /// before its [`last_applied`](Fsm::last_applied) is handed to it; the newest snapshot is opened
    /// but not read. Only a state machine that is behind the newest snapshot has it restored after
    /// all: the entries in between may be gone.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running. [`Config`](StartError::Config): change the
    /// setting. [`Store`](StartError::Store): mend the store. [`Snapshot`](StartError::Snapshot):
    /// there are snapshots but none can be used; what the log was compacted to would be lost
    /// without one, and [`RestoreFailure`](crate::RestoreFailure) says what is to be mended. [`AheadOfLog`](StartError::AheadOfLog): the state machine does not belong to
    /// these stores. [`Transport`](StartError::Transport): free the address.
    ///
    /// # Panics
    /// When called outside a tokio runtime with a timer, or when [`Fsm::restore`] panics.
    ///
    /// # Cancel safety
    /// Dropping the future before it ends starts nothing, but the transport may be left started.
    pub async fn new<L: LogStore, S: StableStore>(
        config: Config,
        fsm: F,
        log_store: L,
        stable_store: S,
        snapshot_store: Arc<dyn SnapshotStore>,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, StartError> {
        let node =
            tasks::start(config, fsm, log_store, stable_store, snapshot_store, transport).await?;
        Ok(Self { handle: Arc::new(Handle { node }) })
    }

    /// Makes this server, which must be fresh, the first of a new cluster of these members. Resolves
    /// when the configuration is durable here; the server then campaigns.
    ///
    /// Call it on one server, or on several with the very same configuration. To bootstrap stores
    /// without starting a server there is the function [`bootstrap_cluster`](crate::bootstrap_cluster).
    ///
    /// # Errors
    /// [`BootstrapError`]; unless it is [`Stopped`](BootstrapError::Stopped), nothing was changed.
    /// [`AlreadyBootstrapped`](BootstrapError::AlreadyBootstrapped) is what every start but the
    /// first gets and is usually ignored.
    ///
    /// # Cancel safety
    /// Dropping the future cancels nothing that was accepted.
    pub async fn bootstrap_cluster(
        &self,
        configuration: Configuration,
    ) -> Result<(), BootstrapError> {
        self.handle.node.ask(|responder| Request::Bootstrap { configuration, responder }).await
    }

    /// Replicates `command` and applies it to the state machine; resolves with the state machine's
    /// response when it is applied on **this** server. Only the leader accepts commands.
    ///
    /// The request is in the queue when this returns, whether or not the future is polled, unless
    /// the queue ([`Config::apply_queue`], [`Config::apply_queue_bytes`]) is full: then the future
    /// waits for room. In front of the queue and in it, while the leader has no room for more entries,
    /// a command waits up to [`Config::enqueue_timeout`]. There is no other time limit.
    ///
    /// ```no_run
    /// # async fn example<F: raft::Fsm>(raft: raft::Raft<F>) {
    /// use raft::{ApplyError, Outcome};
    ///
    /// match raft.apply(&b"set x 1"[..]).await {
    ///     Ok(applied) => println!("applied at {}", applied.index),
    ///     Err(ApplyError::NotLeader { leader: Some(leader) }) => println!("ask {}", leader.id),
    ///     Err(error) if error.outcome() == Outcome::NotApplied => println!("try again: {error}"),
    ///     Err(error) => println!("it may or may not have happened: {error}"),
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ApplyError`], whose [`outcome`](ApplyError::outcome) says whether the command may have
    /// happened.
    ///
    /// # Cancel safety
    /// Dropping the future does not cancel the command, unless it still waits for room.
    pub fn apply(&self, command: impl Into<Bytes>) -> ApplyFuture<F::Response> {
        self.apply_with_timeout(command, self.enqueue_timeout())
    }

    /// [`apply`](Self::apply) with another limit for the wait until the command is taken up.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    ///
    /// # Cancel safety
    /// As [`apply`](Self::apply).
    pub fn apply_with_timeout(
        &self,
        command: impl Into<Bytes>,
        enqueue_timeout: Duration,
    ) -> ApplyFuture<F::Response> {
        let command = command.into();
        ApplyFuture::new(match self.check(&command) {
            Ok(()) => self
                .handle
                .node
                .propose(enqueue_timeout, |responder| Proposed::Apply { command, responder }),
            Err(error) => self.refused(error),
        })
    }

    /// Replicates several commands and applies them in this order, with nothing in between;
    /// resolves when the last one is applied on this server. Cheaper than as many calls of
    /// [`apply`](Self::apply). No commands: resolves at once.
    ///
    /// They are accepted or refused together. If leadership is lost while they are in flight, a
    /// first part of them may be applied and the rest not.
    ///
    /// # Errors
    /// As [`apply`](Self::apply), for all of them.
    ///
    /// # Cancel safety
    /// As [`apply`](Self::apply).
    pub fn apply_batch(&self, commands: Vec<Bytes>) -> ApplyBatchFuture<F::Response> {
        let end = &self.shared().end;
        ApplyBatchFuture::new(if commands.is_empty() {
            Call::ready(Arc::clone(end), Ok(Vec::new()))
        } else if let Some(error) = commands.iter().find_map(|c| self.check(c).err()) {
            self.refused(error)
        } else {
            let timeout = self.enqueue_timeout();
            self.handle.node.propose(timeout, |responder| Proposed::Batch { commands, responder })
        })
    }

    /// Resolves when everything accepted before this call is applied on this server, which must
    /// lead, with the index of the entry that stands for the barrier.
    ///
    /// A new leader calls it before it serves reads from its state machine.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    ///
    /// # Cancel safety
    /// As [`apply`](Self::apply).
    pub fn barrier(&self) -> BarrierFuture {
        let timeout = self.enqueue_timeout();
        BarrierFuture::new(
            self.handle.node.propose(timeout, |responder| Proposed::Barrier { responder }),
        )
    }

    /// Asks a majority whether this server still leads; resolves when they have confirmed it with
    /// messages sent after this call. Nothing is written. Calls made at the same time share one
    /// round of messages.
    ///
    /// The index returned is a *read index*: once it is applied here
    /// ([`wait_applied`](Self::wait_applied)), a read of the local state machine is linearizable. It is
    /// committed, so that it will be applied here whoever leads by then: a leader that has not committed
    /// anything in its term yet answers when it has.
    ///
    /// # Errors
    /// [`VerifyError`](crate::VerifyError): do not answer the read from here.
    ///
    /// # Cancel safety
    /// Dropping the future forgets the question.
    pub fn verify_leader(&self) -> VerifyFuture {
        let timeout = self.enqueue_timeout();
        VerifyFuture::new(self.handle.node.call(timeout, |responder| Request::Verify { responder }))
    }

    /// Waits until the entry at `index`, and so everything before it, is applied on this server.
    /// Returns at once if it is. Works in every role. For an index that is committed, as that of
    /// [`verify_leader`](Self::verify_leader) is, the wait has an end; for any other it may have none.
    ///
    /// # Errors
    /// [`Fatal`] when the node ends first.
    ///
    /// # Cancel safety
    /// Dropping the future has no effect.
    pub async fn wait_applied(&self, index: LogIndex) -> Result<(), Fatal> {
        self.shared().wait_applied(index).await
    }

    /// Adds a voter, makes a nonvoter a voter, or changes a voter's address. Resolves with the index
    /// of the new configuration when that is committed and has passed this server's state machine.
    ///
    /// A new server is first added as a nonvoter, and made a voter when it has caught up
    /// ([`Config::catch_up_lag`], [`Config::catch_up_timeout`]), so that the cluster never depends
    /// on a server that has nothing yet; its progress shows in [`status`](Self::status). With
    /// [`Config::add_voters_at_once`] there is one change only, as in the model. Each new
    /// configuration counts from the moment it is in the leader's log.
    ///
    /// With `prev_index` the change happens only if the latest configuration is still the one of
    /// that index ([`configuration`](Self::configuration)). It may also have moved by itself: a
    /// leader records there which disks its members run on
    /// ([`Server::incarnation`](crate::Server::incarnation)), soon after it has first heard from
    /// each. So read it again and decide anew after
    /// [`StaleIndex`](ConfigurationError::StaleIndex), and try again after
    /// [`ChangeInProgress`](ConfigurationError::ChangeInProgress).
    ///
    /// # Errors
    /// [`ConfigurationError`]: nothing was changed, unless it is
    /// [`LeadershipLost`](ConfigurationError::LeadershipLost) or
    /// [`Stopped`](ConfigurationError::Stopped), or [`TooSlow`](ConfigurationError::TooSlow) or
    /// [`Superseded`](ConfigurationError::Superseded): then a new server is a member, but not by
    /// this call a voter.
    ///
    /// # Cancel safety
    /// Dropping the future cancels nothing that was accepted, and leaves a new server that has not
    /// caught up a nonvoter.
    pub async fn add_voter(
        &self,
        id: impl Into<ServerId>,
        address: impl Into<ServerAddress>,
        prev_index: Option<LogIndex>,
    ) -> Result<LogIndex, ConfigurationError> {
        let catch_up = CatchUp::new(&self.shared().config.borrow());
        self.add_voter_slowly(id.into(), address.into(), prev_index, catch_up).await
    }

    /// Adds a server that receives the log but does not vote, or changes a member's address without
    /// touching its vote. Otherwise as [`add_voter`](Self::add_voter).
    ///
    /// # Errors
    /// As [`add_voter`](Self::add_voter).
    ///
    /// # Cancel safety
    /// As [`add_voter`](Self::add_voter).
    pub async fn add_nonvoter(
        &self,
        id: impl Into<ServerId>,
        address: impl Into<ServerAddress>,
        prev_index: Option<LogIndex>,
    ) -> Result<LogIndex, ConfigurationError> {
        let (id, address) = (id.into(), address.into());
        self.change(ConfigurationChange::AddNonvoter { id, address }, prev_index).await
    }

    /// Takes a voter's vote away; it goes on receiving the log. Otherwise as
    /// [`add_voter`](Self::add_voter).
    ///
    /// # Errors
    /// As [`add_voter`](Self::add_voter).
    ///
    /// # Cancel safety
    /// As [`add_voter`](Self::add_voter).
    pub async fn demote_voter(
        &self,
        id: impl Into<ServerId>,
        prev_index: Option<LogIndex>,
    ) -> Result<LogIndex, ConfigurationError> {
        self.change(ConfigurationChange::DemoteVoter { id: id.into() }, prev_index).await
    }

    /// Removes a member. A leader may remove itself: it leads until the change is committed, and
    /// then steps down. When the removed server learns of it, it ends with [`Fatal::Removed`], or
    /// goes on running if [`Config::shutdown_on_remove`] is off. Otherwise as
    /// [`add_voter`](Self::add_voter).
    ///
    /// # Errors
    /// As [`add_voter`](Self::add_voter).
    ///
    /// # Cancel safety
    /// As [`add_voter`](Self::add_voter).
    pub async fn remove_server(
        &self,
        id: impl Into<ServerId>,
        prev_index: Option<LogIndex>,
    ) -> Result<LogIndex, ConfigurationError> {
        self.change(ConfigurationChange::RemoveServer { id: id.into() }, prev_index).await
    }

    /// Takes back a server that has come back on another disk than the one its cluster knows it by:
    /// wiped, replaced, or restored wrongly. It shows in the server's own
    /// [`Status::wrong_disk`], and nobody listens to it until this is called. The server must run, on
    /// an **empty** disk, or on the one on which it ended with [`Fatal::RolledBack`]. Only on the leader.
    ///
    /// Removes the member and adds it again, with the same address and the same vote: it catches up
    /// first, as with [`add_voter`](Self::add_voter), and meanwhile the cluster has one voter less.
    /// Resolves with the index of the last configuration.
    ///
    /// A server that runs on the disk its cluster knows learns that it is removed, and ends
    /// ([`Fatal::Removed`]): stop a server whose disk has only lost *part* of what it had
    /// ([`Observation::PeerLostEntries`]), empty its disk and start it before this is called.
    ///
    /// # Errors
    /// [`ConfigurationError`] as of [`remove_server`](Self::remove_server) and
    /// [`add_voter`](Self::add_voter);
    /// [`LeadsItself`](ConfigurationError::LeadsItself) for this server itself. After the server was
    /// removed, an error leaves it so, or as a nonvoter that has not caught up: add it by its
    /// address.
    ///
    /// # Cancel safety
    /// Dropping the future cancels nothing that was accepted, and leaves the server as an error does.
    pub async fn rejoin_server(
        &self,
        id: impl Into<ServerId>,
    ) -> Result<LogIndex, ConfigurationError> {
        let catch_up = CatchUp::new(&self.shared().config.borrow());
        self.rejoin(id.into(), catch_up).await
    }

    /// The configuration in force on this server, committed or not. Works in every role.
    #[must_use]
    pub fn configuration(&self) -> IndexedConfiguration {
        IndexedConfiguration::clone(&self.shared().published.configuration())
    }

    /// Hands leadership over to a voter that could serve at once: one that answers, and whose state
    /// machine has applied nearly all that is committed ([`PeerStatus::can_serve`](crate::PeerStatus::can_serve)).
    /// Among several, to one that was heard from last and whose log is most up to date. Resolves when
    /// it has taken over. Commands are refused meanwhile.
    ///
    /// A leader does the same by itself when its own state machine stands still or is far behind
    /// ([`Config::apply_stall_timeout`]).
    ///
    /// # Errors
    /// [`TransferError`]. If no voter could serve it is [`NoneReady`](TransferError::NoneReady) at
    /// once, and nothing was changed. The transfer is given up after an election timeout, and this server leads
    /// on if it still can.
    ///
    /// # Cancel safety
    /// Dropping the future cancels nothing that was accepted.
    pub async fn leadership_transfer(&self) -> Result<(), TransferError> {
        self.transfer(None).await
    }

    /// Hands leadership over to this voter, whether it could serve at once or not. Otherwise as
    /// [`leadership_transfer`](Self::leadership_transfer).
    ///
    /// # Errors
    /// As [`leadership_transfer`](Self::leadership_transfer).
    ///
    /// # Cancel safety
    /// As [`leadership_transfer`](Self::leadership_transfer).
    pub async fn leadership_transfer_to_server(
        &self,
        id: impl Into<ServerId>,
    ) -> Result<(), TransferError> {
        self.transfer(Some(id.into())).await
    }

    /// Who leads, as far as this server knows. Nobody once it has ended.
    #[must_use]
    pub fn leader(&self) -> Option<Leader> {
        self.shared().published.leader()
    }

    /// Follows who leads: holds the newest value, changes only when it does. Never ends by itself
    /// while a handle is held; compare [`fatal`](Self::fatal).
    #[must_use]
    pub fn leader_changes(&self) -> watch::Receiver<Option<Leader>> {
        self.shared().published.leader_changes()
    }

    /// This server.
    #[must_use]
    pub fn id(&self) -> &ServerId {
        &self.shared().id
    }

    /// The part this server plays. Follower once it has ended.
    #[must_use]
    pub fn role(&self) -> Role {
        self.shared().published.role()
    }

    /// This server's term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.shared().published.term()
    }

    /// The last index in this server's log, durable or not.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        self.shared().tail.last_index()
    }

    /// The last index this server knows to be committed.
    #[must_use]
    pub fn commit_index(&self) -> LogIndex {
        self.shared().tail.commit_index()
    }

    /// The last index the state machine has really applied.
    #[must_use]
    pub fn applied_index(&self) -> LogIndex {
        self.shared().last_applied()
    }

    /// How long ago this server heard from its leader: zero on a leader, `None` if it never did.
    #[must_use]
    pub fn last_contact(&self) -> Option<Duration> {
        self.shared().last_contact()
    }

    /// How far each stage of the log has come, all at one moment.
    #[must_use]
    pub fn marks(&self) -> LogMarks {
        self.shared().tail.marks()
    }

    /// Everything the server says of itself, at one moment.
    ///
    /// # Errors
    /// [`Fatal`] when the node has ended.
    ///
    /// # Cancel safety
    /// Dropping the future has no effect.
    pub async fn status(&self) -> Result<Status, Fatal> {
        let status = self.handle.node.ask(|responder| Request::Status { responder }).await?;
        Ok(*status)
    }

    /// The settings in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.shared().config.borrow())
    }

    /// Puts other settings in force, all of them together. Resolves when they are. Start from
    /// [`config`](Self::config) and change what shall differ.
    ///
    /// They act at once, also on what is under way: a shorter
    /// [`election_timeout`](Config::election_timeout) on a server that waits for its leader, counted
    /// from the last contact; a shorter heartbeat interval or lease on a leader; a smaller window by
    /// letting what is under way drain. What is counted in calls ([`Config::enqueue_timeout`],
    /// [`Config::max_command_bytes`], the settings of [`add_voter`](Self::add_voter)) counts from
    /// the next call on, and what is counted in transfers
    /// ([`leadership_transfer`](Self::leadership_transfer), pieces of a snapshot) from the next
    /// transfer on.
    ///
    /// They concern this server only and are not kept for its next start. A cluster changes its
    /// timing server by server: for shorter timeouts the heartbeats first, on every server that may
    /// lead; for longer ones the election timeouts first.
    ///
    /// # Errors
    /// [`ReloadError`]: nothing was changed. [`Config`](ReloadError::Config) names a setting that
    /// breaks a rule, or that differs though it cannot change while the server runs.
    ///
    /// # Cancel safety
    /// Dropping the future cancels nothing that was accepted.
    pub async fn reload_config(&self, config: Config) -> Result<(), ReloadError> {
        let timeout = self.enqueue_timeout();
        let config = Box::new(config);
        self.handle.node.call(timeout, |responder| Request::Reload { config, responder }).await
    }

    /// Observes what happens on this server. Up to `capacity` observations wait to be received;
    /// what comes beyond that is dropped and counted, and never holds the server up.
    ///
    /// `filter` is called for every observation, on the server's own tasks, sometimes on several at
    /// once: it must be quick. It may use the handle, begin and end observations; a handle that it
    /// keeps keeps the server running until this observation ends. If it panics, its observation
    /// ends, and the server goes on. As long as anybody observes, every message is offered to the
    /// filters.
    pub fn observe(
        &self,
        capacity: usize,
        filter: impl Fn(&Observation) -> bool + Send + Sync + 'static,
    ) -> Observer {
        let observer = self.shared().observers.register(capacity, Box::new(filter));
        if self.shared().end.has_begun() {
            // The node may have closed its observers just before this one came.
            self.shared().observers.close();
        }
        observer
    }

    /// Writes a snapshot of the state machine to the snapshot store, while commands go on, and lets
    /// the log forget what it stands for, except for the newest
    /// [`Config::trailing_logs`] entries. Resolves when the snapshot is durable and
    /// [`status`](Self::status) shows it. Works in every role, whatever the settings say about
    /// snapshots being due. Callers who ask while one is being written share the next. What is committed
    /// but not applied yet is not waited for, only the batch under way ([`Config::max_apply_time`]).
    ///
    /// # Errors
    /// [`SnapshotError`]; the node goes on unless it is [`Stopped`](SnapshotError::Stopped).
    /// [`NothingNew`](SnapshotError::NothingNew) is no failure: the newest snapshot is as new as the
    /// state machine. Entries that are no commands (a new configuration, the first entry of a new
    /// leader) count as new.
    ///
    /// # Cancel safety
    /// Dropping the future cancels nothing that was accepted.
    pub async fn snapshot(&self) -> Result<Snapshot, SnapshotError> {
        self.handle.node.ask(|responder| Request::Snapshot { responder }).await
    }

    /// Replaces the state of the whole cluster by `reader`'s bytes, which a snapshot of this or of
    /// another cluster consists of ([`Snapshot::open`](crate::Snapshot::open)); `meta` describes
    /// them. Membership stays as it is. Only on the leader. Resolves when a majority has the new
    /// state, with an index at which this server has it.
    ///
    /// A disaster measure: what was committed since the snapshot is gone. The new state stands one
    /// index beyond both the log and `meta.last`, so indices never repeat. While the bytes are
    /// copied the leader leads on and refuses commands with
    /// [`RestoreInProgress`](ApplyError::RestoreInProgress); commands still in flight then end with
    /// [`ReplacedBySnapshot`](ApplyError::ReplacedBySnapshot). Until it resolves, this leader is
    /// ahead of its majority: if it fails first the restore may be lost, or come back with it; and if
    /// the others go on without it, it ends with [`Fatal::Diverged`](crate::Fatal::Diverged).
    ///
    /// A `reader` that stalls keeps commands refused for as long as the leadership lasts: give it a
    /// time limit of its own. An error from it ends the restore, and nothing is changed.
    ///
    /// # Errors
    /// [`RestoreError`]: nothing was changed, unless it is
    /// [`LeadershipLost`](RestoreError::LeadershipLost) or [`Stopped`](RestoreError::Stopped).
    ///
    /// # Cancel safety
    /// Dropping the future cancels nothing that was accepted.
    pub async fn restore(
        &self,
        meta: &SnapshotMeta,
        reader: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<LogIndex, RestoreError> {
        let index = meta.last.index;
        if 1 << 63 <= index.0 {
            return Err(RestoreError::Index { index });
        }
        let data =
            RestoreData { at_least: index, size_bytes: meta.size_bytes, reader: Box::new(reader) };
        let timeout = self.enqueue_timeout();
        self.handle.node.call(timeout, |responder| Request::Restore { data, responder }).await
    }

    /// Stops the server and waits until every task has ended: writes under way are finished, the
    /// batch being applied is finished ([`Config::max_apply_time`]), everything else is given up, and
    /// every waiting future is told. Returns why the server has ended, which is [`Fatal::Shutdown`]
    /// unless something else ended it before. Calling it again waits and returns the same.
    ///
    /// # Cancel safety
    /// The stop has begun when the future is polled first; dropping it only stops the waiting.
    pub async fn shutdown(&self) -> Fatal {
        self.shared().stop(Fatal::Shutdown);
        self.shared().end.completed().await
    }

    /// [`shutdown`](Self::shutdown), but a leader first hands leadership over if it can, so that the
    /// cluster is spared an election; if no other voter could serve, it simply stops. Takes an election
    /// timeout longer at most.
    ///
    /// # Cancel safety
    /// Dropping the future during the transfer leaves the server running.
    pub async fn shutdown_gracefully(&self) -> Fatal {
        if self.role() == Role::Leader
            && let Err(error) = self.leadership_transfer().await
        {
            tracing::info!(server = %self.id(), %error, "shutting down without a successor");
        }
        self.shutdown().await
    }

    /// Waits until the server has ended, for whatever reason, and every task of it with it. The place
    /// for a program to notice that a store failed or that it was removed, and to end too.
    ///
    /// # Cancel safety
    /// Dropping the future has no effect.
    pub async fn ended(&self) -> Fatal {
        self.shared().end.completed().await
    }

    /// Why the server has ended, or is about to; `None` while it runs.
    #[must_use]
    pub fn fatal(&self) -> Option<Fatal> {
        self.shared().end.fatal()
    }

    pub(crate) fn stop(&self, fatal: Fatal) {
        self.shared().stop(fatal);
    }

    fn shared(&self) -> &Shared {
        &self.handle.node.shared
    }

    fn enqueue_timeout(&self) -> Duration {
        self.shared().enqueue_timeout()
    }

    fn check(&self, command: &Bytes) -> Result<(), ApplyError> {
        let (bytes, limit) = (command.len() as u64, self.shared().max_command_bytes());
        if limit < bytes { Err(ApplyError::TooLarge { bytes, limit }) } else { Ok(()) }
    }

    fn refused<T: Send + 'static>(&self, error: ApplyError) -> Call<T, ApplyError> {
        Call::ready(Arc::clone(&self.shared().end), Err(error))
    }

    pub(crate) async fn change(
        &self,
        change: ConfigurationChange,
        prev_index: Option<LogIndex>,
    ) -> Result<LogIndex, ConfigurationError> {
        let timeout = self.enqueue_timeout();
        let request =
            |responder| Request::Change(Box::new(Change { change, prev_index, responder }));
        self.handle.node.call(timeout, request).await
    }

    async fn transfer(&self, to: Option<ServerId>) -> Result<(), TransferError> {
        let timeout = self.enqueue_timeout();
        self.handle.node.call(timeout, |responder| Request::Transfer { to, responder }).await
    }
}

impl<F: Fsm> Clone for Raft<F> {
    fn clone(&self) -> Self {
        Self { handle: Arc::clone(&self.handle) }
    }
}

impl<F: Fsm> fmt::Debug for Raft<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Raft")
            .field("id", self.id())
            .field("role", &self.role())
            .field("term", &self.term())
            .field("marks", &self.marks())
            .finish_non_exhaustive()
    }
}
