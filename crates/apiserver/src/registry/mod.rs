//! Objects on the store: the one read path and the one write path behind every resource.

mod admission;
mod create;
mod delete;
mod kinds;
mod lease;
mod service_ip;
mod update;

use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::Value;
use trivet_datastore::{
    Effect, Error, Expect, KeyRange, KeyValue, LeaseId, PutRequest, RangePage, RangeRequest,
    Revision, WriteOutcome,
};
use trivet_kube_schema::{ResourceInfo, Status, from_storage, meta};

pub(crate) use delete::{DeleteOptions, Deleted, Propagation};
pub(crate) use lease::SharedLease;
pub(crate) use service_ip::address;
pub(crate) use update::UpdateTarget;

use crate::auth::UserInfo;
use crate::cache::{Entry, Slot};
use crate::server::Core;

/// How often a write is tried again when somebody else wrote in between; kube-apiserver's
/// patch loop: 5.
const WRITE_ATTEMPTS: usize = 5;

/// What to do about fields nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// Who writes, and how.
pub(crate) struct WriteContext<'a> {
    pub(crate) user: &'a UserInfo,
    pub(crate) dry_run: bool,
    pub(crate) validation: FieldValidation,
    /// Texts for `Warning` headers.
    pub(crate) warnings: Mutex<Vec<String>>,
}

impl<'a> WriteContext<'a> {
    pub(crate) fn new(user: &'a UserInfo) -> Self {
        Self {
            user,
            dry_run: false,
            validation: FieldValidation::Ignore,
            warnings: Mutex::default(),
        }
    }

    pub(crate) fn warn(&self, texts: Vec<String>) {
        self.warnings
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .extend(texts);
    }
}

/// A store error as an answer. `Unknown` outcomes are never called failures.
pub(crate) fn store_error(error: &Error) -> Status {
    match error {
        Error::Unavailable {
            effect: Effect::Unknown,
            ..
        }
        | Error::Corrupt(_) => {
            let mut status = Status::timeout(
                format!("the outcome of the request is unknown, it may have been applied: {error}"),
                0,
            );
            // No Retry-After: a client must look before it repeats a write.
            status.details = None;
            status
        }
        Error::Unavailable { retry_after, .. } => {
            let seconds = retry_after.map_or(1, |d| d.as_secs().clamp(1, 30) as u32);
            let mut status =
                Status::unavailable(format!("{error}; nothing was changed, try again"));
            status.details = Status::too_many_requests("", seconds).details;
            status
        }
        Error::Compacted { .. } => Status::expired_list(),
        Error::FutureRevision { requested, current } => {
            Status::too_large_resource_version(requested.0, current.0)
        }
        Error::TooLarge { limit_bytes, .. } => Status::too_large_body(*limit_bytes as usize),
        other => Status::internal(other),
    }
}

/// An object as read from the store.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// In the resource's own form, with resourceVersion.
    pub(crate) value: Value,
    /// As it lies in the store.
    pub(crate) pair: KeyValue,
}

