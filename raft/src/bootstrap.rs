//! The first configuration of a cluster, written before any server runs.
//!
//! A cluster is born when at least one server finds a configuration in its log: an entry of index 1
//! and term 1, as if a leader of term 1 had written it. Bootstrap **one** server with the full set
//! of voters, or every server with the very same configuration; all others join by themselves or by
//! configuration changes.

use std::{future::Future, hash::BuildHasher};

use crate::{
    configuration::{Configuration, IndexedConfiguration},
    error::BootstrapError,
    log::{Entries, Entry, EntryPayload, LogStore},
    position::LogId,
    snapshot::SnapshotStore,
    stable::{HardState, StableStore},
    store_error::StoreError,
    stored::{LogScan, contradicts, usable_snapshots},
};

/// The log id of the entry that bootstraps a cluster.
const BOOTSTRAP: LogId = LogId { term: crate::Term(1), index: crate::LogIndex(1) };

/// Bootstraps the stores of a server that is not running: its first start will find
/// `configuration` and campaign.
///
/// The server itself need not be a voter of the configuration, nor a member at all. Two writes are
/// made, the term and then the entry. A crash between them leaves stores that still count as not
/// bootstrapped, so that the call can simply be repeated.
///
/// The cluster gets its [identity](crate::ClusterId) here: a random one if there is one server only;
/// otherwise a checksum of the members, so that every server that is bootstrapped with the same ones
/// belongs to the same cluster, and one that is bootstrapped with others to another.
/// [`Configuration::with_cluster`] gives it one of your own.
///
/// # Errors
/// [`BootstrapError::InvalidConfiguration`] and [`BootstrapError::AlreadyBootstrapped`] when nothing
/// was changed; [`BootstrapError::Store`] when a store failed: mend it and repeat the call.
///
/// # Cancel safety
/// A future dropped before it ends leaves what a crash would leave.
pub async fn bootstrap_cluster(
    log_store: &mut dyn LogStore,
    stable_store: &mut dyn StableStore,
    snapshot_store: &dyn SnapshotStore,
    configuration: Configuration,
) -> Result<(), BootstrapError> {
    configuration.validate()?;
    if has_existing_state(log_store, stable_store, snapshot_store).await? {
        return Err(BootstrapError::AlreadyBootstrapped);
    }
    let LogId { term, index } = BOOTSTRAP;
    stable_store.save_hard_state(&HardState { current_term: term, voted_for: None }).await?;
    let salt = std::hash::RandomState::new().hash_one(configuration.servers().len());
    let payload = EntryPayload::Configuration(configuration.founding(salt));
    log_store.append(&[Entries::new(vec![Entry { term, index, payload }])]).await?;
    Ok(())
}

/// The newest configuration in the stores of a server that is not running, committed or not: the one
/// that will be in force when it starts. Of a server without any it is empty, of index 0. Nothing is
/// changed, and no state machine is needed.
///
/// # Errors
/// [`StoreError`] when a store cannot be read, or the log has a gap.
pub fn read_configuration(
    log_store: &dyn LogStore,
    snapshot_store: &dyn SnapshotStore,
) -> impl Future<Output = Result<IndexedConfiguration, StoreError>> + Send {
    // As below.
    let reader = log_store.reader();
    async move {
        // Newest first. Whether its data can be read does not matter here.
        let (usable, _) = usable_snapshots(&*reader, snapshot_store).await?;
        let newest = usable.into_iter().next();
        let (snapshot, mut configuration) =
            newest.map(|meta| (meta.last, meta.configuration)).unwrap_or_default();
        let Some((first, last)) = reader.bounds().await? else { return Ok(configuration) };
        if contradicts(&*reader, (first, last), snapshot).await? {
            // What is left of a log that the next start drops.
            return Ok(configuration);
        }
        let mut scan = LogScan::new(&*reader, first.max(snapshot.index.next()), last);
        while let Some(entries) = scan.next().await? {
            for entry in entries.iter() {
                if let EntryPayload::Configuration(members) = &entry.payload {
                    let (index, members) = (entry.index, members.clone());
                    configuration = IndexedConfiguration { index, configuration: members };
                }
            }
        }
        Ok(configuration)
    }
}

/// Whether the stores of a server that is not running hold anything of a cluster: an entry, a
/// snapshot, a vote, or a term beyond 1.
///
/// Term 1 alone is what a bootstrap leaves that was cut short. It proves nothing: a server that has
/// heard of a bootstrapped cluster has at least term 2, in which its first leader was elected.
///
/// # Errors
/// [`StoreError`] when a store cannot be read.
pub fn has_existing_state(
    log_store: &dyn LogStore,
    stable_store: &mut dyn StableStore,
    snapshot_store: &dyn SnapshotStore,
) -> impl Future<Output = Result<bool, StoreError>> + Send {
    // Taken before the future begins: a `&dyn LogStore` could not be kept across an await, because
    // a store need not be `Sync`.
    let reader = log_store.reader();
    async move {
        let hard_state = stable_store.hard_state().await?.unwrap_or_default();
        Ok(BOOTSTRAP.term < hard_state.current_term
            || hard_state.voted_for.is_some()
            || reader.bounds().await?.is_some()
            || !snapshot_store.list().await?.is_empty())
    }
}
