//! Bringing a node up, and taking it down.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use tokio::sync::{Mutex, Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trivet_env::{Disk, Env};
use trivet_wal::{Wal, WalOptions};

use crate::api::{
    Error, LeaderQuery, LogFacts, LogPosition, Peer, REMOVED, Result, StartMode, StateMachine,
};
use crate::batch::{Batcher, Patience};
use crate::bring_up::bring_up;
use crate::consensus::fetch::Fetcher;
use crate::consensus::log::LogStore;
use crate::consensus::machine::{MachineAdapter, MachineThread};
use crate::consensus::network::{Network, NetworkContext};
use crate::consensus::snapshot::Spool;
use crate::consensus::{Raft, TypeConfig};
use crate::failure::Failure;
use crate::node::{Leadership, RaftNode, storage};
use crate::peers::{PeerTransport, proto};
use crate::propose::{FORWARDS_IN_FLIGHT, PROPOSALS_IN_FLIGHT, READERS_MAX, sink};
use crate::shared::Shared;
use crate::tasks::{self, Retention};
use crate::{alone, contact, join};

/// How long the state machine may take for a last checkpoint.
pub(crate) const CHECKPOINT_ON_STOP: Duration = Duration::from_secs(10);

/// Where the log lies below the node's directory.
pub(crate) const LOG_DIR: &str = "log";

/// Everything a node is made of, except state machine and network: [`crate::NodeConfig`] without
/// TLS and addresses.
#[derive(Clone)]
pub struct Parts {
    /// The world.
    pub env: Env,
    /// Directory of the log.
    pub dir: PathBuf,
    /// This member.
    pub local: Peer,
    /// Identity of the cluster on [`StartMode::Found`].
    pub cluster_id: u64,
    /// Interval between heartbeats.
    pub heartbeat: Duration,
    /// Minimum election timeout.
    pub election_timeout: Duration,
    /// What to do when there is no data.
    pub start: StartMode,
    /// When the log is purged.
    pub retention: Retention,
    /// Whether members may have `http://` addresses.
    pub plaintext_urls: bool,
}

pub(crate) async fn start(
    parts: Parts,
    machine: Box<dyn StateMachine>,
    query: Arc<dyn LeaderQuery>,
    transport: Arc<dyn PeerTransport>,
) -> Result<Arc<RaftNode>> {
    if parts.local.id == 0 {
        return Err(Error::Refused(
            "a member needs an identity other than 0".into(),
        ));
    }
    let config = library_config(&parts)?;
    // A newcomer asks before it writes anything.
    let found = match &parts.start {
        StartMode::Join { peer_urls } if !has_log(&parts).await? => {
            join::probe(transport.as_ref(), &parts.local, peer_urls).await?
        }
        // Opening would make a new one.
        StartMode::Resume
            if machine.applied() != LogPosition::default() && !has_log(&parts).await? =>
        {
            return Err(log_is_missing(&parts));
        }
        _ => parts.cluster_id,
    };
    let stop = CancellationToken::new();
    let failure = Arc::new(Failure::new(stop.clone()));
    let log = open_log(&parts, failure.clone()).await?;
    let identity = match identify(&parts, &log, found, machine.applied()).await {
        Ok(identity) => identity,
        Err(error) => {
            close(log).await;
            return Err(error);
        }
    };
    if parts.start == StartMode::StandAlone
        && let Err(error) = alone::rewrite(&log, machine.applied(), &parts.local).await
    {
        close(log).await;
        return Err(storage(error));
    }
    let membership = log.membership().map_err(storage)?.unwrap_or_default();
    let applied = machine.applied();
    let fetcher = |membership| Fetcher {
        env: parts.env.clone(),
        dir: parts.dir.clone(),
        transport: transport.clone(),
        cluster_id: identity.cluster_id,
        local: parts.local.id,
        membership,
        stop: stop.clone(),
        runtime: tokio::runtime::Handle::current(),
    };
    let (machine, thread) =
        MachineAdapter::start(machine, membership, log.clone(), failure.clone(), fetcher)
            .map_err(storage)?;
    if let Err(error) = catch_up(&machine, &log, applied, &stop).await {
        machine.stop().await;
        close(log).await;
        return Err(error);
    }
    let (removed, told) = {
        let removed = watch::Sender::new(None);
        let told = removed.subscribe();
        (removed, told)
    };
    let context = NetworkContext {
        transport: transport.clone(),
        cluster_id: identity.cluster_id,
        local: parts.local.id,
        append_deadline: (parts.election_timeout * 2).max(Duration::from_secs(1)),
        membership: machine.watch_membership(),
        removed,
    };
    let network = Network(Arc::new(context));
    let raft = match Raft::new(
        parts.local.id,
        config,
        network,
        log.clone(),
        machine.clone(),
    )
    .await
    {
        Ok(raft) => raft,
        Err(error) => {
            machine.stop().await;
            close(log).await;
            return Err(storage(error));
        }
    };
    machine.set_running();
    published(&raft).await;
    let node = assemble(
        &parts,
        identity.cluster_id,
        raft,
        machine,
        log,
        transport,
        query,
        &failure,
        thread,
    );
    let joined = Arc::new(AtomicBool::new(identity.joined));
    let up = bring_up(&node, &parts, &identity, told, joined).await;
    match up {
        Ok(()) => Ok(node),
        Err(error) => {
            node.shutdown().await;
            Err(error)
        }
    }
}

