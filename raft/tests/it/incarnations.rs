//! A server that comes back on another disk neither votes, nor counts, nor leads.

use std::{sync::Arc, time::Duration};

use raft::{
    Config, Configuration, ConfigurationError, DiskIdentity, Fatal, Identity, Inbox,
    InvalidConfiguration, LogId, LogIndex, Message, Observation, Observer, Raft, Role, Server,
    ServerId, StableStore, StartError, Suffrage, Term, Transport, WrongDisk,
    inmem::{InmemLogStore, InmemNetwork, InmemSnapshotStore, InmemStableStore},
    rpc::{HeartbeatRequest, Promised},
    testing::{Cluster, Journal},
};
use tokio::time::{sleep, timeout};

const ABC: [&str; 3] = ["a", "b", "c"];
/// Long enough for several elections.
const LONG: Duration = Duration::from_secs(30);

fn recorded(raft: &Raft<Journal>, id: &str) -> u64 {
    raft.configuration().configuration.server(&id.into()).map_or(0, |server| server.incarnation)
}

/// A cluster whose configuration knows the disk of every server, and its leader.
async fn recorded_cluster() -> (Cluster, Raft<Journal>) {
    let cluster = Cluster::with_incarnations(ABC, |config| config).await;
    let leader = cluster.leader().await;
    sleep(Duration::from_secs(1)).await;
    cluster.converge().await;
    for raft in cluster.rafts() {
        for id in ABC {
            assert_ne!(recorded(&raft, id), 0, "{} does not know {id}", raft.id());
        }
    }
    (cluster, leader)
}

fn watch(raft: &Raft<Journal>) -> Observer {
    raft.observe(1000, |seen| matches!(seen, Observation::WrongIncarnation { .. }))
}

fn wrong_disks(observer: &mut Observer) -> Vec<(String, String)> {
    std::iter::from_fn(|| observer.try_recv())
        .map(|seen| match seen {
            Observation::WrongIncarnation { peer, disk } => {
                (peer.to_string(), disk.server.to_string())
            }
            other => panic!("{other:?}"),
        })
        .collect()
}

fn two_others(leader: &Raft<Journal>) -> (String, String) {
    let mut others = ABC.into_iter().filter(|id| *id != leader.id().as_str()).map(str::to_owned);
    (others.next().unwrap(), others.next().unwrap())
}

async fn wipe(cluster: &mut Cluster, id: &str) -> Raft<Journal> {
    cluster.stop(id).await;
    cluster.wipe(id);
    cluster.start(id).await
}

#[tokio::test(start_paused = true)]
async fn incarnations_are_recorded_once_and_for_good() {
    let (mut cluster, leader) = recorded_cluster().await;
    let index = leader.configuration().index;
    for id in ABC {
        let mut stable = cluster.stores(id).1;
        assert_eq!(
            stable.disk_identity().await.unwrap().map(|it| it.incarnation),
            Some(recorded(&leader, id))
        );
    }
    // Leader changes, a snapshot in the place of the log, and restarts change nothing.
    leader.leadership_transfer().await.unwrap();
    cluster.leader().await.apply("x").await.unwrap();
    sleep(LONG).await;
    for id in ABC {
        cluster.raft(id).snapshot().await.unwrap();
        cluster.restart(id).await;
        sleep(LONG).await;
    }
    cluster.converge().await;
    for raft in cluster.rafts() {
        assert_eq!(raft.configuration().index, index);
        let status = raft.status().await.unwrap();
        assert_eq!((status.wrong_disk, status.wrong_disks), (None, Vec::new()));
    }
}

#[tokio::test(start_paused = true)]
async fn all_that_are_known_are_recorded_in_one_entry_and_latecomers_later() {
    let mut cluster = Cluster::with_incarnations(ABC, |config| config).await;
    cluster.stop("c").await;
    let leader = cluster.leader().await;
    sleep(LONG).await;
    let first = leader.configuration().index;
    assert!(recorded(&leader, "a") != 0 && recorded(&leader, "b") != 0);
    assert_eq!(recorded(&leader, "c"), 0);
    // The bootstrap, the leader's first entry, its barrier, and that.
    assert!(leader.last_index() <= LogIndex(4), "{}", leader.last_index());
    cluster.start("c").await;
    sleep(LONG).await;
    assert_ne!(recorded(&leader, "c"), 0);
    assert_eq!(leader.configuration().index, first.next());
}

