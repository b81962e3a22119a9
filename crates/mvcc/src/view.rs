//! Reading: ranges and conditions over one consistent state.

use std::cmp::Ordering;
use std::io;

use bytes::Bytes;
use trivet_datastore::Revision;

use crate::version::{Location, ReadValues, Version};
use crate::{
    Compare, CompareOp, CompareTarget, Error, Hasher, Index, KeyRange, Op, OpResult, RangeOp,
    RangeResult, SortOrder, SortTarget, Txn, TxnResult,
};

/// Keys whose values a checksum reads together.
const HASH_KEYS: usize = 256;

/// The whole state as readers need it. Clones are consistent images and cost little.
#[derive(Debug, Clone)]
pub struct View {
    /// Every version of every key.
    pub index: Index,
    /// The newest revision.
    pub revision: Revision,
    /// The last compaction; revisions before it cannot be read. `None`: there was none.
    pub compacted: Option<Revision>,
}

/// A range before its values are read.
#[derive(Debug)]
pub struct Selection {
    revision: Revision,
    pairs: Vec<(Bytes, Version)>,
    more: bool,
    count: u64,
    keys_only: bool,
    /// Sorting by value has to wait for the values; the limit too.
    sort_by_value: Option<(SortOrder, usize)>,
}

impl View {
    /// The last compaction, 0 for none.
    #[must_use]
    pub fn compact_revision(&self) -> Revision {
        self.compacted.unwrap_or_default()
    }

    /// Checks that a revision can be read.
    pub fn check(&self, revision: Option<Revision>) -> Result<Revision, Error> {
        let Some(requested) = revision else {
            return Ok(self.revision);
        };
        if i64::try_from(requested.0).is_err() {
            // Negative on the wire: before every revision; but −1 is how etcd writes "never
            // compacted", and nothing is before that.
            return match self.compacted {
                None if requested.0 == u64::MAX => Ok(self.revision),
                compacted => Err(Error::Compacted {
                    compact_revision: compacted.unwrap_or_default(),
                }),
            };
        }
        if requested > self.revision {
            return Err(Error::FutureRevision {
                requested,
                current: self.revision,
            });
        }
        match self.compacted {
            Some(compacted) if requested < compacted => Err(Error::Compacted {
                compact_revision: compacted,
            }),
            _ => Ok(requested),
        }
    }

    /// A view of the part that `range` needs.
    #[must_use]
    pub fn slice(&self, range: &KeyRange) -> Self {
        Self {
            index: self.index.slice(range),
            revision: self.revision,
            compacted: self.compacted,
        }
    }

    /// Finds what a range covers, in etcd's order: keys, filters, sort, limit.
    pub fn select(&self, op: &RangeOp) -> Result<Selection, Error> {
        let at = self.check(op.revision)?.0;
        Ok(select(&self.index, op, at, self.revision))
    }

