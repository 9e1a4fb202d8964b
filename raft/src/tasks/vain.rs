//! What a server says when it waits in vain: what it waited for, and that only once.

use crate::{configuration::ServerId, consensus::Consensus, status::Timeouts};

/// With this many election timeouts in a row it is not bad luck any more.
const TOO_MANY: u64 = 5;

/// What was seen so far.
#[derive(Default)]
pub(super) struct Vain {
    timeouts: Timeouts,
    elections_in_a_row: u64,
}

impl Vain {
    /// A leader is known.
    pub(super) fn has_leader(&mut self) {
        self.elections_in_a_row = 0;
    }

    /// The core has dealt with a timeout.
    pub(super) fn look(&mut self, server: &ServerId, core: &Consensus) {
        let term = core.term();
        let (now, before) = (core.timeouts(), self.timeouts);
        self.timeouts = now;
        if before.lease < now.lease {
            tracing::warn!(%server, %term, "stopped leading: no majority of the voters answers");
        }
        if before.write_stall < now.write_stall {
            tracing::warn!(%server, %term, "stopped leading: the disk has not taken a write for too long");
        }
        if before.apply_stall < now.apply_stall {
            tracing::warn!(
                %server, %term,
                "handing leadership over: the state machine has been behind for too long, and that of another \
                 voter is not"
            );
        }
        if before.election < now.election {
            self.elections_in_a_row += 1;
            if self.elections_in_a_row == TOO_MANY {
                let voters = core.latest_configuration().configuration.voters();
                let voters: Vec<&str> = voters.map(|voter| voter.id.as_str()).collect();
                tracing::warn!(
                    %server, %term, voters = voters.join(" "),
                    "no leader for {TOO_MANY} election timeouts: a majority of the voters must run and \
                     reach each other"
                );
            }
        }
    }
}
