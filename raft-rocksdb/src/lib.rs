//! raft-rocksdb
