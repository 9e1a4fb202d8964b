//! What one turn of `run` works on, and what the turns remember.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::refusals::Refusals;
use crate::{
    configuration::ServerId,
    consensus::WriteId,
    error::{BootstrapError, VerifyError},
    future::Responder,
    log::EntryPayload,
    position::{LogId, LogIndex, Term},
    rpc::Envelope,
    tasks::{
        node::Requests,
        receive_snapshot::Piece,
        request::{Pending, PendingBatch, Proposal, Proposed, Request, Waiter},
        run_fsm::{Advance, FsmRequest},
        run_log::LogRequest,
        run_snapshots::SnapshotRequest,
    },
    transport::Received,
};

/// What arrives from outside. It outlives the loop that reads it, also when that panics, so that
/// what is still queued can be answered.
pub(in crate::tasks) struct Mail<R> {
    pub(in crate::tasks) requests: Requests<R>,
    pub(in crate::tasks) inbox: Received,
}

/// The ways to the other tasks, which end before `run` only when the node does.
pub(in crate::tasks) struct Queues<R> {
    pub(in crate::tasks) run_log: mpsc::UnboundedSender<LogRequest>,
    pub(in crate::tasks) run_fsm: mpsc::UnboundedSender<FsmRequest<R>>,
    pub(in crate::tasks) run_snapshots: mpsc::Sender<SnapshotRequest>,
    pub(in crate::tasks) receive_snapshot: mpsc::Sender<Piece>,
}

/// Requests taken in one turn at most.
pub(super) const REQUESTS_MAX: usize = 1024;

/// The requests of one turn.
pub(super) struct Intake<R> {
    /// Taken from the queue. Kept, as the others, for their memory.
    pub(super) requests: Vec<Request<R>>,
    /// What was proposed and not yet passed to the core.
    pub(super) payloads: Vec<EntryPayload>,
    /// Who waits for it, at first by position in `payloads`.
    pub(super) proposers: Vec<Waiter<R>>,
    pub(super) verifiers: Vec<Responder<LogIndex, VerifyError>>,
    /// How many requests the last turn that took any has taken.
    pub(super) last_requests: usize,
}

impl<R> Intake<R> {
    pub(super) fn new() -> Self {
        Self {
            requests: Vec::new(),
            payloads: Vec::new(),
            proposers: Vec::new(),
            verifiers: Vec::new(),
            last_requests: 0,
        }
    }

    /// Whether it is worth letting other tasks run before this turn begins: requests came in
    /// company last time, and this time the company is smaller.
    pub(super) fn expects_more(&self) -> bool {
        let count = self.requests.len();
        0 < count && count <= self.last_requests && 1 < self.last_requests
    }

    pub(super) fn propose(&mut self, proposal: Proposal<R>) {
        let position = LogIndex(self.payloads.len() as u64);
        let answer = match proposal.what {
            Proposed::Apply { command, responder } => {
                self.payloads.push(EntryPayload::Command(command));
                Pending::Apply(responder.taken())
            }
            Proposed::Batch { commands, responder } => {
                let batch = PendingBatch::new(position, commands.len(), responder.taken());
                self.payloads.extend(commands.into_iter().map(EntryPayload::Command));
                Pending::Batch(Box::new(batch))
            }
            Proposed::Barrier { responder } => {
                self.payloads.push(EntryPayload::Barrier);
                Pending::Barrier(responder.taken())
            }
        };
        let last = self.payloads.len().saturating_sub(1);
        self.proposers.push(Waiter { index: LogIndex(last as u64), answer });
    }
}

/// Messages taken in one turn at most. Each can cause a write, so a turn can overshoot the core's
/// window by this many.
pub(super) const MESSAGES_MAX: usize = 64;

/// The messages of one turn.
#[derive(Default)]
pub(super) struct Inbound {
    /// Taken from the inbox. Kept for its memory.
    pub(super) messages: Vec<Envelope>,
    /// Chunks of snapshots, until the core has said whether to keep them.
    pub(super) pieces: Vec<Piece>,
    pub(super) refusals: Refusals,
    /// Whether the transport has gone.
    pub(super) is_closed: bool,
}

impl Inbound {
    /// The chunk of a snapshot that has come from this server.
    pub(super) fn take_piece(&mut self, from: &ServerId, chunk: (Term, u64, u64)) -> Option<Piece> {
        let is_it = |piece: &Piece| piece.from == *from && piece.chunk() == chunk;
        self.pieces.iter().position(is_it).map(|position| self.pieces.swap_remove(position))
    }
}

/// What is on its way to the other tasks.
pub(super) struct Dispatch<R> {
    pub(super) queues: Queues<R>,
    /// Accepted, and passed on when everything else is: the peers have the longer way.
    pub(super) writes: Vec<LogRequest>,
    /// The newest write, and the generation of the log since then.
    pub(super) issued: WriteId,
    pub(super) generation: u64,
    /// The newest request to `run_fsm`, while it is one that nobody waits for.
    pub(super) advance: Option<Arc<Advance>>,
    /// Waits until the write of its configuration is issued.
    pub(super) bootstrapper: Option<Responder<(), BootstrapError>>,
    /// Waits until what follows from its snapshot is shown.
    pub(super) snapshot_taker: Option<oneshot::Sender<()>>,
}

impl<R> Dispatch<R> {
    pub(super) fn new(queues: Queues<R>) -> Self {
        Self {
            queues,
            writes: Vec::new(),
            issued: WriteId::default(),
            generation: 0,
            advance: None,
            bootstrapper: None,
            snapshot_taker: None,
        }
    }

    /// Lets the state machine follow the log up to here.
    pub(super) fn commit(&mut self, up_to: LogIndex, waiters: Vec<Waiter<R>>) {
        let request = if waiters.is_empty() {
            // Nobody waits: what is still in the queue can simply be told to go further.
            if self.advance.as_ref().is_some_and(|advance| advance.raise(up_to)) {
                return;
            }
            let advance = Arc::new(Advance::new(up_to));
            self.advance = Some(Arc::clone(&advance));
            FsmRequest::Advance(advance)
        } else {
            self.advance = None;
            FsmRequest::Apply { up_to, waiters }
        };
        let _ = self.queues.run_fsm.send(request);
    }

    /// Lets the state machine be replaced.
    pub(super) fn restore(&mut self, snapshot: LogId, waiters: Vec<Waiter<R>>) {
        // What is raised from now on must come after the snapshot.
        self.advance = None;
        let _ = self.queues.run_fsm.send(FsmRequest::Restore { snapshot, waiters });
    }
}

/// What the loop remembers from turn to turn.
#[derive(Default)]
pub(super) struct TurnState {
    /// The newest durable write that the core knows of.
    pub(super) written: WriteId,
    /// Whether `run_fsm` was told to wake this task.
    pub(super) awaits_applied: bool,
    /// While a timer of the core is due: the turns until everything is told that had arrived before.
    pub(super) turns_until_time: Option<usize>,
    /// This server was removed, and ends when this much is applied: then those who wait for what is
    /// committed have their answer.
    pub(super) ends_at: Option<LogIndex>,
}
