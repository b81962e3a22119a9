//! Opening a member: its directory, its node, its listeners.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use trivet_datastore::{Effect, Error, Result};
use trivet_env::{Disk, DiskLock};
use trivet_raft_node::{self as raft, Peer, PeerSecurity, StartMode};

use crate::auth::Proofs;
use crate::backend::NAME;
use crate::bring_up::{self, Started};
use crate::checks;
use crate::config::{ClientListener, Manner, Serves, StoreConfig};
use crate::engine::{Engine, MemberRules, Parts};
use crate::format::{self, Format};
use crate::founding::{self, Start};
use crate::heal;
use crate::http::Plain;
use crate::lease::{expire, note_time_left};
use crate::limits::Timing;
use crate::members_file;
use crate::metrics::Metrics;
use crate::quota;
use crate::service::{Front, Gate, Listener};
use crate::store::EtcdStore;
use crate::testing::Bench;

/// Where log and state lie below the store's directory.
pub(crate) const RAFT_DIR: &str = "raft";
pub(crate) const STATE_DIR: &str = "state";

/// Locked as long as a member uses the directory. Its content means nothing.
const LOCK_FILE: &str = "LOCK";

/// How often a member tries to tell the cluster its own name and addresses.
const PUBLISH_PAUSE: Duration = Duration::from_millis(500);

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
    let bounds = config.bounds()?;
    let listeners = bind(&config).await?;
    let timing = Timing::new(config.election_timeout, config.watch_progress);
    let (format, start, lock) = claim(&config, bench).await?;
    let metrics = Metrics::new();
    let proofs = Proofs::open(&config.auth)?;
    let Started {
        node,
        shared,
        keeper,
        local,
        format,
    } = bring_up::start(&config, bench, (timing, &metrics), format, start).await?;
    shared.tokens().set_ttl(config.auth.token_ttl);
    node.keep(lock);
    keeper.attach(&node);

    let engine = Engine::new(Parts {
        env: config.env.clone(),
        node,
        shared,
        timing,
        rules: MemberRules {
            strict: config.strict_reconfig,
            plaintext_urls: config
                .peers
                .as_ref()
                .is_some_and(|peers| !matches!(peers.security, PeerSecurity::Mutual { .. })),
        },
        bounds,
        metrics,
        proofs,
    });
    let ready = Format {
        ready: true,
        cluster_id: engine.cluster_id,
        replaces: None,
        ..format.clone()
    };
    if ready != format {
        ready
            .store(&*config.env.disk, &config.dir)
            .map_err(|error| io(&error))?;
    }
    if let Some(every) = config.lease_checkpoint {
        engine
            .tasks
            .spawn(note_time_left(engine.clone(), keeper.clone(), every));
    }
    engine.tasks.spawn(expire(engine.clone(), keeper));
    engine
        .tasks
        .spawn(quota::guard(engine.clone(), config.alarm_clears_itself));
    if let Some(compaction) = config.auto_compaction {
        engine.tasks.spawn(compaction.run(engine.clone()));
    }
    engine.tasks.spawn(follow_node(engine.clone()));
    engine
        .tasks
        .spawn(members_file::follow(engine.clone(), config.dir.clone()));
    engine.tasks.spawn(heal::follow(engine.clone()));
    if config.checks.initial
        && let Err(error) = checks::initial(&engine).await
    {
        engine.shutdown().await;
        return Err(error);
    }
    engine
        .tasks
        .spawn(checks::follow(engine.clone(), config.checks));
    engine
        .tasks
        .spawn(checks::scrub(engine.clone(), config.checks));
    let addresses = listeners.addresses().map_err(|error| io(&error))?;
    serve_metrics(&engine, listeners.metrics);
    let serving = watch::Sender::new(false);
    let told = serving.subscribe();
    match config.manner {
        Manner::Embedded => {
            serve_clients(&engine, listeners.clients);
            serving.send_replace(true);
            engine
                .tasks
                .spawn(publish(engine.clone(), local, config.manner));
        }
        Manner::Standalone => {
            let (stage, clients) = (engine.clone(), listeners.clients);
            engine.tasks.spawn(async move {
                publish(stage.clone(), local, Manner::Standalone).await;
                if !stage.is_stopping() {
                    serve_clients(&stage, clients);
                    serving.send_replace(true);
                }
            });
        }
    }
    Ok(Arc::new(EtcdStore::new(engine, addresses, told)))
}

