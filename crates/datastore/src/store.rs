//! The store itself.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{
    Cluster, DeleteRequest, ExportStream, Lease, LeaseId, PutRequest, RangePage, RangeRequest,
    Result, Revision, StoreStatus, WatchRequest, WatchStream, WriteOutcome,
};

/// A revisioned key-value store with optimistic writes, watches and leases.
///
/// Every method may be cancelled by dropping its future. A dropped write has
/// [`Effect::Unknown`](crate::Effect::Unknown).
#[async_trait]
pub trait Datastore: Send + Sync + 'static {
    /// Reads a consistent page. Errors: `Compacted`, `FutureRevision`, `Unavailable`.
    async fn range(&self, request: RangeRequest) -> Result<RangePage>;

    /// Writes one key if the expectation holds. On `Ok` the write is durable and every later
    /// linearizable read sees it. The expectation is judged before the lease is looked for.
    /// Errors: `LeaseNotFound`, `TooLarge`, `Invalid` (empty key), `OutOfSpace`, `Unavailable`.
    async fn put(&self, request: PutRequest) -> Result<WriteOutcome>;

    /// Deletes one key if the expectation holds; otherwise as [`Datastore::put`].
    async fn delete(&self, request: DeleteRequest) -> Result<WriteOutcome>;

    /// Opens a watch. A start before the last compaction is `Compacted`, reported here or as the
    /// stream's first item.
    async fn watch(&self, request: WatchRequest) -> Result<WatchStream>;

    /// Creates a lease. The store may raise `ttl` to a minimum of its own.
    async fn grant_lease(&self, ttl: Duration) -> Result<Lease>;

    /// Renews a lease for its full time to live. Error: `LeaseNotFound`.
    async fn keep_lease_alive(&self, id: LeaseId) -> Result<Lease>;

    /// Ends a lease and deletes its keys, all in one revision. Error: `LeaseNotFound`.
    async fn revoke_lease(&self, id: LeaseId) -> Result<()>;

    /// Forgets every version that was superseded at `revision`, which from then on is the oldest
    /// revision that can be read, and the oldest that a watch can start from. Compacting at or
    /// below an earlier compaction is `Compacted`; above the newest revision is
    /// `FutureRevision`. Writes nothing: the revision stays.
    async fn compact(&self, revision: Revision) -> Result<()>;

    /// Answers from this member alone, also without a quorum.
    async fn status(&self) -> Result<StoreStatus>;

    /// Streams everything at one revision.
    async fn export(&self) -> Result<ExportStream>;

    /// Membership, where the store is replicated.
    fn cluster(&self) -> Option<Arc<dyn Cluster>> {
        None
    }

    /// Stops background work, hands leadership over where there is any, and makes everything
    /// durable. Watches end; later calls answer `Unavailable`. Calling it twice is fine.
    async fn shutdown(&self);
}
