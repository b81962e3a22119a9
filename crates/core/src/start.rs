//! From settings to a running server, in the order that keeps failures harmless: look, ask,
//! then write, then serve.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trivet_datastore::{
    BackendConfig, ClusterConfig, ClusterStart, Datastore, Error as StoreError,
};
use trivet_https::Limits;
use trivet_pki::{ALPN_HTTP, ClientAuth, Identity as TlsIdentity, Secret, SwappableIdentity};

use crate::config::{Config, Store, default_route_address};
use crate::guard::Verdict;
use crate::joining::{Admission, Asker};
use crate::running::Running;
use crate::shared::{Opened, Shared};
use crate::{
    ControlPlane, StartError, bootstrap, files, founding, guard, identity, joining, kube, life,
    remembered, supervisor,
};

/// Pause between attempts to open a store that is not available.
const OPEN_PAUSE: Duration = Duration::from_secs(2);

/// How this server comes by its identity and its data.
enum Origin {
    /// The store is not shared by servers.
    Alone,
    /// First server of a new cluster.
    Found,
    /// A server accepted this one.
    Join(Admission),
    /// There is data. With an admission the shared files were lost and fetched again.
    Resume(Option<Admission>),
}

impl ControlPlane {
    /// Starts the server: founds, joins or resumes.
    ///
    /// Returns when the port is served and the store is open. The Kubernetes API comes up when
    /// the store has a quorum ([`Running::ready`]). Waiting is never an error: for a server
    /// that is starting, or for members of a store, it waits for as long as it takes and says
    /// so in the log. Dropping the future stops everything again.
    ///
    /// Errors before the first write leave the disk as it was; see [`StartError`].
    pub async fn start(self) -> Result<Running, StartError> {
        let mut config = self.into_config();
        if config.node_ips.is_empty() {
            config.node_ips.extend(default_route_address());
        }
        let config = Arc::new(config);
        let Verdict { own_data } = blocking(&config, guard::check).await?;
        let listener = bind(&config).await?;
        let local = listener
            .local_addr()
            .map_err(|source| bind_error(&config, source))?;
        let origin = origin(&config, own_data).await?;
        let start = match &origin {
            Origin::Join(admission) => ClusterStart::Join {
                peer_urls: admission.peer_urls.clone(),
            },
            Origin::Resume(_) => ClusterStart::Resume,
            Origin::Alone | Origin::Found => ClusterStart::Found,
        };
        let from_store = match (&origin, &config.store) {
            (Origin::Alone, Store::Open(store)) => {
                let token = match &config.token {
                    Some(token) => Some(token.password()),
                    None => blocking(&config, identity::stored_token).await?,
                };
                // Without any token this only checks that the store is nobody's yet.
                bootstrap::load(&**store, &token.unwrap_or_else(|| Secret::new(""))).await?
            }
            _ => None,
        };
        let url = format!(
            "https://{}",
            SocketAddr::new(config.local_address(), local.port())
        );

        let (identity, tls) = blocking(&config, move |config| {
            let layout = &config.layout;
            match (&origin, &from_store) {
                (Origin::Join(admission) | Origin::Resume(Some(admission)), _) => {
                    identity::adopt(layout, &admission.bundle)?;
                }
                (Origin::Alone, Some(bundle)) if !identity::is_complete(layout)? => {
                    identity::check_bundle(layout, bundle)?;
                    identity::adopt(layout, bundle)?;
                }
                (Origin::Resume(None), _) => {}
                (Origin::Alone | Origin::Found, _) => identity::create(config)?,
            }
            let identity = identity::load(config)?;
            identity::issue_leaves(config)?;
            identity::write_tokens(config, &identity, &url)?;
            files::create_dir(&layout.db()).map_err(|source| StartError::File {
                path: layout.db(),
                source,
            })?;
            let (cert, key) = (
                layout.tls("serving-kube-apiserver.crt"),
                layout.tls("serving-kube-apiserver.key"),
            );
            let tls = TlsIdentity::load(&cert, &key)
                .map_err(|source| StartError::Pki { path: cert, source })?;
            Ok((identity, tls))
        })
        .await?;

        let client_ca = identity.client_ca.cert_pem().to_owned();
        let tls = trivet_pki::server_config(
            SwappableIdentity::new(tls),
            ClientAuth::Optional(client_ca.as_bytes()),
            ALPN_HTTP,
        )
        .map_err(|source| StartError::Pki {
            path: config.layout.tls("client-ca.crt"),
            source,
        })?;
        let shared = Shared::new(Arc::clone(&config), identity, local);
        let handler = {
            let shared = Arc::clone(&shared);
            move |request| supervisor::handle(Arc::clone(&shared), request)
        };
        let server = trivet_https::serve(listener, tls, &Limits::default(), handler)
            .map_err(|source| bind_error(&config, source))?;
        tracing::info!(address = %local, node = %config.node_name, "listening");

        let store = open_store(&shared, start).await?;
        let api =
            match kube::api_server(&config, &shared.identity, Arc::clone(&store), local.port()) {
                Ok(api) => api,
                Err(error) => {
                    store.shutdown().await;
                    return Err(error);
                }
            };
        let opened = Opened { store, api };
        shared.set_opened(opened.clone());
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        life::spawn(&shared, &opened, &stop, &tasks);
        Ok(Running::new(shared, opened, server, stop, tasks))
    }
}

