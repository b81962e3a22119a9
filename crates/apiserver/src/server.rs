//! Life of a server: made, started, serving, shut down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{Authentication, KeyError, SigningKey};
use crate::cache::{Cache, feed};
use crate::client::Client;
use crate::config::ApiConfig;
use crate::controllers;
use crate::registry::SharedLease;

/// Longest wait for background work to end at shutdown.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);

/// Why a server could not be made or started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The signing key is unusable.
    #[error(transparent)]
    SigningKey(#[from] KeyError),
    /// [`ApiServer::shutdown`] was called before the server was up.
    #[error("the API server was shut down before it was ready")]
    ShutDown,
    /// The server was already started.
    #[error("the API server was already started")]
    AlreadyStarted,
}

/// What all requests and controllers share.
pub(crate) struct Core {
    pub(crate) config: ApiConfig,
    pub(crate) cache: Arc<Cache>,
    pub(crate) authentication: Authentication,
    pub(crate) event_lease: SharedLease,
    /// Ends everything.
    pub(crate) stop: CancellationToken,
    /// The objects every cluster has exist.
    pub(crate) bootstrapped: AtomicBool,
    pub(crate) reads: AtomicUsize,
    pub(crate) writes: AtomicUsize,
    pub(crate) watches: AtomicUsize,
}

/// A Kubernetes API server over any [`Datastore`](trivet_datastore::Datastore).
///
/// Several may live in one process, over one store or several: nothing is global.
pub struct ApiServer {
    pub(crate) core: Arc<Core>,
    tasks: TaskTracker,
    started: AtomicBool,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer")
            .field("config", &self.core.config)
            .finish_non_exhaustive()
    }
}

impl ApiServer {
    /// Makes a server; does no I/O.
    pub fn new(config: ApiConfig) -> Result<Arc<Self>, StartError> {
        let key = SigningKey::from_pem(&config.service_accounts.signing_key_pem)?;
        let cache = Arc::new(Cache::new(&config.limits));
        let authentication = Authentication {
            key,
            issuer: config.service_accounts.issuer.clone(),
            others: config.authenticators.clone(),
            cache: Arc::clone(&cache),
            env: config.env.clone(),
        };
        let core = Arc::new(Core {
            config,
            cache,
            authentication,
            event_lease: SharedLease::default(),
            stop: CancellationToken::new(),
            bootstrapped: AtomicBool::new(false),
            reads: AtomicUsize::new(0),
            writes: AtomicUsize::new(0),
            watches: AtomicUsize::new(0),
        });
        Ok(Arc::new(Self {
            core,
            tasks: TaskTracker::new(),
            started: AtomicBool::new(false),
        }))
    }

    /// Starts background work and returns when the cache is full, the objects every cluster has
    /// exist, and this server is listed in the endpoints of Service `kubernetes`. Waits for the
    /// store as long as that takes; requests are answered meanwhile, those that need the store
    /// with 503.
    ///
    /// Dropping the future does not stop the start; [`ApiServer::shutdown`] does.
    pub async fn start(&self) -> Result<(), StartError> {
        if self.started.swap(true, Ordering::AcqRel) {
            return Err(StartError::AlreadyStarted);
        }
        let core = &self.core;
        self.tasks.spawn(feed(
            Arc::clone(&core.cache),
            Arc::clone(&core.config.datastore),
            core.stop.clone(),
        ));
        let ready = controllers::spawn(core, &self.tasks);
        self.tasks.close();
        tokio::select! {
            () = core.stop.cancelled() => Err(StartError::ShutDown),
            () = ready.cancelled() => Ok(()),
        }
    }

    /// Whether [`ApiServer::start`] got through.
    pub fn is_ready(&self) -> bool {
        self.core.cache.is_ready() && self.core.bootstrapped.load(Ordering::Acquire)
    }

    /// Ends watches cleanly, takes this server out of the endpoints of Service `kubernetes` and
    /// stops background work. Later requests are answered with 503. Calling it twice is fine.
    pub async fn shutdown(&self) {
        self.core.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(SHUTDOWN_MAX, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("background work of the API server did not end in time");
        }
    }

    /// Access to objects for the rest of the program, as the server itself. Not limited by
    /// authorization.
    pub fn client(&self) -> Client {
        Client::new(Arc::clone(&self.core))
    }
}
