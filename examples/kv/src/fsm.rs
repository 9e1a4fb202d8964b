//! The state machine: the map, and the table of where each server can be reached.
//!
//! The library owns the [`KvFsm`] and applies the log to it; everybody else holds the [`Shared`]
//! part and reads. The table of contacts is replicated like the map, so that any server that has
//! applied the log knows where the leader takes requests, and so does one that starts from a
//! snapshot. It is no part of the map's digest: it says where servers are, not what clients wrote.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::RwLock;
use raft::{
    Entry, Fsm, FsmError, FsmSnapshot, IndexedConfiguration, LogIndex, ServerId, SnapshotReader,
};

use crate::{command::Command, encoding, map::Map, resp::Reply, snapshot};

/// Where a server takes requests from the outside, as `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Contact {
    /// For Redis clients, and for requests that other servers pass on.
    pub(crate) resp: String,
    /// For operators.
    pub(crate) http: String,
}

/// The contacts of all servers that have announced theirs.
pub(crate) type Contacts = BTreeMap<ServerId, Contact>;

/// Everything the log has brought about.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) map: Map,
    pub(crate) contacts: Contacts,
    /// The last command applied. Entries that are no commands do not move it. After a restore of a
    /// backup it is 0 until the next one: the backup's own is of another log.
    pub(crate) index: LogIndex,
}

/// The state as its readers hold it.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    state: RwLock<State>,
}

impl Shared {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Looks at the state while nothing is applied: be quick.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read())
    }

    pub(crate) fn contact(&self, id: &ServerId) -> Option<Contact> {
        self.read(|state| state.contacts.get(id).cloned())
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.write())
    }
}

/// The side of the state that the library writes to.
#[derive(Debug)]
pub(crate) struct KvFsm {
    shared: Arc<Shared>,
}

impl KvFsm {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl Fsm for KvFsm {
    type Response = Reply;

    fn apply(&mut self, entry: &Entry) -> Reply {
        let mut responses = Vec::with_capacity(1);
        self.apply_batch(&[entry], &mut responses);
        responses.pop().unwrap_or(Reply::Nil)
    }

    /// One lock for the batch: readers see all of it or nothing.
    fn apply_batch(&mut self, entries: &[&Entry], responses: &mut Vec<Reply>) {
        self.shared.change(|state| {
            responses.extend(entries.iter().map(|entry| apply(state, entry)));
        });
    }

    /// Members that have left need no contact any more.
    fn configuration_changed(&mut self, configuration: &IndexedConfiguration) {
        let members = &configuration.configuration;
        self.shared.change(|state| state.contacts.retain(|id, _| members.server(id).is_some()));
    }

    fn snapshot(&mut self) -> Result<Box<dyn FsmSnapshot>, FsmError> {
        Ok(Box::new(snapshot::View(self.shared.read(State::clone))))
    }

