//! The model's fuzzy tests: whole clusters under load while something goes wrong. Each ends with
//! the same checks; see [`check_everything`].

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use raft::{Config, Message, Raft, Role, ServerAddress, testing::Cluster};
use tokio::time::sleep;

use crate::model_support::*;

/// As long as a healthy cluster takes for an election, many times over.
const WHILE: Duration = Duration::from_secs(6);

/// Voters on a network that takes a millisecond, so that load takes time.
async fn cluster(voters: &[&str]) -> (Cluster, Wire) {
    let cluster = Cluster::new(voters.iter().copied()).await;
    cluster.network().set_delay(Duration::from_millis(1));
    let wire = Wire::tap(&cluster);
    cluster.leader().await;
    (cluster, wire)
}

/// The checks themselves: each finds what it is for.
#[tokio::test(start_paused = true)]
async fn the_checks_find_what_is_wrong() {
    type Spoil = fn(&Cluster, &Wire, &mut Vec<Acknowledged>);
    let spoils: [(&str, Spoil); 6] = [
        ("nothing was acknowledged", |_, _, acknowledged| acknowledged.clear()),
        ("law 7", |_, _, acknowledged| acknowledged[3].command = "never sent".into()),
        ("law 7", |_, _, acknowledged| acknowledged[3].applied.response += 1),
        ("law 7", |_, _, acknowledged| acknowledged[3].applied.response += 1_000_000),
        ("assertion", |_, _, acknowledged| acknowledged.push(acknowledged[3].clone())),
        ("law 1", |cluster, wire, _| {
            let leader = &leaders(cluster)[0];
            wire.accuse(leader.term(), cluster.followers()[0].id());
        }),
    ];
    for (expected, spoil) in spoils {
        let (cluster, wire) = cluster(&ABC).await;
        let mut acknowledged = Load::of(&cluster, 2, 10).finish().await;
        check_everything(&cluster, &wire, &acknowledged).await;
        spoil(&cluster, &wire, &mut acknowledged);
        let checking =
            tokio::spawn(async move { check_everything(&cluster, &wire, &acknowledged).await });
        let panic = checking.await.unwrap_err().into_panic();
        let said = panic.downcast_ref::<String>().cloned();
        let said =
            said.or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned())).unwrap();
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

/// F01: nothing goes wrong, and ten thousand commands are applied under one leader.
#[tokio::test(start_paused = true)]
async fn a_quiet_cluster_applies_ten_thousand_commands_under_one_leader() {
    let (cluster, wire) = cluster(&FIVE).await;
    let leader = cluster.leader().await;
    let term = leader.term();
    let acknowledged = Load::of(&cluster, 20, 500).finish().await;
    assert_eq!(acknowledged.len(), 10_000);
    check_everything(&cluster, &wire, &acknowledged).await;
    assert_eq!((leader.role(), leader.term()), (Role::Leader, term));
    assert_eq!(wire.terms(), 1);
}

/// F02: ten times, the leader is cut off together with nobody or up to three others, and nobody,
/// one server or everybody is let in again.
#[tokio::test(start_paused = true)]
async fn leaders_that_are_cut_off_lose_nothing() {
    let (cluster, wire) = cluster(&FIVE).await;
    let load = Load::steady(&cluster);
    for round in 0..10 {
        sleep(WHILE).await;
        // The newest, if several think that they lead; nobody, if no majority is connected.
        let leading = leaders(&cluster).into_iter().max_by_key(Raft::term);
        let first = leading.map_or("a".to_owned(), |leader| leader.id().to_string());
        let others = FIVE.into_iter().filter(|id| *id != first);
        let (with, without): (Vec<_>, Vec<_>) =
            others.enumerate().partition(|(at, _)| (at + round) % 4 < round % 4);
        let names = |side: Vec<(usize, &'static str)>| {
            side.into_iter().map(|(_, id)| id.to_owned()).collect::<Vec<_>>()
        };
        let (mut with, without) = (names(with), names(without));
        with.push(first.clone());
        cluster.network().partition(&[&with, &without]);
        sleep(WHILE).await;
        match round % 3 {
            0 => {}
            1 => {
                for id in FIVE {
                    cluster.network().heal(first.as_str(), id);
                    cluster.network().heal(id, first.as_str());
                }
            }
            _ => cluster.network().heal_all(),
        }
    }
    cluster.network().heal_all();
    sleep(WHILE).await;
    let acknowledged = load.stop().await;
    check_everything(&cluster, &wire, &acknowledged).await;
    assert!(4 <= wire.terms(), "only {} leaderships", wire.terms());
}

