//! Records to bytes and back. The only module that knows the bytes; `FORMAT.md` describes them and
//! `tests/format.rs` pins them.
//!
//! Every value is an envelope: a version byte, a CRC-32, a body. The checksum covers the *key* as
//! well, so that a record found in another record's place fails it. Commands lie raw at the end
//! of the body: bincode is used for configurations and nothing else.

use bytes::Bytes;
use raft::{Configuration, DiskIdentity, Entry, EntryPayload, HardState, LogIndex, ServerId, Term};

/// The format this crate writes, and the newest it reads.
pub(crate) const FORMAT_VERSION: u32 = 1;

const MAGIC: &[u8] = b"raft-rocksdb";

const ENVELOPE_VERSION: u8 = 1;
const ENVELOPE_BYTES: usize = 5;

const COMMAND: u8 = 0;
const NOOP: u8 = 1;
const BARRIER: u8 = 2;
/// The configuration of no cluster, and of one.
const CONFIGURATION: u8 = 3;
const CONFIGURATION_OF_CLUSTER: u8 = 4;

const NOT_VOTED: u8 = 0;
const VOTED: u8 = 1;

/// Where the log begins and ends; `None` while it is empty.
pub(crate) type Bounds = Option<(LogIndex, LogIndex)>;

/// Bytes that are not what was written, and how it shows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Damage(pub(crate) String);

fn damage<T>(reason: impl Into<String>) -> Result<T, Damage> {
    Err(Damage(reason.into()))
}

/// The value of the format record. Its layout never changes, so that every release can tell which
/// format a database is in.
pub(crate) fn encode_format(version: u32) -> Vec<u8> {
    let mut value = MAGIC.to_vec();
    value.extend_from_slice(&version.to_be_bytes());
    value.extend_from_slice(&crc32fast::hash(&value).to_be_bytes());
    value
}

/// The version in a format record.
pub(crate) fn decode_format(value: &[u8]) -> Result<u32, Damage> {
    let Some(numbers) = value.strip_prefix(MAGIC) else {
        return damage(format!("it does not begin with {:?}", String::from_utf8_lossy(MAGIC)));
    };
    let mut numbers = Fields(numbers);
    let version = u32::from_be_bytes(numbers.take()?);
    let stored = u32::from_be_bytes(numbers.take()?);
    numbers.end()?;
    let signed = &value[..value.len() - size_of::<u32>()];
    check_crc(stored, crc32fast::hash(signed))?;
    Ok(version)
}

/// Writes the value of `entry`, stored under `key`, to `value`, which is cleared first.
pub(crate) fn encode_entry(key: &[u8], entry: &Entry, value: &mut Vec<u8>) -> Result<(), Damage> {
    let (kind, payload) = match &entry.payload {
        EntryPayload::Command(command) => (COMMAND, command.clone()),
        EntryPayload::Noop => (NOOP, Bytes::new()),
        EntryPayload::Barrier => (BARRIER, Bytes::new()),
        EntryPayload::Configuration(configuration) => {
            let mut members = encode_configuration(configuration)?;
            let mut kind = CONFIGURATION_OF_CLUSTER;
            if !configuration.cluster().is_some() {
                // It comes last, and none is one byte.
                members.pop();
                kind = CONFIGURATION;
            }
            (kind, members.into())
        }
    };
    seal(key, value, |body| {
        body.extend_from_slice(&entry.term.0.to_be_bytes());
        body.push(kind);
        body.extend_from_slice(&payload);
    });
    Ok(())
}

