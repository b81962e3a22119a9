//! The index: every version of every key, in key order, in shared chunks.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::KeyRange;
use crate::chunk::{Chunk, MAX_KEYS, first_kept};
use crate::version::{Location, Version};

/// A chunk with what is needed to skip it.
#[derive(Debug, Clone)]
struct Slot {
    chunk: Arc<Chunk>,
    /// Keys in the chunk that exist now.
    live: u32,
    /// The last change in the chunk: as of any revision from here on the chunk has `live` keys.
    newest: u64,
}

impl Slot {
    fn new(chunk: Chunk) -> Self {
        Self {
            live: chunk.live(),
            newest: chunk.newest(),
            chunk: Arc::new(chunk),
        }
    }

    fn of_one(key: &[u8], version: Version) -> Self {
        let mut chunk = Chunk::default();
        chunk.insert(0, key, version);
        Self::new(chunk)
    }
}

/// An ordered map from keys to their versions.
///
/// Cloning shares all chunks and costs some tens of nanoseconds per 128 keys; a later change
/// copies the one chunk it touches. So a checkpoint, an export or a long range works on a
/// clone, undisturbed and without a lock.
#[derive(Clone, Default)]
pub struct Index {
    slots: Vec<Slot>,
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.entries().map(|entry| (entry.key, entry)))
            .finish()
    }
}

/// One key with all its versions.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Versions before the newest one, oldest first.
    pub older: &'a [Version],
    /// The newest version.
    pub head: &'a Version,
}

impl<'a> Entry<'a> {
    /// The versions, oldest first, without those that a compaction at `revision` does away
    /// with, whether they have been removed already or not. May be empty.
    #[must_use]
    pub fn uncompacted(&self, revision: u64) -> Vec<Version> {
        match self.first_uncompacted(revision) {
            Some(keep) => self.older[keep..]
                .iter()
                .chain([self.head])
                .copied()
                .collect(),
            None => Vec::new(),
        }
    }

    /// Where in [`Entry::older`] those versions begin; `None` when there is none at all.
    pub(crate) fn first_uncompacted(&self, revision: u64) -> Option<usize> {
        if self.head.is_tombstone() && self.head.main < revision {
            return None;
        }
        Some(first_kept(self.older, self.head, revision))
    }

    /// A version by its number: the older ones, then the newest.
    pub(crate) fn version(&self, number: usize) -> &'a Version {
        self.older.get(number).unwrap_or(self.head)
    }
}

/// Where a key is, or where it belongs. Good until the index changes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    slot: usize,
    position: Result<usize, usize>,
}

/// A change found in the index.
#[derive(Debug, Clone)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// The version that the change made; a tombstone for a deletion.
    pub version: Version,
    /// The version it superseded, unless that was a deletion or is compacted.
    pub previous: Option<Version>,
}

impl Index {
    /// The slot that holds the key or would.
    fn slot_of(&self, key: &[u8]) -> usize {
        self.slots
            .partition_point(|slot| slot.chunk.first_key() <= key)
            .saturating_sub(1)
    }

    /// Where a scan from `key` begins.
    fn seek(&self, key: &[u8]) -> (usize, usize) {
        let slot = self.slot_of(key);
        let position = self
            .slots
            .get(slot)
            .map_or(0, |found| match found.chunk.find(key) {
                Ok(position) | Err(position) => position,
            });
        (slot, position)
    }

    /// The version of a key as of `revision`, if the key existed then.
    #[must_use]
    pub fn get(&self, key: &[u8], revision: u64) -> Option<&Version> {
        let chunk = &self.slots.get(self.slot_of(key))?.chunk;
        chunk.at(chunk.find(key).ok()?, revision)
    }

    /// The version of a key that was written at exactly `revision`; of several the last.
    #[must_use]
    pub fn written_at(&self, key: &[u8], revision: u64) -> Option<&Version> {
        let chunk = &self.slots.get(self.slot_of(key))?.chunk;
        let position = chunk.find(key).ok()?;
        let head = chunk.head(position);
        if head.main == revision {
            return Some(head);
        }
        chunk
            .older(position)
            .iter()
            .rev()
            .find(|version| version.main == revision)
    }

    /// Looks a key up.
    pub(crate) fn find(&self, key: &[u8]) -> Place {
        let slot = self.slot_of(key);
        let chunk = self.slots.get(slot).map(|slot| &slot.chunk);
        Place {
            slot,
            position: chunk.map_or(Err(0), |chunk| chunk.find(key)),
        }
    }

