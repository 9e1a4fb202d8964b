//! Law 16 as a table: each call of the handle, in flight when the node meets one of four ends, and
//! made after it. Every one is answered, in bounded time, with an error of its own type that says
//! what happened.

use std::{future::Future, pin::Pin, time::Duration};

use raft::{
    BootstrapError, Config, Configuration, IndexedConfiguration, LogId, Message, Raft, ReloadError,
    RestoreError, Role, Server, SnapshotId, SnapshotMeta,
    testing::{Cluster, Journal},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::{
    futures::{apply_error, change_error, end, snapshot_error, transfer_error, verify_error},
    model_support::*,
};

type Answer = Pin<Box<dyn Future<Output = String> + Send>>;

/// What a call depends on.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// A command, whose error says whether it may have happened.
    Command,
    /// Something else that only a leader can do.
    Leading,
    /// The same, but the target may still take over when leadership is lost, until its time is up.
    Transfer,
    /// Resolves when something is applied here, whoever leads.
    Waiting,
    /// Resolves when the disk has taken it.
    Snapshot,
    /// Answered at once.
    Bootstrap,
    /// Answered at once, and without an error.
    Status,
}

/// A follower, as the object of a call.
fn other(raft: &Raft<Journal>) -> String {
    let id = raft.id().as_str();
    ABC.into_iter().find(|other| *other != id).unwrap().to_owned()
}

fn ask<T, E, F>(call: F, error: fn(E) -> String) -> Answer
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: 'static,
    E: 'static,
{
    Box::pin(async move { call.await.map_or_else(error, |_| "ok".into()) })
}

fn bootstrap_error(error: BootstrapError) -> String {
    match error {
        BootstrapError::AlreadyBootstrapped => "bootstrapped".into(),
        BootstrapError::Stopped(fatal) => end(&fatal),
        other => format!("unexpected: {other}"),
    }
}

fn reload_error(error: ReloadError) -> String {
    match error {
        ReloadError::Stopped(fatal) => end(&fatal),
        other => format!("unexpected: {other}"),
    }
}

fn restore_error(error: RestoreError) -> String {
    match error {
        RestoreError::NotLeader { .. } => "not leader".into(),
        RestoreError::LeadershipLost => "leadership lost".into(),
        RestoreError::Stopped(fatal) => end(&fatal),
        other => format!("unexpected: {other}"),
    }
}

/// A snapshot of another cluster.
fn described() -> SnapshotMeta {
    SnapshotMeta {
        id: SnapshotId::new("elsewhere"),
        last: LogId::new(7, 7),
        configuration: IndexedConfiguration::default(),
        size_bytes: 1000,
    }
}

