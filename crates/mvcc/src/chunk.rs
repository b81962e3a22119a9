//! A run of neighbouring keys in four flat arrays.
//!
//! One allocation per array instead of several per key: a million keys of 55 bytes take about
//! 130 MB, and copying a chunk that a reader still holds is four `memcpy`s.

use std::sync::Arc;

use crate::version::Version;

/// Keys per chunk at most.
pub(crate) const MAX_KEYS: usize = 128;
/// Key bytes per chunk at most, as long as it has more than one key.
const MAX_KEY_BYTES: usize = 32 * 1024;
/// Arrays grow by this many elements, not by doubling: chunks are many, slack adds up.
const GROWTH: usize = 16;

#[derive(Debug, Clone, Default)]
pub(crate) struct Chunk {
    /// All keys, one after the other.
    keys: Vec<u8>,
    /// Where each key ends in `keys`.
    ends: Vec<u32>,
    /// The newest version of each key.
    heads: Vec<Version>,
    /// The versions before the newest one, oldest first.
    older: Vec<Option<Arc<Vec<Version>>>>,
}

impl Chunk {
    pub(crate) fn len(&self) -> usize {
        self.heads.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= MAX_KEYS || (self.keys.len() >= MAX_KEY_BYTES && self.len() > 1)
    }

    fn start(&self, index: usize) -> usize {
        if index == 0 {
            0
        } else {
            self.ends[index - 1] as usize
        }
    }

    pub(crate) fn key(&self, index: usize) -> &[u8] {
        &self.keys[self.start(index)..self.ends[index] as usize]
    }

    pub(crate) fn first_key(&self) -> &[u8] {
        self.key(0)
    }

    pub(crate) fn last_key(&self) -> &[u8] {
        self.key(self.len() - 1)
    }

    pub(crate) fn head(&self, index: usize) -> &Version {
        &self.heads[index]
    }

    pub(crate) fn older(&self, index: usize) -> &[Version] {
        self.older[index].as_ref().map_or(&[], |older| &older[..])
    }

