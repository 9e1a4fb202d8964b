//! A snapshot far larger than any buffer goes through a file snapshot store in bounded memory.
//!
//! A program of its own, because it looks at the memory of its whole process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a failed test says where")]

use std::fs;

use raft::{FileSnapshotStore, IndexedConfiguration, LogId, SnapshotStore};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

/// Two gibibytes and a bit; less without optimisation, where the checksum is slow.
const SIZE_BYTES: u64 = if cfg!(debug_assertions) { 256 << 20 } else { (2 << 30) + 12_345 };

const PIECE_BYTES: usize = 1 << 20;

const MEMORY_MAX_KIB: u64 = 64 << 10;

/// A line of `/proc/self/status`, in kibibytes.
fn status_kib(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap().trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// Every piece is different: the number of each lies in front of a common pattern.
fn number(piece: &mut [u8], offset: u64) {
    let bytes = offset.to_be_bytes();
    let length = piece.len().min(bytes.len());
    piece[..length].copy_from_slice(&bytes[..length]);
}

fn rate(bytes: u64, since: Instant) -> String {
    let elapsed = since.elapsed();
    format!("{:.2?}, {:.0} MB/s", elapsed, bytes as f64 / 1e6 / elapsed.as_secs_f64())
}

#[tokio::test]
async fn two_gibibytes_take_no_more_memory_than_the_buffers() {
    // Where cargo builds is a disk; the directory for temporary files may be memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = FileSnapshotStore::open(&dir, 2).unwrap();
    let mut piece: Vec<u8> = (0..PIECE_BYTES).map(|i| (i % 251) as u8).collect();
    let mut found = vec![0; PIECE_BYTES];
    let (before, peak_before) = (status_kib("VmRSS"), status_kib("VmHWM"));

    let started = Instant::now();
    let mut sink = store.create(LogId::new(1, 1), IndexedConfiguration::default()).await.unwrap();
    let mut offset = 0;
    while offset < SIZE_BYTES {
        let length = (SIZE_BYTES - offset).min(PIECE_BYTES as u64) as usize;
        number(&mut piece[..length], offset);
        sink.write_all(&piece[..length]).await.unwrap();
        offset += length as u64;
    }
    let written = rate(SIZE_BYTES, started);
    let meta = sink.finish().await.unwrap();
    let finished = rate(SIZE_BYTES, started);
    assert_eq!(meta.size_bytes, SIZE_BYTES);
    let after_write = status_kib("VmRSS");

    let started = Instant::now();
    let (_, mut reader) = store.open(&meta.id).await.unwrap();
    let verified = rate(SIZE_BYTES, started);
    let started = Instant::now();
    let mut offset = 0;
    while offset < SIZE_BYTES {
        let length = (SIZE_BYTES - offset).min(PIECE_BYTES as u64) as usize;
        number(&mut piece[..length], offset);
        reader.read_exact(&mut found[..length]).await.unwrap();
        assert!(found[..length] == piece[..length], "other bytes from {offset} on");
        offset += length as u64;
    }
    assert_eq!(reader.read(&mut found).await.unwrap(), 0, "more than was written");
    let read = rate(SIZE_BYTES, started);

    let started = Instant::now();
    let (_, mut tail) = store.open_at(&meta.id, SIZE_BYTES - 7).await.unwrap();
    assert_eq!(tail.read_to_end(&mut Vec::new()).await.unwrap(), 7);
    let seek = started.elapsed();

    let grown = [after_write, status_kib("VmRSS")].map(|after| after.saturating_sub(before));
    let peak = status_kib("VmHWM").saturating_sub(peak_before.max(before));
    println!(
        "{SIZE_BYTES} bytes: written {written}, durable {finished}; verified {verified}; read \
         {read}; last bytes by offset {seek:.2?}\nresident memory {before} KiB before, {} KiB more \
         after writing, {} KiB more after reading, peak {peak} KiB more",
        grown[0], grown[1]
    );
    assert!(grown.into_iter().chain([peak]).all(|kib| kib < MEMORY_MAX_KIB));
}
