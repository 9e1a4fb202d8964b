//! The settings of a transport, and the check that they can work.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use raft::{ConfigError, ServerAddress};
use serde::{Deserialize, Serialize};

/// The longest server or cluster id, in bytes.
pub const MAX_ID_BYTES: usize = 255;

/// The longest address, in bytes.
pub(crate) const MAX_ADDRESS_BYTES: usize = 512;

/// The settings of a [`TcpTransport`](crate::TcpTransport): start from [`TcpOptions::new`] and
/// change what differs.
///
/// ```
/// use raft_tcp::TcpOptions;
///
/// let mut options = TcpOptions::new("0.0.0.0:7000", "orders");
/// options.advertise = Some("node-1.example:7000".to_owned());
/// options.validate()?;
/// # Ok::<(), raft::ConfigError>(())
/// ```
///
/// They can be read from a file, as [`Config`](raft::Config) can: lengths of time are numbers of seconds,
/// what is absent has its default (`bind` and `cluster_id` an empty one, which
/// [`validate`](Self::validate) refuses), and a name that is unknown is an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default = "TcpOptions::unnamed", deny_unknown_fields)]
#[non_exhaustive]
pub struct TcpOptions {
    /// Where to listen, `host:port`; an IPv6 address stands in brackets. Port 0 lets the system
    /// choose one.
    pub bind: String,
    /// The address the other servers dial, `host:port`: what belongs into the configuration of the
    /// cluster. `None` (default) takes `bind`, with the port that was bound. It is refused when
    /// nobody could dial it: an empty host, port 0, or an unspecified address (`0.0.0.0`, `[::]`).
    pub advertise: Option<String>,
    /// The name of the cluster: connections from and to servers of another cluster are refused.
    /// 1 to 255 bytes; the same on all servers.
    pub cluster_id: String,
    /// How long dialling may take, name lookup included; all addresses of a name get their turn in this
    /// time. Default 1 s; 10 ms to 1 min.
    #[serde(rename = "connect_timeout_seconds", with = "raft::seconds")]
    pub connect_timeout: Duration,
    /// How long the handshake may take, on both sides. Default 1 s; 10 ms to 1 min.
    #[serde(rename = "handshake_timeout_seconds", with = "raft::seconds")]
    pub handshake_timeout: Duration,
    /// A connection over which nothing is heard for this long is closed. Both sides send a sign of
    /// life every quarter of it, so that only a dead connection is silent. A peer that is alive but
    /// takes no messages is not silent: that is back-pressure. The same on all servers, or nearly.
    /// Default 2 s; 40 ms to 1 h.
    #[serde(rename = "idle_timeout_seconds", with = "raft::seconds")]
    pub idle_timeout: Duration,
    /// How long to wait before the first attempt to reach a lost peer again; each further wait is
    /// twice as long. Also the least time between two attempts. Default 20 ms; 1 ms to 1 min.
    #[serde(rename = "backoff_min_seconds", with = "raft::seconds")]
    pub backoff_min: Duration,
    /// The longest wait between two attempts. Default 500 ms; `backoff_min` to 1 h.
    #[serde(rename = "backoff_max_seconds", with = "raft::seconds")]
    pub backoff_max: Duration,
    /// Messages waiting in the urgent lane to one peer at most. Default 1024; 1 to 65,536.
    pub urgent_queue: usize,
    /// Messages waiting in the entries lane to one peer at most. Default 64; 1 to 65,536.
    pub entries_queue: usize,
    /// Bytes of entries, and of pieces of a snapshot, waiting in one lane to one peer at most;
    /// entries are counted as by [`Entries::cost_bytes`](raft::Entries::cost_bytes). A single
    /// message always fits into an empty lane. Default 16 MiB; 1 KiB to 1 GiB.
    pub queue_bytes: u64,
    /// The longest message in bytes of payload; for a piece of a snapshot, the configuration that
    /// comes with it does not count. A received frame that announces more closes its connection; a
    /// message that is longer is not sent. It must be larger than `Config::max_append_bytes`,
    /// `Config::max_command_bytes` and `Config::snapshot_chunk_bytes` of all servers by 4 KiB; of
    /// this server's own settings, `Raft::new` checks it.
    /// Default 16 MiB; 4 KiB to 1 GiB.
    pub max_frame_bytes: u64,
    /// Connections from other servers (and strangers) at most; each peer takes two. Further ones
    /// are refused. Default 1024; 2 to 65,536.
    pub max_inbound: usize,
}

