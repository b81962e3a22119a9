//! The store against a model that keeps every state there ever was.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use proptest::prelude::*;
use trivet_mvcc::{
    Compare, CompareOp, CompareTarget, DeleteRangeOp, Error, EventKind, KeyRange, KeyValue,
    LeaseId, Location, Op, OpResult, PutOp, RangeOp, RangeResult, ReadValues, Revision, SortOrder,
    SortTarget, Store, Txn, TxnResult, Values, WatchLogLimits,
};

/// Values in memory, with a count of those in use.
#[derive(Default)]
struct Heap {
    values: Vec<Bytes>,
    live: i64,
}

impl ReadValues for Heap {
    fn read(&self, location: Location) -> io::Result<Bytes> {
        Ok(self.values[location.offset as usize].clone())
    }
}

impl Values for Heap {
    fn append(&mut self, value: &[u8]) -> io::Result<Location> {
        let offset = self.values.len() as u32;
        self.values.push(Bytes::copy_from_slice(value));
        self.live += 1;
        Ok(Location { segment: 1, offset, length: value.len() as u32 })
    }

    fn release(&mut self, location: Location) {
        self.live -= i64::from(location.length > 0);
    }
}

type State = BTreeMap<Bytes, KeyValue>;

/// One change: revision, key, the pair after it (`None`: deleted) and before it.
type Change = (u64, Bytes, Option<KeyValue>, Option<KeyValue>);

/// Every state, by revision - 1.
struct Model {
    states: Vec<State>,
    changes: Vec<Change>,
    compacted: Option<u64>,
    leases: BTreeMap<LeaseId, u64>,
}

impl Model {
    fn new() -> Self {
        // Revision 0 is there as well: nothing was compacted yet, and it was empty.
        let states = vec![State::new(), State::new()];
        Self { states, changes: Vec::new(), compacted: None, leases: BTreeMap::new() }
    }

