//! What a log is, without a disk.

use std::collections::BTreeMap;

use bytes::Bytes;
use trivet_sim::SimRng;
use trivet_wal::{Entry, LogState, MetaKind, Position, Wal};

use crate::support::{at, entries};

/// One indivisible change.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Push(Entry),
    Truncate(Option<u64>),
    Purge(Position),
    Meta(MetaKind, Bytes),
}

/// The state after some steps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) entries: BTreeMap<u64, Entry>,
    pub(crate) purged: Option<Position>,
    pub(crate) meta: BTreeMap<MetaKind, Bytes>,
}

impl Model {
    pub(crate) fn apply(&mut self, step: &Step) {
        match step {
            Step::Push(entry) => {
                self.entries.insert(entry.index, entry.clone());
            }
            Step::Truncate(after) => {
                self.entries
                    .retain(|index, _| after.is_some_and(|after| *index <= after));
            }
            Step::Purge(to) => {
                if self.purged.is_none_or(|purged| to.index > purged.index) {
                    self.purged = Some(*to);
                    self.entries.retain(|index, _| *index > to.index);
                }
            }
            Step::Meta(kind, value) => {
                self.meta.insert(*kind, value.clone());
            }
        }
    }

    pub(crate) fn state(&self) -> LogState {
        let last = self.entries.values().next_back().map(Entry::position);
        LogState {
            purged: self.purged,
            last: last.or(self.purged),
        }
    }

    /// Index of the next entry; `None`: any.
    pub(crate) fn next(&self) -> Option<u64> {
        self.state().last.map(|last| last.index + 1)
    }

    /// What a log holds.
    pub(crate) fn of(wal: &Wal, kinds: u8) -> Self {
        let entries = entries(wal).expect("entries that exist can be read");
        Self {
            entries: entries
                .into_iter()
                .map(|entry| (entry.index, entry))
                .collect(),
            purged: wal.state().purged,
            meta: (0..kinds)
                .filter_map(|kind| Some((MetaKind(kind), wal.meta(MetaKind(kind))?)))
                .collect(),
        }
    }
}

/// A call: an append is several steps, everything else is one.
pub(crate) fn random_call(model: &Model, term: u64, rng: &SimRng) -> Vec<Step> {
    let next = model.next();
    let first = model.entries.keys().next().copied().or(model.next());
    match rng.below(20) {
        0..=11 => {
            let start = next.unwrap_or_else(|| rng.below(3));
            let count = 1 + rng.below(4);
            let size = if rng.chance(5) { 900 } else { rng.below(120) };
            let one = |index| {
                let payload = vec![rng.below(256) as u8; size as usize];
                Step::Push(Entry {
                    index,
                    term,
                    payload: payload.into(),
                })
            };
            (start..start + count).map(one).collect()
        }
        12 | 13 => {
            let (low, high) = (first.unwrap_or(0), next.unwrap_or(0));
            let from = low + rng.below(high.saturating_sub(low) + 1);
            vec![Step::Truncate(from.checked_sub(1))]
        }
        14 | 15 => {
            let (low, high) = (first.unwrap_or(0), next.unwrap_or(0));
            // Now and then beyond the end, as after an installed snapshot.
            let extra = if rng.chance(20) { 5 } else { 0 };
            let index = low + rng.below(high.saturating_sub(low) + extra + 1);
            let term = model.entries.get(&index).map_or(term, |entry| entry.term);
            vec![Step::Purge(at(index, term))]
        }
        _ => {
            let kind = MetaKind(rng.below(3) as u8);
            // Large ones make the copies at the start of a segment cross sectors.
            let size = if rng.chance(30) { 600 } else { rng.below(40) };
            let value = vec![rng.below(256) as u8; size as usize];
            vec![Step::Meta(kind, value.into())]
        }
    }
}
