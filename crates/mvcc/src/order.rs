//! All versions in the order in which they were written.

use crate::version::Version;
use crate::{Index, View};

/// Places remembered at a time; each pass over the index finds as many.
const BATCH: usize = 128 * 1024;

/// Walks every version of a [`View`] that is not compacted, in order of revision and of the
/// position within it.
///
/// The index is in order of key. Instead of sorting all of it at once, each pass over it selects
/// the next versions, so that the memory needed does not grow with the number of versions; a
/// pass skips what did not change since the last one.
#[derive(Debug)]
pub struct History<'a> {
    index: &'a Index,
    compacted: u64,
    batch: usize,
    /// The next versions, in order, as far as the last pass found them.
    found: Vec<Place>,
    next: usize,
    /// Whether there may be versions after those.
    more: bool,
}

/// Where a version is, by order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    main: u64,
    sub: u32,
    chunk: u32,
    key: u32,
    number: u32,
}

impl<'a> History<'a> {
    /// From the oldest version on.
    #[must_use]
    pub fn new(view: &'a View) -> Self {
        Self::in_batches(view, BATCH)
    }

    fn in_batches(view: &'a View, batch: usize) -> Self {
        Self {
            index: &view.index,
            compacted: view.compact_revision().0,
            batch,
            found: Vec::new(),
            next: 0,
            more: true,
        }
    }

    /// Finds the versions that follow the last one found.
    fn look(&mut self) {
        let after = self.found.last().map(|place| (place.main, place.sub));
        self.found.clear();
        self.next = 0;
        self.more = false;
        // Nothing from here on is wanted: there are enough that come before.
        let mut limit: Option<Place> = None;
        for chunk in 0..self.index.chunks() {
            if after.is_some_and(|(main, _)| self.index.newest_in(chunk) < main) {
                continue;
            }
            for key in 0..self.index.keys_in(chunk) {
                let entry = self.index.entry(chunk, key);
                let Some(first) = entry.first_uncompacted(self.compacted) else {
                    continue;
                };
                for number in first..=entry.older.len() {
                    let version = entry.version(number);
                    if after.is_some_and(|after| (version.main, version.sub) <= after) {
                        continue;
                    }
                    // Chunks have at most 128 keys, and memory ends long before 2^32 chunks or
                    // versions of one key.
                    let place = Place {
                        main: version.main,
                        sub: version.sub,
                        chunk: chunk as u32,
                        key: key as u32,
                        number: number as u32,
                    };
                    if limit.is_some_and(|limit| place > limit) {
                        // So are the later ones of this key.
                        self.more = true;
                        break;
                    }
                    self.found.push(place);
                    if self.found.len() >= 2 * self.batch {
                        limit = Some(self.cut());
                    }
                }
            }
        }
        if self.found.len() > self.batch {
            self.cut();
        }
        self.found.sort_unstable();
    }

    /// Keeps the first of what was found; the last that is kept.
    fn cut(&mut self) -> Place {
        let (_, last, _) = self.found.select_nth_unstable(self.batch - 1);
        let last = *last;
        self.found.truncate(self.batch);
        self.more = true;
        last
    }
}

impl<'a> Iterator for History<'a> {
    type Item = (&'a [u8], &'a Version);

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.found.len() && self.more {
            self.look();
        }
        let place = *self.found.get(self.next)?;
        self.next += 1;
        let entry = self.index.entry(place.chunk as usize, place.key as usize);
        Some((entry.key, entry.version(place.number as usize)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use trivet_datastore::Revision;

    use super::*;
    use crate::Location;

    fn put(main: u64, sub: u32) -> Version {
        Version {
            main,
            create: 1,
            version: 1,
            lease: 0,
            sub,
            location: Location::EMPTY,
        }
    }

    /// Keys written round and round, with deletions, so that neighbours in time are far apart.
    fn view(writes: u64, compacted: Option<u64>) -> View {
        let mut index = Index::default();
        for number in 0..writes {
            let (main, sub) = (number / 3 + 2, (number % 3) as u32);
            let key = format!("key{:04}", number * 7919 % 701);
            let version = if number % 11 == 0 {
                Version::tombstone(main, sub)
            } else {
                put(main, sub)
            };
            assert!(index.append(key.as_bytes(), version));
        }
        View {
            index,
            revision: Revision(writes / 3 + 2),
            compacted: compacted.map(Revision),
        }
    }

    #[test]
    fn versions_come_in_the_order_of_their_writing() {
        for compacted in [None, Some(5), Some(700), Some(1300)] {
            let view = view(4000, compacted);
            let mut expected: Vec<(u64, u32, Vec<u8>)> = Vec::new();
            for entry in view.index.entries() {
                for version in entry.uncompacted(compacted.unwrap_or(0)) {
                    expected.push((version.main, version.sub, entry.key.to_vec()));
                }
            }
            expected.sort_unstable();
            assert!(compacted.is_some() || expected.len() == 4000);
            for batch in [1, 7, 100, 2000, 4000, 10_000] {
                // One at a time is slow.
                let expected = if batch == 1 {
                    &expected[..50]
                } else {
                    &expected
                };
                let found: Vec<_> = History::in_batches(&view, batch)
                    .map(|(key, version)| (version.main, version.sub, key.to_vec()))
                    .take(expected.len() + usize::from(batch > 1))
                    .collect();
                assert!(found == *expected, "batches of {batch}, {compacted:?}");
            }
        }
        assert_eq!(History::new(&view(0, None)).count(), 0);
    }

    #[test]
    fn a_version_that_is_not_newer_is_not_added() {
        let mut index = Index::default();
        assert!(index.append(b"k", put(5, 1)));
        for (main, sub) in [(5, 1), (5, 0), (4, 9)] {
            assert!(!index.append(b"k", put(main, sub)));
        }
        assert!(index.append(b"k", put(5, 2)));
        assert!(index.append(b"j", put(2, 0)));
        assert_eq!(
            index
                .entries()
                .map(|entry| entry.older.len())
                .sum::<usize>(),
            1
        );
    }
}
