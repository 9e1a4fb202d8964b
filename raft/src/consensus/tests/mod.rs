//! Directed tests of the core: scripts with reviewed output, the sentences of the thesis, the bugs
//! of other implementations and our own, and every handler over all small states.

mod bugs;
mod cluster;
mod found;
mod golden;
mod handlers;
mod messages;
mod model;
mod paper;