/// Makes state and log fit together. The state may end before what the log still has, if a part of
/// it was damaged: then another member's takes its place.
async fn catch_up(
    machine: &MachineAdapter,
    log: &LogStore,
    applied: LogPosition,
    stop: &CancellationToken,
) -> Result<()> {
    let purged = log.purged();
    let applied = if applied.index < purged.index {
        tracing::error!(
            state = applied.index,
            log = purged.index,
            "the state ends before the log begins; fetching another member's state"
        );
        // Whoever gives up waiting for this also ends the search for a peer.
        let guard = stop.clone().drop_guard();
        let fetched = machine.resync(purged, Vec::new()).await;
        guard.disarm();
        match fetched {
            Ok(position) => position,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Damaged {
                    file: log.dir().to_owned(),
                    offset: 0,
                    what: format!(
                        "the state ends at entry {}, the log begins behind entry {}, and there is no other member to fetch what lies between from",
                        applied.index, purged.index
                    ),
                });
            }
            Err(error) => return Err(storage(error)),
        }
    } else {
        applied
    };
    log.agree_with(applied).await.map_err(storage)
}

/// Waits until the metrics show what was recovered: they start out empty, and everything that
/// asks for the membership reads them.
async fn published(raft: &Raft) {
    let state = raft
        .with_raft_state(|state| *state.membership_state.effective().log_id())
        .await;
    // If the library has stopped already, that is noticed elsewhere.
    let Ok(recovered) = state else { return };
    let shown = |metrics: &openraft::RaftMetrics<TypeConfig>| {
        *metrics.membership_config.log_id() >= recovered
    };
    if let Err(error) = raft
        .wait(Some(Duration::from_secs(10)))
        .metrics(shown, "recovered state")
        .await
    {
        tracing::warn!(%error, "the recovered state is not shown yet");
    }
}

/// Everything but the first steps is the library's; these are its settings.
fn library_config(parts: &Parts) -> Result<Arc<Config>> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let heartbeat = millis(parts.heartbeat).max(1);
    // The library waits for the leader's lease (its maximum timeout) and then for a timeout
    // between minimum and maximum. Half of what was asked for makes the sum what was asked for:
    // between 1.5 and 2 times the election timeout.
    let longest = millis(parts.election_timeout).max(heartbeat * 3);
    let shortest = (longest / 2).max(heartbeat + 1);
    let config = Config {
        cluster_name: String::from("trivet"),
        heartbeat_interval: heartbeat,
        election_timeout_min: shortest,
        election_timeout_max: longest,
        // Entries hold up to 512 commands: count few of them per message.
        max_payload_entries: 64,
        // Checkpoints and purging follow the state machine; see `tasks::maintain`.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        replication_lag_threshold: u64::MAX,
        enable_pre_vote: Some(true),
        // A leader that lost its unsynced tail in a crash and led the same term again would give
        // the same positions to other entries. Absent means "on".
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        // A leader that hears nobody falls silent, so that followers who still hear it may elect
        // another.
        quorum_loss_probe_interval: Some(longest * 3),
        backoff: String::from("50ms 100ms 200ms ..400ms"),
        api_channel_size: Some(4096),
        notification_channel_size: Some(4096),
        ..Config::default()
    };
    let config = config
        .validate()
        .map_err(|error| Error::Refused(error.to_string()))?;
    Ok(Arc::new(config))
}

async fn has_log(parts: &Parts) -> Result<bool> {
    let (disk, dir) = (parts.env.disk.clone(), parts.dir.join(LOG_DIR));
    blocking(move || Ok(disk.exists(&dir)? && !disk.read_dir(&dir)?.is_empty())).await
}