    /// The version at a place, if the key exists now.
    pub(crate) fn newest(&self, place: Place) -> Option<&Version> {
        let position = place.position.ok()?;
        self.slots.get(place.slot)?.chunk.at(position, u64::MAX)
    }

    /// Adds a newer version of the key that was looked up.
    pub(crate) fn put(&mut self, place: Place, key: &[u8], version: Version) {
        if self.slots.is_empty() {
            self.slots.push(Slot::of_one(key, version));
            return;
        }
        let mut at = place.slot;
        let mut position = match place.position {
            Ok(position) => {
                let slot = &mut self.slots[at];
                let previous = Arc::make_mut(&mut slot.chunk).push(position, version);
                slot.live += u32::from(!version.is_tombstone());
                slot.live -= u32::from(!previous.is_tombstone());
                slot.newest = version.main;
                return;
            }
            Err(position) => position,
        };
        if self.slots[at].chunk.is_full() {
            let length = self.slots[at].chunk.len();
            if position == length {
                // Keys that arrive in order fill their chunks.
                self.slots.insert(at + 1, Slot::of_one(key, version));
                return;
            }
            let chunk = Arc::make_mut(&mut self.slots[at].chunk);
            let right = chunk.split_off(length / 2);
            self.slots[at].live = self.slots[at].chunk.live();
            self.slots[at].newest = self.slots[at].chunk.newest();
            self.slots.insert(at + 1, Slot::new(right));
            if position > length / 2 {
                at += 1;
                position -= length / 2;
            }
        }
        let slot = &mut self.slots[at];
        Arc::make_mut(&mut slot.chunk).insert(position, key, version);
        slot.live += u32::from(!version.is_tombstone());
        slot.newest = version.main;
    }

    /// Adds a version that was made elsewhere. `false`, and nothing happens, unless it is newer
    /// than every version of its key.
    #[must_use]
    pub fn append(&mut self, key: &[u8], version: Version) -> bool {
        let place = self.find(key);
        if let Ok(position) = place.position {
            let head = self.slots[place.slot].chunk.head(position);
            if (head.main, head.sub) >= (version.main, version.sub) {
                return false;
            }
        }
        self.put(place, key, version);
        true
    }

    /// Number of chunks, for walks that come back to a place.
    pub(crate) fn chunks(&self) -> usize {
        self.slots.len()
    }

    /// The newest change in a chunk.
    pub(crate) fn newest_in(&self, chunk: usize) -> u64 {
        self.slots[chunk].newest
    }

    /// Number of keys in a chunk.
    pub(crate) fn keys_in(&self, chunk: usize) -> usize {
        self.slots[chunk].chunk.len()
    }

