//! Who may be connected at once.
//!
//! A connection takes a descriptor, and a process has only so many. They are shared out at the start, so
//! that clients, however many they are, never take what other servers and operators need: a server
//! that no longer takes what others pass on, or no longer answers `/health`, is as good as gone.
//!
//! A client of a follower takes two: the follower passes its requests on over a connection of their own.
//! The leader needs one for each of these. So one third of what is left after everything else is for
//! clients at most, and what they leave is for other servers.

use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Duration, Instant},
};

use crate::failure::Failure;

/// Connections of operators at once.
const OPERATORS: usize = 64;
/// Connections at once that have no place and are heard all the same, for [`DOORSTEP_TIME`].
const DOORSTEP: usize = 32;
const DOORSTEP_TIME: Duration = Duration::from_secs(1);
/// Connections of other servers at the Raft port. Each has two, and for a moment four.
pub(crate) const MAX_INBOUND: usize = 64;
/// What the log keeps open, and snapshots, backups, sockets that listen, and the like.
const FILES: usize = 256 + 64;
/// Descriptors for all that is no connection at the Redis port. As many Raft connections go out as
/// come in.
const RESERVED: u64 = (FILES + 2 * MAX_INBOUND + OPERATORS + DOORSTEP) as u64;
const FEWEST_CLIENTS: u64 = 16;

/// The places of a server.
#[derive(Debug)]
pub(crate) struct Places {
    clients: Arc<Semaphore>,
    servers: Arc<Semaphore>,
    operators: Arc<Semaphore>,
    doorstep: Arc<Semaphore>,
    max_clients: usize,
    wanted_clients: u32,
    /// Descriptors that this process may have.
    descriptors: u64,
}

/// What a connection at the Redis port has as long as this lives.
#[derive(Debug)]
pub(crate) enum Place {
    /// That of a client.
    Client { _permit: OwnedSemaphorePermit },
    /// That of a server that passes requests on.
    Server { _permit: OwnedSemaphorePermit },
    /// None: all are taken. It is heard, because it may be a server, for which there are others.
    Doorstep { _permit: OwnedSemaphorePermit, until: Instant },
}

impl Places {
    /// Raises the limit of open files as far as that is allowed, and shares them out.
    ///
    /// # Errors
    /// When there are too few to run a server at all.
    pub(crate) fn new(wanted_clients: u32) -> Result<Self, Failure> {
        let descriptors = raise_limit(needed(wanted_clients.into()));
        let (clients, servers) = share_out(descriptors, wanted_clients.into()).ok_or_else(|| {
            let fewest = RESERVED + 3 * FEWEST_CLIENTS;
            Failure::new(format!(
                "the limit of open files is {descriptors}, and a server needs {fewest}: raise it \
                 (`ulimit -n`, or LimitNOFILE of systemd)"
            ))
        })?;
        let places = |count: u64| {
            let most = Semaphore::MAX_PERMITS;
            Arc::new(Semaphore::new(usize::try_from(count).map_or(most, |count| count.min(most))))
        };
        Ok(Self {
            clients: places(clients),
            servers: places(servers),
            operators: places(OPERATORS as u64),
            doorstep: places(DOORSTEP as u64),
            max_clients: usize::try_from(clients).unwrap_or(usize::MAX),
            wanted_clients,
            descriptors,
        })
    }

    /// Says so if there are fewer than was asked for.
    pub(crate) fn explain(&self) {
        let Self { max_clients, wanted_clients, descriptors, .. } = *self;
        if max_clients < wanted_clients as usize {
            tracing::warn!(
                "{max_clients} Redis clients at most, and not {wanted_clients}: the limit of open files is \
                 {descriptors}, and these would need {} (`ulimit -n`, or LimitNOFILE of systemd)",
                needed(wanted_clients.into())
            );
        }
    }

    /// A place for a new connection at the Redis port, if only on the doorstep.
    pub(crate) fn enter(&self) -> Option<Place> {
        let client = take(&self.clients).map(|permit| Place::Client { _permit: permit });
        client.or_else(|| {
            let until = Instant::now() + DOORSTEP_TIME;
            self.doorstep().map(|permit| Place::Doorstep { _permit: permit, until })
        })
    }

    /// A place for a connection that turns out to be of a server that passes requests on.
    pub(crate) fn server(&self) -> Option<Place> {
        take(&self.servers).map(|permit| Place::Server { _permit: permit })
    }

    /// A place for an operator.
    pub(crate) fn operator(&self) -> Option<OwnedSemaphorePermit> {
        take(&self.operators)
    }

    /// A place for whoever has to be told that there is none.
    pub(crate) fn doorstep(&self) -> Option<OwnedSemaphorePermit> {
        take(&self.doorstep)
    }

    /// Redis clients connected.
    pub(crate) fn clients(&self) -> usize {
        self.max_clients.saturating_sub(self.clients.available_permits())
    }

    pub(crate) fn max_clients(&self) -> usize {
        self.max_clients
    }

    pub(crate) fn descriptors(&self) -> u64 {
        self.descriptors
    }
}

fn take(places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(places).try_acquire_owned().ok()
}

/// Descriptors with which so many clients have a place.
fn needed(clients: u64) -> u64 {
    RESERVED + 3 * clients.max(FEWEST_CLIENTS)
}

/// How many clients and how many connections of other servers there are places for.
fn share_out(descriptors: u64, wanted_clients: u64) -> Option<(u64, u64)> {
    let left = descriptors.checked_sub(RESERVED).filter(|left| 3 * FEWEST_CLIENTS <= *left)?;
    let clients = wanted_clients.min(left / 3);
    Some((clients, left - 2 * clients))
}

/// Raises the soft limit of open files to the hard one, which is there to be used (the soft one is kept low
/// for programs that still call `select`), and returns what it is then.
fn raise_limit(needed: u64) -> u64 {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Some systems name no limit and have one.
    for current in [maximum, Some(needed)] {
        if setrlimit(Resource::Nofile, Rlimit { current, maximum }).is_ok() {
            break;
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_of_clients_takes_what_others_need() {
        for descriptors in (0..2000).chain([4096, 20_000, 1 << 20, u64::MAX]) {
            for wanted in [1, 50, 1000, 10_000, u64::from(u32::MAX)] {
                let Some((clients, servers)) = share_out(descriptors, wanted) else {
                    assert!(descriptors < needed(FEWEST_CLIENTS));
                    continue;
                };
                assert!(0 < clients && clients <= wanted && clients <= servers);
                // As a follower each client has a connection to the leader, as a leader none.
                assert!(RESERVED + 2 * clients <= descriptors);
                assert!(RESERVED + clients + servers <= descriptors);
                assert_eq!(clients == wanted, RESERVED + 3 * wanted <= descriptors);
            }
        }
        assert_eq!(share_out(1024, 10_000), Some((160, 160)));
        assert_eq!(share_out(1 << 20, 10_000), Some((10_000, 1_028_032)));
    }
}
