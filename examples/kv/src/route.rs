//! Carrying requests out where they must be carried out: here if this server leads, else at the
//! leader, over RESP.
//!
//! Each client's connection that needs it has a connection of its own to the leader, so requests
//! meet the leader exactly as they met us: pipelined, in order, and not behind anybody else's. The
//! leader is told that they were passed on (`RAFT.FORWARDED`, with the name of whom we take for the
//! leader), so it never passes them on again: it carries them out or refuses.
//!
//! A request is tried again only when it is certain that it was not carried out (or when it is a
//! read, which does no harm twice). When a write's outcome cannot be known, the client is told so.

use std::{fmt, io, sync::Arc, time::Duration};

use raft::{ApplyError, Outcome, ServerId, VerifyError};
use tokio::{
    io::AsyncWrite,
    time::{Instant, sleep},
};

use crate::{
    Node,
    fsm::Shared,
    reads::Reads,
    resp::{
        Args, Reply,
        client::{Client, PassError},
        out::Out,
        request::Meaning,
    },
};

/// How often a request that waits for a leader looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// A leader that cannot be reached within this is not taken for one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The first word of a refusal among servers. Clients never see it.
const NOT_LEADER: &str = "NOTLEADER";
/// How a reply begins that is one.
const REFUSAL: &[u8] = b"-NOTLEADER ";

/// How long requests wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For a leader to be found.
    pub(crate) no_leader: Duration,
    /// For the leader to answer what was passed on to it.
    pub(crate) forward: Duration,
}

/// A request and what it means: a write or a read, when it comes here.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) args: Args,
    pub(crate) meaning: Meaning,
}

/// Who asks.
#[derive(Debug)]
pub(crate) enum Origin {
    /// A client, with the connection its requests are passed on over, once there is one.
    Client(Option<Link>),
    /// Another server that takes us for the leader. Once refused, always refused: what it has sent
    /// after the refused request must not overtake it.
    Server { refused: bool },
}

/// A connection to the leader.
#[derive(Debug)]
pub(crate) struct Link {
    leader: ServerId,
    client: Client,
}

/// Finds the place for requests.
pub(crate) struct Router {
    node: Node,
    shared: Arc<Shared>,
    reads: Reads,
    patience: Patience,
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("patience", &self.patience).finish_non_exhaustive()
    }
}

/// Why requests were certainly not carried out now, and may be tried again.
enum NotNow {
    NoLeader,
    /// There is one, but it does not take them.
    Leader(String),
}

impl Router {
    pub(crate) fn new(node: Node, shared: Arc<Shared>, patience: Patience) -> Self {
        let reads = Reads::start(node.clone());
        Self { node, shared, reads, patience }
    }

