//! `kv backup`: the state of a cluster into a file.

use std::{
    fmt::Display,
    fs::File,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::time::timeout;

use super::progress::Progress;
use crate::{
    cli::Backup,
    failure::Failure,
    operator::{Operator, SILENCE},
    output::print,
};

/// Takes the backup and says what it holds.
///
/// # Errors
/// When the file exists, nobody answers, or what arrives is not a whole backup. FILE is untouched
/// then.
pub(crate) async fn run(options: Backup) -> Result<(), Failure> {
    let Backup { http, out, leader, force } = options;
    if out.is_dir() {
        return Err(Failure::new(format!("{} is a directory: name a file in it", out.display())));
    }
    if !force && out.exists() {
        return Err(exists(&out));
    }
    let draft = draft_beside(&out)?;
    let mut sink = draft.reopen().map_err(cannot_write(draft.path()))?;
    let received = Arc::<AtomicU64>::default();
    let counter = Arc::clone(&received);
    let receiving = blocking(move || receive(&http, leader, &mut sink, counter));
    let bytes = unless_silent(receiving, &received).await?;
    let file = tokio::fs::File::open(draft.path()).await.map_err(cannot_write(draft.path()))?;
    let (about, summary) = super::check(tokio::io::BufReader::new(file))
        .await
        .map_err(|bad| Failure::new(format!("what the server sent {bad}; nothing was kept")))?;
    let name = out.clone();
    blocking(move || keep(draft, &name, force)).await?;
    print(&format!(
        "{}: {} keys as of entry {} of cluster {}, taken on server {}; {bytes} bytes, checked\n",
        out.display(),
        summary.keys,
        about.snapshot.last,
        about.cluster,
        about.server
    ))
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

fn receive(
    http: &str,
    leader: bool,
    draft: &mut File,
    received: Arc<AtomicU64>,
) -> Result<u64, Failure> {
    let path = if leader { "/backup?leader=true" } else { "/backup" };
    let (length, body) = Operator::unhurried(http).download(path)?;
    let mut body = Progress::new(body, "received", length, Arc::clone(&received));
    // Of the two sides the network is the one to be named: a full disk says so in its own words.
    io::copy(&mut body, draft).map_err(|error| broke_off(received.load(Ordering::Relaxed), error))
}

fn broke_off(bytes: u64, why: impl Display) -> Failure {
    Failure::new(format!("the backup broke off after {bytes} bytes: {why}; nothing was kept"))
}

/// The end of `receiving`, unless it stands still before. Until the first byte the server writes a
/// snapshot, and [`Operator`] has an eye on it.
async fn unless_silent(
    receiving: impl Future<Output = Result<u64, Failure>>,
    received: &AtomicU64,
) -> Result<u64, Failure> {
    let mut receiving = pin!(receiving);
    loop {
        let before = received.load(Ordering::Relaxed);
        match timeout(SILENCE, &mut receiving).await {
            Ok(end) => return end,
            Err(_) if before == 0 || before < received.load(Ordering::Relaxed) => {}
            Err(_) => {
                let why = format!("nothing more has come for {SILENCE:?}; is the server stuck?");
                return Err(broke_off(before, why));
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use std::{future, time::Duration};

    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_transfer_ends_when_nothing_more_comes_however_long_it_takes() {
        let received = AtomicU64::new(0);
        let (snapshot, gap) = (Duration::from_secs(300), SILENCE / 2);
        let slow = async {
            sleep(snapshot).await;
            for _ in 0..100 {
                received.fetch_add(1, Ordering::Relaxed);
                sleep(gap).await;
            }
        };
        let whole = async {
            slow.await;
            Ok(100)
        };
        assert_eq!(unless_silent(whole, &received).await, Ok(100));

        let begun = Instant::now();
        let stuck = unless_silent(future::pending(), &received).await.unwrap_err();
        assert_eq!(begun.elapsed(), SILENCE);
        let expected = "the backup broke off after 100 bytes: nothing more has come for 30s; ";
        assert!(stuck.to_string().starts_with(expected), "{stuck}");
    }
}
