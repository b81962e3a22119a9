//! Seeded operations over the whole client API. Numbers are chosen around what the stores hold
//! at that moment, so that most operations hit something and the rest misses narrowly.

mod kv;
mod other;

use std::collections::VecDeque;

use crate::dice::Dice;
use crate::op::Op;

/// What the generator knows of the stores.
#[derive(Debug, Clone)]
pub struct View {
    /// The current revision.
    pub current: i64,
    /// The last compaction; −1 before the first.
    pub compacted: i64,
    /// Leases that exist, under their names.
    pub leases: Vec<i64>,
    /// Leases that existed.
    pub dead_leases: Vec<i64>,
    /// Ids of the watches of each stream; `None` for a stream that takes no more requests.
    pub streams: Vec<Option<Vec<i64>>>,
    /// What the genuine server has to be spared.
    pub spared: Spared,
}

/// What the genuine server has to be spared (see [`crate::differences`]).
#[derive(Debug, Clone, Copy, Default)]
pub struct Spared {
    /// Sort targets that do not exist.
    pub unknown_sort_target: bool,
    /// Sort orders that do not exist, in transactions.
    pub unknown_sort_order_in_txn: bool,
    /// Watches from before the first revision.
    pub negative_watch_start: bool,
    /// Texts that are no URLs as the peer URLs of a member that exists.
    pub bad_member_update: bool,
}

impl Default for View {
    fn default() -> Self {
        Self {
            current: 1,
            compacted: -1,
            leases: Vec::new(),
            dead_leases: Vec::new(),
            streams: Vec::new(),
            spared: Spared::default(),
        }
    }
}

/// Makes operations.
#[derive(Debug)]
pub struct Generator {
    dice: Dice,
    /// What must come next, whatever the dice say.
    queue: VecDeque<Op>,
    made: usize,
}

/// Leases expire on the clock, so waiting for one is dear: once in so many operations.
const EXPIRY_EVERY: usize = 1500;

/// The same for batches of events too large for one message.
const BIG_EVERY: usize = 1100;

impl Generator {
    /// The same seed and the same answers give the same operations.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            queue: VecDeque::new(),
            made: 0,
        }
    }

    /// The next operation.
    pub fn next(&mut self, view: &View) -> Op {
        if let Some(op) = self.queue.pop_front() {
            return op;
        }
        self.made += 1;
        if self.made.is_multiple_of(EXPIRY_EVERY) {
            return Op::Expiry(vec!["e/1", "e/2", "k/1"]);
        }
        if self.made.is_multiple_of(BIG_EVERY) {
            return self.big_batch(view);
        }
        match self.dice.below(100) {
            0..25 => Op::Range(self.range(view, false)),
            25..46 => Op::Put(self.put(view)),
            46..55 => Op::Delete(self.delete()),
            55..73 => Op::Txn(self.txn(view, 0)),
            73 => Op::Compact(self.compact(view)),
            74..84 => self.lease(view),
            84..95 => self.watch(view),
            95 => self.cluster(view),
            96..98 => self.maintenance(view),
            98 => Op::RangeStream(self.range(view, true)),
            _ => self.raw(),
        }
    }

    /// A number that no sane client sends, or nearly so.
    fn odd_number(&mut self) -> i64 {
        self.dice
            .pick(&[i64::MIN, i64::MIN + 1, -2, -1, 0, 1, i64::MAX - 1, i64::MAX])
    }
}
