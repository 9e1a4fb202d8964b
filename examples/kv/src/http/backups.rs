//! Snapshots, backups, and restoring them.

use std::{
    io::{self, ErrorKind, SeekFrom},
    pin::pin,
    time::Duration,
};

use axum::{
    BoxError, Json,
    body::{Body, Bytes},
    extract::{Query, State, rejection::QueryRejection},
    http::{
        StatusCode, Uri,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
    },
    response::IntoResponse,
};
use futures_util::{Stream, StreamExt, stream};
use raft::{
    LogId, LogIndex, RestoreError, SnapshotError, SnapshotMeta, SnapshotReader, SnapshotStore,
    VerifyError,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    fs::File,
    io::{AsyncSeekExt, AsyncWriteExt},
    time::{Instant, sleep, timeout},
};
use tokio_util::io::{ReaderStream, StreamReader};

use super::{RETRY, Shared, answer::Problem};
use crate::{
    backup::{self, About, Backup, Bad},
    server::Server,
    snapshot,
};

/// How much of a backup is under way at most.
const BACKUP_BYTES: usize = 256 << 10;
/// How long nothing may come of a backup that is being sent: until it is here, nobody else can restore.
const SILENCE: Duration = Duration::from_secs(30);

pub(super) async fn take_snapshot(State(shared): State<Shared>) -> Result<Json<Value>, Problem> {
    let server = &shared.server;
    let (meta, is_new) = match server.node.snapshot().await {
        Ok(snapshot) => (snapshot.meta, true),
        Err(SnapshotError::NothingNew | SnapshotError::Overtaken { .. }) => {
            (current_snapshot(server).await?, false)
        }
        Err(error) => return Err(not_taken(error)),
    };
    Ok(Json(json!({
        "id": meta.id, "last": meta.last, "size_bytes": meta.size_bytes, "new": is_new,
    })))
}

fn not_taken(why: impl ToString) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, why)
}

fn nothing_yet() -> Problem {
    Problem::new(StatusCode::CONFLICT, "this server has no state yet")
}

#[derive(Debug, Deserialize)]
pub(super) struct From {
    #[serde(default)]
    leader: bool,
}

pub(super) async fn take_backup(
    State(shared): State<Shared>,
    from: Result<Query<From>, QueryRejection>,
) -> Result<impl IntoResponse, Problem> {
    let Query(From { leader }) =
        from.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let server = &shared.server;
    if leader {
        everything_acknowledged(server).await?;
    }
    let (meta, reader) = newest_snapshot(server).await?;
    let about = About::new(&server.cluster, server.node.id().as_str(), meta);
    let head = about.head().map_err(not_taken)?;
    let length = about.length(&head);
    let (mut sink, source) = tokio::io::duplex(BACKUP_BYTES);
    tokio::spawn(async move {
        // Whoever asked sees by the length that it broke off, if they have not gone themselves.
        if let Err(error) = backup::write(&head, reader, &mut sink).await {
            tracing::warn!(%error, "a backup broke off");
        }
    });
    Ok((
        [
            (CONTENT_TYPE, "application/octet-stream".to_owned()),
            (CONTENT_LENGTH, length.to_string()),
        ],
        Body::from_stream(ReaderStream::with_capacity(source, BACKUP_BYTES)),
    ))
}

/// Waits until this server holds everything that was acknowledged before, which only a leader can
/// say.
async fn everything_acknowledged(server: &Server) -> Result<(), Problem> {
    let unavailable = |error: VerifyError| Problem::new(StatusCode::SERVICE_UNAVAILABLE, error);
    match server.node.verify_leader().await {
        Ok(index) => match timeout(server.no_leader_wait, server.node.wait_applied(index)).await {
            Ok(applied) => Ok(applied?),
            Err(_) => {
                let why = format!("entry {index} was not applied in time");
                Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, why))
            }
        },
        Err(VerifyError::NotLeader { leader }) => {
            Err(Problem::not_leader(server, "/backup?leader=true", leader.as_ref()))
        }
        Err(error) => Err(unavailable(error)),
    }
}

/// A snapshot of what is applied here now.
async fn newest_snapshot(server: &Server) -> Result<(SnapshotMeta, SnapshotReader), Problem> {
    match server.node.snapshot().await {
        Ok(snapshot) => {
            let reader = snapshot.open().await.map_err(not_taken)?;
            Ok((snapshot.meta, reader))
        }
        // The newest one there is says it already.
        Err(SnapshotError::NothingNew | SnapshotError::Overtaken { .. }) => {
            let newest = current_snapshot(server).await?;
            server.snapshots.open(&newest.id).await.map_err(not_taken)
        }
        Err(error) => Err(not_taken(error)),
    }
}

/// The newest snapshot that counts on this server. The store may have another one, of a restore that
/// came to nothing.
async fn current_snapshot(server: &Server) -> Result<SnapshotMeta, Problem> {
    let last = server.node.status().await?.snapshot;
    if last == LogId::ZERO {
        return Err(nothing_yet());
    }
    let snapshots = server.snapshots.list().await.map_err(not_taken)?;
    let is_current = |meta: &SnapshotMeta| meta.last == last;
    snapshots.into_iter().find(is_current).ok_or_else(|| {
        let why = format!("the snapshot that ends with {last} has just made room for a newer one");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, why)
    })
}