    /// A key by its place.
    pub(crate) fn entry(&self, chunk: usize, key: usize) -> Entry<'_> {
        let chunk = &*self.slots[chunk].chunk;
        Entry {
            key: chunk.key(key),
            older: chunk.older(key),
            head: chunk.head(key),
        }
    }

    /// Visits the keys of `range` that existed at `revision`, in order, until `visit` says no.
    pub fn scan<'a>(
        &'a self,
        range: &KeyRange,
        revision: u64,
        mut visit: impl FnMut(&'a [u8], &'a Version) -> bool,
    ) {
        let (first, mut position) = self.seek(range.start());
        for slot in self.slots.iter().skip(first) {
            let chunk = &*slot.chunk;
            for index in position..chunk.len() {
                let key = chunk.key(index);
                if range.ends_before(key) {
                    return;
                }
                // The first chunk may begin before the range.
                if !range.contains(key) {
                    continue;
                }
                if let Some(version) = chunk.at(index, revision)
                    && !visit(key, version)
                {
                    return;
                }
            }
            position = 0;
        }
    }

    /// The number of keys of `range` that existed at `revision`. Chunks that did not change
    /// since then count as a whole.
    #[must_use]
    pub fn count(&self, range: &KeyRange, revision: u64) -> u64 {
        let (first, mut position) = self.seek(range.start());
        let mut count = 0;
        for slot in self.slots.iter().skip(first) {
            let chunk = &*slot.chunk;
            if position == 0
                && slot.newest <= revision
                && range.contains(chunk.first_key())
                && range.contains(chunk.last_key())
            {
                count += u64::from(slot.live);
                continue;
            }
            for index in position..chunk.len() {
                let key = chunk.key(index);
                if range.ends_before(key) {
                    return count;
                }
                if range.contains(key) && chunk.at(index, revision).is_some() {
                    count += 1;
                }
            }
            position = 0;
        }
        count
    }

    /// A clone of the part of the index that `range` can meet.
    #[must_use]
    pub fn slice(&self, range: &KeyRange) -> Self {
        let first = self.slot_of(range.start());
        let slots = self.slots.iter().skip(first);
        Self {
            slots: slots
                .take_while(|slot| !range.ends_before(slot.chunk.first_key()))
                .cloned()
                .collect(),
        }
    }

    /// The changes of `range` from revision `from` on, in order of revision; whole revisions,
    /// at most about `max_changes`. Also the last revision that is covered: `None` when all are.
    ///
    /// Visits every key of the range in chunks that changed since: ask for many changes at once.
    #[must_use]
    pub fn changes(
        &self,
        range: &KeyRange,
        from: u64,
        max_changes: usize,
    ) -> (Vec<Change>, Option<u64>) {
        let mut found: Vec<(u64, u32, usize, usize, usize)> = Vec::new();
        let first = self.slot_of(range.start());
        'slots: for (at, slot) in self.slots.iter().enumerate().skip(first) {
            let chunk = &*slot.chunk;
            if range.ends_before(chunk.first_key()) {
                break;
            }
            if slot.newest < from {
                continue;
            }
            for index in 0..chunk.len() {
                let head = chunk.head(index);
                if head.main < from {
                    continue;
                }
                let key = chunk.key(index);
                if range.ends_before(key) {
                    break 'slots;
                }
                if !range.contains(key) {
                    continue;
                }
                let older = chunk.older(index);
                let start = older.partition_point(|version| version.main < from);
                for (number, version) in older.iter().enumerate().skip(start) {
                    found.push((version.main, version.sub, at, index, number));
                }
                found.push((head.main, head.sub, at, index, older.len()));
            }
        }
        let mut last = None;
        let max_changes = max_changes.max(1);
        if found.len() > max_changes {
            let cut = found.select_nth_unstable(max_changes - 1).1.0;
            found.retain(|change| change.0 <= cut);
            last = Some(cut);
        }
        found.sort_unstable();
        let changes = found
            .into_iter()
            .map(|(_, _, at, index, number)| {
                let chunk = &self.slots[at].chunk;
                let older = chunk.older(index);
                let version = *older.get(number).unwrap_or_else(|| chunk.head(index));
                // Not one of the same revision: watchers are told what was there before it.
                let earlier = older[..number].iter().rev();
                let previous = earlier.copied().find(|earlier| earlier.main < version.main);
                Change {
                    key: Bytes::copy_from_slice(chunk.key(index)),
                    version,
                    previous: previous.filter(|version| !version.is_tombstone()),
                }
            })
            .collect();
        (changes, last)
    }

    /// The first slot with a key after `after`.
    fn slot_after(&self, after: Option<&[u8]>) -> usize {
        after.map_or(0, |after| {
            self.slots
                .partition_point(|slot| slot.chunk.last_key() <= after)
        })
    }

    /// One step of dropping what a compaction at `revision` does away with, for about
    /// `max_keys` keys after `cursor`. `true` when the end is reached.
    pub(crate) fn compact_step(
        &mut self,
        cursor: &mut Option<Vec<u8>>,
        revision: u64,
        max_keys: usize,
        dropped: &mut dyn FnMut(&Version),
    ) -> bool {
        let mut at = self.slot_after(cursor.as_deref());
        let mut seen = 0;
        while at < self.slots.len() {
            if seen >= max_keys {
                return false;
            }
            seen += self.slots[at].chunk.len();
            *cursor = Some(self.slots[at].chunk.last_key().to_vec());
            if self.slots[at].chunk.is_compactable(revision) {
                let chunk = Arc::make_mut(&mut self.slots[at].chunk);
                chunk.compact(revision, dropped);
                if chunk.len() == 0 {
                    self.slots.remove(at);
                    continue;
                }
                self.slots[at].newest = self.slots[at].chunk.newest();
                if at > 0 && self.merge(at - 1) {
                    continue;
                }
            }
            at += 1;
        }
        true
    }

    /// Joins a chunk with the next one when both are small.
    fn merge(&mut self, at: usize) -> bool {
        if self.slots[at].chunk.len() + self.slots[at + 1].chunk.len() > MAX_KEYS / 2 {
            return false;
        }
        let right = self.slots.remove(at + 1);
        let left = &mut self.slots[at];
        Arc::make_mut(&mut left.chunk).append(&right.chunk);
        left.live += right.live;
        left.newest = left.newest.max(right.newest);
        true
    }

    /// One step of moving values, for about `max_keys` keys after `cursor`: `wanted` says which,
    /// `moved` moves one. `true` when the end is reached.
    pub fn relocate_step(
        &mut self,
        cursor: &mut Option<Vec<u8>>,
        max_keys: usize,
        wanted: &dyn Fn(Location) -> bool,
        moved: &mut dyn FnMut(Location) -> io::Result<Location>,
    ) -> io::Result<bool> {
        let wants = |version: &Version| version.location.length > 0 && wanted(version.location);
        let mut at = self.slot_after(cursor.as_deref());
        let mut seen = 0;
        while at < self.slots.len() {
            if seen >= max_keys {
                return Ok(false);
            }
            let slot = &mut self.slots[at];
            seen += slot.chunk.len();
            if slot.chunk.any_version(&wants) {
                for version in Arc::make_mut(&mut slot.chunk).versions_mut() {
                    if wants(version) {
                        version.location = moved(version.location)?;
                    }
                }
            }
            *cursor = Some(slot.chunk.last_key().to_vec());
            at += 1;
        }
        Ok(true)
    }

    /// Every key with its versions, in key order.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.slots.iter().flat_map(|slot| {
            let chunk = &*slot.chunk;
            (0..chunk.len()).map(|index| Entry {
                key: chunk.key(index),
                older: chunk.older(index),
                head: chunk.head(index),
            })
        })
    }

    /// The entries of up to `max_keys` keys after `after`, in key order.
    pub fn entries_after(
        &self,
        after: Option<&[u8]>,
        max_keys: usize,
    ) -> impl Iterator<Item = Entry<'_>> {
        let from = after.map_or((0, 0), |after| {
            let (slot, position) = self.seek(after);
            let chunk = self.slots.get(slot).map(|slot| &slot.chunk);
            let exact =
                chunk.is_some_and(|chunk| position < chunk.len() && chunk.key(position) == after);
            (slot, position + usize::from(exact))
        });
        self.slots
            .iter()
            .enumerate()
            .skip(from.0)
            .flat_map(move |(at, slot)| {
                let chunk = &*slot.chunk;
                let start = if at == from.0 { from.1 } else { 0 };
                (start..chunk.len()).map(|index| Entry {
                    key: chunk.key(index),
                    older: chunk.older(index),
                    head: chunk.head(index),
                })
            })
            .take(max_keys)
    }

    /// Number of keys that have any version, deleted ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.iter().map(|slot| slot.chunk.len()).sum()
    }

    /// Whether no key has any version.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

