//! The state as everybody but the log sees it.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use tokio::sync::watch;
use trivet_env::Disk;
use trivet_etcd_auth::{AuthState, Caller};
use trivet_mvcc::Values as _;
use trivet_mvcc::{
    Error as Refusal, KeyRange, LeaseId, LeaseInfo, RangeOp, RangeResult, ReadValues, Revision,
    Selection, SortOrder, Store, Txn, TxnResult, View,
};
use trivet_raft_node::LogPosition;

use super::Limits;
use super::alarm::Alarms;
use super::auth::Tokens;
use super::command::Command;
use super::counters::Counters;
use super::damage::DamageLog;
use super::export::Export;
use super::leases::{LeaseChanges, LeaseLog};
use super::maintain::{Relocation, Work};
use super::segments::{Segments, Table};
use super::side::Side;
use super::watcher::{WatchOp, Watcher};

/// Reads of no more values than this run where they are called; more go to a thread of their
/// own, because each may wait for the disk.
const INLINE_VALUES: usize = 64;

/// Why a read failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The revision cannot be read.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Data on disk is damaged or cannot be read, or the state has failed before.
    #[error("{0}")]
    Damaged(String),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// A checksum over all pairs at one revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateHash {
    /// CRC32C over every pair in key order, see [`trivet_mvcc::View::hash`].
    pub hash: u32,
    /// The revision it is of.
    pub hash_revision: Revision,
    /// The last compaction.
    pub compact_revision: Revision,
    /// The newest revision.
    pub revision: Revision,
}

/// How large the state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateSize {
    /// Bytes of files: value segments and the newest checkpoint.
    pub total_bytes: u64,
    /// Bytes of them that versions refer to.
    pub in_use_bytes: u64,
    /// Keys with any version, deleted ones included.
    pub keys: u64,
}

/// What the lock protects.
pub(super) struct Inner {
    pub(super) store: Store,
    pub(super) side: Side,
    pub(super) tokens: Tokens,
    pub(super) segments: Segments,
    pub(super) applied: LogPosition,
    pub(super) lease_log: LeaseLog,
    pub(super) relocation: Option<Relocation>,
    /// Commands and their bytes since the last checkpoint began.
    pub(super) commands_since: u64,
    pub(super) bytes_since: u64,
    pub(super) checkpoint_bytes: u64,
    /// Why the state is of no use any more.
    pub(super) failed: Option<String>,
    /// Whether another member's state can take its place.
    pub(super) failed_by_damage: bool,
}

/// Where the files are.
pub(super) struct Dirs {
    pub(super) state: PathBuf,
    pub(super) values: PathBuf,
    pub(super) checkpoints: PathBuf,
}

impl Inner {
    pub(super) fn size(&self) -> StateSize {
        let (total, in_use) = self.segments.size_bytes();
        StateSize {
            total_bytes: total + self.checkpoint_bytes,
            in_use_bytes: in_use + self.checkpoint_bytes,
            keys: self.store.view().index.len() as u64,
        }
    }

    pub(super) fn usable(&self) -> io::Result<()> {
        self.failed
            .as_ref()
            .map_or(Ok(()), |why| Err(io::Error::other(why.clone())))
    }
}

