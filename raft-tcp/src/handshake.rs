//! The handshake: who is there, and may they stay. The bytes of it are pure; two functions carry
//! them over any stream.
//!
//! The dialler says [`Hello`]; the acceptor answers yes or [`Refusal`]. Head and tail of both keep
//! their layout in every version, so that servers of different versions can tell each other so.
//! See `WIRE.md`.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Buf, BufMut};
use raft::{ServerAddress, ServerId};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::options::{MAX_ADDRESS_BYTES, MAX_ID_BYTES};

/// The oldest and the newest protocol version this crate speaks.
pub(crate) const VERSIONS: Versions = Versions { oldest: 1, newest: 1 };

const HELLO_MAGIC: [u8; 8] = *b"raft-tcp";
/// Not the same as the other, so that a server that dials itself by accident notices.
const ANSWER_MAGIC: [u8; 8] = *b"RAFT-TCP";
/// Magic, oldest, newest and length of the body.
const HELLO_HEAD_BYTES: usize = 8 + 2 + 2 + 2;
/// Magic, version, code and length of the text.
const ANSWER_HEAD_BYTES: usize = 8 + 2 + 1 + 2;
const CRC_BYTES: usize = 4;
/// More than version 1 needs, so that later versions can say more.
const MAX_BODY_BYTES: usize = 4096;
const MAX_TEXT_BYTES: usize = 1024;

/// A range of protocol versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) oldest: u16,
    pub(crate) newest: u16,
}

impl Versions {
    /// The newest version in both ranges.
    fn common(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

/// Which of the two connections to a peer this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    Urgent,
    Entries,
}

impl Lane {
    fn to_byte(self) -> u8 {
        match self {
            Self::Urgent => 1,
            Self::Entries => 2,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Urgent),
            2 => Some(Self::Entries),
            _ => None,
        }
    }
}

/// What the dialler says first. The texts are short: their users check that before they get here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) versions: Versions,
    pub(crate) lane: Lane,
    pub(crate) cluster_id: String,
    /// Who dials.
    pub(crate) from: String,
    /// Where the dialler can be dialled.
    pub(crate) address: String,
    /// Whom the dialler means to reach.
    pub(crate) to: String,
    /// Which disk the dialler runs on, and in which of its lives; 0 if that is not kept.
    pub(crate) incarnation: u64,
    pub(crate) life: u64,
    /// Which cluster the dialler belongs to; 0 if to none yet.
    pub(crate) cluster: u64,
}

/// Why an acceptor refuses. The codes are part of the wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// The bytes are not a hello.
    Malformed,
    /// No common protocol version.
    Version,
    /// Another cluster.
    Cluster,
    /// The dialler's id is empty or too long.
    InvalidId,
    /// The dialler claims the acceptor's id.
    OwnId,
    /// The dialler means another server.
    WrongServer,
    /// Too many connections.
    Busy,
    /// Another server with the dialler's id is connected.
    Duplicate,
    /// A reason of a later version.
    Other(u8),
}

impl Reason {
    fn to_code(self) -> u8 {
        match self {
            Self::Malformed => 1,
            Self::Version => 2,
            Self::Cluster => 3,
            Self::InvalidId => 4,
            Self::OwnId => 5,
            Self::WrongServer => 6,
            Self::Busy => 7,
            Self::Duplicate => 8,
            Self::Other(code) => code,
        }
    }

    fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Malformed,
            2 => Self::Version,
            3 => Self::Cluster,
            4 => Self::InvalidId,
            5 => Self::OwnId,
            6 => Self::WrongServer,
            7 => Self::Busy,
            8 => Self::Duplicate,
            other => Self::Other(other),
        }
    }
}

/// "No", and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    pub(crate) text: String,
}

fn refuse<T>(reason: Reason, text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { reason, text: text.into() })
}

fn malformed<T>(text: &str) -> Result<T, Refusal> {
    refuse(Reason::Malformed, text)
}

impl Refusal {
    /// The acceptor has no room for another connection.
    pub(crate) fn busy(limit: usize) -> Self {
        let text = format!("the server already has {limit} connections, its `max_inbound`");
        Self { reason: Reason::Busy, text }
    }

