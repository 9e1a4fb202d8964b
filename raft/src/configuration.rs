//! Cluster membership: who belongs to the cluster, who votes, and how one change leads to the next.
//!
//! *Configuration* is membership; settings are [`Config`](crate::Config). Changes are single-server
//! changes (thesis §4.1): any two consecutive configurations share a majority.

mod peers;

use std::{fmt, fmt::Write as _, sync::Arc};

use serde::{Deserialize, Serialize};

pub use self::peers::{InvalidPeers, PeersFileError, read_peers_json};
use crate::position::{LogId, LogIndex};

/// The identity of a server, for ever: text chosen by the user, unique in the cluster.
///
/// Votes, progress and configurations refer to servers by id only; an address is only where to dial.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServerId(Arc<str>);

/// Where a server can be dialled. Its meaning belongs to the transport (`host:port` for TCP).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServerAddress(Arc<str>);

macro_rules! text {
    ($name:ident) => {
        impl $name {
            /// Wraps the text. It is checked where it is used: empty text is refused by
            /// [`Configuration::validate`].
            #[must_use]
            pub fn new(text: impl AsRef<str>) -> Self {
                Self(Arc::from(text.as_ref()))
            }

            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

text!(ServerId);
text!(ServerAddress);

/// Which cluster it is: a number made when the cluster is bootstrapped, in every configuration since,
/// and in whatever its servers say. Servers of different clusters take nothing from each other.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
#[expect(clippy::exhaustive_structs, reason = "a number")]
pub struct ClusterId(pub u64);

impl ClusterId {
    /// No cluster: a server that was never bootstrapped and has not heard from a leader yet.
    pub const NONE: Self = Self(0);

    /// Whether it names a cluster.
    #[must_use]
    pub fn is_some(self) -> bool {
        self != Self::NONE
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Whether a server counts towards majorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a store or a transport keeps all of it: it has to learn of a new field, not to lose it"
)]
pub enum Suffrage {
    /// Votes in elections and counts for commit.
    Voter,
    /// Receives the log but never counts (thesis §4.2.1 calls it a non-voting server).
    Nonvoter,
}

impl Suffrage {
    /// Whether a server with this suffrage counts towards majorities.
    #[must_use]
    pub fn is_voter(self) -> bool {
        self == Self::Voter
    }
}

/// One member of a [`Configuration`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Server {
    /// Who it is.
    pub id: ServerId,
    /// Where to dial it.
    pub address: ServerAddress,
    /// Whether it votes.
    pub suffrage: Suffrage,
    /// Which disk it is known by ([`StableStore::disk_identity`](crate::StableStore::disk_identity)); 0
    /// as long as that is not known. Leave it 0 in a configuration of your own: the leader fills it
    /// in. What a server says from another disk counts for nothing.
    pub incarnation: u64,
}

impl Server {
    /// A voting member.
    #[must_use]
    pub fn voter(id: impl Into<ServerId>, address: impl Into<ServerAddress>) -> Self {
        let (id, address) = (id.into(), address.into());
        Self { id, address, suffrage: Suffrage::Voter, incarnation: 0 }
    }

    /// A non-voting member.
    #[must_use]
    pub fn nonvoter(id: impl Into<ServerId>, address: impl Into<ServerAddress>) -> Self {
        Self { suffrage: Suffrage::Nonvoter, ..Self::voter(id, address) }
    }

    /// This member after `change`, for use within an expression.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Whether the server counts towards majorities.
    #[must_use]
    pub fn is_voter(&self) -> bool {
        self.suffrage.is_voter()
    }
}

/// The members of the cluster, ordered by id.
///
/// ```
/// use raft::{Configuration, Server};
///
/// let configuration = Configuration::new([
///     Server::voter("a", "127.0.0.1:7001"),
///     Server::voter("b", "127.0.0.1:7002"),
///     Server::nonvoter("c", "127.0.0.1:7003"),
/// ]);
/// configuration.validate()?;
/// assert_eq!(configuration.voters().count(), 2);
/// # Ok::<(), raft::InvalidConfiguration>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    servers: Arc<[Server]>,
    // Absent in JSON that is older than clusters.
    #[serde(default)]
    cluster: ClusterId,
}

impl Configuration {
    /// The longest id of a server, in bytes: what every transport and store must be able to carry.
    pub const MAX_ID_BYTES: usize = 255;

    /// The longest address of a server, in bytes.
    pub const MAX_ADDRESS_BYTES: usize = 512;

    /// A configuration of these servers, in any order; not yet validated.
    #[must_use]
    pub fn new(servers: impl IntoIterator<Item = Server>) -> Self {
        let mut servers: Vec<_> = servers.into_iter().collect();
        servers.sort_by(|a, b| a.id.cmp(&b.id));
        Self { servers: servers.into(), cluster: ClusterId::NONE }
    }

    /// The same members, of this cluster. Whoever bootstraps several servers with the same members, and
    /// could do so for two clusters at once, gives each cluster a random number of its own; in all other
    /// cases the number is made by the bootstrap.
    #[must_use]
    pub fn with_cluster(self, cluster: ClusterId) -> Self {
        Self { cluster, ..self }
    }

    /// Which cluster it is of; [`ClusterId::NONE`] before the bootstrap.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// This configuration as the first one of a new cluster. Without a number of its own it gets one.
    /// Alone, a server takes its `salt`, which is random. If there are others they may be bootstrapped
    /// with the same members, and have to come to the same number, so it is a checksum of them: other
    /// members, another cluster.
    #[must_use]
    pub(crate) fn founding(self, salt: u64) -> Self {
        let salt = if self.servers.len() == 1 { salt } else { 0 };
        self.of_its_own(salt)
    }

    /// These members as the first ones of a cluster that goes on where another one has ended with `end`: a
    /// cluster of its own, also if they are still said to be of the old one, and the same for every
    /// survivor with that end. Nothing is known of their disks.
    #[must_use]
    pub(crate) fn refounding(&self, end: LogId) -> Self {
        let forgotten = |server: &Server| Server { incarnation: 0, ..server.clone() };
        let members = Self::new(self.servers.iter().map(forgotten));
        members.of_its_own(end.index.0.rotate_left(32) ^ end.term.0 ^ 1 << 63)
    }

    fn of_its_own(self, salt: u64) -> Self {
        if self.cluster.is_some() {
            return self;
        }
        let mut text = String::new();
        for Server { id, address, suffrage, .. } in self.servers() {
            // Writing to a string cannot fail.
            let _ = write!(text, "{id:?} {address:?} {suffrage:?};");
        }
        let cluster = ClusterId(fnv64(salt, text.as_bytes()).max(1));
        self.with_cluster(cluster)
    }

    /// Whether the members are the same, whatever is known of their disks.
    pub(crate) fn has_members_of(&self, other: &Self) -> bool {
        let same = |a: &Server, b: &Server| {
            (&a.id, &a.address, a.suffrage) == (&b.id, &b.address, b.suffrage)
        };
        self.servers.len() == other.servers.len()
            && self.servers.iter().zip(&*other.servers).all(|(a, b)| same(a, b))
    }

    /// All members, ordered by id.
    #[must_use]
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The voting members, ordered by id.
    pub fn voters(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().filter(|server| server.is_voter())
    }

    /// The member with this id.
    #[must_use]
    pub fn server(&self, id: &ServerId) -> Option<&Server> {
        self.servers.iter().find(|server| server.id == *id)
    }

    /// Whether the server is a voting member.
    #[must_use]
    pub fn is_voter(&self, id: &ServerId) -> bool {
        self.server(id).is_some_and(Server::is_voter)
    }

    /// Whether there is no member at all: a server that was never bootstrapped and has heard of no
    /// cluster yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// The same members, where the incarnations of those that are not known yet are what `known`
    /// says.
    #[must_use]
    pub(crate) fn with_incarnations(&self, known: impl Fn(&ServerId) -> Option<u64>) -> Self {
        let filled_in = |server: &Server| match server.incarnation {
            0 => Server { incarnation: known(&server.id).unwrap_or(0), ..server.clone() },
            _ => server.clone(),
        };
        Self { servers: self.servers.iter().map(filled_in).collect(), cluster: self.cluster }
    }

    /// Bytes that count against size limits.
    #[must_use]
    pub fn cost_bytes(&self) -> u64 {
        self.servers
            .iter()
            .map(|s| 16 + (s.id.as_str().len() + s.address.as_str().len()) as u64)
            .sum()
    }

    /// Checks the rules every configuration obeys.
    ///
    /// # Errors
    /// [`InvalidConfiguration`] names the rule and the server: no voter, an empty id or address, one
    /// that is too long, a duplicate id or address.
    pub fn validate(&self) -> Result<(), InvalidConfiguration> {
        for (position, server) in self.servers.iter().enumerate() {
            if server.id.as_str().is_empty() {
                return Err(InvalidConfiguration::EmptyId { address: server.address.clone() });
            }
            if server.address.as_str().is_empty() {
                return Err(InvalidConfiguration::EmptyAddress { id: server.id.clone() });
            }
            for (text, max) in [
                (server.id.as_str(), Self::MAX_ID_BYTES),
                (server.address.as_str(), Self::MAX_ADDRESS_BYTES),
            ] {
                if max < text.len() {
                    let beginning = text.chars().take(32).collect();
                    return Err(InvalidConfiguration::TooLong { beginning, max });
                }
            }
            for other in self.servers.iter().skip(position + 1) {
                if server.id == other.id {
                    return Err(InvalidConfiguration::DuplicateId { id: server.id.clone() });
                }
                if server.address == other.address {
                    return Err(InvalidConfiguration::DuplicateAddress {
                        address: server.address.clone(),
                        first: server.id.clone(),
                        second: other.id.clone(),
                    });
                }
            }
        }
        if self.voters().next().is_none() {
            return Err(InvalidConfiguration::NoVoter);
        }
        Ok(())
    }

    /// The configuration after `change`. Pure: appends nothing. Members keep their incarnation, that
    /// of a new one is not known.
    ///
    /// # Errors
    /// [`InvalidConfiguration`] when the target is unknown where it must be known, or when the
    /// result breaks a rule of [`Configuration::validate`].
    pub fn changed(&self, change: &ConfigurationChange) -> Result<Self, InvalidConfiguration> {
        let known = |id: &ServerId| {
            self.server(id).ok_or_else(|| InvalidConfiguration::UnknownServer { id: id.clone() })
        };
        let others = |id: &ServerId| {
            let id = id.clone();
            self.servers.iter().filter(move |server| server.id != id).cloned()
        };
        let next = match change {
            ConfigurationChange::AddVoter { id, address } => {
                Self::new(others(id).chain([Server {
                    incarnation: self.server(id).map_or(0, |server| server.incarnation),
                    ..Server::voter(id.clone(), address.clone())
                }]))
            }
            ConfigurationChange::AddNonvoter { id, address } => {
                // As in the model, adding a voter as a nonvoter only updates its address: a
                // demotion is asked for by name.
                let (id, address) = (id.clone(), address.clone());
                let server = match self.server(&id) {
                    Some(known) => Server { address, ..known.clone() },
                    None => Server::nonvoter(id.clone(), address),
                };
                Self::new(others(&id).chain([server]))
            }
            ConfigurationChange::DemoteVoter { id } => {
                let server = Server { suffrage: Suffrage::Nonvoter, ..known(id)?.clone() };
                Self::new(others(id).chain([server]))
            }
            ConfigurationChange::RemoveServer { id } => {
                known(id)?;
                Self::new(others(id))
            }
        };
        next.validate()?;
        Ok(next.with_cluster(self.cluster))
    }
}

/// The checksum FNV-1a of 64 bits (a public-domain algorithm: the same on every machine and in every
/// release, which the standard library's hashers are not), begun with a salt.
fn fnv64(salt: u64, bytes: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    salt.to_le_bytes().iter().chain(bytes).fold(0xcbf2_9ce4_8422_2325, step)
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, server) in self.servers.iter().enumerate() {
            let gap = if position == 0 { "" } else { " " };
            let mark = if server.is_voter() { "" } else { "(nonvoter)" };
            write!(f, "{gap}{}{mark}", server.id)?;
            if server.incarnation != 0 {
                write!(f, "#{:016x}", server.incarnation)?;
            }
        }
        Ok(())
    }
}

