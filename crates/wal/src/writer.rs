//! The writer: takes everything that waits, writes it in one piece, syncs once.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::files::{LogDir, Segment, Spare};
use crate::format::{BLOCK, HEADER_BYTES, Record, RecordKind, Seed, SegmentHeader, record_bytes};
use crate::prepare::Preparer;
use crate::recover::Held;
use crate::shared::{Action, Op, Shared, State};
use crate::types::{MetaKind, Position, WalOptions};
use crate::view::{Change, Location};

/// How much buffer an idle writer keeps.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

/// How long the log waits for space before it looks again.
const FULL_PAUSE: Duration = Duration::from_millis(200);

/// The segment being written.
pub(crate) struct Active {
    pub(crate) segment: Arc<Segment>,
    pub(crate) end: u32,
}

/// The writing thread's state.
pub(crate) struct Writer {
    pub(crate) dir: LogDir,
    pub(crate) options: WalOptions,
    pub(crate) salt: u64,
    pub(crate) shared: Arc<Shared>,
    pub(crate) preparer: Arc<Preparer>,
    pub(crate) active: Option<Active>,
    /// Sequence number of the last segment.
    pub(crate) sequence: u64,
    /// As written, for copying into the next segment.
    pub(crate) meta: BTreeMap<MetaKind, Bytes>,
    pub(crate) buffer: Vec<u8>,
    pub(crate) changes: Vec<Change>,
    /// Whether the last batch has nothing behind it that proves it was synced.
    pub(crate) unproven: bool,
    /// Whether the file system was full at the last attempt.
    pub(crate) full: bool,
}

/// One write.
struct Batch {
    ops: Vec<Op>,
    lazy: BTreeMap<MetaKind, Bytes>,
    bytes: usize,
    /// Set when a new segment is to be begun.
    rotate: Option<Rotation>,
}

struct Rotation {
    size_bytes: u32,
    spare: Option<Spare>,
    purged: Option<Position>,
    next_index: u64,
}

/// Tells everybody if the thread ends by a panic (of a callback).
struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(
                &Error::Poisoned {
                    reason: "the writer panicked".into(),
                },
                Vec::new(),
            );
        }
    }
}

impl Writer {
    /// The thread. Ends when the log is closed or has failed.
    pub(crate) fn run(mut self) {
        let alive = Alive(Arc::clone(&self.shared));
        while let Some(batch) = self.take() {
            let ops = match self.write(batch) {
                Ok(ops) => ops,
                Err((error, ops)) => {
                    tracing::error!(dir = %self.dir.path.display(), %error, "the log has failed");
                    self.shared.fail(&error, ops);
                    return;
                }
            };
            let purged = ops.iter().any(|op| matches!(op.action, Action::Purge(_)));
            for done in ops.into_iter().filter_map(|op| op.done) {
                done(Ok(()));
            }
            if purged {
                remove_purged(&self.dir, &self.shared, &self.options, self.next_size());
            }
            self.prepare();
        }
        if let Err(error) = self.mark() {
            self.shared.fail(&error, Vec::new());
        }
        drop(alive);
    }

    /// Size of the next segment.
    fn next_size(&self) -> u32 {
        next_size(
            &self.options,
            self.active.as_ref().map(|active| active.segment.size_bytes),
        )
    }

    /// Bytes of the copies at the beginning of a segment.
    fn carried_bytes(&self, purged: bool) -> usize {
        let meta: usize = self
            .meta
            .values()
            .map(|value| record_bytes(value.len()))
            .sum();
        meta + if purged { record_bytes(0) } else { 0 }
    }

