//! Whatever arrives, only the connection it arrives on suffers.

use std::time::Duration;

use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use crate::harness::{Cluster, PATIENCE, exchange, text, until};

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_requests_end_their_connection_only() {
    let cluster = Cluster::single(&[]).await;
    let server = &cluster.servers[0];
    let mut bystander = server.connect().await;
    let nested = b"*1\r\n".repeat(50_000);
    let cases: [(&[u8], &str); 9] = [
        (b"*x\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*2\r\n:1\r\n", "-ERR Protocol error: expected '$', got ':'\r\n"),
        (
            b"*1\r\n$99999999999\r\n",
            "-ERR Protocol error: too big request: the limit is 1048576 bytes\r\n",
        ),
        (b"*1\r\n$-5\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        (b"\x16\x03\x01\x02\x00\x01", "-ERR Protocol error: expected '*', got '\\x16'\r\n"),
        (&nested, "-ERR Protocol error: expected '$', got '*'\r\n"),
        (
            b"PING\r\n*1\r\n$1\r\nabc\r\n",
            "+PONG\r\n-ERR Protocol error: expected a line break after a string\r\n",
        ),
        (
            b"POST / HTTP/1.1\r\n\r\n",
            "-ERR Protocol error: this is not HTTP: the HTTP interface has a port of its own\r\n",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "-ERR wrong number of arguments for 'get' command\r\n-ERR Protocol error: this is not HTTP: the HTTP interface has a port of its own\r\n",
        ),
    ];
    for (bytes, expected) in cases {
        // Everything until the server hangs up, which it must.
        let got = server.raw(bytes, usize::MAX).await;
        assert_eq!(text(&got), expected);
        let pong: String = redis::cmd("PING").query_async(&mut bystander).await.unwrap();
        assert_eq!(pong, "PONG");
    }
    // Half a request and then nothing.
    assert_eq!(exchange(&server.resp, b"*2\r\n$3\r\nGET\r\n$100\r\n", 0).await, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_http_end_their_connection_only() {
    let cluster = Cluster::single(&[]).await;
    let server = &cluster.servers[0];
    for bytes in [&b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"[..], b"*1\r\n$4\r\nPING\r\n\r\n"] {
        let got = text(&exchange(&server.http, bytes, usize::MAX).await);
        assert!(got.starts_with("HTTP/1.1 400 "), "{got}");
    }
    let cases = [
        ("POST", "/members", "{", 400, "is not the JSON"),
        ("POST", "/members", "", 400, "is not the JSON"),
        ("POST", "/members", r#"{"id":"x"}"#, 400, "missing field `address`"),
        ("POST", "/members", r#"{"id":"x","address":"h:1","vote":1}"#, 400, "unknown field `vote`"),
        ("POST", "/members", r#"{"id":"x","address":"nowhere"}"#, 422, "an address is HOST:PORT"),
        ("POST", "/members", r#"{"id":"","address":"h:1"}"#, 422, "empty id"),
        ("POST", "/members", r#"{"id":"x","address":"RAFT"}"#, 422, "share the address"),
        ("POST", "/transfer", "[1", 400, "is not the JSON"),
        ("POST", "/transfer", r#"{"to":"nobody"}"#, 422, "cannot transfer leadership"),
        ("DELETE", "/members/nobody", "", 422, "is not in the configuration"),
        ("DELETE", "/members/a", "", 422, "at least one voter"),
        ("GET", "/checksum?at=x", "", 400, "at"),
        ("GET", "/nowhere", "", 404, "there is no /nowhere here"),
        ("DELETE", "/status", "", 405, "/status does not take DELETE"),
    ];
    for (method, path, body, code, error) in cases {
        let (got, answer) = server.http(method, path, &body.replace("RAFT", &server.raft));
        let said = answer["error"].as_str().unwrap_or_default();
        assert!(got == code && said.contains(error), "{method} {path} {body}: {got} {answer}");
    }
    assert_eq!(server.http("GET", "/health", "").0, 200);
    let (code, metrics) = server.http("GET", "/metrics", "");
    assert_eq!(code, 200);
    let metrics = metrics.as_str().unwrap();
    assert!(metrics.contains("kv_is_leader 1") && metrics.contains("# TYPE"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_at_the_raft_port_do_no_harm() {
    let cluster = Cluster::single(&[]).await;
    let server = &cluster.servers[0];
    let junk = vec![0xa5; 100_000];
    for bytes in [&junk[..], b"GET / HTTP/1.1\r\n\r\n", b"*1\r\n$4\r\nPING\r\n"] {
        let mut stream = TcpStream::connect(&server.raft).await.unwrap();
        // It may hang up before it has read everything.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, bytes).await;
        drop(stream);
        server.ask::<()>(&["SET", "k", "v"]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_kept() {
    let flags =
        ["--max-connections", "3", "--idle-timeout", "500ms", "--max-request-bytes", "2000"];
    let cluster = Cluster::single(&flags).await;
    let server = &cluster.servers[0];
    let too_big = server.raw(b"*2\r\n$4\r\nECHO\r\n$2000\r\n", usize::MAX).await;
    assert!(text(&too_big).contains("too big request: the limit is 2000 bytes"));

    // Silent clients are sent away.
    let mut silent = TcpStream::connect(&server.resp).await.unwrap();
    let mut rest = Vec::new();
    timeout(PATIENCE, silent.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.is_empty());

    // One more than allowed is told so, and there is room again once the others have gone.
    let refusal = until("a refusal", async || {
        let mut crowd = Vec::new();
        for _ in 0..4 {
            crowd.push(TcpStream::connect(&server.resp).await.unwrap());
        }
        let mut answer = Vec::new();
        let last = crowd.last_mut().unwrap();
        timeout(Duration::from_secs(5), last.read_to_end(&mut answer)).await.ok()?.ok()?;
        (!answer.is_empty()).then_some(answer)
    })
    .await;
    assert_eq!(text(&refusal), "-ERR max number of clients reached\r\n");
    until("room again", async || (server.raw(b"PING\r\n", 7).await == b"+PONG\r\n").then_some(()))
        .await;
}
