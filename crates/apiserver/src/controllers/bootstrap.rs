//! The objects every cluster has.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use trivet_kube_schema::{Status, find};

use super::{RETRY, Shared};
use crate::registry::address;

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// Creates what is missing, then says that the server is up.
pub(super) async fn run(shared: Arc<Shared>, ready: CancellationToken) {
    if !shared.cache_ready().await {
        return;
    }
    loop {
        match create(&shared).await {
            Ok(()) => break,
            Err(status) => tracing::info!(
                message = status.message,
                "bootstrap waits for the datastore"
            ),
        }
        if !shared.sleep(RETRY).await {
            return;
        }
    }
    // Clients that find this server through the Service should find it listed there.
    let key = super::servers::key(&shared);
    let mut servers = shared.core.cache.servers();
    tokio::select! {
        () = shared.core.stop.cancelled() => return,
        _ = servers.wait_for(|servers| servers.contains_key(&key)) => {}
    }
    while let Err(status) = super::endpoints::reconcile(&shared).await {
        tracing::info!(
            message = status.message,
            "bootstrap waits for the datastore"
        );
        if !shared.sleep(RETRY).await {
            return;
        }
    }
    shared.core.bootstrapped.store(true, Ordering::Release);
    ready.cancel();
}

async fn create(shared: &Shared) -> Result<(), Status> {
    let namespaces = find("", "v1", "namespaces").ok_or_else(Status::unknown_path)?;
    for name in NAMESPACES {
        if shared
            .core
            .slot(namespaces)?
            .get_named(None, name)
            .is_none()
        {
            shared
                .ensure(namespaces, None, json!({"metadata": {"name": name}}))
                .await?;
        }
    }
    let services = find("", "v1", "services").ok_or_else(Status::unknown_path)?;
    if shared
        .core
        .slot(services)?
        .get_named(Some("default"), "kubernetes")
        .is_some()
    {
        return Ok(());
    }
    let first = address(shared.core.config.network.service_cidr, 1)
        .ok_or_else(|| Status::internal("the service network has no addresses"))?
        .to_string();
    let service = json!({
        "metadata": {
            "name": "kubernetes",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": first,
            "clusterIPs": [first],
            "ipFamilies": [if first.contains(':') { "IPv6" } else { "IPv4" }],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
            "ports": [{
                "name": "https",
                "port": 443,
                "protocol": "TCP",
                "targetPort": shared.core.config.advertise.port(),
            }],
        },
    });
    shared.ensure(services, Some("default"), service).await
}
