//! Clusters that come into being, grow and shrink the way etcd's do: a list of founders, members
//! added before they run, one member that goes on alone.

use std::time::Duration;

use trivet_raft_node::testing::ask_members;
use trivet_raft_node::{Error, PeerRole, REMOVED, StartMode};

use crate::toy::{CLUSTER, Cluster, command, eventually, peer, url};

fn founders(size: u64) -> StartMode {
    StartMode::Static {
        members: (1..=size).map(peer).collect(),
    }
}

/// Three founders, started at once: none is up before a quorum is.
async fn founded() -> Cluster {
    let mut cluster = Cluster::empty();
    let mut starting = Vec::new();
    for id in 1..=3 {
        let memory = cluster.memories.entry(id).or_default().clone();
        let toy = crate::toy::Toy::open(&memory, cluster.checkpoint_every);
        let parts = cluster.parts(id, founders(3));
        let network = cluster.network.clone();
        starting.push(tokio::spawn(async move {
            let query = std::sync::Arc::new(crate::toy::Named(id));
            let node = trivet_raft_node::testing::start(parts, toy, query, &network).await;
            (id, node.expect("a founder starts"))
        }));
    }
    for started in starting {
        let (id, node) = started.await.expect("no panic");
        cluster.nodes.insert(id, node);
    }
    cluster
}

