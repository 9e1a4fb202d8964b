//! One client's connection.
//!
//! Everything that has arrived is taken up together. Consecutive writes of a pipeline go into the
//! log as one batch, consecutive reads share one confirmation of leadership, and the replies go
//! back in the order of the requests.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Protocol, Reply,
    clients::Entered,
    local,
    out::Out,
    parse::{Parser, ProtocolError},
    request::{self, Local, Meaning},
};
use crate::{
    places::Place,
    route::{Origin, Step},
    server::Server,
};

/// How much is read at once.
const READ_BYTES: usize = 64 << 10;
/// How long a client that is being sent away may take to read why.
const FAREWELL: Duration = Duration::from_secs(1);
/// In the words of Redis.
pub(crate) const NO_PLACE: &str = "-ERR max number of clients reached\r\n";

/// What the server knows of one client.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) server: Arc<Server>,
    pub(crate) card: Entered,
    pub(crate) place: Place,
    pub(crate) protocol: Protocol,
    pub(crate) origin: Origin,
    pub(crate) refused: Refused,
    /// The client has said goodbye, or is told to go.
    pub(crate) quit: bool,
}

/// Commands that decide what the ones behind them mean, and were refused: what is behind them is not to be
/// carried out, because it would not be what the client means.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Refused {
    /// `MULTI`. Nothing is carried out until the transaction is over.
    pub(crate) transaction: bool,
    /// `SELECT` of another database. No key is read or written until the right one is selected.
    pub(crate) database: bool,
}

/// Serves one client until it leaves.
pub(crate) async fn serve(
    mut stream: TcpStream,
    id: u64,
    place: Place,
    server: Arc<Server>,
) -> io::Result<()> {
    let limits = server.limits;
    let mut session = Session {
        card: server.clients.enter(id, &stream),
        server,
        place,
        protocol: Protocol::default(),
        origin: Origin::Client(None),
        refused: Refused::default(),
        quit: false,
    };
    let (mut parser, mut buffer) = (Parser::new(limits.request_bytes), BytesMut::new());
    loop {
        let (steps, broken) = take_up(&mut parser, &mut buffer, limits.pipeline);
        if steps.is_empty() && broken.is_none() {
            buffer.reserve(READ_BYTES);
            match session.read(&mut stream, &mut buffer).await {
                Ok(0) => return Ok(()),
                Ok(_) => continue,
                Err(_) if session.is_on_the_doorstep() => {
                    session.server.counters.rejected.fetch_add(1, Ordering::Relaxed);
                    stream.write_all(NO_PLACE.as_bytes()).await?;
                    return farewell(stream).await;
                }
                Err(error) => return Err(error),
            }
        }
        let mut out = Out::new(&mut stream, session.protocol);
        session.carry_out(&steps, &mut out).await?;
        let broken = broken.filter(|_| !session.quit);
        if let Some(ProtocolError(why)) = &broken {
            out.reply(&Reply::error(format!("ERR Protocol error: {why}"))).await?;
        }
        out.send().await?;
        if broken.is_some() || session.quit {
            return farewell(stream).await;
        }
    }
}

/// All complete requests in the buffer, and why the rest cannot be understood, if it cannot.
fn take_up(
    parser: &mut Parser,
    buffer: &mut BytesMut,
    max: usize,
) -> (Vec<Step>, Option<ProtocolError>) {
    let mut steps = Vec::new();
    while steps.len() < max {
        match parser.next(buffer) {
            Ok(None) => break,
            Ok(Some(args)) => {
                let meaning = request::meaning(&args);
                steps.push(Step { args, meaning });
            }
            Err(error) => return (steps, Some(error)),
        }
    }
    (steps, None)
}

/// Closes the connection so that the client can still read what was written: closing with unread
/// bytes would make the operating system throw our last words away.
async fn farewell(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = vec![0; READ_BYTES];
    let drain = async { while matches!(stream.read(&mut rest).await, Ok(1..)) {} };
    // A client that goes on sending is not waited for.
    let _ = timeout(FAREWELL, drain).await;
    Ok(())
}

impl Session {
    fn is_on_the_doorstep(&self) -> bool {
        matches!(self.place, Place::Doorstep { .. })
    }

    /// Reads more, within the time that this client has.
    async fn read(&self, stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<usize> {
        let until = match (&self.place, &self.origin) {
            (Place::Doorstep { until, .. }, _) => Some(*until),
            (_, Origin::Client(_)) => self.server.limits.idle.map(|limit| Instant::now() + limit),
            (_, Origin::Server { .. }) => None,
        };
        let read = stream.read_buf(buffer);
        match until {
            Some(until) => timeout_at(until, read).await?,
            None => read.await,
        }
    }

    /// Why a command is not carried out here and now, if it is not.
    fn objection(&mut self, meaning: &Meaning) -> Option<Reply> {
        if self.is_on_the_doorstep() && *meaning != Meaning::Local(Local::Forwarded) {
            self.quit = true;
            self.server.counters.rejected.fetch_add(1, Ordering::Relaxed);
            return Some(Reply::error("ERR max number of clients reached"));
        }
        let ends_transaction = matches!(
            meaning,
            Meaning::Local(
                Local::Multi | Local::Exec | Local::Discard | Local::Reset | Local::Quit
            )
        );
        if self.refused.transaction && !ends_transaction {
            return Some(Reply::error(
                "ERR not carried out: MULTI was refused, and so is everything until EXEC, DISCARD or \
                 RESET",
            ));
        }
        if self.refused.database && matches!(meaning, Meaning::Write(_) | Meaning::Read(_)) {
            return Some(Reply::error(
                "ERR not carried out: SELECT was refused, and so is everything about keys until \
                 SELECT 0 or RESET",
            ));
        }
        None
    }

    async fn carry_out<W: AsyncWrite + Unpin>(
        &mut self,
        steps: &[Step],
        out: &mut Out<W>,
    ) -> io::Result<()> {
        self.server.counters.requests.fetch_add(steps.len() as u64, Ordering::Relaxed);
        if let Some(name) = steps.last().and_then(|step| step.args.first()) {
            self.card.asks(name);
        }
        for run in steps.chunk_by(|a, b| is_alike(&a.meaning, &b.meaning)) {
            self.run(run, out).await?;
            if self.quit {
                break;
            }
        }
        Ok(())
    }

    async fn run<W: AsyncWrite + Unpin>(
        &mut self,
        run: &[Step],
        out: &mut Out<W>,
    ) -> io::Result<()> {
        let Some(first) = run.first() else { return Ok(()) };
        if let Some(objection) = self.objection(&first.meaning) {
            return out.replies(&objection, run.len()).await;
        }
        let kind = match &first.meaning {
            Meaning::Write(_) => "write",
            Meaning::Read(_) => "read",
            Meaning::Local(command) => {
                let reply = local::answer(self, *command, &first.args);
                out.protocol = self.protocol;
                return out.reply(&reply).await;
            }
            Meaning::Wrong(reply) => return out.reply(reply).await,
        };
        metrics::counter!("kv_requests_total", "kind" => kind).increment(run.len() as u64);
        self.server.router.run(run, &mut self.origin, out).await
    }
}

/// Whether two neighbours in a pipeline are carried out together.
fn is_alike(a: &Meaning, b: &Meaning) -> bool {
    matches!((a, b), (Meaning::Write(_), Meaning::Write(_)) | (Meaning::Read(_), Meaning::Read(_)))
}
