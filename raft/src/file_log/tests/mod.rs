//! Tests of what the conformance suites cannot see: power cuts, damage, full disks, and the bytes.

mod damage;
mod forgetful;
mod format;
mod fuzz;
mod model;
mod power_cut;
