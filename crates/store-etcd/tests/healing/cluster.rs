//! Members on simulated disks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use trivet_datastore::{
    ClusterStatus, Datastore, Error, Expect, KeyRange, MemberRole, PutRequest, RangeRequest,
};
use trivet_env::Env;
use trivet_raft_node::testing::Network;
use trivet_sim::SimDisk;
use trivet_store_etcd::state::Limits;
use trivet_store_etcd::testing::{self, Bench, Retention};
use trivet_store_etcd::{EtcdStore, Start, StoreConfig};

/// Where every member's store lies on its own disk.
pub(crate) const DIR: &str = "/db/trivet";
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for a condition, not for a time.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let start = Instant::now();
    while !done().await {
        assert!(start.elapsed() < PATIENCE, "waited too long for: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) struct Cluster {
    pub(crate) bench: Bench,
    pub(crate) disks: Vec<SimDisk>,
    pub(crate) stores: Vec<Option<Arc<EtcdStore>>>,
    /// How often members are compared, once they are opened again.
    pub(crate) compare: Option<Duration>,
    /// Whether a member compares before it serves.
    pub(crate) initial: bool,
}

impl Cluster {
    pub(crate) fn settings(&self, number: usize) -> StoreConfig {
        let env = Env {
            disk: Arc::new(self.disks[number].clone()),
            ..Env::real()
        };
        let mut config = StoreConfig::single(env, PathBuf::from(DIR));
        config.member_name = format!("m{number}");
        config.heartbeat = Duration::from_millis(30);
        config.election_timeout = Duration::from_millis(150);
        config.start = Start::Resume;
        config.checks.compare = self.compare;
        config.checks.initial = self.initial;
        config
    }

    /// Small files; `forgetful` ones that are replaced soon.
    pub(crate) async fn of(size: usize, forgetful: bool) -> Self {
        let (keep, checkpoint) = if forgetful {
            (60, 4096)
        } else {
            (10_000, 1 << 20)
        };
        let mut cluster = Self {
            bench: Bench {
                network: Network::new(7),
                limits: Limits {
                    segment_bytes: 4096,
                    checkpoint_bytes: checkpoint,
                    checkpoint_commands: checkpoint / 200,
                    ..Limits::default()
                },
                retention: Retention {
                    keep_entries: keep,
                    step_entries: 4,
                    interval: Duration::from_millis(20),
                    segment_bytes: Some((4096, 8192)),
                    ..Retention::default()
                },
            },
            disks: (0..size).map(|_| SimDisk::new()).collect(),
            stores: Vec::new(),
            compare: None,
            initial: false,
        };
        for number in 0..size {
            let mut config = cluster.settings(number);
            config.start = if number == 0 {
                Start::Found
            } else {
                Start::Join {
                    peer_urls: vec![cluster.bench.url("m0")],
                }
            };
            let store = testing::open(config, &cluster.bench).await.unwrap();
            cluster.stores.push(Some(store));
        }
        cluster
    }

    pub(crate) fn store(&self, number: usize) -> &Arc<EtcdStore> {
        self.stores[number].as_ref().unwrap()
    }

    pub(crate) async fn status(&self, number: usize) -> ClusterStatus {
        let cluster = self.store(number).cluster().unwrap();
        cluster.status().await.unwrap()
    }

    /// Writes some keys over and over through a member.
    pub(crate) async fn write(&self, through: usize, from: usize, count: usize) {
        for number in from..from + count {
            put(
                self.store(through),
                &format!("key/{:02}", number % 20),
                &format!("{number:04}").repeat(40),
            )
            .await
            .unwrap();
        }
    }

    pub(crate) async fn stop(&mut self, number: usize) {
        self.stores[number].take().unwrap().shutdown().await;
    }

    /// Opens a member again, as a supervisor would: for as long as it says that it waits.
    pub(crate) async fn reopen(&mut self, number: usize) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            match testing::open(self.settings(number), &self.bench).await {
                Err(Error::Unavailable { reason, .. }) => {
                    assert!(start.elapsed() < PATIENCE, "still waiting: {reason}");
                }
                Err(error) => return Err(error),
                Ok(store) => {
                    self.stores[number] = Some(store);
                    return Ok(());
                }
            }
        }
    }

    /// Every member is a voter, has the same data and serves it.
    pub(crate) async fn is_whole(&self) {
        let size = self.stores.len();
        for number in 0..size {
            eventually("the member to be written through", || async {
                put(self.store(number), "whole", "yes").await.is_ok()
            })
            .await;
        }
        eventually("the same data everywhere", || async {
            let mut hashes = Vec::new();
            for number in 0..size {
                match testing::hash(self.store(number)).await {
                    Ok(hash) => hashes.push((hash.hash, hash.revision)),
                    Err(_) => return false,
                }
            }
            hashes.iter().all(|hash| *hash == hashes[0])
        })
        .await;
        for number in 0..size {
            eventually("all to be voters", || async {
                let status = self.status(number).await;
                status.members.len() == size
                    && status
                        .members
                        .iter()
                        .all(|member| member.role == MemberRole::Voter)
            })
            .await;
            assert_eq!(testing::damage(self.store(number)), [""; 0]);
        }
    }

    pub(crate) async fn shutdown(&mut self) {
        for number in 0..self.stores.len() {
            if self.stores[number].is_some() {
                self.stop(number).await;
            }
        }
    }
}

pub(crate) async fn put(store: &EtcdStore, key: &str, value: &str) -> Result<(), Error> {
    let put = PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        expect: Expect::Any,
        lease: None,
    };
    store.put(put).await.map(drop)
}

/// All pairs as this member has them, wherever it is.
pub(crate) async fn read_all(store: &EtcdStore) -> Result<usize, Error> {
    let page = store
        .range(RangeRequest {
            range: KeyRange::all(),
            at: None,
            limit: 0,
            after: None,
            count_only: false,
            serializable: true,
        })
        .await?;
    Ok(page.items.len())
}
