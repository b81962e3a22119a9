//! Servers to test with: a replicated store that is only pretended, clocks, comparisons of
//! directories.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tempfile::TempDir;
use trivet_core::{ControlPlane, ControlPlaneBuilder, Running, StorePorts};
use trivet_datastore::{
    Backend, BackendConfig, Cluster, ClusterStart, ClusterStatus, Datastore, DeleteRequest,
    ExportStream, Footprint, Lease, LeaseId, Member, MemberId, MemberRole, MemoryStore, PutRequest,
    RangePage, RangeRequest, ReadOnlyDir, Result, Revision, StoreStatus, WatchRequest, WatchStream,
    WriteOutcome,
};
use trivet_env::{Clock, Env};
use trivet_pki::Secret;

/// One pretended cluster: all members share a store in memory. Keeps a file in the data
/// directory, so that a restart is a resume.
#[derive(Clone, Default)]
pub(crate) struct Pretended(Arc<Inner>);

struct Inner {
    store: MemoryStore,
    members: Mutex<Vec<Member>>,
    writable: Mutex<bool>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            store: MemoryStore::new(),
            members: Mutex::default(),
            writable: Mutex::new(true),
        }
    }
}

impl Pretended {
    pub(crate) fn set_writable(&self, writable: bool) {
        *self.0.writable.lock().unwrap() = writable;
    }

    pub(crate) fn member_names(&self) -> Vec<String> {
        self.0
            .members
            .lock()
            .unwrap()
            .iter()
            .map(|member| member.name.clone())
            .collect()
    }
}

#[async_trait]
impl Backend for Pretended {
    fn name(&self) -> &str {
        "pretended"
    }

    fn replicated(&self) -> bool {
        true
    }

    fn probe(&self, dir: &dyn ReadOnlyDir) -> io::Result<Vec<Footprint>> {
        Ok(match dir.file_size_bytes("pretended/data")? {
            None => Vec::new(),
            Some(_) => vec![Footprint {
                backend: "pretended".to_owned(),
                path: PathBuf::from("pretended"),
                description: "a pretended store".to_owned(),
            }],
        })
    }

    async fn open(&self, config: BackendConfig) -> Result<Arc<dyn Datastore>> {
        let cluster = config.cluster.unwrap();
        // What a real store would do with these files.
        for tls in [&cluster.peer_tls, &cluster.client_tls] {
            trivet_pki::Identity::load(&tls.cert, &tls.key).unwrap();
            trivet_pki::load_pem(&tls.ca).unwrap();
        }
        let mut members = self.0.members.lock().unwrap();
        let known = members
            .iter()
            .position(|member| member.name == cluster.member_name);
        let index = match (&cluster.start, known) {
            (_, Some(index)) => index,
            (ClusterStart::Resume, None) => panic!("a member that is unknown cannot resume"),
            (ClusterStart::Join { peer_urls }, None) => {
                assert!(!peer_urls.is_empty());
                members.len()
            }
            (ClusterStart::Found, None) => {
                assert!(members.is_empty(), "a second cluster was founded");
                0
            }
        };
        if known.is_none() {
            members.push(Member {
                id: MemberId(index as u64 + 1),
                name: cluster.member_name.clone(),
                peer_urls: vec![cluster.peer_url.clone()],
                client_urls: vec![cluster.client_url.clone()],
                role: MemberRole::Voter,
                matched_index: None,
                last_contact: Some(Duration::ZERO),
            });
        }
        let dir = config.db_dir.join("pretended");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("data"), "data").unwrap();
        Ok(Arc::new(Store {
            world: self.clone(),
            local: MemberId(index as u64 + 1),
        }))
    }
}

struct Store {
    world: Pretended,
    local: MemberId,
}

impl Store {
    fn inner(&self) -> &MemoryStore {
        &self.world.0.store
    }
}

