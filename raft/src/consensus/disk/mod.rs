//! Which disk a server runs on, and whether it is the disk that the cluster knows.
//!
//! A rare case, kept apart from the common path. A disk that was wiped or exchanged has forgotten its
//! vote and what it acknowledged (`incarnation`); an older copy of a disk has forgotten part of that
//! (`rollback`). Under the old name either could help to elect a leader that lacks what is committed (laws 1,
//! 4, 7). All of it has two doors: what is received passes [`Consensus::receive`](super::Consensus::receive)
//! before the protocol acts on it, and what is sent is stamped on its way out.
//!
//! | file | one idea |
//! |---|---|
//! | `identity` | the state: this disk, and what is remembered of the others' |
//! | `door` | which messages count, and what is said of disks in those that leave |
//! | `incarnation` | disks are recorded in the configuration |
//! | `rollback` | older copies of a disk find out that they are |

mod door;
mod identity;
mod incarnation;
mod rollback;

pub use self::door::{Mismatch, Rejected};
pub(super) use self::identity::DiskIdentity;
