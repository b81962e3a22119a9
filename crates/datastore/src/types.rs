//! Values that cross the [`Datastore`](crate::Datastore) line.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;

use crate::{KeyRange, Result};

/// A position in the store's history.
///
/// 1 is the empty store; the first write has revision 2 (etcd: a fresh store answers with
/// revision 1). 0 means "none" in the few places where there may be none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision of a store that was never written.
    pub const EMPTY_STORE: Self = Self(1);

    /// The revision after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Largest key and value together that a store must take (etcd's limit for a request); more is
/// [`Error::TooLarge`](crate::Error::TooLarge). A backend may add its own framing to the sum.
pub const MAX_REQUEST_BYTES: u64 = 1536 * 1024;

/// A key: any bytes, not empty.
pub type Key = Bytes;

/// A lease's identity; 0 means "no lease" on the wire and never occurs here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// One key with the value it had at some revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Key,
    /// The value; may be empty.
    pub value: Bytes,
    /// Revision of the write that created the key (after its last deletion).
    pub create_revision: Revision,
    /// Revision of the write that set this value.
    pub mod_revision: Revision,
    /// Number of writes since creation; 1 on creation.
    pub version: u64,
    /// The lease the key dies with.
    pub lease: Option<LeaseId>,
}

impl KeyValue {
    /// How a watch shows a deleted key: the key, an empty value, and the deletion's revision as
    /// `mod_revision`; all else is 0 or none.
    #[must_use]
    pub fn tombstone(key: Key, revision: Revision) -> Self {
        Self {
            key,
            value: Bytes::new(),
            create_revision: Revision(0),
            mod_revision: revision,
            version: 0,
            lease: None,
        }
    }

    /// CRC32C over key, value and metadata, chained from `seed`: what
    /// [`ExportItem::Trailer`] sums up. Lengths go in as u32, numbers as u64, little-endian; no
    /// lease counts as 0.
    #[must_use]
    pub fn checksum(&self, seed: u32) -> u32 {
        let mut sum = seed;
        for bytes in [&self.key, &self.value] {
            sum = crc32c::crc32c_append(sum, &(bytes.len() as u32).to_le_bytes());
            sum = crc32c::crc32c_append(sum, bytes);
        }
        let lease = self.lease.map_or(0, |lease| lease.0);
        for number in [
            self.create_revision.0,
            self.mod_revision.0,
            self.version,
            lease as u64,
        ] {
            sum = crc32c::crc32c_append(sum, &number.to_le_bytes());
        }
        sum
    }
}

/// Reads keys at one revision.
#[derive(Debug, Clone)]
pub struct RangeRequest {
    /// The keys to read.
    pub range: KeyRange,
    /// Return only keys strictly greater than this one (the last key of the page before).
    pub after: Option<Key>,
    /// At most this many keys; 0 means no limit.
    pub limit: usize,
    /// The revision to read at; `None` is the newest, read linearizably.
    pub at: Option<Revision>,
    /// `at: None` answers from local state, possibly stale, without asking a quorum.
    pub serializable: bool,
    /// Leave out keys and values; only count.
    pub count_only: bool,
}

/// What a range found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangePage {
    /// The store's newest revision when the range was read (with `at`: still the newest).
    pub revision: Revision,
    /// The pairs, in key order.
    pub items: Vec<KeyValue>,
    /// How many keys the range has from `after` on, whatever `limit` says (etcd: count ignores
    /// limit).
    pub count: u64,
    /// Whether `limit` left keys out.
    pub more: bool,
}

/// What a write requires of the key it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// The key does not exist.
    Absent,
    /// The key exists with exactly this `mod_revision`.
    ModRevision(Revision),
}

/// Sets one key.
#[derive(Debug, Clone)]
pub struct PutRequest {
    /// The key; not empty.
    pub key: Key,
    /// The new value.
    pub value: Bytes,
    /// Precondition.
    pub expect: Expect,
    /// Attach the key to this lease (`None` detaches).
    pub lease: Option<LeaseId>,
}

