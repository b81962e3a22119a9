//! Updating objects: read, change, compare and swap.

use serde_json::Value;
use trivet_datastore::{DeleteRequest, Expect, WriteOutcome};
use trivet_kube_schema::{FieldError, ResourceInfo, Status, meta, rules};

use super::create::{place, tidy_metadata};
use super::{Stored, WRITE_ATTEMPTS, WriteContext, store_error};
use crate::server::Core;

/// An object to update.
pub(crate) struct UpdateTarget<'a> {
    pub(crate) info: &'static ResourceInfo,
    /// `status`, `finalize`, or none for the object itself.
    pub(crate) subresource: Option<&'a str>,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) name: &'a str,
}

impl Core {
    /// Replaces an object by a given one; creates it where the kind allows that. The flag says
    /// whether it was created.
    pub(crate) async fn replace(
        &self,
        target: &UpdateTarget<'_>,
        object: Value,
        context: &WriteContext<'_>,
    ) -> Result<(Value, bool), Status> {
        let info = target.info;
        if let Some(name) = meta::name(&object).filter(|n| *n != target.name) {
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                target.name
            )));
        }
        let version = meta::resource_version(&object).filter(|v| *v != "0");
        if version.is_none() && !info.unconditional_update {
            let exists = self
                .read(info, target.namespace, target.name)
                .await?
                .is_some();
            if exists || !info.create_on_update {
                let error = FieldError::invalid(
                    "metadata.resourceVersion",
                    Value::from(0),
                    "must be specified for an update",
                );
                return Err(Status::invalid(info, target.name, &[error]));
            }
        }
        let creates = info.create_on_update && target.subresource.is_none() && version.is_none();
        let result = self.update(target, context, |_| Ok(object.clone())).await;
        match result {
            Err(status) if status.code == 404 && creates => {
                let mut object = object.clone();
                meta::set(&mut object, "name", target.name);
                let created = self.create(info, target.namespace, object, context).await?;
                Ok((created, true))
            }
            other => other.map(|value| (value, false)),
        }
    }

    /// Changes an object by a function of its current state, trying again when somebody else
    /// was faster, unless the result insists on a resourceVersion. Returns it as stored.
    pub(crate) async fn update(
        &self,
        target: &UpdateTarget<'_>,
        context: &WriteContext<'_>,
        change: impl Fn(&Value) -> Result<Value, Status> + Send,
    ) -> Result<Value, Status> {
        let UpdateTarget {
            info,
            namespace,
            name,
            ..
        } = *target;
        let missing = || Status::not_found(info, name);
        let mut current = self
            .read(info, namespace, name)
            .await?
            .ok_or_else(missing)?;
        for _ in 0..WRITE_ATTEMPTS {
            let wanted = change(&current.value)?;
            let new = self.merged(target, wanted, &current, context)?;
            if completes_deletion(info, &new) && !context.dry_run {
                match self.remove(&current).await? {
                    Ok(revision) => {
                        let mut new = new;
                        meta::set_resource_version(&mut new, revision);
                        return Ok(new);
                    }
                    Err(now) => current = self.decode(info, now.ok_or_else(missing)?)?,
                }
                continue;
            }
            let value = self.encode(info, &new)?;
            if context.dry_run || value == current.pair.value {
                return Ok(new);
            }
            let expect = Expect::ModRevision(current.pair.mod_revision);
            // An expiring object keeps the life it has.
            let written = self
                .write(current.pair.key.clone(), value, expect, current.pair.lease)
                .await?;
            match written {
                Ok(revision) => {
                    let mut new = new;
                    meta::set_resource_version(&mut new, revision);
                    return Ok(new);
                }
                Err(now) => current = self.decode(info, now.ok_or_else(missing)?)?,
            }
        }
        Err(Status::conflict_modified(info, name))
    }

    /// Deletes exactly the version that was read. `Ok(Err(current))` is a lost race.
    pub(super) async fn remove(
        &self,
        current: &Stored,
    ) -> Result<Result<u64, Option<trivet_datastore::KeyValue>>, Status> {
        let request = DeleteRequest {
            key: current.pair.key.clone(),
            expect: Expect::ModRevision(current.pair.mod_revision),
        };
        match self.config.datastore.delete(request).await {
            Ok(WriteOutcome::Committed { revision, .. }) => Ok(Ok(revision.0)),
            Ok(WriteOutcome::Conflict { current, .. }) => Ok(Err(current)),
            Err(error) => Err(store_error(&error)),
        }
    }

    /// The new state that results from what the client wants and what it may change.
    fn merged(
        &self,
        target: &UpdateTarget<'_>,
        mut new: Value,
        current: &Stored,
        context: &WriteContext<'_>,
    ) -> Result<Value, Status> {
        let UpdateTarget {
            info,
            subresource,
            namespace,
            name,
        } = *target;
        let old = &current.value;
        place(info, namespace, &mut new)?;
        if meta::name(&new).is_some_and(|n| n != name) {
            let value = Value::from(meta::name(&new).unwrap_or_default());
            let error = FieldError::invalid("metadata.name", value, "field is immutable");
            return Err(Status::invalid(info, name, &[error]));
        }
        let found = current.pair.mod_revision.0.to_string();
        if meta::resource_version(&new).is_some_and(|v| v != "0" && v != found) {
            return Err(Status::conflict_modified(info, name));
        }
        let old_uid = meta::uid(old).unwrap_or_default();
        if let Some(uid) = meta::uid(&new).filter(|uid| *uid != old_uid) {
            return Err(Status::uid_precondition(info, name, uid, old_uid));
        }
        tidy_metadata(&mut new);
        meta::set_type(&mut new, &info.api_version(), info.kind);
        meta::set(&mut new, "name", name);
        for field in [
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "resourceVersion",
            "generateName",
        ] {
            match old.pointer(&format!("/metadata/{field}")) {
                Some(value) => meta::set(&mut new, field, value.clone()),
                None => meta::unset(&mut new, field),
            }
        }
        for field in ["managedFields", "selfLink"] {
            meta::unset(&mut new, field);
        }
        match subresource {
            Some("status") => rules::retain_spec(info, &mut new, old),
            Some("finalize") => {
                let finalizers = new.pointer("/spec/finalizers").cloned();
                new = old.clone();
                if let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) {
                    match finalizers {
                        Some(finalizers) => spec.insert("finalizers".to_owned(), finalizers),
                        None => spec.remove("finalizers"),
                    };
                }
            }
            _ => {
                rules::retain_status(info, &mut new, Some(old));
                retain_kind(info, &mut new, old);
            }
        }
        rules::apply_defaults(info, &mut new);
        rules::set_generation(info, &mut new, Some(old));
        self.admit_node(info, context, &new, Some(old))?;
        let errors = rules::validate_update(info, &new, old);
        if errors.is_empty() {
            Ok(new)
        } else {
            Err(Status::invalid(info, name, &errors))
        }
    }
}

/// Fields of single kinds that a write of the whole object cannot change.
fn retain_kind(info: &ResourceInfo, new: &mut Value, old: &Value) {
    if (info.group, info.plural) != ("", "services") {
        return;
    }
    // An address once allocated stays, also when a client leaves it out.
    for field in ["clusterIP", "clusterIPs"] {
        let missing = new
            .pointer(&format!("/spec/{field}"))
            .is_none_or(|v| v.is_null() || v == "");
        if let (true, Some(value)) = (missing, old.pointer(&format!("/spec/{field}")))
            && let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut)
            && spec.get("type").and_then(Value::as_str) != Some("ExternalName")
        {
            spec.insert(field.to_owned(), value.clone());
        }
    }
}

/// Whether nothing holds an object that is being deleted any more.
fn completes_deletion(info: &ResourceInfo, object: &Value) -> bool {
    if meta::deletion_timestamp(object).is_none() || !meta::finalizers(object).is_empty() {
        return false;
    }
    if (info.group, info.plural) == ("", "namespaces") {
        return object
            .pointer("/spec/finalizers")
            .and_then(Value::as_array)
            .is_none_or(Vec::is_empty);
    }
    // Within its grace period an object waits for its node.
    object
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(0)
        == 0
}
