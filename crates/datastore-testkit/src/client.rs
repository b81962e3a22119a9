//! A store with shortcuts for tests. Errors are panics with the request in them.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::timeout;
use trivet_datastore::{
    Datastore, DeleteRequest, Error, Expect, ExportItem, KeyRange, KeyValue, LeaseId, PutRequest,
    RangePage, RangeRequest, Result, Revision, WatchBatch, WatchRequest, WatchStream, WriteOutcome,
};

/// A handle to one member.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) store: Arc<dyn Datastore>,
    pub(crate) patience: Duration,
}

/// The pairs of a range with every choice at its plainest.
pub(crate) fn read(range: KeyRange) -> RangeRequest {
    RangeRequest {
        range,
        after: None,
        limit: 0,
        at: None,
        serializable: false,
        count_only: false,
    }
}

pub(crate) fn prefix(prefix: impl Into<Bytes>) -> KeyRange {
    KeyRange::Prefix(prefix.into())
}

pub(crate) fn key(key: impl Into<Bytes>) -> KeyRange {
    KeyRange::Key(key.into())
}

/// The keys of a page, as text.
pub(crate) fn keys(page: &RangePage) -> Vec<String> {
    page.items
        .iter()
        .map(|pair| String::from_utf8_lossy(&pair.key).into_owned())
        .collect()
}

impl Client {
    /// Waits for what must happen soon.
    pub(crate) async fn soon<T>(&self, what: &str, future: impl Future<Output = T>) -> T {
        match timeout(self.patience, future).await {
            Ok(value) => value,
            Err(_) => panic!("waited {:?} in vain for {what}", self.patience),
        }
    }

    /// Repeats until there is something.
    pub(crate) async fn until<T, F>(&self, what: &str, mut attempt: impl FnMut() -> F) -> T
    where
        F: Future<Output = Option<T>>,
    {
        let repeated = async {
            loop {
                if let Some(value) = attempt().await {
                    return value;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        self.soon(what, repeated).await
    }

    pub(crate) async fn try_put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        expect: Expect,
        lease: Option<LeaseId>,
    ) -> Result<WriteOutcome> {
        let request = PutRequest {
            key: key.into(),
            value: value.into(),
            expect,
            lease,
        };
        self.soon("a put", self.store.put(request)).await
    }

    pub(crate) async fn try_delete(
        &self,
        key: impl Into<Bytes>,
        expect: Expect,
    ) -> Result<WriteOutcome> {
        let request = DeleteRequest {
            key: key.into(),
            expect,
        };
        self.soon("a delete", self.store.delete(request)).await
    }

    /// Puts without expectation and returns the revision.
    pub(crate) async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Revision {
        committed(self.try_put(key, value, Expect::Any, None).await).0
    }

    pub(crate) async fn put_leased(&self, key: impl Into<Bytes>, lease: LeaseId) -> Revision {
        committed(self.try_put(key, "leased", Expect::Any, Some(lease)).await).0
    }

    pub(crate) async fn delete(&self, key: impl Into<Bytes>) -> Revision {
        committed(self.try_delete(key, Expect::Any).await).0
    }

    pub(crate) async fn try_range(&self, request: RangeRequest) -> Result<RangePage> {
        self.soon("a range", self.store.range(request)).await
    }

    pub(crate) async fn range(&self, request: RangeRequest) -> RangePage {
        let shown = format!("{request:?}");
        self.try_range(request)
            .await
            .unwrap_or_else(|error| panic!("{shown}: {error}"))
    }

    pub(crate) async fn list(&self, range: KeyRange) -> RangePage {
        self.range(read(range)).await
    }

    pub(crate) async fn get(&self, name: impl Into<Bytes>) -> Option<KeyValue> {
        self.list(key(name)).await.items.into_iter().next()
    }

    /// The store's newest revision, linearizably.
    pub(crate) async fn revision(&self) -> Revision {
        self.range(RangeRequest {
            count_only: true,
            ..read(KeyRange::all())
        })
        .await
        .revision
    }

    pub(crate) async fn watch(&self, range: KeyRange, start: Option<Revision>) -> Watch {
        self.watch_with(WatchRequest {
            range,
            start,
            previous: false,
            progress: false,
        })
        .await
    }

    pub(crate) async fn watch_with(&self, request: WatchRequest) -> Watch {
        let shown = format!("{request:?}");
        let opened = self
            .soon("a watch to open", self.store.watch(request))
            .await;
        let stream = opened.unwrap_or_else(|error| panic!("{shown}: {error}"));
        Watch {
            stream,
            client: self.clone(),
        }
    }

    /// Opens a watch that must end with an error, now or as its first item.
    pub(crate) async fn watch_error(&self, range: KeyRange, start: Revision) -> Error {
        let request = WatchRequest {
            range,
            start: Some(start),
            previous: false,
            progress: false,
        };
        match self
            .soon("a watch to open", self.store.watch(request))
            .await
        {
            Err(error) => error,
            Ok(stream) => match (Watch {
                stream,
                client: self.clone(),
            })
            .item()
            .await
            {
                Some(Err(error)) => error,
                other => panic!("a watch from {start} gave {other:?}"),
            },
        }
    }

    pub(crate) async fn lease(&self, ttl: Duration) -> trivet_datastore::Lease {
        let lease = ok(self.soon("a lease", self.store.grant_lease(ttl)).await);
        assert!(
            lease.ttl >= ttl,
            "a lease of {ttl:?} was shortened to {:?}",
            lease.ttl
        );
        lease
    }

    pub(crate) async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.soon("a revocation", self.store.revoke_lease(lease))
            .await
    }

    pub(crate) async fn compact(&self, revision: Revision) -> Result<()> {
        self.soon("a compaction", self.store.compact(revision))
            .await
    }

    pub(crate) async fn export(&self) -> Vec<ExportItem> {
        let collect = async {
            let stream = ok(self.store.export().await);
            stream.map(ok).collect().await
        };
        self.soon("an export", collect).await
    }
}

/// A watch that is waited for with patience.
pub(crate) struct Watch {
    stream: WatchStream,
    client: Client,
}

impl Watch {
    pub(crate) async fn item(&mut self) -> Option<Result<WatchBatch>> {
        self.client.soon("a watch", self.stream.next()).await
    }

