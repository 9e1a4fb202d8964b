//! Backups: the state of a cluster in a file, and its way back. This is the file; `kv backup` is in
//! [`take`] and `kv restore` in [`restore`]. What a server answers to `GET /backup` and reads from
//! `POST /restore` are the same bytes.
//!
//! ```text
//! "raftbkup"   magic                                                   8 bytes
//! version      1                                                       4
//! about        length, then JSON: program, release, cluster, server,
//!              and the description of the snapshot                     4 + …
//! data         as long as the description says                         …
//! checksum     crc32 of everything before                              4
//! ```
//! Numbers are little endian. The data is a snapshot of the program that is named; `kv` reads its own
//! only.

mod progress;
pub(crate) mod restore;
pub(crate) mod take;

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use raft::SnapshotMeta;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::snapshot;

const MAGIC: &[u8; 8] = b"raftbkup";
const VERSION: u32 = 1;
const PROGRAM: &str = "kv";
/// What stands before the JSON, and after the data.
const FRAME_BYTES: u64 = 8 + 4 + 4;
const CHECKSUM_BYTES: u64 = 4;
/// More than any description has; a damaged length must not ask for gigabytes.
const ABOUT_BYTES_MAX: u32 = 16 << 20;
const BUFFER_BYTES: usize = 64 << 10;

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    /// Who can read the data.
    pub(crate) program: String,
    /// The program's release.
    pub(crate) release: String,
    /// The cluster and the server it was taken on.
    pub(crate) cluster: String,
    pub(crate) server: String,
    /// What the data stands for.
    pub(crate) snapshot: SnapshotMeta,
}

impl About {
    /// For a snapshot of this program.
    pub(crate) fn new(cluster: &str, server: &str, snapshot: SnapshotMeta) -> Self {
        Self {
            program: PROGRAM.to_owned(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: cluster.to_owned(),
            server: server.to_owned(),
            snapshot,
        }
    }

    /// What comes before the data.
    pub(crate) fn head(&self) -> io::Result<Vec<u8>> {
        let json = serde_json::to_vec(self)?;
        let length = u32::try_from(json.len()).map_err(io::Error::other)?;
        Ok([&MAGIC[..], &VERSION.to_le_bytes(), &length.to_le_bytes(), &json].concat())
    }

    /// The length of a backup with this head.
    pub(crate) fn length(&self, head: &[u8]) -> u64 {
        head.len() as u64 + self.snapshot.size_bytes + CHECKSUM_BYTES
    }
}

/// Writes a backup: `head`, which is [`About::head`], all of `data`, and the checksum.
///
/// # Errors
/// When the data cannot be read, or the backup cannot be written.
pub(crate) async fn write(
    head: &[u8],
    mut data: impl AsyncRead + Unpin,
    sink: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(head);
    sink.write_all(head).await?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = data.read(&mut buffer).await?;
        let Some(part) = buffer.get(..count).filter(|part| !part.is_empty()) else { break };
        checksum.update(part);
        sink.write_all(part).await?;
    }
    sink.write_all(&checksum.finalize().to_le_bytes()).await?;
    sink.flush().await
}

/// What is wrong with a backup. Read on after "it is", as in "FILE is truncated".
#[derive(Debug)]
pub(crate) enum Bad {
    /// It does not begin like one.
    NotABackup,
    NewerVersion(u32),
    OfAnotherProgram(String),
    /// It ends early.
    Truncated {
        /// What there must be, if that is known, and what there is.
        expected_bytes: Option<u64>,
        bytes: u64,
    },
    TooLong,
    Checksum,
    /// The description or the data cannot be understood.
    Content(String),
    /// It could not be read.
    Read(io::Error),
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotABackup => write!(f, "is not a backup"),
            Self::NewerVersion(version) => write!(
                f,
                "is a backup in format {version}; this release of {PROGRAM} reads formats up to \
                 {VERSION}"
            ),
            Self::OfAnotherProgram(program) => {
                write!(f, "is a backup of the program {program:?}, not of {PROGRAM}")
            }
            Self::Truncated { expected_bytes: Some(expected), bytes } => {
                write!(f, "is truncated: it has {bytes} of {expected} bytes")
            }
            Self::Truncated { expected_bytes: None, bytes } => {
                write!(f, "is truncated: it ends after {bytes} bytes")
            }
            Self::TooLong => write!(f, "is damaged: it goes on after its end"),
            Self::Checksum => write!(f, "is damaged: it fails its checksum"),
            Self::Content(why) => write!(f, "is damaged: {why}"),
            Self::Read(error) => write!(f, "cannot be read: {error}"),
        }
    }
}

/// A backup being read: [`begin`](Self::begin), then the [`data`](Self::data), then
/// [`end`](Self::end), without which nothing is certain.
pub(crate) struct Backup<R> {
    source: Summed<R>,
    pub(crate) about: About,
    expected_bytes: u64,
}

