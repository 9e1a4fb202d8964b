//! The dialling side: two lanes to every peer, each with a task that keeps it connected.
//!
//! A lost peer is dialled again after waits that double from `backoff_min` to `backoff_max`,
//! without jitter. Any sign of life of the peer, on any connection in either direction, ends the
//! wait and starts the doubling afresh. While there is no hope the queues are shut.

mod elsewhere;

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use parking_lot::Mutex;
use raft::{Server, ServerAddress, ServerId, TransportError};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    runtime::Handle,
    select,
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error, info, warn};

use self::elsewhere::Way;
use crate::{
    backoff::Backoff,
    connect::connect,
    connection::{Ended, FrameReader, FrameWriter, ended},
    frame::Kind,
    handshake::{self, HandshakeError, Identity, Lane, Reason},
    options::{MAX_ID_BYTES, TcpOptions},
    queue::{Queue, Queued},
};

/// Messages taken from a queue at once.
const BATCH: usize = 128;

/// All peers.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    dialler: Option<Dialler>,
    peers: BTreeMap<ServerId, Arc<Peer>>,
    /// Where those are who are connected to this server, as they say.
    seen: BTreeMap<ServerId, ServerAddress>,
    /// The ways to peers that are out of reach at their addresses and are seen elsewhere.
    ways: BTreeMap<ServerId, Way>,
    closed: bool,
}

/// What is needed to dial.
#[derive(Clone, Debug)]
pub(crate) struct Dialler {
    pub(crate) identity: Arc<Identity>,
    pub(crate) options: Arc<TcpOptions>,
    pub(crate) token: CancellationToken,
    pub(crate) tracker: TaskTracker,
    pub(crate) runtime: Handle,
}

impl Peers {
    /// From now on peers can be dialled.
    pub(crate) fn start(&self, dialler: Dialler) {
        self.state.lock().dialler = Some(dialler);
    }

    /// The peer at its address, which is dialled if that has not been done before; or the way to where it
    /// is seen, if it cannot be reached there.
    pub(crate) fn get(&self, server: &Server) -> Result<Arc<Peer>, TransportError> {
        let mut state = self.state.lock();
        let peer = state.at_its_address(server)?;
        if peer.is_out_of_reach()
            && let Some(way) = state.way(server)
        {
            return Ok(way);
        }
        Ok(peer)
    }

    /// A server is connected to this one, and says where it can be dialled.
    pub(crate) fn seen_at(&self, id: &ServerId, address: &ServerAddress) {
        self.state.lock().seen.insert(id.clone(), address.clone());
    }

    /// A server is not connected to this one any more.
    pub(crate) fn not_seen(&self, id: &ServerId) {
        self.state.lock().seen.remove(id);
    }

    /// Why the peer cannot be reached, if it was tried and cannot.
    pub(crate) fn trouble(&self, id: &ServerId) -> Option<Arc<str>> {
        let peer = Arc::clone(self.state.lock().peers.get(id)?);
        peer.urgent.hopeless_because().or_else(|| peer.entries.hopeless_because())
    }

    /// The peer was heard of. While it is reached elsewhere that says nothing of its address.
    pub(crate) fn sign_of_life(&self, id: &ServerId) {
        let state = self.state.lock();
        if let Some(peer) = state.peers.get(id)
            && !state.ways.get(id).is_some_and(Way::is_connected)
        {
            peer.sign_of_life();
        }
    }

    pub(crate) fn forget(&self, id: &ServerId) {
        let mut state = self.state.lock();
        let way = state.ways.remove(id).map(|way| way.peer);
        for peer in state.peers.remove(id).into_iter().chain(way) {
            peer.end();
        }
    }

    /// Ends all peers; there will be no others.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let ways = std::mem::take(&mut state.ways).into_values().map(|way| way.peer);
        for peer in std::mem::take(&mut state.peers).into_values().chain(ways) {
            peer.end();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }
}

impl State {
    fn at_its_address(&mut self, server: &Server) -> Result<Arc<Peer>, TransportError> {
        if self.closed {
            return Err(TransportError::Closed);
        }
        if let Some(peer) = self.peers.get(&server.id) {
            if peer.address == server.address {
                return Ok(Arc::clone(peer));
            }
            info!(peer = %peer.id, from = %peer.address, to = %server.address, "a peer has moved");
            peer.end();
        }
        let Some(dialler) = &self.dialler else { return refused("the transport is not started") };
        let (id, bytes) = (&server.id, server.id.as_str().len());
        if *id == dialler.identity.id {
            return refused(format!("server {id} sends to itself"));
        }
        if !(1..=MAX_ID_BYTES).contains(&bytes) {
            return refused(format!("a server id has 1 to {MAX_ID_BYTES} bytes, but one {bytes}"));
        }
        let peer = Arc::new(Peer::new(server, dialler));
        for lane in [Lane::Urgent, Lane::Entries] {
            let task = keep_connected(Arc::clone(&peer), lane, dialler.clone());
            dialler.tracker.spawn_on(task, &dialler.runtime);
        }
        self.peers.insert(server.id.clone(), Arc::clone(&peer));
        Ok(peer)
    }

