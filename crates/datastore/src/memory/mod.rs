//! The reference model: a store in memory, simple enough to be read as the specification.
//!
//! All rules are in `state`, a plain value behind one lock; `watch` turns its log into streams.
//! Every operation is one step under the lock, so a dropped future has either not begun or is
//! complete.

mod backend;
mod state;
mod watch;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use tokio::sync::{Notify, watch as watch_channel};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use backend::MemoryBackend;

use self::state::{State, closed};
use crate::{
    Datastore, DeleteRequest, Error, ExportStream, KeyRange, Lease, LeaseId, PutRequest, RangePage,
    RangeRequest, Result, Revision, StoreStatus, WatchRequest, WatchStream, WriteOutcome,
};

/// Settings of a [`MemoryStore`].
#[derive(Debug, Clone)]
pub struct MemoryOptions {
    /// A watch that had caught up and is then more than this many revisions behind ends with
    /// [`Error::WatchLagged`].
    pub watch_window: u64,
    /// Shortest time between a batch and a following progress notification.
    pub progress_interval: Duration,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self {
            watch_window: 100_000,
            progress_interval: Duration::from_millis(250),
        }
    }
}

/// A store in memory. Clones are handles to the same store; when the last one is dropped the
/// store is gone, its watches end and its background task stops.
///
/// Leases expire by `tokio::time`, also under paused time. Only [`Datastore::grant_lease`] needs
/// a tokio runtime to be there when it is called.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

/// What watches wait for.
#[derive(Debug, Clone, Copy)]
struct Head {
    revision: Revision,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    /// Follows `state`, always changed while its lock is held.
    head: watch_channel::Sender<Head>,
    options: MemoryOptions,
    expiry: Mutex<Option<JoinHandle<()>>>,
    /// Tells the expiry task to look again.
    wake_expiry: Arc<Notify>,
}

impl MemoryStore {
    /// The name in `--datastore`.
    pub const BACKEND_NAME: &'static str = "memory";

    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::with_options(MemoryOptions::default())
    }

    /// An empty store with settings of its own.
    #[must_use]
    pub fn with_options(options: MemoryOptions) -> Self {
        let state = State::new();
        let head = Head {
            revision: state.revision(),
            closed: false,
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                head: watch_channel::Sender::new(head),
                options,
                expiry: Mutex::new(None),
                wake_expiry: Arc::new(Notify::new()),
            }),
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("head", &*self.shared.head.borrow())
            .finish()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is changed in one place by steps that cannot fail, so it is whole even if a
        // panic elsewhere poisoned the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one operation on a store that is open and has no overdue leases, and tells the
    /// watches.
    fn step<T>(&self, operation: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut state = self.state();
        if self.head.borrow().closed {
            return Err(closed());
        }
        state.expire_leases(Instant::now());
        let result = operation(&mut state);
        let revision = state.revision();
        self.head
            .send_if_modified(|head| std::mem::replace(&mut head.revision, revision) != revision);
        result
    }

    /// Makes sure that somebody ends leases while nobody calls.
    fn run_expiry(self: &Arc<Self>) {
        let mut expiry = self.expiry.lock().unwrap_or_else(PoisonError::into_inner);
        // Finished: the runtime it ran on is gone.
        if expiry.as_ref().is_none_or(JoinHandle::is_finished) {
            let task = expire_leases(Arc::downgrade(self), self.wake_expiry.clone());
            *expiry = Some(tokio::spawn(task));
        }
        self.wake_expiry.notify_one();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.wake_expiry.notify_one();
    }
}

/// Sleeps until the next lease is due, ends it, and again; returns when the store is closed or
/// gone.
async fn expire_leases(store: Weak<Shared>, wake: Arc<Notify>) {
    loop {
        let due = match store
            .upgrade()
            .map(|store| store.step(|state| Ok(state.next_expiry())))
        {
            Some(Ok(due)) => due,
            Some(Err(_)) | None => return,
        };
        match due {
            Some(due) => tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = wake.notified() => {}
            },
            None => wake.notified().await,
        }
    }
}

#[async_trait]
impl Datastore for MemoryStore {
    async fn range(&self, request: RangeRequest) -> Result<RangePage> {
        self.shared.step(|state| state.range(&request))
    }

    async fn put(&self, request: PutRequest) -> Result<WriteOutcome> {
        self.shared.step(|state| state.put(request))
    }

    async fn delete(&self, request: DeleteRequest) -> Result<WriteOutcome> {
        self.shared.step(|state| state.delete(request))
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream> {
        if matches!(&request.range, KeyRange::Key(key) if key.is_empty()) {
            return Err(Error::Invalid("the key is empty".into()));
        }
        let shared = &self.shared;
        shared.step(|state| {
            if request.start.is_some_and(|start| start < state.compacted()) {
                return Err(Error::Compacted {
                    compact_revision: state.compacted(),
                });
            }
            Ok(())
        })?;
        let MemoryOptions {
            watch_window,
            progress_interval,
        } = shared.options;
        let head = shared.head.subscribe();
        Ok(watch::open(
            Arc::downgrade(shared),
            head,
            request,
            watch_window,
            progress_interval,
        ))
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<Lease> {
        let lease = self
            .shared
            .step(|state| state.grant_lease(ttl, Instant::now()))?;
        self.shared.run_expiry();
        Ok(lease)
    }

    async fn keep_lease_alive(&self, id: LeaseId) -> Result<Lease> {
        self.shared
            .step(|state| state.keep_lease_alive(id, Instant::now()))
    }

    async fn revoke_lease(&self, id: LeaseId) -> Result<()> {
        self.shared.step(|state| state.revoke_lease(id))
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.shared.step(|state| state.compact(revision))
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.shared.step(|state| {
            Ok(StoreStatus {
                backend: Self::BACKEND_NAME.into(),
                revision: state.revision(),
                compact_revision: state.compacted(),
                size_bytes: 0,
                writable: true,
                problems: Vec::new(),
            })
        })
    }

    async fn export(&self) -> Result<ExportStream> {
        let items = self.shared.step(|state| Ok(state.export()))?;
        Ok(Box::pin(stream::iter(items.into_iter().map(Ok))))
    }

    async fn shutdown(&self) {
        {
            let _state = self.shared.state();
            self.shared.head.send_modify(|head| head.closed = true);
        }
        self.shared.wake_expiry.notify_one();
        let task = self
            .shared
            .expiry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = task {
            // Cancelled together with its runtime, or returned: either way it is over.
            let _ended = task.await;
        }
    }
}
