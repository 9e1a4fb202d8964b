//! What is counted: every metric of the documented table, as documented, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    sync::Arc,
    time::Duration,
};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use parking_lot::Mutex;
use raft::{
    Config, Configuration, Entry, Fsm, FsmError, FsmSnapshot, Message, Observation, Raft, Server,
    inmem::{InmemLogStore, InmemNetwork, InmemSnapshotStore, InmemStableStore},
    testing::Cluster,
};
use tokio::time::sleep;

use crate::model_support::{ABC, ELECTION, all_but, settle};

/// What a metric is: its type and its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shape {
    kind: &'static str,
    labels: BTreeSet<String>,
}

/// What was told of one metric with certain labels.
#[derive(Debug)]
struct Told {
    name: String,
    shape: Shape,
    labels: BTreeMap<String, String>,
    /// The sum of a counter, the last value of a gauge, the values of a histogram. Empty if nothing
    /// was told yet.
    values: Mutex<Vec<f64>>,
}

impl CounterFn for Told {
    fn increment(&self, value: u64) {
        let mut values = self.values.lock();
        let before = values.pop().unwrap_or_default();
        values.push(before + value as f64);
    }

    fn absolute(&self, _: u64) {
        panic!("{} would stand still when its server is started again", self.name);
    }
}

impl GaugeFn for Told {
    fn increment(&self, _: f64) {
        panic!("{} is set, never moved", self.name);
    }

    fn decrement(&self, _: f64) {
        panic!("{} is set, never moved", self.name);
    }

    fn set(&self, value: f64) {
        *self.values.lock() = vec![value];
    }
}

impl HistogramFn for Told {
    fn record(&self, value: f64) {
        self.values.lock().push(value);
    }
}

#[derive(Default)]
struct Book {
    told: Mutex<Vec<Arc<Told>>>,
    described: Mutex<BTreeMap<String, Described>>,
}

/// What was said of a metric beforehand.
#[derive(Debug, PartialEq)]
struct Described {
    kind: &'static str,
    unit: Option<Unit>,
    meaning: String,
}

impl Book {
    fn describe(&self, kind: &'static str, name: KeyName, unit: Option<Unit>, text: SharedString) {
        let described = Described { kind, unit, meaning: text.into_owned() };
        self.described.lock().insert(name.as_str().to_owned(), described);
    }

    fn told(&self, kind: &'static str, key: &Key) -> Arc<Told> {
        let labels: BTreeMap<String, String> =
            key.labels().map(|it| (it.key().to_owned(), it.value().to_owned())).collect();
        let mut all = self.told.lock();
        let same = |told: &&Arc<Told>| told.name == key.name() && told.labels == labels;
        if let Some(told) = all.iter().find(same) {
            assert_eq!(told.shape.kind, kind, "{}", told.name);
            return Arc::clone(told);
        }
        let shape = Shape { kind, labels: labels.keys().cloned().collect() };
        let values = Mutex::default();
        let told = Arc::new(Told { name: key.name().to_owned(), shape, labels, values });
        all.push(Arc::clone(&told));
        told
    }

    /// Every metric of which something was told, also if it was only that it is absent by now.
    fn emitted(&self) -> BTreeMap<String, Shape> {
        let mut emitted = BTreeMap::new();
        let is_known = |told: &&Arc<Told>| told.values.lock().iter().any(|value| !value.is_nan());
        for told in self.told.lock().iter().filter(is_known) {
            let before = emitted.insert(told.name.clone(), told.shape.clone());
            assert!(before.is_none_or(|before| before == told.shape), "{}", told.name);
        }
        emitted
    }

    /// The values of a metric, of this server and with this label.
    fn values(&self, name: &str, server: &str, label: Option<(&str, &str)>) -> Vec<f64> {
        let all = self.told.lock();
        let is_it = |told: &&Arc<Told>| {
            told.name == name
                && told.labels.get("server").is_some_and(|it| it == server)
                && label
                    .is_none_or(|(key, value)| told.labels.get(key).is_some_and(|it| it == value))
        };
        all.iter().filter(is_it).flat_map(|told| told.values.lock().clone()).collect()
    }

