//! The other servers, as `run` sees them: where to dial each, and its `replicate` task.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{sync::mpsc, task::AbortHandle};

use super::{
    Tasks,
    replicate::{Order, Replicate, Sources},
};
use crate::{
    configuration::{Server, ServerAddress, ServerId, Suffrage},
    rpc::Message,
};

/// Strangers remembered at most: senders that are in no configuration known here.
const STRANGERS_MAX: usize = 64;

pub(super) struct Peers {
    known: Vec<Peer>,
    /// Who else was heard from, and where it can be dialled: a server that knows no configuration
    /// yet must be able to answer its leader. Oldest first.
    strangers: VecDeque<Server>,
    sources: Arc<Sources>,
}

struct Peer {
    server: Server,
    orders: mpsc::UnboundedSender<Order>,
    /// How many orders its task has not carried out yet.
    backlog: Arc<AtomicUsize>,
    /// Held for its drop.
    _task: AbortOnDrop,
    /// Whether the last message went out, so that a broken connection is told of once.
    is_reachable: bool,
}

/// Ends a `replicate` task together with its queue: it may be waiting for room at a peer that is
/// gone for good.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Peers {
    pub(super) fn new(sources: Sources) -> Self {
        Self { known: Vec::new(), strangers: VecDeque::new(), sources: Arc::new(sources) }
    }

    /// Talks to these servers from now on and to nobody else.
    pub(super) fn set(&mut self, servers: Vec<Server>, tasks: &mut Tasks) {
        let mut before = std::mem::take(&mut self.known);
        for server in servers {
            self.strangers.retain(|stranger| stranger.id != server.id);
            let same =
                |peer: &Peer| peer.server.id == server.id && peer.server.address == server.address;
            let peer = match before.iter().position(same) {
                Some(position) => Peer { server, ..before.swap_remove(position) },
                None => self.start(server, tasks),
            };
            self.known.push(peer);
        }
        for gone in before {
            if !self.known.iter().any(|peer| peer.server.id == gone.server.id) {
                self.sources.transport.forget(&gone.server.id);
            }
        }
    }

    fn start(&self, server: Server, tasks: &mut Tasks) -> Peer {
        let (orders, queue) = mpsc::unbounded_channel();
        let backlog = Arc::new(AtomicUsize::new(0));
        let replicate = Replicate {
            peer: server.clone(),
            sources: Arc::clone(&self.sources),
            backlog: Arc::clone(&backlog),
        };
        let task = tasks.spawn("replicate", replicate.run(queue));
        Peer { server, orders, backlog, _task: AbortOnDrop(task), is_reachable: true }
    }

    /// Notes where a sender can be dialled, if no configuration says so.
    pub(super) fn heard_from(&mut self, id: &ServerId, address: &ServerAddress) {
        if self.known.iter().any(|peer| peer.server.id == *id) {
            return;
        }
        if let Some(stranger) = self.strangers.iter_mut().find(|stranger| stranger.id == *id) {
            if stranger.address != *address {
                stranger.address = address.clone();
            }
            return;
        }
        if self.strangers.len() == STRANGERS_MAX
            && let Some(oldest) = self.strangers.pop_front()
        {
            // Else the transport would go on dialling everybody who was ever answered.
            self.sources.transport.forget(&oldest.id);
        }
        let (id, address) = (id.clone(), address.clone());
        self.strangers.push_back(Server { id, address, suffrage: Suffrage::Nonvoter });
    }

    /// Gives an order to the peer's `replicate` task.
    pub(super) fn replicate(&self, order: Order) {
        if let Some(peer) = self.known.iter().find(|peer| peer.server.id == order.order.to) {
            // An order must not overtake those that wait.
            let is_idle = peer.backlog.load(Ordering::Acquire) == 0;
            if is_idle && self.sources.send_now(&peer.server, &order) {
                return;
            }
            peer.backlog.fetch_add(1, Ordering::Relaxed);
            // Its task ends before `run` only when the node does.
            let _ = peer.orders.send(order);
        }
    }

    /// Sends a message now or never. Returns whether the transport took it.
    pub(super) fn send(&mut self, to: &ServerId, message: Message) -> bool {
        let Sources { transport, shared, .. } = &*self.sources;
        let Some(peer) = self.known.iter_mut().find(|peer| peer.server.id == *to) else {
            let Some(stranger) = self.strangers.iter().find(|stranger| stranger.id == *to) else {
                return false;
            };
            return transport.send(stranger, message).is_ok();
        };
        let sent = transport.send(&peer.server, message);
        if sent.is_ok() != peer.is_reachable {
            peer.is_reachable = sent.is_ok();
            let server = &shared.id;
            if let Err(error) = &sent {
                tracing::warn!(%server, peer = %to, %error, "cannot send");
            } else {
                tracing::info!(%server, peer = %to, "can send again");
            }
        }
        sent.is_ok()
    }
}
