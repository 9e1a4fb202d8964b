//! How many messages a second one connection carries, and how long one takes there and back, with
//! sender and receiver in one process on the loopback interface.
//!
//! ```text
//! cargo run --release -p raft-tcp --example message_rate [seconds per measurement]
//! ```

use std::{sync::Arc, time::Duration};

use raft::{
    Entry, EntryPayload, Inbox, LogId, LogIndex, Message, Server, Term, Transport, TransportError,
    rpc::{AppendEntriesRequest, HeartbeatRequest},
};
use raft_tcp::{TcpOptions, TcpTransport};
use tokio::{task::yield_now, time::Instant};

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Node {
    server: Server,
    transport: Arc<TcpTransport>,
    inbox: raft::Received,
}

async fn node(id: &str) -> Result<Node, Failure> {
    let transport = TcpTransport::bind(TcpOptions::new("127.0.0.1:0", "rate")).await?;
    let (inbox, receiver) = Inbox::new(1024);
    transport.start(raft::Identity::new(id), inbox).await?;
    Ok(Node { server: Server::voter(id, transport.local_address()), transport, inbox: receiver })
}

fn heartbeat(round: u64) -> Message {
    Message::Heartbeat(HeartbeatRequest {
        term: Term(1),
        round,
        commit_index: LogIndex(round),
        promised: None,
    })
}

fn append(entries: usize, bytes: usize) -> Message {
    let payload = EntryPayload::Command(vec![7; bytes].into());
    let entry = |index| Entry { term: Term(1), index: LogIndex(index), payload: payload.clone() };
    Message::AppendEntries(AppendEntriesRequest {
        term: Term(1),
        round: 1,
        prev: LogId::ZERO,
        entries: (1..).take(entries).map(entry).collect::<Vec<_>>().into(),
        commit_index: LogIndex(0),
    })
}

/// Messages a second over the urgent lane.
async fn urgent(a: &Node, b: &mut Node, length: Duration) -> Result<f64, Failure> {
    let (transport, to) = (Arc::clone(&a.transport), b.server.clone());
    let start = Instant::now();
    let sender = tokio::spawn(async move {
        let mut sent = 0u64;
        while start.elapsed() < length {
            match transport.send(&to, heartbeat(sent)) {
                Ok(()) => sent += 1,
                Err(TransportError::Full) => yield_now().await,
                Err(error) => return Err(error),
            }
        }
        while let Err(TransportError::Full) = transport.send(&to, heartbeat(u64::MAX)) {
            yield_now().await;
        }
        Ok(sent)
    });
    while b.inbox.recv().await.is_some_and(|e| e.message != heartbeat(u64::MAX)) {}
    let took = start.elapsed();
    Ok(sender.await?? as f64 / took.as_secs_f64())
}

/// `message`s a second over the entries lane.
async fn entries(
    a: &Node,
    b: &mut Node,
    message: Message,
    length: Duration,
) -> Result<f64, Failure> {
    let (transport, to) = (Arc::clone(&a.transport), b.server.clone());
    let start = Instant::now();
    let sender = tokio::spawn(async move {
        let mut sent = 0u64;
        while start.elapsed() < length {
            transport.send_entries(&to, message.clone()).await?;
            sent += 1;
        }
        transport.send_entries(&to, heartbeat(u64::MAX)).await?;
        Ok::<_, TransportError>(sent)
    });
    while b.inbox.recv().await.is_some_and(|e| e.message != heartbeat(u64::MAX)) {}
    let took = start.elapsed();
    Ok(sender.await?? as f64 / took.as_secs_f64())
}

/// The mean time there and back of a lone message, in microseconds.
async fn round_trip(a: &mut Node, mut b: Node, length: Duration) -> Result<f64, Failure> {
    let (to_a, to_b) = (a.server.clone(), b.server.clone());
    b.transport.send(&to_a, heartbeat(0))?;
    a.inbox.recv().await;
    let echo = tokio::spawn(async move {
        while let Some(envelope) = b.inbox.recv().await {
            b.transport.send(&to_a, envelope.message)?;
        }
        Ok::<_, TransportError>(())
    });
    let (start, mut trips) = (Instant::now(), 0u64);
    while start.elapsed() < length {
        a.transport.send(&to_b, heartbeat(trips))?;
        a.inbox.recv().await;
        trips += 1;
    }
    let took = start.elapsed();
    echo.abort();
    Ok(took.as_secs_f64() * 1e6 / trips as f64)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let seconds = std::env::args().nth(1).map_or(Ok(2.0), |text| text.parse())?;
    let length = Duration::from_secs_f64(seconds);
    let (mut a, mut b) = (node("a").await?, node("b").await?);
    let rate = urgent(&a, &mut b, length).await?;
    println!("urgent lane,  heartbeats:               {rate:>9.0} messages/s");
    for (count, bytes) in [(1, 100), (64, 100), (1024, 100), (1, 1 << 20)] {
        let rate = entries(&a, &mut b, append(count, bytes), length).await?;
        let all = rate * count as f64;
        let mib = all * bytes as f64 / f64::from(1 << 20);
        println!(
            "entries lane, {count:>4} x {bytes:>7} B a message: {rate:>9.0} messages/s, {all:>9.0} \
             entries/s, {mib:>5.0} MiB/s"
        );
    }
    let micros = round_trip(&mut a, b, length).await?;
    println!("urgent lane,  there and back, one at a time: {micros:.1} us");
    Ok(())
}
