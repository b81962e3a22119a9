//! What the parts of a running server share.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use trivet_apiserver::ApiServer;
use trivet_datastore::Datastore;
use trivet_join::WaitReport;

use crate::config::Config;
use crate::identity::Identity;
use crate::supervisor::{Attempts, NodePasswords};

/// Cost of new node password hashes: K3s's.
const PASSWORD_COST: u8 = 15;

/// State of a running server.
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) identity: Identity,
    pub(crate) local: SocketAddr,
    pub(crate) attempts: Attempts,
    pub(crate) passwords: NodePasswords,
    pub(crate) ready: watch::Sender<bool>,
    opened: RwLock<Option<Opened>>,
    waiting: Mutex<Option<(String, Duration)>>,
}

/// What there is once the store is open.
#[derive(Clone)]
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn Datastore>,
    pub(crate) api: Arc<ApiServer>,
}

impl Shared {
    pub(crate) fn new(config: Arc<Config>, identity: Identity, local: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            config,
            identity,
            local,
            attempts: Attempts::default(),
            passwords: NodePasswords::new(PASSWORD_COST),
            ready: watch::Sender::new(false),
            opened: RwLock::new(None),
            waiting: Mutex::new(None),
        })
    }

    pub(crate) fn set_opened(&self, opened: Opened) {
        *self.opened.write().unwrap_or_else(PoisonError::into_inner) = Some(opened);
    }

    pub(crate) fn opened(&self) -> Option<Opened> {
        self.opened
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Notes what is being waited for; the time counts from when waiting began. Returns for
    /// how long that has been.
    pub(crate) fn wait_for(&self, reason: &str) -> Duration {
        let now = self.config.env.clock.monotonic();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let since = waiting.as_ref().map_or(now, |(_, since)| *since);
        *waiting = Some((reason.to_owned(), since));
        now.saturating_sub(since)
    }

    /// Waiting is over. Returns for how long it took, if there was any.
    pub(crate) fn wait_is_over(&self) -> Option<Duration> {
        let now = self.config.env.clock.monotonic();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.take().map(|(_, since)| now.saturating_sub(since))
    }

    pub(crate) fn waiting(&self) -> Option<WaitReport> {
        let now = self.config.env.clock.monotonic();
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (reason, since) = waiting.as_ref()?;
        Some(WaitReport {
            reason: reason.clone(),
            since_seconds: now.saturating_sub(*since).as_secs(),
        })
    }
}