impl<R: AsyncRead + Unpin> Backup<R> {
    /// Reads what the backup says of itself.
    ///
    /// # Errors
    /// [`Bad`], when it is none that this program can read.
    pub(crate) async fn begin(reader: R) -> Result<Self, Bad> {
        let mut source = Summed { inner: reader, checksum: crc32fast::Hasher::new(), bytes: 0 };
        let mut magic = [0; 8];
        match source.fill(&mut magic).await {
            Ok(()) if magic == *MAGIC => {}
            Ok(()) | Err(Bad::Truncated { .. }) => return Err(Bad::NotABackup),
            Err(bad) => return Err(bad),
        }
        let version = source.number().await?;
        if version != VERSION {
            return Err(Bad::NewerVersion(version));
        }
        let length = source.number().await?;
        if ABOUT_BYTES_MAX < length {
            return Err(Bad::Content("its description is too long".to_owned()));
        }
        let mut json = Vec::new();
        let read = (&mut source).take(length.into()).read_to_end(&mut json).await;
        if read.map_err(Bad::Read)? < length as usize {
            return Err(source.truncated(None));
        }
        let about = about(&json)?;
        let expected_bytes =
            FRAME_BYTES + u64::from(length) + about.snapshot.size_bytes + CHECKSUM_BYTES;
        Ok(Self { source, about, expected_bytes })
    }

    /// What is left of the data.
    pub(crate) fn data(&mut self) -> impl AsyncRead + Unpin {
        let end = self.expected_bytes - CHECKSUM_BYTES;
        let left = end.saturating_sub(self.source.bytes);
        (&mut self.source).take(left)
    }

    /// Reads the rest and checks that everything was as it was written.
    ///
    /// # Errors
    /// [`Bad`], when it was not.
    pub(crate) async fn end(mut self) -> Result<(), Bad> {
        tokio::io::copy(&mut self.data(), &mut tokio::io::sink()).await.map_err(Bad::Read)?;
        let Self { mut source, expected_bytes, .. } = self;
        let checksum = source.checksum.clone().finalize();
        let written = source.number().await;
        match written {
            Err(Bad::Truncated { .. }) => return Err(source.truncated(Some(expected_bytes))),
            Ok(written) if written == checksum => {}
            Ok(_) => return Err(Bad::Checksum),
            Err(bad) => return Err(bad),
        }
        match source.read(&mut [0]).await {
            Ok(0) => Ok(()),
            Ok(_) => Err(Bad::TooLong),
            Err(error) => Err(Bad::Read(error)),
        }
    }
}

fn about(json: &[u8]) -> Result<About, Bad> {
    /// What the backups of all programs have in common.
    #[derive(Deserialize)]
    struct OfAny {
        program: String,
    }
    let unreadable = |error| Bad::Content(format!("its description cannot be read: {error}"));
    let OfAny { program } = serde_json::from_slice(json).map_err(unreadable)?;
    if program != PROGRAM {
        return Err(Bad::OfAnotherProgram(program));
    }
    let about: About = serde_json::from_slice(json).map_err(unreadable)?;
    if i64::try_from(about.snapshot.size_bytes).is_err() {
        return Err(Bad::Content("its description gives it an absurd length".to_owned()));
    }
    Ok(about)
}

/// Reads all of a backup without keeping it.
///
/// # Errors
/// [`Bad`], when it is not whole.
pub(crate) async fn check(
    reader: impl AsyncRead + Unpin,
) -> Result<(About, snapshot::Summary), Bad> {
    let mut backup = Backup::begin(reader).await?;
    let about = backup.about.clone();
    let summary = snapshot::check(backup.data()).await;
    // Whether it is whole comes first: if not, no wonder that the data makes no sense.
    backup.end().await?;
    Ok((about, summary.map_err(|error| Bad::Content(error.to_string()))?))
}

/// Counts and sums up what is read.
struct Summed<R> {
    inner: R,
    checksum: crc32fast::Hasher,
    bytes: u64,
}