#[tokio::test(start_paused = true)]
async fn a_wiped_follower_does_not_count() {
    let (mut cluster, leader) = recorded_cluster().await;
    leader.apply("x").await.unwrap();
    let (wiped, other) = two_others(&leader);
    let mut at_leader = watch(&leader);
    let raft = wipe(&mut cluster, &wiped).await;
    let mut at_wiped = watch(&raft);
    cluster.stop(&other).await;
    let applied = timeout(LONG, leader.apply("y")).await;
    assert!(!matches!(applied, Ok(Ok(_))), "nothing commits");
    sleep(LONG).await;
    assert!(!cluster.rafts().iter().any(|raft| raft.role() == Role::Leader));
    assert_eq!((raft.last_index(), raft.leader()), (LogIndex(0), None));
    // Both sides were told, once.
    let told = wrong_disks(&mut at_wiped);
    assert_eq!(told, [(leader.id().to_string(), wiped.clone())]);
    assert_eq!(wrong_disks(&mut at_leader), [(wiped.clone(), wiped.clone())]);
    let status = raft.status().await.unwrap();
    let wrong = status.wrong_disk.unwrap();
    assert_eq!(wrong.recorded, recorded(&leader, &wiped));
    let text = wrong.to_string();
    assert!(text.contains("let it rejoin") && text.contains(&wiped), "{text}");
    let seen: Vec<WrongDisk> = leader.status().await.unwrap().wrong_disks;
    assert_eq!(seen, [wrong]);
}

/// c is cut off while something is committed by a and b; then b is wiped and a is gone. If b voted
/// now, c would lead without what was committed.
#[tokio::test(start_paused = true)]
async fn a_wiped_follower_makes_no_lagging_server_leader() {
    let (mut cluster, leader) = recorded_cluster().await;
    let (wiped, lagging) = two_others(&leader);
    cluster.network().disconnect(lagging.as_str());
    leader.apply("committed").await.unwrap();
    let raft = wipe(&mut cluster, &wiped).await;
    cluster.stop(leader.id().as_str()).await;
    cluster.network().heal_all();
    sleep(LONG).await;
    let lagging = cluster.raft(&lagging);
    assert!(lagging.role() != Role::Leader && raft.role() == Role::Follower);
    let wrong = raft.status().await.unwrap().wrong_disk.unwrap();
    assert_eq!(wrong.server, *raft.id());
    // With the old leader back everything is there.
    cluster.start(leader.id().as_str()).await;
    let leader = cluster.leader().await;
    leader.rejoin_server(raft.id().clone()).await.unwrap();
    cluster.converge().await;
    assert_eq!(cluster.journal(raft.id().as_str()).commands(), ["committed"]);
}

#[tokio::test(start_paused = true)]
async fn a_wiped_server_that_is_rejoined_counts_again() {
    for (suffrage, at_once) in
        [(Suffrage::Voter, false), (Suffrage::Voter, true), (Suffrage::Nonvoter, false)]
    {
        let configure: fn(Config) -> Config = match at_once {
            true => |config| config.with(|it| it.add_voters_at_once = true),
            false => |config| config,
        };
        let mut cluster = Cluster::with_incarnations(ABC, configure).await;
        let leader = cluster.leader().await;
        let (wiped, other) = two_others(&leader);
        if suffrage == Suffrage::Nonvoter {
            sleep(Duration::from_secs(1)).await;
            leader.demote_voter(wiped.as_str(), None).await.unwrap();
        }
        leader.apply("x").await.unwrap();
        sleep(Duration::from_secs(1)).await;
        let before = recorded(&leader, &wiped);
        let raft = wipe(&mut cluster, &wiped).await;
        sleep(LONG).await;
        assert_eq!(raft.last_index(), LogIndex(0));
        let index = leader.rejoin_server(wiped.as_str()).await.unwrap();
        assert!(index <= leader.configuration().index);
        sleep(Duration::from_secs(1)).await;
        cluster.converge().await;
        let latest = leader.configuration().configuration;
        let member = latest.server(&wiped.as_str().into()).unwrap();
        assert_eq!((member.suffrage, member.address.as_str()), (suffrage, wiped.as_str()));
        let disk = cluster.stores(&wiped).1.disk_identity().await.unwrap().unwrap().incarnation;
        assert!(member.incarnation == disk && disk != before);
        assert_eq!(raft.status().await.unwrap().wrong_disk, None);
        assert!(raft.fatal().is_none(), "it did not take its removal for its own");
        if suffrage == Suffrage::Voter {
            cluster.stop(&other).await;
            leader.apply("y").await.unwrap();
            cluster.converge().await;
        }
    }
}