type Call = (&'static str, Kind, fn(Raft<Journal>) -> Answer);

const CALLS: [Call; 17] = [
    ("apply", Kind::Command, |raft| ask(raft.apply("x"), apply_error)),
    ("apply_batch", Kind::Command, |raft| ask(raft.apply_batch(vec!["y".into(); 3]), apply_error)),
    ("barrier", Kind::Command, |raft| ask(raft.barrier(), apply_error)),
    ("verify_leader", Kind::Leading, |raft| ask(raft.verify_leader(), verify_error)),
    ("add_voter", Kind::Leading, |raft| {
        ask(async move { raft.add_voter("d", "d", None).await }, change_error)
    }),
    ("add_nonvoter", Kind::Leading, |raft| {
        ask(async move { raft.add_nonvoter("d", "d", None).await }, change_error)
    }),
    ("demote_voter", Kind::Leading, |raft| {
        ask(async move { raft.demote_voter(other(&raft), None).await }, change_error)
    }),
    ("remove_server", Kind::Leading, |raft| {
        ask(async move { raft.remove_server(other(&raft), None).await }, change_error)
    }),
    ("remove_server, itself", Kind::Leading, |raft| {
        ask(async move { raft.remove_server(raft.id().clone(), None).await }, change_error)
    }),
    ("leadership_transfer", Kind::Transfer, |raft| {
        ask(async move { raft.leadership_transfer().await }, transfer_error)
    }),
    ("leadership_transfer_to_server", Kind::Transfer, |raft| {
        let to = other(&raft);
        ask(async move { raft.leadership_transfer_to_server(to).await }, transfer_error)
    }),
    ("bootstrap_cluster", Kind::Bootstrap, |raft| {
        let alone = Configuration::new([Server::voter(raft.id().clone(), raft.id().as_str())]);
        ask(async move { raft.bootstrap_cluster(alone).await }, bootstrap_error)
    }),
    ("snapshot", Kind::Snapshot, |raft| ask(async move { raft.snapshot().await }, snapshot_error)),
    // Its data never comes to an end.
    ("restore", Kind::Leading, |raft| {
        let (writer, reader) = tokio::io::duplex(16);
        ask(
            async move {
                let _open = writer;
                raft.restore(&described(), reader).await
            },
            restore_error,
        )
    }),
    ("status", Kind::Status, |raft| ask(async move { raft.status().await }, |it| end(&it))),
    ("reload_config", Kind::Status, |raft| {
        let config = Config::clone(&raft.config()).with(|it| it.trailing_logs = 7);
        ask(async move { raft.reload_config(config).await }, reload_error)
    }),
    ("wait_applied", Kind::Waiting, |raft| {
        let next = raft.last_index().next();
        ask(async move { raft.wait_applied(next).await }, |it| end(&it))
    }),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    LeadershipLoss,
    Panic,
    StoreFailure,
    Shutdown,
}

impl End {
    /// How the errors of an ended node name it.
    fn reason(self) -> &'static str {
        match self {
            Self::LeadershipLoss => "no end of the node",
            Self::Panic => "panic in run_fsm",
            Self::StoreFailure => "store",
            Self::Shutdown => "shutdown",
        }
    }

    /// Brings it about, on a leader as [`stuck_leader`] leaves it.
    async fn bring_about(self, cluster: &Cluster, leader: &Raft<Journal>) {
        let disk = cluster.disk(leader.id().as_str());
        match self {
            // The followers are not heard any more: the lease runs out.
            Self::LeadershipLoss => {
                cluster.network().disconnect(leader.id().as_str());
                disk.resume_writes();
                leader.leader_changes().wait_for(Option::is_none).await.unwrap();
            }
            Self::Panic => {
                hear_again(cluster);
                disk.resume_writes();
            }
            Self::StoreFailure => {
                disk.fail_writes_after(0);
                disk.resume_writes();
            }
            Self::Shutdown => {
                let ending = tokio::spawn({
                    let leader = leader.clone();
                    async move { leader.shutdown().await }
                });
                settle().await;
                disk.resume_writes();
                ending.await.unwrap();
            }
        }
    }
}

/// What a call may be answered that was in flight.
fn in_flight(kind: Kind, end: End) -> Vec<String> {
    let reason = end.reason();
    let lost = end == End::LeadershipLoss;
    match kind {
        Kind::Bootstrap => vec!["bootstrapped".into()],
        Kind::Status => vec!["ok".into()],
        Kind::Command if lost => vec!["leadership lost".into()],
        Kind::Command => vec![format!("{reason} Unknown")],
        Kind::Leading if lost => vec!["leadership lost".into()],
        Kind::Transfer if lost => vec!["leadership lost".into()],
        Kind::Waiting | Kind::Snapshot if lost => vec!["ok".into()],
        // Its own write was let go together with what ended the node.
        Kind::Snapshot => vec![reason.into(), "ok".into()],
        Kind::Leading | Kind::Transfer | Kind::Waiting => vec![reason.into()],
    }
}

