//! Many clients at once, judged by the history checkers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::StreamExt;
use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;
use trivet_datastore::{Error, Expect, ExportItem, KeyRange, RangeRequest, Revision, WatchRequest};

use crate::Verdict::{self, Passed};
use crate::client::{Client, key, ok, prefix, read};
use crate::history::{
    Change, History, WatchRecord, check_coverage, check_linearizable, check_watch,
};
use crate::run::Bench;
use crate::workload::{last_read, mixed, seed};

const WRITERS: usize = 4;

/// Runs the mixed workload to its end, through these clients in turn.
pub(super) async fn run_mixed(clients: &[Client], seed: u64, operations: usize) -> History {
    let origin = Instant::now();
    let workers = (0..WRITERS).map(|name| {
        let store = clients[name % clients.len()].store.clone();
        tokio::spawn(mixed(store, origin, name, seed, operations))
    });
    let mut history = History::default();
    for worker in join_all(workers).await {
        history.absorb(worker.expect("no panic"));
    }
    history
}

pub(super) async fn check(history: &mut History, client: &Client, seed: u64) {
    let last = last_read(client, KeyRange::all(), history.now_ns()).await;
    history.exclusive = true;
    history.last = Some(last);
    check_linearizable(history).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
}

pub(crate) async fn concurrent_histories_are_linearizable(b: &mut Bench) -> Verdict {
    let seed = seed();
    let clients = [b.client.clone()];
    let mut history = run_mixed(&clients, seed, 80 * b.limits.load).await;
    check(&mut history, &b.client, seed).await;
    Passed
}

/// Watches until `sentinel` is known and reached; an error ends it early. Tells `reached` how far
/// it has come.
async fn watch_all(
    client: Client,
    request: WatchRequest,
    sentinel: Arc<AtomicU64>,
    reached: Arc<AtomicU64>,
) -> WatchRecord {
    let start = request
        .start
        .expect("a watch from now cannot be told from one with a gap");
    let mut record = WatchRecord::new(request.range.clone(), start, request.previous);
    let mut stream = match client.store.watch(request).await {
        Ok(stream) => stream,
        Err(Error::Compacted { .. }) => return record,
        Err(error) => panic!("a watch was refused: {error}"),
    };
    loop {
        match client.soon("a watch", stream.next()).await {
            Some(Ok(batch)) => record.push(&batch),
            Some(Err(Error::Compacted { .. } | Error::WatchLagged { .. })) => return record,
            other => panic!("a watch ended with {other:?}"),
        }
        reached.store(record.covered().0, Ordering::Release);
        let last = sentinel.load(Ordering::Acquire);
        if last != 0 && record.covered() >= Revision(last) {
            return record;
        }
    }
}

fn random_watch(rng: &mut StdRng, newest: Revision) -> WatchRequest {
    // All of them have "w/a", where the last write goes.
    let range = match rng.random_range(0..4) {
        0 => KeyRange::all(),
        1 => key("w/a"),
        2 => KeyRange::Between {
            start: "w/a".into(),
            end: "w/b/c".into(),
        },
        _ => prefix("w/"),
    };
    let start = match rng.random_range(0..4) {
        0 | 1 => newest.next(),
        2 => newest,
        _ => Revision(rng.random_range(1..=newest.0)),
    };
    let start = Some(start);
    WatchRequest {
        range,
        start,
        previous: rng.random_bool(0.5),
        progress: rng.random_bool(0.5),
    }
}