async fn open_log(parts: &Parts, failure: Arc<Failure>) -> Result<LogStore> {
    let (disk, dir) = (parts.env.disk.clone(), parts.dir.clone());
    let mut options = WalOptions::new(parts.env.rng.next_u64());
    if let Some((first, max)) = parts.retention.segment_bytes {
        options.segment_bytes_first = first;
        options.segment_bytes_max = max;
    }
    blocking(move || {
        prepare_dir(disk.as_ref(), &dir)?;
        let (wal, recovered) = Wal::open(disk, &dir.join(LOG_DIR), options)?;
        if recovered.torn_bytes > 0 {
            tracing::info!(
                bytes = recovered.torn_bytes,
                "cut an unfinished write off the end of the log"
            );
        }
        Ok(LogStore::new(wal, dir.join(LOG_DIR), failure))
    })
    .await
}

/// What the log in `dir` says, `None` without one. Repairs a torn tail, as every opening does.
pub(crate) async fn inspect(env: &Env, dir: &Path) -> Result<Option<LogFacts>> {
    let (disk, log_dir) = (env.disk.clone(), dir.join(LOG_DIR));
    let options = WalOptions {
        prepare_ahead: false,
        ..WalOptions::new(env.rng.next_u64())
    };
    blocking(move || {
        if !disk.exists(&log_dir)? || disk.read_dir(&log_dir)?.is_empty() {
            return Ok(None);
        }
        let (wal, _) = Wal::open(disk, &log_dir, options)?;
        let failure = Arc::new(Failure::new(CancellationToken::new()));
        let log = LogStore::new(wal, log_dir, failure);
        let identity = log.identity()?;
        let membership = log.membership()?.unwrap_or_default();
        let facts = identity.map(|identity| LogFacts {
            cluster_id: identity.cluster_id,
            member_id: identity.node_id,
            joined: identity.joined,
            purged: log.purged(),
            members: membership
                .nodes()
                .map(|(id, member)| member.to_peer(*id))
                .collect(),
        });
        log.close()?;
        Ok(facts)
    })
    .await
}

fn log_is_missing(parts: &Parts) -> Error {
    Error::Damaged {
        file: parts.dir.join(LOG_DIR),
        offset: 0,
        what: "the log is missing".into(),
    }
}

fn prepare_dir(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    disk.create_dir_all(dir)?;
    Spool::clean(disk, dir)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(from_log),
        Err(error) => Err(storage(error)),
    }
}

/// Damage of the log keeps its place; everything else is a failure of the disk.
fn from_log(error: io::Error) -> Error {
    let log = error
        .get_ref()
        .and_then(|error| error.downcast_ref::<trivet_wal::Error>());
    match log {
        Some(trivet_wal::Error::Damaged { file, offset, what }) => Error::Damaged {
            file: file.clone(),
            offset: *offset,
            what: what.clone(),
        },
        _ => storage(error),
    }
}

async fn close(log: LogStore) {
    // It is given up anyway.
    let _ = blocking(move || log.close()).await;
}

/// Who this member is: as recorded, or recorded now.
async fn identify(
    parts: &Parts,
    log: &LogStore,
    cluster_id: u64,
    applied: LogPosition,
) -> Result<proto::Identity> {
    if let Some(identity) = log.identity().map_err(storage)? {
        if identity.node_id != parts.local.id {
            return Err(Error::Refused(format!(
                "{} holds the data of member {:x}, not of {:x}",
                parts.dir.display(),
                identity.node_id,
                parts.local.id
            )));
        }
        let removed = || -> io::Result<bool> {
            // Its own log may say so as well, if it stopped before it could make a note of it.
            let listed = log.membership()?.is_none_or(|last| {
                last.log_id().is_none() || last.get_node(&identity.node_id).is_some()
            });
            Ok(identity.removed || (identity.joined && !listed))
        };
        if parts.start != StartMode::StandAlone && removed().map_err(storage)? {
            return Err(Error::Refused(format!(
                "{REMOVED}: the data of member {:x} in {} is of no more use; remove it and add a new member",
                identity.node_id,
                parts.dir.display()
            )));
        }
        if parts.cluster_id != 0 && identity.cluster_id != parts.cluster_id {
            return Err(Error::Refused(format!(
                "{} holds the data of cluster {:x}, not of {:x}: the directory was put together from parts that do not belong together",
                parts.dir.display(),
                identity.cluster_id,
                parts.cluster_id
            )));
        }
        if !identity.joined && parts.start == StartMode::Resume {
            return Err(Error::Refused(format!(
                "the member in {} never finished its first start; start it again the way it was started first",
                parts.dir.display()
            )));
        }
        return Ok(identity);
    }
    if matches!(parts.start, StartMode::Resume | StartMode::StandAlone) {
        return Err(Error::Refused(format!(
            "there is no data in {}",
            parts.dir.display()
        )));
    }
    if applied != LogPosition::default() {
        return Err(log_is_missing(parts));
    }
    if cluster_id == 0 {
        return Err(Error::Refused(
            "a cluster needs an identity other than 0".into(),
        ));
    }
    let identity = proto::Identity {
        cluster_id,
        node_id: parts.local.id,
        joined: false,
        removed: false,
    };
    log.save_identity(&identity).await.map_err(storage)?;
    Ok(identity)
}