    /// Where the key is, or where it belongs.
    pub(crate) fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.key(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// The version of a key as of a revision, unless it did not exist then.
    pub(crate) fn at(&self, index: usize, revision: u64) -> Option<&Version> {
        let head = &self.heads[index];
        let version = if head.main <= revision {
            head
        } else {
            let older = self.older(index);
            &older[older
                .partition_point(|version| version.main <= revision)
                .checked_sub(1)?]
        };
        (!version.is_tombstone()).then_some(version)
    }

    pub(crate) fn insert(&mut self, index: usize, key: &[u8], head: Version) {
        let start = self.start(index);
        // Bounded: a chunk holds at most `MAX_KEY_BYTES` and one key, and requests are limited
        // to far less than 4 GiB.
        let length = u32::try_from(key.len()).expect("keys are shorter than 4 GiB");
        if self.heads.len() == self.heads.capacity() {
            self.ends.reserve_exact(GROWTH);
            self.heads.reserve_exact(GROWTH);
            self.older.reserve_exact(GROWTH);
        }
        if self.keys.capacity() - self.keys.len() < key.len() {
            self.keys
                .reserve_exact(key.len() * GROWTH.min(MAX_KEY_BYTES / key.len().max(1) + 1));
        }
        let old_length = self.keys.len();
        self.keys.resize(old_length + key.len(), 0);
        self.keys.copy_within(start..old_length, start + key.len());
        self.keys[start..start + key.len()].copy_from_slice(key);
        for end in &mut self.ends[index..] {
            *end += length;
        }
        self.ends.insert(index, start as u32 + length);
        self.heads.insert(index, head);
        self.older.insert(index, None);
    }

    /// Adds a newer version; answers the one it supersedes.
    pub(crate) fn push(&mut self, index: usize, head: Version) -> Version {
        let previous = std::mem::replace(&mut self.heads[index], head);
        let older = self.older[index].get_or_insert_default();
        let older = Arc::make_mut(older);
        if older.len() == older.capacity() {
            // Most keys have one or two versions between compactions.
            older.reserve_exact(1 + older.len() / 2);
        }
        older.push(previous);
        previous
    }

    /// Moves the keys from `index` on into a chunk of their own.
    pub(crate) fn split_off(&mut self, index: usize) -> Self {
        let start = self.start(index);
        let mut ends = self.ends.split_off(index);
        for end in &mut ends {
            *end -= start as u32;
        }
        let right = Self {
            keys: self.keys.split_off(start),
            ends,
            heads: self.heads.split_off(index),
            older: self.older.split_off(index),
        };
        self.shrink();
        right
    }

    /// Takes over the keys of the next chunk.
    pub(crate) fn append(&mut self, right: &Self) {
        let base = self.keys.len() as u32;
        self.keys.extend_from_slice(&right.keys);
        self.ends.extend(right.ends.iter().map(|end| end + base));
        self.heads.extend_from_slice(&right.heads);
        self.older.extend_from_slice(&right.older);
    }

    pub(crate) fn shrink(&mut self) {
        self.keys.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.heads.shrink_to_fit();
        self.older.shrink_to_fit();
    }

    /// Keys that exist now.
    pub(crate) fn live(&self) -> u32 {
        self.heads
            .iter()
            .filter(|head| !head.is_tombstone())
            .count() as u32
    }

    /// The revision of the last change in here.
    pub(crate) fn newest(&self) -> u64 {
        self.heads.iter().map(|head| head.main).max().unwrap_or(0)
    }

    /// Whether [`Chunk::compact`] would drop anything.
    pub(crate) fn is_compactable(&self, revision: u64) -> bool {
        (0..self.len()).any(|index| {
            let head = &self.heads[index];
            (head.is_tombstone() && head.main < revision)
                || self.older[index].as_ref().is_some_and(|older| {
                    let keep = first_kept(older, head, revision);
                    keep > 0
                })
        })
    }

    /// Drops what a compaction at `revision` does away with: versions before the one current at
    /// `revision`, and that one too if it is an earlier deletion. A deletion at `revision`
    /// itself stays, for watchers that start exactly there.
    pub(crate) fn compact(&mut self, revision: u64, dropped: &mut dyn FnMut(&Version)) {
        let mut removed = false;
        for index in 0..self.len() {
            let head = self.heads[index];
            if let Some(older) = &mut self.older[index] {
                let keep = first_kept(older, &head, revision);
                if keep > 0 {
                    older[..keep].iter().for_each(&mut *dropped);
                    let rest = older[keep..].to_vec();
                    self.older[index] = (!rest.is_empty()).then(|| Arc::new(rest));
                }
            }
            removed |= head.is_tombstone() && head.main < revision;
        }
        if removed {
            self.remove_dead(revision);
        }
    }

    fn remove_dead(&mut self, revision: u64) {
        let mut kept = Self::default();
        for index in 0..self.len() {
            let head = self.heads[index];
            // Everything before such a head was dropped with it in sight.
            if head.is_tombstone() && head.main < revision {
                continue;
            }
            kept.keys.extend_from_slice(self.key(index));
            kept.ends.push(kept.keys.len() as u32);
            kept.heads.push(head);
            kept.older.push(self.older[index].take());
        }
        kept.shrink();
        *self = kept;
    }

    /// Whether any version satisfies `test`.
    pub(crate) fn any_version(&self, test: &dyn Fn(&Version) -> bool) -> bool {
        self.heads.iter().any(test)
            || self
                .older
                .iter()
                .flatten()
                .any(|older| older.iter().any(test))
    }

    /// Every version, to change its location.
    pub(crate) fn versions_mut(&mut self) -> impl Iterator<Item = &mut Version> {
        let older = self.older.iter_mut().flatten();
        self.heads
            .iter_mut()
            .chain(older.flat_map(|older| Arc::make_mut(older).iter_mut()))
    }

    /// Adds a key after all others, with all its versions, oldest first.
    pub(crate) fn push_back(&mut self, key: &[u8], older: &[Version], head: Version) {
        self.insert(self.len(), key, head);
        if !older.is_empty() {
            let last = self.len() - 1;
            self.older[last] = Some(Arc::new(older.to_vec()));
        }
    }
}

/// How many of the older versions a compaction drops.
///
/// What stays is every version written at or after `revision`, and the newest one before it
/// unless something was written at `revision` or that one is a deletion.
pub(crate) fn first_kept(older: &[Version], head: &Version, revision: u64) -> usize {
    let before = older.partition_point(|version| version.main < revision);
    let next = older.get(before).unwrap_or(head);
    if before == 0 || next.main == revision || (before == older.len() && head.main < revision) {
        return before;
    }
    if older[before - 1].is_tombstone() {
        before
    } else {
        before - 1
    }
}