    /// Waits for work; `None` at the end.
    fn take(&self) -> Option<Batch> {
        let mut state = self.shared.lock();
        loop {
            if state.failed.is_some() {
                return None;
            }
            if !state.queue.is_empty() || (state.closing && !state.lazy.is_empty()) {
                break;
            }
            if state.closing {
                return None;
            }
            state = self
                .shared
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Some(self.plan(&mut state))
    }

    /// Decides what goes into the next write, and whether that begins a segment.
    fn plan(&self, state: &mut State) -> Batch {
        let lazy_bytes: usize = state
            .lazy
            .values()
            .map(|value| record_bytes(value.len()))
            .sum();
        let least = state.queue.front().map_or(0, |op| op.bytes) + lazy_bytes;
        let mut room = self
            .active
            .as_ref()
            .map_or(0, |a| (a.segment.size_bytes - a.end) as usize);
        let mut batch = Batch {
            ops: Vec::new(),
            lazy: BTreeMap::new(),
            bytes: 0,
            rotate: None,
        };
        if least > room {
            let purged = state.index.view.purged();
            let head = HEADER_BYTES + self.carried_bytes(purged.is_some());
            // One call and the copies are limited, so this stays below the limit of offsets.
            let needed = (head + least) as u32;
            let mut size_bytes = self.next_size();
            if needed > size_bytes {
                size_bytes = needed.next_multiple_of(BLOCK as u32);
            }
            let found = state
                .spares
                .iter()
                .position(|spare| spare.size_bytes >= size_bytes);
            let spare = found.map(|at| state.spares.swap_remove(at));
            let size_bytes = spare.as_ref().map_or(size_bytes, |spare| spare.size_bytes);
            room = size_bytes as usize - head;
            let next_index = state.index.view.next();
            batch.rotate = Some(Rotation {
                size_bytes,
                spare,
                purged,
                next_index,
            });
        }
        room -= lazy_bytes;
        while let Some(op) = state.queue.front() {
            let bytes = batch.bytes + op.bytes;
            if bytes > room || (!batch.ops.is_empty() && bytes > self.options.batch_bytes_max) {
                break;
            }
            batch.bytes = bytes;
            batch.ops.extend(state.queue.pop_front());
        }
        // A lazy value may speak about entries that came before it (a commit index): it must
        // not overtake them.
        if state.queue.is_empty() {
            batch.lazy = std::mem::take(&mut state.lazy);
        }
        batch
    }

    fn write(&mut self, batch: Batch) -> Result<Vec<Op>, (Error, Vec<Op>)> {
        let Batch {
            ops,
            lazy,
            bytes,
            rotate,
        } = batch;
        let begun = rotate.is_some();
        let something = bytes > 0 || !lazy.is_empty() || begun;
        if something && let Err(error) = self.store(&ops, &lazy, rotate) {
            return Err((error, ops));
        }
        if let Err(error) = self.publish(&ops, begun) {
            return Err((error, ops));
        }
        Ok(ops)
    }

    /// Encodes, writes and syncs.
    fn store(
        &mut self,
        ops: &[Op],
        lazy: &BTreeMap<MetaKind, Bytes>,
        rotate: Option<Rotation>,
    ) -> Result<()> {
        self.buffer.clear();
        self.changes.clear();
        let (segment, start) = match (rotate, &self.active) {
            (None, Some(active)) => (Arc::clone(&active.segment), active.end),
            (None, None) => return Err(Error::Refused("no segment was begun".into())),
            (Some(rotation), _) => (Arc::new(self.begin(&rotation)?), 0),
        };
        let mut encoder = Encoder {
            buffer: &mut self.buffer,
            changes: &mut self.changes,
            seed: Seed::new(self.salt, segment.sequence),
            sequence: segment.sequence,
            start,
        };
        for op in ops {
            encoder.action(&op.action);
        }
        for (kind, value) in lazy {
            encoder.meta(*kind, value);
        }
        let end = start as usize + self.buffer.len();
        let padded = end.next_multiple_of(BLOCK).min(segment.size_bytes as usize);
        self.buffer.resize(padded - start as usize, 0);
        // Nothing is acknowledged and nothing synced yet: the same bytes may go to the same
        // place as often as it takes.
        while let Err(error) = segment.file.write_all_at(u64::from(start), &self.buffer) {
            if !self.wait_for_space(&error) {
                return Err(Error::io("write", &segment.path, error));
            }
        }
        if std::mem::take(&mut self.full) {
            tracing::info!(dir = %self.dir.path.display(), "there is space again, the log goes on");
        }
        segment
            .file
            .sync_data()
            .map_err(|e| Error::io("sync", &segment.path, e))?;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        self.active = Some(Active {
            segment,
            end: end as u32,
        });
        self.unproven = true;
        for op in ops {
            if let Action::Meta(kind, value) = &op.action {
                self.meta.insert(*kind, value.clone());
            }
        }
        self.meta
            .extend(lazy.iter().map(|(kind, value)| (*kind, value.clone())));
        Ok(())
    }

    /// Waits a little if an error says that the file system is full; `false` if the error is
    /// another one or the log is being closed. Only where the disk tells how much space there
    /// is: where it cannot, nobody would know what the log waits for.
    fn wait_for_space(&mut self, error: &std::io::Error) -> bool {
        let full = error.kind() == std::io::ErrorKind::StorageFull;
        if !full || !matches!(self.dir.disk.space(&self.dir.path), Ok(Some(_))) {
            return false;
        }
        if !std::mem::replace(&mut self.full, true) {
            tracing::error!(dir = %self.dir.path.display(), "the file system is full, the log waits for space");
        }
        let state = self.shared.lock();
        if state.closing || state.failed.is_some() {
            return false;
        }
        let (state, _) = self
            .shared
            .work
            .wait_timeout(state, FULL_PAUSE)
            .unwrap_or_else(PoisonError::into_inner);
        !state.closing
    }

    /// Names the next segment and puts its header and the copies into the buffer.
    fn begin(&mut self, rotation: &Rotation) -> Result<Segment> {
        let sequence = self.sequence + 1;
        let seed = Seed::new(self.salt, sequence);
        let segment = loop {
            let spare = rotation.spare.as_ref();
            match self.dir.new_segment(sequence, rotation.size_bytes, spare) {
                Err(Error::Io { source, .. }) if self.wait_for_space(&source) => {}
                made => break made?,
            }
        };
        self.sequence = sequence;
        self.buffer.resize(HEADER_BYTES, 0);
        if let Some(Position { index, term }) = rotation.purged {
            let record = Record {
                kind: RecordKind::Purge,
                index,
                term,
                payload: &[],
            };
            record.encode(&mut self.buffer, 0, seed);
        }
        for (kind, value) in &self.meta {
            let index = u64::from(kind.0);
            let record = Record {
                kind: RecordKind::Meta,
                index,
                term: 0,
                payload: value,
            };
            record.encode(&mut self.buffer, 0, seed);
        }
        let header = SegmentHeader {
            sequence,
            next_index: rotation.next_index,
            previous_end: self.active.as_ref().map_or(0, |active| active.end),
            carried_end: self.buffer.len() as u32,
        };
        self.buffer[..HEADER_BYTES].copy_from_slice(&header.encode(seed));
        Ok(segment)
    }

    /// Lets readers find on disk what was written.
    fn publish(&mut self, ops: &[Op], begun: bool) -> Result<()> {
        let mut state = self.shared.lock();
        if let (true, Some(active)) = (begun, &self.active) {
            let segment = Arc::clone(&active.segment);
            state.held.push_back(Held {
                segment,
                next_max: 0,
            });
        }
        for change in self.changes.drain(..) {
            // The same rules were applied in the same order when the call came in.
            state.index.apply(change).map_err(Error::Refused)?;
            if let (Change::Entry(position, _), Some(held)) = (change, state.held.back_mut()) {
                held.next_max = held.next_max.max(position.index + 1);
            }
        }
        if self.changes.capacity() > 8192 {
            self.changes.shrink_to(8192);
        }
        if let Some(op) = ops.last() {
            state.durable = op.ticket;
        }
        state.queued_bytes -= ops.iter().map(|op| op.bytes).sum::<usize>();
        let durable = state.durable;
        state.cache.evict(self.options.cache_bytes_max, durable);
        drop(state);
        self.shared.space.notify_all();
        Ok(())
    }

    /// Asks for the next segment's file once the current one is half full, and for all of it
    /// when that is nearly full.
    fn prepare(&self) {
        let Some(active) = &self.active else { return };
        if !self.options.prepare_ahead || active.end < active.segment.size_bytes / 2 {
            return;
        }
        let size_bytes = self.next_size();
        let (half, written) = (active.segment.size_bytes as u64 / 2, u64::from(active.end));
        // From nothing at one half to everything at fifteen sixteenths.
        let share = u64::from(size_bytes) * (written - half) / (half * 7 / 8).max(1);
        let allowed_bytes = share.clamp(1, u64::from(size_bytes)) as usize;
        let state = self.shared.lock();
        if !state
            .spares
            .iter()
            .any(|spare| spare.size_bytes >= size_bytes)
        {
            drop(state);
            self.preparer.ask(size_bytes, allowed_bytes);
        }
    }

    /// After a clean stop even the last batch is proven to have been synced.
    fn mark(&mut self) -> Result<()> {
        if !self.unproven || self.shared.lock().failed.is_some() {
            return Ok(());
        }
        let Some(Active { segment, end }) = &self.active else {
            return Ok(());
        };
        if (segment.size_bytes - end) as usize <= record_bytes(0) {
            return Ok(());
        }
        let record = Record {
            kind: RecordKind::Mark,
            index: 0,
            term: 0,
            payload: &[],
        };
        self.buffer.clear();
        record.encode(
            &mut self.buffer,
            *end,
            Seed::new(self.salt, segment.sequence),
        );
        segment
            .file
            .write_all_at(u64::from(*end), &self.buffer)
            .map_err(|e| Error::io("write", &segment.path, e))?;
        segment
            .file
            .sync_data()
            .map_err(|e| Error::io("sync", &segment.path, e))
    }
}

struct Encoder<'a> {
    buffer: &'a mut Vec<u8>,
    changes: &'a mut Vec<Change>,
    seed: Seed,
    sequence: u64,
    start: u32,
}

