//! Deletes what is in a namespace that is being deleted, then the namespace.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use trivet_kube_schema::{Status, Verb};

use super::{Shared, Trigger, lead};
use crate::registry::UpdateTarget;
use crate::registry::store_error;

/// Runs while this server leads.
pub(super) async fn run(shared: Arc<Shared>, leading: watch::Receiver<bool>) {
    let Some(slot) = shared.slot("", "namespaces") else {
        return;
    };
    let trigger = Trigger {
        slots: vec![slot],
        period: Duration::from_secs(60),
    };
    lead(shared, leading, trigger, |shared| Box::pin(round(shared))).await;
}

async fn round(shared: Arc<Shared>) -> Result<bool, Status> {
    let Some(slot) = shared.slot("", "namespaces") else {
        return Ok(false);
    };
    let mut unfinished = false;
    for entry in slot.all("").iter().filter(|entry| entry.deleting) {
        unfinished |= !finish(&shared, entry.name()).await?;
    }
    Ok(unfinished)
}

/// One round of work on a namespace; true when it is gone.
async fn finish(shared: &Shared, name: &str) -> Result<bool, Status> {
    let scope = format!("{name}/");
    let namespaced = || {
        shared
            .core
            .cache
            .slots()
            .iter()
            .filter(|s| s.info.namespaced && s.info.has_verb(Verb::Delete))
    };
    for slot in namespaced() {
        for entry in slot.all(&scope) {
            shared.delete(slot, &entry).await?;
        }
    }
    // The cache may be a moment behind: what counts is the store.
    for slot in namespaced() {
        let prefix = format!("{}{scope}", slot.prefix);
        let page = shared
            .core
            .range(prefix, None, 1, None)
            .await
            .map_err(|e| store_error(&e))?;
        if !page.items.is_empty() {
            return Ok(false);
        }
    }
    let Some(info) = trivet_kube_schema::find("", "v1", "namespaces") else {
        return Ok(true);
    };
    let target = UpdateTarget {
        info,
        subresource: Some("finalize"),
        namespace: None,
        name,
    };
    let finalized = shared
        .update(&target, |namespace| {
            let finalizers = namespace
                .pointer_mut("/spec/finalizers")
                .and_then(Value::as_array_mut);
            if let Some(finalizers) = finalizers {
                finalizers.retain(|f| f != "kubernetes");
            }
        })
        .await;
    match finalized {
        Ok(_) => Ok(true),
        Err(status) if status.code == 404 => Ok(true),
        Err(status) => Err(status),
    }
}