fn role_of(cluster: &Cluster, via: u64, id: u64) -> Option<PeerRole> {
    let status = cluster.node(via).status();
    let known = status.peers.iter().find(|known| known.peer.id == id);
    known.map(|known| known.role)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founders_with_one_list_make_one_cluster() {
    let mut cluster = founded().await;
    for id in 1..=3 {
        let node = cluster.node(id);
        node.propose(command(&id.to_string())).await.expect("done");
        assert_eq!(node.status().cluster_id, CLUSTER);
    }
    let everywhere = cluster.converged().await;
    assert_eq!(everywhere.len(), 3);
    // The list counts for the first start only.
    cluster.kill(2).await;
    cluster.start(2, founders(3)).await;
    assert_eq!(cluster.converged().await, everywhere);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_that_comes_late_finds_the_others_ahead() {
    let mut cluster = Cluster::empty();
    for id in [1, 2] {
        cluster.memories.entry(id).or_default();
    }
    let first = {
        let memory = cluster.memories[&1].clone();
        let parts = cluster.parts(1, founders(3));
        let network = cluster.network.clone();
        tokio::spawn(async move {
            let toy = crate::toy::Toy::open(&memory, 1000);
            let query = std::sync::Arc::new(crate::toy::Named(1));
            trivet_raft_node::testing::start(parts, toy, query, &network).await
        })
    };
    cluster.start(2, founders(3)).await;
    let first = first.await.expect("no panic").expect("a founder starts");
    cluster.nodes.insert(1, first);
    cluster
        .node(1)
        .propose(command("early"))
        .await
        .expect("done");
    cluster.start(3, founders(3)).await;
    assert_eq!(cluster.converged().await, [command("early")]);
    eventually("the third is seen by the others", || {
        let status = cluster.node(1).status();
        status
            .peers
            .iter()
            .any(|known| known.peer.id == 3 && known.connected_for.is_some())
    })
    .await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_may_be_added_before_it_runs() {
    let mut cluster = Cluster::of(1).await;
    cluster.node(1).add_voter(peer(2)).await.expect("added");
    assert_eq!(role_of(&cluster, 1, 2), Some(PeerRole::VoterToBe));
    // The cluster goes on without it.
    cluster
        .node(1)
        .propose(command("a"))
        .await
        .expect("a quorum");
    // It finds itself by asking, and starts with what it was given.
    let answers = ask_members(
        &cluster.network,
        &url(2),
        &[url(1), url(9)],
        Duration::from_secs(2),
    )
    .await;
    let view = answers[0].as_ref().expect("an answer");
    assert!(answers[1].is_err(), "nobody lives there");
    assert_eq!((view.cluster_id, view.answered_by), (CLUSTER, 1));
    assert!(view.members.contains(&(peer(2), PeerRole::VoterToBe)));
    cluster.start(2, StartMode::Added).await;
    assert_eq!(role_of(&cluster, 2, 2), Some(PeerRole::Voter));
    // Telling its name again does not make it anything else.
    let renamed = trivet_raft_node::Peer {
        name: "renamed".into(),
        ..peer(2)
    };
    cluster.node(2).update_peer(renamed).await.expect("told");
    assert_eq!(cluster.converged().await, [command("a")]);
    // Now two are needed.
    cluster.kill(2).await;
    let alone = cluster.node(1).propose(command("b"));
    let outcome = tokio::time::timeout(Duration::from_secs(3), alone).await;
    assert!(!matches!(outcome, Ok(Ok(_))), "{outcome:?}");
    cluster.start(2, StartMode::Added).await;
    cluster
        .node(2)
        .propose(command("c"))
        .await
        .expect("two again");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_added_voter_that_never_ran_can_be_removed() {
    let mut cluster = Cluster::of(1).await;
    cluster.node(1).add_voter(peer(2)).await.expect("added");
    cluster.node(1).remove(2).await.expect("removed");
    assert_eq!(cluster.node(1).status().peers.len(), 1);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_added_learner_starts_as_a_learner() {
    let mut cluster = Cluster::of(1).await;
    cluster.node(1).add_learner(peer(2)).await.expect("added");
    cluster.start(2, StartMode::Added).await;
    assert_eq!(role_of(&cluster, 2, 2), Some(PeerRole::Learner));
    cluster
        .node(2)
        .propose(command("through the learner"))
        .await
        .expect("forwarded");
    cluster.converged().await;
    cluster.node(2).promote(2).await.expect("promoted");
    eventually("a voter", || {
        role_of(&cluster, 2, 2) == Some(PeerRole::Voter)
    })
    .await;
    // A learner resumes like anybody else.
    cluster.kill(2).await;
    cluster.start(2, StartMode::Resume).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_does_not_start_again() {
    let mut cluster = Cluster::of(3).await;
    let follower = cluster.follower().await;
    // It is down while it is removed, so its own log knows nothing of it.
    cluster.kill(follower).await;
    let leader = cluster.leader().await;
    let start = std::time::Instant::now();
    while let Err(error) = cluster.node(leader).remove(follower).await {
        assert!(start.elapsed().as_secs() < 20, "not removed: {error}");
    }
    cluster.start(follower, StartMode::Resume).await;
    let reason = cluster.node(follower).stopped().await.expect("a reason");
    assert!(reason.contains(REMOVED), "{reason}");
    let node = cluster.nodes.remove(&follower).expect("it ran");
    node.shutdown().await;
    drop(node);
    for mode in [StartMode::Resume, StartMode::Added] {
        match cluster.try_start(follower, mode).await {
            Err(Error::Refused(message)) => assert!(message.contains(REMOVED), "{message}"),
            other => panic!("expected a refusal, got {other:?}"),
        }
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_can_go_on_alone_with_its_data() {
    let mut cluster = founded().await;
    for text in ["a", "b", "c"] {
        cluster
            .node(1)
            .propose(command(text))
            .await
            .expect("committed");
    }
    let all = cluster.converged().await;
    for id in [1, 2, 3] {
        cluster.kill(id).await;
    }
    cluster.start(2, StartMode::StandAlone).await;
    cluster
        .node(2)
        .propose(command("alone"))
        .await
        .expect("no quorum of others is needed");
    let mut expected = all.clone();
    expected.push(command("alone"));
    assert_eq!(cluster.memories[&2].commands(), expected);
    let status = cluster.node(2).status();
    assert_eq!((status.peers.len(), status.cluster_id), (1, CLUSTER));
    // A second time changes nothing, and a plain start works as well.
    for mode in [StartMode::StandAlone, StartMode::Resume] {
        cluster.kill(2).await;
        cluster.start(2, mode).await;
        cluster.node(2).read_index().await.expect("readable");
        assert_eq!(cluster.memories[&2].commands(), expected);
    }
    // It grows again.
    cluster
        .node(2)
        .add_voter(peer(4))
        .await
        .expect("a new member");
    cluster.start(4, StartMode::Added).await;
    assert_eq!(cluster.converged().await, expected);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn going_on_alone_needs_data() {
    let mut cluster = Cluster::empty();
    match cluster.try_start(1, StartMode::StandAlone).await {
        Err(Error::Refused(message)) => assert!(message.contains("no data"), "{message}"),
        other => panic!("expected a refusal, got {other:?}"),
    }
}
