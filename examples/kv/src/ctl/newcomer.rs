//! How far a server has come that somebody waits for, as the leader sees it.

use std::{fmt, mem, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use super::{
    list,
    status::{has_answered, peer},
    table::text_of,
};
use crate::{
    log::tell,
    operator::{Ask, Operator},
};

/// For asking the leader, which may be gone.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Between two lines, unless something else is in the server's way now.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// How far it has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Newcomer {
    /// Nobody leads who could say it.
    Unknown,
    /// It is no member.
    Gone,
    /// It has not answered the leader, ever or lately; and why, if the leader knows.
    Silent(Option<String>),
    /// It runs on another disk than the cluster knows.
    WrongDisk,
    /// It is being sent a snapshot: how much of it has arrived.
    Receives { bytes: String, size: String },
    /// It lacks so many entries.
    Lacks(String),
}

impl fmt::Display for Newcomer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => write!(f, "no leader is known that could say how far it has come"),
            Self::Gone => write!(f, "it is no member"),
            Self::Silent(None) => write!(f, "it does not answer the leader"),
            Self::Silent(Some(why)) => write!(f, "it does not answer the leader: {why}"),
            Self::WrongDisk => write!(f, "it runs on another disk than the cluster knows"),
            Self::Receives { bytes, size } => {
                write!(f, "it has {bytes} of {size} bytes of the snapshot that it is sent")
            }
            Self::Lacks(entries) => write!(f, "it lacks {entries} entries"),
        }
    }
}

impl Newcomer {
    /// Asks the leader.
    pub(super) fn look(operator: &Operator, id: &str) -> Self {
        let leader = || {
            let members = operator.ask("/members", &Ask::Get).ok()?;
            let leader = list(&members).iter().find(|member| member["leader"] == true)?;
            Operator::new(leader["http"].as_str()?, TIMEOUT).ask("/status", &Ask::Get).ok()
        };
        leader().map_or(Self::Unknown, |leader| Self::seen_from(&leader, id))
    }

    fn seen_from(leader: &Value, id: &str) -> Self {
        if leader["raft"]["role"] != "Leader" {
            return Self::Unknown;
        }
        let Some(peer) = peer(leader, id) else { return Self::Gone };
        let wrong = leader["raft"]["wrong_disks"].as_array();
        if wrong.into_iter().flatten().any(|disk| disk["server"] == id) {
            return Self::WrongDisk;
        }
        if peer["is_lost"] == true || !has_answered(peer) {
            return Self::Silent(leader["unreachable"][id].as_str().map(str::to_owned));
        }
        if peer["progress"] == "Snapshot" {
            let (bytes, size) = (&peer["snapshot_received_bytes"], &peer["snapshot_size_bytes"]);
            return Self::Receives { bytes: text_of(bytes), size: text_of(size) };
        }
        Self::Lacks(text_of(&peer["lag_entries"]))
    }
}

/// Tells on standard error how far a server has come: at once when something else is in its way, else
/// now and then.
#[derive(Debug, Default)]
pub(super) struct Line {
    shown: Option<(Newcomer, Instant)>,
}

impl Line {
    pub(super) fn show(&mut self, state: Newcomer) {
        if let Some((shown, at)) = &self.shown
            && mem::discriminant(shown) == mem::discriminant(&state)
            && at.elapsed() < BETWEEN_LINES
        {
            return;
        }
        tell!("waiting: {state}");
        self.shown = Some((state, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_leader_says_what_is_in_the_way() {
        let peer = |lost: bool, answered: bool, progress: &str| {
            json!([{
                "id": "d", "is_lost": lost, "round_trip_seconds": answered.then_some(0.001),
                "progress": progress, "lag_entries": 3, "snapshot_received_bytes": 30,
                "snapshot_size_bytes": null,
            }])
        };
        let receives = Newcomer::Receives { bytes: "30".to_owned(), size: "-".to_owned() };
        let cases = [
            (json!([]), Newcomer::Gone),
            (peer(false, false, "Probe"), Newcomer::Silent(None)),
            (peer(true, true, "Replicate"), Newcomer::Silent(None)),
            (peer(false, true, "Snapshot"), receives),
            (peer(false, true, "Replicate"), Newcomer::Lacks("3".to_owned())),
        ];
        for (peers, expected) in cases {
            let leader = json!({ "raft": { "role": "Leader", "peers": peers } });
            assert_eq!(Newcomer::seen_from(&leader, "d"), expected);
        }
        let peers = peer(false, true, "Replicate");
        let mut leader = json!({ "raft": { "role": "Leader", "peers": peers } });
        leader["raft"]["peers"][0]["is_lost"] = json!(true);
        leader["unreachable"] = json!({ "d": "refused: another cluster" });
        let state = Newcomer::seen_from(&leader, "d");
        assert_eq!(state.to_string(), "it does not answer the leader: refused: another cluster");
        leader["raft"]["wrong_disks"] = json!([{ "server": "d" }]);
        assert_eq!(Newcomer::seen_from(&leader, "d"), Newcomer::WrongDisk);
        leader["raft"]["role"] = json!("Follower");
        assert_eq!(Newcomer::seen_from(&leader, "d"), Newcomer::Unknown);
    }
}
