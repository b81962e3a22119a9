//! The store against a model that keeps every state there ever was.

#![allow(clippy::unwrap_used)] // a test that fails should say where

mod random;
mod reference;

use std::io;

use bytes::Bytes;
use proptest::prelude::*;
use trivet_mvcc::{
    DeleteRangeOp, Error, EventKind, KeyRange, LeaseId, Location, Op, PutOp, RangeOp, ReadValues,
    Revision, Store, Txn, Values, WatchLogLimits,
};

use random::{Step, step};
use reference::{Change, Model};

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
        Ok(Location {
            segment: 1,
            offset,
            length: value.len() as u32,
        })
    }

    fn release(&mut self, location: Location) {
        self.live -= i64::from(location.length > 0);
    }
}

struct Both {
    store: Store,
    heap: Heap,
    model: Model,
}

impl Both {
    fn new(limits: WatchLogLimits) -> Self {
        Self {
            store: Store::new(limits),
            heap: Heap::default(),
            model: Model::new(),
        }
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
                assert_eq!(
                    got,
                    if exists {
                        Err(Error::LeaseExists)
                    } else {
                        Ok(())
                    }
                );
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
                    Err(Error::FutureRevision {
                        requested: Revision(revision),
                        current,
                    })
                } else {
                    self.model.compacted = Some(revision);
                    Ok(())
                };
                assert_eq!(self.store.compact(Revision(revision)), expected);
            }
            Step::Remove(keys) => {
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
            let op = RangeOp {
                revision: Some(Revision(revision)),
                ..all.clone()
            };
            let got = view.range(&op, &self.heap).unwrap().unwrap();
            let state = &self.model.states[revision as usize];
            assert_eq!(
                got,
                Model::range(state, &op, self.model.revision()),
                "at {revision}"
            );
        }
        for &id in self.model.leases.keys() {
            let keys: Vec<Bytes> = self
                .model
                .now()
                .values()
                .filter(|pair| pair.lease == Some(id))
                .map(|pair| pair.key.clone())
                .collect();
            assert_eq!(self.store.leases().keys(id), Some(keys));
        }
        self.check_history();
        self.check_log();
    }

    fn check_history(&self) {
        let from = self.model.compacted.unwrap_or(0).max(1);
        let expected: Vec<&Change> = self
            .model
            .changes
            .iter()
            .filter(|change| change.0 >= from)
            .collect();
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
            let old = previous
                .as_ref()
                .is_some_and(|p| self.model.compacted.is_some_and(|at| p.mod_revision.0 < at));
            let previous_got = got.previous.map(pair);
            assert!(&previous_got == previous || (old && previous_got.is_none()));
        }
    }

    fn check_log(&self) {
        for from in 2..=self.model.revision() + 2 {
            let Ok(revisions) = self.store.log().read(Revision(from), usize::MAX) else {
                continue;
            };
            let got = revisions.iter().flat_map(|one| {
                one.events
                    .iter()
                    .map(|event| (one.revision.0, event.key.clone(), event.value.clone()))
            });
            let expected = self
                .model
                .changes
                .iter()
                .filter(|change| change.0 >= from)
                .map(|change| {
                    let value = change.2.as_ref().map(|pair| pair.value.clone());
                    (change.0, change.1.clone(), value.unwrap_or_default())
                });
            assert!(got.eq(expected));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

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

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Members compare checksums while each is somewhere else with removing what was compacted.
    #[test]
    fn the_checksum_does_not_depend_on_what_was_removed(steps in proptest::collection::vec(step(), 1..80)) {
        let limits = WatchLogLimits { bytes: 4096, revisions: 8 };
        let (mut tidy, mut idle) = (Both::new(limits), Both::new(limits));
        for id in 1..3 {
            tidy.apply(&Step::Grant(LeaseId(id)));
            idle.apply(&Step::Grant(LeaseId(id)));
        }
        for step in &steps {
            tidy.apply(step);
            while tidy.store.compact_step(3, &mut tidy.heap) {}
            if !matches!(step, Step::Remove(_)) {
                idle.apply(step);
            }
            let newest = tidy.model.revision();
            let oldest = tidy.model.compacted.unwrap_or(0);
            for revision in [oldest, (oldest + newest) / 2, newest] {
                let at = Some(Revision(revision));
                prop_assert_eq!(
                    tidy.store.view().hash(at, &tidy.heap).unwrap(),
                    idle.store.view().hash(at, &idle.heap).unwrap(),
                    "at {} of {} to {}", revision, oldest, newest
                );
            }
        }
    }
}

/// What is in the checksum: values, leases, deletions, and what came before.
#[test]
fn the_checksum_tells_states_apart() {
    let put = |key: &'static str, value: &'static str| Op::Put(PutOp::new(key, value));
    let delete = |key: &'static str| {
        Op::DeleteRange(DeleteRangeOp {
            range: KeyRange::Key(key.into()),
            prev_kv: false,
        })
    };
    let leased = Op::Put(PutOp {
        lease: Some(LeaseId(1)),
        ..PutOp::new("a", "2")
    });
    let histories = [
        vec![put("a", "1"), put("a", "2"), put("b", "")],
        vec![put("a", "1"), put("a", "3"), put("b", "")],
        vec![put("a", "0"), put("a", "2"), put("b", "")],
        vec![put("a", "1"), put("a", "2"), delete("a")],
        vec![put("a", "1"), leased, put("b", "")],
        vec![put("a", "1"), put("a", "2"), put("c", "")],
    ];
    let sums = histories.map(|history| {
        let (mut store, mut heap) = (Store::new(WatchLogLimits::default()), Heap::default());
        store.lease_grant(LeaseId(1), 10).unwrap();
        for op in history {
            store.txn(&Txn::single(op), &mut heap).unwrap().unwrap();
        }
        // As of the last but one the history is the same for the first, fourth and last.
        let before = store
            .view()
            .hash(Some(Revision(3)), &heap)
            .unwrap()
            .unwrap();
        (store.view().hash(None, &heap).unwrap().unwrap(), before)
    });
    for (number, sum) in sums.iter().enumerate() {
        for other in &sums[..number] {
            assert_ne!(sum.0, other.0, "{number}");
        }
    }
    assert_eq!((sums[0].1, sums[0].1), (sums[3].1, sums[5].1));
}

