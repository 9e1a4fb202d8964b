//! Accepting connections, for both interfaces.

use std::{io::ErrorKind, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};

/// How long to pause when the operating system has no connection to give (no descriptors left).
const PAUSE: Duration = Duration::from_millis(100);
/// How often to say so.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// Questions that a silent peer leaves unanswered before it counts as gone, as in Redis.
const PROBES: u32 = 3;

/// Where connections come in.
#[derive(Debug)]
pub(crate) struct Door {
    listener: TcpListener,
    /// For whom.
    whom: &'static str,
    /// How long a peer may be silent before it is asked whether it is still there.
    keep_alive: Option<Duration>,
    complaints: Complaints,
}

/// When it was last said that no connection can be accepted.
#[derive(Debug, Default)]
struct Complaints {
    last: Option<Instant>,
}

impl Complaints {
    fn is_due(&mut self) -> bool {
        let is_due = self.last.is_none_or(|last| SAY_AGAIN <= last.elapsed());
        if is_due {
            self.last = Some(Instant::now());
        }
        is_due
    }
}

impl Door {
    pub(crate) fn new(
        listener: TcpListener,
        whom: &'static str,
        keep_alive: Option<Duration>,
    ) -> Self {
        Self { listener, whom, keep_alive, complaints: Complaints::default() }
    }

    /// The next connection. What goes wrong is logged, once a minute.
    pub(crate) async fn next(&mut self) -> TcpStream {
        loop {
            match self.listener.accept().await {
                // It may have gone already.
                Ok((stream, _)) if self.prepare(&stream).is_err() => {}
                Ok((stream, _)) => return stream,
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    if self.complaints.is_due() {
                        tracing::warn!(%error, "cannot accept connections of {}", self.whom);
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }

    fn prepare(&self, stream: &TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let Some(time) = self.keep_alive else { return Ok(()) };
        let interval = (time / PROBES).max(Duration::from_secs(1));
        let keep_alive = TcpKeepalive::new().with_time(time).with_interval(interval);
        SockRef::from(stream).set_tcp_keepalive(&keep_alive.with_retries(PROBES))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn complains_once_a_minute() {
        let mut complaints = Complaints::default();
        let mut said = 0;
        for _ in 0..1_200 {
            said += u32::from(complaints.is_due());
            advance(PAUSE).await;
        }
        assert_eq!(said, 2, "in two minutes");
    }
}
