//! The seeded simulator: whole clusters of the real core, in one thread, from one number.
//!
//! A seed decides everything: the size of the cluster, its settings, the weather of the network, the
//! speed of the disks, what clients ask, what breaks and when. After every event the laws are
//! checked from outside, by somebody who sees all servers, all disks and all messages; in the end
//! everything is healed and progress is demanded.
//!
//! Servers crash and lose what was not synced, or their whole disks; snapshots are taken, sent, dropped
//! and installed; users restore foreign data; state machines hang; membership and settings change. What is not here: bytes on
//! disks and wires, the queues and tasks of the shell, and disks that lie.
//!
//! ```text
//! cargo test --release -p raft --lib consensus::sim                          a thousand seeds
//! RAFT_SIM_SEEDS=20000 cargo test … consensus::sim::tests::seeds            more of them
//! RAFT_SIM_FIRST=5000 …                                                     from another one on
//! RAFT_SIM_SEED=17 cargo test … consensus::sim::tests::seeds -- --nocapture replays one, with a trace
//! RAFT_SIM_BUG=ForgetsVote RAFT_SIM_SEED=20 …                               the same with a planted bug
//! raft/src/consensus/sim/known_bugs/check.sh                                finds bugs inside the core
//! ```
//!
//! | file | one idea |
//! |---|---|
//! | `plan` | what a seed is made of |
//! | `world` | the queue of events |
//! | `actions`, `snapshots`, `restores` | what the shell would do with the core's decisions |
//! | `server`, `log`, `disk`, `machine`, `network`, `dice` | the parts of the world |
//! | `workload`, `faults`, `wipes`, `drills` | what clients and operators do, what breaks, whole disks, older copies of them |
//! | `checks` | the laws |
//! | `calm` | liveness, when the faults are over |
//! | `planted`, `known_bugs` | bugs that must be found |
//! | `runner`, `trace`, `stats` | many seeds, one seed line by line, what they contained |

/// Returns an error that says what is wrong, unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

mod actions;
mod bug;
mod calm;
mod checks;
mod dice;
mod disk;
mod drills;
mod faults;
mod log;
mod machine;
mod network;
mod plan;
mod planted;
mod restores;
mod runner;
mod server;
mod snapshots;
mod stats;
mod tests;
mod trace;
mod wipes;
mod workload;
mod world;

use super::{Role, Rules};
