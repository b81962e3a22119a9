//! Partitions, lost messages, power loss.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use trivet_raft_node::testing::{self, Retention};
use trivet_raft_node::{Error, StartMode};

use crate::toy::{Cluster, ELECTION, command, eventually, url};

fn urls(ids: impl IntoIterator<Item = u64>) -> Vec<String> {
    ids.into_iter().map(url).collect()
}

fn isolate(cluster: &Cluster, id: u64) {
    let others = urls(cluster.nodes.keys().copied().filter(|other| *other != id));
    cluster.network.isolate(
        &url(id),
        &others.iter().map(String::as_str).collect::<Vec<_>>(),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_quorum_serves_nothing() {
    let mut cluster = Cluster::of(3).await;
    let old = cluster.leader().await;
    isolate(&cluster, old);
    let start = Instant::now();
    eventually("the minority to see that it leads nobody", || {
        let status = cluster.node(old).status();
        status.leader.is_none() && !cluster.node(old).leadership().borrow().local
    })
    .await;
    assert!(start.elapsed() < ELECTION * 6, "{:?}", start.elapsed());
    let (read, write) = tokio::join!(
        cluster.node(old).read_index(),
        cluster.node(old).propose(command("lost"))
    );
    assert!(matches!(read, Err(Error::NoLeader { .. })), "{read:?}");
    assert!(
        matches!(write, Err(Error::NoLeader { .. } | Error::Unknown(_))),
        "{write:?}"
    );
    // The majority goes on.
    let survivor = *cluster
        .nodes
        .keys()
        .find(|id| **id != old)
        .expect("a survivor");
    eventually("a new leader", || {
        cluster
            .node(survivor)
            .leadership()
            .borrow()
            .leader
            .is_some_and(|id| id != old)
    })
    .await;
    cluster
        .node(survivor)
        .propose(command("kept"))
        .await
        .expect("committed");
    cluster.network.heal();
    cluster.leader().await;
    cluster.node(old).read_index().await.expect("readable");
    assert!(cluster.memories[&old].commands().contains(&command("kept")));
    cluster.converged().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_process_ended_is_replaced_without_waiting() {
    let mut cluster = Cluster::empty();
    cluster.election = Duration::from_secs(30);
    let mut cluster = cluster.grow(3).await;
    let old = cluster.leader().await;
    let survivor = cluster.follower().await;
    cluster.end(old).await;
    let start = Instant::now();
    cluster
        .node(survivor)
        .propose(command("after"))
        .await
        .expect("committed by the other two");
    let took = start.elapsed();
    assert!(took < cluster.election / 3, "waited {took:?}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_cut_off_disturbs_nobody_when_it_returns() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let term = cluster.node(leader).status().term;
    let follower = cluster.follower().await;
    isolate(&cluster, follower);
    eventually("the follower to miss its leader", || {
        cluster.node(follower).status().leader.is_none()
    })
    .await;
    let read = cluster.node(follower).read_index().await;
    assert!(
        matches!(read, Err(Error::NoLeader { last_leader: Some(id) }) if id == leader),
        "{read:?}"
    );
    cluster.network.heal();
    cluster.node(follower).read_index().await.expect("readable");
    // Pre-vote: it did not run away with the term.
    assert_eq!(cluster.leader().await, leader);
    assert_eq!(cluster.node(leader).status().term, term);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_hears_nobody_makes_room() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    // Its heartbeats still arrive, the answers do not.
    for other in cluster.nodes.keys().filter(|id| **id != leader) {
        cluster.network.cut(&url(*other), &url(leader));
    }
    let survivor = *cluster
        .nodes
        .keys()
        .find(|id| **id != leader)
        .expect("a follower");
    eventually("another leader", || {
        cluster
            .node(survivor)
            .leadership()
            .borrow()
            .leader
            .is_some_and(|id| id != leader)
    })
    .await;
    cluster
        .node(survivor)
        .propose(command("kept"))
        .await
        .expect("committed");
    cluster.network.heal();
    cluster.leader().await;
    cluster.converged().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_far_behind_gets_a_snapshot() {
    let mut cluster = Cluster::empty();
    cluster.retention = Retention {
        keep_entries: 5,
        step_entries: 5,
        interval: Duration::from_millis(50),
        ..Retention::default()
    };
    cluster.checkpoint_every = 10;
    let mut cluster = cluster.grow(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    cluster.kill(follower).await;
    for n in 0..100 {
        cluster
            .node(leader)
            .propose(command(&format!("{n}")))
            .await
            .expect("committed");
    }
    // Without a purge the follower would just be sent the log.
    eventually("a purge", || {
        testing::purged_index(cluster.node(leader)) > 50
    })
    .await;
    cluster.start(follower, StartMode::Resume).await;
    let state = cluster.converged().await;
    assert_eq!(state.len(), 100);
    assert!(
        cluster.memories[&follower]
            .live
            .lock()
            .expect("live")
            .installed
            > 0,
        "no snapshot was sent"
    );
    // A new member gets one as well, and everybody survives a restart after the purge.
    cluster.join(4).await;
    assert_eq!(cluster.converged().await.len(), 100);
    cluster.shutdown().await;
    for id in 1..=4 {
        cluster.start(id, StartMode::Resume).await;
    }
    cluster.leader().await;
    assert_eq!(cluster.node(4).status().peers.len(), 4);
    assert_eq!(cluster.converged().await, state);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_state_machine_takes_its_member_down() {
    let mut cluster = Cluster::of(1).await;
    let answer = cluster.node(1).propose(command("panic")).await;
    assert!(matches!(answer, Err(Error::Unknown(_))), "{answer:?}");
    let reason = cluster.node(1).stopped().await.expect("a reason");
    assert!(reason.contains("told to fail"), "{reason}");
    assert!(cluster.node(1).status().failed.is_some());
    assert!(matches!(
        cluster.node(1).read_index().await,
        Err(Error::Storage(_))
    ));
    cluster.shutdown().await;
}

/// Random partitions and losses under load: nothing acknowledged is lost, nothing is applied
/// twice, and all members end with the same sequence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost() {
    let seed = 0x5eed_u64;
    let mut cluster = Cluster::of(3).await;
    let stop = Arc::new(AtomicBool::new(false));
    let next = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (1..=3u64)
        .flat_map(|id| [id, id])
        .map(|id| {
            let node = cluster.node(id).clone();
            let memory = cluster.memories[&id].clone();
            let (stop, next) = (stop.clone(), next.clone());
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let command = Bytes::copy_from_slice(&n.to_le_bytes());
                    if node.propose(command.clone()).await.is_ok() {
                        acknowledged.push(command.clone());
                        // A linearizable read on the same member sees it.
                        if n % 8 == 0 && node.read_index().await.is_ok() {
                            assert!(
                                memory.commands().contains(&command),
                                "seed {seed:x}: {n} is not visible"
                            );
                        }
                    }
                }
                acknowledged
            })
        })
        .collect();
    let mut random = seed;
    for round in 0..6 {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let id = (random >> 33) % 3 + 1;
        match round % 3 {
            0 => isolate(&cluster, id),
            1 => cluster.network.cut(&url(id), &url(id % 3 + 1)),
            _ => cluster.network.disturb(100, Duration::from_millis(10)),
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
        cluster.network.heal();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = HashSet::new();
    for client in clients {
        acknowledged.extend(client.await.expect("no panic"));
    }
    let last = cluster.leader().await;
    cluster
        .node(last)
        .propose(command("the end"))
        .await
        .expect("committed");
    let state = cluster.converged().await;
    let unique: HashSet<_> = state.iter().cloned().collect();
    assert_eq!(
        unique.len(),
        state.len(),
        "seed {seed:x}: something was applied twice"
    );
    let lost = acknowledged.difference(&unique).count();
    assert_eq!(
        lost,
        0,
        "seed {seed:x}: {lost} of {} acknowledged commands are lost",
        acknowledged.len()
    );
    assert!(
        acknowledged.len() > 100,
        "seed {seed:x}: only {} commands got through",
        acknowledged.len()
    );
    cluster.shutdown().await;
}
