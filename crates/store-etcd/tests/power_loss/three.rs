//! Three members: a minority, or all of them, lose power.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use trivet_datastore::{Datastore, Expect, KeyRange, Revision};
use trivet_datastore_testkit::Recorder;
use trivet_datastore_testkit::history::{History, Outcome, check_linearizable};
use trivet_env::Rng;
use trivet_sim::{SimDisk, SimRng};
use trivet_store_etcd::testing::{self, Bench};
use trivet_store_etcd::{EtcdStore, Start, StoreConfig};

use crate::disks::Bug;
use crate::rounds;
use crate::single::{bench, settings};

const MEMBERS: usize = 3;
const FAULTS: u64 = 3;
const PATIENCE: Duration = Duration::from_secs(20);
/// No client waits longer for an answer; its outcome is unknown then.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const KEYS: u64 = 5;

struct Cluster {
    bench: Bench,
    disks: Vec<SimDisk>,
    stores: Vec<Arc<EtcdStore>>,
    bug: Bug,
}

impl Cluster {
    fn settings(&self, number: usize) -> StoreConfig {
        let mut config = settings(&self.disks[number], self.bug);
        config.member_name = format!("m{number}");
        config.heartbeat = Duration::from_millis(30);
        config.election_timeout = Duration::from_millis(150);
        config
    }

    async fn start(seed: u64, bug: Bug) -> Result<Self, String> {
        let mut cluster = Self {
            bench: bench(seed),
            disks: (0..MEMBERS).map(|_| SimDisk::new()).collect(),
            stores: Vec::new(),
            bug,
        };
        for number in 0..MEMBERS {
            let mut config = cluster.settings(number);
            if number > 0 {
                config.start = Start::Join {
                    peer_urls: vec![cluster.bench.url("m0")],
                };
            }
            let store = testing::open(config, &cluster.bench).await;
            cluster
                .stores
                .push(store.map_err(|error| format!("m{number} does not start: {error}"))?);
        }
        Ok(cluster)
    }

    /// The given members lose power at some change of their disks soon, and come back.
    async fn lose_power(&mut self, victims: &BTreeSet<usize>, rng: &SimRng) -> Result<(), String> {
        for victim in victims {
            let disk = &self.disks[*victim];
            disk.crash_at(disk.operations() + rng.below(120));
        }
        for victim in victims {
            let stopped = self.stores[*victim].stopped();
            if tokio::time::timeout(Duration::from_secs(1), stopped)
                .await
                .is_err()
            {
                self.disks[*victim].crash();
            }
        }
        for victim in victims {
            testing::abort(&self.stores[*victim]).await;
            self.disks[*victim] = self.disks[*victim].crash_image(rng.next_u64());
        }
        for victim in victims {
            let mut config = self.settings(*victim);
            config.start = Start::Resume;
            let store = testing::open(config, &self.bench).await;
            self.stores[*victim] =
                store.map_err(|error| format!("m{victim} does not open: {error}"))?;
        }
        Ok(())
    }

