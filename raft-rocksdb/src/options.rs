//! The few settings a user may want to change, and the many RocksDB gets because it keeps a log.

use raft::StoreError;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBRecoveryMode, LogLevel, Options,
};
use serde::{Deserialize, Serialize};

use crate::keys;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The settings of a [`RocksStore`](crate::RocksStore). All are about memory and handles; none
/// weakens a guarantee.
///
/// ```
/// let options = raft_rocksdb::RocksOptions::default().with(|it| it.block_cache_bytes = 128 << 20);
/// ```
///
/// They can be read from a file: what is absent has its default, and a name that is unknown is an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RocksOptions {
    /// Bytes of new records gathered in memory before they are sorted into a file. Default 64 MiB;
    /// 64 KiB to 1 GiB. Up to three such buffers exist while the disk is busy, and a start replays
    /// up to about twice as many bytes of write-ahead log.
    pub write_buffer_bytes: usize,
    /// Bytes of file blocks kept in memory for reading at most. Default 32 MiB; 64 KiB to 64 GiB.
    /// It serves followers that are far behind; recent entries are cached by the `raft` crate.
    pub block_cache_bytes: usize,
    /// File handles RocksDB keeps open at most. Default 256; 32 to 65,536.
    pub max_open_files: usize,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self { write_buffer_bytes: 64 * MIB, block_cache_bytes: 32 * MIB, max_open_files: 256 }
    }
}

impl RocksOptions {
    /// These settings after `change`, for use within an expression.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Checks the ranges given at the fields.
    ///
    /// # Errors
    /// [`StoreError::Refused`] names the first setting out of its range, and the range.
    pub fn validate(&self) -> Result<(), StoreError> {
        let ranges = [
            ("write_buffer_bytes", self.write_buffer_bytes, 64 * KIB..=1024 * MIB),
            ("block_cache_bytes", self.block_cache_bytes, 64 * KIB..=64 * 1024 * MIB),
            ("max_open_files", self.max_open_files, 32..=65_536),
        ];
        for (name, value, range) in ranges {
            if !range.contains(&value) {
                let (low, high) = (range.start(), range.end());
                return Err(StoreError::Refused {
                    reason: format!("RocksOptions::{name} is {value}, not from {low} to {high}"),
                });
            }
        }
        Ok(())
    }

    /// The options of the database. `create` allows one to be made where there is none.
    pub(crate) fn database(&self, create: bool) -> Options {
        let mut options = Options::default();
        options.create_if_missing(create);
        options.create_missing_column_families(create);
        durability(&mut options);
        // The few small records beside the entries fill their buffer slowly and keep old log files
        // alive until it is written out, which this forces.
        options.set_max_total_wal_size(2 * self.write_buffer_bytes as u64);
        // At most 65,536.
        options.set_max_open_files(i32::try_from(self.max_open_files).unwrap_or(i32::MAX));
        background(&mut options);
        single_writer(&mut options);
        options
    }

    /// The options of both column families, which share one cache.
    pub(crate) fn column_families(&self) -> [ColumnFamilyDescriptor; 2] {
        let cache = Cache::new_lru_cache(self.block_cache_bytes);
        [keys::META, keys::LOG].map(|name| {
            let mut table = BlockBasedOptions::default();
            // Entries are read in order, many at a time.
            table.set_block_size(16 * KIB);
            table.set_block_cache(&cache);
            let mut options = Options::default();
            options.set_block_based_table_factory(&table);
            options.set_write_buffer_size(self.write_buffer_bytes);
            options.set_max_write_buffer_number(3);
            options.set_level_compaction_dynamic_level_bytes(true);
            ColumnFamilyDescriptor::new(name, options)
        })
    }
}

/// What the guarantees rest on; see the crate's documentation.
fn durability(options: &mut Options) {
    options.set_paranoid_checks(true);
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    // A recycled write-ahead log holds old records behind its tail, which recovery could not tell
    // from damage. RocksDB would turn it off by itself in this recovery mode.
    options.set_recycle_log_file_num(0);
}

fn background(options: &mut Options) {
    // Write background files out steadily, so that a synced append never queues behind a burst.
    options.set_bytes_per_sync(1 << 20);
    options.set_avoid_unnecessary_blocking_io(true);
    options.set_max_background_jobs(2);
    // RocksDB's own diary, the file `LOG`.
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 * MIB);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
}

/// What helps many writers (concurrent inserts, pipelined or unordered writes, yielding for a group
/// commit) only costs here, where writes take turns.
fn single_writer(options: &mut Options) {
    options.set_allow_concurrent_memtable_write(false);
    options.set_enable_pipelined_write(false);
    options.set_unordered_write(false);
    options.set_enable_write_thread_adaptive_yield(false);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_from_what_they_are_written_to() {
        let options = RocksOptions::default().with(|it| {
            it.write_buffer_bytes = 1 << 20;
            it.block_cache_bytes = 2 << 20;
            it.max_open_files = 99;
        });
        let text = serde_json::to_string(&options).expect("text");
        assert_eq!(serde_json::from_str::<RocksOptions>(&text).expect("options"), options);
        let empty: RocksOptions = serde_json::from_str("{}").expect("defaults");
        assert_eq!(empty, RocksOptions::default());
        let unknown =
            serde_json::from_str::<RocksOptions>(r#"{ "cache": 1 }"#).expect_err("unknown");
        assert!(unknown.to_string().starts_with("unknown field `cache`"), "{unknown}");
    }

    #[test]
    fn defaults_are_valid_and_a_value_out_of_range_is_named() {
        RocksOptions::default().validate().expect("defaults");
        let tiny = RocksOptions::default().with(|it| it.write_buffer_bytes = 1);
        assert_eq!(
            tiny.validate().expect_err("too small").to_string(),
            "refused: RocksOptions::write_buffer_bytes is 1, not from 65536 to 1073741824"
        );
    }
}
