//! The other servers, as `run` sees them: where to dial each, its `replicate` task, and the task that
//! sends it a snapshot if there is one.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::mpsc;

use super::{
    replicate::{Order, Replicate, Sources},
    send_snapshot::{ANSWERS_MAX, SendSnapshot, Size},
    signals::FailedTransfer,
    supervise::{AbortOnDrop, Tasks},
};
use crate::{
    configuration::{ClusterId, Configuration, Server, ServerAddress, ServerId},
    consensus::{AppendOrder, SnapshotOrder, Time},
    rpc::{InstallOutcome, Message},
    snapshot::SnapshotStore,
    status::WrongAddress,
};

/// Strangers remembered at most: senders that are in no configuration known here.
const STRANGERS_MAX: usize = 64;

pub(super) struct Peers {
    known: Vec<Peer>,
    /// Who else was heard from, and where it can be dialled: a server that knows no configuration
    /// yet must be able to answer its leader. Oldest first.
    strangers: VecDeque<Server>,
    /// Whether this server itself listens elsewhere than the members' list says.
    wrong_address: Option<WrongAddress>,
    sources: Arc<Sources>,
}

struct Peer {
    server: Server,
    orders: mpsc::UnboundedSender<Order>,
    /// How many orders its task has not carried out yet.
    backlog: Arc<AtomicUsize>,
    /// Held for its drop.
    _task: AbortOnDrop,
    /// The snapshot being sent to it.
    transfer: Option<Transfer>,
    /// Whether the last snapshot could not be sent, so that it is told of once.
    lacks_snapshot: bool,
    /// Whether it was told of that it needs a snapshot, and has not got one since.
    needs_snapshot: bool,
}

/// A snapshot being sent.
struct Transfer {
    number: u64,
    answers: mpsc::Sender<u64>,
    size: Arc<Size>,
    begun: Time,
    /// Held for its drop.
    _task: AbortOnDrop,
}

impl Peers {
    pub(super) fn new(sources: Sources) -> Self {
        let (known, strangers, sources) = (Vec::new(), VecDeque::new(), Arc::new(sources));
        Self { known, strangers, wrong_address: None, sources }
    }

    /// Looks whether this server listens where the members' list says, and says once if not.
    pub(super) fn check_own_address(&mut self, members: &Configuration) {
        let id = &self.sources.shared.id;
        let actual = self.sources.transport.local_address();
        let listed = members.server(id).map(|server| &server.address);
        let wrong = listed
            .filter(|listed| **listed != actual)
            .map(|listed| WrongAddress { listed: listed.clone(), actual });
        if let Some(wrong) =
            wrong.as_ref().filter(|wrong| self.wrong_address.as_ref() != Some(wrong))
        {
            tracing::warn!(server = %id, "{wrong}");
        }
        self.wrong_address = wrong;
    }

    /// What will keep the log from being written before long.
    pub(super) fn log_trouble(&self) -> Option<String> {
        self.sources.reader.trouble()
    }

    pub(super) fn wrong_address(&self) -> Option<&WrongAddress> {
        self.wrong_address.as_ref()
    }

    /// The largest message that can be sent to them, as the transport counts.
    pub(super) fn max_entries_bytes(&self) -> u64 {
        self.sources.transport.max_entries_bytes()
    }

    /// What is sent from now on is said in the name of this cluster.
    pub(super) fn set_cluster(&self, cluster: ClusterId) {
        self.sources.transport.set_cluster(cluster);
    }

    /// Where snapshots are kept.
    pub(super) fn snapshots(&self) -> Arc<dyn SnapshotStore> {
        Arc::clone(&self.sources.snapshots)
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
            if let Some(transfer) = &gone.transfer
                && self.known.iter().any(|peer| peer.server.id == gone.server.id)
            {
                // It is somewhere else now, where it must be sent anew.
                self.sources.shared.signals.snapshot_failed(FailedTransfer {
                    peer: gone.server.id.clone(),
                    transfer: transfer.number,
                    reason: "its address has changed".to_owned(),
                });
            }
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
        Peer {
            server,
            orders,
            backlog,
            _task: AbortOnDrop(task),
            transfer: None,
            lacks_snapshot: false,
            needs_snapshot: false,
        }
    }

