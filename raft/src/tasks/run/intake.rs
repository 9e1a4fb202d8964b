//! Requests: what `run` does with each call of the handle.
//!
//! What is proposed in one turn goes to the core together, and one round of messages verifies the
//! leadership for everybody who has asked in the turn.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::Run;
use crate::{
    config::Config,
    consensus::{Rules, Time},
    error::{ConfigError, ReloadError, SnapshotError},
    tasks::{
        request::{Change, Pending, Request, Waiter},
        run_snapshots::SnapshotRequest,
    },
};

impl<R: Send + 'static> Run<R> {
    pub(super) fn take_requests(&mut self, now: Time) {
        let mut requests = std::mem::take(&mut self.intake.requests);
        if !requests.is_empty() {
            self.metrics.requests(requests.iter().map(Request::call));
            self.intake.last_requests = requests.len();
            self.intake.payloads.reserve(requests.len());
            self.intake.proposers.reserve(requests.len());
        }
        for request in requests.drain(..) {
            self.take_request(now, request);
        }
        self.intake.requests = requests;
        self.propose(now);
        self.verify(now);
    }

    fn take_request(&mut self, now: Time, request: Request<R>) {
        match request {
            Request::Propose(proposal) => self.intake.propose(proposal),
            Request::Verify { responder } => self.intake.verifiers.push(responder),
            // What was proposed before these comes before them in the log.
            Request::Change(change) => {
                self.propose(now);
                self.change_configuration(now, *change);
            }
            Request::Transfer { to, responder } => {
                self.propose(now);
                // An earlier transfer may have ended in this very turn: its caller comes first.
                self.show_and_act(now);
                match self.core.transfer_leadership(now, to.as_ref()) {
                    Ok(()) => {
                        let timeout = self.shared.config.borrow().election_timeout;
                        self.waiters.transferring(responder.taken(), timeout);
                    }
                    Err(refusal) => responder.answer(Err(refusal.into())),
                }
            }
            Request::Bootstrap { configuration, responder } => {
                match self.core.bootstrap(now, configuration) {
                    Ok(()) => self.dispatch.bootstrapper = Some(responder.taken()),
                    Err(refusal) => responder.answer(Err(refusal.into_error(&self.shared.id))),
                }
            }
            Request::Snapshot { responder } => {
                // It ends before this task only when the node does.
                let asked =
                    self.dispatch.queues.run_snapshots.try_send(SnapshotRequest { responder });
                if let Err(mpsc::error::TrySendError::Full(refused)) = asked {
                    refused.responder.answer(Err(SnapshotError::Busy));
                }
            }
            Request::Restore { data, responder } => {
                self.propose(now);
                self.begin_restore(now, data, responder);
            }
            Request::Reload { config, responder } => {
                self.propose(now);
                responder.answer(self.reload(now, *config).map_err(ReloadError::Config));
            }
            Request::Status { responder } => responder.answer(Ok(Box::new(self.status(now)))),
        }
    }

    /// Puts other settings in force, all of them or none.
    fn reload(&mut self, now: Time, config: Config) -> Result<(), ConfigError> {
        config.validate()?;
        config.validate_for(self.peers.max_entries_bytes())?;
        self.shared.config.borrow().check_reload(&config)?;
        self.core.set_rules(now, Rules::from(&config));
        self.shared.set_config(Arc::new(config));
        tracing::info!(server = %self.shared.id, "other settings are in force");
        Ok(())
    }

    /// Passes everything proposed so far to the core, as one run of entries.
    fn propose(&mut self, now: Time) {
        if self.intake.payloads.is_empty() {
            return;
        }
        self.metrics.proposed(self.intake.payloads.len());
        let mut proposers = std::mem::take(&mut self.intake.proposers);
        match self.core.propose(now, std::mem::take(&mut self.intake.payloads)) {
            Ok(first) => {
                for Waiter { index, answer } in &mut proposers {
                    index.0 += first.0;
                    if let Pending::Batch(batch) = answer {
                        batch.part.first.0 += first.0;
                    }
                }
                self.waiters.proposed(now, proposers);
            }
            Err(refusal) => {
                for Waiter { answer, .. } in proposers {
                    answer.refuse(refusal.clone());
                }
            }
        }
    }

    fn change_configuration(&mut self, now: Time, change: Change) {
        let Change { change, prev_index, responder } = change;
        match self.core.change_configuration(now, &change, prev_index) {
            Ok(index) => {
                let answer = Pending::Change(responder.taken());
                self.waiters.proposed(now, vec![Waiter { index, answer }]);
            }
            Err(refusal) => responder.answer(Err(refusal.into())),
        }
    }

    /// One question to the cluster answers everybody who asked in this turn.
    fn verify(&mut self, now: Time) {
        if self.intake.verifiers.is_empty() {
            return;
        }
        let verifiers = std::mem::take(&mut self.intake.verifiers);
        match self.core.verify_leader(now) {
            Ok(verification) => self.waiters.verifying(verification, verifiers),
            Err(refusal) => {
                for responder in verifiers {
                    responder.answer(Err(refusal.clone().into()));
                }
            }
        }
    }
}
