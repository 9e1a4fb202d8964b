//! Who is connected, for `CLIENT LIST` and `CLIENT INFO`.

use std::{collections::BTreeMap, fmt::Write, os::fd::AsRawFd, sync::Arc};

use parking_lot::Mutex;
use tokio::{net::TcpStream, time::Instant};

use super::{Protocol, request};

/// Everybody connected to the Redis port, by the number of the connection.
#[derive(Debug, Default)]
pub(crate) struct Clients(Mutex<BTreeMap<u64, Arc<Card>>>);

/// What is known of one connection.
#[derive(Debug)]
pub(crate) struct Card {
    id: u64,
    address: String,
    local_address: String,
    descriptor: i32,
    since: Instant,
    state: Mutex<State>,
}

/// The part that changes.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) name: String,
    pub(crate) library: String,
    pub(crate) library_version: String,
    pub(crate) protocol: Protocol,
    /// The newest command.
    pub(crate) command: &'static str,
    pub(crate) asked: Instant,
}

impl Clients {
    /// Notes a connection. It is forgotten when what is returned is dropped.
    pub(crate) fn enter(self: &Arc<Self>, id: u64, stream: &TcpStream) -> Entered {
        let text = |address: std::io::Result<std::net::SocketAddr>| {
            address.map_or_else(|_| String::new(), |address| address.to_string())
        };
        let now = Instant::now();
        let state = State {
            name: String::new(),
            library: String::new(),
            library_version: String::new(),
            protocol: Protocol::default(),
            command: "NULL",
            asked: now,
        };
        let card = Arc::new(Card {
            id,
            address: text(stream.peer_addr()),
            local_address: text(stream.local_addr()),
            descriptor: stream.as_raw_fd(),
            since: now,
            state: Mutex::new(state),
        });
        self.0.lock().insert(id, Arc::clone(&card));
        Entered { clients: Arc::clone(self), card }
    }

    /// A line for each that is wanted, by number.
    pub(crate) fn list(&self, wanted: impl Fn(u64) -> bool) -> String {
        let all = self.0.lock().clone();
        let lines = all.values().filter(|card| wanted(card.id)).map(|card| card.line());
        lines.collect()
    }
}

/// A connection on the list.
#[derive(Debug)]
pub(crate) struct Entered {
    clients: Arc<Clients>,
    card: Arc<Card>,
}

impl Entered {
    pub(crate) fn id(&self) -> u64 {
        self.card.id
    }

    pub(crate) fn name(&self) -> String {
        self.card.state.lock().name.clone()
    }

    /// As in `CLIENT INFO`.
    pub(crate) fn line(&self) -> String {
        self.card.line()
    }

    pub(crate) fn note(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.card.state.lock());
    }

    /// Notes a command, known or not.
    pub(crate) fn asks(&self, name: &[u8]) {
        let command = request::find(name).map_or("NULL", |spec| spec.name);
        self.note(|state| (state.command, state.asked) = (command, Instant::now()));
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.clients.0.lock().remove(&self.card.id);
    }
}

impl Card {
    /// All the fields of Redis, because clients look for them; 0 for what there is not.
    fn line(&self) -> String {
        let State { name, library, library_version, protocol, command, asked } =
            self.state.lock().clone();
        let Self { id, address, local_address, descriptor, since, .. } = self;
        let mut line = format!("id={id} addr={address} laddr={local_address} fd={descriptor}");
        let (age, idle) = (since.elapsed().as_secs(), asked.elapsed().as_secs());
        let protocol = protocol.number();
        let _ = writeln!(
            line,
            " name={name} age={age} idle={idle} flags=N db=0 sub=0 psub=0 ssub=0 multi=-1 watch=0 \
             qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 \
             events=r cmd={command} user=default redir=-1 resp={protocol} lib-name={library} \
             lib-ver={library_version}"
        );
        line
    }
}
