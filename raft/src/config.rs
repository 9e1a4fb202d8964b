//! The settings of a server. Membership is [`Configuration`](crate::Configuration).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::configuration::ServerId;

/// The settings of a server: start from [`Config::new`] and change what differs.
///
/// Every queue and every timer of the library has its bound here.
///
/// [`Raft::reload_config`](crate::Raft::reload_config) changes the settings of a running server, all
/// but these: `local_id`, `apply_queue`, `apply_queue_bytes`, `rpc_queue`, `rpc_queue_bytes`
/// and `restore_on_start`.
///
/// Settings may be added in any release. A program makes them with [`Config::new`] and assigns to the
/// fields, or does so within an expression with [`Config::with`]; the options of stores, transports and
/// the autopilot are made in the same way.
///
/// ```
/// use std::time::Duration;
///
/// let mut config = raft::Config::new("a");
/// config.heartbeat_interval = Duration::from_millis(50);
/// config.validate()?;
///
/// let same = raft::Config::new("a").with(|it| it.heartbeat_interval = Duration::from_millis(50));
/// assert_eq!(config, same);
/// # Ok::<(), raft::ConfigError>(())
/// ```
///
/// # In a file
/// Settings can be read from what they are serialised to, in any format of serde. Lengths of time are
/// numbers of seconds, and their names end in `_seconds`: `election_timeout` becomes
/// `election_timeout_seconds`. What is absent has its default, also `local_id`, whose default is
/// empty and therefore has to be set before the start; a name that is unknown is an error. Reading
/// does not check the rules, [`Config::validate`] does and names the setting.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let file = r#"{ "local_id": "a", "election_timeout_seconds": 2.5, "trailing_logs": 50000 }"#;
/// let config: raft::Config = serde_json::from_str(file)?;
/// config.validate()?;
///
/// let misspelt = serde_json::from_str::<raft::Config>(r#"{ "trailing_log": 50000 }"#);
/// assert!(misspelt.unwrap_err().to_string().starts_with("unknown field `trailing_log`"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default = "Config::without_id", deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// Who this server is. Not empty; must never change for a data directory.
    pub local_id: ServerId,
    /// How long a follower waits without hearing from a leader before it campaigns; a random
    /// amount up to the same length again is added. Also how long a leadership transfer may take.
    /// Default 1 s; 10 ms to 1 h, at least three `heartbeat_interval`s. Smaller finds a dead
    /// leader sooner but elects needlessly when the network or a process stalls.
    #[serde(rename = "election_timeout_seconds", with = "crate::seconds")]
    pub election_timeout: Duration,
    /// How often a leader tells everyone that it leads. Default 100 ms; at least 1 ms.
    #[serde(rename = "heartbeat_interval_seconds", with = "crate::seconds")]
    pub heartbeat_interval: Duration,
    /// A leader that has not heard from a majority for this long, counted from when it *sent* what
    /// they answered, steps down. Default 500 ms; at least two `heartbeat_interval`s, at most
    /// `election_timeout`.
    #[serde(rename = "leader_lease_timeout_seconds", with = "crate::seconds")]
    pub leader_lease_timeout: Duration,
    /// A server whose oldest log write has been under way for longer than this does not campaign,
    /// and steps down if it leads: its disk is stuck. Default 3 s; at least `election_timeout`.
    #[serde(rename = "write_stall_timeout_seconds", with = "crate::seconds")]
    pub write_stall_timeout: Duration,
    /// A leader whose state machine, for this long, has not applied what was known to be committed an
    /// [`election_timeout`](Self::election_timeout) before, hands leadership over, if that of another voter
    /// has: it stands still, loads a snapshot, or is too slow. Until then commands wait for it. Default
    /// 10 s; at least `election_timeout`.
    #[serde(rename = "apply_stall_timeout_seconds", with = "crate::seconds")]
    pub apply_stall_timeout: Duration,
    /// Whether a server asks for votes before it raises its term (thesis §9.6), so that one that
    /// was cut off does not depose a healthy leader. Default true.
    pub pre_vote: bool,
    /// Entries in one `AppendEntries` message at most. Default 1024; 1 to 65,536.
    pub max_append_entries: usize,
    /// Bytes of entries in one `AppendEntries` message at most, except that one entry always fits.
    /// Default 1 MiB; at least 1 KiB.
    pub max_append_bytes: u64,
    /// `AppendEntries` messages under way to one follower at most. Default 32; 1 to 1024.
    pub max_inflight_appends: usize,
    /// Bytes of entries under way to one follower at most. Default 8 MiB; at least
    /// `max_append_bytes`.
    pub max_inflight_bytes: u64,
    /// The largest command, in bytes. Larger ones are refused. Default 1 MiB; 1 byte to 64 MiB. A
    /// transport with a limit of its own must allow a little more.
    pub max_command_bytes: u64,
    /// Commands, batches and barriers waiting to be taken up by the `run` task at most, and as many
    /// requests of other kinds. Default 65,536; at least 1. When it is full, `apply` waits.
    pub apply_queue: usize,
    /// The same in bytes of commands, each with a fixed overhead of 32 bytes; what is smaller than its
    /// share, `apply_queue_bytes / apply_queue`, counts as that much. A batch of commands that
    /// is larger waits until the queue is empty, and then enters. Default 64 MiB; `max_command_bytes`
    /// to 2 GiB.
    pub apply_queue_bytes: u64,
    /// Received messages waiting to be taken up by the `run` task at most, in each of the inbox's two
    /// lanes (entries, everything else). Default 1024; at least 16.
    pub rpc_queue: usize,
    /// The same in bytes of entries, in the lane that has them. A message that is larger (its sender
    /// may have other settings) waits until the lane is empty, and then enters. Default 64 MiB;
    /// `max_append_bytes` and `max_command_bytes` to 2 GiB.
    pub rpc_queue_bytes: u64,
    /// How long a command, batch or barrier may wait to be taken up, in front of a full queue or in the
    /// queue of a leader that has no room for more entries, before it is refused with `EnqueueTimeout`;
    /// and any other request for a place in the queue. Default 5 s; at least 1 ms. A request that was
    /// taken up is not bounded by this.
    #[serde(rename = "enqueue_timeout_seconds", with = "crate::seconds")]
    pub enqueue_timeout: Duration,
    /// A leader with this many entries accepted but not applied takes up no more commands, batches and
    /// barriers until some are. Default 65,536; at least 1.
    pub max_unapplied_entries: u64,
    /// The same in bytes of entries. Default 64 MiB; at least 1 KiB.
    pub max_unapplied_bytes: u64,
    /// Log writes accepted but not durable at most; with more, the server takes up neither commands
    /// nor messages with entries. Default 256; at least 16.
    pub max_pending_writes: usize,
    /// Bytes of recent entries kept in memory beside the store, so that followers and the state
    /// machine rarely read the disk. Entries not yet durable are kept whatever this says (they are
    /// bounded by the settings above). Default 16 MiB; may be 0.
    pub log_cache_bytes: u64,
    /// Entries handed to the state machine in one batch at most. Default 1024; at least 1.
    pub max_apply_batch: usize,
    /// How long the state machine may be busy with one batch, by what its entries have taken so far:
    /// if they are slow, batches have fewer of them. A [shutdown](crate::Raft::shutdown) and a
    /// [snapshot](crate::Raft::snapshot) wait for the batch under way, and so do the answers to it. What
    /// a batch takes however small it is (a transaction, a sync) is not counted, and neither are the
    /// first slow entries after fast ones. Default 100 ms; at least 1 ms.
    #[serde(rename = "max_apply_time_seconds", with = "crate::seconds")]
    pub max_apply_time: Duration,
    /// Entries kept in the log behind the newest snapshot, so that a server that is a little behind
    /// is spared the snapshot. Default 10,240; may be 0.
    pub trailing_logs: u64,
    /// While a snapshot is being sent, and until the receiver has come as far as the newest one, the
    /// entries after it are kept too, so that the receiver can go on from there; but not if more than
    /// this many have come since. Default 1,048,576; may be 0.
    pub max_held_entries: u64,
    /// How often this server looks whether a snapshot is due; a random amount up to the same length
    /// again is added, so that servers do not all start at once. Default 120 s; at least 1 ms.
    #[serde(rename = "snapshot_interval_seconds", with = "crate::seconds")]
    pub snapshot_interval: Duration,
    /// A snapshot is due when this many entries have been applied since the last one. Default
    /// 8192; at least 1.
    pub snapshot_threshold: u64,
    /// A snapshot is due, before the interval is over, when the log has grown by this many bytes
    /// since the last one; a random amount up to a quarter is added. Default 256 MiB; at least
    /// 1 KiB.
    pub snapshot_threshold_bytes: u64,
    /// Bytes of a snapshot sent in one message. Default 256 KiB; 1 KiB to 64 MiB. A transport with
    /// a limit of its own must allow it. Reloaded, it counts from the next snapshot on.
    pub snapshot_chunk_bytes: u64,
    /// Bytes of a snapshot sent to one follower in a second, at most. 0 (default) sets no limit; at
    /// least 1 KiB otherwise.
    pub snapshot_bytes_per_second: u64,
    /// Whether the newest snapshot is restored into the state machine at start. Default true.
    /// Without it the state machine must keep its own state: see
    /// [`Fsm::last_applied`](crate::Fsm::last_applied).
    pub restore_on_start: bool,
    /// Whether [`Raft::add_voter`](crate::Raft::add_voter) makes a new server a voter as soon as it has
    /// answered once, whatever it lacks; the model does not wait for that either. Default false: it
    /// catches up as a nonvoter first. Until it has, a failure of one of the others may cost the
    /// cluster its majority.
    pub add_voters_at_once: bool,
    /// A new server has caught up when its log lacks at most this many entries and its state machine has
    /// applied what was known to be committed an `election_timeout` ago. Default 1000; may be 0.
    pub catch_up_lag: u64,
    /// How long a new server may take to catch up. Default 10 min; at least 1 ms.
    #[serde(rename = "catch_up_timeout_seconds", with = "crate::seconds")]
    pub catch_up_timeout: Duration,
    /// Whether the server ends when it learns that it was removed from its cluster, with
    /// [`Fatal::Removed`](crate::Fatal::Removed). Default true.
    pub shutdown_on_remove: bool,
    /// Seed of the random election timeouts, and of the incarnation of a new disk. `None` derives one
    /// from the id and the system's randomness. Private because equal seeds can cost safety: see
    /// `with_seed`.
    #[serde(skip)]
    pub(crate) seed: Option<u64>,
}