#[allow(
    clippy::too_many_arguments,
    reason = "each is a part of the node, named once, here"
)]
fn assemble(
    parts: &Parts,
    cluster_id: u64,
    raft: Raft,
    machine: MachineAdapter,
    log: LogStore,
    transport: Arc<dyn PeerTransport>,
    query: Arc<dyn LeaderQuery>,
    failure: &Arc<Failure>,
    thread: MachineThread,
) -> Arc<RaftNode> {
    let stop = failure.token();
    let tracker = TaskTracker::new();
    let mut tasks: Vec<(&'static str, futures_util::future::BoxFuture<'static, ()>)> = Vec::new();
    let (reads, readers) = mpsc::channel(READERS_MAX);
    let shared = Arc::new_cyclic(|weak| {
        let commit = sink(weak.clone(), |node: Arc<Shared>, commands| {
            Box::pin(async move { node.commit(commands).await })
        });
        let (proposals, proposing) = Batcher::new(PROPOSALS_IN_FLIGHT, commit);
        let forward = sink(weak.clone(), |node: Arc<Shared>, commands| {
            Box::pin(node.forward(commands))
        });
        let (forwards, forwarding) = Batcher::new(FORWARDS_IN_FLIGHT, forward);
        tasks.push(("proposals", Box::pin(proposing)));
        tasks.push(("forwarding", Box::pin(forwarding)));
        Shared {
            env: parts.env.clone(),
            dir: parts.dir.clone(),
            local: parts.local.clone(),
            cluster_id,
            election_timeout: parts.election_timeout,
            patience: Patience {
                route: parts.election_timeout * 10,
                outcome: parts.election_timeout * 20,
            },
            raft,
            machine,
            log,
            transport,
            query,
            failure: failure.clone(),
            leadership: watch::Sender::new(Leadership::default()),
            look_again: Notify::new(),
            heard: std::sync::Mutex::new(None),
            last_leader: AtomicU64::new(0),
            proposals,
            forwards,
            reads,
            changes: Mutex::new(()),
            kept: std::sync::Mutex::new(Vec::new()),
            plaintext_urls: parts.plaintext_urls,
            contacts: std::sync::Mutex::default(),
        }
    });
    tasks.push(("reads", Box::pin(shared.clone().read_rounds(readers))));
    tasks.push((
        "leadership",
        Box::pin(tasks::keep_leadership(shared.clone())),
    ));
    tasks.push((
        "maintenance",
        Box::pin(tasks::maintain(shared.clone(), parts.retention)),
    ));
    tasks.push((
        "added members",
        Box::pin(tasks::promote_added(shared.clone())),
    ));
    tasks.push(("contacts", Box::pin(contact::keep_contact(shared.clone()))));
    tasks.push(("consensus", Box::pin(tasks::watch_library(shared.clone()))));
    for (name, task) in tasks {
        tasks::spawn(&tracker, &stop, failure, name, task);
    }
    tracker.spawn(take_down(shared.clone(), thread));
    tracker.close();
    Arc::new(RaftNode { shared, tracker })
}

/// Waits for the end, whatever brings it, and stops what runs below the tasks.
async fn take_down(node: Arc<Shared>, thread: MachineThread) {
    node.failure.stopped().await;
    // A task of its own: the library panics when somebody else who waited for its end gave up
    // waiting. Fails only if the library's task panicked, which has been noted.
    let raft = node.raft.clone();
    let _ = tokio::spawn(async move { raft.shutdown().await }).await;
    node.machine.stop().await;
    let log = node.log.clone();
    let stopped = blocking(move || {
        thread.join();
        log.close()
    })
    .await;
    if let Err(error) = stopped {
        tracing::warn!(%error, "the log was not closed cleanly");
    }
    node.let_go();
}
