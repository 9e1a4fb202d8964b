//! What a server says of itself.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{Query, State},
    http::{StatusCode, Uri, header::CONTENT_TYPE},
    response::IntoResponse,
};
use raft::{FsmSnapshot, LogIndex, PeerStatus, Role, autopilot::Autopilot};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;

use super::{Shared, answer::Problem};
use crate::{fsm, server::Server, snapshot};

/// How much of a dump is under way at most.
const DUMP_BYTES: usize = 256 << 10;
/// How long `/checksum?at=N` waits for entry N.
const CHECKSUM_WAIT: Duration = Duration::from_secs(10);

/// The map in numbers: what two servers must agree on when their `index` is the same.
fn content(server: &Server) -> Value {
    server.shared.read(|state| {
        json!({
            "index": state.index,
            "keys": state.map.len(),
            "checksum": format!("{:016x}", state.map.digest()),
        })
    })
}

pub(super) async fn status(State(shared): State<Shared>) -> Result<Json<Value>, Problem> {
    let server = &shared.server;
    let raft = server.node.status().await?;
    let why = |peer: &PeerStatus| server.transport.trouble(&peer.id).map(|why| why.to_string());
    let unreachable = raft.peers.iter().filter_map(|peer| Some((&peer.id, why(peer)?)));
    let unreachable: BTreeMap<_, _> = unreachable.collect();
    Ok(Json(json!({
        "id": server.node.id(),
        "cluster": server.cluster,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": server.started.elapsed().as_secs(),
        "addresses": {
            "raft": server.address,
            "resp": server.contact.resp,
            "http": server.contact.http,
        },
        "kv": content(server),
        "contacts": server.shared.read(|state| state.contacts.clone()),
        "autopilot": server.autopilot.as_ref().map(Autopilot::state),
        "unreachable": unreachable,
        "farewells": server.farewells.of_those_away(server),
        "raft": raft,
    })))
}

pub(super) async fn autopilot(
    State(shared): State<Shared>,
    uri: Uri,
) -> Result<Json<Value>, Problem> {
    let server = &shared.server;
    match &server.autopilot {
        // Only the leader knows how the others are.
        Some(_) if server.node.role() != Role::Leader => {
            Err(Problem::not_leader(server, uri.path(), server.node.leader().as_ref()))
        }
        Some(autopilot) => Ok(Json(json!(autopilot.state()))),
        None => {
            Err(Problem::new(StatusCode::NOT_FOUND, "this server was started without --autopilot"))
        }
    }
}

pub(super) async fn health(State(shared): State<Shared>) -> Result<Json<Value>, Problem> {
    match ailment(&shared.server) {
        None => Ok(Json(json!({ "healthy": true }))),
        Some(why) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, why)),
    }
}

fn ailment(server: &Server) -> Option<String> {
    let node = &server.node;
    if let Some(end) = node.fatal() {
        return Some(end.to_string());
    }
    let Some(leader) = node.leader() else {
        return Some(format!("no leader is known{}", server.farewells.in_words(server)));
    };
    // A follower that hears nothing campaigns after at most two election timeouts; until then its
    // leader may be gone already.
    let silence = node.last_contact().unwrap_or(Duration::MAX);
    if leader.id != *node.id() && 2 * server.election_timeout < silence {
        return Some(format!("nothing heard from leader {} for {silence:?}", leader.id));
    }
    let marks = node.marks();
    let lag = marks.committed.since(marks.applied);
    let max = server.limits.health_lag;
    (max < lag).then(|| format!("{lag} commands are committed but not applied; the limit is {max}"))
}

pub(super) async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
    let server = &shared.server;
    let (keys, index) = server.shared.read(|state| (state.map.len(), state.index));
    metrics::gauge!("kv_connections").set(server.places.clients() as f64);
    metrics::gauge!("kv_keys").set(keys as f64);
    metrics::gauge!("kv_applied_command_index").set(index.0 as f64);
    metrics::gauge!("kv_is_leader").set(f64::from(server.node.role() == Role::Leader));
    let marks = server.node.marks();
    metrics::gauge!("kv_commit_index").set(marks.committed.0 as f64);
    metrics::gauge!("kv_last_index").set(marks.last.0 as f64);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], shared.metrics.render())
}

#[derive(Debug, Deserialize)]
pub(super) struct At {
    at: Option<LogIndex>,
}

pub(super) async fn checksum(
    State(shared): State<Shared>,
    at: Result<Query<At>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(At { at }) =
        at.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let server = &shared.server;
    if let Some(index) = at {
        let applied = tokio::time::timeout(CHECKSUM_WAIT, server.node.wait_applied(index)).await;
        let applied = applied.map_err(|_| {
            let text = format!("entry {index} was not applied within {CHECKSUM_WAIT:?}");
            Problem::new(StatusCode::GATEWAY_TIMEOUT, text)
        })?;
        applied?;
    }
    Ok(Json(content(server)))
}

pub(super) async fn dump(State(shared): State<Shared>) -> impl IntoResponse {
    let state = shared.server.shared.read(fsm::State::clone);
    let (mut sink, source) = tokio::io::duplex(DUMP_BYTES);
    tokio::spawn(async move {
        // It fails when whoever asked has gone.
        let _ = Box::new(snapshot::View(state)).persist(&mut sink).await;
    });
    (
        [(CONTENT_TYPE, "application/octet-stream")],
        Body::from_stream(ReaderStream::with_capacity(source, DUMP_BYTES)),
    )
}