    async fn restore(&mut self, reader: SnapshotReader) -> Result<(), FsmError> {
        let restored = snapshot::read(reader).await?;
        // Freed when readers no longer wait.
        drop(self.shared.change(|state| std::mem::replace(state, restored)));
        Ok(())
    }
}

fn apply(state: &mut State, entry: &Entry) -> Reply {
    state.index = entry.index;
    match encoding::decode(entry.data()) {
        Some(Command::Announce { id, resp, http }) => {
            let contact = Contact { resp: resp.to_owned(), http: http.to_owned() };
            state.contacts.insert(ServerId::new(id), contact);
            Reply::OK
        }
        Some(command) => command.apply(&mut state.map),
        // Every server of this version answers the same, but a newer one would carry it out: all
        // servers are to be upgraded before anybody uses what is new.
        None => Reply::error("ERR this server is too old to understand the command"),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use raft::{Configuration, EntryPayload, Server, Term};

    use super::*;
    use crate::command::{Answer, Condition};

    fn entry(index: u64, command: &Command<'_>) -> Entry {
        let payload = EntryPayload::Command(encoding::encode(command).into());
        Entry { term: Term(1), index: LogIndex(index), payload }
    }

    fn set(index: u64, key: &str, value: &str) -> Entry {
        let (condition, answer) = (Condition::Always, Answer::Status);
        let (key, value) = (key.as_bytes(), value.as_bytes());
        entry(index, &Command::Set { key, value, condition, answer })
    }

    fn announce(index: u64, id: &str) -> Entry {
        entry(index, &Command::Announce { id, resp: "host:1", http: "host:2" })
    }

    async fn snapshot_of(fsm: &mut KvFsm) -> Vec<u8> {
        let mut bytes = Vec::new();
        fsm.snapshot().unwrap().persist(&mut bytes).await.unwrap();
        bytes
    }

    fn history() -> Vec<Entry> {
        let mut entries: Vec<_> =
            (1..=200).map(|n| set(n, &format!("k{}", n % 50), &n.to_string())).collect();
        entries.push(entry(201, &Command::IncrBy { key: b"k7", by: 3 }));
        entries.push(entry(203, &Command::Del { keys: vec![b"k1", b"k2"] }));
        entries.push(announce(204, "a"));
        entries
    }

    /// Deterministic, the same in batches, snapshots that are of their moment and restore all.
    #[tokio::test]
    async fn keeps_every_promise_a_state_machine_makes() {
        let commands = history().into_iter().map(|entry| Bytes::copy_from_slice(entry.data()));
        let everything = |fsm: &KvFsm| {
            let State { map, contacts, index } = fsm.shared.read(State::clone);
            let pairs: Vec<_> = map.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            (pairs, map.len(), map.digest(), contacts, index)
        };
        raft::testing::fsm_suite(|| KvFsm::new(Shared::new()), commands, everything).await;
    }

    #[tokio::test]
    async fn a_damaged_snapshot_is_refused_and_changes_nothing() {
        let mut source = KvFsm::new(Shared::new());
        history().iter().for_each(|entry| drop(source.apply(entry)));
        let good = snapshot_of(&mut source).await;

        let shared = Shared::new();
        let mut fsm = KvFsm::new(Arc::clone(&shared));
        fsm.apply(&set(1, "kept", "x"));
        for position in (0..good.len()).step_by(97) {
            let mut bad = good.clone();
            bad[position] ^= 0x20;
            assert!(fsm.restore(Box::new(std::io::Cursor::new(bad))).await.is_err());
            let cut = good[..position].to_vec();
            assert!(fsm.restore(Box::new(std::io::Cursor::new(cut))).await.is_err());
        }
        let long = [&good[..], b"x"].concat();
        assert!(fsm.restore(Box::new(std::io::Cursor::new(long))).await.is_err());
        assert!(shared.read(|s| s.map.contains(&Bytes::from("kept"))));
    }

    #[test]
    fn a_contact_leaves_with_its_member() {
        let shared = Shared::new();
        let mut fsm = KvFsm::new(Arc::clone(&shared));
        fsm.apply(&announce(1, "a"));
        fsm.apply(&announce(2, "b"));
        assert!(shared.contact(&"a".into()).is_some());

        let configuration = Configuration::new([Server::voter("b", "host:0")]);
        let configuration = IndexedConfiguration { index: LogIndex(4), configuration };
        fsm.configuration_changed(&configuration);
        assert_eq!(shared.contact(&"a".into()), None);
        assert!(shared.contact(&"b".into()).is_some());
    }

    #[test]
    fn bytes_that_are_no_command_are_answered_and_not_fatal() {
        let mut fsm = KvFsm::new(Shared::new());
        let payload = EntryPayload::Command(Bytes::from_static(b"\xffjunk"));
        let entry = Entry { term: Term(1), index: LogIndex(1), payload };
        assert!(matches!(fsm.apply(&entry), Reply::Error(_)));
    }
}