impl Config {
    /// The default settings for a server with this id.
    #[must_use]
    pub fn new(local_id: impl Into<ServerId>) -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            local_id: local_id.into(),
            election_timeout: Duration::from_secs(1),
            heartbeat_interval: Duration::from_millis(100),
            leader_lease_timeout: Duration::from_millis(500),
            write_stall_timeout: Duration::from_secs(3),
            apply_stall_timeout: Duration::from_secs(10),
            pre_vote: true,
            max_append_entries: 1024,
            max_append_bytes: MIB,
            max_inflight_appends: 32,
            max_inflight_bytes: 8 * MIB,
            max_command_bytes: MIB,
            apply_queue: 65_536,
            apply_queue_bytes: 64 * MIB,
            rpc_queue: 1024,
            rpc_queue_bytes: 64 * MIB,
            enqueue_timeout: Duration::from_secs(5),
            max_unapplied_entries: 65_536,
            max_unapplied_bytes: 64 * MIB,
            max_pending_writes: 256,
            log_cache_bytes: 16 * MIB,
            max_apply_batch: 1024,
            max_apply_time: Duration::from_millis(100),
            trailing_logs: 10_240,
            max_held_entries: 1 << 20,
            snapshot_interval: Duration::from_secs(120),
            snapshot_threshold: 8192,
            snapshot_threshold_bytes: 256 * MIB,
            snapshot_chunk_bytes: MIB / 4,
            snapshot_bytes_per_second: 0,
            restore_on_start: true,
            add_voters_at_once: false,
            catch_up_lag: 1000,
            catch_up_timeout: Duration::from_secs(600),
            shutdown_on_remove: true,
            seed: None,
        }
    }

    /// What a file that does not name the server leaves.
    fn without_id() -> Self {
        Self::new("")
    }

    /// These settings after `change`, for use within an expression.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// These settings with a seed for the random election timeouts and for the incarnation of a new
    /// disk ([`StableStore::disk_identity`](crate::StableStore::disk_identity)), which makes a run
    /// repeatable. For tests: without it the seed is derived from the id and the system's randomness.
    /// Each disk needs a seed of its own, because with an equal one a server that has lost its disk is
    /// taken for what it was before, and may vote twice.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed: Some(seed), ..self }
    }

    /// These settings with every timeout of the protocol multiplied by `factor`: `heartbeat_interval`,
    /// `election_timeout`, `leader_lease_timeout`, `write_stall_timeout` and `apply_stall_timeout`.
    /// With more than 1 for slow networks and busy machines. How long callers, snapshots and new
    /// servers may take is not changed.
    ///
    /// # Errors
    /// [`ConfigError`] if `factor` is not a positive number, or names the first setting that would
    /// break its rule.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let config = raft::Config::new("a").scale_timeouts(5.0)?;
    /// assert_eq!(config.election_timeout, Duration::from_secs(5));
    /// assert_eq!(config.heartbeat_interval, Duration::from_millis(500));
    /// # Ok::<(), raft::ConfigError>(())
    /// ```
    pub fn scale_timeouts(mut self, factor: f64) -> Result<Self, ConfigError> {
        let broken = |field, rule| ConfigError { field, rule };
        if !(factor.is_finite() && 0.0 < factor) {
            return Err(broken("factor", format!("must be a positive number, but is {factor}")));
        }
        for (field, timeout) in [
            ("heartbeat_interval", &mut self.heartbeat_interval),
            ("election_timeout", &mut self.election_timeout),
            ("leader_lease_timeout", &mut self.leader_lease_timeout),
            ("write_stall_timeout", &mut self.write_stall_timeout),
            ("apply_stall_timeout", &mut self.apply_stall_timeout),
        ] {
            *timeout =
                Duration::try_from_secs_f64(timeout.as_secs_f64() * factor).map_err(|reason| {
                    broken(field, format!("cannot be scaled by {factor}: {reason}"))
                })?;
        }
        self.validate()?;
        Ok(self)
    }

    /// Checks every rule.
    ///
    /// # Errors
    /// [`ConfigError`] names the first field that breaks its rule, and the rule.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.local_id.as_str().is_empty() {
            return Err(ConfigError { field: "local_id", rule: "must not be empty".to_owned() });
        }
        let ms = Duration::from_millis;
        let hour = Duration::from_secs(3600);
        within("heartbeat_interval", self.heartbeat_interval, ms(1), hour)?;
        within("election_timeout", self.election_timeout, ms(10), hour)?;
        within("election_timeout", self.election_timeout, 3 * self.heartbeat_interval, hour)?;
        let lease = self.leader_lease_timeout;
        within("leader_lease_timeout", lease, 2 * self.heartbeat_interval, self.election_timeout)?;
        within("write_stall_timeout", self.write_stall_timeout, self.election_timeout, 24 * hour)?;
        within("apply_stall_timeout", self.apply_stall_timeout, self.election_timeout, 24 * hour)?;
        within("max_append_entries", self.max_append_entries, 1, 65_536)?;
        within("max_append_bytes", self.max_append_bytes, 1 << 10, 1 << 30)?;
        within("max_inflight_appends", self.max_inflight_appends, 1, 1024)?;
        within("max_inflight_bytes", self.max_inflight_bytes, self.max_append_bytes, 1 << 34)?;
        within("max_command_bytes", self.max_command_bytes, 1, 64 << 20)?;
        within("apply_queue", self.apply_queue, 1, 1 << 20)?;
        within("apply_queue_bytes", self.apply_queue_bytes, self.max_command_bytes, 1 << 31)?;
        within("rpc_queue", self.rpc_queue, 16, 1 << 20)?;
        let message = self.max_append_bytes.max(self.max_command_bytes);
        within("rpc_queue_bytes", self.rpc_queue_bytes, message, 1 << 31)?;
        within("enqueue_timeout", self.enqueue_timeout, ms(1), 24 * hour)?;
        within("max_unapplied_entries", self.max_unapplied_entries, 1, 1 << 30)?;
        within("max_unapplied_bytes", self.max_unapplied_bytes, 1 << 10, 1 << 40)?;
        within("max_pending_writes", self.max_pending_writes, 16, 1 << 20)?;
        within("log_cache_bytes", self.log_cache_bytes, 0, 1 << 40)?;
        within("max_apply_batch", self.max_apply_batch, 1, 1 << 20)?;
        within("max_apply_time", self.max_apply_time, ms(1), hour)?;
        within("trailing_logs", self.trailing_logs, 0, u64::MAX)?;
        within("max_held_entries", self.max_held_entries, 0, u64::MAX)?;
        within("snapshot_interval", self.snapshot_interval, ms(1), 365 * 24 * hour)?;
        within("snapshot_threshold", self.snapshot_threshold, 1, u64::MAX)?;
        within("snapshot_threshold_bytes", self.snapshot_threshold_bytes, 1 << 10, u64::MAX)?;
        within("snapshot_chunk_bytes", self.snapshot_chunk_bytes, 1 << 10, 64 << 20)?;
        within("catch_up_lag", self.catch_up_lag, 0, u64::MAX)?;
        within("catch_up_timeout", self.catch_up_timeout, ms(1), 365 * 24 * hour)?;
        match self.snapshot_bytes_per_second {
            0 => Ok(()),
            limit => within("snapshot_bytes_per_second", limit, 1 << 10, u64::MAX),
        }
    }

    /// Checks that a running server can go from these settings to `next`.
    pub(crate) fn check_reload(&self, next: &Self) -> Result<(), ConfigError> {
        let fixed = [
            ("local_id", self.local_id == next.local_id),
            ("apply_queue", self.apply_queue == next.apply_queue),
            ("apply_queue_bytes", self.apply_queue_bytes == next.apply_queue_bytes),
            ("rpc_queue", self.rpc_queue == next.rpc_queue),
            ("rpc_queue_bytes", self.rpc_queue_bytes == next.rpc_queue_bytes),
            ("restore_on_start", self.restore_on_start == next.restore_on_start),
            ("seed", self.seed == next.seed),
        ];
        match fixed.into_iter().find(|(_, is_same)| !is_same) {
            None => Ok(()),
            Some((field, _)) => {
                let rule = "cannot change while the server runs".to_owned();
                Err(ConfigError { field, rule })
            }
        }
    }

    /// Checks that everything these settings allow fits into a transport's messages.
    pub(crate) fn validate_for(&self, transport_bytes: u64) -> Result<(), ConfigError> {
        let entry_bytes = |command| crate::EntryPayload::OVERHEAD_BYTES + command;
        let needs = [
            ("max_append_bytes", self.max_append_bytes),
            ("snapshot_chunk_bytes", self.snapshot_chunk_bytes),
            ("max_command_bytes", entry_bytes(self.max_command_bytes)),
        ];
        match needs.into_iter().find(|(_, bytes)| transport_bytes < *bytes) {
            None => Ok(()),
            Some((field, bytes)) => {
                let rule = format!(
                    "allows messages of {bytes} bytes, but the transport carries at most \
                     {transport_bytes}"
                );
                Err(ConfigError { field, rule })
            }
        }
    }
}

/// A setting that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid setting `{field}`: {rule}")]
#[non_exhaustive]
pub struct ConfigError {
    /// The field of [`Config`], or of other settings.
    pub field: &'static str,
    /// The rule it breaks, with the value that broke it.
    pub rule: String,
}

impl ConfigError {
    /// This setting breaks this rule.
    #[must_use]
    pub fn new(field: &'static str, rule: impl Into<String>) -> Self {
        Self { field, rule: rule.into() }
    }
}

fn within<T: PartialOrd + std::fmt::Debug>(
    field: &'static str,
    value: T,
    min: T,
    max: T,
) -> Result<(), ConfigError> {
    if min <= value && value <= max {
        return Ok(());
    }
    Err(ConfigError { field, rule: format!("must be {min:?} to {max:?}, but is {value:?}") })
}

#[cfg(test)]
mod tests;
