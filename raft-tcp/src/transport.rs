//! [`TcpTransport`]: the public face, which only wires the parts together.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use parking_lot::Mutex;
use raft::{
    ClusterId, ConfigError, Inbox, Message, Server, ServerAddress, ServerId, Transport,
    TransportError,
};
use tokio::{net::TcpListener, runtime::Handle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    codec,
    handshake::{Identity, Lane},
    options::{MAX_ID_BYTES, TcpOptions},
    peer::{Dialler, Peer, Peers},
    queue::Rejected,
    server::Acceptor,
};

/// Why [`TcpTransport::bind`] failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// A setting breaks a rule; change it.
    #[error(transparent)]
    Options(#[from] ConfigError),
    /// The operating system does not let this process listen there.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address, as in [`TcpOptions::bind`].
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A [`Transport`] over TCP. See the crate's documentation for what it promises.
///
/// Dropping it without [`close`](Transport::close) closes it too, but nobody waits for the end.
#[derive(Debug)]
pub struct TcpTransport {
    options: Arc<TcpOptions>,
    advertised: ServerAddress,
    bound: SocketAddr,
    /// Until it is started.
    listener: Mutex<Option<TcpListener>>,
    peers: Arc<Peers>,
    /// Which cluster the server belongs to.
    cluster: Arc<AtomicU64>,
    token: CancellationToken,
    tracker: TaskTracker,
}

impl TcpTransport {
    /// Checks the settings and listens. Connections are accepted from
    /// [`start`](Transport::start) on; those made before wait.
    ///
    /// # Errors
    /// [`BindError`] names the setting, or the address and what the operating system says.
    ///
    /// # Panics
    /// Outside a tokio runtime with time and I/O enabled.
    ///
    /// # Cancel safety
    /// Dropping the future stops listening.
    pub async fn bind(options: TcpOptions) -> Result<Arc<Self>, BindError> {
        options.validate()?;
        let failed = |source| BindError::Listen { address: options.bind.clone(), source };
        let listener = TcpListener::bind(options.bind.as_str()).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        Ok(Arc::new(Self {
            advertised: options.advertised(bound)?,
            bound,
            options: Arc::new(options),
            listener: Mutex::new(Some(listener)),
            peers: Arc::default(),
            cluster: Arc::default(),
            token: CancellationToken::new(),
            tracker: TaskTracker::new(),
        }))
    }

    /// The address that was bound, with the port the system chose if it was asked to.
    #[must_use]
    pub fn bound_address(&self) -> SocketAddr {
        self.bound
    }

    /// Why a peer cannot be reached, in words for a person: nobody listens there, or it has refused this
    /// server and said why. `None` while it can be, and for one that nothing was sent to.
    #[must_use]
    pub fn trouble(&self, peer: &ServerId) -> Option<Arc<str>> {
        self.peers.trouble(peer)
    }

    /// The peer a message goes to, if the message can be sent at all.
    fn peer(&self, to: &Server, message: &Message) -> Result<Arc<Peer>, TransportError> {
        let (bytes, limit) = (codec::max_bytes(message), self.options.max_frame_bytes);
        if bytes > limit {
            let reason = format!("a message of {bytes} bytes is over `max_frame_bytes`, {limit}");
            return Err(TransportError::Refused { reason });
        }
        self.peers.get(to)
    }

    fn explain(&self, rejected: Rejected, peer: &Peer) -> TransportError {
        let reason = match rejected {
            Rejected::Full => return TransportError::Full,
            Rejected::Shut(reason) => reason.as_ref().to_owned(),
            Rejected::Ended if self.peers.is_closed() => return TransportError::Closed,
            Rejected::Ended => "it was forgotten, or has moved".to_owned(),
        };
        TransportError::Unreachable { peer: peer.id.clone(), reason }
    }
}

#[async_trait]
impl Transport for TcpTransport {
    fn local_address(&self) -> ServerAddress {
        self.advertised.clone()
    }

    async fn start(&self, identity: raft::Identity, inbox: Inbox) -> Result<(), TransportError> {
        let raft::Identity { id, cluster, incarnation, life } = identity;
        if !(1..=MAX_ID_BYTES).contains(&id.as_str().len()) {
            let reason = format!("a server id has 1 to {MAX_ID_BYTES} bytes, but {id:?} has not");
            return Err(TransportError::Refused { reason });
        }
        // Held to the end, so that `close` sees either nothing started or all.
        let mut listener = self.listener.lock();
        if self.token.is_cancelled() {
            return Err(TransportError::Closed);
        }
        let Some(listener) = listener.take() else {
            let reason = "the transport was started before".to_owned();
            return Err(TransportError::Refused { reason });
        };
        let cluster_id = self.options.cluster_id.clone();
        let address = self.advertised.clone();
        self.set_cluster(cluster);
        let cluster = Arc::clone(&self.cluster);
        let identity = Identity { id, address, cluster_id, incarnation, life, cluster };
        let identity = Arc::new(identity);
        self.peers.start(Dialler {
            identity: Arc::clone(&identity),
            options: Arc::clone(&self.options),
            token: self.token.clone(),
            tracker: self.tracker.clone(),
            runtime: Handle::current(),
        });
        let acceptor = Acceptor {
            identity,
            options: Arc::clone(&self.options),
            inbox,
            peers: Arc::clone(&self.peers),
            token: self.token.child_token(),
            tracker: self.tracker.clone(),
            accepted: Mutex::default(),
            reports: Mutex::default(),
        };
        self.tracker.spawn(Arc::new(acceptor).run(listener));
        Ok(())
    }

    fn set_cluster(&self, cluster: ClusterId) {
        self.cluster.store(cluster.0, Ordering::Release);
    }

    fn send(&self, to: &Server, message: Message) -> Result<(), TransportError> {
        let peer = self.peer(to, &message)?;
        let sent = peer.queue(Lane::Urgent).try_push(message, to.incarnation);
        sent.map_err(|rejected| self.explain(rejected, &peer))
    }

    async fn send_entries(&self, to: &Server, message: Message) -> Result<(), TransportError> {
        let peer = self.peer(to, &message)?;
        let sent = peer.queue(Lane::Entries).push(message, to.incarnation).await;
        sent.map_err(|rejected| self.explain(rejected, &peer))
    }

    fn max_entries_bytes(&self) -> u64 {
        codec::max_entries_bytes(self.options.max_frame_bytes)
    }

    fn forget(&self, peer: &ServerId) {
        self.peers.forget(peer);
    }

    async fn close(&self) {
        self.token.cancel();
        self.listener.lock().take();
        self.peers.close();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.token.cancel();
    }
}
