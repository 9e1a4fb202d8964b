//! Segments of frames that no writer has written: right checksums around any content, or any bytes at all.

use std::path::Path;

use bytes::Bytes;

use super::{DIR, Input, MemoryDisk, Met, SEGMENT_BYTES, STORE, count, start};
use crate::file_log::{
    format::{
        self, COMMIT, DISK, ENTRY, Encoder, FOOTER, FORMAT_VERSION, Footer, Frame, HARD_STATE,
        HEADER_BYTES, Header, TRAILER_BYTES,
    },
    identity,
    segment::Segment,
};

/// More than that says nothing new.
const MAX_STEPS: usize = 64;
const MAX_SEGMENTS: u64 = 4;

/// Frames of any kind and content in up to four segments.
pub(super) fn run(input: &mut Input<'_>, met: &mut Met) -> Result<(), String> {
    let disk = empty()?;
    let mut segment = Making::new(1);
    let (mut frames, mut batch, mut is_footer_true) = (Vec::new(), 0_u64, true);
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        match input.byte() % 16 {
            kind @ 0..=8 => {
                let kind = if kind == 0 { input.byte() } else { kind };
                let (detail, body) = content(kind, input);
                check_frame(segment.id, segment.end(), (kind, detail, &body), met)?;
                frames.push((kind, detail, body));
            }
            9 => {
                batch = input.number();
                segment.place(&frames, Some(batch));
                frames.clear();
            }
            10..=12 => {
                batch = batch.wrapping_add(1);
                segment.place(&frames, Some(batch));
                frames.clear();
            }
            13 => segment.place(&frames, None),
            14 => is_footer_true &= segment.seal(&disk, input),
            _ if segment.id < MAX_SEGMENTS => {
                disk.put(&Segment::name(segment.id), segment.file());
                segment = Making::new(segment.id + 1);
            }
            _ => {}
        }
    }
    segment.place(&frames, None);
    disk.put(&Segment::name(segment.id), segment.file());
    match start(&disk, is_footer_true)? {
        Ok((_, batches)) if 0 < batches => count(met, "made up, opened"),
        Ok(_) => count(met, "made up, without a batch"),
        Err(_) => count(met, "made up, refused"),
    }
    Ok(())
}

/// One file of the directory is any bytes.
pub(super) fn run_raw(input: &mut Input<'_>, met: &mut Met) -> Result<(), String> {
    let disk = empty()?;
    let (mut segment, what) = (Making::new(1), input.byte());
    let bytes = input.take(usize::MAX).to_vec();
    match what % 3 {
        0 => {
            disk.put("RAFT-LOG", bytes);
            disk.put(&Segment::name(1), segment.file());
        }
        1 => {
            segment.batches = bytes;
            disk.put(&Segment::name(1), segment.file());
        }
        _ => disk.put(&Segment::name(1), bytes),
    }
    let is_open = start(&disk, true)?.is_ok();
    count(met, if is_open { "any bytes, opened" } else { "any bytes, refused" });
    Ok(())
}

fn empty() -> Result<MemoryDisk, String> {
    let (disk, dir) = (MemoryDisk::default(), Path::new(DIR));
    let made = identity::begin(dir, &disk, STORE).and_then(|()| identity::complete(dir, &disk));
    made.map_err(|error| error.to_string()).map(|()| disk)
}

/// A segment that is being made up.
struct Making {
    id: u64,
    /// What follows the header.
    batches: Vec<u8>,
    footer: Vec<u8>,
}

impl Making {
    fn new(id: u64) -> Self {
        Self { id, batches: Vec::new(), footer: Vec::new() }
    }

    fn end(&self) -> u64 {
        HEADER_BYTES + self.batches.len() as u64
    }

    /// Adds these frames, and a commit frame that is right, but for the number.
    fn place(&mut self, frames: &[(u8, u8, Vec<u8>)], commit: Option<u64>) {
        let mut buffer = Vec::new();
        let mut encoder = Encoder::new(&mut buffer, format::seed(STORE, self.id), self.end());
        for (kind, detail, body) in frames {
            encoder.frame(*kind, *detail, |to| to.extend_from_slice(body));
        }
        if let Some(number) = commit {
            encoder.commit(number);
        }
        if self.end() + buffer.len() as u64 <= SEGMENT_BYTES {
            self.batches.extend(buffer);
        }
    }

    /// Makes a footer of what is there, some of it changed. Returns whether it is true.
    fn seal(&mut self, disk: &MemoryDisk, input: &mut Input<'_>) -> bool {
        let disk = disk.copy();
        disk.put(&Segment::name(self.id), self.file());
        let scanned =
            Segment::open(&disk.shared(), STORE, self.id).and_then(|segment| segment.scan());
        let Ok(contents) = scanned else { return true };
        let before = contents.footer(contents.first_index, contents.offsets.clone());
        let mut footer = before.clone();
        let changed = input.byte();
        let Footer { first_batch, last_batch, end, cut, first_index, offsets } = &mut footer;
        for (bit, field) in [first_batch, last_batch, end, cut, first_index].into_iter().enumerate()
        {
            if changed >> bit & 1 == 1 {
                *field = input.number();
            }
        }
        if changed >> 5 & 1 == 1 {
            let count = usize::from(input.byte() % 32);
            *offsets = (0..count).map(|_| input.short() as u32).collect();
        }
        let at = SEGMENT_BYTES - Footer::bytes(footer.offsets.len());
        Encoder::new(&mut self.footer, format::seed(STORE, self.id), at).footer(&footer);
        footer == before
    }

