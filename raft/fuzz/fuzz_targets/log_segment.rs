//! What reads the segments of a log in files.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| raft::testing::fuzz::log_segment(data));
