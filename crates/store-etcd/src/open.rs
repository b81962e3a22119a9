//! Opening a member: its directory, its node, its listeners.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use trivet_datastore::{ClusterStart, Effect, Error, Result};
use trivet_env::{Disk, DiskLock, Env};
use trivet_raft_node::{self as raft, NodeConfig, Peer, RaftNode, StartMode};

use crate::backend::NAME;
use crate::engine::{Engine, Parts};
use crate::failure::Failure;
use crate::format::{self, Format};
use crate::http::Plain;
use crate::lease::{LeaseKeeper, expire};
use crate::limits::Timing;
use crate::service::{Front, Listener};
use crate::state::{self, StateConfig};
use crate::store::EtcdStore;
use crate::testing::Bench;
use crate::tls;

/// Where log and state lie below the store's directory.
pub(crate) const RAFT_DIR: &str = "raft";
const STATE_DIR: &str = "state";

/// Locked as long as a member uses the directory. Its content means nothing.
const LOCK_FILE: &str = "LOCK";

/// How often a member tries to tell the cluster its own name and addresses.
const PUBLISH_PAUSE: Duration = Duration::from_millis(500);

/// Everything a member needs to know. Prepared TLS settings instead of files: see
/// [`EtcdBackend`](crate::EtcdBackend) for those.
#[derive(Clone)]
pub struct StoreConfig {
    /// The world.
    pub env: Env,
    /// The store's own directory; created when missing.
    pub dir: PathBuf,
    /// Name of the member, for people.
    pub member_name: String,
    /// How peers are reached; `None` for a store that is to stay alone.
    pub peers: Option<PeerSettings>,
    /// Where etcd clients are served; may be empty.
    pub clients: Vec<ClientListener>,
    /// Where clients reach this member, as told to others; may be empty.
    pub client_url: String,
    /// Plain HTTP for health and metrics; must be a loopback address.
    pub metrics_listen: Option<SocketAddr>,
    /// Interval between heartbeats of a leader.
    pub heartbeat: Duration,
    /// A follower that hears nothing for this long (up to twice as long) stands for election.
    pub election_timeout: Duration,
    /// Interval of progress notifications on watches that ask for them.
    pub watch_progress: Duration,
    /// What to do when there is no data yet.
    pub start: ClusterStart,
}

/// How peers reach this member, and it them.
#[derive(Clone)]
pub struct PeerSettings {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// `https://host:port` for the others.
    pub url: String,
    /// Requires and verifies the certificates of peers.
    pub server_tls: Arc<rustls::ServerConfig>,
    /// Shows a certificate to peers.
    pub client_tls: Arc<rustls::ClientConfig>,
}

