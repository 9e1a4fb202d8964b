//! Messages: what `run` does with each that arrives.
//!
//! The core decides whether a message counts. What it does not admit is dropped here, and reported if
//! that is news (`refusals`).

use super::Run;
use crate::{
    configuration::{ClusterId, ServerId},
    consensus::{Mismatch, Time},
    observer::Observation,
    position::Term,
    rpc::{AppendEntriesReply, AppendOutcome, Envelope, Message},
    status::WrongDisk,
    tasks::receive_snapshot::Piece,
};

impl<R: Send + 'static> Run<R> {
    pub(super) fn take_messages(&mut self, now: Time) {
        let mut messages = std::mem::take(&mut self.inbound.messages);
        for mut envelope in messages.drain(..) {
            let Envelope { from, address, message, .. } = &envelope;
            let received =
                || Observation::Received { from: from.clone(), message: message.clone() };
            self.shared.observers.notify(received);
            self.metrics.received(message);
            tracing::trace!(server = %self.shared.id, %from, %message, "received");
            self.peers.heard_from(from, address);
            let (from, incarnation) = (from.clone(), envelope.incarnation);
            let piece = Piece::of(&mut envelope);
            if let Err(rejected) = self.core.receive(now, envelope) {
                self.refuse(now, &rejected.envelope, rejected.mismatch);
                continue;
            }
            self.inbound.refusals.admitted(&from, incarnation);
            self.inbound.pieces.extend(piece);
            if self.inbound.refusals.own().is_some() && self.core.leader().is_some() {
                self.inbound.refusals.recognised();
            }
        }
        self.inbound.messages = messages;
    }

    /// A message was not admitted: it is dropped, and reported if that is news.
    fn refuse(&mut self, now: Time, envelope: &Envelope, mismatch: Mismatch) {
        let Envelope { from, incarnation, message, .. } = envelope;
        let is_news = self.inbound.refusals.note(now, from, *incarnation, mismatch);
        let (server, kind) = (&self.shared.id, message.kind());
        let disk = match mismatch {
            Mismatch::Over => {
                tracing::debug!(%server, %from, kind, "of an earlier life of its sender");
                return;
            }
            Mismatch::Cluster { sender } => {
                if is_news {
                    self.tell_of_stranger(envelope, sender);
                }
                return;
            }
            Mismatch::Receiver { is_outdated: true, recorded } => {
                if is_news {
                    tracing::debug!(%server, %from, kind, recorded, "does not know the newest members");
                }
                return;
            }
            Mismatch::Empty => {
                if is_news {
                    tracing::warn!(
                        %server, %from,
                        "no vote for this candidate: the disk here is empty, as if it had been \
                         wiped, and the candidate does not know it; a leader has to come first"
                    );
                }
                return;
            }
            Mismatch::Sender { recorded } => {
                WrongDisk { server: from.clone(), recorded, actual: *incarnation }
            }
            Mismatch::Receiver { recorded, .. } => {
                let actual = self.core.incarnation();
                let disk = WrongDisk { server: server.clone(), recorded, actual };
                self.inbound.refusals.own_disk(disk.clone());
                disk
            }
        };
        if is_news {
            self.tell_of_wrong_disk(from, kind, disk);
        }
    }

    /// A server runs on another disk than the one its cluster knows it by.
    fn tell_of_wrong_disk(&self, from: &ServerId, kind: &str, disk: WrongDisk) {
        let server = &self.shared.id;
        // A target of its own, for programs that tell of it in their own words.
        tracing::error!(
            target: "raft::wrong_disk", %server, %from, kind, "a message was dropped: {disk}"
        );
        let is_own = disk.server == *server;
        let observation = || Observation::WrongIncarnation { peer: from.clone(), disk };
        self.shared.observers.notify(observation);
        if is_own {
            // So that the other side hears of it too. It says nothing, and answers nothing: there is
            // no term zero.
            let (term, outcome) = (Term::default(), AppendOutcome::StaleTerm);
            let hint = AppendEntriesReply { term, round: 0, outcome };
            self.peers.send(from, Message::AppendEntriesReply(hint));
        }
    }

    /// A server of another cluster has sent a message.
    fn tell_of_stranger(&self, envelope: &Envelope, other: ClusterId) {
        let Envelope { from, address, message, .. } = envelope;
        let (server, own, kind) = (&self.shared.id, self.core.cluster(), message.kind());
        if !other.is_some() {
            tracing::debug!(%server, %from, kind, "its sender belongs to no cluster yet");
            return;
        }
        tracing::error!(
            target: "raft::wrong_cluster", %server, %from, %address, kind, cluster = %own, %other,
            "a message was dropped: its sender belongs to another cluster; one of the two has the other's \
             address among its members, or was bootstrapped with other members"
        );
        let observation = || Observation::WrongCluster { peer: from.clone(), own, other };
        self.shared.observers.notify(observation);
    }
}
