//! Decisions: how `run` carries out what the core has decided, and in which order.

use super::Run;
use crate::{
    configuration::ServerId,
    consensus::{Action, Time, Write},
    error::Fatal,
    observer::Observation,
    position::LogIndex,
    rpc::Message,
    tasks::run_log::{LogRequest, Queued},
};

impl<R: Send + 'static> Run<R> {
    /// Shows the new state to the getters, then carries out what the core decided: whoever is
    /// answered finds the getters up to date.
    pub(super) fn show_and_act(&mut self, now: Time) {
        self.shared.published.publish(&self.core, now);
        while let Some(action) = self.core.poll_action() {
            self.carry_out(now, action);
        }
        self.inbound.pieces.clear();
        for write in self.dispatch.writes.drain(..) {
            let _ = self.dispatch.queues.run_log.send(write);
        }
        self.shared.tail.committed(self.core.commit_index());
        self.waiters.readable(self.core.commit_index());
        if let Some(responder) = self.dispatch.bootstrapper.take() {
            self.waiters.bootstrapping(self.dispatch.issued, responder);
        }
        if let Some(taker) = self.dispatch.snapshot_taker.take() {
            let _ = taker.send(());
        }
    }

    fn carry_out(&mut self, now: Time, action: Action) {
        match action {
            Action::Write(write) => self.write(write),
            Action::Replicate(order) => self.peers.replicate(order, self.dispatch.generation),
            Action::Send { to, message } => self.send(&to, message),
            Action::Commit { up_to } => self.commit(now, up_to),
            Action::Compact { through } => {
                self.shared.tail.compact(through);
                self.dispatch.writes.push(LogRequest::Compact { through });
            }
            Action::Restore { snapshot } => {
                let waiters = self.waiters.committed(snapshot.index);
                self.dispatch.restore(snapshot, waiters.map(|it| it.0).unwrap_or_default());
            }
            Action::SendSnapshot(order) => self.peers.send_snapshot(order, &mut self.tasks),
            Action::SnapshotAnswered { from, transfer, outcome } => {
                self.peers.snapshot_answered(&from, transfer, &outcome);
            }
            Action::ReceiveSnapshot { from, term, transfer, offset } => {
                if let Some(piece) = self.inbound.take_piece(&from, (term, transfer, offset)) {
                    // What finds no room is lost; the leader sends it again.
                    let _ = self.dispatch.queues.receive_snapshot.try_send(piece);
                }
            }
            Action::SetPeers(servers) => self.peers.set(servers, &mut self.tasks),
            Action::Verified { round } => self.waiters.verified(round),
            Action::TransferDone(result) => self.waiters.transferred(result),
            Action::Restored => self.waiters.replaced(self.core.last().index),
            Action::SteppedDown { committed } => {
                self.peers.end_snapshots();
                self.waiters.stepped_down(committed);
                if let Some(restoring) = &mut self.restoring {
                    restoring.stepped_down();
                }
            }
            Action::Diverged { snapshot, entry } => {
                self.shared.stop(Fatal::Diverged { snapshot, entry });
            }
            Action::LostByMajority { leader, entry, committed } => {
                self.shared.stop(Fatal::LostByMajority { leader, entry, committed });
            }
            Action::RolledBack { told, promised, incarnation } => {
                self.dispatch.writes.push(LogRequest::ChangeIncarnation(incarnation));
                self.shared.stop(Fatal::RolledBack { told, promised });
            }
            Action::Observe(observation) => self.observe(now, observation),
        }
    }

    fn write(&mut self, write: Write) {
        let stamp = self.shared.tail.accept(&write);
        self.dispatch.issued = write.id;
        self.dispatch.generation = stamp.generation();
        self.dispatch.writes.push(LogRequest::Write(Queued { write, stamp }));
    }

    fn send(&mut self, to: &ServerId, message: Message) {
        let sent = || Observation::Sent { to: to.clone(), message: message.clone() };
        self.shared.observers.notify(sent);
        tracing::trace!(server = %self.shared.id, %to, %message, "sending");
        self.metrics.sent(&message);
        let is_heartbeat = matches!(message, Message::Heartbeat(_));
        if !self.peers.send(to, message) {
            self.metrics.send_failed();
            if is_heartbeat {
                self.core.handle_heartbeat_failed(to);
            }
        }
    }

    fn commit(&mut self, now: Time, up_to: LogIndex) {
        self.shared.tail.committed(up_to);
        let committed = self.waiters.committed(up_to);
        if let Some((_, since)) = &committed {
            self.metrics.committed(now.since(*since));
        }
        self.dispatch.commit(up_to, committed.map(|it| it.0).unwrap_or_default());
    }
}