impl Core {
    /// Unix time in seconds.
    pub(crate) fn now_seconds(&self) -> i64 {
        self.config
            .env
            .clock
            .wall()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs() as i64)
    }

    /// Unix time in microseconds.
    pub(crate) fn now_micros(&self) -> i64 {
        self.config
            .env
            .clock
            .wall()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_micros() as i64)
    }

    pub(crate) fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.config.env.rng.fill(&mut bytes);
        bytes
    }

    pub(crate) fn uid(&self) -> String {
        meta::uid_from_random(self.random())
    }

    /// The slot of a stored resource.
    pub(crate) fn slot(&self, info: &ResourceInfo) -> Result<&Arc<Slot>, Status> {
        self.cache.slot(info).ok_or_else(Status::method_unknown)
    }

    fn key(info: &ResourceInfo, namespace: Option<&str>, name: &str) -> Result<Bytes, Status> {
        // A name with a slash would be a key of another object.
        if name.is_empty() || name.contains('/') || namespace.is_some_and(|n| n.contains('/')) {
            return Err(Status::not_found(info, name));
        }
        info.key(namespace, name)
            .map(Bytes::from)
            .ok_or_else(Status::method_unknown)
    }

    /// The newest revision of the store, linearizably.
    pub(crate) async fn newest_revision(&self) -> Result<u64, Status> {
        let request = RangeRequest {
            // No object has this key: only the revision is of interest.
            range: KeyRange::Key(Bytes::from_static(b"/registry")),
            after: None,
            limit: 1,
            at: None,
            serializable: false,
            count_only: true,
        };
        let page = self
            .config
            .datastore
            .range(request)
            .await
            .map_err(|e| store_error(&e))?;
        Ok(page.revision.0)
    }

    /// One page of stored pairs, at a revision or the newest.
    pub(crate) async fn range(
        &self,
        prefix: String,
        after: Option<String>,
        limit: usize,
        at: Option<u64>,
    ) -> Result<RangePage, Error> {
        let request = RangeRequest {
            range: KeyRange::Prefix(Bytes::from(prefix)),
            after: after.map(Bytes::from),
            limit,
            at: at.map(Revision),
            serializable: false,
            count_only: false,
        };
        self.config.datastore.range(request).await
    }

    /// One object, linearizably.
    pub(crate) async fn read(
        &self,
        info: &ResourceInfo,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<Stored>, Status> {
        let pair = self.read_pair(info, namespace, name).await?;
        pair.map(|pair| self.decode(info, pair)).transpose()
    }

    /// One object, linearizably, as the cache would hold it.
    pub(crate) async fn read_entry(
        &self,
        info: &ResourceInfo,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<Entry>, Status> {
        let pair = self.read_pair(info, namespace, name).await?;
        Ok(match pair {
            Some(pair) => self.slot(info)?.entry(&pair),
            None => None,
        })
    }

    async fn read_pair(
        &self,
        info: &ResourceInfo,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<KeyValue>, Status> {
        let request = RangeRequest {
            range: KeyRange::Key(Self::key(info, namespace, name)?),
            after: None,
            limit: 1,
            at: None,
            serializable: false,
            count_only: false,
        };
        let page = self
            .config
            .datastore
            .range(request)
            .await
            .map_err(|e| store_error(&e))?;
        Ok(page.items.into_iter().next())
    }

    /// A stored pair as an object of `info`.
    pub(crate) fn decode(&self, info: &ResourceInfo, pair: KeyValue) -> Result<Stored, Status> {
        let entry = self.slot(info)?.entry(&pair);
        let entry = entry.ok_or_else(|| Status::internal("a stored value is not an object"))?;
        Ok(Stored {
            value: from_storage(info, entry.value()),
            pair,
        })
    }

    /// The bytes to store for an object in `info`'s form.
    fn encode(&self, info: &ResourceInfo, object: &Value) -> Result<Bytes, Status> {
        let stored = trivet_kube_schema::to_storage(info, object.clone());
        Ok(self.slot(info)?.header.encode(&stored).into())
    }

    /// Writes one object. `Ok(Err(current))` is a lost race.
    async fn write(
        &self,
        key: Bytes,
        value: Bytes,
        expect: Expect,
        lease: Option<LeaseId>,
    ) -> Result<Result<u64, Option<KeyValue>>, Status> {
        let request = PutRequest {
            key,
            value,
            expect,
            lease,
        };
        match self.config.datastore.put(request).await {
            Ok(WriteOutcome::Committed { revision, .. }) => Ok(Ok(revision.0)),
            Ok(WriteOutcome::Conflict { current, .. }) => Ok(Err(current)),
            Err(error) => Err(store_error(&error)),
        }
    }

    /// The lease that an object of an expiring kind dies with.
    async fn lease_for(&self, info: &ResourceInfo) -> Result<Option<LeaseId>, Status> {
        if info.ttl_seconds.is_none() {
            return Ok(None);
        }
        let ttl: Duration = self.config.timings.event_ttl;
        let lease = self
            .event_lease
            .get(self.config.datastore.as_ref(), &self.config.env, ttl)
            .await;
        lease.map(Some).map_err(|e| store_error(&e))
    }
}
