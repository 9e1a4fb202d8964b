//! What a server does before it starts: it reads back what it has saved, and learns which disk that
//! was, or gives it a number if it is a new one.
//!
//! **Snapshot and log.** The log must go on where the state begins, or entries would be missing that
//! were acknowledged (law 7): then the start is refused. One mismatch is what a crash may leave, in
//! the moment between finishing a snapshot that the leader has sent, or a restore made, and resetting
//! the log for it: a log that does not contain the snapshot's last entry. The reset is made up for
//! here, and so is the snapshot's term, which may not have been saved; unless the log goes on into
//! later terms, see [`usable_snapshots`].

use std::time::Duration;

use rand::RngExt;
use rand_pcg::Pcg64Mcg;

use crate::{
    clock::Clock,
    configuration::{IndexedConfiguration, ServerId},
    consensus::{Saved, Time},
    error::StartError,
    fsm::Fsm,
    log::{EntryPayload, LogReader, LogStore},
    machine::{Host, restore_snapshot},
    position::{LogId, LogIndex, Term},
    snapshot::{SnapshotMeta, SnapshotStore},
    stable::{DiskIdentity, HardState, StableStore},
    store_error::StoreError,
    stored::{LogScan, contradicts, gap, is_replaced, usable_snapshots},
};

/// What was found in the stores.
pub(super) struct Restored<F> {
    /// The state machine in the state of the snapshot, or as it was given.
    pub(super) host: Host<F>,
    pub(super) hard_state: HardState,
    pub(super) saved: Saved,
    /// The last entry covered by the newest snapshot.
    pub(super) snapshot: LogId,
    /// The last entry the state machine has seen: that of the snapshot, or a later one that it has
    /// kept by itself.
    pub(super) applied: LogId,
    /// The configuration at that entry.
    pub(super) configuration: IndexedConfiguration,
    /// The first and last index of the log.
    pub(super) bounds: (LogIndex, LogIndex),
    /// The bytes of the entries in the log that the snapshot covers.
    pub(super) covered_bytes: u64,
    /// The size of the snapshot.
    pub(super) snapshot_bytes: Option<u64>,
    /// How long the restore took, if there was one.
    pub(super) took: Option<Duration>,
}

/// Reads term and vote, the newest usable snapshot, and the log.
pub(super) async fn restore<F: Fsm>(
    fsm: F,
    restore_on_start: bool,
    log_store: &mut impl LogStore,
    stable_store: &mut impl StableStore,
    snapshot_store: &dyn SnapshotStore,
) -> Result<Restored<F>, StartError> {
    let mut hard_state = stable_store.hard_state().await?.unwrap_or_default();
    let mut kept = if restore_on_start { None } else { Some(fsm.last_applied()) };
    let mut host = Host::new(fsm);
    let clock = Clock::new();
    let reader = log_store.reader();
    let (snapshots, void) = usable_snapshots(&*reader, snapshot_store).await?;
    for SnapshotMeta { id, last, .. } in void {
        tracing::warn!(%id, %last, "a snapshot that was never adopted is removed");
        snapshot_store.remove(&id).await?;
    }
    let newest = snapshots.iter().map(|meta| meta.last).max().unwrap_or_default();
    let meta = restore_snapshot(&mut host, &mut kept, snapshot_store, snapshots).await?;
    let took = clock.now().since(Time(0));
    let took = meta.is_some().then_some(took).filter(|_| kept.is_none());
    let snapshot_bytes = meta.as_ref().map(|meta| meta.size_bytes);
    let (snapshot, configuration) =
        meta.map(|meta| (meta.last, meta.configuration)).unwrap_or_default();
    let mut saved = Saved::new(hard_state.clone(), snapshot, configuration.clone());
    let empty = (snapshot.index.next(), snapshot.index);
    let (mut first, mut last) = reader.bounds().await?.unwrap_or(empty);
    let is_behind = last.max(snapshot.index) < newest.index;
    if snapshot.index.next() < first || is_behind || is_replaced(snapshot, newest) {
        return Err(gap(snapshot, newest).into());
    }
    if contradicts(&*reader, (first, last), snapshot).await? {
        // The term first: once the log is gone, nothing would show that it was to be raised.
        if hard_state.current_term < snapshot.term {
            hard_state = HardState { current_term: snapshot.term, voted_for: None };
            stable_store.save_hard_state(&hard_state).await?;
            saved = Saved::new(hard_state.clone(), snapshot, configuration.clone());
        }
        log_store.truncate_prefix(LogIndex(u64::MAX)).await?;
        (first, last) = empty;
    }
    let applied = kept.unwrap_or_default().max(snapshot.index);
    if last < applied {
        return Err(StartError::AheadOfLog { applied, last });
    }
    let mut scan = Scan { applied: snapshot, configuration, covered_bytes: 0 };
    scan.run(&*reader, (first, last), (snapshot.index, applied), &mut saved).await?;
    let Scan { applied, configuration, covered_bytes } = scan;
    let newest = saved.last();
    if hard_state.current_term < newest.term {
        return Err(lost_term(hard_state.current_term, newest).into());
    }
    saved.committed(reader.noted_commit().await?.unwrap_or_default());
    saved.applied(applied.index);
    let bounds = (first, last);
    Ok(Restored {
        host,
        hard_state,
        saved,
        snapshot,
        applied,
        configuration,
        bounds,
        covered_bytes,
        snapshot_bytes,
        took,
    })
}

