//! Encodings: what goes in comes out, and nothing else panics.

use proptest::prelude::*;
use trivet_etcd_auth::{AuthAnswer, AuthError};
use trivet_mvcc::{
    Error as Refusal, Invalid, KeyValue, OpResult, RangeOp, RangeResult, SortOrder, SortTarget,
    TxnResult,
};

use super::*;
use crate::state::{CommandError, DecodeError, Response};

fn bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        bytes().prop_map(KeyRange::Key),
        bytes().prop_map(KeyRange::From),
        (bytes(), bytes()).prop_map(|(start, end)| KeyRange::Between { start, end }),
    ]
}

fn lease() -> impl Strategy<Value = Option<LeaseId>> {
    any::<i64>().prop_map(|id| Some(id).filter(|id| *id != 0).map(LeaseId))
}

fn range_op() -> impl Strategy<Value = RangeOp> {
    let orders = [SortOrder::None, SortOrder::Ascend, SortOrder::Descend];
    let targets = [
        SortTarget::Key,
        SortTarget::Version,
        SortTarget::Create,
        SortTarget::Mod,
        SortTarget::Value,
    ];
    (
        range(),
        any::<[u64; 6]>(),
        0..3usize,
        0..5usize,
        any::<[bool; 2]>(),
    )
        .prop_map(move |(range, n, order, target, flags)| RangeOp {
            revision: Some(n[0]).filter(|n| *n != 0).map(Revision),
            limit: n[1],
            sort_order: orders[order],
            sort_target: targets[target],
            min_mod: n[2],
            max_mod: n[3],
            min_create: n[4],
            max_create: n[5],
            keys_only: flags[0],
            count_only: flags[1],
            range,
        })
}

fn compare() -> impl Strategy<Value = Compare> {
    let ops = [
        CompareOp::Equal,
        CompareOp::Greater,
        CompareOp::Less,
        CompareOp::NotEqual,
        CompareOp::Always,
    ];
    (range(), 0..5usize, 0..6u8, any::<i64>(), bytes()).prop_map(
        move |(range, op, kind, n, value)| {
            let target = match kind {
                0 => CompareTarget::Version(n),
                1 => CompareTarget::Create(n),
                2 => CompareTarget::Mod(n),
                3 => CompareTarget::Value(value),
                4 => CompareTarget::Lease(n),
                _ => CompareTarget::Unknown,
            };
            Compare {
                range,
                op: ops[op],
                target,
            }
        },
    )
}