    /// Reads a range for an answer that is sent and forgotten: see
    /// [`ReadValues::read_together`].
    pub fn range_together(
        &self,
        op: &RangeOp,
        values: &dyn ReadValues,
    ) -> io::Result<Result<RangeResult, Error>> {
        match self.select(op) {
            Ok(selection) => selection.read_together(values).map(Ok),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Reads a range.
    pub fn range(
        &self,
        op: &RangeOp,
        values: &dyn ReadValues,
    ) -> io::Result<Result<RangeResult, Error>> {
        match self.select(op) {
            Ok(selection) => selection.read(values).map(Ok),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Runs a transaction that consists of top-level ranges; other steps are left out.
    pub fn read_txn(
        &self,
        txn: &Txn,
        values: &dyn ReadValues,
    ) -> io::Result<Result<TxnResult, Error>> {
        let succeeded = self.all_hold(&txn.compare, values)?;
        let branch = if succeeded {
            &txn.success
        } else {
            &txn.failure
        };
        let mut results = Vec::with_capacity(branch.len());
        for op in branch {
            let Op::Range(op) = op else { continue };
            match self.range(op, values)? {
                Ok(result) => results.push(OpResult::Range(result)),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(TxnResult {
            revision: self.revision,
            succeeded,
            results,
        }))
    }

    pub(crate) fn all_hold(
        &self,
        compares: &[Compare],
        values: &dyn ReadValues,
    ) -> io::Result<bool> {
        for compare in compares {
            if !self.holds(compare, values)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn holds(&self, compare: &Compare, values: &dyn ReadValues) -> io::Result<bool> {
        let mut failure = None;
        let (mut empty, mut holds) = (true, true);
        self.index
            .scan(&compare.range, self.revision.0, |_, version| {
                empty = false;
                match version_holds(compare, Some(version), values) {
                    Ok(one) => holds = one,
                    Err(error) => failure = Some(error),
                }
                holds && failure.is_none()
            });
        match failure {
            Some(error) => Err(error),
            None if empty => version_holds(compare, None, values),
            None => Ok(holds),
        }
    }

    /// See [`Hasher`].
    pub fn hash(
        &self,
        revision: Option<Revision>,
        values: &dyn ReadValues,
    ) -> io::Result<Result<u32, Error>> {
        let mut hasher = match Hasher::new(self.clone(), revision) {
            Ok(hasher) => hasher,
            Err(error) => return Ok(Err(error)),
        };
        while hasher.step(HASH_KEYS, values)?.is_some() {}
        Ok(Ok(hasher.sum()))
    }
}

/// The range at `at`, whatever may be read; `current` only goes into the result.
pub(crate) fn select(index: &Index, op: &RangeOp, at: u64, current: Revision) -> Selection {
    let mut selection = Selection {
        revision: current,
        pairs: Vec::new(),
        more: false,
        count: 0,
        keys_only: op.keys_only,
        sort_by_value: None,
    };
    if op.count_only {
        selection.count = index.count(&op.range, at);
        return selection;
    }
    let limit = match usize::try_from(op.limit) {
        Ok(limit) if limit > 0 => limit,
        _ => usize::MAX,
    };
    let by_key = op.sort_target == SortTarget::Key;
    let sorts = op.sort_order == SortOrder::Descend || !by_key;
    // With no order asked for, etcd fetches one pair more than the limit and sorts those.
    let early = op.sort_order == SortOrder::None || (op.sort_order == SortOrder::Ascend && by_key);
    let fetch = if early && !op.has_filter() {
        limit.saturating_add(1)
    } else {
        usize::MAX
    };
    let mut scanned = 0;
    index.scan(&op.range, at, |key, version| {
        scanned += 1;
        let outside = |min: u64, max: u64, revision: u64| {
            (max != 0 && revision > max) || (min != 0 && revision < min)
        };
        if !outside(op.min_mod, op.max_mod, version.main)
            && !outside(op.min_create, op.max_create, version.create)
        {
            selection
                .pairs
                .push((Bytes::copy_from_slice(key), *version));
        }
        selection.pairs.len() < fetch
    });
    selection.count = if selection.pairs.len() < fetch {
        scanned
    } else {
        index.count(&op.range, at)
    };
    if sorts {
        if op.sort_target == SortTarget::Value {
            selection.sort_by_value = Some((op.sort_order, limit));
            return selection;
        }
        selection.pairs.sort_by(|(a_key, a), (b_key, b)| {
            let ordering = match op.sort_target {
                SortTarget::Version => a.version.cmp(&b.version),
                SortTarget::Create => a.create.cmp(&b.create),
                SortTarget::Mod => a.main.cmp(&b.main),
                SortTarget::Key | SortTarget::Value => a_key.cmp(b_key),
            };
            if op.sort_order == SortOrder::Descend {
                ordering.reverse()
            } else {
                ordering
            }
        });
    }
    selection.more = selection.pairs.len() > limit;
    selection.pairs.truncate(limit);
    selection
}

impl Selection {
    /// Number of values that [`Selection::read`] will read.
    #[must_use]
    pub fn values(&self) -> usize {
        if self.keys_only && self.sort_by_value.is_none() {
            0
        } else {
            self.pairs.len()
        }
    }

    /// Reads the values.
    pub fn read(self, values: &dyn ReadValues) -> io::Result<RangeResult> {
        self.read_by(|locations| values.read_many(locations))
    }

    /// Reads the values for an answer that is sent and forgotten: see
    /// [`ReadValues::read_together`].
    pub fn read_together(self, values: &dyn ReadValues) -> io::Result<RangeResult> {
        self.read_by(|locations| values.read_together(locations))
    }

    fn read_by(
        mut self,
        read: impl FnOnce(&[Location]) -> io::Result<Vec<Bytes>>,
    ) -> io::Result<RangeResult> {
        let values = if self.values() == 0 {
            vec![Bytes::new(); self.pairs.len()]
        } else {
            let locations: Vec<Location> = self
                .pairs
                .iter()
                .map(|(_, version)| version.location)
                .collect();
            read(&locations)?
        };
        let pairs = std::mem::take(&mut self.pairs).into_iter().zip(values);
        let mut items: Vec<_> = pairs
            .map(|((key, version), value)| version.pair(key, value))
            .collect();
        if let Some((order, limit)) = self.sort_by_value {
            items.sort_by(|a, b| match order {
                SortOrder::Descend => b.value.cmp(&a.value),
                SortOrder::None | SortOrder::Ascend => a.value.cmp(&b.value),
            });
            self.more = items.len() > limit;
            items.truncate(limit);
            if self.keys_only {
                items.iter_mut().for_each(|pair| pair.value = Bytes::new());
            }
        }
        Ok(RangeResult {
            revision: self.revision,
            items,
            more: self.more,
            count: self.count,
        })
    }
}

fn version_holds(
    compare: &Compare,
    version: Option<&Version>,
    values: &dyn ReadValues,
) -> io::Result<bool> {
    let number = |of: fn(&Version) -> i64| version.map_or(0, of);
    let ordering = match &compare.target {
        CompareTarget::Version(right) => number(|version| version.version as i64).cmp(right),
        CompareTarget::Create(right) => number(|version| version.create as i64).cmp(right),
        CompareTarget::Mod(right) => number(|version| version.main as i64).cmp(right),
        CompareTarget::Lease(right) => number(|version| version.lease).cmp(right),
        CompareTarget::Unknown => Ordering::Equal,
        CompareTarget::Value(right) => match version {
            // An absent key has no value that could be compared with anything.
            None => return Ok(false),
            Some(version) => values.read_any(version.location)?.cmp(right),
        },
    };
    Ok(match compare.op {
        CompareOp::Equal => ordering == Ordering::Equal,
        CompareOp::Greater => ordering == Ordering::Greater,
        CompareOp::Less => ordering == Ordering::Less,
        CompareOp::NotEqual => ordering != Ordering::Equal,
        CompareOp::Always => true,
    })
}