    fn revision(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    fn now(&self) -> &State {
        self.states.last().unwrap()
    }

    fn check(&self, revision: Option<Revision>) -> Result<u64, Error> {
        let Some(requested) = revision else { return Ok(self.revision()) };
        if requested.0 > self.revision() {
            return Err(Error::FutureRevision { requested, current: Revision(self.revision()) });
        }
        match self.compacted {
            Some(compacted) if requested.0 < compacted => {
                Err(Error::Compacted { compact_revision: Revision(compacted) })
            }
            _ => Ok(requested.0),
        }
    }

    fn range(state: &State, op: &RangeOp, revision: u64) -> RangeResult {
        let mut items: Vec<KeyValue> =
            state.values().filter(|pair| op.range.contains(&pair.key)).cloned().collect();
        let count = items.len() as u64;
        let revision = Revision(revision);
        if op.count_only {
            return RangeResult { revision, items: Vec::new(), more: false, count };
        }
        let limit = if op.limit == 0 { usize::MAX } else { op.limit as usize };
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
            if op.sort_order == SortOrder::Descend { ordering.reverse() } else { ordering }
        });
        let more = items.len() > limit;
        items.truncate(limit);
        if op.keys_only {
            items.iter_mut().for_each(|pair| pair.value = Bytes::new());
        }
        RangeResult { revision, items, more, count }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let pairs: Vec<Option<&KeyValue>> =
            self.now().values().filter(|pair| compare.range.contains(&pair.key)).map(Some).collect();
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
        let branch = if succeeded { &txn.success } else { &txn.failure };
        let steps = branch.iter().map(|op| match op {
            Op::Txn(txn) => Planned::Txn(self.plan(txn)),
            op => Planned::Op(op.clone()),
        });
        (succeeded, steps.collect())
    }

    fn allowed(&self, steps: &[Planned]) -> Result<(), Error> {
        for step in steps {
            match step {
                Planned::Txn((_, steps)) => self.allowed(steps)?,
                Planned::Op(Op::Range(op)) => drop(self.check(op.revision)?),
                Planned::Op(Op::Put(op)) => {
                    if op.lease.is_some_and(|lease| !self.leases.contains_key(&lease)) {
                        return Err(Error::LeaseNotFound);
                    }
                    if (op.ignore_lease || op.ignore_value) && !self.now().contains_key(&op.key) {
                        return Err(Error::KeyNotFound);
                    }
                }
                Planned::Op(_) => {}
            }
        }
        Ok(())
    }

    fn txn(&mut self, txn: &Txn) -> Result<TxnResult, Error> {
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

    fn run(&self, plan: (bool, Vec<Planned>), state: &mut State, changes: &mut Vec<Change>) -> TxnResult {
        let next = self.revision() + 1;
        let mut results = Vec::new();
        for step in plan.1 {
            let current = if changes.is_empty() { self.revision() } else { next };
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
                        value: if op.ignore_value { kept.unwrap().value.clone() } else { op.value },
                        create_revision: kept.map_or(Revision(next), |pair| pair.create_revision),
                        mod_revision: Revision(next),
                        version: kept.map_or(0, |pair| pair.version) + 1,
                        lease: if op.ignore_lease { kept.unwrap().lease } else { op.lease },
                    };
                    changes.push((next, op.key.clone(), Some(pair.clone()), previous.clone()));
                    state.insert(op.key, pair);
                    let previous = previous.filter(|_| op.prev_kv);
                    OpResult::Put { revision: Revision(next), previous }
                }
                Planned::Op(Op::DeleteRange(op)) => {
                    let keys: Vec<Bytes> =
                        state.keys().filter(|key| op.range.contains(key)).cloned().collect();
                    let mut previous = Vec::new();
                    for key in &keys {
                        let pair = state.remove(key).unwrap();
                        changes.push((next, key.clone(), None, Some(pair.clone())));
                        previous.push(pair);
                    }
                    if !op.prev_kv {
                        previous.clear();
                    }
                    let current = if changes.is_empty() { self.revision() } else { next };
                    let (revision, deleted) = (Revision(current), keys.len() as u64);
                    OpResult::DeleteRange { revision, deleted, previous }
                }
                Planned::Op(Op::Txn(_)) => unreachable!("planned above"),
            });
        }
        let current = if changes.is_empty() { self.revision() } else { next };
        TxnResult { revision: Revision(current), succeeded: plan.0, results }
    }

    fn revoke(&mut self, id: LeaseId) -> Result<u64, Error> {
        self.leases.remove(&id).ok_or(Error::LeaseNotFound)?;
        let next = self.revision() + 1;
        let mut state = self.now().clone();
        let gone: Vec<KeyValue> =
            state.values().filter(|pair| pair.lease == Some(id)).cloned().collect();
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

#[derive(Debug, Clone)]
enum Step {
    Txn(Txn),
    Grant(LeaseId),
    Revoke(LeaseId),
    /// In 1/8 of the newest revision, plus a bit.
    Compact(u64),
    CompactStep(usize),
}

fn key() -> impl Strategy<Value = Bytes> {
    (0..12u8, 0..3u8).prop_map(|(a, b)| match b {
        0 => Bytes::from(vec![b'a' + a]),
        1 => Bytes::from(vec![b'a' + a, b'/']),
        _ => Bytes::from(vec![b'a' + a, b'/', 0xff]),
    })
}

fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        key().prop_map(KeyRange::Key),
        key().prop_map(KeyRange::From),
        key().prop_map(KeyRange::prefix),
        (key(), key()).prop_map(|(start, end)| KeyRange::Between { start, end }),
    ]
}

fn range_op() -> impl Strategy<Value = RangeOp> {
    let order = prop_oneof![
        Just(SortOrder::None),
        Just(SortOrder::Ascend),
        Just(SortOrder::Descend)
    ];
    let target = prop_oneof![
        3 => Just(SortTarget::Key),
        1 => Just(SortTarget::Version),
        1 => Just(SortTarget::Create),
        1 => Just(SortTarget::Mod),
        1 => Just(SortTarget::Value),
    ];
    let bound = || prop_oneof![3 => Just(0u64), 1 => 0..40u64];
    let revision = proptest::option::of((0..40u64).prop_map(Revision));
    (range(), revision, 0..5u64, order, target, [bound(), bound(), bound(), bound()], 0..8u8)
        .prop_map(|(range, revision, limit, sort_order, sort_target, bounds, flags)| RangeOp {
            revision,
            limit,
            sort_order,
            sort_target,
            min_mod: bounds[0],
            max_mod: bounds[1],
            min_create: bounds[2],
            max_create: bounds[3],
            keys_only: flags == 1,
            count_only: flags == 2,
            ..RangeOp::new(range)
        })
}

fn lease() -> impl Strategy<Value = LeaseId> {
    (1..4i64).prop_map(LeaseId)
}

