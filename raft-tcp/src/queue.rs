//! The queue of one lane to one peer: open while there is hope of delivery, shut otherwise.
//!
//! Every opening makes a new channel, so that shutting the queue drops what waited in it and wakes
//! whoever waits for room: nothing old is delivered after a long absence, and nobody hangs.

use std::{mem, sync::Arc};

use parking_lot::Mutex;
use raft::Message;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

/// A message on its way, the disk its receiver is expected to run on, and the room it takes.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) message: Message,
    pub(crate) expects: u64,
    _room: Option<OwnedSemaphorePermit>,
}

/// Why a message was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// No room.
    Full,
    /// The peer cannot be reached.
    Shut(Arc<str>),
    /// The lane has ended for good.
    Ended,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Queue {
    max_messages: usize,
    max_bytes: u32,
    state: Mutex<State>,
    life: Notify,
}

#[derive(Debug)]
enum State {
    Open { channel: Channel, receiver: Option<mpsc::Receiver<Queued>> },
    Shut(Arc<str>),
    Ended,
}

#[derive(Clone, Debug)]
struct Channel {
    sender: mpsc::Sender<Queued>,
    /// One permit for each byte of entries or of a snapshot.
    room: Arc<Semaphore>,
}

impl Queue {
    /// An open queue.
    pub(crate) fn new(max_messages: usize, max_bytes: u64) -> Self {
        let max_bytes = u32::try_from(max_bytes).unwrap_or(u32::MAX);
        let queue =
            Self { max_messages, max_bytes, state: Mutex::new(State::Ended), life: Notify::new() };
        *queue.state.lock() = queue.opened();
        queue
    }

    fn opened(&self) -> State {
        let (sender, receiver) = mpsc::channel(self.max_messages);
        let room = Arc::new(Semaphore::new(self.max_bytes as usize));
        State::Open { channel: Channel { sender, room }, receiver: Some(receiver) }
    }

    /// Why there is no hope of delivery, if there is none.
    pub(crate) fn hopeless_because(&self) -> Option<Arc<str>> {
        match &*self.state.lock() {
            State::Shut(reason) => Some(Arc::clone(reason)),
            State::Open { .. } | State::Ended => None,
        }
    }

    /// Whether it takes messages.
    pub(crate) fn is_open(&self) -> bool {
        matches!(&*self.state.lock(), State::Open { .. })
    }

    /// Whether somebody takes them out: the peer is connected.
    pub(crate) fn is_connected(&self) -> bool {
        matches!(&*self.state.lock(), State::Open { receiver: None, .. })
    }

    /// Takes a message if there is room for it now.
    pub(crate) fn try_push(&self, message: Message, expects: u64) -> Result<(), Rejected> {
        match &*self.state.lock() {
            State::Open { channel: Channel { sender, room }, .. } => {
                let room = match self.cost(&message) {
                    0 => None,
                    cost => {
                        let room = Arc::clone(room).try_acquire_many_owned(cost);
                        Some(room.map_err(|_| Rejected::Full)?)
                    }
                };
                let queued = Queued { message, expects, _room: room };
                sender.try_send(queued).map_err(|error| match error {
                    mpsc::error::TrySendError::Full(_) => Rejected::Full,
                    mpsc::error::TrySendError::Closed(_) => lost(),
                })
            }
            State::Shut(reason) => Err(Rejected::Shut(Arc::clone(reason))),
            State::Ended => Err(Rejected::Ended),
        }
    }

    /// Takes a message as soon as there is room for it.
    ///
    /// # Cancel safety
    /// A dropped call leaves the message taken or not taken.
    pub(crate) async fn push(&self, message: Message, expects: u64) -> Result<(), Rejected> {
        let Channel { sender, room } = match &*self.state.lock() {
            State::Open { channel, .. } => channel.clone(),
            State::Shut(reason) => return Err(Rejected::Shut(Arc::clone(reason))),
            State::Ended => return Err(Rejected::Ended),
        };
        let room = match self.cost(&message) {
            0 => None,
            cost => Some(room.acquire_many_owned(cost).await.map_err(|_| self.why_shut())?),
        };
        let queued = Queued { message, expects, _room: room };
        sender.send(queued).await.map_err(|_| self.why_shut())
    }

    /// What a message takes of the room for bytes; at most all of it.
    fn cost(&self, message: &Message) -> u32 {
        u32::try_from(message.bulk_bytes().unwrap_or_default())
            .unwrap_or(u32::MAX)
            .min(self.max_bytes)
    }

    fn why_shut(&self) -> Rejected {
        match &*self.state.lock() {
            State::Open { .. } => lost(),
            State::Shut(reason) => Rejected::Shut(Arc::clone(reason)),
            State::Ended => Rejected::Ended,
        }
    }

    /// Opens the queue if it is shut, and hands out the receiving end if nobody has it.
    pub(crate) fn connected(&self) -> Option<mpsc::Receiver<Queued>> {
        let mut state = self.state.lock();
        if matches!(*state, State::Shut(_)) {
            *state = self.opened();
        }
        match &mut *state {
            State::Open { receiver, .. } => receiver.take(),
            State::Shut(_) | State::Ended => None,
        }
    }

    /// Drops what waits, and rejects what comes, until there is new hope.
    pub(crate) fn shut(&self, reason: &str) {
        self.replace(State::Shut(Arc::from(reason)));
    }

    /// Drops what waits, and rejects what comes, for ever.
    pub(crate) fn end(&self) {
        self.replace(State::Ended);
    }

    fn replace(&self, next: State) {
        let mut state = self.state.lock();
        if matches!(*state, State::Ended) {
            return;
        }
        if let State::Open { channel, .. } = mem::replace(&mut *state, next) {
            channel.room.close();
        }
    }

    /// The peer was heard of: opens the queue if it is shut and wakes who waits for
    /// [`life`](Self::life).
    pub(crate) fn sign_of_life(&self) {
        let mut state = self.state.lock();
        if matches!(*state, State::Shut(_)) {
            *state = self.opened();
            drop(state);
            self.life.notify_one();
        }
    }

    /// Waits for a sign of life that came while the queue was shut.
    pub(crate) async fn life(&self) {
        self.life.notified().await;
    }
}

fn lost() -> Rejected {
    Rejected::Shut(Arc::from("the connection was lost"))
}

#[cfg(test)]
mod tests;