/// An address that etcd clients connect to.
#[derive(Clone)]
pub struct ClientListener {
    /// Where; port 0 takes a free one.
    pub address: SocketAddr,
    /// TLS; `None` is allowed on loopback addresses only.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

impl StoreConfig {
    /// A store in this process only: one member, nothing listening, founded when `dir` is
    /// empty.
    pub fn single(env: Env, dir: PathBuf) -> Self {
        Self {
            env,
            dir,
            member_name: "single".to_owned(),
            peers: None,
            clients: Vec::new(),
            client_url: String::new(),
            metrics_listen: None,
            heartbeat: Duration::from_millis(100),
            election_timeout: Duration::from_secs(1),
            watch_progress: crate::DEFAULT_WATCH_PROGRESS,
            start: ClusterStart::Found,
        }
    }
}

/// Opens a store: founds, joins or resumes, as [`StoreConfig::start`] says, and serves.
///
/// Errors: `Invalid` when the settings or the directory's data do not allow it, or another
/// member uses the directory (nothing was started then), `Corrupt` for damaged data, `Unavailable` when an address is taken or no peer
/// answers.
pub async fn open(config: StoreConfig) -> Result<Arc<EtcdStore>> {
    // The future is large; callers should not have to carry it.
    Box::pin(open_on(config, None)).await
}

/// [`open`], on the simulated network of a test bench if there is one.
pub(crate) async fn open_on(config: StoreConfig, bench: Option<&Bench>) -> Result<Arc<EtcdStore>> {
    let listeners = bind(&config).await?;
    let timing = Timing::new(config.election_timeout, config.watch_progress);
    let (format, start, lock) = claim(&config)?;
    let joining = matches!(start, StartMode::Join { .. });

    let mut state = StateConfig::new(config.env.clone(), config.dir.join(STATE_DIR));
    if let Some(bench) = bench {
        state.limits = bench.limits;
    }
    let (machine, shared) = state::open(state)
        .map_err(|error| Error::Corrupt(format!("the replicated state: {error}")))?;
    let keeper = LeaseKeeper::new(config.env.clone(), shared.clone(), timing);
    let mut local = Peer {
        id: format.member_id,
        name: config.member_name.clone(),
        peer_url: String::new(),
        client_url: config.client_url.clone(),
    };
    let node = match bench {
        Some(bench) => {
            local.peer_url = bench.url(&config.member_name);
            let parts = raft::testing::Parts {
                env: config.env.clone(),
                dir: config.dir.join(RAFT_DIR),
                local: local.clone(),
                cluster_id: format.cluster_id,
                heartbeat: config.heartbeat,
                election_timeout: config.election_timeout,
                start,
                retention: bench.retention,
            };
            let machine = Box::new(machine);
            raft::testing::start(parts, machine, keeper.clone(), &bench.network).await
        }
        None => {
            let peers = match &config.peers {
                Some(peers) => peers.clone(),
                None => tls::alone(config.env.clock.wall())?,
            };
            local.peer_url = peers.url;
            let node = NodeConfig {
                env: config.env.clone(),
                dir: config.dir.join(RAFT_DIR),
                local: local.clone(),
                cluster_id: format.cluster_id,
                listen: peers.listen,
                server_tls: peers.server_tls,
                client_tls: peers.client_tls,
                heartbeat: config.heartbeat,
                election_timeout: config.election_timeout,
                start,
            };
            RaftNode::start(node, Box::new(machine), keeper.clone()).await
        }
    };
    let node = match node {
        Ok(node) => node,
        Err(error) => {
            if joining {
                release(&config);
            }
            return Err(Failure::Raft(error).into());
        }
    };
    node.keep(lock);
    keeper.attach(&node);

    let engine = Engine::new(Parts {
        env: config.env.clone(),
        node,
        shared,
        timing,
    });
    let ready = Format {
        ready: true,
        cluster_id: engine.cluster_id,
        ..format.clone()
    };
    if ready != format {
        ready
            .store(&*config.env.disk, &config.dir)
            .map_err(|error| io(&error))?;
    }
    let addresses = serve(&engine, listeners)?;
    engine.tasks.spawn(expire(engine.clone(), keeper));
    engine.tasks.spawn(publish(engine.clone(), local));
    engine.tasks.spawn(follow_node(engine.clone()));
    Ok(Arc::new(EtcdStore::new(engine, addresses)))
}

/// Locks the directory, reads or makes its `FORMAT`, and decides how the node starts.
fn claim(config: &StoreConfig) -> Result<(Format, StartMode, DiskLock)> {
    let disk = &*config.env.disk;
    let wanted = match &config.start {
        ClusterStart::Found => StartMode::Found,
        ClusterStart::Join { peer_urls } => StartMode::Join {
            peer_urls: peer_urls.clone(),
        },
        ClusterStart::Resume => StartMode::Resume,
    };
    let nothing = || {
        Err(Error::Invalid(format!(
            "there is no store in {}: nothing to resume from. Found a new cluster or join an existing one",
            config.dir.display()
        )))
    };
    if !disk.exists(&config.dir).map_err(|error| io(&error))? {
        if wanted == StartMode::Resume {
            return nothing();
        }
        disk.create_dir_all(&config.dir)
            .map_err(|error| io(&error))?;
    }
    let lock = lock(disk, &config.dir)?;
    match Format::load(disk, &config.dir).map_err(|error| io(&error))? {
        Some(format) if format.backend != NAME => Err(Error::Invalid(format!(
            "{} belongs to the {} backend",
            config.dir.display(),
            format.backend
        ))),
        // A member that once was ready has data; if its log is gone, that is damage.
        Some(format) if format.ready => Ok((format, StartMode::Resume, lock)),
        Some(format) => {
            sync_ancestors(disk, &config.dir).map_err(|error| io(&error))?;
            Ok((format, wanted, lock))
        }
        None if wanted == StartMode::Resume => nothing(),
        None => {
            let random = || config.env.rng.next_u64().max(1);
            let joining = matches!(wanted, StartMode::Join { .. });
            let format = Format {
                backend: NAME.to_owned(),
                cluster_id: if joining { 0 } else { random() },
                member_id: random(),
                ready: false,
                imported_from: None,
            };
            sync_ancestors(disk, &config.dir).map_err(|error| io(&error))?;
            format
                .store(disk, &config.dir)
                .map_err(|error| io(&error))?;
            Ok((format, wanted, lock))
        }
    }
}

fn lock(disk: &dyn Disk, dir: &Path) -> Result<DiskLock> {
    let path = dir.join(LOCK_FILE);
    disk.lock(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => Error::Invalid(format!(
            "the store in {} is in use by another process (which holds a lock on {LOCK_FILE} there): stop it first, or give this one a data directory of its own",
            dir.display()
        )),
        _ => io(&std::io::Error::new(
            error.kind(),
            format!("cannot lock {}: {error}", path.display()),
        )),
    })
}