    /// Two servers with one id: the one that is here stays.
    pub(crate) fn duplicate(id: &str, present: &ServerAddress) -> Self {
        let text =
            format!("a server with the id {id:?} is connected already, the one at {present}");
        Self { reason: Reason::Duplicate, text }
    }
}

impl Hello {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = vec![self.lane.to_byte()];
        for text in [&self.cluster_id, &self.from, &self.address, &self.to] {
            body.put_u16_le(text.len() as u16);
            body.put_slice(text.as_bytes());
        }
        body.put_u64_le(self.incarnation);
        body.put_u64_le(self.life);
        body.put_u64_le(self.cluster);
        let mut out = HELLO_MAGIC.to_vec();
        out.put_u16_le(self.versions.oldest);
        out.put_u16_le(self.versions.newest);
        out.put_u16_le(body.len() as u16);
        out.put_slice(&body);
        sealed(out)
    }

    /// Reads a whole hello.
    fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        let head = Head::decode(bytes)?;
        let Some(mut rest) = unsealed(bytes) else {
            return malformed("the hello fails its checksum");
        };
        rest.advance(HELLO_HEAD_BYTES);
        let lane = rest.try_get_u8().ok().and_then(Lane::from_byte);
        let mut text = || -> Result<String, Refusal> {
            let length = rest.try_get_u16_le().map(usize::from).unwrap_or(usize::MAX);
            let Some((text, after)) = rest.split_at_checked(length) else {
                return malformed("the hello ends inside a text");
            };
            rest = after;
            String::from_utf8(text.to_vec()).or_else(|_| malformed("a text is not UTF-8"))
        };
        let (cluster_id, from, address, to) = (text()?, text()?, text()?, text()?);
        let Some(lane) = lane else { return malformed("the hello names no lane") };
        let mut number = || {
            rest.try_get_u64_le()
                .or_else(|_| malformed("the hello ends before its incarnation, life or cluster"))
        };
        let (incarnation, life, cluster) = (number()?, number()?, number()?);
        let versions = head.versions;
        // What a later version says after this is none of our business.
        Ok(Self { versions, lane, cluster_id, from, address, to, incarnation, life, cluster })
    }
}

/// The part of a hello that every version understands.
struct Head {
    versions: Versions,
    body_bytes: usize,
}

impl Head {
    fn decode(mut bytes: &[u8]) -> Result<Self, Refusal> {
        if !bytes.starts_with(&HELLO_MAGIC) || bytes.len() < HELLO_HEAD_BYTES {
            return malformed("this is a raft-tcp server, and the bytes are not a raft-tcp hello");
        }
        bytes.advance(HELLO_MAGIC.len());
        let versions = Versions { oldest: bytes.get_u16_le(), newest: bytes.get_u16_le() };
        let body_bytes = usize::from(bytes.get_u16_le());
        if body_bytes > MAX_BODY_BYTES {
            return malformed("the hello is too long");
        }
        Ok(Self { versions, body_bytes })
    }
}

/// Who the acceptor is.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) id: ServerId,
    pub(crate) address: ServerAddress,
    pub(crate) cluster_id: String,
    pub(crate) incarnation: u64,
    pub(crate) life: u64,
    /// Which cluster it belongs to by now.
    pub(crate) cluster: Arc<AtomicU64>,
}

impl Identity {
    /// What this server says when it dials `to`.
    pub(crate) fn hello(&self, lane: Lane, to: &ServerId) -> Hello {
        Hello {
            versions: VERSIONS,
            lane,
            cluster_id: self.cluster_id.clone(),
            from: self.id.as_str().to_owned(),
            address: self.address.as_str().to_owned(),
            to: to.as_str().to_owned(),
            incarnation: self.incarnation,
            life: self.life,
            cluster: self.cluster.load(Ordering::Acquire),
        }
    }