/// Builds an index from entries in key order.
#[derive(Debug, Default)]
pub struct IndexBuilder {
    slots: Vec<Slot>,
    chunk: Chunk,
}

impl IndexBuilder {
    /// Adds a key with its versions, oldest first. `false` if the key or a version is out of
    /// order, or there is no version; the builder is of no use then.
    #[must_use]
    pub fn push(&mut self, key: &[u8], versions: &[Version]) -> bool {
        let Some((head, older)) = versions.split_last() else {
            return false;
        };
        let previous = match (&self.chunk, self.slots.last()) {
            (chunk, _) if chunk.len() > 0 => Some(chunk.last_key()),
            (_, Some(slot)) => Some(slot.chunk.last_key()),
            _ => None,
        };
        let sorted = versions.is_sorted_by(|a, b| (a.main, a.sub) < (b.main, b.sub));
        if !sorted || previous.is_some_and(|previous| previous >= key) {
            return false;
        }
        if self.chunk.is_full() {
            self.flush();
        }
        self.chunk.push_back(key, older, *head);
        true
    }

    fn flush(&mut self) {
        let mut chunk = std::mem::take(&mut self.chunk);
        if chunk.len() > 0 {
            chunk.shrink();
            self.slots.push(Slot::new(chunk));
        }
    }

    /// The index.
    #[must_use]
    pub fn finish(mut self) -> Index {
        self.flush();
        Index { slots: self.slots }
    }
}
