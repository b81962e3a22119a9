//! The model: every state there ever was.

use std::collections::BTreeMap;

use bytes::Bytes;
use trivet_mvcc::{
    Compare, CompareOp, CompareTarget, Error, KeyValue, LeaseId, Op, OpResult, RangeOp,
    RangeResult, Revision, SortOrder, SortTarget, Txn, TxnResult,
};

pub(crate) type State = BTreeMap<Bytes, KeyValue>;

/// One change: revision, key, the pair after it (`None`: deleted) and before it.
pub(crate) type Change = (u64, Bytes, Option<KeyValue>, Option<KeyValue>);

/// Every state, by revision - 1.
pub(crate) struct Model {
    pub(crate) states: Vec<State>,
    pub(crate) changes: Vec<Change>,
    pub(crate) compacted: Option<u64>,
    pub(crate) leases: BTreeMap<LeaseId, u64>,
}

impl Model {
    pub(crate) fn new() -> Self {
        // Revision 0 is there as well: nothing was compacted yet, and it was empty.
        let states = vec![State::new(), State::new()];
        Self {
            states,
            changes: Vec::new(),
            compacted: None,
            leases: BTreeMap::new(),
        }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    pub(crate) fn now(&self) -> &State {
        self.states.last().unwrap()
    }

    fn check(&self, revision: Option<Revision>) -> Result<u64, Error> {
        let Some(requested) = revision else {
            return Ok(self.revision());
        };
        if requested.0 > self.revision() {
            return Err(Error::FutureRevision {
                requested,
                current: Revision(self.revision()),
            });
        }
        match self.compacted {
            Some(compacted) if requested.0 < compacted => Err(Error::Compacted {
                compact_revision: Revision(compacted),
            }),
            _ => Ok(requested.0),
        }
    }

    pub(crate) fn range(state: &State, op: &RangeOp, revision: u64) -> RangeResult {
        let mut items: Vec<KeyValue> = state
            .values()
            .filter(|pair| op.range.contains(&pair.key))
            .cloned()
            .collect();
        let count = items.len() as u64;
        let revision = Revision(revision);
        if op.count_only {
            return RangeResult {
                revision,
                items: Vec::new(),
                more: false,
                count,
            };
        }
        let limit = if op.limit == 0 {
            usize::MAX
        } else {
            op.limit as usize
        };
        let within = |number: Revision, min: u64, max: u64| {
            (min == 0 || number.0 >= min) && (max == 0 || number.0 <= max)
        };
        items.retain(|pair| {
            within(pair.mod_revision, op.min_mod, op.max_mod)
                && within(pair.create_revision, op.min_create, op.max_create)
        });
        let filtered = (op.min_mod | op.max_mod | op.min_create | op.max_create) != 0;
        if op.sort_order == SortOrder::None && !filtered {
            items.truncate(limit.saturating_add(1));
        }
        items.sort_by(|a, b| {
            let ordering = match op.sort_target {
                SortTarget::Key => a.key.cmp(&b.key),
                SortTarget::Version => a.version.cmp(&b.version),
                SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                SortTarget::Value => a.value.cmp(&b.value),
            };
            if op.sort_order == SortOrder::Descend {
                ordering.reverse()
            } else {
                ordering
            }
        });
        let more = items.len() > limit;
        items.truncate(limit);
        if op.keys_only {
            items.iter_mut().for_each(|pair| pair.value = Bytes::new());
        }
        RangeResult {
            revision,
            items,
            more,
            count,
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let pairs: Vec<Option<&KeyValue>> = self
            .now()
            .values()
            .filter(|pair| compare.range.contains(&pair.key))
            .map(Some)
            .collect();
        let pairs = if pairs.is_empty() { vec![None] } else { pairs };
        pairs.into_iter().all(|pair| {
            let number = |of: &dyn Fn(&KeyValue) -> i64| pair.map_or(0, of);
            let ordering = match &compare.target {
                CompareTarget::Version(n) => number(&|p| p.version as i64).cmp(n),
                CompareTarget::Create(n) => number(&|p| p.create_revision.0 as i64).cmp(n),
                CompareTarget::Mod(n) => number(&|p| p.mod_revision.0 as i64).cmp(n),
                CompareTarget::Lease(n) => number(&|p| p.lease.map_or(0, |l| l.0)).cmp(n),
                CompareTarget::Unknown => std::cmp::Ordering::Equal,
                CompareTarget::Value(value) => match pair {
                    None => return false,
                    Some(pair) => pair.value.cmp(value),
                },
            };
            match compare.op {
                CompareOp::Equal => ordering.is_eq(),
                CompareOp::Greater => ordering.is_gt(),
                CompareOp::Less => ordering.is_lt(),
                CompareOp::NotEqual => ordering.is_ne(),
                CompareOp::Always => true,
            }
        })
    }

    /// The steps of the branches taken, with whether conditions held, nested.
    fn plan(&self, txn: &Txn) -> (bool, Vec<Planned>) {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let branch = if succeeded {
            &txn.success
        } else {
            &txn.failure
        };
        let steps = branch.iter().map(|op| match op {
            Op::Txn(txn) => Planned::Txn(self.plan(txn)),
            op => Planned::Op(op.clone()),
        });
        (succeeded, steps.collect())
    }

    /// All steps, those of nested transactions in their place.
    fn flat(steps: &[Planned]) -> Vec<&Op> {
        let flat = |step| match step {
            &Planned::Txn((_, ref steps)) => Self::flat(steps),
            Planned::Op(op) => vec![op],
        };
        steps.iter().flat_map(flat).collect()
    }

    /// First every put, then every range.
    fn allowed(&self, steps: &[Planned]) -> Result<(), Error> {
        let steps = Self::flat(steps);
        for step in &steps {
            let Op::Put(op) = step else { continue };
            if (op.ignore_lease || op.ignore_value) && !self.now().contains_key(&op.key) {
                return Err(Error::KeyNotFound);
            }
            if op
                .lease
                .is_some_and(|lease| !self.leases.contains_key(&lease))
            {
                return Err(Error::LeaseNotFound);
            }
        }
        for step in steps {
            if let Op::Range(op) = step {
                self.check(op.revision)?;
            }
        }
        Ok(())
    }

    pub(crate) fn txn(&mut self, txn: &Txn) -> Result<TxnResult, Error> {
        let plan = self.plan(txn);
        self.allowed(&plan.1)?;
        let (mut state, mut changes) = (self.now().clone(), Vec::new());
        let result = self.run(plan, &mut state, &mut changes);
        self.commit(state, changes);
        Ok(result)
    }

    fn commit(&mut self, state: State, changes: Vec<Change>) {
        if !changes.is_empty() {
            self.states.push(state);
            self.changes.extend(changes);
        }
    }

    fn run(
        &self,
        plan: (bool, Vec<Planned>),
        state: &mut State,
        changes: &mut Vec<Change>,
    ) -> TxnResult {
        let next = self.revision() + 1;
        let mut results = Vec::new();
        for step in plan.1 {
            let current = if changes.is_empty() {
                self.revision()
            } else {
                next
            };
            results.push(match step {
                Planned::Txn(plan) => OpResult::Txn(self.run(plan, state, changes)),
                Planned::Op(Op::Range(op)) => OpResult::Range(match op.revision {
                    Some(at) => Self::range(&self.states[at.0 as usize], &op, current),
                    None => Self::range(state, &op, current),
                }),
                Planned::Op(Op::Put(op)) => {
                    let previous = state.get(&op.key).cloned();
                    let kept = previous.as_ref();
                    let pair = KeyValue {
                        key: op.key.clone(),
                        value: if op.ignore_value {
                            kept.unwrap().value.clone()
                        } else {
                            op.value
                        },
                        create_revision: kept.map_or(Revision(next), |pair| pair.create_revision),
                        mod_revision: Revision(next),
                        version: kept.map_or(0, |pair| pair.version) + 1,
                        lease: if op.ignore_lease {
                            kept.unwrap().lease
                        } else {
                            op.lease
                        },
                    };
                    // Watchers are told what was there in the revision before.
                    let before = self.now().get(&op.key).cloned();
                    changes.push((next, op.key.clone(), Some(pair.clone()), before));
                    state.insert(op.key, pair);
                    let previous = previous.filter(|_| op.prev_kv);
                    OpResult::Put {
                        revision: Revision(next),
                        previous,
                    }
                }
                Planned::Op(Op::DeleteRange(op)) => {
                    let keys: Vec<Bytes> = state
                        .keys()
                        .filter(|key| op.range.contains(key))
                        .cloned()
                        .collect();
                    let mut previous = Vec::new();
                    for key in &keys {
                        let pair = state.remove(key).unwrap();
                        let before = self.now().get(key).cloned();
                        changes.push((next, key.clone(), None, before));
                        previous.push(pair);
                    }
                    if !op.prev_kv {
                        previous.clear();
                    }
                    let current = if changes.is_empty() {
                        self.revision()
                    } else {
                        next
                    };
                    let (revision, deleted) = (Revision(current), keys.len() as u64);
                    OpResult::DeleteRange {
                        revision,
                        deleted,
                        previous,
                    }
                }
                Planned::Op(Op::Txn(_)) => unreachable!("planned above"),
            });
        }
        let current = if changes.is_empty() {
            self.revision()
        } else {
            next
        };
        TxnResult {
            revision: Revision(current),
            succeeded: plan.0,
            results,
        }
    }

    pub(crate) fn revoke(&mut self, id: LeaseId) -> Result<u64, Error> {
        self.leases.remove(&id).ok_or(Error::LeaseNotFound)?;
        let next = self.revision() + 1;
        let mut state = self.now().clone();
        let gone: Vec<KeyValue> = state
            .values()
            .filter(|pair| pair.lease == Some(id))
            .cloned()
            .collect();
        let mut changes = Vec::new();
        for pair in gone {
            state.remove(&pair.key);
            changes.push((next, pair.key.clone(), None, Some(pair)));
        }
        let deleted = changes.len() as u64;
        self.commit(state, changes);
        Ok(deleted)
    }
}

enum Planned {
    Op(Op),
    Txn((bool, Vec<Planned>)),
}
