//! Answers that are not what was asked for, and reading what was sent.

use axum::{
    Json,
    http::{StatusCode, header::LOCATION},
    response::{IntoResponse, Response},
};
use raft::{ConfigurationError, Leader, RestoreError, TransferError};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::server::Server;

/// An answer that says why the request was not carried out.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    text: String,
    /// Where to ask instead.
    elsewhere: Option<String>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, text: impl ToString) -> Self {
        Self { status, text: text.to_string(), elsewhere: None }
    }

    /// For a request that only the leader can carry out: a redirection, if it can be named.
    pub(super) fn not_leader(server: &Server, path: &str, leader: Option<&Leader>) -> Self {
        let Some(leader) = leader else {
            let text = format!(
                "no leader is known: a majority of the voters has to run, each on the disk that the \
                 others know. If it is gone for good, see kv recover --help{}",
                server.farewells.in_words(server)
            );
            return Self::new(StatusCode::SERVICE_UNAVAILABLE, text);
        };
        let text = format!("not the leader; the leader is {}", leader.id);
        match server.shared.contact(&leader.id) {
            Some(contact) => Self {
                elsewhere: Some(format!("http://{}{path}", contact.http)),
                ..Self::new(StatusCode::TEMPORARY_REDIRECT, text)
            },
            // It has just been elected and will announce itself at once.
            None => Self::new(StatusCode::SERVICE_UNAVAILABLE, text),
        }
    }

    pub(super) fn of_change(server: &Server, path: &str, error: &ConfigurationError) -> Self {
        let status = match error {
            ConfigurationError::NotLeader { leader } => {
                return Self::not_leader(server, path, leader.as_ref());
            }
            ConfigurationError::StaleIndex { .. } | ConfigurationError::Superseded { .. } => {
                StatusCode::CONFLICT
            }
            ConfigurationError::Invalid(_) | ConfigurationError::LeadsItself { .. } => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            ConfigurationError::LeadershipLost | ConfigurationError::Stopped(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            // Nothing was changed, and trying again may help.
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error)
    }

    pub(super) fn of_transfer(server: &Server, path: &str, error: &TransferError) -> Self {
        let status = match error {
            TransferError::NotLeader { leader } => {
                return Self::not_leader(server, path, leader.as_ref());
            }
            TransferError::InvalidTarget { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            TransferError::TransferInProgress | TransferError::LeadershipLost { .. } => {
                StatusCode::CONFLICT
            }
            TransferError::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
            TransferError::Stopped(_) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error)
    }

    pub(super) fn of_restore(server: &Server, path: &str, error: &RestoreError) -> Self {
        let status = match error {
            RestoreError::NotLeader { leader } => {
                return Self::not_leader(server, path, leader.as_ref());
            }
            RestoreError::RestoreInProgress => StatusCode::CONFLICT,
            RestoreError::Store(_)
            | RestoreError::LeadershipLost
            | RestoreError::Stopped(_)
            | RestoreError::Read { .. }
            | RestoreError::Size { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error)
    }
}

impl From<raft::Fatal> for Problem {
    fn from(end: raft::Fatal) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, end)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": self.text }));
        match self.elsewhere {
            Some(place) => (self.status, [(LOCATION, place)], body).into_response(),
            None => (self.status, body).into_response(),
        }
    }
}

/// Reads a JSON body whatever its content type says: `curl -d` says something else.
pub(super) fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let text = format!("the body is not the JSON that is expected here: {error}");
        Problem::new(StatusCode::BAD_REQUEST, text)
    })
}
