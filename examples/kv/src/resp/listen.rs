//! Accepting clients.

use std::sync::{Arc, atomic::Ordering};

use tokio::net::TcpStream;

use super::session;
use crate::{accept::Door, server::Server};

/// Serves clients until the future is dropped.
pub(crate) async fn serve(mut door: Door, server: Arc<Server>) {
    loop {
        let stream = door.next().await;
        let id = server.counters.accepted.fetch_add(1, Ordering::Relaxed) + 1;
        tokio::spawn(one(stream, id, Arc::clone(&server)));
    }
}

async fn one(stream: TcpStream, id: u64, server: Arc<Server>) {
    let Some(place) = server.places.enter() else {
        server.counters.rejected.fetch_add(1, Ordering::Relaxed);
        // Whether it is read is the client's affair: there is no room to wait for it.
        let _ = stream.try_write(session::NO_PLACE.as_bytes());
        return;
    };
    if let Err(error) = session::serve(stream, id, place, server).await {
        tracing::debug!(client = id, %error, "client gone");
    }
}
