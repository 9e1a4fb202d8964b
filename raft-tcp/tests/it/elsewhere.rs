//! Servers that call from another address than the one they are known by: after a move, after two have
//! swapped their addresses.

use std::{sync::Arc, time::Duration};

use raft::{
    Config, Configuration, Raft, Role, Server, ServerId, Transport as _,
    inmem::{InmemLogStore, InmemSnapshotStore, InmemStableStore},
    testing::Journal,
};
use raft_tcp::TcpTransport;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::common::*;

/// An address of somebody who is not there: bound, so that nobody else gets the port, but not listening.
fn nobody() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

/// A server that says in its hello where it is.
async fn caller(id: &str, address: &str, to: &Server) -> TcpStream {
    let hello = RawHello { address: address.to_owned(), ..hello(id, to.id.as_str()) };
    let mut stream = raw_dial(to, &hello.bytes()).await;
    assert_eq!(raw_answer(&mut stream).await, (0, String::new()));
    stream
}

/// Accepts both lanes, while messages are sent to `to`.
async fn accept_while_sending(from: &Node, to: &Server, at: &RawServer) -> (TcpStream, TcpStream) {
    let sending = async {
        loop {
            let _ = from.transport.send(to, heartbeat(1));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        accepted = at.accept_both() => accepted,
        never = sending => never,
    }
}

/// One that lets the servers that the tests play be silent.
async fn patient_node(id: &str) -> Node {
    node_with(id, options().with(|it| it.idle_timeout = Duration::from_secs(3600))).await
}

#[tokio::test]
async fn a_server_that_has_moved_is_reached_where_it_calls_from() {
    let (a, mut b) = (node("a").await, node("b").await);
    let (_socket, address) = nobody();
    let known = Server::voter("b", address);
    until_unreachable(&a, &known).await;
    b.transport.send(&a.server, heartbeat(1)).unwrap();
    let now = b.server.clone();
    b.server = known;
    talk_from(&a, &mut b, &now).await;
    // As long as it calls.
    soon("close", b.transport.close()).await;
    until_unreachable(&a, &b.server).await;
}

/// At its address is somebody else, who says so.
#[tokio::test]
async fn two_servers_that_have_swapped_their_addresses_are_reached() {
    let (a, mut b, mut c) = (node("a").await, node("b").await, node("c").await);
    let (at_b, at_c) = (b.server.clone(), c.server.clone());
    b.server.address = at_c.address.clone();
    c.server.address = at_b.address.clone();
    for server in [&b, &c] {
        let reason = until_unreachable(&a, &server.server).await;
        assert!(reason.contains("the dialler means server"), "{reason}");
        server.transport.send(&a.server, heartbeat(1)).unwrap();
    }
    talk_from(&a, &mut b, &at_b).await;
    talk_from(&a, &mut c, &at_c).await;
}

/// As [`talk`], with a server that is somewhere else than `to` says.
async fn talk_from(from: &Node, to: &mut Node, actual: &Server) {
    assert_ne!(to.server.address, actual.address);
    talk(from, to).await;
}

/// The same server may have two names, of which only one works from here, and what calls in may say any.
#[tokio::test]
async fn a_server_whose_address_works_is_never_called_elsewhere() {
    let a = patient_node("a").await;
    let (known, other) = (RawServer::listen("b").await, RawServer::listen("b").await);
    let _calls = caller("b", other.server.address.as_str(), &a.server).await;
    a.transport.send(&known.server, heartbeat(1)).unwrap();
    let (mut urgent, mut entries) = known.accept_both().await;
    for round in 2..20 {
        a.transport.send(&known.server, heartbeat(round)).unwrap();
        a.transport.send_entries(&known.server, append(round, 10)).await.unwrap();
        assert_eq!(raw_read_message(&mut entries).await.0, 2);
    }
    assert_eq!(raw_read_message(&mut urgent).await.1, [2, 1, 1, 0, 0]);
    let dialled = timeout(Duration::from_millis(100), other.listener.accept()).await;
    assert!(dialled.is_err(), "nobody dials the other address");
}

/// The way to where a server calls from is given up when its address works again.
#[tokio::test]
async fn a_server_that_comes_back_to_its_address_is_called_there() {
    let a = patient_node("a").await;
    let (socket, address) = nobody();
    let server = Server::voter("b", address);
    until_unreachable(&a, &server).await;
    let other = RawServer::listen("b").await;
    let _calls = caller("b", other.server.address.as_str(), &a.server).await;
    let (urgent, entries) = accept_while_sending(&a, &server, &other).await;
    let back = RawServer { server: server.clone(), listener: socket.listen(8).unwrap() };
    let (mut back_urgent, _back_entries) = back.accept_both().await;
    // The same server: what is newer takes the place of what is older.
    drop((urgent, entries));
    a.transport.send(&server, heartbeat(2)).unwrap();
    assert_eq!(raw_read_message(&mut back_urgent).await.1, [2, 1, 2, 0, 0]);
    let again = timeout(Duration::from_millis(100), other.listener.accept()).await;
    assert!(again.is_err(), "nobody dials the other address any more");
}

#[tokio::test]
async fn a_way_that_is_lost_is_made_again_and_ends_with_its_server() {
    let a = patient_node("a").await;
    let (_socket, address) = nobody();
    let server = Server::voter("b", address);
    until_unreachable(&a, &server).await;
    let b = RawServer::listen("b").await;
    let _calls = caller("b", b.server.address.as_str(), &a.server).await;
    let mut connections = None;
    for _ in 0..3 {
        drop(connections.take());
        connections = Some(accept_while_sending(&a, &server, &b).await);
    }
    a.transport.forget(&"b".into());
    let (mut urgent, mut entries) = connections.unwrap();
    raw_closed(&mut urgent).await;
    raw_closed(&mut entries).await;
}

/// A server of a cluster, on stores that outlive it.
struct Member {
    id: ServerId,
    log: InmemLogStore,
    stable: InmemStableStore,
    snapshots: InmemSnapshotStore,
    bind: String,
    raft: Option<Raft<Journal>>,
}

impl Member {
    fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            log: InmemLogStore::new(),
            stable: InmemStableStore::new(),
            snapshots: InmemSnapshotStore::new(),
            bind: "127.0.0.1:0".to_owned(),
            raft: None,
        }
    }

    async fn start(&mut self) -> String {
        let options = options().with(|it| it.bind = self.bind.clone());
        let transport = TcpTransport::bind(options).await.unwrap();
        let address = transport.local_address().to_string();
        self.bind.clone_from(&address);
        let raft = Raft::new(
            Config::new(self.id.clone()),
            Journal::default(),
            self.log.clone(),
            self.stable.clone(),
            Arc::new(self.snapshots.clone()),
            transport,
        );
        self.raft = Some(raft.await.unwrap());
        address
    }

    async fn stop(&mut self) {
        if let Some(raft) = self.raft.take() {
            soon("shutdown", raft.shutdown()).await;
        }
    }

    fn raft(&self) -> &Raft<Journal> {
        self.raft.as_ref().unwrap()
    }
}