/// Locks the directory, reads or makes its `FORMAT`, and decides how the node starts.
async fn claim(
    config: &StoreConfig,
    bench: Option<&Bench>,
) -> Result<(Format, StartMode, DiskLock)> {
    let disk = &*config.env.disk;
    let nothing = || {
        Err(Error::Invalid(format!(
            "there is no store in {}: nothing to resume from. Found a new cluster or join an existing one",
            config.dir.display()
        )))
    };
    if !disk.exists(&config.dir).map_err(|error| io(&error))? {
        if config.start == Start::Resume {
            return nothing();
        }
        disk.create_dir_all(&config.dir)
            .map_err(|error| io(&error))?;
    }
    let lock = lock(disk, &config.dir)?;
    match heal::load_format(config).await? {
        Some(format) if format.backend != NAME => Err(Error::Invalid(format!(
            "{} belongs to the {} backend",
            config.dir.display(),
            format.backend
        ))),
        Some(format)
            if format.imported_from.is_some() && matches!(config.start, Start::Join { .. }) =>
        {
            Err(Error::Invalid(format!(
                "{} was imported and is a cluster of its own: it cannot join another one. Start it as the first server, or move it away",
                config.dir.display()
            )))
        }
        // A member that once was ready has data; if its log is gone, that is damage.
        Some(format) if format.ready => {
            let mode = if config.force_new_cluster {
                StartMode::StandAlone
            } else {
                StartMode::Resume
            };
            Ok((format, mode, lock))
        }
        // Its predecessor is gone: there is only one way on, and the members know it.
        Some(format) if format.replaces.is_some() => Ok((format, StartMode::Resume, lock)),
        Some(format) => {
            let begun = begin(config, bench, Some(&format)).await?;
            if begun.member_id.is_some_and(|id| id != format.member_id) {
                return Err(Error::Invalid(format!(
                    "{} was made for member {:x}, which never finished its first start: start it the same way again, or remove the directory",
                    config.dir.display(),
                    format.member_id
                )));
            }
            sync_ancestors(disk, &config.dir).map_err(|error| io(&error))?;
            Ok((format, begun.mode, lock))
        }
        None if config.start == Start::Resume => nothing(),
        None => {
            let random = || config.env.rng.next_u64().max(1);
            let begun = begin(config, bench, None).await?;
            let wanted = begun.mode;
            let format = Format {
                backend: NAME.to_owned(),
                cluster_id: begun.cluster_id.unwrap_or_else(random),
                member_id: begun.member_id.unwrap_or_else(random),
                ready: false,
                imported_from: None,
                replaces: None,
            };
            sync_ancestors(disk, &config.dir).map_err(|error| io(&error))?;
            format
                .store(disk, &config.dir)
                .map_err(|error| io(&error))?;
            Ok((format, wanted, lock))
        }
    }
}

/// How a member without data starts, and under which identities where those are not its own
/// choice.
struct Begun {
    mode: StartMode,
    member_id: Option<u64>,
    cluster_id: Option<u64>,
}

async fn begin(
    config: &StoreConfig,
    bench: Option<&Bench>,
    recorded: Option<&Format>,
) -> Result<Begun> {
    let by_chance = |mode| Begun {
        mode,
        member_id: None,
        cluster_id: None,
    };
    let ask = async |urls: Vec<String>| match (bench, &config.peers) {
        (Some(bench), _) => {
            let here = bench.url(&config.member_name);
            raft::testing::ask_members(&bench.network, &here, &urls, founding::QUESTION).await
        }
        (None, Some(peers)) => raft::ask_members(&peers.security, &urls, founding::QUESTION).await,
        (None, None) => Vec::new(),
    };
    Ok(match &config.start {
        Start::Found => by_chance(StartMode::Found),
        Start::Join { peer_urls } => Begun {
            cluster_id: Some(0),
            ..by_chance(StartMode::Join {
                peer_urls: peer_urls.clone(),
            })
        },
        Start::Resume => by_chance(StartMode::Resume),
        Start::Static { members, token } => {
            let identities = founding::identities(members, token)?;
            let own = founding::own(members, &config.member_name)?.joined_urls();
            let local = identities.founders.iter().find(|peer| peer.peer_url == own);
            let local = local.map_or(0, |peer| peer.id);
            if recorded.is_none() {
                let urls = founding::others(members, &config.member_name);
                let answers = ask(urls.clone()).await;
                founding::may_found(&identities, local, &urls, &answers)?;
            }
            Begun {
                member_id: Some(local),
                cluster_id: Some(identities.cluster_id),
                mode: StartMode::Static {
                    members: identities.founders,
                },
            }
        }
        Start::Existing { members } => {
            let recorded = recorded.map(|format| format.member_id);
            let place = founding::find_place(members, &config.member_name, recorded, ask).await?;
            Begun {
                member_id: Some(place.member_id),
                cluster_id: Some(place.cluster_id),
                mode: StartMode::Added,
            }
        }
    })
}