#[async_trait]
impl Datastore for Store {
    async fn range(&self, request: RangeRequest) -> Result<RangePage> {
        self.inner().range(request).await
    }
    async fn put(&self, request: PutRequest) -> Result<WriteOutcome> {
        self.inner().put(request).await
    }
    async fn delete(&self, request: DeleteRequest) -> Result<WriteOutcome> {
        self.inner().delete(request).await
    }
    async fn watch(&self, request: WatchRequest) -> Result<WatchStream> {
        self.inner().watch(request).await
    }
    async fn grant_lease(&self, ttl: Duration) -> Result<Lease> {
        self.inner().grant_lease(ttl).await
    }
    async fn keep_lease_alive(&self, id: LeaseId) -> Result<Lease> {
        self.inner().keep_lease_alive(id).await
    }
    async fn revoke_lease(&self, id: LeaseId) -> Result<()> {
        self.inner().revoke_lease(id).await
    }
    async fn compact(&self, revision: Revision) -> Result<()> {
        self.inner().compact(revision).await
    }
    async fn status(&self) -> Result<StoreStatus> {
        let status = self.inner().status().await?;
        Ok(StoreStatus {
            writable: *self.world.0.writable.lock().unwrap(),
            ..status
        })
    }
    async fn export(&self) -> Result<ExportStream> {
        self.inner().export().await
    }
    fn cluster(&self) -> Option<Arc<dyn Cluster>> {
        Some(Arc::new(View {
            world: self.world.clone(),
            local: self.local,
        }))
    }
    /// The other members go on.
    async fn shutdown(&self) {}
}

struct View {
    world: Pretended,
    local: MemberId,
}

#[async_trait]
impl Cluster for View {
    async fn status(&self) -> Result<ClusterStatus> {
        let leader = self.world.0.writable.lock().unwrap().then_some(MemberId(1));
        Ok(ClusterStatus {
            cluster_id: 1,
            local: self.local,
            leader,
            term: 1,
            last_index: 1,
            committed_index: 1,
            applied_index: 1,
            members: self.world.0.members.lock().unwrap().clone(),
        })
    }
    async fn remove_member(&self, id: MemberId) -> Result<()> {
        self.world
            .0
            .members
            .lock()
            .unwrap()
            .retain(|member| member.id != id);
        Ok(())
    }
    async fn transfer_leadership(&self, _: Option<MemberId>) -> Result<()> {
        Ok(())
    }
}

/// A machine: a directory that outlives its servers.
pub(crate) struct Machine {
    pub(crate) dir: TempDir,
    pub(crate) name: &'static str,
}

impl Machine {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            name,
        }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Settings of a server of this machine.
    pub(crate) fn server(&self, backend: &Pretended) -> ControlPlaneBuilder {
        ControlPlane::builder()
            .data_dir(self.data())
            .backend(Arc::new(backend.clone()))
            .node_name(self.name)
            .bind([127, 0, 0, 1].into(), 0)
            .store_ports(StorePorts {
                client: 0,
                peer: 0,
                metrics: None,
            })
            .write_kubeconfig(self.dir.path().join("k3s.yaml"), 0o640)
            .founding_watch(Duration::from_millis(20))
            .join_timeout(Duration::from_millis(50))
    }

    /// Every file below the machine's directory with its content.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        walk(self.dir.path(), &mut found);
        found
    }
}

fn walk(dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.insert(path.clone(), Vec::new());
            walk(&path, found);
        } else {
            let content = std::fs::read(&path).unwrap();
            found.insert(path, content);
        }
    }
}

pub(crate) async fn start(builder: ControlPlaneBuilder) -> Running {
    let running = builder.build().unwrap().start().await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), running.ready())
        .await
        .expect("the API gets ready");
    running
}

pub(crate) fn secret(text: &str) -> Secret {
    Secret::new(text)
}

/// The real world with another clock.
pub(crate) fn env_at(wall: SystemTime) -> Env {
    struct Shifted(SystemTime);
    impl Clock for Shifted {
        fn wall(&self) -> SystemTime {
            self.0
        }
        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
    }
    Env {
        clock: Arc::new(Shifted(wall)),
        ..Env::real()
    }
}
