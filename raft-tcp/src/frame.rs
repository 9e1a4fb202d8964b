//! The frame: the unit in which bytes cross a connection after the handshake. Pure.
//!
//! ```text
//! crc32 u32 | length u32 | version u8 | kind u8 | payload (length bytes)
//! ```
//!
//! Numbers are little endian; the checksum covers everything after itself, so that no single
//! flipped bit of a frame goes unnoticed. See `WIRE.md`.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::Decoder;

/// Bytes before the payload.
pub(crate) const HEADER_BYTES: usize = 10;
/// The payload of an expectation, an incarnation, or of a cluster.
const NUMBER_BYTES: usize = 8;
/// The version every frame states.
pub(crate) const VERSION: u8 = 1;
/// How much room is made at once for a frame that has been announced but has not arrived: a
/// stranger's claim alone costs no more than this.
const MAX_RESERVE_BYTES: usize = 256 * 1024;

/// The most one `bincode` value may take, in bytes: every message without an encoding of its own,
/// and a configuration inside one that has.
pub(crate) const MAX_VALUE_BYTES: usize = 1 << 20;

/// Bytes of an `InstallSnapshot` beside its configuration and its piece.
pub(crate) const SNAPSHOT_BYTES: usize = 7 * 8 + 4 + 4;

/// What a payload holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing; the connection is alive.
    Alive,
    /// Any message but the ones below.
    Message,
    /// `AppendEntries`.
    Entries,
    /// `InstallSnapshot`.
    Snapshot,
    /// Which disk the receiver of the messages after it is expected to run on.
    Expects,
    /// Which cluster the sender of the messages after it belongs to.
    Cluster,
}

impl Kind {
    fn to_byte(self) -> u8 {
        match self {
            Self::Alive => 0,
            Self::Message => 1,
            Self::Entries => 2,
            Self::Snapshot => 3,
            Self::Expects => 4,
            Self::Cluster => 5,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Alive),
            1 => Some(Self::Message),
            2 => Some(Self::Entries),
            3 => Some(Self::Snapshot),
            4 => Some(Self::Expects),
            5 => Some(Self::Cluster),
            _ => None,
        }
    }

    /// The longest payload of this kind where messages have at most `max_frame_bytes`. The limit
    /// of a snapshot's message is that of its piece: a piece as large as the settings allow must
    /// pass in company of any configuration, or its receiver would never catch up.
    fn max_payload_bytes(self, max_frame_bytes: usize) -> usize {
        match self {
            Self::Alive | Self::Message | Self::Entries => max_frame_bytes,
            Self::Expects | Self::Cluster => NUMBER_BYTES,
            Self::Snapshot => max_frame_bytes.saturating_add(SNAPSHOT_BYTES + MAX_VALUE_BYTES),
        }
    }
}

/// A frame that passed its checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) payload: Bytes,
}

/// Why bytes are not a frame. The connection they came over cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame announces {bytes} bytes, more than the limit of {limit}")]
    TooLong { bytes: u64, limit: u64 },
    #[error("a frame has version {0}, but this server speaks version {VERSION}")]
    Version(u8),
    #[error("a frame has the unknown kind {0}")]
    Kind(u8),
    #[error("a frame fails its checksum")]
    Checksum,
    #[error("the connection ended inside a frame, after {bytes} bytes of it")]
    Truncated { bytes: usize },
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Appends one frame to `out`; `payload` writes what it holds, and says which kind that is and
/// with which bytes it goes on. They are given back: the frame ends behind `out`, with them.
///
/// # Errors
/// Whatever `payload` returns, or its length if that is more than `max_frame_bytes` allow; `out` is
/// then as it was before.
pub(crate) fn append<E: From<TooLong>>(
    out: &mut BytesMut,
    max_frame_bytes: usize,
    payload: impl FnOnce(&mut BytesMut) -> Result<(Kind, Bytes), E>,
) -> Result<Bytes, E> {
    let start = out.len();
    out.put_bytes(0, HEADER_BYTES);
    let body = start + HEADER_BYTES;
    let written = payload(out).and_then(|(kind, rest)| {
        let bytes = out.len() - body + rest.len();
        let fits = bytes <= kind.max_payload_bytes(max_frame_bytes);
        let length = u32::try_from(bytes).ok().filter(|_| fits).ok_or(TooLong { bytes })?;
        Ok((kind, length, rest))
    });
    let (kind, length, rest) = match written {
        Ok(written) => written,
        Err(error) => {
            out.truncate(start);
            return Err(error);
        }
    };
    seal(&mut out[start..], kind, length, &rest);
    Ok(rest)
}

/// Appends a frame that says which disk the receiver of what follows is expected to run on.
pub(crate) fn append_expects(out: &mut BytesMut, incarnation: u64) {
    append_number(out, Kind::Expects, incarnation);
}

/// Appends a frame that says which cluster the sender of what follows belongs to.
pub(crate) fn append_cluster(out: &mut BytesMut, cluster: u64) {
    append_number(out, Kind::Cluster, cluster);
}

fn append_number(out: &mut BytesMut, kind: Kind, number: u64) {
    let start = out.len();
    out.put_bytes(0, HEADER_BYTES);
    out.put_u64_le(number);
    seal(&mut out[start..], kind, NUMBER_BYTES as u32, &[]);
}

/// Appends a frame that only says that the sender is alive.
pub(crate) fn append_alive(out: &mut BytesMut) {
    let start = out.len();
    out.put_bytes(0, HEADER_BYTES);
    seal(&mut out[start..], Kind::Alive, 0, &[]);
}

/// Fills in the header of a frame that goes on with `rest`.
fn seal(frame: &mut [u8], kind: Kind, length: u32, rest: &[u8]) {
    let mut header = &mut frame[4..HEADER_BYTES];
    header.put_u32_le(length);
    header.put_u8(VERSION);
    header.put_u8(kind.to_byte());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[4..]);
    hasher.update(rest);
    let mut header = frame;
    header.put_u32_le(hasher.finalize());
}

/// A payload that no frame can hold.
#[derive(Debug)]
pub(crate) struct TooLong {
    pub(crate) bytes: usize,
}

/// Finds frames in a stream of bytes.
#[derive(Debug)]
pub(crate) struct FrameDecoder {
    max_frame_bytes: usize,
}

impl FrameDecoder {
    pub(crate) fn new(max_frame_bytes: usize) -> Self {
        Self { max_frame_bytes }
    }
}

impl Decoder for FrameDecoder {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(mut header) = src.get(..HEADER_BYTES) else { return Ok(None) };
        let (crc, length) = (header.get_u32_le(), header.get_u32_le());
        let (version, kind) = (header.get_u8(), header.get_u8());
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let kind = Kind::from_byte(kind).ok_or(FrameError::Kind(kind))?;
        let limit = kind.max_payload_bytes(self.max_frame_bytes) as u64;
        if u64::from(length) > limit {
            return Err(FrameError::TooLong { bytes: length.into(), limit });
        }
        let total = HEADER_BYTES + length as usize;
        if src.len() < total {
            src.reserve((total - src.len()).min(MAX_RESERVE_BYTES));
            return Ok(None);
        }
        let mut payload = src.split_to(total).freeze();
        if crc32fast::hash(&payload[4..]) != crc {
            return Err(FrameError::Checksum);
        }
        payload.advance(HEADER_BYTES);
        Ok(Some(Frame { kind, payload }))
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        match self.decode(src)? {
            None if !src.is_empty() => Err(FrameError::Truncated { bytes: src.len() }),
            found => Ok(found),
        }
    }
}

#[cfg(test)]
mod tests;
