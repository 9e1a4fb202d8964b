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
    time::timeout,
};

use super::{
    Protocol, Reply, local,
    out::Out,
    parse::{Parser, ProtocolError},
    request::{self, Meaning},
};
use crate::{
    route::{Origin, Step},
    server::Server,
};

/// How much is read at once.
const READ_BYTES: usize = 64 << 10;
/// How long a client that is being sent away may take to read why.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the server knows of one client.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) server: Arc<Server>,
    pub(crate) id: u64,
    pub(crate) protocol: Protocol,
    pub(crate) name: String,
    pub(crate) origin: Origin,
    /// The client has said goodbye.
    pub(crate) quit: bool,
}

/// Serves one client until it leaves.
pub(crate) async fn serve(mut stream: TcpStream, id: u64, server: Arc<Server>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let limits = server.limits;
    let mut session = Session {
        server,
        id,
        protocol: Protocol::default(),
        name: String::new(),
        origin: Origin::Client(None),
        quit: false,
    };
    let (mut parser, mut buffer) = (Parser::new(limits.request_bytes), BytesMut::new());
    loop {
        let (steps, broken) = take_up(&mut parser, &mut buffer, limits.pipeline);
        if steps.is_empty() && broken.is_none() {
            buffer.reserve(READ_BYTES);
            let read = stream.read_buf(&mut buffer);
            let idle = limits.idle.filter(|_| matches!(session.origin, Origin::Client(_)));
            let len = match idle {
                Some(limit) => timeout(limit, read).await??,
                None => read.await?,
            };
            if len == 0 {
                return Ok(());
            }
            continue;
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
    async fn carry_out<W: AsyncWrite + Unpin>(
        &mut self,
        steps: &[Step],
        out: &mut Out<W>,
    ) -> io::Result<()> {
        self.server.counters.requests.fetch_add(steps.len() as u64, Ordering::Relaxed);
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
