//! A network in memory: every transport of it delivers straight into the other's inbox.
//!
//! A message takes one shared lock, one look-up and one push onto the receiver's queue; there is no
//! task between the two servers. Only when a test sets a fault does a message pass the faults
//! first: the tap sees it, a cut link refuses it, a drop rule swallows it, a delay hands it to the
//! lane's own task. Once a delay was ever set, everything goes through those tasks, so that a
//! change of the delay never reorders a lane.
//!
//! Deliberately absent: duplication and reordering within a lane, which only the simulation of the
//! pure core can afford to explore.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::Instant,
};

use crate::{
    configuration::{ClusterId, Server, ServerAddress},
    error::TransportError,
    rpc::{Envelope, Message},
    transport::{Identity, Inbox, Transport},
};

/// Messages under way in one delayed lane at most; then [`Transport::send`] is refused with
/// [`TransportError::Full`] and [`Transport::send_entries`] waits.
const DELAYED_MAX: usize = 4096;

type DropFilter = Arc<dyn Fn(&ServerAddress, &ServerAddress, &Message) -> bool + Send + Sync>;
type Tap = Arc<dyn Fn(&ServerAddress, &ServerAddress, &Message) + Send + Sync>;
/// One direction between two servers: from, to.
type Link = (ServerAddress, ServerAddress);

/// The network that [`InmemTransport`]s share, and the place where a test breaks it. Cheap to
/// clone; clones are the same network.
///
/// Two kinds of trouble are told apart. A link that is *cut* (by [`disconnect`](Self::disconnect),
/// [`cut`](Self::cut) or [`partition`](Self::partition)) refuses messages with
/// [`TransportError::Unreachable`], and what is delayed on it is lost. A message that is *dropped*
/// (by [`drop_next`](Self::drop_next) or [`set_drop`](Self::set_drop)) is lost in silence: its
/// sender is told `Ok`.
///
/// ```
/// use raft::inmem::InmemNetwork;
///
/// let network = InmemNetwork::new();
/// let (a, b) = (network.transport("a"), network.transport("b"));
/// network.disconnect("b"); // b is cut off from everybody, until
/// network.connect("b");
/// # drop((a, b));
/// ```
#[derive(Clone, Default)]
pub struct InmemNetwork {
    shared: Arc<Network>,
}

#[derive(Default)]
struct Network {
    nodes: RwLock<BTreeMap<ServerAddress, Node>>,
    /// Whether a message has to look at `faults` at all.
    has_faults: AtomicBool,
    faults: Mutex<Faults>,
    started: AtomicU64,
}

/// A started transport.
struct Node {
    /// Which one: a transport removes only its own entry.
    start: u64,
    inbox: Inbox,
}

#[derive(Default)]
struct Faults {
    disconnected: BTreeSet<ServerAddress>,
    cut: BTreeSet<Link>,
    drop_next: BTreeMap<Link, u64>,
    drop: Option<DropFilter>,
    tap: Option<Tap>,
    delay: Duration,
    link_delay: BTreeMap<Link, Duration>,
    /// Set by the first delay and for ever: see the module's page.
    has_lanes: bool,
}

impl Faults {
    fn any(&self) -> bool {
        let quiet = self.disconnected.is_empty()
            && self.cut.is_empty()
            && self.drop_next.is_empty()
            && self.drop.is_none()
            && self.tap.is_none()
            && !self.has_lanes;
        !quiet
    }

    fn is_cut(&self, link: &Link) -> bool {
        let (from, to) = link;
        self.disconnected.contains(from)
            || self.disconnected.contains(to)
            || self.cut.contains(link)
    }

    fn takes_dropped(&mut self, link: &Link) -> bool {
        let Some(left) = self.drop_next.get_mut(link) else { return false };
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.drop_next.remove(link);
        }
        true
    }

    fn delay(&self, link: &Link) -> Duration {
        self.link_delay.get(link).copied().unwrap_or(self.delay)
    }
}

impl InmemNetwork {
    /// A network without servers and without faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A new transport for the server at this address. Others reach it once it is started; it
    /// stops being reachable when it is closed or dropped, and another one may then take its place.
    #[must_use]
    pub fn transport(&self, address: impl Into<ServerAddress>) -> Arc<InmemTransport> {
        Arc::new(InmemTransport {
            network: self.clone(),
            address: address.into(),
            started: OnceLock::new(),
            is_closed: AtomicBool::new(false),
            closed: Notify::new(),
            lanes: Mutex::default(),
        })
    }

    /// Cuts the server off from everybody, both ways, until [`connect`](Self::connect).
    pub fn disconnect(&self, address: impl Into<ServerAddress>) {
        let address = address.into();
        self.set(|faults| _ = faults.disconnected.insert(address));
    }

