//! Joining, leaving, moving.

use trivet_raft_node::{Error, Peer, PeerRole, StartMode};

use crate::toy::{CLUSTER, Cluster, command, eventually, peer, url};

fn refused(result: trivet_raft_node::Result<()>) -> String {
    match result {
        Err(Error::Refused(message)) => message,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// Removes a member, trying again when a busy machine made the leader stumble on the way.
async fn remove(cluster: &Cluster, via: u64, id: u64) {
    let node = cluster.node(via).clone();
    let start = std::time::Instant::now();
    while let Err(error) = node.remove(id).await {
        let status = node.status();
        if status.failed.is_some() || status.peers.iter().all(|known| known.peer.id != id) {
            return;
        }
        assert!(start.elapsed().as_secs() < 20, "not removed: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn learners_are_promoted_once_in_sync() {
    let mut cluster = Cluster::of(1).await;
    // Nobody runs there yet.
    cluster.node(1).add_learner(peer(2)).await.expect("added");
    let message = refused(cluster.node(1).promote(2).await);
    assert!(message.contains("not in sync"), "{message}");
    let status = cluster.node(1).status();
    assert_eq!(status.peers[1].role, PeerRole::Learner);
    // A learner that never came up does not stand in the way.
    cluster
        .node(1)
        .propose(command("a"))
        .await
        .expect("committed");
    // It may still join under the same identity.
    cluster.join(2).await;
    eventually("two voters", || {
        cluster
            .node(2)
            .status()
            .peers
            .iter()
            .all(|peer| peer.role == PeerRole::Voter)
    })
    .await;
    assert_eq!(cluster.converged().await, [command("a")]);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_cannot_belong_are_refused() {
    let mut cluster = Cluster::of(2).await;
    let twin = Peer { id: 9, ..peer(2) };
    let message = refused(cluster.node(2).add_learner(twin.clone()).await);
    assert!(message.contains("address of member 2"), "{message}");
    let namesake = Peer {
        id: 9,
        name: "server2-ffff".into(),
        ..peer(9)
    };
    let message = refused(cluster.node(2).add_learner(namesake).await);
    assert!(message.contains("duplicate node name"), "{message}");
    // Refused before anything is written.
    let mut parts = cluster.parts(
        9,
        StartMode::Join {
            peer_urls: vec![url(1)],
        },
    );
    parts.local.name = "server1-99".into();
    let dir = parts.dir.clone();
    let toy = crate::toy::Toy::open(&Default::default(), 10);
    let query = std::sync::Arc::new(crate::toy::Named(9));
    let started = trivet_raft_node::testing::start(parts, toy, query, &cluster.network).await;
    let message = refused(started.map(|_| ()));
    assert!(
        message.contains("duplicate node name: server1"),
        "{message}"
    );
    assert!(!dir.exists());
    assert_eq!(cluster.node(1).status().peers.len(), 2);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_do_not_mix() {
    let mut cluster = Cluster::of(1).await;
    let mut parts = cluster.parts(5, StartMode::Found);
    parts.cluster_id = CLUSTER + 1;
    let memory = crate::toy::Memory::default();
    let query = std::sync::Arc::new(crate::toy::Named(5));
    let toy = crate::toy::Toy::open(&memory, 10);
    let other = trivet_raft_node::testing::start(parts, toy, query, &cluster.network)
        .await
        .expect("another cluster");
    // A slip of an administrator: the other cluster takes our member for one of its own.
    other.add_learner(peer(1)).await.expect("added");
    other.propose(command("theirs")).await.expect("committed");
    cluster
        .node(1)
        .propose(command("ours"))
        .await
        .expect("committed");
    let matched = || {
        other
            .status()
            .peers
            .iter()
            .find(|known| known.peer.id == 1)
            .and_then(|known| known.matched_index)
    };
    assert_eq!(matched(), None);
    assert_eq!(cluster.memories[&1].commands(), [command("ours")]);
    let term = cluster.node(1).status().term;
    other
        .propose(command("theirs again"))
        .await
        .expect("committed");
    assert_eq!((matched(), cluster.node(1).status().term), (None, term));
    other.shutdown().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_modes_must_fit_the_data() {
    let mut cluster = Cluster::empty();
    let message = refused(cluster.try_start(1, StartMode::Resume).await);
    assert!(message.contains("no data"), "{message}");
    cluster.start(1, StartMode::Found).await;
    assert_eq!(cluster.node(1).status().cluster_id, CLUSTER);
    cluster.shutdown().await;
    // With data it always resumes.
    cluster.start(1, StartMode::Found).await;
    cluster.node(1).read_index().await.expect("readable");
    cluster.shutdown().await;
    let mut parts = cluster.parts(1, StartMode::Resume);
    parts.local.id = 77;
    let toy = crate::toy::Toy::open(&cluster.memories[&1], 10);
    let query = std::sync::Arc::new(crate::toy::Named(77));
    let started = trivet_raft_node::testing::start(parts, toy, query, &cluster.network).await;
    let message = refused(started.map(|_| ()));
    assert!(
        message.contains("holds the data of member 1, not of 4d"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_stops_and_says_why() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    remove(&cluster, follower, follower).await;
    let reason = cluster.node(follower).stopped().await.expect("a reason");
    assert!(reason.contains("removed"), "{reason}");
    cluster
        .nodes
        .remove(&follower)
        .expect("it ran")
        .shutdown()
        .await;
    cluster
        .node(leader)
        .propose(command("a"))
        .await
        .expect("committed");
    assert_eq!(cluster.node(leader).status().peers.len(), 2);
    // The leader itself: another one takes over.
    remove(&cluster, leader, leader).await;
    cluster.node(leader).stopped().await.expect("a reason");
    cluster
        .nodes
        .remove(&leader)
        .expect("it ran")
        .shutdown()
        .await;
    let last = cluster.leader().await;
    eventually("one member", || {
        cluster.node(last).status().peers.len() == 1
    })
    .await;
    cluster
        .node(last)
        .propose(command("b"))
        .await
        .expect("committed");
    let message = refused(cluster.node(last).remove(last).await);
    assert!(message.contains("last voter"), "{message}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_would_cost_the_quorum_is_refused() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let dead = cluster.follower().await;
    cluster.kill(dead).await;
    let alive = *cluster
        .nodes
        .keys()
        .find(|id| **id != leader)
        .expect("the other");
    let leader = cluster.leader().await;
    let alive = if alive == leader {
        *cluster
            .nodes
            .keys()
            .find(|id| **id != leader)
            .expect("other")
    } else {
        alive
    };
    eventually("the dead member to be missed", || {
        let status = cluster.node(leader).status();
        status.peers.iter().any(|peer| {
            peer.peer.id == dead
                && peer
                    .last_contact
                    .is_none_or(|age| age > crate::toy::ELECTION * 2)
        })
    })
    .await;
    let message = refused(cluster.node(leader).remove(alive).await);
    assert!(message.contains("not enough started members"), "{message}");
    // The dead one may go.
    cluster.node(leader).remove(dead).await.expect("removed");
    assert_eq!(cluster.node(leader).status().peers.len(), 2);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_that_was_away_is_told() {
    let mut cluster = Cluster::of(3).await;
    let away = cluster.follower().await;
    cluster.kill(away).await;
    let leader = cluster.leader().await;
    remove(&cluster, leader, away).await;
    cluster.start(away, StartMode::Resume).await;
    let reason = cluster.node(away).stopped().await.expect("a reason");
    assert!(reason.contains("removed"), "{reason}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_move() {
    let mut cluster = Cluster::of(3).await;
    // To another address, while it is away.
    let away = cluster.follower().await;
    cluster.kill(away).await;
    let stays = *cluster.nodes.keys().next().expect("another member");
    let moved = Peer {
        peer_url: url(away + 50),
        ..peer(away)
    };
    cluster
        .node(stays)
        .update_peer(moved.clone())
        .await
        .expect("updated");
    cluster
        .node(stays)
        .propose(command("while away"))
        .await
        .expect("committed");
    let mut parts = cluster.parts(away, StartMode::Resume);
    parts.local = moved;
    let memory = cluster.memories[&away].clone();
    let query = std::sync::Arc::new(crate::toy::Named(away));
    let toy = crate::toy::Toy::open(&memory, 10);
    let node = trivet_raft_node::testing::start(parts, toy, query, &cluster.network)
        .await
        .expect("it starts");
    node.read_index().await.expect("readable");
    assert_eq!(memory.commands(), [command("while away")]);
    node.shutdown().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn descriptions_change() {
    let mut cluster = Cluster::of(2).await;
    let moved = Peer {
        client_url: "https://elsewhere:2379".into(),
        ..peer(2)
    };
    cluster
        .node(1)
        .update_peer(moved.clone())
        .await
        .expect("updated");
    eventually("the new address everywhere", || {
        cluster
            .nodes
            .values()
            .all(|node| node.status().peers[1].peer == moved)
    })
    .await;
    let clash = Peer {
        peer_url: url(1),
        ..moved
    };
    let message = refused(cluster.node(2).update_peer(clash).await);
    assert!(message.contains("address of member 1"), "{message}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_wait_for_their_turn() {
    let mut cluster = Cluster::of(1).await;
    let parts: Vec<_> = (2..=4)
        .map(|id| {
            cluster.parts(
                id,
                StartMode::Join {
                    peer_urls: vec![url(1)],
                },
            )
        })
        .collect();
    let starts = parts.into_iter().map(|parts| {
        let memory = cluster.memories.entry(parts.local.id).or_default().clone();
        let query = std::sync::Arc::new(crate::toy::Named(parts.local.id));
        let network = cluster.network.clone();
        async move {
            trivet_raft_node::testing::start(
                parts,
                crate::toy::Toy::open(&memory, 10),
                query,
                &network,
            )
            .await
        }
    });
    for (id, node) in (2..).zip(futures_util::future::join_all(starts).await) {
        cluster.nodes.insert(id, node.expect("joined"));
    }
    eventually("four voters", || {
        let status = cluster.node(4).status();
        status.peers.len() == 4 && status.peers.iter().all(|peer| peer.role == PeerRole::Voter)
    })
    .await;
    cluster.shutdown().await;
}
