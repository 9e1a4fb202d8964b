//! The promises every transport makes.

use std::sync::Arc;

use raft::{Server, Transport, testing::transport_suite};
use raft_tcp::TcpTransport;

use crate::common::*;

async fn cluster(n: usize) -> Vec<(Server, Arc<dyn Transport>)> {
    let mut cluster: Vec<(_, Arc<dyn Transport>)> = Vec::new();
    for i in 0..n {
        let transport = TcpTransport::bind(options()).await.unwrap();
        cluster.push((Server::voter(format!("s{i}"), transport.local_address()), transport));
    }
    cluster
}

#[tokio::test]
async fn on_one_thread() {
    transport_suite(cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_many_threads() {
    transport_suite(cluster).await;
}