impl Encoder<'_> {
    fn record(&mut self, kind: RecordKind, position: Position, payload: &[u8]) {
        let Position { index, term } = position;
        Record {
            kind,
            index,
            term,
            payload,
        }
        .encode(self.buffer, self.start, self.seed);
    }

    fn meta(&mut self, kind: MetaKind, value: &[u8]) {
        self.record(
            RecordKind::Meta,
            Position {
                index: u64::from(kind.0),
                term: 0,
            },
            value,
        );
    }

    fn action(&mut self, action: &Action) {
        match action {
            Action::Append(entries) => {
                for entry in entries {
                    let location = Location {
                        sequence: self.sequence,
                        offset: self.start + self.buffer.len() as u32,
                        payload_bytes: entry.payload.len() as u32,
                    };
                    self.record(RecordKind::Entry, entry.position(), &entry.payload);
                    self.changes.push(Change::Entry(entry.position(), location));
                }
            }
            Action::Truncate(from) => {
                self.record(
                    RecordKind::Truncate,
                    Position {
                        index: *from,
                        term: 0,
                    },
                    &[],
                );
                self.changes.push(Change::Truncate(*from));
            }
            Action::Purge(to) => {
                self.record(RecordKind::Purge, *to, &[]);
                self.changes.push(Change::Purge(*to));
            }
            Action::Meta(kind, value) => self.meta(*kind, value),
            Action::Flush => {}
        }
    }
}

