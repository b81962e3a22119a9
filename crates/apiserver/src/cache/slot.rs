//! The cache of one resource: current objects and a ring of recent changes.
//!
//! **Invariant:** every change with a revision above [`State::base`] is in the ring, in
//! revision order. A cursor at or above the base therefore misses nothing; one below it is
//! told so.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use tokio::sync::watch;
use trivet_datastore::{EventKind, KeyValue, WatchEvent};
use trivet_kube_schema::ResourceInfo;

use super::entry::{Entry, Header};

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

/// One change of one object.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) kind: ChangeKind,
    pub(crate) revision: u64,
    /// The object after the change; for deletions the last state at the deletion's revision.
    pub(crate) current: Arc<Entry>,
    /// The object before the change.
    pub(crate) previous: Option<Arc<Entry>>,
}

#[derive(Debug, Default)]
struct State {
    items: BTreeMap<Bytes, Arc<Entry>>,
    ring: VecDeque<Arc<Change>>,
    ring_bytes: usize,
    /// Sequence number of the ring's first change.
    first: u64,
    /// Every change above this revision is in the ring.
    base: u64,
    /// Revision of the last change.
    last: u64,
    /// Grows when the cache starts over; cursors of an older epoch are lost.
    epoch: u64,
}

/// A reader's place in the ring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor {
    next: u64,
    epoch: u64,
    /// Changes up to this revision are not wanted.
    after: u64,
}

/// The reader's place is no longer in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Oldest revision a new reader can start after.
    pub(crate) base: u64,
}

/// Objects read at one revision.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) revision: u64,
    pub(crate) entries: Vec<Arc<Entry>>,
    /// Entries after the last one returned.
    pub(crate) remaining: usize,
}

/// The cache of one resource.
pub(crate) struct Slot {
    pub(crate) info: &'static ResourceInfo,
    pub(crate) header: Header,
    /// Store keys of this resource start with this.
    pub(crate) prefix: String,
    state: RwLock<State>,
    /// Sequence number after the ring's last change.
    changed: watch::Sender<u64>,
    ring_events_max: usize,
    ring_bytes_max: usize,
}

impl Slot {
    pub(crate) fn new(
        info: &'static ResourceInfo,
        prefix: String,
        ring_events_max: usize,
        ring_bytes_max: usize,
    ) -> Self {
        Self {
            info,
            header: Header::new(info),
            prefix,
            state: RwLock::default(),
            changed: watch::Sender::new(0),
            ring_events_max,
            ring_bytes_max,
        }
    }

    // A poisoned lock means that a panic struck between two assignments to plain memory; the
    // feed rebuilds the cache from the store in that case, so readers may go on.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The entry for a stored pair of this resource.
    pub(crate) fn entry(&self, pair: &KeyValue) -> Option<Entry> {
        let entry = Entry::new(&self.header, self.prefix.len(), pair);
        if entry.is_none() {
            tracing::warn!(key = %String::from_utf8_lossy(&pair.key), "skipping a stored value that is not an object");
        }
        entry
    }

    /// Starts over from a full read of the store at `revision`.
    pub(crate) fn reset(&self, pairs: &[KeyValue], revision: u64) {
        let items = pairs
            .iter()
            .filter_map(|pair| self.entry(pair))
            .map(|entry| (entry.key.clone(), Arc::new(entry)))
            .collect();
        let mut state = self.write();
        let next = state.first + state.ring.len() as u64;
        *state = State {
            items,
            first: next,
            base: revision,
            last: revision,
            epoch: state.epoch + 1,
            ..State::default()
        };
        drop(state);
        self.changed.send_replace(next);
        // Even an unchanged number wakes: `send_replace` always marks the value as new.
    }

