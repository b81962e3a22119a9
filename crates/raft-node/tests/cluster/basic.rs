//! What a healthy cluster does.

use std::time::Instant;

use bytes::Bytes;
use trivet_raft_node::{Error, PeerRole, StartMode};

use crate::toy::{Cluster, command, eventually, url};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_alone() {
    let mut cluster = Cluster::of(1).await;
    let answer = cluster
        .node(1)
        .propose(command("a"))
        .await
        .expect("committed");
    assert_eq!(answer, Bytes::copy_from_slice(&1u64.to_le_bytes()));
    cluster.node(1).read_index().await.expect("readable");
    let status = cluster.node(1).status();
    assert_eq!(
        (status.leader, status.local, status.failed),
        (Some(1), 1, None)
    );
    assert_eq!(status.peers.len(), 1);
    assert!(status.log_size_bytes > 0);
    cluster.shutdown().await;
    assert_eq!(cluster.memories[&1].commands(), [command("a")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_replicate_and_forward() {
    let mut cluster = Cluster::of(3).await;
    for id in 1..=3 {
        cluster
            .node(id)
            .propose(command(&format!("from {id}")))
            .await
            .expect("committed");
        // What one member acknowledged, every other shows.
        for reader in 1..=3 {
            cluster.node(reader).read_index().await.expect("readable");
            assert_eq!(cluster.memories[&reader].commands().len() as u64, id);
        }
    }
    assert_eq!(cluster.converged().await.len(), 3);
    let leader = cluster.leader().await;
    for id in 1..=3 {
        let who = cluster
            .node(id)
            .ask_leader(Bytes::from_static(b"who"))
            .await
            .expect("answered");
        assert_eq!(who, Bytes::copy_from_slice(&leader.to_le_bytes()));
        let refused = cluster.node(id).ask_leader(Bytes::from_static(b"?")).await;
        assert_eq!(refused, Err(Error::Refused("what?".into())));
    }
    let status = cluster.node(leader).status();
    assert!(status.peers.iter().all(|peer| peer.role == PeerRole::Voter));
    eventually("all members to be seen in step", || {
        let status = cluster.node(leader).status();
        status.peers.iter().all(|peer| {
            peer.matched_index == Some(status.last_index) && peer.last_contact.is_some()
        })
    })
    .await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_proposals_share_entries() {
    let mut cluster = Cluster::of(3).await;
    let follower = cluster.follower().await;
    let before = cluster.node(follower).status().last_index;
    let calls = (0..2000).map(|n| {
        let node = cluster.node(follower).clone();
        tokio::spawn(async move { node.propose(command(&format!("{n}"))).await })
    });
    for call in futures_util::future::join_all(calls).await {
        call.expect("no panic").expect("committed");
    }
    assert_eq!(cluster.converged().await.len(), 2000);
    let entries = cluster.node(follower).status().last_index - before;
    assert!(entries < 400, "{entries} entries for 2000 commands");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced() {
    let mut cluster = Cluster::of(3).await;
    cluster
        .node(1)
        .propose(command("before"))
        .await
        .expect("committed");
    cluster.converged().await;
    let leader = cluster.leader().await;
    cluster.kill(leader).await;
    let start = Instant::now();
    let survivor = *cluster.nodes.keys().next().expect("a survivor");
    // A proposal that was on its way to the dead leader may be lost; the next one is not.
    while cluster
        .node(survivor)
        .propose(command("after"))
        .await
        .is_err()
    {}
    assert!(start.elapsed().as_secs_f32() < 2.0, "{:?}", start.elapsed());
    let state = cluster.converged().await;
    assert!(state.contains(&command("before")) && state.contains(&command("after")));
    // The dead one comes back and catches up.
    cluster.start(leader, StartMode::Resume).await;
    cluster.leader().await;
    assert_eq!(cluster.converged().await, state);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_survives_a_restart_of_all() {
    let mut cluster = Cluster::of(3).await;
    for n in 0..20 {
        cluster
            .node(1 + n % 3)
            .propose(command(&format!("{n}")))
            .await
            .expect("committed");
    }
    let before = cluster.converged().await;
    cluster.shutdown().await;
    // Nobody answers yet: a member starts all the same, and says so.
    cluster.start(2, StartMode::Resume).await;
    assert_eq!(cluster.node(2).status().leader, None);
    assert_eq!(cluster.node(2).status().peers.len(), 3);
    cluster.start(3, StartMode::Resume).await;
    cluster
        .node(3)
        .read_index()
        .await
        .expect("two of three are a quorum");
    cluster.start(1, StartMode::Resume).await;
    cluster.leader().await;
    assert_eq!(cluster.converged().await, before);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_on_a_clean_stop() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let node = cluster.nodes.remove(&leader).expect("it runs");
    node.shutdown().await;
    assert_ne!(cluster.leader().await, leader);
    assert_eq!(node.propose(command("x")).await, Err(Error::Stopped));
    cluster
        .node(follower)
        .propose(command("y"))
        .await
        .expect("committed");
    cluster.network.remove(&url(leader));
    let target = cluster.leader().await;
    let other = *cluster
        .nodes
        .keys()
        .find(|id| **id != target)
        .expect("the other");
    cluster
        .node(other)
        .transfer_leadership(Some(other))
        .await
        .expect("transferred");
    assert_eq!(cluster.leader().await, other);
    cluster.shutdown().await;
}
