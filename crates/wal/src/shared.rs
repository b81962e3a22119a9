//! State shared by callers, the writer and the preparer.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::error::Error;
use crate::files::Spare;
use crate::format::record_bytes;
use crate::recover::Held;
use crate::types::{Callback, Entry, MetaKind, Position};
use crate::view::{Index, View};

/// Number of a call, in order; what is durable is said in tickets.
pub(crate) type Ticket = u64;

/// What memory an entry takes besides its payload.
const CACHED_OVERHEAD_BYTES: usize = 64;

/// A waiting call.
pub(crate) struct Op {
    pub(crate) ticket: Ticket,
    /// Its records' size on disk.
    pub(crate) bytes: usize,
    pub(crate) action: Action,
    pub(crate) done: Option<Callback>,
}

/// What a call changes.
pub(crate) enum Action {
    Append(Vec<Entry>),
    Truncate(u64),
    Purge(Position),
    Meta(MetaKind, Bytes),
    /// Only waits for what came before.
    Flush,
}

impl Action {
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Action::Append(entries) => entries
                .iter()
                .map(|entry| record_bytes(entry.payload.len()))
                .sum(),
            Action::Truncate(_) | Action::Purge(_) => record_bytes(0),
            Action::Meta(_, value) => record_bytes(value.len()),
            Action::Flush => 0,
        }
    }
}

/// The newest entries, contiguous up to the end of the log. Always holds those that are not
/// on disk yet.
#[derive(Default)]
pub(crate) struct Cache {
    entries: VecDeque<(Entry, Ticket)>,
    bytes: usize,
}

impl Cache {
    fn cost(entry: &Entry) -> usize {
        entry.payload.len() + CACHED_OVERHEAD_BYTES
    }

    pub(crate) fn first(&self) -> Option<u64> {
        Some(self.entries.front()?.0.index)
    }

    pub(crate) fn push(&mut self, entry: Entry, ticket: Ticket) {
        self.bytes += Self::cost(&entry);
        self.entries.push_back((entry, ticket));
    }

    pub(crate) fn truncate(&mut self, from: u64) {
        while self
            .entries
            .back()
            .is_some_and(|(entry, _)| entry.index >= from)
        {
            if let Some((entry, _)) = self.entries.pop_back() {
                self.bytes -= Self::cost(&entry);
            }
        }
    }

    fn pop_front(&mut self) {
        if let Some((entry, _)) = self.entries.pop_front() {
            self.bytes -= Self::cost(&entry);
        }
        if self.entries.capacity() > 4096 && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2);
        }
    }

    pub(crate) fn purge(&mut self, index: u64) {
        while self.first().is_some_and(|first| first <= index) {
            self.pop_front();
        }
    }

    /// Makes room, as far as what would go is on disk.
    pub(crate) fn evict(&mut self, bytes_max: usize, durable: Ticket) {
        while self.bytes > bytes_max
            && self
                .entries
                .front()
                .is_some_and(|(_, ticket)| *ticket <= durable)
        {
            self.pop_front();
        }
    }

    /// Entries of a range that starts in the cache, up to `bytes_max`, at least one.
    pub(crate) fn read(&self, range: Range<u64>, bytes_max: usize) -> Vec<Entry> {
        let skip = self
            .first()
            .map_or(0, |first| range.start.saturating_sub(first));
        let mut bytes = 0;
        self.entries
            .iter()
            .skip(skip as usize)
            .take_while(|(entry, _)| {
                let first = entry.index == range.start;
                bytes += entry.payload.len();
                entry.index < range.end && (first || bytes <= bytes_max)
            })
            .map(|(entry, _)| entry.clone())
            .collect()
    }
}

/// Everything behind the lock.
#[derive(Default)]
pub(crate) struct State {
    /// As callers see it: ahead of the disk.
    pub(crate) view: View,
    pub(crate) meta: BTreeMap<MetaKind, Bytes>,
    pub(crate) cache: Cache,
    pub(crate) queue: VecDeque<Op>,
    /// Of the queue and of the batch being written.
    pub(crate) queued_bytes: usize,
    pub(crate) last_ticket: Ticket,
    pub(crate) durable: Ticket,
    /// Meta values that wait for somebody else's write.
    pub(crate) lazy: BTreeMap<MetaKind, Bytes>,
    /// As it is on disk.
    pub(crate) index: Index,
    pub(crate) held: VecDeque<Held>,
    pub(crate) spares: Vec<Spare>,
    pub(crate) failed: Option<Error>,
    pub(crate) closing: bool,
}

/// The lock and its conditions.
#[derive(Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Something for the writer to do.
    pub(crate) work: Condvar,
    /// Less waits than before, or nothing ever will be written again.
    pub(crate) space: Condvar,
}

impl Shared {
    pub(crate) fn new(state: State) -> Self {
        Self {
            state: Mutex::new(state),
            ..Self::default()
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // Every section leaves the state consistent before it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing will be written any more; everybody who waits is told, in order.
    pub(crate) fn fail(&self, error: &Error, current: Vec<Op>) {
        let mut state = self.lock();
        let poison = error.poison();
        state.failed.get_or_insert_with(|| poison.clone());
        let waiting = std::mem::take(&mut state.queue);
        state.lazy.clear();
        drop(state);
        self.space.notify_all();
        for done in current.into_iter().filter_map(|op| op.done) {
            done(Err(error.clone()));
        }
        for done in waiting.into_iter().filter_map(|op| op.done) {
            done(Err(poison.clone()));
        }
    }
}