/// Which disk this is, and which start from it, made durable before anything is sent; zeros if the store
/// keeps neither. A new disk gets a random number. Equal seeds give equal numbers to servers of the same
/// id, so that a run can be repeated.
pub(super) async fn identity(
    stable_store: &mut impl StableStore,
    id: &ServerId,
    seed: u64,
) -> Result<(DiskIdentity, u64), StartError> {
    let stream = u128::from(crc32fast::hash(id.as_str().as_bytes()));
    let mut rng = Pcg64Mcg::new(u128::from(seed) << 64 | stream << 32 | 0xd15c);
    let number: u64 = rng.random_range(1..=u64::MAX);
    let known = stable_store.disk_identity().await?;
    let made = |incarnation| DiskIdentity {
        server: id.clone(),
        incarnation,
        starts: 0,
        was_rolled_back: false,
    };
    let mut identity = known.unwrap_or_else(|| made(number));
    if identity.server.as_str().is_empty() {
        // Made before stores noted whose they are.
        identity.server = id.clone();
    }
    if identity.server != *id {
        return Err(StartError::WrongServer { owner: identity.server, given: id.clone() });
    }
    identity.starts += 1;
    stable_store.save_disk_identity(&identity).await?;
    // A store that keeps none has none now either.
    match stable_store.disk_identity().await? {
        None => Ok((made(0), 0)),
        Some(identity) => {
            let life = u64::from(identity.starts) << 32 | u64::from(rng.random::<u32>());
            Ok((identity, life))
        }
    }
}

fn lost_term(term: Term, newest: LogId) -> StoreError {
    let reason = format!(
        "the log ends with {newest}: the two stores do not belong together, or the term was lost; \
         use the stores this server ran with, or set it up anew from its peers"
    );
    StoreError::corrupt(format!("the saved term {term}"), reason)
}

/// What the log says beside its entries.
struct Scan {
    /// The last entry the state machine has seen, and the configuration at that entry.
    applied: LogId,
    configuration: IndexedConfiguration,
    covered_bytes: u64,
}

impl Scan {
    /// Shows the core every entry of the log.
    async fn run(
        &mut self,
        reader: &dyn LogReader,
        (first, last): (LogIndex, LogIndex),
        (snapshot, applied): (LogIndex, LogIndex),
        saved: &mut Saved,
    ) -> Result<(), StartError> {
        let mut scan = LogScan::new(reader, first, last);
        while let Some(entries) = scan.next().await? {
            saved.push(&entries);
            self.covered_bytes += entries.within(LogIndex::ZERO..=snapshot).cost_bytes();
            for entry in entries.within(snapshot.next()..=applied).iter() {
                self.applied = entry.id();
                if let EntryPayload::Configuration(members) = &entry.payload {
                    let (index, configuration) = (entry.index, members.clone());
                    self.configuration = IndexedConfiguration { index, configuration };
                }
            }
        }
        Ok(())
    }
}