    pub(crate) async fn batch(&mut self) -> WatchBatch {
        match self.item().await {
            Some(Ok(batch)) => batch,
            other => panic!("a watch ended with {other:?}"),
        }
    }

    /// Batches up to one that comes to `revision` or further, or has events at it.
    pub(crate) async fn up_to(&mut self, revision: Revision) -> Vec<WatchBatch> {
        let mut batches = Vec::new();
        loop {
            let batch = self.batch().await;
            let there = batch.revision >= revision;
            batches.push(batch);
            if there {
                return batches;
            }
        }
    }

    /// The next `count` events, each as (key, revision); not more may come with them.
    pub(crate) async fn events(&mut self, count: usize) -> Vec<(String, Revision)> {
        let mut events = Vec::new();
        while events.len() < count {
            let batch = self.batch().await;
            events.extend(batch.events.iter().map(|event| {
                let key = String::from_utf8_lossy(&event.current.key).into_owned();
                (key, event.current.mod_revision)
            }));
        }
        assert_eq!(
            events.len(),
            count,
            "more events than there should be: {events:?}"
        );
        events
    }
}

/// The value of something that must succeed.
pub(crate) fn ok<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("the store refused: {error}"))
}

/// Revision and previous pair of a write that must succeed.
pub(crate) fn committed(result: Result<WriteOutcome>) -> (Revision, Option<KeyValue>) {
    match result {
        Ok(WriteOutcome::Committed { revision, previous }) => (revision, previous),
        other => panic!("a write ended with {other:?}"),
    }
}

/// Revision and current pair of a write that must lose.
pub(crate) fn conflict(result: Result<WriteOutcome>) -> (Revision, Option<KeyValue>) {
    match result {
        Ok(WriteOutcome::Conflict { revision, current }) => (revision, current),
        other => panic!("a write that must conflict ended with {other:?}"),
    }
}

/// The error of something that must fail.
pub(crate) fn refused<T: Debug>(result: Result<T>) -> Error {
    match result {
        Err(error) => error,
        Ok(value) => panic!("the store did not refuse, but gave {value:?}"),
    }
}