/// Size of the segment that follows one of `current` bytes.
pub(crate) fn next_size(options: &WalOptions, current: Option<u32>) -> u32 {
    let doubled = current.map_or(0, |size| size.saturating_mul(2));
    doubled
        .max(options.segment_bytes_first)
        .min(options.segment_bytes_max)
}

/// Removes or recycles the segments that hold nothing but purged entries. The purge point is
/// durable in a segment that stays; a removal that a crash undoes is repeated when opening.
pub(crate) fn remove_purged(dir: &LogDir, shared: &Shared, options: &WalOptions, wanted: u32) {
    let mut state = shared.lock();
    let first = state.index.view.range().start;
    let mut gone = Vec::new();
    if state.index.view.purged().is_some() {
        while state.held.len() > 1 && state.held.front().is_some_and(|h| h.next_max <= first) {
            gone.extend(state.held.pop_front());
        }
    }
    let mut spares = state.spares.len();
    drop(state);
    for held in gone {
        // Not reachable any more: whoever reads it holds it already.
        let unread = Arc::strong_count(&held.segment) == 1;
        let Segment {
            sequence,
            path,
            size_bytes,
            ..
        } = &*held.segment;
        let result = if unread && spares < options.spares_max && *size_bytes == wanted {
            let spare = Spare {
                path: dir.spare_path(*sequence),
                size_bytes: wanted,
            };
            dir.disk.rename(path, &spare.path).map(|()| {
                spares += 1;
                shared.lock().spares.push(spare);
            })
        } else {
            dir.disk.remove_file(path)
        };
        if let Err(error) = result {
            tracing::warn!(file = %path.display(), %error, "cannot remove a purged log segment");
        }
    }
}