pub(crate) fn lock(disk: &dyn Disk, dir: &Path) -> Result<DiskLock> {
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
pub(crate) fn release(config: &StoreConfig) {
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

/// Addresses that are bound, so that nobody else gets them, and not served yet.
struct Listeners {
    clients: Vec<(Listener, Serves)>,
    metrics: Vec<Listener>,
}

impl Listeners {
    fn addresses(&self) -> std::io::Result<Vec<SocketAddr>> {
        let bound = self
            .clients
            .iter()
            .map(|(listener, _)| listener.local_addr());
        bound.collect()
    }
}

async fn bind(config: &StoreConfig) -> Result<Listeners> {
    let open = async |client: &ClientListener| {
        Listener::bind(
            client.address,
            client.tls.clone(),
            config.plaintext_anywhere,
        )
        .await
        .map_err(|error| io(&error))
    };
    let mut clients = Vec::new();
    for client in &config.clients {
        clients.push((open(client).await?, client.serves));
    }
    let mut metrics = Vec::new();
    for listener in &config.metrics_listen {
        metrics.push(open(listener).await?);
    }
    Ok(Listeners { clients, metrics })
}

fn serve_clients(engine: &Arc<Engine>, listeners: Vec<(Listener, Serves)>) {
    let front = Front::new(engine.clone());
    for (listener, serves) in listeners {
        if let Ok(address) = listener.local_addr() {
            tracing::info!(%address, ?serves, "serving etcd clients");
        }
        engine.tasks.spawn(listener.serve(
            Gate::new(front.clone(), serves),
            engine.stop.clone(),
            engine.tasks.clone(),
        ));
    }
}

fn serve_metrics(engine: &Arc<Engine>, listeners: Vec<Listener>) {
    for listener in listeners {
        let plain = Plain(engine.clone());
        engine
            .tasks
            .spawn(listener.serve(plain, engine.stop.clone(), engine.tasks.clone()));
    }
}

/// Sees to it that the cluster knows this member by its present name and addresses.
async fn publish(engine: Arc<Engine>, mut local: Peer, manner: Manner) {
    loop {
        let status = engine.node.status();
        let own = status.peers.iter().find(|peer| peer.peer.id == local.id);
        if manner == Manner::Standalone
            && let Some(own) = own
        {
            // Those in the settings were for the first start.
            local.peer_url.clone_from(&own.peer.peer_url);
        }
        if own.is_some_and(|own| own.peer == local) {
            if manner == Manner::Standalone {
                // Known here is not known to a quorum: that is what clients are to wait for.
                wait_for_quorum(&engine).await;
            }
            return;
        }
        let told = tokio::select! {
            () = engine.stop.cancelled() => return,
            told = engine.node.update_peer(local.clone()) => told,
        };
        match told {
            // A quorum has it; this member learns of it in a moment.
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

/// Waits until a quorum answers, however long that takes.
async fn wait_for_quorum(engine: &Engine) {
    loop {
        let read = tokio::select! {
            () = engine.stop.cancelled() => return,
            read = engine.node.read_index() => read,
        };
        match read {
            Ok(()) | Err(raft::Error::Stopped | raft::Error::Storage(_)) => return,
            Err(error) => tracing::info!(%error, "waiting for a quorum of the members"),
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

pub(crate) fn io(error: &std::io::Error) -> Error {
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