fn put_op() -> impl Strategy<Value = PutOp> {
    let value = proptest::collection::vec(b'x'..b'z', 0..3);
    (key(), value, proptest::option::of(lease()), any::<bool>(), 0..6u8).prop_map(
        |(key, value, lease, prev_kv, flags)| {
            let (ignore_value, ignore_lease) = (flags == 1 || flags == 3, flags == 2 || flags == 3);
            PutOp {
                prev_kv,
                ignore_value,
                ignore_lease,
                lease: lease.filter(|_| !ignore_lease),
                ..PutOp::new(key, if ignore_value { Vec::new() } else { value })
            }
        },
    )
}

fn compare() -> impl Strategy<Value = Compare> {
    let op = prop_oneof![
        Just(CompareOp::Equal),
        Just(CompareOp::Greater),
        Just(CompareOp::Less),
        Just(CompareOp::NotEqual),
        Just(CompareOp::Always),
    ];
    let target = prop_oneof![
        (0..3i64).prop_map(CompareTarget::Version),
        (0..20i64).prop_map(CompareTarget::Create),
        (-1..20i64).prop_map(CompareTarget::Mod),
        (0..3i64).prop_map(CompareTarget::Lease),
        Just(CompareTarget::Unknown),
        proptest::collection::vec(b'x'..b'z', 0..2).prop_map(|v| CompareTarget::Value(v.into())),
    ];
    (range(), op, target).prop_map(|(range, op, target)| Compare { range, op, target })
}

fn txn() -> impl Strategy<Value = Txn> {
    let leaf = prop_oneof![
        2 => range_op().prop_map(Op::Range),
        4 => put_op().prop_map(Op::Put),
        2 => (range(), any::<bool>())
            .prop_map(|(range, prev_kv)| Op::DeleteRange(DeleteRangeOp { range, prev_kv })),
    ];
    let op = leaf.prop_recursive(2, 8, 3, |op| {
        let list = || proptest::collection::vec(op.clone(), 0..3);
        (proptest::collection::vec(compare(), 0..2), list(), list())
            .prop_map(|(compare, success, failure)| Op::Txn(Txn { compare, success, failure }))
    });
    let list = || proptest::collection::vec(op.clone(), 0..4);
    (proptest::collection::vec(compare(), 0..3), list(), list())
        .prop_map(|(compare, success, failure)| Txn { compare, success, failure })
        // A key that exists only since this transaction cannot be kept: see the next filter.
        .prop_filter("valid", |txn| txn.validate(128).is_ok() && !keeps_after_open_delete(txn))
}

/// etcd lets a put of a key follow an open-ended deletion of it in one transaction; what such a
/// put then keeps is not defined.
fn keeps_after_open_delete(txn: &Txn) -> bool {
    fn any(txn: &Txn, test: &dyn Fn(&Op) -> bool) -> bool {
        txn.success.iter().chain(&txn.failure).any(|op| match op {
            Op::Txn(txn) => any(txn, test),
            op => test(op),
        })
    }
    any(txn, &|op| matches!(op, Op::DeleteRange(op) if matches!(op.range, KeyRange::From(_))))
        && any(txn, &|op| matches!(op, Op::Put(op) if op.ignore_value || op.ignore_lease))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => txn().prop_map(Step::Txn),
        2 => lease().prop_map(Step::Grant),
        1 => lease().prop_map(Step::Revoke),
        1 => (0..10u64).prop_map(Step::Compact),
        2 => (1..40usize).prop_map(Step::CompactStep),
    ]
}

struct Both {
    store: Store,
    heap: Heap,
    model: Model,
}

