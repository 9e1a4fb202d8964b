//! Accepting clients.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

use super::session;
use crate::server::Server;

/// How long to pause when the operating system has no connection to give (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves clients until the future is dropped.
pub(crate) async fn serve(listener: TcpListener, server: Arc<Server>) {
    let mut last_id = 0;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                last_id += 1;
                tokio::spawn(one(stream, last_id, Arc::clone(&server)));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn one(mut stream: TcpStream, id: u64, server: Arc<Server>) {
    let _counted = Counted::new(Arc::clone(&server));
    if server.limits.connections < server.counters.connections() {
        // In the words of Redis. Whether the client reads them is its affair.
        let _ = stream.write_all(b"-ERR max number of clients reached\r\n").await;
        return;
    }
    if let Err(error) = session::serve(stream, id, server).await {
        tracing::debug!(client = id, %error, "client gone");
    }
}

/// A connection, counted as long as this lives.
struct Counted(Arc<Server>);

impl Counted {
    fn new(server: Arc<Server>) -> Self {
        let before = server.counters.connections.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!("kv_connections").set((before + 1) as f64);
        Self(server)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let before = self.0.counters.connections.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!("kv_connections").set(before.saturating_sub(1) as f64);
    }
}