/// It was answered with success as soon as it was a member again.
#[tokio::test(start_paused = true)]
async fn a_nonvoter_that_does_not_run_is_not_said_to_be_back() {
    let (mut cluster, leader) = recorded_cluster().await;
    let (lost, _) = two_others(&leader);
    leader.demote_voter(lost.as_str(), None).await.unwrap();
    cluster.stop(&lost).await;
    let error = leader.rejoin_server(lost.as_str()).await.unwrap_err();
    assert!(matches!(error, ConfigurationError::TooSlow { .. }), "{error}");
    let latest = leader.configuration().configuration;
    assert!(latest.server(&lost.as_str().into()).is_some_and(|member| !member.is_voter()));
}

/// The user bootstraps a wiped server again, as a program does that bootstraps at every start.
#[tokio::test(start_paused = true)]
async fn a_wiped_server_that_is_bootstrapped_again_leads_nobody() {
    let (mut cluster, leader) = recorded_cluster().await;
    leader.apply("x").await.unwrap();
    let (wiped, other) = two_others(&leader);
    let raft = wipe(&mut cluster, &wiped).await;
    let voters = ABC.map(|id| Server::voter(id, id));
    raft.bootstrap_cluster(Configuration::new(voters)).await.unwrap();
    let mut at_other = watch(&cluster.raft(&other));
    sleep(LONG).await;
    assert_ne!(raft.role(), Role::Leader);
    assert_eq!(leader.role(), Role::Leader);
    assert!(raft.status().await.unwrap().wrong_disk.is_some());
    assert_eq!(wrong_disks(&mut at_other).first(), Some(&(wiped.clone(), wiped.clone())));
    leader.rejoin_server(wiped.as_str()).await.unwrap();
    cluster.converge().await;
}

/// The directories of two servers are mixed up.
#[tokio::test(start_paused = true)]
async fn a_server_does_not_start_on_the_disk_of_another() {
    let (mut cluster, leader) = recorded_cluster().await;
    let (one, other) = two_others(&leader);
    leader.apply("x").await.unwrap();
    cluster.stop(&one).await;
    cluster.stop(&other).await;
    let (log, mut stable, snapshots) = cluster.stores(&other);
    let before = stable.disk_identity().await.unwrap();
    let started = Raft::new(
        Config::new(one.as_str()),
        Journal::default(),
        log,
        stable.clone(),
        Arc::new(snapshots),
        cluster.network().transport(one.as_str()),
    );
    let error = started.await.map(drop).unwrap_err();
    let StartError::WrongServer { owner, given } = &error else { panic!("{error}") };
    assert_eq!((owner.as_str(), given.as_str()), (other.as_str(), one.as_str()));
    assert_eq!(stable.disk_identity().await.unwrap(), before, "nothing was changed");
    for id in [&one, &other] {
        cluster.start(id).await;
    }
    cluster.converge().await;
    assert_eq!(cluster.journal(&one).commands(), ["x"]);
}

/// One cluster is bootstrapped twice, with different members: what one of the two acknowledges is never
/// overwritten by the other, and neither elects, counts or ends anybody of the other.
#[tokio::test(start_paused = true)]
async fn servers_that_were_bootstrapped_with_different_members_are_of_two_clusters() {
    let network = InmemNetwork::new();
    let mut rafts = Vec::new();
    for (seed, id) in (1..).zip(ABC) {
        let config = Config::new(id).with_seed(seed);
        let stable = InmemStableStore::new().keeping_incarnation();
        let (log, snapshots) = (InmemLogStore::new(), Arc::new(InmemSnapshotStore::new()));
        let transport = network.transport(id);
        let raft = Raft::new(config, Journal::default(), log, stable, snapshots, transport);
        rafts.push(raft.await.unwrap());
    }
    let members = |ids: &[&str]| Configuration::new(ids.iter().map(|id| Server::voter(*id, *id)));
    let mut seen = rafts[0].observe(64, |it| matches!(it, Observation::WrongCluster { .. }));
    rafts[0].bootstrap_cluster(members(&["a"])).await.unwrap();
    rafts[0].apply("alone").await.unwrap();
    for raft in &rafts[1..] {
        raft.bootstrap_cluster(members(&ABC)).await.unwrap();
    }
    sleep(LONG).await;
    let leader = rafts[1..].iter().find(|raft| raft.role() == Role::Leader).expect("b or c leads");
    leader.apply("without a").await.unwrap();
    sleep(LONG).await;
    assert_eq!(rafts[0].role(), Role::Leader, "of its own cluster");
    rafts[0].apply("still alone").await.unwrap();
    let clusters: Vec<_> =
        rafts.iter().map(|raft| raft.configuration().configuration.cluster()).collect();
    assert!(clusters[0] != clusters[1] && clusters[1] == clusters[2], "{clusters:?}");
    let Ok(Observation::WrongCluster { own, other, .. }) = seen.recv().await.ok_or(()) else {
        panic!("nobody was told")
    };
    assert_eq!((own, other), (clusters[0], clusters[1]));
    assert!(rafts.iter().all(|raft| raft.fatal().is_none()));
}