/// Enough keys for many chunks: splits, merges, counting whole chunks.
#[test]
fn many_keys_in_any_order() {
    let mut both = Both::new(WatchLogLimits::default());
    let put = |n: u64| {
        Step::Txn(Txn::single(Op::Put(PutOp::new(
            format!("/registry/pods/{n:06}"),
            n.to_string(),
        ))))
    };
    let delete = |n: u64| {
        let range = KeyRange::Key(format!("/registry/pods/{n:06}").into());
        Step::Txn(Txn::single(Op::DeleteRange(DeleteRangeOp {
            range,
            prev_kv: false,
        })))
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
            let count = model.states[revision as usize]
                .keys()
                .filter(|key| range.contains(key))
                .count();
            assert_eq!(
                both.store.view().index.count(&range, revision),
                count as u64
            );
        }
    }
    both.model.compacted = Some(both.model.revision() - 10);
    both.store
        .compact(Revision(both.model.revision() - 10))
        .unwrap();
    let before = both.store.view().clone();
    while both.store.compact_step(100, &mut both.heap) {}
    assert!(both.store.view().index.len() < before.index.len());
    both.check();
    // A clone is not disturbed.
    assert_eq!(
        before.hash(None, &both.heap).unwrap(),
        both.store.view().hash(None, &both.heap).unwrap()
    );
}

#[test]
fn a_watch_at_the_compacted_revision_sees_its_deletions() {
    let (mut store, mut heap) = (Store::new(WatchLogLimits::default()), Heap::default());
    let run = |store: &mut Store, heap: &mut Heap, op| {
        store.txn(&Txn::single(op), heap).unwrap().unwrap();
    };
    let delete = || {
        Op::DeleteRange(DeleteRangeOp {
            range: KeyRange::all(),
            prev_kv: false,
        })
    };
    run(&mut store, &mut heap, Op::Put(PutOp::new("a", "1")));
    run(&mut store, &mut heap, delete());
    store.compact(Revision(3)).unwrap();
    while store.compact_step(10, &mut heap) {}
    let (changes, _) = store.view().index.changes(&KeyRange::all(), 3, 10);
    assert_eq!(changes.len(), 1);
    let event = if changes[0].version.is_tombstone() {
        EventKind::Delete
    } else {
        EventKind::Put
    };
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
    assert!(matches!(
        store.compact(Revision(0)),
        Err(Error::Compacted { .. })
    ));
    assert!(matches!(
        store.compact(Revision(2)),
        Err(Error::FutureRevision { .. })
    ));
}

#[test]
fn one_branch_writes_a_key_once() {
    let put = |key: &'static str| Op::Put(PutOp::new(key, "v"));
    let delete = |start: &'static str, end: &'static str| {
        let range = KeyRange::Between {
            start: start.into(),
            end: end.into(),
        };
        Op::DeleteRange(DeleteRangeOp {
            range,
            prev_kv: false,
        })
    };
    let ok = |success: Vec<Op>, failure: Vec<Op>| {
        Txn {
            compare: Vec::new(),
            success,
            failure,
        }
        .validate(128)
        .is_ok()
    };
    assert!(ok(vec![put("a"), put("b")], vec![put("a")]));
    assert!(!ok(vec![put("a"), put("a")], vec![]));
    assert!(!ok(vec![put("b"), delete("a", "c")], vec![]));
    assert!(!ok(vec![], vec![delete("a", "c"), put("b")]));
    assert!(ok(
        vec![delete("a", "c"), delete("b", "d"), put("d")],
        vec![]
    ));
    let nested = Op::Txn(Txn {
        compare: vec![],
        success: vec![put("a")],
        failure: vec![put("a")],
    });
    assert!(ok(vec![nested.clone(), put("b")], vec![]));
    assert!(!ok(vec![nested.clone(), put("a")], vec![]));
    assert!(!ok(vec![nested.clone(), nested], vec![]));
    let open = Op::DeleteRange(DeleteRangeOp {
        range: KeyRange::From("a".into()),
        prev_kv: false,
    });
    assert!(ok(vec![open, put("b")], vec![]));
}