    /// Applies changes of one batch, in order.
    pub(crate) fn apply<'a>(&self, events: impl Iterator<Item = &'a WatchEvent>) {
        let mut state = self.write();
        for event in events {
            let revision = event.current.mod_revision.0;
            // A resumed watch may deliver again what was applied before.
            if !state.is_new(&event.current.key, revision) {
                continue;
            }
            let change = match event.kind {
                EventKind::Put => {
                    let Some(entry) = self.entry(&event.current) else {
                        continue;
                    };
                    let entry = Arc::new(entry);
                    let previous = state.items.insert(entry.key.clone(), Arc::clone(&entry));
                    let kind = if previous.is_some() {
                        ChangeKind::Modified
                    } else {
                        ChangeKind::Added
                    };
                    Change {
                        kind,
                        revision,
                        current: entry,
                        previous,
                    }
                }
                EventKind::Delete => {
                    let Some(previous) = state.items.remove(&event.current.key) else {
                        continue;
                    };
                    let current = Arc::new(previous.deleted(&self.header, revision));
                    Change {
                        kind: ChangeKind::Deleted,
                        revision,
                        current,
                        previous: Some(previous),
                    }
                }
            };
            state.push(change, self.ring_events_max, self.ring_bytes_max);
        }
        let next = state.first + state.ring.len() as u64;
        drop(state);
        self.changed.send_if_modified(|value| {
            let modified = *value != next;
            *value = next;
            modified
        });
    }

    /// Wakes after every change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Objects whose identity starts with `scope`, after `after`, at most `limit` (0: all).
    /// `published` is the revision up to which the whole cache is known to be complete.
    pub(crate) fn snapshot(
        &self,
        scope: &str,
        after: Option<&str>,
        limit: usize,
        published: u64,
    ) -> Snapshot {
        let state = self.read();
        state.snapshot(&self.prefix, scope, after, limit, published)
    }

    /// The current objects and a cursor that continues exactly there.
    pub(crate) fn snapshot_and_follow(&self, scope: &str, published: u64) -> (Snapshot, Cursor) {
        let state = self.read();
        let snapshot = state.snapshot(&self.prefix, scope, None, 0, published);
        let cursor = Cursor {
            next: state.first + state.ring.len() as u64,
            epoch: state.epoch,
            after: snapshot.revision,
        };
        (snapshot, cursor)
    }

    /// A cursor at the first change above `revision`.
    pub(crate) fn follow(&self, revision: u64) -> Result<Cursor, Lost> {
        let state = self.read();
        if revision < state.base {
            return Err(Lost { base: state.base });
        }
        let skip = state.ring.partition_point(|c| c.revision <= revision) as u64;
        Ok(Cursor {
            next: state.first + skip,
            epoch: state.epoch,
            after: revision,
        })
    }

    /// Moves a cursor forward over at most `limit` changes; the flag says whether there are more.
    pub(crate) fn advance(
        &self,
        cursor: &mut Cursor,
        limit: usize,
    ) -> Result<(Vec<Arc<Change>>, bool), Lost> {
        let state = self.read();
        if cursor.epoch != state.epoch || cursor.next < state.first {
            return Err(Lost { base: state.base });
        }
        let from = (cursor.next - state.first) as usize;
        let taken: Vec<_> = state.ring.iter().skip(from).take(limit).cloned().collect();
        cursor.next += taken.len() as u64;
        let more = cursor.next < state.first + state.ring.len() as u64;
        Ok((
            taken
                .into_iter()
                .filter(|c| c.revision > cursor.after)
                .collect(),
            more,
        ))
    }

    /// One object by store key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.read().items.get(key).cloned()
    }

    /// One object by namespace and name.
    pub(crate) fn get_named(&self, namespace: Option<&str>, name: &str) -> Option<Arc<Entry>> {
        self.get(self.info.key(namespace, name)?.as_bytes())
    }

    /// Every object below `scope` (`""` or `namespace/`).
    pub(crate) fn all(&self, scope: &str) -> Vec<Arc<Entry>> {
        self.snapshot(scope, None, 0, 0).entries
    }
}

impl State {
    fn is_new(&self, key: &Bytes, revision: u64) -> bool {
        revision > self.base
            && self
                .items
                .get(key)
                .is_none_or(|entry| entry.revision < revision)
            && !self
                .ring
                .iter()
                .rev()
                .take_while(|c| c.revision >= revision)
                .any(|c| c.current.key == key)
    }

    fn push(&mut self, change: Change, events_max: usize, bytes_max: usize) {
        self.last = self.last.max(change.revision);
        self.ring_bytes += change.current.weight_bytes();
        self.ring.push_back(Arc::new(change));
        while self.ring.len() > events_max || (self.ring_bytes > bytes_max && self.ring.len() > 1) {
            let Some(oldest) = self.ring.pop_front() else {
                break;
            };
            self.ring_bytes -= oldest.current.weight_bytes();
            self.base = self.base.max(oldest.revision);
            self.first += 1;
        }
    }

    fn snapshot(
        &self,
        prefix: &str,
        scope: &str,
        after: Option<&str>,
        limit: usize,
        published: u64,
    ) -> Snapshot {
        let start = Bytes::from(format!("{prefix}{scope}"));
        let lower = match after {
            Some(identity) => Bound::Excluded(Bytes::from(format!("{prefix}{identity}"))),
            None => Bound::Included(start.clone()),
        };
        let mut range = self
            .items
            .range((lower, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&start))
            .map(|(_, entry)| entry);
        let limit = if limit == 0 { usize::MAX } else { limit };
        let entries: Vec<_> = range.by_ref().take(limit).cloned().collect();
        Snapshot {
            revision: published.max(self.last),
            entries,
            remaining: range.count(),
        }
    }
}
