//! Rows of the model's catalogue about elections, with and without pre-vote.

use std::time::Duration;

use raft::{Config, Message, Raft, Role, TransferError, rpc::RequestVoteRequest, testing::Cluster};
use tokio::time::{sleep, timeout};

use crate::model_support::*;

/// Whether each of the three servers asks for promises before it asks for votes.
fn configure<const A: bool, const B: bool, const C: bool>(config: Config) -> Config {
    let pre_vote = match config.local_id.as_str() {
        "a" => A,
        "b" => B,
        _ => C,
    };
    config.with(|it| it.pre_vote = pre_vote)
}

/// R57: in every mix of servers with and without pre-vote another leader is elected when the old
/// one is cut off, and the old one follows when it is back.
#[tokio::test(start_paused = true)]
async fn every_mix_of_servers_with_and_without_pre_vote_elects() {
    let mixes: [fn(Config) -> Config; 8] = [
        configure::<false, false, false>,
        configure::<false, false, true>,
        configure::<false, true, false>,
        configure::<false, true, true>,
        configure::<true, false, false>,
        configure::<true, false, true>,
        configure::<true, true, false>,
        configure::<true, true, true>,
    ];
    for mix in mixes {
        let cluster = Cluster::with_config(ABC, mix).await;
        for _ in 0..3 {
            let old = cluster.leader().await;
            let others = cluster.followers();
            cluster.network().disconnect(old.id().as_str());
            let new = cluster.leader_among(&others).await;
            new.apply("x").await.unwrap();
            cluster.network().heal_all();
            cluster.converge().await;
        }
    }
}

/// I03: a server that is no longer in touch, and asks for promises without end, keeps nobody from
/// electing another leader.
#[tokio::test(start_paused = true)]
async fn a_storm_of_pre_votes_does_not_stop_an_election() {
    let cluster = Cluster::new(ABC).await;
    let old = cluster.leader().await;
    cluster.converge().await;
    let others = cluster.followers();
    cluster.network().disconnect(old.id().as_str());
    let storm = Impostor::of(&cluster, old.id().as_str()).await;
    let status = old.status().await.unwrap();
    let request = RequestVoteRequest {
        term: raft::Term(old.term().0 + 1),
        last: status.last,
        is_pre_vote: true,
        is_leadership_transfer: false,
        promised: None,
        configuration_index: raft::LogIndex(1),
        life: 0,
    };
    let targets = ids(&others);
    let storm = tokio::spawn(async move {
        loop {
            for to in &targets {
                storm.tell(to, Message::RequestVote(request.clone()));
            }
            sleep(Duration::from_millis(10)).await;
        }
    });
    let elected = timeout(10 * ELECTION, cluster.leader_among(&others)).await;
    let new = elected.expect("a leader in spite of the storm");
    new.apply("x").await.unwrap();
    storm.abort();
}

fn without_pre_vote(config: Config) -> Config {
    config.with(|it| it.pre_vote = false)
}

fn with_pre_vote(config: Config) -> Config {
    config.with(|it| it.pre_vote = true)
}

/// Restarts every server with other settings, the leader last, after a transfer or without.
async fn roll(cluster: &mut Cluster, configure: fn(Config) -> Config, transfers: bool) {
    cluster.reconfigure(configure);
    let leader = cluster.leader().await;
    let others = ids(&cluster.followers());
    for id in others {
        cluster.restart(&id).await;
        cluster.leader().await.apply("x").await.unwrap();
        cluster.converge().await;
    }
    if transfers {
        cluster.leader().await.leadership_transfer().await.unwrap();
    }
    let last = leader.id().to_string();
    cluster.restart(&last).await;
    cluster.leader().await.apply("y").await.unwrap();
    cluster.converge().await;
}

async fn roll_everything(steps: [fn(Config) -> Config; 2]) {
    for voters in [&ABC[..], &FIVE[..]] {
        for transfers in [false, true] {
            let mut cluster = Cluster::with_config(voters.iter().copied(), steps[0]).await;
            cluster.leader().await.apply("w").await.unwrap();
            roll(&mut cluster, steps[1], transfers).await;
            let commands = cluster.journal("a").commands();
            assert_eq!(commands.len(), voters.len() + 1, "{commands:?}");
        }
    }
}

/// C03: pre-vote is switched on server by server, or stays off.
#[tokio::test(start_paused = true)]
async fn pre_vote_is_switched_on_server_by_server() {
    roll_everything([without_pre_vote, with_pre_vote]).await;
    roll_everything([without_pre_vote, without_pre_vote]).await;
}

/// C04: and off again.
#[tokio::test(start_paused = true)]
async fn pre_vote_is_switched_off_server_by_server() {
    roll_everything([with_pre_vote, without_pre_vote]).await;
}

/// B13: whoever asks a candidate for a transfer is refused at once.
#[tokio::test(start_paused = true)]
async fn a_candidate_refuses_a_transfer_at_once() {
    for settings in [with_pre_vote as fn(Config) -> Config, without_pre_vote] {
        let cluster = Cluster::with_config(ABC, settings).await;
        cluster.leader().await;
        cluster.network().partition(&[&["a"], &["b"], &["c"]]);
        let campaigns =
            |raft: &Raft<_>| matches!(raft.role(), Role::PreCandidate | Role::Candidate);
        while !cluster.rafts().iter().all(campaigns) {
            sleep(Duration::from_millis(10)).await;
        }
        for raft in cluster.rafts() {
            let asked = timeout(Duration::from_millis(1), raft.leadership_transfer()).await;
            let error = asked.expect("an answer at once").unwrap_err();
            assert!(matches!(error, TransferError::NotLeader { .. }), "{error}");
        }
    }
}