    fn check_versions(versions: Versions) -> Result<u16, Refusal> {
        let Some(version) = VERSIONS.common(versions) else {
            let Versions { oldest, newest } = versions;
            let text = format!(
                "the dialler speaks protocol versions {oldest} to {newest}, this server {} to {}",
                VERSIONS.oldest, VERSIONS.newest
            );
            return refuse(Reason::Version, text);
        };
        Ok(version)
    }

    /// Whether whoever says `hello` may stay.
    fn check(&self, hello: &Hello) -> Result<(), Refusal> {
        let Hello { cluster_id, from, address, to, .. } = hello;
        if *cluster_id != self.cluster_id {
            let own = &self.cluster_id;
            let text = format!("the dialler is of cluster {cluster_id:?}, this server of {own:?}");
            return refuse(Reason::Cluster, text);
        }
        // The name is the user's, the number the cluster's own; a server may have none yet.
        let (theirs, own) = (hello.cluster, self.cluster.load(Ordering::Acquire));
        if theirs != 0 && own != 0 && theirs != own {
            let text = format!(
                "the dialler is of cluster {theirs:016x}, this server of {own:016x}: they were \
                 bootstrapped apart"
            );
            return refuse(Reason::Cluster, text);
        }
        if from.is_empty() || from.len() > MAX_ID_BYTES {
            let bytes = from.len();
            let text = format!("a server id has 1 to {MAX_ID_BYTES} bytes, the dialler's {bytes}");
            return refuse(Reason::InvalidId, text);
        }
        if address.is_empty() || address.len() > MAX_ADDRESS_BYTES {
            return malformed("the dialler's address is empty or too long");
        }
        if from == self.id.as_str() {
            let text = format!("the dialler claims to be {from:?}, and so does this server");
            return refuse(Reason::OwnId, text);
        }
        if to != self.id.as_str() {
            let text = format!("the dialler means server {to:?}, but this is {:?}", self.id);
            return refuse(Reason::WrongServer, text);
        }
        Ok(())
    }
}

/// The acceptor's answer: the agreed version, or why not.
pub(crate) fn encode_answer(answer: &Result<u16, Refusal>) -> Vec<u8> {
    let (version, code, text) = match answer {
        Ok(version) => (*version, 0, ""),
        Err(refusal) => (0, refusal.reason.to_code(), refusal.text.as_str()),
    };
    let text = &text.as_bytes()[..text.len().min(MAX_TEXT_BYTES)];
    let mut out = ANSWER_MAGIC.to_vec();
    out.put_u16_le(version);
    out.put_u8(code);
    out.put_u16_le(text.len() as u16);
    out.put_slice(text);
    sealed(out)
}

/// Reads the head of an answer: version, code, length of the text.
fn decode_answer_head(mut bytes: &[u8]) -> Result<(u16, u8, usize), HandshakeError> {
    let short = bytes.len() < ANSWER_HEAD_BYTES;
    if short || !bytes.starts_with(&ANSWER_MAGIC) {
        return Err(HandshakeError::NotAnAnswer("it is not a raft-tcp server"));
    }
    bytes.advance(ANSWER_MAGIC.len());
    let (version, code) = (bytes.get_u16_le(), bytes.get_u8());
    let text_bytes = usize::from(bytes.get_u16_le());
    if text_bytes > MAX_TEXT_BYTES {
        return Err(HandshakeError::NotAnAnswer("its answer is too long"));
    }
    Ok((version, code, text_bytes))
}

/// Reads a whole answer.
fn decode_answer(bytes: &[u8]) -> Result<u16, HandshakeError> {
    let (version, code, _) = decode_answer_head(bytes)?;
    let Some(rest) = unsealed(bytes) else {
        return Err(HandshakeError::NotAnAnswer("its answer fails its checksum"));
    };
    if code != 0 {
        let text = String::from_utf8_lossy(rest.get(ANSWER_HEAD_BYTES..).unwrap_or_default());
        // It will be logged.
        let text = text.chars().filter(|c| !c.is_control()).collect();
        return Err(HandshakeError::Refused(Refusal { reason: Reason::from_code(code), text }));
    }
    if !(VERSIONS.oldest..=VERSIONS.newest).contains(&version) {
        return Err(HandshakeError::NotAnAnswer("it chose a version that was not offered"));
    }
    Ok(version)
}

