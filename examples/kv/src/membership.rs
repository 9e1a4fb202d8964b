//! What a server does and says about its own membership: joining, belonging to nobody, and running on
//! another disk than its cluster knows.

use std::{sync::Arc, time::Duration};

use raft::{BegunMark, LogIndex, Observation, ServerId};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    operator::{Ask, Operator},
    server::Server,
};

/// How long a server that joins waits between attempts.
const JOIN_PAUSE: Duration = Duration::from_secs(1);
/// How long a member may take to answer a server that joins: it may have to wait for an election.
const JOIN_TIMEOUT: Duration = Duration::from_secs(15);
/// Observations that wait for their line in the log at most.
const OBSERVATIONS: usize = 16;

/// Asks `member` to make this server a member, until it is one. One that was a member before stays
/// what it is, also if it was removed: starting it again with the same flags must not undo that.
pub(crate) async fn join(server: Arc<Server>, member: String, voter: bool) {
    let id = server.node.id().clone();
    let members = server.node.configuration().configuration;
    if members.server(&id).is_some() {
        return;
    }
    if !members.is_empty() {
        tracing::warn!(
            "not asking to join: this server has the data of its cluster and is no member in it, so it was \
             removed. If it is to be one again: kv ctl --http {member} add {id} {}; or start it with --join on \
             an empty data directory",
            server.address
        );
        return;
    }
    let body = json!({
        "id": id, "address": server.address, "voter": voter, "cluster": server.cluster,
    });
    // It is a member without a vote while it catches up. Whoever waits for that has only so much
    // patience, and asking again goes on where it was.
    let is_there = || {
        let members = server.node.configuration().configuration;
        members.server(&id).is_some_and(|member| member.is_voter() || !voter)
    };
    let mut told = String::new();
    while !is_there() {
        let (operator, ask) = (Operator::new(&member, JOIN_TIMEOUT), Ask::Post(body.clone()));
        let asked = tokio::task::spawn_blocking(move || operator.ask("/members", &ask)).await;
        let why = match asked {
            // The answer says nothing of this disk; the leader's messages do.
            _ if has_wrong_disk(&server).await => format!(
                "the cluster has a member {id} and knows it by another disk; it takes this one in its \
                 place with: kv ctl --http {member} rejoin {id}"
            ),
            Ok(Ok(_)) => String::new(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        if why != told && !why.is_empty() {
            tracing::warn!(member, why, "not joined yet");
            told = why;
        }
        sleep(JOIN_PAUSE).await;
    }
    tracing::info!(member, voter, "joined the cluster");
}

async fn has_wrong_disk(server: &Server) -> bool {
    server.node.status().await.is_ok_and(|status| status.wrong_disk.is_some())
}

/// Says how a server that belongs to no cluster comes into one.
pub(crate) fn explain_solitude(server: &Server) {
    let Server { node, address, .. } = server;
    if node.configuration().configuration.is_empty() {
        let id = node.id();
        tracing::warn!(
            "belongs to no cluster yet: let a member of one take it in, with `kv ctl --http MEMBER add \
             {id} {address}` (or `rejoin {id}`, if it was one and has lost its data); or stop it, and \
             start it with --join MEMBER, or with --bootstrap for a new cluster"
        );
    }
}

/// A server that joins has something to lose as soon as it has applied something, which is durable then.
pub(crate) async fn watch_for_a_beginning(server: Arc<Server>, begun: BegunMark) {
    if server.node.wait_applied(LogIndex(1)).await.is_ok()
        && let Err(error) = begun.note()
    {
        tracing::warn!(
            %error,
            "it cannot be noted that this server has begun: should its log go missing, that would not be noticed"
        );
    }
}

/// Says of each server that runs on another disk than its cluster knows, or on one that has lost what it
/// had, how to take it back. The
/// library tells of it as often as is good for a log.
pub(crate) async fn explain_disks(server: Arc<Server>, joining: Option<String>) {
    let is_wrong = |seen: &Observation| {
        matches!(seen, Observation::WrongIncarnation { .. } | Observation::PeerLostEntries { .. })
    };
    let mut observer = server.node.observe(OBSERVATIONS, is_wrong);
    while let Some(seen) = observer.recv().await {
        let (peer, disk) = match seen {
            Observation::WrongIncarnation { peer, disk } => (peer, disk),
            Observation::PeerLostEntries { peer } => {
                tracing::error!(
                    "the disk of server {peer} has lost entries that it had acknowledged. Stop it, move \
                     its data directory away, start it on an empty one, and: kv ctl --http {} rejoin \
                     {peer}",
                    server.contact.http
                );
                continue;
            }
            _ => continue,
        };
        let member = whom_to_ask(&server, &peer, &disk.server, joining.as_deref());
        let id = disk.server;
        tracing::error!(
            "server {id} runs on another disk than its cluster knows, or on an older copy, and nobody \
             listens to it. Give it its own disk back; or, if its data is lost or this is an older copy \
             of it: kv ctl --http {member} rejoin {id}"
        );
    }
}

/// The HTTP address of a member that can take `wrong` back.
fn whom_to_ask(
    server: &Server,
    peer: &ServerId,
    wrong: &ServerId,
    joining: Option<&str>,
) -> String {
    if wrong != server.node.id() {
        return server.contact.http.clone();
    }
    let known = server.shared.contact(peer).map(|contact| contact.http);
    known.or(joining.map(str::to_owned)).unwrap_or("ANOTHER-MEMBER".to_owned())
}
