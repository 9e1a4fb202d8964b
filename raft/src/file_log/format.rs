//! Frames to bytes and back. The only module that knows the bytes; `LOG_FORMAT.md` describes them and the
//! fixture of `tests/format.rs` pins them.
//!
//! Everything in a segment is a frame: 16 bytes of header, a body, zeros up to a multiple of 8. The
//! checksum is a CRC-32C that begins with the store, the segment and the *offset*, so that a frame counts
//! only where it was written: what a recycled file held before is not even damaged, it is not there. A batch
//! is the frames of one write and ends with a commit frame, which covers all of them.

use bytes::Bytes;

use crate::{
    configuration::{ClusterId, Configuration, Server, ServerId, Suffrage},
    log::{Entry, EntryPayload},
    position::{LogIndex, Term},
    stable::{DiskIdentity, HardState},
};

/// The file that says which store this is.
pub(super) const IDENTITY: &str = "RAFT-LOG";

/// The format this release writes, and the newest it reads.
pub(super) const FORMAT_VERSION: u32 = 1;

/// Where the first frame of a segment lies.
pub(super) const HEADER_BYTES: u64 = 4096;
/// Every frame begins and ends at a multiple of this.
pub(super) const ALIGNMENT: u64 = 8;
const FRAME_BYTES: usize = 16;
/// The bytes of an entry's body before its payload.
const ENTRY_BYTES: usize = 16;
const COMMIT_BODY: usize = 24;
pub(super) const COMMIT_BYTES: u64 = (FRAME_BYTES + COMMIT_BODY) as u64;
const FOOTER_BODY: usize = 40;
/// What stands at the very end of a sealed segment.
pub(super) const TRAILER_BYTES: u64 = 24;

const MAGIC: &[u8; 8] = b"RaftLog\n";
const SEALED: &[u8; 8] = b"RaftSeal";

pub(super) const ENTRY: u8 = 1;
pub(super) const HARD_STATE: u8 = 2;
pub(super) const DISK: u8 = 3;
pub(super) const NOTE: u8 = 4;
pub(super) const CUT: u8 = 5;
pub(super) const FIRST: u8 = 6;
pub(super) const COMMIT: u8 = 7;
pub(super) const FOOTER: u8 = 8;

/// What the header of an entry's frame says beside its kind.
const COMMAND: u8 = 0;
const NOOP: u8 = 1;
const BARRIER: u8 = 2;
const CONFIGURATION: u8 = 3;

/// Bytes whose checksum is right and that say nothing possible, and how it shows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) String);

fn malformed<T>(reason: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed(reason.into()))
}

/// Where the checksums of a segment begin.
pub(super) fn seed(store: u64, segment: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&store.to_le_bytes()), &segment.to_le_bytes())
}

/// How long a frame is whose body has this many bytes.
pub(super) fn frame_bytes(body: usize) -> u64 {
    ((FRAME_BYTES + body) as u64).next_multiple_of(ALIGNMENT)
}

/// The first block of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) store: u64,
    pub(super) segment: u64,
    pub(super) size: u64,
}

impl Header {
    const BYTES: usize = 40;

    pub(super) fn encode(self) -> Vec<u8> {
        let mut block = MAGIC.to_vec();
        block.extend_from_slice(&self.version.to_le_bytes());
        block.extend_from_slice(&[0; 4]);
        block.extend_from_slice(&self.store.to_le_bytes());
        block.extend_from_slice(&self.segment.to_le_bytes());
        block.extend_from_slice(&self.size.to_le_bytes());
        block.extend_from_slice(&crc32c::crc32c(&block).to_le_bytes());
        block.resize(HEADER_BYTES as usize, 0);
        block
    }

    pub(super) fn decode(block: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(block);
        if fields.take()? != *MAGIC {
            return malformed("it does not begin as a segment of a log does");
        }
        let version = u32::from_le_bytes(fields.take()?);
        let _reserved: [u8; 4] = fields.take()?;
        let store = u64::from_le_bytes(fields.take()?);
        let segment = u64::from_le_bytes(fields.take()?);
        let size = u64::from_le_bytes(fields.take()?);
        let stored = u32::from_le_bytes(fields.take()?);
        if block.get(..Self::BYTES).map(crc32c::crc32c) != Some(stored) {
            return malformed("the checksum of its header is wrong");
        }
        Ok(Self { version, store, segment, size })
    }
}