/// Deletes one key. Deleting an absent key with [`Expect::Any`] is `Committed` with no
/// `previous`, at the current revision, and writes nothing.
#[derive(Debug, Clone)]
pub struct DeleteRequest {
    /// The key; not empty.
    pub key: Key,
    /// Precondition. [`Expect::Absent`] is an invalid argument.
    pub expect: Expect,
}

/// How a write ended. A lost race is a result, not an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The write is durable.
    Committed {
        /// Revision of the write.
        revision: Revision,
        /// The pair that was replaced or deleted.
        previous: Option<KeyValue>,
    },
    /// The expectation did not hold; nothing was written.
    Conflict {
        /// The store's newest revision when the race was lost.
        revision: Revision,
        /// The pair as it is; `None` when absent.
        current: Option<KeyValue>,
    },
}

/// Opens a watch.
#[derive(Debug, Clone)]
pub struct WatchRequest {
    /// The keys to watch.
    pub range: KeyRange,
    /// Deliver every change with `revision >= start`; `None` starts after the newest revision
    /// at the time the watch is opened. A revision in the future waits.
    pub start: Option<Revision>,
    /// Put the replaced pair into every event.
    pub previous: bool,
    /// Also deliver empty batches now and then that only say how far the watch has come.
    pub progress: bool,
}

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Created or updated.
    Put,
    /// Deleted, or expired with its lease. `current` is a [`KeyValue::tombstone`].
    Delete,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchEvent {
    /// What happened.
    pub kind: EventKind,
    /// The pair after the change.
    pub current: KeyValue,
    /// The pair before the change: only when asked for, and only where there was one and its
    /// revision is not yet compacted.
    pub previous: Option<KeyValue>,
}

/// All changes up to and including `revision` that were not delivered before.
///
/// Changes of one revision are never split over two batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchBatch {
    /// The watch has seen everything up to here.
    pub revision: Revision,
    /// Changes in revision order; empty for a progress notification.
    pub events: Vec<WatchEvent>,
}

/// A watch. It ends with `None` when the store closes, or after one error:
/// [`Error::Compacted`](crate::Error::Compacted) when the start is gone,
/// [`Error::WatchLagged`](crate::Error::WatchLagged) when the reader was too slow. Dropping it
/// cancels it.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchBatch>> + Send>>;

/// A lease as the store sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Identity.
    pub id: LeaseId,
    /// Time to live after the last renewal.
    pub ttl: Duration,
}

/// What a store can say about itself without a quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreStatus {
    /// Name of the backend, as in `--datastore`.
    pub backend: String,
    /// Newest local revision.
    pub revision: Revision,
    /// The last compaction: the oldest revision that can still be read; 0 when there was none.
    pub compact_revision: Revision,
    /// Bytes on disk (0 for stores in memory).
    pub size_bytes: u64,
    /// Whether writes can succeed now, as far as this member knows.
    pub writable: bool,
    /// What is wrong with this member's data, for people; empty when nothing is.
    pub problems: Vec<String>,
}

/// A backend-neutral stream of a whole store at one revision: one [`ExportItem::Head`], every
/// lease and pair in order, one [`ExportItem::Trailer`]. Without its trailer an export is not
/// complete and must not be used.
pub type ExportStream = Pin<Box<dyn Stream<Item = Result<ExportItem>> + Send>>;

/// One item of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportItem {
    /// First item.
    Head {
        /// The revision of the whole export.
        revision: Revision,
    },
    /// A lease that pairs may refer to.
    Lease(Lease),
    /// A pair, in key order.
    Pair(KeyValue),
    /// Last item.
    Trailer {
        /// Number of pairs.
        pairs: u64,
        /// CRC32C over every pair, see [`KeyValue::checksum`].
        checksum: u32,
    },
}
