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

use std::{fmt, sync::Arc, time::Duration};

use raft::{ApplyError, Outcome, ServerId, VerifyError};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    Node,
    fsm::Shared,
    reads::Reads,
    resp::{Args, Reply, client::Client, request::Meaning},
};

/// How often a request that waits for a leader looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// A leader that cannot be reached within this is not taken for one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The first word of a refusal among servers. Clients never see it.
const NOT_LEADER: &str = "NOTLEADER";

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

/// What became of a run of requests.
enum Fate {
    /// All are answered.
    Answered(Vec<Reply>),
    /// The first ones are answered, the others were certainly not carried out and may be tried
    /// again.
    Refused(Vec<Reply>),
}

impl Router {
    pub(crate) fn new(node: Node, shared: Arc<Shared>, patience: Patience) -> Self {
        let reads = Reads::start(node.clone());
        Self { node, shared, reads, patience }
    }

    /// Carries out a run of requests, all writes or all reads, and returns one reply for each.
    pub(crate) async fn run(&self, run: &[Step], origin: &mut Origin) -> Vec<Reply> {
        let link = match origin {
            Origin::Client(link) => link,
            Origin::Server { refused } => return self.run_for_server(run, refused).await,
        };
        let mut replies = Vec::with_capacity(run.len());
        let deadline = Instant::now() + self.patience.no_leader;
        while replies.len() < run.len() {
            match self.attempt(&run[replies.len()..], link).await {
                Fate::Answered(more) => replies.extend(more),
                Fate::Refused(first) => {
                    replies.extend(first);
                    if let Some(end) = self.node.fatal() {
                        replies.resize(run.len(), stopped(&end));
                    } else if Instant::now() < deadline {
                        sleep(LOOK_AGAIN).await;
                    } else {
                        replies.resize(run.len(), self.no_leader());
                    }
                }
            }
        }
        replies
    }

    async fn run_for_server(&self, run: &[Step], refused: &mut bool) -> Vec<Reply> {
        if !*refused {
            match self.here(run).await {
                Fate::Answered(replies) => return replies,
                Fate::Refused(_) => *refused = true,
            }
        }
        let refusal = format!("{NOT_LEADER} server {} does not lead", self.node.id());
        vec![Reply::error(refusal); run.len()]
    }

    async fn attempt(&self, run: &[Step], link: &mut Option<Link>) -> Fate {
        let Some(leader) = self.node.leader() else { return Fate::Refused(vec![]) };
        if leader.id == *self.node.id() {
            return self.here(run).await;
        }
        let Some(contact) = self.shared.contact(&leader.id) else { return Fate::Refused(vec![]) };
        let open = match link.take() {
            Some(open) if open.leader == leader.id && !open.client.is_closed() => Ok(open),
            _ => Link::open(leader.id, &contact.resp).await,
        };
        match open {
            Ok(open) => self.there(run, open, link).await,
            Err(error) => {
                tracing::debug!(address = contact.resp, %error, "cannot reach the leader");
                Fate::Refused(vec![])
            }
        }
    }

    async fn here(&self, run: &[Step]) -> Fate {
        if is_write(run) { self.write_here(run).await } else { self.read_here(run).await }
    }

    /// One batch, so that a pipeline is one write to the log.
    async fn write_here(&self, run: &[Step]) -> Fate {
        let commands = run.iter().filter_map(|step| match &step.meaning {
            Meaning::Write(command) => Some(command.clone()),
            Meaning::Read(_) | Meaning::Local(_) | Meaning::Wrong(_) => None,
        });
        let error = match self.node.apply_batch(commands.collect()).await {
            Ok(applied) => {
                return Fate::Answered(applied.into_iter().map(|a| a.response).collect());
            }
            Err(error) => error,
        };
        let reply = match (&error, error.outcome()) {
            (ApplyError::NotLeader { .. } | ApplyError::TransferInProgress, _) => {
                return Fate::Refused(vec![]);
            }
            // Its own words say so already.
            (ApplyError::LeadershipLost | ApplyError::ReplacedBySnapshot, _) => {
                Reply::error(format!("UNKNOWN {error}"))
            }
            (_, Outcome::Unknown) => unknown(&error),
            (ApplyError::EnqueueTimeout { .. } | ApplyError::RestoreInProgress, _) => busy(&error),
            (_, Outcome::NotApplied) => Reply::error(format!("ERR {error}; nothing was written")),
        };
        Fate::Answered(vec![reply; run.len()])
    }

    /// One confirmation of leadership, so that a pipeline of reads costs one round.
    async fn read_here(&self, run: &[Step]) -> Fate {
        match self.reads.fresh().await {
            Ok(()) => {
                let answer = |state: &_| {
                    let answers = run.iter().filter_map(|step| match &step.meaning {
                        Meaning::Read(read) => Some(read.answer(state)),
                        Meaning::Write(_) | Meaning::Local(_) | Meaning::Wrong(_) => None,
                    });
                    answers.collect()
                };
                Fate::Answered(self.shared.read(answer))
            }
            Err(error @ VerifyError::EnqueueTimeout { .. }) => {
                Fate::Answered(vec![busy(&error); run.len()])
            }
            Err(VerifyError::Stopped(end)) => Fate::Answered(vec![stopped(&end); run.len()]),
            Err(_) => Fate::Refused(vec![]),
        }
    }

    async fn there(&self, run: &[Step], mut open: Link, link: &mut Option<Link>) -> Fate {
        metrics::counter!("kv_forwarded_total").increment(run.len() as u64);
        let mut replies = Vec::with_capacity(run.len());
        let requests = run.iter().map(|step| &step.args[..]);
        let call = timeout(self.patience.forward, open.client.call(requests, &mut replies)).await;
        let is_refusal =
            |reply: &Reply| matches!(reply, Reply::Error(text) if text.starts_with(NOT_LEADER));
        if let Some(first) = replies.iter().position(is_refusal) {
            replies.truncate(first);
            return Fate::Refused(replies);
        }
        let reason = match call {
            Ok(Ok(())) => {
                *link = Some(open);
                return Fate::Answered(replies);
            }
            Ok(Err(error)) => format!("the connection to leader {} broke: {error}", open.leader),
            Err(_) => {
                format!("leader {} did not answer within {:?}", open.leader, self.patience.forward)
            }
        };
        if is_write(run) {
            replies.resize(run.len(), unknown(&reason));
            return Fate::Answered(replies);
        }
        Fate::Refused(replies)
    }

    fn no_leader(&self) -> Reply {
        let wait = self.patience.no_leader;
        Reply::error(format!("CLUSTERDOWN no leader was found within {wait:?}; nothing was done"))
    }
}

impl Link {
    async fn open(leader: ServerId, address: &str) -> std::io::Result<Self> {
        let mut client = Client::connect(address, CONNECT_TIMEOUT).await?;
        // By name: another server may have taken over the address.
        let hello = ["RAFT.FORWARDED", leader.as_str()];
        timeout(CONNECT_TIMEOUT, client.ask(&hello)).await??;
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