    /// Carries out a run of requests, all writes or all reads, and gives one reply for each.
    ///
    /// # Errors
    /// When the replies cannot be given.
    pub(crate) async fn run<W: AsyncWrite + Unpin>(
        &self,
        run: &[Step],
        origin: &mut Origin,
        out: &mut Out<W>,
    ) -> io::Result<()> {
        let link = match origin {
            Origin::Client(link) => link,
            Origin::Server { refused } => return self.run_for_server(run, refused, out).await,
        };
        let mut rest = run;
        let deadline = Instant::now() + self.patience.no_leader;
        while let Err(why) = self.attempt(&mut rest, link, out).await? {
            if let Some(end) = self.node.fatal() {
                return out.replies(&stopped(&end), rest.len()).await;
            }
            if deadline <= Instant::now() {
                return out.replies(&self.no_leader(why), rest.len()).await;
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    async fn run_for_server<W: AsyncWrite + Unpin>(
        &self,
        run: &[Step],
        refused: &mut bool,
        out: &mut Out<W>,
    ) -> io::Result<()> {
        if !*refused {
            match self.here(run).await {
                Ok(replies) => return give(&replies, out).await,
                Err(_) => *refused = true,
            }
        }
        let refusal = format!("{NOT_LEADER} server {} does not lead", self.node.id());
        out.replies(&Reply::error(refusal), run.len()).await
    }

    /// Has the requests carried out by the leader; `rest` are those that were not, when that fails.
    async fn attempt<W: AsyncWrite + Unpin>(
        &self,
        rest: &mut &[Step],
        link: &mut Option<Link>,
        out: &mut Out<W>,
    ) -> io::Result<Result<(), NotNow>> {
        let Some(leader) = self.node.leader() else { return Ok(Err(NotNow::NoLeader)) };
        if leader.id == *self.node.id() {
            // To whoever led before.
            *link = None;
            return match self.here(rest).await {
                Ok(replies) => give(&replies, out).await.map(Ok),
                Err(why) => Ok(Err(why)),
            };
        }
        let Some(contact) = self.shared.contact(&leader.id) else {
            let why = format!("leader {} has not said yet where it takes requests", leader.id);
            return Ok(Err(NotNow::Leader(why)));
        };
        let open = match link.take() {
            Some(open) if open.leader == leader.id && !open.client.is_closed() => Ok(open),
            _ => Link::open(leader.id.clone(), &contact.resp).await,
        };
        match open {
            Ok(open) => self.there(rest, open, link, out).await,
            Err(error) => {
                let why =
                    format!("leader {} at {} takes no requests: {error}", leader.id, contact.resp);
                tracing::debug!(why, "cannot reach the leader");
                Ok(Err(NotNow::Leader(why)))
            }
        }
    }

    async fn here(&self, run: &[Step]) -> Result<Vec<Reply>, NotNow> {
        if is_write(run) { self.write_here(run).await } else { self.read_here(run).await }
    }

    /// One batch, so that a pipeline is one write to the log.
    async fn write_here(&self, run: &[Step]) -> Result<Vec<Reply>, NotNow> {
        let commands = run.iter().filter_map(|step| match &step.meaning {
            Meaning::Write(command) => Some(command.clone()),
            Meaning::Read(_) | Meaning::Local(_) | Meaning::Wrong(_) => None,
        });
        let error = match self.node.apply_batch(commands.collect()).await {
            Ok(applied) => return Ok(applied.into_iter().map(|a| a.response).collect()),
            Err(error) => error,
        };
        let reply = match (&error, error.outcome()) {
            (ApplyError::NotLeader { .. }, _) => return Err(NotNow::NoLeader),
            (ApplyError::TransferInProgress, _) => return Err(self.cannot_lead(&error)),
            // Its own words say so already.
            (ApplyError::LeadershipLost | ApplyError::ReplacedBySnapshot, _) => {
                Reply::error(format!("UNKNOWN {error}"))
            }
            (_, Outcome::Unknown) => unknown(&error),
            (ApplyError::EnqueueTimeout { .. } | ApplyError::RestoreInProgress, _) => busy(&error),
            (_, Outcome::NotApplied) => Reply::error(format!("ERR {error}; nothing was written")),
        };
        Ok(vec![reply; run.len()])
    }

    /// One confirmation of leadership, so that a pipeline of reads costs one round.
    async fn read_here(&self, run: &[Step]) -> Result<Vec<Reply>, NotNow> {
        match self.reads.fresh().await {
            Ok(()) => {
                let answer = |state: &_| {
                    let answers = run.iter().filter_map(|step| match &step.meaning {
                        Meaning::Read(read) => Some(read.answer(state)),
                        Meaning::Write(_) | Meaning::Local(_) | Meaning::Wrong(_) => None,
                    });
                    answers.collect()
                };
                Ok(self.shared.read(answer))
            }
            Err(error @ VerifyError::EnqueueTimeout { .. }) => Ok(vec![busy(&error); run.len()]),
            Err(VerifyError::Stopped(end)) => Ok(vec![stopped(&end); run.len()]),
            Err(VerifyError::NotLeader { .. }) => Err(NotNow::NoLeader),
            Err(error) => Err(self.cannot_lead(&error)),
        }
    }

    async fn there<W: AsyncWrite + Unpin>(
        &self,
        rest: &mut &[Step],
        mut open: Link,
        link: &mut Option<Link>,
        out: &mut Out<W>,
    ) -> io::Result<Result<(), NotNow>> {
        metrics::counter!("kv_forwarded_total").increment(rest.len() as u64);
        let (requests, silence) = (rest.iter().map(|step| &step.args[..]), self.patience.forward);
        let mut answered = 0;
        let call = open.client.pass(requests, REFUSAL, silence, out, &mut answered);
        let error = match call.await {
            Ok(()) => {
                *link = Some(open);
                return Ok(Ok(()));
            }
            Err(PassError::Asker(error)) => return Err(error),
            Err(error) => error,
        };
        *rest = &rest[answered..];
        let why = format!("leader {}: {error}", open.leader);
        if is_write(rest) && !matches!(error, PassError::Refused) {
            return out.replies(&unknown(why), rest.len()).await.map(Ok);
        }
        Ok(Err(NotNow::Leader(why)))
    }

    fn cannot_lead(&self, error: &dyn fmt::Display) -> NotNow {
        NotNow::Leader(format!("leader {}: {error}", self.node.id()))
    }

    fn no_leader(&self, why: NotNow) -> Reply {
        let wait = self.patience.no_leader;
        Reply::error(match why {
            NotNow::NoLeader => {
                format!("CLUSTERDOWN no leader was found within {wait:?}; nothing was done")
            }
            NotNow::Leader(why) => format!("CLUSTERDOWN {why} (for {wait:?}); nothing was done"),
        })
    }
}

async fn give<W: AsyncWrite + Unpin>(replies: &[Reply], out: &mut Out<W>) -> io::Result<()> {
    for reply in replies {
        out.reply(reply).await?;
    }
    Ok(())
}

impl Link {
    async fn open(leader: ServerId, address: &str) -> io::Result<Self> {
        let client = Client::pass_on(address, CONNECT_TIMEOUT, leader.as_str()).await?;
        Ok(Self { leader, client })
    }
}

fn is_write(run: &[Step]) -> bool {
    matches!(run.first(), Some(Step { meaning: Meaning::Write(_), .. }))
}

fn unknown(why: impl fmt::Display) -> Reply {
    Reply::error(format!("UNKNOWN {why}; the command may or may not have been carried out"))
}

fn busy(why: impl fmt::Display) -> Reply {
    Reply::error(format!("TRYAGAIN {why}; nothing was done"))
}

fn stopped(end: &raft::Fatal) -> Reply {
    Reply::error(format!("ERR {end}; nothing was done"))
}
