//! The way to a server that cannot be reached at its address, but calls from another one: it has moved, or
//! two have swapped their addresses, and the configuration does not know yet.
//!
//! It is two connections that nobody keeps up. They are made when there is something to send, and when one
//! of them ends both do. So they cannot fight for long with those to the server's own address, which come to
//! the same server if that works again, and push these out; and nothing goes on dialling an address from
//! which nobody calls any more.

use std::sync::Arc;

use raft::{Server, ServerAddress};
use tokio::time::Instant;
use tracing::{debug, info};

use super::{Dialler, Peer, dial, send_messages};
use crate::handshake::Lane;

/// A way, alive or not.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) peer: Arc<Peer>,
    made_at: Instant,
}

impl Way {
    pub(super) fn new(to: &Server, address: &ServerAddress, dialler: &Dialler) -> Self {
        let there = to.clone().with(|it| it.address = address.clone());
        let peer = Arc::new(Peer::new(&there, dialler));
        for lane in [Lane::Urgent, Lane::Entries] {
            let task = carry(Arc::clone(&peer), lane, dialler.clone());
            dialler.tracker.spawn_on(task, &dialler.runtime);
        }
        Self { peer, made_at: Instant::now() }
    }

    pub(super) fn leads_to(&self, address: &ServerAddress) -> bool {
        self.peer.address == *address
    }

    pub(super) fn is_open(&self) -> bool {
        self.peer.urgent.is_open()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.peer.urgent.is_connected()
    }

    /// Whether it was tried a moment ago: what is sent may be much, attempts are not.
    pub(super) fn is_fresh(&self, dialler: &Dialler) -> bool {
        Instant::now() < self.made_at + dialler.options.backoff_min
    }
}

/// Carries what is sent over one connection, until that ends, and the way with it.
async fn carry(peer: Arc<Peer>, lane: Lane, dialler: Dialler) {
    let work = async {
        let stream = match dial(&peer, lane, &dialler).await {
            Ok(stream) => stream,
            Err(error) => return error.to_string(),
        };
        let Some(messages) = peer.queue(lane).connected() else {
            return "it was given up".to_owned();
        };
        if lane == Lane::Urgent {
            let (peer, address) = (&peer.id, &peer.address);
            info!(%peer, %address, "a peer is reached where it calls from, not at its address");
        }
        let (read, write) = stream.into_split();
        let ended = send_messages(&peer, read, write, messages, &dialler).await;
        format!("connection lost: {ended}")
    };
    if let Some(reason) = peer.token.run_until_cancelled(work).await {
        debug!(peer = %peer.id, address = %peer.address, ?lane, reason, "no way to a peer that calls");
    }
    peer.end();
}