    /// Ends a [`disconnect`](Self::disconnect). Links cut one by one stay cut.
    pub fn connect(&self, address: impl Into<ServerAddress>) {
        let address = address.into();
        self.set(|faults| _ = faults.disconnected.remove(&address));
    }

    /// Cuts the link in this one direction.
    pub fn cut(&self, from: impl Into<ServerAddress>, to: impl Into<ServerAddress>) {
        let link = (from.into(), to.into());
        self.set(|faults| _ = faults.cut.insert(link));
    }

    /// Mends the link in this one direction; [`disconnect`](Self::disconnect)ed servers stay so.
    pub fn heal(&self, from: impl Into<ServerAddress>, to: impl Into<ServerAddress>) {
        let link = (from.into(), to.into());
        self.set(|faults| _ = faults.cut.remove(&link));
    }

    /// Cuts every link between servers of different groups, both ways. Links within a group, and
    /// those of servers in no group, stay as they are.
    ///
    /// ```
    /// # let network = raft::inmem::InmemNetwork::new();
    /// network.partition(&[&["a", "b"][..], &["c", "d", "e"]]);
    /// ```
    pub fn partition<A: Clone + Into<ServerAddress>>(&self, groups: &[&[A]]) {
        let addresses = |group: &[A]| group.iter().cloned().map(Into::into).collect();
        let groups: Vec<Vec<ServerAddress>> = groups.iter().copied().map(addresses).collect();
        self.set(|faults| {
            for (number, group) in groups.iter().enumerate() {
                let others = groups.iter().enumerate().filter(|(other, _)| *other != number);
                for to in others.flat_map(|(_, others)| others) {
                    faults.cut.extend(group.iter().map(|from| (from.clone(), to.clone())));
                }
            }
        });
    }

    /// Mends everything: no server is disconnected, no link is cut, nothing is dropped. Delays and
    /// the tap stay: they are not damage.
    pub fn heal_all(&self) {
        self.set(|faults| {
            faults.disconnected.clear();
            faults.cut.clear();
            faults.drop_next.clear();
            faults.drop = None;
        });
    }

    /// Delays every message sent from now on, on links without a delay of their own, by this long
    /// on tokio's clock. Lanes keep their order, also when the delay changes.
    pub fn set_delay(&self, delay: Duration) {
        self.set(|faults| {
            faults.delay = delay;
            faults.has_lanes = true;
        });
    }

    /// Gives one direction of a link a delay of its own, for messages sent from now on.
    pub fn set_link_delay(
        &self,
        from: impl Into<ServerAddress>,
        to: impl Into<ServerAddress>,
        delay: Duration,
    ) {
        let link = (from.into(), to.into());
        self.set(|faults| {
            faults.link_delay.insert(link, delay);
            faults.has_lanes = true;
        });
    }

    /// Drops the next `n` messages of this direction in silence, of either lane.
    pub fn drop_next(&self, from: impl Into<ServerAddress>, to: impl Into<ServerAddress>, n: u64) {
        let link = (from.into(), to.into());
        self.set(|faults| match n {
            0 => _ = faults.drop_next.remove(&link),
            n => _ = faults.drop_next.insert(link, n),
        });
    }

    /// Drops in silence what `filter` says (given from, to, message). Replaces an earlier filter;
    /// [`heal_all`](Self::heal_all) removes it. Called by the sending task: must be quick.
    pub fn set_drop(
        &self,
        filter: impl Fn(&ServerAddress, &ServerAddress, &Message) -> bool + Send + Sync + 'static,
    ) {
        self.set(|faults| faults.drop = Some(Arc::new(filter)));
    }

    /// Shows every message (from, to, message) to `tap` when it is sent, whatever becomes of it.
    /// Replaces an earlier tap. Called by the sending task: must be quick.
    pub fn set_tap(
        &self,
        tap: impl Fn(&ServerAddress, &ServerAddress, &Message) + Send + Sync + 'static,
    ) {
        self.set(|faults| faults.tap = Some(Arc::new(tap)));
    }

    fn set(&self, change: impl FnOnce(&mut Faults)) {
        let mut faults = self.shared.faults.lock();
        change(&mut faults);
        self.shared.has_faults.store(faults.any(), Ordering::Release);
    }

    pub(super) fn has_faults(&self) -> bool {
        self.shared.has_faults.load(Ordering::Acquire)
    }

    fn inbox(&self, to: &ServerAddress) -> Option<Inbox> {
        self.shared.nodes.read().get(to).map(|node| node.inbox.clone())
    }

