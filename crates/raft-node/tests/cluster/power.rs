//! Power loss: members lose what they had not synced, and come back.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use trivet_env::Env;
use trivet_raft_node::testing::Retention;
use trivet_raft_node::{RaftNode, StartMode};
use trivet_sim::{SimDisk, SimRng};

use crate::toy::{Cluster, command, url};

const ROUNDS: u64 = 8;

/// Proposes until told to stop, at a modest pace.
async fn client(
    node: Arc<std::sync::Mutex<Arc<RaftNode>>>,
    next: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> Vec<Bytes> {
    let mut acknowledged = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let command = Bytes::copy_from_slice(&next.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        let member = node.lock().expect("member").clone();
        match member.propose(command.clone()).await {
            Ok(_) => acknowledged.push(command),
            // Unknown or refused: the member may be down.
            Err(_) => drop(member),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_loss_loses_nothing_acknowledged() {
    let seed = 0xb1ac_u64;
    let random = SimRng::new(seed);
    let mut disks = [
        Arc::new(SimDisk::new()),
        Arc::new(SimDisk::new()),
        Arc::new(SimDisk::new()),
    ];
    let mut cluster = Cluster::empty();
    cluster.dir = PathBuf::from("/data");
    cluster.checkpoint_every = 40;
    cluster.retention = Retention {
        keep_entries: 20,
        step_entries: 20,
        ..Retention::default()
    };
    let env = |disk: &Arc<SimDisk>| Env {
        disk: disk.clone(),
        ..Env::real()
    };
    for id in 1..=3u64 {
        cluster.env = env(&disks[id as usize - 1]);
        let mode = if id == 1 {
            StartMode::Found
        } else {
            StartMode::Join {
                peer_urls: vec![url(1)],
            }
        };
        cluster.start(id, mode).await;
    }
    let (next, stop) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let members: Vec<_> = (1..=3)
        .map(|id| Arc::new(std::sync::Mutex::new(cluster.node(id).clone())))
        .collect();
    let clients: Vec<_> = members
        .iter()
        .flat_map(|member| [member.clone(), member.clone()])
        .map(|member| tokio::spawn(client(member, next.clone(), stop.clone())))
        .collect();
    for round in 0..ROUNDS {
        let id = random.below(3) + 1;
        let slot = id as usize - 1;
        // At some operation soon; every call after that one fails.
        disks[slot].crash_at(disks[slot].operations() + 1 + random.below(60));
        cluster.node(id).stopped().await;
        let image = disks[slot].crash_image(seed ^ round);
        let node = cluster.nodes.remove(&id).expect("it runs");
        trivet_raft_node::testing::abort(&node).await;
        drop(node);
        disks[slot] = Arc::new(image);
        cluster.env = env(&disks[slot]);
        let started = cluster.try_start(id, StartMode::Resume).await;
        assert!(started.is_ok(), "seed {seed:x} round {round}: {started:?}");
        *members[slot].lock().expect("member") = cluster.node(id).clone();
        cluster.leader().await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = HashSet::new();
    for client in clients {
        acknowledged.extend(client.await.expect("no panic"));
    }
    drop(members);
    let leader = cluster.leader().await;
    cluster
        .node(leader)
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
        acknowledged.len() > 50,
        "seed {seed:x}: only {} commands got through",
        acknowledged.len()
    );
    cluster.shutdown().await;
}
