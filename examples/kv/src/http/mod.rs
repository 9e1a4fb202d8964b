//! The interface for operators: JSON over HTTP.
//!
//! | request | what it does |
//! |---|---|
//! | `GET /status` | everything this server knows of itself |
//! | `GET /health` | 200 if a leader is known and this server keeps up, else 503 and why |
//! | `GET /metrics` | numbers for Prometheus |
//! | `GET /members` | the members, where each can be reached, and the incarnation of its disk |
//! | `POST /members` | adds `{"id", "address"}`, or makes a nonvoter a voter |
//! | `POST /members/{id}/demote` | takes a vote away |
//! | `DELETE /members/{id}` | removes a member |
//! | `POST /members/{id}/rejoin` | takes a member back that runs on an empty disk now |
//! | `POST /transfer` | hands leadership over, to `{"to"}` if given |
//! | `GET /checksum?at=N` | the digest of this server's map once entry N is applied |
//! | `GET /dump` | this server's whole state, in the format of its snapshots |
//! | `GET /autopilot` | what the autopilot knows, if there is one |
//! | `POST /snapshot` | takes a snapshot now |
//! | `GET /backup` | this server's whole state as a backup; `?leader=true`: the leader's |
//! | `POST /farewell` | notes why a member has ended: `{"id", "cluster", "why"}`, which it sends by itself |
//! | `POST /restore` | puts the backup that is sent in the place of the cluster's state |
//!
//! `POST /members` also takes `"voter": false`; `"move": true`, without which a member's address stays
//! what it is; and `"wait": false`, to be answered as soon as the server is a member, and not when it has
//! caught up and has its vote. It answers `{"index", "voter", "changed"}`: with `false` the server was
//! what was asked for, and nothing was written.
//!
//! 503 is the answer as long as nobody listens where a member is to be moved, unless `"force"` is true.
//! 409 is the answer to a change that the [`rules`] forbid. The three that take a vote away take
//! `?force=true`, which does them all the same.
//!
//! A change that must be made at the leader is answered with 307 and the leader's address, by a
//! server that knows it. Every answer but `/metrics`, `/dump` and `/backup` is JSON; an
//! error is `{"error": "…"}`. Incarnations are text of 16 hexadecimal digits.

mod answer;
mod backups;
mod facts;
mod members;
mod rules;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::StatusCode,
    routing::{delete, get, post},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::timeout,
};

use self::answer::Problem;
use crate::{accept::Door, server::Server};

/// How often a change that only has to wait for another is tried again.
const RETRY: Duration = Duration::from_millis(50);
/// How long a connection may be open without a request.
const IDLE: Duration = Duration::from_secs(60);
/// How long somebody for whom there is no place may take to hear it.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the handlers share.
#[derive(Clone, Debug)]
struct Shared {
    server: Arc<Server>,
    metrics: PrometheusHandle,
}

/// Serves operators until the future is dropped.
pub(crate) async fn serve(mut door: Door, server: Arc<Server>, metrics: PrometheusHandle) {
    let service = TowerToHyperService::new(routes(Shared { server: Arc::clone(&server), metrics }));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(IDLE);
    loop {
        let stream = door.next().await;
        match server.places.operator() {
            Some(place) => {
                let connection = http.serve_connection(TokioIo::new(stream), service.clone());
                tokio::spawn(async move {
                    let _place = place;
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "operator gone");
                    }
                });
            }
            None => {
                if let Some(place) = server.places.doorstep() {
                    tokio::spawn(turn_away(stream, place));
                }
            }
        }
    }
}

/// Says why, if that is waited for.
async fn turn_away(mut stream: TcpStream, _place: OwnedSemaphorePermit) {
    let body = r#"{"error":"too many connections of operators: try again"}"#;
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let talk = async {
        // Closing with unread bytes would make the operating system throw the answer away.
        let _ = stream.read(&mut [0; 4096]).await;
        stream.write_all(answer.as_bytes()).await
    };
    let _ = timeout(FAREWELL, talk).await;
}

fn routes(shared: Shared) -> Router {
    Router::new()
        .route("/status", get(facts::status))
        .route("/health", get(facts::health))
        .route("/metrics", get(facts::metrics))
        .route("/checksum", get(facts::checksum))
        .route("/dump", get(facts::dump))
        .route("/members", get(members::list).post(members::add))
        .route("/members/{id}", delete(members::remove))
        .route("/members/{id}/demote", post(members::demote))
        .route("/members/{id}/rejoin", post(members::rejoin))
        .route("/autopilot", get(facts::autopilot))
        .route("/snapshot", post(backups::take_snapshot))
        .route("/backup", get(backups::take_backup))
        .route("/restore", post(backups::restore))
        .route("/transfer", post(members::transfer))
        .route("/farewell", post(members::farewell))
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown_path)
        .with_state(shared)
}

async fn wrong_method(request: Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("{path} does not take {method}"))
}

async fn unknown_path(request: Request) -> Problem {
    let path = request.uri().path();
    let known = "/status /health /metrics /members /transfer /checksum /dump /autopilot \
                 /snapshot /backup /restore";
    Problem::new(StatusCode::NOT_FOUND, format!("there is no {path} here, but {known}"))
}
