//! Messages as payload bytes. Pure, and the only module that names `bincode`.
//!
//! `AppendEntries` and `InstallSnapshot` have encodings of their own, written by hand: they are
//! nearly all the traffic, and large commands and pieces can be cut out of the received buffer
//! instead of being copied; a large piece is not copied by its sender either. Everything else is
//! small and goes through `bincode` 2 with a pinned configuration. The bytes are fixed by fixtures
//! in the tests and described in `WIRE.md`.

use bincode::{config, enc::write::Writer};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use raft::{
    Configuration, Entry, EntryPayload, IndexedConfiguration, LogId, LogIndex, Message, Term,
    rpc::{AppendEntriesRequest, InstallSnapshotRequest},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::frame::{Kind, MAX_VALUE_BYTES, TooLong};

/// Bytes of an `AppendEntries` beside its entries.
const REQUEST_BYTES: u64 = 6 * 8 + 4;

/// Bytes of an entry beside its command: term, kind, length.
const ENTRY_BYTES: usize = 8 + 1 + 4;

/// Commands and pieces smaller than this are copied: into the frame, and out of it (see
/// [`is_worth_sharing`]).
const MIN_SHARED_BYTES: usize = 8 * 1024;

/// The `bincode` variants of [`Message::AppendEntries`] and [`Message::InstallSnapshot`], which
/// never travel in that form.
const APPEND_ENTRIES_VARIANT: u8 = 0;
const INSTALL_SNAPSHOT_VARIANT: u8 = 7;
/// The longest number that is encoded as itself, in one byte.
const MAX_BYTE_NUMBER: u8 = 250;

const COMMAND: u8 = 0;
const NOOP: u8 = 1;
const BARRIER: u8 = 2;
const CONFIGURATION: u8 = 3;

fn pinned() -> impl config::Config {
    config::standard()
        .with_little_endian()
        .with_variable_int_encoding()
        .with_limit::<MAX_VALUE_BYTES>()
}

/// Why a message cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EncodeError {
    #[error("the message takes {bytes} bytes, more than a frame holds")]
    TooLong { bytes: usize },
    #[error("the message cannot be encoded: {0}")]
    Value(String),
}

impl From<TooLong> for EncodeError {
    fn from(TooLong { bytes }: TooLong) -> Self {
        Self::TooLong { bytes }
    }
}

/// Why a payload is not a message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a payload cannot be decoded: {0}")]
pub(crate) struct DecodeError(String);

fn invalid<T>(reason: impl Into<String>) -> Result<T, DecodeError> {
    Err(DecodeError(reason.into()))
}

/// The most entries, in bytes as their cost is counted, and the longest piece of a snapshot, that
/// fit into a message of `message_bytes`.
pub(crate) fn max_entries_bytes(message_bytes: u64) -> u64 {
    message_bytes.saturating_sub(REQUEST_BYTES)
}

/// The most bytes of `message` that can count against the limit, without encoding it.
pub(crate) fn max_bytes(message: &Message) -> u64 {
    // What an entry costs covers what surrounds it here; and what surrounds a piece has room of its own:
    // see `Kind::max_payload_bytes`.
    message.bulk_bytes().map_or(0, |bytes| REQUEST_BYTES + bytes)
}

/// Appends the payload of `message` to `out`, and says which kind it is and with which bytes it
/// goes on behind `out`: those that are too many to be copied.
pub(crate) fn encode(message: &Message, out: &mut BytesMut) -> Result<(Kind, Bytes), EncodeError> {
    match message {
        Message::AppendEntries(request) => {
            encode_entries(request, out).map(|()| (Kind::Entries, Bytes::new()))
        }
        Message::InstallSnapshot(request) => {
            encode_snapshot(request, out).map(|rest| (Kind::Snapshot, rest))
        }
        other => encode_value(other, out).map(|()| (Kind::Message, Bytes::new())),
    }
}

/// What a frame says.
#[derive(Debug, PartialEq)]
pub(crate) enum Said {
    /// That the sender is alive.
    Alive,
    /// Which disk the receiver of the messages after it is expected to run on.
    Expects(u64),
    /// Which cluster the sender of the messages after it belongs to.
    Cluster(u64),
    /// A message.
    Message(Message),
}

