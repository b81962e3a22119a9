//! The leader is killed under load: nothing acknowledged is lost, watches miss nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use trivet_harness::wait_for;

use crate::api::Api;
use crate::support::{STEP, Scenario};

/// Writers, each pausing between writes so that together they come to about 500 a second.
const WRITERS: u64 = 40;
const PAUSE: Duration = Duration::from_millis(25);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::await_holding_lock)] // the scenario's turn is held on purpose
async fn leader_killed_under_load() {
    let mut scenario = Scenario::new("failover");
    scenario.three_servers();
    let leader = scenario.leader(1).expect("a leader");
    let others: Vec<u8> = [1, 2, 3]
        .into_iter()
        .filter(|&number| number != leader)
        .collect();
    let kubeconfig = scenario.cluster.kubeconfig(1);
    let urls: Vec<String> = (0..=3).map(|number| scenario.cluster.url(number)).collect();
    let api = |server: u8| {
        Api::new(
            &kubeconfig,
            &urls[usize::from(server)],
            Duration::from_secs(5),
        )
    };
    let survivors: Vec<Api> = others.iter().map(|&number| api(number)).collect();

    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(Mutex::new(BTreeMap::<String, (u64, Instant)>::new()));
    let watched = Arc::new(Mutex::new(Vec::<(String, u64)>::new()));
    let next = Arc::new(AtomicU64::new(0));

    let watcher = {
        let (api, watched, stop) = (survivors[0].clone(), watched.clone(), stop.clone());
        let from = survivors[0]
            .get("/api/v1/namespaces/default/configmaps")
            .await
            .unwrap();
        let mut from: u64 = from["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let collect = |kind: &str, name: String, revision: u64| {
                    if kind == "ADDED" {
                        watched.lock().unwrap().push((name, revision));
                    }
                };
                match api.watch_config_maps(from, collect).await {
                    Ok(last) => from = last,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        })
    };
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let api = survivors[writer as usize % survivors.len()].clone();
        let (stop, acknowledged, next) = (stop.clone(), acknowledged.clone(), next.clone());
        writers.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let name = format!("load-{}", next.fetch_add(1, Ordering::Relaxed));
                if let Ok(revision) = api.create_config_map(&name, &name).await {
                    acknowledged
                        .lock()
                        .unwrap()
                        .insert(name, (revision, Instant::now()));
                }
                tokio::time::sleep(PAUSE).await;
            }
        }));
    }

    let count = || acknowledged.lock().unwrap().len();
    wait_for("a load of writes", STEP, || count() > 500).unwrap();
    let killed_at = Instant::now();
    let recent = |at: &Instant| killed_at.duration_since(*at) < Duration::from_secs(1);
    let rate = acknowledged
        .lock()
        .unwrap()
        .values()
        .filter(|(_, at)| recent(at))
        .count();
    println!("{rate} acknowledged writes in the second before the kill");
    scenario.cluster.kill(leader).unwrap();
    wait_for("a write after the kill", STEP, || {
        acknowledged
            .lock()
            .unwrap()
            .values()
            .any(|(_, at)| *at > killed_at + Duration::from_millis(100))
    })
    .unwrap();
    // The pause without writes is the longest gap between acknowledgements around the kill.
    let first_after = {
        let all = acknowledged.lock().unwrap();
        let mut times: Vec<Instant> = all.values().map(|(_, at)| *at).collect();
        times.sort();
        times
            .windows(2)
            .filter(|pair| pair[1] > killed_at)
            .map(|pair| pair[1].duration_since(pair[0].max(killed_at)))
            .max()
            .unwrap_or_default()
    };
    println!("longest pause without an acknowledged write after the kill: {first_after:?}");
    assert!(
        first_after < Duration::from_secs(2),
        "writes paused for {first_after:?}"
    );
    let after = count();
    wait_for("more writes", STEP, || count() > after + 300).unwrap();
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }

    let acknowledged = acknowledged.lock().unwrap().clone();
    for survivor in &survivors {
        let stored: BTreeMap<String, u64> = survivor
            .config_maps("load-")
            .await
            .unwrap()
            .into_iter()
            .collect();
        for (name, (revision, _)) in &acknowledged {
            assert_eq!(
                stored.get(name),
                Some(revision),
                "acknowledged write {name} is lost"
            );
        }
    }
    let stored: BTreeMap<String, u64> = survivors[0]
        .config_maps("load-")
        .await
        .unwrap()
        .into_iter()
        .collect();
    wait_for("the watch to see every write", STEP, || {
        watched.lock().unwrap().len() >= stored.len()
    })
    .unwrap();
    let seen = watched.lock().unwrap().clone();
    assert!(
        seen.windows(2).all(|pair| pair[0].1 < pair[1].1),
        "watch out of order or doubled"
    );
    assert_eq!(
        seen.into_iter().collect::<BTreeMap<_, _>>(),
        stored,
        "the watch missed something"
    );
    watcher.abort();

    // The killed one returns and catches up.
    scenario.cluster.resume(leader).unwrap();
    scenario.cluster.wait_ready(leader, STEP).unwrap();
    let returned = api(leader);
    let caught_up: BTreeMap<String, u64> = returned
        .config_maps("load-")
        .await
        .unwrap()
        .into_iter()
        .collect();
    assert_eq!(caught_up, stored);
}