    /// The gauges of this server, and with this label, that show anything but that their figure is
    /// absent, as the page has it.
    fn present(&self, server: &str, label: Option<(&str, &str)>) -> Vec<String> {
        let all = self.told.lock();
        let has = |told: &Told, key, value| told.labels.get(key).is_some_and(|it| it == value);
        let is_absent = |told: &Told, value: f64| match told.name.as_str() {
            "raft.is_leader" | "raft.wrong_disks" | "raft.queue.length" | "raft.log.trouble" => {
                value == 0.0
            }
            "raft.peer.lag_entries"
            | "raft.peer.inflight"
            | "raft.peer.is_stalled"
            | "raft.peer.can_serve" => value == 0.0,
            name if name.ends_with(".saturation") => value == 0.0,
            _ => value.is_nan(),
        };
        let shown = all.iter().filter(|told| {
            told.shape.kind == "gauge"
                && has(told, "server", server)
                && label.is_none_or(|(key, value)| has(told, key, value))
                && !told.values.lock().iter().all(|value| is_absent(told, *value))
        });
        shown.map(|told| format!("{} {:?}: {:?}", told.name, told.labels, told.values)).collect()
    }

    fn last(&self, name: &str, server: &str, label: Option<(&str, &str)>) -> f64 {
        self.values(name, server, label).last().copied().unwrap_or(f64::NAN)
    }
}

impl Recorder for Book {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe("counter", name, unit, text);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe("gauge", name, unit, text);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe("histogram", name, unit, text);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.told("counter", key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.told("gauge", key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.told("histogram", key))
    }
}

/// The rows of a table of metrics: the shape, the unit and the meaning of each.
fn table(text: &str) -> BTreeMap<String, (Shape, String, String)> {
    let cell = |text: &str| text.trim().trim_matches('`').to_owned();
    let rows = text.lines().map(|line| line.trim_start_matches("///").trim());
    let rows = rows.filter(|line| line.starts_with("| `raft."));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let kind = ["counter", "gauge", "histogram"];
        let kind = kind.into_iter().find(|kind| *kind == cell(cells[1])).unwrap();
        let labels = [cell(cells[3]), "server".to_owned()];
        let labels = labels.into_iter().filter(|label| !label.is_empty()).collect();
        (cell(cells[0]), (Shape { kind, labels }, cell(cells[2]), cells[4].trim().to_owned()))
    })
    .collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// A state machine whose snapshots fail.
struct Broken;

impl Fsm for Broken {
    type Response = ();

    fn apply(&mut self, _: &Entry) {}

    fn snapshot(&mut self) -> Result<Box<dyn FsmSnapshot>, FsmError> {
        Err(io::Error::other("planted: no snapshot").into())
    }
}

/// A server alone, whose snapshot fails.
async fn fail_to_snapshot() {
    let raft = Raft::new(
        Config::new("alone"),
        Broken,
        InmemLogStore::new(),
        InmemStableStore::new(),
        Arc::new(InmemSnapshotStore::new()),
        InmemNetwork::new().transport("alone"),
    );
    let raft = raft.await.unwrap();
    let voters = Configuration::new([Server::voter("alone", "alone")]);
    raft.bootstrap_cluster(voters).await.unwrap();
    raft.snapshot().await.unwrap_err();
    raft.shutdown().await;
}

/// Lets everything happen to a cluster that is counted.
async fn live() -> Cluster {
    let mut cluster =
        Cluster::with_config(ABC, |config| config.with(|it| it.trailing_logs = 2)).await;
    let leader = cluster.leader().await;
    let observer = leader.observe(1, |_| true);
    leader.apply("x").await.unwrap();
    leader.apply_batch(vec!["y".into(), "z".into()]).await.unwrap();
    leader.verify_leader().await.unwrap();
    drop(observer);
    // A follower that needs a snapshot.
    let follower = cluster.followers()[0].id().to_string();
    cluster.network().disconnect(follower.as_str());
    for number in 0..20 {
        leader.apply(format!("{number}")).await.unwrap();
    }
    let snapshot = leader.snapshot().await.unwrap();
    cluster.network().connect(follower.as_str());
    cluster.converge().await;
    sleep(2 * ELECTION).await;
    // A restore of the cluster.
    let reader = snapshot.open().await.unwrap();
    leader.restore(&snapshot.meta, reader).await.unwrap();
    cluster.converge().await;
    cluster.restart(&follower).await;
    cluster.converge().await;
    // A lease that runs out, and a disk that is stuck.
    cluster.network().disconnect(leader.id().as_str());
    cluster.leader_among(&all_but(&cluster, &[leader.id().as_str()])).await;
    cluster.network().connect(leader.id().as_str());
    let leader = cluster.leader().await;
    cluster.disk(leader.id().as_str()).pause_writes();
    drop(leader.apply("stuck"));
    sleep(5 * ELECTION).await;
    cluster.disk(leader.id().as_str()).resume_writes();
    // A peer that is gone.
    let leader = cluster.leader().await;
    let follower = cluster.followers()[0].id().to_string();
    cluster.stop(&follower).await;
    leader.apply("x").await.unwrap();
    sleep(2 * ELECTION).await;
    cluster.start(&follower).await;
    cluster.converge().await;
    cluster
}

