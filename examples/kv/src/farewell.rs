//! The last words of a server that ends by itself. It tells them to the other members, which show them
//! while they cannot reach it: when two of three disks are full, whoever looks at the one that is left
//! need not go through the logs of the others to learn why there is no leader.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use raft::ServerId;
use serde::Serialize;
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    failure::Failure,
    operator::{Ask, Operator},
    server::Server,
};

/// How long the others may take to listen.
const PATIENCE: Duration = Duration::from_secs(2);
/// For so long a server that has said farewell is away, whatever the transport has noticed yet.
const JUST_NOW: Duration = Duration::from_secs(5);
/// How much of what others say is kept.
const MAX_CHARS: usize = 1000;

/// What a server has said when it ended, and how long ago. Whether it has come back meanwhile only who
/// sends to it knows.
#[derive(Debug, Serialize)]
pub(crate) struct LastWords {
    why: Arc<str>,
    seconds_ago: u64,
}

/// What others have said, the newest of each.
#[derive(Debug, Default)]
pub(crate) struct Farewells(Mutex<BTreeMap<ServerId, (Arc<str>, Instant)>>);

impl Farewells {
    /// Notes why a member has ended.
    pub(crate) fn note(&self, id: ServerId, why: &str) {
        let why: String = why.chars().filter(|c| !c.is_control()).take(MAX_CHARS).collect();
        tracing::error!(server = %id, why, "another server has ended");
        self.0.lock().insert(id, (why.into(), Instant::now()));
    }

    /// What those have said who cannot be reached.
    pub(crate) fn of_those_away(&self, server: &Server) -> BTreeMap<ServerId, LastWords> {
        let members = server.node.configuration().configuration;
        let mut heard = self.0.lock();
        heard.retain(|id, _| members.server(id).is_some());
        let away = heard.iter().filter(|(id, (_, at))| {
            server.transport.trouble(id).is_some() || at.elapsed() < JUST_NOW
        });
        let words = |(why, at): &(Arc<str>, Instant)| LastWords {
            why: Arc::clone(why),
            seconds_ago: at.elapsed().as_secs(),
        };
        away.map(|(id, said)| (id.clone(), words(said))).collect()
    }

    /// The same in words, to be added to a sentence.
    pub(crate) fn in_words(&self, server: &Server) -> String {
        let away = self.of_those_away(server);
        let words = |(id, LastWords { why, seconds_ago }): (&ServerId, &LastWords)| {
            format!("; {id} has ended {seconds_ago} s ago: {why}")
        };
        away.iter().map(words).collect()
    }
}

/// Tells the other members why this server ends.
pub(crate) async fn say(server: &Server, why: &Failure) {
    let (me, members) = (server.node.id(), server.node.configuration().configuration);
    let contacts = server.shared.read(|state| state.contacts.clone());
    let others = contacts.into_iter().filter(|(id, _)| id != me && members.server(id).is_some());
    let body = json!({ "id": me, "cluster": server.cluster, "why": why.to_string() });
    let mut asked: JoinSet<_> = others
        .map(|(_, contact)| {
            let body = body.clone();
            move || Operator::new(contact.http, PATIENCE).ask("/farewell", &Ask::Post(body))
        })
        .fold(JoinSet::new(), |mut asked, ask| {
            asked.spawn_blocking(ask);
            asked
        });
    // Whoever does not hear it will find out that there is nobody any more.
    let _ = timeout(PATIENCE, async { while asked.join_next().await.is_some() {} }).await;
}
