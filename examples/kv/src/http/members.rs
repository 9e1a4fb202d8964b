//! Looking at the membership and changing it.

use std::time::Duration;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{StatusCode, Uri, uri::PathAndQuery},
};
use raft::{
    Configuration, ConfigurationChange, ConfigurationError, IndexedConfiguration, LogIndex, Role,
    Server as Member, ServerId, Status,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::{
    RETRY, Shared,
    answer::{Problem, read_json},
    rules::{self, Addressed, Silent},
};
use crate::{Node, cli, server::Server};

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
            "incarnation": format!("{:016x}", member.incarnation),
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
    #[serde(default, rename = "move")]
    moves: bool,
    #[serde(default)]
    force: bool,
    #[serde(default = "yes")]
    wait: bool,
    /// Which cluster the new member believes this to be.
    cluster: Option<String>,
}

fn yes() -> bool {
    true
}

pub(super) async fn add(
    State(shared): State<Shared>,
    uri: Uri,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    let Addition { id, address, voter, moves, force, wait, cluster } = read_json(&body)?;
    check_address(&address)?;
    let (id, server) = (ServerId::from(id), &shared.server);
    if let Some(other) = cluster.filter(|cluster| *cluster != server.cluster) {
        let text = format!("this is cluster {:?}, not {other:?}", server.cluster);
        return Err(Problem::new(StatusCode::CONFLICT, text));
    }
    if moves && !force && server.node.role() == Role::Leader {
        check_move(server, &id, &address).await?;
    }
    let decide = |members: &Configuration, _: &Silent| {
        // Whoever does not wait for the vote of a new server asks for a nonvoter.
        let voter = voter && (wait || members.is_voter(&id));
        let wanted = Addressed { id: &id, address: &address };
        let leader = Addressed { id: server.node.id(), address: server.address.as_str() };
        rules::addition(members, &wanted, voter, moves, &leader)
    };
    let Changed { index, is_new } = changed(server, &uri, decide).await?;
    if !is_new && has_wrong_disk(&server.node.status().await?, &id) {
        return Err(forbidden(format!(
            "{id} is a member already, and runs on another disk than the cluster knows; `kv ctl rejoin \
             {id}` takes it back with that one"
        )));
    }
    let voter = server.node.configuration().configuration.is_voter(&id);
    Ok(Json(json!({ "index": index, "voter": voter, "changed": is_new })))
}

/// How long it may take to reach a member at its new address.
const REACHED_WITHIN: Duration = Duration::from_secs(2);

/// Whether somebody listens where a member is said to be from now on. That it is the member shows
/// when it is talked to, which its data then stands up to.
async fn check_move(server: &Server, id: &ServerId, address: &str) -> Result<(), Problem> {
    let members = server.node.configuration().configuration;
    let Some(known) = members.server(id) else {
        return Err(forbidden(format!("{id} is no member that could be moved; leave out --move")));
    };
    if known.address.as_str() == address || *id == *server.node.id() {
        return Ok(());
    }
    let why = match timeout(REACHED_WITHIN, raft_tcp::connect(address, REACHED_WITHIN)).await {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) => error.kind().to_string(),
        Err(_) => format!("no answer within {REACHED_WITHIN:?}"),
    };
    // It may be about to start.
    Err(Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        format!(
            "cannot reach {address}: {why}; start {id} there, with its data, or insist with --force \
             (\"force\": true)"
        ),
    ))
}

/// Whether a member runs on another disk than the cluster knows.
fn has_wrong_disk(status: &Status, id: &ServerId) -> bool {
    status.wrong_disks.iter().any(|disk| disk.server == *id)
}

fn check_address(address: &str) -> Result<(), Problem> {
    cli::parse_place(address).map(drop).map_err(|rule| {
        let text = format!("the address {address:?} cannot be used: {rule}");
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text)
    })
}

/// Whether to take a vote away whatever comes of it.
#[derive(Debug, Deserialize)]
pub(super) struct Insist {
    #[serde(default)]
    force: bool,
}

type Insisting = Result<Query<Insist>, QueryRejection>;

fn is_forced(insist: Insisting) -> Result<bool, Problem> {
    match insist {
        Ok(Query(Insist { force })) => Ok(force),
        Err(error) => Err(Problem::new(StatusCode::BAD_REQUEST, error.body_text())),
    }
}

pub(super) async fn demote(
    State(shared): State<Shared>,
    uri: Uri,
    Path(id): Path<String>,
    insist: Insisting,
) -> Result<Json<Value>, Problem> {
    let (id, force) = (ServerId::from(id), is_forced(insist)?);
    let decide = |members: &Configuration, silent: &Silent| {
        if members.server(&id).is_some_and(|member| !member.is_voter()) {
            return Ok(None);
        }
        rules::departure(members, &id, silent, force)?;
        Ok(Some(ConfigurationChange::DemoteVoter { id: id.clone() }))
    };
    let Changed { index, is_new } = changed(&shared.server, &uri, decide).await?;
    Ok(Json(json!({ "index": index, "changed": is_new })))
}

pub(super) async fn remove(
    State(shared): State<Shared>,
    uri: Uri,
    Path(id): Path<String>,
    insist: Insisting,
) -> Result<Json<Value>, Problem> {
    let (id, force) = (ServerId::from(id), is_forced(insist)?);
    let decide = |members: &Configuration, silent: &Silent| {
        rules::departure(members, &id, silent, force)?;
        Ok(Some(ConfigurationChange::RemoveServer { id: id.clone() }))
    };
    let Changed { index, .. } = changed(&shared.server, &uri, decide).await?;
    Ok(Json(json!({ "index": index })))
}