/// The state of this member, for reading; cheap to ask, from async code too.
///
/// What is read is what was applied here. Who needs the newest state of the cluster waits for
/// [`RaftNode::read_index`](trivet_raft_node) first.
pub struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) state_dir: PathBuf,
    pub(super) values_dir: PathBuf,
    pub(super) checkpoints_dir: PathBuf,
    pub(super) limits: Limits,
    pub(super) damage: Arc<DamageLog>,
    /// Whether the next install keeps what it replaces, for people to look at.
    pub(super) keep_replaced: AtomicBool,
    inner: RwLock<Inner>,
    pub(super) durable: Mutex<LogPosition>,
    /// Held by whoever rewrites files: a checkpoint, the removal of old versions, an install.
    pub(super) work: Mutex<Work>,
    /// Held while everything is tidied up; one at a time is enough.
    pub(super) defragmenting: Mutex<()>,
    pub(super) revisions: watch::Sender<Revision>,
    pub(super) lease_cursor: watch::Sender<u64>,
    alarms: watch::Sender<Arc<Alarms>>,
    /// [`StateSize::total_bytes`], for those who ask before every write.
    total_bytes: AtomicU64,
    auth: watch::Sender<Arc<AuthState>>,
    /// [`AuthState::enabled`], for those who ask all the time.
    auth_enabled: AtomicBool,
    /// Also in [`Inner`], for the log.
    tokens: Tokens,
    pub(super) closed: AtomicBool,
    pub(super) counters: Counters,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("revision", &self.revision())
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        dirs: Dirs,
        limits: Limits,
        inner: Inner,
        work: Work,
        damage: Arc<DamageLog>,
    ) -> Self {
        let total_bytes = AtomicU64::new(inner.size().total_bytes);
        Self {
            total_bytes,
            disk,
            state_dir: dirs.state,
            values_dir: dirs.values,
            checkpoints_dir: dirs.checkpoints,
            limits,
            damage,
            keep_replaced: AtomicBool::new(false),
            durable: Mutex::new(inner.applied),
            work: Mutex::new(work),
            defragmenting: Mutex::new(()),
            revisions: watch::Sender::new(inner.store.revision()),
            lease_cursor: watch::Sender::new(inner.lease_log.cursor()),
            alarms: watch::Sender::new(Arc::clone(&inner.side.alarms)),
            auth: watch::Sender::new(Arc::clone(&inner.side.auth)),
            auth_enabled: AtomicBool::new(inner.side.auth.enabled()),
            tokens: inner.tokens.clone(),
            closed: AtomicBool::new(false),
            counters: Counters::default(),
            inner: RwLock::new(inner),
        }
    }

    // A panic while the lock is held stops the thread that applies; what readers see until the
    // node is gone does not matter more than that.

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn durable(&self) -> MutexGuard<'_, LogPosition> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing can be trusted from here on.
    pub(super) fn fail(&self, error: &io::Error) {
        tracing::error!(%error, "the state has failed");
        let mut inner = self.write();
        if inner.failed.is_none() {
            inner.failed = Some(error.to_string());
            inner.failed_by_damage = error.kind() == io::ErrorKind::InvalidData;
        }
    }

    /// Places on disk that were found damaged since the state was opened or replaced.
    pub fn damage(&self) -> Vec<String> {
        self.damage.list()
    }

    /// Changes with every damaged place that is found; 0 while there is none.
    pub fn damage_notify(&self) -> watch::Receiver<u64> {
        self.damage.follow()
    }

    /// Lets the next install keep the files it replaces.
    pub fn keep_replaced(&self) {
        self.keep_replaced.store(true, Ordering::Release);
    }

    /// Tells watchers what there is.
    pub(super) fn publish(&self, revision: Revision, lease_cursor: u64, side: &Side) {
        // The tables first: who sees the revision sees what was refused before it.
        replace(&self.alarms, &side.alarms);
        if replace(&self.auth, &side.auth) {
            self.auth_enabled
                .store(side.auth.enabled(), Ordering::Release);
        }
        self.revisions
            .send_if_modified(|old| std::mem::replace(old, revision) != revision);
        self.lease_cursor
            .send_if_modified(|old| std::mem::replace(old, lease_cursor) != lease_cursor);
    }

    /// The newest revision that was applied here. Does not wait for the entry that is being
    /// applied, as everything that looks at the state itself does.
    pub fn revision(&self) -> Revision {
        *self.revisions.borrow()
    }

    /// The last compaction; 0 for none.
    pub fn compact_revision(&self) -> Revision {
        self.read().store.view().compact_revision()
    }

    /// The last log entry that was applied here.
    pub fn applied(&self) -> LogPosition {
        self.read().applied
    }

    /// Follows [`Shared::revision`].
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.revisions.subscribe()
    }

    /// What was done so far on this member's state.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How large the state is.
    pub fn size(&self) -> StateSize {
        self.read().size()
    }

    /// [`StateSize::total_bytes`], without waiting for the entry that is being applied.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Ordering::Relaxed)
    }

    /// Call when files have grown or gone.
    pub(super) fn note_size(&self, inner: &Inner) {
        let bytes = inner.size().total_bytes;
        self.total_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Reads a range whose result is sent and forgotten: its values may share memory. The lock
    /// is held for finding keys, not for reading values.
    pub async fn range(&self, op: &RangeOp) -> Result<RangeResult, ReadError> {
        self.range_by(op, View::range_together, Selection::read_together)
            .await
    }

    /// Reads a range whose pairs may be kept, one without the other.
    pub async fn range_to_keep(&self, op: &RangeOp) -> Result<RangeResult, ReadError> {
        self.range_by(op, View::range, Selection::read).await
    }

    async fn range_by(
        &self,
        op: &RangeOp,
        range: fn(&View, &RangeOp, &dyn ReadValues) -> io::Result<Result<RangeResult, Refusal>>,
        read: fn(Selection, &dyn ReadValues) -> io::Result<RangeResult>,
    ) -> Result<RangeResult, ReadError> {
        self.counters.ranges.increment();
        let short = op.count_only
            || matches!(op.range, KeyRange::Key(_))
            || (op.limit > 0
                && op.sort_order == SortOrder::None
                && (op.min_mod | op.max_mod | op.min_create | op.max_create) == 0);
        if !short {
            let (view, table) = self.part(&op.range)?;
            let op = op.clone();
            return blocking(move || range(&view, &op, &*table)).await;
        }
        let (selection, table) = {
            let inner = self.read();
            inner.usable()?;
            (inner.store.view().select(op)?, inner.segments.table())
        };
        if selection.values() <= INLINE_VALUES {
            return Ok(read(selection, &*table)?);
        }
        blocking(move || read(selection, &*table).map(Ok)).await
    }

    /// Runs a transaction of top-level ranges on one consistent state.
    pub async fn read_txn(&self, txn: &Txn) -> Result<TxnResult, ReadError> {
        let (view, table) = self.part(&KeyRange::all())?;
        let txn = txn.clone();
        let result = blocking(move || view.read_txn(&txn, &*table)).await?;
        self.counters.txn(&result);
        Ok(result)
    }

    /// A checksum over all pairs at a revision.
    pub async fn hash(&self, revision: Option<Revision>) -> Result<StateHash, ReadError> {
        let (view, table) = self.part(&KeyRange::all())?;
        blocking(move || {
            let hash = match view.hash(revision, &*table)? {
                Ok(hash) => hash,
                Err(error) => return Ok(Err(error)),
            };
            Ok(Ok(StateHash {
                hash,
                hash_revision: revision.unwrap_or(view.revision),
                compact_revision: view.compact_revision(),
                revision: view.revision,
            }))
        })
        .await
    }

    /// All versions, for who takes its time with them.
    pub(crate) fn everything(
        &self,
    ) -> Result<(View, Arc<dyn ReadValues + Send + Sync>), ReadError> {
        let (view, table) = self.part(&KeyRange::all())?;
        Ok((view, table))
    }

    /// Makes one value another one behind the log's back: see [`crate::testing::diverge`].
    pub(crate) fn diverge(&self) -> io::Result<()> {
        let mut inner = self.write();
        let Inner {
            store, segments, ..
        } = &mut *inner;
        let (mut cursor, mut done) = (None, false);
        store.relocate_step(&mut cursor, usize::MAX, &|_| true, &mut |old| {
            let value = segments.read(old)?;
            if std::mem::replace(&mut done, true) || value.is_empty() {
                return Ok(old);
            }
            let mut other = value.to_vec();
            other[0] ^= 1;
            let new = segments.append(&other)?;
            segments.release(old);
            Ok(new)
        })?;
        segments.flush()
    }

    /// Everything at one revision, in pages.
    pub fn export(&self, revision: Option<Revision>) -> Result<Export, ReadError> {
        let inner = self.read();
        inner.usable()?;
        let view = inner.store.view();
        let at = view.check(revision)?;
        Ok(Export::new(
            view.clone(),
            at,
            inner.segments.table(),
            inner.store.leases().iter().collect(),
        ))
    }

    /// Watches keys. A start that is compacted shows when the watcher is first asked.
    pub fn watch(self: &Arc<Self>, op: WatchOp) -> Watcher {
        Watcher::open(Arc::clone(self), op)
    }

    /// Every lease, in order of identity.
    pub fn leases(&self) -> Vec<LeaseInfo> {
        self.read().store.leases().iter().collect()
    }

    /// One lease.
    pub fn lease(&self, id: LeaseId) -> Option<LeaseInfo> {
        self.read().store.leases().get(id)
    }

    /// The keys attached to a lease, in order.
    pub fn lease_keys(&self, id: LeaseId) -> Option<Vec<Bytes>> {
        self.read().store.leases().keys(id)
    }

    /// Where changes of leases stand now. Take it before reading [`Shared::leases`].
    pub fn lease_cursor(&self) -> u64 {
        self.read().lease_log.cursor()
    }

    /// What happened to leases since a cursor.
    pub fn lease_changes(&self, cursor: u64) -> LeaseChanges {
        self.read().lease_log.read(cursor)
    }

    /// Follows [`Shared::lease_cursor`].
    pub fn lease_notify(&self) -> watch::Receiver<u64> {
        self.lease_cursor.subscribe()
    }

    /// The alarms that are raised. Does not wait for the entry that is being applied.
    pub fn alarms(&self) -> Arc<Alarms> {
        self.alarms.borrow().clone()
    }

    /// Follows [`Shared::alarms`].
    pub fn alarms_notify(&self) -> watch::Receiver<Arc<Alarms>> {
        self.alarms.subscribe()
    }

    /// Users, roles and permissions. Does not wait for the entry that is being applied.
    pub fn auth(&self) -> Arc<AuthState> {
        self.auth.borrow().clone()
    }

    /// Follows [`Shared::auth`].
    pub fn auth_notify(&self) -> watch::Receiver<Arc<AuthState>> {
        self.auth.subscribe()
    }

    /// Whether callers must be known and permitted.
    pub fn auth_enabled(&self) -> bool {
        self.auth_enabled.load(Ordering::Acquire)
    }

    /// The bytes of a command that the store proposes itself, in its own name where one is asked
    /// for. Whoever repeats it until it succeeds need not mind that this may just be changing.
    #[must_use]
    pub fn encode_own(&self, command: &Command) -> Bytes {
        if self.auth_enabled() {
            command.encode_as(&Caller::Root)
        } else {
            command.encode()
        }
    }

    /// The simple tokens that this member knows.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Ends every watch. Reads go on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        // Watches wait for revisions only; this one is no news but wakes them.
        self.revisions.send_modify(|_| {});
    }

    /// The whole state, to be read without the lock.
    pub(super) fn view(&self) -> Result<View, ReadError> {
        let inner = self.read();
        inner.usable()?;
        Ok(inner.store.view().clone())
    }

    /// The part of the state that a range needs, to be read without the lock.
    pub(super) fn part(&self, range: &KeyRange) -> Result<(View, Arc<Table>), ReadError> {
        let inner = self.read();
        inner.usable()?;
        Ok((inner.store.view().slice(range), inner.segments.table()))
    }
}

