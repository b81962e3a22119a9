//! Between etcd's messages and the algebra of `trivet-mvcc`. Keys and values are shared, never
//! copied.

use trivet_datastore::{KeyValue, LeaseId, Revision, WatchEvent};
use trivet_mvcc as mvcc;

use super::status::Refusal;
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb;

/// A revision as the wire has it.
pub(crate) fn wire(revision: Revision) -> i64 {
    // Revisions count writes; 2^63 of them are out of reach.
    revision.0 as i64
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A revision given by a client; 0 and below mean "the newest".
fn at(revision: i64) -> Option<Revision> {
    (revision > 0).then_some(Revision(revision as u64))
}

fn lease(id: i64) -> Option<LeaseId> {
    (id != 0).then_some(LeaseId(id))
}

pub(crate) fn range_op(request: pb::RangeRequest) -> Result<mvcc::RangeOp, Refusal> {
    use pb::range_request::{SortOrder, SortTarget};
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    let sort_order = match SortOrder::try_from(request.sort_order) {
        Ok(SortOrder::None) => mvcc::SortOrder::None,
        Ok(SortOrder::Ascend) => mvcc::SortOrder::Ascend,
        Ok(SortOrder::Descend) => mvcc::SortOrder::Descend,
        Err(_) => return Err(Refusal::InvalidSortOption),
    };
    let sort_target = match SortTarget::try_from(request.sort_target) {
        Ok(SortTarget::Key) => mvcc::SortTarget::Key,
        Ok(SortTarget::Version) => mvcc::SortTarget::Version,
        Ok(SortTarget::Create) => mvcc::SortTarget::Create,
        Ok(SortTarget::Mod) => mvcc::SortTarget::Mod,
        Ok(SortTarget::Value) => mvcc::SortTarget::Value,
        Err(_) => return Err(Refusal::InvalidSortOption),
    };
    let (min_mod, max_mod) = filter(request.min_mod_revision, request.max_mod_revision);
    let (min_create, max_create) = filter(request.min_create_revision, request.max_create_revision);
    Ok(mvcc::RangeOp {
        range: mvcc::KeyRange::from_wire(request.key, request.range_end),
        revision: at(request.revision),
        limit: unsigned(request.limit),
        sort_order,
        sort_target,
        min_mod,
        max_mod,
        min_create,
        max_create,
        keys_only: request.keys_only,
        count_only: request.count_only,
    })
}

/// Bounds of revisions; 0 is none. Every revision is above a negative bound: as the lower one it
/// still makes a filter, as the upper one it leaves nothing.
fn filter(min: i64, max: i64) -> (u64, u64) {
    match (u64::try_from(min), u64::try_from(max)) {
        (_, Err(_)) => (u64::MAX, 0),
        (Ok(min), Ok(max)) => (min, max),
        (Err(_), Ok(max)) => (1, max),
    }
}

/// A range as a step of a transaction, where a negative revision is not the newest one but older
/// than every other.
fn range_step(request: pb::RangeRequest) -> Result<mvcc::RangeOp, Refusal> {
    let negative = request.revision < 0;
    let revision = Revision(request.revision as u64);
    let mut op = range_op(request)?;
    if negative {
        op.revision = Some(revision);
    }
    Ok(op)
}

pub(crate) fn put_op(request: pb::PutRequest) -> Result<mvcc::PutOp, Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Refusal::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Refusal::LeaseProvided);
    }
    Ok(mvcc::PutOp {
        key: request.key,
        value: request.value,
        lease: lease(request.lease),
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    })
}

pub(crate) fn delete_op(request: pb::DeleteRangeRequest) -> Result<mvcc::DeleteRangeOp, Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    Ok(mvcc::DeleteRangeOp {
        range: mvcc::KeyRange::from_wire(request.key, request.range_end),
        prev_kv: request.prev_kv,
    })
}

/// Converts and checks a transaction, in etcd's order: a nested one may have as many operations
/// as its parent's longest list leaves of `max_ops`. Conflicts between its steps are for
/// [`mvcc::Txn::validate`].
pub(crate) fn txn(request: pb::TxnRequest, max_ops: usize) -> Result<mvcc::Txn, Refusal> {
    let longest = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    let left = max_ops.checked_sub(longest).ok_or(Refusal::TooManyOps)?;
    Ok(mvcc::Txn {
        compare: request
            .compare
            .into_iter()
            .map(compare)
            .collect::<Result<_, _>>()?,
        success: request
            .success
            .into_iter()
            .map(|request| op(request, left))
            .collect::<Result<_, _>>()?,
        failure: request
            .failure
            .into_iter()
            .map(|request| op(request, left))
            .collect::<Result<_, _>>()?,
    })
}

fn op(request: pb::RequestOp, max_ops: usize) -> Result<mvcc::Op, Refusal> {
    use pb::request_op::Request;
    match request.request {
        Some(Request::RequestRange(request)) => range_step(request).map(mvcc::Op::Range),
        Some(Request::RequestPut(request)) => put_op(request).map(mvcc::Op::Put),
        Some(Request::RequestDeleteRange(request)) => delete_op(request).map(mvcc::Op::DeleteRange),
        Some(Request::RequestTxn(request)) => txn(request, max_ops).map(mvcc::Op::Txn),
        // etcd's own answer, odd as it is.
        None => Err(Refusal::KeyNotFound),
    }
}

