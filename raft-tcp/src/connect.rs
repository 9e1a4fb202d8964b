//! Dialling an address that may be a name for several ones.
//!
//! The first of them may be dead (an interface that is down, IPv6 without a way), and say nothing. So one
//! attempt begins after the other, the next one when one has failed or after a moment without an answer, and
//! all go on until one is connected: RFC 8305, in the resolver's order. The moment is as short as it must
//! be for every address to have its turn in time.

use std::{future::poll_fn, io, net::SocketAddr, pin::Pin, task::Poll, time::Duration};

use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout},
};

/// How long an attempt is alone at most: RFC 8305's "Connection Attempt Delay".
const APART_MAX: Duration = Duration::from_millis(250);

/// Addresses of one name that are tried at most.
const ADDRESSES_MAX: usize = 32;

/// Connects to `host:port` within `limit`, name lookup included. If the host is a name with several
/// addresses, each of them has its turn in that time (of the first 32).
///
/// # Errors
/// What the system says of the address, or of each of them; [`TimedOut`](io::ErrorKind::TimedOut) without
/// an answer in time.
///
/// # Cancel safety
/// Dropping the future gives all attempts up.
pub async fn connect(address: &str, limit: Duration) -> io::Result<TcpStream> {
    let begun = Instant::now();
    let connecting = async {
        let addresses: Vec<_> = lookup_host(address).await?.take(ADDRESSES_MAX).collect();
        first(&addresses, limit.saturating_sub(begun.elapsed()), TcpStream::connect).await
    };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"));
    timeout(limit, connecting).await.map_err(late)?
}

/// The first of these addresses that can be dialled. Every one is dialled within `limit`.
async fn first<T, F>(
    addresses: &[SocketAddr],
    limit: Duration,
    dial: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let apart = APART_MAX.min(limit / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX));
    let mut waiting = addresses.iter();
    let mut attempts = Vec::new();
    let mut failures = Vec::new();
    loop {
        if let Some(address) = waiting.next() {
            attempts.push((*address, Box::pin(dial(*address))));
        } else if attempts.is_empty() {
            return Err(all_failed(failures));
        }
        let wait = if waiting.len() == 0 { Duration::MAX } else { apart };
        match timeout(wait, next_end(&mut attempts)).await {
            Ok((_, Ok(stream))) => return Ok(stream),
            Ok((address, Err(error))) => failures.push((address, error)),
            Err(_) => {}
        }
    }
}

/// Waits for any of these attempts to end, and takes it out.
async fn next_end<T>(
    attempts: &mut Vec<(SocketAddr, Pin<Box<impl Future<Output = T>>>)>,
) -> (SocketAddr, T) {
    poll_fn(|cx| {
        for number in 0..attempts.len() {
            let (address, attempt) = &mut attempts[number];
            if let Poll::Ready(ended) = attempt.as_mut().poll(cx) {
                let address = *address;
                drop(attempts.swap_remove(number));
                return Poll::Ready((address, ended));
            }
        }
        Poll::Pending
    })
    .await
}

fn all_failed(mut failures: Vec<(SocketAddr, io::Error)>) -> io::Error {
    match failures.pop() {
        None => io::Error::new(io::ErrorKind::NotFound, "the name has no address"),
        Some((_, error)) if failures.is_empty() => error,
        Some((last, error)) => {
            let kind = error.kind();
            failures.push((last, error));
            let texts = failures.iter().map(|(address, error)| format!("{address}: {error}"));
            io::Error::new(kind, texts.collect::<Vec<_>>().join("; "))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{Ready, ready},
        sync::Mutex,
    };

    use tokio::time::sleep;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    fn addresses(count: u16) -> Vec<SocketAddr> {
        (1..=count).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect()
    }

    /// Dials `count` addresses, where each port does as `what` says, within the limit. Returns what came
    /// of it, and when each was dialled.
    async fn dial<F>(
        count: u16,
        what: impl Fn(u16) -> F,
    ) -> (Option<io::Result<u16>>, Vec<(u16, Duration)>)
    where
        F: Future<Output = io::Result<u16>>,
    {
        let (begun, turns) = (Instant::now(), Mutex::new(Vec::new()));
        let addresses = addresses(count);
        let dialled = first(&addresses, LIMIT, |address| {
            turns.lock().unwrap().push((address.port(), begun.elapsed()));
            what(address.port())
        });
        let ended = timeout(LIMIT, dialled).await.ok();
        (ended, turns.into_inner().unwrap())
    }

    fn refused() -> Ready<io::Result<u16>> {
        ready(Err(io::ErrorKind::ConnectionRefused.into()))
    }

    async fn dead() -> io::Result<u16> {
        std::future::pending().await
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_first_address_does_not_hide_the_second() {
        let (ended, turns) =
            dial(2, async |port| if port == 1 { dead().await } else { Ok(port) }).await;
        assert_eq!(ended.unwrap().unwrap(), 2);
        assert_eq!(turns, [(1, ms(0)), (2, ms(250))]);
    }

    /// However many are dead, the last has its share of the time.
    #[tokio::test(start_paused = true)]
    async fn every_address_has_its_turn() {
        let (ended, turns) = dial(20, async |port| match port {
            20 => {
                sleep(ms(45)).await;
                Ok(port)
            }
            _ => dead().await,
        })
        .await;
        assert_eq!(ended.unwrap().unwrap(), 20);
        assert_eq!(turns.len(), 20);
        assert_eq!(turns[19], (20, ms(950)));
    }

    /// One that is merely far away is not given up for those that come after it.
    #[tokio::test(start_paused = true)]
    async fn a_slow_address_goes_on_being_tried() {
        let (ended, turns) = dial(8, async |port| match port {
            1 => {
                sleep(ms(900)).await;
                Ok(port)
            }
            _ => dead().await,
        })
        .await;
        assert_eq!((ended.unwrap().unwrap(), turns.len()), (1, 8));
    }

    #[tokio::test(start_paused = true)]
    async fn who_refuses_takes_no_time() {
        let (ended, turns) =
            dial(3, async |port| if port == 3 { Ok(port) } else { refused().await }).await;
        assert_eq!(ended.unwrap().unwrap(), 3);
        assert_eq!(turns, [(1, ms(0)), (2, ms(0)), (3, ms(0))]);
    }

    #[tokio::test(start_paused = true)]
    async fn if_nobody_is_there_each_says_why() {
        let (ended, _) = dial(2, |_| refused()).await;
        let error = ended.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let text = "127.0.0.1:1: connection refused; 127.0.0.1:2: connection refused";
        assert_eq!(error.to_string(), text);
        let (ended, _) = dial(1, |_| refused()).await;
        assert_eq!(ended.unwrap().unwrap_err().to_string(), "connection refused");
        let (ended, _) = dial(0, |_| refused()).await;
        assert_eq!(ended.unwrap().unwrap_err().to_string(), "the name has no address");
        let (ended, turns) = dial(3, |_| dead()).await;
        assert!(ended.is_none() && turns.len() == 3, "{turns:?}");
    }
}
