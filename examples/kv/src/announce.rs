//! Telling the cluster where this server takes requests.
//!
//! Raft knows where servers reach *each other*; clients and operators come in at other ports. So a
//! leader writes its own contact into the replicated table as soon as it leads, which is all that
//! followers need in order to pass requests on; and a follower sends its own through the leader,
//! which lets `kv ctl` name every member's address. A server that comes back with another address
//! sees that the table is wrong about it and announces again.

use std::{sync::Arc, time::Duration};

use raft::{LogIndex, ServerId};

use crate::{
    fsm::State,
    resp::{Args, Protocol, out::Out, request},
    route::{Origin, Step},
    server::Server,
};

/// How often to look whether the table is right about this server.
const LOOK: Duration = Duration::from_millis(100);
/// How long to wait after an announcement that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps the table right about this server until the future is dropped.
pub(crate) async fn run(server: Arc<Server>) {
    let mut origin = Origin::Client(None);
    let id = server.node.id().clone();
    loop {
        if is_due(&server, &id)
            && let Err(why) = announce(&server, &id, &mut origin).await
        {
            tracing::debug!(why, "announcement failed");
            tokio::time::sleep(PAUSE).await;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Members only: the state machine forgets others. A restored state has not seen a command of this log
/// yet, so it could not say up to where it goes: an announcement is one.
fn is_due(server: &Server, id: &ServerId) -> bool {
    let is_wrong = |state: &State| {
        state.index == LogIndex::ZERO || state.contacts.get(id) != Some(&server.contact)
    };
    server.node.leader().is_some()
        && server.node.configuration().configuration.server(id).is_some()
        && server.shared.read(is_wrong)
}

async fn announce(server: &Server, id: &ServerId, origin: &mut Origin) -> Result<(), String> {
    let words = ["RAFT.ANNOUNCE", id.as_str(), &server.contact.resp, &server.contact.http];
    let args: Args = words.iter().map(|word| (*word).to_owned().into()).collect();
    let meaning = request::meaning(&args);
    let (mut reply, protocol) = (Vec::new(), Protocol::Resp3);
    let mut out = Out::new(&mut reply, protocol);
    let ran = server.router.run(&[Step { args, meaning }], origin, &mut out).await;
    ran.map_err(|error| error.to_string())?;
    out.send().await.map_err(|error| error.to_string())?;
    if reply.starts_with(b"+") { Ok(()) } else { Err(String::from_utf8_lossy(&reply).into_owned()) }
}
