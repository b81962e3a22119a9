//! One store lease for many expiring objects.

use std::time::Duration;

use tokio::sync::Mutex;
use trivet_datastore::{Datastore, LeaseId, Result};
use trivet_env::Env;

/// A lease is handed out for this long before a new one is granted (kube-apiserver: 60 s).
const REUSE: Duration = Duration::from_secs(60);
/// And to this many objects, which expire in one revision (kube-apiserver: 1000).
const OBJECTS_MAX: usize = 1000;

struct Current {
    id: LeaseId,
    granted: Duration,
    objects: usize,
}

/// The lease that new expiring objects are attached to.
#[derive(Default)]
pub(crate) struct SharedLease(Mutex<Option<Current>>);

impl SharedLease {
    /// A lease that lives at least `ttl` from now.
    pub(crate) async fn get(
        &self,
        store: &dyn Datastore,
        env: &Env,
        ttl: Duration,
    ) -> Result<LeaseId> {
        let now = env.clock.monotonic();
        let mut current = self.0.lock().await;
        if let Some(lease) = current.as_mut()
            && now.saturating_sub(lease.granted) < REUSE
            && lease.objects < OBJECTS_MAX
        {
            lease.objects += 1;
            return Ok(lease.id);
        }
        let lease = store.grant_lease(ttl + REUSE).await?;
        *current = Some(Current {
            id: lease.id,
            granted: now,
            objects: 1,
        });
        Ok(lease.id)
    }

    /// Forgets the current lease, which the store does not know any more.
    pub(crate) async fn forget(&self) {
        *self.0.lock().await = None;
    }
}
