//! Reads that are never stale.
//!
//! A leader may have been deposed without knowing, so before it answers from its own map it has a
//! majority confirm that it leads *now*, and waits until the map has caught up with what was
//! committed at that moment. One confirmation serves every read that was waiting when it began:
//! each round takes all who have asked, and those who ask meanwhile are in the next. (A read must
//! not join a round that began before it: the confirmation would prove nothing about the time
//! between.)

use raft::VerifyError;
use tokio::sync::{mpsc, oneshot};

use crate::Node;

/// Waiting readers at most; with more, a reader waits for its place.
const QUEUE: usize = 1024;

type Ask = oneshot::Sender<Result<(), VerifyError>>;

/// Where reads ask to be made fresh. Dropping it ends its task.
#[derive(Debug)]
pub(crate) struct Reads {
    asks: mpsc::Sender<Ask>,
}

impl Reads {
    pub(crate) fn start(node: Node) -> Self {
        let (asks, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(rounds(node, waiting));
        Self { asks }
    }

    /// Returns when the local map holds everything that was committed when this was called.
    ///
    /// # Errors
    /// When this server does not lead, or can no longer be sure of it. Nothing has happened.
    pub(crate) async fn fresh(&self) -> Result<(), VerifyError> {
        let (ask, answer) = oneshot::channel();
        let stopped = || VerifyError::Stopped(raft::Fatal::Shutdown);
        self.asks.send(ask).await.map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }
}

async fn rounds(node: Node, mut waiting: mpsc::Receiver<Ask>) {
    let mut asks = Vec::new();
    while 0 < waiting.recv_many(&mut asks, QUEUE).await {
        let result = confirm(&node).await;
        for ask in asks.drain(..) {
            // A reader that has given up is not an error.
            let _ = ask.send(result.clone());
        }
    }
}

async fn confirm(node: &Node) -> Result<(), VerifyError> {
    let index = node.verify_leader().await?;
    Ok(node.wait_applied(index).await?)
}
