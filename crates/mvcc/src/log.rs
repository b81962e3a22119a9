//! The most recent events, in order.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use trivet_datastore::Revision;

use crate::version::Version;

/// One change of one key.
#[derive(Debug, Clone)]
pub struct Event {
    /// The key.
    pub key: Bytes,
    /// The value; empty for a deletion.
    pub value: Bytes,
    /// The version that the change made; a tombstone for a deletion.
    pub version: Version,
    /// The version it superseded, if the key existed.
    pub previous: Option<Version>,
}

impl Event {
    /// Copies key and value into memory of their own: slices of a request would keep the whole
    /// request, and all that came with it, as long as the event.
    pub(crate) fn new(
        key: &[u8],
        value: &[u8],
        version: Version,
        previous: Option<Version>,
    ) -> Self {
        let mut both = BytesMut::with_capacity(key.len() + value.len());
        both.extend_from_slice(key);
        both.extend_from_slice(value);
        let mut value = both.freeze();
        let key = value.split_to(key.len());
        Self {
            key,
            value,
            version,
            previous,
        }
    }

    fn size_bytes(&self) -> usize {
        size_of::<Self>() + self.key.len() + self.value.len()
    }
}

/// All changes of one revision, in the order they were made.
#[derive(Debug)]
pub struct RevisionEvents {
    /// The revision.
    pub revision: Revision,
    /// The changes; at least one.
    pub events: Vec<Event>,
    size_bytes: usize,
}

/// How much the [`WatchLog`] keeps.
#[derive(Debug, Clone, Copy)]
pub struct WatchLogLimits {
    /// Bytes of keys, values and metadata; one revision is kept whatever its size.
    pub bytes: usize,
    /// Revisions.
    pub revisions: usize,
}

impl Default for WatchLogLimits {
    fn default() -> Self {
        Self {
            bytes: 8 << 20,
            revisions: 16_384,
        }
    }
}

/// The reader asked for revisions that are no longer in the log; they are in the index, unless
/// compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind;

/// A ring of the latest revisions. Readers hold a cursor (the next revision they want) and are
/// never skipped: one that is too slow is told so.
#[derive(Debug)]
pub struct WatchLog {
    ring: VecDeque<Arc<RevisionEvents>>,
    /// The revision after the newest one.
    next: u64,
    size_bytes: usize,
    limits: WatchLogLimits,
}

impl WatchLog {
    /// An empty log for a state whose newest revision is `newest`.
    pub(crate) fn new(newest: u64, limits: WatchLogLimits) -> Self {
        Self {
            ring: VecDeque::new(),
            next: newest + 1,
            size_bytes: 0,
            limits,
        }
    }

    pub(crate) fn push(&mut self, revision: u64, events: Vec<Event>) {
        assert_eq!(revision, self.next, "revisions follow each other");
        let size_bytes = events.iter().map(Event::size_bytes).sum();
        self.size_bytes += size_bytes;
        self.next += 1;
        let revision = Revision(revision);
        self.ring.push_back(Arc::new(RevisionEvents {
            revision,
            events,
            size_bytes,
        }));
        while self.ring.len() > 1
            && (self.size_bytes > self.limits.bytes || self.ring.len() > self.limits.revisions)
        {
            let dropped = self.ring.pop_front();
            self.size_bytes -= dropped.map_or(0, |dropped| dropped.size_bytes);
        }
    }

    /// Up to `max_revisions` revisions from `from` on; none when `from` is in the future.
    pub fn read(
        &self,
        from: Revision,
        max_revisions: usize,
    ) -> Result<Vec<Arc<RevisionEvents>>, Behind> {
        let first = self.next - self.ring.len() as u64;
        let skip = from.0.checked_sub(first).ok_or(Behind)?;
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        Ok(self
            .ring
            .iter()
            .skip(skip)
            .take(max_revisions)
            .cloned()
            .collect())
    }
}
