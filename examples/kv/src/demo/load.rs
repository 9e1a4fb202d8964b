//! Writing from many connections at once, and keeping a book of what was acknowledged.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    cluster::PATIENCE,
    dataset::{Pair, generated},
};
use crate::{
    failure::Failure,
    resp::{Args, Reply, client::Client},
};

/// Connections, spread over all servers: whoever does not lead passes writes on.
const WRITERS: usize = 12;
/// Writes of one connection under way at once.
const PIPELINE: u32 = 64;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// After a server could not be reached, or wrote nothing.
const PAUSE: Duration = Duration::from_millis(20);

/// What is known about the writes. Shared by all writers.
#[derive(Debug)]
pub(super) struct Book {
    entries: Mutex<Entries>,
}

#[derive(Debug)]
struct Entries {
    /// The number of the next generated write, where to wait, and how many there are.
    next: u32,
    gate: u32,
    end: u32,
    acknowledged: Vec<Pair>,
    last_acknowledged: Instant,
    longest_silence: Duration,
    unknown: u64,
    refused: u64,
}

/// The book in numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Totals {
    pub(super) acknowledged: u32,
    /// Times a write's outcome was unknown, so that it was written again.
    pub(super) unknown: u64,
    /// Times a write was certainly not carried out, so that it was written again.
    pub(super) refused: u64,
    /// The longest time in which no write was acknowledged.
    pub(super) longest_silence: Duration,
}

impl Book {
    /// A book for this many generated writes. The last quarter of them waits for
    /// [`open_the_gate`](Self::open_the_gate), so that something is left to be written when the
    /// leader dies, however fast the cluster is.
    pub(super) fn new(writes: u32) -> Arc<Self> {
        let entries = Entries {
            next: 0,
            gate: writes - writes / 4,
            end: writes,
            acknowledged: Vec::new(),
            last_acknowledged: Instant::now(),
            longest_silence: Duration::ZERO,
            unknown: 0,
            refused: 0,
        };
        Arc::new(Self { entries: Mutex::new(entries) })
    }

    pub(super) fn totals(&self) -> Totals {
        let entries = self.entries.lock();
        Totals {
            acknowledged: u32::try_from(entries.acknowledged.len()).unwrap_or(u32::MAX),
            unknown: entries.unknown,
            refused: entries.refused,
            longest_silence: entries.longest_silence,
        }
    }

    /// Lets the last quarter be written, and forgets the silences so far.
    pub(super) fn open_the_gate(&self) {
        let mut entries = self.entries.lock();
        entries.gate = entries.end;
        entries.longest_silence = Duration::ZERO;
    }

    /// Everything that was acknowledged.
    pub(super) fn acknowledged(&self) -> Vec<Pair> {
        self.entries.lock().acknowledged.clone()
    }

    /// What is to be written next, perhaps nothing yet; `None` when there is nothing more.
    fn next_batch(&self) -> Option<Vec<Pair>> {
        let mut entries = self.entries.lock();
        let end = entries.gate.min(entries.next.saturating_add(PIPELINE));
        let batch = (entries.next..end).map(generated).collect();
        entries.next = end;
        (entries.next < entries.end || !Vec::is_empty(&batch)).then_some(batch)
    }

    /// Enters what became of a batch; returns what has to be written again.
    fn enter(&self, batch: Vec<Pair>, replies: Vec<Reply>) -> Vec<Pair> {
        let mut entries = self.entries.lock();
        // No reply at all: the connection broke first.
        let lost = std::iter::repeat(Reply::error("UNKNOWN"));
        let mut again = Vec::new();
        for (pair, reply) in batch.into_iter().zip(replies.into_iter().chain(lost)) {
            match reply {
                Reply::Error(text) => {
                    let unknown = text.starts_with("UNKNOWN");
                    entries.unknown += u64::from(unknown);
                    entries.refused += u64::from(!unknown);
                    again.push(pair);
                }
                _ => entries.acknowledged.push(pair),
            }
        }
        if again.is_empty() {
            let silence = entries.last_acknowledged.elapsed();
            entries.longest_silence = entries.longest_silence.max(silence);
            entries.last_acknowledged = Instant::now();
        }
        again
    }

    fn silence(&self) -> Duration {
        self.entries.lock().last_acknowledged.elapsed()
    }
}

/// Writes these pairs through one server, and enters them.
pub(super) async fn write_all(
    book: &Arc<Book>,
    pairs: Vec<Pair>,
    server: &str,
) -> Result<(), Failure> {
    Writer { book: Arc::clone(book), servers: vec![server.to_owned()], turn: 0, client: None }
        .write(pairs)
        .await
}

/// Writes all generated pairs through all servers, until every one is acknowledged.
pub(super) async fn run(book: &Arc<Book>, servers: &[String]) -> Result<(), Failure> {
    book.entries.lock().last_acknowledged = Instant::now();
    let mut writers: JoinSet<Result<(), Failure>> = JoinSet::new();
    for turn in 0..WRITERS {
        let mut writer =
            Writer { book: Arc::clone(book), servers: servers.to_vec(), turn, client: None };
        writers.spawn(async move {
            while let Some(batch) = writer.book.next_batch() {
                if batch.is_empty() {
                    sleep(PAUSE).await;
                }
                writer.write(batch).await?;
            }
            Ok(())
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.map_err(Failure::new)??;
    }
    Ok(())
}

/// One connection, and where to go when it breaks.
struct Writer {
    book: Arc<Book>,
    servers: Vec<String>,
    turn: usize,
    client: Option<Client>,
}

impl Writer {
    /// Writes a batch until all of it is acknowledged.
    async fn write(&mut self, mut batch: Vec<Pair>) -> Result<(), Failure> {
        while !batch.is_empty() {
            let replies = self.attempt(&batch).await;
            let before = batch.len();
            batch = match replies {
                Some(replies) => self.book.enter(batch, replies),
                None => batch,
            };
            if PATIENCE < self.book.silence() {
                return Err(Failure::new(format!("no write was accepted for {PATIENCE:?}")));
            }
            if batch.len() == before {
                sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    /// The replies that came; `None` when nothing was even sent.
    async fn attempt(&mut self, batch: &[Pair]) -> Option<Vec<Reply>> {
        let server = &self.servers[self.turn % self.servers.len()];
        let mut client = match self.client.take() {
            Some(client) => client,
            None => match Client::connect(server, CONNECT_TIMEOUT).await {
                Ok(client) => client,
                Err(_) => {
                    self.turn += 1;
                    return None;
                }
            },
        };
        let set =
            |(key, value): &Pair| vec![Bytes::from_static(b"SET"), key.clone(), value.clone()];
        let requests: Vec<Args> = batch.iter().map(set).collect();
        let mut replies = Vec::with_capacity(batch.len());
        match client.call(requests.iter().map(Vec::as_slice), &mut replies).await {
            Ok(()) => self.client = Some(client),
            Err(_) => self.turn += 1,
        }
        Some(replies)
    }
}