/// The entry at `index`, from its value. A command is copied once.
pub(crate) fn decode_entry(key: &[u8], index: LogIndex, value: &[u8]) -> Result<Entry, Damage> {
    let mut body = unseal(key, value)?;
    let term = Term(u64::from_be_bytes(body.take()?));
    let [kind] = body.take()?;
    let payload = match kind {
        COMMAND => EntryPayload::Command(Bytes::copy_from_slice(body.rest())),
        NOOP => EntryPayload::Noop,
        BARRIER => EntryPayload::Barrier,
        CONFIGURATION => {
            let members = [body.rest(), &[0]].concat();
            EntryPayload::Configuration(decode_configuration(&members)?)
        }
        CONFIGURATION_OF_CLUSTER => EntryPayload::Configuration(decode_configuration(body.rest())?),
        unknown => return damage(format!("unknown kind of entry {unknown}")),
    };
    body.end()?;
    Ok(Entry { term, index, payload })
}

/// The value of the bounds record.
pub(crate) fn encode_bounds(key: &[u8], bounds: Bounds) -> Vec<u8> {
    let (first, last) = bounds.unwrap_or_default();
    let mut value = Vec::new();
    seal(key, &mut value, |body| {
        body.extend_from_slice(&first.0.to_be_bytes());
        body.extend_from_slice(&last.0.to_be_bytes());
    });
    value
}

/// The bounds, from their value.
pub(crate) fn decode_bounds(key: &[u8], value: &[u8]) -> Result<Bounds, Damage> {
    let mut body = unseal(key, value)?;
    let first = LogIndex(u64::from_be_bytes(body.take()?));
    let last = LogIndex(u64::from_be_bytes(body.take()?));
    body.end()?;
    match (first, last) {
        (LogIndex::ZERO, LogIndex::ZERO) => Ok(None),
        (first, last) if LogIndex::ZERO < first && first <= last => Ok(Some((first, last))),
        (first, last) => damage(format!("a log cannot reach from {first} to {last}")),
    }
}

/// The value of the record of the noted commit index.
pub(crate) fn encode_noted_commit(key: &[u8], index: LogIndex) -> Vec<u8> {
    let mut value = Vec::new();
    seal(key, &mut value, |body| body.extend_from_slice(&index.0.to_be_bytes()));
    value
}

/// The noted commit index, from its value.
pub(crate) fn decode_noted_commit(key: &[u8], value: &[u8]) -> Result<LogIndex, Damage> {
    let mut body = unseal(key, value)?;
    let index = LogIndex(u64::from_be_bytes(body.take()?));
    body.end()?;
    Ok(index)
}

/// Ends the record of a disk that was found to be an older copy. In no text in UTF-8.
const WAS_ROLLED_BACK: u8 = 0xff;

/// The value of the record that says which disk this is.
pub(crate) fn encode_disk(key: &[u8], identity: &DiskIdentity) -> Vec<u8> {
    let mut value = Vec::new();
    seal(key, &mut value, |body| {
        body.extend_from_slice(&identity.incarnation.to_be_bytes());
        body.extend_from_slice(&identity.starts.to_be_bytes());
        body.extend_from_slice(identity.server.as_str().as_bytes());
        body.extend(identity.was_rolled_back.then_some(WAS_ROLLED_BACK));
    });
    value
}

/// Which disk this is, from that value.
pub(crate) fn decode_disk(key: &[u8], value: &[u8]) -> Result<DiskIdentity, Damage> {
    let mut body = unseal(key, value)?;
    let incarnation = not_zero(u64::from_be_bytes(body.take()?))?;
    let starts = u32::from_be_bytes(body.take()?);
    let rest = body.rest();
    let marked = rest.strip_suffix(&[WAS_ROLLED_BACK]);
    match std::str::from_utf8(marked.unwrap_or(rest)) {
        Ok(id) => {
            let (server, was_rolled_back) = (ServerId::new(id), marked.is_some());
            Ok(DiskIdentity { server, incarnation, starts, was_rolled_back })
        }
        Err(error) => damage(format!("the server is not text: {error}")),
    }
}

fn not_zero(incarnation: u64) -> Result<u64, Damage> {
    if incarnation == 0 { damage("an incarnation is not zero") } else { Ok(incarnation) }
}

