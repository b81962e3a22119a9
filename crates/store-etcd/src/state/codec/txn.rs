//! The encoding of transactions and their results.

use trivet_mvcc::{
    Compare, CompareOp, CompareTarget, DeleteRangeOp, KeyRange, KeyValue, LeaseId, MAX_TXN_DEPTH,
    Op, OpResult, PutOp, RangeOp, RangeResult, Revision, SortOrder, SortTarget, Txn, TxnResult,
};

use super::{DecodeError, Decoded, Reader, Writer, read_list, write_list};

fn write_lease(out: &mut Writer, lease: Option<LeaseId>) {
    out.signed(lease.map_or(0, |lease| lease.0));
}

fn read_lease(input: &mut Reader) -> Decoded<Option<LeaseId>> {
    Ok(Some(input.signed()?).filter(|id| *id != 0).map(LeaseId))
}

fn write_range(out: &mut Writer, range: &KeyRange) {
    match range {
        KeyRange::Key(key) => {
            out.byte(0);
            out.bytes(key);
        }
        KeyRange::From(start) => {
            out.byte(1);
            out.bytes(start);
        }
        KeyRange::Between { start, end } => {
            out.byte(2);
            out.bytes(start);
            out.bytes(end);
        }
    }
}

fn read_range(input: &mut Reader) -> Decoded<KeyRange> {
    match input.byte()? {
        0 => Ok(KeyRange::Key(input.bytes()?)),
        1 => Ok(KeyRange::From(input.bytes()?)),
        2 => Ok(KeyRange::Between {
            start: input.bytes()?,
            end: input.bytes()?,
        }),
        _ => Err(DecodeError::Malformed),
    }
}

pub(super) fn write_txn(out: &mut Writer, txn: &Txn) {
    write_list(out, &txn.compare, write_compare);
    write_list(out, &txn.success, write_op);
    write_list(out, &txn.failure, write_op);
}

pub(super) fn read_txn(input: &mut Reader, depth: usize) -> Decoded<Txn> {
    if depth > MAX_TXN_DEPTH {
        return Err(DecodeError::Malformed);
    }
    Ok(Txn {
        compare: read_list(input, read_compare)?,
        success: read_list(input, |input| read_op(input, depth))?,
        failure: read_list(input, |input| read_op(input, depth))?,
    })
}

fn write_compare(out: &mut Writer, compare: &Compare) {
    out.byte(match compare.op {
        CompareOp::Equal => 0,
        CompareOp::Greater => 1,
        CompareOp::Less => 2,
        CompareOp::NotEqual => 3,
        CompareOp::Always => 4,
    });
    write_range(out, &compare.range);
    match &compare.target {
        CompareTarget::Version(number) => {
            out.byte(0);
            out.signed(*number);
        }
        CompareTarget::Create(number) => {
            out.byte(1);
            out.signed(*number);
        }
        CompareTarget::Mod(number) => {
            out.byte(2);
            out.signed(*number);
        }
        CompareTarget::Value(value) => {
            out.byte(3);
            out.bytes(value);
        }
        CompareTarget::Lease(number) => {
            out.byte(4);
            out.signed(*number);
        }
        CompareTarget::Unknown => out.byte(5),
    }
}

fn read_compare(input: &mut Reader) -> Decoded<Compare> {
    let op = match input.byte()? {
        0 => CompareOp::Equal,
        1 => CompareOp::Greater,
        2 => CompareOp::Less,
        3 => CompareOp::NotEqual,
        4 => CompareOp::Always,
        _ => return Err(DecodeError::Malformed),
    };
    let range = read_range(input)?;
    let target = match input.byte()? {
        0 => CompareTarget::Version(input.signed()?),
        1 => CompareTarget::Create(input.signed()?),
        2 => CompareTarget::Mod(input.signed()?),
        3 => CompareTarget::Value(input.bytes()?),
        4 => CompareTarget::Lease(input.signed()?),
        5 => CompareTarget::Unknown,
        _ => return Err(DecodeError::Malformed),
    };
    Ok(Compare { range, op, target })
}

fn write_op(out: &mut Writer, op: &Op) {
    match op {
        Op::Range(op) => {
            out.byte(0);
            write_range_op(out, op);
        }
        Op::Put(op) => {
            out.byte(1);
            out.bytes(&op.key);
            out.bytes(&op.value);
            write_lease(out, op.lease);
            out.byte(
                u8::from(op.prev_kv)
                    | u8::from(op.ignore_value) << 1
                    | u8::from(op.ignore_lease) << 2,
            );
        }
        Op::DeleteRange(op) => {
            out.byte(2);
            write_range(out, &op.range);
            out.byte(u8::from(op.prev_kv));
        }
        Op::Txn(txn) => {
            out.byte(3);
            write_txn(out, txn);
        }
    }
}

fn read_op(input: &mut Reader, depth: usize) -> Decoded<Op> {
    match input.byte()? {
        0 => Ok(Op::Range(read_range_op(input)?)),
        1 => {
            let (key, value) = (input.bytes()?, input.bytes()?);
            let lease = read_lease(input)?;
            let flags = input.byte()?;
            if flags > 7 {
                return Err(DecodeError::Malformed);
            }
            Ok(Op::Put(PutOp {
                key,
                value,
                lease,
                prev_kv: flags & 1 != 0,
                ignore_value: flags & 2 != 0,
                ignore_lease: flags & 4 != 0,
            }))
        }
        2 => Ok(Op::DeleteRange(DeleteRangeOp {
            range: read_range(input)?,
            prev_kv: input.flag()?,
        })),
        3 => Ok(Op::Txn(read_txn(input, depth + 1)?)),
        _ => Err(DecodeError::Malformed),
    }
}

