//! Members that lost a part of what they had on disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use trivet_raft_node::testing::{self, Retention};
use trivet_raft_node::{Error, PeerRole, RaftNode, StartMode};

use crate::toy::{Cluster, Memory, command, eventually, peer, url};

/// Logs that let go of what a checkpoint has soon.
fn forgetful() -> Cluster {
    let mut cluster = Cluster::empty();
    cluster.checkpoint_every = 20;
    cluster.retention = Retention {
        keep_entries: 5,
        step_entries: 5,
        interval: std::time::Duration::from_millis(20),
        ..Retention::default()
    };
    cluster
}

async fn write(node: &RaftNode, count: usize) {
    for number in 0..count {
        node.propose(command(&format!("{number}")))
            .await
            .expect("committed");
    }
}

async fn purged(cluster: &Cluster, id: u64) {
    eventually("the log to be purged", || {
        testing::purged_index(cluster.node(id)) > 20
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_its_state_fetches_another_members_and_keeps_log_and_vote() {
    let mut cluster = forgetful().grow(3).await;
    let victim = cluster.follower().await;
    write(cluster.node(victim), 80).await;
    purged(&cluster, victim).await;
    let before = cluster.node(victim).status();
    cluster.kill(victim).await;
    cluster.memories.insert(victim, Memory::default());
    cluster.start(victim, StartMode::Resume).await;
    let after = cluster.node(victim).status();
    assert!(after.term >= before.term && after.last_index >= before.last_index);
    write(cluster.node(victim), 5).await;
    cluster.converged().await;
    assert!(
        cluster.memories[&victim]
            .live
            .lock()
            .expect("live")
            .installed
            > 0
    );
    // It goes on from there after another restart.
    cluster.kill(victim).await;
    cluster.start(victim, StartMode::Resume).await;
    write(cluster.node(victim), 5).await;
    cluster.converged().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_never_purged_makes_the_state_again() {
    let mut cluster = Cluster::of(1).await;
    write(cluster.node(1), 30).await;
    cluster.kill(1).await;
    cluster.memories.insert(1, Memory::default());
    cluster.start(1, StartMode::Resume).await;
    cluster.node(1).read_index().await.expect("readable");
    assert_eq!(cluster.memories[&1].commands().len(), 30);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_member_without_its_state_says_what_is_missing() {
    let mut cluster = forgetful().grow(1).await;
    write(cluster.node(1), 80).await;
    purged(&cluster, 1).await;
    cluster.kill(1).await;
    cluster.memories.insert(1, Memory::default());
    let error = cluster.try_start(1, StartMode::Resume).await;
    assert!(matches!(error, Err(Error::Damaged { .. })), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_met_while_applying_is_healed_from_a_peer() {
    let mut cluster = Cluster::of(3).await;
    write(cluster.node(1), 10).await;
    for victim in [cluster.follower().await, cluster.leader().await] {
        cluster.memories[&victim]
            .rotten
            .store(true, Ordering::Relaxed);
        let other = cluster.nodes.keys().find(|id| **id != victim);
        let other = *other.expect("there are three");
        // On a rotten leader the outcome may be unknown to whoever asked.
        let outcome = cluster.node(other).propose(command("rot")).await;
        assert!(
            matches!(outcome, Ok(_) | Err(Error::Unknown(_))),
            "{outcome:?}"
        );
        eventually("the damage to be healed", || {
            !cluster.memories[&victim].rotten.load(Ordering::Relaxed)
        })
        .await;
        write(cluster.node(victim), 3).await;
        let state = cluster.converged().await;
        assert!(state.contains(&command("rot")));
        assert_eq!(cluster.node(victim).status().failed, None);
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_is_replaced_under_load_wherever_it_is() {
    let mut cluster = forgetful().grow(3).await;
    let done = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = cluster
        .nodes
        .values()
        .cloned()
        .map(|node| {
            let (done, acknowledged) = (done.clone(), acknowledged.clone());
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    if node.propose(command("x")).await.is_ok() {
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    for round in 0..6 {
        let victim = if round % 2 == 0 {
            cluster.leader().await
        } else {
            cluster.follower().await
        };
        let before = cluster.memories[&victim]
            .live
            .lock()
            .expect("live")
            .installed;
        cluster.node(victim).resync(&[]).await.expect("a new copy");
        let after = cluster.memories[&victim]
            .live
            .lock()
            .expect("live")
            .installed;
        assert!(after > before);
        let count = acknowledged.load(Ordering::Relaxed);
        eventually("writes to go on", || {
            acknowledged.load(Ordering::Relaxed) > count + 10
        })
        .await;
    }
    done.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no panic");
    }
    let acknowledged = acknowledged.load(Ordering::Relaxed);
    write(cluster.node(1), 1).await;
    let state = cluster.converged().await;
    assert!(state.len() > acknowledged, "{} {acknowledged}", state.len());
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_its_log_comes_back_as_another() {
    let mut cluster = Cluster::of(3).await;
    let victim = cluster.follower().await;
    write(cluster.node(victim), 20).await;
    cluster.kill(victim).await;
    std::fs::remove_dir_all(cluster.dir.join(victim.to_string())).expect("removed");
    let error = cluster.try_start(victim, StartMode::Resume).await;
    // The toy has no checkpoint: nothing at all is left.
    assert!(matches!(error, Err(Error::Refused(_))), "{error:?}");

    let successor = 77;
    let urls: Vec<String> = (1..=3).filter(|id| *id != victim).map(url).collect();
    let mut parts = cluster.parts(
        successor,
        StartMode::Replace {
            old: victim,
            peer_urls: urls.clone(),
        },
    );
    parts.local = trivet_raft_node::Peer {
        id: successor,
        ..peer(victim)
    };
    testing::replaceable(&parts, &cluster.network, victim, &urls)
        .await
        .expect("the others have a quorum");
    let memory = Memory::default();
    let toy = crate::toy::Toy::open(&memory, 1000);
    let named = Arc::new(crate::toy::Named(successor));
    let node = testing::start(parts, toy, named, &cluster.network)
        .await
        .expect("taken in");
    cluster.memories.remove(&victim);
    cluster.memories.insert(successor, memory);
    cluster.nodes.insert(successor, node);
    write(cluster.node(successor), 5).await;
    cluster.converged().await;
    let peers = cluster.node(successor).status().peers;
    assert_eq!(peers.len(), 3);
    assert!(peers.iter().all(|peer| peer.role == PeerRole::Voter));
    assert!(peers.iter().all(|peer| peer.peer.id != victim));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_replaced_while_it_lives_or_without_a_quorum() {
    let mut cluster = Cluster::of(3).await;
    let victim = cluster.follower().await;
    let leader = cluster.leader().await;
    let urls: Vec<String> = (1..=3).filter(|id| *id != victim).map(url).collect();
    let mut parts = cluster.parts(77, StartMode::Resume);
    parts.local = trivet_raft_node::Peer {
        id: 77,
        ..peer(victim)
    };
    let wait = std::time::Duration::from_millis(1500);
    let alive = testing::replaceable(&parts, &cluster.network, victim, &urls);
    assert!(tokio::time::timeout(wait, alive).await.is_err());
    cluster.kill(victim).await;
    let third = *cluster
        .nodes
        .keys()
        .find(|id| **id != leader)
        .expect("there are two");
    cluster.kill(third).await;
    let alone = testing::replaceable(&parts, &cluster.network, victim, &urls);
    assert!(tokio::time::timeout(wait, alone).await.is_err());
    // Somebody else's place is not to be had.
    cluster.start(third, StartMode::Resume).await;
    cluster.leader().await;
    parts.local = peer(78);
    let other = testing::replaceable(&parts, &cluster.network, victim, &urls).await;
    assert!(matches!(other, Err(Error::Refused(_))), "{other:?}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_answer_questions_put_to_them() {
    let mut cluster = Cluster::of(2).await;
    for asking in [1, 2] {
        for asked in [1, 2u64] {
            let answer = cluster.node(asking).ask_member(asked, command("who")).await;
            assert_eq!(answer.expect("an answer")[..], asked.to_le_bytes());
        }
        let answer = cluster.node(asking).ask_member(2, command("why")).await;
        assert_eq!(answer, Err(Error::Refused("what?".into())));
    }
    cluster.kill(2).await;
    let answer = cluster.node(1).ask_member(2, command("who")).await;
    assert!(matches!(answer, Err(Error::Unknown(_))), "{answer:?}");
    cluster.shutdown().await;
}

/// The library panics in whoever waits for its end after somebody else who did gave up; the node
/// must come down all the same, with its files closed.
#[tokio::test]
async fn a_node_stops_although_somebody_gave_up_waiting_for_the_library() {
    struct Closed(Arc<AtomicBool>);
    impl Drop for Closed {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let mut cluster = Cluster::of(1).await;
    write(cluster.node(1), 3).await;
    let closed = Arc::new(AtomicBool::new(false));
    let node = cluster.nodes.remove(&1).expect("it runs");
    node.keep(Closed(closed.clone()));
    testing::give_up_waiting_for_the_end(&node);
    node.shutdown().await;
    assert!(closed.load(Ordering::Relaxed), "its files are still open");
    drop(node);
    cluster.start(1, StartMode::Resume).await;
    assert_eq!(cluster.node(1).status().failed, None);
    cluster.shutdown().await;
}
