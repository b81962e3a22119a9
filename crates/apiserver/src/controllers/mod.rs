//! Background work of a server.
//!
//! Every server keeps its own entry among the live servers, reconciles the endpoints of Service
//! `kubernetes` and takes part in compaction. The rest is done by one server at a time, the
//! holder of a Lease ([`leader`]).

mod bootstrap;
mod compaction;
mod endpoints;
mod garbage;
mod leader;
mod namespaces;
mod node_state;
mod nodes;
mod servers;
mod service_accounts;
mod store_health;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, select_all};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trivet_kube_schema::{ResourceInfo, Status};

use crate::auth::UserInfo;
use crate::cache::Slot;
use crate::registry::{DeleteOptions, UpdateTarget, WriteContext};
use crate::server::Core;
use store_health::StoreHealth;

/// Pause before failed work is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Changes that come together are worked on together.
const SETTLE: Duration = Duration::from_millis(50);

/// What controllers share.
pub(crate) struct Shared {
    pub(crate) core: Arc<Core>,
    user: UserInfo,
    health: StoreHealth,
}

/// Starts all background work; the token is cancelled when the server is up.
pub(crate) fn spawn(core: &Arc<Core>, tasks: &TaskTracker) -> CancellationToken {
    let ready = CancellationToken::new();
    let shared = Arc::new(Shared {
        core: Arc::clone(core),
        user: UserInfo::internal(),
        health: StoreHealth::default(),
    });
    let (leads, leading) = watch::channel(false);
    tasks.spawn(servers::run(Arc::clone(&shared)));
    tasks.spawn(bootstrap::run(Arc::clone(&shared), ready.clone()));
    tasks.spawn(endpoints::run(Arc::clone(&shared)));
    tasks.spawn(compaction::run(Arc::clone(&shared)));
    tasks.spawn(leader::run(Arc::clone(&shared), leads));
    tasks.spawn(nodes::run(Arc::clone(&shared), leading.clone()));
    tasks.spawn(namespaces::run(Arc::clone(&shared), leading.clone()));
    tasks.spawn(service_accounts::run(Arc::clone(&shared), leading.clone()));
    tasks.spawn(garbage::run(Arc::clone(&shared), leading));
    ready
}

impl Shared {
    fn slot(&self, group: &str, plural: &str) -> Option<Arc<Slot>> {
        self.core.cache.named(group, plural).map(Arc::clone)
    }

    fn monotonic(&self) -> Duration {
        self.core.config.env.clock.monotonic()
    }

    /// Waits; false when the server stops meanwhile.
    async fn sleep(&self, time: Duration) -> bool {
        tokio::select! {
            () = self.core.stop.cancelled() => false,
            () = tokio::time::sleep(time) => true,
        }
    }

    /// Waits for the first fill of the cache; false when the server stops meanwhile.
    async fn cache_ready(&self) -> bool {
        tokio::select! {
            () = self.core.stop.cancelled() => false,
            ready = self.core.cache.wait_for(1, Duration::MAX) => ready,
        }
    }

    async fn create(
        &self,
        info: &'static ResourceInfo,
        namespace: Option<&str>,
        object: Value,
    ) -> Result<Value, Status> {
        let object = crate::client::typed(info, object)?;
        self.core
            .create(info, namespace, object, &WriteContext::new(&self.user))
            .await
    }

    /// Creates an object unless it exists.
    async fn ensure(
        &self,
        info: &'static ResourceInfo,
        namespace: Option<&str>,
        object: Value,
    ) -> Result<(), Status> {
        match self.create(info, namespace, object).await {
            Ok(_) => Ok(()),
            Err(status) if status.reason == "AlreadyExists" => Ok(()),
            Err(status) => Err(status),
        }
    }

    async fn update(
        &self,
        target: &UpdateTarget<'_>,
        change: impl Fn(&mut Value) + Send + Sync,
    ) -> Result<Value, Status> {
        let change = |current: &Value| {
            let mut new = current.clone();
            change(&mut new);
            Ok(new)
        };
        self.core
            .update(target, &WriteContext::new(&self.user), change)
            .await
    }

    /// Deletes exactly this object; one that is gone or was made anew is left alone.
    async fn delete(&self, slot: &Slot, entry: &crate::cache::Entry) -> Result<(), Status> {
        let options = DeleteOptions {
            uid: Some(entry.uid.to_string()),
            ..DeleteOptions::default()
        };
        let context = WriteContext::new(&self.user);
        let result = self
            .core
            .delete(
                slot.info,
                entry.namespace(),
                entry.name(),
                &options,
                &context,
            )
            .await;
        match result {
            Ok(_) => Ok(()),
            Err(status) if matches!(status.code, 404 | 409) => Ok(()),
            Err(status) => Err(status),
        }
    }
}

/// When a controller looks at the world.
struct Trigger {
    slots: Vec<Arc<Slot>>,
    /// At least this often, changes or not.
    period: Duration,
}

/// Runs `work` whenever a slot changes and this server leads, one run at a time, until the
/// server stops. `work` says whether it wants to run again soon.
#[allow(clippy::needless_pass_by_value)] // a task owns what it works with
async fn lead(
    shared: Arc<Shared>,
    mut leading: watch::Receiver<bool>,
    trigger: Trigger,
    work: impl Fn(Arc<Shared>) -> BoxFuture<'static, Result<bool, Status>> + Send,
) {
    if !shared.cache_ready().await {
        return;
    }
    let mut changes: Vec<_> = trigger.slots.iter().map(|slot| slot.subscribe()).collect();
    if changes.is_empty() {
        return;
    }
    let stop = &shared.core.stop;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            leads = leading.wait_for(|leads| *leads) => if leads.is_err() { return },
        }
        for change in &mut changes {
            change.borrow_and_update();
        }
        let pause = match work(Arc::clone(&shared)).await {
            Ok(false) => trigger.period,
            Ok(true) => RETRY,
            Err(status) => {
                tracing::debug!(
                    message = status.message,
                    "background work will be tried again"
                );
                RETRY
            }
        };
        let changed = select_all(changes.iter_mut().map(|c| Box::pin(c.changed())));
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            _ = changed => {
                if !shared.sleep(SETTLE).await {
                    return;
                }
            }
        }
    }
}
