//! Law 16: every future resolves exactly once, with what is known, however the wait ends.

use std::{collections::BTreeMap, fmt::Display, future::Future, time::Duration};

use bytes::Bytes;
use raft::{
    ApplyError, Config, ConfigurationError, Fatal, LogIndex, Message, Outcome, Raft, SnapshotError,
    TransferError, VerifyError,
    testing::{Cluster, Journal},
};
use tokio::task::JoinSet;

const ABC: [&str; 3] = ["a", "b", "c"];

/// What became of each call, by name.
type Results = BTreeMap<&'static str, String>;

/// Calls that are under way.
#[derive(Default)]
struct Calls {
    calls: JoinSet<(&'static str, String)>,
}

impl Calls {
    fn add<T, E>(
        &mut self,
        name: &'static str,
        call: impl Future<Output = Result<T, E>> + Send + 'static,
        error: fn(E) -> String,
    ) where
        T: Send + 'static,
        E: Send + 'static,
    {
        self.calls.spawn(async move { (name, call.await.map_or_else(error, |_| "ok".into())) });
    }

    /// The calls that do not hold a handle while they wait.
    fn add_free(&mut self, raft: &Raft<Journal>) {
        self.add("apply", raft.apply("x"), apply_error);
        self.add("batch", raft.apply_batch(vec![Bytes::from("y"); 3]), apply_error);
        self.add("barrier", raft.barrier(), apply_error);
        self.add("verify", raft.verify_leader(), verify_error);
    }

    /// The calls that borrow the handle they are made on.
    fn add_held(&mut self, raft: &Raft<Journal>) {
        let handle = raft.clone();
        let change = async move { handle.add_nonvoter("d", "d", None).await };
        self.add("change", change, change_error);
        let handle = raft.clone();
        let far = LogIndex(raft.last_index().0 + 1000);
        self.add("wait", async move { handle.wait_applied(far).await }, |fatal| end(&fatal));
    }

    fn add_transfer(&mut self, raft: &Raft<Journal>) {
        let handle = raft.clone();
        self.add("transfer", async move { handle.leadership_transfer().await }, transfer_error);
    }

    async fn results(self) -> Results {
        // On a paused clock this passes at once if nothing is left to happen.
        let all = tokio::time::timeout(Duration::from_secs(3600), self.calls.join_all());
        let all: Vec<_> = all.await.expect("a future never resolved");
        let results: Results = all.iter().cloned().collect();
        assert_eq!(results.len(), all.len(), "names are unique");
        results
    }

