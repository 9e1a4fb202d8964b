//! The bytes of a snapshot, which are also what `GET /dump` answers.
//!
//! ```text
//! "raft-kv" 1            magic and version                    8 bytes
//! index                  the last command applied, or 0       8
//! contacts               how many, then id, resp, http each   4 + …
//! pairs                  how many, then key, value each       8 + …
//! digest                 of the map, as the running sum says  8
//! checksum               crc32 of everything before           4
//! ```
//! Numbers are little endian; a string is its length in four bytes and then its bytes. The pairs
//! come in the order of the map, so equal states have equal bytes.

use async_trait::async_trait;
use bytes::Bytes;
use raft::{FsmError, FsmSnapshot, LogIndex, ServerId};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

use crate::{
    fsm::{Contact, Contacts, State},
    map,
};

const MAGIC: &[u8; 8] = b"raft-kv\x01";

/// How much is gathered before it is written.
const CHUNK_BYTES: usize = 64 << 10;

/// A view of the state at one moment.
pub(crate) struct View(pub(crate) State);

#[async_trait]
impl FsmSnapshot for View {
    async fn persist(
        self: Box<Self>,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), FsmError> {
        let State { map, contacts, index } = &self.0;
        let mut out = Writer::new(sink);
        out.head(*index, contacts, map.len() as u64).await?;
        for (key, value) in map.iter() {
            out.string(key).await?;
            out.string(value).await?;
        }
        Ok(out.end(map.digest()).await?)
    }
}

/// Gathers small pieces into large writes and sums up what went through.
struct Writer<'a> {
    sink: &'a mut (dyn AsyncWrite + Send + Unpin),
    buffer: Vec<u8>,
    checksum: crc32fast::Hasher,
}

impl<'a> Writer<'a> {
    fn new(sink: &'a mut (dyn AsyncWrite + Send + Unpin)) -> Self {
        Self { sink, buffer: Vec::new(), checksum: crc32fast::Hasher::new() }
    }

    async fn head(
        &mut self,
        index: LogIndex,
        contacts: &Contacts,
        keys: u64,
    ) -> std::io::Result<()> {
        self.raw(MAGIC).await?;
        self.raw(&index.0.to_le_bytes()).await?;
        self.len(contacts.len()).await?;
        for (id, contact) in contacts {
            self.string(id.as_str().as_bytes()).await?;
            self.string(contact.resp.as_bytes()).await?;
            self.string(contact.http.as_bytes()).await?;
        }
        self.raw(&keys.to_le_bytes()).await
    }

    async fn raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        if CHUNK_BYTES <= self.buffer.len() {
            self.flush().await?;
        }
        Ok(())
    }

    async fn len(&mut self, len: usize) -> std::io::Result<()> {
        let len = u32::try_from(len).map_err(std::io::Error::other)?;
        self.raw(&len.to_le_bytes()).await
    }

    async fn string(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.len(bytes.len()).await?;
        self.raw(bytes).await
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        self.checksum.update(&self.buffer);
        self.sink.write_all(&self.buffer).await?;
        self.buffer.clear();
        Ok(())
    }

    async fn end(mut self, digest: u64) -> std::io::Result<()> {
        self.raw(&digest.to_le_bytes()).await?;
        self.flush().await?;
        let checksum = self.checksum.finalize();
        self.sink.write_all(&checksum.to_le_bytes()).await?;
        self.sink.flush().await
    }
}

/// Reads a snapshot back.
///
/// # Errors
/// When the bytes end early or go on too long, are of another version, or fail a checksum.
pub(crate) async fn read(reader: impl AsyncRead + Unpin) -> Result<State, FsmError> {
    let mut pairs = Pairs::begin(reader).await?;
    let mut state = State { index: pairs.index, ..State::default() };
    state.contacts = std::mem::take(&mut pairs.contacts);
    while let Some((key, value)) = pairs.next().await? {
        state.map.insert(key, value);
    }
    pairs.end().await?;
    Ok(state)
}

