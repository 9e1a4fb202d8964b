//! `kv backup`: the state of a cluster into a file.

use std::{
    fs::File,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use super::progress::Progress;
use crate::{cli::Backup, failure::Failure, operator::Operator};

/// Takes the backup and says what it holds.
///
/// # Errors
/// When the file exists, nobody answers, or what arrives is not a whole backup. FILE is untouched
/// then.
pub(crate) async fn run(options: Backup) -> Result<(), Failure> {
    let Backup { http, out, leader, force } = options;
    if !force && out.exists() {
        return Err(exists(&out));
    }
    let draft = draft_beside(&out)?;
    let (draft, bytes) = blocking(move || {
        let bytes = receive(&http, leader, draft.as_file())?;
        Ok((draft, bytes))
    })
    .await?;
    let file = tokio::fs::File::open(draft.path()).await.map_err(cannot_write(draft.path()))?;
    let (about, summary) = super::check(tokio::io::BufReader::new(file))
        .await
        .map_err(|bad| Failure::new(format!("what the server sent {bad}; nothing was kept")))?;
    let name = out.clone();
    blocking(move || keep(draft, &name, force)).await?;
    println!(
        "{}: {} keys as of entry {} of cluster {}, taken on server {}; {bytes} bytes, checked",
        out.display(),
        summary.keys,
        about.snapshot.last,
        about.cluster,
        about.server
    );
    Ok(())
}

fn exists(out: &Path) -> Failure {
    Failure::new(format!("{} exists; --force replaces it", out.display()))
}

fn cannot_write(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::new(format!("cannot write {}: {error}", path.display()))
}

/// The directory that will have the file.
fn directory_of(out: &Path) -> PathBuf {
    match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A file that is removed unless it gets its name in the end.
fn draft_beside(out: &Path) -> Result<tempfile::NamedTempFile, Failure> {
    let name = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name.is_empty() {
        return Err(Failure::new(format!("{} is no name for a file", out.display())));
    }
    tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .suffix(".draft")
        .tempfile_in(directory_of(out))
        .map_err(|error| Failure::new(format!("cannot write to {}: {error}", out.display())))
}

fn receive(http: &str, leader: bool, mut draft: &File) -> Result<u64, Failure> {
    let path = if leader { "/backup?leader=true" } else { "/backup" };
    let (length, body) = Operator::unhurried(http).download(path)?;
    let mut body = Progress::new(body, "received", length);
    // Of the two sides the network is the one to be named: a full disk says so in its own words.
    io::copy(&mut body, &mut draft).map_err(|error| {
        Failure::new(format!("the backup broke off after {} bytes: {error}", body.bytes()))
    })
}

/// Makes the file durable and gives it its name, in one step.
fn keep(draft: tempfile::NamedTempFile, out: &Path, force: bool) -> Result<(), Failure> {
    draft.as_file().sync_all().map_err(cannot_write(out))?;
    let kept = match force {
        true => draft.persist(out),
        false => draft.persist_noclobber(out),
    };
    kept.map_err(|error| match error.error.kind() {
        ErrorKind::AlreadyExists => exists(out),
        _ => cannot_write(out)(error.error),
    })?;
    let directory = directory_of(out);
    File::open(&directory)
        .and_then(|directory| directory.sync_all())
        .map_err(cannot_write(&directory))
}

/// The other tools of this kind wait for the network too.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(Failure::new)?
}
