//! raft-tcp
