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
        self.writes().map(drop)
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

    fn writes(&self) -> Result<Writes<'_>, Invalid> {
        let mut writes = Writes::of_branch(&self.success)?;
        // The branches exclude each other: the same key in both is fine.
        let failure = Writes::of_branch(&self.failure)?;
        writes.puts.extend(failure.puts);
        writes.deletes.extend(failure.deletes);
        Ok(writes)
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
    fn of_branch(ops: &'a [Op]) -> Result<Self, Invalid> {
        let mut all = Writes::default();
        for op in ops {
            let add = match op {
                Op::Range(_) => continue,
                Op::Put(op) => Writes {
                    puts: [&op.key[..]].into(),
                    deletes: Vec::new(),
                },
                Op::DeleteRange(op) => {
                    // etcd takes an open end for an interval that ends at byte 0, so that it
                    // overlaps nothing; the order of the steps decides then.
                    let open = matches!(op.range, KeyRange::From(_));
                    let deletes = if open { Vec::new() } else { vec![&op.range] };
                    Writes {
                        puts: BTreeSet::new(),
                        deletes,
                    }
                }
                Op::Txn(txn) => txn.writes()?,
            };
            let overlap = add.puts.iter().any(|key| all.touches(key))
                || add
                    .deletes
                    .iter()
                    .any(|range| all.puts.iter().any(|key| range.contains(key)));
            if overlap {
                return Err(Invalid::DuplicateKey);
            }
            all.puts.extend(add.puts);
            all.deletes.extend(add.deletes);
        }
        Ok(all)
    }

    fn touches(&self, key: &[u8]) -> bool {
        self.puts.contains(key) || self.deletes.iter().any(|range| range.contains(key))
    }
}
