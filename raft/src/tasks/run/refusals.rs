//! What `run` remembers of messages that the core does not admit, so that it is told of once and not
//! with every heartbeat.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    configuration::{Configuration, ServerId},
    consensus::{Mismatch, Time},
    status::WrongDisk,
};

/// How long the same trouble with the same server is not told of again.
const QUIET: Duration = Duration::from_secs(60);

/// Senders remembered at most; with more the memory begins anew, and some are told of again.
const SENDERS_MAX: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// What was last refused of each sender, when that was told of, and when it last came.
    last: BTreeMap<ServerId, Refusal>,
    /// What the others hold against this server's own disk.
    own: Option<WrongDisk>,
}

#[derive(Debug)]
struct Refusal {
    mismatch: Mismatch,
    incarnation: u64,
    told_at: Time,
    came_at: Time,
}

impl Refusals {
    /// Notes that a message of `from`, which runs on the disk `incarnation`, was refused. Returns
    /// whether that is to be told of.
    pub(super) fn note(
        &mut self,
        now: Time,
        from: &ServerId,
        incarnation: u64,
        mismatch: Mismatch,
    ) -> bool {
        if SENDERS_MAX <= self.last.len() && !self.last.contains_key(from) {
            self.last.clear();
        }
        match self.last.get_mut(from) {
            Some(known)
                if (known.mismatch, known.incarnation) == (mismatch, incarnation)
                    && now < known.told_at + QUIET =>
            {
                known.came_at = now;
                false
            }
            _ => {
                let refusal = Refusal { mismatch, incarnation, told_at: now, came_at: now };
                self.last.insert(from.clone(), refusal);
                true
            }
        }
    }

    /// A message of `from` was admitted, from the disk `incarnation`. If that is the one recorded, it has
    /// its own disk back.
    pub(super) fn admitted(&mut self, from: &ServerId, incarnation: u64) {
        let is_own =
            |refusal: &Refusal| refusal.mismatch == Mismatch::Sender { recorded: incarnation };
        if !self.last.is_empty() && self.last.get(from).is_some_and(is_own) {
            self.last.remove(from);
        }
    }

    /// The others know this server by another disk.
    pub(super) fn own_disk(&mut self, wrong: WrongDisk) {
        self.own = Some(wrong);
    }

    /// A leader has been listened to: this server is who its cluster knows.
    pub(super) fn recognised(&mut self) {
        self.own = None;
    }

    /// What the others hold against this server's own disk.
    pub(super) fn own(&self) -> Option<&WrongDisk> {
        self.own.as_ref()
    }

    /// The servers that were lately heard from on another disk than the one recorded here, which still
    /// is: who was rejoined or has left is not one of them any more.
    pub(super) fn others(&self, now: Time, members: &Configuration) -> Vec<WrongDisk> {
        let lately = self.last.iter().filter(|(_, refusal)| now < refusal.came_at + 2 * QUIET);
        let others = lately.filter_map(|(server, refusal)| match refusal.mismatch {
            Mismatch::Sender { recorded } => {
                Some(WrongDisk { server: server.clone(), recorded, actual: refusal.incarnation })
            }
            Mismatch::Receiver { .. }
            | Mismatch::Empty
            | Mismatch::Cluster { .. }
            | Mismatch::Over => None,
        });
        let is_recorded = |disk: &WrongDisk| {
            let member = members.server(&disk.server);
            member.is_some_and(|member| member.incarnation == disk.recorded)
        };
        others.filter(is_recorded).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::Server;

    #[test]
    fn who_has_its_own_disk_back_is_in_no_trouble_any_more() {
        let mut refusals = Refusals::default();
        let member = Server { incarnation: 1, ..Server::voter("b", "b") };
        let members = Configuration::new([member]);
        refusals.note(Time(0), &"b".into(), 2, Mismatch::Sender { recorded: 1 });
        // A leader, or a longer log, is listened to from any disk.
        refusals.admitted(&"b".into(), 2);
        assert_eq!(refusals.others(Time(1), &members).len(), 1);
        refusals.admitted(&"b".into(), 1);
        assert_eq!(refusals.others(Time(1), &members), []);
    }

    #[test]
    fn the_same_trouble_is_told_of_once_a_minute() {
        let mut refusals = Refusals::default();
        let at = |seconds: u64| Time(seconds * 1_000_000);
        let wiped = Mismatch::Sender { recorded: 1 };
        let mut note = |seconds, from: &str, incarnation, mismatch| {
            refusals.note(at(seconds), &from.into(), incarnation, mismatch)
        };
        assert!(note(0, "b", 2, wiped));
        assert!(!note(1, "b", 2, wiped));
        assert!(note(2, "b", 3, wiped), "another disk is news");
        assert!(note(3, "b", 3, Mismatch::Receiver { recorded: 9, is_outdated: false }));
        assert!(note(4, "b", 3, wiped));
        assert!(note(4, "c", 3, wiped));
        assert!(!note(63, "b", 3, wiped));
        assert!(note(64, "b", 3, wiped));
        let member = |id: &str, incarnation| Server { incarnation, ..Server::voter(id, id) };
        let members = Configuration::new([member("b", 1), member("c", 1)]);
        let seen = refusals.others(at(65), &members);
        let wrong = |server: &str, actual| {
            let server = server.into();
            WrongDisk { server, recorded: 1, actual }
        };
        assert_eq!(seen, [wrong("b", 3), wrong("c", 3)]);
        assert_eq!(refusals.others(at(130), &members), [wrong("b", 3)], "c has gone quiet");
        let rejoined = Configuration::new([member("b", 3)]);
        assert_eq!(refusals.others(at(65), &rejoined), [], "c has left");
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut refusals = Refusals::default();
        for number in 0..1000 {
            let from = ServerId::from(number.to_string());
            assert!(refusals.note(Time(0), &from, 1, Mismatch::Empty));
        }
        assert!(refusals.last.len() <= SENDERS_MAX);
    }
}
