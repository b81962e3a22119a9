//! The log as its caller sees it.

use std::ops::Range;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use trivet_env::Disk;

use crate::error::{Error, Result};
use crate::files::LogDir;
use crate::open::{Opened, open};
use crate::prepare::Preparer;
use crate::read;
use crate::shared::{Action, Op, Shared, State};
use crate::types::{
    APPEND_BYTES_MAX, Callback, Entry, LogState, META_BYTES_MAX, MetaKind, Position, Recovered,
    WalOptions,
};

/// An open log. Clones share it; the last one dropped closes it (see [`Wal::close`]).
#[derive(Clone)]
pub struct Wal {
    handle: Arc<Handle>,
}

struct Handle {
    dir: LogDir,
    options: WalOptions,
    salt: u64,
    shared: Arc<Shared>,
    preparer: Arc<Preparer>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Wal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wal")
            .field("dir", &self.handle.dir.path)
            .finish_non_exhaustive()
    }
}

impl Wal {
    /// Opens the log in `dir`, or creates one there; the directory must be used by nothing
    /// else. After any crash that only lost unsynced data this succeeds; what was recovered is
    /// durable on return.
    ///
    /// # Errors
    /// [`Error::Damaged`] when synced data is not what it was; nothing was changed then.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: WalOptions) -> Result<(Wal, Recovered)> {
        options.check()?;
        let prepare_ahead = options.prepare_ahead;
        let dir = LogDir {
            disk,
            path: dir.to_path_buf(),
        };
        let preparer = Arc::new(Preparer::default());
        let Opened { writer, recovered } = open(&dir, &options, Arc::clone(&preparer))?;
        let shared = Arc::clone(&writer.shared);
        let handle = Handle {
            salt: writer.salt,
            shared: Arc::clone(&shared),
            preparer: Arc::clone(&preparer),
            threads: Mutex::default(),
            dir: dir.clone(),
            options,
        };
        let wal = Wal {
            handle: Arc::new(handle),
        };
        wal.spawn("wal-write", move || writer.run())?;
        if prepare_ahead {
            wal.spawn("wal-prepare", move || preparer.run(&dir, &shared))?;
        }
        Ok((wal, recovered))
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = thread::Builder::new()
            .name(name.into())
            .spawn(run)
            .map_err(|e| Error::io("start a thread for", &self.handle.dir.path, e))?;
        self.handle
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(thread);
        Ok(())
    }

    /// Adds entries behind the last one. They can be read when this returns, and are durable
    /// when `done` gets `Ok`. Blocks only while more than `queue_bytes_max` wait.
    ///
    /// # Errors
    /// Nothing was written and `done` is dropped: [`Error::Refused`] when an entry is not the
    /// next one (truncate first) or too large, or the log has failed or is closed. A log that
    /// has no entry and was never purged takes any first index.
    pub fn append(&self, entries: Vec<Entry>, done: Callback) -> Result<()> {
        if let Some(large) = entries
            .iter()
            .find(|e| e.payload.len() > Entry::PAYLOAD_BYTES_MAX)
        {
            return Err(Error::Refused(format!(
                "entry {} has {} bytes of payload, the limit is {}",
                large.index,
                large.payload.len(),
                Entry::PAYLOAD_BYTES_MAX
            )));
        }
        let action = Action::Append(entries);
        if action.bytes() > APPEND_BYTES_MAX {
            return Err(Error::Refused(format!(
                "{} bytes in one call, the limit is {APPEND_BYTES_MAX}",
                action.bytes()
            )));
        }
        self.enqueue(action, done, |state, action, ticket| {
            let Action::Append(entries) = action else {
                return Ok(());
            };
            let mut view_next = state.view.next();
            for (number, entry) in entries.iter().enumerate() {
                let any = number == 0 && view_next == 0;
                if entry.index == u64::MAX || (!any && entry.index != view_next) {
                    let text =
                        format!("entry {} does not follow, {view_next} is next", entry.index);
                    return Err(Error::Refused(text));
                }
                view_next = entry.index + 1;
            }
            for entry in entries {
                state.view.push(entry.position());
                state.cache.push(entry.clone(), ticket);
            }
            Ok(())
        })
    }

    /// Removes every entry with an index above `index` (`None`: all). No entries to remove is
    /// fine.
    ///
    /// # Errors
    /// [`Error::Refused`] when `index` lies behind the purge point.
    pub fn truncate_after(&self, index: Option<u64>, done: Callback) -> Result<()> {
        let from = index.map_or(0, |index| index.saturating_add(1));
        self.enqueue(Action::Truncate(from), done, |state, action, _| {
            let mut from = from;
            match state.view.purged() {
                Some(purged) if index.is_none() => from = purged.index + 1,
                Some(purged) if from <= purged.index => {
                    let text = format!("entries up to {} are purged already", purged.index);
                    return Err(Error::Refused(text));
                }
                // Without a purge point an empty log forgets where it began.
                None if from <= state.view.range().start => from = 0,
                _ => {}
            }
            if from >= state.view.next() {
                *action = Action::Flush;
                return Ok(());
            }
            state.view.truncate(from);
            state.cache.truncate(from);
            *action = Action::Truncate(from);
            Ok(())
        })
    }

    /// Drops every entry up to and including `position`, which may lie behind the last entry
    /// (a snapshot was installed): the next entry is then the one after it. A position that is
    /// purged already changes nothing. Whole segments are removed or recycled once the new
    /// purge point is durable.
    pub fn purge_up_to(&self, position: Position, done: Callback) -> Result<()> {
        if position.index == u64::MAX {
            return Err(Error::Refused(
                "there is no entry after the last possible one".into(),
            ));
        }
        self.enqueue(Action::Purge(position), done, |state, action, _| {
            if state.view.purge(position) {
                state.cache.purge(position.index);
            } else {
                *action = Action::Flush;
            }
            Ok(())
        })
    }

    /// Replaces a small value, in order with the entries before and after.
    pub fn put_meta(&self, kind: MetaKind, value: Bytes, done: Callback) -> Result<()> {
        check_meta(&value)?;
        self.enqueue(
            Action::Meta(kind, value.clone()),
            done,
            move |state, _, _| {
                state.lazy.remove(&kind);
                state.meta.insert(kind, value);
                Ok(())
            },
        )
    }

    /// Replaces a small value with the next write that happens anyway, or with a
    /// [`flush`](Self::flush) or [`close`](Self::close), and never before an entry that was
    /// appended earlier. A crash may bring the previous value back.
    pub fn put_meta_lazy(&self, kind: MetaKind, value: Bytes) -> Result<()> {
        check_meta(&value)?;
        let mut state = self.handle.shared.lock();
        usable(&state)?;
        state.meta.insert(kind, value.clone());
        state.lazy.insert(kind, value);
        Ok(())
    }

    /// The last value put, durable or not.
    pub fn meta(&self, kind: MetaKind) -> Option<Bytes> {
        self.handle.shared.lock().meta.get(&kind).cloned()
    }

    /// Entries of `range`, as many as fit `max_bytes` of payload, but at least one when the
    /// range is not empty. Blocks on the disk unless the entries are in memory.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when an entry of the range does not exist; [`Error::Damaged`]
    /// when one cannot be read back.
    pub fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Entry>> {
        let places = {
            let state = self.handle.shared.lock();
            check_range(&state, &range)?;
            if let Some(entries) = cached(&state, &range, max_bytes) {
                return Ok(entries);
            }
            read::places(&state, range, max_bytes)?
        };
        read::load(&places, self.handle.salt)
    }

    /// Like [`read`](Self::read) but without touching the disk: `None` when the first entry is
    /// not in memory.
    pub fn read_cached(&self, range: Range<u64>, max_bytes: usize) -> Result<Option<Vec<Entry>>> {
        let state = self.handle.shared.lock();
        check_range(&state, &range)?;
        Ok(cached(&state, &range, max_bytes))
    }

    /// Purge point and last entry.
    pub fn state(&self) -> LogState {
        self.handle.shared.lock().view.state()
    }

    /// Term of an entry that exists, or of the purge point.
    pub fn term_at(&self, index: u64) -> Option<u64> {
        self.handle.shared.lock().view.term_at(index)
    }

    /// Bytes of all files of the log, spare ones too.
    pub fn size_bytes(&self) -> u64 {
        let state = self.handle.shared.lock();
        let held: u64 = state
            .held
            .iter()
            .map(|held| u64::from(held.segment.size_bytes))
            .sum();
        held + state
            .spares
            .iter()
            .map(|spare| u64::from(spare.size_bytes))
            .sum::<u64>()
    }

    /// Blocks until everything that was put before, lazy values too, is durable.
    pub fn flush(&self) -> Result<()> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let done = Box::new(move |result| {
            // Nobody left to hear it is fine.
            let _ = sender.send(result);
        });
        self.enqueue(Action::Flush, done, |_, _, _| Ok(()))?;
        receiver.recv().unwrap_or(Err(Error::Closed))
    }

    /// Writes everything that waits, stops the threads; later calls get [`Error::Closed`].
    /// Reports the error if the log has failed. Must not be called from a callback.
    pub fn close(&self) -> Result<()> {
        self.handle.close();
        match &self.handle.shared.lock().failed {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    fn enqueue(
        &self,
        mut action: Action,
        done: Callback,
        prepare: impl FnOnce(&mut State, &mut Action, u64) -> Result<()>,
    ) -> Result<()> {
        let shared = &self.handle.shared;
        let bytes = action.bytes();
        let bytes_max = self.handle.options.queue_bytes_max;
        let mut state = shared.lock();
        loop {
            usable(&state)?;
            if state.queued_bytes == 0 || state.queued_bytes + bytes <= bytes_max {
                break;
            }
            state = shared
                .space
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let ticket = state.last_ticket + 1;
        prepare(&mut state, &mut action, ticket)?;
        state.last_ticket = ticket;
        let bytes = action.bytes();
        state.queued_bytes += bytes;
        let durable = state.durable;
        state
            .cache
            .evict(self.handle.options.cache_bytes_max, durable);
        state.queue.push_back(Op {
            ticket,
            bytes,
            action,
            done: Some(done),
        });
        drop(state);
        shared.work.notify_one();
        Ok(())
    }
}

impl Handle {
    fn close(&self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_one();
        self.shared.space.notify_all();
        self.preparer.stop();
        let threads: Vec<_> = self
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
            .collect();
        for thread in threads {
            // The last clone may be dropped by a callback, on the writer itself.
            if thread.thread().id() != thread::current().id() {
                // A panic there was turned into a failure of the log.
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

fn check_meta(value: &Bytes) -> Result<()> {
    if value.len() > META_BYTES_MAX {
        let text = format!(
            "{} bytes of meta, the limit is {META_BYTES_MAX}",
            value.len()
        );
        return Err(Error::Refused(text));
    }
    Ok(())
}

fn usable(state: &State) -> Result<()> {
    match &state.failed {
        Some(error) => Err(error.clone()),
        None if state.closing => Err(Error::Closed),
        None => Ok(()),
    }
}

fn check_range(state: &State, range: &Range<u64>) -> Result<()> {
    let held = state.view.range();
    if range.is_empty() || (range.start >= held.start && range.end <= held.end) {
        return Ok(());
    }
    let Range { start, end } = *range;
    Err(Error::OutOfRange {
        start,
        end,
        first: held.start,
        next: held.end,
    })
}

fn cached(state: &State, range: &Range<u64>, max_bytes: usize) -> Option<Vec<Entry>> {
    if range.is_empty() {
        return Some(Vec::new());
    }
    let first = state.cache.first()?;
    (first <= range.start).then(|| state.cache.read(range.clone(), max_bytes))
}