/// Nothing is asked of the cluster before the whole backup is here and known to be good. Until then
/// it waits in a file without a name, which is gone if this process ends.
pub(super) async fn restore(
    State(shared): State<Shared>,
    uri: Uri,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let server = &shared.server;
    let Ok(restoring) = server.restoring.try_lock() else {
        return Err(Problem::new(StatusCode::CONFLICT, RestoreError::RestoreInProgress));
    };
    let leader = server.node.leader();
    if leader.as_ref().is_none_or(|leader| leader.id != *server.node.id()) {
        return Err(Problem::not_leader(server, uri.path(), leader.as_ref()));
    }
    let mut body = pin!(until_silent(body.into_data_stream()));
    let (file, meta, summary) = match receive(server, &mut body).await {
        Ok(received) => received,
        Err(problem) => {
            // However slow this one is, the next one need not wait for it.
            drop(restoring);
            // Who is still sending would not see the answer.
            while let Some(Ok(_)) = body.next().await {}
            return Err(problem);
        }
    };
    tracing::info!(keys = summary.keys, last = %meta.last, "restoring a backup");
    let index = carry_out(server, uri.path(), file, &meta).await?;
    tracing::info!(%index, "the backup is restored");
    Ok(Json(json!({
        "index": index,
        "keys": summary.keys,
        "checksum": format!("{:016x}", summary.digest),
    })))
}

/// What is sent, until nothing more comes: from then on it is an error.
fn until_silent<E: Into<BoxError>>(
    body: impl Stream<Item = Result<Bytes, E>> + Unpin,
) -> impl Stream<Item = io::Result<Bytes>> {
    let parts = stream::unfold(Some(body), |body| async move {
        let Some(mut body) = body else { return Some((Err(silent()), None)) };
        match timeout(SILENCE, body.next()).await {
            Ok(part) => Some((part?.map_err(io::Error::other), Some(body))),
            Err(_) => Some((Err(silent()), None)),
        }
    });
    parts.fuse()
}

fn silent() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, format!("nothing more has come for {SILENCE:?}"))
}

fn refused(bad: Bad) -> Problem {
    match bad {
        Bad::Read(error) if error.kind() == ErrorKind::TimedOut => {
            let text = format!("the upload broke off: {error}; nothing was changed, send it again");
            Problem::new(StatusCode::REQUEST_TIMEOUT, text)
        }
        bad => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("what was sent {bad}")),
    }
}

/// Copies the data of a backup to where it can be read from, if it is good.
async fn receive(
    server: &Server,
    body: impl Stream<Item = io::Result<Bytes>> + Unpin,
) -> Result<(File, SnapshotMeta, snapshot::Summary), Problem> {
    let no_room = |error: io::Error| {
        let text = format!("cannot keep the backup in {}: {error}", server.data.display());
        Problem::new(StatusCode::INSUFFICIENT_STORAGE, text)
    };
    let mut file = File::from_std(tempfile::tempfile_in(&server.data).map_err(no_room)?);
    let mut backup = Backup::begin(StreamReader::new(body)).await.map_err(refused)?;
    let mut meta = backup.about.snapshot.clone();
    let contacts = server.shared.read(|state| state.contacts.clone());
    let copied = snapshot::copy(backup.data(), &mut file, &contacts).await;
    if let Err(snapshot::CopyError::Write(error)) = copied {
        return Err(no_room(error));
    }
    backup.end().await.map_err(refused)?;
    let summary = match copied {
        Ok(summary) => summary,
        Err(snapshot::CopyError::Write(error)) => return Err(no_room(error)),
        Err(snapshot::CopyError::Read(error)) => {
            return Err(refused(Bad::Content(error.to_string())));
        }
    };
    file.flush().await.map_err(no_room)?;
    meta.size_bytes = file.stream_position().await.map_err(no_room)?;
    Ok((file, meta, summary))
}

/// Restores, waiting while the leader is not ready for it or changes something else.
async fn carry_out(
    server: &Server,
    path: &str,
    mut file: File,
    meta: &SnapshotMeta,
) -> Result<LogIndex, Problem> {
    let deadline = Instant::now() + server.no_leader_wait;
    loop {
        file.seek(SeekFrom::Start(0)).await.map_err(not_taken)?;
        let reader = file.try_clone().await.map_err(not_taken)?;
        match server.node.restore(meta, reader).await {
            Ok(index) => return Ok(index),
            Err(
                RestoreError::NotReady
                | RestoreError::ChangeInProgress { .. }
                | RestoreError::TransferInProgress,
            ) if Instant::now() < deadline => sleep(RETRY).await,
            Err(error) => return Err(Problem::of_restore(server, path, &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slow is not silent; and whoever is silent does not keep others out.
    #[tokio::test(start_paused = true)]
    async fn an_upload_ends_when_nothing_more_comes() {
        let parts = stream::iter(0..5).then(|part| async move {
            sleep(SILENCE - Duration::from_secs(1)).await;
            Ok::<_, io::Error>(Bytes::from(vec![part]))
        });
        let parts = pin!(parts.chain(stream::pending()));
        let mut body = pin!(until_silent(parts));
        for part in 0..5 {
            assert_eq!(body.next().await.unwrap().unwrap(), vec![part]);
        }
        let asked = Instant::now();
        for _ in 0..2 {
            let refused = refused(Bad::Read(body.next().await.unwrap().unwrap_err()));
            let said = format!("{refused:?}");
            assert!(
                said.contains("408") && said.contains("nothing more has come for 30s"),
                "{said}"
            );
            assert_eq!(asked.elapsed(), SILENCE, "once");
        }
        let mut ends = pin!(until_silent(stream::empty::<io::Result<Bytes>>()));
        assert!(ends.next().await.is_none());
    }
}
