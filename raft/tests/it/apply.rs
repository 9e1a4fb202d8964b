//! What `apply`, `apply_batch` and `barrier` promise.

use std::time::Duration;

use bytes::Bytes;
use raft::{
    ApplyError, Config, LogIndex, Outcome, Role,
    testing::{Cluster, Journal},
};
use tokio::{task::JoinSet, time::Instant};

const ABC: [&str; 3] = ["a", "b", "c"];

fn text(commands: &[Bytes]) -> Vec<&str> {
    commands.iter().map(|command| std::str::from_utf8(command).unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_single_server_applies_and_answers_with_index_and_response() {
    let cluster = Cluster::new(["a"]).await;
    let leader = cluster.leader().await;
    let before = leader.last_index();
    let applied = leader.apply("x").await.unwrap();
    assert_eq!((applied.index, applied.response), (before.next(), 1));
    assert_eq!(leader.applied_index(), applied.index);
    assert!(applied.index <= leader.commit_index());
    assert_eq!(text(&cluster.journal("a").commands()), ["x"]);
}

#[tokio::test(start_paused = true)]
async fn three_servers_apply_the_same() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    for number in 0..10_u64 {
        let applied = leader.apply(format!("x{number}")).await.unwrap();
        assert_eq!(applied.response, number + 1);
    }
    cluster.converge().await;
    for id in ABC {
        assert_eq!(cluster.journal(id).commands().len(), 10);
    }
}

#[tokio::test(start_paused = true)]
async fn commands_are_applied_in_the_order_of_the_calls() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let mut futures = Vec::new();
    for number in 0..50 {
        futures.push(leader.apply(format!("{number}")));
        if number % 10 == 0 {
            let batch = vec![Bytes::from_static(b"batch"), Bytes::from_static(b"end")];
            drop(leader.apply_batch(batch));
            drop(leader.barrier());
        }
    }
    let mut last = LogIndex::ZERO;
    for future in futures {
        let applied = future.await.unwrap();
        assert!(last < applied.index);
        last = applied.index;
    }
    let expected: Vec<String> = (0..50)
        .flat_map(|number| {
            let batch = if number % 10 == 0 { vec!["batch".into(), "end".into()] } else { vec![] };
            [number.to_string()].into_iter().chain(batch)
        })
        .collect();
    assert_eq!(text(&cluster.journal(leader.id().as_str()).commands()), expected);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_concurrent_callers_are_all_answered() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let mut callers = JoinSet::new();
    for number in 0..100 {
        let leader = leader.clone();
        callers.spawn(async move { leader.apply(format!("{number}")).await });
    }
    let mut responses = Vec::new();
    while let Some(applied) = callers.join_next().await {
        responses.push(applied.unwrap().unwrap().response);
    }
    responses.sort_unstable();
    assert_eq!(responses, (1..=100).collect::<Vec<u64>>());
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_answered_with_one_response_per_command_in_order() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let commands: Vec<Bytes> = (0..5).map(|number| format!("{number}").into()).collect();
    let before = leader.apply("first").await.unwrap();
    let applied = leader.apply_batch(commands).await.unwrap();
    let answers: Vec<_> = applied.iter().map(|it| (it.index, it.response)).collect();
    let expected = |n: u64| (LogIndex(before.index.0 + n), 1 + n);
    assert_eq!(answers, (1..=5).map(expected).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_batch_larger_than_one_apply_batch_is_answered_once() {
    let configure = |config: Config| config.with(|it| it.max_apply_batch = 7);
    let cluster = Cluster::with_config(ABC, configure).await;
    let leader = cluster.leader().await;
    let commands = vec![Bytes::from_static(b"x"); 100];
    let applied = leader.apply_batch(commands).await.unwrap();
    assert_eq!(applied.len(), 100);
    assert!(applied.windows(2).all(|pair| pair[0].index.next() == pair[1].index));
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_batch_resolves_at_once() {
    let cluster = Cluster::new(ABC).await;
    assert_eq!(cluster.raft("a").apply_batch(Vec::new()).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_follower_refuses_and_names_the_leader() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    cluster.converge().await;
    for follower in cluster.followers() {
        let error = follower.apply("x").await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::NotApplied);
        let ApplyError::NotLeader { leader: Some(named) } = error else { panic!("{error}") };
        assert_eq!(named.id, *leader.id());
        assert_eq!(named.address.unwrap().as_str(), leader.id().as_str());
        assert_eq!(named.term, leader.term());
        let error = follower.apply_batch(vec!["x".into()]).await.unwrap_err();
        assert!(matches!(error, ApplyError::NotLeader { .. }));
        let error = follower.barrier().await.unwrap_err();
        assert!(matches!(error, ApplyError::NotLeader { .. }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_too_large_is_refused_at_once() {
    let configure = |config: Config| config.with(|it| it.max_command_bytes = 10);
    let cluster = Cluster::with_config(["a"], configure).await;
    let leader = cluster.leader().await;
    let error = leader.apply(vec![0; 11]).await.unwrap_err();
    assert!(matches!(error, ApplyError::TooLarge { bytes: 11, limit: 10 }), "{error}");
    assert_eq!(error.outcome(), Outcome::NotApplied);
    let error = leader.apply_batch(vec!["x".into(), vec![0; 11].into()]).await.unwrap_err();
    assert!(matches!(error, ApplyError::TooLarge { .. }));
    assert_eq!(leader.apply(vec![0; 10]).await.unwrap().response, 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_node_refuses_after_the_enqueue_timeout_and_recovers() {
    let configure = |config: Config| {
        config.with(|it| {
            it.apply_queue = 4;
            it.max_unapplied_entries = 8;
        })
    };
    let cluster = Cluster::with_config(["a"], configure).await;
    let leader = cluster.leader().await;
    cluster.disk("a").pause_writes();
    // As many as the node takes up, and as many as its queue holds.
    let mut accepted = Vec::new();
    for _ in 0..8 {
        accepted.push(leader.apply("x"));
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    for _ in 0..4 {
        accepted.push(leader.apply("x"));
    }
    let started = Instant::now();
    let timeout = Duration::from_millis(300);
    let error = leader.apply_with_timeout("y", timeout).await.unwrap_err();
    assert!(matches!(error, ApplyError::EnqueueTimeout { timeout: t } if t == timeout), "{error}");
    assert_eq!(error.outcome(), Outcome::NotApplied);
    assert!(timeout <= started.elapsed());
    assert_eq!(cluster.journal("a").commands().len(), 0);

    cluster.disk("a").resume_writes();
    for future in accepted {
        future.await.unwrap();
    }
    assert_eq!(cluster.journal("a").commands(), vec![Bytes::from_static(b"x"); 12]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_finds_the_queue_full_waits_for_room() {
    let configure = |config: Config| config.with(|it| it.apply_queue = 1);
    let cluster = Cluster::with_config(ABC, configure).await;
    let leader = cluster.leader().await;
    let futures: Vec<_> = (0..100).map(|number| leader.apply(format!("{number}"))).collect();
    for future in futures {
        future.await.unwrap();
    }
    assert_eq!(cluster.journal(leader.id().as_str()).commands().len(), 100);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_future_does_not_cancel_the_command() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    drop(leader.apply("never polled"));
    leader.barrier().await.unwrap();
    let journal = cluster.journal(leader.id().as_str());
    assert_eq!(text(&journal.commands()), ["never polled"]);
}

#[tokio::test(start_paused = true)]
async fn a_barrier_waits_for_everything_before_it() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let journal: Journal = cluster.journal(leader.id().as_str());
    let futures: Vec<_> = (0..10).map(|_| leader.apply("x")).collect();
    let index = leader.barrier().await.unwrap();
    assert_eq!(journal.commands().len(), 10);
    assert!(index <= leader.applied_index());
    for future in futures {
        assert!(future.await.unwrap().index < index);
    }
}

#[tokio::test(start_paused = true)]
async fn wait_applied_works_on_every_server() {
    let cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    let mut waiting = JoinSet::new();
    let index = LogIndex(leader.last_index().0 + 20);
    for raft in cluster.rafts() {
        waiting.spawn(async move {
            raft.wait_applied(index).await.unwrap();
            assert!(index <= raft.applied_index());
        });
    }
    for _ in 0..20 {
        leader.apply("x").await.unwrap();
    }
    waiting.join_all().await;
}

#[tokio::test(start_paused = true)]
async fn commands_survive_the_loss_of_the_leader() {
    let mut cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    leader.apply("x").await.unwrap();
    let id = leader.id().to_string();
    cluster.stop(&id).await;
    let next = cluster.leader().await;
    assert_ne!(next.id().as_str(), id);
    assert_eq!(next.role(), Role::Leader);
    next.apply("y").await.unwrap();
    assert_eq!(text(&cluster.journal(next.id().as_str()).commands()), ["x", "y"]);
    cluster.start(&id).await;
    cluster.converge().await;
}