/// Removes a member and adds it again as it was; answers when it has caught up.
pub(super) async fn rejoin(
    State(shared): State<Shared>,
    uri: Uri,
    Path(id): Path<String>,
    insist: Insisting,
) -> Result<Json<Value>, Problem> {
    let (id, force) = (ServerId::from(id), is_forced(insist)?);
    let node = &shared.server.node;
    may_return(&shared.server, &id, force).await?;
    match node.rejoin_server(id).await {
        Ok(index) => Ok(Json(json!({ "index": index }))),
        // By its own request to join, perhaps.
        Err(ConfigurationError::Superseded { id, index })
            if node.configuration().configuration.is_voter(&id) =>
        {
            Ok(Json(json!({ "index": index })))
        }
        Err(error) => Err(Problem::of_change(&shared.server, whole_path(&uri), &error)),
    }
}

/// Whether a member may be taken back. One that was just started has not answered yet, and one that was
/// just killed not for long: so it is waited until it has answered since this was asked, or ought to have.
async fn may_return(server: &Server, id: &ServerId, force: bool) -> Result<(), Problem> {
    let (node, asked) = (&server.node, Instant::now());
    loop {
        let status = node.status().await?;
        if status.role != Role::Leader || id == node.id() {
            return Ok(());
        }
        let members = &status.latest_configuration.configuration;
        let silent = silent(&status);
        rules::departure(members, id, &silent, force).map_err(forbidden)?;
        if members.server(id).is_none() {
            return Ok(());
        }
        let Err(rule) = rules::return_of(id, &silent, has_wrong_disk(&status, id), force) else {
            return Ok(());
        };
        let peer = status.peers.iter().find(|peer| peer.id == *id);
        let has_answered = peer.is_some_and(|peer| peer.last_contact < asked.elapsed());
        if has_answered || 2 * server.election_timeout < asked.elapsed() {
            return Err(forbidden(rule));
        }
        sleep(RETRY).await;
    }
}

/// What has become of a change.
struct Changed {
    /// The index of the configuration in which it is.
    index: LogIndex,
    /// Whether there was anything to change.
    is_new: bool,
}

/// Decides about a change by the newest members, and makes it if they still are; decides anew while
/// the leader is not ready for it or makes another.
async fn changed(
    server: &Server,
    uri: &Uri,
    decide: impl Fn(&Configuration, &Silent) -> Result<Option<ConfigurationChange>, String>,
) -> Result<Changed, Problem> {
    let deadline = Instant::now() + server.no_leader_wait;
    loop {
        let status = server.node.status().await?;
        let IndexedConfiguration { index, configuration } = &status.latest_configuration;
        let attempted = if status.role == Role::Leader {
            match decide(configuration, &silent(&status)).map_err(forbidden)? {
                None => return Ok(Changed { index: *index, is_new: false }),
                Some(change) => attempt(&server.node, change, *index).await,
            }
        } else {
            Err(ConfigurationError::NotLeader { leader: status.leader.clone() })
        };
        match attempted {
            Ok(index) => return Ok(Changed { index, is_new: true }),
            // It is what was asked for, only by somebody else: the autopilot, perhaps.
            Err(ConfigurationError::Superseded { id, index })
                if server.node.configuration().configuration.is_voter(&id) =>
            {
                return Ok(Changed { index, is_new: true });
            }
            Err(
                ConfigurationError::NotReady
                | ConfigurationError::ChangeInProgress { .. }
                | ConfigurationError::StaleIndex { .. }
                | ConfigurationError::TransferInProgress
                | ConfigurationError::NotLeader { leader: None },
            ) if Instant::now() < deadline => sleep(RETRY).await,
            Err(error) => return Err(Problem::of_change(server, whole_path(uri), &error)),
        }
    }
}

fn forbidden(rule: String) -> Problem {
    Problem::new(StatusCode::CONFLICT, rule)
}

fn whole_path(uri: &Uri) -> &str {
    uri.path_and_query().map_or(uri.path(), PathAndQuery::as_str)
}

/// Whom the leader has not heard from within an election timeout.
fn silent(status: &Status) -> Silent {
    let patience = status.config.election_timeout;
    let silent = status.peers.iter().filter(|peer| peer.is_lost || patience <= peer.last_contact);
    silent.map(|peer| (peer.id.clone(), peer.last_contact)).collect()
}

async fn attempt(
    node: &Node,
    change: ConfigurationChange,
    members: LogIndex,
) -> Result<LogIndex, ConfigurationError> {
    let members = Some(members);
    match change {
        ConfigurationChange::AddVoter { id, address } => node.add_voter(id, address, members).await,
        ConfigurationChange::AddNonvoter { id, address } => {
            node.add_nonvoter(id, address, members).await
        }
        ConfigurationChange::DemoteVoter { id } => node.demote_voter(id, members).await,
        ConfigurationChange::RemoveServer { id } => node.remove_server(id, members).await,
        other => unreachable!("no request is for {other:?}"),
    }
}

#[derive(Debug, Deserialize)]
struct Farewell {
    id: ServerId,
    cluster: String,
    why: String,
}

/// Notes why a member has ended. Strangers' words are not kept.
pub(super) async fn farewell(
    State(shared): State<Shared>,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    let Farewell { id, cluster, why } = read_json(&body)?;
    let server = &shared.server;
    let members = server.node.configuration().configuration;
    if cluster != server.cluster || id == *server.node.id() || members.server(&id).is_none() {
        return Err(forbidden(format!("{id} is no other member of cluster {}", server.cluster)));
    }
    server.farewells.note(id, &why);
    Ok(Json(json!({})))
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