    fn file(&self) -> Vec<u8> {
        let used = self.end() + (self.footer.len() as u64).max(TRAILER_BYTES);
        let size = used.max(SEGMENT_BYTES).next_multiple_of(format::ALIGNMENT);
        let header = Header { version: FORMAT_VERSION, store: STORE, segment: self.id, size };
        let mut file = header.encode();
        file.extend_from_slice(&self.batches);
        file.resize(size as usize - self.footer.len(), 0);
        file.extend_from_slice(&self.footer);
        file
    }
}

/// What is in a frame: numbers where its kind has numbers, then bytes; or bytes only.
fn content(kind: u8, input: &mut Input<'_>) -> (u8, Vec<u8>) {
    let detail = input.byte();
    let numbers = match kind {
        ENTRY | COMMIT => 2,
        FOOTER => 5,
        _ => 1,
    };
    let mut body = Vec::new();
    if detail < 0x80 {
        (0..numbers).for_each(|_| body.extend_from_slice(&input.number().to_le_bytes()));
    }
    let count = usize::from(input.byte());
    body.extend_from_slice(input.take(count));
    (detail & 0x7f, body)
}

/// A frame that says something says the same after it was encoded anew, and one whose checksum is wrong nothing.
fn check_frame(
    segment: u64,
    at: u64,
    (kind, detail, body): (u8, u8, &[u8]),
    met: &mut Met,
) -> Result<(), String> {
    let seed = format::seed(STORE, segment);
    let mut bytes = Vec::new();
    Encoder::new(&mut bytes, seed, at).frame(kind, detail, |to| to.extend_from_slice(body));
    let mut other = bytes.clone();
    if let Some(byte) = other.last_mut() {
        *byte ^= 1;
    }
    let is_moved = Frame::decode(seed, at + format::ALIGNMENT, &bytes).is_some();
    if is_moved || Frame::decode(seed, at, &other).is_some() {
        return Err(format!("a frame is taken that was moved or changed: {bytes:?}"));
    }
    let read = Bytes::from(bytes);
    let Some(frame) = Frame::decode(seed, at, &read) else {
        let is_known = (ENTRY..=FOOTER).contains(&kind);
        return if is_known { Err(format!("no frame: {read:?}")) } else { Ok(()) };
    };
    let anew = |encode: &dyn Fn(Encoder<'_>)| {
        let mut anew = Vec::new();
        encode(Encoder::new(&mut anew, seed, at));
        Bytes::from(anew)
    };
    let is_same = match kind {
        ENTRY => frame.entry(&read).map(|said| {
            let anew = anew(&|mut encoder| {
                encoder.entry(&said);
            });
            let again = Frame::decode(seed, at, &anew).map(|frame| frame.entry(&anew));
            frame.entry_index() == Ok(said.index.0)
                && format::entry_bytes(&said) == anew.len() as u64
                && again == Some(Ok(said))
        }),
        HARD_STATE => frame.hard_state().map(|said| {
            let anew = anew(&|mut encoder| encoder.hard_state(&said));
            let again = Frame::decode(seed, at, &anew).map(|frame| frame.hard_state());
            again == Some(Ok(said))
        }),
        DISK => frame.disk().map(|said| {
            let anew = anew(&|mut encoder| encoder.disk(&said));
            Frame::decode(seed, at, &anew).map(|frame| frame.disk()) == Some(Ok(said))
        }),
        COMMIT => frame.commit().map(|said| {
            let numbers = [said.number.to_le_bytes(), said.start.to_le_bytes()].concat();
            let [frames, chain] = [said.frames.to_le_bytes(), said.chain.to_le_bytes()];
            [&numbers[..], &frames, &chain].concat() == body
        }),
        FOOTER => frame.footer().map(|said| {
            let anew = anew(&|encoder| encoder.footer(&said));
            let (footer, trailer) = anew.split_at(anew.len() - TRAILER_BYTES as usize);
            Frame::decode(seed, at, footer).map(|frame| frame.footer()) == Some(Ok(said))
                && Footer::locate(seed, trailer) == Some(at)
        }),
        _ => frame.number().map(|said| said.to_le_bytes() == body),
    };
    match is_same {
        Ok(true) => count(met, "frame decoded"),
        Ok(false) => return Err(format!("frame {frame:?} is another one after it was encoded")),
        Err(_) => count(met, "frame malformed"),
    }
    Ok(())
}