    /// The way to where this server is seen, if that is not its address.
    fn way(&mut self, to: &Server) -> Option<Arc<Peer>> {
        let address = self.seen.get(&to.id).filter(|seen| **seen != to.address)?;
        let dialler = self.dialler.as_ref()?;
        if let Some(way) = self.ways.get(&to.id) {
            if way.leads_to(address) && way.is_open() {
                return Some(Arc::clone(&way.peer));
            }
            if way.is_fresh(dialler) {
                return None;
            }
            way.peer.end();
        }
        let way = Way::new(to, address, dialler);
        let peer = Arc::clone(&way.peer);
        self.ways.insert(to.id.clone(), way);
        Some(peer)
    }
}

fn refused<T>(reason: impl Into<String>) -> Result<T, TransportError> {
    Err(TransportError::Refused { reason: reason.into() })
}

/// Another server, at one address.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: ServerId,
    address: ServerAddress,
    urgent: Queue,
    entries: Queue,
    token: CancellationToken,
    /// What is wrong with each lane, as far as it was reported.
    troubles: Mutex<BTreeMap<Lane, Trouble>>,
}

/// What is wrong, as coarsely as is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Unreachable,
    Refused(Reason),
    NotRaft,
}

impl Peer {
    fn new(server: &Server, dialler: &Dialler) -> Self {
        let options = &dialler.options;
        Self {
            id: server.id.clone(),
            address: server.address.clone(),
            urgent: Queue::new(options.urgent_queue, options.queue_bytes),
            entries: Queue::new(options.entries_queue, options.queue_bytes),
            token: dialler.token.child_token(),
            troubles: Mutex::default(),
        }
    }

    pub(crate) fn queue(&self, lane: Lane) -> &Queue {
        match lane {
            Lane::Urgent => &self.urgent,
            Lane::Entries => &self.entries,
        }
    }

    /// Whether attempts to reach it have failed, and none has succeeded since.
    fn is_out_of_reach(&self) -> bool {
        let is_connected = self.urgent.is_connected() || self.entries.is_connected();
        !is_connected && !self.troubles.lock().is_empty()
    }

    fn sign_of_life(&self) {
        self.urgent.sign_of_life();
        self.entries.sign_of_life();
    }

    fn end(&self) {
        self.token.cancel();
        self.urgent.end();
        self.entries.end();
    }

    /// A lane is not connected: says so, once for each kind of trouble of the peer.
    fn failed(&self, lane: Lane, trouble: Trouble, reason: &str) {
        let mut troubles = self.troubles.lock();
        let is_known = troubles.values().any(|known| *known == trouble);
        troubles.insert(lane, trouble);
        drop(troubles);
        let (peer, address) = (&self.id, &self.address);
        if is_known {
            debug!(%peer, %address, ?lane, reason, "still no connection to a peer");
        } else {
            warn!(%peer, %address, reason, "no connection to a peer");
        }
        self.queue(lane).shut(reason);
    }

    /// A lane is connected.
    fn connected(&self, lane: Lane) {
        let mut troubles = self.troubles.lock();
        let was_troubled = troubles.remove(&lane).is_some();
        let is_well = troubles.is_empty();
        drop(troubles);
        if was_troubled && is_well {
            info!(peer = %self.id, address = %self.address, "a peer is connected again");
        }
        // Whoever answers on one lane is worth dialling on the other.
        self.sign_of_life();
    }
}

/// Why dialling failed.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("it cannot be dialled: {0}")]
    Connect(io::Error),
    #[error("no end of the handshake within {0:?}")]
    HandshakeTimeout(Duration),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

impl DialError {
    fn trouble(&self) -> Trouble {
        match self {
            Self::Handshake(HandshakeError::Refused(refusal)) => Trouble::Refused(refusal.reason),
            Self::Handshake(HandshakeError::NotAnAnswer(_)) => Trouble::NotRaft,
            _ => Trouble::Unreachable,
        }
    }
}

