//! Deleting objects: at once, after a grace period, or when the last finalizer is gone.

use serde_json::Value;
use trivet_datastore::Expect;
use trivet_kube_schema::{ResourceInfo, Status, meta};

use super::admission::IMMORTAL;
use super::{Stored, WRITE_ATTEMPTS, WriteContext};
use crate::server::Core;

/// What happens to dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// DeleteOptions, checked.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_seconds: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) propagation: Option<Propagation>,
}

/// How a deletion ended.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// The object is gone; its last state.
    Gone(Value),
    /// The object is marked and waits for finalizers or its node.
    Marked(Value),
}

impl Core {
    /// Deletes an object.
    pub(crate) async fn delete(
        &self,
        info: &'static ResourceInfo,
        namespace: Option<&str>,
        name: &str,
        options: &DeleteOptions,
        context: &WriteContext<'_>,
    ) -> Result<Deleted, Status> {
        let is_namespace = (info.group, info.plural) == ("", "namespaces");
        if is_namespace && IMMORTAL.contains(&name) {
            return Err(Status::forbidden(
                info,
                name,
                "this namespace may not be deleted",
            ));
        }
        let missing = || Status::not_found(info, name);
        let mut current = self
            .read(info, namespace, name)
            .await?
            .ok_or_else(missing)?;
        for _ in 0..WRITE_ATTEMPTS {
            check_preconditions(info, name, options, &current)?;
            let marked = self.marked(info, options, &current.value);
            let lost = match marked {
                None if context.dry_run => return Ok(Deleted::Gone(current.value)),
                None => match self.remove(&current).await? {
                    Ok(_) => {
                        self.release_address(info, &current.value).await;
                        return Ok(Deleted::Gone(current.value));
                    }
                    Err(now) => now,
                },
                Some(new) if context.dry_run || new == current.value => {
                    return Ok(Deleted::Marked(new));
                }
                Some(mut new) => {
                    let value = self.encode(info, &new)?;
                    let expect = Expect::ModRevision(current.pair.mod_revision);
                    match self
                        .write(current.pair.key.clone(), value, expect, current.pair.lease)
                        .await?
                    {
                        Ok(revision) => {
                            meta::set_resource_version(&mut new, revision);
                            return Ok(Deleted::Marked(new));
                        }
                        Err(now) => now,
                    }
                }
            };
            current = self.decode(info, lost.ok_or_else(missing)?)?;
        }
        Err(Status::conflict_modified(info, name))
    }

    /// The object marked for deletion, or `None` when nothing holds it.
    fn marked(&self, info: &ResourceInfo, options: &DeleteOptions, old: &Value) -> Option<Value> {
        let mut new = old.clone();
        let deleting = meta::deletion_timestamp(old).is_some();
        let mut finalizers: Vec<String> = meta::finalizers(old)
            .into_iter()
            .map(str::to_owned)
            .collect();
        let wanted = match options.propagation {
            Some(Propagation::Foreground) => Some("foregroundDeletion"),
            Some(Propagation::Orphan) => Some("orphan"),
            _ => None,
        };
        if let Some(policy) = options.propagation
            && !deleting
        {
            let drop = match policy {
                Propagation::Background => &["foregroundDeletion", "orphan"][..],
                Propagation::Foreground => &["orphan"],
                Propagation::Orphan => &["foregroundDeletion"],
            };
            finalizers.retain(|f| !drop.contains(&f.as_str()));
            if let Some(wanted) = wanted
                && !finalizers.iter().any(|f| f == wanted)
            {
                finalizers.push(wanted.to_owned());
            }
        }
        let is_namespace = (info.group, info.plural) == ("", "namespaces");
        let held_by_namespace = is_namespace
            && old
                .pointer("/spec/finalizers")
                .and_then(Value::as_array)
                .is_some_and(|f| !f.is_empty());
        let grace = if (info.group, info.plural) == ("", "pods") {
            pod_grace(options, old)
        } else {
            0
        };
        if finalizers.is_empty() && !held_by_namespace && grace == 0 {
            return None;
        }
        if finalizers.is_empty() {
            meta::unset(&mut new, "finalizers");
        } else {
            meta::set(&mut new, "finalizers", finalizers);
        }
        let before = old
            .pointer("/metadata/deletionGracePeriodSeconds")
            .and_then(Value::as_i64);
        // A second deletion can only shorten the wait.
        if !deleting || before.is_some_and(|before| grace < before) {
            meta::set(
                &mut new,
                "deletionTimestamp",
                meta::rfc3339(self.now_seconds() + grace),
            );
            meta::set(&mut new, "deletionGracePeriodSeconds", grace);
            if info.has_spec_generation && !deleting {
                meta::set(
                    &mut new,
                    "generation",
                    meta::generation(old).unwrap_or(0) + 1,
                );
            }
        }
        if is_namespace {
            new["status"]["phase"] = "Terminating".into();
        }
        Some(new)
    }
}

fn check_preconditions(
    info: &ResourceInfo,
    name: &str,
    options: &DeleteOptions,
    current: &Stored,
) -> Result<(), Status> {
    let uid = meta::uid(&current.value).unwrap_or_default();
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid) {
        return Err(Status::uid_precondition(info, name, wanted, uid));
    }
    let version = current.pair.mod_revision.0.to_string();
    if let Some(wanted) = options
        .resource_version
        .as_deref()
        .filter(|wanted| *wanted != version)
    {
        return Err(Status::version_precondition(info, name, wanted, &version));
    }
    Ok(())
}

/// A pod that no node runs needs no grace; one that runs gets what was asked for, or what its
/// spec says.
fn pod_grace(options: &DeleteOptions, pod: &Value) -> i64 {
    let bound = pod
        .pointer("/spec/nodeName")
        .and_then(Value::as_str)
        .is_some_and(|n| !n.is_empty());
    let phase = pod.pointer("/status/phase").and_then(Value::as_str);
    if !bound || matches!(phase, Some("Succeeded" | "Failed")) {
        return 0;
    }
    let own = pod
        .pointer("/spec/terminationGracePeriodSeconds")
        .and_then(Value::as_i64);
    options.grace_seconds.or(own).unwrap_or(30).max(0)
}
