//! The accepting side: lets peers in, turns strangers away, and delivers what peers say.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use raft::{ClusterId, Envelope, Inbox, ServerAddress, ServerId};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    select,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use crate::{
    codec::{self, Said},
    connection::{Ended, FrameReader, FrameWriter, ended},
    handshake::{self, Decision, Hello, Identity, Lane, Reason, Refusal},
    options::TcpOptions,
    peer::Peers,
};

/// How many dialers' troubles are remembered, so that each is logged once.
const MAX_REPORTED: usize = 1024;
/// How often to say that no connection can be accepted.
const COMPLAIN_AGAIN: Duration = Duration::from_secs(60);

/// Everything an accepted connection needs.
#[derive(Debug)]
pub(crate) struct Acceptor {
    pub(crate) identity: Arc<Identity>,
    pub(crate) options: Arc<TcpOptions>,
    pub(crate) inbox: Inbox,
    pub(crate) peers: Arc<Peers>,
    /// Cancelled when the transport is closed, and when nobody reads the inbox any more.
    pub(crate) token: CancellationToken,
    pub(crate) tracker: TaskTracker,
    pub(crate) accepted: Mutex<Accepted>,
    pub(crate) reports: Mutex<Reports>,
}

/// The newest connection of each lane of each peer: an older one is dead, or soon will be.
#[derive(Debug, Default)]
pub(crate) struct Accepted {
    serial: u64,
    lanes: BTreeMap<(ServerId, Lane), Connection>,
}

/// A server that was let in.
#[derive(Debug)]
struct Dialler {
    id: ServerId,
    address: ServerAddress,
    incarnation: u64,
    life: u64,
    /// Which cluster it says it belongs to; 0 if to none.
    cluster: Arc<AtomicU64>,
    lane: Lane,
    ip: IpAddr,
}

impl Dialler {
    fn who(&self) -> Who {
        Who::Claimed(self.ip, self.id.as_str().to_owned())
    }
}

#[derive(Debug)]
struct Connection {
    serial: u64,
    /// Where the peer can be dialled.
    address: ServerAddress,
    /// Which cluster it says it belongs to; 0 if to none.
    cluster: Arc<AtomicU64>,
    /// Ends it in favour of a newer one.
    replaced: CancellationToken,
}

/// What was last logged about whom.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    last: BTreeMap<Who, Trouble>,
}

/// Who is reported, as well as it is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    /// It gave a name.
    Claimed(IpAddr, String),
    /// It did not.
    Stranger(IpAddr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Refused(Reason),
    NoHandshake,
    Broken,
}

impl Reports {
    /// Whether this is news.
    fn is_news(&mut self, who: Who, trouble: Trouble) -> bool {
        if self.last.len() >= MAX_REPORTED && !self.last.contains_key(&who) {
            self.last.pop_first();
        }
        self.last.insert(who, trouble) != Some(trouble)
    }

    fn forget(&mut self, who: &Who) {
        self.last.remove(who);
    }
}

/// When it was last said that no connection can be accepted. The ones that can be now and then, while
/// descriptors are short, make it no news.
#[derive(Debug, Default)]
struct Complaints {
    last: Option<Instant>,
}

impl Complaints {
    fn is_due(&mut self) -> bool {
        let is_due = self.last.is_none_or(|last| COMPLAIN_AGAIN <= last.elapsed());
        if is_due {
            self.last = Some(Instant::now());
        }
        is_due
    }
}

impl Acceptor {
    /// Accepts connections until the transport is closed.
    pub(crate) async fn run(self: Arc<Self>, listener: TcpListener) {
        // If this panics too: with the last connection goes the inbox, and the server learns of it.
        let _end = self.token.clone().drop_guard();
        let room = Arc::new(Semaphore::new(self.options.max_inbound));
        let mut complaints = Complaints::default();
        let work = async {
            loop {
                match listener.accept().await {
                    Ok((stream, remote)) => match Arc::clone(&room).try_acquire_owned() {
                        Ok(place) => self.admit(stream, remote, place),
                        Err(_) => self.turn_away(&stream, remote),
                    },
                    // Out of file descriptors, most likely; it passes or it does not.
                    Err(error) => {
                        if complaints.is_due() {
                            warn!(%error, "cannot accept connections");
                        }
                        sleep(self.options.backoff_max).await;
                    }
                }
            }
        };
        self.token.run_until_cancelled(work).await;
    }