    fn is_empty_of_results(&mut self) -> bool {
        self.calls.try_join_next().is_none()
    }
}

pub(crate) fn end(fatal: &Fatal) -> String {
    match fatal {
        Fatal::Shutdown => "shutdown".into(),
        Fatal::Store(_) => "store".into(),
        Fatal::Panicked { task, .. } => format!("panic in {task}"),
        other => format!("{other}"),
    }
}

fn unexpected(error: impl Display) -> String {
    format!("unexpected: {error}")
}

pub(crate) fn apply_error(error: ApplyError) -> String {
    let outcome = error.outcome();
    match error {
        ApplyError::LeadershipLost => {
            assert_eq!(outcome, Outcome::Unknown);
            "leadership lost".into()
        }
        ApplyError::NotLeader { .. } => {
            assert_eq!(outcome, Outcome::NotApplied);
            "not leader".into()
        }
        ApplyError::Stopped { fatal, outcome } => format!("{} {outcome:?}", end(&fatal)),
        other => unexpected(other),
    }
}

pub(crate) fn verify_error(error: VerifyError) -> String {
    match error {
        VerifyError::NotLeader { .. } => "not leader".into(),
        VerifyError::LeadershipLost => "leadership lost".into(),
        VerifyError::Stopped(fatal) => end(&fatal),
        other => unexpected(other),
    }
}

pub(crate) fn change_error(error: ConfigurationError) -> String {
    match error {
        ConfigurationError::NotLeader { .. } => "not leader".into(),
        ConfigurationError::LeadershipLost => "leadership lost".into(),
        ConfigurationError::Stopped(fatal) => end(&fatal),
        other => unexpected(other),
    }
}

pub(crate) fn transfer_error(error: TransferError) -> String {
    match error {
        TransferError::NotLeader { .. } => "not leader".into(),
        TransferError::LeadershipLost { .. } => "leadership lost".into(),
        TransferError::TimedOut { .. } => "timed out".into(),
        TransferError::Stopped(fatal) => end(&fatal),
        other => unexpected(other),
    }
}

pub(crate) fn snapshot_error(error: SnapshotError) -> String {
    match error {
        SnapshotError::NothingNew => "nothing new".into(),
        SnapshotError::Store(_) => "store".into(),
        SnapshotError::Stopped(fatal) => end(&fatal),
        other => unexpected(other),
    }
}

fn expected<const N: usize>(results: [(&'static str, &str); N]) -> Results {
    results.into_iter().map(|(name, result)| (name, result.to_owned())).collect()
}

/// Lets every task do what it can do now. The clock is paused: it moves only when all of them wait.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// A leader whose followers take entries but never say so: nothing is committed and nothing is
/// verified, and it will notice only after its lease.
async fn deaf_leader(cluster: &Cluster) -> Raft<Journal> {
    let leader = cluster.leader().await;
    cluster.converge().await;
    for follower in cluster.followers() {
        cluster.disk(follower.id().as_str()).pause_writes();
    }
    cluster.network().set_drop(|_, _, message| matches!(message, Message::HeartbeatReply(_)));
    leader
}

fn hear_again(cluster: &Cluster) {
    for follower in cluster.followers() {
        cluster.disk(follower.id().as_str()).resume_writes();
    }
}

/// Every call under way on a deaf leader.
async fn calls(leader: &Raft<Journal>) -> Calls {
    let mut calls = Calls::default();
    // First, because the acknowledgement of a later entry would confirm leadership too.
    calls.add_held(leader);
    settle().await;
    calls.add_free(leader);
    settle().await;
    assert!(calls.is_empty_of_results());
    calls
}

#[tokio::test(start_paused = true)]
async fn leadership_loss_is_told_to_all_who_depend_on_it() {
    let cluster = Cluster::new(ABC).await;
    let leader = deaf_leader(&cluster).await;
    let calls = calls(&leader).await;
    let first = leader.clone();
    let ending = tokio::spawn(async move {
        first.leader_changes().wait_for(Option::is_none).await.unwrap();
        // Nothing will be heard of this wait but the end of the node.
        settle().await;
        first.shutdown().await;
    });
    let wanted = expected([
        ("apply", "leadership lost"),
        ("batch", "leadership lost"),
        ("barrier", "leadership lost"),
        ("verify", "leadership lost"),
        ("change", "leadership lost"),
        ("wait", "shutdown"),
    ]);
    assert_eq!(calls.results().await, wanted);
    ending.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_transfer_ends_with_the_leadership_it_belongs_to() {
    let cluster = Cluster::new(ABC).await;
    let leader = deaf_leader(&cluster).await;
    drop(leader.apply("keeps the followers behind"));
    let mut calls = Calls::default();
    calls.add_transfer(&leader);
    settle().await;
    assert!(calls.is_empty_of_results());
    let results = calls.results().await;
    let result = results["transfer"].as_str();
    assert!(["leadership lost", "timed out"].contains(&result), "{result}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_state_machine_is_told_to_everybody() {
    let cluster = Cluster::new(ABC).await;
    let leader = deaf_leader(&cluster).await;
    drop(leader.apply("panic"));
    let mut calls = calls(&leader).await;
    calls.add_transfer(&leader);
    settle().await;
    hear_again(&cluster);
    let wanted = expected([
        ("apply", "panic in run_fsm Unknown"),
        ("batch", "panic in run_fsm Unknown"),
        ("barrier", "panic in run_fsm Unknown"),
        ("verify", "panic in run_fsm"),
        ("change", "panic in run_fsm"),
        ("transfer", "panic in run_fsm"),
        ("wait", "panic in run_fsm"),
    ]);
    assert_eq!(calls.results().await, wanted);
    let fatal = leader.shutdown().await;
    let Fatal::Panicked { task: "run_fsm", message } = &fatal else { panic!("{fatal}") };
    assert_eq!(&**message, "told to panic");
    assert_eq!(end(&leader.fatal().unwrap()), end(&fatal));
    assert_eq!(apply_error(leader.apply("x").await.unwrap_err()), "panic in run_fsm NotApplied");
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_is_told_to_everybody() {
    let cluster = Cluster::new(ABC).await;
    let leader = deaf_leader(&cluster).await;
    let mut calls = calls(&leader).await;
    calls.add_transfer(&leader);
    settle().await;
    cluster.disk(leader.id().as_str()).fail_writes_after(0);
    // A transfer refuses commands, so that the write that fails must be of another kind: the term
    // of whoever is elected next.
    let wanted = expected([
        ("apply", "leadership lost"),
        ("batch", "leadership lost"),
        ("barrier", "leadership lost"),
        ("verify", "leadership lost"),
        ("change", "leadership lost"),
        ("transfer", "leadership lost"),
        ("wait", "store"),
    ]);
    hear_again(&cluster);
    cluster.network().heal_all();
    cluster.network().disconnect(leader.id().as_str());
    let others = cluster.followers();
    let next = cluster.leader_among(&others).await;
    cluster.network().heal_all();
    next.apply("z").await.unwrap();
    assert_eq!(calls.results().await, wanted);
    assert_eq!(end(&leader.shutdown().await), "store");
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_of_their_own_is_told_to_those_in_flight() {
    let cluster = Cluster::new(ABC).await;
    let leader = deaf_leader(&cluster).await;
    cluster.disk(leader.id().as_str()).fail_writes_after(0);
    let mut calls = Calls::default();
    calls.add_free(&leader);
    calls.add_held(&leader);
    let wanted = expected([
        ("apply", "store Unknown"),
        ("batch", "store Unknown"),
        ("barrier", "store Unknown"),
        ("verify", "store"),
        ("change", "store"),
        ("wait", "store"),
    ]);
    assert_eq!(calls.results().await, wanted);
    assert_eq!(end(&leader.fatal().unwrap()), "store");
    assert_eq!(apply_error(leader.apply("x").await.unwrap_err()), "store NotApplied");
}

#[tokio::test(start_paused = true)]
async fn shutdown_is_told_to_everybody() {
    let cluster = Cluster::new(ABC).await;
    let leader = deaf_leader(&cluster).await;
    let mut calls = calls(&leader).await;
    calls.add_transfer(&leader);
    settle().await;
    assert_eq!(end(&leader.shutdown().await), "shutdown");
    let wanted = expected([
        ("apply", "shutdown Unknown"),
        ("batch", "shutdown Unknown"),
        ("barrier", "shutdown Unknown"),
        ("verify", "shutdown"),
        ("change", "shutdown"),
        ("transfer", "shutdown"),
        ("wait", "shutdown"),
    ]);
    assert_eq!(calls.results().await, wanted);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_is_told_to_everybody() {
    let cluster = Cluster::new(ABC).await;
    let leader = deaf_leader(&cluster).await;
    let mut calls = Calls::default();
    calls.add_free(&leader);
    settle().await;
    drop(leader);
    settle().await;
    assert!(calls.is_empty_of_results(), "the cluster still holds a handle");
    drop(cluster);
    let wanted = expected([
        ("apply", "shutdown Unknown"),
        ("batch", "shutdown Unknown"),
        ("barrier", "shutdown Unknown"),
        ("verify", "shutdown"),
    ]);
    assert_eq!(calls.results().await, wanted);
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_which_only_a_part_is_committed_is_lost_with_the_leadership() {
    let configure = |config: Config| {
        config.with(|it| {
            it.max_append_entries = 10;
            it.max_inflight_appends = 1;
            it.max_append_bytes = 1024;
        })
    };
    let cluster = Cluster::with_config(ABC, configure).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    let before = leader.commit_index();
    // Each follower takes one message of ten entries and no more.
    let handle = leader.clone();
    cluster.network().set_drop(move |from, _, message| {
        let is_ack = matches!(message, Message::AppendEntriesReply(_) | Message::HeartbeatReply(_));
        is_ack && before < handle.commit_index() && from.as_str() != handle.id().as_str()
    });
    let error = leader.apply_batch(vec![Bytes::from("x"); 100]).await.unwrap_err();
    assert!(matches!(error, ApplyError::LeadershipLost), "{error}");
    assert_eq!(error.outcome(), Outcome::Unknown);
    let applied = cluster.journal(leader.id().as_str()).commands().len();
    assert!((1..100).contains(&applied), "{applied} commands of the batch are applied");
    cluster.network().heal_all();
    cluster.converge().await;
}

/// A node that is full: commands that follow stay in its queue, or wait for room in it.
async fn full_node() -> (Cluster, Raft<Journal>) {
    let configure = |config: Config| {
        config.with(|it| {
            it.max_unapplied_entries = 2;
            it.apply_queue = 4;
        })
    };
    let cluster = Cluster::with_config(["a"], configure).await;
    let leader = cluster.leader().await;
    cluster.disk("a").pause_writes();
    drop(leader.apply_batch(vec![Bytes::from("full"); 2]));
    settle().await;
    (cluster, leader)
}

/// Commands in the queue, and others that wait for room; and questions that wait for nothing.
fn untaken(leader: &Raft<Journal>) -> (Calls, Calls) {
    let (mut queued, mut waiting) = (Calls::default(), Calls::default());
    queued.add_free(leader);
    waiting.add_free(leader);
    (queued, waiting)
}

#[tokio::test(start_paused = true)]
async fn what_was_never_taken_up_did_not_happen() {
    type Finish = fn(&Cluster);
    let endings: [(&str, Finish); 2] = [
        ("shutdown", |cluster| {
            let raft = cluster.raft("a");
            tokio::spawn(async move { raft.shutdown().await });
        }),
        ("store", |cluster| {
            cluster.disk("a").fail_writes_after(0);
            cluster.disk("a").resume_writes();
        }),
    ];
    for (reason, finish) in endings {
        let (cluster, leader) = full_node().await;
        let (queued, waiting) = untaken(&leader);
        settle().await;
        finish(&cluster);
        let not_applied = format!("{reason} NotApplied");
        let wanted = expected([
            ("apply", &not_applied),
            ("batch", &not_applied),
            ("barrier", &not_applied),
            ("verify", "ok"),
        ]);
        assert_eq!(queued.results().await, wanted);
        assert_eq!(waiting.results().await, wanted);
        cluster.disk("a").heal();
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_on_an_ended_node_says_why_it_ended() {
    let cluster = Cluster::new(["a"]).await;
    let raft = cluster.leader().await;
    raft.shutdown().await;
    let mut calls = Calls::default();
    calls.add_free(&raft);
    calls.add_held(&raft);
    calls.add_transfer(&raft);
    let handle = raft.clone();
    calls.add("snapshot", async move { handle.snapshot().await }, snapshot_error);
    let handle = raft.clone();
    calls.add("status", async move { handle.status().await }, |fatal| end(&fatal));
    let wanted = expected([
        ("apply", "shutdown NotApplied"),
        ("batch", "shutdown NotApplied"),
        ("barrier", "shutdown NotApplied"),
        ("verify", "shutdown"),
        ("change", "shutdown"),
        ("transfer", "shutdown"),
        ("wait", "shutdown"),
        ("snapshot", "shutdown"),
        ("status", "shutdown"),
    ]);
    assert_eq!(calls.results().await, wanted);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_under_way_is_told_of_the_end() {
    let cluster = Cluster::new(["a"]).await;
    let raft = cluster.leader().await;
    raft.apply("x").await.unwrap();
    cluster.disk("a").pause_writes();
    let mut calls = Calls::default();
    let handle = raft.clone();
    calls.add("snapshot", async move { handle.snapshot().await }, snapshot_error);
    settle().await;
    assert!(calls.is_empty_of_results());
    assert_eq!(end(&raft.shutdown().await), "shutdown");
    assert_eq!(calls.results().await, expected([("snapshot", "shutdown")]));
}

#[tokio::test(start_paused = true)]
async fn a_future_kept_unpolled_holds_nothing_up() {
    let (cluster, leader) = full_node().await;
    let unpolled: Vec<_> = (0..10).map(|_| leader.apply("x")).collect();
    cluster.disk("a").resume_writes();
    settle().await;
    assert_eq!(end(&leader.shutdown().await), "shutdown");
    for future in unpolled {
        // The first ones found room at once and were applied; the rest never got into the queue.
        match future.await {
            Ok(_) => {}
            Err(error) => assert_eq!(apply_error(error), "shutdown NotApplied"),
        }
    }
}