fn write_range_op(out: &mut Writer, op: &RangeOp) {
    write_range(out, &op.range);
    out.number(op.revision.map_or(0, |revision| revision.0));
    out.number(op.limit);
    out.byte(match op.sort_order {
        SortOrder::None => 0,
        SortOrder::Ascend => 1,
        SortOrder::Descend => 2,
    });
    out.byte(match op.sort_target {
        SortTarget::Key => 0,
        SortTarget::Version => 1,
        SortTarget::Create => 2,
        SortTarget::Mod => 3,
        SortTarget::Value => 4,
    });
    for bound in [op.min_mod, op.max_mod, op.min_create, op.max_create] {
        out.number(bound);
    }
    out.byte(u8::from(op.keys_only) | u8::from(op.count_only) << 1);
}

fn read_range_op(input: &mut Reader) -> Decoded<RangeOp> {
    let range = read_range(input)?;
    let revision = Some(input.number()?)
        .filter(|number| *number != 0)
        .map(Revision);
    let limit = input.number()?;
    let sort_order = match input.byte()? {
        0 => SortOrder::None,
        1 => SortOrder::Ascend,
        2 => SortOrder::Descend,
        _ => return Err(DecodeError::Malformed),
    };
    let sort_target = match input.byte()? {
        0 => SortTarget::Key,
        1 => SortTarget::Version,
        2 => SortTarget::Create,
        3 => SortTarget::Mod,
        4 => SortTarget::Value,
        _ => return Err(DecodeError::Malformed),
    };
    let (min_mod, max_mod) = (input.number()?, input.number()?);
    let (min_create, max_create) = (input.number()?, input.number()?);
    let flags = input.byte()?;
    if flags > 3 {
        return Err(DecodeError::Malformed);
    }
    Ok(RangeOp {
        range,
        revision,
        limit,
        sort_order,
        sort_target,
        min_mod,
        max_mod,
        min_create,
        max_create,
        keys_only: flags & 1 != 0,
        count_only: flags & 2 != 0,
    })
}

fn write_pair(out: &mut Writer, pair: &KeyValue) {
    out.bytes(&pair.key);
    out.bytes(&pair.value);
    out.number(pair.create_revision.0);
    out.number(pair.mod_revision.0);
    out.number(pair.version);
    write_lease(out, pair.lease);
}

fn read_pair(input: &mut Reader) -> Decoded<KeyValue> {
    Ok(KeyValue {
        key: input.bytes()?,
        value: input.bytes()?,
        create_revision: Revision(input.number()?),
        mod_revision: Revision(input.number()?),
        version: input.number()?,
        lease: read_lease(input)?,
    })
}

pub(super) fn write_txn_result(out: &mut Writer, result: &TxnResult) {
    out.number(result.revision.0);
    out.byte(u8::from(result.succeeded));
    write_list(out, &result.results, write_op_result);
}

pub(super) fn read_txn_result(input: &mut Reader, depth: usize) -> Decoded<TxnResult> {
    if depth > MAX_TXN_DEPTH {
        return Err(DecodeError::Malformed);
    }
    Ok(TxnResult {
        revision: Revision(input.number()?),
        succeeded: input.flag()?,
        results: read_list(input, |input| read_op_result(input, depth))?,
    })
}

fn write_op_result(out: &mut Writer, result: &OpResult) {
    match result {
        OpResult::Range(range) => {
            out.byte(0);
            out.number(range.revision.0);
            out.number(range.count);
            out.byte(u8::from(range.more));
            write_list(out, &range.items, write_pair);
        }
        OpResult::Put { revision, previous } => {
            out.byte(1);
            out.number(revision.0);
            write_list(out, previous.as_slice(), write_pair);
        }
        OpResult::DeleteRange {
            revision,
            deleted,
            previous,
        } => {
            out.byte(2);
            out.number(revision.0);
            out.number(*deleted);
            write_list(out, previous, write_pair);
        }
        OpResult::Txn(result) => {
            out.byte(3);
            write_txn_result(out, result);
        }
    }
}

fn read_op_result(input: &mut Reader, depth: usize) -> Decoded<OpResult> {
    match input.byte()? {
        0 => {
            let revision = Revision(input.number()?);
            let count = input.number()?;
            let more = input.flag()?;
            let items = read_list(input, read_pair)?;
            Ok(OpResult::Range(RangeResult {
                revision,
                items,
                more,
                count,
            }))
        }
        1 => {
            let revision = Revision(input.number()?);
            let mut previous = read_list(input, read_pair)?;
            if previous.len() > 1 {
                return Err(DecodeError::Malformed);
            }
            Ok(OpResult::Put {
                revision,
                previous: previous.pop(),
            })
        }
        2 => Ok(OpResult::DeleteRange {
            revision: Revision(input.number()?),
            deleted: input.number()?,
            previous: read_list(input, read_pair)?,
        }),
        3 => Ok(OpResult::Txn(read_txn_result(input, depth + 1)?)),
        _ => Err(DecodeError::Malformed),
    }
}
