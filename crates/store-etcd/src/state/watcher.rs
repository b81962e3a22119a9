//! Watching: a cursor that each watcher moves itself.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::watch;
use trivet_mvcc::{
    Change, Event, EventKind, KeyRange, KeyValue, ReadValues, Revision, RevisionEvents, Version,
    View, WatchBatch, WatchEvent,
};

use super::segments::Table;
use super::shared::{ReadError, Shared, blocking, read_or_gone};

/// Revisions looked at in one step.
const STEP_REVISIONS: usize = 1000;
/// Changes found in history at once, about: finding them costs a walk over the index, and they
/// stay in memory until they are delivered.
const BACKLOG_CHANGES: usize = 8192;
/// Changes in a batch from history, about.
const BATCH_CHANGES: usize = 1000;
/// Bytes of keys and values in a batch; one revision is delivered whatever its size.
const BATCH_BYTES: usize = 4 << 20;
/// A batch that may have to read more replaced values than this is put together on a thread of
/// its own.
const INLINE_EVENTS: usize = 64;

/// What to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchOp {
    /// The keys.
    pub range: KeyRange,
    /// Deliver changes from this revision on; `None` from the one after the newest.
    pub start: Option<Revision>,
    /// Leave out puts.
    pub no_put: bool,
    /// Leave out deletions.
    pub no_delete: bool,
    /// Put the replaced pair into every event, where it is not compacted.
    pub previous: bool,
}

/// Why a watch ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The next revision to deliver is compacted.
    #[error("the required revision has been compacted (at {compact_revision})")]
    Compacted {
        /// The last compaction.
        compact_revision: Revision,
    },
    /// Data on disk is damaged or cannot be read.
    #[error("{0}")]
    Damaged(String),
    /// The store is closing.
    #[error("the store is closing")]
    Closed,
}

impl From<io::Error> for WatchError {
    fn from(error: io::Error) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<ReadError> for WatchError {
    fn from(error: ReadError) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// A watch. Delivers every matching change from its start on exactly once, in order, whole
/// revisions at a time; or ends with an error.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    op: Arc<WatchOp>,
    /// The first revision that was not looked at.
    next: Revision,
    start: Revision,
    opened_at: Revision,
    /// The start was compacted when the watch was opened.
    compacted: Option<Revision>,
    /// Changes found in history that are not delivered yet.
    backlog: Option<Arc<Backlog>>,
    revisions: watch::Receiver<Revision>,
}

/// Changes found in history, in order.
struct Backlog {
    changes: Vec<Change>,
    table: Arc<Table>,
    /// The changes are complete up to here.
    until: Revision,
}

impl std::fmt::Debug for Backlog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backlog")
            .field("changes", &self.changes.len())
            .finish_non_exhaustive()
    }
}

/// Where the next changes come from.
enum Source {
    Recent(Vec<Arc<RevisionEvents>>, Arc<Table>),
    History(View, Arc<Table>),
    Backlog(Arc<Backlog>),
}

impl Watcher {
    pub(super) fn open(shared: Arc<Shared>, op: WatchOp) -> Self {
        let revisions = shared.revisions();
        let (opened_at, compact) = {
            let inner = shared.read();
            (
                inner.store.revision(),
                inner.store.view().compact_revision(),
            )
        };
        let start = op.start.unwrap_or(opened_at.next());
        let compacted = (start < compact).then_some(compact);
        Self {
            shared,
            op: Arc::new(op),
            next: start,
            start,
            opened_at,
            compacted,
            backlog: None,
            revisions,
        }
    }

    /// The newest revision when the watch was opened.
    pub fn opened_at(&self) -> Revision {
        self.opened_at
    }

    /// The first revision that was asked for.
    pub fn start(&self) -> Revision {
        self.start
    }

    /// Every change up to here was delivered. A watch that starts in the future stands right
    /// before its start.
    pub fn position(&self) -> Revision {
        Revision(self.next.0.saturating_sub(1))
    }

    /// Whether it waits for nothing from history: everything it still wants comes after
    /// [`Watcher::position`], if it is still in memory.
    pub(crate) fn is_recent(&self) -> bool {
        self.compacted.is_none() && self.backlog.is_none()
    }

    /// Whether a change that was not delivered yet belongs to this watch.
    pub(crate) fn wants(&self, change: &Event) -> bool {
        change.version.main >= self.next.0 && self.op.wants(&change.key, &change.version)
    }

    /// Somebody else has delivered everything before `next`.
    pub(crate) fn skip_to(&mut self, next: Revision) {
        self.next = self.next.max(next);
    }