    async fn writable(&self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        for (number, store) in self.stores.iter().enumerate() {
            while !store.status().await.is_ok_and(|status| status.writable) {
                if Instant::now() > deadline {
                    return Err(format!("m{number} never becomes writable again"));
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(())
    }
}

/// Where clients find the members as they are now.
type Places = Arc<Mutex<Vec<Arc<EtcdStore>>>>;

/// Works until told to stop; each connection to a store has a recorder of its own.
async fn client(
    places: Places,
    origin: tokio::time::Instant,
    rng: SimRng,
    name: usize,
    stop: tokio_util::sync::CancellationToken,
) -> History {
    let mut all = History::default();
    let mut number = 0;
    while !stop.is_cancelled() {
        let store = places.lock().unwrap()[rng.below(MEMBERS as u64) as usize].clone();
        let mut recorder = Recorder::new(store, origin);
        let mut heard = [Revision(0); KEYS as usize];
        for _ in 0..20 {
            number += 1;
            let answered = tokio::time::timeout(
                ANSWER_WITHIN,
                operation(&mut recorder, &rng, &mut heard, format!("{name}.{number}")),
            );
            if answered.await != Ok(true) || stop.is_cancelled() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(rng.below(6))).await;
        }
        all.absorb(recorder.into_history());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    all
}

/// One operation; whether the member answers.
async fn operation(
    recorder: &mut Recorder,
    rng: &SimRng,
    heard: &mut [Revision],
    value: String,
) -> bool {
    let which = rng.below(KEYS) as usize;
    let key: Bytes = format!("k/{which}").into();
    let expect = match rng.below(3) {
        0 => Expect::Absent,
        1 => Expect::Any,
        _ => Expect::ModRevision(heard[which]),
    };
    let outcome = match rng.below(10) {
        0..=4 => recorder.put(key, value, expect).await,
        5 | 6 if expect != Expect::Absent => recorder.delete(key, expect).await,
        kind => {
            let range = KeyRange::Prefix("k/".into());
            return recorder.read(range, None, kind == 9).await.is_ok();
        }
    };
    match outcome {
        Outcome::Ok { revision, .. } => heard[which] = revision,
        Outcome::Conflict { observed } => {
            let pair = observed.and_then(|observed| observed.pair);
            heard[which] = pair.map_or(Revision(0), |pair| pair.mod_revision);
        }
        Outcome::Unknown | Outcome::Failed => return false,
    }
    true
}

pub(crate) async fn round(seed: u64, bug: Bug) -> Result<(), String> {
    let rng = SimRng::new(seed);
    let mut cluster = Cluster::start(rng.next_u64(), bug).await?;
    let places: Places = Arc::new(Mutex::new(cluster.stores.clone()));
    let (origin, stop) = (
        tokio::time::Instant::now(),
        tokio_util::sync::CancellationToken::new(),
    );
    let clients = (0..4).map(|name| {
        let rng = SimRng::new(rng.next_u64());
        tokio::spawn(client(places.clone(), origin, rng, name, stop.clone()))
    });
    let clients: Vec<_> = clients.collect();
    for _ in 0..FAULTS {
        let victims: BTreeSet<usize> = if rng.chance(40) {
            (0..MEMBERS).collect()
        } else {
            [rng.below(MEMBERS as u64) as usize].into()
        };
        cluster.lose_power(&victims, &rng).await?;
        places.lock().unwrap().clone_from(&cluster.stores);
        cluster.writable().await?;
        // Some work in peace.
        tokio::time::sleep(Duration::from_millis(rng.below(100))).await;
    }
    stop.cancel();
    let mut history = History {
        exclusive: true,
        ..History::default()
    };
    for client in clients {
        history.absorb(client.await.map_err(|error| error.to_string())?);
    }
    let mut last = Recorder::new(cluster.stores[0].clone(), origin);
    let read = last
        .read(KeyRange::Prefix("k/".into()), None, false)
        .await
        .map_err(|error| format!("the last read: {error}"))?;
    history.last = Some(read.clone());
    let done = |write: &&_| {
        let write: &trivet_datastore_testkit::history::WriteRecord = write;
        matches!(write.outcome, Outcome::Ok { .. })
    };
    let acknowledged = history.writes.iter().filter(done).count();
    let all = cluster.stores.iter().map(|store| store.shutdown());
    futures_util::future::join_all(all).await;
    check_linearizable(&history).map_err(|violation| format!("round {seed:x}: {violation}"))?;
    if acknowledged == 0 {
        return Err("nothing was acknowledged in the whole round".to_owned());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_stay_linearizable_through_power_loss() {
    let count = if rounds::full() { 500 } else { 20 };
    let outcome = rounds::run("three_members", count, |seed| round(seed, Bug::None)).await;
    if let Err(what) = outcome {
        panic!("{what}");
    }
}