fn compare(request: pb::Compare) -> Result<mvcc::Compare, Refusal> {
    use pb::compare::{CompareResult, CompareTarget, TargetUnion};
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    let op = match CompareResult::try_from(request.result) {
        Ok(CompareResult::Equal) => mvcc::CompareOp::Equal,
        Ok(CompareResult::Greater) => mvcc::CompareOp::Greater,
        Ok(CompareResult::Less) => mvcc::CompareOp::Less,
        Ok(CompareResult::NotEqual) => mvcc::CompareOp::NotEqual,
        Err(_) => mvcc::CompareOp::Always,
    };
    // A union that does not fit the target counts as not set: 0, or no bytes.
    let union = request.target_union;
    let target = match CompareTarget::try_from(request.target) {
        Ok(CompareTarget::Version) => mvcc::CompareTarget::Version(match union {
            Some(TargetUnion::Version(version)) => version,
            _ => 0,
        }),
        Ok(CompareTarget::Create) => mvcc::CompareTarget::Create(match union {
            Some(TargetUnion::CreateRevision(revision)) => revision,
            _ => 0,
        }),
        Ok(CompareTarget::Mod) => mvcc::CompareTarget::Mod(match union {
            Some(TargetUnion::ModRevision(revision)) => revision,
            _ => 0,
        }),
        Ok(CompareTarget::Value) => mvcc::CompareTarget::Value(match union {
            Some(TargetUnion::Value(value)) => value,
            _ => bytes::Bytes::new(),
        }),
        Ok(CompareTarget::Lease) => mvcc::CompareTarget::Lease(match union {
            Some(TargetUnion::Lease(id)) => id,
            _ => 0,
        }),
        Err(_) => mvcc::CompareTarget::Unknown,
    };
    Ok(mvcc::Compare {
        range: mvcc::KeyRange::from_wire(request.key, request.range_end),
        op,
        target,
    })
}

impl From<&mvcc::Error> for Refusal {
    fn from(error: &mvcc::Error) -> Self {
        match error {
            mvcc::Error::Compacted { .. } => Self::Compacted,
            mvcc::Error::FutureRevision { .. } => Self::FutureRevision,
            mvcc::Error::LeaseNotFound => Self::LeaseNotFound,
            mvcc::Error::LeaseExists => Self::LeaseExists,
            mvcc::Error::KeyNotFound => Self::KeyNotFound,
            mvcc::Error::Invalid(invalid) => Self::from(*invalid),
        }
    }
}

impl From<mvcc::Invalid> for Refusal {
    fn from(invalid: mvcc::Invalid) -> Self {
        match invalid {
            mvcc::Invalid::EmptyKey => Self::EmptyKey,
            mvcc::Invalid::ValueProvided => Self::ValueProvided,
            mvcc::Invalid::LeaseProvided => Self::LeaseProvided,
            mvcc::Invalid::TooManyOps | mvcc::Invalid::TooDeep => Self::TooManyOps,
            mvcc::Invalid::DuplicateKey => Self::DuplicateKey,
        }
    }
}

pub(crate) fn key_value(pair: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: pair.key,
        create_revision: wire(pair.create_revision),
        mod_revision: wire(pair.mod_revision),
        version: pair.version as i64,
        value: pair.value,
        lease: pair.lease.map_or(0, |id| id.0),
    }
}

fn key_values(pairs: Vec<KeyValue>) -> Vec<mvccpb::KeyValue> {
    pairs.into_iter().map(key_value).collect()
}

pub(crate) fn event(event: WatchEvent) -> mvccpb::Event {
    use mvccpb::event::EventType;
    let (kind, kv) = match event.kind {
        trivet_datastore::EventKind::Put => (EventType::Put, key_value(event.current)),
        trivet_datastore::EventKind::Delete => (
            EventType::Delete,
            mvccpb::KeyValue {
                key: event.current.key,
                mod_revision: wire(event.current.mod_revision),
                ..Default::default()
            },
        ),
    };
    mvccpb::Event {
        r#type: kind.into(),
        kv: Some(kv),
        prev_kv: event.previous.map(key_value),
    }
}

pub(crate) fn range_response(
    header: pb::ResponseHeader,
    result: mvcc::RangeResult,
) -> pb::RangeResponse {
    pb::RangeResponse {
        header: Some(header),
        kvs: key_values(result.items),
        more: result.more,
        count: result.count as i64,
    }
}

pub(crate) fn put_response(
    header: pb::ResponseHeader,
    previous: Option<KeyValue>,
) -> pb::PutResponse {
    pb::PutResponse {
        header: Some(header),
        prev_kv: previous.map(key_value),
    }
}

pub(crate) fn delete_response(
    header: pb::ResponseHeader,
    deleted: u64,
    previous: Vec<KeyValue>,
) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse {
        header: Some(header),
        deleted: deleted as i64,
        prev_kvs: key_values(previous),
    }
}

pub(crate) fn txn_response(header: pb::ResponseHeader, result: mvcc::TxnResult) -> pb::TxnResponse {
    pb::TxnResponse {
        header: Some(header),
        succeeded: result.succeeded,
        responses: result.results.into_iter().map(op_response).collect(),
    }
}

/// The header of a step within a transaction: only the revision is set.
fn inner(revision: Revision) -> pb::ResponseHeader {
    pb::ResponseHeader {
        revision: wire(revision),
        ..Default::default()
    }
}

fn op_response(result: mvcc::OpResult) -> pb::ResponseOp {
    use pb::response_op::Response;
    let response = match result {
        mvcc::OpResult::Range(result) => {
            Response::ResponseRange(range_response(inner(result.revision), result))
        }
        mvcc::OpResult::Put { revision, previous } => {
            Response::ResponsePut(put_response(inner(revision), previous))
        }
        mvcc::OpResult::DeleteRange {
            revision,
            deleted,
            previous,
        } => Response::ResponseDeleteRange(delete_response(inner(revision), deleted, previous)),
        mvcc::OpResult::Txn(result) => {
            Response::ResponseTxn(txn_response(pb::ResponseHeader::default(), result))
        }
    };
    pb::ResponseOp {
        response: Some(response),
    }
}