    /// Where a message goes while there are faults.
    fn route(
        &self,
        from: &ServerAddress,
        to: &Server,
        message: &Message,
    ) -> Result<Route, TransportError> {
        let link = (from.clone(), to.address.clone());
        let faults = self.shared.faults.lock();
        let (tap, filter) = (faults.tap.clone(), faults.drop.clone());
        drop(faults); // The user's functions may call the network.
        if let Some(tap) = tap {
            tap(from, &to.address, message);
        }
        let is_filtered = filter.is_some_and(|filter| filter(from, &to.address, message));

        let mut faults = self.shared.faults.lock();
        if faults.is_cut(&link) {
            return Err(unreachable(to, "the link is cut"));
        }
        let route = if is_filtered || faults.takes_dropped(&link) {
            Route::Dropped
        } else if faults.has_lanes {
            Route::Delayed(faults.delay(&link))
        } else {
            Route::Direct
        };
        self.shared.has_faults.store(faults.any(), Ordering::Release);
        Ok(route)
    }
}

impl fmt::Debug for InmemNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<_> = self.shared.nodes.read().keys().cloned().collect();
        let faults = self.shared.faults.lock();
        f.debug_struct("InmemNetwork")
            .field("nodes", &nodes)
            .field("disconnected", &faults.disconnected)
            .field("cut", &faults.cut)
            .finish_non_exhaustive()
    }
}

enum Route {
    Direct,
    Delayed(Duration),
    Dropped,
}

/// A [`Transport`] that delivers to the other transports of its [`InmemNetwork`].
///
/// Both lanes end in the receiver's inbox. [`send`](Transport::send) never waits: a full inbox is
/// [`TransportError::Full`]. [`send_entries`](Transport::send_entries) waits for room in it, until
/// this transport is closed. A receiver that has stopped is
/// [`TransportError::Unreachable`]; [`TransportError::Closed`] always speaks of this transport.
///
/// While the network has delays, the transport runs one task per lane and peer, on the runtime it
/// was started on; messages under way die with the transport.
pub struct InmemTransport {
    network: InmemNetwork,
    address: ServerAddress,
    started: OnceLock<Started>,
    is_closed: AtomicBool,
    closed: Notify,
    lanes: Mutex<BTreeMap<(ServerAddress, LaneKind), Lane>>,
}

struct Started {
    identity: Identity,
    /// The cluster it belongs to by now.
    cluster: AtomicU64,
    start: u64,
    runtime: Handle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum LaneKind {
    Urgent,
    Entries,
}

/// The queue of one delayed lane, and the task that empties it.
struct Lane {
    queue: mpsc::Sender<Delayed>,
    task: JoinHandle<()>,
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Delayed {
    due: Instant,
    envelope: Envelope,
}

impl InmemTransport {
    /// Who this is, if it may send.
    fn sender(&self) -> Result<&Started, TransportError> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(TransportError::Closed);
        }
        self.started.get().ok_or_else(|| refused("the transport is not started"))
    }

    fn envelope(&self, started: &Started, to: &Server, message: Message) -> Envelope {
        Envelope {
            from: started.identity.id.clone(),
            address: self.address.clone(),
            cluster: ClusterId(started.cluster.load(Ordering::Acquire)),
            incarnation: started.identity.incarnation,
            life: started.identity.life,
            expects: to.incarnation,
            message,
        }
    }

    fn lane(&self, started: &Started, to: &Server, kind: LaneKind) -> mpsc::Sender<Delayed> {
        let mut lanes = self.lanes.lock();
        let lane = lanes.entry((to.address.clone(), kind)).or_insert_with(|| {
            let (queue, delayed) = mpsc::channel(DELAYED_MAX);
            let link = (self.address.clone(), to.address.clone());
            let task = run_lane(self.network.clone(), link, kind, delayed);
            Lane { queue, task: started.runtime.spawn(task) }
        });
        lane.queue.clone()
    }

    fn leave(&self) {
        self.is_closed.store(true, Ordering::Release);
        if let Some(started) = self.started.get() {
            let mut nodes = self.network.shared.nodes.write();
            if nodes.get(&self.address).is_some_and(|node| node.start == started.start) {
                nodes.remove(&self.address);
            }
        }
        self.closed.notify_waiters();
    }
}

/// Delivers what is delayed on one lane, in order, each when it is due.
async fn run_lane(
    network: InmemNetwork,
    link: Link,
    kind: LaneKind,
    mut delayed: mpsc::Receiver<Delayed>,
) {
    while let Some(Delayed { due, envelope }) = delayed.recv().await {
        if Instant::now() < due {
            tokio::time::sleep_until(due).await;
        }
        if network.shared.faults.lock().is_cut(&link) {
            continue;
        }
        let Some(inbox) = network.inbox(&link.1) else { continue };
        // A receiver that is gone, or has no room for the urgent, loses the message.
        _ = match kind {
            LaneKind::Urgent => inbox.try_deliver(envelope),
            LaneKind::Entries => inbox.deliver(envelope).await,
        };
    }
}

