//! Contact and lease (law 12): an answer counts from when its question was *sent*, and only for the
//! membership in which that was; a leader whose lease is over by that count leads no more.
//!
//! A leader's questions and the answers that it takes are watched, and what it believes of its peers is
//! never more than that. Times are those of its own clock.

use std::{collections::BTreeMap, time::Duration};

use super::{Check, is_majority};
use crate::{
    configuration::{Configuration, ServerId},
    consensus::Time,
    position::{LogIndex, Term},
    rpc::{AppendOutcome, InstallOutcome, Message},
};

/// What one server knows of its peers while it leads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contact {
    term: Term,
    sessions: BTreeMap<ServerId, Session>,
    /// When what a majority has answered was asked, or the leadership began.
    majority: Time,
}

/// One peer, as long as it is one: with the leadership and with the membership it ends.
#[derive(Clone, Debug)]
struct Session {
    first_round: u64,
    /// When questions were sent, by their round, as far as no later one has been answered.
    asked: BTreeMap<u64, Time>,
    answered_round: u64,
    contact: Time,
    matched: LogIndex,
}

impl Contact {
    /// The server leads from now on.
    pub(crate) fn elected(&mut self, term: Term, now: Time) {
        *self = Self { term, sessions: BTreeMap::new(), majority: now };
    }

    /// Whoever is not a peer any more has answered nothing, if it becomes one again.
    pub(crate) fn peers(&mut self, is_peer: impl Fn(&ServerId) -> bool) {
        self.sessions.retain(|id, _| is_peer(id));
    }

    /// The server sends a message.
    pub(crate) fn sent(&mut self, to: &ServerId, message: &Message, now: Time) {
        let round = match message {
            Message::Heartbeat(request) if request.term == self.term => {
                let new = Session {
                    first_round: request.round,
                    asked: BTreeMap::new(),
                    answered_round: 0,
                    contact: now,
                    matched: LogIndex::ZERO,
                };
                self.sessions.entry(to.clone()).or_insert(new);
                request.round
            }
            Message::AppendEntries(request) if request.term == self.term => request.round,
            _ => return,
        };
        let Some(session) = self.sessions.get_mut(to) else { return };
        if session.answered_round < round {
            session.asked.entry(round).or_insert(now);
        }
    }

    /// A message has come to the server, which goes by these voters.
    pub(crate) fn received(
        &mut self,
        me: &ServerId,
        from: &ServerId,
        message: &Message,
        (voters, now): (&Configuration, Time),
    ) {
        if message.term() != self.term {
            return;
        }
        let Some(session) = self.sessions.get_mut(from) else { return };
        let (round, matched) = match message {
            Message::HeartbeatReply(reply) => (reply.round, reply.match_index),
            Message::AppendEntriesReply(reply) => match reply.outcome {
                AppendOutcome::Matched { match_index } => (reply.round, match_index),
                AppendOutcome::Conflict { .. } => (reply.round, LogIndex::ZERO),
                AppendOutcome::StaleTerm => return,
            },
            // It belongs to a transfer, whose number is of this membership only.
            Message::InstallSnapshotReply(reply) => match reply.outcome {
                InstallOutcome::Installed { match_index } => (session.first_round, match_index),
                _ => return,
            },
            _ => return,
        };
        if round < session.first_round {
            return;
        }
        session.matched = session.matched.max(matched);
        if session.answered_round < round && !matches!(message, Message::InstallSnapshotReply(_)) {
            let asked = session.asked.range(..=round).next_back().map(|(_, asked)| *asked);
            session.contact = session.contact.max(asked.unwrap_or_default());
            session.asked = session.asked.split_off(&(round + 1));
            session.answered_round = round;
        }
        self.look_for_majority(me, voters, now);
    }

    /// The newest contact with all of a majority; a server is always in contact with itself.
    pub(crate) fn look_for_majority(&mut self, me: &ServerId, voters: &Configuration, now: Time) {
        let voters: Vec<&ServerId> = voters.voters().map(|it| &it.id).collect();
        let contact = |id: &ServerId| self.sessions.get(id).map(|session| session.contact);
        let is_since = |since: Time| {
            is_majority(&voters, |id| *id == me || contact(id).is_some_and(|it| since <= it))
        };
        let all = self.sessions.values().map(|session| session.contact).chain([now]);
        let newest = all.filter(|since| is_since(*since)).max();
        self.majority = self.majority.max(newest.unwrap_or_default());
    }

    /// The lease was shortened by so much: it ends no later than before.
    pub(crate) fn shortened(&mut self, by: Duration, now: Time) {
        self.majority = now.min(self.majority + by);
    }

