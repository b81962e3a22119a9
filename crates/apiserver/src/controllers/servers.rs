//! This server's entry in the list of live servers, kept under a store lease.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use trivet_datastore::{Error, Expect, LeaseId, PutRequest, WriteOutcome};

use super::{RETRY, Shared};
use crate::cache::SERVERS_PREFIX;

/// Longest wait for the entry to be taken back at shutdown.
const LEAVE_MAX: Duration = Duration::from_secs(1);

/// Key of a server's entry.
pub(super) fn key(shared: &Shared) -> String {
    // Upstream's key ends in the address; the port is added, as several servers may share one.
    format!("{SERVERS_PREFIX}{}", shared.core.config.advertise)
}

/// Time between two renewals.
pub(super) fn period(shared: &Shared) -> Duration {
    shared.core.config.timings.server_lease_ttl / 3
}

/// Registers, renews three times per time to live, and takes the entry back at the end.
pub(super) async fn run(shared: Arc<Shared>) {
    let ttl = shared.core.config.timings.server_lease_ttl;
    let mut lease: Option<LeaseId> = None;
    loop {
        let result = match lease {
            Some(id) => shared
                .core
                .config
                .datastore
                .keep_lease_alive(id)
                .await
                .map(|_| id),
            None => register(&shared, ttl).await,
        };
        let pause = match result {
            Ok(id) => {
                lease = Some(id);
                shared.health.success(shared.monotonic(), period(&shared));
                period(&shared)
            }
            Err(Error::LeaseNotFound) => {
                lease = None;
                RETRY / 10
            }
            Err(error) => {
                tracing::debug!(%error, "this server's entry could not be renewed");
                shared.health.failure();
                RETRY
            }
        };
        if !shared.sleep(pause).await {
            break;
        }
    }
    if let Some(id) = lease {
        let leave = shared.core.config.datastore.revoke_lease(id);
        if tokio::time::timeout(LEAVE_MAX, leave).await.is_err() {
            tracing::debug!("this server's entry will expire by itself");
        }
    }
}

async fn register(shared: &Shared, ttl: Duration) -> Result<LeaseId, Error> {
    let store = &shared.core.config.datastore;
    let lease = store.grant_lease(ttl).await?;
    let request = PutRequest {
        key: Bytes::from(key(shared)),
        value: Bytes::from(shared.core.config.advertise.to_string()),
        expect: Expect::Any,
        lease: Some(lease.id),
    };
    match store.put(request).await? {
        WriteOutcome::Committed { .. } => Ok(lease.id),
        WriteOutcome::Conflict { .. } => Err(Error::LeaseNotFound),
    }
}
