//! The signals a server takes. All others that kill by default and that people send are ignored.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// From when this is made on, no signal kills the process that can be taken.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    pub(crate) fn take() -> Result<Self, Failure> {
        let taken = |kind| {
            signal(kind).map_err(|error| Failure::new(format!("cannot wait for signals: {error}")))
        };
        // Taken once, they never kill again.
        for ignored in [SignalKind::user_defined1(), SignalKind::user_defined2()] {
            drop(taken(ignored)?);
        }
        Ok(Self {
            interrupt: taken(SignalKind::interrupt())?,
            terminate: taken(SignalKind::terminate())?,
            hangup: taken(SignalKind::hangup())?,
        })
    }

    /// Waits until the server is told to stop. Dropping the future loses no signal.
    pub(crate) async fn stop(&mut self) {
        loop {
            tokio::select! {
                biased;
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    tracing::info!("SIGHUP: settings are read at the start only, nothing is changed");
                }
            }
        }
    }
}