    fn admit(self: &Arc<Self>, stream: TcpStream, remote: SocketAddr, place: OwnedSemaphorePermit) {
        let acceptor = Arc::clone(self);
        self.tracker.spawn(async move {
            let _place = place;
            acceptor.token.run_until_cancelled(acceptor.serve(stream, remote.ip())).await;
        });
    }

    /// There is no room. The answer is given if it takes no waiting.
    fn turn_away(&self, stream: &TcpStream, remote: SocketAddr) {
        let refusal = Refusal::busy(self.options.max_inbound);
        let is_told = stream.try_write(&handshake::encode_answer(&Err(refusal.clone()))).is_ok();
        debug!(%remote, is_told, "turned away");
        self.report(Who::Stranger(remote.ip()), Trouble::Refused(Reason::Busy), &refusal.text);
    }

    fn report(&self, who: Who, trouble: Trouble, reason: &str) {
        let text = match &who {
            Who::Claimed(ip, name) => format!("{name:?} at {ip}"),
            Who::Stranger(ip) => ip.to_string(),
        };
        if self.reports.lock().is_news(who, trouble) {
            warn!(peer = text, reason, "closed a connection from a peer");
        } else {
            debug!(peer = text, reason, "closed a connection from a peer, again");
        }
    }

    async fn serve(&self, mut stream: TcpStream, remote: IpAddr) {
        let deadline = Instant::now() + self.options.handshake_timeout;
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%remote, %error, "lost a connection");
            return;
        }
        let objection = |hello: &Hello| self.objection(hello);
        let decision = handshake::accept(&mut stream, &self.identity, objection);
        let reason = match timeout_at(deadline, decision).await {
            Ok(Ok(Decision::Accepted(hello))) => {
                let (read, write) = stream.into_split();
                let Hello { from, address, incarnation, life, cluster, lane, .. } = hello;
                let (id, address, ip) = (from.into(), address.into(), remote);
                let cluster = Arc::new(AtomicU64::new(cluster));
                let dialler = Dialler { id, address, incarnation, life, cluster, lane, ip };
                return self.serve_peer(read, write, &dialler).await;
            }
            Ok(Ok(Decision::Refused { claimed, refusal })) => {
                let stranger = Who::Stranger(remote);
                let who = claimed.map_or(stranger, |name| Who::Claimed(remote, name));
                self.report(who, Trouble::Refused(refusal.reason), &refusal.text);
                // What it still says, and whether it says goodbye, is of no interest.
                let _ = timeout_at(deadline, handshake::part(&mut stream)).await;
                return;
            }
            Ok(Err(error)) => format!("no handshake: {error}"),
            Err(_) => format!("no handshake within {:?}", self.options.handshake_timeout),
        };
        self.report(Who::Stranger(remote), Trouble::NoHandshake, &reason);
    }

    /// Serves an accepted peer until the connection ends.
    async fn serve_peer<R, W>(&self, read: R, write: W, dialler: &Dialler)
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        self.peers.sign_of_life(&dialler.id);
        let (serial, replaced) = self.enter(dialler);
        let ended = select! {
            biased;
            () = replaced.cancelled() => Ended::Closed,
            // Before the reading, which on a busy connection leaves no turn to what comes after it.
            ended = self.show_life(FrameWriter::new(write, &self.options, &self.identity.cluster)) => ended,
            ended = self.receive(FrameReader::new(read, &self.options), dialler) => ended,
        };
        self.leave(dialler, serial);
        match ended {
            Ended::Frame(_) | Ended::Payload(_) | Ended::WrongWay => {
                self.report(dialler.who(), Trouble::Broken, &ended.to_string());
            }
            // Whoever dials a server that has stopped is to find nobody.
            Ended::Stopped => self.token.cancel(),
            // The dialler notices, says so in its own log, and comes back.
            Ended::Closed | Ended::Silent(_) | Ended::Io(_) => {
                let Dialler { id, lane, .. } = dialler;
                debug!(peer = %id, ?lane, reason = %ended, "a connection from a peer ended");
            }
        }
    }

    /// Two servers that were given one id by mistake would push each other out without end. One of another
    /// cluster, let in before this server belonged to one, gives way.
    fn objection(&self, hello: &Hello) -> Option<Refusal> {
        let accepted = self.accepted.lock();
        let id = ServerId::from(hello.from.as_str());
        let own = self.identity.cluster.load(Ordering::Acquire);
        let is_foreign = |connection: &Connection| {
            let cluster = connection.cluster.load(Ordering::Acquire);
            own != 0 && cluster != 0 && cluster != own
        };
        let present = [Lane::Urgent, Lane::Entries].into_iter().find_map(|lane| {
            let connection =
                accepted.lanes.get(&(id.clone(), lane)).filter(|it| !is_foreign(it))?;
            (connection.address.as_str() != hello.address).then_some(&connection.address)
        });
        present.map(|address| Refusal::duplicate(&hello.from, address))
    }

    /// Makes this the connection of the lane, and ends the one before it.
    fn enter(&self, dialler: &Dialler) -> (u64, CancellationToken) {
        let mut accepted = self.accepted.lock();
        accepted.serial += 1;
        let (serial, replaced) = (accepted.serial, CancellationToken::new());
        let Dialler { id, address, cluster, lane, .. } = dialler;
        let (address, cluster) = (address.clone(), Arc::clone(cluster));
        let connection = Connection { serial, address, cluster, replaced: replaced.clone() };
        if let Some(before) = accepted.lanes.insert((id.clone(), *lane), connection) {
            before.replaced.cancel();
        }
        self.peers.seen_at(id, &dialler.address);
        (serial, replaced)
    }

    fn leave(&self, dialler: &Dialler, serial: u64) {
        let mut accepted = self.accepted.lock();
        let key = (dialler.id.clone(), dialler.lane);
        if accepted.lanes.get(&key).is_some_and(|current| current.serial == serial) {
            accepted.lanes.remove(&key);
        }
        let is_here = |lane| accepted.lanes.contains_key(&(dialler.id.clone(), lane));
        if ![Lane::Urgent, Lane::Entries].into_iter().any(is_here) {
            self.peers.not_seen(&dialler.id);
        }
    }

    async fn receive<R>(&self, mut reader: FrameReader<R>, dialler: &Dialler) -> Ended
    where
        R: AsyncRead + Unpin,
    {
        let Dialler { id, address, incarnation, life, cluster, .. } = dialler;
        let mut is_well = false;
        let mut expected = 0;
        let work = async {
            loop {
                reader.fill().await?;
                let mut is_heard = false;
                while let Some(frame) = reader.arrived()? {
                    // Before the message, so that its answer finds the way back open.
                    if !is_heard {
                        is_heard = true;
                        self.peers.sign_of_life(id);
                    }
                    if !is_well {
                        is_well = true;
                        self.reports.lock().forget(&dialler.who());
                    }
                    let message = match codec::decode(frame.kind, &frame.payload)? {
                        Said::Alive => continue,
                        Said::Expects(incarnation) => {
                            expected = incarnation;
                            continue;
                        }
                        Said::Cluster(number) => {
                            cluster.store(number, Ordering::Release);
                            continue;
                        }
                        Said::Message(message) => message,
                    };
                    let envelope = Envelope {
                        from: id.clone(),
                        address: address.clone(),
                        cluster: ClusterId(cluster.load(Ordering::Acquire)),
                        incarnation: *incarnation,
                        life: *life,
                        expects: expected,
                        message,
                    };
                    self.inbox.deliver(envelope).await.map_err(|_| Ended::Stopped)?;
                }
            }
        };
        ended(work).await
    }

    /// Tells the dialler every now and then that somebody is here, also while messages wait for
    /// room in the inbox.
    async fn show_life<W: AsyncWrite + Unpin>(&self, mut writer: FrameWriter<W>) -> Ended {
        let mut alive = interval(self.options.alive_interval());
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ended(async {
            loop {
                alive.tick().await;
                writer.feed_alive();
                writer.flush().await?;
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complains_once_a_minute() {
        let mut complaints = Complaints::default();
        assert!(complaints.is_due());
        assert!(!complaints.is_due(), "it was said just now");
        complaints.last = Instant::now().checked_sub(COMPLAIN_AGAIN);
        assert!(complaints.is_due());
    }
}
