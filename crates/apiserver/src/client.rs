//! Objects for the rest of the program, without HTTP.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use trivet_kube_schema::{ResourceInfo, Status, Verb, find};

use crate::auth::UserInfo;
use crate::list::{Freshness, ListOptions};
use crate::registry::{DeleteOptions, UpdateTarget, WriteContext};
use crate::request::Query;
use crate::select::Selection;
use crate::server::Core;

/// Reads and writes objects as the server itself: same rules and defaults as over HTTP, no
/// authorization. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    core: Arc<Core>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

/// A kind of object, as in paths: `("", "v1", "nodes")`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource<'a> {
    /// API group, empty for the core group.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Plural name in lower case.
    pub plural: &'a str,
}

impl<'a> Resource<'a> {
    /// A resource of the core group.
    pub const fn core(plural: &'a str) -> Self {
        Self {
            group: "",
            version: "v1",
            plural,
        }
    }

    fn info(self) -> Result<&'static ResourceInfo, Status> {
        find(self.group, self.version, self.plural)
            .filter(|i| i.has_verb(Verb::Get))
            .ok_or_else(Status::unknown_path)
    }
}

impl Client {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// One object, linearizably; `None` when there is none.
    pub async fn get(
        &self,
        resource: Resource<'_>,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<Value>, Status> {
        Ok(self
            .core
            .read(resource.info()?, namespace, name)
            .await?
            .map(|stored| stored.value))
    }

    /// Every object of a resource, of one namespace or all. Consistent with everything
    /// committed before the call.
    pub async fn list(
        &self,
        resource: Resource<'_>,
        namespace: Option<&str>,
    ) -> Result<Vec<Value>, Status> {
        let info = resource.info()?;
        let options = ListOptions::parse(&Query::default())?;
        let selection = Selection::parse(info, &Query::default())?;
        let listing = self
            .core
            .list(info, namespace, &options, &selection)
            .await?;
        Ok(listing
            .entries
            .iter()
            .map(|entry| trivet_kube_schema::from_storage(info, entry.value()))
            .collect())
    }

    /// Creates an object (409 AlreadyExists when it exists) and returns it as stored.
    pub async fn create(
        &self,
        resource: Resource<'_>,
        namespace: Option<&str>,
        object: Value,
    ) -> Result<Value, Status> {
        let info = resource.info()?;
        let user = UserInfo::internal();
        let object = typed(info, object)?;
        self.core
            .create(info, namespace, object, &WriteContext::new(&user))
            .await
    }

    /// Changes an object by a function of its current state and returns the result. Tried again
    /// when somebody else wrote in between; the function may therefore run several times.
    pub async fn update(
        &self,
        resource: Resource<'_>,
        namespace: Option<&str>,
        name: &str,
        change: impl Fn(&mut Value) + Send + Sync,
    ) -> Result<Value, Status> {
        self.update_part(resource, None, namespace, name, change)
            .await
    }

    /// The same for the status of an object.
    pub async fn update_status(
        &self,
        resource: Resource<'_>,
        namespace: Option<&str>,
        name: &str,
        change: impl Fn(&mut Value) + Send + Sync,
    ) -> Result<Value, Status> {
        self.update_part(resource, Some("status"), namespace, name, change)
            .await
    }

    async fn update_part(
        &self,
        resource: Resource<'_>,
        subresource: Option<&str>,
        namespace: Option<&str>,
        name: &str,
        change: impl Fn(&mut Value) + Send + Sync,
    ) -> Result<Value, Status> {
        let info = resource.info()?;
        let user = UserInfo::internal();
        let target = UpdateTarget {
            info,
            subresource,
            namespace,
            name,
        };
        let change = |current: &Value| {
            let mut new = current.clone();
            change(&mut new);
            Ok(new)
        };
        self.core
            .update(&target, &WriteContext::new(&user), change)
            .await
    }

    /// Deletes an object; `false` when there was none. Objects with finalizers are only marked.
    pub async fn delete(
        &self,
        resource: Resource<'_>,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<bool, Status> {
        let info = resource.info()?;
        let user = UserInfo::internal();
        let options = DeleteOptions::default();
        match self
            .core
            .delete(info, namespace, name, &options, &WriteContext::new(&user))
            .await
        {
            Ok(_) => Ok(true),
            Err(status) if status.code == 404 => Ok(false),
            Err(status) => Err(status),
        }
    }

    /// Wakes after every change of a resource. What changed is for the reader to find out.
    pub fn subscribe(
        &self,
        resource: Resource<'_>,
    ) -> Result<tokio::sync::watch::Receiver<u64>, Status> {
        Ok(self.core.slot(resource.info()?)?.subscribe())
    }

    /// Waits until the cache of this server holds everything committed before the call.
    pub async fn sync(&self) -> Result<(), Status> {
        self.core.fresh_cache(Freshness::Newest).await.map(|_| ())
    }
}

/// An object checked against its kind's table, with its type filled in.
pub(crate) fn typed(info: &ResourceInfo, mut object: Value) -> Result<Value, Status> {
    let api_version = info.api_version();
    if !object.is_object() {
        return Err(Status::bad_request("the body must be one object"));
    }
    trivet_kube_schema::meta::set_type(&mut object, &api_version, info.kind);
    trivet_kube_schema::schema::conform(&api_version, info.kind, &mut object)
        .map_err(|error| error.status(&api_version, info.kind))?;
    Ok(object)
}
