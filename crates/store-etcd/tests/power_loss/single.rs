//! One member: several lives, each ended by a fault.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use trivet_datastore::{Datastore, Error, Revision};
use trivet_env::{Env, Rng};
use trivet_sim::{SimDisk, SimRng};
use trivet_store_etcd::state::Limits;
use trivet_store_etcd::testing::{self, Bench, Network, Retention};
use trivet_store_etcd::{EtcdStore, StoreConfig};

use crate::disks::Bug;
use crate::model::{self, History, Told};
use crate::rounds;
use crate::workload::{Client, follow};

/// Lives of a round that end badly; one more is for the proof.
const LIVES: u64 = 3;
const CLIENTS: u64 = 4;
/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Settings with which everything happens often: rotation, purge, checkpoints, rewriting.
pub(crate) fn bench(seed: u64) -> Bench {
    Bench {
        network: Network::new(seed),
        limits: Limits {
            segment_bytes: 4096,
            checkpoint_bytes: 4096,
            checkpoint_commands: 8,
            ..Limits::default()
        },
        retention: Retention {
            keep_entries: 4,
            step_entries: 4,
            log_bytes: 1 << 20,
            checkpoint_entries: 16,
            interval: Duration::from_millis(20),
            segment_bytes: Some((4096, 16384)),
        },
    }
}

pub(crate) fn settings(disk: &SimDisk, bug: Bug) -> StoreConfig {
    let env = Env {
        disk: bug.plant(disk),
        ..Env::real()
    };
    // Nothing on the way to the directory exists yet.
    let mut config = StoreConfig::single(env, PathBuf::from("/var/db/trivet"));
    config.heartbeat = Duration::from_millis(10);
    config.election_timeout = Duration::from_millis(40);
    config.watch_progress = Duration::from_millis(10);
    config
}

/// Over all rounds: shows that there was something to lose.
static ACKNOWLEDGED: AtomicU64 = AtomicU64::new(0);

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Crash,
    FailedSync,
    FullDisk,
    Quiet,
}

struct Round {
    seed: u64,
    bug: Bug,
    rng: SimRng,
    bench: Bench,
    disk: SimDisk,
    history: Arc<Mutex<History>>,
}

/// One round; the error says what was broken.
pub(crate) async fn round(seed: u64, bug: Bug) -> Result<(), String> {
    let rng = SimRng::new(seed);
    let mut round = Round {
        seed,
        bug,
        bench: bench(rng.next_u64()),
        rng,
        disk: SimDisk::new(),
        history: Arc::default(),
    };
    for life in 0..LIVES {
        round.live(life).await?;
    }
    round.prove().await
}

impl Round {
    async fn open(&self) -> Result<Arc<EtcdStore>, Error> {
        testing::open(settings(&self.disk, self.bug), &self.bench).await
    }

    /// Whether what the store says about itself fits what was known.
    async fn check_status(&self, store: &EtcdStore) -> Result<(), String> {
        let status = store.status().await.map_err(|error| error.to_string())?;
        let history = self.history.lock().unwrap();
        let compacted = history.compacted.max(Revision(0));
        if status.compact_revision < compacted || status.compact_revision > history.compacting {
            return Err(format!(
                "compacted at {}, but {compacted} was acknowledged and {} asked for",
                status.compact_revision, history.compacting
            ));
        }
        Ok(())
    }

    fn client(&self, store: &Arc<EtcdStore>, name: String) -> Client {
        Client {
            store: store.clone(),
            history: self.history.clone(),
            rng: SimRng::new(self.rng.next_u64()),
            name,
        }
    }

