//! Endpoints and EndpointSlice of Service `kubernetes`: all live servers.
//!
//! Every server reconciles when the list changes. They agree on the result, so the slower ones
//! find nothing left to do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use trivet_kube_schema::{ResourceInfo, Status, find, meta};

use super::{RETRY, SETTLE, Shared};
use crate::registry::UpdateTarget;

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";
/// Somebody may have changed the objects.
const PERIOD: Duration = Duration::from_secs(30);

/// Reconciles on every change of the list until the server stops.
pub(super) async fn run(shared: Arc<Shared>) {
    if !shared.cache_ready().await {
        return;
    }
    let mut servers = shared.core.cache.servers();
    loop {
        servers.borrow_and_update();
        let pause = match reconcile(&shared).await {
            Ok(()) => PERIOD,
            Err(status) => {
                tracing::debug!(
                    message = status.message,
                    "endpoints will be reconciled again"
                );
                RETRY
            }
        };
        tokio::select! {
            () = shared.core.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            changed = servers.changed() => {
                if changed.is_err() || !shared.sleep(SETTLE).await {
                    return;
                }
            }
        }
    }
}

/// Makes both objects say what the list of live servers says.
pub(super) async fn reconcile(shared: &Shared) -> Result<(), Status> {
    let live: BTreeSet<SocketAddr> = shared
        .core
        .cache
        .servers()
        .borrow()
        .values()
        .filter_map(|value| std::str::from_utf8(value).ok()?.parse().ok())
        .collect();
    // An empty list is a server that lost its lease, not a cluster without servers.
    if live.is_empty() {
        return Ok(());
    }
    let mut by_port: BTreeMap<u16, Vec<IpAddr>> = BTreeMap::new();
    for server in &live {
        by_port.entry(server.port()).or_default().push(server.ip());
    }
    let subsets: Vec<Value> = by_port
        .iter()
        .map(|(port, ips)| {
            let addresses: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
            json!({"addresses": addresses, "ports": [{"name": "https", "port": port, "protocol": "TCP"}]})
        })
        .collect();
    let row = |group, plural| find(group, "v1", plural).ok_or_else(Status::unknown_path);
    let wanted = json!({
        "metadata": {"name": NAME, "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": subsets,
    });
    apply(shared, row("", "endpoints")?, NAME, wanted, &["subsets"]).await?;
    for (index, (port, ips)) in by_port.iter().enumerate() {
        let endpoints: Vec<Value> = ips
            .iter()
            .map(|ip| json!({"addresses": [ip.to_string()], "conditions": {"ready": true}}))
            .collect();
        let name = if index == 0 {
            NAME.to_owned()
        } else {
            format!("{NAME}-{port}")
        };
        let family = if ips.iter().all(IpAddr::is_ipv6) {
            "IPv6"
        } else {
            "IPv4"
        };
        let slice = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": NAME}},
            "addressType": family,
            "endpoints": endpoints,
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        });
        apply(
            shared,
            row("discovery.k8s.io", "endpointslices")?,
            &name,
            slice,
            &["endpoints", "ports"],
        )
        .await?;
    }
    Ok(())
}

async fn apply(
    shared: &Shared,
    info: &'static ResourceInfo,
    name: &str,
    wanted: Value,
    fields: &[&str],
) -> Result<(), Status> {
    let current = shared.core.slot(info)?.get_named(Some(NAMESPACE), name);
    let Some(current) = current else {
        return shared.ensure(info, Some(NAMESPACE), wanted).await;
    };
    let same = |object: &Value| {
        fields
            .iter()
            .all(|field| object.get(*field) == wanted.get(*field))
    };
    if same(&current.value()) {
        return Ok(());
    }
    let target = UpdateTarget {
        info,
        subresource: None,
        namespace: Some(NAMESPACE),
        name,
    };
    let result = shared
        .update(&target, |object| {
            for field in fields {
                object[*field] = wanted[*field].clone();
            }
            if let Some(labels) = meta::labels(&wanted).cloned() {
                meta::set(object, "labels", labels);
            }
        })
        .await;
    match result {
        Err(status) if status.code == 404 => shared.ensure(info, Some(NAMESPACE), wanted).await,
        other => other.map(|_| ()),
    }
}