/// Lays out the frames of one write.
pub(super) struct Encoder<'a> {
    buffer: &'a mut Vec<u8>,
    seed: u32,
    /// Where in the segment the buffer begins.
    start: u64,
    frames: u32,
    /// The checksum of the checksums.
    chain: u32,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(buffer: &'a mut Vec<u8>, seed: u32, start: u64) -> Self {
        buffer.clear();
        Self { buffer, seed, start, frames: 0, chain: 0 }
    }

    /// Adds a frame; returns its offset.
    pub(super) fn frame(&mut self, kind: u8, detail: u8, body: impl FnOnce(&mut Vec<u8>)) -> u64 {
        let begin = self.buffer.len();
        self.buffer.extend_from_slice(&[0; FRAME_BYTES]);
        body(self.buffer);
        let length = self.buffer.len() - begin - FRAME_BYTES;
        self.buffer.resize(self.buffer.len().next_multiple_of(ALIGNMENT as usize), 0);
        let offset = self.start + begin as u64;
        let frame = self.buffer.get_mut(begin..).unwrap_or_default();
        // An entry is checked not to be longer before it comes here.
        frame[4..8].copy_from_slice(&(length as u32).to_le_bytes());
        frame[8..10].copy_from_slice(&[kind, detail]);
        let crc = checksum(self.seed, offset, &frame[4..]);
        frame[..4].copy_from_slice(&crc.to_le_bytes());
        self.frames += 1;
        self.chain = crc32c::crc32c_append(self.chain, &crc.to_le_bytes());
        offset
    }

    pub(super) fn entry(&mut self, entry: &Entry) -> u64 {
        let detail = match &entry.payload {
            EntryPayload::Command(_) => COMMAND,
            EntryPayload::Noop => NOOP,
            EntryPayload::Barrier => BARRIER,
            EntryPayload::Configuration(_) => CONFIGURATION,
        };
        self.frame(ENTRY, detail, |body| {
            body.extend_from_slice(&entry.term.0.to_le_bytes());
            body.extend_from_slice(&entry.index.0.to_le_bytes());
            match &entry.payload {
                EntryPayload::Command(data) => body.extend_from_slice(data),
                EntryPayload::Noop | EntryPayload::Barrier => {}
                EntryPayload::Configuration(members) => encode_configuration(body, members),
            }
        })
    }

    pub(super) fn hard_state(&mut self, hard_state: &HardState) {
        self.frame(HARD_STATE, u8::from(hard_state.voted_for.is_some()), |body| {
            body.extend_from_slice(&hard_state.current_term.0.to_le_bytes());
            let id = hard_state.voted_for.as_ref().map_or("", |id| id.as_str());
            body.extend_from_slice(id.as_bytes());
        });
    }

    pub(super) fn disk(&mut self, disk: &DiskIdentity) {
        self.frame(DISK, u8::from(disk.was_rolled_back), |body| {
            body.extend_from_slice(&disk.incarnation.to_le_bytes());
            body.extend_from_slice(&disk.starts.to_le_bytes());
            body.extend_from_slice(disk.server.as_str().as_bytes());
        });
    }

    /// A frame whose body is one number: [`NOTE`], [`CUT`] or [`FIRST`].
    pub(super) fn number(&mut self, kind: u8, number: u64) {
        self.frame(kind, 0, |body| body.extend_from_slice(&number.to_le_bytes()));
    }

    /// Ends the batch.
    pub(super) fn commit(mut self, number: u64) {
        let (start, frames, chain) = (self.start, self.frames, self.chain);
        self.frame(COMMIT, 0, |body| {
            body.extend_from_slice(&number.to_le_bytes());
            body.extend_from_slice(&start.to_le_bytes());
            body.extend_from_slice(&frames.to_le_bytes());
            body.extend_from_slice(&chain.to_le_bytes());
        });
    }

    /// The footer of a sealed segment and the trailer behind it.
    pub(super) fn footer(mut self, footer: &Footer) {
        let at = self.frame(FOOTER, 0, |body| {
            for number in
                [footer.first_batch, footer.last_batch, footer.end, footer.cut, footer.first_index]
            {
                body.extend_from_slice(&number.to_le_bytes());
            }
            footer.offsets.iter().for_each(|it| body.extend_from_slice(&it.to_le_bytes()));
        });
        let begin = self.buffer.len();
        self.buffer.extend_from_slice(SEALED);
        self.buffer.extend_from_slice(&at.to_le_bytes());
        let crc = checksum(self.seed, at, self.buffer.get(begin..).unwrap_or_default());
        self.buffer.extend_from_slice(&crc.to_le_bytes());
        self.buffer.extend_from_slice(&[0; 4]);
    }
}