/// Lets those messages that `is_late` names arrive one to two seconds after they were sent. Returns
/// their number, which grows.
async fn delay(
    cluster: &Cluster,
    is_late: impl Fn(&ServerAddress, &ServerAddress, &Message) -> bool + Send + Sync + 'static,
) -> Arc<AtomicU64> {
    let mut couriers = BTreeMap::new();
    for raft in cluster.rafts() {
        let courier = Impostor::of(cluster, raft.id().as_str()).await;
        couriers.insert(address(raft.id()), Arc::new(courier));
    }
    let late = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&late);
    cluster.network().set_drop(move |from, to, message| {
        let Some(courier) = couriers.get(from) else { return false };
        if !is_late(from, to, message) {
            return false;
        }
        let number = count.fetch_add(1, Ordering::Relaxed);
        let (courier, to, message) = (Arc::clone(courier), to.to_string(), message.clone());
        tokio::spawn(async move {
            sleep(Duration::from_millis(1000 + number * 379 % 1000)).await;
            courier.tell(&to, message);
        });
        true
    });
    late
}

/// Cuts the leader off three times, with load, and waits for another each time.
async fn elect_three_times(cluster: &Cluster) -> Vec<Acknowledged> {
    let load = Load::steady(cluster);
    for _ in 0..3 {
        let leader = cluster.leader().await;
        let others = cluster.followers();
        let id = leader.id().as_str();
        cluster.network().disconnect(id);
        let next = cluster.leader_among(&others).await;
        assert!(leader.id() != next.id());
        sleep(WHILE).await;
        cluster.network().connect(id);
        sleep(WHILE).await;
    }
    load.stop().await
}

/// F03: two of five are asked for their votes a second or two late.
#[tokio::test(start_paused = true)]
async fn late_requests_for_votes_do_no_harm() {
    let (cluster, wire) = cluster(&FIVE).await;
    let late = delay(&cluster, |_, to, message| {
        matches!(message, Message::RequestVote(_)) && ["d", "e"].contains(&to.as_str())
    })
    .await;
    let acknowledged = elect_three_times(&cluster).await;
    check_everything(&cluster, &wire, &acknowledged).await;
    assert!(4 <= wire.terms());
    assert!(6 <= late.load(Ordering::Relaxed));
}

/// F04: the votes of three of five come a second or two late, after the candidate has given up.
#[tokio::test(start_paused = true)]
async fn late_votes_do_no_harm() {
    let (cluster, wire) = cluster(&FIVE).await;
    let late = delay(&cluster, |from, _, message| {
        matches!(message, Message::RequestVoteReply(_)) && ["c", "d", "e"].contains(&from.as_str())
    })
    .await;
    let acknowledged = elect_three_times(&cluster).await;
    check_everything(&cluster, &wire, &acknowledged).await;
    assert!(4 <= wire.terms());
    assert!(6 <= late.load(Ordering::Relaxed));
}

/// F05: three become five, under load.
#[tokio::test(start_paused = true)]
async fn servers_are_added_under_load() {
    let (mut cluster, wire) = cluster(&ABC).await;
    let load = Load::steady(&cluster);
    sleep(WHILE).await;
    for id in ["d", "e"] {
        cluster.start(id).await;
        load.follow(&cluster);
        cluster.leader().await.add_voter(id, id, None).await.unwrap();
        sleep(WHILE).await;
    }
    let acknowledged = load.stop().await;
    check_everything(&cluster, &wire, &acknowledged).await;
    assert_eq!(wire.terms(), 1, "no change of members needs another leader");
    for raft in cluster.rafts() {
        assert_eq!(members(&raft), "a b c d e");
    }
}

/// F06: three become five and then three again, never the leader, under load.
#[tokio::test(start_paused = true)]
async fn servers_come_and_others_go_under_load() {
    let (mut cluster, wire) = cluster(&ABC).await;
    let leader = cluster.leader().await;
    let first = ids(&cluster.followers());
    let load = Load::steady(&cluster);
    for id in ["d", "e"] {
        cluster.start(id).await;
        load.follow(&cluster);
        leader.add_voter(id, id, None).await.unwrap();
        sleep(WHILE).await;
    }
    for id in &first {
        leader.remove_server(id.as_str(), None).await.unwrap();
        sleep(WHILE).await;
        cluster.stop(id).await;
        load.follow(&cluster);
    }
    let acknowledged = load.stop().await;
    check_everything(&cluster, &wire, &acknowledged).await;
    assert_eq!(wire.terms(), 1, "those who left have deposed the leader");
    assert_eq!(cluster.rafts().len(), 3);
    assert_eq!(members(&leader), format!("{} d e", leader.id()));
}