    /// What the leader believes of a peer: the newest round it has answered, when it was heard, and
    /// what it has.
    pub(crate) fn believed(
        &self,
        peer: &ServerId,
        answered_round: u64,
        contact: Time,
        matched: LogIndex,
    ) -> Check {
        let Some(session) = self.sessions.get(peer) else {
            ensure!(
                answered_round == 0 && matched == LogIndex::ZERO,
                "law 12: {peer}, which was asked nothing, counts as having answered"
            );
            return Ok(());
        };
        ensure!(
            answered_round <= session.answered_round && matched <= session.matched,
            "law 12: {peer} counts with round {answered_round} and entry {matched}, but since it is a \
             member it has answered {} and {}",
            session.answered_round,
            session.matched
        );
        ensure!(
            contact <= session.contact,
            "law 12: {peer} counts as heard at {contact}, but what it answered was asked at {}",
            session.contact
        );
        Ok(())
    }

    /// The leader has looked at the clock, and goes on.
    pub(crate) fn goes_on(
        &self,
        me: &ServerId,
        voters: &Configuration,
        lease: Duration,
        now: Time,
    ) -> Check {
        let voters: Vec<&ServerId> = voters.voters().map(|it| &it.id).collect();
        ensure!(
            now < self.majority + lease || is_majority(&voters, |id| *id == me),
            "law 12: at {now} {me} still leads, but what a majority has answered was asked at {}, and its \
             lease is {lease:?}",
            self.majority
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        configuration::Server,
        rpc::{HeartbeatReply, HeartbeatRequest},
    };

    const LEASE: Duration = Duration::from_micros(100);

    fn voters() -> Configuration {
        Configuration::new(["a", "b", "c"].map(|id| Server::voter(id, id)))
    }

    /// The leader "a" of term 2 has asked everybody in round 1 at time 10, and in round 2 at time 50.
    fn leader() -> Contact {
        let mut check = Contact::default();
        check.elected(Term(2), Time(10));
        for (round, at) in [(1, 10), (2, 50)] {
            asks(&mut check, "b", round, at);
            asks(&mut check, "c", round, at);
        }
        check
    }

    fn asks(check: &mut Contact, to: &str, round: u64, at: u64) {
        let (commit_index, promised) = (LogIndex::ZERO, None);
        let question = HeartbeatRequest { term: Term(2), round, commit_index, promised };
        check.sent(&to.into(), &Message::Heartbeat(question), Time(at));
    }

    fn answers(check: &mut Contact, from: &str, round: u64, index: u64) {
        let reply = HeartbeatReply {
            term: Term(2),
            round,
            accepted_index: LogIndex(index),
            match_index: LogIndex(index),
            applied_index: LogIndex::ZERO,
        };
        let message = Message::HeartbeatReply(reply);
        check.received(&"a".into(), &from.into(), &message, (&voters(), Time(99)));
    }

    fn believed(check: &Contact, round: u64, contact: u64, index: u64) -> Check {
        check.believed(&"b".into(), round, Time(contact), LogIndex(index))
    }

    #[test]
    fn fires_on_contact_from_receipt() {
        let mut check = leader();
        believed(&check, 0, 10, 0).unwrap();
        believed(&check, 0, 11, 0).unwrap_err();
        answers(&mut check, "b", 2, 7);
        believed(&check, 2, 50, 7).unwrap();
        believed(&check, 2, 51, 7).unwrap_err();
        believed(&check, 3, 50, 7).unwrap_err();
        believed(&check, 2, 50, 8).unwrap_err();
    }

    #[test]
    fn fires_on_an_answer_of_an_earlier_membership() {
        let mut check = leader();
        check.peers(|id| *id == "c".into());
        asks(&mut check, "b", 3, 60);
        answers(&mut check, "b", 2, 7);
        believed(&check, 0, 60, 0).unwrap();
        believed(&check, 2, 60, 0).unwrap_err();
        believed(&check, 0, 60, 7).unwrap_err();
        answers(&mut check, "b", 3, 7);
        believed(&check, 3, 60, 7).unwrap();
        check.peers(|_| false);
        believed(&check, 3, 60, 7).unwrap_err();
    }

    #[test]
    fn fires_on_a_leader_that_goes_on_after_its_lease() {
        let goes_on =
            |check: &Contact, now| check.goes_on(&"a".into(), &voters(), LEASE, Time(now));
        let mut check = leader();
        goes_on(&check, 109).unwrap();
        goes_on(&check, 110).unwrap_err();
        answers(&mut check, "c", 2, 0);
        goes_on(&check, 149).unwrap();
        goes_on(&check, 150).unwrap_err();
        check.shortened(Duration::from_micros(5), Time(140));
        goes_on(&check, 154).unwrap();
        goes_on(&check, 155).unwrap_err();
        let alone = Configuration::new([Server::voter("a", "a")]);
        check.goes_on(&"a".into(), &alone, LEASE, Time(999)).unwrap();
    }
}