    /// The next changes; waits for them. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<WatchBatch, WatchError> {
        loop {
            // Marked before looking: what comes after wakes us again.
            self.revisions.borrow_and_update();
            if let Some(batch) = self.ready().await? {
                return Ok(batch);
            }
            // The end of the store is a change too.
            self.revisions
                .changed()
                .await
                .map_err(|_| WatchError::Closed)?;
        }
    }

    /// The next changes that are there already; `None` when every change up to
    /// [`Watcher::position`], the newest revision at the time, was delivered. Dropping the
    /// future loses nothing.
    pub async fn ready(&mut self) -> Result<Option<WatchBatch>, WatchError> {
        if let Some(compact_revision) = self.compacted {
            return Err(WatchError::Compacted { compact_revision });
        }
        while let Some(source) = self.source()? {
            let batch = match source {
                Source::Recent(revisions, table) => {
                    let (shared, op) = (Arc::clone(&self.shared), Arc::clone(&self.op));
                    let matching = || revisions.iter().flat_map(|revision| &revision.events);
                    let inline = !op.previous
                        || matching()
                            .filter(|event| op.range.contains(&event.key))
                            .take(INLINE_EVENTS + 1)
                            .count()
                            <= INLINE_EVENTS;
                    if inline {
                        recent_batch(&shared, &op, &table, &revisions)?
                    } else {
                        blocking(move || recent_batch(&shared, &op, &table, &revisions).map(Ok))
                            .await?
                    }
                }
                Source::History(view, table) => {
                    let (op, from) = (Arc::clone(&self.op), self.next);
                    let backlog =
                        blocking(move || Ok(Ok(Backlog::find(&view, &op, table, from)))).await?;
                    self.backlog = Some(Arc::new(backlog));
                    continue;
                }
                Source::Backlog(backlog) => {
                    let (op, from) = (Arc::clone(&self.op), self.next);
                    blocking(move || backlog.batch(&op, from).map(Ok)).await?
                }
            };
            self.next = batch.revision.next();
            if self
                .backlog
                .as_ref()
                .is_some_and(|backlog| self.next > backlog.until)
            {
                self.backlog = None;
            }
            if !batch.events.is_empty() {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    fn source(&self) -> Result<Option<Source>, WatchError> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(WatchError::Closed);
        }
        if let Some(backlog) = &self.backlog {
            return Ok(Some(Source::Backlog(Arc::clone(backlog))));
        }
        // Most watches wait most of the time: this is found out without the lock on the state.
        if self.next > self.shared.revision() {
            return Ok(None);
        }
        let inner = self.shared.read();
        inner.usable()?;
        if self.next > inner.store.revision() {
            return Ok(None);
        }
        let table = inner.segments.table();
        if let Ok(revisions) = inner.store.log().read(self.next, STEP_REVISIONS) {
            return Ok(Some(Source::Recent(revisions, table)));
        }
        let view = inner.store.view();
        let compact_revision = view.compact_revision();
        if self.next < compact_revision {
            return Err(WatchError::Compacted { compact_revision });
        }
        Ok(Some(Source::History(view.slice(&self.op.range), table)))
    }
}

/// What comes after a revision.
pub(crate) enum Next {
    /// Nothing yet.
    Nothing,
    /// Revisions that are in memory.
    Recent(Recent),
    /// The revisions are in memory no longer.
    Behind,
}

/// Some of the latest revisions, whole and in order.
#[derive(Clone)]
pub(crate) struct Recent {
    /// Not empty.
    revisions: Vec<Arc<RevisionEvents>>,
    table: Arc<Table>,
}

impl Recent {
    /// The last revision of them.
    pub(crate) fn last(&self) -> Revision {
        self.revisions
            .last()
            .map_or(Revision(0), |last| last.revision)
    }

    /// The changes, in order.
    pub(crate) fn changes(&self) -> impl Iterator<Item = &Event> {
        self.revisions.iter().flat_map(|revision| &revision.events)
    }

    /// Number of changes.
    pub(crate) fn len(&self) -> usize {
        self.revisions
            .iter()
            .map(|revision| revision.events.len())
            .sum()
    }
}

/// A change as watchers get it, without the pair it replaced.
pub(crate) fn delivered(change: &Event) -> WatchEvent {
    event(
        change.key.clone(),
        change.value.clone(),
        &change.version,
        None,
    )
}

/// The pair that a change replaced, unless it is gone.
pub(crate) fn read_previous(
    shared: &Shared,
    recent: &Recent,
    change: &Event,
) -> io::Result<Option<KeyValue>> {
    let Some(previous) = &change.previous else {
        return Ok(None);
    };
    let value = read_or_gone(shared, &recent.table, &change.key, previous)?;
    Ok(value.map(|value| previous.pair(change.key.clone(), value)))
}

