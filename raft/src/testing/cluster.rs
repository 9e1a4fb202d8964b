//! A cluster in one process, for tests of programs that use the library, and for its own.

use std::{collections::BTreeMap, sync::Arc};

use tokio::task::JoinSet;

use super::Journal;
use crate::{
    api::Raft,
    config::Config,
    configuration::{Configuration, Server, ServerId},
    error::StartError,
    inmem::{
        InmemDisk, InmemLogStore, InmemNetwork, InmemSnapshotStore, InmemStableStore,
        InmemTransport,
    },
    position::LogIndex,
    status::Role,
};

/// Servers on in-memory parts, each with a [`Journal`] as its state machine. The address of a
/// server is its id; each has one disk under all its stores, which outlives it.
///
/// Meant for a paused clock (`#[tokio::test(start_paused = true)]`): then nothing here takes time,
/// and what waits in vain is found out at once.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let mut cluster = raft::testing::Cluster::new(["a", "b", "c"]).await;
/// let leader = cluster.leader().await;
/// leader.apply("x").await.unwrap();
/// cluster.converge().await;
/// assert_eq!(cluster.journal("b").commands(), ["x"]);
/// # }
/// ```
///
/// # Panics
/// Its methods panic when they are given an unknown id, or when the cluster does not do what they
/// wait for: it is for tests.
#[derive(Debug)]
pub struct Cluster {
    network: InmemNetwork,
    servers: BTreeMap<ServerId, Member>,
    configure: fn(Config) -> Config,
    keeps_incarnations: bool,
    /// How many disks were ever made: the next one's seed.
    disks: u64,
}

#[derive(Debug)]
struct Member {
    /// Its own: servers with equal seeds campaign at the same moments for ever.
    seed: u64,
    disk: InmemDisk,
    log: InmemLogStore,
    stable: InmemStableStore,
    snapshots: InmemSnapshotStore,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    raft: Raft<Journal>,
    journal: Journal,
    /// Held so that a test may look at it.
    transport: Arc<InmemTransport>,
}

