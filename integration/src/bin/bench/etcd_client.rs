//! Clients of etcd: the two calls of its gRPC API that a measurement needs, straight on HTTP/2.
//!
//! The crate for etcd's whole API needs `protoc` to be compiled, and a client that does much would be
//! measured instead of the server.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::{BufMut, Bytes};
use clap::Args;
use h2::client::SendRequest;
use http::{Request, Version};
use tokio::net::TcpStream;

use crate::{
    isolated,
    load::{self, Load, Proposer},
    protobuf,
};

/// As in the measurements of etcd's own documentation: 1000 clients on 100 connections.
pub(crate) const CLIENTS_PER_CONNECTION: usize = 10;

/// A run of all clients, as a process of its own.
#[derive(Args, Debug)]
pub(crate) struct LoadArgs {
    #[arg(long)]
    leader: String,
    #[command(flatten)]
    load: load::LoadArgs,
}

/// How to run this program as these clients.
pub(crate) fn arguments(leader: &str, load: Load, workers: Option<usize>) -> Vec<String> {
    let mut arguments = ["etcd-load", "--leader", leader].map(str::to_owned).to_vec();
    arguments.extend(load.arguments(workers));
    arguments
}

/// The process of the clients.
pub(crate) fn run(args: &LoadArgs) -> Result<(), String> {
    let runtime = isolated::runtime(args.load.workers)?;
    let load = args.load.load();
    let clients = runtime.block_on(Clients::connect(&args.leader, load.clients))?;
    let stopwatch = isolated::stopwatch()?;
    isolated::report(&stopwatch.block_on(load::run(runtime.handle(), &clients, load)))
}

/// All clients: their connections, and whose turn it is.
#[derive(Clone)]
struct Clients {
    connections: Arc<[Connection]>,
    clients: usize,
    turn: Arc<AtomicUsize>,
}

impl Clients {
    async fn connect(leader: &str, clients: usize) -> Result<Self, String> {
        let mut connections = Vec::new();
        for _ in 0..clients.div_ceil(CLIENTS_PER_CONNECTION) {
            connections.push(Connection::open(leader).await?);
        }
        Ok(Self { connections: connections.into(), clients, turn: Arc::default() })
    }
}

impl Proposer for Clients {
    async fn propose(&self, command: Vec<u8>) -> Result<u64, String> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let connection = self.connections.get(turn % self.connections.len());
        let key = (turn % self.clients) as u64;
        connection.ok_or("there is no client")?.put(&key.to_be_bytes(), &command).await
    }
}

/// An open connection, shared by its clones.
#[derive(Clone)]
pub(crate) struct Connection {
    address: String,
    requests: SendRequest<Bytes>,
}

/// Who a server is and whom it takes for the leader; zero: nobody.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) member: u64,
    pub(crate) leader: u64,
}

impl Connection {
    pub(crate) async fn open(address: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let handshake = h2::client::handshake(stream).await;
        let (requests, connection) = handshake.map_err(|error| error.to_string())?;
        // When it fails, every call on it says so.
        tokio::spawn(connection);
        Ok(Self { address: address.to_owned(), requests })
    }

    /// Puts a value, and returns the revision that it has given to the whole store.
    async fn put(&self, key: &[u8], value: &[u8]) -> Result<u64, String> {
        let mut message = Vec::with_capacity(key.len() + value.len() + 16);
        protobuf::put_bytes(&mut message, 1, key);
        protobuf::put_bytes(&mut message, 2, value);
        let answer = self.call("etcdserverpb.KV/Put", &message).await?;
        let revision = protobuf::bytes(&answer, 1).and_then(|header| protobuf::number(header, 3));
        revision.ok_or_else(|| "etcd's answer cannot be read".to_owned())
    }

    pub(crate) async fn status(&self) -> Result<Status, String> {
        let answer = self.call("etcdserverpb.Maintenance/Status", &[]).await?;
        let member = protobuf::bytes(&answer, 1).and_then(|header| protobuf::number(header, 2));
        let status = member.zip(protobuf::number(&answer, 4));
        let (member, leader) = status.ok_or("etcd's status cannot be read")?;
        Ok(Status { member, leader })
    }

    /// One gRPC call with one message either way.
    async fn call(&self, method: &str, message: &[u8]) -> Result<Vec<u8>, String> {
        let request = Request::post(format!("http://{}/{method}", self.address))
            .version(Version::HTTP_2)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .map_err(text)?;
        let mut requests = self.requests.clone().ready().await.map_err(text)?;
        let (response, mut stream) = requests.send_request(request, false).map_err(text)?;
        // Not compressed, and how long it is.
        let mut framed = Vec::with_capacity(PREFIX_BYTES + message.len());
        framed.put_u8(0);
        framed.put_u32(message.len() as u32);
        framed.put_slice(message);
        stream.send_data(framed.into(), true).map_err(text)?;

        let response = response.await.map_err(text)?;
        let headers = response.headers().clone();
        let mut body = response.into_body();
        let mut answer = Vec::new();
        while let Some(data) = body.data().await {
            let data = data.map_err(text)?;
            body.flow_control().release_capacity(data.len()).map_err(text)?;
            answer.extend_from_slice(&data);
        }
        // A refusal may come without a body, and then says so at once.
        let trailers = body.trailers().await.map_err(text)?.unwrap_or(headers);
        match trailers.get("grpc-status") {
            Some(status) if status == "0" => Ok(answer.split_off(PREFIX_BYTES.min(answer.len()))),
            status => {
                let message = trailers.get("grpc-message");
                Err(format!("etcd refused {method}: status {status:?}, {message:?}"))
            }
        }
    }
}

/// What gRPC puts before a message.
const PREFIX_BYTES: usize = 5;

fn text(error: impl std::fmt::Display) -> String {
    format!("etcd: {error}")
}