impl Shared {
    /// The revisions from `from` on that are in memory, as many as one batch takes.
    pub(crate) fn recent(&self, from: Revision) -> Result<Next, WatchError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(WatchError::Closed);
        }
        // Found out without the lock on the state.
        if from > self.revision() {
            return Ok(Next::Nothing);
        }
        let inner = self.read();
        inner.usable()?;
        let Ok(mut revisions) = inner.store.log().read(from, STEP_REVISIONS) else {
            return Ok(Next::Behind);
        };
        let table = inner.segments.table();
        drop(inner);
        let mut bytes = 0;
        let fit = revisions.iter().take_while(|revision| {
            let fits = bytes < BATCH_BYTES;
            let sizes = revision.events.iter();
            bytes += sizes
                .map(|one| one.key.len() + one.value.len())
                .sum::<usize>();
            fits
        });
        let fit = fit.count();
        revisions.truncate(fit);
        if revisions.is_empty() {
            return Ok(Next::Nothing);
        }
        Ok(Next::Recent(Recent { revisions, table }))
    }
}

impl WatchOp {
    fn wants(&self, key: &[u8], version: &Version) -> bool {
        let filtered = if version.is_tombstone() {
            self.no_delete
        } else {
            self.no_put
        };
        !filtered && self.range.contains(key)
    }
}

fn event(key: Bytes, value: Bytes, version: &Version, previous: Option<KeyValue>) -> WatchEvent {
    let kind = if version.is_tombstone() {
        EventKind::Delete
    } else {
        EventKind::Put
    };
    WatchEvent {
        kind,
        current: version.pair(key, value),
        previous,
    }
}

/// A batch of revisions from the log in memory. Only replaced values are read from disk.
fn recent_batch(
    shared: &Shared,
    op: &WatchOp,
    table: &Table,
    revisions: &[Arc<RevisionEvents>],
) -> io::Result<WatchBatch> {
    let mut batch = WatchBatch {
        revision: Revision(0),
        events: Vec::new(),
    };
    let mut bytes = 0;
    for revision in revisions {
        for change in revision
            .events
            .iter()
            .filter(|change| op.wants(&change.key, &change.version))
        {
            let previous = match &change.previous {
                Some(previous) if op.previous => {
                    read_or_gone(shared, table, &change.key, previous)?
                        .map(|value| previous.pair(change.key.clone(), value))
                }
                _ => None,
            };
            bytes += change.key.len()
                + change.value.len()
                + previous.as_ref().map_or(0, |previous| previous.value.len());
            batch.events.push(event(
                change.key.clone(),
                change.value.clone(),
                &change.version,
                previous,
            ));
        }
        batch.revision = revision.revision;
        if bytes >= BATCH_BYTES {
            break;
        }
    }
    Ok(batch)
}

impl Backlog {
    /// Looks the changes from `from` on up in the index.
    fn find(view: &View, op: &WatchOp, table: Arc<Table>, from: Revision) -> Self {
        let (mut changes, last) = view.index.changes(&op.range, from.0, BACKLOG_CHANGES);
        changes.retain(|change| op.wants(&change.key, &change.version));
        Self {
            changes,
            table,
            until: last.map_or(view.revision, Revision),
        }
    }

    /// The batch that begins at revision `from`.
    fn batch(&self, op: &WatchOp, from: Revision) -> io::Result<WatchBatch> {
        let start = self
            .changes
            .partition_point(|change| change.version.main < from.0);
        let rest = &self.changes[start..];
        let previous = |change: &Change| change.previous.filter(|_| op.previous);
        let (mut count, mut bytes) = (0, 0);
        for change in rest {
            let full = count >= BATCH_CHANGES || bytes >= BATCH_BYTES;
            if full && change.version.main != rest[count - 1].version.main {
                break;
            }
            let values =
                change.version.location.length + previous(change).map_or(0, |p| p.location.length);
            bytes += change.key.len() + values as usize;
            count += 1;
        }
        let revision = rest
            .get(count)
            .map_or(self.until, |_| Revision(rest[count - 1].version.main));
        let rest = &rest[..count];
        let mut locations = Vec::with_capacity(count * 2);
        for change in rest {
            locations.push(change.version.location);
            locations.extend(previous(change).map(|previous| previous.location));
        }
        let mut values = self.table.read_many(&locations)?.into_iter();
        let mut next = || values.next().expect("one value for each location");
        let events = rest.iter().map(|change| {
            let value = next();
            let replaced = previous(change).map(|version| version.pair(change.key.clone(), next()));
            event(change.key.clone(), value, &change.version, replaced)
        });
        Ok(WatchBatch {
            revision,
            events: events.collect(),
        })
    }
}
