//! The description of a snapshot to bytes and back. The only module that knows the bytes;
//! `SNAPSHOT_FORMAT.md` describes them; `meta-1.txt` and `meta-2.txt` pin them.
//!
//! The file is an envelope: a magic word, a version, a checksum, a body. The checksum covers the
//! *name* of the snapshot as well, so that a description found in another's place fails it. bincode
//! is used for the configuration and nothing else.

use super::name::Name;
use crate::{
    configuration::{Configuration, IndexedConfiguration},
    position::{LogId, LogIndex, Term},
    snapshot::SnapshotMeta,
};

/// The newest format this release reads, and the one it writes.
pub(super) const FORMAT_VERSION: u32 = 2;

/// The format without the cluster, which is written if there is none.
const WITHOUT_CLUSTER: u32 = 1;

const MAGIC: &[u8] = b"raft-snapshot";

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Description {
    pub(super) meta: SnapshotMeta,
    /// The CRC-32 of the data.
    pub(super) data_crc: u32,
}

/// Why a description cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// Bytes that are not what was written, and how it shows.
    Damaged(String),
    /// What was written, but by a release that knows more.
    UnknownFormat(u32),
}

fn damaged<T>(reason: impl Into<String>) -> Result<T, Unreadable> {
    Err(Unreadable::Damaged(reason.into()))
}

/// The file that describes the snapshot of this name.
pub(super) fn encode(name: Name, description: &Description) -> Result<Vec<u8>, String> {
    let Description { meta, data_crc } = description;
    let IndexedConfiguration { index, configuration } = &meta.configuration;
    let mut body = Vec::new();
    body.extend_from_slice(&meta.last.term.0.to_be_bytes());
    body.extend_from_slice(&meta.last.index.0.to_be_bytes());
    body.extend_from_slice(&meta.size_bytes.to_be_bytes());
    body.extend_from_slice(&data_crc.to_be_bytes());
    body.extend_from_slice(&index.0.to_be_bytes());
    let mut members = encode_configuration(configuration)?;
    let mut version = FORMAT_VERSION;
    if !configuration.cluster().is_some() {
        // It comes last, and none is one byte.
        members.pop();
        version = WITHOUT_CLUSTER;
    }
    body.extend_from_slice(&members);
    Ok(seal(name, version, &body))
}

/// What the file of this name's snapshot says.
pub(super) fn decode(name: Name, file: &[u8]) -> Result<Description, Unreadable> {
    let (version, mut body) = unseal(name, file)?;
    let term = Term(u64::from_be_bytes(body.take()?));
    let last = LogId { term, index: LogIndex(u64::from_be_bytes(body.take()?)) };
    if last != name.last {
        return damaged(format!("it is called {name} but says that it covers {last}"));
    }
    let size_bytes = u64::from_be_bytes(body.take()?);
    let data_crc = u32::from_be_bytes(body.take()?);
    let index = LogIndex(u64::from_be_bytes(body.take()?));
    let mut members = body.0.to_vec();
    if version == WITHOUT_CLUSTER {
        members.push(0);
    }
    let configuration = decode_configuration(&members)?;
    let configuration = IndexedConfiguration { index, configuration };
    let meta = SnapshotMeta { id: name.id(), last, configuration, size_bytes };
    Ok(Description { meta, data_crc })
}

fn encode_configuration(configuration: &Configuration) -> Result<Vec<u8>, String> {
    bincode::serde::encode_to_vec(configuration, bincode::config::standard())
        .map_err(|error| error.to_string())
}

fn decode_configuration(bytes: &[u8]) -> Result<Configuration, Unreadable> {
    match bincode::serde::decode_from_slice(bytes, bincode::config::standard()) {
        Ok((configuration, read)) if read == bytes.len() => Ok(configuration),
        Ok(_) => damaged("bytes follow the configuration"),
        Err(error) => damaged(format!("the configuration cannot be decoded: {error}")),
    }
}

/// The envelope around `body`. Its layout never changes, so that every release can tell damage from
/// a format that it does not know.
pub(super) fn seal(name: Name, version: u32, body: &[u8]) -> Vec<u8> {
    let mut file = MAGIC.to_vec();
    file.extend_from_slice(&version.to_be_bytes());
    file.extend_from_slice(&checksum(name, version, body).to_be_bytes());
    file.extend_from_slice(body);
    file
}

/// The body of the envelope that belongs to the snapshot of this name.
fn unseal(name: Name, file: &[u8]) -> Result<(u32, Fields<'_>), Unreadable> {
    let Some(rest) = file.strip_prefix(MAGIC) else {
        return damaged(format!("it does not begin with {:?}", String::from_utf8_lossy(MAGIC)));
    };
    let mut fields = Fields(rest);
    let version = u32::from_be_bytes(fields.take()?);
    let stored = u32::from_be_bytes(fields.take()?);
    let computed = checksum(name, version, fields.0);
    if stored != computed {
        return damaged(format!(
            "checksum {stored:08x} is stored, but the bytes have {computed:08x}"
        ));
    }
    if !(WITHOUT_CLUSTER..=FORMAT_VERSION).contains(&version) {
        return Err(Unreadable::UnknownFormat(version));
    }
    Ok((version, fields))
}

fn checksum(name: Name, version: u32, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(name.to_string().as_bytes());
    hasher.update(&version.to_be_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// What is left to decode.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let Some((field, rest)) = self.0.split_first_chunk() else {
            return damaged(format!("{} bytes are left where {N} are due", self.0.len()));
        };
        self.0 = rest;
        Ok(*field)
    }
}