/// What a snapshot holds, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// The last command applied.
    pub(crate) index: LogIndex,
    pub(crate) keys: u64,
    pub(crate) digest: u64,
}

/// Reads a snapshot without keeping it.
///
/// # Errors
/// As [`read`].
pub(crate) async fn check(reader: impl AsyncRead + Unpin) -> Result<Summary, FsmError> {
    let mut pairs = Pairs::begin(reader).await?;
    while pairs.next().await?.is_some() {}
    pairs.end().await
}

/// Copies a snapshot to where it will be restored. Its contacts may be those of another cluster, to which
/// requests would be passed on, and its index is one of another log: the copy has others.
///
/// # Errors
/// As [`read`], and when the copy cannot be written.
pub(crate) async fn copy(
    reader: impl AsyncRead + Unpin,
    sink: &mut (dyn AsyncWrite + Send + Unpin),
    contacts: &Contacts,
) -> Result<Summary, CopyError> {
    let mut pairs = Pairs::begin(reader).await?;
    let mut out = Writer::new(sink);
    out.head(LogIndex::ZERO, contacts, pairs.keys).await.map_err(CopyError::Write)?;
    while let Some((key, value)) = pairs.next().await? {
        out.string(&key).await.map_err(CopyError::Write)?;
        out.string(&value).await.map_err(CopyError::Write)?;
    }
    let summary = pairs.end().await?;
    out.end(summary.digest).await.map_err(CopyError::Write)?;
    Ok(summary)
}

/// Why a snapshot was not copied.
#[derive(Debug)]
pub(crate) enum CopyError {
    /// It is wrong.
    Read(FsmError),
    /// The copy could not be written.
    Write(std::io::Error),
}

impl From<FsmError> for CopyError {
    fn from(error: FsmError) -> Self {
        Self::Read(error)
    }
}

/// A snapshot being read, pair by pair.
struct Pairs<R> {
    input: Reader<R>,
    index: LogIndex,
    contacts: Contacts,
    keys: u64,
    left: u64,
    digest: u64,
}

impl<R: AsyncRead + Unpin> Pairs<R> {
    async fn begin(reader: R) -> Result<Self, FsmError> {
        let source = BufReader::with_capacity(CHUNK_BYTES, reader);
        let mut input = Reader { source, checksum: crc32fast::Hasher::new() };
        if input.array::<8>().await? != *MAGIC {
            return Err("not a snapshot of this program, or of another version".into());
        }
        let index = LogIndex(input.u64().await?);
        let mut contacts = Contacts::new();
        for _ in 0..input.len().await? {
            let id = ServerId::new(input.text().await?);
            let (resp, http) = (input.text().await?, input.text().await?);
            contacts.insert(id, Contact { resp, http });
        }
        let keys = input.u64().await?;
        Ok(Self { input, index, contacts, keys, left: keys, digest: 0 })
    }

    async fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, FsmError> {
        if self.left == 0 {
            return Ok(None);
        }
        let pair = (self.input.string().await?, self.input.string().await?);
        self.left -= 1;
        self.digest = map::digest_with(self.digest, &pair.0, &pair.1);
        Ok(Some(pair))
    }

    async fn end(mut self) -> Result<Summary, FsmError> {
        if self.input.u64().await? != self.digest {
            return Err("the snapshot's pairs do not add up to its digest".into());
        }
        self.input.end().await?;
        Ok(Summary { index: self.index, keys: self.keys, digest: self.digest })
    }
}

