//! Members come and go under load: added as voters or learners, promoted, removed, replaced while
//! dead, the leader among them, on a network that is cut now and then.
//!
//! Never do two members lead in one term; what was acknowledged is there and in order; who was
//! removed stops and stays away. `TRIVET_TEST_PROFILE=full` runs a hundred rounds,
//! `TRIVET_TEST_SEED` sets the seed of what is done.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod cluster;
mod load;

use std::time::{Duration, Instant};

use trivet_datastore::KeyRange;
use trivet_datastore_testkit::Recorder;
use trivet_datastore_testkit::history::{Outcome, check_linearizable};
use trivet_env::Rng;
use trivet_sim::SimRng;

use cluster::Cluster;
use load::Load;

const SIZE: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_under_load() {
    let full = std::env::var("TRIVET_TEST_PROFILE").is_ok_and(|profile| profile == "full");
    let rounds = if full { 100 } else { 8 };
    let seed = match std::env::var("TRIVET_TEST_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => trivet_env::RealRng.next_u64() >> 16,
    };
    eprintln!("seed {seed}: TRIVET_TEST_SEED={seed} repeats what is done");
    let start = Instant::now();
    let rng = SimRng::new(seed);
    let mut cluster = Cluster::found(SIZE, rng.next_u64()).await;
    let load = Load::start(&cluster, &rng);
    let mut done = [0; 5];
    for round in 0..rounds {
        let what = rng.below(5) as usize;
        done[what] += 1;
        match what {
            0 => cluster.swap_for_a_voter(&rng).await,
            1 => cluster.swap_for_a_learner(&rng).await,
            2 => cluster.replace_a_dead_one(&rng).await,
            3 => cluster.remove_the_leader(&rng).await,
            _ => cluster.cut_the_leader_off(&rng).await,
        }
        load.moved(&cluster);
        cluster.settled().await;
        assert_eq!(cluster.members().await, SIZE, "round {round}");
    }
    let mut history = load.finish().await;
    let acknowledged = history
        .writes
        .iter()
        .filter(|write| matches!(write.outcome, Outcome::Ok { .. }))
        .count();
    // Every member has the same in the end; the history is checked against one of them.
    let mut ends = Vec::new();
    for store in cluster.stores() {
        let mut last = Recorder::new(store, load::origin());
        let read = last.read(KeyRange::Prefix("k/".into()), None, false).await;
        ends.push(read.unwrap().clone());
    }
    assert!(
        ends.iter().all(|end| end.pairs == ends[0].pairs),
        "the members differ"
    );
    history.last = Some(ends.swap_remove(0));
    let terms = cluster.shutdown().await;
    check_linearizable(&history).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    assert!(acknowledged > rounds, "there was no load to speak of");
    eprintln!(
        "{rounds} rounds in {:?} (voters {}, learners {}, dead {}, leaders {}, cuts {}): \
         {acknowledged} writes acknowledged, {} outcomes in all, {terms} terms",
        start.elapsed(),
        done[0],
        done[1],
        done[2],
        done[3],
        done[4],
        history.writes.len(),
    );
    assert!(start.elapsed() < Duration::from_secs(if full { 900 } else { 120 }));
}