/// Runs blocking work off the async threads.
async fn blocking<T: Send + 'static>(
    config: &Arc<Config>,
    work: impl FnOnce(&Config) -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    let config = Arc::clone(config);
    match tokio::task::spawn_blocking(move || work(&config)).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

async fn bind(config: &Config) -> Result<TcpListener, StartError> {
    let given = config
        .listener
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .take();
    let result = match given {
        Some(listener) => listener
            .set_nonblocking(true)
            .and_then(|()| TcpListener::from_std(listener)),
        None => TcpListener::bind((config.bind_address, config.https_port)).await,
    };
    result.map_err(|source| bind_error(config, source))
}

fn bind_error(config: &Config, source: std::io::Error) -> StartError {
    StartError::Bind {
        address: SocketAddr::new(config.bind_address, config.https_port).to_string(),
        source,
    }
}

/// Decides what kind of start this is, and asks and checks everything that can be asked and
/// checked beforehand. Writes nothing.
async fn origin(config: &Arc<Config>, own_data: bool) -> Result<Origin, StartError> {
    let shared_by_servers = matches!(&config.store, Store::Kind(backend) if backend.replicated());
    if !shared_by_servers {
        return Ok(Origin::Alone);
    }
    if own_data && blocking(config, identity::is_member).await? {
        if blocking(config, |config| identity::is_complete(&config.layout)).await? {
            return Ok(Origin::Resume(None));
        }
        // The data is there but the keys to it are not: another server may have them.
        let Some(url) = &config.server_url else {
            let path = config.layout.tls("");
            let source = std::io::Error::other(
                "files of the cluster's identity are missing; restore them, or start with --server and the token to fetch them",
            );
            return Err(StartError::File { path, source });
        };
        return joining::ask(config, url, Asker::Member)
            .await
            .map(Some)
            .map(Origin::Resume);
    }
    if let Some(url) = &config.server_url {
        let asker = if own_data {
            Asker::Unfinished
        } else {
            Asker::New
        };
        return joining::ask(config, url, asker).await.map(Origin::Join);
    }
    blocking(config, |config| {
        remembered::may_found(&config.memory())?;
        full_token_fits(config)
    })
    .await?;
    founding::nobody_counts_on_us(&peer_listen(config), config.founding_watch).await?;
    Ok(Origin::Found)
}

/// A full token names a CA. Founding with one is only right when that CA was put in place.
fn full_token_fits(config: &Config) -> Result<(), StartError> {
    let Some(expected) = config
        .token
        .as_ref()
        .and_then(|token| token.ca_hash.clone())
    else {
        return Ok(());
    };
    let found = files::read(&config.layout.tls("server-ca.crt"))?
        .and_then(|pem| trivet_pki::ca_hash(&pem).ok());
    if found.as_ref() == Some(&expected) {
        return Ok(());
    }
    Err(StartError::FullTokenToFound)
}

fn peer_listen(config: &Config) -> Vec<SocketAddr> {
    vec![SocketAddr::new(config.node_ip(), config.ports.peer)]
}

async fn open_store(
    shared: &Arc<Shared>,
    start: ClusterStart,
) -> Result<Arc<dyn Datastore>, StartError> {
    let config = &shared.config;
    let backend = match &config.store {
        Store::Open(store) => return Ok(Arc::clone(store)),
        Store::Kind(backend) => Arc::clone(backend),
    };
    let cluster = if backend.replicated() {
        Some(cluster_config(config, start).await?)
    } else {
        None
    };
    loop {
        let open = BackendConfig {
            env: config.env.clone(),
            db_dir: config.layout.db(),
            cluster: cluster.clone(),
        };
        match backend.open(open).await {
            Ok(store) => {
                shared.wait_is_over();
                if backend.replicated()
                    && let Err(error) = blocking(config, identity::set_joined).await
                {
                    store.shutdown().await;
                    return Err(error);
                }
                return Ok(store);
            }
            Err(StoreError::Unavailable {
                reason,
                retry_after,
                ..
            }) => {
                let waited = shared.wait_for(&reason);
                tracing::info!(
                    reason,
                    waited_seconds = waited.as_secs(),
                    "waiting for the datastore"
                );
                tokio::time::sleep(retry_after.unwrap_or(OPEN_PAUSE).min(OPEN_PAUSE)).await;
            }
            Err(error) => return Err(StartError::Store(error)),
        }
    }
}

async fn cluster_config(
    config: &Arc<Config>,
    start: ClusterStart,
) -> Result<ClusterConfig, StartError> {
    let (node_ip, ports) = (config.node_ip(), config.ports);
    let local = config.local_address();
    let mut client_listen = vec![
        SocketAddr::new(local, ports.client),
        SocketAddr::new(node_ip, ports.client),
    ];
    client_listen.dedup();
    let metrics_ip = if local.is_loopback() {
        local
    } else {
        std::net::Ipv4Addr::LOCALHOST.into()
    };
    Ok(ClusterConfig {
        member_name: blocking(config, identity::member_name).await?,
        peer_listen: peer_listen(config),
        peer_url: format!("https://{}", SocketAddr::new(node_ip, ports.peer)),
        client_listen,
        client_url: format!("https://{}", SocketAddr::new(node_ip, ports.client)),
        metrics_listen: ports.metrics.map(|port| SocketAddr::new(metrics_ip, port)),
        peer_tls: config.layout.peer_tls(),
        client_tls: config.layout.client_tls(),
        heartbeat: config.heartbeat,
        election_timeout: config.election_timeout,
        start,
    })
}
