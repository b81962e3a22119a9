//! The one line between a control plane and its store.
//!
//! [`Datastore`] offers what a Kubernetes control plane needs (optimistic single-key writes,
//! consistent ranges, a gap-free watch, expiring keys) and nothing more. [`Cluster`] is what
//! replicated stores add. [`Backend`] is a *kind* of store: it recognises its own data and
//! opens it.
//!
//! Promises every implementation keeps, checked by `trivet-datastore-testkit`:
//!
//! 1. A write is acknowledged only when it is durable (on a quorum, where there is one).
//! 2. Revisions start at 1 for an empty store, grow by exactly one with every write, and are
//!    never reused: not after a crash, a restart or a compaction.
//! 3. A range without a revision is linearizable.
//! 4. A watch delivers every change after its start exactly once, in revision order, or ends
//!    with an error. It never skips.
//! 5. Dropping a future never leaves half a write.
//!
//! **Invariant:** this crate knows no file format, no Raft and no Kubernetes.

mod backend;
mod cluster;
mod error;
mod memory;
mod range;
mod store;
mod types;

pub use backend::{
    Backend, BackendConfig, ClusterConfig, ClusterStart, Footprint, ReadOnlyDir, TlsFiles,
};
pub use cluster::{Cluster, ClusterStatus, Member, MemberId, MemberRole};
pub use error::{Effect, Error, Result};
pub use memory::{MemoryBackend, MemoryOptions, MemoryStore};
pub use range::{KeyRange, prefix_end};
pub use store::Datastore;
pub use types::{
    DeleteRequest, EventKind, Expect, ExportItem, ExportStream, Key, KeyValue, Lease, LeaseId,
    MAX_REQUEST_BYTES, PutRequest, RangePage, RangeRequest, Revision, StoreStatus, WatchBatch,
    WatchEvent, WatchRequest, WatchStream, WriteOutcome,
};