/// Reads the payload of a frame of `kind`.
pub(crate) fn decode(kind: Kind, payload: &Bytes) -> Result<Said, DecodeError> {
    match kind {
        Kind::Alive if payload.is_empty() => Ok(Said::Alive),
        Kind::Alive => invalid("a keep-alive carries bytes"),
        Kind::Expects => decode_number(payload).map(Said::Expects),
        Kind::Cluster => decode_number(payload).map(Said::Cluster),
        Kind::Message => decode_small(payload).map(Said::Message),
        Kind::Entries => decode_entries(payload).map(Message::AppendEntries).map(Said::Message),
        Kind::Snapshot => decode_snapshot(payload).map(Message::InstallSnapshot).map(Said::Message),
    }
}

fn decode_number(payload: &[u8]) -> Result<u64, DecodeError> {
    match payload.try_into() {
        Ok(number) => Ok(u64::from_le_bytes(number)),
        Err(_) => invalid("an expectation or a cluster has not 8 bytes"),
    }
}

fn decode_small(payload: &[u8]) -> Result<Message, DecodeError> {
    match payload.first() {
        // Checked before decoding: the general form would not check the indices for overflow.
        Some(&(APPEND_ENTRIES_VARIANT | INSTALL_SNAPSHOT_VARIANT)) => {
            invalid("entries or a snapshot in the form of another message")
        }
        // Small numbers can be written the long way too; ours never are, and these could be the
        // variants above.
        Some(first) if *first > MAX_BYTE_NUMBER => invalid("the kind of message is not one byte"),
        _ => decode_value(payload),
    }
}

fn encode_entries(request: &AppendEntriesRequest, out: &mut BytesMut) -> Result<(), EncodeError> {
    let AppendEntriesRequest { term, round, prev, entries, commit_index } = request;
    let count = u32::try_from(entries.len())
        .map_err(|_| EncodeError::Value("more than 2^32 entries".to_owned()))?;
    for number in [term.0, *round, prev.term.0, prev.index.0, commit_index.0] {
        out.put_u64_le(number);
    }
    out.put_u64_le(entries.first().map_or(0, |entry| entry.index.0));
    out.put_u32_le(count);
    for entry in entries.iter() {
        out.put_u64_le(entry.term.0);
        match &entry.payload {
            EntryPayload::Command(data) => put_data(out, COMMAND, data)?,
            EntryPayload::Noop => put_data(out, NOOP, &[])?,
            EntryPayload::Barrier => put_data(out, BARRIER, &[])?,
            EntryPayload::Configuration(configuration) => {
                let mut value = BytesMut::new();
                encode_value(configuration, &mut value)?;
                put_data(out, CONFIGURATION, &value)?;
            }
        }
    }
    Ok(())
}

fn put_data(out: &mut BytesMut, kind: u8, data: &[u8]) -> Result<(), EncodeError> {
    let bytes = data.len();
    let length = u32::try_from(bytes).map_err(|_| EncodeError::TooLong { bytes })?;
    out.put_u8(kind);
    out.put_u32_le(length);
    out.put_slice(data);
    Ok(())
}

fn decode_entries(payload: &Bytes) -> Result<AppendEntriesRequest, DecodeError> {
    let whole = payload;
    let mut rest = &payload[..];
    let term = Term(take_u64(&mut rest)?);
    let round = take_u64(&mut rest)?;
    let prev = LogId { term: Term(take_u64(&mut rest)?), index: LogIndex(take_u64(&mut rest)?) };
    let commit_index = LogIndex(take_u64(&mut rest)?);
    let first_index = take_u64(&mut rest)?;
    let count = take_u32(&mut rest)?;
    // One more than the last index must still be a number.
    if first_index.checked_add(u64::from(count)).is_none() {
        return invalid("an index is out of range");
    }
    // The count is a claim until the bytes are there.
    let mut entries: Vec<Entry> =
        Vec::with_capacity((rest.len() / ENTRY_BYTES).min(count as usize));
    for index in (first_index..).take(count as usize) {
        let term = Term(take_u64(&mut rest)?);
        if entries.last().is_some_and(|before| term < before.term) {
            return invalid("the terms of the entries fall");
        }
        let payload = decode_payload(whole, &mut rest)?;
        entries.push(Entry { term, index: LogIndex(index), payload });
    }
    if !rest.is_empty() {
        return invalid("bytes after the last entry");
    }
    Ok(AppendEntriesRequest { term, round, prev, entries: entries.into(), commit_index })
}

