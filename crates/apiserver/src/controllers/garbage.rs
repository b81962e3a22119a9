//! Deletes dependents whose owners are gone, and works off the two finalizers that deletions
//! with a propagation policy set.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use trivet_kube_schema::{Status, find_kind, meta};

use super::{Shared, Trigger, lead};
use crate::cache::{Entry, Slot};
use crate::registry::UpdateTarget;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// Runs while this server leads.
pub(super) async fn run(shared: Arc<Shared>, leading: watch::Receiver<bool>) {
    // Heartbeats and events change all the time and own nothing.
    let slots = shared.core.cache.slots().iter();
    let slots = slots
        .filter(|s| !matches!(s.info.plural, "leases" | "events"))
        .cloned()
        .collect();
    let trigger = Trigger {
        slots,
        period: Duration::from_secs(60),
    };
    lead(shared, leading, trigger, |shared| Box::pin(round(shared))).await;
}

async fn round(shared: Arc<Shared>) -> Result<bool, Status> {
    let mut again = false;
    for slot in shared.core.cache.slots() {
        for entry in slot.all("") {
            if !entry.owners.is_empty() && !entry.deleting {
                collect(&shared, slot, &entry).await?;
            }
            if entry.deleting {
                again |= finalize(&shared, slot, &entry).await?;
            }
        }
    }
    Ok(again)
}

/// Deletes an object all of whose owners are gone.
async fn collect(shared: &Shared, slot: &Slot, entry: &Entry) -> Result<(), Status> {
    for owner in &entry.owners {
        let (group, version) = owner
            .api_version
            .split_once('/')
            .unwrap_or(("", &owner.api_version));
        // An owner of a kind that is not served here cannot be looked for.
        let Some(info) = find_kind(group, version, &owner.kind) else {
            return Ok(());
        };
        let Some(owners) = shared.core.cache.slot(info) else {
            return Ok(());
        };
        let namespace = entry.namespace().filter(|_| info.namespaced);
        if owners
            .get_named(namespace, &owner.name)
            .is_some_and(|found| *found.uid == *owner.uid)
        {
            return Ok(());
        }
        // The store decides before anything is destroyed.
        let found = shared.core.read(info, namespace, &owner.name).await?;
        if found.is_some_and(|found| meta::uid(&found.value) == Some(&owner.uid)) {
            return Ok(());
        }
    }
    shared.delete(slot, entry).await
}

/// Works off `foregroundDeletion` and `orphan`; true when dependents are still there.
async fn finalize(shared: &Shared, slot: &Slot, entry: &Entry) -> Result<bool, Status> {
    let object = entry.value();
    let finalizers = meta::finalizers(&object);
    let (foreground, orphan) = (
        finalizers.contains(&FOREGROUND),
        finalizers.contains(&ORPHAN),
    );
    if !foreground && !orphan {
        return Ok(false);
    }
    let mut waiting = false;
    for other in shared.core.cache.slots() {
        for dependent in other.all("") {
            if !dependent
                .owners
                .iter()
                .any(|owner| *owner.uid == *entry.uid)
            {
                continue;
            }
            if orphan {
                release(shared, other, &dependent, &entry.uid).await?;
            } else {
                waiting = true;
                if !dependent.deleting {
                    shared.delete(other, &dependent).await?;
                }
            }
        }
    }
    if waiting {
        return Ok(true);
    }
    let target = UpdateTarget {
        info: slot.info,
        subresource: None,
        namespace: entry.namespace(),
        name: entry.name(),
    };
    let updated = shared
        .update(&target, |object| {
            let kept: Vec<String> = meta::finalizers(object)
                .into_iter()
                .filter(|f| *f != FOREGROUND && *f != ORPHAN)
                .map(str::to_owned)
                .collect();
            meta::set(object, "finalizers", kept);
        })
        .await;
    match updated {
        Err(status) if status.code != 404 => Err(status),
        _ => Ok(false),
    }
}

async fn release(
    shared: &Shared,
    slot: &Slot,
    dependent: &Entry,
    owner: &str,
) -> Result<(), Status> {
    let target = UpdateTarget {
        info: slot.info,
        subresource: None,
        namespace: dependent.namespace(),
        name: dependent.name(),
    };
    let updated = shared
        .update(&target, |object| {
            let kept: Vec<Value> = meta::owner_references(object)
                .iter()
                .filter(|reference| reference.get("uid").and_then(Value::as_str) != Some(owner))
                .cloned()
                .collect();
            meta::set(object, "ownerReferences", kept);
        })
        .await;
    match updated {
        Err(status) if status.code != 404 => Err(status),
        _ => Ok(()),
    }
}