/// What a call is answered that is made afterwards.
fn afterwards(kind: Kind, end: End) -> String {
    let reason = end.reason();
    match (kind, end) {
        (Kind::Command | Kind::Leading | Kind::Transfer, End::LeadershipLoss) => {
            "not leader".into()
        }
        (Kind::Bootstrap, End::LeadershipLoss) => "bootstrapped".into(),
        (Kind::Snapshot, End::LeadershipLoss) => "nothing new".into(),
        (_, End::LeadershipLoss) => "ok".into(),
        (Kind::Command, _) => format!("{reason} NotApplied"),
        _ => reason.into(),
    }
}

/// A leader with a command in flight that is on no disk, not even its own: nothing is committed,
/// verified or written. The followers' answers are lost.
async fn stuck_leader(end: End) -> (Cluster, Raft<Journal>) {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    leader.apply("first").await.unwrap();
    cluster.converge().await;
    for id in ABC {
        cluster.disk(id).pause_writes();
    }
    cluster.network().set_drop(|_, _, message| matches!(message, Message::HeartbeatReply(_)));
    drop(leader.apply(if end == End::Panic { "panic" } else { "second" }));
    settle().await;
    (cluster, leader)
}

fn hear_again(cluster: &Cluster) {
    for follower in cluster.followers() {
        cluster.disk(follower.id().as_str()).resume_writes();
    }
    cluster.network().heal_all();
}

async fn answer(call: JoinHandle<String>) -> String {
    // On a paused clock this passes at once if nothing is left to happen.
    timeout(Duration::from_secs(60), call).await.unwrap_or(Ok("never answered".into())).unwrap()
}

async fn check((name, kind, make): Call, end: End) {
    let case = format!("{name}, {end:?}");
    let (cluster, leader) = stuck_leader(end).await;
    let call = tokio::spawn(make(leader.clone()));
    settle().await;
    let is_answered_at_once = matches!(kind, Kind::Bootstrap | Kind::Status);
    assert_eq!(call.is_finished(), is_answered_at_once, "{case}");
    assert_eq!(leader.role(), Role::Leader, "{case}");

    let started = Instant::now();
    end.bring_about(&cluster, &leader).await;
    if end == End::LeadershipLoss {
        let later = tokio::spawn(make(leader.clone()));
        settle().await;
        if matches!(kind, Kind::Command | Kind::Leading) {
            assert!(call.is_finished() && later.is_finished(), "{case}: not told at once");
        }
        if kind == Kind::Transfer {
            sleep(ELECTION).await;
            assert!(call.is_finished() && later.is_finished(), "{case}: not told in time");
        }
        // The others need the cluster to go on.
        hear_again(&cluster);
        cluster.leader().await.apply("third").await.unwrap();
        let (answer_in_flight, later) = (answer(call).await, answer(later).await);
        assert!(in_flight(kind, end).contains(&answer_in_flight), "{case}: {answer_in_flight}");
        assert_eq!(later, afterwards(kind, end), "{case}, afterwards");
        return;
    }
    timeout(ELECTION, async {
        while leader.fatal().is_none() {
            settle().await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{case}: the node goes on"));
    let answer_in_flight = answer(call).await;
    let known = in_flight(kind, end);
    assert!(known.contains(&answer_in_flight), "{case}: {answer_in_flight} and not {known:?}");
    assert!(started.elapsed() <= ELECTION, "{case}: after {:?}", started.elapsed());
    leader.shutdown().await;
    let started = Instant::now();
    let later = answer(tokio::spawn(make(leader.clone()))).await;
    assert_eq!(later, afterwards(kind, end), "{case}, afterwards");
    assert_eq!(started.elapsed(), Duration::ZERO, "{case}, afterwards");
}

/// R02, D16 and more: see the table.
#[tokio::test(start_paused = true)]
async fn leadership_loss_answers_every_call() {
    for call in CALLS {
        check(call, End::LeadershipLoss).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_state_machine_answers_every_call() {
    for call in CALLS {
        check(call, End::Panic).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_store_answers_every_call() {
    for call in CALLS {
        check(call, End::StoreFailure).await;
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_answers_every_call() {
    for call in CALLS {
        check(call, End::Shutdown).await;
    }
}
