//! Connections that are many, idle or dead take nothing from those who are needed.

use std::{fs, time::Duration};

use redis::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::harness::{CALM, Cluster, PATIENCE, Server, cmd, text, until};

const NO_PLACE: &str = "-ERR max number of clients reached\r\n";

async fn crowd(address: &str, size: usize) -> Vec<TcpStream> {
    let mut crowd = Vec::new();
    for _ in 0..size {
        let connected = timeout(PATIENCE, TcpStream::connect(address)).await;
        crowd.push(connected.expect("connected in time").expect("connected"));
    }
    crowd
}

/// What a newcomer hears until the server hangs up.
async fn hears(address: &str, says: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let mut heard = Vec::new();
    // It may have hung up already.
    let _ = stream.write_all(says).await;
    let _ = timeout(PATIENCE, stream.read_to_end(&mut heard)).await.expect("it hangs up");
    text(&heard)
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_clients_leave_their_places_to_servers_and_operators() {
    const CLIENTS: usize = 20;
    let flags = [&CALM[..], &["--max-connections", "20"]].concat();
    let cluster = Cluster::three(&flags).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let leader = cluster.server(&leader);
    let mut crowd = crowd(&leader.resp, CLIENTS).await;
    // Who came while somebody else was there for a moment may have been sent away.
    until("a full house", async || {
        let is_full = hears(&leader.resp, b"PING\r\nQUIT\r\n").await == NO_PLACE;
        if !is_full {
            crowd.push(TcpStream::connect(&leader.resp).await.expect("connected"));
        }
        is_full.then_some(())
    })
    .await;
    assert_eq!(hears(&leader.resp, b"").await, NO_PLACE, "also who says nothing hears it");
    assert_eq!(hears(&leader.resp, b"HELLO 3\r\nRAFT.FORWARDED a\r\n").await, NO_PLACE);

    for n in 0..30 {
        follower.ask::<()>(&["SET", &format!("k{n}"), "v"]).await.expect("passed on");
    }
    assert_eq!(leader.http("GET", "/health", "").0, 200);
    let (is_well, status) = leader.ctl(&["status"]);
    assert!(is_well, "{status}");
    let (_, metrics) = leader.http("GET", "/metrics", "");
    assert!(metrics.as_str().unwrap().contains("\nkv_connections 20\n"), "servers are no clients");

    drop(crowd);
    until("room again", async || (leader.raw(b"PING\r\n", 7).await == b"+PONG\r\n").then_some(()))
        .await;
}

/// There is a leader, and it takes nothing: that is said, and not that there is none.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_takes_no_requests_is_named() {
    let flags = ["--election-timeout", "3s", "--no-leader-wait", "1s"];
    let cluster = Cluster::three(&flags).await;
    // Again if the others have elected somebody meanwhile, because this machine is busy.
    let (leader, error) = until("a leader that stands still", async || {
        let (leader, follower) = (cluster.leader().await, cluster.follower().await);
        let mut connection = follower.connect().await;
        cluster.server(&leader).signal("STOP");
        let asked = cmd(&["GET", "k"]).query_async::<Value>(&mut connection).await;
        cluster.server(&leader).signal("CONT");
        asked.err().map(|error| (leader, error.to_string()))
    })
    .await;
    let resp = &cluster.server(&leader).resp;
    assert!(error.contains(&format!("leader {leader} at {resp} takes no requests: ")), "{error}");
    assert!(error.contains("(for 1s); nothing was done"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_open_files_is_raised_compared_and_shared_out() {
    let max_clients = async |server: &Server| {
        let info: String = server.ask(&["INFO", "clients"]).await.unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix("maxclients:"));
        line.unwrap_or_else(|| panic!("{info}")).to_owned()
    };
    // The soft limit is no obstacle.
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::new(directory.path(), "a");
    server.start_with_limit("-S -n 100", &["--bootstrap", "--max-connections", "150"]);
    until("it leads", async || server.ask::<()>(&["SET", "k", "v"]).await.ok()).await;
    assert_eq!(max_clients(&server).await, "150");
    assert!(!server.log().contains("limit of open files"), "{}", server.log());
    assert!(server.terminate().await.success());

    // The hard one is.
    server.start_with_limit("-n 1024", &[]);
    until("it leads", async || server.ask::<()>(&["SET", "k", "v"]).await.ok()).await;
    assert_eq!(max_clients(&server).await, "160");
    let said = "160 Redis clients at most, and not 10000: the limit of open files is 1024";
    assert!(server.log().contains(said), "{}", server.log());
    let crowd = crowd(&server.resp, 1_500).await;
    assert_eq!(server.http("GET", "/health", "").0, 200);
    assert_eq!(hears(&server.resp, b"PING\r\n").await, NO_PLACE);
    drop(crowd);
    // Operators have a limit of their own, and hear of it.
    let mut operators = self::crowd(&server.http, 64).await;
    until("no place for one more", async || {
        (server.http("GET", "/health", "").0 == 503).then_some(())
    })
    .await;
    assert_eq!(server.raw(b"PING\r\n", 7).await, b"+PONG\r\n");
    operators.clear();
    until("room again", async || (server.http("GET", "/health", "").0 == 200).then_some(())).await;
    assert!(server.terminate().await.success());

    // Too few to serve anybody.
    let said = server.fails_with_limit("-n 300", &[]);
    assert!(said.contains("the limit of open files is 300, and a server needs 592"), "{said}");
}

/// Asks the operating system, instead of waiting for five minutes.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_gone_is_found_out() {
    const KEEP_ALIVE: &str = "02";
    let cluster = Cluster::single(&[]).await;
    let server = &cluster.servers[0];
    for (address, says) in
        [(&server.resp, "PING\r\n"), (&server.http, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n")]
    {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(says.as_bytes()).await.unwrap();
        stream.read_exact(&mut [0; 7]).await.unwrap();
        let port = |address: std::net::SocketAddr| format!(":{:04X}", address.port());
        let (near, far) = (port(stream.local_addr().unwrap()), port(stream.peer_addr().unwrap()));
        let hundredths = until("a timer that asks whether the client is there", async || {
            let table = fs::read_to_string("/proc/net/tcp").unwrap();
            let rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
            let row = rows.skip(1).find(|r| r[1].ends_with(&far) && r[2].ends_with(&near))?;
            let (timer, when) = row[5].split_once(':')?;
            (timer == KEEP_ALIVE).then(|| u64::from_str_radix(when, 16).unwrap())
        })
        .await;
        let due = Duration::from_millis(10 * hundredths);
        assert!(due <= Duration::from_secs(300), "{due:?}");
    }
}