fn decode_payload(whole: &Bytes, rest: &mut &[u8]) -> Result<EntryPayload, DecodeError> {
    let kind = take(rest, 1)?[0];
    let length = take_u32(rest)? as usize;
    let data = take(rest, length)?;
    match kind {
        COMMAND => Ok(EntryPayload::Command(cut_out(whole, data))),
        NOOP if data.is_empty() => Ok(EntryPayload::Noop),
        BARRIER if data.is_empty() => Ok(EntryPayload::Barrier),
        CONFIGURATION => decode_value::<Configuration>(data).map(EntryPayload::Configuration),
        NOOP | BARRIER => invalid("an entry without data carries bytes"),
        other => invalid(format!("an entry has the unknown kind {other}")),
    }
}

/// A part of the payload as bytes of its own, or sharing its buffer.
fn cut_out(payload: &Bytes, part: &[u8]) -> Bytes {
    if is_worth_sharing(part.len(), payload.len()) {
        payload.slice_ref(part)
    } else {
        Bytes::copy_from_slice(part)
    }
}

/// Whether a command is cut out of the received buffer rather than copied. A command that is kept
/// keeps the whole buffer, so that it must be a good part of it: a state machine that holds on to
/// what it was given never holds much more than it was given.
fn is_worth_sharing(command_bytes: usize, frame_bytes: usize) -> bool {
    command_bytes >= MIN_SHARED_BYTES && command_bytes >= frame_bytes / 8
}

fn encode_snapshot(
    request: &InstallSnapshotRequest,
    out: &mut BytesMut,
) -> Result<Bytes, EncodeError> {
    let InstallSnapshotRequest {
        term,
        transfer,
        last,
        configuration: IndexedConfiguration { index, configuration },
        size_bytes,
        offset,
        checksum,
        data,
    } = request;
    let numbers = [term.0, *transfer, last.term.0, last.index.0, index.0, *size_bytes, *offset];
    for number in numbers {
        out.put_u64_le(number);
    }
    out.put_u32_le(*checksum);
    let mut value = BytesMut::new();
    encode_value(configuration, &mut value)?;
    // At most `MAX_VALUE_BYTES`.
    out.put_u32_le(value.len() as u32);
    out.put_slice(&value);
    if data.len() < MIN_SHARED_BYTES {
        out.put_slice(data);
        return Ok(Bytes::new());
    }
    Ok(data.clone())
}

/// The fields are what the sender says: whether they make sense is for the receiver of snapshots to
/// find out.
fn decode_snapshot(payload: &Bytes) -> Result<InstallSnapshotRequest, DecodeError> {
    let mut rest = &payload[..];
    let term = Term(take_u64(&mut rest)?);
    let transfer = take_u64(&mut rest)?;
    let last = LogId { term: Term(take_u64(&mut rest)?), index: LogIndex(take_u64(&mut rest)?) };
    let index = LogIndex(take_u64(&mut rest)?);
    let size_bytes = take_u64(&mut rest)?;
    let offset = take_u64(&mut rest)?;
    let checksum = take_u32(&mut rest)?;
    let length = take_u32(&mut rest)? as usize;
    let configuration = decode_value::<Configuration>(take(&mut rest, length)?)?;
    let configuration = IndexedConfiguration { index, configuration };
    let data = cut_out(payload, rest);
    Ok(InstallSnapshotRequest {
        term,
        transfer,
        last,
        configuration,
        size_bytes,
        offset,
        checksum,
        data,
    })
}

fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Result<&'a [u8], DecodeError> {
    let Some((taken, after)) = rest.split_at_checked(bytes) else {
        return invalid("it ends too early");
    };
    *rest = after;
    Ok(taken)
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, DecodeError> {
    Ok(take(rest, 4)?.get_u32_le())
}

fn take_u64(rest: &mut &[u8]) -> Result<u64, DecodeError> {
    Ok(take(rest, 8)?.get_u64_le())
}

struct Appender<'a>(&'a mut BytesMut);

impl Writer for Appender<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
        self.0.put_slice(bytes);
        Ok(())
    }
}

fn encode_value(value: &impl Serialize, out: &mut BytesMut) -> Result<(), EncodeError> {
    let start = out.len();
    bincode::serde::encode_into_writer(value, Appender(out), pinned())
        .map_err(|error| EncodeError::Value(error.to_string()))?;
    let bytes = out.len() - start;
    if bytes > MAX_VALUE_BYTES { Err(EncodeError::TooLong { bytes }) } else { Ok(()) }
}

fn decode_value<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match bincode::serde::decode_from_slice(bytes, pinned()) {
        Ok((value, used)) if used == bytes.len() => Ok(value),
        Ok(_) => invalid("bytes after the value"),
        Err(error) => invalid(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