/// Somebody was away while another server was rejoined, and knows it by its old disk. It must still
/// be able to vote for that server and to follow it: here nobody else can lead.
#[tokio::test(start_paused = true)]
async fn a_server_that_was_away_follows_one_that_was_rejoined_meanwhile() {
    const FIVE: [&str; 5] = ["a", "b", "c", "d", "e"];
    for is_snapshot in [false, true] {
        let configure = |config: Config| config.with(|it| it.trailing_logs = 0);
        let mut cluster = Cluster::with_incarnations(FIVE, configure).await;
        let leader = cluster.leader().await;
        sleep(Duration::from_secs(1)).await;
        let others: Vec<&str> = FIVE.into_iter().filter(|id| *id != leader.id().as_str()).collect();
        let [wiped, away, lagging, third] = others.try_into().unwrap();
        cluster.stop(away).await;
        let raft = wipe(&mut cluster, wiped).await;
        leader.rejoin_server(wiped).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        cluster.stop(lagging).await;
        leader.apply("x").await.unwrap();
        sleep(Duration::from_secs(1)).await;
        if is_snapshot {
            raft.snapshot().await.unwrap();
        }
        cluster.stop(leader.id().as_str()).await;
        cluster.stop(third).await;
        let behind = cluster.start(away).await;
        assert_ne!(recorded(&behind, wiped), recorded(&raft, wiped));
        cluster.start(lagging).await;
        let next = cluster.leader().await;
        assert_eq!(next.id(), raft.id());
        next.apply("y").await.unwrap();
        cluster.converge().await;
        assert_eq!(cluster.journal(away).commands(), ["x", "y"]);
        assert_eq!(recorded(&behind, wiped), recorded(&raft, wiped));
        for raft in [raft, behind] {
            assert_eq!(raft.status().await.unwrap().wrong_disk, None, "{}", raft.id());
        }
    }
}

/// The disk that a rejoined server had before comes back: it promised things that are not counted
/// on any more.
#[tokio::test(start_paused = true)]
async fn an_old_disk_that_comes_back_is_not_listened_to() {
    let (mut cluster, leader) = recorded_cluster().await;
    let (moved, other) = two_others(&leader);
    let spare = "spare";
    cluster.start(spare).await;
    cluster.stop(spare).await;
    cluster.stop(&moved).await;
    cluster.wipe(spare);
    cluster.swap_disks(&moved, spare);
    cluster.start(&moved).await;
    leader.rejoin_server(moved.as_str()).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    cluster.stop(&moved).await;
    cluster.swap_disks(&moved, spare);
    let raft = cluster.start(&moved).await;
    cluster.stop(&other).await;
    sleep(LONG).await;
    assert!(raft.status().await.unwrap().wrong_disk.is_some());
    assert_ne!(leader.role(), Role::Leader);
}