/// Adds the checksum over everything but the magic.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32fast::hash(&bytes[HELLO_MAGIC.len()..]);
    bytes.put_u32_le(crc);
    bytes
}

/// What [`sealed`] sealed, if it is whole.
fn unsealed(bytes: &[u8]) -> Option<&[u8]> {
    let (bytes, mut crc) = bytes.split_at_checked(bytes.len().checked_sub(CRC_BYTES)?)?;
    (crc32fast::hash(bytes.get(HELLO_MAGIC.len()..)?) == crc.get_u32_le()).then_some(bytes)
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    NotAnAnswer(&'static str),
    #[error("refused: {0}")]
    Refused(Refusal),
}

/// The dialler's side. Reads not one byte beyond the answer.
pub(crate) async fn dial<S>(stream: &mut S, hello: &Hello) -> Result<u16, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(&hello.encode()).await?;
    stream.flush().await?;
    let mut answer = vec![0; ANSWER_HEAD_BYTES];
    stream.read_exact(&mut answer).await?;
    let (_, _, text_bytes) = decode_answer_head(&answer)?;
    answer.resize(ANSWER_HEAD_BYTES + text_bytes + CRC_BYTES, 0);
    stream.read_exact(&mut answer[ANSWER_HEAD_BYTES..]).await?;
    decode_answer(&answer)
}

/// What the acceptor decided.
#[derive(Debug)]
pub(crate) enum Decision {
    /// The dialler stays.
    Accepted(Hello),
    /// The dialler was told why not.
    Refused { claimed: Option<String>, refusal: Refusal },
}

/// The acceptor's side; `objection` has the last word. Reads not one byte beyond the hello.
pub(crate) async fn accept<S>(
    stream: &mut S,
    identity: &Identity,
    objection: impl Fn(&Hello) -> Option<Refusal>,
) -> io::Result<Decision>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut claimed = None;
    let judged = match read_hello(stream).await? {
        Ok((version, hello)) => {
            claimed = Some(hello.from.clone());
            let checked =
                identity.check(&hello).and_then(|()| objection(&hello).map_or(Ok(()), Err));
            checked.map(|()| (version, hello))
        }
        Err(refusal) => Err(refusal),
    };
    let answer = judged.as_ref().map(|(version, _)| *version).map_err(Clone::clone);
    stream.write_all(&encode_answer(&answer)).await?;
    stream.flush().await?;
    match judged {
        Ok((_, hello)) => Ok(Decision::Accepted(hello)),
        Err(refusal) => Ok(Decision::Refused { claimed, refusal }),
    }
}

/// Says goodbye to a dialler that was refused: closing with bytes unread would take the answer
/// back.
pub(crate) async fn part<S>(stream: &mut S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(1 << 16), &mut tokio::io::sink()).await.map(drop)
}

async fn read_hello<S>(stream: &mut S) -> io::Result<Result<(u16, Hello), Refusal>>
where
    S: AsyncRead + Unpin,
{
    let mut bytes = vec![0; HELLO_HEAD_BYTES];
    // A stranger shows itself at once, and may have less to say than a head.
    let (magic, rest) = bytes.split_at_mut(HELLO_MAGIC.len());
    stream.read_exact(magic).await?;
    if *magic == HELLO_MAGIC {
        stream.read_exact(rest).await?;
    }
    let head = match Head::decode(&bytes) {
        Ok(head) => head,
        Err(refusal) => return Ok(Err(refusal)),
    };
    // Before the body, whose layout belongs to the version.
    let version = match Identity::check_versions(head.versions) {
        Ok(version) => version,
        Err(refusal) => return Ok(Err(refusal)),
    };
    bytes.resize(HELLO_HEAD_BYTES + head.body_bytes + CRC_BYTES, 0);
    stream.read_exact(&mut bytes[HELLO_HEAD_BYTES..]).await?;
    Ok(Hello::decode(&bytes).map(|hello| (version, hello)))
}

#[cfg(test)]
mod tests;
