//! Which entries exist: pure bookkeeping, the same code for callers, writer and recovery.

use std::collections::VecDeque;
use std::ops::Range;

use crate::types::{LogState, Position};

/// Bounds and terms of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Index of the first entry, or where it would be.
    first: u64,
    /// One past the last entry; 0: no entry and no purge point, any index may come.
    next: u64,
    purged: Option<Position>,
    /// Where a term begins: (first index, term), ascending by index.
    terms: VecDeque<(u64, u64)>,
}

impl View {
    /// A log whose entries before `next` are somewhere else (or nowhere, for 0).
    pub(crate) fn starting_at(next: u64) -> Self {
        Self {
            first: next,
            next,
            purged: None,
            terms: VecDeque::new(),
        }
    }

    pub(crate) fn range(&self) -> Range<u64> {
        self.first..self.next
    }

    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    pub(crate) fn purged(&self) -> Option<Position> {
        self.purged
    }

    pub(crate) fn state(&self) -> LogState {
        let last = self.next.checked_sub(1).and_then(|index| {
            Some(Position {
                index,
                term: self.term_at(index)?,
            })
        });
        LogState {
            purged: self.purged,
            last: last.or(self.purged),
        }
    }

    /// Term of an entry that exists, or of the purge point.
    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        if let Some(purged) = self.purged.filter(|purged| purged.index == index) {
            return Some(purged.term);
        }
        if !self.range().contains(&index) {
            return None;
        }
        let after = self.terms.partition_point(|(start, _)| *start <= index);
        Some(self.terms.get(after.checked_sub(1)?)?.1)
    }

    /// Whether an entry at `index` leaves no hole.
    pub(crate) fn accepts(&self, index: u64) -> bool {
        index < u64::MAX && (self.next == 0 || index == self.next)
    }

    pub(crate) fn push(&mut self, position: Position) {
        debug_assert!(self.accepts(position.index), "checked by the caller");
        if self.next == 0 {
            self.first = position.index;
        }
        if self
            .terms
            .back()
            .is_none_or(|(_, term)| *term != position.term)
        {
            self.terms.push_back((position.index, position.term));
        }
        self.next = position.index + 1;
    }

    /// Removes all entries from `from` on. 0 means: the log is as good as new. Returns whether
    /// that is possible (what was purged does not come back).
    pub(crate) fn truncate(&mut self, from: u64) -> bool {
        if self.purged.is_some_and(|purged| from <= purged.index) {
            return false;
        }
        if from < self.next {
            self.next = from;
            self.first = self.first.min(from);
            while self.terms.back().is_some_and(|(start, _)| *start >= from) {
                self.terms.pop_back();
            }
        }
        true
    }

    /// Moves the purge point forward. Returns whether it moved.
    pub(crate) fn purge(&mut self, to: Position) -> bool {
        if to.index == u64::MAX || self.purged.is_some_and(|purged| to.index <= purged.index) {
            return false;
        }
        self.purged = Some(to);
        let first = to.index + 1;
        self.first = self.first.max(first);
        if self.next <= first {
            self.first = first;
            self.next = first;
            self.terms.clear();
        }
        while self
            .terms
            .get(1)
            .is_some_and(|(start, _)| *start <= self.first)
        {
            self.terms.pop_front();
        }
        true
    }
}

/// Where the record of an entry lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) sequence: u64,
    pub(crate) offset: u32,
    pub(crate) payload_bytes: u32,
}

/// A change as it stands in the log.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change {
    Entry(Position, Location),
    Truncate(u64),
    Purge(Position),
}

/// The entries on disk.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) view: View,
    /// Of the entries `view.range()`.
    locations: VecDeque<Location>,
}

impl Index {
    pub(crate) fn starting_at(next: u64) -> Self {
        Self {
            view: View::starting_at(next),
            locations: VecDeque::new(),
        }
    }

    pub(crate) fn location(&self, index: u64) -> Option<Location> {
        let at = index.checked_sub(self.view.first)?;
        self.locations.get(usize::try_from(at).ok()?).copied()
    }

    /// Applies a change; says what is wrong with one that does not fit.
    pub(crate) fn apply(&mut self, change: Change) -> Result<(), String> {
        match change {
            Change::Entry(position, location) => {
                if !self.view.accepts(position.index) {
                    let (found, next) = (position.index, self.view.next);
                    return Err(format!("entry {found} stands where entry {next} belongs"));
                }
                self.view.push(position);
                self.locations.push_back(location);
            }
            Change::Truncate(from) => {
                if !self.view.truncate(from) {
                    return Err(format!(
                        "entries from {from} are truncated behind the purge point"
                    ));
                }
            }
            Change::Purge(to) => {
                let first = self.view.first;
                if self.view.purge(to) {
                    let gone = (self.view.first - first).min(self.locations.len() as u64);
                    self.locations.drain(..gone as usize);
                }
            }
        }
        let entries = self.view.range();
        self.locations
            .truncate((entries.end - entries.start) as usize);
        // A log emptied once (a snapshot was installed) does not need the room again.
        if self.locations.capacity() > 4096 && self.locations.len() < self.locations.capacity() / 4
        {
            self.locations.shrink_to(self.locations.len() * 2);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64, term: u64) -> Position {
        Position { index, term }
    }

    #[test]
    fn terms_follow_truncation_and_purge() {
        let mut view = View::default();
        for (index, term) in [(3, 1), (4, 1), (5, 2), (6, 2), (7, 4)] {
            assert!(view.accepts(index));
            view.push(at(index, term));
        }
        assert!(!view.accepts(9));
        assert!(view.truncate(6));
        view.push(at(6, 5));
        assert_eq!(view.term_at(5), Some(2));
        assert_eq!(view.term_at(6), Some(5));
        assert!(view.purge(at(5, 2)));
        assert_eq!(view.term_at(4), None);
        assert_eq!(view.term_at(5), Some(2));
        assert_eq!(
            view.state(),
            LogState {
                purged: Some(at(5, 2)),
                last: Some(at(6, 5))
            }
        );
        assert!(!view.truncate(5), "the purge point stays");
        assert!(view.truncate(6));
        assert_eq!(view.state().last, Some(at(5, 2)));
    }

    #[test]
    fn a_purge_beyond_the_end_empties_the_log() {
        let mut index = Index::default();
        let location = Location {
            sequence: 1,
            offset: 64,
            payload_bytes: 0,
        };
        index.apply(Change::Entry(at(0, 1), location)).unwrap();
        index.apply(Change::Purge(at(10, 3))).unwrap();
        assert_eq!(index.view.range(), 11..11);
        assert_eq!(index.location(0), None);
        assert!(index.apply(Change::Entry(at(1, 3), location)).is_err());
        index.apply(Change::Entry(at(11, 3), location)).unwrap();
        assert_eq!(index.location(11), Some(location));
    }

    #[test]
    fn emptied_by_truncation_any_index_may_follow() {
        let mut view = View::default();
        view.push(at(8, 1));
        assert!(view.truncate(0));
        assert_eq!(view, View::default());
        view.push(at(2, 1));
        assert_eq!(view.range(), 2..3);
    }
}
