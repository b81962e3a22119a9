//! Clients that write and read through whatever members there are, and remember all of it.

use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trivet_datastore::{Expect, KeyRange, Revision};
use trivet_datastore_testkit::Recorder;
use trivet_datastore_testkit::history::{History, Outcome};
use trivet_env::Rng;
use trivet_sim::SimRng;
use trivet_store_etcd::EtcdStore;

use crate::cluster::Cluster;

const CLIENTS: usize = 4;
const KEYS: u64 = 5;

/// No client waits longer for an answer; its outcome is unknown then.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Members that were removed are asked as well: they must not answer what is not so.
type Places = Arc<Mutex<Vec<Arc<EtcdStore>>>>;

/// The beginning of time for all clients.
pub(crate) fn origin() -> Instant {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    *ORIGIN
}

pub(crate) struct Load {
    places: Places,
    stop: CancellationToken,
    clients: Vec<JoinHandle<History>>,
}

impl Load {
    pub(crate) fn start(cluster: &Cluster, rng: &SimRng) -> Self {
        origin();
        let places: Places = Arc::new(Mutex::new(cluster.stores()));
        let stop = CancellationToken::new();
        let clients = (0..CLIENTS)
            .map(|name| {
                let rng = SimRng::new(rng.next_u64());
                tokio::spawn(client(places.clone(), rng, name, stop.clone()))
            })
            .collect();
        Self {
            places,
            stop,
            clients,
        }
    }

    /// There are other members now.
    pub(crate) fn moved(&self, cluster: &Cluster) {
        let mut places = cluster.stores();
        places.extend(cluster.last_removed());
        *self.places.lock().unwrap() = places;
    }

    pub(crate) async fn finish(self) -> History {
        self.stop.cancel();
        let mut history = History {
            exclusive: true,
            ..History::default()
        };
        for client in self.clients {
            history.absorb(client.await.unwrap());
        }
        history
    }
}

async fn client(places: Places, rng: SimRng, name: usize, stop: CancellationToken) -> History {
    let mut all = History::default();
    let mut number = 0;
    while !stop.is_cancelled() {
        let store = {
            let places = places.lock().unwrap();
            places[rng.below(places.len() as u64) as usize].clone()
        };
        let mut recorder = Recorder::new(store, origin());
        let mut heard = [Revision(0); KEYS as usize];
        for _ in 0..20 {
            number += 1;
            let operation = operation(&mut recorder, &rng, &mut heard, format!("{name}.{number}"));
            let answered = tokio::time::timeout(ANSWER_WITHIN, operation).await;
            if answered != Ok(true) || stop.is_cancelled() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(rng.below(4))).await;
        }
        all.absorb(recorder.into_history());
        tokio::time::sleep(Duration::from_millis(2)).await;
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
        0..=5 => recorder.put(key, value, expect).await,
        6 if expect != Expect::Absent => recorder.delete(key, expect).await,
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
