//! A durable log on plain files: entries, term and vote of one server in one directory, in pure Rust.
//!
//! One stream of records goes through segment files of fixed size, each written with zeros before it is used.
//! A write of the library is one batch: its frames and a commit frame, one positioned write, one sync. Nothing
//! that was acknowledged is ever written over: removing entries from the end is a record too, and removing them
//! from the front drops whole segments after it is durable where the log begins. The newest term, vote and
//! identity of the disk stand at the head of every segment, so that dropping the others loses nothing.
//! `LOG_FORMAT.md` describes the bytes.
//!
//! ```text
//! FileLogStore ── work ──> thread: Writer ── frames ──> Disk          readers ──> Shared: Index ──> Disk
//!                                    └── Job: the next segment, half a segment ahead
//! ```
//!
//! | file | what |
//! |---|---|
//! | `store.rs` | [`FileLogStore`]: the contract, and how async code reads files, which block |
//! | `options.rs` | [`FileLogOptions`] |
//! | `thread.rs` | the thread that writes |
//! | `writer.rs` | one write from its records to durable bytes; the next segment, dropped segments |
//! | `prepare.rs` | a segment made ready before it is needed |
//! | `open.rs` | what a start finds, and what a power cut may have left |
//! | `index.rs` | where each entry lies, and reading it |
//! | `segment.rs` | one segment: its header, its batches, its footer; a torn tail told from damage |
//! | `format.rs` | frames to bytes and back |
//! | `identity.rs` | whose directory it is, and its lock |
//! | `disk.rs` | the few calls that touch files |
//! | `errors.rs` | what is said when it cannot go on |
//! | `fuzz/` | any bytes, and what must hold whatever they are: for tests |
//!
//! Laws at work here: 6 and 7 (what was promised is durable, and a failed write is never tried again), 14
//! (a removal and what takes its place are one write). Deliberately absent: memory maps, compression, direct
//! I/O, and rewriting of anything; several groups in one log, for which every record has room.

mod disk;
mod errors;
mod format;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod fuzz;
mod identity;
mod index;
mod open;
mod options;
mod prepare;
mod segment;
mod store;
mod thread;
mod writer;

pub use self::{options::FileLogOptions, store::FileLogStore, store::Verified};

#[cfg(test)]
mod tests;