fn checksum(seed: u32, offset: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &offset.to_le_bytes()), bytes)
}

/// How long an entry's frame is.
pub(super) fn entry_bytes(entry: &Entry) -> u64 {
    let payload = match &entry.payload {
        EntryPayload::Command(data) => data.len(),
        EntryPayload::Noop | EntryPayload::Barrier => 0,
        EntryPayload::Configuration(members) => {
            let mut body = Vec::new();
            encode_configuration(&mut body, members);
            body.len()
        }
    };
    frame_bytes(ENTRY_BYTES + payload)
}

/// A frame whose checksum is right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) kind: u8,
    detail: u8,
    pub(super) crc: u32,
    body: &'a [u8],
}

/// How long the frame is whose header this is, padding included, if it can be one.
pub(super) fn plausible(header: &[u8]) -> Option<u64> {
    let kind = *header.get(8)?;
    let is_frame = (ENTRY..=FOOTER).contains(&kind) && header.get(10..FRAME_BYTES)? == [0; 6];
    let length = u32::from_le_bytes(header.get(4..8)?.try_into().ok()?);
    is_frame.then(|| frame_bytes(length as usize))
}

/// The bytes that [`plausible`] needs.
pub(super) const PLAUSIBLE_BYTES: u64 = FRAME_BYTES as u64;

impl<'a> Frame<'a> {
    /// The frame at this offset, in the bytes that its header asks for; `None` if it is none.
    pub(super) fn decode(seed: u32, offset: u64, bytes: &'a [u8]) -> Option<Self> {
        if plausible(bytes)? != bytes.len() as u64 {
            return None;
        }
        let crc = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
        let length = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?) as usize;
        if checksum(seed, offset, bytes.get(4..)?) != crc {
            return None;
        }
        let body = bytes.get(FRAME_BYTES..FRAME_BYTES + length)?;
        Some(Self { kind: bytes[8], detail: bytes[9], crc, body })
    }

    /// The index of the entry that it is.
    pub(super) fn entry_index(&self) -> Result<u64, Malformed> {
        let mut body = Fields(self.body);
        let _term: [u8; 8] = body.take()?;
        Ok(u64::from_le_bytes(body.take()?))
    }

    /// The entry that it is. A command shares the bytes that were read, which the frame lies in.
    pub(super) fn entry(&self, read: &Bytes) -> Result<Entry, Malformed> {
        let mut body = Fields(self.body);
        let term = Term(u64::from_le_bytes(body.take()?));
        let index = LogIndex(u64::from_le_bytes(body.take()?));
        let payload = match self.detail {
            COMMAND => EntryPayload::Command(read.slice_ref(body.0)),
            NOOP => EntryPayload::Noop,
            BARRIER => EntryPayload::Barrier,
            CONFIGURATION => EntryPayload::Configuration(decode_configuration(&mut body)?),
            other => return malformed(format!("an entry of the unknown kind {other}")),
        };
        Ok(Entry { term, index, payload })
    }

    pub(super) fn hard_state(&self) -> Result<HardState, Malformed> {
        let mut body = Fields(self.body);
        let current_term = Term(u64::from_le_bytes(body.take()?));
        let id = text(body.0)?;
        let voted_for = (self.detail != 0).then(|| ServerId::new(id));
        Ok(HardState { current_term, voted_for })
    }

    pub(super) fn disk(&self) -> Result<DiskIdentity, Malformed> {
        let mut body = Fields(self.body);
        let incarnation = u64::from_le_bytes(body.take()?);
        let starts = u32::from_le_bytes(body.take()?);
        let server = ServerId::new(text(body.0)?);
        Ok(DiskIdentity { server, incarnation, starts, was_rolled_back: self.detail != 0 })
    }

    pub(super) fn number(&self) -> Result<u64, Malformed> {
        let mut body = Fields(self.body);
        let number = u64::from_le_bytes(body.take()?);
        body.end()?;
        Ok(number)
    }

    pub(super) fn commit(&self) -> Result<Commit, Malformed> {
        let mut body = Fields(self.body);
        let number = u64::from_le_bytes(body.take()?);
        let start = u64::from_le_bytes(body.take()?);
        let frames = u32::from_le_bytes(body.take()?);
        let chain = u32::from_le_bytes(body.take()?);
        body.end()?;
        // None is the first batch, and every one has a next.
        if number == 0 || number == u64::MAX {
            return malformed(format!("no batch has the number {number}"));
        }
        Ok(Commit { number, start, frames, chain })
    }

    pub(super) fn footer(&self) -> Result<Footer, Malformed> {
        let mut body = Fields(self.body);
        let mut number = || body.take().map(u64::from_le_bytes);
        let (first_batch, last_batch, end) = (number()?, number()?, number()?);
        let (cut, first_index) = (number()?, number()?);
        let (offsets, rest) = body.0.as_chunks();
        if !rest.is_empty() {
            return malformed("bytes are left over");
        }
        let offsets = offsets.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        Ok(Footer { first_batch, last_batch, end, cut, first_index, offsets })
    }
}

