//! Creating objects.

use serde_json::Value;
use trivet_datastore::Expect;
use trivet_kube_schema::{FieldError, ResourceInfo, Status, meta, rules};

use super::WriteContext;
use crate::server::Core;

/// How many generated names are tried; kube-apiserver from 1.30 on: 8.
const NAME_ATTEMPTS: usize = 8;

impl Core {
    /// Creates an object, which is already decoded and of the right kind. Returns it as stored.
    pub(crate) async fn create(
        &self,
        info: &'static ResourceInfo,
        namespace: Option<&str>,
        mut object: Value,
        context: &WriteContext<'_>,
    ) -> Result<Value, Status> {
        place(info, namespace, &mut object)?;
        if meta::resource_version(&object).is_some_and(|v| v != "0") {
            return Err(Status::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        let generated = match (meta::name(&object), meta::generate_name(&object)) {
            (Some(_), _) => None,
            (None, Some(base)) => Some(base.to_owned()),
            (None, None) => {
                let error =
                    FieldError::required("metadata.name", "name or generateName is required");
                return Err(Status::invalid(info, "", &[error]));
            }
        };
        for field in [
            "managedFields",
            "selfLink",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "resourceVersion",
        ] {
            meta::unset(&mut object, field);
        }
        tidy_metadata(&mut object);
        meta::set(&mut object, "uid", self.uid());
        meta::set(
            &mut object,
            "creationTimestamp",
            meta::rfc3339(self.now_seconds()),
        );
        rules::set_generation(info, &mut object, None);
        rules::apply_defaults(info, &mut object);
        rules::retain_status(info, &mut object, None);
        self.prepare_kind(info, &mut object, context).await?;

        let mut attempts = if generated.is_some() {
            NAME_ATTEMPTS
        } else {
            1
        };
        loop {
            attempts -= 1;
            if let Some(base) = &generated {
                let name = meta::generated_name(base, &self.random());
                meta::set(&mut object, "name", name);
            }
            match self.create_named(info, namespace, &object, context).await {
                Err(status) if status.reason == "AlreadyExists" && attempts > 0 => {}
                Err(status) => return Err(status),
                Ok(None) => return Ok(object),
                Ok(Some(revision)) => {
                    meta::set_resource_version(&mut object, revision);
                    return Ok(object);
                }
            }
        }
    }

    async fn create_named(
        &self,
        info: &'static ResourceInfo,
        namespace: Option<&str>,
        object: &Value,
        context: &WriteContext<'_>,
    ) -> Result<Option<u64>, Status> {
        let name = meta::name(object).unwrap_or_default().to_owned();
        self.admit_namespace(info, namespace, &name).await?;
        self.admit_node(info, context, object, None)?;
        let errors = rules::validate_create(info, object);
        if !errors.is_empty() {
            return Err(Status::invalid(info, &name, &errors));
        }
        let key = Self::key(info, namespace, &name)?;
        if context.dry_run {
            return match self.read(info, namespace, &name).await? {
                Some(_) => Err(Status::already_exists(info, &name)),
                None => Ok(None),
            };
        }
        let value = self.encode(info, object)?;
        let lease = self.lease_for(info).await?;
        let mut outcome = self
            .write(key.clone(), value.clone(), Expect::Absent, lease)
            .await;
        if lease.is_some() && outcome.as_ref().is_err_and(|status| status.code == 500) {
            // The shared lease may be gone after a restore of the store; one new one is tried.
            self.event_lease.forget().await;
            let lease = self.lease_for(info).await?;
            outcome = self.write(key, value, Expect::Absent, lease).await;
        }
        match outcome? {
            Ok(revision) => Ok(Some(revision)),
            Err(_) => Err(Status::already_exists(info, &name)),
        }
    }
}

/// Leaves out what upstream's types leave out when it is empty.
pub(super) fn tidy_metadata(object: &mut Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let empty = metadata.get(field).is_some_and(|value| match value {
            Value::Object(map) => map.is_empty(),
            Value::Array(list) => list.is_empty(),
            other => other.is_null(),
        });
        if empty {
            metadata.remove(field);
        }
    }
}

/// Checks or sets the namespace of an object against the one of the request.
pub(super) fn place(
    info: &ResourceInfo,
    namespace: Option<&str>,
    object: &mut Value,
) -> Result<(), Status> {
    match (
        namespace.filter(|_| info.namespaced),
        meta::namespace(object),
    ) {
        (Some(asked), Some(own)) if asked != own => Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )),
        (Some(asked), _) => {
            meta::set(object, "namespace", asked);
            Ok(())
        }
        (None, _) if info.namespaced => Err(Status::bad_request(
            "an empty namespace may not be set during creation",
        )),
        (None, _) => {
            meta::unset(object, "namespace");
            Ok(())
        }
    }
}