#[async_trait]
impl Transport for InmemTransport {
    fn local_address(&self) -> ServerAddress {
        self.address.clone()
    }

    async fn start(&self, identity: Identity, inbox: Inbox) -> Result<(), TransportError> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(TransportError::Closed);
        }
        let runtime = Handle::current();
        let mut nodes = self.network.shared.nodes.write();
        if self.started.get().is_some() {
            return Err(refused("the transport was started before"));
        }
        if nodes.contains_key(&self.address) {
            return Err(refused(format!("the address {} is in use", self.address)));
        }
        let start = self.network.shared.started.fetch_add(1, Ordering::Relaxed);
        let cluster = AtomicU64::new(identity.cluster.0);
        let started = Started { identity, cluster, start, runtime };
        self.started.set(started).map_err(|_| refused("the transport was started before"))?;
        nodes.insert(self.address.clone(), Node { start, inbox });
        Ok(())
    }

    fn set_cluster(&self, cluster: ClusterId) {
        if let Some(started) = self.started.get() {
            started.cluster.store(cluster.0, Ordering::Release);
        }
    }

    fn send(&self, to: &Server, message: Message) -> Result<(), TransportError> {
        let started = self.sender()?;
        if self.network.has_faults() {
            match self.network.route(&self.address, to, &message)? {
                Route::Direct => {}
                Route::Dropped => return Ok(()),
                Route::Delayed(delay) => {
                    let envelope = self.envelope(started, to, message);
                    let lane = self.lane(started, to, LaneKind::Urgent);
                    let due = Instant::now() + delay;
                    return lane.try_send(Delayed { due, envelope }).map_err(|error| match error {
                        mpsc::error::TrySendError::Full(_) => TransportError::Full,
                        mpsc::error::TrySendError::Closed(_) => TransportError::Closed,
                    });
                }
            }
        }
        let nodes = self.network.shared.nodes.read();
        let node = nodes.get(&to.address).ok_or_else(|| nobody(to))?;
        let envelope = self.envelope(started, to, message);
        node.inbox.try_deliver(envelope).map_err(|error| of_peer(error, to))
    }

    async fn send_entries(&self, to: &Server, message: Message) -> Result<(), TransportError> {
        // Made before the first question, so that a close in between is not missed.
        let closed = self.closed.notified();
        let started = self.sender()?;
        if self.network.has_faults() {
            match self.network.route(&self.address, to, &message)? {
                Route::Direct => {}
                Route::Dropped => return Ok(()),
                Route::Delayed(delay) => {
                    let envelope = self.envelope(started, to, message);
                    let lane = self.lane(started, to, LaneKind::Entries);
                    let due = Instant::now() + delay;
                    return tokio::select! {
                        biased;
                        sent = lane.send(Delayed { due, envelope }) => {
                            sent.map_err(|_| TransportError::Closed)
                        }
                        () = closed => Err(TransportError::Closed),
                    };
                }
            }
        }
        let inbox = self.network.inbox(&to.address).ok_or_else(|| nobody(to))?;
        let envelope = self.envelope(started, to, message);
        tokio::select! {
            biased;
            delivered = inbox.deliver(envelope) => delivered.map_err(|error| of_peer(error, to)),
            () = closed => Err(TransportError::Closed),
        }
    }

    async fn close(&self) {
        self.leave();
        let lanes = std::mem::take(&mut *self.lanes.lock());
        for mut lane in lanes.into_values() {
            lane.task.abort();
            _ = (&mut lane.task).await;
        }
    }
}

impl Drop for InmemTransport {
    fn drop(&mut self) {
        self.leave();
    }
}

impl fmt::Debug for InmemTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InmemTransport")
            .field("address", &self.address)
            .field("id", &self.started.get().map(|started| &started.identity.id))
            .field("is_closed", &self.is_closed)
            .finish_non_exhaustive()
    }
}

fn nobody(to: &Server) -> TransportError {
    unreachable(to, "nobody listens at its address")
}

fn unreachable(to: &Server, reason: &str) -> TransportError {
    TransportError::Unreachable { peer: to.id.clone(), reason: reason.to_owned() }
}

/// An inbox speaks of its own server; the sender's caller must not take that for its own end.
fn of_peer(error: TransportError, to: &Server) -> TransportError {
    match error {
        TransportError::Closed => unreachable(to, "the server has stopped"),
        error => error,
    }
}

fn refused(reason: impl Into<String>) -> TransportError {
    TransportError::Refused { reason: reason.into() }
}