/// Makes a new directory durable, wherever on the way to it a directory was created, be it by
/// this process or by one that died before it got here.
fn sync_ancestors(disk: &dyn Disk, dir: &Path) -> std::io::Result<()> {
    let ancestors = dir
        .ancestors()
        .skip(1)
        .filter(|path| !path.as_os_str().is_empty());
    for (distance, ancestor) in ancestors.enumerate() {
        match disk.sync_dir(ancestor) {
            Ok(()) => {}
            // Not everything above is ours to open.
            Err(error) if distance > 0 => {
                tracing::debug!(%error, dir = %ancestor.display(), "not synced");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Takes back what [`claim`] wrote, if the cluster refused this member before the node wrote
/// anything: then nobody's data lies here. What stays are directories and an empty state.
fn release(config: &StoreConfig) {
    let disk = &*config.env.disk;
    let clean = || -> std::io::Result<()> {
        if disk.exists(&config.dir.join(RAFT_DIR))? {
            return Ok(());
        }
        disk.remove_file(&config.dir.join(format::FILE))?;
        disk.sync_dir(&config.dir)
    };
    // What stays is a member that has not started yet; the next attempt takes it up.
    if let Err(error) = clean() {
        tracing::debug!(%error, "cleaning up after a refused join failed");
    }
}

struct Listeners {
    clients: Vec<Listener>,
    metrics: Option<Listener>,
}

async fn bind(config: &StoreConfig) -> Result<Listeners> {
    let mut clients = Vec::new();
    for client in &config.clients {
        clients.push(
            Listener::bind(client.address, client.tls.clone())
                .await
                .map_err(|error| io(&error))?,
        );
    }
    let metrics = match config.metrics_listen {
        Some(address) => Some(
            Listener::bind(address, None)
                .await
                .map_err(|error| io(&error))?,
        ),
        None => None,
    };
    Ok(Listeners { clients, metrics })
}

fn serve(engine: &Arc<Engine>, listeners: Listeners) -> Result<Vec<SocketAddr>> {
    let mut addresses = Vec::new();
    let front = Front::new(engine.clone());
    for listener in listeners.clients {
        let address = listener.local_addr().map_err(|error| io(&error))?;
        tracing::info!(%address, "serving etcd clients");
        addresses.push(address);
        engine.tasks.spawn(listener.serve(
            front.clone(),
            engine.stop.clone(),
            engine.tasks.clone(),
        ));
    }
    if let Some(listener) = listeners.metrics {
        let plain = Plain(engine.clone());
        engine
            .tasks
            .spawn(listener.serve(plain, engine.stop.clone(), engine.tasks.clone()));
    }
    Ok(addresses)
}

/// Sees to it that the cluster knows this member by its present name and addresses.
async fn publish(engine: Arc<Engine>, local: Peer) {
    let known = || {
        engine
            .node
            .status()
            .peers
            .iter()
            .any(|peer| peer.peer == local)
    };
    while !known() {
        let told = tokio::select! {
            () = engine.stop.cancelled() => return,
            told = engine.node.update_peer(local.clone()) => told,
        };
        match told {
            Ok(()) => return,
            Err(
                error @ (raft::Error::Refused(_) | raft::Error::Stopped | raft::Error::Storage(_)),
            ) => {
                tracing::warn!(%error, "the cluster does not take this member's name and addresses");
                return;
            }
            Err(error) => {
                tracing::debug!(%error, "telling the cluster this member's addresses failed for now");
            }
        }
        tokio::select! {
            () = engine.stop.cancelled() => return,
            () = tokio::time::sleep(PUBLISH_PAUSE) => {}
        }
    }
}

/// Ends everything when the node ends by itself.
async fn follow_node(engine: Arc<Engine>) {
    let reason = tokio::select! {
        () = engine.stop.cancelled() => return,
        reason = engine.node.stopped() => reason,
    };
    if let Some(reason) = reason {
        tracing::error!(reason, "the store has stopped");
    }
    engine.stop.cancel();
}

fn io(error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::InvalidData => Error::Corrupt(error.to_string()),
        std::io::ErrorKind::InvalidInput => Error::Invalid(error.to_string()),
        _ => Error::Unavailable {
            reason: error.to_string(),
            retry_after: None,
            effect: Effect::None,
        },
    }
}
