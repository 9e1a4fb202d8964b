//! Looking at the membership and changing it.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::{StatusCode, Uri},
};
use raft::{
    ConfigurationChange, ConfigurationError, LogIndex, Server as Member, ServerAddress, ServerId,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    RETRY, Shared,
    answer::{Problem, read_json},
};
use crate::{Node, server::Server};

pub(super) async fn list(State(shared): State<Shared>) -> Json<Value> {
    let server = &shared.server;
    let configuration = server.node.configuration();
    let leader = server.node.leader().map(|leader| leader.id);
    let entry = |member: &Member| {
        let contact = server.shared.contact(&member.id);
        json!({
            "id": member.id,
            "address": member.address,
            "voter": member.is_voter(),
            "leader": leader.as_ref() == Some(&member.id),
            "resp": contact.as_ref().map(|contact| &contact.resp),
            "http": contact.as_ref().map(|contact| &contact.http),
        })
    };
    let members: Vec<_> = configuration.configuration.servers().iter().map(entry).collect();
    Json(json!({ "index": configuration.index, "leader": leader, "members": members }))
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Addition {
    id: String,
    address: String,
    #[serde(default = "yes")]
    voter: bool,
}

fn yes() -> bool {
    true
}

pub(super) async fn add(
    State(shared): State<Shared>,
    uri: Uri,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    let Addition { id, address, voter } = read_json(&body)?;
    check_address(&address)?;
    let (id, address) = (ServerId::from(id), ServerAddress::from(address));
    let change = match voter {
        true => ConfigurationChange::AddVoter { id, address },
        false => ConfigurationChange::AddNonvoter { id, address },
    };
    changed(&shared.server, uri.path(), change).await
}

fn check_address(address: &str) -> Result<(), Problem> {
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_some_and(|port| port != 0) {
        return Ok(());
    }
    let text = format!("the address {address:?} is not HOST:PORT");
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text))
}

pub(super) async fn demote(
    State(shared): State<Shared>,
    uri: Uri,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let change = ConfigurationChange::DemoteVoter { id: id.into() };
    changed(&shared.server, uri.path(), change).await
}

pub(super) async fn remove(
    State(shared): State<Shared>,
    uri: Uri,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let change = ConfigurationChange::RemoveServer { id: id.into() };
    changed(&shared.server, uri.path(), change).await
}

/// Removes a member and adds it again as it was; answers when it has caught up.
pub(super) async fn rejoin(
    State(shared): State<Shared>,
    uri: Uri,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    match shared.server.node.rejoin_server(id).await {
        Ok(index) => Ok(Json(json!({ "index": index }))),
        Err(error) => Err(Problem::of_change(&shared.server, uri.path(), &error)),
    }
}

/// Makes a change, waiting while the leader is not ready for it or makes another.
async fn changed(
    server: &Server,
    path: &str,
    change: ConfigurationChange,
) -> Result<Json<Value>, Problem> {
    let deadline = Instant::now() + server.no_leader_wait;
    loop {
        match attempt(&server.node, change.clone()).await {
            Ok(index) => return Ok(Json(json!({ "index": index }))),
            Err(
                ConfigurationError::NotReady
                | ConfigurationError::ChangeInProgress { .. }
                | ConfigurationError::TransferInProgress
                | ConfigurationError::NotLeader { leader: None },
            ) if Instant::now() < deadline => sleep(RETRY).await,
            Err(error) => return Err(Problem::of_change(server, path, &error)),
        }
    }
}

async fn attempt(node: &Node, change: ConfigurationChange) -> Result<LogIndex, ConfigurationError> {
    match change {
        ConfigurationChange::AddVoter { id, address } => node.add_voter(id, address, None).await,
        ConfigurationChange::AddNonvoter { id, address } => {
            node.add_nonvoter(id, address, None).await
        }
        ConfigurationChange::DemoteVoter { id } => node.demote_voter(id, None).await,
        ConfigurationChange::RemoveServer { id } => node.remove_server(id, None).await,
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Transfer {
    to: Option<String>,
}

pub(super) async fn transfer(
    State(shared): State<Shared>,
    uri: Uri,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    let Transfer { to } = if body.is_empty() { Transfer::default() } else { read_json(&body)? };
    let node = &shared.server.node;
    let result = match to {
        Some(id) => node.leadership_transfer_to_server(id).await,
        None => node.leadership_transfer().await,
    };
    result.map_err(|error| Problem::of_transfer(&shared.server, uri.path(), &error))?;
    Ok(Json(json!({ "leader": node.leader().map(|leader| leader.id) })))
}
