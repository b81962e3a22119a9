//! The records.

use bytes::Bytes;
use trivet_datastore::{EventKind, Expect, KeyRange, KeyValue, Revision, WatchBatch, WatchEvent};

/// When an operation was under way, in nanoseconds of one monotonic clock. One finished before
/// another began when its `end_ns` is smaller than the other's `start_ns`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Before the request was sent.
    pub start_ns: u64,
    /// After the answer arrived.
    pub end_ns: u64,
}

/// A key with its value and the revision that set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Revision of the write that set the value.
    pub mod_revision: Revision,
}

impl From<&KeyValue> for Pair {
    fn from(pair: &KeyValue) -> Self {
        Self {
            key: pair.key.clone(),
            value: pair.value.clone(),
            mod_revision: pair.mod_revision,
        }
    }
}

/// A key as the loser of a race was told it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Revision of the store.
    pub revision: Revision,
    /// The pair; `None`: the key is absent.
    pub pair: Option<Pair>,
}

/// How a write ended, as far as its client knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It happened, at this revision. A delete that found nothing is `changed: false`, at the
    /// revision of its answer.
    Ok {
        /// Revision of the write.
        revision: Revision,
        /// Whether anything was written.
        changed: bool,
    },
    /// The expectation did not hold; nothing was written. Clients that are not told more leave
    /// `observed` out.
    Conflict {
        /// What the client was told.
        observed: Option<Observed>,
    },
    /// Timeout, lost connection, killed server: it may have happened, or may still.
    Unknown,
    /// Refused without effect.
    Failed,
}

/// One attempt to change one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteRecord {
    /// The key.
    pub key: Bytes,
    /// The new value, unlike that of any other put; `None` is a delete.
    pub value: Option<Bytes>,
    /// The precondition.
    pub expect: Expect,
    /// When.
    pub span: Span,
    /// How it ended.
    pub outcome: Outcome,
}

/// One read that succeeded and was not cut by a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRecord {
    /// What was read.
    pub range: KeyRange,
    /// The revision that was asked for, if one was.
    pub at: Option<Revision>,
    /// The client accepted stale data.
    pub serializable: bool,
    /// When.
    pub span: Span,
    /// Revision of the store in the answer.
    pub revision: Revision,
    /// What was found, in key order.
    pub pairs: Vec<Pair>,
}

/// Everything that clients did to a set of keys that nobody else wrote, and that have no leases.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// All writes, in any order.
    pub writes: Vec<WriteRecord>,
    /// All reads, in any order.
    pub reads: Vec<ReadRecord>,
    /// A read of all the keys, after everything else was over.
    pub last: Option<ReadRecord>,
    /// The store was empty at the start and nobody else wrote to it, so that every revision must
    /// be somebody's.
    pub exclusive: bool,
}

/// One change as a watch delivers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// The new value; `None` is a deletion.
    pub value: Option<Bytes>,
    /// Revision of the change.
    pub revision: Revision,
    /// The pair before, where the watch was asked for it and told.
    pub previous: Option<Pair>,
}

impl From<&WatchEvent> for Change {
    fn from(event: &WatchEvent) -> Self {
        Self {
            key: event.current.key.clone(),
            value: (event.kind == EventKind::Put).then(|| event.current.value.clone()),
            revision: event.current.mod_revision,
            previous: event.previous.as_ref().map(Pair::from),
        }
    }
}

/// What one watch delivered. A client that reconnects makes a record per connection.
#[derive(Debug, Clone)]
pub struct WatchRecord {
    /// What was watched.
    pub range: KeyRange,
    /// First revision it has to deliver.
    pub start: Revision,
    /// The watch asked for previous values.
    pub previous: bool,
    /// The batches: how far the watch has come with each, and what it brought. Clients that do
    /// not see batches make one per revision.
    pub batches: Vec<(Revision, Vec<Change>)>,
}

impl WatchRecord {
    /// A watch that has delivered nothing yet.
    #[must_use]
    pub fn new(range: KeyRange, start: Revision, previous: bool) -> Self {
        Self {
            range,
            start,
            previous,
            batches: Vec::new(),
        }
    }

    /// Adds a batch.
    pub fn push(&mut self, batch: &WatchBatch) {
        self.batches.push((
            batch.revision,
            batch.events.iter().map(Change::from).collect(),
        ));
    }

    /// How far the watch has come: it has to have delivered everything up to here.
    #[must_use]
    pub fn covered(&self) -> Revision {
        self.batches
            .last()
            .map_or(Revision(self.start.0.saturating_sub(1)), |last| last.0)
    }

    /// All changes, in the order they came.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.batches.iter().flat_map(|batch| &batch.1)
    }
}
