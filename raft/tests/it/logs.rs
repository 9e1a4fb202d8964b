//! What a server writes to its log: enough to tell what has happened, and no flood.

use std::{
    fmt::{self, Write as _},
    sync::{Arc, LazyLock},
    time::Duration,
};

use parking_lot::Mutex;
use raft::{
    Config, Raft,
    testing::{Cluster, Journal},
};
use tokio::time::sleep;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::model_support::{ABC, ELECTION, all_but};

/// Keeps every line of this level or a more important one.
#[derive(Clone)]
struct Lines {
    level: Level,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Lines {
    fn new(level: Level) -> Self {
        be_one_of_several();
        Self { level, lines: Arc::default() }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines.lock())
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level && metadata.target().starts_with("raft")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(event.metadata().level().to_string());
        event.record(&mut text);
        self.lines.lock().push(text.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// As long as there is one subscriber only, `tracing` asks the thread that comes to a line first whether anybody
/// listens to it, and believes it for all of them. So there are always two.
fn be_one_of_several() {
    static OTHER: LazyLock<tracing::Dispatch> =
        LazyLock::new(|| tracing::Dispatch::new(NobodyReads::default()));
    LazyLock::force(&OTHER);
}

/// A log that panics while nobody reads it, as one does that is printed with `eprintln!`.
#[derive(Clone, Default)]
pub(crate) struct NobodyReads {
    /// The target whose lines nobody reads; those of all that begin with it.
    target: Arc<Mutex<Option<&'static str>>>,
}

impl NobodyReads {
    pub(crate) const SAYS: &str = "nobody reads the log";

    pub(crate) fn install() -> (Self, tracing::subscriber::DefaultGuard) {
        be_one_of_several();
        let log = Self::default();
        let guard = tracing::subscriber::set_default(log.clone());
        (log, guard)
    }

    pub(crate) fn begin(&self) {
        self.begin_for("raft");
    }

    pub(crate) fn begin_for(&self, target: &'static str) {
        *self.target.lock() = Some(target);
    }

    pub(crate) fn end(&self) {
        *self.target.lock() = None;
    }
}

impl Subscriber for NobodyReads {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let target = *self.target.lock();
        let is_read = target.is_none_or(|target| !event.metadata().target().starts_with(target));
        assert!(is_read, "{}", Self::SAYS);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// The lines of a minute in which nothing is said that was said before.
async fn a_minute(lines: &Lines) -> Vec<String> {
    sleep(60 * ELECTION).await;
    lines.take()
}

#[tokio::test(start_paused = true)]
async fn a_minute_of_a_cut_off_follower_makes_a_handful_of_lines() {
    let lines = Lines::new(Level::INFO);
    let _guard = tracing::subscriber::set_default(lines.clone());
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    lines.take();
    assert_eq!(a_minute(&lines).await, Vec::<String>::new(), "a cluster that is well is silent");

    let follower = cluster.followers()[0].id().to_string();
    cluster.network().disconnect(follower.as_str());
    for _ in 0..100 {
        leader.apply("x").await.unwrap();
    }
    let said = a_minute(&lines).await;
    assert!(said.len() <= 8, "{said:#?}");
    let about = |word: &str| said.iter().filter(|line| line.contains(word)).count();
    assert_eq!(about("peer lost"), 1, "{said:#?}");
    assert_eq!(a_minute(&lines).await, Vec::<String>::new(), "all is said");

    cluster.network().connect(follower.as_str());
    cluster.converge().await;
    let said = a_minute(&lines).await;
    assert!(said.len() <= 8, "{said:#?}");
    assert_eq!(said.iter().filter(|line| line.contains("peer regained")).count(), 1, "{said:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_minute_of_a_cut_off_leader_makes_a_handful_of_lines() {
    for pre_vote in [true, false] {
        let lines = Lines::new(Level::INFO);
        let _guard = tracing::subscriber::set_default(lines.clone());
        let cluster = Cluster::with_config(
            ABC,
            if pre_vote { |config| config } else { |config| config.with(|it| it.pre_vote = false) },
        );
        let cluster = cluster.await;
        let leader = cluster.leader().await;
        cluster.converge().await;
        lines.take();
        cluster.network().disconnect(leader.id().as_str());
        cluster.leader_among(&all_but(&cluster, &[leader.id().as_str()])).await;
        let said = a_minute(&lines).await;
        assert!(said.len() <= 20, "for three servers: {said:#?}");
        assert_eq!(a_minute(&lines).await, Vec::<String>::new(), "all is said");
    }
}

/// A cluster without a majority says why nothing happens: each server once, however long it lasts.
#[tokio::test(start_paused = true)]
async fn a_cluster_without_a_majority_says_why_it_has_no_leader() {
    let lines = Lines::new(Level::WARN);
    let _guard = tracing::subscriber::set_default(lines.clone());
    let cluster = Cluster::new(ABC).await;
    cluster.leader().await;
    cluster.converge().await;
    for _ in 0..2 {
        lines.take();
        cluster.network().partition(&[&["a"], &["b"], &["c"]]);
        let said = a_minute(&lines).await;
        let about = |word: &str| said.iter().filter(|line| line.contains(word)).count();
        assert_eq!(about("stopped leading: no majority of the voters answers"), 1, "{said:#?}");
        assert_eq!(about("no leader for 5 election timeouts"), 3, "{said:#?}");
        assert_eq!(about("voters=\"a b c\""), 3, "{said:#?}");
        assert_eq!(a_minute(&lines).await, Vec::<String>::new(), "all is said");
        cluster.network().heal_all();
        cluster.leader().await;
        cluster.converge().await;
    }
}

/// A snapshot that can never be had is asked for every election timeout.
#[tokio::test(start_paused = true)]
async fn a_snapshot_that_cannot_be_sent_or_kept_is_told_of_once() {
    for is_sender_broken in [true, false] {
        let lines = Lines::new(Level::INFO);
        let _guard = tracing::subscriber::set_default(lines.clone());
        let cluster =
            Cluster::with_config(ABC, |config| config.with(|it| it.trailing_logs = 0)).await;
        let leader = cluster.leader().await;
        let follower = cluster.followers()[0].id().to_string();
        cluster.network().disconnect(follower.as_str());
        for _ in 0..20 {
            leader.apply("x").await.unwrap();
        }
        leader.snapshot().await.unwrap();
        sleep(10 * ELECTION).await;
        lines.take();
        if is_sender_broken {
            cluster.disk(leader.id().as_str()).fail_reads();
        } else {
            cluster.network().set_drop(|_, _, message| {
                matches!(message, raft::Message::InstallSnapshotReply(_))
            });
        }
        cluster.network().connect(follower.as_str());
        let said = a_minute(&lines).await;
        assert!(said.len() <= 10, "{said:#?}");
        assert_eq!(a_minute(&lines).await, Vec::<String>::new(), "all is said");
        cluster.disk(leader.id().as_str()).heal();
        cluster.network().heal_all();
    }
}

#[tokio::test(start_paused = true)]
async fn every_line_says_which_server_it_is_about() {
    let lines = Lines::new(Level::TRACE);
    let _guard = tracing::subscriber::set_default(lines.clone());
    let mut cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    leader.apply("x").await.unwrap();
    leader.snapshot().await.unwrap();
    leader.add_nonvoter("d", "d", None).await.unwrap();
    leader.remove_server("d", None).await.unwrap();
    cluster.network().disconnect(leader.id().as_str());
    cluster.leader_among(&all_but(&cluster, &[leader.id().as_str()])).await;
    cluster.network().connect(leader.id().as_str());
    cluster.converge().await;
    cluster.shutdown().await;
    sleep(Duration::from_secs(1)).await;
    let said = lines.take();
    assert!(100 < said.len());
    for line in said {
        assert!(line.contains(" server="), "{line}");
        if line.contains("role changed") || line.contains("leader changed") {
            assert!(line.contains(" term="), "{line}");
        }
    }
}

/// A follower comes back at another address, where nobody calls it.
#[tokio::test(start_paused = true)]
async fn a_server_that_is_listed_elsewhere_says_so_once_and_in_its_status() {
    let mut cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let id = cluster.followers()[0].id().to_string();
    assert_eq!(leader.status().await.unwrap().wrong_address, None);
    cluster.stop(&id).await;
    let lines = Lines::new(Level::WARN);
    let _guard = tracing::subscriber::set_default(lines.clone());
    let (log, stable, snapshots) = cluster.stores(&id);
    let transport = cluster.network().transport("there");
    let config = Config::new(id.as_str()).with_seed(9);
    let moved =
        Raft::new(config, Journal::default(), log, stable, Arc::new(snapshots), transport).await;
    let moved = moved.unwrap();
    sleep(20 * ELECTION).await;
    let said = lines.take();
    let text = format!("this server listens at there, but the members' list has it at {id}");
    assert_eq!(said.iter().filter(|line| line.contains(&text)).count(), 1, "{said:?}");
    let wrong = moved.status().await.unwrap().wrong_address.unwrap();
    assert_eq!((wrong.listed.as_str(), wrong.actual.as_str()), (id.as_str(), "there"));
    leader.add_voter(id.as_str(), "there", None).await.unwrap();
    sleep(2 * ELECTION).await;
    assert_eq!(moved.status().await.unwrap().wrong_address, None);
    moved.shutdown().await;
}