/// The end of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Commit {
    /// Which batch of the store it is, from 1 on.
    pub(super) number: u64,
    /// Where its first frame lies.
    pub(super) start: u64,
    /// How many frames there are before the commit frame.
    pub(super) frames: u32,
    /// The CRC-32C of their checksums.
    pub(super) chain: u32,
}

/// What is in a sealed segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) first_batch: u64,
    pub(super) last_batch: u64,
    /// Where the last batch ends.
    pub(super) end: u64,
    /// From which index on the segments before it count no more; the largest number if they all do.
    pub(super) cut: u64,
    /// The entries that count, from this index on: the offset of each, divided by [`ALIGNMENT`].
    pub(super) first_index: u64,
    pub(super) offsets: Vec<u32>,
}

impl Footer {
    /// The bytes of footer and trailer with so many entries.
    pub(super) fn bytes(entries: usize) -> u64 {
        frame_bytes(FOOTER_BODY + 4 * entries) + TRAILER_BYTES
    }

    /// Whether this can be said of a segment whose footer lies there.
    pub(super) fn is_possible(&self, at: u64) -> bool {
        let offset = |unit: &u32| u64::from(*unit) * ALIGNMENT;
        let is_rising = self.offsets.is_sorted_by(|a, b| a < b);
        let first = self.offsets.first().map_or(HEADER_BYTES, offset);
        let last = self.offsets.last().map_or(HEADER_BYTES, offset);
        is_rising
            && HEADER_BYTES <= first
            && last <= self.end
            && self.end <= at
            && self.first_index.checked_add(self.offsets.len() as u64).is_some()
    }

    /// Where the footer lies, from the last bytes of a segment.
    pub(super) fn locate(seed: u32, trailer: &[u8]) -> Option<u64> {
        let mut fields = Fields(trailer);
        if fields.take().ok()? != *SEALED {
            return None;
        }
        let at = u64::from_le_bytes(fields.take().ok()?);
        let crc = u32::from_le_bytes(fields.take().ok()?);
        (checksum(seed, at, trailer.get(..16)?) == crc).then_some(at)
    }
}

fn encode_configuration(body: &mut Vec<u8>, members: &Configuration) {
    let put = |body: &mut Vec<u8>, text: &str| {
        body.extend_from_slice(&(text.len() as u32).to_le_bytes());
        body.extend_from_slice(text.as_bytes());
    };
    body.extend_from_slice(&members.cluster().0.to_le_bytes());
    body.extend_from_slice(&(members.servers().len() as u32).to_le_bytes());
    for Server { id, address, suffrage, incarnation } in members.servers() {
        put(body, id.as_str());
        put(body, address.as_str());
        body.push(u8::from(!suffrage.is_voter()));
        body.extend_from_slice(&incarnation.to_le_bytes());
    }
}

fn decode_configuration(body: &mut Fields<'_>) -> Result<Configuration, Malformed> {
    let cluster = ClusterId(u64::from_le_bytes(body.take()?));
    let count = u32::from_le_bytes(body.take()?);
    let mut servers = Vec::new();
    for _ in 0..count {
        let id = body.text()?.into();
        let address = body.text()?.into();
        let suffrage = match body.take()? {
            [0] => Suffrage::Voter,
            [1] => Suffrage::Nonvoter,
            [other] => return malformed(format!("a server of the unknown suffrage {other}")),
        };
        let incarnation = u64::from_le_bytes(body.take()?);
        servers.push(Server { id, address, suffrage, incarnation });
    }
    body.end()?;
    Ok(Configuration::new(servers).with_cluster(cluster))
}

fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|error| Malformed(format!("an id is not text: {error}")))
}

/// Bytes that are still to be decoded.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let Some((field, rest)) = self.0.split_first_chunk() else {
            return malformed("it is too short");
        };
        self.0 = rest;
        Ok(*field)
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = u32::from_le_bytes(self.take()?) as usize;
        let Some((field, rest)) = self.0.split_at_checked(length) else {
            return malformed("it is too short");
        };
        self.0 = rest;
        text(field)
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { malformed("bytes are left over") }
    }
}
