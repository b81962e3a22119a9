//! What every namespace has: ServiceAccount `default` and ConfigMap `kube-root-ca.crt`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use trivet_kube_schema::Status;

use super::{Shared, Trigger, lead};
use crate::registry::UpdateTarget;

const ACCOUNT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using \
    internal endpoints such as the internal service IP or kubernetes.default.svc.";

/// Runs while this server leads.
pub(super) async fn run(shared: Arc<Shared>, leading: watch::Receiver<bool>) {
    let slots = ["namespaces", "serviceaccounts", "configmaps"];
    let slots = slots
        .into_iter()
        .filter_map(|plural| shared.slot("", plural))
        .collect();
    let trigger = Trigger {
        slots,
        period: Duration::from_secs(300),
    };
    lead(shared, leading, trigger, |shared| Box::pin(round(shared))).await;
}

async fn round(shared: Arc<Shared>) -> Result<bool, Status> {
    let slot = |plural| shared.slot("", plural);
    let (Some(namespaces), Some(accounts), Some(maps)) = (
        slot("namespaces"),
        slot("serviceaccounts"),
        slot("configmaps"),
    ) else {
        return Ok(false);
    };
    for namespace in namespaces.all("").iter().filter(|entry| !entry.deleting) {
        let name = namespace.name();
        if accounts.get_named(Some(name), ACCOUNT).is_none() {
            let account = json!({"metadata": {"name": ACCOUNT}});
            settle(shared.ensure(accounts.info, Some(name), account).await)?;
        }
        publish(&shared, &maps, name).await?;
    }
    Ok(false)
}

async fn publish(
    shared: &Shared,
    maps: &crate::cache::Slot,
    namespace: &str,
) -> Result<(), Status> {
    let pem = shared.core.config.root_ca_pem.as_str();
    if pem.is_empty() {
        return Ok(());
    }
    let data = json!({"ca.crt": pem});
    match maps.get_named(Some(namespace), ROOT_CA) {
        None => {
            let map = json!({
                "metadata": {
                    "name": ROOT_CA,
                    "annotations": {"kubernetes.io/description": DESCRIPTION},
                },
                "data": data,
            });
            settle(shared.ensure(maps.info, Some(namespace), map).await)
        }
        Some(entry) if entry.value().get("data") != Some(&data) => {
            let target = UpdateTarget {
                info: maps.info,
                subresource: None,
                namespace: Some(namespace),
                name: ROOT_CA,
            };
            settle(
                shared
                    .update(&target, |map| map["data"] = data.clone())
                    .await
                    .map(|_| ()),
            )
        }
        Some(_) => Ok(()),
    }
}

/// A namespace that went away meanwhile is no error.
fn settle(result: Result<(), Status>) -> Result<(), Status> {
    match result {
        Err(status) if matches!(status.code, 403 | 404) => Ok(()),
        other => other,
    }
}