fn txn() -> impl Strategy<Value = Txn> {
    let put =
        (bytes(), bytes(), lease(), any::<[bool; 3]>()).prop_map(|(key, value, lease, flags)| {
            Op::Put(PutOp {
                key,
                value,
                lease,
                prev_kv: flags[0],
                ignore_value: flags[1],
                ignore_lease: flags[2],
            })
        });
    let delete = (range(), any::<bool>())
        .prop_map(|(range, prev_kv)| Op::DeleteRange(DeleteRangeOp { range, prev_kv }));
    let leaf = prop_oneof![range_op().prop_map(Op::Range), put, delete];
    let op = leaf.prop_recursive(3, 16, 4, |op| {
        let list = || proptest::collection::vec(op.clone(), 0..4);
        (proptest::collection::vec(compare(), 0..3), list(), list()).prop_map(
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
    (proptest::collection::vec(compare(), 0..3), list(), list()).prop_map(
        |(compare, success, failure)| Txn {
            compare,
            success,
            failure,
        },
    )
}

fn command() -> impl Strategy<Value = Command> {
    let id = || any::<i64>().prop_map(|id| LeaseId(id | 1));
    let command = prop_oneof![
        5 => txn().prop_map(Command::Txn),
        1 => (id(), any::<u64>()).prop_map(|(id, ttl_s)| Command::LeaseGrant { id, ttl_s }),
        1 => id().prop_map(|id| Command::LeaseRevoke { id }),
        1 => any::<u64>().prop_map(|n| Command::Compact { revision: Revision(n) }),
        1 => (alarm(), any::<bool>()).prop_map(|(alarm, raise)| Command::Alarm {
            action: if raise { AlarmAction::Activate } else { AlarmAction::Deactivate },
            alarm,
        }),
        1 => proptest::collection::vec((id(), any::<u64>()), 0..5)
            .prop_map(|remaining| Command::LeaseCheckpoint { remaining }),
        1 => bytes().prop_map(Command::Auth),
    ];
    let caller = prop_oneof![
        Just(Caller::Anonymous),
        Just(Caller::Root),
        (any::<String>(), any::<u64>()).prop_map(|(name, auth_revision)| Caller::User {
            name,
            auth_revision,
        }),
    ];
    (command, proptest::option::of(caller)).prop_map(|(command, caller)| match caller {
        Some(caller) => Command::As {
            caller,
            command: Box::new(command),
        },
        None => command,
    })
}

fn alarm() -> impl Strategy<Value = AlarmMember> {
    (any::<bool>(), any::<u64>()).prop_map(|(space, member)| AlarmMember {
        alarm: if space {
            Alarm::NoSpace
        } else {
            Alarm::Corrupt
        },
        member,
    })
}

fn pair() -> impl Strategy<Value = KeyValue> {
    (bytes(), bytes(), any::<[u64; 3]>(), lease()).prop_map(|(key, value, n, lease)| KeyValue {
        key,
        value,
        create_revision: Revision(n[0]),
        mod_revision: Revision(n[1]),
        version: n[2],
        lease,
    })
}

fn txn_result() -> impl Strategy<Value = TxnResult> {
    let revision = || any::<u64>().prop_map(Revision);
    let pairs = || proptest::collection::vec(pair(), 0..4);
    let leaf = prop_oneof![
        (revision(), pairs(), any::<bool>(), any::<u64>()).prop_map(
            |(revision, items, more, count)| {
                OpResult::Range(RangeResult {
                    revision,
                    items,
                    more,
                    count,
                })
            }
        ),
        (revision(), proptest::option::of(pair()))
            .prop_map(|(revision, previous)| OpResult::Put { revision, previous }),
        (revision(), any::<u64>(), pairs()).prop_map(|(revision, deleted, previous)| {
            OpResult::DeleteRange {
                revision,
                deleted,
                previous,
            }
        }),
    ];
    let result = move |op: BoxedStrategy<OpResult>| {
        (
            any::<u64>(),
            any::<bool>(),
            proptest::collection::vec(op, 0..4),
        )
            .prop_map(|(revision, succeeded, results)| TxnResult {
                revision: Revision(revision),
                succeeded,
                results,
            })
    };
    let op = leaf.prop_recursive(2, 8, 3, move |op| {
        result(op).prop_map(OpResult::Txn).boxed()
    });
    result(op.boxed())
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let refusal = prop_oneof![
        any::<u64>().prop_map(|n| Refusal::Compacted {
            compact_revision: Revision(n)
        }),
        any::<[u64; 2]>().prop_map(|n| Refusal::FutureRevision {
            requested: Revision(n[0]),
            current: Revision(n[1]),
        }),
        Just(Refusal::LeaseNotFound),
        Just(Refusal::LeaseExists),
        Just(Refusal::KeyNotFound),
        Just(Refusal::Invalid(Invalid::EmptyKey)),
        Just(Refusal::Invalid(Invalid::DuplicateKey)),
    ];
    let result = prop_oneof![
        4 => txn_result().prop_map(|result| Ok(Response::Txn(result))),
        1 => (any::<i64>(), any::<u64>())
            .prop_map(|(id, ttl_s)| Ok(Response::LeaseGranted { id: LeaseId(id | 1), ttl_s })),
        1 => any::<u64>().prop_map(|deleted| Ok(Response::LeaseRevoked { deleted })),
        1 => Just(Ok(Response::Compacted)),
        1 => proptest::option::of(alarm()).prop_map(|alarm| Ok(Response::Alarmed(alarm))),
        1 => Just(Ok(Response::LeasesCheckpointed)),
        1 => (any::<Option<u64>>(), any::<u64>()).prop_map(|(revision, index)| {
            let answer = match revision {
                Some(auth_revision) => AuthAnswer::Authenticated { auth_revision },
                None => AuthAnswer::Done,
            };
            Ok(Response::Auth { answer, index })
        }),
        1 => alarm().prop_map(|alarm| Err(CommandError::Alarm(alarm.alarm))),
        1 => proptest::sample::select(AuthError::ALL)
            .prop_map(|error| Err(CommandError::Auth(error))),
        1 => Just(Err(CommandError::Malformed)),
        2 => refusal.prop_map(|refusal| Err(CommandError::Refused(refusal))),
    ];
    (any::<u64>(), result).prop_map(|(n, result)| Outcome {
        revision: Revision(n),
        result,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn commands_come_back(command in command(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let bytes = command.encode();
        prop_assert_eq!(Command::decode(bytes.clone()), Ok(command));
        // Any part of it, and any neighbour, is an error or another command.
        let at = at.index(bytes.len());
        prop_assert!(Command::decode(bytes.slice(..at)).is_err());
        let mut other = bytes.to_vec();
        other[at] ^= 1u8 << bit;
        let _ = Command::decode(other.into());
    }

    #[test]
    fn outcomes_come_back(outcome in outcome(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let bytes = outcome.encode();
        prop_assert_eq!(Outcome::decode(bytes.clone()), Ok(outcome));
        let at = at.index(bytes.len());
        prop_assert!(Outcome::decode(bytes.slice(..at)).is_err());
        let mut other = bytes.to_vec();
        other[at] ^= 1u8 << bit;
        let _ = Outcome::decode(other.into());
    }

    #[test]
    fn no_bytes_make_it_panic(tail in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..20u8) {
        for head in [vec![], vec![1, kind]] {
            let bytes = Bytes::from([&head[..], &tail].concat());
            let _ = Command::decode(bytes.clone());
            let _ = Outcome::decode(bytes);
        }
    }
}

#[test]
fn a_caller_speaks_for_himself_only() {
    let as_root = |command| Command::As {
        caller: Caller::Root,
        command: Box::new(command),
    };
    let once = as_root(put("a", "b"));
    assert_eq!(Command::decode(once.encode()), Ok(once.clone()));
    assert_eq!(put("a", "b").encode_as(&Caller::Root), once.encode());
    assert_eq!(
        Command::decode(as_root(once).encode()),
        Err(DecodeError::Malformed)
    );
}

#[test]
fn nesting_has_a_bottom() {
    let mut txn = Txn::default();
    for _ in 0..128 {
        txn = Txn::single(Op::Txn(txn));
    }
    let command = Command::Txn(txn.clone());
    assert_eq!(Command::decode(command.encode()), Ok(command));
    let deeper = Command::Txn(Txn::single(Op::Txn(txn)));
    assert_eq!(
        Command::decode(deeper.encode()),
        Err(DecodeError::Malformed)
    );
    // A million nested transactions in a megabyte or three.
    let bomb: Vec<u8> = [1, 1]
        .into_iter()
        .chain([0, 1, 3].repeat(1_000_000))
        .collect();
    assert_eq!(Command::decode(bomb.into()), Err(DecodeError::Malformed));
}