impl TcpOptions {
    /// The default settings.
    #[must_use]
    pub fn new(bind: impl Into<String>, cluster_id: impl Into<String>) -> Self {
        Self {
            bind: bind.into(),
            advertise: None,
            cluster_id: cluster_id.into(),
            connect_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(2),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_millis(500),
            urgent_queue: 1024,
            entries_queue: 64,
            queue_bytes: 16 << 20,
            max_frame_bytes: 16 << 20,
            max_inbound: 1024,
        }
    }

    /// What a file that names neither leaves.
    fn unnamed() -> Self {
        Self::new("", "")
    }

    /// These settings after `change`, for use within an expression.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Checks every rule that can be checked before listening.
    ///
    /// # Errors
    /// [`ConfigError`] names the first field that breaks its rule, and the rule.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let (ms, minute, hour) =
            (Duration::from_millis, Duration::from_secs(60), Duration::from_secs(3600));
        if let Err(reason) = split(&self.bind) {
            let rule = format!("must be host:port, but {:?} {reason}", self.bind);
            return Err(ConfigError::new("bind", rule));
        }
        if let Some(address) = &self.advertise {
            check_dialable(address)?;
        }
        within("cluster_id", self.cluster_id.len(), 1, MAX_ID_BYTES, " bytes long")?;
        within("connect_timeout", self.connect_timeout, ms(10), minute, "")?;
        within("handshake_timeout", self.handshake_timeout, ms(10), minute, "")?;
        within("idle_timeout", self.idle_timeout, ms(40), hour, "")?;
        within("backoff_min", self.backoff_min, ms(1), minute, "")?;
        within("backoff_max", self.backoff_max, self.backoff_min, hour, "")?;
        within("urgent_queue", self.urgent_queue, 1, 65_536, " messages")?;
        within("entries_queue", self.entries_queue, 1, 65_536, " messages")?;
        within("queue_bytes", self.queue_bytes, 1 << 10, 1 << 30, " bytes")?;
        within("max_frame_bytes", self.max_frame_bytes, 4 << 10, 1 << 30, " bytes")?;
        within("max_inbound", self.max_inbound, 2, 65_536, " connections")
    }

    /// The address others dial, once `bound` is known.
    pub(crate) fn advertised(&self, bound: SocketAddr) -> Result<ServerAddress, ConfigError> {
        let address = match &self.advertise {
            Some(address) => address.clone(),
            None => match split(&self.bind) {
                // A name stays a name: what it stands for may change.
                Ok((host, _)) if ip(host).is_none() => format!("{host}:{}", bound.port()),
                _ => bound.to_string(),
            },
        };
        check_dialable(&address)?;
        Ok(ServerAddress::from(address))
    }

    pub(crate) fn max_frame_bytes(&self) -> usize {
        usize::try_from(self.max_frame_bytes).unwrap_or(usize::MAX)
    }

    /// How often each side of a connection shows that it is alive.
    pub(crate) fn alive_interval(&self) -> Duration {
        self.idle_timeout / 4
    }
}

fn check_dialable(address: &str) -> Result<(), ConfigError> {
    let refuse = |reason: &str| {
        let rule = format!(
            "must be an address the other servers can dial, but {address:?} {reason}; give the \
             host:port by which they reach this server"
        );
        Err(ConfigError::new("advertise", rule))
    };
    match split(address) {
        Err(reason) => refuse(&reason),
        Ok(_) if address.len() > MAX_ADDRESS_BYTES => refuse("has more than 512 bytes"),
        Ok((_, 0)) => refuse("has port 0"),
        Ok((host, _)) if ip(host).is_some_and(|ip| ip.to_canonical().is_unspecified()) => {
            refuse("is an unspecified address")
        }
        Ok(_) => Ok(()),
    }
}

/// Host and port of `host:port`, or what is wrong with it. The host of an IPv6 address keeps its
/// brackets.
fn split(address: &str) -> Result<(&str, u16), String> {
    let Some((host, port)) = address.rsplit_once(':') else {
        return Err("has no port".to_owned());
    };
    if host.is_empty() {
        return Err("has no host".to_owned());
    }
    if host.contains(':') && ip(host).is_none() {
        return Err("is not an IPv6 address in brackets".to_owned());
    }
    match port.parse() {
        Ok(port) => Ok((host, port)),
        Err(_) => Err(format!("has the port {port:?}")),
    }
}

/// The IP address a host is, if it is not a name.
fn ip(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse().ok().map(IpAddr::V6),
        None => host.parse().ok().map(IpAddr::V4),
    }
}

fn within<T: PartialOrd + std::fmt::Debug>(
    field: &'static str,
    value: T,
    min: T,
    max: T,
    unit: &str,
) -> Result<(), ConfigError> {
    if min <= value && value <= max {
        return Ok(());
    }
    Err(ConfigError::new(field, format!("must be {min:?} to {max:?}{unit}, but is {value:?}")))
}

#[cfg(test)]
mod tests;