impl<R: AsyncRead + Unpin> Summed<R> {
    async fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Bad> {
        match self.read_exact(bytes).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.truncated(None)),
            Err(error) => Err(Bad::Read(error)),
        }
    }

    async fn number(&mut self) -> Result<u32, Bad> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes).await?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn truncated(&self, expected_bytes: Option<u64>) -> Bad {
        Bad::Truncated { expected_bytes, bytes: self.bytes }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Summed<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        let read = buffer.filled().get(before..).unwrap_or_default();
        self.checksum.update(read);
        self.bytes += read.len() as u64;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use raft::{FsmSnapshot, IndexedConfiguration, LogId, LogIndex, SnapshotId};

    use super::*;
    use crate::{fsm::State, snapshot::View};

    async fn data() -> Vec<u8> {
        let mut state = State { index: LogIndex(7), ..State::default() };
        for n in 0..100 {
            state.map.insert(Bytes::from(format!("key {n}")), Bytes::from("value"));
        }
        let mut data = Vec::new();
        Box::new(View(state)).persist(&mut data).await.unwrap();
        data
    }

    fn about_for(data: &[u8]) -> About {
        let snapshot = SnapshotMeta {
            id: SnapshotId::new("x"),
            last: LogId::new(2, 9),
            configuration: IndexedConfiguration::default(),
            size_bytes: data.len() as u64,
        };
        About::new("kv", "a", snapshot)
    }

    async fn written(about: &About, data: &[u8]) -> Vec<u8> {
        let (head, mut file) = (about.head().unwrap(), Vec::new());
        write(&head, data, &mut file).await.unwrap();
        assert_eq!(file.len() as u64, about.length(&head));
        file
    }

    async fn complaint(file: &[u8]) -> String {
        check(file).await.expect_err("refused").to_string()
    }

    #[tokio::test]
    async fn a_backup_comes_back_and_says_what_it_is() {
        let data = data().await;
        let about = about_for(&data);
        let file = written(&about, &data).await;
        let (found, summary) = check(&file[..]).await.unwrap();
        assert_eq!(found, about);
        assert_eq!((summary.index, summary.keys), (LogIndex(7), 100));

        let mut backup = Backup::begin(&file[..]).await.unwrap();
        let mut found = Vec::new();
        backup.data().read_to_end(&mut found).await.unwrap();
        backup.end().await.unwrap();
        assert_eq!(found, data);
    }

    /// Files outlive programs: what one version wrote, every later one must read.
    #[tokio::test]
    async fn the_bytes_are_pinned() {
        let about = About { release: "0.1.0".to_owned(), ..about_for(b"data") };
        let expected = [
            r"raftbkup\x01\x00\x00\x00\xc6\x00\x00\x00",
            r#"{\"program\":\"kv\",\"release\":\"0.1.0\",\"cluster\":\"kv\",\"server\":\"a\","#,
            r#"\"snapshot\":{\"id\":\"x\",\"last\":{\"term\":2,\"index\":9},"#,
            r#"\"configuration\":{\"index\":0,\"configuration\":{\"servers\":[],\"cluster\":0}},"#,
            r#"\"size_bytes\":4}}"#,
            r"data\xc9I\xeds",
        ];
        let file = written(&about, b"data").await;
        assert_eq!(file.escape_ascii().to_string(), expected.concat());

        // Before clusters had a number.
        let head = br#"{"program":"kv","release":"0.1.0","cluster":"kv","server":"a","snapshot":{"id":"x","last":{"term":2,"index":9},"configuration":{"index":0,"configuration":{"servers":[]}},"size_bytes":4}}"#;
        let early = [&b"raftbkup\x01\x00\x00\x00\xba\x00\x00\x00"[..], head, b"data\xf8\xbe\\\x83"];
        let early = early.concat();
        let mut backup = Backup::begin(&early[..]).await.unwrap();
        let mut data = Vec::new();
        backup.data().read_to_end(&mut data).await.unwrap();
        backup.end().await.unwrap();
        assert_eq!(data, b"data");
    }

    #[tokio::test]
    async fn every_flaw_is_named() {
        let data = data().await;
        let about = about_for(&data);
        let file = written(&about, &data).await;
        let size = file.len();

        for length in 0..8 {
            assert_eq!(complaint(&file[..length]).await, "is not a backup");
        }
        assert_eq!(complaint(&data).await, "is not a backup");
        for length in (8..size).step_by(37).chain([size - 5, size - 4, size - 1]) {
            let said = complaint(&file[..length]).await;
            assert!(said.starts_with("is truncated: it "), "{length}: {said}");
            assert!(said.contains(&format!("{length} ")), "{length}: {said}");
        }
        let long = [&file[..], b"x"].concat();
        assert_eq!(complaint(&long).await, "is damaged: it goes on after its end");
        for position in (8..size).step_by(31) {
            let mut bad = file.clone();
            bad[position] ^= 0x40;
            let said = complaint(&bad).await;
            let named =
                ["is damaged: ", "is a backup in format ", "is truncated", "is a backup of"];
            assert!(named.iter().any(|start| said.starts_with(start)), "{position}: {said}");
        }
        let mut bad = file.clone();
        bad[size - 40] ^= 1;
        assert_eq!(complaint(&bad).await, "is damaged: it fails its checksum");

        let mut newer = file;
        newer[8] = 2;
        assert_eq!(
            complaint(&newer).await,
            "is a backup in format 2; this release of kv reads formats up to 1"
        );
        let foreign = About { program: "ledger".to_owned(), ..about.clone() };
        let foreign = written(&foreign, &data).await;
        assert_eq!(complaint(&foreign).await, "is a backup of the program \"ledger\", not of kv");
        // Whole, but what is inside is nothing of ours.
        let odd = written(&about_for(b"odd data"), b"odd data").await;
        assert!(complaint(&odd).await.starts_with("is damaged: not a snapshot of this program"));
    }
}