/// F07: the leader of five is removed, under load.
#[tokio::test(start_paused = true)]
async fn a_leader_is_removed_under_load() {
    let (mut cluster, wire) = cluster(&FIVE).await;
    let leader = cluster.leader().await;
    let load = Load::steady(&cluster);
    sleep(WHILE).await;
    let id = leader.id().to_string();
    leader.remove_server(id.as_str(), None).await.unwrap();
    sleep(WHILE).await;
    let next = cluster.leader_among(&all_but(&cluster, &[&id])).await;
    cluster.stop(&id).await;
    load.follow(&cluster);
    sleep(WHILE).await;
    let acknowledged = load.stop().await;
    check_everything(&cluster, &wire, &acknowledged).await;
    assert_eq!(next.configuration().configuration.voters().count(), 4);
    assert_eq!(wire.terms(), 2);
}

/// F08: a follower that is cut off is removed, and then let in again. It disturbs nobody.
#[tokio::test(start_paused = true)]
async fn a_server_that_was_removed_while_cut_off_disturbs_nobody() {
    let (mut cluster, wire) = cluster(&FIVE).await;
    let leader = cluster.leader().await;
    let term = leader.term();
    let id = cluster.followers()[1].id().to_string();
    let load = Load::steady(&cluster);
    cluster.network().disconnect(id.as_str());
    sleep(WHILE).await;
    leader.remove_server(id.as_str(), None).await.unwrap();
    sleep(WHILE).await;
    cluster.network().connect(id.as_str());
    sleep(3 * WHILE).await;
    assert_eq!((leader.role(), leader.term()), (Role::Leader, term));
    cluster.stop(&id).await;
    let acknowledged = load.stop().await;
    check_everything(&cluster, &wire, &acknowledged).await;
    assert_eq!(wire.terms(), 1);
}

/// F09: leadership is handed over three times, under load.
#[tokio::test(start_paused = true)]
async fn leadership_is_handed_over_under_load() {
    let (cluster, wire) = cluster(&FIVE).await;
    let load = Load::of(&cluster, 20, 500);
    for _ in 0..3 {
        sleep(Duration::from_millis(300)).await;
        let leader = cluster.leader().await;
        leader.leadership_transfer().await.unwrap();
        assert_ne!(leader.role(), Role::Leader);
    }
    let acknowledged = load.finish().await;
    assert!(9_000 < acknowledged.len(), "{}", acknowledged.len());
    check_everything(&cluster, &wire, &acknowledged).await;
    assert_eq!(wire.terms(), 4);
}

/// I01: a cluster grows from one to five, snapshots compact its logs, a follower falls behind the
/// compacted log and restarts, two servers are killed for good and removed, two others join, and the
/// leader is killed. Under load all the while.
#[tokio::test(start_paused = true)]
async fn a_long_life_loses_nothing() {
    let configure = |config: Config| {
        config.with(|it| {
            it.trailing_logs = 50;
            it.snapshot_threshold = 200;
            it.snapshot_interval = Duration::from_secs(1);
            it.snapshot_chunk_bytes = 1 << 10;
        })
    };
    let mut cluster = Cluster::with_config(["a"], configure).await;
    cluster.network().set_delay(Duration::from_millis(1));
    let wire = Wire::tap(&cluster);
    cluster.leader().await;
    let load = Load::steady(&cluster);
    for id in ["b", "c", "d", "e"] {
        cluster.start(id).await;
        cluster.leader().await.add_voter(id, id, None).await.unwrap();
        load.follow(&cluster);
        sleep(WHILE).await;
    }
    // Falls behind, and has to be sent a snapshot.
    let leader = cluster.leader().await;
    let behind = cluster.followers()[0].id().to_string();
    let last = cluster.raft(&behind).last_index();
    cluster.stop(&behind).await;
    sleep(2 * WHILE).await;
    assert!(last < leader.marks().first, "the log is not compacted beyond {last}");
    let raft = cluster.start(&behind).await;
    load.follow(&cluster);
    sleep(WHILE).await;
    assert!(last < raft.status().await.unwrap().snapshot.index, "it was sent no snapshot");
    // Two die, two others join, the dead are removed.
    let dead: Vec<_> = ids(&cluster.followers()).into_iter().take(2).collect();
    for id in &dead {
        cluster.stop(id).await;
        load.follow(&cluster);
        sleep(WHILE).await;
    }
    for id in ["f", "g"] {
        cluster.start(id).await;
        cluster.leader().await.add_voter(id, id, None).await.unwrap();
        load.follow(&cluster);
        sleep(WHILE).await;
    }
    for id in &dead {
        cluster.leader().await.remove_server(id.as_str(), None).await.unwrap();
        sleep(WHILE).await;
    }
    let leader = cluster.leader().await;
    cluster.stop(leader.id().as_str()).await;
    load.follow(&cluster);
    let next = cluster.leader().await;
    sleep(WHILE).await;
    assert_eq!(next.configuration().configuration.voters().count(), 5);
    cluster.start(leader.id().as_str()).await;
    load.follow(&cluster);
    sleep(WHILE).await;
    let acknowledged = load.stop().await;
    assert_eq!(cluster.rafts().len(), 5);
    check_everything(&cluster, &wire, &acknowledged).await;
}