async fn dial(peer: &Peer, lane: Lane, dialler: &Dialler) -> Result<TcpStream, DialError> {
    let limit = dialler.options.connect_timeout;
    let mut stream = connect(peer.address.as_str(), limit).await.map_err(DialError::Connect)?;
    stream.set_nodelay(true).map_err(DialError::Connect)?;
    let hello = dialler.identity.hello(lane, &peer.id);
    let limit = dialler.options.handshake_timeout;
    timeout(limit, handshake::dial(&mut stream, &hello))
        .await
        .map_err(|_| DialError::HandshakeTimeout(limit))??;
    Ok(stream)
}

/// Ends a queue when its task ends, however that happens; by a panic, the whole transport, because nobody
/// would dial the peer any more.
struct EndQueue<'a>(&'a Queue, &'a CancellationToken);

impl Drop for EndQueue<'_> {
    fn drop(&mut self) {
        self.0.end();
        if std::thread::panicking() {
            self.1.cancel();
        }
    }
}

async fn keep_connected(peer: Arc<Peer>, lane: Lane, dialler: Dialler) {
    let queue = peer.queue(lane);
    let _end = EndQueue(queue, &dialler.token);
    let options = &dialler.options;
    let mut backoff = Backoff::new(options.backoff_min, options.backoff_max);
    let work = async {
        loop {
            let attempted_at = Instant::now();
            let mut is_heard = false;
            // An attempt that began when nobody was there may wait long for nothing.
            let hopeless = async {
                queue.life().await;
                is_heard = true;
                sleep_until(attempted_at + options.connect_timeout / 4).await;
            };
            let attempt = select! {
                biased;
                () = hopeless => None,
                attempt = dial(&peer, lane, &dialler) => Some(attempt),
            };
            match attempt {
                Some(Ok(stream)) => {
                    peer.connected(lane);
                    backoff.reset();
                    let Some(messages) = queue.connected() else { return };
                    let (read, write) = stream.into_split();
                    let ended = send_messages(&peer, read, write, messages, &dialler).await;
                    // Nothing was lost: it is this side that is done with the peer.
                    if matches!(ended, Ended::Stopped) {
                        return;
                    }
                    peer.failed(lane, Trouble::Unreachable, &format!("connection lost: {ended}"));
                }
                Some(Err(error)) => peer.failed(lane, error.trouble(), &error.to_string()),
                None => {}
            }
            if !is_heard {
                select! {
                    biased;
                    () = queue.life() => {}
                    () = sleep(backoff.next_wait()) => continue,
                }
            }
            backoff.reset();
            // Signs of life may be many; attempts are not.
            sleep_until(attempted_at + options.backoff_min).await;
        }
    };
    peer.token.run_until_cancelled(work).await;
}

/// Sends what comes out of `messages` until the connection ends.
async fn send_messages<R, W>(
    peer: &Peer,
    read: R,
    write: W,
    mut messages: mpsc::Receiver<Queued>,
    dialler: &Dialler,
) -> Ended
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let options = &dialler.options;
    let writer = FrameWriter::new(write, options, &dialler.identity.cluster);
    select! {
        biased;
        ended = watch(FrameReader::new(read, options)) => ended,
        ended = write_messages(peer, writer, &mut messages, options) => ended,
    }
}

/// Nothing but signs of life comes back over a connection that was dialled.
async fn watch<R: AsyncRead + Unpin>(mut reader: FrameReader<R>) -> Ended {
    let watched = async {
        loop {
            while let Some(frame) = reader.arrived()? {
                if frame.kind != Kind::Alive {
                    return Err(Ended::WrongWay);
                }
            }
            reader.fill().await?;
        }
    };
    ended(watched).await
}

async fn write_messages<W: AsyncWrite + Unpin>(
    peer: &Peer,
    mut writer: FrameWriter<W>,
    messages: &mut mpsc::Receiver<Queued>,
    options: &TcpOptions,
) -> Ended {
    let mut batch = Vec::with_capacity(BATCH);
    let mut alive = interval(options.alive_interval());
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let work = async {
        loop {
            select! {
                biased;
                taken = messages.recv_many(&mut batch, BATCH) => {
                    if taken == 0 {
                        return Err(Ended::Stopped);
                    }
                }
                _ = alive.tick() => writer.feed_alive(),
            }
            // The room a message took is free when it is written, or about to be.
            for queued in batch.drain(..) {
                if let Err(error) = writer.feed(queued.expects, &queued.message) {
                    let kind = queued.message.kind();
                    error!(peer = %peer.id, kind, %error, "a message cannot be sent and is lost");
                }
                if writer.has_much() {
                    writer.flush().await?;
                }
            }
            writer.flush().await?;
        }
    };
    ended(work).await
}