impl Both {
    fn new(limits: WatchLogLimits) -> Self {
        Self { store: Store::new(limits), heap: Heap::default(), model: Model::new() }
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Txn(txn) => {
                if txn.is_read_only() {
                    let read = self.store.view().read_txn(txn, &self.heap).unwrap();
                    assert_eq!(read, self.model.txn(txn));
                }
                let got = self.store.txn(txn, &mut self.heap).unwrap();
                assert_eq!(got, self.model.txn(txn));
            }
            Step::Grant(id) => {
                let exists = self.model.leases.contains_key(id);
                let got = self.store.lease_grant(*id, 10);
                assert_eq!(got, if exists { Err(Error::LeaseExists) } else { Ok(()) });
                self.model.leases.insert(*id, 10);
            }
            Step::Revoke(id) => {
                assert_eq!(self.store.lease_revoke(*id), self.model.revoke(*id));
            }
            Step::Compact(eighths) => {
                let revision = self.model.revision() * eighths / 8;
                let expected = if self.model.compacted.is_some_and(|at| revision <= at) {
                    let compact_revision = Revision(self.model.compacted.unwrap());
                    Err(Error::Compacted { compact_revision })
                } else if revision > self.model.revision() {
                    let current = Revision(self.model.revision());
                    Err(Error::FutureRevision { requested: Revision(revision), current })
                } else {
                    self.model.compacted = Some(revision);
                    Ok(())
                };
                assert_eq!(self.store.compact(Revision(revision)), expected);
            }
            Step::CompactStep(keys) => {
                self.store.compact_step(*keys, &mut self.heap);
            }
        }
        assert_eq!(self.store.revision().0, self.model.revision());
    }

    /// Every readable revision reads as it was, and all changes since the compaction are there.
    fn check(&self) {
        let view = self.store.view();
        let all = RangeOp::new(KeyRange::all());
        for revision in self.model.compacted.unwrap_or(0)..=self.model.revision() {
            let op = RangeOp { revision: Some(Revision(revision)), ..all.clone() };
            let got = view.range(&op, &self.heap).unwrap().unwrap();
            let state = &self.model.states[revision as usize];
            assert_eq!(got, Model::range(state, &op, self.model.revision()), "at {revision}");
            let sum = state.values().fold(0, |sum, pair| pair.checksum(sum));
            assert_eq!(view.hash(op.revision, &self.heap).unwrap(), Ok(sum));
        }
        for &id in self.model.leases.keys() {
            let keys: Vec<Bytes> = self.model.now().values()
                .filter(|pair| pair.lease == Some(id)).map(|pair| pair.key.clone()).collect();
            assert_eq!(self.store.leases().keys(id), Some(keys));
        }
        self.check_history();
        self.check_log();
    }

    fn check_history(&self) {
        let from = self.model.compacted.unwrap_or(0).max(1);
        let expected: Vec<&Change> = self.model.changes.iter().filter(|change| change.0 >= from).collect();
        let (mut got, mut next) = (Vec::new(), from);
        loop {
            let (changes, last) = self.store.view().index.changes(&KeyRange::all(), next, 3);
            got.extend(changes);
            match last {
                Some(last) => next = last + 1,
                None => break,
            }
        }
        assert_eq!(got.len(), expected.len());
        for (got, (revision, key, current, previous)) in got.into_iter().zip(expected) {
            assert_eq!((got.version.main, &got.key), (*revision, key));
            let pair = |version: trivet_mvcc::Version| {
                version.pair(key.clone(), self.heap.read_any(version.location).unwrap())
            };
            let current_got = (!got.version.is_tombstone()).then(|| pair(got.version));
            assert_eq!(&current_got, current);
            // The pair before the oldest readable revision may be gone.
            let old = previous.as_ref().is_some_and(|p| self.model.compacted.is_some_and(|at| p.mod_revision.0 < at));
            let previous_got = got.previous.map(pair);
            assert!(&previous_got == previous || (old && previous_got.is_none()));
        }
    }

    fn check_log(&self) {
        for from in 2..=self.model.revision() + 2 {
            let Ok(revisions) = self.store.log().read(Revision(from), usize::MAX) else { continue };
            let got = revisions.iter().flat_map(|one| {
                one.events.iter().map(|event| (one.revision.0, event.key.clone(), event.value.clone()))
            });
            let expected = self.model.changes.iter().filter(|change| change.0 >= from).map(|change| {
                let value = change.2.as_ref().map(|pair| pair.value.clone());
                (change.0, change.1.clone(), value.unwrap_or_default())
            });
            assert!(got.eq(expected));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_does(steps in proptest::collection::vec(step(), 1..60)) {
        let mut both = Both::new(WatchLogLimits { bytes: 4096, revisions: 8 });
        for id in 1..3 {
            both.apply(&Step::Grant(LeaseId(id)));
        }
        for step in &steps {
            both.apply(step);
        }
        both.check();
        while both.store.compact_step(7, &mut both.heap) {}
        both.check();
        let values = both.store.view().index.entries()
            .map(|entry| entry.older.iter().chain([entry.head]).filter(|v| v.location.length > 0).count() as i64)
            .sum::<i64>();
        prop_assert_eq!(both.heap.live, values);
    }
}

/// Enough keys for many chunks: splits, merges, counting whole chunks.
#[test]
fn many_keys_in_any_order() {
    let mut both = Both::new(WatchLogLimits::default());
    let put = |n: u64| Step::Txn(Txn::single(Op::Put(PutOp::new(format!("/registry/pods/{n:06}"), n.to_string()))));
    let delete = |n: u64| {
        let range = KeyRange::Key(format!("/registry/pods/{n:06}").into());
        Step::Txn(Txn::single(Op::DeleteRange(DeleteRangeOp { range, prev_kv: false })))
    };
    for n in 0..600 {
        both.apply(&put(n * 7919 % 1000));
    }
    for n in 1000..1400 {
        both.apply(&put(n));
    }
    for n in 0..900 {
        both.apply(&delete(n * 31 % 1200));
    }
    let model = &both.model;
    for (start, end) in [(0, 1500), (17, 333), (128, 129), (500, 400), (999, 1200)] {
        let range = KeyRange::Between {
            start: format!("/registry/pods/{start:06}").into(),
            end: format!("/registry/pods/{end:06}").into(),
        };
        for revision in [1, 300, 601, 1000, model.revision() - 1, model.revision()] {
            let count = model.states[revision as usize].keys().filter(|key| range.contains(key)).count();
            assert_eq!(both.store.view().index.count(&range, revision), count as u64);
        }
    }
    both.model.compacted = Some(both.model.revision() - 10);
    both.store.compact(Revision(both.model.revision() - 10)).unwrap();
    let before = both.store.view().clone();
    while both.store.compact_step(100, &mut both.heap) {}
    assert!(both.store.view().index.len() < before.index.len());
    both.check();
    // A clone is not disturbed.
    assert_eq!(before.hash(None, &both.heap).unwrap(), both.store.view().hash(None, &both.heap).unwrap());
}

#[test]
fn a_watch_at_the_compacted_revision_sees_its_deletions() {
    let (mut store, mut heap) = (Store::new(WatchLogLimits::default()), Heap::default());
    let run = |store: &mut Store, heap: &mut Heap, op| {
        store.txn(&Txn::single(op), heap).unwrap().unwrap();
    };
    let delete = || Op::DeleteRange(DeleteRangeOp { range: KeyRange::all(), prev_kv: false });
    run(&mut store, &mut heap, Op::Put(PutOp::new("a", "1")));
    run(&mut store, &mut heap, delete());
    store.compact(Revision(3)).unwrap();
    while store.compact_step(10, &mut heap) {}
    let (changes, _) = store.view().index.changes(&KeyRange::all(), 3, 10);
    assert_eq!(changes.len(), 1);
    let event = if changes[0].version.is_tombstone() { EventKind::Delete } else { EventKind::Put };
    assert_eq!(event, EventKind::Delete);
    run(&mut store, &mut heap, Op::Put(PutOp::new("b", "1")));
    store.compact(Revision(4)).unwrap();
    while store.compact_step(10, &mut heap) {}
    assert_eq!(store.view().index.len(), 1);
}

#[test]
fn nothing_may_be_compacted_once_at_revision_zero() {
    let mut store = Store::new(WatchLogLimits::default());
    assert_eq!(store.compact(Revision(0)), Ok(()));
    assert!(matches!(store.compact(Revision(0)), Err(Error::Compacted { .. })));
    assert!(matches!(store.compact(Revision(2)), Err(Error::FutureRevision { .. })));
}

#[test]
fn one_branch_writes_a_key_once() {
    let put = |key: &'static str| Op::Put(PutOp::new(key, "v"));
    let delete = |start: &'static str, end: &'static str| {
        let range = KeyRange::Between { start: start.into(), end: end.into() };
        Op::DeleteRange(DeleteRangeOp { range, prev_kv: false })
    };
    let ok = |success: Vec<Op>, failure: Vec<Op>| {
        Txn { compare: Vec::new(), success, failure }.validate(128).is_ok()
    };
    assert!(ok(vec![put("a"), put("b")], vec![put("a")]));
    assert!(!ok(vec![put("a"), put("a")], vec![]));
    assert!(!ok(vec![put("b"), delete("a", "c")], vec![]));
    assert!(!ok(vec![], vec![delete("a", "c"), put("b")]));
    assert!(ok(vec![delete("a", "c"), delete("b", "d"), put("d")], vec![]));
    let nested = Op::Txn(Txn { compare: vec![], success: vec![put("a")], failure: vec![put("a")] });
    assert!(ok(vec![nested.clone(), put("b")], vec![]));
    assert!(!ok(vec![nested.clone(), put("a")], vec![]));
    assert!(!ok(vec![nested.clone(), nested], vec![]));
    let open = Op::DeleteRange(DeleteRangeOp { range: KeyRange::From("a".into()), prev_kv: false });
    assert!(ok(vec![open, put("b")], vec![]));
}