#[expect(clippy::missing_panics_doc, reason = "said once, on the type")]
impl Cluster {
    /// A cluster of these voters, with default settings and one seed per server. The first one is
    /// bootstrapped with all of them.
    pub async fn new<'a>(voters: impl IntoIterator<Item = &'a str>) -> Self {
        Self::with_config(voters, |config| config).await
    }

    /// The same with settings changed by `configure`.
    pub async fn with_config<'a>(
        voters: impl IntoIterator<Item = &'a str>,
        configure: fn(Config) -> Config,
    ) -> Self {
        Self::with_disks(voters, configure, false).await
    }

    /// The same with stores that keep an incarnation, so that a server whose disk was
    /// [wiped](Self::wipe) or [swapped](Self::swap_disks) is noticed. The leader writes one entry
    /// more: the configuration with the incarnations.
    pub async fn with_incarnations<'a>(
        voters: impl IntoIterator<Item = &'a str>,
        configure: fn(Config) -> Config,
    ) -> Self {
        Self::with_disks(voters, configure, true).await
    }

    async fn with_disks<'a>(
        voters: impl IntoIterator<Item = &'a str>,
        configure: fn(Config) -> Config,
        keeps_incarnations: bool,
    ) -> Self {
        let (network, servers) = (InmemNetwork::new(), BTreeMap::new());
        let mut cluster = Self { network, servers, configure, keeps_incarnations, disks: 0 };
        let voters: Vec<&str> = voters.into_iter().collect();
        for id in &voters {
            cluster.start(id).await;
        }
        let configuration = Configuration::new(voters.iter().map(|id| Server::voter(*id, *id)));
        if let Some(first) = voters.first() {
            let bootstrapped = cluster.raft(first).bootstrap_cluster(configuration).await;
            assert!(bootstrapped.is_ok(), "cannot bootstrap: {bootstrapped:?}");
        }
        cluster
    }

    /// Changes the settings of every server that is started from now on.
    pub fn reconfigure(&mut self, configure: fn(Config) -> Config) {
        self.configure = configure;
    }

    /// Starts a server, on what its disk holds if it ran before, on an empty disk if not. A new
    /// server belongs to no configuration until the leader adds it.
    pub async fn start(&mut self, id: &str) -> Raft<Journal> {
        match self.try_start(id).await {
            Ok(raft) => raft,
            Err(error) => panic!("cannot start {id}: {error}"),
        }
    }

    /// The same, if it can start.
    ///
    /// # Errors
    /// What [`Raft::new`] returned.
    pub async fn try_start(&mut self, id: &str) -> Result<Raft<Journal>, StartError> {
        let (disks, keeps) = (&mut self.disks, self.keeps_incarnations);
        let member = self.servers.entry(id.into()).or_insert_with(|| Member::new(disks, keeps));
        assert!(member.running.is_none(), "{id} runs already");
        let journal = Journal::default();
        let transport = self.network.transport(id);
        let config = Config::new(id).with_seed(member.seed);
        let raft = Raft::new(
            (self.configure)(config),
            journal.clone(),
            member.log.clone(),
            member.stable.clone(),
            Arc::new(member.snapshots.clone()),
            Arc::clone(&transport) as _,
        )
        .await?;
        member.running = Some(Running { raft: raft.clone(), journal, transport });
        Ok(raft)
    }

    /// Stops a server and keeps its disk.
    pub async fn stop(&mut self, id: &str) {
        let running = self.servers.get_mut(&ServerId::new(id)).and_then(|m| m.running.take());
        match running {
            Some(Running { raft, .. }) => _ = raft.shutdown().await,
            None => panic!("{id} does not run"),
        }
    }

    /// Stops a server and starts it again on the same disk.
    pub async fn restart(&mut self, id: &str) -> Raft<Journal> {
        self.stop(id).await;
        self.start(id).await
    }

    /// Gives a server that does not run an empty disk in the place of its own.
    pub fn wipe(&mut self, id: &str) {
        assert!(self.member(id).running.is_none(), "{id} runs");
        let empty = Member::new(&mut self.disks, self.keeps_incarnations);
        self.servers.insert(id.into(), empty);
    }

    /// Gives each of two servers that do not run the disk of the other. With an identity on it, none starts
    /// from the other's: this is for putting a disk aside.
    pub fn swap_disks(&mut self, one: &str, other: &str) {
        for id in [one, other] {
            assert!(self.member(id).running.is_none(), "{id} runs");
        }
        let (one, other) = (ServerId::new(one), ServerId::new(other));
        if let Some(first) = self.servers.remove(&one)
            && let Some(second) = self.servers.insert(other, first)
        {
            self.servers.insert(one, second);
        }
    }

    /// Stops every server.
    pub async fn shutdown(&mut self) {
        let mut stopping = JoinSet::new();
        for raft in self.rafts() {
            stopping.spawn(async move { raft.shutdown().await });
        }
        stopping.join_all().await;
        self.servers.values_mut().for_each(|member| member.running = None);
    }

    /// The handle of a running server.
    #[must_use]
    pub fn raft(&self, id: &str) -> Raft<Journal> {
        self.running(id).raft.clone()
    }

    /// What a running server has applied.
    #[must_use]
    pub fn journal(&self, id: &str) -> Journal {
        self.running(id).journal.clone()
    }

    /// The transport of a running server.
    #[must_use]
    pub fn transport(&self, id: &str) -> Arc<InmemTransport> {
        Arc::clone(&self.running(id).transport)
    }

    /// The disk of a server, running or not.
    #[must_use]
    pub fn disk(&self, id: &str) -> InmemDisk {
        self.member(id).disk.clone()
    }

    /// The stores of a server, running or not.
    #[must_use]
    pub fn stores(&self, id: &str) -> (InmemLogStore, InmemStableStore, InmemSnapshotStore) {
        let Member { log, stable, snapshots, .. } = self.member(id);
        (log.clone(), stable.clone(), snapshots.clone())
    }

    /// The network between them.
    #[must_use]
    pub fn network(&self) -> &InmemNetwork {
        &self.network
    }

    /// Every running server.
    #[must_use]
    pub fn rafts(&self) -> Vec<Raft<Journal>> {
        let running = self.servers.values().filter_map(|member| member.running.as_ref());
        running.map(|running| running.raft.clone()).collect()
    }

    /// Waits until one of the running servers leads and has committed an entry of its term.
    pub async fn leader(&self) -> Raft<Journal> {
        self.leader_among(&self.rafts()).await
    }

    /// The same, where only these servers count: the others may not know yet that they are out.
    pub async fn leader_among(&self, rafts: &[Raft<Journal>]) -> Raft<Journal> {
        loop {
            // Followed before anything is looked at, so that no change is missed.
            let mut changes = JoinSet::new();
            for mut leader in rafts.iter().map(Raft::leader_changes) {
                changes.spawn(async move { leader.changed().await });
            }
            let leading = rafts.iter().filter(|raft| raft.role() == Role::Leader);
            if let Some(leader) = leading.max_by_key(|raft| raft.term())
                && leader.barrier().await.is_ok()
            {
                return leader.clone();
            }
            assert!(rafts.iter().any(|raft| raft.fatal().is_none()), "every server has ended");
            changes.join_next().await;
        }
    }

    /// Running servers that do not lead.
    #[must_use]
    pub fn followers(&self) -> Vec<Raft<Journal>> {
        self.rafts().into_iter().filter(|raft| raft.role() != Role::Leader).collect()
    }

    /// Waits until every running server has applied what the leader had in its log, checks that all
    /// have applied the same, and returns that index.
    pub async fn converge(&self) -> LogIndex {
        let leader = self.leader().await;
        let index = leader.last_index();
        for raft in self.rafts() {
            let applied = raft.wait_applied(index).await;
            assert!(applied.is_ok(), "{} has ended: {applied:?}", raft.id());
        }
        let expected = self.journal(leader.id().as_str()).commands();
        for raft in self.rafts() {
            let commands = self.journal(raft.id().as_str()).commands();
            assert!(commands == expected, "law 5: {} applied something else", raft.id());
        }
        index
    }

    fn member(&self, id: &str) -> &Member {
        match self.servers.get(&ServerId::new(id)) {
            Some(member) => member,
            None => panic!("there is no server {id}"),
        }
    }

    fn running(&self, id: &str) -> &Running {
        match &self.member(id).running {
            Some(running) => running,
            None => panic!("{id} does not run"),
        }
    }
}

impl Member {
    fn new(disks: &mut u64, keeps_incarnation: bool) -> Self {
        let disk = InmemDisk::new();
        let stable = InmemStableStore::on(&disk);
        let seed = *disks;
        *disks += 1;
        Self {
            seed,
            log: InmemLogStore::on(&disk),
            stable: if keeps_incarnation { stable.keeping_incarnation() } else { stable },
            snapshots: InmemSnapshotStore::on(&disk),
            disk,
            running: None,
        }
    }
}
