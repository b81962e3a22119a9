//! What goes on while a server runs: bringing the API up, and watching the store.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trivet_datastore::{ClusterStatus, Datastore};

use crate::remembered::Remembered;
use crate::shared::{Opened, Shared};
use crate::supervisor::{member_hosts, url_host};
use crate::{bootstrap, identity, roles};

/// How often the store's state is looked at.
const POLL: Duration = Duration::from_millis(250);

/// How often a line says what is being waited for.
const MESSAGE_INTERVAL: Duration = Duration::from_secs(5);

/// How often the memory of the other servers is brought up to date.
const REMEMBER_INTERVAL: Duration = Duration::from_secs(5);

/// How long a peer may take to accept a connection before it counts as down.
const PEER_PROBE: Duration = Duration::from_millis(500);

pub(crate) fn spawn(
    shared: &Arc<Shared>,
    opened: &Opened,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) {
    let until_stopped = |work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        let stop = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = work => {}
            }
        });
    };
    until_stopped(Box::pin(bring_up(Arc::clone(shared), opened.clone())));
    until_stopped(Box::pin(watch_store(Arc::clone(shared), opened.clone())));
    until_stopped(Box::pin(roles::keep(Arc::clone(shared), opened.clone())));
    if opened.store.cluster().is_some() {
        until_stopped(Box::pin(remember(Arc::clone(shared), opened.clone())));
    }
}

/// Waits for a quorum, stores the shared files for other servers, starts the API.
async fn bring_up(shared: Arc<Shared>, opened: Opened) {
    while !is_writable(&*opened.store).await {
        tokio::time::sleep(POLL).await;
    }
    while let Err(error) = save_bootstrap(&shared, &opened).await {
        tracing::warn!(%error, "cannot store the bootstrap data yet");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    match opened.api.start().await {
        Ok(()) => {
            tracing::info!(node = %shared.config.node_name, "the Kubernetes API is ready");
            shared.ready.send_replace(true);
        }
        Err(error) => tracing::error!(%error, "the Kubernetes API did not start"),
    }
}

async fn save_bootstrap(shared: &Shared, opened: &Opened) -> Result<(), String> {
    let layout = shared.config.layout.clone();
    let bundle = tokio::task::spawn_blocking(move || identity::bundle(&layout))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    let token = shared.identity.password("server");
    bootstrap::save(&*opened.store, token, &bundle, &*shared.config.env.rng)
        .await
        .map_err(|error| error.to_string())
}

async fn is_writable(store: &dyn Datastore) -> bool {
    store.status().await.is_ok_and(|status| status.writable)
}

/// Says for whom the store waits, and when that is over.
async fn watch_store(shared: Arc<Shared>, opened: Opened) {
    let mut told = None;
    loop {
        if is_writable(&*opened.store).await {
            if let Some(waited) = shared.wait_is_over()
                && told.take().is_some()
            {
                tracing::info!(
                    waited_seconds = waited.as_secs(),
                    "the datastore is writable again"
                );
            }
        } else {
            let now = shared.config.env.clock.monotonic();
            let reason = missing(&opened).await;
            let waited = shared.wait_for(&reason);
            // A change of leader is not worth a line.
            let due = told.map_or(waited >= Duration::from_secs(2), |at| {
                now.saturating_sub(at) >= MESSAGE_INTERVAL
            });
            if due {
                told = Some(now);
                tracing::warn!(reason, waited_seconds = waited.as_secs(), "waiting");
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What the store lacks, in words.
async fn missing(opened: &Opened) -> String {
    let status = match opened.store.cluster() {
        None => return "the datastore is not available".to_owned(),
        Some(cluster) => match cluster.status().await {
            Ok(status) => status,
            Err(error) => return format!("the datastore is not available: {error}"),
        },
    };
    let silent = silent_peers(&status).await;
    let base = format!(
        "no quorum: {} of {} servers must run",
        status.quorum(),
        status.voters()
    );
    if silent.is_empty() {
        format!("{base}; all answer, an election is under way")
    } else {
        format!("{base}; not running: {}", silent.join(", "))
    }
}

/// Members whose peer port nobody answers.
async fn silent_peers(status: &ClusterStatus) -> Vec<String> {
    let probes = status
        .members
        .iter()
        .filter(|member| member.id != status.local)
        .map(|member| async move {
            let address = member
                .peer_urls
                .first()
                .and_then(|url| url.strip_prefix("https://"))?;
            match tokio::time::timeout(PEER_PROBE, TcpStream::connect(address)).await {
                Ok(Ok(_)) => None,
                _ => Some(format!("{} ({address})", member.name)),
            }
        });
    futures_util::future::join_all(probes)
        .await
        .into_iter()
        .flatten()
        .collect()
}

/// Keeps the memory of the other servers outside `server/`.
async fn remember(shared: Arc<Shared>, opened: Opened) {
    let port = shared
        .config
        .advertise_port
        .unwrap_or_else(|| shared.local.port());
    let mut last = None;
    loop {
        if let Some(memory) = memory(&shared, &opened, port).await
            && last.as_ref() != Some(&memory)
        {
            let (path, value) = (shared.config.memory(), memory.clone());
            match tokio::task::spawn_blocking(move || value.save(&path)).await {
                Ok(Ok(())) => last = Some(memory),
                Ok(Err(error)) => tracing::warn!(%error, "cannot remember the other servers"),
                Err(_) => {}
            }
        }
        tokio::time::sleep(REMEMBER_INTERVAL).await;
    }
}

async fn memory(shared: &Shared, opened: &Opened, port: u16) -> Option<Remembered> {
    let status = opened.store.cluster()?.status().await.ok()?;
    let local = status
        .members
        .iter()
        .find(|member| member.id == status.local)?;
    let own = local.peer_urls.first().and_then(|url| url_host(url));
    let mut others: Vec<_> = member_hosts(opened)
        .await
        .into_iter()
        .filter(|host| Some(host) != own.as_ref())
        .map(|host| format!("{host}:{port}"))
        .collect();
    others.sort();
    others.dedup();
    Some(Remembered {
        ca_hash: shared.identity.ca_hash.clone(),
        member: local.name.clone(),
        other_servers: others,
    })
}