/// One step from a configuration to the next (thesis §4.1: one server at a time).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigurationChange {
    /// Adds a voter, promotes a nonvoter, or updates a voter's address.
    AddVoter {
        /// Who.
        id: ServerId,
        /// Where to dial it.
        address: ServerAddress,
    },
    /// Adds a nonvoter, or updates a member's address without touching its suffrage.
    AddNonvoter {
        /// Who.
        id: ServerId,
        /// Where to dial it.
        address: ServerAddress,
    },
    /// Makes a voter a nonvoter.
    DemoteVoter {
        /// Who.
        id: ServerId,
    },
    /// Removes a member.
    RemoveServer {
        /// Who.
        id: ServerId,
    },
}

/// A configuration together with the index of the entry that carries it (zero: none yet).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store or a transport keeps all of it: it has to learn of a new field, not to lose it"
)]
pub struct IndexedConfiguration {
    /// Where in the log it stands; what a compare-and-set change names as its `prev_index`.
    pub index: LogIndex,
    /// The members.
    pub configuration: Configuration,
}

/// Why a configuration is not acceptable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidConfiguration {
    /// Nobody could ever be elected.
    #[error("a configuration needs at least one voter")]
    NoVoter,
    /// A server without identity.
    #[error("the server at address {address:?} has an empty id")]
    EmptyId {
        /// The address that was given with it.
        address: ServerAddress,
    },
    /// A server nobody could dial.
    #[error("server {id:?} has an empty address")]
    EmptyAddress {
        /// Whose address.
        id: ServerId,
    },
    /// An id or address of more bytes than messages have room for.
    #[error("the id or address that begins with {beginning:?} has more than {max} bytes")]
    TooLong {
        /// Its first characters.
        beginning: String,
        /// The limit.
        max: usize,
    },
    /// Two servers with one identity.
    #[error("server id {id:?} appears twice")]
    DuplicateId {
        /// The id.
        id: ServerId,
    },
    /// Two servers at one address.
    #[error("servers {first:?} and {second:?} share the address {address:?}")]
    DuplicateAddress {
        /// The address.
        address: ServerAddress,
        /// One of them.
        first: ServerId,
        /// The other.
        second: ServerId,
    },
    /// The change names a server that is not a member.
    #[error("server {id:?} is not in the configuration")]
    UnknownServer {
        /// The id.
        id: ServerId,
    },
}

#[cfg(test)]
mod tests;