/// Writers at work, watches opened through all clients at random points of time with random
/// starts; every watch must fit what was acknowledged.
pub(super) async fn run_watched(
    clients: &[Client],
    seed: u64,
    operations: usize,
    compacting: bool,
) {
    let sentinel = Arc::new(AtomicU64::new(0));
    // How far the watch of everything has come, which no compaction may overtake.
    let reached = Arc::new(AtomicU64::new(0));
    let everything = WatchRequest {
        range: KeyRange::all(),
        start: Some(Revision(1)),
        previous: true,
        progress: false,
    };
    let reference = {
        let (client, reached) = (clients[0].clone(), reached.clone());
        tokio::spawn(watch_all(client, everything, sentinel.clone(), reached))
    };
    let writers = {
        let clients = clients.to_vec();
        tokio::spawn(async move { run_mixed(&clients, seed, operations).await })
    };
    let done = Arc::new(AtomicBool::new(false));
    let openers = (0..3u64).map(|number| {
        let client = clients[number as usize % clients.len()].clone();
        let (sentinel, done, reached) = (sentinel.clone(), done.clone(), reached.clone());
        tokio::spawn(async move {
            let mut rng = StdRng::seed_from_u64(seed.wrapping_add(number + 1));
            let mut watches = Vec::new();
            while watches.len() < 12 {
                let newest = client.revision().await;
                let request = random_watch(&mut rng, newest);
                let watch = watch_all(client.clone(), request, sentinel.clone(), Arc::default());
                watches.push(tokio::spawn(watch));
                let upto = Revision(reached.load(Ordering::Acquire));
                if compacting && rng.random_bool(0.3) && upto.0 > 1 {
                    match client.compact(upto).await {
                        Ok(()) | Err(Error::Compacted { .. }) => {}
                        Err(error) => panic!("a compaction was refused: {error}"),
                    }
                }
                if done.load(Ordering::Acquire) {
                    break;
                }
                // The next one after some more writes, or when there are no more.
                let further = Revision(newest.0 + rng.random_range(1..12));
                while !done.load(Ordering::Acquire) && client.revision().await < further {
                    tokio::task::yield_now().await;
                }
            }
            watches
        })
    });
    let openers: Vec<_> = openers.collect();
    let mut history = writers.await.expect("no panic");
    done.store(true, Ordering::Release);
    let mut watches = Vec::new();
    for opener in openers {
        watches.extend(opener.await.expect("no panic"));
    }
    let client = &clients[0];
    let mut recorder = crate::Recorder::new(client.store.clone(), Instant::now());
    sentinel.store(client.revision().await.next().0, Ordering::Release);
    recorder.put("w/a", "sentinel", Expect::Any).await;
    let compacted = ok(client.store.status().await).compact_revision;
    let reference = reference.await.expect("no panic");
    let changes: Vec<Change> = reference.changes().cloned().collect();
    let fail = |violation: &dyn std::fmt::Display| panic!("seed {seed}: {violation}");
    history.writes.extend(recorder.into_history().writes);
    check_coverage(&history, &changes, reference.covered()).unwrap_or_else(|v| fail(&v));
    check_watch(&reference, &changes, compacted).unwrap_or_else(|v| fail(&v));
    let mut complete = 0;
    for watch in watches {
        let record = watch.await.expect("no panic");
        check_watch(&record, &changes, compacted).unwrap_or_else(|v| fail(&v));
        complete += usize::from(record.covered().0 >= sentinel.load(Ordering::Acquire));
    }
    let last = Revision(sentinel.load(Ordering::Acquire));
    assert!(
        reference.covered() >= last,
        "seed {seed}: the watch of everything was cut off"
    );
    assert!(
        compacting || complete > 0,
        "seed {seed}: every watch was cut off"
    );
}

pub(crate) async fn watches_under_writers_have_no_gap_and_no_duplicate(b: &mut Bench) -> Verdict {
    run_watched(
        std::slice::from_ref(&b.client),
        seed(),
        60 * b.limits.load,
        false,
    )
    .await;
    Passed
}

pub(crate) async fn watches_under_compaction_have_no_gap(b: &mut Bench) -> Verdict {
    run_watched(
        std::slice::from_ref(&b.client),
        seed(),
        60 * b.limits.load,
        true,
    )
    .await;
    Passed
}

pub(crate) async fn exports_are_of_one_revision(b: &mut Bench) -> Verdict {
    let seed = seed();
    let c = b.client.clone();
    let writers = tokio::spawn({
        let (c, operations) = (c.clone(), 60 * b.limits.load);
        async move { run_mixed(&[c], seed, operations).await }
    });
    let mut exports = 0;
    while exports < 3 || !writers.is_finished() {
        // A store that never waits would keep the writers from running.
        tokio::task::yield_now().await;
        let items = c.export().await;
        exports += 1;
        let Some(ExportItem::Head { revision }) = items.first() else {
            panic!("an export starts with {:?}", items.first());
        };
        let page = c
            .range(RangeRequest {
                at: Some(*revision),
                ..read(KeyRange::all())
            })
            .await;
        super::lifecycle::check_export(&items, &page.items);
    }
    writers.await.expect("no panic");
    Passed
}