/// The incarnation, from the record that early stores have in its place.
pub(crate) fn decode_incarnation(key: &[u8], value: &[u8]) -> Result<u64, Damage> {
    let mut body = unseal(key, value)?;
    let incarnation = u64::from_be_bytes(body.take()?);
    body.end()?;
    not_zero(incarnation)
}

/// The value of the hard state record.
pub(crate) fn encode_hard_state(key: &[u8], hard_state: &HardState) -> Vec<u8> {
    let mut value = Vec::new();
    seal(key, &mut value, |body| {
        body.extend_from_slice(&hard_state.current_term.0.to_be_bytes());
        match &hard_state.voted_for {
            None => body.push(NOT_VOTED),
            Some(id) => {
                body.push(VOTED);
                body.extend_from_slice(id.as_str().as_bytes());
            }
        }
    });
    value
}

/// The hard state, from its value.
pub(crate) fn decode_hard_state(key: &[u8], value: &[u8]) -> Result<HardState, Damage> {
    let mut body = unseal(key, value)?;
    let current_term = Term(u64::from_be_bytes(body.take()?));
    let voted_for = match body.take()? {
        [NOT_VOTED] => None,
        [VOTED] => match std::str::from_utf8(body.rest()) {
            Ok(id) => Some(ServerId::new(id)),
            Err(error) => return damage(format!("the vote is not text: {error}")),
        },
        [unknown] => return damage(format!("unknown kind of vote {unknown}")),
    };
    body.end()?;
    Ok(HardState { current_term, voted_for })
}

fn encode_configuration(configuration: &Configuration) -> Result<Vec<u8>, Damage> {
    bincode::serde::encode_to_vec(configuration, bincode::config::standard())
        .map_err(|error| Damage(format!("the configuration cannot be encoded: {error}")))
}

fn decode_configuration(bytes: &[u8]) -> Result<Configuration, Damage> {
    match bincode::serde::decode_from_slice(bytes, bincode::config::standard()) {
        Ok((configuration, read)) if read == bytes.len() => Ok(configuration),
        Ok(_) => damage("bytes follow the configuration"),
        Err(error) => damage(format!("the configuration cannot be decoded: {error}")),
    }
}

/// Fills `value` with an envelope around the body that `write` appends.
fn seal(key: &[u8], value: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    value.clear();
    value.extend_from_slice(&[ENVELOPE_VERSION, 0, 0, 0, 0]);
    write(value);
    let crc = checksum(key, ENVELOPE_VERSION, &value[ENVELOPE_BYTES..]);
    value[1..ENVELOPE_BYTES].copy_from_slice(&crc.to_be_bytes());
}

/// The body of an envelope that belongs under `key`.
fn unseal<'a>(key: &[u8], value: &'a [u8]) -> Result<Fields<'a>, Damage> {
    let mut fields = Fields(value);
    let [version] = fields.take()?;
    if version != ENVELOPE_VERSION {
        return damage(format!("unknown record version {version}"));
    }
    let stored = u32::from_be_bytes(fields.take()?);
    check_crc(stored, checksum(key, version, fields.0))?;
    Ok(fields)
}

fn checksum(key: &[u8], version: u8, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(&[version]);
    hasher.update(body);
    hasher.finalize()
}

fn check_crc(stored: u32, computed: u32) -> Result<(), Damage> {
    if stored == computed {
        Ok(())
    } else {
        damage(format!("checksum {stored:08x} is stored, but the bytes have {computed:08x}"))
    }
}

/// What is left to decode.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let Some((field, rest)) = self.0.split_first_chunk() else {
            return damage(format!("{} bytes are left where {N} are due", self.0.len()));
        };
        self.0 = rest;
        Ok(*field)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn end(&self) -> Result<(), Damage> {
        if self.0.is_empty() {
            Ok(())
        } else {
            damage(format!("{} unexpected bytes follow", self.0.len()))
        }
    }
}

#[cfg(test)]
mod tests;
