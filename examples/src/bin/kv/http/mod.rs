//! The interface for operators: JSON over HTTP.
//!
//! | request | what it does |
//! |---|---|
//! | `GET /status` | everything this server knows of itself |
//! | `GET /health` | 200 if a leader is known and this server keeps up, else 503 and why |
//! | `GET /metrics` | numbers for Prometheus |
//! | `GET /members` | the members, and where each can be reached |
//! | `POST /members` | adds `{"id", "address", "voter"}`, or makes a nonvoter a voter |
//! | `POST /members/{id}/demote` | takes a vote away |
//! | `DELETE /members/{id}` | removes a member |
//! | `POST /transfer` | hands leadership over, to `{"to"}` if given |
//! | `GET /checksum?at=N` | the digest of this server's map once entry N is applied |
//! | `GET /dump` | this server's whole state, in the format of its snapshots |
//!
//! A change that must be made at the leader is answered with 307 and the leader's address, by a
//! server that knows it. Every answer but `/metrics` and `/dump` is JSON; an error is
//! `{"error": "…"}`.

mod answer;
mod facts;
mod members;

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    http::StatusCode,
    routing::{delete, get, post},
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

use self::answer::Problem;
use crate::server::Server;

/// What the handlers share.
#[derive(Clone, Debug)]
struct Shared {
    server: Arc<Server>,
    metrics: PrometheusHandle,
}

/// Serves operators until the future is dropped.
pub(crate) async fn serve(listener: TcpListener, server: Arc<Server>, metrics: PrometheusHandle) {
    let shared = Shared { server, metrics };
    let app = Router::new()
        .route("/status", get(facts::status))
        .route("/health", get(facts::health))
        .route("/metrics", get(facts::metrics))
        .route("/checksum", get(facts::checksum))
        .route("/dump", get(facts::dump))
        .route("/members", get(members::list).post(members::add))
        .route("/members/{id}", delete(members::remove))
        .route("/members/{id}/demote", post(members::demote))
        .route("/transfer", post(members::transfer))
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown_path)
        .with_state(shared);
    if let Err(error) = axum::serve(listener, app).await {
        tracing::error!(%error, "the HTTP interface has stopped");
    }
}

async fn wrong_method(request: Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("{path} does not take {method}"))
}

async fn unknown_path(request: Request) -> Problem {
    let path = request.uri().path();
    let known = "/status /health /metrics /members /transfer /checksum /dump";
    Problem::new(StatusCode::NOT_FOUND, format!("there is no {path} here, but {known}"))
}