struct Reader<R> {
    source: BufReader<R>,
    checksum: crc32fast::Hasher,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    async fn array<const N: usize>(&mut self) -> std::io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.source.read_exact(&mut bytes).await?;
        self.checksum.update(&bytes);
        Ok(bytes)
    }

    async fn u64(&mut self) -> std::io::Result<u64> {
        Ok(u64::from_le_bytes(self.array().await?))
    }

    async fn len(&mut self) -> std::io::Result<u32> {
        Ok(u32::from_le_bytes(self.array().await?))
    }

    async fn string(&mut self) -> std::io::Result<Bytes> {
        let len = self.len().await?;
        let mut bytes = Vec::new();
        // Not `with_capacity(len)`: a damaged length must not ask for gigabytes.
        let mut missing = len as usize;
        while 0 < missing {
            let ready = self.source.fill_buf().await?;
            if ready.is_empty() {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let part = ready.len().min(missing);
            bytes.reserve_exact(part);
            bytes.extend_from_slice(&ready[..part]);
            self.source.consume(part);
            missing -= part;
        }
        self.checksum.update(&bytes);
        Ok(bytes.into())
    }

    async fn text(&mut self) -> Result<String, FsmError> {
        Ok(String::from_utf8(self.string().await?.into())?)
    }

    async fn end(mut self) -> Result<(), FsmError> {
        let expected = self.checksum.clone().finalize();
        if u32::from_le_bytes(self.array().await?) != expected {
            return Err("the snapshot fails its checksum".into());
        }
        if self.source.read(&mut [0]).await? != 0 {
            return Err("the snapshot goes on after its end".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let mut state = State { index: LogIndex(7), ..State::default() };
        state.map.insert(Bytes::from("k"), Bytes::from("vw"));
        let contact = Contact { resp: "r".to_owned(), http: "h".to_owned() };
        state.contacts.insert("a".into(), contact);
        state
    }

    /// Snapshots outlive programs: what one version wrote, every later one must read.
    #[tokio::test]
    async fn the_bytes_are_pinned() {
        let mut bytes = Vec::new();
        Box::new(View(state())).persist(&mut bytes).await.unwrap();
        let expected: &[u8] = b"raft-kv\x01\x07\0\0\0\0\0\0\0\
            \x01\0\0\0\x01\0\0\0a\x01\0\0\0r\x01\0\0\0h\
            \x01\0\0\0\0\0\0\0\x01\0\0\0k\x02\0\0\0vw";
        let (head, tail) = bytes.split_at(expected.len());
        assert_eq!(head, expected);
        assert_eq!(hex(tail), "e2406e911374de9b3a52377c");
        let back = read(std::io::Cursor::new(bytes)).await.unwrap();
        assert_eq!(back.contacts, state().contacts);
        assert_eq!((back.index, back.map.digest()), (LogIndex(7), state().map.digest()));
    }

    #[tokio::test]
    async fn a_copy_is_the_same_with_other_contacts_and_of_no_log_yet() {
        let mut bytes = Vec::new();
        Box::new(View(state())).persist(&mut bytes).await.unwrap();
        let contact = Contact { resp: "r2".to_owned(), http: "h2".to_owned() };
        let contacts = Contacts::from([("b".into(), contact)]);
        let mut copied = Vec::new();
        let summary = copy(&bytes[..], &mut copied, &contacts).await.unwrap();
        assert_eq!(summary, check(&bytes[..]).await.unwrap());
        let of_copy = check(&copied[..]).await.unwrap();
        assert_eq!(of_copy, Summary { index: LogIndex::ZERO, ..summary });

        let expected = View(State { contacts, index: LogIndex::ZERO, ..state() });
        bytes.clear();
        Box::new(expected).persist(&mut bytes).await.unwrap();
        assert_eq!(copied, bytes);

        bytes.truncate(bytes.len() - 1);
        let cut = copy(&bytes[..], &mut Vec::new(), &Contacts::new()).await;
        assert!(matches!(cut, Err(CopyError::Read(_))), "{cut:?}");
    }

    #[tokio::test]
    async fn other_bytes_are_named_for_what_they_are() {
        let error = read(&b"something else entirely"[..]).await.unwrap_err();
        assert!(error.to_string().contains("not a snapshot"), "{error}");
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