#[tokio::test(start_paused = true)]
async fn an_empty_disk_votes_for_nobody_that_has_more_than_a_new_cluster() {
    // c has never run; a is lost with what it and b have committed. Nobody can know that c's disk
    // has not been wiped.
    let mut cluster = Cluster::with_incarnations(ABC, |config| config).await;
    cluster.stop("c").await;
    cluster.wipe("c");
    let leader = cluster.leader().await;
    leader.apply("x").await.unwrap();
    let survivor = if leader.id().as_str() == "a" { "b" } else { "a" };
    sleep(Duration::from_secs(1)).await;
    cluster.stop(leader.id().as_str()).await;
    let empty = cluster.start("c").await;
    sleep(LONG).await;
    assert_ne!(cluster.raft(survivor).role(), Role::Leader);
    assert_eq!(empty.status().await.unwrap().wrong_disk, None);
    cluster.start(leader.id().as_str()).await;
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_keeps_no_incarnation_works_as_before() {
    let mut cluster = Cluster::new(ABC).await;
    let leader = cluster.leader().await;
    sleep(LONG).await;
    assert!(leader.last_index() <= LogIndex(3), "nothing was recorded");
    let (wiped, _) = two_others(&leader);
    leader.apply("x").await.unwrap();
    let raft = wipe(&mut cluster, &wiped).await;
    raft.leader_changes().wait_for(Option::is_some).await.unwrap();
    leader.apply("y").await.unwrap();
    for status in [raft.status().await.unwrap(), leader.status().await.unwrap()] {
        assert_eq!((status.wrong_disk, status.wrong_disks), (None, Vec::new()));
    }
    // Whoever wipes it must remove it first.
    leader.remove_server(wiped.as_str(), None).await.unwrap();
    cluster.stop(&wiped).await;
    cluster.start(&wiped).await;
    leader.add_voter(wiped.as_str(), wiped.as_str(), None).await.unwrap();
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_rejoined_is_refused() {
    let (cluster, leader) = recorded_cluster().await;
    let index = leader.configuration().index;
    let id = leader.id().clone();
    let error = leader.rejoin_server(id.clone()).await.unwrap_err();
    assert!(matches!(&error, ConfigurationError::LeadsItself { id: named } if *named == id));
    let error = leader.rejoin_server("x").await.unwrap_err();
    let unknown = InvalidConfiguration::UnknownServer { id: "x".into() };
    assert!(matches!(&error, ConfigurationError::Invalid(invalid) if *invalid == unknown));
    for follower in cluster.followers() {
        for id in [follower.id().clone(), id.clone(), ServerId::new("x")] {
            let error = follower.rejoin_server(id).await.unwrap_err();
            assert!(matches!(error, ConfigurationError::NotLeader { .. }), "{error}");
        }
    }
    assert_eq!(leader.configuration().index, index);
}

/// The test plays the leader, which remembers more of the disk than there is. When the node has ended the
/// disk is another one already, so that the next start is that of a stranger.
#[tokio::test(start_paused = true)]
async fn an_older_copy_of_a_disk_ends_the_node_and_gets_another_incarnation() {
    let network = InmemNetwork::new();
    let mut stable = InmemStableStore::new().keeping_incarnation();
    let disk =
        DiskIdentity { server: "b".into(), incarnation: 11, starts: 3, was_rolled_back: false };
    stable.save_disk_identity(&disk).await.unwrap();
    let raft = Raft::new(
        Config::new("b"),
        Journal::default(),
        InmemLogStore::new(),
        stable.clone(),
        Arc::new(InmemSnapshotStore::new()),
        network.transport("b"),
    );
    let raft = raft.await.unwrap();
    let leader = network.transport("a");
    let (inbox, _received) = Inbox::new(8);
    leader.start(Identity::new("a"), inbox).await.unwrap();
    let (term, matched) = (Term(5), LogId::new(5, 9));
    let promised = Promised { incarnation: 11, life: 3 << 32, term, matched };
    let heartbeat = HeartbeatRequest {
        term: Term(5),
        round: 1,
        commit_index: LogIndex(0),
        promised: Some(promised),
    };
    let to = Server::voter("b", "b").with(|it| it.incarnation = 11);
    leader.send(&to, Message::Heartbeat(heartbeat)).unwrap();
    let ended = timeout(LONG, raft.ended()).await.unwrap();
    let text = ended.to_string();
    let Fatal::RolledBack { told, promised: known } = ended else { panic!("{text}") };
    assert_eq!((told, known), ("a".into(), promised));
    assert!(
        text.contains("it has told a that it had term 5 and entry 9@5, which it has no"),
        "{text}"
    );
    let disk = stable.disk_identity().await.unwrap().unwrap();
    assert!(disk.incarnation != 11 && disk.was_rolled_back, "{disk:?}");
    assert_eq!(stable.hard_state().await.unwrap(), None, "it has taken nothing over");
}
