//! The members of the test, and what happens to them.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tonic::{Response, Status};
use trivet_datastore::Datastore;
use trivet_env::Env;
use trivet_sim::{SimDisk, SimRng};
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::etcdserverpb as pb;
use trivet_store_etcd::state::Limits;
use trivet_store_etcd::testing::{self, Bench, Network, Retention};
use trivet_store_etcd::{ClientListener, EtcdStore, Founder, Manner, REMOVED, Start, StoreConfig};

const PATIENCE: Duration = Duration::from_secs(30);

struct Member {
    id: u64,
    config: StoreConfig,
    store: Arc<EtcdStore>,
    client: Client,
}

pub(crate) struct Cluster {
    bench: Bench,
    members: BTreeMap<String, Member>,
    removed: Option<Arc<EtcdStore>>,
    born: usize,
    leaders: Leaders,
    watching: tokio::task::JoinHandle<()>,
}

/// Who led in which term. The watcher looks at every member there is.
#[derive(Clone, Default)]
struct Leaders {
    stores: Arc<Mutex<Vec<(String, Arc<EtcdStore>)>>>,
    by_term: Arc<Mutex<BTreeMap<u64, String>>>,
    violation: Arc<Mutex<Option<String>>>,
}

impl Leaders {
    async fn watch(self) {
        loop {
            for (name, store) in self.stores.lock().unwrap().iter() {
                let Some(term) = testing::leading_term(store) else {
                    continue;
                };
                let mut by_term = self.by_term.lock().unwrap();
                let first = by_term.entry(term).or_insert_with(|| name.clone());
                if first != name {
                    let what = format!("{first} and {name} both led in term {term}");
                    self.violation.lock().unwrap().get_or_insert(what);
                }
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn add(&self, name: &str, store: &Arc<EtcdStore>) {
        let mut stores = self.stores.lock().unwrap();
        stores.push((name.to_owned(), store.clone()));
    }
}

fn bench(seed: u64) -> Bench {
    Bench {
        network: Network::new(seed),
        limits: Limits {
            segment_bytes: 64 * 1024,
            checkpoint_bytes: 64 * 1024,
            checkpoint_commands: 64,
            ..Limits::default()
        },
        // Newcomers get a snapshot as often as the log.
        retention: Retention {
            keep_entries: 50,
            step_entries: 10,
            log_bytes: 1 << 20,
            checkpoint_entries: 100,
            interval: Duration::from_millis(50),
            segment_bytes: Some((16 * 1024, 64 * 1024)),
        },
    }
}

async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Cluster {
    pub(crate) async fn found(size: usize, seed: u64) -> Self {
        let leaders = Leaders::default();
        let mut cluster = Self {
            bench: bench(seed),
            members: BTreeMap::new(),
            removed: None,
            born: 0,
            watching: tokio::spawn(leaders.clone().watch()),
            leaders,
        };
        let names: Vec<String> = (0..size).map(|_| cluster.name()).collect();
        let list: Vec<Founder> = names.iter().map(|name| cluster.founder(name)).collect();
        let starting = names.iter().map(|name| {
            let start = Start::Static {
                members: list.clone(),
                token: "churn".to_owned(),
            };
            cluster.start(name, cluster.settings(name, start))
        });
        let started = futures_util::future::join_all(starting).await;
        for (name, member) in names.into_iter().zip(started) {
            cluster.admit(name, member);
        }
        cluster.settled().await;
        cluster
    }

    fn name(&mut self) -> String {
        self.born += 1;
        format!("m{}", self.born)
    }

    fn founder(&self, name: &str) -> Founder {
        Founder {
            name: name.to_owned(),
            peer_urls: vec![self.bench.url(name)],
        }
    }

    fn settings(&self, name: &str, start: Start) -> StoreConfig {
        let env = Env {
            disk: Arc::new(SimDisk::new()),
            ..Env::real()
        };
        let mut config = StoreConfig::single(env, PathBuf::from("/var/trivet"));
        config.member_name = name.to_owned();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        config.clients = vec![ClientListener::new(any, None)];
        config.client_urls = vec![format!("http://{name}:2379")];
        config.heartbeat = Duration::from_millis(30);
        config.election_timeout = Duration::from_millis(150);
        // Contact of some seconds before each change would be all that happens.
        config.strict_reconfig = None;
        config.manner = Manner::Standalone;
        config.start = start;
        config
    }

    async fn start(&self, name: &str, config: StoreConfig) -> Member {
        let opening = testing::open(config.clone(), &self.bench);
        let store = tokio::time::timeout(PATIENCE, opening).await;
        let store = store
            .unwrap_or_else(|_| panic!("{name} does not come up"))
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        assert!(store.serving().await, "{name} stopped at once");
        let address = store.client_addresses()[0].to_string();
        let client = Client::connect(&address).await.unwrap();
        let status = client.maintenance().status(pb::StatusRequest {}).await;
        let header = status.unwrap().into_inner().header.unwrap();
        Member {
            id: header.member_id,
            config,
            store,
            client,
        }
    }

    fn admit(&mut self, name: String, member: Member) {
        self.leaders.add(&name, &member.store);
        self.members.insert(name, member);
    }

    pub(crate) fn stores(&self) -> Vec<Arc<EtcdStore>> {
        self.members
            .values()
            .map(|member| member.store.clone())
            .collect()
    }

    pub(crate) fn last_removed(&self) -> Option<Arc<EtcdStore>> {
        self.removed.clone()
    }

    fn any(&self, rng: &SimRng, except: Option<&str>) -> String {
        let names: Vec<&String> = self
            .members
            .keys()
            .filter(|name| Some(name.as_str()) != except)
            .collect();
        names[rng.below(names.len() as u64) as usize].clone()
    }

    /// Asks some member but this one until it says yes, or `done` says that it had done it before.
    async fn ask<T, F>(
        &self,
        rng: &SimRng,
        except: Option<&str>,
        done: impl Fn(&Status) -> Option<T>,
        question: impl Fn(Client) -> F,
    ) -> T
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let via = self.any(rng, except);
            let asked = question(self.members[&via].client.clone());
            let status = match tokio::time::timeout(Duration::from_secs(5), asked).await {
                Ok(Ok(answer)) => return answer.into_inner(),
                Ok(Err(status)) => match done(&status) {
                    Some(answer) => return answer,
                    None => status,
                },
                Err(_) => Status::deadline_exceeded("no answer"),
            };
            assert!(Instant::now() < deadline, "{via} never agrees: {status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn list(&self, rng: &SimRng) -> Vec<pb::Member> {
        let request = pb::MemberListRequest { linearizable: true };
        let never = |_: &Status| None;
        let listed = self.ask(rng, None, never, async |client| {
            client.cluster().member_list(request).await
        });
        listed.await.members
    }

    /// Adds a member by its address and starts it; the answer to adding may get lost.
    async fn add(&mut self, rng: &SimRng, learner: bool) -> String {
        let name = self.name();
        let url = self.bench.url(&name);
        let request = pb::MemberAddRequest {
            peer_ur_ls: vec![url.clone()],
            is_learner: learner,
        };
        let known = |status: &Status| {
            (status.message() == "etcdserver: Peer URLs already exists")
                .then(pb::MemberAddResponse::default)
        };
        self.ask(rng, None, known, async |client| {
            client.cluster().member_add(request.clone()).await
        })
        .await;
        let mut list: Vec<Founder> = Vec::new();
        for member in self.list(rng).await {
            list.push(Founder {
                name: if member.peer_ur_ls == [url.clone()] {
                    name.clone()
                } else {
                    member.name
                },
                peer_urls: member.peer_ur_ls,
            });
        }
        let start = Start::Existing { members: list };
        let member = self.start(&name, self.settings(&name, start)).await;
        self.admit(name.clone(), member);
        name
    }

    async fn remove(&mut self, rng: &SimRng, name: &str) {
        let request = pb::MemberRemoveRequest {
            id: self.members[name].id,
        };
        let gone = |status: &Status| {
            (status.message() == "etcdserver: member not found")
                .then(pb::MemberRemoveResponse::default)
        };
        self.ask(rng, Some(name), gone, async |client| {
            client.cluster().member_remove(request).await
        })
        .await;
        let member = self.members.remove(name).unwrap();
        let stopped = tokio::time::timeout(PATIENCE, member.store.stopped()).await;
        let reason = stopped.unwrap_or_else(|_| panic!("{name} was removed and goes on"));
        if let Some(reason) = reason {
            assert!(reason.contains(REMOVED), "{name}: {reason}");
        }
        member.store.shutdown().await;
        // It does not come back.
        let again = testing::open(member.config, &self.bench).await;
        let refused = again.map(drop).expect_err("a removed member starts");
        assert!(refused.to_string().contains(REMOVED), "{name}: {refused}");
        self.removed = Some(member.store);
    }

    fn leader(&self) -> Option<String> {
        self.members
            .iter()
            .find(|(_, member)| testing::leading_term(&member.store).is_some())
            .map(|(name, _)| name.clone())
    }

    pub(crate) async fn swap_for_a_voter(&mut self, rng: &SimRng) {
        let newcomer = self.add(rng, false).await;
        let leaving = self.any(rng, Some(&newcomer));
        self.remove(rng, &leaving).await;
    }

    pub(crate) async fn swap_for_a_learner(&mut self, rng: &SimRng) {
        let newcomer = self.add(rng, true).await;
        let request = pb::MemberPromoteRequest {
            id: self.members[&newcomer].id,
        };
        let voter = |status: &Status| {
            (status.message() == "etcdserver: can only promote a learner member")
                .then(pb::MemberPromoteResponse::default)
        };
        self.ask(rng, Some(&newcomer), voter, async |client| {
            client.cluster().member_promote(request).await
        })
        .await;
        let leaving = self.any(rng, Some(&newcomer));
        self.remove(rng, &leaving).await;
    }

    /// One dies; it is removed, and another takes its place.
    pub(crate) async fn replace_a_dead_one(&mut self, rng: &SimRng) {
        let name = self.any(rng, None);
        let victim = &self.members[&name];
        testing::abort(&victim.store).await;
        let request = pb::MemberRemoveRequest { id: victim.id };
        let gone = |status: &Status| {
            (status.message() == "etcdserver: member not found")
                .then(pb::MemberRemoveResponse::default)
        };
        self.ask(rng, Some(&name), gone, async |client| {
            client.cluster().member_remove(request).await
        })
        .await;
        let member = self.members.remove(&name).unwrap();
        // Back from the dead it learns that it is out.
        let again = testing::open(member.config.clone(), &self.bench).await;
        if let Ok(store) = again {
            let stopped = tokio::time::timeout(PATIENCE, store.stopped()).await;
            let reason = stopped.unwrap_or_else(|_| panic!("{name} was removed and goes on"));
            assert!(reason.unwrap().contains(REMOVED));
            store.shutdown().await;
            self.removed = Some(store);
        }
        self.add(rng, false).await;
    }

    pub(crate) async fn remove_the_leader(&mut self, rng: &SimRng) {
        let newcomer = self.add(rng, true).await;
        let leading = self
            .leader()
            .unwrap_or_else(|| self.any(rng, Some(&newcomer)));
        let request = pb::MemberPromoteRequest {
            id: self.members[&newcomer].id,
        };
        let voter = |status: &Status| {
            (status.message() == "etcdserver: can only promote a learner member")
                .then(pb::MemberPromoteResponse::default)
        };
        self.ask(rng, Some(&newcomer), voter, async |client| {
            client.cluster().member_promote(request).await
        })
        .await;
        self.remove(rng, &leading).await;
    }

    /// The leader hears nobody and is heard by nobody, until another one leads.
    pub(crate) async fn cut_the_leader_off(&mut self, rng: &SimRng) {
        let old = self.leader().unwrap_or_else(|| self.any(rng, None));
        let url = self.bench.url(&old);
        let others: Vec<String> = self
            .members
            .keys()
            .filter(|name| **name != old)
            .map(|name| self.bench.url(name))
            .collect();
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        self.bench.network.isolate(&url, &others);
        eventually("another leader", || async {
            self.leader().is_some_and(|leader| leader != old)
        })
        .await;
        tokio::time::sleep(Duration::from_millis(rng.below(200))).await;
        self.bench.network.heal();
    }

    /// Every member can write again.
    pub(crate) async fn settled(&self) {
        for (name, member) in &self.members {
            eventually(&format!("{name} is writable"), || async {
                let status = member.store.status().await;
                status.is_ok_and(|status| status.writable)
            })
            .await;
        }
        let violation = self.leaders.violation.lock().unwrap().clone();
        assert_eq!(violation, None);
    }

    /// How many members the cluster itself knows, all of them voters.
    pub(crate) async fn members(&self) -> usize {
        let listed = self.list(&SimRng::new(1)).await;
        assert!(listed.iter().all(|member| !member.is_learner));
        assert_eq!(listed.len(), self.members.len());
        listed.len()
    }

    /// Ends all; the number of terms that had a leader.
    pub(crate) async fn shutdown(self) -> usize {
        let all = self.members.values().map(|member| member.store.shutdown());
        futures_util::future::join_all(all).await;
        self.watching.abort();
        let violation = self.leaders.violation.lock().unwrap().clone();
        assert_eq!(violation, None);
        self.leaders.by_term.lock().unwrap().len()
    }
}
