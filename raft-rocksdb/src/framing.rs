//! What RocksDB's recovery would pass over in silence, found before RocksDB opens anything.
//!
//! Its write-ahead logs and its manifest share one format: blocks of 32 KiB with records in them, each
//! behind a header of checksum (4 bytes), length (2, little-endian) and kind (1). RocksDB verifies the
//! checksums, and nothing here does that again. But it acts on a length and on some kinds *before*
//! it has verified them: a length that reaches beyond the file is the end of the file, so is a
//! record of a file that was recycled, and a block that goes on with zeros ends there. So this reads
//! headers: where does RocksDB stop reading, and does what it then has follow without a gap?

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;

const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// The kinds of records in recycled files, which this crate does not have. RocksDB takes one for the end
/// of the log, or looks at it for ever.
fn is_recycled(kind: u8) -> bool {
    const OF_DATA: RangeInclusive<u8> = 5..=8;
    const OTHERS: [u8; 2] = [11, 131];
    OF_DATA.contains(&kind) || OTHERS.contains(&kind)
}

/// A batch in a write-ahead log begins with the sequence number of its first operation and the number
/// of its operations, little-endian both.
const BATCH_HEAD_BYTES: usize = 12;

/// Whether `error` says that the bytes are damaged, and not that they could not be read.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
}

fn damage<T>(reason: String) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, reason))
}

/// Up to where the records of a manifest are whole: the end of the last one that is. `from` is such an
/// end, or zero; what lies before it is not read again.
pub(crate) fn manifest_end(path: &Path, from: u64) -> io::Result<u64> {
    let mut whole = from;
    each_record(path, from, |_, end| {
        whole = whole.max(end.unwrap_or(0));
        Ok(())
    })?;
    Ok(whole)
}

/// The sequence number of the last operation in the write-ahead logs of the database in `dir`, from the
/// one with the number `oldest` on; zero if there is none in them.
///
/// In each file, every write has to follow the one before it. A file that can be read to its end may be
/// followed by any other: between the two may have been files that are not needed any more. One that
/// cannot, because a write was cut short, is followed by the write that took its place.
///
/// # Errors
/// One of kind `InvalidData`: RocksDB would pass over damage here.
pub(crate) fn last_sequence(dir: &Path, oldest: u64) -> io::Result<u64> {
    let mut next = None;
    let mut must_follow = false;
    for (_, path) in write_ahead_logs(dir)?.into_iter().skip_while(|(number, _)| *number < oldest) {
        let mut whole = 0;
        let read = each_record(&path, 0, |head, end| {
            let Some((sequence, operations)) = batch_head(head) else { return Ok(()) };
            let Some(end) = end else {
                next = next.or(Some(sequence));
                return Ok(());
            };
            if let Some(next) = next.filter(|next| must_follow && *next != sequence) {
                let file = path.display();
                return damage(format!("in {file} write {sequence} stands in the place of {next}"));
            }
            must_follow = true;
            next = Some(sequence.saturating_add(operations));
            whole = end;
            Ok(())
        });
        let length = fs::metadata(&path).map(|metadata| metadata.len());
        match read.and(length) {
            Ok(length) if whole < length => must_follow = true,
            Ok(_) => must_follow = must_follow && whole == 0,
            // RocksDB removes them as it goes; that somebody has the directory open is found out later.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(next.map_or(0, |next| next.saturating_sub(1)))
}

fn batch_head(head: &[u8]) -> Option<(u64, u64)> {
    let (sequence, rest) = head.split_first_chunk()?;
    let (operations, _) = rest.split_first_chunk()?;
    Some((u64::from_le_bytes(*sequence), u32::from_le_bytes(*operations).into()))
}

/// The number of the oldest write-ahead log in `dir`; zero if there is none.
pub(crate) fn oldest_log(dir: &Path) -> io::Result<u64> {
    Ok(write_ahead_logs(dir)?.first().map_or(0, |(number, _)| *number))
}

/// From the oldest to the newest.
fn write_ahead_logs(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut logs = Vec::new();
    for item in fs::read_dir(dir)? {
        let path = item?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|name| name == "log"))
        {
            logs.push((number, path));
        }
    }
    logs.sort();
    Ok(logs)
}

/// Calls `each` for every record behind `from`, as RocksDB finds them: with the bytes it begins with, and
/// with where it ends. The last one may not: it was cut short, or its length is damaged. `from` is
/// where a record ends, or zero.
fn each_record(
    path: &Path,
    from: u64,
    mut each: impl FnMut(&[u8], Option<u64>) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut start = from - from % BLOCK_BYTES as u64;
    file.seek(SeekFrom::Start(start))?;
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let mut head = Vec::with_capacity(BATCH_HEAD_BYTES);
    let mut is_inside = false;
    loop {
        block.clear();
        file.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        let mut rest = &block[..];
        while let Some((header, behind)) = rest.split_first_chunk::<HEADER_BYTES>() {
            let [_, _, _, _, low, high, kind] = *header;
            let length = usize::from(u16::from_le_bytes([low, high]));
            if is_recycled(kind) {
                let at = start + (block.len() - rest.len()) as u64;
                return damage(format!(
                    "{} has a record of kind {kind} at byte {at}",
                    path.display()
                ));
            }
            if (kind, length) == (0, 0) {
                break;
            }
            if matches!(kind, FULL | FIRST) {
                head.clear();
                is_inside = true;
            }
            let (payload, after) = behind.split_at(length.min(behind.len()));
            if is_inside && matches!(kind, FULL | FIRST | MIDDLE | LAST) {
                head.extend(payload.iter().take(BATCH_HEAD_BYTES - head.len()));
            }
            if payload.len() < length {
                return each(&head, None);
            }
            rest = after;
            if is_inside && matches!(kind, FULL | LAST) {
                is_inside = false;
                each(&head, Some(start + (block.len() - rest.len()) as u64))?;
            }
        }
        if block.len() < BLOCK_BYTES {
            return Ok(());
        }
        start += BLOCK_BYTES as u64;
    }
}

#[cfg(test)]
mod tests;