    async fn live(&mut self, life: u64) -> Result<(), String> {
        let fault = match self.rng.below(20) {
            0..=12 => Fault::Crash,
            13..=15 => Fault::FailedSync,
            16 | 17 => Fault::FullDisk,
            _ => Fault::Quiet,
        };
        // Now and then it happens while the store is being opened.
        let early = self.rng.below(10);
        match early {
            0 | 1 => self
                .disk
                .crash_at(self.disk.operations() + self.rng.below(40)),
            2 => self
                .disk
                .fail_sync_at(self.disk.syncs() + self.rng.below(8)),
            _ => {}
        }
        let store = match self.open().await {
            Ok(store) => store,
            Err(_) if early <= 2 => {
                self.disk.crash();
                self.reboot();
                return Ok(());
            }
            Err(error) => return Err(format!("life {life}: the store does not open: {error}")),
        };
        let following = tokio::spawn(follow(store.clone(), self.history.clone()));
        // The first thing anybody sees is what is left of the life before.
        let look = self.client(&store, format!("{life}.look"));
        if look.read().await.is_ok() {
            self.check_status(&store).await?;
        }
        match fault {
            Fault::Crash => self
                .disk
                .crash_at(self.disk.operations() + self.rng.below(250)),
            Fault::FailedSync => self
                .disk
                .fail_sync_at(self.disk.syncs() + self.rng.below(60)),
            Fault::FullDisk => self.disk.set_space_left(Some(self.rng.below(16) * 4096)),
            Fault::Quiet => {}
        }
        let operations = 15 + self.rng.below(25) as usize;
        let clients = (0..CLIENTS).map(|number| {
            let client = self.client(&store, format!("{life}.{number}"));
            tokio::spawn(client.work(operations))
        });
        let clients: Vec<_> = clients.collect();
        let stops: Vec<_> = clients.iter().map(|client| client.abort_handle()).collect();
        tokio::select! {
            _ = futures_util::future::join_all(clients) => {}
            _ = store.stopped() => stops.iter().for_each(tokio::task::AbortHandle::abort),
        }
        self.disk.crash();
        following.abort();
        // Over when it can no longer write down what it hears.
        let _ = following.await;
        testing::abort(&store).await;
        drop(store);
        self.reboot();
        Ok(())
    }

    fn reboot(&mut self) {
        if self.rng.chance(20) {
            self.disk.restart_process();
            self.disk.set_space_left(None);
        } else {
            self.disk = self.disk.crash_image(self.rng.next_u64());
        }
    }

    /// The last life: everything is there, and it goes on.
    async fn prove(self) -> Result<(), String> {
        let store = self
            .open()
            .await
            .map_err(|error| format!("at last the store does not open: {error}"))?;
        let following = tokio::spawn(follow(store.clone(), self.history.clone()));
        let look = self.client(&store, "last.look".to_owned());
        look.read()
            .await
            .map_err(|error| format!("at last the store does not answer: {error}"))?;
        self.check_status(&store).await?;
        self.client(&store, "last".to_owned()).work(12).await;
        look.read()
            .await
            .map_err(|error| format!("at last the store does not go on: {error}"))?;
        let newest = self.history.lock().unwrap().newest;
        let caught_up = async {
            let caught_up = || {
                let history = self.history.lock().unwrap();
                history.covered >= newest || history.broken.is_some()
            };
            while !caught_up() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, caught_up).await.is_err() {
            let covered = self.history.lock().unwrap().covered;
            return Err(format!("the watch stays at {covered} of {newest}"));
        }
        let checked = {
            let history = self.history.lock().unwrap();
            model::check(&history, |lease| testing::has_lease(&store, lease))
        };
        following.abort();
        store.shutdown().await;
        let acknowledged = {
            let history = self.history.lock().unwrap();
            let done = |attempt: &&model::Attempt| matches!(attempt.outcome, Told::Done(_));
            history.attempts.iter().filter(done).count() as u64
        };
        ACKNOWLEDGED.fetch_add(acknowledged, Ordering::Relaxed);
        checked.map_err(|what| format!("round {:x}: {what}", self.seed))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_loses_nothing_acknowledged() {
    let count = if rounds::full() { 5000 } else { 200 };
    let outcome = rounds::run("one_member", count, |seed| round(seed, Bug::None)).await;
    if let Err(what) = outcome {
        panic!("{what}");
    }
    let acknowledged = ACKNOWLEDGED.load(Ordering::Relaxed);
    assert!(
        acknowledged > 5 * count,
        "only {acknowledged} writes were acknowledged in {count} rounds"
    );
}