    /// Begins to send a snapshot, in the place of whatever snapshot is being sent to the peer.
    pub(super) fn send_snapshot(&mut self, order: SnapshotOrder, tasks: &mut Tasks) {
        let Some(peer) = find(&mut self.known, &order.to) else { return };
        let (answers, queue) = mpsc::channel(ANSWERS_MAX);
        let size = Arc::new(Size::default());
        let number = order.transfer;
        let send = SendSnapshot {
            peer: peer.server.clone(),
            sources: Arc::clone(&self.sources),
            order,
            answers: queue,
            size: Arc::clone(&size),
        };
        let task = AbortOnDrop(tasks.spawn("send_snapshot", send.run()));
        let begun = self.sources.shared.clock.now();
        peer.transfer = Some(Transfer { number, answers, size, begun, _task: task });
    }

    /// Passes on what the peer has answered to a piece of a snapshot; the transfer ends with any
    /// answer but that it goes on.
    pub(super) fn snapshot_answered(
        &mut self,
        from: &ServerId,
        transfer: u64,
        outcome: &InstallOutcome,
    ) {
        let Some(peer) = find(&mut self.known, from) else { return };
        let Some(current) = peer.transfer.as_ref().filter(|current| current.number == transfer)
        else {
            return;
        };
        match outcome {
            // An answer that finds no room is lost, which the sender copes with.
            InstallOutcome::Received { next_offset } => _ = current.answers.try_send(*next_offset),
            InstallOutcome::Installed { .. } => {
                let took = self.sources.shared.clock.now().since(current.begun);
                self.sources.metrics.snapshot_delivered(took);
                peer.transfer = None;
                peer.lacks_snapshot = false;
                peer.needs_snapshot = false;
            }
            InstallOutcome::Refused => {
                peer.transfer = None;
                let (server, peer) = (&self.sources.shared.id, &peer.server.id);
                tracing::debug!(%server, %peer, "the peer refuses the snapshot");
            }
            InstallOutcome::StaleTerm => peer.transfer = None,
        }
    }

    /// A snapshot could not be sent.
    pub(super) fn snapshot_failed(&mut self, failed: &FailedTransfer) {
        let Some(peer) = find(&mut self.known, &failed.peer) else { return };
        peer.transfer.take_if(|current| current.number == failed.transfer);
        self.sources.metrics.snapshot_failed();
        let (server, reason) = (&self.sources.shared.id, &failed.reason);
        if !std::mem::replace(&mut peer.lacks_snapshot, true) {
            tracing::warn!(%server, peer = %failed.peer, reason, "cannot send a snapshot");
        }
    }

    /// Notes that a peer needs a snapshot; returns whether that is news. One that cannot be sent is
    /// needed again and again.
    pub(super) fn needs_snapshot(&mut self, peer: &ServerId) -> bool {
        let known = find(&mut self.known, peer);
        known.is_some_and(|peer| !std::mem::replace(&mut peer.needs_snapshot, true))
    }

    /// Sends no more snapshots: this server does not lead any more.
    pub(super) fn end_snapshots(&mut self) {
        self.known.iter_mut().for_each(|peer| peer.transfer = None);
    }

    /// The size of the snapshot that is being sent to this peer, in bytes.
    pub(super) fn snapshot_size_bytes(&self, peer: &ServerId) -> Option<u64> {
        let peer = self.known.iter().find(|known| known.server.id == *peer)?;
        peer.transfer.as_ref()?.size.bytes()
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
        self.strangers.push_back(Server::nonvoter(id, address));
    }

    /// Gives an order to the peer's `replicate` task.
    pub(super) fn replicate(&self, order: AppendOrder, generation: u64) {
        if let Some(peer) = self.known.iter().find(|peer| peer.server.id == order.to) {
            let order = Order { order, generation, incarnation: peer.server.incarnation };
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

    /// Sends a message now or never. Returns whether the transport took it, which does not say that
    /// it goes out: whether a peer is connected is the transport's to tell.
    pub(super) fn send(&self, to: &ServerId, message: Message) -> bool {
        let known = self.known.iter().map(|peer| &peer.server).chain(&self.strangers);
        let Some(peer) = known.into_iter().find(|peer| peer.id == *to) else { return false };
        let sent = self.sources.transport.send(peer, message);
        if let Err(error) = &sent {
            tracing::debug!(server = %self.sources.shared.id, peer = %to, %error, "cannot send");
        }
        sent.is_ok()
    }
}

fn find<'a>(known: &'a mut [Peer], id: &ServerId) -> Option<&'a mut Peer> {
    known.iter_mut().find(|peer| peer.server.id == *id)
}
