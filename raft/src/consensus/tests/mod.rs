//! Directed tests of the core: scripts with reviewed output, the sentences of the thesis, the bugs
//! of other implementations, and every handler over all small states.

mod bugs;
mod cluster;
mod golden;
mod handlers;
mod messages;
mod paper;
