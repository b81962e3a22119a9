//! A peer with a good certificate and no sense.

use bytes::Bytes;
use trivet_env::Rng;
use trivet_raft_node::StartMode;
use trivet_raft_node::testing::{Absurd, send};
use trivet_sim::SimRng;

use crate::toy::{Cluster, command};

/// Small, near what is real, or at the edge of what fits.
fn number(random: &SimRng, real: u64) -> u64 {
    match random.below(8) {
        0 => 0,
        1 => u64::MAX,
        2 => u64::MAX - 1,
        3 => 1 << random.below(64),
        4 => random.next_u64(),
        _ => (real + random.below(6)).saturating_sub(3),
    }
}

fn message(random: &SimRng, term: u64, index: u64) -> Absurd {
    let position = || (number(random, term), number(random, index));
    // A liar with a certificate that says what a leader could say is believed: consensus is for
    // members that fail, not for members that lie. So nothing new is claimed to be committed.
    let settled = || match position() {
        (term, beyond) if beyond <= 1 << 60 => (term, beyond.min(index)),
        absurd => absurd,
    };
    let claimed = number(random, term);
    match random.below(6) {
        0 => Absurd::Vote {
            term: claimed,
            last: position(),
            pre: random.chance(50),
            transfer: random.chance(50),
        },
        1 => Absurd::Transfer {
            term: claimed,
            to: random.below(5),
            last: position(),
        },
        2 => Absurd::Snapshot {
            term: claimed,
            last: settled(),
            membership: position(),
            data: Bytes::from_static(b"no snapshot at all"),
        },
        _ => {
            let (before_term, before) = position();
            // Following each other, as the decoder demands, or not.
            let mut at = before;
            let entries = (0..random.below(4)).map(|_| {
                at = if random.chance(90) {
                    at.wrapping_add(1)
                } else {
                    number(random, index)
                };
                (before_term, at)
            });
            Absurd::Append {
                term: claimed,
                previous: random.chance(90).then_some((before_term, before)),
                entries: entries.collect(),
                committed: settled(),
            }
        }
    }
}

/// Starts members again that failed: the worst that may happen to them (the library has
/// assertions that a liar can reach). What they have on disk is good.
async fn revive(cluster: &mut Cluster, told: &str) {
    for id in 1..=3 {
        if cluster.node(id).status().failed.is_none() {
            continue;
        }
        let node = cluster.nodes.remove(&id).expect("it was there");
        trivet_raft_node::testing::abort(&node).await;
        drop(node);
        let started = cluster.try_start(id, StartMode::Resume).await;
        assert!(started.is_ok(), "{told}: member {id}: {started:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absurd_messages_corrupt_no_member() {
    let seed = SimRng::new(std::process::id().into()).next_u64();
    let random = SimRng::new(seed);
    let mut cluster = Cluster::of(3).await;
    for number in 0..20u64 {
        let leader = cluster.leader().await;
        let written = command(&format!("before {number}"));
        cluster
            .node(leader)
            .propose(written)
            .await
            .expect("committed");
    }
    let before = cluster.converged().await;
    for number in 0..400 {
        let to = random.below(3) + 1;
        let status = cluster.node(to).status();
        // Of another member: one's own messages come from nobody.
        let from = to % 3 + 1;
        let message = message(&random, status.term, status.committed_index);
        let told = format!("seed {seed:x} message {number} to {to}: {message:?}");
        let sent = send(&cluster.network, cluster.node(to), from, message);
        let answer = tokio::time::timeout(std::time::Duration::from_secs(10), sent).await;
        let answer = answer.unwrap_or_else(|_| panic!("{told}: no answer"));
        drop(answer);
        revive(&mut cluster, &told).await;
    }
    // Nobody's state lost anything, and the cluster goes on.
    let told = format!("seed {seed:x}");
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        revive(&mut cluster, &told).await;
        let proposed = cluster.node(1).propose(command("after"));
        let patience = std::time::Duration::from_secs(3);
        if let Ok(Ok(_)) = tokio::time::timeout(patience, proposed).await {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{told}: no leader");
    }
    let after = cluster.converged().await;
    assert_eq!(after[..before.len()], before[..], "seed {seed:x}");
    cluster.shutdown().await;
}
