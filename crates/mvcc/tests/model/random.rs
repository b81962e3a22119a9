//! Random operations on few keys, so that they meet.

use bytes::Bytes;
use proptest::prelude::*;
use trivet_mvcc::{
    Compare, CompareOp, CompareTarget, DeleteRangeOp, KeyRange, LeaseId, Op, PutOp, RangeOp,
    Revision, SortOrder, SortTarget, Txn,
};

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Txn(Txn),
    Grant(LeaseId),
    Revoke(LeaseId),
    /// In 1/8 of the newest revision, plus a bit.
    Compact(u64),
    Remove(usize),
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
    (
        range(),
        revision,
        0..5u64,
        order,
        target,
        [bound(), bound(), bound(), bound()],
        0..8u8,
    )
        .prop_map(
            |(range, revision, limit, sort_order, sort_target, bounds, flags)| RangeOp {
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
            },
        )
}

fn lease() -> impl Strategy<Value = LeaseId> {
    (1..4i64).prop_map(LeaseId)
}

fn put_op() -> impl Strategy<Value = PutOp> {
    let value = proptest::collection::vec(b'x'..b'z', 0..3);
    (
        key(),
        value,
        proptest::option::of(lease()),
        any::<bool>(),
        0..6u8,
    )
        .prop_map(|(key, value, lease, prev_kv, flags)| {
            let (ignore_value, ignore_lease) = (flags == 1 || flags == 3, flags == 2 || flags == 3);
            PutOp {
                prev_kv,
                ignore_value,
                ignore_lease,
                lease: lease.filter(|_| !ignore_lease),
                ..PutOp::new(key, if ignore_value { Vec::new() } else { value })
            }
        })
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
        (proptest::collection::vec(compare(), 0..2), list(), list()).prop_map(
            |(compare, success, failure)| {
                Op::Txn(Txn {
                    compare,
                    success,
                    failure,
                })
            },
        )
    });
    let list = || proptest::collection::vec(op.clone(), 0..4);
    (proptest::collection::vec(compare(), 0..3), list(), list())
        .prop_map(|(compare, success, failure)| Txn {
            compare,
            success,
            failure,
        })
        // A key that exists only since this transaction cannot be kept: see the next filter.
        .prop_filter("valid", |txn| {
            txn.validate(128).is_ok() && !keeps_after_open_delete(txn)
        })
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
    any(
        txn,
        &|op| matches!(op, Op::DeleteRange(op) if matches!(op.range, KeyRange::From(_))),
    ) && any(
        txn,
        &|op| matches!(op, Op::Put(op) if op.ignore_value || op.ignore_lease),
    )
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => txn().prop_map(Step::Txn),
        2 => lease().prop_map(Step::Grant),
        1 => lease().prop_map(Step::Revoke),
        1 => (0..10u64).prop_map(Step::Compact),
        2 => (1..40usize).prop_map(Step::Remove),
    ]
}
