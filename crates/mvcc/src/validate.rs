//! Checks of a transaction that need no state.

use std::collections::BTreeSet;

use crate::{Invalid, KeyRange, Op, Txn};

/// How deep transactions may be nested in each other.
///
/// etcd takes from the budget of every nested transaction what its parent used, which with the
/// default of 128 operations allows no more than this either.
pub const MAX_TXN_DEPTH: usize = 128;

impl Txn {
    /// Checks what etcd checks before consensus, in its order: list lengths (a nested
    /// transaction has what its parent's longest list left over of `max_ops`), each operation
    /// by itself, and that no branch writes a key twice.
    pub fn validate(&self, max_ops: usize) -> Result<(), Invalid> {
        self.validate_shape(max_ops, 0)?;
        Writes::of_branch(&self.success)?;
        Writes::of_branch(&self.failure)?;
        Ok(())
    }

    fn validate_shape(&self, max_ops: usize, depth: usize) -> Result<(), Invalid> {
        if depth > MAX_TXN_DEPTH {
            return Err(Invalid::TooDeep);
        }
        let longest = self
            .compare
            .len()
            .max(self.success.len())
            .max(self.failure.len());
        let left = max_ops.checked_sub(longest).ok_or(Invalid::TooManyOps)?;
        for compare in &self.compare {
            require_key(&compare.range)?;
        }
        for op in self.success.iter().chain(&self.failure) {
            match op {
                Op::Range(op) => require_key(&op.range)?,
                Op::DeleteRange(op) => require_key(&op.range)?,
                Op::Put(op) => {
                    if op.key.is_empty() {
                        return Err(Invalid::EmptyKey);
                    }
                    if op.ignore_value && !op.value.is_empty() {
                        return Err(Invalid::ValueProvided);
                    }
                    if op.ignore_lease && op.lease.is_some() {
                        return Err(Invalid::LeaseProvided);
                    }
                }
                Op::Txn(txn) => txn.validate_shape(left, depth + 1)?,
            }
        }
        Ok(())
    }
}

/// An empty `From` is how "every key" is spelled on the wire of a watch; ranges spell it with a
/// zero byte.
fn require_key(range: &KeyRange) -> Result<(), Invalid> {
    if range.start().is_empty() {
        Err(Invalid::EmptyKey)
    } else {
        Ok(())
    }
}

#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Vec<&'a KeyRange>,
}

impl<'a> Writes<'a> {
    /// In etcd's order, which clients can see: deletions of this level first, then nested
    /// transactions one after the other, puts of this level last. So a nested put stands against
    /// the deletions of nested transactions before it, and not against those after it.
    fn of_branch(ops: &'a [Op]) -> Result<Self, Invalid> {
        let mut all = Writes::default();
        for op in ops {
            if let Op::DeleteRange(op) = op
                // etcd takes an open end for an interval that ends at byte 0, so that it
                // overlaps nothing; the order of the steps decides then.
                && !matches!(op.range, KeyRange::From(_))
            {
                all.deletes.push(&op.range);
            }
        }
        for op in ops {
            let Op::Txn(txn) = op else { continue };
            let success = Writes::of_branch(&txn.success)?;
            let failure = Writes::of_branch(&txn.failure)?;
            if success.puts.iter().any(|key| all.touches(key)) {
                return Err(Invalid::DuplicateKey);
            }
            // The branches exclude each other: the same key in both is fine.
            if failure.puts.iter().any(|key| all.touches(key)) {
                return Err(Invalid::DuplicateKey);
            }
            for branch in [success, failure] {
                all.puts.extend(branch.puts);
                all.deletes.extend(branch.deletes);
            }
        }
        for op in ops {
            if let Op::Put(op) = op
                && (all.touches(&op.key) || !all.puts.insert(&op.key))
            {
                return Err(Invalid::DuplicateKey);
            }
        }
        Ok(all)
    }

    fn touches(&self, key: &[u8]) -> bool {
        self.puts.contains(key) || self.deletes.iter().any(|range| range.contains(key))
    }
}