/// Three members, and who of them leads.
async fn cluster() -> ([Member; 3], usize) {
    let mut members = ["a", "b", "c"].map(Member::new);
    let mut voters = Vec::new();
    for member in &mut members {
        let address = member.start().await;
        voters.push(Server::voter(member.id.clone(), address));
    }
    members[0].raft().bootstrap_cluster(Configuration::new(voters)).await.unwrap();
    let leader = leader(&members).await;
    let index = members[leader].raft().apply("before").await.unwrap().index;
    for member in &members {
        soon("all have it", member.raft().wait_applied(index)).await.unwrap();
    }
    (members, leader)
}

/// Who leads so that something is committed.
async fn leader(members: &[Member; 3]) -> usize {
    soon("somebody leads", async {
        loop {
            for (number, member) in members.iter().enumerate() {
                let raft = member.raft();
                let serves = timeout(Duration::from_secs(1), raft.barrier());
                if raft.role() == Role::Leader && matches!(serves.await, Ok(Ok(_))) {
                    return number;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

/// Tells whoever leads where a member is by now.
async fn tell(members: &[Member; 3], number: usize) {
    let member = &members[number];
    soon("the leader is told", async {
        loop {
            let leader = members[leader(members).await].raft();
            let told = leader.add_voter(member.id.clone(), member.bind.as_str(), None).await;
            if told.is_ok() {
                return;
            }
        }
    })
    .await;
}

/// Tells where everybody is, and sees to it that all are served.
async fn mend(members: &[Member; 3]) {
    for number in 0..members.len() {
        tell(members, number).await;
    }
    let leader = members[leader(members).await].raft();
    let index = leader.apply("after").await.unwrap().index;
    for member in members {
        soon("all are served", member.raft().wait_applied(index)).await.unwrap();
        assert_eq!(member.raft().status().await.unwrap().wrong_address, None);
    }
}

#[tokio::test]
async fn two_of_three_that_have_moved_elect_a_leader_and_are_mended_live() {
    let (mut members, leader) = cluster().await;
    let moved = [(leader + 1) % 3, (leader + 2) % 3];
    for number in moved {
        members[number].stop().await;
    }
    for number in moved {
        members[number].bind = "127.0.0.1:0".to_owned();
        members[number].start().await;
        let status = members[number].raft().status().await.unwrap();
        let wrong = status.wrong_address.expect("it says that it has moved");
        assert_eq!(wrong.actual.as_str(), members[number].bind);
    }
    mend(&members).await;
}

#[tokio::test]
async fn two_of_three_that_have_swapped_their_addresses_elect_a_leader_and_are_mended_live() {
    let (mut members, leader) = cluster().await;
    let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
    members[one].stop().await;
    members[other].stop().await;
    let bind = members[one].bind.clone();
    members[one].bind = std::mem::replace(&mut members[other].bind, bind);
    members[one].start().await;
    members[other].start().await;
    // The list cannot have two servers at one address, not even for a moment: one of them moves on.
    self::leader(&members).await;
    members[other].stop().await;
    members[other].bind = "127.0.0.1:0".to_owned();
    members[other].start().await;
    tell(&members, other).await;
    tell(&members, one).await;
    mend(&members).await;
}