#[tokio::test(start_paused = true)]
async fn what_is_documented_is_emitted_and_nothing_else() {
    let book = Book::default();
    let _guard = metrics::set_default_local_recorder(&book);
    fail_to_snapshot().await;
    crate::readiness::stand_still().await;
    live().await;
    let page = table(&read("../docs/metrics.md"));
    let documented: BTreeMap<_, _> =
        page.iter().map(|(name, (shape, ..))| (name.clone(), shape.clone())).collect();
    assert!(40 < documented.len(), "the table is not read");
    let emitted = book.emitted();
    for (name, shape) in &documented {
        assert_eq!(emitted.get(name), Some(shape), "{name} is not emitted as documented");
    }
    for name in emitted.keys() {
        assert!(documented.contains_key(name), "{name} is not documented");
    }
    assert_eq!(page, table(&read("src/api.rs")), "the page and the documentation differ");
    let described = book.described.lock();
    assert_eq!(described.len(), page.len());
    for (name, (Shape { kind, .. }, unit, meaning)) in &page {
        for suffix in ["seconds", "bytes", "entries"] {
            if name.ends_with(suffix) {
                assert_eq!(unit, suffix, "{name}");
            }
        }
        let unit = match unit.as_str() {
            "seconds" => Unit::Seconds,
            "bytes" => Unit::Bytes,
            _ => Unit::Count,
        };
        let expected = Described { kind, unit: Some(unit), meaning: meaning.clone() };
        assert_eq!(described.get(name), Some(&expected), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_shows_its_peers_until_it_stops_leading() {
    let book = Book::default();
    let _guard = metrics::set_default_local_recorder(&book);
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let id = leader.id().as_str();
    let peer = cluster.followers()[0].id().to_string();
    let label = Some(("peer", peer.as_str()));
    cluster.network().set_delay(Duration::from_millis(20));
    sleep(2 * ELECTION).await;
    assert_eq!(book.last("raft.is_leader", id, None), 1.0);
    assert_eq!(book.last("raft.peers", id, None), 2.0);
    assert_eq!(book.last("raft.term", id, None), leader.term().0 as f64);
    let round_trip = book.last("raft.peer.round_trip_seconds", id, label);
    assert!((0.04..0.05).contains(&round_trip), "{round_trip}");
    assert_eq!(book.last("raft.peer.lag_entries", id, label), 0.0);

    // It answers, and takes nothing.
    cluster.disk(&peer).pause_writes();
    leader.apply_batch(vec!["x".into(); 5]).await.unwrap();
    sleep(ELECTION).await;
    assert_eq!(book.last("raft.peer.lag_entries", id, label), 5.0);
    assert_eq!(book.last("raft.peer.is_stalled", id, label), 0.0);
    sleep(3 * ELECTION).await;
    assert_eq!(book.last("raft.peer.is_stalled", id, label), 1.0);
    cluster.disk(&peer).resume_writes();
    sleep(2 * ELECTION).await;
    assert_eq!(book.last("raft.peer.is_stalled", id, label), 0.0);

    cluster.network().disconnect(id);
    sleep(5 * ELECTION).await;
    assert_eq!(book.last("raft.is_leader", id, None), 0.0);
    assert_eq!(book.values("raft.leader.lease_timeouts", id, None), [1.0]);
    assert_eq!(book.present(id, label), Vec::<String>::new());
}

/// A peer that leaves the configuration leaves the figures too.
#[tokio::test(start_paused = true)]
async fn a_peer_that_was_removed_is_shown_no_more() {
    let book = Book::default();
    let _guard = metrics::set_default_local_recorder(&book);
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let id = leader.id().as_str();
    let gone = cluster.followers()[0].id().to_string();
    cluster.disk(&gone).pause_writes();
    sleep(5 * ELECTION).await;
    leader.apply_batch(vec!["x".into(); 5]).await.unwrap();
    sleep(5 * ELECTION).await;
    let label = Some(("peer", gone.as_str()));
    assert_eq!(book.last("raft.peer.is_stalled", id, label), 1.0);
    leader.remove_server(gone.as_str(), None).await.unwrap();
    sleep(2 * ELECTION).await;
    assert_eq!(book.last("raft.is_leader", id, None), 1.0);
    assert_eq!(book.last("raft.peers", id, None), 1.0);
    assert_eq!(book.present(id, label), Vec::<String>::new());
}

/// Why a leader ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Shutdown,
    FailedDisk,
    Removed,
    /// Its disk takes a write and never gives it back: the end begins and is never complete.
    StuckDisk,
}

/// The process goes on, and with it the recorder: nobody may take what was for what is.
#[tokio::test(start_paused = true)]
async fn no_figure_outlives_its_server() {
    for end in [End::Shutdown, End::FailedDisk, End::Removed, End::StuckDisk] {
        let book = Book::default();
        let _guard = metrics::set_default_local_recorder(&book);
        let cluster = Cluster::new(ABC).await;
        let leader = cluster.leader().await;
        leader.apply("x").await.unwrap();
        sleep(3 * ELECTION).await;
        let id = leader.id().as_str();
        assert_eq!(book.last("raft.is_leader", id, None), 1.0);
        assert!(book.present(id, None).len() > 10, "{:?}", book.present(id, None));
        match end {
            End::Shutdown => _ = leader.shutdown().await,
            End::FailedDisk => {
                cluster.disk(id).fail_writes_after(0);
                leader.apply("y").await.unwrap_err();
                leader.ended().await;
            }
            End::Removed => {
                leader.remove_server(id, None).await.unwrap();
                leader.ended().await;
            }
            End::StuckDisk => {
                cluster.disk(id).pause_writes();
                drop(leader.apply("y"));
                settle().await;
                let leader = leader.clone();
                drop(tokio::spawn(async move { leader.shutdown().await }));
            }
        }
        settle().await;
        assert_eq!(book.present(id, None), Vec::<String>::new(), "{end:?}");
        let next = cluster.leader_among(&all_but(&cluster, &[id])).await;
        sleep(3 * ELECTION).await;
        assert_eq!(book.present(id, None), Vec::<String>::new(), "{end:?}");
        let leads = |id: &&str| book.last("raft.is_leader", id, None) != 0.0;
        assert_eq!(ABC.into_iter().filter(leads).collect::<Vec<_>>(), [next.id().as_str()]);
        cluster.disk(id).resume_writes();
    }
}

/// Nothing is shown before it is known, and what is known is shown at once.
#[tokio::test(start_paused = true)]
async fn figures_are_there_from_the_start_and_only_if_they_are_known() {
    let book = Book::default();
    let _guard = metrics::set_default_local_recorder(&book);
    let mut cluster = Cluster::new(["a"]).await;
    let raft = cluster.leader().await;
    raft.apply("x").await.unwrap();
    assert!(book.last("raft.fsm.last_restore_seconds", "a", None).is_nan(), "there was none");
    // With room for one, the second is lost.
    let _observer = raft.observe(1, |_| true);
    raft.snapshot().await.unwrap();
    raft.apply("y").await.unwrap();
    raft.snapshot().await.unwrap();
    let (term, last) = (raft.term().0 as f64, raft.last_index().0 as f64);
    cluster.stop("a").await;
    let dropped = || book.last("raft.observer.dropped", "a", None);
    let before = dropped();
    assert!(0.0 < before, "counted although the next look was not due");
    let raft = cluster.start("a").await;
    settle().await;
    assert_eq!(book.last("raft.term", "a", None), term);
    assert_eq!(book.last("raft.log.last_index", "a", None), last);
    assert!(book.last("raft.last_contact_seconds", "a", None).is_nan(), "it never heard");
    // What is counted goes on where the server that ran before has stopped.
    let _observer = raft.observe(1, |_| true);
    sleep(3 * ELECTION).await;
    assert_eq!(book.last("raft.last_contact_seconds", "a", None), 0.0, "it leads");
    assert!(before < dropped(), "{before} and {}", dropped());
}

/// Both sides show it until the server is taken back.
#[tokio::test(start_paused = true)]
async fn a_server_on_another_disk_is_counted_until_it_is_rejoined() {
    let book = Book::default();
    let _guard = metrics::set_default_local_recorder(&book);
    let mut cluster = Cluster::with_incarnations(ABC, |config| config).await;
    let leader = cluster.leader().await;
    sleep(2 * ELECTION).await;
    cluster.converge().await;
    let (id, wiped) = (leader.id().as_str(), cluster.followers()[0].id().to_string());
    let counts = || [id, &wiped].map(|id| book.last("raft.wrong_disks", id, None));
    assert_eq!(counts(), [0.0, 0.0]);
    cluster.stop(&wiped).await;
    cluster.wipe(&wiped);
    cluster.start(&wiped).await;
    sleep(2 * ELECTION).await;
    assert_eq!(counts(), [1.0, 1.0]);
    leader.rejoin_server(wiped.as_str()).await.unwrap();
    sleep(2 * ELECTION).await;
    assert_eq!(counts(), [0.0, 0.0]);
}

/// While the log can still be written, somebody can do something about it.
#[tokio::test(start_paused = true)]
async fn trouble_ahead_of_the_log_is_shown_until_it_is_over() {
    let book = Book::default();
    let _guard = metrics::set_default_local_recorder(&book);
    let cluster = Cluster::new(["a"]).await;
    let leader = cluster.leader().await;
    let trouble = || book.last("raft.log.trouble", "a", None);
    sleep(2 * ELECTION).await;
    assert_eq!((trouble(), leader.status().await.unwrap().log_trouble), (0.0, None));
    cluster.disk("a").set_trouble("no space left");
    sleep(2 * ELECTION).await;
    let told = leader.status().await.unwrap().log_trouble;
    assert_eq!((trouble(), told.as_deref()), (1.0, Some("no space left")));
    cluster.disk("a").heal();
    sleep(2 * ELECTION).await;
    assert_eq!((trouble(), leader.status().await.unwrap().log_trouble), (0.0, None));
}

/// S19: the age of the oldest entry is plausible.
#[tokio::test(start_paused = true)]
async fn the_age_of_the_oldest_entry_is_shown_and_plausible() {
    let book = Book::default();
    let _guard = metrics::set_default_local_recorder(&book);
    let cluster =
        Cluster::with_config(["a"], |config| config.with(|it| it.trailing_logs = 10)).await;
    let leader = cluster.leader().await;
    let age = || book.last("raft.log.oldest_age_seconds", "a", None);
    for _ in 0..100 {
        leader.apply("x").await.unwrap();
        sleep(ELECTION).await;
    }
    let all = age();
    assert!((98.0..=103.0).contains(&all), "{all}");
    leader.snapshot().await.unwrap();
    sleep(3 * ELECTION / 2).await;
    let ten = age();
    assert!((8.0..=12.0).contains(&ten), "{ten}");
    let status = leader.status().await.unwrap();
    assert!(status.oldest_entry_age.unwrap() <= Duration::from_secs(12));
}

#[tokio::test(start_paused = true)]
async fn calls_and_messages_are_counted_by_kind() {
    let book = Book::default();
    let _guard = metrics::set_default_local_recorder(&book);
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let id = leader.id().as_str();
    let calls = |kind| book.values("raft.requests", id, Some(("call", kind)));
    assert_eq!(calls("apply"), Vec::<f64>::new());
    let mut observer = leader.observe(10_000, |seen| {
        matches!(
            seen,
            Observation::Sent { message: Message::AppendEntries(_), .. }
                | Observation::Received { message: Message::AppendEntriesReply(_), .. }
        )
    });
    let sent = || book.last("raft.messages.sent", id, Some(("kind", "append_entries")));
    let received =
        || book.last("raft.messages.received", id, Some(("kind", "append_entries_reply")));
    let before = (sent(), received());
    for _ in 0..7 {
        leader.apply("x").await.unwrap();
    }
    leader.verify_leader().await.unwrap();
    settle().await;
    assert_eq!((calls("apply"), calls("verify_leader")), (vec![7.0], vec![1.0]));
    let (mut out, mut back) = (0.0, 0.0);
    while let Some(seen) = observer.try_recv() {
        match seen {
            Observation::Sent { .. } => out += 1.0,
            _ => back += 1.0,
        }
    }
    assert_eq!((sent() - before.0, received() - before.1), (out, back));
}