/// Tells watchers of a table, if it is another one.
fn replace<T>(watched: &watch::Sender<Arc<T>>, table: &Arc<T>) -> bool {
    watched.send_if_modified(|old| {
        let changed = !Arc::ptr_eq(old, table);
        if changed {
            *old = Arc::clone(table);
        }
        changed
    })
}

/// Runs a read on a thread that may wait for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> io::Result<Result<T, Refusal>> + Send + 'static,
) -> Result<T, ReadError> {
    match tokio::task::spawn_blocking(read).await {
        Ok(result) => Ok(result??),
        Err(error) => Err(ReadError::Damaged(format!("reading stopped: {error}"))),
    }
}

/// A value that may have moved or gone since its location was noted.
pub(super) fn read_or_gone(
    shared: &Shared,
    table: &Table,
    key: &[u8],
    version: &trivet_mvcc::Version,
) -> io::Result<Option<Bytes>> {
    if version.location.length == 0 || table.contains(version.location.segment) {
        return table.read_any(version.location).map(Some);
    }
    let (found, table) = {
        let inner = shared.read();
        let found = inner
            .store
            .view()
            .index
            .written_at(key, version.main)
            .copied();
        (found, inner.segments.table())
    };
    found
        .map(|version| table.read_any(version.location))
        .transpose()
}
